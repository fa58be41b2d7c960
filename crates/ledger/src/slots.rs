//! Slots: the open usage of one customer, dimension and hour. Only [`add`] writes into them, and it keeps each slot
//! small enough to become one record.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

use super::ageing::Overdue;
use super::amount::{amount, blob};
use super::rows::{Slot, json, unreadable};
use super::{links, rules, totals};
use tollgate_marketplace::allocation::{ALLOCATIONS_BYTES_MAX, ALLOCATIONS_MAX, PART_BYTES};
use tollgate_marketplace::{Hour, TagSet};
use tollgate_metering::aggregation::{Aggregation, Rule, Rules};
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
    /// The rule that it began with.
    pub(super) rule: Rule,
    pub(super) sum: Sum,
    /// How much of the sum was carried or replayed.
    pub(super) carried: i128,
    pub(super) past: Past,
}

/// Counts events to a slot of this rule; makes the slot if there is none. `parts` are aggregated already. Returns by
/// how much the slot grew: a maximum that was not exceeded stays.
pub(super) fn count(
    transaction: &Transaction<'_>,
    slot: &Slot,
    rule: &Rule,
    parts: &BTreeMap<&TagSet, i128>,
    past: Past,
) -> rusqlite::Result<i128> {
    let parts = parts.iter().map(|(tags, amount)| (*tags, *amount));
    match rule.aggregation {
        Aggregation::Sum => {
            let grown: i128 = parts.clone().map(|(_, amount)| amount).sum();
            add(transaction, slot, rule, parts, Part::Counted, past).map(|_| grown)
        }
        Aggregation::Max => {
            let before = largest(transaction, slot)?.unwrap_or_default();
            let largest = parts.map(|(_, amount)| amount).fold(before, i128::max);
            let untagged = TagSet::default();
            let grown = [(&untagged, largest - before)];
            add(transaction, slot, rule, grown, Part::Counted, past).map(|_| largest - before)
        }
    }
}

/// The largest event of a slot whose rule is `max`, if there is such a slot.
fn largest(transaction: &Transaction<'_>, slot: &Slot) -> rusqlite::Result<Option<i128>> {
    transaction
        .prepare_cached(
            "SELECT amount FROM slots WHERE hour = ?1 AND pod = ?2 AND customer = ?3 AND dimension = ?4",
        )?
        .query_row(params![slot.hour.number(), slot.pod, slot.customer, slot.dimension], |row| amount(row, 0))
        .optional()
}

/// Adds amounts by tags, which have the unit of `from`, to a slot as carried ones; makes the slot, of the configured
/// rule, if there is none. If the slot has another scale, the same quantities are added in its unit, and the
/// dimension's acknowledged amount changes by the difference. Returns the slot's number.
pub(super) fn add_carried<'a>(
    transaction: &Transaction<'_>,
    slot: &Slot,
    (from, rules): (&Rule, &Rules),
    parts: impl IntoIterator<Item = (&'a TagSet, i128)>,
    past: Past,
) -> rusqlite::Result<i64> {
    let rule = rules::of_slot(transaction, slot, rules)?;
    let mut change = 0;
    let parts: Vec<(&TagSet, i128)> = parts
        .into_iter()
        .map(|(tags, amount)| {
            let converted = from.converted(amount, &rule);
            change += converted - amount;
            (tags, converted)
        })
        .collect();
    if change != 0 {
        totals::accept(transaction, &slot.dimension, change)?;
    }
    add(transaction, slot, &rule, parts, Part::Carried, past)
}

/// Adds amounts by tags to a slot; makes the slot, with this rule, if there is none. Returns its number.
pub(super) fn add<'a>(
    transaction: &Transaction<'_>,
    slot: &Slot,
    rule: &Rule,
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
        None => (make(transaction, slot, rule, amounts, past)?, TagsHeld::default()),
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

fn make(
    transaction: &Transaction<'_>,
    slot: &Slot,
    rule: &Rule,
    added: Amounts,
    past: Past,
) -> rusqlite::Result<i64> {
    transaction
        .prepare_cached(
            "INSERT INTO slots (hour, pod, customer, dimension, amount, additive, total, first_at, late_from,
                 overdue_hour, overdue_from, aggregation)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
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
            rule.to_string(),
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

/// The rule that this slot began with, if it is open.
pub(super) fn rule(connection: &Connection, slot: &Slot) -> rusqlite::Result<Option<Rule>> {
    let found: Option<String> = connection
        .prepare_cached(
            "SELECT aggregation FROM slots WHERE hour = ?1 AND pod = ?2 AND customer = ?3 AND dimension = ?4",
        )?
        .query_row(params![slot.hour.number(), slot.pod, slot.customer, slot.dimension], |row| row.get(0))
        .optional()?;
    found.map(|text| rules::of(&text)).transpose()
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
        carried: i128,
        total: i128,
    }
    let head = |row: &Row<'_>| {
        let slot = Slot {
            pod: row.get(0)?,
            customer: row.get(1)?,
            dimension: row.get(2)?,
            hour: Hour::from_number(row.get(3)?),
        };
        let (counted, carried) = (amount(row, 4)?, amount(row, 5)?);
        let untagged = Untagged { value: counted + carried, carried, total: amount(row, 6)? };
        let (late_from, overdue_hour): (Option<i64>, Option<i64>) = (row.get(8)?, row.get(9)?);
        let past = Past {
            first_at: Timestamp::from_unix_millis(row.get(7)?),
            late_from: late_from.map(Hour::from_number),
            overdue: Overdue { hour: overdue_hour.map(Hour::from_number), from: row.get(10)? },
        };
        Ok((slot, rules::of(row.get_ref(11)?.as_str()?)?, untagged, past))
    };
    let (slot, rule, untagged, past) = connection
        .prepare_cached(
            "SELECT pod, customer, dimension, hour, amount, additive, total, first_at, late_from, overdue_hour,
                 overdue_from, aggregation FROM slots WHERE id = ?1",
        )?
        .query_row([id], head)?;
    let (mut shares, mut carried) = (BTreeMap::new(), untagged.carried);
    let mut statement =
        connection.prepare_cached("SELECT tags, amount, additive FROM shares WHERE slot = ?1")?;
    let mut rows = statement.query([id])?;
    while let Some(row) = rows.next()? {
        let additive = amount(row, 2)?;
        shares.insert(json(0, row.get_ref(0)?.as_str()?)?, amount(row, 1)? + additive);
        carried += additive;
    }
    if untagged.value != 0 || shares.is_empty() {
        shares.insert(TagSet::default(), untagged.value);
    }
    let sum = Sum { shares, first_at: past.first_at };
    if sum.total() != untagged.total {
        return Err(unreadable(6, "shares that are not what was counted"));
    }
    Ok(OpenSlot { id, slot, rule, sum, carried, past })
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
    rules: &Rules,
    now: Timestamp,
) -> rusqlite::Result<()> {
    remove(transaction, open.id)?;
    // If the slot's hour is later, a clock that was ahead put the usage there: it did not come from that hour.
    let earlier = (open.slot.hour < target.hour).then_some(open.slot.hour);
    let late_from = [earlier, open.past.late_from].into_iter().flatten().min();
    let past = Past { first_at: now, late_from, ..open.past };
    let parts = open.sum.shares.iter().map(|(tags, amount)| (tags, *amount));
    let id = add_carried(transaction, target, (&open.rule, rules), parts, past)?;
    links::moved(transaction, open.id, id)
}
