//! Takes usage, and shows what became of it: events, hour records, balance, dead letters, customers.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use hyper::body::Incoming;
use hyper::header::{HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::code::Code;
use super::entitlements::EntitlementCache;
use super::problem;
use super::repair::Repairs;
use crate::entitlement::refusal_update::RefusalSender;
use crate::metrics::Metrics;
use crate::usage::intake::{Activity, Intake, IntakeError, Outcome};
use crate::usage::notice::{Notices, RejectedRequest};
use tollgate_clock::WallClock;
use tollgate_http::{self as http, Abandoned, Body, BodyBudget, BufferedBody, ReadBodyError};
use tollgate_ledger::store::Store;
use tollgate_ledger::view::ShownState;
use tollgate_ledger::writer::Writer;
use tollgate_ledger::{LedgerError, Links, Summary, Totals};
use tollgate_marketplace::{Customer, FaultClass, ProductCode, Region, Resolve, quantity};
use tollgate_metering::policy::Window;
use tollgate_metering::record::{Record, Whole};
use tollgate_time::Timestamp;

/// Enough for a thousand events of one kilobyte each.
const BODY_BYTES_MAX: usize = 1 << 20;

/// AWS's registration tokens have some hundred characters.
pub(super) const TOKEN_BODY_BYTES_MAX: usize = 16 * 1024;

/// Seconds after which the client should try a full or failing ledger again.
pub(super) const RETRY_AFTER_SECONDS: u64 = 5;

/// The ledger, once it is open.
#[derive(Debug, Clone)]
pub struct OpenLedger {
    /// Takes events.
    pub intake: Intake,
    /// For views and repairs.
    pub store: Arc<dyn Store>,
    /// For claims through the AWS door, which exists only where the ledger is a file.
    pub file: Option<Writer>,
}

/// The part of the server that exists in modes `metered` and `saas`.
#[derive(Clone)]
pub struct UsagePart {
    /// Set once the ledger is open.
    pub ledger: Arc<OnceLock<OpenLedger>>,
    /// Knows the requests with usage that are in progress, so that a shutdown waits for them.
    pub activity: Activity,
    /// For `ResolveCustomer`, in mode `saas`.
    pub aws: Option<Arc<dyn Resolve>>,
    /// The product that customers have bought, in mode `saas`.
    pub sold: Option<ProductCode>,
    /// What customers have bought, in mode `saas`.
    pub entitlements: Option<Arc<EntitlementCache>>,
    /// Where AWS's answers about the entitlement are sent.
    pub refusal_sender: RefusalSender,
    /// Dates repairs and views.
    pub clock: WallClock,
    /// How old a record may be when AWS accepts it.
    pub window: Window,
    /// Counts and logs requests of which nothing was taken.
    pub notices: Notices,
    /// Counts events of AWS Marketplace.
    pub metrics: Arc<Metrics>,
    /// Which repairs of records are allowed.
    pub repairs: Repairs,
    /// Locked while a listing is read: one at a time.
    pub lists: Arc<tokio::sync::Mutex<()>>,
}

/// The answer to a report, serialised directly: to build a tree of values first would cost as much as reading the
/// report.
#[derive(Serialize)]
struct Results<'a> {
    results: &'a [Outcome],
}

impl UsagePart {
    pub(super) async fn take(&self, body: Incoming, room: &BodyBudget) -> Result<Response<Body>, Abandoned> {
        let _busy = self.activity.begin();
        let unfinished = Unfinished(Some(&self.notices));
        let (response, rejected) = self.taken(body, room).await?;
        unfinished.ended();
        if let Some((rejected, error)) = rejected {
            self.notices.request_rejected(rejected, &error);
        }
        Ok(response)
    }

    /// The answer to a report, and why nothing of it was taken, if so.
    async fn taken(
        &self,
        body: Incoming,
        room: &BodyBudget,
    ) -> Result<(Response<Body>, Option<(RejectedRequest, String)>), Abandoned> {
        let Some(open) = self.ledger.get() else {
            return Ok((starting(), Some((RejectedRequest::LedgerStarting, STARTING.to_owned()))));
        };
        let bytes = match read(room, body, BODY_BYTES_MAX, "1 MiB; send fewer events at once").await? {
            Ok(bytes) => bytes,
            Err((answer, rejected)) => {
                let error =
                    if rejected == RejectedRequest::Busy { NO_ROOM } else { "the body is larger than 1 MiB" };
                return Ok((answer, Some((rejected, error.to_owned()))));
            }
        };
        Ok(match open.intake.take(bytes).await {
            Ok(results) => (http::json(StatusCode::ACCEPTED, &Results { results: &results }), None),
            Err(IntakeError::BadRequest(error)) => {
                let answer = problem(StatusCode::BAD_REQUEST, Code::BadRequest, &error.to_string());
                (answer, Some((RejectedRequest::BadRequest, error.to_string())))
            }
            Err(IntakeError::Strict(results)) => {
                (not_whole(&results), Some((RejectedRequest::Strict, NOT_WHOLE.to_owned())))
            }
            Err(IntakeError::Ledger(error)) => {
                let why = match error {
                    LedgerError::Full { .. } => RejectedRequest::LedgerFull,
                    LedgerError::Uncertain(_) => RejectedRequest::Unanswered,
                    _ => RejectedRequest::LedgerUnavailable,
                };
                (unavailable(&error), Some((why, error.to_string())))
            }
        })
    }

