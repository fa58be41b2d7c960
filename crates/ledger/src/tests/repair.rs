//! Repairs and the balance, the audit and the links.

use super::*;
use crate::repair::{Note, Repair, Repaired};
use crate::view::{Looked, ShownState};

/// Eight hours after the start: every window is over.
const LATER: Timestamp = Timestamp::from_unix_seconds(1_795_507_200 + 8 * 3600);

fn note() -> Note {
    Note::new("ticket 7").unwrap()
}

pub(super) fn replay(accept_double_billing: bool) -> Repair {
    Repair::Replay { accept_double_billing, to_dimension: None, note: None }
}

pub(super) fn confirm() -> Repair {
    Repair::Confirm(note())
}

pub(super) fn discard() -> Repair {
    Repair::Discard(note())
}

/// A dead letter of 7 millionths; with `in_doubt`, after a call without an answer.
fn dead(bench: &mut Bench, at: Timestamp, in_doubt: bool, code: &str) -> i64 {
    bench.take(event(None, 7, at), at);
    bench.ledger().seal_closed(at.plus(HOUR + SETTLE)).unwrap();
    let id = bench.ledger().unsent(100).unwrap().last().unwrap().id;
    if in_doubt {
        bench.ledger().attempt(&[id], None, LATER).unwrap();
        bench.ledger().answered(id, &Answered::Unknown("Timeout".into()), LATER).unwrap();
    }
    bench.ledger().answered(id, &Answered::Dead(code.into()), LATER).unwrap();
    id
}

fn state(bench: &mut Bench, id: i64) -> (RecordState, Option<String>) {
    let record = bench.ledger().record(id).unwrap().unwrap().record;
    (record.state, record.code)
}

#[test]
fn a_dead_letter_is_replayed_once_and_in_doubt_only_when_that_is_accepted() {
    let mut bench = Bench::new();
    bench.take(event(None, 7, START), START);
    bench.ledger().seal_closed(START.plus(HOUR + SETTLE)).unwrap();
    let id = bench.ledger().unsent(10).unwrap()[0].id;
    bench.ledger().attempt(&[id], None, LATER).unwrap();
    bench.ledger().answered(id, &Answered::Unknown("Timeout".into()), LATER).unwrap();
    let repair = |bench: &mut Bench, accept| bench.ledger().repair(id, &replay(accept), LATER).unwrap();
    assert_eq!(repair(&mut bench, true), Repaired::NotFound, "it is not dead yet");
    bench.ledger().answered(id, &Answered::Dead("in_doubt".into()), LATER).unwrap();
    assert_eq!(bench.total("requests").dead, 7);
    assert_eq!(repair(&mut bench, false), Repaired::InDoubt);
    assert!(bench.ledger().audit(None, 10).unwrap().is_empty(), "nothing was done");
    assert_eq!(repair(&mut bench, true), Repaired::Done);
    assert_eq!(repair(&mut bench, true), Repaired::NotFound, "once");
    assert_eq!((bench.total("requests").dead, bench.total("requests").pending), (0, 7));
    assert_eq!(
        state(&mut bench, id),
        (RecordState::Carried { in_doubt: true }, Some("in_doubt".into())),
        "why it was dead stays"
    );
    bench.ledger().seal_closed(LATER.plus(HOUR + SETTLE)).unwrap();
    let again = bench.ledger().unsent(10).unwrap();
    assert_eq!((again[0].quantity.micros(), again[0].hour), (7, Hour::of(LATER)));
}

#[test]
fn what_another_may_have_reported_is_replayed_only_when_double_billing_is_accepted() {
    let mut bench = Bench::new();
    for (hours, code) in [(0, "DuplicateRequestException"), (1, "DuplicateRecord")] {
        let id = dead(&mut bench, START.plus(hours * HOUR), false, code);
        assert_eq!(bench.ledger().repair(id, &replay(false), LATER).unwrap(), Repaired::InDoubt, "{code}");
        assert_eq!(bench.ledger().repair(id, &replay(true), LATER).unwrap(), Repaired::Done, "{code}");
    }
}

