//! What stays of sealed hours for the next hour of the same customer, dimension and scale: remainders above 0, credits
//! below 0 (`Sent::kept`). A row is never 0.
//!
//! Remainders are part of the balance; a credit is not, because it was counted as `rounded_up` when it was given.

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::amount::{amount, blob};
use super::rows::Slot;
use tollgate_metering::aggregation::{Change, Scale};

/// What stayed of the slot's earlier hours, in millionths of the event's own unit.
pub(super) fn kept(connection: &Connection, slot: &Slot, scale: Scale) -> rusqlite::Result<i128> {
    let found = connection
        .prepare_cached(
            "SELECT amount FROM remainders WHERE customer = ?1 AND dimension = ?2 AND scale = ?3",
        )?
        .query_row(params![slot.customer, slot.dimension, scale.micros().to_string()], |row| amount(row, 0))
        .optional()?;
    Ok(found.unwrap_or_default())
}

/// Notes what stays now instead of `before`.
pub(super) fn keep(
    transaction: &Transaction<'_>,
    slot: &Slot,
    scale: Scale,
    before: i128,
    now: i128,
) -> rusqlite::Result<()> {
    let scale = scale.micros().to_string();
    if now == before {
        return Ok(());
    }
    if now == 0 {
        return transaction
            .prepare_cached("DELETE FROM remainders WHERE customer = ?1 AND dimension = ?2 AND scale = ?3")?
            .execute(params![slot.customer, slot.dimension, scale])
            .map(|_| ());
    }
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO remainders (customer, dimension, scale, amount) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![slot.customer, slot.dimension, scale, blob(now)])
        .map(|_| ())
}

/// Counts what the sealing of a slot changed in its dimension's balance.
pub(super) fn count(transaction: &Transaction<'_>, dimension: &str, change: Change) -> rusqlite::Result<()> {
    if change == Change::default() {
        return Ok(());
    }
    transaction
        .prepare_cached(
            "UPDATE totals SET rounded_up = plus(rounded_up, ?2), remainder = plus(remainder, ?3) WHERE dimension = ?1",
        )?
        .execute(params![dimension, blob(change.rounded_up), blob(change.remainder)])
        .map(|_| ())
}

/// For a ledger that begins to count usage of another product: what stayed of the earlier one's is never billed.
pub(super) fn discard_all(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    transaction.execute_batch(
        "DELETE FROM remainders;
         UPDATE totals SET discarded = plus(discarded, remainder),
             forgotten_discarded = plus(forgotten_discarded, remainder), remainder = NULL
             WHERE remainder IS NOT NULL;",
    )
}
