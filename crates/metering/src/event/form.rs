//! The JSON form of events: their members, and a list that is read only up to its limit.
//!
//! An optional member that is `null` counts as absent. A member or a tag key that is given twice is rejected, because
//! two parsers might use different ones.

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

/// The customer.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a customer, an object with account_id or identifier")]
pub(super) struct CustomerDocument {
    pub(super) account_id: Option<String>,
    pub(super) license_arn: Option<String>,
    pub(super) identifier: Option<String>,
}

/// Tags; a repeated key is an error.
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

/// The members by which a rejection names an event that cannot be read as a whole.
#[derive(Default, Deserialize)]
pub(super) struct Named {
    pub(super) id: Option<String>,
    pub(super) dimension: Option<String>,
}

/// The texts of a request's events. Reading stops at the first event above the limit: a list of a million zeros must
/// not cost more memory than its text.
pub fn split(body: &[u8]) -> Result<Vec<&RawValue>, BadRequest> {
    match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'[') => match serde_json::from_slice::<Items<'_>>(body) {
            Ok(items) => Ok(items.0),
            // A raw value accepts any JSON, so only the list's own limit causes a data error.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_up_to_its_limit_only() {
        let list = |count: usize| format!("[{}]", vec!["0"; count].join(","));
        assert_eq!(split(list(EVENTS_MAX).as_bytes()).unwrap().len(), EVENTS_MAX);
        assert_eq!(split(list(EVENTS_MAX + 1).as_bytes()).unwrap_err(), BadRequest::TooMany);
        // It is rejected at the limit, before the rest is read.
        let broken = format!("{} and no JSON", list(400_000).trim_end_matches(']'));
        assert_eq!(split(broken.as_bytes()).unwrap_err(), BadRequest::TooMany);
        for bad in ["", "3", "{", "[", "[1", "[1]]", "[1,]"] {
            assert_eq!(split(bad.as_bytes()).unwrap_err(), BadRequest::NotEvents, "{bad}");
        }
    }
}
