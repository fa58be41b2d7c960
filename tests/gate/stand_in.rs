//! The emulator in place of all of AWS: with only `endpoint_url` set, the sidecar gets its role from the
//! emulator's STS or ECS agent, and the reason names each of their faults correctly.

use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::credentials::{hold, without_keys};
use crate::processes::{Emulator, Sidecar, configure_metered, post};

const ROLE: &str = "arn:aws:iam::111122223333:role/shop/app";

/// A projected token as a cluster makes it; without the cluster's keys the emulator does not check its
/// signature.
fn token(pod: &str) -> String {
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({
        "iss": "https://kubernetes.default.svc",
        "aud": ["sts.amazonaws.com"],
        "sub": "system:serviceaccount:shop:app",
        "kubernetes.io": {"pod": {"name": pod, "uid": "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"}},
    });
    format!("{}.{}.{}", part(json!({"alg": "RS256"})), part(claims), URL_SAFE_NO_PAD.encode("signature"))
}

/// A pod with IRSA; no setting names STS.
fn irsa(emulator: &Emulator, folder: &Path, pod: &str) -> Command {
    let file = folder.join(pod);
    std::fs::write(&file, token(pod)).unwrap();
    let mut command = without_keys(emulator, pod);
    command.env("AWS_ROLE_ARN", ROLE).env("AWS_WEB_IDENTITY_TOKEN_FILE", file);
    command
}

fn task(emulator: &Emulator, task: &str) -> Command {
    let mut command = without_keys(emulator, task);
    command
        .env_remove("AWS_REGION")
        .env("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", format!("/v2/credentials/{task}"))
        .env("ECS_CONTAINER_METADATA_URI_V4", format!("{}/v4/{task}", emulator.endpoint()));
    command
}

/// The calls of one pod: operation and outcome.
fn calls(emulator: &Emulator, pod: &str) -> Vec<Value> {
    let calls = emulator.calls();
    calls["calls"].as_array().unwrap().iter().filter(|call| call["pod"] == pod).cloned().collect()
}

#[test]
fn a_pod_with_a_role_and_a_token_opens_by_the_emulators_sts() {
    let emulator = Emulator::start();
    let folder = tempfile::tempdir().unwrap();
    let mut sidecar = Sidecar::start(irsa(&emulator, folder.path(), "app-0"));
    sidecar.wait_for("entitled");
    let calls = calls(&emulator, "app-0.0a1b2c3d");
    let told = |index: usize, name: &str| calls[index][name].as_str().unwrap_or_default().to_owned();
    for (index, operation) in ["AssumeRoleWithWebIdentity", "RegisterUsage"].into_iter().enumerate() {
        assert_eq!(
            (told(index, "operation"), told(index, "outcome")),
            (operation.to_owned(), "ok".to_owned())
        );
        assert_eq!(
            (told(index, "account_id"), told(index, "role")),
            ("111122223333".to_owned(), ROLE.to_owned())
        );
    }
    // The noted calls contain no usable credentials.
    let noted = calls[0].to_string();
    assert!(!noted.contains(&URL_SAFE_NO_PAD.encode("signature")), "{noted}");
    assert!(noted.contains("<SecretAccessKey>…<") && noted.contains("<SessionToken>…<"), "{noted}");
}

#[test]
fn a_task_finds_region_and_role_by_the_emulators_ecs_agent() {
    let emulator = Emulator::start();
    let mut sidecar = Sidecar::start(task(&emulator, "task-1"));
    sidecar.wait_for("entitled");
    let calls = calls(&emulator, "task-1");
    let operations: Vec<&str> = calls.iter().filter_map(|call| call["operation"].as_str()).collect();
    assert!(operations.starts_with(&["TaskMetadata"]), "{operations:?}");
    assert!(operations.ends_with(&["ContainerCredentials", "RegisterUsage"]), "{operations:?}");
    let role = calls.last().unwrap()["role"].as_str().unwrap();
    assert_eq!(role, "arn:aws:iam::111122223333:role/emulated-task");
}

