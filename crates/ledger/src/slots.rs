//! Slots: the open usage of one customer, dimension and hour. Only [`add`] writes into them, and it keeps each slot
//! small enough to become one record.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

use super::ageing::Overdue;
use super::amount::{amount, blob};
use super::links;
use super::rows::{Slot, json, unreadable};
use tollgate_marketplace::allocation::{ALLOCATIONS_BYTES_MAX, ALLOCATIONS_MAX, PART_BYTES};
use tollgate_marketplace::{Hour, TagSet};
use tollgate_metering::seal::Sum;
use tollgate_time::Timestamp;

/// Most tag sets of a slot: AWS takes `ALLOCATIONS_MAX` allocations for a record, and one is for untagged usage. Usage
/// of further tag sets is counted as untagged.
pub const TAGGED_SETS_MAX: usize = ALLOCATIONS_MAX - 1;

/// Most bytes of a slot's tags, as AWS counts them in a request, less the bytes of the untagged share.
pub const TAG_BYTES_MAX: usize = ALLOCATIONS_BYTES_MAX - PART_BYTES;

/// How an amount gets into a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Events of the slot's own hour, or late ones: they are aggregated.
    Counted,
    /// Carried or replayed from another hour, where it was aggregated already: it is added, whatever the aggregation.
    Carried,
}

impl Part {
    /// The amount that is aggregated, and the amount that is added.
    const fn split(self, amount: i128) -> ([u8; 16], [u8; 16]) {
        match self {
            Self::Counted => (blob(amount), blob(0)),
            Self::Carried => (blob(0), blob(amount)),
        }
    }
}

/// The history of an amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Past {
    /// The time of its first event.
    pub(super) first_at: Timestamp,
    /// The earliest hour that some of it came from, if that hour was already closed.
    pub(super) late_from: Option<Hour>,
    /// Since when it has waited for AWS.
    pub(super) overdue: Overdue,
}

impl Past {
    /// Usage at `first_at`; `late_from` is the hour that it came too late for.
    pub(super) const fn of(first_at: Timestamp, late_from: Option<Hour>) -> Self {
        Self { first_at, late_from, overdue: Overdue { hour: None, from: None } }
    }
}

/// A slot with all its shares.
#[derive(Debug)]
pub(super) struct OpenSlot {
    pub(super) id: i64,
    pub(super) slot: Slot,
    pub(super) sum: Sum,
    pub(super) past: Past,
}

/// Adds amounts by tags to a slot; makes the slot if there is none. Returns its number.
pub(super) fn add<'a>(
    transaction: &Transaction<'_>,
    slot: &Slot,
    parts: impl IntoIterator<Item = (&'a TagSet, i128)>,
    part: Part,
    past: Past,
) -> rusqlite::Result<i64> {
    let (mut total, mut untagged, mut tagged) = (0, 0, Vec::new());
    for (tags, amount) in parts {
        total += amount;
        if tags.is_empty() {
            untagged += amount;
        } else {
            tagged.push((tags, amount));
        }
    }
    let (counted, carried) = part.split(untagged);
    let amounts = Amounts { counted, carried, total: blob(total) };
    let (id, held) = match grow(transaction, slot, amounts, past)? {
        Some(grown) => grown,
        None => (make(transaction, slot, amounts, past)?, TagsHeld::default()),
    };
    if !tagged.is_empty() {
        add_tagged(transaction, id, held, &tagged, part)?;
    }
    Ok(id)
}

/// What is added to the slot's own columns, in the form of the columns.
#[derive(Debug, Clone, Copy)]
struct Amounts {
    counted: [u8; 16],
    carried: [u8; 16],
    total: [u8; 16],
}

/// How much of a slot's room for tags is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct TagsHeld {
    sets: usize,
    bytes: usize,
}

/// Adds to an open slot. It does not set `overdue_from`, which rarely changes: SQLite rewrites the index of each column
/// that an UPDATE sets, which would be one more page in each commit.
pub(super) const GROW: &str = "UPDATE slots SET
    amount = plus(amount, ?5), additive = plus(additive, ?6), total = plus(total, ?7), first_at = min(first_at, ?8),
    late_from = coalesce(min(late_from, ?9), late_from, ?9)
    WHERE hour = ?1 AND pod = ?2 AND customer = ?3 AND dimension = ?4
    RETURNING id, tagged, tag_bytes, overdue_hour, overdue_from";

