//! The main job: register, verify, open; and the probe server's answers meanwhile.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use crate::processes::{Emulator, Sidecar, get_local, http, post, request};

#[test]
fn the_gate_opens_on_a_verified_signature() {
    let emulator = Emulator::start();
    let mut sidecar = Sidecar::start(emulator.sidecar("pod-story"));
    sidecar.wait_for("entitled");
    let document = sidecar.document();
    for (member, value) in [
        ("state", "entitled"),
        ("gate", "open"),
        ("proof", "signature"),
        ("mode", "hourly"),
        ("product_code", "demohourly"),
        ("region", "us-east-1"),
    ] {
        assert_eq!(document[member], value, "{document}");
    }
    assert_eq!((&document["attempts"], &document["emulated"]), (&1.into(), &true.into()));
    assert!(document["reason"].is_null() && document["next_attempt_at"].is_null());
    for path in ["/livez", "/startupz", "/readyz", "/entitlement"] {
        assert_eq!(sidecar.get(path).status, 200, "{path}");
    }
    // The emulator saw one call, with a nonce of 32 bytes in base64url.
    let calls = emulator.calls();
    let nonce = calls["calls"][0]["request"]["Nonce"].as_str().unwrap();
    assert_eq!((calls["total"].as_u64(), nonce.len()), (Some(1), 43));
}

#[test]
fn every_attempt_has_a_nonce_of_its_own() {
    let emulator = Emulator::start();
    emulator.admin("/_emulator/faults", r#"{"fault":"throttle","count":1}"#);
    let mut sidecar = Sidecar::start(emulator.sidecar("pod-nonce"));
    sidecar.wait_for("entitled");
    let calls = emulator.calls();
    assert_eq!(calls["total"], 2);
    assert_ne!(calls["calls"][0]["request"]["Nonce"], calls["calls"][1]["request"]["Nonce"]);
}

#[test]
fn probes_answer_while_registration_hangs() {
    let emulator = Emulator::start();
    emulator.admin("/_emulator/faults", r#"{"fault":"hang"}"#);
    let sidecar = Sidecar::start(emulator.sidecar("pod-hang"));
    for _ in 0..50 {
        assert_eq!(sidecar.get("/livez").status, 200);
        let answer = sidecar.get("/readyz");
        assert_eq!((answer.status, answer.json()["state"].as_str()), (503, Some("pending")));
        assert!(
            answer.header("retry-after").is_some_and(|seconds| seconds.parse::<u64>().is_ok_and(|s| s >= 1))
        );
    }
}

#[test]
fn the_probe_server_speaks_http_as_it_should() {
    let emulator = Emulator::start();
    let mut sidecar = Sidecar::start(emulator.sidecar("pod-http"));
    sidecar.wait_for("entitled");
    let head = http(sidecar.addr, "HEAD", "/readyz", "");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert!(head.header("content-length").is_some_and(|length| length != "0"));
    assert_eq!(head.header("cache-control"), Some("no-store"));
    let post = http(sidecar.addr, "POST", "/readyz", "x");
    assert_eq!((post.status, post.header("allow")), (405, Some("GET, HEAD")));
    assert_eq!(sidecar.get("/nothing").status, 404);
    let accept = "GET /metrics HTTP/1.1\r\nhost: x\r\naccept: application/openmetrics-text;version=1.0.0\r\n";
    for (metrics, content_type, is_open) in [
        (request(sidecar.addr, accept, ""), "application/openmetrics-text", true),
        (sidecar.get("/metrics"), "text/plain; version=0.0.4", false),
    ] {
        assert!(metrics.header("content-type").is_some_and(|text| text.starts_with(content_type)));
        assert!(metrics.body.contains("tollgate_gate_open 1"), "{}", metrics.body);
        assert_eq!(metrics.body.ends_with("# EOF\n"), is_open);
    }
}

#[test]
fn too_large_headers_are_refused_and_nobody_else_notices() {
    let emulator = Emulator::start();
    let sidecar = Sidecar::start(emulator.sidecar("pod-headers"));
    let mut stream = TcpStream::connect(sidecar.addr).unwrap();
    let flood = format!("GET /readyz HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(64 * 1024));
    // The server may close before it has read everything. Then the write fails, which is allowed.
    let _ = stream.write_all(flood.as_bytes());
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert_eq!(sidecar.get("/livez").status, 200);
}

#[test]
fn it_listens_on_ipv4_and_ipv6_at_once() {
    let emulator = Emulator::start();
    let mut command = emulator.sidecar("pod-dual");
    command.env("TOLLGATE_PROBE_ADDR", "[::]:0");
    let sidecar = Sidecar::start(command);
    let port = sidecar.addr.port();
    assert_eq!(http(format!("127.0.0.1:{port}").parse().unwrap(), "GET", "/livez", "").status, 200);
    // On a machine without IPv6 there is no [::1], and `bind` used 0.0.0.0.
    if sidecar.addr.is_ipv6() {
        assert_eq!(http(format!("[::1]:{port}").parse().unwrap(), "GET", "/livez", "").status, 200);
    }
}

#[test]
fn the_region_is_found_in_the_ecs_task_metadata() {
    let emulator = Emulator::start();
    let metadata = TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("http://{}/v4/task-id", metadata.local_addr().unwrap());
    let (tell, asked) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // It is asked for the region. The pod's identity is configured, so it is not asked for that. After a late
        // answer it is asked again.
        for stream in metadata.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 1024];
            let n = stream.read(&mut request).unwrap_or(0);
            let body = r#"{"TaskARN":"arn:aws:ecs:us-east-1:111122223333:task/demo/1"}"#;
            let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            let _ = tell.send(String::from_utf8_lossy(&request[..n]).into_owned());
        }
    });
    let mut command = emulator.sidecar("pod-ecs");
    command.env_remove("AWS_REGION").env("ECS_CONTAINER_METADATA_URI_V4", uri);
    let mut sidecar = Sidecar::start(command);
    sidecar.wait_for("entitled");
    assert_eq!(sidecar.document()["region"], "us-east-1");
    assert!(asked.recv().unwrap().starts_with("GET /v4/task-id/task "));
}

