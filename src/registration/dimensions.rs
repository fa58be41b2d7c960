//! Tries each configured dimension by a dry run once the gate is open, so that a name that AWS does not know is
//! reported at the start, not when its first usage has become a dead letter.
//!
//! A wrong name is the seller's mistake: it is logged and counted, its usage is still taken and kept, and the buyer's
//! gate stays open.

use std::sync::Arc;
use std::time::Duration;

use super::permission;
use crate::entitlement::{Proof, Watch};
use crate::metrics::Metrics;
use crate::random;
use tollgate_clock::{self as clock, WallClock};
use tollgate_marketplace::schedule;
use tollgate_marketplace::{Fault, FaultClass, Meter, Nonce, ProductCode, Signing, exceptions};

/// AWS takes ten calls a second for each account and region, and the pods of an account start together: a pod takes
/// half of that at most.
pub const TRY_EVERY: Duration = Duration::from_millis(200);

/// What AWS answers to a dimension that the product does not have.
pub const UNKNOWN: &str = exceptions::UNKNOWN_DIMENSION;

/// Names a dimension that AWS does not know.
pub fn name_unknown(metrics: &Metrics, dimension: &str) {
    metrics.dimension_unknown(dimension);
    tracing::error!(
        event = "dimension_unknown",
        dimension,
        code = UNKNOWN,
        "AWS does not know this usage dimension for the product: its usage is kept but cannot be billed; tell the \
         seller"
    );
}

/// What trying needs.
pub struct Trial {
    /// The service that is asked.
    pub aws: Arc<dyn Meter>,
    /// The product.
    pub product_code: ProductCode,
    /// Wall time.
    pub clock: WallClock,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

impl Trial {
    /// Tries each of `dimensions` once the gate has opened, which its own question comes before.
    pub async fn run(self, dimensions: Vec<String>, mut entitlement: Watch) {
        let untried = match entitlement.wait_for(|fact| fact.has_opened).await {
            Ok(fact) => untried(dimensions, fact.standing.proof().map(AsRef::as_ref)),
            // The process ends.
            Err(_) => return,
        };
        for dimension in untried {
            self.try_one(&dimension).await;
        }
        tracing::info!(event = "dimensions_tried", "every configured dimension was tried at AWS");
    }

    /// Asks until AWS has answered about this dimension, or has said what it would say of any.
    async fn try_one(&self, dimension: &str) {
        let began = clock::monotonic();
        loop {
            let draw = random::draw();
            tokio::time::sleep(TRY_EVERY.mul_f64(1.0 + draw.fraction())).await;
            let Some(fault) = self.dry_run(dimension).await else { return };
            match fault.class {
                _ if fault.code.as_str() == UNKNOWN => return name_unknown(&self.metrics, dimension),
                // Said of the call, not of the dimension; the gate's own question and the reports tell it.
                FaultClass::Denied | FaultClass::Misconfigured => {
                    tracing::warn!(event = "dimension_untried", dimension, code = %fault.code, "AWS did not say whether it knows the dimension");
                    return;
                }
                FaultClass::Access | FaultClass::ExpiredSession | FaultClass::Transient => {
                    let waited = clock::monotonic().duration_since(began);
                    tokio::time::sleep(schedule::transient(waited, draw)).await;
                }
            }
        }
    }

    async fn dry_run(&self, dimension: &str) -> Option<Fault> {
        // Nothing depends on the token of a dry run: without entropy it is the same one each time.
        let token = Nonce::from_random(random::bytes().unwrap_or_default());
        let request = permission::dry_run(&self.product_code, dimension, self.clock.now(), token.as_str());
        self.aws.meter_usage(request, Signing::default()).await.err()
    }
}

/// The gate's question was about the first dimension that AWS knows, and those before it.
fn untried(dimensions: Vec<String>, proof: Option<&Proof>) -> Vec<String> {
    let answered = match proof {
        Some(Proof::Permission(permission)) => {
            dimensions.iter().position(|dimension| dimension == permission.dimension()).map_or(0, |at| at + 1)
        }
        _ => 0,
    };
    dimensions.into_iter().skip(answered).collect()
}
