//! End-to-end tests of replicas: two processes of the whole binary on one PostgreSQL database, one of them through
//! PgBouncer, and the emulator. What the seller's backend and AWS Marketplace send goes to the replica that does not
//! lead.

#![cfg(feature = "emulator")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test's way to fail")]

#[path = "../../../tests/metering/bench.rs"]
#[expect(dead_code, reason = "shared with tests/metering.rs, which uses all of it")]
mod bench;
#[path = "../../../tests/gate/processes.rs"]
#[expect(dead_code, reason = "shared with tests/gate.rs, which uses all of it")]
mod processes;

use std::path::PathBuf;
use std::process::Command;
use std::slice;

use bench::{Running, micros};
use processes::{Emulator, Sidecar, command, http};
use serde_json::{Value, json};
use tempfile::TempDir;
use tollgate_postgres_fixture::{Bouncer, Database, shared};

const TOKEN: &str = "0123456789abcdef-token";
const ACCOUNT: &str = "111122223333";
const LICENSE: &str = "arn:aws:license-manager::111122223333:license:l-demo";
const NEIGHBOUR: &str = "222233334444";
const IDENTIFIER: &str = "neighbour";

/// Two replicas. Time is the emulator's and the database's, moved together.
struct Replicas {
    emulator: Emulator,
    database: Database,
    /// Seals and sends; it is connected to PostgreSQL itself.
    leads: Running,
    /// Is connected through PgBouncer.
    follows: Running,
    /// A day that is not the first one of its month: at a month's end AWS's windows are shorter.
    day: String,
    _bouncer: Bouncer<'static>,
    _files: TempDir,
}

/// A file with this text, in the folder.
fn file(folder: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn replica(emulator: &Emulator, files: &TempDir, name: &str, url: &str) -> Command {
    let mut replica = command(&["run"]);
    emulator.configure(&mut replica, name);
    replica
        .env_remove("TOLLGATE_PUBLIC_KEYS")
        .env("TOLLGATE_MODE", "saas")
        .env("TOLLGATE_PRODUCT_CODE", "demosaas")
        .env("TOLLGATE_DIMENSIONS", "requests,gigabytes")
        .env("TOLLGATE_LEDGER_URL_FILE", file(files, &format!("{name}.url"), url))
        .env("TOLLGATE_APP_TOKEN_FILE", file(files, "token", TOKEN))
        .env("TOLLGATE_DRAIN_QUIET", "0s");
    replica
}

impl Replicas {
    /// At 08:10 of the emulator and of the ledger.
    fn start() -> Self {
        let emulator = Emulator::start();
        let neighbour = json!({"account_id": NEIGHBOUR, "identifier": IDENTIFIER, "subscribed": true});
        emulator.admin("/_emulator/customers", &neighbour.to_string());
        let (server, files) = (shared(), tempfile::tempdir().unwrap());
        let (database, bouncer) = (server.database(), server.bouncer());
        // It makes the ledger, so that the ledger's time can be set before the replicas read it.
        let (exit, last) = Running::start(replica(&emulator, &files, "maker", &database.url())).terminate();
        assert!(exit.success(), "{last}");
        let day = "SELECT to_char(date_trunc('month', now() AT TIME ZONE 'UTC') + interval '1 month 1 day', 'YYYY-MM-DD')";
        let day = server.sql(&database.name, day);
        set_time(&emulator, &database, &format!("{day}T08:10:00Z"));
        let mut leads = Running::start(replica(&emulator, &files, "leads", &database.url()));
        leads.read_back(|line| line["event"] == "sender_leads");
        let url = database.url_at(bouncer.port);
        let follows = Running::start(replica(&emulator, &files, "follows", &url)).with_token(TOKEN);
        let leads = leads.with_token(TOKEN);
        Self { emulator, database, leads, follows, day, _bouncer: bouncer, _files: files }
    }

    fn both(&self) -> [&Running; 2] {
        [&self.leads, &self.follows]
    }

    fn hour(&self, hour: &str) -> String {
        format!("{}T{hour}:00:00Z", self.day)
    }

    fn set_time(&self, time: &str) {
        set_time(&self.emulator, &self.database, &format!("{}T{time}:00Z", self.day));
    }

    /// Lets an event happen, or posts one again, to this replica; returns status and answer.
    fn event(&self, to: &Running, order: &Value) -> (u64, Value) {
        let target = json!({
            "url": format!("http://{}/v1/events/marketplace", to.app),
            "header": "authorization", "value": format!("Bearer {TOKEN}"),
        });
        self.emulator.admin("/_emulator/event-target", &target.to_string());
        let answer = self.emulator.admin("/_emulator/events", &order.to_string());
        let delivery = &answer["deliveries"][0];
        let text = delivery["answer"].as_str().unwrap_or_else(|| panic!("{answer}"));
        (delivery["status"].as_u64().unwrap(), serde_json::from_str(text).unwrap())
    }

    /// What AWS bills, in the order in which AWS took it: account, hour and units.
    fn billed(&self) -> Vec<(String, String, u64)> {
        let bill = http(self.emulator.addr, "GET", "/_emulator/ledger?limit=1000", "").json();
        let row = |row: &Value| {
            let text = |name: &str| row[name].as_str().unwrap_or_else(|| panic!("{row}")).to_owned();
            (text("account_id"), text("hour"), micros(&text("quantity")) / 1_000_000)
        };
        bill["records"].as_array().unwrap().iter().map(row).collect()
    }

    fn of(&self, account: &str, hour: &str, units: u64) -> (String, String, u64) {
        (account.to_owned(), self.hour(hour), units)
    }
}

/// Sets the emulator's time and the ledger's; both go on from there.
fn set_time(emulator: &Emulator, database: &Database, time: &str) {
    let sql = format!(
        "DO $do$ BEGIN EXECUTE format(
            'CREATE OR REPLACE FUNCTION tollgate.ledger_now() RETURNS bigint LANGUAGE sql VOLATILE AS $now$
                SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint + %s $now$',
            ((extract(epoch FROM timestamptz '{time}') - extract(epoch FROM clock_timestamp())) * 1000)::bigint);
         END $do$"
    );
    shared().sql(&database.name, &sql);
    emulator.admin("/_emulator/clock", &json!({"now": time}).to_string());
}

