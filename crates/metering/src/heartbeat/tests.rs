//! Tables for single situations, and properties over random days.

use proptest::prelude::*;

use super::*;
use crate::aggregation::Rule;

/// 2026-11-24T08:00:00Z.
const EIGHT: i64 = 1_795_507_200_000;

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;

fn heartbeat(micros: u64) -> Heartbeat {
    Heartbeat { dimension: "node_hours".to_owned(), quantity: Quantity::from_micros(micros).unwrap() }
}

/// A process whose monotonic clock began at some moment of the wall clock.
struct Process {
    time: OpenTime,
    running: u64,
    wall: i64,
}

impl Process {
    fn of(passing: Passing, wall: i64) -> Self {
        let mut process = Self { time: OpenTime::new(vec![heartbeat(1_000_000)], passing), running: 0, wall };
        process.sees(false);
        process
    }

    /// A process that starts at 08:00 with the gate open.
    fn open() -> Self {
        let mut process = Self::of(Passing::Real, EIGHT);
        process.sees(true);
        process
    }

    fn sees(&mut self, open: bool) {
        let wall = Timestamp::from_unix_millis(self.wall);
        self.time.observe(open, Duration::from_millis(self.running), wall);
    }

    /// Time passes, and the gate is seen open at its end.
    fn passes(&mut self, millis: u64) -> &mut Self {
        self.passes_and_is(millis, true)
    }

    fn passes_and_is(&mut self, millis: u64, open: bool) -> &mut Self {
        self.running += millis;
        self.wall += i64::try_from(millis).unwrap();
        self.sees(open);
        self
    }

    /// The wall clock is set.
    fn set(&mut self, by: i64) -> &mut Self {
        self.wall += by;
        self
    }

    /// The seconds of each hour after 08:00 that were handed out.
    fn written(&mut self) -> Vec<(i64, u64)> {
        let first = hour_of(EIGHT).number();
        self.time.take().into_iter().map(|beat| (beat.hour.number() - first, beat.seconds)).collect()
    }
}

#[test]
fn time_is_split_at_the_end_of_the_hour() {
    let mut process = Process::open();
    process.passes(59 * MINUTE + 50 * SECOND).passes(20 * SECOND);
    assert_eq!(process.written(), [(0, 3_600), (1, 10)]);
    assert_eq!(process.written(), []);
}

#[test]
fn a_pod_of_59_minutes_has_59_minutes() {
    let mut process = Process::open();
    let mut seconds = 0;
    for _ in 0..59 * 6 {
        process.passes(10 * SECOND);
        seconds += process.written().iter().map(|(_, seconds)| seconds).sum::<u64>();
    }
    process.time.end();
    process.passes(MINUTE);
    assert_eq!((seconds, process.written()), (59 * 60, vec![]));
}

#[test]
fn time_behind_a_shut_gate_does_not_count() {
    let mut process = Process::of(Passing::Real, EIGHT);
    process.passes_and_is(10 * MINUTE, false).passes_and_is(10 * MINUTE, true);
    process.passes_and_is(7 * SECOND, false).passes_and_is(MINUTE, false).passes_and_is(MINUTE, true);
    process.passes(3 * SECOND);
    assert_eq!(process.written(), [(0, 10)]);
}

#[test]
fn what_is_less_than_a_second_counts_to_the_next_one() {
    let mut process = Process::open();
    process.passes(1_700);
    assert_eq!(process.written(), [(0, 1)]);
    process.passes(1_200);
    assert_eq!(process.written(), [(0, 1)]);
    process.passes(100);
    assert_eq!(process.written(), [(0, 1)]);
    // At the end of the hour 900 ms are left, which are the next hour's.
    let mut process = Process::of(Passing::Real, EIGHT + 100);
    process.sees(true);
    process.passes(3_599_900).passes(100);
    assert_eq!(process.written(), [(0, 3_599), (1, 1)]);
}

