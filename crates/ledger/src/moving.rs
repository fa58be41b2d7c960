//! Moving a ledger to another store: the SQLite side. It reads the ledger table by table, in chunks, and notes in the
//! file how far the move is, so that no program uses a ledger whose usage is elsewhere.
//!
//! `meta.move` holds the stage and the place, such as `copying database.example:5432/usage`:
//! - `copying`: the copy is under way; the new ledger takes no usage yet.
//! - `ready`: everything was copied and compared; from now on the new ledger may take usage.
//! - `moved`: it does.
//!
//! A program that does not know this key refuses the file too, because `min_reader` is raised with the first stage.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension as _, Row};
use serde_json::{Value, json};

use super::amount::amount;
use super::closing::LAST_CLOSED;
use super::database::check_version;
use super::rows::unreadable;
use super::sending::DENIED;
use super::totals::Totals;
use super::{
    CHECKPOINT_PAGES_MAX, Database, FILE_NAME, LedgerError, classify, files, has_meta, keys, meta, set_meta,
};
use tollgate_marketplace::{Hour, TagSet};
use tollgate_time::Timestamp;

/// Key of `meta`: how far the move is, and where it goes.
const MOVE: &str = "move";

/// `min_reader` of a ledger that moves: above every schema.
const NO_READER: &str = "1000000";

/// How far a move is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The copy is under way.
    Copying,
    /// All was copied: the other ledger may take usage from now on.
    Ready,
    /// The other ledger takes the usage.
    Moved,
}

impl Stage {
    const ALL: [Self; 3] = [Self::Copying, Self::Ready, Self::Moved];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Copying => "copying",
            Self::Ready => "ready",
            Self::Moved => "moved",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A table that moves. Rows of the first three refer to no others; the order is the order of the copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Idempotency keys: `hash` and `content` as hexadecimal text, and `hour`, after whose end the key's time begins.
    Keys,
    /// Open usage, a row for each tag set of a slot, with the slot's rule.
    Open,
    /// What stays of sealed hours for the next hour: `scale` is in millionths.
    Remainders,
    /// Records in every state.
    Records,
    /// Links between records.
    Links,
    /// The form of an account in an hour.
    Forms,
    /// Accounts of legacy identifiers.
    Identities,
    /// Repairs.
    Audit,
    /// What AWS Marketplace said about licenses.
    Licenses,
    /// Its events that were processed.
    MarketplaceEvents,
}

impl Part {
    /// Every part.
    pub const ALL: [Self; 10] = [
        Self::Keys,
        Self::Open,
        Self::Remainders,
        Self::Records,
        Self::Links,
        Self::Forms,
        Self::Identities,
        Self::Audit,
        Self::Licenses,
        Self::MarketplaceEvents,
    ];

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Open => "open",
            Self::Remainders => "remainders",
            Self::Records => "records",
            Self::Links => "links",
            Self::Forms => "forms",
            Self::Identities => "identities",
            Self::Audit => "audit",
            Self::Licenses => "licenses",
            Self::MarketplaceEvents => "marketplace_events",
        }
    }
}

/// Some rows of a part.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunk {
    /// Objects with the columns. Amounts are decimal text in millionths, because they may be above 64 bits.
    pub rows: Vec<Value>,
    /// Where the next chunk begins; `None` if this is the last one.
    pub next: Option<String>,
}

/// What is not in rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Is hashed with every key.
    pub ledger_id: String,
    /// The metered product; `None` if no process opened the ledger since product codes are noted.
    pub product: Option<String>,
    /// The latest hour that is closed.
    pub closed: Option<Hour>,
    /// AWS's latest answer was a denial.
    pub denied: bool,
    /// When the first process started: no usage is reported as earlier.
    pub started_at: Option<Timestamp>,
    /// The balance.
    pub totals: BTreeMap<String, Totals>,
    /// Of `totals`, what was billed and discarded in records that are forgotten.
    pub forgotten: BTreeMap<String, Forgotten>,
}

/// Amounts of a dimension in forgotten records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Accepted by AWS.
    pub billed: i128,
    /// Discarded by a person.
    pub discarded: i128,
}

/// A ledger that moves, locked against every other process.
#[derive(Debug)]
pub struct Moving(Database);

