//! Upgrades a ledger of an older schema to this program's schema, once, in small steps that are committed one by one.
//! If the process is killed in between, the next one continues: the file itself shows what is left to do.
//!
//! Before the first step, a copy of the old ledger without its keys is made beside it, for going back to the version
//! before. The first start that finds nothing to upgrade deletes the copy.
//!
//! From schema 1 to 2: `sums` move into `slots`; `settled` and `accepted` become `totals`; allocations are counted. The
//! old `keys` stay in use, and are forgotten as their window passes (`keys`).
//!
//! From schema 2 to 3 and to 4: new tables only, after everything of schema 1 has moved. A program of schema 2 still
//! runs on the file, so no copy is made.

use std::fs;
use std::path::PathBuf;

use rusqlite::{Connection, Transaction, params};
use serde::de::IgnoredAny;

use super::rows::{Slot, json, unsigned};
use super::schema::{MIGRATIONS, SCHEMA};
use super::slots::{self, Part, Past};
use super::{
    Database, LedgerError, closing, files, has_meta, keys, meta, quarantine, random_hex, schema_number,
    set_meta, totals,
};
use tollgate_marketplace::{Hour, TagSet};
use tollgate_metering::aggregation::Rule;
use tollgate_time::Timestamp;

/// Rows of a step: takes some milliseconds, and keeps the WAL small.
const STEP_ROWS: i64 = 500;

/// Key of `meta`: the last record whose allocations were counted, during an upgrade.
const COUNTED_UP_TO: &str = "upgrade_counted_up_to";

/// Tables of schema 1 that are copied. Keys are most of a ledger; the older version starts without them.
const COPIED: [&str; 5] = ["meta", "sums", "records", "settled", "accepted"];

impl Database {
    /// Upgrades the file to this program's schema; returns whether there was anything to do.
    pub(super) fn upgrade(&mut self) -> Result<bool, LedgerError> {
        let mut any = false;
        while self.upgrade_step()? {
            any = true;
        }
        Ok(any)
    }

    /// One step; `false` if nothing is left to do.
    pub(super) fn upgrade_step(&mut self) -> Result<bool, LedgerError> {
        let stored =
            self.reading(|connection| if has_meta(connection)? { schema_number(connection) } else { Ok(0) })?;
        match stored {
            0 => {
                let set_aside = quarantine::latest(&self.path)?;
                self.write("open", |transaction| make(transaction, set_aside)).map(|()| false)
            }
            1 => {
                self.copy_aside(1)?;
                self.write("upgrade", begin).map(|()| true)
            }
            2 if self.reading(|connection| totals::exists(connection, "sums"))? => {
                self.write("upgrade", go_on).map(|()| true)
            }
            2 | 3 => self.write("upgrade", |transaction| add(transaction, stored + 1)).map(|()| true),
            // This program's schema, or that of a newer program, which is left alone.
            _ => Ok(false),
        }
    }

    /// Copies the ledger to a file of its own, completely or not at all.
    fn copy_aside(&self, schema: usize) -> Result<(), LedgerError> {
        let copy = self.copy_path(schema);
        let part = quarantine::with_end(&copy, ".part");
        let said = |error: &dyn std::fmt::Display| {
            LedgerError::Io(format!(
                "the ledger cannot be copied before its upgrade, to {}: {error}; check the volume's free space and \
                 permissions, and start again; the ledger is unchanged",
                part.display()
            ))
        };
        let failed = |error: std::io::Error| said(&error);
        match fs::remove_file(&part) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let file = files::open(&part, fs::OpenOptions::new().write(true).create_new(true)).map_err(failed)?;
        self.reading(|connection| {
            let path = part.to_string_lossy();
            connection.execute("ATTACH ?1 AS copy", [path.as_ref()])?;
            let copied = copy_tables(connection, schema);
            connection.execute_batch("DETACH copy")?;
            copied
        })
        .map_err(|error| match error {
            LedgerError::Io(error) => said(&error),
            other => other,
        })?;
        file.sync_all().map_err(failed)?;
        fs::rename(&part, &copy).map_err(failed)?;
        quarantine::sync_folder(&copy).map_err(failed)
    }

