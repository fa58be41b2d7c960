//! What is set for credentials and gives none: a warning here, the reason if nothing else gives any.

use super::*;

const ROLE: (&str, &str) = ("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/app");
const TOKEN_FILE: (&str, &str) = ("AWS_WEB_IDENTITY_TOKEN_FILE", "/token");
const AGENT: (&str, &str) = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.170.23/v1/credentials");
const AGENT_TOKEN_FILE: (&str, &str) = ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "/token");

fn case(variables: &[(&str, &str)]) -> Case {
    let case = Case::hourly()
        .disk("/token", "a.b.c")
        .disk("/empty", "")
        .disk("/ended", "a.b.c\n")
        .disk("/config", "[default]\n[profile prod] # ours\nregion = us-east-1\n[bare]\n")
        .disk("/credentials", "[other]\n[profile nested]\n");
    variables.iter().fold(case, |case, (name, value)| case.env(name, value))
}

/// Each of these was once reported as "there are no AWS credentials in this pod", and `config check` said OK.
#[test]
fn what_gives_no_credentials_is_named() {
    let profile = |name: &'static str| {
        [
            ("AWS_PROFILE", name),
            ("AWS_CONFIG_FILE", "/config"),
            ("AWS_SHARED_CREDENTIALS_FILE", "/credentials"),
        ]
    };
    let rows: [(&[(&str, &str)], &str); 16] = [
        (&[ROLE], "AWS_ROLE_ARN is set without AWS_WEB_IDENTITY_TOKEN_FILE"),
        (&[TOKEN_FILE], "AWS_WEB_IDENTITY_TOKEN_FILE is set without AWS_ROLE_ARN"),
        (&[("AWS_ACCESS_KEY_ID", "AKIA")], "AWS_ACCESS_KEY_ID is set without AWS_SECRET_ACCESS_KEY"),
        (&[("AWS_SECRET_ACCESS_KEY", "k")], "AWS_SECRET_ACCESS_KEY is set without AWS_ACCESS_KEY_ID"),
        (
            &[AGENT_TOKEN_FILE],
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE is set without AWS_CONTAINER_CREDENTIALS",
        ),
        (
            &[("AWS_CONTAINER_AUTHORIZATION_TOKEN", "t")],
            "AWS_CONTAINER_AUTHORIZATION_TOKEN is set without AWS_CONTAINER_CREDENTIALS",
        ),
        (&[ROLE, (TOKEN_FILE.0, "/nowhere")], "names /nowhere, which gives no token (does not exist)"),
        (&[ROLE, (TOKEN_FILE.0, "/empty")], "names /empty, which gives no token (is empty)"),
        (&[ROLE, (TOKEN_FILE.0, "/keys")], "names /keys, which gives no token (is a folder, not a file)"),
        (&[AGENT, (AGENT_TOKEN_FILE.0, "/nowhere")], "names /nowhere, which gives no token (does not exist)"),
        (&[AGENT, (AGENT_TOKEN_FILE.0, "/ended")], "names /ended, which gives no token (holds a line end"),
        (
            &[("AWS_CONFIG_FILE", "/nowhere")],
            "AWS_CONFIG_FILE names /nowhere, which is ignored (does not exist)",
        ),
        (
            &profile("absent"),
            "AWS_PROFILE names \"absent\", a profile that is not in /config or in /credentials",
        ),
        (&profile("bare"), "[profile NAME] in the first"),
        (&profile("nested"), "[profile NAME] in the first"),
        (&[("AWS_PROFILE", "mine")], "a profile that is not in ~/.aws/config or in ~/.aws/credentials"),
    ];
    for (variables, says) in rows {
        let loaded = case(variables).load().map_err(|faults| faults.to_string()).unwrap();
        let gaps = &loaded.config.aws.credential_gaps;
        assert!(gaps.len() == 1 && gaps[0].contains(says), "{variables:?}: {gaps:?}");
        assert!(loaded.warnings.contains(&gaps[0]), "{:?}", loaded.warnings);
    }
    let whole: [&[(&str, &str)]; 10] = [
        &[],
        &[ROLE, TOKEN_FILE],
        &[ROLE, (TOKEN_FILE.0, "/ended")],
        &[AGENT, AGENT_TOKEN_FILE],
        &[("AWS_ACCESS_KEY_ID", "AKIA"), ("AWS_SECRET_ACCESS_KEY", "k")],
        &[("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/credentials/id")],
        &[("AWS_CONFIG_FILE", "/dev/null"), ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")],
        &profile("prod"),
        &profile("other"),
        &profile("default"),
    ];
    for variables in whole {
        let gaps = case(variables).valid().aws.credential_gaps;
        assert!(gaps.is_empty(), "{variables:?}: {gaps:?}");
    }
}

#[test]
fn what_the_sdk_would_only_call_invalid_is_refused() {
    for (name, value, says) in [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "127.0.0.1:80", "is not where an agent"),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://10.0.0.1/credentials", "is not where an agent"),
        ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "v2/credentials/id", "does not begin with a slash"),
        ("AWS_ROLE_ARN", "app", "is not the ARN of a role"),
        ("AWS_SHARED_CREDENTIALS_FILE", "/large", "is too large; name a regular file"),
    ] {
        let case = case(&[TOKEN_FILE, (name, value)]).disk("/large", &"#".repeat(2_000_000));
        let faults = case.load().map(|_| ()).unwrap_err();
        assert_eq!(faults.as_slice().len(), 1, "{faults}");
        assert!(faults.to_string().contains(name) && faults.to_string().contains(says), "{faults}");
    }
}

/// The SDK would open it and wait, and each start would end in a time-out that names no cause.
#[test]
fn a_profile_whose_token_file_is_none_is_refused_with_the_line_that_names_it() {
    let content = "[default]\nrole_arn = arn:aws:iam::111122223333:role/app\nweb_identity_token_file = ";
    for (file, refused) in [("/keys", true), ("/token", false), ("/nowhere", false)] {
        let loaded =
            case(&[("AWS_CONFIG_FILE", "/named")]).disk("/named", &format!("{content}{file}\n")).load();
        let faults = loaded.map(|_| ()).err().map(|faults| faults.to_string()).unwrap_or_default();
        assert_eq!(
            faults.contains("/named:3") && faults.contains("names /keys"),
            refused,
            "{file}: {faults}"
        );
        assert_eq!(faults.is_empty(), !refused, "{file}: {faults}");
    }
    // A pipe on a real disk is reported as a pipe, without waiting for it.
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let error = Disk::read(&SystemDisk, &pipe, 10, Links::Follow).unwrap_err();
    assert!(disk::describe(&error).contains("a pipe"), "{error}");
}
