//! Watches for usage that AWS does not accept, or that the ledger does not take, in mode `metered`: performs what
//! [`tollgate_metering::unsent`] decides.
//!
//! What the ledger refused has no row in it, so its age is this process' own. A new process does not open the gate onto
//! a ledger that is full.
//!
//! It reads the ledger beside the sender and knows nothing of how records are sent: whatever keeps usage from being
//! accepted, a cut network, a wrong clock, another's report or a fault of ours, it only sees that usage grow old.

use std::sync::Arc;
use std::time::Duration;

use crate::entitlement::word::{Tell, Unreported};
use crate::metrics::Metrics;
use crate::usage::notice::{Notices, Refused};
use tollgate_clock::WallClock;
use tollgate_ledger::writer::Writer;
use tollgate_ledger::{Ledger, LedgerError};
use tollgate_metering::record::Oldest;
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
    notices: Notices,
    before: Verdict,
    seen: Option<Seen>,
    /// No usage waited when this many transactions had changed the ledger: until another does, none waits.
    empty_at: Option<u64>,
}

/// What a look has seen of the ledger.
#[derive(Debug, Clone, Copy)]
struct Seen {
    oldest: Oldest,
    full: bool,
    /// It was full when this process began, and has been since.
    full_from_start: bool,
}

impl Unsent {
    /// Joins the parts; nothing is looked at yet. `notices` is told about usage that the ledger does not take.
    #[must_use]
    pub fn new(
        rule: Rule,
        writer: Writer,
        clock: WallClock,
        metrics: Arc<Metrics>,
        tell: Tell,
        notices: Notices,
    ) -> Self {
        metrics.usage_overdue_alarm(rule.alarm_after());
        let writer = writer.unnoticed();
        Self {
            rule,
            writer,
            clock,
            metrics,
            tell,
            notices,
            before: Verdict::Timely,
            seen: None,
            empty_at: None,
        }
    }

    /// Looks once. Do so before the gate may open: what was overdue before a restart still is, and a ledger that is
    /// full takes nothing of what a gate would let through.
    pub async fn look(&mut self) -> Result<(), LedgerError> {
        // Before the question: what is written meanwhile is looked at again.
        let written = self.writer.written();
        let rests = self.empty_at == Some(written) && self.notices.untaken().is_none();
        let seen = match self.seen.filter(|seen| rests && !seen.full) {
            Some(seen) => seen,
            None => self.seen_now(written).await?,
        };
        self.seen = Some(seen);
        let unaccepted = unsent::age(seen.oldest, self.clock.now());
        let untaken = self.untaken(seen);
        let age = unaccepted.max(untaken);
        let why = if untaken > unaccepted { Unreported::NotTaken } else { Unreported::NotAccepted };
        let verdict = self.rule.judge(age);
        self.metrics.usage_overdue(age);
        if verdict != self.before {
            say(verdict, why, age, seen.oldest);
            self.before = verdict;
        }
        let unreported = if self.rule.close_after.is_some() && seen.full_from_start {
            Some(Unreported::NotTaken)
        } else {
            (verdict == Verdict::Unreported).then_some(why)
        };
        self.tell.send_if_modified(|word| std::mem::replace(&mut word.unreported, unreported) != unreported);
        Ok(())
    }

    async fn seen_now(&mut self, written: u64) -> Result<Seen, LedgerError> {
        let read = |ledger: &mut Ledger| Ok((ledger.oldest_unaccepted()?, ledger.is_full()?));
        match (self.writer.with(read).await, self.seen) {
            (Ok((waiting, full)), before) => {
                self.empty_at = waiting.is_none().then_some(written);
                let full_from_start = full && before.is_none_or(|before| before.full_from_start);
                Ok(Seen { oldest: waiting.unwrap_or_default(), full, full_from_start })
            }
            // The sender says so. What was seen before stands until the disk can be read.
            (Err(LedgerError::Io(_)), Some(before)) => Ok(before),
            (Err(error), _) => Err(error),
        }
    }

    /// For how long the ledger has taken no usage.
    fn untaken(&self, seen: Seen) -> Duration {
        let Some(untaken) = self.notices.untaken() else { return Duration::ZERO };
        // An application that waits for the gate reports nothing, so the gate would never open.
        let room = untaken.latest == Refused::LedgerFull && !seen.full;
        if room && self.rule.judge(untaken.age()) > Verdict::Timely {
            self.notices.taken();
            return Duration::ZERO;
        }
        untaken.age()
    }

    /// Looks until it is dropped; ends only when the ledger fails.
    pub async fn run(mut self) -> LedgerError {
        let mut jumps = self.clock.jumps();
        loop {
            if let Err(error) = self.look().await {
                return error;
            }
            let rest = if self.before == Verdict::Timely { LOOK_WHILE_TIMELY } else { LOOK_EVERY };
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                _ = jumps.changed() => {}
            }
        }
    }
}

fn say(verdict: Verdict, why: Unreported, age: Duration, oldest: Oldest) {
    let (seconds, hour) = (age.as_secs(), oldest.hour.map(|hour| hour.to_string()));
    let what = match why {
        Unreported::NotAccepted => "AWS has not accepted usage for long; `tollgate ledger list` shows why",
        Unreported::NotTaken => {
            "the ledger has taken no usage for long; the lines usage_not_taken and ledger_unusable say why"
        }
    };
    match verdict {
        Verdict::Timely => tracing::info!(event = "usage_accepted_again", "no usage is overdue any more"),
        Verdict::Alarming => tracing::error!(event = "usage_overdue", seconds, hour, "{what}"),
        Verdict::Unreported => tracing::error!(
            event = "usage_unreported",
            seconds,
            hour,
            "longer than on_unsent allows, so the gate shuts: {what}"
        ),
    }
}

#[cfg(test)]
mod tests;
