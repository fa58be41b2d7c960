//! A JSON object whose top-level members are known to be unique.
//!
//! serde_json keeps the last of several members of one name, other parsers the first; a token that two verifiers read
//! differently is refused instead. Names are compared after their escapes are resolved.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Top-level members by name, each as the text it had.
#[derive(Debug)]
pub(super) struct Members(BTreeMap<String, Box<RawValue>>);

/// Most members read; AWS's tokens have four or five.
const MEMBERS_MAX: usize = 64;

impl Members {
    /// Parses one object and nothing after it.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        serde_json::from_str(text).ok()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The member's text, trimmed.
    pub(super) fn raw(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.get().trim())
    }

    /// The member if it is a string.
    pub(super) fn string(&self, name: &str) -> Option<String> {
        serde_json::from_str(self.raw(name)?).ok()
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
        // Read or refused: either will do, so long as it returns.
        let _ = Members::parse(deep.as_bytes());
    }
}
