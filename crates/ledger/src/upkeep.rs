//! Upkeep: reports of 0 for hours without usage, forgetting, and the ledger's figures.

use std::time::Duration;

use rusqlite::{Connection, Transaction, params};
use tokio::time::Instant;

use super::rows::{self, NewRecord, Slot, signed};
use super::slots::{self, Past};
use super::{
    Database, LedgerError, LedgerSettings, Links, claim, forms, keys, meta, random_hex, set_meta, totals,
};
use tollgate_clock as clock;
use tollgate_marketplace::{Customer, Hour, HourUsage};
use tollgate_metering::record::{RecordState, Whole};
use tollgate_time::Timestamp;

/// How long settled records are kept, to be compared with AWS's monthly reports.
pub(super) const RECORDS_KEPT: Duration = Duration::from_secs(35 * 24 * 3600);

/// At most this many settled records are kept: about 30 MB of a ledger whose default limit is 1 GiB.
pub(super) const SETTLED_MAX: u64 = 100_000;

/// With each hour that closes, the moment before which records are forgotten moves by at most this much. A clock that
/// is wrong for a moment closes one hour: without this bound it would forget every record.
const FORGOTTEN_STEP: Duration = Duration::from_secs(6 * 3600);

/// The least work of a transaction, in rows: tests of small ledgers must not depend on the machine's speed.
const STEP_ROWS_MIN: usize = 64;

/// The most work of a transaction, in rows: about 20 ms, and a WAL that stays small.
const STEP_ROWS_MAX: usize = 8000;

/// Between these two a transaction ends after this time. Together with the fsync of its commit and of the next
/// acknowledgement's commit, a request waits less than 50 ms for it, on a slow disk too.
const STEP_TIME: Duration = Duration::from_millis(10);

/// Settled records that are deleted between two looks at the clock.
const STEP_RECORDS: u64 = 100;

/// How many hours without usage are reported at once, before the latest: older ones are out of AWS's window.
const ZERO_HOURS_MAX: i64 = 5;

/// How much work one transaction may still do before the thread serves others.
#[derive(Debug)]
pub(super) struct Budget {
    began: Instant,
    rows: usize,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self { began: clock::monotonic(), rows: 0 }
    }

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
    /// One record with its allocations.
    pub fn record(&self, id: i64) -> Result<Option<Whole>, LedgerError> {
        self.reading(|connection| rows::whole(connection, id))
    }

    /// One record with its allocations, and the records that it is linked to.
    pub fn linked_record(&self, id: i64) -> Result<Option<(Whole, Links)>, LedgerError> {
        Ok(match self.record(id)? {
            Some(whole) => Some((whole, self.links(id)?)),
            None => None,
        })
    }

    /// The ledger's figures.
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

/// The result of [`zero_hours`].
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Zeroed {
    /// How many records were made.
    pub(super) made: usize,
    /// In one of these hours a report of the application's own is under way; if AWS refuses it, the hour has no report.
    pub(super) undecided: bool,
}

/// Seals a report of 0 for each configured dimension in each whole hour that had no usage.
pub(super) fn zero_hours(
    transaction: &Transaction<'_>,
    settings: &LedgerSettings,
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
            let record = NewRecord {
                slot: &slot,
                past: &Past::of(usage.timestamp, None),
                usage: &usage,
                raw: 0,
                rounded: 0,
                client_token: &random_hex()?,
                state: RecordState::FRESH,
            };
            rows::insert_record(transaction, &record, now)?;
            zeroed.made += 1;
        }
    }
    Ok(zeroed)
}

/// Sets the moment before which records are forgotten, in a ledger that has none yet.
pub(super) fn begin_to_forget(
    transaction: &Transaction<'_>,
    settings: &LedgerSettings,
    now: Timestamp,
) -> rusqlite::Result<()> {
    if meta(transaction, "forgotten_before")?.is_none() {
        let before = now.minus(settings.idempotency_window);
        set_meta(transaction, "forgotten_before", &before.unix_millis().to_string())?;
    }
    Ok(())
}

/// The moment `idempotency_window` before the present, as far as the clock is believed. Records are forgotten by it,
/// and the ring's time of the keys began with it.
pub(super) fn forgotten_before(connection: &Connection) -> rusqlite::Result<Timestamp> {
    let millis = meta(connection, "forgotten_before")?.and_then(|text| text.parse().ok());
    Ok(Timestamp::from_unix_millis(millis.unwrap_or_default()))
}

/// Moves the moment before which records are forgotten, after an hour was closed.
pub(super) fn advance(
    transaction: &Transaction<'_>,
    settings: &LedgerSettings,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let wanted = now.minus(settings.idempotency_window);
    let known = forgotten_before(transaction)?;
    let before = wanted.clamp(known.minus(FORGOTTEN_STEP), known.plus(FORGOTTEN_STEP));
    set_meta(transaction, "forgotten_before", &before.unix_millis().to_string())
}

/// Forgets old keys, old forms, and settled records that are old or too many, within the budget; `true` if there is
/// more. The forgotten records' amounts stay in the balance.
pub(super) fn forget(
    transaction: &Transaction<'_>,
    settings: &LedgerSettings,
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
    // By the hour as well as by `updated_at`: if the clock was behind when AWS answered, a record of yesterday's hour
    // must not count as old.
    let old = now.minus(RECORDS_KEPT);
    // A record shows that its slot takes no more usage. It stays until its hour is closed for everybody, however far
    // behind the clock is.
    let hours_end = Hour::of(old).min(closed.next());
    // A record with `overdue_from`, which a person confirmed without an answer of AWS, still counts for `on_unsent`.
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
            // A record also has rows in four indexes.
            budget.spend(gone * 8);
            if gone == 0 {
                break;
            }
        }
    }
    Ok(false)
}

/// States of records that are kept only for comparison, in the order in which they are forgotten if there are too many.
const SETTLED: [&str; 3] = ["accepted", "carried", "discarded"];

fn settled(connection: &Connection) -> rusqlite::Result<u64> {
    SETTLED.iter().map(|state| totals::count(connection, state)).sum()
}
