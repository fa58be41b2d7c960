//! Counts the time of the open gate as usage of the dimensions that have a heartbeat. It performs what
//! [`tollgate_metering::heartbeat`] decides.
//!
//! - The seconds go into the ledger as events do, but without an `id`: this task writes each second once.
//! - They are written [`FIRST_BEAT`] after the gate has opened, then every [`BEAT_EVERY`], when the gate shuts, when
//!   the clock jumps and before a shutdown seals. A kill loses what was not written.
//! - What the ledger does not take is kept and tried again. What an hour does not take, because it began with another
//!   rule, is written to the next hour at once.
//!
//! It knows the ledger and the gate, but neither the intake nor the sender.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::entitlement::Watch;
use crate::metrics::Metrics;
use crate::usage::notice::{Notices, RejectedRequest};
use tollgate_clock::{self as clock, WallClock};
use tollgate_ledger::store::{Store, StoreFuture};
use tollgate_ledger::{LedgerError, Taken};
use tollgate_metering::event::Event;
use tollgate_metering::heartbeat::{Beat, Heartbeat, OpenTime, Passing};
use tollgate_time::Timestamp;

/// How often the seconds are written: what a kill may lose. One small commit, so that an idle sidecar costs little.
pub const BEAT_EVERY: Duration = Duration::from_secs(10);

/// When the first second is written: an hour that is rounded up is billed, although the process is killed soon.
pub const FIRST_BEAT: Duration = Duration::from_secs(1);

/// How often a beat is put off to the next hour at once. A later hour is too far ahead for the ledger.
const PUT_OFF_MAX: usize = 1;

/// The step of the ledger that counts time.
type Take = Box<dyn Fn(Vec<Event>, Timestamp) -> StoreFuture<'static, Vec<Taken>> + Send + Sync>;

/// What a process counts by itself. Clones share it.
#[derive(Clone)]
pub struct Heartbeats(Arc<Parts>);

struct Parts {
    counted: Mutex<Counted>,
    gate: Watch,
    take: Take,
    clock: WallClock,
    metrics: Arc<Metrics>,
    notices: Notices,
    /// The monotonic clock counts from here.
    began: Instant,
}

#[derive(Debug)]
struct Counted {
    time: OpenTime,
    /// What the ledger has been given without having answered: if nobody waits for the answer any more, it is not known
    /// whether this is written, and it must not be written twice.
    writing: Vec<Beat>,
    /// The latest attempt to write failed.
    failing: bool,
    /// The latest attempt left something out.
    waits: bool,
}

impl Heartbeats {
    /// Joins the parts; nothing is counted before [`Heartbeats::run`].
    #[must_use]
    pub fn new(
        heartbeats: Vec<Heartbeat>,
        passing: Passing,
        gate: Watch,
        store: &dyn Store,
        clock: WallClock,
        metrics: Arc<Metrics>,
        notices: Notices,
    ) -> Self {
        // The sender need not look at once when a few seconds were counted.
        let store = store.unnoticed();
        let take = move |events, now| -> StoreFuture<'static, Vec<Taken>> {
            let store = Arc::clone(&store);
            Box::pin(async move { store.take_time(events, now).await })
        };
        Self::of(OpenTime::new(heartbeats, passing), gate, Box::new(take), clock, metrics, notices)
    }

    fn of(
        time: OpenTime,
        gate: Watch,
        take: Take,
        clock: WallClock,
        metrics: Arc<Metrics>,
        notices: Notices,
    ) -> Self {
        Self(Arc::new(Parts {
            counted: Mutex::new(Counted { time, writing: Vec::new(), failing: false, waits: false }),
            gate,
            take,
            clock,
            metrics,
            notices,
            began: clock::monotonic(),
        }))
    }

    /// Counts until it is dropped.
    pub async fn run(&self) {
        let (mut gate, mut jumps) = (self.0.gate.clone(), self.0.clock.jumps());
        // After the first beat of an open gate the next one comes as if there had been none.
        let (mut first, mut pause) = (true, BEAT_EVERY);
        loop {
            let open = self.write().await;
            first |= !open;
            pause = match open && std::mem::take(&mut first) {
                true => FIRST_BEAT,
                false if pause == FIRST_BEAT => BEAT_EVERY.saturating_sub(FIRST_BEAT),
                false => BEAT_EVERY,
            };
            let changed = async {
                // Without a publisher the gate stays as it is.
                if gate.wait_for(|fact| fact.standing.gate_open() != open).await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = changed => {}
                _ = jumps.changed() => {}
            }
        }
    }

    /// Writes the time up to now; returns whether the gate is open.
    pub async fn write(&self) -> bool {
        let mut counted = self.0.counted.lock().await;
        let open = self.0.observe(&mut counted.time);
        self.0.commit(&mut counted).await;
        open
    }

    /// Writes the time up to now, and counts no more.
    pub async fn finish(&self) {
        let mut counted = self.0.counted.lock().await;
        self.0.observe(&mut counted.time);
        counted.time.end();
        self.0.commit(&mut counted).await;
    }

    /// What was counted and is not in the ledger, as a sentence; `None` if that is nothing.
    pub fn unwritten(&self) -> Option<String> {
        // A task that still writes waits for a ledger that does not answer.
        let Ok(counted) = self.0.counted.try_lock() else {
            return Some(
                "the latest time of the open gate may not be written: the ledger does not answer".to_owned(),
            );
        };
        let mut unwritten = counted.time.unwritten();
        for beat in &counted.writing {
            *unwritten.entry(counted.time.dimension(beat)).or_default() += beat.seconds;
        }
        let named: Vec<String> =
            unwritten.iter().map(|(dimension, seconds)| format!("{seconds} s of {dimension}")).collect();
        let named = Some(named.join(", ")).filter(|named| !named.is_empty())?;
        Some(format!(
            "time of the open gate was not written ({named}): it is not in the ledger, and not billed"
        ))
    }
}

