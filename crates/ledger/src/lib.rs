//! The ledger: acknowledged usage on disk, in SQLite. Only this crate reads and writes the file format. The parts of a
//! process use it through the traits of `store`.
//!
//! # Invariants
//! - Acknowledged usage is in a committed transaction whose fsync is done (`synchronous=FULL`, WAL).
//! - An event's idempotency key and its quantity are committed in one transaction.
//! - A closed hour takes no more events: later ones count to the current hour, with their own hour in `late_from`. The
//!   same holds for a slot whose hour was sealed before its end (`closing`).
//! - A record is written once, when its hour is sealed; afterwards only its state, attempts and AWS's answer change.
//! - An attempt is on disk before the call. A record that was attempted and has no definite answer is in doubt.
//! - accepted + rounded up = billed + pending + dead + discarded + remainder, for each dimension, in every committed
//!   state.
//! - One process at a time (`locking_mode=EXCLUSIVE`).
//! - A clock that jumps back never orphans usage: the hours that it had closed are open again, usage that it had put
//!   into them counts to the current hour, and a slot that has a record takes no second one.
//! - Lost transactions are detected: the mark file beside the ledger counts all that were committed (`mark`).
//! - Memory is bounded by the size of one slot, not by the number of slots or records: long work is done in small
//!   transactions.
//!
//! # Schema 4
//! - `meta(key, value)`: `schema`, `min_reader`, `ledger_id`, `product`, `sequence` (transactions so far),
//!   `last_closed` and `sealed_early` (numbers of hours, see `closing`), `forgotten_before`, `key_time` and `key_hour`
//!   (see `keys`), `denied` (AWS's latest answer, see `sending`), `running_seconds` (see `ageing`), `pod` and
//!   `started_at` (when its first process started), `rules` (see `rules`); during an upgrade also the notes of
//!   `migration` and `keys`; `move` once it moves to another store (see `moving`).
//! - `slots(…)`: open usage, unique by (hour, pod, customer, dimension). `aggregation` is the rule that it began with,
//!   as text. `amount` is the untagged share of its events, their sum or their largest, `additive` the untagged share
//!   of what was carried or replayed into it, `total` the sum of all shares; `tagged` and `tag_bytes` are the number
//!   and the bytes of the tag sets in `shares(slot, tags, amount, additive)`. All in the event's own unit.
//! - `records(…)`: sealed hours; unique by (pod, customer, dimension, hour). `micros` and `allocations` are in the unit
//!   that AWS bills; `raw` is the same in the event's own unit where that is another number, `rounded` what rounding
//!   added to the hour less the credit that it used.
//! - `remainders(customer, dimension, scale, amount)`: what stays for the next hour (`remainders`).
//! - `totals(dimension, …)` and `counts(name, held)`: kept by triggers (`totals`).
//! - `keys_0` to `keys_3(hash, content)` and `key_tables(number, turn, first_at, last_at, held)`: see `keys`.
//! - `forms(hour, account, licensed)` and `identities(identifier, account)`: see `forms`.
//! - `links(source, slot, target)`: which record's quantity was carried or replayed into which slot, later record
//!   (`links`).
//! - `audit(id, at, record, action, note)`: what people did to records (`repair`).
//! - `licenses(license, account, agreement, event_at, deprovisioned_at)` and `marketplace_events(id, seen_at)`: what
//!   AWS Marketplace said about licenses (`lifecycle`).
//!
//! A newer schema that an older program may still write raises `schema` and leaves `min_reader`. A program refuses a
//! file whose `min_reader` is above its own schema, and writes nothing to it.

mod ageing;
mod amount;
mod checkpoint;
mod claim;
mod closing;
mod counting;
mod database;
pub mod engine;
#[cfg(any(test, feature = "fail-points"))]
pub mod fail_point;
mod files;
mod forms;
pub mod gather;
mod inspect;
mod keys;
pub mod lifecycle;
mod links;
mod mark;
mod migration;
pub mod moving;
mod open;
mod quarantine;
mod remainders;
pub mod repair;
mod rows;
mod rules;
mod schema;
mod sealing;
mod sending;
mod slots;
pub mod store;
pub mod stored;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod totals;
mod upkeep;
pub mod view;
pub mod writer;

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ring::rand::{SecureRandom as _, SystemRandom};
use rusqlite::Transaction;

