//! The mark: a small file beside the ledger with the number of transactions that the ledger has committed.
//!
//! SQLite cannot tell a WAL whose end was lost from one whose last commit was never finished, nor an emptied file from
//! a new database: acknowledged usage would be lost silently. The mark shows the difference. It is written after each
//! commit, without an fsync: after a crash it may be behind the ledger, but never ahead of it. A ledger that is behind
//! its mark is damaged.
//!
//! The file holds the same line twice, with the ledger's id and the count. A mark whose lines differ is ignored and
//! written again.

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rusqlite::Connection;

use super::{LedgerError, classify, files, has_meta, meta, quarantine, set_meta};

/// Two lines, each of 32 characters, a space, 20 digits and a line end. A longer file is not a mark.
const BYTES: u64 = 2 * 54;

#[derive(Debug)]
pub(super) struct Mark(Option<File>);

impl Mark {
    /// Opens the mark and compares it with the ledger; writes nothing.
    pub(super) fn open(connection: &Connection, path: &Path) -> Result<Self, LedgerError> {
        let opened =
            files::open(&quarantine::mark_path(path), OpenOptions::new().read(true).write(true).create(true));
        let file = match opened {
            Ok(file) => file,
            Err(error) => {
                tracing::warn!(event = "ledger_mark_unopened", %error, "the ledger's mark file cannot be opened: a truncated ledger would not be noticed");
                return Ok(Self(None));
            }
        };
        check(connection, path, &file)?;
        Ok(Self(Some(file)))
    }

    /// Writes the number of committed transactions. Best effort: a failure only disables the detection of lost
    /// transactions.
    pub(super) fn counted(&self, connection: &Connection) {
        let Some(file) = &self.0 else { return };
        let (Ok(Some(id)), Ok(sequence)) = (meta(connection, "ledger_id"), sequence(connection)) else {
            return;
        };
        let line = format!("{id:>32} {sequence:020}\n");
        let _ = file.write_all_at(format!("{line}{line}").as_bytes(), 0);
    }
}

/// Compares for `Database::inspect`, which makes no mark: one that is missing or unreadable is ignored.
pub(super) fn compare(connection: &Connection, path: &Path) -> Result<(), LedgerError> {
    match files::open(&quarantine::mark_path(path), OpenOptions::new().read(true)) {
        Ok(file) => check(connection, path, &file),
        Err(_) => Ok(()),
    }
}

fn check(connection: &Connection, path: &Path, file: &File) -> Result<(), LedgerError> {
    let failed = |error: rusqlite::Error| classify(path, &error);
    let held = if has_meta(connection).map_err(failed)? {
        let id = meta(connection, "ledger_id").map_err(failed)?.unwrap_or_default();
        Some((id, sequence(connection).map_err(failed)?))
    } else {
        None
    };
    let damaged = |detail: String| LedgerError::Damaged { path: path.to_owned(), detail };
    match (read(file), held) {
        (Some((_, marked)), None) => {
            return Err(damaged(format!("it is empty, but {marked} transactions were committed to it")));
        }
        (Some((marked_id, _)), Some((id, _))) if marked_id != id => {
            tracing::warn!(
                event = "ledger_mark_replaced",
                "the ledger's mark file belongs to another ledger and is written again"
            );
        }
        (Some((_, marked)), Some((_, held))) if marked > held => {
            return Err(damaged(format!("{marked} transactions were committed to it, and it holds {held}")));
        }
        _ => {}
    }
    Ok(())
}

/// Counts one more transaction.
pub(super) fn count(connection: &Connection) -> rusqlite::Result<()> {
    set_meta(connection, "sequence", &(sequence(connection)? + 1).to_string())
}

fn sequence(connection: &Connection) -> rusqlite::Result<u64> {
    Ok(meta(connection, "sequence")?.and_then(|text| text.parse().ok()).unwrap_or_default())
}

fn read(file: &File) -> Option<(String, u64)> {
    let mut text = String::new();
    file.take(BYTES + 1).read_to_string(&mut text).ok()?;
    let (first, second) = text.split_once('\n')?;
    if Some(first) != second.strip_suffix('\n') {
        return None;
    }
    let (id, sequence) = first.trim_start().split_once(' ')?;
    Some((id.to_owned(), sequence.parse().ok()?))
}
