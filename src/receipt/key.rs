//! The seller's public keys: what AWS shows in the Marketplace Management Portal, parsed and judged before it is used.
//!
//! One key is a PEM block `PUBLIC KEY` (SubjectPublicKeyInfo, RFC 7468 section 13) that holds an RSA key of 2048 to
//! 8192 bits. Everything else is refused with what it is and what to do, since each of them has been pasted by
//! somebody.

use std::collections::BTreeMap;
use std::fmt;

use jsonwebtoken::DecodingKey;
use rustls_pki_types::pem::{self, SectionKind};

use crate::marketplace::PublicKeyVersion;

/// Smallest modulus that ring verifies with PSS; AWS's keys have 3072 bits.
pub const MODULUS_BITS_MIN: usize = 2048;
/// Largest modulus that ring verifies.
pub const MODULUS_BITS_MAX: usize = 8192;

/// An RSA public key that can verify PS256.
#[derive(Clone)]
pub struct PublicKey {
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
    #[error("holds a damaged PEM block; paste the public key again")]
    Damaged,
    /// More than one block.
    #[error("holds more than one PEM block; give each key version a file of its own")]
    SeveralBlocks,
    /// A private key: it has no business near a container.
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
    /// Not RSA.
    #[error("holds a public key that is not RSA; AWS Marketplace signs with RSA (PS256)")]
    NotRsa,
    /// Too few or too many bits.
    #[error("holds an RSA key of {0} bits; 2048 to 8192 are accepted (AWS's have 3072)")]
    Size(usize),
    /// An exponent that no honest key has.
    #[error("holds an RSA key with an unusable exponent; paste AWS's public key again")]
    Exponent,
}

impl PublicKey {
    /// Parses one PEM file.
    pub fn from_pem(bytes: &[u8]) -> Result<Self, KeyError> {
        let mut rest = bytes;
        let (kind, der) = next_block(&mut rest)?.ok_or_else(|| if_private(bytes, KeyError::NotPem))?;
        match kind {
            SectionKind::PublicKey => {}
            SectionKind::RsaPrivateKey | SectionKind::PrivateKey | SectionKind::EcPrivateKey => {
                return Err(KeyError::PrivateKey);
            }
            SectionKind::Certificate => return Err(KeyError::Certificate),
            _ => return Err(KeyError::OtherBlock),
        }
        if next_block(&mut rest)?.is_some() {
            return Err(KeyError::SeveralBlocks);
        }
        Self::from_spki(&der)
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
        let modulus_bits = bits(modulus);
        if !(MODULUS_BITS_MIN..=MODULUS_BITS_MAX).contains(&modulus_bits) {
            return Err(KeyError::Size(modulus_bits));
        }
        // ring's bounds: odd, at least 3, at most 33 bits.
        let odd = exponent.last().is_some_and(|octet| octet & 1 == 1);
        if !odd || exponent == [1] || bits(exponent) > 33 {
            return Err(KeyError::Exponent);
        }
        Ok(Self { decoding: DecodingKey::from_rsa_der(key), modulus_bits })
    }

    /// The size of the modulus.
    #[must_use]
    pub const fn modulus_bits(&self) -> usize {
        self.modulus_bits
    }

    pub(super) const fn decoding(&self) -> &DecodingKey {
        &self.decoding
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey(RSA, {} bits)", self.modulus_bits)
    }
}

fn next_block(rest: &mut &[u8]) -> Result<Option<(SectionKind, Vec<u8>)>, KeyError> {
    let before = *rest;
    match pem::from_buf(rest) {
        Ok(Some(block)) => Ok(Some(block)),
        Ok(None) if before.windows(BEGIN.len()).any(|window| window == BEGIN) => Err(unknown_block(before)),
        Ok(None) => Ok(None),
        Err(_) => Err(if_private(before, KeyError::Damaged)),
    }
}

const BEGIN: &[u8] = b"-----BEGIN ";

/// The PEM reader passes over labels that it does not know.
fn unknown_block(bytes: &[u8]) -> KeyError {
    let has = |label: &str| String::from_utf8_lossy(bytes).contains(label);
    if has("BEGIN RSA PUBLIC KEY") {
        return KeyError::Pkcs1;
    }
    if_private(bytes, KeyError::OtherBlock)
}

