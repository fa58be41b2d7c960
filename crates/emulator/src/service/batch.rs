//! `BatchMeterUsage` (AWS Marketplace API reference): up to 25 records of many customers, each judged by itself, except
//! that one bad timestamp, dimension, quantity or product fails the whole batch.

use std::collections::HashMap;

use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::usage::{AHEAD_SECONDS_MAX, hour, read, repeats};
use super::{Change, Decided, Request, Service, ServiceAnswer, ServiceError, out_of_bounds};
use crate::bill::{Known, record_id};
use crate::change::{FormText, Recorded};
use crate::model;
use crate::operation::Operation;
use crate::wire::{BatchMeterUsage, UsageRecord};
use crate::world::switches::Switch;
use crate::world::{Agreements, License, Product};
use tollgate_time::Timestamp;

/// Requests must be smaller (AWS Marketplace API reference, BatchMeterUsage: "less than 1 MB").
const REQUEST_BYTES_MAX: usize = 1_000_000;

/// How old a record may be, in seconds; it must be less.
const WINDOW_SECONDS: i64 = 24 * 3600;

/// How long a month accepts records after its end, in seconds.
const MONTH_GRACE_SECONDS: i64 = 6 * 3600;

/// How long usage of a deprovisioned license is still accepted, in seconds (AWS's metering skill: "about an hour").
const FLUSH_SECONDS: i64 = 3600;

/// A record that passed all checks which fail a whole batch.
struct Checked {
    report: Recorded,
    subscribed: bool,
    echo: Value,
}

/// A customer, and the license that named it.
type Found = (String, Option<License>);

pub(super) fn decide(service: &Service, request: &Request<'_>, changes: &mut Vec<Change>) -> Decided {
    if request.body_bytes >= REQUEST_BYTES_MAX {
        let message = format!("The request has {} bytes; it must be smaller than 1 MB.", request.body_bytes);
        return Err(ServiceError::new("RequestEntityTooLargeException", message));
    }
    let asked: BatchMeterUsage<'_> = super::members(request)?;
    service.disabled(None, request)?;
    // No records and no ProductCode: nothing to bill or check.
    if asked.usage_records.is_empty() && asked.product_code.is_none() {
        return Ok(ServiceAnswer::Document(json!({"Results": [], "UnprocessedRecords": []})));
    }
    let (product_code, product) = product_of(service, &asked)?;
    service.disabled(Some(product), request)?;
    let echoes = request.body.get("UsageRecords").and_then(Value::as_array);
    let echoes = echoes.into_iter().flatten();
    let mut records = Vec::with_capacity(asked.usage_records.len());
    for (record, echo) in asked.usage_records.iter().zip(echoes) {
        let batch = (product_code.as_str(), product, asked.product_code.is_some());
        records.push(check(service, batch, record, request, echo)?);
    }
    let processed = records.len().saturating_sub(request.unprocessed);
    let unprocessed: Vec<Value> =
        records.split_off(processed).into_iter().map(|record| record.echo).collect();
    for record in &records {
        service.room(request.pod, &record.report.allocations)?;
    }
    let results = judge(service, records, changes);
    Ok(ServiceAnswer::Document(json!({"Results": results, "UnprocessedRecords": unprocessed})))
}

/// The product of the call: from `ProductCode` in the legacy integration, from the licenses under Concurrent
/// Agreements.
fn product_of<'a>(
    service: &'a Service,
    asked: &BatchMeterUsage<'_>,
) -> Result<(String, &'a Product), ServiceError> {
    let license =
        |record: &UsageRecord<'_>| record.license_arn.as_deref().and_then(|arn| service.world.license(arn));
    let code = match asked.product_code.as_deref() {
        Some(code) => code.to_owned(),
        None => match asked.usage_records.iter().find_map(license) {
            Some((_, license)) => license.product_code,
            None if asked.usage_records.iter().any(|record| record.license_arn.is_some()) => {
                return Err(invalid_license("there is no such LicenseArn"));
            }
            None => {
                return Err(ServiceError::new(
                    "InvalidProductCodeException",
                    "ProductCode is required for records without LicenseArn.",
                ));
            }
        },
    };
    let product = service.product(&code, Operation::BatchMeterUsage)?;
    Ok((code, product))
}

