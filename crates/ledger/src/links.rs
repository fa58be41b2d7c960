//! Links between a record and the later record that contains its carried quantity: first from the record to the slot
//! that it was added to, then to the record that the slot was sealed into. A person can follow them in both directions.

use rusqlite::{Connection, OptionalExtension as _, Transaction};

use super::{Database, LedgerError};

/// Most links that are shown of one record, such as one that contains a thousand replayed dead letters.
pub const SHOWN_LINKS_MAX: i64 = 100;

/// A record's neighbours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Links {
    /// The record that contains its quantity now; the inner `None` while that hour is open.
    pub counts_in: Option<Option<i64>>,
    /// Records whose quantities are in it, oldest first, at most 100.
    pub includes: Vec<i64>,
}

/// Notes that the record's quantity was added to this slot.
pub(super) fn carried(transaction: &Transaction<'_>, source: i64, slot: i64) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("INSERT INTO links (source, slot) VALUES (?1, ?2)")?
        .execute([source, slot])
        .map(|_| ())
}

/// Notes that a slot's usage was moved to another slot.
pub(super) fn moved(transaction: &Transaction<'_>, from: i64, to: i64) -> rusqlite::Result<()> {
    transaction.prepare_cached("UPDATE links SET slot = ?2 WHERE slot = ?1")?.execute([from, to]).map(|_| ())
}

/// Whether a record's quantity was added to this slot.
pub(super) fn lead_to(connection: &Connection, slot: i64) -> rusqlite::Result<bool> {
    connection.prepare_cached("SELECT 1 FROM links WHERE slot = ?1")?.exists([slot])
}

/// Notes that the slot was sealed into this record.
pub(super) fn sealed(transaction: &Transaction<'_>, slot: i64, target: i64) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("UPDATE links SET slot = NULL, target = ?2 WHERE slot = ?1")?
        .execute([slot, target])
        .map(|_| ())
}

impl Database {
    /// Where a record's quantity counts now, and which records' quantities it contains.
    pub fn links(&self, id: i64) -> Result<Links, LedgerError> {
        self.reading(|connection| {
            let counts_in = connection
                .prepare_cached("SELECT target FROM links WHERE source = ?1 ORDER BY rowid DESC LIMIT 1")?
                .query_row([id], |row| row.get(0))
                .optional()?;
            let mut sources = connection
                .prepare_cached("SELECT source FROM links WHERE target = ?1 ORDER BY source LIMIT ?2")?;
            let includes = sources.query_map([id, SHOWN_LINKS_MAX], |row| row.get(0))?;
            Ok(Links { counts_in, includes: includes.collect::<rusqlite::Result<_>>()? })
        })
    }
}