    fn copy_path(&self, schema: usize) -> PathBuf {
        quarantine::with_end(&self.path, &format!(".schema-{schema}"))
    }

    /// Deletes the copies, after a start that found nothing to upgrade.
    pub(super) fn remove_copies(&self) {
        for schema in 1..MIGRATIONS.len() {
            // Best effort: a copy that remains only takes space.
            let _ = fs::remove_file(self.copy_path(schema));
        }
    }
}

fn copy_tables(connection: &Connection, schema: usize) -> rusqlite::Result<()> {
    // After a crash during the copy, the next start copies again. A complete copy is synced as a whole.
    connection.execute_batch("PRAGMA copy.journal_mode = OFF; PRAGMA copy.synchronous = OFF;")?;
    let old: String = MIGRATIONS.iter().take(schema).map(|migration| migration.sql).collect();
    let in_copy =
        old.replace("CREATE TABLE ", "CREATE TABLE copy.").replace("CREATE INDEX ", "CREATE INDEX copy.");
    connection.execute_batch("BEGIN")?;
    let copied = connection.execute_batch(&in_copy).and_then(|()| {
        COPIED.iter().try_for_each(|table| {
            connection.execute_batch(&format!("INSERT INTO copy.{table} SELECT * FROM main.{table}"))
        })
    });
    connection.execute_batch(if copied.is_ok() { "COMMIT" } else { "ROLLBACK" })?;
    copied
}

/// Makes a new ledger. `set_aside` is when the latest damaged ledger beside it was renamed. That ledger may have
/// reported its last hour already, and AWS takes one value for an hour, so that hour is closed for all slots. This is
/// in one transaction with the tables: a kill in between cannot leave a ledger without it.
fn make(transaction: &Transaction<'_>, set_aside: Option<Timestamp>) -> rusqlite::Result<()> {
    for migration in &MIGRATIONS {
        transaction.execute_batch(migration.sql)?;
        set_meta(transaction, "min_reader", &migration.min_reader.to_string())?;
    }
    transaction
        .execute_batch("DROP TABLE keys; DROP TABLE sums; DROP TABLE settled; DROP TABLE accepted;")?;
    set_meta(transaction, "schema", &SCHEMA.to_string())?;
    set_meta(transaction, "ledger_id", &random_hex()?)?;
    set_aside.map_or(Ok(()), |at| closing::close_whole(transaction, Hour::of(at)))
}

/// Adds what `schema` has more than the one before it.
fn add(transaction: &Transaction<'_>, schema: usize) -> rusqlite::Result<()> {
    let migration = &MIGRATIONS[schema - 1];
    transaction.execute_batch(migration.sql)?;
    set_meta(transaction, "min_reader", &migration.min_reader.to_string())?;
    set_meta(transaction, "schema", &schema.to_string())
}

/// Begins the upgrade; from now on the older version refuses the file.
fn begin(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    add(transaction, 2)?;
    if meta(transaction, "ledger_id")?.is_none() {
        set_meta(transaction, "ledger_id", &random_hex()?)?;
    }
    let held: i64 = transaction.query_row("SELECT count(*) FROM keys", [], |row| row.get(0))?;
    set_meta(transaction, keys::OLD_KEYS, &held.to_string())?;
    set_meta(transaction, COUNTED_UP_TO, &i64::MIN.to_string())?;
    transaction.execute_batch(
        "INSERT INTO totals (dimension, accepted) SELECT dimension, plus(micros, 0) FROM accepted;
         INSERT INTO totals (dimension, forgotten_billed) SELECT dimension, plus(micros, 0) FROM settled WHERE true
             ON CONFLICT (dimension) DO UPDATE SET forgotten_billed = excluded.forgotten_billed;",
    )?;
    totals::restore_counts(transaction)?;
    let mut put = transaction.prepare(
        "INSERT INTO totals (dimension, billed, pending, dead) VALUES (?1, plus(?2, 0), plus(?3, 0), plus(?4, 0))
         ON CONFLICT (dimension) DO UPDATE SET
             billed = excluded.billed, pending = excluded.pending, dead = excluded.dead",
    )?;
    for (dimension, counted) in totals::recount(transaction)? {
        let blob = super::amount::blob;
        put.execute(params![dimension, blob(counted.billed), blob(counted.pending), blob(counted.dead)])?;
    }
    Ok(())
}

