//! A herd of pods that call one AWS operation with a quota, in simulated time: the calls that the retry schedule makes,
//! and when the last pod is registered, compared with the ideal.
//!
//! Included by the benchmark `benches/herd.rs`, which prints the figures, and by `tests/herd.rs`, which asserts bounds.
//! Deterministic: the same [`Herd`] has the same [`Outcome`] on every machine. An event is one attempt; its time is in
//! whole microseconds, so that the order of events does not depend on rounding. A throttled attempt takes no token.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use tollgate_marketplace::schedule::{self, Draw};

/// How the pause before a pod's next attempt is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    /// Tollgate's schedule, [`schedule::transient`].
    Tollgate,
    /// Exponential backoff with full jitter, 1 s doubling to at most 60 s: the usual advice.
    FullJitter,
    /// Three tries half a second apart, then exit; the kubelet starts the container again after 10 s, doubling to at
    /// most 5 min. The time depends on the gaps between the tries, since a pod calls only in the seconds between two
    /// long pauses: for 500 pods 43 times the ideal with gaps of 1 s and 2 s, 89 times with 0.2 s and 0.4 s, and 12
    /// times with random gaps of up to 2 s and 4 s. (The kubelet starts at 10 s again only after the container has run
    /// for 10 min, which never happens to a process that fails in seconds.)
    CrashLoop,
}

/// One run. Times are seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Herd {
    pub(crate) pods: u32,
    /// The start time of each pod is uniformly random between 0 and this.
    pub(crate) start_window: f64,
    /// Calls a second that the quota allows, and how many at once after a time without calls (`burst`).
    pub(crate) rate: f64,
    pub(crate) burst: f64,
    /// Calls a second by others in the same account, at random moments: each takes a token, even if none is left.
    pub(crate) others: f64,
    /// Until this time AWS cannot be reached, and an attempt fails after `attempt_time`.
    pub(crate) outage: f64,
    pub(crate) attempt_time: f64,
    pub(crate) seed: u64,
}

impl Herd {
    /// `RegisterUsage` as AWS documents it: 5 calls a second; all pods start within 2 s.
    pub(crate) fn registering(pods: u32, seed: u64) -> Self {
        Self {
            pods,
            start_window: 2.0,
            rate: 5.0,
            burst: 5.0,
            others: 0.0,
            outage: 0.0,
            attempt_time: 0.0,
            seed,
        }
    }

    /// The earliest time at which all pods can be registered: the time that the quota needs for all of them, or the
    /// last start. For [`registering`](Self::registering) with many pods: (N − 5) / 5 seconds.
    pub(crate) fn ideal(&self) -> f64 {
        let quota = (f64::from(self.pods) - self.burst).max(0.0) / (self.rate - self.others);
        // The expected start of the last of N pods is 1 / (N + 1) of the window before its end.
        let last_start = self.start_window * (1.0 - 1.0 / f64::from(self.pods + 1));
        (self.outage + quota).max(last_start)
    }

    pub(crate) fn run(&self, policy: Policy) -> Outcome {
        let mut random = SplitMix64(self.seed ^ u64::from(self.pods).rotate_left(32));
        let mut bucket = Bucket { tokens: self.burst, updated: 0.0, rate: self.rate, burst: self.burst };
        let mut pods = Vec::new();
        let mut events = BinaryHeap::new();
        for index in 0..self.pods as usize {
            let started_us = microseconds(random.fraction() * self.start_window);
            pods.push(Pod { started_us, attempts: 0 });
            events.push(Reverse((started_us, Some(index))));
        }
        if self.others > 0.0 {
            events.push(Reverse((0, None)));
        }
        let (mut waiting, mut calls, mut last) = (self.pods, 0, 0.0);
        while waiting > 0 {
            let Reverse((now_us, who)) =
                events.pop().expect("a waiting pod always has its next attempt queued");
            let now = now_us as f64 / 1e6;
            let Some(index) = who else {
                bucket.refill(now);
                bucket.tokens -= 1.0;
                let gap = -(1.0 - random.fraction()).ln() / self.others;
                events.push(Reverse((now_us + microseconds(gap), None)));
                continue;
            };
            let pod = &mut pods[index];
            pod.attempts += 1;
            calls += 1;
            let failed_us = if now < self.outage {
                now_us + microseconds(self.attempt_time)
            } else if bucket.take(now) {
                (waiting, last) = (waiting - 1, now);
                continue;
            } else {
                now_us
            };
            let waited = Duration::from_micros(failed_us - pod.started_us);
            let pause = policy.pause(pod.attempts, waited, Draw::from_bits(random.next()));
            events.push(Reverse((failed_us + pause.as_micros() as u64, Some(index))));
        }
        Outcome {
            last,
            ratio: last / self.ideal(),
            calls_mean: f64::from(calls) / f64::from(self.pods),
            calls_max: pods.iter().map(|pod| pod.attempts).max().unwrap_or(0),
        }
    }

