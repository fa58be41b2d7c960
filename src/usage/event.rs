//! One report of usage, as an application sends it. Pure: bytes in, events and refusals out.
//!
//! ```json
//! {"id": "…", "dimension": "requests", "quantity": 12.5, "timestamp": "2026-11-24T08:00:00Z",
//!  "tags": {"team": "a"}, "customer": {"account_id": "111122223333", "license_arn": "arn:…"}}
//! ```
//!
//! A quantity is read from its own text, number or string. A bad event spoils no other of its request.

use std::collections::BTreeMap;
use std::time::Duration;

use ring::digest;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::clock::Timestamp;
use crate::marketplace::{Quantity, TagSet};

/// Most events of one request: with the body's limit that bounds what one client can hold in memory.
pub const EVENTS_MAX: usize = 1000;

/// Longest idempotency key; a UUID has 36 characters, a composed key some more.
pub const ID_BYTES_MAX: usize = 128;

/// Longest name of a dimension (service model, `UsageDimension`).
pub const DIMENSION_CHARS_MAX: usize = 255;

/// Longest customer identifier, account or licence (service model).
const CUSTOMER_CHARS_MAX: usize = 1200;

/// Older usage could not be billed in any window.
pub const AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// How long an event's `id` is remembered where nothing else is configured: twice the age of the oldest event.
pub const IDEMPOTENCY_WINDOW: Duration = Duration::from_secs(48 * 3600);

/// The age of the oldest event that is taken: a repetition of it must find its `id` remembered.
#[must_use]
pub fn age_max(idempotency_window: Duration) -> Duration {
    AGE_MAX.min(idempotency_window / 2)
}

/// Further ahead than clocks differ.
pub const AHEAD_MAX: Duration = Duration::from_secs(300);

/// Who used it: nobody in particular (the pod's own account), or a customer of the seller in mode `saas`.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Customer {
    /// The account that runs the pod.
    #[default]
    Own,
    /// An account, with the licence under Concurrent Agreements.
    Account {
        /// `CustomerAWSAccountId`
        account_id: String,
        /// `LicenseArn`
        license_arn: Option<String>,
    },
    /// The legacy `CustomerIdentifier`.
    Identifier(String),
}

impl Customer {
    /// The text that stands for the customer on disk.
    #[must_use]
    pub fn canonical(&self) -> String {
        match self {
            Self::Own => String::new(),
            Self::Account { account_id, license_arn } => {
                format!("account {account_id} {}", license_arn.as_deref().unwrap_or_default())
            }
            Self::Identifier(identifier) => format!("identifier {identifier}"),
        }
    }

    /// Reads [`Customer::canonical`].
    #[must_use]
    pub fn from_canonical(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::Own);
        }
        let (kind, rest) = text.split_once(' ')?;
        match kind {
            "identifier" => Some(Self::Identifier(rest.to_owned())),
            "account" => {
                let (account_id, license_arn) = rest.split_once(' ')?;
                let license_arn = (!license_arn.is_empty()).then(|| license_arn.to_owned());
                Some(Self::Account { account_id: account_id.to_owned(), license_arn })
            }
            _ => None,
        }
    }
}

/// A valid event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The application's idempotency key.
    pub id: Option<String>,
    /// What was used.
    pub dimension: String,
    /// How much.
    pub quantity: Quantity,
    /// When; now, if the application does not say.
    pub at: Timestamp,
    /// For the buyer's cost reports.
    pub tags: TagSet,
    /// Who used it.
    pub customer: Customer,
    /// Of all that the application said; a repeat of its key must say the same.
    pub content: [u8; 32],
}

/// Why an event is refused; the text is shown to the application.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Rejected(pub String);

/// One event of a request: valid, or refused with its key.
pub type Read = Result<Event, (Option<String>, Rejected)>;

/// Why a whole request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// Not JSON, or neither an object nor an array.
    #[error("the body must be one event or an array of events, in JSON")]
    NotEvents,
    /// More than [`EVENTS_MAX`].
    #[error("the body has more than 1,000 events; send them in several requests")]
    TooMany,
}

/// What the seller allows.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The only dimensions that are taken, if any are named.
    pub dimensions: Option<Vec<String>>,
    /// Events name a customer (mode `saas`), or must not.
    pub customers: bool,
    /// Reports of 0 in it are what keeps the gate open; usage in it would contradict them.
    pub entitlement_dimension: Option<String>,
    /// Older events are rejected ([`age_max`]).
    pub age_max: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Self { dimensions: None, customers: false, entitlement_dimension: None, age_max: AGE_MAX }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an event, an object with dimension and quantity")]
struct Document<'a> {
    id: Option<String>,
    dimension: String,
    #[serde(borrow)]
    quantity: &'a RawValue,
    timestamp: Option<String>,
    #[serde(default)]
    tags: BTreeMap<String, String>,
    customer: Option<CustomerDocument>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a customer, an object with account_id or identifier")]
struct CustomerDocument {
    account_id: Option<String>,
    license_arn: Option<String>,
    identifier: Option<String>,
}

