//! Any bytes as a token, as a signed header and payload, and as a key file: accepted or refused, never a panic, and a
//! token is accepted only for the nonce that it has.
//!
//! An input with a line of five equals signs is a header and a payload, which are encoded and signed here, so that the
//! checks after the signature are fuzzed too. Any other input is a whole token, and also a key file.

#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use libfuzzer_sys::fuzz_target;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PSS_SHA256, RsaKeyPair};
use tollgate_receipt::{
    Expected, MODULUS_BITS_MAX, MODULUS_BITS_MIN, PublicKey, PublicKeyVersion, Receipt, VerifyError, verify,
};

static PUBLIC: LazyLock<PublicKey> = LazyLock::new(|| {
    PublicKey::from_pem(include_bytes!("../../tests/fixtures/keys/rsa3072-test-only.pub.pem"))
        .expect("the fixture is a key")
});

static PRIVATE: LazyLock<RsaKeyPair> = LazyLock::new(|| {
    let pem = include_str!("../../tests/fixtures/keys/rsa3072-test-only.pem");
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    RsaKeyPair::from_pkcs8(&STANDARD.decode(body).expect("the fixture is PEM")).expect("the fixture is a key")
});

fuzz_target!(|input: &[u8]| {
    let divider = b"\n=====\n";
    match input.windows(divider.len()).position(|window| window == divider) {
        Some(at) => signed(&input[..at], &input[at + divider.len()..]),
        None => {
            if let Ok(token) = std::str::from_utf8(input) {
                alone(token);
            }
            key(input);
        }
    }
});

fn judge(token: &str, nonce: &str) -> Result<Receipt, VerifyError> {
    let (product_code, nonce) = ("demohourly".parse(), nonce.parse());
    verify(
        token,
        &PUBLIC,
        &Expected {
            product_code: product_code.as_ref().expect("a product code"),
            public_key_version: PublicKeyVersion::FIRST,
            nonce: nonce.as_ref().expect("a nonce"),
            now: UNIX_EPOCH + Duration::from_secs(1_795_507_200),
            allow_emulated: true,
        },
    )
}

/// The fuzzer has no private key: the valid token among the seeds is the only one that can be accepted.
fn alone(token: &str) {
    if judge(token, "seed-nonce").is_ok() {
        assert_eq!(token, include_str!("../seeds/token/good-token"));
    }
}

fn signed(header: &[u8], payload: &[u8]) {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let mut signature = vec![0; PRIVATE.public().modulus_len()];
    PRIVATE
        .sign(&RSA_PSS_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature)
        .expect("the key signs");
    let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature));
    if let Ok(receipt) = judge(&token, "seed-nonce") {
        assert_eq!(receipt.token(), token);
        assert_eq!(receipt.claims_json().as_bytes(), payload);
        assert!(judge(&token, "another-nonce").is_err(), "one token is valid for two nonces");
    }
}

fn key(pem: &[u8]) {
    match PublicKey::from_pem(pem) {
        Ok(key) => assert!((MODULUS_BITS_MIN..=MODULUS_BITS_MAX).contains(&key.modulus_bits())),
        Err(error) => assert_eq!(error.to_string().lines().count(), 1),
    }
}
