//! Counts the time of the open gate as usage of the dimensions that have a heartbeat. It performs what
//! [`tollgate_metering::heartbeat`] decides.
//!
//! - The seconds go into the ledger as events do, but without an `id`: this task writes each second once.
//! - They are written every [`BEAT_EVERY`], when the gate shuts, when the clock jumps and before a shutdown seals. A
//!   kill loses what was not written.
//! - What the ledger does not take is kept and tried again.
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

/// How often the seconds are written: what a kill may lose. One small commit, so that an idle sidecar costs little.
pub const BEAT_EVERY: Duration = Duration::from_secs(10);

/// The step of the ledger that counts events.
type Take = Box<dyn Fn(Vec<Event>) -> StoreFuture<'static, Vec<Taken>> + Send + Sync>;

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
        let take = move |events| -> StoreFuture<'static, Vec<Taken>> {
            let store = Arc::clone(&store);
            Box::pin(async move { store.take(events, Box::new(())).await })
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
            counted: Mutex::new(Counted { time, failing: false, waits: false }),
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
        loop {
            let open = self.write().await;
            let changed = async {
                // Without a publisher the gate stays as it is.
                if gate.wait_for(|fact| fact.standing.gate_open() != open).await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = tokio::time::sleep(BEAT_EVERY) => {}
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
}

impl Parts {
    fn observe(&self, time: &mut OpenTime) -> bool {
        let open = self.gate.borrow().standing.gate_open();
        time.observe(open, clock::monotonic().saturating_duration_since(self.began), self.clock.now());
        open
    }

    async fn commit(&self, counted: &mut Counted) {
        let beats = counted.time.take();
        if beats.is_empty() {
            return;
        }
        let events = beats.iter().map(|beat| counted.time.event(beat)).collect();
        match (self.take)(events).await {
            Ok(taken) => self.taken(counted, beats, &taken),
            Err(error) => {
                beats.into_iter().for_each(|beat| counted.time.failed(beat));
                self.failed(counted, &error);
            }
        }
    }

    fn taken(&self, counted: &mut Counted, beats: Vec<Beat>, taken: &[Taken]) {
        let mut waits = None;
        for (index, beat) in beats.into_iter().enumerate() {
            if taken.get(index) == Some(&Taken::Accepted) {
                self.metrics.usage_event(counted.time.dimension(&beat), "accepted", 1);
                self.notices.taken();
            } else {
                waits = Some(counted.time.dimension(&beat).to_owned());
                counted.time.failed(beat);
            }
        }
        if let Some(dimension) = waits.as_deref().filter(|_| !counted.waits) {
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