use tollgate_metering::aggregation::{Rule, Rules};
use tollgate_metering::event::Event;
use tollgate_time::Timestamp;

use ageing::Ageing;
pub use ageing::is_denial;
pub use claim::{Claim, Claimed, Settled};
pub use closing::HoursAt;
pub use database::Database;
use database::{classify, has_meta, meta, schema_number, set_meta};
pub use forms::{Form, IDENTITIES_MAX};
pub use lifecycle::Flushed;
pub use links::{Links, SHOWN_LINKS_MAX};
pub use rows::OTHER_FORM;
use schema::SCHEMA;
pub use sealing::{AHEAD_HOURS_MAX, Sealing};
pub use sending::DUE_AHEAD_MAX;
pub use slots::{TAG_BYTES_MAX, TAGGED_SETS_MAX};
pub use totals::{Contents, Totals};
pub use upkeep::Summary;

/// The file's name in the state folder.
pub const FILE_NAME: &str = "usage.sqlite";

const PAGE_BYTES: u64 = 4096;

/// SQLite itself checkpoints the WAL into the file at this many pages of 4 KiB, so that the WAL stays below about 8
/// MiB; the ledger's thread does it earlier (`checkpoint`).
const CHECKPOINT_PAGES_MAX: u64 = 2048;

/// Below this there would be a checkpoint with every commit.
const CHECKPOINT_PAGES_MIN: u64 = 16;

/// The WAL takes at most 1/16 of `ledger_bytes_max`.
const WAL_PART: u64 = 16;

/// Why the ledger cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LedgerError {
    /// What the step was to write may have been written, or not: the answer to its commit was lost.
    #[error("{0}")]
    Uncertain(String),
    /// Another process uses it.
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
        /// The oldest schema that may read it.
        min_reader: i64,
    },
    /// It is not a ledger, or it is damaged.
    #[error(
        "{path} is damaged or not a ledger ({detail}); the sidecar renames it at its next start and keeps it"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// SQLite's error, or the check that failed.
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
    /// An older tollgate wrote it, and it was opened only to be read.
    #[error(
        "{0} is a ledger of an older version: the sidecar upgrades it at its next start, and then it can be read"
    )]
    Old(PathBuf),
    /// Nothing was ever committed to it.
    #[error("{0} is empty: no usage was counted in it; the sidecar creates a ledger there at its next start")]
    Empty(PathBuf),
    /// It is being moved to another store.
    #[error(
        "{path} is being moved to {to} and takes no usage: finish the move with `tollgate-saas ledger move`"
    )]
    Moving {
        /// The file.
        path: PathBuf,
        /// Where its usage goes, without a password.
        to: String,
    },
    /// It was moved to another store.
    #[error(
        "the usage in {path} was moved to {to}, which counts on: use ledger_url_file with that database, or give this \
         sidecar a state_dir of its own"
    )]
    Moved {
        /// The file.
        path: PathBuf,
        /// Where its usage is, without a password.
        to: String,
    },
    /// A database of another program.
    #[error(
        "{0} is a database of another program; move it away, or give tollgate a state_dir of its own (nothing was \
         written to it)"
    )]
    Foreign(PathBuf),
    /// Under one of the ledger's names there is something other than a regular file.
    #[error(
        "{path} is {what}; tollgate uses a regular file there: remove it (nothing was written through it)"
    )]
    OddFile {
        /// The file.
        path: PathBuf,
        /// What kind of file it is.
        what: &'static str,
    },
    /// It reached `ledger_bytes_max`.
    #[error("the ledger is full ({bytes} of {bytes_max} bytes, ledger_bytes_max): {contents}")]
    Full {
        /// The ledger's size.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
        /// What fills it.
        contents: Contents,
    },
    /// The database that holds it must not be used as it is: a person has to change something.
    #[error("the ledger's database cannot be used: {0}")]
    Unusable(String),
    /// The disk failed, or is full; or the database does not answer. It may work again by itself.
    #[error("the ledger cannot be read or written: {0}")]
    Io(String),
    /// Another replica seals and sends now.
    #[error("another replica sends the usage of this ledger now")]
    NotLeading,
}

