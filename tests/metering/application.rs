//! The application's server over real sockets: which clients are admitted, what is refused, and the form of
//! each answer.

use serde_json::json;

use crate::bench::{AN_HOUR_AND_ALL, Bench};
use crate::processes::{Sidecar, get_local, http, post, request};

#[test]
fn a_web_page_is_kept_out() {
    let bench = Bench::metered();
    let running = bench.start();
    let body = r#"{"dimension":"requests","quantity":1}"#;
    let head = |extra: &str| format!("POST /v1/usage HTTP/1.1\r\n{extra}");
    for (extra, status) in [
        ("host: evil.example\r\ncontent-type: application/json\r\n", 403),
        ("host: localhost\r\norigin: http://localhost\r\ncontent-type: application/json\r\n", 403),
        ("host: localhost\r\ncontent-type: text/plain\r\n", 415),
        ("host: localhost\r\n", 415),
        ("host: 127.0.0.1:19181\r\ncontent-type: application/json; charset=utf-8\r\n", 202),
    ] {
        assert_eq!(request(running.app, &head(extra), body).status, status, "{extra}");
    }
}

#[test]
fn refusals_are_problem_documents() {
    let bench = Bench::metered();
    let running = bench.start();
    let large = format!("[{}]", vec![r#"{"dimension":"requests","quantity":1}"#; 1001].join(","));
    for (path, body, status, code) in [
        ("/v1/usage", "no json", 400, "BadRequest"),
        ("/v1/usage", large.as_str(), 400, "BadRequest"),
        ("/v1/usage", &" ".repeat((1 << 20) + 1), 413, "BodyTooLarge"),
        ("/v1/nothing", "{}", 404, "NotFound"),
        ("/v1/quit", "{}", 404, "QuitSwitchedOff"),
        ("/v1/dead-letters/7/replay", "{}", 404, "NotFound"),
        ("/v1/dead-letters/x/replay", "{}", 400, "BadRequest"),
        ("/v1/customers/resolve", r#"{"token":"x"}"#, 404, "NotFound"),
    ] {
        let answer = post(running.app, path, body);
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{path}");
        let problem = answer.json();
        assert_eq!((&problem["code"], &problem["status"]), (&json!(code), &json!(status)), "{problem}");
        assert!(problem["type"].as_str().unwrap().starts_with("urn:tollgate:"), "{problem}");
    }
    let wrong = get_local(running.app, "/v1/usage");
    assert_eq!((wrong.status, wrong.header("allow")), (405, Some("POST")), "{wrong:?}");
    assert_eq!(wrong.json()["code"], "MethodNotAllowed");
    for path in ["/v1/records?state=lost", "/v1/records?limit=1001", "/v1/records?offset=1", "/v1/records/x"]
    {
        let answer = get_local(running.app, path);
        assert_eq!((answer.status, &answer.json()["code"]), (400, &json!("BadRequest")), "{path}");
    }
    assert_eq!(get_local(running.app, "/v1/records/9").json()["code"], "NotFound");
}

#[test]
fn records_come_page_by_page_and_one_by_one() {
    let bench = Bench::metered();
    let mut running = bench.start();
    for (index, dimension) in ["requests", "gigabytes"].iter().cycle().take(6).enumerate() {
        running.usage(&json!({"dimension": dimension, "quantity": index + 1, "tags": {"team": "a"}}));
        running.pass(&bench, AN_HOUR_AND_ALL);
        running.wait_billed(1);
    }
    let page = |query: &str| get_local(running.app, &format!("/v1/records{query}")).json();
    let ids = |page: &serde_json::Value| -> Vec<i64> {
        page["records"].as_array().unwrap().iter().map(|record| record["id"].as_i64().unwrap()).collect()
    };
    let all = page("");
    assert_eq!((ids(&all).len(), &all["before"]), (6, &json!(null)), "{all}");
    let newest = page("?limit=4");
    assert_eq!(ids(&newest), ids(&all)[2..], "the newest page, oldest of it first");
    let rest = page(&format!("?limit=4&before={}", newest["before"]));
    assert_eq!((ids(&rest), &rest["before"]), (ids(&all)[..2].to_vec(), &json!(null)));
    assert_eq!(ids(&page("?state=dead")), Vec::<i64>::new());
    assert_eq!(ids(&page("?state=accepted")).len(), 6);
    let record = get_local(running.app, &format!("/v1/records/{}", ids(&all)[0])).json();
    assert_eq!(record["shares"], json!([{"tags": {"team": "a"}, "quantity": "1"}]), "{record}");
    assert_eq!((&record["pod"], &record["decimal"]), (&json!("pod-1"), &json!(false)), "{record}");
    // The command line shows all of them, through the sidecar and from the file.
    let (_, live, _) = bench.ledger(&["list"], Some(running.app));
    let (_, one, _) = bench.ledger(&["show", &record["id"].to_string()], Some(running.app));
    assert_eq!((&live, &one), (&all["records"], &record));
    running.terminate();
    assert_eq!(bench.ledger(&["list"], None).1, live);
    assert_eq!(bench.ledger(&["show", &record["id"].to_string()], None).1, record);
}

#[test]
fn the_backlog_says_how_old_it_is_and_how_much_time_is_left() {
    let bench = Bench::metered();
    let mut running = bench.start();
    running.report("requests", "1");
    bench.fault(r#"{"fault":"throttle","operation":"MeterUsage"}"#);
    running.pass(&bench, AN_HOUR_AND_ALL);
    running.sidecar.read_until(|line| line["code"] == "ThrottlingException");
    let backlog = running.reconciliation()["backlog"].clone();
    assert_eq!((&backlog["unsent_records"], &backlog["dead_letters"]), (&json!(1), &json!(0)), "{backlog}");
    let (age, left) = (&backlog["oldest_unsent_age_seconds"], &backlog["window_closes_in_seconds"]);
    let (age, left) = (age.as_u64().unwrap(), left.as_u64().unwrap());
    // An hour and a quarter, and the running time of the test.
    assert!((4500..5400).contains(&age) && (6 * 3600 - 1..=6 * 3600).contains(&(age + left)), "{backlog}");
    let metrics = running.sidecar.get("/metrics").body;
    let gauge = |name: &str| -> i64 {
        let line = metrics.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
        line.split(' ').nth(1).unwrap().parse().unwrap()
    };
    let oldest = gauge("tollgate_usage_oldest_unsent_timestamp_seconds");
    assert_eq!(gauge("tollgate_usage_oldest_unsent_deadline_timestamp_seconds") - oldest, 6 * 3600);
}

#[test]
fn a_token_file_admits_its_bearer_from_anywhere_and_nobody_else() {
    let bench = Bench::metered();
    let file = bench.state.path().join("token");
    std::fs::write(&file, "a-token-of-some-length\n").unwrap();
    let running = bench.start_with(&[
        ("TOLLGATE_APP_TOKEN_FILE", file.to_str().unwrap()),
        ("TOLLGATE_APP_ADDR", "0.0.0.0:0"),
    ]);
    let local = std::net::SocketAddr::from(([127, 0, 0, 1], running.app.port()));
    let ask = |authorization: &str| {
        request(local, &format!("GET /v1/entitlement HTTP/1.1\r\nhost: a.b\r\n{authorization}"), "").status
    };
    assert_eq!(ask(""), 401);
    assert_eq!(ask("authorization: Bearer another\r\n"), 401);
    assert_eq!(ask("authorization: Bearer a-token-of-some-length\r\n"), 200);
}

#[test]
fn there_is_no_token_where_nothing_is_signed() {
    let bench = Bench::metered();
    let running = bench.start();
    let document = get_local(running.app, "/v1/entitlement").json();
    assert_eq!((&document["proof"], &document["token"]), (&json!("permission"), &json!(null)), "{document}");
}

#[test]
fn a_job_can_ask_for_the_end() {
    let bench = Bench::metered();
    let running = bench.start_with(&[("TOLLGATE_QUIT", "true")]);
    running.report("requests", "4");
    assert_eq!(post(running.app, "/v1/quit", "").status, 202);
    let (status, last) = running.sidecar.end();
    assert_eq!(status.code(), Some(0), "{last}");
    assert_eq!(bench.billed()["requests"], 4_000_000);
}

/// The kubelet ends a native sidecar when the work has ended, and the work has asked for the end just
/// before.
#[test]
fn a_signal_after_the_jobs_word_hurries_nobody_and_a_second_one_does() {
    for (signals, hurried) in [(&["TERM"][..], false), (&["TERM", "INT"], true)] {
        let bench = Bench::metered();
        let patient = [("TOLLGATE_QUIT", "true"), ("TOLLGATE_DRAIN_QUIET", "2s")];
        let mut running = bench.start_with(&patient);
        running.report("requests", "4");
        assert_eq!(post(running.app, "/v1/quit", "").status, 202);
        running.sidecar.read_until(|line| line["event"] == "draining");
        signals.iter().for_each(|signal| running.sidecar.signal(signal));
        let (status, last) = running.sidecar.end();
        assert_eq!(
            (status.code() != Some(0), last.contains("a second signal")),
            (hurried, hurried),
            "{last}"
        );
        let billed = bench.billed().get("requests").copied();
        assert_eq!(billed, (!hurried).then_some(4_000_000), "{last}");
    }
}

#[test]
fn an_app_server_on_a_unix_socket_serves_the_same() {
    let bench = Bench::metered();
    let path = bench.state.path().join("app.sock");
    let mut command = bench.command(&["run"]);
    command.env("TOLLGATE_APP_ADDR", format!("unix:{}", path.display()));
    let mut sidecar = Sidecar::start(command);
    sidecar.wait_for("entitled");
    let socket = path.to_str().unwrap();
    let curl = |arguments: &[&str]| {
        let output = std::process::Command::new("curl")
            .args(["-s", "--unix-socket", socket])
            .args(arguments)
            .output()
            .unwrap();
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let event = r#"{"dimension":"requests","quantity":2}"#;
    let answer = curl(&["-H", "content-type: application/json", "-d", event, "http://localhost/v1/usage"]);
    assert_eq!(answer["results"][0]["status"], "accepted");
    assert_eq!(curl(&["http://localhost/v1/reconciliation"])["dimensions"][0]["accepted"], "2");
}

#[test]
fn the_dimensions_that_the_seller_named_are_the_only_ones() {
    let bench = Bench::metered();
    let running = bench.start_with(&[("TOLLGATE_DIMENSIONS", "requests")]);
    let answer = running.usage(&json!([
        {"dimension": "requests", "quantity": 1}, {"dimension": "request", "quantity": 1},
    ]));
    let results = answer.json()["results"].clone();
    assert_eq!((&results[0]["status"], &results[1]["status"]), (&json!("accepted"), &json!("rejected")));
}

#[test]
fn metrics_show_usage_and_backlog() {
    let bench = Bench::metered();
    let mut running = bench.start();
    running.report("requests", "1");
    running.usage(&json!({"dimension": "requests", "quantity": -1}));
    running.pass(&bench, "1h15m");
    running.wait_billed(1);
    let metrics = running.sidecar.get("/metrics").body;
    for line in [
        "tollgate_usage_events_total{dimension=\"requests\",status=\"accepted\"} 1",
        "tollgate_usage_records_total{dimension=\"requests\",outcome=\"accepted\"} 1",
        "tollgate_usage_dead_letters 0",
        "tollgate_ledger_commit_duration_seconds_count 1",
    ] {
        assert!(metrics.contains(line), "{line}:\n{metrics}");
    }
    assert!(metrics.contains("tollgate_ledger_bytes "), "{metrics}");
}

/// This gate opens by credentials alone; the emulator marks its answers nevertheless.
#[test]
fn a_gate_of_saas_says_from_its_first_line_that_the_emulator_stands_in_for_aws() {
    let bench = Bench::saas();
    let mut sidecar = Sidecar::start(bench.command(&["run"]));
    let line = sidecar.wait_for("entitled");
    assert_eq!(line["emulated"], true, "{line}");
    assert_eq!(
        bench.emulator.calls()["calls"].as_array().map(Vec::len),
        Some(0),
        "no call of AWS's was made"
    );
}

#[test]
fn customers_are_resolved_by_their_token() {
    let bench = Bench::saas();
    let running = bench.start();
    let issued = bench
        .emulator
        .admin("/_emulator/tokens", r#"{"account_id":"111122223333","product_code":"demosaas"}"#);
    let body = json!({"token": issued["token"]}).to_string();
    let answer = post(running.app, "/v1/customers/resolve", &body);
    assert_eq!(
        (answer.status, &answer.json()["CustomerAWSAccountId"]),
        (200, &json!("111122223333")),
        "{answer:?}"
    );
    // AWS gives the same answer for an expired session; the application must not be told to try
    // again.
    bench.fault(r#"{"fault":"exception","exception":"ExpiredTokenException","operation":"ResolveCustomer","count":2}"#);
    let answer = post(running.app, "/v1/customers/resolve", &body);
    assert_eq!((answer.status, &answer.json()["code"]), (400, &json!("ExpiredTokenException")), "{answer:?}");
    bench.fault(r#"{"fault":"throttle","operation":"ResolveCustomer","count":1}"#);
    let answer = post(running.app, "/v1/customers/resolve", &body);
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")), "{answer:?}");
    let answer = post(running.app, "/v1/customers/resolve", r#"{"token":"made-up"}"#);
    assert_eq!((answer.status, &answer.json()["code"]), (400, &json!("InvalidTokenException")), "{answer:?}");
    let calls = http(bench.emulator.addr, "GET", "/_emulator/calls", "").json();
    assert_eq!(calls["total"], 5, "{calls}");
}

#[test]
fn strict_usage_takes_a_request_whole_or_not_at_all() {
    let bench = Bench::metered();
    let running = bench.start_with(&[("TOLLGATE_STRICT_USAGE", "true")]);
    let good = json!({"id": "a", "dimension": "requests", "quantity": 1});
    let answer = running.usage(&json!([good, {"id": "b", "dimension": "requests", "quantity": -1}]));
    assert_eq!((answer.status, &answer.json()["code"]), (422, &json!("UsageRejected")), "{answer:?}");
    let results = answer.json()["results"].clone();
    assert_eq!((&results[0]["status"], &results[1]["status"]), (&json!("not_counted"), &json!("rejected")));
    assert_eq!(running.reconciliation()["dimensions"], json!([]));
    assert_eq!(running.usage(&good).status, 202, "its key is free");
}

#[test]
fn usage_that_is_not_taken_is_a_log_line_and_a_counter() {
    let bench = Bench::metered();
    let mut running = bench.start();
    let answer = running
        .usage(&json!([{"dimension": "reqests", "quantity": 1}, {"dimension": "requests", "quantity": "x"}]));
    assert_eq!(answer.status, 202, "{answer:?}");
    running.read_back(|line| {
        line["message"].as_str().is_some_and(|text| text.starts_with("usage events rejected"))
            && line["reasons"]
                .as_str()
                .is_some_and(|text| text.contains("dimension \"reqests\" is not one of those"))
    });
    assert_eq!(running.usage(&json!(7)).status, 400);
    running.read_back(|line| {
        line["reasons"] == "bad_request: 1"
            && line["code"] == "TollgateUsageRejected"
            && line["error"] == "the body must be one event or an array of events, in JSON"
    });
    let metrics = get_local(running.sidecar.addr, "/metrics").body;
    for line in [
        r#"tollgate_usage_events_rejected_total{reason="dimension"} 1"#,
        r#"tollgate_usage_events_rejected_total{reason="quantity"} 1"#,
        r#"tollgate_usage_requests_refused_total{reason="bad_request"} 1"#,
        r#"tollgate_usage_requests_refused_total{reason="ledger_full"} 0"#,
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line}: {metrics}");
    }
    // The next line of this kind comes after a minute at the earliest.
    assert_eq!(running.usage(&json!({"dimension": "requets", "quantity": 1})).status, 202);
    running.sidecar.signal("TERM");
    let rest = running.sidecar.read_until(|line| line["event"] == "usage_rejected");
    assert_eq!(
        rest["reasons"],
        "dimension \"requets\" is not one of those that the seller configured (dimensions): \"requests\", \"gigabytes\": 1",
        "{rest}"
    );
}
