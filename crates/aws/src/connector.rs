//! The HTTP client below the SDK: pools of connections, one list of trusted certificates and one cache of TLS sessions
//! for the process, and connections that are opened before the call that needs them.
//!
//! The SDK's own client parses the certificates again for each client that is built and keeps no TLS session between
//! them, and it cannot open a connection without sending a request.

use std::error::Error as StdError;
use std::fmt;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::connection::{CaptureSmithyConnection, ConnectionMetadata};
use aws_smithy_runtime_api::client::http::{HttpConnectorFuture, HttpConnectorSettings};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;
use hyper::header::PROXY_AUTHORIZATION;
use hyper::http::uri::Scheme;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::{Request, Uri, Version};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{
    CaptureConnection, Connected, Connection, HttpConnector as Tcp, capture_connection,
};
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tower_service::Service;

use crate::CONNECT_TIMEOUT;
use crate::ca_bundle::{CaBundle, CaBundleError};
use crate::connection::chain;

/// What TLS trusts. The certificates are parsed when the first connection needs them, once.
#[derive(Debug)]
pub(super) struct Trust {
    /// Instead of the system's certificates.
    bundle: Option<CaBundle>,
    config: OnceLock<Arc<ClientConfig>>,
}

impl Trust {
    pub(super) fn new(bundle: Option<CaBundle>) -> Arc<Self> {
        Arc::new(Self { bundle, config: OnceLock::new() })
    }

    /// The configuration of every TLS connection; with it they share their sessions. May block while files are read.
    pub(super) fn config(&self) -> Result<Arc<ClientConfig>, CaBundleError> {
        if let Some(config) = self.config.get() {
            return Ok(Arc::clone(config));
        }
        let roots = match &self.bundle {
            Some(bundle) => bundle.roots()?,
            None => Arc::new(of_system()),
        };
        Ok(Arc::clone(self.config.get_or_init(|| trusting(roots))))
    }
}

fn trusting(roots: Arc<RootCertStore>) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has the cipher suites of both versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    // HTTP/1.1 alone, as most of AWS's SDKs: see `Pool::connect`.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// For requests by plain HTTP: no certificates are read for them.
pub(super) fn trusting_nobody() -> Arc<ClientConfig> {
    trusting(Arc::new(RootCertStore::empty()))
}

/// The system's certificates; those that cannot be read or parsed are left out, so that the others still count.
fn of_system() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (valid, invalid) = roots.add_parsable_certificates(found.certs);
    tracing::debug!(valid, invalid, unread = found.errors.len(), "read the system's certificates");
    roots
}

/// A pool of connections.
#[derive(Clone)]
pub(super) struct Pool {
    client: Client<InTime, SdkBody>,
    proxies: Option<Arc<Matcher>>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

impl Pool {
    /// A pool whose requests go through the proxies that the environment names.
    pub(super) fn new(config: &Arc<ClientConfig>) -> Self {
        Self::through(Some(Arc::new(Matcher::from_env())), config)
    }

    /// A pool for local addresses, without a proxy.
    pub(super) fn direct() -> Self {
        Self::through(None, &trusting_nobody())
    }

    fn through(proxies: Option<Arc<Matcher>>, config: &Arc<ClientConfig>) -> Self {
        let mut tcp = Tcp::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        let path = Path {
            to_proxy: HttpsConnector::from((tcp.clone(), Arc::clone(config))),
            tcp,
            proxies: proxies.clone(),
        };
        let connector = InTime(HttpsConnector::from((path, Arc::clone(config))));
        // Without the timer idle connections would stay open until the pool is used again.
        let client = Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector);
        Self { client, proxies }
    }

