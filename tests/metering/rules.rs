//! Prices that need no code: the whole binary with `[dimension.NAME]`, its answers, and the bill.

use serde_json::{Value, json};

use crate::bench::{AN_HOUR_AND_ALL, Bench, Running};

/// A setting that gives `gigabytes` this rule.
fn gigabytes(rule: &str) -> (&'static str, String) {
    ("TOLLGATE_DIMENSION", format!("{{ gigabytes = {rule} }}"))
}

fn start(bench: &Bench, rule: &str) -> Running {
    let (name, value) = gigabytes(rule);
    bench.start_with(&[(name, &value)])
}

/// Its status, and the reason if it was rejected.
fn result(running: &Running, quantity: &str) -> (String, String) {
    let answer = running.usage(&json!({"dimension": "gigabytes", "quantity": quantity})).json();
    let text = |member: &str| answer["results"][0][member].as_str().unwrap_or_default().to_owned();
    (text("status"), text("error"))
}

fn balance(running: &Running) -> Value {
    let document = running.reconciliation();
    let rows = document["dimensions"].as_array().unwrap().clone();
    rows.into_iter().find(|row| row["dimension"] == "gigabytes").unwrap()
}

#[test]
fn bytes_are_billed_as_gigabytes_and_the_remainder_is_told_at_the_end_and_sent_later() {
    let bench = Bench::metered();
    let running = start(&bench, "{ scale = 'bytes:GB' }");
    // More than AWS takes of any quantity.
    running.report("gigabytes", "20000001500.5");
    let (status, last) = running.terminate();
    assert_eq!(status.code(), Some(0), "{last}");
    assert!(
        last.contains("usage_sent") && last.contains("gigabytes=500.5, in the unit of the events"),
        "{last}"
    );
    assert_eq!(bench.billed()["gigabytes"], 20_000_001);

    let mut running = start(&bench, "{ scale = 'bytes:GB' }");
    running.set_clock(&bench, "2026-11-24T09:00:30Z");
    running.report("gigabytes", "499.5");
    running.pass(&bench, AN_HOUR_AND_ALL);
    running.wait_billed(1);
    assert_eq!(bench.billed()["gigabytes"], 20_000_002);
    let row = balance(&running);
    assert_eq!(
        (&row["accepted"], &row["billed"], &row["remainder"], &row["balanced"]),
        (&json!("20000002000"), &json!("20000002000"), &json!("0"), &json!(true))
    );
}

#[test]
fn the_peak_of_an_hour_is_billed_and_foreseen() {
    let bench = Bench::metered();
    let mut running = start(&bench, "{ aggregation = 'max', per_pod = true }");
    for seats in ["3", "7", "5"] {
        running.report("gigabytes", seats);
    }
    let (_, open, _) = bench.ledger(&["open", "--dimension", "gigabytes"], Some(running.app));
    assert_eq!((&open[0]["would_bill"], &open[0]["rule"]), (&json!("7"), &json!("max 1 none")), "{open}");
    let tagged = json!({"dimension": "gigabytes", "quantity": "9", "tags": {"team": "a"}});
    let answer = running.usage(&tagged).json();
    assert!(answer["results"][0]["error"].as_str().unwrap().contains("tags"), "{answer}");
    running.pass(&bench, AN_HOUR_AND_ALL);
    running.wait_billed(1);
    assert_eq!(bench.billed()["gigabytes"], 7_000_000);
    assert_eq!(balance(&running)["accepted"], "7", "what did not change the hour was not added");
}

#[test]
fn an_open_hour_is_billed_by_the_rule_that_it_began_with() {
    let bench = Bench::metered();
    let running = start(&bench, "{ scale = 1000 }");
    running.report("gigabytes", "1500");
    running.kill();

    let mut running = start(&bench, "{ scale = 1000, rounding = { mode = 'up', digits = 0 } }");
    let (status, why) = result(&running, "100");
    assert!(status == "rejected" && why.contains("scale 1000 and rounding none"), "{why}");
    running.pass(&bench, AN_HOUR_AND_ALL);
    running.wait_billed(1);
    assert_eq!(bench.billed()["gigabytes"], 1_500_000);
    assert_eq!(result(&running, "100").0, "accepted", "the next hour begins with the new rule");
    running.pass(&bench, AN_HOUR_AND_ALL);
    running.wait_billed(1);
    assert_eq!(bench.billed()["gigabytes"], 2_500_000);
}

#[test]
fn an_hour_is_rounded_up_once_however_often_the_process_starts() {
    let bench = Bench::metered();
    let rule = "{ scale = 1000, rounding = { mode = 'up', digits = 0 } }";
    for _ in 0..3 {
        let running = start(&bench, rule);
        running.report("gigabytes", "400");
        let (status, last) = running.terminate();
        assert_eq!(status.code(), Some(0), "{last}");
    }
    let mut running = start(&bench, rule);
    running.set_clock(&bench, "2026-11-24T12:00:30Z");
    running.wait_billed(1);
    // 1,200 in all: one process would have billed 2.
    let billed = bench.billed()["gigabytes"];
    assert!(billed <= 2_000_000, "{:?}", bench.bill());
    let row = balance(&running);
    assert_eq!(
        (&row["accepted"], &row["pending"], &row["balanced"]),
        (&json!("1200"), &json!("0"), &json!(true)),
        "{row}"
    );
    assert_eq!(billed, 2_000_000, "{:?}", bench.bill());
}
