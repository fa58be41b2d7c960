//! Tests of the whole configuration, on files and variables in memory.

mod contract;
mod credentials;
mod dimensions;
mod quotes;
mod sealing;
mod shared_ledger;

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::setting::{Owner, Setting};
use super::*;
use tollgate_disk::Links;
use tollgate_ledger::engine::Engine;
use tollgate_marketplace::PublicKeyVersion;

/// A public key such as AWS issues (RSA-3072), made for these tests; nobody holds its private key.
pub(crate) const TEST_KEY_PEM: &str = include_str!("testdata/rsa3072.pem");

const SELLER: &str = "/usr/share/tollgate/seller.toml";
const FILE: &str = "/etc/tollgate/tollgate.toml";

/// A configuration to load: the least that is valid, and what a test adds.
#[derive(Clone)]
struct Case {
    flags: Flags,
    env: Vec<(String, String)>,
    disk: MemoryDisk,
    emulator: bool,
    engine: Option<&'static dyn Engine>,
    role: Role,
}

impl Case {
    /// Nothing at all.
    fn empty() -> Self {
        Self {
            flags: Flags::default(),
            env: Vec::new(),
            disk: MemoryDisk::default(),
            emulator: true,
            engine: None,
            role: Role::Run,
        }
    }

    /// A valid configuration in mode `hourly`.
    fn hourly() -> Self {
        Self::empty()
            .disk("/keys/1.pem", TEST_KEY_PEM)
            .env("TOLLGATE_PRODUCT_CODE", "demo")
            .env("TOLLGATE_PUBLIC_KEYS", "/keys")
    }

    /// A valid configuration in mode `metered`.
    fn metered() -> Self {
        Self::empty()
            .env("TOLLGATE_PRODUCT_CODE", "demo")
            .env("TOLLGATE_MODE", "metered")
            .env("TOLLGATE_DIMENSIONS", "requests,gigabytes")
    }

    /// A valid configuration in mode `contract`.
    fn contract() -> Self {
        Self::empty()
            .env("TOLLGATE_MODE", "contract")
            .env("TOLLGATE_PRODUCT_ID", "2205b290-19e6-4c76-9eea-377d6bf7141a")
    }

    /// A valid configuration in a seller's image.
    fn sealed(more: &str) -> Self {
        let seller = format!("product_code = \"demo\"\npublic_keys = \"keys\"\n{more}");
        Self::empty().disk("/usr/share/tollgate/keys/1.pem", TEST_KEY_PEM).disk(SELLER, &seller)
    }

    fn flag(mut self, setting: Setting, value: &str) -> Self {
        self.flags = self.flags.with(setting, value);
        self
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.env.retain(|(known, _)| known != name);
        self
    }

    fn disk(mut self, path: &str, content: &str) -> Self {
        self.disk = self.disk.with(path, content);
        self
    }

    fn read_only(mut self, folder: &str) -> Self {
        self.disk = self.disk.with_read_only(folder);
        self
    }

    fn full(mut self, folder: &str) -> Self {
        self.disk = self.disk.with_full(folder);
        self
    }

    fn role(mut self, role: Role) -> Self {
        self.role = role;
        self
    }

    /// Read by a build without the emulator.
    fn release(mut self) -> Self {
        self.emulator = false;
        self
    }

    fn load(&self) -> Result<Loaded, Faults> {
        let env: MapEnvironment = self.env.iter().cloned().collect();
        load(&self.flags, &env, &self.installed(), self.role)
    }

    fn installed(&self) -> Installation<'_> {
        Installation {
            seller_file: SELLER.into(),
            default_file: FILE.into(),
            emulator: self.emulator,
            engine: self.engine,
            disk: &self.disk,
        }
    }

    #[track_caller]
    fn valid(&self) -> Config {
        self.load().map(|loaded| loaded.config).map_err(|faults| faults.to_string()).unwrap()
    }

    #[track_caller]
    fn warnings(&self) -> Vec<String> {
        self.load().map_err(|faults| faults.to_string()).unwrap().warnings
    }

    #[track_caller]
    fn faults(&self) -> String {
        self.load().unwrap_err().to_string()
    }
}

#[test]
fn the_defaults_are_those_of_the_table() {
    let loaded = Case::hourly().load().unwrap();
    assert_eq!(loaded.warnings, Vec::<String>::new());
    let config = loaded.config;
    assert_eq!(config.product.mode, Mode::Hourly);
    assert!(config.product.allow_emulated && !config.aws.sealed);
    assert_eq!(config.product.public_key_version, None);
    let registration = config.registration;
    assert_eq!(registration.unavailable_after, Duration::from_secs(1800));
    assert_eq!(registration.grace_period, Duration::ZERO);
    assert_eq!(registration.on_denied, OnDenied::Hold);
    assert_eq!(registration.on_lapse, OnLapse::Keep);
    assert_eq!(registration.after_denial, AfterDenial::AskAgain);
    assert!(registration.kept_receipt);
    assert_eq!(config.probe.addr.to_string(), "[::]:19180");
    assert_eq!(config.app.addr.to_string(), "127.0.0.1:19181");
    assert!(config.app.token.is_none() && !config.app.aws_door && !config.app.quit);
    assert_eq!(config.state.dir, StateDir::Default("/var/lib/tollgate".into()));
    let usage = config.usage;
    assert_eq!((usage.settle, usage.metered.len()), (Duration::from_secs(120), 0));
    assert_eq!(usage.on_expired, OnExpired::Carry);
    assert_eq!(usage.on_zero_hour, OnZeroHour::Skip);
    assert!(usage.seal_on_shutdown);
    assert_eq!(usage.shutdown_grace, Duration::from_secs(25));
    assert_eq!(usage.drain_quiet, Duration::from_secs(2));
    assert_eq!(usage.command_grace, Duration::from_secs(20));
    assert_eq!(usage.idempotency_window, Duration::from_secs(48 * 3600));
    assert_eq!(usage.on_unsent, OnUnsent::Keep);
    assert!(!usage.strict_usage);
    assert!(usage.ledger_repair);
    assert_eq!(usage.ledger_bytes_max, 1 << 30);
    assert_eq!(config.log, Log { format: None, filter: "info".into() });
    assert_eq!(config.clock, ClockSource::System);
    assert!(config.aws.region.is_none() && config.aws.endpoint_url.is_none());
}

