//! Tests against a real server.

mod bench;
mod beside_intake;
mod broken;
mod checks;
mod connecting;
mod counting;
mod engine;
mod leading;
mod lifecycle;
mod model;
mod moving;
mod repair;
mod sealing;
mod sending;
mod steps;
mod upkeep;

use std::sync::Arc;
use std::time::Duration;

use crate::connect::Connector;
use crate::dsn::Source;
use crate::schema::Expected;
use crate::testing::{Database, Server};
use tollgate_clock::WallClock;
use tollgate_ledger::LedgerError;
use tollgate_marketplace::{Hour, Quantity};
use tollgate_time::Timestamp;

/// How long an hour takes its own late events.
const SETTLE: Duration = Duration::from_secs(120);

/// 2026-11-24T08:00:00Z, the start of an hour.
const START: Timestamp = Timestamp::from_unix_seconds(1_795_507_200);

fn connector(database: &Database) -> Arc<Connector> {
    let facts = Expected { product: "demometered".to_owned(), settle: SETTLE };
    Arc::new(Connector { dsn: Source::File(database.url_file()), facts })
}
