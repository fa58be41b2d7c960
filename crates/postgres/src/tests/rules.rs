//! `[dimension.NAME]` in the database: maxima, scales, remainders and credits, by replicas that may be configured
//! differently.

use std::collections::BTreeMap;

use super::bench::*;
use super::moving::{ledger, shown, to};
use super::steps::check_balance;
use crate::{LeaseTimes, PostgresSettings, PostgresStore, move_ledger};
use tollgate_ledger::repair::{Repair, Repaired};
use tollgate_ledger::store::{Lifecycle as _, Store as _, View as _};
use tollgate_ledger::testing::{folder, settings};
use tollgate_ledger::view::{From, Looked, OpenSlot};
use tollgate_ledger::{Database as File, LedgerSettings, Totals};
use tollgate_marketplace::Amount;
use tollgate_metering::aggregation::Rule;
use tollgate_metering::record::{Answered, Noted};

/// The largest event of an hour counts, and is rounded up to a whole number.
const PEAK: &str = "max 1 up:0";
/// Bytes are billed by the gigabyte: 1,000 of them are the smallest part that AWS takes.
const GIGABYTES: &str = "sum 1000000000 none";
/// Billed by whole units.
const WHOLE: &str = "sum 1 up:0";

/// Millionths in one.
const ONE: i128 = 1_000_000;

fn eight() -> Hour {
    Hour::of(START)
}

fn rule(text: &str) -> Rule {
    text.parse().unwrap()
}

fn metered_by(rules: &[(&str, &str)]) -> LedgerSettings {
    let rules = rules.iter().map(|(dimension, text)| ((*dimension).to_owned(), rule(text))).collect();
    LedgerSettings { rules, ..settings("") }
}

fn store(bench: &Bench, name: &str, rules: &[(&str, &str)]) -> PostgresStore {
    store_in(&bench.database, name, rules)
}

fn store_in(database: &Database, name: &str, rules: &[(&str, &str)]) -> PostgresStore {
    let settings = PostgresSettings {
        url_file: database.url_file(),
        name: name.to_owned(),
        ledger: metered_by(rules),
        lease: LeaseTimes { look_every: Duration::from_millis(20), ..LeaseTimes::default() },
    };
    PostgresStore::start(&settings, WallClock::fixed(START), Box::new(Unobserved))
}

fn of(dimension: &str, amount: i128, at: Timestamp) -> Event {
    let micros = amount.unsigned_abs();
    let mut content = [0; 32];
    content[..8].copy_from_slice(&micros.to_be_bytes()[8..]);
    Event {
        dimension: dimension.to_owned(),
        quantity: Amount::from_micros(micros).unwrap(),
        content,
        ..event(None, 0, at)
    }
}

fn named(id: &str, event: Event) -> Event {
    Event { id: Some(id.to_owned()), ..event }
}

fn tagged(team: &str, event: Event) -> Event {
    let tags = BTreeMap::from([("team".to_owned(), team.to_owned())]);
    Event { tags: tags.try_into().unwrap(), ..event }
}

async fn take(store: &PostgresStore, event: Event) -> Taken {
    store.take(vec![event], Box::new(())).await.unwrap()[0]
}

impl Bench {
    /// Lets the hour end, and seals it; the balance holds.
    async fn end(&self, hour: Hour, leader: &PostgresStore) {
        self.at(hour.end().plus(SETTLE + MINUTE)).await;
        leader.ready().await.unwrap();
        seal(leader).await;
        check_balance(&self.database).await;
    }

    /// Quantity, amount in the event's own unit, and what rounding added, of the records in their order.
    async fn records(&self) -> Vec<[i128; 3]> {
        let sql =
            "SELECT micros, coalesce(raw, micros), coalesce(rounded, 0) FROM tollgate.records ORDER BY id";
        let number = |text: &String| text.parse().unwrap();
        self.run(sql).await.iter().map(|row| [number(&row[0]), number(&row[1]), number(&row[2])]).collect()
    }

