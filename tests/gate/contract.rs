//! Mode `contract` as whole processes against the emulator: seats that are taken and given back with processes, and
//! causes that AWS does not distinguish.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::processes::{Emulator, Sidecar, command, configure_contract, get_local, http};

const PRODUCT: &str = "prod-democontract";

fn contract(emulator: &Emulator, pod: &str, model: &str, state: &Path) -> Command {
    let mut command = emulator.sidecar(pod);
    configure_contract(&mut command);
    command.env("TOLLGATE_LICENSE_MODEL", model).env("TOLLGATE_STATE_DIR", state);
    command
}

/// Changes the license of the product.
fn license(emulator: &Emulator, change: &Value) {
    let mut order = json!({"product_id": PRODUCT});
    order.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    emulator.admin("/_emulator/licenses", &order.to_string());
}

fn seats(emulator: &Emulator, seats: u64) {
    license(emulator, &json!({"entitlements": [{"name": "users", "unit": "Count", "max_count": seats}]}));
}

/// Checkouts that are open, and the number of all checkouts.
pub(crate) fn held(emulator: &Emulator) -> (u64, Value) {
    let shown = http(emulator.addr, "GET", "/_emulator/licenses", "").json();
    (shown["checkouts_count"].as_u64().unwrap(), shown["totals"].clone())
}

fn exit_of(sidecar: Sidecar) -> (Option<i32>, String) {
    let (status, line) = sidecar.end();
    (status.code(), line)
}

#[test]
fn a_seat_is_taken_shown_kept_over_a_death_and_given_back() {
    let emulator = Emulator::start();
    seats(&emulator, 1);
    let state = tempfile::tempdir().unwrap();
    let mut sidecar = Sidecar::start(contract(&emulator, "pod-a", "floating", state.path()));
    sidecar.wait_for("entitled");
    let document = sidecar.document();
    assert_eq!(
        (&document["proof"], &document["product_id"]),
        (&json!("license"), &json!(PRODUCT)),
        "{document}"
    );
    let shown = get_local(sidecar.app_addr.unwrap(), "/v1/license").json();
    assert_eq!(shown["held"][0]["quantity"], 1, "{shown}");
    let kept = std::fs::read_to_string(state.path().join("license.json")).unwrap();
    assert!(kept.contains("consumption") && !shown.to_string().contains("consumption"), "{shown}");

    sidecar.signal("KILL");
    let _ = sidecar.end();
    assert_eq!(held(&emulator).0, 1, "the seat was not given back");
    let mut again = Sidecar::start(contract(&emulator, "pod-a", "floating", state.path()));
    again.wait_for("entitled");
    let (count, totals) = held(&emulator);
    assert_eq!((count, &totals["takes"], &totals["extensions"]), (1, &json!(1), &json!(1)), "{totals}");

    // Another pod waits, and gets the seat as soon as it is free.
    let other = tempfile::tempdir().unwrap();
    let mut waiting = Sidecar::start(contract(&emulator, "pod-b", "floating", other.path()));
    let line = waiting.wait_for("exhausted");
    assert_eq!((&line["code"], &line["gate"]), (&json!("SeatsExhausted"), &json!("shut")), "{line}");
    assert_eq!(waiting.get("/entitlement").status, 403);
    again.signal("TERM");
    let (code, line) = exit_of(again);
    assert_eq!((code, held(&emulator).0), (Some(0), 0), "{line}");
    waiting.signal("TERM");
    assert_eq!(exit_of(waiting).0, Some(0));
}