#[test]
fn on_denied_depends_on_who_asks_unless_it_is_set() {
    let exec = Case::hourly().role(Role::Exec);
    assert_eq!(exec.valid().registration.on_denied, OnDenied::Exit);
    assert_eq!(exec.flag(Setting::OnDenied, "hold").valid().registration.on_denied, OnDenied::Hold);
    let metered = Case::metered().role(Role::Exec).valid().registration;
    assert!(metered.on_denied == OnDenied::Exit && metered.stays_once_open);
    let quits = Case::metered().role(Role::Exec).flag(Setting::Quit, "true").load().unwrap().warnings;
    assert!(quits.iter().any(|line| line.starts_with("quit (flag --quit) has no effect: ")), "{quits:?}");
    let faults = Case::metered().env("TOLLGATE_MODE", "saas").role(Role::Exec).faults();
    assert!(faults.contains("cannot be used with exec"), "{faults}");
}

/// Mistakes that operators make: one clear line each.
#[test]
fn bad_input_gets_one_line_with_a_remedy() {
    let key =
        |file: &str, content: &str| Case::hourly().disk(file, content).env("TOLLGATE_PUBLIC_KEYS", file);
    let private = format!("-----BEGIN {0}-----\nMC4=\n-----END {0}-----\n", "PRIVATE KEY");
    let cases: Vec<(Case, &str)> = vec![
        (
            key("/k.pem", "hello"),
            "public_keys = \"/k.pem\" (environment TOLLGATE_PUBLIC_KEYS): is not usable: ",
        ),
        (key("/k.pem", ""), "public_keys = \"/k.pem\" (environment TOLLGATE_PUBLIC_KEYS): is not usable: "),
        (key("/k.pem", include_str!("testdata/rsa1024.pem")), "public_keys = \"/k.pem\""),
        (key("/k.pem", include_str!("testdata/ec.pem")), "public_keys = \"/k.pem\""),
        (key("/k.pem", &private), "public_keys = \"/k.pem\""),
        (
            key("/k.pem", &"x".repeat(20_000)),
            "public_keys = \"/k.pem\" (environment TOLLGATE_PUBLIC_KEYS): is larger",
        ),
        (
            Case::hourly().env("TOLLGATE_PUBLIC_KEYS", "/nowhere"),
            "public_keys = \"/nowhere\" (environment TOLLGATE_PUBLIC_KEYS): cannot be read: does not exist; use the",
        ),
        (
            key("/k/v2.pem", TEST_KEY_PEM).env("TOLLGATE_PUBLIC_KEYS", "/k"),
            "public_keys = \"/k\" (environment TOLLGATE_PUBLIC_KEYS): holds \"v2.pem\"; name each key",
        ),
        (
            key("/k/notes", "x").env("TOLLGATE_PUBLIC_KEYS", "/k"),
            "public_keys = \"/k\" (environment TOLLGATE_PUBLIC_KEYS): holds no <version>.pem",
        ),
        (
            Case::hourly().env("TOLLGATE_PUBLIC_KEYS", &private),
            "public_keys = (a PEM text, not shown) (environment TOLLGATE_PUBLIC_KEYS): ",
        ),
        (
            Case::hourly().env("TOLLGATE_PUBLIC_KEY_VERSION", "3"),
            "public_key_version = \"3\" (environment TOLLGATE_PUBLIC_KEY_VERSION): is not among the keys in public_keys (1); ",
        ),
        (
            Case::hourly().env("TOLLGATE_PRODUCT_CODE", ""),
            "product_code = \"\" (environment TOLLGATE_PRODUCT_CODE): is empty; ",
        ),
        (
            Case::hourly().env("AWS_REGION", "mars"),
            "region = \"mars\" (environment AWS_REGION): is not the name of an AWS region",
        ),
        (Case::hourly().flag(Setting::Region, ""), "region = \"\" (flag --region): is not the name"),
        (
            Case::hourly().flag(Setting::Mode, "contracts"),
            "mode = \"contracts\" (flag --mode): is not a mode; use hourly, metered, contract or saas",
        ),
        (
            Case::hourly().env("TOLLGATE_STATE_DIR", "/ro").read_only("/ro"),
            "state_dir = \"/ro\" (environment TOLLGATE_STATE_DIR): cannot be written: permission denied; mount a volume",
        ),
        (
            Case::metered().read_only("/var/lib/tollgate"),
            "state_dir = \"/var/lib/tollgate\" (default): cannot be written: permission denied, and mode metered keeps",
        ),
        (
            Case::hourly().env("TOLLGATE_GRACE_PERIOD", "1h").read_only("/var/lib/tollgate"),
            "state_dir = \"/var/lib/tollgate\" (default): cannot be written: permission denied, and grace_period",
        ),
        (
            Case::metered().flag(Setting::StateDir, "none"),
            "state_dir = \"none\" (flag --state-dir): keeps nothing, but mode",
        ),
        (
            Case::hourly().flag(Setting::AppAddr, "0.0.0.0:19181"),
            "app_addr = \"0.0.0.0:19181\" (flag --app-addr): is reachable",
        ),
        (
            Case::hourly().flag(Setting::AppAddr, "127.0.0.1:19180"),
            "app_addr = \"127.0.0.1:19180\" (flag --app-addr): collides",
        ),
        (
            Case::hourly().flag(Setting::AppTokenFile, "s3cret"),
            "app_token_file = (a secret, not shown) (flag --app-token-file): cannot be read",
        ),
        (
            Case::hourly().disk("/t", "two words").flag(Setting::AppTokenFile, "/t"),
            "app_token_file = \"/t\" (flag --app-token-file): holds no token",
        ),
        (
            Case::hourly().flag(Setting::EndpointUrl, "metering"),
            "endpoint_url = \"metering\" (flag --endpoint-url): is not a URL",
        ),
        (
            Case::hourly().env("AWS_ENDPOINT_URL", "http://localhost:19181"),
            "endpoint_url = \"http://localhost:19181\" (environment AWS_ENDPOINT_URL): is this sidecar's own app_addr",
        ),
        (
            Case::hourly().env("AWS_CA_BUNDLE", "/nowhere"),
            "AWS_CA_BUNDLE = \"/nowhere\" (environment AWS_CA_BUNDLE): cannot be read",
        ),
        (
            Case::hourly().disk("/ca", "x").env("AWS_CA_BUNDLE", "/ca"),
            "AWS_CA_BUNDLE = \"/ca\" (environment AWS_CA_BUNDLE): holds no ",
        ),
        (
            Case::hourly().disk("/ca", &"x".repeat(1024 * 1024 + 1)).env("AWS_CA_BUNDLE", "/ca"),
            "AWS_CA_BUNDLE = \"/ca\" (environment AWS_CA_BUNDLE): is larger than the 1 MiB of a bundle",
        ),
        (
            Case::hourly().env("AWS_USE_FIPS_ENDPOINT", "1"),
            "AWS_USE_FIPS_ENDPOINT = \"1\" (environment AWS_USE_FIPS_ENDPOINT): is neither true nor false",
        ),
        (
            Case::hourly().env("TOLLGATE_CONFIG", "/nowhere"),
            "/nowhere: cannot be read: does not exist; correct the path",
        ),
        (
            Case::hourly().disk(FILE, "regoin = 'x'"),
            "/etc/tollgate/tollgate.toml:1: the key \"regoin\" is unknown; did you mean region?",
        ),
        (
            Case::hourly().disk(FILE, &"#".repeat(70_000)),
            "/etc/tollgate/tollgate.toml: is larger than the 64 KiB",
        ),
        (
            Case::hourly().disk(FILE, "\nsettle = \"2h\""),
            "settle = \"2h\" (file /etc/tollgate/tollgate.toml:2): is longer than 59m; ",
        ),
        (Case::hourly().flag(Setting::Clock, "sundial"), "clock = \"sundial\" (flag --clock): is not a URL"),
        (Case::hourly().env("TOLLGATE_POD_UID", "a b"), "TOLLGATE_POD_UID: is not a pod's UID; "),
        (
            Case::hourly().env("AWS_REGION", "us-esat-1"),
            "region = \"us-esat-1\" (environment AWS_REGION): is not the name of an AWS region",
        ),
        (
            Case::hourly().flag(Setting::LogFilter, "inof"),
            "log_filter = \"inof\" (flag --log-filter): is not a log filter; write off, error, warn, info, debug or trace",
        ),
        (
            Case::hourly().flag(Setting::Settle, "'2m'"),
            "settle = \"'2m'\" (flag --settle): holds quotes; write the value without them",
        ),
        (
            Case::metered().env("TOLLGATE_DIMENSIONS", "requests,\"gigabytes\""),
            "dimensions = \"requests,\\\"gigabytes\\\"\" (environment TOLLGATE_DIMENSIONS): holds quotes; ",
        ),
        (
            Case::hourly().env("HTTPS_PROXY", "'http://u:hunter2@proxy'"),
            "HTTPS_PROXY (environment HTTPS_PROXY): holds quotes; ",
        ),
        (
            Case::hourly().env("http_proxy", "http://proxy:port"),
            "http_proxy (environment http_proxy): is not the address of a proxy; ",
        ),
        (
            Case::hourly().env("NO_PROXY", "\"169.254.170.23\""),
            "NO_PROXY (environment NO_PROXY): holds quotes; ",
        ),
        (
            Case::hourly().env("HTTPS_PROXY", "http://proxy:1").env("REQUEST_METHOD", "GET"),
            "REQUEST_METHOD: makes the HTTP client ignore every proxy variable; ",
        ),
        (
            Case::hourly().env("AWS_SESSION_TOKEN", "hunter2\nhunter2"),
            "AWS_SESSION_TOKEN (environment AWS_SESSION_TOKEN): holds white space; ",
        ),
        (
            Case::hourly().env("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/app\n"),
            "AWS_ROLE_ARN (environment AWS_ROLE_ARN): has white space at an end; ",
        ),
    ];
    for (case, expected) in cases {
        let faults = case.faults();
        assert_eq!(faults.lines().count(), 1, "{expected}\n{faults}");
        assert!(faults.starts_with(expected), "{expected}\n{faults}");
    }
    let faults = Case::empty().faults();
    assert_eq!(faults.lines().count(), 2, "{faults}");
    assert!(
        faults.contains("product_code: is required; set TOLLGATE_PRODUCT_CODE")
            && faults.contains("public_keys")
    );
}

