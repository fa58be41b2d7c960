//! Smithy RPC v2 CBOR, which the entitlement service's model prefers to AWS JSON 1.1: the path names the operation, and
//! the bodies are CBOR. Within the emulator they are JSON.

use std::collections::TryReserveError;

use cbor4ii::core::Value as Cbor;
use cbor4ii::core::dec::Decode as _;
use cbor4ii::core::enc::{Encode as _, Error};
use cbor4ii::core::utils::{BufWriter, SliceReader};
use hyper::header::HeaderMap;
use serde_json::{Map, Number, Value};

use crate::operation::{Api, Operation, ServiceError};
use crate::reply::Reply;

const PROTOCOL: &str = "rpc-v2-cbor";
const CONTENT_TYPE: &str = "application/cbor";

/// The tag of a time as a number of seconds (RFC 8949).
const TIME_TAG: u64 = 1;

/// The members that are times.
const TIMES: [&str; 1] = ["ExpirationDate"];

/// Whether a path names an operation.
pub(crate) fn is_path(path: &str) -> bool {
    path.starts_with("/service/")
}

/// The operation that a path names.
pub(super) fn operation(path: &str, headers: &HeaderMap) -> Result<Operation, ServiceError> {
    let unknown = |message: &str| ServiceError::new("UnknownOperationException", message);
    let is = |name: &str, wanted: &str| headers.get(name).is_some_and(|value| value == wanted);
    if !is("smithy-protocol", PROTOCOL) || !is("content-type", CONTENT_TYPE) {
        return Err(unknown("Smithy-Protocol must be rpc-v2-cbor, and the Content-Type application/cbor"));
    }
    let named = path.strip_prefix("/service/").and_then(|rest| rest.split_once("/operation/"));
    let operation = named.and_then(|(service, name)| Operation::of_target(&format!("{service}.{name}")));
    // The models of the other services do not have this protocol.
    let operation = operation.filter(|operation| operation.api() == Api::Entitlement);
    operation.ok_or_else(|| unknown("the path names no operation that has this protocol"))
}

/// A body as JSON.
pub(super) fn decoded(bytes: &[u8]) -> Result<Value, ServiceError> {
    let unreadable =
        |what: String| ServiceError::new("SerializationException", format!("the body is no CBOR: {what}"));
    let value = Cbor::decode(&mut SliceReader::new(bytes)).map_err(|error| unreadable(error.to_string()))?;
    json(value).ok_or_else(|| unreadable("it has a value that no member can have".to_owned()))
}

fn json(value: Cbor) -> Option<Value> {
    Some(match value {
        Cbor::Null => Value::Null,
        Cbor::Bool(value) => Value::Bool(value),
        Cbor::Integer(value) => Value::Number(Number::from_i128(value)?),
        Cbor::Float(value) => Value::Number(Number::from_f64(value)?),
        Cbor::Text(value) => Value::String(value),
        Cbor::Array(values) => Value::Array(values.into_iter().map(json).collect::<Option<_>>()?),
        Cbor::Map(members) => {
            let member = |(name, value)| match name {
                Cbor::Text(name) => Some((name, json(value)?)),
                _ => None,
            };
            Value::Object(members.into_iter().map(member).collect::<Option<Map<_, _>>>()?)
        }
        Cbor::Tag(TIME_TAG, value) => json(*value)?,
        _ => return None,
    })
}

/// The same answer in CBOR.
pub(crate) fn encoded(mut reply: Reply) -> Reply {
    // The emulator wrote it as JSON itself.
    let document = serde_json::from_str(&reply.body).unwrap_or_default();
    reply.encoded = bytes(&cbor("", &document)).ok();
    reply.content_type = CONTENT_TYPE;
    reply.headers.push(("smithy-protocol", PROTOCOL.to_owned()));
    reply
}

fn bytes(value: &Cbor) -> Result<Vec<u8>, Error<TryReserveError>> {
    let mut writer = BufWriter::new(Vec::new());
    value.encode(&mut writer)?;
    Ok(writer.into_inner())
}

