//! The ledger: acknowledged usage on disk, in SQLite. This module owns the format; no other speaks SQL.
//!
//! # Invariants
//! - What was acknowledged is in a committed transaction whose fsync is done (`synchronous=FULL`, WAL).
//! - The idempotency key of an event and its quantity are committed together, or neither is.
//! - An hour that was closed takes no event any more: later ones count to the current hour and say so (`late_from`).
//! - A record is written once, when its hour is sealed; afterwards only its state, attempts and AWS's answer change.
//! - An attempt is on disk before the call. A record that was attempted and has no definite answer is in doubt.
//! - accepted = billed + pending + dead + discarded, for each dimension, in every committed state.
//! - One process at a time (`locking_mode=EXCLUSIVE`).
//! - A clock that was ahead and came back strands nothing: hours that it closed are open again, usage that it put into
//!   them counts to the current hour, and a slot that has a record takes no second one.
//! - What a committed transaction held is not missing silently: the mark beside the file counts them (`mark`).
//!
//! # Schema 1
//! - `meta(key, value)`: `schema`, `min_reader`, `ledger_id`, `product`, `sequence` (transactions so far),
//!   `last_closed` (the number of the latest closed hour), `forgotten_before`, `pod` and `started_at` (when its first
//!   process started).
//! - `keys(id, content, seen_at)`: idempotency keys of the last 48 hours.
//! - `sums(pod, customer, dimension, hour, tags, micros, first_at, late_from)`: hours that are open, by tag set.
//! - `records(…)`: sealed hours; unique by (pod, customer, dimension, hour).
//! - `accepted(dimension, micros)`: all that was ever acknowledged.
//! - `settled(dimension, micros)`: what the accepted records that were removed held.
//!
//! Schema 2 adds columns of `records` (see `schema`), and
//! - `audit(id, at, record, action, note)`: what people did to records (`repair`);
//! - `links(source, slot, target)`: what a carried record became (`links`).
//!
//! A newer schema that an older program may still write raises `schema` and leaves `min_reader`; a program refuses a
//! file whose `min_reader` is above its own schema, and touches nothing.

mod ageing;
mod claim;
mod counting;
mod links;
mod mark;
mod quarantine;
pub mod repair;
mod rows;
mod schema;
mod upkeep;
pub mod view;
pub mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ring::rand::{SecureRandom as _, SystemRandom};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};

use crate::clock::Timestamp;
use crate::marketplace::{Hour, TagSet};
use crate::usage::event::Event;
use crate::usage::seal::{self, Share, Sum};

pub use ageing::Oldest;
use ageing::{Ageing, Overdue};
pub use claim::{Claim, Claimed, Settled};
pub use links::Links;
use rows::Slot;
pub use rows::{Answered, Record, State, Totals};
use schema::{MIGRATIONS, SCHEMA};
#[cfg(test)]
use upkeep::KEYS_KEPT;
pub use upkeep::Summary;

/// The file's name in the state folder.
pub const FILE_NAME: &str = "usage.sqlite";

/// Pages that SQLite keeps in memory, in KiB: an hour's working set is small.
const CACHE_KIB: i64 = 512;

/// Statements kept ready: more than this module has, or looking at the hours would drop those of the intake.
const STATEMENTS_MAX: usize = 64;

/// The WAL is folded back into the file at this many pages of 4 KiB, so that it stays at some 8 MiB. To fold takes the
/// fsyncs of three commits: seldom enough, and 99 acknowledgements of 100 do not notice.
const CHECKPOINT_PAGES: i64 = 2048;

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
    /// It holds unsent usage of another product.
    #[error(
        "{path} holds usage of product {held} that AWS has not taken yet, and this sidecar meters {asked}; run one with \
         product_code {held} until it is sent, or give this one a state_dir of its own"
    )]
    OtherProduct {
        /// The file.
        path: PathBuf,
        /// Whose usage it is.
        held: String,
        /// Whose it should be.
        asked: String,
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
    /// The product that is metered: usage of one is never reported as another's.
    pub product: String,
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
    /// With it the dimension's total would be more than a ledger can count: not counted.
    TooMuch,
}

