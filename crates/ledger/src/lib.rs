//! The ledger: acknowledged usage on disk, in SQLite. This module owns the format; no other speaks SQL.
//!
//! # Invariants
//! - What was acknowledged is in a committed transaction whose fsync is done (`synchronous=FULL`, WAL).
//! - The idempotency key of an event and its quantity are committed together, or neither is.
//! - An hour that was closed takes no event any more: later ones count to the current hour and say so (`late_from`). So
//!   does a slot that has a record, since its hour was sealed before its end (`closing`).
//! - A record is written once, when its hour is sealed; afterwards only its state, attempts and AWS's answer change.
//! - An attempt is on disk before the call. A record that was attempted and has no definite answer is in doubt.
//! - accepted + rounded up = billed + pending + dead + discarded + remainder, for each dimension, in every committed
//!   state.
//! - One process at a time (`locking_mode=EXCLUSIVE`).
//! - A clock that was ahead and came back strands nothing: hours that it closed are open again, usage that it put into
//!   them counts to the current hour, and a slot that has a record takes no second one.
//! - What a committed transaction held is not missing silently: the mark beside the file counts them (`mark`).
//! - Memory is bounded by one slot, never by how many there are: whatever grows is worked on in small transactions.
//!
//! # Schema 2
//! - `meta(key, value)`: `schema`, `min_reader`, `ledger_id`, `product`, `sequence` (transactions so far),
//!   `last_closed` and `sealed_early` (numbers of hours, see `closing`), `forgotten_before`, `key_time` and `key_hour`
//!   (see `keys`), `denied` (AWS's latest word, see `sending`),
//!   `pod` and `started_at` (when its first process started); during an upgrade what `migration` and `keys` note.
//! - `slots(…)`: open usage, unique by (hour, pod, customer, dimension). `amount` is the untagged share of its events,
//!   `additive` that of what was carried or replayed into it, `total` the sum of all shares; `tagged` and `tag_bytes`
//!   say how many tag sets there are in `shares(slot, tags, amount, additive)`.
//! - `records(…)`: sealed hours; unique by (pod, customer, dimension, hour).
//! - `totals(dimension, …)` and `counts(name, held)`: kept by triggers (`totals`).
//! - `keys_0` to `keys_3(hash, content)` and `key_tables(number, turn, first_at, last_at, held)`: see `keys`.
//! - `forms(hour, account, licensed)` and `identities(identifier, account)`: see `forms`.
//! - `links(source, slot, target)`: which record's quantity was carried or replayed into which slot, later record.
//! - `audit(at, record, action, note)`: what people did to dead letters.
//!
//! Schema 2 adds columns of `records` (see `schema`), and
//! - `audit(id, at, record, action, note)`: what people did to records (`repair`);
//! - `links(source, slot, target)`: what a carried record became (`links`).
//!
//! A newer schema that an older program may still write raises `schema` and leaves `min_reader`; a program refuses a
//! file whose `min_reader` is above its own schema, and touches nothing.

mod ageing;
mod amount;
mod claim;
mod closing;
mod counting;
#[cfg(feature = "fail-points")]
pub mod fail_point;
mod files;
mod folding;
mod forms;
mod inspect;
mod keys;
mod links;
mod mark;
mod migration;
mod quarantine;
pub mod repair;
mod rows;
mod schema;
mod sealing;
mod sending;
mod slots;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod totals;
mod upkeep;
pub mod view;
pub mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ring::rand::{SecureRandom as _, SystemRandom};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior};

use tollgate_metering::event::Event;
use tollgate_time::Timestamp;

use ageing::Ageing;
pub use claim::{Claim, Claimed, Settled};
pub use links::Links;
use schema::{LEFT_BEHIND, MIGRATIONS, SCHEMA};
pub use sealing::Sealing;
pub use totals::{Contents, Totals};
pub use upkeep::Summary;

/// The file's name in the state folder.
pub const FILE_NAME: &str = "usage.sqlite";

/// Pages that SQLite keeps in memory, in KiB: an hour's working set is small.
const CACHE_KIB: i64 = 512;

/// Statements kept ready: more than this module has, or looking at the hours would drop those of the intake.
const STATEMENTS_MAX: usize = 64;

/// SQLite folds the WAL back into the file at this many pages of 4 KiB, so that it stays below some 8 MiB; the ledger's
/// thread does so before (`folding`).
const CHECKPOINT_PAGES_MAX: u64 = 2048;

/// Below it there would be a fold with every commit.
const CHECKPOINT_PAGES_MIN: u64 = 16;

/// The WAL takes at most this part of `ledger_bytes_max`.
const WAL_PART: u64 = 16;

