//! Reports that an application makes itself through the AWS door: each claims its dimension's hour.
//!
//! AWS takes one value for an hour, dimension and pod. A claim is on disk before the call leaves, so that usage counted
//! here never competes with it: while the claim is under way, the hour is not sealed. If AWS accepted it or may have,
//! open usage of that hour moves to the next hour, and later events count there too. A refused claim is deleted and
//! moves nothing. Usage moves only once: if the hour's usage was moved before, or the report is 0, the claim is refused
//! instead.

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::closing::Hours;
use super::rows::{self, NewRecord, Slot};
use super::slots::{self, Past};
use super::{Ledger, LedgerError, LedgerSettings, stored};
use tollgate_marketplace::{Customer, Hour, HourUsage, Quantity, Region};
use tollgate_metering::record::RecordState;
use tollgate_time::Timestamp;

/// A report of the application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// What was used.
    pub dimension: String,
    /// How much.
    pub usage: HourUsage,
    /// The application's token, or a generated one if it gave none.
    pub client_token: String,
}

/// The result of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// The call may leave, under this record.
    Granted(i64),
    /// The same report was made before: it may be sent again, with its first token and time, to its first region.
    Repeated {
        /// Its record.
        id: i64,
        /// Its token.
        client_token: String,
        /// Its time.
        timestamp: Timestamp,
        /// The region of the first call: AWS deduplicates within a region.
        region: Option<Region>,
    },
    /// The hour has another value, from the ledger or from an earlier call; or its usage was carried to a later hour;
    /// or it has open usage that must not move to another hour.
    Taken,
}

/// AWS's answer, as far as it matters to a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// Billed.
    Accepted,
    /// Definitely not billed: the hour is free again.
    Refused,
    /// The call never reached AWS: the sender sends the record.
    Unsent,
    /// A call may have reached AWS and was not answered: the record is in doubt, and the sender sends it again.
    Unknown,
}

impl Ledger {
    /// Claims a dimension's hour for a call to `region`.
    pub fn claim(
        &mut self,
        claim: &Claim,
        region: Option<&Region>,
        now: Timestamp,
    ) -> Result<Claimed, LedgerError> {
        self.observe(now);
        self.write("claim", |transaction, settings| grant(transaction, settings, claim, region, now))
    }

    /// Notes AWS's answer to a claim's call; `region` is where the call went.
    pub fn settle_claim(
        &mut self,
        id: i64,
        settled: Settled,
        record_id: Option<&str>,
        region: Option<&Region>,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        self.write("settle", |transaction, settings| {
            // A refusal of this call does not settle an earlier call without an answer.
            let sql = match settled {
                Settled::Refused => {
                    transaction.execute(
                        "DELETE FROM records WHERE id = ?1 AND state = 'claimed' AND in_doubt = 0",
                        [id],
                    )?;
                    KEEP_ASKING
                }
                Settled::Unsent => KEEP_ASKING,
                Settled::Unknown => KEEP_ASKING_IN_DOUBT,
                // If AWS says that it accepted the record, it is billed even if it was a dead letter.
                Settled::Accepted => BILLED,
            };
            let region = region.map(Region::as_str);
            transaction.execute(sql, params![id, now.unix_millis(), record_id, region])?;
            give_way(transaction, settings, id, now)
        })
    }
}

/// Moves the open usage of a record's hour to a later hour, because AWS has a value for that hour, or may have. For a
/// refused claim there is no record any more, and nothing moves.
fn give_way(
    transaction: &Transaction<'_>,
    settings: &LedgerSettings,
    id: i64,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let slot = transaction
        .query_row("SELECT pod, customer, dimension, hour FROM records WHERE id = ?1", [id], |row| {
            let (pod, customer, dimension) = (row.get(0)?, row.get(1)?, row.get(2)?);
            Ok(Slot { pod, customer, dimension, hour: Hour::from_number(row.get(3)?) })
        })
        .optional()?;
    let Some(slot) = slot else { return Ok(()) };
    let Some(open) = slots::find(transaction, &slot)? else { return Ok(()) };
    let hour = Hours::read(transaction, settings, now)?.current.max(slot.hour.next());
    let hour = unclaimed(transaction, &Slot { hour, ..slot.clone() })?;
    let open = slots::read(transaction, open)?;
    slots::carry(transaction, &open, &Slot { hour, ..slot }, &settings.rules, now)
}

// Parameters: the record, the time, AWS's id for it if there is one, and the call's region, which is used if none was
// known. A call that was definitely not billed does not put the record in doubt.
const KEEP_ASKING: &str = "UPDATE records SET attempting = 0, updated_at = ?2,
        state = CASE state WHEN 'claimed' THEN 'sealed' ELSE state END,
        metering_record_id = coalesce(?3, metering_record_id), region = coalesce(region, ?4)
    WHERE id = ?1 AND state IN ('claimed', 'sealed', 'dead')";
