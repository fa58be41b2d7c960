//! Tests against a real server.

mod bench;
mod beside_intake;
mod broken;
mod checks;
mod collations;
mod connecting;
mod counting;
mod engine;
mod fate;
mod leading;
mod lifecycle;
mod model;
mod moving;
mod open;
mod proxy;
mod repair;
mod rules;
mod sealing;
mod sending;
mod steps;
mod upkeep;
mod whole;

use std::sync::Arc;
use std::time::Duration;

use crate::connect::Connector;
use crate::dsn::Source;
use crate::schema::Expected;
use crate::testing::{Database, Server};
use tollgate_clock::WallClock;
use tollgate_ledger::LedgerError;
use tollgate_ledger::testing::{SETTLE, START};
use tollgate_marketplace::{Hour, Quantity};
use tollgate_time::Timestamp;

fn connector(database: &Database) -> Arc<Connector> {
    let facts = Expected { product: "demometered".to_owned(), settle: SETTLE };
    Arc::new(Connector { dsn: Source::File(database.url_file()), facts })
}
