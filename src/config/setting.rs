//! The settings table: the one place where a setting is defined.
//!
//! - A name is spelled once; the flag (`--product-code`) and the variable (`TOLLGATE_PRODUCT_CODE`) follow from it at
//!   compile time. Flags, environment, files, `config print` and `docs/CONFIGURATION.md` are all driven by this table.
//! - A default is text, read by the same parser as the text of an operator, so that both mean the same.
//!
//! This module must not know where values come from, nor what they are parsed into.

/// How a value is given on the command line and in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// One text.
    Text,
    /// `true` or `false` (also `on` and `off`); as a flag it may stand without a value.
    Switch,
    /// A list: separated by commas, or an array in a file.
    List,
}

/// Who may set a setting where a seller's file exists.
///
/// A new setting belongs to the seller unless its row says otherwise: what was forgotten is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Only the seller's file, which may hand it to the operator with [`OPERATOR_SETTINGS`].
    Seller,
    /// The operator, unless the seller's file sets it.
    Operator,
    /// Only the seller's file, which cannot hand it on. A build with the emulator takes it from the operator even so,
    /// before the seller's file: that is how a sealed product is rehearsed.
    Rehearsal,
}

/// The key of a seller's file that lists settings of [`Owner::Seller`] which the operator may set nevertheless.
pub const OPERATOR_SETTINGS: &str = "operator_settings";

/// What is known of a setting before anyone sets it.
#[derive(Debug)]
pub struct Spec {
    /// The key in a file.
    pub name: &'static str,
    /// The long flag, without its two hyphens.
    pub flag: &'static str,
    /// The environment variable.
    pub env: &'static str,
    /// What a flag's value is called in the help.
    pub value_name: &'static str,
    /// One sentence for help and documentation.
    pub meaning: &'static str,
    /// The text that stands when nobody sets it.
    pub default: Option<&'static str>,
    /// What the documentation shows as the default.
    pub default_shown: &'static str,
    /// How it is written.
    pub form: Form,
    /// Variables of the AWS SDK that count when nothing of ours sets it, first one first.
    pub sdk_variables: &'static [&'static str],
    /// Who may set it where a seller's file exists.
    pub owner: Owner,
    /// Settable only in builds that contain the emulator.
    pub emulator_only: bool,
    /// The value is the path of a secret. It is shown only while it looks like a path: people put the secret itself
    /// there by mistake.
    pub secret_path: bool,
}

impl Spec {
    const PLAIN: Self = Self {
        name: "",
        flag: "",
        env: "",
        value_name: "VALUE",
        meaning: "",
        default: None,
        default_shown: "none",
        form: Form::Text,
        sdk_variables: &[],
        owner: Owner::Seller,
        emulator_only: false,
        secret_path: false,
    };
}

macro_rules! settings {
    ($( $variant:ident = $name:literal, $meaning:literal { $($field:ident: $value:expr),* $(,)? } )+) => {
        /// The settings, in the order in which they are documented.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Setting {
            $( #[doc = $meaning] $variant, )+
        }

        impl Setting {
            /// Every setting.
            pub const ALL: &'static [Self] = &[$( Self::$variant ),+];
        }

        static SPECS: &[Spec] = &[$(
            Spec {
                name: $name,
                flag: {
                    const BYTES: [u8; $name.len()] = hyphenated($name);
                    ascii(&BYTES)
                },
                env: {
                    const BYTES: [u8; ENV_PREFIX.len() + $name.len()] = shouted($name);
                    ascii(&BYTES)
                },
                meaning: $meaning,
                $( $field: $value, )*
                ..Spec::PLAIN
            }
        ),+];
    };
}