#[test]
fn a_buyers_account_is_the_one_of_the_role() {
    let emulator = Emulator::start();
    let folder = tempfile::tempdir().unwrap();
    let mut command = irsa(&emulator, folder.path(), "app-1");
    // A role of an account that is not subscribed.
    command.env("AWS_ROLE_ARN", "arn:aws:iam::444455556666:role/app");
    Sidecar::start(command).wait_for_code("denied", "CustomerNotEntitledException");
}

/// The faults that `credentials.rs` tests with small servers, made by the emulator.
#[test]
fn every_fault_of_the_emulators_sts_is_told_as_what_it_is() {
    let emulator = Emulator::start();
    let folder = tempfile::tempdir().unwrap();
    let refused = ("misconfigured", "AssumeRoleRefused", "STS");
    let mut commands = Vec::new();
    for (index, (rule, (state, code, says))) in [
        (json!({"fault": "exception", "exception": "IDPRejectedClaim"}), refused),
        (json!({"fault": "exception", "exception": "InvalidIdentityToken"}), refused),
        (json!({"fault": "exception", "exception": "MalformedPolicyDocument"}), refused),
        (json!({"fault": "exception", "exception": "PackedPolicyTooLarge"}), refused),
        (json!({"fault": "exception", "exception": "AccessDenied"}), refused),
        (
            json!({"fault": "exception", "exception": "RegionDisabledException"}),
            ("misconfigured", "RegionDisabledException", "STS"),
        ),
        (
            json!({"fault": "exception", "exception": "IDPCommunicationError"}),
            ("pending", "IDPCommunicationError", "OIDC"),
        ),
        (
            json!({"fault": "exception", "exception": "ExpiredTokenException"}),
            ("pending", "WebIdentityTokenExpired", "expired"),
        ),
        (json!({"fault": "throttle"}), ("pending", "Throttling", "STS at 127.0.0.1")),
        (
            json!({"fault": "exception", "exception": "InternalFailure"}),
            ("pending", "InternalFailure", "STS at 127.0.0.1"),
        ),
        (json!({"fault": "http", "status": 502}), ("pending", "ServiceUnavailable", "STS at 127.0.0.1")),
        (json!({"fault": "invalid-json"}), ("pending", "InvalidAnswer", "STS at 127.0.0.1")),
        (json!({"fault": "truncate"}), ("pending", "Connection", "STS at 127.0.0.1")),
        (json!({"fault": "reset-before"}), ("pending", "Connection", "STS at 127.0.0.1")),
        (json!({"fault": "hang"}), ("pending", "Timeout", "STS at 127.0.0.1")),
    ]
    .into_iter()
    .enumerate()
    {
        let pod = format!("app-{index}");
        let mut rule = rule;
        rule["operation"] = json!("AssumeRoleWithWebIdentity");
        rule["pod"] = json!(format!("{pod}.0a1b2c3d"));
        emulator.admin("/_emulator/faults", &rule.to_string());
        commands.push((code, irsa(&emulator, folder.path(), &pod), state, code, says));
    }
    hold(commands);
}

/// In an earlier version the log line named STS while the code was the same, although the metering service had
/// failed by then.
#[test]
fn the_same_code_of_another_host_is_a_line_of_its_own() {
    let emulator = Emulator::start();
    let folder = tempfile::tempdir().unwrap();
    for (operation, pod, count) in
        [("AssumeRoleWithWebIdentity", "app-0.0a1b2c3d", 1), ("RegisterUsage", "app-0.0a1b2c3d", 99)]
    {
        let rule = json!({"operation": operation, "pod": pod, "fault": "reset-before", "count": count});
        emulator.admin("/_emulator/faults", &rule.to_string());
    }
    let mut sidecar = Sidecar::start(irsa(&emulator, folder.path(), "app-0"));
    for place in ["STS at 127.0.0.1", "metering service at 127.0.0.1"] {
        let line = sidecar.wait_for_code("pending", "Connection");
        assert!(line["message"].as_str().unwrap().contains(place), "{line}");
    }
}