#[test]
fn white_space_around_a_value_is_no_part_of_it() {
    let case = Case::hourly()
        .disk("/token", " 0123456789abcdef\r\n")
        .flag(Setting::AppTokenFile, "/token\n")
        .env("TOLLGATE_PRODUCT_CODE", " demo\n")
        .env("TOLLGATE_PUBLIC_KEYS", "/keys ")
        .env("AWS_REGION", "us-east-1\n")
        .env("HTTPS_PROXY", "http://proxy:3128\n")
        .disk(FILE, "settle = ' 3m'");
    let config = case.valid();
    assert_eq!(config.product.name(), "demo");
    assert_eq!(config.app.token.unwrap().expose(), "0123456789abcdef");
    assert_eq!(config.aws.region.unwrap().as_str(), "us-east-1");
    assert_eq!(config.aws.proxies.https.unwrap().expose(), "http://proxy:3128");
    assert_eq!(config.usage.settle, Duration::from_secs(180));
}

#[test]
fn half_a_key_is_told() {
    let warnings = Case::hourly().env("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE").warnings();
    assert_eq!(warnings.len(), 1);
    assert!(
        warnings[0].starts_with("AWS_ACCESS_KEY_ID is set without AWS_SECRET_ACCESS_KEY"),
        "{warnings:?}"
    );
}

