//! Repairs that people make to records which AWS did not settle: replay, confirm, discard. Each repair is one
//! transaction, and adds a line with a note to the audit table.
//!
//! - Replay is for a dead letter, and for usage that may have been billed if double billing is accepted. The record
//!   becomes `carried`: its quantity counts to the current hour.
//! - Confirm is for a dead letter, or a record that AWS may hold (`unconfirmed`): it was billed, and becomes
//!   `accepted`.
//! - Discard is for a dead letter: it is never billed, and becomes `discarded`.
//!
//! A repair changes the record's state and nothing that AWS answered: `in_doubt`, `code` and the attempts stay, so that
//! a person who looks later sees why a repair was needed. `links` shows where a replayed quantity counts now.

use rusqlite::{OptionalExtension as _, Row, Transaction, params};
use serde::Serialize;

use super::amount::amount;
use super::closing::Hours;
use super::rows::{self, Carried, Carrying};
use super::{Database, Ledger, LedgerError, meta, rules};
use tollgate_marketplace::exceptions::{self, ExceptionKind, RecordConsequence};
use tollgate_metering::record::RecordState;
use tollgate_time::Timestamp;

/// Longest note: some sentences and the address of a ticket.
pub const NOTE_CHARS_MAX: usize = 1000;

/// Whether this code of a dead letter means that AWS holds another value for its hour. Another process reported that
/// value, which may contain this usage: to count it again could bill it twice, as with a record in doubt.
fn reported_by_another(code: &str) -> bool {
    // `DuplicateRecord` is a status in an answer, not an exception.
    code == "DuplicateRecord"
        || exceptions::kind(code) == Some(ExceptionKind::Record(RecordConsequence::Taken))
}

/// The reason that the person gives: one line of 1 to [`NOTE_CHARS_MAX`] characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note(String);

impl Note {
    /// The note, or why the text is not accepted.
    pub fn new(text: &str) -> Result<Self, &'static str> {
        let text = text.trim();
        if text.is_empty() {
            return Err("the note must not be empty: the audit shows why the record was repaired");
        }
        if text.chars().count() > NOTE_CHARS_MAX || text.contains(char::is_control) {
            return Err("the note must be one line of at most 1,000 characters");
        }
        Ok(Self(text.to_owned()))
    }
}

/// A repair of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repair {
    /// Count its quantity to the current hour.
    Replay {
        /// Also if it may have been billed already.
        accept_double_billing: bool,
        /// Count it to this dimension instead of its own.
        to_dimension: Option<String>,
        /// The reason; without one the audit line is made from the record.
        note: Option<Note>,
    },
    /// Note that it was billed.
    Confirm(Note),
    /// Note that it will never be billed and needs no more action.
    Discard(Note),
}

impl Repair {
    /// The name in the audit, and of the transaction.
    #[must_use]
    pub const fn action(&self) -> &'static str {
        match self {
            Self::Replay { .. } => "replay",
            Self::Confirm(_) => "confirm",
            Self::Discard(_) => "discard",
        }
    }
}

/// The result of a repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repaired {
    /// Done, and noted in the audit table.
    Done,
    /// There is no record of this number for which this repair is allowed.
    NotFound,
    /// It may have been billed, and `accept_double_billing` is not set.
    InDoubt,
    /// Usage of its account was counted in another form (`forms`) in the current hour: AWS would bill both.
    OtherForm,
}

/// A line of the audit table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Its number.
    pub id: i64,
    /// When.
    pub at: Timestamp,
    /// The record that was repaired.
    pub record: i64,
    /// `replay`, `confirm` or `discard`.
    pub action: String,
    /// The reason, and what the record was before.
    pub note: String,
}

/// The columns of a record that decide about a repair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its state.
    pub state: RecordState,
    /// AWS's latest exception, or why it is a dead letter.
    pub code: Option<String>,
    /// Its dimension.
    pub dimension: String,
    /// Its amount, in millionths of the event's own unit.
    pub amount: i128,
}

