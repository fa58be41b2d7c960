//! The operations that report usage, and forwarded calls.
//!
//! The SDK does not know the decimal members of the newest service model, and cannot forward another client's body. So
//! these are calls of [`crate::call`].

use bytes::Bytes;
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::call::{Asked, Call, Elements, Loose, Raw, body, invalid_answer};
use super::{Aws, Purpose};
use tollgate_marketplace::{
    Allocation, BatchMeterUsage, BatchMetered, Customer, Fault, FaultClass, Forwarded, HourUsage, MeterUsage,
    Metered, Place, Quantity, RecordStatus, Region, ResolvedCustomer, Signing, UsageRecord, exceptions,
};
use tollgate_time::Timestamp;

/// Prefix of the operation's name in `X-Amz-Target` (service model, `targetPrefix`).
pub(super) const TARGET_PREFIX: &str = "AWSMPMeteringService.";

impl Aws {
    pub(super) async fn meter_usage_once(
        &self,
        request: MeterUsage,
        signing: Signing,
    ) -> Result<Metered, Fault> {
        let (body, dry_run, region) = (body(&Single(&request)), request.dry_run, request.region.clone());
        // Its allocations are in the body: do not keep both in memory during the call.
        drop(request);
        match self.call_raw("MeterUsage", body, signing, region.as_ref()).await {
            Ok(raw) => {
                let answer = raw.json()?;
                let metering_record_id = answer.get("MeteringRecordId").and_then(Value::as_str);
                Ok(Metered {
                    metering_record_id: metering_record_id.map(str::to_owned),
                    emulated: raw.emulated,
                })
            }
            // AWS documents the success of a dry run in two forms: as 200, and as this exception.
            Err(fault) if dry_run && fault.code.as_str() == exceptions::DRY_RUN => {
                Ok(Metered { metering_record_id: None, emulated: fault.emulated })
            }
            Err(fault) => Err(fault),
        }
    }

    pub(super) async fn batch_meter_usage_once(
        &self,
        request: BatchMeterUsage,
        signing: Signing,
    ) -> Result<BatchMetered, Fault> {
        let (body, region) = (body(&Batch(&request)), request.region.clone());
        let subjects: Vec<Subject> = request.records.into_iter().map(Subject::of).collect();
        let raw = self.call_raw("BatchMeterUsage", body, signing, region.as_ref()).await?;
        let statuses = statuses(&subjects, raw.bytes())?;
        Ok(BatchMetered { statuses, emulated: raw.emulated })
    }

    pub(super) async fn resolve_customer_once(&self, token: String) -> Result<ResolvedCustomer, Fault> {
        let body = body(&json!({"RegistrationToken": token}));
        let raw = match self.call_raw("ResolveCustomer", body.clone(), Signing::default(), None).await {
            Err(fault) if fault.class == FaultClass::ExpiredSession => {
                // AWS gives the same answer for an expired session and an expired registration token. With new
                // credentials it can only be the token.
                let signing = Signing { reload_credentials: true };
                self.call_raw("ResolveCustomer", body, signing, None).await.map_err(|fault| {
                    match fault.class {
                        FaultClass::ExpiredSession => Fault { class: FaultClass::Misconfigured, ..fault },
                        _ => fault,
                    }
                })?
            }
            answer => answer?,
        };
        Ok(ResolvedCustomer { answer: raw.json()? })
    }

    pub(super) async fn forward_once(
        &self,
        target: String,
        body: Vec<u8>,
        region: Option<Region>,
    ) -> Result<Forwarded, Fault> {
        let body = Bytes::from(body);
        let (mut raw, mut fault) =
            self.send_raw(target.clone(), body.clone(), Signing::default(), region.as_ref()).await?;
        if fault.as_ref().is_some_and(|fault| fault.class == FaultClass::ExpiredSession) {
            // The pod's own session expired, which the application knows nothing about; AWS has processed nothing yet.
            (raw, fault) =
                self.send_raw(target, body, Signing { reload_credentials: true }, region.as_ref()).await?;
        }
        if let Some(fault) = &fault {
            self.learn(fault);
        }
        let body = raw.bytes().to_vec();
        Ok(Forwarded { status: raw.status, headers: raw.headers, body })
    }

