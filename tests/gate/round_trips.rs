//! The connection to AWS's service is opened while STS answers. AWS's names are reached through a proxy that is all of AWS
//! here: it notes each tunnel, each TLS handshake and each request, and answers when the test says so.

use std::collections::BTreeMap;
use std::io::{BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::processes::{Emulator, Sidecar, configure_contract};

const STS: &str = "sts.us-east-1.amazonaws.com";
const METERING: &str = "metering.marketplace.us-east-1.amazonaws.com";
const LICENSE_MANAGER: &str = "license-manager.us-east-1.amazonaws.com";

/// A hang fails the test after this time.
const TIMEOUT: Duration = Duration::from_secs(120);

fn fixture(name: &str) -> String {
    format!("{}/tests/fixtures/tls/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// What the proxy sees, in order.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// A tunnel is asked for.
    Tunnel(String),
    /// TLS is agreed; nothing was asked yet.
    Connected(String),
    /// The same, with the session of an earlier connection.
    Resumed(String),
    /// A request came, on this connection of its host (from 1).
    Asked(String, usize),
}

/// AWS behind a proxy. Its services answer every call that there are too many, and close the connection.
struct Aws {
    addr: SocketAddr,
    seen: Receiver<Seen>,
    /// Lets STS answer once.
    release: Sender<()>,
}

/// What the threads of one proxy share.
struct Shared {
    tls: Arc<rustls::ServerConfig>,
    seen: Sender<Seen>,
    released: Mutex<Receiver<()>>,
    connections: Mutex<BTreeMap<String, usize>>,
    /// How many tunnels to this host are refused.
    refused: Mutex<(&'static str, usize)>,
}

impl Aws {
    /// Refuses the first `times` tunnels to the host `refused`.
    fn start((refused, times): (&'static str, usize)) -> Self {
        use rustls_pki_types::pem::PemObject as _;
        let certificate = rustls_pki_types::CertificateDer::from_pem_file(fixture("aws.pem")).unwrap();
        let key = rustls_pki_types::PrivateKeyDer::from_pem_file(fixture("aws-key.pem")).unwrap();
        let tls =
            rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![certificate], key)
                .unwrap();
        let ((sender, seen), (release, released)) = (channel(), channel());
        let shared = Arc::new(Shared {
            tls: Arc::new(tls),
            seen: sender,
            released: Mutex::new(released),
            connections: Mutex::default(),
            refused: Mutex::new((refused, times)),
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, shared) = (stream.unwrap(), Arc::clone(&shared));
                // The client may close a connection at any time, and so may the test.
                std::thread::spawn(move || shared.serve(stream));
            }
        });
        Self { addr, seen, release }
    }

    fn next(&self) -> Seen {
        self.seen.recv_timeout(TIMEOUT).unwrap()
    }

    /// All that is seen up to this, which is left out.
    fn until(&self, last: &Seen) -> Vec<Seen> {
        let mut before = Vec::new();
        loop {
            let seen = self.next();
            if seen == *last {
                return before;
            }
            before.push(seen);
        }
    }

    fn configure(&self, command: &mut Command, token: &Path) {
        command
            .env_remove("TOLLGATE_ENDPOINT_URL")
            .env_remove("AWS_ACCESS_KEY_ID")
            .env_remove("AWS_SECRET_ACCESS_KEY")
            .env("HOME", "/nonexistent")
            .env("HTTPS_PROXY", format!("http://{}", self.addr))
            .env("AWS_CA_BUNDLE", fixture("aws-ca.pem"))
            .env("AWS_WEB_IDENTITY_TOKEN_FILE", token)
            .env("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/app");
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) -> Option<()> {
        let host = tunnel(&mut stream)?;
        self.seen.send(Seen::Tunnel(host.clone())).ok()?;
        {
            let mut refused = self.refused.lock().unwrap();
            if refused.0 == host && refused.1 > 0 {
                refused.1 -= 1;
                return stream.write_all(b"HTTP/1.1 502 X\r\ncontent-length: 0\r\n\r\n").ok();
            }
        }
        stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").ok()?;
        let mut tls = rustls::ServerConnection::new(Arc::clone(&self.tls)).unwrap();
        while tls.is_handshaking() {
            tls.complete_io(&mut stream).ok()?;
        }
        let number = {
            let mut connections = self.connections.lock().unwrap();
            let number = connections.entry(host.clone()).or_default();
            *number += 1;
            *number
        };
        let resumed = tls.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
        let kind = if resumed { Seen::Resumed } else { Seen::Connected };
        self.seen.send(kind(host.clone())).ok()?;
        let mut reader = BufReader::new(rustls::Stream::new(&mut tls, &mut stream));
        read_request(&mut reader)?;
        self.seen.send(Seen::Asked(host.clone(), number)).ok()?;
        let (status, body) = if host == STS {
            self.released.lock().unwrap().recv().ok()?;
            (200, CREDENTIALS)
        } else {
            (400, r#"{"__type":"ThrottlingException","message":"Rate exceeded"}"#)
        };
        let head =
            format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
        reader.get_mut().write_all((head + body).as_bytes()).ok()?;
        drop(reader);
        tls.send_close_notify();
        while tls.wants_write() {
            tls.write_tls(&mut stream).ok()?;
        }
        Some(())
    }
}

/// The host of a `CONNECT`.
fn tunnel(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let host = head.strip_prefix("CONNECT ").unwrap().split_once(":443 ").unwrap().0;
    Some(host.to_owned())
}

fn read_request(reader: &mut impl std::io::BufRead) -> Option<()> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line == "\r\n" {
            return reader.read_exact(&mut vec![0; length]).ok();
        }
    }
}

