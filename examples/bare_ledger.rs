//! What SQLite alone commits: the ledger's rows in a loop, without HTTP, JSON or threads. `benches/usage.py` compares
//! the sidecar with it.
//!
//! Usage: `bare_ledger FILE ROWS_PER_COMMIT SECONDS`; prints rows a second.

#![expect(clippy::panic, clippy::print_stdout, clippy::unwrap_used, reason = "a measuring tool")]

use std::time::{Duration, Instant};

use rusqlite::{Connection, TransactionBehavior, params};

#[expect(clippy::disallowed_methods, clippy::cast_precision_loss, reason = "it measures time")]
fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, file, rows, seconds] = arguments.as_slice() else { panic!("FILE ROWS_PER_COMMIT SECONDS") };
    let (rows, seconds): (u64, u64) = (rows.parse().unwrap(), seconds.parse().unwrap());
    let mut connection = Connection::open(file).unwrap();
    for (name, value) in [("locking_mode", "EXCLUSIVE"), ("journal_mode", "WAL"), ("synchronous", "FULL")] {
        connection.pragma_update(None, name, value).unwrap();
    }
    connection
        .execute_batch(
            "CREATE TABLE keys (id TEXT PRIMARY KEY, content BLOB NOT NULL, seen_at INTEGER NOT NULL)
                 STRICT, WITHOUT ROWID;
             CREATE INDEX keys_seen_at ON keys (seen_at);
             CREATE TABLE sums (
                 pod TEXT NOT NULL, customer TEXT NOT NULL, dimension TEXT NOT NULL, hour INTEGER NOT NULL,
                 tags TEXT NOT NULL, micros INTEGER NOT NULL, first_at INTEGER NOT NULL, late_from INTEGER,
                 PRIMARY KEY (hour, pod, customer, dimension, tags)) STRICT, WITHOUT ROWID;
             CREATE TABLE accepted (dimension TEXT PRIMARY KEY, micros INTEGER NOT NULL) STRICT, WITHOUT ROWID;",
        )
        .unwrap();
    let began = Instant::now();
    let mut done = 0_u64;
    while began.elapsed() < Duration::from_secs(seconds) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        for _ in 0..rows {
            done += 1;
            let key = done.to_string();
            for sql in [
                "INSERT INTO keys VALUES (?1, zeroblob(32), 1)",
                "INSERT INTO sums VALUES ('pod', '', 'requests', 1, '{}', ?1, 1, NULL)
                 ON CONFLICT DO UPDATE SET micros = micros + 1",
                "INSERT INTO accepted VALUES ('requests', ?1) ON CONFLICT DO UPDATE SET micros = micros + 1",
            ] {
                let mut statement = transaction.prepare_cached(sql).unwrap();
                let key = if sql.contains("keys") { key.clone() } else { "1".to_owned() };
                statement.execute(params![key]).unwrap();
            }
        }
        transaction.commit().unwrap();
    }
    println!("{}", done as f64 / began.elapsed().as_secs_f64());
}
