//! Contracts: licenses as License Manager shows them to the account that received them. What customers have of SaaS
//! products is [`License`](super::License), named after the ARN in AWS's API; License Manager does not serve those
//! here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::hash;
use tollgate_time::Timestamp;

/// A license that an account received.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Contract {
    /// `ProductSKU`.
    pub(crate) product_id: String,
    pub(crate) product_name: String,
    /// Its issuer (`aws:<account>:<name>:issuer-fingerprint`).
    pub(crate) key_fingerprint: String,
    /// The account that received it.
    pub(crate) account_id: String,
    pub(crate) received: Received,
    pub(crate) status: Status,
    #[serde(with = "crate::clock::millis_option")]
    pub(crate) begin: Option<Timestamp>,
    #[serde(with = "crate::clock::millis_option")]
    pub(crate) end: Option<Timestamp>,
    /// How long a checkout lasts.
    pub(crate) time_to_live_minutes: u32,
    pub(crate) home_region: String,
    pub(crate) entitlements: Vec<Entitlement>,
    /// Contracts are numbered in the order in which they were made.
    pub(crate) number: u64,
}

/// One dimension of a contract.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entitlement {
    pub(crate) name: String,
    pub(crate) unit: String,
    /// The number of units; `None` or 0 means unlimited.
    pub(crate) max_count: Option<u64>,
    /// The value of a tier.
    pub(crate) value: Option<String>,
    pub(crate) overage: bool,
    pub(crate) allow_check_in: bool,
}

/// The unit of tiers, which a license has or has not; they are not counted.
pub(crate) const TIER: &str = "None";

impl Entitlement {
    pub(crate) fn is_tier(&self) -> bool {
        self.unit == TIER
    }

    /// The most units that may be held at once.
    pub(crate) fn limit(&self) -> Option<u64> {
        self.max_count.filter(|max| *max > 0 && !self.overage)
    }
}

/// Whether the account that received it uses it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Received {
    /// Accepted and activated.
    #[default]
    Active,
    /// Accepted, but not activated, or deactivated again.
    Disabled,
    /// Not accepted yet.
    Pending,
}

impl Received {
    /// `ReceivedStatus`.
    pub(crate) const fn wire(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::Disabled => "DISABLED",
            Self::Pending => "PENDING_ACCEPT",
        }
    }
}

/// Its issuer's status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Status {
    #[default]
    Available,
    PendingAvailable,
    Deactivated,
    Suspended,
    Expired,
    PendingDelete,
    Deleted,
}

impl Status {
    /// `LicenseStatus`.
    pub(crate) const fn wire(self) -> &'static str {
        match self {
            Self::Available => "AVAILABLE",
            Self::PendingAvailable => "PENDING_AVAILABLE",
            Self::Deactivated => "DEACTIVATED",
            Self::Suspended => "SUSPENDED",
            Self::Expired => "EXPIRED",
            Self::PendingDelete => "PENDING_DELETE",
            Self::Deleted => "DELETED",
        }
    }
}

/// The issuer's fingerprint of licenses bought in AWS Marketplace.
pub(crate) const AWS_MARKETPLACE: &str = "aws:294406891311:AWS/Marketplace:issuer-fingerprint";

/// The issuer's fingerprint of licenses that an account issues under a name.
pub(crate) fn fingerprint_of(account_id: &str, issuer: &str) -> String {
    format!("aws:{account_id}:{issuer}:issuer-fingerprint")
}

/// Account and name of the issuer in a fingerprint.
pub(crate) fn issuer(key_fingerprint: &str) -> Option<(&str, &str)> {
    let rest = key_fingerprint.strip_prefix("aws:")?.strip_suffix(":issuer-fingerprint")?;
    let (account_id, name) = rest.split_once(':')?;
    let digits = account_id.len() == 12 && account_id.bytes().all(|byte| byte.is_ascii_digit());
    let plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
    (digits && plain).then_some((account_id, name))
}

/// An ARN that depends only on these texts.
pub(crate) fn arn(issuer_account_id: &str, texts: [&str; 2]) -> String {
    let digest = hash::of(&texts.map(str::as_bytes));
    let digits = hash::hex(digest.map(u64::to_be_bytes).concat());
    format!("arn:aws:license-manager::{issuer_account_id}:license:l-{digits}")
}

impl Contract {
    pub(crate) fn status_at(&self, now: Timestamp) -> Status {
        match self.status {
            Status::Available if self.end.is_some_and(|end| end <= now) => Status::Expired,
            Status::Available if self.begin.is_some_and(|begin| begin > now) => Status::PendingAvailable,
            status => status,
        }
    }

    pub(crate) fn usable(&self, now: Timestamp) -> bool {
        self.received == Received::Active && self.status_at(now) == Status::Available
    }

    pub(crate) fn entitlement(&self, name: &str) -> Option<&Entitlement> {
        self.entitlements.iter().find(|entitlement| entitlement.name == name)
    }

    /// Account and name of its issuer.
    pub(crate) fn issuer(&self) -> (&str, &str) {
        issuer(&self.key_fingerprint).unwrap_or_default()
    }
}

/// Contracts by ARN.
pub(crate) type Contracts = BTreeMap<String, Contract>;

/// The number of the next contract.
pub(crate) fn next_number(contracts: &Contracts) -> u64 {
    contracts.values().map(|contract| contract.number).max().unwrap_or(0) + 1
}
