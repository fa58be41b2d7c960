//! Quantities: exact numbers of millionths, so that nothing is rounded on the way to the bill.
//!
//! They are read from their text, never through floating point: `0.1` has no exact double. The limits of a [`Quantity`]
//! are AWS's (service model, `UsageQuantity`, `UsageQuantityAsDecimal`); an [`Amount`] is what an event may count
//! before it is scaled. Pure.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use super::Invalid;

/// A quantity of usage, in millionths; at most [`Quantity::MAX`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quantity(u64);

/// Millionths in one.
const SCALE: u64 = 1_000_000;

/// Millionths in one, for amounts of 128 bits.
pub const MICROS: u128 = SCALE as u128;

/// Most decimal places that AWS accepts.
pub const DECIMAL_PLACES_MAX: usize = 6;

impl Quantity {
    /// 0.
    pub const ZERO: Self = Self(0);

    /// The largest that AWS accepts as an integer: 2,147,483,647.
    pub const INTEGER_MAX: Self = Self(2_147_483_647 * SCALE);

    /// The largest that AWS accepts: 9,999,999,999.999999.
    pub const MAX: Self = Self(9_999_999_999_999_999);

    /// From millionths; `None` above [`Quantity::MAX`].
    #[must_use]
    pub const fn from_micros(micros: u64) -> Option<Self> {
        if micros <= Self::MAX.0 { Some(Self(micros)) } else { None }
    }

    /// In millionths.
    #[must_use]
    pub const fn micros(self) -> u64 {
        self.0
    }

    /// Whether there is no fraction.
    #[must_use]
    pub const fn is_whole(self) -> bool {
        self.0.is_multiple_of(SCALE)
    }

    /// The integer, if there is no fraction and AWS accepts it as an integer.
    #[must_use]
    pub fn integer(self) -> Option<i32> {
        (self.is_whole() && self <= Self::INTEGER_MAX).then(|| i32::try_from(self.0 / SCALE).ok()).flatten()
    }

    /// The sum, or `None` above [`Quantity::MAX`].
    #[must_use]
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        Self::from_micros(self.0.saturating_add(other.0))
    }

    /// The difference, or zero if `other` is larger.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Quantity {
    /// Reads a JSON number. It may have an exponent, such as `5e-05` or `1.5E+3`, as programs write small numbers.
    pub fn from_json_number(text: &str) -> Result<Self, Invalid> {
        plain(text)?.parse()
    }
}

/// A JSON number's text without its exponent.
fn plain(text: &str) -> Result<Cow<'_, str>, Invalid> {
    let Some((mantissa, exponent)) = text.split_once(['e', 'E']) else { return Ok(Cow::Borrowed(text)) };
    // Far more than any quantity needs; without a limit a short text could expand to a very long one.
    const EXPONENT_MAX: i64 = 40;
    const DIGITS_MAX: usize = 40;
    // The mantissa must be digits with at most one point.
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let number = !whole.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let exponent = exponent.parse::<i64>().ok().filter(|exponent| exponent.abs() <= EXPONENT_MAX);
    let (Some(exponent), true) = (exponent, number && digits.len() <= DIGITS_MAX) else {
        return Err(NOT_A_NUMBER);
    };
    let point = i64::try_from(whole.len()).unwrap_or(i64::MAX).saturating_add(exponent);
    let before = usize::try_from(-point).unwrap_or(0);
    let padded = format!("{}{digits}", "0".repeat(before));
    let point = usize::try_from(point).unwrap_or(0);
    let padded = format!("{padded:0<point$}");
    let (whole, fraction) = padded.split_at(point);
    let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
    Ok(Cow::Owned(format!(
        "{}.{}",
        if whole.is_empty() { "0" } else { whole },
        if fraction.is_empty() { "0" } else { fraction }
    )))
}

const NOT_A_NUMBER: Invalid = Invalid("must be a number of at least 0 without sign, such as 12 or 0.5");

