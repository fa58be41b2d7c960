//! Shared by MeterUsage and BatchMeterUsage: quantities, allocations and their tags, hours, and which report repeats
//! which record.

use std::collections::BTreeSet;

use super::ServiceError;
use crate::bill::Known;
use crate::change::{Allocation, Recorded};
use crate::decimal::Micros;
use crate::wire::{Tag, UsageAllocation, Written};
use crate::world::switches::{Switch, Switches};
use tollgate_time::Timestamp;

/// How far a record may be ahead of the service's clock, because clocks differ. AWS states no number; this is SigV4's.
pub(super) const AHEAD_SECONDS_MAX: i64 = 300;

const HOUR_SECONDS: i64 = 3600;

/// The start of the hour that a time is in.
pub(super) const fn hour(at: Timestamp) -> Timestamp {
    Timestamp::from_unix_seconds(at.unix_seconds().div_euclid(HOUR_SECONDS) * HOUR_SECONDS)
}

/// Reads quantity and allocations, and checks that they agree.
pub(super) fn read(
    quantity: Written,
    allocations: Option<&[UsageAllocation<'_>]>,
) -> Result<(Micros, Vec<Allocation>), ServiceError> {
    let invalid = |text: &str| {
        let message = "Sum of allocated usage quantities is not equal to the usage quantity, or the allocations \
                       don't use the same type of quantity (whole number or decimal) as the usage quantity.";
        ServiceError::new("InvalidUsageAllocationsException", format!("{message} (emulator: {text})"))
    };
    let (total, decimal) = match quantity {
        Written::Whole(total) => (total, false),
        Written::Decimal(total) => (total, true),
        // Without a quantity AWS assumes 0 (model text of UsageQuantity).
        Written::Absent => (Micros::ZERO, false),
    };
    let Some(parts) = allocations else { return Ok((total, Vec::new())) };
    let (mut read, mut tag_sets, mut sum) = (Vec::with_capacity(parts.len()), BTreeSet::new(), Micros::ZERO);
    for part in parts {
        let (quantity, part_decimal) = match part.quantity()? {
            Written::Whole(quantity) => (quantity, false),
            Written::Decimal(quantity) => (quantity, true),
            Written::Absent => return Err(invalid("an allocation has no quantity")),
        };
        if part_decimal != decimal {
            return Err(invalid("total and allocations are not all whole or all decimal"));
        }
        let tags = tags(part.tags.as_deref().unwrap_or_default())?;
        if !tag_sets.insert(tags.clone()) {
            return Err(invalid("two allocations have the same set of tags"));
        }
        sum = sum.saturating_add(quantity);
        read.push(Allocation { tags, quantity });
    }
    if sum != total {
        return Err(invalid(&format!("the allocations add up to {sum}, the quantity is {total}")));
    }
    read.sort();
    Ok((total, read))
}

fn tags(tags: &[Tag<'_>]) -> Result<Vec<(String, String)>, ServiceError> {
    let mut read: Vec<(String, String)> =
        tags.iter().map(|tag| (tag.key.clone().into_owned(), tag.value.clone().into_owned())).collect();
    read.sort();
    if read.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        let message = "The tag is invalid, or the number of tags is greater than 5.";
        let hint = "(emulator: a tag key is used twice in one allocation)";
        return Err(ServiceError::new("InvalidTagException", format!("{message} {hint}")));
    }
    Ok(read)
}

/// Whether a report has the same content as the record: quantities by value, so 17 equals 17.00.
pub(super) fn repeats(known: &Known<'_>, report: &Recorded, switches: Switches) -> bool {
    known.quantity == report.quantity
        && (known.allocations == report.allocations || switches.second(Switch::AllocationsDiffer))
}
