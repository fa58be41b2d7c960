//! Bodies of calls: which product they name, and which hour a report claims.
//!
//! Members keep their text. A body with a member given twice is rejected: AWS might read the other value.

use std::collections::BTreeMap;

use hyper::StatusCode;
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Number, Value};

use super::{Code, RejectedCall};
use tollgate_ledger::Claim;
use tollgate_marketplace::{Allocation, HourUsage, NONCE_BYTES, Nonce, Quantity, TagSet};
use tollgate_receipt::json::Members;
use tollgate_time::Timestamp;

/// Our own answer to a call about a product that is not configured.
pub(super) const OTHER_PRODUCT: Code = Code::InvalidProductCodeException;

/// A report to send, and the claim that it makes.
#[derive(Debug)]
pub(super) struct Report {
    members: Members,
    pub(super) claim: Claim,
}

impl Report {
    /// Makes it a repeat of the earlier report, by that report's token and time.
    pub(super) fn repeat(&mut self, client_token: String, timestamp: Timestamp) {
        self.claim.client_token = client_token;
        self.claim.usage.timestamp = timestamp;
    }

    /// The body to send.
    pub(super) fn body(mut self) -> Vec<u8> {
        self.members.set("ClientToken", &self.claim.client_token.into());
        self.members.set("Timestamp", &seconds(self.claim.usage.timestamp));
        serde_json::to_vec(&self.members).expect("members are JSON")
    }
}

fn unreadable() -> RejectedCall {
    let text = "the body must be the operation's JSON object, each member given once";
    RejectedCall(StatusCode::BAD_REQUEST, Code::SerializationException, text)
}

/// Rejects a call that is, or might be, about another product: a sidecar forwards only calls about its own product.
pub(super) fn check_product(operation: &str, body: &[u8], product_code: &str) -> Result<(), RejectedCall> {
    #[derive(Deserialize)]
    struct ReportedRecord {
        #[serde(rename = "LicenseArn")]
        license_arn: Option<IgnoredAny>,
    }
    let members = Members::parse(body).ok_or_else(unreadable)?;
    let given: Option<String> = members.get("ProductCode").map_err(|_| unreadable())?;
    let ours = match (operation, given) {
        // The registration token itself identifies the product.
        ("ResolveCustomer", _) => true,
        (_, Some(given)) => given == product_code,
        // Under Concurrent Agreements the license names the product (service model, `BatchMeterUsageRequest`).
        ("BatchMeterUsage", None) => {
            let records: Vec<ReportedRecord> =
                members.get("UsageRecords").map_err(|_| unreadable())?.unwrap_or_default();
            records.iter().all(|record| record.license_arn.is_some())
        }
        (_, None) => false,
    };
    if ours {
        return Ok(());
    }
    let text = "the call is about another product; this sidecar serves the one in its product_code";
    Err(RejectedCall(StatusCode::BAD_REQUEST, OTHER_PRODUCT, text))
}

/// The report, with a `ClientToken`, and the claim that it makes; `None` for a dry run, and for a report that AWS will
/// refuse.
pub(super) fn read(bytes: &[u8]) -> Result<Option<Report>, RejectedCall> {
    let members = Members::parse(bytes).ok_or_else(unreadable)?;
    if members.raw("DryRun") == Some("true") {
        return Ok(None);
    }
    let client_token = match members.get("ClientToken") {
        Ok(Some(token)) => token,
        Ok(None) => new_token()?,
        Err(_) => return Ok(None),
    };
    let allocations = match members.get::<Vec<Part>>("UsageAllocations") {
        Ok(parts) => parts.unwrap_or_default(),
        Err(_) => return Err(unreadable()),
    };
    if allocations.iter().any(Part::repeats_a_tag) {
        let text = "a tag's key is given twice";
        return Err(RejectedCall(StatusCode::BAD_REQUEST, Code::InvalidTagException, text));
    }
    Ok(claim(&members, allocations, client_token).map(|claim| Report { members, claim }))
}

fn claim(members: &Members, parts: Vec<Part>, client_token: String) -> Option<Claim> {
    let (quantity, decimal) = quantity(
        members.get("UsageQuantity").ok()?,
        members.get::<String>("UsageQuantityAsDecimal").ok()?.as_deref(),
    )?;
    Some(Claim {
        dimension: members.get("UsageDimension").ok()??,
        usage: HourUsage {
            timestamp: timestamp(&members.get("Timestamp").ok()??)?,
            quantity,
            decimal,
            allocations: parts.into_iter().map(Part::allocation).collect::<Option<_>>()?,
        },
        client_token,
    })
}

/// One of `UsageAllocations`: a part of the quantity with its tags.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Part {
    allocated_usage_quantity: Option<Number>,
    allocated_usage_quantity_as_decimal: Option<String>,
    tags: Option<Vec<Tag>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Tag {
    key: Option<String>,
    value: Option<String>,
}

