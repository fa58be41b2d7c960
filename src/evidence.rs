//! Decides by AWS's own log of calls whether records in doubt, or unconfirmed ones, were billed: CloudTrail's events of
//! the metering service, or the emulator's bill. Pure.
//!
//! A record is billed if a successful report has its customer, dimension, hour and quantity. It is certainly not there
//! only if the log covers the whole time in which it was sent. Nothing else is concluded.

use serde_json::Value;

use tollgate_marketplace::{Customer, Hour, Quantity};
use tollgate_time::Timestamp;

/// How late CloudTrail delivers an event, in seconds: about 15 minutes (CloudTrail user guide), and as much again.
const DELIVERY_SECONDS: u64 = 1800;

/// What a log says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Successful reports.
    pub reports: Vec<Report>,
    /// The time of the first and of the last event; `None` for a log without events.
    pub covered: Option<(Timestamp, Timestamp)>,
    /// The log is complete at any time.
    pub complete: bool,
}

/// A successful report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Whose usage.
    pub customer: Customer,
    /// The product, unless the license names it.
    pub product_code: Option<String>,
    /// The dimension.
    pub dimension: String,
    /// The time in the report.
    pub timestamp: Timestamp,
    /// How much.
    pub quantity: Quantity,
    /// The client token, for a report of a pod.
    pub client_token: Option<String>,
    /// AWS's id of the record.
    pub metering_record_id: Option<String>,
    /// Where it was found: CloudTrail's id of the event.
    pub source: String,
}

/// What the ledger knows about a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubt {
    /// Its number.
    pub id: i64,
    /// Whose usage.
    pub customer: Customer,
    /// The dimension.
    pub dimension: String,
    /// The time in the report.
    pub timestamp: Timestamp,
    /// How much.
    pub quantity: Quantity,
    /// Its client token.
    pub client_token: String,
    /// When it may have been sent first and last.
    pub sent: (Timestamp, Timestamp),
}

/// What follows for a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// AWS accepted it.
    Billed(Report),
    /// AWS holds another value for its hour.
    OtherValue(Report),
    /// The log covers the time of its attempts, and has no report of it.
    NotThere,
    /// The log does not cover the time of its attempts.
    NotCovered,
    /// Reports of pods without a client token cannot be told apart.
    Indistinct(Report),
}

impl Verdict {
    /// Its name in the table.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Billed(_) => "billed",
            Self::OtherValue(_) => "other_value",
            Self::NotThere => "not_there",
            Self::NotCovered => "not_covered",
            Self::Indistinct(_) => "indistinct",
        }
    }

    /// The report that it is about.
    #[must_use]
    pub const fn report(&self) -> Option<&Report> {
        match self {
            Self::Billed(report) | Self::OtherValue(report) | Self::Indistinct(report) => Some(report),
            Self::NotThere | Self::NotCovered => None,
        }
    }
}

impl Evidence {
    /// Adds a document of CloudTrail: a log file (`Records`), the answer of `lookup-events` (`Events`, each with its
    /// event as text), a list of events, or one event. Other services' events only extend the covered time. `None` if
    /// the document is none of these.
    #[must_use]
    pub fn add(&mut self, document: &Value) -> Option<()> {
        let events = match document {
            Value::Array(events) => events.as_slice(),
            Value::Object(members) => {
                match members.get("Records").or_else(|| members.get("Events")).map(Value::as_array) {
                    Some(events) => events?.as_slice(),
                    None if members.contains_key("eventName") || members.contains_key("CloudTrailEvent") => {
                        std::slice::from_ref(document)
                    }
                    None => return None,
                }
            }
            _ => return None,
        };
        events.iter().try_for_each(|event| match event["CloudTrailEvent"].as_str() {
            Some(text) => self.add_event(&serde_json::from_str(text).ok()?),
            None => self.add_event(event),
        })
    }

