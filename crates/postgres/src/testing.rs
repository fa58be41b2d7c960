//! A real PostgreSQL for tests: Debian's `postgresql`, started on a folder of its own and ended with the test program.
//!
//! PostgreSQL refuses to run as root. There it runs as the user `postgres`, which Debian's package makes.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio_postgres::NoTls;

/// Runs the server until its standard input closes, then ends it and removes its folder. So it never outlives the test
/// program, however that ends.
const KEEPER: &str = r#"
"$@" >"$DIR/log" 2>&1 &
server=$!
read -r _
kill -INT $server 2>/dev/null
wait $server
rm -rf "$DIR"
"#;

/// A running server.
#[derive(Debug)]
pub struct Server {
    folder: PathBuf,
    port: u16,
    keeper: Child,
    /// Closing it ends the server.
    stdin: Option<ChildStdin>,
}

impl Server {
    /// The server that all tests of this program share.
    #[must_use]
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Server> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(&[]))
    }

    /// Starts a server of its own, with further lines of `postgresql.conf`.
    #[must_use]
    pub fn start(settings: &[&str]) -> Self {
        let programs = programs();
        let folder = ["/dev/shm", "/tmp"].map(Path::new).into_iter().find(|parent| parent.is_dir());
        let folder = tempfile::Builder::new()
            .prefix("tollgate-postgres-")
            .tempdir_in(folder.expect("a folder for temporary files"))
            .expect("a folder can be made")
            .keep();
        let data = folder.join("data");
        if let Some((user, group)) = other_user() {
            chown(&folder, Some(user), Some(group)).expect("root may give a folder away");
        }
        let made = as_server(&programs.join("initdb"))
            .args(["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync", "-D"])
            .arg(&data)
            .current_dir("/")
            .output()
            .expect("initdb runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr());
        let port = port.expect("a free port").port();
        let mut lines = format!(
            "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = '{}'\nmax_connections = 200\n",
            folder.display()
        );
        for line in settings {
            let _ = writeln!(lines, "{line}");
        }
        let mut file =
            fs::OpenOptions::new().append(true).open(data.join("postgresql.conf")).expect("it was made");
        file.write_all(lines.as_bytes()).expect("it can be written");
        let server = as_server(&programs.join("postgres"));
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(server.get_program())
            .args(server.get_args())
            .arg("-D")
            .arg(&data)
            .env("DIR", &folder)
            .current_dir("/")
            .stdin(Stdio::piped())
            .spawn()
            .expect("sh runs");
        let stdin = keeper.stdin.take();
        let server = Self { folder, port, keeper, stdin };
        server.wait_until_ready(&programs);
        server
    }

    fn wait_until_ready(&self, programs: &Path) {
        // `pg_ctl` would need the server to be its own.
        let ready = Command::new("sh")
            .args(["-c", "for _ in $(seq 600); do \"$@\" && exit; sleep 0.05; done; exit 1", "ready"])
            .arg(programs.join("pg_isready"))
            .args(["-q", "-t", "1", "-h"])
            .arg(&self.folder)
            .args(["-p", &self.port.to_string()])
            .status();
        let log = || fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        assert!(ready.is_ok_and(|status| status.success()), "the server does not answer: {}", log());
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The folder of the socket and the log; `data` is in it.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Sends a signal to the server's first process.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let file = fs::read_to_string(self.folder.join("data/postmaster.pid")).expect("it runs");
        let pid = file.lines().next().and_then(|line| line.parse().ok());
        let pid = pid.and_then(rustix::process::Pid::from_raw).expect("the first line is its number");
        rustix::process::kill_process(pid, signal).expect("it is ours");
    }

    /// A URL of a database without TLS.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// Runs statements in a database, as its superuser.
    pub async fn run(&self, database: &str, sql: &str) -> Vec<Vec<String>> {
        let config = format!("host=127.0.0.1 port={} user=postgres dbname={database}", self.port);
        let (client, connection) = tokio_postgres::connect(&config, NoTls).await.expect("it runs");
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

    /// Makes an empty database, with the file that names it.
    pub async fn database(&'static self) -> Database {
        Database::make(self, "").await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stdin = None;
        let _ = self.keeper.wait();
    }
}

/// A database of one test.
#[derive(Debug)]
pub struct Database {
    /// The server.
    pub server: &'static Server,
    /// Its name.
    pub name: String,
    folder: tempfile::TempDir,
}

impl Database {
    /// Makes a database with these options of `CREATE DATABASE`.
    pub async fn make(server: &'static Server, options: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        server.run("postgres", &format!("CREATE DATABASE {name} TEMPLATE template0 {options}")).await;
        let database = Self { server, name, folder: tempfile::tempdir().expect("a folder can be made") };
        database.name_it(&server.url(&database.name));
        database
    }

    /// Replaces the URL in the file.
    pub fn name_it(&self, url: &str) {
        // As Kubernetes does it: a reader sees the old file or the new one.
        let file = self.folder.path().join("new");
        fs::write(&file, url).expect("the folder is ours");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("the file is ours");
        fs::rename(&file, self.url_file()).expect("the folder is ours");
    }

    /// The file that names the database.
    #[must_use]
    pub fn url_file(&self) -> PathBuf {
        self.folder.path().join("url")
    }

    /// Runs statements, as the superuser.
    pub async fn run(&self, sql: &str) -> Vec<Vec<String>> {
        self.server.run(&self.name, sql).await
    }
}

/// The folder of PostgreSQL's programs, of the newest version.
pub(crate) fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("Debian's package postgresql is installed");
    let number = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
    let newest = versions.flatten().map(|version| version.path()).max_by_key(number);
    newest.expect("Debian's package postgresql is installed").join("bin")
}

/// The user that runs the server if we are root, who may not.
fn other_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").expect("every system has it");
    let line =
        users.lines().find(|line| line.starts_with("postgres:")).expect("Debian's package makes the user");
    let mut numbers = line.split(':').skip(2).map(|number| number.parse().expect("a number"));
    Some((numbers.next().expect("the user"), numbers.next().expect("the group")))
}

/// A command that runs as the server's user.
fn as_server(program: &Path) -> Command {
    let Some((user, group)) = other_user() else { return Command::new(program) };
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={user}"), &format!("--regid={group}"), "--clear-groups", "--"]);
    command.arg(program);
    command
}
