//! The ledger's file: opened by its sidecar, or while none runs to inspect it or to repair records. Nothing here needs
//! settings.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior};

use super::mark::{self, Mark};
use super::schema::{LEFT_BEHIND, MIGRATIONS, SCHEMA};
use super::totals::{self, Contents, Totals};
use super::{
    CHECKPOINT_PAGES_MAX, FILE_NAME, LedgerError, PAGE_BYTES, amount, files, moving, quarantine, rows,
};

/// Memory for SQLite's pages, in KiB: an hour's working set is small.
const CACHE_KIB: i64 = 512;

/// Prepared statements that are kept: more than this crate has, so that sealing does not displace those of the intake.
const STATEMENTS_MAX: usize = 128;

/// An open ledger file.
#[derive(Debug)]
pub struct Database {
    pub(super) connection: Connection,
    pub(super) path: PathBuf,
    /// Transactions that this process committed.
    pub(super) written: u64,
    access: Access,
}

/// Why the file is open.
#[derive(Debug)]
enum Access {
    /// To write; SQLite holds the locks.
    Write(Mark),
    /// To read only; this program holds the lock.
    Look { _lock: std::fs::File },
}

impl Database {
    /// Opens the ledger of a sidecar that does not run, to repair records.
    pub fn open_existing(folder: &Path) -> Result<Self, LedgerError> {
        match Self::inspect(folder) {
            Ok(_) | Err(LedgerError::Old(_)) => {}
            Err(error) => return Err(error),
        }
        let mut database = Self::connect(&folder.join(FILE_NAME), CHECKPOINT_PAGES_MAX)?;
        database.upgrade()?;
        database.keep_tidy()?;
        Ok(database)
    }

    /// Connects and checks that no committed transaction is missing. Until the checks are done nothing is written, not
    /// even by SQLite's checkpoint when it closes the file.
    pub(super) fn connect(path: &Path, log_pages: u64) -> Result<Self, LedgerError> {
        Self::connect_if(path, log_pages, check_version)
    }

    /// The same with another check of whether this program may use the file.
    pub(super) fn connect_if(
        path: &Path,
        log_pages: u64,
        check: impl FnOnce(&mut Connection, &Path) -> Result<(), LedgerError>,
    ) -> Result<Self, LedgerError> {
        let path = &files::prepare(path)?;
        let damaged = |error: rusqlite::Error| classify(path, &error);
        let mut connection = Connection::open_with_flags(path, files::flags()).map_err(damaged)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(damaged)?;
        connection.busy_timeout(Duration::ZERO).map_err(damaged)?;
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE").map_err(damaged)?;
        check(&mut connection, path)?;
        let mark = Mark::open(&connection, path)?;
        // A container may have no folder for temporary files; no query sorts more than the unsent records.
        let pragmas = [
            ("journal_mode", "WAL"),
            ("synchronous", "FULL"),
            ("trusted_schema", "OFF"),
            ("temp_store", "MEMORY"),
        ];
        for (name, value) in pragmas {
            connection.pragma_update(None, name, value).map_err(damaged)?;
        }
        connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        connection.pragma_update(None, "cache_size", -CACHE_KIB).map_err(damaged)?;
        let limit = rows::signed(log_pages * PAGE_BYTES);
        connection.pragma_update(None, "wal_autocheckpoint", rows::signed(log_pages)).map_err(damaged)?;
        connection.pragma_update(None, "journal_size_limit", limit).map_err(damaged)?;
        amount::register(&connection).map_err(damaged)?;
        Ok(Self { connection, path: path.to_owned(), written: 0, access: Access::Write(mark) })
    }

    /// A connection that only reads; the lock keeps a sidecar from opening the file.
    pub(super) const fn looking(connection: Connection, path: PathBuf, lock: std::fs::File) -> Self {
        Self { connection, path, written: 0, access: Access::Look { _lock: lock } }
    }

