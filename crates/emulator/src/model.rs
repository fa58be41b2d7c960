//! The service models `meteringmarketplace/2016-01-14`, `marketplace-entitlement/2017-01-11` and, in `license`,
//! `license-manager/2018-08-01` (all as of botocore 1.44.8) as data, and their checker.
//!
//! - Every shape that a request can contain is written here once, in the model's terms: required members, lengths,
//!   ranges, patterns. `tests/witness` walks the published model and compares what is accepted.
//! - A body that cannot be parsed is a `SerializationException`. Broken constraints are one `ValidationException` that
//!   names all of them, as AWS's JSON 1.1 services answer. Unknown members are ignored, as at AWS.
//! - Products and customers are checked elsewhere (`service`).

mod license;

use serde_json::Value;

pub(super) use self::license::UNITS;
use super::decimal::Micros;
use super::operation::{Operation, ServiceError};

/// A shape of the model.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape {
    Structure(&'static [Member]),
    List {
        min: usize,
        max: usize,
        member: &'static Self,
    },
    /// Values by name; only these names exist.
    Map {
        keys: &'static [&'static str],
        member: &'static Self,
    },
    Text {
        min: usize,
        max: usize,
        pattern: Option<Pattern>,
    },
    /// One of these texts.
    Choice(&'static [&'static str]),
    Integer {
        min: i64,
        max: i64,
    },
    /// An integer of 64 bits.
    Long,
    Boolean,
    Timestamp,
}

/// A member of a structure.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    pub(super) name: &'static str,
    required: bool,
    shape: &'static Shape,
}

/// A pattern as the model writes it, and the function that checks it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pattern {
    written: &'static str,
    matches: fn(&str) -> bool,
}

const fn required(name: &'static str, shape: &'static Shape) -> Member {
    Member { name, required: true, shape }
}

const fn optional(name: &'static str, shape: &'static Shape) -> Member {
    Member { name, required: false, shape }
}

/// Strings for which the model states no upper bound; the request's size bounds them.
const UNBOUNDED: usize = usize::MAX;

const PRODUCT_CODE: Shape = Shape::Text {
    min: 0,
    max: 255,
    pattern: Some(Pattern {
        written: "^[-a-zA-Z0-9/=:_.@]*$",
        matches: |text| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-/=:_.@".contains(&b)),
    }),
};
const VERSION_INTEGER: Shape = Shape::Integer { min: 1, max: i32::MAX as i64 };
const NONCE: Shape = Shape::Text { min: 0, max: 255, pattern: None };
const CUSTOMER_IDENTIFIER: Shape = Shape::Text { min: 0, max: 255, pattern: None };
const USAGE_DIMENSION: Shape = Shape::Text { min: 1, max: 255, pattern: None };
const CLIENT_TOKEN: Shape = Shape::Text { min: 1, max: 64, pattern: None };
const NON_EMPTY_STRING: Shape = Shape::Text { min: 1, max: UNBOUNDED, pattern: None };
const QUANTITY: Shape = Shape::Integer { min: 0, max: i32::MAX as i64 };
const DECIMAL: Shape = Shape::Text {
    min: 1,
    max: 17,
    pattern: Some(Pattern {
        written: "^(0|[1-9][0-9]{0,9})(\\.[0-9]{1,6})?$",
        matches: |text| Micros::parse(text).is_some(),
    }),
};
const CUSTOMER_AWS_ACCOUNT_ID: Shape = Shape::Text {
    min: 1,
    max: 255,
    pattern: Some(Pattern {
        written: "^[0-9]+$",
        matches: |text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()),
    }),
};
const LICENSE_ARN: Shape = Shape::Text {
    min: 0,
    max: UNBOUNDED,
    pattern: Some(Pattern {
        written: "^arn:aws[a-zA-Z-]*:[A-Za-z0-9][A-Za-z0-9_/.-]{0,62}:[A-Za-z0-9_/.-]{0,63}:[A-Za-z0-9_/.-]{0,63}:\
                  [A-Za-z0-9][A-Za-z0-9:_/+=,@.-]{0,1023}$",
        matches: is_license_arn,
    }),
};
const TAG_PATTERN: Pattern = Pattern { written: "^[a-zA-Z0-9+ -=._:\\/@]+$", matches: is_tag };
const TAG_KEY: Shape = Shape::Text { min: 1, max: 100, pattern: Some(TAG_PATTERN) };
const TAG_VALUE: Shape = Shape::Text { min: 1, max: 256, pattern: Some(TAG_PATTERN) };
const TAG: Shape = Shape::Structure(&[required("Key", &TAG_KEY), required("Value", &TAG_VALUE)]);
const TAG_LIST: Shape = Shape::List { min: 1, max: 5, member: &TAG };
const USAGE_ALLOCATION: Shape = Shape::Structure(&[
    optional("AllocatedUsageQuantity", &QUANTITY),
    optional("AllocatedUsageQuantityAsDecimal", &DECIMAL),
    optional("Tags", &TAG_LIST),
]);
const USAGE_ALLOCATIONS: Shape = Shape::List { min: 1, max: 2500, member: &USAGE_ALLOCATION };
const USAGE_RECORD: Shape = Shape::Structure(USAGE_RECORD_MEMBERS);
const USAGE_RECORD_MEMBERS: &[Member] = &[
    required("Timestamp", &Shape::Timestamp),
    optional("CustomerIdentifier", &CUSTOMER_IDENTIFIER),
    required("Dimension", &USAGE_DIMENSION),
    optional("Quantity", &QUANTITY),
    optional("QuantityAsDecimal", &DECIMAL),
    optional("UsageAllocations", &USAGE_ALLOCATIONS),
    optional("CustomerAWSAccountId", &CUSTOMER_AWS_ACCOUNT_ID),
    optional("LicenseArn", &LICENSE_ARN),
];
const USAGE_RECORD_LIST: Shape = Shape::List { min: 0, max: 25, member: &USAGE_RECORD };

