//! Starting the binary as emulator and as sidecar, and talking to them.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpSocket;

/// The binary under test: that of the crate whose tests these are.
pub(crate) const PROGRAM: &str =
    match (option_env!("CARGO_BIN_EXE_tollgate"), option_env!("CARGO_BIN_EXE_tollgate-saas")) {
        (Some(program), _) | (None, Some(program)) => program,
        (None, None) => panic!("the tests' crate has a binary"),
    };

/// A hang of the binary under test fails the test after this time, and does not hang the build.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The same for a line of the log. It is far longer than a line takes on a slow machine.
const LINE_TIMEOUT: Duration = Duration::from_secs(120);

/// The binary with none of the caller's settings. It starts with no signal ignored: children inherit what their parent
/// ignores, and a shell starts a job in the background with SIGINT and SIGQUIT ignored, `nohup` with SIGHUP.
pub(crate) fn command(arguments: &[&str]) -> Command {
    command_ignoring(&[], arguments)
}

/// The same, but with these signals ignored.
pub(crate) fn command_ignoring(signals: &[&str], arguments: &[&str]) -> Command {
    let mut command = Command::new("env");
    command.arg("--default-signal").args(signals.iter().map(|signal| format!("--ignore-signal={signal}")));
    command.arg(PROGRAM).args(arguments).env_clear().stdin(Stdio::null());
    command
}

/// One HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.headers.lines();
        lines
            .filter_map(|line| line.split_once(": "))
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, v)| v)
    }
}

/// Sends one request and reads until the server closes.
pub(crate) fn http(addr: SocketAddr, method: &str, path: &str, body: &str) -> Answer {
    request(addr, &format!("{method} {path} HTTP/1.1\r\nhost: x\r\n"), body)
}

