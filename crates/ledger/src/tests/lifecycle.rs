//! Events about licenses, and reports before the hour's end.

use super::*;
use crate::testing::licenses::{ACCOUNT, ended, licensed, named, news, updated};
use tollgate_marketplace::lifecycle::{Effect, FINAL_WINDOW, LifecycleEvent, News};

fn of(license: &str, id: Option<&str>, micros: u64, at: Timestamp) -> Event {
    Event { customer: licensed(license), ..event(id, micros, at) }
}

#[test]
fn usage_of_a_license_that_has_ended_is_not_counted_and_nothing_else_changes() {
    let mut bench = Bench::new();
    let now = START.plus(10 * MINUTE);
    assert_eq!(bench.take(of("l-1", Some("a"), 1, now), now), Taken::Accepted);
    assert_eq!(bench.ledger().note_event(&ended("e-1", "l-1", now), now).unwrap(), Effect::Deprovisioned);
    let later = now.plus(MINUTE);
    for round in 0..2 {
        let events = [
            of("l-1", Some("b"), 2, later),
            of("l-1", Some("a"), 1, now),
            of("l-1", Some("a"), 9, now),
            of("l-2", None, 4, later),
            Event {
                customer: Customer::Account { account_id: ACCOUNT.to_owned(), license_arn: None },
                dimension: "gigabytes".to_owned(),
                ..event(None, 8, later.plus(2 * HOUR))
            },
        ];
        let expected =
            [Taken::Deprovisioned, Taken::Duplicate, Taken::Conflict, Taken::Accepted, Taken::Accepted];
        assert_eq!(bench.ledger().take(&events, later).unwrap(), expected, "{round}");
        bench.restart("pod-1");
    }
    // Within AWS's final window, usage from before the end counts.
    assert_eq!(bench.take(of("l-1", None, 16, now.minus(MINUTE)), later), Taken::Accepted);
    let too_late = now.plus(FINAL_WINDOW);
    assert_eq!(bench.take(of("l-1", None, 32, now.minus(MINUTE)), too_late), Taken::Deprovisioned);
    assert_eq!(bench.total("requests").accepted, 1 + 2 * 4 + 16);

    assert_eq!(bench.ledger().note_event(&updated("e-2", "l-1", later), later).unwrap(), Effect::Active);
    assert_eq!(bench.take(of("l-1", Some("b"), 2, later), later), Taken::Accepted, "its key was not kept");
}

#[test]
fn an_event_is_processed_once_and_an_earlier_one_decides_nothing() {
    let mut bench = Bench::new();
    let (now, early) = (START.plus(MINUTE), START);
    let mut noted = |event: &LifecycleEvent| bench.ledger().note_event(event, now).unwrap();
    assert_eq!(noted(&ended("e-1", "l-1", now)), Effect::Deprovisioned);
    assert_eq!(noted(&ended("e-1", "l-1", now)), Effect::Repeated);
    assert_eq!(noted(&updated("e-2", "l-1", early)), Effect::Outdated);
    assert_eq!(noted(&updated("e-2", "l-1", early)), Effect::Repeated);
    let over = News::AgreementEnded { account: ACCOUNT.to_owned() };
    assert_eq!(noted(&news("e-3", now, over.clone())), Effect::Ended);
    assert_eq!(noted(&news("e-3", now, over)), Effect::Repeated);
    assert_eq!(noted(&news("e-4", now, News::Nothing)), Effect::Ignored);
    let ledger = bench.ledger();
    assert!(ledger.knows_event("e-1").unwrap() && !ledger.knows_event("e-4").unwrap());
    assert_eq!(ledger.license("l-1").unwrap().unwrap().deprovisioned_at, Some(now));
    assert_eq!(ledger.license("l-2").unwrap(), None);
    assert_eq!(ledger.ending(now.plus(FINAL_WINDOW - MINUTE)).unwrap(), [named("l-1")]);
    assert_eq!(ledger.ending(now.plus(FINAL_WINDOW)).unwrap(), []);
}

#[test]
fn the_oldest_events_and_licenses_are_forgotten() {
    let mut bench = Bench::new();
    let connection = &bench.ledger().connection;
    for (table, most) in
        [("marketplace_events (id, seen_at)", 20_005), ("licenses (license, event_at, account)", 100_005)]
    {
        let columns = if table.starts_with("licenses") { ", ''" } else { "" };
        let fill = format!(
            "INSERT INTO {table} WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < {most})
             SELECT 'old-' || i, i{columns} FROM n"
        );
        connection.execute_batch(&fill).unwrap();
    }
    bench.ledger().note_event(&ended("e-1", "l-1", START), START).unwrap();
    let ledger = bench.ledger();
    assert!(ledger.knows_event("e-1").unwrap() && ledger.license("l-1").unwrap().is_some());
    assert!(!ledger.knows_event("old-6").unwrap() && ledger.knows_event("old-7").unwrap());
    assert!(ledger.license("old-6").unwrap().is_none() && ledger.license("old-7").unwrap().is_some());
}