const PAGE_BYTES: u64 = 4096;

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
    #[error("{path} is damaged or no ledger ({detail}); a start that sees it sets it aside and keeps it")]
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
    /// It was written by an older tollgate, and is only looked at.
    #[error(
        "{0} is a ledger of an older version: the sidecar upgrades it at its next start, and then it can be read"
    )]
    Old(PathBuf),
    /// Nothing was ever committed to it.
    #[error("{0} is empty: no usage was counted in it; the sidecar begins a ledger there at its next start")]
    Empty(PathBuf),
    /// It is a database, but none of ours.
    #[error(
        "{0} is a database of another program; move it away, or give tollgate a state_dir of its own (nothing was written to it)"
    )]
    Foreign(PathBuf),
    /// What lies under one of its names is no file.
    #[error(
        "{path} is {what}; tollgate uses a regular file there: remove it (nothing was written through it)"
    )]
    OddFile {
        /// What lies there.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// It reached `ledger_bytes_max`.
    #[error("the ledger is full ({bytes} of {bytes_max} bytes, ledger_bytes_max): {contents}")]
    Full {
        /// Its size.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
        /// What fills it.
        contents: Contents,
    },
    /// The disk does not do what it should.
    #[error("the ledger cannot be read or written: {0}")]
    Io(String),
}

impl LedgerError {
    /// Why a commit failed, for a metric.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        if matches!(self, Self::Full { .. }) { "full" } else { "unwritable" }
    }
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
    /// How long an event's `id` is remembered, at least.
    pub idempotency_window: Duration,
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
    /// Its customer is reported in the other form, legacy or by a license, in its hour: not counted, or AWS would bill
    /// both.
    OtherForm,
}

/// An open ledger.
#[derive(Debug)]
pub struct Ledger {
    connection: Connection,
    path: PathBuf,
    settings: Settings,
    mark: mark::Mark,
    progress: sealing::Progress,
    ageing: Ageing,
    folding: folding::Folding,
    /// Transactions that this process wrote.
    written: u64,
    /// Of a ledger that is only looked at; else SQLite holds the locks.
    lock: Option<std::fs::File>,
}

impl Ledger {
    /// Opens the ledger in `folder`, making it if there is none. A file that is damaged beyond use is set aside, kept
    /// and named, and a new one begins.
    pub fn open(folder: &Path, settings: Settings) -> Result<Self, LedgerError> {
        let path = folder.join(FILE_NAME);
        let mut opened = Self::open_file(&path, settings.clone());
        // What it stumbled over may be damage: only with a look at the whole file is that certain.
        if matches!(opened, Err(LedgerError::Io(_))) && quarantine::is_suspect(&path) {
            opened = Self::open_file(&path, settings.clone());
        }
        match opened {
            Err(LedgerError::Damaged { path, detail }) => {
                quarantine::set_aside(&path, settings.started_at, &detail)?;
                Self::open_file(&path, settings)
            }
            other => other,
        }
    }

    /// Opens the ledger of a sidecar that does not run, to repair records. It is the same pod's as before.
    pub fn open_existing(folder: &Path) -> Result<Self, LedgerError> {
        match Self::inspect(folder) {
            Ok(_) | Err(LedgerError::Old(_)) => {}
            Err(error) => return Err(error),
        }
        let mut ledger = Self::connect(&folder.join(FILE_NAME), visitor())?;
        ledger.upgrade()?;
        let pod = ledger.reading(|connection| meta(connection, "pod"))?;
        ledger.settings.pod = pod.unwrap_or_default();
        ledger.keep_tidy()?;
        Ok(ledger)
    }

    fn open_file(path: &Path, settings: Settings) -> Result<Self, LedgerError> {
        let mut ledger = Self::connect(path, settings)?;
        let suspect = quarantine::is_suspect(path);
        if suspect {
            ledger.check_structure()?;
        }
        ledger.check_schema()?;
        let upgraded = ledger.upgrade()?;
        ledger.check_balance()?;
        if suspect {
            ledger.reading(rows::read_all)?;
            quarantine::clear(path);
        }
        ledger.adopt()?;
        ledger.keep_tidy()?;
        if !upgraded {
            ledger.remove_copies();
        }
        Ok(ledger)
    }

