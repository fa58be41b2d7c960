//! Idempotency keys: which events were counted within `idempotency_window`.
//!
//! A key is kept as 16 bytes of SHA-256 over the ledger's random id and the key, and 8 bytes of the hash of its event's
//! content. If two keys had the same 16 bytes, the second event would be rejected as a conflict; in a ledger of 1,000
//! million keys the odds of one such pair are 1 to 10^21. If a key came again with other content but the same 8 bytes
//! (1 in 10^19), it would count as a repetition. Nobody can search for either without the file, because the ledger's id
//! is part of the hash.
//!
//! The keys are in a ring of four tables. New keys go into the current table; after half a window the next table
//! becomes the current one. A table whose newest key is older than the window is emptied in steps, in the order of its
//! pages. So a key is remembered for at least one window and at most two.
//!
//! The ring has its own time ([`time`]), which never goes back. It advances by an hour with each hour that closes,
//! whatever the clock shows, but by no more than the process ran since the hour that it closed before: a clock that
//! jumps ahead and back closes many hours. So a wrong clock neither forgets keys early nor keeps them for a year. Time
//! in which no process ran counts for at most six hours.

use std::time::Duration;

use ring::digest;
use rusqlite::{CachedStatement, Connection, OptionalExtension as _, Transaction, params};

use super::closing::Hours;
use super::upkeep::{Budget, forgotten_before};
use super::{LedgerSettings, meta, set_meta};
use tollgate_marketplace::Hour;
use tollgate_metering::event::Event;
use tollgate_time::Timestamp;

/// Bytes of a key's hash: enough that no two keys of a ledger have the same.
const HASH_BYTES: usize = 16;

/// Bytes of the hash of an event's content.
const CONTENT_BYTES: usize = 8;

/// Tables of the ring: at any time one takes new keys, up to two are remembered and one is being emptied.
const TABLES: i64 = 4;

/// Keys deleted between two looks at the clock: about 20 pages, since they are deleted in the order of the table.
const STEP_KEYS: i64 = 500;

/// The same for keys of schema 1, which lie in any order: as many pages.
const STEP_OLD_KEYS: i64 = 50;

/// The ring's time advances by at most this much when a process closes its first hour. The process before it may have
/// ended long ago; without these hours, a job of some minutes a day would remember its keys for months.
const FIRST_HOURS_MAX: i64 = 6;

const HOUR: Duration = Duration::from_secs(3600);

/// Key of `meta`: the ring's own time.
const TIME: &str = "key_time";

/// Key of `meta`: the latest hour that was counted in the ring's time.
const PASSED: &str = "key_hour";

/// Key of `meta`: how many keys of schema 1 are left.
pub(super) const OLD_KEYS: &str = "old_keys";

/// The keys during one group of events.
pub(super) struct Keys<'a> {
    transaction: &'a Transaction<'a>,
    ledger_id: String,
    /// The table that takes new keys.
    current: i64,
    /// Kept here because the lookup in the cache of statements would be a noticeable part of the cost.
    claim: CachedStatement<'a>,
    find: String,
    seen_at: Timestamp,
    claimed: i64,
    has_old: bool,
}

/// Claims a key in table `current`. Most keys are new, so the insertion serves as the lookup too.
///
/// `OR IGNORE`: only a key can be refused, never a value. Without it SQLite would copy each page before it writes it,
/// because the statement could fail halfway.
pub(super) fn claim_sql(current: i64, has_old: bool) -> String {
    let others = (0..TABLES).filter(|number| *number != current);
    let unknown: String = others
        .map(|number| format!(" AND NOT EXISTS (SELECT 1 FROM keys_{number} WHERE hash = ?1)"))
        .collect();
    let unknown_before = if has_old { " AND NOT EXISTS (SELECT 1 FROM keys WHERE id = ?3)" } else { "" };
    format!(
        "INSERT OR IGNORE INTO keys_{current} (hash, content) SELECT ?1, ?2 WHERE 1{unknown}{unknown_before}"
    )
}

/// Notes in `key_tables` when a table was last written.
pub(super) const NOTE: &str =
    "UPDATE key_tables SET first_at = min(coalesce(first_at, ?2), ?2), last_at = ?2,
    held = held + ?3 WHERE number = ?1";