#[test]
fn a_rotated_key_is_shown_and_an_unknown_version_falls_back_once() {
    let folder = tempfile::tempdir().unwrap();
    let emulator = Emulator::start_in(&folder.path().join("state"), &[]);
    // The seller's keys are the version that AWS knows, and one that AWS does not know yet.
    let keys = folder.path().join("keys");
    std::fs::create_dir(&keys).unwrap();
    std::fs::copy(emulator.public_keys.join("1.pem"), keys.join("1.pem")).unwrap();
    let unknown = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/keys/rsa3072-test-only.pub.pem");
    std::fs::copy(unknown, keys.join("2.pem")).unwrap();
    let start = |pod: &str| {
        let mut command = emulator.sidecar(pod);
        command.env("TOLLGATE_PUBLIC_KEYS", &keys);
        let mut sidecar = Sidecar::start(command);
        sidecar.wait_for("entitled");
        let warned = sidecar.seen.concat().contains("AWS has rotated the public key version in use");
        let document = sidecar.document();
        assert_eq!(warned, document["public_key_rotation_timestamp"].is_string(), "{document}");
        let current =
            sidecar.get("/metrics").body.contains("tollgate_public_key_rotation_timestamp_seconds 0\n");
        assert_eq!(warned, !current, "{document}");
        document
    };
    let fallen_back = start("pod-fallback");
    assert_eq!((&fallen_back["public_key_version"], &fallen_back["attempts"]), (&1.into(), &2.into()));
    // AWS rotates the key: version 2 appears, version 1 gets an end.
    emulator.admin("/_emulator/products", r#"{"product_code":"demohourly","rotate":true}"#);
    std::fs::copy(emulator.public_keys.join("2.pem"), keys.join("2.pem")).unwrap();
    let rotated = start("pod-rotated");
    assert_eq!((&rotated["public_key_version"], &rotated["attempts"]), (&2.into(), &1.into()));
    std::fs::remove_file(keys.join("2.pem")).unwrap();
    let old = start("pod-old");
    assert_eq!(old["public_key_version"], 1);
    assert!(old["public_key_rotation_timestamp"].is_string(), "{old}");
}

#[test]
fn the_application_is_given_the_token_and_its_nonce_and_the_probe_server_shows_neither() {
    let emulator = Emulator::start();
    let mut sidecar = Sidecar::start(emulator.sidecar("pod-token"));
    sidecar.wait_for("entitled");
    let app = sidecar.app_addr.unwrap();
    let document = get_local(app, "/v1/entitlement").json();
    let token = document["token"].as_str().unwrap();
    assert_eq!(token.split('.').count(), 3);
    assert_eq!(document["nonce"].as_str().unwrap().len(), 43);
    assert_eq!(sidecar.document()["token"], serde_json::Value::Null, "the probe server shows none");
    assert_eq!(post(app, "/v1/usage", "{}").json()["code"], "NoUsage");
}

#[test]
fn an_attestation_answers_the_applications_own_nonce() {
    let emulator = Emulator::start();
    let mut sidecar = Sidecar::start(emulator.sidecar("pod-attest"));
    sidecar.wait_for("entitled");
    let app = sidecar.app_addr.unwrap();
    let attest = |nonce: &str| post(app, "/v1/attestations", &format!(r#"{{"nonce":"{nonce}"}}"#));
    let answer = attest("chosen-by-the-application");
    assert_eq!(answer.status, 200, "{answer:?}");
    let token = answer.json()["token"].as_str().unwrap().to_owned();
    let key = emulator.public_keys.join("1.pem");
    let mut verify =
        crate::processes::command(&["verify", "--product-code", "demohourly", "--public-key-version", "1"]);
    let output = verify
        .args(["--nonce", "chosen-by-the-application", "--public-key"])
        .arg(&key)
        .arg(&token)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    for bad in ["short", "with\\nline feed in it", ""] {
        assert_eq!(attest(bad).status, 400, "{bad}");
    }
    assert_eq!(attest("another-nonce-of-16").status, 200);
    assert_eq!(attest("a-third-nonce-of-16").status, 200);
    let refused = attest("a-fourth-nonce-of-16");
    assert_eq!((refused.status, refused.json()["code"].as_str()), (429, Some("TooManyAttestations")));
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=61).contains(&seconds), "{seconds}");
    let calls = emulator.calls();
    assert_eq!(calls["total"], 4, "the gate's own, and three");
}

#[test]
fn the_same_nonce_in_flight_is_one_call_and_a_lying_service_attests_nothing() {
    let emulator = Emulator::start();
    let mut sidecar = Sidecar::start(emulator.sidecar("pod-attest-2"));
    sidecar.wait_for("entitled");
    let app = sidecar.app_addr.unwrap();
    // Long enough for four clients on a busy machine.
    emulator.admin("/_emulator/faults", r#"{"fault":"delay","delay":"3s","count":1}"#);
    let body = r#"{"nonce":"asked-by-four-at-once"}"#;
    let askers: Vec<_> =
        (0..4).map(|_| std::thread::spawn(move || post(app, "/v1/attestations", body))).collect();
    let tokens: Vec<_> =
        askers.into_iter().map(|asker| asker.join().unwrap().json()["token"].clone()).collect();
    assert!(tokens[0].is_string() && tokens.iter().all(|token| *token == tokens[0]), "{tokens:?}");
    assert_eq!(emulator.calls()["total"], 2);
    emulator.admin("/_emulator/faults", r#"{"fault":"token","token":"wrong-nonce"}"#);
    let answer = post(app, "/v1/attestations", r#"{"nonce":"answered-with-a-lie"}"#);
    assert_eq!((answer.status, answer.json()["code"].as_str()), (403, Some("NonceMismatch")), "{answer:?}");
}
