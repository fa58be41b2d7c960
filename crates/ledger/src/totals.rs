//! Totals: how much of each dimension was acknowledged, and where it is now. Triggers update them with each change of a
//! row, so reading them needs no scan. A recount from the rows checks them where there is time for it.

use std::collections::BTreeMap;
use std::fmt;

use rusqlite::{Connection, Transaction, params};
use serde::Serialize;

use super::amount::{amount, blob};
use super::keys;

/// A dimension's balance, in millionths of the event's own unit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Acknowledged to applications.
    pub accepted: i128,
    /// Added by rounding, less what was credited to later hours.
    pub rounded_up: i128,
    /// Accepted by AWS.
    pub billed: i128,
    /// In open hours and unsent records.
    pub pending: i128,
    /// In dead letters.
    pub dead: i128,
    /// In discarded dead letters.
    pub discarded: i128,
    /// Too little to be sent so far: it is sent with the next hour's usage.
    pub remainder: i128,
}

impl Totals {
    /// The balance that every committed state keeps.
    #[must_use]
    pub const fn balances(self) -> bool {
        self.accepted + self.rounded_up
            == self.billed + self.pending + self.dead + self.discarded + self.remainder
    }
}

/// What fills a ledger.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Contents {
    /// Idempotency keys that are remembered.
    pub keys: u64,
    /// Open slots and the tag sets in them.
    pub open: u64,
    /// Records that AWS has not answered definitely.
    pub unsent: u64,
    /// Dead letters.
    pub dead: u64,
    /// Settled records that are kept for comparison.
    pub settled: u64,
}

impl fmt::Display for Contents {
    /// The counts, and what to do about the largest part.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Approximate size of each on disk (docs/SIZING.md).
        const KEY_BYTES: u64 = 40;
        const OPEN_BYTES: u64 = 200;
        const RECORD_BYTES: u64 = 500;
        let Self { keys, open, unsent, dead, settled } = *self;
        write!(
            f,
            "it holds {keys} idempotency keys, {open} open slots and tag sets, {unsent} unsent records, {dead} dead letters \
             and {settled} settled records; usage is refused until there is room: raise ledger_bytes_max, or "
        )?;
        let parts = [
            (
                KEY_BYTES * keys,
                "wait: most of it is keys, which go as they grow older than idempotency_window",
            ),
            (OPEN_BYTES * open, "wait: most of it is open usage, which is sealed when its hour ends"),
            (RECORD_BYTES * unsent, "find out why AWS does not take the unsent records"),
            (RECORD_BYTES * dead, "repair the dead letters"),
            (RECORD_BYTES * settled, "wait: most of it is settled records, which are kept for 35 days"),
        ];
        let advice = parts.iter().max_by_key(|(bytes, _)| *bytes).map_or("", |(_, advice)| advice);
        f.write_str(advice)
    }
}

/// Adds to a dimension's acknowledged amount.
pub(super) const ACCEPT: &str = "INSERT INTO totals (dimension, accepted) VALUES (?1, ?2)
    ON CONFLICT (dimension) DO UPDATE SET accepted = plus(accepted, excluded.accepted)";

pub(super) fn accept(transaction: &Transaction<'_>, dimension: &str, added: i128) -> rusqlite::Result<()> {
    transaction.prepare_cached(ACCEPT)?.execute(params![dimension, blob(added)]).map(|_| ())
}

/// All dimensions with any amount.
pub(super) fn read(connection: &Connection) -> rusqlite::Result<BTreeMap<String, Totals>> {
    let mut statement = connection.prepare_cached(
        "SELECT dimension, accepted, rounded_up, billed, pending, dead, discarded, remainder FROM totals",
    )?;
    let mut rows = statement.query([])?;
    let mut all = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let totals = Totals {
            accepted: amount(row, 1)?,
            rounded_up: amount(row, 2)?,
            billed: amount(row, 3)?,
            pending: amount(row, 4)?,
            dead: amount(row, 5)?,
            discarded: amount(row, 6)?,
            remainder: amount(row, 7)?,
        };
        if totals != Totals::default() {
            all.insert(row.get(0)?, totals);
        }
    }
    Ok(all)
}

