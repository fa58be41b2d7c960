//! Bounds: slots stay small, sealing and forgetting work in pieces with events and kills in between, and the size on
//! disk is limited.

use super::*;
use crate::slots::{TAG_BYTES_MAX, TAGGED_SETS_MAX};

fn tagged(name: &str, micros: u64, at: Timestamp) -> Event {
    let tags = BTreeMap::from([("team".to_owned(), name.to_owned())]).try_into().unwrap();
    Event { tags, ..event(None, micros, at) }
}

fn customer(number: usize, micros: u64, at: Timestamp) -> Event {
    let customer = Customer::Account { account_id: format!("{number:012}"), license_arn: None };
    Event { customer, ..event(None, micros, at) }
}

#[test]
fn a_slot_keeps_its_tag_sets_up_to_awss_number_and_counts_the_rest_untagged() {
    let mut bench = Bench::new();
    for group in 0..4 {
        let events: Vec<Event> =
            (0..1000).map(|index| tagged(&format!("t{}", group * 1000 + index), 1, START)).collect();
        bench.ledger().take(&events, START).unwrap();
    }
    // A known tag set grows; a new one is counted without its tags.
    bench.take(tagged("t7", 10, START), START);
    bench.take(tagged("new", 5, START), START);
    assert_eq!(bench.ledger().contents().unwrap().open, 1 + 2499);
    assert_eq!(bench.total("requests").pending, 4015);
    bench.ledger().seal_closed(START.plus(HOUR + SETTLE)).unwrap();
    let light = bench.ledger().unsent(1).unwrap().remove(0);
    assert_eq!(light.allocation_count, 2500);
    let whole = bench.ledger().record(light.id).unwrap().unwrap();
    let untagged = whole.allocations.iter().find(|part| part.tags.is_empty()).unwrap();
    assert_eq!(untagged.quantity.micros(), 4000 - 2499 + 5);
    assert_eq!(whole.allocations.iter().filter(|part| !part.tags.is_empty()).count(), TAGGED_SETS_MAX);
    assert_eq!(bench.ledger().contents().unwrap().open, 0);
}

#[test]
fn a_slot_keeps_its_tags_below_awss_bytes_whoever_writes_into_it() {
    let mut bench = Bench::new();
    let long = |index: usize, at: Timestamp| {
        let tag = |tag: usize| (format!("{tag}{}", "k".repeat(99)), format!("{index:06}{}", "v".repeat(250)));
        let tags = TagSet::try_from((0..5).map(tag).collect::<BTreeMap<_, _>>()).unwrap();
        Event { tags, ..event(None, 1, at) }
    };
    let size = long(0, START).tags.request_bytes();
    let fitting = TAG_BYTES_MAX / size;
    let later = START.plus(HOUR);
    for (from, at) in [(0, START), (fitting, later)] {
        let events: Vec<Event> = (from..from + fitting).map(|index| long(index, at)).collect();
        bench.ledger().take(&events, at).unwrap();
    }
    // Carried usage is added to a full slot.
    let now = START.plus(HOUR + SETTLE);
    bench.ledger().seal_closed(now).unwrap();
    let id = bench.ledger().unsent(1).unwrap()[0].id;
    bench.ledger().answered(id, &Answered::Carry("expired".into()), now).unwrap();
    bench.ledger().seal_closed(now.plus(HOUR)).unwrap();
    let second = bench.ledger().unsent(1).unwrap()[0].id;
    let whole = bench.ledger().record(second).unwrap().unwrap();
    assert_eq!(whole.record.allocation_count, fitting + 1);
    assert_eq!(whole.allocations.last().unwrap().quantity.micros(), u64::try_from(fitting).unwrap());
    let bytes: usize = whole.allocations.iter().map(|part| part.tags.request_bytes()).sum();
    assert!(bytes <= tollgate_marketplace::allocation::ALLOCATIONS_BYTES_MAX, "{bytes}");
    let links: Vec<(i64, Option<i64>, Option<i64>)> = bench
        .ledger()
        .connection
        .prepare("SELECT source, slot, target FROM links")
        .unwrap()
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .unwrap()
        .collect::<rusqlite::Result<_>>()
        .unwrap();
    assert_eq!(links, [(id, None, Some(second))], "a carried record names the one it went into");
    assert_eq!(bench.total("requests").pending, 2 * i128::try_from(fitting).unwrap());
}

