//! Mode `contract`: what it needs, what it refuses, what it does not read.

use std::time::Duration;

use super::{Case, FILE, SELLER, TEST_KEY_PEM};
use crate::config::setting::Setting;
use crate::config::{License, LicenseModel, Mode, StateDir};
use tollgate_marketplace::KeyFingerprint;

const PRODUCT_ID: &str = "2205b290-19e6-4c76-9eea-377d6bf7141a";

/// A seller's file with the product alone, and `more`.
fn sealed(more: &str) -> Case {
    Case::empty().disk(SELLER, &format!("mode = 'contract'\nproduct_id = '{PRODUCT_ID}'\n{more}"))
}

fn floating() -> Case {
    Case::contract().env("TOLLGATE_LICENSE_MODEL", "floating")
}

#[test]
fn the_defaults_are_those_of_the_design() {
    let loaded = Case::contract().load().unwrap();
    assert_eq!(loaded.warnings, [""; 0]);
    let config = loaded.config;
    assert_eq!(config.product.mode, Mode::Contract);
    assert_eq!((config.product.name(), &config.product.product_code), (PRODUCT_ID, &None));
    assert_eq!(config.product.key_fingerprint, KeyFingerprint::AWS_MARKETPLACE);
    assert_eq!(config.registration.grace_period, Duration::from_secs(24 * 3600));
    assert_eq!(
        config.license,
        License {
            model: LicenseModel::Check,
            entitlements: Vec::new(),
            seats_per_pod: 1,
            renew_every: Duration::from_secs(15 * 60),
            end_grace: Duration::from_secs(72 * 3600),
            region: None,
            token_file: None,
        }
    );
    assert_eq!(Case::hourly().valid().registration.grace_period, Duration::ZERO);
    assert_eq!(
        Case::contract().env("TOLLGATE_GRACE_PERIOD", "1h").valid().registration.grace_period,
        Duration::from_secs(3600)
    );
}

#[test]
fn bad_input_gets_one_line_with_a_remedy() {
    let set = |setting: Setting, value: &str| Case::contract().flag(setting, value);
    for (case, expected) in [
        (
            Case::contract().without("TOLLGATE_PRODUCT_ID"),
            "product_id: is required; set TOLLGATE_PRODUCT_ID (or --product-id, or the key in a file)",
        ),
        (
            set(Setting::ProductId, ""),
            "product_id = \"\" (flag --product-id): is not a product ID, such as 2205",
        ),
        (
            set(Setting::ProductId, "4h9bqmt5uxk8k7p6w6n9rfwkp"),
            "product_id = \"4h9bqmt5uxk8k7p6w6n9rfwkp\" (flag --product-id): is a product code; contract products are \
             named by their product ID",
        ),
        (
            set(Setting::ProductCode, "demo"),
            "product_code = \"demo\" (flag --product-code): cannot be used in mode contract: contract products are \
             named by product_id; remove it",
        ),
        (
            set(Setting::LicenseModel, "drawdown"),
            "license_model = \"drawdown\" (flag --license-model): is neither",
        ),
        (
            set(Setting::Entitlements, "users:Users"),
            "entitlements = \"users:Users\" (flag --entitlements): holds \"users:Users\", which is not a unit of License",
        ),
        (
            set(Setting::Entitlements, "users:Count,users"),
            "entitlements = \"users:Count,users\" (flag --entitlements): names \"users\" twice; remove one",
        ),
        (
            set(Setting::Entitlements, "users:Count:0"),
            "entitlements = \"users:Count:0\" (flag --entitlements): holds \"users:Count:0\", which has a quantity",
        ),
        (
            set(Setting::Entitlements, "users:Count:99999999999999999999"),
            "entitlements = \"users:Count:99999999999999999999\" (flag --entitlements): holds \"users",
        ),
        (
            set(Setting::Entitlements, ""),
            "entitlements = \"\" (flag --entitlements): holds \"\", which does not begin with",
        ),
        (
            set(Setting::Entitlements, "'users'"),
            "entitlements = \"'users'\" (flag --entitlements): holds quotes",
        ),
        (
            Case::contract().disk(FILE, "\nentitlements = []"),
            "entitlements = \"\" (file /etc/tollgate/tollgate.toml:2): must hold 1 to 200 entitlements",
        ),
        (
            set(Setting::SeatsPerPod, "0"),
            "seats_per_pod = \"0\" (flag --seats-per-pod): is not a whole number",
        ),
        (set(Setting::RenewEvery, "59s"), "renew_every = \"59s\" (flag --renew-every): is shorter than 1m; "),
        (set(Setting::RenewEvery, "13h"), "renew_every = \"13h\" (flag --renew-every): is longer than 12h; "),
        (
            set(Setting::KeyFingerprint, "AWS/Marketplace"),
            "key_fingerprint = \"AWS/Marketplace\" (flag --key-fingerprint): is not an issuer's fingerprint",
        ),
        (
            set(Setting::LicenseRegion, "mars"),
            "license_region = \"mars\" (flag --license-region): is not the name",
        ),
        (
            set(Setting::GracePeriod, "1h").read_only("/var/lib/tollgate"),
            "state_dir = \"/var/lib/tollgate\" (default): cannot be written: permission denied, and grace_period",
        ),
    ] {
        let faults = case.faults();
        assert_eq!(faults.lines().count(), 1, "{expected}\n{faults}");
        assert!(faults.starts_with(expected), "{expected}\n{faults}");
    }
}

