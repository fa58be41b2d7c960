//! What the reports of usage say about the entitlement after the gate has opened: AWS's latest refusal, and usage that
//! AWS has not accepted for longer than the seller allows.

use tokio::sync::watch;

use tollgate_marketplace::FaultCode;

/// What was heard last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Word {
    /// AWS's exception, while its latest word is a refusal.
    pub refusal: Option<FaultCode>,
    /// AWS has not accepted this pod's usage for longer than the seller allows (`on_unsent`).
    pub unreported: bool,
    /// Some answer came from the emulator.
    pub emulated: bool,
}

/// The end that tells.
pub type Tell = watch::Sender<Word>;
/// The end that hears.
pub type Hear = watch::Receiver<Word>;

/// A channel on which nothing was said yet.
#[must_use]
pub fn channel() -> (Tell, Hear) {
    watch::channel(Word::default())
}
