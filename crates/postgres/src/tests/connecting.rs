//! Connecting: what is refused, with one sentence each, and what goes on by itself.

use tollgate_postgres_fixture::{Options, PASSWORD, ROLE};

use super::bench::*;
use crate::connect::Fault;

/// How a database is refused. A replica there acknowledges nothing.
async fn refused(database: &Database) -> Fault {
    let connector = connector(database);
    let fault = connector.connect().await.expect_err("it is refused");
    let settings = writer("a");
    let replica = Writer::start(connector, settings, WallClock::system(), Box::new(Unobserved));
    let error = replica.take(vec![event(None, 1, START)], Box::new(())).await.unwrap_err();
    assert!(error.to_string().contains(fault.text()), "{error} is not {fault:?}");
    assert!(!error.to_string().contains(PASSWORD), "{error}");
    fault
}

fn lasting(fault: &Fault, part: &str) {
    assert!(matches!(fault, Fault::Lasting(text) if text.contains(part)), "{fault:?} is not {part:?}");
}

fn transient(fault: &Fault, part: &str) {
    assert!(matches!(fault, Fault::Transient(text) if text.contains(part)), "{fault:?} is not {part:?}");
}

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

#[tokio::test]
async fn a_url_that_is_of_no_use_is_refused() {
    let database = Server::shared().database().await;
    let good = database.url();
    for (url, part) in [
        (String::new(), "url does not hold one URL"),
        (good.replace("sslmode=disable", "sslmode=require"), "use sslmode=verify-full"),
        (good.replace("sslmode=disable", "sslrootcert=/nonexistent"), "sslrootcert /nonexistent"),
        (good.replace(PASSWORD, "wrong"), "password authentication failed"),
        (good.replace(&database.name, "absent"), "\"absent\\\" does not exist"),
    ] {
        database.name_it(&url);
        lasting(&refused(&database).await, part);
    }
    std::fs::remove_file(database.url_file()).unwrap();
    lasting(&refused(&database).await, "cannot be read");
    database.name_it(&good.replace(&format!(":{}/", database.server.port()), ":1/"));
    transient(&refused(&database).await, "127.0.0.1:1/");
}

#[tokio::test]
async fn a_schema_that_is_foreign_or_too_new_is_refused_and_left_as_it_is() {
    let database = Server::shared().database().await;
    database.run("CREATE SCHEMA tollgate; CREATE TABLE tollgate.tolls (amount int)").await;
    lasting(&refused(&database).await, "has a schema \"tollgate\" that is not a ledger");
    assert_eq!(
        database.run("SELECT count(*) FROM pg_class WHERE relnamespace = 'tollgate'::regnamespace").await,
        [["1"]]
    );
    let bench = Bench::new().await;
    bench.run("UPDATE tollgate.ledger SET schema = 9, min_reader = 9").await;
    lasting(&refused(&bench.database).await, "needs tollgate-saas with ledger schema 9 or newer");
    // The version after this one, while it is rolled out.
    bench
        .run("UPDATE tollgate.ledger SET min_reader = 1; ALTER TABLE tollgate.sums ADD COLUMN later int")
        .await;
    assert_eq!(one(&bench.replica("a"), event(Some("a"), 1, START)).await, Taken::Accepted);
    assert_eq!(bench.run("SELECT schema FROM tollgate.ledger").await, [["9"]]);
}

#[tokio::test]
async fn a_ledger_of_another_product_is_taken_over_only_when_all_was_sent() {
    let bench = Bench::new().await;
    let replica = bench.replica("a");
    one(&replica, event(None, 1, START)).await;
    bench.run("UPDATE tollgate.ledger SET product = 'other', version = version + 1").await;
    lasting(&refused(&bench.database).await, "holds usage of product other that AWS has not taken yet");
    let error = replica.take(vec![event(None, 2, START)], Box::new(())).await.unwrap_err();
    assert!(matches!(&error, LedgerError::Unusable(text) if text.contains("product other now")), "{error}");
    assert_eq!(bench.accepted().await, "1");
    bench.run("DELETE FROM tollgate.sums; DELETE FROM tollgate.accepted").await;
    connector(&bench.database).connect().await.unwrap();
    assert_eq!(one(&replica, event(None, 4, START)).await, Taken::Accepted);
    assert_eq!(bench.run("SELECT product FROM tollgate.ledger").await, [["demometered"]]);
}

