//! The end of a customer's subscription: events of AWS Marketplace as the emulator posts them, reports before the hour's
//! end, usage afterwards, and the customer's entitlements.

use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::bench::{AN_HOUR_AND_ALL, Bench, Running, ask, micros};
use crate::processes::{Answer, http};

const TOKEN: &str = "0123456789abcdef-token";
const ACCOUNT: &str = "111122223333";
const LICENSE: &str = "arn:aws:license-manager::111122223333:license:l-demo";
const KEY: &str = "arn%3Aaws%3Alicense-manager%3A%3A111122223333%3Alicense%3Al-demo";
const NEIGHBOUR: &str = "222233334444";

/// A sidecar that is called with a token, and to which the emulator posts its events.
struct Seller {
    bench: Bench,
    running: Running,
    token: NamedTempFile,
}

impl Seller {
    fn start() -> Self {
        let bench = Bench::saas();
        let neighbour = json!({"account_id": NEIGHBOUR, "identifier": "neighbour"});
        bench.emulator.admin("/_emulator/customers", &neighbour.to_string());
        let token = NamedTempFile::new().unwrap();
        std::fs::write(token.path(), TOKEN).unwrap();
        let running = Self::sidecar(&bench, &token);
        let seller = Self { bench, running, token };
        seller.aim();
        seller
    }

    fn sidecar(bench: &Bench, token: &NamedTempFile) -> Running {
        let mut command = bench.command(&["run"]);
        command.env("TOLLGATE_APP_TOKEN_FILE", token.path());
        Running::start(command).with_token(TOKEN)
    }

    /// Tells the emulator where its events go.
    fn aim(&self) {
        let target = json!({
            "url": format!("http://{}/v1/events/marketplace", self.running.app),
            "header": "authorization", "value": format!("Bearer {TOKEN}"),
        });
        self.bench.emulator.admin("/_emulator/event-target", &target.to_string());
    }

    /// Kills the sidecar and starts it again.
    fn restart(self) -> Self {
        let Self { bench, running, token } = self;
        running.kill();
        let running = Self::sidecar(&bench, &token);
        let seller = Self { bench, running, token };
        seller.aim();
        seller
    }

    /// Lets an event happen, or posts one again; returns each post's status and answer.
    fn event(&self, order: &Value) -> Vec<(u64, Value)> {
        let answer = http(self.bench.emulator.addr, "POST", "/_emulator/events", &order.to_string()).json();
        let deliveries = answer["deliveries"].as_array().unwrap_or_else(|| panic!("{answer}"));
        let shown = deliveries.iter().map(|delivery| {
            let text = delivery["answer"].as_str().unwrap_or_else(|| panic!("{delivery}"));
            (delivery["status"].as_u64().unwrap(), serde_json::from_str(text).unwrap_or_default())
        });
        shown.collect()
    }

    /// The effect of an event that is taken, and how many records were sealed for it.
    fn effect(&self, order: &Value) -> (String, usize) {
        let mut answers = self.event(order);
        let (status, answer) = answers.remove(0);
        assert_eq!(status, 200, "{answer}");
        (answer["effect"].as_str().unwrap().to_owned(), answer["sealed"].as_array().unwrap().len())
    }

    fn usage(&self, event: &Value) -> Value {
        self.running.usage(event).json()["results"][0].clone()
    }

    fn count(&self, customer: &Value, dimension: &str, quantity: u64) {
        let event = json!({"dimension": dimension, "quantity": quantity, "customer": customer});
        assert_eq!(self.usage(&event)["status"], "accepted");
    }

    /// What AWS would bill the account, in units, by hour and dimension.
    fn billed(&self, account: &str) -> Vec<(String, String, u64)> {
        let of = |row: &&Value| row["customer"].to_string().contains(account) || row["account_id"] == account;
        let rows = self.bench.bill();
        let mut billed: Vec<_> = rows
            .iter()
            .filter(of)
            .map(|row| {
                let text = |name: &str| row[name].as_str().unwrap_or_else(|| panic!("{row}")).to_owned();
                (text("hour"), text("dimension"), micros(&text("quantity")) / 1_000_000)
            })
            .collect();
        billed.sort();
        billed
    }
}

