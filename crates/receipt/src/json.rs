//! A JSON object with unique top-level members.
//!
//! If an object has several members of one name, serde_json keeps the last, other parsers the first. An object that two
//! parsers would read differently is refused. Names are compared after their escapes are resolved.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

/// Top-level members by name, each with its original text.
#[derive(Debug, Serialize)]
pub struct Members(BTreeMap<String, Box<RawValue>>);

/// Most members that are read; AWS's tokens have four or five, its requests fewer than ten.
const MEMBERS_MAX: usize = 64;

impl Members {
    /// Parses one object, with nothing after it.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        serde_json::from_str(text).ok()
    }

    /// Their names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The member's text, trimmed.
    #[must_use]
    pub fn raw(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.get().trim())
    }

    /// The member as a `T`; `None` if it is absent or `null`.
    pub fn get<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, serde_json::Error> {
        self.raw(name).map_or(Ok(None), serde_json::from_str)
    }

    /// The member if it is a string.
    #[must_use]
    pub fn string(&self, name: &str) -> Option<String> {
        self.get(name).ok().flatten()
    }

    /// Sets a member, replacing an existing one of that name.
    pub fn set(&mut self, name: &str, value: &Value) {
        self.0.insert(name.to_owned(), to_raw_value(value).expect("a value is JSON"));
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Unique;

        impl<'de> Visitor<'de> for Unique {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with unique members")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, Box<RawValue>>()? {
                    if members.len() == MEMBERS_MAX || members.insert(name, value).is_some() {
                        return Err(A::Error::custom("a member twice, or too many"));
                    }
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Unique)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unique_members_are_read() {
        let members = Members::parse(br#" {"a": 1 , "b":"x", "c":{"a":1,"a":2}} "#).unwrap();
        assert_eq!(members.names().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!((members.raw("a"), members.string("b")), (Some("1"), Some("x".to_owned())));
        assert_eq!((members.raw("z"), members.string("a")), (None, None));
    }

    #[test]
    fn everything_else_is_refused() {
        for bad in [
            "",
            "null",
            "[]",
            "1",
            "{",
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":1}"#,
            r#"{"a":1}{}"#,
            r#"{"a":1,}"#,
            r#"{a:1}"#,
            "\u{feff}{}",
        ] {
            assert!(Members::parse(bad.as_bytes()).is_none(), "{bad}");
        }
        assert!(Members::parse(b"{\"a\":\"\xff\"}").is_none());
        let many: String = (0..=MEMBERS_MAX).map(|i| format!("\"m{i}\":0,")).collect();
        assert!(Members::parse(format!("{{{}}}", many.trim_end_matches(',')).as_bytes()).is_none());
    }

    #[test]
    fn depth_is_no_way_to_overflow_the_stack() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(4000), "]".repeat(4000));
        // Either result is right, as long as it returns.
        let _ = Members::parse(deep.as_bytes());
    }
}
