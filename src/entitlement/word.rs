//! AWS's latest word about the entitlement from whoever hears it after the gate has opened: the reports of usage.

use tokio::sync::watch;

use crate::marketplace::FaultCode;

/// What was heard last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Word {
    /// AWS's exception, while its latest word is a refusal.
    pub refusal: Option<FaultCode>,
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
