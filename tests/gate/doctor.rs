//! `tollgate doctor`, which an operator reads when the gate stays shut.

use std::io::{Read as _, Write as _};
use std::process::Command;

use crate::commands::stdout;
use crate::processes::{
    Emulator, Sidecar, command, configure_contract, configure_metered, http, post, refusing_addr,
};

fn doctor(emulator: &Emulator, change: impl FnOnce(&mut Command)) -> (Option<i32>, serde_json::Value) {
    let mut doctor = command(&["doctor", "--json"]);
    emulator.configure(&mut doctor, "pod-doctor");
    change(&mut doctor);
    let output = doctor.output().unwrap();
    let report = serde_json::from_str(&stdout(&output)).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output.status.code(), report)
}

fn finding<'a>(report: &'a serde_json::Value, check: &str) -> &'a serde_json::Value {
    let mut all = report["findings"].as_array().unwrap().iter();
    all.find(|finding| finding["check"] == check).unwrap_or_else(|| panic!("{check}: {report}"))
}

#[test]
fn doctor_finds_nothing_at_fault_before_the_emulator_and_registers_nothing() {
    let emulator = Emulator::start();
    let (code, report) = doctor(&emulator, |_| {});
    assert_eq!((code, &report["healthy"]), (Some(0), &true.into()), "{report}");
    for check in
        ["configuration", "public keys", "region", "endpoint", "name", "connection", "answer", "clock"]
    {
        assert_eq!(finding(&report, check)["verdict"], "ok", "{report}");
    }
    assert_eq!(
        finding(&report, "credentials")["verdict"],
        "warning",
        "AWS accepts no long-term keys: {report}"
    );
    assert_eq!(report["least_policy"]["Statement"][0]["Action"][0], "aws-marketplace:RegisterUsage");
    assert_eq!(emulator.calls()["total"], 0);
}

#[test]
fn doctor_names_what_is_at_fault() {
    let emulator = Emulator::start();
    let nowhere = format!("http://{}", refusing_addr());
    let (code, report) = doctor(&emulator, |command| {
        command.env("TOLLGATE_ENDPOINT_URL", nowhere);
    });
    assert_eq!(code, Some(78));
    assert_eq!(finding(&report, "connection")["docs"], "tollgate explain Connection", "{report}");
    let (_, report) = doctor(&emulator, |command| {
        command.env("TOLLGATE_ENDPOINT_URL", "http://metering.invalid");
    });
    assert_eq!(finding(&report, "name")["verdict"], "fault", "{report}");
    let (code, report) = doctor(&emulator, |command| {
        command.env_remove("AWS_REGION");
    });
    assert_eq!((code, finding(&report, "region")["verdict"].as_str()), (Some(78), Some("fault")), "{report}");
    assert!(finding(&report, "region")["seen"].as_str().unwrap().starts_with("unknown"), "{report}");
    assert_eq!(finding(&report, "credentials")["verdict"], "warning", "{report}");
    let (code, report) = doctor(&emulator, |command| {
        command.env("TOLLGATE_PRODUCT_CODE", "two words");
    });
    assert_eq!(
        (code, finding(&report, "configuration")["verdict"].as_str()),
        (Some(78), Some("fault")),
        "{report}"
    );
}

/// The ECS agent names the task's region; AWS does not accept a role from EKS Pod Identity.
#[test]
fn doctor_compares_the_region_with_the_platforms_own() {
    let emulator = Emulator::start();
    let agent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = agent.local_addr().unwrap();
    std::thread::spawn(move || {
        let body = r#"{"TaskARN":"arn:aws:ecs:eu-central-1:111122223333:task/demo/1"}"#;
        for stream in agent.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).unwrap();
            write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
        }
    });
    let (code, report) = doctor(&emulator, |command| {
        command.env("ECS_CONTAINER_METADATA_URI_V4", format!("http://{addr}/v4/1"));
    });
    let region = finding(&report, "region");
    assert_eq!(
        (code, region["verdict"].as_str()),
        (Some(0), Some("warning")),
        "a stand-in may not care: {report}"
    );
    assert_eq!(region["docs"], "tollgate explain InvalidRegionException");
    assert!(region["seen"].as_str().unwrap().contains("the pod runs in eu-central-1"), "{report}");
}

