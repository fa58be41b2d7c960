//! Closing hours and sealing their usage.

use super::steps::*;
use super::*;

const TEAM_A: &str = r#"{"team":"a"}"#;
const TEAM_B: &str = r#"{"team":"b"}"#;

/// What people see of the records.
const RECORDS: &str =
    "SELECT customer, hour, micros, allocations, state FROM tollgate.records ORDER BY customer, hour";

#[tokio::test]
async fn an_hour_is_sealed_after_it_was_settled_and_all_replicas_usage_is_added_up() {
    let ledger = Ledger::make().await;
    let leader = ledger.leader().await;
    for (writer, tags, amount) in
        [(1, "{}", 1), (2, "{}", 2), (1, TEAM_A, 10), (2, TEAM_B, 20), (3, TEAM_A, 40)]
    {
        ledger.count(EIGHT, 1, writer, tags, amount * 1_000_000).await;
    }
    ledger.count(EIGHT.next(), 1, 1, "{}", 5).await;
    ledger.run("UPDATE tollgate.sums SET late_from = 498700, first_at = first_at + writer * 1000 WHERE writer > 1").await;
    ledger.set_clock(at(EIGHT.next(), 1)).await;
    assert_eq!(seal_all(&leader).await, 0, "late events may still come");
    ledger.set_clock(at(EIGHT.next(), 2)).await;
    assert_eq!(seal_all(&leader).await, 1);
    let [whose, hour, micros, allocations, state] = ledger.run(RECORDS).await.remove(0).try_into().unwrap();
    assert_eq!((whose, hour, state.as_str()), (customer(1), EIGHT.number().to_string(), "sealed"));
    assert_eq!(micros, "73000000");
    assert_eq!(
        allocations,
        r#"[{"tags":{"team":"a"},"micros":50000000},{"tags":{"team":"b"},"micros":20000000},{"tags":{},"micros":3000000}]"#
    );
    let rest = "SELECT allocation_count, decimal, late_from, timestamp, length(client_token), due_at FROM tollgate.records";
    let first_at = START.unix_millis().to_string();
    assert_eq!(ledger.run(rest).await, [["3", "f", "498700", first_at.as_str(), "32", "0"]]);
    assert_eq!(ledger.one("SELECT sum(amount) FROM tollgate.sums").await, "5", "the open hour stays");
    assert_eq!(ledger.one("SELECT closed FROM tollgate.ledger").await, EIGHT.number().to_string());
    ledger.check_balance().await;
}

#[tokio::test]
async fn many_slots_are_sealed_in_pieces_and_each_once() {
    let ledger = Ledger::make().await;
    let leader = ledger.leader().await;
    let usage: Vec<_> =
        (0..2000).flat_map(|number| [(EIGHT, number, 1, "{}", 1), (EIGHT, number, 2, TEAM_A, 2)]).collect();
    ledger.count_all(&usage).await;
    ledger.set_clock(at(EIGHT.next(), 2)).await;
    let mut calls = 0;
    let mut made = 0;
    loop {
        let sealing = leader.seal().await.unwrap();
        (calls, made) = (calls + 1, made + sealing.made);
        if !sealing.more {
            break;
        }
    }
    assert_eq!(made, 2000);
    assert!(calls >= 6, "{calls}");
    assert_eq!(ledger.one("SELECT count(*) FROM tollgate.sums").await, "0");
    assert_eq!(ledger.one("SELECT count(*) FROM tollgate.records WHERE micros = 3").await, "2000");
    assert_eq!(ledger.one("SELECT count(DISTINCT client_token) FROM tollgate.records").await, "2000");
    ledger.check_balance().await;
}

/// On a database that is so slow that the statements of a whole piece reach their time limit.
#[tokio::test]
async fn a_piece_that_takes_too_long_is_tried_again_in_smaller_ones() {
    let ledger = Ledger::make().await;
    let leader = ledger.leader().await;
    ledger.count_all(&(0..100).map(|number| (EIGHT, number, 1, "{}", 1)).collect::<Vec<_>>()).await;
    ledger.set_clock(at(EIGHT.next(), 2)).await;
    ledger
        .run(
            "CREATE FUNCTION tollgate.slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 IF (SELECT count(*) FROM made) > 10 THEN RAISE EXCEPTION 'too slow' USING ERRCODE = 'query_canceled'; END IF;
                 RETURN NULL;
             END $$;
             CREATE TRIGGER slow AFTER INSERT ON tollgate.records REFERENCING NEW TABLE AS made
                 FOR EACH STATEMENT EXECUTE FUNCTION tollgate.slow()",
        )
        .await;
    let (mut made, mut tries) = (0, 0);
    while made < 100 {
        tries += 1;
        assert!(tries < 100, "{made} of 100 are sealed");
        made += leader.seal().await.map_or(0, |sealing| sealing.made);
    }
    ledger.check_balance().await;
}

