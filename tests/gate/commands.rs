//! The other commands: probe, exec, await, install, verify, demo.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output, Stdio};

use tollgate::program::mark;

use crate::processes::{Emulator, Sidecar, command, command_ignoring, refusing_addr};

fn probe(question: &str, addr: &str) -> Output {
    command(&["probe", question, "--probe-addr", addr]).output().unwrap()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn probe_says_nothing_while_the_gate_is_open_and_one_line_while_it_is_shut() {
    let emulator = Emulator::start();
    emulator.admin("/_emulator/pods", r#"{"access_key":"pod-shut","account_id":"444455556666"}"#);
    let mut open = Sidecar::start(emulator.sidecar("pod-open"));
    let mut shut = Sidecar::start(emulator.sidecar("pod-shut"));
    open.wait_for("entitled");
    shut.wait_for("denied");
    for question in ["live", "startup", "ready"] {
        let output = probe(question, &open.addr.to_string());
        let says = if question == "ready" { format!("the gate is open{}\n", mark()) } else { String::new() };
        assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(0), says.as_str()), "{question}");
    }
    for question in ["startup", "ready"] {
        let output = probe(question, &shut.addr.to_string());
        let line = stdout(&output);
        assert_eq!((output.status.code(), line.lines().count()), (Some(1), 1), "{line}");
        assert!(line.len() <= 512 && line.starts_with("denied: CustomerNotEntitledException: "), "{line}");
        assert!(line.contains("Subscribe") && line.contains(" next try 20"), "{line}");
    }
    assert_eq!(probe("live", &shut.addr.to_string()).status.code(), Some(0));
}

#[test]
fn probe_names_a_sidecar_that_does_not_run() {
    let addr = refusing_addr().to_string();
    let output = probe("ready", &addr);
    let line = stdout(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(line.starts_with("unreachable: ProbeUnreachable: ") && line.contains(&addr), "{line}");
}

fn exec(emulator: &Emulator, pod: &str, program: &[&str]) -> Command {
    let mut exec = command(&["exec", "--"]);
    exec.args(program);
    emulator.configure(&mut exec, pod);
    exec
}

/// Prints what a command was given: its process ID, arguments and environment, then open descriptors, blocked and
/// ignored signals. The descriptor that lists the others is closed by then.
const TELL: &str = r#"
    echo "$$ $1 ${KEPT:-unset} ${TOLLGATE_PRODUCT_CODE:-gone}"
    for fd in /proc/$$/fd/*; do [ -e "$fd" ] && echo "open ${fd##*/}"; done
    while read -r name mask; do case "$name" in SigBlk:|SigIgn:) echo "$name $mask";; esac; done < /proc/$$/status
    exit 7
"#;

/// Runs [`TELL`] behind `command`; returns its first line, then the other lines.
fn tell(mut command: Command) -> (String, String) {
    // An argument may contain any bytes that the system allows, not only text.
    command.args(["-c", TELL, "sh"]).arg(OsStr::from_bytes(b"not-\xfftext")).env("KEPT", "kept");
    let process = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let pid = process.id().to_string();
    let output = process.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(7), "the command's own exit code");
    let told = String::from_utf8_lossy(&output.stdout).replacen(&pid, "PID", 1);
    let (first, rest) = told.split_once('\n').unwrap();
    (first.to_owned(), rest.to_owned())
}

/// The text before the ignored signals, and the ignored signals without the two of the C library: it ignores them in
/// processes that it starts, and uses them in a process with threads.
fn ignored(told: &str) -> (&str, u64) {
    let (head, mask) = told.trim_end().split_once("SigIgn: ").unwrap();
    (head, u64::from_str_radix(mask, 16).unwrap() & !(1 << (32 - 1) | 1 << (33 - 1)))
}