/// The whole part, and the fraction in millionths, of a text without sign, exponent or leading zeros.
fn parts(text: &str) -> Result<(&str, u64), Invalid> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || (whole.len() > 1 && whole.starts_with('0')) {
        return Err(NOT_A_NUMBER);
    }
    if fraction.len() > DECIMAL_PLACES_MAX {
        return Err(Invalid(
            "has more than 6 decimal places, the most that AWS takes; round it to 6 before it is sent",
        ));
    }
    // At most six digits.
    format!("{fraction:0<6}").parse().map(|fraction| (whole, fraction)).map_err(|_| NOT_A_NUMBER)
}

impl FromStr for Quantity {
    type Err = Invalid;

    /// `12`, `12.5`, `0.000001`: no sign, no exponent, no leading zeros, at most six places.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let (whole, fraction) = parts(text)?;
        let above = Invalid("is above 9999999999.999999, the most that AWS takes in one report");
        if whole.len() > 10 {
            return Err(above);
        }
        let whole: u64 = whole.parse().map_err(|_| above)?;
        Self::from_micros(whole * SCALE + fraction).ok_or(above)
    }
}

impl fmt::Display for Quantity {
    /// The shortest text that AWS's pattern accepts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&show(i128::from(self.0)))
    }
}

/// The largest [`Amount`], in millionths: 10^20. A hundred exabytes, counted in bytes, are one event; 10^12 such events
/// still add up exactly in 128 bits.
pub const AMOUNT_MICROS_MAX: u128 = 100_000_000_000_000_000_000 * MICROS;

/// What an event counts, in millionths of the event's own unit, such as bytes; at most [`Amount::MAX`].
///
/// A [`Quantity`] is what AWS takes; an amount may be larger, because it is scaled before it is sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(u128);

impl Amount {
    /// 0.
    pub const ZERO: Self = Self(0);

    /// The largest: 100,000,000,000,000,000,000.
    pub const MAX: Self = Self(AMOUNT_MICROS_MAX);

    /// From millionths; `None` above [`Amount::MAX`].
    #[must_use]
    pub const fn from_micros(micros: u128) -> Option<Self> {
        if micros <= AMOUNT_MICROS_MAX { Some(Self(micros)) } else { None }
    }

    /// In millionths.
    #[must_use]
    pub const fn micros(self) -> u128 {
        self.0
    }

    /// In millionths, for arithmetic with amounts that have a sign.
    #[must_use]
    pub const fn signed(self) -> i128 {
        // At most 10^26.
        self.0.cast_signed()
    }

    /// Reads a JSON number, with the same forms as [`Quantity::from_json_number`].
    pub fn from_json_number(text: &str) -> Result<Self, Invalid> {
        plain(text)?.parse()
    }
}

impl From<Quantity> for Amount {
    fn from(quantity: Quantity) -> Self {
        Self(quantity.0.into())
    }
}

impl FromStr for Amount {
    type Err = Invalid;

    /// The same texts as a [`Quantity`], up to [`Amount::MAX`].
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let (whole, fraction) = parts(text)?;
        let above = Invalid("is above 100000000000000000000, the most of one event");
        // The digits of the largest; a longer text may not fit.
        if whole.len() > 21 {
            return Err(above);
        }
        let whole: u128 = whole.parse().map_err(|_| above)?;
        Self::from_micros(whole * MICROS + u128::from(fraction)).ok_or(above)
    }
}

impl fmt::Display for Amount {
    /// The shortest text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&show(self.signed()))
    }
}

