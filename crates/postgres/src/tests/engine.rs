//! The engine, as `tollgate-saas` uses it.

use super::bench::*;
use crate::PostgresEngine;
use tollgate_ledger::engine::{Engine as _, Grade};
use tollgate_ledger::testing::settings;

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_takes_usage_leads_seals_and_shows_it() {
    let bench = Bench::new().await;
    let engine = PostgresEngine;
    let file = bench.database.url_file();
    let clock = WallClock::fixed(START.plus(HOUR));
    let store = engine.open(file.clone(), settings(""), clock.clone(), Box::new(Unobserved));
    store.ready().await.unwrap();
    let before = store.written();
    let taken = store.take(vec![event(Some("a"), 1, START)], Box::new(())).await.unwrap();
    assert_eq!(taken, [Taken::Accepted]);
    assert!(store.written() > before && store.is_shared());
    assert_eq!(clock.now(), START, "the clock follows the database's");

    store.lead().await.unwrap();
    let later = START.plus(HOUR + SETTLE);
    bench.at(later).await;
    while store.seal(false, later).await.unwrap().more {}
    assert_eq!(store.due(later, 10).await.unwrap().len(), 1);

    let view = engine.look(file.clone(), None).await.unwrap();
    assert_eq!(view.totals().await.unwrap()["requests"].pending, 1);
    let examined = engine.examine(file, settings("")).await;
    assert!(examined.iter().all(|one| one.grade != Grade::Fault), "{examined:?}");
    store.leave().await;
}

#[tokio::test]
async fn no_event_is_judged_by_a_replicas_own_clock() {
    let bench = Bench::new().await;
    let clock = WallClock::fixed(START.minus(HOUR));
    let open =
        || PostgresEngine.open(bench.database.url_file(), settings(""), clock.clone(), Box::new(Unobserved));
    bench.database.name_it("postgres://tollgate:secret@127.0.0.1:1/usage?sslmode=disable");
    assert!(matches!(open().time_known().await, Err(LedgerError::Io(_))));
    assert!(!clock.is_read());
    bench.database.name_it(&bench.database.server.url(&bench.database.name));
    open().time_known().await.unwrap();
    assert_eq!(clock.now(), START);
}

#[tokio::test]
async fn a_command_makes_no_ledger() {
    let database = Server::shared().database().await;
    let error = PostgresEngine.look(database.url_file(), None).await.unwrap_err();
    assert!(matches!(&error, LedgerError::Unusable(text) if text.contains("holds no ledger yet")), "{error}");
    assert_eq!(database.run("SELECT to_regnamespace('tollgate')").await, [["NULL"]]);
}

#[test]
fn a_url_that_is_of_no_use_is_named_without_its_password() {
    let error = PostgresEngine.check_url("postgres://u:secret@h").unwrap_err();
    assert!(error.starts_with("names no database") && !error.contains("secret"), "{error}");
}
