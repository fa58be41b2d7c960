//! Valid configuration: each part of the program gets its own piece of it, never the whole.
//!
//! - The settings table in [`setting`] is the one definition of names, defaults and meanings; `resolve` decides which
//!   text counts; `parse` turns texts into values; `fault` says what is wrong, all of it at once.
//! - A [`Config`] is valid: keys are read and parsed, folders were written to, addresses do not collide. What only AWS
//!   can tell (is the product code right, does the role permit) is not known here.
//! - This is the only module that reads the environment. It reads files through [`Disk`], never the network or a clock.
//!
//! It must not know what the parts do with their pieces.

mod credentials;
mod disk;
mod document;
mod endpoint;
mod env;
mod fault;
mod flags;
mod keys;
mod parse;
mod parts;
mod proxy;
mod reader;
mod report;
mod resolve;
mod sdk;
pub mod setting;
#[cfg(test)]
mod tests;
mod usage;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

pub use self::disk::{DEFAULT_FILE, Disk, Installation, MemoryDisk, SELLER_FILE, SystemDisk};
pub use self::endpoint::EndpointUrl;
pub use self::env::{Environment, MapEnvironment, ProcessEnvironment, restart_if_untidy};
pub use self::fault::{Fault, Faults, Origin};
pub use self::flags::{Flags, USAGE_HEADING};
pub use self::parse::{DURATION_MAX, duration};
pub use self::report::{Report, Row, report};
pub use self::resolve::{CONFIG_VARIABLE, POD_UID_VARIABLE};
use tollgate_aws::ca_bundle::CaBundle;
use tollgate_marketplace::{ProductCode, PublicKeyVersion, Region};
use tollgate_receipt::KeyRing;

#[cfg(test)]
pub(crate) use self::tests::TEST_KEY_PEM;

/// Everything that was configured, valid.
#[derive(Debug)]
pub struct Config {
    /// What is sold and how it proves that it was paid.
    pub product: Product,
    /// How AWS is asked and what follows from its answers.
    pub registration: Registration,
    /// Where AWS is.
    pub aws: Aws,
    /// The kubelet's server.
    pub probe: Probe,
    /// The application's server.
    pub app: App,
    /// Where things are kept.
    pub state: State,
    /// Custom metering.
    pub usage: Usage,
    /// Log output.
    pub log: Log,
    /// Whose wall time counts.
    pub clock: ClockSource,
    /// Which pod this is.
    pub identity: PodIdentity,
}

/// A configuration with what there is to say about it.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What is odd and not wrong; for the log.
    pub warnings: Vec<String>,
    /// Each value and where it comes from; for `config print` and `doctor`.
    pub origins: Vec<Row>,
}

/// For whom a configuration is loaded; decides defaults and what may be touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `run`: the sidecar.
    Run,
    /// `exec`: the gate in the image.
    Exec,
    /// `config` and `doctor`: as for `run`, and nothing that was made for a test stays.
    Inspect,
    /// `ledger`: as for `run`, and nothing is touched: a folder that cannot be written can be read.
    Ledger,
}

/// Loads the configuration, or says everything that is wrong with it.
///
/// Reads at most the seller's file, one configuration file, the key files, the token file, the CA bundle and, with a
/// seller's file, the AWS profile files; proves that the state folder can be written, but for [`Role::Ledger`].
pub fn load(
    flags: &Flags,
    env: &dyn Environment,
    installed: &Installation<'_>,
    role: Role,
) -> Result<Loaded, Faults> {
    let resolution = resolve::resolve(flags, env, installed);
    let (config, mut faults, mut warnings) = parts::read(&resolution, env, installed, role);
    faults.splice(0..0, resolution.faults.iter().cloned());
    match config {
        Some(config) if faults.is_empty() => {
            warnings.splice(0..0, resolution.warnings.iter().cloned());
            let origins = report::rows(&resolution, env, installed);
            Ok(Loaded { config, warnings, origins })
        }
        _ => Err(Faults(faults)),
    }
}

/// Loads only what `probe` and `await` need to find the running sidecar: it judges nothing else, for the sidecar did.
pub fn load_probe(
    flags: &Flags,
    env: &dyn Environment,
    installed: &Installation<'_>,
) -> Result<Probe, Faults> {
    let resolution = resolve::resolve(flags, env, installed);
    let mut reader = reader::Reader::new(&resolution, env, installed);
    let probe = parts::probe(&mut reader);
    let faults = reader.faults;
    match probe {
        Some(probe) if !resolution.file.is_broken() && !resolution.seller.is_broken() => Ok(probe),
        _ => Err(Faults(resolution.faults.into_iter().chain(faults).collect())),
    }
}

