//! The lease: which replica seals and sends. One row, taken by compare-and-set in the database's time.
//!
//! - Each transaction of the holder locks the row `FOR SHARE` and checks holder, epoch and expiry before it writes. A
//!   replica that wants the lease waits for that transaction. So a replica that lost the lease writes nothing, however
//!   long it was paused, and wherever in its work.
//! - The server ends a replica's connection that is silent for five seconds within a transaction
//!   (`idle_in_transaction_session_timeout`), which is less than the lease lasts.
//! - The holder also renews a lease that has expired, unless another replica took it: until then, no other one has
//!   sealed or sent.
//! - The database's clock may be set back, also by a failover to another machine: then the lease of a replica that is
//!   gone would last for long. So a replica also takes a lease that it has seen unchanged, by its own monotonic clock,
//!   for as long as a lease lasts. That endangers nothing: the check of holder and epoch needs no clock.
//! - A replica that takes the lease marks records as in doubt whose call was under way: their answers go to the replica
//!   before it, which can no longer note them.

use std::future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::PostgresSettings;
use crate::connect::{Connector, Failed, Link, Param, Transaction};
use crate::sealing::Progress;
use crate::upkeep::{self, Upkeep};
use tollgate_clock::{self as clock, WallClock};
use tollgate_ledger::LedgerError;
use tollgate_marketplace::Hour;
use tollgate_metering::aggregation::Rules;
use tollgate_time::Timestamp;

/// The times of the lease. A replica that is killed, paused or cut off is replaced after `lasts` and one `look_every`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTimes {
    /// How long the lease is valid after it was taken or renewed. More than five seconds: see the module.
    pub lasts: Duration,
    /// How often the holder renews it.
    pub renew_every: Duration,
    /// How often the other replicas look whether it has expired.
    pub look_every: Duration,
}

impl Default for LeaseTimes {
    fn default() -> Self {
        Self {
            lasts: Duration::from_secs(9),
            renew_every: Duration::from_secs(3),
            look_every: Duration::from_secs(1),
        }
    }
}

/// What the sender's steps need to know of their replica.
#[derive(Debug, Clone)]
pub(crate) struct LeaderSettings {
    /// The replica's name, for people.
    pub(crate) name: String,
    pub(crate) times: LeaseTimes,
    /// How long after its end an hour still takes its own late events.
    pub(crate) settle: Duration,
    /// For how long an event's id is remembered, at least.
    pub(crate) idempotency_window: Duration,
    /// The rule of a dimension to which usage is carried in an hour that has none yet.
    pub(crate) rules: Rules,
}

impl LeaderSettings {
    pub(crate) fn of(settings: &PostgresSettings) -> Self {
        Self {
            name: settings.name.clone(),
            times: settings.lease,
            settle: settings.ledger.settle,
            idempotency_window: settings.ledger.idempotency_window,
            rules: settings.ledger.rules.clone(),
        }
    }
}

/// How long a replica that stops waits for the database to free its lease. Otherwise the lease expires by itself.
const LEAVE_MAX: Duration = Duration::from_secs(2);

/// The part of a replica that seals and sends, while it holds the lease.
#[derive(Debug)]
pub(crate) struct Leader {
    pub(crate) settings: LeaderSettings,
    clock: WallClock,
    /// A connection of its own.
    link: Link,
    /// The replica stops, and takes the lease no more.
    has_left: AtomicBool,
    /// The lease that this replica took, until it finds that it has lost it.
    lease: Mutex<Option<Lease>>,
    tasks: Mutex<Vec<Task>>,
    /// When the lease that another replica holds ends, and since when it has not been renewed.
    seen: Mutex<Option<(String, Instant)>>,
    pub(crate) progress: sync::Mutex<Progress>,
    pub(crate) upkeep: sync::Mutex<Upkeep>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lease {
    /// The replica's row in `writers`.
    holder: i64,
    /// How often the lease was taken.
    pub(crate) epoch: i64,
}

impl Lease {
    const fn params(&self) -> [Param<'_>; 2] {
        [(&self.holder, Type::INT8), (&self.epoch, Type::INT8)]
    }
}

/// A task that ends with its handle.
#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A transaction of the lease's holder.
#[derive(Debug)]
pub(crate) struct Leading<'a> {
    pub(crate) transaction: Transaction<'a>,
    pub(crate) lease: Lease,
    /// The latest hour that was closed for all usage.
    pub(crate) closed: Hour,
    /// Of the facts about where usage counts.
    pub(crate) version: i64,
    /// The database's time.
    pub(crate) now: Timestamp,
    /// The rule of a dimension in an hour that has none yet.
    pub(crate) rules: &'a Rules,
}

/// Every statement of the holder finds its rows by an index, and reads them in its order. Without statistics of a table
/// that has just grown, the planner might read or sort all of it. `jit`: a plan that reads a table of one row seems so
/// expensive then that it would be compiled each time.
pub(crate) const BY_INDEX: &str =
    "SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_sort = off;
    SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; SET LOCAL jit = off";

