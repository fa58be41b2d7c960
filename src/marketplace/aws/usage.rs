//! The operations that report usage, and calls that are passed on.
//!
//! The SDK in hand does not know the decimal members of the newest service model, nor passes a foreign body on. So
//! bodies are put in after the SDK has made its request and before it signs it, and where its types would drop members
//! of the answer, the answer's own bytes are read.

use std::sync::{Arc, Mutex};

use aws_sdk_marketplacemetering as sdk;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::AfterDeserializationInterceptorContextRef;
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;
use serde_json::{Map, Value, json};

use super::Aws;
use crate::clock::Timestamp;
use crate::marketplace::{
    Allocation, BatchMeterUsage, BatchMetered, Fault, FaultClass, Forwarded, MeterUsage, Metered, Quantity,
    RecordStatus, ResolvedCustomer, Signing, UsageRecord, exceptions,
};

/// Before the operation's name in `X-Amz-Target` (service model, `targetPrefix`).
pub(super) const TARGET_PREFIX: &str = "AWSMPMeteringService.";

impl Aws {
    pub(super) async fn meter_usage_once(
        &self,
        request: MeterUsage,
        signing: Signing,
    ) -> Result<Metered, Fault> {
        let client = self.ready(signing).await?;
        let seen = self.seen();
        let mut call = client
            .meter_usage()
            .product_code(request.product_code.as_str())
            .usage_dimension(&request.dimension)
            .timestamp(sdk::primitives::DateTime::from_millis(request.timestamp.unix_millis()))
            .client_token(&request.client_token);
        if request.dry_run {
            call = call.dry_run(true);
        }
        let members = quantities("UsageQuantity", request.quantity, request.decimal, &request.allocations);
        let call = call.customize().interceptor(seen.clone());
        let answer = call.mutate_request(move |http| add_members(http, &members)).send().await;
        let seen = seen.take();
        match answer {
            Ok(output) => {
                Ok(Metered { metering_record_id: output.metering_record_id, emulated: seen.emulated })
            }
            Err(error) => {
                let fault = self.sdk_fault(&error, seen);
                // AWS documents the success of a dry run in two forms: as 200, and as this exception.
                if request.dry_run && fault.code.as_str() == exceptions::DRY_RUN {
                    return Ok(Metered { metering_record_id: None, emulated: seen.emulated });
                }
                Err(fault)
            }
        }
    }

    pub(super) async fn batch_meter_usage_once(
        &self,
        request: BatchMeterUsage,
        signing: Signing,
    ) -> Result<BatchMetered, Fault> {
        let records: Vec<Value> = request.records.iter().map(record).collect();
        let mut body = json!({"UsageRecords": records});
        if let Some(product_code) = &request.product_code {
            body["ProductCode"] = product_code.as_str().into();
        }
        let raw = self.call_raw("BatchMeterUsage", body.to_string().into_bytes(), signing).await?;
        let statuses = statuses(&request.records, &raw.json()?);
        Ok(BatchMetered { statuses, emulated: raw.emulated })
    }

    pub(super) async fn resolve_customer_once(&self, token: String) -> Result<ResolvedCustomer, Fault> {
        let body = json!({"RegistrationToken": token}).to_string().into_bytes();
        let raw = match self.call_raw("ResolveCustomer", body.clone(), Signing::default()).await {
            Err(fault) if fault.class == FaultClass::ExpiredSession => {
                // AWS says the same of an expired session and of an expired registration token. With new credentials
                // only the token is left.
                let signing = Signing { reload_credentials: true };
                self.call_raw("ResolveCustomer", body, signing).await.map_err(|fault| match fault.class {
                    FaultClass::ExpiredSession => Fault { class: FaultClass::Misconfigured, ..fault },
                    _ => fault,
                })?
            }
            answer => answer?,
        };
        Ok(ResolvedCustomer { answer: raw.json()? })
    }

    pub(super) async fn forward_once(&self, target: String, body: Vec<u8>) -> Result<Forwarded, Fault> {
        let (mut raw, mut fault) = self.send_raw(target.clone(), body.clone(), Signing::default()).await?;
        if fault.as_ref().is_some_and(|fault| fault.class == FaultClass::ExpiredSession) {
            // The pod's own session, of which the application knows nothing; AWS has looked at nothing else.
            (raw, fault) = self.send_raw(target, body, Signing { reload_credentials: true }).await?;
        }
        if let Some(fault) = &fault {
            self.learn(fault);
        }
        Ok(Forwarded { status: raw.status, headers: raw.headers, body: raw.body })
    }

    /// A success's own bytes, or the fault that the answer means.
    async fn call_raw(&self, operation: &str, body: Vec<u8>, signing: Signing) -> Result<Raw, Fault> {
        let (raw, fault) = self.send_raw(format!("{TARGET_PREFIX}{operation}"), body, signing).await?;
        match fault {
            Some(fault) if raw.status != 200 => Err(fault),
            _ => Ok(raw),
        }
    }

