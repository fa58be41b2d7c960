//! Points in wall time and their text forms. Pure: it reads no clock.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::{Rfc2822, Rfc3339};

/// A point in wall time, in milliseconds since the Unix epoch. Displayed as RFC 3339 in UTC, in whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From milliseconds since the epoch.
    #[must_use]
    pub const fn from_unix_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// From seconds since the epoch; out-of-range values saturate.
    #[must_use]
    pub const fn from_unix_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// Milliseconds since the epoch.
    #[must_use]
    pub const fn unix_millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the epoch, rounded down.
    #[must_use]
    pub const fn unix_seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// Later by `duration`; saturates.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis(duration)))
    }

    /// Earlier by `duration`; saturates.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(millis(duration)))
    }

    /// The time from `earlier` to `self` in milliseconds; negative when `earlier` is later.
    #[must_use]
    pub const fn millis_since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The time from `earlier` to `self`, or zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.millis_since(earlier)).unwrap_or(0))
    }

    /// The first moment of the next month, in UTC; the largest value if the calendar has no such month.
    #[must_use]
    pub fn next_month(self) -> Self {
        let date = OffsetDateTime::from_unix_timestamp(self.unix_seconds()).ok();
        let next = date.and_then(|at| {
            let (year, month) = match at.month() {
                time::Month::December => (at.year() + 1, time::Month::January),
                month => (at.year(), month.next()),
            };
            time::Date::from_calendar_date(year, month, 1).ok()
        });
        next.map_or(Self(i64::MAX), |date| {
            Self::from_unix_seconds(date.midnight().assume_utc().unix_timestamp())
        })
    }

    /// RFC 3339 with milliseconds, for clocks that are read over HTTP.
    #[must_use]
    pub fn to_rfc3339_millis(self) -> String {
        let whole = self.to_string();
        match whole.strip_suffix('Z') {
            Some(seconds) => format!("{seconds}.{:03}Z", self.0.rem_euclid(1000)),
            None => whole,
        }
    }

    /// Parses RFC 3339. `None` if the text is not RFC 3339, or if in UTC its year is outside 0–9999 and so could not be
    /// displayed.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let parsed = OffsetDateTime::parse(text, &Rfc3339).ok()?;
        let shown = parsed.checked_to_offset(time::UtcOffset::UTC)?;
        if !(0..=9999).contains(&shown.year()) {
            return None;
        }
        i64::try_from(parsed.unix_timestamp_nanos() / 1_000_000).ok().map(Self)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = OffsetDateTime::from_unix_timestamp(self.unix_seconds())
            .ok()
            .and_then(|t| t.format(&Rfc3339).ok());
        match text {
            Some(text) => f.write_str(&text),
            // Outside the years that RFC 3339 can express: displayed as seconds, never a panic.
            None => write!(f, "@{}", self.unix_seconds()),
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The time of the standard library's clock; times before 1970 become the epoch.
impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        Self(time.duration_since(UNIX_EPOCH).map_or(0, millis))
    }
}

/// For APIs that need it; the epoch if `SystemTime` cannot represent the time.
impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> Self {
        let distance = Duration::from_millis(time.0.unsigned_abs());
        let shown =
            if time.0 < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
        shown.unwrap_or(UNIX_EPOCH)
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Parses the IMF-fixdate of a `Date` header (RFC 9110, section 5.6.7); `None` if it is not one.
#[must_use]
pub fn parse_http_date(text: &str) -> Option<Timestamp> {
    let parsed = OffsetDateTime::parse(text, &Rfc2822).ok()?;
    Some(Timestamp::from_unix_seconds(parsed.unix_timestamp()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_rfc3339_and_reads_it_back() {
        let at = Timestamp::from_unix_seconds(1_795_507_200);
        assert_eq!(at.to_string(), "2026-11-24T08:00:00Z");
        assert_eq!(Timestamp::parse(&at.to_string()), Some(at));
        assert_eq!(Timestamp::parse("yesterday"), None);
    }

    #[test]
    fn reads_the_date_header() {
        let at = parse_http_date("Tue, 24 Nov 2026 08:00:00 GMT").unwrap();
        assert_eq!(at.to_string(), "2026-11-24T08:00:00Z");
        assert_eq!(parse_http_date("24/11/2026"), None);
    }

    #[test]
    fn months_end_where_the_calendar_says() {
        let next = |text: &str| Timestamp::parse(text).unwrap().next_month().to_string();
        assert_eq!(next("2026-11-24T08:00:00Z"), "2026-12-01T00:00:00Z");
        assert_eq!(next("2026-12-31T23:59:59Z"), "2027-01-01T00:00:00Z");
        assert_eq!(next("2028-02-01T00:00:00Z"), "2028-03-01T00:00:00Z");
    }

    #[test]
    fn the_ends_of_time_do_not_panic() {
        for millis in [i64::MIN, i64::MAX, -1, 0] {
            let at = Timestamp::from_unix_millis(millis);
            let _ = (
                at.to_string(),
                at.next_month(),
                at.plus(Duration::MAX),
                at.minus(Duration::MAX),
                at.since(Timestamp(5)),
            );
        }
    }

    #[test]
    fn a_time_that_could_not_be_shown_again_is_not_read() {
        // Both are RFC 3339; in UTC they are in the years 10000 and -1.
        assert_eq!(Timestamp::parse("9999-12-31T23:58:12-23:59"), None);
        assert_eq!(Timestamp::parse("0000-01-01T00:00:00+23:59"), None);
        assert!(Timestamp::parse("9999-12-31T23:59:59Z").is_some());
    }
}
