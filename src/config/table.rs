//! The settings: the one place where a setting is declared; everything else about it is made from its row.
//!
//! A new setting is a row here and the code that reads its field; `just generate` updates the documents and the
//! chart's schema. [`settings`] describes how a row is written; kinds of values are in [`super::kind`]. A rule that
//! joins two settings is in [`super::rules`].

use std::path::PathBuf;
use std::time::Duration;

use super::fault::Origin;
use super::identity;
use super::keys::key_ring;
use super::kind::{
    ADDR, AFTER_DENIAL, CLOCK, DIMENSION, DIMENSION_RULES, DIMENSIONS, DIR, DURATION, ENDPOINT_URL,
    ENTITLEMENTS, FILE, KEY_FINGERPRINT, LICENSE_MODEL, LOG_FILTER, LOG_FORMAT, MODE, ON_DENIED, ON_EXPIRED,
    ON_LAPSE, ON_UNSENT, ON_ZERO_HOUR, PATH, PRODUCT_CODE, PRODUCT_ID, REGION, SEATS, SIZE, SWITCH, Schema,
    TCP_ADDR, VERSION, ValueKind, WEB_PAGE,
};
use super::ledger_url::ledger_url;
use super::parse::duration_within;
use super::reader::{Reader, floored, given, listed, needed, read};
use super::setting::DefaultText::{Absent, ByBuild, Depends, Is};
use super::setting::{self, Only, Owner, Spec, settings};
use super::state::state_dir;
use super::token::{bearer_token, license_token};
use super::{
    AfterDenial, ClockSource, EndpointUrl, LicenseModel, ListenAddr, LogFormat, MeteredDimension, Mode,
    OnDenied, OnExpired, OnLapse, OnUnsent, OnZeroHour, PodIdentity, Proxies, Role, Secret, StateDir,
    credentials, proxy, sdk,
};
use tollgate_aws::ca_bundle::CaBundle;
use tollgate_marketplace::license::Wanted;
use tollgate_marketplace::{KeyFingerprint, ProductCode, ProductId, PublicKeyVersion, Region};
use tollgate_receipt::KeyRing;

const FOR_OWN_POD: Option<Only> =
    Some(Only { used: Mode::meters_own_pod, otherwise: "it is for mode metered" });

const FOR_SELLER: Option<Only> =
    Some(Only { used: Mode::is_run_by_seller, otherwise: "it is for mode saas" });

const FOR_METERING: Option<Only> =
    Some(Only { used: Mode::asks_metering, otherwise: "mode contract does not ask the metering service" });

const FOR_LICENSES: Option<Only> =
    Some(Only { used: Mode::asks_license_manager, otherwise: "it is for mode contract" });

/// AWS's examples renew every 15 minutes on EKS and ECS, and once a day for Anywhere.
const ROUND: ValueKind<Duration> = DURATION.parsed(|text| duration_within(text, "1m", "12h"));

/// How long a part of a stop may take: Kubernetes and ECS end a process long before the upper limit.
pub(super) const STOP: ValueKind<Duration> = DURATION.parsed(|text| duration_within(text, "0s", "1h"));

/// Below an hour: while one hour settles, only the next one is open, so hours close in order.
pub(super) const SETTLE: ValueKind<Duration> = DURATION.parsed(|text| duration_within(text, "0s", "59m"));

/// At least 2h: an event may be half as old as the window, and a shorter one would reject events of the open hour.
/// At most 30d: each remembered `id` takes space in the ledger.
const WINDOW: ValueKind<Duration> = DURATION.parsed(|text| duration_within(text, "2h", "30d"));