impl<'a> Keys<'a> {
    pub(super) fn open(
        transaction: &'a Transaction<'a>,
        settings: &LedgerSettings,
    ) -> rusqlite::Result<Self> {
        let seen_at = time(transaction, settings)?;
        let current = current(transaction, settings, seen_at)?;
        let has_old = meta(transaction, OLD_KEYS)?.is_some();
        let finds: Vec<String> =
            (0..TABLES).map(|number| format!("SELECT content FROM keys_{number} WHERE hash = ?1")).collect();
        let find_before = if has_old {
            "SELECT substr(content, 1, 8) FROM keys WHERE id = ?2"
        } else {
            "SELECT 1 WHERE ?2 <> ?2"
        };
        Ok(Self {
            transaction,
            ledger_id: meta(transaction, "ledger_id")?.unwrap_or_default(),
            current,
            claim: transaction.prepare_cached(&claim_sql(current, has_old))?,
            find: format!("{} UNION ALL {find_before}", finds.join(" UNION ALL ")),
            seen_at,
            claimed: 0,
            has_old,
        })
    }

    fn hash(&self, id: &str) -> [u8; HASH_BYTES] {
        hash(&self.ledger_id, id)
    }

    /// Claims an event's key; `false` if it was claimed before.
    pub(super) fn claim(&mut self, id: &str, event: &Event) -> rusqlite::Result<bool> {
        let (hash, content) = (self.hash(id), &event.content[..CONTENT_BYTES]);
        let claimed = if self.has_old {
            self.claim.execute(params![hash, content, id])?
        } else {
            self.claim.execute(params![hash, content])?
        } > 0;
        self.claimed += i64::from(claimed);
        Ok(claimed)
    }

    /// Whether a claimed key had the same content; `None` if the key is unknown.
    pub(super) fn same(&self, id: &str, event: &Event) -> rusqlite::Result<Option<bool>> {
        let mut find = self.transaction.prepare_cached(&self.find)?;
        let content: Option<Vec<u8>> =
            find.query_row(params![self.hash(id), id], |row| row.get(0)).optional()?;
        Ok(content.map(|content| content == event.content[..CONTENT_BYTES]))
    }

    /// Notes when the table was last written.
    pub(super) fn close(self) -> rusqlite::Result<()> {
        if self.claimed == 0 {
            return Ok(());
        }
        self.transaction
            .prepare_cached(NOTE)?
            .execute(params![self.current, self.seen_at.unix_millis(), self.claimed])
            .map(|_| ())
    }
}

/// The hash of a key.
pub(super) fn hash(ledger_id: &str, id: &str) -> [u8; HASH_BYTES] {
    let mut context = digest::Context::new(&digest::SHA256);
    // The ledger's id has a fixed length, so no other pair of id and key gives the same text.
    context.update(ledger_id.as_bytes());
    context.update(id.as_bytes());
    let mut hash = [0; HASH_BYTES];
    hash.copy_from_slice(&context.finish().as_ref()[..HASH_BYTES]);
    hash
}

/// A table of keys, for a move.
pub(super) struct KeyTable {
    /// In the ring; `None` for the keys of schema 1.
    number: Option<i64>,
    /// The hour of its newest key, at the latest.
    hour: Hour,
    ledger_id: String,
}

/// The tables that hold keys. A key is as old at `now` as its table's newest key is in the ring's own time.
pub(super) fn tables(connection: &Connection, now: Timestamp) -> rusqlite::Result<Vec<KeyTable>> {
    let ledger_id = meta(connection, "ledger_id")?.unwrap_or_default();
    let time = meta(connection, TIME)?.and_then(|text| text.parse().ok()).map(Timestamp::from_unix_millis);
    let mut find = connection.prepare_cached("SELECT number, last_at FROM key_tables ORDER BY number")?;
    let table = |row: &rusqlite::Row<'_>| {
        let last_at: Option<i64> = row.get(1)?;
        let last_at = last_at.map(Timestamp::from_unix_millis);
        let age = time.zip(last_at).map_or(Duration::ZERO, |(time, last_at)| time.since(last_at));
        Ok(KeyTable {
            number: Some(row.get(0)?),
            hour: Hour::of(now.minus(age)),
            ledger_id: ledger_id.clone(),
        })
    };
    let mut all = find.query_map([], table)?.collect::<rusqlite::Result<Vec<_>>>()?;
    if meta(connection, OLD_KEYS)?.is_some() {
        all.push(KeyTable { number: None, hour: Hour::of(now), ledger_id });
    }
    Ok(all)
}

