//! What keeps the ledger useful and bounded: hours without usage, forgetting, and its figures.

use std::time::Duration;

use rusqlite::{Connection, Transaction, params};
use tokio::time::Instant;

use super::rows::{self, Slot, signed};
use super::slots::{self, Past};
use super::{Database, LedgerError, Settings, claim, forms, keys, meta, random_hex, set_meta, totals};
use tollgate_clock as clock;
use tollgate_marketplace::{Customer, Hour, HourUsage};
use tollgate_metering::record::{State, Whole};
use tollgate_time::Timestamp;

/// How long settled records are kept, to be compared with AWS's monthly reports.
pub(super) const RECORDS_KEPT: Duration = Duration::from_secs(35 * 24 * 3600);

/// At most so many settled records are kept: some 30 MB of a ledger whose default limit is 1 GiB.
pub(super) const SETTLED_MAX: u64 = 100_000;

/// With each hour that closes, the moment before which records are forgotten moves by so much at most. A clock that is
/// wrong for a moment closes one hour: without this bound it would forget every record.
const FORGOTTEN_STEP: Duration = Duration::from_secs(6 * 3600);

/// Work that a transaction does at least, in rows; so that tests of small ledgers do not depend on the machine.
const STEP_ROWS_MIN: usize = 64;

/// Work that a transaction does at most, in rows: some 20 ms, and a WAL that stays small.
const STEP_ROWS_MAX: usize = 8000;

/// In between, a transaction ends after this time: with the fsync of its commit, and of an acknowledgement's behind it,
/// on a slow disk, nobody waits 50 ms for it.
const STEP_TIME: Duration = Duration::from_millis(10);

/// Settled records that are forgotten between two looks at the clock.
const STEP_RECORDS: u64 = 100;

/// Hours without usage that are reported at once: older ones are out of AWS's window.
const ZERO_HOURS_MAX: i64 = 5;

/// How much one transaction may still do before the thread is given back.
#[derive(Debug)]
pub(super) struct Budget {
    began: Instant,
    rows: usize,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self { began: clock::monotonic(), rows: 0 }
    }

    /// So many rows were changed.
    pub(super) const fn spend(&mut self, rows: usize) {
        self.rows += rows;
    }

    pub(super) fn is_spent(&self) -> bool {
        let over = || clock::monotonic().duration_since(self.began) >= STEP_TIME;
        self.rows >= STEP_ROWS_MAX || (self.rows >= STEP_ROWS_MIN && over())
    }
}

/// The ledger's figures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Sealed records without a definite answer.
    pub unsent: u64,
    /// The time of the oldest of them.
    pub oldest_unsent: Option<Timestamp>,
    /// Dead letters.
    pub dead: u64,
    /// Bytes of data.
    pub bytes: u64,
}

impl Database {
    /// One record with its split.
    pub fn record(&self, id: i64) -> Result<Option<Whole>, LedgerError> {
        self.reading(|connection| rows::whole(connection, id))
    }

    /// Backlog, dead letters and size.
    pub fn summary(&self) -> Result<Summary, LedgerError> {
        let (unsent, oldest, dead) = self.reading(|connection| {
            let oldest: Option<i64> = connection
                .prepare_cached(
                    "SELECT min(timestamp) FROM records INDEXED BY records_oldest WHERE state = 'sealed'",
                )?
                .query_row([], |row| row.get(0))?;
            Ok((totals::count(connection, "sealed")?, oldest, totals::count(connection, "dead")?))
        })?;
        let oldest_unsent = oldest.map(Timestamp::from_unix_millis);
        Ok(Summary { unsent, oldest_unsent, dead, bytes: self.bytes()? })
    }
}

/// What was done about hours without usage.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Zeroed {
    /// Records that it made.
    pub(super) made: usize,
    /// A report of the application's own is under way in one of these hours: should AWS refuse it, the hour has none.
    pub(super) undecided: bool,
}

/// Seals a report of 0 for each configured dimension in each whole hour that had no usage.
pub(super) fn zero_hours(
    transaction: &Transaction<'_>,
    settings: &Settings,
    whole: Hour,
    now: Timestamp,
) -> rusqlite::Result<Zeroed> {
    let mut zeroed = Zeroed::default();
    if settings.zero_dimensions.is_empty() {
        return Ok(zeroed);
    }
    let first = Hour::of(settings.started_at).number().max(whole.number() - ZERO_HOURS_MAX);
    for hour in (first..=whole.number()).map(Hour::from_number) {
        for dimension in &settings.zero_dimensions {
            let slot = Slot {
                pod: settings.pod.clone(),
                customer: Customer::Own.canonical(),
                dimension: dimension.clone(),
                hour,
            };
            let usage = HourUsage::zero(hour.start().max(settings.started_at));
            if claim::under_way(transaction, &slot)? {
                zeroed.undecided = true;
                continue;
            }
            if slots::find(transaction, &slot)?.is_some() || claim::unclaimed(transaction, &slot)? != hour {
                continue;
            }
            let past = Past::of(usage.timestamp, None);
            rows::insert_record(transaction, &slot, &past, &usage, &random_hex()?, State::FRESH, now)?;
            zeroed.made += 1;
        }
    }
    Ok(zeroed)
}

