//! The SQL of each schema version. A released schema never changes: a migration makes the next one, and only adds, so
//! that replicas of the version before go on working while the new version is rolled out.
//!
//! # Schema 1
//! All tables are in the schema `tollgate`. Hours are numbers since the epoch, times are milliseconds since the epoch,
//! amounts are millionths of the event's own unit (except `records.micros`: of the dimension's), customers are
//! `Customer::canonical()`, tags are `TagSet::canonical()`. Text keys are compared by their bytes (`COLLATE "C"`).
//!
//! - `ledger`: one row. `closed` is the latest hour that is closed for all usage; `version` grows with every change of
//!   where usage counts (a closed hour, a flush, an identity, a license that ended). Who changes it holds the exclusive
//!   lock of each hour that the change is about; intake holds the shared one and checks the version.
//! - `writers`: one row for each engine that takes usage. `session` grows with each of its connections, `last_group`
//!   with each of its commits.
//! - `lease`: one row, `sender`: which replica seals and sends.
//! - `keys`: idempotency keys. `hash` is 16 bytes, `content` 8, as in SQLite's ledger. `hour` is when it was claimed.
//! - `sums`: open usage; each writer has rows of its own, and adds to no other's. `tags_key` is [`tags_key`] of `tags`:
//!   tags may be longer than an index takes. `amount` is the sum of the events, `additive` what was carried or replayed
//!   into it. `peak` is the largest event by a rule of `max`, whose `amount` is 0: the slot's maximum is that of its
//!   writers' peaks, and is added to `accepted` when the slot is sealed or carried.
//! - `rules`: the rule (`Rule`'s text) with which the hour's usage of a dimension began, in open hours and a little
//!   longer. Written before the first event of the hour is counted, whatever the rule: replicas that are configured
//!   differently count by one.
//! - `remainders`: what stays of sealed hours for the next one, of a customer, a dimension and a scale (in millionths):
//!   above 0 a remainder, below 0 a credit (`Sent::kept`). Only the holder of the lease changes it.
//! - `accepted`: what acknowledged usage ever added to its slots, also by writer; of a slot with a peak only when it is
//!   sealed or carried.
//! - `outcome`: all usage ever billed and discarded, and what rounding ever added.
//! - `records`: sealed hours without a final answer: sealed, dead, and billed without AWS's confirmation. `raw` is the
//!   quantity in the event's own unit if that is another one, `rounded` what rounding added to it, less credits.
//! - `settled`: the other records, by day, for 100 days. `daily`: what they add up to, for 400 days.
//! - `forms`, `identities`: as in SQLite's ledger (its `forms`).
//! - `closed_early`: a flush closed this customer's hour before the hour was closed for all; later usage of it counts
//!   in the next hour. Any replica writes it, and the one that leads seals the usage. `ledger.flushed` is the `version`
//!   up to which it has. `in_time`: the hour's end and `settle` had not passed, so that later usage would still have
//!   counted to it. It had passed if no replica led at that time.
//! - `licenses`: the latest event about each license that AWS Marketplace named. `marketplace_events`: the events that
//!   were processed. Both as in SQLite's ledger.
//! - `links`: which record's quantity was carried or replayed into which slot, later record (as SQLite's `links`).
//! - `audit`: what people did to records.

use std::time::Duration;

use ring::digest;
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio_postgres::types::Type;

use tollgate_marketplace::Hour;
use tollgate_time::Timestamp;

use crate::connect::{Failed, Fault, Session};

/// The change from the schema before, or from nothing for the first one.
pub(crate) struct Migration {
    pub(crate) sql: &'static [&'static str],
    /// The schema of the oldest program that may use the result.
    pub(crate) min_reader: i32,
}

pub(crate) const MIGRATIONS: [Migration; 1] =
    [Migration { sql: &[include_str!("schema_1.sql"), include_str!("take.sql")], min_reader: 1 }];

/// The schema that this program writes.
pub(crate) const SCHEMA: i32 = MIGRATIONS.len() as i32;

/// First part of the advisory locks' keys, so that other users of the database have others. Only transaction locks are
/// used: a pooler may give each transaction another session.
pub(crate) const LOCKS: i32 = 0x746f_6c6c;

/// Second part of the key: held while the schema is created or changed.
pub(crate) const MIGRATING: i32 = -1;

/// Second part of the key: facts about all hours, such as the identities. Every other second part is an hour's number.
pub(crate) const ALL_HOURS: i32 = 0;

