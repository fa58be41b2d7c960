//! The rows of the ledger: how sums and records are written and read. Only `ledger` calls it.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};
use serde::Serialize;

use super::OpenSum;
use crate::clock::Timestamp;
use crate::marketplace::{Allocation, Hour, Quantity, TagSet};
use crate::usage::event::Customer;
use crate::usage::seal::{Sealed, StoredAllocation};

/// Where an event counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot {
    pub(crate) pod: String,
    pub(crate) customer: String,
    pub(crate) dimension: String,
    pub(crate) hour: Hour,
}

/// Where a record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Sealed; AWS has not answered definitely.
    Sealed,
    /// AWS accepted it.
    Accepted,
    /// Refused or never attempted, and counted to a later hour instead.
    Carried,
    /// AWS will not bill it; it is kept for people.
    Dead,
    /// An application's own report through the AWS door is under way.
    Claimed,
}

impl State {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Sealed => "sealed",
            Self::Accepted => "accepted",
            Self::Carried => "carried",
            Self::Dead => "dead",
            Self::Claimed => "claimed",
        }
    }

    fn of(text: &str) -> Self {
        match text {
            "accepted" => Self::Accepted,
            "carried" => Self::Carried,
            "dead" => Self::Dead,
            "claimed" => Self::Claimed,
            _ => Self::Sealed,
        }
    }
}

/// A sealed hour as it stands in the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its number.
    pub id: i64,
    /// The pod that reports it.
    pub pod: String,
    /// Who used it.
    pub customer: Customer,
    /// What was used.
    pub dimension: String,
    /// When.
    pub hour: Hour,
    /// How much.
    pub quantity: Quantity,
    /// Quantities go as decimals.
    pub decimal: bool,
    /// The split by tags.
    pub allocations: Vec<Allocation>,
    /// The time that is reported.
    pub timestamp: Timestamp,
    /// The same on every retry.
    pub client_token: String,
    /// The earliest hour that some of it came from, if that was closed already.
    pub late_from: Option<Hour>,
    /// Where it stands.
    pub state: State,
    /// It was attempted and AWS has not answered definitely since.
    pub in_doubt: bool,
    /// Calls that carried it.
    pub attempts: i64,
    /// AWS's latest exception, or why it is dead.
    pub code: Option<String>,
    /// AWS's id of it.
    pub metering_record_id: Option<String>,
    /// When it was sealed.
    pub sealed_at: Timestamp,
    /// When it was attempted or answered last, or else sealed.
    pub updated_at: Timestamp,
}

/// What is noted about a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answered {
    /// AWS accepted it, under this id if it named one.
    Accepted(Option<String>),
    /// AWS refused it for now: certainly not billed, and asked again.
    Refused(String),
    /// Nothing definite: it stays in doubt.
    Unknown(String),
    /// Certainly not billed and past its window: its quantity counts to the current hour.
    Carry(String),
    /// AWS will not take it, or it stayed in doubt past its window.
    Dead(String),
}

/// A dimension's balance, in millionths.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Acknowledged to applications.
    pub accepted: u64,
    /// Accepted by AWS.
    pub billed: u64,
    /// In open hours and unsent records.
    pub pending: u64,
    /// In dead letters.
    pub dead: u64,
}

impl Totals {
    /// The law that every committed state keeps.
    #[must_use]
    pub const fn balances(self) -> bool {
        self.accepted == self.billed + self.pending + self.dead
    }
}

/// SQLite's integers are signed; a sum of quantities stays far below 2^63.
pub(crate) fn signed(micros: u64) -> i64 {
    i64::try_from(micros).unwrap_or(i64::MAX)
}

fn unsigned(micros: i64) -> u64 {
    u64::try_from(micros).unwrap_or_default()
}

/// When the first process of this pod started, which is remembered.
pub(super) fn started_at(
    transaction: &Transaction<'_>,
    pod: &str,
    started_at: Timestamp,
) -> rusqlite::Result<Timestamp> {
    let meta = |key: &str| -> rusqlite::Result<Option<String>> {
        transaction.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0)).optional()
    };
    let known = meta("started_at")?.and_then(|text| text.parse().ok()).map(Timestamp::from_unix_millis);
    match known {
        // A clock that was ahead then must not shut out the usage of now.
        Some(known) if meta("pod")?.as_deref() == Some(pod) && known <= started_at => Ok(known),
        _ => {
            for (key, value) in
                [("pod", pod.to_owned()), ("started_at", started_at.unix_millis().to_string())]
            {
                transaction.execute(
                    "INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)",
                    params![key, value],
                )?;
            }
            Ok(started_at)
        }
    }
}

