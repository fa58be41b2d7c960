//! Sealing: a closed hour becomes a record that never changes again. Pure.
//!
//! Quantity, split, time and `ClientToken` are fixed once, and every attempt sends the same. A quantity above AWS's
//! maximum is left over for the current hour, never dropped.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::aggregation::{Rule, Sent};
use tollgate_marketplace::allocation::allocate;
use tollgate_marketplace::{Allocation, Hour, HourUsage, Quantity, TagSet};
use tollgate_time::Timestamp;

/// An hour's usage of one customer and dimension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sum {
    /// Amounts by tags, aggregated, with what was carried or replayed; in millionths of the event's own unit. Unlike a
    /// record, they may be above AWS's maximum.
    pub shares: BTreeMap<TagSet, i128>,
    /// The first event's time.
    pub first_at: Timestamp,
}

impl Sum {
    /// All shares.
    #[must_use]
    pub fn total(&self) -> i128 {
        self.shares.values().sum()
    }
}

/// A sealed hour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The report: at most AWS's maximum, with the time of the hour's first event.
    pub usage: HourUsage,
    /// What the hour's usage, with what stayed of earlier hours, sends and keeps.
    pub sent: Sent,
    /// What exceeds the maximum, by tags, in millionths of the event's own unit.
    pub rest: BTreeMap<TagSet, i128>,
    /// There was usage, and all of it stays for the next hour: a record would say nothing.
    pub is_needless: bool,
}

/// Seals a sum at `now` by the rule of its hour. `kept`: what stayed of earlier hours ([`Sent::kept`]), in millionths
/// of the event's own unit.
#[must_use]
pub fn seal(hour: Hour, sum: &Sum, rule: &Rule, kept: i128, now: Timestamp) -> Sealed {
    // AWS rejects times in the future, and an hour that is sealed early may have an event that was ahead by minutes.
    // The time must be within the hour, whatever the event said, because AWS counts by it.
    let last = Timestamp::from_unix_millis(hour.end().unix_millis() - 1000);
    let timestamp = sum.first_at.min(now).max(hour.start()).min(last);
    let total = sum.total();
    let sent = rule.send(total + kept);
    let (fitting, rest) = divide(&sum.shares, if sent.over > 0 { sent.raw - kept } else { total });
    let quantity = quantity(sent.micros);
    let allocations = allocate(&scale(&fitting, rule, sent.micros));
    let integers = quantity.integer().is_some() && allocations.iter().all(|a| a.quantity.integer().is_some());
    let usage = HourUsage { timestamp, quantity, decimal: !integers, allocations };
    Sealed { usage, sent, rest, is_needless: sent.micros == 0 && total != 0 }
}

/// The amounts by tags of a record that is carried or replayed, in millionths of the event's own unit of `rule`:
/// together exactly the quantity's ([`Rule::raw`]).
#[must_use]
pub fn unsealed(rule: &Rule, quantity: Quantity, allocations: &[Allocation]) -> Vec<(TagSet, i128)> {
    if allocations.is_empty() {
        return vec![(TagSet::default(), rule.raw(quantity.micros().into()))];
    }
    // Each part is the difference of two sums: the parts of rounded numbers would not add up.
    let mut before: i128 = 0;
    let part = |allocation: &Allocation| {
        let after = before + i128::from(allocation.quantity.micros());
        let amount = rule.raw(after) - rule.raw(before);
        before = after;
        (allocation.tags.clone(), amount)
    };
    allocations.iter().map(part).collect()
}

/// A number of millionths that is 0 to AWS's maximum.
fn quantity(micros: i128) -> Quantity {
    u64::try_from(micros.max(0)).ok().and_then(Quantity::from_micros).unwrap_or(Quantity::MAX)
}

type Shares = BTreeMap<TagSet, i128>;

/// Divides shares into what fits into `room` and the rest, in the order of their tags.
fn divide(shares: &Shares, mut room: i128) -> (Shares, Shares) {
    let (mut fitting, mut rest) = (Shares::new(), Shares::new());
    for (tags, amount) in shares {
        let fits = (*amount).min(room).max(0);
        room -= fits;
        if fits != 0 {
            fitting.insert(tags.clone(), fits);
        }
        if *amount != fits {
            rest.insert(tags.clone(), amount - fits);
        }
    }
    (fitting, rest)
}