/// Second part of the key: held while an event about a license is judged.
pub(crate) const LICENSES: i32 = -2;

/// A writer that never takes events. Usage that is carried, replayed or moved is added to its rows.
pub(crate) const NO_WRITER: i64 = 0;

/// The key of a set of tags in `sums`: empty for untagged usage, otherwise 16 bytes of the text's hash.
pub(crate) fn tags_key(canonical: &str) -> Vec<u8> {
    if canonical == UNTAGGED {
        return Vec::new();
    }
    digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref()[..16].to_vec()
}

/// `tags` of untagged usage: the empty set's canonical text.
pub(crate) const UNTAGGED: &str = "{}";

/// What a ledger must be for this process to use it, and what a new one gets.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    pub(crate) product: String,
    pub(crate) settle: Duration,
}

/// What the database holds under our name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    /// A ledger of this schema.
    Ledger {
        schema: i32,
        min_reader: i32,
    },
    /// Another program's tables.
    Foreign,
}

/// Checks the schema; makes or upgrades it if needed.
pub(crate) async fn check(session: &Session, expected: &Expected) -> Result<(), Fault> {
    let mut found = find(session).await?;
    if !matches!(found, Found::Ledger { schema, .. } if schema >= SCHEMA) {
        refuse(session, found)?;
        found = migrate(session, expected).await?;
    }
    refuse(session, found)?;
    adopt_product(session, expected).await
}

/// What is there, if this program may use it; changes nothing.
pub(crate) async fn look(session: &Session) -> Result<Found, Fault> {
    let found = find(session).await?;
    refuse(session, found)?;
    Ok(found)
}

/// Checks that there is a ledger that this program can read, and changes nothing.
pub(crate) async fn check_readable(session: &Session) -> Result<(), Fault> {
    match find(session).await? {
        Found::Nothing => Err(Fault::Lasting(format!(
            "{} holds no ledger yet: the first replica makes it at its start",
            session.name()
        ))),
        found => refuse(session, found),
    }
}

fn refuse(session: &Session, found: Found) -> Result<(), Fault> {
    let name = session.name();
    match found {
        Found::Foreign => Err(Fault::Lasting(format!(
            "{name} has a schema \"tollgate\" that is not a ledger; give the ledger a database of its own (nothing was \
             written)"
        ))),
        Found::Ledger { min_reader, .. } if min_reader > SCHEMA => Err(Fault::Lasting(format!(
            "{name} needs tollgate-saas with ledger schema {min_reader} or newer, this one has {SCHEMA}; use the newer \
             version"
        ))),
        Found::Ledger { .. } | Found::Nothing => Ok(()),
    }
}

async fn find(session: &Session) -> Result<Found, Failed> {
    const LOOK: &str = "SELECT
        (SELECT count(*) FROM pg_attribute WHERE attrelid = to_regclass('tollgate.ledger')
            AND attname IN ('schema', 'min_reader', 'ledger_id', 'closed') AND NOT attisdropped),
        EXISTS (SELECT 1 FROM pg_class WHERE relnamespace = to_regnamespace('tollgate')),
        EXISTS (SELECT 1 FROM pg_proc WHERE pronamespace = to_regnamespace('tollgate'))";
    let rows = session.query(LOOK, &[]).await?;
    let (columns, tables, functions): (i64, bool, bool) = (rows[0].get(0), rows[0].get(1), rows[0].get(2));
    if columns != 4 {
        return Ok(if tables || functions { Found::Foreign } else { Found::Nothing });
    }
    let rows = session.query("SELECT schema, min_reader FROM tollgate.ledger", &[]).await?;
    Ok(rows
        .first()
        .map_or(Found::Foreign, |row| Found::Ledger { schema: row.get(0), min_reader: row.get(1) }))
}

