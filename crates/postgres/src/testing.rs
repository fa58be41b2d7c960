//! A real PostgreSQL for this crate's tests: databases of the fixture's servers, and the files that name them.

use std::fs;
use std::path::PathBuf;

use tokio_postgres::NoTls;
use tollgate_postgres_fixture::{Options, Servers};

/// A running server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Server(pub(crate) &'static tollgate_postgres_fixture::Server<'static>);

impl Server {
    /// The server that all tests of this program share.
    pub(crate) fn shared() -> Self {
        Self(tollgate_postgres_fixture::shared())
    }

    /// A server that a test may stop or change. It ends with the test program.
    pub(crate) fn own() -> Self {
        Self::with(&Options::default())
    }

    /// The same with options.
    pub(crate) fn with(options: &Options<'_>) -> Self {
        let servers = Box::leak(Box::new(Servers::new(options)));
        Self(Box::leak(Box::new(servers.server())))
    }

    /// Makes an empty database, with the file that names it.
    pub(crate) async fn database(&self) -> Database {
        Database::of(self.0, self.0.database())
    }

    /// The port on 127.0.0.1.
    pub(crate) fn port(self) -> u16 {
        self.0.port
    }

    /// A URL of a database, without TLS.
    pub(crate) fn url(self, database: &str) -> String {
        let (role, password) = (tollgate_postgres_fixture::ROLE, tollgate_postgres_fixture::PASSWORD);
        format!("postgres://{role}:{password}@127.0.0.1:{}/{database}?sslmode=disable", self.0.port)
    }
}

/// A database of one test.
#[derive(Debug)]
pub(crate) struct Database {
    pub(crate) server: Server,
    pub(crate) name: String,
    folder: tempfile::TempDir,
}

impl Database {
    /// A database of a server, with the file that names it.
    pub(crate) fn of(
        server: &'static tollgate_postgres_fixture::Server<'static>,
        database: tollgate_postgres_fixture::Database,
    ) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let made = Self { server: Server(server), name: database.name, folder };
        made.name_it(&made.url());
        made
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        self.server.url(&self.name)
    }

    /// Replaces the URL in the file.
    pub(crate) fn name_it(&self, url: &str) {
        // As Kubernetes does it: a reader sees the old file or the new one.
        let file = self.folder.path().join("new");
        fs::write(&file, url).expect("the folder is ours");
        fs::rename(&file, self.url_file()).expect("the folder is ours");
    }

    /// The file that names the database.
    pub(crate) fn url_file(&self) -> PathBuf {
        self.folder.path().join("url")
    }

    /// Runs statements, as the database's owner.
    pub(crate) async fn run(&self, sql: &str) -> Vec<Vec<String>> {
        let url = self.url().replace("?sslmode=disable", "");
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.expect("it runs");
        let connection = tokio::spawn(connection);
        let messages = client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        drop(client);
        let _ = connection.await;
        let text =
            |row: &tokio_postgres::SimpleQueryRow, column| row.get(column).unwrap_or("NULL").to_owned();
        let row = |message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|column| text(&row, column)).collect())
            }
            _ => None,
        };
        messages.into_iter().filter_map(row).collect()
    }
}
