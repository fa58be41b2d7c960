//! Between the sidecar and AWS: proxies, and the clock source.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};

use crate::credentials::{Act, answer, hold, serve};
use crate::processes::{Emulator, Sidecar, refusing_addr};

/// An HTTP proxy that reports the first line of each request and forwards plain ones to `upstream`.
fn proxy(upstream: SocketAddr) -> (SocketAddr, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let (lines, seen) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.unwrap());
            let mut first = String::new();
            reader.read_line(&mut first).unwrap();
            let (mut head, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                head.push_str(&line);
                if line.trim().is_empty() {
                    break;
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            if first.starts_with("POST http://") {
                // Closes after one exchange, so that the answer ends at the end of the connection.
                let head = head.replacen("\r\n", "\r\nconnection: close\r\n", 1);
                let mut server = TcpStream::connect(upstream).unwrap();
                server.write_all(format!("POST / HTTP/1.1\r\n{head}").as_bytes()).unwrap();
                server.write_all(&body).unwrap();
                let mut answer = Vec::new();
                server.read_to_end(&mut answer).unwrap();
                let _ = reader.get_mut().write_all(&answer);
            }
            if lines.send(first).is_err() {
                return;
            }
        }
    });
    (addr, seen)
}

/// RFC 6761, section 6.4: such a name never resolves, so a request that arrives went through the proxy.
const ELSEWHERE: &str = "metering.invalid";

#[test]
fn a_proxy_is_used_for_what_is_elsewhere() {
    let emulator = Emulator::start();
    let (addr, seen) = proxy(emulator.addr);
    let mut command = emulator.sidecar("pod-proxy");
    command
        .env("TOLLGATE_ENDPOINT_URL", format!("http://{ELSEWHERE}"))
        .env("HTTP_PROXY", format!("http://{addr}"));
    Sidecar::start(command).wait_for("entitled");
    assert!(seen.recv().unwrap().starts_with(&format!("POST http://{ELSEWHERE}/ ")));
}

#[test]
fn https_goes_through_the_proxy_as_a_tunnel() {
    let emulator = Emulator::start();
    let (addr, seen) = proxy(emulator.addr);
    let mut command = emulator.sidecar("pod-tunnel");
    let ca = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tls/ca.pem");
    command
        .env("TOLLGATE_ENDPOINT_URL", format!("https://{ELSEWHERE}"))
        .env("HTTPS_PROXY", format!("http://{addr}"))
        .env("AWS_CA_BUNDLE", ca);
    let mut sidecar = Sidecar::start(command);
    assert!(seen.recv().unwrap().starts_with(&format!("CONNECT {ELSEWHERE}:443 ")));
    sidecar.read_until(|line| line["state"] == "pending" && line["code"].is_string());
}

/// If a proxy sends a page, refuses or closes the connection, the reason must name the proxy. An earlier version said
/// "TLS not trusted", with AWS_CA_BUNDLE as the remedy.
#[test]
fn a_proxy_that_opens_no_tunnel_is_named() {
    const PAGE: &str = "<html><body>Log in to the network</body></html>";
    const ALERT: &[u8] = b"\x15\x03\x03\x00\x02\x02\x28";
    let emulator = Emulator::start();
    let proxied = |act: Act| {
        let mut command = emulator.sidecar("pod-portal");
        let ca = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tls/ca.pem");
        command
            .env("TOLLGATE_ENDPOINT_URL", format!("https://{ELSEWHERE}"))
            .env("HTTPS_PROXY", format!("http://{}", serve(act)))
            .env("AWS_CA_BUNDLE", ca);
        command
    };
    let mut rows: Vec<_> = [200, 302, 403, 502, 503]
        .map(|status| {
            (
                "a page",
                proxied(answer(status, PAGE)),
                "pending",
                "ProxyRefused",
                "(asked for metering.invalid)",
            )
        })
        .into();
    let chunked = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2f\r\n{PAGE}\r\n0\r\n\r\n");
    for (name, act, code, says) in [
        ("chunked", Act::Answer(chunked), "ProxyRefused", "The proxy at 127"),
        ("page later", Act::Tunnel(PAGE.as_bytes()), "ProxyRefused", "The proxy at 127"),
        ("hangs up", Act::Tunnel(b""), "ProxyRefused", "The proxy at 127"),
        ("hangs up at once", Act::Answer(String::new()), "Connection", "to the proxy at 127"),
        ("no HTTP", Act::Greet, "ProxyRefused", "The proxy at 127"),
        ("silent", Act::Silent, "ConnectTimeout", "No connection through the proxy at 127"),
        (
            "refused behind it",
            Act::Tunnel(ALERT),
            "TlsHandshake",
            "service at metering.invalid did not agree",
        ),
    ] {
        rows.push((name, proxied(act), "pending", code, says));
    }
    hold(rows);
}

#[test]
fn no_proxy_is_honoured_and_what_is_local_never_goes_through_one() {
    let emulator = Emulator::start();
    let dead = format!("http://{}", refusing_addr());
    let mut command = emulator.sidecar("pod-direct");
    command.env("HTTP_PROXY", &dead).env("HTTPS_PROXY", &dead).env("ALL_PROXY", &dead);
    Sidecar::start(command).wait_for("entitled");

    let mut command = emulator.sidecar("pod-noproxy");
    command
        .env("TOLLGATE_ENDPOINT_URL", format!("http://{ELSEWHERE}"))
        .env("HTTP_PROXY", &dead)
        .env("NO_PROXY", ELSEWHERE);
    Sidecar::start(command).wait_for_code("pending", "Dns");
}

#[test]
fn the_emulators_clock_is_followed_for_wall_time() {
    let emulator = Emulator::start();
    let state = tempfile::tempdir().unwrap();
    let mut command = emulator.sidecar("pod-clock");
    command
        .env("TOLLGATE_CLOCK", format!("{}/_emulator/clock", emulator.endpoint()))
        .env("TOLLGATE_ENDPOINT_URL", format!("http://{}", refusing_addr()))
        .env("TOLLGATE_STATE_DIR", state.path())
        .env("TOLLGATE_GRACE_PERIOD", "1h");
    let mut sidecar = Sidecar::start(command);
    sidecar.wait_for("grace");
    emulator.admin("/_emulator/clock", r#"{"advance":"1h1s"}"#);
    // The next attempt is seconds away, so it is the clock's jump that ends the grace period.
    sidecar.wait_for("pending");
    assert_eq!(sidecar.get("/readyz").status, 503);
}
