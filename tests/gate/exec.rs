//! `tollgate exec` as the parent of its command: signals, ends, orphans, and processes that the command
//! leaves behind. The commands are shell scripts that print the signals that they get.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use tempfile::TempDir;
use tollgate_clock as clock;

use crate::contract::held;
use crate::processes::{
    Emulator, Sidecar, command, command_ignoring, configure_contract, configure_metered, get_local, http,
};

/// Far longer than any command here needs for a line.
const PATIENCE: Duration = Duration::from_secs(60);

/// Prints the signals that it gets, and ends when a signal asks for it.
const TELLS: &str = r#"
    for name in HUP INT QUIT USR1 USR2 ALRM WINCH PWR; do trap "echo $name" $name; done
    trap 'echo TERM; exit 5' TERM
    echo ready
    while :; do sleep 1000 & wait $!; done
"#;

/// Does not end when a signal asks for it.
const IGNORES: &str = r#"trap "" TERM INT; echo $$; while :; do sleep 0.05; done"#;

struct Supervised {
    sidecar: Sidecar,
    lines: Receiver<String>,
    _state: TempDir,
}

impl Supervised {
    fn start(emulator: &Emulator, pod: &str, script: &str) -> Self {
        Self::start_with(emulator, pod, script, |_| {})
    }

    fn start_with(emulator: &Emulator, pod: &str, script: &str, change: impl Fn(&mut Command)) -> Self {
        let state = tempfile::tempdir().unwrap();
        let mut command = exec(emulator, pod, state.path(), &["/bin/sh", "-c", script]);
        change(&mut command);
        Self::of(command, state)
    }

    /// A script that waits for a line from the pipe in `$0`; with the pipe's folder.
    fn start_on_pipe(emulator: &Emulator, pod: &str, script: &str, grace: &str) -> (Self, PathBuf, TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let state = tempfile::tempdir().unwrap();
        let program = ["/bin/sh", "-c", script, pipe.to_str().unwrap()];
        let mut command = exec(emulator, pod, state.path(), &program);
        command.env("TOLLGATE_COMMAND_GRACE", grace);
        (Self::of(command, state), pipe, folder)
    }

    fn of(mut command: Command, state: TempDir) -> Self {
        command.stdout(Stdio::piped());
        let mut sidecar = Sidecar::start(command);
        let (tell, lines) = channel();
        let out = BufReader::new(sidecar.process.stdout.take().unwrap());
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
        Self { sidecar, lines, _state: state }
    }

    /// The command's next line.
    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("{error}: {:?}", self.sidecar.seen))
    }

    fn says(&self, lines: &[&str]) {
        for line in lines {
            assert_eq!(self.line(), *line);
        }
    }

    /// The exit code and the last line of the log.
    fn end(self) -> (Option<i32>, serde_json::Value) {
        let (status, last) = self.sidecar.end();
        (status.code(), serde_json::from_str(&last).unwrap_or_else(|_| panic!("{last}")))
    }
}

fn exec(emulator: &Emulator, pod: &str, state: &Path, program: &[&str]) -> Command {
    let mut exec = command(&["exec", "--"]);
    exec.args(program);
    emulator.configure(&mut exec, pod);
    configure_metered(&mut exec, state);
    exec.env("PATH", "/usr/bin:/bin");
    exec
}

fn kill(signal: &str, pid: &str) {
    assert!(Command::new("kill").args(["-s", signal, "--", pid]).status().unwrap().success());
}

fn exists(pid: &str) -> bool {
    Path::new("/proc").join(pid).exists()
}

