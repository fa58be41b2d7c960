//! The ledger of a running replica: joins intake, leader and views behind the traits of `tollgate-ledger`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::connect::{Fault, Link};
use crate::counter::WriterSettings;
use crate::lease::{Leader, LeaderSettings};
use crate::writer::Writer;
use crate::{PostgresLedger, PostgresSettings, identities};
use tollgate_clock::WallClock;
use tollgate_ledger::repair::{Entry, Repair, Repaired};
use tollgate_ledger::store::{Guard, Store, StoreFuture, View};
use tollgate_ledger::view::{From, Looked, OpenUsage, Piece};
use tollgate_ledger::writer::Observer;
use tollgate_ledger::{LedgerError, Links, Sealing, Summary, Taken, Totals};
use tollgate_marketplace::service::BoxFuture;
use tollgate_marketplace::{Hour, Region};
use tollgate_metering::event::Event;
use tollgate_metering::record::{Due, Noted, Record, Whole};
use tollgate_time::Timestamp;

/// How often a replica that waits for its database asks again.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// A handle to the ledger of a running replica.
#[derive(Debug, Clone)]
pub(crate) struct Replica {
    views: Arc<PostgresLedger>,
    leader: Arc<Leader>,
    writer: Writer,
    clock: WallClock,
    uses: watch::Sender<()>,
    unnoticed: bool,
    /// How often [`Store::written`] was asked.
    asked: Arc<AtomicU64>,
}

impl Replica {
    /// Call it inside the runtime. `clock` follows the database's time.
    pub(crate) fn start(settings: PostgresSettings, clock: WallClock, observer: Box<dyn Observer>) -> Self {
        let writer = WriterSettings {
            name: settings.name.clone(),
            product: settings.ledger.product.clone(),
            settle: settings.ledger.settle,
        };
        let connector = Arc::new(settings.connector());
        Self {
            leader: Arc::new(Leader::new(
                Arc::clone(&connector),
                clock.clone(),
                LeaderSettings::of(&settings),
            )),
            views: Arc::new(PostgresLedger::new(Link::new(Arc::clone(&connector)))),
            writer: Writer::start(connector, writer, clock.clone(), observer),
            clock,
            uses: watch::Sender::default(),
            unnoticed: false,
            asked: Arc::default(),
        }
    }

    fn used(&self) {
        if !self.unnoticed {
            self.uses.send_replace(());
        }
    }

    /// A step whose failure passes, whatever a person has to do for it: the replica has used this database before.
    fn step<'a, T: Send + 'a>(
        &'a self,
        step: impl Future<Output = Result<T, LedgerError>> + Send + 'a,
    ) -> StoreFuture<'a, T> {
        Box::pin(async move {
            let done = step.await.map_err(passing);
            self.used();
            done
        })
    }
}

/// A password that was replaced, a privilege that was taken: the replica waits until a person has mended it.
fn passing(error: LedgerError) -> LedgerError {
    match error {
        LedgerError::Unusable(text) => LedgerError::Io(text),
        error => error,
    }
}

impl View for Replica {
    fn record(&self, id: i64) -> StoreFuture<'_, Option<(Whole, Links)>> {
        self.step(self.views.record(id))
    }

    fn totals(&self) -> StoreFuture<'_, BTreeMap<String, Totals>> {
        self.step(self.views.totals())
    }

    fn summary(&self) -> StoreFuture<'_, Summary> {
        self.step(self.views.summary())
    }

    fn page(&self, looked: Looked, limit: usize) -> StoreFuture<'_, Piece<Record, i64>> {
        self.step(self.views.page(looked, limit))
    }

    fn audit(&self, before: Option<i64>, limit: usize) -> StoreFuture<'_, Vec<Entry>> {
        self.step(self.views.audit(before, limit))
    }

    fn open_usage(
        &self,
        looked: Looked,
        from: From,
        limit: usize,
    ) -> StoreFuture<'_, Piece<OpenUsage, From>> {
        self.step(self.views.open_usage(looked, from, limit))
    }

    fn repair(&self, id: i64, repair: Repair, now: Timestamp) -> StoreFuture<'_, Repaired> {
        self.step(self.views.repair(id, repair, now))
    }
}

