//! Every class of forged token that we know, and a valid one.

use std::sync::LazyLock;

use ring::rand::SystemRandom;
use ring::signature::{
    RSA_PKCS1_SHA256, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
};
use ring::{hmac, signature};
use serde_json::{Value, json};

use super::*;

const PUBLIC: &str = include_str!("../../../tests/fixtures/keys/rsa3072-test-only.pub.pem");
const PRIVATE: &[u8] = include_bytes!("../../../tests/fixtures/keys/rsa3072-test-only.pem");
const OTHER_PRIVATE: &[u8] = include_bytes!("../../../tests/fixtures/keys/other-rsa3072-test-only.pem");

static KEY: LazyLock<PublicKey> = LazyLock::new(|| PublicKey::from_pem(PUBLIC.as_bytes()).unwrap());
static SIGNER: LazyLock<RsaKeyPair> = LazyLock::new(|| key_pair(PRIVATE));

/// 2026-11-24T08:00:00Z
const NOW_S: i64 = 1_795_507_200;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW_S.unsigned_abs())
}

fn key_pair(pem: &[u8]) -> RsaKeyPair {
    use rustls_pki_types::pem::PemObject as _;
    let der = rustls_pki_types::PrivatePkcs8KeyDer::from_pem_slice(pem).unwrap();
    RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).unwrap()
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn sign_with(pair: &RsaKeyPair, padding: &'static dyn RsaEncoding, message: &[u8]) -> Vec<u8> {
    let mut signature = vec![0; pair.public().modulus_len()];
    pair.sign(padding, &SystemRandom::new(), message, &mut signature).unwrap();
    signature
}

/// A token of these texts, signed by the seller's key with PS256: its signature is always valid.
fn token_of(header: &str, payload: &str) -> String {
    let message = format!("{}.{}", encode(header), encode(payload));
    let signature = sign_with(&SIGNER, &RSA_PSS_SHA256, message.as_bytes());
    format!("{message}.{}", encode(signature))
}

const HEADER: &str = r#"{"alg":"PS256","typ":"JWT"}"#;

fn claims() -> Value {
    json!({"productCode": "demohourly", "nonce": "the-nonce", "publicKeyVersion": 1, "iat": NOW_S})
}

fn with(name: &str, value: Value) -> String {
    let mut claims = claims();
    claims[name] = value;
    claims.to_string()
}

fn without(name: &str) -> String {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims.to_string()
}

fn judge_with(token: &str, key: &PublicKey, allow_emulated: bool) -> Result<Receipt, VerifyError> {
    let product_code = "demohourly".parse().unwrap();
    let nonce = "the-nonce".parse().unwrap();
    let expected = Expected {
        product_code: &product_code,
        public_key_version: PublicKeyVersion::FIRST,
        nonce: &nonce,
        now: now(),
        allow_emulated,
    };
    verify(token, key, &expected)
}

fn judge(token: &str) -> Result<Receipt, VerifyError> {
    judge_with(token, &KEY, false)
}

fn refusal(token: &str) -> VerifyError {
    judge(token).map(|_| ()).unwrap_err()
}

#[test]
fn a_token_as_aws_sends_it_is_accepted() {
    let token = token_of(HEADER, &claims().to_string());
    let receipt = judge(&token).unwrap();
    assert_eq!(receipt.token(), token);
    assert_eq!(receipt.issued_at(), Some(now()));
    assert_eq!((receipt.clock_warning(), receipt.emulated()), (None, false));
    assert_eq!(serde_json::from_str::<Value>(receipt.claims_json()).unwrap(), claims());
    let shown = format!("{receipt:?}");
    assert!(!shown.contains(&token) && !shown.contains("the-nonce"), "{shown}");
}