fn usage(replica: &Running, customer: &Value, quantity: u64) -> Value {
    let event = json!({"dimension": "requests", "quantity": quantity, "customer": customer});
    replica.usage(&event).json()["results"][0].clone()
}

fn count(replica: &Running, customer: &Value, quantity: u64) {
    let result = usage(replica, customer, quantity);
    assert_eq!(result["status"], "accepted", "{result}");
}

fn balanced(replica: &Running) -> bool {
    let rows = replica.reconciliation()["dimensions"].as_array().unwrap().clone();
    !rows.is_empty() && rows.iter().all(|row| row["balanced"] == true)
}

#[test]
fn the_end_of_a_license_is_reported_first_whichever_replica_learns_of_it_and_ends_intake_at_both() {
    let mut replicas = Replicas::start();
    let buyer = json!({"account_id": ACCOUNT, "license_arn": LICENSE});
    let neighbour = json!({"account_id": NEIGHBOUR});
    for replica in replicas.both() {
        count(replica, &neighbour, 100);
        count(replica, &buyer, 4);
    }
    count(&replicas.follows, &buyer, 1);

    let ended = json!({"event": "license-deprovisioned", "license_arn": LICENSE, "id": "e-1"});
    let (status, answer) = replicas.event(&replicas.follows, &ended);
    assert_eq!((status, &answer["effect"]), (200, &json!("deprovisioned")), "{answer}");
    let sealed = &answer["sealed"];
    assert_eq!((sealed.as_array().unwrap().len(), &sealed[0]["quantity"]), (1, &json!("9")), "{answer}");
    replicas.leads.wait_billed(1);
    let of_buyer = replicas.of(ACCOUNT, "08", 9);
    assert_eq!(replicas.billed(), slice::from_ref(&of_buyer), "the usage of both replicas, and nothing else");

    for replica in replicas.both() {
        let rejected = usage(replica, &buyer, 7);
        let said = rejected["error"].as_str().unwrap_or_default();
        assert!(rejected["status"] == "rejected" && said.contains("the license has ended"), "{rejected}");
        count(replica, &neighbour, 1);
    }
    // The same event at the other replica, and again at this one.
    for replica in replicas.both() {
        let (status, answer) = replicas.event(replica, &json!({"resend": "e-1"}));
        assert_eq!((status, &answer["effect"], &answer["sealed"]), (200, &json!("repeated"), &json!([])));
    }
    assert_eq!(replicas.billed(), slice::from_ref(&of_buyer));

    replicas.set_time("09:15");
    replicas.leads.wait_billed(1);
    assert_eq!(replicas.billed(), [of_buyer, replicas.of(NEIGHBOUR, "08", 202)]);
    assert!(replicas.both().into_iter().all(balanced));
    let metrics = replicas.follows.sidecar.get("/metrics").body;
    for line in [
        r#"tollgate_marketplace_events_total{kind="license_deprovisioned",outcome="processed"} 1"#,
        r#"tollgate_marketplace_events_total{kind="license_deprovisioned",outcome="repeated"} 1"#,
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line}: {metrics}");
    }
}

