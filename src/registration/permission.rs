//! The proofs of the modes that report usage. None is signed: they hold as far as the answer's way can be trusted.
//!
//! - [`Permission`]: AWS accepted a dry run of `MeterUsage`, which checks the permission and nothing more; whether the
//!   account is subscribed shows with the first real report (AWS Marketplace API reference, MeterUsage, `DryRun`).
//! - [`ZeroReport`]: AWS accepted a report of 0 in a dimension that is made for this and never billed.
//! - [`Seller`]: the seller's own account reports for its customers; there is no buyer to ask about.

use crate::clock::Timestamp;
use crate::marketplace::{HourUsage, Identified, MeterUsage, Metered, ProductCode};

/// AWS accepted a dry run.
#[derive(Debug)]
pub struct Permission {
    dimension: String,
    emulated: bool,
}

impl Permission {
    /// From the answer to [`dry_run`] in this dimension.
    #[must_use]
    pub fn of(answer: &Metered, dimension: &str) -> Self {
        Self { dimension: dimension.to_owned(), emulated: answer.emulated }
    }

    /// The dimension that AWS was asked about.
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
    /// From the answer to [`zero_report`].
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

/// Configuration, ledger and credentials are there.
#[derive(Debug)]
pub struct Seller(Identified);

impl Seller {
    /// From credentials that were found.
    #[must_use]
    pub const fn of(identified: Identified) -> Self {
        Self(identified)
    }
}

/// Asked about when no dimension is configured: a dry run is not stated to look at it.
pub const ANY_DIMENSION: &str = "tollgate";

/// The question whose answer is a [`Permission`].
#[must_use]
pub fn dry_run(
    product_code: &ProductCode,
    dimension: &str,
    now: Timestamp,
    client_token: &str,
) -> MeterUsage {
    MeterUsage { dry_run: true, ..zero_report(product_code, dimension, now, client_token) }
}

/// The question whose answer is a [`ZeroReport`].
#[must_use]
pub fn zero_report(
    product_code: &ProductCode,
    dimension: &str,
    now: Timestamp,
    client_token: &str,
) -> MeterUsage {
    MeterUsage {
        product_code: product_code.clone(),
        dimension: dimension.to_owned(),
        usage: HourUsage::zero(now),
        client_token: client_token.to_owned(),
        dry_run: false,
        region: None,
    }
}
