//! `CreateLicense`, with which a contract can be rehearsed at AWS too. At AWS the license also needs a grant that the
//! other account accepts and activates; here the account in `Beneficiary` has it at once.

use serde_json::json;

use super::{Answer, Change, Decided, Request, Service, ServiceError, full, invalid, listing};
use crate::service::members;
use crate::wire::license::{self as wire, CreateLicense};
use crate::world::PodView;
use crate::world::contract::{
    Contract, Entitlement, Received, Status, TIER, arn, fingerprint_of, issuer, next_number,
};
use crate::world::document::DECLARED_MAX;
use tollgate_time::Timestamp;

pub(super) fn decide(
    service: &Service,
    pod: &PodView<'_>,
    request: &Request<'_>,
    changes: &mut Vec<Change>,
) -> Decided {
    let asked: CreateLicense = members(request)?;
    let license_arn = arn(pod.account_id, ["created", &asked.client_token]);
    let contracts = &service.world.contracts;
    let known = contracts.get(&license_arn);
    let number = known.map_or_else(|| next_number(contracts), |known| known.number);
    let contract = contract(pod, &asked, number)?;
    match known {
        Some(known) if *known != contract => {
            return Err(invalid("The ClientToken was used before, with other parameters."));
        }
        Some(_) => {}
        None if contracts.len() >= DECLARED_MAX => {
            return Err(full(
                "the emulator has room for 10,000 licenses; POST /_emulator/reset forgets them",
            ));
        }
        None => {
            let license_arn = license_arn.clone();
            changes.push(Change::Contract { license_arn, contract: contract.clone() });
        }
    }
    Ok(Answer::Document(json!({
        "LicenseArn": license_arn,
        "Status": contract.status_at(request.now).wire(),
        "Version": listing::VERSION,
    })))
}

fn contract(pod: &PodView<'_>, asked: &CreateLicense, number: u64) -> Result<Contract, ServiceError> {
    let key_fingerprint = fingerprint_of(pod.account_id, &asked.issuer.name);
    if issuer(&key_fingerprint).is_none() {
        return Err(invalid("Issuer.Name must have printable characters, and no colon."));
    }
    let beneficiary = &asked.beneficiary;
    if beneficiary.len() != 12 || !beneficiary.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(invalid(
            "Beneficiary must be an account. (emulator: it names the account that gets the license)",
        ));
    }
    let time = |text: &str, name: &str| {
        Timestamp::parse(text).ok_or_else(|| invalid(format!("{name} {text:?} is no time in ISO 8601.")))
    };
    let begin = time(&asked.validity.begin, "Validity.Begin")?;
    let end = asked.validity.end.as_ref().map(|end| time(end, "Validity.End")).transpose()?;
    if end.is_some_and(|end| end <= begin) {
        return Err(invalid("Validity.End must be after Validity.Begin."));
    }
    let provisional = asked.consumption_configuration.provisional_configuration.as_ref();
    let minutes = provisional.and_then(|provisional| {
        u32::try_from(provisional.max_time_to_live_in_minutes).ok().filter(|minutes| *minutes > 0)
    });
    let minutes = minutes.ok_or_else(|| {
        invalid("ConsumptionConfiguration needs ProvisionalConfiguration. (emulator: it has no borrowing)")
    })?;
    let needed = [
        ("ProductSKU", &asked.product_sku),
        ("ProductName", &asked.product_name),
        ("LicenseName", &asked.license_name),
        ("HomeRegion", &asked.home_region),
    ];
    if let Some((name, _)) = needed.iter().find(|(_, value)| value.is_empty()) {
        return Err(invalid(format!("{name} must not be empty.")));
    }
    Ok(Contract {
        product_id: asked.product_sku.clone(),
        product_name: asked.product_name.clone(),
        key_fingerprint,
        account_id: beneficiary.clone(),
        received: Received::Active,
        status: Status::Available,
        begin: Some(begin),
        end,
        time_to_live_minutes: minutes,
        home_region: asked.home_region.clone(),
        entitlements: entitlements(&asked.entitlements)?,
        number,
    })
}

fn entitlements(asked: &[wire::Entitlement]) -> Result<Vec<Entitlement>, ServiceError> {
    if asked.is_empty() {
        return Err(invalid("At least one entitlement must be specified."));
    }
    let read = asked.iter().map(|entitlement| {
        let tier = entitlement.unit == TIER;
        if tier == entitlement.max_count.is_some() || tier != entitlement.value.is_some() {
            return Err(invalid(format!(
                "Entitlement {} needs a Value if its unit is None, and a MaxCount if it is not.",
                entitlement.name
            )));
        }
        let max_count = entitlement.max_count.map(u64::try_from).transpose();
        Ok(Entitlement {
            name: entitlement.name.clone(),
            unit: entitlement.unit.clone(),
            max_count: max_count.map_err(|_| invalid("MaxCount must not be negative."))?,
            value: entitlement.value.clone(),
            overage: entitlement.overage.unwrap_or(false),
            allow_check_in: entitlement.allow_check_in.unwrap_or(false),
        })
    });
    read.collect()
}
