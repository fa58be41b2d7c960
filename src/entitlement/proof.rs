//! What opens the gate; the kinds of proof differ by mode. Only a receipt is signed by AWS; the others are as
//! trustworthy as the connection over which the answer came.
//!
//! - [`Receipt`]: the token of `RegisterUsage`, verified against the seller's key.
//! - [`Permission`]: AWS accepted a dry run of `MeterUsage`, which checks the permission and nothing more; whether the
//!   account is subscribed shows with the first real report (AWS Marketplace API reference, MeterUsage, `DryRun`).
//! - [`ZeroReport`]: AWS accepted a report of 0 in a dimension that exists only for this and is never billed.
//! - [`Contract`]: License Manager lists a valid license or grants a checkout of it.
//! - [`Seller`]: the seller's own account reports usage for its customers; there is no buyer to check.

use tollgate_marketplace::{Identified, Metered};
use tollgate_receipt::Receipt;

/// What opens the gate.
#[derive(Debug)]
pub enum Proof {
    /// A `RegisterUsage` token, verified against the seller's key.
    Receipt(Receipt),
    /// AWS accepted a report of 0 in the dimension that exists for this.
    Metered(ZeroReport),
    /// AWS permits the pod to report usage.
    Permission(Permission),
    /// License Manager grants the license.
    License(Contract),
    /// The seller's own account reports.
    Seller(Seller),
}

impl Proof {
    /// The name in the entitlement document.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Receipt(_) => "signature",
            Self::Metered(_) => "metering",
            Self::Permission(_) => "permission",
            Self::License(_) => "license",
            Self::Seller(_) => "seller",
        }
    }

    /// Whether the emulator gave the answer.
    #[must_use]
    pub fn emulated(&self) -> bool {
        match self {
            Self::Receipt(receipt) => receipt.emulated(),
            Self::Metered(report) => report.emulated(),
            Self::Permission(permission) => permission.emulated(),
            Self::License(contract) => contract.emulated(),
            Self::Seller(seller) => seller.emulated(),
        }
    }
}

/// AWS accepted a dry run.
#[derive(Debug)]
pub struct Permission {
    dimension: String,
    emulated: bool,
}

impl Permission {
    /// From the answer to a dry run in this dimension.
    #[must_use]
    pub fn of(answer: &Metered, dimension: &str) -> Self {
        Self { dimension: dimension.to_owned(), emulated: answer.emulated }
    }

    /// The dimension of the dry run.
    #[must_use]
    pub fn dimension(&self) -> &str {
        &self.dimension
    }

    /// The emulator granted it.
    #[must_use]
    pub const fn emulated(&self) -> bool {
        self.emulated
    }
}

/// AWS accepted a report of 0.
#[derive(Debug)]
pub struct ZeroReport {
    emulated: bool,
}

impl ZeroReport {
    /// From the answer to a report of 0.
    #[must_use]
    pub const fn of(answer: &Metered) -> Self {
        Self { emulated: answer.emulated }
    }

    /// The emulator accepted it.
    #[must_use]
    pub const fn emulated(&self) -> bool {
        self.emulated
    }
}

/// License Manager granted a round.
#[derive(Debug)]
pub struct Contract {
    license_arn: Option<String>,
    emulated: bool,
}

impl Contract {
    /// From the license of the round; `None` if the pod's role may not list licenses.
    #[must_use]
    pub fn of(license_arn: Option<&str>, emulated: bool) -> Self {
        Self { license_arn: license_arn.map(ToOwned::to_owned), emulated }
    }

    /// The license's ARN, if it is known.
    #[must_use]
    pub fn license_arn(&self) -> Option<&str> {
        self.license_arn.as_deref()
    }

    /// The emulator granted it.
    #[must_use]
    pub const fn emulated(&self) -> bool {
        self.emulated
    }
}

/// Region and credentials were found.
#[derive(Debug)]
pub struct Seller(Identified);

impl Seller {
    /// From the region and credentials that were found.
    #[must_use]
    pub const fn of(identified: Identified) -> Self {
        Self(identified)
    }

    /// Whether the emulator stands in for AWS.
    #[must_use]
    pub const fn emulated(&self) -> bool {
        self.0.emulated
    }
}
