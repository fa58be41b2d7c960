//! Texts for people: `explain`, `support-bundle`, the help.

use crate::commands::stdout;
use crate::processes::{Emulator, Sidecar, command, configure_metered, post};

#[test]
fn a_code_is_explained_from_the_binary_alone() {
    let explained = |arguments: &[&str]| {
        let output = command(&[&["explain"], arguments].concat()).output().unwrap();
        (output.status.code(), stdout(&output))
    };
    let (code, text) = explained(&["customernotentitledexception"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.starts_with("CustomerNotEntitledException\n") && text.contains("Manage subscriptions"),
        "{text}"
    );
    // An entry that only refers to another is printed with that one.
    let (_, text) = explained(&["UnauthorizedException"]);
    assert!(text.contains("aws-marketplace:MeterUsage"), "{text}");
    let (code, text) = explained(&["--json", "Dns"]);
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &document[0]["code"]), (Some(0), &"Dns".into()));
    let (_, all) = explained(&[]);
    assert!(all.lines().count() > 100 && all.lines().any(|line| line == "NonceMismatch"), "{all}");
    let output = command(&["explain", "NonceMismach"]).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(text.contains("did you mean NonceMismatch?"), "{text}");
    let (code, text) = explained(&["denied"]);
    assert!(code == Some(0) && text.contains("who acts: the buyer, about the subscription"), "{text}");
    let (_, text) = explained(&["TollgateLedgerFull"]);
    assert!(text.contains("usage was not taken (503)"), "{text}");
}

/// Searches the bundle for every secret that the sidecar is given in this run.
#[test]
fn a_support_bundle_holds_what_support_asks_for_and_no_secret() {
    let emulator = Emulator::start();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("app-token"), "bearer-token-of-the-app\n").unwrap();
    std::fs::write(path("web-identity"), "header.web-identity-claims.signature").unwrap();
    let configured = |arguments: &[&str]| {
        let mut command = command(arguments);
        emulator.configure(&mut command, "pod-bundle");
        configure_metered(&mut command, &folder.path().join("state"));
        command
            .env("TOLLGATE_APP_TOKEN_FILE", path("app-token"))
            .env("AWS_SECRET_ACCESS_KEY", "secret-access-key")
            .env("AWS_SESSION_TOKEN", "session-token-of-the-pod")
            .env("AWS_WEB_IDENTITY_TOKEN_FILE", path("web-identity"))
            .env("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/app")
            .env("HTTPS_PROXY", "http://user:proxy-password@proxy.invalid:3128");
        command
    };
    let mut sidecar = Sidecar::start(configured(&["run"]));
    sidecar.wait_for("entitled");
    let app = sidecar.app_addr.unwrap();
    // Without its token the application is refused.
    assert_eq!(post(app, "/v1/usage", r#"{"dimension":"requests","quantity":1}"#).status, 401);
    let mut bundle = configured(&["support-bundle"]);
    bundle.env("TOLLGATE_PROBE_ADDR", sidecar.addr.to_string()).env("TOLLGATE_APP_ADDR", app.to_string());
    let output = bundle.output().unwrap();
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["sidecar"]["entitlement"]["state"], "entitled", "{text}");
    assert_eq!(document["version"], env!("CARGO_PKG_VERSION"));
    assert!(document["ledger"]["dimensions"].is_array(), "{text}");
    assert!(document["license"]["absent"].as_str().unwrap().contains("its mode is not contract"), "{text}");
    let metrics = document["sidecar"]["metrics"].as_array().unwrap();
    assert!(metrics.iter().any(|line| line == "tollgate_gate_open 1"), "{text}");
    let settings = document["doctor"]["settings"].as_array().unwrap();
    assert!(settings.iter().any(|row| row["name"] == "mode" && row["value"] == "metered"), "{text}");
    assert!(!document["doctor"]["findings"].as_array().unwrap().is_empty());
    for secret in [
        "bearer-token-of-the-app",
        "web-identity-claims",
        "secret-access-key",
        "session-token-of-the-pod",
        "proxy-password",
    ] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }

    // The same into a new file that only its owner can read.
    let file = path("bundle.json");
    let written = |code: i32| {
        let output = configured(&["support-bundle", "--output", &file]).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{output:?}");
    };
    written(0);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    written(78);
}

/// Mode `hourly` keeps a receipt and its nonce on disk; the bundle contains neither.
#[test]
fn a_support_bundle_holds_no_receipt() {
    let emulator = Emulator::start();
    let state = tempfile::tempdir().unwrap();
    let mut run = emulator.sidecar("pod-receipt");
    run.env("TOLLGATE_STATE_DIR", state.path());
    let mut sidecar = Sidecar::start(run);
    sidecar.wait_for("entitled");
    let kept = std::fs::read_to_string(state.path().join("registration.json")).unwrap();
    let kept: serde_json::Value = serde_json::from_str(&kept).unwrap();
    let mut bundle = command(&["support-bundle"]);
    emulator.configure(&mut bundle, "pod-receipt");
    bundle.env("TOLLGATE_STATE_DIR", state.path()).env("TOLLGATE_PROBE_ADDR", sidecar.addr.to_string());
    let text = stdout(&bundle.output().unwrap());
    assert!(text.contains("\"gate\": \"open\""), "{text}");
    for secret in [&kept["receipt"]["token"], &kept["receipt"]["nonce"]] {
        assert!(!text.contains(secret.as_str().unwrap()), "{text}");
    }
}

#[test]
fn the_help_is_as_long_as_what_the_command_reads() {
    let help = |arguments: &[&str], mode: &str| {
        let output = command(arguments).env("TOLLGATE_MODE", mode).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        stdout(&output)
    };
    assert!(!help(&["run", "--help"], "hourly").contains("--settle"));
    assert!(help(&["run", "--help"], "metered").contains("--settle"));
    assert!(help(&["run", "--help", "--mode", "metered"], "hourly").contains("--settle"));
    assert!(help(&["run", "--help-all"], "hourly").contains("--settle"));
    assert!(help(&["probe", "--help"], "metered").lines().count() <= 32);
    assert!(help(&["ledger", "list", "--help"], "metered").contains("--state-dir"));
}
