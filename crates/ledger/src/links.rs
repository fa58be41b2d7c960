//! What became of a record whose quantity counts to a later hour: from the record to the slot that it was added to, and
//! from there to the record that the slot was sealed into. A person who reads one of them finds the other.

use rusqlite::{OptionalExtension as _, Transaction};

use super::{Database, LedgerError};

/// Most links that are shown of one record: a slot that a thousand dead letters were replayed into names some of them.
const SHOWN_MAX: i64 = 100;

/// A record's neighbours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Links {
    /// Where its quantity counts now; `None` in it while that hour is open.
    pub counts_in: Option<Option<i64>>,
    /// Records whose quantities are in it, oldest first, at most 100.
    pub includes: Vec<i64>,
}

/// The record's quantity was added to this slot.
pub(super) fn carried(transaction: &Transaction<'_>, source: i64, slot: i64) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("INSERT INTO links (source, slot) VALUES (?1, ?2)")?
        .execute([source, slot])
        .map(|_| ())
}

/// What was in one slot is in another now.
pub(super) fn moved(transaction: &Transaction<'_>, from: i64, to: i64) -> rusqlite::Result<()> {
    transaction.prepare_cached("UPDATE links SET slot = ?2 WHERE slot = ?1")?.execute([from, to]).map(|_| ())
}

/// The slot was sealed into this record.
pub(super) fn sealed(transaction: &Transaction<'_>, slot: i64, target: i64) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("UPDATE links SET slot = NULL, target = ?2 WHERE slot = ?1")?
        .execute([slot, target])
        .map(|_| ())
}

impl Database {
    /// What a record became, and what is in it.
    pub fn links(&self, id: i64) -> Result<Links, LedgerError> {
        self.reading(|connection| {
            let counts_in = connection
                .prepare_cached("SELECT target FROM links WHERE source = ?1 ORDER BY rowid DESC LIMIT 1")?
                .query_row([id], |row| row.get(0))
                .optional()?;
            let mut sources = connection
                .prepare_cached("SELECT source FROM links WHERE target = ?1 ORDER BY source LIMIT ?2")?;
            let includes = sources.query_map([id, SHOWN_MAX], |row| row.get(0))?;
            Ok(Links { counts_in, includes: includes.collect::<rusqlite::Result<_>>()? })
        })
    }
}
