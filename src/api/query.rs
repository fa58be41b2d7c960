//! The query string of a listing: the command line writes it, the server reads it.

use std::fmt::Write as _;

use tollgate_ledger::view::{From, Looked, ShownState};
use tollgate_marketplace::Hour;
use tollgate_time::Timestamp;

/// Most rows in one answer: some hundred kilobytes.
pub const SHOWN_MAX: usize = 1000;

/// The text of the answer to a query that is not allowed.
pub(super) const ALLOWED: &str = "the query may hold customer, dimension, hour (such as 2026-11-24T08:00:00Z), state (sealed, in_doubt, \
                                  accepted, unconfirmed, carried, dead, discarded, claimed), before (a number, for the next \
                                  page), after (of open usage, for the next page) and limit (1 to 1000)";

/// What a query asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Which records.
    pub looked: Looked,
    /// How many rows.
    pub limit: usize,
    /// Where the page begins, for rows without a number (open usage).
    pub after: Option<From>,
}

impl Query {
    /// Reads a query; `None` if a name is unknown or a value cannot be read.
    #[must_use]
    pub fn parse(query: &str) -> Option<Self> {
        let mut found = Self { looked: Looked::default(), limit: SHOWN_MAX, after: None };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=')?;
            let value = decode(value)?;
            match name {
                // An empty filter is none: a form sends it for a field that was left empty.
                "customer" => found.looked.customer = Some(value).filter(|value| !value.is_empty()),
                "dimension" => found.looked.dimension = Some(value).filter(|value| !value.is_empty()),
                "hour" => found.looked.hour = Some(hour(&value)?),
                "state" => found.looked.state = Some(shown_state(&value)?),
                "before" => found.looked.before = Some(value.parse().ok()?),
                "after" => found.after = Some(From::parse(&value)?),
                "limit" => {
                    found.limit = value.parse().ok().filter(|limit| (1..=SHOWN_MAX).contains(limit))?;
                }
                _ => return None,
            }
        }
        Some(found)
    }

    /// The query, as [`Query::parse`] reads it.
    #[must_use]
    pub fn write(&self) -> String {
        let mut text = format!("limit={}", self.limit);
        let mut add = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                let _ = write!(text, "&{name}={}", encode(&value));
            }
        };
        let looked = &self.looked;
        add("customer", looked.customer.clone());
        add("dimension", looked.dimension.clone());
        add("hour", looked.hour.map(|hour| hour.to_string()));
        add("state", looked.state.map(|state| state.as_str().to_owned()));
        add("before", looked.before.map(|id| id.to_string()));
        add("after", self.after.as_ref().map(ToString::to_string));
        text
    }
}

/// An hour by any moment of it: `2026-11-24T08:00:00Z`, or short `2026-11-24T08`.
#[must_use]
pub fn hour(text: &str) -> Option<Hour> {
    Timestamp::parse(text).or_else(|| Timestamp::parse(&format!("{text}:00:00Z"))).map(Hour::of)
}

/// A shown state by its name.
#[must_use]
pub fn shown_state(text: &str) -> Option<ShownState> {
    ShownState::ALL.into_iter().find(|state| state.as_str() == text)
}

/// Undoes the percent-encoding of a part of a path; `None` if it is malformed or not UTF-8.
pub(super) fn decode_part(part: &str) -> Option<String> {
    // In a path, a plus sign is one.
    decode(&part.replace('+', "%2B"))
}

/// Undoes the percent-encoding of a value; `None` if it is malformed or not UTF-8.
fn decode(value: &str) -> Option<String> {
    let mut bytes = value.bytes();
    let mut decoded = Vec::with_capacity(value.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(decoded).ok()
}

fn encode(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let looked = Looked {
            state: Some(ShownState::InDoubt),
            before: Some(17),
            customer: Some("account 111122223333 arn:aws:x:é&=%+".to_owned()),
            dimension: Some("a b".to_owned()),
            hour: hour("2026-11-24T08"),
        };
        for query in [
            Query { looked, limit: 7, after: Some(From::Slot(17)) },
            Query { looked: Looked::default(), limit: SHOWN_MAX, after: None },
            Query { looked: Looked::default(), limit: 1, after: From::parse("498752~x61~x") },
        ] {
            assert_eq!(Query::parse(&query.write()), Some(query));
        }
    }

    #[test]
    fn what_says_something_else_is_no_query() {
        for bad in [
            "stat=dead",
            "state=unknown",
            "limit=0",
            "limit=1001",
            "before=x",
            "after=3",
            "skip=3",
            "hour=today",
            "customer=%",
            "customer=%f",
            "customer=%zz",
            "customer=%ff",
            "dimension",
        ] {
            assert_eq!(Query::parse(bad), None, "{bad}");
        }
        assert_eq!(Query::parse("customer=&dimension="), Query::parse(""));
        assert_eq!(Query::parse("hour=2026-11-24T08:59:59Z"), Query::parse("hour=2026-11-24T08"));
    }
}
