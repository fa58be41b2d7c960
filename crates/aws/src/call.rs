//! Calls with request bodies written here, and answers read from their bytes.
//!
//! The SDK makes a request of one of its operations; target and body are replaced before it signs. So each call has the
//! SDK's connections, signature, time limits and errors, also for operations and members that the SDK does not know,
//! and for License Manager. Answers are read here because the SDK's types drop unknown members and, for a hostile
//! answer, need many times the memory of its bytes.

use std::error::Error as StdError;
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};

use aws_sdk_marketplacemetering as sdk;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::AfterDeserializationInterceptorContextRef;
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::config_bag::ConfigBag;
use aws_smithy_types::error::display::DisplayErrorContext;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use bytes::Bytes;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::connection::{Failure, PROXY_AUTHENTICATION, answered, asked_for, chain, host_of};
use super::{Marks, Seen, placed, proxy_host};
use tollgate_marketplace::fault::{Answer, PROXY_AUTHENTICATION_REQUIRED, REQUEST_NOT_BUILT, classify};
use tollgate_marketplace::{Fault, FaultClass, FaultCode, Place};

/// The service that a call is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) place: Place,
    pub(super) url: &'a str,
    /// Texts that must not be shown if the answer repeats them.
    pub(super) secrets: &'a [&'a str],
}

/// One call.
pub(super) struct Call {
    /// `X-Amz-Target`.
    pub(super) target: String,
    pub(super) body: Bytes,
    /// Settings that differ from the client's.
    pub(super) settings: Option<sdk::config::Builder>,
    pub(super) seen: Seen,
}

impl Call {
    /// Returns the bytes of any answer, and the fault that the SDK saw in it; `Err` if there was no answer.
    pub(super) async fn send(
        self,
        client: &sdk::Client,
        asked: Asked<'_>,
    ) -> Result<(Raw, Option<Fault>), Fault> {
        let Self { target, body, settings, seen } = self;
        let kept = KeptAnswer::default();
        let mut call = client
            .resolve_customer()
            .registration_token("replaced")
            .customize()
            .interceptor(seen.clone())
            .interceptor(kept.clone());
        if let Some(settings) = settings {
            call = call.config_override(settings);
        }
        let answer = call
            .mutate_request(move |http| {
                http.headers_mut().insert("x-amz-target", target.clone());
                replace_body(http, body.clone());
            })
            .send()
            .await;
        let marks = seen.take();
        let fault = answer.err().map(|error| fault_of(&error, marks, asked));
        match (kept.take(), fault) {
            (Some(raw), fault) => Ok((Raw { emulated: marks.emulated, ..raw }, fault)),
            (None, Some(fault)) => Err(fault),
            (None, None) => Err(invalid_answer("without AWS's JSON")),
        }
    }
}

/// A request's body.
pub(super) fn body(request: &impl Serialize) -> Bytes {
    let text = serde_json::to_vec(request).expect("texts and numbers are JSON");
    // Without the spare capacity left from growing.
    text.into_boxed_slice().into()
}

fn replace_body(request: &mut HttpRequest, bytes: Bytes) {
    request.headers_mut().insert("content-length", bytes.len().to_string());
    *request.body_mut() = SdkBody::from(bytes);
}

// === answers ===

/// The fault for a success without usable content; `seen` says what is wrong with it.
pub(super) fn invalid_answer(seen: impl fmt::Display) -> Fault {
    let text = "a 200 whose body is not what AWS documents";
    Fault::local(FaultClass::Transient, "InvalidAnswer", text).seeing(format!("HTTP 200, {seen}"))
}

#[derive(Debug)]
pub(super) struct Raw {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    /// Complete; shares the SDK's bytes.
    body: SdkBody,
    pub(super) emulated: bool,
}

impl Raw {
    pub(super) fn bytes(&self) -> &[u8] {
        self.body.bytes().unwrap_or_default()
    }

    pub(super) fn json(&self) -> Result<Map<String, Value>, Fault> {
        self.parse()
    }

    /// Parses the answer as `T`.
    pub(super) fn parse<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Fault> {
        serde_json::from_slice(self.bytes()).map_err(|_| invalid_answer("without AWS's JSON"))
    }

    /// The answer if it is a success, else the fault. The SDK may also report a fault for a success, because it expects
    /// other members.
    pub(super) fn unless_refused(self, fault: Option<Fault>) -> Result<Self, Fault> {
        match fault {
            Some(fault) if self.status != 200 => Err(fault),
            _ => Ok(self),
        }
    }
}

/// Keeps the answer's bytes.
#[derive(Debug, Clone, Default)]
struct KeptAnswer(Arc<Mutex<Option<Raw>>>);

impl KeptAnswer {
    fn take(&self) -> Option<Raw> {
        self.0.lock().expect("held for one move only, which cannot panic").take()
    }
}

#[aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint]
impl Intercept for KeptAnswer {
    fn name(&self) -> &'static str {
        "answer bytes"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), aws_smithy_runtime_api::box_error::BoxError> {
        let response = context.response();
        // A truncated body is no answer.
        if let Some(body) = response.body().bytes().and_then(|_| response.body().try_clone()) {
            let headers = response.headers().iter();
            let raw = Raw {
                status: response.status().as_u16(),
                headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
                body,
                emulated: false,
            };
            *self.0.lock().expect("held for one move only, which cannot panic") = Some(raw);
        }
        Ok(())
    }
}

