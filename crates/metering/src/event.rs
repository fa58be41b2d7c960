//! One report of usage, as an application sends it. Pure: bytes in, events and rejections out.
//!
//! ```json
//! {"id": "…", "dimension": "requests", "quantity": 12.5, "timestamp": "2026-11-24T08:00:00Z",
//!  "tags": {"team": "a"}, "customer": {"account_id": "111122223333", "license_arn": "arn:…"}}
//! ```
//!
//! A quantity is read from its text, whether number or string. A wrong event does not affect the others of its request,
//! unless the seller sets `strict_usage`.

mod form;

use std::collections::BTreeMap;
use std::time::Duration;

use ring::digest;
use serde_json::value::RawValue;

use super::aggregation::{self, Aggregation, Scale};
use form::{CustomerDocument, Document, Named, Tags};
use tollgate_marketplace::{
    AHEAD_MAX, Amount, Customer, DIMENSION_CHARS_MAX, Invalid, Quantity, TagSet, customer,
};
use tollgate_time::Timestamp;

pub use form::split;

/// Most events of one request; with the limit of the body, this limits the memory that one client can use.
pub const EVENTS_MAX: usize = 1000;

/// Longest idempotency key; a UUID has 36 characters, a composed key more.
pub const ID_BYTES_MAX: usize = 128;

/// The highest age of an event: AWS's windows accept no older usage.
pub const AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// The highest age of an event with this window: the `id` of an accepted event must still be remembered when the
/// event is repeated.
#[must_use]
pub fn age_max(idempotency_window: Duration) -> Duration {
    AGE_MAX.min(idempotency_window / 2)
}

/// A valid event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The application's idempotency key.
    pub id: Option<String>,
    /// The dimension.
    pub dimension: String,
    /// The quantity, in the event's own unit.
    pub quantity: Amount,
    /// The time of the usage; the current time if the application gives none.
    pub at: Timestamp,
    /// For the buyer's cost reports.
    pub tags: TagSet,
    /// The customer.
    pub customer: Customer,
    /// A hash of the event without its key; a repetition of the key must have the same.
    pub content: [u8; 32],
}

/// Why an event is rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct RejectedEvent {
    /// The member that is wrong: `form` (the event cannot be read), `id`, `dimension`, `quantity`, `timestamp`,
    /// `tags` or `customer`. Callers add `conflict` (the `id` was used for other content), and use `customer` where the
    /// hour counts the account in another form or its license has ended.
    pub reason: &'static str,
    /// The event's dimension, if the name could be one of AWS's.
    pub dimension: Option<String>,
    /// The text for the application.
    pub text: String,
}

impl RejectedEvent {
    fn new(reason: &'static str, text: impl Into<String>) -> Self {
        Self { reason, dimension: None, text: text.into() }
    }
}

/// One event of a request: valid, or rejected, with its key.
pub type Read = Result<Event, (Option<String>, RejectedEvent)>;

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

/// The seller's rules.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The only accepted dimensions, if any are configured.
    pub dimensions: Option<Vec<String>>,
    /// How each dimension is metered.
    pub aggregation: aggregation::Rules,
    /// Whether events must name a customer (mode `saas`); in other modes they must not.
    pub customers: bool,
    /// The dimension whose reports of 0 keep the gate open; usage in it would contradict them.
    pub entitlement_dimension: Option<String>,
    /// Whether a request is rejected as a whole if one of its events is (`strict_usage`).
    pub strict: bool,
    /// Older events are rejected ([`age_max`]).
    pub age_max: Duration,
    /// The dimensions that are counted by the time of the open gate (`heartbeat`), and not by events.
    pub heartbeats: Vec<String>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            dimensions: None,
            aggregation: aggregation::Rules::default(),
            customers: false,
            entitlement_dimension: None,
            strict: false,
            age_max: AGE_MAX,
            heartbeats: Vec::new(),
        }
    }
}

impl Rules {
    /// Whether usage of this dimension is reported: not where it is counted by time. A dead letter may be counted there
    /// all the same.
    pub fn takes_events(&self, dimension: &str) -> Result<(), RejectedEvent> {
        if self.heartbeats.iter().any(|one| one == dimension) {
            let text = "dimension has a heartbeat: tollgate counts the time of its open gate, and takes no other usage of it";
            return Err(RejectedEvent::new("dimension", text));
        }
        Ok(())
    }