    /// From now on SQLite checkpoints its WAL when it closes the file.
    pub(super) fn keep_tidy(&self) -> Result<(), LedgerError> {
        self.reading(|connection| {
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).map(|_| ())
        })
    }

    /// Does `work` in one transaction. On return the transaction is on disk and counted in the mark.
    pub(super) fn write<T>(
        &mut self,
        name: &str,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, LedgerError> {
        let done = self.transact(name, work);
        done.map_err(|error| self.seen(error))
    }

    fn transact<T>(
        &mut self,
        name: &str,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, LedgerError> {
        let failed = |error: rusqlite::Error| classify(&self.path, &error);
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        let changes = |transaction: &Transaction<'_>| -> rusqlite::Result<i64> {
            transaction.prepare_cached("SELECT total_changes()")?.query_row([], |row| row.get(0))
        };
        let before = changes(&transaction).map_err(failed)?;
        let done = work(&transaction).map_err(|error| {
            // No statement of this crate breaks a constraint: a row changed on the disk, or a statement is wrong.
            if error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation) {
                quarantine::suspect(&self.path);
            }
            failed(error)
        })?;
        // Sealing runs every second: a transaction that changes nothing must not cost a write.
        let changed = changes(&transaction).map_err(failed)? != before;
        if changed {
            mark::count(&transaction).map_err(failed)?;
            step(name, "before");
        }
        transaction.commit().map_err(failed)?;
        if changed {
            step(name, "after");
            self.written += 1;
            if let Access::Write(mark) = &self.access {
                mark.counted(&self.connection);
            }
        }
        Ok(done)
    }

    pub(super) fn reading<T>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, LedgerError> {
        read(&self.connection).map_err(|error| self.seen(classify(&self.path, &error)))
    }

    /// If damage is seen while the ledger is used, the next start checks the whole file. An inspection writes nothing.
    fn seen(&self, error: LedgerError) -> LedgerError {
        if matches!(error, LedgerError::Damaged { .. }) && matches!(self.access, Access::Write(_)) {
            quarantine::suspect(&self.path);
        }
        error
    }

    /// How many rows of each kind there are.
    pub fn contents(&self) -> Result<Contents, LedgerError> {
        self.reading(totals::contents)
    }

    /// The size of the data and the WAL, without the pages that SQLite keeps free for reuse. A commit may add to it:
    /// the files may exceed the limit by what one group of events writes.
    pub fn bytes(&self) -> Result<u64, LedgerError> {
        // Called before each commit, so the statements are cached.
        let number = |connection: &Connection, sql: &str| -> rusqlite::Result<i64> {
            connection.prepare_cached(sql)?.query_row([], |row| row.get(0))
        };
        let pages = self.reading(|connection| {
            let free = number(connection, "PRAGMA freelist_count")?;
            Ok(number(connection, "PRAGMA page_count")?.saturating_sub(free))
        })?;
        Ok(u64::try_from(pages).unwrap_or_default().saturating_mul(PAGE_BYTES) + self.wal_bytes())
    }

    pub(super) fn wal_bytes(&self) -> u64 {
        std::fs::metadata(quarantine::with_end(&self.path, "-wal")).map_or(0, |file| file.len())
    }

    /// For each dimension: the amount that was acknowledged, and where it is now.
    pub fn totals(&self) -> Result<BTreeMap<String, Totals>, LedgerError> {
        self.reading(totals::read)
    }

    /// Reads the whole file and checks its structure, its rows and its balance. Slow: for `doctor`, and after damage.
    pub fn check(&self) -> Result<(), LedgerError> {
        self.check_structure()?;
        self.check_schema()?;
        self.check_balance()?;
        self.reading(rows::read_all)
    }

    pub(super) fn check_structure(&self) -> Result<(), LedgerError> {
        let verdict: String = self
            .reading(|connection| connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)))?;
        if verdict == "ok" { Ok(()) } else { Err(self.damaged(verdict)) }
    }

    /// SQLite accepts any schema: a letter that changed on the disk makes another column's name, and every start would
    /// fail with the same error.
    pub(super) fn check_schema(&self) -> Result<(), LedgerError> {
        if !self.reading(has_meta)? {
            return Ok(());
        }
        let stored = self.reading(schema_number)?;
        if stored == 0 {
            return Err(self.damaged("its schema has no number".to_owned()));
        }
        // A newer program's additions are not checked.
        if stored > MIGRATIONS.len() {
            return Ok(());
        }
        let expected = self.reading(|_| {
            let reference = Connection::open_in_memory()?;
            MIGRATIONS
                .iter()
                .take(stored)
                .try_for_each(|migration| reference.execute_batch(migration.sql))?;
            schema_of(&reference)
        })?;
        let found = self.reading(schema_of)?;
        // Tables that an upgrade leaves behind are dropped when they are empty.
        let may_be_gone = |name: &str| {
            stored > 1 && LEFT_BEHIND.iter().any(|table| name.ends_with(&format!(" of {table}")))
        };
        let odd: Vec<_> = found
            .symmetric_difference(&expected)
            .filter(|object| found.contains(object) || !may_be_gone(&object.0))
            .map(|(name, _)| name.as_str())
            .collect();
        if odd.is_empty() {
            return Ok(());
        }
        Err(self.damaged(format!("its schema {stored} was changed: {}", odd.join(", "))))
    }

    /// Finds what SQLite cannot: a number that changed on the disk. Counts all rows.
    pub(super) fn check_balance(&self) -> Result<(), LedgerError> {
        let (kept, counted) = (self.totals()?, self.reading(totals::recount)?);
        if kept != counted {
            return Err(self.damaged(format!("its totals are {kept:?}, and its rows are {counted:?}")));
        }
        self.check_totals()
    }

    /// Checks that the totals balance, without counting rows.
    pub(super) fn check_totals(&self) -> Result<(), LedgerError> {
        match self.totals()?.iter().find(|(_, totals)| !totals.balances()) {
            None => Ok(()),
            Some((dimension, totals)) => {
                Err(self.damaged(format!("{dimension} is out of balance: {totals:?}")))
            }
        }
    }

    fn damaged(&self, detail: String) -> LedgerError {
        self.seen(LedgerError::Damaged { path: self.path.clone(), detail })
    }
}

