//! Faults of disks and processes: kills, damaged and foreign files, folders that cannot be written, a full
//! disk.

use std::process::Command;

use serde_json::json;

use crate::bench::{AN_HOUR_AND_ALL, Bench};

#[test]
fn a_kill_at_any_time_loses_nothing_that_was_acknowledged() {
    let bench = Bench::metered();
    for round in 0..5 {
        let running = bench.start();
        for event in 0..=round {
            running.report("requests", &format!("{event}.5"));
        }
        running.kill();
    }
    let mut running = bench.start();
    running.pass(&bench, AN_HOUR_AND_ALL);
    running.wait_billed(1);
    // 1 × 0.5, and so on: the sum over all rounds.
    let expected: u64 =
        (0..5).map(|round| (0..=round).map(|event| event * 1_000_000 + 500_000).sum::<u64>()).sum();
    assert_eq!(bench.billed()["requests"], expected);
}

#[test]
fn a_damaged_ledger_is_kept_and_named_and_a_new_one_begins() {
    let bench = Bench::metered();
    let running = bench.start();
    running.report("requests", "1");
    running.kill();
    for end in ["", "-wal"] {
        std::fs::write(format!("{}{end}", bench.file().display()), vec![0xa5; 8192]).unwrap();
    }
    let running = bench.start();
    let named = running.sidecar.seen.iter().any(|line| line.contains("usage.sqlite.damaged-"));
    assert!(named, "{:?}", running.sidecar.seen);
    running.report("requests", "2");
    assert_eq!(running.reconciliation()["dimensions"][0]["accepted"], "2");
    let kept = std::fs::read_dir(bench.state.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(kept.into_iter().any(|name| name.to_string_lossy().contains(".damaged-")));
}

#[test]
fn a_ledger_of_a_newer_version_is_refused_with_74_and_left_untouched() {
    let bench = Bench::metered();
    bench.start().kill();
    let connection = rusqlite::Connection::open(bench.file()).unwrap();
    connection.execute("UPDATE meta SET value = '99' WHERE key = 'min_reader'", []).unwrap();
    connection.pragma_update(None, "wal_checkpoint", "TRUNCATE").unwrap();
    drop(connection);
    let before = std::fs::read(bench.file()).unwrap();
    let output = bench.command(&["run"]).output().unwrap();
    assert_eq!(output.status.code(), Some(74));
    assert!(String::from_utf8_lossy(&output.stderr).contains("schema 99"), "{output:?}");
    assert_eq!(std::fs::read(bench.file()).unwrap(), before);
}

#[test]
fn a_second_sidecar_on_the_same_folder_is_refused_with_74() {
    let bench = Bench::metered();
    let running = bench.start();
    running.report("requests", "1");
    let output = bench.command(&["run"]).output().unwrap();
    assert_eq!(output.status.code(), Some(74));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("in use by another process"), "{said}");
    running.report("requests", "1");
}

#[test]
fn a_ledger_at_its_limit_refuses_usage_until_later_and_keeps_what_it_has() {
    let bench = Bench::metered();
    let running = bench.start_with(&[("TOLLGATE_LEDGER_BYTES_MAX", "1MiB")]);
    let mut accepted = 0_u64;
    let refused = loop {
        let events: Vec<_> = (0..1000)
            .map(|event| json!({"id": format!("{accepted}-{event}-{}", "x".repeat(100)), "dimension": "requests", "quantity": 1}))
            .collect();
        let answer = running.usage(&json!(events));
        if answer.status != 202 {
            break answer;
        }
        accepted += 1000;
        assert!(accepted < 100_000, "there is no limit");
    };
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("5")), "{refused:?}");
    assert!(refused.json()["detail"].as_str().unwrap().contains("full"), "{refused:?}");
    assert_eq!(running.reconciliation()["dimensions"][0]["accepted"], accepted.to_string());
}

