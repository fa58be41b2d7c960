//! Fixtures for tests of the ledger and of its users.

pub mod bare;
pub mod foreseen;
pub mod licenses;
pub mod model;

use std::time::Duration;

use rusqlite::Connection;

use crate::rows::{self, COLUMNS};
use crate::view::{From, Looked, OpenSlot};
use crate::writer::Observer;
use crate::{Database, Ledger, LedgerError, LedgerSettings};
use tollgate_marketplace::{Hour, TagSet};
use tollgate_metering::aggregation::Rules;
use tollgate_metering::record::{Answered, Noted, Record};
use tollgate_time::Timestamp;

/// 2026-11-24T08:00:00Z, the start of an hour.
pub const START: Timestamp = Timestamp::from_unix_seconds(1_795_507_200);

/// How long an hour takes its own late events.
pub const SETTLE: Duration = Duration::from_secs(120);

/// A folder in memory if the system has one: no test here is about the disk's speed.
#[must_use]
pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder can be made")
}

/// Settings of a pod that meters the example product.
#[must_use]
pub fn settings(pod: &str) -> LedgerSettings {
    LedgerSettings {
        product: "demometered".to_owned(),
        pod: pod.to_owned(),
        settle: SETTLE,
        bytes_max: 1 << 30,
        started_at: START,
        zero_dimensions: Vec::new(),
        aws_door: false,
        idempotency_window: Duration::from_secs(48 * 3600),
        rules: Rules::default(),
    }
}

/// Looks at no commit.
#[derive(Debug, Clone, Copy)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn committed(&mut self, _: Duration) {}
    fn failed(&mut self, _: &LedgerError) {}
}

/// Makes the ledger refuse every write, as with a full disk, or accept writes again.
pub fn refuse_writes(ledger: &mut Ledger, refuse: bool) -> Result<(), LedgerError> {
    ledger.reading(|connection| connection.pragma_update(None, "query_only", refuse))
}

/// Pages that commits have added to the write-ahead log, and rows that they changed.
fn written(connection: &Connection) -> rusqlite::Result<(i64, i64)> {
    let pages = connection.query_row("PRAGMA wal_checkpoint(NOOP)", [], |row| row.get(1))?;
    let rows = connection.query_row("SELECT total_changes()", [], |row| row.get(0))?;
    Ok((pages, rows))
}

/// Usage of one tag set in an open hour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenUsage {
    /// The hour that it counts to.
    pub hour: Hour,
    /// Whose it is, as views show it.
    pub customer: String,
    /// What was used.
    pub dimension: String,
    /// The tags; empty for the untagged share.
    pub tags: TagSet,
    /// How much, in millionths.
    pub micros: i128,
    /// The earliest hour that some of it came from, if that hour was already closed.
    pub late_from: Option<Hour>,
}

impl OpenUsage {
    /// The usage of a slot.
    pub fn of(slot: &OpenSlot) -> impl Iterator<Item = Self> {
        slot.shares.iter().map(|(tags, micros)| Self {
            hour: slot.hour,
            customer: slot.customer.clone(),
            dimension: slot.dimension.clone(),
            tags: tags.clone(),
            micros: *micros,
            late_from: slot.late_from,
        })
    }
}

impl Database {
    /// Pages that commits have added to the write-ahead log, and rows that they changed.
    pub fn written(&self) -> Result<(i64, i64), LedgerError> {
        self.reading(written)
    }

    /// Records in the order of their hours, without their allocations.
    pub fn records(&self, limit: usize) -> Result<Vec<Record>, LedgerError> {
        self.listed("1", limit)
    }

    /// Records without a definite answer of AWS.
    pub fn unsent(&self, limit: usize) -> Result<Vec<Record>, LedgerError> {
        self.listed("state = 'sealed'", limit)
    }

    /// Dead letters.
    pub fn dead_letters(&self, limit: usize) -> Result<Vec<Record>, LedgerError> {
        self.listed("state = 'dead'", limit)
    }

    /// All usage that is not sealed.
    pub fn all_open(&self) -> Result<Vec<OpenUsage>, LedgerError> {
        let (mut all, mut next) = (Vec::new(), Some(From::default()));
        while let Some(from) = next {
            let piece = self.read_open(None, &Looked::default(), &from, usize::MAX)?;
            all.extend(piece.rows.iter().flat_map(OpenUsage::of));
            next = piece.next;
        }
        Ok(all)
    }

    fn listed(&self, condition: &str, limit: usize) -> Result<Vec<Record>, LedgerError> {
        let sql = format!("SELECT {COLUMNS} FROM records WHERE {condition} ORDER BY hour, id LIMIT ?1");
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.reading(|connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            statement.query_map([limit], rows::record)?.collect()
        })
    }
}

impl Ledger {
    /// Notes one answer or decision about a record.
    pub fn answered(&mut self, id: i64, answered: &Answered, now: Timestamp) -> Result<(), LedgerError> {
        let noted = Noted { id, answered: answered.clone(), due_at: None };
        self.answered_all(&[noted], None, now)
    }
}