    /// Any answer's own bytes, and the fault that the SDK saw in it; `Err` when there was no answer.
    async fn send_raw(
        &self,
        target: String,
        body: Vec<u8>,
        signing: Signing,
    ) -> Result<(Raw, Option<Fault>), Fault> {
        let client = self.ready(signing).await?;
        let (seen, kept) = (self.seen(), KeptAnswer::default());
        let answer = client
            .resolve_customer()
            .registration_token("replaced")
            .customize()
            .interceptor(seen.clone())
            .interceptor(kept.clone())
            .mutate_request(move |http| {
                http.headers_mut().insert("x-amz-target", target.clone());
                replace_body(http, body.clone());
            })
            .send()
            .await;
        let marks = seen.take();
        let fault = answer.err().map(|error| self.sdk_fault(&error, marks));
        match (kept.take(), fault) {
            (Some(raw), fault) => Ok((Raw { emulated: marks.emulated, ..raw }, fault)),
            (None, Some(fault)) => Err(fault),
            (None, None) => Err(invalid_answer()),
        }
    }
}

fn invalid_answer() -> Fault {
    Fault::local(FaultClass::Transient, "InvalidAnswer", "a 200 whose body is no JSON object")
}

#[derive(Debug, Clone, Default)]
struct Raw {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    emulated: bool,
}

impl Raw {
    fn json(&self) -> Result<Map<String, Value>, Fault> {
        serde_json::from_slice(&self.body).map_err(|_| invalid_answer())
    }
}

/// Keeps the answer's bytes.
#[derive(Debug, Clone, Default)]
struct KeptAnswer(Arc<Mutex<Option<Raw>>>);

impl KeptAnswer {
    fn take(&self) -> Option<Raw> {
        self.0.lock().expect("held for one move only, which cannot panic").take()
    }
}

#[aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint]
impl Intercept for KeptAnswer {
    fn name(&self) -> &'static str {
        "answer bytes"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), aws_smithy_runtime_api::box_error::BoxError> {
        let response = context.response();
        // A body that was cut is no answer.
        if let Some(bytes) = response.body().bytes() {
            let headers = response.headers().iter();
            let raw = Raw {
                status: response.status().as_u16(),
                headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
                body: bytes.to_vec(),
                emulated: false,
            };
            *self.0.lock().expect("held for one move only, which cannot panic") = Some(raw);
        }
        Ok(())
    }
}

/// A quantity and its allocations, as integers or as decimals (service model, `UsageQuantity…`, `UsageAllocation`).
fn quantities(
    name: &str,
    quantity: Quantity,
    decimal: bool,
    allocations: &[Allocation],
) -> Map<String, Value> {
    let member = |name: &str, quantity: Quantity| match quantity.integer() {
        Some(whole) if !decimal => (name.to_owned(), Value::from(whole)),
        _ => (format!("{name}AsDecimal"), Value::from(quantity.to_string())),
    };
    let mut members = Map::from_iter([member(name, quantity)]);
    if allocations.is_empty() {
        return members;
    }
    let allocation = |allocation: &Allocation| {
        let mut object = Map::from_iter([member("AllocatedUsageQuantity", allocation.quantity)]);
        if !allocation.tags.is_empty() {
            let tags = allocation.tags.tags().iter();
            let tags: Vec<Value> = tags.map(|(key, value)| json!({"Key": key, "Value": value})).collect();
            object.insert("Tags".to_owned(), tags.into());
        }
        Value::from(object)
    };
    members.insert("UsageAllocations".to_owned(), allocations.iter().map(allocation).collect());
    members
}

fn record(record: &UsageRecord) -> Value {
    let mut object = quantities("Quantity", record.quantity, record.decimal, &record.allocations);
    object.insert("Timestamp".to_owned(), seconds(record.timestamp));
    object.insert("Dimension".to_owned(), record.dimension.as_str().into());
    let customer = [
        ("CustomerIdentifier", &record.customer_identifier),
        ("CustomerAWSAccountId", &record.customer_account_id),
        ("LicenseArn", &record.license_arn),
    ];
    for (name, value) in customer {
        if let Some(value) = value {
            object.insert(name.to_owned(), value.as_str().into());
        }
    }
    object.into()
}

/// AWS JSON 1.1 writes a time as seconds since the epoch, with a fraction.
fn seconds(at: Timestamp) -> Value {
    let millis = at.unix_millis();
    if millis % 1000 == 0 {
        return Value::from(millis / 1000);
    }
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of our century are far below 2^52")]
    let seconds = millis as f64 / 1000.0;
    Value::from(seconds)
}

/// What AWS said of each record, found by what it repeats of them: a call holds one record for each customer and
/// dimension only. What it does not name may have been billed.
fn statuses(records: &[UsageRecord], answer: &Map<String, Value>) -> Vec<RecordStatus> {
    let list = |name: &str| answer.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let (results, unprocessed) = (list("Results"), list("UnprocessedRecords"));
    let status = |record: &UsageRecord| {
        let result = results.iter().find(|result| is_about(&result["UsageRecord"], record));
        let Some(result) = result else {
            let named = unprocessed.iter().any(|found| is_about(found, record));
            return if named { RecordStatus::Unprocessed } else { RecordStatus::Unanswered };
        };
        match result["Status"].as_str() {
            Some("Success") => RecordStatus::Success(result["MeteringRecordId"].as_str().map(str::to_owned)),
            Some("CustomerNotSubscribed") => RecordStatus::CustomerNotSubscribed,
            Some("DuplicateRecord") => RecordStatus::DuplicateRecord,
            _ => RecordStatus::Unanswered,
        }
    };
    records.iter().map(status).collect()
}

