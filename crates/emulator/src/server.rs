//! The emulator over HTTP: which service a request is for, which fault applies, and how the answer is sent.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use tokio::time::Sleep;

use super::action::Action;
use super::bill::request_id;
use super::calls::Call;
use super::engine::{Decided, Engine, Pending};
use super::fault::FaultKind;
use super::operation::{Api, Operation, ServiceError};
use super::reply::Reply;
use super::sigv4::{self, Signed, Signer};
use super::sts::{self, Parameters};
use super::wire::{self, Outcome, Protocol, cbor};
use super::{HEADER, admin, agent, host};
use tollgate_http::{self as http, Abandoned, Body, BodyError, Handler};

/// Largest request that is read. AWS's largest is below 1 MB; a slightly larger one should get AWS's own answer.
const REQUEST_BYTES_MAX: usize = 2 << 20;

/// How much of a body that is too large is read before the connection is closed.
const DISCARDED_BYTES_MAX: usize = 64 << 20;

/// How long a whole body may take, so that a slow client does not keep a connection.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// The page for people; it loads nothing else.
const PAGE: &str = include_str!("page.html");

/// What the page may do: run its own script and send requests to its own server.
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

/// The service and operation that a request is for.
enum Asked {
    Json(Operation, Protocol),
    Sts(Parameters),
    Agent(agent::Path),
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
        let ordering = path == "/_emulator" || path.starts_with("/_emulator/");
        if let Some(path) = agent::Path::parse(path).filter(|_| !ordering || host::is_ours(&parts.headers)) {
            return self.agent(&parts, path, &bytes).await;
        }
        if ordering {
            return Ok(admin::answer(&self.0, &parts, &bytes).await);
        }
        match (&parts.method, path) {
            (&Method::GET | &Method::POST, "/") if is_sts(&parts) => self.sts(&parts, &bytes).await,
            (&Method::POST, "/") => self.json(&parts, &bytes).await,
            (&Method::POST, path) if cbor::is_path(path) => self.json(&parts, &bytes).await,
            (method, "/") if http::reads(method) => {
                let mut page = http::answer(StatusCode::OK, "text/html; charset=utf-8", PAGE);
                page.headers_mut().insert("content-security-policy", HeaderValue::from_static(PAGE_POLICY));
                Ok(page)
            }
            (_, "/") => Ok(http::method_not_allowed("GET, HEAD, POST")),
            _ => Ok(http::text(StatusCode::NOT_FOUND, "not found; GET / is a page about the emulator\n")),
        }
    }

    /// The answer to a request whose body was not read to its end.
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
        let number = self.0.number();
        let request_id = request_id(number);
        if is_sts(parts) {
            return self.refuse(number, "", sts::failure(&error, &request_id), "");
        }
        let asked = wire::operation(&parts.headers).ok();
        let reply = wire::reply(asked.map_or(Api::Metering, Operation::api), &Err(error), &request_id);
        self.refuse(number, asked.map_or("", Operation::name), reply, "")
    }

    /// One call of metering, entitlement or License Manager.
    async fn json(&self, parts: &Parts, bytes: &Bytes) -> Result<Response<Body>, Abandoned> {
        let number = self.0.number();
        let path = parts.uri.path();
        let protocol = Protocol::of_path(path);
        let asked = protocol.operation(path, &parts.headers);
        let signed = asked.clone().and_then(|operation| {
            // The token identifies the caller. If there is a signature too, it must be valid.
            let unsigned =
                operation == Operation::GetAccessToken && !parts.headers.contains_key(AUTHORIZATION);
            let signer = if unsigned {
                Signer::default()
            } else {
                self.authenticate(operation.api().signing_name(), parts, bytes)?
            };
            Ok((operation, signer, protocol.json(bytes)?))
        });
        let body = signed.as_ref().map_or_else(|_| bytes.clone(), |(.., body)| body.clone());
        let request = wire::shown(asked.clone().ok(), &body);
        match signed {
            Ok((operation, signer, _)) => {
                let pending = self.pending(number, Action::Json(operation), signer);
                self.call(&pending, Asked::Json(operation, protocol), parts, &body, &request).await
            }
            Err(error) => {
                let asked = asked.ok();
                let api = asked.map_or(Api::Metering, Operation::api);
                let reply = protocol.reply(wire::reply(api, &Err(error), &request_id(number)));
                Ok(self.refuse(number, asked.map_or("", Operation::name), reply, &request))
            }
        }
    }

    /// One call of STS, with its parameters in a form or in the query.
    async fn sts(&self, parts: &Parts, bytes: &Bytes) -> Result<Response<Body>, Abandoned> {
        let number = self.0.number();
        let query = parts.uri.query().unwrap_or_default().as_bytes();
        let parameters = Parameters::parse(query, bytes);
        let asked = parameters.action();
        let known = asked.clone().and_then(|action| match action {
            Action::GetCallerIdentity => {
                let signer = self.authenticate(sigv4::STS, parts, bytes).map_err(sts::of_signature)?;
                Ok((action, signer))
            }
            // Unsigned: the token identifies the caller.
            _ => Ok((action, Signer { pod: sts::pod(&parameters), ..Signer::default() })),
        });
        let request = parameters.shown();
        match known {
            Ok((action, signer)) => {
                let pending = self.pending(number, action, signer);
                self.call(&pending, Asked::Sts(parameters), parts, bytes, &request).await
            }
            Err(error) => {
                let reply = sts::failure(&error, &request_id(number));
                Ok(self.refuse(number, asked.map_or("", Action::name), reply, &request))
            }
        }
    }

    /// One request to the agent.
    async fn agent(
        &self,
        parts: &Parts,
        path: agent::Path,
        bytes: &Bytes,
    ) -> Result<Response<Body>, Abandoned> {
        if !http::reads(&parts.method) {
            return Ok(http::method_not_allowed("GET, HEAD"));
        }
        let signer = Signer { pod: path.task.clone(), ..Signer::default() };
        let pending = self.pending(self.0.number(), path.action, signer);
        self.call(&pending, Asked::Agent(path), parts, bytes, parts.uri.path()).await
    }

    fn authenticate(
        &self,
        service: &'static str,
        parts: &Parts,
        body: &[u8],
    ) -> Result<Signer, ServiceError> {
        self.0.authenticate(Signed {
            service,
            method: parts.method.as_str(),
            path: parts.uri.path(),
            query: parts.uri.query().unwrap_or_default(),
            headers: &parts.headers,
            body,
            now: self.0.present(),
        })
    }

    fn pending(&self, number: u64, action: Action, signer: Signer) -> Pending {
        let fault = self.0.hit(action, &signer.pod);
        Pending { number, action, signer, fault }
    }

    /// One call of an authenticated caller.
    async fn call(
        &self,
        pending: &Pending,
        asked: Asked,
        parts: &Parts,
        bytes: &Bytes,
        request: &str,
    ) -> Result<Response<Body>, Abandoned> {
        let request_id = request_id(pending.number);
        let protocol = match asked {
            Asked::Json(_, protocol) => protocol,
            _ => Protocol::Json,
        };
        let reply = match pending.fault.as_ref().map(|hit| &hit.kind) {
            Some(FaultKind::Hang) => {
                self.note(pending, request, "none", None, String::new());
                std::future::pending::<()>().await;
                return Err(Abandoned);
            }
            Some(FaultKind::ResetBefore) => {
                self.note(pending, request, "none", None, String::new());
                return Err(Abandoned);
            }
            Some(FaultKind::Html(status)) => return Ok(self.html(pending, request, *status)),
            Some(FaultKind::Exception(error)) => pending.action.failure(error.clone(), &request_id),
            _ => match asked {
                Asked::Json(operation, _) => {
                    let outcome = self.outcome(pending, operation, bytes).await;
                    wire::reply(operation.api(), &outcome, &request_id)
                }
                Asked::Sts(_) if pending.action == Action::GetCallerIdentity => {
                    self.0.caller_identity(pending)
                }
                Asked::Sts(parameters) => {
                    let assumed = self.0.assume_role(pending, &parameters).await;
                    assumed.unwrap_or_else(|error| pending.action.failure(error, &request_id))
                }
                Asked::Agent(path) => {
                    let authorization = parts.headers.get(AUTHORIZATION);
                    let authorization = authorization.and_then(|value| value.to_str().ok());
                    let answered = self.0.agent(pending, &path, authorization);
                    answered.unwrap_or_else(|error| pending.action.failure(error, &request_id))
                }
            },
        };
        self.finish(pending, request, protocol.reply(reply)).await
    }

    /// The answer to a request that was not authenticated.
    fn refuse(&self, number: u64, operation: &'static str, reply: Reply, request: &str) -> Response<Body> {
        self.0.note(Call {
            operation,
            outcome: reply.outcome.as_ref().into(),
            status: Some(reply.status.as_u16()),
            request: request.into(),
            answer: reply.shown().into(),
            ..Call::new(number)
        });
        reply.response()
    }

    async fn outcome(&self, pending: &Pending, operation: Operation, bytes: &Bytes) -> Outcome {
        let (claims, document) = match self.0.decide(pending, operation, bytes) {
            Decided::Done(outcome) => return outcome,
            Decided::Sign { claims, document } => (claims, document),
        };
        let fault = pending.fault.as_ref().map(|hit| hit.kind.clone());
        let signed = if self.0.has_key(&claims) {
            self.0.sign(&claims, document, fault.as_ref())
        } else {
            // Making a key takes seconds; other requests are served meanwhile.
            let engine = Arc::clone(&self.0);
            let made = tokio::task::spawn_blocking(move || engine.sign(&claims, document, fault.as_ref()));
            made.await.unwrap_or_else(|error| Err(io::Error::other(error)))
        };
        signed.map_err(|error| ServiceError::new("InternalServiceErrorException", error.to_string()))
    }

    /// Sends the answer, spoilt if a fault says so.
    async fn finish(
        &self,
        pending: &Pending,
        request: &str,
        reply: Reply,
    ) -> Result<Response<Body>, Abandoned> {
        let kind = pending.fault.as_ref().map(|hit| &hit.kind);
        let sent = !matches!(kind, Some(FaultKind::ResetAfter | FaultKind::HangAfter));
        self.note(pending, request, &reply.outcome, sent.then_some(reply.status), reply.shown());
        match kind {
            Some(FaultKind::Delay(delay)) => {
                // The call was processed already: that does not depend on how long the client waits.
                tokio::time::sleep(*delay).await;
                Ok(reply.response())
            }
            Some(FaultKind::ResetAfter) => Err(Abandoned),
            Some(FaultKind::HangAfter) => std::future::pending().await,
            Some(FaultKind::InvalidJson) => {
                Ok(http::answer(StatusCode::OK, reply.content_type, "{\"Signature\": nul"))
            }
            Some(FaultKind::Truncate) => Ok(slow(reply, Duration::ZERO, true)),
            Some(FaultKind::Trickle(over)) => Ok(slow(reply, *over, false)),
            _ => Ok(reply.response()),
        }
    }

    fn html(&self, pending: &Pending, request: &str, status: u16) -> Response<Body> {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        let page =
            format!("<html><head><title>{status}</title></head><body><h1>{status}</h1></body></html>\n");
        self.note(pending, request, "none", Some(status), page.clone());
        http::answer(status, "text/html", page)
    }

    fn note(
        &self,
        pending: &Pending,
        request: &str,
        outcome: &str,
        status: Option<StatusCode>,
        answer: String,
    ) {
        self.0.note(Call {
            operation: pending.action.name(),
            pod: pending.signer.pod.as_str().into(),
            region: pending.signer.region.as_str().into(),
            outcome: outcome.into(),
            fault: pending.fault.as_ref().map(|hit| hit.name.as_str().into()),
            status: status.map(|status| status.as_u16()),
            request: request.into(),
            answer: answer.into(),
            ..Call::new(pending.number)
        });
    }
}

