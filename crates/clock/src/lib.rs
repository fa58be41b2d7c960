//! The clock: the only crate that reads one.
//!
//! - Wall time ([`WallClock`]) decides hours, windows, receipt age and grace. It can follow the emulator's clock, so
//!   that a day of metering is tested in seconds.
//! - Monotonic time ([`monotonic`]) decides retries, timeouts and rate limits. It is never followed; tests pause it.
//! - Request signatures (SigV4) and `Date` headers always use the system's real time; the AWS SDK reads it itself.
//!
//! This crate must not know what its readers decide.

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

/// The system's wall time, for the emulator, `probe` and log lines; decisions take it from a [`WallClock`].
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one place that reads the system's clock")]
pub fn system_now() -> Timestamp {
    // A clock before 1970 is a broken clock; the epoch is as good an answer as any and never panics.
    std::time::SystemTime::now().into()
}

/// Waits for this time, or without an end if there is none: one tick late rather than early, so that it has really
/// passed.
pub async fn passed(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time.saturating_add(Duration::from_millis(1))).await,
        None => std::future::pending().await,
    }
}

/// Wall time as the decisions see it.
#[derive(Debug, Clone)]
pub struct WallClock {
    offset_millis: Arc<AtomicI64>,
    jumps: watch::Sender<u64>,
    /// The clock that is followed was read.
    read: watch::Sender<bool>,
    fixed: bool,
}

impl WallClock {
    /// The system's own clock.
    #[must_use]
    pub fn system() -> Self {
        Self::with_offset(0)
    }

    /// A clock that stands still at `at` until [`WallClock::advance`] moves it; for tests of loops.
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

    /// The present.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let offset = self.offset_millis.load(Ordering::Acquire);
        Timestamp::from_unix_millis(if self.fixed {
            offset
        } else {
            system_now().unix_millis().saturating_add(offset)
        })
    }

    /// Sets the present, as read from the clock source. Differences below [`JUMP_MIN`] are the noise of
    /// reading over HTTP and are left alone.
    pub fn follow(&self, now: Timestamp) {
        if now.millis_since(self.now()).unsigned_abs() >= JUMP_MIN.as_millis().try_into().unwrap_or(u64::MAX)
        {
            let base = if self.fixed { 0 } else { system_now().unix_millis() };
            self.offset_millis.store(now.unix_millis().saturating_sub(base), Ordering::Release);
            self.jumps.send_modify(|count| *count = count.wrapping_add(1));
        }
        self.read.send_replace(true);
    }

    /// Moves the present forward.
    pub fn advance(&self, by: Duration) {
        self.offset_millis.fetch_add(millis(by), Ordering::AcqRel);
        self.jumps.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Waits until the present has reached `at`, by passing or by a jump.
    pub async fn wait_until(&self, at: Timestamp) {
        let mut jumps = self.jumps();
        loop {
            let now = self.now();
            if now >= at {
                return;
            }
            // A clock that stands still moves by jumps only.
            tokio::select! {
                () = passed(Some(at.since(now))), if !self.fixed => {}
                _ = jumps.changed() => {}
            }
        }
    }

    /// Waits until the clock source was read once. Before, the present is the system's, and may lie ahead.
    pub async fn first_reading(&self) {
        let _ = self.read.subscribe().wait_for(|read| *read).await;
    }

    /// Changes whenever the present jumped, so that a task that sleeps until a wall time checks again.
    #[must_use]
    pub fn jumps(&self) -> watch::Receiver<u64> {
        self.jumps.subscribe()
    }
}

/// Reading a clock over loopback is off by less than this; anything above is a jump that somebody made.
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
