//! The ledger: acknowledged usage on disk, in SQLite. This module owns the format; no other speaks SQL.
//!
//! # Invariants
//! - What was acknowledged is in a committed transaction whose fsync is done (`synchronous=FULL`, WAL).
//! - The idempotency key of an event and its quantity are committed together, or neither is.
//! - An hour that was closed takes no event any more: later ones count to the current hour and say so (`late_from`).
//! - A record is written once, when its hour is sealed; afterwards only its state, attempts and AWS's answer change.
//! - An attempt is on disk before the call. A record that was attempted and has no definite answer is in doubt.
//! - accepted = billed + pending + dead, for each dimension, in every committed state.
//! - One process at a time (`locking_mode=EXCLUSIVE`).
//!
//! # Schema 1
//! - `meta(key, value)`: `schema`, `min_reader`, `ledger_id`, `last_closed` (the number of the latest closed hour),
//!   `pod` and `started_at` (when its first process started).
//! - `keys(id, content, seen_at)`: idempotency keys of the last 48 hours.
//! - `sums(pod, customer, dimension, hour, tags, micros, first_at, late_from)`: hours that are open, by tag set.
//! - `records(…)`: sealed hours; unique by (pod, customer, dimension, hour).
//! - `accepted(dimension, micros)`: all that was ever acknowledged.
//! - `settled(dimension, micros)`: what the accepted records that were removed held.
//!
//! A newer schema that an older program may still write raises `schema` and leaves `min_reader`; a program refuses a
//! file whose `min_reader` is above its own schema, and touches nothing.

mod claim;
mod counting;
mod quarantine;
mod rows;
mod upkeep;
pub mod view;
pub mod writer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ring::rand::{SecureRandom as _, SystemRandom};
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};

use crate::clock::Timestamp;
use crate::marketplace::{Hour, TagSet};
use crate::usage::event::Event;
use crate::usage::seal::{self, Share, Sum};

pub use claim::{Claim, Claimed, Settled};
pub use rows::{Answered, Record, State, Totals};
#[cfg(test)]
use upkeep::KEYS_KEPT;
pub use upkeep::{Replayed, Summary};

/// The file's name in the state folder.
pub const FILE_NAME: &str = "usage.sqlite";

/// The schema that this program writes.
const SCHEMA: i64 = 1;

/// Pages that SQLite keeps in memory, in KiB: an hour's working set is small.
const CACHE_KIB: i64 = 512;

/// Statements kept ready: more than this module has, or looking at the hours would drop those of the intake.
const STATEMENTS_MAX: usize = 64;

/// The WAL is folded back into the file at this many pages of 4 KiB, so that it stays below some megabytes.
const CHECKPOINT_PAGES: i64 = 512;

/// Why the ledger cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LedgerError {
    /// Another process holds it.
    #[error(
        "{0} is in use by another process; only one sidecar may run on a state folder: stop the other one"
    )]
    InUse(PathBuf),
    /// It was written by a newer tollgate.
    #[error(
        "{path} needs tollgate with ledger schema {min_reader} or newer, this one has {SCHEMA}; use the newer version"
    )]
    TooNew {
        /// The file.
        path: PathBuf,
        /// What its writer asked for.
        min_reader: i64,
    },
    /// It is not a ledger, or damaged.
    #[error("{path} is damaged or no ledger ({detail}); the next start sets it aside and keeps it")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        detail: String,
    },
    /// It reached `ledger_bytes_max`.
    #[error(
        "the ledger is full ({bytes} of {bytes_max} bytes); usage is refused until records are sent or the limit is raised"
    )]
    Full {
        /// Its size.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// The disk does not do what it should.
    #[error("the ledger cannot be read or written: {0}")]
    Io(String),
}

/// How to use it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whose usage it is: the pod in mode `metered`, nobody in `saas`, where AWS does not look at the pod.
    pub pod: String,
    /// An hour takes its own late events so long after its end.
    pub settle: Duration,
    /// Above this size events are refused.
    pub bytes_max: u64,
    /// When this process started. AWS takes no usage from before the software started; of several processes of a pod,
    /// the first one's time counts.
    pub started_at: Timestamp,
    /// Report 0 for these dimensions in an hour without usage (`on_zero_hour = "report"`).
    pub zero_dimensions: Vec<String>,
    /// The application may report hours itself, through the AWS door.
    pub aws_door: bool,
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// Counted.
    Accepted,
    /// Its key was seen with the same content: counted before.
    Duplicate,
    /// Its key was seen with other content: not counted.
    Conflict,
}

