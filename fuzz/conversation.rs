//! One of our servers behind a Unix socket, and a client that sends the fuzzer's input to it.
//!
//! An input with a line of five equals signs is a request in parts: the first line is method and path, the other lines
//! before the divider are headers, and the body follows the divider. The client sets the framing headers correctly, so
//! that the request passes the HTTP library and reaches the handler. Any other input is sent unchanged; then the client
//! closes its sending side.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tollgate_http::{Address, Handler, Limits, Listener, serve};

/// The longest time for an answer: the server keeps everything in memory.
const PATIENCE: Duration = Duration::from_secs(8);

/// A running server and the path of its socket.
pub struct Server {
    runtime: Runtime,
    path: PathBuf,
    _stop: watch::Sender<bool>,
}

/// One complete answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

/// The parts of a request that the checks of its answer need.
pub struct Sent {
    pub method: String,
    pub headers: Vec<(String, String)>,
}

impl Server {
    /// Calls `handler` inside the runtime and serves the handler that it returns.
    pub fn start<H: Handler>(name: &str, limits: Limits, handler: impl FnOnce() -> H) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let path = folder().join(format!("tollgate-fuzz-{name}-{}.sock", std::process::id()));
        let stop = watch::Sender::new(false);
        runtime.block_on(async {
            let listener = Listener::bind(&Address::Unix(path.clone())).expect("a socket");
            tokio::spawn(serve(listener, limits, handler(), stop.subscribe()));
        });
        Self { runtime, path, _stop: stop }
    }

    /// Sends `input`. A request in parts has at most one answer, which is returned. Raw bytes can have any number of
    /// answers, which are checked here.
    pub fn ask(&self, input: &[u8]) -> Option<(Sent, Answer)> {
        let divider = b"\n=====\n";
        let at = input.windows(divider.len()).position(|window| window == divider);
        self.runtime.block_on(async {
            let mut stream = UnixStream::connect(&self.path).await.expect("the server listens");
            let talk = async {
                match at {
                    Some(at) => parts(&mut stream, &input[..at], &input[at + divider.len()..]).await,
                    None => {
                        raw(&mut stream, input).await;
                        None
                    }
                }
            };
            tokio::time::timeout(PATIENCE, talk).await.expect("the server answers or closes")
        })
    }

    /// Runs `future` in the server's runtime.
    pub fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }
}

/// In memory if there is `/dev/shm`: the speed of a disk would limit the fuzzer.
pub fn folder() -> PathBuf {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() }
}

async fn raw(stream: &mut UnixStream, input: &[u8]) {
    // Errors are expected: the server may have answered and closed the connection already.
    let _ = stream.write_all(input).await;
    let _ = stream.shutdown().await;
    let mut answers = Vec::new();
    let _ = stream.read_to_end(&mut answers).await;
    if !answers.is_empty() {
        assert!(answers.starts_with(b"HTTP/1."), "{:?}", String::from_utf8_lossy(&answers));
        let status = std::str::from_utf8(&answers[9..12]).ok().and_then(|status| status.parse::<u16>().ok());
        assert!(status.is_some_and(|status| status < 500 || status == 503), "{status:?}");
    }
}

async fn parts(stream: &mut UnixStream, head: &[u8], body: &[u8]) -> Option<(Sent, Answer)> {
    let head = String::from_utf8_lossy(head);
    let mut lines = head.lines();
    let (method, path) = lines.next()?.split_once(' ')?;
    let token = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    if !token(method) || !token(path) || method == "CONNECT" {
        return None;
    }
    let framing = ["content-length", "transfer-encoding", "connection", "expect", "upgrade"];
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .filter(|(name, _)| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') && !name.is_empty())
        .filter(|(_, value)| value.bytes().all(|b| (b' '..=b'~').contains(&b)))
        .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
        .filter(|(name, _)| !framing.contains(&name.as_str()))
        .collect();
    let mut request = format!("{method} {path} HTTP/1.1\r\n");
    for (name, value) in &headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str(&format!("content-length: {}\r\nconnection: close\r\n\r\n", body.len()));
    let mut bytes = request.into_bytes();
    bytes.extend_from_slice(body);
    let _ = stream.write_all(&bytes).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = read(&answer)?;
    Some((Sent { method: method.to_owned(), headers }, answer))
}

fn read(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).expect("our headers are ASCII").to_owned();
    let status = head.get(9..12)?.parse().expect("a status");
    Some(Answer { status, head, body: bytes[end + 4..].to_vec() })
}
