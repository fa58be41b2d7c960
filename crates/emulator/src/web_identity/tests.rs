//! Tokens as a cluster signs them, and each kind of bad token.

use std::os::unix::fs::symlink;
use std::process::Command;
use std::sync::LazyLock;

use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use serde_json::json;

use super::*;

const NOW: Timestamp = Timestamp::from_unix_seconds(1_795_507_200);

static RSA: LazyLock<RsaKeyPair> = LazyLock::new(|| {
    let pem = crate::token::tests::KEY;
    let base64: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    RsaKeyPair::from_pkcs8(&base64::engine::general_purpose::STANDARD.decode(base64).unwrap()).unwrap()
});

static EC: LazyLock<EcdsaKeyPair> = LazyLock::new(|| {
    let random = SystemRandom::new();
    let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.as_ref(), &random).unwrap()
});

fn jwks() -> Value {
    let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let rsa: RsaPublicKeyComponents<Vec<u8>> = RSA.public_key().into();
    let (x, y) = EC.public_key().as_ref()[1..].split_at(32);
    json!({"keys": [
        {"kty": "oct", "k": "AAAA", "kid": "shared"},
        {"kty": "RSA", "kid": "rsa", "n": text(&rsa.n), "e": text(&rsa.e)},
        {"kty": "EC", "crv": "P-256", "kid": "ec", "x": text(x), "y": text(y)},
    ]})
}

fn claims() -> Value {
    json!({
        "iss": "https://kubernetes.default.svc",
        "aud": ["sts.amazonaws.com"],
        "sub": "system:serviceaccount:shop:app",
        "exp": NOW.unix_seconds() + 600,
        "nbf": NOW.unix_seconds() + 30,
        "kubernetes.io": {"namespace": "shop", "pod": {"name": "app-0", "uid": "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"}},
    })
}

fn signed(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(header), part(claims));
    let random = SystemRandom::new();
    let signature = if header["alg"] == "ES256" {
        EC.sign(&random, message.as_bytes()).unwrap().as_ref().to_vec()
    } else {
        let mut signature = vec![0; RSA.public().modulus_len()];
        RSA.sign(&RSA_PKCS1_SHA256, &random, message.as_bytes(), &mut signature).unwrap();
        signature
    };
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn rs256() -> Value {
    json!({"alg": "RS256", "kid": "rsa"})
}

fn with(name: &str, value: Value) -> String {
    let mut claims = claims();
    claims[name] = value;
    signed(&rs256(), &claims)
}

async fn verified(token: &str, keys: &str) -> Result<(), (String, String)> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), keys).unwrap();
    let web_identity = WebIdentity {
        keys: Jwks::File(file.path().to_owned()),
        issuer: Some("https://kubernetes.default.svc".to_owned()),
        audience: "sts.amazonaws.com".to_owned(),
    };
    let token = Token::parse(token).unwrap();
    web_identity.verify(&token, NOW).await.map_err(|error| (error.code.into_owned(), error.message))
}

#[tokio::test]
async fn a_clusters_tokens_are_taken() {
    let keys = jwks().to_string();
    for header in
        [rs256(), json!({"alg": "RS256"}), json!({"alg": "ES256", "kid": "ec"}), json!({"alg": "ES256"})]
    {
        assert_eq!(verified(&signed(&header, &claims()), &keys).await, Ok(()), "{header}");
    }
    assert_eq!(verified(&with("aud", json!("sts.amazonaws.com")), &keys).await, Ok(()));
}

