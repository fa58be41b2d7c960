//! The AWS door with faults on either side of it. `tests/witness/door.py` is an application without faults.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};

use serde_json::{Value, json};

use crate::bench::{AN_HOUR_AND_ALL, Bench, Running};
use crate::processes::{Answer, request};

/// A report of 08:00 in the bench's own hour.
fn report(quantity: u32) -> String {
    json!({
        "ProductCode": "demometered", "Timestamp": 1_795_507_200, "UsageDimension": "requests",
        "UsageQuantity": quantity,
    })
    .to_string()
}

fn head(target: &str, extra: &str) -> String {
    format!(
        "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-amz-json-1.1\r\n\
         x-amz-target: AWSMPMeteringService.{target}\r\n{extra}"
    )
}

fn meter(app: SocketAddr, quantity: u32) -> Answer {
    request(app, &head("MeterUsage", ""), &report(quantity))
}

fn open(bench: &Bench) -> Running {
    bench.start_with(&[("TOLLGATE_AWS_DOOR", "true")])
}

/// Waits until the one record has this state, and returns it.
fn wait_for_state(running: &Running, state: &str) -> Value {
    loop {
        let records = running.records();
        if records.len() == 1 && records[0]["state"] == state {
            return records[0].clone();
        }
        assert!(records.len() <= 1, "{records:?}");
    }
}

