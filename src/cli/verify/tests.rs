//! What `verify` reads, and what it says; the whole command is tested in `tests/verify.rs`.

use clap::{CommandFactory as _, Parser};

use super::*;
use crate::program::mark;

#[derive(Parser)]
struct Whole {
    #[command(flatten)]
    args: VerifyArgs,
}

const KEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tokens/openssl-rsa2048-e3.pub.pem");
const TOKEN: &str = include_str!("../../../tests/fixtures/tokens/openssl-rsa2048-e3.jwt");
const ISSUED_AT: Timestamp = Timestamp::from_unix_seconds(1_795_507_200);

fn args(more: &[&str]) -> VerifyArgs {
    let asked = ["verify", "--product-code=demohourly", "--public-key-version=1", "--nonce=fixture-nonce"];
    let key = format!("--public-key={KEY}");
    Whole::try_parse_from(asked.iter().chain(&[key.as_str()]).chain(more)).unwrap().args
}

fn piped(bytes: &[u8]) -> Result<Receipt, Refusal> {
    check(&args(&[]), &mut &*bytes, ISSUED_AT)
}

fn refusal(bytes: &[u8]) -> String {
    let refusal = piped(bytes).unwrap_err();
    assert_eq!(refusal.exit, Exit::Unverified);
    refusal.line
}

#[test]
fn the_token_comes_as_argument_or_from_standard_input() {
    assert!(check(&args(&[TOKEN]), &mut io::empty(), ISSUED_AT).is_ok());
    assert!(check(&args(&["-"]), &mut TOKEN.as_bytes(), ISSUED_AT).is_ok());
    assert!(piped(TOKEN.as_bytes()).is_ok());
    Whole::command().debug_assert();
}

/// Once the command waited for a pipe, and took the beginning of a large file for the key.
#[test]
fn a_key_is_a_regular_file_of_its_size() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    assert!(std::process::Command::new("mkfifo").arg(file("pipe")).status().unwrap().success());
    let key = std::fs::read_to_string(KEY).unwrap();
    std::fs::write(file("large"), format!("{key}{}", " ".repeat(PEM_BYTES_MAX))).unwrap();
    for (path, says) in [
        (file("pipe"), "cannot be read: is not a regular file"),
        (file("large"), "cannot be read: is too large"),
        (folder.path().to_owned(), "cannot be read: is a folder"),
        (file("nowhere"), "cannot be read: does not exist"),
    ] {
        let args = VerifyArgs { public_key: path, ..args(&[TOKEN]) };
        let refusal = check(&args, &mut io::empty(), ISSUED_AT).unwrap_err();
        assert_eq!(refusal.exit, Exit::Config);
        assert!(refusal.line.contains(says), "{}", refusal.line);
    }
}

#[test]
fn a_nonce_and_a_product_code_may_begin_with_a_hyphen() {
    let typed = ["verify", "--product-code", "-code", "--public-key-version", "1", "--public-key", KEY];
    let args = Whole::try_parse_from(typed.iter().chain(&["--nonce", "--nonce", TOKEN])).unwrap().args;
    assert_eq!((args.product_code.as_str(), args.nonce.as_str()), ("-code", "--nonce"));
    let line = check(&args, &mut io::empty(), ISSUED_AT).unwrap_err().line;
    assert!(line.starts_with("unverified: ProductCodeMismatch: "), "{line}");
}

#[test]
fn one_line_end_is_the_shells_and_everything_else_is_the_tokens() {
    for end in ["", "\n", "\r\n"] {
        assert!(piped(format!("{TOKEN}{end}").as_bytes()).is_ok(), "{end:?}");
    }
    for end in ["\n\n", "\r", " \n", "\n "] {
        assert!(refusal(format!("{TOKEN}{end}").as_bytes()).contains("TokenMalformed"), "{end:?}");
    }
    assert!(refusal(format!("\n{TOKEN}").as_bytes()).contains("TokenMalformed"));
}

