//! What people do to records: SQLite's decisions (`tollgate_ledger::repair`), in one transaction each.
//!
//! Any replica repairs, whether or not it holds the lease: the holder changes no record that can be repaired.
//!
//! If the answer to a commit was lost, the audit says whether it was done. The record is locked first: a transaction
//! that is still under way holds its lock.

use std::time::Duration;

use tokio::time::{sleep, timeout_at};
use tokio_postgres::types::Type;

use crate::PostgresLedger;
use crate::carrying::{self, Addition, Columns, IfOtherForm, Slot};
use crate::columns::{column, unreadable};
use crate::connect::{Failed, Transaction};
use crate::rows::{self, COLUMNS};
use crate::rules::{self, Changes};
use tollgate_clock as clock;
use tollgate_ledger::repair::{Found, Repair, Repaired};
use tollgate_ledger::{HoursAt, LedgerError, stored};
use tollgate_marketplace::{Hour, Quantity};
use tollgate_metering::aggregation::Rules;
use tollgate_metering::record::{Record, RecordState};
use tollgate_time::Timestamp;

/// How often a replay looks for its hour again if that hour was closed meanwhile. Hours close once an hour.
const TRIES_MAX: u32 = 3;

/// The database's time, and the latest hour that is closed.
const NOW: &str = "SELECT closed, tollgate.ledger_now() AS now FROM tollgate.ledger WHERE state = 'ready'";

const NOTE: &str =
    "INSERT INTO tollgate.audit (at, record, action, note) VALUES ($1, $2, $3, $4) RETURNING id";

/// The line of a repair, if it was made. It is locked, so that the transaction has something to commit, and waits for a
/// synchronous standby. After a crash a number may be given again, so all of the line is compared.
const MADE: &str = "SELECT 1 FROM tollgate.audit
    WHERE id = $1 AND at = $2 AND record = $3 AND action = $4 AND note = $5 FOR UPDATE";

/// How long to ask what became of a repair. A transaction whose client is gone ends after five seconds.
const FATE_WITHIN: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 8 });

/// The shortest pause between two questions.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// A record that is to be repaired.
struct Letter {
    record: Record,
    found: Found,
    allocations: String,
}

/// The line of the audit that a repair writes.
#[derive(Debug)]
struct Line {
    id: i64,
    at: i64,
    record: i64,
    action: &'static str,
    note: String,
}

/// How one attempt at a repair ended.
enum Attempt {
    Ended(Repaired),
    /// The hour was closed meanwhile.
    Closed,
    /// The commit was not answered.
    Lost(Line, Failed),
}

impl PostgresLedger {
    /// Repairs one record.
    pub(crate) async fn repair_record(&self, id: i64, repair: &Repair) -> Result<Repaired, LedgerError> {
        for _ in 0..TRIES_MAX {
            match self.attempt(id, repair, None).await? {
                Attempt::Ended(repaired) => return Ok(repaired),
                Attempt::Closed => {}
                Attempt::Lost(line, failed) => return self.find_out(id, repair, line, failed).await,
            }
        }
        Err(LedgerError::Io("the hour was closed again and again; try again".to_owned()))
    }

    /// Finds out whether a repair was made whose commit was not answered, and makes it if it was not.
    async fn find_out(
        &self,
        id: i64,
        repair: &Repair,
        mut line: Line,
        failed: Failed,
    ) -> Result<Repaired, LedgerError> {
        let (until, mut why) = (clock::monotonic() + FATE_WITHIN, failed.text);
        while clock::monotonic() < until {
            match timeout_at(until, self.attempt(id, repair, Some(&line))).await {
                Ok(Ok(Attempt::Ended(repaired))) => return Ok(repaired),
                Ok(Ok(Attempt::Closed)) => {}
                Ok(Ok(Attempt::Lost(again, failed))) => (line, why) = (again, failed.text),
                Ok(Err(error)) => {
                    why = error.to_string();
                    let _ = timeout_at(until, async { tokio::join!(self.views.may_try(), sleep(ASK_EVERY)) })
                        .await;
                }
                Err(_) => break,
            }
        }
        let action = repair.action();
        Err(LedgerError::Uncertain(format!(
            "{why}; the {action} of record {id} may have been done: the audit says whether it was. It may be asked for again, \
             a record is repaired only once"
        )))
    }

