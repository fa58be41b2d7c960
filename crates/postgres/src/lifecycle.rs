//! What AWS Marketplace says about licenses, and reports before an hour's end; see `lifecycle` of `tollgate-ledger`.
//!
//! - Any replica notes an event. If it changes which usage counts, that happens under the exclusive lock of all hours,
//!   and the ledger's version grows: each replica looks licenses up again before it counts its next group.
//! - Any replica closes a customer's hours early (`closed_early`), under the exclusive lock of each: what was counted
//!   to an hour before is committed then, and what comes later counts to the next hour. The replica that leads seals
//!   the usage at its next look and notes in `ledger.flushed` how far it is; the one that closed the hours waits for
//!   that.

use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use crate::carrying::{self, Columns, Slot};
use crate::connect::{Failed, Link, Transaction};
use crate::lease::{BY_INDEX, Leader};
use crate::schema::{ALL_HOURS, LICENSES, LOCKS};
use tollgate_clock as clock;
use tollgate_ledger::lifecycle::{EVENTS_MAX, FIRST, FORGOTTEN_AT_ONCE, HOURS_MAX, LICENSES_MAX};
use tollgate_ledger::{Flushed, LedgerError};
use tollgate_marketplace::Hour;
use tollgate_marketplace::lifecycle::{
    Effect, FINAL_WINDOW, LicenseState, LifecycleEvent, NamedLicense, News,
};
use tollgate_time::Timestamp;

/// How long a flush may take. If the replica that leads was lost, another one may need longer to take over.
const FLUSH_MAX: Duration = Duration::from_secs(8);

/// How often a flush looks whether the replica that leads has sealed the usage.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long a step waits for the lock of an hour, or of all: meanwhile new groups of events wait too. The next attempt
/// follows after a pause.
pub(crate) const LOCK_WAIT: [Duration; 4] = [
    Duration::from_millis(75),
    Duration::from_millis(150),
    Duration::from_millis(300),
    Duration::from_millis(1000),
];

pub(crate) const LOCK_PAUSE: Duration = Duration::from_millis(300);

/// The state of each of these licenses that is known: the license, and the columns that [`state`] reads.
pub(crate) const STATES: &str =
    "SELECT license, event_at, deprovisioned_at FROM tollgate.licenses WHERE license = ANY ($1)";

/// Reads a row of [`STATES`].
pub(crate) fn state(row: &Row) -> LicenseState {
    let ended: Option<i64> = row.get(2);
    LicenseState {
        event_at: Timestamp::from_unix_millis(row.get(1)),
        deprovisioned_at: ended.map(Timestamp::from_unix_millis),
    }
}

/// Whether an event of this id was processed.
pub(crate) async fn knows_event(link: &Link, id: &str) -> Result<bool, LedgerError> {
    let sql = "SELECT 1 FROM tollgate.marketplace_events WHERE id = $1";
    Ok(!link.query(sql, &[(&id, Type::TEXT)]).await?.is_empty())
}

/// What is known about a license.
pub(crate) async fn license(link: &Link, license: &str) -> Result<Option<LicenseState>, LedgerError> {
    Ok(link.query(STATES, &[(&[license].as_slice(), Type::TEXT_ARRAY)]).await?.first().map(state))
}

/// Licenses that ended less than AWS's final window ago.
pub(crate) async fn ending(link: &Link, now: Timestamp) -> Result<Vec<NamedLicense>, LedgerError> {
    const ENDING: &str = "SELECT license, account, agreement FROM tollgate.licenses WHERE deprovisioned_at > $1 ORDER BY license";
    let since = now.minus(FINAL_WINDOW).unix_millis();
    let rows = link.query(ENDING, &[(&since, Type::INT8)]).await?;
    let named = |row: &Row| NamedLicense { license: row.get(0), account: row.get(1), agreement: row.get(2) };
    Ok(rows.iter().map(named).collect())
}