/// Reads a request's body.
pub fn read(body: &[u8], rules: &Rules, now: Timestamp) -> Result<Vec<Read>, BadRequest> {
    let first = body.iter().find(|byte| !byte.is_ascii_whitespace());
    let items: Vec<&RawValue> = match first {
        Some(b'[') => serde_json::from_slice(body).map_err(|_| BadRequest::NotEvents)?,
        Some(b'{') => vec![serde_json::from_slice(body).map_err(|_| BadRequest::NotEvents)?],
        _ => return Err(BadRequest::NotEvents),
    };
    if items.len() > EVENTS_MAX {
        return Err(BadRequest::TooMany);
    }
    Ok(items.into_iter().map(|item| read_one(item.get(), rules, now)).collect())
}

fn read_one(text: &str, rules: &Rules, now: Timestamp) -> Read {
    let document: Document<'_> =
        serde_json::from_str(text).map_err(|error| (id_of(text), Rejected(error.to_string())))?;
    let id = document.id.clone();
    event(document, rules, now).map_err(|rejected| (id, rejected))
}

/// The key of an event that cannot be read as a whole, so that its refusal can name it.
fn id_of(text: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Id {
        id: Option<String>,
    }
    serde_json::from_str::<Id>(text).ok()?.id.filter(|id| id.len() <= ID_BYTES_MAX)
}

fn event(document: Document<'_>, rules: &Rules, now: Timestamp) -> Result<Event, Rejected> {
    let reject = |text: &str| Err(Rejected(text.to_owned()));
    if document.id.as_ref().is_some_and(|id| id.is_empty() || id.len() > ID_BYTES_MAX) {
        return reject("id must have 1 to 128 bytes");
    }
    let chars = document.dimension.chars().count();
    if chars == 0 || chars > DIMENSION_CHARS_MAX {
        return reject("dimension must have 1 to 255 characters");
    }
    if rules.dimensions.as_ref().is_some_and(|allowed| !allowed.contains(&document.dimension)) {
        return reject("dimension is not one of those that the seller configured (dimensions)");
    }
    if rules.entitlement_dimension.as_ref() == Some(&document.dimension) {
        return reject("dimension is the entitlement_dimension, which takes no usage");
    }
    let text = document.quantity.get().trim_matches('"');
    let quantity: Quantity = text.parse().map_err(|error| Rejected(format!("quantity {error}")))?;
    let at = match &document.timestamp {
        None => now,
        Some(text) => match Timestamp::parse(text) {
            None => return reject("timestamp must be RFC 3339, such as 2026-11-24T08:00:00Z"),
            Some(at) if at < now.minus(rules.age_max) => {
                let hours = rules.age_max.as_secs_f64() / 3600.0;
                return Err(Rejected(format!("timestamp is more than {hours} hours old")));
            }
            Some(at) if at > now.plus(AHEAD_MAX) => return reject("timestamp is more than 5 minutes ahead"),
            Some(at) => at,
        },
    };
    let content = content(&document, quantity);
    let customer = customer(document.customer, rules)?;
    let tags = TagSet::try_from(document.tags).map_err(|error| Rejected(format!("tags {error}")))?;
    Ok(Event { id: document.id, dimension: document.dimension, quantity, at, tags, customer, content })
}

fn customer(document: Option<CustomerDocument>, rules: &Rules) -> Result<Customer, Rejected> {
    let reject = |text: &str| Err(Rejected(text.to_owned()));
    let Some(document) = document else {
        return if rules.customers { reject("customer is required in mode saas") } else { Ok(Customer::Own) };
    };
    if !rules.customers {
        return reject(
            "customer is for mode saas only: this pod's usage belongs to the account that runs it",
        );
    }
    let too_long = |text: &Option<String>| text.as_ref().is_some_and(|text| text.len() > CUSTOMER_CHARS_MAX);
    if [&document.account_id, &document.license_arn, &document.identifier].into_iter().any(too_long) {
        return reject("customer is longer than AWS takes");
    }
    match (document.account_id, document.license_arn, document.identifier) {
        (Some(account_id), license_arn, None) => {
            if account_id.is_empty() || !account_id.bytes().all(|b| b.is_ascii_digit()) {
                return reject("customer.account_id must be digits");
            }
            if license_arn.as_ref().is_some_and(|arn| arn.is_empty() || arn.contains(char::is_whitespace)) {
                return reject("customer.license_arn must be an ARN");
            }
            Ok(Customer::Account { account_id, license_arn })
        }
        (None, None, Some(identifier)) if !identifier.is_empty() => Ok(Customer::Identifier(identifier)),
        _ => reject("customer needs account_id (with license_arn), or identifier alone"),
    }
}

