//! `tollgate verify`: the sidecar's own check of one token, offline.
//!
//! The sidecar accepts exactly the tokens that this accepts: both call [`receipt::verify`]. It makes no call and
//! reads no configuration, so that a seller can check a token and a key on any machine.

use std::fmt;
use std::io::{self, Read};
use std::path::PathBuf;

use clap::Args;

use crate::cli::complain;
use crate::cli::screen::print;
use crate::entitlement;
use crate::exit::Exit;
use tollgate_clock as clock;
use tollgate_disk::{Links, describe, read_regular};
use tollgate_marketplace::{Nonce, ProductCode, PublicKeyVersion};
use tollgate_receipt::{
    self as receipt, Expected, PEM_BYTES_MAX, PublicKey, Receipt, TOKEN_BYTES_MAX, VerifyError,
};
use tollgate_time::Timestamp;

/// Arguments of `verify`.
#[derive(Args)]
pub struct VerifyArgs {
    /// The product code that the token must name
    #[arg(long, value_name = "CODE", allow_hyphen_values = true)]
    product_code: ProductCode,
    /// The key version that the token must name
    #[arg(long, value_name = "N")]
    public_key_version: PublicKeyVersion,
    /// The seller's public key of that version, a PEM file
    #[arg(long, value_name = "FILE")]
    public_key: PathBuf,
    /// The nonce that the token must answer
    // One in 64 of the sidecar's own nonces begins with a hyphen.
    #[arg(long, allow_hyphen_values = true)]
    nonce: Nonce,
    /// Accept a token of the tollgate emulator, as the sidecar of this build does
    #[cfg(feature = "emulator")]
    #[arg(
        long,
        value_name = "TRUE|FALSE",
        num_args = 0..=1,
        require_equals = true,
        action = clap::ArgAction::Set,
        default_value = "true",
        default_missing_value = "true"
    )]
    allow_emulated: bool,
    /// Print JSON, which is the default
    #[arg(long)]
    json: bool,
    /// The token; if it is `-` or missing, it is read from standard input
    #[arg(value_name = "TOKEN", default_value = "-")]
    token: String,
}

impl VerifyArgs {
    /// Like the setting of this name: by default true in builds with the emulator, always false in builds without.
    const fn allow_emulated(&self) -> bool {
        #[cfg(feature = "emulator")]
        return self.allow_emulated;
        #[cfg(not(feature = "emulator"))]
        return false;
    }
}

/// Neither token nor nonce is shown.
impl fmt::Debug for VerifyArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifyArgs")
            .field("product_code", &self.product_code)
            .field("public_key_version", &self.public_key_version)
            .field("public_key", &self.public_key)
            .finish_non_exhaustive()
    }
}

/// Prints the claims and exits with 0, or prints one line with the cause and exits with 76 (the token), 78 (the key
/// file) or 74 (input and output).
pub fn run(args: &VerifyArgs) -> Exit {
    let receipt = match check(args, &mut io::stdin(), clock::system_now()) {
        Ok(receipt) => receipt,
        Err(refusal) => return complain(refusal.exit, &refusal.line),
    };
    for note in notes(&receipt) {
        complain(Exit::Done, &note);
    }
    print(receipt.claims_json(), Exit::Done)
}

/// Why there is no receipt, as one line.
#[derive(Debug)]
struct Refusal {
    exit: Exit,
    line: String,
}

fn check(args: &VerifyArgs, stdin: &mut dyn Read, now: Timestamp) -> Result<Receipt, Refusal> {
    let key = key(args)?;
    let token = match args.token.as_str() {
        "-" => read_token(stdin)?,
        token => token.to_owned(),
    };
    let expected = Expected {
        product_code: &args.product_code,
        public_key_version: args.public_key_version,
        nonce: &args.nonce,
        now: now.into(),
        allow_emulated: args.allow_emulated(),
    };
    receipt::verify(&token, &key, &expected).map_err(refused)
}

fn key(args: &VerifyArgs) -> Result<PublicKey, Refusal> {
    let path = args.public_key.display();
    let unusable = |message: &str, remedy: &str| {
        let reason = ("PublicKeyUnusable", message, remedy);
        Refusal { exit: Exit::Config, line: entitlement::line("misconfigured", Some(reason), None) }
    };
    let pem = read_regular(&args.public_key, PEM_BYTES_MAX, Links::Follow).map_err(|error| {
        let message = format!("public_key: {path} cannot be read: {};", describe(&error));
        unusable(&message, "give the seller's PEM file")
    })?;
    PublicKey::from_pem(&pem).map_err(|error| unusable(&format!("public_key: {path}"), &error.to_string()))
}

fn read_token(stdin: &mut dyn Read) -> Result<String, Refusal> {
    let mut bytes = Vec::new();
    // The longest token, a line end, and one byte more, so that what is longer is refused for its length.
    let read = stdin.take(TOKEN_BYTES_MAX as u64 + 3).read_to_end(&mut bytes);
    if let Err(error) = read {
        return Err(Refusal {
            exit: Exit::LedgerIo,
            line: format!("failed: InputUnreadable: the token cannot be read from standard input: {error}"),
        });
    }
    // The line end that `echo` adds is not part of the token.
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    if bytes.len() > TOKEN_BYTES_MAX {
        return Err(refused(VerifyError::TooLong));
    }
    String::from_utf8(bytes).map_err(|_| refused(VerifyError::Malformed))
}

fn refused(error: VerifyError) -> Refusal {
    let message = format!("{error};");
    let reason = (error.code(), message.as_str(), remedy(error));
    Refusal { exit: Exit::Unverified, line: entitlement::line("unverified", Some(reason), None) }
}

/// What the caller can do about it.
const fn remedy(error: VerifyError) -> &'static str {
    match error {
        VerifyError::TooLong | VerifyError::Malformed => {
            "give the whole Signature of RegisterUsage and nothing else"
        }
        VerifyError::SignatureInvalid => {
            "check that --public-key is the product's key of this version, and the token whole"
        }
        VerifyError::ProductCodeMismatch => "check --product-code",
        VerifyError::NonceMismatch => "check --nonce; each call of RegisterUsage has its own",
        VerifyError::PublicKeyVersionMismatch => "check --public-key-version",
        VerifyError::Expired | VerifyError::NotYetValid => {
            "check this machine's clock, or ask AWS for a new token"
        }
        VerifyError::EmulatedToken => "only AWS's own tokens count here",
        VerifyError::HeaderInvalid
        | VerifyError::AlgorithmNotAllowed
        | VerifyError::TypeNotAllowed
        | VerifyError::ExtensionNotAllowed
        | VerifyError::PayloadInvalid
        | VerifyError::ClaimAmbiguous
        | VerifyError::ClaimMissing
        | VerifyError::TimeInvalid => "AWS makes no such token: check where it comes from",
    }
}

/// Notes about a verified token, for standard error: standard output has the claims only.
fn notes(receipt: &Receipt) -> Vec<String> {
    let mut notes = Vec::new();
    if receipt.emulated() {
        notes.push("note: the token was made by the tollgate emulator: it proves no entitlement".to_owned());
    }
    if let Some(seconds) = receipt.clock_warning() {
        let (seconds, when) = (seconds.unsigned_abs(), if seconds > 0 { "after" } else { "before" });
        notes.push(format!("note: the token was issued {seconds} s {when} now by this machine's clock"));
    }
    notes
}

#[cfg(test)]
mod tests;
