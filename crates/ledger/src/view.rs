//! Records as people look at them: page by page, newest first, each row given away as it is read, since a page of
//! records with thousands of allocations each is not for memory.

use rusqlite::params;

use super::amount::amount;
use super::rows::{self, COLUMNS};
use super::{Ledger, LedgerError};
use tollgate_marketplace::{Hour, TagSet};
use tollgate_metering::record::{Record, State};

/// Which records are looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Looked {
    /// Only those that stand so.
    pub standing: Option<Standing>,
    /// Only numbers below this one: the next page.
    pub before: Option<i64>,
    /// Only of this customer: an account, a licence, an identifier, or the text that views show for a customer.
    pub customer: Option<String>,
    /// Only of this dimension.
    pub dimension: Option<String>,
    /// Only of this hour.
    pub hour: Option<Hour>,
}

/// A customer's text as a person gives it: whole, or the account, the licence or the identifier in it.
const IS_CUSTOMER: &str = "(rtrim(customer) = ?3 OR substr(customer, -1 - length(?3)) = ' ' || ?3
                             OR instr(customer, 'account ' || ?3 || ' ') = 1)";

/// Where a record stands, in the words of the views.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// To be sent; never attempted, or certainly refused so far.
    Sealed,
    /// To be sent, and perhaps billed already.
    InDoubt,
    /// Billed.
    Accepted,
    /// Counts to a later hour.
    Carried,
    /// Not billed unless it is replayed.
    Dead,
    /// Under way through the AWS door.
    Claimed,
    /// Billed, as AWS's answer to a record in doubt suggests; CloudTrail or a person confirms it.
    Unconfirmed,
    /// Not to be billed, as a person decided.
    Discarded,
}

impl Standing {
    /// All of them.
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

    /// Where a record stands.
    #[must_use]
    pub const fn of(record: &Record) -> Self {
        match record.state {
            State::Sealed { in_doubt: true } => Self::InDoubt,
            State::Sealed { in_doubt: false } => Self::Sealed,
            State::Accepted { unconfirmed: true } => Self::Unconfirmed,
            State::Accepted { unconfirmed: false } => Self::Accepted,
            State::Carried { .. } => Self::Carried,
            State::Dead { .. } => Self::Dead,
            State::Claimed => Self::Claimed,
            State::Discarded => Self::Discarded,
        }
    }

    /// Its word.
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

    const fn condition(self) -> &'static str {
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

/// Usage of one tag set in an hour that is open.
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
    /// The earliest hour that some of it came from, if that was closed already.
    pub late_from: Option<Hour>,
}

impl Ledger {
    /// Usage that is not sealed, by hour, customer, dimension and tags: at most `limit` rows behind the first `skip`.
    pub fn open_usage(
        &self,
        looked: &Looked,
        skip: usize,
        limit: usize,
    ) -> Result<Vec<OpenUsage>, LedgerError> {
        let filter = format!(
            "(?3 IS NULL OR {IS_CUSTOMER}) AND (?4 IS NULL OR dimension = ?4) AND (?5 IS NULL OR hour = ?5)"
        );
        let sql = format!(
            "SELECT hour, customer, dimension, '{{}}' AS tags, plus(amount, additive) AS held, late_from, pod FROM slots
             WHERE {filter} AND (tagged = 0 OR plus(amount, additive) <> zeroblob(16))
             UNION ALL
             SELECT hour, customer, dimension, tags, plus(shares.amount, shares.additive), late_from, pod
             FROM slots JOIN shares ON slot = id WHERE {filter}
             ORDER BY hour, pod, customer, dimension, tags LIMIT ?1 OFFSET ?2"
        );
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let hour = looked.hour.map(Hour::number);
        let bounds = params![number(limit), number(skip), looked.customer, looked.dimension, hour];
        self.reading(|connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            let open = statement.query_map(bounds, |row| {
                let tags: String = row.get(3)?;
                let late_from: Option<i64> = row.get(5)?;
                Ok(OpenUsage {
                    hour: Hour::from_number(row.get(0)?),
                    customer: row.get(1)?,
                    dimension: row.get(2)?,
                    tags: rows::json(3, &tags)?,
                    micros: amount(row, 4)?,
                    late_from: late_from.map(Hour::from_number),
                })
            })?;
            open.collect()
        })
    }

    /// The newest of the records that are looked at, at most `limit`, newest first, each as `show` makes it.
    pub fn page<T>(
        &self,
        looked: &Looked,
        limit: usize,
        mut show: impl FnMut(Record) -> T,
    ) -> Result<Vec<T>, LedgerError> {
        let condition = looked.standing.map_or("1", Standing::condition);
        let sql = format!(
            "SELECT {COLUMNS} FROM records WHERE id < ?1 AND {condition} AND (?3 IS NULL OR {IS_CUSTOMER})
             AND (?4 IS NULL OR dimension = ?4) AND (?5 IS NULL OR hour = ?5) ORDER BY id DESC LIMIT ?2"
        );
        let bounds = params![
            looked.before.unwrap_or(i64::MAX),
            i64::try_from(limit).unwrap_or(i64::MAX),
            looked.customer,
            looked.dimension,
            looked.hour.map(Hour::number),
        ];
        self.reading(|connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            let shown = statement.query_map(bounds, |row| rows::record(row).map(&mut show))?;
            shown.collect()
        })
    }
}
