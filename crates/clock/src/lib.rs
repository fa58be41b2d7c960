//! The clock: the only crate that reads one.
//!
//! - Wall time ([`WallClock`]) decides hours, windows, receipt age and grace. It can follow the emulator's clock, so
//!   that tests take seconds for a day of metering.
//! - Monotonic time ([`monotonic`]) decides retries, timeouts and rate limits. It follows no clock source; tests pause
//!   it.
//! - Request signatures (SigV4) and `Date` headers always use the system's real time; the AWS SDK reads it itself.
//!
//! This crate must not depend on the decisions of its users.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use tollgate_time::Timestamp;

/// Monotonic time, paused by `tokio::time::pause` in tests.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one place that reads the monotonic clock")]
pub fn monotonic() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

/// The system's wall time, for the emulator, `probe` and log lines; decisions take the time from a [`WallClock`].
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one place that reads the system's clock")]
pub fn system_now() -> Timestamp {
    // A clock before 1970 is wrong: it counts as the epoch, so that this never panics.
    std::time::SystemTime::now().into()
}

/// Waits for this time, or for ever if there is none. It waits one millisecond longer, so that the time has really
/// passed.
pub async fn passed(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time.saturating_add(Duration::from_millis(1))).await,
        None => std::future::pending().await,
    }
}

/// The wall time for decisions.
#[derive(Debug, Clone)]
pub struct WallClock {
    offset_millis: Arc<AtomicI64>,
    jumps: watch::Sender<u64>,
    /// Whether the clock source was read.
    read: watch::Sender<bool>,
    fixed: bool,
}

impl WallClock {
    /// The system's own clock.
    #[must_use]
    pub fn system() -> Self {
        Self::with_offset(0)
    }

    /// A clock that stays at `at` until [`WallClock::advance`] moves it; for tests of loops.
    #[must_use]
    pub fn fixed(at: Timestamp) -> Self {
        Self { fixed: true, ..Self::with_offset(at.unix_millis()) }
    }

    fn with_offset(offset_millis: i64) -> Self {
        Self {
            offset_millis: Arc::new(AtomicI64::new(offset_millis)),
            jumps: watch::Sender::new(0),
            read: watch::Sender::new(false),
            fixed: false,
        }
    }

    /// The current time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let offset = self.offset_millis.load(Ordering::Acquire);
        Timestamp::from_unix_millis(if self.fixed {
            offset
        } else {
            system_now().unix_millis().saturating_add(offset)
        })
    }

    /// Sets the current time, as read from the clock source. Differences below [`JUMP_MIN`] come from reading over HTTP
    /// and are ignored.
    pub fn follow(&self, now: Timestamp) {
        if now.millis_since(self.now()).unsigned_abs() >= JUMP_MIN.as_millis().try_into().unwrap_or(u64::MAX)
        {
            let base = if self.fixed { 0 } else { system_now().unix_millis() };
            self.offset_millis.store(now.unix_millis().saturating_sub(base), Ordering::Release);
            self.jumps.send_modify(|count| *count = count.wrapping_add(1));
        }
        self.read.send_replace(true);
    }

    /// Moves the current time forward.
    pub fn advance(&self, by: Duration) {
        self.offset_millis.fetch_add(millis(by), Ordering::AcqRel);
        self.jumps.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Waits until the current time reaches `at`, by passing or by a jump.
    pub async fn wait_until(&self, at: Timestamp) {
        let mut jumps = self.jumps();
        loop {
            let now = self.now();
            if now >= at {
                return;
            }
            // A fixed clock moves only by jumps.
            tokio::select! {
                () = passed(Some(at.since(now))), if !self.fixed => {}
                _ = jumps.changed() => {}
            }
        }
    }

    /// Waits until the clock source was read once. Before that, the current time is the system's, and may be ahead of
    /// the source's.
    pub async fn first_reading(&self) {
        let _ = self.read.subscribe().wait_for(|read| *read).await;
    }

    /// Whether the clock source was read.
    #[must_use]
    pub fn is_read(&self) -> bool {
        *self.read.borrow()
    }

    /// Changes at every jump of the current time, so that a task that sleeps until a wall time checks again.
    #[must_use]
    pub fn jumps(&self) -> watch::Receiver<u64> {
        self.jumps.subscribe()
    }
}

/// Reading a clock over loopback is off by less than this; a larger difference is a jump that somebody made.
pub const JUMP_MIN: Duration = Duration::from_millis(250);

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_followed_clock_jumps_once_and_ignores_noise() {
        let clock = WallClock::fixed(Timestamp::from_unix_seconds(1000));
        let mut jumps = clock.jumps();
        clock.follow(Timestamp::from_unix_millis(1_000_100));
        assert!(!jumps.has_changed().unwrap());
        clock.follow(Timestamp::from_unix_seconds(4600));
        assert!(jumps.has_changed().unwrap());
        jumps.mark_unchanged();
        assert_eq!(clock.now(), Timestamp::from_unix_seconds(4600));
    }
}