    /// Whether usage may be counted to a dimension of this name.
    pub fn dimension(&self, name: &str) -> Result<(), RejectedEvent> {
        let reject = |text: &str| Err(RejectedEvent::new("dimension", text));
        if !is_dimension(name) {
            return reject("dimension must have 1 to 255 characters, and no NUL among them");
        }
        if let Some(allowed) =
            self.dimensions.as_ref().filter(|allowed| !allowed.iter().any(|one| one == name))
        {
            return Err(RejectedEvent::new("dimension", not_configured(name, allowed)));
        }
        if self.entitlement_dimension.as_deref() == Some(name) {
            return reject("dimension is the entitlement_dimension, which takes no usage");
        }
        Ok(())
    }
}

/// Names the wrong dimension and the configured ones: only the first few, each shortened, since the text is in the
/// answer for every such event.
fn not_configured(name: &str, allowed: &[String]) -> String {
    const NAMES_SHOWN_MAX: usize = 8;
    const CHARS_SHOWN_MAX: usize = 64;
    let shown = |name: &str| {
        let short: String = name.chars().take(CHARS_SHOWN_MAX).collect();
        format!("{short:?}")
    };
    let names: Vec<String> = allowed.iter().take(NAMES_SHOWN_MAX).map(|name| shown(name)).collect();
    let more = match allowed.len().saturating_sub(NAMES_SHOWN_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        "dimension {} is not one of those that the seller configured (dimensions): {}{more}",
        shown(name),
        names.join(", ")
    )
}

/// Reads a request's body.
pub fn read(body: &[u8], rules: &Rules, now: Timestamp) -> Result<Vec<Read>, BadRequest> {
    Ok(split(body)?.into_iter().map(|item| read_one(item, rules, now)).collect())
}

/// Reads one event of those that [`split`] found.
pub fn read_one(text: &RawValue, rules: &Rules, now: Timestamp) -> Read {
    let mut document: Document<'_> = serde_json::from_str(text.get()).map_err(|error| {
        let Named { id, dimension } = named(text);
        (id, RejectedEvent { dimension, ..RejectedEvent::new("form", error.to_string()) })
    })?;
    let checked = check(&mut document, rules, now);
    let Document { id, dimension, .. } = document;
    match checked {
        Ok(Checked { quantity, at, tags, customer, content }) => {
            Ok(Event { id, dimension, quantity, at, tags, customer, content })
        }
        Err(rejected) => Err((
            id,
            RejectedEvent { dimension: Some(dimension).filter(|name| is_dimension(name)), ..rejected },
        )),
    }
}

/// The key and dimension of an event that cannot be read as a whole, for its rejection.
fn named(text: &RawValue) -> Named {
    let named: Named = serde_json::from_str(text.get()).unwrap_or_default();
    Named {
        id: named.id.filter(|id| is_id(id)),
        dimension: named.dimension.filter(|name| is_dimension(name)),
    }
}

fn is_id(id: &str) -> bool {
    (1..=ID_BYTES_MAX).contains(&id.len())
}

/// PostgreSQL stores no NUL: one such name would fail the whole group of events.
fn is_dimension(dimension: &str) -> bool {
    !dimension.is_empty() && dimension.chars().nth(DIMENSION_CHARS_MAX).is_none() && !dimension.contains('\0')
}

/// The checked members of an event, without key and dimension.
struct Checked {
    quantity: Amount,
    at: Timestamp,
    tags: TagSet,
    customer: Customer,
    content: [u8; 32],
}

