//! One form for each account and hour.

use super::*;
use crate::repair::{Repair, Repaired};

const ARN: &str = "arn:aws:license-manager::294406891311:license:l-1";

fn of(customer: Customer, micros: u64, at: Timestamp) -> Event {
    Event { customer, ..event(None, micros, at) }
}

fn licensed() -> Customer {
    Customer::Account { account_id: "111122223333".into(), license_arn: Some(ARN.into()) }
}

fn legacy() -> Customer {
    Customer::Account { account_id: "111122223333".into(), license_arn: None }
}

fn identified() -> Customer {
    Customer::Identifier("id-of-111122223333".into())
}

#[test]
fn an_hour_of_an_account_takes_the_form_that_came_first() {
    let mut bench = Bench::new();
    assert_eq!(bench.take(of(licensed(), 1, START), START), Taken::Accepted);
    let refused = Event { id: Some("a".into()), ..of(legacy(), 2, START) };
    assert_eq!(bench.take(refused.clone(), START), Taken::OtherForm);
    bench.restart("pod-1");
    assert_eq!(bench.take(refused.clone(), START), Taken::OtherForm, "its key is free, its form is not");
    assert_eq!(bench.take(of(identified(), 2, START), START), Taken::Accepted, "its account is not known");
    let other = Customer::Account { account_id: "444455556666".into(), license_arn: None };
    assert_eq!(bench.take(of(other, 4, START), START), Taken::Accepted);
    let next = START.plus(HOUR);
    assert_eq!(
        bench.take(Event { at: next, ..refused.clone() }, next),
        Taken::Accepted,
        "the next hour is free"
    );
    assert_eq!(bench.take(Event { at: next, ..refused }, next), Taken::Duplicate);
    assert_eq!(bench.take(of(licensed(), 8, next), next), Taken::OtherForm);
    assert_eq!(bench.total("requests").accepted, 9);
}

#[test]
fn an_identifier_counts_as_its_account_where_that_is_known() {
    let mut bench = Bench::new();
    bench.take(of(identified(), 1, START), START);
    bench.ledger().identify("id-of-111122223333", "111122223333").unwrap();
    assert_eq!(
        bench.take(of(licensed(), 2, START), START),
        Taken::OtherForm,
        "what came before it was known"
    );
    assert_eq!(
        bench.take(of(legacy(), 2, START), START),
        Taken::OtherForm,
        "nor with this one, which AWS would refuse"
    );
    let next = START.plus(HOUR);
    bench.take(of(licensed(), 4, next), next);
    assert_eq!(bench.take(of(identified(), 8, next), next), Taken::OtherForm);
}

/// AWS counts characters, and so does the parser of events.
#[test]
fn an_identifier_of_any_length_that_aws_takes_is_remembered() {
    for identifier in ["i".repeat(255), "ü".repeat(255)] {
        let mut bench = Bench::new();
        bench.ledger().identify(&identifier, "111122223333").unwrap();
        bench.take(of(licensed(), 1, START), START);
        assert_eq!(bench.take(of(Customer::Identifier(identifier), 2, START), START), Taken::OtherForm);
    }
}

#[test]
fn usage_of_the_other_form_is_neither_carried_nor_replayed_into_an_hour() {
    let mut bench = Bench::new();
    bench.take(of(legacy(), 7, START), START);
    let now = START.plus(HOUR + SETTLE);
    bench.ledger().seal_closed(now).unwrap();
    bench.take(of(licensed(), 1, now), now);
    let id = bench.ledger().unsent(1).unwrap()[0].id;
    bench.ledger().answered(id, &Answered::Carry("expired".into()), now).unwrap();
    let record = bench.ledger().record(id).unwrap().unwrap().record;
    assert_eq!(
        (record.state, record.code.as_deref()),
        (RecordState::Dead { in_doubt: false }, Some("OtherForm"))
    );
    let replay = Repair::Replay { accept_double_billing: true, to_dimension: None, note: None };
    assert_eq!(bench.ledger().repair(id, &replay, now).unwrap(), Repaired::OtherForm);
    assert_eq!((bench.total("requests").dead, bench.total("requests").pending), (7, 1));
    let later = now.plus(HOUR);
    assert_eq!(
        bench.ledger().repair(id, &replay, later).unwrap(),
        Repaired::Done,
        "an hour without the other form"
    );
    assert_eq!(bench.take(of(licensed(), 2, later), later), Taken::OtherForm);
    assert_eq!(bench.total("requests").dead, 0);
}

