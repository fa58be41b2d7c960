//! What the bill must never do.

use super::*;

fn recorded(pod: &str, quantity: u32, call: u64) -> Recorded {
    Recorded {
        product_code: "demometered".to_owned(),
        account_id: "111122223333".to_owned(),
        dimension: "requests".to_owned(),
        form: FormText::Pod(pod.to_owned()),
        hour: 3_600_000,
        timestamp: 3_661_000,
        quantity: Micros::of_integer(quantity),
        allocations: Vec::new(),
        call,
        client_token: None,
        region: "us-east-1".to_owned(),
    }
}

fn bill(changes: &[Change]) -> Bill {
    let mut bill = Bill::default();
    for change in changes {
        bill.apply(change);
    }
    bill
}

#[test]
fn a_record_is_found_by_what_makes_it_the_same() {
    let first = recorded("pod-a", 17, 1);
    let bill = bill(&[Change::Recorded { record: Box::new(first.clone()) }]);
    let known = bill.find(&recorded("pod-a", 99, 2)).unwrap();
    assert_eq!((known.id, known.quantity), (0, Micros::of_integer(17)));
    for other in [
        Recorded { hour: 7_200_000, ..first.clone() },
        Recorded { dimension: "gigabytes".to_owned(), ..first.clone() },
        Recorded { form: FormText::Pod("pod-b".to_owned()), ..first.clone() },
        Recorded { form: FormText::Product, ..first.clone() },
        Recorded { region: "eu-west-1".to_owned(), ..first.clone() },
        Recorded { form: FormText::License("arn".to_owned()), ..first },
    ] {
        assert!(bill.find(&other).is_none(), "{other:?}");
    }
}

#[test]
fn the_bill_names_the_calls_that_made_it() {
    let bill = bill(&[
        Change::Recorded { record: Box::new(recorded("pod-a", 17, 4)) },
        Change::Repeated { record: 0, call: 9, client_token: None },
        Change::Recorded { record: Box::new(recorded("pod,\"b\"", 3, 10)) },
    ]);
    let json = bill.ledger_json(&Filter::default());
    assert_eq!(json["records"][1]["calls"], 2);
    assert_eq!(json["records"][1]["request_ids"][1], request_id(9));
    assert_eq!(json["totals"][0]["quantity"], "20");
    assert_eq!(bill.last_call(), 10);
    let csv = bill.csv(&Filter { pod: Some("pod,\"b\"".to_owned()), ..Filter::default() });
    assert!(
        csv.contains(
            "\r\nMeterUsage,\"pod,\"\"b\"\"\",demometered,111122223333,,requests,1970-01-01T01:00:00Z,"
        ),
        "{csv}"
    );
    assert_eq!(csv.lines().count(), 2);
}

#[test]
fn parts_have_each_record_once_and_are_bounded() {
    let large =
        Allocation { tags: vec![("key".to_owned(), "v".repeat(600_000))], quantity: Micros::of_integer(1) };
    let record = |pod: &str, product: &str, allocations: &[Allocation]| {
        let recorded = recorded(pod, 1, 1);
        let record =
            Recorded { product_code: product.to_owned(), allocations: allocations.to_vec(), ..recorded };
        Change::Recorded { record: Box::new(record) }
    };
    let bill = bill(&[
        record("pod-c", "p", &[]),
        record("pod-b", "other", &[]),
        record("pod-a", "p", &[]),
        record("pod-d", "p", &[]),
        record("pod-e", "p", std::slice::from_ref(&large)),
        record("pod-f", "p", std::slice::from_ref(&large)),
    ]);
    let filter = Filter { product_code: Some("p".to_owned()), ..Filter::default() };
    let part = |from, limit| {
        let part = serde_json::to_value(bill.part(&filter, Part { from, limit })).unwrap();
        let pods: Vec<_> = part["records"].as_array().unwrap().iter().map(|row| row["pod"].clone()).collect();
        (serde_json::json!(pods), part["next"].clone())
    };
    use serde_json::{Value, json};
    assert_eq!(part(0, 2), (json!(["pod-c", "pod-a"]), json!(3)));
    assert_eq!(part(3, 2), (json!(["pod-d", "pod-e"]), json!(5)));
    assert_eq!(part(3, 100), (json!(["pod-d", "pod-e"]), json!(5)), "two large ones are too many bytes");
    assert_eq!(part(5, 100), (json!(["pod-f"]), Value::Null));
    assert_eq!(part(0, 0), (json!(["pod-c"]), json!(2)), "a part has a record");
    assert_eq!(part(6, 100), (json!([]), Value::Null));
}

