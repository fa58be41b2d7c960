//! Bad tokens, one kind for each check that a client must make.

use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use ring::hmac;
use ring::signature::{RSA_PKCS1_SHA256, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding};
use serde_json::{Map, Value, json};

use super::{CAMEL, Claims, PASCAL, message, sign};
use crate::keys::SigningKey;

/// The deliberate flaw of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    WrongNonce,
    MissingNonce,
    NullNonce,
    WrongProductCode,
    MissingProductCode,
    WrongKeyVersion,
    MissingKeyVersion,
    TextKeyVersion,
    BothCasings,
    DuplicateClaim,
    Expired,
    NotYetValid,
    WrongSignature,
    OtherKey,
    EmbeddedKey,
    NoAlgorithm,
    Hmac,
    Pkcs1,
    Sha384,
    Sha512,
    NoSalt,
    Critical,
    WrongType,
    TwoParts,
    FiveParts,
    Padded,
    StandardAlphabet,
    TrailingBits,
    Oversized,
    Huge,
    Garbage,
    Empty,
}

impl Flaw {
    /// Every flaw, with its name and its description.
    pub(crate) const ALL: [(Self, &'static str, &'static str); 32] = [
        (Self::WrongNonce, "wrong-nonce", "the nonce is another request's"),
        (Self::MissingNonce, "missing-nonce", "the nonce claim is left out"),
        (Self::NullNonce, "null-nonce", "the nonce claim is null"),
        (Self::WrongProductCode, "wrong-product-code", "the product code is another product's"),
        (Self::MissingProductCode, "missing-product-code", "the product code claim is left out"),
        (Self::WrongKeyVersion, "wrong-key-version", "the key version is one higher"),
        (Self::MissingKeyVersion, "missing-key-version", "the key version claim is left out"),
        (Self::TextKeyVersion, "text-key-version", "the key version is a string"),
        (
            Self::BothCasings,
            "both-casings",
            "the claims stand in camelCase and, with other values, in PascalCase",
        ),
        (Self::DuplicateClaim, "duplicate-claim", "the product code stands twice, with two values"),
        (Self::Expired, "expired", "exp was a day ago"),
        (Self::NotYetValid, "not-yet-valid", "nbf is a day ahead"),
        (Self::WrongSignature, "wrong-signature", "one bit of the signature is wrong"),
        (Self::OtherKey, "other-key", "signed by another RSA-3072 key"),
        (Self::EmbeddedKey, "embedded-key", "signed by another key, which the header carries as jwk"),
        (Self::NoAlgorithm, "alg-none", "alg none, without a signature"),
        (Self::Hmac, "alg-hs256", "HS256 with the public key's PEM as its secret"),
        (Self::Pkcs1, "alg-rs256", "RS256: the same key, PKCS #1 v1.5"),
        (Self::Sha384, "alg-ps384", "PS384: the same key, SHA-384"),
        (Self::Sha512, "alg-ps512", "PS512: the same key, SHA-512"),
        (Self::NoSalt, "salt-zero", "PS256 with a salt of no bytes"),
        (Self::Critical, "crit", "the header has crit"),
        (Self::WrongType, "wrong-type", "typ is at+jwt"),
        (Self::TwoParts, "two-parts", "the signature part is left out"),
        (Self::FiveParts, "five-parts", "as many parts as an encrypted token has"),
        (Self::Padded, "padded", "base64url with padding"),
        (Self::StandardAlphabet, "standard-alphabet", "the signature in base64 rather than base64url"),
        (
            Self::TrailingBits,
            "trailing-bits",
            "bits of the payload's last character that mean nothing are set",
        ),
        (Self::Oversized, "oversized", "a claim of 16 KiB"),
        (Self::Huge, "huge", "a claim of 4 MiB"),
        (Self::Garbage, "garbage", "a text that is no token"),
        (Self::Empty, "empty", "an empty text"),
    ];