pub(super) fn add(
    transaction: &Transaction<'_>,
    slot: &Slot,
    tags: &TagSet,
    micros: u64,
    first_at: Timestamp,
    late_from: Option<Hour>,
) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "INSERT INTO sums (pod, customer, dimension, hour, tags, micros, first_at, late_from)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
             ON CONFLICT (hour, pod, customer, dimension, tags) DO UPDATE SET
                 micros = micros + excluded.micros,
                 first_at = min(first_at, excluded.first_at),
                 late_from = coalesce(min(late_from, excluded.late_from), late_from, excluded.late_from)",
        )?
        .execute(params![
            slot.pod,
            slot.customer,
            slot.dimension,
            slot.hour.number(),
            tags.canonical(),
            signed(micros),
            first_at.unix_millis(),
            late_from.map(Hour::number),
        ])
        .map(|_| ())
}

/// Every sum of an hour up to `closed`.
pub(super) fn closed_sums(
    transaction: &Transaction<'_>,
    closed: Hour,
) -> rusqlite::Result<BTreeMap<Slot, OpenSum>> {
    let mut statement = transaction.prepare_cached(
        "SELECT pod, customer, dimension, hour, tags, micros, first_at, late_from FROM sums WHERE hour <= ?1",
    )?;
    sums(statement.query([closed.number()])?)
}

/// The open sum of one slot, if there is one.
pub(super) fn sums_of(
    transaction: &Transaction<'_>,
    slot: &Slot,
) -> rusqlite::Result<BTreeMap<Slot, OpenSum>> {
    let mut statement = transaction.prepare_cached(
        "SELECT pod, customer, dimension, hour, tags, micros, first_at, late_from FROM sums
         WHERE hour = ?1 AND pod = ?2 AND customer = ?3 AND dimension = ?4",
    )?;
    sums(statement.query(params![slot.hour.number(), slot.pod, slot.customer, slot.dimension])?)
}

fn sums(mut rows: rusqlite::Rows<'_>) -> rusqlite::Result<BTreeMap<Slot, OpenSum>> {
    let mut sums: BTreeMap<Slot, OpenSum> = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let slot = Slot {
            pod: row.get(0)?,
            customer: row.get(1)?,
            dimension: row.get(2)?,
            hour: Hour::from_number(row.get(3)?),
        };
        let tags: String = row.get(4)?;
        let late_from: Option<i64> = row.get(7)?;
        sums.entry(slot).or_default().add(
            tag_set(&tags),
            unsigned(row.get(5)?),
            Timestamp::from_unix_millis(row.get(6)?),
            late_from.map(Hour::from_number),
        );
    }
    Ok(sums)
}

fn tag_set(text: &str) -> TagSet {
    serde_json::from_str(text).unwrap_or_default()
}

fn remove_sum(transaction: &Transaction<'_>, slot: &Slot) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("DELETE FROM sums WHERE pod = ?1 AND customer = ?2 AND dimension = ?3 AND hour = ?4")?
        .execute(params![slot.pod, slot.customer, slot.dimension, slot.hour.number()])
        .map(|_| ())
}

/// Moves an earlier pod's sum to the current hour of this one.
pub(super) fn carry(
    transaction: &Transaction<'_>,
    pod: &str,
    current: Hour,
    slot: &Slot,
    sum: &OpenSum,
) -> rusqlite::Result<()> {
    let target = Slot { pod: pod.to_owned(), hour: current, ..slot.clone() };
    let late_from = [Some(slot.hour), sum.late_from].into_iter().flatten().min();
    for (tags, share) in &sum.sum.shares {
        add(transaction, &target, tags, share.micros, current.start(), late_from)?;
    }
    remove_sum(transaction, slot)
}

