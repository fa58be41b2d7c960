//! The AWS door: `POST /` with `X-Amz-Target`, the wire protocol of the metering service (AWS JSON 1.1).
//!
//! - An unmodified AWS SDK, given `AWS_ENDPOINT_URL_MARKETPLACE_METERING`, reports through it. The SDK's signature is
//!   ignored: the call is signed again with the pod's credentials, and AWS's answer is returned byte for byte.
//! - `MeterUsage` in mode `metered` claims its dimension's hour in the ledger before the call is sent. If AWS does not
//!   answer, the ledger retries the report. Answers of tollgate itself carry the header `x-tollgate-answer`.
//! - It forwards only calls about the configured product, and only a share of AWS's quotas.

mod rates;
mod report;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{CONTENT_ENCODING, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Map, Value, json};
use tokio::sync::Mutex;

use super::admission;
use super::attestation::Registrations;
use super::code::Code;
use super::usage::UsagePart;
use crate::usage::notice::{Notices, RejectedRequest};
use rates::Rates;
use report::Report;
use tollgate_clock::{self as clock, WallClock};
use tollgate_http::{self as http, Abandoned, Body, BodyBudget, ReadBodyError};
use tollgate_ledger::writer::Writer;
use tollgate_ledger::{Claimed, Ledger, LedgerError, Settled};
use tollgate_marketplace::exceptions::NOT_ENTITLED;
use tollgate_marketplace::{Fault, FaultClass, FaultCode, Forward, Forwarded, ProductCode, Quantity, Region};
use tollgate_metering::policy::processed_unknown;

/// The header that names the operation.
pub const TARGET: &str = "x-amz-target";

/// Marks an answer that is not AWS's.
const OUR_ANSWER: HeaderName = HeaderName::from_static("x-tollgate-answer");

/// AWS takes less than 1 MB.
const BODY_BYTES_MAX: usize = 1 << 20;

/// The operations that are forwarded: the last part of the target.
const OPERATIONS: [&str; 4] = ["RegisterUsage", "MeterUsage", "BatchMeterUsage", "ResolveCustomer"];

/// Attempts of a call that gets no answer, the first included. Repeats are identical, and AWS recognises them.
const ATTEMPTS_MAX: u32 = 3;

/// Pause after the first attempt, doubled after each further one: a refused connection fails without any delay.
const PAUSE: Duration = Duration::from_millis(200);

/// No attempt starts later than this after the first, so that the last one ends within the server's request timeout.
const ATTEMPTS_WITHIN: Duration = Duration::from_secs(15);

/// The AWS door.
#[derive(Clone)]
pub struct Door {
    aws: Arc<dyn Forward>,
    usage: Option<UsagePart>,
    product_code: ProductCode,
    clock: WallClock,
    notices: Notices,
    rates: Arc<Rates>,
    turns: Turns,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").finish_non_exhaustive()
    }
}

/// Locks for one report of a dimension at a time: with two at once it is unclear whose refusal frees the hour. Their
/// number is fixed, because an application may name any number of dimensions.
#[derive(Debug, Clone)]
struct Turns(Arc<[Mutex<()>; 64]>);

impl Turns {
    fn of(&self, dimension: &str) -> &Mutex<()> {
        let sum = dimension.bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        &self.0[sum % self.0.len()]
    }
}

/// The result of a call.
struct Sent {
    answer: Result<Forwarded, Fault>,
    /// An attempt may have reached AWS and was not answered.
    doubt: bool,
}

impl Sent {
    fn response(self) -> Response<Body> {
        self.answer.map_or_else(|fault| unanswered(&fault), theirs)
    }

    /// What the result means for the claimed hour.
    fn settled(&self) -> Settled {
        match &self.answer {
            Ok(answer) if answer.status == 200 && is_object(&answer.body) => Settled::Accepted,
            // A refusal of this attempt says nothing about an earlier attempt that got no answer.
            Ok(answer) if (400..500).contains(&answer.status) && !self.doubt => Settled::Refused,
            Err(_) if !self.doubt => Settled::Unsent,
            Ok(_) | Err(_) => Settled::Unknown,
        }
    }
}