const AGREEMENT_ID: Shape = Shape::Text {
    min: 1,
    max: 64,
    pattern: Some(Pattern {
        written: "[A-Za-z0-9_/-]+",
        matches: |text| {
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_/-".contains(&b))
        },
    }),
};

/// The filters of GetEntitlements.
pub(super) const ENTITLEMENT_FILTERS: [&str; 4] =
    ["CUSTOMER_IDENTIFIER", "DIMENSION", "CUSTOMER_AWS_ACCOUNT_ID", "LICENSE_ARN"];

const REGISTER_USAGE: Shape = Shape::Structure(&[
    required("ProductCode", &PRODUCT_CODE),
    required("PublicKeyVersion", &VERSION_INTEGER),
    optional("Nonce", &NONCE),
]);
const METER_USAGE: Shape = Shape::Structure(&[
    required("ProductCode", &PRODUCT_CODE),
    required("Timestamp", &Shape::Timestamp),
    required("UsageDimension", &USAGE_DIMENSION),
    optional("UsageQuantity", &QUANTITY),
    optional("UsageQuantityAsDecimal", &DECIMAL),
    optional("DryRun", &Shape::Boolean),
    optional("UsageAllocations", &USAGE_ALLOCATIONS),
    optional("ClientToken", &CLIENT_TOKEN),
]);
const BATCH_METER_USAGE: Shape =
    Shape::Structure(&[required("UsageRecords", &USAGE_RECORD_LIST), optional("ProductCode", &PRODUCT_CODE)]);
const RESOLVE_CUSTOMER: Shape = Shape::Structure(&[required("RegistrationToken", &NON_EMPTY_STRING)]);

const FILTER_VALUES: Shape =
    Shape::List { min: 1, max: UNBOUNDED, member: &Shape::Text { min: 0, max: UNBOUNDED, pattern: None } };
const GET_ENTITLEMENTS: Shape = Shape::Structure(&[
    required("ProductCode", &Shape::Text { min: 1, max: 255, pattern: None }),
    optional("Filter", &Shape::Map { keys: &ENTITLEMENT_FILTERS, member: &FILTER_VALUES }),
    optional("NextToken", &Shape::Text { min: 0, max: UNBOUNDED, pattern: Some(license::SOLID) }),
    optional("MaxResults", &Shape::Integer { min: 1, max: 25 }),
]);

