//! Hours that were sealed before their end: closed for the slots that were reported, open for all others.

use super::*;
use crate::repair::{Repair, Repaired};

fn of(customer: usize, dimension: &str, micros: u64, at: Timestamp) -> Event {
    let customer = Customer::Account { account_id: format!("{customer:012}"), license_arn: None };
    Event { customer, dimension: dimension.to_owned(), ..event(None, micros, at) }
}

/// Hour, dimension, quantity and late hour of each record, hours counted from the first.
fn shown(ledger: &Ledger) -> Vec<(i64, String, u64, Option<i64>)> {
    let number = |hour: Hour| hour.number() - Hour::of(START).number();
    let row = |record: &Record| {
        let late_from = record.late_from.map(number);
        (number(record.hour), record.dimension.clone(), record.quantity.micros(), late_from)
    };
    ledger.records(100_000).unwrap().iter().map(row).collect()
}

fn row(hour: i64, dimension: &str, micros: u64, late_from: Option<i64>) -> (i64, String, u64, Option<i64>) {
    (hour, dimension.to_owned(), micros, late_from)
}

/// After a stop in `hour`, a slot is open only if it has a record in that hour. Valid for ledgers whose clock was
/// always right.
pub(super) fn assert_nothing_unreported(ledger: &Ledger, hour: Hour) {
    let unreported = "SELECT count(*) FROM slots WHERE NOT EXISTS (SELECT 1 FROM records
        WHERE records.pod = slots.pod AND records.customer = slots.customer
            AND records.dimension = slots.dimension AND records.hour = ?1)";
    let count: i64 = ledger.connection.query_row(unreported, [hour.number()], |row| row.get(0)).unwrap();
    assert_eq!(count, 0, "{:?}", ledger.all_open());
}

#[test]
fn a_stop_closes_the_hour_for_what_it_reports_and_for_nothing_else() {
    let mut bench = Bench::new();
    let now = START.plus(5 * MINUTE);
    bench.take(of(1, "requests", 1, now), now);
    assert_eq!(bench.ledger().seal_now(now).unwrap().made, 1);
    bench.restart("pod-1");
    let later = now.plus(MINUTE);
    // The same slot, another dimension of its customer, and another customer.
    let events = [of(1, "requests", 2, later), of(1, "gigabytes", 4, later), of(2, "requests", 8, later)];
    bench.ledger().take(&events, later).unwrap();
    let stop = later.plus(MINUTE);
    assert_eq!(bench.ledger().seal_now(stop).unwrap().made, 2, "a second stop bills what the first did not");
    assert_nothing_unreported(bench.ledger(), Hour::of(stop));
    bench.ledger().seal_closed(START.plus(2 * HOUR + SETTLE)).unwrap();
    let expected = [
        row(0, "requests", 1, None),
        row(0, "requests", 8, None),
        row(0, "gigabytes", 4, None),
        row(1, "requests", 2, Some(0)),
    ];
    let (found, expected): (BTreeSet<_>, BTreeSet<_>) =
        (shown(bench.ledger()).into_iter().collect(), expected.into_iter().collect());
    assert_eq!(found, expected);
    assert_eq!((bench.total("requests").pending, bench.total("gigabytes").pending), (11, 4));
}

/// The clock is so far behind that records of the present hour count as older than `RECORDS_KEPT`.
#[test]
fn a_record_is_kept_until_its_hour_is_closed_for_everybody() {
    let folder = folder();
    let mut ledger = Ledger::open(folder.path(), settings("pod-1")).unwrap();
    ledger.seal_closed(START).unwrap();
    drop(ledger);
    let behind = START.minus(36 * 24 * HOUR);
    let settings = Settings { started_at: behind, ..settings("pod-1") };
    let mut ledger = Ledger::open(folder.path(), settings).unwrap();
    let report = |ledger: &mut Ledger, micros, at| {
        ledger.take(&[event(None, micros, at)], at).unwrap();
        ledger.seal_now(at).unwrap().made
    };
    assert_eq!(report(&mut ledger, 7, behind), 1);
    let id = ledger.unsent(1).unwrap()[0].id;
    ledger.answered(id, &Answered::Accepted(None), behind).unwrap();
    let later = behind.plus(MINUTE);
    for _ in 0..3 {
        ledger.seal_closed(later).unwrap();
    }
    assert_eq!(report(&mut ledger, 5, later), 0, "AWS has a value for this hour");
    assert_eq!(shown(&ledger).len(), 1);
}

