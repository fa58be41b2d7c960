//! Watches for usage that AWS does not accept, or that the ledger refuses, in mode `metered`. It performs what
//! [`tollgate_metering::unsent`] decides.
//!
//! Usage that the ledger refused has no row in it, so only this process knows its age. Therefore a new process does not
//! open the gate while the ledger is full.
//!
//! It reads the ledger independently of the sender and does not know how records are sent. Whatever prevents
//! acceptance (a cut network, a wrong clock, another report for the hour, a bug), it sees that usage grows old.

use std::sync::Arc;
use std::time::Duration;

use crate::entitlement::refusal_update::{RefusalSender, Unreported};
use crate::metrics::Metrics;
use crate::usage::notice::{Notices, RejectedRequest};
use tollgate_clock::WallClock;
use tollgate_ledger::store::Store as _;
use tollgate_ledger::writer::Writer;
use tollgate_ledger::{Ledger, LedgerError};
use tollgate_metering::record::Oldest;
use tollgate_metering::unsent::{self, Rule, Timeliness};

/// How often to check while usage is overdue or the gate is shut: AWS's acceptance, or room in the ledger, opens it
/// within this time.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The same while nothing is overdue: an alarm is hours away, and may be late by this time. Not longer than the minutes
/// in which the ledger counts running time, since each look counts those that have begun.
const LOOK_WHILE_TIMELY: Duration = Duration::from_secs(60);

/// The watch.
pub struct Unsent {
    rule: Rule,
    writer: Writer,
    clock: WallClock,
    metrics: Arc<Metrics>,
    refusal_sender: RefusalSender,
    notices: Notices,
    before: Timeliness,
    snapshot: Option<LedgerSnapshot>,
    /// The number of transactions at which the ledger had no waiting usage: none waits until there are more.
    empty_at: Option<u64>,
}

/// What a check has seen of the ledger.
#[derive(Debug, Clone, Copy)]
struct LedgerSnapshot {
    oldest: Oldest,
    full: bool,
    /// The ledger has been full since this process began.
    full_from_start: bool,
}

impl Unsent {
    /// Joins the parts; nothing is checked yet. `notices` knows which usage the ledger has refused.
    #[must_use]
    pub fn new(
        rule: Rule,
        writer: Writer,
        clock: WallClock,
        metrics: Arc<Metrics>,
        refusal_sender: RefusalSender,
        notices: Notices,
    ) -> Self {
        metrics.usage_overdue_alarm(rule.alarm_after());
        let writer = writer.unnoticed();
        Self {
            rule,
            writer,
            clock,
            metrics,
            refusal_sender,
            notices,
            before: Timeliness::Timely,
            snapshot: None,
            empty_at: None,
        }
    }

    /// Checks once. Call this before the gate may open: usage that was overdue before a restart still is, and a full
    /// ledger would refuse the usage of an application that the gate lets start.
    pub async fn look(&mut self) -> Result<(), LedgerError> {
        // Read before the query, so that a write in between leads to another query.
        let written = self.writer.written();
        let rests = self.empty_at == Some(written) && self.notices.untaken().is_none();
        let snapshot = match self.snapshot.filter(|snapshot| rests && !snapshot.full) {
            Some(snapshot) => snapshot,
            None => self.snapshot_now(written).await?,
        };
        self.snapshot = Some(snapshot);
        let unaccepted = unsent::age(snapshot.oldest, self.clock.now());
        let untaken = self.untaken(snapshot);
        let age = unaccepted.max(untaken);
        let why = if untaken > unaccepted { Unreported::NotTaken } else { Unreported::NotAccepted };
        let timeliness = self.rule.judge(age);
        self.metrics.usage_overdue(age);
        if timeliness != self.before {
            say(timeliness, why, age, snapshot.oldest);
            self.before = timeliness;
        }
        let unreported = if self.rule.close_after.is_some() && snapshot.full_from_start {
            Some(Unreported::NotTaken)
        } else {
            (timeliness == Timeliness::Unreported).then_some(why)
        };
        self.refusal_sender
            .send_if_modified(|update| std::mem::replace(&mut update.unreported, unreported) != unreported);
        Ok(())
    }

    async fn snapshot_now(&mut self, written: u64) -> Result<LedgerSnapshot, LedgerError> {
        let read = |ledger: &mut Ledger| Ok((ledger.oldest_unaccepted()?, ledger.is_full()?));
        match (self.writer.with(read).await, self.snapshot) {
            (Ok((waiting, full)), before) => {
                self.empty_at = waiting.is_none().then_some(written);
                let full_from_start = full && before.is_none_or(|before| before.full_from_start);
                Ok(LedgerSnapshot { oldest: waiting.unwrap_or_default(), full, full_from_start })
            }
            // The sender logs this fault. What was seen before counts until the disk can be read.
            (Err(LedgerError::Io(_)), Some(before)) => Ok(before),
            (Err(error), _) => Err(error),
        }
    }

    /// For how long the ledger has refused all usage.
    fn untaken(&self, snapshot: LedgerSnapshot) -> Duration {
        let Some(untaken) = self.notices.untaken() else { return Duration::ZERO };
        // An overdue age ends once the ledger has space again: an application behind a shut gate reports nothing to
        // end it.
        let room = untaken.latest == RejectedRequest::LedgerFull && !snapshot.full;
        if room && self.rule.judge(untaken.age()) > Timeliness::Timely {
            self.notices.taken();
            return Duration::ZERO;
        }
        untaken.age()
    }

    /// Checks until it is dropped; ends only when the ledger fails.
    pub async fn run(mut self) -> LedgerError {
        let mut jumps = self.clock.jumps();
        loop {
            if let Err(error) = self.look().await {
                return error;
            }
            let shut = self.refusal_sender.borrow().unreported.is_some();
            let calm = self.before == Timeliness::Timely && !shut;
            let rest = if calm { LOOK_WHILE_TIMELY } else { LOOK_EVERY };
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                _ = jumps.changed() => {}
            }
        }
    }
}

fn say(timeliness: Timeliness, why: Unreported, age: Duration, oldest: Oldest) {
    let (seconds, hour) = (age.as_secs(), oldest.hour.map(|hour| hour.to_string()));
    let what = match why {
        Unreported::NotAccepted => {
            "AWS has not accepted usage for a long time; `tollgate ledger list` shows why"
        }
        Unreported::NotTaken => {
            "the ledger has accepted no usage for a long time; the lines usage_not_taken and ledger_unusable say why"
        }
    };
    match timeliness {
        Timeliness::Timely => tracing::info!(event = "usage_accepted_again", "no usage is overdue any more"),
        Timeliness::Alarming => tracing::error!(event = "usage_overdue", seconds, hour, "{what}"),
        Timeliness::Unreported => tracing::error!(
            event = "usage_unreported",
            seconds,
            hour,
            "longer than on_unsent allows, so the gate shuts: {what}"
        ),
    }
}

#[cfg(test)]
mod tests;