    /// One record with all its members.
    pub(super) async fn record(&self, id: &str) -> Response<Body> {
        let Ok(id) = id.parse::<i64>() else {
            return problem(StatusCode::BAD_REQUEST, Code::BadRequest, "GET /v1/records/<number>");
        };
        let Some(open) = self.ledger.get() else { return starting() };
        match open.store.record(id).await {
            Ok(Some((whole, links))) => http::json(StatusCode::OK, &shown_whole(&whole, &links)),
            Ok(None) => problem(StatusCode::NOT_FOUND, Code::NotFound, "there is no record of this number"),
            Err(error) => unavailable(&error),
        }
    }

    pub(super) async fn reconciliation(&self) -> Response<Body> {
        let Some(open) = self.ledger.get() else { return starting() };
        let read = async { Ok((open.store.totals().await?, open.store.summary().await?)) };
        match read.await {
            Ok((totals, summary)) => {
                let (now, rows) = (self.clock.now(), balances(totals));
                let backlog = backlog(&summary, self.window, now);
                http::json(StatusCode::OK, &json!({"at": now, "dimensions": rows, "backlog": backlog}))
            }
            Err(error) => unavailable(&error),
        }
    }

    pub(super) async fn resolve(
        &self,
        body: Incoming,
        room: &BodyBudget,
    ) -> Result<Response<Body>, Abandoned> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct ResolveRequest {
            token: String,
        }
        let Some(aws) = &self.aws else {
            let detail = "customers are resolved in mode saas only";
            return Ok(problem(StatusCode::NOT_FOUND, Code::NotFound, detail));
        };
        let bytes = match read(room, body, TOKEN_BODY_BYTES_MAX, "16 KiB").await? {
            Ok(bytes) => bytes,
            Err((rejected, _)) => return Ok(rejected),
        };
        let request = match serde_json::from_slice::<ResolveRequest>(&bytes) {
            Ok(request) if !request.token.is_empty() => request,
            _ => {
                return Ok(problem(
                    StatusCode::BAD_REQUEST,
                    Code::BadRequest,
                    "the body must be {\"token\": \"…\"}",
                ));
            }
        };
        Ok(match aws.resolve_customer(request.token).await {
            Ok(customer) => {
                self.identify(&customer.answer).await;
                http::json(StatusCode::OK, &customer.answer)
            }
            Err(fault) => {
                tracing::debug!(code = %fault.code, detail = fault.detail, "customer not resolved");
                let status = match fault.class {
                    FaultClass::Misconfigured | FaultClass::Denied => StatusCode::BAD_REQUEST,
                    _ => StatusCode::SERVICE_UNAVAILABLE,
                };
                let detail = "AWS did not resolve the token; the code is its exception";
                let mut response = super::problem_of(status, fault.code.as_str(), detail);
                if status == StatusCode::SERVICE_UNAVAILABLE {
                    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
                }
                response
            }
        })
    }

    /// Remembers which account a legacy identifier is, so that usage in both forms is not billed twice. The customer is
    /// answered even if this fails: it only guards against a mistake of the application.
    async fn identify(&self, answer: &Map<String, Value>) {
        let text = |name: &str| answer.get(name)?.as_str().map(ToOwned::to_owned);
        let (Some(identifier), Some(account), Some(open)) =
            (text("CustomerIdentifier"), text("CustomerAWSAccountId"), self.ledger.get())
        else {
            return;
        };
        if let Err(error) = open.store.identify(identifier, account).await {
            tracing::warn!(event = "customer_not_noted", %error, "the account of a customer identifier could not be saved");
        }
    }
}

/// Counts, when it is dropped, a request without an answer: it reached the request timeout, or the client disconnected.
struct Unfinished<'a>(Option<&'a Notices>);

impl Unfinished<'_> {
    fn ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(notices) = self.0 {
            notices.request_rejected(
                RejectedRequest::Unanswered,
                "the request was not answered in time, or the client disconnected",
            );
        }
    }
}

const NOT_WHOLE: &str =
    "an event of the request is rejected, and strict_usage is set: nothing of it is counted";
const STARTING: &str = "the ledger is being opened; send the request again";
const NO_ROOM: &str = "4 MiB of requests are being processed; send this one again";