#[test]
fn exec_becomes_the_command_once_the_gate_is_open() {
    let emulator = Emulator::start();
    let mut gated = command_ignoring(&["INT", "QUIT", "TERM"], &["exec", "--", "/bin/sh"]);
    emulator.configure(&mut gated, "pod-exec");
    let gated = tell(gated);
    let mut plain = Command::new("env");
    plain.args(["--default-signal", "--ignore-signal=INT", "--ignore-signal=QUIT", "--ignore-signal=TERM"]);
    plain.arg("/bin/sh").env_clear();
    let direct = tell(plain);
    assert_eq!(gated.0, "PID not-\u{fffd}text kept gone", "same process, own environment");
    assert!(direct.1.contains("open 2\n") && direct.1.contains("SigBlk: "), "{}", direct.1);
    // Although the caller made it ignore signals, it ends on SIGINT and SIGTERM, which tollgate handles.
    let (head, ignored) = ignored(&direct.1);
    let expected = (head, ignored & !(1 << (2 - 1) | 1 << (15 - 1)));
    assert_eq!(self::ignored(&gated.1), expected, "tollgate leaves nothing open, blocked or ignored");
}

#[test]
fn exec_never_starts_the_command_without_entitlement() {
    let emulator = Emulator::start();
    emulator.admin("/_emulator/pods", r#"{"access_key":"pod-no","account_id":"444455556666"}"#);
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("started");
    let output = exec(&emulator, "pod-no", &["/bin/touch", mark.to_str().unwrap()]).output().unwrap();
    assert_eq!(output.status.code(), Some(77));
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(log.lines().last().unwrap().contains("denied: CustomerNotEntitledException: "), "{log}");
    assert!(!mark.exists());
}

#[test]
fn exec_says_when_the_command_cannot_be_started() {
    let emulator = Emulator::start();
    let missing = exec(&emulator, "pod-127", &["/nonexistent/program"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(127));
    // Registration bills, so tollgate must not register for a command that cannot start.
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let text = folder.path().join("text");
    std::fs::write(&text, "").unwrap();
    for (program, says) in
        [(folder.path(), "is a folder"), (&pipe, "is a pipe"), (&text, "may not be executed")]
    {
        let output = exec(&emulator, "pod-126", &[program.to_str().unwrap()]).output().unwrap();
        let last = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(126), "{last}");
        assert!(last.lines().last().is_some_and(|line| line.contains(says)), "{last}");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("not-executable");
    std::fs::write(&file, "text").unwrap();
    let denied = exec(&emulator, "pod-126", &[file.to_str().unwrap()]).output().unwrap();
    assert_eq!(denied.status.code(), Some(126));
}

/// In mode `hourly` nothing of tollgate stays beside the command, so nobody could be told later.
#[test]
fn exec_checks_every_authority_before_the_gate() {
    let emulator = Emulator::start();
    let folder = tempfile::tempdir().unwrap();
    let (bundle, mark) = (folder.path().join("ca.pem"), folder.path().join("started"));
    let good = include_str!("../fixtures/tls/ca.pem");
    let mut broken: Vec<&str> = good.lines().collect();
    broken.remove(broken.len() / 2);
    std::fs::write(&bundle, format!("{good}{}\n", broken.join("\n"))).unwrap();
    let mut exec = exec(&emulator, "pod-authority", &["/bin/touch", mark.to_str().unwrap()]);
    let output = exec.env("AWS_CA_BUNDLE", &bundle).output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{log}");
    assert!(log.contains("certificate number 2 is not a valid X.509 CA certificate"), "{log}");
    assert!(!mark.exists());
}

#[test]
fn exec_serves_the_probes_while_it_waits_and_a_signal_ends_it_without_success() {
    let emulator = Emulator::start();
    emulator.admin("/_emulator/faults", r#"{"fault":"throttle"}"#);
    let mut waiting = Sidecar::start(exec(&emulator, "pod-wait", &["/bin/true"]));
    waiting.wait_for_code("pending", "ThrottlingException");
    assert_eq!(waiting.get("/startupz").status, 503);
    waiting.signal("TERM");
    let (status, last) = waiting.end();
    assert_eq!(status.code(), Some(143), "0 would tell a Job that its work was done");
    assert!(last.contains("pending: ThrottlingException: "), "{last}");
}

#[test]
fn await_waits_for_the_gate_and_becomes_the_command() {
    let emulator = Emulator::start();
    emulator.admin("/_emulator/faults", r#"{"fault":"throttle","count":1}"#);
    let sidecar = Sidecar::start(emulator.sidecar("pod-await"));
    let addr = sidecar.addr.to_string();
    let output = command(&["await", "--probe-addr", &addr, "--", "/bin/echo", "started"]).output().unwrap();
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(0), "started\n"));
    let output = command(&["await", "--probe-addr", &addr]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    // Of tollgate's variables the application gets the address to which it reports.
    let script = r#"echo "$TOLLGATE_APP_ADDR ${TOLLGATE_LOG_FILTER:-gone}""#;
    let mut told = command(&["await", "--probe-addr", &addr, "--", "/bin/sh", "-c", script]);
    told.env("TOLLGATE_APP_ADDR", "unix:/run/tollgate/app.sock").env("TOLLGATE_LOG_FILTER", "debug");
    assert_eq!(stdout(&told.output().unwrap()), "unix:/run/tollgate/app.sock gone\n");
}

/// An earlier version found the fault only when the gate opened, which may be hours later.
#[test]
fn await_says_before_it_waits_that_the_command_cannot_be_started() {
    let addr = refusing_addr().to_string();
    for (program, code) in [("/nonexistent/program", 127), ("/", 126)] {
        let args = ["await", "--timeout", "2s", "--probe-addr", &addr, "--", program];
        let output = command(&args).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(text.starts_with(&format!("cannot start {program:?}")), "{text}");
    }
}

#[test]
fn await_gives_up_in_time_and_says_why() {
    let addr = refusing_addr().to_string();
    let output = command(&["await", "--timeout", "2s", "--probe-addr", &addr]).output().unwrap();
    assert_eq!(output.status.code(), Some(124));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("unreachable: ProbeUnreachable"), "{text}");
}

#[test]
fn install_copies_a_program_that_runs() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    // Twice: the second replaces the first.
    for _ in 0..2 {
        assert_eq!(command(&["install", dir]).status().unwrap().code(), Some(0));
    }
    let installed = folder.path().join("tollgate");
    assert_eq!(std::fs::metadata(&installed).unwrap().permissions().mode() & 0o777, 0o755);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing half-written is left");
    let output = Command::new(&installed).arg("--version").output().unwrap();
    assert!(stdout(&output).starts_with("tollgate "));
    let nowhere = folder.path().join("nowhere");
    let missing = command(&["install", nowhere.to_str().unwrap()]).output().unwrap();
    assert_eq!(missing.status.code(), Some(78));
}

#[test]
fn verify_judges_one_token_offline() {
    use std::io::Write as _;
    let emulator = Emulator::start();
    let mut sidecar = Sidecar::start(emulator.sidecar("pod-verify"));
    sidecar.wait_for("entitled");
    let call = emulator.calls()["calls"][0].clone();
    let (token, nonce) =
        (call["answer"]["Signature"].as_str().unwrap(), call["request"]["Nonce"].as_str().unwrap());
    let key = emulator.public_keys.join("1.pem");
    let verify = |nonce: &str, extra: &[&str]| {
        let mut verify = command(&["verify", "--product-code", "demohourly", "--public-key-version", "1"]);
        verify.arg("--public-key").arg(&key).args(["--nonce", nonce]).args(extra);
        verify
    };
    let good = verify(nonce, &["--json", token]).output().unwrap();
    assert_eq!(good.status.code(), Some(0));
    let claims: serde_json::Value = serde_json::from_str(&stdout(&good)).unwrap();
    assert_eq!(claims["nonce"], nonce);

    let mut piped = verify(nonce, &["--allow-emulated", "-"]);
    let mut process = piped.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    writeln!(process.stdin.take().unwrap(), "{token}").unwrap();
    assert_eq!(process.wait_with_output().unwrap().status.code(), Some(0));

    for (nonce, extra, code) in [
        ("another", ["--allow-emulated", token], "NonceMismatch"),
        (nonce, ["--allow-emulated=false", token], "EmulatedToken"),
        (nonce, ["--allow-emulated", "a.b.c"], "TokenMalformed"),
    ] {
        let output = verify(nonce, &extra).output().unwrap();
        assert_eq!(output.status.code(), Some(76));
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.starts_with(&format!("unverified: {code}: ")), "{text}");
    }
    let bad_key = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/keys/rsa3072-test-only.pem");
    let output = command(&[
        "verify",
        "--product-code",
        "x",
        "--public-key-version",
        "1",
        "--nonce",
        "n",
        "--public-key",
    ])
    .args([bad_key, token])
    .output()
    .unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8(output.stderr).unwrap().contains("private key"));
}