#[test]
fn a_token_as_awss_documents_show_it_is_accepted_too() {
    let payload = json!({
        "ProductCode": "demohourly", "Nonce": "the-nonce", "PublicKeyVersion": 1,
        "PublicKeyRotationTimestamp": null
    });
    assert_eq!(judge(&token_of(HEADER, &payload.to_string())).unwrap().issued_at(), None);
    // Unknown members are ignored.
    assert!(judge(&token_of(r#"{"alg":"PS256"}"#, &with("region", json!("us-east-1")))).is_ok());
}

#[test]
fn other_algorithms_are_refused_whatever_their_signature() {
    let payload = encode(claims().to_string());
    let message = |alg: &str| format!("{}.{payload}", encode(json!({"alg": alg, "typ": "JWT"}).to_string()));
    let rsa = |alg: &str, padding: &'static dyn RsaEncoding| {
        let message = message(alg);
        let signature = sign_with(&SIGNER, padding, message.as_bytes());
        format!("{message}.{}", encode(signature))
    };
    for token in [
        rsa("RS256", &RSA_PKCS1_SHA256),
        rsa("PS384", &RSA_PSS_SHA384),
        rsa("PS512", &RSA_PSS_SHA512),
        rsa("ps256", &RSA_PSS_SHA256),
        rsa("PS256 ", &RSA_PSS_SHA256),
        rsa("none", &RSA_PSS_SHA256),
        rsa("", &RSA_PSS_SHA256),
    ] {
        assert_eq!(refusal(&token), VerifyError::AlgorithmNotAllowed);
    }
    // A known attack: the public key as an HMAC secret.
    let message = message("HS256");
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, PUBLIC.as_bytes()), message.as_bytes());
    assert_eq!(refusal(&format!("{message}.{}", encode(tag))), VerifyError::AlgorithmNotAllowed);
    // Another known attack: no signature at all.
    let none = format!("{}.{payload}.", encode(r#"{"alg":"none"}"#));
    assert_eq!(refusal(&none), VerifyError::Malformed);
    for header in [r#"{"typ":"JWT"}"#, r#"{"alg":null}"#, r#"{"alg":["PS256"]}"#, r#"{"alg":{"PS256":1}}"#] {
        assert_eq!(
            refusal(&token_of(header, &claims().to_string())),
            VerifyError::AlgorithmNotAllowed,
            "{header}"
        );
    }
}

#[test]
fn a_header_cannot_bring_its_own_key_or_rules() {
    let pair = key_pair(OTHER_PRIVATE);
    let modulus = encode(pair.public().as_ref());
    for extra in [
        json!({"kid": "1"}),
        json!({"jwk": {"kty": "RSA", "e": "AQAB", "n": modulus}}),
        json!({"jku": "https://evil.example/keys"}),
        json!({"x5u": "https://evil.example/cert"}),
        json!({"x5c": ["MIIB"]}),
    ] {
        let mut header = json!({"alg": "PS256", "typ": "JWT"});
        header.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let header = header.to_string();
        assert!(judge(&token_of(&header, &claims().to_string())).is_ok(), "ignored: {header}");
        let message = format!("{}.{}", encode(&header), encode(claims().to_string()));
        let forged = format!("{message}.{}", encode(sign_with(&pair, &RSA_PSS_SHA256, message.as_bytes())));
        assert_eq!(refusal(&forged), VerifyError::SignatureInvalid, "{header}");
    }
    for header in [
        r#"{"alg":"PS256","crit":["x"],"x":1}"#,
        r#"{"alg":"PS256","crit":[]}"#,
        r#"{"alg":"PS256","b64":true}"#,
    ] {
        assert_eq!(
            refusal(&token_of(header, &claims().to_string())),
            VerifyError::ExtensionNotAllowed,
            "{header}"
        );
    }
    for header in
        [r#"{"alg":"PS256","typ":"JWS"}"#, r#"{"alg":"PS256","typ":"jwt"}"#, r#"{"alg":"PS256","typ":null}"#]
    {
        assert_eq!(
            refusal(&token_of(header, &claims().to_string())),
            VerifyError::TypeNotAllowed,
            "{header}"
        );
    }
    for header in ["", "[]", r#"{"alg":"PS256","alg":"PS256"}"#, r#"{"alg":"none","\u0061lg":"PS256"}"#, "{"]
    {
        let refused = refusal(&token_of(header, &claims().to_string()));
        assert!(
            matches!(refused, VerifyError::HeaderInvalid | VerifyError::Malformed),
            "{header}: {refused:?}"
        );
    }
}

#[test]
fn signatures_of_other_keys_salts_and_messages_are_refused() {
    use rsa::pkcs8::DecodePrivateKey as _;
    use rsa::signature::{RandomizedSigner as _, SignatureEncoding as _};
    let good = token_of(HEADER, &claims().to_string());
    let (message, signature) = good.rsplit_once('.').unwrap();
    let forged = |signature: Vec<u8>| format!("{message}.{}", encode(signature));

    let other = sign_with(&key_pair(OTHER_PRIVATE), &RSA_PSS_SHA256, message.as_bytes());
    assert_eq!(refusal(&forged(other)), VerifyError::SignatureInvalid);
    let pkcs1 = sign_with(&SIGNER, &RSA_PKCS1_SHA256, message.as_bytes());
    assert_eq!(refusal(&forged(pkcs1)), VerifyError::SignatureInvalid);

    let private = rsa::PrivateKey::from_pkcs8_pem(std::str::from_utf8(PRIVATE).unwrap()).unwrap();
    for salt in [0, 20, 31, 33, 64, 32] {
        let signer = rsa::pss::SigningKey::<rsa::sha2::Sha256>::new_with_salt_len(private.clone(), salt);
        let signature = signer.sign_with_rng(&mut TestRng(1), message.as_bytes()).to_vec();
        assert_eq!(judge(&forged(signature)).is_ok(), salt == 32, "salt {salt}");
    }

    let bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
    assert_eq!(refusal(&forged(bytes[..383].to_vec())), VerifyError::SignatureInvalid);
    assert_eq!(refusal(&forged([&bytes[..], &[0]].concat())), VerifyError::SignatureInvalid);
    assert_eq!(refusal(&forged([&[0], &bytes[..]].concat())), VerifyError::SignatureInvalid);
    assert_eq!(refusal(&forged(vec![0; 384])), VerifyError::SignatureInvalid);

    // A payload with another payload's signature.
    let swapped = format!("{}.{}.{signature}", encode(HEADER), encode(with("iat", json!(NOW_S + 1))));
    assert_eq!(refusal(&swapped), VerifyError::SignatureInvalid);
}

/// A generator for salts, which need not be random here.
struct TestRng(u64);

impl rsa::rand_core::TryRng for TestRng {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        self.try_next_u64().map(|bits| (bits >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        Ok(self.0)
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        for byte in bytes {
            *byte = (self.try_next_u64()? >> 56) as u8;
        }
        Ok(())
    }
}

impl rsa::rand_core::TryCryptoRng for TestRng {}

#[test]
fn another_form_than_three_strict_parts_is_refused() {
    let good = token_of(HEADER, &claims().to_string());
    let [header, payload, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!("three parts") };
    for bad in [
        String::new(),
        ".".into(),
        "..".into(),
        "a.b.c".into(),
        format!("{header}.{payload}"),
        format!("{good}."),
        format!("{good}.{signature}"),
        format!("{header}.{payload}.{signature}.."),
        format!("{header}..{signature}"),
        format!(".{payload}.{signature}"),
        format!("{header}=.{payload}.{signature}"),
        format!("{header}.{payload}==.{signature}"),
        format!(" {good}"),
        format!("{good}\n"),
        format!("{header}. {payload}.{signature}"),
        format!("{header}.{payload}.+/{}", &signature[2..]),
        format!("{header}.{payload}.{}é", &signature[2..]),
        format!("Bearer {good}"),
    ] {
        assert_eq!(refusal(&bad), VerifyError::Malformed, "{bad:.40}");
    }
    assert_eq!(refusal(&"x".repeat(TOKEN_BYTES_MAX + 1)), VerifyError::TooLong);
    assert_eq!(refusal(&"x".repeat(10 << 20)), VerifyError::TooLong);
    let stuffed = token_of(HEADER, &with("padding", json!("x".repeat(TOKEN_BYTES_MAX))));
    assert_eq!(refusal(&stuffed), VerifyError::TooLong);
}

#[test]
fn stray_trailing_bits_are_refused() {
    // A header of 27 octets fills its last base64 group; one octet more leaves bits that a lax decoder ignores.
    let header = r#"{"alg":"PS256","typ":"JWT" }"#;
    let token = token_of(header, &claims().to_string());
    assert!(judge(&token).is_ok());
    let end = token.find('.').unwrap();
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let last = alphabet.find(&token[end - 1..end]).unwrap();
    assert_eq!(last % 4, 0, "the encoder leaves the spare bits at zero");
    let stray = format!("{}{}{}", &token[..end - 1], &alphabet[last + 1..last + 2], &token[end..]);
    assert_eq!(refusal(&stray), VerifyError::Malformed);
}

#[test]
fn the_claims_must_be_the_answer_to_our_question() {
    use VerifyError::{
        ClaimAmbiguous, ClaimMissing, NonceMismatch, PayloadInvalid, ProductCodeMismatch,
        PublicKeyVersionMismatch,
    };
    let pascal = r#"{"ProductCode":"demohourly","Nonce":"the-nonce","PublicKeyVersion":1}"#;
    for (payload, expected) in [
        (with("productCode", json!("other")), ProductCodeMismatch),
        (with("productCode", json!("demohourly ")), ProductCodeMismatch),
        (with("nonce", json!("another-nonce")), NonceMismatch),
        (with("nonce", json!("The-Nonce")), NonceMismatch),
        (with("nonce", json!("")), NonceMismatch),
        (with("publicKeyVersion", json!(2)), PublicKeyVersionMismatch),
        (with("publicKeyVersion", json!("1")), ClaimMissing),
        (with("publicKeyVersion", json!(1.0)), ClaimMissing),
        (claims().to_string().replace(":1}", ":1e0}"), ClaimMissing),
        (claims().to_string().replace(":1}", ":01}"), PayloadInvalid),
        (with("publicKeyVersion", json!(-1)), ClaimMissing),
        (with("publicKeyVersion", json!(4_294_967_297_u64)), ClaimMissing),
        (with("publicKeyVersion", json!(true)), ClaimMissing),
        (with("publicKeyVersion", json!([1])), ClaimMissing),
        (with("productCode", Value::Null), ClaimMissing),
        (with("nonce", Value::Null), ClaimMissing),
        (with("nonce", json!(["the-nonce"])), ClaimMissing),
        (with("publicKeyVersion", Value::Null), ClaimMissing),
        (without("productCode"), ClaimMissing),
        (without("nonce"), ClaimMissing),
        (without("publicKeyVersion"), ClaimMissing),
        ("{}".into(), ClaimMissing),
        (with("ProductCode", json!("demohourly")), ClaimAmbiguous),
        (with("Nonce", json!("the-nonce")), ClaimAmbiguous),
        (with("NONCE", json!("the-nonce")), ClaimAmbiguous),
        (with("publickeyversion", json!(1)), ClaimAmbiguous),
        (with("public\u{212a}eyVersion", json!(1)), ClaimAmbiguous),
        (with("publicKeyVer\u{17f}ion", json!(1)), ClaimAmbiguous),
        (pascal.replace("Nonce", "nonce"), ClaimAmbiguous),
        (claims().to_string().replace(r#""iat""#, r#""nonce":"the-nonce","iat""#), PayloadInvalid),
        (claims().to_string().replace(r#""iat""#, r#""n\u006fnce":"the-nonce","iat""#), PayloadInvalid),
        (claims().to_string().replace(r#""iat""#, r#""iat":1,"iat""#), PayloadInvalid),
        (format!("{}x", claims()), PayloadInvalid),
        (format!("\u{feff}{}", claims()), PayloadInvalid),
        (format!("[{}]", claims()), PayloadInvalid),
        ("null".into(), PayloadInvalid),
    ] {
        assert_eq!(refusal(&token_of(HEADER, &payload)), expected, "{payload}");
    }
}

#[test]
fn a_payload_that_is_no_text_is_refused() {
    let message = format!("{}.{}", encode(HEADER), encode(b"{\"nonce\":\"\xff\"}"));
    let token = format!("{message}.{}", encode(sign_with(&SIGNER, &RSA_PSS_SHA256, message.as_bytes())));
    assert_eq!(refusal(&token), VerifyError::PayloadInvalid);
}

#[test]
fn times_are_optional_numbers_that_must_hold_within_five_minutes() {
    use VerifyError::{Expired, NotYetValid, TimeInvalid};
    for (name, value, expected) in [
        ("exp", json!(NOW_S - 300), None),
        ("exp", json!(NOW_S - 301), Some(Expired)),
        ("exp", json!(0), Some(Expired)),
        ("exp", json!(-1e300), Some(Expired)),
        ("exp", json!(1e300), None),
        ("exp", json!("1795507200"), Some(TimeInvalid)),
        ("exp", Value::Null, Some(TimeInvalid)),
        ("nbf", json!(NOW_S + 300), None),
        ("nbf", json!(NOW_S + 301), Some(NotYetValid)),
        ("nbf", json!(1e300), Some(NotYetValid)),
        ("nbf", json!({}), Some(TimeInvalid)),
        ("iat", json!(NOW_S - 86_400), None),
        ("iat", json!(1e300), None),
        ("iat", json!(-1e300), None),
        ("iat", json!(1_795_507_200.5), None),
        ("iat", json!("now"), Some(TimeInvalid)),
        ("iat", Value::Null, Some(TimeInvalid)),
    ] {
        let outcome = judge(&token_of(HEADER, &with(name, value.clone()))).err();
        assert_eq!(outcome, expected, "{name} {value}");
    }
    let iat = claims().to_string().replace(&NOW_S.to_string(), "1e999");
    assert!(judge(&token_of(HEADER, &iat)).is_err(), "infinity is no time");
}

#[test]
fn an_odd_iat_is_a_warning_about_a_clock() {
    for (iat, warning) in [(NOW_S + 300, None), (NOW_S + 301, Some(301)), (NOW_S - 4000, Some(-4000))] {
        let receipt = judge(&token_of(HEADER, &with("iat", json!(iat)))).unwrap();
        assert_eq!(receipt.clock_warning(), warning);
    }
}

#[test]
fn the_emulators_tokens_open_nothing_unless_allowed() {
    for mark in [json!(true), json!("true"), json!(1), Value::Null, json!("")] {
        let token = token_of(HEADER, &with("emulated", mark));
        assert_eq!(refusal(&token), VerifyError::EmulatedToken);
        assert!(judge_with(&token, &KEY, true).unwrap().emulated());
    }
    assert!(!judge(&token_of(HEADER, &with("emulated", json!(false)))).unwrap().emulated());
    for other_casing in ["Emulated", "EMULATED"] {
        let token = token_of(HEADER, &with(other_casing, json!(true)));
        assert_eq!(refusal(&token), VerifyError::EmulatedToken, "{other_casing}");
        assert!(judge_with(&token, &KEY, true).unwrap().emulated());
    }
}

#[test]
fn codes_are_unique() {
    let codes: std::collections::BTreeSet<_> = VerifyError::ALL.iter().map(|error| error.code()).collect();
    assert_eq!(codes.len(), VerifyError::ALL.len());
}

#[test]
fn ring_and_we_agree_on_what_the_key_is() {
    let message = b"anything";
    let signature = sign_with(&SIGNER, &RSA_PSS_SHA256, message);
    let key = signature::UnparsedPublicKey::new(
        &signature::RSA_PSS_2048_8192_SHA256,
        KEY.decoding().try_get_as_bytes().unwrap(),
    );
    assert!(key.verify(message, &signature).is_ok());
}

/// Claims that are not checked are not parsed either, even if a complete JSON parser would fail on them.
#[test]
fn depth_and_odd_numbers_in_other_claims_do_no_harm() {
    let deep = format!("{}{}", "[".repeat(2000), "]".repeat(2000));
    for odd in [deep.as_str(), "1e999", "-0", r#""\ud800""#, r#"{"nonce":"x","nonce":"y","PRODUCTCODE":1}"#] {
        let payload = claims().to_string().replacen('{', &format!(r#"{{"other":{odd},"#), 1);
        let receipt = judge(&token_of(HEADER, &payload)).unwrap();
        assert_eq!(receipt.claims_json(), payload, "shown as it was signed");
        let header = HEADER.replacen('{', &format!(r#"{{"other":{odd},"#), 1);
        assert!(judge(&token_of(&header, &claims().to_string())).is_ok(), "{header:.60}");
    }
    let open = "[".repeat(5000);
    assert_eq!(refusal(&token_of(HEADER, &open)), VerifyError::PayloadInvalid);
    assert_eq!(refusal(&token_of(&open, &claims().to_string())), VerifyError::HeaderInvalid);
}

mod properties;

#[test]
fn an_iat_out_of_all_reason_is_shown_as_far_as_can_be_and_warned_of() {
    for (iat, ahead) in [(json!(1e300), true), (json!(-1e300), false), (json!(-1), false)] {
        let receipt = judge(&token_of(HEADER, &with("iat", iat.clone()))).unwrap();
        assert_eq!(receipt.clock_warning().map(i64::is_positive), Some(ahead), "{iat}");
        assert_eq!(receipt.issued_at().map(|at| at > now()), Some(ahead), "{iat}");
    }
}
