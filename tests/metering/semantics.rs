//! What application and operator may rely on. Each test's doc comment is in `docs/SEMANTICS.md`, word for word:
//! `tests/tidy.rs` compares them.

use serde_json::json;

use crate::bench::{AN_HOUR_AND_ALL, Bench, Running};
use crate::processes::Sidecar;

/// **An acknowledged event counts once.** Once `POST /v1/usage` has answered `accepted` for an event, it is on disk and
/// is part of exactly one hour record. The sidecar sends that record until AWS answers it or AWS's window closes. Usage
/// that is not billed by then is carried or becomes a dead letter, as described below.
#[test]
fn an_acknowledged_event_counts_once() {
    let bench = Bench::metered();
    let mut running = bench.start();
    running.report("requests", "12");
    running.report("requests", "0.5");
    running.report("gigabytes", "3");
    running.pass(&bench, AN_HOUR_AND_ALL);
    running.wait_billed(2);
    assert_eq!(bench.billed(), [("gigabytes".into(), 3_000_000), ("requests".into(), 12_500_000)].into());
    let reconciliation = running.reconciliation();
    let requests = &reconciliation["dimensions"][1];
    assert_eq!(
        (&requests["accepted"], &requests["billed"]),
        (&json!("12.5"), &json!("12.5")),
        "{reconciliation}"
    );
    assert_eq!((&requests["pending"], &requests["balanced"]), (&json!("0"), &json!(true)));
}

/// **A repeated event does not count again.** For at least `idempotency_window` (48 hours by default) a repeat of the
/// same event under the same `id` is answered `duplicate` and does not count, also after a restart. Other content under
/// a known `id` is `rejected`. An event of quantity 0 changes no amount, so its `id` is not remembered: a repeat is
/// answered `accepted` again, and a later event may use that `id`. An event that is older than 24 hours, or older than
/// half of that window, is rejected too, because its `id` may be forgotten already.
#[test]
fn a_repeated_event_does_not_count_again() {
    let bench = Bench::metered();
    let running = bench.start();
    let zero = json!({"id": "order-1", "dimension": "requests", "quantity": 0});
    for _ in 0..2 {
        assert_eq!(running.usage(&zero).json()["results"][0]["status"], "accepted");
    }
    let status = |running: &Running, quantity: u32| {
        let answer = running.usage(&json!({"id": "order-1", "dimension": "requests", "quantity": quantity}));
        (answer.status, answer.json()["results"][0]["status"].as_str().unwrap().to_owned())
    };
    assert_eq!(status(&running, 5), (202, "accepted".into()));
    assert_eq!(status(&running, 5), (202, "duplicate".into()));
    assert_eq!(status(&running, 6), (202, "rejected".into()));
    running.kill();
    let running = bench.start_with(&[("TOLLGATE_IDEMPOTENCY_WINDOW", "4h")]);
    assert_eq!(status(&running, 5), (202, "duplicate".into()));
    // The bench's clock is at 08:00.
    let old =
        json!({"id": "order-2", "dimension": "requests", "quantity": 1, "timestamp": "2026-11-24T05:59:00Z"});
    assert_eq!(running.usage(&old).json()["results"][0]["status"], "rejected");
    assert_eq!(running.reconciliation()["dimensions"][0]["accepted"], "5");
}

