//! `tollgate verify`: the sidecar's own check of one token, offline.

use std::fs;
use std::io::{self, Read as _};
use std::path::PathBuf;

use clap::Args;

use crate::cli::complain;
use crate::clock;
use crate::exit::Exit;
use crate::marketplace::{Nonce, ProductCode, PublicKeyVersion};
use crate::receipt::key::PublicKey;
use crate::receipt::{self, Expected, TOKEN_BYTES_MAX};

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The product code that the token must name
    #[arg(long, value_name = "CODE")]
    product_code: ProductCode,
    /// The key version that the token must name
    #[arg(long, value_name = "N")]
    public_key_version: PublicKeyVersion,
    /// The seller's public key of that version, a PEM file
    #[arg(long, value_name = "FILE")]
    public_key: PathBuf,
    /// The nonce that the token must answer
    #[arg(long)]
    nonce: Nonce,
    /// Accept a token of the tollgate emulator
    #[arg(long)]
    allow_emulated: bool,
    /// Print JSON; it is what is printed anyway
    #[arg(long)]
    json: bool,
    /// The token; `-` or nothing reads it from standard input
    #[arg(value_name = "TOKEN", default_value = "-")]
    token: String,
}

/// Largest key file read; a PEM of RSA-8192 has less than 2 KiB.
const KEY_BYTES_MAX: u64 = 64 * 1024;

/// Prints the claims and exits 0, or says why not: 76 the token, 78 the key file, 74 standard input.
#[expect(clippy::print_stdout, reason = "the claims on standard output are the product of this command")]
pub fn run(args: &VerifyArgs) -> Exit {
    let path = args.public_key.display();
    let mut pem = Vec::new();
    let read =
        fs::File::open(&args.public_key).and_then(|file| file.take(KEY_BYTES_MAX).read_to_end(&mut pem));
    if let Err(error) = read {
        return complain(
            Exit::Config,
            &format!("public_key: {path} cannot be read: {error}; give the seller's PEM file"),
        );
    }
    let key = match PublicKey::from_pem(&pem) {
        Ok(key) => key,
        Err(error) => return complain(Exit::Config, &format!("public_key: {path} {error}")),
    };
    let token = match token(args) {
        Ok(token) => token,
        Err(error) => {
            return complain(Exit::Usage, &format!("the token cannot be read from standard input: {error}"));
        }
    };
    let expected = Expected {
        product_code: &args.product_code,
        public_key_version: args.public_key_version,
        nonce: &args.nonce,
        now: clock::system_now(),
        allow_emulated: args.allow_emulated,
    };
    match receipt::verify(&token, &key, &expected) {
        Ok(receipt) => {
            if let Some(seconds) = receipt.clock_warning() {
                complain(
                    Exit::Done,
                    &format!("note: the token was issued {seconds} s from now by this machine's clock"),
                );
            }
            println!("{}", receipt.claims_json());
            Exit::Done
        }
        Err(error) => complain(Exit::Unverified, &format!("unverified: {}: {error}", error.code())),
    }
}

fn token(args: &VerifyArgs) -> io::Result<String> {
    if args.token != "-" {
        return Ok(args.token.clone());
    }
    let mut text = String::new();
    // One byte more than the limit, so that a longer one is refused for its length and not for its end.
    io::stdin().take(TOKEN_BYTES_MAX as u64 + 2).read_to_string(&mut text)?;
    // The line end that `echo` adds is not part of the token.
    Ok(text
        .strip_suffix('\n')
        .map(|line| line.strip_suffix('\r').unwrap_or(line))
        .unwrap_or(&text)
        .to_owned())
}
