//! `ListReceivedLicenses`, page by page, and a license's JSON.

use serde_json::{Value, json};

use super::{Decided, Request, Service, ServiceAnswer, ServiceError, invalid};
use crate::fault::Pages;
use crate::service::{members, page_start, page_token};
use crate::wire::license::{Filter, ListReceivedLicenses};
use crate::world::PodView;
use crate::world::contract::{Contract, ContractEntitlement};
use tollgate_time::Timestamp;

/// Licenses of a page, unless the caller wants fewer.
const PAGE: usize = 100;

/// The emulator keeps one version of each license.
pub(super) const VERSION: &str = "1";

pub(super) fn decide(service: &Service, pod: &PodView<'_>, request: &Request<'_>) -> Decided {
    let asked: ListReceivedLicenses = members(request)?;
    let filters = asked.filters.unwrap_or_default();
    for filter in &filters {
        check(filter)?;
    }
    let mut fitting: Vec<(&str, &Contract)> = service
        .world
        .contracts
        .iter()
        .map(|(arn, contract)| (arn.as_str(), contract))
        .filter(|(arn, contract)| {
            contract.account_id == pod.account_id
                && asked.license_arns.as_ref().is_none_or(|arns| arns.iter().any(|wanted| wanted == arn))
                && filters.iter().all(|filter| fits(filter, contract, request.now))
        })
        .collect();
    fitting.sort_by_key(|(_, contract)| contract.number);
    let start = match asked.next_token.as_deref() {
        Some(token) => page_start(token).ok_or_else(|| invalid("NextToken is not valid."))?,
        None => 0,
    };
    let size = match request.pages {
        // The same licenses come on every page, so that no client gets a page at which it could stop.
        Some(Pages::Endless) => PAGE,
        _ => asked.max_results.unwrap_or(PAGE),
    };
    let (licenses, next): (Vec<Value>, Option<usize>) = match request.pages {
        Some(Pages::Empty) => (Vec::new(), Some(start)),
        Some(Pages::Endless) => {
            let all =
                fitting.iter().take(size).map(|(arn, contract)| granted(service, arn, contract, request));
            (all.collect(), Some(start + 1))
        }
        None => {
            let page = fitting.iter().skip(start).take(size);
            let licenses = page.map(|(arn, contract)| granted(service, arn, contract, request));
            (licenses.collect(), (start + size < fitting.len()).then_some(start + size))
        }
    };
    let mut document = json!({"Licenses": licenses});
    if let Some(next) = next {
        document["NextToken"] = json!(page_token(next));
    }
    Ok(ServiceAnswer::Document(document))
}

/// The filters of the API reference.
const FILTERS: [&str; 5] = ["ProductSKU", "Status", "Fingerprint", "IssuerName", "Beneficiary"];

fn check(filter: &Filter) -> Result<(), ServiceError> {
    let name = filter.name.as_deref().unwrap_or_default();
    if !FILTERS.contains(&name) {
        return Err(invalid(format!("Filter {name:?} is none of {}.", FILTERS.join(", "))));
    }
    if filter.values.as_ref().is_none_or(Vec::is_empty) {
        return Err(invalid(format!("Filter {name} has no values.")));
    }
    Ok(())
}

fn fits(filter: &Filter, contract: &Contract, now: Timestamp) -> bool {
    let found: &str = match filter.name.as_deref() {
        Some("ProductSKU") => &contract.product_id,
        Some("Status") => contract.status_at(now).wire(),
        Some("Fingerprint") => &contract.key_fingerprint,
        Some("IssuerName") => contract.issuer().1,
        _ => &contract.account_id,
    };
    filter.values.iter().flatten().any(|wanted| wanted == found)
}

/// A license with the status that the receiving account gave it.
fn granted(service: &Service, arn: &str, contract: &Contract, request: &Request<'_>) -> Value {
    let mut license = license_json(service, arn, contract, request.now);
    license["ReceivedMetadata"] = json!({
        "ReceivedStatus": contract.received.wire(),
        "AllowedOperations": [
            "CheckoutLicense", "CheckInLicense", "ExtendConsumptionLicense", "ListPurchasedLicenses", "CreateToken",
            "ListReceivedLicenses",
        ],
        "GrantType": "BuyerGrant",
    });
    license
}

pub(super) fn license_json(service: &Service, arn: &str, contract: &Contract, now: Timestamp) -> Value {
    let begin = service.time(contract.begin.unwrap_or(now));
    let mut validity = json!({"Begin": begin});
    if let Some(end) = contract.end {
        validity["End"] = json!(service.time(end));
    }
    let entitlements: Vec<Value> = contract.entitlements.iter().map(entitlement_json).collect();
    let (_, issuer) = contract.issuer();
    json!({
        "LicenseArn": arn,
        "LicenseName": contract.product_name,
        "ProductName": contract.product_name,
        "ProductSKU": contract.product_id,
        "Issuer": {"Name": issuer, "KeyFingerprint": contract.key_fingerprint},
        "HomeRegion": contract.home_region,
        "Status": contract.status_at(now).wire(),
        "Validity": validity,
        "Beneficiary": contract.account_id,
        "Entitlements": entitlements,
        "ConsumptionConfiguration": {
            "RenewType": "None",
            "ProvisionalConfiguration": {"MaxTimeToLiveInMinutes": contract.time_to_live_minutes},
        },
        "CreateTime": begin,
        "Version": VERSION,
    })
}

fn entitlement_json(entitlement: &ContractEntitlement) -> Value {
    let mut document = json!({
        "Name": entitlement.name,
        "Unit": entitlement.unit,
        "Overage": entitlement.overage,
        "AllowCheckIn": entitlement.allow_check_in,
    });
    if let Some(max) = entitlement.max_count {
        document["MaxCount"] = json!(max);
    }
    if let Some(value) = entitlement.value.as_ref().filter(|_| entitlement.is_tier()) {
        document["Value"] = json!(value);
    }
    document
}
