//! What mode `contract` knows of its license, for those who show it: `GET /v1/license`, `tollgate license`, metrics.
//!
//! One writer, the loop in [`super`], publishes it whole. It holds no token: its readers can neither keep a seat nor
//! give one back.

use std::sync::Arc;

use tokio::sync::watch;

use tollgate_marketplace::license::{Entitlement, EntitlementUsage, ReceivedLicense};
use tollgate_time::Timestamp;

/// What is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Knowledge {
    /// Every license of the product and issuer in the latest listing that AWS answered.
    pub licenses: Vec<ReceivedLicense>,
    /// The ARN of the one that counts: the best of them, or the one that AWS gave seats of.
    pub chosen: Option<String>,
    /// What is taken of that one, by all pods; empty while AWS has not said.
    pub usage: Vec<EntitlementUsage>,
    /// What this pod holds; always empty in model `check`.
    pub held: Vec<HeldSeats>,
    /// When [`licenses`](Self::licenses) were read.
    pub known_at: Option<Timestamp>,
    /// When AWS last granted a round.
    pub granted_at: Option<Timestamp>,
    /// Some answer came from the emulator.
    pub emulated: bool,
}

/// Seats of one dimension that this pod holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldSeats {
    /// The dimension's name.
    pub name: String,
    /// AWS's spelling.
    pub unit: String,
    /// How many.
    pub quantity: u64,
    /// When they end by themselves, unless they are renewed.
    pub expires: Timestamp,
    /// When they were taken, or last renewed.
    pub renewed: Timestamp,
}

/// One dimension of the license, with all that is known of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seats<'a> {
    /// The dimension as the license has it.
    pub entitlement: &'a Entitlement,
    /// How many there are; `None` without limit, and for a tier.
    pub max: Option<u64>,
    /// How many all pods have taken; `None` while AWS has not said, and for a tier.
    pub used: Option<u64>,
    /// How many of them this pod holds.
    pub held: u64,
}

impl Knowledge {
    /// The license that counts.
    #[must_use]
    pub fn license(&self) -> Option<&ReceivedLicense> {
        let chosen = self.chosen.as_deref()?;
        self.licenses.iter().find(|license| license.arn == chosen)
    }

    /// Each dimension of the license that counts, in its order.
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

    /// When the contract ends; `None` for no end, and while no license counts.
    #[must_use]
    pub fn end(&self) -> Option<Timestamp> {
        self.license().and_then(|license| license.end)
    }
}

/// The publishing end.
pub type KnowledgePublisher = watch::Sender<Arc<Knowledge>>;
/// The reading end.
pub type Held = watch::Receiver<Arc<Knowledge>>;

/// A channel on which nothing is known yet.
#[must_use]
pub fn channel() -> (KnowledgePublisher, Held) {
    watch::channel(Arc::default())
}
