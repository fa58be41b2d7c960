//! What MeterUsage and BatchMeterUsage share: quantities, allocations and their tags.

use std::collections::BTreeSet;

use super::{ServiceError, Structure};
use crate::clock::Timestamp;
use crate::emulator::check::{TAG_KEY, TAG_VALUE};
use crate::emulator::decimal::Micros;

/// Seconds of an hour.
const HOUR: i64 = 3600;

/// The start of the hour that a time is in.
pub(super) const fn hour(at: Timestamp) -> Timestamp {
    Timestamp::from_unix_seconds(at.unix_seconds().div_euclid(HOUR) * HOUR)
}

/// A quantity with its split, as it was reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) quantity: Micros,
    pub(super) decimal: bool,
    /// Canonical, so that equal splits are equal.
    pub(super) allocations: BTreeSet<(BTreeSet<(String, String)>, Micros)>,
}

/// Most allocations of one record (service model, `UsageAllocations`).
const ALLOCATIONS_MAX: usize = 2500;
/// Most tags of one allocation (service model, `TagList`).
const TAGS_MAX: usize = 5;

/// Reads quantity and allocations, and checks that they agree.
pub(super) fn usage(record: &Structure<'_>, integer: &str, decimal: &str) -> Result<Usage, ServiceError> {
    // Without a quantity AWS assumes 0 (model text of UsageQuantity).
    let (quantity, is_decimal) = record.quantity(integer, decimal)?.unwrap_or_default();
    let invalid = |text: &str| ServiceError::new("InvalidUsageAllocationsException", text);
    let Some(list) = record.list("UsageAllocations", 1, ALLOCATIONS_MAX)? else {
        return Ok(Usage { quantity, decimal: is_decimal, allocations: BTreeSet::new() });
    };
    let (mut allocations, mut tag_sets, mut sum) = (BTreeSet::new(), BTreeSet::new(), 0_u64);
    for allocation in &list {
        let allocated = allocation.quantity("AllocatedUsageQuantity", "AllocatedUsageQuantityAsDecimal")?;
        let Some((micros, allocated_decimal)) = allocated else {
            return Err(invalid("Each allocation needs an allocated quantity."));
        };
        if allocated_decimal != is_decimal {
            return Err(invalid("Quantity and allocated quantities must be all integers or all decimals."));
        }
        let tags = tags(allocation)?;
        if !tag_sets.insert(tags.clone()) {
            return Err(invalid("Usage allocations must have unique sets of tags."));
        }
        sum = sum.saturating_add(micros.0);
        allocations.insert((tags, micros));
    }
    if sum != quantity.0 {
        return Err(invalid("The sum of the allocated quantities must equal the usage quantity."));
    }
    Ok(Usage { quantity, decimal: is_decimal, allocations })
}

fn tags(allocation: &Structure<'_>) -> Result<BTreeSet<(String, String)>, ServiceError> {
    let mut tags = BTreeSet::new();
    let mut keys = BTreeSet::new();
    for tag in allocation.list("Tags", 1, TAGS_MAX)?.unwrap_or_default() {
        let key = tag.required_text("Key", TAG_KEY)?;
        let value = tag.required_text("Value", TAG_VALUE)?;
        if !keys.insert(key) {
            return Err(ServiceError::new(
                "InvalidTagException",
                "A tag key is used twice in one allocation.",
            ));
        }
        tags.insert((key.to_owned(), value.to_owned()));
    }
    Ok(tags)
}
