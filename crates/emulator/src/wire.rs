//! AWS JSON 1.1 over HTTP (in `cbor` also Smithy RPC v2), for metering, entitlement and License Manager: how a request
//! names its operation, how its members are read, and the form of an error (`__type` with its namespace,
//! `x-amzn-errortype`, `x-amzn-requestid`).
//!
//! The structs are the emulator's own; the client side has others.

pub(super) mod cbor;
pub(super) mod license;

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, json};

use super::decimal::Micros;
use super::model;
use super::operation::{Api, Operation, ServiceError};
use super::reply::Reply;
use tollgate_time::Timestamp;

/// The content type of every request and answer.
const CONTENT_TYPE: &str = "application/x-amz-json-1.1";

/// How a request is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Json,
    Cbor,
}

impl Protocol {
    pub(super) fn of_path(path: &str) -> Self {
        if cbor::is_path(path) { Self::Cbor } else { Self::Json }
    }

    /// The operation of a request.
    pub(super) fn operation(self, path: &str, headers: &HeaderMap) -> Result<Operation, ServiceError> {
        match self {
            Self::Json => operation(headers),
            Self::Cbor => cbor::operation(path, headers),
        }
    }

    /// The body as JSON.
    pub(super) fn json(self, body: &Bytes) -> Result<Bytes, ServiceError> {
        match self {
            Self::Json => Ok(body.clone()),
            Self::Cbor => Ok(cbor::decoded(body)?.to_string().into()),
        }
    }

    /// The answer as the caller reads it.
    pub(super) fn reply(self, reply: Reply) -> Reply {
        match self {
            Self::Json => reply,
            Self::Cbor => cbor::encoded(reply),
        }
    }
}

/// The operation that the headers name.
pub(super) fn operation(headers: &HeaderMap) -> Result<Operation, ServiceError> {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let unknown = |message: &str| ServiceError::new("UnknownOperationException", message);
    let media_type = header("content-type").split(';').next().unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case(CONTENT_TYPE) {
        return Err(unknown("the Content-Type must be application/x-amz-json-1.1"));
    }
    Operation::of_target(header("x-amz-target"))
        .ok_or_else(|| unknown("X-Amz-Target names no operation of this service"))
}

/// Parses a body and checks it against the model. An empty body is a structure without members.
pub(super) fn parse(operation: Operation, bytes: &[u8]) -> Result<Value, ServiceError> {
    let body = if bytes.is_empty() {
        json!({})
    } else {
        serde_json::from_slice(bytes).map_err(|error| {
            ServiceError::new("SerializationException", format!("the body is no JSON: {error}"))
        })?
    };
    model::check(operation, &body)?;
    Ok(body)
}