/// The sidecar's command in a mount namespace of its own, where a file system of its own is mounted over the state
/// folder.
fn on_another_disk(bench: &Bench, options: &str) -> Command {
    let program = bench.command(&["run"]);
    let mut unshare = Command::new("unshare");
    let folder = bench.state.path().to_str().unwrap();
    unshare.args(["--mount", "--map-root-user", "sh", "-c"]);
    unshare.arg(format!("mount -t tmpfs -o {options} none {folder} && exec \"$0\" \"$@\""));
    unshare.arg(program.get_program()).args(program.get_args()).env_clear();
    for (name, value) in program.get_envs() {
        if let Some(value) = value {
            unshare.env(name, value);
        }
    }
    unshare.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stdin(std::process::Stdio::null());
    unshare
}

fn start_on_another_disk(bench: &Bench, options: &str) -> crate::bench::Running {
    crate::bench::Running::start(on_another_disk(bench, options))
}

#[test]
fn a_full_disk_refuses_usage_and_loses_nothing() {
    let bench = Bench::metered();
    let mut running = start_on_another_disk(&bench, "size=2m");
    let mut accepted = 0_u64;
    loop {
        let events: Vec<_> = (0..1000)
            .map(|event| json!({"id": format!("{accepted}-{event}-{}", "x".repeat(100)), "dimension": "requests", "quantity": 1}))
            .collect();
        let answer = running.usage(&json!(events));
        if answer.status != 202 {
            assert_eq!(answer.status, 503, "{answer:?}");
            break;
        }
        accepted += 1000;
        assert!(accepted < 100_000, "the disk never fills");
    }
    assert_eq!(running.sidecar.get("/readyz").status, 200, "the gate is not the disk's affair");
    assert_eq!(running.reconciliation()["dimensions"][0]["accepted"], accepted.to_string());
    assert!(running.sidecar.process.try_wait().unwrap().is_none());
    // An hour ends meanwhile; once there is room, all usage is accepted, sealed and sent.
    running.pass(&bench, AN_HOUR_AND_ALL);
    let process = running.sidecar.process.id().to_string();
    let mut grow = Command::new("nsenter");
    grow.args(["--user", "--mount", "--target", &process, "mount", "-o", "remount,size=8m"]);
    assert!(grow.arg(bench.state.path()).status().unwrap().success());
    while bench.billed().get("requests") != Some(&(accepted * 1_000_000)) {}
    running.report("requests", "1");
}

/// Runs a shell command in the sidecar's mount namespace; returns whether it succeeded.
fn on_its_disk(running: &crate::bench::Running, line: &str) -> bool {
    let process = running.sidecar.process.id().to_string();
    let mut shell = Command::new("nsenter");
    shell.args(["--user", "--mount", "--target", &process, "sh", "-c", line]).status().unwrap().success()
}

/// Usage on a full disk, and the file that fills it.
fn with_a_full_disk(bench: &Bench, grace: &str) -> (crate::bench::Running, String) {
    let mut command = on_another_disk(bench, "size=2m");
    command.env("TOLLGATE_SHUTDOWN_GRACE", grace);
    let running = crate::bench::Running::start(command);
    running.report("requests", "5");
    let ballast = format!("{}/ballast", bench.state.path().display());
    let fits = on_its_disk(&running, &format!("cat /dev/zero > {ballast} 2>/dev/null"));
    assert!(!fits, "it ends because nothing more fits");
    (running, ballast)
}

#[test]
fn a_stop_on_a_disk_that_is_full_for_a_moment_sends_what_there_is() {
    let bench = Bench::metered();
    let (mut running, ballast) = with_a_full_disk(&bench, "25s");
    running.sidecar.signal("TERM");
    running.sidecar.read_until(|line| line["message"] == "the ledger cannot be written; will retry");
    assert!(on_its_disk(&running, &format!("rm {ballast}")));
    let (status, last) = running.sidecar.end();
    assert_eq!((status.code(), bench.billed().get("requests")), (Some(0), Some(&5_000_000)), "{last}");
}

/// An earlier version ended with 0 and "usage stays in the ledger", and did not name the disk.
#[test]
fn a_stop_on_a_full_disk_ends_with_74_and_names_the_disk() {
    let bench = Bench::metered();
    let (running, _) = with_a_full_disk(&bench, "4s");
    let (status, last) = running.terminate();
    assert_eq!(status.code(), Some(74), "{last}");
    for says in ["database or disk is full", "usage.sqlite", "requests=5"] {
        assert!(last.contains(says), "{says}: {last}");
    }
}