#[test]
fn the_length_is_judged_before_anything_else_is_read() {
    for (bytes, code) in [
        (vec![b'x'; TOKEN_BYTES_MAX], "TokenMalformed"),
        ([vec![b'x'; TOKEN_BYTES_MAX], b"\r\n".to_vec()].concat(), "TokenMalformed"),
        (vec![b'x'; TOKEN_BYTES_MAX + 1], "TokenTooLong"),
        ([vec![b'x'; TOKEN_BYTES_MAX + 1], b"\n".to_vec()].concat(), "TokenTooLong"),
        // Each character has three bytes, so the limit falls inside one.
        ("€".repeat(TOKEN_BYTES_MAX).into_bytes(), "TokenTooLong"),
        (vec![0xff; 100], "TokenMalformed"),
        (Vec::new(), "TokenMalformed"),
    ] {
        let line = refusal(&bytes);
        assert!(line.starts_with(&format!("unverified: {code}: ")), "{} bytes: {line}", bytes.len());
    }
    let mut endless = io::repeat(b'x');
    assert!(check(&args(&[]), &mut endless, ISSUED_AT).unwrap_err().line.contains("TokenTooLong"));
}

#[test]
fn an_input_that_cannot_be_read_is_not_the_tokens_fault() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("unplugged"))
        }
    }
    let refusal = check(&args(&[]), &mut Broken, ISSUED_AT).unwrap_err();
    assert_eq!(refusal.exit, Exit::Io);
    assert!(refusal.line.contains("unplugged"), "{}", refusal.line);
}

#[test]
fn every_refusal_fits_one_line_and_names_the_next_step() {
    for error in VerifyError::ALL {
        let Refusal { exit, line } = refused(error);
        assert_eq!(exit, Exit::Unverified);
        assert!(line.starts_with(&format!("unverified: {}: {error}; ", error.code())), "{line}");
        let end = format!("{}{}", remedy(error), mark());
        assert!(line.ends_with(&end) && line.len() <= entitlement::LINE_BYTES_MAX, "{line}");
    }
}

#[test]
fn a_clock_that_is_off_is_told_with_its_direction() {
    let at = |seconds: i64| {
        let now = Timestamp::from_unix_seconds(ISSUED_AT.unix_seconds() + seconds);
        notes(&check(&args(&[TOKEN]), &mut io::empty(), now).unwrap())
    };
    assert!(at(0).is_empty() && at(300).is_empty() && at(-300).is_empty());
    assert_eq!(at(4000), ["note: the token was issued 4000 s before now by this machine's clock"]);
    assert_eq!(at(-4000), ["note: the token was issued 4000 s after now by this machine's clock"]);
}

#[test]
fn secrets_do_not_appear_in_debug_texts() {
    let shown = format!("{:?}", args(&[TOKEN]));
    assert!(!shown.contains(TOKEN) && !shown.contains("fixture-nonce"), "{shown}");
}

#[cfg(feature = "emulator")]
#[test]
fn emulated_tokens_are_accepted_as_by_the_sidecar_unless_told_otherwise() {
    assert!(args(&[]).allow_emulated());
    assert!(args(&["--allow-emulated"]).allow_emulated());
    assert!(!args(&["--allow-emulated=false"]).allow_emulated());
    // The value needs its equals sign, so that the token after the flag is not taken for it.
    let args = args(&["--allow-emulated", TOKEN]);
    assert!(args.allow_emulated() && args.token == TOKEN);
}

#[cfg(not(feature = "emulator"))]
#[test]
fn emulated_tokens_are_refused_and_no_flag_changes_that() {
    assert!(!args(&[]).allow_emulated());
    let typed = ["verify", "--product-code=x", "--public-key-version=1", "--public-key=x", "--nonce=x", "x"];
    assert!(Whole::try_parse_from(typed).is_ok());
    assert!(Whole::try_parse_from(typed.iter().chain(&["--allow-emulated"])).is_err());
}
