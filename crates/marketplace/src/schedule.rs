//! When to try again: how long to pause after each kind of fault. Pure: no clock, no randomness of its own, no I/O.
//!
//! The difficulty is not one pod but a deployment: AWS allows `RegisterUsage` 5 calls a second per account and region
//! (`MeterUsage` 10), and thousands of pods may start in the same second. A pod sees only its own throttles and how
//! long it has been trying; it cannot know how many others wait. Two costs conflict: with a pause `D` the last pod
//! comes about `0.65 D` after the quota could have served it (the last few pods sleep while the quota is free), and
//! each pod makes one call per `D`. For a herd that needs `T` seconds, `D` should therefore be small compared with
//! `T`, but grow with it; and `T` is unknown, but at least as long as the pod has waited already.
//!
//! So there is one rule, a function of the time waited: pause 0.65 of it, never less than 2.2 s (so that a herd of
//! fifty is not back at once, and a single pod is registered in under 3 s), never more than a ceiling that rises from
//! 14 s to 21 s in the first five minutes; with ±30 % at random. What the simulation (`cargo bench --bench herd`)
//! showed:
//! - Jitter much *narrower* than full jitter is better. It must be wide enough to break up clusters (below ±20 % pods
//!   keep their order, and some slots stay crowded while others are empty), but each extra per cent keeps the last
//!   pod asleep longer: with a constant pause, ±20 to ±30 % leaves 0.65 `D`, ±50 % leaves 0.75 `D`, alternating short
//!   and long pauses leaves more than `D`.
//! - Growth by attempts instead of time, or other shapes of the curve, only favour one size of herd over another. A
//!   curve that dips where a herd of exactly 50 or 500 ends is better there alone, and worse for the sizes in between.
//! - The time waited is a better measure than the number of attempts: an attempt may take milliseconds (throttled) or
//!   ten seconds (timed out), and the pause must be small compared with a time.
//! - Growing without a limit would cost AWS less and everyone else more: a pod notices the end of an outage up to one
//!   pause late. At 21 s a pod without network makes about 180 attempts an hour.
//!
//! Invariants, checked by the tests below:
//! - every pause is above zero and within the bounds that its function documents, for every draw, waited time and
//!   attempt;
//! - nothing overflows, and no input causes a panic.
//!
//! It does not know clocks, the state machine, AWS, or where random bits come from.

use std::time::Duration;

/// A random number from [0, 1), drawn by the caller, so that a test can repeat a schedule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Draw(f64);

impl Draw {
    /// The draw that adds no jitter: every pause is its middle value. For tests.
    pub const MIDDLE: Self = Self(0.5);

    /// Takes 53 of the 64 random bits, as many as an `f64` holds exactly; every value is below 1.
    pub fn from_bits(random: u64) -> Self {
        const STEPS: f64 = (1u64 << 53) as f64;
        Self((random >> 11) as f64 / STEPS)
    }

    /// The number itself, at least 0 and below 1.
    pub fn fraction(self) -> f64 {
        self.0
    }

    /// `middle_s` ± `jitter` (a fraction of it).
    fn around(self, middle_s: f64, jitter: f64) -> Duration {
        Duration::from_secs_f64(middle_s * (1.0 - jitter + 2.0 * jitter * self.0))
    }
}

/// The pause after a fault that is not a decision of AWS: throttled, a server error, no connection, no usable answer.
///
/// `waited` is the time since the first of these consecutive faults. The first pause is 1.5 to 2.9 s, and none is
/// longer than 28 s. It suits every operation with a quota of some calls a second.
pub fn transient(waited: Duration, draw: Draw) -> Duration {
    let waited_s = waited.as_secs_f64();
    let ceiling_s = (CEILING_AT_FIRST_S + waited_s / CEILING_RISE).min(CEILING_S);
    draw.around((GROWTH * waited_s).clamp(FLOOR_S, ceiling_s), JITTER)
}

/// The pause after a token that failed verification: as [`transient`], but it grows to 5 minutes.
///
/// AWS served the call, so the quota is not the problem; the cause (a key, a proxy) must be corrected by people.
pub fn unverified(waited: Duration, draw: Draw) -> Duration {
    let ceiling_s = UNVERIFIED_MAX_S / (1.0 + JITTER);
    draw.around((GROWTH * waited.as_secs_f64()).clamp(FLOOR_S, ceiling_s), JITTER)
}

/// The pause after a fault that is not a decision of AWS while the gate is open: as [`transient`], but it grows to 30
/// minutes, as AWS asks of callers of License Manager.
pub fn while_open(waited: Duration, draw: Draw) -> Duration {
    let ceiling_s = WHILE_OPEN_MAX_S / (1.0 + JITTER);
    draw.around((GROWTH * waited.as_secs_f64()).clamp(FLOOR_S, ceiling_s), JITTER)
}

