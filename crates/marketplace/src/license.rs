//! License Manager's vocabulary for products with contract pricing (AWS License Manager API reference, 2018-08-01).
//!
//! Requests such as [`CheckoutLicense`], and answers such as [`ReceivedLicense`] and [`CheckedOut`]. Tokens that hold
//! seats are never shown.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Invalid, Region};
use tollgate_time::Timestamp;

/// Longest product ID, issuer's fingerprint or entitlement name that is accepted; the service model states no limit.
pub const TEXT_CHARS_MAX: usize = 255;

/// Most entitlements of one product: AWS Marketplace limits the dimensions of a product.
pub const ENTITLEMENTS_MAX: usize = super::DIMENSIONS_MAX;

/// Longest token of a checkout that is kept; the service model states no limit.
pub const CONSUMPTION_TOKEN_BYTES_MAX: usize = 16 * 1024;

/// The product ID of the AWS Marketplace Management Portal, which License Manager calls `ProductSKU`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct ProductId(String);

impl ProductId {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ProductId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let plain =
            text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
        if text.is_empty() || text.len() > TEXT_CHARS_MAX || !plain {
            return Err(Invalid("is not a product ID, such as 2205b290-19e6-4c76-9eea-377d6bf7141a"));
        }
        if !text.contains('-') {
            return Err(Invalid(
                "is a product code; contract products are named by their product ID, which stands beside it in the AWS \
                 Marketplace Management Portal",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for ProductId {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl fmt::Display for ProductId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The issuer of a license (`KeyFingerprint`). Anybody can issue a license for a product ID in an account of their own;
/// only the issuer distinguishes it from one that was bought.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct KeyFingerprint(Cow<'static, str>);

impl KeyFingerprint {
    /// The issuer of licenses that were bought in AWS Marketplace.
    pub const AWS_MARKETPLACE: Self =
        Self(Cow::Borrowed("aws:294406891311:AWS/Marketplace:issuer-fingerprint"));

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyFingerprint {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let parts: Vec<&str> = text.split(':').collect();
        let valid = match parts.as_slice() {
            [partition, account, issuer, "issuer-fingerprint"] => {
                partition.starts_with("aws")
                    && account.len() == 12
                    && account.bytes().all(|byte| byte.is_ascii_digit())
                    && !issuer.is_empty()
            }
            _ => false,
        };
        if valid && text.len() <= TEXT_CHARS_MAX && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(Self(text.to_owned().into()))
        } else {
            Err(Invalid(
                "is not an issuer's fingerprint, such as aws:294406891311:AWS/Marketplace:issuer-fingerprint",
            ))
        }
    }
}

/// The unit of an entitlement, as AWS spells it (`EntitlementDataUnit`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Unit(&'static str);

/// Every unit of the service model. The emulator has a list of its own, so that one mistake does not cancel the other.
const UNITS: [&str; 27] = [
    "Count",
    "None",
    "Seconds",
    "Microseconds",
    "Milliseconds",
    "Bytes",
    "Kilobytes",
    "Megabytes",
    "Gigabytes",
    "Terabytes",
    "Bits",
    "Kilobits",
    "Megabits",
    "Gigabits",
    "Terabits",
    "Percent",
    "Bytes/Second",
    "Kilobytes/Second",
    "Megabytes/Second",
    "Gigabytes/Second",
    "Terabytes/Second",
    "Bits/Second",
    "Kilobits/Second",
    "Megabits/Second",
    "Gigabits/Second",
    "Terabits/Second",
    "Count/Second",
];

impl Unit {
    /// Seats, users, nodes.
    pub const COUNT: Self = Self("Count");

    /// A tier: the license has it or not, and its value is a text.
    pub const NONE: Self = Self("None");

    /// The unit, as AWS spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.0
    }

    /// Whether it stands for a tier instead of a quantity.
    #[must_use]
    pub fn is_tier(self) -> bool {
        self == Self::NONE
    }
}

impl FromStr for Unit {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        UNITS.into_iter().find(|unit| *unit == text).map(Self).ok_or(Invalid(
            "is not a unit of License Manager: Count, None for a tier, Seconds, Bytes, Bytes/Second and others of its API \
             reference, EntitlementDataUnit",
        ))
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// The largest quantity of an entitlement: `MaxCount` is a signed 64-bit number in the service model.
pub const QUANTITY_MAX: u64 = i64::MAX.unsigned_abs();

/// An entitlement that the product requires, as the seller configures it: `users:Count:10`, `users:Count`, `users`,
/// `premium:None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The dimension's name.
    pub name: String,
    /// The unit; `None` accepts the license's.
    pub unit: Option<Unit>,
    /// The least quantity that the license must have: at least 1; `None` for a tier.
    pub least: Option<u64>,
}

impl FromStr for Wanted {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let mut parts = text.split(':');
        let (name, unit, least) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
        if parts.next().is_some() {
            return Err(Invalid(
                "has more than three parts; write name:unit:quantity, such as users:Count:10",
            ));
        }
        let spaced = name.starts_with(char::is_whitespace) || name.ends_with(char::is_whitespace);
        if name.is_empty() || spaced || name.len() > TEXT_CHARS_MAX || name.chars().any(char::is_control) {
            return Err(Invalid(
                "does not begin with the name of an entitlement; write name:unit:quantity, such as users:Count:10",
            ));
        }
        let unit: Option<Unit> = unit.map(str::parse).transpose()?;
        let least = least.map(quantity).transpose()?;
        if least.is_some() && unit.is_some_and(Unit::is_tier) {
            return Err(Invalid(
                "has a quantity, and unit None is a tier, which has none; write premium:None",
            ));
        }
        Ok(Self { name: name.to_owned(), unit, least })
    }
}

fn quantity(text: &str) -> Result<u64, Invalid> {
    // `parse` would accept a sign.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse::<u64>().ok().filter(|number| digits && (1..=QUANTITY_MAX).contains(number));
    number.ok_or(Invalid("has a quantity that is not a whole number from 1 to 9223372036854775807"))
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        let unit = self.unit.map(|unit| write!(f, ":{unit}"));
        unit.transpose()?;
        let least = self.least.map(|least| write!(f, ":{least}"));
        least.transpose()?;
        Ok(())
    }
}

/// The type of checkout (`CheckoutType`). A `PERPETUAL` checkout never ends; tollgate makes none.
pub const PROVISIONAL: &str = "PROVISIONAL";

/// A license in the answer to `ListReceivedLicenses`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedLicense {
    /// Its ARN.
    pub arn: String,
    /// Its product.
    pub product_id: String,
    /// Its issuer.
    pub key_fingerprint: String,
    /// Whether the issuer allows its use.
    pub status: LicenseStatus,
    /// Whether this account has accepted and activated it.
    pub received: Received,
    /// From when it is valid, if the time is readable.
    pub begin: Option<Timestamp>,
    /// Until when; `None` for no end. A license with an unreadable end has the status [`LicenseStatus::Unknown`].
    pub end: Option<Timestamp>,
    /// Its entitlements.
    pub entitlements: Vec<Entitlement>,
    /// The region where it was issued.
    pub home_region: Option<String>,
    /// How long a checkout lasts at most, if the license states it.
    pub time_to_live_max: Option<Duration>,
}

