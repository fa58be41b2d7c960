//! Licenses of one account, and what AWS Marketplace says about them.

use tollgate_marketplace::Customer;
use tollgate_marketplace::lifecycle::{LifecycleEvent, NamedLicense, News};
use tollgate_time::Timestamp;

/// The account that has bought them.
pub const ACCOUNT: &str = "111122223333";

/// The ARN of a license, such as `l-1`.
#[must_use]
pub fn arn(license: &str) -> String {
    format!("arn:aws:license-manager::294406891311:license:{license}")
}

/// The account as a customer with this license.
#[must_use]
pub fn licensed(license: &str) -> Customer {
    Customer::Account { account_id: ACCOUNT.to_owned(), license_arn: Some(arn(license)) }
}

/// The license as an event names it.
#[must_use]
pub fn named(license: &str) -> NamedLicense {
    NamedLicense { account: ACCOUNT.to_owned(), license: license.to_owned(), agreement: None }
}

/// An event with this id.
#[must_use]
pub fn news(id: &str, at: Timestamp, news: News) -> LifecycleEvent {
    LifecycleEvent { id: id.to_owned(), at, detail_type: String::new(), news }
}

/// The license ended.
#[must_use]
pub fn ended(id: &str, license: &str, at: Timestamp) -> LifecycleEvent {
    news(id, at, News::LicenseDeprovisioned(named(license)))
}

/// The license is active.
#[must_use]
pub fn updated(id: &str, license: &str, at: Timestamp) -> LifecycleEvent {
    news(id, at, News::LicenseUpdated(named(license)))
}
