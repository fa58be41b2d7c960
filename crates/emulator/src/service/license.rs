//! License Manager (API reference, 2018-08-01): received licenses, checkouts, and tokens for containers outside of AWS.
//! The calling account is the pod's, as for metering.

mod checkout;
mod create;
mod listing;
#[cfg(test)]
pub(super) mod tests;

use serde_json::{Value, json};

use super::{Answer, Change, Decided, Operation, Request, Service, ServiceError};
use crate::change::Checkout;
use crate::license_token::{Bad, LicenseToken, Purpose};
use crate::seats::consumption_token;
use crate::wire::license::{ByArn, CheckInLicense, ExtendLicenseConsumption, GetAccessToken};
use crate::world::PodView;
use crate::world::contract::Contract;
use crate::world::switches::Switch;
use tollgate_time::Timestamp;

pub(super) fn decide(
    service: &Service,
    pod: &PodView<'_>,
    request: &Request<'_>,
    changes: &mut Vec<Change>,
) -> Decided {
    // Expired checkouts are noted first, so that the log is in the order of time.
    changes.extend(service.seats.lapses(request.now));
    match request.operation {
        Operation::CheckoutLicense => checkout::decide(service, pod, request, changes),
        Operation::ExtendLicenseConsumption => extend(service, pod, request, changes),
        Operation::CheckInLicense => check_in(service, pod, request, changes),
        Operation::ListReceivedLicenses => listing::decide(service, pod, request),
        Operation::GetLicense => get(service, pod, request),
        Operation::GetLicenseUsage => usage(service, pod, request),
        Operation::GetAccessToken => access_token(service, request),
        _ => create::decide(service, pod, request, changes),
    }
}

/// The error for a value that the model allows but that is not valid.
fn invalid(message: impl Into<String>) -> ServiceError {
    ServiceError::new("InvalidParameterValueException", message)
}

fn not_found(why: &str) -> ServiceError {
    ServiceError::new("ResourceNotFoundException", format!("The resource cannot be found. (emulator: {why})"))
}

fn full(why: &str) -> ServiceError {
    ServiceError::new("ServerInternalException", why)
}

impl Service {
    /// The error for a caller without permission.
    pub(super) fn unauthorized(&self, message: impl Into<String>) -> ServiceError {
        let code = if self.world.switches.second(Switch::AuthorizationCode) {
            "AccessDeniedException"
        } else {
            "AuthorizationException"
        };
        ServiceError::new(code, message)
    }

    /// A time in the form of the answers.
    fn time(&self, at: Timestamp) -> String {
        let text = at.to_string();
        if self.world.switches.second(Switch::ExpirationFormat) {
            text.trim_end_matches('Z').to_owned()
        } else {
            text
        }
    }

    fn time_of_millis(&self, at: i64) -> String {
        self.time(Timestamp::from_unix_millis(at))
    }

    /// The checkout of the pod's account with this token.
    fn checkout(
        &self,
        pod: &PodView<'_>,
        token: &str,
        now: Timestamp,
    ) -> Result<(&Checkout, &Contract), ServiceError> {
        let checkout = self.seats.find(token, now).filter(|checkout| checkout.account_id == pod.account_id);
        let checkout = checkout.ok_or_else(|| {
            not_found("no checkout of this account has the token; it was given back, or it ended by itself")
        })?;
        let contract = self.world.contracts.get(&checkout.license_arn);
        Ok((checkout, contract.ok_or_else(|| not_found("its license is gone"))?))
    }

    /// A contract that the pod's account received or issued.
    fn own_contract(&self, pod: &PodView<'_>, arn: &str) -> Result<&Contract, ServiceError> {
        let contract = self.world.contracts.get(arn).filter(|contract| {
            contract.account_id == pod.account_id || contract.issuer().0 == pod.account_id
        });
        contract.ok_or_else(|| invalid(format!("License {arn} does not exist, or is another account's.")))
    }
}

/// The expiry of a checkout that begins or is extended now.
fn expiry(contract: &Contract, now: Timestamp) -> i64 {
    now.unix_millis() + i64::from(contract.time_to_live_minutes) * 60_000
}

