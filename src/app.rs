//! The one wiring file: configuration in, running parts out, drained at the end. No decision about business is made
//! here.

use std::io;
use std::sync::Arc;

use crate::clock::{self, WallClock};
use crate::config::{self, ClockSource, Config, ListenAddr, OnDenied};
use crate::entitlement::{self, Subject, Watch};
use crate::exit::Exit;
use crate::http::{self, Address, Listener};
use crate::log;
use crate::marketplace::aws::{Aws, Settings};
use crate::marketplace::{Metering, region};
use crate::metrics::Metrics;
use crate::probe::{self, ProbeServer};
use crate::registration::machine::Policy;
use crate::registration::memory::Store;
use crate::registration::{self, Registration};
use crate::shutdown::{Parts, Signals, until};

/// Why the process could not start; nothing is left half-started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port or socket is taken.
    #[error(
        "{setting}: cannot listen on {address}: {source}; another container of this pod may hold it: stop it, or set \
         {setting} to a free address"
    )]
    Bind {
        /// The setting that names the address.
        setting: &'static str,
        /// The address.
        address: Address,
        /// What the system said.
        source: io::Error,
    },
    /// The system refused something that it never should.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
}

impl StartError {
    /// The exit code.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        match self {
            Self::Bind { .. } => Exit::Config,
            Self::System(_) => Exit::Internal,
        }
    }
}

/// The sidecar, with its ports bound and nothing asked yet.
pub struct App {
    parts: Parts,
    signals: Signals,
    entitlement: Watch,
}

impl App {
    /// Binds the ports and starts every part. Must be called inside the runtime.
    pub fn start(config: Config) -> Result<Self, StartError> {
        let signals = Signals::new()?;
        let probe_listener = bind("probe_addr", &config.probe.addr)?;
        // The address that was bound: port 0 asks the kernel for one.
        let probe_addr = probe_listener.local_address()?;
        tracing::info!(version = env!("CARGO_PKG_VERSION"), %probe_addr, "tollgate started");

        let mut parts = Parts::new();
        let clock = WallClock::system();
        if let ClockSource::Follow(url) = &config.clock {
            let follow = clock::follow(clock.clone(), url.as_str().to_owned());
            parts.spawn("clock", until(parts.stop(), follow));
        }
        let metrics = Arc::new(Metrics::new());
        let (publisher, entitlement) = entitlement::channel(clock.now());
        let subject = Arc::new(Subject {
            mode: config.product.mode.as_str(),
            product_code: config.product.product_code.clone(),
        });

        let server = ProbeServer::new(subject, entitlement.clone(), Arc::clone(&metrics), clock.clone());
        parts.spawn("probe server", http::serve(probe_listener, probe::LIMITS, server, parts.stop()));
        parts.spawn("log", until(parts.stop(), log::follow(entitlement.clone())));

        let metering: Arc<dyn Metering> = Arc::new(Aws::new(aws_settings(&config.aws)));
        let store = config.state.dir.path().map(|folder| Store::new(folder.to_owned()));
        let metadata_uri = config.aws.ecs_metadata_uri.clone();
        let identity = config.identity.clone();
        let registration = registration_config(config);
        parts.spawn_deciding("registration", async move {
            let task_arn = match identity.uid {
                Some(_) => None,
                None => region::task_arn(metadata_uri.as_deref()).await,
            };
            let pod = identity.resolve(task_arn.as_deref()).unwrap_or_default().to_owned();
            Registration::new(registration, pod, metering, clock, publisher, store, metrics).run().await
        });
        Ok(Self { parts, signals, entitlement })
    }

    /// Runs until a signal or until the policy says to leave; drains; says how the process ends.
    pub async fn run(mut self) -> Exit {
        let exit = self.parts.supervise(&mut self.signals, std::future::pending()).await;
        self.last_line(exit);
        exit
    }

    /// Runs until the gate opens; `Err` is how the process ends otherwise. Sockets are closed when it returns.
    pub async fn run_until_open(mut self) -> Result<(), Exit> {
        let mut entitlement = self.entitlement.clone();
        let opened = async move {
            match entitlement.wait_for(|fact| fact.standing.gate_open()).await {
                Ok(_) => Exit::Done,
                // The publisher went with the registration, whose own end says how the process ends.
                Err(_) => std::future::pending().await,
            }
        };
        let exit = self.parts.supervise(&mut self.signals, opened).await;
        let open = self.entitlement.borrow().standing.gate_open();
        let exit = match exit {
            Exit::Done if open => return Ok(()),
            Exit::Done => Exit::Terminated,
            other => other,
        };
        self.last_line(exit);
        Err(exit)
    }

    /// Every exit that is not 0 ends with the line of `probe`.
    fn last_line(&self, exit: Exit) {
        if exit != Exit::Done {
            tracing::error!(exit_code = exit.code(), "{}", self.entitlement.borrow().line());
        }
    }
}

fn bind(setting: &'static str, addr: &ListenAddr) -> Result<Listener, StartError> {
    let address = address(addr);
    Listener::bind(&address).map_err(|source| StartError::Bind { setting, address, source })
}

/// A configured address as the HTTP shell takes it.
#[must_use]
pub fn address(addr: &ListenAddr) -> Address {
    match addr {
        ListenAddr::Tcp(addr) => Address::Tcp(*addr),
        ListenAddr::Unix(path) => Address::Unix(path.clone()),
    }
}

/// What the client needs of the configuration.
#[must_use]
pub fn aws_settings(aws: &config::Aws) -> Settings {
    Settings {
        region: aws.region.clone(),
        endpoint_url: aws.endpoint_url.as_ref().map(|url| url.as_str().to_owned()),
        ecs_metadata_uri: aws.ecs_metadata_uri.clone(),
        web_identity_token_file: aws.web_identity_token_file.clone(),
        imds_disabled: aws.imds_disabled,
        ca_bundle: aws.ca_bundle.clone(),
    }
}

fn registration_config(config: Config) -> registration::Config {
    let product = config.product;
    registration::Config {
        policy: Policy {
            unavailable_after: config.registration.unavailable_after,
            grace_period: config.registration.grace_period,
            exit_when_refused: config.registration.on_denied == OnDenied::Exit,
            versions: product.keys.versions().collect(),
            stated_version: product.public_key_version,
        },
        product_code: product.product_code,
        keys: product.keys,
        allow_emulated: product.allow_emulated,
        keep_receipt: config.registration.kept_receipt,
    }
}
