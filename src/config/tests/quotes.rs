//! Secrets and templates leave quotes or white space around values. For each variable that tollgate or the AWS SDK
//! reads, quotes are refused with one sentence, and white space is removed.

use super::*;
use crate::config::setting::DefaultText;

/// The variables besides the settings that tollgate or the AWS SDK reads, each with a valid value.
const OTHERS: [(&str, &str); 34] = [
    ("AWS_ACCESS_KEY_ID", "AKIA"),
    ("AWS_SECRET_ACCESS_KEY", "key"),
    ("AWS_SESSION_TOKEN", "token"),
    ("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/app"),
    ("AWS_ROLE_SESSION_NAME", "app"),
    ("AWS_WEB_IDENTITY_TOKEN_FILE", "/token"),
    ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/credentials/id"),
    ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1/credentials"),
    ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "token"),
    ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "/token"),
    ("AWS_WEB_IDENTITY_REFRESH_TOKEN_FILE", "/token"),
    ("AWS_LICENSE_ACCESS_FILE", "/token"),
    ("AWS_PROFILE", "app"),
    ("AWS_CONFIG_FILE", "/config"),
    ("AWS_SHARED_CREDENTIALS_FILE", "/credentials"),
    ("AWS_CA_BUNDLE", "/ca.pem"),
    ("AWS_REGION", "us-east-1"),
    ("AWS_DEFAULT_REGION", "us-east-1"),
    ("AWS_ENDPOINT_URL", "http://127.0.0.1:4566"),
    ("AWS_ENDPOINT_URL_MARKETPLACE_METERING", "http://127.0.0.1:4566"),
    ("AWS_ENDPOINT_URL_LICENSE_MANAGER", "http://127.0.0.1:4566"),
    ("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:4566"),
    ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1"),
    ("AWS_EC2_METADATA_DISABLED", "true"),
    ("AWS_USE_FIPS_ENDPOINT", "true"),
    ("AWS_USE_DUALSTACK_ENDPOINT", "true"),
    ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "false"),
    ("ECS_CONTAINER_METADATA_URI_V4", "http://169.254.170.2/v4/id"),
    ("HTTPS_PROXY", "http://proxy:3128"),
    ("http_proxy", "proxy:3128"),
    ("ALL_PROXY", "http://proxy:3128"),
    ("NO_PROXY", "localhost"),
    ("TOLLGATE_CONFIG", "/file"),
    ("TOLLGATE_POD_UID", "0b1f7a52"),
];

fn value_of(setting: Setting) -> &'static str {
    match setting {
        Setting::Mode => "metered",
        Setting::ProductCode => "demo",
        Setting::ProductId => "prod-demo",
        Setting::Entitlements => "users:Count:10",
        Setting::GracePeriod => "1h",
        Setting::PublicKeys => "/keys",
        Setting::PublicKeyVersion => "1",
        Setting::Region | Setting::LicenseRegion => "us-east-1",
        Setting::EndpointUrl => "http://127.0.0.1:4566",
        Setting::AppTokenFile | Setting::LicenseTokenFile | Setting::LedgerUrlFile => "/token",
        Setting::Dimensions | Setting::EntitlementDimension => "requests",
        Setting::Dimension => "{ requests = { scale = 1000 } }",
        Setting::OnDenied => "hold",
        Setting::LedgerRepair => "true",
        Setting::DocsUrl => "https://seller.example/",
        Setting::LogFormat => "json",
        setting => match setting.spec().default {
            DefaultText::Is(text) => text,
            DefaultText::ByBuild { with_emulator, .. } => with_emulator,
            DefaultText::Depends(..) | DefaultText::Absent(_) => panic!("{setting:?} has a row here"),
        },
    }
}

fn cases() -> [Case; 2] {
    [Case::metered(), Case::contract()].map(|case| {
        case.disk("/keys/1.pem", TEST_KEY_PEM)
            .disk("/token", "hunter2hunter2hunter2")
            .disk("/config", "[profile app]")
            .disk("/credentials", "")
            .disk("/file", "")
            .disk("/ca.pem", include_str!("../testdata/authority.pem"))
    })
}

fn rows() -> impl Iterator<Item = (&'static str, &'static str)> {
    Setting::ALL.iter().map(|&setting| (setting.spec().env, value_of(setting))).chain(OTHERS)
}

#[test]
fn stray_quotes_are_refused_with_one_sentence_wherever_they_stand() {
    let all = cases().into_iter().flat_map(|case| rows().map(move |row| (case.clone(), row)));
    for (case, (name, value)) in all {
        for quoted in [format!("\"{value}\""), format!("'{value}'"), format!("{value}\"")] {
            let faults = case.clone().env(name, &quoted).load().map(|_| name).unwrap_err();
            let text = faults.to_string();
            // An invalid mode causes further faults, and so does a product code in mode `contract`.
            let more = ["TOLLGATE_MODE", "TOLLGATE_PRODUCT_CODE"].contains(&name);
            assert!(faults.as_slice().len() == 1 || more, "{name}={quoted}: {text}");
            let says = text.contains("quotes") || text.contains("is neither true nor false");
            assert!(says, "{name}={quoted}: {text}");
        }
    }
}

#[test]
fn white_space_at_the_ends_is_taken_off_by_whoever_reads_a_setting() {
    let all =
        cases().into_iter().flat_map(|case| Setting::ALL.iter().map(move |setting| (case.clone(), setting)));
    for (case, setting) in all {
        let (name, value) = (setting.spec().env, value_of(*setting));
        let load = |value: &str| match case.clone().env(name, value).load() {
            Ok(loaded) => format!("{:?}", loaded.config),
            Err(faults) => faults.to_string(),
        };
        assert_eq!(load(&format!(" {value}\r\n")), load(value), "{name}");
    }
}

#[test]
fn quotes_in_the_uid_of_a_pod_are_refused_by_those_who_only_probe_too() {
    let env = MapEnvironment::from([("TOLLGATE_POD_UID", "\"0b1f7a52\"")]);
    let disk = MemoryDisk::default();
    let installed = Installation { disk: &disk, ..Installation::compiled_in() };
    let faults = load_probe(&Flags::default(), &env, &installed).unwrap_err();
    assert_eq!(faults.to_string(), "TOLLGATE_POD_UID: holds quotes; write the value without them");
}