/// The same from the rows: slow. Amounts without rows (`accepted`, `rounded_up` and what was forgotten) are taken from
/// the totals.
pub(super) fn recount(connection: &Connection) -> rusqlite::Result<BTreeMap<String, Totals>> {
    let mut all: BTreeMap<String, Totals> = BTreeMap::new();
    let mut each = |sql: &str, put: &dyn Fn(&mut Totals, i128)| -> rusqlite::Result<()> {
        let mut statement = connection.prepare(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let dimension = row.get_ref(0)?.as_str()?;
            let counted = amount(row, 1)?;
            match all.get_mut(dimension) {
                Some(totals) => put(totals, counted),
                None => put(all.entry(dimension.to_owned()).or_default(), counted),
            }
        }
        Ok(())
    };
    each("SELECT dimension, accepted FROM totals", &|totals, amount| totals.accepted += amount)?;
    each("SELECT dimension, rounded_up FROM totals", &|totals, amount| totals.rounded_up += amount)?;
    if exists(connection, "remainders")? {
        // A credit has no place in the balance.
        let remainder = |totals: &mut Totals, amount: i128| totals.remainder += amount.max(0);
        each("SELECT dimension, amount FROM remainders", &remainder)?;
    }
    each("SELECT dimension, forgotten_billed FROM totals", &|totals, amount| totals.billed += amount)?;
    each("SELECT dimension, forgotten_discarded FROM totals", &|totals, amount| totals.discarded += amount)?;
    each("SELECT dimension, total FROM slots", &|totals, amount| totals.pending += amount)?;
    if exists(connection, "sums")? {
        each("SELECT dimension, micros FROM sums", &|totals, amount| totals.pending += amount)?;
    }
    let state =
        |state: &str| format!("SELECT dimension, coalesce(raw, micros) FROM records WHERE state = '{state}'");
    each(&state("sealed"), &|totals, amount| totals.pending += amount)?;
    each(&state("accepted"), &|totals, amount| totals.billed += amount)?;
    each(&state("dead"), &|totals, amount| totals.dead += amount)?;
    each(&state("discarded"), &|totals, amount| totals.discarded += amount)?;
    all.retain(|_, totals| *totals != Totals::default());
    Ok(all)
}

/// Whether there is a table of this name.
pub(super) fn exists(connection: &Connection, table: &str) -> rusqlite::Result<bool> {
    connection.prepare("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?1")?.exists([table])
}

/// How many rows of a kind there are.
pub(super) fn count(connection: &Connection, name: &str) -> rusqlite::Result<u64> {
    let mut find = connection.prepare_cached("SELECT held FROM counts WHERE name = ?1")?;
    find.query_row([name], |row| row.get::<_, i64>(0)).map(|held| u64::try_from(held).unwrap_or_default())
}

/// What the ledger holds, from its counters.
pub(super) fn contents(connection: &Connection) -> rusqlite::Result<Contents> {
    let sum =
        |names: &[&str]| names.iter().map(|name| count(connection, name)).sum::<rusqlite::Result<u64>>();
    Ok(Contents {
        keys: u64::try_from(keys::held(connection)?).unwrap_or_default(),
        open: sum(&["slots", "shares"])?,
        unsent: sum(&["sealed", "claimed"])?,
        dead: sum(&["dead"])?,
        settled: sum(&["accepted", "carried", "discarded"])?,
    })
}

/// Recounts the rows that are only displayed. A wrong count is no reason to set a ledger aside.
pub(super) fn restore_counts(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    transaction.execute_batch(
        "UPDATE counts SET held = (SELECT count(*) FROM records WHERE state = name)
             WHERE name NOT IN ('slots', 'shares')
               AND held <> (SELECT count(*) FROM records WHERE state = name);
         UPDATE counts SET held = (SELECT count(*) FROM slots)
             WHERE name = 'slots' AND held <> (SELECT count(*) FROM slots);
         UPDATE counts SET held = (SELECT coalesce(sum(tagged), 0) FROM slots)
             WHERE name = 'shares' AND held <> (SELECT coalesce(sum(tagged), 0) FROM slots);",
    )
}