    /// Connects and finds out whether the file is what it was; until that is known, nothing is written, not even what
    /// SQLite would fold back on closing.
    fn connect(path: &Path, settings: Settings) -> Result<Self, LedgerError> {
        let path = &files::prepare(path)?;
        let damaged = |error: rusqlite::Error| classify(path, &error);
        let mut connection = Connection::open_with_flags(path, files::flags()).map_err(damaged)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(damaged)?;
        connection.busy_timeout(Duration::ZERO).map_err(damaged)?;
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE").map_err(damaged)?;
        check_version(&mut connection, path)?;
        let mark = mark::Mark::open(&connection, path)?;
        // A container may have no folder for temporary files; no question of ours sorts more than the unsent records.
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
        let pages = log_pages_max(settings.bytes_max);
        let limit = rows::signed(pages * PAGE_BYTES);
        connection.pragma_update(None, "wal_autocheckpoint", rows::signed(pages)).map_err(damaged)?;
        connection.pragma_update(None, "journal_size_limit", limit).map_err(damaged)?;
        amount::register(&connection).map_err(damaged)?;
        Ok(Self::of(connection, path.to_owned(), settings, mark))
    }

    fn of(connection: Connection, path: PathBuf, settings: Settings, mark: mark::Mark) -> Self {
        let folding = folding::Folding::below(log_pages_max(settings.bytes_max));
        let progress = sealing::Progress::begin();
        Self {
            connection,
            path,
            settings,
            mark,
            progress,
            ageing: Ageing::default(),
            folding,
            written: 0,
            lock: None,
        }
    }

