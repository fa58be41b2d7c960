//! Files that are damaged: found, set aside, named. Nothing is deleted.
//!
//! Reading a whole ledger at every start would make a start as slow as the ledger is large. So the file is read whole
//! only after SQLite has stumbled over it: then a mark is left beside it, which the next start obeys.

use std::fs;
use std::path::{Path, PathBuf};

use super::LedgerError;
use crate::clock::Timestamp;

/// Ends of the names of SQLite's own files beside a database.
const COMPANIONS: [&str; 2] = ["-wal", "-shm"];

fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    PathBuf::from(name)
}

fn mark(path: &Path) -> PathBuf {
    with_end(path, ".suspect")
}

/// Whether an earlier process stumbled over this file.
pub(super) fn is_suspect(path: &Path) -> bool {
    mark(path).exists()
}

/// Leaves the mark for the next start. A disk that does not even take this will be noticed otherwise.
pub(super) fn suspect(path: &Path) {
    let _ = fs::write(mark(path), "damage was seen; the next start reads the whole ledger\n");
}

/// Removes the mark.
pub(super) fn clear(path: &Path) {
    let _ = fs::remove_file(mark(path));
}

/// Renames the damaged file and its companions, and says so.
pub(super) fn set_aside(path: &Path, now: Timestamp, detail: &str) -> Result<(), LedgerError> {
    let end = format!(".damaged-{}", now.unix_seconds());
    let kept = with_end(path, &end);
    let failed =
        |error: std::io::Error| LedgerError::Io(format!("{} cannot be set aside: {error}", path.display()));
    fs::rename(path, &kept).map_err(failed)?;
    for companion in COMPANIONS {
        let from = with_end(path, companion);
        if from.exists() {
            fs::rename(&from, with_end(&kept, companion)).map_err(failed)?;
        }
    }
    clear(path);
    tracing::error!(
        kept = %kept.display(), detail,
        "the usage ledger is damaged: it is kept under this name, and a new one begins; usage in it that was not \
         billed \
         yet is not counted until its file is recovered: keep it and see the runbook, LedgerDamaged"
    );
    Ok(())
}
