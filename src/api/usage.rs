//! Usage in, and what became of it: events, hour records, balance, dead letters, customers.

use std::sync::{Arc, OnceLock};

use hyper::body::Incoming;
use hyper::header::{HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::problem;
use crate::clock::WallClock;
use crate::entitlement::word::Tell;
use crate::http::{self, Abandoned, Body, ReadBodyError};
use crate::marketplace::{self, FaultClass, quantity};
use crate::usage::intake::{Activity, Intake, IntakeError};
use crate::usage::ledger::writer::Writer;
use crate::usage::ledger::{LedgerError, Record, Replayed, State, Totals};

/// A thousand events of a kilobyte each.
const BODY_BYTES_MAX: usize = 1 << 20;

/// A token of AWS has some hundred characters.
const TOKEN_BODY_BYTES_MAX: usize = 16 * 1024;

/// Records shown at once, newest of them last; the command line shows all.
const RECORDS_SHOWN: usize = 10_000;

/// Seconds after which a full or failing ledger is worth another try.
const RETRY_AFTER_SECONDS: u64 = 5;

/// The way to the ledger, once it is open.
#[derive(Debug, Clone)]
pub struct Metering {
    /// The way in.
    pub intake: Intake,
    /// For the views.
    pub writer: Writer,
}

/// The usage half of the server, in modes `metered` and `saas`.
#[derive(Clone)]
pub struct UsagePart {
    /// Set once the ledger is open.
    pub metering: Arc<OnceLock<Metering>>,
    /// Told of every request with usage, so that a shutdown waits for the last ones.
    pub activity: Activity,
    /// For `ResolveCustomer`, in mode `saas`.
    pub aws: Option<Arc<dyn marketplace::Metering>>,
    /// Where AWS's word about the entitlement is told.
    pub tell: Tell,
    /// Hours go by it.
    pub clock: WallClock,
}

impl UsagePart {
    pub(super) async fn take(&self, body: Incoming) -> Result<Response<Body>, Abandoned> {
        let _busy = self.activity.begin();
        let Some(metering) = self.metering.get() else { return Ok(starting()) };
        let bytes = match read(body, BODY_BYTES_MAX, "1 MiB; send fewer events at once").await? {
            Ok(bytes) => bytes,
            Err(refused) => return Ok(refused),
        };
        Ok(match metering.intake.take(&bytes).await {
            Ok(results) => http::json(StatusCode::ACCEPTED, &json!({"results": results})),
            Err(IntakeError::BadRequest(error)) => {
                problem(StatusCode::BAD_REQUEST, "BadRequest", &error.to_string())
            }
            Err(IntakeError::Ledger(error)) => unavailable(&error),
        })
    }

    pub(super) async fn records(&self) -> Response<Body> {
        let Some(metering) = self.metering.get() else { return starting() };
        match metering.writer.with(|ledger| ledger.records(RECORDS_SHOWN)).await {
            Ok(records) => {
                let records: Vec<Value> = records.iter().map(shown).collect();
                http::json(StatusCode::OK, &json!({"records": records}))
            }
            Err(error) => unavailable(&error),
        }
    }

    pub(super) async fn reconciliation(&self) -> Response<Body> {
        let Some(metering) = self.metering.get() else { return starting() };
        match metering.writer.with(|ledger| ledger.totals()).await {
            Ok(totals) => {
                let rows: Vec<Value> =
                    totals.into_iter().map(|(dimension, totals)| balance(&dimension, totals)).collect();
                http::json(StatusCode::OK, &json!({"at": self.clock.now(), "dimensions": rows}))
            }
            Err(error) => unavailable(&error),
        }
    }

    /// Counts a dead letter to the current hour. The body may say `{"accept_double_billing": true}`.
    pub(super) async fn replay(&self, id: &str, body: Incoming) -> Result<Response<Body>, Abandoned> {
        #[derive(Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Order {
            #[serde(default)]
            accept_double_billing: bool,
        }
        let Some(metering) = self.metering.get() else { return Ok(starting()) };
        let bytes = match read(body, TOKEN_BODY_BYTES_MAX, "16 KiB").await? {
            Ok(bytes) => bytes,
            Err(refused) => return Ok(refused),
        };
        let order = if bytes.is_empty() { Ok(Order::default()) } else { serde_json::from_slice(&bytes) };
        let (Ok(order), Ok(id)) = (order, id.parse::<i64>()) else {
            let detail =
                "POST /v1/dead-letters/<number>/replay, with {\"accept_double_billing\": true} or nothing";
            return Ok(problem(StatusCode::BAD_REQUEST, "BadRequest", detail));
        };
        let now = self.clock.now();
        let replayed =
            metering.writer.with(move |ledger| ledger.replay(id, order.accept_double_billing, now)).await;
        Ok(match replayed {
            Ok(Replayed::Counted) => http::json(StatusCode::OK, &json!({"id": id, "replayed": true})),
            Ok(Replayed::NotFound) => {
                problem(StatusCode::NOT_FOUND, "NotFound", "there is no dead letter of this number")
            }
            Ok(Replayed::InDoubt) => problem(
                StatusCode::CONFLICT,
                "InDoubt",
                "the record may have been billed: AWS never answered; compare with the seller's reports, and to \
                 count it \
                 all the same send {\"accept_double_billing\": true}",
            ),
            Err(error) => unavailable(&error),
        })
    }

    pub(super) async fn resolve(&self, body: Incoming) -> Result<Response<Body>, Abandoned> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Question {
            token: String,
        }
        let Some(aws) = &self.aws else {
            let detail = "customers are resolved in mode saas only";
            return Ok(problem(StatusCode::NOT_FOUND, "NotFound", detail));
        };
        let bytes = match read(body, TOKEN_BODY_BYTES_MAX, "16 KiB").await? {
            Ok(bytes) => bytes,
            Err(refused) => return Ok(refused),
        };
        let question = match serde_json::from_slice::<Question>(&bytes) {
            Ok(question) if !question.token.is_empty() => question,
            _ => {
                return Ok(problem(
                    StatusCode::BAD_REQUEST,
                    "BadRequest",
                    "the body must be {\"token\": \"…\"}",
                ));
            }
        };
        Ok(match aws.resolve_customer(question.token).await {
            Ok(customer) => http::json(StatusCode::OK, &customer.answer),
            Err(fault) => {
                tracing::debug!(code = %fault.code, detail = fault.detail, "customer not resolved");
                let status = match fault.class {
                    FaultClass::Misconfigured | FaultClass::Denied => StatusCode::BAD_REQUEST,
                    _ => StatusCode::SERVICE_UNAVAILABLE,
                };
                let detail = "AWS did not resolve the token; the code is its exception";
                super::problem_of(status, fault.code.as_str(), detail)
            }
        })
    }
}

