//! The rows of the ledger: how sums and records are written and read. Only `ledger` calls it.

use std::collections::BTreeMap;

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::ageing::{self, Overdue};
use super::{OpenSum, links, meta, set_meta};
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
    /// A person decided that it is not to be billed.
    Discarded,
}

impl State {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Sealed => "sealed",
            Self::Accepted => "accepted",
            Self::Carried => "carried",
            Self::Dead => "dead",
            Self::Claimed => "claimed",
            Self::Discarded => "discarded",
        }
    }

    pub(super) fn of(text: &str) -> Option<Self> {
        let all = [Self::Sealed, Self::Accepted, Self::Carried, Self::Dead, Self::Claimed, Self::Discarded];
        all.into_iter().find(|state| state.as_str() == text)
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
    /// The split by tags; empty in lists, where it may be large.
    pub allocations: Vec<Allocation>,
    /// How many parts the split has.
    pub allocation_count: usize,
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
    /// AWS answered that it holds such a record; whether it is this one, CloudTrail or a person says.
    pub unconfirmed: bool,
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

#[cfg(test)]
impl Record {
    /// A record of nothing, sealed at this moment of its hour: tests say what theirs is about.
    pub(crate) fn sample(at: Timestamp) -> Self {
        Self {
            id: 1,
            pod: "pod".to_owned(),
            customer: Customer::Own,
            dimension: "requests".to_owned(),
            hour: Hour::of(at),
            quantity: Quantity::ZERO,
            decimal: false,
            allocations: Vec::new(),
            allocation_count: 0,
            timestamp: at,
            client_token: "token".to_owned(),
            late_from: None,
            state: State::Sealed,
            in_doubt: false,
            unconfirmed: false,
            attempts: 0,
            code: None,
            metering_record_id: None,
            sealed_at: at,
            updated_at: at,
        }
    }
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
    /// In records that a person discarded.
    pub discarded: u64,
}

impl Totals {
    /// The law that every committed state keeps.
    #[must_use]
    pub const fn balances(self) -> bool {
        self.accepted == self.billed + self.pending + self.dead + self.discarded
    }
}

/// SQLite's integers are signed; a sum of quantities stays far below 2^63.
pub(crate) fn signed(micros: u64) -> i64 {
    i64::try_from(micros).unwrap_or(i64::MAX)
}

/// A value that this module never writes: the file was changed on the disk.
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

/// Notes whose usage this is. `Some` where the ledger holds unsent usage of another product.
pub(super) fn adopt_product(
    transaction: &Transaction<'_>,
    product: &str,
) -> rusqlite::Result<Option<String>> {
    let held = meta(transaction, "product")?;
    if held.as_deref() == Some(product) {
        return Ok(None);
    }
    let pending = "SELECT EXISTS (SELECT 1 FROM sums WHERE micros > 0)
                       OR EXISTS (SELECT 1 FROM records WHERE state IN ('sealed', 'claimed'))";
    let pending: bool = transaction.query_row(pending, [], |row| row.get(0))?;
    if let Some(held) = held.filter(|_| pending) {
        return Ok(Some(held));
    }
    set_meta(transaction, "product", product)?;
    Ok(None)
}

/// When the first process of this pod started, which is remembered.
pub(super) fn started_at(
    transaction: &Transaction<'_>,
    pod: &str,
    started_at: Timestamp,
) -> rusqlite::Result<Timestamp> {
    let known =
        meta(transaction, "started_at")?.and_then(|text| text.parse().ok()).map(Timestamp::from_unix_millis);
    match known {
        // A clock that was ahead then must not shut out the usage of now.
        Some(known) if meta(transaction, "pod")?.as_deref() == Some(pod) && known <= started_at => Ok(known),
        _ => {
            set_meta(transaction, "pod", pod)?;
            set_meta(transaction, "started_at", &started_at.unix_millis().to_string())?;
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
    overdue: Overdue,
) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "INSERT INTO sums (pod, customer, dimension, hour, tags, micros, first_at, late_from, overdue_hour, overdue_from)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
             ON CONFLICT (hour, pod, customer, dimension, tags) DO UPDATE SET
                 micros = micros + excluded.micros,
                 first_at = min(first_at, excluded.first_at),
                 late_from = coalesce(min(late_from, excluded.late_from), late_from, excluded.late_from),
                 overdue_hour = coalesce(min(overdue_hour, excluded.overdue_hour), overdue_hour, excluded.overdue_hour),
                 overdue_from = coalesce(min(overdue_from, excluded.overdue_from), overdue_from, excluded.overdue_from)",
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
            overdue.hour.map(Hour::number),
            overdue.from,
        ])
        .map(|_| ())
}