/// Counts some allocations or moves some sums; at the end drops the empty tables.
fn go_on(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    if let Some(after) = meta(transaction, COUNTED_UP_TO)? {
        return count_allocations(transaction, after.parse().unwrap_or(i64::MIN));
    }
    if move_sums(transaction)? > 0 {
        return Ok(());
    }
    transaction.execute_batch("DROP TABLE sums; DROP TABLE settled; DROP TABLE accepted;")
}

fn count_allocations(transaction: &Transaction<'_>, after: i64) -> rusqlite::Result<()> {
    let mut find = transaction.prepare_cached("SELECT id FROM records WHERE id > ?1 ORDER BY id LIMIT ?2")?;
    let ids: Vec<i64> =
        find.query_map([after, STEP_ROWS], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    let Some(last) = ids.last() else {
        return transaction.execute("DELETE FROM meta WHERE key = ?1", [COUNTED_UP_TO]).map(|_| ());
    };
    let mut read = transaction.prepare_cached("SELECT allocations FROM records WHERE id = ?1")?;
    let mut put = transaction.prepare_cached("UPDATE records SET allocation_count = ?2 WHERE id = ?1")?;
    for id in &ids {
        let parts: Vec<IgnoredAny> = read.query_row([id], |row| json(0, row.get_ref(0)?.as_str()?))?;
        if !parts.is_empty() {
            put.execute(params![id, i64::try_from(parts.len()).unwrap_or(i64::MAX)])?;
        }
    }
    set_meta(transaction, COUNTED_UP_TO, &last.to_string())
}

fn move_sums(transaction: &Transaction<'_>) -> rusqlite::Result<usize> {
    struct Moved {
        slot: Slot,
        text: String,
        tags: TagSet,
        micros: u64,
        past: Past,
    }
    let mut find = transaction.prepare_cached(
        "SELECT pod, customer, dimension, hour, tags, micros, first_at, late_from FROM sums LIMIT ?1",
    )?;
    let rows = find.query_map([STEP_ROWS], |row| {
        let slot = Slot {
            pod: row.get(0)?,
            customer: row.get(1)?,
            dimension: row.get(2)?,
            hour: Hour::from_number(row.get(3)?),
        };
        let text: String = row.get(4)?;
        let late_from: Option<i64> = row.get(7)?;
        let past = Past::of(Timestamp::from_unix_millis(row.get(6)?), late_from.map(Hour::from_number));
        Ok(Moved { slot, tags: json(4, &text)?, text, micros: unsigned(row, 5)?, past })
    })?;
    let rows: Vec<Moved> = rows.collect::<rusqlite::Result<_>>()?;
    let mut remove = transaction.prepare_cached(
        "DELETE FROM sums WHERE pod = ?1 AND customer = ?2 AND dimension = ?3 AND hour = ?4 AND tags = ?5",
    )?;
    let mut moved =
        transaction.prepare_cached("UPDATE totals SET pending = minus(pending, ?2) WHERE dimension = ?1")?;
    for row in &rows {
        let slot = &row.slot;
        remove.execute(params![slot.pod, slot.customer, slot.dimension, slot.hour.number(), row.text])?;
        // The trigger of `slots` counts it again.
        moved.execute(params![slot.dimension, super::rows::signed(row.micros)])?;
        let parts = [(&row.tags, i128::from(row.micros))];
        slots::add(transaction, slot, &Rule::DEFAULT, parts, Part::Counted, row.past)?;
    }
    Ok(rows.len())
}
