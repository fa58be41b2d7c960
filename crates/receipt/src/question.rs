//! The question that a token answers: the product, the version of the signing key, and a nonce.
//!
//! Values of these types are valid: the constructor parses, and there are no setters. Names and limits are those of
//! AWS's service model `meteringmarketplace/2016-01-14`.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

/// A text that is not a value of the type; the error follows the name of the setting or field ("product_code may hold
/// only…").
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub &'static str);

/// A product code as AWS issues it: 1–255 characters of `[-a-zA-Z0-9/=:_.@]` (service model, `ProductCode`; the model
/// allows an empty one, which names no product).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ProductCode(String);

impl ProductCode {
    /// The code as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Longest product code in the service model.
pub const PRODUCT_CODE_CHARS_MAX: usize = 255;

impl FromStr for ProductCode {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.is_empty() {
            return Err(Invalid(
                "is empty; take the product code from the product's page in the AWS Marketplace Management Portal",
            ));
        }
        if text.len() > PRODUCT_CODE_CHARS_MAX {
            return Err(Invalid("is longer than the 255 characters that AWS allows"));
        }
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-/=:_.@".contains(&b)) {
            return Err(Invalid("may hold only letters, digits and - / = : _ . @"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for ProductCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The version of a product's public key: an integer of at least 1 (service model, `VersionInteger`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct PublicKeyVersion(i32);

impl PublicKeyVersion {
    /// The only version that most products ever have.
    pub const FIRST: Self = Self(1);

    /// Parses a number.
    pub const fn try_new(version: i64) -> Result<Self, Invalid> {
        if version < 1 || version > i32::MAX as i64 {
            return Err(Invalid("must be a whole number from 1 to 2147483647"));
        }
        Ok(Self(version as i32))
    }

    /// The number, in the service model's type.
    #[must_use]
    pub const fn value(self) -> i32 {
        self.0
    }
}

impl FromStr for PublicKeyVersion {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
        if !plain {
            return Err(Invalid("must be a whole number from 1 to 2147483647"));
        }
        Self::try_new(text.parse().unwrap_or(i64::MAX))
    }
}

impl fmt::Display for PublicKeyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A value that is different in every `RegisterUsage` call: 1–255 characters (service model, `Nonce`; the model allows
/// a call without one, which proves no freshness).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Nonce(String);

/// Longest nonce in the service model.
pub const NONCE_CHARS_MAX: usize = 255;

/// Random bytes in a nonce of ours: as many as a SHA-256 hash, so that two equal nonces are practically impossible.
pub const NONCE_BYTES: usize = 32;

impl Nonce {
    /// From 32 random bytes, as base64url without padding (43 characters).
    #[must_use]
    pub fn from_random(bytes: [u8; NONCE_BYTES]) -> Self {
        use base64::Engine as _;
        Self(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes))
    }

    /// The nonce as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Nonce {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.is_empty() || text.chars().count() > NONCE_CHARS_MAX {
            return Err(Invalid("must have 1 to 255 characters"));
        }
        Ok(Self(text.to_owned()))
    }
}

/// Not shown: with the token it can be replayed to every program that trusts the pair.
impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nonce(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn product_codes() {
        for good in ["demohourly", "1fszvu527waovqeuhpkyx2b5d", "a-b/c=d:e_f.g@h"] {
            assert_eq!(good.parse::<ProductCode>().unwrap().as_str(), good);
        }
        for bad in ["", "two words", "ünder", "a\n", &"x".repeat(256)] {
            assert!(bad.parse::<ProductCode>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn key_versions() {
        for good in ["1", "2", "2147483647"] {
            assert!(good.parse::<PublicKeyVersion>().is_ok(), "{good}");
        }
        for bad in ["", "0", "01", "-1", "+1", "1.0", "2147483648", "99999999999999999999"] {
            assert!(bad.parse::<PublicKeyVersion>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_nonce_is_not_shown() {
        let nonce = Nonce::from_random([7; NONCE_BYTES]);
        assert_eq!(nonce.as_str().len(), 43);
        assert!(!format!("{nonce:?}").contains(nonce.as_str()));
    }
}
