//! Sealing: a closed hour becomes a record that never changes again. Pure.
//!
//! Quantity, split, time and `ClientToken` are fixed once, and every attempt sends the same. A quantity above AWS's
//! maximum is left over for the current hour, never dropped.

use std::collections::BTreeMap;

use tollgate_marketplace::allocation::allocate;
use tollgate_marketplace::{Hour, HourUsage, Quantity, TagSet};
use tollgate_time::Timestamp;

/// The sum of an hour's usage of one customer and dimension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sum {
    /// Amounts by tags, in millionths; unlike a record, a sum may be above AWS's maximum.
    pub shares: BTreeMap<TagSet, i128>,
    /// The first event's time.
    pub first_at: Timestamp,
}

/// A sealed hour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The report: at most AWS's maximum, with the time of the hour's first event.
    pub usage: HourUsage,
    /// What exceeds the maximum, by tags.
    pub rest: BTreeMap<TagSet, i128>,
}

/// Seals a sum at `now`.
#[must_use]
pub fn seal(hour: Hour, sum: &Sum, now: Timestamp) -> Sealed {
    // AWS rejects times in the future, and an hour that is sealed early may have an event that was ahead by minutes.
    // The time must be within the hour, whatever the event said, because AWS counts by it.
    let last = Timestamp::from_unix_millis(hour.end().unix_millis() - 1000);
    let timestamp = sum.first_at.min(now).max(hour.start()).min(last);
    let (mut shares, mut rest) = (BTreeMap::new(), BTreeMap::new());
    let mut total = Quantity::ZERO;
    for (tags, amount) in &sum.shares {
        let room = Quantity::MAX.saturating_sub(total);
        let fits = u64::try_from((*amount).max(0)).unwrap_or(u64::MAX).min(room.micros());
        if let Some(quantity) = Quantity::from_micros(fits).filter(|quantity| *quantity != Quantity::ZERO) {
            total = total.checked_add(quantity).unwrap_or(Quantity::MAX);
            shares.insert(tags.clone(), quantity);
        }
        if *amount != i128::from(fits) {
            rest.insert(tags.clone(), amount - i128::from(fits));
        }
    }
    let allocations = allocate(&shares);
    let integers = total.integer().is_some() && allocations.iter().all(|a| a.quantity.integer().is_some());
    Sealed { usage: HourUsage { timestamp, quantity: total, decimal: !integers, allocations }, rest }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Hour = Hour::from_number(498_752);

    fn tags(name: &str) -> TagSet {
        if name.is_empty() {
            return TagSet::default();
        }
        BTreeMap::from([("team".to_owned(), name.to_owned())]).try_into().unwrap()
    }

    fn sum(shares: &[(&str, u64, i64)]) -> Sum {
        let at = |second: i64| Timestamp::from_unix_seconds(HOUR.start().unix_seconds() + second);
        Sum {
            shares: shares.iter().map(|(name, micros, _)| (tags(name), i128::from(*micros))).collect(),
            first_at: at(shares.iter().map(|(_, _, second)| *second).min().unwrap_or_default()),
        }
    }

    const AFTER: Timestamp = Timestamp::from_unix_seconds((498_752 + 1) * 3600);

    fn seal(hour: Hour, sum: &Sum) -> Sealed {
        super::seal(hour, sum, AFTER)
    }

    #[test]
    fn an_hour_that_ends_early_reports_no_time_to_come() {
        let now = Timestamp::from_unix_seconds(HOUR.start().unix_seconds() + 60);
        let sealed = super::seal(HOUR, &sum(&[("a", 1, 300)]), now);
        assert_eq!(sealed.usage.timestamp, now);
        let back = super::seal(HOUR, &sum(&[("a", 1, 300)]), Timestamp::from_unix_seconds(0));
        assert_eq!(back.usage.timestamp, HOUR.start(), "the clock went back: still in its hour");
    }

    #[test]
    fn whole_sums_are_integers_and_everything_else_is_decimal() {
        let decimal = |shares: &[(&str, u64, i64)]| seal(HOUR, &sum(shares)).usage.decimal;
        assert!(!decimal(&[("", 5_000_000, 0)]));
        assert!(decimal(&[("", 5_500_000, 0)]));
        assert!(!decimal(&[("a", 1_000_000, 0), ("b", 2_000_000, 0)]));
        assert!(decimal(&[("a", 500_000, 0), ("b", 500_000, 0)]), "the total is whole, its parts are not");
        assert!(decimal(&[("", 2_147_483_648_000_000, 0)]), "too large for AWS's integer");
    }

    #[test]
    fn the_time_is_the_first_events_and_within_the_hour() {
        let sealed = seal(HOUR, &sum(&[("a", 1, 1800), ("b", 1, 90)]));
        assert_eq!(sealed.usage.timestamp.since(HOUR.start()).as_secs(), 90);
        assert_eq!(seal(HOUR, &sum(&[("", 1, -50)])).usage.timestamp, HOUR.start());
        assert_eq!(Hour::of(seal(HOUR, &sum(&[("", 1, 9000)])).usage.timestamp), HOUR);
    }

    #[test]
    fn what_is_above_awss_maximum_is_left_over() {
        let max = Quantity::MAX.micros();
        let sealed = seal(HOUR, &sum(&[("a", max - 1, 0), ("b", 3, 0)]));
        assert_eq!(sealed.usage.quantity, Quantity::MAX);
        assert_eq!(sealed.rest, BTreeMap::from([(tags("b"), 2)]));
    }

    proptest! {
        /// What is sealed and what is left over add up to the sum.
        #[test]
        fn sealed_and_rest_are_the_sum(parts in prop::collection::vec((0..20u8, 0..=Quantity::MAX.micros()), 1..30)) {
            let mut sum = sum(&[]);
            for (name, micros) in parts {
                let name = if name == 0 { String::new() } else { name.to_string() };
                sum.shares.insert(tags(&name), micros.into());
            }
            let total: i128 = sum.shares.values().sum();
            let sealed = seal(HOUR, &sum);
            prop_assert_eq!(i128::from(sealed.usage.quantity.micros()) + sealed.rest.values().sum::<i128>(), total);
            if !sealed.usage.allocations.is_empty() {
                let split: u64 = sealed.usage.allocations.iter().map(|a| a.quantity.micros()).sum();
                prop_assert_eq!(split, sealed.usage.quantity.micros());
            }
        }
    }
}
