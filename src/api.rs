//! The application's server, on loopback or a Unix socket: entitlement, license, usage, records.
//!
//! - Requests of web pages are refused: by `Origin`, by a `Host` that is not local (unless a token is configured), and
//!   by a `Content-Type` that is not JSON. A repair needs none, since a replay may have no body: a browser sends
//!   `Origin` with every POST, and that refuses a page's repair.
//! - Usage is acknowledged (202) after its commit; 503 means that nothing was acknowledged.
//! - Errors are `application/problem+json` (RFC 9457).

mod admission;
pub mod attestation;
mod code;
pub mod csv;
mod customers;
pub mod door;
pub mod entitlements;
pub mod license;
pub mod listing;
pub mod query;
pub mod rate;
pub mod repair;
mod route;
pub mod usage;

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{ACCEPT, ALLOW, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::config::Secret;
use crate::entitlement::Documents;
use crate::runbook;
use attestation::Attestation;
use code::Code;
use door::Door;
use license::LicensePart;
use route::{OfCustomer, OfUsage, Route};
use tollgate_http::{self as http, Abandoned, Body, BodyBudget, Handler, Limits, ReadBodyError};
use usage::UsagePart;

/// For a few applications, each with a pool of connections.
pub const LIMITS: Limits = Limits {
    connections_max: 512,
    header_timeout: Duration::from_secs(60),
    header_bytes_max: 16 * 1024,
    // A commit waits for the disk, and disks can be slow.
    request_timeout: Duration::from_secs(30),
    drain_timeout: Duration::from_secs(5),
    reset_when_abandoned: false,
};

/// Made from `docs/openapi.yaml` by `just generate`.
const OPENAPI: &str = include_str!("api/openapi.json");

/// Limit of all request bodies in memory together: four of the largest. Requests beyond it are answered with 503, so
/// that the process stays within the container's 32 MiB.
pub const BODIES_BYTES_MAX: usize = 4 << 20;

/// Enough for a nonce of 255 characters, each escaped.
const NONCE_BODY_BYTES_MAX: usize = 4096;

/// Answers the application's requests.
#[derive(Clone)]
pub struct AppServer {
    /// The published entitlement, and its document.
    pub documents: Documents,
    /// The memory limit for request bodies.
    pub room: BodyBudget,
    /// The bearer token that requests must carry, if one is configured.
    pub token: Option<Arc<Secret>>,
    /// In modes `metered` and `saas`.
    pub usage: Option<UsagePart>,
    /// In mode `hourly`.
    pub attestation: Option<Arc<Attestation>>,
    /// In mode `contract`.
    pub license: Option<LicensePart>,
    /// Where `aws_door` is on.
    pub door: Option<Door>,
    /// Set to true by `POST /v1/quit`; `None` unless `quit = true`.
    pub quit: Option<watch::Sender<bool>>,
}

impl Handler for AppServer {
    fn handle(
        &self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<Body>, Abandoned>> + Send {
        // Split outside the async block, whose state would otherwise hold the whole request beside its parts.
        let (parts, body) = request.into_parts();
        async move {
            if let Some(refused) = admission::refusal(&parts.uri, &parts.headers, self.token.as_deref()) {
                return Ok(refused);
            }
            let Some(route) = Route::of(parts.uri.path(), &parts.headers) else { return Ok(not_found()) };
            match (route, &self.usage) {
                (Route::Take | Route::Usage(_), None) => Ok(no_usage()),
                (route, _) if !route.takes(&parts.method) => Ok(method_not_allowed(route.allow())),
                (Route::Take, Some(usage)) => match admission::not_json(&parts.headers) {
                    Some(refused) => Ok(refused),
                    None => usage.take(body, &self.room).await,
                },
                // Rare routes are boxed: otherwise every request with usage would reserve memory for their state.
                (Route::Usage(of_usage), Some(usage)) => {
                    Box::pin(self.usage(usage, of_usage, &parts, body)).await
                }
                (Route::Entitlement, _) => Ok(self.entitlement()),
                (Route::License, _) => Ok(self.license()),
                (Route::OpenApi, _) => Ok(http::answer(StatusCode::OK, "application/json", OPENAPI)),
                (Route::Quit, _) => Ok(self.quit()),
                (Route::Attest, _) => Box::pin(self.attest(&parts.headers, body)).await,
                (Route::Door, _) => match &self.door {
                    Some(door) => Box::pin(door.pass(&parts.headers, body, &self.room)).await,
                    None => Ok(door::switched_off()),
                },
            }
        }
    }

    fn too_late(&self) -> Response<Body> {
        // Events may have been committed meanwhile.
        usage::retry_later(
            Code::RequestTimeout,
            "the disk, AWS or the sender of the request took too long; usage in it may have been counted: send events with \
             an id again under the same id, which counts once, and events without an id not blindly",
        )
    }
}

impl AppServer {
    async fn usage(
        &self,
        usage: &UsagePart,
        route: OfUsage<'_>,
        parts: &Parts,
        body: Incoming,
    ) -> Result<Response<Body>, Abandoned> {
        match route {
            OfUsage::Resolve => match admission::not_json(&parts.headers) {
                Some(refused) => Ok(refused),
                None => usage.resolve(body, &self.room).await,
            },
            OfUsage::Reconciliation => Ok(usage.reconciliation().await),
            OfUsage::List(listing) => {
                let accept = parts.headers.get(ACCEPT).and_then(|value| value.to_str().ok());
                let query = parts.uri.query().unwrap_or_default();
                Ok(usage.list(listing, query, accept.unwrap_or_default()).await)
            }
            OfUsage::Record(id) => Ok(usage.record(id).await),
            OfUsage::Repair(id, action) => usage.repair(id, action, body, &self.room).await,
            OfUsage::Event => match admission::not_json(&parts.headers) {
                Some(refused) => Ok(refused),
                // Anybody who can reach this address could end a customer's license.
                None if self.token.is_none() => Ok(customers::no_token()),
                None => usage.marketplace_event(body, &self.room).await,
            },
            OfUsage::Customer(key, OfCustomer::Flush) => Ok(usage.flush(key).await),
            OfUsage::Customer(key, OfCustomer::Usage) => Ok(usage.of_customer(key).await),
            OfUsage::Customer(key, OfCustomer::Entitlements) => {
                Ok(usage.entitlements(key, &parts.headers).await)
            }
        }
    }

    fn entitlement(&self) -> Response<Body> {
        let text = self.documents.latest().with_proof_at(self.documents.now());
        http::answer(StatusCode::OK, "application/json", text)
    }

    fn license(&self) -> Response<Body> {
        match &self.license {
            Some(license) => http::json(StatusCode::OK, &license.document(self.documents.now())),
            None => {
                let detail = "this product has no contract's license: the mode is not contract";
                problem(StatusCode::NOT_FOUND, Code::NoContract, detail)
            }
        }
    }

    async fn attest(&self, headers: &HeaderMap, body: Incoming) -> Result<Response<Body>, Abandoned> {
        if let Some(refused) = admission::not_json(headers) {
            return Ok(refused);
        }
        let Some(attestation) = &self.attestation else {
            let detail = "only RegisterUsage is signed: there is nothing to attest outside mode hourly";
            return Ok(problem(StatusCode::NOT_FOUND, Code::NotFound, detail));
        };
        match self.room.read(body, NONCE_BODY_BYTES_MAX).await {
            Ok(bytes) => Ok(attestation.attest(&bytes).await),
            Err(ReadBodyError::NoRoom) => Ok(usage::no_room()),
            Err(ReadBodyError::TooLarge) => Ok(problem(
                StatusCode::PAYLOAD_TOO_LARGE,
                Code::BodyTooLarge,
                "the body is larger than 4 KiB",
            )),
            Err(ReadBodyError::Broken) => Err(Abandoned),
        }
    }

    fn quit(&self) -> Response<Body> {
        match &self.quit {
            Some(quit) => {
                quit.send_replace(true);
                http::json(StatusCode::ACCEPTED, &json!({"draining": true}))
            }
            None => {
                problem(StatusCode::NOT_FOUND, Code::QuitSwitchedOff, "quit is switched off; set quit = true")
            }
        }
    }
}

/// 405 with the allowed methods (RFC 9110, section 15.5.6).
fn method_not_allowed(allow: &'static str) -> Response<Body> {
    let detail = format!("this path allows only {allow}");
    let mut response = problem(StatusCode::METHOD_NOT_ALLOWED, Code::MethodNotAllowed, &detail);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    response
}

fn not_found() -> Response<Body> {
    problem(StatusCode::NOT_FOUND, Code::NotFound, "there is no such path")
}

fn no_usage() -> Response<Body> {
    let detail = "this product is priced by the hour or by contract: there is no usage to report";
    problem(StatusCode::NOT_FOUND, Code::NoUsage, detail)
}

/// An error in the form of RFC 9457, section 3. `type` is a URN that ends with the code; `tollgate explain` accepts it.
fn problem(status: StatusCode, code: Code, detail: &str) -> Response<Body> {
    problem_of(status, code.as_str(), detail)
}

/// [`problem`] with AWS's code, or the verifier's.
fn problem_of(status: StatusCode, code: &str, detail: &str) -> Response<Body> {
    http::answer(status, "application/problem+json", problem_document(status, code, detail).to_string())
}

fn problem_document(status: StatusCode, code: &str, detail: &str) -> Value {
    let title = status.canonical_reason().unwrap_or("error");
    json!({"type": format!("{}{code}", runbook::URN), "title": title, "status": status.as_u16(), "code": code, "detail": detail})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entitlement::{self, Subject};
    use tollgate_clock::WallClock;
    use tollgate_time::Timestamp;

    #[test]
    fn a_request_that_took_too_long_may_be_sent_again() {
        let (_publisher, entitlement) = entitlement::channel(Timestamp::from_unix_seconds(0));
        let subject = Subject {
            mode: "metered",
            product_code: Some("demo".parse().unwrap()),
            product_id: None,
            pod: None,
        };
        let server = AppServer {
            documents: Documents::new(Arc::new(subject), entitlement, WallClock::system()),
            room: BodyBudget::new(BODIES_BYTES_MAX),
            token: None,
            usage: None,
            attestation: None,
            license: None,
            door: None,
            quit: None,
        };
        let answer = server.too_late();
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(answer.headers().contains_key(hyper::header::RETRY_AFTER));
        assert!(include_str!("../docs/RUNBOOK.md").contains("\n### RequestTimeout\n"));
    }

    /// The allocator caches blocks of up to 1,032 bytes; a larger block would cost a search for each request.
    #[test]
    fn what_is_kept_of_a_request_is_small() {
        fn size<A, F>(_: fn(A) -> F) -> usize {
            size_of::<F>()
        }
        let bytes = size(|(server, request): (&'static AppServer, Request<Incoming>)| server.handle(request));
        assert!(bytes <= 1032, "{bytes} bytes");
    }
}