#[test]
fn what_a_kill_left_of_an_early_seal_stays_in_its_hour() {
    const CUSTOMERS: usize = 4000;
    let mut bench = Bench::new();
    let events: Vec<Event> = (0..CUSTOMERS).map(|number| of(number, "requests", 1, START)).collect();
    bench.ledger().take(&events, START).unwrap();
    let now = START.plus(10 * MINUTE);
    let sealing = bench.ledger().seal_now(now).unwrap();
    assert!(sealing.more && sealing.made < CUSTOMERS, "{sealing:?}");
    bench.restart("pod-1");
    // Some of these slots have a record and some have none.
    bench.ledger().take(&events, now).unwrap();
    while bench.ledger().seal_now(now.plus(MINUTE)).unwrap().more {}
    assert_nothing_unreported(bench.ledger(), Hour::of(now));
    let all = shown(bench.ledger());
    let of_hour = |hour: i64| all.iter().filter(|row| row.0 == hour).map(|row| row.2).sum::<u64>();
    let both = 2 * CUSTOMERS - sealing.made;
    assert_eq!((all.len(), of_hour(0)), (CUSTOMERS, u64::try_from(both).unwrap()));
    let open = bench.ledger().all_open().unwrap();
    assert_eq!(open.len(), sealing.made, "they count to the next hour");
    assert!(
        open.iter().all(|open| open.late_from == Some(Hour::of(now)) && open.hour == Hour::of(now).next())
    );
}

#[test]
fn nothing_is_sealed_early_but_by_a_stop() {
    let mut bench = Bench::new();
    bench.take(of(1, "requests", 1, START), START);
    bench.ledger().seal_now(START.plus(MINUTE)).unwrap();
    bench.restart("pod-1");
    let now = START.plus(2 * MINUTE);
    bench.take(of(2, "requests", 2, now), now);
    for minute in 3..60_u32 {
        assert_eq!(bench.ledger().seal_closed(START.plus(minute * MINUTE)).unwrap().made, 0);
    }
    bench.take(of(2, "requests", 4, START.plus(59 * MINUTE)), START.plus(59 * MINUTE));
    assert_eq!(
        bench.ledger().seal_closed(START.plus(HOUR + SETTLE)).unwrap().made,
        1,
        "one record of its hour"
    );
    assert_eq!(shown(bench.ledger()).last().unwrap(), &row(0, "requests", 6, None));
}

#[test]
fn an_hour_in_which_nothing_was_open_is_left_to_the_next_process() {
    let mut bench = Bench::new();
    let now = START.plus(5 * MINUTE);
    assert_eq!(bench.ledger().seal_now(now).unwrap().made, 0);
    bench.restart("pod-1");
    bench.take(event(None, 7, now), now);
    assert_eq!(bench.ledger().seal_now(now.plus(MINUTE)).unwrap().made, 1, "AWS has no report of this hour");
    assert_eq!(shown(bench.ledger()), [row(0, "requests", 7, None)]);
}

#[test]
fn a_stop_bills_what_an_earlier_pod_left_and_what_settles() {
    let mut bench = Bench::new();
    bench.take(event(None, 1, START), START);
    bench.restart("pod-2");
    // The hour before still settles and takes its own late event.
    let now = START.plus(HOUR + MINUTE);
    bench.take(Event { dimension: "late".into(), ..event(None, 2, START.plus(59 * MINUTE)) }, now);
    assert_eq!(bench.ledger().seal_now(now).unwrap().made, 2);
    assert_nothing_unreported(bench.ledger(), Hour::of(now));
    let records: Vec<_> =
        bench.ledger().unsent(10).unwrap().into_iter().map(|record| (record.pod, record.hour)).collect();
    assert_eq!(records, [("pod-2".to_owned(), Hour::of(START)), ("pod-2".to_owned(), Hour::of(now))]);
    assert_eq!(shown(bench.ledger()), [row(0, "late", 2, None), row(1, "requests", 1, Some(0))]);
    // Another pod has its own records.
    bench.restart("pod-3");
    bench.take(event(None, 4, now), now);
    assert_eq!(bench.ledger().seal_now(now.plus(MINUTE)).unwrap().made, 1);
    assert_eq!(shown(bench.ledger()).last().unwrap(), &row(1, "requests", 4, None));
}

#[test]
fn a_replay_counts_to_the_hour_where_it_was_not_reported_and_else_to_the_next() {
    let mut bench = Bench::new();
    let now = START.plus(5 * MINUTE);
    bench.take(event(None, 7, now), now);
    bench.ledger().seal_now(now).unwrap();
    let id = bench.ledger().unsent(1).unwrap()[0].id;
    bench.ledger().answered(id, &Answered::Dead("InvalidTagException".into()), now).unwrap();
    assert_eq!(bench.ledger().repair(id, &repair::replay(false), now).unwrap(), Repaired::Done);
    assert_eq!(
        bench.ledger().seal_now(now.plus(MINUTE)).unwrap().made,
        0,
        "AWS may have a value for its hour"
    );
    let mut redirected = event(None, 9, now);
    redirected.dimension = "wrong".into();
    bench.take(redirected, now);
    bench.ledger().seal_now(now.plus(MINUTE)).unwrap();
    let id = bench.ledger().unsent(1).unwrap()[0].id;
    bench.ledger().answered(id, &Answered::Dead("InvalidUsageDimensionException".into()), now).unwrap();
    let to_dimension = Some("right".to_owned());
    let order = Repair::Replay { accept_double_billing: false, to_dimension, note: None };
    assert_eq!(bench.ledger().repair(id, &order, now).unwrap(), Repaired::Done);
    assert_eq!(bench.ledger().seal_now(now.plus(2 * MINUTE)).unwrap().made, 1, "nobody reported it");
    bench.ledger().seal_closed(START.plus(2 * HOUR + SETTLE)).unwrap();
    let rows = shown(bench.ledger());
    assert!(rows.contains(&row(0, "right", 9, Some(0))), "{rows:?}");
    assert!(rows.contains(&row(1, "requests", 7, Some(0))), "{rows:?}");
}