/// Locks the lease's row if it is ours. The database's time is read after the lock.
const CHECK: &str = "SELECT ledger.closed, ledger.version, tollgate.ledger_now() FROM
        (SELECT 1 FROM tollgate.lease
         WHERE name = 'sender' AND holder = $1 AND epoch = $2 AND expires_at > clock_timestamp() FOR SHARE) AS ours,
        tollgate.ledger
    WHERE ledger.state = 'ready'";

const RENEW: &str = "UPDATE tollgate.lease SET expires_at = clock_timestamp() + $3 * interval '1 millisecond'
    WHERE name = 'sender' AND holder = $1 AND epoch = $2 RETURNING 1";

/// When the lease ends, as a text that changes with each renewal.
const ENDS: &str = "SELECT (expires_at AT TIME ZONE 'UTC')::text FROM tollgate.lease WHERE name = 'sender'";

/// Locks the lease's row if the lease is free, or has the end that was seen for too long. While its holder's
/// transaction locks it, it is not.
const IS_FREE: &str = "SELECT 1 FROM tollgate.lease
    WHERE name = 'sender' AND (expires_at <= clock_timestamp() OR (expires_at AT TIME ZONE 'UTC')::text = $1)
        AND EXISTS (SELECT 1 FROM tollgate.ledger WHERE state = 'ready')
    FOR UPDATE SKIP LOCKED";

const TAKE: &str = "WITH holder AS (INSERT INTO tollgate.writers (name) VALUES ($1) RETURNING id)
    UPDATE tollgate.lease SET holder = holder.id, epoch = epoch + 1,
        expires_at = clock_timestamp() + $2 * interval '1 millisecond'
    FROM holder WHERE lease.name = 'sender' RETURNING holder.id, lease.epoch";

const ADOPT: &str = "UPDATE tollgate.records SET in_doubt = true, attempting = false WHERE attempting";

const FREE: &str = "UPDATE tollgate.lease SET holder = NULL, expires_at = '-infinity'
    WHERE name = 'sender' AND holder = $1 AND epoch = $2 RETURNING 1";

impl Leader {
    pub(crate) fn new(connector: Arc<Connector>, clock: WallClock, settings: LeaderSettings) -> Self {
        Self {
            settings,
            clock,
            link: Link::new(connector),
            has_left: AtomicBool::new(false),
            lease: Mutex::default(),
            tasks: Mutex::default(),
            seen: Mutex::default(),
            progress: sync::Mutex::default(),
            upkeep: sync::Mutex::default(),
        }
    }

    /// Waits until this replica holds the lease; also while the database cannot be used, and for ever if the replica
    /// stops. No call to AWS is under way then.
    pub(crate) async fn lead(self: &Arc<Self>) -> Result<(), LedgerError> {
        loop {
            if self.has_left.load(Ordering::Acquire) {
                self.free().await;
                return future::pending().await;
            }
            match self.take().await {
                Ok(true) if self.has_left.load(Ordering::Acquire) => continue,
                Ok(true) => break,
                Ok(false) | Err(LedgerError::Io(_)) => {}
                Err(error) => return Err(error),
            }
            tokio::time::sleep(self.settings.times.look_every).await;
        }
        *locked(&self.tasks) = vec![
            Task(tokio::spawn(keep(Arc::downgrade(self), self.settings.times))),
            Task(tokio::spawn(upkeep::tend(Arc::downgrade(self)))),
        ];
        Ok(())
    }

    /// The rule of a dimension in an hour that has none yet.
    pub(crate) fn rules(&self) -> &Rules {
        &self.settings.rules
    }

    /// The replica stops: frees the lease, so that another replica takes it at its next look.
    pub(crate) async fn leave(&self) {
        self.has_left.store(true, Ordering::Release);
        self.free().await;
    }

    async fn free(&self) {
        locked(&self.tasks).clear();
        let lease = locked(&self.lease).take();
        if let Some(lease) = lease {
            // If it cannot be freed, it expires.
            let _ = tokio::time::timeout(LEAVE_MAX, self.link.query(FREE, &lease.params())).await;
        }
    }

    /// Takes the lease if it is free, or is this replica's own; `false` if another replica holds it.
    async fn take(&self) -> Result<bool, LedgerError> {
        let own = *locked(&self.lease);
        if let Some(lease) = own {
            self.link.query(FREE, &lease.params()).await.map_err(passing)?;
            self.lose(lease);
        }
        let transaction = self.link.begin().await.map_err(passing)?;
        let ends = transaction.query(ENDS, &[]).await?;
        let stale = ends.first().and_then(|row| self.unrenewed(row.get(0)));
        if transaction.query(IS_FREE, &[(&stale, Type::TEXT)]).await?.is_empty() {
            transaction.rollback().await?;
            return Ok(false);
        }
        let lasts = millis(self.settings.times.lasts);
        let taken =
            transaction.query(TAKE, &[(&self.settings.name, Type::TEXT), (&lasts, Type::FLOAT8)]).await?;
        let Some(taken) = taken.first() else { return Ok(false) };
        let lease = Lease { holder: taken.get(0), epoch: taken.get(1) };
        transaction.execute(ADOPT, &[]).await?;
        transaction.commit_as("lease").await?;
        *locked(&self.lease) = Some(lease);
        *self.progress.lock().await = Progress::default();
        *self.upkeep.lock().await = Upkeep::default();
        Ok(true)
    }