const CREDENTIALS: &str = "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
    <AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>ASIA</AccessKeyId><SecretAccessKey>s</SecretAccessKey>\
    <SessionToken>t</SessionToken><Expiration>2100-01-01T00:00:00Z</Expiration></Credentials>\
    </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>";

fn token() -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "a.b.c").unwrap();
    (folder, token)
}

/// How often a tunnel to this host is among them.
fn tunnels(seen: &[Seen], host: &str) -> usize {
    seen.iter().filter(|seen| **seen == Seen::Tunnel(host.to_owned())).count()
}

#[test]
fn the_connection_that_a_call_needs_is_opened_while_sts_answers() {
    let (emulator, (_folder, token)) = (Emulator::start(), token());
    for (service, contract) in [(METERING, false), (LICENSE_MANAGER, true)] {
        let aws = Aws::start(("", 0));
        let mut command = emulator.sidecar("pod-ahead");
        aws.configure(&mut command, &token);
        if contract {
            configure_contract(&mut command);
        }
        let sidecar = Sidecar::start(command);
        // STS answers only when the service's connection stands: if that waited for STS, this would wait for ever.
        let mut before = aws.until(&Seen::Connected(service.to_owned()));
        aws.release.send(()).unwrap();
        // The call comes on that connection, and nothing was sent on it before.
        before.extend(aws.until(&Seen::Asked(service.to_owned(), 1)));
        assert_eq!((tunnels(&before, service), tunnels(&before, STS)), (1, 1), "{before:?}");
        let others = [METERING, LICENSE_MANAGER].into_iter().filter(|other| *other != service);
        assert_eq!(others.map(|other| tunnels(&before, other)).sum::<usize>(), 0, "{before:?}");
        drop(sidecar);
    }
}