#[test]
fn doctor_reads_the_web_identity_token_and_says_what_the_trust_policy_must_name() {
    let emulator = Emulator::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let irsa = |command: &mut Command| {
        command
            .env_remove("AWS_ACCESS_KEY_ID")
            .env_remove("AWS_SECRET_ACCESS_KEY")
            .env("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/app")
            .env("AWS_ENDPOINT_URL_STS", format!("http://{}", refusing_addr()))
            .env("AWS_WEB_IDENTITY_TOKEN_FILE", &path);
    };
    let (code, report) = doctor(&emulator, irsa);
    let token = finding(&report, "web identity token");
    assert_eq!(
        (code, token["docs"].as_str()),
        (Some(78), Some("tollgate explain WebIdentityTokenMissing")),
        "{report}"
    );
    // {"iss":"https://oidc.example","sub":"system:serviceaccount:ns:app","aud":["sts.amazonaws.com"]}
    let claims = "eyJpc3MiOiJodHRwczovL29pZGMuZXhhbXBsZSIsInN1YiI6InN5c3RlbTpzZXJ2aWNlYWNjb3VudDpuczphcHAiLCJhdWQiOlsic3RzLmFtYXpvbmF3cy5jb20iXX0";
    std::fs::write(&path, format!("e30.{claims}.x")).unwrap();
    let (code, report) = doctor(&emulator, irsa);
    let token = finding(&report, "web identity token");
    assert_eq!(token["verdict"], "ok", "{report}");
    assert!(token["seen"].as_str().unwrap().contains("system:serviceaccount:ns:app"), "{report}");
    let credentials = finding(&report, "credentials");
    assert_eq!(
        (code, credentials["docs"].as_str()),
        (Some(78), Some("tollgate explain Connection")),
        "{report}"
    );
    assert!(credentials["seen"].as_str().unwrap().contains("STS at 127.0.0.1"), "{report}");
}