#[test]
fn all_faults_come_at_once() {
    let case = Setting::ALL.iter().fold(Case::empty(), |case, setting| case.flag(*setting, "\u{1}"));
    let faults = case.load().unwrap_err();
    for &setting in Setting::ALL {
        let name = setting.spec().name;
        assert!(
            faults.as_slice().iter().any(|fault| fault.subject == name) || name == "state_dir",
            "{name}: {faults}"
        );
    }
}

#[test]
fn an_unwritable_default_folder_is_one_warning_where_nothing_needs_it() {
    let case = Case::hourly().read_only("/var/lib/tollgate");
    assert_eq!(case.valid().state.dir, StateDir::None);
    assert_eq!(case.warnings().len(), 1);
    assert!(case.warnings()[0].contains("/var/lib/tollgate cannot be written: permission denied"));
    let none = Case::hourly().flag(Setting::StateDir, "none");
    assert_eq!((none.valid().state.dir, none.warnings().len()), (StateDir::None, 0));
    let named = Case::hourly().flag(Setting::StateDir, "/data");
    assert_eq!(named.valid().state.dir, StateDir::Explicit("/data".into()));
}

#[test]
fn keys_are_a_folder_or_one_file() {
    let version = |n| PublicKeyVersion::try_new(n).unwrap();
    let held = |case: &Case| case.valid().product.keys.versions().collect::<Vec<_>>();
    assert_eq!(held(&Case::hourly()), [version(1)]);
    // Kubernetes mounts bookkeeping entries beside the keys.
    let two = Case::hourly()
        .disk("/keys/2.pem", TEST_KEY_PEM)
        .disk("/keys/..data/1.pem", "x")
        .disk("/keys/README", "x");
    assert_eq!(held(&two), [version(1), version(2)]);
    let one = Case::hourly().disk("/k.pem", TEST_KEY_PEM).env("TOLLGATE_PUBLIC_KEYS", "/k.pem");
    assert_eq!(held(&one), [version(1)]);
    assert_eq!(held(&one.env("TOLLGATE_PUBLIC_KEY_VERSION", "7")), [version(7)]);
    assert_eq!(held(&Case::metered()), []);
}

#[test]
fn every_wrong_key_of_a_folder_is_named() {
    let faults = Case::hourly().disk("/keys/2.pem", "x").disk("/keys/zwei.pem", TEST_KEY_PEM).faults();
    assert_eq!(faults.lines().count(), 2, "{faults}");
    assert!(faults.contains("\"2.pem\", which is not usable") && faults.contains("\"zwei.pem\""), "{faults}");
}

