//! Each form of server that the fixture promises, tried with PostgreSQL's own client.

use std::process::{Command, Output};

use tollgate_postgres_fixture::{Database, Options, PASSWORD, Server, Servers, shared};

/// What an application's connection answers to a statement: psql over TCP with the role's password.
fn ask(url: &str, statement: &str) -> Result<String, String> {
    let psql = Command::new("psql").args(["-X", "-q", "-A", "-t", url, "-c", statement]).output();
    let Output { status, stdout, stderr } = psql.expect("psql runs");
    let text = String::from_utf8_lossy(if status.success() { &stdout } else { &stderr }).trim().to_owned();
    if status.success() { Ok(text) } else { Err(text) }
}

fn table(server: &Server<'_>) -> Database {
    let database = server.database();
    let made = "CREATE SCHEMA own; CREATE TABLE own.t (x text); INSERT INTO own.t VALUES ('kept')";
    ask(&database.url(), made).expect("the role may make a schema");
    database
}

const READ: &str = "SELECT string_agg(x, ' ' ORDER BY x) FROM own.t";
const WRITE: &str = "INSERT INTO own.t VALUES ('more')";

#[test]
fn databases_are_empty_and_apart_and_need_the_password() {
    let (first, second) = (table(shared()), shared().database());
    assert_ne!(first.name, second.name);
    assert!(ask(&second.url(), READ).unwrap_err().contains("does not exist"));
    let forged = first.url().replace(PASSWORD, "wrong");
    assert!(ask(&forged, READ).unwrap_err().contains("password authentication failed"));
    assert_eq!(ask(&first.url(), "SHOW fsync").unwrap(), "on");
    assert_eq!(ask(&first.url(), "SELECT rolsuper FROM pg_roles WHERE rolname = current_user").unwrap(), "f");
    let latin = shared().database_in("LATIN1");
    assert_eq!(ask(&latin.url(), "SHOW server_encoding").unwrap(), "LATIN1");
}

#[test]
fn a_server_that_was_killed_or_stopped_has_what_was_committed() {
    let servers = Servers::new(&Options::default());
    let server = servers.server();
    let database = table(&server);
    for end in [Server::kill, Server::stop_immediately, Server::stop] {
        end(&server);
        assert!(ask(&database.url(), READ).unwrap_err().contains("Connection refused"));
        server.start();
        assert_eq!(ask(&database.url(), READ).unwrap(), "kept");
    }
}

#[test]
fn settings_make_a_server_read_only_or_unsafe() {
    let servers = Servers::new(&Options::default());
    let server = servers.server();
    let database = table(&server);
    server.set("default_transaction_read_only", "on");
    assert!(ask(&database.url(), WRITE).unwrap_err().contains("read-only transaction"));
    server.set("default_transaction_read_only", "off");
    ask(&database.url(), WRITE).unwrap();
    server.set("fsync", "off");
    assert_eq!(ask(&database.url(), "SHOW fsync").unwrap(), "off");
}

#[test]
fn a_full_disk_refuses_rows_until_it_has_room() {
    let servers = Servers::new(&Options { disk_mib: Some(128), ..Options::default() });
    let server = servers.server();
    let database = table(&server);
    servers.fill_disk();
    let many = "INSERT INTO own.t SELECT repeat('x', 1000) FROM generate_series(1, 50000)";
    let refused = ask(&database.url(), many).unwrap_err();
    assert!(refused.contains("No space left on device"), "{refused}");
    servers.free_disk();
    ask(&database.url(), WRITE).unwrap();
    assert_eq!(ask(&database.url(), READ).unwrap(), "kept more");
}

#[test]
fn a_synchronous_standby_has_each_commit_and_takes_over() {
    let servers = Servers::new(&Options::default());
    let primary = servers.server();
    let database = table(&primary);
    let standby = primary.standby();
    primary.set("synchronous_standby_names", "'*'");
    while primary.sql("postgres", "SELECT sync_state FROM pg_stat_replication") != "sync" {}
    ask(&database.url(), WRITE).unwrap();
    primary.kill();
    let there = database.url_at(standby.port);
    assert!(ask(&there, WRITE).unwrap_err().contains("read-only transaction"));
    standby.promote();
    assert_eq!(ask(&there, READ).unwrap(), "kept more");
    ask(&there, WRITE).unwrap();
}

#[test]
fn tls_shows_the_given_certificate() {
    let tls = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/tls");
    let read = |name: &str| std::fs::read_to_string(format!("{tls}/{name}")).unwrap();
    let (certificate, key) = (read("server.pem"), read("server-key.pem"));
    let servers = Servers::new(&Options { tls: Some((&certificate, &key)), ..Options::default() });
    let server = servers.server();
    let database = server.database();
    let verified = |ca: &str| {
        let verify = format!("sslmode=verify-ca&sslrootcert={tls}/{ca}");
        ask(
            &database.url().replace("sslmode=disable", &verify),
            "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
        )
    };
    assert_eq!(verified("ca.pem").unwrap(), "t");
    assert!(verified("other-ca.pem").unwrap_err().contains("certificate verify failed"));
}

#[test]
fn a_bouncer_gives_each_transaction_any_session() {
    let servers = Servers::new(&Options::default());
    let server = servers.server();
    let database = table(&server);
    let port = {
        let bouncer = server.bouncer();
        let url = database.url_at(bouncer.port);
        assert_eq!(ask(&url, READ).unwrap(), "kept");
        // What one client sets for its session, another finds.
        ask(&url, "SET work_mem = '5MB'").unwrap();
        assert_eq!(ask(&url, "SHOW work_mem").unwrap(), "5MB");
        bouncer.port
    };
    assert!(ask(&database.url_at(port), READ).unwrap_err().contains("Connection refused"));
}
