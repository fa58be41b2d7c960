//! Quantities as exact numbers of millionths; the emulator's own parser.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A quantity in millionths.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) struct Micros(u64);

const SCALE: u64 = 1_000_000;

impl Micros {
    pub(super) const ZERO: Self = Self(0);

    pub(super) const fn of_integer(integer: u32) -> Self {
        Self(integer as u64 * SCALE)
    }

    /// `^(0|[1-9][0-9]{0,9})(\.[0-9]{1,6})?$` (service model, decimal quantities).
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (whole, fraction) = match text.split_once('.') {
            Some((whole, fraction)) if (1..=6).contains(&fraction.len()) => (whole, fraction),
            Some(_) => return None,
            None => (text, ""),
        };
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        let canonical = whole == "0" || (!whole.starts_with('0') && !whole.is_empty() && whole.len() <= 10);
        if !canonical || !digits(whole) || !digits(fraction) {
            return None;
        }
        let whole: u64 = whole.parse().ok()?;
        let padded: u64 = format!("{fraction:0<6}").parse().ok()?;
        Some(Self(whole * SCALE + padded))
    }

    /// 2,500 allocations of ten digits stay far below the type's limit; the bill of a year might exceed it.
    pub(super) const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction) = (self.0 / SCALE, self.0 % SCALE);
        if fraction == 0 {
            return write!(f, "{whole}");
        }
        let digits = format!("{fraction:06}");
        write!(f, "{whole}.{}", digits.trim_end_matches('0'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_as_the_model_has_them() {
        for (text, micros) in [
            ("0", 0),
            ("17", 17_000_000),
            ("17.00", 17_000_000),
            ("0.000001", 1),
            ("9999999999.999999", 9_999_999_999_999_999),
        ] {
            assert_eq!(Micros::parse(text), Some(Micros(micros)), "{text}");
        }
        for bad in [
            "",
            ".",
            "1.",
            ".5",
            "01",
            "-1",
            "+1",
            "1e3",
            "1.0000001",
            "12345678901",
            " 1",
            "1,5",
            "NaN",
            "1.2.3",
        ] {
            assert_eq!(Micros::parse(bad), None, "{bad}");
        }
        assert_eq!(Micros::of_integer(17), Micros(17_000_000));
        assert_eq!(Micros(1_500_000).to_string(), "1.5");
        assert_eq!(Micros(2_000_000).to_string(), "2");
    }
}