    /// Tries once. `lost`: the line of an attempt before whose commit was not answered.
    async fn attempt(&self, id: i64, repair: &Repair, lost: Option<&Line>) -> Result<Attempt, LedgerError> {
        let transaction = self.views.begin().await?;
        let Some(letter) = look(&transaction, id).await? else {
            let made = match lost {
                Some(line) => is_made(&transaction, line).await?,
                None => false,
            };
            transaction.commit().await?;
            return Ok(Attempt::Ended(if made { Repaired::Done } else { Repaired::NotFound }));
        };
        match repair_letter(&transaction, &letter, repair, &self.leader.settings.rules).await? {
            Repairing::Made(line) => match transaction.commit_as(repair.action()).await {
                Ok(()) => Ok(Attempt::Ended(Repaired::Done)),
                Err(failed) if failed.is_unknown() => Ok(Attempt::Lost(line, failed)),
                Err(failed) => Err(failed.into()),
            },
            Repairing::Refused(refused) => {
                transaction.rollback().await?;
                Ok(Attempt::Ended(refused))
            }
            Repairing::Closed => {
                transaction.rollback().await?;
                Ok(Attempt::Closed)
            }
        }
    }
}

async fn is_made(transaction: &Transaction<'_>, line: &Line) -> Result<bool, Failed> {
    let params = [
        (&line.id as _, Type::INT8),
        (&line.at as _, Type::INT8),
        (&line.record as _, Type::INT8),
        (&line.action as _, Type::TEXT),
        (&line.note as _, Type::TEXT),
    ];
    Ok(!transaction.query(MADE, &params).await?.is_empty())
}

/// Reads and locks the record, if it is not settled.
async fn look(transaction: &Transaction<'_>, id: i64) -> Result<Option<Letter>, LedgerError> {
    let sql = format!("SELECT {COLUMNS}, allocations FROM tollgate.records WHERE id = $1 FOR UPDATE");
    let found = transaction.query(&sql, &[(&id, Type::INT8)]).await?;
    let Some(row) = found.first() else { return Ok(None) };
    let record = rows::record(row)?;
    let found = Found {
        state: record.state,
        code: record.code.clone(),
        dimension: record.dimension.clone(),
        amount: record.raw,
    };
    Ok(Some(Letter { record, found, allocations: column(row, "allocations")? }))
}

/// What a transaction did, before its commit.
enum Repairing {
    Made(Line),
    Refused(Repaired),
    /// The hour was closed meanwhile.
    Closed,
}

async fn repair_letter(
    transaction: &Transaction<'_>,
    letter: &Letter,
    repair: &Repair,
    rules: &Rules,
) -> Result<Repairing, LedgerError> {
    let verdict = letter.found.judge(repair);
    if verdict != Repaired::Done {
        return Ok(Repairing::Refused(verdict));
    }
    let now = match repair {
        Repair::Replay { to_dimension, .. } => {
            match replay(transaction, letter, to_dimension.as_deref(), rules).await? {
                Replayed::At(now) => now,
                Replayed::OtherForm => return Ok(Repairing::Refused(Repaired::OtherForm)),
                Replayed::Closed => return Ok(Repairing::Closed),
            }
        }
        Repair::Confirm(_) | Repair::Discard(_) => moment(transaction).await?.1,
    };
    let state = match repair {
        Repair::Replay { .. } => "carried",
        Repair::Confirm(_) => "accepted",
        Repair::Discard(_) => "discarded",
    };
    settle(transaction, letter, state, now).await?;
    let (at, note) = (now.unix_millis(), letter.found.note(repair));
    let (record, action) = (letter.record.id, repair.action());
    let noted = transaction
        .query(NOTE, &[(&at, Type::INT8), (&record, Type::INT8), (&action, Type::TEXT), (&note, Type::TEXT)])
        .await?;
    let id = noted.first().map_or(Ok(0), |row| column(row, "id"))?;
    Ok(Repairing::Made(Line { id, at, record, action, note }))
}

/// The latest closed hour and the database's time.
async fn moment(transaction: &Transaction<'_>) -> Result<(Hour, Timestamp), LedgerError> {
    let rows = transaction.query(NOW, &[]).await?;
    let row = rows.first().ok_or_else(|| {
        LedgerError::Unusable(
            "a ledger is being moved into the database; repair records afterwards".to_owned(),
        )
    })?;
    Ok((Hour::from_number(column(row, "closed")?), Timestamp::from_unix_millis(column(row, "now")?)))
}

enum Replayed {
    /// It counts, from this time on.
    At(Timestamp),
    OtherForm,
    /// The hour was closed before it was locked.
    Closed,
}