fn buyer() -> Value {
    json!({"account_id": ACCOUNT, "license_arn": LICENSE})
}

fn neighbour() -> Value {
    json!({"account_id": NEIGHBOUR})
}

fn deprovisioned() -> Value {
    json!({"event": "license-deprovisioned", "license_arn": LICENSE})
}

const EIGHT: &str = "2026-11-24T08:00:00Z";

#[test]
fn the_end_of_a_license_reports_its_open_hour_and_leaves_its_neighbour_alone() {
    let mut seller = Seller::start();
    seller.count(&buyer(), "requests", 5);
    seller.count(&buyer(), "gigabytes", 2);
    seller.count(&neighbour(), "requests", 100);
    assert_eq!(seller.effect(&deprovisioned()), ("deprovisioned".to_owned(), 2));
    seller.running.wait_billed(2);
    let hour = |dimension: &str, units| (EIGHT.to_owned(), dimension.to_owned(), units);
    assert_eq!(seller.billed(ACCOUNT), [hour("gigabytes", 2), hour("requests", 5)]);
    assert_eq!(seller.billed(NEIGHBOUR), []);

    let late = json!({"id": "late", "dimension": "requests", "quantity": 7, "customer": buyer()});
    let rejected = seller.usage(&late);
    assert_eq!(rejected["status"], "rejected");
    assert!(rejected["error"].as_str().unwrap().contains("the license has ended"), "{rejected}");
    seller.count(&neighbour(), "requests", 1);

    // The end is on disk; and a new license lets usage count again.
    let mut seller = seller.restart();
    assert_eq!(seller.usage(&late)["status"], "rejected");
    let updated = json!({"event": "license-updated", "license_arn": LICENSE});
    assert_eq!(seller.effect(&updated).0, "active");
    assert_eq!(seller.usage(&late)["status"], "accepted");
    seller.running.pass(&seller.bench, "2h15m");
    seller.running.wait_billed(2);
    let next = ("2026-11-24T09:00:00Z".to_owned(), "requests".to_owned(), 7);
    assert_eq!(seller.billed(ACCOUNT), [hour("gigabytes", 2), hour("requests", 5), next]);
    assert_eq!(seller.billed(NEIGHBOUR), [hour("requests", 101)]);
    assert!(
        seller.running.reconciliation()["dimensions"]
            .as_array()
            .unwrap()
            .iter()
            .all(|row| row["balanced"] == true)
    );
}

/// AWS's two documents differ about which event begins the final hour.
#[test]
fn an_agreement_that_ends_reports_too_and_usage_still_counts_until_the_license_ends() {
    let mut seller = Seller::start();
    seller.running.set_clock(&seller.bench, "2026-11-24T08:20:00Z");
    seller.count(&buyer(), "requests", 5);
    let ended = json!({"event": "agreement-ended", "license_arn": LICENSE});
    assert_eq!(seller.effect(&ended), ("ended".to_owned(), 1));
    seller.running.wait_billed(1);
    seller.count(&buyer(), "requests", 2);
    assert_eq!(seller.effect(&deprovisioned()), ("deprovisioned".to_owned(), 0), "its hour has not begun");
    // As soon as that hour begins, inside the final hour, without the hour's settling time.
    seller.running.set_clock(&seller.bench, "2026-11-24T09:00:30Z");
    seller.running.wait_billed(1);
    let billed: Vec<u64> = seller.billed(ACCOUNT).into_iter().map(|(_, _, units)| units).collect();
    assert_eq!(billed, [5, 2]);
}