    fn add_event(&mut self, event: &Value) -> Option<()> {
        let at = event["eventTime"].as_str().and_then(Timestamp::parse)?;
        let (first, last) = self.covered.unwrap_or((at, at));
        self.covered = Some((first.min(at), last.max(at)));
        if event["eventSource"] != "metering-marketplace.amazonaws.com" || !event["errorCode"].is_null() {
            return Some(());
        }
        let request = &event["requestParameters"];
        let product_code = text(request, "productCode");
        let source = text(event, "eventID").unwrap_or_else(|| at.to_string());
        match event["eventName"].as_str() {
            Some("BatchMeterUsage") => {
                let results = event["responseElements"]["results"].as_array().map(Vec::as_slice);
                for result in
                    results.unwrap_or_default().iter().filter(|result| result["status"] == "Success")
                {
                    let record = &result["usageRecord"];
                    self.reports.extend(report(record, "dimension", "quantity", customer(record)).map(
                        |report| Report {
                            product_code: product_code.clone(),
                            metering_record_id: text(result, "meteringRecordId"),
                            source: source.clone(),
                            ..report
                        },
                    ));
                }
            }
            Some("MeterUsage") => {
                let found = report(request, "usageDimension", "usageQuantity", Some(Customer::Own));
                self.reports.extend(found.map(|report| Report {
                    product_code,
                    client_token: text(request, "clientToken"),
                    metering_record_id: text(&event["responseElements"], "meteringRecordId"),
                    source,
                    ..report
                }));
            }
            _ => {}
        }
        Some(())
    }

    /// The emulator's bill (`GET /_emulator/ledger`), which has every report that it accepted.
    #[must_use]
    pub fn of_emulator(bill: &Value) -> Option<Self> {
        let rows = bill["records"].as_array()?;
        let reports = rows.iter().filter_map(|row| {
            let own = row["operation"] == "MeterUsage";
            let license_arn = text(row, "license_arn");
            let account_id = text(row, "account_id")?;
            let customer = if own { Customer::Own } else { Customer::Account { account_id, license_arn } };
            let report = report(row, "dimension", "quantity", Some(customer))?;
            let metering_record_id = text(row, "metering_record_id");
            let source = metering_record_id.clone().unwrap_or_default();
            Some(Report { product_code: text(row, "product_code"), metering_record_id, source, ..report })
        });
        Some(Self { reports: reports.collect(), covered: None, complete: true })
    }

    /// What follows for a record of this product.
    #[must_use]
    pub fn judge(&self, doubt: &Doubt, product_code: &str) -> Verdict {
        let hour = Hour::of(doubt.timestamp);
        let of_hour = |report: &&Report| {
            report.customer == doubt.customer
                && report.product_code.as_deref().is_none_or(|code| code == product_code)
                && report.dimension == doubt.dimension
                && Hour::of(report.timestamp) == hour
        };
        let is_own = |report: &Report| report.client_token.as_ref() == Some(&doubt.client_token);
        let pods = doubt.customer == Customer::Own;
        let found: Vec<&Report> = self.reports.iter().filter(of_hour).collect();
        let same = |report: &&&Report| report.quantity == doubt.quantity && (!pods || is_own(report));
        if let Some(report) = found.iter().find(same) {
            return Verdict::Billed((*report).clone());
        }
        // AWS takes one value for each pod: without a token it may be another pod's.
        let indistinct = |report: &&&Report| pods && report.client_token.is_none();
        if let Some(report) = found.iter().find(indistinct) {
            return Verdict::Indistinct((*report).clone());
        }
        match found.first() {
            Some(report) if !pods => Verdict::OtherValue((*report).clone()),
            _ if self.covers(doubt.sent) => Verdict::NotThere,
            _ => Verdict::NotCovered,
        }
    }

    /// Whether the log has events from before this time and from after it, with the time that delivery takes.
    fn covers(&self, (from, to): (Timestamp, Timestamp)) -> bool {
        let delivered = to.plus(std::time::Duration::from_secs(DELIVERY_SECONDS));
        self.complete || self.covered.is_some_and(|(first, last)| first <= from && delivered <= last)
    }
}