/// An open ledger.
#[derive(Debug)]
pub struct Ledger {
    connection: Connection,
    path: PathBuf,
    settings: Settings,
    mark: mark::Mark,
    /// The latest whole hour that was looked at for dimensions without usage.
    zeroed: Option<Hour>,
    ageing: Ageing,
}

impl Ledger {
    /// Opens the ledger in `folder`, making it if there is none. A file that is damaged beyond use is set aside, kept
    /// and named, and a new one begins.
    pub fn open(folder: &Path, settings: Settings) -> Result<Self, LedgerError> {
        let path = folder.join(FILE_NAME);
        match Self::open_file(&path, settings.clone()) {
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
        let visitor = Settings {
            product: String::new(),
            pod: String::new(),
            settle: Duration::ZERO,
            bytes_max: u64::MAX,
            started_at: Timestamp::from_unix_seconds(0),
            zero_dimensions: Vec::new(),
            aws_door: false,
        };
        let mut ledger = Self::connect(&folder.join(FILE_NAME), visitor)?;
        let pod = ledger.reading(|connection| meta(connection, "pod"))?;
        ledger.settings.pod = pod.unwrap_or_default();
        ledger.keep_tidy()?;
        Ok(ledger)
    }

    fn open_file(path: &Path, settings: Settings) -> Result<Self, LedgerError> {
        let mut ledger = Self::connect(path, settings)?;
        if quarantine::is_suspect(path) {
            ledger.check()?;
            quarantine::clear(path);
        } else {
            ledger.check_schema()?;
            ledger.check_balance()?;
        }
        ledger.migrate()?;
        ledger.keep_tidy()?;
        Ok(ledger)
    }

    /// Connects and finds out whether the file is what it was; until that is known, nothing is written, not even what
    /// SQLite would fold back on closing.
    fn connect(path: &Path, settings: Settings) -> Result<Self, LedgerError> {
        let damaged = |error: rusqlite::Error| classify(path, &error);
        let mut connection = Connection::open(path).map_err(damaged)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(damaged)?;
        connection.busy_timeout(Duration::ZERO).map_err(damaged)?;
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE").map_err(damaged)?;
        check_version(&mut connection, path)?;
        let mark = mark::Mark::open(&connection, path)?;
        for (name, value) in [("journal_mode", "WAL"), ("synchronous", "FULL"), ("trusted_schema", "OFF")] {
            connection.pragma_update(None, name, value).map_err(damaged)?;
        }
        connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        connection.pragma_update(None, "cache_size", -CACHE_KIB).map_err(damaged)?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES).map_err(damaged)?;
        Ok(Self {
            connection,
            path: path.to_owned(),
            settings,
            mark,
            zeroed: None,
            ageing: Ageing::default(),
        })
    }

