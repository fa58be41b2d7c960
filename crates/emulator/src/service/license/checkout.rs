//! `CheckoutLicense`: takes part of a contract, once for each client token.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::{Answer, Change, Decided, Request, Service, ServiceError, expiry, full, invalid};
use crate::change::{Checkout, ClientToken, Taken};
use crate::hash;
use crate::seats::consumption_token;
use crate::service::members;
use crate::wire::license::{CheckoutLicense, EntitlementData};
use crate::world::contract::{Contract, TIER};
use crate::world::switches::Switch;
use crate::world::{PodView, Wanted};

/// How long a client token is known, unless the switch says forever.
const CLIENT_TOKEN_LIFE_MILLIS: i64 = 10 * 60 * 1000;

/// The type of a checkout that never expires.
const PERPETUAL: &str = "PERPETUAL";

pub(super) fn decide(
    service: &Service,
    pod: &PodView<'_>,
    request: &Request<'_>,
    changes: &mut Vec<Change>,
) -> Decided {
    let asked: CheckoutLicense = members(request)?;
    let wanted = wanted(&asked.entitlements)?;
    let client_token = client_token(pod, &asked);
    let switches = service.world.switches;
    let life = (!switches.second(Switch::ClientTokenLife)).then_some(CLIENT_TOKEN_LIFE_MILLIS);
    let known = service.seats.remembered(&client_token.token, request.now, life);
    if let Some(known) = known.filter(|_| !switches.second(Switch::RepeatedClientToken)) {
        if known.client_token.request != client_token.request {
            return Err(invalid("The ClientToken was used before, with other parameters."));
        }
        return Ok(Answer::Document(answer(service, &asked.checkout_type, known)));
    }
    let (license_arn, contract) = contract(service, pod, request, &asked)?;
    let taken = take(service, license_arn, contract, &wanted, request)?;
    let number = service.seats.next_number().ok_or_else(|| {
        full("the emulator remembers 100,000 checkouts at once and no more: POST /_emulator/reset")
    })?;
    let checkout = Checkout {
        number,
        license_arn: license_arn.to_owned(),
        account_id: pod.account_id.to_owned(),
        pod: pod.name.to_owned(),
        node_id: asked.node_id,
        taken,
        since: request.now.unix_millis(),
        expires: (asked.checkout_type != PERPETUAL).then(|| expiry(contract, request.now)),
        client_token,
    };
    let document = answer(service, &asked.checkout_type, &checkout);
    changes.push(Change::CheckedOut { checkout: Box::new(checkout) });
    Ok(Answer::Document(document))
}

/// A requested entitlement; a tier has no quantity.
struct Asked<'a> {
    data: &'a EntitlementData,
    quantity: Option<u64>,
}

fn wanted(entitlements: &[EntitlementData]) -> Result<Vec<Asked<'_>>, ServiceError> {
    if entitlements.is_empty() {
        return Err(invalid("At least one entitlement must be specified."));
    }
    let mut names = BTreeSet::new();
    let read = entitlements.iter().map(|data| {
        if !names.insert(&data.name) {
            return Err(invalid(format!("Entitlement {} is specified twice.", data.name)));
        }
        let quantity = match &data.value {
            _ if data.unit == TIER => None,
            Some(value) => Some(quantity(value).ok_or_else(|| {
                invalid(format!("Value {value:?} of entitlement {} is no positive whole number.", data.name))
            })?),
            None => return Err(invalid(format!("Entitlement {} needs a Value.", data.name))),
        };
        Ok(Asked { data, quantity })
    });
    read.collect()
}

/// A quantity within the limits of the model's `MaxCount`.
fn quantity(value: &str) -> Option<u64> {
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    value.parse().ok().filter(|quantity| digits && (1..=i64::MAX as u64).contains(quantity))
}

/// A client token belongs to the account; a repeated one must come with the same request.
fn client_token(pod: &PodView<'_>, asked: &CheckoutLicense) -> ClientToken {
    let request = serde_json::to_vec(asked).unwrap_or_default();
    ClientToken {
        token: hash::of(&[b"license", pod.account_id.as_bytes(), asked.client_token.as_bytes()]),
        request: hash::of(&[&request]),
    }
}

