//! The AWS door: `POST /` with `X-Amz-Target`, the wire protocol of the metering service (AWS JSON 1.1).
//!
//! - An unmodified AWS SDK, given `AWS_ENDPOINT_URL_MARKETPLACE_METERING`, reports through it. Whatever it signed
//!   with is ignored: the call is signed anew with the pod's credentials, and AWS's answer comes back byte for byte.
//! - `MeterUsage` in mode `metered` claims its dimension's hour in the ledger before it leaves; without an answer the
//!   ledger goes on asking. What we answer ourselves is marked `x-tollgate-answer`.

use std::fmt;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde_json::{Map, Value, json};

use super::usage::{Metering, UsagePart};
use crate::clock::{Timestamp, WallClock};
use crate::http::{self, Abandoned, Body, ReadBodyError};
use crate::marketplace::{
    self, Allocation, Fault, FaultClass, FaultCode, Forwarded, NONCE_BYTES, Nonce, Quantity, TagSet,
};
use crate::usage::ledger::{Claim, Claimed, LedgerError, Settled};

/// The header that names the operation.
pub const TARGET: &str = "x-amz-target";

/// Marks an answer that is not AWS's.
const OUR_ANSWER: HeaderName = HeaderName::from_static("x-tollgate-answer");

/// AWS takes less than 1 MB.
const BODY_BYTES_MAX: usize = 1 << 20;

/// The operations that are passed on, by the end of their target.
const OPERATIONS: [&str; 4] = ["RegisterUsage", "MeterUsage", "BatchMeterUsage", "ResolveCustomer"];

/// Calls that brought no answer are made again, the same, so often: each operation takes a repeat as what it is.
const ATTEMPTS_MAX: usize = 3;

/// The door.
#[derive(Clone)]
pub struct Door {
    /// The service behind it.
    pub aws: Arc<dyn marketplace::Metering>,
    /// Whose ledger `MeterUsage` claims its hours in, in mode `metered`.
    pub usage: Option<UsagePart>,
    /// For what is noted in the ledger.
    pub clock: WallClock,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").finish_non_exhaustive()
    }
}

impl Door {
    /// Passes a call on.
    pub(super) async fn pass(
        &self,
        headers: &HeaderMap,
        body: Incoming,
    ) -> Result<Response<Body>, Abandoned> {
        let target = headers.get(TARGET).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let Some(operation) = OPERATIONS.into_iter().find(|name| target.rsplit('.').next() == Some(*name))
        else {
            return Ok(ours(StatusCode::BAD_REQUEST, "UnknownOperationException", "no such operation"));
        };
        // A browser may send text unasked; an SDK names the protocol.
        let content_type =
            headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if !content_type.starts_with("application/x-amz-json-1.1") {
            let text = "the Content-Type must be application/x-amz-json-1.1";
            return Ok(ours(StatusCode::BAD_REQUEST, "SerializationException", text));
        }
        let bytes = match http::read_body(body, BODY_BYTES_MAX).await {
            Ok(bytes) => bytes.to_vec(),
            Err(ReadBodyError::TooLarge) => {
                let text = "AWS takes less than 1 MB";
                return Ok(ours(StatusCode::PAYLOAD_TOO_LARGE, "RequestTooLargeException", text));
            }
            Err(ReadBodyError::Broken) => return Err(Abandoned),
        };
        let answer = match (&self.usage, operation) {
            (Some(usage), "MeterUsage") => self.meter(usage, target, bytes).await,
            _ => self.send(target, bytes).await.map_or_else(|fault| unanswered(&fault), theirs),
        };
        tracing::info!(operation, status = answer.status().as_u16(), "call passed through the AWS door");
        Ok(answer)
    }

    async fn send(&self, target: String, body: Vec<u8>) -> Result<Forwarded, Fault> {
        let mut attempt = 1;
        loop {
            match self.aws.forward(target.clone(), body.clone()).await {
                Err(fault) if fault.class == FaultClass::Transient && attempt < ATTEMPTS_MAX => attempt += 1,
                answer => return answer,
            }
        }
    }

