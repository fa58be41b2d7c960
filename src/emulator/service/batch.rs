//! `BatchMeterUsage` (AWS Marketplace API reference): up to 25 records of many customers, judged one by one,
//! except that one bad timestamp, dimension or product fails them all.

use serde_json::{Map, Value, json};
use time::{Month, OffsetDateTime};

use super::meter::usage_text;
use super::usage::{Usage, hour, usage};
use super::{Outcome, Request, Service, ServiceError, Structure};
use crate::clock::Timestamp;
use crate::emulator::bill::{Key, Record, Source};
use crate::emulator::check::{ACCOUNT_ID, DIMENSION, LICENSE_ARN, PRODUCT_CODE, UP_TO_255};

/// Most records of a call (service model, `UsageRecordList`).
const RECORDS_MAX: usize = 25;

/// Largest call (AWS Marketplace API reference, BatchMeterUsage).
const REQUEST_BYTES_MAX: usize = 1_000_000;

/// How far back a record may lie, in seconds.
const WINDOW_SECONDS: i64 = 24 * 3600;

/// A month is closed for records so long after its end, in hours.
const MONTH_END_GRACE_HOURS: i64 = 6;

struct Asked<'a> {
    account_id: Option<String>,
    license_arn: Option<&'a str>,
    customer_identifier: Option<&'a str>,
    dimension: &'a str,
    timestamp: Timestamp,
    usage: Usage,
    echo: Value,
}

pub(super) fn decide(service: &mut Service, request: &Request<'_>, body: &Structure<'_>) -> Outcome {
    if request.body_bytes >= REQUEST_BYTES_MAX {
        return Err(ServiceError::new(
            "RequestEntityTooLargeException",
            "The request must be smaller than 1 MB.",
        ));
    }
    let product_code = body.text("ProductCode", PRODUCT_CODE)?;
    let list = body.required_list("UsageRecords", 0, RECORDS_MAX)?;
    let echoes = request.body.get("UsageRecords").and_then(Value::as_array);
    let mut records = Vec::with_capacity(list.len());
    for (index, structure) in list.iter().enumerate() {
        let echo = echoes.and_then(|echoes| echoes.get(index)).cloned().unwrap_or_default();
        records.push(read(structure, echo)?);
    }
    let product_code = product_of(service, product_code, &records)?;
    service.disabled(&product_code, request.operation)?;
    check_all(service, &product_code, &records, request.now)?;
    let mut results = Vec::new();
    for record in records {
        results.push(judge(service, &product_code, record)?);
    }
    Ok(json!({"Results": results, "UnprocessedRecords": []}))
}

fn read<'a>(structure: &Structure<'a>, echo: Value) -> Result<Asked<'a>, ServiceError> {
    let timestamp = structure.required_timestamp("Timestamp")?;
    let dimension = structure.required_text("Dimension", DIMENSION)?;
    let customer_identifier = structure.text("CustomerIdentifier", UP_TO_255)?;
    let account_id = structure.text("CustomerAWSAccountId", ACCOUNT_ID)?.map(str::to_owned);
    let license_arn = structure.text("LicenseArn", LICENSE_ARN)?;
    if customer_identifier.is_some() && account_id.is_some() {
        return Err(ServiceError::new(
            "InvalidCustomerIdentifierException",
            "CustomerIdentifier and CustomerAWSAccountID are mutually exclusive.",
        ));
    }
    if customer_identifier.is_none() && account_id.is_none() {
        return Err(ServiceError::new(
            "InvalidCustomerIdentifierException",
            "A record must name its customer.",
        ));
    }
    let usage = usage(structure, "Quantity", "QuantityAsDecimal")?;
    Ok(Asked { account_id, license_arn, customer_identifier, dimension, timestamp, usage, echo })
}

