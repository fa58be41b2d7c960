//! The emulator over HTTP: who is asked, which fault hits, and how the answer goes out.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::Value;
use tokio::time::Sleep;

use super::bill::request_id;
use super::calls::Call;
use super::engine::{Decided, Engine, Pending};
use super::fault::Kind;
use super::operation::{Operation, ServiceError};
use super::sigv4::Signed;
use super::wire::{self, Outcome};
use super::{HEADER, admin, credentials};
use tollgate_clock::system_now;
use tollgate_http::{self as http, Abandoned, Body, BodyError, Handler};

/// Largest request read; AWS's largest is below 1 MB, and one that is a little larger deserves AWS's own answer.
const REQUEST_BYTES_MAX: usize = 2 << 20;

/// Of a body that is too large, so much is read before the connection is given up.
const DISCARDED_BYTES_MAX: usize = 64 << 20;

/// A whole body has come within this time, or its connection serves somebody else.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// The page for people, whole: it needs nothing else.
const PAGE: &str = include_str!("page.html");

/// What the page may do: run its own script and ask its own server.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
                           connect-src 'self'; img-src data:";

/// The handler.
#[derive(Debug, Clone)]
pub(super) struct Server(pub(super) Arc<Engine>);

impl Handler for Server {
    async fn handle(&self, request: Request<Incoming>) -> Result<Response<Body>, Abandoned> {
        let mut response = self.route(request).await?;
        response.headers_mut().insert(HEADER, HeaderValue::from_static("1"));
        Ok(response)
    }
}

