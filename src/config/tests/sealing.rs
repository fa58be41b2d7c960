//! What a seller's file seals, what it hands on, and which settings the operator keeps.

use std::time::Duration;

use super::{Case, FILE, SELLER, TEST_KEY_PEM};
use crate::config::setting::{Owner, Setting};
use crate::config::{ClockSource, OnExpired, Role};

#[test]
fn the_sellers_file_wins_and_a_conflict_is_told_wherever_it_is() {
    assert!(Case::sealed("").valid().aws.sealed);
    let sealed = Case::sealed("settle = \"5m\"");
    assert_eq!(sealed.valid().usage.settle, Duration::from_secs(300));
    let faults =
        sealed.flag(Setting::Settle, "5m").env("TOLLGATE_SETTLE", "1m").disk(FILE, "settle = '2m'").faults();
    assert_eq!(faults.lines().count(), 3, "{faults}");
    assert!(
        faults.lines().all(|line| line.contains("is set by the seller's file, which always wins")),
        "{faults}"
    );
}

#[test]
fn what_the_seller_sets_of_the_operators_settings_wins_and_lets_the_pod_start() {
    let region = Case::sealed("region = 'eu-west-1'").env("AWS_REGION", "us-east-1");
    assert_eq!(region.valid().aws.region.unwrap().as_str(), "eu-west-1");
    assert_eq!(
        region.warnings(),
        [""; 0],
        "the SDK's own variable is the platform's, not a choice against the seller"
    );
    // The chart sets it for every native sidecar.
    let quiet =
        Case::sealed("drain_quiet = '7s'").env("TOLLGATE_DRAIN_QUIET", "0s").flag(Setting::DrainQuiet, "1s");
    assert_eq!(quiet.valid().usage.drain_quiet, Duration::from_secs(7));
    let warnings = quiet.warnings();
    assert_eq!(
        warnings,
        ["flag --drain-quiet", "environment TOLLGATE_DRAIN_QUIET"].map(|origin| format!(
            "drain_quiet ({origin}) is ignored: the seller's file {SELLER}:3 sets it too, and takes precedence"
        ))
    );
    for setting in Setting::ALL.iter().filter(|setting| setting.spec().owner == Owner::Operator) {
        let name = setting.spec().name;
        let case = Case::sealed(&format!("{name} = 'x'")).env(setting.spec().env, "y");
        let told = case.load().map_err(|faults| faults.to_string()).err().unwrap_or_default();
        assert!(!told.contains("which always wins") && !told.contains(setting.spec().env), "{told}");
    }
    // Unless the seller's file hands it on.
    let handed = Case::sealed("drain_quiet = '7s'\noperator_settings = ['drain_quiet']")
        .env("TOLLGATE_DRAIN_QUIET", "0s");
    assert_eq!(handed.valid().usage.drain_quiet, Duration::ZERO);
}

#[test]
fn the_seller_hands_a_setting_on_with_or_without_a_value_of_its_own() {
    let minutes = |case: &Case| case.valid().usage.settle.as_secs() / 60;
    let handed = Case::sealed("settle = '5m'\noperator_settings = ['settle', 'on_expired']");
    assert_eq!(minutes(&handed), 5);
    assert_eq!(minutes(&handed.clone().env("TOLLGATE_SETTLE", "1m")), 1);
    let case = handed.flag(Setting::OnExpired, "dead-letter");
    assert_eq!(case.valid().usage.on_expired, OnExpired::DeadLetter);
    assert!(case.flag(Setting::OnZeroHour, "report").faults().contains("on_zero_hour"));
    // A name that cannot be handed on is one fault; the valid name in the list causes no second one.
    let broken = Case::sealed("operator_settings = ['settle', 'product_code']").env("TOLLGATE_SETTLE", "1m");
    assert_eq!(broken.faults().lines().count(), 1, "{}", broken.faults());
    let operators = Case::hourly().disk(FILE, "operator_settings = ['settle']");
    assert!(operators.faults().contains("is a key of the seller's file only"));
}

#[test]
fn floors_hold_for_the_operator_beside_a_sellers_file_and_nowhere_else() {
    for (setting, below, least) in
        [(Setting::ShutdownGrace, "4999ms", "5s"), (Setting::LedgerBytesMax, "16777215", "16MiB")]
    {
        let name = setting.spec().name;
        for case in [
            Case::sealed("").flag(setting, below),
            Case::sealed("").env(setting.spec().env, below),
            Case::sealed("").disk(FILE, &format!("{name} = '{below}'")),
        ] {
            let faults = case.faults();
            assert!(
                faults.starts_with(name) && faults.contains("the minimum with a seller's file"),
                "{faults}"
            );
        }
        assert!(Case::sealed("").flag(setting, least).load().is_ok());
        assert!(Case::hourly().flag(setting, below).load().is_ok());
        assert!(Case::sealed(&format!("{name} = '{below}'")).load().is_ok());
        let handed = Case::sealed(&format!("operator_settings = ['{name}']")).flag(setting, below);
        assert!(handed.load().is_ok());
    }
}