    async fn meter(&self, usage: &UsagePart, target: String, body: Vec<u8>) -> Response<Body> {
        let _busy = usage.activity.begin();
        let (document, claim) = match read(&body) {
            Ok(Some(claimed)) => claimed,
            Ok(None) => {
                return self.send(target, body).await.map_or_else(|fault| unanswered(&fault), theirs);
            }
            Err(NoEntropy) => {
                let text = "no random bytes for a ClientToken";
                return ours(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailableException", text);
            }
        };
        let Some(metering) = usage.metering.get() else {
            let text = "the ledger is being opened";
            return ours(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailableException", text);
        };
        self.meter_claimed(metering, target, document, claim).await.unwrap_or_else(|error| {
            ours(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailableException", &error.to_string())
        })
    }

    async fn meter_claimed(
        &self,
        metering: &Metering,
        target: String,
        mut body: Map<String, Value>,
        claim: Claim,
    ) -> Result<Response<Body>, LedgerError> {
        let now = self.clock.now();
        let id = match metering.writer.with(move |ledger| ledger.claim(&claim, now)).await? {
            Claimed::Granted(id) => id,
            Claimed::Repeated { id, client_token, timestamp } => {
                // The same to the letter, or AWS would take it for another report under a known token.
                body.insert("ClientToken".to_owned(), client_token.into());
                body.insert("Timestamp".to_owned(), seconds(timestamp));
                id
            }
            Claimed::Taken => {
                let text = "this hour of the dimension has another value already: from /v1/usage, or from an earlier call";
                return Ok(ours(StatusCode::BAD_REQUEST, "DuplicateRequestException", text));
            }
        };
        let answer = self.send(target, Value::Object(body).to_string().into_bytes()).await;
        let (settled, record_id) = match &answer {
            Ok(answer) if answer.status == 200 => {
                let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
                (Settled::Accepted, body["MeteringRecordId"].as_str().map(str::to_owned))
            }
            Ok(answer) if (400..500).contains(&answer.status) => (Settled::Refused, None),
            _ => (Settled::Unknown, None),
        };
        if let Some(usage) = &self.usage {
            let denied = answer.as_ref().is_ok_and(is_refusal);
            let refusal = denied.then(|| FaultCode::known(NOT_ENTITLED));
            if denied || settled == Settled::Accepted {
                usage.tell.send_if_modified(|word| {
                    let changed = word.refusal != refusal;
                    word.refusal = refusal;
                    changed
                });
            }
        }
        let now = self.clock.now();
        let settle = move |ledger: &mut crate::usage::ledger::Ledger| {
            ledger.settle_claim(id, settled, record_id.as_deref(), now)
        };
        metering.writer.with(settle).await?;
        Ok(answer.map_or_else(|fault| unanswered(&fault), theirs))
    }
}

struct NoEntropy;

/// A report as it is sent, and the claim that it makes.
type Report = (Map<String, Value>, Claim);

/// The body with a `ClientToken`, and the claim that it makes; no claim where it is a dry run, or where AWS will refuse
/// what it says.
fn read(bytes: &[u8]) -> Result<Option<Report>, NoEntropy> {
    let Ok(Value::Object(mut body)) = serde_json::from_slice(bytes) else { return Ok(None) };
    if body.get("DryRun") == Some(&Value::Bool(true)) {
        return Ok(None);
    }
    let client_token = match body.get("ClientToken") {
        Some(Value::String(token)) => token.clone(),
        _ => new_token()?,
    };
    let Some(claim) = claim(&body, client_token) else { return Ok(None) };
    body.insert("ClientToken".to_owned(), claim.client_token.clone().into());
    Ok(Some((body, claim)))
}

fn claim(body: &Map<String, Value>, client_token: String) -> Option<Claim> {
    let (quantity, decimal) = quantity(body, "UsageQuantity")?;
    let parts = body.get("UsageAllocations").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    Some(Claim {
        dimension: body.get("UsageDimension")?.as_str()?.to_owned(),
        timestamp: timestamp(body.get("Timestamp")?)?,
        quantity,
        decimal,
        allocations: parts.iter().map(allocation).collect::<Option<_>>()?,
        client_token,
    })
}

/// As AWS reads it: an integer, a decimal, or nothing for 0 (service model, `MeterUsageRequest`).
fn quantity(object: &Map<String, Value>, name: &str) -> Option<(Quantity, bool)> {
    match (object.get(name), object.get(&format!("{name}AsDecimal"))) {
        (None, None) => Some((Quantity::ZERO, false)),
        (Some(whole), None) => Some((whole.as_u64()?.to_string().parse().ok()?, false)),
        (None, Some(decimal)) => Some((decimal.as_str()?.parse().ok()?, true)),
        (Some(_), Some(_)) => None,
    }
}

fn allocation(part: &Value) -> Option<Allocation> {
    let (quantity, _) = quantity(part.as_object()?, "AllocatedUsageQuantity")?;
    let tags = part["Tags"].as_array().map(Vec::as_slice).unwrap_or_default();
    let pair = |tag: &Value| Some((tag["Key"].as_str()?.to_owned(), tag["Value"].as_str()?.to_owned()));
    let tags = tags.iter().map(pair).collect::<Option<std::collections::BTreeMap<_, _>>>()?;
    Some(Allocation { tags: TagSet::try_from(tags).ok()?, quantity })
}

/// Seconds since the epoch, with a fraction, as AWS JSON 1.1 writes a time.
fn timestamp(value: &Value) -> Option<Timestamp> {
    if let Some(seconds) = value.as_i64() {
        return Some(Timestamp::from_unix_seconds(seconds));
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a float beyond i64 saturates, and AWS refuses such a time"
    )]
    let millis = (value.as_f64()? * 1000.0) as i64;
    Some(Timestamp::from_unix_millis(millis))
}

fn seconds(at: Timestamp) -> Value {
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of our century are far below 2^52")]
    let seconds = at.unix_millis() as f64 / 1000.0;
    seconds.into()
}

fn new_token() -> Result<String, NoEntropy> {
    let mut bytes = [0; NONCE_BYTES];
    SystemRandom::new().fill(&mut bytes).map_err(|_| NoEntropy)?;
    Ok(Nonce::from_random(bytes).as_str().to_owned())
}

const NOT_ENTITLED: &str = "CustomerNotEntitledException";

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

/// Headers of the connection to AWS, which end here (RFC 9110, section 7.6.1), and those that hyper writes itself.
const CONNECTION_HEADERS: [&str; 6] =
    ["connection", "keep-alive", "transfer-encoding", "content-length", "date", "upgrade"];

fn unanswered(fault: &Fault) -> Response<Body> {
    tracing::debug!(code = %fault.code, detail = fault.detail, "no answer for the AWS door");
    match fault.class {
        FaultClass::Access | FaultClass::ExpiredSession | FaultClass::Misconfigured => {
            let text = format!("tollgate cannot sign the call: {}; see its log", fault.code);
            ours(StatusCode::FORBIDDEN, "AccessDeniedException", &text)
        }
        FaultClass::Denied | FaultClass::Transient => {
            let text = format!("no answer from AWS: {}", fault.code);
            ours(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailableException", &text)
        }
    }
}

pub(super) fn switched_off() -> Response<Body> {
    let text = "the AWS door is switched off; set aws_door = true";
    ours(StatusCode::BAD_REQUEST, "UnknownOperationException", text)
}

/// An answer of our own, in AWS's form.
fn ours(status: StatusCode, code: &str, text: &str) -> Response<Body> {
    let body = json!({"__type": code, "message": format!("tollgate: {text}")}).to_string();
    let mut response = http::answer(status, "application/x-amz-json-1.1", body);
    response.headers_mut().insert(OUR_ANSWER, HeaderValue::from_static("1"));
    if let Ok(code) = HeaderValue::from_str(code) {
        response.headers_mut().insert("x-amzn-errortype", code);
    }
    response
}
