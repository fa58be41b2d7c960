//! What the reports of usage say about the entitlement after the gate has opened: AWS's latest refusal, and usage that
//! is not billed for longer than the seller allows.

use tokio::sync::watch;

use tollgate_marketplace::FaultCode;

/// Why usage is not billed for longer than the seller allows (`on_unsent`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreported {
    /// AWS has not accepted it.
    NotAccepted,
    /// The ledger does not take it: it is full, or cannot be written.
    NotTaken,
}

/// The latest answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Word {
    /// AWS's exception, while its latest answer is a refusal.
    pub refusal: Option<FaultCode>,
    /// This pod's usage is not billed for longer than the seller allows.
    pub unreported: Option<Unreported>,
    /// Some answer came from the emulator.
    pub emulated: bool,
}

/// The end that tells.
pub type Tell = watch::Sender<Word>;
/// The receiver.
pub type Hear = watch::Receiver<Word>;

/// A channel on which nothing was said yet.
#[must_use]
pub fn channel() -> (Tell, Hear) {
    watch::channel(Word::default())
}
