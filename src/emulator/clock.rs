//! The emulated clock: the system's, moved by whoever asks. Signatures and `Date` headers stay real.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crate::clock::{Timestamp, system_now};

/// Wall time of the emulated service.
#[derive(Debug, Default)]
pub(super) struct EmulatedClock {
    offset_millis: AtomicI64,
}

impl EmulatedClock {
    pub(super) fn now(&self) -> Timestamp {
        Timestamp::from_unix_millis(
            system_now().unix_millis().saturating_add(self.offset_millis.load(Ordering::Acquire)),
        )
    }

    pub(super) fn advance(&self, by: Duration) {
        let millis = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        let add = |offset: i64| Some(offset.saturating_add(millis));
        let _ = self.offset_millis.fetch_update(Ordering::AcqRel, Ordering::Acquire, add);
    }

    pub(super) fn set(&self, now: Timestamp) {
        self.offset_millis.store(now.millis_since(system_now()), Ordering::Release);
    }
}