/// A slot has more rows than are read at once, and more sets of tags than AWS takes.
#[tokio::test]
async fn tags_beyond_what_aws_takes_count_as_untagged() {
    let ledger = Ledger::make().await;
    let leader = ledger.leader().await;
    let tags: Vec<String> = (0..4000).map(|number| format!(r#"{{"team":"t{number}"}}"#)).collect();
    let mut usage: Vec<_> = tags
        .iter()
        .enumerate()
        .map(|(number, tags)| (EIGHT, 7, if number < 2000 { 1 } else { 2 }, tags.as_str(), 1))
        .collect();
    usage.extend([(EIGHT, 6, 1, "{}", 9), (EIGHT, 8, 1, "{}", 9), (EIGHT, 7, 3, tags[0].as_str(), 5)]);
    ledger.count_all(&usage).await;
    ledger.set_clock(at(EIGHT.next(), 2)).await;
    assert_eq!(seal_all(&leader).await, 3);
    let record =
        format!("SELECT micros, allocation_count FROM tollgate.records WHERE customer = '{}'", customer(7));
    assert_eq!(ledger.run(&record).await, [["4005", "2500"]]);
    ledger.check_balance().await;
}

#[tokio::test]
async fn what_exceeds_awss_maximum_counts_to_the_current_hour() {
    let ledger = Ledger::make().await;
    let leader = ledger.leader().await;
    let most = i128::from(Quantity::MAX.micros());
    ledger.count(EIGHT, 1, 1, "{}", most).await;
    ledger.count(EIGHT, 1, 2, TEAM_A, 3 * most).await;
    ledger.set_clock(at(EIGHT.next(), 2)).await;
    assert_eq!(seal_all(&leader).await, 1);
    let open = ledger.run("SELECT hour, writer, tags, additive, late_from FROM tollgate.sums").await;
    let (hour, from, rest) =
        (EIGHT.next().number().to_string(), EIGHT.number().to_string(), (3 * most).to_string());
    assert_eq!(open, [[hour.as_str(), "0", TEAM_A, &rest, &from]]);
    ledger.check_balance().await;
    ledger.set_clock(at(EIGHT.next().next(), 2)).await;
    assert_eq!(seal_all(&leader).await, 1);
    ledger.check_balance().await;
}

/// A slot whose tags cannot be read, and one that the database refuses.
#[tokio::test]
async fn a_slot_that_cannot_be_sealed_stops_no_other() {
    let ledger = Ledger::make().await;
    let leader = ledger.leader().await;
    let usage: Vec<_> = (0..900).map(|number| (EIGHT, number, 1, "{}", 1)).collect();
    ledger.count_all(&usage).await;
    let odd = format!("UPDATE tollgate.sums SET tags = 'odd' WHERE customer = '{}'", customer(100));
    ledger.run(&odd).await;
    let refuse = format!("ALTER TABLE tollgate.records ADD CHECK (customer <> '{}')", customer(450));
    ledger.run(&refuse).await;
    ledger.set_clock(at(EIGHT.next(), 2)).await;
    assert_eq!(seal_all(&leader).await, 898);
    let left = ledger.run("SELECT customer FROM tollgate.sums ORDER BY customer").await;
    assert_eq!(left, [[customer(100)], [customer(450)]]);
    assert_eq!(seal_all(&leader).await, 0, "not before the next hour");
    ledger.run("UPDATE tollgate.sums SET tags = '{}'; ALTER TABLE tollgate.records DROP CONSTRAINT records_customer_check").await;
    ledger.set_clock(at(EIGHT.next().next(), 2)).await;
    assert_eq!(seal_all(&leader).await, 2);
    ledger.check_balance().await;
}

/// AWS takes one value for an hour: usage that comes after it counts to the next hour without a record.
#[tokio::test]
async fn a_slot_whose_hour_has_a_record_is_carried() {
    let ledger = Ledger::make().await;
    let leader = ledger.leader().await;
    let sealed = ledger.sealed(&leader, EIGHT, 2).await;
    leader.begin(&sealed[..1], None, START).await.unwrap();
    leader.answered_all(vec![accepted(sealed[0])], None, START).await.unwrap();
    // A clock that was ahead goes back: its hour is open again, and takes usage.
    ledger.set_clock(at(Hour::from_number(EIGHT.number() - 2), 30)).await;
    assert_eq!(seal_all(&leader).await, 0);
    assert_eq!(ledger.one("SELECT closed FROM tollgate.ledger").await, (EIGHT.number() - 3).to_string());
    for number in 0..2 {
        ledger.count(EIGHT, number, 1, TEAM_B, 7).await;
    }
    ledger
        .run(&format!(
            "INSERT INTO tollgate.links VALUES (99, {}, '{}', '{DIMENSION}', NULL)",
            EIGHT.number(),
            customer(1)
        ))
        .await;
    ledger.set_clock(at(EIGHT.next(), 30)).await;
    assert_eq!(seal_all(&leader).await, 0, "both hours have a record");
    let (next, from) = (EIGHT.next().number().to_string(), EIGHT.number().to_string());
    let open = ledger.run("SELECT hour, writer, tags, additive, late_from FROM tollgate.sums").await;
    assert_eq!(open, [[next.as_str(), "0", TEAM_B, "7", &from], [next.as_str(), "0", TEAM_B, "7", &from]]);
    assert_eq!(ledger.one("SELECT hour FROM tollgate.links").await, next);
    ledger.check_balance().await;
    ledger.set_clock(at(EIGHT.next().next(), 2)).await;
    assert_eq!(seal_all(&leader).await, 2);
    let target =
        format!("SELECT id FROM tollgate.records WHERE hour = {next} AND customer = '{}'", customer(1));
    assert_eq!(ledger.one("SELECT target FROM tollgate.links").await, ledger.one(&target).await);
    ledger.check_balance().await;
}

#[tokio::test]
async fn usage_that_a_clock_ahead_put_into_a_later_hour_does_not_wait_for_it() {
    let ledger = Ledger::make().await;
    let leader = ledger.leader().await;
    let far = Hour::from_number(EIGHT.number() + 8760);
    ledger.count(far, 1, 1, TEAM_A, 5).await;
    ledger.count(EIGHT.next(), 2, 1, TEAM_A, 5).await;
    seal_all(&leader).await;
    let open = ledger.run("SELECT hour, late_from FROM tollgate.sums ORDER BY customer").await;
    let (now, next) = (EIGHT.number().to_string(), EIGHT.next().number().to_string());
    assert_eq!(open, [[now.as_str(), "NULL"], [next.as_str(), "NULL"]]);
    ledger.check_balance().await;
}

/// A replica whose group of events hangs holds its hour's shared lock.
#[tokio::test]
async fn an_hour_closes_after_the_groups_that_count_to_it() {
    let ledger = Ledger::make().await;
    let leader = ledger.leader().await;
    ledger.set_clock(at(EIGHT.next(), 2)).await;
    let group = connector(&ledger);
    let group = group.connect().await.unwrap();
    let lock =
        format!("BEGIN; SELECT pg_advisory_xact_lock_shared({}, {})", crate::schema::LOCKS, EIGHT.number());
    group.batch(&lock).await.unwrap();
    let sealing = leader.seal().await.unwrap();
    assert!(sealing.more && sealing.made == 0, "it is tried again");
    assert_eq!(ledger.one("SELECT closed FROM tollgate.ledger").await, (EIGHT.number() - 1).to_string());
    let count = format!(
        "INSERT INTO tollgate.sums (hour, customer, dimension, writer, tags_key, tags, amount, first_at)
         VALUES ({}, '{}', 'd', 9, '', '{{}}', 5, 0); COMMIT",
        EIGHT.number(),
        customer(1)
    );
    group.batch(&count).await.unwrap();
    assert_eq!(seal_all(&leader).await, 1, "what the group counted is in the record");
}

/// The place for a flush of one customer's open hour.
#[tokio::test]
async fn a_customers_hour_that_was_closed_early_is_sealed_and_later_usage_is_in_the_next() {
    let ledger = Ledger::make().await;
    let leader = ledger.leader().await;
    for number in 1..=2 {
        ledger.count(EIGHT, number, 1, TEAM_A, 5).await;
        ledger.count(EIGHT, number, 2, "{}", 5).await;
    }
    assert_eq!(seal_all(&leader).await, 0);
    let early = |number| {
        format!(
            "INSERT INTO tollgate.closed_early VALUES ('{}', {}); UPDATE tollgate.ledger SET version = version + 1",
            customer(number),
            EIGHT.number()
        )
    };
    ledger.run(&early(2)).await;
    assert_eq!(seal_all(&leader).await, 1);
    let sealed = ledger.run("SELECT customer, micros FROM tollgate.records").await;
    assert_eq!(sealed, [[customer(2), "10".to_owned()]]);
    ledger.check_balance().await;
}