/// Makes the ledger, or brings it to this program's schema, in one transaction. Several replicas may try at once: one
/// does it, and the others find it done.
async fn migrate(session: &Session, expected: &Expected) -> Result<Found, Fault> {
    session.batch("BEGIN; SET LOCAL lock_timeout = '10s'").await?;
    let lock = format!("SELECT pg_advisory_xact_lock({LOCKS}, {MIGRATING})");
    session.batch(&lock).await?;
    // The schema may have been made while this waited.
    let found = find(session).await?;
    refuse(session, found)?;
    let held = match found {
        Found::Ledger { schema, .. } => schema,
        Found::Nothing | Found::Foreign => 0,
    };
    let Some(to_do) = usize::try_from(held).ok().and_then(|held| MIGRATIONS.get(held..)) else {
        session.batch("COMMIT").await?;
        return Ok(found);
    };
    if held == 0 {
        // `CREATE SCHEMA IF NOT EXISTS` would need the right to create schemas even if an administrator has made it.
        let exists = session.query("SELECT to_regnamespace('tollgate') IS NOT NULL", &[]).await?;
        if !exists[0].get::<_, bool>(0) {
            session.batch("CREATE SCHEMA tollgate").await?;
        }
    }
    for migration in to_do {
        for sql in migration.sql {
            session.batch(sql).await?;
        }
    }
    let min_reader = MIGRATIONS[MIGRATIONS.len() - 1].min_reader;
    if held == 0 {
        begin(session, expected).await?;
    } else {
        let params = [(&SCHEMA as _, Type::INT4), (&min_reader as _, Type::INT4)];
        session.execute("UPDATE tollgate.ledger SET schema = $1, min_reader = $2", &params).await?;
    }
    session.batch("COMMIT").await?;
    tracing::info!(
        event = "ledger_schema",
        database = session.name(),
        from = held,
        to = SCHEMA,
        "the ledger's schema was made or upgraded"
    );
    Ok(Found::Ledger { schema: SCHEMA, min_reader })
}

/// Writes the row of a new ledger.
async fn begin(session: &Session, expected: &Expected) -> Result<(), Fault> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Fault::Transient("no random bytes".to_owned()))?;
    let ledger_id: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let now = session.query("SELECT tollgate.ledger_now()", &[]).await?;
    let now: i64 = now[0].get(0);
    let closed = Hour::latest_closed(Timestamp::from_unix_millis(now), expected.settle).number();
    let params = [
        (&SCHEMA as _, Type::INT4),
        (&MIGRATIONS[MIGRATIONS.len() - 1].min_reader as _, Type::INT4),
        (&ledger_id as _, Type::TEXT),
        (&expected.product as _, Type::TEXT),
        (&now as _, Type::INT8),
        (&closed as _, Type::INT8),
    ];
    const MAKE: &str =
        "INSERT INTO tollgate.ledger (schema, min_reader, ledger_id, product, started_at, closed)
        VALUES ($1, $2, $3, $4, $5, $6)";
    session.execute(MAKE, &params).await?;
    Ok(())
}

/// Notes the metered product. Refuses a ledger with unsent usage of another one.
async fn adopt_product(session: &Session, expected: &Expected) -> Result<(), Fault> {
    // Under the lock nobody counts usage of the earlier product; whoever does afterwards finds another version. What
    // stayed of the earlier product's hours is never billed.
    const ADOPT: &str = "WITH adopted AS (UPDATE tollgate.ledger SET product = $1, version = version + 1
            WHERE product <> $1
                AND NOT EXISTS (SELECT 1 FROM tollgate.sums WHERE amount + additive <> 0 OR peak <> 0)
                AND NOT EXISTS (SELECT 1 FROM tollgate.records WHERE state = 'sealed')
            RETURNING version),
        gone AS (DELETE FROM tollgate.remainders WHERE EXISTS (SELECT 1 FROM adopted)
            RETURNING customer, dimension, amount),
        discarded AS (INSERT INTO tollgate.outcome AS held (customer, dimension, discarded)
            SELECT customer, dimension, sum(amount) FROM gone WHERE amount > 0 GROUP BY customer, dimension
            ON CONFLICT (customer, dimension) DO UPDATE SET discarded = held.discarded + excluded.discarded)
        SELECT version FROM adopted";
    let held = session.query("SELECT product FROM tollgate.ledger", &[]).await?;
    let held: String = held[0].get(0);
    if held == expected.product {
        return Ok(());
    }
    session
        .batch(&format!(
            "BEGIN; SET LOCAL lock_timeout = '5s'; SELECT pg_advisory_xact_lock({LOCKS}, {ALL_HOURS})"
        ))
        .await?;
    let adopted = !session.query(ADOPT, &[(&expected.product, Type::TEXT)]).await?.is_empty();
    session.batch("COMMIT").await?;
    if adopted {
        return Ok(());
    }
    Err(Fault::Lasting(format!(
        "{} holds usage of product {held} that AWS has not taken yet, and this replica meters {}; run one with \
         product_code {held} until it is sent, or give this one a database of its own",
        session.name(),
        expected.product
    )))
}