impl Server {
    async fn route(&self, request: Request<Incoming>) -> Result<Response<Body>, Abandoned> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path();
        let bytes = match read(body).await {
            Ok(bytes) => bytes,
            Err(Unread::Broken) => return Err(Abandoned),
            Err(unread) => return Ok(self.unread(&parts, unread)),
        };
        if path == "/_emulator" || path.starts_with("/_emulator/") {
            return Ok(admin::answer(&self.0, &parts, &bytes).await);
        }
        match (&parts.method, path) {
            (&Method::POST, "/") if is_form(&parts.headers) => Ok(self.sts(&bytes)),
            (&Method::POST, "/") => self.call(&parts.headers, &bytes).await,
            (method, "/") if http::reads(method) => {
                let mut page = http::answer(StatusCode::OK, "text/html; charset=utf-8", PAGE);
                page.headers_mut().insert("content-security-policy", HeaderValue::from_static(PAGE_POLICY));
                Ok(page)
            }
            (_, "/") => Ok(http::method_not_allowed("GET, HEAD, POST")),
            _ => Ok(http::text(StatusCode::NOT_FOUND, "not found; GET / is a page about the emulator\n")),
        }
    }

    /// The answer to a request that was not read to its end.
    fn unread(&self, parts: &Parts, unread: Unread) -> Response<Body> {
        let error = match unread {
            Unread::Slow => {
                ServiceError::new("RequestTimeoutException", "the body took longer than a minute")
            }
            _ => ServiceError::new(
                "RequestEntityTooLargeException",
                "the body is larger than 2 MiB; the largest of this service is a batch below 1 MB",
            ),
        };
        if parts.uri.path() != "/" {
            return http::json(error.status(), &serde_json::json!({"error": error.message}));
        }
        let operation = wire::operation(&parts.headers).map_or("", Operation::name);
        self.refuse(self.0.number(), operation, error, &Bytes::new())
    }

    fn sts(&self, form: &Bytes) -> Response<Body> {
        let (status, xml) = credentials::sts(&mut self.0.state().sessions, system_now(), form);
        http::answer(StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST), "text/xml", xml)
    }

    /// One call of the metering service.
    async fn call(&self, headers: &HeaderMap, bytes: &Bytes) -> Result<Response<Body>, Abandoned> {
        let engine = &self.0;
        let number = engine.number();
        let asked = wire::operation(headers);
        let authenticated = asked.clone().and_then(|operation| {
            let signer = engine.authenticate(Signed { headers, body: bytes, now: system_now() })?;
            let fault = engine.state().script.hit(operation, &signer.pod);
            Ok(Pending { number, operation, signer, fault })
        });
        let pending = match authenticated {
            Ok(pending) => pending,
            Err(error) => {
                let name = asked.map_or("", Operation::name);
                return Ok(self.refuse(number, name, error, bytes));
            }
        };
        match pending.fault.as_ref().map(|hit| &hit.kind) {
            Some(Kind::Hang) => {
                self.note(&pending, bytes, None, None, "");
                std::future::pending::<()>().await;
            }
            Some(Kind::ResetBefore) => {
                self.note(&pending, bytes, None, None, "");
                return Err(Abandoned);
            }
            Some(Kind::Html(status)) => return Ok(self.html(&pending, bytes, *status)),
            _ => {}
        }
        let outcome = self.outcome(&pending, bytes).await;
        self.finish(&pending, bytes, &outcome).await
    }

    /// The answer to a request that was not let in.
    fn refuse(
        &self,
        number: u64,
        operation: &'static str,
        error: ServiceError,
        bytes: &Bytes,
    ) -> Response<Body> {
        let outcome = Err(error);
        let (status, body) = wire::rendered(&outcome);
        self.0.note(Call {
            number,
            at: self.0.now(),
            operation,
            pod: Box::default(),
            region: Box::default(),
            outcome: code(&outcome).into(),
            fault: None,
            status: Some(status.as_u16()),
            request: String::from_utf8_lossy(bytes).into(),
            answer: body.clone().into(),
        });
        wire::response(&outcome, status, body, &request_id(number))
    }

    async fn outcome(&self, pending: &Pending, bytes: &Bytes) -> Outcome {
        let (claims, document) = match self.0.decide(pending, bytes) {
            Decided::Done(outcome) => return outcome,
            Decided::Sign { claims, document } => (claims, document),
        };
        let fault = pending.fault.as_ref().map(|hit| hit.kind.clone());
        let signed = if self.0.has_key(&claims) {
            self.0.sign(&claims, document, fault.as_ref())
        } else {
            // Making a key takes seconds, in which others are served.
            let engine = Arc::clone(&self.0);
            let made = tokio::task::spawn_blocking(move || engine.sign(&claims, document, fault.as_ref()));
            made.await.unwrap_or_else(|error| Err(io::Error::other(error)))
        };
        signed.map_err(|error| ServiceError::new("InternalServiceErrorException", error.to_string()))
    }

    /// The answer as it goes out, spoilt where the script says so.
    async fn finish(
        &self,
        pending: &Pending,
        bytes: &Bytes,
        outcome: &Outcome,
    ) -> Result<Response<Body>, Abandoned> {
        let (status, body) = wire::rendered(outcome);
        let kind = pending.fault.as_ref().map(|hit| &hit.kind);
        let sent = !matches!(kind, Some(Kind::ResetAfter | Kind::HangAfter));
        self.note(pending, bytes, Some(outcome), sent.then_some(status), &body);
        match kind {
            Some(Kind::Delay(delay)) => {
                // What is processed does not depend on a client's patience.
                tokio::time::sleep(*delay).await;
                Ok(wire::response(outcome, status, body, &request_id(pending.number)))
            }
            Some(Kind::ResetAfter) => Err(Abandoned),
            Some(Kind::HangAfter) => std::future::pending().await,
            Some(Kind::InvalidJson) => {
                Ok(http::answer(StatusCode::OK, wire::CONTENT_TYPE, "{\"Signature\": nul"))
            }
            Some(Kind::Truncate) => Ok(slow(status, body, Duration::ZERO, true)),
            Some(Kind::Trickle(over)) => Ok(slow(status, body, *over, false)),
            _ => Ok(wire::response(outcome, status, body, &request_id(pending.number))),
        }
    }

    fn html(&self, pending: &Pending, bytes: &Bytes, status: u16) -> Response<Body> {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        let page =
            format!("<html><head><title>{status}</title></head><body><h1>{status}</h1></body></html>\n");
        self.note(pending, bytes, None, Some(status), &page);
        http::answer(status, "text/html", page)
    }

    fn note(
        &self,
        pending: &Pending,
        bytes: &Bytes,
        outcome: Option<&Outcome>,
        status: Option<StatusCode>,
        answer: &str,
    ) {
        self.0.note(Call {
            number: pending.number,
            at: self.0.now(),
            operation: pending.operation.name(),
            pod: pending.signer.pod.as_str().into(),
            region: pending.signer.region.as_str().into(),
            outcome: outcome.map_or("none", code).into(),
            fault: pending.fault.as_ref().map(|hit| hit.name.as_str().into()),
            status: status.map(|status| status.as_u16()),
            request: String::from_utf8_lossy(bytes).into(),
            answer: answer.into(),
        });
    }
}