#[test]
fn what_awss_maximum_leaves_over_goes_to_an_hour_of_its_form() {
    let mut bench = Bench::new();
    let most = Quantity::MAX.micros();
    bench.take(of(legacy(), most, START), START);
    bench.take(of(legacy(), 7, START), START);
    let now = START.plus(HOUR + SETTLE);
    bench.take(of(licensed(), 1, now), now);
    bench.ledger().seal_closed(now).unwrap();
    for hour in 1..5 {
        bench.ledger().seal_closed(now.plus(hour * HOUR)).unwrap();
    }
    let mut forms: BTreeMap<Hour, BTreeSet<bool>> = BTreeMap::new();
    for record in bench.ledger().unsent(10).unwrap() {
        let licensed = record.customer == licensed();
        forms.entry(record.hour).or_default().insert(licensed);
    }
    assert!(forms.values().all(|forms| forms.len() == 1), "{forms:?}");
    assert_eq!(forms.len(), 3);
}

#[test]
fn forms_of_hours_that_are_over_are_forgotten() {
    let mut bench = Bench::new();
    for hour in 0..12 {
        let at = START.plus(hour * HOUR);
        bench.take(of(licensed(), 1, at), at);
        bench.ledger().seal_closed(at).unwrap();
        bench.ledger().seal_closed(at).unwrap();
    }
    let held: i64 =
        bench.ledger().connection.query_row("SELECT count(*) FROM forms", [], |row| row.get(0)).unwrap();
    assert!((1..=5).contains(&held), "{held}");
}

#[test]
fn an_account_and_its_identifier_are_one_customer_of_which_aws_keeps_one_report() {
    let mut bench = Bench::new();
    bench.ledger().identify("id-9", "111122223333").unwrap();
    let identifier = Customer::Identifier("id-9".into());
    assert_eq!(bench.take(of(legacy(), 4, START), START), Taken::Accepted);
    assert_eq!(bench.take(of(identifier.clone(), 5, START), START), Taken::OtherForm);
    let later = START.plus(HOUR);
    assert_eq!(bench.take(of(identifier, 5, later), later), Taken::Accepted, "in another hour");
    assert_eq!(bench.take(of(legacy(), 4, later), later), Taken::OtherForm);
}

/// The clock was hours ahead. One slot from then cannot move back, because every earlier hour has another form. It
/// waits for its own hour, and no other slot waits for it.
#[test]
fn a_slot_that_must_wait_for_its_hour_holds_up_no_other() {
    let other = |number: u64| Customer::Account { account_id: format!("{number:012}"), license_arn: None };
    let mut bench = Bench::new();
    for hour in 0..3 {
        let ahead = START.plus(hour * HOUR);
        assert_eq!(bench.take(of(legacy(), 1, ahead), ahead), Taken::Accepted);
    }
    let ahead = START.plus(3 * HOUR);
    assert_eq!(bench.take(of(licensed(), 10, ahead), ahead), Taken::Accepted);
    for number in 1..=40 {
        let ahead = START.plus(4 * HOUR);
        assert_eq!(bench.take(of(other(number), 100, ahead), ahead), Taken::Accepted);
    }
    bench.ledger().seal_closed(START.plus(MINUTE)).unwrap();
    let now = START.plus(HOUR + SETTLE);
    while bench.ledger().seal_closed(now).unwrap().more {}
    let sealed = bench.ledger().unsent(100).unwrap();
    let of_others = sealed.iter().filter(|record| record.quantity.micros() == 100).count();
    assert_eq!(of_others, 40, "{sealed:?}");
    assert!(sealed.iter().all(|record| record.hour == Hour::of(START)), "{sealed:?}");
    // It is examined again with each new hour, and is sealed in its own.
    let now = START.plus(4 * HOUR + SETTLE);
    while bench.ledger().seal_closed(now).unwrap().more {}
    let last = bench.ledger().unsent(100).unwrap().pop().unwrap();
    assert_eq!((last.hour, last.quantity.micros()), (Hour::of(ahead), 10));
    assert_eq!(bench.total("requests").pending, 4013);
}

#[test]
fn the_identifiers_of_an_account_are_those_that_were_named_for_it() {
    let mut bench = Bench::new();
    let mut identify =
        |identifier: &str, account: &str| bench.ledger().identify(identifier, account).unwrap();
    for (identifier, account) in [
        ("id-1", "111122223333"),
        ("id-2", "111122223333"),
        ("id-3", "444455556666"),
        ("id-1", "444455556666"),
    ] {
        identify(identifier, account);
    }
    let mut of = |account: &str| bench.ledger().identifiers(account).unwrap();
    assert_eq!(of("111122223333"), ["id-2"]);
    assert_eq!(of("444455556666"), ["id-3", "id-1"]);
    assert_eq!(of("id-1"), [""; 0]);
}
