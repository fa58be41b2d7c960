//! Inspections of ledgers in every state: the result is the truth or the true reason, and nothing in the folder
//! changes.

use std::fs;
use std::os::unix::fs::symlink;

use super::versions::released;
use super::*;

/// Names, contents and modification times of the files in a folder.
fn snapshot(folder: &Path) -> BTreeMap<String, (Vec<u8>, std::time::SystemTime)> {
    let read = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.unwrap();
        let changed = entry.path().symlink_metadata().unwrap().modified().unwrap();
        (entry.file_name().into_string().unwrap(), (fs::read(entry.path()).unwrap_or_default(), changed))
    };
    fs::read_dir(folder).unwrap().map(read).collect()
}

/// Inspects the folder in every way, and checks that its files did not change.
fn look(folder: &Path) -> Result<BTreeMap<String, Totals>, LedgerError> {
    let before = snapshot(folder);
    let looked = Database::inspect(folder).and_then(|ledger| {
        ledger.check()?;
        ledger.read_open(None, &view::Looked::default(), &view::From::default(), 100)?;
        ledger.page(&view::Looked::default(), 100)?;
        ledger.audit(None, 100)?;
        ledger.links(1)?;
        ledger.summary()?;
        ledger.totals()
    });
    assert!(snapshot(folder) == before, "{looked:?} left {:?}", snapshot(folder).keys());
    looked
}

fn write(folder: &Path, end: &str, text: &str) {
    fs::write(folder.join(format!("{FILE_NAME}{end}")), text).unwrap();
}

#[test]
fn a_ledger_is_read_whole_with_what_its_log_holds_and_without_one() {
    let mut bench = Bench::new();
    bench.take(event(Some("a"), 5, START), START);
    bench.ledger().seal_now(START).unwrap();
    bench.take(event(Some("b"), 7, START), START);
    let truth = bench.ledger().totals().unwrap();
    // As after a kill, and under a name that a URI would cut.
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("50% of it? #1");
    fs::create_dir(&folder).unwrap();
    for (name, (content, _)) in snapshot(bench.folder.path()) {
        fs::write(folder.join(name), content).unwrap();
    }
    assert!(fs::metadata(folder.join(format!("{FILE_NAME}-wal"))).unwrap().len() > 0);
    assert_eq!(look(&folder).unwrap(), truth);
    // As after a stop.
    bench.ledger = None;
    assert!(!bench.folder.path().join(format!("{FILE_NAME}-wal")).exists());
    assert_eq!(look(bench.folder.path()).unwrap(), truth);
    fs::remove_file(bench.folder.path().join(format!("{FILE_NAME}.mark"))).unwrap();
    assert_eq!(look(bench.folder.path()).unwrap(), truth);
}

#[test]
fn what_cannot_be_read_says_why() {
    let says = |prepare: &dyn Fn(&Path), text: &str| {
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path());
        let before = snapshot(folder.path());
        let error = look(folder.path()).unwrap_err().to_string();
        assert!(error.contains(text), "{text}: {error}");
        assert!(error.contains(FILE_NAME), "{error}");
        // Opening for a repair gives the same error, and changes nothing either.
        if !text.contains("older version") {
            assert_eq!(Database::open_existing(folder.path()).unwrap_err().to_string(), error);
            assert!(snapshot(folder.path()) == before, "{text}");
        }
    };
    let old = |folder: &Path| {
        let from = released(include_str!("../testdata/schema-1.sql"));
        fs::copy(from.path().join(FILE_NAME), folder.join(FILE_NAME)).unwrap();
    };
    says(&|_| {}, "No such file");
    says(&|folder| write(folder, "", ""), "is empty: no usage was counted");
    let mark = format!("{0:>32} {1:020}\n", "0f", 7);
    says(
        &|folder| {
            write(folder, "", "");
            write(folder, ".mark", &format!("{mark}{mark}"));
        },
        "it is empty, but 7 transactions were committed to it",
    );
    says(
        &|folder| write(folder, "", "no database, and longer than a header has to be"),
        "damaged or not a ledger",
    );
    says(&old, "of an older version: the sidecar upgrades it at its next start");
    says(
        &|folder| {
            let connection = Connection::open(folder.join(FILE_NAME)).unwrap();
            connection.execute_batch("CREATE TABLE notes (text TEXT)").unwrap();
        },
        "a database of another program",
    );
    says(
        &|folder| {
            let mut ledger = Ledger::open(folder, settings("pod-1")).unwrap();
            ledger.take(&[event(None, 1, START)], START).unwrap();
            ledger.connection.execute("UPDATE meta SET value = '99' WHERE key = 'min_reader'", []).unwrap();
        },
        "needs tollgate with ledger schema 99",
    );
    for end in ["", "-journal", "-wal", ".mark", ".suspect"] {
        says(
            &|folder| fs::create_dir(folder.join(format!("{FILE_NAME}{end}"))).unwrap(),
            &format!("{FILE_NAME}{end} is a folder"),
        );
        says(
            &|folder| symlink("/nowhere", folder.join(format!("{FILE_NAME}{end}"))).unwrap(),
            &format!("{FILE_NAME}{end} is a symbolic link"),
        );
    }
}

#[test]
fn an_upgrade_that_was_interrupted_is_not_read_by_halves() {
    let folder = released(include_str!("../testdata/schema-1.sql"));
    let mut ledger = Database::connect(&folder.path().join(FILE_NAME), CHECKPOINT_PAGES_MAX).unwrap();
    assert!(ledger.upgrade_step().unwrap());
    drop(ledger);
    assert!(matches!(look(folder.path()), Err(LedgerError::Old(_))));
    let mut ledger = Database::open_existing(folder.path()).unwrap();
    ledger.repair(1, &repair::discard(), START).unwrap();
    drop(ledger);
    assert_eq!(look(folder.path()).unwrap()["requests"].accepted, 3_006_667, "what writes has finished it");
}

#[test]
fn damage_that_a_look_finds_is_told_and_leaves_no_note() {
    let mut bench = Bench::new();
    bench.take(event(None, 7, START), START);
    bench.ledger().connection.execute("UPDATE totals SET accepted = plus(accepted, 1)", []).unwrap();
    bench.ledger = None;
    assert!(matches!(look(bench.folder.path()), Err(LedgerError::Damaged { .. })));
}