/// Checks an event; takes tags and customer out of it.
fn check(document: &mut Document<'_>, rules: &Rules, now: Timestamp) -> Result<Checked, RejectedEvent> {
    rules.takes_events(&document.dimension)?;
    let reject = |reason, text: &str| Err(RejectedEvent::new(reason, text));
    if document.id.as_ref().is_some_and(|id| !is_id(id)) {
        return reject("id", "id must have 1 to 128 bytes");
    }
    rules.dimension(&document.dimension)?;
    let rule = rules.aggregation.of(&document.dimension);
    let quantity = quantity(document.quantity.get(), rule.scale)
        .map_err(|error| RejectedEvent::new("quantity", format!("quantity {error}")))?;
    let said = match document.timestamp.as_deref().map(Timestamp::parse) {
        None => None,
        Some(None) => {
            return reject("timestamp", "timestamp must be RFC 3339, such as 2026-11-24T08:00:00Z");
        }
        Some(Some(at)) if at < now.minus(rules.age_max) => {
            let hours = rules.age_max.as_secs_f64() / 3600.0;
            return reject("timestamp", &format!("timestamp is more than {hours} hours old"));
        }
        Some(Some(at)) if at > now.plus(AHEAD_MAX) => {
            return reject("timestamp", "timestamp is more than 5 minutes ahead");
        }
        Some(at) => at,
    };
    let Tags(tags) = document.tags.take().unwrap_or_default();
    if rule.aggregation == Aggregation::Max && !tags.is_empty() {
        return reject(
            "tags",
            "tags cannot be counted here: of this dimension the largest value of an hour counts (aggregation = \"max\"), \
             which has no parts; report it without tags",
        );
    }
    let content = content(&document.dimension, quantity, said, &tags, document.customer.as_ref());
    let customer = customer(document.customer.take(), rules)?;
    let tags = TagSet::try_from(tags).map_err(|error| RejectedEvent::new("tags", format!("tags {error}")))?;
    Ok(Checked { quantity, at: said.unwrap_or(now), tags, customer, content })
}

/// Reads a quantity. If the event's own unit is the dimension's, one event is limited to what AWS takes in one report.
fn quantity(text: &str, scale: Scale) -> Result<Amount, Invalid> {
    let string = text.strip_prefix('"').map(|string| string.trim_end_matches('"'));
    if scale == Scale::ONE {
        let quantity = string.map_or_else(|| Quantity::from_json_number(text), str::parse)?;
        return Ok(quantity.into());
    }
    string.map_or_else(|| Amount::from_json_number(text), str::parse)
}

fn customer(document: Option<CustomerDocument>, rules: &Rules) -> Result<Customer, RejectedEvent> {
    let reject = |text: &str| Err(RejectedEvent::new("customer", text));
    let Some(document) = document else {
        return if rules.customers { reject("customer is required in mode saas") } else { Ok(Customer::Own) };
    };
    if !rules.customers {
        return reject(
            "customer is for mode saas only: this pod's usage belongs to the account that runs it",
        );
    }
    match (document.account_id, document.license_arn, document.identifier) {
        (Some(account_id), license_arn, None) => {
            if !customer::is_account_number(&account_id) {
                return reject(
                    "customer.account_id must be the 12 digits of an AWS account, as a string with its leading zeros",
                );
            }
            if license_arn.as_deref().is_some_and(|arn| !customer::is_license_arn(arn)) {
                return reject("customer.license_arn must be a LicenseArn, as ResolveCustomer returns it");
            }
            Ok(Customer::Account { account_id, license_arn })
        }
        (None, None, Some(identifier)) => {
            if !customer::is_identifier(&identifier) {
                return reject("customer.identifier must have 1 to 255 characters, and no NUL among them");
            }
            Ok(Customer::Identifier(identifier))
        }
        _ => reject("customer needs account_id (with license_arn), or identifier alone"),
    }
}

/// The hash by which a repetition is compared. It includes the time only if the application gave one, because a
/// repetition without one comes later. Two notations of the same instant are equal.
fn content(
    dimension: &str,
    quantity: Amount,
    said: Option<Timestamp>,
    tags: &BTreeMap<String, String>,
    customer: Option<&CustomerDocument>,
) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    let customer = customer.map(|c| (&c.account_id, &c.license_arn, &c.identifier));
    let parts = (dimension, quantity.micros(), said.map(instant), tags, customer);
    let text = serde_json::to_string(&parts).expect("strings, numbers and maps of strings are JSON");
    context.update(text.as_bytes());
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

