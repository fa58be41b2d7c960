//! The `Signature` of RegisterUsage: a PS256 JWS over product code, nonce and key version; and the bad tokens that a
//! client must refuse.

mod flaw;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PSS_SHA256, RsaEncoding, RsaKeyPair};
use serde_json::{Map, Value, json};

pub(super) use self::flaw::Flaw;
use super::keys::SigningKey;
use tollgate_time::Timestamp;

/// What is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claims {
    pub(super) product_code: String,
    pub(super) public_key_version: i32,
    pub(super) nonce: Option<String>,
    pub(super) issued_at: Timestamp,
    /// Claims in PascalCase, as AWS's documents show them.
    pub(super) pascal_case: bool,
    /// Without a nonce the claim is null instead of absent.
    pub(super) null_nonce: bool,
    pub(super) with_issued_at: bool,
    /// The value of the claim PublicKeyRotationTimestamp, if there is one.
    pub(super) rotation: Option<Value>,
    /// A salt as long as the key allows, instead of the 32 bytes of RFC 7518.
    pub(super) longest_salt: bool,
}

/// Names of the three claims that bind a token to its request, and of the claim with the rotation time.
#[derive(Debug, Clone, Copy)]
struct Names {
    product_code: &'static str,
    nonce: &'static str,
    public_key_version: &'static str,
    rotation: &'static str,
}

const CAMEL: Names = Names {
    product_code: "productCode",
    nonce: "nonce",
    public_key_version: "publicKeyVersion",
    rotation: "publicKeyRotationTimestamp",
};
const PASCAL: Names = Names {
    product_code: "ProductCode",
    nonce: "Nonce",
    public_key_version: "PublicKeyVersion",
    rotation: "PublicKeyRotationTimestamp",
};

impl Claims {
    const fn names(&self) -> Names {
        if self.pascal_case { PASCAL } else { CAMEL }
    }

    fn payload(&self) -> Map<String, Value> {
        let names = self.names();
        let mut payload = Map::new();
        payload.insert(names.product_code.to_owned(), json!(self.product_code));
        payload.insert(names.public_key_version.to_owned(), json!(self.public_key_version));
        if self.nonce.is_some() || self.null_nonce {
            payload.insert(names.nonce.to_owned(), json!(self.nonce));
        }
        if self.with_issued_at {
            payload.insert("iat".to_owned(), json!(self.issued_at.unix_seconds()));
        }
        if let Some(rotation) = &self.rotation {
            payload.insert(names.rotation.to_owned(), rotation.clone());
        }
        // So that it is not mistaken for AWS's.
        payload.insert("emulated".to_owned(), json!(true));
        payload
    }
}

/// Signs the claims.
pub(super) fn token(claims: &Claims, key: &SigningKey) -> String {
    let header = json!({"alg": "PS256", "typ": "JWT"});
    let message = message(&header.to_string(), &Value::Object(claims.payload()).to_string());
    let signature = if claims.longest_salt {
        key.sign_with_salt(message.as_bytes(), LONGEST_SALT_BYTES)
    } else {
        sign(&key.pair, &RSA_PSS_SHA256, &message)
    };
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// The bytes that a 3072-bit key has left after a SHA-256 and two bytes of padding (RFC 8017, section 9.1.1).
const LONGEST_SALT_BYTES: usize = 384 - 32 - 2;

fn message(header: &str, payload: &str) -> String {
    format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload))
}

fn sign(pair: &RsaKeyPair, padding: &'static dyn RsaEncoding, message: &str) -> Vec<u8> {
    let mut signature = vec![0; pair.public().modulus_len()];
    pair.sign(padding, &SystemRandom::new(), message.as_bytes(), &mut signature)
        .expect("the buffer has the modulus's length, and the system's random source works");
    signature
}

#[cfg(test)]
pub(super) mod tests;
