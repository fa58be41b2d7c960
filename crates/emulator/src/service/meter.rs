//! `MeterUsage` (AWS Marketplace API reference): one value for each pod, dimension and hour.

use serde_json::json;

use super::usage::{AHEAD_SECONDS_MAX, hour, read, repeats};
use super::{Answer, Change, Decided, Request, Service, ServiceError, not_entitled, out_of_bounds};
use crate::bill::{Known, record_id};
use crate::change::{ClientToken, FormText, Recorded};
use crate::hash;
use crate::wire::MeterUsage;
use crate::world::switches::Switch;
use crate::world::{Platform, PodView};
use tollgate_time::Timestamp;

/// How old a record may be, in seconds.
const WINDOW_SECONDS: i64 = 6 * 3600;

pub(super) fn decide(
    service: &Service,
    pod: &PodView<'_>,
    request: &Request<'_>,
    changes: &mut Vec<Change>,
) -> Decided {
    let asked: MeterUsage<'_> = super::members(request)?;
    let (quantity, allocations) = read(asked.quantity()?, asked.usage_allocations.as_deref())?;
    let switches = service.world.switches;
    let dry_run = asked.dry_run == Some(true);
    if dry_run && !switches.second(Switch::DryRunChecks) {
        return dry_run_answer(service);
    }
    check_place(service, pod, request)?;
    let product = service.product(&asked.product_code, request.operation)?;
    check_entitlement(service, pod, request, &asked, changes)?;
    if !product.dimensions.contains(asked.usage_dimension.as_ref()) {
        return Err(super::dimension_error(&asked.usage_dimension, product));
    }
    check_time(service, pod, asked.timestamp(), request.now)?;
    service.room(pod.name, &allocations)?;
    let agent = pod.platform == Platform::Agentcore;
    let report = Recorded {
        product_code: asked.product_code.clone().into_owned(),
        account_id: pod.account_id.to_owned(),
        dimension: asked.usage_dimension.clone().into_owned(),
        form: if agent { FormText::Agent(pod.name.to_owned()) } else { FormText::Pod(pod.name.to_owned()) },
        hour: if agent { asked.timestamp() } else { hour(asked.timestamp()) }.unix_millis(),
        timestamp: asked.timestamp().unix_millis(),
        quantity,
        allocations,
        call: request.call,
        client_token: client_token(service, pod, &asked, request.region, agent)?,
        region: request.region.to_owned(),
    };
    let (id, change) = judge(service, report)?;
    if dry_run {
        return dry_run_answer(service);
    }
    changes.push(change);
    Ok(Answer::Document(json!({"MeteringRecordId": record_id(id)})))
}

/// AWS's documents have two forms of the answer to a permitted dry run.
fn dry_run_answer(service: &Service) -> Decided {
    if service.world.switches.second(Switch::DryRun) {
        let text = "Request would have succeeded, but DryRun flag is set.";
        return Err(ServiceError::new("DryRunOperation", text));
    }
    Ok(Answer::Document(json!({})))
}

/// AWS documents that an error about entitlement comes only on a pod's first call.
fn check_entitlement(
    service: &Service,
    pod: &PodView<'_>,
    request: &Request<'_>,
    asked: &MeterUsage<'_>,
    changes: &mut Vec<Change>,
) -> Result<(), ServiceError> {
    let before = service.bill.registration(pod.name, &asked.product_code);
    let judged_once = before == Some(false) && service.world.switches.second(Switch::RefusedPod);
    if judged_once || service.world.subscribed(pod.account_id, &asked.product_code) {
        return Ok(());
    }
    // Stored once, so that repeated calls do not fill the memory.
    if before.is_none() && service.room(pod.name, &[]).is_ok() {
        changes.push(Change::Registered {
            pod: pod.name.to_owned(),
            product_code: asked.product_code.clone().into_owned(),
            account_id: pod.account_id.to_owned(),
            at: request.now.unix_millis(),
            call: request.call,
            entitled: false,
        });
    }
    Err(not_entitled())
}

