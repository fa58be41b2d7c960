//! Reads License Manager's answers within limits.
//!
//! A value that this version does not know (a unit, a status) is kept as unknown. A number or list that AWS's model
//! does not allow makes the whole answer a fault, because what a license allows must not be guessed.

use std::time::Duration;

use serde::Deserialize;

use crate::call::{Elements, Loose, Raw, invalid_answer};
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
    /// The token of the next page.
    pub(super) next: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PageAnswer {
    licenses: Elements<Listed, PAGE_SIZE>,
    next_token: Loose<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    license_arn: Loose<String>,
    #[serde(rename = "ProductSKU")]
    product_sku: Loose<String>,
    issuer: Loose<Issuer>,
    home_region: Loose<String>,
    status: Loose<String>,
    validity: Option<Loose<Validity>>,
    entitlements: Elements<ListedEntitlement, ENTITLEMENTS_MAX>,
    consumption_configuration: Loose<Consumption>,
    received_metadata: Loose<Metadata>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Issuer {
    key_fingerprint: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Validity {
    begin: Loose<String>,
    end: Option<Loose<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListedEntitlement {
    name: Loose<String>,
    value: Loose<String>,
    max_count: Option<Loose<u64>>,
    overage: Loose<bool>,
    unit: Loose<String>,
    allow_check_in: Loose<bool>,
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

/// The licenses on a page that are of the requested product and issuer, whether or not AWS filtered.
pub(super) fn page(raw: &Raw, asked: &ListReceivedLicenses) -> Result<Page, Fault> {
    let PageAnswer { licenses, next_token } = raw.parse()?;
    if licenses.left_out {
        return Err(invalid_answer("with more than a page of licenses, or with what is none"));
    }
    let wanted = licenses.read.into_iter().filter(|license| is_asked_for(license, asked));
    let licenses = wanted.map(|listed| license(listed, asked)).collect::<Result<_, _>>()?;
    Ok(Page { licenses, next: next_token.0.filter(|next| !next.is_empty()) })
}

fn is_asked_for(license: &Listed, asked: &ListReceivedLicenses) -> bool {
    let issuer = license.issuer.0.as_ref();
    license.product_sku.0.as_deref() == Some(asked.product_id.as_str())
        && issuer.is_some_and(|issuer| issuer.key_fingerprint == asked.key_fingerprint.as_str())
}

fn license(listed: Listed, asked: &ListReceivedLicenses) -> Result<ReceivedLicense, Fault> {
    if listed.entitlements.left_out {
        return Err(invalid_answer("with more entitlements than a product has, or with what is none"));
    }
    let arn = listed.license_arn.0.filter(|arn| is_text(arn, ARN_CHARS_MAX));
    // The outer `Some`: the member is present; the inner `Some`: it can be read.
    let validity = listed.validity.map(|validity| validity.0);
    let end = match &validity {
        Some(Some(validity)) => validity.end.as_ref().map(|end| end.0.as_deref().and_then(time)),
        Some(None) => Some(None),
        None => None,
    };
    // If the end cannot be read, only AWS's answer to a checkout counts.
    let status = match end {
        Some(None) => LicenseStatus::Unknown,
        _ => LicenseStatus::from_wire(&listed.status.0.unwrap_or_default()),
    };
    let received = listed.received_metadata.0.map(|metadata| metadata.received_status);
    let minutes = listed
        .consumption_configuration
        .0
        .map(|consumption| u64::from(consumption.provisional_configuration.max_time_to_live_in_minutes));
    Ok(ReceivedLicense {
        arn: arn.ok_or_else(|| invalid_answer("with a license without ARN"))?,
        product_id: asked.product_id.as_str().to_owned(),
        key_fingerprint: asked.key_fingerprint.as_str().to_owned(),
        status,
        received: Received::from_wire(&received.unwrap_or_default()),
        begin: validity.flatten().and_then(|validity| validity.begin.0).as_deref().and_then(time),
        end: end.flatten(),
        entitlements: listed.entitlements.read.into_iter().map(entitlement).collect::<Result<_, _>>()?,
        home_region: listed.home_region.0.filter(|region| is_text(region, TEXT_CHARS_MAX)),
        time_to_live_max: minutes
            .filter(|minutes| *minutes > 0)
            .map(|minutes| Duration::from_secs(60 * minutes)),
    })
}

fn entitlement(listed: ListedEntitlement) -> Result<Entitlement, Fault> {
    let name = listed.name.0.filter(|name| is_text(name, TEXT_CHARS_MAX));
    let max_count = listed.max_count.map(|count| {
        let count = count.0.filter(|count| *count <= QUANTITY_MAX);
        count.ok_or_else(|| invalid_answer("with a MaxCount that counts nothing"))
    });
    Ok(Entitlement {
        name: name.ok_or_else(|| invalid_answer("with an entitlement without a name"))?,
        unit: listed.unit.0.and_then(|unit| unit.parse::<Unit>().ok()),
        max_count: max_count.transpose()?,
        value: listed.value.0.map(|value| value.chars().take(TEXT_CHARS_MAX).collect()),
        overage: listed.overage.0.unwrap_or_default(),
        allow_check_in: listed.allow_check_in.0.unwrap_or_default(),
    })
}

// === what is taken ===

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CheckoutAnswer {
    license_consumption_token: Loose<String>,
    entitlements_allowed: Elements<Part, ENTITLEMENTS_MAX>,
    expiration: Loose<String>,
    license_arn: Loose<String>,
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

/// Returns the token even if other members cannot be read, so that its seats can be given back.
pub(super) fn checked_out(raw: &Raw, region: Region) -> Result<CheckedOut, Fault> {
    let answer: CheckoutAnswer = raw.parse()?;
    let allowed = answer.entitlements_allowed.read.into_iter().filter(is_named).map(|part| {
        let value = part.value.as_deref().and_then(quantity);
        EntitlementData { name: part.name, unit: part.unit, value }
    });
    Ok(CheckedOut {
        token: token(answer.license_consumption_token, region)?,
        allowed: allowed.collect(),
        expiration: answer.expiration.0.as_deref().and_then(time),
        license_arn: answer.license_arn.0.filter(|arn| is_text(arn, ARN_CHARS_MAX)),
        emulated: raw.emulated,
    })
}

/// The same for an extension, which may bring another token.
pub(super) fn extended(raw: &Raw, region: Region) -> Result<Extended, Fault> {
    let answer: CheckoutAnswer = raw.parse()?;
    Ok(Extended {
        token: token(answer.license_consumption_token, region)?,
        expiration: answer.expiration.0.as_deref().and_then(time),
        emulated: raw.emulated,
    })
}

fn token(token: Loose<String>, region: Region) -> Result<ConsumptionToken, Fault> {
    let token = token.0.and_then(ConsumptionToken::new);
    token.map(|token| token.given_in(region)).ok_or_else(|| invalid_answer("without a consumption token"))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UsageAnswer {
    license_usage: Loose<Usage>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct Usage {
    entitlement_usages: Elements<Part, ENTITLEMENTS_MAX>,
}

/// What all pods have checked out; entries that cannot be read are left out and are unknown.
pub(super) fn usage(raw: &Raw) -> Result<LicenseUsage, Fault> {
    let answer: UsageAnswer = raw.parse()?;
    let parts = answer.license_usage.0.unwrap_or_default().entitlement_usages.read;
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

/// Whether a text can be kept and shown.
fn is_text(text: &str, max: usize) -> bool {
    !text.is_empty() && text.len() <= max && !text.chars().any(char::is_control)
}

/// A time as AWS writes it: with a zone, or in UTC without one.
fn time(text: &str) -> Option<Timestamp> {
    let text = Some(text).filter(|text| text.len() <= TIME_CHARS_MAX)?;
    Timestamp::parse(text).or_else(|| Timestamp::parse(&format!("{text}Z")))
}

/// A quantity as a decimal text; a fraction is dropped, and a larger value is limited to `QUANTITY_MAX`.
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