    /// What stays for later hours.
    async fn kept(&self) -> Vec<i128> {
        let rows =
            self.run("SELECT amount FROM tollgate.remainders ORDER BY customer, dimension, scale").await;
        rows.iter().map(|row| row[0].parse().unwrap()).collect()
    }
}

async fn seal(leader: &PostgresStore) {
    while leader.seal(false, START).await.unwrap().more {}
}

async fn totals(store: &PostgresStore, dimension: &str) -> Totals {
    let totals = store.totals().await.unwrap().get(dimension).copied().unwrap_or_default();
    assert!(totals.balances(), "{totals:?}");
    totals
}

/// A flush by a replica that leads.
async fn flush(leader: &PostgresStore) {
    let customer = event(None, 0, START).customer.canonical();
    leader.flush(vec![customer], START).await.unwrap();
}

#[tokio::test]
async fn a_maximum_is_taken_over_the_replicas() {
    let bench = Bench::new().await;
    let [first, second] = ["a", "b"].map(|name| store(&bench, name, &[("seats", PEAK)]));
    for (replica, amount) in [(&first, 5 * ONE), (&second, 9 * ONE + 1), (&first, 7 * ONE), (&second, ONE)] {
        assert_eq!(take(replica, of("seats", amount, START)).await, Taken::Accepted);
    }
    let expected = Totals { accepted: 9 * ONE + 1, pending: 9 * ONE + 1, ..Totals::default() };
    assert_eq!(totals(&first, "seats").await, expected, "while the hour is open");
    let open = first.open_slots(Looked::default(), From::default(), 10).await.unwrap().rows;
    assert_eq!(open.iter().map(OpenSlot::quantity).collect::<Vec<_>>(), [9 * ONE + 1]);
    let rows = bench.run("SELECT writer, amount, peak FROM tollgate.sums ORDER BY writer").await;
    assert_eq!(rows, [["1", "0", "7000000"], ["2", "0", "9000001"]], "each writes its own row");
    second.lead().await.unwrap();
    bench.end(eight(), &second).await;
    assert_eq!(bench.records().await, [[10 * ONE, 10 * ONE, 999_999]]);
    let expected =
        Totals { accepted: 9 * ONE + 1, rounded_up: 999_999, pending: 10 * ONE, ..Totals::default() };
    assert_eq!(totals(&first, "seats").await, expected);
    assert_eq!(bench.kept().await, [0; 0], "the hour's own end gives no credit");
}

#[tokio::test]
async fn late_events_join_the_maximum_of_the_current_hour() {
    let bench = Bench::new().await;
    let replica = store(&bench, "a", &[("seats", "max 1 none")]);
    replica.lead().await.unwrap();
    take(&replica, of("seats", 5 * ONE, START)).await;
    bench.end(eight(), &replica).await;
    for amount in [8, 3] {
        take(&replica, of("seats", amount * ONE, START)).await;
    }
    take(&replica, of("seats", 4 * ONE, START.plus(HOUR))).await;
    bench.end(eight().next(), &replica).await;
    assert_eq!(bench.records().await, [[5 * ONE; 2], [8 * ONE; 2]].map(|[micros, raw]| [micros, raw, 0]));
    assert_eq!(totals(&replica, "seats").await.accepted, 13 * ONE);
}

/// A clock that was ahead had put usage into an hour to come: that hour's maximum is carried, and added.
#[tokio::test]
async fn a_carried_maximum_is_added_to_the_hours_own() {
    let bench = Bench::new().await;
    let replica = store(&bench, "a", &[("seats", "max 1 none")]);
    replica.lead().await.unwrap();
    let far = START.plus(30 * HOUR);
    for amount in [3, 6] {
        take(&replica, of("seats", amount * ONE, far)).await;
    }
    take(&replica, of("seats", 5 * ONE, START)).await;
    assert_eq!(totals(&replica, "seats").await.accepted, 11 * ONE);
    seal(&replica).await;
    let sums = "SELECT hour, amount, peak, additive FROM tollgate.sums ORDER BY writer";
    let hour = eight().number().to_string();
    assert_eq!(bench.run(sums).await, [[&hour, "0", "NULL", "6000000"], [&hour, "0", "5000000", "0"]]);
    assert_eq!(totals(&replica, "seats").await.accepted, 11 * ONE);
    bench.end(eight(), &replica).await;
    assert_eq!(bench.records().await, [[11 * ONE, 11 * ONE, 0]]);
    assert_eq!(totals(&replica, "seats").await.accepted, 11 * ONE);
}

