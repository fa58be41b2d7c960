#![doc = include_str!("../README.md")]
//!
//! # The rules
//!
//! [`verify`] is pure and the only constructor of a [`Receipt`]. It accepts exactly one form, and refuses the rest:
//! - a compact JWS of three parts (RFC 7515, section 3.1), at most 8 KiB, strict base64url without padding;
//! - a header with `alg` = `PS256`, `typ` absent or `JWT`, neither `crit` nor `b64`; its members about keys (`kid`,
//!   `jwk`, `jku`, `x5u`, `x5c`) are ignored: the key is the seller's, of the version in the question;
//! - a payload that names product code, nonce and key version, each exactly once, in one casing (camelCase as AWS sends
//!   it, or PascalCase as its documents show it), and equal to the question's;
//! - `exp`, `nbf` and `iat` are optional, since the nonce proves freshness, but must be valid if present.
//!
//! It reads no clock, no file and no network: key, question and time are arguments.
//!
//! A receipt cannot be made in any other way, but code that has one may read it:
//!
//! ```
//! fn holds<T: Send + Sync>() {}
//! fn product(receipt: &tollgate_receipt::Receipt) -> &str {
//!     receipt.product_code().as_str()
//! }
//! holds::<tollgate_receipt::Receipt>();
//! ```
//!
//! Its fields are private, so it cannot be written as a literal, nor derived from an old one:
//!
//! ```compile_fail,E0451
//! fn forge(old: tollgate_receipt::Receipt) -> tollgate_receipt::Receipt {
//!     tollgate_receipt::Receipt { token: "a.b.c".to_owned(), ..old }
//! }
//! ```
//!
//! It cannot be cloned, made by default, or deserialized:
//!
//! ```compile_fail,E0277
//! fn holds<T: Clone>() {}
//! holds::<tollgate_receipt::Receipt>();
//! ```
//!
//! ```compile_fail,E0277
//! fn holds<T: Default>() {}
//! holds::<tollgate_receipt::Receipt>();
//! ```
//!
//! ```compile_fail,E0277
//! fn holds<T: for<'de> serde::Deserialize<'de>>() {}
//! holds::<tollgate_receipt::Receipt>();
//! ```

pub mod json;
mod key;
mod ps256;
mod question;

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use jsonwebtoken::signature::Verifier as _;

use json::Members;

pub use key::{KeyError, KeyRing, MODULUS_BITS_MAX, MODULUS_BITS_MIN, PEM_BYTES_MAX, PublicKey};
pub use question::{
    Invalid, NONCE_BYTES, NONCE_CHARS_MAX, Nonce, PRODUCT_CODE_CHARS_MAX, ProductCode, PublicKeyVersion,
};

/// Longest token that is accepted; AWS's have less than 1 KiB.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// How far the token's clock and ours may differ: as much as AWS allows for a request's signature.
pub const LEEWAY_SECONDS: f64 = 300.0;

/// A verified token. Not `Clone`, not `Deserialize`; only [`Receipt::token`] shows its text.
pub struct Receipt {
    token: String,
    nonce: Nonce,
    product_code: ProductCode,
    public_key_version: PublicKeyVersion,
    issued_at: Option<SystemTime>,
    clock_warning: Option<i64>,
    emulated: bool,
    claims: String,
}

impl Receipt {
    /// The compact JWS. With its nonce it can be replayed to every program that trusts the pair: never log it.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The nonce that the token answers.
    #[must_use]
    pub const fn nonce(&self) -> &Nonce {
        &self.nonce
    }

    /// The product.
    #[must_use]
    pub const fn product_code(&self) -> &ProductCode {
        &self.product_code
    }

    /// The version of the key that verified it.
    #[must_use]
    pub const fn public_key_version(&self) -> PublicKeyVersion {
        self.public_key_version
    }

    /// `iat`, if the token has it.
    #[must_use]
    pub const fn issued_at(&self) -> Option<SystemTime> {
        self.issued_at
    }

    /// `iat` minus our time in seconds, if the difference is more than 5 minutes: one of the two clocks is wrong.
    #[must_use]
    pub const fn clock_warning(&self) -> Option<i64> {
        self.clock_warning
    }

