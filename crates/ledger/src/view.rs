//! What people read in the ledger, piece by piece. Records are shown without their allocations, which may be thousands
//! each; open usage (`open`) with all of them, because they decide what is billed.

use std::collections::BTreeMap;

use rusqlite::params;

use super::rows::{self, COLUMNS};
use super::upkeep::Budget;
use super::{Database, LedgerError};
use tollgate_marketplace::{Hour, Quantity, TagSet};
use tollgate_metering::aggregation::Rule;
use tollgate_metering::record::{Record, RecordState};
use tollgate_metering::seal::Sealed;

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
pub(super) const IS_CUSTOMER: &str = "(rtrim(customer) = ?2 OR substr(customer, -1 - length(?2)) = ' ' || ?2
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

/// Open usage of one customer and dimension in one hour, and what would be sent of it if the hour closed now. Amounts
/// are millionths of the event's own unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenSlot {
    /// The hour that it counts to.
    pub hour: Hour,
    /// Whose it is, as views show it.
    pub customer: String,
    /// What was used.
    pub dimension: String,
    /// The earliest hour that some of it came from, if that hour was already closed.
    pub late_from: Option<Hour>,
    /// By which it is billed: the one with which the hour began.
    pub rule: Rule,
    /// How much, by tags; without tags for the untagged share.
    pub shares: BTreeMap<TagSet, i128>,
    /// How much of it was carried or replayed into the hour.
    pub carried: i128,
    /// What earlier hours leave to this one, the earlier hours that are still open included: above 0 a remainder, below
    /// 0 a credit.
    pub kept: i128,
    /// What sealing would make of it now; `None` if it would make no record, so that all of it would count to a later
    /// hour.
    pub sealed: Option<Sealed>,
}

impl OpenSlot {
    /// All that was used.
    #[must_use]
    pub fn quantity(&self) -> i128 {
        self.shares.values().sum()
    }

    /// For each set of tags what was used, and its part of the quantity that would be sent.
    #[must_use]
    pub fn by_tags(&self) -> BTreeMap<&TagSet, (i128, Quantity)> {
        let mut all: BTreeMap<&TagSet, (i128, Quantity)> =
            self.shares.iter().map(|(tags, micros)| (tags, (*micros, Quantity::ZERO))).collect();
        let Some(Sealed { usage, .. }) = &self.sealed else { return all };
        for part in &usage.allocations {
            all.entry(&part.tags).or_default().1 = part.quantity;
        }
        // A record without a split is of untagged usage. The untagged set is the first one, if there is any.
        if usage.allocations.is_empty()
            && let Some(mut first) = all.first_entry()
        {
            first.get_mut().1 = usage.quantity;
        }
        all
    }

    /// What rounding would add.
    #[must_use]
    pub fn rounded_up(&self) -> i128 {
        self.sealed.as_ref().map_or(0, |sealed| sealed.sent.rounded)
    }

    /// What would count to a later hour: a remainder, or what is above AWS's maximum. Below 0 it is the rest of a
    /// credit, which ends with this hour.
    #[must_use]
    pub fn left(&self) -> i128 {
        let all = || self.quantity() + self.kept;
        self.sealed.as_ref().map_or_else(all, |sealed| sealed.sent.left + sealed.sent.over)
    }
}

/// A piece of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece<T, N> {
    /// What was found.
    pub rows: Vec<T>,
    /// Where the next piece begins, if there may be one.
    pub next: Option<N>,
}

/// Where a piece of open usage begins: always with a whole slot. Its text means something to the engine that gave it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum From {
    /// With the first slot.
    #[default]
    Start,
    /// Where slots have numbers: at this slot.
    Slot(i64),
    /// Behind the slot with this key.
    Key(Vec<KeyPart>),
}

/// A column of a slot's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyPart {
    /// A number.
    Number(i64),
    /// Text or bytes.
    Bytes(Vec<u8>),
}

/// A slot's number such as `17.0`, or the columns of a key such as `498752~x61~x62`. Where a version before split a
/// slot, the part behind the point says how many of its rows it had listed.
impl std::fmt::Display for From {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Start => f.write_str("0.0"),
            Self::Slot(slot) => write!(f, "{slot}.0"),
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
            let (slot, _rows): (i64, u32) = (slot.parse().ok()?, rows.parse().ok()?);
            return Some(Self::Slot(slot));
        }
        let part = |text: &str| match text.strip_prefix('x') {
            Some(hex) => super::unhex(hex).map(KeyPart::Bytes),
            None => text.parse().ok().map(KeyPart::Number),
        };
        text.contains('~').then(|| text.split('~').map(part).collect::<Option<_>>().map(Self::Key))?
    }
}

impl Database {
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