/// Millionths as the shortest decimal text; a sum may be larger than one report can be.
#[must_use]
pub fn show(micros: i128) -> String {
    let (whole, fraction) =
        (micros.unsigned_abs() / u128::from(SCALE), micros.unsigned_abs() % u128::from(SCALE));
    let sign = if micros < 0 { "-" } else { "" };
    if fraction == 0 {
        return format!("{sign}{whole}");
    }
    let digits = format!("{fraction:06}");
    format!("{sign}{whole}.{}", digits.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_are_read_exactly() {
        for (text, micros) in [
            ("0", 0),
            ("17", 17_000_000),
            ("17.00", 17_000_000),
            ("0.1", 100_000),
            ("0.000001", 1),
            ("2147483647", 2_147_483_647_000_000),
            ("9999999999.999999", 9_999_999_999_999_999),
        ] {
            assert_eq!(text.parse(), Ok(Quantity(micros)), "{text}");
        }
    }

    #[test]
    fn a_json_number_may_have_an_exponent() {
        let read = Quantity::from_json_number;
        for (text, micros) in [
            ("5e-05", 50),
            ("1e-06", 1),
            ("1.50e-05", 15),
            ("0.0E+7", 0),
            ("1.5E+3", 1_500_000_000),
            ("12.345678e2", 1_234_567_800),
            ("9999999999.999999e0", Quantity::MAX.0),
            ("1e9", 1_000_000_000_000_000),
            ("12.5", 12_500_000),
        ] {
            assert_eq!(read(text).map(Quantity::micros), Ok(micros), "{text}");
        }
        for (text, part) in [
            ("1e-07", "6 decimal places, the most that AWS takes; round"),
            ("1.0000001", "round it to 6"),
            ("1.25e-6", "round"),
            ("1e10", "above"),
            ("1e30", "above"),
            ("-5e-05", "at least 0"),
            ("1e99999999999999999999", "at least 0"),
            ("e5", "at least 0"),
            ("1e", "at least 0"),
            ("1e1e1", "at least 0"),
        ] {
            assert!(read(text).unwrap_err().0.contains(part), "{text}: {:?}", read(text));
        }
        assert!("5e-05".parse::<Quantity>().is_err(), "AWS's own pattern has none");
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for bad in [
            "", ".", "1.", ".5", "-1", "+1", "1e3", "1E3", "01", "00", " 1", "1 ", "1,5", "NaN", "0x10",
            "1_000", "٣",
        ] {
            assert!(bad.parse::<Quantity>().is_err(), "{bad}");
        }
        assert!("1.0000001".parse::<Quantity>().unwrap_err().0.contains("decimal places"));
        for large in ["10000000000", "99999999999999999999999999"] {
            assert!(large.parse::<Quantity>().unwrap_err().0.contains("above"), "{large}");
        }
    }

    #[test]
    fn an_amount_may_be_larger_than_a_quantity() {
        for (text, micros) in [
            ("0", 0),
            ("9999999999.999999", u128::from(Quantity::MAX.0)),
            ("10000000000", 10_000_000_000_000_000),
            ("99999999999999999999.999999", AMOUNT_MICROS_MAX - 1),
            ("100000000000000000000", AMOUNT_MICROS_MAX),
            ("1e20", AMOUNT_MICROS_MAX),
            ("5e-05", 50),
        ] {
            assert_eq!(Amount::from_json_number(text), Ok(Amount(micros)), "{text}");
        }
        for large in ["100000000000000000000.000001", "1e21", "999999999999999999999", "1e40"] {
            assert!(Amount::from_json_number(large).unwrap_err().0.contains("above"), "{large}");
        }
        for bad in ["-1", "1.0000001", "1e3x", "", "01"] {
            assert!(Amount::from_json_number(bad).is_err(), "{bad}");
        }
        assert!("1e3".parse::<Amount>().is_err());
        assert_eq!(Amount::from(Quantity::MAX).to_string(), "9999999999.999999");
    }

    #[test]
    fn integers_are_whole_and_fit_awss_integer() {
        let quantity = |text: &str| text.parse::<Quantity>().unwrap();
        assert_eq!(quantity("2147483647").integer(), Some(i32::MAX));
        assert_eq!(quantity("2147483648").integer(), None);
        assert_eq!(quantity("1.5").integer(), None);
    }

    proptest! {
        #[test]
        fn shown_and_read_back(micros in 0..=Quantity::MAX.0) {
            let quantity = Quantity(micros);
            prop_assert_eq!(quantity.to_string().parse(), Ok(quantity));
            prop_assert_eq!(quantity.to_string().parse(), Ok(Amount::from(quantity)));
        }

        #[test]
        fn an_amount_is_shown_and_read_back(micros in 0..=AMOUNT_MICROS_MAX) {
            prop_assert_eq!(Amount(micros).to_string().parse(), Ok(Amount(micros)));
        }

        #[test]
        fn any_text_is_a_quantity_or_refused(text in "\\PC{0,30}") {
            if let Ok(quantity) = text.parse::<Quantity>() {
                prop_assert!(quantity <= Quantity::MAX);
            }
        }
    }
}
