//! Many clients, each of which reports one event after the other, through TCP or a Unix socket: `benches/usage.py`
//! measures the sidecar with it.
//!
//! Usage: `load HOST:PORT|unix:PATH CONNECTIONS SECONDS`; prints acknowledgements a second and the 99th percentile of
//! their times in seconds. Each event has a UUID as its `id`. Any answer but an acknowledgement ends the program.

#![expect(clippy::panic, clippy::print_stdout, clippy::unwrap_used, reason = "a measuring tool")]

use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;

#[expect(clippy::disallowed_methods, clippy::cast_precision_loss, reason = "it measures time")]
#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, address, connections, seconds] = arguments.as_slice() else {
        panic!("HOST:PORT|unix:PATH CONNECTIONS SECONDS")
    };
    let began = Instant::now();
    let until = began + Duration::from_secs(seconds.parse().unwrap());
    let mut clients = JoinSet::new();
    for number in 0..connections.parse::<u64>().unwrap() {
        // Another run must not repeat this one's events.
        let seed = began_at() ^ (number << 48);
        match address.strip_prefix("unix:") {
            Some(path) => clients.spawn(client(UnixStream::connect(path).await.unwrap(), seed, until)),
            None => {
                let stream = TcpStream::connect(address).await.unwrap();
                stream.set_nodelay(true).unwrap();
                clients.spawn(client(stream, seed, until))
            }
        };
    }
    let mut times: Vec<Duration> = clients.join_all().await.into_iter().flatten().collect();
    let rate = times.len() as f64 / began.elapsed().as_secs_f64();
    times.sort_unstable();
    println!("{rate} {}", times[times.len() * 99 / 100].as_secs_f64());
}

#[expect(clippy::disallowed_methods, reason = "a seed")]
fn began_at() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(now.as_nanos() & u128::from(u64::MAX)).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "it measures time")]
async fn client(mut stream: impl AsyncRead + AsyncWrite + Unpin, seed: u64, until: Instant) -> Vec<Duration> {
    let (mut times, mut answer, mut number) = (Vec::new(), Vec::new(), 0_u64);
    loop {
        let sent = Instant::now();
        if sent >= until {
            return times;
        }
        number += 1;
        stream.write_all(request(mixed(seed, number), mixed(!seed, number)).as_bytes()).await.unwrap();
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

fn request(high: u64, low: u64) -> String {
    let (a, b, c) = (high >> 32, high >> 16 & 0xffff, high & 0xfff);
    let (d, e) = (low >> 48 & 0x3fff | 0x8000, low & 0xffff_ffff_ffff);
    let event = format!(
        r#"{{"id":"{a:08x}-{b:04x}-4{c:03x}-{d:04x}-{e:012x}","dimension":"requests","quantity":"0.5"}}"#
    );
    format!(
        "POST /v1/usage HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{event}",
        event.len()
    )
}

/// Whether an answer's body is complete.
fn is_whole(answer: &[u8]) -> bool {
    let Some(head) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let text = std::str::from_utf8(&answer[..head]).unwrap();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    answer.len() >= head + 4 + length.parse::<usize>().unwrap()
}