#[test]
fn an_hour_without_usage_is_reported_although_another_dimension_was_sealed_early() {
    let folder = folder();
    let zero_dimensions = vec!["requests".to_owned(), "gigabytes".to_owned(), "users".to_owned()];
    let settings = Settings { zero_dimensions, ..settings("pod-1") };
    let mut ledger = Ledger::open(folder.path(), settings.clone()).unwrap();
    ledger.take(&[event(None, 1, START)], START).unwrap();
    ledger.seal_now(START.plus(MINUTE)).unwrap();
    drop(ledger);
    let mut ledger = Ledger::open(folder.path(), settings).unwrap();
    let now = START.plus(2 * MINUTE);
    let gigabytes = Event { dimension: "gigabytes".into(), ..event(None, 2, now) };
    ledger.take(&[event(None, 4, now), gigabytes], now).unwrap();
    assert_eq!(ledger.seal_closed(START.plus(30 * MINUTE)).unwrap().made, 0);
    assert_eq!(ledger.seal_closed(START.plus(HOUR + SETTLE)).unwrap().made, 2);
    let found: BTreeSet<_> = shown(&ledger).into_iter().collect();
    let expected =
        [row(0, "gigabytes", 2, None), row(0, "requests", 1, None), row(0, "users", 0, None)].into();
    assert_eq!(found, expected);
}

#[test]
fn a_form_holds_for_the_whole_hour_over_a_stop() {
    let licensed = |event: Event| {
        let license_arn = Some("arn:aws:license-manager::294406891311:license:l-1".to_owned());
        Event { customer: Customer::Account { account_id: format!("{:012}", 1), license_arn }, ..event }
    };
    let mut bench = Bench::new();
    bench.take(of(1, "requests", 1, START), START);
    bench.ledger().seal_now(START.plus(MINUTE)).unwrap();
    bench.restart("pod-1");
    let now = START.plus(2 * MINUTE);
    assert_eq!(
        bench.take(licensed(of(1, "gigabytes", 2, now)), now),
        Taken::OtherForm,
        "AWS has its account in this hour"
    );
    assert_eq!(bench.take(of(1, "gigabytes", 2, now), now), Taken::Accepted);
    assert_eq!(bench.ledger().seal_now(now).unwrap().made, 1);
}

#[test]
fn a_clock_that_goes_back_over_two_hours_that_were_sealed_early_strands_nothing() {
    let mut bench = Bench::new();
    let turn = START.plus(HOUR);
    bench.take(event(None, 1, turn.minus(2 * MINUTE)), turn.minus(2 * MINUTE));
    // Both hours are sealed; then the clock goes back into the first one.
    bench.take(event(None, 2, turn.plus(MINUTE)), turn.plus(MINUTE));
    assert_eq!(bench.ledger().seal_now(turn.plus(MINUTE)).unwrap().made, 2);
    bench.restart("pod-1");
    let now = turn.minus(MINUTE);
    bench.restart("pod-2");
    bench.take(Event { dimension: "gigabytes".into(), ..event(None, 8, now) }, now);
    bench.restart("pod-1");
    bench.take(event(None, 4, now), now);
    // A slot that waits for the third hour does not delay another pod's usage.
    assert_eq!(bench.ledger().seal_now(now).unwrap().made, 1);
    assert_nothing_unreported(bench.ledger(), Hour::of(now));
    bench.ledger().seal_closed(turn.plus(2 * HOUR + SETTLE)).unwrap();
    let rows: BTreeSet<_> = shown(bench.ledger()).into_iter().collect();
    let expected = [
        row(0, "requests", 1, None),
        row(0, "gigabytes", 8, None),
        row(1, "requests", 2, None),
        row(2, "requests", 4, Some(0)),
    ];
    assert_eq!(rows, expected.into());
}

#[test]
fn a_ledger_that_closed_the_whole_hour_keeps_it_closed() {
    // An earlier version wrote this at a stop, and this version writes it after damage.
    let mut bench = Bench::new();
    let close =
        |transaction: &Transaction<'_>, _: &Settings| closing::close_whole(transaction, Hour::of(START));
    bench.ledger().write("seal", close).unwrap();
    bench.restart("pod-1");
    bench.take(event(None, 1, START), START);
    assert_eq!(bench.ledger().seal_now(START.plus(MINUTE)).unwrap().made, 0);
    bench.ledger().seal_closed(START.plus(2 * HOUR + SETTLE)).unwrap();
    assert_eq!(shown(bench.ledger()), [row(1, "requests", 1, Some(0))]);
}
