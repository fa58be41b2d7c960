//! Connecting, and what is refused.

use super::*;
use crate::testing::Server;

#[tokio::test]
async fn replicas_that_start_at_once_make_one_ledger() {
    let database = Server::shared().database().await;
    let mut starting = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let connector = connector(&database);
        starting.spawn(async move { connector.connect().await.map(drop) });
    }
    while let Some(started) = starting.join_next().await {
        started.unwrap().unwrap();
    }
    assert_eq!(database.run("SELECT count(*), min(schema) FROM tollgate.ledger").await, [["1", "1"]]);
}
