//! Moves a ledger on disk into the database, once and for all.
//!
//! 1. The ledger on disk is locked and checked, and the database's empty ledger takes its id: hashes of keys contain
//!    it. Its state is `moving`: it takes no usage, and nothing is sent from it.
//! 2. The file notes that it moves; from now on no program uses it.
//! 3. Its rows are copied in chunks. `tollgate.moving` says how far: each chunk and its place are one transaction.
//! 4. The balance of each dimension and the number of rows are compared. Only if they are equal, the file notes that
//!    the database may take over, then the database becomes `ready`, then the file notes that it moved.
//!
//! After a kill at any point, the same command goes on. Until the file notes that the database may take over, the
//! database certainly took no usage, and the move may also begin anew in another database.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio_postgres::types::Type;

use crate::columns::{column, unreadable};
use crate::connect::{Connector, Failed, Link};
use crate::dsn::Source;
use crate::schema::{Expected, NO_WRITER, tags_key};
use crate::totals::{BALANCE, balance};
use tollgate_ledger::moving::{Facts, Forgotten, Moving, Part, Stage};
use tollgate_ledger::{HoursAt, LedgerError, Totals};
use tollgate_time::Timestamp;

/// Rows of a chunk: some hundred kilobytes.
const CHUNK_ROWS: usize = 2000;

/// The move closes no hour that the ledger on disk did not close; the replicas do that in their own time.
const SETTLE: Duration = Duration::from_secs(3600);

/// Where a ledger moves to.
#[derive(Debug, Clone)]
pub struct Destination {
    url: Source,
}

impl Destination {
    /// The database of this URL.
    #[must_use]
    pub const fn url(url: String) -> Self {
        Self { url: Source::Text(url) }
    }

    /// The database whose URL is in this file.
    #[must_use]
    pub const fn file(path: PathBuf) -> Self {
        Self { url: Source::File(path) }
    }
}

/// Why a ledger did not move.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MoveError {
    /// One of the two ledgers cannot be used.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The ledger must not move there.
    #[error("{0}")]
    Refused(String),
}

impl From<Failed> for MoveError {
    fn from(failed: Failed) -> Self {
        Self::Ledger(failed.into())
    }
}

/// A ledger that moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// Where it is, without a password.
    pub place: String,
    /// An earlier call had begun the move.
    pub resumed: bool,
    /// How many rows of each part were copied; empty if an earlier call had copied all.
    pub rows: BTreeMap<String, u64>,
    /// Each dimension's balance on disk, and in the database when it took over.
    pub totals: BTreeMap<String, Totals>,
}

/// Moves the ledger in `folder`. `progress` is called after each chunk, with the name of the part and its number of
/// rows so far.
pub async fn move_ledger(
    folder: &Path,
    destination: Destination,
    mut progress: impl FnMut(&'static str, u64),
) -> Result<Moved, MoveError> {
    let mut moving = Moving::open(folder)?;
    if moving.has_usage_of_pods()? {
        return Err(MoveError::Refused(
            "the ledger holds usage of mode metered, which only the pod itself can report; only a ledger of mode saas \
             can be moved"
                .to_owned(),
        ));
    }
    if let Some((hour, dimension)) = moving.mixed_rules()? {
        return Err(MoveError::Refused(format!(
            "usage of dimension {dimension} in the hour {hour} is metered by two rules, because [dimension.{dimension}] \
             changed within it, and the database takes one for an hour: start the sidecar until it has sealed that hour, \
             stop it, and move the ledger then"
        )));
    }
    let facts = moving.facts()?;
    let Some(product) = facts.product.clone() else {
        return Err(MoveError::Refused(
            "the ledger names no product: start the sidecar on it once, stop it, and move the ledger then"
                .to_owned(),
        ));
    };
    let stage = moving.stage()?;
    let expected = Expected { product, settle: SETTLE };
    let Destination { url } = destination;
    let link = Link::new(Arc::new(Connector { dsn: url, facts: expected }));
    let place = link.name().await?;
    let there = begin(&link, &facts, stage.as_ref(), &place).await?;
    let mut rows = BTreeMap::new();
    if there == There::Copying {
        if stage.as_ref().is_none_or(|(stage, _)| *stage == Stage::Copying) {
            moving.note(Stage::Copying, &place)?;
        }
        for part in Part::ALL {
            copy(&link, &mut moving, &facts.ledger_id, part, &mut progress).await?;
        }
        rows = compare(&link, &facts).await?;
        moving.note(Stage::Ready, &place)?;
        let transaction = link.begin().await?;
        transaction.batch(FINISH).await?;
        transaction.commit().await?;
    }
    moving.note(Stage::Moved, &place)?;
    Ok(Moved { place, resumed: stage.is_some(), rows, totals: facts.totals })
}

/// What is to be done in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum There {
    /// Rows are still to be copied.
    Copying,
    /// It takes usage.
    Ready,
}

