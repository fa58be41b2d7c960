//! The application's server, on loopback or a Unix socket: entitlement, usage, records.
//!
//! - A web page in somebody's browser must not reach it: a foreign `Host` and any `Origin` are refused, and bodies must
//!   say that they are JSON.
//! - Usage is acknowledged (202) after the commit that covers it; 503 means that nothing was.
//! - Errors are `application/problem+json` (RFC 9457).

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, ORIGIN, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::config::Secret;
use crate::entitlement::reason::runbook;
use crate::entitlement::{Document, Proof, Subject, Watch};
use crate::http::{self, Abandoned, Body, Handler, Limits, ReadBodyError};
use crate::usage::intake::{Intake, IntakeError};
use crate::usage::ledger::writer::Writer;
use crate::usage::ledger::{LedgerError, Record, State};

/// One application with a pool of connections, or a handful of them.
pub const LIMITS: Limits = Limits {
    connections_max: 512,
    header_timeout: Duration::from_secs(60),
    header_bytes_max: 16 * 1024,
    // A commit waits for the disk, and disks can be slow.
    request_timeout: Duration::from_secs(30),
    drain_timeout: Duration::from_secs(5),
    reset_when_abandoned: false,
};

/// A thousand events of a kilobyte each.
const BODY_BYTES_MAX: usize = 1 << 20;

/// Records shown at once.
const RECORDS_SHOWN: usize = 10_000;

/// Seconds after which a full or failing ledger is worth another try.
const RETRY_AFTER_SECONDS: u64 = 5;

/// What the server needs beyond the entitlement, where there is usage.
#[derive(Debug, Clone)]
pub struct Metering {
    /// The way in.
    pub intake: Intake,
    /// For the views.
    pub writer: Writer,
}

/// The application server's answers.
#[derive(Debug, Clone)]
pub struct AppServer {
    /// For the document.
    pub subject: Arc<Subject>,
    /// The published fact.
    pub entitlement: Watch,
    /// Asked for as a bearer token, if there is one.
    pub token: Option<Arc<Secret>>,
    /// In modes `metered` and `saas`.
    pub metering: Option<Metering>,
    /// Turns true at `POST /v1/quit`, where that is switched on.
    pub quit: Option<watch::Sender<bool>>,
}

impl Handler for AppServer {
    async fn handle(&self, request: Request<Incoming>) -> Result<Response<Body>, Abandoned> {
        let (parts, body) = request.into_parts();
        if let Err(refused) = self.admit(&parts.headers) {
            return Ok(refused);
        }
        let path = parts.uri.path();
        match (&parts.method, path) {
            (method, "/v1/entitlement") if http::reads(method) => Ok(self.entitlement()),
            (method, "/v1/records") if http::reads(method) => Ok(self.records().await),
            (method, "/v1/reconciliation") if http::reads(method) => Ok(self.reconciliation().await),
            (&Method::POST, "/v1/usage") => self.usage(&parts.headers, body).await,
            (&Method::POST, "/v1/quit") => Ok(self.quit()),
            (_, "/v1/entitlement" | "/v1/records" | "/v1/reconciliation") => Ok(http::method_not_allowed("GET, HEAD")),
            (_, "/v1/usage" | "/v1/quit") => Ok(http::method_not_allowed("POST")),
            _ => Ok(problem(StatusCode::NOT_FOUND, "NotFound", "there is no such path")),
        }
    }
}