/// Every sum of an hour up to `closed` or after `farthest`, and all that other pods left.
pub(super) fn due_sums(
    transaction: &Transaction<'_>,
    closed: Hour,
    farthest: Hour,
    pod: &str,
) -> rusqlite::Result<BTreeMap<Slot, OpenSum>> {
    let mut statement = transaction.prepare_cached(
        "SELECT pod, customer, dimension, hour, tags, micros, first_at, late_from, overdue_hour, overdue_from
         FROM sums
         WHERE hour <= ?1 OR hour > ?2 OR pod <> ?3",
    )?;
    sums(statement.query(params![closed.number(), farthest.number(), pod])?)
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
            json(4, &tags)?,
            unsigned(row, 5)?,
            Timestamp::from_unix_millis(row.get(6)?),
            late_from.map(Hour::from_number),
            Overdue { hour: row.get::<_, Option<i64>>(8)?.map(Hour::from_number), from: row.get(9)? },
        );
    }
    Ok(sums)
}

pub(super) fn remove_sum(transaction: &Transaction<'_>, slot: &Slot) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("DELETE FROM sums WHERE pod = ?1 AND customer = ?2 AND dimension = ?3 AND hour = ?4")?
        .execute(params![slot.pod, slot.customer, slot.dimension, slot.hour.number()])
        .map(|_| ())
}

/// Moves an open sum to another slot, as usage of `now`: the pod that reports it may not have run before.
pub(super) fn carry(
    transaction: &Transaction<'_>,
    target: &Slot,
    slot: &Slot,
    sum: &OpenSum,
    now: Timestamp,
) -> rusqlite::Result<()> {
    remove_sum(transaction, slot)?;
    // An hour that a clock ahead of its time put it into is none that it came from.
    let earlier = (slot.hour < target.hour).then_some(slot.hour);
    let late_from = [earlier, sum.late_from].into_iter().flatten().min();
    for (tags, share) in &sum.sum.shares {
        add(transaction, target, tags, share.micros, now, late_from, sum.overdue)?;
    }
    links::moved(transaction, slot, target)
}

/// Seals a slot; what is open in it stays: the caller removes it where it is what was sealed.
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
    let overdue = match sealed.quantity {
        Quantity::ZERO => Overdue::default(),
        _ => sum.overdue.or(Overdue::begins(slot, now, ageing::running(transaction)?)),
    };
    transaction
        .prepare_cached(
            "INSERT INTO records (pod, customer, dimension, hour, micros, decimal, allocations, timestamp, client_token,
                 late_from, state, sealed_at, updated_at, overdue_hour, overdue_from)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, 'sealed', ?11, ?11, ?12, ?13)",
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
            overdue.hour.map(Hour::number),
            overdue.from,
        ])
        .map(|_| ())
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
    let overdue = Overdue::begins(&target, now, ageing::running(transaction)?);
    for (tags, micros) in &sealed.rest {
        add(transaction, &target, tags, *micros, now, Some(slot.hour), overdue)?;
    }
    Ok(())
}

/// Which records are read.
#[derive(Clone, Copy)]
pub(super) enum Which {
    /// Sealed ones behind this one.
    Unsent { hour: Hour, id: i64 },
    /// All; those that are not settled before others, where there are too many.
    All,
    /// Dead letters.
    Dead,
    /// One, with its allocations.
    Id(i64),
}

/// The columns that [`record`] reads, in its order.
pub(super) const COLUMNS: &str = "id, pod, customer, dimension, hour, micros, decimal, allocations, timestamp, client_token, \
                       late_from, state, in_doubt OR attempting, attempts, code, metering_record_id, sealed_at, updated_at, \
                       unconfirmed";

pub(super) fn records(connection: &Connection, which: Which, limit: usize) -> rusqlite::Result<Vec<Record>> {
    let condition = match which {
        Which::Unsent { .. } => "state = 'sealed' AND (hour, id) > (?2, ?3)",
        // Without the second column of its index the whole table would be sorted, with all that is in it.
        Which::All => {
            "id IN (SELECT id FROM records ORDER BY state IN ('accepted', 'carried'), hour DESC, id DESC LIMIT ?1)
             AND ?2 = ?2 AND ?3 = ?3"
        }
        Which::Dead => "state = 'dead' AND ?2 = ?2 AND ?3 = ?3",
        Which::Id(_) => "id = ?2 AND ?3 = ?3",
    };
    let (first, second) = match which {
        Which::Unsent { hour, id } => (hour.number(), id),
        Which::Id(id) => (id, 0),
        Which::All | Which::Dead => (0, 0),
    };
    let sql = format!("SELECT {COLUMNS} FROM records WHERE {condition} ORDER BY hour, id LIMIT ?1");
    let mut statement = connection.prepare_cached(&sql)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let whole = matches!(which, Which::Id(_));
    statement.query_map([limit, first, second], |row| record(row, whole))?.collect()
}

