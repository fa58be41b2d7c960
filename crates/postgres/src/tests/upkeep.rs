//! What is forgotten, and when.

use super::steps::*;
use super::*;
use crate::lease::Leader;
use crate::upkeep::{DAILY_DAYS, SETTLED_DAYS};

/// Does everything that is to be done in this hour.
async fn tend(leader: &Leader) {
    while leader.tend_once().await.unwrap() {}
}

/// Closes an hour, and does its upkeep.
async fn pass(ledger: &Ledger, leader: &Leader, hour: Hour) {
    ledger.set_clock(at(hour.next(), 3)).await;
    seal_all(leader).await;
    tend(leader).await;
}

const fn day_of(hour: Hour) -> i64 {
    hour.number() / 24
}

#[tokio::test]
async fn keys_are_forgotten_after_the_window_and_not_early() {
    let ledger = Ledger::make().await;
    let leader = ledger.leader().await;
    ledger
        .run(&format!(
            "INSERT INTO tollgate.keys SELECT sha256(i::text::bytea), 'c', {} - i % 100 FROM generate_series(1, 20000) i",
            EIGHT.number()
        ))
        .await;
    pass(&ledger, &leader, EIGHT).await;
    // 9:03: hours before that of yesterday's yesterday 9:00 are forgotten.
    let kept = "SELECT count(*), min(hour) FROM tollgate.keys";
    let oldest = (EIGHT.number() + 1 - 48).to_string();
    assert_eq!(ledger.run(kept).await, [["9600", oldest.as_str()]]);
    // A clock that is ahead by a year, for a moment.
    pass(&ledger, &leader, Hour::from_number(EIGHT.number() + 8760)).await;
    pass(&ledger, &leader, EIGHT).await;
    let left: usize = ledger.one("SELECT count(*) FROM tollgate.keys").await.parse().unwrap();
    assert!((9600 - 12 * 200..=9600).contains(&left), "{left}");
}

#[tokio::test]
async fn forms_and_flushes_of_closed_hours_are_forgotten() {
    let ledger = Ledger::make().await;
    let leader = ledger.leader().await;
    let eight = EIGHT.number();
    ledger
        .run(&format!(
            "INSERT INTO tollgate.forms SELECT {eight} - 2 + i % 3, 'account ' || i, 0 FROM generate_series(1, 6000) i;
             INSERT INTO tollgate.closed_early SELECT 'account ' || i, {eight} - 2 + i FROM generate_series(0, 2) i"
        ))
        .await;
    pass(&ledger, &leader, EIGHT.next()).await;
    let forms = "SELECT DISTINCT hour FROM tollgate.forms ORDER BY hour";
    let (seven, eight) = ((eight - 1).to_string(), eight.to_string());
    assert_eq!(ledger.run(forms).await, [[seven.clone()], [eight.clone()]]);
    assert_eq!(ledger.run("SELECT hour FROM tollgate.closed_early ORDER BY hour").await, [[seven], [eight]]);
}

#[tokio::test]
async fn settled_records_are_kept_by_day_for_a_hundred_days_and_their_sums_for_four_hundred() {
    let ledger = Ledger::make().await;
    let leader = ledger.leader().await;
    tend(&leader).await;
    let sealed = ledger.sealed(&leader, EIGHT, 2).await;
    leader.answered_all(sealed.iter().map(|id| accepted(*id)).collect(), None, START).await.unwrap();
    let today = day_of(EIGHT);
    let place =
        "SELECT DISTINCT relname FROM tollgate.settled JOIN pg_class ON pg_class.oid = settled.tableoid";
    assert_eq!(ledger.one(place).await, format!("settled_{today}"));
    // An older day than the first partition.
    let old = today - i64::from(SETTLED_DAYS) + 1;
    ledger
        .run(&format!(
            "INSERT INTO tollgate.settled SELECT {old}, id + 1000, customer, 'old', hour - 24 * ({today} - {old}), micros, decimal,
                 allocations, allocation_count, timestamp, client_token, late_from, 'carried', in_doubt, unconfirmed, attempts,
                 epoch, code, metering_record_id, sealed_at, updated_at, region, raw, rounded FROM tollgate.settled;
             INSERT INTO tollgate.links VALUES (1, {0}, 'c', 'd', 1001), (1, {1}, 'c', 'd', 1002);
             INSERT INTO tollgate.daily VALUES ({today} - {DAILY_DAYS}, 'c', 'd', 0, 0, 0), ({today} - {DAILY_DAYS} - 1, 'c', 'd', 0, 0, 0)",
            24 * old,
            EIGHT.number()
        ))
        .await;
    pass(&ledger, &leader, EIGHT.next()).await;
    assert_eq!(ledger.one("SELECT count(*) FROM tollgate.settled").await, "4");
    assert_eq!(ledger.one("SELECT count(*) FROM tollgate.links").await, "2");
    assert_eq!(ledger.one("SELECT count(*) FROM tollgate.daily WHERE records = 0").await, "1");
    // Time passes, hour by hour: the ages follow the clock slowly. Here they are moved at once.
    let move_to = |days: i64| format!("UPDATE tollgate.ledger SET forgotten = forgotten + 24 * {days}");
    ledger.run(&move_to(2)).await;
    pass(&ledger, &leader, EIGHT.next().next()).await;
    assert_eq!(ledger.one("SELECT count(*) FROM tollgate.settled").await, "2");
    assert_eq!(ledger.one("SELECT count(*) FROM tollgate.links").await, "1");
    ledger.run(&move_to(100)).await;
    pass(&ledger, &leader, EIGHT.next().next().next()).await;
    assert_eq!(ledger.one("SELECT count(*) FROM tollgate.settled").await, "0");
    let partition = format!("SELECT to_regclass('tollgate.settled_{today}') IS NULL");
    assert_eq!(ledger.one(&partition).await, "t");
    assert_eq!(ledger.one("SELECT count(*) FROM tollgate.outcome").await, "2", "what was billed stays known");
}