/// A GET as an application on the same host sends it.
pub(crate) fn get_local(addr: SocketAddr, path: &str) -> Answer {
    request(addr, &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n"), "")
}

/// A POST of JSON as an application on the same host sends it.
pub(crate) fn post(addr: SocketAddr, path: &str, json: &str) -> Answer {
    let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n");
    request(addr, &head, json)
}

/// Sends `head`, without its end, and `body`.
pub(crate) fn request(addr: SocketAddr, head: &str, body: &str) -> Answer {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(ANSWER_TIMEOUT)).unwrap();
    write!(stream, "{head}connection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (headers, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status =
        headers.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{text}"));
    Answer { status, headers: headers.to_owned(), body: body.to_owned() }
}

/// An emulator process.
pub(crate) struct Emulator {
    process: Child,
    pub(crate) addr: SocketAddr,
    pub(crate) public_keys: PathBuf,
}

impl Emulator {
    /// Starts one. All tests of a build share the keys of one folder, because making keys takes
    /// time.
    pub(crate) fn start() -> Self {
        Self::start_in(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulator"), &[])
    }

    pub(crate) fn start_in(keys: &Path, extra: &[&str]) -> Self {
        let mut process = command(&["emulator", "--addr", "127.0.0.1:0", "--json", "--keys"])
            .arg(keys)
            .args(extra)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut first = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut first).unwrap();
        let facts: Value = serde_json::from_str(&first).unwrap();
        let addr = facts["endpoint"].as_str().unwrap().trim_start_matches("http://").parse().unwrap();
        Self { process, addr, public_keys: facts["public_keys"].as_str().unwrap().into() }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Posts to the admin interface.
    pub(crate) fn admin(&self, path: &str, body: &str) -> Value {
        let answer = http(self.addr, "POST", path, body);
        assert_eq!(answer.status, 200, "{path} {body}: {answer:?}");
        answer.json()
    }

    pub(crate) fn calls(&self) -> Value {
        http(self.addr, "GET", "/_emulator/calls", "").json()
    }

    /// A sidecar that asks this emulator as the pod `pod`.
    pub(crate) fn sidecar(&self, pod: &str) -> Command {
        let mut command = command(&["run"]);
        self.configure(&mut command, pod);
        command
    }

    pub(crate) fn configure(&self, command: &mut Command, pod: &str) {
        command
            .env("TOLLGATE_PRODUCT_CODE", "demohourly")
            .env("TOLLGATE_PUBLIC_KEYS", &self.public_keys)
            .env("TOLLGATE_ENDPOINT_URL", self.endpoint())
            .env("TOLLGATE_PROBE_ADDR", "127.0.0.1:0")
            .env("TOLLGATE_APP_ADDR", "127.0.0.1:0")
            .env("TOLLGATE_STATE_DIR", "none")
            .env("TOLLGATE_POD_UID", pod)
            .env("TOLLGATE_LOG_FORMAT", "json")
            .env("AWS_REGION", "us-east-1")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("AWS_ACCESS_KEY_ID", pod)
            .env("AWS_SECRET_ACCESS_KEY", "any");
    }
}

/// Configures the emulator's metered product, with the ledger in `state`.
pub(crate) fn configure_metered(command: &mut Command, state: &Path) {
    command
        .env("TOLLGATE_MODE", "metered")
        .env("TOLLGATE_PRODUCT_CODE", "demometered")
        .env("TOLLGATE_DIMENSIONS", "requests")
        .env("TOLLGATE_STATE_DIR", state);
}

/// Configures the emulator's contract product.
pub(crate) fn configure_contract(command: &mut Command) {
    command
        .env_remove("TOLLGATE_PRODUCT_CODE")
        .env_remove("TOLLGATE_PUBLIC_KEYS")
        .env("TOLLGATE_MODE", "contract")
        .env("TOLLGATE_PRODUCT_ID", "prod-democontract");
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A sidecar process whose log is read line by line.
pub(crate) struct Sidecar {
    pub(crate) process: Child,
    log: Receiver<String>,
    /// Every line so far.
    pub(crate) seen: Vec<String>,
    pub(crate) addr: SocketAddr,
    /// The application's server.
    pub(crate) app_addr: Option<SocketAddr>,
}

impl Sidecar {
    /// Starts `command` and waits until its ports are bound.
    pub(crate) fn start(mut command: Command) -> Self {
        let mut process = command.stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(process.stderr.take().unwrap());
        let (lines, log) = channel();
        std::thread::spawn(move || {
            for line in stderr.lines() {
                let _ = lines.send(line.unwrap() + "\n");
            }
        });
        let addr = "127.0.0.1:0".parse().unwrap();
        let mut sidecar = Self { process, log, seen: Vec::new(), addr, app_addr: None };
        let started = sidecar.read_until(|line| line["event"] == "started");
        sidecar.addr = started["probe_addr"].as_str().unwrap().parse().unwrap();
        sidecar.app_addr = started["app_addr"].as_str().and_then(|addr| addr.parse().ok());
        sidecar
    }

    /// The next log line that fits; panics if the process ends before.
    pub(crate) fn read_until(&mut self, fits: impl Fn(&Value) -> bool) -> Value {
        loop {
            let parsed = self.read_line();
            if fits(&parsed) {
                return parsed;
            }
        }
    }

    /// The next line; panics if there is none.
    pub(crate) fn read_line(&mut self) -> Value {
        let line = self.log.recv_timeout(LINE_TIMEOUT).unwrap_or_else(|error| {
            let what = match error {
                RecvTimeoutError::Timeout => "the line that is waited for does not come",
                RecvTimeoutError::Disconnected => "the process ended without the line that was waited for",
            };
            panic!("{what}:\n{}", self.seen.concat())
        });
        let parsed = serde_json::from_str(&line).unwrap_or_default();
        self.seen.push(line);
        parsed
    }

    /// Waits for a state's line.
    pub(crate) fn wait_for(&mut self, state: &str) -> Value {
        self.read_until(|line| line["event"] == "state" && line["state"] == state)
    }

    /// Waits for the line of a state with a reason.
    pub(crate) fn wait_for_code(&mut self, state: &str, code: &str) -> Value {
        self.read_until(|line| line["event"] == "state" && line["state"] == state && line["code"] == code)
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        http(self.addr, "GET", path, "")
    }

    pub(crate) fn document(&self) -> Value {
        self.get("/entitlement").json()
    }

    pub(crate) fn signal(&self, signal: &str) {
        let status =
            Command::new("kill").args(["-s", signal, &self.process.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Reads the log to its end and returns how the process ended, with its last line.
    pub(crate) fn end(mut self) -> (ExitStatus, String) {
        loop {
            match self.log.recv_timeout(LINE_TIMEOUT) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it does not end:\n{}", self.seen.concat()),
            }
        }
        let all = self.seen.concat();
        let last = all.lines().last().unwrap_or_default().to_owned();
        (self.process.wait().unwrap(), last)
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An address that refuses every connection. It stays bound, without listening, while the tests run; otherwise another
/// test's server might get the port.
pub(crate) fn refusing_addr() -> SocketAddr {
    static BOUND: LazyLock<TcpSocket> = LazyLock::new(|| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        socket
    });
    BOUND.local_addr().unwrap()
}