/// Notes an event and what it says about a license, in one transaction.
pub(crate) async fn note_event(
    link: &Link,
    event: &LifecycleEvent,
    now: Timestamp,
) -> Result<Effect, LedgerError> {
    if event.news == News::Nothing {
        return Ok(Effect::Ignored);
    }
    let noting = link.begin().await?;
    // Two events about a license are judged one after the other.
    noting.batch(&format!("SELECT pg_advisory_xact_lock({LOCKS}, {LICENSES})")).await?;
    if noting.query("SELECT 1 FROM tollgate.ledger WHERE state = 'ready'", &[]).await?.is_empty() {
        noting.rollback().await?;
        let text =
            "the database receives a ledger that is being moved; send the event again when the move is done";
        return Err(LedgerError::Io(text.to_owned()));
    }
    const NOTE: &str =
        "INSERT INTO tollgate.marketplace_events (id, seen_at) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    let noted = noting.execute(NOTE, &[(&event.id, Type::TEXT), (&now.unix_millis(), Type::INT8)]).await?;
    if noted == 0 {
        noting.rollback().await?;
        return Ok(Effect::Repeated);
    }
    forget(&noting, "marketplace_events", "id", "seen_at", EVENTS_MAX).await?;
    let effect = match &event.news {
        News::LicenseUpdated(license) => decide(&noting, license, event.at, false).await?,
        News::LicenseDeprovisioned(license) => decide(&noting, license, event.at, true).await?,
        News::AgreementEnded { .. } | News::Nothing => Effect::Ended,
    };
    noting.commit_as("lifecycle").await?;
    Ok(effect)
}

async fn decide(
    noting: &Transaction<'_>,
    named: &NamedLicense,
    at: Timestamp,
    deprovisioned: bool,
) -> Result<Effect, Failed> {
    let known =
        noting.query(STATES, &[(&[&named.license].as_slice(), Type::TEXT_ARRAY)]).await?.first().map(state);
    let Some(state) = LicenseState::after(known, at, deprovisioned) else { return Ok(Effect::Outdated) };
    let changes = known.and_then(|known| known.deprovisioned_at) != state.deprovisioned_at;
    if changes {
        // No replica counts usage with the old knowledge while this changes.
        let wait = LOCK_WAIT[LOCK_WAIT.len() - 1].as_millis();
        let lock = format!(
            "SET LOCAL lock_timeout = '{wait}ms'; SELECT pg_advisory_xact_lock({LOCKS}, {ALL_HOURS}); \
             SET LOCAL lock_timeout = '5s'"
        );
        noting.batch(&lock).await?;
    }
    const NOTE: &str =
        "INSERT INTO tollgate.licenses (license, account, agreement, event_at, deprovisioned_at)
        VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (license) DO UPDATE SET account = excluded.account, agreement = excluded.agreement,
            event_at = excluded.event_at, deprovisioned_at = excluded.deprovisioned_at";
    noting
        .execute(
            NOTE,
            &[
                (&named.license, Type::TEXT),
                (&named.account, Type::TEXT),
                (&named.agreement, Type::TEXT),
                (&state.event_at.unix_millis(), Type::INT8),
                (&state.deprovisioned_at.map(Timestamp::unix_millis), Type::INT8),
            ],
        )
        .await?;
    forget(noting, "licenses", "license", "event_at", LICENSES_MAX).await?;
    if changes {
        noting.batch("UPDATE tollgate.ledger SET version = version + 1").await?;
    }
    Ok(if deprovisioned { Effect::Deprovisioned } else { Effect::Active })
}

/// Deletes the oldest rows of a table that has more than `most`.
async fn forget(
    noting: &Transaction<'_>,
    table: &str,
    key: &str,
    time: &str,
    most: u64,
) -> Result<(), Failed> {
    noting
        .batch(&format!(
            "DELETE FROM tollgate.{table} WHERE {key} IN (SELECT {key} FROM tollgate.{table} ORDER BY {time} LIMIT least(
                 {FORGOTTEN_AT_ONCE}, greatest(0, (SELECT count(*) FROM tollgate.{table}) - {most})))"
        ))
        .await
}

