//! Attestations: the application's own nonce goes to AWS, and the verified token comes back.
//!
//! An application that verifies the token with its own copy of the key knows that AWS has just answered. A replaced or
//! patched sidecar cannot make such a token; it can relay one from an entitled pod (see THREATS).
//!
//! - Each attestation is a call of `RegisterUsage`, so they are limited: three at once, then one a minute.
//! - Requests with the same nonce share one call. It continues when the client disconnects: disconnecting and asking
//!   again must not get around the limit.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::header::{HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;

use super::code::Code;
use super::rate::{Bucket, Rate};
use super::{problem, problem_of};
use crate::entitlement::Watch;
use crate::metrics::Metrics;
use tollgate_clock::{self as clock, WallClock};
use tollgate_http::{self as http, Body};
use tollgate_marketplace::{
    Fault, FaultClass, Nonce, ProductCode, PublicKeyVersion, Register, RegisterUsage, Signing,
};
use tollgate_receipt::{self as receipt, Expected, KeyRing};

/// Attestations at once, after a quiet time.
pub const BURST: u32 = 3;

/// Time until one more is allowed: AWS takes five registrations a second from all pods of the account together.
pub const EVERY: Duration = Duration::from_secs(60);

/// Shortest accepted nonce: sixteen random characters cannot be guessed.
pub const NONCE_CHARS_MIN: usize = 16;

/// A token, or why there is none.
type Outcome = Result<String, Refusal>;

#[derive(Debug, Clone)]
struct Refusal {
    status: StatusCode,
    code: String,
    detail: &'static str,
}

/// Makes attestations, in mode `hourly`.
pub struct Attestation {
    /// The metering service.
    pub aws: Arc<dyn Register>,
    /// The product to register.
    pub product_code: ProductCode,
    /// The seller's public keys.
    pub keys: KeyRing,
    /// Accept the emulator's tokens.
    pub allow_emulated: bool,
    /// Names the key version in use.
    pub entitlement: Watch,
    /// Wall time, to check the token's times.
    pub clock: WallClock,
    /// Counts each attestation as a registration.
    pub metrics: Arc<Metrics>,
    /// Calls in progress, and their limit.
    pub calls: Calls,
}

/// Calls in progress, and their limit.
#[derive(Debug)]
pub struct Calls {
    bucket: Registrations,
    in_flight: Mutex<HashMap<String, OutcomeReceiver>>,
}

/// Receives the outcome of a call in progress, once there is one.
type OutcomeReceiver = watch::Receiver<Option<Outcome>>;

impl Default for Calls {
    fn default() -> Self {
        Self { bucket: registrations(), in_flight: Mutex::default() }
    }
}

impl Calls {
    /// The limit, to be shared with the AWS door.
    #[must_use]
    pub fn registrations(&self) -> Registrations {
        Arc::clone(&self.bucket)
    }
}

/// How many more registrations this pod may ask for, by attestations and through the AWS door together.
pub type Registrations = Arc<Mutex<Bucket>>;

/// A limit with the whole burst available.
#[must_use]
pub fn registrations() -> Registrations {
    Arc::new(Mutex::new(Bucket::new(Rate { burst: BURST, every: EVERY })))
}

