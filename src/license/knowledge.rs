//! What mode `contract` knows of its license, for `GET /v1/license`, `tollgate license` and the metrics.
//!
//! One writer, the loop in [`super`], publishes it as a whole. It contains no token, so a reader can neither renew a
//! seat nor give one back.

use std::sync::Arc;

use tokio::sync::watch;

use tollgate_marketplace::license::{Entitlement, EntitlementUsage, ReceivedLicense};
use tollgate_time::Timestamp;

/// What is known of the license.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Knowledge {
    /// Every license of the product and issuer in the latest successful listing.
    pub licenses: Vec<ReceivedLicense>,
    /// The ARN of the chosen license: the best of the listing, or the one that AWS granted seats of.
    pub chosen: Option<String>,
    /// How much of the chosen license all pods have taken; empty until AWS has said so.
    pub usage: Vec<EntitlementUsage>,
    /// The seats that this pod holds; always empty with `license_model` `check`.
    pub held: Vec<HeldSeats>,
    /// When [`licenses`](Self::licenses) was read.
    pub known_at: Option<Timestamp>,
    /// When AWS last granted a round.
    pub granted_at: Option<Timestamp>,
    /// Whether any answer came from the emulator.
    pub emulated: bool,
}

/// Seats of one dimension that this pod holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldSeats {
    /// The dimension's name.
    pub name: String,
    /// The unit, as AWS spells it.
    pub unit: String,
    /// How many.
    pub quantity: u64,
    /// When they expire, unless they are renewed.
    pub expires: Timestamp,
    /// When they were taken, or last renewed.
    pub renewed: Timestamp,
}

/// One dimension of the license.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seats<'a> {
    /// The license's entitlement for the dimension.
    pub entitlement: &'a Entitlement,
    /// How many seats there are; `None` without a limit, and for a tier.
    pub max: Option<u64>,
    /// How many of them all pods have taken; `None` until AWS has said so, and for a tier.
    pub used: Option<u64>,
    /// How many of them this pod holds.
    pub held: u64,
}

impl Knowledge {
    /// The chosen license.
    #[must_use]
    pub fn license(&self) -> Option<&ReceivedLicense> {
        let chosen = self.chosen.as_deref()?;
        self.licenses.iter().find(|license| license.arn == chosen)
    }

    /// Each dimension of the chosen license, in the license's order.
    pub fn seats(&self) -> impl Iterator<Item = Seats<'_>> {
        self.license().into_iter().flat_map(|license| &license.entitlements).map(|entitlement| {
            let counted = entitlement.unit.is_none_or(|unit| !unit.is_tier());
            let used = self.usage.iter().find(|usage| usage.name == entitlement.name).filter(|_| counted);
            let held = self.held.iter().filter(|held| held.name == entitlement.name);
            Seats {
                entitlement,
                max: entitlement.max_count.filter(|max| counted && *max > 0),
                used: used.map(|usage| usage.consumed),
                held: held.map(|held| held.quantity).sum(),
            }
        })
    }

    /// When the contract ends; `None` if it has no end, or no license is chosen.
    #[must_use]
    pub fn end(&self) -> Option<Timestamp> {
        self.license().and_then(|license| license.end)
    }
}

/// The sender of the knowledge.
pub type KnowledgePublisher = watch::Sender<Arc<Knowledge>>;
/// A receiver of the knowledge.
pub type Held = watch::Receiver<Arc<Knowledge>>;

/// A channel that begins with nothing known.
#[must_use]
pub fn channel() -> (KnowledgePublisher, Held) {
    watch::channel(Arc::default())
}
