//! The emulated clock: the system's, shifted by the admin interface. Signatures and `Date` headers use the real time.

use std::time::Duration;

use tollgate_clock::system_now;
use tollgate_time::Timestamp;

/// Wall time of the emulated service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct EmulatedClock {
    /// How far it is ahead of the system's clock; negative if it was set back.
    pub(super) ahead_millis: i64,
}

/// The end of the year 9999, the last that RFC 3339 can express.
const LATEST: Timestamp = Timestamp::from_unix_seconds(253_402_300_799);

impl EmulatedClock {
    pub(super) fn now(self) -> Timestamp {
        Timestamp::from_unix_millis(system_now().unix_millis().saturating_add(self.ahead_millis))
    }

    /// The clock moved forward; `None` beyond the calendar's end.
    pub(super) fn advanced(self, by: Duration) -> Option<Self> {
        self.at(self.now().plus(by))
    }

    /// The clock set to a time; `None` beyond the calendar's end.
    pub(super) fn at(self, now: Timestamp) -> Option<Self> {
        let ahead_millis = now.millis_since(system_now());
        (now <= LATEST).then_some(Self { ahead_millis })
    }
}

/// [`Timestamp`]s as milliseconds, in the journal.
pub(super) mod millis_option {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use super::Timestamp;

    pub(crate) fn serialize<S: Serializer>(at: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
        at.map(Timestamp::unix_millis).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Timestamp>, D::Error> {
        Ok(Option::<i64>::deserialize(deserializer)?.map(Timestamp::from_unix_millis))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_runs_on_from_where_it_was_put() {
        let noon = Timestamp::from_unix_seconds(1_795_521_600);
        let clock = EmulatedClock::default().at(noon).unwrap();
        let later = clock.advanced(Duration::from_secs(3600)).unwrap();
        let elapsed = later.now().millis_since(noon);
        // An hour, and at most the duration of the test.
        assert!((3_600_000..3_660_000).contains(&elapsed), "{elapsed}");
        assert_eq!(clock.advanced(Duration::MAX), None);
    }
}