#[test]
fn a_disk_that_is_read_only_is_a_wrong_configuration() {
    let bench = Bench::metered();
    let output = on_another_disk(&bench, "ro").output().unwrap();
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("state_dir"), "{output:?}");
}

/// SQLite treats a truncated WAL as one that was torn before its commit.
#[test]
fn a_wal_that_lost_its_end_is_told_and_kept() {
    let bench = Bench::metered();
    let running = bench.start();
    running.report("requests", "1");
    running.report("requests", "2");
    running.kill();
    let wal = format!("{}-wal", bench.file().display());
    let bytes = std::fs::read(&wal).unwrap();
    let cut = bytes.len() - 4096;
    std::fs::write(&wal, &bytes[..cut]).unwrap();
    let running = bench.start();
    let told = running.sidecar.seen.iter().find(|line| line.contains("usage.sqlite.damaged-"));
    assert!(told.is_some_and(|line| line.contains("were committed to it")), "{:?}", running.sidecar.seen);
    let kept = std::fs::read_dir(bench.state.path()).unwrap().map(|entry| entry.unwrap().path());
    let kept = kept
        .into_iter()
        .find(|path| path.to_string_lossy().ends_with("-wal") && path.to_string_lossy().contains("damaged"));
    assert_eq!(std::fs::read(kept.unwrap()).unwrap(), &bytes[..cut]);
    running.report("requests", "4");
}

#[test]
fn a_clock_that_is_a_year_ahead_for_a_moment_strands_and_loses_nothing() {
    let bench = Bench::metered();
    let mut running = bench.start();
    let usage = |running: &crate::bench::Running, id: &str, quantity: u32| {
        let event = json!({"id": id, "dimension": "requests", "quantity": quantity});
        running.usage(&event).json()["results"][0]["status"].as_str().unwrap().to_owned()
    };
    assert_eq!(usage(&running, "a", 1), "accepted");
    running.set_clock(&bench, "2027-11-24T08:00:30Z");
    running.sidecar.read_until(|line| line["message"] == "hours sealed");
    assert_eq!(usage(&running, "b", 2), "accepted");
    running.set_clock(&bench, "2026-11-24T08:30:00Z");
    assert_eq!(usage(&running, "a", 1), "duplicate", "keys are remembered");
    assert_eq!(usage(&running, "c", 4), "accepted");
    running.kill();
    let mut running = bench.start();
    running.set_clock(&bench, "2026-11-24T11:20:00Z");
    running.wait_billed(1);
    while bench.billed()["requests"] != 7_000_000 {
        running.pass(&bench, "20m");
    }
    let reconciliation = running.reconciliation();
    assert_eq!(reconciliation["dimensions"][0]["dead"], "0", "{reconciliation}");
    assert_eq!(bench.billed()["requests"], 7_000_000);
}

#[test]
fn a_folder_that_cannot_be_written_is_a_wrong_configuration() {
    let bench = Bench::metered();
    let mut command = bench.command(&["run"]);
    let output = command.env("TOLLGATE_STATE_DIR", "/proc/tollgate").output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&output.stderr).contains("state_dir"), "{output:?}");
}

#[test]
fn a_clock_that_jumps_back_and_forth_bills_once() {
    let bench = Bench::metered();
    let mut running = bench.start();
    running.report("requests", "1");
    running.pass(&bench, "2h");
    running.wait_billed(1);
    running.set_clock(&bench, "2026-11-24T08:10:00Z");
    running.report("requests", "2");
    running.pass(&bench, "30m");
    running.report("requests", "4");
    running.set_clock(&bench, "2026-11-24T13:20:00Z");
    running.wait_billed(1);
    assert_eq!(bench.billed()["requests"], 7_000_000);
    assert_eq!(running.reconciliation()["dimensions"][0]["balanced"], true);
}

#[test]
fn the_ledger_of_a_stopped_sidecar_is_read_from_its_file() {
    let bench = Bench::metered();
    let running = bench.start();
    running.report("requests", "2.5");
    let (status, live, said) = bench.ledger(&["reconcile"], Some(running.app));
    assert!(status.success(), "{said}");
    assert_eq!(live[0]["pending"], "2.5");
    running.kill();
    let (status, stopped, said) = bench.ledger(&["reconcile"], None);
    assert!(status.success(), "{said}");
    assert_eq!(stopped, live);
}

