//! Faults that an operator meets, each produced for real, and the sidecar's report of it. Faults of credentials are in
//! `credentials`, those of proxies in `network`, refusals of AWS in `faults`.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use crate::credentials::{Act, answer, hold, serve};
use crate::processes::{Emulator, PROGRAM, refusing_addr};

fn fixture(name: &str) -> String {
    format!("{}/tests/fixtures/tls/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Accepts the tunnel that a client of a proxy asks for, and is its target itself; reads nothing
/// else.
fn tunnel(stream: &mut TcpStream) {
    let mut first = [0];
    if stream.peek(&mut first).is_ok_and(|read| read == 1) && first == *b"C" {
        crate::credentials::read_request(stream);
        let _ = stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n");
    }
}

/// A server for `localhost` whose certificate only the authority in `ca.pem` has signed.
fn interceptor() -> SocketAddr {
    use rustls_pki_types::pem::PemObject as _;
    let certificate = rustls_pki_types::CertificateDer::from_pem_file(fixture("server.pem")).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::from_pem_file(fixture("server-key.pem")).unwrap();
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, config) = (stream.unwrap(), Arc::clone(&config));
            std::thread::spawn(move || {
                tunnel(&mut stream);
                let mut tls = rustls::ServerConnection::new(config).unwrap();
                let mut tls = rustls::Stream::new(&mut tls, &mut stream);
                // Fails at the client's alert, as it should.
                let _ = tls.read(&mut [0; 4096]);
            });
        }
    });
    addr
}

fn irsa(command: &mut Command, token: &Path, sts: &str) {
    command
        .env_remove("AWS_ACCESS_KEY_ID")
        .env_remove("AWS_SECRET_ACCESS_KEY")
        .env("AWS_WEB_IDENTITY_TOKEN_FILE", token)
        .env("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/app")
        .env("AWS_ENDPOINT_URL_STS", sts);
}

#[test]
fn the_certificate_of_an_interceptor_is_named_on_either_path() {
    let emulator = Emulator::start();
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "a.b.c").unwrap();
    let between = format!("https://localhost:{}", interceptor().port());
    let mut metering = emulator.sidecar("pod-tls");
    metering.env("TOLLGATE_ENDPOINT_URL", &between).env("AWS_CA_BUNDLE", fixture("other-ca.pem"));
    let mut name = emulator.sidecar("pod-tls");
    let proxy = between.replace("https", "http");
    name.env("TOLLGATE_ENDPOINT_URL", "https://metering.invalid")
        .env("HTTPS_PROXY", proxy)
        .env("AWS_CA_BUNDLE", fixture("ca.pem"));
    let mut sts = emulator.sidecar("pod-tls");
    irsa(&mut sts, &token, &between);
    sts.env("AWS_CA_BUNDLE", fixture("other-ca.pem"));
    hold(vec![
        ("metering", metering, "pending", "Tls", "AWS's metering service at localhost"),
        (
            "name",
            name,
            "pending",
            "TlsName",
            "at metering.invalid is for another name (by way of the proxy at localhost:",
        ),
        ("STS", sts, "pending", "Tls", "STS at localhost"),
    ]);
}

#[test]
fn a_proxy_that_wants_a_password_is_named_on_the_way_to_the_metering_service() {
    let emulator = Emulator::start();
    let proxied = |variable: &str, url: &str| {
        let mut command = emulator.sidecar("pod-407");
        command.env("TOLLGATE_ENDPOINT_URL", url).env(variable, format!("http://{}", serve(answer(407, ""))));
        command
    };
    hold(vec![
        (
            "plain",
            proxied("HTTP_PROXY", "http://metering.invalid"),
            "pending",
            "ProxyAuthenticationRequired",
            "requires a user and a password (asked for metering.invalid).",
        ),
        (
            "tunnel",
            proxied("HTTPS_PROXY", "https://metering.invalid"),
            "pending",
            "ProxyAuthenticationRequired",
            "requires a user and a password (asked for metering.invalid).",
        ),
    ]);
}

#[test]
fn a_clock_that_is_two_hours_off_is_the_cause_and_not_the_credentials() {
    let emulator = Emulator::start();
    let ahead = tollgate_clock::system_now().unix_seconds() + 2 * 3600;
    let refusal = r#"{"__type":"InvalidSignatureException","message":"Signature not yet current"}"#;
    let act = Act::Answer(format!(
        "HTTP/1.1 403 Forbidden\r\ndate: {}\r\ncontent-type: application/x-amz-json-1.1\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{refusal}",
        http_date(ahead),
        refusal.len()
    ));
    let mut command = emulator.sidecar("pod-clock");
    command.env("TOLLGATE_ENDPOINT_URL", format!("http://{}", serve(act)));
    let says = "The node's clock is 120 min behind AWS's.";
    hold(vec![("two hours", command, "misconfigured", "ClockSkew", says)]);
}

/// As `date` writes it: RFC 9110, section 5.6.7.
fn http_date(unix_seconds: i64) -> String {
    let mut date = Command::new("date");
    date.args(["-u", "-d", &format!("@{unix_seconds}"), "+%a, %d %b %Y %H:%M:%S GMT"]).env("LC_ALL", "C");
    String::from_utf8(date.output().unwrap().stdout).unwrap().trim().to_owned()
}

