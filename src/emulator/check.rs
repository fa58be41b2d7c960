//! The service model's constraints, member by member: types, required members, lengths, ranges and patterns of
//! `meteringmarketplace/2016-01-14`. What breaks a type is a `SerializationException`, what breaks a constraint a
//! `ValidationException`, as AWS's JSON services answer. Unknown members are ignored, as they do.

use serde_json::{Map, Value};

use super::decimal::{INTEGER_MAX, Micros};
use super::wire::ServiceError;
use crate::clock::Timestamp;

/// One structure of a request, and where it stands in it.
#[derive(Debug, Clone)]
pub(super) struct Structure<'a> {
    members: &'a Map<String, Value>,
    path: String,
}

type Checked<T> = Result<T, ServiceError>;

/// A pattern of the model as it is shown, and as it is decided.
type Pattern = (&'static str, fn(&str) -> bool);

/// Length and pattern of a string.
#[derive(Clone, Copy)]
pub(super) struct Text {
    pub(super) min: usize,
    pub(super) max: usize,
    /// The model's pattern, and what decides it.
    pub(super) pattern: Option<Pattern>,
}

/// `ProductCode`
pub(super) const PRODUCT_CODE: Text = Text {
    min: 0,
    max: 255,
    pattern: Some(("^[-a-zA-Z0-9/=:_.@]*$", |text| {
        text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-/=:_.@".contains(&b))
    })),
};
/// `Nonce`, `CustomerIdentifier`
pub(super) const UP_TO_255: Text = Text { min: 0, max: 255, pattern: None };
/// `UsageDimension`
pub(super) const DIMENSION: Text = Text { min: 1, max: 255, pattern: None };
/// `ClientToken`
pub(super) const CLIENT_TOKEN: Text = Text { min: 1, max: 64, pattern: None };
/// `NonEmptyString` without an upper bound; the request's size bounds it.
pub(super) const NON_EMPTY: Text = Text { min: 1, max: usize::MAX, pattern: None };
/// `CustomerAWSAccountId`
pub(super) const ACCOUNT_ID: Text = Text {
    min: 1,
    max: 255,
    pattern: Some(("^[0-9]+$", |text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()))),
};
/// `LicenseArn`
pub(super) const LICENSE_ARN: Text =
    Text { min: 0, max: usize::MAX, pattern: Some((LICENSE_ARN_PATTERN, license_arn)) };
const TAG_PATTERN: &str = "^[a-zA-Z0-9+ -=._:\\/@]+$";
/// `TagKey`
pub(super) const TAG_KEY: Text = Text { min: 1, max: 100, pattern: Some((TAG_PATTERN, tag)) };
/// `TagValue`
pub(super) const TAG_VALUE: Text = Text { min: 1, max: 256, pattern: Some((TAG_PATTERN, tag)) };

const LICENSE_ARN_PATTERN: &str = "^arn:aws[a-zA-Z-]*:[A-Za-z0-9][A-Za-z0-9_/.-]{0,62}:[A-Za-z0-9_/.-]{0,63}:\
                                   [A-Za-z0-9_/.-]{0,63}:[A-Za-z0-9][A-Za-z0-9:_/+=,@.-]{0,1023}$";

fn license_arn(text: &str) -> bool {
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    let [arn, partition, service, region, account, resource] = parts[..] else { return false };
    let word = |text: &str, max: usize| {
        text.len() <= max && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_/.-".contains(&b))
    };
    let begins = |text: &str| text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    arn == "arn"
        && partition
            .strip_prefix("aws")
            .is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_alphabetic() || b == b'-'))
        && begins(service)
        && word(service, 63)
        && word(region, 63)
        && word(account, 63)
        && begins(resource)
        && resource.len() <= 1024
        && resource.bytes().all(|b| b.is_ascii_alphanumeric() || b":_/+=,@.-".contains(&b))
}

/// The class `+ -=` in the model's pattern is a range from space to `=`.
fn tag(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || (b' '..=b'=').contains(&b) || b"._:/@\\".contains(&b))
}

impl<'a> Structure<'a> {
    /// The whole request.
    pub(super) fn root(value: &'a Value) -> Checked<Self> {
        Self::of(value, String::new())
    }

    fn of(value: &'a Value, path: String) -> Checked<Self> {
        match value {
            Value::Object(members) => Ok(Self { members, path }),
            _ => Err(ServiceError::new(
                "SerializationException",
                format!("{} is not a structure", shown(&path)),
            )),
        }
    }

    fn path(&self, name: &str) -> String {
        let mut first = name.chars();
        let camel: String = first.next().map(|c| c.to_ascii_lowercase()).into_iter().chain(first).collect();
        if self.path.is_empty() { camel } else { format!("{}.{camel}", self.path) }
    }

