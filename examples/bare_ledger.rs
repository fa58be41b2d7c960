//! The commits of SQLite alone, and those of the ledger: `benches/usage.py` compares the sidecar
//! with them.
//!
//! Usage: `bare_ledger bare|store FOLDER ROWS_PER_COMMIT SECONDS`; prints rows a second. Each row is an event with a
//! random `id` of its own, as a UUID is.
//!
//! - `store`: the ledger as the sidecar calls it, without HTTP, JSON or threads.
//! - `bare`: only the statements by which the ledger counts such events (`tollgate_ledger::testing::bare`).

#![expect(clippy::panic, clippy::print_stdout, clippy::unwrap_used, reason = "a measuring tool")]

use std::path::Path;
use std::time::{Duration, Instant};

use tollgate_ledger::Ledger;
use tollgate_ledger::testing::bare::{Bare, event};
use tollgate_ledger::testing::{START, settings};

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

/// Pseudo-random numbers that never repeat (splitmix64).
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
    let mut ledger = Ledger::open(folder, settings("pod")).unwrap();
    let mut ids = Ids(0);
    Box::new(move |rows| {
        let events: Vec<_> = (0..rows).map(|_| event(format!("{:032x}", ids.next()))).collect();
        ledger.take(&events, START).unwrap();
    })
}

fn bare(folder: &Path) -> Box<dyn FnMut(u64)> {
    let mut bare = Bare::open(folder).unwrap();
    let mut ids = Ids(0);
    Box::new(move |rows| {
        let hashes: Vec<_> = (0..rows).map(|_| ids.next().to_be_bytes()).collect();
        bare.commit(&hashes).unwrap();
    })
}