/// Why there is no body to act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unread {
    /// It is larger than anything that the service takes.
    TooLarge,
    /// It took too long.
    Slow,
    /// The connection broke.
    Broken,
}

/// Reads a body. One that is too large is read on, and thrown away: a client that is still writing could not read the
/// refusal.
async fn read<B>(mut body: B) -> Result<Bytes, Unread>
where
    B: hyper::body::Body<Data = Bytes> + Unpin,
{
    let read = async {
        let (mut kept, mut length) = (BytesMut::new(), 0_usize);
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| Unread::Broken)?.into_data() else { continue };
            length += data.len();
            if length <= REQUEST_BYTES_MAX {
                kept.extend_from_slice(&data);
            } else {
                kept = BytesMut::new();
            }
            if length > DISCARDED_BYTES_MAX {
                break;
            }
        }
        if length > REQUEST_BYTES_MAX { Err(Unread::TooLarge) } else { Ok(kept.freeze()) }
    };
    tokio::time::timeout(BODY_TIMEOUT, read).await.unwrap_or(Err(Unread::Slow))
}

fn is_form(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let given = content_type.split(|byte| *byte == b';').next().unwrap_or_default();
    given.trim_ascii().eq_ignore_ascii_case(b"application/x-www-form-urlencoded")
}

fn code(outcome: &Result<Value, ServiceError>) -> &str {
    outcome.as_ref().map_or_else(|error| error.code.as_ref(), |_| "ok")
}

/// An answer in pieces over some time; one that breaks off ends after half of them.
fn slow(status: StatusCode, body: String, over: Duration, breaks: bool) -> Response<Body> {
    let bytes = Bytes::from(body);
    let length = bytes.len();
    let pieces = Pieces {
        piece: length.div_ceil(PIECES).max(1),
        left: if breaks { bytes.slice(..length / 2) } else { bytes },
        pause: over / u32::try_from(PIECES).unwrap_or(1),
        waiting: None,
        breaks,
    };
    let mut response = Response::new(pieces.boxed());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(wire::CONTENT_TYPE));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    response
}

/// Pieces of a slow answer.
const PIECES: usize = 16;

struct Pieces {
    left: Bytes,
    piece: usize,
    pause: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
    breaks: bool,
}

// A timer that runs belongs to one task; the body is polled by one connection only.
impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.left.is_empty() {
            return Poll::Ready(self.breaks.then(|| Err("cut on purpose".into())));
        }
        if !self.pause.is_zero() {
            let pause = self.pause;
            let timer = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(pause)));
            if timer.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            self.waiting = None;
        }
        let piece = self.piece.min(self.left.len());
        Poll::Ready(Some(Ok(Frame::data(self.left.split_to(piece)))))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::{Full, combinators::BoxBody};

    use super::*;

    /// A body that never ends.
    struct Silent;

    impl hyper::body::Body for Silent {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Pending
        }
    }

    fn of_length(length: usize) -> BoxBody<Bytes, Infallible> {
        Full::new(Bytes::from(vec![b'x'; length])).boxed()
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_have_a_largest_size_and_a_longest_time() {
        assert_eq!(read(of_length(REQUEST_BYTES_MAX)).await.map(|bytes| bytes.len()), Ok(REQUEST_BYTES_MAX));
        assert_eq!(read(of_length(REQUEST_BYTES_MAX + 1)).await, Err(Unread::TooLarge));
        let began = tollgate_clock::monotonic();
        assert_eq!(read(Silent).await, Err(Unread::Slow));
        assert_eq!(tollgate_clock::monotonic() - began, BODY_TIMEOUT);
    }
}