pub(super) fn insert_record(
    transaction: &Transaction<'_>,
    slot: &Slot,
    sum: &OpenSum,
    sealed: &Sealed,
    client_token: &str,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let stored: Vec<StoredAllocation> = sealed
        .allocations
        .iter()
        .map(|allocation| StoredAllocation {
            tags: allocation.tags.clone(),
            micros: allocation.quantity.micros(),
        })
        .collect();
    let allocations = serde_json::to_string(&stored).expect("maps of strings and numbers are JSON");
    transaction
        .prepare_cached(
            "INSERT INTO records (pod, customer, dimension, hour, micros, decimal, allocations, timestamp, client_token,
                 late_from, state, sealed_at, updated_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, 'sealed', ?11, ?11)",
        )?
        .execute(params![
            slot.pod,
            slot.customer,
            slot.dimension,
            slot.hour.number(),
            signed(sealed.quantity.micros()),
            sealed.decimal,
            allocations,
            sealed.timestamp.unix_millis(),
            client_token,
            sum.late_from.map(Hour::number),
            now.unix_millis(),
        ])?;
    remove_sum(transaction, slot)
}

/// What AWS's maximum left over counts to the current hour.
pub(super) fn keep_rest(
    transaction: &Transaction<'_>,
    slot: &Slot,
    current: Hour,
    sealed: &Sealed,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let target = Slot { hour: current, ..slot.clone() };
    for (tags, micros) in &sealed.rest {
        add(transaction, &target, tags, *micros, now, Some(slot.hour))?;
    }
    Ok(())
}

/// Which records are read.
#[derive(Clone, Copy)]
pub(super) enum Which {
    /// Sealed ones without their allocations, which may be large.
    Unsent,
    /// All, with their allocations.
    All,
    /// Dead letters.
    Dead,
    /// One.
    Id(i64),
}

pub(super) fn records(connection: &Connection, which: Which, limit: usize) -> rusqlite::Result<Vec<Record>> {
    let (allocations, condition) = match which {
        Which::Unsent => ("'[]'", "state = 'sealed'"),
        Which::All => ("allocations", "1"),
        Which::Dead => ("allocations", "state = 'dead'"),
        Which::Id(_) => ("allocations", "id = ?2"),
    };
    let id = if let Which::Id(id) = which { id } else { 0 };
    let columns = columns(allocations);
    let sql =
        format!("SELECT {columns} FROM records WHERE {condition} AND ?2 = ?2 ORDER BY hour, id LIMIT ?1");
    let mut statement = connection.prepare_cached(&sql)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    statement.query_map([limit, id], record)?.collect()
}

/// The columns that [`record`] reads, in its order.
pub(super) fn columns(allocations: &str) -> String {
    format!(
        "id, pod, customer, dimension, hour, micros, decimal, {allocations}, timestamp, client_token, late_from, state,
         in_doubt OR attempting, attempts, code, metering_record_id, sealed_at, updated_at"
    )
}

pub(super) fn record(row: &Row<'_>) -> rusqlite::Result<Record> {
    let customer: String = row.get(2)?;
    let allocations: String = row.get(7)?;
    let stored: Vec<StoredAllocation> = serde_json::from_str(&allocations).unwrap_or_default();
    let quantity = |micros: u64| Quantity::from_micros(micros).unwrap_or(Quantity::MAX);
    let late_from: Option<i64> = row.get(10)?;
    let state: String = row.get(11)?;
    Ok(Record {
        id: row.get(0)?,
        pod: row.get(1)?,
        customer: Customer::from_canonical(&customer).unwrap_or_default(),
        dimension: row.get(3)?,
        hour: Hour::from_number(row.get(4)?),
        quantity: quantity(unsigned(row.get(5)?)),
        decimal: row.get(6)?,
        allocations: stored
            .into_iter()
            .map(|stored| Allocation { tags: stored.tags, quantity: quantity(stored.micros) })
            .collect(),
        timestamp: Timestamp::from_unix_millis(row.get(8)?),
        client_token: row.get(9)?,
        late_from: late_from.map(Hour::from_number),
        state: State::of(&state),
        in_doubt: row.get(12)?,
        attempts: row.get(13)?,
        code: row.get(14)?,
        metering_record_id: row.get(15)?,
        sealed_at: Timestamp::from_unix_millis(row.get(16)?),
        updated_at: Timestamp::from_unix_millis(row.get(17)?),
    })
}

