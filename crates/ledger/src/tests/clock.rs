//! Clocks that jump ahead and back: no usage waits for a time that does not come, and no hour is reported twice.

use super::*;

const YEAR: Duration = Duration::from_secs(366 * 24 * 3600);

fn shown(ledger: &Ledger) -> Vec<(i64, u64)> {
    let hour = |record: &Record| record.hour.number() - Hour::of(START).number();
    ledger.records(100).unwrap().iter().map(|record| (hour(record), record.quantity.micros())).collect()
}

#[test]
fn a_year_ahead_for_a_moment_strands_nothing() {
    let mut bench = Bench::new();
    bench.take(event(Some("a"), 1, START), START.plus(MINUTE));
    // For a moment the clock shows next year: the hour is closed early, and usage arrives.
    let ahead = START.plus(YEAR);
    bench.ledger().seal_closed(ahead).unwrap();
    bench.take(event(None, 2, ahead), ahead);
    assert_eq!(shown(bench.ledger()), [(0, 1)]);
    // After the clock is set back, that usage counts now, the reported hour takes no more usage, and keys are still
    // known.
    let now = START.plus(2 * MINUTE);
    assert_eq!(bench.take(event(Some("a"), 1, START), now), Taken::Duplicate);
    bench.take(event(None, 4, now), now);
    bench.ledger().seal_closed(now).unwrap();
    bench.restart("pod-1");
    for hour in 1..4 {
        bench.ledger().seal_closed(START.plus(hour * HOUR + SETTLE)).unwrap();
    }
    assert_eq!(shown(bench.ledger()), [(0, 1), (1, 6)]);
    assert_eq!(bench.total("requests").pending, 7);
}

#[test]
fn a_process_that_started_a_year_ahead_reports_the_present_when_its_clock_is_right() {
    let folder = folder();
    let ahead = Settings { started_at: START.plus(YEAR), ..settings("pod-1") };
    let mut ledger = Ledger::open(folder.path(), ahead).unwrap();
    ledger.seal_closed(START.plus(YEAR)).unwrap();
    let now = START.plus(10 * MINUTE);
    ledger.take(&[event(None, 3, now)], now).unwrap();
    ledger.seal_closed(START.plus(HOUR + SETTLE)).unwrap();
    assert_eq!(shown(&ledger), [(0, 3)]);
    assert_eq!(ledger.records(1).unwrap()[0].timestamp, now);
}

#[test]
fn usage_that_was_sealed_a_year_ahead_is_asked_about_at_once_and_counts_now() {
    let mut bench = Bench::new();
    let ahead = START.plus(YEAR);
    bench.take(event(None, 3, ahead), ahead);
    bench.ledger().seal_closed(ahead.plus(2 * HOUR)).unwrap();
    let record = bench.ledger().unsent(1).unwrap().remove(0);
    let now = START.plus(MINUTE);
    // The sender sends it, AWS refuses it, and the policy carries it.
    bench.ledger().attempt(&[record.id], None, now).unwrap();
    bench
        .ledger()
        .answered(record.id, &Answered::Carry("TimestampOutOfBoundsException".into()), now)
        .unwrap();
    bench.ledger().seal_closed(START.plus(HOUR + SETTLE)).unwrap();
    let unsent = bench.ledger().unsent(10).unwrap();
    assert!(unsent.iter().all(|record| record.hour <= Hour::of(START).next()), "{unsent:?}");
    assert_eq!(bench.total("requests").pending, 3);
}

#[test]
fn usage_of_an_earlier_pod_is_never_reported_from_before_this_one_started() {
    let mut bench = Bench::new();
    bench.take(event(None, 7, START), START);
    bench.ledger = None;
    let started_at = START.plus(30 * MINUTE);
    let mut ledger = Ledger::open(bench.folder.path(), Settings { started_at, ..settings("pod-2") }).unwrap();
    ledger.seal_closed(started_at).unwrap();
    assert_eq!(ledger.seal_now(started_at.plus(MINUTE)).unwrap().made, 1, "a shutdown sends it");
    let record = ledger.unsent(1).unwrap().remove(0);
    assert_eq!((record.pod.as_str(), record.quantity.micros()), ("pod-2", 7));
    assert!(record.timestamp >= started_at, "{record:?}");
}

#[test]
fn a_zero_hour_is_reported_although_an_earlier_process_ended_it_early() {
    let folder = folder();
    let settings = Settings { zero_dimensions: vec!["requests".to_owned()], ..settings("pod-1") };
    let mut ledger = Ledger::open(folder.path(), settings.clone()).unwrap();
    assert_eq!(ledger.seal_now(START.plus(MINUTE)).unwrap().made, 0);
    drop(ledger);
    let mut ledger = Ledger::open(folder.path(), settings).unwrap();
    assert_eq!(ledger.seal_closed(START.plus(30 * MINUTE)).unwrap().made, 0);
    assert_eq!(ledger.seal_closed(START.plus(HOUR + SETTLE)).unwrap().made, 1);
    assert_eq!(ledger.seal_closed(START.plus(HOUR + SETTLE + MINUTE)).unwrap().made, 0, "once");
    assert_eq!(shown(&ledger), [(0, 0)]);
}
