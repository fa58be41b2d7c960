//! What usage reports tell the gate after it has opened: that AWS refuses the reports, and that usage has not been
//! billed for longer than the seller allows.

use tokio::sync::watch;

use tollgate_marketplace::FaultCode;

/// Why usage has not been billed for longer than the seller allows (`on_unsent`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreported {
    /// AWS has not accepted it.
    NotAccepted,
    /// The ledger does not accept it: it is full, or cannot be written.
    NotTaken,
}

/// The latest update.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Word {
    /// AWS's exception, if its latest answer is a refusal.
    pub refusal: Option<FaultCode>,
    /// Why usage has not been billed for longer than the seller allows, if so.
    pub unreported: Option<Unreported>,
    /// Whether any answer came from the emulator.
    pub emulated: bool,
}

/// The sender.
pub type Tell = watch::Sender<Word>;
/// The receiver.
pub type Hear = watch::Receiver<Word>;

/// A channel with an empty update.
#[must_use]
pub fn channel() -> (Tell, Hear) {
    watch::channel(Word::default())
}