/// The pause between two granted rounds: 80 to 100 % of `every`, and never longer than half of the time until the held
/// seats expire, so that a failed renewal can be repeated.
pub fn renewal(every: Duration, left: Option<Duration>, draw: Draw) -> Duration {
    let pause = draw.around(every.as_secs_f64() * RENEWAL_MIDDLE, RENEWAL_JITTER);
    left.map_or(pause, |left| pause.min(left / 2)).max(RENEWAL_MIN)
}

/// The pause while all seats are taken: 48 to 72 seconds. A seat becomes free when a pod ends, and the first pod to ask
/// again gets it.
pub fn exhausted(draw: Draw) -> Duration {
    draw.around(EXHAUSTED_S, REFUSED_JITTER)
}

/// The pause after a refusal: 4 to 6 minutes. People must correct a subscription or a product, and each attempt after a
/// refusal uses quota that entitled pods of the same account need.
pub fn refused(draw: Draw) -> Duration {
    draw.around(REFUSED_S, REFUSED_JITTER)
}

/// The pause after the `attempt`th (from 1) consecutive fault of access: 5 s, 10 s, then 30 s, each ± 10 %.
///
/// Roles and web identity tokens are often ready seconds after the pod has started (IAM is eventually consistent), so
/// the first pauses are short.
pub fn access(attempt: u32, draw: Draw) -> Duration {
    let middle_s = match attempt {
        0 | 1 => 5.0,
        2 => 10.0,
        _ => 30.0,
    };
    draw.around(middle_s, ACCESS_JITTER)
}

/// The next pause as a fraction of the time waited. A lower value favours herds of about a hundred and costs herds of
/// five hundred more calls; 0.6 to 0.7 are equally good.
const GROWTH: f64 = 0.65;

/// The middle of the shortest pause. 2.2 s × 1.3 = 2.86 s: a pod that is throttled once is registered in under 3 s.
const FLOOR_S: f64 = 2.2;

/// The ceiling for a pod that has just started. Herds of some hundred reach it; 14 s keeps them within 1.15 of the
/// ideal time, with 8 calls a pod.
const CEILING_AT_FIRST_S: f64 = 14.0;

/// The ceiling rises by 1 s in this many seconds waited: a pod that waits for minutes is one of thousands.
const CEILING_RISE: f64 = 40.0;

/// The highest ceiling: herds of five thousand stay at 32 calls a pod, and the end of an outage is noticed within 28 s.
const CEILING_S: f64 = 21.0;

/// The fraction by which a pause may differ from its middle. The module's text says why it is neither 0.1 nor 1.
const JITTER: f64 = 0.3;

/// The longest pause after a token that failed verification, jitter included.
const UNVERIFIED_MAX_S: f64 = 300.0;

/// The longest pause after a fault while the gate is open, jitter included.
const WHILE_OPEN_MAX_S: f64 = 1800.0;

/// The middle, as a fraction of `every`; with [`RENEWAL_JITTER`] the pause is 0.8 to 1 of it. Pods that started
/// together drift apart, and none is later than the seller chose.
const RENEWAL_MIDDLE: f64 = 0.9;

/// See [`RENEWAL_MIDDLE`].
const RENEWAL_JITTER: f64 = 1.0 / 9.0;

/// The shortest pause, for a clock that is ahead of AWS's, by which every seat has expired already. A checkout lasts at
/// least a minute.
const RENEWAL_MIN: Duration = Duration::from_secs(20);

/// The middle of the pause while all seats are taken.
const EXHAUSTED_S: f64 = 60.0;

/// The middle of the pause after a refusal.
const REFUSED_S: f64 = 300.0;

/// Wide enough to spread a refused deployment: five thousand pods over two minutes.
const REFUSED_JITTER: f64 = 0.2;