impl Moving {
    /// Opens the ledger in `folder`, or one whose move was interrupted. A ledger of an older version is upgraded first,
    /// and the whole file is checked.
    pub fn open(folder: &Path) -> Result<Self, LedgerError> {
        let path = files::existing(&folder.join(FILE_NAME))?;
        if !path.exists() {
            return Err(LedgerError::Io(format!("there is no ledger {}", path.display())));
        }
        let mut database = Database::connect_if(&path, CHECKPOINT_PAGES_MAX, refuse_moved)?;
        if !database.reading(has_meta)? {
            return Err(LedgerError::Empty(path));
        }
        let moving = database.reading(stage)?.is_some();
        database.check_structure()?;
        database.check_schema()?;
        if !moving {
            database.upgrade()?;
        }
        database.check()?;
        database.keep_tidy()?;
        Ok(Self(database))
    }

    /// How far the move is, and where it goes.
    pub fn stage(&self) -> Result<Option<(Stage, String)>, LedgerError> {
        self.0.reading(stage)
    }

    /// Notes how far the move to `place` is.
    pub fn note(&mut self, stage: Stage, place: &str) -> Result<(), LedgerError> {
        self.0.write("move", |transaction| {
            set_meta(transaction, "min_reader", NO_READER)?;
            set_meta(transaction, MOVE, &format!("{stage} {place}"))
        })
    }

    /// Usage of pods: only the pod itself can report it, so it cannot move.
    pub fn has_usage_of_pods(&self) -> Result<bool, LedgerError> {
        self.0.reading(|connection| {
            connection.query_row(
                "SELECT EXISTS (SELECT 1 FROM slots WHERE pod <> '' OR customer = '')
                     OR EXISTS (SELECT 1 FROM records WHERE pod <> '' OR customer = '')",
                [],
                |row| row.get(0),
            )
        })
    }

    /// An hour and a dimension in which some slots began with one rule and some with another; the earliest hour's. The
    /// database takes one rule for an hour's dimension.
    pub fn mixed_rules(&self) -> Result<Option<(Hour, String)>, LedgerError> {
        self.0.reading(|connection| {
            let mixed = "SELECT hour, dimension FROM slots GROUP BY hour, dimension
                HAVING min(aggregation) <> max(aggregation) ORDER BY hour LIMIT 1";
            let found = |row: &Row<'_>| Ok((Hour::from_number(row.get(0)?), text(row, 1)?));
            connection.query_row(mixed, [], found).optional()
        })
    }

    /// What is not in rows.
    pub fn facts(&self) -> Result<Facts, LedgerError> {
        let totals = self.0.totals()?.into_iter().map(|(dimension, totals)| (storable(dimension), totals));
        let totals = totals.collect();
        self.0.reading(|connection| {
            let closed = meta(connection, LAST_CLOSED)?.and_then(|text| text.parse().ok());
            Ok(Facts {
                ledger_id: meta(connection, "ledger_id")?.ok_or_else(|| unreadable(0, "the ledger's id"))?,
                product: meta(connection, "product")?,
                closed: closed.map(Hour::from_number),
                denied: meta(connection, DENIED)?.is_some(),
                started_at: meta(connection, "started_at")?
                    .and_then(|text| text.parse().ok())
                    .map(Timestamp::from_unix_millis),
                totals,
                forgotten: forgotten(connection)?,
            })
        })
    }

