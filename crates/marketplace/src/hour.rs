//! Hours in UTC: AWS accepts one value for each dimension, pod and hour. Pure.

use std::fmt;
use std::time::Duration;

use tollgate_time::Timestamp;

/// An hour, by its number since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hour(i64);

const SECONDS: i64 = 3600;

impl Hour {
    /// The hour that contains `at`.
    #[must_use]
    pub const fn of(at: Timestamp) -> Self {
        Self(at.unix_seconds().div_euclid(SECONDS))
    }

    /// From its number since the epoch, as it is stored.
    #[must_use]
    pub const fn from_number(number: i64) -> Self {
        Self(number)
    }

    /// Its number since the epoch.
    #[must_use]
    pub const fn number(self) -> i64 {
        self.0
    }

    /// Its first moment.
    #[must_use]
    pub const fn start(self) -> Timestamp {
        Timestamp::from_unix_seconds(self.0.saturating_mul(SECONDS))
    }

    /// The first moment after it.
    #[must_use]
    pub const fn end(self) -> Timestamp {
        self.next().start()
    }

    /// The following hour.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The latest hour that is closed at `now`: its end is at least `settle` ago.
    #[must_use]
    pub fn latest_closed(now: Timestamp, settle: Duration) -> Self {
        Self(Self::of(now.minus(settle)).0 - 1)
    }
}

impl fmt::Display for Hour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.start().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    #[test]
    fn an_hour_has_its_start_and_not_its_end() {
        let hour = Hour::of(at("2026-11-24T08:59:59Z"));
        assert_eq!(hour.to_string(), "2026-11-24T08:00:00Z");
        assert_eq!((Hour::of(hour.start()), Hour::of(hour.end())), (hour, hour.next()));
        assert_eq!(Hour::of(at("1969-12-31T23:30:00Z")).number(), -1);
    }

    #[test]
    fn an_hour_closes_settle_after_its_end() {
        let settle = Duration::from_secs(120);
        let eight = Hour::of(at("2026-11-24T08:00:00Z"));
        assert!(Hour::latest_closed(at("2026-11-24T09:01:59Z"), settle) < eight);
        assert_eq!(Hour::latest_closed(at("2026-11-24T09:02:00Z"), settle), eight);
        assert_eq!(Hour::latest_closed(at("2026-11-24T10:01:59Z"), settle), eight);
    }
}