const LOOK: &str = "SELECT ledger_id, state, tollgate.ledger_now() AS now,
        EXISTS (SELECT 1 FROM tollgate.writers) AS used,
        EXISTS (SELECT 1 FROM tollgate.accepted) OR EXISTS (SELECT 1 FROM tollgate.records)
            OR EXISTS (SELECT 1 FROM tollgate.settled) OR EXISTS (SELECT 1 FROM tollgate.sums)
            OR EXISTS (SELECT 1 FROM tollgate.keys) OR EXISTS (SELECT 1 FROM tollgate.licenses) AS holds_usage
    FROM tollgate.ledger FOR UPDATE OF ledger";

const TAKE_OVER: &str =
    "UPDATE tollgate.ledger SET ledger_id = $1, closed = $2, started_at = least(started_at, $3),
        denied = $4, state = 'moving', version = version + 1";

/// How far each part is copied; dropped at the end.
const PLACES: &str = "CREATE TABLE tollgate.moving (
        part text COLLATE \"C\" PRIMARY KEY, next text, held bigint NOT NULL DEFAULT 0, done boolean NOT NULL DEFAULT false)";

/// Records that are forgotten have no customer any more, nor has what rounding added to all records; their amounts stay
/// in the balance.
const FORGOTTEN: &str = "WITH forgotten AS (
        SELECT dimension, billed::numeric, discarded::numeric, rounded_up::numeric
        FROM unnest($1::text[], $2::text[], $3::text[], $5::text[]) AS amounts (dimension, billed, discarded, rounded_up)),
    accepted AS (INSERT INTO tollgate.accepted (customer, dimension, writer, amount)
        SELECT '', dimension, $4, billed + discarded - rounded_up FROM forgotten)
    INSERT INTO tollgate.outcome (customer, dimension, billed, discarded, rounded_up)
    SELECT '', dimension, billed, discarded, rounded_up FROM forgotten";