impl Part {
    fn repeats_a_tag(&self) -> bool {
        let keys: Vec<&str> = self.tags.iter().flatten().filter_map(|tag| tag.key.as_deref()).collect();
        keys.iter().collect::<std::collections::BTreeSet<_>>().len() < keys.len()
    }

    fn allocation(self) -> Option<Allocation> {
        let (quantity, _) =
            quantity(self.allocated_usage_quantity, self.allocated_usage_quantity_as_decimal.as_deref())?;
        let tags = self.tags.into_iter().flatten().map(|tag| Some((tag.key?, tag.value?)));
        let tags = tags.collect::<Option<BTreeMap<_, _>>>()?;
        Some(Allocation { tags: TagSet::try_from(tags).ok()?, quantity })
    }
}

/// As AWS reads it: an integer, a decimal, or nothing for 0 (service model, `MeterUsageRequest`).
fn quantity(whole: Option<Number>, decimal: Option<&str>) -> Option<(Quantity, bool)> {
    match (whole, decimal) {
        (None, None) => Some((Quantity::ZERO, false)),
        (Some(whole), None) => Some((whole_number(&whole)?, false)),
        (None, Some(decimal)) => Some((decimal.parse().ok()?, true)),
        (Some(_), Some(_)) => None,
    }
}

/// Reads `7`, and also `7.0`, which AWS might read as 7: a report that AWS might accept must not be sent without a
/// claim.
fn whole_number(number: &Number) -> Option<Quantity> {
    let text = number.to_string();
    text.strip_suffix(".0").unwrap_or(&text).parse().ok().filter(|quantity: &Quantity| quantity.is_whole())
}

/// Seconds since the epoch, with a fraction, as AWS JSON 1.1 writes a time; or RFC 3339, which some services read too.
fn timestamp(value: &Value) -> Option<Timestamp> {
    if let Some(seconds) = value.as_i64() {
        return Some(Timestamp::from_unix_seconds(seconds));
    }
    if let Some(text) = value.as_str() {
        return Timestamp::parse(text);
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a float beyond i64 saturates, and AWS refuses such a time"
    )]
    let millis = (value.as_f64()? * 1000.0).round() as i64;
    Some(Timestamp::from_unix_millis(millis))
}

/// The form that [`timestamp`] reads; whole seconds as an integer.
fn seconds(at: Timestamp) -> Value {
    if at.unix_millis().rem_euclid(1000) == 0 {
        return at.unix_seconds().into();
    }
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of our century are far below 2^52")]
    let seconds = at.unix_millis() as f64 / 1000.0;
    seconds.into()
}

