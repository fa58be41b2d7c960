//! Records for people to read: page by page, newest first, without their allocations, which may be thousands each.

use rusqlite::{Connection, params};

use super::amount::amount;
use super::rows::{self, COLUMNS};
use super::upkeep::Budget;
use super::{Database, LedgerError};
use tollgate_marketplace::{Hour, TagSet};
use tollgate_metering::record::{Record, RecordState};

/// Which records are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Looked {
    /// Only those in this state.
    pub state: Option<ShownState>,
    /// Only numbers below this one: the next page.
    pub before: Option<i64>,
    /// Only of this customer: an account, a license, an identifier, or the customer's text as views show it.
    pub customer: Option<String>,
    /// Only of this dimension.
    pub dimension: Option<String>,
    /// Only of this hour.
    pub hour: Option<Hour>,
}

/// Matches a customer by the text that a person gives: the whole text, or the account, license or identifier in it.
const IS_CUSTOMER: &str = "(rtrim(customer) = ?2 OR substr(customer, -1 - length(?2)) = ' ' || ?2
                             OR instr(customer, 'account ' || ?2 || ' ') = 1)";

/// The state of a record as listings and the API show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShownState {
    /// To be sent; never attempted, or definitely refused so far.
    Sealed,
    /// To be sent; may be billed already.
    InDoubt,
    /// Billed.
    Accepted,
    /// Counts to a later hour.
    Carried,
    /// Not billed unless it is replayed.
    Dead,
    /// Under way through the AWS door.
    Claimed,
    /// Probably billed: AWS's answer to a record in doubt suggests it; CloudTrail or a person confirms it.
    Unconfirmed,
    /// Not to be billed, as a person decided.
    Discarded,
}

impl ShownState {
    /// Every state.
    pub const ALL: [Self; 8] = [
        Self::Sealed,
        Self::InDoubt,
        Self::Accepted,
        Self::Carried,
        Self::Dead,
        Self::Claimed,
        Self::Unconfirmed,
        Self::Discarded,
    ];

    /// The shown state of a record.
    #[must_use]
    pub const fn of(record: &Record) -> Self {
        match record.state {
            RecordState::Sealed { in_doubt: true } => Self::InDoubt,
            RecordState::Sealed { in_doubt: false } => Self::Sealed,
            RecordState::Accepted { unconfirmed: true } => Self::Unconfirmed,
            RecordState::Accepted { unconfirmed: false } => Self::Accepted,
            RecordState::Carried { .. } => Self::Carried,
            RecordState::Dead { .. } => Self::Dead,
            RecordState::Claimed => Self::Claimed,
            RecordState::Discarded => Self::Discarded,
        }
    }

    /// Its name in views.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sealed => "sealed",
            Self::InDoubt => "in_doubt",
            Self::Accepted => "accepted",
            Self::Carried => "carried",
            Self::Dead => "dead",
            Self::Claimed => "claimed",
            Self::Unconfirmed => "unconfirmed",
            Self::Discarded => "discarded",
        }
    }

    /// The condition on a record's columns, in SQL that every engine understands.
    #[must_use]
    pub const fn condition(self) -> &'static str {
        match self {
            Self::Sealed => "state = 'sealed' AND NOT (in_doubt OR attempting)",
            Self::InDoubt => "state = 'sealed' AND (in_doubt OR attempting)",
            Self::Accepted => "state = 'accepted' AND NOT unconfirmed",
            Self::Unconfirmed => "state = 'accepted' AND unconfirmed",
            Self::Discarded => "state = 'discarded'",
            Self::Carried => "state = 'carried'",
            Self::Dead => "state = 'dead'",
            Self::Claimed => "state = 'claimed'",
        }
    }
}

/// Usage of one tag set in an open hour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenUsage {
    /// The hour that it counts to.
    pub hour: Hour,
    /// Whose it is, as views show it.
    pub customer: String,
    /// What was used.
    pub dimension: String,
    /// The tags; empty for the untagged share.
    pub tags: TagSet,
    /// How much, in millionths.
    pub micros: i128,
    /// The earliest hour that some of it came from, if that hour was already closed.
    pub late_from: Option<Hour>,
}

/// A piece of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece<T, N> {
    /// What was found.
    pub rows: Vec<T>,
    /// Where the next piece begins, if there may be one.
    pub next: Option<N>,
}

/// Where a piece of open usage begins. Its text means something to the engine that gave it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum From {
    /// With the first row.
    #[default]
    Start,
    /// Where slots have numbers: at this slot, after this many of its rows.
    Slot {
        /// The slot's number.
        slot: i64,
        /// Rows of it that were listed.
        rows: usize,
    },
    /// Behind the row with this key.
    Key(Vec<KeyPart>),
}

/// A column of a row's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyPart {
    /// A number.
    Number(i64),
    /// Text or bytes.
    Bytes(Vec<u8>),
}

/// Two numbers such as `17.3`, or the columns of a key such as `498752~x61~x`.
impl std::fmt::Display for From {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Start => f.write_str("0.0"),
            Self::Slot { slot, rows } => write!(f, "{slot}.{rows}"),
            Self::Key(parts) => {
                for (index, part) in parts.iter().enumerate() {
                    f.write_str(if index == 0 { "" } else { "~" })?;
                    match part {
                        KeyPart::Number(number) => write!(f, "{number}")?,
                        KeyPart::Bytes(bytes) => write!(f, "x{}", super::hex(bytes))?,
                    }
                }
                Ok(())
            }
        }
    }
}

