//! What people do to records that AWS did not settle: replay, confirm, discard. Each repair is one transaction, and
//! leaves a line with its note in the audit table.
//!
//! - Replay takes a dead letter, and what may have been billed only where that is accepted. It becomes `carried`: its
//!   quantity counts to the current hour.
//! - Confirm takes a dead letter, or a record that AWS may hold (`unconfirmed`): it was billed, and becomes `accepted`.
//! - Discard takes a dead letter: it is never billed, and becomes `discarded`.
//!
//! A repair changes the record's state and nothing that AWS said: `in_doubt`, `code` and attempts stay, so that a
//! person who looks later sees why there was something to repair. What the record became stands in `links`.

use rusqlite::{OptionalExtension as _, Row, Transaction, params};
use serde::Serialize;

use super::amount::amount;
use super::closing::Hours;
use super::rows::{self, Carried};
use super::{Database, Ledger, LedgerError, meta, totals};
use tollgate_marketplace::exceptions::{self, Kind, Verdict};
use tollgate_metering::record::State;
use tollgate_time::Timestamp;

/// Longest note: some sentences and a ticket's address.
pub const NOTE_CHARS_MAX: usize = 1000;

/// Whether AWS holds another value for the hour of a dead letter with this code: somebody else reported it, and may
/// have reported this usage. To count it again could bill it twice, as for a record in doubt.
fn reported_by_another(code: &str) -> bool {
    // The first is a status in an answer, and no exception.
    code == "DuplicateRecord" || exceptions::kind(code) == Some(Kind::Record(Verdict::Taken))
}

/// Why, in the words of who repairs: 1 to [`NOTE_CHARS_MAX`] characters in one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note(String);

impl Note {
    /// The note, or what is wrong with it.
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

/// What to do to a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repair {
    /// Count its quantity to the current hour.
    Replay {
        /// Also where it may have been billed already.
        accept_double_billing: bool,
        /// Count it to this dimension instead of its own.
        to_dimension: Option<String>,
        /// Why; if it is not given, it is made from the record.
        note: Option<Note>,
    },
    /// It was billed.
    Confirm(Note),
    /// It will not be billed, and needs no action any more.
    Discard(Note),
}

impl Repair {
    const fn action(&self) -> &'static str {
        match self {
            Self::Replay { .. } => "replay",
            Self::Confirm(_) => "confirm",
            Self::Discard(_) => "discard",
        }
    }
}

/// What became of a repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repaired {
    /// It is done, and in the audit table.
    Done,
    /// There is no record of this number that this order is for.
    NotFound,
    /// It may have been billed, and `accept_double_billing` is not set.
    InDoubt,
    /// Usage of its account was counted in the other form, by license or without it, in the current hour: AWS would
    /// bill both.
    OtherForm,
}

/// A line of the audit table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Its number.
    pub id: i64,
    /// When.
    pub at: Timestamp,
    /// Which record.
    pub record: i64,
    /// `replay`, `confirm` or `discard`.
    pub action: String,
    /// Why, and what the record was.
    pub note: String,
}

/// What is repaired.
struct Found {
    state: State,
    code: Option<String>,
    dimension: String,
    amount: i128,
}

impl Found {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let state: String = row.get(0)?;
        Ok(Self {
            state: State::of(&state, row.get(1)?, row.get(2)?)
                .ok_or_else(|| rows::unreadable(0, "a state"))?,
            code: row.get(3)?,
            dimension: row.get(4)?,
            amount: amount(row, 5)?,
        })
    }

    /// Whether the order may be carried out. Pure.
    fn judge(&self, repair: &Repair) -> Repaired {
        let unconfirmed = self.state == State::Accepted { unconfirmed: true };
        let dead = matches!(self.state, State::Dead { .. });
        let reported = self.code.as_deref().is_some_and(reported_by_another);
        let perhaps_billed = self.state.in_doubt() || unconfirmed || reported;
        match repair {
            _ if !dead && !unconfirmed => Repaired::NotFound,
            Repair::Replay { accept_double_billing: false, .. } if perhaps_billed => Repaired::InDoubt,
            Repair::Replay { .. } | Repair::Confirm(_) => Repaired::Done,
            // AWS answered that it holds it: billed, until somebody finds that it is not, and then it is replayed.
            Repair::Discard(_) if unconfirmed => Repaired::NotFound,
            Repair::Discard(_) => Repaired::Done,
        }
    }

    /// What the audit says: who repaired, in their words, and what the record was.
    fn note(&self, repair: &Repair) -> String {
        let (given, redirected) = match repair {
            Repair::Replay { note, to_dimension, .. } => (note.as_ref(), to_dimension.as_deref()),
            Repair::Confirm(note) | Repair::Discard(note) => (Some(note), None),
        };
        let was = if matches!(self.state, State::Accepted { .. }) { "unconfirmed" } else { "a dead letter" };
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
    /// Carries out what a person ordered for one record.
    pub fn repair(&mut self, id: i64, repair: &Repair, now: Timestamp) -> Result<Repaired, LedgerError> {
        self.write("replay", |transaction, _| repair_record(transaction, id, repair, now))
    }
}

impl Database {
    /// Carries out what a person ordered for one record, while no sidecar runs.
    pub fn repair(&mut self, id: i64, repair: &Repair, now: Timestamp) -> Result<Repaired, LedgerError> {
        self.write("replay", |transaction| repair_record(transaction, id, repair, now))
    }

    /// Repairs, newest first; only those below number `before`.
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
            // Every process that counts notes whose pod it is before its first record.
            let pod = meta(transaction, "pod")?.ok_or_else(|| rows::unreadable(0, "a pod"))?;
            let to_dimension = to_dimension.as_deref().filter(|to| *to != found.dimension);
            let carried = rows::carry_record(transaction, "1", &pod, &hours, to_dimension, id, now)?;
            if carried == Carried::OtherForm {
                return Ok(Repaired::OtherForm);
            }
            if let Some(to) = to_dimension {
                // What was acknowledged for one dimension was meant for another, so that each keeps its balance.
                totals::accept(transaction, &found.dimension, -found.amount)?;
                totals::accept(transaction, to, found.amount)?;
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
        let dead = |in_doubt| State::Dead { in_doubt };
        let refused = "InvalidTagException";
        for (found, replayed, accepted, confirmed, discarded) in [
            (found(dead(false), refused), Done, Done, Done, Done),
            (found(dead(true), "in_doubt"), InDoubt, Done, Done, Done),
            (found(dead(true), refused), InDoubt, Done, Done, Done),
            (found(dead(false), "DuplicateRequestException"), InDoubt, Done, Done, Done),
            (found(dead(false), "DuplicateRecord"), InDoubt, Done, Done, Done),
            (found(State::Accepted { unconfirmed: true }, ""), InDoubt, Done, Done, NotFound),
            (found(State::Accepted { unconfirmed: false }, ""), NotFound, NotFound, NotFound, NotFound),
            (found(State::Sealed { in_doubt: true }, ""), NotFound, NotFound, NotFound, NotFound),
            (found(State::Carried { in_doubt: true }, ""), NotFound, NotFound, NotFound, NotFound),
            (found(State::Claimed, ""), NotFound, NotFound, NotFound, NotFound),
            (found(State::Discarded, refused), NotFound, NotFound, NotFound, NotFound),
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
