//! The `Signature` of RegisterUsage: a PS256 JWS over product code, nonce and key version, and every bad one
//! that a client should refuse.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding, RsaKeyPair};
use serde_json::{Value, json};

use crate::clock::Timestamp;

/// What is signed.
pub(super) struct Claims<'a> {
    pub(super) product_code: &'a str,
    pub(super) public_key_version: i64,
    pub(super) nonce: Option<&'a str>,
    pub(super) issued_at: Timestamp,
    pub(super) pascal_case: bool,
}

/// What is wrong with a token on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    WrongNonce,
    MissingNonce,
    WrongProductCode,
    WrongKeyVersion,
    WrongSignature,
    AlgorithmNone,
    AlgorithmRs256,
    Expired,
    Garbage,
    Empty,
}

impl Flaw {
    pub(super) const ALL: [(&'static str, Self); 10] = [
        ("wrong-nonce", Self::WrongNonce),
        ("missing-nonce", Self::MissingNonce),
        ("wrong-product-code", Self::WrongProductCode),
        ("wrong-key-version", Self::WrongKeyVersion),
        ("wrong-signature", Self::WrongSignature),
        ("alg-none", Self::AlgorithmNone),
        ("alg-rs256", Self::AlgorithmRs256),
        ("expired", Self::Expired),
        ("garbage", Self::Garbage),
        ("empty", Self::Empty),
    ];

    pub(super) fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, flaw)| flaw)
    }
}

impl Claims<'_> {
    fn payload(&self, flaw: Option<Flaw>) -> Value {
        let [product_code, nonce, version] = if self.pascal_case {
            ["ProductCode", "Nonce", "PublicKeyVersion"]
        } else {
            ["productCode", "nonce", "publicKeyVersion"]
        };
        let mut payload = json!({
            product_code: self.product_code,
            version: self.public_key_version,
            "iat": self.issued_at.unix_seconds(),
            "emulated": true,
        });
        if let Some(text) = self.nonce {
            payload[nonce] = json!(text);
        }
        match flaw {
            Some(Flaw::WrongNonce) => payload[nonce] = json!("not-the-nonce-that-was-sent"),
            Some(Flaw::MissingNonce) => {
                payload.as_object_mut().map(|members| members.remove(nonce));
            }
            Some(Flaw::WrongProductCode) => payload[product_code] = json!("another-product"),
            Some(Flaw::WrongKeyVersion) => payload[version] = json!(self.public_key_version + 1),
            Some(Flaw::Expired) => payload["exp"] = json!(self.issued_at.unix_seconds() - 86_400),
            _ => {}
        }
        payload
    }
}

/// Signs the claims, or makes the bad token that was asked for.
pub(super) fn token(claims: &Claims<'_>, pair: &RsaKeyPair, flaw: Option<Flaw>) -> String {
    let (algorithm, padding): (_, &'static dyn RsaEncoding) = match flaw {
        Some(Flaw::Garbage) => return "this is not a token".to_owned(),
        Some(Flaw::Empty) => return String::new(),
        Some(Flaw::AlgorithmNone) => ("none", &RSA_PSS_SHA256),
        Some(Flaw::AlgorithmRs256) => ("RS256", &RSA_PKCS1_SHA256),
        _ => ("PS256", &RSA_PSS_SHA256),
    };
    let header = json!({"alg": algorithm, "typ": "JWT"}).to_string();
    let message = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(claims.payload(flaw).to_string())
    );
    let mut signature = vec![0; pair.public().modulus_len()];
    pair.sign(padding, &SystemRandom::new(), message.as_bytes(), &mut signature)
        .expect("the buffer has the modulus's length, and the system's random source works");
    if flaw == Some(Flaw::WrongSignature) {
        signature[0] ^= 1;
    }
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}
