//! Reading, for people. Each page is one statement, and looks at a bounded number of records.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use tokio_postgres::types::Type;

use crate::PostgresLedger;
use crate::columns::column;
use crate::connect::Param;
use crate::rows::{self, COLUMNS};
use tollgate_ledger::repair::{Entry, Repair, Repaired};
use tollgate_ledger::store::{StoreFuture, View};
use tollgate_ledger::view::{From, Looked, OpenSlot, Piece, ShownState};
use tollgate_ledger::{LedgerError, Links, SHOWN_LINKS_MAX, Summary, Totals};
use tollgate_marketplace::Hour;
use tollgate_metering::record::{Record, Whole};
use tollgate_time::Timestamp;

/// Records that a page looks at. If few of them are wanted, the page is short, and the next one goes on.
const LOOKED_AT_MAX: usize = 10_000;

/// The customers that the second parameter means: the whole text, or the account, license or identifier in it. Every
/// customer with usage has a row in `accepted`, and there are fewer of these than records.
pub(crate) const CUSTOMERS: &str = "ARRAY(SELECT DISTINCT customer FROM tollgate.accepted
    WHERE rtrim(customer) = $2 OR right(customer, 1 + length($2)) = ' ' || $2
        OR starts_with(customer, 'account ' || $2 || ' '))";

/// Where a record's quantity counts now, and which records' quantities it contains.
const LINKS: &str = "SELECT EXISTS (SELECT 1 FROM tollgate.links WHERE source = $1) AS moved,
    (SELECT target FROM tollgate.links WHERE source = $1 LIMIT 1) AS target,
    ARRAY(SELECT source FROM tollgate.links WHERE target = $1 ORDER BY source LIMIT $2) AS includes";

const AUDIT: &str =
    "SELECT id, at, record, action, note FROM tollgate.audit WHERE id < $1 ORDER BY id DESC LIMIT $2";

fn sql(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// The columns of a settled record that [`rows::record`] reads: no call is under way for it.
fn settled_columns() -> String {
    COLUMNS.replace("in_doubt OR attempting", "in_doubt")
}

/// Their names, without how they are read.
fn names() -> String {
    settled_columns().replace("::text", "")
}

/// Whether a record in this state is in `records`; otherwise it is in `settled`.
const fn is_unsettled(state: ShownState) -> bool {
    use ShownState::{Accepted, Carried, Claimed, Dead, Discarded, InDoubt, Sealed, Unconfirmed};
    match state {
        Sealed | InDoubt | Unconfirmed | Dead | Claimed => true,
        Accepted | Carried | Discarded => false,
    }
}

/// The statement of a page of records. Its parameters: the number below which it begins, the customer, the dimension,
/// the hour, the limit, and how many records it looks at.
fn page_sql(looked: &Looked) -> String {
    let mut bounds = String::from("id < $1");
    if looked.customer.is_some() {
        let _ = write!(bounds, " AND customer = ANY({CUSTOMERS})");
    }
    if looked.hour.is_some() {
        bounds.push_str(" AND hour = $4");
    }
    // Only the partition of its day is looked at.
    let day = if looked.hour.is_some() { " AND day = $4 / 24" } else { "" };
    let (names, settled, newest) = (names(), settled_columns(), "ORDER BY id DESC LIMIT $6");
    let mut parts = Vec::new();
    if looked.state.is_none_or(is_unsettled) {
        parts.push(format!("(SELECT {COLUMNS} FROM tollgate.records WHERE {bounds} {newest})"));
    }
    if looked.state.is_none_or(|state| !is_unsettled(state)) {
        parts.push(format!("(SELECT {settled} FROM tollgate.settled WHERE {bounds}{day} {newest})"));
    }
    let mut wanted = looked.state.map_or("true", ShownState::condition).to_owned();
    if looked.dimension.is_some() {
        wanted.push_str(" AND dimension = $3");
    }
    format!(
        "WITH seen ({names}) AS MATERIALIZED (SELECT * FROM ({}) AS found {newest}),
             wanted AS (SELECT seen.* FROM seen, (SELECT false AS attempting) AS no_call WHERE {wanted}
                 ORDER BY id DESC LIMIT $5)
         SELECT wanted.*, seen_rows, seen_down_to FROM
             (SELECT count(*) AS seen_rows, min(id) AS seen_down_to FROM seen) AS bounds
             LEFT JOIN wanted ON true
         ORDER BY wanted.id DESC",
        parts.join(" UNION ALL ")
    )
}

impl View for PostgresLedger {
    fn record(&self, id: i64) -> StoreFuture<'_, Option<(Whole, Links)>> {
        Box::pin(self.read_record(id))
    }

    fn totals(&self) -> StoreFuture<'_, BTreeMap<String, Totals>> {
        Box::pin(self.read_totals())
    }

    fn summary(&self) -> StoreFuture<'_, Summary> {
        Box::pin(self.read_summary())
    }

    fn page(&self, looked: Looked, limit: usize) -> StoreFuture<'_, Piece<Record, i64>> {
        Box::pin(async move { self.read_page(&looked, limit).await })
    }

    fn audit(&self, before: Option<i64>, limit: usize) -> StoreFuture<'_, Vec<Entry>> {
        Box::pin(self.read_audit(before, limit))
    }

    fn open_slots(&self, looked: Looked, from: From, limit: usize) -> StoreFuture<'_, Piece<OpenSlot, From>> {
        Box::pin(async move { self.read_open_slots(&looked, &from, limit).await })
    }

    /// The database's time decides the hour.
    fn repair(&self, id: i64, repair: Repair, _: Timestamp) -> StoreFuture<'_, Repaired> {
        Box::pin(async move { self.repair_record(id, &repair).await })
    }
}

