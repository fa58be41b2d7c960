//! Real PostgreSQL servers and PgBouncer for tests: Debian's, started by the test process, unprivileged, on loopback.
//!
//! A shell, [`keeper.sh`](../src/keeper.sh), starts and ends the servers on behalf of the test process. It runs as
//! another user where the test process is root, because PostgreSQL refuses root. It ends everything when its standard
//! input ends, so a test process that is killed leaves nothing behind. The campaign of replicas uses the same shell
//! from Python.
//!
//! A failure here panics with what PostgreSQL said: a test cannot go on without its server.
#![expect(clippy::panic, reason = "only tests use this crate")]

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};

/// The role of every database's owner. It is no superuser.
pub const ROLE: &str = "tollgate";
/// The role's password, by which TCP connections authenticate (SCRAM-SHA-256).
pub const PASSWORD: &str = "of-the-tests";

/// How a group of servers is set up; the default is without TLS and on a disk without a limit.
#[derive(Debug, Default, Clone)]
pub struct Options<'a> {
    /// The size of the disk for the servers' data in MiB; 128 leaves about 80 free. Needs root or user namespaces.
    pub disk_mib: Option<u32>,
    /// Certificate and key of the server, as PEM texts.
    pub tls: Option<(&'a str, &'a str)>,
}

/// PostgreSQL servers that share a folder and a disk, and end together.
#[derive(Debug)]
pub struct Servers {
    keeper: Mutex<Keeper>,
    /// The folder of the Unix sockets; a superuser, `postgres`, connects there without a password.
    pub folder: String,
    /// The folder of PostgreSQL's programs.
    pub programs: String,
    names: AtomicU32,
}

#[derive(Debug)]
struct Keeper {
    process: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Keeper {
    /// Runs one command; its output, and whether it succeeded.
    fn run(&mut self, command: &str) -> (String, bool) {
        if let Some(commands) = &mut self.commands {
            writeln!(commands, "{command}").expect("the keeper runs");
        }
        self.answer()
    }

    fn answer(&mut self) -> (String, bool) {
        let mut output = String::new();
        loop {
            let begin = output.len();
            let read = self.answers.read_line(&mut output).expect("the keeper writes UTF-8");
            assert!(read > 0, "the keeper of PostgreSQL has ended: {output}");
            if let Some(code) = output[begin..].trim_end().strip_prefix("end ").map(str::to_owned) {
                output.truncate(begin);
                return (output, code == "0");
            }
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.commands = None;
        let _ = self.process.wait();
    }
}

impl Servers {
    /// No server yet.
    ///
    /// # Panics
    ///
    /// If PostgreSQL or PgBouncer is not installed.
    #[must_use]
    pub fn new(options: &Options<'_>) -> Self {
        let script = include_str!("keeper.sh");
        let (certificate, key) = options.tls.unwrap_or_default();
        let mut process = Command::new("sh")
            .args(["-c", script])
            .env("KEEPER", script)
            .env("ROOM", options.disk_mib.map(|mib| format!("{mib}m")).unwrap_or_default())
            .env("SERVER_CERTIFICATE", certificate)
            .env("SERVER_KEY", key)
            .env("PASSWORD", PASSWORD)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh runs");
        let commands = process.stdin.take();
        let answers = BufReader::new(process.stdout.take().expect("it is piped"));
        let mut keeper = Keeper { process, commands, answers };
        let (answer, good) = keeper.answer();
        let mut lines = answer.lines().map(str::to_owned);
        match (lines.next(), lines.next()) {
            (Some(folder), Some(programs)) if good => {
                Self { keeper: Mutex::new(keeper), folder, programs, names: AtomicU32::new(0) }
            }
            _ => panic!("{answer}"),
        }
    }

    fn run(&self, command: &str) -> String {
        let (output, good) = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).run(command);
        assert!(good, "{command}: {output}");
        output
    }

    /// Starts a new primary server.
    pub fn server(&self) -> Server<'_> {
        self.started(|name, port| format!("init {name} {port}"))
    }

    fn started(&self, command: impl Fn(&str, u16) -> String) -> Server<'_> {
        let next = || format!("server{}", self.names.fetch_add(1, Ordering::Relaxed));
        let (name, port, _) = self.on_a_free_port(next, command, |name| {
            self.run(&format!("forget {name}"));
        });
        Server { servers: self, name, port }
    }

    /// Runs a command with a port; returns the name, the port and what was printed. A port that was free a moment ago
    /// may be another process's now: then `forget` is called, and another port is tried.
    fn on_a_free_port(
        &self,
        name: impl Fn() -> String,
        command: impl Fn(&str, u16) -> String,
        forget: impl Fn(&str),
    ) -> (String, u16, String) {
        let mut tries = 0;
        loop {
            tries += 1;
            let (name, port) = (name(), free_port());
            let command = command(&name, port);
            let (output, good) = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).run(&command);
            if good {
                return (name, port, output);
            }
            assert!(tries < 5 && output.contains("could not bind"), "{command}: {output}");
            forget(&name);
        }
    }

    /// Leaves no room on the disk of limited size.
    pub fn fill_disk(&self) {
        self.run("fill");
    }

    /// Gives the room back.
    pub fn free_disk(&self) {
        self.run("free");
    }
}

/// A loopback port that was free a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    listener.local_addr().expect("it is bound").port()
}

/// One server of [`Servers`].
#[derive(Debug)]
pub struct Server<'a> {
    servers: &'a Servers,
    name: String,
    /// Its port on 127.0.0.1, and in the name of its Unix socket.
    pub port: u16,
}