/// Reads every row, and keeps none: for a ledger that is under suspicion.
pub(super) fn read_all(connection: &Connection) -> rusqlite::Result<()> {
    let all = "SELECT pod, customer, dimension, hour, tags, micros, first_at, late_from, overdue_hour, overdue_from FROM sums";
    sums(connection.prepare(all)?.query([])?)?;
    let mut statement = connection.prepare(&format!("SELECT {COLUMNS} FROM records"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        record(row, true)?;
    }
    Ok(())
}

/// A row of [`COLUMNS`]; its allocations are read if it shall be `whole`, else only counted.
pub(super) fn record(row: &Row<'_>, whole: bool) -> rusqlite::Result<Record> {
    let customer: String = row.get(2)?;
    let allocations: String = row.get(7)?;
    let (stored, allocation_count) = if whole {
        let stored: Vec<StoredAllocation> = json(7, &allocations)?;
        let count = stored.len();
        (stored, count)
    } else {
        (Vec::new(), json::<Vec<IgnoredAny>>(7, &allocations)?.len())
    };
    let allocation = |stored: StoredAllocation| {
        let quantity = Quantity::from_micros(stored.micros).ok_or_else(|| unreadable(7, "an allocation"))?;
        Ok(Allocation { tags: stored.tags, quantity })
    };
    let late_from: Option<i64> = row.get(10)?;
    let state: String = row.get(11)?;
    Ok(Record {
        id: row.get(0)?,
        pod: row.get(1)?,
        customer: Customer::from_canonical(&customer).ok_or_else(|| unreadable(2, "a customer"))?,
        dimension: row.get(3)?,
        hour: Hour::from_number(row.get(4)?),
        quantity: quantity(row, 5)?,
        decimal: row.get(6)?,
        allocations: stored.into_iter().map(allocation).collect::<rusqlite::Result<_>>()?,
        allocation_count,
        timestamp: Timestamp::from_unix_millis(row.get(8)?),
        client_token: row.get(9)?,
        late_from: late_from.map(Hour::from_number),
        state: State::of(&state).ok_or_else(|| unreadable(11, "a state"))?,
        in_doubt: row.get(12)?,
        attempts: row.get(13)?,
        code: row.get(14)?,
        metering_record_id: row.get(15)?,
        sealed_at: Timestamp::from_unix_millis(row.get(16)?),
        updated_at: Timestamp::from_unix_millis(row.get(17)?),
        unconfirmed: row.get(18)?,
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
    ageing::answered(transaction, id, answered)?;
    if matches!(answered, Answered::Carry(_)) {
        // The attempt that was under way is what was refused; an earlier one without an answer is not.
        carry_record(transaction, "state = 'sealed' AND in_doubt = 0", pod, current, None, id, now)?;
    }
    transaction
        .prepare_cached(
            "UPDATE records SET state = ?2, in_doubt = in_doubt OR ?3, attempting = 0, code = ?4,
                 metering_record_id = coalesce(?5, metering_record_id), updated_at = ?6
             WHERE id = ?1 AND state = 'sealed' AND (?2 <> 'carried' OR in_doubt = 0)",
        )?
        .execute(params![id, state.as_str(), doubt, code, record_id, now.unix_millis()])
        .map(|_| ())
}

/// Counts a record's quantity to the current hour, in another dimension where one is given, if `condition` holds for
/// the record.
pub(super) fn carry_record(
    transaction: &Transaction<'_>,
    condition: &str,
    pod: &str,
    current: Hour,
    to_dimension: Option<&str>,
    id: i64,
    now: Timestamp,
) -> rusqlite::Result<bool> {
    let sql = format!(
        "SELECT customer, dimension, coalesce(late_from, hour), micros, allocations FROM records WHERE id = ?1 AND {condition}"
    );
    let read = |row: &Row<'_>| {
        let (customer, dimension): (String, String) = (row.get(0)?, row.get(1)?);
        Ok((customer, dimension, Hour::from_number(row.get(2)?), unsigned(row, 3)?, row.get::<_, String>(4)?))
    };
    let found = transaction.query_row(&sql, [id], read).optional()?;
    let Some((customer, dimension, hour, micros, allocations)) = found else { return Ok(false) };
    let dimension = to_dimension.map_or(dimension, str::to_owned);
    let slot = Slot { pod: pod.to_owned(), customer, dimension, hour: current };
    if micros > 0 {
        links::carried(transaction, id, &slot)?;
    }
    let begins = Overdue::begins(&slot, now, ageing::running(transaction)?);
    let overdue = ageing::of_record(transaction, id)?.or(begins);
    ageing::end(transaction, id)?;
    let stored: Vec<StoredAllocation> = json(4, &allocations)?;
    if stored.is_empty() && micros > 0 {
        add(transaction, &slot, &TagSet::default(), micros, now, Some(hour), overdue)?;
    }
    stored
        .into_iter()
        .try_for_each(|part| add(transaction, &slot, &part.tags, part.micros, now, Some(hour), overdue))?;
    Ok(true)
}

pub(super) fn totals(connection: &Connection) -> rusqlite::Result<BTreeMap<String, Totals>> {
    let mut totals: BTreeMap<String, Totals> = BTreeMap::new();
    let mut read = |sql: &str, put: fn(&mut Totals, u64)| -> rusqlite::Result<()> {
        let mut statement = connection.prepare_cached(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            put(totals.entry(row.get(0)?).or_default(), unsigned(row, 1)?);
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
    read(&of_state("discarded"), |totals, micros| {
        totals.discarded += micros;
    })?;
    Ok(totals)
}