/// The input of an operation.
pub(super) const fn input(operation: Operation) -> &'static Shape {
    match operation {
        Operation::RegisterUsage => &REGISTER_USAGE,
        Operation::MeterUsage => &METER_USAGE,
        Operation::BatchMeterUsage => &BATCH_METER_USAGE,
        Operation::ResolveCustomer => &RESOLVE_CUSTOMER,
        Operation::CheckoutLicense => &license::CHECKOUT_LICENSE,
        Operation::ExtendLicenseConsumption => &license::EXTEND_LICENSE_CONSUMPTION,
        Operation::CheckInLicense => &license::CHECK_IN_LICENSE,
        Operation::ListReceivedLicenses => &license::LIST_RECEIVED_LICENSES,
        Operation::GetLicense => &license::GET_LICENSE,
        Operation::GetLicenseUsage => &license::GET_LICENSE_USAGE,
        Operation::GetAccessToken => &license::GET_ACCESS_TOKEN,
        Operation::CreateLicense => &license::CREATE_LICENSE,
        Operation::GetEntitlements => &GET_ENTITLEMENTS,
    }
}

fn is_license_arn(text: &str) -> bool {
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    let [arn, partition, service, region, account, resource] = parts[..] else { return false };
    let word = |text: &str, max: usize| {
        text.len() <= max && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_/.-".contains(&b))
    };
    let begins = |text: &str| text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let partition_tail = partition.strip_prefix("aws");
    arn == "arn"
        && partition_tail.is_some_and(|tail| tail.bytes().all(|b| b.is_ascii_alphabetic() || b == b'-'))
        && begins(service)
        && word(service, 63)
        && word(region, 63)
        && word(account, 63)
        && begins(resource)
        && resource.len() <= 1024
        && resource.bytes().all(|b| b.is_ascii_alphanumeric() || b":_/+=,@.-".contains(&b))
}

/// The class `+ -=` in the model's pattern is a range, from space to `=`.
fn is_tag(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphabetic() || (b' '..=b'=').contains(&b) || b"._:/@".contains(&b))
}

/// Checks a whole request against the model.
pub(super) fn check(operation: Operation, body: &Value) -> Result<(), ServiceError> {
    let mut checker = Checker { broken: Vec::new(), count: 0 };
    checker.walk(body, input(operation), &mut String::new())?;
    match checker.count {
        0 => Ok(()),
        count => {
            let errors = if count == 1 { "error" } else { "errors" };
            let list = checker.broken.join("; ");
            Err(ServiceError::validation(format!("{count} validation {errors} detected: {list}")))
        }
    }
}

/// A usage record as an answer repeats it: only with members that the service knows.
pub(super) fn known_members(record: &Value) -> Value {
    let Value::Object(members) = record else { return Value::Null };
    let known = |name: &str| USAGE_RECORD_MEMBERS.iter().any(|member| member.name == name);
    let kept = members.iter().filter(|(name, value)| known(name) && !value.is_null());
    Value::Object(kept.map(|(name, value)| (name.clone(), value.clone())).collect())
}

/// Checks a text against the shape of this name; the error is the rule that it breaks.
pub(super) fn check_text(name: &str, text: &str) -> Result<(), String> {
    let shape = match name {
        "AgreementId" => AGREEMENT_ID,
        "LicenseArn" => LICENSE_ARN,
        "ProductCode" => PRODUCT_CODE,
        _ => USAGE_DIMENSION,
    };
    let Shape::Text { min, max, pattern } = shape else { return Ok(()) };
    if !(min..=max).contains(&text.chars().count()) {
        return Err(format!("it has {min} to {max} characters"));
    }
    match pattern {
        Some(pattern) if !(pattern.matches)(text) => Err(format!("it matches {}", pattern.written)),
        _ => Ok(()),
    }
}

/// Most characters of a value in a message.
const SHOWN_CHARS_MAX: usize = 128;

/// Most broken constraints that a message lists.
const TOLD_MAX: usize = 10;

struct Checker {
    broken: Vec<String>,
    count: usize,
}