fn check_place(service: &Service, pod: &PodView<'_>, request: &Request<'_>) -> Result<(), ServiceError> {
    // The model has no exception for platforms here; a caller that is not an instance, task or pod has no subscription
    // either.
    let unknown = matches!(pod.platform, Platform::NodeRole | Platform::Elsewhere);
    if unknown || service.refused_fargate(pod.platform) {
        let error = not_entitled();
        let hint = "(emulator: the credentials are not those of an EC2 instance, ECS task or EKS pod)";
        return Err(ServiceError::new(error.code, format!("{} {hint}", error.message)));
    }
    if request.region != pod.region {
        return Err(ServiceError::new(
            "InvalidEndpointRegionException",
            format!(
                "The endpoint being called is in an AWS Region different from your EC2 instance, ECS task, or EKS \
                 pod. The Region of the Metering Service endpoint and the AWS Region of the resource must match. \
                 (emulator: the pod runs in {}, the request is signed for {})",
                pod.region, request.region
            ),
        ));
    }
    Ok(())
}

fn check_time(
    service: &Service,
    pod: &PodView<'_>,
    timestamp: Timestamp,
    now: Timestamp,
) -> Result<(), ServiceError> {
    let age_millis = now.millis_since(timestamp);
    if age_millis > WINDOW_SECONDS * 1000 {
        return Err(out_of_bounds("it is more than 6 hours old"));
    }
    if age_millis < -AHEAD_SECONDS_MAX * 1000 {
        return Err(out_of_bounds("it lies in the future"));
    }
    if let Some(started_at) = pod.started_at {
        if timestamp < started_at {
            return Err(out_of_bounds("it is before the start of the software"));
        }
        if hour(timestamp) < started_at && service.world.switches.second(Switch::HourBeforeStart) {
            return Err(out_of_bounds("its hour began before the software started"));
        }
    }
    Ok(())
}

/// The digest of the token in its scope, and of everything that must be equal when the token comes again.
fn client_token(
    service: &Service,
    pod: &PodView<'_>,
    asked: &MeterUsage<'_>,
    region: &str,
    agent: bool,
) -> Result<Option<ClientToken>, ServiceError> {
    let Some(token) = asked.client_token.as_deref() else {
        if agent {
            let text = "ClientToken is required on Amazon Bedrock AgentCore Runtime: only the token distinguishes its reports";
            return Err(ServiceError::validation(text));
        }
        return Ok(None);
    };
    let scope =
        if service.world.switches.second(Switch::ClientTokenScope) { pod.account_id } else { pod.name };
    let (quantity, allocations) = read(asked.quantity()?, asked.usage_allocations.as_deref())?;
    Ok(Some(ClientToken {
        token: hash::of(&[scope.as_bytes(), region.as_bytes(), token.as_bytes()]),
        request: hash::of(&[
            asked.product_code.as_bytes(),
            asked.usage_dimension.as_bytes(),
            &asked.timestamp().unix_millis().to_be_bytes(),
            quantity.to_string().as_bytes(),
            format!("{allocations:?}").as_bytes(),
        ]),
    }))
}

/// The difference between a conflicting report and the record.
fn difference(known: &Known<'_>, report: &Recorded) -> String {
    if known.quantity == report.quantity {
        return format!("{} is recorded with other allocations than came now", known.quantity);
    }
    format!("{} is recorded, {} came now", known.quantity, report.quantity)
}

/// The record of a report, and the change that it makes.
fn judge(service: &Service, report: Recorded) -> Result<(u64, Change), ServiceError> {
    let repeated = |id| Change::Repeated { record: id, call: report.call, client_token: report.client_token };
    if let Some(token) = report.client_token
        && let Some((request, id)) = service.bill.client_token(&token.token)
    {
        if request != token.request {
            let message = "The ClientToken is being used for multiple requests.";
            return Err(ServiceError::new("IdempotencyConflictException", message));
        }
        return Ok((id, repeated(id)));
    }
    match service.bill.find(&report) {
        Some(known) if repeats(&known, &report, service.world.switches) => Ok((known.id, repeated(known.id))),
        Some(known) => Err(ServiceError::new(
            "DuplicateRequestException",
            format!(
                "A metering record has already been emitted by the same EC2 instance, ECS task, or EKS pod for the \
                 given {{usageDimension, timestamp}} with a different usageQuantity. (emulator: {})",
                difference(&known, &report)
            ),
        )),
        None => Ok((service.bill.next_id(), Change::Recorded { record: Box::new(report) })),
    }
}