/// The body, or the refusal of one that is too large.
async fn read(
    body: Incoming,
    bytes_max: usize,
    limit: &str,
) -> Result<Result<bytes::Bytes, Response<Body>>, Abandoned> {
    match http::read_body(body, bytes_max).await {
        Ok(bytes) => Ok(Ok(bytes)),
        Err(ReadBodyError::TooLarge) => {
            let detail = format!("the body is larger than {limit}");
            Ok(Err(problem(StatusCode::PAYLOAD_TOO_LARGE, "BodyTooLarge", &detail)))
        }
        Err(ReadBodyError::Broken) => Err(Abandoned),
    }
}

/// A record as the views and the command line show it.
#[must_use]
pub fn shown(record: &Record) -> Value {
    json!({
        "id": record.id,
        "dimension": record.dimension,
        "customer": record.customer.canonical(),
        "hour": record.hour.to_string(),
        "timestamp": record.timestamp.to_string(),
        "quantity": record.quantity.to_string(),
        "allocations": record.allocations.len(),
        "state": state(record),
        "attempts": record.attempts,
        "code": record.code,
        "metering_record_id": record.metering_record_id,
        "late_from": record.late_from.map(|hour| hour.to_string()),
        "in_doubt": record.in_doubt,
    })
}

/// The word for where a record stands.
#[must_use]
pub const fn state(record: &Record) -> &'static str {
    match (record.state, record.in_doubt) {
        (State::Sealed, true) => "in_doubt",
        (State::Sealed, false) => "sealed",
        (State::Accepted, _) => "accepted",
        (State::Carried, _) => "carried",
        (State::Dead, _) => "dead",
        (State::Claimed, _) => "claimed",
    }
}

/// A dimension's balance as the views and the command line show it.
#[must_use]
pub fn balance(dimension: &str, totals: Totals) -> Value {
    json!({
        "dimension": dimension,
        "accepted": quantity::show(totals.accepted),
        "billed": quantity::show(totals.billed),
        "pending": quantity::show(totals.pending),
        "dead": quantity::show(totals.dead),
        "balanced": totals.balances(),
    })
}

fn starting() -> Response<Body> {
    retry_later("LedgerUnavailable", "the ledger is being opened; send the request again")
}

fn unavailable(error: &LedgerError) -> Response<Body> {
    retry_later("LedgerUnavailable", &error.to_string())
}

fn retry_later(code: &'static str, detail: &str) -> Response<Body> {
    let mut response = problem(StatusCode::SERVICE_UNAVAILABLE, code, detail);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
    response
}