/// A key that moves, and its place in its table.
pub(super) type Placed = (String, serde_json::Value);

impl KeyTable {
    /// Keys behind this place.
    pub(super) fn read(
        &self,
        connection: &Connection,
        after: &str,
        limit: usize,
    ) -> rusqlite::Result<Vec<Placed>> {
        let sql = self.number.map_or_else(
            || {
                "SELECT hex(id), hex(substr(content, 1, 8)), id FROM keys
                 WHERE id > CAST(unhex(?1) AS TEXT) ORDER BY id LIMIT ?2"
                    .to_owned()
            },
            |number| {
                format!(
                    "SELECT hex(hash), hex(content), NULL FROM keys_{number} WHERE hash > unhex(?1)
                     ORDER BY hash LIMIT ?2"
                )
            },
        );
        let mut find = connection.prepare_cached(&sql)?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let keys = find.query_map(params![after, limit], |row| {
            let (place, content, id): (String, String, Option<String>) =
                (row.get(0)?, row.get(1)?, row.get(2)?);
            let hash = id.map_or_else(|| place.clone(), |id| super::hex(&hash(&self.ledger_id, &id)));
            let key = serde_json::json!({"hash": hash, "content": content, "hour": self.hour.number()});
            Ok((place, key))
        })?;
        keys.collect()
    }
}

/// The ring's own time. It begins as the clock's time.
fn time(connection: &Connection, settings: &LedgerSettings) -> rusqlite::Result<Timestamp> {
    let known = meta(connection, TIME)?.and_then(|text| text.parse().ok());
    let begins = || Ok(forgotten_before(connection)?.plus(settings.idempotency_window));
    known.map_or_else(begins, |millis| Ok(Timestamp::from_unix_millis(millis)))
}

/// Advances the ring's time, after another hour was closed. `ran`: how long ago this process closed the hour before, if
/// it did.
pub(super) fn pass(
    transaction: &Transaction<'_>,
    settings: &LedgerSettings,
    hours: &Hours,
    ran: Option<Duration>,
) -> rusqlite::Result<()> {
    let closed = hours.closed.number();
    let known: Option<i64> = meta(transaction, PASSED)?.and_then(|text| text.parse().ok());
    let passed = known.unwrap_or_else(|| hours.closed_before().number());
    // The first closed hour only starts the ring's time: that begins with the clock, which includes the hours before.
    let begun = meta(transaction, TIME)?.is_some();
    let (by, passed) = match (begun, ran) {
        (false, _) => (Duration::ZERO, closed),
        (true, Some(ran)) => (ran.min(HOUR), closed),
        // The clock had been far ahead: do not wait until it is there again.
        (true, None) if closed < passed - FIRST_HOURS_MAX => (HOUR, passed),
        (true, None) => {
            let hours = u32::try_from((closed - passed).clamp(0, FIRST_HOURS_MAX)).unwrap_or_default();
            (HOUR * hours, passed.max(closed))
        }
    };
    let now = time(transaction, settings)?.plus(by);
    set_meta(transaction, TIME, &now.unix_millis().to_string())?;
    set_meta(transaction, PASSED, &passed.to_string())
}