    pub(crate) fn of_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known, _)| *known == name).map(|(flaw, _, _)| *flaw)
    }

    pub(crate) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(flaw, _, _)| *flaw == self).map_or("", |(_, name, _)| name)
    }

    /// Whether it needs a key that is not the product's.
    pub(crate) const fn needs_stranger(self) -> bool {
        matches!(self, Self::OtherKey | Self::EmbeddedKey)
    }

    /// Makes the bad token. `stranger` is a key that no client trusts.
    pub(crate) fn token(self, claims: &Claims, key: &SigningKey, stranger: &SigningKey) -> String {
        match self {
            Self::Garbage => return "this is not a token".to_owned(),
            Self::Empty => return String::new(),
            _ => {}
        }
        let mut header = json!({"alg": self.algorithm(), "typ": "JWT"});
        match self {
            Self::Critical => {
                header["crit"] = json!(["exp"]);
                header["exp"] = json!(0);
            }
            Self::WrongType => header["typ"] = json!("at+jwt"),
            Self::EmbeddedKey => header["jwk"] = stranger.jwk(),
            _ => {}
        }
        let message = self.message(&header.to_string(), claims);
        let signature = self.signature(&message, key, stranger);
        self.assembled(&message, &signature)
    }

    const fn algorithm(self) -> &'static str {
        match self {
            Self::NoAlgorithm => "none",
            Self::Hmac => "HS256",
            Self::Pkcs1 => "RS256",
            Self::Sha384 => "PS384",
            Self::Sha512 => "PS512",
            _ => "PS256",
        }
    }

    fn message(self, header: &str, claims: &Claims) -> String {
        let payload = Value::Object(self.payload(claims)).to_string();
        match self {
            Self::DuplicateClaim => {
                let name = claims.names().product_code;
                let twice = payload.replacen('{', &format!("{{\"{name}\":\"another-product\","), 1);
                message(header, &twice)
            }
            Self::Padded => format!("{}.{}", URL_SAFE.encode(header), URL_SAFE.encode(with_tail(&payload))),
            Self::TrailingBits => {
                let mut message = message(header, &with_tail(&payload));
                let last = message.pop().unwrap_or('A');
                message.push(next_character(last));
                message
            }
            _ => message(header, &payload),
        }
    }

    fn payload(self, claims: &Claims) -> Map<String, Value> {
        let names = claims.names();
        let mut payload = claims.payload();
        let mut set = |name: &str, value: Value| payload.insert(name.to_owned(), value);
        let now = claims.issued_at.unix_seconds();
        match self {
            Self::WrongNonce => set(names.nonce, json!("not-the-nonce-that-was-sent")),
            Self::NullNonce => set(names.nonce, Value::Null),
            Self::WrongProductCode => set(names.product_code, json!("another-product")),
            Self::WrongKeyVersion => set(names.public_key_version, json!(claims.public_key_version + 1)),
            Self::TextKeyVersion => {
                set(names.public_key_version, json!(claims.public_key_version.to_string()))
            }
            Self::BothCasings => {
                let other = if claims.pascal_case { CAMEL } else { PASCAL };
                set(other.nonce, json!("not-the-nonce-that-was-sent"));
                set(other.public_key_version, json!(claims.public_key_version));
                set(other.product_code, json!("another-product"))
            }
            Self::Expired => set("exp", json!(now - DAY_SECONDS)),
            Self::NotYetValid => set("nbf", json!(now + DAY_SECONDS)),
            Self::Oversized => set("filling", json!("x".repeat(16 << 10))),
            Self::Huge => set("filling", json!("x".repeat(4 << 20))),
            Self::MissingNonce => payload.remove(names.nonce),
            Self::MissingProductCode => payload.remove(names.product_code),
            Self::MissingKeyVersion => payload.remove(names.public_key_version),
            _ => None,
        };
        payload
    }

    fn signature(self, message: &str, key: &SigningKey, stranger: &SigningKey) -> Vec<u8> {
        let with = |key: &SigningKey, padding: &'static dyn RsaEncoding| sign(&key.pair, padding, message);
        match self {
            Self::NoAlgorithm => Vec::new(),
            Self::Hmac => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, key.public_pem.as_bytes());
                hmac::sign(&key, message.as_bytes()).as_ref().to_vec()
            }
            Self::Pkcs1 => with(key, &RSA_PKCS1_SHA256),
            Self::Sha384 => with(key, &RSA_PSS_SHA384),
            Self::Sha512 => with(key, &RSA_PSS_SHA512),
            Self::NoSalt => key.sign_with_salt(message.as_bytes(), 0),
            Self::OtherKey | Self::EmbeddedKey => with(stranger, &RSA_PSS_SHA256),
            Self::WrongSignature => {
                let mut signature = with(key, &RSA_PSS_SHA256);
                if let Some(last) = signature.last_mut() {
                    *last ^= 1;
                }
                signature
            }
            _ => with(key, &RSA_PSS_SHA256),
        }
    }

    fn assembled(self, message: &str, signature: &[u8]) -> String {
        let encoded = URL_SAFE_NO_PAD.encode(signature);
        match self {
            Self::TwoParts => message.to_owned(),
            Self::FiveParts => format!("{message}.{encoded}.{encoded}.{encoded}"),
            Self::StandardAlphabet => format!("{message}.{}", encoded.replace('-', "+").replace('_', "/")),
            _ => format!("{message}.{encoded}"),
        }
    }
}

const DAY_SECONDS: i64 = 86_400;

/// Pads a JSON text with white space, which does not change its meaning, to a length for which base64 needs padding.
fn with_tail(payload: &str) -> String {
    let mut payload = payload.to_owned();
    while payload.len() % 3 != 1 {
        payload.push(' ');
    }
    payload
}

/// The next character of the alphabet: sets a bit that is zero in a last character whose low bits are unused.
fn next_character(last: char) -> char {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let position = ALPHABET.iter().position(|known| char::from(*known) == last).unwrap_or(0);
    ALPHABET.get(position + 1).copied().map_or(last, char::from)
}