/// Whether a license may be used (`LicenseStatus`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LicenseStatus {
    /// It may be used.
    Available,
    /// It may not be used yet.
    PendingAvailable,
    /// Its issuer has deactivated or suspended it (`DEACTIVATED`, `SUSPENDED`).
    Deactivated,
    /// It has ended.
    Expired,
    /// It is deleted, or will be.
    Deleted,
    /// A value that this version does not know.
    Unknown,
}

impl LicenseStatus {
    /// From AWS's name.
    #[must_use]
    pub fn from_wire(word: &str) -> Self {
        match word {
            "AVAILABLE" => Self::Available,
            "PENDING_AVAILABLE" => Self::PendingAvailable,
            "DEACTIVATED" | "SUSPENDED" => Self::Deactivated,
            "EXPIRED" => Self::Expired,
            "PENDING_DELETE" | "DELETED" => Self::Deleted,
            _ => Self::Unknown,
        }
    }

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Available => "available",
            Self::PendingAvailable => "pending",
            Self::Deactivated => "deactivated",
            Self::Expired => "expired",
            Self::Deleted => "deleted",
            Self::Unknown => "unknown",
        }
    }
}

/// Whether the account has accepted and activated a license that it received (`ReceivedStatus`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Received {
    /// Accepted and activated.
    Active,
    /// Not accepted yet.
    PendingAccept,
    /// Accepted, but not activated, or deactivated again.
    Disabled,
    /// License Manager is processing it.
    InWork,
    /// Rejected, deleted or failed.
    Gone,
    /// A value that this version does not know, or none.
    Unknown,
}

impl Received {
    /// From AWS's name.
    #[must_use]
    pub fn from_wire(word: &str) -> Self {
        match word {
            "ACTIVE" => Self::Active,
            "PENDING_ACCEPT" => Self::PendingAccept,
            "DISABLED" => Self::Disabled,
            "PENDING_WORKFLOW" | "WORKFLOW_COMPLETED" => Self::InWork,
            "REJECTED" | "DELETED" | "FAILED_WORKFLOW" => Self::Gone,
            _ => Self::Unknown,
        }
    }

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::PendingAccept => "pending_accept",
            Self::Disabled => "disabled",
            Self::InWork => "in_work",
            Self::Gone => "gone",
            Self::Unknown => "unknown",
        }
    }
}

