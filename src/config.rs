//! Valid configuration: each part of the program gets its own piece of it, never the whole.
//!
//! - The table in `table` declares each setting once: name, type, default, owner, meaning, value of the chart.
//!   `resolve` decides which text counts; `kind` and `parse` turn texts into values; `rules` checks values against each
//!   other; `fault` reports all faults at once.
//! - A [`Config`] is valid: keys are read and parsed, folders were written to, addresses do not collide. Whether the
//!   product code is right and the role allows the calls is not known here: only AWS knows.
//! - This is the only module that reads the environment. It reads files through [`Disk`], never the network or a clock.
//!
//! It must not know what the parts do with their pieces.

mod credentials;
mod dimension_rules;
mod disk;
mod document;
mod endpoint;
mod env;
mod fault;
mod flags;
mod identity;
mod keys;
mod kind;
mod ledger_url;
mod mode;
mod parse;
mod profiles;
mod proxy;
mod reader;
mod report;
mod resolve;
mod rules;
mod sdk;
mod secrets;
pub mod setting;
mod state;
mod table;
mod terminal;
#[cfg(test)]
mod tests;
mod token;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use self::dimension_rules::MeteredDimension;
pub use self::disk::{DEFAULT_FILE, Disk, Installation, MemoryDisk, SELLER_FILE, SystemDisk};
pub use self::endpoint::EndpointUrl;
pub use self::env::{
    Environment, MapEnvironment, OWN_PROGRAM, ProcessEnvironment, arguments, restart_if_untidy,
};
pub use self::fault::{Fault, Faults, Origin};
pub use self::flags::Flags;
pub(crate) use self::flags::described;
pub use self::mode::Mode;
pub use self::parse::{DURATION_MAX, duration};
use self::reader::Reader;
pub use self::report::{Report, Row, inspect, report};
use self::resolve::Resolution;
pub use self::resolve::{CONFIG_VARIABLE, POD_UID_VARIABLE};
pub(crate) use self::sdk::late_ca_bundle_fault;
pub use self::secrets::secrets;
pub use self::table::{App, Aws, Config, License, Log, Probe, Product, Registration, State, Usage};
pub use self::terminal::wants_colour;

use tollgate_marketplace::{ProductCode, ProductId};

#[cfg(test)]
pub(crate) use self::tests::TEST_KEY_PEM;

/// A valid configuration, its warnings, and the origin of each value.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What is odd but not wrong; for the log.
    pub warnings: Vec<String>,
    /// Each value and where it comes from; for `config print` and `doctor`.
    pub origins: Vec<Row>,
}

/// The command for which a configuration is loaded: it decides some defaults, and what may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `run`: the sidecar.
    Run,
    /// `exec`: the gate in the image.
    Exec,
    /// `config`: as for `run`, but a folder that was created to test it is removed again.
    Check,
    /// `doctor`: as [`Role::Check`], but it checks the state folder itself, so a full volume for usage is no fault.
    Inspect,
    /// `config check --seller-file`: the seller's file alone; the state folder is not tested.
    SellersFile,
    /// `ledger`: as for `run`, but nothing is written: a ledger in a read-only folder can be read.
    Ledger,
}

/// Loads the configuration, or returns all its faults.
///
/// Reads at most the seller's file, one configuration file, the key files, the token files, the CA bundle and the AWS
/// profile files. Tests that the state folder can be written, except for [`Role::Ledger`] and [`Role::SellersFile`].
pub fn load(
    flags: &Flags,
    env: &dyn Environment,
    installed: &Installation<'_>,
    role: Role,
) -> Result<Loaded, Faults> {
    load_resolved(&resolve::resolve(flags, env, installed), env, installed, role)
}

/// Checks a seller's file alone, before it is in an image: environment variables and other configuration files are
/// ignored.
pub fn load_sellers_file(flags: &Flags, file: &Path, installed: &Installation<'_>) -> Result<Loaded, Faults> {
    let nobody = MapEnvironment::default();
    let alone = Installation {
        seller_file: file.to_owned(),
        default_file: PathBuf::new(),
        emulator: installed.emulator,
        engine: installed.engine,
        disk: installed.disk,
    };
    let resolution = resolve::resolve(flags, &nobody, &alone);
    if !resolution.sealed() {
        let problem = "does not exist; name the seller's file, as `tollgate config init` writes it";
        return Err(Faults(vec![Fault::of(file.display().to_string(), problem)]));
    }
    load_resolved(&resolution, &nobody, &alone, Role::SellersFile)
}

/// What reading a ledger needs of the configuration.
#[derive(Debug)]
pub struct LedgerPlace {
    /// How the product is priced, as far as the configuration says.
    pub mode: Mode,
    /// Where the running sidecar answers.
    pub app: App,
    /// Where the file is.
    pub state: State,
}