fn invalid_license(why: &str) -> ServiceError {
    let message =
        "the LicenseArn must be a license of this customer, and the usage within the time of the license";
    ServiceError::new("InvalidLicenseException", format!("{message} (emulator: {why})"))
}

fn check(
    service: &Service,
    (product_code, product, named): (&str, &Product, bool),
    record: &UsageRecord<'_>,
    request: &Request<'_>,
    echo: &Value,
) -> Result<Checked, ServiceError> {
    check_form(service, product, named, record)?;
    let (quantity, allocations) = read(record.quantity()?, record.usage_allocations.as_deref())?;
    if !product.dimensions.contains(record.dimension.as_ref()) {
        return Err(super::dimension_error(&record.dimension, product));
    }
    let timestamp = record.timestamp();
    check_time(timestamp, request.now)?;
    let found = customer_of(service, product_code, record, timestamp)?;
    let (account_id, subscribed) = match &found {
        Some((account_id, Some(license))) => (account_id.clone(), takes(service, license, request.now)),
        Some((account_id, None)) => {
            let licenses = service.world.licenses(account_id, product_code);
            (account_id.clone(), licenses.iter().any(|license| takes(service, license, request.now)))
        }
        None => (String::new(), false),
    };
    let rounded = if service.world.switches.second(Switch::BatchHours) { timestamp } else { hour(timestamp) };
    let form = match found.and_then(|(_, license)| license) {
        // The two forms are two records: a seller who sends both is billed twice, as AWS warns.
        Some(license) => FormText::License(license.arn),
        None => FormText::Product,
    };
    let report = Recorded {
        product_code: product_code.to_owned(),
        account_id,
        dimension: record.dimension.clone().into_owned(),
        form,
        hour: rounded.unix_millis(),
        timestamp: timestamp.unix_millis(),
        quantity,
        allocations,
        call: request.call,
        client_token: None,
        region: request.region.to_owned(),
    };
    Ok(Checked { report, subscribed, echo: model::known_members(echo) })
}

/// Whether usage is accepted under a license: while it lasts, and for a last report afterwards.
fn takes(service: &Service, license: &License, now: Timestamp) -> bool {
    let flush = |at: &Timestamp| now.millis_since(*at) <= FLUSH_SECONDS * 1000;
    license.subscribed
        || (!service.world.switches.second(Switch::DeprovisionedFlush)
            && license.unsubscribed_at.as_ref().is_some_and(flush))
}

/// Checks which members name product and customer (model text of BatchMeterUsage and UsageRecord).
fn check_form(
    service: &Service,
    product: &Product,
    named: bool,
    record: &UsageRecord<'_>,
) -> Result<(), ServiceError> {
    let customer = |text: &str| Err(ServiceError::new("InvalidCustomerIdentifierException", text));
    let by_identifier = record.customer_identifier.is_some();
    let by_account = record.customer_aws_account_id.is_some();
    let by_license = record.license_arn.is_some();
    if by_identifier && by_account {
        return customer(
            "CustomerIdentifier and CustomerAWSAccountId exclude each other: name the customer once.",
        );
    }
    if !by_identifier && !by_account {
        return customer("A UsageRecord names its customer with CustomerAWSAccountId.");
    }
    if by_license && by_identifier {
        return customer("LicenseArn goes with CustomerAWSAccountId, not with CustomerIdentifier.");
    }
    if by_license && named && !service.world.switches.second(Switch::LicenseWithProductCode) {
        return Err(ServiceError::validation(
            "Do not send ProductCode with LicenseArn: the license names the product, and both would be billed.",
        ));
    }
    if !by_license && !named {
        return Err(invalid_license("a record has no LicenseArn, and the request no ProductCode"));
    }
    match product.agreements {
        Agreements::Concurrent if !by_license => Err(invalid_license(
            "the product has Concurrent Agreements: records need LicenseArn, the request no ProductCode",
        )),
        Agreements::Legacy if by_license => Err(invalid_license(
            "the product has no Concurrent Agreements: send ProductCode instead of LicenseArn",
        )),
        _ => Ok(()),
    }
}

