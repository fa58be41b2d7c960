//! `MeterUsage` (AWS Marketplace API reference): one value for each pod, dimension and hour.

use serde_json::json;

use super::usage::{hour, usage};
use super::{Outcome, Pod, Request, Service, ServiceError, Structure};
use crate::emulator::bill::{Key, Record, Source};
use crate::emulator::check::{CLIENT_TOKEN, DIMENSION, PRODUCT_CODE};
use std::time::Duration;

/// How far back a record may lie.
const WINDOW: Duration = Duration::from_secs(6 * 3600);

/// A record may be this far ahead of the service's clock, for clocks differ.
const AHEAD_MAX: Duration = Duration::from_secs(300);

pub(super) fn decide(
    service: &mut Service,
    pod: &Pod,
    request: &Request<'_>,
    body: &Structure<'_>,
) -> Outcome {
    let product_code = body.required_text("ProductCode", PRODUCT_CODE)?;
    let timestamp = body.required_timestamp("Timestamp")?;
    let dimension = body.required_text("UsageDimension", DIMENSION)?;
    let client_token = body.text("ClientToken", CLIENT_TOKEN)?;
    let dry_run = body.boolean("DryRun")?.unwrap_or_default();
    let usage = usage(body, "UsageQuantity", "UsageQuantityAsDecimal")?;
    if dry_run {
        // It checks permission, which was granted above; AWS's documents give it two forms.
        if service.world.switches.dry_run_exception {
            let text = "Request would have succeeded, but DryRun flag is set.";
            return Err(ServiceError::new("DryRunOperation", text));
        }
        return Ok(json!({}));
    }
    if request.signer.region != pod.region {
        return Err(ServiceError::new(
            "InvalidEndpointRegionException",
            "The endpoint being called is in an AWS Region different from your EC2 instance, ECS task, or EKS pod.",
        ));
    }
    let Some(product) = service.world.products.get(product_code) else {
        return Err(Service::product_error());
    };
    if !product.dimensions.contains(dimension) {
        return Err(ServiceError::new(
            "InvalidUsageDimensionException",
            "The usage dimension does not match one of the UsageDimensions associated with products.",
        ));
    }
    let hour = hour(timestamp);
    let oldest = request.now.minus(WINDOW);
    let before_start = service.world.switches.hour_before_start_out_of_bounds
        && pod.started_at.is_some_and(|started| hour < started);
    if timestamp < oldest || timestamp > request.now.plus(AHEAD_MAX) || before_start {
        return Err(ServiceError::new(
            "TimestampOutOfBoundsException",
            "The timestamp value passed in the UsageRecord is out of allowed range.",
        ));
    }
    if !service.subscribed(pod) {
        return Err(ServiceError::new(
            "CustomerNotEntitledException",
            "Exception thrown when the customer does not have a valid subscription for the product.",
        ));
    }
    let key = Key {
        source: Source::Pod(request.signer.access_key.clone()),
        product_code: product_code.to_owned(),
        account_id: pod.account_id.clone(),
        dimension: dimension.to_owned(),
        hour,
    };
    if let Some(token) = client_token {
        let same = service.bill.claim_token(token, &key, &usage_text(&usage));
        if !same {
            return Err(ServiceError::new(
                "IdempotencyConflictException",
                "The ClientToken is being used for multiple requests.",
            ));
        }
    }
    match service.bill.record(key, Record::new(usage.quantity, usage_text(&usage))) {
        Ok(id) => Ok(json!({"MeteringRecordId": id})),
        Err(_) => Err(ServiceError::new(
            "DuplicateRequestException",
            "A metering record has already been emitted by the same EC2 instance, ECS task, or EKS pod for the given \
             {usageDimension, timestamp} with a different usageQuantity.",
        )),
    }
}

/// Equal by value: 17 and 17.00 are the same.
pub(super) fn usage_text(usage: &super::usage::Usage) -> String {
    format!("{} {:?}", usage.quantity, usage.allocations)
}