fn if_private(bytes: &[u8], otherwise: KeyError) -> KeyError {
    if String::from_utf8_lossy(bytes).contains("PRIVATE KEY") { KeyError::PrivateKey } else { otherwise }
}

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OBJECT_IDENTIFIER: u8 = 0x06;
const SEQUENCE: u8 = 0x30;

/// 1.2.840.113549.1.1.1 (RFC 3279, section 2.3.1).
const RSA_ENCRYPTION: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];

/// A reader of the few DER elements that a key has (X.690, section 10: definite, shortest lengths).
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

    /// The last element there.
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

fn bits(unsigned: &[u8]) -> usize {
    unsigned.first().map_or(0, |first| unsigned.len() * 8 - first.leading_zeros() as usize)
}

/// The seller's keys by version.
#[derive(Debug, Clone, Default)]
pub struct KeyRing(BTreeMap<PublicKeyVersion, PublicKey>);

impl KeyRing {
    /// Adds the key of a version, in place of one that was there.
    pub fn insert(&mut self, version: PublicKeyVersion, key: PublicKey) {
        self.0.insert(version, key);
    }

    /// The key of a version.
    #[must_use]
    pub fn get(&self, version: PublicKeyVersion) -> Option<&PublicKey> {
        self.0.get(&version)
    }

    /// The versions held, ascending.
    pub fn versions(&self) -> impl Iterator<Item = PublicKeyVersion> + '_ {
        self.0.keys().copied()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = include_str!("../../tests/fixtures/keys/rsa3072-test-only.pub.pem");

    fn error(pem: &str) -> KeyError {
        PublicKey::from_pem(pem.as_bytes()).unwrap_err()
    }

    #[test]
    fn the_sellers_key_is_read() {
        assert_eq!(PublicKey::from_pem(GOOD.as_bytes()).unwrap().modulus_bits(), 3072);
        let windows = GOOD.replace('\n', "\r\n");
        assert!(PublicKey::from_pem(windows.as_bytes()).is_ok());
        let commented = format!("the key of the demo product\n\n{GOOD}\n");
        assert!(PublicKey::from_pem(commented.as_bytes()).is_ok());
    }

    #[test]
    fn each_wrong_file_is_told_what_it_is() {
        assert_eq!(error(""), KeyError::NotPem);
        assert_eq!(error("ssh-rsa AAAA user@host"), KeyError::NotPem);
        assert_eq!(error(&GOOD.repeat(2)), KeyError::SeveralBlocks);
        assert_eq!(error(&GOOD.replacen("MII", "MI!", 1)), KeyError::Damaged);
        assert_eq!(error(&GOOD[..GOOD.len() / 2]), KeyError::Damaged);
        let private = include_str!("../../tests/fixtures/keys/rsa3072-test-only.pem");
        assert_eq!(error(private), KeyError::PrivateKey);
        assert_eq!(error(&private[..200]), KeyError::PrivateKey);
        assert_eq!(
            error(include_str!("../../tests/fixtures/keys/ed25519-test-only.pem")),
            KeyError::PrivateKey
        );
        assert_eq!(error(include_str!("../../tests/fixtures/tls/ca.pem")), KeyError::Certificate);
        assert_eq!(error(include_str!("../../tests/fixtures/keys/pkcs1-test-only.pub.pem")), KeyError::Pkcs1);
        assert_eq!(error(include_str!("../../tests/fixtures/keys/ec-test-only.pub.pem")), KeyError::NotRsa);
        assert_eq!(
            error(include_str!("../../tests/fixtures/keys/rsa1024-test-only.pub.pem")),
            KeyError::Size(1024)
        );
        assert_eq!(error("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"), KeyError::Damaged);
    }

    #[test]
    fn no_prefix_of_the_der_is_a_key() {
        let der = pem::from_buf(&mut GOOD.as_bytes()).unwrap().unwrap().1;
        assert!(PublicKey::from_spki(&der).is_ok());
        for end in 0..der.len() {
            assert!(PublicKey::from_spki(&der[..end]).is_err(), "{end}");
        }
        assert!(PublicKey::from_spki(&[der.as_slice(), &[0]].concat()).is_err());
    }
}