/// **A bad event spoils no other.** Each event of a request is checked by itself. An event that is `rejected` does not
/// count, and its result says why.
#[test]
fn a_bad_event_spoils_no_other() {
    let bench = Bench::metered();
    let running = bench.start();
    let answer = running.usage(&json!([
        {"dimension": "requests", "quantity": "1.000001"},
        {"dimension": "requests", "quantity": -1},
        {"dimension": "requests", "quantity": "1e3"},
        {"dimension": "requests", "quantity": 2, "timestamp": "2020-01-01T00:00:00Z"},
    ]));
    let results = answer.json()["results"].clone();
    let statuses: Vec<&str> = (0..4).map(|index| results[index]["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["accepted", "rejected", "rejected", "rejected"], "{results}");
    assert!(results[3]["error"].as_str().unwrap().contains("24 hours"), "{results}");
    assert_eq!(running.reconciliation()["dimensions"][0]["accepted"], "1.000001");
}

/// **An hour is reported after it has ended.** Usage counts to the UTC hour of its `timestamp` (its arrival, if it has
/// none); the hour closes `settle` after its end, is sealed, and is first sent within ten minutes. Only a shutdown
/// reports an hour before its end, because AWS takes one value for each hour, dimension and pod.
#[test]
fn an_hour_is_reported_after_it_has_ended() {
    let bench = Bench::metered();
    let mut running = bench.start();
    running.report("requests", "1");
    running.pass(&bench, "59m");
    running.report("requests", "2");
    running.pass(&bench, "2m");
    let in_time = json!({"dimension": "requests", "quantity": 4, "timestamp": "2026-11-24T08:59:59Z"});
    assert_eq!(running.usage(&in_time).json()["results"][0]["status"], "accepted");
    assert!(bench.bill().is_empty(), "the hour settles");
    running.pass(&bench, "15m");
    running.wait_billed(1);
    let bill = bench.bill();
    assert_eq!(
        (&bill[0]["quantity"], &bill[0]["hour"]),
        (&json!("7"), &json!("2026-11-24T08:00:00Z")),
        "{bill:?}"
    );
}

/// **Late usage counts to the current hour.** An event whose hour is already closed counts to the current hour, and its
/// record names the hour that it is from (`late_from`).
#[test]
fn late_usage_counts_to_the_current_hour() {
    let bench = Bench::metered();
    let mut running = bench.start();
    running.report("requests", "1");
    running.pass(&bench, AN_HOUR_AND_ALL);
    running.wait_billed(1);
    let late = json!({"dimension": "requests", "quantity": 2, "timestamp": "2026-11-24T08:30:00Z"});
    assert_eq!(running.usage(&late).json()["results"][0]["status"], "accepted");
    running.pass(&bench, "1h");
    running.wait_billed(1);
    assert_eq!(bench.billed(), [("requests".into(), 3_000_000)].into());
    let record = running.records().pop().unwrap();
    assert_eq!(
        (&record["late_from"], &record["hour"]),
        (&json!("2026-11-24T08:00:00Z"), &json!("2026-11-24T09:00:00Z"))
    );
}

/// **A shutdown loses nothing and waits for the application.** After SIGTERM the sidecar takes usage until
/// `drain_quiet` (two seconds by default) has passed without any, for half of `shutdown_grace` at most. Then it seals
/// and sends the open hour, and its exit code is 0. With `drain_quiet = "0s"`, for platforms that stop the application
/// first, it seals the hour at once.
#[test]
fn a_shutdown_loses_nothing_and_waits_for_the_application() {
    let bench = Bench::metered();
    // Longer than by default: the application of this test may be slow.
    let mut running = bench.start_with(&[("TOLLGATE_DRAIN_QUIET", "5s")]);
    running.report("requests", "1");
    running.sidecar.signal("TERM");
    running.sidecar.read_until(|line| line["message"] == "draining");
    running.report("requests", "2");
    let (status, last) = running.sidecar.end();
    assert_eq!(status.code(), Some(0), "{last}");
    assert_eq!(bench.billed(), [("requests".into(), 3_000_000)].into());
    assert!(last.contains("all usage is sent"), "{last}");

    let bench = Bench::metered();
    let running = bench.start_with(&[("TOLLGATE_DRAIN_QUIET", "0s")]);
    running.report("requests", "4");
    let (status, last) = running.terminate();
    assert_eq!(status.code(), Some(0), "{last}");
    assert_eq!(bench.billed(), [("requests".into(), 4_000_000)].into());
}

/// **What cannot be sent in time stays.** Usage that AWS has not accepted when the time to stop is over stays on the
/// volume. The last log line names it, and the next start sends it.
#[test]
fn what_cannot_be_sent_in_time_stays() {
    let bench = Bench::metered();
    let running = bench.start_with(&[("TOLLGATE_SHUTDOWN_GRACE", "4s")]);
    running.report("requests", "7");
    bench.fault(r#"{"fault":"throttle","operation":"MeterUsage"}"#);
    let (status, last) = running.terminate();
    assert_eq!(status.code(), Some(0), "{last}");
    assert!(last.contains("requests=7"), "{last}");
    crate::processes::http(bench.emulator.addr, "DELETE", "/_emulator/faults", "");
    let mut running = bench.start();
    running.report("requests", "1");
    running.pass(&bench, AN_HOUR_AND_ALL);
    running.wait_billed(1);
    assert_eq!(bench.billed()["requests"], 7_000_000, "the hour that was sealed at the shutdown");
    running.pass(&bench, "1h");
    running.wait_billed(1);
    assert_eq!(bench.billed()["requests"], 8_000_000, "usage after it counts to the next hour");
}

/// **A restart closes the hour only for what was reported.** A shutdown reports the open hour before its end. After a
/// restart within that hour, usage of a customer and dimension that was reported counts to the next hour, because AWS
/// takes one value. All other usage still counts to this hour, and the next shutdown reports it.
#[test]
fn a_restart_closes_the_hour_only_for_what_was_reported() {
    let bench = Bench::saas();
    let report = |running: &Running, dimension: &str, quantity: u32| {
        let customer = json!({"account_id": "111122223333"});
        let event = json!({"dimension": dimension, "quantity": quantity, "customer": customer});
        assert_eq!(running.usage(&event).json()["results"][0]["status"], "accepted");
    };
    let stop = |running: Running| {
        let (status, last) = running.terminate();
        assert_eq!(status.code(), Some(0), "{last}");
        last
    };
    let running = bench.start();
    report(&running, "requests", 1);
    assert!(stop(running).contains("all usage is sent"));
    let running = bench.start();
    report(&running, "requests", 2);
    report(&running, "gigabytes", 4);
    let last = stop(running);
    assert!(last.contains("requests=2") && !last.contains("gigabytes"), "{last}");
    assert_eq!(bench.billed(), [("gigabytes".into(), 4_000_000), ("requests".into(), 1_000_000)].into());
    let mut running = bench.start();
    running.pass(&bench, "1h");
    running.pass(&bench, AN_HOUR_AND_ALL);
    running.wait_billed(1);
    assert_eq!(bench.billed()["requests"], 3_000_000);
}

/// **A lost answer does not bill twice.** A record whose answer was lost is in doubt: it is sent again unchanged and to
/// the same region, so that AWS recognises the repeat. If AWS answers such a record of a customer with
/// `DuplicateRecord`, it counts as billed (state `unconfirmed`). If no answer comes within AWS's window, the record
/// becomes a dead letter. It is never carried to another hour, and only `tollgate ledger replay
/// --accept-double-billing` replays it.
#[test]
fn a_lost_answer_does_not_bill_twice() {
    let bench = Bench::metered();
    let mut running = bench.start();
    running.report("requests", "5");
    bench.fault(r#"{"fault":"reset-after","operation":"MeterUsage","count":2}"#);
    running.pass(&bench, AN_HOUR_AND_ALL);
    running.wait_billed(1);
    assert_eq!(bench.billed(), [("requests".into(), 5_000_000)].into());

    running.report("requests", "6");
    bench.fault(r#"[{"fault":"reset-after","operation":"MeterUsage","count":1},{"fault":"reset-before","operation":"MeterUsage"}]"#);
    running.pass(&bench, "1h");
    let attempted = |line: &serde_json::Value| line["message"] == "record not accepted yet; will retry";
    running.sidecar.read_until(attempted);
    running.pass(&bench, "3h");
    running
        .sidecar
        .read_until(|line| line["message"].as_str().is_some_and(|text| text.contains("half of AWS")));
    running.pass(&bench, "4h");
    running
        .sidecar
        .read_until(|line| line["message"].as_str().is_some_and(|text| text.contains("dead letter")));
    let (status, letters, _) = bench.ledger(&["dead-letters"], Some(running.app));
    assert!(status.success());
    assert_eq!(
        (&letters[0]["code"], &letters[0]["quantity"]),
        (&json!("in_doubt"), &json!("6")),
        "{letters}"
    );
    let id = letters[0]["id"].to_string();
    let (status, _, complaint) = bench.ledger(&["replay", &id], Some(running.app));
    assert_eq!(status.code(), Some(64), "{complaint}");
    assert!(complaint.contains("accept-double-billing"), "{complaint}");
    assert_eq!(bench.billed()["requests"], 11_000_000, "AWS had taken it");
}

/// **Usage that AWS never took is carried.** If AWS certainly refused every attempt until its window closed, the
/// quantity counts to the current hour (`on_expired = "carry"`) or becomes a dead letter (`"dead-letter"`). Usage of a
/// customer whom AWS calls unsubscribed is never carried: it becomes a dead letter when the window closes.
#[test]
fn usage_that_aws_never_took_is_carried() {
    let bench = Bench::metered();
    let mut running = bench.start();
    running.report("requests", "5");
    bench.fault(r#"{"fault":"throttle","operation":"MeterUsage"}"#);
    running.pass(&bench, AN_HOUR_AND_ALL);
    running.sidecar.read_until(|line| line["message"] == "hours sealed");
    running.pass(&bench, "6h");
    running
        .sidecar
        .read_until(|line| line["message"].as_str().is_some_and(|text| text.contains("missed AWS's window")));
    crate::processes::http(bench.emulator.addr, "DELETE", "/_emulator/faults", "");
    running.pass(&bench, AN_HOUR_AND_ALL);
    running.wait_billed(1);
    assert_eq!(bench.billed(), [("requests".into(), 5_000_000)].into());
}

/// **A lapsed subscription is shown, and its usage is kept.** When AWS answers a report with
/// `CustomerNotEntitledException`, the state is `lapsed`. The gate stays open unless `on_lapse` says otherwise. The
/// records are sent again until their window closes; then they become dead letters.
#[test]
fn a_lapsed_subscription_is_told_and_its_usage_kept() {
    let bench = Bench::metered();
    let mut running = bench.start();
    running.report("requests", "5");
    bench.fault(r#"{"fault":"exception","exception":"CustomerNotEntitledException","operation":"MeterUsage","count":1}"#);
    running.pass(&bench, AN_HOUR_AND_ALL);
    running.sidecar.wait_for("lapsed");
    let document = running.sidecar.document();
    assert_eq!(
        (&document["gate"], &document["reason"]["code"]),
        (&json!("open"), &json!("CustomerNotEntitledException"))
    );
    assert_eq!(running.records()[0]["state"], "sealed");
    let (status, last) = running.terminate();
    assert_eq!(status.code(), Some(0), "{last}");
    assert_eq!(bench.billed(), [("requests".into(), 5_000_000)].into(), "the shutdown asked once more");
}

/// **Usage that AWS does not accept shuts the gate where the seller says so.** With `on_unsent = "close-after:4h"` the
/// state becomes `unreported` four hours after the end of the hour of the oldest unaccepted usage, by the clock or by
/// the time that the sidecar ran. Usage is unaccepted when AWS refused it, did not answer, or took a value for its hour
/// from another sender. Only AWS's acceptance of that usage, or of its replay, ends the state; neither a restart nor
/// the clock does. The sidecar takes and sends usage meanwhile.
#[test]
fn usage_that_aws_does_not_accept_shuts_the_gate_where_the_seller_says_so() {
    let bench = Bench::metered();
    let settings = [("TOLLGATE_ON_UNSENT", "close-after:4h")];
    let mut running = bench.start_with(&settings);
    running.report("requests", "5");
    bench.fault(
        r#"{"fault":"exception","exception":"DuplicateRequestException","operation":"MeterUsage","count":1}"#,
    );
    running.pass(&bench, AN_HOUR_AND_ALL);
    running.sidecar.read_until(|line| line["code"] == "DuplicateRequestException");
    running.pass(&bench, "3h30m");
    assert_eq!(running.sidecar.document()["gate"], "open", "three hours and three quarters");
    running.pass(&bench, "30m");
    running.sidecar.wait_for("unreported");
    running.report("requests", "1");
    running.kill();
    let mut command = bench.command(&["run"]);
    command.envs(settings);
    let mut running = Running::of(Sidecar::start(command));
    running.sidecar.wait_for("unreported");
    let dead = running.records().into_iter().find(|record| record["state"] == "dead").unwrap();
    let (status, _, complaint) =
        bench.ledger(&["replay", &dead["id"].to_string(), "--accept-double-billing"], Some(running.app));
    assert!(status.success(), "{complaint}");
    running.pass(&bench, AN_HOUR_AND_ALL);
    running.sidecar.wait_for("entitled");
    assert_eq!(bench.billed()["requests"], 6_000_000, "{:?}", bench.bill());
}

/// **The time of the open gate is usage where the seller says so.** With `heartbeat = 1` in `[dimension.NAME]` the
/// sidecar counts that quantity for each hour in which its gate is open, to the second, and needs no event. Setting the
/// clock changes no number of seconds: an hour in which the gate was open throughout is exactly that quantity. Only an
/// hour in which the clock was set back, by more than ten seconds or between two processes, has more, which can be one
/// more if it is rounded up. The first second is on disk at once, the others within ten seconds, when the gate shuts,
/// and before a shutdown seals the hour; a kill loses what was not written. What the ledger does not take is kept and
/// tried again. Events of such a dimension are rejected.
#[test]
fn the_time_of_the_open_gate_is_usage_where_the_seller_says_so() {
    let bench = Bench::metered();
    let mut running = bench.start_with(&[("TOLLGATE_DIMENSION", "{ requests = { heartbeat = 1 } }")]);
    let event = json!({"dimension": "requests", "quantity": 1});
    assert_eq!(running.usage(&event).json()["results"][0]["status"], "rejected");
    running.pass(&bench, "2h");
    running.pass(&bench, "15m");
    running.wait_billed(2);
    let whole = bench.bill().into_iter().find(|row| row["hour"] == "2026-11-24T09:00:00Z").unwrap();
    assert_eq!((&whole["dimension"], &whole["quantity"]), (&json!("requests"), &json!("1")));
}

/// **A dimension that AWS does not know is named at the start, if its dry run checks names.** In mode `metered` each
/// configured dimension is tried by a dry run once the gate has opened. The log has an error for each one that AWS
/// refuses, and a metric names it. The gate stays open, and usage of the dimension is kept. AWS's documents do not say
/// whether a dry run checks more than permission. If it does not, the first report of the dimension, after its hour,
/// shows the mistake.
#[test]
fn a_dimension_that_aws_does_not_know_is_named_at_the_start() {
    let bench = Bench::metered();
    bench.emulator.admin("/_emulator/switches", r#"{"dry_run_checks":"everything"}"#);
    let mut running = bench.start_with(&[("TOLLGATE_DIMENSIONS", "requests,reqests")]);
    running.read_back(|line| line["level"] == "ERROR" && line["dimension"] == "reqests");
    let metrics = running.sidecar.get("/metrics").body;
    assert!(metrics.contains("tollgate_usage_dimension_unknown{dimension=\"reqests\"} 1"), "{metrics}");
    running.report("reqests", "1");
    assert_eq!(running.sidecar.document()["gate"], "open");
}

/// **Usage of an earlier pod on a kept volume is reported by the next pod.** AWS distinguishes reports by pod, so usage
/// that was not sent counts to the next pod's current hour. A record in doubt becomes a dead letter.
#[test]
fn usage_of_an_earlier_pod_on_a_kept_volume_is_reported_by_the_next_pod() {
    let mut bench = Bench::metered();
    let running = bench.start();
    running.report("requests", "5");
    running.kill();
    bench.pod = "pod-2".to_owned();
    let mut running = bench.start();
    running.report("requests", "1");
    running.pass(&bench, AN_HOUR_AND_ALL);
    running.wait_billed(1);
    assert_eq!(bench.billed(), [("requests".into(), 6_000_000)].into());
    assert!(
        bench.bill().iter().all(|row| row["pod"].as_str().unwrap().contains("pod-2")),
        "{:?}",
        bench.bill()
    );
}

/// **A customer's usage is billed to that customer.** In mode `saas` each event names its customer, and records are
/// sent in batches of at most 25. A customer without a subscription does not delay others: its records are sent again
/// for 24 hours and then become dead letters.
#[test]
fn a_customers_usage_is_billed_to_that_customer() {
    let bench = Bench::saas();
    let mut running = bench.start();
    assert_eq!(running.sidecar.document()["proof"], "seller");
    let licensed = json!({"account_id": "111122223333", "license_arn": "arn:aws:license-manager::111122223333:license:l-demo"});
    let stranger = json!({"account_id": "444455556666"});
    let answer = running.usage(&json!([
        {"dimension": "requests", "quantity": 5, "customer": licensed},
        {"dimension": "gigabytes", "quantity": "0.25", "customer": licensed},
        {"dimension": "requests", "quantity": 7, "customer": stranger},
        {"dimension": "requests", "quantity": 7},
    ]));
    let results = answer.json()["results"].clone();
    assert_eq!(results[3]["status"], "rejected", "{results}");
    running.pass(&bench, AN_HOUR_AND_ALL);
    running.wait_billed(2);
    running.sidecar.read_until(|line| line["message"] == "record not accepted yet; will retry");
    assert_eq!(bench.billed(), [("gigabytes".into(), 250_000), ("requests".into(), 5_000_000)].into());
    let waiting: Vec<_> =
        running.records().into_iter().filter(|record| record["state"] != "accepted").collect();
    assert_eq!((waiting.len(), &waiting[0]["code"]), (1, &json!("CustomerNotSubscribed")), "{waiting:?}");
}

/// **A person closes a dead letter, and the repair leaves a note.** A record that AWS will not bill stays a dead letter
/// until a person replays it (to another dimension, if its own was wrong), confirms that it was billed, or discards it.
/// Each repair is in `tollgate ledger audit`, the balance holds (accepted + rounded up = billed + pending + dead +
/// discarded + remainder), and the alert for dead letters clears. Confirming, discarding and redirecting need
/// `ledger_repair`.
#[test]
fn a_dead_letter_is_closed_by_a_person_and_leaves_a_note() {
    let bench = Bench::metered();
    let mut running = bench.start();
    let dead = |running: &Running, count: usize| {
        let line = format!("tollgate_usage_dead_letters {count}");
        while !running.sidecar.get("/metrics").body.lines().any(|found| found == line) {}
    };
    let wrong = crate::repair::dead_letter(&bench, &mut running, "3").to_string();
    let billed = crate::repair::dead_letter(&bench, &mut running, "5").to_string();
    let unwanted = crate::repair::dead_letter(&bench, &mut running, "7").to_string();
    dead(&running, 3);
    let app = Some(running.app);
    for order in [
        &["replay", &wrong, "--to-dimension", "gigabytes"][..],
        &["confirm", &billed, "--note", "in the report of November"],
        &["discard", &unwanted, "--note", "a load test"],
    ] {
        let (status, _, said) = bench.ledger(order, app);
        assert!(status.success(), "{order:?}: {said}");
    }
    dead(&running, 0);
    running.pass(&bench, AN_HOUR_AND_ALL);
    running.wait_billed(1);
    assert_eq!(bench.billed(), [("gigabytes".into(), 3_000_000)].into());
    let (_, rows, _) = bench.ledger(&["reconcile"], app);
    let of = |index: usize, name: &str| rows[index][name].as_str().unwrap_or_default().to_owned();
    assert_eq!(
        (of(0, "dimension"), of(0, "accepted"), of(0, "billed")),
        ("gigabytes".into(), "3".into(), "3".into())
    );
    assert_eq!(
        (of(1, "accepted"), of(1, "billed"), of(1, "discarded")),
        ("12".into(), "5".into(), "7".into())
    );
    let (_, audit, _) = bench.ledger(&["audit"], app);
    let actions: Vec<&str> =
        audit.as_array().unwrap().iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["replay", "confirm", "discard"], "{audit}");
    assert!(audit[1]["note"].as_str().unwrap().starts_with("in the report of November"), "{audit}");
}
