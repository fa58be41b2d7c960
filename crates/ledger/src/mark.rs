//! The mark: how many transactions the ledger has committed, in a small file beside it.
//!
//! SQLite takes a WAL whose end is missing or unreadable for one that was torn before its commit, and an empty file for
//! a new database: what was acknowledged would be lost silently. The mark distinguishes the two. It is written
//! after each commit and never forced to the disk: it may be behind the ledger, after a crash, but never ahead of it. A
//! ledger that is behind its mark is damaged.
//!
//! The file holds the same line twice, ledger and count: a torn or changed mark is ignored and written again.

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rusqlite::Connection;

use super::{LedgerError, classify, files, has_meta, meta, quarantine, set_meta};

/// Twice a line of 32 and 20 characters, a space and an end; whatever is longer is no mark.
const BYTES: u64 = 2 * 54;

#[derive(Debug)]
pub(super) struct Mark(Option<File>);

impl Mark {
    /// Opens the mark and compares; nothing is written.
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

    /// Writes how far the ledger has come. A mark that cannot be written tells less, and endangers nothing.
    pub(super) fn counted(&self, connection: &Connection) {
        let Some(file) = &self.0 else { return };
        let (Ok(Some(id)), Ok(sequence)) = (meta(connection, "ledger_id"), sequence(connection)) else {
            return;
        };
        let line = format!("{id:>32} {sequence:020}\n");
        let _ = file.write_all_at(format!("{line}{line}").as_bytes(), 0);
    }
}

/// Compares, for a look: a mark that is not there, or cannot be read, says nothing.
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

/// One more transaction.
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
