//! Asks the sidecar for AWS's answer to a nonce of its own, and verifies the answer.
//!
//! Usage: `cargo run -p tollgate-receipt --example attestation -- http://127.0.0.1:19181 PUBLIC_KEY.pem PRODUCT_CODE`

#![expect(clippy::print_stdout, reason = "an example says what it found")]

use std::error::Error;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::SystemTime;

use ring::rand::{SecureRandom as _, SystemRandom};
use serde_json::{Value, json};

use tollgate_receipt::{Expected, Nonce, PublicKey, PublicKeyVersion, verify};

#[expect(
    clippy::disallowed_methods,
    reason = "a program of its own: these arguments are no settings of the sidecar"
)]
fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, key_file, product_code] = arguments.as_slice() else {
        return Err("URL PUBLIC_KEY PRODUCT_CODE".into());
    };
    let mut random = [0; 32];
    SystemRandom::new().fill(&mut random).map_err(|_| "no random bytes")?;
    let nonce = Nonce::from_random(random);
    let token = attest(url, &nonce)?;

    let key = PublicKey::from_pem(&std::fs::read(key_file)?)?;
    let expected = Expected {
        product_code: &product_code.parse()?,
        public_key_version: PublicKeyVersion::FIRST,
        nonce: &nonce,
        now: now(),
        // For trying it with the emulator. In a product: false.
        allow_emulated: true,
    };
    verify(&token, &key, &expected)?;
    println!("entitled");
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "the example runs alone: there is no clock to follow")]
fn now() -> SystemTime {
    SystemTime::now()
}

/// One request over plain HTTP, since the sidecar is on loopback.
fn attest(url: &str, nonce: &Nonce) -> Result<String, Box<dyn Error>> {
    let address = url.trim_start_matches("http://");
    let body = json!({ "nonce": nonce.as_str() }).to_string();
    let mut stream = TcpStream::connect(address)?;
    let head = "POST /v1/attestations HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json";
    write!(stream, "{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
    let body: Value = serde_json::from_str(body)?;
    Ok(body["token"].as_str().ok_or("not entitled: no token")?.to_owned())
}