/// The customer of a record; `None` for an unknown one, if the switch makes that no exception.
fn customer_of(
    service: &Service,
    product_code: &str,
    record: &UsageRecord<'_>,
    timestamp: Timestamp,
) -> Result<Option<Found>, ServiceError> {
    let world = &service.world;
    let account_id = match (&record.customer_identifier, &record.customer_aws_account_id) {
        (Some(identifier), _) => world.customers.account_of_identifier(identifier).map(str::to_owned),
        (None, Some(account_id)) => {
            world.customers.contains_key(account_id.as_ref()).then(|| account_id.clone().into_owned())
        }
        (None, None) => None,
    };
    let Some(account_id) = account_id else {
        if world.switches.second(Switch::UnknownCustomer) {
            return Ok(None);
        }
        return Err(ServiceError::new(
            "InvalidCustomerIdentifierException",
            "You have metered usage for a CustomerIdentifier that does not exist.",
        ));
    };
    let Some(arn) = record.license_arn.as_deref() else { return Ok(Some((account_id, None))) };
    match world.license(arn) {
        None => Err(invalid_license("there is no such LicenseArn")),
        Some((owner, _)) if owner != account_id => {
            Err(invalid_license("the LicenseArn is another customer's"))
        }
        Some((_, license)) if license.product_code != product_code => {
            Err(invalid_license("a request is for one product, and the licenses are of several"))
        }
        Some((_, license)) if !license.active_at(timestamp) => {
            Err(invalid_license("the timestamp is outside the license's activation period"))
        }
        Some((_, license)) => Ok(Some((account_id, Some(license)))),
    }
}

/// Checks that the time is within 24 hours and not in a closed month: a month closes at 06:00 UTC on the first of the
/// next.
fn check_time(timestamp: Timestamp, now: Timestamp) -> Result<(), ServiceError> {
    let age_millis = now.millis_since(timestamp);
    if age_millis >= WINDOW_SECONDS * 1000 {
        return Err(out_of_bounds("it is 24 hours old or older"));
    }
    if age_millis < -AHEAD_SECONDS_MAX * 1000 {
        return Err(out_of_bounds("it lies in the future"));
    }
    let month = |at: Timestamp| {
        let at = OffsetDateTime::from_unix_timestamp(at.unix_seconds()).ok()?;
        Some((at.year(), u8::from(at.month())))
    };
    let grace = Timestamp::from_unix_seconds(now.unix_seconds() - MONTH_GRACE_SECONDS);
    if month(timestamp) < month(grace) {
        return Err(out_of_bounds("its month is closed since 06:00 UTC on the first"));
    }
    Ok(())
}

/// Judges the records in their order; records of one batch may repeat or contradict each other.
fn judge(service: &Service, records: Vec<Checked>, changes: &mut Vec<Change>) -> Vec<Value> {
    let mut next_id = service.bill.next_id();
    let mut own: HashMap<String, (u64, Recorded)> = HashMap::new();
    let mut results = Vec::with_capacity(records.len());
    for Checked { report, subscribed, echo } in records {
        if !subscribed {
            results.push(result("CustomerNotSubscribed", None, echo));
            continue;
        }
        let key = format!("{:?}", (&report.account_id, &report.dimension, &report.form, report.hour));
        let in_batch = own.get(&key).map(|(id, earlier)| Known {
            id: *id,
            quantity: earlier.quantity,
            allocations: &earlier.allocations,
        });
        match in_batch.or_else(|| service.bill.find(&report)) {
            Some(known) if repeats(&known, &report, service.world.switches) => {
                changes.push(Change::Repeated { record: known.id, call: report.call, client_token: None });
                let duplicate = service.world.switches.second(Switch::IdenticalBatchRecord);
                let status = if duplicate { "DuplicateRecord" } else { "Success" };
                results.push(result(status, Some(known.id), echo));
            }
            // "A previously metered UsageRecord had the same customer, dimension, and time, but a different quantity."
            Some(known) => results.push(result("DuplicateRecord", Some(known.id), echo)),
            None => {
                changes.push(Change::Recorded { record: Box::new(report.clone()) });
                results.push(result("Success", Some(next_id), echo));
                own.insert(key, (next_id, report));
                next_id += 1;
            }
        }
    }
    results
}

fn result(status: &str, id: Option<u64>, echo: Value) -> Value {
    let mut result = Map::new();
    result.insert("UsageRecord".to_owned(), echo);
    if let Some(id) = id {
        result.insert("MeteringRecordId".to_owned(), json!(record_id(id)));
    }
    result.insert("Status".to_owned(), json!(status));
    Value::Object(result)
}
