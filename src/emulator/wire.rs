//! AWS JSON 1.1 over HTTP, as the metering service speaks it: how a request names its operation, and what an
//! error looks like (`__type` with its namespace, `x-amzn-errortype`, `x-amzn-requestid`).

use bytes::Bytes;
use hyper::header::{HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use crate::http::{self, Body};

/// The namespace of the service's shapes.
const NAMESPACE: &str = "com.amazonaws.services.marketplacemetering";

/// The prefix of `X-Amz-Target`.
const TARGET_PREFIX: &str = "AWSMPMeteringService.";

/// The content type of every request and answer.
pub(super) const CONTENT_TYPE: &str = "application/x-amz-json-1.1";

/// An operation of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Operation {
    RegisterUsage,
    MeterUsage,
    BatchMeterUsage,
    ResolveCustomer,
}

impl Operation {
    pub(super) const ALL: [Self; 4] =
        [Self::RegisterUsage, Self::MeterUsage, Self::BatchMeterUsage, Self::ResolveCustomer];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::RegisterUsage => "RegisterUsage",
            Self::MeterUsage => "MeterUsage",
            Self::BatchMeterUsage => "BatchMeterUsage",
            Self::ResolveCustomer => "ResolveCustomer",
        }
    }

    pub(super) fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| operation.name() == name)
    }
}

/// The operation that the headers name.
pub(super) fn operation(headers: &HeaderMap) -> Result<Operation, ServiceError> {
    let unknown = || {
        ServiceError::new("UnknownOperationException", "the X-Amz-Target names no operation of this service")
    };
    let content_type = headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
    if content_type.split(';').next().map(str::trim) != Some(CONTENT_TYPE) {
        return Err(ServiceError::new(
            "UnknownOperationException",
            "the Content-Type must be application/x-amz-json-1.1",
        ));
    }
    let target = headers.get("x-amz-target").and_then(|value| value.to_str().ok()).unwrap_or_default();
    target.strip_prefix(TARGET_PREFIX).and_then(Operation::of_name).ok_or_else(unknown)
}

/// An error as the service answers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServiceError {
    pub(super) code: String,
    pub(super) message: String,
}

impl ServiceError {
    pub(super) fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into() }
    }

    /// A value that breaks the model.
    pub(super) fn validation(message: impl Into<String>) -> Self {
        Self::new("ValidationException", message)
    }

    /// 400 for every modelled error, `ThrottlingException` included, but 500 for the service's own (AWS Marketplace API
    /// reference, "Errors" of each operation).
    pub(super) fn status(&self) -> StatusCode {
        match self.code.as_str() {
            "InternalServiceErrorException" => StatusCode::INTERNAL_SERVER_ERROR,
            "MissingAuthenticationTokenException"
            | "InvalidSignatureException"
            | "UnrecognizedClientException"
            | "IncompleteSignatureException" => StatusCode::FORBIDDEN,
            "RequestEntityTooLargeException" => StatusCode::PAYLOAD_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    pub(super) fn body(&self) -> Value {
        let name = if self.code.starts_with("Serialization") || self.code.starts_with("UnknownOperation") {
            format!("com.amazon.coral.service#{}", self.code)
        } else {
            format!("{NAMESPACE}#{}", self.code)
        };
        json!({"__type": name, "message": self.message})
    }
}

/// What an operation answers, before it becomes HTTP.
pub(super) type Outcome = Result<Value, ServiceError>;

/// The HTTP answer for an outcome.
pub(super) fn response(outcome: &Outcome, request_id: &str) -> Response<Body> {
    let (status, body) = match outcome {
        Ok(value) => (StatusCode::OK, value.to_string()),
        Err(error) => (error.status(), error.body().to_string()),
    };
    let mut response = http::answer(status, CONTENT_TYPE, Bytes::from(body));
    if let Err(error) = outcome
        && let Ok(value) = HeaderValue::from_str(&error.code)
    {
        response.headers_mut().insert("x-amzn-errortype", value);
    }
    if let Ok(value) = HeaderValue::from_str(request_id) {
        response.headers_mut().insert("x-amzn-requestid", value);
    }
    response
}