/// The answer to a request with a rejected event under `strict_usage`: the problem, and the result of each event.
fn not_whole(results: &[Outcome]) -> Response<Body> {
    let status = StatusCode::UNPROCESSABLE_ENTITY;
    let mut document = super::problem_document(status, Code::UsageRejected.as_str(), NOT_WHOLE);
    document["results"] = json!(results);
    http::answer(status, "application/problem+json", document.to_string())
}

/// The body; or the refusal if it is too large, or if no memory is left for it.
pub(super) async fn read(
    room: &BodyBudget,
    body: Incoming,
    bytes_max: usize,
    limit: &str,
) -> Result<Result<BufferedBody, (Response<Body>, RejectedRequest)>, Abandoned> {
    match room.read(body, bytes_max).await {
        Err(ReadBodyError::NoRoom) => Ok(Err((no_room(), RejectedRequest::Busy))),
        Ok(bytes) => Ok(Ok(bytes)),
        Err(ReadBodyError::TooLarge) => {
            let detail = format!("the body is larger than {limit}");
            let answer = problem(StatusCode::PAYLOAD_TOO_LARGE, Code::BodyTooLarge, &detail);
            Ok(Err((answer, RejectedRequest::BadRequest)))
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
        "customer": Customer::shown(&record.customer.canonical()),
        "hour": record.hour.to_string(),
        "timestamp": record.timestamp.to_string(),
        "quantity": record.quantity.to_string(),
        "allocations": record.allocation_count,
        "state": ShownState::of(record).as_str(),
        "attempts": record.attempts,
        "code": record.code,
        "metering_record_id": record.metering_record_id,
        "late_from": record.late_from.map(|hour| hour.to_string()),
        "in_doubt": record.state.in_doubt(),
        "updated_at": record.updated_at,
    })
}

/// [`shown`], with the members that only the view of one record has.
#[must_use]
pub fn shown_whole(whole: &Whole, links: &Links) -> Value {
    let Whole { record, allocations } = whole;
    let shares: Vec<Value> = allocations
        .iter()
        .map(|share| json!({"tags": share.tags, "quantity": share.quantity.to_string()}))
        .collect();
    let mut document = shown(record);
    document["raw"] = quantity::show(record.raw).into();
    document["rounded"] = quantity::show(record.rounded).into();
    document["pod"] = record.pod.clone().into();
    document["region"] = record.region.as_ref().map(Region::as_str).into();
    document["decimal"] = record.decimal.into();
    document["client_token"] = record.client_token.clone().into();
    document["sealed_at"] = json!(record.sealed_at);
    document["shares"] = shares.into();
    // Only for a carried record: the record that now contains its usage, null while that hour is open.
    if let Some(counts_in) = links.counts_in {
        document["counts_in"] = json!(counts_in);
    }
    document["includes"] = json!(links.includes);
    document
}

/// Each dimension's balance as the views and the command line show it.
#[must_use]
pub fn balances(totals: BTreeMap<String, Totals>) -> Value {
    let balance = |(dimension, totals): (String, Totals)| {
        json!({
            "dimension": dimension,
            "accepted": quantity::show(totals.accepted),
            "rounded_up": quantity::show(totals.rounded_up),
            "billed": quantity::show(totals.billed),
            "pending": quantity::show(totals.pending),
            "dead": quantity::show(totals.dead),
            "discarded": quantity::show(totals.discarded),
            "remainder": quantity::show(totals.remainder),
            "balanced": totals.balances(),
        })
    };
    totals.into_iter().map(balance).collect()
}

/// What is still to be sent, and how long AWS still accepts the oldest of it.
#[must_use]
pub fn backlog(summary: &Summary, window: Window, now: Timestamp) -> Value {
    let closes = summary.oldest_unsent.map(|at| window.closes(at));
    json!({
        "unsent_records": summary.unsent,
        "dead_letters": summary.dead,
        "oldest_unsent": summary.oldest_unsent,
        "oldest_unsent_age_seconds": summary.oldest_unsent.map(|at| now.since(at).as_secs()),
        "window_closes": closes,
        "window_closes_in_seconds": closes.map(|at| at.since(now).as_secs()),
        "ledger_bytes": summary.bytes,
    })
}

pub(super) fn starting() -> Response<Body> {
    retry_later(Code::LedgerUnavailable, STARTING)
}

pub(super) fn no_room() -> Response<Body> {
    retry_later(Code::TooBusy, NO_ROOM)
}

pub(super) fn unavailable(error: &LedgerError) -> Response<Body> {
    let code = match error {
        LedgerError::Uncertain(_) => Code::OutcomeUnknown,
        _ => Code::LedgerUnavailable,
    };
    retry_later(code, &error.to_string())
}

pub(super) fn retry_later(code: Code, detail: &str) -> Response<Body> {
    let mut response = problem(StatusCode::SERVICE_UNAVAILABLE, code, detail);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
    response
}