impl Checker {
    fn walk(&mut self, value: &Value, shape: &Shape, path: &mut String) -> Result<(), ServiceError> {
        match (shape, value) {
            (Shape::Structure(members), Value::Object(map)) => {
                for member in *members {
                    let before = path.len();
                    step(path, member.name);
                    match map.get(member.name) {
                        // null and absent mean the same in this protocol.
                        None | Some(Value::Null) if member.required => {
                            self.note("null", path, "Member must not be null");
                        }
                        None | Some(Value::Null) => {}
                        Some(value) => self.walk(value, member.shape, path)?,
                    }
                    path.truncate(before);
                }
                Ok(())
            }
            (Shape::List { min, max, member }, Value::Array(items)) => {
                self.length(&format!("[{} items]", items.len()), items.len(), *min, *max, path);
                // One item too many is reported; the rest of a hostile list need not be walked for that.
                for (index, item) in items.iter().take(*max).enumerate() {
                    let before = path.len();
                    path.push_str(&format!(".{}.member", index + 1));
                    self.walk(item, member, path)?;
                    path.truncate(before);
                }
                Ok(())
            }
            (Shape::Map { keys, member }, Value::Object(map)) => {
                for (name, value) in map {
                    let before = path.len();
                    step(path, name);
                    if !keys.contains(&name.as_str()) {
                        let rule = format!("Member must satisfy enum value set: [{}]", keys.join(", "));
                        self.note(name, path, &format!("Map keys must satisfy constraint: [{rule}]"));
                    }
                    self.walk(value, member, path)?;
                    path.truncate(before);
                }
                Ok(())
            }
            (Shape::Text { min, max, pattern }, Value::String(text)) => {
                // The model counts characters; counting stops at the first one too many.
                self.length(text, text.chars().take(max.saturating_add(1)).count(), *min, *max, path);
                if let Some(pattern) = pattern
                    && !(pattern.matches)(text)
                {
                    let rule = format!("Member must satisfy regular expression pattern: {}", pattern.written);
                    self.note(text, path, &rule);
                }
                Ok(())
            }
            (Shape::Choice(choices), Value::String(text)) => {
                if !choices.contains(&text.as_str()) {
                    let rule = format!("Member must satisfy enum value set: [{}]", choices.join(", "));
                    self.note(text, path, &rule);
                }
                Ok(())
            }
            (Shape::Long, Value::Number(number)) if number.as_i64().is_some() => Ok(()),
            (Shape::Integer { min, max }, Value::Number(number)) => {
                // Integers of the protocol have 32 bits; a fraction or a larger number cannot be parsed.
                let integer = number.as_i64().filter(|integer| i32::try_from(*integer).is_ok());
                let integer = integer.ok_or_else(|| unreadable(value, path, "a 32-bit integer"))?;
                if integer < *min {
                    let rule = format!("Member must have value greater than or equal to {min}");
                    self.note(&integer.to_string(), path, &rule);
                } else if integer > *max {
                    let rule = format!("Member must have value less than or equal to {max}");
                    self.note(&integer.to_string(), path, &rule);
                }
                Ok(())
            }
            (Shape::Boolean, Value::Bool(_)) => Ok(()),
            (Shape::Timestamp, Value::Number(number))
                if number.as_f64().is_some_and(|seconds| seconds.abs() < TIMESTAMP_SECONDS_MAX) =>
            {
                Ok(())
            }
            (Shape::Structure(_), _) => Err(unreadable(value, path, "a structure")),
            (Shape::Map { .. }, _) => Err(unreadable(value, path, "a map")),
            (Shape::List { .. }, _) => Err(unreadable(value, path, "a list")),
            (Shape::Text { .. } | Shape::Choice(_), _) => Err(unreadable(value, path, "a string")),
            (Shape::Long, _) => Err(unreadable(value, path, "a 64-bit integer")),
            (Shape::Integer { .. }, _) => Err(unreadable(value, path, "an integer")),
            (Shape::Boolean, _) => Err(unreadable(value, path, "a boolean")),
            (Shape::Timestamp, _) => Err(unreadable(value, path, "a timestamp in seconds since 1970")),
        }
    }

    fn length(&mut self, value: &str, length: usize, min: usize, max: usize, path: &str) {
        if length < min {
            self.note(value, path, &format!("Member must have length greater than or equal to {min}"));
        } else if length > max {
            self.note(value, path, &format!("Member must have length less than or equal to {max}"));
        }
    }