/// The parts of a quantity of `micros`: each share scaled and rounded down. The largest share gets what is left of the
/// quantity; if the shares are more than it, because a credit was used, the largest ones give it up. Equal shares are
/// ordered by their tags, so that the parts depend on nothing else. A part of 0 is dropped.
fn scale(shares: &Shares, rule: &Rule, micros: i128) -> BTreeMap<TagSet, Quantity> {
    let mut parts: Vec<(&TagSet, i128, i128)> =
        shares.iter().map(|(tags, amount)| (tags, *amount, rule.scaled(*amount))).collect();
    parts.sort_by_key(|(tags, amount, _)| (Reverse(*amount), *tags));
    let mut left = micros - parts.iter().map(|(_, _, part)| part).sum::<i128>();
    for (_, _, part) in &mut parts {
        let given = left.max(-*part);
        *part += given;
        left -= given;
    }
    let mut scaled: BTreeMap<TagSet, Quantity> =
        parts.into_iter().map(|(tags, _, part)| (tags.clone(), quantity(part))).collect();
    if left > 0 {
        // There is no share: only what stayed of earlier hours is sent.
        scaled.insert(TagSet::default(), quantity(left));
    }
    scaled.retain(|_, part| *part != Quantity::ZERO);
    scaled
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
        super::seal(hour, sum, &Rule::DEFAULT, 0, AFTER)
    }

    fn by(rule: &str, shares: &[(&str, u64, i64)], kept: i128) -> Sealed {
        super::seal(HOUR, &sum(shares), &rule.parse().unwrap(), kept, AFTER)
    }

    fn parts(sealed: &Sealed) -> Vec<(TagSet, u64)> {
        sealed.usage.allocations.iter().map(|part| (part.tags.clone(), part.quantity.micros())).collect()
    }

    #[test]
    fn an_hour_that_ends_early_reports_no_time_to_come() {
        let now = Timestamp::from_unix_seconds(HOUR.start().unix_seconds() + 60);
        let sealed = super::seal(HOUR, &sum(&[("a", 1, 300)]), &Rule::DEFAULT, 0, now);
        assert_eq!(sealed.usage.timestamp, now);
        let back =
            super::seal(HOUR, &sum(&[("a", 1, 300)]), &Rule::DEFAULT, 0, Timestamp::from_unix_seconds(0));
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

    #[test]
    fn the_hour_is_scaled_and_rounded_as_a_whole() {
        // Three and a half and two and a quarter thousand, billed by the thousand.
        let shares = [("a", 3_500_000_000, 0), ("b", 2_250_000_000, 0)];
        let sealed = by("sum 1000 none", &shares, 0);
        assert_eq!(sealed.usage.quantity.micros(), 5_750_000);
        assert_eq!(parts(&sealed), [(tags("a"), 3_500_000), (tags("b"), 2_250_000)]);
        let sealed = by("sum 1000 up:0", &shares, 0);
        assert_eq!(sealed.usage.quantity.micros(), 6_000_000);
        assert_eq!(
            parts(&sealed),
            [(tags("a"), 3_750_000), (tags("b"), 2_250_000)],
            "the largest has the rest"
        );
        assert_eq!(sealed.sent.rounded, 250_000_000);
        let sealed = by("sum 1000 up:0", &shares, -1_000_000_000);
        assert_eq!(parts(&sealed), [(tags("a"), 2_750_000), (tags("b"), 2_250_000)], "a credit was used");
        let sealed = by("sum 1000 up:0", &shares, -4_000_000_000);
        assert_eq!(parts(&sealed), [(tags("b"), 2_000_000)], "by the largest first");
    }

    #[test]
    fn usage_that_stays_whole_needs_no_record() {
        let sealed = by("sum 1000000000 none", &[("", 999, 0)], 0);
        assert!(sealed.is_needless);
        assert_eq!((sealed.usage.quantity, sealed.sent.left), (Quantity::ZERO, 999));
        let sealed = by("sum 1 up:0", &[("", 300_000, 0)], -700_000);
        assert!(sealed.is_needless && sealed.sent.left == -400_000, "it was billed with the hour before");
        assert!(!by("sum 1000000000 none", &[("", 0, 0)], 0).is_needless, "a report of 0 is one");
        // A thousand of the event's own unit are a millionth of the dimension's.
        let sealed = by("sum 1000000000 none", &[("", 999, 0)], 1_000_000_000 - 999);
        assert_eq!(
            (sealed.usage.quantity.micros(), sealed.sent.left),
            (1, 0),
            "with what stayed it is enough"
        );
    }

    proptest! {
        /// Whatever the rule: nothing is lost, and the parts are the quantity.
        #[test]
        fn every_rule_keeps_the_sum(
            shares in prop::collection::vec((0..20u8, 0..=Quantity::MAX.micros()), 1..30),
            small in any::<bool>(),
            scale in prop::sample::select(vec!["1", "1000", "3", "0.000001", "0.7", "1000000000"]),
            rounding in prop::sample::select(vec!["none", "up:0", "up:3", "up:6"]),
            kept in -2_000_000..2_000_000i128,
        ) {
            // A remainder is less than can be sent.
            let rule: Rule = [format!("sum {scale} {rounding}"), "sum".to_owned()]
                .iter().find_map(|text| text.parse().ok()).unwrap();
            let kept = if kept > 0 { rule.send(kept).left } else { kept };
            let mut sum = sum(&[]);
            for (name, micros) in shares {
                let name = if name == 0 { String::new() } else { name.to_string() };
                sum.shares.insert(tags(&name), if small { micros % 5_000_000 } else { micros }.into());
            }
            let sealed = super::seal(HOUR, &sum, &rule, kept, AFTER);
            let (sent, quantity) = (sealed.sent, sealed.usage.quantity.micros());
            prop_assert_eq!(i128::from(quantity), sent.micros);
            prop_assert_eq!(sealed.rest.values().sum::<i128>(), sent.over);
            prop_assert_eq!(sum.total() + kept + sent.rounded, sent.raw + sent.left + sent.over);
            let split: u64 = sealed.usage.allocations.iter().map(|part| part.quantity.micros()).sum();
            prop_assert!(sealed.usage.allocations.is_empty() || split == quantity);
            let tagged = sum.shares.iter().any(|(tags, amount)| !tags.is_empty() && rule.scaled(*amount) > 0);
            if tagged && kept >= 0 && quantity > 0 && sent.over == 0 {
                prop_assert!(!sealed.usage.allocations.is_empty());
            }
            let back = unsealed(&rule, sealed.usage.quantity, &sealed.usage.allocations);
            prop_assert!(back.iter().all(|(_, amount)| *amount >= 0));
            prop_assert_eq!(back.iter().map(|(_, amount)| amount).sum::<i128>(), sent.raw);
            let again = super::seal(HOUR, &sum, &rule, kept, AFTER);
            prop_assert_eq!(again, sealed);
        }

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