#[test]
fn what_was_billed_is_confirmed_what_never_will_be_is_discarded_and_both_leave_the_alarm() {
    let mut bench = Bench::new();
    let confirmed = dead(&mut bench, START, true, "in_doubt");
    let discarded = dead(&mut bench, START.plus(HOUR), false, "InvalidTagException");
    assert_eq!(bench.ledger().summary().unwrap().dead, 2);
    assert_eq!(bench.ledger().repair(confirmed, &confirm(), LATER).unwrap(), Repaired::Done);
    assert_eq!(bench.ledger().repair(discarded, &discard(), LATER).unwrap(), Repaired::Done);
    let totals = bench.total("requests");
    assert_eq!((totals.accepted, totals.billed, totals.discarded, totals.dead), (14, 7, 7, 0));
    assert_eq!(bench.ledger().summary().unwrap().dead, 0);
    assert_eq!(state(&mut bench, confirmed).0, RecordState::Accepted { unconfirmed: false });
    assert_eq!(state(&mut bench, discarded).0, RecordState::Discarded);
    for repair in [replay(true), confirm(), discard()] {
        for id in [confirmed, discarded, 99] {
            assert_eq!(bench.ledger().repair(id, &repair, LATER).unwrap(), Repaired::NotFound, "once");
        }
    }
    let audit: Vec<_> = bench.ledger().audit(None, 10).unwrap();
    let lines: Vec<_> =
        audit.iter().map(|entry| (entry.record, entry.action.as_str(), &*entry.note)).collect();
    assert_eq!(
        lines,
        [
            (discarded, "discard", "ticket 7 [was a dead letter: InvalidTagException]"),
            (confirmed, "confirm", "ticket 7 [was a dead letter: in_doubt, in doubt]"),
        ]
    );
    let older = bench.ledger().audit(Some(audit[0].id), 10).unwrap();
    assert_eq!((older.len(), older[0].at), (1, LATER));
    bench.restart("pod-1");
    assert_eq!(bench.total("requests").discarded, 7, "also when it is checked at the next start");
}

#[test]
fn a_wrong_dimension_is_corrected_and_each_dimension_keeps_its_balance() {
    let mut bench = Bench::new();
    let id = dead(&mut bench, START, false, "InvalidUsageDimensionException");
    let to_dimension = Some("gigabytes".to_owned());
    let repair = Repair::Replay { accept_double_billing: false, to_dimension, note: Some(note()) };
    assert_eq!(bench.ledger().repair(id, &repair, LATER).unwrap(), Repaired::Done);
    assert_eq!((bench.total("requests").accepted, bench.total("gigabytes").pending), (0, 7));
    let audit = bench.ledger().audit(None, 1).unwrap();
    assert_eq!(
        audit[0].note,
        "ticket 7 [was a dead letter: InvalidUsageDimensionException] [from requests to gigabytes]"
    );
    bench.restart("pod-1");
    bench.ledger().seal_closed(LATER.plus(HOUR + SETTLE)).unwrap();
    assert_eq!(bench.ledger().unsent(10).unwrap()[0].dimension, "gigabytes");
}

#[test]
fn what_counts_to_a_later_hour_and_what_it_became_name_each_other() {
    let mut bench = Bench::new();
    let first = dead(&mut bench, START, false, "InvalidTagException");
    let second = dead(&mut bench, START.plus(HOUR), false, "InvalidTagException");
    assert_eq!(bench.ledger().links(first).unwrap(), Links::default());
    for id in [first, second] {
        bench.ledger().repair(id, &replay(false), LATER).unwrap();
    }
    assert_eq!(bench.ledger().links(first).unwrap().counts_in, Some(None), "its hour is open");
    // The next pod reports it, in its own hour: the link points there.
    bench.restart("pod-2");
    bench.ledger().seal_closed(LATER).unwrap();
    bench.ledger().seal_closed(LATER.plus(HOUR + SETTLE)).unwrap();
    let became = bench.ledger().unsent(10).unwrap()[0].id;
    assert_eq!(bench.ledger().links(first).unwrap().counts_in, Some(Some(became)));
    assert_eq!(
        bench.ledger().links(became).unwrap(),
        Links { counts_in: None, includes: vec![first, second] }
    );
    // The policy's carrying makes the same link as a person's replay.
    let late = LATER.plus(8 * HOUR);
    bench.ledger().answered(became, &Answered::Carry("expired".into()), late).unwrap();
    bench.ledger().seal_closed(late.plus(HOUR + SETTLE)).unwrap();
    let last = bench.ledger().unsent(10).unwrap()[0].id;
    assert_eq!(bench.ledger().links(last).unwrap().includes, [became]);
}