#[test]
fn a_report_whose_application_hung_up_is_settled_all_the_same() {
    let bench = Bench::metered();
    let running = open(&bench);
    // Long enough to see the claim and to close the connection on a busy machine.
    bench.fault(r#"{"fault":"delay","delay":"3s","operation":"MeterUsage"}"#);
    let mut stream = TcpStream::connect(running.app).unwrap();
    let body = report(7);
    write!(stream, "{}content-length: {}\r\n\r\n{body}", head("MeterUsage", ""), body.len()).unwrap();
    wait_for_state(&running, "claimed");
    drop(stream);
    wait_for_state(&running, "accepted");
    assert_eq!(bench.billed()["requests"], 7_000_000);
    assert_eq!(running.reconciliation()["dimensions"][0]["billed"], "7");
}

#[test]
fn the_door_takes_no_report_of_what_is_counted_by_time() {
    let bench = Bench::metered();
    let rule = "{ requests = { heartbeat = 1 } }";
    let running = bench.start_with(&[("TOLLGATE_AWS_DOOR", "true"), ("TOLLGATE_DIMENSION", rule)]);
    let answer = meter(running.app, 0);
    let code = answer.header("x-amzn-errortype");
    assert_eq!((answer.status, code), (400, Some("DuplicateRequestException")), "{answer:?}");
    assert!(answer.body.contains("heartbeat"), "{answer:?}");
    assert!(bench.bill().is_empty());
}

#[test]
fn a_refusal_after_a_lost_answer_does_not_free_the_hour() {
    let bench = Bench::metered();
    let mut running = open(&bench);
    // The first attempt is billed and its answer lost; the second is throttled.
    bench.fault(r#"{"fault":"reset-after","operation":"MeterUsage","count":1}"#);
    bench.fault(r#"{"fault":"throttle","operation":"MeterUsage","count":1}"#);
    let answer = meter(running.app, 7);
    assert_eq!(
        (answer.status, answer.header("x-amzn-errortype")),
        (400, Some("ThrottlingException")),
        "{answer:?}"
    );
    assert!(running.records()[0]["attempts"].as_u64() >= Some(1));
    running.wait_billed(1);
    wait_for_state(&running, "accepted");
    // Usage of the hour counts to the next one, because this hour has its value.
    running.report("requests", "5");
    running.pass(&bench, AN_HOUR_AND_ALL);
    running.pass(&bench, AN_HOUR_AND_ALL);
    running.wait_billed(1);
    assert_eq!(bench.billed()["requests"], 12_000_000);
    let balance = running.reconciliation()["dimensions"][0].clone();
    assert_eq!((&balance["accepted"], &balance["billed"]), (&json!("12"), &json!("12")), "{balance}");
}

#[test]
fn a_refused_report_leaves_the_hour_to_others() {
    let bench = Bench::metered();
    let mut running = open(&bench);
    bench.fault(r#"{"fault":"throttle","operation":"MeterUsage","count":1}"#);
    assert_eq!(meter(running.app, 7).status, 400);
    assert_eq!(running.records(), Vec::<Value>::new());
    running.report("requests", "5");
    running.pass(&bench, AN_HOUR_AND_ALL);
    running.wait_billed(1);
    assert_eq!(bench.billed()["requests"], 5_000_000);
}

#[test]
fn an_expired_session_is_renewed_and_the_application_hears_nothing_of_it() {
    let bench = Bench::metered();
    let running = open(&bench);
    let expired = |times: u32| {
        let mut rule =
            json!({"fault": "exception", "exception": "ExpiredTokenException", "operation": "MeterUsage"});
        rule["count"] = times.into();
        bench.fault(&rule.to_string());
    };
    // The application is told of a session that cannot be renewed, and the hour is free again.
    expired(2);
    let answer = meter(running.app, 8);
    assert_eq!(
        (answer.status, answer.header("x-amzn-errortype")),
        (400, Some("ExpiredTokenException")),
        "{answer:?}"
    );
    assert_eq!(running.records(), Vec::<Value>::new());
    expired(1);
    let answer = meter(running.app, 7);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(bench.billed()["requests"], 7_000_000);
}

#[test]
fn an_answer_that_is_no_json_is_no_answer() {
    let bench = Bench::metered();
    let mut running = open(&bench);
    bench.fault(r#"{"fault":"invalid-json","operation":"MeterUsage","count":1}"#);
    assert_eq!(meter(running.app, 7).status, 200, "the answer is AWS's own");
    running.wait_billed(1);
    assert_eq!(wait_for_state(&running, "accepted")["quantity"], "7");
    assert_eq!(bench.billed()["requests"], 7_000_000);
}

#[test]
fn reports_at_once_are_one_report_or_one_refusal() {
    let bench = Bench::metered();
    let running = open(&bench);
    bench.fault(r#"{"fault":"delay","delay":"100ms","operation":"MeterUsage"}"#);
    let app = running.app;
    let at_once = |quantities: [u32; 4]| {
        let threads = quantities.map(|quantity| std::thread::spawn(move || meter(app, quantity)));
        threads.map(|thread| thread.join().unwrap())
    };
    let answers = at_once([7; 4]);
    let first = answers[0].json()["MeteringRecordId"].clone();
    assert!(first.is_string(), "{answers:?}");
    assert!(answers.iter().all(|answer| answer.json()["MeteringRecordId"] == first), "{answers:?}");
    let others = at_once([8, 9, 8, 9]);
    for answer in &others {
        assert_eq!((answer.status, answer.header("x-tollgate-answer")), (400, Some("1")), "{answer:?}");
        assert_eq!(answer.json()["__type"], "DuplicateRequestException", "{answer:?}");
    }
    assert_eq!(bench.billed()["requests"], 7_000_000);
    assert_eq!(wait_for_state(&running, "accepted")["quantity"], "7");
}

#[test]
fn what_is_no_call_of_an_sdk_is_refused_in_awss_form() {
    let bench = Bench::metered();
    let running = open(&bench);
    let large = " ".repeat((1 << 20) + 1);
    for (head, body, status, code) in [
        (head("DeleteEverything", ""), "{}", 400, "UnknownOperationException"),
        (head("MeterUsage", "content-encoding: gzip\r\n"), "\u{1f}", 415, "SerializationException"),
        (head("MeterUsage", ""), large.as_str(), 413, "RequestTooLargeException"),
        (head("MeterUsage", "").replace("x-amz-json-1.1", "json"), "{}", 400, "SerializationException"),
    ] {
        let answer = request(running.app, &head, body);
        assert_eq!((answer.status, answer.header("x-tollgate-answer")), (status, Some("1")), "{answer:?}");
        assert_eq!((&answer.json()["__type"], answer.header("x-amzn-errortype")), (&json!(code), Some(code)));
    }
    // AWS's own refusal of a call that claims nothing.
    let answer = request(running.app, &head("MeterUsage", ""), r#"{"ProductCode":"demometered"}"#);
    assert_eq!((answer.status, answer.header("x-tollgate-answer")), (400, None), "{answer:?}");
    assert_eq!(answer.header("x-tollgate-emulator"), Some("1"), "{answer:?}");
    assert_eq!(running.records(), Vec::<Value>::new());
}

#[test]
fn calls_about_another_product_are_refused_by_us_and_claim_nothing() {
    let bench = Bench::metered();
    let running = open(&bench);
    let other = report(7).replace("demometered", "demohourly");
    let records = r#"{"UsageRecords":[{"Timestamp":1795507200,"Dimension":"requests","Quantity":1}]}"#;
    for (target, body) in [
        ("MeterUsage", other.as_str()),
        ("RegisterUsage", r#"{"ProductCode":"demohourly","PublicKeyVersion":1}"#),
        ("BatchMeterUsage", records),
    ] {
        let answer = request(running.app, &head(target, ""), body);
        assert_eq!((answer.status, answer.header("x-tollgate-answer")), (400, Some("1")), "{answer:?}");
        assert_eq!(answer.json()["__type"], "InvalidProductCodeException", "{answer:?}");
    }
    assert_eq!(running.records(), Vec::<Value>::new());
    assert_eq!(running.reconciliation()["dimensions"], json!([]));
    assert!(bench.billed().is_empty());
    // The hour is free for tollgate's own report.
    assert_eq!(meter(running.app, 7).status, 200);
}

#[test]
fn the_door_passes_on_a_share_of_awss_quota_and_says_so_as_aws_does() {
    let bench = Bench::metered();
    let running = open(&bench);
    let dry_run = report(7).replace("\"UsageQuantity\":7", "\"UsageQuantity\":7,\"DryRun\":true");
    // All at once, because one after the other a slow machine would stay below the limit.
    let app = running.app;
    let call = || {
        let dry_run = dry_run.clone();
        std::thread::spawn(move || request(app, &head("MeterUsage", ""), &dry_run))
    };
    let callers: Vec<_> = (0..40).map(|_| call()).collect();
    let answers: Vec<Answer> = callers.into_iter().map(|caller| caller.join().unwrap()).collect();
    let limited: Vec<&Answer> = answers.iter().filter(|answer| answer.status == 400).collect();
    assert!(answers.iter().any(|answer| answer.status == 200) && !limited.is_empty(), "{answers:?}");
    for answer in limited {
        assert_eq!(answer.header("x-tollgate-answer"), Some("1"), "{answer:?}");
        assert_eq!(answer.json()["__type"], "ThrottlingException", "{answer:?}");
    }
}

#[test]
fn refused_calls_every_hour_do_not_move_usage_on() {
    let bench = Bench::metered();
    let mut running = open(&bench);
    for hour in 0..3 {
        running.report("requests", "5");
        bench.fault(r#"{"fault":"throttle","operation":"MeterUsage","count":1}"#);
        let body = report(7).replace("1795507200", &(1_795_507_200 + 3600 * hour).to_string());
        assert_eq!(request(running.app, &head("MeterUsage", ""), &body).status, 400);
        running.pass(&bench, AN_HOUR_AND_ALL);
        running.wait_billed(1);
        assert_eq!(bench.billed()["requests"], 5_000_000 * (u64::try_from(hour).unwrap() + 1));
    }
}
