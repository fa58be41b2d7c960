//! The rows of the ledger: writes and reads records.

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};
use serde::Deserialize;

use super::ageing::{self, Overdue};
use super::amount::{amount, blob};
use super::closing::Hours;
use super::slots::{self, Part, Past};
use super::{forms, links, meta, remainders, rules, set_meta, stored, totals};
use tollgate_marketplace::{Allocation, Customer, Hour, HourUsage, Quantity};
use tollgate_metering::aggregation::Rules;
use tollgate_metering::record::{Record, RecordState, Whole};
use tollgate_metering::seal;
use tollgate_time::Timestamp;

/// Where an event counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot {
    pub(crate) pod: String,
    pub(crate) customer: String,
    pub(crate) dimension: String,
    pub(crate) hour: Hour,
}

/// SQLite's integers are signed; a record's quantity stays far below 2^63.
pub(crate) fn signed(micros: u64) -> i64 {
    i64::try_from(micros).unwrap_or(i64::MAX)
}

/// The error for a value that this crate never writes: the file was changed on the disk.
pub(super) fn unreadable(column: usize, what: &'static str) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Null, what.into())
}

pub(super) fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let micros: i64 = row.get(column)?;
    u64::try_from(micros).map_err(|_| unreadable(column, "a quantity below zero"))
}

fn quantity(row: &Row<'_>, column: usize) -> rusqlite::Result<Quantity> {
    let above = || unreadable(column, "a quantity above AWS's maximum");
    Quantity::from_micros(unsigned(row, column)?).ok_or_else(above)
}

pub(super) fn json<T: for<'a> Deserialize<'a>>(column: usize, text: &str) -> rusqlite::Result<T> {
    serde_json::from_str(text)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
}

/// Reads a column of stored allocations.
fn allocations(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<Allocation>> {
    stored::allocations(row.get_ref(column)?.as_str()?)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
}

/// Notes the metered product. Returns the earlier product if the ledger has unsent usage of it.
pub(super) fn adopt_product(
    transaction: &Transaction<'_>,
    product: &str,
) -> rusqlite::Result<Option<String>> {
    let held = meta(transaction, "product")?;
    if held.as_deref() == Some(product) {
        return Ok(None);
    }
    let pending = "SELECT EXISTS (SELECT 1 FROM slots WHERE total <> zeroblob(16))
                       OR EXISTS (SELECT 1 FROM records WHERE state IN ('sealed', 'claimed'))";
    let pending: bool = transaction.query_row(pending, [], |row| row.get(0))?;
    if pending && held.is_some() {
        return Ok(held);
    }
    if held.is_some() {
        remainders::discard_all(transaction)?;
    }
    set_meta(transaction, "product", product)?;
    Ok(None)
}

/// When the first process of this pod started; noted for later processes.
pub(super) fn started_at(
    transaction: &Transaction<'_>,
    pod: &str,
    started_at: Timestamp,
) -> rusqlite::Result<Timestamp> {
    let known =
        meta(transaction, "started_at")?.and_then(|text| text.parse().ok()).map(Timestamp::from_unix_millis);
    match known {
        // If the clock was ahead at the first start, the earlier time counts: usage of now must not be shut out.
        Some(known) if meta(transaction, "pod")?.as_deref() == Some(pod) && known <= started_at => Ok(known),
        _ => {
            set_meta(transaction, "pod", pod)?;
            set_meta(transaction, "started_at", &started_at.unix_millis().to_string())?;
            Ok(started_at)
        }
    }
}

/// A record before it is written.
#[derive(Debug)]
pub(super) struct NewRecord<'a> {
    pub(super) slot: &'a Slot,
    pub(super) past: &'a Past,
    pub(super) usage: &'a HourUsage,
    /// Its quantity in millionths of the event's own unit.
    pub(super) raw: i128,
    /// See `Record::rounded`.
    pub(super) rounded: i128,
    pub(super) client_token: &'a str,
    pub(super) state: RecordState,
}