settings! {
    /// What is sold and how it proves that it was paid.
    #[derive(Debug)]
    Product {
        /// How the product is priced: `hourly` (RegisterUsage), `metered` (MeterUsage), `contract` (License
        /// Manager) or `saas` (BatchMeterUsage).
        Mode = "mode" => mode: Mode = read(MODE) {
            risk: "calls another operation: the proof is an unsigned dry run instead of a signed answer",
            default: Is("hourly"), chart_value: Some("mode"),
        }

        /// The product code from the AWS Marketplace Management Portal; in mode `contract` `product_id` takes its
        /// place.
        ProductCode = "product_code" => product_code: Option<ProductCode> = needed(PRODUCT_CODE) {
            risk: "opens the gate for another product, perhaps a free one",
            default: Absent("required, but for mode contract"), owner: Owner::Rehearsal, only: FOR_METERING,
            chart_value: Some("productCode"),
        }

        /// In mode `contract`, the product ID from the AWS Marketplace Management Portal, which License Manager calls
        /// the product SKU.
        ProductId = "product_id" => product_id: Option<ProductId> = needed(PRODUCT_ID) {
            risk: "opens the gate for another product, perhaps a free one",
            default: Absent("required in mode contract"), owner: Owner::Rehearsal, only: FOR_LICENSES,
            chart_value: Some("productId"),
        }

        /// In mode `contract`, the issuer of the license. Only builds with the emulator accept an issuer other than
        /// AWS Marketplace.
        KeyFingerprint = "key_fingerprint" => key_fingerprint: KeyFingerprint = read(KEY_FINGERPRINT) {
            risk: "opens the gate by a license that the buyer issued",
            default: Is("aws:294406891311:AWS/Marketplace:issuer-fingerprint"), owner: Owner::Rehearsal,
            only: FOR_LICENSES,
        }

        /// The product's public keys: a folder of `<version>.pem`, or one PEM file; needed in mode `hourly`.
        PublicKeys = "public_keys" => keys: KeyRing = key_ring(PATH) {
            risk: "accepts tokens that AWS did not sign",
            owner: Owner::Rehearsal, only: FOR_METERING,
        }

        /// The key version that AWS is asked to sign with.
        PublicKeyVersion = "public_key_version" => public_key_version: Option<PublicKeyVersion> = given(VERSION) {
            risk: "asks for a key that the product does not have, or no longer trusts; the gate stays shut",
            default: Absent("the highest held"), only: FOR_METERING,
        }

        /// The usage dimensions of the product; usage of another dimension is rejected. Not used in modes
        /// `hourly` and `contract`.
        Dimensions = "dimensions" => dimensions: Option<Vec<String>> = given(DIMENSIONS) {
            risk: "usage of a dimension that is not listed is rejected, and not billed",
            default: Absent("required in modes metered and saas"),
            only: Some(Only { used: Mode::has_ledger, otherwise: "no usage is reported in this mode" }),
            for_usage: true,
        }

        /// In mode `metered`, one more dimension of the listing, at price 0: its hourly report of 0 proves the
        /// entitlement. Without it the gate opens by a dry run, which does not show whether the buyer is subscribed.
        EntitlementDimension = "entitlement_dimension" => entitlement_dimension: Option<String> = given(DIMENSION) {
            risk: "usage of that dimension is rejected, and not billed",
            only: FOR_OWN_POD, for_usage: true,
        }

        /// The URL of the seller's own runbook; the code of a reason is appended to it. Without it, reasons name the
        /// command `tollgate explain`.
        DocsUrl = "docs_url" => docs_url: Option<String> = given(WEB_PAGE) {
            risk: "sends operators to somebody else's page",
        }

        /// Accept tokens of the emulator; settable only in builds that contain it.
        AllowEmulated = "allow_emulated" => allow_emulated: bool = read(SWITCH) {
            risk: "only in builds with the emulator: tokens of the emulator open the gate",
            default: ByBuild {
                with_emulator: "true", released: "false", shown: "true with the emulator built in, else false",
            },
            owner: Owner::Rehearsal, emulator_only: true,
        }
    }

    /// Where AWS is and how it is reached.
    #[derive(Debug)]
    Aws {
        /// The AWS region that this pod or task runs in.
        Region = "region" => region: Option<Region> = given(REGION) {
            risk: "AWS refuses the call. A report is billed in the region it was first sent to, and stays there",
            default: Absent("AWS_REGION, else ECS task metadata, else IMDS"), owner: Owner::Operator,
            sdk_variables: &["AWS_REGION", "AWS_DEFAULT_REGION"], chart_value: Some("region"),
        }

        /// The endpoint to use instead of AWS's own for the metering service, in mode `contract` for License Manager;
        /// in a build with the emulator for STS and the ECS agent too. Also `AWS_ENDPOINT_URL_MARKETPLACE_METERING`
        /// or `AWS_ENDPOINT_URL_LICENSE_MANAGER` (that service alone) and `AWS_ENDPOINT_URL`.
        EndpointUrl = "endpoint_url" => endpoint_url: Option<EndpointUrl> = given(ENDPOINT_URL) {
            risk: "sends calls and usage to another server: the product runs unpaid",
            owner: Owner::Rehearsal,
            sdk_variables: &[sdk::METERING_ENDPOINT, sdk::LICENSE_MANAGER_ENDPOINT, "AWS_ENDPOINT_URL"],
        }

        also {
            /// `endpoint_url` is used for STS and the ECS agent too.
            stands_for_all: bool = sdk::stands_for_all(),
            /// Where `region` comes from.
            region_origin: Origin = sdk::region_origin(),
            /// Where the ECS agent describes the task.
            ecs_metadata_uri: Option<String> = sdk::ecs_metadata_uri(),
            /// `AWS_CONTAINER_CREDENTIALS_RELATIVE_URI` and `AWS_CONTAINER_CREDENTIALS_FULL_URI`.
            container_credentials: [Option<String>; 2] = sdk::container_credentials(),
            /// `AWS_ROLE_ARN`, of the web identity.
            role_arn: Option<String> = sdk::role_arn(),
            /// `AWS_WEB_IDENTITY_TOKEN_FILE`.
            web_identity_token_file: Option<PathBuf> = sdk::web_identity_token_file(),
            /// `AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE`, where an agent is asked.
            container_token_file: Option<PathBuf> = sdk::container_token_file(),
            /// What was set for credentials and gives none, by variable and file: the reason if nothing else gives
            /// any.
            credential_gaps: Vec<String> = credentials::check(),
            /// The certificate authorities to trust instead of the system's.
            ca_bundle: Option<CaBundle> = sdk::ca_bundle(),
            /// `AWS_USE_DUALSTACK_ENDPOINT`.
            use_dual_stack: bool = sdk::switch("AWS_USE_DUALSTACK_ENDPOINT"),
            /// `AWS_USE_FIPS_ENDPOINT`.
            use_fips: bool = sdk::switch("AWS_USE_FIPS_ENDPOINT"),
            /// `AWS_EC2_METADATA_DISABLED`: the instance metadata service must not be asked.
            imds_disabled: bool = sdk::switch("AWS_EC2_METADATA_DISABLED"),
            /// The proxies to go through.
            proxies: Proxies = proxy::read(),
            /// A seller's file exists: no endpoint may come from anywhere but `endpoint_url`.
            sealed: bool = sealed(),
        }
    }

    /// The kubelet's server.
    #[derive(Debug, Clone, PartialEq, Eq)]
    Probe {
        /// The address of the probe server; `[::]` serves IPv4 too, and falls back to `0.0.0.0` where IPv6 is disabled.
        ProbeAddr = "probe_addr" => addr: ListenAddr = read(TCP_ADDR) {
            risk: "the kubelet does not find the gate, and the application does not start",
            default: Is("[::]:19180"), owner: Owner::Operator, chart_value: Some("ports.probe"),
        }

        also {
            /// `TOLLGATE_POD_UID`: the pod whose gate this is, where the platform says so.
            pod_uid: Option<String> = identity::pod_uid(),
        }
    }

    /// The application's server.
    #[derive(Debug, Clone)]
    App {
        /// The address of the application's server: a loopback address, `unix:/path`, or any address if
        /// `app_token_file` is set.
        AppAddr = "app_addr" => addr: ListenAddr = read(ADDR) {
            risk: "the application cannot report its usage; nothing is billed, as if it did not run",
            default: Is("127.0.0.1:19181"), owner: Owner::Operator, chart_value: Some("ports.app"),
        }

        /// A file with the bearer token that the application's server requires.
        AppTokenFile = "app_token_file" => token: Option<Secret> = bearer_token(FILE) {
            risk: "anybody who knows the token can report usage, which the buyer pays",
            owner: Owner::Operator, secret_path: true,
        }

        /// Serve the AWS wire protocol to the application, so that an unmodified AWS SDK can report through the
        /// sidecar.
        AwsDoor = "aws_door" => aws_door: bool = read(SWITCH) {
            risk: "a second way to report: its calls claim hours, and use a share of AWS's quota",
            default: Is("false"), only: FOR_METERING, for_usage: true,
        }

        /// Serve `POST /v1/quit`, which ends the sidecar of a Job.
        Quit = "quit" => quit: bool = read(SWITCH) {
            risk: "anybody who reaches the application's server can end the sidecar, beside which the application goes on",
            default: Is("false"), owner: Owner::Operator,
        }
    }

    /// Where things are kept.
    #[derive(Debug, Clone, PartialEq, Eq)]
    State {
        /// The folder for the kept receipt, the grace period, the seats that are held and the usage ledger; `none`
        /// keeps nothing.
        StateDir = "state_dir" => dir: StateDir = state_dir(DIR) {
            risk: "starts with an empty ledger, and usage in the old folder is not sent; a new volume does the \
                   same, and nothing can prevent that",
            default: Is("/var/lib/tollgate"), owner: Owner::Operator, chart_value: Some("state.type"),
        }

        /// In mode `saas`, a file with the URL of a PostgreSQL database, `postgres://…`, which takes the place of the
        /// ledger in `state_dir`: several replicas share it. Only `tollgate-saas` has it.
        LedgerUrlFile = "ledger_url_file" => url_file: Option<PathBuf> = ledger_url(FILE) {
            risk: "another database is another ledger: usage in the first one is not sent by this process",
            default: Absent("none"), owner: Owner::Operator, only: FOR_SELLER, for_usage: true, secret_path: true,
        }
    }

    /// How AWS is asked and what follows from its answers.
    #[derive(Debug, Clone, PartialEq, Eq)]
    Registration {
        /// How long AWS may fail to answer before the state becomes `unavailable`; retries continue. With `on_denied`
        /// `exit` the process ends then.
        UnavailableAfter = "unavailable_after" => unavailable_after: Duration = read(DURATION) {
            risk: "only the name of a state depends on it and, with `on_denied` `exit`, when the process ends",
            default: Is("30m"), owner: Owner::Operator,
        }

        /// How long the gate may stay open while AWS is unreachable, counted from the first failed attempt; in mode
        /// `contract` from this pod's last granted round, which `state_dir` must hold.
        GracePeriod = "grace_period" => grace_period: Duration = read(DURATION) {
            risk: "the gate stays open longer without an answer of AWS",
            // AWS asks sellers not to fail hard after one failed call of License Manager.
            default: Depends("0s, in mode contract 24h", |reader| {
                if reader.mode().is_some_and(Mode::asks_license_manager) { "24h" } else { "0s" }
            }),
        }

        /// When the buyer is not entitled: `hold` (keep running and retry every five minutes) or `exit`.
        OnDenied = "on_denied" => on_denied: OnDenied = read(ON_DENIED) {
            risk: "nothing: the gate is shut in both cases",
            default: Depends("run: hold, exec: exit", |reader| match reader.role {
                Role::Exec => "exit",
                Role::Run | Role::Check | Role::Inspect | Role::SellersFile | Role::Ledger => "hold",
            }),
        }

        /// In mode `metered`, when the entitlement ends: `keep` the gate open, or `close-after:<duration>`.
        OnLapse = "on_lapse" => on_lapse: OnLapse = read(ON_LAPSE) {
            risk: "use continues after the entitlement has ended, or with the credentials of an account that never \
                   had one",
            default: Is("keep"), only: FOR_OWN_POD, for_usage: true,
        }

        /// After AWS said that the buyer is not entitled: `ask-again` every five minutes, or `new-pod` (this pod does
        /// not ask again).
        AfterDenial = "after_denial" => after_denial: AfterDenial = read(AFTER_DENIAL) {
            risk: "a second answer, which may prove nothing, opens the gate of a refused pod",
            default: Is("ask-again"), only: FOR_METERING,
        }

        /// Keep the verified receipt in `state_dir`. After a restart while AWS is unreachable it opens the gate until
        /// it is 24 h old; an older one opens the gate once, for 2 h.
        KeptReceipt = "kept_receipt" => kept_receipt: bool = read(SWITCH) {
            risk: "a pod without a connection to AWS opens by the receipt of its last start",
            default: Is("on"), only: FOR_METERING, value_name: "ON|OFF",
        }

        also {
            /// tollgate runs a command, which a gate that shuts later does not end.
            stays_once_open: bool = runs_a_command(),
        }
    }

    /// What a contract must hold, and how License Manager is asked.
    #[derive(Debug, Clone, PartialEq, Eq)]
    License {
        /// In mode `contract`, `check` (prove the license and hold nothing) or `floating` (hold seats while the pod
        /// lives).
        LicenseModel = "license_model" => model: LicenseModel = read(LICENSE_MODEL) {
            risk: "with `check`, more pods run than seats were sold",
            default: Is("check"), only: FOR_LICENSES, chart_value: Some("licenseModel"),
        }

        /// In mode `contract`, the entitlements that the license must have: names, each with a unit and a minimum
        /// quantity if needed, such as `users:Count:10` or `premium:None`.
        Entitlements = "entitlements" => entitlements: Vec<Wanted> = listed(ENTITLEMENTS) {
            risk: "a license for less, or for another tier, opens the gate",
            default: Absent("all of the received license"), only: FOR_LICENSES,
        }

        /// With `license_model` `floating`, how many seats of each counted entitlement a pod holds.
        SeatsPerPod = "seats_per_pod" => seats_per_pod: u32 = read(SEATS) {
            risk: "too few: more pods run than were sold; too many: pods that were paid for stay shut",
            default: Is("1"), only: FOR_LICENSES,
        }

        /// In mode `contract`, how often the license is checked or the seats are renewed: `1m` to `12h`, with jitter,
        /// and never later than after half of the seats' remaining time.
        RenewEvery = "renew_every" => renew_every: Duration = read(ROUND) {
            risk: "too seldom: the end of a contract is noticed late",
            default: Is("15m"), only: FOR_LICENSES,
        }

        /// In mode `contract`, how long after its end a license still opens the gate, since a renewal may be signed
        /// late.
        LicenseEndGrace = "license_end_grace" => end_grace: Duration = read(DURATION) {
            risk: "use continues after the contract has ended",
            default: Is("72h"), only: FOR_LICENSES,
        }

        /// In mode `contract`, the region where License Manager is asked.
        LicenseRegion = "license_region" => region: Option<Region> = given(REGION) {
            risk: "AWS refuses the call, or does not find the license",
            default: Absent("the pod's region; us-east-1 where only license_token_file gives credentials"),
            owner: Owner::Operator, only: FOR_LICENSES,
        }

        /// In mode `contract`, the file with the license token that AWS Marketplace gives to buyers who run the
        /// product outside AWS; used if nothing else provides credentials.
        LicenseTokenFile = "license_token_file" => token_file: Option<PathBuf> = license_token(FILE) {
            risk: "nothing: AWS refuses a token that is not the buyer's",
            default: Absent("none"), owner: Owner::Operator, only: FOR_LICENSES, secret_path: true,
            sdk_variables: &["AWS_WEB_IDENTITY_REFRESH_TOKEN_FILE", "AWS_LICENSE_ACCESS_FILE"],
        }
    }

    /// Custom metering.
    #[derive(Debug, Clone, PartialEq, Eq)]
    Usage {
        /// How usage of a dimension becomes the quantity that AWS bills: a table `[dimension.NAME]` for each, with
        /// `aggregation`, `scale`, `rounding`, `heartbeat` and `per_pod`, described below.
        Dimension = "dimension" => metered: Vec<MeteredDimension> = listed(DIMENSION_RULES) {
            risk: "another quantity is billed, or none: a heartbeat is the only usage of its dimension",
            default: Absent("the sum of the events, as they are"),
            only: Some(Only { used: Mode::has_ledger, otherwise: "no usage is reported in this mode" }),
            for_usage: true,
        }

        /// How long after its end an hour still accepts late usage.
        Settle = "settle" => settle: Duration = read(SETTLE) {
            risk: "usage is billed later; too short a time moves late usage to the next hour",
            default: Is("2m"), for_usage: true,
        }

        /// What to do with usage that AWS never took and that is now too old for AWS: `carry` it to the current hour,
        /// or `dead-letter` it.
        OnExpired = "on_expired" => on_expired: OnExpired = read(ON_EXPIRED) {
            risk: "with `dead-letter`, late usage is not billed",
            default: Is("carry"), for_usage: true,
        }

        /// An hour without usage: `skip` it, or `report` a quantity of 0.
        OnZeroHour = "on_zero_hour" => on_zero_hour: OnZeroHour = read(ON_ZERO_HOUR) {
            risk: "nothing: a report of 0 is free",
            default: Is("skip"), for_usage: true,
        }

        /// In mode `metered`, when usage stays unbilled because AWS refuses it or does not answer: `keep` the
        /// gate open, or `close-after:<duration>`, at least 2h.
        OnUnsent = "on_unsent" => on_unsent: OnUnsent = read(ON_UNSENT) {
            risk: "use continues while nothing is billed",
            default: Is("keep"), only: FOR_OWN_POD, for_usage: true,
        }

        /// Seal and send the open hour when the sidecar is asked to stop.
        SealOnShutdown = "seal_on_shutdown" => seal_on_shutdown: bool = read(SWITCH) {
            risk: "the open hour stays on disk, and is lost with an `emptyDir`",
            default: Is("true"), for_usage: true,
        }

        /// How long the `id` of an event is remembered. An event older than 24 hours, or than half of this, is
        /// rejected.
        IdempotencyWindow = "idempotency_window" => idempotency_window: Duration = read(WINDOW) {
            risk: "too short: a repeated event counts twice, and events from a backlog are rejected",
            default: Is("48h"), for_usage: true,
        }

        /// Reject a whole usage request with 422, and count nothing of it, when one of its events is rejected.
        StrictUsage = "strict_usage" => strict_usage: bool = read(SWITCH) {
            risk: "one wrong event keeps a whole request from being counted",
            default: Is("false"), for_usage: true,
        }

        /// Allow `ledger confirm`, `ledger discard` and `ledger replay --to-dimension`.
        LedgerRepair = "ledger_repair" => ledger_repair: bool = read(SWITCH) {
            risk: "dead records are written off, or billed in a cheaper dimension",
            default: Depends("true in mode saas and where there is no seller's file, else false", |reader| {
                // The party that pays for records must not be able to write them off.
                let seller = reader.mode().is_some_and(Mode::is_run_by_seller) || !reader.resolution.sealed();
                if seller { "true" } else { "false" }
            }),
            for_usage: true,
        }

        /// After a request to stop, accept usage until none has arrived for this long.
        DrainQuiet = "drain_quiet" => drain_quiet: Duration = read(STOP) {
            risk: "the last events of the application are refused, or the open hour waits on disk",
            default: Is("2s"), owner: Owner::Operator, for_usage: true,
        }

        /// How long the command of `exec` may take to end after SIGTERM or SIGINT before it is killed;
        /// `shutdown_grace` begins then. Not used in mode `hourly`, in which the command replaces tollgate.
        CommandGrace = "command_grace" => command_grace: Duration = read(STOP) {
            risk: "too short: the application is killed with usage that it has not reported",
            default: Is("20s"), owner: Owner::Operator,
        }

        /// How long a stop may take; usage that is not sent by then stays in the ledger, and seats that are not given
        /// back by then stay taken until their checkout ends.
        ShutdownGrace = "shutdown_grace" => shutdown_grace: Duration = floored(STOP) {
            risk: "the open hour stays on disk, and is lost with an `emptyDir`; seats stay taken for up to an hour; \
                   at least 5 s",
            // A shorter time would not be enough to send the open hour.
            default: Is("25s"), owner: Owner::Operator, floor: Some("5s"),
            chart_value: Some("shutdownGrace"),
        }

        /// How large the usage ledger may grow before usage is answered with 503.
        LedgerBytesMax = "ledger_bytes_max" => ledger_bytes_max: u64 = floored(SIZE) {
            risk: "usage is answered with 503, and the application must keep it; at least 16 MiB",
            // A smaller ledger would be full, and refuse usage, at once.
            default: Is("1GiB"), owner: Owner::Operator, floor: Some("16MiB"), for_usage: true,
        }
    }

    /// Log output.
    #[derive(Debug, Clone, PartialEq, Eq)]
    Log {
        /// The format of log lines: `json` or `text`.
        LogFormat = "log_format" => format: Option<LogFormat> = given(LOG_FORMAT) {
            risk: "nothing",
            default: Absent("json, on a terminal text"), owner: Owner::Operator,
        }

        /// Which log lines are written: a level, or directives such as `info,tollgate::registration=debug`.
        LogFilter = "log_filter" => filter: String = read(LOG_FILTER) {
            risk: "the log is silent; states, metrics and the exit code are not",
            default: Is("info"), owner: Owner::Operator,
        }
    }

    /// Everything that was configured, valid.
    #[derive(Debug)]
    Config {
        /// The clock source: `system`, or the URL of the emulator's `/_emulator/clock`; settable only in builds that
        /// contain the emulator.
        Clock = "clock" => clock: ClockSource = read(CLOCK) {
            risk: "only in builds with the emulator: hours close when that clock says so",
            default: Is("system"), owner: Owner::Rehearsal, emulator_only: true,
        }

        also {
            /// What is sold and how it proves that it was paid.
            product: Product = Product::read(),
            /// Where AWS is.
            aws: Aws = Aws::read(),
            /// The kubelet's server.
            probe: Probe = Probe::read(),
            /// The application's server.
            app: App = App::read(),
            /// Where things are kept.
            state: State = State::read(),
            /// How AWS is asked and what follows from its answers.
            registration: Registration = Registration::read(),
            /// What a contract must hold, and how License Manager is asked.
            license: License = License::read(),
            /// Custom metering.
            usage: Usage = Usage::read(),
            /// Log output.
            log: Log = Log::read(),
            /// Which pod this is.
            identity: PodIdentity = identity::read(),
        }
    }
}

