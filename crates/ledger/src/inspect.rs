//! Inspection of the ledger of a sidecar that does not run. It makes and changes nothing in the folder, which may be on
//! a read-only volume.
//!
//! SQLite locks a file only to write, so this program takes the lock itself: during an inspection no sidecar can open
//! the file, and while a sidecar has it open there is no inspection. Without a log the file is complete; SQLite is told
//! that nothing changes it, because otherwise it would make an empty log. If there is a log, it is read but not
//! checkpointed.

use std::fs::{File, OpenOptions};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rustix::fs::{FlockOperation, fcntl_lock};

use super::{
    Database, FILE_NAME, LedgerError, amount, classify, database, files, has_meta, mark, quarantine,
    schema_number, totals,
};

/// The oldest schema that is read without an upgrade: later ones only added what an inspection does not read.
const READABLE: usize = 2;

impl Database {
    /// Opens the ledger in `folder` to read it, and changes nothing. A ledger of an older version is refused.
    pub fn inspect(folder: &Path) -> Result<Self, LedgerError> {
        let path = files::existing(&folder.join(FILE_NAME))?;
        let lock = lock(&path)?;
        let failed = |error: rusqlite::Error| classify(&path, &error);
        let mut connection = connect(&path).map_err(failed)?;
        database::check_version(&mut connection, &path)?;
        mark::compare(&connection, &path)?;
        if !has_meta(&connection).map_err(failed)? {
            return Err(LedgerError::Empty(path));
        }
        let stored = schema_number(&connection).map_err(failed)?;
        // The last step of an upgrade removes the tables that it leaves behind.
        let upgrading = totals::exists(&connection, "sums").map_err(failed)?;
        if upgrading || stored < READABLE {
            return Err(LedgerError::Old(path));
        }
        Ok(Self::looking(connection, path, lock))
    }
}

/// Keeps a sidecar from opening the file; several inspections may run at once.
fn lock(path: &Path) -> Result<File, LedgerError> {
    let failed = |error: std::io::Error| LedgerError::Io(format!("{}: {error}", path.display()));
    let file = files::open(path, OpenOptions::new().read(true)).map_err(failed)?;
    match fcntl_lock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => Err(LedgerError::InUse(path.to_owned())),
        Err(error) => Err(failed(error.into())),
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let log = quarantine::with_end(path, "-wal");
    let has_log = std::fs::metadata(log).is_ok_and(|log| log.len() > 0);
    let connection = if has_log {
        Connection::open_with_flags_and_vfs(path, files::reading(), c"unix-none")?
    } else {
        Connection::open_with_flags(unchanging(path), files::reading())?
    };
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // So the log's index is kept in memory.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update(None, "trusted_schema", "OFF")?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    amount::register(&connection)?;
    Ok(connection)
}

/// The path as a URI with `immutable=1`.
fn unchanging(path: &Path) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte);
    let part = |byte: &u8| if plain(*byte) { char::from(*byte).to_string() } else { format!("%{byte:02X}") };
    let path: String = path.as_os_str().as_bytes().iter().map(part).collect();
    format!("file:{path}?immutable=1")
}