impl Door {
    /// `usage` is where `MeterUsage` claims its hours, in mode `metered`. `registrations` is the limit that is shared
    /// with attestations. `clock` dates claims in the ledger.
    #[must_use]
    pub fn new(
        aws: Arc<dyn Forward>,
        usage: Option<UsagePart>,
        product_code: ProductCode,
        registrations: Registrations,
        clock: WallClock,
        notices: Notices,
    ) -> Self {
        let turns = Turns(Arc::new(std::array::from_fn(|_| Mutex::new(()))));
        Self { aws, usage, product_code, clock, notices, rates: Arc::new(Rates::new(registrations)), turns }
    }

    /// Forwards a call.
    pub(super) async fn pass(
        &self,
        headers: &HeaderMap,
        body: Incoming,
        room: &BodyBudget,
    ) -> Result<Response<Body>, Abandoned> {
        let (operation, target) = match operation_and_target(headers) {
            Ok(found) => found,
            Err(rejected) => return Ok(rejected.response()),
        };
        let held = match room.read(body, BODY_BYTES_MAX).await {
            Ok(held) => held,
            Err(ReadBodyError::NoRoom) => {
                let text = "too much is being sent at once";
                return Ok(ours(StatusCode::SERVICE_UNAVAILABLE, Code::ServiceUnavailableException, text));
            }
            Err(ReadBodyError::TooLarge) => {
                let text = "AWS takes less than 1 MB";
                return Ok(ours(StatusCode::PAYLOAD_TOO_LARGE, Code::RequestTooLargeException, text));
            }
            Err(ReadBodyError::Broken) => return Err(Abandoned),
        };
        if let Err(rejected) = report::check_product(operation, &held, self.product_code.as_str()) {
            if rejected.1 == report::OTHER_PRODUCT {
                self.notices.request_rejected(
                    RejectedRequest::DoorProduct,
                    "AWS door: the call names another product",
                );
            }
            return Ok(rejected.response());
        }
        if self.rates.take(operation, clock::monotonic()).is_err() {
            let text = "Rate exceeded: the door passes on a share of AWS's quota; retry with a back-off";
            self.notices.request_rejected(RejectedRequest::DoorRate, text);
            return Ok(ours(StatusCode::BAD_REQUEST, Code::ThrottlingException, text));
        }
        let door = self.clone();
        // If the application disconnects, the call continues: otherwise its claim would stay open.
        let call = tokio::spawn(async move {
            let bytes = held.to_vec();
            let answer = match &door.usage {
                Some(usage) if operation == "MeterUsage" => door.meter(usage, target, bytes).await,
                _ => door.send(target, bytes, None).await.response(),
            };
            tracing::info!(
                event = "door_call",
                operation,
                status = answer.status().as_u16(),
                "call passed through the AWS door"
            );
            answer
        });
        call.await.map_err(|_| Abandoned)
    }

    /// Sends a call; to `region`, if an earlier attempt of the same report went there.
    async fn send(&self, target: String, body: Vec<u8>, region: Option<Region>) -> Sent {
        let (began, mut pause, mut attempts, mut doubt) = (clock::monotonic(), PAUSE, 1, false);
        loop {
            let answer = self.aws.forward(target.clone(), body.clone(), region.clone()).await;
            doubt |= match &answer {
                Ok(answer) => answer.status >= 500 || (answer.status == 200 && !is_object(&answer.body)),
                Err(fault) => processed_unknown(fault),
            };
            let again = matches!(&answer, Err(fault) if fault.class == FaultClass::Transient)
                && attempts < ATTEMPTS_MAX
                && clock::monotonic().duration_since(began) < ATTEMPTS_WITHIN;
            if !again {
                return Sent { answer, doubt };
            }
            tokio::time::sleep(pause).await;
            (pause, attempts) = (pause * 2, attempts + 1);
        }
    }