/// The slot's number, and the tags that it had before; `None` if there is no such slot.
fn grow(
    transaction: &Transaction<'_>,
    slot: &Slot,
    added: Amounts,
    past: Past,
) -> rusqlite::Result<Option<(i64, TagsHeld)>> {
    let values = params![
        slot.hour.number(),
        slot.pod,
        slot.customer,
        slot.dimension,
        added.counted,
        added.carried,
        added.total,
        past.first_at.unix_millis(),
        past.late_from.map(Hour::number),
    ];
    let grown = |row: &Row<'_>| {
        let held = TagsHeld { sets: natural(row.get(1)?)?, bytes: natural(row.get(2)?)? };
        let hour: Option<i64> = row.get(3)?;
        Ok((row.get(0)?, held, Overdue { hour: hour.map(Hour::from_number), from: row.get(4)? }))
    };
    let found: Option<(i64, TagsHeld, Overdue)> =
        transaction.prepare_cached(GROW)?.query_row(values, grown).optional()?;
    let Some((id, held, overdue)) = found else { return Ok(None) };
    let earliest = overdue.join(past.overdue);
    if earliest != overdue {
        transaction
            .prepare_cached("UPDATE slots SET overdue_hour = ?2, overdue_from = ?3 WHERE id = ?1")?
            .execute(params![id, earliest.hour.map(Hour::number), earliest.from])?;
    }
    Ok(Some((id, held)))
}

fn make(transaction: &Transaction<'_>, slot: &Slot, added: Amounts, past: Past) -> rusqlite::Result<i64> {
    transaction
        .prepare_cached(
            "INSERT INTO slots (hour, pod, customer, dimension, amount, additive, total, first_at, late_from,
                 overdue_hour, overdue_from)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?
        .insert(params![
            slot.hour.number(),
            slot.pod,
            slot.customer,
            slot.dimension,
            added.counted,
            added.carried,
            added.total,
            past.first_at.unix_millis(),
            past.late_from.map(Hour::number),
            past.overdue.hour.map(Hour::number),
            past.overdue.from,
        ])
}

fn add_tagged(
    transaction: &Transaction<'_>,
    id: i64,
    before: TagsHeld,
    tagged: &[(&TagSet, i128)],
    part: Part,
) -> rusqlite::Result<()> {
    let mut grow = transaction.prepare_cached(
        "UPDATE shares SET amount = plus(amount, ?3), additive = plus(additive, ?4) WHERE slot = ?1 AND tags = ?2",
    )?;
    let mut make = transaction
        .prepare_cached("INSERT INTO shares (slot, tags, amount, additive) VALUES (?1, ?2, ?3, ?4)")?;
    let (mut held, mut beyond) = (before, 0);
    for (tags, amount) in tagged {
        let text = tags.canonical();
        let (counted, carried) = part.split(*amount);
        if grow.execute(params![id, text, counted, carried])? > 0 {
            continue;
        }
        let grown = TagsHeld { sets: held.sets + 1, bytes: held.bytes + tags.request_bytes() };
        if grown.sets > TAGGED_SETS_MAX || grown.bytes > TAG_BYTES_MAX {
            beyond += amount;
            continue;
        }
        make.execute(params![id, text, counted, carried])?;
        held = grown;
    }
    if held != before || beyond != 0 {
        let (counted, carried) = part.split(beyond);
        transaction
            .prepare_cached(
                "UPDATE slots SET amount = plus(amount, ?2), additive = plus(additive, ?3), tagged = ?4, tag_bytes = ?5
                 WHERE id = ?1",
            )?
            .execute(params![id, counted, carried, integer(held.sets), integer(held.bytes)])?;
    }
    Ok(())
}

fn natural(number: i64) -> rusqlite::Result<usize> {
    usize::try_from(number).map_err(|_| unreadable(0, "a count below zero"))
}