    /// From here on SQLite folds its WAL back when it closes the file.
    fn keep_tidy(&self) -> Result<(), LedgerError> {
        self.reading(|connection| {
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).map(|_| ())
        })
    }

    fn migrate(&mut self) -> Result<(), LedgerError> {
        let path = self.path.clone();
        let opened = self.write("open", |transaction, settings| {
            let stored = if has_meta(transaction)? { schema_number(transaction)? } else { 0 };
            for migration in MIGRATIONS.iter().skip(stored) {
                transaction.execute_batch(migration.sql)?;
                set_meta(transaction, "min_reader", &migration.min_reader.to_string())?;
            }
            if stored < MIGRATIONS.len() {
                set_meta(transaction, "schema", &SCHEMA.to_string())?;
            }
            if meta(transaction, "ledger_id")?.is_none() {
                set_meta(transaction, "ledger_id", &random_hex()?)?;
            }
            if let Some(held) = rows::adopt_product(transaction, &settings.product)? {
                return Ok(Err(held));
            }
            // Whoever wrote this ended between a call and its answer.
            transaction
                .execute("UPDATE records SET in_doubt = 1, attempting = 0 WHERE attempting = 1", [])?;
            claim::adopt(transaction)?;
            ageing::interrupted(transaction)?;
            upkeep::begin_to_forget(transaction, settings.started_at)?;
            rows::started_at(transaction, &settings.pod, settings.started_at).map(Ok)
        })?;
        match opened {
            Ok(started_at) => {
                self.settings.started_at = started_at;
                Ok(())
            }
            Err(held) => Err(LedgerError::OtherProduct { path, held, asked: self.settings.product.clone() }),
        }
    }

    /// Does `work` in one transaction; on return it is on disk, and the mark says so.
    fn write<T>(
        &mut self,
        name: &str,
        work: impl FnOnce(&Transaction<'_>, &Settings) -> rusqlite::Result<T>,
    ) -> Result<T, LedgerError> {
        let failed = |error: rusqlite::Error| classify(&self.path, &error);
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        let changes = |transaction: &Transaction<'_>| -> rusqlite::Result<i64> {
            transaction.prepare_cached("SELECT total_changes()")?.query_row([], |row| row.get(0))
        };
        let before = changes(&transaction).map_err(failed)?;
        let done = work(&transaction, &self.settings).map_err(failed)?;
        // Hours are looked at every second: what changes nothing must not cost a write.
        let changed = changes(&transaction).map_err(failed)? != before;
        if changed {
            mark::count(&transaction).map_err(failed)?;
            step(name, "before");
        }
        transaction.commit().map_err(failed)?;
        if changed {
            step(name, "after");
            self.mark.counted(&self.connection);
            // What was just acknowledged is younger than all that waits.
            if name != "take" {
                self.ageing.forget();
            }
        }
        Ok(done)
    }

    fn reading<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, LedgerError> {
        read(&self.connection).map_err(|error| classify(&self.path, &error))
    }

    /// A clock that went back was ahead when the process started: it started by now at the latest.
    fn observe(&mut self, now: Timestamp) {
        self.settings.started_at = self.settings.started_at.min(now);
    }

    /// Counts events, all in one transaction; on return they are on disk.
    pub fn take(&mut self, events: &[Event], now: Timestamp) -> Result<Vec<Taken>, LedgerError> {
        self.check_size()?;
        self.observe(now);
        self.write("take", |transaction, settings| counting::count(transaction, settings, events, now))
    }

    /// Counts all of these events or, where one of them is not counted, none.
    pub fn take_whole(&mut self, events: &[Event], now: Timestamp) -> Result<Vec<Taken>, LedgerError> {
        self.check_size()?;
        self.observe(now);
        self.write("take", |transaction, settings| {
            transaction.execute_batch("SAVEPOINT whole")?;
            let taken = counting::count(transaction, settings, events, now)?;
            if taken.iter().any(|taken| !matches!(taken, Taken::Accepted | Taken::Duplicate)) {
                transaction.execute_batch("ROLLBACK TO whole")?;
            }
            transaction.execute_batch("RELEASE whole")?;
            Ok(taken)
        })
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
        if quarantine::is_suspect(&self.path) {
            self.check()?;
            quarantine::clear(&self.path);
        }
        self.observe(now);
        let whole = Hour::latest_closed(now, self.settings.settle);
        let zero = self.zeroed != Some(whole);
        let mut advanced = false;
        let made = self.write("seal", |transaction, settings| {
            let (last, counts) = last_closed(transaction, now)?;
            let closed = counts.map_or(latest, |last| last.max(latest)).max(whole);
            advanced = last.is_none_or(|last| last < closed);
            if advanced {
                upkeep::forget(transaction, now)?;
            }
            if last != Some(closed) {
                set_meta(transaction, "last_closed", &closed.number().to_string())?;
            }
            if counts != last {
                tracing::warn!(%closed, "the clock went back: hours that it had closed are open again");
            }
            let mut made = seal_sums(transaction, settings, closed, now)?;
            if zero {
                made += upkeep::zero_hours(transaction, settings, whole, now)?;
            }
            Ok(made)
        })?;
        self.zeroed = Some(whole);
        if advanced {
            self.check_balance()?;
        }
        Ok(made)
    }

    /// Records that AWS has not answered definitely, oldest first, without their allocations.
    pub fn unsent(&self, limit: usize) -> Result<Vec<Record>, LedgerError> {
        self.unsent_after(None, limit)
    }

    /// The same from behind a record on, so that many that wait do not hide those behind them.
    pub fn unsent_after(&self, last: Option<(Hour, i64)>, limit: usize) -> Result<Vec<Record>, LedgerError> {
        let (hour, id) = last.unwrap_or((Hour::from_number(i64::MIN), i64::MIN));
        self.reading(|connection| rows::records(connection, rows::Which::Unsent { hour, id }, limit))
    }

    /// Records in the order of their hours, without their allocations; where there are more than `limit`, those that
    /// are not settled and the newest.
    pub fn records(&self, limit: usize) -> Result<Vec<Record>, LedgerError> {
        self.reading(|connection| rows::records(connection, rows::Which::All, limit))
    }

    /// Notes on disk that these records are about to be sent.
    pub fn attempt(&mut self, ids: &[i64], now: Timestamp) -> Result<(), LedgerError> {
        self.write("attempt", |transaction, _| {
            let mut attempt = transaction.prepare_cached(
                "UPDATE records SET attempting = 1, attempts = attempts + 1, updated_at = ?2
                 WHERE id = ?1 AND state = 'sealed'",
            )?;
            ids.iter().try_for_each(|id| attempt.execute(params![id, now.unix_millis()]).map(|_| ()))
        })
    }

    /// Notes AWS's answer, or what was decided about a record.
    pub fn answered(&mut self, id: i64, answered: &Answered, now: Timestamp) -> Result<(), LedgerError> {
        self.write("answer", |transaction, settings| {
            let current = current_hour(transaction, now, settings.settle)?;
            rows::answer(transaction, &settings.pod, current, id, answered, now)
        })
    }

    /// For each dimension: acknowledged, billed, pending and dead.
    pub fn totals(&self) -> Result<BTreeMap<String, Totals>, LedgerError> {
        self.reading(rows::totals)
    }

    /// Reads the whole file and checks its structure, its rows and its balance; slow, for `doctor` and after damage.
    pub fn check(&self) -> Result<(), LedgerError> {
        let verdict: String = self
            .reading(|connection| connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)))?;
        if verdict != "ok" {
            return Err(self.damaged(verdict));
        }
        self.check_schema()?;
        self.check_balance()?;
        self.reading(rows::read_all)
    }

    /// SQLite takes whatever its schema says: a letter that changed on the disk is another column's name, and every
    /// start would stumble over it again.
    fn check_schema(&self) -> Result<(), LedgerError> {
        if !self.reading(has_meta)? {
            return Ok(());
        }
        let stored = self.reading(schema_number)?;
        if stored == 0 {
            return Err(self.damaged("its schema has no number".to_owned()));
        }
        // What a newer program added is its own.
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
        if found == expected {
            return Ok(());
        }
        let odd: Vec<_> = found.symmetric_difference(&expected).map(|(name, _)| name.as_str()).collect();
        Err(self.damaged(format!("its schema {stored} was changed: {}", odd.join(", "))))
    }

    /// What SQLite cannot see: a number that changed on the disk. No committed state is out of balance.
    fn check_balance(&self) -> Result<(), LedgerError> {
        if !self.reading(has_meta)? {
            return Ok(());
        }
        match self.totals()?.iter().find(|(_, totals)| !totals.balances()) {
            None => Ok(()),
            Some((dimension, totals)) => {
                Err(self.damaged(format!("{dimension} is out of balance: {totals:?}")))
            }
        }
    }

    fn damaged(&self, detail: String) -> LedgerError {
        quarantine::suspect(&self.path);
        LedgerError::Damaged { path: self.path.clone(), detail }
    }
}