#[test]
fn paths_in_a_file_are_relative_to_it() {
    let case = Case::empty()
        .disk(
            "/srv/t.toml",
            "product_code = 'demo'\npublic_keys = 'keys'\napp_token_file = 'token'\nstate_dir = 'state'",
        )
        .disk("/srv/keys/1.pem", TEST_KEY_PEM)
        .disk("/srv/token", "0123456789abcdef\n")
        .env("TOLLGATE_CONFIG", "/srv/t.toml");
    let config = case.valid();
    assert_eq!(config.state.dir.path(), Some(Path::new("/srv/state")));
    assert_eq!(config.app.token.unwrap().expose(), "0123456789abcdef");
}

#[test]
fn the_region_and_the_endpoint_may_come_from_the_sdks_variables() {
    let case = Case::hourly()
        .env("AWS_DEFAULT_REGION", "eu-west-1")
        .env("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        .env("AWS_ENDPOINT_URL_MARKETPLACE_METERING", "http://127.0.0.1:2/x");
    let aws = case.valid().aws;
    assert_eq!(aws.region.unwrap().as_str(), "eu-west-1");
    assert_eq!(aws.endpoint_url.unwrap().as_str(), "http://127.0.0.1:2/x");
    let case = case.env("AWS_REGION", "us-east-1").env("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "TRUE");
    let aws = case.valid().aws;
    assert_eq!(aws.region.unwrap().as_str(), "us-east-1");
    assert_eq!(aws.region_origin.to_string(), "environment AWS_REGION");
    assert!(aws.endpoint_url.is_none());
    let aws = case.disk(FILE, "region = 'sa-east-1'").env("AWS_REGION", "").valid().aws;
    assert_eq!(aws.region.unwrap().as_str(), "sa-east-1");
}

/// If an unknown region were a fault, pods in a new region could not start until the next release of tollgate.
#[test]
fn a_region_of_the_right_form_that_is_not_known_is_a_warning_that_names_it() {
    let warnings = |region: &str| Case::hourly().env("AWS_REGION", region).warnings();
    let unknown = warnings("us-east-9");
    assert!(
        unknown.len() == 1
            && unknown[0].starts_with("region us-east-9 (environment AWS_REGION) is not an AWS region"),
        "{unknown:?}"
    );
    assert!(warnings("us-east-1").is_empty());
}

#[test]
fn unencrypted_http_to_another_machine_is_a_warning() {
    let warnings = |url: &str| Case::hourly().flag(Setting::EndpointUrl, url).warnings();
    assert_eq!(warnings("http://metering.internal:8090").len(), 1);
    assert!(warnings("http://localhost:8090").is_empty() && warnings("https://metering.internal").is_empty());
}

#[test]
fn a_real_bundle_is_read_and_secrets_are_not_shown() {
    let case = Case::hourly()
        .disk("/ca.pem", include_str!("testdata/authority.pem"))
        .disk("/token", "hunter2hunter2hunter2")
        .env("AWS_CA_BUNDLE", "/ca.pem")
        .env("https_proxy", "http://u:hunter2@proxy:3128")
        .flag(Setting::AppTokenFile, "/token")
        .flag(Setting::AppAddr, "0.0.0.0:19181");
    let loaded = case.load().unwrap();
    assert!(loaded.config.aws.ca_bundle.is_some());
    assert_eq!(loaded.config.aws.proxies.https.as_ref().unwrap().expose(), "http://u:hunter2@proxy:3128");
    assert!(!format!("{loaded:?}").contains("hunter2"), "{loaded:?}");
}

/// The token itself, put where its file's name belongs, appears in no log.
#[test]
fn a_token_in_place_of_its_file_is_not_shown() {
    let token = "hunter22/hunter22/hunter22";
    for name in
        ["TOLLGATE_APP_TOKEN_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"]
    {
        let faults = Case::hourly().env(name, token).faults();
        assert!(!faults.is_empty() && !faults.contains("hunter22"), "{name}: {faults}");
    }
    let path = Case::hourly().env("TOLLGATE_APP_TOKEN_FILE", "/run/secrets/absent").faults();
    assert!(path.contains("/run/secrets/absent"), "{path}");
}

#[test]
fn unknown_variables_are_warnings_and_kubernetes_own_are_not() {
    let warnings = Case::hourly()
        .env("TOLLGATE_PORT", "tcp://10.0.0.1:19180")
        .env("TOLLGATE_PORT_19180_TCP_ADDR", "10.0.0.1")
        .env("TOLLGATE_SERVICE_HOST", "10.0.0.1")
        .env("TOLLGATE_POD_UID", "0d1f")
        .env("TOLLGATE_REGOIN", "x")
        .warnings();
    assert_eq!(
        warnings,
        ["the environment variable TOLLGATE_REGOIN is unknown and ignored; did you mean TOLLGATE_REGION?"]
    );
}

#[test]
fn settings_without_effect_are_warnings() {
    let case = Case::hourly()
        .flag(Setting::EntitlementDimension, "alive")
        .flag(Setting::Dimensions, "requests, gigabytes");
    assert_eq!(case.warnings().len(), 2);
    assert_eq!(case.valid().product.entitlement_dimension, None);
    let case = Case::metered().flag(Setting::EntitlementDimension, "alive").without("TOLLGATE_DIMENSIONS");
    let case = case.disk(FILE, "dimensions = ['a,b', 'c']");
    assert!(case.warnings().iter().all(|line| line.contains("holds the name \"a,b\"")));
    let product = case.valid().product;
    assert_eq!(product.entitlement_dimension.as_deref(), Some("alive"));
    assert_eq!(product.dimensions.unwrap(), ["a,b", "c"]);
}

#[test]
fn the_identity_is_the_uid_else_the_task_else_the_host() {
    let case = Case::hourly().disk("/proc/sys/kernel/hostname", "pod-7\n");
    assert_eq!(case.valid().identity.resolve(None), Some("pod-7"));
    assert_eq!(case.valid().identity.resolve(Some("arn:task")), Some("arn:task"));
    let case = case.env("TOLLGATE_POD_UID", "0d1f");
    assert_eq!(case.valid().identity.resolve(Some("arn:task")), Some("0d1f"));
}

/// Otherwise usage of a dimension that is not configured would be accepted, and refused by AWS.
#[test]
fn products_priced_by_use_state_their_dimensions() {
    for mode in ["metered", "saas"] {
        let case = Case::metered().env("TOLLGATE_MODE", mode).without("TOLLGATE_DIMENSIONS");
        let expected = format!(
            "dimensions: is required in mode {mode}: the usage dimensions of the product; set TOLLGATE_DIMENSIONS (or --dimensions, or the key in a file)"
        );
        assert_eq!(case.faults(), expected);
    }
    let sealed = Case::sealed("mode = 'metered'");
    assert!(sealed.faults().ends_with("; set it in the seller's file /usr/share/tollgate/seller.toml"));
    assert!(sealed.env("TOLLGATE_DIMENSIONS", "requests").load().is_err());
    assert!(Case::metered().env("TOLLGATE_DIMENSIONS", "").faults().contains("dimension name that is empty"));
}

#[test]
fn what_happens_to_unsent_usage_is_a_policy_of_at_least_two_hours() {
    let policy = |text: &str| Case::metered().flag(Setting::OnUnsent, text);
    assert_eq!(policy("keep").valid().usage.on_unsent, OnUnsent::Keep);
    let after = OnUnsent::CloseAfter(Duration::from_secs(2 * 3600));
    assert_eq!(policy("close-after:2h").valid().usage.on_unsent, after);
    for bad in ["close-after:1h59m", "close-after:", "close", ""] {
        assert!(policy(bad).faults().starts_with("on_unsent = "), "{bad}");
    }
    let denial = |text: &str| Case::hourly().flag(Setting::AfterDenial, text);
    assert_eq!(denial("new-pod").valid().registration.after_denial, AfterDenial::NewPod);
    assert!(denial("never").load().is_err());
    assert!(Case::metered().flag(Setting::IdempotencyWindow, "119m").load().is_err());
    assert!(Case::metered().flag(Setting::IdempotencyWindow, "31d").load().is_err());
    let docs = |url: &str| Case::hourly().flag(Setting::DocsUrl, url);
    assert!(docs("https://docs.example.com/runbook#").load().is_ok());
    assert!(docs("docs.example.com").load().is_err() && docs("https://").load().is_err());
}

#[test]
fn probe_needs_its_address_and_nothing_else() {
    let probe = |case: &Case| {
        let env: MapEnvironment = case.env.iter().cloned().collect();
        load_probe(&case.flags, &env, &case.installed())
    };
    let broken_otherwise = Case::empty().env("AWS_REGION", "mars").env("TOLLGATE_PROBE_ADDR", "127.0.0.1:7");
    assert_eq!(probe(&broken_otherwise).unwrap().addr.to_string(), "127.0.0.1:7");
    assert!(probe(&Case::empty().env("TOLLGATE_PROBE_ADDR", "x")).is_err());
    assert!(probe(&Case::empty().disk(FILE, "=")).is_err());
}

#[test]
fn the_real_disk_proves_that_a_folder_can_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SystemDisk;
    let state = dir.path().join("a/b");
    disk.try_write(&state, false).unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "no folder that was made stays");
    disk.try_write(&state, true).unwrap();
    assert!(state.is_dir() && std::fs::read_dir(&state).unwrap().next().is_none());
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    assert!(disk.try_write(&file, true).is_err() && disk.try_write(&file.join("below"), true).is_err());
    // A name that is too long: the folders above it are made, it is not.
    let unusable = dir.path().join("c/d").join("x".repeat(300));
    assert!(disk.try_write(&unusable, false).is_err() && !dir.path().join("c").exists());
    disk.try_write(&dir.path().join("a/e"), false).unwrap();
    assert!(dir.path().join("a").exists(), "a folder that was there stays");
    assert_eq!(disk.read(&file, 1, Links::Refuse).unwrap(), b"x");
    assert_eq!(disk.list(&file, 9).unwrap_err().kind(), std::io::ErrorKind::NotADirectory);
    assert_eq!(disk.list(dir.path(), 9).unwrap(), ["a", "file"]);
    assert_eq!(disk.list(dir.path(), 1).unwrap_err().kind(), std::io::ErrorKind::FileTooLarge);
}