/// A member that is ignored if it has another type than expected.
#[derive(Debug)]
pub(super) struct Loose<T>(pub(super) Option<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Loose<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Also called for an absent member.
        let raw = Option::<&'de RawValue>::deserialize(deserializer)?;
        Ok(Self(raw.and_then(|raw| serde_json::from_str(raw.get()).ok())))
    }
}

/// The first elements of an array that have the expected form; empty if it is not an array.
#[derive(Debug)]
pub(super) struct Elements<T, const MAX: usize> {
    pub(super) read: Vec<T>,
    /// There were more elements, or some with another form.
    pub(super) left_out: bool,
}

impl<T, const MAX: usize> Default for Elements<T, MAX> {
    fn default() -> Self {
        Self { read: Vec::new(), left_out: false }
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Elements<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Some(raw) = Option::<&'de RawValue>::deserialize(deserializer)? else {
            return Ok(Self::default());
        };
        let mut array = serde_json::Deserializer::from_str(raw.get());
        let read = array.deserialize_seq(Reader(PhantomData));
        Ok(read.unwrap_or_else(|_| Self { left_out: true, ..Self::default() }))
    }
}

struct Reader<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Reader<T, MAX> {
    type Value = Elements<T, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Self::Value, A::Error> {
        let mut elements = Elements::default();
        while let Some(element) = array.next_element::<&'de RawValue>()? {
            let wanted =
                if elements.read.len() < MAX { serde_json::from_str(element.get()).ok() } else { None };
            elements.left_out |= wanted.is_none();
            elements.read.extend(wanted);
        }
        Ok(elements)
    }
}

// === faults ===

/// The fault of a call without a usable answer.
pub(super) fn fault_of<E>(error: &SdkError<E, HttpResponse>, marks: Marks, asked: Asked<'_>) -> Fault
where
    E: ProvideErrorMetadata + StdError + 'static,
{
    let judged = |status: u16, code| match (status, code) {
        (PROXY_AUTHENTICATION, None) => {
            (FaultClass::Transient, FaultCode::known(PROXY_AUTHENTICATION_REQUIRED))
        }
        (status, code) => classify(Answer { status, code }),
    };
    let mut failure = None;
    let (class, code) = match error {
        SdkError::ServiceError(service) => judged(service.raw().status().as_u16(), service.err().code()),
        SdkError::ResponseError(response) => judged(response.raw().status().as_u16(), None),
        SdkError::TimeoutError(_) => (FaultClass::Transient, FaultCode::known("Timeout")),
        SdkError::DispatchFailure(dispatch) => {
            failure = dispatch.as_connector_error().map(|error| Failure::of(error, asked.url));
            let code = failure.as_ref().map_or("Connection", |failure| failure.code);
            (FaultClass::Transient, FaultCode::known(code))
        }
        _ => (FaultClass::Misconfigured, FaultCode::known(REQUEST_NOT_BUILT)),
    };
    let fault = Fault {
        code,
        clock_offset_seconds: marks.clock_offset_seconds,
        emulated: marks.emulated,
        never_sent: failure.as_ref().is_some_and(|failure| !failure.connected),
        ..Fault::local(class, "", detail(error, asked))
    };
    let by_proxy = fault.code.as_str() == PROXY_AUTHENTICATION_REQUIRED;
    // AWS's answers are described by their code; another server's by its form.
    let strange = fault.code.as_str() == "InvalidAnswer";
    match failure {
        Some(failure) => placed(fault, &failure, asked),
        None if by_proxy => fault.at(Place::Proxy, proxy_host(asked.url)).seeing(asked_for(asked.url)),
        None => {
            let seen = error.raw_response().filter(|_| strange).map(answered).unwrap_or_default();
            fault.at(asked.place, host_of(asked.url)).seeing(seen)
        }
    }
}

/// The error's text for the debug log. Answers of License Manager contain consumption tokens: their bytes are not
/// shown, and what was sent is removed from their texts.
fn detail<E>(error: &SdkError<E, HttpResponse>, asked: Asked<'_>) -> String
where
    E: ProvideErrorMetadata + StdError + 'static,
{
    if asked.place != Place::LicenseManager {
        return DisplayErrorContext(error).to_string();
    }
    causes(error, asked.secrets)
}

/// The texts of an error and its causes, without the secrets.
pub(super) fn causes(error: &(dyn StdError + 'static), secrets: &[&str]) -> String {
    let causes: Vec<String> = chain(error).map(ToString::to_string).collect();
    without(causes.join(": "), secrets)
}

fn without(text: String, secrets: &[&str]) -> String {
    secrets.iter().filter(|secret| !secret.is_empty()).fold(text, |text, secret| text.replace(secret, "…"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_is_read_up_to_its_limit_and_without_what_has_another_form() {
        for (text, read, left_out) in [
            ("[1,3]", &[1, 3][..], false),
            ("[1,3,4]", &[1, 3], true),
            (r#"[1,"two",null,3]"#, &[1, 3], true),
            ("{}", &[], true),
            ("[]", &[], false),
            ("null", &[], false),
        ] {
            let found: Elements<u8, 2> = serde_json::from_str(text).unwrap();
            assert_eq!((found.read.as_slice(), found.left_out), (read, left_out), "{text}");
        }
    }

    #[test]
    fn what_must_not_be_shown_is_taken_out_of_a_text() {
        assert_eq!(
            without("no token abc or xyz here".to_owned(), &["abc", "xyz", ""]),
            "no token … or … here"
        );
    }
}