/// Seals what is in closed hours; what must not be reported in its hour counts to the current one.
fn seal_sums(
    transaction: &Transaction<'_>,
    settings: &Settings,
    closed: Hour,
    now: Timestamp,
) -> rusqlite::Result<usize> {
    let current = Hour::of(now).max(closed.next());
    // Clocks differ by minutes: usage may be in the hour that comes next, or in the one after an early end.
    let farthest = current.max(Hour::of(now).next());
    let mut made = 0;
    for (slot, sum) in rows::due_sums(transaction, closed, farthest, &settings.pod)? {
        if claim::under_way(transaction, &slot)? {
            continue;
        }
        // AWS bills by the pod that reports: usage that an earlier pod left is reported by this one, now.
        let foreign = slot.pod != settings.pod;
        // The clock was ahead, and nobody would look at that hour before it comes.
        let ahead = slot.hour > farthest;
        // AWS takes one value for an hour, and it has one: from the application, or from before the clock went back.
        let taken = claim::unclaimed(transaction, &slot)? != slot.hour;
        if foreign || ahead || taken {
            let target = Slot { pod: settings.pod.clone(), hour: current, ..slot.clone() };
            let target = Slot { hour: claim::unclaimed(transaction, &target)?, ..target };
            if target != slot {
                rows::carry(transaction, &target, &slot, &sum, now)?;
            }
            continue;
        }
        let Some(sealed) = seal::seal(slot.hour, &sum.sum, now) else { continue };
        rows::insert_record(transaction, &slot, &sum, &sealed, &random_hex()?, now)?;
        links::sealed(transaction, &slot, transaction.last_insert_rowid())?;
        rows::remove_sum(transaction, &slot)?;
        rows::keep_rest(transaction, &slot, current, &sealed, now)?;
        made += 1;
    }
    Ok(made)
}