/// Seals all usage of these customers in the open hour and before it, and lets their records be sent first.
pub(crate) async fn flush(
    link: &Link,
    leader: &Leader,
    customers: &[String],
) -> Result<Flushed, LedgerError> {
    let until = clock::monotonic() + FLUSH_MAX;
    let mut attempts = 0;
    let closing = loop {
        let wait = LOCK_WAIT[attempts.min(LOCK_WAIT.len() - 1)];
        if let Some(closing) = close(link, customers, leader.settings.settle, wait).await? {
            break closing;
        }
        if clock::monotonic() > until {
            return Err(LedgerError::Io(format!(
                "usage was counted to the hour without a pause for {} s, so it could not be closed; nothing was done, ask \
                 again",
                FLUSH_MAX.as_secs()
            )));
        }
        attempts += 1;
        tokio::time::sleep(LOCK_PAUSE).await;
    };
    if closing.slots.is_empty() {
        return Ok(Flushed::default());
    }
    while flushed(link).await? < closing.version {
        if clock::monotonic() > until {
            return Err(LedgerError::Io(format!(
                "the replica that seals and sends has not sealed the usage within {} s; it will when one leads, and usage \
                 of now counts to the next hour already; `ledger list` and GET /v1/records show the records then",
                FLUSH_MAX.as_secs()
            )));
        }
        match leader.seal().await {
            Ok(sealing) if sealing.more => {}
            Ok(_) | Err(LedgerError::NotLeading) => tokio::time::sleep(LOOK_EVERY).await,
            Err(error) => return Err(error),
        }
    }
    Ok(Flushed { records: records(leader, &closing.slots).await?, more: false })
}

async fn flushed(link: &Link) -> Result<i64, LedgerError> {
    let rows = link.query("SELECT flushed FROM tollgate.ledger", &[]).await?;
    Ok(rows.first().map_or(i64::MAX, |row| row.get(0)))
}

/// What a flush has closed.
struct Closing {
    /// The slots that the leading replica seals.
    slots: Vec<Slot>,
    /// When `ledger.flushed` is this, it has.
    version: i64,
}

/// The open hours in which one of the customers has usage, and which are not closed for it.
const OPEN: &str = "SELECT DISTINCT hour FROM tollgate.ledger,
        LATERAL (SELECT tollgate.ledger_now() / 3600000 AS present) AS time,
        generate_series(greatest(ledger.closed + 1, present - $2), present) AS hour, unnest($1::text[]) AS customer
    WHERE EXISTS (SELECT 1 FROM tollgate.sums WHERE sums.hour = hour.hour AND sums.customer = customer.customer LIMIT 1)
        AND NOT EXISTS (SELECT 1 FROM tollgate.closed_early AS early
            WHERE early.hour = hour.hour AND early.customer = customer.customer)
    ORDER BY hour";

const LOCK: &str =
    "SELECT pg_advisory_xact_lock($1, hour::int) FROM unnest($2::bigint[]) AS hour ORDER BY hour";

/// Where no replica leads, an hour may be open here that the clock has closed already: intake counts its late usage to
/// the current hour.
const CLOSE: &str = "INSERT INTO tollgate.closed_early (customer, hour, in_time)
    SELECT customer, hour, hour >= (tollgate.ledger_now() - $3) / 3600000
    FROM tollgate.ledger, unnest($1::text[]) AS customer, unnest($2::bigint[]) AS hour
    WHERE hour > ledger.closed
        AND EXISTS (SELECT 1 FROM tollgate.sums WHERE sums.hour = hour.hour AND sums.customer = customer.customer LIMIT 1)
    ON CONFLICT DO NOTHING";

/// Usage of these customers in hours that are closed early.
const SLOTS: &str = "SELECT DISTINCT sums.hour, sums.customer, sums.dimension
    FROM tollgate.ledger JOIN tollgate.closed_early AS early ON early.hour > ledger.closed
        JOIN tollgate.sums ON sums.hour = early.hour AND sums.customer = early.customer
    WHERE early.customer = ANY ($1)";

/// A record that is locked is being sent. Records that wait for a later try keep their pause.
const SEND_FIRST: &str = "UPDATE tollgate.records SET due_at = $2 WHERE id = ANY (ARRAY (
        SELECT id FROM tollgate.records
        WHERE customer = ANY ($1) AND state = 'sealed' AND due_at >= 0 AND due_at <= tollgate.ledger_now()
        FOR UPDATE SKIP LOCKED))";