/// A member's value.
fn cbor(name: &str, value: &Value) -> Cbor {
    let value = match value {
        Value::Null => Cbor::Null,
        Value::Bool(value) => Cbor::Bool(*value),
        Value::Number(value) => match value.as_i128() {
            Some(integer) => Cbor::Integer(integer),
            None => Cbor::Float(value.as_f64().unwrap_or_default()),
        },
        Value::String(value) => Cbor::Text(value.clone()),
        Value::Array(values) => Cbor::Array(values.iter().map(|value| cbor("", value)).collect()),
        Value::Object(members) => {
            let member = |(name, value): (&String, &Value)| (Cbor::Text(name.clone()), cbor(name, value));
            Cbor::Map(members.iter().map(member).collect())
        }
    };
    if TIMES.contains(&name) { Cbor::Tag(TIME_TAG, Box::new(value)) } else { value }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;
    use serde_json::json;

    use super::*;

    /// `{"ProductCode": "p", "Filter": {"DIMENSION": ["d"]}, "MaxResults": 2}`, with maps of unstated length as
    /// AWS's SDKs write them.
    const REQUEST: &[u8] =
        b"\xbf\x6bProductCode\x61p\x66Filter\xbf\x69DIMENSION\x81\x61d\xff\x6aMaxResults\x02\xff";

    #[test]
    fn a_path_names_an_operation_of_the_entitlement_service() {
        let headers = |protocol: &'static str, content_type: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("smithy-protocol", HeaderValue::from_static(protocol));
            headers.insert("content-type", HeaderValue::from_static(content_type));
            headers
        };
        let good = headers(PROTOCOL, CONTENT_TYPE);
        for (path, found) in [
            ("/service/AWSMPEntitlementService/operation/GetEntitlements", true),
            ("/service/AWSMPMeteringService/operation/MeterUsage", false),
            ("/service/AWSMPEntitlementService/operation/MeterUsage", false),
            ("/service/AWSMPEntitlementService", false),
        ] {
            assert!(is_path(path));
            assert_eq!(operation(path, &good).ok(), found.then_some(Operation::GetEntitlements), "{path}");
        }
        let path = "/service/AWSMPEntitlementService/operation/GetEntitlements";
        for bad in
            [headers("rpc-v2-json", CONTENT_TYPE), headers(PROTOCOL, "application/json"), HeaderMap::new()]
        {
            assert_eq!(operation(path, &bad).unwrap_err().code, "UnknownOperationException");
        }
        assert!(!is_path("/"));
    }

    #[test]
    fn a_request_is_read_as_json_and_what_is_none_is_refused() {
        let request = json!({"ProductCode": "p", "Filter": {"DIMENSION": ["d"]}, "MaxResults": 2});
        assert_eq!(decoded(REQUEST).unwrap(), request);
        assert_eq!(decoded(&bytes(&cbor("", &request)).unwrap()).unwrap(), request);
        for bad in [
            &b""[..],
            &REQUEST[..9],
            b"{}",
            b"\xa1\x01\x02",             // a name that is a number
            b"\x41x",                    // bytes
            b"\xfb\x7f\xf8\0\0\0\0\0\0", // not a number
            &[0x81; 100_000],            // lists within lists
        ] {
            assert_eq!(decoded(bad).unwrap_err().code, "SerializationException");
        }
    }

    #[test]
    fn times_are_tagged_and_doubles_stay_doubles() {
        let answer =
            json!({"ExpirationDate": 1_796_083_200, "Value": {"DoubleValue": 2.0, "IntegerValue": 2}});
        let tagged = bytes(&cbor("", &answer)).unwrap();
        let Cbor::Map(members) = Cbor::decode(&mut SliceReader::new(&tagged)).unwrap() else {
            panic!("a map")
        };
        let integer = |value| Cbor::Integer(value);
        let text = |text: &str| Cbor::Text(text.to_owned());
        assert_eq!(
            members,
            [
                (text("ExpirationDate"), Cbor::Tag(1, Box::new(integer(1_796_083_200)))),
                (
                    text("Value"),
                    Cbor::Map(vec![
                        (text("DoubleValue"), Cbor::Float(2.0)),
                        (text("IntegerValue"), integer(2))
                    ])
                ),
            ]
        );
    }
}
