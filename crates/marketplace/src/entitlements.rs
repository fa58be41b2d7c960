//! The entitlements of the seller's customers: request and answer of `GetEntitlements`
//! (service model `entitlement.marketplace/2017-01-11`).

use serde_json::Number;

use super::{ProductCode, Region};
use tollgate_time::Timestamp;

/// Most entitlements of one answer: a product has at most 200 dimensions, and an account some licenses.
pub const ENTITLEMENTS_MAX: usize = 2_000;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GetEntitlements {
    /// The product.
    pub product_code: ProductCode,
    /// Whose entitlements.
    pub of: EntitlementsOf,
}

/// Whose entitlements are asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntitlementsOf {
    /// Those of an account, with all its licenses.
    Account(String),
    /// Those of one license, by its ARN.
    License(String),
    /// Of any customer: only whether there are any. The answer has one page that is not empty, if there is one.
    Anybody,
}

impl EntitlementsOf {
    /// From the key of a path; `None` if it is neither an account nor a `LicenseArn`.
    #[must_use]
    pub fn parse(key: &str) -> Option<Self> {
        if super::customer::is_license_arn(key) {
            Some(Self::License(key.to_owned()))
        } else {
            super::customer::is_account_number(key).then(|| Self::Account(key.to_owned()))
        }
    }
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entitlements {
    /// From all pages.
    pub entitlements: Vec<Entitlement>,
    /// The endpoint is the emulator.
    pub emulated: bool,
}

/// What a customer has bought of a dimension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entitlement {
    /// The dimension.
    pub dimension: String,
    /// How much; `None` if the answer has no value that is known.
    pub value: Option<EntitlementValue>,
    /// Until when at least.
    pub expires_at: Option<Timestamp>,
    /// The buyer's account, if AWS names it.
    pub account: Option<String>,
    /// The license, if AWS names it.
    pub license_arn: Option<String>,
    /// The legacy identifier, if AWS names it.
    pub identifier: Option<String>,
}

impl Entitlement {
    /// An upper bound of its memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let value = match &self.value {
            Some(EntitlementValue::Text(text)) => text.len(),
            _ => 0,
        };
        let texts = [&self.account, &self.license_arn, &self.identifier].map(text);
        size_of::<Self>() + self.dimension.len() + value + texts.iter().sum::<usize>()
    }
}

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntitlementValue {
    /// `IntegerValue` or `DoubleValue`.
    Number(Number),
    /// `BooleanValue`
    Boolean(bool),
    /// `StringValue`
    Text(String),
}

/// The region of the service for a product that is metered in `region`: each of AWS's partitions has one. `None` for a
/// partition without it.
#[must_use]
pub fn home(region: &Region) -> Option<Region> {
    let name = region.as_str();
    let home = if name.starts_with("cn-") {
        "cn-northwest-1"
    } else if name.starts_with("eusc-") {
        "eusc-de-east-1"
    } else if name.starts_with("us-gov-") || name.contains("-iso") {
        return None;
    } else {
        "us-east-1"
    };
    home.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_partition_has_its_own_service() {
        for (region, expected) in [
            ("us-east-1", Some("us-east-1")),
            ("eu-central-1", Some("us-east-1")),
            ("cn-north-1", Some("cn-northwest-1")),
            ("eusc-de-east-1", Some("eusc-de-east-1")),
            ("us-gov-west-1", None),
            ("us-iso-east-1", None),
        ] {
            let home = home(&region.parse().unwrap());
            assert_eq!(home.as_ref().map(Region::as_str), expected, "{region}");
        }
    }

    #[test]
    fn a_key_is_an_account_or_a_license() {
        let arn = "arn:aws:license-manager::294406891311:license:l-1";
        assert_eq!(EntitlementsOf::parse(arn), Some(EntitlementsOf::License(arn.to_owned())));
        assert!(matches!(EntitlementsOf::parse("111122223333"), Some(EntitlementsOf::Account(_))));
        for bad in ["", "11112222333", "customer"] {
            assert_eq!(EntitlementsOf::parse(bad), None, "{bad}");
        }
    }
}
