//! The rules by which a dimension is metered: how its events become one aggregate, and how the aggregate of an hour
//! becomes the quantity that AWS bills. Pure.
//!
//! Two units: the *event's own unit* is what events count in (bytes), the *dimension's unit* is what AWS bills
//! (gigabytes). All amounts are exact whole numbers of millionths of one of them, 128 bits wide.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use tollgate_marketplace::quantity::{self, AMOUNT_MICROS_MAX, MICROS};
use tollgate_marketplace::{Amount, Invalid, Quantity};

/// How the events of an hour become one amount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Aggregation {
    /// They are added.
    #[default]
    Sum,
    /// The largest counts.
    Max,
}

impl Aggregation {
    /// Its name in settings and in ledgers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Max => "max",
        }
    }
}

impl FromStr for Aggregation {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "sum" => Ok(Self::Sum),
            "max" => Ok(Self::Max),
            _ => Err(Invalid("must be sum or max")),
        }
    }
}

/// How many of the event's own unit are one unit of the dimension, in millionths: more than 0, at most 10^20 units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scale(u128);

/// The names of units, and how many bytes each has.
const UNITS: [(&str, u128); 8] = [
    ("bytes:KB", 1_000),
    ("bytes:MB", 1_000_000),
    ("bytes:GB", 1_000_000_000),
    ("bytes:TB", 1_000_000_000_000),
    ("bytes:KiB", 1 << 10),
    ("bytes:MiB", 1 << 20),
    ("bytes:GiB", 1 << 30),
    ("bytes:TiB", 1 << 40),
];

impl Scale {
    /// The event's own unit is the dimension's.
    pub const ONE: Self = Self(MICROS);

    /// From millionths of the event's own unit; `None` if it is 0, or above the largest amount of one event.
    #[must_use]
    pub const fn from_micros(micros: u128) -> Option<Self> {
        if micros > 0 && micros <= AMOUNT_MICROS_MAX { Some(Self(micros)) } else { None }
    }

    /// In millionths of the event's own unit.
    #[must_use]
    pub const fn micros(self) -> u128 {
        self.0
    }

    /// This many times the scale; `None` if that is none.
    #[must_use]
    pub const fn times(self, factor: u32) -> Option<Self> {
        // At most 10^26 times 2^32: far below 2^128.
        Self::from_micros(self.0 * factor as u128)
    }

    /// For arithmetic with amounts, which have a sign.
    const fn signed(self) -> i128 {
        // At most 10^26.
        self.0.cast_signed()
    }
}

impl FromStr for Scale {
    type Err = Invalid;

    /// A unit such as `bytes:GB`, or a decimal number such as `1000000` or `0.5`.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        if let Some((_, bytes)) = UNITS.iter().find(|(name, _)| *name == text) {
            return Ok(Self(bytes * MICROS));
        }
        let unknown = Invalid(
            "must be bytes:KB, bytes:MB, bytes:GB, bytes:TB, bytes:KiB, bytes:MiB, bytes:GiB, bytes:TiB, or a number \
             above 0 with at most 6 decimal places and at most 100000000000000000000, such as 1000000",
        );
        let amount: Amount = text.parse().map_err(|_| unknown)?;
        Self::from_micros(amount.micros()).ok_or(unknown)
    }
}

impl fmt::Display for Scale {
    /// The shortest decimal text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&quantity::show(self.signed()))
    }
}

/// The most decimal places to which an hour is rounded up: AWS takes no more.
pub const DIGITS_MAX: u8 = 6;

/// What becomes of what is smaller than what is sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Rounding {
    /// Six decimal places are sent, and the rest stays for the next hour.
    #[default]
    None,
    /// An hour's total is rounded up.
    Up {
        /// To this many decimal places; above [`DIGITS_MAX`] it means that many.
        digits: u8,
    },
}

impl Rounding {
    /// How many of the smallest step that is sent are one unit.
    const fn steps(digits: u8) -> i128 {
        let digits = if digits < DIGITS_MAX { digits } else { DIGITS_MAX };
        10i128.pow(digits as u32)
    }
}

impl fmt::Display for Rounding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Up { digits } => write!(f, "up:{digits}"),
        }
    }
}

impl FromStr for Rounding {
    type Err = Invalid;

