//! Usage of a command that runs under `tollgate exec`: its last report is billed. Changes of the gate or the ledger
//! meanwhile are reported, and end the command only if tollgate cannot continue.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{ChildStdout, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::bench::{AN_HOUR_AND_ALL, Bench, Running};
use crate::processes::{Sidecar, http};
use tollgate_clock as clock;

/// Reports usage when a signal asks for it, prints that, and reports once more at its end.
const REPORTS: &str = r#"
    report() {
        curl -sf -H 'content-type: application/json' -d "{\"dimension\":\"requests\",\"quantity\":$1}" \
            "http://$TOLLGATE_APP_ADDR/v1/usage" > /dev/null && echo "reported $1"
    }
    trap 'report 2' USR1
    trap 'report 5; exit 3' TERM
    report 1
    while :; do sleep 1000 > /dev/null & wait $!; done
"#;

const DENIED: &str =
    r#"{"fault":"exception","exception":"CustomerNotEntitledException","operation":"MeterUsage"}"#;

struct Commanded {
    running: Running,
    out: BufReader<ChildStdout>,
}

impl Commanded {
    fn start(bench: &Bench, settings: &[(&str, &str)]) -> Self {
        let mut command = bench.command(&["exec", "--", "/bin/sh", "-c", REPORTS]);
        command.envs(settings.iter().copied()).env("PATH", "/usr/bin:/bin").stdout(Stdio::piped());
        let mut running = Running::start(command);
        running.read_back(|line| line["event"] == "dimensions_tried");
        let out = BufReader::new(running.sidecar.process.stdout.take().unwrap());
        let mut commanded = Self { running, out };
        commanded.says("reported 1");
        commanded
    }

    fn says(&mut self, wanted: &str) {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), wanted, "{:?}", self.running.sidecar.seen);
    }
}

#[test]
fn what_the_command_reports_at_its_end_is_billed_although_each_call_takes_300_ms() {
    let bench = Bench::metered();
    // If it waited for more usage, half of the grace would pass.
    let patient = [("TOLLGATE_DRAIN_QUIET", "50s"), ("TOLLGATE_SHUTDOWN_GRACE", "1m")];
    let mut commanded = Commanded::start(&bench, &patient);
    bench.fault(r#"{"fault":"delay","delay":"300ms"}"#);
    commanded.running.sidecar.signal("USR1");
    commanded.says("reported 2");
    let began = clock::monotonic();
    commanded.running.sidecar.signal("TERM");
    commanded.says("reported 5");
    let (status, last) = commanded.running.sidecar.end();
    assert_eq!((status.code(), bench.billed()["requests"]), (Some(3), 8_000_000), "{last}");
    let took = clock::monotonic().duration_since(began);
    assert!(took < Duration::from_secs(20), "{took:?}");
}

#[test]
fn a_gate_that_shuts_later_does_not_end_the_command() {
    let bench = Bench::metered();
    let mut commanded = Commanded::start(&bench, &[("TOLLGATE_ON_LAPSE", "close-after:1s")]);
    bench.fault(DENIED);
    commanded.running.pass(&bench, AN_HOUR_AND_ALL);
    commanded.running.sidecar.wait_for("denied");
    assert_eq!(commanded.running.sidecar.get("/readyz").status, 503);
    commanded.running.sidecar.signal("USR1");
    commanded.says("reported 2");
    commanded.running.sidecar.signal("TERM");
    commanded.says("reported 5");
    let (status, last) = commanded.running.sidecar.end();
    assert_eq!(status.code(), Some(3), "{last}");
    assert!(last.contains("the command ended with exit code 3"), "{last}");
}

/// `on_denied = "exit"` affects a running command only if AWS's refusal ends a grace period.
#[test]
fn a_refusal_after_grace_does_not_end_the_command_and_retries_continue() {
    let bench = Bench::metered();
    let throttled = r#"{"fault":"throttle","operation":"MeterUsage"}"#;
    bench.fault(throttled);
    let mut command = bench.command(&["exec", "--", "/bin/sh", "-c", REPORTS]);
    command.env("PATH", "/usr/bin:/bin").env("TOLLGATE_GRACE_PERIOD", "1h").stdout(Stdio::piped());
    let mut sidecar = Sidecar::start(command);
    sidecar.wait_for("grace");
    let out = BufReader::new(sidecar.process.stdout.take().unwrap());
    let mut commanded = Commanded { running: Running::of(sidecar), out };
    commanded.says("reported 1");
    assert_eq!(http(bench.emulator.addr, "DELETE", "/_emulator/faults", "").status, 200);
    bench.fault(DENIED);
    commanded.running.sidecar.wait_for("denied");
    assert!(!commanded.running.sidecar.document()["next_attempt_at"].is_null());
    commanded.running.sidecar.signal("TERM");
    commanded.says("reported 5");
    assert_eq!(commanded.running.sidecar.end().0.code(), Some(3));
}

#[test]
fn usage_of_an_earlier_start_is_billed_where_the_command_cannot_start() {
    let bench = Bench::metered();
    let (report, _) = REPORTS.split_once("trap").unwrap();
    let dies = format!("{report} report 1; kill -s KILL $PPID");
    let mut command = bench.command(&["exec", "--", "/bin/sh", "-c", &dies]);
    command.env("PATH", "/usr/bin:/bin");
    let (status, last) = Sidecar::start(command).end();
    assert_eq!((status.code(), bench.billed().get("requests")), (None, None), "{last}");
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("unstartable");
    std::fs::write(&program, "#!/nope/interpreter\n").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let command = bench.command(&["exec", "--", program.to_str().unwrap()]);
    let (status, last) = Sidecar::start(command).end();
    assert_eq!((status.code(), &bench.billed()["requests"]), (Some(127), &1_000_000), "{last}");
    assert!(last.contains("cannot start "), "{last}");
}

/// Without its ledger tollgate cannot count usage, so the container has to restart.
#[test]
fn a_ledger_that_breaks_asks_the_command_to_end_and_is_the_cause_of_the_exit() {
    let bench = Bench::metered();
    let mut commanded = Commanded::start(&bench, &[]);
    // More than SQLite's cache, so that its next read comes from the file.
    for request in 0..60 {
        let event =
            |event| json!({"id": format!("{request}-{event}"), "dimension": "requests", "quantity": 1});
        let events: Vec<_> = (0..1000).map(event).collect();
        assert_eq!(commanded.running.usage(&json!(events)).status, 202);
    }
    for name in ["usage.sqlite", "usage.sqlite-wal"] {
        let file = std::fs::OpenOptions::new().write(true).open(bench.state.path().join(name)).unwrap();
        let bytes = file.metadata().unwrap().len();
        std::os::unix::fs::FileExt::write_all_at(&file, &vec![0x5a; usize::try_from(bytes).unwrap()], 0)
            .unwrap();
    }
    bench.emulator.admin("/_emulator/clock", &json!({"advance": AN_HOUR_AND_ALL}).to_string());
    commanded.running.sidecar.read_until(|line| line["event"] == "command_asked_to_end");
    let (status, last) = commanded.running.sidecar.end();
    assert_eq!(status.code(), Some(74), "{last}");
    assert!(
        last.contains("\"level\":\"ERROR\"") && last.contains("the usage ledger cannot be used"),
        "{last}"
    );
}