    /// The bytes of a success, or the fault.
    async fn call_raw(
        &self,
        operation: &str,
        body: Bytes,
        signing: Signing,
        region: Option<&Region>,
    ) -> Result<Raw, Fault> {
        let (raw, fault) =
            self.send_raw(format!("{TARGET_PREFIX}{operation}"), body, signing, region).await?;
        raw.unless_refused(fault)
    }

    /// Returns the bytes of any answer, and the fault that the SDK saw in it; `Err` if there was no answer.
    async fn send_raw(
        &self,
        target: String,
        body: Bytes,
        signing: Signing,
        region: Option<&Region>,
    ) -> Result<(Raw, Option<Fault>), Fault> {
        let client = self.ready(signing, Purpose::Call).await?.client;
        let settings = self.elsewhere(region).await?;
        let url = self.loader.found_endpoint().unwrap_or_default();
        let asked = Asked { place: Place::Metering, url: &url, secrets: &[] };
        Call { target, body, settings, capture: self.capture() }.send(&client, asked).await
    }
}

// === bodies: written straight from the records, because a tree of values would take ten times the memory ===

/// `MeterUsage`'s body.
struct Single<'a>(&'a MeterUsage);

impl Serialize for Single<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let request = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("ProductCode", request.product_code.as_str())?;
        map.serialize_entry("Timestamp", &seconds(request.usage.timestamp))?;
        map.serialize_entry("UsageDimension", &request.dimension)?;
        quantity(&mut map, "UsageQuantity", request.usage.quantity, request.usage.decimal)?;
        if request.dry_run {
            map.serialize_entry("DryRun", &true)?;
        }
        map.serialize_entry("ClientToken", &request.client_token)?;
        allocations(&mut map, &request.usage)?;
        map.end()
    }
}

/// `BatchMeterUsage`'s body.
struct Batch<'a>(&'a BatchMeterUsage);

impl Serialize for Batch<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("UsageRecords", &List(self.0.records.iter().map(Row)))?;
        if let Some(product_code) = &self.0.product_code {
            map.serialize_entry("ProductCode", product_code.as_str())?;
        }
        map.end()
    }
}

/// A record of a batch (service model, `UsageRecord`).
struct Row<'a>(&'a UsageRecord);

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let record = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("Timestamp", &seconds(record.usage.timestamp))?;
        map.serialize_entry("Dimension", &record.dimension)?;
        quantity(&mut map, "Quantity", record.usage.quantity, record.usage.decimal)?;
        match &record.customer {
            Customer::Own => {}
            Customer::Identifier(identifier) => map.serialize_entry("CustomerIdentifier", identifier)?,
            Customer::Account { account_id, license_arn } => {
                map.serialize_entry("CustomerAWSAccountId", account_id)?;
                if let Some(license_arn) = license_arn {
                    map.serialize_entry("LicenseArn", license_arn)?;
                }
            }
        }
        allocations(&mut map, &record.usage)?;
        map.end()
    }
}

/// A part of a record's quantity (service model, `UsageAllocation`).
struct Part<'a>(&'a Allocation, bool);

impl Serialize for Part<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(Allocation { tags, quantity: share }, decimal) = self;
        let mut map = serializer.serialize_map(None)?;
        quantity(&mut map, "AllocatedUsageQuantity", *share, *decimal)?;
        if !tags.is_empty() {
            map.serialize_entry("Tags", &List(tags.tags().map(|(key, value)| Tag { key, value })))?;
        }
        map.end()
    }
}

/// Service model, `Tag`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Tag<'a> {
    key: &'a str,
    value: &'a str,
}

/// The items of an iterator, as an array.
struct List<I>(I);

impl<I: Iterator<Item: Serialize> + Clone> Serialize for List<I> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.clone())
    }
}

