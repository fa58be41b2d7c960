//! What License Manager answers, read within limits of ours.
//!
//! A word that this version does not know (a unit, a status) is kept as unknown. A number or a list that AWS's model
//! does not allow makes the whole answer a fault: what a license allows is not guessed.

use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::call::{Raw, elements, invalid_answer, read};
use tollgate_marketplace::license::{
    CheckedOut, ConsumptionToken, ENTITLEMENTS_MAX, Entitlement, EntitlementData, EntitlementUsage, Extended,
    LicenseStatus, LicenseUsage, ListReceivedLicenses, QUANTITY_MAX, Received, ReceivedLicense,
    TEXT_CHARS_MAX, Unit,
};
use tollgate_marketplace::{Fault, Region};
use tollgate_time::Timestamp;

use super::PAGE_SIZE;

/// Longest ARN (service model, `Arn`).
const ARN_CHARS_MAX: usize = 2048;

/// Longest time (service model, `ISO8601DateTime`).
const TIME_CHARS_MAX: usize = 50;

// === listings ===

/// A page of a listing.
#[derive(Debug)]
pub(super) struct Page {
    /// The licenses that were asked for.
    pub(super) licenses: Vec<ReceivedLicense>,
    /// What asks for the next page.
    pub(super) next: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PageAnswer<'a> {
    #[serde(borrow)]
    licenses: Option<&'a RawValue>,
    #[serde(borrow)]
    next_token: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed<'a> {
    #[serde(borrow)]
    license_arn: Option<&'a RawValue>,
    #[serde(borrow, rename = "ProductSKU")]
    product_sku: Option<&'a RawValue>,
    #[serde(borrow)]
    issuer: Option<&'a RawValue>,
    #[serde(borrow)]
    home_region: Option<&'a RawValue>,
    #[serde(borrow)]
    status: Option<&'a RawValue>,
    #[serde(borrow)]
    validity: Option<&'a RawValue>,
    #[serde(borrow)]
    entitlements: Option<&'a RawValue>,
    #[serde(borrow)]
    consumption_configuration: Option<&'a RawValue>,
    #[serde(borrow)]
    received_metadata: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Issuer {
    key_fingerprint: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct Validity<'a> {
    #[serde(borrow)]
    begin: Option<&'a RawValue>,
    #[serde(borrow)]
    end: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListedEntitlement<'a> {
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
    #[serde(borrow)]
    max_count: Option<&'a RawValue>,
    #[serde(borrow)]
    overage: Option<&'a RawValue>,
    #[serde(borrow)]
    unit: Option<&'a RawValue>,
    #[serde(borrow)]
    allow_check_in: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Consumption {
    provisional_configuration: Provisional,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Provisional {
    max_time_to_live_in_minutes: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Metadata {
    received_status: String,
}

/// The licenses on a page that are of the product and issuer that were asked for, whatever AWS has filtered.
pub(super) fn page(raw: &Raw, asked: &ListReceivedLicenses) -> Result<Page, Fault> {
    let answer: PageAnswer<'_> = raw.parse()?;
    let listed = elements::<Listed<'_>>(answer.licenses, PAGE_SIZE);
    if listed.left_out {
        return Err(invalid_answer("with more than a page of licenses, or with what is none"));
    }
    let wanted = listed.read.iter().filter(|license| is_asked_for(license, asked));
    let licenses: Result<Vec<ReceivedLicense>, Fault> = wanted.map(license).collect();
    let next = read::<String>(answer.next_token).filter(|next| !next.is_empty());
    Ok(Page { licenses: licenses?, next })
}

fn is_asked_for(license: &Listed<'_>, asked: &ListReceivedLicenses) -> bool {
    read::<String>(license.product_sku).as_deref() == Some(asked.product_id.as_str())
        && read::<Issuer>(license.issuer)
            .is_some_and(|issuer| issuer.key_fingerprint == asked.key_fingerprint.as_str())
}

fn license(listed: &Listed<'_>) -> Result<ReceivedLicense, Fault> {
    let arn = read::<String>(listed.license_arn).filter(|arn| is_text(arn, ARN_CHARS_MAX));
    let validity: Validity<'_> = read(listed.validity).unwrap_or_default();
    let end = read::<String>(validity.end);
    let entitlements = elements::<ListedEntitlement<'_>>(listed.entitlements, ENTITLEMENTS_MAX);
    if entitlements.left_out {
        return Err(invalid_answer("with more entitlements than a product has, or with what is none"));
    }
    let known_end = end.as_deref().and_then(time);
    // Without an end that can be read only AWS's answer to a checkout is believed.
    let status = match validity.end {
        Some(_) if known_end.is_none() => LicenseStatus::Unknown,
        _ => LicenseStatus::from_wire(&read::<String>(listed.status).unwrap_or_default()),
    };
    let received = read::<Metadata>(listed.received_metadata).map(|metadata| metadata.received_status);
    let minutes = read::<Consumption>(listed.consumption_configuration)
        .map(|consumption| u64::from(consumption.provisional_configuration.max_time_to_live_in_minutes));
    Ok(ReceivedLicense {
        arn: arn.ok_or_else(|| invalid_answer("with a license without ARN"))?,
        product_id: read(listed.product_sku).unwrap_or_default(),
        key_fingerprint: read::<Issuer>(listed.issuer)
            .map(|issuer| issuer.key_fingerprint)
            .unwrap_or_default(),
        status,
        received: Received::from_wire(&received.unwrap_or_default()),
        begin: read::<String>(validity.begin).as_deref().and_then(time),
        end: known_end,
        entitlements: entitlements.read.iter().map(entitlement).collect::<Result<_, _>>()?,
        home_region: read::<String>(listed.home_region).filter(|region| is_text(region, TEXT_CHARS_MAX)),
        time_to_live_max: minutes
            .filter(|minutes| *minutes > 0)
            .map(|minutes| Duration::from_secs(60 * minutes)),
    })
}

fn entitlement(listed: &ListedEntitlement<'_>) -> Result<Entitlement, Fault> {
    let name = read::<String>(listed.name).filter(|name| is_text(name, TEXT_CHARS_MAX));
    let max_count = match listed.max_count {
        None => None,
        Some(count) => {
            let count = read::<u64>(Some(count)).filter(|count| *count <= QUANTITY_MAX);
            Some(count.ok_or_else(|| invalid_answer("with a MaxCount that counts nothing"))?)
        }
    };
    Ok(Entitlement {
        name: name.ok_or_else(|| invalid_answer("with an entitlement without a name"))?,
        unit: read::<String>(listed.unit).and_then(|unit| unit.parse::<Unit>().ok()),
        max_count,
        value: read::<String>(listed.value).map(|value| value.chars().take(TEXT_CHARS_MAX).collect()),
        overage: read(listed.overage).unwrap_or_default(),
        allow_check_in: read(listed.allow_check_in).unwrap_or_default(),
    })
}

// === what is taken ===

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CheckoutAnswer<'a> {
    #[serde(borrow)]
    license_consumption_token: Option<&'a RawValue>,
    #[serde(borrow)]
    entitlements_allowed: Option<&'a RawValue>,
    #[serde(borrow)]
    expiration: Option<&'a RawValue>,
    #[serde(borrow)]
    license_arn: Option<&'a RawValue>,
}

/// A part of a license (service model, `EntitlementData`, `EntitlementUsage`).
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Part {
    name: String,
    unit: String,
    value: Option<String>,
    consumed_value: Option<String>,
    max_count: Option<String>,
}

/// Whatever else cannot be read: the token comes back, so that what it holds can be given back.
pub(super) fn checked_out(raw: &Raw, region: Region) -> Result<CheckedOut, Fault> {
    let answer: CheckoutAnswer<'_> = raw.parse()?;
    let allowed = elements::<Part>(answer.entitlements_allowed, ENTITLEMENTS_MAX).read.into_iter();
    let allowed = allowed.filter(is_named).map(|part| {
        let value = part.value.as_deref().and_then(quantity);
        EntitlementData { name: part.name, unit: part.unit, value }
    });
    Ok(CheckedOut {
        token: token(answer.license_consumption_token, region)?,
        allowed: allowed.collect(),
        expiration: read::<String>(answer.expiration).as_deref().and_then(time),
        license_arn: read::<String>(answer.license_arn).filter(|arn| is_text(arn, ARN_CHARS_MAX)),
        emulated: raw.emulated,
    })
}

/// The same of a renewal, which may bring another token.
pub(super) fn extended(raw: &Raw, region: Region) -> Result<Extended, Fault> {
    let answer: CheckoutAnswer<'_> = raw.parse()?;
    Ok(Extended {
        token: token(answer.license_consumption_token, region)?,
        expiration: read::<String>(answer.expiration).as_deref().and_then(time),
        emulated: raw.emulated,
    })
}

fn token(raw: Option<&RawValue>, region: Region) -> Result<ConsumptionToken, Fault> {
    let token = read::<String>(raw).and_then(ConsumptionToken::new);
    token.map(|token| token.given_in(region)).ok_or_else(|| invalid_answer("without a consumption token"))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UsageAnswer<'a> {
    #[serde(borrow)]
    license_usage: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Usage<'a> {
    #[serde(borrow)]
    entitlement_usages: Option<&'a RawValue>,
}

/// What all pods have taken; what of it cannot be read is left out, and is unknown.
pub(super) fn usage(raw: &Raw) -> Result<LicenseUsage, Fault> {
    let answer: UsageAnswer<'_> = raw.parse()?;
    let usage = read::<Usage<'_>>(answer.license_usage);
    let parts = elements::<Part>(usage.and_then(|usage| usage.entitlement_usages), ENTITLEMENTS_MAX).read;
    let entitlements = parts.into_iter().filter(is_named).filter_map(|part| {
        let consumed = quantity(part.consumed_value.as_deref()?)?;
        let max_count = part.max_count.as_deref().and_then(quantity).filter(|count| *count > 0);
        Some(EntitlementUsage { name: part.name, unit: part.unit, consumed, max_count })
    });
    Ok(LicenseUsage { entitlements: entitlements.collect(), emulated: raw.emulated })
}

fn is_named(part: &Part) -> bool {
    is_text(&part.name, TEXT_CHARS_MAX) && is_text(&part.unit, TEXT_CHARS_MAX)
}

// === texts ===

/// A text that can be kept and shown.
fn is_text(text: &str, max: usize) -> bool {
    !text.is_empty() && text.len() <= max && !text.chars().any(char::is_control)
}

/// A time as AWS writes it: with a zone, or without one, which is UTC.
fn time(text: &str) -> Option<Timestamp> {
    let text = Some(text).filter(|text| text.len() <= TIME_CHARS_MAX)?;
    Timestamp::parse(text).or_else(|| Timestamp::parse(&format!("{text}Z")))
}

/// A quantity as a decimal text; a fraction is cut, and what is larger than any quantity is the largest.
fn quantity(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(whole) && digits(fraction)).then(|| whole.parse().unwrap_or(u64::MAX).min(QUANTITY_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_without_a_zone_is_utc() {
        for text in [
            "2026-11-24T08:00:00Z",
            "2026-11-24T08:00:00",
            "2026-11-24T08:00:00.000",
            "2026-11-24T08:00:00.123456789",
            "2026-11-24T09:00:00+01:00",
        ] {
            assert_eq!(
                time(text).map(|at| at.to_string()).as_deref(),
                Some("2026-11-24T08:00:00Z"),
                "{text}"
            );
        }
        for text in ["", "tomorrow", "2026-11-24", "1795507200", "99999-11-24T08:00:00", &"9".repeat(60)] {
            assert_eq!(time(text), None, "{text}");
        }
    }

    #[test]
    fn a_quantity_is_a_decimal_text() {
        for (text, expected) in [
            ("0", Some(0)),
            ("10", Some(10)),
            ("10.0", Some(10)),
            ("10.9", Some(10)),
            ("99999999999999999999999", Some(QUANTITY_MAX)),
            ("", None),
            ("-1", None),
            ("+1", None),
            ("1e3", None),
            (".5", None),
            ("10.", None),
            ("Unlimited", None),
        ] {
            assert_eq!(quantity(text), expected, "{text}");
        }
    }
}