fn has_meta(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("SELECT count(*) FROM sqlite_master WHERE name = 'meta'", [], |row| {
        row.get::<_, i64>(0).map(|tables| tables > 0)
    })
}

/// The number of the schema that was stored; 0 where none can be read.
fn schema_number(connection: &Connection) -> rusqlite::Result<usize> {
    Ok(meta(connection, "schema")?.and_then(|text| text.parse().ok()).unwrap_or_default())
}

/// Tables and indexes with their text.
fn schema_of(connection: &Connection) -> rusqlite::Result<BTreeSet<(String, Option<String>)>> {
    let mut list = connection.prepare("SELECT name, tbl_name, sql FROM sqlite_master")?;
    let all = list.query_map([], |row| {
        let (name, table): (String, String) = (row.get(0)?, row.get(1)?);
        Ok((format!("{name} of {table}"), row.get(2)?))
    })?;
    all.collect()
}

fn meta(connection: &Connection, key: &str) -> rusqlite::Result<Option<String>> {
    let mut find = connection.prepare_cached("SELECT value FROM meta WHERE key = ?1")?;
    find.query_row([key], |row| row.get(0)).optional()
}

fn set_meta(connection: &Connection, key: &str, value: &str) -> rusqlite::Result<()> {
    let mut put = connection.prepare_cached("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)")?;
    put.execute([key, value]).map(|_| ())
}