/// An entitlement of a license: one dimension of the product.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entitlement {
    /// The dimension's name.
    pub name: String,
    /// The unit; `None` for one that this version does not know.
    pub unit: Option<Unit>,
    /// The quantity; `None` or 0 means without a limit.
    pub max_count: Option<u64>,
    /// The value of a tier.
    pub value: Option<String>,
    /// Whether more than `max_count` may be taken.
    pub overage: bool,
    /// Whether seats can be given back before their checkout ends.
    pub allow_check_in: bool,
}

/// The request of `ListReceivedLicenses`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListReceivedLicenses {
    /// The product.
    pub product_id: ProductId,
    /// The issuer.
    pub key_fingerprint: KeyFingerprint,
}

/// All pages of the answer to `ListReceivedLicenses`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedLicenses {
    /// The licenses.
    pub licenses: Vec<ReceivedLicense>,
    /// Whether an answer had the emulator's mark.
    pub emulated: bool,
}

/// Part of a license, taken or to be taken (`EntitlementData`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntitlementData {
    /// The dimension's name.
    pub name: String,
    /// The unit, as AWS spells it.
    pub unit: String,
    /// The quantity; `None` for a tier.
    pub value: Option<u64>,
}

/// The request of `CheckoutLicense`. The checkout is provisional: it ends by itself.
#[derive(Clone, PartialEq, Eq)]
pub struct CheckoutLicense {
    /// The product.
    pub product_id: ProductId,
    /// The issuer.
    pub key_fingerprint: KeyFingerprint,
    /// What to take. AWS grants all or nothing, except for tiers.
    pub entitlements: Vec<EntitlementData>,
    /// The same for every repetition of one checkout.
    pub client_token: String,
}

/// Without the token.
impl fmt::Debug for CheckoutLicense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckoutLicense")
            .field("product_id", &self.product_id)
            .field("entitlements", &self.entitlements)
            .finish_non_exhaustive()
    }
}

/// The token of a checkout, with which its seats can be renewed or given back. Never shown.
///
/// It is valid only in the region that issued it, which may differ from the configured one, so it includes that region.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumptionToken {
    token: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    region: Option<Region>,
}

impl ConsumptionToken {
    /// From AWS's answer; `None` if the text is empty or too long.
    #[must_use]
    pub fn new(text: String) -> Option<Self> {
        let kept = !text.is_empty() && text.len() <= CONSUMPTION_TOKEN_BYTES_MAX;
        kept.then_some(Self { token: text, region: None })
    }

    /// Sets the region that issued it.
    #[must_use]
    pub fn given_in(self, region: Region) -> Self {
        Self { region: Some(region), ..self }
    }

    /// The region that issued it; `None` for the configured one.
    #[must_use]
    pub const fn region(&self) -> Option<&Region> {
        self.region.as_ref()
    }

    /// The token's text, only for the call and the state file.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.token
    }
}

impl fmt::Debug for ConsumptionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConsumptionToken(…)")
    }
}

/// A definitive answer of `CheckoutLicense`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedOut {
    /// The token of the checkout.
    pub token: ConsumptionToken,
    /// What was taken, without tiers that the license lacks.
    pub allowed: Vec<EntitlementData>,
    /// When the checkout ends by itself; `None` if the time is unreadable.
    pub expiration: Option<Timestamp>,
    /// The license.
    pub license_arn: Option<String>,
    /// The answer carried the emulator's mark.
    pub emulated: bool,
}

/// A definitive answer of `ExtendLicenseConsumption`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extended {
    /// The token of the checkout from now on.
    pub token: ConsumptionToken,
    /// As [`CheckedOut::expiration`].
    pub expiration: Option<Timestamp>,
    /// The answer carried the emulator's mark.
    pub emulated: bool,
}

/// A definitive answer of `CheckInLicense`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckedIn {
    /// The answer carried the emulator's mark.
    pub emulated: bool,
}

/// A definitive answer of `GetLicenseUsage`: how much of a license all pods have taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LicenseUsage {
    /// One for each dimension.
    pub entitlements: Vec<EntitlementUsage>,
    /// The answer carried the emulator's mark.
    pub emulated: bool,
}