#[test]
fn a_stop_leaves_time_to_send() {
    let case = Case::metered().flag(Setting::DrainQuiet, "25s");
    assert!(case.faults().contains("leaves nothing of shutdown_grace (25s)"), "{}", case.faults());
    assert!(case.flag(Setting::ShutdownGrace, "26s").load().is_ok());
    assert!(Case::metered().flag(Setting::ShutdownGrace, "1s").load().is_ok());
}

#[test]
fn repair_is_in_the_sellers_hands() {
    let repair = |case: Case| case.valid().usage.ledger_repair;
    let sealed = |more: &str| Case::sealed(&format!("dimensions = 'requests'\n{more}"));
    assert!(repair(Case::metered()));
    assert!(!repair(sealed("mode = 'metered'")));
    assert!(repair(sealed("mode = 'saas'")));
    assert!(repair(sealed("mode = 'metered'\nledger_repair = true")));
    assert!(sealed("mode = 'metered'").env("TOLLGATE_LEDGER_REPAIR", "true").load().is_err());
}

#[test]
fn a_build_with_the_emulator_rehearses_a_sealed_product() {
    let case = Case::sealed("mode = 'hourly'")
        .env("TOLLGATE_PRODUCT_CODE", "demohourly")
        .env("TOLLGATE_ENDPOINT_URL", "http://127.0.0.1:8090")
        .disk("/emulator/1.pem", TEST_KEY_PEM)
        .flag(Setting::PublicKeys, "/emulator");
    let loaded = case.load().unwrap();
    assert_eq!(loaded.config.product.name(), "demohourly");
    assert!(loaded.config.aws.endpoint_url.is_some());
    assert_eq!(loaded.warnings.len(), 3, "{:?}", loaded.warnings);
    assert!(loaded.warnings.iter().all(|line| line.contains("for rehearsals only")));
    assert_eq!(case.clone().release().faults().lines().count(), 3);
    // Other settings stay sealed in a rehearsal, and other endpoints stay refused.
    for setting in [Setting::Mode, Setting::GracePeriod, Setting::Dimensions] {
        assert!(case.clone().flag(setting, "x").load().is_err());
    }
    assert!(case.env("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:1").load().is_err());
}

#[test]
fn sealed_settings_come_from_the_sellers_file_or_the_defaults() {
    let sealed = |setting: &&Setting| setting.spec().owner != Owner::Operator;
    for setting in Setting::ALL.iter().filter(sealed) {
        let spec = setting.spec();
        let toml = format!("{} = \"x\"", spec.name);
        let ways = [
            Case::sealed("").flag(*setting, "x"),
            Case::sealed("").env(spec.env, "x"),
            Case::sealed("").disk(FILE, &toml),
            Case::sealed("").disk("/mine.toml", &toml).env("TOLLGATE_CONFIG", "/mine.toml"),
        ];
        for way in ways.map(Case::release) {
            let faults = way.faults();
            assert!(faults.starts_with(&format!("{} = \"x\" (", spec.name)), "{faults}");
            assert!(faults.contains("seller's file") || spec.emulator_only, "{faults}");
        }
    }
    // A missing setting can be set in the seller's file only, and the remedy says so.
    let bare = Case::empty().disk(SELLER, "");
    assert_eq!(
        bare.faults().matches("; set it in the seller's file /usr/share/tollgate/seller.toml").count(),
        2
    );
    let operator = Case::sealed("").env("AWS_REGION", "us-east-1").flag(Setting::UnavailableAfter, "1m");
    assert_eq!(operator.valid().registration.unavailable_after, Duration::from_secs(60));
    // The seller's file itself may name an endpoint, to test the image against a stand-in.
    let endpoint = Case::sealed("endpoint_url = \"http://127.0.0.1:8090\"").valid().aws;
    assert!(endpoint.endpoint_url.is_some() && endpoint.sealed);
}

