//! Sources of credentials: their faults are transient, their refusals are not. Each row has a small server in place
//! of STS, the ECS agent or IMDS, over real sockets.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

use crate::processes::{Emulator, Sidecar, refusing_addr};

/// What a server does with each connection.
#[derive(Clone)]
pub(crate) enum Act {
    /// Answers each request with this.
    Answer(String),
    /// Reads, and never answers.
    Silent,
    /// Sends an endless answer, as fast as it is read.
    Endless,
    /// Sends first, and not TLS.
    Greet,
    /// Accepts a tunnel, waits for data through it, sends this, and closes.
    Tunnel(&'static [u8]),
}

pub(crate) fn serve(act: Act) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, act) = (stream.unwrap(), act.clone());
            std::thread::spawn(move || {
                if matches!(act, Act::Greet) {
                    let _ = stream.write_all(b"SSH-2.0-server\r\n");
                    drop(stream.read_to_end(&mut Vec::new()));
                    return;
                }
                read_request(&mut stream);
                match act {
                    Act::Greet => {}
                    Act::Answer(text) => drop(stream.write_all(text.as_bytes())),
                    Act::Silent => drop(stream.read_to_end(&mut Vec::new())),
                    Act::Tunnel(says) => {
                        let _ = stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n");
                        let _ = stream.read(&mut [0; 4096]);
                        let _ = stream.write_all(says);
                    }
                    Act::Endless => {
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/xml\r\n\r\n[");
                        while stream.write_all(&[b'['; 65536]).is_ok() {}
                    }
                }
            });
        }
    });
    addr
}

/// Reads up to the end of the headers and ignores the rest.
pub(crate) fn read_request(stream: &mut TcpStream) {
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    while !seen.windows(4).any(|window| window == b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(read) => seen.extend_from_slice(&buffer[..read]),
        }
    }
}