/// The server that the tests of one process share, without TLS. It is started at the first use and ends with the
/// process.
///
/// A test that stops or changes a server starts [`Servers`] of its own.
#[must_use]
pub fn shared() -> &'static Server<'static> {
    static SERVERS: LazyLock<Servers> = LazyLock::new(|| Servers::new(&Options::default()));
    static SERVER: LazyLock<Server<'static>> = LazyLock::new(|| SERVERS.server());
    &SERVER
}

impl Server<'_> {
    /// A new, empty database in UTF-8, owned by [`ROLE`].
    #[must_use]
    pub fn database(&self) -> Database {
        self.database_in("UTF8")
    }

    /// A new, empty database in an encoding such as `LATIN1`.
    #[must_use]
    pub fn database_in(&self, encoding: &str) -> Database {
        self.database_with(encoding, "")
    }

    /// The same with further options of `CREATE DATABASE`, such as `LOCALE_PROVIDER icu ICU_LOCALE 'en-US'`.
    #[must_use]
    pub fn database_with(&self, encoding: &str, options: &str) -> Database {
        static NAMES: AtomicU32 = AtomicU32::new(0);
        let name = format!("test{}", NAMES.fetch_add(1, Ordering::Relaxed));
        self.sql(
            "postgres",
            &format!(
                "CREATE DATABASE {name} OWNER {ROLE} ENCODING '{encoding}' TEMPLATE template0 {options}"
            ),
        );
        Database { name, port: self.port, folder: self.servers.folder.clone() }
    }

    /// Runs one statement as superuser by psql; returns rows as lines, their values separated by bars.
    ///
    /// # Panics
    ///
    /// If the statement fails.
    pub fn sql(&self, database: &str, statement: &str) -> String {
        let mut psql = Command::new(format!("{}/psql", self.servers.programs));
        psql.args([
            "-X",
            "-q",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-U",
            "postgres",
            "-h",
            &self.servers.folder,
        ]);
        psql.args(["-p", &self.port.to_string(), "-d", database, "-c", statement]);
        let output = psql.output().expect("psql runs");
        assert!(
            output.status.success(),
            "{statement}: {}\n{}",
            String::from_utf8_lossy(&output.stderr),
            self.log()
        );
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// Changes a setting of the server that needs no restart, such as `default_transaction_read_only`.
    pub fn set(&self, setting: &str, value: &str) {
        self.sql("postgres", &format!("ALTER SYSTEM SET {setting} = {value}"));
        self.sql("postgres", "SELECT pg_reload_conf()");
        // The server reloads a moment later, and new sessions see it from then on.
        while self.sql("postgres", &format!("SHOW {setting}")) != value.trim_matches('\'') {}
    }

    /// Ends the server as `pg_ctl stop --mode=immediate` does: it recovers at the next start.
    pub fn stop_immediately(&self) {
        self.servers.run(&format!("stop {} immediate", self.name));
    }

    /// Ends the server after its sessions.
    pub fn stop(&self) {
        self.servers.run(&format!("stop {} fast", self.name));
    }

    /// Ends all the server's processes by SIGKILL.
    pub fn kill(&self) {
        self.servers.run(&format!("crash {}", self.name));
    }

    /// Starts a server that was ended.
    pub fn start(&self) {
        self.servers.run(&format!("start {}", self.name));
    }

    /// A streaming standby of this server. The primary waits for it from `set("synchronous_standby_names", "'*'")` on.
    pub fn standby(&self) -> Server<'_> {
        self.servers.started(|name, port| format!("standby {name} {port} {}", self.port))
    }

    /// Makes a standby a primary.
    pub fn promote(&self) {
        self.servers.run(&format!("promote {}", self.name));
    }

    /// PgBouncer in transaction mode before this server; clients connect to it as to the server, without TLS.
    pub fn bouncer(&self) -> Bouncer<'_> {
        let (_, port, process) = self.servers.on_a_free_port(
            String::new,
            |_, port| format!("bouncer {port} {}", self.port),
            |_| {},
        );
        let process = process.trim().to_owned();
        Bouncer { servers: self.servers, process, port }
    }

    /// The end of the server's log.
    #[must_use]
    pub fn log(&self) -> String {
        self.servers.run(&format!("log {}", self.name))
    }
}

/// PgBouncer; it ends with this value.
#[derive(Debug)]
pub struct Bouncer<'a> {
    servers: &'a Servers,
    process: String,
    /// Its port on 127.0.0.1.
    pub port: u16,
}

impl Drop for Bouncer<'_> {
    fn drop(&mut self) {
        self.servers.run(&format!("bouncer_end {}", self.process));
    }
}

/// One database of a server, owned by [`ROLE`].
#[derive(Debug, Clone)]
pub struct Database {
    /// Its name.
    pub name: String,
    /// The port of its server.
    pub port: u16,
    /// The folder of its server's Unix socket.
    pub folder: String,
}

impl Database {
    /// Its URL over TCP, with the password and without TLS.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_at(self.port)
    }

    /// The same through another port on 127.0.0.1: PgBouncer's, a standby's, a proxy's.
    #[must_use]
    pub fn url_at(&self, port: u16) -> String {
        format!("postgres://{ROLE}:{PASSWORD}@127.0.0.1:{port}/{}?sslmode=disable", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bouncer_whose_port_is_another_process_is_not_taken_for_ready() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (server, port) = (shared(), taken.local_addr().unwrap().port());
        let (said, good) =
            server.servers.keeper.lock().unwrap().run(&format!("bouncer {port} {}", server.port));
        assert!(!good && said.contains("could not bind"), "{said}");
        drop(server.bouncer());
    }
}