/// Writes a record with its first state.
pub(super) fn insert_record(
    transaction: &Transaction<'_>,
    record: &NewRecord<'_>,
    now: Timestamp,
) -> rusqlite::Result<i64> {
    let NewRecord { slot, past, usage, raw, rounded, client_token, state } = *record;
    let overdue = match usage.quantity {
        // A report of 0 is not late.
        Quantity::ZERO => Overdue::default(),
        _ => past.overdue.or(Overdue::begins(slot, now, ageing::running(transaction)?)),
    };
    transaction
        .prepare_cached(
            "INSERT INTO records (pod, customer, dimension, hour, micros, decimal, allocations, timestamp, client_token,
                 late_from, state, sealed_at, updated_at, allocation_count, overdue_hour, overdue_from, raw, rounded)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?12, ?13, ?14, ?15, ?16, ?17)",
        )?
        .execute(params![
            slot.pod,
            slot.customer,
            slot.dimension,
            slot.hour.number(),
            signed(usage.quantity.micros()),
            usage.decimal,
            stored::text(&usage.allocations),
            usage.timestamp.unix_millis(),
            client_token,
            past.late_from.map(Hour::number),
            state.as_str(),
            now.unix_millis(),
            i64::try_from(usage.allocations.len()).unwrap_or(i64::MAX),
            overdue.hour.map(Hour::number),
            overdue.from,
            (raw != i128::from(usage.quantity.micros())).then(|| blob(raw)),
            (rounded != 0).then(|| blob(rounded)),
        ])?;
    Ok(transaction.last_insert_rowid())
}

/// The columns that [`record`] reads, in its order.
pub(super) const COLUMNS: &str = "id, pod, customer, dimension, hour, micros, decimal, timestamp, client_token, \
                       late_from, state, in_doubt OR attempting, unconfirmed, attempts, code, metering_record_id, \
                       sealed_at, updated_at, allocation_count, region, coalesce(raw, micros), rounded";

/// The first column after [`COLUMNS`].
pub(super) const BEHIND: usize = 22;

/// One record with its allocations.
pub(super) fn whole(connection: &Connection, id: i64) -> rusqlite::Result<Option<Whole>> {
    let sql = format!("SELECT {COLUMNS}, allocations FROM records WHERE id = ?1");
    connection.prepare_cached(&sql)?.query_row([id], read_whole).optional()
}

/// Reads every row and keeps none, to check a ledger that may be damaged.
pub(super) fn read_all(connection: &Connection) -> rusqlite::Result<()> {
    let mut ids = connection.prepare("SELECT id FROM slots")?;
    let mut rows = ids.query([])?;
    while let Some(row) = rows.next()? {
        slots::read(connection, row.get(0)?)?;
    }
    let mut statement = connection.prepare(&format!("SELECT {COLUMNS}, allocations FROM records"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        read_whole(row)?;
    }
    Ok(())
}

/// Reads a row of [`COLUMNS`] and the allocations.
fn read_whole(row: &Row<'_>) -> rusqlite::Result<Whole> {
    Ok(Whole { record: record(row)?, allocations: allocations(row, BEHIND)? })
}

/// Reads a row of [`COLUMNS`].
pub(super) fn record(row: &Row<'_>) -> rusqlite::Result<Record> {
    let customer: String = row.get(2)?;
    let late_from: Option<i64> = row.get(9)?;
    let state: String = row.get(10)?;
    let allocation_count: i64 = row.get(18)?;
    let region: Option<String> = row.get(19)?;
    Ok(Record {
        id: row.get(0)?,
        pod: row.get(1)?,
        customer: Customer::from_canonical(&customer).ok_or_else(|| unreadable(2, "a customer"))?,
        dimension: row.get(3)?,
        hour: Hour::from_number(row.get(4)?),
        quantity: quantity(row, 5)?,
        raw: amount(row, 20)?,
        rounded: amount(row, 21)?,
        decimal: row.get(6)?,
        timestamp: Timestamp::from_unix_millis(row.get(7)?),
        client_token: row.get(8)?,
        late_from: late_from.map(Hour::from_number),
        state: RecordState::of(&state, row.get(11)?, row.get(12)?)
            .ok_or_else(|| unreadable(10, "a state"))?,
        attempts: row.get(13)?,
        code: row.get(14)?,
        metering_record_id: row.get(15)?,
        sealed_at: Timestamp::from_unix_millis(row.get(16)?),
        updated_at: Timestamp::from_unix_millis(row.get(17)?),
        allocation_count: usize::try_from(allocation_count)
            .map_err(|_| unreadable(18, "a count below zero"))?,
        region: region.map(|name| name.parse().map_err(|_| unreadable(19, "a region"))).transpose()?,
    })
}

/// The result of [`carry_record`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Carried {
    /// It counts to the current hour.
    Counted,
    /// There is no such record that meets the condition.
    NotFound,
    /// Its customer has another form in that hour (`forms`).
    OtherForm,
}