/// An open ledger.
#[derive(Debug)]
pub struct Ledger {
    connection: Connection,
    path: PathBuf,
    settings: Settings,
}

impl Ledger {
    /// Opens the ledger in `folder`, making it if there is none. A file that is damaged beyond use is set aside, kept
    /// and named, and a new one begins.
    pub fn open(folder: &Path, settings: Settings) -> Result<Self, LedgerError> {
        let path = folder.join(FILE_NAME);
        let suspect = quarantine::is_suspect(&path);
        let opened = Self::open_file(&path, settings.clone()).and_then(|ledger| {
            if suspect {
                ledger.check()?;
                quarantine::clear(&ledger.path);
            }
            Ok(ledger)
        });
        match opened {
            Err(LedgerError::Damaged { path, detail }) => {
                let now = settings.started_at;
                quarantine::set_aside(&path, now, &detail)?;
                let mut ledger = Self::open_file(&path, settings)?;
                // The damaged file may have reported this hour already, and AWS takes one value for an hour.
                ledger.seal_now(now)?;
                Ok(ledger)
            }
            other => other,
        }
    }

    /// Opens the ledger of a sidecar that does not run, to look at it or to replay. It is the same pod's as before.
    pub fn open_existing(folder: &Path) -> Result<Self, LedgerError> {
        let path = folder.join(FILE_NAME);
        let visitor = Settings {
            pod: String::new(),
            settle: Duration::ZERO,
            bytes_max: u64::MAX,
            started_at: Timestamp::from_unix_seconds(0),
            zero_dimensions: Vec::new(),
            aws_door: false,
        };
        let mut ledger = Self { connection: Self::connect(&path)?, path, settings: visitor };
        let failed = |error: rusqlite::Error| classify(&ledger.path, &error);
        let pod = ledger
            .connection
            .query_row("SELECT value FROM meta WHERE key = 'pod'", [], |row| row.get(0))
            .optional()
            .map_err(failed)?;
        ledger.settings.pod = pod.unwrap_or_default();
        Ok(ledger)
    }

    fn open_file(path: &Path, settings: Settings) -> Result<Self, LedgerError> {
        let mut ledger = Self { connection: Self::connect(path)?, path: path.to_owned(), settings };
        ledger.migrate()?;
        Ok(ledger)
    }

