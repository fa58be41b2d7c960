//! `on_unsent`: a buyer's ways to keep usage from AWS, by the whole binary against the emulator and its clock; and
//! dimensions that AWS does not know. `usage::unsent::tests` tests running time, with paused time.

use serde_json::{Value, json};

use crate::bench::{AN_HOUR_AND_ALL, Bench, Running};
use crate::processes::{Emulator, Sidecar, http};

const CLOSE: (&str, &str) = ("TOLLGATE_ON_UNSENT", "close-after:2h");

/// The gate is shut, each output names the reason, and commands that give up end with 77.
fn is_unreported(running: &mut Running) {
    running.sidecar.wait_for_code("unreported", "UsageUnreported");
    let answer = running.sidecar.get("/entitlement");
    let document = answer.json();
    assert_eq!((answer.status, &document["gate"]), (403, &json!("shut")), "{document}");
    assert_eq!(document["reason"]["code"], "UsageUnreported");
    assert_eq!(running.sidecar.get("/readyz").status, 503);
    let metrics = running.sidecar.get("/metrics").body;
    for line in ["tollgate_entitlement_state{state=\"unreported\"} 1", "tollgate_gate_open 0"] {
        assert!(metrics.lines().any(|found| found == line), "{line}: {metrics}");
    }
    running.report("requests", "1");
}

/// A running sidecar, whose gate may be shut.
fn start(bench: &Bench, settings: &[(&str, &str)]) -> Running {
    let mut command = bench.command(&["run"]);
    command.envs(settings.iter().copied());
    Running::of(Sidecar::start(command))
}

#[test]
fn a_network_that_is_cut_after_the_gate_opened_shuts_it_until_the_usage_is_billed() {
    let bench = Bench::metered();
    let mut running = bench.start_with(&[CLOSE]);
    running.report("requests", "5");
    bench.fault(r#"{"fault":"reset-before","operation":"MeterUsage"}"#);
    running.pass(&bench, AN_HOUR_AND_ALL);
    running.sidecar.read_until(|line| line["code"] == "Connection");
    assert_eq!(running.sidecar.document()["gate"], "open", "two hours are not over");
    running.pass(&bench, "1h");
    running.sidecar.read_until(is_alarm);
    assert_eq!(running.sidecar.document()["gate"], "open", "an alarm at half of it");
    running.pass(&bench, AN_HOUR_AND_ALL);
    is_unreported(&mut running);
    http(bench.emulator.addr, "DELETE", "/_emulator/faults", "");
    running.sidecar.wait_for("entitled");
    assert_eq!(running.sidecar.get("/readyz").status, 200);
    assert!(bench.billed()["requests"] >= 5_000_000, "{:?}", bench.bill());
}

fn is_alarm(line: &Value) -> bool {
    line["message"]
        .as_str()
        .is_some_and(|text| text.starts_with("AWS has not accepted usage for a long time"))
}

#[test]
fn a_clock_six_hours_behind_shuts_the_gate() {
    let bench = Bench::metered();
    let behind = Emulator::start();
    behind.admin("/_emulator/clock", r#"{"now":"2026-11-24T02:00:00Z"}"#);
    let clock = format!("{}/_emulator/clock", behind.endpoint());
    let mut running = bench.start_with(&[CLOSE, ("TOLLGATE_CLOCK", &clock)]);
    running.report("requests", "5");
    for _ in 0..3 {
        for emulator in [&bench.emulator, &behind] {
            emulator.admin("/_emulator/clock", r#"{"advance":"1h15m"}"#);
        }
        running.sidecar.read_until(|line| line["code"] == "TimestampOutOfBoundsException");
    }
    while running.sidecar.document()["state"] != "unreported" {}
    assert!(bench.billed().is_empty(), "{:?}", bench.bill());
}

#[test]
fn a_buyer_who_reports_zero_for_each_hour_with_the_pods_own_credentials_shuts_the_gate() {
    let bench = Bench::metered();
    let slow = [CLOSE, ("TOLLGATE_SETTLE", "59m")];
    let mut running = bench.start_with(&slow);
    // The buyer's own program: the same pod and credentials, a report of 0, and earlier than the
    // sidecar's.
    let elsewhere = tempfile::tempdir().unwrap();
    let mut rival = bench.command(&["run"]);
    rival
        .env("TOLLGATE_STATE_DIR", elsewhere.path())
        .env("TOLLGATE_DIMENSIONS", "requests")
        .env("TOLLGATE_ON_ZERO_HOUR", "report");
    let mut rival = Running::start(rival);
    running.report("requests", "5");
    running.pass(&bench, AN_HOUR_AND_ALL);
    rival.wait_billed(1);
    running.pass(&bench, AN_HOUR_AND_ALL);
    running.sidecar.read_until(|line| line["code"] == "DuplicateRequestException");
    running.pass(&bench, AN_HOUR_AND_ALL);
    is_unreported(&mut running);
    rival.kill();
    running.kill();

    // The dry run of a new process succeeds, but its gate stays shut, so no container starts.
    let mut running = start(&bench, &slow);
    running.sidecar.wait_for_code("unreported", "UsageUnreported");
    assert_eq!(running.sidecar.get("/startupz").status, 503, "it never opened");
    let dead = running.records().into_iter().find(|record| record["state"] == "dead").unwrap();
    let (status, _, error) =
        bench.ledger(&["replay", &dead["id"].to_string(), "--accept-double-billing"], Some(running.app));
    assert!(status.success(), "{error}");
    assert_eq!(running.sidecar.document()["state"], "unreported", "replayed is not accepted");
    running.pass(&bench, "2h15m");
    running.sidecar.wait_for("entitled");
    assert!(bench.billed()["requests"] >= 5_000_000, "{:?}", bench.bill());
}

#[test]
fn a_dimension_that_aws_does_not_know_is_named_at_the_start_and_refuses_no_buyer() {
    for dimensions in
        ["requests,reqests,gigabytes", "reqests,requests,gigabytes", "requests,gigabytes,reqests"]
    {
        let bench = Bench::metered();
        bench.emulator.admin("/_emulator/switches", r#"{"dry_run_checks":"everything"}"#);
        let mut running = bench.start_with(&[("TOLLGATE_DIMENSIONS", dimensions)]);
        running.read_back(|line| {
            line["dimension"] == "reqests" && line["code"] == "InvalidUsageDimensionException"
        });
        let metrics = running.sidecar.get("/metrics").body;
        let named = "tollgate_usage_dimension_unknown{dimension=\"reqests\"} 1";
        assert!(metrics.lines().any(|line| line == named), "{dimensions}: {metrics}");
        let asked = |wanted: &str| {
            let calls = http(bench.emulator.addr, "GET", "/_emulator/calls?operation=MeterUsage", "").json();
            let calls = calls["calls"].as_array().unwrap().clone();
            calls.iter().filter(|call| call["request"]["UsageDimension"] == wanted).count()
        };
        for dimension in dimensions.split(',') {
            while asked(dimension) == 0 {}
            assert_eq!(asked(dimension), 1, "{dimension} of {dimensions}");
        }
        assert_eq!(running.sidecar.document()["gate"], "open", "{dimensions}");
        running.report("reqests", "1");
        assert_eq!(bench.bill(), Vec::<Value>::new(), "{dimensions}");
    }
}
