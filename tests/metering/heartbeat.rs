//! Products priced by the time of the open gate: the whole binary, hours by the emulator's clock, and the bill.

use serde_json::{Value, json};

use crate::bench::{AN_HOUR_AND_ALL, Bench, Running, micros};
use crate::processes::http;

/// The dimension of the emulator's product that is counted here.
const NODE_HOURS: &str = "requests";

/// A node-hour for each hour that began.
const ROUNDED: (&str, &str) =
    ("TOLLGATE_DIMENSION", "{ requests = { heartbeat = 1, rounding = { mode = 'up', digits = 0 } } }");

/// Node-hours to the second.
const EXACT: (&str, &str) = ("TOLLGATE_DIMENSION", "{ requests = { heartbeat = 1 } }");

const HOUR: u64 = 1_000_000;

/// Far more seconds than a test takes, as a part of an hour.
const SOME_SECONDS: u64 = HOUR / 12;

impl Bench {
    /// The node-hours on the bill by hour of the day, in millionths.
    fn node_hours(&self) -> Vec<(String, u64)> {
        let of_day = |row: &Value| row["hour"].as_str().unwrap()[11..13].to_owned();
        let rows = self.bill().into_iter().filter(|row| row["dimension"] == NODE_HOURS);
        let mut rows: Vec<_> =
            rows.map(|row| (of_day(&row), micros(row["quantity"].as_str().unwrap()))).collect();
        rows.sort();
        rows
    }

    fn stop(&self, running: Running) {
        let (status, last) = running.terminate();
        assert_eq!(status.code(), Some(0), "{last}");
    }
}

impl Running {
    /// The seconds that the ledger has taken.
    fn seconds(&self) -> u64 {
        let dimensions = self.reconciliation()["dimensions"].clone();
        let row = dimensions.as_array().unwrap().iter().find(|row| row["dimension"] == NODE_HOURS);
        row.map_or(0, |row| micros(row["accepted"].as_str().unwrap()) / 1_000_000)
    }

    fn wait_seconds(&self, least: u64) {
        while self.seconds() < least {}
    }
}

fn hours(expected: &[(&str, u64)]) -> Vec<(String, u64)> {
    expected.iter().map(|(hour, quantity)| ((*hour).to_owned(), *quantity)).collect()
}

#[test]
fn each_hour_of_open_gate_is_one_node_hour() {
    let bench = Bench::metered();
    let mut running = bench.start_with(&[ROUNDED]);
    running.pass(&bench, "2h");
    running.pass(&bench, "15m");
    running.wait_billed(2);
    assert_eq!(bench.node_hours(), hours(&[("08", HOUR), ("09", HOUR)]));
    bench.stop(running);
    assert_eq!(bench.node_hours(), hours(&[("08", HOUR), ("09", HOUR), ("10", HOUR)]));
}

#[test]
fn without_rounding_an_hour_is_exact_to_the_second() {
    let bench = Bench::metered();
    let mut running = bench.start_with(&[EXACT]);
    running.pass(&bench, "3h");
    running.pass(&bench, "15m");
    running.wait_billed(3);
    let rows = bench.node_hours();
    assert!(rows[0].1 < HOUR && rows[0].1 > HOUR - SOME_SECONDS, "the gate opened in it: {rows:?}");
    assert_eq!(rows[1..], hours(&[("09", HOUR), ("10", HOUR)]));
    bench.stop(running);
    let (_, last) = bench.node_hours().pop().unwrap();
    assert!((HOUR / 4..HOUR / 4 + SOME_SECONDS).contains(&last), "{last}");
}

#[test]
fn a_pod_of_59_minutes_is_one_node_hour() {
    let bench = Bench::metered();
    let running = bench.start_with(&[ROUNDED]);
    running.pass(&bench, "59m");
    bench.stop(running);
    assert_eq!(bench.node_hours(), hours(&[("08", HOUR)]));
}

/// The hour that a stop reported is rounded up already: what it got too much is credited to the next one.
#[test]
fn a_restart_bills_no_more_than_one_process_would() {
    let bench = Bench::metered();
    for _ in 0..3 {
        let running = bench.start_with(&[ROUNDED]);
        running.pass(&bench, "15m");
        bench.stop(running);
    }
    let mut running = bench.start_with(&[ROUNDED]);
    running.set_clock(&bench, "2026-11-24T10:00:30Z");
    running.pass(&bench, "15m");
    running.wait_billed(1);
    assert_eq!(bench.node_hours(), hours(&[("08", HOUR), ("09", HOUR)]));
    let reconciliation = running.reconciliation();
    assert_eq!(reconciliation["dimensions"][0]["balanced"], true, "{reconciliation}");
}