pub(super) fn answer(
    transaction: &Transaction<'_>,
    pod: &str,
    current: Hour,
    id: i64,
    answered: &Answered,
    now: Timestamp,
) -> rusqlite::Result<()> {
    // Doubt sticks until an answer is about the record itself: a refusal of a retry says nothing of the call before.
    let (state, doubt, code, record_id) = match answered {
        Answered::Accepted(record_id) => (State::Accepted, false, None, record_id.as_deref()),
        Answered::Refused(code) => (State::Sealed, false, Some(code), None),
        Answered::Unknown(code) => (State::Sealed, true, Some(code), None),
        Answered::Carry(code) => (State::Carried, false, Some(code), None),
        Answered::Dead(code) => (State::Dead, false, Some(code), None),
    };
    if matches!(answered, Answered::Carry(_)) {
        carry_record(
            transaction,
            "state = 'sealed' AND in_doubt = 0 AND attempting = 0",
            pod,
            current,
            id,
            now,
        )?;
    }
    transaction
        .prepare_cached(
            "UPDATE records SET state = ?2, in_doubt = in_doubt OR ?3, attempting = 0, code = ?4,
                 metering_record_id = coalesce(?5, metering_record_id), updated_at = ?6
             WHERE id = ?1 AND state = 'sealed' AND (?2 <> 'carried' OR (in_doubt = 0 AND attempting = 0))",
        )?
        .execute(params![id, state.as_str(), doubt, code, record_id, now.unix_millis()])
        .map(|_| ())
}

/// Counts a record's quantity to the current hour, if `condition` holds for it.
pub(super) fn carry_record(
    transaction: &Transaction<'_>,
    condition: &str,
    pod: &str,
    current: Hour,
    id: i64,
    now: Timestamp,
) -> rusqlite::Result<bool> {
    let sql = format!(
        "SELECT customer, dimension, coalesce(late_from, hour), micros, allocations FROM records WHERE id = ?1 AND {condition}"
    );
    let read = |row: &Row<'_>| {
        let (customer, dimension): (String, String) = (row.get(0)?, row.get(1)?);
        Ok((
            customer,
            dimension,
            Hour::from_number(row.get(2)?),
            unsigned(row.get(3)?),
            row.get::<_, String>(4)?,
        ))
    };
    let found = transaction.query_row(&sql, [id], read).optional()?;
    let Some((customer, dimension, hour, micros, allocations)) = found else { return Ok(false) };
    let slot = Slot { pod: pod.to_owned(), customer, dimension, hour: current };
    let stored: Vec<StoredAllocation> = serde_json::from_str(&allocations).unwrap_or_default();
    if stored.is_empty() && micros > 0 {
        add(transaction, &slot, &TagSet::default(), micros, now, Some(hour))?;
    }
    stored
        .into_iter()
        .try_for_each(|part| add(transaction, &slot, &part.tags, part.micros, now, Some(hour)))?;
    Ok(true)
}

pub(super) fn totals(connection: &Connection) -> rusqlite::Result<BTreeMap<String, Totals>> {
    let mut totals: BTreeMap<String, Totals> = BTreeMap::new();
    let mut read = |sql: &str, put: fn(&mut Totals, u64)| -> rusqlite::Result<()> {
        let mut statement = connection.prepare_cached(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            put(totals.entry(row.get(0)?).or_default(), unsigned(row.get(1)?));
        }
        Ok(())
    };
    read("SELECT dimension, micros FROM accepted", |totals, micros| {
        totals.accepted += micros;
    })?;
    read("SELECT dimension, sum(micros) FROM sums GROUP BY dimension", |totals, micros| {
        totals.pending += micros;
    })?;
    read("SELECT dimension, micros FROM settled", |totals, micros| {
        totals.billed += micros;
    })?;
    let of_state = |state: &str| {
        format!("SELECT dimension, sum(micros) FROM records WHERE state = '{state}' GROUP BY dimension")
    };
    read(&of_state("sealed"), |totals, micros| {
        totals.pending += micros;
    })?;
    read(&of_state("accepted"), |totals, micros| {
        totals.billed += micros;
    })?;
    read(&of_state("dead"), |totals, micros| {
        totals.dead += micros;
    })?;
    Ok(totals)
}