/// How much of one dimension is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntitlementUsage {
    /// The dimension's name.
    pub name: String,
    /// AWS's spelling.
    pub unit: String,
    /// How much is taken.
    pub consumed: u64,
    /// The quantity of the license; `None` without a limit.
    pub max_count: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_code_is_no_product_id() {
        for good in ["2205b290-19e6-4c76-9eea-377d6bf7141a", "prod-bk2q5jwb4nvvg"] {
            assert!(good.parse::<ProductId>().is_ok(), "{good}");
        }
        let code = "4h9bqmt5uxk8k7p6w6n9rfwkp".parse::<ProductId>().unwrap_err();
        assert!(code.to_string().contains("is a product code"), "{code}");
        for bad in ["", "a b-c", "a-b\n", &"a-".repeat(200)] {
            assert!(bad.parse::<ProductId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_issuer_has_an_account_and_a_name() {
        let marketplace = KeyFingerprint::AWS_MARKETPLACE;
        assert_eq!(marketplace.as_str().parse::<KeyFingerprint>().unwrap(), marketplace);
        for (text, valid) in [
            ("aws:111122223333:Seller:issuer-fingerprint", true),
            ("aws:1111:Seller:issuer-fingerprint", false),
            ("aws:111122223333::issuer-fingerprint", false),
            ("aws:111122223333:Seller", false),
            ("AWS/Marketplace", false),
            ("", false),
        ] {
            assert_eq!(text.parse::<KeyFingerprint>().is_ok(), valid, "{text}");
        }
    }

    #[test]
    fn units_are_spelt_as_aws_does() {
        assert!("Count".parse::<Unit>().is_ok_and(|unit| !unit.is_tier()));
        assert!("None".parse::<Unit>().is_ok_and(Unit::is_tier));
        for bad in ["count", "Seat", "Users", ""] {
            assert!(bad.parse::<Unit>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_wanted_entitlement_has_a_name_a_unit_and_a_quantity() {
        let wanted = |name: &str, unit, least| Wanted { name: name.to_owned(), unit, least };
        for (text, expected) in [
            ("users:Count:10", wanted("users", Some(Unit::COUNT), Some(10))),
            ("users:Count", wanted("users", Some(Unit::COUNT), None)),
            ("users", wanted("users", None, None)),
            ("premium:None", wanted("premium", Some(Unit::NONE), None)),
            ("Gold tier:None", wanted("Gold tier", Some(Unit::NONE), None)),
            ("users:Count:9223372036854775807", wanted("users", Some(Unit::COUNT), Some(QUANTITY_MAX))),
        ] {
            assert_eq!(text.parse::<Wanted>().as_ref(), Ok(&expected), "{text}");
            assert_eq!(expected.to_string(), text);
        }
        for (text, why) in [
            ("", "does not begin with the name"),
            (":Count", "does not begin with the name"),
            (" users", "does not begin with the name"),
            ("us\ners", "does not begin with the name"),
            ("u".repeat(TEXT_CHARS_MAX + 1).as_str(), "does not begin with the name"),
            ("users:count", "not a unit"),
            ("users:10", "not a unit"),
            ("users::10", "not a unit"),
            ("users:", "not a unit"),
            ("users:Count:", "not a whole number"),
            ("users:Count:0", "not a whole number"),
            ("users:Count:+1", "not a whole number"),
            ("users:Count:-1", "not a whole number"),
            ("users:Count:1.5", "not a whole number"),
            ("users:Count:9223372036854775808", "not a whole number"),
            ("users:Count:1:2", "more than three parts"),
            ("premium:None:1", "is a tier"),
        ] {
            let problem = text.parse::<Wanted>().expect_err(text).to_string();
            assert!(problem.contains(why), "{text}: {problem}");
        }
    }

    #[test]
    fn words_that_this_version_does_not_know_are_told_apart_from_none_of_ours() {
        assert_eq!(LicenseStatus::from_wire("SUSPENDED"), LicenseStatus::Deactivated);
        assert_eq!(LicenseStatus::from_wire("FROZEN"), LicenseStatus::Unknown);
        assert_eq!(Received::from_wire("DISABLED"), Received::Disabled);
        assert_eq!(Received::from_wire(""), Received::Unknown);
    }

    #[test]
    fn what_holds_seats_is_never_shown() {
        let token = ConsumptionToken::new("secret".to_owned()).unwrap();
        assert!(!format!("{token:?}").contains("secret"));
        assert!(ConsumptionToken::new(String::new()).is_none());
        assert!(ConsumptionToken::new("x".repeat(CONSUMPTION_TOKEN_BYTES_MAX + 1)).is_none());
        for token in [token.clone(), token.given_in("us-west-2".parse().unwrap())] {
            let kept = serde_json::to_string(&token).unwrap();
            assert!(serde_json::from_str::<ConsumptionToken>(&kept).unwrap() == token, "{kept}");
        }
    }
}
