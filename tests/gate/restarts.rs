//! Signals, kill -9, restarts, and the times when AWS cannot be reached.

use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;

use crate::processes::{Emulator, Sidecar, refusing_addr};

fn with_state(emulator: &Emulator, pod: &str, state: &std::path::Path) -> Command {
    let mut command = emulator.sidecar(pod);
    command.env("TOLLGATE_STATE_DIR", state);
    command
}

#[test]
fn the_kept_receipt_opens_the_gate_of_a_restarted_pod_while_aws_is_away() {
    let emulator = Emulator::start();
    let state = tempfile::tempdir().unwrap();
    let mut first = Sidecar::start(with_state(&emulator, "pod-kept", state.path()));
    first.wait_for("entitled");
    first.signal("KILL");
    assert_eq!(first.end().0.signal(), Some(9));

    let away = format!("http://{}", refusing_addr());
    let mut command = with_state(&emulator, "pod-kept", state.path());
    command.env("TOLLGATE_ENDPOINT_URL", &away);
    let mut restarted = Sidecar::start(command);
    let line = restarted.wait_for("entitled");
    assert_eq!(line["code"], "Connection", "open, and the reason is shown: {line}");
    assert_eq!(restarted.get("/readyz").status, 200);
    assert!(restarted.document()["next_attempt_at"].is_string(), "retries continue");

    // It does not open the gate for another pod or another product, nor if the seller switched it
    // off.
    for (name, value) in [
        ("TOLLGATE_POD_UID", "another-pod"),
        // In an earlier version it found its own name in the file at its second start.
        ("TOLLGATE_POD_UID", "another-pod"),
        ("TOLLGATE_PRODUCT_CODE", "another"),
        ("TOLLGATE_KEPT_RECEIPT", "off"),
    ] {
        let mut command = with_state(&emulator, "pod-kept", state.path());
        command.env("TOLLGATE_ENDPOINT_URL", &away).env(name, value);
        let mut other = Sidecar::start(command);
        other.wait_for_code("pending", "Connection");
        assert_eq!(other.get("/readyz").status, 503, "{name}={value}");
    }
    let mut command = with_state(&emulator, "pod-kept", state.path());
    command.env("TOLLGATE_ENDPOINT_URL", &away);
    Sidecar::start(command).wait_for("entitled");
}

/// In an earlier version each start began grace anew, and the log named no file.
#[test]
fn grace_that_cannot_be_counted_is_not_given_and_the_file_is_named() {
    let emulator = Emulator::start();
    for name in ["registration.json", ".registration.json.new"] {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join(name);
        std::fs::create_dir_all(path.join("full")).unwrap();
        let mut command = with_state(&emulator, "pod-uncounted", state.path());
        command
            .env("TOLLGATE_GRACE_PERIOD", "1h")
            .env("TOLLGATE_ENDPOINT_URL", format!("http://{}", refusing_addr()));
        let mut sidecar = Sidecar::start(command);
        let named = format!("{}: is a folder, not a file", path.display());
        sidecar.read_until(|line| line["level"] == "WARN" && line["error"] == named.as_str());
        sidecar.wait_for_code("pending", "Connection");
        assert_eq!(sidecar.get("/readyz").status, 503, "{name}");
    }
}

