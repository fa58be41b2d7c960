//! The seller's public keys, as AWS shows them in the Marketplace Management Portal: parsed and checked before use.
//!
//! A key is a PEM block `PUBLIC KEY` (SubjectPublicKeyInfo, RFC 7468 section 13) that contains an RSA key of 2048 to
//! 8192 bits. Everything else is refused; the error names what it is and what to do, since people paste all of these.

use std::collections::BTreeMap;
use std::fmt;

use jsonwebtoken::DecodingKey;
use rustls_pki_types::pem::{self, SectionKind};

use crate::PublicKeyVersion;

/// Smallest modulus that ring verifies with PSS; AWS's keys have 3072 bits.
pub const MODULUS_BITS_MIN: usize = 2048;
/// Largest modulus that ring verifies.
pub const MODULUS_BITS_MAX: usize = 8192;
/// Largest public exponent that ring verifies with; every key in use has 65537, or 3.
const EXPONENT_BITS_MAX: usize = 33;

/// Largest PEM file: a key of 8192 bits has 1.5 KiB; comments around it are allowed.
pub const PEM_BYTES_MAX: usize = 16 * 1024;

/// An RSA public key that can verify PS256.
#[derive(Clone)]
pub struct PublicKey {
    /// RSAPublicKey (RFC 8017, appendix A.1.1).
    decoding: DecodingKey,
    modulus_bits: usize,
}

/// Why a file is not the seller's public key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No PEM block at all.
    #[error(
        "holds no PEM block; paste the whole public key, from -----BEGIN PUBLIC KEY----- to -----END PUBLIC KEY-----"
    )]
    NotPem,
    /// The PEM or the DER in it is damaged.
    #[error("holds a damaged PEM block; paste the public key again, each line from its first column")]
    Damaged,
    /// More than one block.
    #[error("holds more than one PEM block; give each key version a file of its own")]
    SeveralBlocks,
    /// A private key, which must not be near a container.
    #[error("holds a private key; put AWS's public key there, and treat the private one as exposed")]
    PrivateKey,
    /// A certificate.
    #[error("holds a certificate; put AWS's public key there (-----BEGIN PUBLIC KEY-----)")]
    Certificate,
    /// PKCS#1.
    #[error(
        "holds a PKCS#1 key (RSA PUBLIC KEY); convert it with `openssl rsa -RSAPublicKey_in -pubout`, or paste AWS's own file"
    )]
    Pkcs1,
    /// Another kind of block.
    #[error(
        "holds a PEM block that is no public key; put AWS's public key there (-----BEGIN PUBLIC KEY-----)"
    )]
    OtherBlock,
    /// Not RSA, or RSA under another identifier than rsaEncryption.
    #[error(
        "holds a public key that is not plain RSA; AWS Marketplace signs with RSA (PS256), so put AWS's public key there"
    )]
    NotRsa,
    /// A modulus of too few or too many bits.
    #[error(
        "holds an RSA key of {0} bits, where 2048 to 8192 are accepted (AWS's have 3072); put AWS's public key there"
    )]
    Size(usize),
    /// An exponent that is even, below 3 or above 33 bits.
    #[error("holds an RSA key with an unusable exponent; paste AWS's public key again")]
    Exponent,
}

impl PublicKey {
    /// Parses one PEM file. Text around the block is ignored.
    pub fn from_pem(bytes: &[u8]) -> Result<Self, KeyError> {
        let text = String::from_utf8_lossy(bytes);
        let labels: Vec<&str> =
            text.split(BEGIN).skip(1).map(|block| block.split("--").next().unwrap_or(block)).collect();
        // A private key is reported first, whatever else is wrong. Its end line is enough, in case its begin line is
        // missing.
        if text.contains("PRIVATE KEY-----") {
            return Err(KeyError::PrivateKey);
        }
        match labels[..] {
            [] => Err(KeyError::NotPem),
            ["PUBLIC KEY"] => match pem::from_buf(&mut &*bytes) {
                Ok(Some((SectionKind::PublicKey, der))) => Self::from_spki(&der),
                _ => Err(KeyError::Damaged),
            },
            ["CERTIFICATE" | "X509 CERTIFICATE" | "TRUSTED CERTIFICATE"] => Err(KeyError::Certificate),
            ["RSA PUBLIC KEY"] => Err(KeyError::Pkcs1),
            [_] => Err(KeyError::OtherBlock),
            [..] => Err(KeyError::SeveralBlocks),
        }
    }

