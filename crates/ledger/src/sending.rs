//! The sender's queries and updates: which records are due, which are in doubt, what was sent, what AWS answered. Every
//! query uses an index: sixty thousand waiting records cost nothing while they wait.
//!
//! Each statement names its index. Without statistics SQLite prefers the index on `state` to a partial index, and would
//! read and sort every unsent record.

use std::time::Duration;

use rusqlite::{Connection, Params, Transaction, params};

use super::closing::Hours;
use super::rows::{self, BEHIND, COLUMNS, Carried, Carrying, OTHER_FORM};
use super::upkeep::Budget;
use super::{Ledger, LedgerError, ageing, meta, set_meta};
use tollgate_marketplace::{Hour, Region};
use tollgate_metering::batch;
use tollgate_metering::record::{Answered, Due, Noted, RecordState, Whole};
use tollgate_time::Timestamp;

/// No record waits longer than this: the longest phase is 10 min, the longest back-off less than 7. A later due time
/// was noted by a clock that has jumped back since, and counts as due.
pub const DUE_AHEAD_MAX: Duration = Duration::from_secs(900);

/// Records that [`Ledger::release`] makes due between two looks at the clock.
const STEP_RELEASED: usize = 50;

/// Key of `meta`: AWS's latest answer to a whole call was that the account is not entitled.
pub(super) const DENIED: &str = "denied";

impl Ledger {
    /// Unsent records that are due, those that have waited longest first.
    pub fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<Due>, LedgerError> {
        let (millis, ahead) = (now.unix_millis(), now.plus(DUE_AHEAD_MAX).unix_millis());
        self.reading(|connection| {
            let past = "state = 'sealed' AND due_at <= ?2 ORDER BY due_at, id";
            let mut due = light(connection, "records_due", past, [sql(limit), millis])?;
            let left = limit.saturating_sub(due.len());
            if left > 0 {
                let far = "state = 'sealed' AND due_at > ?2 ORDER BY due_at, id";
                due.extend(light(connection, "records_due", far, [sql(left), ahead])?);
            }
            Ok(due)
        })
    }

    /// Records in doubt, due or not, those that have waited longest first.
    pub fn doubtful(&self, limit: usize) -> Result<Vec<Due>, LedgerError> {
        let condition = "in_doubt = 1 AND state = 'sealed' ORDER BY due_at, id";
        self.reading(|connection| light(connection, "records_doubt", condition, [sql(limit)]))
    }

    /// Unsent records of this and earlier hours, oldest first.
    pub fn unsent_up_to(&self, hour: Hour, limit: usize) -> Result<Vec<Due>, LedgerError> {
        let condition = "state = 'sealed' AND hour <= ?2 ORDER BY hour, id";
        self.reading(|connection| light(connection, "records_state", condition, [sql(limit), hour.number()]))
    }

    /// How many records of this and earlier hours are unsent.
    pub fn count_unsent_up_to(&self, hour: Hour) -> Result<u64, LedgerError> {
        self.reading(|connection| {
            connection
                .prepare_cached(
                    "SELECT count(*) FROM records INDEXED BY records_state WHERE state = 'sealed' AND hour <= ?1",
                )?
                .query_row([hour.number()], |row| row.get::<_, i64>(0))
                .map(|count| u64::try_from(count).unwrap_or_default())
        })
    }

    /// When the next unsent record is due.
    pub fn next_due(&self) -> Result<Option<Timestamp>, LedgerError> {
        self.reading(|connection| {
            connection
                .prepare_cached(
                    "SELECT min(due_at) FROM records INDEXED BY records_due WHERE state = 'sealed'",
                )?
                .query_row([], |row| row.get::<_, Option<i64>>(0))
                .map(|at| at.map(Timestamp::from_unix_millis))
        })
    }

    /// Whether AWS's latest answer that accepted or denied usage was a denial.
    pub fn is_denied(&self) -> Result<bool, LedgerError> {
        self.reading(|connection| Ok(meta(connection, DENIED)?.is_some()))
    }

