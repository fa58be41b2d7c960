//! The clock source of a rehearsal: wall time is read from the emulator, so that a day of metering passes in seconds.

use std::sync::OnceLock;
use std::time::Duration;

use crate::usage::heartbeat::Heartbeats;
use tollgate_clock::WallClock;
use tollgate_http::client;
use tollgate_marketplace::Hour;
use tollgate_time::Timestamp;

/// How often the clock source is read.
const FOLLOW_EVERY: Duration = Duration::from_millis(50);

/// Follows the clock at `url` (`{"now": RFC 3339}`, as the emulator serves it) until the process ends. While it
/// cannot be read, `clock` continues from the last time read.
///
/// With heartbeats it stops at the end of each hour that the source has skipped, until the time of the open gate is in
/// that hour; in a closed hour it would count to the next one.
pub(super) async fn follow(clock: WallClock, url: String, heartbeats: impl AsRef<OnceLock<Heartbeats>>) {
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
            if let Some(heartbeats) = heartbeats.as_ref().get() {
                for stop in skipped(clock.now(), now) {
                    clock.follow(stop);
                    heartbeats.write().await;
                }
            }
            clock.follow(now);
        }
    }
}

/// A source that is ahead by less is not stopped: hours that end while it runs are written in time.
const SKIPS_MIN: Duration = Duration::from_secs(1);

/// How long after the end of an hour it stops: a smaller step might be taken for noise.
const AFTER_END: Duration = Duration::from_millis(500);

/// The most hours to stop at: a clock that is set by more than a month is set to another date.
const SKIPPED_MAX: usize = 31 * 24;

/// Where to stop between two times of the source: a little after the end of each hour.
fn skipped(from: Timestamp, to: Timestamp) -> Vec<Timestamp> {
    if to.since(from) < SKIPS_MIN {
        return Vec::new();
    }
    let ends = std::iter::successors(Some(Hour::of(from).end()), |end| Some(Hour::of(*end).end()));
    let stops = ends.map(|end| end.plus(AFTER_END));
    let ends: Vec<_> = stops.take_while(|stop| *stop < to).take(SKIPPED_MAX + 1).collect();
    if ends.len() > SKIPPED_MAX { Vec::new() } else { ends }
}

/// The clock source is on loopback; a reading that took longer is too old to follow.
const FOLLOW_TIMEOUT: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_skipped_hours_are_stops() {
        let at = |text: &str| Timestamp::parse(&format!("2026-11-{text}Z")).unwrap();
        let stops = |from, to| skipped(at(from), at(to)).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(stops("24T08:10:00", "24T08:59:59"), [""; 0]);
        assert_eq!(stops("24T08:10:00", "24T09:00:00"), [""; 0], "the clock stops there by itself");
        assert_eq!(stops("24T08:10:00", "24T10:15:00"), ["2026-11-24T09:00:00Z", "2026-11-24T10:00:00Z"]);
        assert_eq!(stops("24T08:10:00", "24T07:10:00"), [""; 0], "back");
        assert_eq!(stops("01T00:00:00", "30T00:00:00").len(), 29 * 24 - 1);
        assert_eq!(skipped(at("01T00:00:00"), Timestamp::from_unix_seconds(i64::MAX)), []);
    }
}