#[test]
fn events_in_any_order_and_number_lead_to_one_state() {
    let mut seller = Seller::start();
    seller.count(&buyer(), "requests", 5);
    let at = |order: Value, id: &str, time: &str| {
        let mut order = order;
        (order["id"], order["time"]) = (id.into(), time.into());
        order
    };
    let updated = || json!({"event": "license-updated", "license_arn": LICENSE});
    let late = at(updated(), "e-1", "2026-11-24T07:58:00Z");
    let late = json!({"deliver": false, "event": late["event"], "license_arn": LICENSE, "id": "e-1", "time": late["time"]});
    seller.bench.emulator.admin("/_emulator/events", &late.to_string());
    let mut ended = at(deprovisioned(), "e-2", "2026-11-24T07:59:00Z");
    ended["times"] = 3.into();
    let answers: Vec<_> =
        seller.event(&ended).into_iter().map(|(status, answer)| (status, answer["effect"].clone())).collect();
    assert_eq!(answers, [(200, json!("deprovisioned")), (200, json!("repeated")), (200, json!("repeated"))]);
    assert_eq!(seller.effect(&json!({"resend": "e-1"})).0, "outdated");
    assert_eq!(seller.effect(&json!({"resend": "e-2"})).0, "repeated");
    let rejected = seller.usage(&json!({"dimension": "requests", "quantity": 1, "customer": buyer()}));
    assert_eq!(rejected["status"], "rejected");
    let amended = json!({"event": "agreement-amended", "license_arn": LICENSE});
    assert_eq!(seller.effect(&amended), ("ignored".to_owned(), 0));
    seller.running.wait_billed(1);
    assert_eq!(seller.billed(ACCOUNT).len(), 1);
}

#[test]
fn a_forged_or_foreign_event_changes_nothing() {
    let seller = Seller::start();
    seller.count(&buyer(), "requests", 5);
    let forged = |patch: Value| {
        let order = json!({"event": "license-deprovisioned", "license_arn": LICENSE, "forged": patch});
        seller.event(&order).remove(0)
    };
    for patch in [
        json!({"detail": {"product": {"code": "another"}}}),
        json!({"source": "aws.license-manager"}),
        json!({"detail": {"product": null}}),
        json!({"detail": {"license": null}}),
        json!({"detail": {"acceptor": {"accountId": "root"}}}),
    ] {
        let (status, answer) = forged(patch.clone());
        assert_eq!((status, &answer["code"]), (422, &json!("EventRefused")), "{patch}: {answer}");
    }
    let event = json!({
        "id": "e-9", "source": "aws.agreement-marketplace", "detail-type": "License Deprovisioned - Manufacturer",
        "time": EIGHT, "detail": {"product": {"code": "demosaas"}, "license": {"arn": LICENSE}, "acceptor": {"accountId": ACCOUNT}},
    })
    .to_string();
    let post = |token, body: &str| ask(seller.running.app, token, "POST", "/v1/events/marketplace", body);
    assert_eq!(post(None, &event).status, 401);
    assert_eq!(post(Some("another-token-of-16"), &event).status, 401);
    assert_eq!(post(Some(TOKEN), "[]").status, 400);
    assert_eq!(seller.running.records(), [Value::Null; 0], "nothing was flushed");
    seller.count(&buyer(), "requests", 1);

    // On loopback without a token nobody may end a license.
    let open = Bench::saas();
    let running = open.start();
    assert_eq!(running.ask("POST", "/v1/events/marketplace", &event).status, 401);
}