/// The clock source goes back, and the start of the grace period is edited: grace that has ended
/// stays ended.
#[test]
fn grace_that_has_ended_stays_ended_whatever_the_clock_and_the_file_say() {
    let emulator = Emulator::start();
    let state = tempfile::tempdir().unwrap();
    let start = || {
        let mut command = with_state(&emulator, "pod-ended", state.path());
        command
            .env("TOLLGATE_CLOCK", format!("{}/_emulator/clock", emulator.endpoint()))
            .env("TOLLGATE_GRACE_PERIOD", "1h")
            .env("TOLLGATE_ENDPOINT_URL", format!("http://{}", refusing_addr()));
        Sidecar::start(command)
    };
    let mut graced = start();
    graced.wait_for("grace");
    emulator.admin("/_emulator/clock", r#"{"advance":"1h1s"}"#);
    graced.wait_for("pending");
    drop(graced);
    let path = state.path().join("registration.json");
    let mut record: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(record["grace_ended"], true, "{record}");
    record["first_failed_at"] = "2999-01-01T00:00:00Z".into();
    std::fs::write(&path, record.to_string()).unwrap();
    let mut again = start();
    again.wait_for_code("pending", "Connection");
    assert_eq!(again.get("/readyz").status, 503);
}

#[test]
fn a_kept_receipt_that_was_tampered_with_opens_nothing() {
    let emulator = Emulator::start();
    let state = tempfile::tempdir().unwrap();
    let mut first = Sidecar::start(with_state(&emulator, "pod-tampered", state.path()));
    first.wait_for("entitled");
    drop(first);
    let path = state.path().join("registration.json");
    let kept = std::fs::read_to_string(&path).unwrap();
    let mut record: serde_json::Value = serde_json::from_str(&kept).unwrap();
    let token = record["receipt"]["token"].as_str().unwrap();
    let place = token.len() - 10;
    let another = if token.as_bytes()[place] == b'A' { 'B' } else { 'A' };
    let forged = format!("{}{another}{}", &token[..place], &token[place + 1..]);
    record["receipt"]["token"] = forged.into();
    for content in [record.to_string(), kept[..kept.len() / 2].to_owned(), String::new()] {
        std::fs::write(&path, &content).unwrap();
        let mut command = with_state(&emulator, "pod-tampered", state.path());
        command.env("TOLLGATE_ENDPOINT_URL", format!("http://{}", refusing_addr()));
        let mut restarted = Sidecar::start(command);
        restarted.wait_for_code("pending", "Connection");
        assert_eq!(restarted.get("/readyz").status, 503, "{content}");
    }
}

#[test]
fn grace_opens_while_aws_is_away_and_a_refusal_ends_it_for_restarts_too() {
    let emulator = Emulator::start();
    let state = tempfile::tempdir().unwrap();
    let away = format!("http://{}", refusing_addr());
    let start = |endpoint: &str| {
        let mut command = with_state(&emulator, "pod-grace", state.path());
        command.env("TOLLGATE_GRACE_PERIOD", "1h").env("TOLLGATE_ENDPOINT_URL", endpoint);
        Sidecar::start(command)
    };
    let mut graced = start(&away);
    graced.wait_for("grace");
    assert_eq!((graced.get("/readyz").status, graced.document()["proof"].is_null()), (200, true));
    drop(graced);
    emulator.admin("/_emulator/pods", r#"{"access_key":"pod-grace","account_id":"444455556666"}"#);
    let mut refused = start(&emulator.endpoint());
    refused.wait_for("denied");
    drop(refused);
    let mut again = start(&away);
    again.wait_for_code("pending", "Connection");
    assert_eq!(again.get("/readyz").status, 503);
}

#[test]
fn sigterm_and_sigint_drain_and_exit_0() {
    let emulator = Emulator::start();
    for signal in ["TERM", "INT"] {
        let mut sidecar = Sidecar::start(emulator.sidecar("pod-signal"));
        sidecar.wait_for("entitled");
        sidecar.signal(signal);
        assert_eq!(sidecar.end().0.code(), Some(0), "{signal}");
    }
    // Also while it still asks AWS.
    emulator.admin("/_emulator/faults", r#"{"fault":"hang"}"#);
    let sidecar = Sidecar::start(emulator.sidecar("pod-hanging"));
    sidecar.signal("TERM");
    assert_eq!(sidecar.end().0.code(), Some(0));
}

#[test]
fn a_busy_port_is_named_with_its_setting() {
    let emulator = Emulator::start();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let mut command = emulator.sidecar("pod-busy");
    let output = command.env("TOLLGATE_PROBE_ADDR", &addr).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    let text = String::from_utf8(output.stderr).unwrap();
    let last = text.lines().last().unwrap();
    assert!(last.starts_with("misconfigured: CannotListen: probe_addr"), "{last}");
    for part in [addr.as_str(), "another container of this pod may hold it"] {
        assert!(last.contains(part), "{part}: {last}");
    }
}

#[test]
fn secrets_are_not_logged_at_info() {
    let emulator = Emulator::start();
    let state = tempfile::tempdir().unwrap();
    let mut sidecar = Sidecar::start(with_state(&emulator, "pod-secrets", state.path()));
    sidecar.wait_for("entitled");
    let kept: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(state.path().join("registration.json")).unwrap())
            .unwrap();
    let log = sidecar.seen.concat();
    for secret in [&kept["receipt"]["token"], &kept["receipt"]["nonce"]] {
        assert!(!log.contains(secret.as_str().unwrap()), "{log}");
    }
    let probes = sidecar.get("/entitlement").body + &sidecar.get("/metrics").body;
    assert!(!probes.contains(kept["receipt"]["token"].as_str().unwrap()));
}

#[test]
fn a_second_signal_ends_at_once() {
    use std::io::Write as _;
    let emulator = Emulator::start();
    let mut sidecar = Sidecar::start(emulator.sidecar("pod-twice"));
    sidecar.wait_for("entitled");
    // An unfinished request keeps the drain waiting.
    let mut busy = std::net::TcpStream::connect(sidecar.addr).unwrap();
    busy.write_all(b"GET /readyz HTTP/1.1\r\n").unwrap();
    // After an answer on a later connection, the busy connection has certainly been accepted.
    assert_eq!(sidecar.get("/livez").status, 200);
    sidecar.signal("TERM");
    sidecar.read_until(|line| line["message"] == "draining");
    sidecar.signal("INT");
    let last = sidecar.read_until(|line| line["exit_code"] == 130);
    let text = last["message"].as_str().unwrap();
    assert!(text.starts_with("a second signal (SIGINT) ended"), "{text}");
    assert_eq!(sidecar.end().0.code(), Some(130));
}

#[test]
fn the_same_signal_twice_is_one() {
    let emulator = Emulator::start();
    let mut sidecar = Sidecar::start(emulator.sidecar("pod-echo"));
    sidecar.wait_for("entitled");
    // As `timeout` sends it, to the process and to its group.
    sidecar.signal("TERM");
    sidecar.signal("TERM");
    assert_eq!(sidecar.end().0.code(), Some(0));
}

#[test]
fn a_denied_pod_does_not_ask_again_where_only_a_new_pod_does() {
    let emulator = Emulator::start();
    let state = tempfile::tempdir().unwrap();
    let start = |pod: &str| {
        let mut command = with_state(&emulator, pod, state.path());
        command.env("TOLLGATE_AFTER_DENIAL", "new-pod");
        Sidecar::start(command)
    };
    emulator.admin("/_emulator/pods", r#"{"access_key":"pod-denied","account_id":"444455556666"}"#);
    let mut first = start("pod-denied");
    let line = first.wait_for_code("denied", "CustomerNotEntitledException");
    assert!(line["remedy"].as_str().is_some_and(|remedy| remedy.contains("replace the pod")), "{line}");
    assert!(first.document()["next_attempt_at"].is_null());
    first.signal("KILL");
    first.end();

    // The buyer has subscribed, but a second answer about this pod would prove nothing.
    emulator.admin("/_emulator/pods", r#"{"access_key":"pod-denied","account_id":"111122223333"}"#);
    let mut again = start("pod-denied");
    again.wait_for_code("denied", "CustomerNotEntitledException");
    assert_eq!(again.document()["attempts"], 0);
    drop(again);
    start("pod-new").wait_for("entitled");
}
