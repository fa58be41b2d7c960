//! The bare loop: executes only the statements with which the ledger counts events, to measure what SQLite alone needs
//! for them. The statements are the ledger's own; a test checks that they write as many rows and pages.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior, params};

use super::{START, settings};
use crate::amount::{self, blob};
use crate::database::{SET_META, classify};
use crate::{FILE_NAME, Ledger, LedgerError, keys, slots, totals};
use tollgate_marketplace::{Customer, Hour, Quantity, TagSet};
use tollgate_metering::event::Event;

/// A ledger's file, with SQLite's default settings except those needed for durability.
#[derive(Debug)]
pub struct Bare {
    connection: Connection,
    claim: String,
    commits: u64,
}

/// An event at the start of the hour.
#[must_use]
pub fn event(id: String) -> Event {
    Event {
        id: Some(id),
        dimension: "requests".to_owned(),
        quantity: Quantity::from_micros(500_000).expect("below AWS's maximum").into(),
        at: START,
        tags: TagSet::default(),
        customer: Customer::Own,
        content: [7; 32],
    }
}

impl Bare {
    /// Makes a ledger of [`settings`] in `folder`, counts one event, and opens its file.
    pub fn open(folder: &Path) -> Result<Self, LedgerError> {
        let mut ledger = Ledger::open(folder, settings("pod"))?;
        ledger.take(&[event("first".to_owned())], START)?;
        drop(ledger);
        let path = folder.join(FILE_NAME);
        let open = || {
            let connection = Connection::open(&path)?;
            for (name, value) in
                [("locking_mode", "EXCLUSIVE"), ("journal_mode", "WAL"), ("synchronous", "FULL")]
            {
                connection.pragma_update(None, name, value)?;
            }
            amount::register(&connection)?;
            Ok(Self { connection, claim: keys::claim_sql(0, false), commits: 1000 })
        };
        open().map_err(|error| classify(&path, &error))
    }

    /// Counts one event for each of these hashes, in one transaction.
    pub fn commit(&mut self, hashes: &[[u8; 16]]) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let run = |sql: &str, values: &[&dyn rusqlite::ToSql]| {
            transaction.prepare_cached(sql)?.execute(values).map(|_| ())
        };
        for hash in hashes {
            run(&self.claim, params![hash, [7_u8; 8]])?;
        }
        let count = i64::try_from(hashes.len()).unwrap_or(i64::MAX);
        run(keys::NOTE, params![0, START.unix_millis(), count])?;
        let sum = blob(500_000 * i128::from(count));
        let hour = Hour::of(START).number();
        let none: Option<i64> = None;
        transaction.prepare_cached(slots::GROW)?.query_row(
            params![hour, "pod", "", "requests", sum, blob(0), sum, START.unix_millis(), none],
            |_| Ok(()),
        )?;
        run(totals::ACCEPT, params!["requests", sum])?;
        self.commits += 1;
        run(SET_META, params!["sequence", self.commits.to_string()])?;
        transaction.commit()
    }

    /// Pages that commits have added to the write-ahead log, and rows that they changed.
    pub fn written(&self) -> rusqlite::Result<(i64, i64)> {
        super::written(&self.connection)
    }
}