/// Counts the record's quantity to the current hour, or to the next one that takes its usage.
async fn replay(
    transaction: &Transaction<'_>,
    letter: &Letter,
    to_dimension: Option<&str>,
    rules: &Rules,
) -> Result<Replayed, LedgerError> {
    let record = &letter.record;
    let (closed, now) = moment(transaction).await?;
    if record.quantity == Quantity::ZERO {
        return Ok(Replayed::At(now));
    }
    // No settle time: usage of a repair counts to the hour in which it is made.
    let current = HoursAt::new(Some(closed), Duration::ZERO, now).current;
    let from = Slot {
        hour: record.hour,
        customer: record.customer.canonical(),
        dimension: record.dimension.clone(),
    };
    let dimension = to_dimension.unwrap_or(&record.dimension).to_owned();
    let mut slot = Slot { hour: current, dimension, ..from.clone() };
    let placed = carrying::place(transaction, vec![slot.clone()], IfOtherForm::Stop).await?;
    let Some(hour) = placed.into_iter().next().flatten() else { return Ok(Replayed::OtherForm) };
    // Only the holder of the lease knows that it closes no hour at this moment.
    if hour <= moment(transaction).await?.0 {
        return Ok(Replayed::Closed);
    }
    slot.hour = hour;
    let split = stored::allocations(&letter.allocations).map_err(|_| unreadable("allocations"))?;
    // The hour may count in another unit than the record's did, and another dimension may.
    let rule = rules::begin(transaction, rules, std::slice::from_ref(&slot)).await?.require(&slot)?;
    let (parts, sum) = carrying::unsealed(&rule, record.quantity, &split);
    let mut changes = Changes::default();
    changes.accept(&from, -record.raw);
    changes.accept(&slot, sum);
    let late_from = Some(record.late_from.unwrap_or(record.hour));
    let addition = Addition { slot: slot.clone(), parts, first_at: now, late_from };
    carrying::add(transaction, vec![addition]).await?;
    carrying::link(transaction, &[record.id], &Columns::from_iter([&slot])).await?;
    changes.write(transaction).await?;
    Ok(Replayed::At(now))
}

/// Moves a record to the settled ones. A repair changes its state and nothing that AWS answered.
const SETTLE: &str = "WITH record AS (DELETE FROM tollgate.records WHERE id = $1 RETURNING *)
    INSERT INTO tollgate.settled
        (day, id, customer, dimension, hour, micros, decimal, allocations, allocation_count, timestamp, client_token,
         late_from, state, in_doubt, unconfirmed, attempts, epoch, code, metering_record_id, sealed_at, updated_at,
         region, raw, rounded)
    SELECT (hour / 24)::int, id, customer, dimension, hour, micros, decimal, allocations, allocation_count, timestamp,
        client_token, late_from, $2, in_doubt OR attempting, false, attempts, epoch, code, metering_record_id, sealed_at,
        $3, region, raw, rounded
    FROM record";

/// Adds to what was billed or discarded, ever and on the record's day.
const OUTCOME: &str = "INSERT INTO tollgate.outcome AS outcome (customer, dimension, billed, discarded)
    VALUES ($1, $2, $3::text::numeric, $4::text::numeric)
    ON CONFLICT (customer, dimension) DO UPDATE SET
        billed = outcome.billed + excluded.billed, discarded = outcome.discarded + excluded.discarded";

const DAILY: &str =
    "INSERT INTO tollgate.daily AS daily (day, customer, dimension, billed, discarded, records)
    VALUES ($5, $1, $2, $3::text::numeric, $4::text::numeric, $6)
    ON CONFLICT (day, customer, dimension) DO UPDATE SET billed = daily.billed + excluded.billed,
        discarded = daily.discarded + excluded.discarded, records = daily.records + excluded.records";

async fn settle(
    transaction: &Transaction<'_>,
    letter: &Letter,
    state: &str,
    now: Timestamp,
) -> Result<(), LedgerError> {
    let record = &letter.record;
    let at = now.unix_millis();
    transaction.execute(SETTLE, &[(&record.id, Type::INT8), (&state, Type::TEXT), (&at, Type::INT8)]).await?;
    let amount = letter.found.amount;
    // A record that is unconfirmed counts as billed already.
    let was_billed = matches!(record.state, RecordState::Accepted { .. });
    let (billed, discarded, records): (i128, i128, i64) = match (state, was_billed) {
        ("accepted", false) => (amount, 0, 1),
        ("discarded", _) => (0, amount, 1),
        ("carried", true) => (-amount, 0, -1),
        _ => return Ok(()),
    };
    let (customer, day) = (record.customer.canonical(), carrying::day(record.hour));
    let (billed, discarded) = (billed.to_string(), discarded.to_string());
    let params = [
        (&customer as _, Type::TEXT),
        (&record.dimension as _, Type::TEXT),
        (&billed as _, Type::TEXT),
        (&discarded as _, Type::TEXT),
        (&day as _, Type::INT4),
        (&records as _, Type::INT8),
    ];
    transaction.execute(OUTCOME, &params[..4]).await?;
    transaction.execute(DAILY, &params).await?;
    Ok(())
}