impl Found {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let state: String = row.get(0)?;
        Ok(Self {
            state: RecordState::of(&state, row.get(1)?, row.get(2)?)
                .ok_or_else(|| rows::unreadable(0, "a state"))?,
            code: row.get(3)?,
            dimension: row.get(4)?,
            amount: amount(row, 5)?,
        })
    }

    /// Whether the repair is allowed. Pure.
    #[must_use]
    pub fn judge(&self, repair: &Repair) -> Repaired {
        let unconfirmed = self.state == RecordState::Accepted { unconfirmed: true };
        let dead = matches!(self.state, RecordState::Dead { .. });
        let reported = self.code.as_deref().is_some_and(reported_by_another);
        let perhaps_billed = self.state.in_doubt() || unconfirmed || reported;
        match repair {
            _ if !dead && !unconfirmed => Repaired::NotFound,
            Repair::Replay { accept_double_billing: false, .. } if perhaps_billed => Repaired::InDoubt,
            Repair::Replay { .. } | Repair::Confirm(_) => Repaired::Done,
            // AWS answered that it holds the record, so it is billed. If a person finds that it is not, replay is the
            // repair.
            Repair::Discard(_) if unconfirmed => Repaired::NotFound,
            Repair::Discard(_) => Repaired::Done,
        }
    }

    /// The audit's text: the given reason, and what the record was.
    #[must_use]
    pub fn note(&self, repair: &Repair) -> String {
        let (given, redirected) = match repair {
            Repair::Replay { note, to_dimension, .. } => (note.as_ref(), to_dimension.as_deref()),
            Repair::Confirm(note) | Repair::Discard(note) => (Some(note), None),
        };
        let was =
            if matches!(self.state, RecordState::Accepted { .. }) { "unconfirmed" } else { "a dead letter" };
        let code = self.code.as_deref().unwrap_or("no code");
        let doubt = if self.state.in_doubt() { ", in doubt" } else { "" };
        let mut note = given.map(|Note(text)| format!("{text} ")).unwrap_or_default();
        note.push_str(&format!("[was {was}: {code}{doubt}]"));
        if let Some(dimension) = redirected {
            note.push_str(&format!(" [from {} to {dimension}]", self.dimension));
        }
        note
    }
}

impl Ledger {
    /// Repairs one record.
    pub fn repair(&mut self, id: i64, repair: &Repair, now: Timestamp) -> Result<Repaired, LedgerError> {
        self.write(repair.action(), |transaction, _| repair_record(transaction, id, repair, now))
    }
}

impl Database {
    /// Repairs one record while no sidecar runs.
    pub fn repair(&mut self, id: i64, repair: &Repair, now: Timestamp) -> Result<Repaired, LedgerError> {
        self.write(repair.action(), |transaction| repair_record(transaction, id, repair, now))
    }

    /// The audit's lines, newest first; only those with a number below `before`.
    pub fn audit(&self, before: Option<i64>, limit: usize) -> Result<Vec<Entry>, LedgerError> {
        let bounds = params![before.unwrap_or(i64::MAX), i64::try_from(limit).unwrap_or(i64::MAX)];
        let entry = |row: &Row<'_>| {
            Ok(Entry {
                id: row.get(0)?,
                at: Timestamp::from_unix_millis(row.get(1)?),
                record: row.get(2)?,
                action: row.get(3)?,
                note: row.get(4)?,
            })
        };
        self.reading(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT id, at, record, action, note FROM audit WHERE id < ?1 ORDER BY id DESC LIMIT ?2",
            )?;
            statement.query_map(bounds, entry)?.collect()
        })
    }
}

fn repair_record(
    transaction: &Transaction<'_>,
    id: i64,
    repair: &Repair,
    now: Timestamp,
) -> rusqlite::Result<Repaired> {
    let found = transaction
        .prepare_cached(
            "SELECT state, in_doubt, unconfirmed, code, dimension, coalesce(raw, micros) FROM records WHERE id = ?1",
        )?
        .query_row([id], Found::read)
        .optional()?;
    let Some(found) = found else { return Ok(Repaired::NotFound) };
    let mut verdict = found.judge(repair);
    if verdict == Repaired::Done {
        verdict = carry_out(transaction, id, &found, repair, now)?;
    }
    if verdict == Repaired::Done {
        let action = repair.action();
        transaction.execute(
            "INSERT INTO audit (at, record, action, note) VALUES (?1, ?2, ?3, ?4)",
            params![now.unix_millis(), id, action, found.note(repair)],
        )?;
    }
    Ok(verdict)
}

