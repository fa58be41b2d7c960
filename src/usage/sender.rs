//! Sends sealed records until AWS has answered. It performs what `policy`, `pace`, `health` and `queue` decide. All
//! state that must survive is in the ledger, so the process can be killed at any moment and the next one continues.
//!
//! - No record waits for another: each has its own back-off on disk, and calls overlap within AWS's quota.
//! - An attempt is on disk before its call is made.
//! - Faults that concern every record (of the caller, the quota, an outage) pause or slow all of them.

mod alarm;
mod call;
mod notes;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use crate::entitlement::refusal_update::RefusalSender;
use crate::metrics::{LedgerFigures, Metrics};
use crate::random;
use alarm::Alarm;
use call::RecordStatuses;
use notes::Outcome;
use tollgate_clock::{self as clock, WallClock};
use tollgate_ledger::LedgerError;
use tollgate_ledger::store::Store;
use tollgate_marketplace::lifecycle::license_id;
use tollgate_marketplace::schedule::Draw;
use tollgate_marketplace::{
    Customer, Fault, FaultClass, FaultCode, Hour, Meter, ProductCode, Region, Signing,
};
use tollgate_metering::health::{Availability, Health, Subject};
use tollgate_metering::pace::Pace;
use tollgate_metering::policy::{Meaning, Pause, SendingPolicy, Todo};
use tollgate_metering::queue::{IN_FLIGHT_BYTES_MAX, Load, Queue, RISKY_PAUSE, Risky, Wanted, is_risky};
use tollgate_metering::record::{Answered, Due, Noted, Record};
use tollgate_time::Timestamp;

/// The limit of calls in flight: at ten calls a second, enough for answers that take 800 ms, and few enough that few
/// records are in doubt when AWS stops answering.
const CALLS_MAX: usize = 8;

/// How long before its turn an attempt is written to disk, so that a slow disk or other work does not slow the pace.
/// Shorter than the pace's interval, so that at most one call waits for its turn.
const AHEAD: Duration = Duration::from_millis(90);

/// How often hours are checked; a jump of the clock is handled at once.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The same while nothing waits to be sent and the ledger is not used, so that the sidecar of an idle application
/// costs almost nothing; the ledger is then read only if something has changed (see [`CheckInputs`]). An hour is sealed
/// later by up to this time, which is well within the time that its records wait for their turn.
const LOOK_AT_REST: Duration = Duration::from_secs(60);

/// Corrections of the wall clock up to this are ignored; a larger gain counts as time for which the machine slept.
const SLEPT_MIN: Duration = Duration::from_secs(5);

/// How often to look for records whose window has closed: twice in the last minute of each window, which is kept free.
const SWEEP_EVERY: Duration = Duration::from_secs(30);

/// How often, at most, a shutdown reads due records from the ledger.
const RETRY_MIN: Duration = Duration::from_millis(50);

/// How often the ledger's figures are read if nothing changed.
const SHOW_EVERY: Duration = Duration::from_secs(15);

/// The pause after a fault of the disk.
const DISK_PAUSE: Duration = Duration::from_secs(5);

/// The same during a flush order: a shutdown may have two seconds in all.
const DISK_PAUSE_IN_ORDER: Duration = Duration::from_millis(500);

/// How many records are read from the ledger at once, without their allocations: more than fit in flight (200) and in a
/// short queue.
const RECORDS_AT_ONCE: usize = 500;

/// The queue is refilled when it is shorter than this.
const LINE_LOW: usize = RECORDS_AT_ONCE / 2;

/// How many records a flush, or the end of an outage, makes due at once: more than the quota allows in a minute.
const RELEASED_MAX: usize = 20_000;

/// The code of a dead letter whose license has ended.
const DEPROVISIONED: &str = "Deprovisioned";

/// An order to send records until a deadline.
#[derive(Debug)]
pub struct FlushOrder {
    /// What to send.
    pub flush: Flush,
    /// No call starts after this.
    pub until: Instant,
    /// Notified when nothing more can be sent in this time.
    pub done: oneshot::Sender<()>,
}