fn new_token() -> Result<String, RejectedCall> {
    let mut bytes = [0; NONCE_BYTES];
    SystemRandom::new().fill(&mut bytes).map_err(|_| {
        let text = "no random bytes for a ClientToken";
        RejectedCall(StatusCode::SERVICE_UNAVAILABLE, Code::ServiceUnavailableException, text)
    })?;
    Ok(Nonce::from_random(bytes).as_str().to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn whatever_aws_might_take_claims_its_hour() {
        let report = |members: &str| format!(r#"{{"UsageDimension":"d","Timestamp":1795507200{members}}}"#);
        for (members, micros, decimal) in [
            ("", 0, false),
            (r#","UsageQuantity":7"#, 7_000_000, false),
            (r#","UsageQuantity":7.0"#, 7_000_000, false),
            (r#","UsageQuantity":null,"UsageQuantityAsDecimal":"0.5""#, 500_000, true),
            (
                r#","UsageQuantity":7,"DryRun":false,"ClientToken":null,"UsageAllocations":null"#,
                7_000_000,
                false,
            ),
            (
                r#","UsageQuantity":7,"UsageAllocations":[{"AllocatedUsageQuantity":7,"Tags":null}]"#,
                7_000_000,
                false,
            ),
        ] {
            let report = read(report(members).as_bytes()).unwrap().unwrap();
            let claim = report.claim.clone();
            assert_eq!((claim.usage.quantity.micros(), claim.usage.decimal), (micros, decimal), "{members}");
            let body: Value = serde_json::from_slice(&report.body()).unwrap();
            assert_eq!(body["ClientToken"], json!(claim.client_token), "added once, and sent");
            assert_eq!(body["Timestamp"], 1_795_507_200);
        }
        let times = [("1795507200.123", 123), ("1795507200.0", 0), (r#""2026-11-24T08:00:00.123Z""#, 123)];
        for (time, millis) in times {
            let report = format!(r#"{{"UsageDimension":"d","Timestamp":{time}}}"#);
            let at = read(report.as_bytes()).unwrap().unwrap().claim.usage.timestamp;
            assert_eq!(at.unix_millis() - 1_795_507_200_000, millis, "{time}");
            assert_eq!(timestamp(&seconds(at)), Some(at), "sent as it is kept");
        }
        assert_eq!(seconds(Timestamp::from_unix_seconds(1)).to_string(), "1");
    }

    #[test]
    fn what_is_passed_on_keeps_its_text() {
        let text = r#"{"ClientToken":"own","Timestamp":1,"UsageAllocations":[{"AllocatedUsageQuantity" : 1}],"UsageDimension":"d","X":0.10}"#;
        let report = read(text.as_bytes()).unwrap().unwrap();
        assert_eq!(String::from_utf8(report.body()).unwrap(), text);
    }

    #[test]
    fn dry_runs_and_what_aws_refuses_claim_nothing() {
        for report in [
            r#"{"UsageDimension":"d","Timestamp":1795507200,"UsageQuantity":7,"DryRun":true}"#,
            r#"{"UsageDimension":"d","Timestamp":1795507200,"UsageQuantity":-7}"#,
            r#"{"UsageDimension":"d","Timestamp":1795507200,"UsageQuantity":7.5}"#,
            r#"{"UsageDimension":"d","Timestamp":1795507200,"UsageQuantity":1e300}"#,
            r#"{"UsageDimension":"d","Timestamp":1795507200,"UsageQuantity":7,"UsageQuantityAsDecimal":"7"}"#,
            r#"{"UsageDimension":"d","Timestamp":1795507200,"UsageAllocations":[{"Tags":[{"Key":"a"}]}]}"#,
            r#"{"UsageDimension":"d","UsageQuantity":7}"#,
            r#"{"Timestamp":1795507200,"UsageQuantity":7}"#,
        ] {
            assert!(read(report.as_bytes()).unwrap().is_none(), "{report}");
        }
    }

    #[test]
    fn what_two_readers_would_read_differently_is_not_passed_on() {
        for report in [
            "[]",
            "",
            "{",
            r#"{"UsageQuantity":1,"UsageQuantity":2,"UsageDimension":"d","Timestamp":1}"#,
            r#"{"UsageDimension":"d","Timestamp":1,"DryRun":true,"DryRun":false}"#,
            r#"{"UsageDimension":"d","Timestamp":1,"UsageAllocations":[{"AllocatedUsageQuantity":1,"AllocatedUsageQuantity":2}]}"#,
        ] {
            assert_eq!(read(report.as_bytes()).unwrap_err().1, Code::SerializationException, "{report}");
        }
        let tags = r#"{"UsageDimension":"d","Timestamp":1,"UsageAllocations":[{"Tags":[{"Key":"a","Value":"1"},{"Key":"a","Value":"2"}]}]}"#;
        assert_eq!(read(tags.as_bytes()).unwrap_err().1, Code::InvalidTagException);
    }

    #[test]
    fn only_the_configured_product_passes() {
        const NO: Code = OTHER_PRODUCT;
        const BAD: Code = Code::SerializationException;
        for (operation, body, rejected) in [
            ("MeterUsage", r#"{"ProductCode":"ours"}"#, None),
            ("MeterUsage", r#"{"ProductCode":"Ours"}"#, Some(NO)),
            ("MeterUsage", r#"{"ProductCode":"ours "}"#, Some(NO)),
            ("MeterUsage", r#"{"ProductCode":null}"#, Some(NO)),
            ("MeterUsage", r#"{"productCode":"ours"}"#, Some(NO)),
            ("MeterUsage", r#"{"ProductCode":"ours","ProductCode":"theirs"}"#, Some(BAD)),
            ("MeterUsage", r#"{"ProductCode":"ours","\u0050roductCode":"theirs"}"#, Some(BAD)),
            ("MeterUsage", r#"{"ProductCode":["ours"]}"#, Some(BAD)),
            ("MeterUsage", r#"{"ProductCode":"theirs","DryRun":true}"#, Some(NO)),
            ("MeterUsage", "null", Some(BAD)),
            ("RegisterUsage", r#"{"ProductCode":"ours"}"#, None),
            ("RegisterUsage", r#"{"ProductCode":"theirs"}"#, Some(NO)),
            ("RegisterUsage", "{}", Some(NO)),
            ("BatchMeterUsage", r#"{"ProductCode":"ours","UsageRecords":[]}"#, None),
            (
                "BatchMeterUsage",
                r#"{"ProductCode":"theirs","UsageRecords":[{"LicenseArn":"arn"}]}"#,
                Some(NO),
            ),
            ("BatchMeterUsage", r#"{"UsageRecords":[{"LicenseArn":"arn"}]}"#, None),
            ("BatchMeterUsage", r#"{"UsageRecords":[{"LicenseArn":"arn"},{}]}"#, Some(NO)),
            ("BatchMeterUsage", r#"{"UsageRecords":[{"LicenseArn":null}]}"#, Some(NO)),
            ("BatchMeterUsage", r#"{"UsageRecords":[{"LicenseArn":"a","LicenseArn":null}]}"#, Some(BAD)),
            ("ResolveCustomer", r#"{"RegistrationToken":"t"}"#, None),
        ] {
            let checked = check_product(operation, body.as_bytes(), "ours");
            assert_eq!(checked.err().map(|rejected| rejected.1), rejected, "{operation} {body}");
        }
    }
}
