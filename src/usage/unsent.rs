//! Watches for usage that AWS does not accept, in mode `metered`: performs what [`tollgate_metering::unsent`] decides.
//!
//! It reads the ledger beside the sender and knows nothing of how records are sent: whatever keeps usage from being
//! accepted, a cut network, a wrong clock, another's report or a fault of ours, it only sees that usage grow old.

use std::sync::Arc;
use std::time::Duration;

use crate::entitlement::word::Tell;
use crate::metrics::Metrics;
use tollgate_clock::WallClock;
use tollgate_ledger::writer::Writer;
use tollgate_ledger::{Ledger, LedgerError};
use tollgate_metering::unsent::{self, Rule, Verdict};

/// An answer of AWS opens the gate again within this time.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The same while nothing is overdue: an alarm and a gate that shuts are hours away, and may be so much later.
const LOOK_WHILE_TIMELY: Duration = Duration::from_secs(30);

/// The watch's surroundings.
pub struct Unsent {
    rule: Rule,
    writer: Writer,
    clock: WallClock,
    metrics: Arc<Metrics>,
    tell: Tell,
    before: Verdict,
    /// No usage waited when this many transactions had changed the ledger: until another does, none waits.
    empty_at: Option<u64>,
}

impl Unsent {
    /// Joins the parts; nothing is looked at yet.
    #[must_use]
    pub fn new(rule: Rule, writer: Writer, clock: WallClock, metrics: Arc<Metrics>, tell: Tell) -> Self {
        metrics.usage_overdue_alarm(rule.alarm_after());
        Self {
            rule,
            writer: writer.unnoticed(),
            clock,
            metrics,
            tell,
            before: Verdict::Timely,
            empty_at: None,
        }
    }

    /// Looks once. Do so before the gate may open: what was overdue before a restart still is.
    pub async fn look(&mut self) -> Result<(), LedgerError> {
        // Before the question: what is written meanwhile is looked at again.
        let written = self.writer.written();
        if self.empty_at == Some(written) {
            return Ok(());
        }
        let waiting = self.writer.with(Ledger::oldest_unaccepted).await?;
        self.empty_at = waiting.is_none().then_some(written);
        let oldest = waiting.unwrap_or_default();
        let now = self.clock.now();
        let (age, verdict) = (unsent::age(oldest, now), self.rule.judge(oldest, now));
        self.metrics.usage_overdue(age);
        if verdict != self.before {
            let (seconds, hour) = (age.as_secs(), oldest.hour.map(|hour| hour.to_string()));
            match verdict {
                Verdict::Timely => tracing::info!(
                    event = "usage_accepted_again",
                    "AWS has accepted the usage that was overdue"
                ),
                Verdict::Alarming => tracing::error!(
                    event = "usage_overdue",
                    seconds,
                    hour,
                    "AWS has not accepted usage for long; `tollgate ledger list` shows why"
                ),
                Verdict::Unreported => tracing::error!(
                    event = "usage_unreported",
                    seconds,
                    hour,
                    "AWS has not accepted usage for longer than on_unsent allows; the gate shuts until it does"
                ),
            }
            self.before = verdict;
        }
        let unreported = verdict == Verdict::Unreported;
        self.tell.send_if_modified(|word| std::mem::replace(&mut word.unreported, unreported) != unreported);
        Ok(())
    }

    /// Looks until it is dropped; ends only when the ledger fails.
    pub async fn run(mut self) -> LedgerError {
        let mut jumps = self.clock.jumps();
        loop {
            match self.look().await {
                // The sender says so, and the verdict of before stands until the disk can be read.
                Ok(()) | Err(LedgerError::Io(_)) => {}
                Err(error) => return error,
            }
            let rest = if self.before == Verdict::Timely { LOOK_WHILE_TIMELY } else { LOOK_EVERY };
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                _ = jumps.changed() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
