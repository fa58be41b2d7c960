//! Reading, for people. Each page is one statement, and looks at a bounded number of records.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use tokio_postgres::types::Type;

use crate::PostgresLedger;
use crate::columns::{amount, column, unreadable};
use crate::connect::Param;
use crate::rows::{self, COLUMNS};
use crate::schema::UNTAGGED;
use tollgate_ledger::repair::{Entry, Repair, Repaired};
use tollgate_ledger::store::{StoreFuture, View};
use tollgate_ledger::view::{From, KeyPart, Looked, OpenUsage, Piece, ShownState};
use tollgate_ledger::{LedgerError, Links, SHOWN_LINKS_MAX, Summary, Totals};
use tollgate_marketplace::{Hour, TagSet};
use tollgate_metering::record::{Record, Whole};
use tollgate_time::Timestamp;

/// Records that a page looks at. If few of them are wanted, the page is short, and the next one goes on.
const LOOKED_AT_MAX: usize = 10_000;

/// The customers that the second parameter means: the whole text, or the account, license or identifier in it. Every
/// customer with usage has a row in `accepted`, and there are fewer of these than records.
const CUSTOMERS: &str = "ARRAY(SELECT DISTINCT customer FROM tollgate.accepted
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
    let (names, newest) = (settled_columns(), "ORDER BY id DESC LIMIT $6");
    let mut parts = Vec::new();
    if looked.state.is_none_or(is_unsettled) {
        parts.push(format!("(SELECT {COLUMNS} FROM tollgate.records WHERE {bounds} {newest})"));
    }
    if looked.state.is_none_or(|state| !is_unsettled(state)) {
        parts.push(format!("(SELECT {names} FROM tollgate.settled WHERE {bounds}{day} {newest})"));
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

/// The statement of a piece of open usage. Its parameters: the four columns of the key behind which it begins; then the
/// customer, the dimension, the hour and the limit.
fn open_sql(looked: &Looked) -> String {
    let mut wanted = String::new();
    if looked.customer.is_some() {
        let _ = write!(wanted, " AND customer = ANY({})", CUSTOMERS.replace("$2", "$5"));
    }
    if looked.dimension.is_some() {
        wanted.push_str(" AND dimension = $6");
    }
    if looked.hour.is_some() {
        wanted.push_str(" AND hour = $7");
    }
    // The untagged share of tagged usage is left out if it is nothing.
    format!(
        "SELECT hour, customer, dimension, tags_key, min(tags) AS tags, sum(amount + additive)::text AS amount,
             min(late_from) AS late_from
         FROM tollgate.sums
         WHERE (hour, customer, dimension) >= ($1, $2, $3)
             AND (hour, customer, dimension, tags_key) > ($1, $2, $3, $4){wanted}
         GROUP BY hour, customer, dimension, tags_key
         HAVING sum(amount + additive) <> 0 OR tags_key <> '' OR NOT EXISTS (
             SELECT 1 FROM tollgate.sums AS tagged
             WHERE tagged.hour = sums.hour AND tagged.customer = sums.customer AND tagged.dimension = sums.dimension
                 AND tagged.tags_key <> '')
         ORDER BY hour, customer, dimension, tags_key LIMIT $8"
    )
}

/// The key behind which a piece of open usage begins.
fn key(from: &From) -> (i64, String, String, Vec<u8>) {
    let read = |from: &From| {
        let From::Key(parts) = from else { return None };
        let [
            KeyPart::Number(hour),
            KeyPart::Bytes(customer),
            KeyPart::Bytes(dimension),
            KeyPart::Bytes(tags),
        ] = parts.as_slice()
        else {
            return None;
        };
        let text = |bytes: &Vec<u8>| String::from_utf8(bytes.clone()).ok();
        Some((*hour, text(customer)?, text(dimension)?, tags.clone()))
    };
    // Another engine's place, from before a move, means nothing here.
    read(from).unwrap_or((i64::MIN, String::new(), String::new(), Vec::new()))
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

    fn open_usage(
        &self,
        looked: Looked,
        from: From,
        limit: usize,
    ) -> StoreFuture<'_, Piece<OpenUsage, From>> {
        Box::pin(async move { self.read_open_usage(&looked, &from, limit).await })
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

    /// Usage that is not sealed, by hour, customer and dimension.
    async fn read_open_usage(
        &self,
        looked: &Looked,
        from: &From,
        limit: usize,
    ) -> Result<Piece<OpenUsage, From>, LedgerError> {
        let (hour, customer, dimension, tags) = key(from);
        let (wanted_hour, limit_rows) = (looked.hour.map(Hour::number), sql(limit));
        let params: [Param<'_>; 8] = [
            (&hour, Type::INT8),
            (&customer, Type::TEXT),
            (&dimension, Type::TEXT),
            (&tags, Type::BYTEA),
            (&looked.customer, Type::TEXT),
            (&looked.dimension, Type::TEXT),
            (&wanted_hour, Type::INT8),
            (&limit_rows, Type::INT8),
        ];
        let found = self.views.query(&open_sql(looked), &params).await?;
        let mut usage = Vec::with_capacity(found.len());
        for row in &found {
            let tags: String = column(row, "tags")?;
            let tags = if tags == UNTAGGED {
                TagSet::default()
            } else {
                serde_json::from_str(&tags).map_err(|_| unreadable("tags"))?
            };
            usage.push(OpenUsage {
                hour: Hour::from_number(column(row, "hour")?),
                customer: column(row, "customer")?,
                dimension: column(row, "dimension")?,
                tags,
                micros: amount(row, "amount")?,
                late_from: column::<Option<i64>>(row, "late_from")?.map(Hour::from_number),
            });
        }
        let next = match found.last() {
            Some(row) if found.len() >= limit => {
                let bytes = |name| column::<String>(row, name).map(|text| KeyPart::Bytes(text.into_bytes()));
                Some(From::Key(vec![
                    KeyPart::Number(column(row, "hour")?),
                    bytes("customer")?,
                    bytes("dimension")?,
                    KeyPart::Bytes(column(row, "tags_key")?),
                ]))
            }
            _ => None,
        };
        Ok(Piece { rows: usage, next })
    }
}
