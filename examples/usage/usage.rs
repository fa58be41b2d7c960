//! Reports usage to tollgate. Copy `report` and what it calls into your application: it needs `serde_json` only. With an
//! HTTP library `exchange` is two lines.
//!
//! Usage: `cargo run --example usage -- DIMENSION QUANTITY [ID]`

#![expect(clippy::disallowed_methods, clippy::print_stderr, reason = "a program of its own, not the sidecar")]

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};

/// tollgate answers within 30 seconds.
const PATIENCE: Option<Duration> = Some(Duration::from_secs(35));

/// Returns when tollgate has the event on disk, and retries until then. Fails for an event that tollgate rejects.
fn report(address: &str, dimension: &str, quantity: f64, id: &str) -> Result<(), String> {
    // The id stays: tollgate knows a repeat by it, and counts the event once. `tags` and `customer` belong here, too.
    let event = json!({"id": id, "dimension": dimension, "quantity": format!("{quantity:.6}")}).to_string();
    loop {
        let (wait, said) = match post(address, &event) {
            Ok((202, _, said)) if is_acknowledged(&said) => return Ok(()),
            Ok((408 | 503, wait, said)) => (wait, said),
            Ok((status, _, said)) => {
                return Err(format!("tollgate does not take the event {event}: {status} {said}"));
            }
            // Away, or the answer was lost: perhaps the event counts already.
            Err(error) => (1, error.to_string()),
        };
        eprintln!("tollgate: {said}; trying again in {wait} s");
        std::thread::sleep(Duration::from_secs(wait));
    }
}

fn is_acknowledged(said: &str) -> bool {
    let said: Value = serde_json::from_str(said).unwrap_or_default();
    matches!(said["results"][0]["status"].as_str(), Some("accepted" | "duplicate"))
}

/// One attempt: the status, the seconds to wait before another, and the body. The address is as `app_addr` has it.
fn post(address: &str, event: &str) -> io::Result<(u16, u64, String)> {
    if let Some(path) = address.strip_prefix("unix:") {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(PATIENCE)?;
        return exchange(stream, event);
    }
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(PATIENCE)?;
    exchange(stream, event)
}

fn exchange(mut stream: impl Read + Write, event: &str) -> io::Result<(u16, u64, String)> {
    let head =
        "POST /v1/usage HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json";
    stream.write_all(format!("{head}\r\ncontent-length: {}\r\n\r\n{event}", event.len()).as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, said) = answer.split_once("\r\n\r\n").ok_or(ErrorKind::UnexpectedEof)?;
    let field = |name: &str| {
        let fields = head.lines().filter_map(|line| line.split_once(':'));
        let mut named = fields.filter(|(field, _)| field.eq_ignore_ascii_case(name));
        named.next().and_then(|(_, value)| value.trim().parse::<usize>().ok())
    };
    if field("content-length") != Some(said.len()) {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    let status = head.get(9..12).and_then(|status| status.parse().ok()).ok_or(ErrorKind::InvalidData)?;
    Ok((status, field("retry-after").unwrap_or(1) as u64, said.to_owned()))
}

/// An id for an event that has none in the application.
fn random_id() -> io::Result<String> {
    let mut random = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    Ok(format!("{:032x}", u128::from_ne_bytes(random)))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::var("TOLLGATE_APP_ADDR").unwrap_or_else(|_| "127.0.0.1:19181".to_owned());
    let mut arguments = std::env::args().skip(1);
    let (Some(dimension), Some(quantity)) = (arguments.next(), arguments.next()) else {
        return Err("DIMENSION QUANTITY [ID]".into());
    };
    let id = arguments.next().map_or_else(random_id, Ok)?;
    Ok(report(&address, &dimension, quantity.parse()?, &id)?)
}