    /// At most `limit` rows of a part from `from` on, the `next` of the chunk before. `now` is the time at which keys
    /// are as old as they are in this ledger.
    pub fn chunk(
        &self,
        part: Part,
        from: Option<&str>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Chunk, LedgerError> {
        let bounds = Bounds { from, limit };
        self.0.reading(|connection| match part {
            Part::Keys => keys_chunk(connection, bounds, now),
            Part::Open => bounds.numbered(connection, SLOTS, open),
            Part::Remainders => remainders_chunk(connection, bounds),
            Part::Records => bounds.numbered(connection, RECORDS, |_, row| Ok(vec![record(row)?])),
            Part::Links => bounds.numbered(connection, LINKS, |_, row| Ok(vec![link(row)?])),
            Part::Forms => forms_chunk(connection, bounds),
            Part::Identities => bounds.numbered(connection, IDENTITIES, |_, row| Ok(vec![identity(row)?])),
            Part::Audit => bounds.numbered(connection, AUDIT, |_, row| Ok(vec![entry(row)?])),
            Part::Licenses => bounds.named(connection, LICENSES, license),
            Part::MarketplaceEvents => bounds.named(connection, EVENTS, event),
        })
    }
}

/// Refuses a ledger that moved or is about to: its usage is elsewhere.
pub(super) fn refuse(connection: &Connection, path: &Path) -> Result<(), LedgerError> {
    match stage(connection).map_err(|error| classify(path, &error))? {
        None => Ok(()),
        Some((Stage::Moved, to)) => Err(LedgerError::Moved { path: path.to_owned(), to }),
        Some((Stage::Copying | Stage::Ready, to)) => Err(LedgerError::Moving { path: path.to_owned(), to }),
    }
}

/// The check of the version for the move itself.
fn refuse_moved(connection: &mut Connection, path: &Path) -> Result<(), LedgerError> {
    let failed = |error: rusqlite::Error| classify(path, &error);
    let found = if has_meta(connection).map_err(failed)? { stage(connection).map_err(failed)? } else { None };
    match found {
        None => check_version(connection, path),
        Some((Stage::Moved, to)) => Err(LedgerError::Moved { path: path.to_owned(), to }),
        Some((Stage::Copying | Stage::Ready, _)) => Ok(()),
    }
}

fn stage(connection: &Connection) -> rusqlite::Result<Option<(Stage, String)>> {
    let Some(noted) = meta(connection, MOVE)? else { return Ok(None) };
    let read = noted.split_once(' ').and_then(|(stage, place)| {
        let stage = Stage::ALL.into_iter().find(|one| one.as_str() == stage)?;
        Some((stage, place.to_owned()))
    });
    read.map(Some).ok_or_else(|| unreadable(0, "a stage of a move"))
}

fn forgotten(connection: &Connection) -> rusqlite::Result<BTreeMap<String, Forgotten>> {
    let mut find =
        connection.prepare("SELECT dimension, forgotten_billed, forgotten_discarded FROM totals")?;
    let mut rows = find.query([])?;
    let mut all = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let forgotten = Forgotten { billed: amount(row, 1)?, discarded: amount(row, 2)? };
        if forgotten != Forgotten::default() {
            all.insert(text(row, 0)?, forgotten);
        }
    }
    Ok(all)
}

/// PostgreSQL's texts cannot hold a NUL. AWS accepts no name with one, so nothing that can be billed changes.
fn storable(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }
}

fn text(row: &Row<'_>, column: usize) -> rusqlite::Result<String> {
    row.get(column).map(storable)
}

fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<i64>> {
    row.get(column)
}

/// Where a chunk begins and ends.
#[derive(Debug, Clone, Copy)]
struct Bounds<'a> {
    from: Option<&'a str>,
    limit: usize,
}

/// A chunk ends after this many bytes of text: a record may have a megabyte of allocations.
const CHUNK_BYTES_MAX: usize = 4 << 20;

/// Rows that are collected until a bound is reached.
struct Collected {
    rows: Vec<Value>,
    bytes: usize,
    limit: usize,
}

impl Collected {
    const fn new(bounds: Bounds<'_>) -> Self {
        Self { rows: Vec::new(), bytes: 0, limit: bounds.limit }
    }

    /// Adds rows; returns whether there is room for more.
    fn add(&mut self, rows: Vec<Value>) -> bool {
        let texts = rows.iter().filter_map(Value::as_object).flat_map(serde_json::Map::values);
        self.bytes += texts.filter_map(Value::as_str).map(str::len).sum::<usize>();
        self.rows.extend(rows);
        self.rows.len() < self.limit && self.bytes < CHUNK_BYTES_MAX
    }
}

impl Bounds<'_> {
    /// A chunk of a table whose first column is a number that grows. `read` turns a row into rows of the other ledger.
    fn numbered(
        self,
        connection: &Connection,
        sql: &str,
        read: impl Fn(&Connection, &Row<'_>) -> rusqlite::Result<Vec<Value>>,
    ) -> rusqlite::Result<Chunk> {
        let from: i64 = match self.from {
            None => i64::MIN,
            Some(from) => from.parse().map_err(|_| unreadable(0, "a place in a table"))?,
        };
        let mut collected = Collected::new(self);
        let mut statement = connection.prepare_cached(sql)?;
        let mut rows = statement.query([from])?;
        let mut next = None;
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            if !collected.add(read(connection, row)?) {
                next = Some(id.saturating_add(1).to_string());
                break;
            }
        }
        Ok(Chunk { rows: collected.rows, next })
    }
}

impl Bounds<'_> {
    /// A chunk of a table whose first column is a text that is not empty. The place is the text of the row before.
    fn named(
        self,
        connection: &Connection,
        sql: &str,
        read: impl Fn(&Row<'_>) -> rusqlite::Result<Value>,
    ) -> rusqlite::Result<Chunk> {
        let mut collected = Collected::new(self);
        let mut statement = connection.prepare_cached(sql)?;
        let mut rows = statement.query([self.from.unwrap_or_default()])?;
        let mut next = None;
        while let Some(row) = rows.next()? {
            if !collected.add(vec![read(row)?]) {
                next = Some(row.get(0)?);
                break;
            }
        }
        Ok(Chunk { rows: collected.rows, next })
    }
}

