//! What SQLite alone commits, beside the ledger: `benches/usage.py` compares the sidecar with it.
//!
//! Usage: `bare_ledger bare|store FOLDER ROWS_PER_COMMIT SECONDS`; prints rows a second. Each row is an event with an `id` of its
//! own that looks as random as a UUID does.
//!
//! - `store`: the ledger as the sidecar calls it, without HTTP, JSON or threads.
//! - `bare`: the statements by which the ledger counts such events, and no others, by rusqlite alone, with SQLite's own settings
//!   but for those that durability asks for. The tables are the ledger's.

#![expect(clippy::panic, clippy::print_stdout, clippy::unwrap_used, reason = "a measuring tool")]

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::functions::FunctionFlags;
use rusqlite::{Connection, TransactionBehavior, params};

use tollgate_ledger::{FILE_NAME, Ledger, Settings};
use tollgate_marketplace::{Customer, Quantity, TagSet};
use tollgate_metering::event::Event;
use tollgate_time::Timestamp;

/// 2026-11-24T08:00:00Z
const NOW: Timestamp = Timestamp::from_unix_seconds(1_795_507_200);

#[expect(clippy::disallowed_methods, clippy::cast_precision_loss, reason = "it measures time")]
fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, what, folder, rows, seconds] = arguments.as_slice() else {
        panic!("bare|store FOLDER ROWS_PER_COMMIT SECONDS")
    };
    let (folder, rows): (&Path, u64) = (Path::new(folder), rows.parse().unwrap());
    let mut commit: Box<dyn FnMut(u64)> = match what.as_str() {
        "store" => store(folder),
        "bare" => bare(folder),
        other => panic!("{other}: bare or store"),
    };
    let until = Duration::from_secs(seconds.parse().unwrap());
    let (began, mut done) = (Instant::now(), 0);
    while began.elapsed() < until {
        commit(rows);
        done += rows;
    }
    println!("{}", done as f64 / began.elapsed().as_secs_f64());
}

fn open(folder: &Path) -> Ledger {
    let settings = Settings {
        product: "demometered".to_owned(),
        pod: "pod".to_owned(),
        settle: Duration::ZERO,
        bytes_max: 1 << 30,
        started_at: NOW,
        zero_dimensions: Vec::new(),
        aws_door: false,
        idempotency_window: Duration::from_secs(48 * 3600),
    };
    Ledger::open(folder, settings).unwrap()
}

/// Numbers that look random and never repeat (splitmix64).
struct Ids(u64);

impl Ids {
    fn next(&mut self) -> u128 {
        self.0 += 1;
        let half = |seed: u64| {
            let mut z = self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        u128::from(half(1)) << 64 | u128::from(half(2))
    }
}

fn store(folder: &Path) -> Box<dyn FnMut(u64)> {
    let mut ledger = open(folder);
    let mut ids = Ids(0);
    Box::new(move |rows| {
        let events: Vec<Event> = (0..rows)
            .map(|_| Event {
                id: Some(format!("{:032x}", ids.next())),
                dimension: "requests".to_owned(),
                quantity: Quantity::from_micros(500_000).unwrap(),
                at: NOW,
                tags: TagSet::default(),
                customer: Customer::Own,
                content: [7; 32],
            })
            .collect();
        ledger.take(&events, NOW).unwrap();
    })
}

fn bare(folder: &Path) -> Box<dyn FnMut(u64)> {
    drop(open(folder));
    let mut connection = Connection::open(folder.join(FILE_NAME)).unwrap();
    for (name, value) in [("locking_mode", "EXCLUSIVE"), ("journal_mode", "WAL"), ("synchronous", "FULL")] {
        connection.pragma_update(None, name, value).unwrap();
    }
    for (name, sign) in [("plus", 1), ("minus", -1)] {
        let flags = FunctionFlags::SQLITE_UTF8
            | FunctionFlags::SQLITE_DETERMINISTIC
            | FunctionFlags::SQLITE_INNOCUOUS;
        connection
            .create_scalar_function(name, 2, flags, move |context| {
                let operand = |index| {
                    context.get::<Option<[u8; 16]>>(index).map(|bytes| bytes.map_or(0, i128::from_be_bytes))
                };
                Ok((operand(0)? + sign * operand(1)?).to_be_bytes())
            })
            .unwrap();
    }
    let amount = 500_000_i128;
    let (mut ids, mut commits) = (Ids(0), 0);
    Box::new(move |rows| {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        let run = |sql: &str, values: &[&dyn rusqlite::ToSql]| {
            transaction.prepare_cached(sql).unwrap().execute(values).unwrap();
        };
        for _ in 0..rows {
            let claim = "INSERT INTO keys_0 (hash, content) SELECT ?1, ?2 WHERE 1
                 AND NOT EXISTS (SELECT 1 FROM keys_1 WHERE hash = ?1) AND NOT EXISTS (SELECT 1 FROM keys_2 WHERE hash = ?1)
                 AND NOT EXISTS (SELECT 1 FROM keys_3 WHERE hash = ?1) ON CONFLICT (hash) DO NOTHING";
            run(claim, params![ids.next().to_be_bytes(), [7_u8; 8]]);
        }
        run(
            "UPDATE key_tables SET first_at = min(coalesce(first_at, ?1), ?1), last_at = ?1, held = held + ?2 WHERE number = 0",
            params![NOW.unix_millis(), rows.cast_signed()],
        );
        let sum = (amount * i128::from(rows)).to_be_bytes();
        run("INSERT INTO slots (pod, customer, dimension, hour, amount, additive, total, first_at)
                 VALUES ('pod', '', 'requests', 498752, ?1, zeroblob(16), ?1, ?2)
                 ON CONFLICT (hour, pod, customer, dimension) DO UPDATE SET amount = plus(amount, excluded.amount),
                 additive = plus(additive, excluded.additive), total = plus(total, excluded.total),
                 first_at = min(first_at, excluded.first_at)", params![sum, NOW.unix_millis()]);
        run(
            "INSERT INTO totals (dimension, accepted) VALUES ('requests', ?1)
                 ON CONFLICT (dimension) DO UPDATE SET accepted = plus(accepted, excluded.accepted)",
            params![sum],
        );
        commits += 1;
        run("INSERT OR REPLACE INTO meta (key, value) VALUES ('sequence', ?1)", params![commits.to_string()]);
        transaction.commit().unwrap();
    })
}
