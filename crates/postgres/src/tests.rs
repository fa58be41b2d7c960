//! Tests against a real server.

mod connecting;
mod leading;
mod moving;
mod sealing;
mod sending;
mod steps;

use std::sync::Arc;
use std::time::Duration;

use crate::connect::Connector;
use crate::dsn::Source;
use crate::schema::Expected;
use crate::testing::Database;

/// How long an hour takes its own late events.
const SETTLE: Duration = Duration::from_secs(120);

fn connector(database: &Database) -> Arc<Connector> {
    let facts = Expected { product: "demometered".to_owned(), settle: SETTLE };
    Arc::new(Connector { dsn: Source::File(database.url_file()), ca_bundle: None, facts })
}