/// Gives the database's ledger the id of the one on disk, unless an earlier call did.
async fn begin(
    link: &Link,
    facts: &Facts,
    stage: Option<&(Stage, String)>,
    place: &str,
) -> Result<There, MoveError> {
    let refused = |text: String| Err(MoveError::Refused(text));
    let transaction = link.begin().await?;
    let rows = transaction.query(LOOK, &[]).await?;
    let row = rows.first().ok_or_else(|| unreadable("no ledger"))?;
    let (id, state): (String, String) = (column(row, "ledger_id")?, column(row, "state")?);
    let is_ours = id == facts.ledger_id;
    let was_ready = stage.is_some_and(|(stage, _)| *stage == Stage::Ready);
    match (is_ours, state.as_str()) {
        (true, "moving") => return Ok(There::Copying),
        (true, _) if was_ready => return Ok(There::Ready),
        (true, _) => {
            return refused(format!(
                "{place} already holds the usage of this ledger and counts on: the ledger on disk is an old copy; do not \
                 use it"
            ));
        }
        (false, _) if was_ready => {
            let to = stage.map_or("", |(_, to)| to.as_str());
            return refused(format!(
                "the usage of this ledger was copied to {to}, which may already count on; finish the move there"
            ));
        }
        (false, _) => {}
    }
    if column(row, "holds_usage")? {
        return refused(format!(
            "{place} already holds usage of another ledger, and two ledgers cannot become one: name an empty database"
        ));
    }
    if column(row, "used")? {
        return refused(format!(
            "replicas have used the empty ledger in {place}: stop them, drop it with DROP SCHEMA tollgate CASCADE, and move \
             the ledger then"
        ));
    }
    let now = Timestamp::from_unix_millis(column(row, "now")?);
    let closed = HoursAt::new(facts.closed, SETTLE, now).closed.number();
    let started_at = facts.started_at.unwrap_or(now).unix_millis();
    let taken = [
        (&facts.ledger_id as _, Type::TEXT),
        (&closed as _, Type::INT8),
        (&started_at as _, Type::INT8),
        (&facts.denied as _, Type::BOOL),
    ];
    transaction.execute(TAKE_OVER, &taken).await?;
    transaction.batch(PLACES).await?;
    let rounded = facts.totals.iter().filter(|(_, totals)| totals.rounded_up != 0);
    let dimensions: BTreeSet<&str> =
        facts.forgotten.keys().chain(rounded.map(|(dimension, _)| dimension)).map(String::as_str).collect();
    let dimensions: Vec<&str> = dimensions.into_iter().collect();
    let texts = |of: fn(&Forgotten) -> i128| -> Vec<String> {
        let amount = |dimension: &&str| facts.forgotten.get(*dimension).map_or(0, of);
        dimensions.iter().map(|dimension| amount(dimension).to_string()).collect()
    };
    let (billed, discarded) = (texts(|amounts| amounts.billed), texts(|amounts| amounts.discarded));
    let rounded_up = |dimension: &&str| facts.totals.get(*dimension).map_or(0, |totals| totals.rounded_up);
    let rounded_up: Vec<String> =
        dimensions.iter().map(|dimension| rounded_up(dimension).to_string()).collect();
    let forgotten = [
        (&dimensions as _, Type::TEXT_ARRAY),
        (&billed as _, Type::TEXT_ARRAY),
        (&discarded as _, Type::TEXT_ARRAY),
        (&NO_WRITER as _, Type::INT8),
        (&rounded_up as _, Type::TEXT_ARRAY),
    ];
    transaction.execute(FORGOTTEN, &forgotten).await?;
    transaction.commit().await?;
    Ok(There::Copying)
}

/// Waits for the transaction of an interrupted call, which the server may still be working on.
const PLACE: &str = "SELECT next, held, done, tollgate.ledger_now() AS now
    FROM tollgate.ledger LEFT JOIN tollgate.moving ON part = $1
    WHERE ledger_id = $2 AND state = 'moving' FOR UPDATE OF ledger";

const NOTE_PLACE: &str =
    "INSERT INTO tollgate.moving AS place (part, next, held, done) VALUES ($1, $2, $3, $2 IS NULL)
    ON CONFLICT (part) DO UPDATE SET next = excluded.next, held = excluded.held, done = excluded.done";

