//! The ledger as the parts of a process see it: [`View`] for people, [`Store`] for intake and sender. Each engine
//! implements both with the same meaning: SQLite for one process (`writer`), another one for several replicas
//! (`engine`).
//!
//! The traits hand out no connection and no transaction: each method is one step that an engine commits as a whole.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::watch;
use tokio::time::Instant;

use super::repair::{Entry, Repair, Repaired};
use super::view::{From, Looked, OpenSlot, Piece};
use super::{Database, Flushed, LedgerError, Links, Sealing, Summary, Taken, Totals};
use tollgate_marketplace::lifecycle::{Effect, LicenseState, LifecycleEvent, NamedLicense};
use tollgate_marketplace::service::BoxFuture;
use tollgate_marketplace::{Hour, Region};
use tollgate_metering::event::Event;
use tollgate_metering::record::{Due, Noted, Record, Whole};
use tollgate_time::Timestamp;

/// The future of a step.
pub type StoreFuture<'a, T> = BoxFuture<'a, Result<T, LedgerError>>;

/// Held for a request's events until they are committed: their part of the budget for request bodies. It travels with
/// the events, so a client that gives up frees nothing while its events wait here.
pub type Guard = Box<dyn Send>;

/// What people read in the ledger, and their repairs.
pub trait View: Debug + Send + Sync {
    /// One record with its allocations, and the records that it is linked to.
    fn record(&self, id: i64) -> StoreFuture<'_, Option<(Whole, Links)>>;

    /// Each dimension's balance.
    fn totals(&self) -> StoreFuture<'_, BTreeMap<String, Totals>>;

    /// The ledger's figures.
    fn summary(&self) -> StoreFuture<'_, Summary>;

    /// The newest of the wanted records, at most `limit`, newest first. The piece is shorter if the next row would
    /// delay an acknowledgement; the next piece begins before its `next`.
    fn page(&self, looked: Looked, limit: usize) -> StoreFuture<'_, Piece<Record, i64>>;

    /// The audit's lines, newest first; only those with a number below `before`.
    fn audit(&self, before: Option<i64>, limit: usize) -> StoreFuture<'_, Vec<Entry>>;

    /// Usage that is not sealed and what would be billed of it, in pieces as [`View::page`]: whole slots, with at most
    /// `limit` sets of tags together. The first slot may have more by itself.
    fn open_slots(&self, looked: Looked, from: From, limit: usize) -> StoreFuture<'_, Piece<OpenSlot, From>>;

    /// Repairs one record.
    fn repair(&self, id: i64, repair: Repair, now: Timestamp) -> StoreFuture<'_, Repaired>;
}

/// A file that is open while no sidecar runs.
impl View for Mutex<Database> {
    fn record(&self, id: i64) -> StoreFuture<'_, Option<(Whole, Links)>> {
        ready(open(self).linked_record(id))
    }

    fn totals(&self) -> StoreFuture<'_, BTreeMap<String, Totals>> {
        ready(open(self).totals())
    }

    fn summary(&self) -> StoreFuture<'_, Summary> {
        ready(open(self).summary())
    }

    fn page(&self, looked: Looked, limit: usize) -> StoreFuture<'_, Piece<Record, i64>> {
        ready(open(self).page(&looked, limit))
    }

    fn audit(&self, before: Option<i64>, limit: usize) -> StoreFuture<'_, Vec<Entry>> {
        ready(open(self).audit(before, limit))
    }

    fn open_slots(&self, looked: Looked, from: From, limit: usize) -> StoreFuture<'_, Piece<OpenSlot, From>> {
        ready(open(self).read_open(None, &looked, &from, limit))
    }

    fn repair(&self, id: i64, repair: Repair, now: Timestamp) -> StoreFuture<'_, Repaired> {
        ready(open(self).repair(id, &repair, now))
    }
}

fn open(file: &Mutex<Database>) -> MutexGuard<'_, Database> {
    file.lock().expect("a step that panics ends the command")
}

fn ready<T: Send + 'static>(done: Result<T, LedgerError>) -> StoreFuture<'static, T> {
    Box::pin(future::ready(done))
}

/// The ledger of a running process. The steps from [`Store::seal`] on are the sender's: they need [`Store::lead`].
pub trait Store: View {
    /// Waits until the ledger can be used; an error if waiting does not help. Before that, each step says why it
    /// cannot.
    fn ready(&self) -> StoreFuture<'_, ()>;