#[test]
fn a_kill_loses_only_what_was_not_written_and_bills_no_more() {
    let bench = Bench::metered();
    let mut running = bench.start_with(&[ROUNDED]);
    for round in 1..=3 {
        running.pass(&bench, "15m");
        // The jump of the clock is written at once.
        running.wait_seconds(round * 15 * 60);
        let before = running.seconds();
        running.kill();
        running = bench.start_with(&[ROUNDED]);
        assert!(running.seconds() >= before, "{before}");
    }
    running.set_clock(&bench, "2026-11-24T09:00:30Z");
    running.pass(&bench, "15m");
    running.wait_billed(1);
    assert_eq!(bench.node_hours(), hours(&[("08", HOUR)]));
}

#[test]
fn time_behind_a_shut_gate_is_not_billed() {
    let bench = Bench::metered();
    let mut running = bench.start_with(&[EXACT, ("TOLLGATE_ON_LAPSE", "close-after:0s")]);
    bench.fault(
        r#"{"fault":"exception","exception":"CustomerNotEntitledException","operation":"MeterUsage"}"#,
    );
    running.pass(&bench, "1h");
    running.pass(&bench, "15m");
    running.sidecar.wait_for("denied");
    running.set_clock(&bench, "2026-11-24T12:00:00Z");
    http(bench.emulator.addr, "DELETE", "/_emulator/faults", "");
    running.pass(&bench, AN_HOUR_AND_ALL);
    running.sidecar.wait_for("entitled");
    // Its window closes at 15:00, and then its usage would count in another hour.
    while !bench.node_hours().iter().any(|(hour, _)| hour == "09") {}
    running.set_clock(&bench, "2026-11-24T15:00:00Z");
    running.pass(&bench, "15m");
    bench.stop(running);
    let rows = bench.node_hours();
    let by_hour = |hour: &str| rows.iter().find(|(of, _)| of == hour).map(|(_, quantity)| *quantity);
    assert!(
        by_hour("09").is_some_and(|quantity| (HOUR / 4..HOUR / 4 + SOME_SECONDS).contains(&quantity)),
        "{rows:?}"
    );
    assert_eq!((by_hour("10"), by_hour("11"), by_hour("14")), (None, None, Some(HOUR)), "{rows:?}");
}

#[test]
fn an_application_cannot_report_what_is_counted_by_time() {
    let bench = Bench::metered();
    let running = bench.start_with(&[ROUNDED]);
    let answer = running.usage(&json!([
        {"dimension": "requests", "quantity": 1}, {"dimension": "gigabytes", "quantity": 1},
    ]));
    let results = answer.json()["results"].clone();
    assert_eq!(results[1]["status"], "accepted");
    assert_eq!(results[0]["status"], "rejected");
    assert!(results[0]["error"].as_str().unwrap().contains("heartbeat"), "{results}");
}

/// The second one would count the same hours again.
#[test]
fn a_second_sidecar_on_the_volume_counts_nothing() {
    let bench = Bench::metered();
    let running = bench.start_with(&[ROUNDED]);
    let mut second = bench.command(&["run"]);
    let output = second.env(ROUNDED.0, ROUNDED.1).output().unwrap();
    assert_eq!(output.status.code(), Some(74));
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(log.contains("is in use by another process"), "{log}");
    bench.stop(running);
    assert_eq!(bench.node_hours(), hours(&[("08", HOUR)]));
}

/// Usage and time are dimensions of one product.
#[test]
fn events_of_other_dimensions_are_billed_beside_the_time() {
    let bench = Bench::metered();
    let mut running = bench.start_with(&[ROUNDED]);
    running.report("gigabytes", "2.5");
    running.pass(&bench, AN_HOUR_AND_ALL);
    running.wait_billed(2);
    assert_eq!(bench.billed(), [("gigabytes".to_owned(), 2_500_000), (NODE_HOURS.to_owned(), HOUR)].into());
}
