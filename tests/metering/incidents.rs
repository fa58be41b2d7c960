//! Known faults of other metering agents, one test for each, named after the behaviour that tollgate must have.

use serde_json::{Value, json};

use crate::bench::{AN_HOUR_AND_ALL, Bench};
use crate::processes::http;

/// RHSM-Subscriptions #6496: a refused record was stored as sent.
#[test]
fn a_record_that_aws_refused_is_never_shown_as_billed() {
    let bench = Bench::saas();
    let mut running = bench.start();
    let customer = json!({"account_id": "444455556666"});
    running.usage(&json!({"dimension": "requests", "quantity": 7, "customer": customer}));
    running.pass(&bench, AN_HOUR_AND_ALL);
    running.sidecar.read_until(|line| line["message"] == "record not accepted yet; will retry");
    let dimension = running.reconciliation()["dimensions"][0].clone();
    assert_eq!((&dimension["billed"], &dimension["pending"]), (&json!("0"), &json!("7")), "{dimension}");
}

/// RHSM-Subscriptions #3822: usage that met a throttle was given up as failed.
#[test]
fn a_throttled_record_is_kept_and_billed_later() {
    let bench = Bench::metered();
    let mut running = bench.start();
    running.report("requests", "7");
    bench.fault(r#"{"fault":"throttle","operation":"MeterUsage","count":1}"#);
    running.pass(&bench, AN_HOUR_AND_ALL);
    let kept = running.sidecar.read_until(|line| line["message"] == "record not accepted yet; will retry");
    assert_eq!((&kept["code"], &kept["in_doubt"]), (&json!("ThrottlingException"), &json!(false)), "{kept}");
    running.wait_billed(1);
    let record = running.records()[0].clone();
    assert_eq!((&record["state"], &record["attempts"]), (&json!("accepted"), &json!(2)), "{record}");
    assert_eq!(bench.billed()["requests"], 7_000_000);
}

/// RHSM-Subscriptions #6539: AWS refused batches that named a product and a license.
#[test]
fn a_batch_names_its_product_or_licenses_and_never_both() {
    let bench = Bench::saas();
    let mut running = bench.start();
    let license = "arn:aws:license-manager::111122223333:license:l-demo";
    running.usage(&json!([
        {"dimension": "requests", "quantity": 5,
            "customer": {"account_id": "111122223333", "license_arn": license}},
        {"dimension": "gigabytes", "quantity": 7, "customer": {"identifier": "customer-111122223333"}},
    ]));
    running.pass(&bench, AN_HOUR_AND_ALL);
    running.wait_billed(2);
    let calls = http(bench.emulator.addr, "GET", "/_emulator/calls", "").json();
    let mut batches: Vec<(Value, Value)> = calls["calls"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|call| call["operation"] == "BatchMeterUsage")
        .map(|call| (call["request"]["ProductCode"].clone(), call["request"]["UsageRecords"][0].clone()))
        .map(|(product, record)| (product, record["LicenseArn"].clone()))
        .collect();
    batches.sort_by_key(|(product, _)| product.is_null());
    assert_eq!(batches, [(json!("demosaas"), Value::Null), (Value::Null, json!(license))], "{calls}");
}

/// RHSM-Subscriptions #3856: a retry that raced with a lost answer billed twice.
#[test]
fn a_restart_between_a_call_and_its_answer_bills_once() {
    let bench = Bench::metered();
    let mut running = bench.start();
    running.report("requests", "7");
    bench.fault(r#"{"fault":"hang-after","operation":"MeterUsage","count":1,"skip":0}"#);
    running.pass(&bench, AN_HOUR_AND_ALL);
    running.sidecar.read_until(|line| line["message"] == "hours sealed");
    while bench.billed().is_empty() {}
    running.kill();
    let mut running = bench.start();
    running.wait_billed(1);
    assert_eq!(bench.billed()["requests"], 7_000_000);
    assert_eq!(running.records()[0]["attempts"], 2);
}

/// AWS's own sample and CloudQuery plugin-sdk: a report of 0 at the start used up the first hour's
/// one value.
#[test]
fn a_start_reports_nothing_in_a_billed_dimension() {
    let bench = Bench::metered();
    let running =
        bench.start_with(&[("TOLLGATE_DIMENSIONS", "requests"), ("TOLLGATE_ON_ZERO_HOUR", "report")]);
    assert!(bench.bill().is_empty(), "{:?}", bench.bill());
    drop(running);
}

/// RHSM-Subscriptions #6533, which sends zeros: an hour without usage is reported as 0 if the seller says so, and only
/// after its end.
#[test]
fn a_zero_hour_is_reported_after_its_end() {
    let bench = Bench::metered();
    let mut running =
        bench.start_with(&[("TOLLGATE_DIMENSIONS", "requests"), ("TOLLGATE_ON_ZERO_HOUR", "report")]);
    running.pass(&bench, AN_HOUR_AND_ALL);
    running.wait_billed(1);
    let bill = bench.bill();
    assert_eq!(
        (&bill[0]["quantity"], &bill[0]["hour"]),
        (&json!("0"), &json!("2026-11-24T08:00:00Z")),
        "{bill:?}"
    );
}

/// OpenMeter #4902: events were acknowledged before they were durable.
#[test]
fn an_acknowledgement_outlives_a_kill_right_after_it() {
    let bench = Bench::metered();
    let running = bench.start();
    running.report("requests", "3");
    running.kill();
    assert_eq!(bench.start().reconciliation()["dimensions"][0]["accepted"], "3");
}

/// OpenMeter #5118: the key of an event was kept and the event was not.
#[test]
fn a_key_and_its_quantity_are_kept_together() {
    let bench = Bench::metered();
    let event = json!({"id": "once", "dimension": "requests", "quantity": 3});
    for _ in 0..3 {
        let running = bench.start();
        running.usage(&event);
        running.kill();
    }
    assert_eq!(bench.start().reconciliation()["dimensions"][0]["accepted"], "3");
}

/// ubbagent: SIGTERM was ignored, and usage in memory was lost.
#[test]
fn sigterm_flushes() {
    let bench = Bench::metered();
    let running = bench.start();
    running.report("requests", "3");
    let (status, last) = running.terminate();
    assert_eq!((status.code(), bench.billed().get("requests")), (Some(0), Some(&3_000_000)), "{last}");
}

/// ubbagent: a torn state file ended the agent at every start.
#[test]
fn a_torn_file_does_not_end_the_next_start() {
    let bench = Bench::metered();
    let running = bench.start();
    running.report("requests", "3");
    running.kill();
    for end in ["", "-wal"] {
        let path = format!("{}{end}", bench.file().display());
        if let Ok(bytes) = std::fs::read(&path) {
            std::fs::write(&path, &bytes[..bytes.len() / 3]).unwrap();
        }
    }
    let running = bench.start();
    running.report("requests", "4");
}

/// CloudQuery plugin-sdk #2049: a second report in an hour was refused, and its usage was lost.
#[test]
fn two_processes_of_a_pod_in_one_hour_lose_nothing() {
    let bench = Bench::metered();
    let running = bench.start();
    running.report("requests", "3");
    running.terminate();
    let mut running = bench.start();
    running.report("requests", "4");
    running.pass(&bench, "2h15m");
    running.wait_billed(1);
    let mut bill: Vec<_> = bench.bill().iter().map(|row| row["quantity"].clone()).collect();
    bill.sort_by_key(ToString::to_string);
    assert_eq!(bill, [json!("3"), json!("4")], "each hour has one value");
}

/// RHSM-Subscriptions: usage that AWS never accepted grew old without a warning.
#[test]
fn a_backlog_is_alarmed_at_half_of_its_window() {
    let bench = Bench::metered();
    let mut running = bench.start();
    running.report("requests", "3");
    bench.fault(r#"{"fault":"throttle","operation":"MeterUsage"}"#);
    running.pass(&bench, "3h30m");
    let alarm = running.sidecar.read_until(|line| {
        line["message"].as_str().is_some_and(|text| text.contains("half of AWS's window"))
    });
    assert_eq!(alarm["window_closes"], "2026-11-24T14:00:00Z", "{alarm}");
    let metrics = running.sidecar.get("/metrics").body;
    assert!(metrics.contains("tollgate_usage_unsent_records 1"), "{metrics}");
}