#[test]
fn the_demo_tells_its_story_and_ends() {
    let output = command(&["demo", "--once"]).output().unwrap();
    let story = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{story}");
    let refused = ["gate shut: /readyz answers 503", "CustomerNotEntitledException: "];
    let seats = [
        "License Manager counts 10 taken",
        "SeatsExhausted: ",
        "the third takes them",
        "finds its own seats",
    ];
    let parts = ["nonce sent", "token received", "verified", "gate open", "proof signature"];
    for part in parts
        .into_iter()
        .chain(refused)
        .chain(seats)
        .chain(["requests: acknowledged 150, on AWS's bill 150: equal"])
    {
        assert!(story.contains(part), "{part}: {story}");
    }
    // What README shows of it.
    let (_, shown) = include_str!("../../README.md").split_once("```text\n").unwrap();
    for line in shown.lines().take_while(|line| *line != "```") {
        assert!(story.contains(line), "{line}: {story}");
    }
    assert!(story.lines().count() <= 32, "{story}");
    // The steps are numbered in order.
    let numbered = story.lines().filter_map(|line| line.trim_start().split_once(". ")?.0.parse().ok());
    let numbers: Vec<usize> = numbered.collect();
    assert_eq!(numbers, (1..=15).collect::<Vec<_>>(), "{story}");
}