const SLOTS: &str =
    "SELECT id, hour, customer, dimension, amount, additive, first_at, late_from, aggregation FROM slots
    WHERE id >= ?1 ORDER BY id";

/// The untagged share of a slot, and its tagged ones.
fn open(connection: &Connection, row: &Row<'_>) -> rusqlite::Result<Vec<Value>> {
    let slot: i64 = row.get(0)?;
    let share = |tags: String, amount: i128, additive: i128| -> rusqlite::Result<Value> {
        Ok(json!({
            "hour": number(row, 1)?, "customer": text(row, 2)?, "dimension": text(row, 3)?, "tags": tags,
            "amount": amount.to_string(), "additive": additive.to_string(),
            "first_at": number(row, 6)?, "late_from": number(row, 7)?, "rule": text(row, 8)?,
        }))
    };
    let mut shares = connection
        .prepare_cached("SELECT tags, amount, additive FROM shares WHERE slot = ?1 ORDER BY tags")?;
    let mut rows = shares.query([slot])?;
    let mut all = Vec::new();
    while let Some(tagged) = rows.next()? {
        all.push(share(text(tagged, 0)?, amount(tagged, 1)?, amount(tagged, 2)?)?);
    }
    let (counted, additive) = (amount(row, 4)?, amount(row, 5)?);
    if all.is_empty() || (counted, additive) != (0, 0) {
        all.push(share(TagSet::default().canonical(), counted, additive)?);
    }
    Ok(all)
}

/// A chunk of remainders. The place is the number of the row in their order: nothing changes them during a move.
fn remainders_chunk(connection: &Connection, bounds: Bounds<'_>) -> rusqlite::Result<Chunk> {
    let from: i64 = match bounds.from {
        None => 0,
        Some(from) => from.parse().map_err(|_| unreadable(0, "a place in a table"))?,
    };
    let mut statement = connection.prepare_cached(
        "SELECT customer, dimension, scale, amount FROM remainders ORDER BY customer, dimension, scale
         LIMIT -1 OFFSET ?1",
    )?;
    let mut rows = statement.query([from])?;
    let (mut collected, mut place, mut next) = (Collected::new(bounds), from, None);
    while let Some(row) = rows.next()? {
        place += 1;
        let remainder = json!({
            "customer": text(row, 0)?, "dimension": text(row, 1)?, "scale": text(row, 2)?,
            "amount": amount(row, 3)?.to_string(),
        });
        if !collected.add(vec![remainder]) {
            next = Some(place.to_string());
            break;
        }
    }
    Ok(Chunk { rows: collected.rows, next })
}

/// The process that marked an attempt has ended: its answer is unknown.
const RECORDS: &str = "SELECT id, customer, dimension, hour, micros, decimal, allocations, allocation_count, timestamp,
        client_token, late_from, state, in_doubt OR attempting, unconfirmed, attempts, code, metering_record_id,
        sealed_at, updated_at, due_at, region, raw, rounded
    FROM records WHERE id >= ?1 ORDER BY id";

fn record(row: &Row<'_>) -> rusqlite::Result<Value> {
    let flag = |column: usize| -> rusqlite::Result<bool> { row.get(column) };
    let optional = |column: usize| -> rusqlite::Result<Option<String>> {
        Ok(row.get::<_, Option<String>>(column)?.map(storable))
    };
    let amounts = |column: usize| -> rusqlite::Result<Option<String>> {
        let is_null = matches!(row.get_ref(column)?, rusqlite::types::ValueRef::Null);
        Ok(if is_null { None } else { Some(amount(row, column)?.to_string()) })
    };
    Ok(json!({
        "id": number(row, 0)?, "customer": text(row, 1)?, "dimension": text(row, 2)?, "hour": number(row, 3)?,
        "micros": number(row, 4)?, "decimal": flag(5)?, "allocations": text(row, 6)?,
        "allocation_count": number(row, 7)?, "timestamp": number(row, 8)?, "client_token": text(row, 9)?,
        "late_from": number(row, 10)?, "state": text(row, 11)?, "in_doubt": flag(12)?, "unconfirmed": flag(13)?,
        "attempts": number(row, 14)?, "code": optional(15)?, "metering_record_id": optional(16)?,
        "sealed_at": number(row, 17)?, "updated_at": number(row, 18)?, "due_at": number(row, 19)?,
        "region": optional(20)?, "raw": amounts(21)?, "rounded": amounts(22)?,
    }))
}