impl Store for Replica {
    fn ready(&self) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            loop {
                match self.views.now().await {
                    Ok(now) => {
                        self.clock.follow(now);
                        return Ok(());
                    }
                    Err(Fault::Lasting(text)) => return Err(LedgerError::Unusable(text)),
                    Err(Fault::Transient(_)) => tokio::time::sleep(ASK_EVERY).await,
                }
            }
        })
    }

    fn lead(&self) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            while let Err(error) = self.leader.lead().await {
                match passing(error) {
                    LedgerError::Io(_) => tokio::time::sleep(ASK_EVERY).await,
                    error => return Err(error),
                }
            }
            Ok(())
        })
    }

    fn leave(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.leader.leave())
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn unnoticed(&self) -> Arc<dyn Store> {
        Arc::new(Self { unnoticed: true, ..self.clone() })
    }

    fn uses(&self) -> watch::Receiver<()> {
        self.uses.subscribe()
    }

    /// Another number each time: what the other replicas write is not known here.
    fn written(&self) -> u64 {
        self.asked.fetch_add(1, Ordering::Relaxed)
    }

    fn failed_since(&self, since: Instant) -> Option<LedgerError> {
        self.writer.failed_since(since)
    }

    fn take(&self, events: Vec<Event>, guard: Guard) -> StoreFuture<'_, Vec<Taken>> {
        self.step(self.writer.take(events, guard))
    }

    fn take_whole(&self, events: Vec<Event>, guard: Guard) -> StoreFuture<'_, Vec<Taken>> {
        self.step(self.writer.take_whole(events, guard))
    }

    fn identify(&self, identifier: String, account: String) -> StoreFuture<'_, ()> {
        self.step(async move { identities::identify(self.views.link(), &identifier, &account).await })
    }

    /// The open hour is left to the other replicas.
    fn seal(&self, _early: bool, _now: Timestamp) -> StoreFuture<'_, Sealing> {
        self.step(self.leader.seal())
    }

    fn due(&self, now: Timestamp, limit: usize) -> StoreFuture<'_, Vec<Due>> {
        self.step(self.leader.due(now, limit))
    }

    fn doubtful(&self, limit: usize) -> StoreFuture<'_, Vec<Due>> {
        self.step(self.leader.doubtful(limit))
    }

    fn unsent_up_to(&self, hour: Hour, limit: usize) -> StoreFuture<'_, Vec<Due>> {
        self.step(self.leader.unsent_up_to(hour, limit))
    }

    fn count_unsent_up_to(&self, hour: Hour) -> StoreFuture<'_, u64> {
        self.step(self.leader.count_unsent_up_to(hour))
    }

    fn next_due(&self) -> StoreFuture<'_, Option<Timestamp>> {
        self.step(self.leader.next_due())
    }

    fn is_denied(&self) -> StoreFuture<'_, bool> {
        self.step(self.leader.is_denied())
    }

    fn release(&self, now: Timestamp, limit: usize) -> StoreFuture<'_, usize> {
        self.step(self.leader.release(now, limit))
    }

    fn defer(&self, until: Vec<(i64, Timestamp)>) -> StoreFuture<'_, ()> {
        self.step(async move { self.leader.defer(&until).await })
    }

    fn begin(&self, ids: Vec<i64>, region: Option<Region>, now: Timestamp) -> StoreFuture<'_, Vec<Whole>> {
        self.step(async move { self.leader.begin(&ids, region.as_ref(), now).await })
    }

    fn answered_all(&self, notes: Vec<Noted>, region: Option<Region>, now: Timestamp) -> StoreFuture<'_, ()> {
        self.step(async move { self.leader.answered_all(notes, region.as_ref(), now).await })
    }
}
