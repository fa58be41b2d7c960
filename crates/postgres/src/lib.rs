//! The ledger in PostgreSQL, for several replicas: acknowledged usage in one database, which any replica writes and one
//! replica seals and sends. Only this crate talks to PostgreSQL; what a ledger is, and its decisions, are
//! `tollgate-ledger`'s.
//!
//! # Invariants
//! - Usage is acknowledged after its transaction was committed with `synchronous_commit`.
//! - An event's idempotency key and its quantity are committed in one transaction.
//! - If the answer to a commit was lost, the database says whether it was done, before anybody is told anything.
//! - Each replica adds to sum rows of its own. They are added up when the hour is sealed, and of a maximum the largest
//!   is taken. All replicas count an hour's usage of a dimension by the rule with which it began, however they are
//!   configured.
//! - Usage counts to an hour only while it is open: intake holds the hour's shared lock, closing the exclusive one. The
//!   database's time decides.
//! - Only the holder of the lease seals and sends, and each of its transactions checks that it still is.
//! - There is no state of a session, so a pooler in transaction mode may stand between.
//!
//! The schema is described in `schema`.

mod carrying;
mod checks;
mod columns;
mod connect;
mod counter;
mod counting;
mod dsn;
mod engine;
mod fail_point;
mod identities;
mod lease;
mod lifecycle;
mod memory;
mod moving;
mod open_listing;
mod open_slots;
mod repair;
mod rows;
mod rules;
mod schema;
mod sealing;
mod sending;
mod store;
#[cfg(test)]
mod testing;
mod totals;
mod upkeep;
mod view;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tollgate_clock::WallClock;
use tollgate_ledger::LedgerSettings;
use tollgate_metering::aggregation::Rules;
use tollgate_time::Timestamp;

pub use checks::{Grade, Seen, examine};
use connect::{Connector, Link, Purpose};
pub use engine::PostgresEngine;
pub use lease::LeaseTimes;
use lease::{Leader, LeaderSettings};
pub use moving::{Destination, MoveError, Moved, move_ledger};
pub use store::PostgresStore;

/// Where the database is, and how a replica uses the ledger in it.
#[derive(Debug, Clone)]
pub struct PostgresSettings {
    /// The file with the database's URL. It is read anew for each connection.
    pub url_file: PathBuf,
    /// The replica's name, for people.
    pub name: String,
    /// As for the ledger on disk. `pod`, `bytes_max`, `started_at` and `aws_door` have no meaning here.
    pub ledger: LedgerSettings,
    /// Which replica seals and sends.
    pub lease: LeaseTimes,
}

impl PostgresSettings {
    fn connector(&self) -> Connector {
        Connector {
            dsn: dsn::Source::File(self.url_file.clone()),
            facts: schema::Expected { product: self.ledger.product.clone(), settle: self.ledger.settle },
        }
    }
}

/// The ledger of one replica.
#[derive(Debug)]
pub struct PostgresLedger {
    /// For reading and repair.
    views: Link,
    /// For sealing and sending, by the replica that holds the lease.
    leader: Arc<Leader>,
}

impl PostgresLedger {
    #[cfg(test)]
    pub(crate) fn new(settings: PostgresSettings) -> Self {
        let ledger = Self::with_clock(&settings, WallClock::system());
        drop(settings);
        ledger
    }

    /// A ledger that connects when it is used first.
    #[must_use]
    pub fn with_clock(settings: &PostgresSettings, clock: WallClock) -> Self {
        Self::made(settings, clock, Purpose::Use)
    }

    /// To read, whatever product the ledger is for: the schema is neither made nor upgraded.
    fn to_look(url_file: PathBuf) -> Self {
        let nothing = LedgerSettings {
            product: String::new(),
            pod: String::new(),
            settle: Duration::ZERO,
            bytes_max: u64::MAX,
            started_at: Timestamp::from_unix_millis(0),
            zero_dimensions: Vec::new(),
            aws_door: false,
            idempotency_window: Duration::ZERO,
            rules: Rules::default(),
        };
        let settings =
            PostgresSettings { url_file, name: String::new(), ledger: nothing, lease: LeaseTimes::default() };
        Self::made(&settings, WallClock::system(), Purpose::Look)
    }

    fn made(settings: &PostgresSettings, clock: WallClock, purpose: Purpose) -> Self {
        let connector = Arc::new(settings.connector());
        let leader = Leader::new(Arc::clone(&connector), clock, LeaderSettings::of(settings));
        Self { views: Link::for_purpose(connector, purpose), leader: Arc::new(leader) }
    }
}

#[cfg(test)]
mod tests;