    /// Opens a connection to `url` and leaves it idle for the next call; does nothing if one is idle. A failure has no
    /// consequence: the call opens its own connection, and reports what it meets.
    pub(super) async fn connect(&self, url: Uri) {
        let mut request = Request::new(SdkBody::empty());
        *request.uri_mut() = url;
        // The client connects, finds that a connection of HTTP/1.1 cannot carry this request, and keeps the connection
        // without having sent anything.
        *request.version_mut() = Version::HTTP_2;
        if let Err(error) = self.client.request(request).await {
            tracing::debug!(connected = error.connect_info().is_some(), %error, "connected before the call");
        }
    }

    /// The header with the proxy's password, where a proxy reads the request itself.
    fn authorize(&self, request: &mut Request<SdkBody>) {
        let proxy = self.proxies.as_ref().and_then(|proxies| proxies.intercept(request.uri()));
        let password = proxy.as_ref().and_then(|proxy| proxy.basic_auth());
        if let Some(password) = password.filter(|_| request.uri().scheme() == Some(&Scheme::HTTP)) {
            request.headers_mut().entry(PROXY_AUTHORIZATION).or_insert_with(|| password.clone());
        }
    }
}

impl Pool {
    /// Sends a request, within the limits that its client has.
    pub(super) fn call(&self, request: HttpRequest, limits: &HttpConnectorSettings) -> HttpConnectorFuture {
        let mut request = match request.try_into_http1x() {
            Ok(request) => request,
            Err(error) => return HttpConnectorFuture::ready(Err(ConnectorError::user(error.into()))),
        };
        self.authorize(&mut request);
        let connection = capture_connection(&mut request);
        if let Some(asked) = request.extensions().get::<CaptureSmithyConnection>() {
            let connection = connection.clone();
            asked.set_connection_retriever(move || described(&connection));
        }
        let answer = self.client.request(request);
        let (connect, read) = (limits.connect_timeout(), limits.read_timeout());
        HttpConnectorFuture::new(async move {
            match limited(answer, connection, connect, read).await? {
                Ok(answer) => HttpResponse::try_from(answer.map(SdkBody::from_body_1_x))
                    .map_err(|error| ConnectorError::other(error.into(), None)),
                Err(error) if chain(&error).any(<dyn StdError>::is::<ConnectTimedOut>) => {
                    Err(ConnectorError::timeout(error.into()))
                }
                Err(error) => Err(ConnectorError::io(error.into())),
            }
        })
    }
}

/// Waits for an answer whose request must have a connection within `connect`, and be answered within `read` after that.
/// The SDK gives IMDS a second for each: it is asked on machines that have none.
async fn limited<T>(
    answer: impl Future<Output = T>,
    mut connection: CaptureConnection,
    connect: Option<Duration>,
    read: Option<Duration>,
) -> Result<T, ConnectorError> {
    let mut answer = pin!(answer);
    if let Some(limit) = connect {
        tokio::select! {
            biased;
            answered = &mut answer => return Ok(answered),
            _ = connection.wait_for_connection_metadata() => {}
            () = tokio::time::sleep(limit) => return Err(ConnectorError::timeout(ConnectTimedOut(limit).into())),
        }
    }
    match read {
        Some(limit) => {
            let in_time = tokio::time::timeout(limit, answer).await;
            in_time.map_err(|_| ConnectorError::timeout(ReadTimedOut(limit).into()))
        }
        None => Ok(answer.await),
    }
}

/// The connection of a call, so that the SDK can discard it after an answer that speaks of a broken server.
fn described(connection: &CaptureConnection) -> Option<ConnectionMetadata> {
    let proxied = connection.connection_metadata().as_ref()?.is_proxied();
    let connection = connection.clone();
    let discard = move || {
        if let Some(connection) = connection.connection_metadata().as_ref() {
            connection.poison();
        }
    };
    Some(ConnectionMetadata::builder().proxied(proxied).poison_fn(discard).build())
}

/// No connection, TLS included, within this time.
#[derive(Debug, thiserror::Error)]
#[error("HTTP connect timeout occurred after {0:?}")]
struct ConnectTimedOut(Duration);

