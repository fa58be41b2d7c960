//! Files under the ledger's names that are not regular: refused with a clear error, and nothing is written through
//! them.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;

const ENDS: [&str; 5] = ["", "-journal", "-wal", ".mark", ".suspect"];

#[test]
fn a_link_under_any_name_is_refused_and_nothing_is_written_through_it() {
    for end in ENDS {
        for exists in [true, false] {
            let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let target = elsewhere.path().join("target");
            if exists {
                fs::write(&target, "precious").unwrap();
            }
            symlink(&target, folder.path().join(format!("{FILE_NAME}{end}"))).unwrap();
            let error = Ledger::open(folder.path(), settings("pod-1")).unwrap_err();
            assert!(matches!(error, LedgerError::OddFile { .. }), "{end:?}: {error:?}");
            assert!(error.to_string().contains("a symbolic link"), "{error}");
            assert_eq!(fs::read_to_string(&target).ok().as_deref(), exists.then_some("precious"), "{end:?}");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "{end:?}: nothing was made");
        }
    }
}

#[test]
fn a_pipe_or_a_folder_under_any_name_is_refused_at_once() {
    for end in ENDS {
        for pipe in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(format!("{FILE_NAME}{end}"));
            if pipe {
                let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
                assert!(made.success());
            } else {
                fs::create_dir(&path).unwrap();
            }
            let error = Ledger::open(folder.path(), settings("pod-1")).unwrap_err();
            assert!(matches!(error, LedgerError::OddFile { .. }), "{end:?}: {error:?}");
            let what = if pipe { "no regular file" } else { "a folder" };
            assert!(error.to_string().contains(what), "{error}");
        }
    }
}

#[test]
fn a_folder_behind_a_link_is_used() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("real")).unwrap();
    symlink(folder.path().join("real"), folder.path().join("link")).unwrap();
    let mut ledger = Ledger::open(&folder.path().join("link"), settings("pod-1")).unwrap();
    ledger.take(&[event(None, 1, START)], START).unwrap();
    assert!(folder.path().join("real").join(FILE_NAME).is_file());
}

#[test]
fn what_we_make_is_for_this_user_only() {
    let mut bench = Bench::new();
    bench.take(event(None, 1, START), START);
    for entry in fs::read_dir(bench.folder.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", entry.file_name());
    }
}

#[test]
fn a_database_of_another_program_is_left_untouched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE_NAME);
    Connection::open(&path)
        .unwrap()
        .execute_batch("CREATE TABLE notes (text TEXT); INSERT INTO notes VALUES ('x')")
        .unwrap();
    let before = fs::read(&path).unwrap();
    for _ in 0..2 {
        let error = Ledger::open(folder.path(), settings("pod-1")).unwrap_err();
        assert!(matches!(error, LedgerError::Foreign(_)), "{error:?}");
        assert!(error.to_string().contains("another program"), "{error}");
    }
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}
