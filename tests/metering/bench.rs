//! An emulator, a sidecar in mode `metered` or `saas` on a state folder, and the bill.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};

use serde_json::{Value, json};
use tempfile::TempDir;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::processes::{Answer, Emulator, Sidecar, command, http, request};

/// Past the end of an hour, its settling time, and the longest phase.
pub(crate) const AN_HOUR_AND_ALL: &str = "1h15m";

/// Seconds: less than any test moves the clock, and more than the sidecar lags behind it.
const FOLLOWS_WITHIN: u64 = 60;

/// The dimensions of the emulator's products.
const DIMENSIONS: &str = "requests,gigabytes";

pub(crate) struct Bench {
    pub(crate) emulator: Emulator,
    pub(crate) state: TempDir,
    pub(crate) mode: &'static str,
    pub(crate) pod: String,
}

impl Bench {
    pub(crate) fn metered() -> Self {
        Self::new("metered")
    }

    pub(crate) fn saas() -> Self {
        Self::new("saas")
    }

    fn new(mode: &'static str) -> Self {
        let emulator = Emulator::start();
        // A whole hour is left, so that no test depends on the minute at which it runs.
        emulator.admin("/_emulator/clock", r#"{"now":"2026-11-24T08:00:00Z"}"#);
        Self { emulator, state: tempfile::tempdir().unwrap(), mode, pod: "pod-1".to_owned() }
    }

    /// The sidecar's command with this bench's settings.
    pub(crate) fn command(&self, subcommand: &[&str]) -> Command {
        let mut command = command(subcommand);
        self.emulator.configure(&mut command, &self.pod);
        command
            .env("TOLLGATE_MODE", self.mode)
            .env("TOLLGATE_PRODUCT_CODE", format!("demo{}", self.mode))
            .env("TOLLGATE_DIMENSIONS", DIMENSIONS)
            .env_remove("TOLLGATE_PUBLIC_KEYS")
            .env("TOLLGATE_STATE_DIR", self.state.path())
            .env("TOLLGATE_CLOCK", format!("{}/_emulator/clock", self.emulator.endpoint()));
        command
    }

    pub(crate) fn start(&self) -> Running {
        self.start_with(&[])
    }

    pub(crate) fn start_with(&self, settings: &[(&str, &str)]) -> Running {
        let mut command = self.command(&["run"]);
        command.envs(settings.iter().copied());
        let mut running = Running::start(command);
        if self.mode == "metered" {
            // Faults that a test sets later must hit reports of usage only.
            running.read_back(|line| line["event"] == "dimensions_tried");
        }
        running
    }

    pub(crate) fn fault(&self, rule: &str) {
        self.emulator.admin("/_emulator/faults", rule);
    }

    /// What AWS would bill, by dimension, in millionths.
    pub(crate) fn billed(&self) -> BTreeMap<String, u64> {
        let mut billed = BTreeMap::new();
        for row in self.bill() {
            let dimension = row["dimension"].as_str().unwrap().to_owned();
            *billed.entry(dimension).or_default() += micros(row["quantity"].as_str().unwrap());
        }
        billed
    }

    pub(crate) fn bill(&self) -> Vec<Value> {
        let bill = http(self.emulator.addr, "GET", "/_emulator/ledger", "").json();
        bill["records"].as_array().unwrap_or_else(|| panic!("{bill}")).clone()
    }

    /// Runs `tollgate ledger …` and returns its exit and JSON.
    pub(crate) fn ledger(&self, arguments: &[&str], app: Option<SocketAddr>) -> (ExitStatus, Value, String) {
        let mut command = self.command(&["ledger", "--json"]);
        command.args(arguments);
        if let Some(app) = app {
            command.env("TOLLGATE_APP_ADDR", app.to_string());
        }
        let output = command.output().unwrap();
        let printed = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status, printed, String::from_utf8(output.stderr).unwrap())
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.state.path().join("usage.sqlite")
    }
}

/// `12.5` as 12,500,000.
pub(crate) fn micros(text: &str) -> u64 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    whole.parse::<u64>().unwrap() * 1_000_000 + format!("{fraction:0<6}").parse::<u64>().unwrap()
}