/// Copies the rest of a part.
async fn copy(
    link: &Link,
    moving: &mut Moving,
    id: &str,
    part: Part,
    progress: &mut impl FnMut(&'static str, u64),
) -> Result<(), MoveError> {
    let name = part.as_str();
    loop {
        let transaction = link.begin().await?;
        let rows = transaction.query(PLACE, &[(&name, Type::TEXT), (&id, Type::TEXT)]).await?;
        let Some(row) = rows.first() else {
            return Err(MoveError::Refused("the database's ledger changed during the move".to_owned()));
        };
        if column::<Option<bool>>(row, "done")? == Some(true) {
            transaction.rollback().await?;
            return Ok(());
        }
        let next: Option<String> = column(row, "next")?;
        // A key is as old as on disk, or younger by what the move takes: it is remembered longer, never shorter.
        let now = Timestamp::from_unix_millis(column(row, "now")?);
        let chunk = moving.chunk(part, next.as_deref(), CHUNK_ROWS, now)?;
        let count = i64::try_from(chunk.rows.len()).unwrap_or(i64::MAX);
        let held = column::<Option<i64>>(row, "held")?.unwrap_or_default() + count;
        if count > 0 {
            let rows = chunk.rows.into_iter().map(|row| completed(part, row)).collect();
            let text = Value::Array(rows).to_string();
            transaction.execute(insert(part), &[(&text, Type::TEXT)]).await?;
        }
        transaction
            .execute(NOTE_PLACE, &[(&name, Type::TEXT), (&chunk.next, Type::TEXT), (&held, Type::INT8)])
            .await?;
        transaction.commit().await?;
        progress(name, u64::try_from(held).unwrap_or_default());
    }
}

/// Adds what only the database's table has.
fn completed(part: Part, mut row: Value) -> Value {
    if part == Part::Open {
        let key = tags_key(row["tags"].as_str().unwrap_or_default());
        row["tags_key"] = key.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into();
    }
    row
}

/// The statement that inserts a chunk: its parameter is an array of objects. Usage is also added to what its customer
/// was acknowledged, and to what was billed or discarded.
const fn insert(part: Part) -> &'static str {
    match part {
        Part::Keys => {
            "INSERT INTO tollgate.keys (hash, content, hour)
             SELECT decode(hash, 'hex'), decode(content, 'hex'), hour
             FROM json_to_recordset($1::json) AS moved (hash text, content text, hour bigint)"
        }
        Part::Open => {
            "WITH read AS (SELECT *, rule LIKE 'max %' AND tags_key = '' AS is_peak
                 FROM json_to_recordset($1::json) AS read
                 (hour bigint, customer text, dimension text, rule text, tags_key text, tags text, amount numeric,
                  additive numeric, first_at bigint, late_from bigint)),
             moved AS MATERIALIZED (SELECT hour, customer, dimension, rule, tags_key, tags,
                     CASE WHEN is_peak THEN 0 ELSE amount END AS amount, CASE WHEN is_peak THEN amount END AS peak,
                     additive, first_at, late_from FROM read),
             rules AS (INSERT INTO tollgate.rules (hour, dimension, rule)
                 SELECT DISTINCT hour, dimension, rule FROM moved ON CONFLICT DO NOTHING),
             sums AS (INSERT INTO tollgate.sums
                 (hour, customer, dimension, writer, tags_key, tags, amount, peak, additive, first_at, late_from)
                 SELECT hour, customer, dimension, 0, decode(tags_key, 'hex'), tags, amount, peak, additive, first_at,
                     late_from FROM moved)
             INSERT INTO tollgate.accepted AS accepted (customer, dimension, writer, amount)
             SELECT customer, dimension, 0, sum(amount + additive) FROM moved GROUP BY customer, dimension
             ON CONFLICT (customer, dimension, writer) DO UPDATE SET amount = accepted.amount + excluded.amount"
        }
        Part::Remainders => {
            "WITH moved AS MATERIALIZED (SELECT * FROM json_to_recordset($1::json) AS moved
                 (customer text, dimension text, scale numeric, amount numeric)),
             kept AS (INSERT INTO tollgate.remainders (customer, dimension, scale, amount)
                 SELECT customer, dimension, scale, amount FROM moved)
             INSERT INTO tollgate.accepted AS accepted (customer, dimension, writer, amount)
             SELECT customer, dimension, 0, sum(greatest(amount, 0)) FROM moved GROUP BY customer, dimension
             ON CONFLICT (customer, dimension, writer) DO UPDATE SET amount = accepted.amount + excluded.amount"
        }
        Part::Records => {
            "WITH moved AS MATERIALIZED (SELECT *, state IN ('carried', 'discarded') OR (state = 'accepted' AND NOT unconfirmed)
                     AS is_settled, coalesce(raw, micros) AS whole
                 FROM json_to_recordset($1::json) AS moved
                 (id bigint, customer text, dimension text, hour bigint, micros bigint, decimal boolean, allocations text,
                  allocation_count int, timestamp bigint, client_token text, late_from bigint, state text,
                  in_doubt boolean, unconfirmed boolean, attempts bigint, code text, metering_record_id text,
                  sealed_at bigint, updated_at bigint, due_at bigint, region text, raw numeric, rounded numeric)),
             records AS (INSERT INTO tollgate.records
                 (id, customer, dimension, hour, micros, decimal, allocations, allocation_count, timestamp, client_token,
                  late_from, state, in_doubt, unconfirmed, attempts, code, metering_record_id, sealed_at, updated_at,
                  due_at, region, raw, rounded) OVERRIDING SYSTEM VALUE
                 SELECT id, customer, dimension, hour, micros, decimal, allocations, allocation_count, timestamp,
                     client_token, late_from, state, in_doubt, unconfirmed, attempts, code, metering_record_id, sealed_at,
                     updated_at, due_at, region, raw, rounded
                 FROM moved WHERE NOT is_settled),
             settled AS (INSERT INTO tollgate.settled
                 (day, id, customer, dimension, hour, micros, decimal, allocations, allocation_count, timestamp,
                  client_token, late_from, state, in_doubt, unconfirmed, attempts, code, metering_record_id, sealed_at,
                  updated_at, region, raw, rounded)
                 SELECT hour / 24, id, customer, dimension, hour, micros, decimal, allocations, allocation_count,
                     timestamp, client_token, late_from, state, in_doubt, unconfirmed, attempts, code,
                     metering_record_id, sealed_at, updated_at, region, raw, rounded
                 FROM moved WHERE is_settled),
             outcome AS (INSERT INTO tollgate.outcome AS outcome (customer, dimension, billed, discarded)
                 SELECT customer, dimension, coalesce(sum(whole) FILTER (WHERE state = 'accepted'), 0),
                     coalesce(sum(whole) FILTER (WHERE state = 'discarded'), 0)
                 FROM moved WHERE state IN ('accepted', 'discarded') GROUP BY customer, dimension
                 ON CONFLICT (customer, dimension) DO UPDATE SET
                     billed = outcome.billed + excluded.billed, discarded = outcome.discarded + excluded.discarded),
             daily AS (INSERT INTO tollgate.daily AS daily (day, customer, dimension, billed, discarded, records)
                 SELECT hour / 24, customer, dimension, coalesce(sum(whole) FILTER (WHERE state = 'accepted'), 0),
                     coalesce(sum(whole) FILTER (WHERE state = 'discarded'), 0), count(*)
                 FROM moved WHERE state IN ('accepted', 'discarded') GROUP BY hour / 24, customer, dimension
                 ON CONFLICT (day, customer, dimension) DO UPDATE SET billed = daily.billed + excluded.billed,
                     discarded = daily.discarded + excluded.discarded, records = daily.records + excluded.records)
             INSERT INTO tollgate.accepted AS accepted (customer, dimension, writer, amount)
             SELECT customer, dimension, 0, coalesce(sum(whole) FILTER (WHERE state <> 'carried'), 0)
             FROM moved GROUP BY customer, dimension
             ON CONFLICT (customer, dimension, writer) DO UPDATE SET amount = accepted.amount + excluded.amount"
        }
        Part::Links => {
            "INSERT INTO tollgate.links (source, hour, customer, dimension, target)
             SELECT source, hour, customer, dimension, target FROM json_populate_recordset(NULL::tollgate.links, $1::json)"
        }
        Part::Forms => {
            "INSERT INTO tollgate.forms (hour, account, form)
             SELECT hour, account, form FROM json_populate_recordset(NULL::tollgate.forms, $1::json)"
        }
        Part::Identities => {
            "INSERT INTO tollgate.identities (id, identifier, account) OVERRIDING SYSTEM VALUE
             SELECT id, identifier, account FROM json_populate_recordset(NULL::tollgate.identities, $1::json)"
        }
        Part::Audit => {
            "INSERT INTO tollgate.audit (id, at, record, action, note) OVERRIDING SYSTEM VALUE
             SELECT id, at, record, action, note FROM json_populate_recordset(NULL::tollgate.audit, $1::json)"
        }
        Part::Licenses => {
            "INSERT INTO tollgate.licenses (license, account, agreement, event_at, deprovisioned_at)
             SELECT license, account, agreement, event_at, deprovisioned_at
             FROM json_populate_recordset(NULL::tollgate.licenses, $1::json)"
        }
        Part::MarketplaceEvents => {
            "INSERT INTO tollgate.marketplace_events (id, seen_at)
             SELECT id, seen_at FROM json_populate_recordset(NULL::tollgate.marketplace_events, $1::json)"
        }
    }
}