const LINKS: &str = "SELECT links.rowid, source, hour, customer, dimension, target
    FROM links LEFT JOIN slots ON slots.id = links.slot WHERE links.rowid >= ?1 ORDER BY links.rowid";

fn link(row: &Row<'_>) -> rusqlite::Result<Value> {
    let optional = |column: usize| -> rusqlite::Result<Option<String>> {
        Ok(row.get::<_, Option<String>>(column)?.map(storable))
    };
    Ok(json!({
        "source": number(row, 1)?, "hour": number(row, 2)?, "customer": optional(3)?, "dimension": optional(4)?,
        "target": number(row, 5)?,
    }))
}

const IDENTITIES: &str = "SELECT id, identifier, account FROM identities WHERE id >= ?1 ORDER BY id";

fn identity(row: &Row<'_>) -> rusqlite::Result<Value> {
    Ok(json!({"id": number(row, 0)?, "identifier": text(row, 1)?, "account": text(row, 2)?}))
}

const AUDIT: &str = "SELECT id, at, record, action, note FROM audit WHERE id >= ?1 ORDER BY id";

fn entry(row: &Row<'_>) -> rusqlite::Result<Value> {
    Ok(json!({
        "id": number(row, 0)?, "at": number(row, 1)?, "record": number(row, 2)?, "action": text(row, 3)?,
        "note": text(row, 4)?,
    }))
}

const LICENSES: &str = "SELECT license, account, agreement, event_at, deprovisioned_at FROM licenses
    WHERE license > ?1 ORDER BY license";

fn license(row: &Row<'_>) -> rusqlite::Result<Value> {
    Ok(json!({
        "license": text(row, 0)?, "account": text(row, 1)?,
        "agreement": row.get::<_, Option<String>>(2)?.map(storable), "event_at": number(row, 3)?,
        "deprovisioned_at": number(row, 4)?,
    }))
}

const EVENTS: &str = "SELECT id, seen_at FROM marketplace_events WHERE id > ?1 ORDER BY id";

fn event(row: &Row<'_>) -> rusqlite::Result<Value> {
    Ok(json!({"id": text(row, 0)?, "seen_at": number(row, 1)?}))
}

/// A chunk of forms. The place in the table is an hour and an account.
fn forms_chunk(connection: &Connection, bounds: Bounds<'_>) -> rusqlite::Result<Chunk> {
    let (hour, account) = match bounds.from.map(|from| from.split_once(' ')) {
        None => (i64::MIN, ""),
        Some(Some((hour, account))) => {
            (hour.parse().map_err(|_| unreadable(0, "a place in a table"))?, account)
        }
        Some(None) => return Err(unreadable(0, "a place in a table")),
    };
    let mut statement = connection.prepare_cached(
        "SELECT hour, account, licensed FROM forms WHERE (hour, account) > (?1, ?2) ORDER BY hour, account",
    )?;
    let mut rows = statement.query((hour, account))?;
    let (mut collected, mut next) = (Collected::new(bounds), None);
    while let Some(row) = rows.next()? {
        let (hour, account): (i64, String) = (row.get(0)?, row.get(1)?);
        let form = json!({"hour": hour, "account": storable(account.clone()), "form": number(row, 2)?});
        if !collected.add(vec![form]) {
            next = Some(format!("{hour} {account}"));
            break;
        }
    }
    Ok(Chunk { rows: collected.rows, next })
}

/// A chunk of keys. The place is the number of a table and a key in it.
fn keys_chunk(connection: &Connection, bounds: Bounds<'_>, now: Timestamp) -> rusqlite::Result<Chunk> {
    let (number, after) = match bounds.from.map(|from| from.split_once(' ')) {
        None => (0, String::new()),
        Some(Some((number, after))) => {
            (number.parse().map_err(|_| unreadable(0, "a place in a table"))?, after.to_owned())
        }
        Some(None) => return Err(unreadable(0, "a place in a table")),
    };
    let tables = keys::tables(connection, now)?;
    let Some(table) = tables.get(number) else { return Ok(Chunk { rows: Vec::new(), next: None }) };
    let found = table.read(connection, &after, bounds.limit)?;
    let next = match found.last() {
        Some((place, _)) if found.len() >= bounds.limit => Some(format!("{number} {place}")),
        _ if number + 1 < tables.len() => Some(format!("{} ", number + 1)),
        _ => None,
    };
    Ok(Chunk { rows: found.into_iter().map(|(_, key)| key).collect(), next })
}