    /// The end of the lease, if it has been the same for as long as a lease lasts.
    fn unrenewed(&self, ends: String) -> Option<String> {
        let now = clock::monotonic();
        let mut seen = locked(&self.seen);
        let since = match seen.take() {
            Some((before, since)) if before == ends => since,
            _ => now,
        };
        *seen = Some((ends.clone(), since));
        (now.duration_since(since) >= self.settings.times.lasts).then_some(ends)
    }

    /// The lease is another replica's, or may become it at any moment.
    fn lose(&self, lease: Lease) {
        let mut held = locked(&self.lease);
        if *held == Some(lease) {
            *held = None;
        }
    }

    /// Begins a transaction that may write, if this replica holds the lease.
    pub(crate) async fn leading(&self) -> Result<Leading<'_>, LedgerError> {
        let lease = locked(&self.lease).ok_or(LedgerError::NotLeading)?;
        let transaction = self.link.begin().await.map_err(passing)?;
        let params = lease.params();
        let (planned, ours) =
            tokio::join!(biased; transaction.batch(BY_INDEX), transaction.query(CHECK, &params));
        planned?;
        let Some(ours) = ours?.into_iter().next() else {
            transaction.rollback().await?;
            self.lose(lease);
            return Err(LedgerError::NotLeading);
        };
        let now = Timestamp::from_unix_millis(ours.get(2));
        self.clock.follow(now);
        Ok(Leading {
            transaction,
            lease,
            closed: Hour::from_number(ours.get(0)),
            version: ours.get(1),
            now,
            rules: &self.settings.rules,
        })
    }

    /// Renews the lease no more.
    #[cfg(test)]
    pub(crate) async fn pause(&self) {
        locked(&self.tasks).clear();
        // A renewal that was under way has ended.
        drop(self.link.session().await);
    }

    /// Ends the connection.
    #[cfg(test)]
    pub(crate) async fn disconnect(&self) {
        drop(self.link.session().await.unwrap().take());
    }

    /// `false` if another replica took the lease.
    async fn renew(&self, lease: Lease) -> Result<bool, LedgerError> {
        let lasts = millis(self.settings.times.lasts);
        let [holder, epoch] = lease.params();
        Ok(!self.link.query(RENEW, &[holder, epoch, (&lasts, Type::FLOAT8)]).await?.is_empty())
    }

    /// Runs one reading statement of the sender, on the plan of [`BY_INDEX`].
    pub(crate) async fn read(&self, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>, LedgerError> {
        let transaction = self.link.begin().await.map_err(passing)?;
        let (planned, rows) =
            tokio::join!(biased; transaction.batch(BY_INDEX), transaction.query(sql, params));
        planned?;
        let rows = rows?;
        transaction.rollback().await?;
        Ok(rows)
    }
}

impl Leading<'_> {
    pub(crate) async fn query(&self, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>, Failed> {
        self.transaction.query(sql, params).await
    }

    pub(crate) async fn execute(&self, sql: &str, params: &[Param<'_>]) -> Result<u64, Failed> {
        self.transaction.execute(sql, params).await
    }

    pub(crate) async fn commit(self) -> Result<(), Failed> {
        self.transaction.commit().await
    }

    /// As [`Transaction::commit_as`].
    pub(crate) async fn commit_as(self, step: &str) -> Result<(), Failed> {
        self.transaction.commit_as(step).await
    }

    pub(crate) async fn rollback(self) -> Result<(), Failed> {
        self.transaction.rollback().await
    }
}

/// Renews the lease until another replica has taken it, or this one has lost it.
async fn keep(leader: Weak<Leader>, times: LeaseTimes) {
    let mut pause = times.renew_every;
    loop {
        tokio::time::sleep(pause).await;
        let Some(leader) = leader.upgrade() else { return };
        let Some(lease) = *locked(&leader.lease) else { return };
        pause = match leader.renew(lease).await {
            Ok(false) => return leader.lose(lease),
            Ok(true) => times.renew_every,
            Err(_) => times.look_every,
        };
    }
}

/// The ledger could be used when the replica started. What is wrong now may become right by itself, such as a password
/// that was changed in the database before its file.
fn passing(error: LedgerError) -> LedgerError {
    match error {
        LedgerError::Unusable(text) => LedgerError::Io(text),
        error => error,
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
