//! Damage on disk: changed bits, truncated and missing files. In each case a start has all acknowledged usage, or
//! reports the damage and keeps the old file.

use std::fs;

use super::*;

/// The ledger's files in a folder, by the suffix after the ledger's name.
type Files = BTreeMap<String, Vec<u8>>;

fn files(folder: &Path) -> Files {
    let read = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        (name.strip_prefix(FILE_NAME).unwrap().to_owned(), fs::read(entry.path()).unwrap())
    };
    fs::read_dir(folder).unwrap().map(read).collect()
}

fn restore(files: &Files) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (end, bytes) in files {
        fs::write(folder.path().join(format!("{FILE_NAME}{end}")), bytes).unwrap();
    }
    folder
}

/// A ledger with rows in every table, as after a kill: its WAL is not checkpointed.
fn killed() -> (Files, BTreeMap<String, Totals>) {
    let mut bench = Bench::new();
    for index in 0..40_u32 {
        bench.take(event(Some(&format!("first-{index}")), 3, START), START);
    }
    let now = START.plus(HOUR + SETTLE);
    bench.ledger().seal_closed(now).unwrap();
    let id = bench.ledger().unsent(1).unwrap()[0].id;
    bench.ledger().attempt(&[id], None, now).unwrap();
    bench.ledger().answered(id, &Answered::Accepted(None), now).unwrap();
    bench.ledger().connection.pragma_update(None, "wal_checkpoint", "FULL").unwrap();
    for index in 0..20_u32 {
        bench.take(event(Some(&format!("second-{index}")), 5, now), now);
    }
    let totals = bench.ledger().totals().unwrap();
    (files(bench.folder.path()), totals)
}

/// Checks that a damaged folder still yields all usage (returns `false`), or that the damaged file is reported and
/// renamed (returns `true`).
fn is_told(damaged: &Files, truth: &BTreeMap<String, Totals>, what: &str) -> bool {
    let folder = restore(damaged);
    let mut seen = None;
    // Damage that a start sees is set aside at once, damage that is seen later by the next start.
    for _ in 0..2 {
        let opened = Ledger::open(folder.path(), settings("pod-1"));
        let mut ledger = match opened {
            Ok(ledger) => ledger,
            Err(error) => panic!("{what}: the start ends with {error}"),
        };
        let used = ledger
            .take(&[event(Some("first-1"), 3, START)], START.plus(HOUR + SETTLE))
            .and_then(|_| ledger.seal_closed(START.plus(3 * HOUR)))
            .and_then(|_| ledger.check());
        if let Err(error) = used {
            assert!(error.to_string().contains(FILE_NAME), "{what}: {error}");
            continue;
        }
        seen = Some(ledger.totals().unwrap());
        break;
    }
    let seen = seen.unwrap_or_else(|| panic!("{what}: not even a new ledger can be used"));
    let left = files(folder.path());
    let kept: Vec<_> = left.keys().filter(|end| end.starts_with(".damaged-")).collect();
    if kept.is_empty() {
        let accepted =
            |totals: &BTreeMap<String, Totals>| totals.get("requests").map(|totals| totals.accepted);
        assert_eq!(accepted(&seen), accepted(truth), "{what}: usage is missing, and nothing says so");
        assert!(seen.values().all(|totals| totals.balances()), "{what}: {seen:?}");
        return false;
    }
    true
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_bit_that_changes_anywhere_is_told_or_harmless(at in any::<prop::sample::Index>(), bit in 0..8_u8, wal: bool) {
        let (mut files, truth) = KILLED.clone();
        let end = if wal { "-wal" } else { "" };
        let bytes = files.get_mut(end).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        is_told(&files, &truth, &format!("bit {bit} of byte {at} of {end:?}"));
    }

    #[test]
    fn an_end_that_is_missing_is_told_or_was_not_in_use(at in any::<prop::sample::Index>(), wal: bool) {
        let (mut files, truth) = KILLED.clone();
        let end = if wal { "-wal" } else { "" };
        let bytes = files.get_mut(end).unwrap();
        let length = at.index(bytes.len());
        bytes.truncate(length);
        is_told(&files, &truth, &format!("{end:?} of {length} bytes"));
    }

    #[test]
    fn a_stretch_of_garbage_is_told_or_harmless(at in any::<prop::sample::Index>(), garbage in prop::collection::vec(any::<u8>(), 1..600), wal: bool) {
        let (mut files, truth) = KILLED.clone();
        let end = if wal { "-wal" } else { "" };
        let bytes = files.get_mut(end).unwrap();
        let at = at.index(bytes.len());
        for (byte, new) in bytes[at..].iter_mut().zip(&garbage) {
            *byte = *new;
        }
        is_told(&files, &truth, &format!("{} bytes of garbage at {at} of {end:?}", garbage.len()));
    }
}

static KILLED: std::sync::LazyLock<(Files, BTreeMap<String, Totals>)> = std::sync::LazyLock::new(killed);

#[test]
fn a_file_that_is_gone_is_told() {
    let (whole, truth) = KILLED.clone();
    for end in ["", "-wal"] {
        let mut files = whole.clone();
        files.remove(end);
        assert!(is_told(&files, &truth, end), "{end:?}");
    }
    let mut empty = whole;
    empty.insert(String::new(), Vec::new());
    empty.remove("-wal");
    assert!(is_told(&empty, &truth, "an empty file"));
}