    fn member(&self, name: &str) -> Option<&'a Value> {
        self.members.get(name).filter(|value| !value.is_null())
    }

    fn missing(&self, name: &str) -> ServiceError {
        broken("null", &self.path(name), "Member must not be null")
    }

    fn wrong_type(&self, name: &str, wanted: &str) -> ServiceError {
        ServiceError::new("SerializationException", format!("'{}' is not {wanted}", self.path(name)))
    }

    pub(super) fn text(&self, name: &str, limits: Text) -> Checked<Option<&'a str>> {
        let Some(value) = self.member(name) else { return Ok(None) };
        let Value::String(text) = value else { return Err(self.wrong_type(name, "a string")) };
        let at = self.path(name);
        let length = text.chars().count();
        if length > limits.max {
            let rule = format!("Member must have length less than or equal to {}", limits.max);
            return Err(broken(text, &at, &rule));
        }
        if length < limits.min {
            let rule = format!("Member must have length greater than or equal to {}", limits.min);
            return Err(broken(text, &at, &rule));
        }
        match limits.pattern {
            Some((pattern, matches)) if !matches(text) => {
                Err(broken(text, &at, &format!("Member must satisfy regular expression pattern: {pattern}")))
            }
            _ => Ok(Some(text)),
        }
    }

    pub(super) fn required_text(&self, name: &str, limits: Text) -> Checked<&'a str> {
        self.text(name, limits)?.ok_or_else(|| self.missing(name))
    }

    pub(super) fn integer(&self, name: &str, min: i64, max: i64) -> Checked<Option<i64>> {
        let Some(value) = self.member(name) else { return Ok(None) };
        // Integers of the protocol are 32 bits; a fraction or more bits cannot be read at all.
        let integer = value.as_i64().filter(|integer| i32::try_from(*integer).is_ok());
        let integer = integer.ok_or_else(|| self.wrong_type(name, "an integer"))?;
        if integer < min {
            let rule = format!("Member must have value greater than or equal to {min}");
            return Err(broken(&integer.to_string(), &self.path(name), &rule));
        }
        if integer > max {
            let rule = format!("Member must have value less than or equal to {max}");
            return Err(broken(&integer.to_string(), &self.path(name), &rule));
        }
        Ok(Some(integer))
    }

    pub(super) fn required_integer(&self, name: &str, min: i64, max: i64) -> Checked<i64> {
        self.integer(name, min, max)?.ok_or_else(|| self.missing(name))
    }

    pub(super) fn boolean(&self, name: &str) -> Checked<Option<bool>> {
        self.member(name)
            .map(|value| value.as_bool().ok_or_else(|| self.wrong_type(name, "a boolean")))
            .transpose()
    }

    /// A timestamp is a number of seconds since the epoch, possibly with a fraction.
    pub(super) fn required_timestamp(&self, name: &str) -> Checked<Timestamp> {
        let value = self.member(name).ok_or_else(|| self.missing(name))?;
        let seconds = value.as_f64().filter(|seconds| seconds.abs() < 1e12);
        let seconds = seconds.ok_or_else(|| self.wrong_type(name, "a timestamp"))?;
        #[expect(clippy::cast_possible_truncation, reason = "bounded by 1e12 above")]
        Ok(Timestamp::from_unix_millis((seconds * 1000.0) as i64))
    }

    /// A quantity in one of its two members; whether it was the decimal one comes with it.
    pub(super) fn quantity(&self, integer: &str, decimal: &str) -> Checked<Option<(Micros, bool)>> {
        let whole = self.integer(integer, 0, i64::try_from(INTEGER_MAX).unwrap_or(i64::MAX))?;
        let text =
            self.text(decimal, Text { min: 1, max: 17, pattern: Some((DECIMAL_PATTERN, decimal_text)) })?;
        match (whole, text) {
            (Some(_), Some(_)) => {
                Err(ServiceError::validation(format!("{integer} and {decimal} cannot both be given")))
            }
            (Some(whole), None) => Ok(Some((Micros::of_integer(whole.unsigned_abs()), false))),
            (None, Some(text)) => Ok(Micros::parse(text).map(|micros| (micros, true))),
            (None, None) => Ok(None),
        }
    }

    /// The structures of a list.
    pub(super) fn list(&self, name: &str, min: usize, max: usize) -> Checked<Option<Vec<Self>>> {
        let Some(value) = self.member(name) else { return Ok(None) };
        let Value::Array(items) = value else { return Err(self.wrong_type(name, "a list")) };
        let at = self.path(name);
        if items.len() < min {
            let rule = format!("Member must have length greater than or equal to {min}");
            return Err(broken("[]", &at, &rule));
        }
        if items.len() > max {
            let rule = format!("Member must have length less than or equal to {max}");
            return Err(broken(&format!("[{} items]", items.len()), &at, &rule));
        }
        let structure = |(index, item)| Self::of(item, format!("{at}.{}.member", index + 1));
        items.iter().enumerate().map(structure).collect::<Checked<_>>().map(Some)
    }

    pub(super) fn required_list(&self, name: &str, min: usize, max: usize) -> Checked<Vec<Self>> {
        self.list(name, min, max)?.ok_or_else(|| self.missing(name))
    }
}

const DECIMAL_PATTERN: &str = "^(0|[1-9][0-9]{0,9})(\\.[0-9]{1,6})?$";

fn decimal_text(text: &str) -> bool {
    Micros::parse(text).is_some()
}

fn broken(value: &str, at: &str, rule: &str) -> ServiceError {
    let value: String = value.chars().take(SHOWN_CHARS_MAX).collect();
    ServiceError::validation(format!(
        "1 validation error detected: Value '{value}' at '{at}' failed to satisfy constraint: {rule}"
    ))
}

/// Of a value in a message; a whole megabyte would help nobody.
const SHOWN_CHARS_MAX: usize = 128;

fn shown(path: &str) -> &str {
    if path.is_empty() { "the request" } else { path }
}
