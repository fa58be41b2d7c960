//! Every refusal, and every wrong or missing answer: the state, the HTTP status and the exit code that follow.

use std::process::Command;

use crate::processes::{Emulator, Sidecar, refusing_addr};

/// Exception, state, status of `/entitlement`, exit code if `on_denied` is `exit`.
const REFUSALS: [(&str, &str, u16, i32); 6] = [
    ("CustomerNotEntitledException", "denied", 403, 77),
    ("InvalidProductCodeException", "misconfigured", 403, 78),
    ("InvalidPublicKeyVersionException", "misconfigured", 403, 78),
    ("InvalidRegionException", "misconfigured", 403, 78),
    ("PlatformNotSupportedException", "misconfigured", 403, 78),
    ("DisabledApiException", "misconfigured", 403, 78),
];

fn scripted(emulator: &Emulator, pod: &str, exception: &str) {
    let rule = format!(r#"{{"pod":"{pod}","fault":"exception","exception":"{exception}"}}"#);
    emulator.admin("/_emulator/faults", &rule);
}

#[test]
fn each_refusal_has_its_state_its_status_and_its_remedy() {
    let emulator = Emulator::start();
    for (exception, state, status, _) in REFUSALS {
        scripted(&emulator, exception, exception);
        let mut sidecar = Sidecar::start(emulator.sidecar(exception));
        sidecar.wait_for_code(state, exception);
        let answer = sidecar.get("/entitlement");
        let document = answer.json();
        assert_eq!((answer.status, document["state"].as_str()), (status, Some(state)), "{document}");
        assert_eq!(document["reason"]["code"], exception);
        assert!(!document["reason"]["remedy"].as_str().unwrap().is_empty());
        assert!(document["next_attempt_at"].is_string(), "retries continue: {document}");
        assert_eq!((sidecar.get("/readyz").status, sidecar.get("/livez").status), (503, 200));
    }
}

#[test]
fn each_refusal_has_its_exit_code_and_its_last_line() {
    let emulator = Emulator::start();
    for (exception, state, _, code) in REFUSALS {
        scripted(&emulator, exception, exception);
        let mut command = emulator.sidecar(exception);
        command.env("TOLLGATE_ON_DENIED", "exit");
        let (status, last) = Sidecar::start(command).end();
        assert_eq!(status.code(), Some(code), "{exception}: {last}");
        assert!(last.contains(&format!("{state}: {exception}: ")), "{last}");
    }
}

#[test]
fn what_only_time_can_mend_is_asked_again_until_the_gate_opens() {
    let emulator = Emulator::start();
    let faults = [
        r#""fault":"throttle""#,
        r#""fault":"exception","exception":"InternalServiceErrorException""#,
        r#""fault":"http","status":503"#,
        r#""fault":"http","status":403"#,
        r#""fault":"reset-before""#,
        r#""fault":"reset-after""#,
        r#""fault":"truncate""#,
        r#""fault":"invalid-json""#,
        r#""fault":"no-signature""#,
    ];
    // All run at once, because each waits for its own second attempt.
    let mut sidecars = Vec::new();
    for (index, fault) in faults.into_iter().enumerate() {
        let pod = format!("pod-transient-{index}");
        emulator.admin("/_emulator/faults", &format!(r#"{{"pod":"{pod}",{fault},"count":1}}"#));
        sidecars.push((fault, Sidecar::start(emulator.sidecar(&pod))));
    }
    for (fault, sidecar) in &mut sidecars {
        let line = sidecar.read_until(|line| line["state"] == "pending" && line["code"].is_string());
        assert_eq!(line["gate"], "shut", "{fault}: {line}");
        sidecar.wait_for("entitled");
        assert_eq!(sidecar.document()["attempts"], 2, "{fault}");
    }
}

#[test]
fn a_token_that_is_not_the_answer_opens_nothing() {
    let emulator = Emulator::start();
    for (flaw, code) in [
        ("wrong-nonce", "NonceMismatch"),
        ("missing-nonce", "ClaimMissing"),
        ("wrong-product-code", "ProductCodeMismatch"),
        ("wrong-key-version", "PublicKeyVersionMismatch"),
        ("wrong-signature", "SignatureInvalid"),
        ("alg-none", "TokenMalformed"),
        ("alg-rs256", "AlgorithmNotAllowed"),
        ("expired", "TokenExpired"),
        ("garbage", "TokenMalformed"),
        ("empty", "TokenMalformed"),
    ] {
        emulator
            .admin("/_emulator/faults", &format!(r#"{{"pod":"{flaw}","fault":"token","token":"{flaw}"}}"#));
        let mut sidecar = Sidecar::start(emulator.sidecar(flaw));
        sidecar.wait_for_code("unverified", code);
        let answer = sidecar.get("/entitlement");
        assert_eq!((answer.status, answer.json()["gate"].as_str()), (403, Some("shut")), "{flaw}");
        let metrics = sidecar.get("/metrics").body;
        let series = format!("tollgate_token_verification_failures_total{{reason=\"{code}\"}} ");
        assert!(metrics.contains(&series), "{flaw}: {metrics}");

        let mut command = emulator.sidecar(flaw);
        command.env("TOLLGATE_ON_DENIED", "exit");
        let (status, last) = Sidecar::start(command).end();
        assert_eq!(status.code(), Some(76), "{flaw}: {last}");
    }
}

#[test]
fn the_emulators_own_token_opens_nothing_where_it_is_not_allowed() {
    let emulator = Emulator::start();
    let mut command = emulator.sidecar("pod-strict");
    command.env("TOLLGATE_ALLOW_EMULATED", "false");
    let mut sidecar = Sidecar::start(command);
    sidecar.wait_for_code("unverified", "EmulatedToken");
    assert_eq!(sidecar.document()["emulated"], true);
}

#[test]
fn an_unsubscribed_account_is_denied_and_a_later_success_is_counted() {
    let emulator = Emulator::start();
    emulator.admin("/_emulator/pods", r#"{"access_key":"pod-unsubscribed","account_id":"444455556666"}"#);
    let mut sidecar = Sidecar::start(emulator.sidecar("pod-unsubscribed"));
    sidecar.wait_for_code("denied", "CustomerNotEntitledException");
    let body = sidecar.get("/entitlement").body;
    assert!(!body.contains("444455556666"), "no account leaks: {body}");
}

#[test]
fn the_role_and_the_credentials_are_named_when_they_are_what_is_wrong() {
    let emulator = Emulator::start();
    emulator.admin("/_emulator/pods", r#"{"access_key":"pod-role","allowed":false}"#);
    let mut sidecar = Sidecar::start(emulator.sidecar("pod-role"));
    sidecar.wait_for_code("misconfigured", "AccessDeniedException");
    let answer = sidecar.get("/entitlement");
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("aws-marketplace:RegisterUsage"), "{}", answer.body);
    assert!(!answer.body.contains("111122223333"), "no account leaks: {}", answer.body);

    let without = |command: &mut Command| {
        command
            .env_remove("AWS_ACCESS_KEY_ID")
            .env_remove("AWS_SECRET_ACCESS_KEY")
            .env("HOME", "/nonexistent");
    };
    let mut command = emulator.sidecar("pod-none");
    without(&mut command);
    Sidecar::start(command).wait_for_code("misconfigured", "CredentialsMissing");

    let mut command = emulator.sidecar("pod-fsgroup");
    without(&mut command);
    command
        .env("AWS_WEB_IDENTITY_TOKEN_FILE", "/nonexistent/token")
        .env("AWS_ROLE_ARN", "arn:aws:iam::1:role/x");
    let line = Sidecar::start(command).wait_for_code("misconfigured", "WebIdentityTokenMissing");
    assert!(line["remedy"].as_str().unwrap().contains("Recreate the pod"), "{line}");
}

#[test]
fn without_any_region_the_state_says_where_it_was_looked_for() {
    let emulator = Emulator::start();
    let mut command = emulator.sidecar("pod-nowhere");
    command.env_remove("AWS_REGION");
    let line = Sidecar::start(command).wait_for_code("misconfigured", "RegionUnknown");
    assert!(line["remedy"].as_str().unwrap().contains("AWS_REGION"), "{line}");
}

#[test]
fn an_endpoint_that_is_not_there_is_pending_and_then_unavailable() {
    let emulator = Emulator::start();
    let mut command = emulator.sidecar("pod-away");
    command
        .env("TOLLGATE_ENDPOINT_URL", format!("http://{}", refusing_addr()))
        .env("TOLLGATE_UNAVAILABLE_AFTER", "1s");
    let mut sidecar = Sidecar::start(command);
    sidecar.wait_for_code("pending", "Connection");
    sidecar.wait_for("unavailable");
    let answer = sidecar.get("/entitlement");
    assert_eq!(answer.status, 503);
    assert!(answer.json()["next_attempt_at"].is_string());
}
