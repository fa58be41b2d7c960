//! The hyper shell of every server here: bind, accept, limits, drain.
//!
//! - HTTP/1.1 without TLS: the sidecar's servers are used inside a pod, the emulator on a laptop.
//! - Every wait for a peer has a limit. If there are too many connections, the oldest idle one is closed: a slow client
//!   must not be able to block the kubelet's probe, nor to cut a request that is being served.
//! - It does not depend on what is served.

pub mod client;
mod connections;
mod joined;

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Either, Full, combinators::BoxBody};
use hyper::body::{Body as _, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use connections::Connections;

/// An error while a body is produced.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The body of an answer: complete, or made while it is sent.
pub type Body = Either<Full<Bytes>, BoxBody<Bytes, BodyError>>;

/// The connection is closed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("connection abandoned")]
pub struct Abandoned;

/// What a server does with one request.
pub trait Handler: Send + Sync + 'static {
    /// The answer, if it needs neither the body nor a wait; otherwise [`Handler::handle`] is called.
    fn at_once(&self, _request: &Request<Incoming>) -> Option<Response<Body>> {
        None
    }

    /// Answers, or abandons the connection.
    fn handle(
        &self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<Body>, Abandoned>> + Send;

    /// The answer to a request that took longer than [`Limits::request_timeout`].
    fn too_late(&self) -> Response<Body> {
        text(StatusCode::REQUEST_TIMEOUT, "the request took too long\n")
    }
}

/// The limits of one server; the server explains its values.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Open connections. Beyond it the oldest idle one is closed; if all serve a request, the next one waits.
    pub connections_max: usize,
    /// From accept, or from the last answer, to the end of the next request's headers. Also ends idle connections.
    pub header_timeout: Duration,
    /// Bytes of request line and headers; hyper answers 431 above it.
    pub header_bytes_max: usize,
    /// From the first byte of a request until its answer is ready, body included.
    pub request_timeout: Duration,
    /// From the order to drain until connections still busy are cut.
    pub drain_timeout: Duration,
    /// Whether an abandoned TCP connection is reset (RST) instead of closed (FIN), as after a crash.
    pub reset_when_abandoned: bool,
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// An IP address and port.
    Tcp(SocketAddr),
    /// A Unix socket's path.
    Unix(PathBuf),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A bound socket that accepts.
#[derive(Debug)]
pub enum Listener {
    /// Over IP.
    Tcp(TcpListener),
    /// Over a Unix socket, whose file is removed when the listener is dropped.
    Unix(UnixListener, SocketFile),
}

/// A Unix socket's file, removed on drop.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It may be gone already; the error cannot be handled.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Connections that the kernel may queue before they are accepted: the probes of a full node at once.
const BACKLOG: i32 = 1024;

impl Limits {
    /// Lowers the number of connections if the process may open only few files: to `part` in `of` of the descriptors
    /// that nothing else needs. With more, accepting would fail, and a probe would wait behind connections that cannot
    /// be accepted.
    #[must_use]
    pub fn within(self, descriptors: u64, part: u64, of: u64) -> Self {
        let share = descriptors.saturating_sub(DESCRIPTORS_ELSEWHERE).saturating_mul(part) / of;
        let share = usize::try_from(share).unwrap_or(usize::MAX).max(1);
        Self { connections_max: self.connections_max.min(share), ..self }
    }
}

/// Descriptors for everything but the servers' connections: listeners, the ledger with its log, AWS, DNS, files being
/// read.
const DESCRIPTORS_ELSEWHERE: u64 = 40;

/// How many files this process may have open (`RLIMIT_NOFILE`).
#[must_use]
pub fn descriptors() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX)
}

impl Listener {
    /// Binds. `[::]` accepts IPv4 too, and falls back to `0.0.0.0` if the kernel has no IPv6.
    pub fn bind(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(addr) => bind_tcp(*addr).map(Self::Tcp),
            Address::Unix(path) => bind_unix(path),
        }
    }

    /// The bound address, with the kernel's port if 0 was requested.
    pub fn local_address(&self) -> io::Result<Address> {
        Ok(match self {
            Self::Tcp(listener) => Address::Tcp(listener.local_addr()?),
            Self::Unix(_, file) => Address::Unix(file.0.clone()),
        })
    }
}

fn bind_tcp(addr: SocketAddr) -> io::Result<TcpListener> {
    match bind_socket(addr) {
        Err(error) if addr.ip() == Ipv6Addr::UNSPECIFIED && no_ipv6(&error) => {
            bind_socket(SocketAddr::from((Ipv4Addr::UNSPECIFIED, addr.port())))
        }
        other => other,
    }
}

fn no_ipv6(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(EAFNOSUPPORT)
}

/// "Address family not supported by protocol" on Linux; std has no stable kind for it.
const EAFNOSUPPORT: i32 = 97;