    async fn meter(&self, usage: &UsagePart, target: String, body: Vec<u8>) -> Response<Body> {
        let _busy = usage.activity.begin();
        let report = match report::read(&body) {
            Ok(Some(report)) => report,
            Ok(None) => return self.send(target, body, None).await.response(),
            Err(rejected) => return rejected.response(),
        };
        if let Err(rejected) = usage.repairs.rules.takes_events(&report.claim.dimension) {
            return ours(StatusCode::BAD_REQUEST, Code::DuplicateRequestException, &rejected.text);
        }
        // Where the door is, the ledger is a file.
        let Some(ledger) = usage.ledger.get().and_then(|open| open.file.as_ref()) else {
            let text = "the ledger is being opened";
            usage.notices.request_rejected(RejectedRequest::LedgerStarting, text);
            return ours(StatusCode::SERVICE_UNAVAILABLE, Code::ServiceUnavailableException, text);
        };
        let _turn = self.turns.of(&report.claim.dimension).lock().await;
        self.meter_claimed(usage, ledger, target, report).await.unwrap_or_else(|error| {
            usage.notices.request_rejected(RejectedRequest::LedgerUnavailable, &error.to_string());
            ours(StatusCode::SERVICE_UNAVAILABLE, Code::ServiceUnavailableException, &error.to_string())
        })
    }

    async fn meter_claimed(
        &self,
        usage: &UsagePart,
        ledger: &Writer,
        target: String,
        mut report: Report,
    ) -> Result<Response<Body>, LedgerError> {
        let (now, mut region) = (self.clock.now(), self.aws.region());
        let (claim, asked) = (report.claim.clone(), region.clone());
        let claim = move |ledger: &mut Ledger| ledger.claim(&claim, asked.as_ref(), now);
        let is_zero = report.claim.usage.quantity == Quantity::ZERO;
        let (id, is_new) = match ledger.with(claim).await? {
            Claimed::Granted(id) => (id, true),
            Claimed::Repeated { id, client_token, timestamp, region: first } => {
                // Identical on every attempt: otherwise AWS sees another report under a known token. And to the same
                // region: each region remembers only its own tokens.
                report.repeat(client_token, timestamp);
                region = first;
                (id, false)
            }
            Claimed::Taken => {
                let text = "this hour of the dimension has another value already: from /v1/usage, or from an \
                            earlier call";
                return Ok(ours(StatusCode::BAD_REQUEST, Code::DuplicateRequestException, text));
            }
        };
        let sent = self.send(target, report.body(), region).await;
        let settled = sent.settled();
        let record_id = match &sent.answer {
            Ok(answer) if settled == Settled::Accepted => record_id(answer),
            _ => None,
        };
        let denied = sent.answer.as_ref().is_ok_and(is_refusal);
        if denied || settled == Settled::Accepted {
            let refusal = denied.then(|| FaultCode::known(NOT_ENTITLED));
            usage.refusal_sender.send_if_modified(|update| {
                let changed = update.refusal != refusal;
                update.refusal = refusal;
                changed
            });
        }
        let (now, region) = (self.clock.now(), self.aws.region());
        let settle = move |ledger: &mut Ledger| {
            ledger.settle_claim(id, settled, record_id.as_deref(), region.as_ref(), now)
        };
        ledger.with(settle).await?;
        // A refused claim leaves nothing in the ledger.
        if is_new && !is_zero && settled != Settled::Refused {
            usage.notices.reported();
        }
        Ok(sent.response())
    }
}