/// What to send, and how soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flush {
    /// Closed hours, each record after its random delay.
    Scheduled,
    /// Closed hours at once.
    Immediate,
    /// Closed hours at once, and the open hour, which is sealed first.
    Final,
    /// Nothing more: calls in flight are answered, then the sender ends, and another process sends.
    HandOver,
}

/// Which operation reports the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlet {
    /// One record per call, for this pod's own account.
    MeterUsage,
    /// Up to 25 records per call, for the seller's customers.
    BatchMeterUsage,
}

/// The sender's settings.
#[derive(Debug, Clone)]
pub struct SenderSettings {
    /// The product whose usage is reported.
    pub product_code: ProductCode,
    /// The operation.
    pub outlet: Outlet,
    /// When to send, and what answers mean.
    pub policy: SendingPolicy,
}

/// A call in flight: its attempt is written to disk, it waits for its turn, and it is made.
struct Flight {
    load: Load,
    /// When its turn is.
    starts_at: Duration,
}

impl Flight {
    const fn is_fresh(&self) -> bool {
        !self.load.in_doubt
    }
}

/// The result of a call: its records, and AWS's answer about them. `None` if all records were settled meanwhile, so
/// that no call was made.
type Landed = (u64, Result<Option<(Vec<Record>, Result<RecordStatuses, Fault>)>, LedgerError>);

/// What a check depends on while nothing waits to be sent: while this is unchanged, another check would find nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CheckInputs {
    /// How many transactions had changed the ledger before the check.
    written: u64,
    closed: Hour,
    present: Hour,
}

/// The sender.
pub struct Sender {
    settings: SenderSettings,
    aws: Arc<dyn Meter>,
    store: Arc<dyn Store>,
    clock: WallClock,
    metrics: Arc<Metrics>,
    refusal_sender: RefusalSender,
    orders: mpsc::Receiver<FlushOrder>,
    began: Instant,
    began_wall: Timestamp,
    /// Time that has passed by the wall clock only, while the machine slept.
    skipped: Duration,
    pace: Pace,
    health: Health,
    queue: Queue,
    calls: JoinSet<Landed>,
    flights: BTreeMap<u64, Flight>,
    calls_made: u64,
    /// Answers that are not on disk yet.
    notes: Vec<Outcome>,
    /// The ledger may have due records that are not in the queue.
    stale: bool,
    look_at: Duration,
    /// What the latest check saw, if it left nothing to do.
    at_rest: Option<CheckInputs>,
    /// Changes when other parts use the ledger.
    uses: watch::Receiver<()>,
    /// Whether records waited when the figures were last read.
    any_unsent: bool,
    /// Closed hours are not completely sealed yet.
    is_sealing: bool,
    /// Records made since sealing began.
    sealed: usize,
    sweep_at: Duration,
    /// The latest hour for whose last try a pause was ended.
    last_tried: Option<Hour>,
    show_at: Duration,
    changed: bool,
    alarm: Alarm,
    /// How to sign the next call: with new credentials after the caller was not accepted, and once with AWS's clock.
    signing: Signing,
    tried_clock_offset: bool,
    /// Whether AWS's latest answer is that the pod's own customer is not entitled; `None` until it was read from the
    /// ledger.
    unsubscribed: Option<bool>,
    /// How many waiting records may still be made due: AWS answers again after an outage, or a shutdown wants them
    /// sent.
    to_release: usize,
    /// The current flush order.
    order: Option<FlushOrder>,
    /// A [`Flush::HandOver`] is done.
    handed_over: bool,
}