    fn note(&mut self, value: &str, path: &str, rule: &str) {
        self.count += 1;
        if self.broken.len() < TOLD_MAX {
            let value: String = value.chars().take(SHOWN_CHARS_MAX).collect();
            self.broken.push(format!("Value '{value}' at '{path}' failed to satisfy constraint: {rule}"));
        }
    }
}

/// Far beyond the year 9999: a time that no calendar contains cannot be parsed.
const TIMESTAMP_SECONDS_MAX: f64 = 1e12;

/// Paths in messages are camelCase, as AWS writes them.
fn step(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    let mut letters = name.chars();
    path.extend(letters.next().map(|first| first.to_ascii_lowercase()));
    path.push_str(letters.as_str());
}

fn unreadable(value: &Value, path: &str, wanted: &str) -> ServiceError {
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a structure",
    };
    let place = if path.is_empty() { "the request" } else { path };
    ServiceError::new("SerializationException", format!("{place} holds {found} where {wanted} belongs"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn message(operation: Operation, body: &Value) -> String {
        match check(operation, body) {
            Ok(()) => "accepted".to_owned(),
            Err(error) => format!("{}: {}", error.code, error.message),
        }
    }

    #[test]
    fn all_broken_constraints_are_told_at_once() {
        let body = json!({"ProductCode": "white space", "PublicKeyVersion": 0, "Nonce": "x".repeat(256)});
        let message = message(Operation::RegisterUsage, &body);
        assert!(message.starts_with("ValidationException: 3 validation errors detected: "), "{message}");
        for part in [
            "Value 'white space' at 'productCode' failed to satisfy constraint: Member must satisfy regular expression",
            "Value '0' at 'publicKeyVersion' failed to satisfy constraint: Member must have value greater than or \
             equal to 1",
            "at 'nonce' failed to satisfy constraint: Member must have length less than or equal to 255",
        ] {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn absent_null_and_unknown_members() {
        let ok = json!({"ProductCode": "p", "PublicKeyVersion": 1, "Nonce": null, "Unknown": [1]});
        assert_eq!(message(Operation::RegisterUsage, &ok), "accepted");
        for missing in [json!({"ProductCode": "p"}), json!({"ProductCode": "p", "PublicKeyVersion": null})] {
            let message = message(Operation::RegisterUsage, &missing);
            assert!(message.contains("Value 'null' at 'publicKeyVersion'"), "{message}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_a_serialization_exception() {
        for (body, place) in [
            (json!([]), "the request"),
            (json!({"ProductCode": 1, "PublicKeyVersion": 1}), "productCode"),
            (json!({"ProductCode": "p", "PublicKeyVersion": "1"}), "publicKeyVersion"),
            (json!({"ProductCode": "p", "PublicKeyVersion": 1.5}), "publicKeyVersion"),
            (json!({"ProductCode": "p", "PublicKeyVersion": 4_294_967_296_i64}), "publicKeyVersion"),
        ] {
            let message = message(Operation::RegisterUsage, &body);
            assert!(message.starts_with(&format!("SerializationException: {place} holds")), "{message}");
        }
    }

    #[test]
    fn nested_members_are_named_by_their_place() {
        let body = json!({"UsageRecords": [
            {"Timestamp": 1, "Dimension": "d"},
            {"Timestamp": 1, "Dimension": "d", "UsageAllocations": [{"Tags": [{"Key": "k", "Value": "ü"}]}]},
        ]});
        let message = message(Operation::BatchMeterUsage, &body);
        assert!(
            message.contains("'usageRecords.2.member.usageAllocations.1.member.tags.1.member.value'"),
            "{message}"
        );
    }

    #[test]
    fn license_arns_and_tags_match_the_models_patterns() {
        for (arn, good) in [
            ("arn:aws:license-manager::111122223333:license:l-demo", true),
            ("arn:aws-cn:license-manager:cn-northwest-1:1:license/l", true),
            ("arn:aws:license-manager::1", false),
            ("arn:gcp:license-manager::1:l", false),
            ("arn:aws:-x::1:l", false),
            ("arn:aws:lm::1:", false),
        ] {
            assert_eq!(is_license_arn(arn), good, "{arn}");
        }
        for (tag, good) in [("a b-c=d", true), ("100%", true), ("a\\b", false), ("a?", false), ("", false)] {
            assert_eq!(is_tag(tag), good, "{tag}");
        }
    }
}
