//! Every exit code but 0, with the real binary: the last line names the true cause.

use std::process::Command;

use crate::processes::{Emulator, Sidecar, command, configure_metered, refusing_addr};

/// Runs to the end; returns the exit code, and the last line of standard error, or of standard output if standard
/// error is empty.
fn ended(mut command: Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    let texts = [output.stderr, output.stdout].map(|bytes| String::from_utf8(bytes).unwrap());
    let last = texts.iter().find_map(|text| text.lines().last()).unwrap_or_default().to_owned();
    (output.status.code(), last)
}

#[test]
fn the_last_line_is_the_cause_of_each_exit_code() {
    let emulator = Emulator::start();
    let folder = tempfile::tempdir().unwrap();
    let nowhere = refusing_addr().to_string();
    let nowhere_at_all = folder.path().join("nowhere").to_str().unwrap().to_owned();
    emulator.admin("/_emulator/pods", r#"{"access_key":"pod-77","account_id":"444455556666"}"#);
    emulator.admin("/_emulator/faults", r#"{"pod":"pod-76","fault":"token","token":"wrong-nonce"}"#);
    let exec = |pod: &str, program: &str| {
        let mut exec = command(&["exec", "--", program]);
        emulator.configure(&mut exec, pod);
        exec
    };
    let metered = |arguments: &[&str]| {
        let mut command = command(arguments);
        emulator.configure(&mut command, "pod-ledger");
        configure_metered(&mut command, folder.path());
        command
    };
    let mut holder = Sidecar::start(metered(&["run"]));
    holder.wait_for("entitled");
    let app = holder.app_addr.unwrap().to_string();
    let mut wrong = command(&["run"]);
    wrong.env("TOLLGATE_PRODUCT_CODE", "two words");
    let mut taken = emulator.sidecar("pod-78");
    taken.env("TOLLGATE_PROBE_ADDR", holder.addr.to_string());
    let asked = |arguments: &[&str], addr: &str| {
        let mut ledger = metered(arguments);
        ledger.env("TOLLGATE_APP_ADDR", addr);
        ledger
    };
    let stranger = crate::commands::stranger().to_string();
    for (what, command, code, says) in [
        (
            "probe",
            command(&["probe", "ready", "--probe-addr", &nowhere]),
            1,
            "unreachable: ProbeUnreachable: ",
        ),
        ("a flag", command(&["run", "--no-such-flag"]), 64, "--no-such-flag"),
        ("no command", command(&["exec"]), 64, "required arguments were not provided"),
        ("a record", asked(&["ledger", "show", "999"], &app), 64, "there is no record 999"),
        ("a code", command(&["explain", "NoSuchCode"]), 64, "no entry NoSuchCode"),
        (
            "a stranger",
            asked(&["ledger", "list"], &stranger),
            69,
            "something other than tollgate answers there",
        ),
        ("the ledger", metered(&["run"]), 74, "is in use"),
        (
            "no sidecar",
            asked(&["license"], &nowhere),
            69,
            "give the address of its app server with --app-addr",
        ),
        ("its file", asked(&["ledger", "list"], &nowhere), 74, "--app-addr"),
        ("a token", exec("pod-76", "/bin/true"), 76, "unverified: NonceMismatch: "),
        ("a buyer", exec("pod-77", "/bin/true"), 77, "denied: CustomerNotEntitledException: "),
        ("no license", asked(&["license"], &app), 78, "its mode is not contract"),
        ("a setting", wrong, 78, "misconfigured: InvalidConfiguration: "),
        ("an address", taken, 78, "misconfigured: CannotListen: probe_addr"),
        ("time", command(&["await", "--timeout", "1s", "--probe-addr", &nowhere]), 124, "ProbeUnreachable"),
        ("a folder", exec("pod-126", "/"), 126, "is a folder"),
        ("a name", exec("pod-127", &nowhere_at_all), 127, "does not exist"),
    ] {
        let (found, last) = ended(command);
        assert_eq!(found, Some(code), "{what}: {last}");
        assert!(last.contains(says), "{what}: {last}");
    }
    holder.signal("TERM");
    assert_eq!(holder.end().0.code(), Some(0));
}

/// 128 and the number of the signal, because a Job that a signal ended has not done its work.
#[test]
fn a_signal_before_the_gate_opens_leaves_the_reason_as_the_last_line() {
    let emulator = Emulator::start();
    emulator.admin("/_emulator/faults", r#"{"fault":"throttle"}"#);
    for signal in ["TERM", "INT", "HUP"] {
        let mut exec = command(&["exec", "--", "/bin/true"]);
        emulator.configure(&mut exec, "pod-143");
        let mut waiting = Sidecar::start(exec);
        waiting.wait_for_code("pending", "ThrottlingException");
        waiting.signal(signal);
        let (status, last) = waiting.end();
        assert_eq!(status.code(), Some(143), "{signal}: {last}");
        let line: serde_json::Value = serde_json::from_str(&last).unwrap();
        assert_eq!((&line["event"], &line["exit_code"]), (&"exit".into(), &143.into()), "{last}");
        assert!(last.contains("pending: ThrottlingException: "), "{signal}: {last}");
    }
}
