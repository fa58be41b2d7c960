//! Usage in, and what became of it: events, hour records, balance, dead letters, customers.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use hyper::body::Incoming;
use hyper::header::{HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::problem;
use crate::clock::{Timestamp, WallClock};
use crate::entitlement::word::Tell;
use crate::http::{self, Abandoned, Body, Held, ReadBodyError, Room};
use crate::marketplace::{self, FaultClass, quantity};
use crate::usage::intake::{Activity, Intake, IntakeError, Outcome};
use crate::usage::ledger::view::{Looked, Standing};
use crate::usage::ledger::writer::Writer;
use crate::usage::ledger::{Ledger, LedgerError, Record, Replayed, State, Summary, Totals};
use crate::usage::policy::Window;

/// A thousand events of a kilobyte each.
const BODY_BYTES_MAX: usize = 1 << 20;

/// A token of AWS has some hundred characters.
const TOKEN_BODY_BYTES_MAX: usize = 16 * 1024;

/// Records shown at once: an answer of some hundred kilobytes.
pub const RECORDS_SHOWN: usize = 1000;

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
    /// How long AWS takes a record.
    pub window: Window,
}

/// The answer to a report, written straight: through a tree of values it would cost as much as reading the report.
#[derive(Serialize)]
struct Results<'a> {
    results: &'a [Outcome],
}

impl UsagePart {
    pub(super) async fn take(&self, body: Incoming, room: &Room) -> Result<Response<Body>, Abandoned> {
        let _busy = self.activity.begin();
        let Some(metering) = self.metering.get() else { return Ok(starting()) };
        let bytes = match read(room, body, BODY_BYTES_MAX, "1 MiB; send fewer events at once").await? {
            Ok(bytes) => bytes,
            Err(refused) => return Ok(refused),
        };
        Ok(match metering.intake.take(&bytes).await {
            Ok(results) => http::json(StatusCode::ACCEPTED, &Results { results: &results }),
            Err(IntakeError::BadRequest(error)) => {
                problem(StatusCode::BAD_REQUEST, "BadRequest", &error.to_string())
            }
            Err(IntakeError::Ledger(error)) => unavailable(&error),
        })
    }

    /// Hour records, newest page first: `?state=`, `?before=` (a number, for the next page), `?limit=`.
    pub(super) async fn records(&self, query: &str) -> Response<Body> {
        let Some((looked, limit)) = looked(query) else {
            let detail = "the query may hold state (sealed, in_doubt, accepted, carried, dead, claimed), before (a \
                          record's number) and limit (1 to 1000)";
            return problem(StatusCode::BAD_REQUEST, "BadRequest", detail);
        };
        let Some(metering) = self.metering.get() else { return starting() };
        let page =
            move |ledger: &mut Ledger| ledger.page(looked, limit, |record| (record.id, shown(&record)));
        match metering.writer.with(page).await {
            Ok(page) => {
                let before = page.last().filter(|_| page.len() == limit).map(|(id, _)| *id);
                let records: Vec<Value> = page.into_iter().rev().map(|(_, record)| record).collect();
                http::json(StatusCode::OK, &json!({"records": records, "before": before}))
            }
            Err(error) => unavailable(&error),
        }
    }

    /// One record, whole.
    pub(super) async fn record(&self, id: &str) -> Response<Body> {
        let Ok(id) = id.parse::<i64>() else {
            return problem(StatusCode::BAD_REQUEST, "BadRequest", "GET /v1/records/<number>");
        };
        let Some(metering) = self.metering.get() else { return starting() };
        match metering.writer.with(move |ledger| ledger.record(id)).await {
            Ok(Some(record)) => http::json(StatusCode::OK, &whole(&record)),
            Ok(None) => problem(StatusCode::NOT_FOUND, "NotFound", "there is no record of this number"),
            Err(error) => unavailable(&error),
        }
    }

    pub(super) async fn reconciliation(&self) -> Response<Body> {
        let Some(metering) = self.metering.get() else { return starting() };
        match metering.writer.with(|ledger| Ok((ledger.totals()?, ledger.summary()?))).await {
            Ok((totals, summary)) => {
                let (now, rows) = (self.clock.now(), balances(totals));
                let backlog = backlog(&summary, self.window, now);
                http::json(StatusCode::OK, &json!({"at": now, "dimensions": rows, "backlog": backlog}))
            }
            Err(error) => unavailable(&error),
        }
    }

