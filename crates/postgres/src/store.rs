//! The ledger of a running replica, as the rest of the process sees it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;
use tokio::time::Instant;

use tollgate_clock::{self as clock, WallClock};
use tollgate_ledger::repair::{Entry, Repair, Repaired};
use tollgate_ledger::store::{Guard, Lifecycle, Store, StoreFuture, View};
use tollgate_ledger::view::{From, Looked, OpenSlot, Piece};
use tollgate_ledger::writer::Observer;
use tollgate_ledger::{Flushed, LedgerError, Links, Sealing, Summary, Taken, Totals};
use tollgate_marketplace::lifecycle::{Effect, LicenseState, LifecycleEvent, NamedLicense};
use tollgate_marketplace::service::BoxFuture;
use tollgate_marketplace::{Hour, Region};
use tollgate_metering::event::Event;
use tollgate_metering::record::{Due, Noted, Record, Whole};
use tollgate_time::Timestamp;

use crate::connect::Fault;
use crate::counter::WriterSettings;
use crate::identities::{identifiers, identify};
use crate::writer::{ANSWER_WITHIN, Writer};
use crate::{PostgresLedger, PostgresSettings, lifecycle};

/// A handle to the ledger of a running replica.
#[derive(Debug, Clone)]
pub struct PostgresStore {
    shared: Arc<Shared>,
    unnoticed: bool,
}

#[derive(Debug)]
struct Shared {
    ledger: PostgresLedger,
    writer: Writer,
    /// Follows the database's time.
    clock: WallClock,
    uses: watch::Sender<()>,
    /// Steps of this process that may have changed the ledger.
    steps: AtomicU64,
    began: Instant,
}

impl PostgresStore {
    /// Starts the replica's tasks; call it inside the runtime. It connects when it is used. `clock` follows the
    /// database's time.
    #[must_use]
    pub fn start(settings: &PostgresSettings, clock: WallClock, observer: Box<dyn Observer>) -> Self {
        let connector = Arc::new(settings.connector());
        let writer = WriterSettings {
            name: settings.name.clone(),
            product: settings.ledger.product.clone(),
            settle: settings.ledger.settle,
            rules: settings.ledger.rules.clone(),
        };
        let shared = Shared {
            writer: Writer::start(connector, writer, clock.clone(), observer),
            ledger: PostgresLedger::with_clock(settings, clock.clone()),
            clock,
            uses: watch::Sender::default(),
            steps: AtomicU64::new(0),
            began: clock::monotonic(),
        };
        Self { shared: Arc::new(shared), unnoticed: false }
    }

    /// Awaits a step, and notes that the ledger was used.
    fn step<'a, T: Send + 'a>(
        &'a self,
        changes: bool,
        step: impl Future<Output = Result<T, LedgerError>> + Send + 'a,
    ) -> StoreFuture<'a, T> {
        Box::pin(async move {
            let done = step.await.map_err(passing)?;
            if changes {
                self.shared.steps.fetch_add(1, Ordering::Release);
            }
            if !self.unnoticed {
                self.shared.uses.send_replace(());
            }
            Ok(done)
        })
    }
}

/// This replica has used the database before. A password that was replaced, or a privilege that was taken, is waited
/// out like any other failure: a person mends it without a restart.
fn passing(error: LedgerError) -> LedgerError {
    match error {
        LedgerError::Unusable(text) => LedgerError::Io(text),
        error => error,
    }
}

impl View for PostgresStore {
    fn record(&self, id: i64) -> StoreFuture<'_, Option<(Whole, Links)>> {
        self.step(false, self.shared.ledger.record(id))
    }

    fn totals(&self) -> StoreFuture<'_, BTreeMap<String, Totals>> {
        self.step(false, self.shared.ledger.totals())
    }

    fn summary(&self) -> StoreFuture<'_, Summary> {
        self.step(false, self.shared.ledger.summary())
    }

    fn page(&self, looked: Looked, limit: usize) -> StoreFuture<'_, Piece<Record, i64>> {
        self.step(false, self.shared.ledger.page(looked, limit))
    }

    fn audit(&self, before: Option<i64>, limit: usize) -> StoreFuture<'_, Vec<Entry>> {
        self.step(false, self.shared.ledger.audit(before, limit))
    }

    fn open_slots(&self, looked: Looked, from: From, limit: usize) -> StoreFuture<'_, Piece<OpenSlot, From>> {
        self.step(false, self.shared.ledger.open_slots(looked, from, limit))
    }

    fn repair(&self, id: i64, repair: Repair, now: Timestamp) -> StoreFuture<'_, Repaired> {
        self.step(true, self.shared.ledger.repair(id, repair, now))
    }
}

impl Lifecycle for PostgresStore {
    fn knows_event(&self, id: String) -> StoreFuture<'_, bool> {
        self.step(false, async move { lifecycle::knows_event(&self.shared.ledger.views, &id).await })
    }

    fn note_event(&self, event: LifecycleEvent, now: Timestamp) -> StoreFuture<'_, Effect> {
        self.step(true, async move { lifecycle::note_event(&self.shared.ledger.views, &event, now).await })
    }

    fn license(&self, license: String) -> StoreFuture<'_, Option<LicenseState>> {
        self.step(false, async move { lifecycle::license(&self.shared.ledger.views, &license).await })
    }

    fn identifiers(&self, account: String) -> StoreFuture<'_, Vec<String>> {
        self.step(false, async move { identifiers(&self.shared.ledger.views, &account).await })
    }

    fn ending(&self, now: Timestamp) -> StoreFuture<'_, Vec<NamedLicense>> {
        self.step(false, lifecycle::ending(&self.shared.ledger.views, now))
    }

    /// The database's time decides which hour is open.
    fn flush(&self, customers: Vec<String>, _now: Timestamp) -> StoreFuture<'_, Flushed> {
        let PostgresLedger { views, leader } = &self.shared.ledger;
        self.step(true, async move {
            let flush = tokio::time::timeout(ANSWER_WITHIN, lifecycle::flush(views, leader, &customers));
            flush.await.unwrap_or_else(|_| {
                Err(LedgerError::Io(format!(
                    "the database did not answer within {ANSWER_WITHIN:?}; what was open may be closed already, ask again"
                )))
            })
        })
    }
}