    fn connect(path: &Path) -> Result<Connection, LedgerError> {
        let damaged = |error: rusqlite::Error| classify(path, &error);
        let mut connection = Connection::open(path).map_err(damaged)?;
        connection.busy_timeout(Duration::ZERO).map_err(damaged)?;
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE").map_err(damaged)?;
        check_version(&mut connection, path)?;
        for (name, value) in [("journal_mode", "WAL"), ("synchronous", "FULL"), ("trusted_schema", "OFF")] {
            connection.pragma_update(None, name, value).map_err(damaged)?;
        }
        connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        connection.pragma_update(None, "cache_size", -CACHE_KIB).map_err(damaged)?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES).map_err(damaged)?;
        Ok(connection)
    }

    fn migrate(&mut self) -> Result<(), LedgerError> {
        let path = self.path.clone();
        let failed = |error: rusqlite::Error| classify(&path, &error);
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        transaction.execute_batch(TABLES).map_err(failed)?;
        // Whoever wrote this ended between a call and its answer.
        transaction
            .execute("UPDATE records SET in_doubt = 1, attempting = 0 WHERE attempting = 1", [])
            .map_err(failed)?;
        claim::adopt(&transaction).map_err(failed)?;
        let ledger_id = random_hex().ok_or_else(|| LedgerError::Io("no random bytes".to_owned()))?;
        let start =
            [("schema", SCHEMA.to_string()), ("min_reader", SCHEMA.to_string()), ("ledger_id", ledger_id)];
        for (key, value) in start {
            transaction
                .execute("INSERT OR IGNORE INTO meta (key, value) VALUES (?1, ?2)", params![key, value])
                .map_err(failed)?;
        }
        let settings = &mut self.settings;
        let started_at =
            rows::started_at(&transaction, &settings.pod, settings.started_at).map_err(failed)?;
        transaction.commit().map_err(failed)?;
        settings.started_at = started_at;
        Ok(())
    }

    fn transaction(&mut self) -> Result<Transaction<'_>, LedgerError> {
        let path = self.path.clone();
        self.connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(|error| classify(&path, &error))
    }

    /// Counts events, all in one transaction; on return they are on disk.
    pub fn take(&mut self, events: &[Event], now: Timestamp) -> Result<Vec<Taken>, LedgerError> {
        self.check_size()?;
        let (path, settings) = (self.path.clone(), self.settings.clone());
        let failed = |error: rusqlite::Error| classify(&path, &error);
        let transaction = self.transaction()?;
        let taken = counting::count(&transaction, &settings, events, now).map_err(failed)?;
        step("take-before-commit");
        transaction.commit().map_err(failed)?;
        step("take-after-commit");
        Ok(taken)
    }

    fn check_size(&self) -> Result<(), LedgerError> {
        let (bytes, bytes_max) = (self.bytes()?, self.settings.bytes_max);
        if bytes >= bytes_max { Err(LedgerError::Full { bytes, bytes_max }) } else { Ok(()) }
    }

    /// The size of the data, without what SQLite keeps free for reuse.
    pub fn bytes(&self) -> Result<u64, LedgerError> {
        let failed = |error: rusqlite::Error| classify(&self.path, &error);
        // Asked before each commit, so from the cache of statements.
        let number = |sql: &str| -> rusqlite::Result<i64> {
            self.connection.prepare_cached(sql)?.query_row([], |row| row.get(0))
        };
        let free = number("PRAGMA freelist_count").map_err(failed)?;
        let pages = number("PRAGMA page_count").map_err(failed)? - free;
        let bytes = pages.saturating_mul(number("PRAGMA page_size").map_err(failed)?);
        Ok(u64::try_from(bytes).unwrap_or_default())
    }

    /// Closes every hour whose time has come and seals what is in it. Returns how many records that made.
    pub fn seal_closed(&mut self, now: Timestamp) -> Result<usize, LedgerError> {
        let latest = Hour::latest_closed(now, self.settings.settle);
        self.seal_up_to(latest, now)
    }

    /// Closes the open hour before its end, and all before it: for a shutdown. Later events count to the next one.
    pub fn seal_now(&mut self, now: Timestamp) -> Result<usize, LedgerError> {
        self.seal_up_to(Hour::of(now), now)
    }

    fn seal_up_to(&mut self, latest: Hour, now: Timestamp) -> Result<usize, LedgerError> {
        let (path, settings) = (self.path.clone(), self.settings.clone());
        let failed = |error: rusqlite::Error| classify(&path, &error);
        let transaction = self.transaction()?;
        let last_closed = last_closed(&transaction).map_err(failed)?;
        if last_closed.is_none_or(|last| last < latest) {
            upkeep::forget(&transaction, now).map_err(failed)?;
            transaction
                .execute(
                    "INSERT OR REPLACE INTO meta VALUES ('last_closed', ?1)",
                    [latest.number().to_string()],
                )
                .map_err(failed)?;
        }
        let closed = last_closed.map_or(latest, |last| last.max(latest));
        let current = current_hour(&transaction, now, settings.settle).map_err(failed)?;
        let whole = Hour::latest_closed(now, settings.settle);
        let mut made =
            upkeep::zero_hours(&transaction, &settings, last_closed, whole, now).map_err(failed)?;
        for (slot, sum) in rows::closed_sums(&transaction, closed).map_err(failed)? {
            if settings.aws_door && claim::unclaimed(&transaction, &slot).map_err(failed)? != slot.hour {
                rows::carry(&transaction, &settings.pod, current, &slot, &sum).map_err(failed)?;
                continue;
            }
            if slot.pod != settings.pod {
                // AWS bills by the pod that reports: usage that an earlier pod left is reported by this one, now.
                rows::carry(&transaction, &settings.pod, current, &slot, &sum).map_err(failed)?;
                continue;
            }
            let Some(sealed) = seal::seal(slot.hour, &sum.sum) else { continue };
            let token = random_hex().ok_or_else(|| LedgerError::Io("no random bytes".to_owned()))?;
            rows::insert_record(&transaction, &slot, &sum, &sealed, &token, now).map_err(failed)?;
            rows::keep_rest(&transaction, &slot, current, &sealed, now).map_err(failed)?;
            made += 1;
        }
        if made > 0 {
            step("seal-before-commit");
        }
        transaction.commit().map_err(failed)?;
        if made > 0 {
            step("seal-after-commit");
        }
        Ok(made)
    }

    /// Records that AWS has not answered definitely, oldest first, without their allocations.
    pub fn unsent(&self, limit: usize) -> Result<Vec<Record>, LedgerError> {
        rows::records(&self.connection, rows::Which::Unsent, limit)
            .map_err(|error| classify(&self.path, &error))
    }

    /// Records by state, newest hour last.
    pub fn records(&self, limit: usize) -> Result<Vec<Record>, LedgerError> {
        rows::records(&self.connection, rows::Which::All, limit).map_err(|error| classify(&self.path, &error))
    }

    /// Notes on disk that these records are about to be sent.
    pub fn attempt(&mut self, ids: &[i64], now: Timestamp) -> Result<(), LedgerError> {
        let path = self.path.clone();
        let failed = |error: rusqlite::Error| classify(&path, &error);
        let transaction = self.transaction()?;
        for id in ids {
            transaction
                .execute(
                    "UPDATE records SET attempting = 1, attempts = attempts + 1, updated_at = ?2 WHERE id = ?1",
                    params![id, now.unix_millis()],
                )
                .map_err(failed)?;
        }
        step("attempt-before-commit");
        transaction.commit().map_err(failed)?;
        step("attempt-after-commit");
        Ok(())
    }

    /// Notes AWS's answer, or what was decided about a record.
    pub fn answered(&mut self, id: i64, answered: &Answered, now: Timestamp) -> Result<(), LedgerError> {
        let (path, settings) = (self.path.clone(), self.settings.clone());
        let failed = |error: rusqlite::Error| classify(&path, &error);
        let transaction = self.transaction()?;
        let current = current_hour(&transaction, now, settings.settle).map_err(failed)?;
        rows::answer(&transaction, &settings.pod, current, id, answered, now).map_err(failed)?;
        step("answer-before-commit");
        transaction.commit().map_err(failed)?;
        step("answer-after-commit");
        Ok(())
    }

    /// For each dimension: acknowledged, billed, pending and dead.
    pub fn totals(&self) -> Result<BTreeMap<String, Totals>, LedgerError> {
        rows::totals(&self.connection).map_err(|error| classify(&self.path, &error))
    }

    /// Reads the whole file and checks its structure; slow, for `doctor` and after damage.
    pub fn check(&self) -> Result<(), LedgerError> {
        let failed = |error: rusqlite::Error| classify(&self.path, &error);
        let verdict: String =
            self.connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).map_err(failed)?;
        if verdict == "ok" {
            Ok(())
        } else {
            quarantine::suspect(&self.path);
            Err(LedgerError::Damaged { path: self.path.clone(), detail: verdict })
        }
    }
}

