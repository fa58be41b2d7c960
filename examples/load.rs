//! Many clients, each of which sends one request after the other, through TCP or a Unix socket: `benches/usage.py` and
//! `benches/replicas.py` measure with it.
//!
//! Usage: `load HOST:PORT|unix:PATH CONNECTIONS SECONDS [CUSTOMERS [EVENTS]]`; prints acknowledgements a second, and of
//! their times in seconds the 99th percentile and the longest. Each event has a UUID as its `id`; it names one of
//! CUSTOMERS accounts, or none if that is 0. A request has EVENTS events, or one. Any answer but an acknowledgement ends
//! the program.

#![expect(clippy::panic, clippy::print_stdout, clippy::unwrap_used, reason = "a measuring tool")]

use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;

#[expect(clippy::disallowed_methods, clippy::cast_precision_loss, reason = "it measures time")]
#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, address, connections, seconds, more @ ..] = arguments.as_slice() else {
        panic!("HOST:PORT|unix:PATH CONNECTIONS SECONDS [CUSTOMERS [EVENTS]]")
    };
    let more: Vec<u64> = more.iter().map(|number| number.parse().unwrap()).collect();
    let content = Content {
        customers: more.first().copied().unwrap_or_default(),
        events: more.get(1).copied().unwrap_or(1),
    };
    let began = Instant::now();
    let until = began + Duration::from_secs(seconds.parse().unwrap());
    let mut clients = JoinSet::new();
    for number in 0..connections.parse::<u64>().unwrap() {
        // Another run must not repeat this one's events.
        let seed = began_at() ^ (number << 48);
        match address.strip_prefix("unix:") {
            Some(path) => {
                clients.spawn(client(UnixStream::connect(path).await.unwrap(), seed, until, content))
            }
            None => {
                let stream = TcpStream::connect(address).await.unwrap();
                stream.set_nodelay(true).unwrap();
                clients.spawn(client(stream, seed, until, content))
            }
        };
    }
    let mut times: Vec<Duration> = clients.join_all().await.into_iter().flatten().collect();
    let rate = times.len() as f64 / began.elapsed().as_secs_f64();
    times.sort_unstable();
    println!(
        "{rate} {} {}",
        times[times.len() * 99 / 100].as_secs_f64(),
        times.last().map_or(0.0, Duration::as_secs_f64)
    );
}

/// What a request has.
#[derive(Clone, Copy)]
struct Content {
    customers: u64,
    events: u64,
}

#[expect(clippy::disallowed_methods, reason = "a seed")]
fn began_at() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(now.as_nanos() & u128::from(u64::MAX)).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "it measures time")]
async fn client(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    seed: u64,
    until: Instant,
    content: Content,
) -> Vec<Duration> {
    let (mut times, mut answer, mut number) = (Vec::new(), Vec::new(), 0_u64);
    loop {
        let sent = Instant::now();
        if sent >= until {
            return times;
        }
        let first = number + 1;
        number += content.events;
        let events: Vec<String> = (first..=number)
            .map(|number| event(mixed(seed, number), mixed(!seed, number), content))
            .collect();
        let body = match events.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(",")),
        };
        let head = "POST /v1/usage HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: ";
        stream.write_all(format!("{head}{}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
        answer.clear();
        while !is_whole(&answer) {
            assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "the connection has ended");
        }
        assert!(answer.starts_with(b"HTTP/1.1 202"), "{}", String::from_utf8_lossy(&answer));
        times.push(sent.elapsed());
    }
}

/// Pseudo-random numbers that never repeat for a seed (splitmix64).
fn mixed(seed: u64, number: u64) -> u64 {
    let mut z = seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn event(high: u64, low: u64, content: Content) -> String {
    let (a, b, c) = (high >> 32, high >> 16 & 0xffff, high & 0xfff);
    let (d, e) = (low >> 48 & 0x3fff | 0x8000, low & 0xffff_ffff_ffff);
    let customer = match content.customers {
        0 => String::new(),
        customers => format!(r#","customer":{{"account_id":"{:012}"}}"#, 800_000_000_000 + low % customers),
    };
    format!(
        r#"{{"id":"{a:08x}-{b:04x}-4{c:03x}-{d:04x}-{e:012x}","dimension":"requests","quantity":"0.5"{customer}}}"#
    )
}

/// Whether an answer's body is complete.
fn is_whole(answer: &[u8]) -> bool {
    let Some(head) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let text = std::str::from_utf8(&answer[..head]).unwrap();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    answer.len() >= head + 4 + length.parse::<usize>().unwrap()
}
