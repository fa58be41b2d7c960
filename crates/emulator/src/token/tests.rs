//! Tokens, verified by another RSA implementation than the one that signed them.

use ring::signature::{KeyPair as _, RSA_PSS_2048_8192_SHA256, UnparsedPublicKey};
use rsa::sha2::Sha256;

use super::*;
use crate::keys::KeyFolder;

/// A public test key.
pub(crate) const KEY: &str = include_str!("../../../../tests/fixtures/keys/rsa3072-test-only.pem");
const OTHER_KEY: &str = include_str!("../../../../tests/fixtures/keys/other-rsa3072-test-only.pem");

/// A key folder with the test keys, so that tests make none.
pub(crate) fn key_folder() -> (tempfile::TempDir, KeyFolder) {
    let folder = tempfile::tempdir().unwrap();
    for (product, version, pem) in
        [("demohourly", 1, KEY), ("demohourly", 2, OTHER_KEY), (". stranger", 1, OTHER_KEY)]
    {
        let keys = folder.path().join("keys").join(product);
        std::fs::create_dir_all(&keys).unwrap();
        std::fs::write(keys.join(format!("{version}.pem")), pem).unwrap();
    }
    let keys = KeyFolder::new(folder.path().to_owned());
    (folder, keys)
}

fn claims() -> Claims {
    Claims {
        product_code: "demohourly".to_owned(),
        public_key_version: 1,
        nonce: Some("a-nonce".to_owned()),
        issued_at: Timestamp::from_unix_seconds(1_795_507_200),
        pascal_case: false,
        null_nonce: false,
        with_issued_at: true,
        rotation: None,
        longest_salt: false,
    }
}

/// A minimal strict client; returns why it refuses a token.
fn refused(token: &str, key: &SigningKey) -> Option<&'static str> {
    if token.len() > 8192 {
        return Some("size");
    }
    let parts: Vec<&str> = token.split('.').collect();
    let [header, payload, signature] = parts[..] else { return Some("parts") };
    let decoded: Option<Vec<Vec<u8>>> =
        [header, payload, signature].iter().map(|part| URL_SAFE_NO_PAD.decode(part).ok()).collect();
    let Some(decoded) = decoded else { return Some("encoding") };
    let header: Value = serde_json::from_slice(&decoded[0]).ok()?;
    if header["alg"] != "PS256" || header["typ"] != "JWT" || header.get("crit").is_some() {
        return Some("header");
    }
    let message = &token[..token.len() - signature.len() - 1];
    let public = UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, key.pair.public_key());
    if public.verify(message.as_bytes(), &decoded[2]).is_err() {
        return Some("signature");
    }
    let text = String::from_utf8(decoded[1].clone()).unwrap();
    if text.matches("productCode").count() > 1 || text.contains("ProductCode") {
        return Some("ambiguity");
    }
    let claims: Value = serde_json::from_str(&text).unwrap();
    if claims["productCode"] != "demohourly"
        || claims["nonce"] != "a-nonce"
        || claims["publicKeyVersion"] != 1
    {
        return Some("claims");
    }
    let now = 1_795_507_200;
    if claims["exp"].as_i64().is_some_and(|exp| exp < now)
        || claims["nbf"].as_i64().is_some_and(|nbf| nbf > now)
    {
        return Some("time");
    }
    None
}

#[test]
fn a_good_token_is_accepted_and_marked() {
    let (_folder, keys) = key_folder();
    let key = keys.key("demohourly", 1).unwrap();
    let token = token(&claims(), &key);
    assert_eq!(refused(&token, &key), None);
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let payload: Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!((&payload["emulated"], &payload["iat"]), (&json!(true), &json!(1_795_507_200)));
}

#[test]
fn every_flaw_is_one_that_a_strict_client_refuses_for_its_own_reason() {
    let (_folder, keys) = key_folder();
    let (key, stranger) = (keys.key("demohourly", 1).unwrap(), keys.stranger().unwrap());
    for (flaw, name, _) in Flaw::ALL {
        let expected = match flaw {
            Flaw::WrongNonce
            | Flaw::MissingNonce
            | Flaw::NullNonce
            | Flaw::WrongProductCode
            | Flaw::MissingProductCode
            | Flaw::WrongKeyVersion
            | Flaw::MissingKeyVersion
            | Flaw::TextKeyVersion => "claims",
            Flaw::BothCasings | Flaw::DuplicateClaim => "ambiguity",
            Flaw::Expired | Flaw::NotYetValid => "time",
            Flaw::WrongSignature | Flaw::OtherKey | Flaw::EmbeddedKey | Flaw::NoSalt => "signature",
            Flaw::NoAlgorithm
            | Flaw::Hmac
            | Flaw::Pkcs1
            | Flaw::Sha384
            | Flaw::Sha512
            | Flaw::Critical
            | Flaw::WrongType => "header",
            Flaw::TwoParts | Flaw::FiveParts | Flaw::Garbage | Flaw::Empty => "parts",
            Flaw::Padded | Flaw::StandardAlphabet | Flaw::TrailingBits => "encoding",
            Flaw::Oversized | Flaw::Huge => "size",
        };
        let token = flaw.token(&claims(), &key, &stranger);
        assert_eq!(refused(&token, &key), Some(expected), "{name}");
        assert_eq!(Flaw::of_name(name), Some(flaw));
    }
}

#[test]
fn a_flaw_is_the_only_thing_that_is_wrong() {
    let (_folder, keys) = key_folder();
    let (key, stranger) = (keys.key("demohourly", 1).unwrap(), keys.stranger().unwrap());
    let embedded = Flaw::EmbeddedKey.token(&claims(), &key, &stranger);
    assert_eq!(refused(&embedded, &stranger), None, "signed by the key that it carries");
    verified_with_salt(&Flaw::NoSalt.token(&claims(), &key, &stranger), &key, 0);
}

fn verified_with_salt(token: &str, key: &SigningKey, salt_bytes: usize) {
    let (message, signature) = token.rsplit_once('.').unwrap();
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let verifier = rsa::pss::VerifyingKey::<Sha256>::new_with_salt_len(key.public(), salt_bytes);
    let signature = rsa::pss::Signature::try_from(signature.as_slice()).unwrap();
    rsa::signature::Verifier::verify(&verifier, message.as_bytes(), &signature).unwrap();
}

#[test]
fn open_questions_shape_the_claims() {
    let without = Claims { nonce: None, ..claims() };
    assert!(!without.payload().contains_key("nonce"));
    assert_eq!(Claims { null_nonce: true, ..without }.payload()["nonce"], Value::Null);
    let pascal = Claims { pascal_case: true, with_issued_at: false, ..claims() };
    let names: Vec<String> = pascal.payload().keys().cloned().collect();
    assert_eq!(names, ["Nonce", "ProductCode", "PublicKeyVersion", "emulated"]);
    let current = Claims { rotation: Some(Value::Null), ..claims() };
    assert_eq!(current.payload()["publicKeyRotationTimestamp"], Value::Null);
    let rotated = Claims { rotation: Some(json!(7)), ..pascal };
    assert_eq!(rotated.payload()["PublicKeyRotationTimestamp"], 7);
}

#[test]
fn the_longest_salt_is_told_from_the_one_of_the_standard() {
    let (_folder, keys) = key_folder();
    let key = keys.key("demohourly", 1).unwrap();
    let token = token(&Claims { longest_salt: true, ..claims() }, &key);
    assert_eq!(refused(&token, &key), Some("signature"), "a client that wants 32 bytes");
    verified_with_salt(&token, &key, 350);
}
