//! Records as people look at them: page by page, newest first, each row given away as it is read, since a page of
//! records with thousands of allocations each is not for memory.

use rusqlite::params;

use super::rows::{self, Record};
use super::{Ledger, LedgerError, classify};

/// Which records are looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Looked {
    /// Only those that stand so.
    pub standing: Option<Standing>,
    /// Only numbers below this one: the next page.
    pub before: Option<i64>,
}

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
}

impl Standing {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Sealed, Self::InDoubt, Self::Accepted, Self::Carried, Self::Dead, Self::Claimed];

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
        }
    }

    const fn condition(self) -> &'static str {
        match self {
            Self::Sealed => "state = 'sealed' AND NOT (in_doubt OR attempting)",
            Self::InDoubt => "state = 'sealed' AND (in_doubt OR attempting)",
            Self::Accepted => "state = 'accepted'",
            Self::Carried => "state = 'carried'",
            Self::Dead => "state = 'dead'",
            Self::Claimed => "state = 'claimed'",
        }
    }
}

impl Ledger {
    /// The newest of the records that are looked at, at most `limit`, newest first, each as `show` makes it.
    pub fn page<T>(
        &self,
        looked: Looked,
        limit: usize,
        mut show: impl FnMut(Record) -> T,
    ) -> Result<Vec<T>, LedgerError> {
        let condition = looked.standing.map_or("1", Standing::condition);
        let columns = rows::list_columns();
        let sql =
            format!("SELECT {columns} FROM records WHERE id < ?1 AND {condition} ORDER BY id DESC LIMIT ?2");
        let bounds = params![looked.before.unwrap_or(i64::MAX), i64::try_from(limit).unwrap_or(i64::MAX)];
        let failed = |error: rusqlite::Error| classify(&self.path, &error);
        let mut statement = self.connection.prepare_cached(&sql).map_err(failed)?;
        let shown =
            statement.query_map(bounds, |row| rows::record(row, false).map(&mut show)).map_err(failed)?;
        shown.collect::<rusqlite::Result<_>>().map_err(failed)
    }
}