#[test]
fn a_flush_seals_one_customers_open_hours_and_sends_them_first() {
    let mut bench = Bench::new();
    let (first, now) = (START.plus(50 * MINUTE), START.plus(HOUR + MINUTE));
    let events = [
        of("l-1", None, 1, first),
        of("l-1", None, 2, now),
        Event { dimension: "gigabytes".to_owned(), ..of("l-1", None, 4, now) },
        of("l-2", None, 8, now),
    ];
    bench.ledger().take(&events, now).unwrap();
    // A record of another customer that waits already.
    let other = Customer::Account { account_id: "999900001111".to_owned(), license_arn: None };
    bench.take(Event { customer: other.clone(), ..event(None, 16, now) }, now);
    assert_eq!(bench.ledger().flush(&[other.canonical()], now).unwrap().records, [1]);
    bench.ledger().defer(&[(1, now)]).unwrap();

    let customers = [licensed("l-1").canonical(), licensed("l-3").canonical()];
    let flushed = bench.ledger().flush(&customers, now).unwrap();
    assert_eq!(flushed, Flushed { records: vec![2, 3, 4], more: false });
    assert_eq!(bench.ledger().flush(&customers, now).unwrap().records, [0_i64; 0], "nothing is open");
    let due: Vec<_> = bench.ledger().due(now, 10).unwrap().iter().map(|due| due.record.id).collect();
    assert_eq!(due, [2, 3, 4, 1]);
    let open = bench.ledger().all_open().unwrap();
    assert_eq!(open.len(), 1, "{open:?}");

    // Usage after it counts in the next hour, where the slot has a record.
    let later = now.plus(MINUTE);
    bench.take(of("l-1", None, 32, later), later);
    bench.take(of("l-1", None, 64, first), later);
    bench.restart("pod-1");
    bench.take(of("l-1", None, 128, later), later);
    bench.ledger().seal_closed(START.plus(3 * HOUR + SETTLE)).unwrap();
    let requests: Vec<_> = bench
        .ledger()
        .records(10)
        .unwrap()
        .into_iter()
        .filter(|record| record.customer == licensed("l-1") && record.dimension == "requests")
        .map(|record| (record.hour.number() - Hour::of(START).number(), record.quantity.micros()))
        .collect();
    assert_eq!(requests, [(0, 1), (1, 2), (2, 32 + 64 + 128)]);
    assert_eq!(bench.total("requests").pending, 1 + 2 + 8 + 16 + 32 + 64 + 128);
}

#[test]
fn the_order_of_customers_does_not_open_an_hour_again() {
    let mut bench = Bench::new();
    let (first, now) = (START.plus(50 * MINUTE), START.plus(HOUR + MINUTE));
    bench.ledger().take(&[of("l-1", None, 1, now), of("l-2", None, 2, first)], now).unwrap();
    bench.ledger().flush(&[licensed("l-1").canonical(), licensed("l-2").canonical()], now).unwrap();
    bench.take(of("l-1", None, 4, now), now);
    let open = bench.ledger().all_open().unwrap();
    assert_eq!(open[0].hour, Hour::of(now).next(), "the open hour has its record");
}

#[test]
fn a_record_that_waits_after_a_refusal_keeps_its_pause() {
    let mut bench = Bench::new();
    let now = START.plus(10 * MINUTE);
    bench.take(of("l-1", None, 1, now), now);
    let customers = [licensed("l-1").canonical()];
    let id = bench.ledger().flush(&customers, now).unwrap().records[0];
    bench.ledger().defer(&[(id, now.plus(5 * MINUTE))]).unwrap();
    bench.ledger().flush(&customers, now).unwrap();
    assert_eq!(bench.ledger().next_due().unwrap(), Some(now.plus(5 * MINUTE)));
}

/// One customer with much open usage delays no acknowledgement.
#[test]
fn a_large_flush_is_done_in_pieces() {
    let mut bench = Bench::new();
    let events: Vec<Event> = (0..4000)
        .map(|number| Event { dimension: format!("dimension-{number}"), ..of("l-1", None, 1, START) })
        .collect();
    bench.ledger().take(&events, START).unwrap();
    let customers = [licensed("l-1").canonical()];
    let (mut pieces, mut records) = (0, 0);
    loop {
        let flushed = bench.ledger().flush(&customers, START).unwrap();
        (pieces, records) = (pieces + 1, records + flushed.records.len());
        if !flushed.more {
            break;
        }
    }
    assert_eq!(records, 4000);
    assert!(pieces >= 4, "{pieces}");
}