#[test]
fn a_clock_that_is_set_changes_the_hour_and_not_the_amount() {
    let hour = i64::try_from(HOUR_MILLIS).unwrap();
    let mut ahead = Process::open();
    ahead.passes(10 * SECOND).set(3 * hour).passes(10 * SECOND).passes(10 * SECOND);
    assert_eq!(ahead.written(), [(0, 20), (3, 10)], "the step came at some moment before it was seen");
    let mut back = Process::open();
    back.passes(10 * SECOND).set(-3 * hour).passes(10 * SECOND).passes(10 * SECOND);
    assert_eq!(back.written(), [(-3, 10), (0, 20)]);
    // By less than the reading of two clocks may differ, time is followed as it was.
    let mut noisy = Process::open();
    noisy.passes(59 * MINUTE).set(-900).passes(59 * SECOND).set(900).passes(SECOND);
    assert_eq!(noisy.written(), [(0, 3_600)]);
}

#[test]
fn a_small_step_back_makes_no_hour_longer() {
    let mut process = Process::open();
    process.passes(30 * MINUTE).set(-3_000).passes(30 * MINUTE).passes(3 * SECOND);
    assert_eq!(process.written(), [(0, 3_600)], "three seconds more than an hour passed");
    process.passes(60 * MINUTE);
    assert_eq!(process.written(), [(1, 3_600)]);
    // A later step forward leaves room for them.
    process.passes(MINUTE).set(3_000).passes(SECOND).passes(59 * MINUTE - 4 * SECOND);
    assert_eq!(process.written(), [(2, 3_600)]);
    // Without one they count when the process ends.
    let mut process = Process::open();
    process.passes(30 * MINUTE).set(-3_000).passes(30 * MINUTE).passes(4 * SECOND);
    assert_eq!(process.written(), [(0, 3_600), (1, 4)]);
    process.passes(3_599 * SECOND).time.end();
    assert_eq!(process.written(), [(1, 3_596), (2, 3)]);
}

#[test]
fn a_large_step_back_makes_its_hour_longer() {
    let mut process = Process::open();
    process.passes(30 * MINUTE).set(-1_800_000).passes(SECOND).passes(60 * MINUTE - SECOND);
    process.time.end();
    let written = process.written();
    assert_eq!(written.iter().map(|(_, seconds)| seconds).sum::<u64>(), 5_400);
}

#[test]
fn a_simulated_clock_passes_time_when_it_is_set_forward() {
    let mut process = Process::of(Passing::Simulated, EIGHT);
    process.sees(true);
    process.set(3_540_000).passes(SECOND);
    assert_eq!(process.written(), [(0, 3_541)]);
    process.set(2 * 3_600_000).passes(SECOND);
    assert_eq!(process.written(), [(0, 59), (1, 3_600), (2, 3_542)]);
    process.set(-3 * 3_600_000).passes(SECOND);
    assert_eq!(process.written(), [(2, 1)], "set back, it passes as any clock");
    let year = i64::try_from(SIMULATED_MILLIS_MAX).unwrap();
    process.set(year + 1).passes(SECOND);
    assert_eq!(process.written().iter().map(|(_, seconds)| seconds).sum::<u64>(), 1, "another date");
}

#[test]
fn what_was_not_written_is_handed_out_again_beside_what_is_new() {
    let two = vec![heartbeat(1_000_000), Heartbeat { dimension: "cores".to_owned(), ..heartbeat(250_000) }];
    let mut process = Process { time: OpenTime::new(two, Passing::Real), running: 0, wall: EIGHT };
    process.sees(true);
    process.passes(10 * SECOND);
    let beats = process.time.take();
    let [nodes, cores] = beats[..] else { panic!("{beats:?}") };
    let event = process.time.event(&cores);
    assert_eq!((event.dimension.as_str(), event.quantity.micros()), ("cores", 2_500_000));
    assert_eq!(
        (event.id, event.at.unix_millis(), process.time.dimension(&nodes)),
        (None, EIGHT, "node_hours")
    );
    process.time.failed(cores);
    process.passes(60 * MINUTE);
    let seconds: Vec<_> = process.time.take().iter().map(|beat| (beat.dimension, beat.seconds)).collect();
    assert_eq!(seconds, [(0, 3_590), (1, 3_600), (0, 10), (1, 10)]);
}