impl Sender {
    /// Joins the parts; nothing is sent yet.
    #[must_use]
    pub fn new(
        settings: SenderSettings,
        aws: Arc<dyn Meter>,
        store: &dyn Store,
        clock: WallClock,
        metrics: Arc<Metrics>,
        refusal_sender: RefusalSender,
        orders: mpsc::Receiver<FlushOrder>,
    ) -> Self {
        let began_wall = clock.now();
        Self {
            settings,
            aws,
            uses: store.uses(),
            store: store.unnoticed(),
            clock,
            metrics,
            refusal_sender,
            orders,
            began: clock::monotonic(),
            began_wall,
            skipped: Duration::ZERO,
            pace: Pace::default(),
            health: Health::default(),
            queue: Queue::default(),
            calls: JoinSet::new(),
            flights: BTreeMap::new(),
            calls_made: 0,
            notes: Vec::new(),
            stale: true,
            look_at: Duration::ZERO,
            at_rest: None,
            any_unsent: true,
            is_sealing: false,
            sealed: 0,
            sweep_at: Duration::ZERO,
            last_tried: None,
            show_at: Duration::ZERO,
            changed: true,
            alarm: Alarm::default(),
            signing: Signing::default(),
            tried_clock_offset: false,
            unsubscribed: None,
            to_release: 0,
            order: None,
            handed_over: false,
        }
    }

    /// Runs until it is dropped. Ends when the ledger fails, or when another process sends
    /// ([`LedgerError::NotLeading`]); returns the orders for the next sender.
    pub async fn run(mut self) -> (LedgerError, mpsc::Receiver<FlushOrder>) {
        let error = self.until_it_ends().await;
        if matches!(error, LedgerError::NotLeading) {
            // The process that sends now shows them; alerts would count ours, too.
            self.metrics.ledger(LedgerFigures::default());
        }
        (error, self.orders)
    }

    async fn until_it_ends(&mut self) -> LedgerError {
        let mut jumps = self.clock.jumps();
        loop {
            let wake = match self.turn().await {
                Ok(_) if self.handed_over => return LedgerError::NotLeading,
                Ok(wake) => wake,
                // A disk that is full or slow may recover; an answer that was not written is kept, and written then.
                Err(LedgerError::Io(error)) => {
                    self.disk_failed(&error).await;
                    continue;
                }
                Err(error) => return error,
            };
            let (wake, soon) = (self.instant(wake), self.uptime() + LOOK_EVERY);
            tokio::select! {
                Some(landed) = self.calls.join_next() => match self.landed(landed) {
                    Ok(()) => {}
                    Err(LedgerError::Io(error)) => self.disk_failed(&error).await,
                    Err(error) => return error,
                },
                () = tokio::time::sleep_until(wake) => {}
                _ = jumps.changed() => self.jumped(),
                _ = self.uses.changed(), if self.look_at > soon => self.look_at = soon,
                Some(order) = self.orders.recv(), if self.order.is_none() => self.take_order(order),
            }
        }
    }