impl Parts {
    fn observe(&self, time: &mut OpenTime) -> bool {
        let open = self.gate.borrow().standing.gate_open();
        time.observe(open, clock::monotonic().saturating_duration_since(self.began), self.clock.now());
        open
    }

    async fn commit(&self, counted: &mut Counted) {
        let mut beats = counted.time.take();
        if beats.is_empty() {
            return;
        }
        let mut waits = None;
        for _ in 0..=PUT_OFF_MAX {
            let events = beats.iter().map(|beat| counted.time.event(beat)).collect();
            counted.writing.clone_from(&beats);
            let taken = (self.take)(events, self.clock.now()).await;
            counted.writing.clear();
            match taken {
                Ok(taken) => waits = self.taken(counted, beats, &taken).or(waits),
                Err(error) => {
                    beats.into_iter().for_each(|beat| counted.time.failed(beat));
                    return self.failed(counted, &error);
                }
            }
            beats = counted.time.take();
            if beats.is_empty() {
                break;
            }
        }
        beats.into_iter().for_each(|beat| counted.time.failed(beat));
        self.tell(counted, waits.as_deref());
    }

    /// Returns a dimension of which an hour takes nothing.
    fn taken(&self, counted: &mut Counted, beats: Vec<Beat>, taken: &[Taken]) -> Option<String> {
        let mut waits = None;
        for (index, beat) in beats.into_iter().enumerate() {
            match taken.get(index) {
                Some(Taken::Accepted) => {
                    self.metrics.usage_event(counted.time.dimension(&beat), "accepted", 1);
                    // A full ledger takes time too, so this says nothing about the usage that it refuses.
                    self.notices.reported();
                }
                Some(Taken::OtherRule(_)) => {
                    waits = Some(counted.time.dimension(&beat).to_owned());
                    counted.time.later(beat);
                }
                _ => counted.time.failed(beat),
            }
        }
        waits
    }

    fn tell(&self, counted: &mut Counted, waits: Option<&str>) {
        if let Some(dimension) = waits.filter(|_| !counted.waits) {
            tracing::warn!(
                event = "heartbeat_waits",
                dimension,
                "the hour began with another rule of [dimension.NAME], and is billed by it: the time of the open gate counts to the next hour"
            );
        }
        if std::mem::replace(&mut counted.failing, false) {
            tracing::info!(event = "heartbeat_written", "the time of the open gate is written again");
        }
        counted.waits = waits.is_some();
    }

    fn failed(&self, counted: &mut Counted, error: &LedgerError) {
        self.notices.heartbeat_rejected(match error {
            LedgerError::Full { .. } => RejectedRequest::LedgerFull,
            _ => RejectedRequest::LedgerUnavailable,
        });
        if !std::mem::replace(&mut counted.failing, true) {
            tracing::error!(
                event = "heartbeat_not_written",
                %error,
                "the time of the open gate cannot be written; it is kept in memory, and tried again every 10 s"
            );
        }
    }
}

#[cfg(test)]
mod tests;
