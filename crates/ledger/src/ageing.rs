//! How long usage has waited for AWS to accept it, for `on_unsent`: by the clock, and by a count of running time that
//! never goes back.
//!
//! - The count (`meta.running_seconds`) is the time for which processes ran on this ledger while it contained usage
//!   that AWS had not accepted. It follows monotonic time: setting the clock does not change it. It is written at most
//!   once a minute, and a minute counts when it begins, so that a process that is killed every 59 seconds avoids
//!   nothing. While there is no such usage, nothing is written.
//! - `overdue_from` is the value of the count at the end of the usage's hour. It is set when the usage is acknowledged,
//!   not when AWS first refuses it: with a clock that is held back, an hour would stay open, and its record unsent, for
//!   ever.
//! - `overdue_hour` is the hour in which the usage was first sealed. It is set when AWS first refused the record, did
//!   not answer, or already had another value for the hour. Usage that was not sent yet because the pod was down is not
//!   late.
//! - Both move with the usage when it is carried or replayed, and end when AWS accepts it.
//!   `CustomerNotEntitledException` belongs to `on_lapse`: it starts no age. It also ends no age that has started,
//!   either by another answer of AWS or because the usage waited for [`LATE_AFTER`] before AWS was asked. No other
//!   change of a record changes them: `confirm` and `discard` leave them as they are.
//! - A record of 0 and usage of a seller's customers are never late. What exceeds AWS's maximum counts as usage of the
//!   hour that it moves to.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use tokio::time::Instant;

use super::rows::Slot;
use super::{Ledger, LedgerError, meta, set_meta};
use tollgate_clock as clock;
use tollgate_marketplace::fault::{ErrorResponse, classify};
use tollgate_marketplace::{FaultClass, Hour};
use tollgate_metering::record::{Answered, Oldest};
use tollgate_time::Timestamp;

/// Running time is counted in minutes: one small write each.
const MINUTE: Duration = Duration::from_secs(60);

/// Usage that waited this long for AWS's first answer is late, whatever the answer is. Closed hours are sent within
/// minutes, and `on_unsent` neither alarms nor shuts the gate before. Without this, credentials of an account that
/// never subscribed would suppress the alarm and open the gate, because AWS denies every call made with them.
const LATE_AFTER: Duration = Duration::from_secs(3600);

/// An event counts to the hour of its time, which may be five minutes ahead: its hour ends within this many seconds.
const HOUR_ENDS_IN_MAX: i64 = 65 * 60;

/// Since when usage has waited: the two columns of a record or a slot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Overdue {
    /// The hour in which it was first sealed, set once AWS did not accept it.
    pub(super) hour: Option<Hour>,
    /// The count of running time at the end of its hour, in seconds; `None` if its age does not matter.
    pub(super) from: Option<i64>,
}

impl Overdue {
    /// For usage that counts to `slot` from `now` on, at this count of running time.
    pub(super) fn begins(slot: &Slot, now: Timestamp, running: i64) -> Self {
        // Usage of a seller's customer in mode `saas`: `on_unsent` does not apply, because the seller reports its own
        // revenue.
        if !slot.customer.is_empty() {
            return Self::default();
        }
        let ends_in = slot.hour.end().millis_since(now) / 1000;
        Self { hour: None, from: Some(running.saturating_add(ends_in.clamp(0, HOUR_ENDS_IN_MAX))) }
    }

    /// The earlier age if there is one, else `begins`.
    pub(super) const fn or(self, begins: Self) -> Self {
        if self.from.is_some() { self } else { begins }
    }

    /// The earlier of both.
    pub(super) fn join(self, other: Self) -> Self {
        Self {
            hour: [self.hour, other.hour].into_iter().flatten().min(),
            from: [self.from, other.from].into_iter().flatten().min(),
        }
    }
}

/// The ledger's ages in memory.
#[derive(Debug, Default)]
pub(super) struct Ageing {
    /// When the minute that was last counted began; `None` before the first call.
    counted: Option<Instant>,
    /// The usage that has waited longest, if known; newly acknowledged usage is younger.
    oldest: Option<Overdue>,
    /// The latest call found no waiting usage.
    empty: bool,
}

impl Ageing {
    /// Records have changed.
    pub(super) const fn forget(&mut self) {
        self.oldest = None;
    }
}

impl Ledger {
    /// Counts running time, and returns how long the oldest usage has waited; `None` if none waits. Call it about every
    /// second, and within a minute after the ledger was written. While nothing waits and nothing is written, no call is
    /// needed.
    pub fn oldest_unaccepted(&mut self) -> Result<Option<Oldest>, LedgerError> {
        let now = clock::monotonic();
        if std::mem::take(&mut self.ageing.empty) {
            // The usage that waits now came within the latest minute; no usage waited before.
            self.ageing.counted = self.ageing.counted.max(now.checked_sub(MINUTE));
        }
        let since = self.ageing.counted.map(|counted| now.duration_since(counted));
        if since.is_none_or(|since| since >= MINUTE) {
            // The first minute of a process counts in full, as the last one of the process before did.
            let seconds = since.unwrap_or(MINUTE).as_secs();
            let counted = self.write("age", |transaction, _| {
                if oldest(transaction)?.from.is_some() {
                    let running = running(transaction)?.saturating_add_unsigned(seconds);
                    set_meta(transaction, RUNNING, &running.to_string())?;
                }
                Ok(())
            });
            // A disk that fails writes does not stop the time: what cannot be counted now is counted later, and added
            // below.
            if counted.is_ok() || since.is_none() {
                self.ageing.counted = Some(now);
            }
            self.ageing.forget();
        }
        let oldest = match self.ageing.oldest {
            Some(oldest) => oldest,
            None => *self.ageing.oldest.insert(self.reading(oldest)?),
        };
        if oldest == Overdue::default() {
            // Usage that is acknowledged next will be the oldest.
            self.ageing.forget();
            self.ageing.empty = true;
            return Ok(None);
        }
        let uncounted = self.ageing.counted.map_or(0, |counted| {
            i64::try_from(now.duration_since(counted).saturating_sub(MINUTE).as_secs()).unwrap_or(i64::MAX)
        });
        let counted = self.reading(running)?.saturating_add(uncounted);
        let waited = oldest.from.map_or(0, |from| counted.saturating_sub(from));
        let running = Duration::from_secs(u64::try_from(waited).unwrap_or_default());
        Ok(Some(Oldest { hour: oldest.hour, running }))
    }
}