#[test]
fn a_connection_that_fails_ahead_of_the_call_is_reported_by_the_call() {
    let (emulator, (_folder, token)) = (Emulator::start(), token());
    // The first is refused ahead of the call, the second for the call itself.
    let aws = Aws::start((METERING, 2));
    let mut command = emulator.sidecar("pod-refused");
    aws.configure(&mut command, &token);
    let mut sidecar = Sidecar::start(command);
    aws.until(&Seen::Tunnel(METERING.to_owned()));
    aws.release.send(()).unwrap();
    aws.until(&Seen::Tunnel(METERING.to_owned()));
    let line = sidecar.wait_for_code("pending", "ProxyRefused");
    let message = line["message"].as_str().unwrap();
    assert!(message.contains(&format!("(asked for {METERING})")), "{line}");
    // The next attempt has its credentials already, and needs one connection.
    let asked = Seen::Asked(METERING.to_owned(), 1);
    assert_eq!(tunnels(&aws.until(&asked), METERING), 1);
}

#[test]
fn a_call_that_waits_for_no_sts_opens_its_own_connection() {
    let (emulator, (_folder, token)) = (Emulator::start(), token());
    let aws = Aws::start(("", 0));
    let mut command = emulator.sidecar("pod-keys");
    aws.configure(&mut command, &token);
    command.env("AWS_ACCESS_KEY_ID", "key").env("AWS_SECRET_ACCESS_KEY", "any");
    let _sidecar = Sidecar::start(command);
    let before = aws.until(&Seen::Asked(METERING.to_owned(), 1));
    assert_eq!((tunnels(&before, METERING), tunnels(&before, STS)), (1, 0), "{before:?}");
}

#[test]
fn no_connection_is_opened_to_a_service_that_a_profile_replaces() {
    let (emulator, (folder, token)) = (Emulator::start(), token());
    let aws = Aws::start(("", 0));
    let profile = folder.path().join("profile");
    std::fs::write(&profile, format!("[default]\nendpoint_url = https://{STS}\n")).unwrap();
    let mut command = emulator.sidecar("pod-profile");
    aws.configure(&mut command, &token);
    command.env("AWS_CONFIG_FILE", &profile);
    let _sidecar = Sidecar::start(command);
    aws.release.send(()).unwrap();
    // STS is asked for credentials on one connection, and on the next, by the profile, in place of the metering service.
    let before = aws.until(&Seen::Asked(STS.to_owned(), 2));
    assert_eq!((tunnels(&before, METERING), tunnels(&before, STS)), (0, 2), "{before:?}");
}

#[test]
fn the_next_connection_to_a_service_continues_its_tls_session() {
    let (emulator, (_folder, token)) = (Emulator::start(), token());
    let aws = Aws::start(("", 0));
    let mut command = emulator.sidecar("pod-session");
    aws.configure(&mut command, &token);
    let _sidecar = Sidecar::start(command);
    aws.release.send(()).unwrap();
    aws.until(&Seen::Asked(METERING.to_owned(), 1));
    // The answer was that there were too many calls, and it closed the connection.
    let before = aws.until(&Seen::Asked(METERING.to_owned(), 2));
    assert!(before.contains(&Seen::Resumed(METERING.to_owned())), "{before:?}");
}

#[test]
fn an_authority_that_does_not_parse_ends_the_sidecar_with_its_number() {
    let (emulator, (folder, token)) = (Emulator::start(), token());
    let good = std::fs::read_to_string(fixture("aws-ca.pem")).unwrap();
    let bundle = folder.path().join("ca.pem");
    let mut broken: Vec<&str> = good.lines().collect();
    broken.remove(broken.len() / 2);
    std::fs::write(&bundle, format!("{good}{}\n", broken.join("\n"))).unwrap();
    let aws = Aws::start(("", 0));
    let mut command = emulator.sidecar("pod-bundle");
    aws.configure(&mut command, &token);
    command.env("AWS_CA_BUNDLE", &bundle);
    let (status, last) = Sidecar::start(command).end();
    assert_eq!(status.code(), Some(78), "{last}");
    assert!(last.contains(bundle.to_str().unwrap()), "{last}");
    assert!(
        last.contains(
            "(environment AWS_CA_BUNDLE): certificate number 2 is not a valid X.509 CA certificate"
        ),
        "{last}"
    );
}