/// The shortest text of an instant in UTC: the form that most applications write, so that hashes of version 0.1.0,
/// which hashed the application's text, stay the same for them.
fn instant(at: Timestamp) -> String {
    let text = at.to_string();
    match at.unix_millis().rem_euclid(1000) {
        0 => text,
        millis => {
            let fraction = format!("{millis:03}");
            format!("{}.{}Z", text.trim_end_matches('Z'), fraction.trim_end_matches('0'))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_795_507_200);

    fn metered(body: &str) -> Vec<Read> {
        read(body.as_bytes(), &Rules::default(), NOW).unwrap()
    }

    #[test]
    fn a_dimension_with_a_heartbeat_takes_no_event_but_a_dead_letter() {
        let rules = Rules { heartbeats: vec!["node_hours".to_owned()], ..Rules::default() };
        let body = br#"[{"dimension":"node_hours","quantity":1},{"dimension":"requests","quantity":1}]"#;
        let events = read(body, &rules, NOW).unwrap();
        let (_, rejected) = events[0].as_ref().unwrap_err();
        assert_eq!((rejected.reason, rejected.dimension.as_deref()), ("dimension", Some("node_hours")));
        assert!(rejected.text.starts_with("dimension has a heartbeat: "), "{rejected}");
        assert!(events[1].is_ok() && rules.dimension("node_hours").is_ok());
    }

    fn refusal(body: &str) -> String {
        match metered(body).remove(0) {
            Ok(event) => panic!("{event:?}"),
            Err((_, rejected)) => rejected.text,
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
        // The nearest double is another number.
        assert_eq!(quantity("9007199254.740993").unwrap().quantity.to_string(), "9007199254.740993");
        assert_eq!(quantity("\"0.1\"").unwrap().quantity.micros(), 100_000);
        assert_eq!(quantity("5e-05").unwrap().quantity.micros(), 50);
        assert_eq!(quantity("1E3").unwrap().quantity.to_string(), "1000");
        for bad in [
            "-1",
            "\"1e3\"",
            "1e-7",
            "1.0000001",
            "null",
            "true",
            "[1]",
            "\"\"",
            "\" 1\"",
            "NaN",
            "\"\\u0031\"",
        ] {
            let read =
                read(format!(r#"{{"dimension":"d","quantity":{bad}}}"#).as_bytes(), &Rules::default(), NOW);
            assert!(read.is_err() || read.unwrap()[0].is_err(), "{bad}");
        }
    }

    #[test]
    fn a_dimensions_rule_decides_what_an_event_may_count() {
        let rules = [("bytes", "sum 1000000000 none"), ("seats", "max 1 up:0")];
        let aggregation =
            rules.map(|(name, rule)| (name.to_owned(), rule.parse().unwrap())).into_iter().collect();
        let rules = Rules { aggregation, ..Rules::default() };
        let read = |dimension: &str, rest: &str| {
            let body = format!(r#"{{"dimension":"{dimension}","quantity":{rest}}}"#);
            read(body.as_bytes(), &rules, NOW).unwrap().remove(0).map_err(|(_, rejected)| rejected)
        };
        assert_eq!(read("bytes", "1e20").unwrap().quantity, Amount::MAX);
        assert_eq!(
            read("bytes", "\"10000000000.000001\"").unwrap().quantity.micros(),
            10_000_000_000_000_001
        );
        assert!(read("bytes", "1e21").unwrap_err().text.contains("the most of one event"));
        assert!(read("seats", "10000000000").unwrap_err().text.contains("AWS takes in one report"));
        assert!(read("other", "10000000000").unwrap_err().text.contains("AWS takes in one report"));
        let tagged = read("seats", r#"1,"tags":{"team":"a"}"#).unwrap_err();
        assert_eq!(tagged.reason, "tags");
        assert!(tagged.text.contains("the largest value of an hour"), "{tagged}");
        assert!(read("seats", r#"1,"tags":{}"#).is_ok(), "no tag is none");
        assert!(read("bytes", r#"1,"tags":{"team":"a"}"#).is_ok());
    }

    #[test]
    fn refusals_name_the_event_and_the_reason() {
        let (id, rejected) = metered(r#"{"id":"x","dimension":"d","quantity":-1}"#).remove(0).unwrap_err();
        assert_eq!(id.as_deref(), Some("x"));
        assert!(rejected.text.starts_with("quantity must be"), "{rejected}");
        assert_eq!((rejected.reason, rejected.dimension.as_deref()), ("quantity", Some("d")));
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
            (r#"{"dimension":"a\u0000b","quantity":1}"#, "no NUL"),
        ] {
            assert!(refusal(body).contains(part), "{body}: {}", refusal(body));
        }
    }

    #[test]
    fn a_dimension_that_is_not_configured_is_named_beside_the_others() {
        let rules = |names: usize| Rules {
            dimensions: Some((0..names).map(|n| format!("d{n}")).collect()),
            ..Rules::default()
        };
        assert_eq!(
            rules(2).dimension("reqests").unwrap_err().text,
            "dimension \"reqests\" is not one of those that the seller configured (dimensions): \"d0\", \"d1\""
        );
        let long = rules(200).dimension(&"x".repeat(255)).unwrap_err().text;
        assert!(long.ends_with("\"d7\" and 192 more") && long.len() < 300, "{long}");
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
                r#","customer":{"account_id":"111122223333","license_arn":"arn:aws:lm::1:l"}"#,
                Customer::Account {
                    account_id: "111122223333".into(),
                    license_arn: Some("arn:aws:lm::1:l".into()),
                },
            ),
        ] {
            let found = read(text).unwrap();
            assert_eq!(Customer::from_canonical(&found.canonical()), Some(found.clone()));
            assert_eq!(found, customer);
        }
        for bad in [
            "",
            r#","customer":{}"#,
            r#","customer":{"account_id":"111122223333","identifier":"x"}"#,
            r#","customer":{"account_id":"11122223333"}"#,
            r#","customer":{"identifier":"a\u0000b"}"#,
        ] {
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

    #[test]
    fn an_optional_member_that_is_null_is_absent() {
        let content = |body: &str| metered(body).remove(0).unwrap();
        let plain = content(r#"{"dimension":"d","quantity":1}"#);
        for member in ["id", "timestamp", "tags", "customer"] {
            let body = format!(r#"{{"dimension":"d","quantity":1,"{member}":null}}"#);
            assert_eq!(content(&body), plain, "{member}");
        }
        let rules = Rules { customers: true, ..Rules::default() };
        for customer in [
            r#"{"account_id":"111122223333","license_arn":null,"identifier":null}"#,
            r#"{"account_id":null,"license_arn":null,"identifier":"i"}"#,
        ] {
            let body = format!(r#"{{"dimension":"d","quantity":1,"customer":{customer}}}"#);
            assert!(read(body.as_bytes(), &rules, NOW).unwrap()[0].is_ok(), "{customer}");
        }
        for required in [r#"{"dimension":null,"quantity":1}"#, r#"{"dimension":"d","quantity":null}"#] {
            assert!(metered(required)[0].is_err(), "{required}");
        }
    }

    #[test]
    fn one_instant_is_one_content_however_it_is_written() {
        let content = |time: &str| {
            let body = format!(r#"{{"dimension":"d","quantity":1,"timestamp":"{time}"}}"#);
            metered(&body).remove(0).unwrap().content
        };
        let first = content("2026-11-24T08:00:00Z");
        for same in ["2026-11-24T08:00:00+00:00", "2026-11-24T09:30:00+01:30", "2026-11-24T08:00:00.000Z"] {
            assert_eq!(content(same), first, "{same}");
        }
        assert_ne!(content("2026-11-24T08:00:01Z"), first);
        assert_ne!(content("2026-11-24T08:00:00.5Z"), first);
        assert_eq!(content("2026-11-24T08:00:00.500Z"), content("2026-11-24T10:00:00.5+02:00"));
        // An event without a time differs from one with a time.
        assert_ne!(metered(r#"{"dimension":"d","quantity":1}"#).remove(0).unwrap().content, first);
        for (millis, text) in [(0, "1970-01-01T00:00:00Z"), (50, "1970-01-01T00:00:00.05Z")] {
            assert_eq!(instant(Timestamp::from_unix_millis(millis)), text);
        }
    }

    #[test]
    fn what_is_said_twice_is_refused() {
        for (body, part) in [
            (r#"{"dimension":"d","quantity":1,"tags":{"team":"a","team":"b"}}"#, "a tag key is given twice"),
            (
                r#"{"dimension":"d","quantity":1,"tags":{"team":"a","\u0074eam":"a"}}"#,
                "a tag key is given twice",
            ),
            (r#"{"dimension":"d","quantity":1,"quantity":2}"#, "duplicate field"),
            (r#"{"id":"a","id":"a","dimension":"d","quantity":1}"#, "duplicate field"),
        ] {
            assert!(refusal(body).contains(part), "{body}: {}", refusal(body));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes, &Rules::default(), NOW);
        }
    }
}