    /// `none`, or `up:0` to `up:6`.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = Invalid("must be none, or up: with 0 to 6 digits, such as up:0");
        if text == "none" {
            return Ok(Self::None);
        }
        match text.strip_prefix("up:").map(str::as_bytes) {
            Some([digit @ b'0'..=b'9']) => {
                let digits = digit - b'0';
                if digits <= DIGITS_MAX { Ok(Self::Up { digits }) } else { Err(invalid) }
            }
            _ => Err(invalid),
        }
    }
}

/// How a dimension is metered. The default: events are added and sent as they are.
///
/// As text, which ledgers store: `sum` for the default, else aggregation, scale and rounding, such as
/// `sum 1000000000 none` or `max 1 up:0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rule {
    /// How an hour's events become one amount.
    pub aggregation: Aggregation,
    /// How many of the event's own unit are one unit of the dimension.
    pub scale: Scale,
    /// What becomes of the rest.
    pub rounding: Rounding,
}

impl Rule {
    /// Events are added and sent as they are.
    pub const DEFAULT: Self =
        Self { aggregation: Aggregation::Sum, scale: Scale::ONE, rounding: Rounding::None };

    /// Whether it is the default.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::DEFAULT
    }
}

impl Default for Rule {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_default() {
            return f.write_str(Aggregation::Sum.name());
        }
        write!(f, "{} {} {}", self.aggregation.name(), self.scale, self.rounding)
    }
}

impl FromStr for Rule {
    type Err = Invalid;

    /// Only the text that [`fmt::Display`] writes: two texts of one rule would be two rules to a ledger.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = Invalid("is not a rule, such as sum, sum 1000000000 none or max 1 up:0");
        if text == Aggregation::Sum.name() {
            return Ok(Self::DEFAULT);
        }
        let mut parts = text.split(' ');
        let (Some(aggregation), Some(scale), Some(rounding), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(invalid);
        };
        let rule = Self {
            aggregation: aggregation.parse().map_err(|_| invalid)?,
            scale: scale.parse().map_err(|_| invalid)?,
            rounding: rounding.parse().map_err(|_| invalid)?,
        };
        if rule.to_string() == text { Ok(rule) } else { Err(invalid) }
    }
}

/// What a total sends: total + `rounded` = `raw` + `left` + `over`, always.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// The quantity, in millionths of the dimension's unit: 0 to [`Quantity::MAX`].
    pub micros: i128,
    /// The same in millionths of the event's own unit.
    pub raw: i128,
    /// What rounding up added, in millionths of the event's own unit; at least 0.
    pub rounded: i128,
    /// In millionths of the event's own unit. A *remainder* for the next hour if it is above 0: too little to be sent.
    /// The rest of a *credit* if it is below 0: the total was less than what the hour before had rounded up too much.
    pub left: i128,
    /// What is above AWS's maximum, for another record; in millionths of the event's own unit, at least 0.
    pub over: i128,
}

impl Sent {
    /// What stays for the next hour: a remainder. If the hour was sealed `early`, what was added to it is a credit for
    /// the next hour, to which the rest of that hour counts. Early is before the clock closes the hour: its end and the
    /// time after it in which it takes its own late events.
    ///
    /// What the next hour does not use of a credit ends with it. Else whoever stops a process in each hour would pay
    /// for many hours once.
    #[must_use]
    pub const fn kept(&self, early: bool) -> i128 {
        let left = if self.left > 0 { self.left } else { 0 };
        if early { left - self.rounded } else { left }
    }
}

/// How a slot's sealing changes a dimension's totals, besides what it sends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Change {
    /// Of `rounded_up`: what was added, less the credit that was used. May be below 0.
    pub rounded_up: i128,
    /// Of `remainder`.
    pub remainder: i128,
}

impl Change {
    /// `kept` stayed from the hours before ([`Sent::kept`]), and the slot with it sent `sent`.
    ///
    /// A credit has no place in the totals: it was counted as `rounded_up` when it was given, and its use takes it from
    /// there.
    #[must_use]
    pub fn of(kept: i128, sent: &Sent) -> Self {
        Self {
            rounded_up: sent.rounded + kept.min(0) - sent.left.min(0),
            remainder: sent.left.max(0) - kept.max(0),
        }
    }
}