impl AppServer {
    /// Refuses whoever is not the application: browsers by their headers, others by the token.
    fn admit(&self, headers: &HeaderMap) -> Result<(), Response<Body>> {
        if headers.contains_key(ORIGIN) {
            return Err(problem(StatusCode::FORBIDDEN, "OriginRefused", "requests of web pages are refused"));
        }
        let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        if self.token.is_none() && !is_local_host(host) {
            let detail = "the Host must be localhost or a loopback address";
            return Err(problem(StatusCode::FORBIDDEN, "HostRefused", detail));
        }
        let Some(token) = &self.token else { return Ok(()) };
        let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let given = given.strip_prefix("Bearer ").unwrap_or_default();
        // Through a keyed hash, so that how long the comparison takes says nothing about the token.
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, token.expose().as_bytes());
        let expected = ring::hmac::sign(&key, token.expose().as_bytes());
        if ring::hmac::verify(&key, given.as_bytes(), expected.as_ref()).is_err() {
            let detail = "the bearer token is missing or wrong; it is the content of app_token_file";
            return Err(problem(StatusCode::UNAUTHORIZED, "TokenRefused", detail));
        }
        Ok(())
    }

    fn entitlement(&self) -> Response<Body> {
        let fact = Arc::clone(&self.entitlement.borrow());
        let document = serde_json::to_value(Document::new(&self.subject, &fact));
        let Ok(Value::Object(mut document)) = document else {
            return problem(StatusCode::INTERNAL_SERVER_ERROR, "Internal", "the document cannot be shown");
        };
        let (token, nonce) = match fact.standing.proof().map(AsRef::as_ref) {
            Some(Proof::Receipt(receipt)) => (json!(receipt.token()), json!(receipt.nonce().as_str())),
            Some(Proof::Permission(_)) | None => (Value::Null, Value::Null),
        };
        document.insert("token".to_owned(), token);
        document.insert("nonce".to_owned(), nonce);
        http::json(StatusCode::OK, &document)
    }

    async fn usage(&self, headers: &HeaderMap, body: Incoming) -> Result<Response<Body>, Abandoned> {
        let Some(metering) = &self.metering else { return Ok(no_usage()) };
        let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if content_type.split(';').next().map(str::trim) != Some("application/json") {
            let detail = "the Content-Type must be application/json";
            return Ok(problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, "ContentTypeRefused", detail));
        }
        let bytes = match http::read_body(body, BODY_BYTES_MAX).await {
            Ok(bytes) => bytes,
            Err(ReadBodyError::TooLarge) => {
                let detail = "the body is larger than 1 MiB; send fewer events at once";
                return Ok(problem(StatusCode::PAYLOAD_TOO_LARGE, "BodyTooLarge", detail));
            }
            Err(ReadBodyError::Broken) => return Err(Abandoned),
        };
        Ok(match metering.intake.take(&bytes).await {
            Ok(results) => http::json(StatusCode::ACCEPTED, &json!({"results": results})),
            Err(IntakeError::BadRequest(error)) => problem(StatusCode::BAD_REQUEST, "BadRequest", &error.to_string()),
            Err(IntakeError::Ledger(error)) => unavailable(&error),
        })
    }

    async fn records(&self) -> Response<Body> {
        let Some(metering) = &self.metering else { return no_usage() };
        match metering.writer.with(|ledger| ledger.records(RECORDS_SHOWN)).await {
            Ok(records) => {
                let records: Vec<Value> = records.iter().map(shown).collect();
                http::json(StatusCode::OK, &json!({"records": records}))
            }
            Err(error) => unavailable(&error),
        }
    }

    async fn reconciliation(&self) -> Response<Body> {
        let Some(metering) = &self.metering else { return no_usage() };
        match metering.writer.with(|ledger| ledger.totals()).await {
            Ok(totals) => {
                let text = |micros: u64| crate::marketplace::quantity::show(micros);
                let rows: Vec<Value> = totals
                    .into_iter()
                    .map(|(dimension, totals)| {
                        json!({
                            "dimension": dimension,
                            "accepted": text(totals.accepted),
                            "billed": text(totals.billed),
                            "pending": text(totals.pending),
                            "dead": text(totals.dead),
                            "balanced": totals.balances(),
                        })
                    })
                    .collect();
                http::json(StatusCode::OK, &json!({"dimensions": rows}))
            }
            Err(error) => unavailable(&error),
        }
    }

    fn quit(&self) -> Response<Body> {
        match &self.quit {
            Some(quit) => {
                quit.send_replace(true);
                http::json(StatusCode::ACCEPTED, &json!({"draining": true}))
            }
            None => problem(StatusCode::NOT_FOUND, "QuitSwitchedOff", "quit is switched off; set quit = true"),
        }
    }
}

fn shown(record: &Record) -> Value {
    let state = match (record.state, record.in_doubt) {
        (State::Sealed, true) => "in_doubt",
        (State::Sealed, false) => "sealed",
        (State::Accepted, _) => "accepted",
        (State::Carried, _) => "carried",
        (State::Dead, _) => "dead",
    };
    json!({
        "id": record.id,
        "dimension": record.dimension,
        "hour": record.hour.to_string(),
        "quantity": record.quantity.to_string(),
        "state": state,
        "attempts": record.attempts,
        "code": record.code,
        "metering_record_id": record.metering_record_id,
        "late_from": record.late_from.map(|hour| hour.to_string()),
        "customer": record.customer.canonical(),
    })
}

fn is_local_host(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, port)| {
        if port.bytes().all(|b| b.is_ascii_digit()) { name } else { host }
    });
    name.eq_ignore_ascii_case("localhost")
        || name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn no_usage() -> Response<Body> {
    let detail = "this product is priced by the hour: AWS meters it, and there is no usage to report";
    problem(StatusCode::NOT_FOUND, "NoUsage", detail)
}

fn unavailable(error: &LedgerError) -> Response<Body> {
    let mut response = problem(StatusCode::SERVICE_UNAVAILABLE, "LedgerUnavailable", &error.to_string());
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
    response
}

/// RFC 9457, section 3.
fn problem(status: StatusCode, code: &'static str, detail: &str) -> Response<Body> {
    let title = status.canonical_reason().unwrap_or("error");
    let body = json!({
        "type": runbook(code), "title": title, "status": status.as_u16(), "code": code, "detail": detail,
    });
    http::answer(status, "application/problem+json", body.to_string())
}