#[test]
fn a_sellers_file_refuses_every_other_endpoint() {
    for name in ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_MARKETPLACE_METERING", "AWS_ENDPOINT_URL_STS"] {
        let case = Case::sealed("").env(name, "http://127.0.0.1:8090");
        assert!(
            case.faults()
                .starts_with(&format!("{name} = \"http://127.0.0.1:8090\": may not be set together"))
        );
        let ignored = case.env("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true");
        assert_eq!(ignored.faults().lines().count(), 1);
        assert!(Case::hourly().env(name, "http://127.0.0.1:8090").load().is_ok());
    }
    // A text that was meant to be a URL may hold a password, and a query.
    for (value, shown) in
        [("user:hunter22@evil", "…@evil"), ("https://u:hunter22@h/x?key=hunter22", "https://…@h/x?…")]
    {
        let faults = Case::sealed("").env("AWS_ENDPOINT_URL_S3", value).faults();
        assert!(faults.contains(&format!("AWS_ENDPOINT_URL_S3 = \"{shown}\"")), "{faults}");
    }
    let profile =
        "[default]\nregion = us-east-1\n[services s]\nmarketplace_metering =\n  endpoint_url = http://x\n";
    let metadata = Case::sealed("").env("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1");
    assert!(metadata.faults().contains("may not be set together"));
    let metadata = Case::sealed("").env("AWS_CONFIG_FILE", "/c");
    let metadata = metadata.disk("/c", "[default]\nec2_metadata_service_endpoint = http://127.0.0.1:1\n");
    assert!(metadata.faults().contains("/c:2: sets an endpoint"));
    let ways = [
        Case::sealed("").env("HOME", "/home/app").disk("/home/app/.aws/config", profile),
        Case::sealed("").env("HOME", "/home/app").disk("/home/app/.aws/credentials", profile),
        Case::sealed("").env("AWS_CONFIG_FILE", "/c").disk("/c", profile),
        Case::sealed("").env("HOME", "/h").env("AWS_SHARED_CREDENTIALS_FILE", "~/c").disk("/h/c", profile),
        // The path is read as the SDK reads it, also with a second slash or a lone tilde.
        Case::sealed("").env("HOME", "/h").env("AWS_CONFIG_FILE", "~//c").disk("/h/c", profile),
        Case::sealed("").env("HOME", "/h").env("AWS_CONFIG_FILE", "~").disk("/h", profile),
        // Without a home the files are read from the working directory.
        Case::sealed("").disk("~/.aws/config", profile),
        Case::sealed("").env("HOME", "").disk(".aws/credentials", profile),
    ];
    for way in ways {
        assert!(
            way.faults().contains(":5: sets an endpoint for AWS requests, which a seller's file forbids")
        );
    }
    assert!(
        Case::sealed("").env("HOME", "/h").disk("/h/.aws/config", "[default]\nregion = x\n").load().is_ok()
    );
    let large = Case::sealed("").env("AWS_CONFIG_FILE", "/c").disk("/c", &"#".repeat(2_000_000));
    assert!(large.faults().contains("too large to be searched"));
}

#[test]
fn a_broken_sellers_file_still_seals() {
    for broken in ["product_code =", "prodct_code = 'x'", &"#".repeat(70_000)] {
        let case = Case::hourly().disk(SELLER, broken).release();
        let faults = case.faults();
        assert!(faults.contains(SELLER), "{faults}");
        assert!(faults.contains("product_code = \"demo\" (environment TOLLGATE_PRODUCT_CODE): may be set by the seller's file only"), "{faults}");
    }
}

#[test]
fn without_the_emulator_its_settings_cannot_be_set() {
    let release = Case::release;
    assert!(!release(Case::hourly()).valid().product.allow_emulated);
    let ways = [
        release(Case::hourly()).flag(Setting::AllowEmulated, "true"),
        release(Case::hourly()).env("TOLLGATE_ALLOW_EMULATED", "false"),
        release(Case::hourly()).disk(FILE, "allow_emulated = true"),
        release(Case::sealed("allow_emulated = true")),
        release(Case::hourly()).env("TOLLGATE_CLOCK", "http://127.0.0.1:8090/_emulator/clock"),
    ];
    for way in ways {
        let faults = way.faults();
        assert!(
            faults.contains("this build does not contain the emulator") && faults.lines().count() == 1,
            "{faults}"
        );
    }
    let clock = Case::hourly().env("TOLLGATE_CLOCK", "http://127.0.0.1:8090/_emulator/clock").valid().clock;
    assert!(matches!(clock, ClockSource::Follow(url) if url.port() == 8090));
}

#[test]
fn a_sellers_file_of_mode_metered_is_asked_for_on_unsent() {
    let seller = |more: &str| Case::sealed(&format!("mode = 'metered'\ndimensions = ['a']\n{more}"));
    let check = |case: Case| case.role(Role::Inspect).warnings();
    assert!(check(seller("")).iter().any(|line| line.starts_with("on_unsent is not stated")));
    assert!(check(seller("on_unsent = 'keep'")).is_empty());
    assert!(seller("").warnings().is_empty() && check(Case::metered()).is_empty());
}

/// Otherwise the gate of an account that never subscribed stays open in spite of AWS's refusals.
#[test]
fn a_sealed_close_after_beside_a_gate_that_stays_open_after_a_denial_is_named() {
    let warned = |more: &str| {
        let case = Case::sealed(&format!("mode = 'metered'\ndimensions = ['a']\n{more}"));
        case.role(Role::Inspect).warnings().iter().any(|line| line.contains("set on_lapse = "))
    };
    assert!(warned("on_unsent = 'close-after:4h'"));
    assert!(warned("on_unsent = 'close-after:4h'\non_lapse = 'keep'"));
    assert!(!warned("on_unsent = 'close-after:4h'\non_lapse = 'close-after:1h'"));
    assert!(!warned("on_unsent = 'keep'"));
}
