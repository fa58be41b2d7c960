//! The requests of the modes that report usage, whose answers open the gate (`entitlement::proof`).

use tollgate_marketplace::{HourUsage, MeterUsage, ProductCode};
use tollgate_time::Timestamp;

/// Asked about when no dimension is configured: a dry run is not stated to look at it.
pub const ANY_DIMENSION: &str = "tollgate";

/// The question whose answer is a `Permission`.
#[must_use]
pub fn dry_run(
    product_code: &ProductCode,
    dimension: &str,
    now: Timestamp,
    client_token: &str,
) -> MeterUsage {
    MeterUsage { dry_run: true, ..zero_report(product_code, dimension, now, client_token) }
}

/// The question whose answer is a `ZeroReport`.
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