fn is_stopped(pid: &str) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = clock::monotonic();
    while !holds() {
        assert!(clock::monotonic().duration_since(began) < PATIENCE, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn the_command_runs_beside_both_servers_and_its_code_is_the_exit_code() {
    let emulator = Emulator::start();
    let script = r#"trap "exit 7" USR1; echo "$TOLLGATE_APP_ADDR ${TOLLGATE_MODE:-gone} $PPID"; while :; do sleep 1000 & wait $!; done"#;
    let mut running = Supervised::start(&emulator, "pod-beside", script);
    running.sidecar.wait_for("entitled");
    let (app, parent) = (running.sidecar.app_addr.unwrap(), running.sidecar.process.id());
    running.says(&[&format!("{app} gone {parent}")]);
    assert_eq!(get_local(app, "/v1/entitlement").json()["state"], "entitled");
    assert_eq!(running.sidecar.get("/readyz").status, 200);
    running.sidecar.signal("USR1");
    let (code, last) = running.end();
    assert_eq!(code, Some(7), "{last}");
    // The command's end is no error of tollgate's.
    let told = (&last["event"], &last["level"], &last["exit_code"], &last["message"]);
    assert_eq!(
        told,
        (&"exit".into(), &"INFO".into(), &7.into(), &"the command ended with exit code 7".into())
    );
}

#[test]
fn every_signal_for_the_command_reaches_it_once() {
    let emulator = Emulator::start();
    let running = Supervised::start(&emulator, "pod-signals", TELLS);
    running.says(&["ready"]);
    for signal in ["HUP", "INT", "QUIT", "USR1", "USR2", "ALRM", "WINCH", "PWR", "USR1"] {
        running.sidecar.signal(signal);
        running.says(&[signal]);
    }
    // Sent twice, as an operator may do: the command decides, and this one ends at the first signal.
    running.sidecar.signal("TERM");
    running.sidecar.signal("TERM");
    running.says(&["TERM"]);
    let (code, last) = running.end();
    assert_eq!((code, &last["message"]), (Some(5), &"the command ended with exit code 5".into()));
}

#[test]
fn a_signal_that_the_caller_has_ignored_is_ignored_by_the_command_too() {
    let emulator = Emulator::start();
    let state = tempfile::tempdir().unwrap();
    let script = "grep SigIgn /proc/self/status; exit 0";
    let mut exec = command_ignoring(&["HUP", "INT", "USR2"], &["exec", "--", "/bin/sh", "-c", script]);
    emulator.configure(&mut exec, "pod-ignored");
    configure_metered(&mut exec, state.path());
    let running = Supervised::of(exec, state);
    let line = running.line();
    let mask = u64::from_str_radix(line.split_whitespace().last().unwrap(), 16).unwrap();
    let ignored = [1, 2, 10, 12, 15].map(|signal: u32| mask >> (signal - 1) & 1 == 1);
    // SIGINT asks for the end all the same, as SIGTERM does.
    assert_eq!(ignored, [true, false, false, true, false], "HUP, INT, USR1, USR2, TERM: {line}");
    assert_eq!(running.end().0, Some(0));
}

#[test]
fn a_command_that_does_not_end_is_killed_after_its_grace_with_its_children() {
    let emulator = Emulator::start();
    let running = Supervised::start_with(&emulator, "pod-ignores", IGNORES, |command| {
        command.env("TOLLGATE_COMMAND_GRACE", "1s");
    });
    let pid = running.line();
    let began = clock::monotonic();
    running.sidecar.signal("TERM");
    let (code, last) = running.end();
    assert_eq!((code, &last["level"]), (Some(137), &"ERROR".into()), "{last}");
    assert!(last["message"].as_str().unwrap().contains("did not end within command_grace (1s)"), "{last}");
    assert!(clock::monotonic().duration_since(began) >= Duration::from_secs(1) && !exists(&pid));
}

#[test]
fn an_end_by_signal_is_told_as_a_shell_tells_it() {
    let emulator = Emulator::start();
    for (script, code, says) in [
        ("kill -s SEGV $$", 139, "signal 11 (SIGSEGV)"),
        ("kill -s KILL $$", 137, "signal 9 (SIGKILL;"),
        ("kill -s TERM $$", 143, "signal 15 (SIGTERM)"),
    ] {
        let running = Supervised::start(&emulator, "pod-crash", script);
        let (ended, last) = running.end();
        assert_eq!((ended, &last["level"]), (Some(code), &"INFO".into()), "{last}");
        assert!(last["message"].as_str().unwrap().contains(says), "{last}");
    }
}

#[test]
fn what_outlives_the_command_is_told_to_end_and_may_take_its_time() {
    let emulator = Emulator::start();
    let script = r#"
        sh -c 'trap "sleep 0.2; echo told; exit" TERM; echo up; while :; do sleep 1000 & wait $!; done' &
        read line < "$0"
        exit 4
    "#;
    let (running, pipe, _folder) = Supervised::start_on_pipe(&emulator, "pod-outlives", script, "20s");
    running.says(&["up"]);
    std::fs::write(&pipe, "go\n").unwrap();
    running.says(&["told"]);
    assert_eq!(running.end().0, Some(4));
}

#[test]
fn what_outlives_the_command_and_does_not_end_is_killed() {
    let emulator = Emulator::start();
    let script = format!("sh -c '{IGNORES}' & read line < \"$0\"; exit 0");
    let (running, pipe, _folder) = Supervised::start_on_pipe(&emulator, "pod-stays", &script, "500ms");
    let pid = running.line();
    std::fs::write(&pipe, "go\n").unwrap();
    // The command ended with 0.
    assert_eq!(running.end().0, Some(0));
    assert!(!exists(&pid));
}

/// The command ends when a daemon's first process ends, so the container ends, as with any other init.
#[test]
fn a_command_that_forks_into_the_background_has_ended() {
    let emulator = Emulator::start();
    let script = "setsid sh -c 'echo $$; exec sleep 1000 > /dev/null 2>&1' & read line < \"$0\"; exit 0";
    let (running, pipe, _folder) = Supervised::start_on_pipe(&emulator, "pod-daemon", script, "20s");
    let daemon = running.line();
    std::fs::write(&pipe, "go\n").unwrap();
    assert_eq!(running.end().0, Some(0));
    assert!(exists(&daemon), "a session of its own is not the command's group");
    kill("KILL", &daemon);
}

#[test]
fn orphans_are_reaped_while_the_command_runs() {
    let emulator = Emulator::start();
    let script = r#"
        trap 'exit 0' TERM
        sh -c 'sleep 0.05 & echo $!'
        while :; do sleep 1000 & wait $!; done
    "#;
    let running = Supervised::start(&emulator, "pod-orphans", script);
    let orphan = running.line();
    wait_until("the orphan stays a zombie", || !exists(&orphan));
    running.sidecar.signal("TERM");
    assert_eq!(running.end().0, Some(0));
}

#[test]
fn a_stopped_command_stays_stopped_until_it_must_end() {
    let emulator = Emulator::start();
    let script = "trap 'exit 5' TERM; echo $$; while :; do sleep 1000 & wait $!; done";
    let running = Supervised::start(&emulator, "pod-stopped", script);
    let pid = running.line();
    kill("STOP", &pid);
    wait_until("it is not stopped", || is_stopped(&pid));
    assert_eq!(running.sidecar.get("/livez").status, 200, "tollgate runs on");
    running.sidecar.signal("CONT");
    wait_until("it is not continued", || !is_stopped(&pid));
    running.sidecar.signal("TSTP");
    wait_until("it is not stopped", || is_stopped(&pid));
    running.sidecar.signal("TERM");
    assert_eq!(running.end().0, Some(5), "it gets SIGTERM although it was stopped");
}

#[test]
fn a_reader_that_goes_away_ends_the_command_and_not_tollgate() {
    let emulator = Emulator::start();
    let state = tempfile::tempdir().unwrap();
    let mut command = exec(&emulator, "pod-unread", state.path(), &["/bin/sh", "-c", "exec yes"]);
    let mut sidecar = Sidecar::start({
        command.stdout(Stdio::piped());
        command
    });
    drop(sidecar.process.stdout.take());
    let (status, last) = sidecar.end();
    assert_eq!(status.code(), Some(141), "{last}");
    assert!(last.contains("signal 13 (SIGPIPE)"), "{last}");
}

#[test]
fn a_command_that_cannot_start_is_found_before_aws_is_asked() {
    let emulator = Emulator::start();
    let state = tempfile::tempdir().unwrap();
    for (program, code) in [("/nonexistent/program", 127), ("/", 126)] {
        let output = exec(&emulator, "pod-127", state.path(), &[program]).output().unwrap();
        assert_eq!(output.status.code(), Some(code));
        assert!(String::from_utf8(output.stderr).unwrap().starts_with("cannot start "));
    }
    assert_eq!(emulator.calls()["total"], 0);
    let program = unstartable(state.path(), "no program");
    not_started(&mut exec(&emulator, "pod-126", state.path(), &[program.to_str().unwrap()]), 126);
}

#[test]
fn before_the_gate_opens_no_command_runs_and_a_signal_ends_the_wait() {
    let emulator = Emulator::start();
    let state = tempfile::tempdir().unwrap();
    let mark = state.path().join("started");
    let touch = ["/bin/touch", mark.to_str().unwrap()];
    let denied =
        r#"{"fault":"exception","exception":"CustomerNotEntitledException","operation":"MeterUsage"}"#;
    emulator.admin("/_emulator/faults", denied);
    let output = exec(&emulator, "pod-no", state.path(), &touch).output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(77), "{log}");
    assert!(log.lines().last().unwrap().contains("denied: CustomerNotEntitledException: "), "{log}");

    assert_eq!(http(emulator.addr, "DELETE", "/_emulator/faults", "").status, 200);
    emulator.admin("/_emulator/faults", r#"{"fault":"throttle"}"#);
    for (signal, code) in [("TERM", 143), ("INT", 143), ("HUP", 143)] {
        let mut waiting = Sidecar::start(exec(&emulator, "pod-wait", state.path(), &touch));
        waiting.wait_for_code("pending", "ThrottlingException");
        waiting.signal(signal);
        let (status, last) = waiting.end();
        assert_eq!(status.code(), Some(code), "{last}");
        assert!(last.contains("a signal ended tollgate before the gate opened: pending: "), "{last}");
    }
    assert!(!mark.exists());
}

#[test]
fn exec_is_not_for_products_that_the_seller_runs() {
    let emulator = Emulator::start();
    let state = tempfile::tempdir().unwrap();
    let mut exec = exec(&emulator, "pod-saas", state.path(), &["/bin/true"]);
    let output = exec.env("TOLLGATE_MODE", "saas").output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8(output.stderr).unwrap().contains("cannot be used with exec"));
}

/// SIGKILL cannot be passed on. In a container tollgate is PID 1, and the kernel ends the other
/// processes with it.
#[test]
fn who_kills_tollgate_leaves_the_command_alone_unless_tollgate_is_pid_1() {
    let emulator = Emulator::start();
    let script = "echo $$; exec sleep 1000 > /dev/null 2>&1";
    let running = Supervised::start(&emulator, "pod-killed", script);
    let pid = running.line();
    running.sidecar.signal("KILL");
    let (status, _) = running.sidecar.end();
    assert_eq!(status.code(), None);
    assert!(exists(&pid));
    kill("KILL", &pid);
}

/// A command in a PID namespace of its own, as a container runtime starts it; its `/proc` is that namespace's.
fn as_pid_1(inner: &Command) -> Command {
    let mut outer = Command::new("unshare");
    outer.args(["--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
    outer.arg(inner.get_program()).args(inner.get_args()).env_clear().stdin(Stdio::null());
    outer.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    outer
}

/// The process with number 1 in the namespace that `unshare` made.
fn pid_1_of(unshare: u32) -> String {
    let children = std::fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children")).unwrap();
    children.trim().to_owned()
}

#[test]
fn as_pid_1_it_passes_signals_on_reaps_orphans_and_exits_with_the_commands_code() {
    let emulator = Emulator::start();
    let state = tempfile::tempdir().unwrap();
    let script = r#"
        sh -c 'sleep 0.05 & echo $!'
        trap 'echo TERM; exit 6' TERM
        echo "$PPID"
        while :; do sleep 1000 & wait $!; done
    "#;
    let inner = exec(&emulator, "pod-1st", state.path(), &["/bin/sh", "-c", script]);
    let running = Supervised::of(as_pid_1(&inner), state);
    let orphan = running.line();
    assert_eq!(running.line(), "1", "the command's parent");
    let first = pid_1_of(running.sidecar.process.id());
    // Its number in the namespace's own `/proc`.
    let processes = Path::new("/proc").join(&first).join("root").join("proc");
    wait_until("the orphan stays a zombie", || !processes.join(&orphan).exists());
    kill("TERM", &first);
    running.says(&["TERM"]);
    let (code, last) = running.end();
    assert_eq!(code, Some(6), "{last}");
}

#[test]
fn as_pid_1_its_end_is_the_end_of_everything() {
    let emulator = Emulator::start();
    let state = tempfile::tempdir().unwrap();
    let script = "setsid sh -c 'echo up; exec sleep 1000 > /dev/null' & wait; sleep 1000";
    let inner = exec(&emulator, "pod-last", state.path(), &["/bin/sh", "-c", script]);
    let running = Supervised::of(as_pid_1(&inner), state);
    running.says(&["up"]);
    let first = pid_1_of(running.sidecar.process.id());
    let inside = || {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let space = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let ours = space("self");
        let names = all.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let of_script = |pid: &String| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains("sleep\u{0}1000") && space(pid) != ours
        };
        names.filter(of_script).count()
    };
    wait_until("nothing runs in the namespace", || inside() > 0);
    kill("KILL", &first);
    running.sidecar.end();
    wait_until("something outlives PID 1", || inside() == 0);
}

fn exec_floating(emulator: &Emulator, pod: &str, state: &Path, program: &[&str]) -> Command {
    let mut command = exec(emulator, pod, state, program);
    configure_contract(command.env_remove("TOLLGATE_DIMENSIONS"));
    command.env("TOLLGATE_LICENSE_MODEL", "floating").env("TOLLGATE_ENTITLEMENTS", "users:Count");
    command
}

/// An executable file that the kernel cannot run, which is noticed only at its start.
fn unstartable(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("unstartable");
    std::fs::write(&path, text).unwrap();
    assert!(Command::new("chmod").arg("755").arg(&path).status().unwrap().success());
    path
}

/// The last line of a run of `exec` whose command could not start.
fn not_started(command: &mut Command, code: i32) -> String {
    let output = command.output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{log}");
    let last: serde_json::Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    assert_eq!((&last["level"], &last["exit_code"]), (&"ERROR".into(), &code.into()), "{log}");
    assert!(last["message"].as_str().unwrap().starts_with("cannot start "), "{last}");
    log
}

#[test]
fn a_contracts_seat_is_given_back_where_the_command_cannot_start() {
    let emulator = Emulator::start();
    let state = tempfile::tempdir().unwrap();
    for (text, code) in [("#!/nope/interpreter\n", 127), ("no program", 126)] {
        let program = unstartable(state.path(), text);
        let program = [program.to_str().unwrap()];
        let log = not_started(&mut exec_floating(&emulator, "pod-seat", state.path(), &program), code);
        assert_eq!(held(&emulator).0, 0, "{log}");
        assert!(!log.contains("seats_remain"), "{log}");
    }
    let (_, totals) = held(&emulator);
    assert_eq!((&totals["takes"], &totals["returns"]), (&2.into(), &2.into()), "{totals}");
}

#[test]
fn a_check_in_that_is_forbidden_is_named_in_the_last_line() {
    let emulator = Emulator::start();
    let state = tempfile::tempdir().unwrap();
    emulator.admin("/_emulator/pods", r#"{"access_key": "pod-kept", "denied": ["CheckInLicense"]}"#);
    let mut command = exec_floating(&emulator, "pod-kept", state.path(), &["/bin/true"]);
    let output = command.env("TOLLGATE_SHUTDOWN_GRACE", "5s").output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    let last = log.lines().last().unwrap();
    assert!(last.contains("the last try: AuthorizationException: "), "{last}");
    assert!(last.contains("(license-manager:CheckInLicense)"), "{last}");
    assert_eq!((output.status.code(), held(&emulator).0), (Some(69), 1), "{log}");
}

#[test]
fn a_contracts_seat_is_held_while_the_command_runs_and_given_back_when_it_has_ended() {
    let emulator = Emulator::start();
    let state = tempfile::tempdir().unwrap();
    let command = exec_floating(&emulator, "pod-seat", state.path(), &["/bin/sh", "-c", TELLS]);
    let running = Supervised::of(command, state);
    running.says(&["ready"]);
    assert_eq!(held(&emulator).0, 1);
    running.sidecar.signal("TERM");
    running.says(&["TERM"]);
    let (code, last) = running.end();
    assert_eq!(code, Some(5), "{last}");
    assert_eq!(held(&emulator).0, 0);
}
