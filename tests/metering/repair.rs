//! Repairs by the command line: with a running sidecar, on the file of a stopped one, and where only the
//! seller may repair.

use serde_json::{Value, json};

use crate::bench::{AN_HOUR_AND_ALL, Bench, Running};
use crate::processes::{get_local, http, post, request};

/// Makes a dead letter of this quantity; returns its number.
pub(crate) fn dead_letter(bench: &Bench, running: &mut Running, quantity: &str) -> i64 {
    dead_letter_by(bench, running, quantity, "InvalidTagException")
}

fn dead_letter_by(bench: &Bench, running: &mut Running, quantity: &str, exception: &str) -> i64 {
    running.report("requests", quantity);
    // The fault lasts until it is removed, because the next call may be a dimension's dry run.
    bench.fault(&format!(r#"{{"fault":"exception","exception":"{exception}","operation":"MeterUsage"}}"#));
    running.pass(bench, AN_HOUR_AND_ALL);
    let line = running
        .sidecar
        .read_until(|line| line["message"].as_str().is_some_and(|text| text.contains("dead letter")));
    http(bench.emulator.addr, "DELETE", "/_emulator/faults", "");
    line["record"].as_i64().unwrap()
}

fn ids(rows: &Value) -> Vec<i64> {
    rows.as_array().unwrap().iter().map(|row| row["id"].as_i64().unwrap()).collect()
}

#[test]
fn all_dead_letters_are_replayed_but_those_that_may_have_been_billed() {
    let bench = Bench::metered();
    let mut running = bench.start();
    let first = dead_letter(&bench, &mut running, "1");
    let second = dead_letter(&bench, &mut running, "2");
    // The third is of an hour that another sender reported.
    let third = dead_letter_by(&bench, &mut running, "4", "DuplicateRequestException");
    let app = Some(running.app);

    let (status, _, said) = bench.ledger(&["replay"], app);
    assert_eq!(status.code(), Some(64), "{said}");
    let (status, _, said) = bench.ledger(&["replay", "--all", "--accept-double-billing"], app);
    assert_eq!(status.code(), Some(64), "a record that may have been billed needs its number: {said}");
    let (status, _, said) = bench.ledger(&["replay", &third.to_string()], app);
    assert_eq!(status.code(), Some(64), "{said}");
    assert!(said.contains("may have been billed") && said.contains("--accept-double-billing"), "{said}");

    let (status, done, said) = bench.ledger(&["replay", "--all", "--dimension", "gigabytes"], app);
    assert!(status.success(), "{said}");
    assert_eq!(done["replayed"], json!([]));
    let (status, done, said) =
        bench.ledger(&["replay", "--all", "--dimension", "requests", "--note", "fixed"], app);
    assert!(status.success(), "{said}");
    assert_eq!(
        (&done["replayed"], &done["may_have_been_billed"]),
        (&json!([first, second]), &json!([third])),
        "{done}"
    );
    running.pass(&bench, AN_HOUR_AND_ALL);
    running.wait_billed(1);
    assert_eq!(bench.billed(), [("requests".into(), 3_000_000)].into());
    // The dead letters and the records that they became name each other.
    let (_, record, _) = bench.ledger(&["show", &first.to_string()], app);
    let became = record["counts_in"].as_i64().unwrap();
    let (_, record, _) = bench.ledger(&["show", &became.to_string()], app);
    assert_eq!(record["includes"], json!([first, second]), "{record}");
}

#[test]
fn a_stopped_sidecars_ledger_is_listed_filtered_and_repaired() {
    let bench = Bench::metered();
    let mut running = bench.start();
    let id = dead_letter(&bench, &mut running, "7").to_string();
    running.usage(&json!({"dimension": "requests", "quantity": "0.5", "tags": {"team": "a"}}));
    let open = bench.ledger(&["open"], Some(running.app)).1;
    running.kill();
    assert_eq!(bench.ledger(&["open", "--dimension", "requests"], None).1, open);
    assert_eq!(
        (&open[0]["quantity"], &open[0]["tags"], &open[0]["hour"]),
        (&json!("0.5"), &json!({"team": "a"}), &json!("2026-11-24T09:00:00Z")),
        "{open}"
    );
    for (filter, found) in [
        (["--hour", "2026-11-24T08"], 1),
        (["--hour", "2026-11-24T09:30:00Z"], 0),
        (["--state", "dead"], 1),
        (["--state", "discarded"], 0),
        (["--dimension", "gigabytes"], 0),
        (["--customer", "nobody"], 0),
    ] {
        let (status, rows, said) = bench.ledger(&["list", filter[0], filter[1]], None);
        assert!(status.success(), "{said}");
        assert_eq!(ids(&rows).len(), found, "{filter:?}: {rows}");
    }
    let (status, _, said) = bench.ledger(&["discard", &id], None);
    assert_eq!(status.code(), Some(64), "a note is required: {said}");
    let (status, _, said) = bench.ledger(&["discard", &id, "--note", "a load test"], None);
    assert!(status.success(), "{said}");
    let (_, rows, _) = bench.ledger(&["reconcile"], None);
    assert_eq!(
        (&rows[0]["dead"], &rows[0]["discarded"], &rows[0]["balanced"]),
        (&json!("0"), &json!("7"), &json!(true))
    );
    let csv = bench.command(&["ledger", "audit", "--csv"]).output().unwrap();
    let csv = String::from_utf8(csv.stdout).unwrap();
    assert!(csv.starts_with("id,at,record,action,note\r\n1,"), "{csv}");
    assert!(csv.contains(",discard,a load test [was a dead letter: InvalidTagException]"), "{csv}");
}

/// The buyer must not be able to erase usage, neither through the running sidecar nor on the
/// volume.
#[test]
fn where_repairs_are_the_sellers_a_dead_letter_can_only_be_counted_again() {
    let bench = Bench::metered();
    let mut running = bench.start_with(&[("TOLLGATE_LEDGER_REPAIR", "false")]);
    let id = dead_letter(&bench, &mut running, "7");
    for (action, body) in [
        ("confirm", r#"{"note":"paid"}"#),
        ("discard", r#"{"note":"a test"}"#),
        ("replay", r#"{"to_dimension":"gigabytes"}"#),
    ] {
        let answer = post(running.app, &format!("/v1/dead-letters/{id}/{action}"), body);
        assert_eq!(
            (answer.status, &answer.json()["code"]),
            (403, &json!("RepairSealed")),
            "{action}: {answer:?}"
        );
    }
    let number = id.to_string();
    let app = running.app.to_string();
    let order = |arguments: &[&str], app: Option<&str>| {
        let mut command = bench.command(&["ledger"]);
        command.args(arguments).env("TOLLGATE_LEDGER_REPAIR", "false");
        command.envs(app.map(|app| ("TOLLGATE_APP_ADDR", app)));
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let erasing: [&[&str]; 3] = [
        &["discard", &number, "--note", "a test"],
        &["confirm", &number, "--note", "paid"],
        &["replay", &number, "--to-dimension", "gigabytes"],
    ];
    for arguments in erasing {
        let (code, said) = order(arguments, Some(&app));
        assert!(code == Some(78) && said.contains("only the seller"), "{arguments:?}: {said}");
    }
    running.kill();
    for arguments in erasing {
        let (code, said) = order(arguments, None);
        assert!(code == Some(78) && said.contains("only the seller"), "{arguments:?}: {said}");
    }
    assert_eq!(bench.ledger(&["reconcile"], None).1[0]["dead"], "7", "nothing was done");
    assert_eq!(order(&["replay", &number], None).0, Some(0), "to count it again is everybody's");
}

#[test]
fn beside_a_sidecar_that_listens_elsewhere_the_missing_address_is_named() {
    let bench = Bench::metered();
    let running = bench.start();
    let (status, _, said) = bench.ledger(&["reconcile"], None);
    assert_eq!(status.code(), Some(74), "{said}");
    assert!(said.contains("--app-addr") && said.contains("no sidecar answers at app_addr"), "{said}");
    assert!(!said.contains("stop the other"), "{said}");
    let app = running.app.to_string();
    let told = bench.command(&["ledger", "reconcile", "--app-addr", &app]).output().unwrap();
    assert!(told.status.success(), "{told:?}");
}

#[test]
fn listings_come_as_csv_where_that_is_asked_for() {
    let bench = Bench::saas();
    let running = bench.start();
    let customer = |account: &str| json!({"account_id": account});
    running.usage(&json!([
        {"dimension": "requests", "quantity": 1, "customer": customer("111122223333")},
        {"dimension": "requests", "quantity": 2, "customer": customer("444455556666")},
    ]));
    let ask = |path: &str| {
        request(running.app, &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\naccept: Text/CSV\r\n"), "")
    };
    let answer = ask("/v1/usage/open?limit=1");
    assert_eq!(answer.header("content-type"), Some("text/csv; charset=utf-8; header=present"));
    assert_eq!(answer.header("link"), Some("</v1/usage/open?limit=1&after=2.0>; rel=\"next\""));
    assert_eq!(
        answer.body,
        "hour,customer,dimension,tags,quantity,late_from,unrounded,would_bill,rule,hour_quantity,hour_carried,\
         hour_taken_up,hour_would_bill,hour_rounded_up,hour_left\r\n\
         2026-11-24T08:00:00Z,account 111122223333,requests,{},1,,1,1,sum,1,0,0,1,0,0\r\n"
    );
    let filtered = ask("/v1/usage/open?customer=444455556666");
    assert!(
        filtered.body.ends_with(",requests,{},2,,2,2,sum,2,0,0,2,0,0\r\n")
            && filtered.header("link").is_none(),
        "{filtered:?}"
    );
    assert!(ask("/v1/records").body.starts_with("id,hour,dimension,customer,"));
    assert_eq!(get_local(running.app, "/v1/audit").json(), json!({"repairs": [], "before": null}));
    for bad in
        ["/v1/audit?state=dead", "/v1/audit?after=1.0", "/v1/usage/open?before=3", "/v1/records?after=2.0"]
    {
        assert_eq!(get_local(running.app, bad).status, 400, "{bad}");
    }
    let wrong = post(running.app, "/v1/audit", "{}");
    assert_eq!((wrong.status, wrong.header("allow")), (405, Some("GET, HEAD")));
}
