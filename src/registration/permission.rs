//! The requests whose answers open the gate in the modes that report usage (see `entitlement::proof`).

use tollgate_marketplace::{HourUsage, MeterUsage, ProductCode};
use tollgate_time::Timestamp;

/// The dimension of a dry run when none is configured; AWS does not document that a dry run checks the dimension.
pub const ANY_DIMENSION: &str = "tollgate";

/// The request whose answer becomes a `Permission`.
#[must_use]
pub fn dry_run(
    product_code: &ProductCode,
    dimension: &str,
    now: Timestamp,
    client_token: &str,
) -> MeterUsage {
    MeterUsage { dry_run: true, ..zero_report(product_code, dimension, now, client_token) }
}

/// The request whose answer becomes a `ZeroReport`.
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
