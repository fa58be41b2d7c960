//! Another engine than the file: a program that has one hands it to the sidecar's code as an [`Engine`]. The sidecar
//! itself has none.
//!
//! A ledger is named by a file with its URL. The URL may hold a password, so it is never an argument, and the file is
//! read again for each connection.

use std::fmt::Debug;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use super::store::{Store, StoreFuture, View};
use super::writer::Observer;
use super::{LedgerError, LedgerSettings, Totals};
use tollgate_clock::WallClock;
use tollgate_marketplace::service::BoxFuture;

/// An engine for a ledger that several processes share.
pub trait Engine: Debug + Send + Sync {
    /// Why this text is not a URL of a ledger: what follows the name of what holds it. Shows nothing of the text.
    fn check_url(&self, url: &str) -> Result<(), String>;

    /// Opens the ledger for a running process, and returns before it is connected: see [`Store::ready`]. `clock`
    /// follows the ledger's time. Call it inside the runtime.
    fn open(
        &self,
        url_file: PathBuf,
        settings: LedgerSettings,
        clock: WallClock,
        observer: Box<dyn Observer>,
    ) -> Arc<dyn Store>;

    /// Connects once, for a command. Without settings nothing is changed, and no repair is made.
    fn look(&self, url_file: PathBuf, to_repair: Option<LedgerSettings>) -> StoreFuture<'_, Box<dyn View>>;

    /// Checks for `doctor`, in the order in which they were made; the first fault ends them.
    fn examine(&self, url_file: PathBuf, ledger: LedgerSettings) -> BoxFuture<'_, Vec<Examined>>;

    /// Moves the ledger of a sidecar that does not run from its state folder to the database of this URL, or goes on
    /// with a move that was interrupted. `said` receives lines for the person who waits.
    fn take_over<'a>(
        &'a self,
        folder: PathBuf,
        url: String,
        said: &'a mut dyn FnMut(String),
    ) -> MoveFuture<'a>;
}

/// The future of a move. A file's connection stays in its thread.
pub type MoveFuture<'a> = Pin<Box<dyn Future<Output = Result<Moved, LedgerError>> + 'a>>;

/// What was moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// Idempotency keys.
    pub keys: u64,
    /// Records in all states.
    pub records: u64,
    /// Each dimension's balance, the same before and after.
    pub totals: Vec<(String, Totals)>,
}

/// How a check of `doctor` ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grade {
    /// Nothing to do.
    Ok,
    /// It works, and somebody should know.
    Warning,
    /// Usage is not taken.
    Fault,
}

/// One check of `doctor`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examined {
    /// What was checked, such as `database clock`.
    pub check: &'static str,
    /// How it ended.
    pub grade: Grade,
    /// What was seen.
    pub seen: String,
    /// What to do; empty for [`Grade::Ok`].
    pub remedy: String,
}
