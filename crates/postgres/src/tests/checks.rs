//! What `doctor` says about real servers.

use super::*;
use crate::testing::Server;
use crate::{Grade, LeaseTimes, PostgresSettings, Seen, examine};
use tollgate_ledger::testing::settings;

async fn seen(database: &Database) -> Vec<Seen> {
    let settings = PostgresSettings {
        url_file: database.url_file(),
        name: "doctor".to_owned(),
        ledger: settings(""),
        lease: LeaseTimes::default(),
    };
    examine(&settings).await
}

fn of<'a>(all: &'a [Seen], check: &str) -> &'a Seen {
    all.iter().find(|seen| seen.check == check).unwrap_or_else(|| panic!("{check} is missing: {all:?}"))
}

#[tokio::test]
async fn a_sound_ledger_has_no_warning_and_looking_changes_nothing() {
    let database = Server::shared().database().await;
    let all = seen(&database).await;
    assert!(of(&all, "ledger_schema").seen.contains("no ledger yet"), "{all:?}");
    assert_eq!(database.run("SELECT to_regnamespace('tollgate') IS NULL").await, [["t"]], "nothing was made");
    connector(&database).connect().await.unwrap();
    let all = seen(&database).await;
    assert!(all.iter().all(|seen| seen.grade == Grade::Good), "{all:?}");
    assert!(of(&all, "ledger_database").seen.contains("a primary"), "{all:?}");
    assert_eq!(database.run("SELECT count(*) FROM tollgate.writers").await, [["0"]]);
}

#[tokio::test]
async fn what_is_wrong_is_said_with_what_to_do() {
    let database = Server::shared().database().await;
    connector(&database).connect().await.unwrap();
    for (wrong, check, grade, part) in [
        ("UPDATE tollgate.ledger SET state = 'moving'", "ledger_state", Grade::Fault, "being moved"),
        ("UPDATE tollgate.ledger SET product = 'other'", "ledger_product", Grade::Warning, "product other"),
        (
            "INSERT INTO tollgate.accepted VALUES ('account 1 ', 'requests', 1, 7)",
            "ledger_balance",
            Grade::Fault,
            "in requests",
        ),
        (
            "UPDATE tollgate.ledger SET min_reader = 99, schema = 99",
            "ledger_schema",
            Grade::Fault,
            "schema 99",
        ),
    ] {
        database.run(wrong).await;
        let all = seen(&database).await;
        let seen = of(&all, check);
        assert!(seen.grade == grade && seen.seen.contains(part) && !seen.remedy.is_empty(), "{seen:?}");
    }
    database.name_it("postgres://tollgate:secret@127.0.0.1:1/usage?sslmode=disable");
    let all = seen(&database).await;
    assert_eq!((all.len(), all[0].grade), (1, Grade::Fault));
    assert!(all[0].seen.contains("127.0.0.1:1/usage") && !all[0].seen.contains("secret"), "{all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_for_which_no_commit_waits_is_a_warning() {
    // A server of its own: its standby belongs to all of its databases.
    let server = Server::own();
    let database = server.database().await;
    let _standby = server.0.standby();
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while of(&seen(&database).await, "ledger_standby").grade == Grade::Good {}
    });
    waited.await.unwrap();
    let all = seen(&database).await;
    let asynchronous = of(&all, "ledger_standby");
    assert!(asynchronous.seen.contains("walreceiver is asynchronous"), "{asynchronous:?}");
}