/// The next numbers are above all that were given. A record's number may be known from an audit line alone.
const NUMBERS: &str = "SELECT
    setval(pg_get_serial_sequence('tollgate.records', 'id'), greatest(1,
        (SELECT max(id) FROM tollgate.records), (SELECT max(id) FROM tollgate.settled),
        (SELECT max(record) FROM tollgate.audit), (SELECT max(greatest(source, target)) FROM tollgate.links))),
    setval(pg_get_serial_sequence('tollgate.audit', 'id'), greatest(1, (SELECT max(id) FROM tollgate.audit))),
    setval(pg_get_serial_sequence('tollgate.identities', 'id'), greatest(1, (SELECT max(id) FROM tollgate.identities)))";

/// How many rows of each part were read, and how many are there. Each key was inserted or the statement failed; to
/// count tens of millions would take minutes.
const COUNT: &str = "SELECT part, held, CASE part
        WHEN 'open' THEN (SELECT count(*) FROM tollgate.sums)
        WHEN 'records' THEN (SELECT count(*) FROM tollgate.records) + (SELECT count(*) FROM tollgate.settled)
        WHEN 'remainders' THEN (SELECT count(*) FROM tollgate.remainders)
        WHEN 'links' THEN (SELECT count(*) FROM tollgate.links)
        WHEN 'forms' THEN (SELECT count(*) FROM tollgate.forms)
        WHEN 'identities' THEN (SELECT count(*) FROM tollgate.identities)
        WHEN 'audit' THEN (SELECT count(*) FROM tollgate.audit)
        WHEN 'licenses' THEN (SELECT count(*) FROM tollgate.licenses)
        WHEN 'marketplace_events' THEN (SELECT count(*) FROM tollgate.marketplace_events)
        ELSE held END AS found
    FROM tollgate.moving";