const RUNNING: &str = "running_seconds";

/// The count of running time, in seconds.
pub(super) fn running(connection: &Connection) -> rusqlite::Result<i64> {
    Ok(meta(connection, RUNNING)?.and_then(|text| text.parse().ok()).unwrap_or_default())
}

/// The earliest age of all waiting records and slots.
fn oldest(connection: &Connection) -> rusqlite::Result<Overdue> {
    let min = |sql: &str| -> rusqlite::Result<Option<i64>> {
        connection.prepare_cached(sql)?.query_row([], |row| row.get(0))
    };
    let records = Overdue {
        hour: min("SELECT min(overdue_hour) FROM records WHERE overdue_hour IS NOT NULL")?
            .map(Hour::from_number),
        from: min("SELECT min(overdue_from) FROM records WHERE overdue_from IS NOT NULL")?,
    };
    let slots = Overdue {
        hour: min(
            "SELECT min(overdue_hour) FROM slots WHERE overdue_from IS NOT NULL AND total <> zeroblob(16)",
        )?
        .map(Hour::from_number),
        from: min(
            "SELECT min(overdue_from) FROM slots WHERE overdue_from IS NOT NULL AND total <> zeroblob(16)",
        )?,
    };
    Ok(records.join(slots))
}

/// Updates a sealed record's age for an answer; call it before the answer itself is noted.
pub(super) fn answered(transaction: &Transaction<'_>, id: i64, answered: &Answered) -> rusqlite::Result<()> {
    match answered {
        Answered::Accepted(_) | Answered::Unconfirmed(_) => end(transaction, id),
        Answered::Refused(code) | Answered::Unknown(code) | Answered::Carry(code) | Answered::Dead(code) => {
            if is_denial(code) {
                // A denial belongs to `on_lapse` and starts no age. An age that has started ends only when AWS accepts
                // the usage: otherwise cancelling the subscription would open a gate that is shut for unreported usage.
                end_if_timely(transaction, id)
            } else {
                begin(transaction, "id = ?1 AND attempts > 0", id)
            }
        }
    }
}

/// Records whose process ended during a call, so that AWS's answer is unknown.
pub(super) fn interrupted(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    begin(transaction, "in_doubt = 1 AND ?1 = ?1", 0)
}

/// Sealed records that match `condition` are late from their hour on, unless they were late before.
fn begin(transaction: &Transaction<'_>, condition: &str, id: i64) -> rusqlite::Result<()> {
    // Records of an older schema have no `overdue_from`; theirs begins now.
    let sql = format!(
        "UPDATE records SET overdue_hour = coalesce(overdue_hour, hour), overdue_from = coalesce(overdue_from, ?2)
         WHERE {condition} AND state = 'sealed' AND customer = '' AND micros > 0
             AND (overdue_hour IS NULL OR overdue_from IS NULL)"
    );
    let running = running(transaction)?;
    transaction.prepare_cached(&sql)?.execute(params![id, running]).map(|_| ())
}

/// The record's usage no longer waits, or waits in the slot that it was moved to.
pub(super) fn end(transaction: &Transaction<'_>, id: i64) -> rusqlite::Result<()> {
    let sql = "UPDATE records SET overdue_hour = NULL, overdue_from = NULL WHERE id = ?1";
    transaction.prepare_cached(sql)?.execute([id]).map(|_| ())
}

/// The same for usage that was not late until now.
fn end_if_timely(transaction: &Transaction<'_>, id: i64) -> rusqlite::Result<()> {
    let overdue = of_record(transaction, id)?;
    let late_from = running(transaction)?.saturating_sub_unsigned(LATE_AFTER.as_secs());
    let late = overdue.hour.is_some() || overdue.from.is_some_and(|from| from < late_from);
    if late { Ok(()) } else { end(transaction, id) }
}

/// Since when a record's usage has waited.
pub(super) fn of_record(transaction: &Transaction<'_>, id: i64) -> rusqlite::Result<Overdue> {
    let mut find =
        transaction.prepare_cached("SELECT overdue_hour, overdue_from FROM records WHERE id = ?1")?;
    let found = find.query_row([id], |row| {
        let hour: Option<i64> = row.get(0)?;
        Ok(Overdue { hour: hour.map(Hour::from_number), from: row.get(1)? })
    });
    Ok(found.optional()?.unwrap_or_default())
}

/// Whether the table of exceptions classes this code as a denial (`CustomerNotEntitledException`).
#[must_use]
pub fn is_denial(code: &str) -> bool {
    classify(ErrorResponse { status: 400, code: Some(code) }).0 == FaultClass::Denied
}