/// `exec` starts a command.
fn runs_a_command(reader: &mut Reader<'_>) -> Option<bool> {
    Some(reader.role == Role::Exec)
}

/// A seller's file exists.
fn sealed(reader: &mut Reader<'_>) -> Option<bool> {
    Some(reader.resolution.sealed())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned_by(owner: Owner) -> Vec<&'static str> {
        Setting::ALL.iter().map(|s| s.spec()).filter(|s| s.owner == owner).map(|s| s.name).collect()
    }

    /// These lists are the decision: adding a name to one states that no payment depends on the setting.
    #[test]
    fn everything_is_the_sellers_but_these() {
        assert_eq!(
            owned_by(Owner::Operator),
            [
                "region",
                "probe_addr",
                "app_addr",
                "app_token_file",
                "quit",
                "state_dir",
                "ledger_url_file",
                "unavailable_after",
                "license_region",
                "license_token_file",
                "drain_quiet",
                "command_grace",
                "shutdown_grace",
                "ledger_bytes_max",
                "log_format",
                "log_filter",
            ]
        );
        assert_eq!(
            owned_by(Owner::Rehearsal),
            [
                "product_code",
                "product_id",
                "key_fingerprint",
                "public_keys",
                "allow_emulated",
                "endpoint_url",
                "clock"
            ]
        );
        assert_eq!(Spec::of(&SWITCH).owner, Owner::Seller);
    }
}