/// The code of a dead letter that could not be carried because its customer has another form in the current hour.
pub const OTHER_FORM: &str = "OtherForm";

/// Where the quantities of carried records count.
#[derive(Debug)]
pub(super) struct Carrying<'a> {
    pub(super) pod: &'a str,
    pub(super) hours: &'a Hours,
    pub(super) rules: &'a Rules,
    /// Another dimension than the records' own.
    pub(super) to_dimension: Option<&'a str>,
}

/// If `condition` holds for the record: counts its quantity to the current hour, or to the next hour without a record
/// of its slot. It stays the quantity that was sealed: if the target has another scale, or is another dimension, what
/// the dimensions were acknowledged changes with it, so that each stays in balance.
pub(super) fn carry_record(
    transaction: &Transaction<'_>,
    condition: &str,
    carrying: &Carrying<'_>,
    id: i64,
    now: Timestamp,
) -> rusqlite::Result<Carried> {
    struct Found {
        slot: Slot,
        from: String,
        late_from: Option<Hour>,
        raw: i128,
        quantity: Quantity,
        split: Vec<Allocation>,
    }
    let Carrying { pod, hours, rules, to_dimension } = *carrying;
    let sql = format!(
        "SELECT customer, dimension, coalesce(late_from, hour), coalesce(raw, micros), allocations, micros
         FROM records WHERE id = ?1 AND {condition}"
    );
    let read = |row: &Row<'_>| {
        let (customer, from): (String, String) = (row.get(0)?, row.get(1)?);
        let dimension = to_dimension.map_or_else(|| from.clone(), str::to_owned);
        let slot = Slot { pod: pod.to_owned(), customer, dimension, hour: hours.current };
        let late_from = Some(Hour::from_number(row.get(2)?));
        let (raw, split, quantity) = (amount(row, 3)?, allocations(row, 4)?, quantity(row, 5)?);
        Ok(Found { slot, from, late_from, raw, quantity, split })
    };
    let found = transaction.query_row(&sql, [id], read).optional()?;
    let Some(Found { mut slot, from, late_from, raw, quantity, split }) = found else {
        return Ok(Carried::NotFound);
    };
    if quantity == Quantity::ZERO {
        return Ok(Carried::Counted);
    }
    slot.hour = hours.place(transaction, &slot)?;
    if !forms::take_hour(transaction, &slot.customer, slot.hour)? {
        return Ok(Carried::OtherForm);
    }
    let begins = Overdue::begins(&slot, now, ageing::running(transaction)?);
    let overdue = ageing::of_record(transaction, id)?.or(begins);
    ageing::end(transaction, id)?;
    let past = Past { first_at: now, late_from, overdue };
    let rule = rules::of_slot(transaction, &slot, rules)?;
    let parts = seal::unsealed(&rule, quantity, &split);
    let amount: i128 = parts.iter().map(|(_, amount)| amount).sum();
    if slot.dimension != from {
        totals::accept(transaction, &from, -raw)?;
        totals::accept(transaction, &slot.dimension, amount)?;
    } else if amount != raw {
        totals::accept(transaction, &from, amount - raw)?;
    }
    let parts = parts.iter().map(|(tags, amount)| (tags, *amount));
    let target = slots::add(transaction, &slot, &rule, parts, Part::Carried, past)?;
    links::carried(transaction, id, target)?;
    Ok(Carried::Counted)
}