impl PostgresLedger {
    /// One record with its allocations, and the records that it is linked to.
    async fn read_record(&self, id: i64) -> Result<Option<(Whole, Links)>, LedgerError> {
        let sql = format!(
            "SELECT {COLUMNS}, allocations FROM tollgate.records WHERE id = $1
             UNION ALL SELECT {}, allocations FROM tollgate.settled WHERE id = $1",
            settled_columns()
        );
        let found = self.views.query(&sql, &[(&id, Type::INT8)]).await?;
        let Some(row) = found.first() else { return Ok(None) };
        let whole = rows::whole(row)?;
        let links = self.views.query(LINKS, &[(&id, Type::INT8), (&SHOWN_LINKS_MAX, Type::INT8)]).await?;
        let links = match links.first() {
            Some(row) => Links {
                counts_in: column::<bool>(row, "moved")?.then(|| column(row, "target")).transpose()?,
                includes: column(row, "includes")?,
            },
            None => Links::default(),
        };
        Ok(Some((whole, links)))
    }

    /// The newest of the wanted records.
    async fn read_page(&self, looked: &Looked, limit: usize) -> Result<Piece<Record, i64>, LedgerError> {
        let all = looked.state.is_none() && looked.dimension.is_none();
        let look_at = sql(if all { limit } else { limit.max(LOOKED_AT_MAX) });
        let (before, limit_rows) = (looked.before.unwrap_or(i64::MAX), sql(limit));
        let hour = looked.hour.map(Hour::number);
        let params: [Param<'_>; 6] = [
            (&before, Type::INT8),
            (&looked.customer, Type::TEXT),
            (&looked.dimension, Type::TEXT),
            (&hour, Type::INT8),
            (&limit_rows, Type::INT8),
            (&look_at, Type::INT8),
        ];
        let found = self.views.query(&page_sql(looked), &params).await?;
        let Some(first) = found.first() else { return Ok(Piece { rows: Vec::new(), next: None }) };
        let seen: i64 = column(first, "seen_rows")?;
        let down_to: Option<i64> = column(first, "seen_down_to")?;
        let records: Vec<Record> = if column::<Option<i64>>(first, "id")?.is_some() {
            found.iter().map(rows::record).collect::<Result<_, _>>()?
        } else {
            Vec::new()
        };
        let next = match records.last() {
            Some(last) if records.len() >= limit => Some(last.id),
            _ => down_to.filter(|_| seen >= look_at),
        };
        Ok(Piece { rows: records, next })
    }

    /// The audit's lines, newest first.
    async fn read_audit(&self, before: Option<i64>, limit: usize) -> Result<Vec<Entry>, LedgerError> {
        let (before, limit) = (before.unwrap_or(i64::MAX), sql(limit));
        let lines = self.views.query(AUDIT, &[(&before, Type::INT8), (&limit, Type::INT8)]).await?;
        let entry = |row| {
            Ok(Entry {
                id: column(row, "id")?,
                at: Timestamp::from_unix_millis(column(row, "at")?),
                record: column(row, "record")?,
                action: column(row, "action")?,
                note: column(row, "note")?,
            })
        };
        lines.iter().map(entry).collect()
    }
}
