//! What keeps the ledger useful and bounded: hours without usage, forgetting, and its figures.

use std::collections::BTreeSet;
use std::time::Duration;

use rusqlite::{Transaction, params};

use super::rows::{self, Slot, Which};
use super::{Ledger, LedgerError, OpenSum, Record, Settings, classify, links, meta, random_hex, set_meta};
use crate::clock::Timestamp;
use crate::marketplace::{Hour, Quantity};
use crate::usage::event::Customer;
use crate::usage::seal::Sealed;

/// Keys are remembered so long: twice the age of the oldest event that is taken.
pub(super) const KEYS_KEPT: Duration = Duration::from_secs(48 * 3600);

/// Settled records are kept so long, to be compared with AWS's monthly reports.
pub(super) const RECORDS_KEPT: Duration = Duration::from_secs(35 * 24 * 3600);

/// At most so many settled records are kept: some 30 MB of a ledger whose default limit is 1 GiB.
pub(super) const SETTLED_MAX: i64 = 100_000;

/// With each hour that closes, the moment before which all is forgotten moves by so much at most. A clock that is wrong
/// for a moment closes one hour: without this bound it would forget every key, or make those that it saw look old, and
/// a repeated event would count twice.
const FORGOTTEN_STEP: Duration = Duration::from_secs(6 * 3600);

/// Hours without usage that are reported at once: older ones are out of AWS's window.
const ZERO_HOURS_MAX: i64 = 5;

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

impl Ledger {
    /// One record with its allocations.
    pub fn record(&self, id: i64) -> Result<Option<Record>, LedgerError> {
        let found = rows::records(&self.connection, Which::Id(id), 1);
        found.map(|mut records| records.pop()).map_err(|error| classify(&self.path, &error))
    }

    /// Dead letters, oldest hour first.
    pub fn dead_letters(&self, limit: usize) -> Result<Vec<Record>, LedgerError> {
        rows::records(&self.connection, Which::Dead, limit).map_err(|error| classify(&self.path, &error))
    }

    /// Backlog, dead letters and size.
    pub fn summary(&self) -> Result<Summary, LedgerError> {
        let failed = |error: rusqlite::Error| classify(&self.path, &error);
        let count = |state: &str| -> Result<(i64, Option<i64>), LedgerError> {
            self.connection
                .prepare_cached("SELECT count(*), min(timestamp) FROM records WHERE state = ?1")
                .and_then(|mut statement| statement.query_row([state], |row| Ok((row.get(0)?, row.get(1)?))))
                .map_err(failed)
        };
        let ((unsent, oldest), (dead, _)) = (count("sealed")?, count("dead")?);
        Ok(Summary {
            unsent: u64::try_from(unsent).unwrap_or_default(),
            oldest_unsent: oldest.map(Timestamp::from_unix_millis),
            dead: u64::try_from(dead).unwrap_or_default(),
            bytes: self.bytes()?,
        })
    }
}

/// Seals a report of 0 for each configured dimension in each whole hour that had no usage. Returns how many.
pub(super) fn zero_hours(
    transaction: &Transaction<'_>,
    settings: &Settings,
    whole: Hour,
    now: Timestamp,
) -> rusqlite::Result<usize> {
    if settings.zero_dimensions.is_empty() {
        return Ok(0);
    }
    let first = Hour::of(settings.started_at).number().max(whole.number() - ZERO_HOURS_MAX);
    let mut made = 0;
    for hour in (first..=whole.number()).map(Hour::from_number) {
        let used = used(transaction, settings, hour)?;
        for dimension in settings.zero_dimensions.iter().filter(|dimension| !used.contains(*dimension)) {
            let slot = Slot {
                pod: settings.pod.clone(),
                customer: Customer::Own.canonical(),
                dimension: dimension.clone(),
                hour,
            };
            let sealed = Sealed {
                quantity: Quantity::ZERO,
                decimal: false,
                allocations: Vec::new(),
                timestamp: hour.start().max(settings.started_at),
                rest: std::collections::BTreeMap::new(),
            };
            rows::insert_record(transaction, &slot, &OpenSum::default(), &sealed, &random_hex()?, now)?;
            made += 1;
        }
    }
    Ok(made)
}

/// Dimensions with usage in an hour, open or sealed.
fn used(
    transaction: &Transaction<'_>,
    settings: &Settings,
    hour: Hour,
) -> rusqlite::Result<BTreeSet<String>> {
    let mut statement = transaction.prepare_cached(
        "SELECT dimension FROM sums WHERE hour = ?1 AND pod = ?2
         UNION SELECT dimension FROM records WHERE hour = ?1 AND pod = ?2",
    )?;
    statement.query_map(params![hour.number(), settings.pod], |row| row.get(0))?.collect()
}

/// Where forgetting begins, in a ledger that has forgotten nothing yet.
pub(super) fn begin_to_forget(transaction: &Transaction<'_>, now: Timestamp) -> rusqlite::Result<()> {
    if meta(transaction, "forgotten_before")?.is_none() {
        set_meta(transaction, "forgotten_before", &now.minus(KEYS_KEPT).unix_millis().to_string())?;
    }
    Ok(())
}

/// Keys from before it are forgotten.
pub(super) fn forgotten_before(transaction: &Transaction<'_>) -> rusqlite::Result<Timestamp> {
    let millis = meta(transaction, "forgotten_before")?.and_then(|text| text.parse().ok());
    Ok(Timestamp::from_unix_millis(millis.unwrap_or_default()))
}

/// Forgets old keys, and settled records that are old or too many; what those held stays in the balance.
pub(super) fn forget(transaction: &Transaction<'_>, now: Timestamp) -> rusqlite::Result<()> {
    let wanted = now.minus(KEYS_KEPT);
    let known = forgotten_before(transaction)?;
    let before = wanted.clamp(known.minus(FORGOTTEN_STEP), known.plus(FORGOTTEN_STEP));
    set_meta(transaction, "forgotten_before", &before.unix_millis().to_string())?;
    transaction.execute("DELETE FROM keys WHERE seen_at < ?1", [before.unix_millis()])?;
    let settled: i64 = transaction
        .prepare_cached("SELECT count(*) FROM records WHERE state IN ('accepted', 'carried')")?
        .query_row([], |row| row.get(0))?;
    let surplus = (settled - SETTLED_MAX).max(0);
    // What somebody confirmed without AWS's word still counts for `on_unsent`.
    let old = "id IN (SELECT id FROM records WHERE state IN ('accepted', 'carried') AND updated_at < ?1 AND hour < ?3
               UNION SELECT * FROM (SELECT id FROM records WHERE state IN ('accepted', 'carried') ORDER BY id LIMIT ?2))
               AND overdue_from IS NULL";
    // By both: a clock that was behind when AWS answered makes no record old whose hour is of yesterday.
    let old_before = before.minus(RECORDS_KEPT - KEYS_KEPT);
    let bounds = params![old_before.unix_millis(), surplus, Hour::of(old_before).number()];
    transaction.execute(
        &format!(
            "INSERT INTO settled (dimension, micros)
             SELECT dimension, sum(micros) FROM records WHERE state = 'accepted' AND {old} GROUP BY dimension
             ON CONFLICT (dimension) DO UPDATE SET micros = micros + excluded.micros"
        ),
        bounds,
    )?;
    transaction.execute(&format!("DELETE FROM records WHERE {old}"), bounds)?;
    links::forget(transaction)
}