    /// Whether the emulator made it.
    #[must_use]
    pub const fn emulated(&self) -> bool {
        self.emulated
    }

    /// All claims, as the signed JSON text.
    #[must_use]
    pub fn claims_json(&self) -> &str {
        &self.claims
    }
}

/// Neither token nor nonce is shown.
impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receipt")
            .field("product_code", &self.product_code)
            .field("public_key_version", &self.public_key_version)
            .field("issued_at", &self.issued_at)
            .field("emulated", &self.emulated)
            .finish_non_exhaustive()
    }
}

/// The question, and the time at which the answer is judged.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// The product in the call.
    pub product_code: &'a ProductCode,
    /// The key version in the call.
    pub public_key_version: PublicKeyVersion,
    /// The nonce of this call.
    pub nonce: &'a Nonce,
    /// The current time.
    pub now: SystemTime,
    /// Whether tokens of the emulator are accepted.
    pub allow_emulated: bool,
}

/// Why a token is refused. [`VerifyError::code`] names each for documents, metrics and logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// Longer than [`TOKEN_BYTES_MAX`].
    #[error("the token is longer than 8 KiB")]
    TooLong,
    /// Not three non-empty parts of strict base64url.
    #[error("the token is not a compact JWS: three parts of base64url without padding")]
    Malformed,
    /// The header is not a JSON object with unique members.
    #[error("the token's header is not a JSON object with unique members")]
    HeaderInvalid,
    /// `alg` is not PS256.
    #[error("the token's algorithm is not PS256")]
    AlgorithmNotAllowed,
    /// `typ` is present and not `JWT`.
    #[error("the token's type is not JWT")]
    TypeNotAllowed,
    /// `crit` or `b64` is present.
    #[error("the token asks for an extension that is not supported (crit, b64)")]
    ExtensionNotAllowed,
    /// The signature over this header and payload was not made with the seller's key.
    #[error("the token's signature does not verify against the seller's public key of this version")]
    SignatureInvalid,
    /// The payload is not a JSON object with unique members.
    #[error("the token's payload is not a JSON object with unique members")]
    PayloadInvalid,
    /// One of the three claims is in another casing, or the casings are mixed.
    #[error("the token names product code, nonce or key version in more than one casing")]
    ClaimAmbiguous,
    /// One of the three claims is missing or of the wrong type.
    #[error("the token lacks a product code, nonce or key version of the right type")]
    ClaimMissing,
    /// Another product.
    #[error("the token is for another product")]
    ProductCodeMismatch,
    /// Another call's nonce: the token is replayed, or made by a party that did not get the question.
    #[error("the token answers another call: its nonce is not the one that was sent")]
    NonceMismatch,
    /// Another key version.
    #[error("the token names another key version")]
    PublicKeyVersionMismatch,
    /// `exp`, `nbf` or `iat` is not a number.
    #[error("the token's exp, nbf or iat is not a number")]
    TimeInvalid,
    /// `exp` has passed.
    #[error("the token has expired")]
    Expired,
    /// `nbf` is in the future.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// The emulator made it and that is not allowed.
    #[error("the token was made by the tollgate emulator, which is not accepted here")]
    EmulatedToken,
}

impl VerifyError {
    /// Every error, for documents and tests.
    pub const ALL: [Self; 17] = [
        Self::TooLong,
        Self::Malformed,
        Self::HeaderInvalid,
        Self::AlgorithmNotAllowed,
        Self::TypeNotAllowed,
        Self::ExtensionNotAllowed,
        Self::SignatureInvalid,
        Self::PayloadInvalid,
        Self::ClaimAmbiguous,
        Self::ClaimMissing,
        Self::ProductCodeMismatch,
        Self::NonceMismatch,
        Self::PublicKeyVersionMismatch,
        Self::TimeInvalid,
        Self::Expired,
        Self::NotYetValid,
        Self::EmulatedToken,
    ];