#[test]
fn every_fault_of_the_emulators_ecs_agent_is_told_as_what_it_is() {
    let emulator = Emulator::start();
    let agent = "agent that hands out the task's credentials at 127.0.0.1";
    let mut commands = Vec::new();
    for (index, (rule, (state, code, says))) in [
        (
            json!({"fault": "exception", "exception": "AccessDenied"}),
            ("misconfigured", "CredentialsRefused", "gent that hands out"),
        ),
        (
            json!({"fault": "exception", "exception": "InvalidIdInRequest"}),
            ("pending", "InvalidAnswer", agent),
        ),
        (json!({"fault": "http", "status": 404}), ("pending", "InvalidAnswer", agent)),
        (
            json!({"fault": "exception", "exception": "InternalServerError"}),
            ("pending", "ServiceUnavailable", agent),
        ),
        (json!({"fault": "throttle"}), ("pending", "ThrottlingException", agent)),
        (json!({"fault": "invalid-json"}), ("pending", "InvalidAnswer", agent)),
        (json!({"fault": "reset-before"}), ("pending", "Connection", agent)),
        (json!({"fault": "hang"}), ("pending", "Timeout", agent)),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("task-{index}");
        let mut rule = rule;
        rule["operation"] = json!("ContainerCredentials");
        rule["pod"] = json!(name);
        emulator.admin("/_emulator/faults", &rule.to_string());
        commands.push((code, task(&emulator, &name), state, code, says));
    }
    hold(commands);
}

/// A pod that continues to call AWS after its gate is open.
fn metered(emulator: &Emulator, folder: &Path) -> Command {
    let mut command = irsa(emulator, folder, "app-0");
    configure_metered(&mut command, folder);
    command
        .env("TOLLGATE_CLOCK", format!("{}/_emulator/clock", emulator.endpoint()))
        .env_remove("TOLLGATE_PUBLIC_KEYS");
    command
}

/// The sidecar looks at them every 30 s, so the test takes that long.
#[test]
fn credentials_are_renewed_ten_minutes_before_they_end() {
    let emulator = Emulator::start();
    let folder = tempfile::tempdir().unwrap();
    let rule = json!({"operation": "AssumeRoleWithWebIdentity", "fault": "short-lived", "delay": "10m20s", "count": 1});
    emulator.admin("/_emulator/faults", &rule.to_string());
    let mut sidecar = Sidecar::start(metered(&emulator, folder.path()));
    for _ in 0..2 {
        sidecar.read_until(|line| line["event"] == "credentials_loaded");
    }
    let calls = calls(&emulator, "app-0.0a1b2c3d");
    let outcomes: Vec<&str> = calls.iter().filter_map(|call| call["outcome"].as_str()).collect();
    assert!(outcomes.iter().all(|outcome| *outcome == "ok"), "none had to be refused first: {calls:?}");
    let fault = calls.iter().find_map(|call| call["fault"].as_str());
    assert_eq!(fault, Some("short-lived"));
}

/// Credentials that have expired by the emulator's clock, although their own `Expiration` is later.
#[test]
fn credentials_that_end_early_are_taken_anew_and_the_usage_is_billed() {
    let emulator = Emulator::start();
    let folder = tempfile::tempdir().unwrap();
    let mut sidecar = Sidecar::start(metered(&emulator, folder.path()));
    sidecar.wait_for("entitled");
    let usage = post(sidecar.app_addr.unwrap(), "/v1/usage", r#"{"dimension": "requests", "quantity": 5}"#);
    assert_eq!(usage.status, 202, "{usage:?}");
    emulator.admin("/_emulator/clock", r#"{"advance": "75m"}"#);
    loop {
        let calls = calls(&emulator, "app-0.0a1b2c3d");
        let billed = |call: &&Value| call["outcome"] == "ok" && call["request"]["UsageQuantity"] == 5;
        if calls.iter().any(|call| billed(&call)) {
            // The call that was refused for it; an unknown caller has no pod.
            let counts = emulator.calls()["counts"].to_string();
            assert!(counts.contains("ExpiredTokenException"), "{counts}");
            break;
        }
        sidecar.read_line();
    }
}