#[test]
fn a_customers_open_hour_is_reported_when_the_seller_asks() {
    let mut seller = Seller::start();
    seller.count(&buyer(), "requests", 5);
    seller.count(&neighbour(), "requests", 100);
    let flush =
        |seller: &Seller, key: &str| seller.running.ask("POST", &format!("/v1/customers/{key}/flush"), "");
    let answer = flush(&seller, KEY).json();
    let sealed = answer["sealed"].as_array().unwrap();
    assert_eq!(
        (sealed.len(), &sealed[0]["quantity"], &sealed[0]["hour"]),
        (1, &json!("5"), &json!(EIGHT)),
        "{answer}"
    );
    seller.running.wait_billed(1);
    assert_eq!(flush(&seller, ACCOUNT).json()["sealed"], json!([]), "nothing is open");
    seller.count(&buyer(), "requests", 2);
    for bad in ["l-demo", "1111", "%ff", "arn%3Aaws"] {
        assert_eq!(flush(&seller, bad).status, 400, "{bad}");
    }
    seller.running.pass(&seller.bench, "2h15m");
    seller.running.wait_billed(2);
    let units: Vec<_> = seller.billed(ACCOUNT).into_iter().map(|(hour, _, units)| (hour, units)).collect();
    assert_eq!(units, [(EIGHT.to_owned(), 5), ("2026-11-24T09:00:00Z".to_owned(), 2)]);
    let usage = seller.running.get(&format!("/v1/customers/{ACCOUNT}/usage"));
    assert_eq!(
        (&usage["dimensions"][0]["billed"], &usage["dimensions"][0]["open"]),
        (&json!("7"), &json!("0")),
        "{usage}"
    );
    assert_eq!(seller.running.get(&format!("/v1/customers/{KEY}/usage"))["dimensions"], usage["dimensions"]);
}

/// The account of a legacy identifier is known from AWS's answer to ResolveCustomer.
#[test]
fn usage_by_a_legacy_identifier_is_reported_with_its_accounts_events_once_the_account_is_known() {
    let seller = Seller::start();
    let identified = json!({"identifier": "neighbour"});
    let ended = |id: &str| json!({"event": "agreement-ended", "account_id": NEIGHBOUR, "id": id});
    seller.count(&identified, "requests", 5);
    seller.count(&buyer(), "requests", 100);
    assert_eq!(
        seller.effect(&ended("e-1")),
        ("ended".to_owned(), 0),
        "whose identifier it is, nobody has said"
    );
    let token = json!({"account_id": NEIGHBOUR, "product_code": "demosaas"});
    let token = seller.bench.emulator.admin("/_emulator/tokens", &token.to_string())["token"].clone();
    let resolved = seller.running.ask("POST", "/v1/customers/resolve", &json!({"token": token}).to_string());
    assert_eq!(resolved.json()["CustomerIdentifier"], "neighbour", "{resolved:?}");
    let mut seller = seller.restart();
    assert_eq!(seller.effect(&ended("e-2")), ("ended".to_owned(), 1));
    seller.running.wait_billed(1);
    assert_eq!(seller.billed(NEIGHBOUR), [(EIGHT.to_owned(), "requests".to_owned(), 5)]);
    assert_eq!(seller.billed(ACCOUNT), []);
    let held = seller.running.get(&format!("/v1/customers/{NEIGHBOUR}/usage"));
    assert_eq!(held["dimensions"][0]["billed"], "5", "{held}");
}

#[test]
fn events_are_counted_by_kind_and_outcome() {
    let seller = Seller::start();
    let ended = |id: &str| json!({"event": "license-deprovisioned", "license_arn": LICENSE, "id": id});
    let updated = json!({
        "event": "license-updated", "license_arn": LICENSE, "id": "e-2", "time": "2026-11-24T07:00:00Z",
    });
    seller.effect(&ended("e-1"));
    seller.effect(&json!({"resend": "e-1"}));
    seller.effect(&updated);
    seller.effect(&json!({"event": "agreement-amended", "license_arn": LICENSE}));
    seller.effect(&json!({"event": "agreement-ended", "license_arn": LICENSE}));
    let forged = json!({"source": "aws.license-manager"});
    seller.event(&json!({"event": "license-deprovisioned", "license_arn": LICENSE, "forged": forged}));
    seller.running.ask("POST", "/v1/events/marketplace", "[]");
    ask(seller.running.app, None, "POST", "/v1/events/marketplace", "[]");
    let metrics = seller.running.sidecar.get("/metrics").body;
    let mut counted: Vec<&str> =
        metrics.lines().filter_map(|line| line.strip_prefix("tollgate_marketplace_events_total")).collect();
    counted.sort_unstable();
    assert_eq!(
        counted,
        [
            r#"{kind="agreement_ended",outcome="processed"} 1"#,
            r#"{kind="license_deprovisioned",outcome="processed"} 1"#,
            r#"{kind="license_deprovisioned",outcome="repeated"} 1"#,
            r#"{kind="license_updated",outcome="outdated"} 1"#,
            r#"{kind="other",outcome="ignored"} 1"#,
            r#"{kind="other",outcome="refused"} 2"#,
        ],
        "without the token it is no event"
    );
}

