//! Decides when the next call may start. Pure: times are durations since the sender began.
//!
//! AWS accepts ten calls a second for each account and region. Starts are counted, not ends, so a slow call does not
//! delay the next ones. A throttle halves the rate, since other pods of the account share the quota, and the rate
//! recovers in steps.

use std::time::Duration;

use tollgate_marketplace::schedule::{self, Draw};

/// A hundredth less than AWS's quota allows: no second has more than ten starts.
const INTERVAL: Duration = Duration::from_millis(101);

/// A start that is late by at most this does not delay the next one. Still no second has eleven starts.
const LATE_MAX: Duration = Duration::from_millis(9);

/// The interval of the slowest rate.
const INTERVAL_MAX: Duration = Duration::from_millis(3232);

/// By how many calls a second the rate rises with each call that AWS accepts.
const RECOVERY: f64 = 0.25;

/// The rate of calls.
#[derive(Debug, Clone, PartialEq)]
pub struct Pace {
    interval: Duration,
    next_at: Duration,
    paused_until: Duration,
    /// When the pace last slowed down.
    slowed_at: Duration,
    /// Since when faults that concern every call have followed each other.
    failing_since: Option<Duration>,
}

impl Default for Pace {
    /// The full rate, at once.
    fn default() -> Self {
        Self {
            interval: INTERVAL,
            next_at: Duration::ZERO,
            paused_until: Duration::ZERO,
            slowed_at: Duration::ZERO,
            failing_since: None,
        }
    }
}

impl Pace {
    /// When the next call may start.
    pub fn ready_at(&self) -> Duration {
        self.next_at.max(self.paused_until)
    }

    /// A call starts.
    pub fn started(&mut self, now: Duration) {
        let scheduled = self.next_at.max(now.saturating_sub(LATE_MAX));
        self.next_at = scheduled + self.interval;
    }

    /// AWS accepted a call.
    pub fn accepted(&mut self) {
        self.failing_since = None;
        let rate = 1.0 / self.interval.as_secs_f64() + RECOVERY;
        self.interval = Duration::from_secs_f64(1.0 / rate).max(INTERVAL);
    }

    /// AWS throttled a call that started at `started`. Throttles of calls that were in flight together count as one.
    pub fn throttled(&mut self, started: Duration, now: Duration, draw: Draw) {
        if started < self.slowed_at {
            return;
        }
        self.slowed_at = now;
        self.interval = (self.interval * 2).min(INTERVAL_MAX);
        let waited = now - *self.failing_since.get_or_insert(now);
        self.pause(now + schedule::transient(waited, draw));
    }

    /// A fault that concerns every call: nothing starts for a while. `refused`: AWS decided, and people must act.
    pub fn failed(&mut self, started: Duration, now: Duration, refused: bool, draw: Draw) {
        if started < self.slowed_at {
            return;
        }
        self.slowed_at = now;
        let waited = now - *self.failing_since.get_or_insert(now);
        let pause = if refused { schedule::refused(draw) } else { schedule::transient(waited, draw) };
        self.pause(now + pause);
    }

    fn pause(&mut self, until: Duration) {
        self.paused_until = self.paused_until.max(until);
    }

    /// Ends the pause.
    pub fn resume(&mut self) {
        self.paused_until = Duration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn starts_keep_to_their_schedule_and_no_second_holds_eleven() {
        let mut pace = Pace::default();
        let mut starts = Vec::new();
        let mut now = Duration::from_secs(5);
        for late in [0, 3, 9, 0, 2, 8, 0, 0, 5, 9, 0, 1].into_iter().cycle().take(2000) {
            now = now.max(pace.ready_at()) + late * MS;
            pace.started(now);
            starts.push(now);
        }
        for window in starts.windows(11) {
            assert!(window[10] - window[0] > Duration::from_secs(1), "{window:?}");
        }
        let took = (starts[1999] - starts[0]).as_secs_f64();
        assert!(1999.0 / took > 9.85, "{} calls a second", 1999.0 / took);
    }

    #[test]
    fn an_idle_time_is_not_made_up_for() {
        let mut pace = Pace::default();
        pace.started(Duration::from_secs(1));
        pace.started(Duration::from_secs(100));
        assert!(pace.ready_at() >= Duration::from_secs(100) + INTERVAL - LATE_MAX);
    }

    #[test]
    fn a_throttle_halves_the_rate_once_for_calls_in_flight_and_it_comes_back() {
        let mut pace = Pace::default();
        let at = Duration::from_secs;
        pace.throttled(at(9), at(10), Draw::MIDDLE);
        let paused = pace.ready_at();
        assert!(paused >= at(12), "{paused:?}");
        pace.throttled(at(9), at(11), Draw::MIDDLE);
        assert_eq!((pace.interval, pace.ready_at()), (INTERVAL * 2, paused));
        pace.throttled(at(13), at(13), Draw::MIDDLE);
        assert_eq!(pace.interval, INTERVAL * 4);
        for _ in 0..40 {
            pace.accepted();
        }
        assert_eq!(pace.interval, INTERVAL);
        for second in 20..90 {
            pace.throttled(at(second), at(second), Draw::MIDDLE);
        }
        assert_eq!(pace.interval, INTERVAL_MAX);
    }
}