#[test]
fn old_client_tokens_give_way_to_new_ones() {
    let mut bill = Bill::default();
    bill.apply(&Change::Recorded { record: Box::new(recorded("pod-a", 1, 1)) });
    for number in 0..CLIENT_TOKENS_MAX as u64 + 5 {
        let token = ClientToken { token: [number, 0], request: [0, 0] };
        bill.apply(&Change::Repeated { record: 0, call: 1, client_token: Some(token) });
    }
    assert_eq!(bill.client_tokens.len(), CLIENT_TOKENS_MAX);
    assert_eq!(bill.client_token(&[4, 0]), None);
    assert_eq!(bill.client_token(&[5, 0]), Some(([0, 0], 0)));
}

#[test]
fn a_full_bill_says_so() {
    let mut bill = bill(&[Change::Seen { pod: "old".to_owned(), at: 0 }]);
    bill.bytes = BYTES_MAX;
    assert!(bill.room("old", &[]).is_err());
    bill.bytes = 0;
    for number in 1..PODS_MAX {
        bill.apply(&Change::Seen { pod: number.to_string(), at: 0 });
    }
    assert!(bill.room("old", &[]).is_ok());
    assert!(bill.room("new", &[]).is_err());
}

#[test]
fn a_refused_registration_is_not_on_the_bill() {
    let registered = |at, entitled| Change::Registered {
        pod: "pod-a".to_owned(),
        product_code: "demohourly".to_owned(),
        account_id: "111122223333".to_owned(),
        at,
        call: 1,
        entitled,
    };
    let refused = [registered(1000, false)];
    assert_eq!(bill(&refused).registration("pod-a", "demohourly"), Some(false));
    assert_eq!(bill(&refused).ledger_json(&Filter::default())["registrations"], serde_json::json!([]));
    let later = bill(&[registered(1000, false), registered(5000, true), registered(9000, true)]);
    assert_eq!(later.ledger_json(&Filter::default())["registrations"][0]["since"], "1970-01-01T00:00:05Z");
    assert_eq!(later.registration("pod-a", "demohourly"), Some(true));
}

#[test]
fn the_sums_are_those_of_the_records() {
    let at = |hour: i64, quantity, pod| {
        // Some records are a minute into their hour, as without rounding.
        let minute = if pod == "b" { 60_000 } else { 0 };
        let record = Recorded { hour: hour * HOUR_MILLIS + minute, ..recorded(pod, quantity, 1) };
        Change::Recorded { record: Box::new(record) }
    };
    let bill = bill(&[at(1, 5, "a"), at(1, 6, "b"), at(2, 7, "a"), at(30, 8, "a")]);
    let sums = bill.sums_json(24);
    let hours = |sums: &serde_json::Value| {
        let rows = sums["hours"].as_array().unwrap().clone();
        rows.iter().map(|row| (row["hour"].to_string(), row["quantity"].to_string())).collect::<Vec<_>>()
    };
    assert_eq!(hours(&sums), [("\"1970-01-02T06:00:00Z\"".to_owned(), "\"8\"".to_owned())]);
    assert_eq!(bill.sums_json(30)["hours"][0]["quantity"], "11");
    assert_eq!(bill.sums_json(u64::MAX)["hours"].as_array().unwrap().len(), 3);
    assert_eq!(sums["totals"], bill.ledger_json(&Filter::default())["totals"]);
    assert_eq!((&sums["records"], &sums["totals_count"]), (&serde_json::json!(4), &serde_json::json!(1)));
}
