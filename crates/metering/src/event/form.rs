//! How an event is written: its members, the limits of AWS's service model, and a list that ends at a limit.
//!
//! An optional member that is `null` is absent. A member or a tag that is given twice is refused: two readers would
//! understand it differently.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{BadRequest, EVENTS_MAX};

/// An event.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an event, an object with dimension and quantity")]
pub(super) struct Document<'a> {
    pub(super) id: Option<String>,
    pub(super) dimension: String,
    #[serde(borrow)]
    pub(super) quantity: &'a RawValue,
    pub(super) timestamp: Option<String>,
    pub(super) tags: Option<Tags>,
    pub(super) customer: Option<CustomerDocument>,
}

/// Who used it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a customer, an object with account_id or identifier")]
pub(super) struct CustomerDocument {
    pub(super) account_id: Option<String>,
    pub(super) license_arn: Option<String>,
    pub(super) identifier: Option<String>,
}

/// Tags by key, each key once.
#[derive(Default)]
pub(super) struct Tags(pub(super) BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Tags {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Unique;

        impl<'de> Visitor<'de> for Unique {
            type Value = Tags;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("tags, an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tags, A::Error> {
                let mut tags = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    if tags.insert(key, value).is_some() {
                        return Err(A::Error::custom("a tag key is given twice"));
                    }
                }
                Ok(Tags(tags))
            }
        }

        deserializer.deserialize_map(Unique)
    }
}

/// What can be told of an event that cannot be read as a whole.
#[derive(Default, Deserialize)]
pub(super) struct Named {
    pub(super) id: Option<String>,
    pub(super) dimension: Option<String>,
}

/// The texts of a request's events. Reading stops at the first event too many: a list of a million zeros must not cost
/// more memory than its text.
pub fn split(body: &[u8]) -> Result<Vec<&RawValue>, BadRequest> {
    match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'[') => match serde_json::from_slice::<Items<'_>>(body) {
            Ok(items) => Ok(items.0),
            // A raw value takes whatever is JSON, so this is the list's own refusal.
            Err(error) if error.is_data() => Err(BadRequest::TooMany),
            Err(_) => Err(BadRequest::NotEvents),
        },
        Some(b'{') => Ok(vec![serde_json::from_slice(body).map_err(|_| BadRequest::NotEvents)?]),
        _ => Err(BadRequest::NotEvents),
    }
}

struct Items<'a>(Vec<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Items<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bounded;

        impl<'de> Visitor<'de> for Bounded {
            type Value = Vec<&'de RawValue>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of events")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element()? {
                    if items.len() == EVENTS_MAX {
                        return Err(A::Error::custom("too many events"));
                    }
                    items.push(item);
                }
                Ok(items)
            }
        }

        deserializer.deserialize_seq(Bounded).map(Items)
    }
}

/// Longest legacy identifier of a customer (service model, `CustomerIdentifier`).
const IDENTIFIER_CHARS_MAX: usize = 255;

/// Longest account of a customer (service model, `CustomerAWSAccountId`). AWS's own have 12 digits.
const ACCOUNT_CHARS_MAX: usize = 255;

/// Whether AWS takes a text as `CustomerIdentifier`; an empty one names nobody.
pub(super) fn is_identifier(text: &str) -> bool {
    !text.is_empty() && text.chars().nth(IDENTIFIER_CHARS_MAX).is_none()
}

/// Whether AWS takes a text as `CustomerAWSAccountId`.
pub(super) fn is_account(text: &str) -> bool {
    (1..=ACCOUNT_CHARS_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether AWS takes a text as `LicenseArn`: `arn:aws…:service:region:account:resource`, in the lengths and letters of
/// the service model's pattern.
pub(super) fn is_license_arn(text: &str) -> bool {
    let place = |part: &str, min: usize| {
        (min..=63).contains(&part.len())
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_/.-".contains(&byte))
    };
    let mut parts = text.splitn(6, ':');
    let [Some("arn"), Some(partition), Some(service), Some(region), Some(account), Some(resource)] =
        std::array::from_fn(|_| parts.next())
    else {
        return false;
    };
    let starts = |part: &str| part.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    partition
        .strip_prefix("aws")
        .is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'-'))
        && place(service, 1)
        && starts(service)
        && place(region, 0)
        && place(account, 0)
        && (1..=1024).contains(&resource.len())
        && starts(resource)
        && resource.bytes().all(|byte| byte.is_ascii_alphanumeric() || b":_/+=,@.-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_keep_to_the_service_models_limits() {
        assert!(is_identifier("c") && is_identifier(&"ü".repeat(255)));
        assert!(!is_identifier("") && !is_identifier(&"c".repeat(256)));
        assert!(is_account("111122223333") && is_account(&"1".repeat(255)));
        assert!(!is_account("") && !is_account(&"1".repeat(256)) && !is_account("١") && !is_account("1a"));
        let long = |length: usize| format!("arn:aws:license-manager::1:{}", "l".repeat(length));
        for good in [
            "arn:aws:license-manager::111122223333:license:l-demo",
            "arn:aws-cn:license-manager:cn-north-1:1:license/l",
            &long(1024),
        ] {
            assert!(is_license_arn(good), "{good}");
        }
        for bad in [
            "",
            "arn:x",
            "arn:aws:license-manager::1",
            "arn:aws:license-manager::1:",
            "arn:gcp:license-manager::1:l",
            "arn:aws1:license-manager::1:l",
            "arn:aws:-x::1:l",
            "arn:aws:lm::1:-l",
            "arn:aws:lm::1:l l",
            "arn:aws:lm::1:l\n",
            &long(1025),
        ] {
            assert!(!is_license_arn(bad), "{bad}");
        }
    }

    #[test]
    fn a_list_is_read_up_to_its_limit_only() {
        let list = |count: usize| format!("[{}]", vec!["0"; count].join(","));
        assert_eq!(split(list(EVENTS_MAX).as_bytes()).unwrap().len(), EVENTS_MAX);
        assert_eq!(split(list(EVENTS_MAX + 1).as_bytes()).unwrap_err(), BadRequest::TooMany);
        // It is refused at the limit, before what follows is looked at.
        let broken = format!("{} and no JSON", list(400_000).trim_end_matches(']'));
        assert_eq!(split(broken.as_bytes()).unwrap_err(), BadRequest::TooMany);
        for bad in ["", "3", "{", "[", "[1", "[1]]", "[1,]"] {
            assert_eq!(split(bad.as_bytes()).unwrap_err(), BadRequest::NotEvents, "{bad}");
        }
    }
}