#[test]
fn a_wrong_region_is_said_by_aws_and_shown_with_its_remedy() {
    let emulator = Emulator::start();
    let mut command = emulator.sidecar("pod-region");
    command.env("AWS_REGION", "eu-west-1");
    let mut sidecar = crate::processes::Sidecar::start(command);
    sidecar.wait_for_code("misconfigured", "InvalidRegionException");
    let document = sidecar.document();
    assert_eq!(document["region"], "eu-west-1", "{document}");
    assert!(document["reason"]["remedy"].as_str().unwrap().contains("region"), "{document}");
    assert!(document["reason"]["message"].as_str().unwrap().ends_with("(asked in eu-west-1)."), "{document}");
}

/// The token file exists, and belongs to a group of which the container's user is no member.
#[test]
fn a_token_that_may_not_be_read_asks_for_fs_group() {
    let emulator = Emulator::start();
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "a.b.c").unwrap();
    let root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    let mut command = if root {
        // Root reads every file; without its capability it cannot read those of other users.
        std::os::unix::fs::chown(&token, Some(65532), Some(65532)).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", "-dac_override,-dac_read_search", PROGRAM, "run"]).env_clear();
        command.env("PATH", "/usr/bin:/bin");
        command
    } else {
        crate::processes::command(&["run"])
    };
    std::fs::set_permissions(&token, PermissionsExt::from_mode(if root { 0o600 } else { 0o000 })).unwrap();
    emulator.configure(&mut command, "pod-fsgroup");
    irsa(&mut command, &token, "http://sts.invalid");
    hold(vec![("fsGroup", command, "misconfigured", "WebIdentityTokenUnreadable", "cannot be read")]);
}

/// The host names that are resolved, for each switch of the AWS SDK.
#[test]
fn fips_and_dual_stack_switches_choose_the_metering_services_name() {
    let emulator = Emulator::start();
    for (variable, name) in [
        ("AWS_USE_FIPS_ENDPOINT", "metering.marketplace-fips.us-east-1.amazonaws.com"),
        ("AWS_USE_DUALSTACK_ENDPOINT", "metering-marketplace.us-east-1.api.aws"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut command = emulator.sidecar("pod-names");
        command
            .env_remove("TOLLGATE_ENDPOINT_URL")
            .env("HTTPS_PROXY", format!("http://{}", listener.local_addr().unwrap()))
            .env(variable, "true");
        let _sidecar = crate::processes::Sidecar::start(command);
        let (mut stream, _) = listener.accept().unwrap();
        let mut first = [0; 512];
        let read = stream.read(&mut first).unwrap();
        let first = String::from_utf8_lossy(&first[..read]).into_owned();
        assert!(first.starts_with(&format!("CONNECT {name}:443 ")), "{variable}: {first}");
        let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n");
    }
}

/// Earlier versions did not name the failed part, so the operator had to reproduce the fault.
#[test]
fn what_was_seen_stands_behind_the_message() {
    let emulator = Emulator::start();
    let page = Act::Answer(
        "HTTP/1.1 403 X\r\ncontent-type: text/html\r\nconnection: close\r\ncontent-length: 4\r\n\r\npage"
            .to_owned(),
    );
    let at = |url: String| {
        let mut command = emulator.sidecar("pod-seen");
        command.env("TOLLGATE_ENDPOINT_URL", url);
        command
    };
    let mut agent = crate::credentials::without_keys(&emulator, "pod-seen");
    let agents = |answering: Act| format!("http://{}/v1/credentials", serve(answering));
    agent.env("AWS_CONTAINER_CREDENTIALS_FULL_URI", agents(answer(404, "")));
    let mut refusing = crate::credentials::without_keys(&emulator, "pod-seen");
    refusing.env("AWS_CONTAINER_CREDENTIALS_FULL_URI", agents(answer(403, "")));
    let mut code = emulator.sidecar("pod-seen");
    code.env("TOLLGATE_PRODUCT_CODE", "nosuchproduct");
    let mut task = emulator.sidecar("pod-seen");
    task.env_remove("AWS_REGION")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("ECS_CONTAINER_METADATA_URI_V4", format!("http://{}/v4/1", serve(answer(500, ""))));
    hold(vec![
        (
            "a page",
            at(format!("http://{}", serve(page))),
            "pending",
            "InvalidAnswer",
            "(HTTP 403, text/html).",
        ),
        (
            "refused",
            at(format!("http://{}", refusing_addr())),
            "pending",
            "Connection",
            "failed (connection refused).",
        ),
        ("agent 404", agent, "pending", "InvalidAnswer", "(HTTP 404)."),
        (
            "agent 403",
            refusing,
            "misconfigured",
            "CredentialsRefused",
            "gives this task no credentials (HTTP 403).",
        ),
        ("product", code, "misconfigured", "InvalidProductCodeException", "(asked for nosuchproduct)."),
        ("task metadata", task, "pending", "InvalidAnswer", "metadata endpoint at 127.0.0.1"),
    ]);
}
