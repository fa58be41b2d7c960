//! The proof that opens the gate in mode `metered`, and that it bills nothing.

use serde_json::{Value, json};

use crate::bench::{AN_HOUR_AND_ALL, Bench};
use crate::processes::http;

/// The calls of `MeterUsage` that AWS saw, oldest first.
fn calls(bench: &Bench) -> Vec<Value> {
    let calls = http(bench.emulator.addr, "GET", "/_emulator/calls?operation=MeterUsage", "").json();
    calls["calls"].as_array().unwrap().iter().map(|call| call["request"].clone()).collect()
}

#[test]
fn a_dry_run_opens_the_gate_in_either_form_and_reports_nothing() {
    for form in ["answer", "exception"] {
        let bench = Bench::metered();
        bench.emulator.admin("/_emulator/switches", &json!({"dry_run": form}).to_string());
        let running = bench.start();
        let document = running.sidecar.document();
        assert_eq!((&document["proof"], &document["gate"]), (&json!("permission"), &json!("open")), "{form}");
        let calls = calls(&bench);
        assert!(!calls.is_empty() && calls.iter().all(|call| call["DryRun"] == true), "{form}: {calls:?}");
        assert_eq!(bench.bill(), Vec::<Value>::new(), "{form}");
    }
}

#[test]
fn where_aws_checks_dry_runs_in_full_the_sellers_own_dimension_passes() {
    let bench = Bench::metered();
    bench.emulator.admin("/_emulator/switches", r#"{"dry_run_checks":"everything"}"#);
    let running = bench.start_with(&[("TOLLGATE_DIMENSIONS", "requests")]);
    assert_eq!(running.sidecar.document()["proof"], "permission");
    assert_eq!(calls(&bench)[0]["UsageDimension"], "requests");
    assert_eq!(bench.bill(), Vec::<Value>::new());
}

#[test]
fn an_entitlement_dimension_is_reported_with_zero_each_hour_and_takes_no_usage() {
    let bench = Bench::metered();
    let mut running = bench.start_with(&[("TOLLGATE_ENTITLEMENT_DIMENSION", "gigabytes")]);
    assert_eq!(running.sidecar.document()["proof"], "metering");
    let answer = running.usage(&json!([
        {"dimension": "requests", "quantity": 3}, {"dimension": "gigabytes", "quantity": 1},
    ]));
    let results = answer.json()["results"].clone();
    assert_eq!((&results[0]["status"], &results[1]["status"]), (&json!("accepted"), &json!("rejected")));
    assert!(results[1]["error"].as_str().unwrap().contains("entitlement_dimension"), "{results}");
    running.pass(&bench, AN_HOUR_AND_ALL);
    running.wait_billed(1);
    // The next report of 0 comes with the next hour, not with usage.
    let zeros = |bill: &[Value]| bill.iter().filter(|row| row["dimension"] == "gigabytes").count();
    while zeros(&bench.bill()) < 2 {}
    let bill = bench.bill();
    assert!(bill.iter().filter(|row| row["dimension"] == "gigabytes").all(|row| row["quantity"] == "0"));
    let billed: Vec<&Value> = bill.iter().filter(|row| row["dimension"] == "requests").collect();
    assert_eq!(billed.len(), 1, "one report of the billed dimension, after its hour: {bill:?}");
    assert_eq!((&billed[0]["quantity"], &billed[0]["hour"]), (&json!("3"), &json!("2026-11-24T08:00:00Z")));
    // The dry runs of the configured dimensions come after it.
    assert!(calls(&bench)[0]["DryRun"] != true, "the report itself is the proof");
}

#[test]
fn a_refused_renewal_is_a_lapse_that_closes_the_gate_when_the_seller_says_so() {
    let bench = Bench::metered();
    let mut running = bench.start_with(&[
        ("TOLLGATE_ENTITLEMENT_DIMENSION", "gigabytes"),
        ("TOLLGATE_ON_LAPSE", "close-after:1ms"),
    ]);
    bench.fault(
        r#"{"fault":"exception","exception":"CustomerNotEntitledException","operation":"MeterUsage"}"#,
    );
    running.pass(&bench, AN_HOUR_AND_ALL);
    running.sidecar.wait_for("denied");
    assert_eq!(running.sidecar.get("/readyz").status, 503);
    assert_eq!(running.sidecar.document()["reason"]["code"], "CustomerNotEntitledException");
}