impl Attestation {
    pub(super) async fn attest(self: &Arc<Self>, bytes: &[u8]) -> Response<Body> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct AttestationRequest {
            nonce: String,
        }
        let nonce = serde_json::from_slice::<AttestationRequest>(bytes).ok().map(|request| request.nonce);
        let Some(nonce) = nonce.filter(|nonce| is_nonce(nonce)) else {
            let detail = "the body must be {\"nonce\": \"…\"}, of 16 to 255 printable ASCII characters";
            return problem(StatusCode::BAD_REQUEST, Code::BadRequest, detail);
        };
        let mut answer = match self.join(&nonce) {
            Ok(answer) => answer,
            Err(wait) => return too_many(wait),
        };
        // The call's task always answers, unless the process ends first.
        let answered = answer.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        match answered.unwrap_or_else(|| Err(internal("the call was cut short"))) {
            Ok(token) => http::json(StatusCode::OK, &json!({"token": token})),
            Err(refusal) => {
                let mut answer = problem_of(refusal.status, &refusal.code, refusal.detail);
                if refusal.status == StatusCode::SERVICE_UNAVAILABLE {
                    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(EVERY.as_secs()));
                }
                answer
            }
        }
    }

    /// The call of this nonce that is in progress, or a new one if the bucket allows it.
    fn join(self: &Arc<Self>, nonce: &str) -> Result<OutcomeReceiver, Duration> {
        let mut calls = self.calls.in_flight.lock().expect("held for a map's operation only");
        if let Some(answer) = calls.get(nonce) {
            return Ok(answer.clone());
        }
        self.calls.bucket.lock().expect("held for arithmetic only").take(clock::monotonic())?;
        let (publish, answer) = watch::channel(None);
        calls.insert(nonce.to_owned(), answer.clone());
        let (attestation, nonce) = (Arc::clone(self), nonce.to_owned());
        tokio::spawn(async move {
            let outcome = attestation.ask(&nonce).await;
            attestation.calls.in_flight.lock().expect("held for a map's operation only").remove(&nonce);
            publish.send_replace(Some(outcome));
        });
        Ok(answer)
    }

    async fn ask(&self, text: &str) -> Outcome {
        let began = clock::monotonic();
        let version = self.entitlement.borrow().public_key_version.unwrap_or(PublicKeyVersion::FIRST);
        let nonce: Nonce = text.parse().map_err(|_| internal("the nonce cannot be sent"))?;
        let key = self.keys.get(version).ok_or_else(|| internal("the key version in use is not held"))?;
        let request = RegisterUsage {
            product_code: self.product_code.clone(),
            public_key_version: version,
            nonce: nonce.clone(),
        };
        let mut answer = self.aws.register_usage(request.clone(), Signing::default()).await;
        // No other part calls AWS once the gate is open, so no other part would renew the session or notice a wrong
        // clock.
        let mended = |fault: &Fault| fault.class == FaultClass::ExpiredSession || fault.clock_is_off();
        if answer.as_ref().is_err_and(mended) {
            answer = self.aws.register_usage(request, Signing { reload_credentials: true }).await;
        }
        let seconds = clock::monotonic().duration_since(began).as_secs_f64();
        let registered = answer.map_err(|fault| self.faulted(&fault, seconds))?;
        let expected = Expected {
            product_code: &self.product_code,
            public_key_version: version,
            nonce: &nonce,
            now: self.clock.now().into(),
            allow_emulated: self.allow_emulated,
        };
        match receipt::verify(&registered.signature, key, &expected) {
            Ok(receipt) => {
                self.metrics.attempted("registered", "", seconds);
                Ok(receipt.token().to_owned())
            }
            Err(error) => {
                self.metrics.attempted("unverified", error.code(), seconds);
                self.metrics.verification_failed(error.code());
                let detail = "the answer to the nonce failed verification against the seller's public key";
                Err(Refusal { status: StatusCode::FORBIDDEN, code: error.code().to_owned(), detail })
            }
        }
    }

    fn faulted(&self, fault: &Fault, seconds: f64) -> Refusal {
        tracing::debug!(code = %fault.code, detail = fault.detail, "attestation failed");
        let refused = matches!(fault.class, FaultClass::Denied | FaultClass::Misconfigured);
        let outcome = if refused { "refused" } else { "failed" };
        self.metrics.attempted(outcome, fault.code.as_str(), seconds);
        let (status, detail) = if refused {
            (StatusCode::FORBIDDEN, "AWS refuses the registration; the code is its exception")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "AWS gave no usable answer; the code says what happened")
        };
        Refusal { status, code: fault.code.as_str().to_owned(), detail }
    }
}

fn internal(detail: &'static str) -> Refusal {
    Refusal { status: StatusCode::INTERNAL_SERVER_ERROR, code: Code::Internal.as_str().to_owned(), detail }
}

fn is_nonce(text: &str) -> bool {
    (NONCE_CHARS_MIN..=255).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

fn too_many(wait: Duration) -> Response<Body> {
    let detail = "one attestation a minute after a burst of three; each is a registration at AWS";
    let mut answer = problem(StatusCode::TOO_MANY_REQUESTS, Code::TooManyAttestations, detail);
    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(wait.as_secs().saturating_add(1)));
    answer
}

#[cfg(test)]
mod tests;