pub(crate) fn answer(status: u16, body: &str) -> Act {
    Act::Answer(format!(
        "HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    ))
}

/// STS's wire form of an error (AWS STS API reference).
fn sts_error(status: u16, code: &str, message: &str) -> Act {
    answer(
        status,
        &format!(
            "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>\
             <Code>{code}</Code><Message>{message}</Message></Error><RequestId>1</RequestId></ErrorResponse>"
        ),
    )
}

pub(crate) fn without_keys(emulator: &Emulator, pod: &str) -> Command {
    let mut command = emulator.sidecar(pod);
    command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY").env("HOME", "/nonexistent");
    command
}

fn irsa(emulator: &Emulator, pod: &str, token: &Path, sts: &str) -> Command {
    let mut command = without_keys(emulator, pod);
    command
        .env("AWS_WEB_IDENTITY_TOKEN_FILE", token)
        .env("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/x")
        .env("AWS_ENDPOINT_URL_STS", sts);
    command
}

/// Waits for each row's line; all sidecars run at once, because some rows take seconds.
pub(crate) fn hold(rows: Vec<(&str, Command, &str, &str, &str)>) {
    let started: Vec<_> = rows
        .into_iter()
        .map(|(name, command, state, code, says)| (name, Sidecar::start(command), state, code, says))
        .collect();
    for (name, mut sidecar, state, code, says) in started {
        // IMDS must answer within a second: on a loaded machine a test double may be late, and is asked
        // again.
        let line = sidecar.read_until(|line| {
            line["event"] == "state"
                && line["code"].as_str().is_some_and(|said| said == code || said != "Timeout")
        });
        assert_eq!(
            (line["state"].as_str(), line["code"].as_str()),
            (Some(state), Some(code)),
            "{name}: {line}"
        );
        let document = sidecar.document();
        assert!(document["reason"]["message"].as_str().unwrap().contains(says), "{name}: {document}");
        let definite = ["RegionDisabledException", "InvalidProductCodeException"].contains(&code);
        let status = if definite { 403 } else { 503 };
        assert_eq!(sidecar.get("/entitlement").status, status, "{name}");
    }
}

#[test]
fn sts_refuses_or_fails_and_the_two_are_told_apart() {
    let emulator = Emulator::start();
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "a.b.c").unwrap();
    let rows = [
        (
            "MalformedPolicyDocument",
            sts_error(400, "MalformedPolicyDocument", ""),
            "misconfigured",
            "AssumeRoleRefused",
            "STS",
        ),
        (
            "PackedPolicyTooLarge",
            sts_error(400, "PackedPolicyTooLarge", ""),
            "misconfigured",
            "AssumeRoleRefused",
            "STS",
        ),
        (
            "IDPRejectedClaim",
            sts_error(403, "IDPRejectedClaim", ""),
            "misconfigured",
            "AssumeRoleRefused",
            "STS",
        ),
        (
            "InvalidIdentityToken",
            sts_error(400, "InvalidIdentityToken", "Incorrect token audience"),
            "misconfigured",
            "AssumeRoleRefused",
            "STS",
        ),
        (
            "AccessDenied",
            sts_error(403, "AccessDenied", "Not authorized"),
            "misconfigured",
            "AssumeRoleRefused",
            "refuses this pod the IAM role that AWS_ROLE_ARN names (AccessDenied).",
        ),
        (
            "RegionDisabledException",
            sts_error(403, "RegionDisabledException", ""),
            "misconfigured",
            "RegionDisabledException",
            "STS at 127.0.0.1",
        ),
        (
            "IDPCommunicationError",
            sts_error(400, "IDPCommunicationError", ""),
            "pending",
            "IDPCommunicationError",
            "OIDC",
        ),
        (
            "provider keys",
            sts_error(
                400,
                "InvalidIdentityToken",
                "Couldn't retrieve verification key from your identity provider",
            ),
            "pending",
            "IDPCommunicationError",
            "OIDC",
        ),
        (
            "ExpiredTokenException",
            sts_error(400, "ExpiredTokenException", ""),
            "pending",
            "WebIdentityTokenExpired",
            "expired",
        ),
        (
            "Throttling",
            sts_error(400, "Throttling", "Rate exceeded"),
            "pending",
            "Throttling",
            "STS at 127.0.0.1",
        ),
        (
            "InternalFailure",
            sts_error(500, "InternalFailure", ""),
            "pending",
            "InternalFailure",
            "STS at 127.0.0.1",
        ),
        ("a proxy's page", answer(403, "<html>no</html>"), "pending", "InvalidAnswer", "STS at 127.0.0.1"),
        ("502 without a body", answer(502, ""), "pending", "ServiceUnavailable", "STS at 127.0.0.1"),
        ("garbage", answer(200, "garbage"), "pending", "InvalidAnswer", "STS at 127.0.0.1"),
        (
            "an empty answer",
            answer(200, "<AssumeRoleWithWebIdentityResponse/>"),
            "pending",
            "InvalidAnswer",
            "STS at 127.0.0.1",
        ),
        ("endless", Act::Endless, "pending", "InvalidAnswer", "STS at 127.0.0.1"),
        ("slow", Act::Silent, "pending", "Timeout", "STS at 127.0.0.1"),
    ];
    let mut commands = Vec::new();
    for (name, act, state, code, says) in rows {
        let command = irsa(&emulator, "pod-sts", &token, &format!("http://{}", serve(act)));
        commands.push((name, command, state, code, says));
    }
    let away = irsa(&emulator, "pod-sts", &token, &format!("http://{}", refusing_addr()));
    commands.push(("refused", away, "pending", "Connection", "STS at 127.0.0.1"));
    let no_tls = irsa(&emulator, "pod-sts", &token, &format!("https://{}", serve(Act::Greet)));
    commands.push(("no TLS", no_tls, "pending", "InvalidAnswer", "STS at 127.0.0.1"));
    let no_name = irsa(&emulator, "pod-sts", &token, "http://sts.invalid");
    commands.push(("no name", no_name, "pending", "Dns", "STS at sts.invalid"));
    let mut proxied = irsa(&emulator, "pod-sts", &token, "http://sts.invalid");
    proxied.env("HTTP_PROXY", "http://user:secret@proxy.invalid:3128");
    commands.push(("no proxy", proxied, "pending", "Dns", "the proxy at proxy.invalid:3128"));
    let mut locked = irsa(&emulator, "pod-sts", &token, "http://sts.invalid");
    locked.env("HTTP_PROXY", format!("http://{}", serve(answer(407, ""))));
    commands.push(("407", locked, "pending", "ProxyAuthenticationRequired", "The proxy at 127.0.0.1"));
    let mut tunnel = irsa(&emulator, "pod-sts", &token, "https://sts.invalid");
    tunnel.env("HTTPS_PROXY", format!("http://{}", serve(answer(407, ""))));
    commands.push((
        "407 to a tunnel",
        tunnel,
        "pending",
        "ProxyAuthenticationRequired",
        "The proxy at 127.0.0.1",
    ));
    let mut portal = irsa(&emulator, "pod-sts", &token, "https://sts.invalid");
    portal.env("HTTPS_PROXY", format!("http://{}", serve(answer(200, "<html>log in</html>"))));
    commands.push(("a page for a tunnel", portal, "pending", "ProxyRefused", "The proxy at 127.0.0.1"));
    hold(commands);
}

#[test]
fn the_ecs_agent_that_fails_is_waited_for() {
    let emulator = Emulator::start();
    let command = |addr: SocketAddr| {
        let mut command = without_keys(&emulator, "task");
        command.env("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("http://{addr}/v2/credentials/1"));
        command
    };
    let agent = "agent that hands out the task's credentials at 127.0.0.1";
    let error = r#"{"code":"InternalServerError","message":"no"}"#;
    hold(vec![
        ("refused", command(refusing_addr()), "pending", "Connection", agent),
        ("404", command(serve(answer(404, error))), "pending", "InvalidAnswer", agent),
        ("500", command(serve(answer(500, error))), "pending", "ServiceUnavailable", agent),
        ("429", command(serve(answer(429, ""))), "pending", "ThrottlingException", agent),
        ("garbage", command(serve(answer(200, "garbage"))), "pending", "InvalidAnswer", agent),
        (
            "wrong type",
            command(serve(answer(200, r#"{"AccessKeyId":[1]}"#))),
            "pending",
            "InvalidAnswer",
            agent,
        ),
        ("deep", command(serve(answer(200, &"[".repeat(500_000)))), "pending", "InvalidAnswer", agent),
        ("endless", command(serve(Act::Endless)), "pending", "InvalidAnswer", agent),
        ("slow", command(serve(Act::Silent)), "pending", "Timeout", agent),
        (
            "403",
            command(serve(answer(403, error))),
            "misconfigured",
            "CredentialsRefused",
            "gent that hands out",
        ),
    ]);
}

#[test]
fn imds_counts_where_it_is_there() {
    let emulator = Emulator::start();
    let command = |addr: SocketAddr| {
        let mut command = without_keys(&emulator, "instance");
        command
            .env_remove("AWS_EC2_METADATA_DISABLED")
            .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", format!("http://{addr}/"));
        command
    };
    let imds = "instance metadata service (IMDS) at 127.0.0.1";
    hold(vec![
        (
            "refused: no instance",
            command(refusing_addr()),
            "misconfigured",
            "CredentialsMissing",
            "no AWS credentials",
        ),
        (
            "404: no role",
            command(serve(answer(404, ""))),
            "misconfigured",
            "CredentialsMissing",
            "no AWS credentials",
        ),
        ("hop limit", command(serve(Act::Silent)), "pending", "Timeout", imds),
        ("500", command(serve(answer(500, ""))), "pending", "ServiceUnavailable", imds),
        ("garbage", command(serve(answer(200, "garbage"))), "pending", "InvalidAnswer", imds),
        ("endless", command(serve(Act::Endless)), "pending", "InvalidAnswer", imds),
    ]);
}

/// An earlier version reported each as "there are no AWS credentials in this pod", or as a source
/// that does not answer.
#[test]
fn what_was_meant_to_give_credentials_is_named_where_nothing_does() {
    let emulator = Emulator::start();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    assert!(Command::new("mkfifo").arg(file("pipe")).status().unwrap().success());
    std::fs::create_dir(file("folder")).unwrap();
    std::fs::write(file("empty"), "").unwrap();
    std::fs::write(file("token"), "a.b.c").unwrap();
    std::fs::write(file("config"), "[bare]\nregion = us-east-1\n").unwrap();
    let role = ("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/x".to_owned());
    let token = |name: &str| ("AWS_WEB_IDENTITY_TOKEN_FILE", file(name));
    let agent = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("http://{}/v1/credentials", refusing_addr()));
    let agents = |name: &str| ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", file(name));
    let (incomplete, invalid) = ("CredentialsIncomplete", "CredentialsFileInvalid");
    let rows = vec![
        (vec![role.clone()], incomplete, "AWS_ROLE_ARN is set without AWS_WEB_IDENTITY_TOKEN_FILE"),
        (vec![token("token")], incomplete, "AWS_WEB_IDENTITY_TOKEN_FILE is set without AWS_ROLE_ARN"),
        (vec![("AWS_ACCESS_KEY_ID", "AKIA".to_owned())], incomplete, "without AWS_SECRET_ACCESS_KEY"),
        (vec![agents("token")], incomplete, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE is set without"),
        (
            vec![("AWS_PROFILE", "bare".to_owned()), ("AWS_CONFIG_FILE", file("config"))],
            incomplete,
            "AWS_PROFILE names \"bare\", a profile that is not in",
        ),
        (
            vec![("AWS_CONFIG_FILE", file("nowhere"))],
            incomplete,
            "nowhere, which is ignored (does not exist)",
        ),
        (vec![role.clone(), token("pipe")], invalid, "gives no token (is not a regular file"),
        (vec![role.clone(), token("folder")], invalid, "gives no token (is a folder"),
        (vec![role.clone(), token("empty")], invalid, "gives no token (is empty)"),
        (
            vec![role, token("nowhere")],
            "WebIdentityTokenMissing",
            "nowhere, which gives no token (does not exist)",
        ),
        (vec![agent.clone(), agents("pipe")], invalid, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE names"),
        (vec![agent.clone(), agents("empty")], invalid, "gives no token (is empty)"),
        (vec![agent, agents("nowhere")], invalid, "gives no token (does not exist)"),
        // Kubernetes templates leave variables empty; the SDK would stop at them.
        (
            vec![("AWS_PROFILE", String::new()), ("AWS_CONTAINER_CREDENTIALS_FULL_URI", String::new())],
            "CredentialsMissing",
            "no AWS credentials",
        ),
    ];
    let mut commands = Vec::new();
    for (variables, code, says) in rows {
        let mut command = without_keys(&emulator, "pod-half");
        command.envs(variables);
        commands.push((says, command, "misconfigured", code, says));
    }
    hold(commands);
}

/// In an earlier version a file that the SDK does not open kept the gate shut.
#[test]
fn a_token_file_that_is_not_read_keeps_no_credentials_away() {
    let emulator = Emulator::start();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    assert!(Command::new("mkfifo").arg(file("pipe")).status().unwrap().success());
    let keys = "[default]\naws_access_key_id = pod-profile\naws_secret_access_key = any\n";
    std::fs::write(file("credentials"), keys).unwrap();
    let mut environment = emulator.sidecar("pod-keys");
    environment
        .env("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/x")
        .env("AWS_WEB_IDENTITY_TOKEN_FILE", file("pipe"));
    let mut profile = without_keys(&emulator, "pod-profile");
    profile
        .env("AWS_SHARED_CREDENTIALS_FILE", file("credentials"))
        .env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", file("pipe"));
    for command in [environment, profile] {
        Sidecar::start(command).wait_for("entitled");
    }
}

/// An earlier version deleted the kept receipt and ended grace after a fault of STS, so that the gate stayed shut when
/// AWS was later unreachable.
#[test]
fn a_fault_of_sts_leaves_the_kept_receipt_and_grace_alone_and_a_refusal_does_not() {
    let emulator = Emulator::start();
    let state = tempfile::tempdir().unwrap();
    let token = state.path().join("token");
    std::fs::write(&token, "a.b.c").unwrap();
    let mut first = emulator.sidecar("pod-kept");
    first.env("TOLLGATE_STATE_DIR", state.path());
    Sidecar::start(first).wait_for("entitled");
    let again = |act: Act| {
        let mut command = irsa(&emulator, "pod-kept", &token, &format!("http://{}", serve(act)));
        command.env("TOLLGATE_STATE_DIR", state.path());
        Sidecar::start(command)
    };
    for (act, code) in [
        (sts_error(400, "IDPCommunicationError", ""), "IDPCommunicationError"),
        (sts_error(400, "ExpiredTokenException", ""), "WebIdentityTokenExpired"),
        (answer(503, ""), "ServiceUnavailable"),
    ] {
        again(act).wait_for_code("entitled", code);
    }
    again(sts_error(403, "AccessDenied", "")).wait_for_code("misconfigured", "AssumeRoleRefused");
    again(answer(503, "")).wait_for_code("pending", "ServiceUnavailable");
}

/// FIPS and dual-stack also apply to STS, as the resolved name shows.
#[test]
fn fips_and_dual_stack_switches_reach_sts() {
    let emulator = Emulator::start();
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "a.b.c").unwrap();
    for (variable, name) in [
        ("AWS_USE_FIPS_ENDPOINT", "sts-fips.us-east-1.amazonaws.com"),
        ("AWS_USE_DUALSTACK_ENDPOINT", "sts.us-east-1.api.aws"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut command = irsa(&emulator, "pod-fips", &token, "");
        command
            .env_remove("AWS_ENDPOINT_URL_STS")
            // The emulator replaces only metering, because this test is about AWS's own STS.
            .env_remove("TOLLGATE_ENDPOINT_URL")
            .env("AWS_ENDPOINT_URL_MARKETPLACE_METERING", emulator.endpoint())
            .env("HTTPS_PROXY", format!("http://{}", listener.local_addr().unwrap()))
            .env(variable, "true");
        let _sidecar = Sidecar::start(command);
        let (mut stream, _) = listener.accept().unwrap();
        let mut first = [0; 512];
        let read = stream.read(&mut first).unwrap();
        let first = String::from_utf8_lossy(&first[..read]).into_owned();
        assert!(first.starts_with(&format!("CONNECT {name}:443 ")), "{variable}: {first}");
    }
}