#[test]
fn the_operator_sees_the_license_in_the_log_the_metrics_and_the_command() {
    let emulator = Emulator::start();
    let end = tollgate_clock::system_now().plus(Duration::from_secs(50 * 3600));
    let users = json!([{"name": "users", "unit": "Count", "max_count": 10}]);
    license(&emulator, &json!({"end": end.to_string(), "entitlements": users}));
    let state = tempfile::tempdir().unwrap();
    let mut sidecar = Sidecar::start(contract(&emulator, "pod-a", "floating", state.path()));
    let line = sidecar.read_until(|line| line["event"] == "license_ending");
    assert_eq!(line["ends_at"], end.to_string(), "{line}");
    let app = sidecar.app_addr.unwrap();
    // The seat is taken, and then License Manager counts it.
    let known = (0..10_000).map(|_| get_local(app, "/v1/license").json());
    let shown = known.into_iter().find(|shown| shown["entitlements"][0]["used"] == 1).expect("it is taken");
    assert_eq!(shown["license"]["end"], end.to_string(), "{shown}");

    let told = |arguments: &[&str]| {
        let output = command(arguments).env("TOLLGATE_APP_ADDR", app.to_string()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let text = told(&["license"]);
    assert!(text.contains("\nusers        Count  10    1      1         -\n"), "{text}");
    assert!(text.contains("(ends in 2 days)\n") && text.contains("\nmodel         floating\n"), "{text}");
    let document: Value = serde_json::from_str(&told(&["license", "--json"])).unwrap();
    assert_eq!(document["held"], shown["held"]);

    let metrics = sidecar.get("/metrics").body;
    for sample in [
        "tollgate_license_seats{dimension=\"users\",kind=\"held\"} 1".to_owned(),
        "tollgate_license_seats{dimension=\"users\",kind=\"max\"} 10".to_owned(),
        format!("tollgate_license_end_timestamp_seconds {}", end.unix_seconds()),
        "tollgate_license_calls_total{operation=\"CheckoutLicense\",code=\"\"} 1".to_owned(),
    ] {
        assert!(metrics.lines().any(|line| line == sample), "{sample}: {metrics}");
    }
    sidecar.signal("TERM");
    assert_eq!(exit_of(sidecar).0, Some(0));
}

#[test]
fn an_answer_that_got_lost_costs_no_second_seat_even_after_a_death() {
    let emulator = Emulator::start();
    seats(&emulator, 1);
    emulator.admin("/_emulator/faults", r#"{"fault":"reset-after","operation":"CheckoutLicense","count":1}"#);
    let state = tempfile::tempdir().unwrap();
    let mut sidecar = Sidecar::start(contract(&emulator, "pod-a", "floating", state.path()));
    sidecar.read_until(|line| line["event"] == "state" && line["code"] == "Connection");
    assert_eq!(held(&emulator).0, 1, "it was processed");
    sidecar.signal("KILL");
    let _ = sidecar.end();
    let mut again = Sidecar::start(contract(&emulator, "pod-a", "floating", state.path()));
    again.wait_for("entitled");
    assert_eq!(held(&emulator).0, 1);
}

#[test]
fn a_pod_that_takes_over_the_volume_is_not_locked_out() {
    let emulator = Emulator::start();
    seats(&emulator, 1);
    let state = tempfile::tempdir().unwrap();
    let mut old = Sidecar::start(contract(&emulator, "pod-a", "floating", state.path()));
    old.wait_for("entitled");
    old.signal("KILL");
    let _ = old.end();
    let mut new = Sidecar::start(contract(&emulator, "pod-b", "floating", state.path()));
    new.wait_for("entitled");
    let (count, totals) = held(&emulator);
    assert_eq!((count, &totals["returns"], &totals["takes"]), (1, &json!(1), &json!(2)));
}

#[test]
fn check_holds_nothing_and_opens_although_all_is_taken() {
    let emulator = Emulator::start();
    seats(&emulator, 1);
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut holder = Sidecar::start(contract(&emulator, "pod-a", "floating", one.path()));
    holder.wait_for("entitled");
    let mut check = Sidecar::start(contract(&emulator, "pod-b", "check", other.path()));
    check.wait_for("entitled");
    holder.signal("TERM");
    assert_eq!(exit_of(holder).0, Some(0));
    check.signal("KILL");
    let _ = check.end();
    let mut check = Sidecar::start(contract(&emulator, "pod-b", "check", other.path()));
    check.wait_for("entitled");
    check.signal("TERM");
    assert_eq!((exit_of(check).0, held(&emulator).0), (Some(0), 0));
}

#[test]
fn each_cause_of_awss_one_exception_is_told() {
    let emulator = Emulator::start();
    let good = json!({
        "received": "active", "status": "available", "begin": "2024-01-01T00:00:00Z",
        "entitlements": [{"name": "users", "unit": "Count", "max_count": 10}],
    });
    for (change, wanted, state, code, exit) in [
        (json!({"received": "disabled"}), "users", "denied", "LicenseNotActivated", 77),
        (json!({"received": "pending"}), "users", "denied", "LicenseNotActivated", 77),
        (json!({"status": "suspended"}), "users", "denied", "LicenseDeactivated", 77),
        (json!({}), "users:None", "misconfigured", "UnitMismatch", 78),
        (json!({}), "seats", "misconfigured", "NameMismatch", 78),
        (json!({}), "users:Count:11", "denied", "QuantityTooSmall", 77),
        (
            json!({"begin": "2024-01-01T00:00:00Z", "end": "2024-02-01T00:00:00Z"}),
            "users",
            "denied",
            "LicenseEnded",
            77,
        ),
    ] {
        license(&emulator, &good);
        license(&emulator, &change);
        let mut command = contract(&emulator, "pod-a", "check", Path::new("none"));
        command.env("TOLLGATE_ENTITLEMENTS", wanted).env("TOLLGATE_ON_DENIED", "exit");
        let mut sidecar = Sidecar::start(command);
        let line = sidecar.wait_for(state);
        assert_eq!(line["code"], code, "{line}");
        assert_eq!(exit_of(sidecar).0, Some(exit), "{code}");
    }
    assert_eq!(held(&emulator).0, 0, "never a seat taken");
}

#[test]
fn the_emulators_license_opens_nothing_where_it_is_not_accepted() {
    let emulator = Emulator::start();
    let mut command = contract(&emulator, "pod-a", "floating", Path::new("none"));
    command.env("TOLLGATE_ALLOW_EMULATED", "false");
    let mut sidecar = Sidecar::start(command);
    sidecar.wait_for_code("unverified", "EmulatedToken");
    assert_eq!((sidecar.get("/entitlement").status, held(&emulator).0), (403, 0));
}

#[test]
fn pages_that_no_client_should_trust_take_no_seat() {
    let emulator = Emulator::start();
    emulator.admin(
        "/_emulator/faults",
        r#"{"fault":"endless-pages","operation":"ListReceivedLicenses","count":100}"#,
    );
    let mut sidecar = Sidecar::start(contract(&emulator, "pod-a", "check", Path::new("none")));
    let line = sidecar.read_until(|line| line["event"] == "state" && line["code"].is_string());
    assert_eq!((&line["state"], &line["gate"]), (&json!("pending"), &json!("shut")), "{line}");
    let empty = Emulator::start();
    empty
        .admin("/_emulator/faults", r#"{"fault":"empty-page","operation":"ListReceivedLicenses","count":1}"#);
    let mut sidecar = Sidecar::start(contract(&empty, "pod-a", "check", Path::new("none")));
    sidecar.wait_for("entitled");
}

/// As the chart provides it outside AWS: a file, and a role in a variable.
#[test]
fn outside_aws_a_license_token_is_all_that_it_takes() {
    let emulator = Emulator::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("license_token");
    let issued = emulator.admin("/_emulator/refresh-tokens", "{}");
    std::fs::write(&file, issued["refresh_token"].as_str().unwrap()).unwrap();
    let mut command = contract(&emulator, "pod-a", "floating", folder.path());
    command
        .env_remove("AWS_ACCESS_KEY_ID")
        .env_remove("AWS_SECRET_ACCESS_KEY")
        .env("AWS_WEB_IDENTITY_REFRESH_TOKEN_FILE", &file)
        .env("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/anywhere");
    let mut sidecar = Sidecar::start(command);
    sidecar.wait_for("entitled");
    assert_eq!(held(&emulator).0, 1);
    let operations: Vec<Value> =
        emulator.calls()["calls"].as_array().unwrap().iter().map(|call| call["operation"].clone()).collect();
    assert_eq!(operations[..2], ["GetAccessToken", "AssumeRoleWithWebIdentity"], "{operations:?}");
    sidecar.signal("TERM");
    let (code, line) = exit_of(sidecar);
    assert_eq!((code, held(&emulator).0), (Some(0), 0), "{line}");
}
