//! The retry schedule against a quota, in simulated time: the bounds that the design promises, for fixed
//! seeds. `cargo bench --bench herd` prints the same simulation as a table, with more circumstances.

#[path = "../benches/herd/simulation.rs"]
mod simulation;

use simulation::{Herd, Policy};

/// The schedule's longest pause: 21 s and 30 %.
const PAUSE_MAX_S: f64 = 27.3;

/// The promise: at most this multiple of the ideal, with at most this number of calls a pod.
#[test]
fn herds_are_up_in_little_more_than_the_quota_allows() {
    for (pods, seeds, ratio_max, calls_max) in
        [(50, 100, 1.25, 4.0), (500, 20, 1.15, 8.0), (5_000, 2, 1.03, 32.0)]
    {
        let summary = Herd::registering(pods, 7).runs(Policy::Tollgate, seeds);
        assert!(summary.ratio <= ratio_max, "{pods} pods: {summary:?}");
        assert!(summary.calls_mean <= calls_max, "{pods} pods: {summary:?}");
        // The worst run may be four times as far from the ideal as the mean may be.
        assert!(summary.ratio_worst - 1.0 <= 4.0 * (ratio_max - 1.0), "{pods} pods: {summary:?}");
        // No pod starves: the pod with the most calls makes little more than twice the average.
        assert!(f64::from(summary.calls_max) <= 2.0 * calls_max + 2.0, "{pods} pods: {summary:?}");
    }
}

/// The simulation is credible only if it gives the known figures of the usual schedules.
#[test]
fn the_usual_ways_cost_what_they_are_known_to_cost() {
    for (pods, seeds, ratio, calls) in [(50, 100, 2.0, 2.8), (500, 20, 1.4, 6.3), (5_000, 1, 1.04, 21.5)] {
        let usual = Herd::registering(pods, 7).runs(Policy::FullJitter, seeds);
        assert!((usual.ratio / ratio - 1.0).abs() < 0.1, "{pods} pods: {usual:?}");
        assert!((usual.calls_mean / calls - 1.0).abs() < 0.05, "{pods} pods: {usual:?}");
    }
    let crashing = Herd::registering(500, 7).run(Policy::CrashLoop);
    assert!(crashing.ratio > 50.0, "{crashing:?}");
}

/// Between the sizes of the promise, from 25 pods on: no size needs more than one and a half times the ideal, and
/// all are better than full jitter. (Smaller herds have an ideal below 4 s, compared with which a single pause is
/// long.)
#[test]
fn no_size_in_between_is_much_worse() {
    for (pods, seeds) in [(25, 60), (35, 60), (70, 40), (100, 40), (150, 20), (250, 20), (800, 4), (1_500, 2)]
    {
        let herd = Herd::registering(pods, 7);
        let (ours, usual) = (herd.runs(Policy::Tollgate, seeds), herd.runs(Policy::FullJitter, seeds));
        assert!(ours.ratio < 1.5, "{pods} pods: {ours:?}");
        assert!(ours.ratio < usual.ratio, "{pods} pods: {ours:?}, full jitter {usual:?}");
    }
}

/// The last pod is registered at most one longest pause after the moment when the quota could have served it, in the
/// worst run two, for every pattern of arrival and every other load on the quota.
#[test]
fn other_starts_and_quotas_make_no_pod_later_than_one_pause_or_two() {
    let plain = Herd::registering(300, 7);
    for herd in [
        Herd { start_window: 0.1, ..plain },
        Herd { start_window: 30.0, ..plain },
        Herd { start_window: 300.0, ..plain },
        Herd { burst: 25.0, ..plain },
        Herd { others: 2.0, ..plain },
        Herd { rate: 10.0, burst: 10.0, ..plain },
    ] {
        let summary = herd.runs(Policy::Tollgate, 10);
        assert!(
            summary.late < PAUSE_MAX_S && summary.late_worst < 2.0 * PAUSE_MAX_S,
            "{herd:?}: {summary:?}"
        );
    }
}

/// With a quota without burst a slot without a call at that moment is lost. This is the hardest case for every
/// schedule.
#[test]
fn without_a_burst_the_schedule_still_beats_full_jitter() {
    for pods in [50, 500] {
        let herd = Herd { burst: 1.0, ..Herd::registering(pods, 7) };
        let (ours, usual) = (herd.runs(Policy::Tollgate, 20), herd.runs(Policy::FullJitter, 20));
        assert!(ours.ratio < 0.8 * usual.ratio, "{pods} pods: {ours:?}, full jitter {usual:?}");
    }
}

/// A lone pod in an outage neither calls too often nor notices the outage's end late.
#[test]
fn a_lone_pod_notices_the_end_of_an_outage_within_one_pause() {
    let alone = Herd { outage: 3_600.0, ..Herd::registering(1, 7) };
    for herd in [alone, Herd { attempt_time: 10.0, ..alone }] {
        let summary = herd.runs(Policy::Tollgate, 50);
        // An attempt in flight at the end of the outage still has to time out.
        assert!(summary.late_worst <= PAUSE_MAX_S + herd.attempt_time, "{herd:?}: {summary:?}");
        assert!(summary.calls_max < 200, "{herd:?}: {summary:?}");
    }
}

/// The quota serves 5 at once, so no pod waits.
#[test]
fn five_pods_never_wait() {
    let summary = Herd::registering(5, 7).runs(Policy::Tollgate, 20);
    assert_eq!((summary.calls_mean, summary.calls_max), (1.0, 1), "{summary:?}");
}