fn report(record: &Value, dimension: &str, quantity: &str, customer: Option<Customer>) -> Option<Report> {
    Some(Report {
        customer: customer?,
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

fn text(of: &Value, name: &str) -> Option<String> {
    of[name].as_str().map(str::to_owned)
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
fn time(value: &Value) -> Option<Timestamp> {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const START: &str = "2026-11-24T08:00:00Z";
    const ARN: &str = "arn:aws:license-manager::294406891311:license:l-1";

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    fn buyer() -> Customer {
        Customer::Account { account_id: "111122223333".to_owned(), license_arn: Some(ARN.to_owned()) }
    }

    fn doubt(customer: Customer, quantity: &str) -> Doubt {
        Doubt {
            id: 7,
            customer,
            dimension: "requests".to_owned(),
            timestamp: at("2026-11-24T08:10:00.123Z"),
            quantity: quantity.parse().unwrap(),
            client_token: "token-7".to_owned(),
            sent: (at("2026-11-24T09:02:00Z"), at("2026-11-24T09:05:00Z")),
        }
    }

    fn batch(time: &str, status: &str, quantity: impl Into<Value>) -> Value {
        let quantity: Value = quantity.into();
        let record = json!({
            "dimension": "requests", "timestamp": "Nov 24, 2026, 8:10:00\u{202f}AM", "quantity": quantity,
            "customerAWSAccountId": "111122223333", "licenseArn": ARN,
        });
        json!({
            "eventTime": time, "eventSource": "metering-marketplace.amazonaws.com", "eventName": "BatchMeterUsage",
            "eventID": "event-1", "awsRegion": "us-east-1", "requestParameters": {"usageRecords": [record]},
            "responseElements": {"results": [{"usageRecord": record, "status": status, "meteringRecordId": "m-1"}]},
        })
    }

    fn quiet(time: &str) -> Value {
        json!({"eventTime": time, "eventSource": "sts.amazonaws.com", "eventName": "AssumeRole"})
    }

    fn evidence(documents: &[Value]) -> Evidence {
        let mut evidence = Evidence::default();
        for document in documents {
            evidence.add(document).unwrap();
        }
        evidence
    }

    fn verdict(documents: &[Value], doubt: &Doubt) -> &'static str {
        evidence(documents).judge(doubt, "demo").as_str()
    }

    #[test]
    fn every_form_of_cloudtrails_events_is_read() {
        let event = batch("2026-11-24T09:03:00Z", "Success", 5);
        let as_text = json!({"EventId": "event-1", "CloudTrailEvent": event.to_string()});
        for document in [
            event.clone(),
            json!([event]),
            json!({"Records": [event]}),
            json!({"Events": [as_text]}),
            as_text.clone(),
        ] {
            let Verdict::Billed(report) =
                evidence(std::slice::from_ref(&document)).judge(&doubt(buyer(), "5"), "demo")
            else {
                panic!("{document}")
            };
            assert_eq!(
                (report.source.as_str(), report.metering_record_id.as_deref()),
                ("event-1", Some("m-1"))
            );
        }
        for document in [json!(3), json!({}), json!({"Records": 3}), json!([{"eventTime": "yesterday"}])] {
            assert_eq!(Evidence::default().add(&document), None, "{document}");
        }
    }

    #[test]
    fn only_what_the_log_shows_is_concluded() {
        let (five, six) = (doubt(buyer(), "5"), doubt(buyer(), "6"));
        let sent = "2026-11-24T09:03:00Z";
        let (before, after) = (quiet("2026-11-24T09:00:00Z"), quiet("2026-11-24T09:40:00Z"));
        let success = batch(sent, "Success", 5);
        assert_eq!(verdict(std::slice::from_ref(&success), &five), "billed");
        assert_eq!(verdict(&[batch(sent, "Success", "5.0")], &five), "billed");
        assert_eq!(verdict(std::slice::from_ref(&success), &six), "other_value");
        let refused = batch(sent, "CustomerNotSubscribed", 5);
        assert_eq!(verdict(&[before.clone(), refused, after.clone()], &five), "not_there");
        assert_eq!(verdict(&[before.clone(), after.clone()], &five), "not_there");
        assert_eq!(
            verdict(&[before.clone(), quiet("2026-11-24T09:10:00Z")], &five),
            "not_covered",
            "still under way"
        );
        assert_eq!(verdict(std::slice::from_ref(&after), &five), "not_covered");
        assert_eq!(verdict(&[], &five), "not_covered");
        // Another customer's, another hour's, another product's.
        let other = doubt(Customer::Identifier("111122223333".to_owned()), "5");
        assert_eq!(verdict(&[before.clone(), success.clone(), after.clone()], &other), "not_there");
        let mut late = five.clone();
        late.timestamp = at("2026-11-24T09:00:00Z");
        assert_eq!(verdict(std::slice::from_ref(&success), &late), "not_covered");
        let mut foreign = success;
        foreign["requestParameters"]["productCode"] = "other".into();
        assert_eq!(verdict(&[before, foreign, after], &five), "not_there");
    }

    #[test]
    fn a_failed_call_bills_nothing() {
        let mut failed = batch("2026-11-24T09:03:00Z", "Success", 5);
        failed["errorCode"] = "ThrottlingException".into();
        assert_eq!(verdict(&[failed], &doubt(buyer(), "5")), "not_covered");
    }

    #[test]
    fn a_pods_report_is_known_by_its_client_token_alone() {
        let report = |token: Option<&str>| {
            json!({
                "eventTime": "2026-11-24T09:03:00Z", "eventSource": "metering-marketplace.amazonaws.com", "eventName": "MeterUsage",
                "requestParameters": {"timestamp": "Nov 24, 2026 8:10:00 AM", "usageQuantity": 5, "usageDimension": "requests",
                    "productCode": "demo", "clientToken": token},
                "responseElements": {"meteringRecordId": "m-2"},
            })
        };
        let own = doubt(Customer::Own, "5");
        assert_eq!(verdict(&[report(Some("token-7"))], &own), "billed");
        assert_eq!(verdict(&[report(None)], &own), "indistinct");
        assert_eq!(verdict(&[report(Some("token-8"))], &own), "not_covered");
    }

    #[test]
    fn the_emulators_bill_is_complete() {
        let bill = json!({"records": [{
            "operation": "BatchMeterUsage", "product_code": "demo", "account_id": "111122223333", "license_arn": ARN,
            "dimension": "requests", "timestamp": "2026-11-24T08:10:00Z", "quantity": "5", "metering_record_id": "m-3",
        }]});
        let evidence = Evidence::of_emulator(&bill).unwrap();
        assert_eq!(evidence.judge(&doubt(buyer(), "5"), "demo").as_str(), "billed");
        assert_eq!(
            Evidence::of_emulator(&json!({"records": []})).unwrap().judge(&doubt(buyer(), "5"), "demo"),
            Verdict::NotThere
        );
        assert_eq!(Evidence::of_emulator(&json!({})), None);
    }

    #[test]
    fn times_are_read_as_cloudtrail_writes_them() {
        for (text, expected) in [
            (json!("Apr 19, 2018 4:32:50 PM"), Some("2018-04-19T16:32:50Z")),
            (json!("Jul 3, 2020, 12:05:44 AM"), Some("2020-07-03T00:05:44Z")),
            (json!("Jul 3, 2020, 12:05:44\u{202f}PM"), Some("2020-07-03T12:05:44Z")),
            (json!(START), Some(START)),
            (json!(1_795_507_200), Some(START)),
            (json!("Foo 3, 2020, 12:05:44 PM"), None),
            (json!("Jul 33, 2020, 12:05:44 PM"), None),
            (json!("Jul 3, 2020, 13:05:44 PM"), None),
            (json!(null), None),
        ] {
            assert_eq!(time(&text).map(|at| at.to_string()).as_deref(), expected, "{text}");
        }
    }
}