pub(crate) struct Running {
    pub(crate) sidecar: Sidecar,
    pub(crate) app: SocketAddr,
    /// The bearer token of requests.
    token: Option<&'static str>,
    billed: usize,
}

impl Running {
    /// Starts a sidecar and waits until its gate is open.
    pub(crate) fn start(command: Command) -> Self {
        let mut sidecar = Sidecar::start(command);
        sidecar.wait_for("entitled");
        Self::of(sidecar)
    }

    /// A running sidecar, with the gate open or shut.
    pub(crate) fn of(sidecar: Sidecar) -> Self {
        let app = sidecar.app_addr.unwrap();
        Self { sidecar, app, token: None, billed: 0 }
    }

    /// A sidecar that wants this token.
    pub(crate) fn with_token(self, token: &'static str) -> Self {
        Self { token: Some(token), ..self }
    }

    /// A request with the token.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        ask(self.app, self.token, method, path, body)
    }

    /// Waits for a line that may already be in the log.
    pub(crate) fn read_back(&mut self, fits: impl Fn(&Value) -> bool) {
        let held = |line: &String| serde_json::from_str(line).is_ok_and(|line| fits(&line));
        if !self.sidecar.seen.iter().any(held) {
            self.sidecar.read_until(fits);
        }
    }

    /// Reports usage; every event must be acknowledged.
    pub(crate) fn report(&self, dimension: &str, quantity: &str) {
        let answer = self.usage(&json!({"dimension": dimension, "quantity": quantity}));
        assert_eq!(answer.json()["results"][0]["status"], "accepted", "{answer:?}");
    }

    pub(crate) fn usage(&self, body: &Value) -> Answer {
        self.ask("POST", "/v1/usage", &body.to_string())
    }

    /// Waits until AWS has accepted this number of further records of this process. Records of an earlier process may
    /// be billed before the gate is open.
    pub(crate) fn wait_billed(&mut self, records: usize) {
        self.billed += records;
        let billed = |seen: &[String]| seen.iter().filter(|line| line.contains("\"usage billed\"")).count();
        while billed(&self.sidecar.seen) < self.billed {
            self.sidecar.read_line();
        }
    }

    /// Lets time pass on the emulator's clock, by minutes or more, until the sidecar has seen it.
    pub(crate) fn pass(&self, bench: &Bench, by: &str) {
        self.move_clock(bench, &json!({"advance": by}));
    }

    pub(crate) fn set_clock(&self, bench: &Bench, now: &str) {
        self.move_clock(bench, &json!({"now": now}));
    }

    fn move_clock(&self, bench: &Bench, order: &Value) {
        bench.emulator.admin("/_emulator/clock", &order.to_string());
        // It is not enough that it shows another time: both clocks run, and a minute may end before the order
        // is seen.
        let seconds = |at: &Value| {
            let at = OffsetDateTime::parse(at.as_str().unwrap(), &Rfc3339).unwrap();
            at.unix_timestamp()
        };
        let emulators = || http(bench.emulator.addr, "GET", "/_emulator/clock", "").json()["now"].clone();
        while seconds(&emulators()).abs_diff(seconds(&self.reconciliation()["at"])) >= FOLLOWS_WITHIN {}
    }

    pub(crate) fn reconciliation(&self) -> Value {
        self.get("/v1/reconciliation")
    }

    pub(crate) fn records(&self) -> Vec<Value> {
        self.get("/v1/records")["records"].as_array().unwrap().clone()
    }

    pub(crate) fn get(&self, path: &str) -> Value {
        let answer = self.ask("GET", path, "");
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// Kills it, as a power failure does, except that the kernel still writes its buffers.
    pub(crate) fn kill(mut self) {
        self.sidecar.process.kill().unwrap();
        self.sidecar.process.wait().unwrap();
    }

    /// Stops it as the kubelet does.
    pub(crate) fn terminate(self) -> (ExitStatus, String) {
        self.sidecar.signal("TERM");
        self.sidecar.end()
    }
}

/// A request as an application on the same host sends it, with a token or without one.
pub(crate) fn ask(app: SocketAddr, token: Option<&str>, method: &str, path: &str, body: &str) -> Answer {
    let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n");
    let token = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    request(app, &(head + &token), body)
}