    /// Makes sure that the clock shows the ledger's time; an error says why that is not known. Events are judged by
    /// their age, and the clock of one of several processes may be wrong until it follows.
    fn time_known(&self) -> StoreFuture<'_, ()> {
        ready(Ok(()))
    }

    /// Waits until this process is the one that seals and sends, through failures that pass. With SQLite it always is.
    fn lead(&self) -> StoreFuture<'_, ()>;

    /// The process stops: lets another one lead at once. Afterwards [`Store::lead`] waits for ever.
    fn leave(&self) -> BoxFuture<'_, ()>;

    /// Whether other processes use the ledger at the same time: then a process that stops leaves the open hour to them.
    fn is_shared(&self) -> bool;

    /// Counts the time of the open gate, also if the ledger is full: it needs a row for each dimension and hour, and
    /// nobody would send it again. So who fills the ledger with events does not stop the time.
    fn take_time(&self, events: Vec<Event>, now: Timestamp) -> StoreFuture<'_, Vec<Taken>>;

    /// A handle for tasks that look from time to time: its use does not wake the other tasks.
    fn unnoticed(&self) -> Arc<dyn Store>;

    /// Changes when a handle other than one of [`Store::unnoticed`] has used the ledger. A task that looks at the
    /// ledger from time to time may pause until then.
    fn uses(&self) -> watch::Receiver<()>;

    /// While this number stays the same, what was read before is still current. Reading it wakes no task.
    fn written(&self) -> u64;

    /// The latest error of the ledger, if it happened after `since` and nothing was written after it.
    fn failed_since(&self, since: Instant) -> Option<LedgerError>;

    /// Counts events; on return they are committed. `guard` is dropped when they are committed or have failed, whether
    /// or not the caller still waits.
    fn take(&self, events: Vec<Event>, guard: Guard) -> StoreFuture<'_, Vec<Taken>>;

    /// Counts all of these events, or none if one of them cannot be counted.
    fn take_whole(&self, events: Vec<Event>, guard: Guard) -> StoreFuture<'_, Vec<Taken>>;

    /// Notes the account of a legacy identifier, as `ResolveCustomer` answered.
    fn identify(&self, identifier: String, account: String) -> StoreFuture<'_, ()>;

    /// The steps about licenses.
    fn lifecycle(&self) -> &dyn Lifecycle;

    /// Closes every hour whose time has come and seals some of its slots; with `early` also slots of the open hour.
    /// Call again while there is more.
    fn seal(&self, early: bool, now: Timestamp) -> StoreFuture<'_, Sealing>;

    /// Unsent records that are due, those that have waited longest first.
    fn due(&self, now: Timestamp, limit: usize) -> StoreFuture<'_, Vec<Due>>;

    /// Records in doubt, due or not, those that have waited longest first.
    fn doubtful(&self, limit: usize) -> StoreFuture<'_, Vec<Due>>;

    /// Unsent records of this and earlier hours, oldest first.
    fn unsent_up_to(&self, hour: Hour, limit: usize) -> StoreFuture<'_, Vec<Due>>;

    /// How many records of this and earlier hours are unsent.
    fn count_unsent_up_to(&self, hour: Hour) -> StoreFuture<'_, u64>;

    /// When the next unsent record is due.
    fn next_due(&self) -> StoreFuture<'_, Option<Timestamp>>;

    /// Whether AWS's latest answer that accepted or denied usage was a denial.
    fn is_denied(&self) -> StoreFuture<'_, bool>;

    /// Makes at most `limit` waiting records due at once, those with the earliest due time first. Returns how many:
    /// call again until it returns 0.
    fn release(&self, now: Timestamp, limit: usize) -> StoreFuture<'_, usize>;

    /// Sets the due times of unsent records.
    fn defer(&self, until: Vec<(i64, Timestamp)>) -> StoreFuture<'_, ()>;

    /// Of these records, reads those that are unsent and fit into one call, and commits that they are about to be sent
    /// to `region`, or to the region of an earlier attempt.
    fn begin(&self, ids: Vec<i64>, region: Option<Region>, now: Timestamp) -> StoreFuture<'_, Vec<Whole>>;

    /// Commits answers or decisions together. `region`: where the calls went, for records that were sent before it was
    /// known.
    fn answered_all(&self, notes: Vec<Noted>, region: Option<Region>, now: Timestamp) -> StoreFuture<'_, ()>;
}

/// What AWS Marketplace says about licenses, and reports before an hour's end. Any process may take these steps,
/// whether or not it leads.
///
/// [`Store::take`] answers [`Taken::Deprovisioned`] for usage that [`LicenseState::takes`] excludes, unless its key is
/// known.
pub trait Lifecycle: Send + Sync {
    /// Whether an event of this id was processed.
    fn knows_event(&self, id: String) -> StoreFuture<'_, bool>;

    /// Notes an event and what it says about a license, in one transaction: an event is processed once.
    fn note_event(&self, event: LifecycleEvent, now: Timestamp) -> StoreFuture<'_, Effect>;

    /// What is known about a license, by the id that `license_id` gives.
    fn license(&self, license: String) -> StoreFuture<'_, Option<LicenseState>>;

    /// The legacy identifiers of an account that [`Store::identify`] has noted.
    fn identifiers(&self, account: String) -> StoreFuture<'_, Vec<String>>;

    /// Licenses that ended less than AWS's final window ago: usage of them may still be reported.
    fn ending(&self, now: Timestamp) -> StoreFuture<'_, Vec<NamedLicense>>;

    /// Seals slots of these customers in the open hour and before it, and lets their records be sent first. Later usage
    /// of a sealed slot counts to the next hour. Call again while there is more. If another process leads, the step
    /// waits some seconds until that one has sealed them.
    fn flush(&self, customers: Vec<String>, now: Timestamp) -> StoreFuture<'_, Flushed>;
}