    /// From here on SQLite folds its WAL back when it closes the file.
    fn keep_tidy(&self) -> Result<(), LedgerError> {
        self.reading(|connection| {
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).map(|_| ())
        })
    }

    /// Makes what an earlier process left this one's.
    fn adopt(&mut self) -> Result<(), LedgerError> {
        let path = self.path.clone();
        let opened = self.write("open", |transaction, settings| {
            if let Some(held) = rows::adopt_product(transaction, &settings.product)? {
                return Ok(Err(held));
            }
            // Whoever wrote this ended between a call and its answer.
            transaction
                .execute("UPDATE records SET in_doubt = 1, attempting = 0 WHERE attempting = 1", [])?;
            claim::adopt(transaction)?;
            ageing::interrupted(transaction)?;
            totals::restore_counts(transaction)?;
            upkeep::begin_to_forget(transaction, settings, settings.started_at)?;
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
        let done = self.transact(name, work);
        done.map_err(|error| self.seen(error))
    }

    fn transact<T>(
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
        let done = work(&transaction, &self.settings).map_err(|error| {
            // A row that changed on the disk breaks rules that no statement of ours breaks, or one of ours is wrong.
            if error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation) {
                quarantine::suspect(&self.path);
            }
            failed(error)
        })?;
        // Hours are looked at every second: what changes nothing must not cost a write.
        let changed = changes(&transaction).map_err(failed)? != before;
        if changed {
            mark::count(&transaction).map_err(failed)?;
            step(name, "before");
        }
        transaction.commit().map_err(failed)?;
        if changed {
            step(name, "after");
            self.written += 1;
            self.mark.counted(&self.connection);
            // What was just acknowledged is younger than all that waits.
            if name != "take" {
                self.ageing.forget();
            }
        }
        Ok(done)
    }

    fn reading<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, LedgerError> {
        read(&self.connection).map_err(|error| self.seen(classify(&self.path, &error)))
    }

    /// Damage that was seen in use is looked for by the next start. A look changes nothing.
    fn seen(&self, error: LedgerError) -> LedgerError {
        if matches!(error, LedgerError::Damaged { .. }) && self.lock.is_none() {
            quarantine::suspect(&self.path);
        }
        error
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
        if !self.is_full()? {
            return Ok(());
        }
        let (bytes, bytes_max) = (self.bytes()?, self.settings.bytes_max);
        Err(LedgerError::Full { bytes, bytes_max, contents: self.contents()? })
    }

    /// Whether it has reached its limit, and takes no events until there is room.
    pub fn is_full(&self) -> Result<bool, LedgerError> {
        let bytes_max = self.settings.bytes_max;
        if self.bytes()? < bytes_max {
            return Ok(false);
        }
        // What the WAL holds may fit the room that the file has.
        if self.wal_bytes() > 0 {
            self.reading(|connection| {
                connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            })?;
        }
        Ok(self.bytes()? >= bytes_max)
    }

    /// What is in the ledger, by kind.
    pub fn contents(&self) -> Result<Contents, LedgerError> {
        self.reading(totals::contents)
    }

    /// The size of the data and of the WAL, without what SQLite keeps free for reuse. A commit may add to it, so the
    /// files may be larger than the limit by as much as one group of events writes.
    pub fn bytes(&self) -> Result<u64, LedgerError> {
        // Asked before each commit, so from the cache of statements.
        let number = |connection: &Connection, sql: &str| -> rusqlite::Result<i64> {
            connection.prepare_cached(sql)?.query_row([], |row| row.get(0))
        };
        let pages = self.reading(|connection| {
            let free = number(connection, "PRAGMA freelist_count")?;
            Ok(number(connection, "PRAGMA page_count")?.saturating_sub(free))
        })?;
        Ok(u64::try_from(pages).unwrap_or_default().saturating_mul(PAGE_BYTES) + self.wal_bytes())
    }

    fn wal_bytes(&self) -> u64 {
        std::fs::metadata(quarantine::with_end(&self.path, "-wal")).map_or(0, |file| file.len())
    }

    /// For each dimension: what was acknowledged, and where it went.
    pub fn totals(&self) -> Result<BTreeMap<String, Totals>, LedgerError> {
        self.reading(totals::read)
    }

    /// Reads the whole file and checks its structure, its rows and its balance; slow, for `doctor` and after damage.
    pub fn check(&self) -> Result<(), LedgerError> {
        self.check_structure()?;
        self.check_schema()?;
        self.check_balance()?;
        self.reading(rows::read_all)
    }

    fn check_structure(&self) -> Result<(), LedgerError> {
        let verdict: String = self
            .reading(|connection| connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)))?;
        if verdict == "ok" { Ok(()) } else { Err(self.damaged(verdict)) }
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
        // What an upgrade leaves behind goes when it is empty.
        let may_be_gone = |name: &str| {
            stored == MIGRATIONS.len()
                && LEFT_BEHIND.iter().any(|table| name.ends_with(&format!(" of {table}")))
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

    /// What SQLite cannot see: a number that changed on the disk. Counts all rows.
    fn check_balance(&self) -> Result<(), LedgerError> {
        let (kept, counted) = (self.totals()?, self.reading(totals::recount)?);
        if kept != counted {
            return Err(self.damaged(format!("its totals are {kept:?}, and its rows are {counted:?}")));
        }
        self.check_law()
    }

    /// The totals by themselves. No committed state is out of balance.
    fn check_law(&self) -> Result<(), LedgerError> {
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

/// Who looks at a ledger or repairs it, and neither counts nor sends.
const fn visitor() -> Settings {
    Settings {
        product: String::new(),
        pod: String::new(),
        settle: Duration::ZERO,
        bytes_max: u64::MAX,
        started_at: Timestamp::from_unix_seconds(0),
        zero_dimensions: Vec::new(),
        aws_door: false,
        idempotency_window: Duration::ZERO,
    }
}

/// Pages of the WAL at which SQLite folds it by itself.
fn log_pages_max(bytes_max: u64) -> u64 {
    (bytes_max / WAL_PART / PAGE_BYTES).clamp(CHECKPOINT_PAGES_MIN, CHECKPOINT_PAGES_MAX)
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

const SET_META: &str = "INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)";

fn set_meta(connection: &Connection, key: &str, value: &str) -> rusqlite::Result<()> {
    let mut put = connection.prepare_cached(SET_META)?;
    put.execute([key, value]).map(|_| ())
}

/// A newer file is refused before anything is written to it.
fn check_version(connection: &mut Connection, path: &Path) -> Result<(), LedgerError> {
    let failed = |error: rusqlite::Error| classify(path, &error);
    if !has_meta(connection).map_err(failed)? {
        return if is_foreign(connection, path).map_err(failed)? {
            Err(LedgerError::Foreign(path.to_owned()))
        } else {
            Ok(())
        };
    }
    let min_reader = meta(connection, "min_reader").map_err(failed)?;
    match min_reader.as_deref().map(str::parse::<i64>) {
        Some(Ok(min_reader)) if min_reader <= SCHEMA => Ok(()),
        Some(Ok(min_reader)) => Err(LedgerError::TooNew { path: path.to_owned(), min_reader }),
        _ => Err(LedgerError::Damaged { path: path.to_owned(), detail: "min_reader is missing".to_owned() }),
    }
}

/// A database with tables, of which none is ours. One that has a mark was ours, and is damaged.
fn is_foreign(connection: &Connection, path: &Path) -> rusqlite::Result<bool> {
    let (all, ours): (i64, i64) = connection.query_row(
        "SELECT count(*), count(*) FILTER (WHERE name IN ('records', 'slots', 'sums', 'totals')) FROM sqlite_master",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    Ok(all > 0 && ours == 0 && !quarantine::mark_path(path).exists())
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
        // A value that changed has a length that no value has.
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

/// A step at which the kill campaign may end the process.
#[cfg(feature = "fail-points")]
fn step(name: &str, side: &str) {
    fail_point::reach(&format!("{name}-{side}-commit"));
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

#[cfg(test)]
mod tests;
