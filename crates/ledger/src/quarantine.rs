//! Files that are damaged: found, set aside, named. Nothing is deleted.
//!
//! Reading a whole ledger at every start would make a start as slow as the ledger is large. So the file is read whole
//! only after SQLite has stumbled over it: then a note is left beside it, which the next start obeys.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::{LedgerError, files};
use tollgate_time::Timestamp;

/// Ends of the names of the files beside a database: SQLite's own, the file itself, and the mark. In this order each
/// crash in between leaves a file that is behind its mark, which the next start sets aside too.
const FILES: [&str; 5] = ["-journal", "-wal", "-shm", "", MARK];

const MARK: &str = ".mark";

const SUSPECT: &str = ".suspect";

/// Behind the name of a file that was set aside; then come the seconds of its time.
const DAMAGED: &str = ".damaged-";

/// Most files that are set aside under one second; a disk that damages more has to be replaced.
const NAMES_MAX: u32 = 1000;

pub(super) fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    PathBuf::from(name)
}

/// Where the ledger's mark is.
pub(super) fn mark_path(path: &Path) -> PathBuf {
    with_end(path, MARK)
}

fn suspicion(path: &Path) -> PathBuf {
    with_end(path, SUSPECT)
}

/// Every file of a ledger.
pub(super) fn all_paths(path: &Path) -> Vec<PathBuf> {
    FILES.iter().chain([&SUSPECT]).map(|end| with_end(path, end)).collect()
}

/// Makes names in the folder of a file durable.
pub(super) fn sync_folder(path: &Path) -> std::io::Result<()> {
    path.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
}

/// Whether an earlier process stumbled over this file.
pub(super) fn is_suspect(path: &Path) -> bool {
    suspicion(path).exists()
}

/// Leaves the note for the next start. A disk that does not even take this will be noticed otherwise.
pub(super) fn suspect(path: &Path) {
    let note = files::open(&suspicion(path), fs::OpenOptions::new().write(true).create(true));
    let _ =
        note.and_then(|mut note| note.write_all(b"damage was seen; the next start reads the whole ledger\n"));
}

/// Removes the note.
pub(super) fn clear(path: &Path) {
    let _ = fs::remove_file(suspicion(path));
}

/// Renames the damaged file and its companions, and says so.
pub(super) fn set_aside(path: &Path, now: Timestamp, detail: &str) -> Result<(), LedgerError> {
    let failed =
        |error: std::io::Error| LedgerError::Io(format!("{} cannot be set aside: {error}", path.display()));
    let kept = free_name(path, now);
    for end in FILES {
        let from = with_end(path, end);
        if from.exists() {
            fs::rename(&from, with_end(&kept, end)).map_err(failed)?;
        }
    }
    sync_folder(path).map_err(failed)?;
    clear(path);
    tracing::error!(
        event = "ledger_damaged",
        kept = %kept.display(), detail,
        "the usage ledger is damaged: it was renamed to this, and a new one was started. Usage in it that was not \
         billed yet is not counted until the file is recovered: keep it, and see the runbook, LedgerDamaged"
    );
    Ok(())
}

/// When the latest of the files beside this one was set aside.
pub(super) fn latest(path: &Path) -> Result<Option<Timestamp>, LedgerError> {
    let Some((folder, name)) = path.parent().zip(path.file_name()) else { return Ok(None) };
    let start = format!("{}{DAMAGED}", name.to_string_lossy());
    let seconds = |name: &str| -> Option<i64> {
        let rest = name.strip_prefix(&start)?;
        rest.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
    };
    let mut latest = None;
    let failed = |error: std::io::Error| LedgerError::Io(format!("{}: {error}", folder.display()));
    for entry in fs::read_dir(folder).map_err(failed)? {
        latest = latest.max(entry.map_err(failed)?.file_name().to_str().and_then(seconds));
    }
    Ok(latest.map(Timestamp::from_unix_seconds))
}

/// A name that no earlier damage has taken.
fn free_name(path: &Path, now: Timestamp) -> PathBuf {
    let end = format!("{DAMAGED}{}", now.unix_seconds());
    let names = (1..NAMES_MAX).map(|number| match number {
        1 => with_end(path, &end),
        number => with_end(path, &format!("{end}-{number}")),
    });
    names.into_iter().find(|name| !name.exists()).unwrap_or_else(|| with_end(path, &end))
}
