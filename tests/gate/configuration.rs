//! Mistakes in settings and Secrets: exit 78 with one sentence, by `config check` and by `run`; never a hang, an abort,
//! or a value that is silently ignored.

use std::process::Command;

use crate::processes::{Emulator, Sidecar, command};

/// A valid and complete configuration, with the settings of one case.
fn check(settings: &[(&str, &str)]) -> Command {
    configured(&["config", "check"], settings)
}

fn configured(arguments: &[&str], settings: &[(&str, &str)]) -> Command {
    let mut command = command(arguments);
    command
        .env("TOLLGATE_MODE", "metered")
        .env("TOLLGATE_PRODUCT_CODE", "demo")
        .env("TOLLGATE_DIMENSIONS", "requests")
        .env("TOLLGATE_STATE_DIR", env!("CARGO_TARGET_TMPDIR"))
        .envs(settings.iter().copied());
    command
}

/// Exit code and output, without the summary.
fn said(mut command: Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    // A single fault is its own summary.
    let text = match text.trim_end().strip_prefix("misconfigured: InvalidConfiguration: ") {
        Some(only) if !only.contains('\n') => only.to_owned(),
        _ => text,
    };
    let faults = text.lines().filter(|line| !line.starts_with("misconfigured: "));
    (output.status.code(), faults.collect::<Vec<_>>().join("\n"))
}

#[test]
fn each_wrong_value_is_one_sentence_that_names_it_and_no_secret() {
    let cases = [
        ("AWS_SECRET_ACCESS_KEY", "\"hunter2\"", "holds quotes"),
        ("AWS_SECRET_ACCESS_KEY", "hunt er2", "holds white space"),
        ("AWS_SESSION_TOKEN", "hunter2\nhunter2", "holds white space"),
        ("HTTPS_PROXY", "\"http://u:hunter2@proxy:3128\"", "holds quotes"),
        ("HTTPS_PROXY", "http://u:hunter2#@proxy:3128", "percent-encode"),
        ("http_proxy", "http//proxy", "is not the address of a proxy"),
        ("ALL_PROXY", "socks5://proxy:1080", "SOCKS"),
        ("NO_PROXY", "'169.254.170.23'", "holds quotes"),
        ("AWS_REGION", "us-esat-1", "is not the name of an AWS region"),
        ("TOLLGATE_LOG_FILTER", "inof", "write off, error, warn, info, debug or trace"),
        ("TOLLGATE_PRODUCT_CODE", "'demo'", "holds quotes"),
        ("TOLLGATE_DIMENSIONS", "\"requests\"", "holds quotes"),
        ("TOLLGATE_DRAIN_QUIET", "25s", "leaves nothing of shutdown_grace"),
        ("TOLLGATE_ON_UNSENT", "close-after:1h", "closes in less than 2h"),
    ];
    for (name, value, sentence) in cases {
        let key = [("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE"), ("AWS_SECRET_ACCESS_KEY", "any"), (name, value)];
        let (code, text) = said(check(&key));
        assert_eq!(code, Some(78), "{name}={value}: {text}");
        assert_eq!(text.lines().count(), 1, "{name}={value}: {text}");
        assert!(text.contains(sentence), "{name}={value}: {text}");
        assert!(text.contains(name) && !text.contains("hunter2"), "{name}={value}: {text}");
        assert_eq!(
            said(configured(&["run"], &key)),
            (code, text),
            "run finds what check finds: {name}={value}"
        );
    }
    let kubernetes = [("KUBERNETES_SERVICE_HOST", "10.0.0.1")];
    let (code, text) = said(check(&kubernetes));
    assert!(code == Some(78) && text.contains("TOLLGATE_POD_UID"), "{text}");
    assert_eq!(said(configured(&["run"], &kubernetes)), (code, text));
}