impl Rule {
    /// What a total sends, in millionths of the event's own unit: the aggregate, what was carried or replayed, and what
    /// stayed of the hours before.
    #[must_use]
    pub fn send(&self, total: i128) -> Sent {
        if total <= 0 {
            return Sent { left: total, ..Sent::default() };
        }
        let max = i128::from(Quantity::MAX.micros());
        let (scale, unit) = (self.scale.signed(), MICROS.cast_signed());
        match self.rounding {
            Rounding::None => {
                // The smallest amount that is a whole number of millionths in both units.
                let common = greatest_common_divisor(scale, unit);
                let (step, sent_step) = (scale / common, unit / common);
                let (fits, most) = (total / step, max / sent_step);
                let steps = fits.min(most);
                let (raw, rest) = (steps * step, total - steps * step);
                let (left, over) = if fits > most { (0, rest) } else { (rest, 0) };
                Sent { micros: steps * sent_step, raw, rounded: 0, left, over }
            }
            Rounding::Up { digits } => {
                let steps = Rounding::steps(digits);
                let sent_step = unit / steps;
                // In two parts, because the product of total and steps may exceed 128 bits. Only what is far above
                // AWS's maximum saturates.
                let (units, rest) = (total / scale, total % scale);
                let needed = units.saturating_mul(steps).saturating_add(divided_up(rest * steps, scale));
                let most = max / sent_step;
                let micros = needed.min(most) * sent_step;
                let raw = self.raw(micros);
                let (rounded, over) = if needed > most { (0, total - raw) } else { (raw - total, 0) };
                Sent { micros, raw, rounded, left: 0, over }
            }
        }
    }

    /// A quantity of millionths of the dimension's unit, in millionths of the event's own unit; the next whole number
    /// of them above where it is none. Exact for what [`Rule::send`] sends by [`Rounding::None`].
    #[must_use]
    pub fn raw(&self, micros: i128) -> i128 {
        let (scale, unit) = (self.scale.signed(), MICROS.cast_signed());
        // In two parts, because the product may exceed 128 bits.
        (micros.div_euclid(unit) * scale) + divided_up(micros.rem_euclid(unit) * scale, unit)
    }

    /// An amount of the event's own unit in millionths of the dimension's unit, rounded down: a share of an hour.
    #[must_use]
    pub fn scaled(&self, amount: i128) -> i128 {
        let (scale, unit) = (self.scale.signed(), MICROS.cast_signed());
        amount.div_euclid(scale).saturating_mul(unit) + amount.rem_euclid(scale) * unit / scale
    }

    /// An amount of the event's own unit of this rule in that of `other`, rounded down: the same quantity of the
    /// dimension's unit.
    #[must_use]
    pub fn converted(&self, amount: i128, other: &Self) -> i128 {
        let (from, to) = (self.scale.signed(), other.scale.signed());
        if from == to {
            return amount;
        }
        let (units, rest) = (amount.div_euclid(from), amount.rem_euclid(from));
        units.saturating_mul(to).saturating_add(product_divided(rest, to, from))
    }

    /// Counts an event of `amount` to what the slot holds; `None` if it is the slot's first.
    #[must_use]
    pub fn aggregate(&self, held: Option<i128>, amount: i128) -> i128 {
        match (self.aggregation, held) {
            (_, None) => amount,
            (Aggregation::Sum, Some(held)) => held + amount,
            (Aggregation::Max, Some(held)) => held.max(amount),
        }
    }
}

/// Of two numbers above 0.
fn greatest_common_divisor(mut a: i128, mut b: i128) -> i128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// A quotient of two numbers, at least 0 and above 0, rounded up.
fn divided_up(number: i128, divisor: i128) -> i128 {
    number / divisor + i128::from(number % divisor != 0)
}

/// `number` × `factor` / `divisor`, rounded down, for a `number` below `divisor`, none of them above 10^26: bit by bit,
/// because the product may exceed 128 bits.
fn product_divided(number: i128, factor: i128, divisor: i128) -> i128 {
    /// 10^26 has 87 bits.
    const BITS: u32 = 87;
    let (mut quotient, mut rest) = (0i128, 0i128);
    for bit in (0..BITS).rev() {
        rest *= 2;
        if (factor >> bit) & 1 == 1 {
            rest += number;
        }
        quotient = quotient * 2 + rest / divisor;
        rest %= divisor;
    }
    quotient
}