/// Closes the customers' hours; `None` if the locks cannot be had now.
async fn close(
    link: &Link,
    customers: &[String],
    settle: Duration,
    wait: Duration,
) -> Result<Option<Closing>, LedgerError> {
    let transaction = link.begin().await?;
    match close_in(&transaction, customers, settle, wait).await {
        Ok(closing) => {
            transaction.commit_as("flush").await?;
            Ok(Some(closing))
        }
        Err(failed) if is_in_the_way(&failed) => {
            transaction.rollback().await?;
            Ok(None)
        }
        Err(failed) => Err(failed.into()),
    }
}

fn is_in_the_way(failed: &Failed) -> bool {
    let codes = [SqlState::LOCK_NOT_AVAILABLE, SqlState::T_R_DEADLOCK_DETECTED];
    failed.code.as_ref().is_some_and(|code| codes.contains(code))
}

async fn close_in(
    transaction: &Transaction<'_>,
    customers: &[String],
    settle: Duration,
    wait: Duration,
) -> Result<Closing, Failed> {
    let settings = format!("{BY_INDEX}; SET LOCAL lock_timeout = '{}ms'", wait.as_millis());
    transaction.batch(&settings).await?;
    let whose = (&customers as _, Type::TEXT_ARRAY);
    let open = transaction.query(OPEN, &[whose.clone(), (&HOURS_MAX, Type::INT8)]).await?;
    let hours: Vec<i64> = open.iter().map(|row| row.get(0)).collect();
    let mut closed = 0;
    if !hours.is_empty() {
        transaction.query(LOCK, &[(&LOCKS, Type::INT4), (&hours, Type::INT8_ARRAY)]).await?;
        let settle = i64::try_from(settle.as_millis()).unwrap_or(i64::MAX);
        closed = transaction
            .execute(CLOSE, &[whose.clone(), (&hours, Type::INT8_ARRAY), (&settle, Type::INT8)])
            .await?;
    }
    let step = i64::from(closed > 0);
    let version = if closed > 0 {
        "UPDATE tollgate.ledger SET version = version + $1 RETURNING version"
    } else {
        "SELECT version + $1 FROM tollgate.ledger"
    };
    let version = transaction.query(version, &[(&step, Type::INT8)]).await?;
    let version = version.first().map_or(0, |row| row.get(0));
    let found = transaction.query(SLOTS, std::slice::from_ref(&whose)).await?;
    let slot =
        |row: &Row| Slot { hour: Hour::from_number(row.get(0)), customer: row.get(1), dimension: row.get(2) };
    let mut slots: Vec<Slot> = found.iter().map(slot).collect();
    // Usage beside a record is carried to another hour.
    let taken = carrying::taken(transaction, &slots.iter().collect()).await?;
    let mut places = 0..;
    slots.retain(|_| places.next().is_none_or(|place| !taken.contains(&place)));
    transaction.execute(SEND_FIRST, &[whose, (&FIRST, Type::INT8)]).await?;
    Ok(Closing { slots, version })
}

/// The records of these slots. Some may be answered already.
async fn records(leader: &Leader, slots: &[Slot]) -> Result<Vec<i64>, LedgerError> {
    const RECORDS: &str = "WITH slot AS MATERIALIZED (
            SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[]) AS slot (hour, customer, dimension))
        SELECT id FROM slot JOIN tollgate.records USING (hour, customer, dimension)
        UNION ALL
        SELECT id FROM slot JOIN tollgate.settled USING (hour, customer, dimension)
            WHERE settled.day = ANY ($4) AND settled.day = slot.hour / 24
        ORDER BY id";
    let columns: Columns<'_> = slots.iter().collect();
    let days: Vec<i32> = slots.iter().map(|slot| carrying::day(slot.hour)).collect();
    let params = [
        (&columns.hours as _, Type::INT8_ARRAY),
        (&columns.customers as _, Type::TEXT_ARRAY),
        (&columns.dimensions as _, Type::TEXT_ARRAY),
        (&days as _, Type::INT4_ARRAY),
    ];
    Ok(leader.read(RECORDS, &params).await?.iter().map(|row| row.get(0)).collect())
}