/// A quantity, as an integer or as a decimal (service model, `UsageQuantity…`).
fn quantity<M: SerializeMap>(
    map: &mut M,
    name: &'static str,
    quantity: Quantity,
    decimal: bool,
) -> Result<(), M::Error> {
    match quantity.integer() {
        Some(whole) if !decimal => map.serialize_entry(name, &whole),
        _ => map.serialize_entry(&format_args!("{name}AsDecimal"), &quantity.to_string()),
    }
}

fn allocations<M: SerializeMap>(map: &mut M, usage: &HourUsage) -> Result<(), M::Error> {
    if usage.allocations.is_empty() {
        return Ok(());
    }
    let parts = List(usage.allocations.iter().map(|part| Part(part, usage.decimal)));
    map.serialize_entry("UsageAllocations", &parts)
}

/// AWS JSON 1.1 writes a time as seconds since the epoch, possibly with a fraction.
fn seconds(at: Timestamp) -> Value {
    let millis = at.unix_millis();
    if millis % 1000 == 0 {
        return Value::from(millis / 1000);
    }
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of our century are far below 2^52")]
    let seconds = millis as f64 / 1000.0;
    Value::from(seconds)
}

// === answers: AWS repeats each record whole, and only its names are read ===

/// `BatchMeterUsage`'s answer. Elements of another form than AWS documents are ignored; the others are still read.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct BatchAnswer {
    results: Elements<RecordResult, ELEMENTS_MAX>,
    unprocessed_records: Elements<Name, ELEMENTS_MAX>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RecordResult {
    usage_record: Loose<Name>,
    status: Loose<String>,
    metering_record_id: Loose<String>,
}

/// The members that identify a record.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Name {
    dimension: Loose<String>,
    customer_identifier: Loose<String>,
    #[serde(rename = "CustomerAWSAccountId")]
    customer_account_id: Loose<String>,
    license_arn: Loose<String>,
}

/// Twice the records of a call: no record is answered more than twice.
const ELEMENTS_MAX: usize = 50;

/// The status of each record, found by its customer and dimension, which AWS repeats: a call has at most one record for
/// each pair. A record that the answer does not name may have been billed.
fn statuses(subjects: &[Subject], answer: &[u8]) -> Result<Vec<RecordStatus>, Fault> {
    let answer: BatchAnswer =
        serde_json::from_slice(answer).map_err(|_| invalid_answer("without AWS's JSON"))?;
    let status = |subject: &Subject| {
        let is_about = |name: &Loose<Name>| name.0.as_ref().is_some_and(|name| subject.is_named(name));
        let Some(result) = answer.results.read.iter().find(|result| is_about(&result.usage_record)) else {
            let named = answer.unprocessed_records.read.iter().any(|name| subject.is_named(name));
            return if named { RecordStatus::Unprocessed } else { RecordStatus::Unanswered };
        };
        match result.status.0.as_deref() {
            Some("Success") => RecordStatus::Success(result.metering_record_id.0.clone()),
            Some("CustomerNotSubscribed") => RecordStatus::CustomerNotSubscribed,
            Some("DuplicateRecord") => RecordStatus::DuplicateRecord,
            _ => RecordStatus::Unanswered,
        }
    };
    Ok(subjects.iter().map(status).collect())
}

/// What identifies a record in a call. The rest is in the body, and is not kept twice in memory during the call.
struct Subject {
    customer: Customer,
    dimension: String,
}

impl Subject {
    fn of(record: UsageRecord) -> Self {
        Self { customer: record.customer, dimension: record.dimension }
    }

