//! What became of a record whose quantity counts to a later hour: from the record to the slot that it was added to, and
//! from there to the record that the slot was sealed into. A person who reads one of them finds the other.

use rusqlite::{OptionalExtension as _, Transaction, params};

use super::rows::Slot;
use super::{Ledger, LedgerError};

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

/// A slot's number: of the text that names it, FNV-1a, for the moments between its record's carrying and its sealing.
fn number(slot: &Slot) -> i64 {
    let name = format!("{}\n{}\n{}\n{}", slot.hour.number(), slot.pod, slot.customer, slot.dimension);
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    i64::from_ne_bytes(hash.to_ne_bytes())
}

/// The record's quantity was added to this slot.
pub(super) fn carried(transaction: &Transaction<'_>, source: i64, slot: &Slot) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("INSERT INTO links (source, slot) VALUES (?1, ?2)")?
        .execute(params![source, number(slot)])
        .map(|_| ())
}

/// What was in one slot is in another now.
pub(super) fn moved(transaction: &Transaction<'_>, from: &Slot, to: &Slot) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("UPDATE links SET slot = ?2 WHERE slot = ?1 AND target IS NULL")?
        .execute(params![number(from), number(to)])
        .map(|_| ())
}

/// The slot was sealed into this record.
pub(super) fn sealed(transaction: &Transaction<'_>, slot: &Slot, target: i64) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("UPDATE links SET slot = NULL, target = ?2 WHERE slot = ?1 AND target IS NULL")?
        .execute(params![number(slot), target])
        .map(|_| ())
}

/// Links of records that are no more.
pub(super) fn forget(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    transaction.execute("DELETE FROM links WHERE source NOT IN (SELECT id FROM records)", []).map(|_| ())
}

impl Ledger {
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