#[tokio::test]
async fn an_hour_is_counted_by_the_rule_with_which_it_began_in_any_replica() {
    let bench = Bench::new().await;
    let [before, after] =
        [("a", WHOLE), ("b", PEAK)].map(|(name, rule)| store(&bench, name, &[("seats", rule)]));
    let refused = Taken::OtherRule(rule(WHOLE));
    assert_eq!(take(&before, named("known", of("seats", ONE, START))).await, Taken::Accepted);
    assert_eq!(take(&after, of("seats", 7 * ONE, START)).await, refused);
    assert_eq!(take(&after, named("new", of("seats", 7 * ONE, START))).await, refused);
    assert_eq!(take(&after, named("known", of("seats", ONE, START))).await, Taken::Duplicate);
    assert_eq!(take(&after, named("known", of("seats", 7 * ONE, START))).await, Taken::Conflict);
    let mixed = vec![of("seats", 7 * ONE, START), of("other", ONE, START)];
    assert_eq!(after.take(mixed.clone(), Box::new(())).await.unwrap(), [refused, Taken::Accepted]);
    assert_eq!(after.take_whole(mixed, Box::new(())).await.unwrap()[0], refused);
    assert_eq!(totals(&after, "other").await.accepted, ONE, "nothing of the second request counts");
    let next = START.plus(HOUR);
    bench.at(next).await;
    assert_eq!(take(&after, named("new", of("seats", 7 * ONE, next))).await, Taken::Accepted);
    assert_eq!(take(&before, of("seats", ONE, next)).await, Taken::OtherRule(rule(PEAK)));
    assert_eq!(
        take(&before, of("seats", ONE, START)).await,
        Taken::Accepted,
        "the hour before is still open"
    );
    let began = "SELECT hour, dimension, rule FROM tollgate.rules ORDER BY hour, dimension";
    let hours = [eight(), eight().next()].map(|hour| hour.number().to_string());
    assert_eq!(
        bench.run(began).await,
        [[&hours[0], "other", "sum"], [&hours[0], "seats", WHOLE], [&hours[1], "seats", PEAK]],
        "the default is noted too"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_rules_that_begin_an_hour_at_once_one_counts() {
    let bench = Bench::new().await;
    let replicas = [("a", WHOLE), ("b", PEAK)].map(|(name, rule)| store(&bench, name, &[("seats", rule)]));
    let mut counted = [0, 0];
    for round in 0..20 {
        let at = START.plus(round * HOUR);
        bench.at(at).await;
        let [first, second] = replicas
            .clone()
            .map(|replica| tokio::spawn(async move { take(&replica, of("seats", ONE, at)).await }));
        let taken = [first.await.unwrap(), second.await.unwrap()];
        let winner = usize::from(taken[0] != Taken::Accepted);
        assert_eq!(taken[winner], Taken::Accepted, "{taken:?}");
        assert_eq!(taken[1 - winner], Taken::OtherRule(rule([WHOLE, PEAK][winner])));
        counted[winner] += 1;
    }
    assert_eq!(counted[0] + counted[1], 20);
    assert_eq!(totals(&replicas[0], "seats").await.accepted, 20 * ONE);
}

#[tokio::test]
async fn what_is_too_little_to_be_sent_stays_for_the_next_hour() {
    let bench = Bench::new().await;
    let replica = store(&bench, "a", &[("bytes", GIGABYTES)]);
    replica.lead().await.unwrap();
    let mut hour = eight();
    for (bytes, kept, records) in [
        (1500, vec![500 * ONE], 1),
        // Not enough for a record of its own.
        (300, vec![800 * ONE], 1),
        (200, vec![], 2),
        (0, vec![], 3),
        (3_999_999_999_999, vec![999 * ONE], 4),
    ] {
        take(&replica, of("bytes", bytes * ONE, hour.start())).await;
        bench.end(hour, &replica).await;
        assert_eq!(
            (bench.kept().await, bench.records().await.len()),
            (kept.clone(), records),
            "{bytes} bytes"
        );
        let totals = totals(&replica, "bytes").await;
        assert_eq!(totals.remainder, kept.iter().sum::<i128>());
        hour = hour.next();
    }
    let records = bench.records().await;
    assert_eq!(records[..3], [[1, 1000 * ONE, 0], [1, 1000 * ONE, 0], [0, 0, 0]]);
    assert_eq!(records[3], [3_999_999_999, 3_999_999_999_000 * ONE, 0]);
}

/// An hour is sealed early, and again; a restart must not bill more than one process would have.
#[tokio::test]
async fn what_a_flush_rounded_too_much_is_credited_to_the_next_hour() {
    let bench = Bench::new().await;
    let replica = store(&bench, "a", &[("units", WHOLE)]);
    replica.lead().await.unwrap();
    take(&replica, of("units", 300_000, START)).await;
    flush(&replica).await;
    assert_eq!((bench.records().await, bench.kept().await), (vec![[ONE, ONE, 700_000]], vec![-700_000]));
    let expected = Totals { accepted: 300_000, rounded_up: 700_000, pending: ONE, ..Totals::default() };
    assert_eq!(totals(&replica, "units").await, expected, "a credit is no remainder");
    // It counts to the next hour, whose usage the credit covers. What is left of the credit ends with that hour.
    take(&replica, of("units", 400_000, START.plus(MINUTE))).await;
    bench.end(eight(), &replica).await;
    bench.end(eight().next(), &replica).await;
    assert_eq!((bench.records().await.len(), bench.kept().await), (1, vec![]));
    assert_eq!(totals(&replica, "units").await.rounded_up, 300_000);
    take(&replica, of("units", 500_000, START.plus(2 * HOUR))).await;
    bench.end(Hour::of(START.plus(2 * HOUR)), &replica).await;
    assert_eq!((bench.records().await[1], bench.kept().await), ([ONE, ONE, 500_000], vec![]));
    let expected = Totals { accepted: 1_200_000, rounded_up: 800_000, pending: 2 * ONE, ..Totals::default() };
    assert_eq!(totals(&replica, "units").await, expected);
}

/// The replica that leads may seal the usage only after the hour's end: the rest of the hour went elsewhere all the
/// same.
#[tokio::test]
async fn a_flush_gives_a_credit_also_if_its_usage_is_sealed_late() {
    let bench = Bench::new().await;
    let replica = store(&bench, "a", &[("units", WHOLE)]);
    replica.lead().await.unwrap();
    take(&replica, of("units", 300_000, START)).await;
    let customer = event(None, 0, START).customer.canonical();
    let close = format!(
        "INSERT INTO tollgate.closed_early VALUES ('{customer}', {}); UPDATE tollgate.ledger SET version = version + 1",
        eight().number()
    );
    bench.run(&close).await;
    bench.end(eight(), &replica).await;
    assert_eq!(bench.kept().await, [-700_000]);
}

/// Between the hour's end and `settle` its own late events would still have counted to it.
#[tokio::test]
async fn a_flush_before_the_clock_closes_the_hour_gives_a_credit() {
    let bench = Bench::new().await;
    let replica = store(&bench, "a", &[("units", WHOLE)]);
    replica.lead().await.unwrap();
    take(&replica, of("units", 500_000, START)).await;
    bench.at(eight().end().plus(SETTLE / 2)).await;
    flush(&replica).await;
    assert_eq!((bench.records().await, bench.kept().await), (vec![[ONE, ONE, 500_000]], vec![-500_000]));
    assert_eq!(take(&replica, of("units", 500_000, START.plus(MINUTE))).await, Taken::Accepted);
    assert_eq!(take(&replica, of("units", ONE, eight().end())).await, Taken::Accepted);
    bench.end(eight().next(), &replica).await;
    let records = [[ONE, ONE, 500_000], [ONE, ONE, -500_000]];
    assert_eq!(bench.records().await, records, "as without a flush: 1 of eight o'clock, and 1 of nine");
    assert_eq!(bench.kept().await, [0; 0]);
}

/// No replica led when the hour's time was over, so it was still open for a flush. Its late events counted elsewhere.
#[tokio::test]
async fn a_flush_after_the_clock_has_closed_the_hour_gives_no_credit() {
    let bench = Bench::new().await;
    let replica = store(&bench, "a", &[("units", WHOLE)]);
    replica.lead().await.unwrap();
    take(&replica, of("units", 300_000, START)).await;
    bench.at(eight().end().plus(SETTLE)).await;
    flush(&replica).await;
    let flushed = "SELECT hour, in_time FROM tollgate.closed_early";
    assert_eq!(bench.run(flushed).await, [[eight().number().to_string(), "f".to_owned()]]);
    bench.end(eight(), &replica).await;
    assert_eq!((bench.records().await, bench.kept().await), (vec![[ONE, ONE, 700_000]], vec![]));
}

/// AWS refuses a record; meanwhile the seller bills by another unit.
#[tokio::test]
async fn a_carried_record_counts_in_the_unit_of_its_new_hour() {
    let bench = Bench::new().await;
    let by_gigabytes = store(&bench, "a", &[("bytes", GIGABYTES)]);
    by_gigabytes.lead().await.unwrap();
    take(&by_gigabytes, of("bytes", 2_000_000_000 * ONE, START)).await;
    take(&by_gigabytes, tagged("a", of("bytes", 1_500_000_000 * ONE, START))).await;
    bench.end(eight(), &by_gigabytes).await;
    by_gigabytes.leave().await;
    let in_units = store(&bench, "b", &[]);
    in_units.lead().await.unwrap();
    let due = in_units.due(START.plus(HOUR), 10).await.unwrap().remove(0).record;
    assert_eq!((due.quantity.micros(), due.raw), (3_500_000, 3_500_000_000 * ONE));
    let carry = Noted { id: due.id, answered: Answered::Carry("expired".to_owned()), due_at: None };
    in_units.answered_all(vec![carry], None, START.plus(HOUR)).await.unwrap();
    let open = "SELECT tags, additive FROM tollgate.sums ORDER BY tags";
    assert_eq!(bench.run(open).await, [[r#"{"team":"a"}"#, "1500000"], ["{}", "2000000"]]);
    assert_eq!(totals(&in_units, "bytes").await.accepted, 3_500_000);
    bench.end(eight().next(), &in_units).await;
    assert_eq!(bench.records().await, [[3_500_000, 3_500_000, 0]]);
    check_balance(&bench.database).await;
}

#[tokio::test]
async fn a_replayed_record_counts_in_the_unit_of_the_other_dimension() {
    let bench = Bench::new().await;
    let replica = store(&bench, "a", &[("bytes", GIGABYTES), ("thousands", "sum 1000 up:0")]);
    replica.lead().await.unwrap();
    take(&replica, of("bytes", 2_000_000_000 * ONE, START)).await;
    bench.end(eight(), &replica).await;
    let id = replica.due(START.plus(HOUR), 10).await.unwrap().remove(0).record.id;
    let dead = Noted { id, answered: Answered::Dead("refused".to_owned()), due_at: None };
    replica.answered_all(vec![dead], None, START.plus(HOUR)).await.unwrap();
    assert_eq!(totals(&replica, "bytes").await.dead, 2_000_000_000 * ONE);
    let replay = Repair::Replay {
        accept_double_billing: false,
        to_dimension: Some("thousands".to_owned()),
        note: None,
    };
    assert_eq!(replica.repair(id, replay, START).await.unwrap(), Repaired::Done);
    assert_eq!(totals(&replica, "bytes").await, Totals::default());
    let expected = Totals { accepted: 2000 * ONE, pending: 2000 * ONE, ..Totals::default() };
    assert_eq!(totals(&replica, "thousands").await, expected);
    check_balance(&bench.database).await;
}

/// Amounts above 64 bits: with and without ids, summed and as a maximum.
#[tokio::test]
async fn amounts_of_any_size_are_counted_exactly() {
    let bench = Bench::new().await;
    let replica =
        store(&bench, "a", &[("bytes", "sum 1099511627776 none"), ("peak", "max 1099511627776 none")]);
    replica.lead().await.unwrap();
    let largest = Amount::MAX.signed();
    let small = i128::from(i64::MAX);
    let (mut sum, mut number) = (0, 0);
    for amount in [largest, 1 << 62, (1 << 62) + 1, small, small + 1, 7] {
        for dimension in ["bytes", "peak"] {
            let event = of(dimension, amount, START);
            number += 1;
            let twice = named(&number.to_string(), event.clone());
            let events = vec![twice.clone(), event.clone(), event, twice];
            let taken = replica.take(events, Box::new(())).await.unwrap();
            assert_eq!(taken, [Taken::Accepted, Taken::Accepted, Taken::Accepted, Taken::Duplicate]);
        }
        sum += 3 * amount;
    }
    assert_eq!(totals(&replica, "bytes").await.accepted, sum);
    assert_eq!(totals(&replica, "peak").await.accepted, largest);
    bench.end(eight(), &replica).await;
    let records = "SELECT dimension, micros, coalesce(raw, micros) FROM tollgate.records ORDER BY dimension";
    let records = bench.run(records).await;
    let raw = rule("sum 1099511627776 none").send(largest).raw;
    assert_eq!(records[1], ["peak", "90949470177292", &raw.to_string()]);
    let expected = totals(&replica, "bytes").await;
    assert_eq!(expected.accepted, expected.pending + expected.remainder);
}

#[tokio::test]
async fn what_exceeds_awss_maximum_counts_to_the_current_hour_in_the_events_own_unit() {
    let bench = Bench::new().await;
    let replica = store(&bench, "a", &[("bits", "sum 0.125 none")]);
    replica.lead().await.unwrap();
    let most = i128::from(Quantity::MAX.micros());
    // A bit is an eighth: the largest quantity is most / 8.
    take(&replica, of("bits", most / 8 + 1000, START)).await;
    bench.end(eight(), &replica).await;
    let fits = rule("sum 0.125 none").send(most / 8 + 1000);
    assert_eq!(bench.records().await, [[fits.micros, fits.raw, 0]]);
    let open = bench.run("SELECT additive FROM tollgate.sums").await;
    assert_eq!(open, [[fits.over.to_string()]]);
    assert!(fits.over > 0 && fits.raw + fits.over + fits.left == most / 8 + 1000);
}

const ALL_RULES: [(&str, &str); 3] = [("seats", PEAK), ("bytes", GIGABYTES), ("units", WHOLE)];

/// A ledger on disk with open hours by each rule, a remainder, a credit, and records of scaled and rounded hours.
fn fill(folder: &std::path::Path) {
    let mut ledger = tollgate_ledger::Ledger::open(folder, metered_by(&ALL_RULES)).unwrap();
    let mut take = |event: Event, now| assert_eq!(ledger.take(&[event], now).unwrap(), [Taken::Accepted]);
    for (dimension, amount) in
        [("seats", 3 * ONE + 1), ("bytes", 1500 * ONE), ("units", 300_000), ("other", 7)]
    {
        take(of(dimension, amount, START), START);
    }
    while ledger.seal_now(START.plus(MINUTE)).unwrap().more {}
    let next = START.plus(HOUR);
    let mut take = |event: Event| assert_eq!(ledger.take(&[event], next).unwrap(), [Taken::Accepted]);
    for amount in [4, 6, 5] {
        take(of("seats", amount * ONE, next));
    }
    take(tagged("a", of("bytes", 700 * ONE, next)));
    take(of("units", 600_000, next));
    take(of("other", 9, next));
}

#[tokio::test]
async fn a_ledger_moves_with_its_rules_and_what_stays_of_its_hours() {
    let original = folder();
    fill(original.path());
    let on_disk = shown(&std::sync::Mutex::new(File::inspect(original.path()).unwrap())).await;
    let bench = Bench::new().await;
    bench.at(START.plus(HOUR + MINUTE)).await;
    let moved = move_ledger(original.path(), to(&bench.database), |_, _| {}).await.unwrap();
    assert_eq!(moved.totals, on_disk.totals);
    assert_eq!((moved.rows["open"], moved.rows["remainders"]), (4, 3));
    assert_eq!(shown(&ledger(&bench.database)).await, on_disk);
    check_balance(&bench.database).await;
    let remainder = 500 * ONE;
    let kept = "SELECT dimension, scale, amount FROM tollgate.remainders ORDER BY dimension";
    let scale = rule(GIGABYTES).scale.micros().to_string();
    assert_eq!(
        bench.run(kept).await,
        [
            ["bytes", &scale, &remainder.to_string()],
            ["seats", "1000000", "-999999"],
            ["units", "1000000", "-700000"]
        ]
    );

    // A replica counts on by the rules with which the hour began.
    let other = store(&bench, "b", &[("seats", WHOLE)]);
    assert_eq!(take(&other, of("seats", ONE, START.plus(HOUR))).await, Taken::OtherRule(rule(PEAK)));
    let replica = store(&bench, "a", &ALL_RULES);
    replica.lead().await.unwrap();
    assert_eq!(take(&replica, of("seats", 5 * ONE, START.plus(HOUR))).await, Taken::Accepted);
    assert_eq!(take(&replica, of("units", 200_000, START.plus(HOUR))).await, Taken::Accepted);
    assert_eq!(totals(&replica, "seats").await.accepted, 9 * ONE + 1);
    bench.end(eight().next(), &replica).await;
    let sealed = "SELECT dimension, micros, coalesce(raw, micros), coalesce(rounded, 0) FROM tollgate.records
        WHERE hour = (SELECT max(hour) FROM tollgate.records) ORDER BY dimension";
    assert_eq!(
        bench.run(sealed).await,
        [
            // With the remainder it is 1,200: the rest stays.
            ["bytes", "1", "1000000000", "0"],
            ["other", "9", "9", "0"],
            // Of 6 less the credit of the hour before.
            ["seats", "6000000", "6000000", "0"],
            // 0.8 less 0.7.
            ["units", "1000000", "1000000", "200000"],
        ]
    );
}

#[tokio::test]
async fn an_hour_with_two_rules_of_a_dimension_does_not_move() {
    let original = folder();
    let take = |rules: &[(&str, &str)], account: &str, now: Timestamp| {
        let mut ledger = tollgate_ledger::Ledger::open(original.path(), metered_by(rules)).unwrap();
        let customer = Customer::Account { account_id: account.to_owned(), license_arn: None };
        let event = Event { customer, ..of("seats", ONE, now) };
        assert_eq!(ledger.take(&[event], now).unwrap(), [Taken::Accepted]);
        while ledger.seal_closed(now).unwrap().more {}
    };
    take(&[], "111122223333", START);
    take(&[("seats", WHOLE)], "444455556666", START);
    let bench = Bench::new().await;
    let error = move_ledger(original.path(), to(&bench.database), |_, _| {}).await.unwrap_err();
    assert!(error.to_string().contains("seats") && error.to_string().contains("two rules"), "{error}");
    // The hour has ended and is sealed.
    let later = START.plus(2 * HOUR);
    take(&[("seats", WHOLE)], "444455556666", later);
    bench.at(later).await;
    let moved = move_ledger(original.path(), to(&bench.database), |_, _| {}).await.unwrap();
    assert_eq!(moved.totals["seats"].accepted, 3 * ONE);
    check_balance(&bench.database).await;
}
