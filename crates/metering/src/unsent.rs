//! Decides when usage that AWS does not accept raises an alarm, and when it shuts the gate (`on_unsent`). Pure.

use std::time::Duration;

use crate::record::Oldest;
use tollgate_time::Timestamp;

/// The seller's setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Usage older than this shuts the gate; `None`: never.
    pub close_after: Option<Duration>,
}

/// Half of AWS's window of six hours, so that there is time to act.
const ALARM_AFTER: Duration = Duration::from_secs(3 * 3600);

/// What to do about the oldest usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Nothing.
    Timely,
    /// Raise an alarm.
    Alarming,
    /// The state is `unreported`.
    Unreported,
}

impl Rule {
    /// The age at which to raise an alarm.
    #[must_use]
    pub fn alarm_after(self) -> Duration {
        self.close_after.map_or(ALARM_AFTER, |after| after / 2)
    }

    /// What to do about usage of this age.
    #[must_use]
    pub fn judge(self, age: Duration) -> Verdict {
        if self.close_after.is_some_and(|after| age > after) {
            Verdict::Unreported
        } else if age > self.alarm_after() {
            Verdict::Alarming
        } else {
            Verdict::Timely
        }
    }
}

/// The age of the oldest usage: by the wall clock or by the count of running time, whichever is longer. Setting the
/// clock back does not change the count; stopping the process does not change the clock.
#[must_use]
pub fn age(oldest: Oldest, now: Timestamp) -> Duration {
    let by_clock = oldest.hour.map_or(Duration::ZERO, |hour| now.since(hour.end()));
    by_clock.max(oldest.running)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_marketplace::Hour;

    const HOUR: Duration = Duration::from_secs(3600);
    /// 2026-11-24T08:00:00Z, the start of an hour.
    const START: Timestamp = Timestamp::from_unix_seconds(1_795_507_200);

    fn oldest(hour_ended: Option<u32>, ran: u32) -> (Oldest, Timestamp) {
        let now = START.plus(100 * HOUR);
        let hour = hour_ended.map(|hours| Hour::of(now.minus((hours + 1) * HOUR)));
        (Oldest { hour, running: ran * HOUR }, now)
    }

    #[test]
    fn the_larger_of_both_ages_decides() {
        use Verdict::{Alarming, Timely, Unreported};
        let close = Some(4 * HOUR);
        for (close_after, hour_ended, ran, expected) in [
            // No usage waits, or none that was sent to AWS.
            (close, None, 0, Timely),
            (close, None, 2, Timely),
            // By the clock alone: the pod was down, or has just been restarted.
            (close, Some(2), 0, Timely),
            (close, Some(3), 0, Alarming),
            (close, Some(4), 0, Alarming),
            (close, Some(5), 0, Unreported),
            // By running time alone: the clock was set back, or stopped.
            (close, Some(0), 3, Alarming),
            (close, None, 3, Alarming),
            (close, Some(0), 5, Unreported),
            (close, None, 5, Unreported),
            // The seller keeps the gate open: above three hours there is an alarm, and never more than that.
            (None, Some(3), 3, Timely),
            (None, Some(4), 0, Alarming),
            (None, None, 4, Alarming),
            (None, Some(90), 90, Alarming),
        ] {
            let (oldest, now) = oldest(hour_ended, ran);
            assert_eq!(
                Rule { close_after }.judge(age(oldest, now)),
                expected,
                "{close_after:?} {hour_ended:?} {ran}"
            );
        }
    }

    #[test]
    fn a_clock_before_the_hour_leaves_the_count_of_running_time() {
        let oldest = Oldest { hour: Some(Hour::of(START)), running: 3 * HOUR };
        assert_eq!(age(oldest, START.minus(1000 * HOUR)), 3 * HOUR);
        assert_eq!(age(oldest, START.plus(1001 * HOUR)), 1000 * HOUR);
    }
}
