//! The emulator: a strict stand-in for AWS Marketplace's metering and entitlement services and AWS License Manager, for
//! laptops and tests.
//!
//! - It speaks AWS JSON 1.1 over plain HTTP: an unmodified AWS SDK needs only one environment variable.
//! - It has its own wire structs: if the client side shared them, a misspelt field would go unnoticed.
//! - Every answer has `x-tollgate-emulator: 1` and every token `emulated: true`, so neither can be mistaken for AWS's.
//! - Decisions are pure (`service`): (state, request, now) in, answer and changes out. `engine` makes the changes;
//!   `server` and `admin` speak HTTP.
//!
//! Reading order: `wire` and `model` (what a request is), `world` (what exists), `service` (what is decided), `change`,
//! `bill` and `seats` (what is stored), `engine`, `server`. The sidecar never imports this crate; both communicate over
//! HTTP only.

mod action;
mod admin;
mod agent;
mod bill;
mod calls;
mod change;
mod clock;
mod credentials;
mod decimal;
mod engine;
mod event;
mod fault;
mod hash;
mod host;
mod journal;
mod keys;
mod license_token;
mod model;
mod operation;
mod quota;
mod reply;
mod seats;
mod server;
mod service;
mod sigv4;
mod sts;
mod token;
mod web_identity;
mod wire;
mod world;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use engine::Engine;
use server::Server;
use tollgate_http::{self as http, Address, Limits, Listener};
pub use web_identity::{Jwks, WebIdentity};
use world::World;
use world::document::OrderError;

/// The header of every answer.
pub const HEADER: &str = "x-tollgate-emulator";

/// The default world, as a file to start one's own from.
pub const DEFAULT_WORLD: &str = world::document::DEFAULT;

const LIMITS: Limits = Limits {
    // Load tests open many connections; each costs some kilobytes.
    connections_max: 4096,
    header_timeout: Duration::from_secs(60),
    header_bytes_max: 64 * 1024,
    // A scripted hang or delay must last longer than every client's timeout.
    request_timeout: Duration::from_secs(2 * 3600),
    drain_timeout: Duration::from_millis(200),
    reset_when_abandoned: true,
};

/// How to start.
#[derive(Debug)]
pub struct Options {
    /// Where to listen.
    pub address: Address,
    /// The folder of the state; without it the state is in memory.
    pub state: Option<PathBuf>,
    /// The folder of the signing keys; several emulators may share it.
    pub keys: PathBuf,
    /// The text of a world file; without it, the default world.
    pub world: Option<String>,
    /// Switches to set in addition to the world's, by name and answer.
    pub switches: Vec<(String, String)>,
    /// Throttle as AWS does.
    pub quotas: bool,
    /// The only access key that is accepted, and its secret; without it all keys are accepted, unverified.
    pub credentials: Option<(String, String)>,
    /// Which web identity tokens STS accepts; without it every well-formed one.
    pub web_identity: Option<WebIdentity>,
    /// The `Authorization` that the container credentials endpoint requires; without it none.
    pub container_token: Option<String>,
    /// The seed for faults with a probability.
    pub seed: u64,
}

/// Why the emulator cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is in use or not local.
    #[error("cannot listen on {address}: {source}; choose another with --addr")]
    Bind {
        /// The address.
        address: Address,
        /// The system's error.
        source: io::Error,
    },
    /// The state folder cannot be used.
    #[error("cannot use the state folder {}: {source}; choose another with --state", folder.display())]
    State {
        /// The folder.
        folder: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The key folder cannot be used.
    #[error("cannot use the key folder {}: {source}; choose another with --keys", folder.display())]
    Keys {
        /// The folder.
        folder: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The world file has faults, one a line.
    #[error("{0}")]
    World(String),
}

impl From<OrderError> for StartError {
    fn from(error: OrderError) -> Self {
        Self::World(error.to_string())
    }
}

/// A bound emulator; it answers while [`Emulator::serve`] runs.
#[derive(Debug)]
pub struct Emulator {
    listener: Listener,
    engine: Arc<Engine>,
    facts: Facts,
}

/// Facts for scripts.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Facts {
    /// The URL to give to an SDK.
    pub endpoint: String,
    /// The product for a first try: the first one with hourly pricing.
    pub product_code: String,
    /// The contract for a first try: the product of the first license.
    pub product_id: String,
    /// Its newest key version.
    pub public_key_version: i32,
    /// The folder of its public keys.
    pub public_keys: PathBuf,
    /// The URL of the clock.
    pub clock: String,
}

/// Checks the text of a world file.
pub fn check_world(text: &str) -> Result<(), StartError> {
    World::of_toml(text)?;
    Ok(())
}

impl Emulator {
    /// Reads world and state, makes missing keys, and binds the address.
    pub fn open(options: Options) -> Result<Self, StartError> {
        let mut world = match &options.world {
            Some(text) => World::of_toml(text)?,
            None => World::of_default(),
        };
        for (name, answer) in &options.switches {
            world.switches.set(name, answer).map_err(StartError::World)?;
        }
        let bind_error = |source| StartError::Bind { address: options.address.clone(), source };
        let listener = Listener::bind(&options.address).map_err(bind_error)?;
        let address = listener.local_address().map_err(bind_error)?;
        let engine = Engine::open(world, options)?;
        let facts = engine.facts(&address);
        Ok(Self { listener, engine: Arc::new(engine), facts })
    }

    /// Facts for scripts.
    #[must_use]
    pub const fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Whether another emulator uses the state folder, so that this one keeps its bill only in memory.
    #[must_use]
    pub fn forgets(&self) -> bool {
        self.engine.forgets
    }

    /// Serves until `stop` turns true.
    pub async fn serve(self, stop: watch::Receiver<bool>) {
        http::serve(self.listener, LIMITS, Server(self.engine), stop).await;
    }
}

/// Parses a duration such as `1h30m`: whole numbers of d, h, m, s and ms, the largest unit first.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    for (unit, millis) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)] {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        let Some(after) = after.strip_prefix(unit).filter(|after| unit != "m" || !after.starts_with('s'))
        else {
            continue;
        };
        let number: u64 = number.parse().ok()?;
        total = total.checked_add(Duration::from_millis(number.checked_mul(millis)?))?;
        rest = after;
    }
    (rest.is_empty() && !text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_everywhere() {
        for (text, millis) in [
            ("1h30m", Some(5_400_000)),
            ("1d", Some(86_400_000)),
            ("90m", Some(5_400_000)),
            ("2s500ms", Some(2500)),
            ("0s", Some(0)),
            ("", None),
            ("5", None),
            ("1m1h", None),
            ("-1s", None),
            ("1.5h", None),
            ("99999999999999999999h", None),
        ] {
            assert_eq!(duration(text), millis.map(Duration::from_millis), "{text}");
        }
    }
}