impl From {
    /// Reads the text that `Display` writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Some((slot, rows)) = text.split_once('.') {
            return Some(Self::Slot { slot: slot.parse().ok()?, rows: rows.parse().ok()? });
        }
        let part = |text: &str| match text.strip_prefix('x') {
            Some(hex) => super::unhex(hex).map(KeyPart::Bytes),
            None => text.parse().ok().map(KeyPart::Number),
        };
        text.contains('~').then(|| text.split('~').map(part).collect::<Option<_>>().map(Self::Key))?
    }
}

impl Database {
    /// Usage that is not sealed, at most `limit` rows: in the order in which the slots were made, and by tags within a
    /// slot. The piece is shorter if the next row would delay an acknowledgement.
    pub fn open_usage(
        &self,
        looked: &Looked,
        from: &From,
        limit: usize,
    ) -> Result<Piece<OpenUsage, From>, LedgerError> {
        // A key is from another engine.
        let (first, listed) = match from {
            From::Slot { slot, rows } => (*slot, *rows),
            From::Start | From::Key(_) => (i64::MIN, 0),
        };
        let sql = format!(
            "SELECT id, hour, customer, dimension, plus(amount, additive), late_from, tagged,
                 (?2 IS NULL OR {IS_CUSTOMER}) AND (?3 IS NULL OR dimension = ?3) AND (?4 IS NULL OR hour = ?4)
             FROM slots WHERE id >= ?1 ORDER BY id"
        );
        let hour = looked.hour.map(Hour::number);
        self.reading(|connection| {
            let (mut budget, mut found) = (Budget::new(), Vec::new());
            let mut statement = connection.prepare_cached(&sql)?;
            let mut slots = statement.query(params![first, looked.customer, looked.dimension, hour])?;
            while let Some(row) = slots.next()? {
                let slot: i64 = row.get(0)?;
                if found.len() >= limit || budget.is_spent() {
                    return Ok(Piece { rows: found, next: Some(From::Slot { slot, rows: 0 }) });
                }
                budget.spend(1);
                if !row.get(7)? {
                    continue;
                }
                let skip = if slot == first { listed } else { 0 };
                let (late_from, tagged): (Option<i64>, i64) = (row.get(5)?, row.get(6)?);
                let untagged = OpenUsage {
                    hour: Hour::from_number(row.get(1)?),
                    customer: row.get(2)?,
                    dimension: row.get(3)?,
                    tags: TagSet::default(),
                    micros: amount(row, 4)?,
                    late_from: late_from.map(Hour::from_number),
                };
                let first = usize::from(tagged == 0 || untagged.micros != 0);
                if first > skip {
                    found.push(untagged.clone());
                }
                if tagged == 0 {
                    continue;
                }
                let (skip, room) = (skip.saturating_sub(first), limit - found.len());
                let shares = shares(connection, slot, skip, room)?;
                budget.spend(shares.len());
                let rows = first + skip + shares.len();
                found.extend(shares.into_iter().map(|(tags, micros)| OpenUsage {
                    tags,
                    micros,
                    ..untagged.clone()
                }));
                if found.len() >= limit {
                    return Ok(Piece { rows: found, next: Some(From::Slot { slot, rows }) });
                }
            }
            Ok(Piece { rows: found, next: None })
        })
    }

    /// The newest of the wanted records, at most `limit`, newest first. The piece is shorter if the next row would
    /// delay an acknowledgement; the next piece begins before its `next`.
    pub fn page(&self, looked: &Looked, limit: usize) -> Result<Piece<Record, i64>, LedgerError> {
        let condition = looked.state.map_or("1", ShownState::condition);
        let sql = format!(
            "SELECT id, {condition} AND (?2 IS NULL OR {IS_CUSTOMER}) AND (?3 IS NULL OR dimension = ?3)
                 AND (?4 IS NULL OR hour = ?4)
             FROM records WHERE id < ?1 ORDER BY id DESC"
        );
        let bounds = params![
            looked.before.unwrap_or(i64::MAX),
            looked.customer,
            looked.dimension,
            looked.hour.map(Hour::number),
        ];
        self.reading(|connection| {
            let (mut budget, mut found, mut before) = (Budget::new(), Vec::new(), None);
            let mut statement = connection.prepare_cached(&sql)?;
            let mut read =
                connection.prepare_cached(&format!("SELECT {COLUMNS} FROM records WHERE id = ?1"))?;
            let mut rows = statement.query(bounds)?;
            while let Some(row) = rows.next()? {
                if found.len() >= limit || budget.is_spent() {
                    return Ok(Piece { rows: found, next: before });
                }
                budget.spend(1);
                let id: i64 = row.get(0)?;
                before = Some(id);
                if row.get(1)? {
                    found.push(read.query_row([id], rows::record)?);
                }
            }
            Ok(Piece { rows: found, next: None })
        })
    }
}

/// Some of the tagged shares of a slot.
fn shares(
    connection: &Connection,
    slot: i64,
    skip: usize,
    limit: usize,
) -> rusqlite::Result<Vec<(TagSet, i128)>> {
    let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let mut statement = connection.prepare_cached(
        "SELECT tags, plus(amount, additive) FROM shares WHERE slot = ?1 ORDER BY tags LIMIT ?2 OFFSET ?3",
    )?;
    let shares = statement.query_map(params![slot, number(limit), number(skip)], |row| {
        Ok((rows::json(0, row.get_ref(0)?.as_str()?)?, amount(row, 1)?))
    })?;
    shares.collect()
}