/// The customer is named by its legacy identifier, whose account one replica has learnt from ResolveCustomer.
#[test]
fn a_flush_at_the_replica_that_does_not_lead_reports_the_open_hour_first_and_later_usage_counts_to_the_next()
{
    let mut replicas = Replicas::start();
    let identified = json!({"identifier": IDENTIFIER});
    let buyer = json!({"account_id": ACCOUNT, "license_arn": LICENSE});
    for replica in replicas.both() {
        count(replica, &buyer, 100);
        count(replica, &identified, 4);
    }
    let flush = |to: &Running| to.ask("POST", &format!("/v1/customers/{NEIGHBOUR}/flush"), "").json();
    assert_eq!(flush(&replicas.follows)["sealed"], json!([]), "whose identifier it is, nobody has said");
    let token = json!({"account_id": NEIGHBOUR, "product_code": "demosaas"});
    let token = replicas.emulator.admin("/_emulator/tokens", &token.to_string())["token"].clone();
    let resolved = replicas.leads.ask("POST", "/v1/customers/resolve", &json!({"token": token}).to_string());
    assert_eq!(resolved.json()["CustomerIdentifier"], IDENTIFIER, "{resolved:?}");

    let answer = flush(&replicas.follows);
    let sealed = &answer["sealed"];
    assert_eq!(
        (sealed.as_array().unwrap().len(), &sealed[0]["customer"], &sealed[0]["quantity"]),
        (1, &json!("identifier neighbour"), &json!("8")),
        "{answer}"
    );
    replicas.leads.wait_billed(1);
    let first = replicas.of(NEIGHBOUR, "08", 8);
    assert_eq!(replicas.billed(), slice::from_ref(&first));
    for replica in replicas.both() {
        assert_eq!(flush(replica)["sealed"], json!([]), "nothing is open");
        count(replica, &identified, 1);
    }
    assert_eq!(replicas.billed(), slice::from_ref(&first));
    let held = replicas.leads.get(&format!("/v1/customers/{NEIGHBOUR}/usage"));
    let held = &held["dimensions"][0];
    assert_eq!((&held["billed"], &held["open"]), (&json!("8"), &json!("2")), "{held}");

    replicas.set_time("10:15");
    replicas.leads.wait_billed(2);
    let mut rest = replicas.billed().split_off(1);
    rest.sort();
    assert_eq!(rest, [replicas.of(ACCOUNT, "08", 100 * 2), replicas.of(NEIGHBOUR, "09", 2)]);
    assert!(replicas.both().into_iter().all(balanced));
}

/// Its gate stays shut, and neither AWS nor a request says why.
#[test]
fn a_replica_that_cannot_reach_its_database_says_so_at_once() {
    let (emulator, files) = (Emulator::start(), tempfile::tempdir().unwrap());
    let nobody = "postgres://tollgate:secret@127.0.0.1:1/tollgate?sslmode=disable";
    let mut alone = Sidecar::start(replica(&emulator, &files, "alone", nobody));
    let told = alone.read_until(|line| line["event"] == "ledger_not_reached");
    assert!(told["error"].as_str().unwrap().starts_with("127.0.0.1:1/tollgate: "), "{told}");
    assert!(!told.to_string().contains("secret"), "{told}");
}

#[test]
fn a_development_build_says_that_it_is_one_and_of_which_program() {
    let mark = "[tollgate-saas-dev: not for production]";
    let shown = command(&["--version"]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert_eq!(shown.trim_end(), format!("tollgate-saas {} {mark}", env!("CARGO_PKG_VERSION")));
    let replicas = Replicas::start();
    let document = replicas.follows.sidecar.document();
    assert_eq!(document["build"], "tollgate-saas-dev", "{document}");
    assert!(replicas.follows.sidecar.seen.iter().any(|line| line.contains(mark)), "the state's line says so");
}