#[test]
fn a_wrong_command_line_is_64() {
    for arguments in [&["nonsense"][..], &["run", "--no-such-flag"], &["probe", "perhaps"], &["verify"], &[]]
    {
        assert_eq!(command(arguments).output().unwrap().status.code(), Some(64), "{arguments:?}");
    }
    assert_eq!(command(&["--help"]).output().unwrap().status.code(), Some(0));
}

/// A server that answers 200 to everything, until the test ends.
pub(crate) fn stranger() -> std::net::SocketAddr {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(
                b"HTTP/1.1 200 OK\r\nserver: nginx\r\ncontent-type: text/html\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok",
            );
        }
    });
    addr
}

#[test]
fn whatever_else_answers_opens_nothing() {
    let addr = stranger().to_string();
    let line = stdout(&probe("ready", &addr));
    assert!(line.starts_with("unreachable: NotTollgate: "), "{line}");
    assert!(line.contains("HTTP 200, Server nginx, Content-Type text/html"), "{line}");
    let output = command(&["await", "--timeout", "2s", "--probe-addr", &addr]).output().unwrap();
    assert_eq!(output.status.code(), Some(124));
    assert!(String::from_utf8(output.stderr).unwrap().contains("NotTollgate"));
}

#[test]
fn the_gate_of_another_pod_opens_nothing() {
    let emulator = Emulator::start();
    let mut gate = emulator.sidecar("pod-uid");
    gate.env("TOLLGATE_POD_UID", "uid-of-this-pod");
    let mut sidecar = Sidecar::start(gate);
    sidecar.wait_for("entitled");
    assert_eq!(sidecar.document()["pod"], "uid-of-this-pod");
    let ready = |uid: &str| {
        let addr = sidecar.addr.to_string();
        command(&["probe", "ready", "--probe-addr", &addr]).env("TOLLGATE_POD_UID", uid).output().unwrap()
    };
    assert_eq!(ready("uid-of-this-pod").status.code(), Some(0));
    let other = ready("uid-of-another-pod");
    assert_eq!(other.status.code(), Some(1));
    assert!(stdout(&other).starts_with("unreachable: AnotherPod: "), "{other:?}");
}