/// The product of the call: named for the legacy integration, found by the licence under Concurrent Agreements.
fn product_of(service: &Service, named: Option<&str>, records: &[Asked<'_>]) -> Result<String, ServiceError> {
    let licensed = records.iter().filter(|record| record.license_arn.is_some()).count();
    match named {
        Some(_) if licensed > 0 => Err(ServiceError::new(
            "InvalidLicenseException",
            "ProductCode cannot be given together with LicenseArn.",
        )),
        Some(code) if service.world.products.contains_key(code) => {
            if service.world.products.get(code).is_some_and(|product| product.concurrent_agreements) {
                return Err(ServiceError::new(
                    "InvalidLicenseException",
                    "This product uses Concurrent Agreements: records name LicenseArn, the request no ProductCode.",
                ));
            }
            Ok(code.to_owned())
        }
        Some(_) => Err(Service::product_error()),
        None if licensed == records.len() => {
            // The licence belongs to a product; the emulated ones are all of the one that is sold as SaaS.
            Ok(service.world.saas_product.clone())
        }
        None => Err(Service::product_error()),
    }
}

fn check_all(
    service: &Service,
    product_code: &str,
    records: &[Asked<'_>],
    now: Timestamp,
) -> Result<(), ServiceError> {
    let product = service.world.products.get(product_code).ok_or_else(Service::product_error)?;
    let kinds: std::collections::BTreeSet<bool> = records.iter().map(|record| record.usage.decimal).collect();
    if kinds.len() > 1 {
        return Err(ServiceError::validation(
            "Integer and decimal quantities cannot be mixed in one request.",
        ));
    }
    for record in records {
        if !product.dimensions.contains(record.dimension) {
            return Err(ServiceError::new(
                "InvalidUsageDimensionException",
                "The usage dimension does not match one of the UsageDimensions associated with products.",
            ));
        }
        if !in_window(record.timestamp, now) {
            return Err(ServiceError::new(
                "TimestampOutOfBoundsException",
                "The timestamp value passed in the UsageRecord is out of allowed range.",
            ));
        }
        if let Some(arn) = record.license_arn
            && !service.world.customers.values().any(|customer| customer.license_arn == arn)
        {
            return Err(ServiceError::new("InvalidLicenseException", "The LicenseArn is unknown."));
        }
        if service.account_of(record).is_none() {
            return Err(ServiceError::new(
                "InvalidCustomerIdentifierException",
                "You have metered usage for a CustomerIdentifier that does not exist.",
            ));
        }
    }
    Ok(())
}

/// Within 24 hours, and not of a month that is closed: the previous month ends at 06:00 UTC on the first.
fn in_window(timestamp: Timestamp, now: Timestamp) -> bool {
    let age_seconds = now.unix_seconds() - timestamp.unix_seconds();
    if !(-300..WINDOW_SECONDS).contains(&age_seconds) {
        return false;
    }
    let month = |at: Timestamp| -> Option<(i32, Month)> {
        OffsetDateTime::from_unix_timestamp(at.unix_seconds()).ok().map(|at| (at.year(), at.month()))
    };
    let six_hours_ago = Timestamp::from_unix_seconds(now.unix_seconds() - MONTH_END_GRACE_HOURS * 3600);
    month(timestamp) == month(now) || month(timestamp) == month(six_hours_ago)
}

impl Service {
    fn account_of(&self, record: &Asked<'_>) -> Option<String> {
        if let Some(account_id) = &record.account_id {
            return self.world.customers.contains_key(account_id).then(|| account_id.clone());
        }
        let identifier = record.customer_identifier?;
        let mut customers = self.world.customers.iter();
        customers
            .find(|(_, customer)| customer.identifier == identifier)
            .map(|(account_id, _)| account_id.clone())
    }
}

fn judge(service: &mut Service, product_code: &str, record: Asked<'_>) -> Result<Value, ServiceError> {
    let account_id = service.account_of(&record).unwrap_or_default();
    let result = |status: &str, id: Option<String>, echo: Value| {
        let mut result = Map::new();
        result.insert("UsageRecord".to_owned(), echo);
        result.insert("Status".to_owned(), json!(status));
        if let Some(id) = id {
            result.insert("MeteringRecordId".to_owned(), json!(id));
        }
        Ok(Value::Object(result))
    };
    if !service.customer(&account_id).is_some_and(|customer| customer.subscribed) {
        return result("CustomerNotSubscribed", None, record.echo);
    }
    let rounds = service.world.switches.batch_rounds_to_hour;
    let key = Key {
        // A customer that is named in both ways is billed twice, as AWS warns.
        source: Source::Seller { licensed: record.license_arn.is_some() },
        product_code: product_code.to_owned(),
        account_id,
        dimension: record.dimension.to_owned(),
        hour: if rounds { hour(record.timestamp) } else { record.timestamp },
    };
    match service.bill.record(key, Record::new(record.usage.quantity, usage_text(&record.usage))) {
        Ok(id) => result("Success", Some(id), record.echo),
        Err(id) => result("DuplicateRecord", Some(id), record.echo),
    }
}