/// The documentation of settings is generated; these variables are read apart from the settings.
#[test]
fn the_documentation_explains_every_other_variable() {
    let page = include_str!("../../docs/CONFIGURATION.md");
    for variable in
        [CONFIG_VARIABLE, POD_UID_VARIABLE].iter().chain(sdk::SHOWN_VARIABLES).chain(&proxy::VARIABLES)
    {
        assert!(page.contains(&format!("`{variable}`")), "docs/CONFIGURATION.md must explain {variable}");
    }
}

fn setting() -> impl Strategy<Value = Setting> {
    proptest::sample::select(Setting::ALL)
}

/// Valid texts, texts that are nearly valid, and arbitrary ones.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        proptest::sample::select(vec![
            "hourly",
            "metered",
            "saas",
            "demo",
            "1",
            "true",
            "off",
            "none",
            "1h30m",
            "2m",
            "1GiB",
            "keep",
            "close-after:1h",
            "carry",
            "skip",
            "report",
            "hold",
            "exit",
            "json",
            "info",
            "system",
            "us-east-1",
            "127.0.0.1:0",
            "[::]:1",
            "unix:/s",
            "http://127.0.0.1:1",
            "/keys",
            "/k.pem",
            "a,b",
            "{ a = { scale = 2 }, b = { heartbeat = 1 } }",
            "{ a = { aggregation = 'max' } }",
            "-----BEGIN",
        ])
        .prop_map(str::to_owned),
        any::<String>(),
        "[ -~]{0,40}",
    ]
}