impl LedgerError {
    /// The value of the metric's label `reason` for a commit that failed.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        if matches!(self, Self::Full { .. }) { "full" } else { "unwritable" }
    }
}

/// How a sidecar uses the ledger.
#[derive(Debug, Clone)]
pub struct LedgerSettings {
    /// The metered product: its usage is never reported as another product's.
    pub product: String,
    /// Whose usage it is: the pod in mode `metered`, empty in `saas`, where AWS does not look at the pod.
    pub pod: String,
    /// How long after its end an hour still takes its own late events.
    pub settle: Duration,
    /// At this size and above, events are refused.
    pub bytes_max: u64,
    /// When this process started. AWS takes no usage from before the software started. Where a pod had several
    /// processes, the start of the first one counts.
    pub started_at: Timestamp,
    /// Report 0 for these dimensions in an hour without usage (`on_zero_hour = "report"`).
    pub zero_dimensions: Vec<String>,
    /// The application may itself report hours, through the AWS door.
    pub aws_door: bool,
    /// For how long an event's `id` is remembered, at least.
    pub idempotency_window: Duration,
    /// How each dimension is metered.
    pub rules: Rules,
}

/// What the ledger did with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// Counted.
    Accepted,
    /// The same key came before with the same content, and was counted then.
    Duplicate,
    /// The same key came before with other content: not counted.
    Conflict,
    /// Its customer is reported in another form (`forms`) in this hour. It is not counted, because AWS would bill both.
    OtherForm,
    /// Its license has ended (`lifecycle`). It is not counted, because AWS does not accept it.
    Deprovisioned,
    /// Its hour began with this rule, and its dimension has another one now. It is not counted: the hour is billed by
    /// its own rule, and usage by the new one counts from the next hour on.
    OtherRule(Rule),
}

impl Taken {
    /// Whether the event is in the ledger: counted now, or before.
    #[must_use]
    pub const fn is_counted(self) -> bool {
        matches!(self, Self::Accepted | Self::Duplicate)
    }
}

/// The ledger of a running sidecar: the file and that sidecar's settings.
#[derive(Debug)]
pub struct Ledger {
    database: Database,
    settings: LedgerSettings,
    progress: sealing::Progress,
    ageing: Ageing,
    checkpoint_limit: checkpoint::CheckpointLimit,
    /// Slots of an earlier process may have another rule than their dimension.
    rules_differ: bool,
}

/// For reading. There is no `DerefMut`: all writing goes through `Ledger::write`.
impl Deref for Ledger {
    type Target = Database;

    fn deref(&self) -> &Database {
        &self.database
    }
}