#[test]
fn a_mark_that_is_torn_or_gone_harms_nothing() {
    let (whole, truth) = KILLED.clone();
    for mark in
        [None, Some(""), Some("garbage\ngarbage\n"), Some("a 7\nb 7\n"), Some("other 99999\nother 99999\n")]
    {
        let mut files = whole.clone();
        files.remove(".mark");
        files.extend(mark.map(|text| (".mark".to_owned(), text.as_bytes().to_vec())));
        assert!(!is_told(&files, &truth, &format!("{mark:?}")), "{mark:?}");
    }
}

#[test]
fn a_letter_of_the_schema_that_changed_is_told() {
    let (mut files, truth) = KILLED.clone();
    let bytes = files.get_mut("").unwrap();
    let column = b"last_at INTEGER";
    // The text is there twice if a page was split; only one copy is read.
    let found: Vec<usize> =
        (0..bytes.len() - column.len()).filter(|at| bytes[*at..].starts_with(column)).collect();
    assert!(!found.is_empty());
    for at in found {
        bytes[at] = b'x';
    }
    assert!(is_told(&files, &truth, "a column of another name"));
}

/// One changed bit in a row's header makes a number a text: the first statement that writes the row is refused.
#[test]
fn a_value_of_another_kind_is_told() {
    let mut bench = Bench::new();
    bench.take(event(None, 7, START), START);
    let now = START.plus(HOUR + SETTLE);
    bench.ledger().seal_closed(now).unwrap();
    let truth = bench.ledger().totals().unwrap();
    let id = bench.ledger().unsent(1).unwrap()[0].id;
    bench.ledger().attempt(&[id], None, now).unwrap();
    let folder = restore(&files(bench.folder.path()));
    // Without STRICT the schema accepts the value.
    let open = || Connection::open(folder.path().join(FILE_NAME)).unwrap();
    let schema = "SELECT sql FROM sqlite_master WHERE name = 'records'";
    let strict: String = open().query_row(schema, [], |row| row.get(0)).unwrap();
    let set_schema = |sql: &str| {
        let connection = open();
        connection.pragma_update(None, "writable_schema", true).unwrap();
        connection.execute("UPDATE sqlite_master SET sql = ?1 WHERE name = 'records'", [sql]).unwrap();
    };
    set_schema(&strict.replace("STRICT", ""));
    open().execute("UPDATE records SET attempts = 'x'", []).unwrap();
    set_schema(&strict);
    let damaged = files(folder.path());
    assert!(is_told(&damaged, &truth, "a text for a number"));
}

/// Garbage in a row's header can be a length of gigabytes.
#[test]
fn what_only_damage_makes_sqlite_say_is_damage() {
    use rusqlite::ffi;
    for (code, damage) in [
        (ffi::SQLITE_CORRUPT, true),
        (ffi::SQLITE_NOTADB, true),
        (ffi::SQLITE_TOOBIG, true),
        (ffi::SQLITE_MISMATCH, true),
        (ffi::SQLITE_FULL, false),
        (ffi::SQLITE_IOERR_FSYNC, false),
        (ffi::SQLITE_NOMEM, false),
    ] {
        let error = rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
        let error = classify(Path::new(FILE_NAME), &error);
        assert_eq!(matches!(error, LedgerError::Damaged { .. }), damage, "{code}: {error}");
    }
}

#[test]
fn text_that_is_none_any_more_is_told() {
    let mut bench = Bench::new();
    bench.take(event(None, 7, START), START);
    let truth = bench.ledger().totals().unwrap();
    let sql = "UPDATE meta SET value = CAST(x'ff41' AS TEXT) WHERE key = 'ledger_id'";
    assert_eq!(bench.ledger().connection.execute(sql, []).unwrap(), 1);
    assert!(is_told(&files(bench.folder.path()), &truth, "invalid UTF-8"));
}

#[test]
fn what_is_set_aside_is_kept_whole_and_never_replaced() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..3 {
        fs::write(folder.path().join(FILE_NAME), format!("no database, {round}, and longer than a header"))
            .unwrap();
        let _ = fs::remove_file(folder.path().join(format!("{FILE_NAME}.mark")));
        drop(Ledger::open(folder.path(), settings("pod-1")).unwrap());
    }
    let left = files(folder.path());
    let kept: Vec<_> = left
        .iter()
        .filter(|(end, _)| end.starts_with(".damaged-") && !end.ends_with(".mark"))
        .map(|(_, bytes)| String::from_utf8_lossy(bytes).into_owned())
        .collect();
    assert_eq!(kept.len(), 3, "{left:?}");
    assert!((0..3).all(|round| kept.iter().any(|text| text.contains(&format!(", {round},")))), "{kept:?}");
}

#[test]
fn a_newer_ledger_with_a_wal_is_left_untouched_byte_for_byte() {
    let mut bench = Bench::new();
    bench.take(event(None, 7, START), START);
    bench.ledger().connection.execute("UPDATE meta SET value = '99' WHERE key = 'min_reader'", []).unwrap();
    let before = files(bench.folder.path());
    assert!(before["-wal"].len() > 4096, "it has something in its WAL");
    let folder = restore(&before);
    for _ in 0..2 {
        let error = Ledger::open(folder.path(), settings("pod-1")).unwrap_err();
        assert!(matches!(error, LedgerError::TooNew { min_reader: 99, .. }), "{error:?}");
        let error = Database::open_existing(folder.path()).unwrap_err();
        assert!(matches!(error, LedgerError::TooNew { .. }), "{error:?}");
    }
    assert!(files(folder.path()) == before);
}