#[test]
fn doctor_looks_at_the_ledger_and_asks_the_sidecar_that_holds_it() {
    let emulator = Emulator::start();
    let state = tempfile::tempdir().unwrap();
    let metered = |command: &mut Command| configure_metered(command, state.path());
    let (_, report) = doctor(&emulator, metered);
    assert_eq!(finding(&report, "ledger")["seen"], "none yet: the sidecar creates it", "{report}");
    assert_eq!(finding(&report, "free space")["verdict"], "ok", "{report}");
    let mut command = emulator.sidecar("pod-doctor-ledger");
    metered(&mut command);
    let mut sidecar = Sidecar::start(command);
    sidecar.wait_for("entitled");
    let app = sidecar.app_addr.unwrap();
    assert_eq!(post(app, "/v1/usage", r#"{"dimension":"requests","quantity":1}"#).status, 202);
    let (_, report) = doctor(&emulator, |command| {
        metered(command);
        command.env("TOLLGATE_APP_ADDR", app.to_string());
    });
    let seen = "checked by the running sidecar, which holds it; 1 dimensions balance";
    assert_eq!(finding(&report, "ledger")["seen"], seen, "{report}");
    drop(sidecar);
    let (_, report) = doctor(&emulator, metered);
    assert_eq!(
        finding(&report, "ledger")["seen"],
        "its structure is intact; 1 dimensions balance",
        "{report}"
    );
    let file = state.path().join("usage.sqlite");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[..64].fill(0xff);
    std::fs::write(&file, bytes).unwrap();
    // The killed sidecar's log contains the header, too.
    std::fs::remove_file(state.path().join("usage.sqlite-wal")).unwrap();
    let (code, report) = doctor(&emulator, metered);
    let ledger = finding(&report, "ledger");
    assert_eq!(
        (code, ledger["docs"].as_str()),
        (Some(78), Some("tollgate explain LedgerDamaged")),
        "{report}"
    );
}

/// TLS has a line of its own, which names the setting to use.
#[test]
fn doctor_tells_broken_tls_from_a_broken_connection() {
    let emulator = Emulator::start();
    let (code, report) = doctor(&emulator, |command| {
        command.env("TOLLGATE_ENDPOINT_URL", format!("https://{}", emulator.addr));
    });
    assert_eq!(finding(&report, "connection")["verdict"], "ok", "{report}");
    let tls = finding(&report, "TLS");
    assert_eq!((code, tls["docs"].as_str()), (Some(78), Some("tollgate explain InvalidAnswer")), "{report}");
}

#[test]
fn doctor_speaks_to_people_too() {
    let emulator = Emulator::start();
    let mut doctor = command(&["doctor"]);
    emulator.configure(&mut doctor, "pod-doctor-text");
    let output = doctor.output().unwrap();
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(
        text.contains("ok      region: us-east-1 (environment AWS_REGION)")
            && text.contains("aws-marketplace:RegisterUsage")
            && text.contains("product_code = demohourly (environment TOLLGATE_PRODUCT_CODE)"),
        "{text}"
    );
}

/// An earlier version called it healthy if any server answered there in HTTP.
#[test]
fn doctor_believes_only_what_speaks_as_aws_does() {
    let emulator = Emulator::start();
    let (code, report) = doctor(&emulator, |command| {
        command.env("TOLLGATE_ENDPOINT_URL", format!("http://{}", crate::commands::stranger()));
    });
    let answer = finding(&report, "answer");
    assert_eq!(
        (code, answer["docs"].as_str()),
        (Some(78), Some("tollgate explain InvalidAnswer")),
        "{report}"
    );
    assert!(answer["seen"].as_str().unwrap().contains("HTTP 200, Server nginx"), "{report}");
    let (_, report) = doctor(&emulator, |_| {});
    let seen = finding(&report, "answer")["seen"].as_str().unwrap().to_owned();
    assert!(seen.contains(&emulator.addr.to_string()) && seen.contains("emulator"), "{report}");
    // A refusal in AWS's form, of an unsigned call.
    let refusal = r#"{"__type":"MissingAuthenticationTokenException"}"#;
    let aws = crate::credentials::Act::Answer(format!(
        "HTTP/1.1 400 X\r\nx-amzn-RequestId: 1\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{refusal}",
        refusal.len()
    ));
    let aws = crate::credentials::serve(aws);
    let (_, report) = doctor(&emulator, |command| {
        command.env("TOLLGATE_ENDPOINT_URL", format!("http://{aws}"));
    });
    assert_eq!(finding(&report, "answer")["verdict"], "ok", "{report}");
}

#[test]
fn doctor_names_product_account_and_role() {
    let emulator = Emulator::start();
    let (_, report) = doctor(&emulator, |_| {});
    assert_eq!(finding(&report, "product")["seen"], "demohourly (mode hourly)", "{report}");
    let seen = finding(&report, "caller")["seen"].as_str().unwrap().to_owned();
    assert!(seen.starts_with("account not stated, role not stated, from access keys"), "{report}");
    // STS names the role's account.
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "a.b.c").unwrap();
    let assumed = "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
                   <AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>ASIA</AccessKeyId><SecretAccessKey>s</SecretAccessKey>\
                   <SessionToken>t</SessionToken><Expiration>2100-01-01T00:00:00Z</Expiration></Credentials>\
                   <AssumedRoleUser><Arn>arn:aws:sts::111122223333:assumed-role/app/s</Arn><AssumedRoleId>AROA:s</AssumedRoleId>\
                   </AssumedRoleUser></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>";
    let sts = crate::credentials::serve(crate::credentials::answer(200, assumed));
    let (_, report) = doctor(&emulator, |command| {
        command
            .env_remove("AWS_ACCESS_KEY_ID")
            .env_remove("AWS_SECRET_ACCESS_KEY")
            .env("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/app")
            .env("AWS_WEB_IDENTITY_TOKEN_FILE", &token)
            .env("AWS_ENDPOINT_URL_STS", format!("http://{sts}"));
    });
    let credentials = finding(&report, "credentials")["seen"].as_str().unwrap().to_owned();
    assert!(credentials.contains(&format!("asked: {sts}")), "{report}");
    let seen = finding(&report, "caller")["seen"].as_str().unwrap().to_owned();
    assert_eq!(seen, "account 111122223333, role arn:aws:iam::111122223333:role/app", "{report}");
}

/// An earlier version exited with 0 although AWS's refusal kept the gate shut.
#[test]
fn a_gate_that_a_refusal_keeps_shut_is_a_fault_and_is_told_last() {
    let emulator = Emulator::start();
    let exception = |pod: &str, name: &str| {
        let rule = format!(
            r#"{{"operation":"RegisterUsage","pod":"{pod}","fault":"exception","exception":"{name}"}}"#
        );
        emulator.admin("/_emulator/faults", &rule);
    };
    for (pod, name, state, verdict, exit) in [
        ("pod-denied", "CustomerNotEntitledException", "denied", "fault", Some(78)),
        ("pod-wrong", "InvalidProductCodeException", "misconfigured", "fault", Some(78)),
        ("pod-slow", "ThrottlingException", "pending", "warning", Some(0)),
    ] {
        exception(pod, name);
        let mut sidecar = Sidecar::start(emulator.sidecar(pod));
        sidecar.wait_for_code(state, name);
        let (code, report) = doctor(&emulator, |command| {
            command.env("TOLLGATE_PROBE_ADDR", sidecar.addr.to_string()).env("TOLLGATE_POD_UID", pod);
        });
        let last = report["findings"].as_array().unwrap().last().unwrap();
        assert_eq!(
            (code, last["check"].as_str(), last["verdict"].as_str()),
            (exit, Some("sidecar"), Some(verdict)),
            "{name}: {report}"
        );
        let docs = (verdict == "fault").then(|| format!("tollgate explain {name}"));
        assert_eq!(last["docs"].as_str(), docs.as_deref(), "{report}");
    }
}

/// An earlier version printed "configuration: valid" and a warning about the configuration.
#[test]
fn what_is_odd_about_the_configuration_is_not_called_valid() {
    let emulator = Emulator::start();
    let (_, report) = doctor(&emulator, |command| {
        command.env_remove("AWS_SECRET_ACCESS_KEY");
    });
    let all = report["findings"].as_array().unwrap().iter();
    let told: Vec<_> = all.filter(|finding| finding["check"] == "configuration").collect();
    assert!(told.len() == 1 && told[0]["verdict"] == "warning", "{report}");
}

/// AWS has one exception for all these causes; the listing distinguishes them before a pod asks.
#[test]
fn doctor_judges_the_license_of_a_contract_and_takes_no_seat() {
    let emulator = Emulator::start();
    let contract = |more: &[(&str, &str)]| {
        doctor(&emulator, |command| {
            configure_contract(command);
            command.envs(more.iter().copied());
        })
    };
    let (code, report) = contract(&[]);
    assert_eq!((code, &report["healthy"]), (Some(0), &true.into()), "{report}");
    let checks = [
        "region",
        "credentials",
        "endpoint",
        "answer",
        "license listing",
        "license",
        "seats",
        "license extension",
        "license check-in",
    ];
    for check in checks {
        assert_eq!(finding(&report, check)["verdict"], "ok", "{check}: {report}");
    }
    assert_eq!(finding(&report, "product")["seen"], "prod-democontract (mode contract)");
    assert_eq!(finding(&report, "seats")["seen"], "users: 0 of 10 Count taken");
    assert_eq!(report["least_policy"]["Statement"][0]["Action"].as_array().unwrap().len(), 6, "{report}");

    for (settings, code) in [
        (("TOLLGATE_PRODUCT_ID", "prod-unsold"), "NoLicense"),
        (("TOLLGATE_ENTITLEMENTS", "users:None"), "UnitMismatch"),
        (("TOLLGATE_ENTITLEMENTS", "seats:Count"), "NameMismatch"),
        (("TOLLGATE_ENTITLEMENTS", "users:Count:11"), "QuantityTooSmall"),
        (("TOLLGATE_KEY_FINGERPRINT", "aws:111122223333:Buyer:issuer-fingerprint"), "NoLicense"),
    ] {
        let (exit, report) = contract(&[settings]);
        let license = finding(&report, "license");
        assert_eq!((exit, &license["verdict"]), (Some(78), &"fault".into()), "{settings:?}: {report}");
        assert_eq!(license["docs"], format!("tollgate explain {code}"), "{report}");
    }
    let change = r#"{"product_id": "prod-democontract", "received": "disabled"}"#;
    emulator.admin("/_emulator/licenses", change);
    let (_, report) = contract(&[]);
    assert_eq!(finding(&report, "license")["docs"], "tollgate explain LicenseNotActivated", "{report}");

    emulator.admin(
        "/_emulator/pods",
        r#"{"access_key": "pod-doctor",
            "denied": ["ListReceivedLicenses", "ExtendLicenseConsumption", "CheckInLicense"]}"#,
    );
    let (exit, report) = contract(&[]);
    for (check, action) in [
        ("license listing", "license-manager:ListReceivedLicenses"),
        ("license extension", "license-manager:ExtendLicenseConsumption"),
        ("license check-in", "license-manager:CheckInLicense"),
    ] {
        let refused = finding(&report, check);
        assert_eq!((exit, &refused["verdict"]), (Some(78), &"fault".into()), "{report}");
        assert!(refused["seen"].as_str().unwrap().contains(action), "{report}");
    }
    let held = http(emulator.addr, "GET", "/_emulator/licenses", "").json().to_string();
    assert!(held.contains(r#""held_max":0"#), "{held}");
}

#[test]
fn doctor_finds_the_way_of_a_license_token() {
    let emulator = Emulator::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("license_token");
    let token =
        emulator.admin("/_emulator/refresh-tokens", "{}")["refresh_token"].as_str().unwrap().to_owned();
    std::fs::write(&path, &token).unwrap();
    let anywhere = |command: &mut Command| {
        configure_contract(command);
        command
            .env_remove("AWS_ACCESS_KEY_ID")
            .env_remove("AWS_SECRET_ACCESS_KEY")
            .env_remove("AWS_REGION")
            .env("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/anywhere")
            .env("AWS_WEB_IDENTITY_REFRESH_TOKEN_FILE", &path);
    };
    let (code, report) = doctor(&emulator, anywhere);
    assert_eq!((code, &report["healthy"]), (Some(0), &true.into()), "{report}");
    assert!(finding(&report, "region")["seen"].as_str().unwrap().starts_with("us-east-1 (where"), "{report}");
    assert!(
        finding(&report, "credentials")["seen"].as_str().unwrap().starts_with("license token"),
        "{report}"
    );
    assert_eq!(finding(&report, "license token")["verdict"], "ok", "{report}");
    assert_eq!(finding(&report, "license")["verdict"], "ok", "{report}");
    let mut bundle = command(&["support-bundle"]);
    emulator.configure(&mut bundle, "pod-doctor");
    anywhere(&mut bundle);
    let bundle = stdout(&bundle.output().unwrap());
    assert!(bundle.contains("prod-democontract") && !bundle.contains(&token), "{bundle}");
    assert!(!report.to_string().contains(&token));
}
