//! Reads records.

use tokio_postgres::Row;

use crate::connect::Failed;
use tollgate_ledger::stored;
use tollgate_marketplace::{Customer, Hour, Quantity};
use tollgate_metering::record::{Record, RecordState, Whole};
use tollgate_time::Timestamp;

/// The columns of `records` that [`record`] reads, in its order.
pub(crate) const COLUMNS: &str = "id, customer, dimension, hour, micros, decimal, timestamp, client_token, late_from, \
     state, in_doubt OR attempting, unconfirmed, attempts, code, metering_record_id, sealed_at, updated_at, \
     allocation_count, region, raw::text, rounded::text";

/// The first column after [`COLUMNS`].
pub(crate) const BEHIND: usize = 21;

/// Reads a row of [`COLUMNS`].
pub(crate) fn record(row: &Row) -> Result<Record, Failed> {
    let id: i64 = row.get(0);
    let unreadable = |what: &str| Failed {
        text: format!("record {id} has {what}: it was changed by another program"),
        code: None,
        broken: false,
    };
    let quantity = u64::try_from(row.get::<_, i64>(4)).ok().and_then(Quantity::from_micros);
    let amount = |column: usize| -> Result<Option<i128>, Failed> {
        let text: Option<&str> = row.get(column);
        text.map(|text| text.parse().map_err(|_| unreadable("no amount"))).transpose()
    };
    let late_from: Option<i64> = row.get(8);
    let region: Option<&str> = row.get(18);
    Ok(Record {
        id,
        pod: String::new(),
        customer: Customer::from_canonical(row.get(1)).ok_or_else(|| unreadable("no customer"))?,
        dimension: row.get(2),
        hour: Hour::from_number(row.get(3)),
        quantity: quantity.ok_or_else(|| unreadable("a quantity that AWS does not take"))?,
        raw: amount(19)?.unwrap_or_else(|| row.get::<_, i64>(4).into()),
        rounded: amount(20)?.unwrap_or_default(),
        decimal: row.get(5),
        timestamp: Timestamp::from_unix_millis(row.get(6)),
        client_token: row.get(7),
        late_from: late_from.map(Hour::from_number),
        state: RecordState::of(row.get(9), row.get(10), row.get(11))
            .ok_or_else(|| unreadable("an unknown state"))?,
        attempts: row.get(12),
        code: row.get(13),
        metering_record_id: row.get(14),
        sealed_at: Timestamp::from_unix_millis(row.get(15)),
        updated_at: Timestamp::from_unix_millis(row.get(16)),
        allocation_count: usize::try_from(row.get::<_, i32>(17))
            .map_err(|_| unreadable("a count below zero"))?,
        region: region.map(str::parse).transpose().map_err(|_| unreadable("an unknown region"))?,
    })
}

/// Reads a row of [`COLUMNS`] and the allocations.
pub(crate) fn whole(row: &Row) -> Result<Whole, Failed> {
    let record = record(row)?;
    let unreadable = |_| Failed {
        text: format!(
            "record {} has allocations that cannot be read: it was changed by another program",
            record.id
        ),
        code: None,
        broken: false,
    };
    let allocations = stored::allocations(row.get(BEHIND)).map_err(unreadable)?;
    Ok(Whole { record, allocations })
}
