//! One request over plain HTTP/1.1: for `probe`, `await`, the ECS metadata endpoint and the clock source.
//!
//! All its peers are on this machine or link-local, so there is no TLS, no proxy, no redirect and no retry. Calls to
//! AWS go through the SDK.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::Address;

/// Largest answer that is read from an [`Address`]; the largest expected one is an hour record with AWS's maximum of
/// 2,500 allocations with five tags each.
pub const ANSWER_BYTES_MAX: usize = 8 << 20;

/// Largest answer to a GET by URL: task metadata and a clock have a few kilobytes.
pub const SMALL_ANSWER_BYTES_MAX: usize = 1 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing listens there, or the connection failed.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// The peer's address.
        address: String,
        /// The system's error.
        source: io::Error,
    },
    /// The peer does not speak HTTP, or closed the connection early.
    #[error("no usable answer from {address}")]
    Protocol {
        /// The peer's address.
        address: String,
    },
    /// No answer within the limit.
    #[error("no answer from {address} within {} ms", limit.as_millis())]
    TimedOut {
        /// The peer's address.
        address: String,
        /// The limit.
        limit: Duration,
    },
    /// The URL is not `http://host…`.
    #[error("not a plain http URL")]
    Url,
}

/// One request.
#[derive(Debug)]
pub struct Ask<'a> {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub path: &'a str,
    /// `Host`.
    pub host: &'a str,
    /// JSON to send, if any.
    pub json: Option<Bytes>,
    /// `Authorization`, if any.
    pub authorization: Option<&'a str>,
    /// Other headers, by name.
    pub headers: &'a [(&'a str, &'a str)],
}

impl<'a> Ask<'a> {
    /// A GET without a body.
    #[must_use]
    pub fn get(path: &'a str) -> Self {
        Self { method: Method::GET, path, host: "localhost", json: None, authorization: None, headers: &[] }
    }

    /// A POST of JSON.
    #[must_use]
    pub fn post(path: &'a str, json: impl Into<Bytes>) -> Self {
        Self { method: Method::POST, json: Some(json.into()), ..Self::get(path) }
    }
}

/// Sends `ask` to `address` and reads the whole answer within `limit`.
pub async fn ask(address: &Address, ask: Ask<'_>, limit: Duration) -> Result<Response<Bytes>, ClientError> {
    let name = || address.to_string();
    let whole = async {
        let connect = |source| ClientError::Connect { address: name(), source };
        match address {
            Address::Tcp(addr) => {
                exchange(TcpStream::connect(addr).await.map_err(connect)?, ask, &name(), ANSWER_BYTES_MAX)
                    .await
            }
            Address::Unix(path) => {
                exchange(UnixStream::connect(path).await.map_err(connect)?, ask, &name(), ANSWER_BYTES_MAX)
                    .await
            }
        }
    };
    tokio::time::timeout(limit, whole).await.map_err(|_| ClientError::TimedOut { address: name(), limit })?
}

/// GETs an `http://host[:port]/path` URL within `limit`; the name is resolved by the system.
pub async fn get_url(url: &str, limit: Duration) -> Result<Response<Bytes>, ClientError> {
    ask_url(url, Ask::get("/"), limit).await
}

/// GETs a URL as [`get_url`] does, whose answer has up to [`ANSWER_BYTES_MAX`]: a part of the emulator's bill.
pub async fn get_large(url: &str, limit: Duration) -> Result<Response<Bytes>, ClientError> {
    exchange_url(url, Ask::get("/"), ANSWER_BYTES_MAX, limit).await
}

/// Sends `ask` to an `http://host[:port]/path` URL, which replaces its host and path.
pub async fn ask_url(url: &str, ask: Ask<'_>, limit: Duration) -> Result<Response<Bytes>, ClientError> {
    exchange_url(url, ask, SMALL_ANSWER_BYTES_MAX, limit).await
}

async fn exchange_url(
    url: &str,
    ask: Ask<'_>,
    bytes_max: usize,
    limit: Duration,
) -> Result<Response<Bytes>, ClientError> {
    let uri: Uri = url.parse().map_err(|_| ClientError::Url)?;
    let (Some("http"), Some(host)) = (uri.scheme_str(), uri.host()) else { return Err(ClientError::Url) };
    let port = uri.port_u16().unwrap_or(80);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let address = format!("{host}:{port}");
    let whole = async {
        let stream = TcpStream::connect((host.trim_matches(['[', ']']), port))
            .await
            .map_err(|source| ClientError::Connect { address: address.clone(), source })?;
        exchange(stream, Ask { host, path, ..ask }, &address, bytes_max).await
    };
    tokio::time::timeout(limit, whole)
        .await
        .map_err(|_| ClientError::TimedOut { address: address.clone(), limit })?
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ask: Ask<'_>,
    address: &str,
    bytes_max: usize,
) -> Result<Response<Bytes>, ClientError> {
    let broken = || ClientError::Protocol { address: address.to_owned() };
    let mut request = Request::builder().method(ask.method).uri(ask.path).header(HOST, ask.host);
    if ask.json.is_some() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    if let Some(authorization) = ask.authorization {
        request = request.header(hyper::header::AUTHORIZATION, authorization);
    }
    for (name, value) in ask.headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(ask.json.unwrap_or_default())).map_err(|_| broken())?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|_| broken())?;
    let exchange = async {
        let (parts, body) = sender.send_request(request).await.map_err(|_| broken())?.into_parts();
        let body = Limited::new(body, bytes_max).collect().await.map_err(|_| broken())?;
        Ok(Response::from_parts(parts, body.to_bytes()))
    };
    tokio::pin!(connection);
    tokio::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        // The connection may end first although everything was delivered.
        _ = &mut connection => exchange.await,
    }
}