pub(super) fn has_meta(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("SELECT count(*) FROM sqlite_master WHERE name = 'meta'", [], |row| {
        row.get::<_, i64>(0).map(|tables| tables > 0)
    })
}

/// Key of `meta`: the oldest schema whose programs may use the file.
pub(super) const MIN_READER: &str = "min_reader";

/// The oldest schema whose programs may use the file, if it can be read.
pub(super) fn min_reader(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    Ok(meta(connection, MIN_READER)?.and_then(|text| text.parse().ok()))
}

/// The stored number of the schema; 0 if none can be read.
pub(super) fn schema_number(connection: &Connection) -> rusqlite::Result<usize> {
    Ok(meta(connection, "schema")?.and_then(|text| text.parse().ok()).unwrap_or_default())
}

/// Tables and indexes, with their SQL.
fn schema_of(connection: &Connection) -> rusqlite::Result<BTreeSet<(String, Option<String>)>> {
    let mut list = connection.prepare("SELECT name, tbl_name, sql FROM sqlite_master")?;
    let all = list.query_map([], |row| {
        let (name, table): (String, String) = (row.get(0)?, row.get(1)?);
        Ok((format!("{name} of {table}"), row.get(2)?))
    })?;
    all.collect()
}

pub(super) fn meta(connection: &Connection, key: &str) -> rusqlite::Result<Option<String>> {
    let mut find = connection.prepare_cached("SELECT value FROM meta WHERE key = ?1")?;
    find.query_row([key], |row| row.get(0)).optional()
}

pub(super) const SET_META: &str = "INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)";

pub(super) fn set_meta(connection: &Connection, key: &str, value: &str) -> rusqlite::Result<()> {
    let mut put = connection.prepare_cached(SET_META)?;
    put.execute([key, value]).map(|_| ())
}

/// Refuses a newer file before anything is written to it.
pub(super) fn check_version(connection: &mut Connection, path: &Path) -> Result<(), LedgerError> {
    let failed = |error: rusqlite::Error| classify(path, &error);
    if !has_meta(connection).map_err(failed)? {
        return if is_foreign(connection, path).map_err(failed)? {
            Err(LedgerError::Foreign(path.to_owned()))
        } else {
            Ok(())
        };
    }
    moving::refuse(connection, path)?;
    match min_reader(connection).map_err(failed)? {
        Some(min_reader) if min_reader <= SCHEMA => Ok(()),
        Some(min_reader) => Err(LedgerError::TooNew { path: path.to_owned(), min_reader }),
        None => {
            Err(LedgerError::Damaged { path: path.to_owned(), detail: "min_reader is missing".to_owned() })
        }
    }
}

/// Whether this is a database of another program: it has tables, but none of ours. With a mark beside it, it was ours
/// and is damaged.
fn is_foreign(connection: &Connection, path: &Path) -> rusqlite::Result<bool> {
    let (all, ours): (i64, i64) = connection.query_row(
        "SELECT count(*), count(*) FILTER (WHERE name IN ('records', 'slots', 'sums', 'totals')) FROM sqlite_master",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    Ok(all > 0 && ours == 0 && !quarantine::mark_path(path).exists())
}

pub(super) fn classify(path: &Path, error: &rusqlite::Error) -> LedgerError {
    use rusqlite::{Error, ErrorCode};
    // Every statement is ours and fits the schema: if a table or column is missing, or a value has the wrong type, the
    // file was changed on the disk.
    let unreadable = matches!(
        error,
        Error::SqlInputError { .. }
            | Error::FromSqlConversionFailure(..)
            | Error::InvalidColumnType(..)
            | Error::Utf8Error(..)
            | Error::IntegralValueOutOfRange(..)
    );
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => LedgerError::InUse(path.to_owned()),
        // A value that changed on the disk can have a length that SQLite does not allow.
        Some(
            ErrorCode::NotADatabase
            | ErrorCode::DatabaseCorrupt
            | ErrorCode::Unknown
            | ErrorCode::TooBig
            | ErrorCode::TypeMismatch,
        ) => LedgerError::Damaged { path: path.to_owned(), detail: error.to_string() },
        _ if unreadable => LedgerError::Damaged { path: path.to_owned(), detail: error.to_string() },
        _ => LedgerError::Io(format!("{}: {error}", path.display())),
    }
}

/// A step at which the kill campaign can end the process.
#[cfg(any(test, feature = "fail-points"))]
fn step(name: &str, side: &str) {
    super::fail_point::reach(&format!("{name}-{side}-commit"));
}

#[cfg(not(any(test, feature = "fail-points")))]
const fn step(_: &str, _: &str) {}