#[tokio::test]
async fn what_replicas_that_are_gone_acknowledged_is_merged() {
    let ledger = Ledger::make().await;
    let leader = ledger.leader().await;
    tend(&leader).await;
    ledger
        .run(
            "INSERT INTO tollgate.writers (name, seen_at) SELECT 'here', clock_timestamp() FROM generate_series(1, 2);
             INSERT INTO tollgate.writers (name, seen_at) VALUES ('gone', clock_timestamp() - interval '8 days'),
                 ('with usage', clock_timestamp() - interval '8 days')",
        )
        .await;
    let writers = ledger.run("SELECT id FROM tollgate.writers WHERE name <> 'replica' ORDER BY id").await;
    let writers: Vec<i64> = writers.iter().map(|row| row[0].parse().unwrap()).collect();
    let far = Hour::from_number(EIGHT.number() + 2);
    for writer in &writers {
        for number in 0..20 {
            ledger.count(EIGHT, number, *writer, "{}", 1).await;
        }
    }
    ledger.count(far, 1, writers[3], "{}", 1).await;
    pass(&ledger, &leader, EIGHT).await;
    let held = ledger
        .run("SELECT writer, sum(amount), count(*) FROM tollgate.accepted GROUP BY writer ORDER BY writer")
        .await;
    let writer = |number: usize| writers[number].to_string();
    assert_eq!(held, [["0", "41", "20"], [&writer(0), "20", "20"], [&writer(1), "20", "20"]]);
    let left = ledger.run("SELECT name FROM tollgate.writers WHERE name <> 'replica' ORDER BY id").await;
    assert_eq!(left, [["here"], ["here"], ["with usage"]]);
    ledger.check_balance().await;
}

/// Somebody reads `settled` for long.
#[tokio::test]
async fn a_job_that_fails_stops_no_other() {
    let ledger = Ledger::make().await;
    let reader = connector(&ledger);
    let reader = reader.connect().await.unwrap();
    reader.batch("BEGIN; SELECT count(*) FROM tollgate.settled").await.unwrap();
    let leader = ledger.leader().await;
    let old = format!("INSERT INTO tollgate.forms VALUES ({}, 'account', 0)", EIGHT.number() - 100);
    ledger.run(&old).await;
    pass(&ledger, &leader, EIGHT).await;
    assert_eq!(ledger.one("SELECT count(*) FROM tollgate.forms").await, "0");
    let partitions = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'tollgate.settled'::regclass";
    assert_eq!(ledger.one(partitions).await, "1");
    reader.batch("COMMIT").await.unwrap();
    pass(&ledger, &leader, EIGHT.next()).await;
    assert_eq!(ledger.one(partitions).await, "6");
}

#[tokio::test]
async fn a_replica_without_the_lease_forgets_nothing() {
    let ledger = Ledger::make().await;
    let replica = ledger.replica(QUICK);
    assert!(matches!(replica.tend_once().await, Err(LedgerError::NotLeading)));
}

/// A slot that cannot be sealed is tried again after each hour, by the rule of its own.
#[tokio::test]
async fn the_rule_of_an_hour_is_kept_while_the_hour_holds_usage() {
    let ledger = Ledger::make().await;
    let leader = ledger.leader().await;
    let (eight, rules) = (
        EIGHT.number(),
        "SELECT hour - (SELECT closed FROM tollgate.ledger) FROM tollgate.rules ORDER BY hour",
    );
    ledger
        .run(&format!(
            "INSERT INTO tollgate.rules SELECT {eight} + i, '{DIMENSION}', 'sum 1000 up:0' FROM generate_series(0, 9) i"
        ))
        .await;
    ledger.count(EIGHT, 1, 1, "{}", 1_500_000_000).await;
    ledger.run("UPDATE tollgate.sums SET tags = 'odd'").await;
    for hours in 0..6 {
        pass(&ledger, &leader, Hour::from_number(eight + hours)).await;
    }
    assert_eq!(ledger.run(rules).await, [["-5"], ["-2"], ["-1"], ["0"], ["1"], ["2"], ["3"], ["4"]]);
    ledger.run("UPDATE tollgate.sums SET tags = '{}'").await;
    pass(&ledger, &leader, Hour::from_number(eight + 6)).await;
    assert_eq!(
        ledger.run("SELECT micros, raw, rounded FROM tollgate.records").await,
        [["2000000", "2000000000", "500000000"]]
    );
    ledger.check_balance().await;
    assert_eq!(ledger.run(rules).await, [["-2"], ["-1"], ["0"], ["1"], ["2"], ["3"]]);
}