/// What AWS does not take of an ended license is a dead letter, and is not carried from hour to hour.
#[test]
fn usage_of_an_ended_license_that_aws_never_took_is_a_dead_letter() {
    let mut seller = Seller::start();
    seller.bench.fault(r#"{"fault":"throttle","operation":"BatchMeterUsage"}"#);
    seller.count(&buyer(), "requests", 5);
    seller.count(&neighbour(), "gigabytes", 3);
    assert_eq!(seller.effect(&deprovisioned()).1, 1);
    seller.running.pass(&seller.bench, AN_HOUR_AND_ALL);
    seller.running.pass(&seller.bench, "25h");
    seller.running.read_back(|line| line["event"] == "record_dead" && line["code"] == "Deprovisioned");
    seller.running.read_back(|line| line["event"] == "record_carried" && line["dimension"] == "gigabytes");
    let records = seller.running.records();
    let state = |dimension: &str| {
        let of = records.iter().find(|record| record["dimension"] == dimension).unwrap();
        (of["state"].clone(), of["code"].clone())
    };
    assert_eq!(state("requests"), (json!("dead"), json!("Deprovisioned")));
    assert_eq!(state("gigabytes").0, "carried");
}

#[test]
fn entitlements_are_shown_with_their_age_and_an_event_renews_them() {
    let seller = Seller::start();
    let pod = json!({"access_key": "pod-1", "account_id": "777788889999"});
    seller.bench.emulator.admin("/_emulator/pods", &pod.to_string());
    let show = || -> Answer { seller.running.ask("GET", &format!("/v1/customers/{KEY}/entitlements"), "") };
    let empty = show();
    assert_eq!((empty.status, empty.json()["meaning"].clone()), (200, json!("unknown")), "{empty:?}");
    let updated = json!({
        "event": "license-updated", "license_arn": LICENSE, "entitlements": [{"dimension": "users", "value": 25}],
    });
    seller.effect(&updated);
    let full = show();
    let document = full.json();
    assert_eq!(document["meaning"], "entitled", "the event has renewed it: {document}");
    assert_eq!(document["entitlements"][0]["value"], 25);
    assert_eq!((full.header("age"), full.header("cache-control")), (Some("0"), Some("max-age=300")));
    seller.effect(&deprovisioned());
    assert_eq!(show().json()["entitlements"], json!([]));
    // While AWS does not answer, the kept answer is shown, and the reason.
    seller.effect(&updated);
    seller.bench.fault(r#"{"fault":"throttle","operation":"GetEntitlements"}"#);
    let stale = show().json();
    assert_eq!(stale["entitlements"], json!([]));
    assert_ne!(stale["not_renewed"], Value::Null, "{stale}");
    let other = seller.running.ask("GET", &format!("/v1/customers/{NEIGHBOUR}/entitlements"), "");
    assert_eq!(other.status, 503, "{other:?}");
}

/// AWS's log decides what AWS's answers did not, and nothing changes without --apply.
#[test]
fn records_that_were_never_answered_are_decided_by_awss_log() {
    let bench = Bench::saas();
    let mut running = bench.start();
    let count = |dimension: &str, quantity: u64| {
        let event =
            json!({"dimension": dimension, "quantity": quantity, "customer": {"account_id": ACCOUNT}});
        assert_eq!(running.usage(&event).json()["results"][0]["status"], "accepted");
    };
    count("requests", 5);
    bench.fault(r#"{"fault":"reset-after","operation":"BatchMeterUsage"}"#);
    running.pass(&bench, AN_HOUR_AND_ALL);
    running.sidecar.read_until(|line| line["event"] == "record_waiting" && line["in_doubt"] == true);
    http(bench.emulator.addr, "DELETE", "/_emulator/faults", "");
    bench.fault(r#"{"fault":"reset-before","operation":"BatchMeterUsage"}"#);
    let event = json!({"dimension": "gigabytes", "quantity": 3, "customer": {"account_id": ACCOUNT}});
    assert_eq!(running.usage(&event).json()["results"][0]["status"], "accepted");
    running.pass(&bench, AN_HOUR_AND_ALL);
    running.sidecar.read_until(|line| line["event"] == "record_waiting" && line["dimension"] == "gigabytes");
    running.pass(&bench, "26h");
    for _ in 0..2 {
        running.sidecar.read_until(|line| line["event"] == "record_dead" && line["code"] == "in_doubt");
    }
    let reconcile = |extra: &[&str]| {
        let url = bench.emulator.endpoint();
        let arguments = [&["reconcile", "--emulator", &url], extra].concat();
        let (exit, printed, error) = bench.ledger(&arguments, Some(running.app));
        assert!(exit.success(), "{error}");
        let rows = printed.as_array().unwrap().iter();
        rows.map(|row| (row["dimension"].clone(), row["verdict"].clone(), row["repaired"].clone()))
            .collect::<Vec<_>>()
    };
    let row =
        |dimension: &str, verdict: &str, repaired: bool| (json!(dimension), json!(verdict), json!(repaired));
    let shown = [row("requests", "billed", false), row("gigabytes", "not_there", false)];
    assert_eq!(reconcile(&[]), shown);
    assert_eq!(reconcile(&[]), shown, "a look changes nothing");
    assert_eq!(reconcile(&["--apply"]), [row("requests", "billed", true), shown[1].clone()]);
    assert_eq!(reconcile(&["--apply"]), [shown[1].clone()]);
    let note = running.get("/v1/audit")["repairs"][0]["note"].as_str().unwrap().to_owned();
    assert!(note.contains("billed by AWS's log"), "{note}");

    // A file that says nothing decides nothing.
    let file = NamedTempFile::new().unwrap();
    let cloudtrail = |text: &[u8]| {
        std::fs::write(file.path(), text).unwrap();
        let (exit, printed, error) =
            bench.ledger(&["reconcile", "--cloudtrail", file.path().to_str().unwrap()], Some(running.app));
        (exit.success(), printed[0]["verdict"].clone(), error)
    };
    assert_eq!(cloudtrail(br#"{"Records":[]} {"Events":[]}"#).1, "not_covered");
    for (text, error) in [
        (&b"{}"[..], "has no events of CloudTrail"),
        (b"{\"Records\":[", "is not JSON"),
        (b"\x1f\x8b\x08\x00", "is compressed; use gunzip -c"),
    ] {
        let (done, _, told) = cloudtrail(text);
        assert!(!done && told.contains(error), "{told}");
    }
}

/// A record of one dimension that was billed, and of which AWS's answer was lost; it is a dead letter now.
fn lose_an_answer(bench: &Bench, running: &mut Running) {
    let event = json!({"dimension": "requests", "quantity": 5, "customer": {"account_id": ACCOUNT}});
    assert_eq!(running.usage(&event).json()["results"][0]["status"], "accepted");
    bench.fault(r#"{"fault":"reset-after","operation":"BatchMeterUsage"}"#);
    running.pass(bench, AN_HOUR_AND_ALL);
    running.sidecar.read_until(|line| line["event"] == "record_waiting" && line["in_doubt"] == true);
    running.pass(bench, "26h");
    running.sidecar.read_until(|line| line["event"] == "record_dead" && line["code"] == "in_doubt");
}

/// More than one answer of a small client has.
#[test]
fn a_bill_of_more_than_a_mebibyte_is_read_in_parts() {
    let bench = Bench::saas();
    let mut running = bench.start();
    // A record has at most some hundred kilobytes of tags.
    for dimension in ["requests", "gigabytes", "requests", "gigabytes"] {
        let event = |number: usize| {
            let tag = |part: usize| (format!("k{part}"), json!(format!("{number:0>240}")));
            let tags: serde_json::Map<_, _> = (0..5).map(tag).collect();
            json!({"dimension": dimension, "quantity": 1, "tags": tags, "customer": {"account_id": ACCOUNT}})
        };
        let events: Vec<Value> = (0..460).map(event).collect();
        let results = running.usage(&json!(events)).json()["results"].clone();
        let accepted = |result: &Value| result["status"] == "accepted";
        assert!(results.as_array().unwrap().iter().all(accepted), "{results}");
        running.pass(&bench, AN_HOUR_AND_ALL);
        running.wait_billed(1);
    }
    let bytes = http(bench.emulator.addr, "GET", "/_emulator/ledger", "").body.len();
    assert!(bytes > 1 << 20, "{bytes}");
    lose_an_answer(&bench, &mut running);
    let (exit, printed, error) =
        bench.ledger(&["reconcile", "--emulator", &bench.emulator.endpoint()], Some(running.app));
    assert!(exit.success(), "{error}");
    assert_eq!(printed[0]["verdict"], "billed", "{printed}");
}

/// As CloudTrail writes them to S3: several compressed files, each with some events of one region.
#[test]
fn compressed_log_files_are_read_from_a_pipe() {
    let bench = Bench::saas();
    let mut running = bench.start();
    lose_an_answer(&bench, &mut running);
    let folder = tempfile::tempdir().unwrap();
    let timestamp = running.records()[0]["timestamp"].clone();
    let report = json!({
        "eventTime": "2026-11-24T09:10:00Z", "eventSource": "metering-marketplace.amazonaws.com", "awsRegion": "us-east-1",
        "eventName": "BatchMeterUsage", "eventID": "event-1", "requestParameters": {"productCode": "demosaas"},
        "responseElements": {"results": [{"status": "Success", "meteringRecordId": "m-1", "usageRecord": {
            "customerAWSAccountId": ACCOUNT, "dimension": "requests", "quantity": 5, "timestamp": timestamp}}]},
    });
    let quiet = json!({"eventTime": "2026-11-24T08:00:00Z", "eventSource": "sts.amazonaws.com", "awsRegion": "us-east-1"});
    let reconcile = |region: &str| {
        let mut report = report.clone();
        report["awsRegion"] = region.into();
        for (name, event) in [("1.json", &quiet), ("2.json", &report)] {
            std::fs::write(folder.path().join(name), json!({"Records": [event]}).to_string()).unwrap();
        }
        let mut command = bench.command(&["ledger", "--json", "reconcile", "--cloudtrail", "-"]);
        command.env("TOLLGATE_APP_ADDR", running.app.to_string());
        let script = "gzip -f 1.json 2.json && gunzip -c 1.json.gz 2.json.gz";
        let mut zipped = Command::new("sh")
            .args(["-c", script])
            .current_dir(folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = command.stdin(zipped.stdout.take().unwrap()).output().unwrap();
        assert!(zipped.wait().unwrap().success() && output.status.success(), "{output:?}");
        let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
        (printed[0]["verdict"].clone(), printed[0]["event"].clone())
    };
    assert_eq!(reconcile("us-east-1"), (json!("billed"), json!("event-1")));
    assert_eq!(reconcile("eu-west-1"), (json!("not_covered"), Value::Null), "another record of AWS");
}