    /// Counts a dead letter to the current hour. The body may say `{"accept_double_billing": true}`.
    pub(super) async fn replay(
        &self,
        id: &str,
        body: Incoming,
        room: &Room,
    ) -> Result<Response<Body>, Abandoned> {
        #[derive(Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Order {
            #[serde(default)]
            accept_double_billing: bool,
        }
        let Some(metering) = self.metering.get() else { return Ok(starting()) };
        let bytes = match read(room, body, TOKEN_BODY_BYTES_MAX, "16 KiB").await? {
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
            Ok(Replayed::OtherForm) => problem(
                StatusCode::CONFLICT,
                "OtherForm",
                "in this hour usage of the account was counted in the other form, by license or without it; AWS would \
                 bill both, so replay it in an hour without such usage",
            ),
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

    pub(super) async fn resolve(&self, body: Incoming, room: &Room) -> Result<Response<Body>, Abandoned> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Question {
            token: String,
        }
        let Some(aws) = &self.aws else {
            let detail = "customers are resolved in mode saas only";
            return Ok(problem(StatusCode::NOT_FOUND, "NotFound", detail));
        };
        let bytes = match read(room, body, TOKEN_BODY_BYTES_MAX, "16 KiB").await? {
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
                let mut response = super::problem_of(status, fault.code.as_str(), detail);
                if status == StatusCode::SERVICE_UNAVAILABLE {
                    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
                }
                response
            }
        })
    }
}

/// The body, or the refusal of one that is too large.
async fn read(
    room: &Room,
    body: Incoming,
    bytes_max: usize,
    limit: &str,
) -> Result<Result<Held, Response<Body>>, Abandoned> {
    match room.read(body, bytes_max).await {
        Err(ReadBodyError::NoRoom) => Ok(Err(no_room())),
        Ok(bytes) => Ok(Ok(bytes)),
        Err(ReadBodyError::TooLarge) => {
            let detail = format!("the body is larger than {limit}");
            Ok(Err(problem(StatusCode::PAYLOAD_TOO_LARGE, "BodyTooLarge", &detail)))
        }
        Err(ReadBodyError::Broken) => Err(Abandoned),
    }
}

/// Which records a query asks for, and how many; `None` where it says something else.
fn looked(query: &str) -> Option<(Looked, usize)> {
    let (mut looked, mut limit) = (Looked::default(), RECORDS_SHOWN);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=')?;
        match name {
            "state" => {
                looked.standing =
                    Some(Standing::ALL.into_iter().find(|standing| standing.as_str() == value)?);
            }
            "before" => looked.before = Some(value.parse().ok()?),
            "limit" => limit = value.parse().ok().filter(|limit| (1..=RECORDS_SHOWN).contains(limit))?,
            _ => return None,
        }
    }
    Some((looked, limit))
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
        "allocations": record.allocation_count,
        "state": standing(record).as_str(),
        "attempts": record.attempts,
        "code": record.code,
        "metering_record_id": record.metering_record_id,
        "late_from": record.late_from.map(|hour| hour.to_string()),
        "in_doubt": record.in_doubt && matches!(record.state, State::Sealed | State::Dead),
        "updated_at": record.updated_at,
    })
}

/// [`shown`], with what only a look at one record needs.
#[must_use]
pub fn whole(record: &Record) -> Value {
    let shares: Vec<Value> = record
        .allocations
        .iter()
        .map(|share| json!({"tags": share.tags, "quantity": share.quantity.to_string()}))
        .collect();
    let mut document = shown(record);
    document["pod"] = record.pod.clone().into();
    document["decimal"] = record.decimal.into();
    document["client_token"] = record.client_token.clone().into();
    document["sealed_at"] = json!(record.sealed_at);
    document["shares"] = shares.into();
    document
}

const fn standing(record: &Record) -> Standing {
    match (record.state, record.in_doubt) {
        (State::Sealed, true) => Standing::InDoubt,
        (State::Sealed, false) => Standing::Sealed,
        (State::Accepted, _) => Standing::Accepted,
        (State::Carried, _) => Standing::Carried,
        (State::Dead, _) => Standing::Dead,
        (State::Claimed, _) => Standing::Claimed,
    }
}

/// Each dimension's balance as the views and the command line show it.
#[must_use]
pub fn balances(totals: BTreeMap<String, Totals>) -> Value {
    let balance = |(dimension, totals): (String, Totals)| {
        json!({
            "dimension": dimension,
            "accepted": quantity::show(totals.accepted),
            "billed": quantity::show(totals.billed),
            "pending": quantity::show(totals.pending),
            "dead": quantity::show(totals.dead),
            "balanced": totals.balances(),
        })
    };
    totals.into_iter().map(balance).collect()
}

/// What is still to be sent, and how much time there is for the oldest of it.
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

fn starting() -> Response<Body> {
    retry_later("LedgerUnavailable", "the ledger is being opened; send the request again")
}

pub(super) fn no_room() -> Response<Body> {
    retry_later("TooBusy", "4 MiB of requests are being worked on; send this one again")
}

fn unavailable(error: &LedgerError) -> Response<Body> {
    retry_later("LedgerUnavailable", &error.to_string())
}

pub(super) fn retry_later(code: &'static str, detail: &str) -> Response<Body> {
    let mut response = problem(StatusCode::SERVICE_UNAVAILABLE, code, detail);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
    response
}