/// Reads the members of a body that the model accepts.
pub(super) fn members<'a, T: Deserialize<'a>>(body: &'a Value) -> Result<T, ServiceError> {
    T::deserialize(body).map_err(|error| ServiceError::new("SerializationException", error.to_string()))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RegisterUsage<'a> {
    #[serde(borrow)]
    pub(super) product_code: Cow<'a, str>,
    pub(super) public_key_version: i32,
    pub(super) nonce: Option<Cow<'a, str>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct MeterUsage<'a> {
    #[serde(borrow)]
    pub(super) product_code: Cow<'a, str>,
    timestamp: f64,
    #[serde(borrow)]
    pub(super) usage_dimension: Cow<'a, str>,
    usage_quantity: Option<u32>,
    usage_quantity_as_decimal: Option<Cow<'a, str>>,
    pub(super) dry_run: Option<bool>,
    pub(super) usage_allocations: Option<Vec<UsageAllocation<'a>>>,
    pub(super) client_token: Option<Cow<'a, str>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct BatchMeterUsage<'a> {
    #[serde(borrow)]
    pub(super) usage_records: Vec<UsageRecord<'a>>,
    pub(super) product_code: Option<Cow<'a, str>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct UsageRecord<'a> {
    timestamp: f64,
    #[serde(borrow)]
    pub(super) customer_identifier: Option<Cow<'a, str>>,
    pub(super) dimension: Cow<'a, str>,
    quantity: Option<u32>,
    quantity_as_decimal: Option<Cow<'a, str>>,
    pub(super) usage_allocations: Option<Vec<UsageAllocation<'a>>>,
    #[serde(rename = "CustomerAWSAccountId")]
    pub(super) customer_aws_account_id: Option<Cow<'a, str>>,
    pub(super) license_arn: Option<Cow<'a, str>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct UsageAllocation<'a> {
    allocated_usage_quantity: Option<u32>,
    #[serde(borrow)]
    allocated_usage_quantity_as_decimal: Option<Cow<'a, str>>,
    pub(super) tags: Option<Vec<Tag<'a>>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Tag<'a> {
    #[serde(borrow)]
    pub(super) key: Cow<'a, str>,
    pub(super) value: Cow<'a, str>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ResolveCustomer<'a> {
    #[serde(borrow)]
    pub(super) registration_token: Cow<'a, str>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct GetEntitlements {
    pub(super) product_code: String,
    /// Values by the filter's name.
    pub(super) filter: Option<BTreeMap<String, Vec<String>>>,
    pub(super) next_token: Option<String>,
    pub(super) max_results: Option<usize>,
}

/// A quantity in the form in which it was written: AWS requires the same form for all parts of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    Whole(Micros),
    Decimal(Micros),
    /// In neither member.
    Absent,
}

fn written(whole: Option<u32>, decimal: Option<&str>, names: [&str; 2]) -> Result<Written, ServiceError> {
    match (whole, decimal) {
        (Some(_), Some(_)) => {
            Err(ServiceError::validation(format!("You can't specify both {} and {}.", names[0], names[1])))
        }
        (Some(whole), None) => Ok(Written::Whole(Micros::of_integer(whole))),
        (None, Some(text)) => Ok(Micros::parse(text).map_or(Written::Absent, Written::Decimal)),
        (None, None) => Ok(Written::Absent),
    }
}

impl MeterUsage<'_> {
    pub(super) fn quantity(&self) -> Result<Written, ServiceError> {
        let names = ["UsageQuantity", "UsageQuantityAsDecimal"];
        written(self.usage_quantity, self.usage_quantity_as_decimal.as_deref(), names)
    }

    pub(super) fn timestamp(&self) -> Timestamp {
        timestamp(self.timestamp)
    }
}

impl UsageRecord<'_> {
    pub(super) fn quantity(&self) -> Result<Written, ServiceError> {
        written(self.quantity, self.quantity_as_decimal.as_deref(), ["Quantity", "QuantityAsDecimal"])
    }

    pub(super) fn timestamp(&self) -> Timestamp {
        timestamp(self.timestamp)
    }
}

impl UsageAllocation<'_> {
    pub(super) fn quantity(&self) -> Result<Written, ServiceError> {
        let names = ["AllocatedUsageQuantity", "AllocatedUsageQuantityAsDecimal"];
        written(self.allocated_usage_quantity, self.allocated_usage_quantity_as_decimal.as_deref(), names)
    }
}

/// Converts seconds since the epoch, possibly with a fraction; the protocol keeps milliseconds.
fn timestamp(seconds: f64) -> Timestamp {
    #[expect(clippy::cast_possible_truncation, reason = "the model's check bounds it far below 2^53")]
    Timestamp::from_unix_millis((seconds * 1000.0).round() as i64)
}

/// The result of an operation, before it becomes HTTP.
pub(super) type Outcome = Result<Value, ServiceError>;

/// The HTTP answer for an outcome.
pub(super) fn reply(api: Api, outcome: &Outcome, request_id: &str) -> Reply {
    let mut headers = vec![("x-amzn-requestid", request_id.to_owned())];
    let (code, status, body) = match outcome {
        Ok(value) => (Cow::Borrowed("ok"), StatusCode::OK, value.to_string()),
        Err(error) => {
            headers.push(("x-amzn-errortype", error.code.clone().into_owned()));
            (error.code.clone(), error.status(), error.body(api).to_string())
        }
    };
    Reply {
        outcome: code,
        status,
        content_type: CONTENT_TYPE,
        body,
        encoded: None,
        headers,
        secrets: license::secrets(outcome),
    }
}

/// The text under which a request is noted.
pub(super) fn shown(operation: Option<Operation>, bytes: &[u8]) -> Cow<'_, str> {
    match operation {
        Some(Operation::GetAccessToken) => Cow::Borrowed(license::SHOWN_REFRESH),
        _ => String::from_utf8_lossy(bytes),
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (hyper::header::HeaderName::from_static(name), HeaderValue::from_static(value))
            })
            .collect()
    }

    #[test]
    fn the_target_names_the_operation() {
        let json = ("content-type", "application/x-amz-json-1.1");
        for (target, found) in [
            ("AWSMPMeteringService.MeterUsage", Some(Operation::MeterUsage)),
            ("AWSMPMeteringService.meterusage", None),
            ("MeterUsage", None),
            ("", None),
        ] {
            assert_eq!(operation(&headers(&[json, ("x-amz-target", target)])).ok(), found, "{target}");
        }
        let plain =
            [("content-type", "application/json"), ("x-amz-target", "AWSMPMeteringService.MeterUsage")];
        assert_eq!(operation(&headers(&plain)).unwrap_err().code, "UnknownOperationException");
    }

    #[test]
    fn a_quantity_stands_in_one_member() {
        let both = json!({"Timestamp": 1, "Dimension": "d", "Quantity": 1, "QuantityAsDecimal": "1"});
        let record: UsageRecord<'_> = members(&both).unwrap();
        assert_eq!(record.quantity().unwrap_err().code, "ValidationException");
        let neither = json!({"Timestamp": 1.9996, "Dimension": "d"});
        let record: UsageRecord<'_> = members(&neither).unwrap();
        assert_eq!(record.quantity(), Ok(Written::Absent));
        assert_eq!(record.timestamp(), Timestamp::from_unix_millis(2000));
    }
}