#[test]
fn only_a_license_of_aws_marketplace_counts_outside_a_rehearsal() {
    let other = "aws:111122223333:Seller:issuer-fingerprint";
    let case = Case::contract().env("TOLLGATE_KEY_FINGERPRINT", other);
    assert_eq!(case.valid().product.key_fingerprint.as_str(), other);
    let faults = case.release().faults();
    assert!(faults.contains("is not AWS Marketplace's") && faults.lines().count() == 1, "{faults}");
    let own = Case::contract().env("TOLLGATE_KEY_FINGERPRINT", KeyFingerprint::AWS_MARKETPLACE.as_str());
    assert!(own.release().load().is_ok());
    // In a seller's image the operator cannot set either, whatever the value.
    let by_operator = |case: Case| case.env("TOLLGATE_KEY_FINGERPRINT", other);
    let written = sealed(&format!("key_fingerprint = '{other}'"));
    assert!(by_operator(sealed("")).release().faults().contains("may be set by the seller's file only"));
    assert!(written.clone().release().faults().contains("is not AWS Marketplace's"));
    assert_eq!(by_operator(sealed("")).valid().product.key_fingerprint.as_str(), other);
    assert!(sealed("").env("TOLLGATE_PRODUCT_ID", "prod-free").release().load().is_err());
    assert_eq!(sealed("").env("TOLLGATE_PRODUCT_ID", "prod-free").valid().product.name(), "prod-free");
    assert!(sealed("operator_settings = ['key_fingerprint']").load().is_err());
}

#[test]
fn what_a_contract_does_not_use_is_named() {
    let case = Case::contract()
        .disk("/keys/1.pem", TEST_KEY_PEM)
        .env("TOLLGATE_PUBLIC_KEYS", "/keys")
        .env("TOLLGATE_DIMENSIONS", "requests")
        .env("TOLLGATE_ON_UNSENT", "keep")
        .env("TOLLGATE_AWS_DOOR", "true")
        .env("TOLLGATE_AFTER_DENIAL", "new-pod");
    let warnings = case.warnings();
    for name in ["public_keys", "dimensions", "on_unsent", "aws_door", "after_denial"] {
        let told =
            |line: &&String| line.starts_with(&format!("{name} (")) && line.contains("has no effect: ");
        assert_eq!(warnings.iter().filter(told).count(), 1, "{name}: {warnings:?}");
    }
    assert_eq!(warnings.len(), 5, "{warnings:?}");
    // Keys that the mode does not use are not read.
    assert!(Case::contract().env("TOLLGATE_PUBLIC_KEYS", "/nowhere").load().is_ok());
    // In mode `hourly` the settings of mode `contract` have no effect.
    let hourly = Case::hourly()
        .env("TOLLGATE_PRODUCT_ID", PRODUCT_ID)
        .env("TOLLGATE_ENTITLEMENTS", "users")
        .env("TOLLGATE_LICENSE_REGION", "eu-west-1")
        .env("AWS_LICENSE_ACCESS_FILE", "/nowhere");
    let warnings = hourly.warnings();
    assert!(
        warnings.iter().all(|line| line.contains("has no effect: it is for mode contract")),
        "{warnings:?}"
    );
    assert_eq!(warnings.len(), 4, "{warnings:?}");
    let config = hourly.valid();
    assert_eq!((config.license.region, config.license.token_file), (None, None));
}

#[test]
fn seats_need_a_model_that_holds_them_and_a_folder_that_keeps_them() {
    let seats = Case::contract().env("TOLLGATE_SEATS_PER_POD", "2");
    assert!(seats.warnings()[0].contains("seats_per_pod (environment TOLLGATE_SEATS_PER_POD) has no effect"));
    let floating = floating().env("TOLLGATE_SEATS_PER_POD", "2");
    assert_eq!((floating.valid().license.seats_per_pod, floating.warnings().len()), (2, 0));
    let tiers = floating.clone().env("TOLLGATE_ENTITLEMENTS", "premium:None,gold:None");
    assert!(
        tiers.warnings()[0]
            .starts_with("license_model floating holds seats, but entitlements names only tiers")
    );
    assert!(tiers.env("TOLLGATE_ENTITLEMENTS", "premium:None,users").warnings().is_empty());
    for case in
        [floating.clone().flag(Setting::StateDir, "none"), floating.clone().read_only("/var/lib/tollgate")]
    {
        assert_eq!((case.valid().state.dir, case.warnings().len()), (StateDir::None, 1));
        assert!(case.warnings()[0].contains("loses its seats"), "{:?}", case.warnings());
        let check = case.env("TOLLGATE_LICENSE_MODEL", "check").without("TOLLGATE_SEATS_PER_POD");
        assert!(!check.warnings().concat().contains("seats"), "{:?}", check.warnings());
    }
    let pod = floating.env("KUBERNETES_SERVICE_HOST", "10.0.0.1");
    assert!(pod.warnings()[0].starts_with("TOLLGATE_POD_UID is not set"), "{:?}", pod.warnings());
    assert!(pod.env("TOLLGATE_POD_UID", "0b4dd2c1").warnings().is_empty());
}

