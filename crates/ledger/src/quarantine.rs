//! Damaged files: found and renamed, with a log line. Nothing is deleted.
//!
//! A check of the whole ledger at every start would make the start as slow as the ledger is large. So the whole file is
//! read only after SQLite has seen damage: a note beside the file then tells the next start to do so.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::{LedgerError, files};
use tollgate_time::Timestamp;

/// Suffixes of the database's files: SQLite's own, the file itself, and the mark. They are renamed in this order: after
/// a crash in between, the next start finds a file that is behind its mark, and renames it too.
const FILES: [&str; 5] = ["-journal", "-wal", "-shm", "", MARK];

const MARK: &str = ".mark";

const SUSPECT: &str = ".suspect";

/// Suffix of a renamed file; the seconds of the time follow.
const DAMAGED: &str = ".damaged-";

/// Most files that are renamed within one second; a disk that damages more has to be replaced.
const NAMES_MAX: u32 = 1000;

pub(super) fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    PathBuf::from(name)
}

/// The path of the ledger's mark.
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

/// Syncs the folder of a file, so that names in it are durable.
pub(super) fn sync_folder(path: &Path) -> std::io::Result<()> {
    path.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
}

/// Whether an earlier process saw damage in this file.
pub(super) fn is_suspect(path: &Path) -> bool {
    suspicion(path).exists()
}

/// Leaves the note for the next start. Best effort: a disk that cannot store it also fails other writes.
pub(super) fn suspect(path: &Path) {
    let note = files::open(&suspicion(path), fs::OpenOptions::new().write(true).create(true));
    let _ =
        note.and_then(|mut note| note.write_all(b"damage was seen; the next start reads the whole ledger\n"));
}

/// Removes the note.
pub(super) fn clear(path: &Path) {
    let _ = fs::remove_file(suspicion(path));
}

/// Renames the damaged file and the files that belong to it, and logs it.
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

/// When the latest of the files beside this one was renamed.
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

/// A name that no earlier damaged file has.
fn free_name(path: &Path, now: Timestamp) -> PathBuf {
    let end = format!("{DAMAGED}{}", now.unix_seconds());
    let names = (1..NAMES_MAX).map(|number| match number {
        1 => with_end(path, &end),
        number => with_end(path, &format!("{end}-{number}")),
    });
    names.into_iter().find(|name| !name.exists()).unwrap_or_else(|| with_end(path, &end))
}
