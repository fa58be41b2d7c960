//! The members of License Manager's requests, and the secrets in its answers.

use serde::{Deserialize, Serialize};

use super::Outcome;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct CheckoutLicense {
    #[serde(rename = "ProductSKU")]
    pub(crate) product_sku: String,
    pub(crate) checkout_type: String,
    pub(crate) key_fingerprint: String,
    pub(crate) entitlements: Vec<EntitlementData>,
    pub(crate) client_token: String,
    pub(crate) beneficiary: Option<String>,
    pub(crate) node_id: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct EntitlementData {
    pub(crate) name: String,
    pub(crate) value: Option<String>,
    pub(crate) unit: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ExtendLicenseConsumption {
    pub(crate) license_consumption_token: String,
    pub(crate) dry_run: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct CheckInLicense {
    pub(crate) license_consumption_token: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ListReceivedLicenses {
    pub(crate) license_arns: Option<Vec<String>>,
    pub(crate) filters: Option<Vec<Filter>>,
    pub(crate) next_token: Option<String>,
    pub(crate) max_results: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Filter {
    pub(crate) name: Option<String>,
    pub(crate) values: Option<Vec<String>>,
}

/// `GetLicense` and `GetLicenseUsage`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ByArn {
    pub(crate) license_arn: String,
    pub(crate) version: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct GetAccessToken {
    pub(crate) token: String,
    pub(crate) token_properties: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct CreateLicense {
    pub(crate) license_name: String,
    pub(crate) product_name: String,
    #[serde(rename = "ProductSKU")]
    pub(crate) product_sku: String,
    pub(crate) issuer: Issuer,
    pub(crate) home_region: String,
    pub(crate) validity: Validity,
    pub(crate) entitlements: Vec<Entitlement>,
    pub(crate) beneficiary: String,
    pub(crate) consumption_configuration: Consumption,
    pub(crate) client_token: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Issuer {
    pub(crate) name: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Validity {
    pub(crate) begin: String,
    pub(crate) end: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Entitlement {
    pub(crate) name: String,
    pub(crate) value: Option<String>,
    pub(crate) max_count: Option<i64>,
    pub(crate) overage: Option<bool>,
    pub(crate) unit: String,
    pub(crate) allow_check_in: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Consumption {
    pub(crate) provisional_configuration: Option<Provisional>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Provisional {
    pub(crate) max_time_to_live_in_minutes: i32,
}

/// How a request is noted whose token would be valid for a year.
pub(super) const SHOWN_REFRESH: &str = "{\"Token\":\"…\"}";

/// The parts of an answer that notes omit: `SignedToken` because it is long, `AccessToken` because it is a credential.
pub(super) fn secrets(outcome: &Outcome) -> Vec<String> {
    let Ok(document) = outcome else { return Vec::new() };
    let named = ["SignedToken", "AccessToken"].into_iter().filter_map(|name| document.get(name)?.as_str());
    named.filter(|text| !text.is_empty()).map(str::to_owned).collect()
}
