//! The balance and the figures of the ledger.

use std::collections::BTreeMap;

use crate::PostgresLedger;
use crate::columns::{amount, column};
use tokio_postgres::Row;
use tollgate_ledger::{LedgerError, Summary, Totals};
use tollgate_time::Timestamp;

/// Every dimension's balance. One statement: it sees one moment. What is billed without AWS's confirmation is in
/// `outcome` already. The maximum of an open slot is that of its writers, and is not in `accepted` yet. A credit has no
/// place in the balance.
pub(crate) const BALANCE: &str = "SELECT dimension, sum(accepted)::text AS accepted, sum(rounded_up)::text AS rounded_up,
        sum(billed)::text AS billed, sum(pending)::text AS pending, sum(dead)::text AS dead,
        sum(discarded)::text AS discarded, sum(remainder)::text AS remainder
    FROM (
        SELECT dimension, sum(amount) AS accepted, 0 AS rounded_up, 0 AS billed, 0 AS pending, 0 AS dead,
            0 AS discarded, 0 AS remainder
        FROM tollgate.accepted GROUP BY dimension
        UNION ALL SELECT dimension, 0, sum(rounded_up), sum(billed), 0, 0, sum(discarded), 0
        FROM tollgate.outcome GROUP BY dimension
        UNION ALL SELECT dimension, 0, 0, 0, sum(amount + additive), 0, 0, 0 FROM tollgate.sums GROUP BY dimension
        UNION ALL SELECT dimension, sum(peak), 0, 0, sum(peak), 0, 0, 0
        FROM (SELECT dimension, max(peak) AS peak FROM tollgate.sums WHERE peak IS NOT NULL
              GROUP BY hour, customer, dimension) AS slot GROUP BY dimension
        UNION ALL SELECT dimension, 0, 0, 0,
            coalesce(sum(coalesce(raw, micros)) FILTER (WHERE state = 'sealed'), 0),
            coalesce(sum(coalesce(raw, micros)) FILTER (WHERE state = 'dead'), 0), 0, 0
        FROM tollgate.records GROUP BY dimension
        UNION ALL SELECT dimension, 0, 0, 0, 0, 0, 0, sum(amount)
        FROM tollgate.remainders WHERE amount > 0 GROUP BY dimension) AS part
    GROUP BY dimension";

/// The figures. `records` holds few rows but the unsent ones.
const SUMMARY: &str = "SELECT
    (SELECT count(*) FROM tollgate.records WHERE state = 'sealed') AS unsent,
    (SELECT min(timestamp) FROM tollgate.records WHERE state = 'sealed') AS oldest,
    (SELECT count(*) FROM tollgate.records WHERE state = 'dead') AS dead,
    (SELECT coalesce(sum(pg_table_size(oid) + pg_indexes_size(oid)), 0)::bigint FROM pg_catalog.pg_class
     WHERE relnamespace = to_regnamespace('tollgate') AND relkind = 'r') AS bytes";

/// Reads the rows of [`BALANCE`]; dimensions without any amount are left out.
pub(crate) fn balance(rows: &[Row]) -> Result<BTreeMap<String, Totals>, LedgerError> {
    let mut all = BTreeMap::new();
    for row in rows {
        let totals = Totals {
            accepted: amount(row, "accepted")?,
            rounded_up: amount(row, "rounded_up")?,
            billed: amount(row, "billed")?,
            pending: amount(row, "pending")?,
            dead: amount(row, "dead")?,
            discarded: amount(row, "discarded")?,
            remainder: amount(row, "remainder")?,
        };
        if totals != Totals::default() {
            all.insert(column(row, "dimension")?, totals);
        }
    }
    Ok(all)
}

impl PostgresLedger {
    /// Each dimension's balance.
    pub(crate) async fn read_totals(&self) -> Result<BTreeMap<String, Totals>, LedgerError> {
        balance(&self.views.query(BALANCE, &[]).await?)
    }

    /// The ledger's figures.
    pub(crate) async fn read_summary(&self) -> Result<Summary, LedgerError> {
        let rows = self.views.query(SUMMARY, &[]).await?;
        let Some(row) = rows.first() else { return Ok(Summary::default()) };
        let count = |name| column::<i64>(row, name).map(|count| u64::try_from(count).unwrap_or_default());
        Ok(Summary {
            unsent: count("unsent")?,
            oldest_unsent: column::<Option<i64>>(row, "oldest")?.map(Timestamp::from_unix_millis),
            dead: count("dead")?,
            bytes: count("bytes")?,
        })
    }
}