fn carry_out(
    transaction: &Transaction<'_>,
    id: i64,
    found: &Found,
    repair: &Repair,
    now: Timestamp,
) -> rusqlite::Result<Repaired> {
    let sql = match repair {
        Repair::Replay { to_dimension, .. } => {
            let hours = Hours::for_repair(transaction, now)?;
            // Every process that counts usage notes its pod before it writes its first record.
            let pod = meta(transaction, "pod")?.ok_or_else(|| rows::unreadable(0, "a pod"))?;
            // The usage may have been acknowledged for the wrong dimension.
            let to_dimension = to_dimension.as_deref().filter(|to| *to != found.dimension);
            let rules = rules::read(transaction)?;
            let carrying = Carrying { pod: &pod, hours: &hours, rules: &rules, to_dimension };
            if rows::carry_record(transaction, "1", &carrying, id, now)? == Carried::OtherForm {
                return Ok(Repaired::OtherForm);
            }
            "UPDATE records SET state = 'carried', unconfirmed = 0, updated_at = ?2 WHERE id = ?1"
        }
        Repair::Confirm(_) => {
            "UPDATE records SET state = 'accepted', unconfirmed = 0, updated_at = ?2 WHERE id = ?1"
        }
        Repair::Discard(_) => "UPDATE records SET state = 'discarded', updated_at = ?2 WHERE id = ?1",
    };
    transaction.execute(sql, params![id, now.unix_millis()]).map(|_| Repaired::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note() -> Note {
        Note::new("ticket 7").unwrap()
    }

    fn replay(accept_double_billing: bool) -> Repair {
        Repair::Replay { accept_double_billing, to_dimension: None, note: None }
    }

    #[test]
    fn which_order_is_for_which_record() {
        use Repaired::{Done, InDoubt, NotFound};
        let found = |state, code: &str| Found {
            state,
            code: Some(code.to_owned()),
            dimension: "requests".to_owned(),
            amount: 1,
        };
        let dead = |in_doubt| RecordState::Dead { in_doubt };
        let refused = "InvalidTagException";
        for (found, replayed, accepted, confirmed, discarded) in [
            (found(dead(false), refused), Done, Done, Done, Done),
            (found(dead(true), "in_doubt"), InDoubt, Done, Done, Done),
            (found(dead(true), refused), InDoubt, Done, Done, Done),
            (found(dead(false), "DuplicateRequestException"), InDoubt, Done, Done, Done),
            (found(dead(false), "DuplicateRecord"), InDoubt, Done, Done, Done),
            (found(RecordState::Accepted { unconfirmed: true }, ""), InDoubt, Done, Done, NotFound),
            (found(RecordState::Accepted { unconfirmed: false }, ""), NotFound, NotFound, NotFound, NotFound),
            (found(RecordState::Sealed { in_doubt: true }, ""), NotFound, NotFound, NotFound, NotFound),
            (found(RecordState::Carried { in_doubt: true }, ""), NotFound, NotFound, NotFound, NotFound),
            (found(RecordState::Claimed, ""), NotFound, NotFound, NotFound, NotFound),
            (found(RecordState::Discarded, refused), NotFound, NotFound, NotFound, NotFound),
        ] {
            let orders = [replay(false), replay(true), Repair::Confirm(note()), Repair::Discard(note())];
            let verdicts = orders.map(|repair| found.judge(&repair));
            assert_eq!(
                verdicts,
                [replayed, accepted, confirmed, discarded],
                "{:?} {:?}",
                found.state,
                found.code
            );
        }
    }

    #[test]
    fn a_note_says_something_in_one_line() {
        assert_eq!(Note::new(" ticket 7 "), Ok(note()));
        for bad in ["", "  ", "two\nlines", "\u{1b}[2J", &"x".repeat(NOTE_CHARS_MAX + 1)] {
            assert!(Note::new(bad).is_err(), "{bad:?}");
        }
    }
}