    /// Runs the same herd with `seeds` different seeds: the mean and the worst of the figures.
    pub(crate) fn runs(&self, policy: Policy, seeds: u64) -> Summary {
        let outcomes: Vec<_> =
            (0..seeds).map(|seed| Self { seed: self.seed + seed, ..*self }.run(policy)).collect();
        let mean = |figure: fn(&Outcome) -> f64| outcomes.iter().map(figure).sum::<f64>() / seeds as f64;
        Summary {
            ratio: mean(|outcome| outcome.ratio),
            ratio_worst: outcomes.iter().map(|outcome| outcome.ratio).fold(0.0, f64::max),
            late: mean(|outcome| outcome.last) - self.ideal(),
            late_worst: outcomes.iter().map(|outcome| outcome.last).fold(0.0, f64::max) - self.ideal(),
            calls_mean: mean(|outcome| outcome.calls_mean),
            calls_max: outcomes.iter().map(|outcome| outcome.calls_max).max().unwrap_or(0),
        }
    }
}

/// The figures of one run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Outcome {
    /// When the last pod was registered, in seconds from the first possible start.
    pub(crate) last: f64,
    /// `last` divided by the ideal.
    pub(crate) ratio: f64,
    pub(crate) calls_mean: f64,
    pub(crate) calls_max: u32,
}

/// The figures of several runs; `late` is in seconds after the ideal.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Summary {
    pub(crate) ratio: f64,
    pub(crate) ratio_worst: f64,
    pub(crate) late: f64,
    pub(crate) late_worst: f64,
    pub(crate) calls_mean: f64,
    pub(crate) calls_max: u32,
}

impl Policy {
    fn pause(self, attempts: u32, waited: Duration, draw: Draw) -> Duration {
        match self {
            Self::Tollgate => schedule::transient(waited, draw),
            Self::FullJitter => full_jitter(attempts, draw),
            Self::CrashLoop if attempts.is_multiple_of(3) => {
                let crashes = attempts / 3;
                Duration::from_secs(10)
                    .saturating_mul(1 << (crashes - 1).min(5))
                    .min(Duration::from_secs(300))
            }
            Self::CrashLoop => Duration::from_millis(500),
        }
    }
}

/// Uniformly random from 0 to 1 s × 2^attempts, at most 60 s.
fn full_jitter(attempts: u32, draw: Draw) -> Duration {
    Duration::from_secs((1 << attempts.min(6)).min(60)).mul_f64(draw.fraction())
}

struct Pod {
    started_us: u64,
    attempts: u32,
}

struct Bucket {
    tokens: f64,
    updated: f64,
    rate: f64,
    burst: f64,
}

impl Bucket {
    fn refill(&mut self, now: f64) {
        self.tokens = (self.tokens + (now - self.updated) * self.rate).min(self.burst);
        self.updated = now;
    }

    fn take(&mut self, now: f64) -> bool {
        self.refill(now);
        let free = self.tokens >= 1.0;
        if free {
            self.tokens -= 1.0;
        }
        free
    }
}

/// The SplitMix64 generator of Steele, Lea and Flood. Every seed is usable.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn fraction(&mut self) -> f64 {
        Draw::from_bits(self.next()).fraction()
    }
}

fn microseconds(seconds: f64) -> u64 {
    (seconds * 1e6) as u64
}