#[test]
fn records_are_found_by_customer_dimension_hour_and_state() {
    let mut bench = Bench::new();
    let arn = "arn:aws:license-manager::1:license:l-1";
    let account = |id: &str, arn: Option<&str>| Customer::Account {
        account_id: id.to_owned(),
        license_arn: arn.map(str::to_owned),
    };
    let customers = [
        account("111122223333", Some(arn)),
        account("444455556666", None),
        Customer::Identifier("id-9".into()),
    ];
    for customer in customers {
        bench.take(Event { customer, ..event(None, 1, START) }, START);
    }
    bench.take(Event { dimension: "gigabytes".into(), ..event(None, 1, START.plus(HOUR)) }, START.plus(HOUR));
    bench.ledger().seal_closed(START.plus(2 * HOUR + SETTLE)).unwrap();
    let count = |looked: Looked| bench.ledger.as_ref().unwrap().page(&looked, 10).unwrap().rows.len();
    let by = |customer: &str| count(Looked { customer: Some(customer.into()), ..Looked::default() });
    let found = ["111122223333", "444455556666", arn, "id-9", "identifier id-9", "9", "1111"].map(by);
    assert_eq!(found, [1, 1, 1, 1, 1, 0, 0]);
    assert_eq!(count(Looked { dimension: Some("gigabytes".into()), ..Looked::default() }), 1);
    assert_eq!(count(Looked { hour: Some(Hour::of(START)), ..Looked::default() }), 3);
    assert_eq!(count(Looked { state: Some(ShownState::Sealed), ..Looked::default() }), 4);
    assert_eq!(count(Looked { state: Some(ShownState::Discarded), ..Looked::default() }), 0);
}

#[test]
fn what_aws_says_that_it_holds_is_billed_until_a_person_confirms_it_or_finds_that_it_is_not() {
    let mut bench = Bench::new();
    for hours in 0..2 {
        bench.take(event(None, 7, START.plus(hours * HOUR)), START.plus(hours * HOUR));
        bench.ledger().seal_closed(START.plus((hours + 1) * HOUR + SETTLE)).unwrap();
        let id = bench.ledger().unsent(10).unwrap()[0].id;
        bench.ledger().attempt(&[id], None, LATER).unwrap();
        bench.ledger().answered(id, &Answered::Unknown("Timeout".into()), LATER).unwrap();
        bench.ledger().answered(id, &Answered::Accepted(None), LATER).unwrap();
        let mark = "UPDATE records SET unconfirmed = 1 WHERE id = ?1";
        bench.ledger().reading(|connection| connection.execute(mark, [id])).unwrap();
    }
    let looked = Looked { state: Some(ShownState::Unconfirmed), ..Looked::default() };
    let unconfirmed = |bench: &mut Bench| -> Vec<i64> {
        bench.ledger().page(&looked, 10).unwrap().rows.iter().map(|record| record.id).collect()
    };
    let [there, missing] = unconfirmed(&mut bench)[..] else { panic!("two of them") };
    assert_eq!(bench.ledger().repair(there, &discard(), LATER).unwrap(), Repaired::NotFound, "it is billed");
    assert_eq!(bench.ledger().repair(there, &confirm(), LATER).unwrap(), Repaired::Done);
    assert_eq!(bench.ledger().repair(missing, &replay(false), LATER).unwrap(), Repaired::InDoubt);
    assert_eq!(bench.ledger().repair(missing, &replay(true), LATER).unwrap(), Repaired::Done);
    assert_eq!(unconfirmed(&mut bench), [0; 0]);
    assert_eq!((bench.total("requests").billed, bench.total("requests").pending), (7, 7));
}

#[test]
fn a_replay_counts_to_the_same_hour_whoever_makes_it() {
    let mut hours = Vec::new();
    for by_sidecar in [true, false] {
        let mut bench = Bench::new();
        let id = dead(&mut bench, START, false, "InvalidTagException");
        // The application reported the current hour itself; `aws_door` was switched off since.
        let Claimed::Granted(claim) = bench.ledger().claim(&claim(5, LATER), None, LATER).unwrap() else {
            panic!("not granted")
        };
        bench.ledger().settle_claim(claim, Settled::Accepted, Some("id"), None, LATER).unwrap();
        let done = if by_sidecar {
            bench.ledger().repair(id, &replay(false), LATER)
        } else {
            bench.ledger = None;
            Database::open_existing(bench.folder.path()).unwrap().repair(id, &replay(false), LATER)
        };
        assert_eq!(done.unwrap(), Repaired::Done);
        bench.ledger = None;
        let ledger = Database::inspect(bench.folder.path()).unwrap();
        let pod: String =
            ledger.reading(|c| c.query_row("SELECT pod FROM slots", [], |row| row.get(0))).unwrap();
        assert_eq!(pod, "pod-1");
        hours.push(ledger.all_open().unwrap()[0].hour);
    }
    assert_eq!(hours, [Hour::of(LATER).next(); 2], "AWS has a value for the current one");
}