#[test]
fn the_license_token_is_a_file_with_one_line() {
    let role = |case: Case| case.env("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/anywhere");
    let with = |content: &str| {
        let case = Case::contract().disk("/var/run/secrets/product-license/license_token", content);
        role(
            case.env("AWS_WEB_IDENTITY_REFRESH_TOKEN_FILE", "/var/run/secrets/product-license/license_token"),
        )
    };
    let case = with("header.claims.signature\n");
    assert_eq!(case.warnings(), [""; 0]);
    let file = case.valid().license.token_file.unwrap();
    assert_eq!(file.to_str(), Some("/var/run/secrets/product-license/license_token"));
    // AWS's sample in Go reads the other variable; tollgate's own setting comes before both.
    let second = role(Case::contract().disk("/t", "x.y.z").env("AWS_LICENSE_ACCESS_FILE", " /t\n"));
    assert_eq!(second.valid().license.token_file.unwrap().to_str(), Some("/t"));
    let ours = with("x.y.z").disk("/mine", "x.y.z").flag(Setting::LicenseTokenFile, "/mine");
    assert_eq!(ours.valid().license.token_file.unwrap().to_str(), Some("/mine"));

    let at = |path: &str| role(Case::contract().env("AWS_LICENSE_ACCESS_FILE", path));
    for (case, said) in [
        (with(""), "holds no license token"),
        (with(" \n"), "holds no license token"),
        (with("two words"), "holds no license token"),
        (with(&"x".repeat(4097)), "cannot be read: is too large; name the file"),
        (at("/nowhere"), "cannot be read: does not exist; name the file"),
        (at("/var").disk("/var/token", "x"), "is a folder; name the file in it"),
        (at("\"/t\""), "holds quotes; write the value without them"),
        (
            at("eyJhbGciOi.JIUzI1NiJ9.c2lnbmF0dXJl"),
            "(a secret, not shown) (environment AWS_LICENSE_ACCESS_FILE)",
        ),
    ] {
        let faults = case.faults();
        assert!(faults.contains(said) && faults.lines().count() == 1, "{said}: {faults}");
        assert!(faults.starts_with("license_token_file = ") && !faults.contains("eyJ"), "{faults}");
    }
    // In a seller's image the operator still sets the token.
    let image = sealed("").disk("/t", "x.y.z").env("TOLLGATE_LICENSE_TOKEN_FILE", "/t");
    assert!(role(image.clone()).env("TOLLGATE_LICENSE_REGION", "eu-west-1").release().load().is_ok());
    let half = image.warnings();
    assert!(
        half[0].starts_with("license_token_file is set without AWS_ROLE_ARN") && half.len() == 1,
        "{half:?}"
    );
}

#[test]
fn an_endpoint_of_license_manager_is_its_own_alone() {
    let endpoint = |case: &Case| {
        let aws = case.valid().aws;
        (aws.endpoint_url.map(|url| url.port()), aws.stands_for_all)
    };
    let variable = "AWS_ENDPOINT_URL_LICENSE_MANAGER";
    let case = Case::contract().env(variable, "http://127.0.0.1:8091");
    assert_eq!(endpoint(&case), (Some(8091), false));
    let both = case.clone().env("AWS_ENDPOINT_URL", "http://127.0.0.1:8090");
    assert_eq!(endpoint(&both), (Some(8091), false));
    assert_eq!(endpoint(&both.without(variable)), (Some(8090), true));
    let metering = "AWS_ENDPOINT_URL_MARKETPLACE_METERING";
    assert_eq!(endpoint(&Case::contract().env(metering, "http://127.0.0.1:8092")), (None, true));
    assert_eq!(endpoint(&Case::hourly().env(variable, "http://127.0.0.1:8091")), (None, true));
    assert_eq!(endpoint(&case.clone().env("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")), (None, true));
    let url = case.env("TOLLGATE_ENDPOINT_URL", "http://127.0.0.1:8093");
    assert_eq!(endpoint(&url), (Some(8093), true));

    let refused = sealed("").env(variable, "http://127.0.0.1:8091").faults();
    assert!(refused.starts_with(&format!("{variable} = \"http://127.0.0.1:8091\": may not be set together")));
    let profile = "[default]\nservices = s\n[services s]\nlicense_manager =\n  endpoint_url = http://x\n";
    let refused = sealed("").env("AWS_CONFIG_FILE", "/c").disk("/c", profile).faults();
    assert!(refused.contains("/c:5: sets an endpoint for AWS requests, which a seller's file forbids"));
    assert!(Case::contract().env("AWS_CONFIG_FILE", "/c").disk("/c", profile).load().is_ok());
}