fn integer(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The number of this slot, if it is open.
pub(super) fn find(connection: &Connection, slot: &Slot) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached(
            "SELECT id FROM slots WHERE hour = ?1 AND pod = ?2 AND customer = ?3 AND dimension = ?4",
        )?
        .query_row(params![slot.hour.number(), slot.pod, slot.customer, slot.dimension], |row| row.get(0))
        .optional()
}

/// Whether some of a slot's usage was carried or moved into it.
pub(super) fn was_moved(connection: &Connection, id: i64) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(
            "SELECT additive <> zeroblob(16)
                 OR EXISTS (SELECT 1 FROM shares WHERE slot = id AND shares.additive <> zeroblob(16))
             FROM slots WHERE id = ?1",
        )?
        .query_row([id], |row| row.get(0))
}

/// Reads a slot with all its shares, and checks that they add up to its total.
pub(super) fn read(connection: &Connection, id: i64) -> rusqlite::Result<OpenSlot> {
    struct Untagged {
        value: i128,
        total: i128,
    }
    let head = |row: &Row<'_>| {
        let slot = Slot {
            pod: row.get(0)?,
            customer: row.get(1)?,
            dimension: row.get(2)?,
            hour: Hour::from_number(row.get(3)?),
        };
        let untagged = Untagged { value: amount(row, 4)? + amount(row, 5)?, total: amount(row, 6)? };
        let (late_from, overdue_hour): (Option<i64>, Option<i64>) = (row.get(8)?, row.get(9)?);
        let past = Past {
            first_at: Timestamp::from_unix_millis(row.get(7)?),
            late_from: late_from.map(Hour::from_number),
            overdue: Overdue { hour: overdue_hour.map(Hour::from_number), from: row.get(10)? },
        };
        Ok((slot, untagged, past))
    };
    let (slot, untagged, past) = connection
        .prepare_cached(
            "SELECT pod, customer, dimension, hour, amount, additive, total, first_at, late_from, overdue_hour,
                 overdue_from FROM slots WHERE id = ?1",
        )?
        .query_row([id], head)?;
    let mut shares = BTreeMap::new();
    let mut statement =
        connection.prepare_cached("SELECT tags, amount, additive FROM shares WHERE slot = ?1")?;
    let mut rows = statement.query([id])?;
    while let Some(row) = rows.next()? {
        shares.insert(json(0, row.get_ref(0)?.as_str()?)?, amount(row, 1)? + amount(row, 2)?);
    }
    if untagged.value != 0 || shares.is_empty() {
        shares.insert(TagSet::default(), untagged.value);
    }
    if shares.values().sum::<i128>() != untagged.total {
        return Err(unreadable(6, "shares that are not what was counted"));
    }
    Ok(OpenSlot { id, slot, sum: Sum { shares, first_at: past.first_at }, past })
}

/// Removes a slot whose usage went into a record or into another slot.
pub(super) fn remove(transaction: &Transaction<'_>, id: i64) -> rusqlite::Result<()> {
    transaction.prepare_cached("DELETE FROM shares WHERE slot = ?1")?.execute([id])?;
    transaction.prepare_cached("DELETE FROM slots WHERE id = ?1")?.execute([id]).map(|_| ())
}

/// Moves an open slot's usage to another slot, as usage of `now`: the pod that reports it may not have run earlier.
pub(super) fn carry(
    transaction: &Transaction<'_>,
    open: &OpenSlot,
    target: &Slot,
    now: Timestamp,
) -> rusqlite::Result<()> {
    remove(transaction, open.id)?;
    // If the slot's hour is later, a clock that was ahead put the usage there: it did not come from that hour.
    let earlier = (open.slot.hour < target.hour).then_some(open.slot.hour);
    let late_from = [earlier, open.past.late_from].into_iter().flatten().min();
    let past = Past { first_at: now, late_from, ..open.past };
    let parts = open.sum.shares.iter().map(|(tags, amount)| (tags, *amount));
    let id = add(transaction, target, parts, Part::Carried, past)?;
    links::moved(transaction, open.id, id)
}
