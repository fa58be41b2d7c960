//! `tollgate await` as a pod's lock: what it prints, and when it ends.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStderr, Stdio};

use tollgate::program::mark;

use crate::processes::{Emulator, Sidecar, command, refusing_addr};

/// A wait whose output is read line by line.
struct Wait {
    process: Child,
    lines: std::io::Lines<BufReader<ChildStderr>>,
}

impl Wait {
    fn start(sidecar: &Sidecar, extra: &[&str]) -> Self {
        let addr = sidecar.addr.to_string();
        let mut await_gate = command(&["await", "--probe-addr", &addr]);
        let mut process = await_gate.args(extra).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        Self { process, lines }
    }

    fn line(&mut self) -> String {
        self.lines.next().expect("it says something").unwrap()
    }

    /// The rest of its output, and its exit status.
    fn end(mut self) -> (Option<i32>, Vec<String>) {
        let rest = self.lines.by_ref().map(Result::unwrap).collect();
        (self.process.wait().unwrap().code(), rest)
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn refused(emulator: &Emulator, pod: &str) -> Sidecar {
    emulator.admin("/_emulator/pods", &format!(r#"{{"access_key":"{pod}","account_id":"444455556666"}}"#));
    let mut command = emulator.sidecar(pod);
    command.env("TOLLGATE_CLOCK", format!("{}/_emulator/clock", emulator.endpoint()));
    let mut sidecar = Sidecar::start(command);
    sidecar.wait_for("denied");
    sidecar
}

/// One restart of the container shows the reason in `kubectl describe`; there must not be a second one.
#[test]
fn a_refusal_ends_the_wait_once_at_its_age_by_the_sidecars_clock() {
    let emulator = Emulator::start();
    // Neither clock is the system's: a wait by the system's clock would never end, or end at once.
    emulator.admin("/_emulator/clock", r#"{"now":"2026-11-24T08:00:00Z"}"#);
    let sidecar = refused(&emulator, "pod-refused");
    let mut first = Wait::start(&sidecar, &["--refused-after", "1h"]);
    assert!(first.line().starts_with("denied: CustomerNotEntitledException: "));
    let mut patient = Wait::start(&sidecar, &[]);
    assert!(patient.line().starts_with("denied: "));
    emulator.admin("/_emulator/clock", r#"{"advance":"1h1s"}"#);
    let (code, rest) = first.end();
    assert_eq!(code, Some(77), "{rest:?}");
    assert!(
        matches!(&rest[..], [last] if last.starts_with("denied: CustomerNotEntitledException: ")),
        "{rest:?}"
    );

    let again = Wait::start(&sidecar, &["--refused-after", "1h", "--timeout", "2s"]);
    let (code, said) = again.end();
    assert_eq!(code, Some(124), "it stays: {said:?}");
    assert!(said.len() == 2 && said[0].starts_with("denied: "), "the reason once, then the cause: {said:?}");
    assert!(
        said[1].starts_with("gave up after --timeout 2s: denied: CustomerNotEntitledException: "),
        "{said:?}"
    );
    assert!(patient.process.try_wait().unwrap().is_none(), "without the flag it stays");
}

#[test]
fn a_wait_that_a_signal_ends_says_so() {
    let emulator = Emulator::start();
    let sidecar = refused(&emulator, "pod-signalled");
    let mut wait = Wait::start(&sidecar, &[]);
    wait.line();
    let pid = wait.process.id().to_string();
    assert!(std::process::Command::new("kill").args(["-s", "TERM", &pid]).status().unwrap().success());
    let (code, rest) = wait.end();
    assert_eq!(code, Some(143));
    assert!(matches!(&rest[..], [last] if last.starts_with("SIGTERM ended the wait: denied: ")), "{rest:?}");
}

#[test]
fn a_wait_that_has_told_a_reason_says_that_it_is_over() {
    let emulator = Emulator::start();
    emulator.admin("/_emulator/faults", r#"{"fault":"throttle"}"#);
    let mut sidecar = Sidecar::start(emulator.sidecar("pod-throttled"));
    sidecar.wait_for_code("pending", "ThrottlingException");
    let mut wait = Wait::start(&sidecar, &["--refused-after", "5s"]);
    assert!(wait.line().starts_with("pending: ThrottlingException: "));
    crate::processes::http(emulator.addr, "DELETE", "/_emulator/faults", "");
    assert_eq!(wait.end(), (Some(0), vec![format!("the gate is open{}", mark())]));
    let at_once = Wait::start(&sidecar, &[]);
    assert_eq!(at_once.end(), (Some(0), vec![format!("the gate is open{}", mark())]));
}

#[test]
fn an_age_below_five_seconds_is_a_wrong_command_line() {
    let addr = refusing_addr().to_string();
    let output = command(&["await", "--refused-after", "4s", "--probe-addr", &addr]).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8(output.stderr).unwrap().contains("at least 5s"));
}

/// An earlier version said that retries continue, and ended.
#[test]
fn the_last_line_of_exec_promises_no_further_attempt() {
    let emulator = Emulator::start();
    let mut exec = command(&["exec", "--", "/bin/true"]);
    emulator.configure(&mut exec, "pod-unreachable");
    exec.env("TOLLGATE_ENDPOINT_URL", format!("http://{}", refusing_addr()))
        .env("TOLLGATE_UNAVAILABLE_AFTER", "1s");
    let output = exec.output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    let last = log.lines().last().unwrap_or_default();
    assert_eq!(output.status.code(), Some(69), "{log}");
    assert!(last.contains("unavailable: Connection: ") && last.contains("Allow HTTPS to "), "{last}");
    assert!(!last.contains("retries") && !last.contains("next try"), "{last}");
}
