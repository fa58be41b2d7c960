//! The ledger's files: regular files only, never opened through a link, and readable only by this user if made here.
//! Otherwise a user who can write to the folder could redirect our writes, or make us wait for ever at a pipe.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rusqlite::OpenFlags;
use rustix::fs::OFlags;

use super::{LedgerError, quarantine};

/// For this user only: other users must not read usage.
const MODE: u32 = 0o600;

/// How SQLite opens the file.
pub(super) fn flags() -> OpenFlags {
    OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW
}

/// How SQLite opens the file for an inspection.
pub(super) fn reading() -> OpenFlags {
    OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW
}

/// Refuses anything but a regular file under the ledger's names, and makes the ledger's file if there is none. Returns
/// the path with the links of its folder resolved: the folder may be behind a link, the file itself may not.
pub(super) fn prepare(path: &Path) -> Result<PathBuf, LedgerError> {
    let real = existing(path)?;
    let failed = |error: std::io::Error| LedgerError::Io(format!("{}: {error}", path.display()));
    open(&real, OpenOptions::new().write(true).create(true)).map_err(failed)?;
    Ok(real)
}

/// The same, but makes no file.
pub(super) fn existing(path: &Path) -> Result<PathBuf, LedgerError> {
    for path in quarantine::all_paths(path) {
        refuse_odd(&path)?;
    }
    let failed = |error: std::io::Error| LedgerError::Io(format!("{}: {error}", path.display()));
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    Ok(fs::canonicalize(folder).map_err(failed)?.join(path.file_name().unwrap_or_default()))
}

/// Opens a regular file without following a link; never blocks.
pub(super) fn open(path: &Path, options: &mut OpenOptions) -> std::io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let file = options
        .mode(MODE)
        .truncate(false)
        .custom_flags(i32::try_from(flags).unwrap_or_default())
        .open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(std::io::Error::other("it is no regular file")) }
}

fn refuse_odd(path: &Path) -> Result<(), LedgerError> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_file() => Ok(()),
        Ok(found) => {
            let what = match found.file_type() {
                kind if kind.is_symlink() => "a symbolic link",
                kind if kind.is_dir() => "a folder",
                _ => "no regular file",
            };
            Err(LedgerError::OddFile { path: path.to_owned(), what })
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(LedgerError::Io(format!("{}: {error}", path.display()))),
    }
}