/// A newer file is refused before anything is written to it.
fn check_version(connection: &mut Connection, path: &Path) -> Result<(), LedgerError> {
    let failed = |error: rusqlite::Error| classify(path, &error);
    let known: bool = connection
        .query_row("SELECT count(*) FROM sqlite_master WHERE name = 'meta'", [], |row| row.get::<_, i64>(0))
        .map_err(failed)?
        > 0;
    if !known {
        return Ok(());
    }
    let min_reader: Option<String> = connection
        .query_row("SELECT value FROM meta WHERE key = 'min_reader'", [], |row| row.get(0))
        .optional()
        .map_err(failed)?;
    match min_reader.as_deref().map(str::parse::<i64>) {
        Some(Ok(min_reader)) if min_reader <= SCHEMA => Ok(()),
        Some(Ok(min_reader)) => Err(LedgerError::TooNew { path: path.to_owned(), min_reader }),
        _ => Err(LedgerError::Damaged { path: path.to_owned(), detail: "min_reader is missing".to_owned() }),
    }
}

fn classify(path: &Path, error: &rusqlite::Error) -> LedgerError {
    use rusqlite::ErrorCode;
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => LedgerError::InUse(path.to_owned()),
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            quarantine::suspect(path);
            LedgerError::Damaged { path: path.to_owned(), detail: error.to_string() }
        }
        _ => LedgerError::Io(format!("{}: {error}", path.display())),
    }
}