settings! {
    Mode = "mode",
    "How the product is priced: `hourly` (RegisterUsage), `metered` (MeterUsage) or `saas` (BatchMeterUsage)." {
        value_name: "MODE", default: Some("hourly"), default_shown: "hourly",
    }
    ProductCode = "product_code",
    "The product code from the AWS Marketplace Management Portal." {
        value_name: "CODE", owner: Owner::Rehearsal, default_shown: "required",
    }
    PublicKeys = "public_keys",
    "The product's public keys: a folder of `<version>.pem`, or one PEM file; needed in mode `hourly`." {
        value_name: "PATH", owner: Owner::Rehearsal,
    }
    PublicKeyVersion = "public_key_version",
    "The key version that AWS is asked to sign with." {
        value_name: "N", default_shown: "the highest held",
    }
    Region = "region",
    "The AWS region that this pod or task runs in." {
        value_name: "REGION", owner: Owner::Operator, default_shown: "AWS_REGION, else ECS task metadata, else IMDS",
        sdk_variables: &["AWS_REGION", "AWS_DEFAULT_REGION"],
    }
    EndpointUrl = "endpoint_url",
    "Where the metering service is reached instead of AWS's own endpoint; also `AWS_ENDPOINT_URL_MARKETPLACE_METERING` and `AWS_ENDPOINT_URL`." {
        value_name: "URL", owner: Owner::Rehearsal,
        sdk_variables: &["AWS_ENDPOINT_URL_MARKETPLACE_METERING", "AWS_ENDPOINT_URL"],
    }
    ProbeAddr = "probe_addr",
    "Where the probe server listens; `[::]` serves IPv4 too, and stands for `0.0.0.0` where IPv6 is off." {
        value_name: "ADDR", owner: Owner::Operator, default: Some("[::]:19180"), default_shown: "[::]:19180",
    }
    AppAddr = "app_addr",
    "Where the application's server listens: a loopback address, `unix:/path`, or any address with `app_token_file`." {
        value_name: "ADDR", owner: Owner::Operator, default: Some("127.0.0.1:19181"), default_shown: "127.0.0.1:19181",
    }
    AppTokenFile = "app_token_file",
    "A file with the bearer token that the application's server asks for." {
        value_name: "FILE", owner: Owner::Operator, secret_path: true,
    }
    StateDir = "state_dir",
    "The folder for the kept receipt, the grace period and the usage ledger; `none` keeps nothing." {
        value_name: "DIR", owner: Owner::Operator, default: Some("/var/lib/tollgate"), default_shown: "/var/lib/tollgate",
    }
    UnavailableAfter = "unavailable_after",
    "How long AWS may give no answer before the state becomes `unavailable`; retries continue." {
        value_name: "DURATION", owner: Owner::Operator, default: Some("30m"), default_shown: "30m",
    }
    GracePeriod = "grace_period",
    "How long the gate may stay open while AWS is unreachable, counted from the first failed attempt." {
        value_name: "DURATION", default: Some("0s"), default_shown: "0s",
    }
    OnDenied = "on_denied",
    "When the buyer is not entitled: `hold` (keep running and retry every five minutes) or `exit`." {
        value_name: "POLICY", default_shown: "run: hold, exec: exit",
    }
    OnLapse = "on_lapse",
    "In mode `metered`, when the entitlement ends: `keep` the gate open, or `close-after:<duration>`." {
        value_name: "POLICY", default: Some("keep"), default_shown: "keep",
    }
    OnUnsent = "on_unsent",
    "In mode `metered`, when usage stays unbilled because AWS refuses it or does not answer: `keep` the gate open, or `close-after:<duration>`, at least 2h." {
        value_name: "POLICY", default: Some("keep"), default_shown: "keep",
    }
    AfterDenial = "after_denial",
    "After AWS said that the buyer is not entitled: `ask-again` every five minutes, or wait for a `new-pod`." {
        value_name: "POLICY", default: Some("ask-again"), default_shown: "ask-again",
    }
    KeptReceipt = "kept_receipt",
    "Keep the verified receipt in `state_dir`, for a restart while AWS is unreachable: it opens the gate up to 24 h old, and for 2 h, once, when it is older." {
        value_name: "ON|OFF", default: Some("on"), default_shown: "on", form: Form::Switch,
    }
    Dimensions = "dimensions",
    "The usage dimensions of the product; usage of another dimension is rejected. Not used in mode `hourly`." {
        value_name: "NAME,…", default_shown: "required in modes metered and saas", form: Form::List,
    }
    EntitlementDimension = "entitlement_dimension",
    "In mode `metered`, a zero-priced dimension whose hourly report of 0 proves the entitlement." {
        value_name: "NAME",
    }
    Settle = "settle",
    "How long an hour still accepts its own late usage after it has ended." {
        value_name: "DURATION", default: Some("2m"), default_shown: "2m",
    }
    OnExpired = "on_expired",
    "Usage that was never sent and is too old for AWS: `carry` it to the current hour, or `dead-letter` it." {
        value_name: "POLICY", default: Some("carry"), default_shown: "carry",
    }
    OnZeroHour = "on_zero_hour",
    "An hour without usage: `skip` it, or `report` a quantity of 0." {
        value_name: "POLICY", default: Some("skip"), default_shown: "skip",
    }
    SealOnShutdown = "seal_on_shutdown",
    "Seal and send the open hour at a request to stop." {
        value_name: "TRUE|FALSE", default: Some("true"), default_shown: "true", form: Form::Switch,
    }
    IdempotencyWindow = "idempotency_window",
    "How long the `id` of an event is remembered. An event older than 24 hours, or than half of this, is rejected." {
        value_name: "DURATION", default: Some("48h"), default_shown: "48h",
    }
    StrictUsage = "strict_usage",
    "Reject a whole usage request with 422, and count nothing of it, when one of its events is rejected." {
        value_name: "TRUE|FALSE", default: Some("false"), default_shown: "false", form: Form::Switch,
    }
    LedgerRepair = "ledger_repair",
    "Allow `ledger confirm`, `ledger discard` and `ledger replay --to-dimension`." {
        value_name: "TRUE|FALSE", default_shown: "true in mode saas and where there is no seller's file, else false",
        form: Form::Switch,
    }
    DrainQuiet = "drain_quiet",
    "How long usage is still accepted after a request to stop." {
        value_name: "DURATION", owner: Owner::Operator, default: Some("2s"), default_shown: "2s",
    }
    CommandGrace = "command_grace",
    "Not in use yet: in mode `hourly`, the only one of `exec`, tollgate is replaced by the command and stops nothing." {
        value_name: "DURATION", owner: Owner::Operator, default: Some("20s"), default_shown: "20s",
    }
    ShutdownGrace = "shutdown_grace",
    "How long a stop may take; usage that is not sent by then stays in the ledger." {
        value_name: "DURATION", owner: Owner::Operator, default: Some("25s"), default_shown: "25s",
    }
    AwsDoor = "aws_door",
    "Serve the AWS wire protocol to the application, so that an unmodified AWS SDK can be pointed here." {
        value_name: "TRUE|FALSE", default: Some("false"), default_shown: "false", form: Form::Switch,
    }
    Quit = "quit",
    "Serve `POST /v1/quit`, which ends the sidecar of a Job." {
        value_name: "TRUE|FALSE", owner: Owner::Operator, default: Some("false"), default_shown: "false", form: Form::Switch,
    }
    LedgerBytesMax = "ledger_bytes_max",
    "How large the usage ledger may grow before usage is answered with 503." {
        value_name: "SIZE", owner: Owner::Operator, default: Some("1GiB"), default_shown: "1GiB",
    }
    DocsUrl = "docs_url",
    "Where the seller publishes the runbook; the code of a reason is appended to it." {
        value_name: "URL",
    }
    LogFormat = "log_format",
    "`json` or `text`." {
        value_name: "FORMAT", owner: Owner::Operator, default_shown: "json, on a terminal text",
    }
    LogFilter = "log_filter",
    "Which log lines are written: a level, or directives such as `info,tollgate::registration=debug`." {
        value_name: "FILTER", owner: Owner::Operator, default: Some("info"), default_shown: "info",
    }
    AllowEmulated = "allow_emulated",
    "Accept tokens of the emulator; settable only in builds that contain it." {
        value_name: "TRUE|FALSE", owner: Owner::Rehearsal, default: Some("true"), default_shown: "true with the emulator built in, else false",
        form: Form::Switch, emulator_only: true,
    }
    Clock = "clock",
    "`system`, or the URL of the emulator's `/_emulator/clock`; settable only in builds that contain the emulator." {
        value_name: "URL", owner: Owner::Rehearsal, default: Some("system"), default_shown: "system", emulator_only: true,
    }
}