    /// The value of `reason.code` in state `unverified` and of the metric's label.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::TooLong => "TokenTooLong",
            Self::Malformed => "TokenMalformed",
            Self::HeaderInvalid => "HeaderInvalid",
            Self::AlgorithmNotAllowed => "AlgorithmNotAllowed",
            Self::TypeNotAllowed => "TypeNotAllowed",
            Self::ExtensionNotAllowed => "ExtensionNotAllowed",
            Self::SignatureInvalid => "SignatureInvalid",
            Self::PayloadInvalid => "PayloadInvalid",
            Self::ClaimAmbiguous => "ClaimAmbiguous",
            Self::ClaimMissing => "ClaimMissing",
            Self::ProductCodeMismatch => "ProductCodeMismatch",
            Self::NonceMismatch => "NonceMismatch",
            Self::PublicKeyVersionMismatch => "PublicKeyVersionMismatch",
            Self::TimeInvalid => "TimeInvalid",
            Self::Expired => "TokenExpired",
            Self::NotYetValid => "TokenNotYetValid",
            Self::EmulatedToken => "EmulatedToken",
        }
    }
}

/// Verifies `token` as the answer to the question in [`Expected`], with the seller's key of that version.
///
/// ```
/// use std::time::{Duration, UNIX_EPOCH};
/// use tollgate_receipt::{Expected, PublicKey, PublicKeyVersion, VerifyError, verify};
///
/// let token = include_str!("../examples/token.jwt");
/// let key = include_bytes!("../examples/key.pem");
/// let key = PublicKey::from_pem(key)?;
/// let expected = Expected {
///     product_code: &"demohourly".parse()?,
///     public_key_version: PublicKeyVersion::FIRST,
///     nonce: &"fixture-nonce".parse()?,
///     now: UNIX_EPOCH + Duration::from_secs(1_795_507_200),
///     allow_emulated: false,
/// };
/// let receipt = verify(token.trim(), &key, &expected)?;
/// assert_eq!(receipt.product_code().as_str(), "demohourly");
///
/// let replayed = Expected { nonce: &"another-nonce".parse()?, ..expected };
/// assert_eq!(verify(token.trim(), &key, &replayed).unwrap_err(), VerifyError::NonceMismatch);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn verify(token: &str, key: &PublicKey, expected: &Expected<'_>) -> Result<Receipt, VerifyError> {
    let payload = verify_jws(token, key)?;
    let claims = Members::parse(&payload).ok_or(VerifyError::PayloadInvalid)?;
    verify_question(&claims, expected)?;
    let now = seconds_since_1970(expected.now);
    let iat = verify_times(&claims, now)?;
    // Any value but `false` counts, in any casing of the name: the emulator sets the claim so that it is noticed.
    let emulated =
        claims.names().any(|name| same_word(name, "emulated") && claims.raw(name) != Some("false"));
    if emulated && !expected.allow_emulated {
        return Err(VerifyError::EmulatedToken);
    }
    Ok(Receipt {
        token: token.to_owned(),
        nonce: expected.nonce.clone(),
        product_code: expected.product_code.clone(),
        public_key_version: expected.public_key_version,
        issued_at: iat.and_then(moment),
        clock_warning: iat.and_then(|iat| clock_warning(iat, now)),
        emulated,
        claims: String::from_utf8(payload).map_err(|_| VerifyError::PayloadInvalid)?,
    })
}

/// The payload of a JWS with a valid form, header and signature.
fn verify_jws(token: &str, key: &PublicKey) -> Result<Vec<u8>, VerifyError> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(VerifyError::TooLong);
    }
    let parts: Vec<&str> = token.split('.').collect();
    let [header, payload, signature] = parts[..] else { return Err(VerifyError::Malformed) };
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).ok().filter(|bytes| !bytes.is_empty());
    let header_bytes = decode(header).ok_or(VerifyError::Malformed)?;
    let payload_bytes = decode(payload).ok_or(VerifyError::Malformed)?;
    let signature = decode(signature).ok_or(VerifyError::Malformed)?;
    verify_header(&Members::parse(&header_bytes).ok_or(VerifyError::HeaderInvalid)?)?;

    let message = &token[..header.len() + 1 + payload.len()];
    let verifier =
        ps256::verifier(&Algorithm::PS256, key.decoding()).map_err(|_| VerifyError::SignatureInvalid)?;
    verifier.verify(message.as_bytes(), &signature).map_err(|_| VerifyError::SignatureInvalid)?;
    Ok(payload_bytes)
}