#[tokio::test]
async fn each_way_in_which_a_token_is_wrong_is_refused() {
    let keys = jwks().to_string();
    let now = NOW.unix_seconds();
    let forged = {
        let good = signed(&rs256(), &claims());
        let other = with("sub", json!("system:serviceaccount:shop:admin"));
        let (message, _) = other.rsplit_once('.').unwrap();
        format!("{message}.{}", good.rsplit_once('.').unwrap().1)
    };
    let (invalid, expired) = ("InvalidIdentityToken", "ExpiredTokenException");
    for (token, code, says) in [
        (forged, invalid, "signature does not verify"),
        (with("iss", json!("https://other.example")), invalid, "No OpenIDConnect provider found"),
        (with("iss", Value::Null), invalid, "No OpenIDConnect provider found"),
        (with("aud", json!(["kubernetes"])), invalid, "Incorrect token audience"),
        (with("aud", Value::Null), invalid, "Incorrect token audience"),
        (with("exp", json!(now)), expired, "Token expired"),
        (with("exp", json!(now as f64 - 0.5)), expired, "Token expired"),
        (with("exp", Value::Null), invalid, "Missing a required claim"),
        (with("nbf", json!(now + 301)), invalid, "not valid yet"),
        (signed(&json!({"alg": "none"}), &claims()), invalid, "is signed with"),
        (signed(&json!({"alg": "HS256", "kid": "shared"}), &claims()), invalid, "is signed with"),
        (signed(&json!({"alg": "ES256", "kid": "rsa"}), &claims()), invalid, "signature does not verify"),
        (
            signed(&json!({"alg": "RS256", "kid": "gone"}), &claims()),
            invalid,
            "Couldn't retrieve verification key",
        ),
    ] {
        let (found, message) = verified(&token, &keys).await.unwrap_err();
        assert!(found == code && message.contains(says), "{says}: {found}: {message}");
    }
    let good = signed(&rs256(), &claims());
    for keys in ["", "{}", "nonsense", "{\"keys\":[]}"] {
        let (code, message) = verified(&good, keys).await.unwrap_err();
        assert!(
            code == invalid && message.contains("Couldn't retrieve verification key"),
            "{keys}: {message}"
        );
    }
}

#[test]
fn a_token_names_its_pod_and_what_is_no_token_is_told_apart() {
    let good = signed(&rs256(), &claims());
    let token = Token::parse(&good).unwrap();
    assert_eq!(token.pod().as_deref(), Some("app-0.0a1b2c3d"));
    assert_eq!(token.subject(), "system:serviceaccount:shop:app");
    for claims in [json!({"sub": "x"}), json!({"kubernetes.io": {"pod": {"name": "a b", "uid": "1"}}})] {
        assert_eq!(Token::parse(&signed(&rs256(), &claims)).unwrap().pod(), None, "{claims}");
    }
    for bad in ["", "a.b.c", "..", "e30.e30", "e30.W10.c2ln", "e30.e30.!"] {
        assert!(Token::parse(bad).is_none(), "{bad}");
    }
}

#[tokio::test]
async fn a_key_set_that_is_not_a_whole_regular_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut keys = jwks().to_string();
    std::fs::write(path("keys"), &keys).unwrap();
    symlink(path("keys"), path("link")).unwrap();
    for name in ["keys", "link"] {
        assert_eq!(Jwks::File(path(name)).read().await.unwrap().len(), 2, "{name}");
    }
    // A cut at the limit would leave valid JSON.
    keys.push_str(&" ".repeat(KEYS_BYTES_MAX));
    std::fs::write(path("large"), &keys).unwrap();
    assert!(Command::new("mkfifo").arg(path("pipe")).status().unwrap().success());
    for (name, says) in [
        ("large", "is too large"),
        ("pipe", "is not a regular file but a pipe, a socket or a device"),
        ("", "is a folder, not a file"),
        ("absent", "does not exist"),
    ] {
        let path = path(name);
        let error = Jwks::File(path.clone()).read().await.unwrap_err();
        assert_eq!(error, format!("{}: {says}", path.display()));
    }
}

#[test]
fn keys_are_in_a_file_or_behind_plain_http() {
    assert!(matches!(Jwks::parse("/keys.json"), Ok(Jwks::File(_))));
    assert!(matches!(Jwks::parse("http://127.0.0.1/keys"), Ok(Jwks::Url(_))));
    assert!(
        Jwks::parse("https://kubernetes.default.svc/openid/v1/jwks")
            .unwrap_err()
            .contains("kubectl get --raw")
    );
    assert!(Jwks::parse("").is_err());
}