/// Why a call is not forwarded: status, code, text.
#[derive(Debug, PartialEq, Eq)]
struct RejectedCall(StatusCode, Code, &'static str);

impl RejectedCall {
    fn response(self) -> Response<Body> {
        ours(self.0, self.1, self.2)
    }
}

/// The operation, and the whole target as it is forwarded.
fn operation_and_target(headers: &HeaderMap) -> Result<(&'static str, String), RejectedCall> {
    let text =
        |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let target = text(&HeaderName::from_static(TARGET)).to_owned();
    let Some(operation) = OPERATIONS.into_iter().find(|name| target.rsplit('.').next() == Some(*name)) else {
        return Err(RejectedCall(
            StatusCode::BAD_REQUEST,
            Code::UnknownOperationException,
            "no such operation",
        ));
    };
    // A browser may send `text/plain` without a CORS preflight; an SDK sends the protocol's type.
    if !admission::is_media_type(headers, "application/x-amz-json-1.1") {
        let text = "the Content-Type must be application/x-amz-json-1.1";
        return Err(RejectedCall(StatusCode::BAD_REQUEST, Code::SerializationException, text));
    }
    // A compressed report cannot be read here, so it could not claim its hour.
    if !matches!(text(&CONTENT_ENCODING).to_ascii_lowercase().as_str(), "" | "identity") {
        let text = "disable the compression of requests (disable_request_compression)";
        return Err(RejectedCall(StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::SerializationException, text));
    }
    Ok((operation, target))
}

/// AWS answers with a JSON object; anything else did not come from AWS, whatever its status.
fn is_object(body: &[u8]) -> bool {
    serde_json::from_slice::<Map<String, Value>>(body).is_ok()
}

fn record_id(answer: &Forwarded) -> Option<String> {
    let body: Value = serde_json::from_slice(&answer.body).ok()?;
    Some(body["MeteringRecordId"].as_str()?.to_owned())
}

/// Whether AWS says that the account is not entitled.
fn is_refusal(answer: &Forwarded) -> bool {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let code = body["__type"].as_str().unwrap_or_default();
    answer.status >= 400 && FaultCode::from_wire(code).as_str() == NOT_ENTITLED
}

fn theirs(answer: Forwarded) -> Response<Body> {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::BAD_GATEWAY);
    let mut response = http::answer(status, "application/x-amz-json-1.1", answer.body);
    for (name, value) in answer.headers {
        let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) else {
            continue;
        };
        if !CONNECTION_HEADERS.contains(&name.as_str()) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// Headers of the connection to AWS, which end here (RFC 9110, section 7.6.1), and the length, which hyper writes.
/// AWS's `Date` stays: an SDK corrects its clock by it.
const CONNECTION_HEADERS: [&str; 5] =
    ["connection", "keep-alive", "transfer-encoding", "content-length", "upgrade"];

fn unanswered(fault: &Fault) -> Response<Body> {
    tracing::debug!(code = %fault.code, detail = fault.detail, "no answer for the AWS door");
    match fault.class {
        FaultClass::Access | FaultClass::ExpiredSession | FaultClass::Misconfigured => {
            let text = format!("tollgate cannot sign the call: {}; see its log", fault.code);
            ours(StatusCode::FORBIDDEN, Code::AccessDeniedException, &text)
        }
        FaultClass::Denied | FaultClass::Transient => {
            let text = format!("no answer from AWS: {}", fault.code);
            ours(StatusCode::SERVICE_UNAVAILABLE, Code::ServiceUnavailableException, &text)
        }
    }
}

pub(super) fn switched_off() -> Response<Body> {
    let text = "the AWS door is switched off; set aws_door = true";
    ours(StatusCode::BAD_REQUEST, Code::UnknownOperationException, text)
}

/// An answer of our own, in AWS's form.
fn ours(status: StatusCode, code: Code, text: &str) -> Response<Body> {
    let code = code.as_str();
    let body = json!({"__type": code, "message": format!("tollgate: {text}")}).to_string();
    let mut response = http::answer(status, "application/x-amz-json-1.1", body);
    response.headers_mut().insert(OUR_ANSWER, HeaderValue::from_static("1"));
    response.headers_mut().insert("x-amzn-errortype", HeaderValue::from_static(code));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Result<Forwarded, Fault> {
        Ok(Forwarded { status, headers: Vec::new(), body: body.into() })
    }

    #[test]
    fn a_refusal_frees_the_hour_only_where_no_attempt_was_lost() {
        let refusal = || answer(400, r#"{"__type":"ThrottlingException"}"#);
        let lost = || Err(Fault::local(FaultClass::Transient, "Timeout", ""));
        for (answer, doubt, settled) in [
            (answer(200, r#"{"MeteringRecordId":"x"}"#), false, Settled::Accepted),
            (answer(200, r#"{"MeteringRecordId":"x"}"#), true, Settled::Accepted),
            (answer(200, "<html>"), true, Settled::Unknown),
            (refusal(), false, Settled::Refused),
            (refusal(), true, Settled::Unknown),
            (answer(503, "<html>"), true, Settled::Unknown),
            (lost(), true, Settled::Unknown),
            (lost(), false, Settled::Unsent),
        ] {
            let sent = Sent { answer, doubt };
            assert_eq!(sent.settled(), settled, "{:?} {doubt}", sent.answer);
        }
    }
}
