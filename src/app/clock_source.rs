//! The clock source of a rehearsal: wall time is read from the emulator, so that a day of metering passes in seconds.

use std::time::Duration;

use tollgate_clock::WallClock;
use tollgate_http::client;
use tollgate_time::Timestamp;

/// How often the clock source is read.
const FOLLOW_EVERY: Duration = Duration::from_millis(50);

/// Follows the clock at `url` (`{"now": RFC 3339}`, as the emulator serves it) until the process ends. While it
/// cannot be read, `clock` continues from the last time read.
pub(super) async fn follow(clock: WallClock, url: String) {
    #[derive(serde::Deserialize)]
    struct Reading {
        now: String,
    }
    let mut ticks = tokio::time::interval(FOLLOW_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut reachable = true;
    loop {
        ticks.tick().await;
        let reading = match client::get_url(&url, FOLLOW_TIMEOUT).await {
            Ok(answer) => serde_json::from_slice::<Reading>(answer.body()).ok(),
            Err(_) => None,
        };
        let now = reading.and_then(|reading| Timestamp::parse(&reading.now));
        if now.is_some() != reachable {
            reachable = now.is_some();
            tracing::warn!(event = "clock_source", url, reachable, "clock source");
        }
        if let Some(now) = now {
            clock.follow(now);
        }
    }
}

/// The clock source is on loopback; a reading that took longer is too old to follow.
const FOLLOW_TIMEOUT: Duration = Duration::from_millis(500);