fn bind_socket(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(addr),
        socket2::Type::STREAM,
        Some(socket2::Protocol::TCP),
    )?;
    if addr.ip() == Ipv6Addr::UNSPECIFIED {
        socket.set_only_v6(false)?;
    }
    // A restarted container must not wait for the old connections' TIME_WAIT.
    socket.set_reuse_address(true)?;
    // Answers are one small segment; delaying it to join a second one would only delay the probe. Linux gives an
    // accepted connection the listener's options, which saves a system call for each.
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn bind_unix(path: &Path) -> io::Result<Listener> {
    use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
    // A socket left by a killed process refuses connections; one that answers is in use.
    let stale = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
        && std::os::unix::net::UnixStream::connect(path).is_err();
    if stale {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    // The application in a pod usually has another user than the sidecar. As on loopback, every process that can reach
    // the folder may connect.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    Ok(Listener::Unix(listener, SocketFile(path.to_owned())))
}

/// Serves until `stop` turns true, then drains and returns.
pub async fn serve(listener: Listener, limits: Limits, handler: impl Handler, stop: watch::Receiver<bool>) {
    run(listener, Connections::new(limits, Arc::new(handler)), stop).await;
}

async fn run(listener: Listener, connections: Connections, mut stop: watch::Receiver<bool>) {
    let stopped = stopped(&mut stop);
    tokio::pin!(stopped);
    loop {
        let room = connections.has_room();
        tokio::select! {
            accepted = accept(&listener, &connections.limits), if room => match accepted {
                Ok(accepted) => {
                    connections.start(accepted);
                    // Its request may already be here: let it be served before the next connection can displace it.
                    tokio::task::yield_now().await;
                }
                Err(error) => {
                    // Out of descriptors or memory: close the oldest and pause, instead of retrying at once.
                    tracing::debug!(%error, "accept failed");
                    connections.close_oldest_idle();
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            () = connections.table.changed.notified(), if !room => {}
            () = &mut stopped => break,
        }
    }
    drop(listener);
    connections.drain().await;
}

/// Returns once the server is told to stop, or the sender was dropped.
pub async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// The pause after a failed accept: long enough not to keep a core busy, short enough for a probe's timeout of one
/// second.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

struct Accepted {
    stream: Box<dyn Stream>,
    /// A second handle to the socket, for resetting it.
    socket: Option<socket2::Socket>,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn accept(listener: &Listener, limits: &Limits) -> io::Result<Accepted> {
    match listener {
        Listener::Tcp(listener) => {
            let (stream, _) = listener.accept().await?;
            let socket = match limits.reset_when_abandoned {
                true => Some(socket2::SockRef::from(&stream).try_clone()?),
                false => None,
            };
            Ok(Accepted { stream: Box::new(stream), socket })
        }
        Listener::Unix(listener, _) => {
            Ok(Accepted { stream: Box::new(listener.accept().await?.0), socket: None })
        }
    }
}

/// Why a request body was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadBodyError {
    /// More bytes than the limit.
    #[error("the body is too large")]
    TooLarge,
    /// The connection broke, or the framing was wrong.
    #[error("the body could not be read")]
    Broken,
    /// The budget for all bodies is used up.
    #[error("too much is being sent at once")]
    NoRoom,
}

/// A budget for all bodies of a server that are being read or processed.
#[derive(Debug, Clone)]
pub struct BodyBudget(Arc<Semaphore>);

/// A body, with its part of the budget until it is dropped.
#[derive(Debug)]
pub struct BufferedBody {
    bytes: Vec<u8>,
    room: Option<OwnedSemaphorePermit>,
}

impl std::ops::Deref for BufferedBody {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl BodyBudget {
    /// A budget of this many bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes)))
    }

    /// Reads a whole request body of at most `bytes_max`, while the budget has room for the bytes that have come.
    pub async fn read(&self, mut body: Incoming, bytes_max: usize) -> Result<BufferedBody, ReadBodyError> {
        // If the length is known, allocate it at once: growing would briefly need twice the size, and keep some of it.
        let length = body.size_hint().exact().and_then(|length| usize::try_from(length).ok());
        let mut held =
            BufferedBody { bytes: Vec::with_capacity(length.unwrap_or_default().min(bytes_max)), room: None };
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| ReadBodyError::Broken)?.into_data() else { continue };
            if held.bytes.len() + data.len() > bytes_max {
                return Err(ReadBodyError::TooLarge);
            }
            let more = u32::try_from(data.len()).map_err(|_| ReadBodyError::TooLarge)?;
            let room = Arc::clone(&self.0).try_acquire_many_owned(more).map_err(|_| ReadBodyError::NoRoom)?;
            match &mut held.room {
                Some(held) => held.merge(room),
                none => *none = Some(room),
            }
            held.bytes.extend_from_slice(&data);
        }
        Ok(held)
    }
}

/// A complete body.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Either::Left(Full::new(bytes.into()))
}

/// A body that is made while it is sent.
pub fn streamed(
    body: impl hyper::body::Body<Data = Bytes, Error = BodyError> + Send + Sync + 'static,
) -> Body {
    Either::Right(body.boxed())
}

/// An answer of one content type.
pub fn answer(status: StatusCode, content_type: &'static str, bytes: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// An answer in plain text.
pub fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    answer(status, "text/plain; charset=utf-8", text)
}

/// An answer in JSON; `value` is one of our own structs, whose serialization cannot fail.
pub fn json(status: StatusCode, value: &impl serde::Serialize) -> Response<Body> {
    let bytes = serde_json::to_vec(value).expect("our own documents have string keys and finite numbers");
    answer(status, "application/json", bytes)
}

/// 405 with the allowed methods (RFC 9110, section 15.5.6).
pub fn method_not_allowed(allow: &'static str) -> Response<Body> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    response
}

/// Whether the method only reads. hyper itself omits the body of an answer to HEAD.
#[must_use]
pub fn reads(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

#[cfg(test)]
mod tests;