/// The ledger's rule turns seconds into hours without a rest.
#[test]
fn an_hour_of_open_gate_is_the_quantity_of_the_heartbeat() {
    let rule: Rule = "sum 3600 none".parse().unwrap();
    for micros in [1, 333_333, 1_000_000, 7_500_000, Quantity::MAX.micros()] {
        let time = OpenTime::new(vec![heartbeat(micros)], Passing::Real);
        let event = time.event(&Beat { dimension: 0, hour: hour_of(EIGHT), seconds: 3_600 });
        let sent = rule.send(event.quantity.signed());
        assert_eq!((sent.micros, sent.left), (i128::from(micros), 0));
    }
}

/// What happens to a process, in milliseconds.
#[derive(Debug, Clone, Copy)]
enum Step {
    Passes(u64),
    Gate(bool),
    ClockSet(i64),
    Written,
    Fails,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u64..15_000).prop_map(Step::Passes),
        2 => (0u64..2_000_000).prop_map(Step::Passes),
        1 => any::<bool>().prop_map(Step::Gate),
        1 => (-7_200_000i64..7_200_000).prop_map(Step::ClockSet),
        1 => (-5_000i64..5_000).prop_map(Step::ClockSet),
        3 => Just(Step::Written),
        1 => Just(Step::Fails),
    ]
}

proptest! {
    /// Whatever happens to wall clock and disk, each millisecond of open gate is written once, or still owed.
    #[test]
    fn no_time_is_lost_and_none_is_counted_twice(steps in prop::collection::vec(step(), 0..200)) {
        let mut process = Process::of(Passing::Real, EIGHT);
        let (mut open, mut expected, mut written) = (false, 0, 0);
        for step in steps {
            match step {
                Step::Passes(millis) => {
                    expected += if open { millis } else { 0 };
                    process.passes_and_is(millis, open);
                }
                Step::Gate(now) => {
                    open = now;
                    process.sees(open);
                }
                Step::ClockSet(by) => {
                    process.set(by).sees(open);
                }
                Step::Written => written += process.time.take().iter().map(|beat| beat.seconds).sum::<u64>(),
                Step::Fails => {
                    let beats = process.time.take();
                    beats.into_iter().for_each(|beat| process.time.failed(beat));
                }
            }
            prop_assert!(process.time.held <= HELD_MILLIS_MAX && process.time.filled.len() <= HOURS_KNOWN_MAX + 2);
        }
        process.time.end();
        written += process.time.take().iter().map(|beat| beat.seconds).sum::<u64>();
        prop_assert!(written * 1_000 <= expected && expected < (written + 1) * 1_000, "{written} of {expected}");
    }

    /// Otherwise rounding up would bill a full hour as two.
    #[test]
    fn an_hour_has_at_most_an_hour_unless_the_clock_goes_far_back(
        moments in prop::collection::vec((1u64..30_000, 0i64..900), 1..2_000),
        begin in 0i64..3_600_000,
        back in prop::collection::vec((0usize..2_000, 0i64..3_000), 0..3),
    ) {
        let mut process = Process::of(Passing::Real, EIGHT + begin);
        process.sees(true);
        let mut hours = BTreeMap::<i64, u64>::new();
        for (index, (millis, noise)) in moments.into_iter().enumerate() {
            let by: i64 = back.iter().filter(|(at, _)| *at == index).map(|(_, by)| by).sum();
            // The wall clock is read a little later than the monotonic one.
            process.set(-by + noise);
            process.passes(millis);
            process.set(-noise);
            for (hour, seconds) in process.written() {
                *hours.entry(hour).or_default() += seconds;
            }
        }
        prop_assert!(hours.values().all(|seconds| *seconds <= 3_600), "{hours:?}");
        // Hours in the middle are full to the second.
        let whole = hours.len().saturating_sub(2);
        prop_assert!(hours.values().skip(1).take(whole).all(|seconds| *seconds == 3_600), "{hours:?}");
    }
}