/// An extension fails only if the checkout has ended, not if the contract became smaller or ended.
fn extend(service: &Service, pod: &PodView<'_>, request: &Request<'_>, changes: &mut Vec<Change>) -> Decided {
    let asked: ExtendLicenseConsumption = super::members(request)?;
    let (checkout, contract) = service.checkout(pod, &asked.license_consumption_token, request.now)?;
    let Some(before) = checkout.expires else {
        return Err(invalid("Only provisional checkouts can be extended."));
    };
    let expires = if asked.dry_run == Some(true) {
        before
    } else {
        let expires = expiry(contract, request.now);
        changes.push(Change::Extended { checkout: checkout.number, expires });
        expires
    };
    Ok(Answer::Document(json!({
        "LicenseConsumptionToken": consumption_token(checkout.number),
        "Expiration": service.time_of_millis(expires),
    })))
}

fn check_in(
    service: &Service,
    pod: &PodView<'_>,
    request: &Request<'_>,
    changes: &mut Vec<Change>,
) -> Decided {
    let asked: CheckInLicense = super::members(request)?;
    let (checkout, contract) = service.checkout(pod, &asked.license_consumption_token, request.now)?;
    if checkout.expires.is_none() {
        return Err(invalid("Only provisional checkouts can be checked in."));
    }
    let kept = checkout.taken.iter().find(|taken| {
        contract.entitlement(&taken.name).is_some_and(|entitlement| !entitlement.allow_check_in)
    });
    if let Some(kept) = kept {
        return Err(ServiceError::new(
            "ConflictException",
            format!(
                "There was a conflict processing the request. (emulator: {} allows no check-in; it ends by itself)",
                kept.name
            ),
        ));
    }
    changes.push(Change::CheckedIn { checkout: checkout.number, at: request.now.unix_millis() });
    Ok(Answer::Document(json!({})))
}

fn get(service: &Service, pod: &PodView<'_>, request: &Request<'_>) -> Decided {
    let asked: ByArn = super::members(request)?;
    let contract = service.own_contract(pod, &asked.license_arn)?;
    if asked.version.is_some_and(|version| version != listing::VERSION) {
        return Err(invalid("The license has no such version."));
    }
    let license = listing::license_json(service, &asked.license_arn, contract, request.now);
    Ok(Answer::Document(json!({"License": license})))
}

/// Tiers are not consumed.
fn usage(service: &Service, pod: &PodView<'_>, request: &Request<'_>) -> Decided {
    let asked: ByArn = super::members(request)?;
    let contract = service.own_contract(pod, &asked.license_arn)?;
    let usages = contract.entitlements.iter().map(|entitlement| {
        let held = service.seats.held(&asked.license_arn, &entitlement.name, request.now);
        let mut usage = json!({
            "Name": entitlement.name,
            "ConsumedValue": held.to_string(),
            "Unit": entitlement.unit,
        });
        if let Some(max) = entitlement.max_count {
            usage["MaxCount"] = json!(max.to_string());
        }
        usage
    });
    let usages: Vec<Value> = usages.collect();
    Ok(Answer::Document(json!({"LicenseUsage": {"EntitlementUsages": usages}})))
}

/// Exchanges a refresh token for an access token. For a bad token the model has only errors of permission.
fn access_token(service: &Service, request: &Request<'_>) -> Decided {
    let asked: GetAccessToken = super::members(request)?;
    let refused = |why: &str| {
        service.unauthorized(format!(
            "The token is not authorized to perform: GetAccessToken. (emulator: {why})"
        ))
    };
    let token = LicenseToken::read(&asked.token, Purpose::Refresh, request.now).map_err(|bad| match bad {
        Bad::Unknown => refused("it is no refresh token of POST /_emulator/refresh-tokens"),
        Bad::Expired => refused("it has expired"),
    })?;
    if !service.world.contracts.contains_key(&token.license_arn) {
        return Err(refused("its license is gone"));
    }
    let properties = asked.token_properties.unwrap_or_default();
    if let Some(missing) = properties.iter().find(|wanted| !token.properties.contains(wanted)) {
        return Err(refused(&format!("it has no property {missing:?}")));
    }
    let access = token.issue(Purpose::Access, request.now, Purpose::Access.lifetime());
    Ok(Answer::Document(json!({"AccessToken": access})))
}