impl Store for PostgresStore {
    fn ready(&self) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            let mut told = None;
            loop {
                match self.shared.ledger.views.now().await {
                    Ok(now) => {
                        self.shared.clock.follow(now);
                        return Ok(());
                    }
                    Err(fault @ Fault::Lasting(_)) => return Err(fault.into()),
                    Err(Fault::Transient(error)) => {
                        if told.as_ref() != Some(&error) {
                            tracing::warn!(
                                event = "ledger_not_reached",
                                error,
                                "the ledger cannot be used yet, and the gate stays shut: check the database, its address and the network; will retry"
                            );
                        }
                        told = Some(error);
                        self.shared.ledger.views.may_try().await;
                    }
                }
            }
        })
    }

    fn time_known(&self) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            if !self.shared.clock.is_read() {
                let now = tokio::time::timeout(ANSWER_WITHIN, self.shared.ledger.views.now());
                let late =
                    |_| LedgerError::Io(format!("the database did not answer within {ANSWER_WITHIN:?}"));
                self.shared.clock.follow(now.await.map_err(late)??);
            }
            Ok(())
        })
    }

    fn lead(&self) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            while let Err(error) = self.shared.ledger.leader.lead().await {
                match passing(error) {
                    LedgerError::Io(_) => self.shared.ledger.views.may_try().await,
                    error => return Err(error),
                }
            }
            Ok(())
        })
    }

    fn leave(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.shared.ledger.leader.leave())
    }

    fn is_shared(&self) -> bool {
        true
    }

    /// The ledger's time is the database's, and it has no size that a setting limits.
    fn take_time(&self, events: Vec<Event>, _: Timestamp) -> StoreFuture<'_, Vec<Taken>> {
        self.take(events, Box::new(()))
    }

    fn unnoticed(&self) -> Arc<dyn Store> {
        Arc::new(Self { unnoticed: true, ..self.clone() })
    }

    fn uses(&self) -> watch::Receiver<()> {
        self.shared.uses.subscribe()
    }

    /// Other replicas write too, so it changes with each second.
    fn written(&self) -> u64 {
        let own = self.shared.steps.load(Ordering::Acquire);
        own + clock::monotonic().duration_since(self.shared.began).as_secs()
    }

    fn failed_since(&self, since: Instant) -> Option<LedgerError> {
        self.shared.writer.failed_since(since)
    }

    fn take(&self, events: Vec<Event>, guard: Guard) -> StoreFuture<'_, Vec<Taken>> {
        self.step(true, self.shared.writer.take(events, guard))
    }

    fn take_whole(&self, events: Vec<Event>, guard: Guard) -> StoreFuture<'_, Vec<Taken>> {
        self.step(true, self.shared.writer.take_whole(events, guard))
    }

    fn identify(&self, identifier: String, account: String) -> StoreFuture<'_, ()> {
        self.step(true, async move { identify(&self.shared.ledger.views, &identifier, &account).await })
    }

    fn lifecycle(&self) -> &dyn Lifecycle {
        self
    }

    /// A replica that stops leaves the open hour to the others.
    fn seal(&self, _early: bool, _now: Timestamp) -> StoreFuture<'_, Sealing> {
        self.step(true, self.shared.ledger.leader.seal())
    }

    fn due(&self, now: Timestamp, limit: usize) -> StoreFuture<'_, Vec<Due>> {
        self.step(false, self.shared.ledger.leader.due(now, limit))
    }

    fn doubtful(&self, limit: usize) -> StoreFuture<'_, Vec<Due>> {
        self.step(false, self.shared.ledger.leader.doubtful(limit))
    }

    fn unsent_up_to(&self, hour: Hour, limit: usize) -> StoreFuture<'_, Vec<Due>> {
        self.step(false, self.shared.ledger.leader.unsent_up_to(hour, limit))
    }

    fn count_unsent_up_to(&self, hour: Hour) -> StoreFuture<'_, u64> {
        self.step(false, self.shared.ledger.leader.count_unsent_up_to(hour))
    }

    fn next_due(&self) -> StoreFuture<'_, Option<Timestamp>> {
        self.step(false, self.shared.ledger.leader.next_due())
    }

    fn is_denied(&self) -> StoreFuture<'_, bool> {
        self.step(false, self.shared.ledger.leader.is_denied())
    }

    fn release(&self, now: Timestamp, limit: usize) -> StoreFuture<'_, usize> {
        self.step(true, self.shared.ledger.leader.release(now, limit))
    }

    fn defer(&self, until: Vec<(i64, Timestamp)>) -> StoreFuture<'_, ()> {
        self.step(true, async move { self.shared.ledger.leader.defer(&until).await })
    }

    fn begin(&self, ids: Vec<i64>, region: Option<Region>, now: Timestamp) -> StoreFuture<'_, Vec<Whole>> {
        self.step(true, async move { self.shared.ledger.leader.begin(&ids, region.as_ref(), now).await })
    }

    fn answered_all(&self, notes: Vec<Noted>, region: Option<Region>, now: Timestamp) -> StoreFuture<'_, ()> {
        self.step(
            true,
            async move { self.shared.ledger.leader.answered_all(notes, region.as_ref(), now).await },
        )
    }
}