impl Setting {
    /// What is known of it.
    #[must_use]
    pub fn spec(self) -> &'static Spec {
        &SPECS[self as usize]
    }

    /// The setting of this file key.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|setting| setting.spec().name == name)
    }

    /// Whether [`OPERATOR_SETTINGS`] may name it: not where it decides which product is paid for and how.
    #[must_use]
    pub fn may_be_handed_on(self) -> bool {
        self != Self::Mode && self.spec().owner != Owner::Rehearsal
    }

    /// The setting of this environment variable.
    #[must_use]
    pub fn by_env(variable: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|setting| setting.spec().env == variable)
    }
}

/// What every variable of ours begins with.
pub const ENV_PREFIX: &str = "TOLLGATE_";

/// The known name nearest to a misspelled one, if one is near.
pub(super) fn did_you_mean<'a>(typed: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Below this likeness a suggestion confuses more than it helps; clap uses a near one for flags.
    const LIKENESS_MIN: f64 = 0.8;
    // The comparison is quadratic, and nothing longer can be near.
    const TYPED_BYTES_MAX: usize = 64;
    if typed.len() > TYPED_BYTES_MAX {
        return None;
    }
    known
        .map(|name| (strsim::jaro_winkler(typed, name), name))
        .filter(|(likeness, _)| *likeness > LIKENESS_MIN)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