/// A newer file is refused before anything is written to it.
fn check_version(connection: &mut Connection, path: &Path) -> Result<(), LedgerError> {
    let failed = |error: rusqlite::Error| classify(path, &error);
    if !has_meta(connection).map_err(failed)? {
        return Ok(());
    }
    let min_reader = meta(connection, "min_reader").map_err(failed)?;
    match min_reader.as_deref().map(str::parse::<i64>) {
        Some(Ok(min_reader)) if min_reader <= SCHEMA => Ok(()),
        Some(Ok(min_reader)) => Err(LedgerError::TooNew { path: path.to_owned(), min_reader }),
        _ => Err(LedgerError::Damaged { path: path.to_owned(), detail: "min_reader is missing".to_owned() }),
    }
}

fn classify(path: &Path, error: &rusqlite::Error) -> LedgerError {
    use rusqlite::{Error, ErrorCode};
    // Every statement is ours and fits the schema: a table or column that is missing, or a value that is not of its
    // kind, was changed on the disk.
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
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt | ErrorCode::Unknown) => {
            quarantine::suspect(path);
            LedgerError::Damaged { path: path.to_owned(), detail: error.to_string() }
        }
        _ if unreadable => {
            quarantine::suspect(path);
            LedgerError::Damaged { path: path.to_owned(), detail: error.to_string() }
        }
        _ => LedgerError::Io(format!("{}: {error}", path.display())),
    }
}

/// The hour that counts what comes late: never one that is closed.
fn current_hour(transaction: &Transaction<'_>, now: Timestamp, settle: Duration) -> rusqlite::Result<Hour> {
    Ok(Hour::of(now).max(closed_hour(transaction, now, settle)?.next()))
}

/// The latest hour that takes no event any more.
fn closed_hour(transaction: &Transaction<'_>, now: Timestamp, settle: Duration) -> rusqlite::Result<Hour> {
    let (_, counts) = last_closed(transaction, now)?;
    let by_clock = Hour::latest_closed(now, settle);
    Ok(counts.map_or(by_clock, |last| last.max(by_clock)))
}

/// The latest hour that was closed, and the same where it still counts: an early end closes the hour of then, which is
/// at most one ahead after a small step back. Farther ahead, the clock was wrong then or is now, and to wait for it
/// would keep usage for as long.
fn last_closed(
    transaction: &Transaction<'_>,
    now: Timestamp,
) -> rusqlite::Result<(Option<Hour>, Option<Hour>)> {
    let last = meta(transaction, "last_closed")?.and_then(|text| text.parse().ok()).map(Hour::from_number);
    Ok((last, last.filter(|last| *last <= Hour::of(now).next())))
}

/// A step at which the kill campaign may end the process.
#[cfg(feature = "fail-points")]
fn step(name: &str, side: &str) {
    crate::fail_point::reach(&format!("{name}-{side}-commit"));
}

#[cfg(not(feature = "fail-points"))]
const fn step(_: &str, _: &str) {}

/// The system has no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("no random bytes")]
struct NoEntropy;

/// 128 random bits as hexadecimal text.
fn random_hex() -> rusqlite::Result<String> {
    let mut bytes = [0; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| rusqlite::Error::ToSqlConversionFailure(Box::new(NoEntropy)))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A sum with what else its rows say.
#[derive(Debug, Default)]
pub(crate) struct OpenSum {
    pub(crate) sum: Sum,
    pub(crate) late_from: Option<Hour>,
    overdue: Overdue,
}

impl OpenSum {
    fn add(
        &mut self,
        tags: TagSet,
        micros: u64,
        first_at: Timestamp,
        late_from: Option<Hour>,
        overdue: Overdue,
    ) {
        let share = self.sum.shares.entry(tags).or_insert(Share { micros: 0, first_at });
        share.micros = share.micros.saturating_add(micros);
        share.first_at = share.first_at.min(first_at);
        self.late_from = [self.late_from, late_from].into_iter().flatten().min();
        self.overdue = self.overdue.join(overdue);
    }
}

#[cfg(test)]
mod tests;