impl Ledger {
    /// Opens the ledger in `folder`; makes one if there is none. A file that is damaged beyond use is renamed and kept,
    /// and a new ledger is made.
    pub fn open(folder: &Path, settings: LedgerSettings) -> Result<Self, LedgerError> {
        let path = folder.join(FILE_NAME);
        let mut opened = Self::open_file(&path, settings.clone());
        // The error may come from damage. The second attempt checks the whole file, which finds that out.
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

    fn open_file(path: &Path, settings: LedgerSettings) -> Result<Self, LedgerError> {
        let log_pages = log_pages_max(settings.bytes_max);
        let mut database = Database::connect(path, log_pages)?;
        let suspect = quarantine::is_suspect(path);
        if suspect {
            database.check_structure()?;
        }
        database.check_schema()?;
        let upgraded = database.upgrade()?;
        database.check_balance()?;
        if suspect {
            database.reading(rows::read_all)?;
            quarantine::clear(path);
        }
        let mut ledger = Self {
            database,
            settings,
            progress: sealing::Progress::begin(),
            ageing: Ageing::default(),
            checkpoint_limit: checkpoint::CheckpointLimit::below(log_pages),
            rules_differ: true,
        };
        ledger.adopt()?;
        ledger.keep_tidy()?;
        if !upgraded {
            ledger.remove_copies();
        }
        Ok(ledger)
    }

    /// Takes over what an earlier process left.
    fn adopt(&mut self) -> Result<(), LedgerError> {
        let path = self.path.clone();
        let opened = self.write("open", |transaction, settings| {
            if let Some(held) = rows::adopt_product(transaction, &settings.product)? {
                return Ok(Err(held));
            }
            // The process that wrote these ended between a call and its answer.
            transaction
                .execute("UPDATE records SET in_doubt = 1, attempting = 0 WHERE attempting = 1", [])?;
            claim::adopt(transaction)?;
            ageing::interrupted(transaction)?;
            totals::restore_counts(transaction)?;
            upkeep::begin_to_forget(transaction, settings, settings.started_at)?;
            rules::adopt(transaction, &settings.rules)?;
            rows::started_at(transaction, &settings.pod, settings.started_at).map(Ok)
        })?;
        match opened {
            Ok(started_at) => {
                self.settings.started_at = started_at;
                self.rules_differ =
                    self.reading(|connection| rules::differ(connection, &self.settings.rules))?;
                Ok(())
            }
            Err(held) => Err(LedgerError::OtherProduct { path, held, asked: self.settings.product.clone() }),
        }
    }

    /// Does `work` in one transaction. On return the transaction is on disk and counted in the mark.
    fn write<T>(
        &mut self,
        name: &str,
        work: impl FnOnce(&Transaction<'_>, &LedgerSettings) -> rusqlite::Result<T>,
    ) -> Result<T, LedgerError> {
        let before = self.database.written;
        let done = self.database.write(name, |transaction| work(transaction, &self.settings))?;
        // Usage that was just acknowledged is younger than all other usage: the oldest stays the oldest.
        if name != "take" && self.database.written > before {
            self.ageing.forget();
        }
        Ok(done)
    }

    /// The process started at `now` at the latest: a later start came from a clock that was ahead.
    fn observe(&mut self, now: Timestamp) {
        self.settings.started_at = self.settings.started_at.min(now);
    }

    /// Counts events in one transaction; on return they are on disk.
    pub fn take(&mut self, events: &[Event], now: Timestamp) -> Result<Vec<Taken>, LedgerError> {
        self.check_size()?;
        self.take_time(events, now)
    }

    /// Counts time, also if the ledger is full: see [`store::Store::take_time`].
    pub fn take_time(&mut self, events: &[Event], now: Timestamp) -> Result<Vec<Taken>, LedgerError> {
        self.observe(now);
        let rules_differ = self.rules_differ;
        self.write("take", |transaction, settings| {
            counting::count(transaction, settings, rules_differ, events, now)
        })
    }

    /// Counts all of these events, or none if one of them cannot be counted.
    pub fn take_whole(&mut self, events: &[Event], now: Timestamp) -> Result<Vec<Taken>, LedgerError> {
        self.check_size()?;
        self.observe(now);
        let rules_differ = self.rules_differ;
        self.write("take", |transaction, settings| {
            transaction.execute_batch("SAVEPOINT whole")?;
            let taken = counting::count(transaction, settings, rules_differ, events, now)?;
            if !taken.iter().all(|taken| taken.is_counted()) {
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

    /// Whether it has reached its limit. While it has, it takes no events.
    pub fn is_full(&self) -> Result<bool, LedgerError> {
        let bytes_max = self.settings.bytes_max;
        if self.bytes()? < bytes_max {
            return Ok(false);
        }
        // The WAL's content may fit into free pages of the file.
        if self.wal_bytes() > 0 {
            self.reading(|connection| {
                connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            })?;
        }
        Ok(self.bytes()? >= bytes_max)
    }
}

/// At how many pages of the WAL SQLite checkpoints it by itself.
fn log_pages_max(bytes_max: u64) -> u64 {
    (bytes_max / WAL_PART / PAGE_BYTES).clamp(CHECKPOINT_PAGES_MIN, CHECKPOINT_PAGES_MAX)
}

#[derive(Debug, thiserror::Error)]
#[error("no random bytes")]
struct NoEntropy;

/// 128 random bits as hexadecimal text.
fn random_hex() -> rusqlite::Result<String> {
    let mut bytes = [0; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| rusqlite::Error::ToSqlConversionFailure(Box::new(NoEntropy)))?;
    Ok(hex(&bytes))
}

/// Bytes as hexadecimal text.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads hexadecimal text.
fn unhex(text: &str) -> Option<Vec<u8>> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if digits && text.len().is_multiple_of(2) { text.as_bytes().chunks(2).map(byte).collect() } else { None }
}

#[cfg(test)]
mod tests;