/// A group of the product before is counted, and not committed yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_is_not_taken_over_beside_a_group_that_is_under_way() {
    let bench = Bench::new().await;
    let group = connector(&bench.database).connect().await.unwrap();
    let (locks, hour) = (crate::schema::LOCKS, Hour::of(START).number());
    group.batch(&format!("BEGIN; SELECT pg_advisory_xact_lock_shared({locks}, 0)")).await.unwrap();
    let sum =
        "INSERT INTO tollgate.sums (hour, customer, dimension, writer, tags_key, tags, amount, first_at)";
    group
        .batch(&format!("{sum} VALUES ({hour}, 'account 1 ', 'requests', 1, '', '{{}}', 1, 0)"))
        .await
        .unwrap();
    let mut other = Connector::clone(&connector(&bench.database));
    other.facts.product = "other".to_owned();
    let taking = tokio::spawn(async move { other.connect().await.map(drop) });
    let waits = format!("SELECT count(*) FROM {WAITING} AND classid = {locks}");
    while bench.run(&waits).await == [["0"]] && !taking.is_finished() {}
    group.batch("COMMIT").await.unwrap();
    let fault = taking.await.unwrap().expect_err("the ledger has usage");
    lasting(&fault, "holds usage of product demometered that AWS has not taken yet");
}

#[tokio::test]
async fn a_schema_that_an_administrator_has_made_is_used() {
    let database = Server::shared().database().await;
    let server = database.server.0;
    let user = format!("poor_{}", database.name);
    server.sql(
        &database.name,
        &format!(
            "CREATE ROLE {user} LOGIN PASSWORD 'p'; REVOKE CREATE ON DATABASE {} FROM PUBLIC",
            database.name
        ),
    );
    database.name_it(&database.url().replace(&format!("{ROLE}:{PASSWORD}"), &format!("{user}:p")));
    lasting(&refused(&database).await, "permission denied for database");
    server.sql(&database.name, &format!("CREATE SCHEMA tollgate AUTHORIZATION {user}"));
    connector(&database).connect().await.unwrap();
}

#[tokio::test]
async fn a_password_that_changes_needs_no_restart() {
    let bench = Bench::new().await;
    let (server, name) = (bench.database.server.0, &bench.database.name);
    let user = format!("rotated_{name}");
    server.sql(name, &format!("CREATE ROLE {user} LOGIN PASSWORD 'first' IN ROLE {ROLE}"));
    let url = |password: &str| {
        bench.database.url().replace(&format!("{ROLE}:{PASSWORD}"), &format!("{user}:{password}"))
    };
    bench.database.name_it(&url("first"));
    let replica = bench.replica("a");
    one(&replica, event(None, 1, START)).await;
    server.sql(name, &format!("ALTER ROLE {user} PASSWORD 'second'"));
    let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{user}'");
    server.sql(name, &end);
    // Whether the connection had ended when the request was sent decides whether it fails or waits for an answer.
    let before = tollgate_clock::monotonic();
    let waiting = replica.clone();
    let waiting = tokio::spawn(async move { waiting.take(vec![event(None, 2, START)], Box::new(())).await });
    let refused = async {
        while replica.failed_since(before).is_none() {
            tokio::task::yield_now().await;
        }
        replica.take(vec![event(None, 4, START)], Box::new(())).await.unwrap_err().to_string()
    };
    let refused = tokio::time::timeout(Duration::from_secs(10), refused).await.unwrap();
    assert!(refused.contains("password authentication failed"), "{refused}");
    bench.database.name_it(&url("second"));
    let again = async {
        while replica.take(vec![event(None, 8, START)], Box::new(())).await.is_err() {
            tokio::task::yield_now().await;
        }
        waiting.await.unwrap()
    };
    let waited = tokio::time::timeout(Duration::from_secs(10), again).await.unwrap();
    let counted = if waited.is_ok() { 11 } else { 9 };
    assert_eq!(bench.accepted().await, counted.to_string());
}

#[tokio::test]
async fn another_encoding_is_refused() {
    let server = Server::shared();
    let database = Database::of(server.0, server.0.database_in("LATIN1"));
    lasting(&refused(&database).await, "has the encoding LATIN1");
}