fn verify_header(header: &Members) -> Result<(), VerifyError> {
    if header.raw("crit").is_some() || header.raw("b64").is_some() {
        return Err(VerifyError::ExtensionNotAllowed);
    }
    if header.string("alg").as_deref() != Some("PS256") {
        return Err(VerifyError::AlgorithmNotAllowed);
    }
    if header.raw("typ").is_some() && header.string("typ").as_deref() != Some("JWT") {
        return Err(VerifyError::TypeNotAllowed);
    }
    Ok(())
}

/// The names of the three claims, as AWS sends them and as its documents show them.
const CAMEL: [&str; 3] = ["productCode", "nonce", "publicKeyVersion"];
const PASCAL: [&str; 3] = ["ProductCode", "Nonce", "PublicKeyVersion"];

fn verify_question(claims: &Members, expected: &Expected<'_>) -> Result<(), VerifyError> {
    let names: Vec<&str> =
        claims.names().filter(|name| CAMEL.iter().any(|claim| same_word(name, claim))).collect();
    let in_casing = |casing: &[&str; 3]| names.iter().all(|name| casing.contains(name));
    let [product_code, nonce, version] = if in_casing(&CAMEL) {
        CAMEL
    } else if in_casing(&PASCAL) {
        PASCAL
    } else {
        return Err(VerifyError::ClaimAmbiguous);
    };
    let product_code = claims.string(product_code).ok_or(VerifyError::ClaimMissing)?;
    let nonce = claims.string(nonce).ok_or(VerifyError::ClaimMissing)?;
    // Parsed from the number's text: 1.0 and 1e0 are not integers, and "1" is not a number.
    let version: PublicKeyVersion =
        claims.raw(version).and_then(|text| text.parse().ok()).ok_or(VerifyError::ClaimMissing)?;
    if product_code != expected.product_code.as_str() {
        return Err(VerifyError::ProductCodeMismatch);
    }
    if nonce != expected.nonce.as_str() {
        return Err(VerifyError::NonceMismatch);
    }
    if version != expected.public_key_version {
        return Err(VerifyError::PublicKeyVersionMismatch);
    }
    Ok(())
}

/// Whether two names differ only in casing; letters that only look alike (K as U+212A, s as U+017F) count as equal too.
fn same_word(a: &str, b: &str) -> bool {
    a.to_uppercase().to_lowercase() == b.to_lowercase()
}

/// `exp`, `nbf` and `iat` (RFC 7519, section 4.1), in seconds since 1970 like `now`; returns `iat`.
fn verify_times(claims: &Members, now: f64) -> Result<Option<f64>, VerifyError> {
    let time = |name: &str| match claims.raw(name) {
        None => Ok(None),
        Some(text) => match serde_json::from_str::<f64>(text) {
            Ok(seconds) if seconds.is_finite() => Ok(Some(seconds)),
            _ => Err(VerifyError::TimeInvalid),
        },
    };
    if time("exp")?.is_some_and(|exp| now > exp + LEEWAY_SECONDS) {
        return Err(VerifyError::Expired);
    }
    if time("nbf")?.is_some_and(|nbf| now + LEEWAY_SECONDS < nbf) {
        return Err(VerifyError::NotYetValid);
    }
    time("iat")
}

/// A clock before 1970 is wrong: it counts as the epoch.
fn seconds_since_1970(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// Limits the distance to 285 million years; `None` if this system cannot represent that either.
fn moment(seconds: f64) -> Option<SystemTime> {
    let distance = Duration::try_from_secs_f64(seconds.abs().min(9.0e15)).ok()?;
    if seconds < 0.0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) }
}

#[expect(clippy::cast_possible_truncation, reason = "a cast from f64 saturates")]
fn clock_warning(iat: f64, now: f64) -> Option<i64> {
    let seconds = (iat.floor() - now.floor()) as i64;
    (seconds.unsigned_abs() > 300).then_some(seconds)
}

#[cfg(test)]
mod tests;