/// A connection, and no answer within this time.
#[derive(Debug, thiserror::Error)]
#[error("HTTP read timeout occurred after {0:?}")]
struct ReadTimedOut(Duration);

/// The service's own TLS was not agreed.
#[derive(Debug, thiserror::Error)]
#[error("TLS handshake failed")]
struct TlsFailed(#[source] rustls::Error);

/// The error, with TLS's own inside where that is the cause: hyper-rustls puts it into two errors of I/O, and the
/// source of such an error is the source of what is in it.
fn named(error: BoxError) -> BoxError {
    let mut inner: &(dyn StdError + 'static) = error.as_ref();
    while let Some(within) = inner.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        inner = within;
    }
    match inner.downcast_ref::<rustls::Error>() {
        Some(cause) => Box::new(TlsFailed(cause.clone())),
        None => error,
    }
}

type Connecting<S> = Pin<Box<dyn Future<Output = Result<S, BoxError>> + Send>>;

/// Connects within [`CONNECT_TIMEOUT`].
#[derive(Clone)]
struct InTime(HttpsConnector<Path>);

impl Service<Uri> for InTime {
    type Response = MaybeHttpsStream<Stream>;
    type Error = BoxError;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let connecting = self.0.call(to);
        Box::pin(async move {
            let connected = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
            connected.unwrap_or_else(|_| Err(Box::new(ConnectTimedOut(CONNECT_TIMEOUT)))).map_err(named)
        })
    }
}

/// Opens what the service's own TLS, if any, is spoken on.
#[derive(Clone)]
struct Path {
    tcp: Tcp,
    to_proxy: HttpsConnector<Tcp>,
    proxies: Option<Arc<Matcher>>,
}

impl Service<Uri> for Path {
    type Response = Stream;
    type Error = BoxError;
    type Future = Connecting<Stream>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let Some(proxy) = self.proxies.as_ref().and_then(|proxies| proxies.intercept(&to)) else {
            let connecting = self.tcp.call(to);
            return Box::pin(async move {
                Ok(Stream { inner: MaybeHttpsStream::Http(connecting.await?), forwarded: false })
            });
        };
        if to.scheme() == Some(&Scheme::HTTP) {
            let connecting = self.to_proxy.call(proxy.uri().clone());
            return Box::pin(async move { Ok(Stream { inner: connecting.await?, forwarded: true }) });
        }
        let tunnel = Tunnel::new(proxy.uri().clone(), self.to_proxy.clone());
        let mut tunnel = match proxy.basic_auth() {
            Some(password) => tunnel.with_auth(password.clone()),
            None => tunnel,
        };
        Box::pin(async move { Ok(Stream { inner: tunnel.call(to).await?, forwarded: false }) })
    }
}

/// A connection to the service or to its proxy, which may have TLS of its own.
struct Stream {
    inner: MaybeHttpsStream<TokioIo<TcpStream>>,
    /// A proxy reads the requests: they must name the whole URL.
    forwarded: bool,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        self.inner.connected().proxy(self.forwarded)
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    /// As the SDK sets them for IMDS, which on other machines never answers.
    const LIMIT: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_call_has_the_limits_of_its_client() {
        // The client has the request as long as it connects.
        let mut request = Request::new(());
        let connected = capture_connection(&mut request);
        let connection = || connected.clone();
        let silent = limited(pending::<()>(), connection(), Some(LIMIT), Some(LIMIT)).await.unwrap_err();
        assert!(silent.is_timeout() && format!("{silent:?}").contains("ConnectTimedOut"), "{silent:?}");
        let unread = limited(pending::<()>(), connection(), None, Some(LIMIT)).await.unwrap_err();
        assert!(unread.is_timeout() && format!("{unread:?}").contains("ReadTimedOut"), "{unread:?}");
        assert_eq!(limited(async { 7 }, connection(), Some(LIMIT), Some(LIMIT)).await.unwrap(), 7);
    }
}