const KEEP_ASKING_IN_DOUBT: &str = "UPDATE records SET in_doubt = 1, attempting = 0, updated_at = ?2,
        state = CASE state WHEN 'claimed' THEN 'sealed' ELSE state END,
        metering_record_id = coalesce(?3, metering_record_id), region = coalesce(region, ?4)
    WHERE id = ?1 AND state IN ('claimed', 'sealed', 'dead')";
const BILLED: &str =
    "UPDATE records SET state = 'accepted', in_doubt = 0, attempting = 0, updated_at = ?2, code = NULL,
        overdue_hour = NULL, overdue_from = NULL,
        metering_record_id = coalesce(?3, metering_record_id), region = coalesce(region, ?4)
    WHERE id = ?1 AND state IN ('claimed', 'sealed', 'dead')";

/// Claims whose process ended before AWS answered: they may be billed, and the sender sends them again.
pub(super) fn adopt(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    transaction.execute(
        "UPDATE records SET state = 'sealed', in_doubt = 1, attempting = 0 WHERE state = 'claimed'",
        [],
    )?;
    Ok(())
}

fn grant(
    transaction: &Transaction<'_>,
    settings: &LedgerSettings,
    claim: &Claim,
    region: Option<&Region>,
    now: Timestamp,
) -> rusqlite::Result<Claimed> {
    let region_name = region.map(Region::as_str);
    let slot = Slot {
        pod: settings.pod.clone(),
        customer: Customer::Own.canonical(),
        dimension: claim.dimension.clone(),
        hour: Hour::of(claim.usage.timestamp),
    };
    let held = transaction
        .query_row(
            "SELECT id, client_token, timestamp, coalesce(region, ?7), micros = ?5 AND allocations = ?6 AND state NOT IN ('carried', 'discarded') FROM records
             WHERE pod = ?1 AND customer = ?2 AND dimension = ?3 AND hour = ?4",
            params![
                slot.pod,
                slot.customer,
                slot.dimension,
                slot.hour.number(),
                rows::signed(claim.usage.quantity.micros()),
                stored::text(&claim.usage.allocations),
                region_name
            ],
            |row| {
                let timestamp = Timestamp::from_unix_millis(row.get(2)?);
                let (id, client_token) = (row.get(0)?, row.get(1)?);
                let region: Option<String> = row.get(3)?;
                let region = region.and_then(|name| name.parse().ok());
                Ok((Claimed::Repeated { id, client_token, timestamp, region }, row.get::<_, bool>(4)?))
            },
        )
        .optional()?;
    match held {
        Some((repeated, true)) => {
            if let Claimed::Repeated { id, .. } = repeated {
                // On disk before the call leaves: if the answer is lost, the record may be billed.
                transaction.execute(
                    "UPDATE records SET in_doubt = in_doubt OR attempting, attempting = 1, attempts = attempts + 1,
                         updated_at = ?2, region = coalesce(region, ?3)
                     WHERE id = ?1 AND state IN ('sealed', 'dead', 'claimed')",
                    params![id, now.unix_millis(), region_name],
                )?;
            }
            return Ok(repeated);
        }
        Some((_, false)) => return Ok(Claimed::Taken),
        None => {}
    }
    // A report every hour would move the usage again and again.
    if let Some(open) = slots::find(transaction, &slot)?
        && (claim.usage.quantity == Quantity::ZERO || slots::was_moved(transaction, open)?)
    {
        return Ok(Claimed::Taken);
    }
    let record = NewRecord {
        slot: &slot,
        past: &Past::of(claim.usage.timestamp, None),
        usage: &claim.usage,
        // The application reports in the unit that AWS bills.
        raw: settings.rules.of(&claim.dimension).raw(claim.usage.quantity.micros().into()),
        rounded: 0,
        client_token: &claim.client_token,
        state: RecordState::Claimed,
    };
    let id = rows::insert_record(transaction, &record, now)?;
    transaction.execute(
        "UPDATE records SET attempting = 1, attempts = 1, region = ?2 WHERE id = ?1",
        params![id, region_name],
    )?;
    Ok(Claimed::Granted(id))
}

/// The first hour from the slot's on for which the slot has no record. A claim that is under way does not count.
pub(super) fn unclaimed(connection: &Connection, slot: &Slot) -> rusqlite::Result<Hour> {
    let mut find = connection.prepare_cached(
        "SELECT 1 FROM records
         WHERE pod = ?1 AND customer = ?2 AND dimension = ?3 AND hour = ?4 AND state <> 'claimed'",
    )?;
    let mut hour = slot.hour;
    while find.exists(params![slot.pod, slot.customer, slot.dimension, hour.number()])? {
        hour = hour.next();
    }
    Ok(hour)
}

/// Whether a report for this slot is under way: until AWS answers, it is unknown whether the hour is free.
pub(super) fn under_way(transaction: &Transaction<'_>, slot: &Slot) -> rusqlite::Result<bool> {
    let mut find = transaction.prepare_cached(
        "SELECT 1 FROM records
         WHERE pod = ?1 AND customer = ?2 AND dimension = ?3 AND hour = ?4 AND state = 'claimed'",
    )?;
    find.exists(params![slot.pod, slot.customer, slot.dimension, slot.hour.number()])
}