/// How the product is priced, which decides AWS's call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// `RegisterUsage`: AWS meters by itself.
    Hourly,
    /// `MeterUsage`: custom dimensions, from the buyer's account.
    Metered,
    /// `BatchMeterUsage`: custom dimensions, from the seller's account.
    Saas,
}

impl Mode {
    /// As it is configured.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hourly => "hourly",
            Self::Metered => "metered",
            Self::Saas => "saas",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is sold and how it proves that it was paid.
#[derive(Debug)]
pub struct Product {
    /// How it is priced.
    pub mode: Mode,
    /// Which product it is.
    pub product_code: ProductCode,
    /// The keys that verify AWS's signature: at least one in [`Mode::Hourly`], else possibly none.
    pub keys: KeyRing,
    /// The version to ask for, where one is stated; it is held in `keys` in [`Mode::Hourly`].
    pub public_key_version: Option<PublicKeyVersion>,
    /// Tokens of the emulator count.
    pub allow_emulated: bool,
    /// The dimensions that usage may name; `None` for any.
    pub dimensions: Option<Vec<String>>,
    /// The dimension whose report of 0 proves the entitlement; [`Mode::Metered`] only.
    pub entitlement_dimension: Option<String>,
    /// Where the seller publishes the runbook; the code of a reason is appended to it.
    pub docs_url: Option<String>,
    /// A seller's file exists.
    pub sealed: bool,
}

/// How AWS is asked and what follows from its answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// How long AWS may give no answer before the state becomes `unavailable`.
    pub unavailable_after: Duration,
    /// How long the gate may stay open while AWS is unreachable; zero for not at all.
    pub grace_period: Duration,
    /// When not entitled.
    pub on_denied: OnDenied,
    /// When an entitlement ends.
    pub on_lapse: OnLapse,
    /// When AWS said that the buyer is not entitled.
    pub after_denial: AfterDenial,
    /// The verified receipt is kept for a restart.
    pub kept_receipt: bool,
}

/// What to do when not entitled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDenied {
    /// Stay, and ask again every five minutes.
    Hold,
    /// End the process.
    Exit,
}

/// What to do when an entitlement ends that once was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnLapse {
    /// The gate stays open; the state says `lapsed`.
    Keep,
    /// The gate closes after this long.
    CloseAfter(Duration),
}

/// Whether this pod asks AWS again after it was told that the buyer is not entitled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterDenial {
    /// Every five minutes.
    AskAgain,
    /// Only a new pod asks: AWS documents that a pod's first call alone reports a missing entitlement.
    NewPod,
}

/// When usage stays unbilled because AWS refuses it or does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnUnsent {
    /// The gate stays open.
    Keep,
    /// The gate closes when the oldest such record is older than this; at least two hours.
    CloseAfter(Duration),
}

/// Where AWS is and how it is reached.
#[derive(Debug)]
pub struct Aws {
    /// The region, where it is configured; else it is discovered.
    pub region: Option<Region>,
    /// Where `region` comes from.
    pub region_origin: Origin,
    /// Used instead of AWS's own endpoint.
    pub endpoint_url: Option<EndpointUrl>,
    /// Where the ECS agent describes the task.
    pub ecs_metadata_uri: Option<String>,
    /// `AWS_CONTAINER_CREDENTIALS_RELATIVE_URI` and `AWS_CONTAINER_CREDENTIALS_FULL_URI`.
    pub container_credentials: [Option<String>; 2],
    /// `AWS_WEB_IDENTITY_TOKEN_FILE`.
    pub web_identity_token_file: Option<PathBuf>,
    /// Trusted instead of the system's certificate authorities.
    pub ca_bundle: Option<CaBundle>,
    /// `AWS_USE_DUALSTACK_ENDPOINT`.
    pub use_dual_stack: bool,
    /// `AWS_USE_FIPS_ENDPOINT`.
    pub use_fips: bool,
    /// `AWS_EC2_METADATA_DISABLED`: the instance metadata service is not to be asked.
    pub imds_disabled: bool,
    /// The proxies to go through.
    pub proxies: Proxies,
    /// A seller's file exists: no endpoint may come from anywhere but `endpoint_url`.
    pub sealed: bool,
}