proptest! {
    #[test]
    fn nothing_that_is_configured_can_panic(
        flags in proptest::collection::vec((setting(), value()), 0..6),
        env in proptest::collection::vec((setting(), value()), 0..6),
        stray in proptest::collection::vec(("[A-Z_]{0,20}", value()), 0..4),
        seller in proptest::option::of(any::<String>()),
        file in proptest::collection::vec((setting(), value()), 0..6),
        key in any::<String>(),
    ) {
        let mut case = Case::empty().disk("/keys/1.pem", TEST_KEY_PEM).disk("/k.pem", &key);
        for (setting, value) in &flags {
            case = case.flag(*setting, value);
        }
        for (setting, value) in &env {
            case = case.env(setting.spec().env, value);
        }
        for (name, value) in &stray {
            case = case.env(&format!("TOLLGATE_{name}"), value).env(&format!("AWS_{name}"), value);
        }
        let file: String = file.iter().map(|(s, v)| format!("{} = {v:?}\n", s.spec().name)).collect();
        case = case.disk(FILE, &file);
        if let Some(seller) = &seller {
            case = case.disk(SELLER, seller);
        }
        match case.load() {
            Ok(loaded) => prop_assert!(!loaded.origins.is_empty()),
            Err(faults) => {
                prop_assert!(!faults.as_slice().is_empty());
                for fault in faults.as_slice() {
                    prop_assert_eq!(fault.to_string().lines().count(), 1, "{:?}", fault);
                }
                prop_assert!(faults.summary().len() <= 512);
            }
        }
    }

    #[test]
    fn arbitrary_bytes_are_no_configuration_that_panics(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let disk = MemoryDisk::default().with(SELLER, bytes.clone()).with(FILE, bytes);
        let installed = Installation { disk: &disk, ..Installation::compiled_in() };
        let loaded = load(&Flags::default(), &MapEnvironment::default(), &installed, Role::Run);
        prop_assert!(loaded.is_err());
    }

    /// Flags take precedence over the environment, the environment over the file, and the file over the default.
    #[test]
    fn precedence(flag: bool, env: bool, file: bool) {
        let mut case = Case::hourly();
        let mut expected = "2m";
        if file {
            case = case.disk(FILE, "settle = \"3m\"");
            expected = "3m";
        }
        if env {
            case = case.env("TOLLGATE_SETTLE", "4m");
            expected = "4m";
        }
        if flag {
            case = case.flag(Setting::Settle, "5m");
            expected = "5m";
        }
        prop_assert_eq!(case.valid().usage.settle, duration(expected).unwrap());
    }

    /// Whatever is set beside a seller's file: the seller's value counts, or there is a fault. Never another value.
    #[test]
    fn the_seller_always_wins_or_conflicts(
        setting in setting(), value in value(), place in 0..3,
    ) {
        let case = Case::sealed("mode = 'hourly'\ngrace_period = '7m'\nsettle = '7m'");
        let case = match place {
            0 => case.flag(setting, &value),
            1 => case.env(setting.spec().env, &value),
            _ => case.disk(FILE, &format!("{} = {value:?}", setting.spec().name)),
        };
        let case = case.release();
        if let Ok(loaded) = case.load() {
            let config = loaded.config;
            prop_assert_eq!(setting.spec().owner, Owner::Operator);
            prop_assert!(setting != Setting::Settle);
            prop_assert_eq!(config.product.name(), "demo");
            prop_assert_eq!(config.registration.grace_period, Duration::from_secs(420));
            prop_assert_eq!(config.usage.settle, Duration::from_secs(420));
        }
    }

    #[test]
    fn durations_mean_what_they_say(hours in 0_u64..8000, minutes in 0_u64..60, seconds in 0_u64..60) {
        let text = format!("{hours}h{minutes}m{seconds}s");
        prop_assert_eq!(duration(&text).unwrap().as_secs(), hours * 3600 + minutes * 60 + seconds);
    }

    #[test]
    fn any_text_is_a_duration_or_a_problem(text in any::<String>()) {
        if let Ok(read) = duration(&text) {
            prop_assert!(read <= DURATION_MAX);
        }
    }
}

