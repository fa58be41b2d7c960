//! Asks the sidecar for AWS's answer to a nonce of our own and checks it, with `jsonwebtoken` and `ring`.
//!
//! Usage: `cargo run --example verify -- http://127.0.0.1:19181 PUBLIC_KEY.pem PRODUCT_CODE`

#![expect(clippy::print_stdout, reason = "an example says what it found")]

use std::error::Error;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom as _, SystemRandom};
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, key_file, product_code] = arguments.as_slice() else {
        return Err("URL PUBLIC_KEY PRODUCT_CODE".into());
    };
    let mut random = [0; 32];
    SystemRandom::new().fill(&mut random).map_err(|_| "no random bytes")?;
    let nonce = URL_SAFE_NO_PAD.encode(random);
    let token = attest(url, &nonce)?;

    let parts: Vec<&str> = token.split('.').collect();
    let [header, payload, signature] = parts.as_slice() else { return Err("not entitled: no token".into()) };
    let pem = std::fs::read_to_string(key_file)?;
    let key = tollgate::receipt::key::PublicKey::from_pem(pem.as_bytes())?;
    let expected = tollgate::receipt::Expected {
        product_code: &product_code.parse()?,
        public_key_version: tollgate::marketplace::PublicKeyVersion::FIRST,
        nonce: &nonce.parse()?,
        now: tollgate_clock::system_now(),
        allow_emulated: true,
    };
    tollgate::receipt::verify(&[*header, *payload, *signature].join("."), &key, &expected)?;
    println!("entitled");
    Ok(())
}

/// One request over plain HTTP, as the sidecar is on loopback.
fn attest(url: &str, nonce: &str) -> Result<String, Box<dyn Error>> {
    let address = url.trim_start_matches("http://");
    let body = json!({ "nonce": nonce }).to_string();
    let mut stream = TcpStream::connect(address)?;
    let head = "POST /v1/attestations HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json";
    write!(stream, "{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
    let body: Value = serde_json::from_str(body)?;
    Ok(body["token"].as_str().ok_or("not entitled: no token")?.to_owned())
}
