//! Tries each configured dimension by a dry run once the gate is open. A name that AWS does not know is then reported
//! at the start, not when its first usage has become a dead letter.
//!
//! A wrong name is the seller's mistake: it is logged and counted, its usage is still accepted and kept, and the
//! buyer's gate stays open.

use std::sync::Arc;
use std::time::Duration;

use super::permission;
use crate::entitlement::{Proof, Watch};
use crate::metrics::Metrics;
use crate::random;
use tollgate_clock::{self as clock, WallClock};
use tollgate_marketplace::schedule;
use tollgate_marketplace::{Fault, FaultClass, Meter, Nonce, ProductCode, Signing, exceptions};

/// The pause between two dry runs. AWS accepts ten calls a second for each account and region, and the pods of an
/// account may start together, so one pod uses at most half of that.
pub const TRY_EVERY: Duration = Duration::from_millis(200);

/// AWS's exception for a dimension that the product does not have.
pub const UNKNOWN: &str = exceptions::UNKNOWN_DIMENSION;

/// Reports a dimension that AWS does not know.
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

/// What the trial needs.
pub struct Trial {
    /// The metering service.
    pub aws: Arc<dyn Meter>,
    /// The product.
    pub product_code: ProductCode,
    /// Wall time.
    pub clock: WallClock,
    /// The metrics.
    pub metrics: Arc<Metrics>,
}

impl Trial {
    /// Tries each of `dimensions` once the gate has opened, except those that the gate's own dry run has tried.
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

    /// Repeats the dry run until AWS has accepted or rejected the dimension, or has rejected the call for another
    /// reason.
    async fn try_one(&self, dimension: &str) {
        let began = clock::monotonic();
        loop {
            let draw = random::draw();
            tokio::time::sleep(TRY_EVERY.mul_f64(1.0 + draw.fraction())).await;
            let Some(fault) = self.dry_run(dimension).await else { return };
            match fault.class {
                _ if fault.code.as_str() == UNKNOWN => return name_unknown(&self.metrics, dimension),
                // About the call, not about the dimension; registration and usage reports show the same fault.
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
        // Nothing depends on the token of a dry run, so without entropy the same one is used each time.
        let token = Nonce::from_random(random::bytes().unwrap_or_default());
        let request = permission::dry_run(&self.product_code, dimension, self.clock.now(), token.as_str());
        self.aws.meter_usage(request, Signing::default()).await.err()
    }
}

/// The dimensions after the one that the gate's dry run succeeded with; it has tried those before it.
fn untried(dimensions: Vec<String>, proof: Option<&Proof>) -> Vec<String> {
    let answered = match proof {
        Some(Proof::Permission(permission)) => {
            dimensions.iter().position(|dimension| dimension == permission.dimension()).map_or(0, |at| at + 1)
        }
        _ => 0,
    };
    dimensions.into_iter().skip(answered).collect()
}