/// The rules of the dimensions. A dimension without one has the default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules(BTreeMap<String, Rule>);

impl Rules {
    /// The dimension's rule.
    #[must_use]
    pub fn of(&self, dimension: &str) -> &Rule {
        self.0.get(dimension).unwrap_or(&Rule::DEFAULT)
    }

    /// Whether every dimension has the default.
    #[must_use]
    pub fn are_default(&self) -> bool {
        self.0.is_empty()
    }

    /// The dimensions with another rule than the default, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Rule)> {
        self.0.iter().map(|(name, rule)| (name.as_str(), rule))
    }
}

impl FromIterator<(String, Rule)> for Rules {
    fn from_iter<T: IntoIterator<Item = (String, Rule)>>(rules: T) -> Self {
        Self(rules.into_iter().filter(|(_, rule)| !rule.is_default()).collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UNIT: i128 = 1_000_000;

    fn rule(text: &str) -> Rule {
        text.parse().unwrap()
    }

    /// Aggregation, scale and rounding of all kinds: whole, broken, tiny and huge scales.
    fn rules() -> impl Strategy<Value = Rule> {
        let aggregation = prop_oneof![Just(Aggregation::Sum), Just(Aggregation::Max)];
        let scale = prop_oneof![
            Just(MICROS),
            Just(1_000_000_000 * MICROS),
            Just((1 << 30) * MICROS),
            Just(3_600 * MICROS),
            1..10 * MICROS,
            1..=AMOUNT_MICROS_MAX,
        ];
        let rounding =
            prop_oneof![Just(Rounding::None), (0..=DIGITS_MAX).prop_map(|digits| Rounding::Up { digits })];
        (aggregation, scale, rounding).prop_map(|(aggregation, scale, rounding)| Rule {
            aggregation,
            scale: Scale::from_micros(scale).unwrap(),
            rounding,
        })
    }

    /// Small ones, and some far above what AWS takes of any scale.
    fn totals() -> impl Strategy<Value = i128> {
        prop_oneof![
            -10..10i128,
            0..100 * UNIT,
            0..20_000_000_000 * UNIT,
            0..AMOUNT_MICROS_MAX.cast_signed(),
            0..1_000_000_000_000 * AMOUNT_MICROS_MAX.cast_signed(),
        ]
    }

    #[test]
    fn a_rule_is_written_in_one_way() {
        for text in
            ["sum", "sum 1000000000 none", "max 1 none", "max 1 up:0", "sum 0.5 up:6", "sum 1073741824 up:2"]
        {
            assert_eq!(rule(text).to_string(), text);
        }
        assert!(rule("sum").is_default());
        for bad in [
            "",
            "max",
            "sum 1 none",
            "sum  1 up:0",
            "sum 1 up:7",
            "sum 1 up:00",
            "sum 1 up",
            "sum 0 none",
            "sum 1.0 up:0",
            "sum bytes:GB none",
            "min 1 none",
            "max 1 none ",
        ] {
            assert!(bad.parse::<Rule>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_scale_is_a_unit_or_a_number() {
        for (text, shown) in [
            ("bytes:KB", "1000"),
            ("bytes:GB", "1000000000"),
            ("bytes:KiB", "1024"),
            ("bytes:GiB", "1073741824"),
            ("bytes:TiB", "1099511627776"),
            ("1000000", "1000000"),
            ("0.500000", "0.5"),
            ("100000000000000000000", "100000000000000000000"),
        ] {
            assert_eq!(text.parse::<Scale>().unwrap().to_string(), shown);
        }
        for bad in
            ["0", "0.0", "-1", "bytes:gb", "GB", "1e9", "0.0000001", "100000000000000000000.000001", ""]
        {
            assert!(bad.parse::<Scale>().unwrap_err().0.contains("bytes:GB"), "{bad:?}");
        }
        let hour = Scale::ONE.times(3600).unwrap();
        assert_eq!(hour.to_string(), "3600");
        assert_eq!("100000000000000000000".parse::<Scale>().unwrap().times(2), None);
    }

    #[test]
    fn six_digits_are_sent_and_the_remainder_is_left() {
        let gigabytes = rule("sum 1000000000 none");
        let sent = gigabytes.send(1_500_000_999 * UNIT);
        assert_eq!((sent.micros, sent.raw, sent.left), (1_500_000, 1_500_000_000 * UNIT, 999 * UNIT));
        let sent = gigabytes.send(999 * UNIT);
        assert_eq!((sent.micros, sent.raw, sent.left), (0, 0, 999 * UNIT), "too little to be sent");
        // A third cannot be sent in six digits: only whole multiples of what can.
        let sent = rule("sum 3 none").send(10 * UNIT);
        assert_eq!((sent.micros, sent.raw, sent.left), (3_333_333, 9_999_999, 1));
        assert_eq!(rule("sum").send(7), Sent { micros: 7, raw: 7, ..Sent::default() });
    }

    #[test]
    fn an_hour_is_rounded_up_as_a_whole() {
        let node_hours = rule("sum 3600 up:0");
        let sent = node_hours.send(59 * 60 * UNIT);
        assert_eq!((sent.micros, sent.raw, sent.rounded), (UNIT, 3600 * UNIT, 60 * UNIT));
        assert_eq!(sent.kept(false), 0, "the hour is over");
        assert_eq!(sent.kept(true), -60 * UNIT, "the next hour takes up what this one was billed too much");
        assert_eq!(node_hours.send(3600 * UNIT).micros, UNIT, "a whole hour is one");
        assert_eq!(node_hours.send(3600 * UNIT + 1).micros, 2 * UNIT);
        assert_eq!(node_hours.send(0), Sent::default());
        assert_eq!(node_hours.send(-5), Sent { left: -5, ..Sent::default() }, "covered by a credit");
        assert_eq!(node_hours.send(-5).kept(true), 0, "what is not used of it ends");
        assert_eq!(rule("sum 1 up:2").send(1_234_501).micros, 1_240_000);
    }

    #[test]
    fn what_is_above_awss_maximum_is_for_another_record() {
        let max = i128::from(Quantity::MAX.micros());
        let sent = rule("sum").send(max + 3);
        assert_eq!((sent.micros, sent.raw, sent.over, sent.left), (max, max, 3, 0));
        let sent = rule("sum 1 up:0").send(max + 3);
        assert_eq!((sent.micros, sent.over, sent.rounded), (9_999_999_999 * UNIT, 1_000_002, 0));
        let sent = rule("sum 1000 up:6").send(max * 1000 - 1);
        assert_eq!((sent.micros, sent.over, sent.rounded), (max, 0, 1), "what is added is not above");
    }

    #[test]
    fn an_amount_is_the_same_quantity_in_another_unit() {
        let (bytes, gigabytes) = (rule("sum 1000000000 none"), rule("sum 1 up:0"));
        assert_eq!(bytes.converted(2_500_000_000 * UNIT, &gigabytes), 2_500_000);
        assert_eq!(gigabytes.converted(2_500_000, &bytes), 2_500_000_000 * UNIT);
        assert_eq!(bytes.converted(999, &gigabytes), 0, "rounded down");
        assert_eq!(bytes.scaled(1_999_999_999 * UNIT), 1_999_999);
        let (widest, finest) =
            (rule("sum 100000000000000000000 none"), rule("sum 99999999999999999999 none"));
        assert_eq!(
            widest.converted(AMOUNT_MICROS_MAX.cast_signed() - 1, &finest),
            99_999_999_999_999_999_998_999_999
        );
    }

    proptest! {
        #[test]
        fn a_rules_text_is_read_back(rule in rules()) {
            prop_assert_eq!(rule.to_string().parse(), Ok(rule));
        }

        /// Nothing is lost and nothing appears: the equation of the balance.
        #[test]
        fn what_is_sent_and_kept_is_the_total(rule in rules(), total in totals()) {
            let sent = rule.send(total);
            prop_assert_eq!(total + sent.rounded, sent.raw + sent.left + sent.over);
            prop_assert!(sent.micros >= 0 && sent.micros <= i128::from(Quantity::MAX.micros()));
            prop_assert!(sent.rounded >= 0 && sent.over >= 0);
            prop_assert_eq!(sent.raw, rule.raw(sent.micros));
            prop_assert!(total < 0 || sent.left >= 0);
            prop_assert!(sent.left == 0 || sent.over == 0);
        }

        /// Without rounding the same quantity is exact in both units, and it is the largest such.
        #[test]
        fn without_rounding_the_most_that_is_exact_is_sent(rule in rules(), total in totals()) {
            let rule = Rule { rounding: Rounding::None, ..rule };
            let (sent, scale) = (rule.send(total), rule.scale.signed());
            prop_assert_eq!(sent.rounded, 0);
            let exact = |micros: i128| (micros % UNIT * (scale % UNIT)) % UNIT == 0;
            prop_assert!(exact(sent.micros));
            if sent.over == 0 && total > 0 {
                // The steps divide a whole unit, because a whole unit is always exact.
                let divisors = (0..=6).flat_map(|a| (0..=6).map(move |b| 2i128.pow(a) * 5i128.pow(b)));
                let next = divisors.filter(|step| exact(*step)).min().unwrap();
                prop_assert!(rule.raw(sent.micros + next) > total);
            }
        }

        /// Rounding up adds less than one step.
        #[test]
        fn rounding_up_adds_no_whole_step(rule in rules(), total in totals(), digits in 0..=DIGITS_MAX) {
            let rule = Rule { rounding: Rounding::Up { digits }, ..rule };
            let (sent, step) = (rule.send(total), 10i128.pow(u32::from(DIGITS_MAX - digits)));
            prop_assert_eq!(sent.micros % step, 0);
            if sent.over == 0 && total > 0 {
                prop_assert!(sent.raw >= total && rule.raw(sent.micros - step) <= total);
            }
        }

        #[test]
        fn the_order_of_events_changes_nothing(
            rule in rules(),
            amounts in prop::collection::vec(0..AMOUNT_MICROS_MAX.cast_signed(), 1..20),
        ) {
            let all = |amounts: &mut dyn Iterator<Item = &i128>| {
                amounts.fold(None, |held, amount| Some(rule.aggregate(held, *amount)))
            };
            let mut sorted = amounts.clone();
            sorted.sort_unstable();
            prop_assert_eq!(all(&mut amounts.iter()), all(&mut amounts.iter().rev()));
            prop_assert_eq!(all(&mut amounts.iter()), all(&mut sorted.iter()));
            let expected = match rule.aggregation {
                Aggregation::Sum => amounts.iter().sum(),
                Aggregation::Max => *sorted.last().unwrap(),
            };
            prop_assert_eq!(all(&mut amounts.iter()), Some(expected));
        }

        /// However often a process stops within its hours, the bill is not larger than one process's, and the books
        /// agree with it.
        #[test]
        fn a_restart_never_bills_more(
            rule in rules(),
            hours in prop::collection::vec(prop::collection::vec(0..20 * UNIT, 1..4), 1..8),
        ) {
            let rule = Rule { aggregation: Aggregation::Sum, ..rule };
            let (mut whole, mut kept) = (0, 0);
            for parts in &hours {
                let sent = rule.send(parts.iter().sum::<i128>() + kept);
                kept = sent.kept(false);
                whole += sent.micros;
            }
            // After the first part of an hour the process stops: what follows counts to the next hour.
            let (mut restarted, mut kept, mut rest) = (0, 0, 0);
            let (mut books, mut raw, mut over) = (Change::default(), 0, 0);
            for parts in hours.iter().chain([&vec![0]]) {
                let early = parts.len() > 1;
                let sent = rule.send(parts[0] + rest + kept);
                let change = Change::of(kept, &sent);
                books.rounded_up += change.rounded_up;
                books.remainder += change.remainder;
                (raw, over) = (raw + sent.raw, over + sent.over);
                kept = sent.kept(early);
                rest = parts[1..].iter().sum();
                restarted += sent.micros;
            }
            prop_assume!(over == 0);
            prop_assert!(restarted <= whole);
            let accepted: i128 = hours.iter().flatten().sum();
            prop_assert_eq!(accepted + books.rounded_up, raw + books.remainder + rest);
            prop_assert!(books.remainder >= 0 && books.rounded_up >= 0);
        }
    }
}