/// Small, because these three pauses are documented; enough that the pods of a node do not call STS at the same time.
const ACCESS_JITTER: f64 = 0.1;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LOWEST: Draw = Draw(0.0);

    fn highest() -> Draw {
        Draw::from_bits(u64::MAX)
    }

    fn seconds(s: f64) -> Duration {
        Duration::from_secs_f64(s)
    }

    #[test]
    fn a_draw_is_at_least_zero_and_below_one() {
        assert_eq!(Draw::from_bits(0), LOWEST);
        assert!(highest().0 < 1.0 && highest().0 > 0.999_999);
        assert_eq!(Draw::from_bits(1 << 63), Draw::MIDDLE);
    }

    #[test]
    fn a_pod_throttled_once_is_through_in_under_three_seconds() {
        // The attempt itself takes some 100 ms, and up to 130 ms are left for the second.
        let slowest = seconds(0.1) + transient(seconds(0.1), highest());
        assert!(slowest < seconds(2.97), "{slowest:?}");
        assert!(transient(Duration::ZERO, LOWEST) >= seconds(1.5));
    }

    #[test]
    fn the_middle_of_the_pause_follows_the_documented_curve() {
        for (waited_s, pause_s) in [
            (0.0, 2.2),
            (3.0, 2.2),
            (10.0, 6.5),
            (20.0, 13.0),
            (25.0, 14.625),
            (100.0, 16.5),
            (280.0, 21.0),
            (3600.0, 21.0),
        ] {
            let pause = transient(seconds(waited_s), Draw::MIDDLE).as_secs_f64();
            assert!((pause - pause_s).abs() < 1e-6, "after {waited_s} s: {pause} s");
        }
    }

    #[test]
    fn a_failed_token_is_asked_about_ever_more_rarely_but_at_least_every_five_minutes() {
        assert_eq!(unverified(Duration::ZERO, Draw::MIDDLE), transient(Duration::ZERO, Draw::MIDDLE));
        assert_eq!(unverified(seconds(100.0), Draw::MIDDLE), seconds(65.0));
        let longest = unverified(Duration::MAX, highest());
        assert!(longest <= seconds(300.0) && longest > seconds(299.0), "{longest:?}");
    }

    #[test]
    fn access_is_asked_for_after_5_10_and_then_every_30_seconds() {
        for (attempt, pause_s) in [(0, 5.0), (1, 5.0), (2, 10.0), (3, 30.0), (4, 30.0), (u32::MAX, 30.0)] {
            assert_eq!(access(attempt, Draw::MIDDLE), seconds(pause_s), "attempt {attempt}");
        }
    }

    #[test]
    fn a_refusal_is_left_alone_for_about_five_minutes() {
        assert_eq!(refused(Draw::MIDDLE), seconds(300.0));
        assert_eq!(refused(LOWEST), seconds(240.0));
        assert!(refused(highest()) <= seconds(360.0));
    }

    #[test]
    fn an_open_gate_asks_ever_more_rarely_but_at_least_every_half_hour() {
        assert_eq!(while_open(Duration::ZERO, Draw::MIDDLE), transient(Duration::ZERO, Draw::MIDDLE));
        assert_eq!(while_open(seconds(1000.0), Draw::MIDDLE), seconds(650.0));
        let longest = while_open(Duration::MAX, highest());
        assert!(longest <= seconds(1800.0) && longest > seconds(1799.0), "{longest:?}");
    }

    #[test]
    fn a_renewal_comes_before_half_of_what_is_left() {
        let every = seconds(900.0);
        assert_eq!(renewal(every, None, Draw::MIDDLE), seconds(810.0));
        assert!(renewal(every, None, LOWEST) >= seconds(719.9) && renewal(every, None, highest()) <= every);
        for left_s in [3600.0, 1800.0, 600.0, 60.0] {
            let pause = renewal(every, Some(seconds(left_s)), highest());
            assert!(pause <= seconds(left_s / 2.0) && pause <= every, "{left_s}: {pause:?}");
        }
        assert_eq!(renewal(every, Some(Duration::ZERO), highest()), RENEWAL_MIN);
    }

    #[test]
    fn a_pod_without_a_seat_asks_about_once_a_minute() {
        assert_eq!(exhausted(Draw::MIDDLE), seconds(60.0));
        assert!(exhausted(LOWEST) >= seconds(48.0) && exhausted(highest()) <= seconds(72.0));
    }

    proptest! {
        #[test]
        fn every_pause_is_within_its_bounds(secs in any::<u64>(), nanos in 0u32..1_000_000_000, attempt in any::<u32>(), bits in any::<u64>()) {
            let (waited, draw) = (Duration::new(secs, nanos), Draw::from_bits(bits));
            for waited in [waited, Duration::new(secs % 3_600, nanos)] {
                let pause = transient(waited, draw);
                prop_assert!(pause >= seconds(1.54) && pause <= seconds(27.3), "{pause:?}");
                let pause = unverified(waited, draw);
                prop_assert!(pause >= seconds(1.54) && pause <= seconds(300.0), "{pause:?}");
            }
            let pause = while_open(waited, draw);
            prop_assert!(pause >= seconds(1.54) && pause <= seconds(1800.0), "{pause:?}");
            let pause = refused(draw);
            prop_assert!(pause >= seconds(240.0) && pause <= seconds(360.0), "{pause:?}");
            let pause = access(attempt, draw);
            prop_assert!(pause >= seconds(4.5) && pause <= seconds(33.0), "{pause:?}");
        }

        #[test]
        fn who_waited_longer_never_pauses_for_less(a_ms in 0u64..10_000_000, b_ms in 0u64..10_000_000, bits in any::<u64>()) {
            let (shorter, longer) = (Duration::from_millis(a_ms.min(b_ms)), Duration::from_millis(a_ms.max(b_ms)));
            let draw = Draw::from_bits(bits);
            prop_assert!(transient(shorter, draw) <= transient(longer, draw));
            prop_assert!(unverified(shorter, draw) <= unverified(longer, draw));
            prop_assert!(transient(longer, draw) <= unverified(longer, draw) + seconds(1e-6));
        }

        #[test]
        fn a_higher_draw_is_a_longer_pause(waited_ms in 0u64..10_000_000, a in any::<u64>(), b in any::<u64>()) {
            let (low, high) = (Draw::from_bits(a.min(b)), Draw::from_bits(a.max(b)));
            let waited = Duration::from_millis(waited_ms);
            prop_assert!(transient(waited, low) <= transient(waited, high));
        }
    }
}