/// From now on the database's ledger takes usage.
const FINISH: &str =
    "UPDATE tollgate.ledger SET state = 'ready', version = version + 1; DROP TABLE tollgate.moving";

/// Compares the copy with the ledger on disk; returns how many rows of each part were copied.
async fn compare(link: &Link, facts: &Facts) -> Result<BTreeMap<String, u64>, MoveError> {
    let transaction = link.begin().await?;
    transaction.query(NUMBERS, &[]).await?;
    let mut rows = BTreeMap::new();
    for row in transaction.query(COUNT, &[]).await? {
        let part: String = column(&row, "part")?;
        let (held, found): (i64, i64) = (column(&row, "held")?, column(&row, "found")?);
        if held != found {
            return Err(MoveError::Refused(format!(
                "{held} rows of {part} were copied, and the database holds {found}: a fault of tollgate; the ledger did \
                 not move, and the database took no usage"
            )));
        }
        rows.insert(part, u64::try_from(held).unwrap_or_default());
    }
    let totals = balance(&transaction.query(BALANCE, &[]).await?)?;
    transaction.commit().await?;
    if totals == facts.totals {
        return Ok(rows);
    }
    Err(MoveError::Refused(format!(
        "the balance on disk is {:?}, and the copy's is {totals:?}: a fault of tollgate; the ledger did not move, and the \
         database took no usage",
        facts.totals
    )))
}