/// The hour that counts what comes late: never one that is closed.
fn current_hour(transaction: &Transaction<'_>, now: Timestamp, settle: Duration) -> rusqlite::Result<Hour> {
    let by_clock = Hour::of(now);
    let closed = last_closed(transaction)?.max(Some(Hour::latest_closed(now, settle)));
    Ok(closed.map_or(by_clock, |closed| by_clock.max(closed.next())))
}

fn last_closed(transaction: &Transaction<'_>) -> rusqlite::Result<Option<Hour>> {
    let text: Option<String> = transaction
        .query_row("SELECT value FROM meta WHERE key = 'last_closed'", [], |row| row.get(0))
        .optional()?;
    Ok(text.and_then(|text| text.parse().ok()).map(Hour::from_number))
}

/// A step at which the kill campaign may end the process.
#[cfg(feature = "fail-points")]
fn step(name: &str) {
    crate::fail_point::reach(name);
}

#[cfg(not(feature = "fail-points"))]
const fn step(_: &str) {}

/// 128 random bits as hexadecimal text.
fn random_hex() -> Option<String> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS keys (id TEXT PRIMARY KEY, content BLOB NOT NULL, seen_at INTEGER NOT NULL)
    STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS keys_seen_at ON keys (seen_at);
CREATE TABLE IF NOT EXISTS sums (
    pod TEXT NOT NULL, customer TEXT NOT NULL, dimension TEXT NOT NULL, hour INTEGER NOT NULL, tags TEXT NOT NULL,
    micros INTEGER NOT NULL, first_at INTEGER NOT NULL, late_from INTEGER,
    PRIMARY KEY (hour, pod, customer, dimension, tags)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS records (
    id INTEGER PRIMARY KEY, pod TEXT NOT NULL, customer TEXT NOT NULL, dimension TEXT NOT NULL, hour INTEGER NOT NULL,
    micros INTEGER NOT NULL, decimal INTEGER NOT NULL, allocations TEXT NOT NULL, timestamp INTEGER NOT NULL,
    client_token TEXT NOT NULL, late_from INTEGER, state TEXT NOT NULL, in_doubt INTEGER NOT NULL DEFAULT 0,
    attempting INTEGER NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0, code TEXT, metering_record_id TEXT,
    sealed_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, UNIQUE (pod, customer, dimension, hour)) STRICT;
CREATE INDEX IF NOT EXISTS records_state ON records (state, hour);
CREATE TABLE IF NOT EXISTS settled (dimension TEXT PRIMARY KEY, micros INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS accepted (dimension TEXT PRIMARY KEY, micros INTEGER NOT NULL) STRICT, WITHOUT ROWID;
";

/// A sum with what else its rows say.
#[derive(Debug, Default)]
pub(crate) struct OpenSum {
    pub(crate) sum: Sum,
    pub(crate) late_from: Option<Hour>,
}

impl OpenSum {
    fn add(&mut self, tags: TagSet, micros: u64, first_at: Timestamp, late_from: Option<Hour>) {
        let share = self.sum.shares.entry(tags).or_insert(Share { micros: 0, first_at });
        share.micros = share.micros.saturating_add(micros);
        share.first_at = share.first_at.min(first_at);
        self.late_from = [self.late_from, late_from].into_iter().flatten().min();
    }
}

#[cfg(test)]
mod tests;
