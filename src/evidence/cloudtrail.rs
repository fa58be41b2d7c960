//! Reads CloudTrail's documents event by event: an export of months need not fit into memory.

use std::fmt;
use std::io::Read;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::{Evidence, Report, text};
use tollgate_marketplace::{Customer, Quantity};
use tollgate_time::Timestamp;

/// Why a file is not read to its end.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// It is JSON, and none of CloudTrail's documents.
    #[error("has no events of CloudTrail: {0}")]
    NoEvents(serde_json::Error),
    /// It is no JSON.
    #[error("is not JSON: {0}")]
    NotJson(serde_json::Error),
    /// The system's error.
    #[error("{0}")]
    Io(serde_json::Error),
}

impl From<serde_json::Error> for Unreadable {
    fn from(error: serde_json::Error) -> Self {
        match () {
            () if error.is_io() => Self::Io(error),
            () if error.is_data() => Self::NoEvents(error),
            () => Self::NotJson(error),
        }
    }
}

/// Adds documents that follow each other, as `gunzip -c` of several files writes them. Each is a log file or a download
/// of the console (`Records`), the answer of `lookup-events` (`Events`, each with its event as text), a list of events,
/// or one event. Other services' events only extend the covered time.
pub fn read(evidence: &mut Evidence, from: impl Read) -> Result<(), Unreadable> {
    let mut documents = serde_json::Deserializer::from_reader(from);
    loop {
        match documents.end() {
            Ok(()) => return Ok(()),
            Err(error) if error.is_io() => return Err(error.into()),
            // Something follows.
            Err(_) => Document(&mut *evidence).deserialize(&mut documents)?,
        }
    }
}

struct Document<'a>(&'a mut Evidence);

impl<'de> DeserializeSeed<'de> for Document<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Document<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a document of CloudTrail")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, events: A) -> Result<(), A::Error> {
        Events(self.0).visit_seq(events)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let (mut event, mut listed) = (Map::new(), false);
        while let Some(name) = members.next_key::<String>()? {
            if name == "Records" || name == "Events" {
                listed = true;
                members.next_value_seed(Events(&mut *self.0))?;
            } else {
                event.insert(name, members.next_value()?);
            }
        }
        if listed { Ok(()) } else { add(self.0, &Value::Object(event)).ok_or_else(no_event) }
    }
}

struct Events<'a>(&'a mut Evidence);

impl<'de> DeserializeSeed<'de> for Events<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Events<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut events: A) -> Result<(), A::Error> {
        while let Some(event) = events.next_element::<Value>()? {
            add(self.0, &event).ok_or_else(no_event)?;
        }
        Ok(())
    }
}

fn no_event<E: serde::de::Error>() -> E {
    E::custom("an event has no eventTime or no awsRegion")
}

/// Adds an event, or the one in the text of `lookup-events`. `None` if it is none.
fn add(evidence: &mut Evidence, event: &Value) -> Option<()> {
    match event["CloudTrailEvent"].as_str() {
        Some(text) => add_event(evidence, &serde_json::from_str(text).ok()?),
        None => add_event(evidence, event),
    }
}

fn add_event(evidence: &mut Evidence, event: &Value) -> Option<()> {
    let at = event["eventTime"].as_str().and_then(Timestamp::parse)?;
    let region = text(event, "awsRegion")?;
    let (first, last) = evidence.covered.entry(region.clone()).or_insert((at, at));
    (*first, *last) = ((*first).min(at), (*last).max(at));
    if event["eventSource"] != "metering-marketplace.amazonaws.com" || !event["errorCode"].is_null() {
        return Some(());
    }
    let reports = match event["eventName"].as_str() {
        Some("BatchMeterUsage") => batch(event),
        Some("MeterUsage") => pod(event).map(|report| vec![report]),
        _ => Some(Vec::new()),
    };
    let source = text(event, "eventID").unwrap_or_else(|| at.to_string());
    match reports {
        Some(reports) => reports.into_iter().for_each(|report| {
            evidence.keep(Report { region: Some(region.clone()), source: source.clone(), ..report });
        }),
        None => evidence.unreadable.push((region, at)),
    }
    Some(())
}

/// The successful reports of a call; `None` if they are not shown.
fn batch(event: &Value) -> Option<Vec<Report>> {
    let product_code = text(&event["requestParameters"], "productCode");
    let results = event["responseElements"]["results"].as_array()?;
    let successful = results.iter().filter(|result| result["status"] == "Success");
    let reports = successful.map(|result| {
        let record = &result["usageRecord"];
        Some(Report {
            identifier: text(record, "customerIdentifier"),
            product_code: product_code.clone(),
            metering_record_id: text(result, "meteringRecordId"),
            ..report(record, "dimension", "quantity", customer(record))?
        })
    });
    reports.collect()
}

/// A pod's report; `None` if it is not shown.
fn pod(event: &Value) -> Option<Report> {
    let request = &event["requestParameters"];
    Some(Report {
        product_code: text(request, "productCode"),
        client_token: text(request, "clientToken"),
        metering_record_id: text(&event["responseElements"], "meteringRecordId"),
        ..report(request, "usageDimension", "usageQuantity", Some(Customer::Own))?
    })
}

/// A report, from the members that CloudTrail and the emulator's bill have in common.
pub(super) fn report(
    record: &Value,
    dimension: &str,
    quantity: &str,
    customer: Option<Customer>,
) -> Option<Report> {
    Some(Report {
        region: None,
        customer: customer?,
        identifier: None,
        product_code: None,
        dimension: text(record, dimension)?,
        timestamp: time(&record["timestamp"])?,
        quantity: amount(record, quantity)?,
        client_token: None,
        metering_record_id: None,
        source: String::new(),
    })
}

/// CloudTrail writes AWS's members with a small first letter.
fn customer(record: &Value) -> Option<Customer> {
    let account = text(record, "customerAWSAccountId").or_else(|| text(record, "customerAWSAccountID"));
    let license_arn = text(record, "licenseArn");
    match (account, text(record, "customerIdentifier")) {
        (Some(account_id), _) => Some(Customer::Account { account_id, license_arn }),
        (None, identifier) => identifier.map(Customer::Identifier),
    }
}

/// A whole number, or a decimal text.
fn amount(record: &Value, name: &str) -> Option<Quantity> {
    let decimal = format!("decimal{}{}", name[..1].to_uppercase(), &name[1..]);
    [name, decimal.as_str()].iter().find_map(|name| match &record[*name] {
        Value::Number(number) => number.to_string().parse().ok(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    })
}

/// A time as CloudTrail writes it (`Apr 19, 2018 4:32:50 PM`), in RFC 3339, or in seconds.
pub(super) fn time(value: &Value) -> Option<Timestamp> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    if let Some(seconds) = value.as_i64() {
        return Some(Timestamp::from_unix_seconds(seconds));
    }
    let text = value.as_str()?;
    if let Some(at) = Timestamp::parse(text) {
        return Some(at);
    }
    let parts: Vec<&str> =
        text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|part| !part.is_empty()).collect();
    let [month, day, year, hour, minute, second, half] = parts[..] else { return None };
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    let hour: u32 = hour.parse().ok().filter(|hour| (1..=12).contains(hour))?;
    let hour = hour % 12 + if half == "PM" { 12 } else { 0 };
    let (day, minute, second): (u32, u32, u32) =
        (day.parse().ok()?, minute.parse().ok()?, second.parse().ok()?);
    Timestamp::parse(&format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"))
}