/// Where forgetting begins, in a ledger that has forgotten nothing yet.
pub(super) fn begin_to_forget(
    transaction: &Transaction<'_>,
    settings: &Settings,
    now: Timestamp,
) -> rusqlite::Result<()> {
    if meta(transaction, "forgotten_before")?.is_none() {
        let before = now.minus(settings.idempotency_window);
        set_meta(transaction, "forgotten_before", &before.unix_millis().to_string())?;
    }
    Ok(())
}

/// The window of keys before the present, as far as that is believed: records are forgotten by it, and the time of the
/// keys began with it.
pub(super) fn forgotten_before(connection: &Connection) -> rusqlite::Result<Timestamp> {
    let millis = meta(connection, "forgotten_before")?.and_then(|text| text.parse().ok());
    Ok(Timestamp::from_unix_millis(millis.unwrap_or_default()))
}

/// With an hour that closed, the moment before which records are forgotten moves on.
pub(super) fn advance(
    transaction: &Transaction<'_>,
    settings: &Settings,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let wanted = now.minus(settings.idempotency_window);
    let known = forgotten_before(transaction)?;
    let before = wanted.clamp(known.minus(FORGOTTEN_STEP), known.plus(FORGOTTEN_STEP));
    set_meta(transaction, "forgotten_before", &before.unix_millis().to_string())
}

/// Forgets old keys, old forms, and settled records that are old or too many, as far as the budget goes; `true` where
/// there is more. What the records held stays in the balance.
pub(super) fn forget(
    transaction: &Transaction<'_>,
    settings: &Settings,
    closed: Hour,
    budget: &mut Budget,
) -> rusqlite::Result<bool> {
    let before = forgotten_before(transaction)?;
    Ok(keys::forget(transaction, settings, budget)?
        || forms::forget(transaction, closed, budget)?
        || forget_records(transaction, before.plus(settings.idempotency_window), closed, budget)?)
}

fn forget_records(
    transaction: &Transaction<'_>,
    now: Timestamp,
    closed: Hour,
    budget: &mut Budget,
) -> rusqlite::Result<bool> {
    // By both: a clock that was behind when AWS answered makes no record old whose hour is of yesterday.
    let old = now.minus(RECORDS_KEPT);
    // A record says that its slot takes no more usage: until its hour is closed for everybody it stays, however far
    // behind the clock is.
    let hours_end = Hour::of(old).min(closed.next());
    // What somebody confirmed without an answer of AWS still counts for `on_unsent`.
    for state in SETTLED {
        loop {
            if budget.is_spent() {
                return Ok(true);
            }
            let mut gone = transaction
                .prepare_cached(
                    "DELETE FROM records WHERE id IN (SELECT id FROM records
                         WHERE state = ?1 AND hour < ?2 AND updated_at < ?3 AND overdue_from IS NULL ORDER BY hour LIMIT ?4)",
                )?
                .execute(params![state, hours_end.number(), old.unix_millis(), signed(STEP_RECORDS)])?;
            if gone == 0 {
                let surplus = settled(transaction)?.saturating_sub(SETTLED_MAX).min(STEP_RECORDS);
                gone = transaction
                    .prepare_cached(
                        "DELETE FROM records WHERE id IN
                             (SELECT id FROM records WHERE state = ?1 AND hour <= ?3 AND overdue_from IS NULL
                              ORDER BY hour, id LIMIT ?2)",
                    )?
                    .execute(params![state, signed(surplus), closed.number()])?;
            }
            // A record takes its rows in four indexes with it.
            budget.spend(gone * 8);
            if gone == 0 {
                break;
            }
        }
    }
    Ok(false)
}

/// States of records that are kept for comparison only, in the order in which they are forgotten where there are too
/// many.
const SETTLED: [&str; 3] = ["accepted", "carried", "discarded"];

fn settled(connection: &Connection) -> rusqlite::Result<u64> {
    SETTLED.iter().map(|state| totals::count(connection, state)).sum()
}
