//! A database whose own collation orders texts as people do: the ledger's are ordered by their bytes, and no index of
//! it depends on the system's collations.

use super::bench::*;
use super::steps::check_balance;
use crate::{LeaseTimes, PostgresSettings, PostgresStore};
use tollgate_ledger::store::{Store as _, View as _};
use tollgate_ledger::testing::settings;
use tollgate_ledger::view::{From, Looked};

/// In the order of their bytes. A dictionary has them in another order.
const DIMENSIONS: [&str; 5] = ["B", "Z", "_a", "a", "ä"];

/// Indexes of a text whose order is not that of its bytes. 950 is the collation "C".
const BY_ANOTHER_ORDER: &str = "SELECT indexrelid::regclass::text FROM pg_catalog.pg_index
    JOIN pg_catalog.pg_class ON pg_class.oid = indexrelid
    WHERE relnamespace = to_regnamespace('tollgate') AND EXISTS (
        SELECT 1 FROM unnest(indcollation::oid[]) AS used (id) WHERE used.id NOT IN (0, 950))
    ORDER BY 1";

#[tokio::test]
async fn texts_are_ordered_by_their_bytes_whatever_the_databases_collation() {
    let fixture = Server::shared().0;
    let database = fixture.database_with("UTF8", "LOCALE_PROVIDER icu ICU_LOCALE 'en-US'");
    let bench = Bench::of(Database::of(fixture, database)).await;
    let ours: Vec<String> = DIMENSIONS.iter().map(|name| format!("('{name}')")).collect();
    let sql = format!("SELECT name FROM (VALUES {}) AS names (name) ORDER BY name", ours.join(","));
    let dictionary: Vec<String> = bench.run(&sql).await.into_iter().flatten().collect();
    assert_ne!(dictionary, DIMENSIONS, "the database's own order is another one");
    assert_eq!(bench.run(BY_ANOTHER_ORDER).await, Vec::<Vec<String>>::new());

    let settings = PostgresSettings {
        url_file: bench.database.url_file(),
        name: "a".to_owned(),
        ledger: settings(""),
        lease: LeaseTimes::default(),
    };
    let replica = PostgresStore::start(&settings, WallClock::fixed(START), Box::new(Unobserved));
    replica.lead().await.unwrap();
    for name in dictionary {
        let event = Event { dimension: name, ..event(None, 1, START) };
        assert_eq!(replica.take(vec![event], Box::new(())).await.unwrap(), [Taken::Accepted]);
    }
    // A page goes on behind the last row of the one before.
    let (mut seen, mut next) = (Vec::new(), Some(From::default()));
    while let Some(from) = next {
        let piece = replica.open_slots(Looked::default(), from, 1).await.unwrap();
        seen.extend(piece.rows.into_iter().map(|open| open.dimension));
        next = piece.next;
    }
    assert_eq!(seen, DIMENSIONS);
    bench.at(START.plus(HOUR + SETTLE)).await;
    replica.ready().await.unwrap();
    while replica.seal(false, START).await.unwrap().more {}
    let sealed: Vec<String> =
        bench.run("SELECT dimension FROM tollgate.records ORDER BY id").await.into_iter().flatten().collect();
    assert_eq!(sealed, DIMENSIONS, "sealed in this order");
    check_balance(&bench.database).await;
}