#[test]
fn white_space_around_a_value_is_taken_off_for_every_reader() {
    let emulator = Emulator::start();
    let mut run = emulator.sidecar("pod-white-space");
    run.env("AWS_ACCESS_KEY_ID", "pod-white-space\n")
        .env("AWS_SECRET_ACCESS_KEY", " any\r\n")
        .env("AWS_SESSION_TOKEN", "token\n")
        .env("AWS_REGION", "us-east-1\n")
        .env("HTTPS_PROXY", "\n")
        .env("TOLLGATE_PRODUCT_CODE", "demohourly\n");
    let mut sidecar = Sidecar::start(run);
    sidecar.wait_for("entitled");
    let (code, text) = said(check(&[("https_proxy", "http://proxy:3128\n"), ("AWS_PROFILE", "mine ")]));
    assert!(code == Some(0) && text.starts_with("warning: AWS_PROFILE names \"mine\", a profile"), "{text}");
}

/// A start that hangs prints nothing; a pipe without a writer would make it hang.
#[test]
fn a_pipe_or_a_device_is_no_file_to_read() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for path in [pipe.to_str().unwrap(), "/dev/zero"] {
        for name in [
            "TOLLGATE_CONFIG",
            "TOLLGATE_APP_TOKEN_FILE",
            "AWS_CA_BUNDLE",
            "AWS_CONFIG_FILE",
            "AWS_SHARED_CREDENTIALS_FILE",
        ] {
            let (code, text) = said(check(&[(name, path)]));
            assert_eq!(code, Some(78), "{name}={path}: {text}");
            assert!(text.contains("is not a regular file"), "{name}={path}: {text}");
        }
        for name in ["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"] {
            let (code, text) = said(check(&[(name, path)]));
            assert_eq!(code, Some(0), "the sidecar retries: {text}");
            assert!(text.contains("which gives no token (is not a regular file"), "{name}={path}: {text}");
        }
        let keys = [("TOLLGATE_MODE", "hourly"), ("TOLLGATE_PUBLIC_KEYS", path)];
        let (code, text) = said(check(&keys));
        assert!(code == Some(78) && text.contains("is not a regular file"), "{path}: {text}");
    }
}

/// At `trace` libraries log whole requests and answers: AWS's token, and the pod's credentials.
#[test]
fn no_filter_brings_a_token_into_the_log() {
    let emulator = Emulator::start();
    let mut run = emulator.sidecar("pod-trace");
    let libraries = [
        "aws_config",
        "aws_runtime",
        "aws_sdk_marketplacemetering",
        "aws_sigv4",
        "aws_smithy_runtime",
        "hyper",
    ];
    let filter = libraries.iter().fold("trace".to_owned(), |filter, name| format!("{filter},{name}=trace"));
    run.env("TOLLGATE_LOG_FILTER", filter).env("AWS_SESSION_TOKEN", "hunter2");
    let mut sidecar = Sidecar::start(run);
    sidecar.wait_for("entitled");
    sidecar.signal("TERM");
    let seen = sidecar.seen.concat();
    assert!(seen.contains("aws_smithy_runtime"), "the libraries speak: {seen}");
    for secret in ["eyJ", "hunter2", "AWS4-HMAC-SHA256 Credential"] {
        assert!(!seen.contains(secret), "{secret} in {seen}");
    }
}

#[test]
fn a_reason_leads_to_the_sellers_own_runbook_where_there_is_one() {
    let emulator = Emulator::start();
    emulator.admin("/_emulator/faults", r#"{"fault":"exception","exception":"DisabledApiException"}"#);
    let started = |pod: &str, docs: Option<&str>| {
        let mut command = emulator.sidecar(pod);
        command.envs(docs.map(|docs| ("TOLLGATE_DOCS_URL", docs)));
        let mut sidecar = Sidecar::start(command);
        sidecar.wait_for("misconfigured");
        sidecar.document()["reason"]["docs"].clone()
    };
    assert_eq!(started("pod-1", None), "tollgate explain DisabledApiException");
    assert_eq!(
        started("pod-2", Some("https://seller.example/help#")),
        "https://seller.example/help#DisabledApiException"
    );
}