#[test]
fn sealing_goes_on_in_pieces_after_intake_and_kills_and_each_hour_is_closed_at_once() {
    const CUSTOMERS: usize = 4000;
    let mut bench = Bench::new();
    let events: Vec<Event> = (0..CUSTOMERS).map(|number| customer(number, 1, START)).collect();
    bench.ledger().take(&events, START).unwrap();
    let now = START.plus(HOUR + SETTLE);
    let (mut made, mut pieces, mut late) = (0, 0, 0);
    loop {
        let sealing = bench.ledger().seal_closed(now).unwrap();
        (made, pieces) = (made + sealing.made, pieces + 1);
        assert!(sealing.made <= 1000, "a piece is small: {}", sealing.made);
        if !sealing.more {
            break;
        }
        // An event of the hour that is being sealed counts to the next one, whether or not its slot is sealed yet.
        bench.take(customer(pieces, 100, START.plus(MINUTE)), now);
        late += 100;
        bench.total("requests");
        if pieces % 2 == 0 {
            bench.restart("pod-1");
        }
    }
    assert_eq!((made, pieces > 4), (CUSTOMERS, true));
    let hour = |record: &Record| record.hour;
    let records = bench.ledger().unsent(2 * CUSTOMERS).unwrap();
    assert!(records.iter().all(|record| hour(record) == Hour::of(START) && record.quantity.micros() == 1));
    bench.ledger().seal_closed(now.plus(HOUR)).unwrap();
    let all = bench.total("requests");
    assert_eq!((all.accepted, all.pending), (i128::try_from(CUSTOMERS).unwrap() + late, all.accepted));
}

#[test]
fn another_pods_slots_are_taken_over_in_pieces() {
    let mut bench = Bench::new();
    let events: Vec<Event> =
        (0..3000).map(|number| Event { dimension: format!("d{number}"), ..event(None, 1, START) }).collect();
    bench.ledger().take(&events, START).unwrap();
    bench.restart("pod-2");
    let now = START.plus(MINUTE);
    let mut pieces = 0;
    while bench.ledger().seal_closed(now).unwrap().more {
        pieces += 1;
        if pieces == 2 {
            bench.restart("pod-2");
        }
    }
    assert!(pieces > 2, "{pieces}");
    let foreign = "SELECT count(*) FROM slots WHERE pod <> 'pod-2'";
    let left: i64 = bench.ledger().connection.query_row(foreign, [], |row| row.get(0)).unwrap();
    assert_eq!((left, bench.ledger().contents().unwrap().open), (0, 3000));
    bench.total("d1");
}

#[test]
fn settled_records_beyond_their_number_go_in_pieces_and_stay_in_the_balance() {
    let mut bench = Bench::new();
    bench.take(event(None, 1, START), START);
    let now = START.plus(HOUR + SETTLE);
    bench.ledger().seal_closed(now).unwrap();
    let id = bench.ledger().unsent(1).unwrap()[0].id;
    bench.ledger().answered(id, &Answered::Accepted(None), now).unwrap();
    let many = upkeep::SETTLED_MAX + 500;
    bench
        .ledger()
        .connection
        .execute_batch(&format!(
            "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {many})
             INSERT INTO records (pod, customer, dimension, hour, micros, decimal, allocations, timestamp, client_token,
                 state, sealed_at, updated_at)
             SELECT 'pod-1', '', 'd' || n, 498752, 2, 1, '[]', 1795507200000, '', 'sealed', 1, 1795507200000 FROM numbers;
             UPDATE records SET state = 'accepted' WHERE state = 'sealed';
             UPDATE totals SET accepted = billed WHERE dimension LIKE 'd%';"
        ))
        .unwrap();
    bench.restart("pod-1");
    let mut pieces = 0;
    while bench.ledger().contents().unwrap().settled > upkeep::SETTLED_MAX {
        bench.ledger().seal_closed(now).unwrap();
        pieces += 1;
        assert!(pieces < 600, "{:?}", bench.ledger().contents());
    }
    let all = bench.ledger().totals().unwrap();
    bench.ledger().check_balance().unwrap();
    assert!(all.values().all(|totals| totals.billed == totals.accepted), "forgotten records stay billed");
}