    /// Waits for a disk that is full or slow. A flush order ends the pause, since its time is limited.
    async fn disk_failed(&mut self, error: &str) {
        tracing::error!(event = "ledger_unwritable", error, "the ledger cannot be written; will retry");
        let in_order = self.order.as_ref().is_some_and(|order| clock::monotonic() < order.until);
        let pause = if in_order { DISK_PAUSE_IN_ORDER } else { DISK_PAUSE };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            Some(order) = self.orders.recv(), if self.order.is_none() => self.take_order(order),
        }
    }

    /// The wall clock jumped: decide again what is due.
    fn jumped(&mut self) {
        self.queue.clear();
        (self.look_at, self.sweep_at) = (Duration::ZERO, Duration::ZERO);
    }

    /// Adds time during which the machine slept: the monotonic clock stops then, but AWS's windows go on. So a pause
    /// is over when its time has passed by either clock.
    fn keep_up(&mut self) {
        let running = clock::monotonic().duration_since(self.began);
        let slept = self.clock.now().since(self.began_wall.plus(running));
        if slept > self.skipped + SLEPT_MIN {
            self.skipped = slept;
        }
    }

    /// Ends every pause of the whole sender.
    fn ask_now(&mut self) {
        self.pace.resume();
        self.health.ask_now();
    }

    /// Time since the sender began, including the time that the machine slept.
    fn uptime(&self) -> Duration {
        clock::monotonic().duration_since(self.began) + self.skipped
    }

    /// The uptime at this instant.
    fn uptime_of(&self, instant: Instant) -> Duration {
        instant.duration_since(self.began) + self.skipped
    }

    /// The instant of this uptime.
    fn instant(&self, uptime: Duration) -> Instant {
        self.began + uptime.saturating_sub(self.skipped)
    }

    fn flush(&self) -> Flush {
        self.order.as_ref().map_or(Flush::Scheduled, |order| order.flush)
    }

    /// Does what can be done now; returns the uptime at which there is more to do.
    async fn turn(&mut self) -> Result<Duration, LedgerError> {
        self.keep_up();
        self.write_notes().await?;
        if self.uptime() >= self.look_at && self.flush() != Flush::HandOver {
            self.look().await?;
        }
        if self.to_release > 0 {
            self.release().await?;
        }
        let next = self.start_calls().await?;
        // Decisions that were made without a call.
        self.write_notes().await?;
        let retry = self.retry_in_this_order(next).await?;
        let wake = [next, retry].into_iter().flatten().min().unwrap_or(Duration::MAX);
        Ok(if self.to_release > 0 { Duration::ZERO } else { wake.min(self.look_at) })
    }

    /// Begins a flush order: the next turn makes waiting records due and, for [`Flush::Final`], seals the open hour.
    /// A disk that fails is tried again while the order has time.
    fn take_order(&mut self, order: FlushOrder) {
        if order.flush == Flush::HandOver {
            (self.look_at, self.to_release) = (self.uptime_of(order.until), 0);
            self.order = Some(order);
            return;
        }
        self.order = Some(order);
        self.ask_now();
        self.jumped();
        self.to_release = RELEASED_MAX;
    }

    /// Makes waiting records due, in pieces, so that acknowledgements and calls are not delayed.
    async fn release(&mut self) -> Result<(), LedgerError> {
        let (now, most) = (self.clock.now(), self.to_release);
        let released = self.store.release(now, most).await?;
        self.to_release = if released == 0 { 0 } else { most.saturating_sub(released) };
        self.stale = true;
        Ok(())
    }

    /// Ends the order if nothing more can be sent in its time; otherwise returns when a waiting record is due again.
    async fn retry_in_this_order(&mut self, next: Option<Duration>) -> Result<Option<Duration>, LedgerError> {
        let Some(order) = &self.order else { return Ok(None) };
        let until = self.uptime_of(order.until);
        let now = self.uptime();
        if !self.flights.is_empty() && now < until {
            return Ok(None);
        }
        let hands_over = order.flush == Flush::HandOver;
        if (self.is_sealing || self.to_release > 0) && !hands_over && now < until {
            return Ok(Some(now));
        }
        let retry = if hands_over {
            None
        } else if self.queue.is_empty() && !self.stale {
            let wall = self.clock.now();
            let due = self.store.next_due().await?;
            due.map(|due| (now + due.since(wall)).max(now + RETRY_MIN))
        } else {
            next
        };
        if now < until && retry.is_some_and(|retry| retry < until) {
            self.look_at = self.look_at.min(retry.unwrap_or(self.look_at));
            return Ok(retry);
        }
        self.handed_over |= hands_over;
        if let Some(order) = self.order.take() {
            // The receiver may have been dropped.
            let _ = order.done.send(());
        }
        Ok(None)
    }

    /// Seals closed hours, gives up expired records, and updates the metrics.
    async fn look(&mut self) -> Result<(), LedgerError> {
        let now = self.clock.now();
        self.uses.mark_unchanged();
        let inputs = CheckInputs {
            written: self.store.written(),
            closed: Hour::latest_closed(now, self.settings.policy.settle),
            present: Hour::of(now),
        };
        if self.at_rest.take() == Some(inputs) && self.order.is_none() {
            (self.at_rest, self.look_at) = (Some(inputs), self.uptime() + LOOK_AT_REST);
            return Ok(());
        }
        self.end_pause_for_last_try(now).await?;
        let seal_open_hour = self.flush() == Flush::Final;
        // In pieces, so that acknowledgements and calls are not delayed.
        let sealing = self.store.seal(seal_open_hour, now).await?;
        self.sealed += sealing.made;
        self.is_sealing = sealing.more;
        if !sealing.more && self.sealed > 0 {
            tracing::info!(event = "hours_sealed", records = self.sealed, "hours sealed");
            self.sealed = 0;
        }
        let sweeps = self.uptime() >= self.sweep_at;
        self.changed |= sealing.made > 0 || sweeps;
        if sweeps {
            self.sweep(now).await?;
        }
        self.stale = true;
        let look_in = if sealing.more { Duration::ZERO } else { LOOK_EVERY };
        self.look_at = self.uptime() + look_in;
        // Before an alarm, so that the metrics are current when it is read.
        self.show().await?;
        if sweeps {
            self.alarm.look(&self.settings.policy, &*self.store, now, self.uptime()).await?;
        }
        let busy = self.any_unsent || self.changed || self.order.is_some() || !self.calls.is_empty();
        // Another process may ask for a flush at any time.
        let busy = busy || self.store.is_shared();
        if !sealing.more && !busy {
            self.look_at = self.uptime() + LOOK_AT_REST;
            // Only a complete check that changed nothing is a reason to skip the next one.
            self.at_rest = sweeps.then_some(inputs);
        }
        Ok(())
    }

    /// Ends a pause of the whole sender when the records of an hour are about to miss their window, so that they are
    /// tried once more.
    async fn end_pause_for_last_try(&mut self, now: Timestamp) -> Result<(), LedgerError> {
        if self.pace.ready_at().max(self.health.ask_at()) <= self.uptime() + LOOK_EVERY {
            return Ok(());
        }
        let last = self.settings.policy.last_try_up_to(now);
        let oldest = self.store.unsent_up_to(last, 1).await?.pop();
        let closing = oldest.filter(|due| self.settings.policy.is_last_try(&due.record, now));
        if let Some(due) = closing
            && self.last_tried < Some(due.record.hour)
        {
            self.last_tried = Some(due.record.hour);
            self.ask_now();
        }
        Ok(())
    }

    /// Gives up records whose window has closed.
    async fn sweep(&mut self, now: Timestamp) -> Result<(), LedgerError> {
        if self.unsubscribed.is_none() {
            self.unsubscribed = Some(self.store.is_denied().await?);
        }
        let last = self.settings.policy.may_have_expired(now);
        let old = self.store.unsent_up_to(last, RECORDS_AT_ONCE).await?;
        let before = self.notes.len();
        for due in old {
            if !self.is_busy(due.record.id)
                && let Todo::Give(answered) = self.todo(&due.record, now)
            {
                self.decide(due.record, answered);
            }
        }
        let given = self.notes.len() > before;
        self.write_notes().await?;
        self.sweep_at = if given { Duration::ZERO } else { self.uptime() + SWEEP_EVERY };
        Ok(())
    }

    fn todo(&self, record: &Record, now: Timestamp) -> Todo {
        let flush = self.flush() != Flush::Scheduled;
        self.settings.policy.todo(record, now, flush, self.unsubscribed == Some(true))
    }

    /// Whether a record is in flight, or its answer is not on disk yet.
    fn is_busy(&self, id: i64) -> bool {
        self.flights.values().any(|flight| flight.load.ids.contains(&id))
            || self.notes.iter().any(|note| note.record.id == id)
    }

    /// Updates backlog, dead letters and size in the metrics: after a change, at most once per check.
    async fn show(&mut self) -> Result<(), LedgerError> {
        let now = self.uptime();
        if !self.changed && now < self.show_at {
            return Ok(());
        }
        (self.changed, self.show_at) = (false, now + SHOW_EVERY);
        let summary = self.store.summary().await?;
        self.any_unsent = summary.unsent > 0;
        let window = self.settings.policy.window;
        self.metrics.ledger(LedgerFigures {
            unsent: summary.unsent,
            oldest_unsent: summary.oldest_unsent.map(|at| (at, window.closes(at))),
            dead: summary.dead,
            bytes: summary.bytes,
        });
        Ok(())
    }

    /// Starts calls as far as pace, memory and health allow, each a little before its turn; returns when to try
    /// again, unless an answer or the next check comes first.
    async fn start_calls(&mut self) -> Result<Option<Duration>, LedgerError> {
        loop {
            let now = self.uptime();
            let starts_at = self.pace.ready_at().max(now);
            let over = self.order.as_ref().is_some_and(|order| {
                order.flush == Flush::HandOver || self.instant(starts_at) >= order.until
            });
            let renewing = self.signing.reload_credentials && !self.flights.is_empty();
            if over || renewing || self.flights.len() >= CALLS_MAX {
                return Ok(None);
            }
            if now + AHEAD < starts_at {
                return Ok(Some(starts_at - AHEAD));
            }
            self.refill().await?;
            let hurried = self.flush() != Flush::Scheduled;
            let load = match self.health.availability(now, hurried, self.queue.subjects()) {
                Availability::Certain => self.queue_take(match self.settings.outlet {
                    Outlet::MeterUsage => Wanted::One,
                    Outlet::BatchMeterUsage => Wanted::Batch,
                }),
                Availability::Uncertain => self.take_one(),
                Availability::Down if !self.flights.is_empty() => None,
                Availability::Down if now < self.health.ask_at() => return Ok(Some(self.health.ask_at())),
                Availability::Down => self.take_for_outage(now).await?,
            };
            match load {
                Some(load) => self.start(load),
                None => return Ok(None),
            }
        }
    }

    fn queue_take(&mut self, wanted: Wanted) -> Option<Load> {
        let in_flight: usize = self.flights.values().map(|flight| flight.load.weight).sum();
        let room = IN_FLIGHT_BYTES_MAX.saturating_sub(in_flight);
        let risky: Vec<&Risky> =
            self.flights.values().filter_map(|flight| flight.load.risky.as_ref()).collect();
        self.queue.take(wanted, room, &risky, &self.health, self.aws.region().as_ref())
    }

    /// A fresh record, unless one is in flight; otherwise one that is in doubt already.
    fn take_one(&mut self) -> Option<Load> {
        let fresh = !self.flights.values().any(Flight::is_fresh);
        let taken = if fresh { self.queue_take(Wanted::OneFresh) } else { None };
        taken.or_else(|| self.queue_take(Wanted::OneInDoubt))
    }

    /// During an outage: a record that is in doubt already, due or not; a fresh one if there is none, or if it is
    /// time for one.
    async fn take_for_outage(&mut self, now: Duration) -> Result<Option<Load>, LedgerError> {
        if self.health.wants_fresh(now)
            && let Some(load) = self.queue_take(Wanted::OneFresh)
        {
            return Ok(Some(load));
        }
        let wall = self.clock.now();
        let doubtful = self.store.doubtful(CALLS_MAX).await?;
        let sendable = |due: &&Due| self.todo(&due.record, wall) == Todo::Send;
        if let Some(due) = doubtful.iter().find(sendable) {
            return Ok(Some(self.queue.take_aside(due, &self.health)));
        }
        Ok(self.queue_take(Wanted::OneInDoubt).or_else(|| self.queue_take(Wanted::OneFresh)))
    }

    /// Reads due records from the ledger into the queue, and gives up those whose window has closed.
    async fn refill(&mut self) -> Result<(), LedgerError> {
        if !self.stale || self.queue.ready(&self.health) >= LINE_LOW {
            return Ok(());
        }
        self.stale = false;
        let now = self.clock.now();
        let due = self.store.due(now, RECORDS_AT_ONCE).await?;
        let full = due.len() == RECORDS_AT_ONCE;
        let mut waiting = Vec::new();
        let (before, mut room) = (self.queue.len(), self.queue.room(&self.health));
        for due in due {
            if self.queue.holds(due.record.id) || self.is_busy(due.record.id) {
                continue;
            }
            match self.todo(&due.record, now) {
                Todo::Send if !is_risky(&due.record, &self.health) => self.queue.push(due),
                Todo::Send if room > 0 => {
                    room -= 1;
                    self.queue.push(due);
                }
                Todo::Send => waiting.push((due.record.id, now.plus(RISKY_PAUSE))),
                Todo::WaitUntil(at) => waiting.push((due.record.id, at)),
                Todo::Give(answered) => self.decide(due.record, answered),
            }
        }
        // The ledger may have more.
        self.stale = full && (self.queue.len() > before || !waiting.is_empty() || !self.notes.is_empty());
        if !waiting.is_empty() {
            self.store.defer(waiting).await?;
        }
        self.write_notes().await
    }

    /// Starts a task that writes the attempt to disk, waits for the call's turn, and makes the call. The sender's
    /// loop does not wait for any of these.
    fn start(&mut self, load: Load) {
        let starts_at = self.pace.ready_at().max(self.uptime());
        self.pace.started(starts_at);
        if !load.in_doubt {
            self.health.fresh_started(starts_at);
        }
        self.calls_made += 1;
        let (number, ids, at) = (self.calls_made, load.ids.clone(), self.instant(starts_at));
        self.flights.insert(number, Flight { load, starts_at });
        let (settings, aws, store) = (self.settings.clone(), Arc::clone(&self.aws), Arc::clone(&self.store));
        let (region, now, signing) = (self.aws.region(), self.clock.now(), self.signing);
        self.calls.spawn(async move {
            let begun = store.begin(ids, region, now).await;
            // Dropped so that the ledger can be closed, and opened by another process, while the call lasts.
            drop(store);
            let landed = match begun {
                Ok(records) if records.is_empty() => Ok(None),
                Ok(records) => {
                    // The request is built before it waits for its turn, so that the whole records can be dropped.
                    let (records, call) = call::call(&settings, aws, records, signing);
                    tokio::time::sleep_until(at).await;
                    Ok(Some((records, call.await)))
                }
                Err(error) => Err(error),
            };
            (number, landed)
        });
    }

    /// Handles the end of a call.
    fn landed(&mut self, landed: Result<Landed, JoinError>) -> Result<(), LedgerError> {
        let (number, landed) = match landed {
            Ok(landed) => landed,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // Calls are not cancelled.
            Err(_) => return Ok(()),
        };
        let Some(flight) = self.flights.remove(&number) else { return Ok(()) };
        // Some records could not be written, were settled meanwhile, or did not fit: read the ledger again.
        let asked = landed.as_ref().ok().and_then(Option::as_ref).map_or(0, |(records, _)| records.len());
        self.stale |= asked < flight.load.ids.len();
        let Some((records, outcome)) = landed? else { return Ok(()) };
        match outcome {
            Ok(answer) => self.answered(records, answer),
            Err(fault) => self.failed(records, flight.starts_at, &fault),
        }
        Ok(())
    }

    fn answered(&mut self, records: Vec<Record>, answer: RecordStatuses) {
        self.heard(None, answer.emulated);
        self.health.suspects.remove(&records);
        self.pace.accepted();
        self.served();
        self.signing.reload_credentials = false;
        self.tried_clock_offset = false;
        self.unsubscribed = Some(false);
        for (record, status) in records.into_iter().zip(answer.statuses) {
            let (answered, pause) = self.settings.policy.judge_status(record.state.in_doubt(), status);
            self.note(record, answered, pause);
        }
    }

    fn failed(&mut self, records: Vec<Record>, started: Duration, fault: &Fault) {
        tracing::debug!(code = %fault.code, detail = fault.detail, "records not accepted");
        let (now, draw, meaning) = (self.uptime(), random::draw(), Meaning::of(fault));
        let access = matches!(fault.class, FaultClass::Access | FaultClass::ExpiredSession);
        self.signing.reload_credentials = access;
        match meaning {
            Meaning::Throttled => {
                self.pace.throttled(started, now, draw);
                self.served();
            }
            Meaning::Content => {
                self.health.suspects.remove(&records);
                self.pace.accepted();
                self.served();
            }
            Meaning::Silent => {
                let subject = match records.as_slice() {
                    [record] => Some(Subject {
                        customer: record.customer.canonical(),
                        dimension: record.dimension.clone(),
                    }),
                    _ => None,
                };
                self.health.silent(subject, now, draw);
                self.health.suspects.add(&records);
            }
            Meaning::Caller => self.caller_refused(fault, started, now, draw),
        }
        let halved = meaning == Meaning::Content && records.len() > 1;
        if halved {
            tracing::warn!(event = "batch_rejected", code = %fault.code, records = records.len(), "AWS rejects a batch for one of its records");
            self.queue.halve(&records.iter().map(|record| record.id).collect::<Vec<_>>());
        }
        let pause = meaning.pause(records.len());
        for record in records {
            // The refusal of a whole call does not say which record is the cause.
            let answered = if halved {
                Answered::Refused(fault.code.as_str().to_owned())
            } else {
                self.settings.policy.judge(record.state.in_doubt(), fault)
            };
            self.note(record, answered, pause);
        }
    }

    fn served(&mut self) {
        if self.health.answered(self.uptime()) {
            self.to_release = RELEASED_MAX;
            tracing::info!(event = "aws_answers_again", "AWS answers again; unsent records are being sent");
        }
    }

    /// AWS does not accept the caller or the account, so no other call would succeed.
    fn caller_refused(&mut self, fault: &Fault, started: Duration, now: Duration, draw: Draw) {
        self.health.unsure();
        if fault.class == FaultClass::Denied {
            self.unsubscribed = Some(true);
            self.heard(Some(fault.code.clone()), fault.emulated);
        }
        if fault.clock_is_off() && !self.tried_clock_offset {
            // The next call is signed with AWS's clock, and made at once, as in registration.
            self.tried_clock_offset = true;
            return;
        }
        let refused = matches!(fault.class, FaultClass::Denied | FaultClass::Misconfigured);
        self.pace.failed(started, now, refused, draw);
    }

    /// Passes AWS's answer on to the gate; only a pod that reports for its own account receives such answers.
    fn heard(&mut self, refusal: Option<FaultCode>, emulated: bool) {
        self.refusal_sender.send_if_modified(|update| {
            let before = update.clone();
            update.refusal = refusal;
            update.emulated |= emulated;
            before != *update
        });
    }

    /// Notes an answer about a record, to be written to disk.
    fn note(&mut self, record: Record, answered: Answered, pause: Pause) {
        let due_at = self.settings.policy.again(&record, pause, self.clock.now(), random::draw());
        self.stale |= due_at.is_none() && matches!(answered, Answered::Refused(_) | Answered::Unknown(_));
        self.notes.push(Outcome { record, answered, due_at });
    }

    /// Notes a decision about a record that was made without a call.
    fn decide(&mut self, record: Record, answered: Answered) {
        self.notes.push(Outcome { record, answered, due_at: None });
    }

    /// Usage of a license that has ended is not carried: AWS does not accept it in another hour either.
    async fn keep_ended(&mut self) -> Result<(), LedgerError> {
        for note in self.notes.iter_mut().filter(|note| matches!(note.answered, Answered::Carry(_))) {
            let Customer::Account { license_arn: Some(arn), .. } = &note.record.customer else { continue };
            let known = self.store.lifecycle().license(license_id(arn).to_owned()).await?;
            if known.is_some_and(|known| known.deprovisioned_at.is_some()) {
                note.answered = Answered::Dead(DEPROVISIONED.to_owned());
            }
        }
        Ok(())
    }

    /// Writes answers and decisions to disk in one commit, then publishes them.
    async fn write_notes(&mut self) -> Result<(), LedgerError> {
        if self.notes.is_empty() {
            return Ok(());
        }
        self.keep_ended().await?;
        let rows: Vec<Noted> = self.notes.iter().map(Outcome::row).collect();
        let (region, now): (Option<Region>, _) = (self.aws.region(), self.clock.now());
        self.store.answered_all(rows, region, now).await?;
        self.changed = true;
        let notes = std::mem::take(&mut self.notes);
        for note in &notes {
            if note.is_settled() {
                self.queue.forget(note.record.id);
            }
        }
        notes::tell(&notes, &self.metrics);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