/// Loads only what reading a ledger needs: a ledger can be read where its product is not configured.
pub fn load_ledger_place(
    flags: &Flags,
    env: &dyn Environment,
    installed: &Installation<'_>,
) -> Result<LedgerPlace, Faults> {
    let resolution = resolve::resolve(flags, env, installed);
    let mut reader = Reader::new(&resolution, env, installed, Role::Ledger);
    let (app, state) = (App::read(&mut reader), State::read(&mut reader));
    let mode = reader::read(&mut reader, setting::Setting::Mode, kind::MODE.parse);
    let faults = reader.faults;
    match (mode, app, state) {
        (Some(mode), Some(app), Some(state))
            if !resolution.file.is_broken() && !resolution.seller.is_broken() =>
        {
            Ok(LedgerPlace { mode, app, state })
        }
        _ => Err(Faults(resolution.faults.into_iter().chain(faults).collect())),
    }
}

/// [`load`], after the files were read.
fn load_resolved(
    resolution: &Resolution,
    env: &dyn Environment,
    installed: &Installation<'_>,
    role: Role,
) -> Result<Loaded, Faults> {
    let mut reader = Reader::new(resolution, env, installed, role);
    let config = Config::read(&mut reader);
    rules::check(&mut reader);
    let (mut faults, mut warnings) = (reader.faults, reader.warnings);
    faults.splice(0..0, resolution.faults.iter().cloned());
    match config {
        Some(mut config) if faults.is_empty() => {
            identity::keep_receipt_of_a_named_pod(&mut config, &mut warnings);
            identity::warn_of_a_nameless_pod(&config, &mut warnings);
            warnings.splice(0..0, resolution.warnings.iter().cloned());
            let origins = report::rows(resolution, env, installed);
            Ok(Loaded { config, warnings, origins })
        }
        _ => Err(Faults(faults)),
    }
}

/// The mode that environment and files state, even if the configuration has faults. For the help, which lists the
/// settings of the mode.
#[must_use]
pub fn stated_mode(env: &dyn Environment, installed: &Installation<'_>) -> Option<Mode> {
    let resolution = resolve::resolve(&Flags::default(), env, installed);
    let text = resolution.choice(setting::Setting::Mode)?.raw.to_text();
    Mode::ALL.into_iter().find(|mode| mode.as_str() == text)
}

/// Loads only what `probe` and `await` need to find the running sidecar. Nothing else is checked: the sidecar did that.
pub fn load_probe(
    flags: &Flags,
    env: &dyn Environment,
    installed: &Installation<'_>,
) -> Result<Probe, Faults> {
    load_part(flags, env, installed, Probe::read)
}

/// [`load_probe`] for the application's server.
pub fn load_app(flags: &Flags, env: &dyn Environment, installed: &Installation<'_>) -> Result<App, Faults> {
    load_part(flags, env, installed, App::read)
}

fn load_part<T>(
    flags: &Flags,
    env: &dyn Environment,
    installed: &Installation<'_>,
    read: impl FnOnce(&mut Reader<'_>) -> Option<T>,
) -> Result<T, Faults> {
    let resolution = resolve::resolve(flags, env, installed);
    let mut reader = Reader::new(&resolution, env, installed, Role::Inspect);
    let part = read(&mut reader);
    let faults = reader.faults;
    match part {
        Some(part) if !resolution.file.is_broken() && !resolution.seller.is_broken() => Ok(part),
        _ => Err(Faults(resolution.faults.into_iter().chain(faults).collect())),
    }
}

impl Product {
    /// AWS's name of the product: its product code, or in mode `contract` its product ID.
    #[must_use]
    pub fn name(&self) -> &str {
        let code = self.product_code.as_ref().map(ProductCode::as_str);
        code.or(self.product_id.as_ref().map(ProductId::as_str)).unwrap_or_default()
    }
}

/// What to do when not entitled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDenied {
    /// Keep running, and retry every five minutes.
    Hold,
    /// End the process.
    Exit,
}

/// What to do when an entitlement ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnLapse {
    /// The gate stays open; the state says `lapsed`.
    Keep,
    /// The gate closes after this long.
    CloseAfter(Duration),
}

/// Whether this pod calls AWS again after the answer that the buyer is not entitled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterDenial {
    /// It retries every five minutes.
    AskAgain,
    /// Only a new pod calls: AWS documents that only a pod's first call reports a missing entitlement.
    NewPod,
}

/// What to do when usage stays unbilled because AWS refuses it or does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnUnsent {
    /// The gate stays open.
    Keep,
    /// The gate closes when the oldest such record is older than this; at least two hours.
    CloseAfter(Duration),
}

/// How a contract product uses its license.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LicenseModel {
    /// Checks it, and holds nothing.
    Check,
    /// Holds seats while the pod lives.
    Floating,
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

/// The state folder, tested to be writable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateDir {
    /// Nothing is kept: configured so, or the default folder cannot be written and nothing needs it.
    None,
    /// The default folder.
    Default(PathBuf),
    /// A folder that a setting names.
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

/// What becomes of usage that AWS certainly did not take, and that is now too old for AWS.
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

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Where wall time comes from.
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
    /// Whether this is a pod: the kubelet sets `KUBERNETES_SERVICE_HOST`.
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