/// What a repeat is compared by. The time is part of it only when the application gave one: a retry without one comes
/// later.
fn content(document: &Document<'_>, quantity: Quantity) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    let customer = document.customer.as_ref().map(|c| (&c.account_id, &c.license_arn, &c.identifier));
    let parts = (&document.dimension, quantity.micros(), &document.timestamp, &document.tags, customer);
    let text = serde_json::to_string(&parts).expect("strings, numbers and maps of strings are JSON");
    context.update(text.as_bytes());
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_795_507_200);

    fn metered(body: &str) -> Vec<Read> {
        read(body.as_bytes(), &Rules::default(), NOW).unwrap()
    }

    fn refusal(body: &str) -> String {
        match metered(body).remove(0) {
            Ok(event) => panic!("{event:?}"),
            Err((_, rejected)) => rejected.0,
        }
    }

    #[test]
    fn one_event_or_many() {
        let one = metered(r#"{"dimension":"requests","quantity":1}"#).remove(0).unwrap();
        assert_eq!((one.at, one.quantity, &one.customer), (NOW, "1".parse().unwrap(), &Customer::Own));
        let many = metered(r#"[{"dimension":"a","quantity":"0.5"}, {"dimension":"","quantity":1}]"#);
        assert!(many[0].is_ok() && many[1].is_err(), "one bad event spoils no other");
        assert_eq!(read(b"3", &Rules::default(), NOW), Err(BadRequest::NotEvents));
        assert_eq!(read(b"{", &Rules::default(), NOW), Err(BadRequest::NotEvents));
        let many = format!("[{}]", vec!["{}"; EVENTS_MAX + 1].join(","));
        assert_eq!(read(many.as_bytes(), &Rules::default(), NOW), Err(BadRequest::TooMany));
    }

    #[test]
    fn quantities_are_read_from_their_text() {
        let quantity = |text: &str| metered(&format!(r#"{{"dimension":"d","quantity":{text}}}"#)).remove(0);
        // The nearest double of this is another number.
        assert_eq!(quantity("9007199254.740993").unwrap().quantity.to_string(), "9007199254.740993");
        assert_eq!(quantity("\"0.1\"").unwrap().quantity.micros(), 100_000);
        for bad in ["-1", "1e3", "1.0000001", "null", "true", "[1]", "\"\"", "\" 1\"", "NaN", "\"\\u0031\""] {
            let read =
                read(format!(r#"{{"dimension":"d","quantity":{bad}}}"#).as_bytes(), &Rules::default(), NOW);
            assert!(read.is_err() || read.unwrap()[0].is_err(), "{bad}");
        }
    }

    #[test]
    fn refusals_name_the_event_and_the_reason() {
        let (id, rejected) = metered(r#"{"id":"x","dimension":"d","quantity":-1}"#).remove(0).unwrap_err();
        assert_eq!(id.as_deref(), Some("x"));
        assert!(rejected.0.starts_with("quantity must be"), "{rejected}");
        for (body, part) in [
            (r#"{"dimension":"d","quantity":1,"timestamp":"2026-11-23T07:59:59Z"}"#, "24 hours"),
            (r#"{"dimension":"d","quantity":1,"timestamp":"2026-11-24T08:05:01Z"}"#, "ahead"),
            (r#"{"dimension":"d","quantity":1,"timestamp":"today"}"#, "RFC 3339"),
            (r#"{"dimension":"d","quantity":1,"tags":{"a":""}}"#, "tags"),
            (r#"{"dimension":"d","quantity":1,"customer":{"identifier":"x"}}"#, "mode saas only"),
            (r#"{"dimension":"d","quantity":1,"amount":1}"#, "unknown field"),
            ("[7]", "expected an event, an object with dimension and quantity"),
            (r#"{"dimension":"d"}"#, "missing field"),
            (r#"{"id":"","dimension":"d","quantity":1}"#, "id must"),
        ] {
            assert!(refusal(body).contains(part), "{body}: {}", refusal(body));
        }
    }

    #[test]
    fn customers_in_mode_saas() {
        let rules = Rules { customers: true, ..Rules::default() };
        let read = |customer: &str| {
            let body = format!(r#"{{"dimension":"d","quantity":1{customer}}}"#);
            read(body.as_bytes(), &rules, NOW).unwrap().remove(0).map(|event| event.customer)
        };
        for (text, customer) in [
            (r#","customer":{"identifier":"id"}"#, Customer::Identifier("id".into())),
            (
                r#","customer":{"account_id":"1","license_arn":"arn:x"}"#,
                Customer::Account { account_id: "1".into(), license_arn: Some("arn:x".into()) },
            ),
        ] {
            let found = read(text).unwrap();
            assert_eq!(Customer::from_canonical(&found.canonical()), Some(found.clone()));
            assert_eq!(found, customer);
        }
        for bad in ["", r#","customer":{}"#, r#","customer":{"account_id":"1","identifier":"x"}"#] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_repeat_is_the_same_content_and_a_change_is_not() {
        let content = |body: &str| metered(body).remove(0).unwrap().content;
        let first = content(r#"{"id":"a","dimension":"d","quantity":1}"#);
        assert_eq!(first, content(r#"{"id":"b", "quantity":"1.0", "dimension":"d"}"#));
        assert_ne!(first, content(r#"{"id":"a","dimension":"d","quantity":2}"#));
        assert_ne!(first, content(r#"{"id":"a","dimension":"d","quantity":1,"tags":{"t":"1"}}"#));
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes, &Rules::default(), NOW);
        }
    }
}
