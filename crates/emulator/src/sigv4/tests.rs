//! Signatures: one made by botocore, and each kind of bad one.

use hyper::header::{HeaderName, HeaderValue};

use super::*;
use crate::credentials::Role;

/// 2026-11-24T08:00:00Z
const NOW: Timestamp = Timestamp::from_unix_seconds(1_795_507_200);
const BODY: &[u8] = br#"{"ProductCode":"demohourly","PublicKeyVersion":1}"#;
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

/// Computed with botocore's SigV4Auth over the same request and the secret above.
const SIGNATURE: &str = "dce8cba5ae5c61aa2026310e233b2e7533cf36d4887d7efa3f334f434edb33ac";

fn request(change: impl FnOnce(&mut Vec<(&'static str, String)>)) -> HeaderMap {
    let mut pairs = vec![
        ("host", "127.0.0.1:8090".to_owned()),
        ("content-type", "application/x-amz-json-1.1".to_owned()),
        ("x-amz-target", "AWSMPMeteringService.RegisterUsage".to_owned()),
        ("x-amz-date", "20261124T080000Z".to_owned()),
        (
            "authorization",
            format!(
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261124/us-east-1/aws-marketplace/aws4_request, \
                 SignedHeaders=content-type;host;x-amz-date;x-amz-target, Signature={SIGNATURE}"
            ),
        ),
    ];
    change(&mut pairs);
    let pair = |(name, value): (&'static str, String)| {
        (HeaderName::from_static(name), HeaderValue::from_str(&value).unwrap())
    };
    pairs.into_iter().map(pair).collect()
}

fn replaced(name: &'static str, from: &str, to: &str) -> HeaderMap {
    request(|pairs| {
        let value = &mut pairs.iter_mut().find(|(known, _)| *known == name).unwrap().1;
        assert!(value.contains(from), "{value}");
        *value = value.replace(from, to);
    })
}

fn checked(headers: &HeaderMap, body: &[u8], only: Option<&(String, Secret)>) -> Result<Signer, String> {
    let (world, sessions) = (World::empty(), Sessions::default());
    let keyring = Keyring { world: &world, sessions: &sessions, only };
    check(posted(headers, body), keyring).map_err(|error| error.code.into_owned())
}

fn posted<'a>(headers: &'a HeaderMap, body: &'a [u8]) -> Signed<'a> {
    let now = Now { system: NOW, emulated: NOW };
    Signed { service: "aws-marketplace", method: "POST", path: "/", query: "", headers, body, now }
}

fn secret(access_key: &str, secret: &str) -> (String, Secret) {
    (access_key.to_owned(), Secret(secret.to_owned()))
}

#[test]
fn a_signature_made_by_botocore_is_verified() {
    let known = secret("AKIDEXAMPLE", SECRET);
    let signer = checked(&request(|_| {}), BODY, Some(&known)).unwrap();
    assert_eq!(
        signer,
        Signer { pod: "AKIDEXAMPLE".to_owned(), region: "us-east-1".to_owned(), session: None }
    );
    let wrong = Err("InvalidSignatureException".to_owned());
    assert_eq!(checked(&request(|_| {}), b"{}", Some(&known)), wrong, "another body");
    assert_eq!(checked(&replaced("x-amz-target", "Register", "Meter"), BODY, Some(&known)), wrong);
    assert_eq!(checked(&request(|_| {}), BODY, Some(&secret("AKIDEXAMPLE", "other"))), wrong);
    let refused = Err("UnrecognizedClientException".to_owned());
    assert_eq!(checked(&request(|_| {}), BODY, Some(&secret("AKIDOTHER", SECRET))), refused);
}

#[test]
fn without_a_secret_the_form_is_still_checked() {
    assert!(checked(&replaced("authorization", SIGNATURE, &"0".repeat(64)), BODY, None).is_ok());
    for (from, to, code) in [
        (SIGNATURE, "abc", "IncompleteSignatureException"),
        ("AWS4-HMAC-SHA256", "Bearer", "IncompleteSignatureException"),
        ("/aws4_request", "", "IncompleteSignatureException"),
        ("AKIDEXAMPLE", "", "IncompleteSignatureException"),
        ("aws-marketplace", "execute-api", "InvalidSignatureException"),
        ("us-east-1", "moon-1", "InvalidSignatureException"),
        ("20261124", "20261123", "InvalidSignatureException"),
        ("host;", "", "InvalidSignatureException"),
        ("content-type;host", "host;content-type", "IncompleteSignatureException"),
    ] {
        let headers = replaced("authorization", from, to);
        assert_eq!(checked(&headers, BODY, None), Err(code.to_owned()), "{from} -> {to}");
    }
    let unsigned = request(|pairs| {
        pairs.pop();
    });
    assert_eq!(checked(&unsigned, BODY, None), Err("MissingAuthenticationTokenException".to_owned()));
}

#[test]
fn requests_are_good_for_five_minutes_around_the_systems_time() {
    for (at, good) in [
        ("20261124T075500Z", true),
        ("20261124T075459Z", false),
        ("20261124T080500Z", true),
        ("20261124T080501Z", false),
        ("yesterday", false),
    ] {
        assert_eq!(
            checked(&replaced("x-amz-date", "20261124T080000Z", at), BODY, None).is_ok(),
            good,
            "{at}"
        );
    }
}

#[test]
fn a_session_needs_its_token_and_its_time() {
    let (world, mut sessions) = (World::empty(), Sessions::default());
    let hour = std::time::Duration::from_secs(3600);
    let before = Now { system: NOW.minus(hour), emulated: NOW };
    let session = sessions.issue(before, "pod-7", "name", Role::of_task("111122223333"), hour).unwrap();
    let keyring = Keyring { world: &world, sessions: &sessions, only: None };
    let code = |headers: &HeaderMap| check(posted(headers, BODY), keyring).unwrap_err().code.into_owned();
    assert_eq!(
        code(&replaced("authorization", "AKIDEXAMPLE", &session.access_key)),
        "UnrecognizedClientException"
    );
    assert_eq!(
        code(&replaced("authorization", "AKIDEXAMPLE", "ASIAEMULATEDBEFORE")),
        "UnrecognizedClientException",
        "handed out by a process that is gone"
    );
    let mut headers = replaced("authorization", "AKIDEXAMPLE", &session.access_key);
    headers.insert("x-amz-security-token", HeaderValue::from_str(&session.token.0).unwrap());
    assert_eq!(code(&headers), "ExpiredTokenException");
}