    /// Makes at most `limit` waiting records due at once, those with the earliest due time first. Returns how many:
    /// call again until it returns 0.
    pub fn release(&mut self, now: Timestamp, limit: usize) -> Result<usize, LedgerError> {
        self.write("release", |transaction, _| {
            let mut release = transaction.prepare_cached(
                "UPDATE records SET due_at = ?2 WHERE id IN (SELECT id FROM records INDEXED BY records_due
                     WHERE state = 'sealed' AND due_at > ?2 ORDER BY due_at LIMIT ?1)",
            )?;
            let (mut budget, mut released) = (Budget::new(), 0);
            while released < limit && !budget.is_spent() {
                let step = STEP_RELEASED.min(limit - released);
                let done = release.execute([sql(step), now.unix_millis()])?;
                // The record and one index change.
                budget.spend(3 * done);
                released += done;
                if done < step {
                    break;
                }
            }
            Ok(released)
        })
    }

    /// Sets the due times of unsent records.
    pub fn defer(&mut self, until: &[(i64, Timestamp)]) -> Result<(), LedgerError> {
        self.write("defer", |transaction, _| {
            let mut defer = transaction
                .prepare_cached("UPDATE records SET due_at = ?2 WHERE id = ?1 AND state = 'sealed'")?;
            until.iter().try_for_each(|(id, at)| defer.execute([*id, at.unix_millis()]).map(|_| ()))
        })
    }

    /// Of these records, reads those that are unsent, keeps those that fit into one call, and notes on disk that they
    /// are about to be sent to `region`, or to the region of an earlier attempt. A record that does not fit is dropped
    /// before the next one is read: each may be large.
    pub fn begin(
        &mut self,
        ids: &[i64],
        region: Option<&Region>,
        now: Timestamp,
    ) -> Result<Vec<Whole>, LedgerError> {
        let mut fits = batch::fits();
        let mut records = Vec::with_capacity(ids.len());
        for id in ids {
            let unsent = |whole: &Whole| matches!(whole.record.state, RecordState::Sealed { .. });
            records.extend(self.record(*id)?.filter(|whole| unsent(whole) && fits(whole)));
        }
        let chosen: Vec<i64> = records.iter().map(|whole| whole.record.id).collect();
        self.attempt(&chosen, region, now)?;
        for Whole { record, .. } in &mut records {
            record.region = record.region.take().or_else(|| region.cloned());
        }
        Ok(records)
    }

    /// Notes on disk that these records are about to be sent to `region`; the first attempt's region stays.
    pub fn attempt(
        &mut self,
        ids: &[i64],
        region: Option<&Region>,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let region = region.map(Region::as_str);
        self.write("attempt", |transaction, _| {
            // If an attempt is still marked as under way, its answer could not be noted.
            let mut attempt = transaction.prepare_cached(
                "UPDATE records SET in_doubt = in_doubt OR attempting, attempting = 1, attempts = attempts + 1,
                     updated_at = ?2, region = coalesce(region, ?3)
                 WHERE id = ?1 AND state = 'sealed'",
            )?;
            ids.iter().try_for_each(|id| attempt.execute(params![id, now.unix_millis(), region]).map(|_| ()))
        })
    }

    /// Notes answers or decisions in one transaction. `region`: where the calls went, for records that were sent before
    /// it was known.
    pub fn answered_all(
        &mut self,
        notes: &[Noted],
        region: Option<&Region>,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let region = region.map(Region::as_str);
        self.write("answer", |transaction, settings| {
            let hours = Hours::read(transaction, settings, now)?;
            let (pod, rules) = (&settings.pod, &settings.rules);
            let carrying = Carrying { pod, hours: &hours, rules, to_dimension: None };
            note_denial(transaction, notes)?;
            for Noted { id, answered, due_at } in notes {
                ageing::answered(transaction, *id, answered)?;
                let mut answered = answered;
                let other_form = Answered::Dead(OTHER_FORM.to_owned());
                if matches!(answered, Answered::Carry(_)) {
                    // AWS refused the latest attempt, but not an earlier one without an answer: a record in doubt is
                    // not carried.
                    let unless_in_doubt = "state = 'sealed' AND in_doubt = 0";
                    let carried = rows::carry_record(transaction, unless_in_doubt, &carrying, *id, now)?;
                    if carried == Carried::OtherForm {
                        answered = &other_form;
                    }
                }
                // A record stays in doubt until an answer is about the record itself: a refused retry proves nothing
                // about the call before.
                let accepted = |unconfirmed| RecordState::Accepted { unconfirmed };
                let (state, code, record_id) = match answered {
                    Answered::Accepted(record_id) => (accepted(false), None, record_id.as_deref()),
                    Answered::Unconfirmed(code) => (accepted(true), Some(code), None),
                    Answered::Refused(code) => (RecordState::Sealed { in_doubt: false }, Some(code), None),
                    Answered::Unknown(code) => (RecordState::Sealed { in_doubt: true }, Some(code), None),
                    Answered::Carry(code) => (RecordState::Carried { in_doubt: false }, Some(code), None),
                    Answered::Dead(code) => (RecordState::Dead { in_doubt: false }, Some(code), None),
                };
                transaction
                    .prepare_cached(
                        "UPDATE records SET state = ?2, in_doubt = in_doubt OR ?3, attempting = 0, code = ?4,
                             metering_record_id = coalesce(?5, metering_record_id), updated_at = ?6,
                             due_at = coalesce(?7, due_at), unconfirmed = unconfirmed OR ?8,
                             region = CASE attempting WHEN 1 THEN coalesce(region, ?9) ELSE region END
                         WHERE id = ?1 AND state = 'sealed' AND (?2 <> 'carried' OR in_doubt = 0)",
                    )?
                    .execute(params![
                        id,
                        state.as_str(),
                        state.in_doubt(),
                        code,
                        record_id,
                        now.unix_millis(),
                        due_at.map(Timestamp::unix_millis),
                        state == accepted(true),
                        region,
                    ])?;
            }
            Ok(())
        })
    }
}

/// Keeps AWS's latest answer for the next process. Most answers do not change it.
fn note_denial(transaction: &Transaction<'_>, notes: &[Noted]) -> rusqlite::Result<()> {
    let word = |noted: &Noted| match &noted.answered {
        Answered::Accepted(_) => Some(false),
        Answered::Refused(code) if ageing::is_denial(code) => Some(true),
        _ => None,
    };
    let denied = notes.iter().rev().find_map(word);
    match denied.filter(|denied| meta(transaction, DENIED).is_ok_and(|known| known.is_some() != *denied)) {
        Some(true) => set_meta(transaction, DENIED, "1"),
        Some(false) => transaction.execute("DELETE FROM meta WHERE key = ?1", [DENIED]).map(|_| ()),
        None => Ok(()),
    }
}

fn sql(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// Records without their allocations, with the allocations' size. The first parameter is the limit.
fn light(
    connection: &Connection,
    index: &str,
    condition: &str,
    bounds: impl Params,
) -> rusqlite::Result<Vec<Due>> {
    let sql = format!(
        "SELECT {COLUMNS}, octet_length(allocations) FROM records INDEXED BY {index} WHERE {condition} LIMIT ?1"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let due = statement.query_map(bounds, |row| {
        let stored: i64 = row.get(BEHIND)?;
        Ok(Due { record: rows::record(row)?, stored_bytes: usize::try_from(stored).unwrap_or_default() })
    })?;
    due.collect()
}