fn contract<'a>(
    service: &'a Service,
    pod: &PodView<'_>,
    request: &Request<'_>,
    asked: &CheckoutLicense,
) -> Result<(&'a str, &'a Contract), ServiceError> {
    let account_id = pod.account_id;
    let wanted =
        Wanted { account_id, product_id: &asked.product_sku, key_fingerprint: &asked.key_fingerprint };
    let Some((arn, contract)) = service.world.contract(&wanted, request.now) else {
        return Err(no_entitlements(&format!(
            "account {account_id} has no usable license of {} by {}",
            asked.product_sku, asked.key_fingerprint
        )));
    };
    // "If the account that created the license is the same that is performing the check out, you must specify the
    // account as the beneficiary" (API reference).
    let beneficiary = asked.beneficiary.as_deref();
    if contract.issuer().0 == account_id && beneficiary != Some(account_id) {
        return Err(invalid("The account that created the license must specify itself as the Beneficiary."));
    }
    if beneficiary.is_some_and(|beneficiary| beneficiary != account_id) {
        return Err(no_entitlements("the license has another beneficiary"));
    }
    let home = &contract.home_region;
    let location = match service.world.switches.answer(Switch::OtherRegion) {
        1 => home.clone(),
        2 => format!("https://license-manager.{home}.amazonaws.com"),
        _ => return Ok((arn, contract)),
    };
    if request.region == home {
        return Ok((arn, contract));
    }
    let message = "This is not the correct Region for the resource. Try again.";
    Err(ServiceError { location: Some(location), ..ServiceError::new("RedirectException", message) })
}

/// AWS has one text for all causes; the emulator adds the cause.
fn no_entitlements(why: &str) -> ServiceError {
    ServiceError::new(
        "NoEntitlementsAllowedException",
        format!(
            "There are no entitlements found for this license, or the entitlement maximum count is reached. (emulator: \
             {why})"
        ),
    )
}

/// Takes all of the counted entitlements or fails; of the tiers, takes those that the license has.
fn take(
    service: &Service,
    license_arn: &str,
    contract: &Contract,
    wanted: &[Asked<'_>],
    request: &Request<'_>,
) -> Result<Vec<Taken>, ServiceError> {
    let mut taken = Vec::with_capacity(wanted.len());
    for Asked { data, quantity } in wanted {
        let name = &data.name;
        let Some(entitlement) = contract.entitlement(name) else {
            if quantity.is_none() {
                continue;
            }
            return Err(no_entitlements(&format!("the license has no entitlement {name:?}")));
        };
        if entitlement.unit != data.unit {
            let why = format!("{name} is licensed in {}, not in {}", entitlement.unit, data.unit);
            return Err(if service.world.switches.second(Switch::UnitMismatch) {
                ServiceError::validation(format!(
                    "The unit of entitlement {name} does not match. (emulator: {why})"
                ))
            } else {
                no_entitlements(&why)
            });
        }
        match quantity {
            None if data.value.is_some() && data.value != entitlement.value => continue,
            None => {}
            Some(quantity) => {
                let held = service.seats.held(license_arn, name, request.now);
                let after = held.checked_add(*quantity);
                let fits = after.is_some_and(|after| entitlement.limit().is_none_or(|limit| after <= limit));
                if !fits {
                    let max = entitlement.max_count.unwrap_or(u64::MAX);
                    return Err(no_entitlements(&format!("{held} of {max} {name} are taken")));
                }
            }
        }
        taken.push(Taken {
            name: name.clone(),
            unit: data.unit.clone(),
            quantity: *quantity,
            value: entitlement.value.clone(),
        });
    }
    if taken.is_empty() {
        return Err(no_entitlements("the license has none of the tiers that were asked for"));
    }
    Ok(taken)
}

fn answer(service: &Service, checkout_type: &str, checkout: &Checkout) -> Value {
    let allowed: Vec<Value> = checkout
        .taken
        .iter()
        .map(|taken| {
            let mut allowed = json!({"Name": taken.name, "Unit": taken.unit});
            let value = taken.quantity.map(|quantity| quantity.to_string()).or_else(|| taken.value.clone());
            if let Some(value) = value {
                allowed["Value"] = json!(value);
            }
            allowed
        })
        .collect();
    let mut document = json!({
        "CheckoutType": checkout_type,
        "LicenseConsumptionToken": consumption_token(checkout.number),
        "EntitlementsAllowed": allowed,
        "SignedToken": signed_token(checkout),
        "IssuedAt": service.time_of_millis(checkout.since),
        "LicenseArn": checkout.license_arn,
    });
    if let Some(expires) = checkout.expires {
        document["Expiration"] = json!(service.time_of_millis(expires));
    }
    if let Some(node_id) = &checkout.node_id {
        document["NodeId"] = json!(node_id);
    }
    document
}

/// AWS documents neither format nor key, only that the token has at least 4096 characters. This one has the form of an
/// unsigned JWT with the claim `emulated`.
fn signed_token(checkout: &Checkout) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = part(&json!({"alg": "none", "typ": "JWT", "emulated": true}));
    let claims = part(&json!({
        "emulated": true,
        "licenseArn": checkout.license_arn,
        "iat": checkout.since / 1000,
        "padding": ".".repeat(SIGNED_TOKEN_PADDING),
    }));
    format!("{header}.{claims}.")
}

/// Base64 makes four characters of three bytes.
const SIGNED_TOKEN_PADDING: usize = 4096 * 3 / 4;