fn is_about(found: &Value, record: &UsageRecord) -> bool {
    let same = |name: &str, value: &Option<String>| {
        // AWS may add the other form of the customer to its answer; what was asked with must be equal.
        value.as_deref().is_none_or(|value| found[name].as_str() == Some(value))
    };
    found["Dimension"].as_str() == Some(record.dimension.as_str())
        && same("CustomerIdentifier", &record.customer_identifier)
        && same("CustomerAWSAccountId", &record.customer_account_id)
        && same("LicenseArn", &record.license_arn)
}

/// Adds members to a JSON body; a body that is none is left for AWS to refuse.
fn add_members(request: &mut HttpRequest, members: &Map<String, Value>) {
    let body = request.body().bytes().and_then(|bytes| serde_json::from_slice(bytes).ok());
    let Some(Value::Object(mut object)) = body else { return };
    object.extend(members.clone());
    replace_body(request, Value::Object(object).to_string().into_bytes());
}

fn replace_body(request: &mut HttpRequest, bytes: Vec<u8>) {
    request.headers_mut().insert("content-length", bytes.len().to_string());
    *request.body_mut() = aws_smithy_types::body::SdkBody::from(bytes);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::marketplace::TagSet;
    use crate::usage::batch::{ESCAPED, RECORD_BYTES};

    proptest! {
        /// What `usage::batch` reckons with is never less than the bytes that are sent.
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
            let record = record(&UsageRecord {
                customer_identifier: None,
                customer_account_id: Some(account),
                license_arn: Some(arn),
                dimension,
                timestamp: Timestamp::from_unix_millis(millis),
                quantity,
                decimal: true,
                allocations: tags.into_iter().map(|tags| Allocation { tags, quantity }).collect(),
            });
            prop_assert!(record.to_string().len() < RECORD_BYTES + ESCAPED * texts + parts);
        }
    }

    fn usage_record(account: &str, dimension: &str) -> UsageRecord {
        UsageRecord {
            customer_identifier: None,
            customer_account_id: Some(account.to_owned()),
            license_arn: Some("arn:aws:license-manager::111122223333:license:l-1".to_owned()),
            dimension: dimension.to_owned(),
            timestamp: Timestamp::from_unix_seconds(1_795_507_200),
            quantity: "2.5".parse().unwrap(),
            decimal: true,
            allocations: Vec::new(),
        }
    }

    #[test]
    fn a_record_has_awss_members() {
        assert_eq!(
            record(&usage_record("111122223333", "requests")),
            json!({
                "Timestamp": 1_795_507_200, "Dimension": "requests", "QuantityAsDecimal": "2.5",
                "CustomerAWSAccountId": "111122223333",
                "LicenseArn": "arn:aws:license-manager::111122223333:license:l-1",
            })
        );
        assert_eq!(seconds(Timestamp::from_unix_millis(1_500)), json!(1.5));
    }

    #[test]
    fn what_the_answer_does_not_tell_is_not_taken_for_a_refusal() {
        let records = [usage_record("1", "a"), usage_record("2", "a"), usage_record("3", "a")];
        let mut without_license = record(&records[0]);
        without_license.as_object_mut().unwrap().remove("LicenseArn");
        let answer = json!({
            "Results": [
                {"UsageRecord": without_license, "Status": "Success"},
                {"UsageRecord": record(&records[1]), "Status": "SomethingNew"},
            ],
        });
        let Value::Object(answer) = answer else { unreachable!() };
        assert_eq!(statuses(&records, &answer), vec![RecordStatus::Unanswered; 3]);
        assert_eq!(statuses(&records, &Map::new()), vec![RecordStatus::Unanswered; 3]);
    }

    #[test]
    fn statuses_come_in_the_order_of_the_question_whatever_the_answers_order() {
        let records =
            [usage_record("1", "a"), usage_record("2", "a"), usage_record("1", "b"), usage_record("3", "a")];
        let echo = |record: &UsageRecord| super::record(record);
        let answer = json!({
            "Results": [
                {"UsageRecord": echo(&records[2]), "Status": "DuplicateRecord"},
                {"UsageRecord": echo(&records[1]), "Status": "CustomerNotSubscribed"},
                {"UsageRecord": echo(&records[0]), "Status": "Success", "MeteringRecordId": "id"},
            ],
            "UnprocessedRecords": [echo(&records[3])],
        });
        let Value::Object(answer) = answer else { unreachable!() };
        assert_eq!(
            statuses(&records, &answer),
            [
                RecordStatus::Success(Some("id".to_owned())),
                RecordStatus::CustomerNotSubscribed,
                RecordStatus::DuplicateRecord,
                RecordStatus::Unprocessed,
            ]
        );
    }
}