#[test]
fn the_limit_counts_the_wal_and_says_what_fills_it() {
    let folder = folder();
    let bytes_max = 8 << 20;
    let settings = LedgerSettings { bytes_max, ..settings("pod-1") };
    let mut ledger = Ledger::open(folder.path(), settings).unwrap();
    let mut refused = None;
    for group in 0..1000 {
        let events: Vec<Event> =
            (0..1000).map(|index| event(Some(&format!("{group}-{index}")), 1, START)).collect();
        if let Err(error) = ledger.take(&events, START) {
            refused = Some((group, error));
            break;
        }
        let on_disk: u64 = ["", "-wal"]
            .map(|end| std::fs::metadata(quarantine::with_end(&ledger.path, end)).unwrap().len())
            .iter()
            .sum();
        assert!(on_disk < bytes_max + (8 << 20), "{on_disk} bytes after {group} groups");
        assert!(ledger.bytes().unwrap() >= on_disk.saturating_sub(1 << 20), "the WAL counts");
    }
    let (groups, error) = refused.expect("it is full at some time");
    let keys = groups * 1000;
    assert!(keys > 8_000_000 / 45, "{keys} keys fit 8 MiB");
    let text = error.to_string();
    assert!(text.contains(&format!("{keys} idempotency keys")), "{text}");
    assert!(text.contains("idempotency_window") && text.contains("raise ledger_bytes_max"), "{text}");
}

#[test]
fn a_full_ledger_names_what_fills_it() {
    let unsent = Contents { unsent: 9, ..Contents::default() };
    assert!(unsent.to_string().ends_with("find out why AWS does not take the unsent records"), "{unsent}");
    let dead = Contents { dead: 9, keys: 10, ..Contents::default() };
    assert!(dead.to_string().ends_with("repair the dead letters"), "{dead}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Usage of many slots and tag sets, with events and kills between pieces of sealing: acknowledged usage is pending
    /// or sealed, to the millionth, and no slot exceeds its bounds.
    #[test]
    fn pieces_between_events_keep_every_balance(steps in prop::collection::vec((0..300_usize, 0..60_usize, 0..6_u8), 1..40)) {
        let mut bench = Bench::new();
        let (mut now, mut accepted) = (START, 0);
        for (number, tag, kind) in steps {
            match kind {
                0 => now = now.plus(25 * MINUTE),
                1 => { bench.ledger().seal_closed(now).unwrap(); }
                2 if number % 5 == 0 => bench.restart(&format!("pod-{}", number % 3)),
                2 => {
                    while bench.ledger().seal_now(now).unwrap().more {}
                    early::assert_nothing_unreported(bench.ledger(), Hour::of(now));
                }
                _ => {
                    let events: Vec<Event> = (0..number)
                        .map(|index| Event { dimension: format!("d{}", index % 7), ..tagged(&format!("{}", index * tag), 3, now) })
                        .collect();
                    bench.ledger().take(&events, now).unwrap();
                    accepted += 3 * i128::try_from(number).unwrap();
                }
            }
            bench.ledger().check_balance().unwrap();
            let totals = bench.ledger().totals().unwrap();
            prop_assert_eq!(totals.values().map(|totals| totals.accepted).sum::<i128>(), accepted);
            prop_assert_eq!(totals.values().map(|totals| totals.pending).sum::<i128>(), accepted);
        }
        bench.ledger().check().unwrap();
        let counted = bench.ledger().contents().unwrap();
        bench.ledger().write("seal", |transaction, _| totals::restore_counts(transaction)).unwrap();
        prop_assert_eq!(counted, bench.ledger().contents().unwrap(), "counters are kept by triggers");
    }
}