    /// Parses a SubjectPublicKeyInfo (RFC 5280, section 4.1) with an RSA key (RFC 3279, section 2.3.1).
    fn from_spki(spki: &[u8]) -> Result<Self, KeyError> {
        let mut whole = Der(spki);
        let mut info = Der(whole.only(SEQUENCE)?);
        let mut algorithm = Der(info.take(SEQUENCE)?);
        if algorithm.take(OBJECT_IDENTIFIER)? != RSA_ENCRYPTION {
            return Err(KeyError::NotRsa);
        }
        // The first octet of a BIT STRING counts unused bits, of which a key has none.
        let Some((0, key)) = info.only(BIT_STRING)?.split_first() else { return Err(KeyError::Damaged) };
        let mut rsa = Der(Der(key).only(SEQUENCE)?);
        let modulus = unsigned(rsa.take(INTEGER)?)?;
        let exponent = unsigned(rsa.only(INTEGER)?)?;
        // RFC 3279 requires NULL parameters; an absent field is a known and harmless mistake.
        if !matches!(algorithm.0, [] | NULL) {
            return Err(KeyError::Damaged);
        }
        let modulus_bits = bits(modulus);
        if !(MODULUS_BITS_MIN..=MODULUS_BITS_MAX).contains(&modulus_bits) {
            return Err(KeyError::Size(modulus_bits));
        }
        // A product of two odd primes is odd. ring checks that only when it verifies, and then the error would be about
        // the token.
        if !is_odd(modulus) {
            return Err(KeyError::Damaged);
        }
        // ring's limits.
        if !is_odd(exponent) || exponent == [1] || bits(exponent) > EXPONENT_BITS_MAX {
            return Err(KeyError::Exponent);
        }
        Ok(Self { decoding: DecodingKey::from_rsa_der(key), modulus_bits })
    }

    /// The size of the modulus.
    #[must_use]
    pub const fn modulus_bits(&self) -> usize {
        self.modulus_bits
    }

    /// The key in jsonwebtoken's form.
    pub(super) const fn decoding(&self) -> &DecodingKey {
        &self.decoding
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey(RSA, {} bits)", self.modulus_bits)
    }
}

const BEGIN: &str = "-----BEGIN ";

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const NULL: &[u8] = &[0x05, 0x00];
const OBJECT_IDENTIFIER: u8 = 0x06;
const SEQUENCE: u8 = 0x30;

/// 1.2.840.113549.1.1.1 (RFC 3279, section 2.3.1).
const RSA_ENCRYPTION: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];

/// A reader for the few DER elements of a key (X.690, section 10: definite, shortest lengths).
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    fn take(&mut self, tag: u8) -> Result<&'a [u8], KeyError> {
        let [found, first, rest @ ..] = self.0 else { return Err(KeyError::Damaged) };
        if *found != tag {
            return Err(KeyError::Damaged);
        }
        let (length, rest) = match *first {
            length @ 0..=0x7f => (usize::from(length), rest),
            0x81 => match rest {
                [length @ 0x80..=0xff, rest @ ..] => (usize::from(*length), rest),
                _ => return Err(KeyError::Damaged),
            },
            0x82 => match rest {
                [high @ 1..=0xff, low, rest @ ..] => (usize::from(*high) << 8 | usize::from(*low), rest),
                _ => return Err(KeyError::Damaged),
            },
            _ => return Err(KeyError::Damaged),
        };
        let (content, rest) = rest.split_at_checked(length).ok_or(KeyError::Damaged)?;
        self.0 = rest;
        Ok(content)
    }

    /// The content of the last element; fails if another one follows.
    fn only(&mut self, tag: u8) -> Result<&'a [u8], KeyError> {
        let content = self.take(tag)?;
        if self.0.is_empty() { Ok(content) } else { Err(KeyError::Damaged) }
    }
}

/// The octets of a positive INTEGER without its sign octet.
fn unsigned(integer: &[u8]) -> Result<&[u8], KeyError> {
    match integer {
        [0, rest @ ..] if rest.first().is_some_and(|first| *first >= 0x80) => Ok(rest),
        [1..=0x7f, ..] => Ok(integer),
        _ => Err(KeyError::Damaged),
    }
}

fn is_odd(unsigned: &[u8]) -> bool {
    unsigned.last().is_some_and(|octet| octet & 1 == 1)
}

fn bits(unsigned: &[u8]) -> usize {
    unsigned.first().map_or(0, |first| unsigned.len() * 8 - first.leading_zeros() as usize)
}

/// The seller's keys by version.
#[derive(Debug, Clone, Default)]
pub struct KeyRing(BTreeMap<PublicKeyVersion, PublicKey>);

impl KeyRing {
    /// Adds the key of a version, replacing an existing one.
    pub fn insert(&mut self, version: PublicKeyVersion, key: PublicKey) {
        self.0.insert(version, key);
    }

    /// The key of a version.
    #[must_use]
    pub fn get(&self, version: PublicKeyVersion) -> Option<&PublicKey> {
        self.0.get(&version)
    }

    /// The versions that have a key, ascending.
    pub fn versions(&self) -> impl Iterator<Item = PublicKeyVersion> + '_ {
        self.0.keys().copied()
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests;