/// Proxies as the usual variables name them; they may hold passwords.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    /// `HTTPS_PROXY` or `https_proxy`.
    pub https: Option<Secret>,
    /// `HTTP_PROXY` or `http_proxy`.
    pub http: Option<Secret>,
    /// `ALL_PROXY` or `all_proxy`.
    pub all: Option<Secret>,
    /// `NO_PROXY` or `no_proxy`.
    pub no_proxy: Option<String>,
}

/// The kubelet's server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Always TCP. `[::]` serves IPv4 too, and becomes `0.0.0.0` where the machine has no IPv6.
    pub addr: ListenAddr,
    /// `TOLLGATE_POD_UID`: the pod whose gate this is, where the platform says so.
    pub pod_uid: Option<String>,
}

/// The application's server.
#[derive(Debug, Clone)]
pub struct App {
    /// Where it listens; beyond loopback only with a token.
    pub addr: ListenAddr,
    /// The bearer token to ask for.
    pub token: Option<Secret>,
    /// The AWS wire protocol is served.
    pub aws_door: bool,
    /// `POST /v1/quit` is served.
    pub quit: bool,
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddr {
    /// An address and a port.
    Tcp(SocketAddr),
    /// A socket in the file system; an absolute path.
    Unix(PathBuf),
}

impl ListenAddr {
    /// The TCP address, if it is one.
    #[must_use]
    pub const fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(addr) => Some(*addr),
            Self::Unix(_) => None,
        }
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Where things are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// The folder.
    pub dir: StateDir,
}

/// The folder for state, proven to be writable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateDir {
    /// Nothing is kept: told so, or the default folder cannot be written and nothing needs it.
    None,
    /// The default folder.
    Default(PathBuf),
    /// A folder that somebody named.
    Explicit(PathBuf),
}

impl StateDir {
    /// The folder, if there is one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::None => None,
            Self::Default(path) | Self::Explicit(path) => Some(path),
        }
    }
}

/// Custom metering.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// How long an hour still accepts its own late usage after it has ended; below an hour.
    pub settle: Duration,
    /// Usage that missed AWS's window and was never attempted.
    pub on_expired: OnExpired,
    /// An hour without usage.
    pub on_zero_hour: OnZeroHour,
    /// The open hour is sealed and sent when the process is asked to stop.
    pub seal_on_shutdown: bool,
    /// How long a stop may take.
    pub shutdown_grace: Duration,
    /// How long usage is still accepted after a request to stop; at most an hour.
    pub drain_quiet: Duration,
    /// How long the command of `exec` may take to end before it is killed; at most an hour.
    pub command_grace: Duration,
    /// How long an event's `id` is remembered; two hours to 30 days.
    pub idempotency_window: Duration,
    /// Usage that AWS refuses or does not answer for; [`Mode::Metered`] only.
    pub on_unsent: OnUnsent,
    /// One rejected event rejects its whole request.
    pub strict_usage: bool,
    /// Records may be confirmed, discarded and redirected by the commands of `ledger`.
    pub ledger_repair: bool,
    /// Above this size of the ledger usage is refused.
    pub ledger_bytes_max: u64,
}

/// What becomes of usage that missed AWS's window and was never attempted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExpired {
    /// It counts to the current hour.
    Carry,
    /// It becomes a dead letter.
    DeadLetter,
}

/// What an hour without usage sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnZeroHour {
    /// Nothing.
    Skip,
    /// A quantity of 0.
    Report,
}

/// Log output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// How lines look; `None` for JSON, or text on a terminal.
    pub format: Option<LogFormat>,
    /// Which lines are written, as `tracing_subscriber::filter::Targets` parses it.
    pub filter: String,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Whose wall time counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClockSource {
    /// The system's.
    System,
    /// The emulator's, read from this URL.
    Follow(EndpointUrl),
}

/// Which pod or task this is: what AWS's "once per pod" and the ledger's records are keyed by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodIdentity {
    /// `TOLLGATE_POD_UID`, from the downward API.
    pub uid: Option<String>,
    /// The system's host name: in Kubernetes the pod's name.
    pub hostname: Option<String>,
    /// The kubelet says so, by `KUBERNETES_SERVICE_HOST`.
    pub kubernetes: bool,
}

impl PodIdentity {
    /// The pod's UID, else the task's ARN, else the host name.
    #[must_use]
    pub fn resolve<'a>(&'a self, task_arn: Option<&'a str>) -> Option<&'a str> {
        self.uid.as_deref().or(task_arn).or(self.hostname.as_deref())
    }
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub(crate) fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