/// Without the UID a replaced pod's record in doubt was once sent again under the new pod's identity.
#[test]
fn in_kubernetes_metered_needs_the_pods_uid_and_hourly_keeps_no_receipt_without_it() {
    let in_kubernetes = |case: Case| case.env("KUBERNETES_SERVICE_HOST", "10.0.0.1");
    let faults = in_kubernetes(Case::metered()).faults();
    assert!(faults.starts_with("TOLLGATE_POD_UID: is required in mode metered"), "{faults}");
    assert!(faults.contains("fieldPath: metadata.uid"), "{faults}");
    in_kubernetes(Case::metered()).env("TOLLGATE_POD_UID", "0d1f").valid();
    assert!(Case::metered().valid().identity.uid.is_none(), "elsewhere the host names it");
    let hourly = in_kubernetes(Case::hourly());
    let told = hourly.warnings().into_iter().filter(|warning| warning.contains("no receipt is kept")).count();
    assert_eq!((told, hourly.valid().registration.kept_receipt), (1, false));
    let named = hourly.env("TOLLGATE_POD_UID", "0d1f");
    assert!(named.valid().registration.kept_receipt && named.warnings().is_empty());
}

#[test]
fn a_full_disk_is_named_as_such_and_what_it_holds_can_be_looked_at() {
    let faults = Case::metered().full("/var/lib/tollgate").faults();
    assert!(faults.contains("no space left") && faults.contains("free room on the volume"), "{faults}");
    assert!(!faults.contains("fsGroup"), "{faults}");
    Case::metered().full("/var/lib/tollgate").role(Role::Inspect).load().unwrap();
}

#[test]
fn config_check_finds_a_full_volume_as_run_does_and_the_doctor_is_told_once() {
    let full = |case: Case, role| case.full("/var/lib/tollgate").role(role);
    for role in [Role::Run, Role::Check] {
        let faults = full(Case::metered(), role).faults();
        assert!(faults.contains("no space left") && faults.contains("is sent after"), "{faults}");
        let hourly = Case::hourly().env("TOLLGATE_STATE_DIR", "/var/lib/tollgate");
        let faults = full(hourly, role).faults();
        assert!(faults.contains("no space left") && !faults.contains("usage"), "{faults}");
        assert_eq!(full(Case::hourly(), role).warnings().len(), 1);
    }
    // `doctor` checks the folder itself, where the sidecar would start.
    for case in [Case::metered(), Case::hourly()] {
        let loaded = full(case, Role::Inspect).load().unwrap();
        assert!(loaded.warnings.is_empty() && loaded.config.state.dir.path().is_some(), "{loaded:?}");
    }
    let hourly = Case::hourly().env("TOLLGATE_STATE_DIR", "/var/lib/tollgate");
    assert!(full(hourly, Role::Inspect).faults().contains("no space left"), "the sidecar would not start");
}

#[test]
fn a_dimension_that_looks_like_a_list_written_wrongly_is_warned_of() {
    let file = |list: &str| {
        Case::metered().without("TOLLGATE_DIMENSIONS").disk(FILE, &format!("dimensions = {list}"))
    };
    for list in ["['requests;gigabytes']", "['a b']", "['[a', 'b]']", "['a,b']"] {
        let warnings = file(list).warnings();
        assert!(warnings.iter().all(|line| line.starts_with("dimensions (file ")), "{warnings:?}");
        assert!(!warnings.is_empty(), "{list}");
    }
    assert_eq!(
        file("[' requests', 'gigabytes ']").valid().product.dimensions.unwrap(),
        ["requests", "gigabytes"]
    );
    assert!(file("['a', ' b', 'c_d-e.f/g']").warnings().is_empty());
    assert!(file("[' ']").faults().contains("empty"));
    assert!(file("['a', ' a']").faults().contains("names \"a\" twice"));
    let single = Case::metered().env("TOLLGATE_ENTITLEMENT_DIMENSION", "a b");
    assert!(single.warnings()[0].starts_with("entitlement_dimension (environment "));
}

#[test]
fn a_ledger_is_read_without_a_word_about_its_product() {
    let place = |case: &Case| {
        let env: MapEnvironment = case.env.iter().cloned().collect();
        load_ledger_place(&case.flags, &env, &case.installed()).map_err(|faults| faults.to_string())
    };
    let bare = Case::empty().flag(Setting::StateDir, "/copy").read_only("/copy");
    let found = place(&bare).unwrap();
    assert_eq!((found.state.dir, found.mode), (StateDir::Explicit("/copy".into()), Mode::Hourly));
    assert_eq!(place(&Case::metered()).unwrap().mode, Mode::Metered);
    // What is read is still checked, and a broken seller's file is a fault.
    assert!(place(&bare.clone().flag(Setting::AppAddr, "x")).unwrap_err().contains("app_addr = \"x\""));
    assert!(place(&bare.disk(SELLER, "mode =")).unwrap_err().contains("is not valid TOML"));
}

/// What the file sets is not known, so nothing can be said to be missing.
#[test]
fn a_file_that_cannot_be_used_is_the_only_fault() {
    let twice = "mode = 'metered'\nproduct_code = 'demometered'\nproduct_code = 'other'";
    for file in [SELLER, FILE] {
        let faults = Case::empty().disk(file, twice).faults();
        assert!(faults.contains("duplicate key") && !faults.contains("is required"), "{faults}");
    }
}
