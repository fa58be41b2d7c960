//! `tollgate verify` as a seller runs it: the whole binary, with tokens that openssl and PyJWT
//! signed. The exit codes are part of the design: 0 verified, 64 command line, 76 the token, 78 the
//! key file.

#![allow(clippy::unwrap_used, reason = "a test that cannot start its subject fails")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn token(name: &str) -> String {
    std::fs::read_to_string(fixture("tokens").join(name)).unwrap()
}

/// The three values for which the tokens in `tests/fixtures/tokens` were made; each test sets the
/// others.
const ASKED: [&str; 6] =
    ["--product-code", "demohourly", "--public-key-version", "1", "--nonce", "fixture-nonce"];

fn verify(key: &str, more: &[&str], stdin: &[u8]) -> Output {
    verify_asking(ASKED, key, more, stdin)
}

fn verify_asking(asked: [&str; 6], key: &str, more: &[&str], stdin: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .arg("verify")
        .args(asked)
        .arg("--public-key")
        .arg(fixture(key))
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A child that does not read its input closes it; the test checks its output.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Exit code and the one line of a failure, which is on standard error.
fn failure(output: &Output) -> (i32, &str) {
    let line = text(&output.stderr);
    assert!(output.stdout.is_empty(), "no claims without a receipt: {}", text(&output.stdout));
    assert_eq!(line.lines().count(), 1, "{line}");
    (output.status.code().unwrap(), line.trim_end())
}

const E3: &str = "tokens/openssl-rsa2048-e3.pub.pem";

#[test]
fn what_openssl_and_pyjwt_sign_is_accepted_from_the_smallest_key_to_the_largest() {
    for (jwt, key, claim) in [
        ("openssl-rsa2048-e3.jwt", E3, "productCode"),
        ("pyjwt-rsa4096.jwt", "tokens/pyjwt-rsa4096.pub.pem", "ProductCode"),
        ("openssl-rsa8192.jwt", "tokens/openssl-rsa8192.pub.pem", "productCode"),
    ] {
        let jwt = token(jwt);
        for output in [
            verify(key, &[&jwt], b""),
            verify(key, &["--json", &jwt], b""),
            verify(key, &["-"], jwt.as_bytes()),
            verify(key, &[], format!("{jwt}\n").as_bytes()),
        ] {
            assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
            let claims: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(claims[claim], "demohourly");
            assert_eq!(text(&output.stdout).lines().count(), 1);
        }
    }
}

#[test]
fn what_openssl_signs_with_other_parameters_is_refused() {
    for jwt in
        ["openssl-rsa2048-e3-salt20.jwt", "openssl-rsa2048-e3-saltmax.jwt", "openssl-rsa2048-e3-mgf1sha1.jwt"]
    {
        let output = verify(E3, &[&token(jwt)], b"");
        let (code, line) = failure(&output);
        assert_eq!(code, 76, "{jwt}");
        assert!(line.starts_with("unverified: SignatureInvalid: "), "{jwt}: {line}");
    }
}

#[test]
fn another_question_than_the_tokens_is_refused_with_what_to_check() {
    let jwt = token("openssl-rsa2048-e3.jwt");
    for (at, value, reason, check) in [
        (1, "demometered", "ProductCodeMismatch", "--product-code"),
        (3, "2", "PublicKeyVersionMismatch", "--public-key-version"),
        (5, "fixture-nonce ", "NonceMismatch", "--nonce"),
        (5, "-fixture-nonce", "NonceMismatch", "--nonce"),
    ] {
        let mut asked = ASKED;
        asked[at] = value;
        let output = verify_asking(asked, E3, &[&jwt], b"");
        let (code, line) = failure(&output);
        assert_eq!(code, 76, "{line}");
        assert!(line.starts_with(&format!("unverified: {reason}: ")) && line.contains(check), "{line}");
    }
}

#[test]
fn the_token_of_another_key_is_refused() {
    let output = verify("keys/rsa3072-test-only.pub.pem", &[&token("openssl-rsa2048-e3.jwt")], b"");
    let (code, line) = failure(&output);
    assert_eq!(code, 76);
    assert!(line.contains("SignatureInvalid") && line.contains("--public-key"), "{line}");
}

#[test]
fn input_without_end_is_refused_for_its_length() {
    let output = verify(E3, &[], &vec![b'x'; 4 << 20]);
    let (code, line) = failure(&output);
    assert_eq!(code, 76);
    assert!(line.starts_with("unverified: TokenTooLong: "), "{line}");
    let output = verify(E3, &["-"], b"\xff\xfe\x00");
    assert_eq!(failure(&output).0, 76);
}

#[test]
fn an_unusable_key_file_is_a_configuration_fault_that_says_what_to_do() {
    let jwt = token("openssl-rsa2048-e3.jwt");
    for (key, says) in [
        ("keys/absent.pem", "cannot be read"),
        ("keys", "cannot be read"),
        ("keys/rsa3072-test-only.pem", "private key"),
        ("keys/ed25519-test-only.pem", "private key"),
        ("keys/pkcs1-test-only.pub.pem", "openssl rsa -RSAPublicKey_in -pubout"),
        ("keys/ec-test-only.pub.pem", "not plain RSA"),
        ("keys/rsa-pss-test-only.pub.pem", "not plain RSA"),
        ("keys/rsa1024-test-only.pub.pem", "1024 bits"),
        ("tls/ca.pem", "certificate"),
        ("tokens/README.md", "no PEM block"),
        ("tokens/openssl-rsa2048-e3.jwt", "no PEM block"),
    ] {
        let output = verify(key, &[&jwt], b"");
        let (code, line) = failure(&output);
        assert_eq!(code, 78, "{key}: {line}");
        assert!(line.starts_with("misconfigured: PublicKeyUnusable: public_key: "), "{key}: {line}");
        assert!(line.contains(says), "{key}: {line}");
    }
}

#[test]
fn a_wrong_command_line_is_told_apart_from_a_wrong_token() {
    for wrong in [&["--unknown"][..], &["a.b.c", "a.b.c"], &["--public-key-version", "1"]] {
        let output = verify(E3, wrong, b"");
        assert_eq!(output.status.code(), Some(64), "{wrong:?}: {}", text(&output.stderr));
        assert!(output.stdout.is_empty());
    }
    let jwt = token("openssl-rsa2048-e3.jwt");
    for (at, value) in [(1, "two words"), (1, ""), (3, "0"), (3, "1.0"), (3, "one"), (5, "")] {
        let mut asked = ASKED;
        asked[at] = value;
        let output = verify_asking(asked, E3, &[&jwt], b"");
        assert_eq!(output.status.code(), Some(64), "{asked:?}: {}", text(&output.stderr));
        assert!(
            text(&output.stderr).contains(asked[at - 1]),
            "the option is named: {}",
            text(&output.stderr)
        );
    }
    let alone = Command::new(env!("CARGO_BIN_EXE_tollgate")).arg("verify").output().unwrap();
    assert_eq!(alone.status.code(), Some(64));
}