    /// AWS may add the customer's other form to its answer; the form that was sent must be equal.
    fn is_named(&self, name: &Name) -> bool {
        let is = |found: &Loose<String>, value: &str| found.0.as_deref() == Some(value);
        let customer = match &self.customer {
            Customer::Own => true,
            Customer::Identifier(identifier) => is(&name.customer_identifier, identifier),
            Customer::Account { account_id, license_arn } => {
                is(&name.customer_account_id, account_id)
                    && license_arn.as_deref().is_none_or(|arn| is(&name.license_arn, arn))
            }
        };
        customer && is(&name.dimension, &self.dimension)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use tollgate_marketplace::TagSet;
    use tollgate_marketplace::operation::{ESCAPED, RECORD_BYTES};

    proptest! {
        /// The size that batches calculate with is never less than the bytes that are sent.
        #[test]
        fn a_record_is_never_larger_than_it_was_reckoned(
            tags in prop::collection::vec(prop::collection::btree_map("[ -=_@A-Za-z\\\\]{1,100}", "[ -=_@a-z\\\\]{1,256}", 0..=5), 0..4),
            dimension in "[\\x00-\u{ff}]{1,60}",
            account in "[0-9]{1,255}",
            arn in "[!-~\u{e4}]{1,200}",
            micros in 0..=Quantity::MAX.micros(),
            millis in 1_700_000_000_001_i64..1_900_000_000_000,
        ) {
            let tags: Vec<TagSet> = tags.into_iter().map(|tags| TagSet::try_from(tags).unwrap()).collect();
            let quantity = Quantity::from_micros(micros).unwrap();
            let texts = dimension.len() + account.len() + arn.len();
            let parts: usize = tags.iter().map(TagSet::request_bytes).sum();
            let record = body(&Row(&UsageRecord {
                customer: Customer::Account { account_id: account, license_arn: Some(arn) },
                dimension,
                usage: HourUsage {
                    timestamp: Timestamp::from_unix_millis(millis),
                    quantity,
                    decimal: true,
                    allocations: tags.into_iter().map(|tags| Allocation { tags, quantity }).collect(),
                },
            }));
            prop_assert!(record.len() < RECORD_BYTES + ESCAPED * texts + parts);
        }
    }

    fn usage(quantity: &str, decimal: bool, allocations: Vec<Allocation>) -> HourUsage {
        let timestamp = Timestamp::from_unix_seconds(1_795_507_200);
        HourUsage { timestamp, quantity: quantity.parse().unwrap(), decimal, allocations }
    }

    fn usage_record(account: &str, dimension: &str) -> UsageRecord {
        UsageRecord {
            customer: Customer::Account {
                account_id: account.to_owned(),
                license_arn: Some("arn:aws:license-manager::111122223333:license:l-1".to_owned()),
            },
            dimension: dimension.to_owned(),
            usage: usage("2.5", true, Vec::new()),
        }
    }

    fn value(request: &impl Serialize) -> Value {
        serde_json::to_value(request).unwrap()
    }

    fn echo(record: &UsageRecord) -> Value {
        value(&Row(record))
    }

    fn read_statuses(records: &[UsageRecord], answer: &Value) -> Vec<RecordStatus> {
        let subjects: Vec<Subject> = records.iter().cloned().map(Subject::of).collect();
        statuses(&subjects, answer.to_string().as_bytes()).unwrap()
    }

    fn split(tags: &[(&str, &str)], quantity: &str) -> Allocation {
        let tags = tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let tags: std::collections::BTreeMap<_, _> = tags.collect();
        Allocation { tags: tags.try_into().unwrap(), quantity: quantity.parse().unwrap() }
    }

    #[test]
    fn a_record_has_awss_members() {
        assert_eq!(
            echo(&usage_record("111122223333", "requests")),
            json!({
                "Timestamp": 1_795_507_200, "Dimension": "requests", "QuantityAsDecimal": "2.5",
                "CustomerAWSAccountId": "111122223333",
                "LicenseArn": "arn:aws:license-manager::111122223333:license:l-1",
            })
        );
        assert_eq!(seconds(Timestamp::from_unix_millis(1_500)), json!(1.5));
    }

    #[test]
    fn a_batch_holds_its_records_with_their_splits() {
        let whole = UsageRecord {
            customer: Customer::Account { account_id: "1".to_owned(), license_arn: None },
            dimension: "a".to_owned(),
            usage: usage("3", false, vec![split(&[("b", "x"), ("a", "\\")], "2"), split(&[], "1")]),
        };
        let records = vec![whole, usage_record("2", "a")];
        let product_code = Some("demosaas".parse().unwrap());
        let request = BatchMeterUsage { product_code, records, region: None };
        assert_eq!(
            value(&Batch(&request)),
            json!({
                "ProductCode": "demosaas",
                "UsageRecords": [
                    {
                        "Timestamp": 1_795_507_200, "Dimension": "a", "Quantity": 3, "CustomerAWSAccountId": "1",
                        "UsageAllocations": [
                            {"AllocatedUsageQuantity": 2,
                             "Tags": [{"Key": "a", "Value": "\\"}, {"Key": "b", "Value": "x"}]},
                            {"AllocatedUsageQuantity": 1},
                        ],
                    },
                    echo(&request.records[1]),
                ],
            })
        );
        let licensed = BatchMeterUsage { product_code: None, ..request };
        assert_eq!(value(&Batch(&licensed)).get("ProductCode"), None);
    }

    #[test]
    fn a_single_record_has_awss_members() {
        let request = MeterUsage {
            product_code: "demometered".parse().unwrap(),
            dimension: "requests".to_owned(),
            usage: usage("2", true, vec![split(&[("team", "a")], "2")]),
            client_token: "token".to_owned(),
            dry_run: false,
            region: None,
        };
        let mut expected = json!({
            "ProductCode": "demometered", "Timestamp": 1_795_507_200, "UsageDimension": "requests",
            "UsageQuantityAsDecimal": "2", "ClientToken": "token",
            "UsageAllocations": [
                {"AllocatedUsageQuantityAsDecimal": "2", "Tags": [{"Key": "team", "Value": "a"}]},
            ],
        });
        assert_eq!(value(&Single(&request)), expected);
        expected["DryRun"] = true.into();
        assert_eq!(value(&Single(&MeterUsage { dry_run: true, ..request })), expected);
    }

    #[test]
    fn what_the_answer_does_not_tell_is_not_taken_for_a_refusal() {
        let records = [usage_record("1", "a"), usage_record("2", "a"), usage_record("3", "a")];
        let mut without_license = echo(&records[0]);
        without_license.as_object_mut().unwrap().remove("LicenseArn");
        let answer = json!({
            "Results": [
                {"UsageRecord": without_license, "Status": "Success"},
                {"UsageRecord": echo(&records[1]), "Status": "SomethingNew"},
            ],
        });
        for answer in [answer, json!({}), json!({"Results": null, "UnprocessedRecords": 7})] {
            assert_eq!(read_statuses(&records, &answer), vec![RecordStatus::Unanswered; 3], "{answer}");
        }
        for garbage in ["", "[]", "<html>"] {
            assert_eq!(statuses(&[], garbage.as_bytes()).unwrap_err().code.as_str(), "InvalidAnswer");
        }
    }

    #[test]
    fn an_element_of_another_form_spoils_no_other() {
        let records = [usage_record("1", "a"), usage_record("2", "a")];
        let answer = json!({
            "Results": [
                7, null, {"UsageRecord": 7}, {"UsageRecord": {"Dimension": 7}},
                {"UsageRecord": echo(&records[0]), "Status": "Success", "MeteringRecordId": 7},
                {"UsageRecord": echo(&records[1]), "Status": 7},
            ],
        });
        assert_eq!(read_statuses(&records, &answer), [RecordStatus::Success(None), RecordStatus::Unanswered]);
    }

    #[test]
    fn statuses_come_in_the_order_of_the_question_whatever_the_answers_order() {
        let records =
            [usage_record("1", "a"), usage_record("2", "a"), usage_record("1", "b"), usage_record("3", "a")];
        let answer = json!({
            "Results": [
                {"UsageRecord": echo(&records[2]), "Status": "DuplicateRecord"},
                {"UsageRecord": echo(&records[1]), "Status": "CustomerNotSubscribed"},
                {"UsageRecord": echo(&records[0]), "Status": "Success", "MeteringRecordId": "id"},
            ],
            "UnprocessedRecords": [echo(&records[3])],
        });
        assert_eq!(
            read_statuses(&records, &answer),
            [
                RecordStatus::Success(Some("id".to_owned())),
                RecordStatus::CustomerNotSubscribed,
                RecordStatus::DuplicateRecord,
                RecordStatus::Unprocessed,
            ]
        );
    }
}