const fn hyphenated<const N: usize>(name: &str) -> [u8; N] {
    let mut bytes = [0; N];
    let mut i = 0;
    while i < N {
        let byte = name.as_bytes()[i];
        bytes[i] = if byte == b'_' { b'-' } else { byte };
        i += 1;
    }
    bytes
}

const fn shouted<const N: usize>(name: &str) -> [u8; N] {
    let mut bytes = [0; N];
    let mut i = 0;
    while i < N {
        bytes[i] = if i < ENV_PREFIX.len() {
            ENV_PREFIX.as_bytes()[i]
        } else {
            name.as_bytes()[i - ENV_PREFIX.len()].to_ascii_uppercase()
        };
        i += 1;
    }
    bytes
}

const fn ascii(bytes: &'static [u8]) -> &'static str {
    match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(_) => unreachable!(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flag_and_variable_follow_from_the_name() {
        let spec = Setting::ProductCode.spec();
        assert_eq!(
            (spec.name, spec.flag, spec.env),
            ("product_code", "product-code", "TOLLGATE_PRODUCT_CODE")
        );
        for &setting in Setting::ALL {
            let spec = setting.spec();
            assert_eq!(spec.flag, spec.name.replace('_', "-"));
            assert_eq!(spec.env, format!("TOLLGATE_{}", spec.name.to_uppercase()));
            assert_eq!(Setting::by_name(spec.name), Some(setting));
            assert_eq!(Setting::by_env(spec.env), Some(setting));
            assert!(spec.meaning.ends_with('.'), "{}", spec.name);
        }
    }

    fn owned_by(owner: Owner) -> Vec<&'static str> {
        Setting::ALL.iter().map(|s| s.spec()).filter(|s| s.owner == owner).map(|s| s.name).collect()
    }

    /// These lists are the decision: whoever adds a name to one says that no payment depends on it.
    #[test]
    fn everything_is_the_sellers_but_these() {
        assert_eq!(
            owned_by(Owner::Operator),
            [
                "region",
                "probe_addr",
                "app_addr",
                "app_token_file",
                "state_dir",
                "unavailable_after",
                "drain_quiet",
                "command_grace",
                "shutdown_grace",
                "quit",
                "ledger_bytes_max",
                "log_format",
                "log_filter",
            ]
        );
        assert_eq!(
            owned_by(Owner::Rehearsal),
            ["product_code", "public_keys", "endpoint_url", "allow_emulated", "clock"]
        );
        assert_eq!(Spec::PLAIN.owner, Owner::Seller);
    }

    #[test]
    fn what_decides_the_price_cannot_be_handed_on() {
        for name in ["mode", "product_code", "public_keys", "endpoint_url", "clock", "allow_emulated"] {
            assert!(!Setting::by_name(name).unwrap().may_be_handed_on(), "{name}");
        }
        assert!(Setting::Settle.may_be_handed_on() && Setting::Quit.may_be_handed_on());
    }

    #[test]
    fn near_misses_are_suggested_and_far_ones_are_not() {
        let names = || Setting::ALL.iter().map(|s| s.spec().name);
        assert_eq!(did_you_mean("product_cod", names()), Some("product_code"));
        assert_eq!(did_you_mean("product-code", names()), Some("product_code"));
        assert_eq!(did_you_mean("probe_address", names()), Some("probe_addr"));
        assert_eq!(did_you_mean("zzz", names()), None);
        assert_eq!(did_you_mean(&"product_code".repeat(100), names()), None);
    }
}