/// Why the body cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unread {
    /// It is larger than any request of the services.
    TooLarge,
    /// It took too long.
    Slow,
    /// The connection broke.
    Broken,
}

/// Reads a body. The rest of a body that is too large is read and discarded: a client that is still sending could not
/// read the refusal.
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

/// Whether a request for `/` is for STS, decided as AWS does: by the host's name and by the protocol, since only STS
/// has the Query protocol.
fn is_sts(parts: &Parts) -> bool {
    let host = parts.headers.get(HOST).map(HeaderValue::as_bytes).unwrap_or_default();
    let named = host.get(..4).is_some_and(|start| start.eq_ignore_ascii_case(b"sts."));
    let content_type = parts.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let media_type = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let form = media_type.eq_ignore_ascii_case(b"application/x-www-form-urlencoded");
    let query = parts.uri.query().unwrap_or_default();
    named || form || query.split('&').any(|pair| pair.starts_with("Action="))
}

/// An answer sent in pieces over some time; with `breaks` it ends after half of its bytes.
fn slow(reply: Reply, over: Duration, breaks: bool) -> Response<Body> {
    let (status, content_type) = (reply.status, reply.content_type);
    let bytes = Bytes::from(reply.into_bytes());
    let length = bytes.len();
    let pieces = Pieces {
        piece: length.div_ceil(PIECES).max(1),
        left: if breaks { bytes.slice(..length / 2) } else { bytes },
        pause: over / u32::try_from(PIECES).unwrap_or(1),
        waiting: None,
        breaks,
    };
    let mut response = Response::new(http::streamed(pieces));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    response
}

/// How many pieces a slow answer has.
const PIECES: usize = 16;

struct Pieces {
    left: Bytes,
    piece: usize,
    pause: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
    breaks: bool,
}

// The timer belongs to one task; only one connection polls the body.
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