#[test]
fn a_record_that_does_not_exist_is_the_command_lines_fault_and_not_the_disks() {
    let bench = Bench::metered();
    let running = bench.start();
    running.report("requests", "1");
    let app = Some(running.app);
    let orders: [(&[&str], &str); 5] = [
        (&["show", "77"], "there is no record 77"),
        (&["replay", "77"], "there is no dead letter, nor an unconfirmed record, 77"),
        (&["replay", "77", "78"], ""),
        (&["confirm", "77", "--note", "paid"], "there is no dead letter, nor an unconfirmed record, 77"),
        (&["discard", "77", "--note", "a test"], "there is no dead letter 77"),
    ];
    let mut running = Some(running);
    for app in [app, None] {
        if app.is_none() {
            running.take().unwrap().kill();
        }
        for (order, text) in orders {
            let (status, _, said) = bench.ledger(order, app);
            assert_eq!(status.code(), Some(64), "{order:?}: {said}");
            assert!(said.contains(text), "{order:?}: {said}");
        }
        for order in [["list", "--customer", "nobody"], ["list", "--dimension", "none"]] {
            let (status, rows, _) = bench.ledger(&order, app);
            assert_eq!(
                (status.code(), rows),
                (Some(0), serde_json::json!([])),
                "a filter that finds nothing"
            );
        }
        let (status, _, said) = bench.ledger(&["replay", "77", "--to-dimension", "none"], app);
        assert_eq!(status.code(), Some(64), "{said}");
    }
}

/// The files in the state folder, with the times of their last changes.
fn state(bench: &Bench) -> std::collections::BTreeMap<String, (Vec<u8>, std::time::SystemTime)> {
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.unwrap();
        let content = std::fs::read(entry.path()).unwrap_or_default();
        (entry.file_name().into_string().unwrap(), (content, entry.metadata().unwrap().modified().unwrap()))
    };
    std::fs::read_dir(bench.state.path()).unwrap().map(read).collect()
}

#[test]
fn what_only_reads_a_ledger_changes_nothing_in_its_folder() {
    let reading: [&[&str]; 6] = [
        &["ledger", "list"],
        &["ledger", "show", "1"],
        &["ledger", "open"],
        &["ledger", "reconcile"],
        &["ledger", "audit"],
        &["doctor"],
    ];
    let killed = Bench::metered();
    let running = killed.start();
    running.report("requests", "2.5");
    running.kill();
    let old = Bench::metered();
    {
        let connection = rusqlite::Connection::open(old.file()).unwrap();
        connection.pragma_update(None, "journal_mode", "WAL").unwrap();
        connection.execute_batch(include_str!("../../crates/ledger/src/testdata/schema-1.sql")).unwrap();
    }
    let empty = Bench::metered();
    std::fs::write(empty.file(), "").unwrap();
    let garbage = Bench::metered();
    std::fs::write(garbage.file(), "this is no database, and longer than a header").unwrap();
    for (bench, exit, text) in [
        (&killed, 0, ""),
        (&old, 74, "is a ledger of an older version: the sidecar upgrades it at its next start"),
        (&empty, 74, "is empty: no usage was counted in it"),
        (&garbage, 74, "is damaged or not a ledger"),
    ] {
        let before = state(bench);
        for order in reading {
            let output = bench.command(order).output().unwrap();
            assert!(state(bench) == before, "{order:?} with {text:?}: {:?}", state(bench).keys());
            let said =
                String::from_utf8_lossy(if order[0] == "doctor" { &output.stdout } else { &output.stderr });
            assert!(said.contains(text), "{order:?}: {said}");
            if order[0] == "ledger" && order[1] != "show" {
                assert_eq!(output.status.code(), Some(exit), "{order:?}: {said}");
            }
        }
    }
    // A command that writes upgrades the ledger.
    let (status, _, said) = old.ledger(&["replay", "4"], None);
    assert!(status.code() != Some(74), "{said}");
    let (status, _, said) = old.ledger(&["list"], None);
    assert!(status.success(), "{said}");
}