/// The table that takes new keys: after half a window the next one, as soon as that is empty.
fn current(
    transaction: &Transaction<'_>,
    settings: &LedgerSettings,
    seen_at: Timestamp,
) -> rusqlite::Result<i64> {
    let (number, turn, first_at): (i64, i64, Option<i64>) = transaction
        .prepare_cached("SELECT number, turn, first_at FROM key_tables ORDER BY turn DESC LIMIT 1")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let first_at = first_at.map_or(seen_at, Timestamp::from_unix_millis);
    let next = (number + 1).rem_euclid(TABLES);
    let is_over = seen_at.since(first_at) >= settings.idempotency_window / 2;
    if !is_over || !is_empty(transaction, next)? {
        return Ok(number.rem_euclid(TABLES));
    }
    transaction
        .prepare_cached(
            "UPDATE key_tables SET turn = ?2, first_at = NULL, last_at = NULL, held = 0 WHERE number = ?1",
        )?
        .execute([next, turn + 1])?;
    Ok(next)
}

fn is_empty(connection: &Connection, number: i64) -> rusqlite::Result<bool> {
    let sql = format!("SELECT 1 FROM keys_{number} LIMIT 1");
    connection.prepare_cached(&sql)?.exists([]).map(|any| !any)
}

/// Forgets keys from before the window; `true` if the budget ended before all were forgotten.
pub(super) fn forget(
    transaction: &Transaction<'_>,
    settings: &LedgerSettings,
    budget: &mut Budget,
) -> rusqlite::Result<bool> {
    let before = time(transaction, settings)?.minus(settings.idempotency_window);
    let mut find =
        transaction.prepare_cached("SELECT number FROM key_tables WHERE last_at < ?1 ORDER BY turn")?;
    let old: Vec<i64> =
        find.query_map([before.unix_millis()], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    for number in old {
        // In the order of the table, so that its pages become free one after the other.
        let step = format!(
            "DELETE FROM keys_{number} WHERE hash IN (SELECT hash FROM keys_{number} ORDER BY hash LIMIT ?1)"
        );
        let mut step = transaction.prepare_cached(&step)?;
        let mut note =
            transaction.prepare_cached("UPDATE key_tables SET held = max(held - ?2, 0) WHERE number = ?1")?;
        loop {
            if budget.is_spent() {
                return Ok(true);
            }
            let gone = step.execute([STEP_KEYS])?;
            budget.spend(gone);
            note.execute(params![number, i64::try_from(gone).unwrap_or(i64::MAX)])?;
            if gone == 0 {
                break;
            }
        }
        transaction
            .prepare_cached(
                "UPDATE key_tables SET first_at = NULL, last_at = NULL, held = 0 WHERE number = ?1",
            )?
            .execute([number])?;
    }
    forget_old(transaction, before, budget)
}

/// The same for the keys of schema 1; their table is dropped when it is empty.
fn forget_old(
    transaction: &Transaction<'_>,
    before: Timestamp,
    budget: &mut Budget,
) -> rusqlite::Result<bool> {
    let Some(left) = meta(transaction, OLD_KEYS)? else { return Ok(false) };
    let mut left: i64 = left.parse().unwrap_or_default();
    {
        let mut step = transaction.prepare_cached(
            "DELETE FROM keys WHERE id IN (SELECT id FROM keys WHERE seen_at < ?1 ORDER BY seen_at LIMIT ?2)",
        )?;
        loop {
            if budget.is_spent() {
                set_meta(transaction, OLD_KEYS, &left.max(0).to_string())?;
                return Ok(true);
            }
            let gone = step.execute([before.unix_millis(), STEP_OLD_KEYS])?;
            budget.spend(gone * 10);
            left -= i64::try_from(gone).unwrap_or(i64::MAX);
            if gone == 0 {
                break;
            }
        }
    }
    if transaction.prepare_cached("SELECT 1 FROM keys LIMIT 1")?.exists([])? {
        set_meta(transaction, OLD_KEYS, &left.max(0).to_string())?;
        return Ok(false);
    }
    transaction.execute("DELETE FROM meta WHERE key = ?1", [OLD_KEYS])?;
    transaction.execute_batch("DROP TABLE keys").map(|()| false)
}

/// How many keys are remembered.
pub(super) fn held(connection: &Connection) -> rusqlite::Result<i64> {
    let old: i64 = meta(connection, OLD_KEYS)?.and_then(|text| text.parse().ok()).unwrap_or_default();
    let ring: i64 =
        connection.query_row("SELECT coalesce(sum(held), 0) FROM key_tables", [], |row| row.get(0))?;
    Ok(ring.saturating_add(old))
}