/// One server, one thing after the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_may_lose_or_refuse_usage_is_refused() {
    let server = Server::own();
    let bench = Bench::on(server).await;
    let replica = bench.replica("a");
    one(&replica, event(None, 1, START)).await;

    let standby = server.0.standby();
    let primary = bench.database.url();
    let port = |port: u16| primary.replace(&format!(":{}/", server.port()), &format!(":{port}/"));
    bench.database.name_it(&port(standby.port));
    transient(&refused(&bench.database).await, "is a standby");
    // With both in the URL, whichever takes writes is used; a host that accepts and never answers is passed over.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let hosts =
        format!("@127.0.0.1:{},127.0.0.1:{},127.0.0.1:", silent.local_addr().unwrap().port(), standby.port);
    bench.database.name_it(&primary.replace("@127.0.0.1:", &hosts));
    assert_eq!(one(&bench.replica("b"), event(None, 2, START)).await, Taken::Accepted);
    bench.database.name_it(&primary);

    server.0.set("fsync", "off");
    lasting(&refused(&bench.database).await, "runs with fsync = off");
    server.0.set("fsync", "on");
    let isolation = "default_transaction_isolation";
    server.0.set(isolation, "'serializable'");
    let strange = bench.replica("c").take(vec![event(None, 4, START)], Box::new(())).await.unwrap_err();
    assert!(strange.to_string().contains("default_transaction_isolation = read committed"), "{strange}");
    server.0.set(isolation, "'read committed'");
    let open = bench.replica("d");
    one(&open, event(None, 0, START)).await;
    server.0.set("default_transaction_read_only", "on");
    transient(&refused(&bench.database).await, "is read-only");
    // The replica that is connected already gets no acknowledgement either.
    assert!(replica.take(vec![event(None, 8, START)], Box::new(())).await.is_err());
    assert!(open.take_whole(vec![event(None, 32, START)], Box::new(())).await.is_err(), "as a whole");
    server.0.set("default_transaction_read_only", "off");
    let again = async {
        while replica.take(vec![event(None, 16, START)], Box::new(())).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), again).await.unwrap();
    assert_eq!(bench.accepted().await, "19");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_certificate_is_checked_with_its_name() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/tls");
    let read = |name: &str| std::fs::read_to_string(format!("{folder}/{name}")).unwrap();
    let (certificate, key) = (read("server.pem"), read("server-key.pem"));
    let server = Server::with(&Options { tls: Some((&certificate, &key)), ..Options::default() });
    let database = server.database().await;
    let url = |parameters: &str| database.url().replace("sslmode=disable", parameters);

    database.name_it(&url(&format!("sslrootcert={folder}/ca.pem")));
    let encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let session = connector(&database).connect().await.unwrap();
    assert!(session.query(encrypted, &[]).await.unwrap()[0].get::<_, bool>(0));
    // Only the URL names another authority than the system's.
    database.name_it(&url("sslmode=verify-full"));
    lasting(
        &refused(&database).await,
        "is of no authority of the system: name its CA certificate by sslrootcert",
    );
    database.name_it(&url(&format!("sslrootcert={folder}/other-ca.pem")));
    lasting(&refused(&database).await, &format!("is of no authority in sslrootcert {folder}/other-ca.pem"));
    let parameters = format!("sslrootcert={folder}/ca.pem&hostaddr=127.0.0.1");
    database.name_it(&url(&parameters).replace("@127.0.0.1:", "@db.example:"));
    lasting(&refused(&database).await, "certificate not valid for name \"db.example\"");
    // A server without TLS where the URL wants it.
    let plain = Server::shared().database().await;
    plain.name_it(&plain.url().replace("sslmode=disable", &format!("sslrootcert={folder}/ca.pem")));
    transient(&refused(&plain).await, "server does not support TLS");
}

/// The server does not notice that nobody waits for an answer any more, and would go on with it.
#[tokio::test]
async fn no_statement_runs_without_a_limit() {
    let database = Server::shared().database().await;
    let link = crate::connect::Link::new(connector(&database));
    let settings = "SELECT current_setting('statement_timeout'), current_setting('lock_timeout')";
    let rows = link.query(settings, &[]).await.unwrap();
    assert_eq!((rows[0].get::<_, &str>(0), rows[0].get::<_, &str>(1)), ("10s", "5s"));
    let failed = link.query("SELECT 1 / 0", &[]).await.unwrap_err();
    assert!(failed.to_string().contains("division by zero"), "{failed}");
    let after = "SELECT pg_current_xact_id_if_assigned() IS NULL";
    assert!(link.query(after, &[]).await.unwrap()[0].get::<_, bool>(0), "the connection goes on");
}

/// PgBouncer in transaction mode: each transaction may have another session of the server.
#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_in_transaction_mode_may_stand_between() {
    let bench = Bench::new().await;
    let bouncer = bench.database.server.0.bouncer();
    let port = format!(":{}/", bench.database.server.port());
    bench.database.name_it(&bench.database.url().replace(&port, &format!(":{}/", bouncer.port)));
    let replicas = [0, 1, 2, 3, 4, 5].map(|number| bench.replica(&number.to_string()));
    let mut taking = tokio::task::JoinSet::new();
    for (number, replica) in replicas.iter().enumerate() {
        for client in 0..4 {
            let replica = replica.clone();
            taking.spawn(async move {
                for request in 0..10 {
                    // Each id in two replicas, one of which must count it.
                    let id = format!("{}-{client}-{request}", number / 2);
                    let events = vec![event(Some(&id), 1, START), event(None, 10, START)];
                    let taken = if client == 0 {
                        replica.take_whole(events, Box::new(())).await.unwrap()
                    } else {
                        take(&replica, events).await
                    };
                    assert!(matches!(taken[..], [Taken::Accepted | Taken::Duplicate, Taken::Accepted]));
                }
            });
        }
    }
    while let Some(taken) = taking.join_next().await {
        taken.unwrap();
    }
    // 3 pairs of replicas with 4 clients and 10 requests; 6 replicas.
    assert_eq!(bench.accepted().await, (3 * 4 * 10 + 6 * 4 * 10 * 10).to_string());
}
