//! Wires the sidecar: builds the parts from the configuration, starts them, and drains them at the end. It makes no
//! business decision.

mod clock_source;
mod identity;
mod licensing;
mod metering;

use std::io;
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;

use crate::api::attestation::{self, Attestation};
use crate::api::door::Door;
use crate::api::{self, AppServer};
use crate::config::setting::Setting;
use crate::config::{self, AfterDenial, ClockSource, Config, ListenAddr, Mode, OnDenied, OnLapse};
use crate::entitlement::{self, Documents, Entitlement, Subject, Watch, refusal_update};
use crate::exit::Exit;
use crate::last_sentence;
use crate::license;
use crate::log;
use crate::metrics::Metrics;
use crate::probe::{self, ProbeServer};
use crate::program;
use crate::registration::dimensions::Trial;
use crate::registration::machine::RegistrationPolicy;
use crate::registration::memory::Store;
use crate::registration::{self, Asking, Registration};
use crate::shutdown::{Ended, Ending, First, Parts, Signals, until};
use crate::supervisor::{self, Child};
use crate::usage::heartbeat::Heartbeats;
use crate::usage::notice::Notices;
use identity::Identity;
use licensing::Contract;
pub(crate) use licensing::{client_settings, terms};
pub(crate) use metering::{repairs, shared_ledger};
use tollgate_aws::ca_bundle::CaBundle;
use tollgate_aws::{Aws, AwsSettings};
use tollgate_clock::{self as clock, WallClock};
use tollgate_http::{self as http, Address, Listener};
use tollgate_marketplace::{Forward, Meter, ProductCode, ProductId, Register};

/// Why the process could not start; nothing is left half-started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The sidecar cannot listen on an address. The text has the form of every last line: state, code, what to do.
    #[error(
        "misconfigured: CannotListen: {setting}: cannot listen on {address}: {source}; {}",
        listen_remedy(source, setting)
    )]
    Bind {
        /// The setting that names the address.
        setting: &'static str,
        /// The address.
        address: Address,
        /// The system's error.
        source: io::Error,
    },
    /// Another error of the system.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
}

fn listen_remedy(source: &io::Error, setting: &str) -> String {
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            format!("another container of this pod may hold it: stop it, or set {setting} to a free address")
        }
        io::ErrorKind::NotFound => {
            format!("create the socket's folder, or set {setting} to a path in an existing folder")
        }
        io::ErrorKind::PermissionDenied => {
            format!("this process's user may not listen there: set {setting} to an address that it may use")
        }
        _ => format!("set {setting} to an address of this host"),
    }
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

/// What a process serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The gate alone, for an `exec` that becomes the command.
    Gate,
    /// The application's server too, for `run` and for an `exec` that stays.
    Sidecar,
}

/// The sidecar, with its ports bound, before the first call to AWS.
pub struct App {
    parts: Parts,
    signals: Signals,
    entitlement: Watch,
    /// The bound address of the application's server.
    app_addr: Option<Address>,
    quit: watch::Sender<bool>,
    draining: watch::Sender<bool>,
    drain: Option<metering::Drain>,
    /// Gives seats back at the end, in mode `contract`.
    seats: Option<license::Drain>,
    notices: Notices,
}

impl App {
    /// Binds the ports and starts every part. Must be called inside the runtime.
    pub fn start(config: Config, scope: Scope) -> Result<Self, StartError> {
        let signals = Signals::new()?;
        let probe_listener = bind("probe_addr", &config.probe.addr)?;
        let app_listener = match scope {
            Scope::Sidecar => Some(bind("app_addr", &config.app.addr)?),
            Scope::Gate => None,
        };
        // The addresses that were bound: with port 0 the kernel chooses one.
        let probe_addr = probe_listener.local_address()?;
        let app_addr = app_listener.as_ref().map(Listener::local_address).transpose()?;
        tracing::info!(
            event = "started",
            version = program::VERSION, build = program::build(), mode = config.product.mode.as_str(),
            product_code = config.product.product_code.as_ref().map(ProductCode::as_str),
            product_id = config.product.product_id.as_ref().map(ProductId::as_str), %probe_addr,
            app_addr = app_addr.as_ref().map(tracing::field::display),
            "tollgate started"
        );

        let descriptors = http::descriptors();
        let (probe_limits, app_limits) =
            (probe::LIMITS.within(descriptors, 1, 3), api::LIMITS.within(descriptors, 2, 3));
        let mut parts = Parts::new();
        let clock = WallClock::system();
        let heartbeats = Arc::new(OnceLock::new());
        if let ClockSource::Follow(url) = &config.clock {
            let follow =
                clock_source::follow(clock.clone(), url.as_str().to_owned(), Arc::clone(&heartbeats));
            parts.spawn("clock", until(parts.stop(), follow));
        }
        let metrics = Arc::new(Metrics::new());
        let (publisher, entitlement) = entitlement::channel(clock.now());
        let (refusal_sender, refusal_receiver) = refusal_update::channel();
        let subject = Subject {
            mode: config.product.mode.as_str(),
            product_code: config.product.product_code.clone(),
            product_id: config.product.product_id.clone(),
            pod: config.probe.pod_uid.clone(),
        };
        let documents = Documents::new(Arc::new(subject), entitlement.clone(), clock.clone());
        if let Some(bundle) = config.aws.ca_bundle.clone() {
            parts.spawn_explaining("CA bundle", invalid(bundle, entitlement.clone()));
        }
        let aws = Arc::new(Aws::new(aws_settings(&config.aws)));
        if !config.product.mode.ends_when_open() {
            let aws = Arc::clone(&aws);
            parts.spawn("credentials", until(parts.stop(), async move { aws.keep_credentials().await }));
        }

        let server = ProbeServer::new(documents.clone(), Arc::clone(&metrics));
        parts.spawn("probe server", http::serve(probe_listener, probe_limits, server, parts.stop()));
        parts.spawn("log", until(parts.stop(), log::follow(entitlement.clone())));

        let context = AppContext {
            aws: Arc::clone(&aws),
            clock: clock.clone(),
            metrics: Arc::clone(&metrics),
            identity: Identity::new(&config),
            notices: Notices::new(metrics),
            gate: entitlement.clone(),
            heartbeats,
        };
        let metrics = Arc::clone(&context.metrics);
        let usage = metering::start(&config, &context, refusal_sender, &mut parts);
        let contract = Contract::of(&config);
        let quit = watch::Sender::new(false);
        if let Some(listener) = app_listener {
            let attestation = attesting(&config, &context, entitlement.clone());
            let registrations =
                attestation.as_ref().map_or_else(attestation::registrations, |one| one.calls.registrations());
            let server = AppServer {
                documents,
                room: http::BodyBudget::new(api::BODIES_BYTES_MAX),
                token: config.app.token.clone().map(Arc::new),
                usage: usage.as_ref().map(|usage| usage.part.clone()),
                attestation,
                license: contract.as_ref().map(|contract| contract.part.clone()),
                door: config.product.product_code.clone().filter(|_| config.app.aws_door).map(
                    |product_code| {
                        // Only reports of this pod's own usage compete with the ledger's.
                        let metered = usage.as_ref().filter(|_| config.product.mode.meters_own_pod());
                        Door::new(
                            Arc::clone(&aws) as Arc<dyn Forward>,
                            metered.map(|usage| usage.part.clone()),
                            product_code,
                            registrations,
                            clock.clone(),
                            context.notices.clone(),
                        )
                    },
                ),
                quit: config.app.quit.then(|| quit.clone()),
            };
            parts.spawn("app server", http::serve(listener, app_limits, server, parts.stop()));
        }

        let draining = watch::Sender::new(false);
        if let Some(product_code) = config.product.product_code.clone()
            && config.product.mode.meters_own_pod()
        {
            let trial = Trial {
                aws: Arc::clone(&aws) as Arc<dyn Meter>,
                product_code,
                clock: clock.clone(),
                metrics: Arc::clone(&metrics),
            };
            let dimensions = config.product.dimensions.clone().unwrap_or_default();
            let tried = trial.run(dimensions, entitlement.clone());
            // During a shutdown AWS's quota is reserved for usage.
            let draining = draining.subscribe();
            let rest = async {
                until(draining, tried).await;
                std::future::pending::<()>().await;
            };
            parts.spawn("dimensions", until(parts.stop(), rest));
        }

        let store = config.state.dir.path().map(|folder| Store::new(folder.to_owned()));
        let (identity, notices) = (context.identity.clone(), context.notices.clone());
        let (drain, ledger_open) = usage.map(|usage| (usage.drain, usage.open)).unzip();
        let seats = contract.as_ref().map(|contract| contract.drain.clone());
        let app =
            |parts| Self { parts, signals, entitlement, app_addr, quit, draining, drain, seats, notices };
        if let Some(contract) = contract {
            contract.start(&context, publisher, &mut parts);
            return Ok(app(parts));
        }
        // Outside mode `contract` the configuration always has a product code.
        let Some(registration) = registration_config(config) else { return Ok(app(parts)) };
        parts.spawn_deciding("registration", async move {
            if let Some(mut open) = ledger_open {
                // If the gate opened while the ledger cannot be written, usage would be lost.
                let _ = open.wait_for(|open| *open).await;
            }
            let pod = identity.resolve_soon().await;
            let context = registration::RegistrationContext {
                register: Arc::clone(&aws) as Arc<dyn Register>,
                meter: aws,
                clock,
                publisher,
                store,
                metrics,
                refusal_receiver,
            };
            Registration::new(registration, pod, context).run().await
        });
        Ok(app(parts))
    }

    /// Runs until a signal, `POST /v1/quit` or the policy ends the sidecar; drains; returns how the process ends.
    pub async fn run(mut self) -> Exit {
        let mut quit = self.quit.subscribe();
        let quit = async move {
            let _ = quit.wait_for(|quit| *quit).await;
            tracing::info!(event = "draining", "asked to quit: draining");
            Exit::Done
        };
        let (ended, first) = self.parts.watch(&mut self.signals, quit).await;
        // The application that asked to quit ends too; the platform's signal may still come.
        let first = first.unwrap_or_else(First::to_come);
        self.finish((ended, Some(first)), Ended::by_policy(Exit::Done)).await
    }

    /// Runs until the gate opens; `Err` is how the process ends otherwise. Sockets are closed when it returns.
    pub async fn run_until_open(mut self) -> Result<(), Exit> {
        let done = || Ended::by_policy(Exit::Done);
        let (ended, otherwise) = match self.wait_until_open().await {
            Ok(()) => ((done(), None), done()),
            Err(ended) => (ended, self.ended_before_open()),
        };
        match self.finish(ended, otherwise).await {
            Exit::Done => Ok(()),
            exit => Err(exit),
        }
    }

    /// Waits for the gate, then runs `command` beside the servers, and drains when it has ended.
    pub async fn run_beside(mut self, mut command: Command, grace: Duration) -> Exit {
        if let Err(ended) = self.wait_until_open().await {
            let before_open = self.ended_before_open();
            return self.finish(ended, before_open).await;
        }
        if let Some(addr) = &self.app_addr {
            command.env(Setting::AppAddr.spec().env, addr.to_string());
        }
        let mut child = match Child::start(&mut command, grace) {
            Ok(child) => child,
            Err(error) => {
                let exit = supervisor::exit_of(&error);
                let cause = supervisor::cannot_start(command.get_program(), &error.to_string());
                tracing::warn!(event = "draining", "{cause}; draining");
                // Nothing of tollgate failed: usage and seats are handled as after the command's own end.
                let drained = (Ended::by_policy(Exit::Done), Some(First::to_come()));
                return self.finish(drained, Ended::because(exit, cause)).await;
            }
        };
        let (mut first, mut failed) = (First::to_come(), None);
        let end = loop {
            if let Some(end) = child.over() {
                break end;
            }
            tokio::select! {
                () = child.next() => {}
                signal = self.signals.next() => {
                    tracing::info!(
                        event = "signal_passed", signal = signal.as_str(), "signal passed on to the command"
                    );
                    if signal != Ending::HangUp {
                        first = First::now(signal);
                    }
                    child.signal(signal.signal());
                }
                ended = self.parts.failure(), if failed.is_none() => {
                    let cause = ended.cause.clone().unwrap_or_else(|| self.entitlement.borrow().last_line());
                    if matches!(ended.exit, Exit::Internal | Exit::Io) {
                        tracing::error!(
                            event = "command_asked_to_end",
                            "tollgate cannot continue and sends SIGTERM to the command: {cause}"
                        );
                        child.ask_to_end();
                        failed = Some(ended);
                    } else {
                        // A gate that shuts later does not end the command.
                        tracing::error!(event = "gate_not_asked_again", "AWS is not asked again; the command keeps running: {cause}");
                    }
                }
            }
        };
        tracing::info!(event = "draining", "command ended: draining");
        let ended = failed.unwrap_or_else(|| Ended::by_policy(Exit::Done));
        self.finish((ended, Some(first)), Ended::of_command(end, child.killed_by_us().then_some(grace))).await
    }

    /// Waits until the gate opens; `Err` is what ended the wait before.
    async fn wait_until_open(&mut self) -> Result<(), (Ended, Option<First>)> {
        let mut entitlement = self.entitlement.clone();
        let opened = async move {
            match entitlement.wait_for(|fact| fact.standing.gate_open()).await {
                Ok(_) => Exit::Done,
                // The registration ended and dropped the publisher; its own result says how the process ends.
                Err(_) => std::future::pending().await,
            }
        };
        match self.parts.watch(&mut self.signals, opened).await {
            (Ended { exit: Exit::Done, .. }, None) => Ok(()),
            ended => Err(ended),
        }
    }

    /// How the process ends when a signal comes before the gate opens.
    fn ended_before_open(&self) -> Ended {
        let line = self.entitlement.borrow().last_line();
        Ended::because(Exit::Terminated, format!("a signal ended tollgate before the gate opened: {line}"))
    }

    /// Drains, logs what remains, and returns how the process ends: with `otherwise` if nothing fails.
    async fn finish(mut self, ended: (Ended, Option<First>), otherwise: Ended) -> Exit {
        let (drain, seats) = (self.drain.clone(), self.seats.clone());
        let draining_now = self.draining.clone();
        let mut began = None;
        let failed = ended.0.exit != Exit::Done;
        let draining = async {
            draining_now.send_replace(true);
            // After a failure usage stays in the ledger for the next start. Seats are given back even then: nobody
            // else can use them while this pod holds them.
            match &drain {
                Some(drain) if failed => drain.count_the_rest().await,
                Some(drain) => {
                    began = Some(clock::monotonic());
                    drain.run().await;
                }
                None => {}
            }
            if let Some(seats) = &seats {
                seats.run().await;
            }
        };
        let mut ended = self.parts.finish(&mut self.signals, ended, draining).await;
        self.notices.tell_the_rest();
        if let Some(drain) = &drain {
            let why = drain.tell_what_remains(began.unwrap_or_else(clock::monotonic)).await;
            // The sender and the drain may both report a failed ledger; the drain also reports its content.
            if matches!(ended.exit, Exit::Done | Exit::Io)
                && let Some(cause) = why
            {
                ended = Ended { exit: Exit::Io, cause: Some(cause) };
            }
        }
        if ended.exit == Exit::Done {
            ended = otherwise;
        }
        if let Some(sentence) = seats.as_ref().and_then(license::Drain::what_remains) {
            // The exit code of the command is more useful to its caller, so the seats get a log line of their own.
            if ended.exit == Exit::Done {
                ended = Ended { exit: Exit::Unavailable, cause: Some(sentence) };
            } else {
                tracing::warn!(event = "seats_remain", "{sentence}");
            }
        }
        self.last_line(&ended);
        ended.exit
    }

    /// Logs the cause of every exit code but 0: the recorded cause, or else the gate's state.
    fn last_line(&self, ended: &Ended) {
        match (ended.exit, &ended.cause) {
            (Exit::Done, _) => {}
            // The end of the command is no error of tollgate, and the command may have written a termination message.
            (Exit::Command(code), Some(cause)) => tracing::info!(event = "exit", exit_code = code, "{cause}"),
            (exit, cause) => {
                let cause = cause.clone().unwrap_or_else(|| self.entitlement.borrow().last_line());
                tracing::error!(event = "exit", exit_code = exit.code(), "{cause}");
                last_sentence::leave(&cause);
            }
        }
    }
}

fn bind(setting: &'static str, addr: &ListenAddr) -> Result<Listener, StartError> {
    let address = address(addr);
    Listener::bind(&address).map_err(|source| StartError::Bind { setting, address, source })
}

/// Long enough for the first attempt's outcome to be told.
const BUNDLE_CHECK_AFTER: Duration = Duration::from_millis(50);

/// Ends, with the exit code and the cause, only if a certificate of the bundle cannot be read or does not parse.
async fn invalid(bundle: CaBundle, mut entitlement: Watch) -> (Exit, Option<String>) {
    // The first call parses them too, if it needs them: not twice at once, and not in the way of a call that needs
    // none.
    let asked = |fact: &Entitlement| fact.attempts > 0 || fact.standing.reason().is_some();
    let _ = entitlement.wait_for(|fact| asked(fact)).await;
    tokio::time::sleep(BUNDLE_CHECK_AFTER).await;
    let checked = bundle.clone();
    match tokio::task::spawn_blocking(move || checked.check()).await {
        Ok(Err(error)) => (Exit::Config, Some(config::late_ca_bundle_fault(&bundle, &error))),
        Ok(Ok(())) | Err(_) => std::future::pending().await,
    }
}

/// A configured address as the HTTP shell takes it.
#[must_use]
pub fn address(addr: &ListenAddr) -> Address {
    match addr {
        ListenAddr::Tcp(addr) => Address::Tcp(*addr),
        ListenAddr::Unix(path) => Address::Unix(path.clone()),
    }
}

/// The AWS client's settings.
#[must_use]
pub fn aws_settings(aws: &config::Aws) -> AwsSettings {
    AwsSettings {
        region: aws.region.clone(),
        endpoint_url: aws.endpoint_url.as_ref().map(|url| url.as_str().to_owned()),
        stands_for_all: aws.stands_for_all,
        ecs_metadata_uri: aws.ecs_metadata_uri.clone(),
        web_identity_token_file: aws.web_identity_token_file.clone(),
        container_token_file: aws.container_token_file.clone(),
        credential_gaps: aws.credential_gaps.clone(),
        use_dual_stack: aws.use_dual_stack,
        use_fips: aws.use_fips,
        sealed: aws.sealed,
        imds_disabled: aws.imds_disabled,
        ca_bundle: aws.ca_bundle.clone(),
        role_arn: aws.role_arn.clone(),
    }
}

/// Attestations exist only in the mode in which AWS signs its answer.
fn attesting(config: &Config, context: &AppContext, entitlement: Watch) -> Option<Arc<Attestation>> {
    let product_code = config.product.product_code.clone().filter(|_| config.product.mode.is_signed());
    product_code.map(|product_code| {
        Arc::new(Attestation {
            aws: Arc::clone(&context.aws) as Arc<dyn Register>,
            product_code,
            keys: config.product.keys.clone(),
            allow_emulated: config.product.allow_emulated,
            entitlement,
            clock: context.clock.clone(),
            metrics: Arc::clone(&context.metrics),
            calls: attestation::Calls::default(),
        })
    })
}

/// `None` in mode `contract`, which asks License Manager instead.
fn registration_config(config: Config) -> Option<registration::Config> {
    let (product, registration) = (config.product, config.registration);
    let versions = product.keys.versions().collect();
    let asking = match (product.mode, product.entitlement_dimension) {
        (Mode::Hourly, _) => {
            Asking::Signature { keys: product.keys, keep_receipt: registration.kept_receipt }
        }
        (Mode::Metered, Some(dimension)) => Asking::ZeroReport(dimension),
        (Mode::Metered, None) => Asking::Permission(product.dimensions.into_iter().flatten().collect()),
        (Mode::Saas, _) => Asking::Seller,
        (Mode::Contract, _) => return None,
    };
    Some(registration::Config {
        policy: RegistrationPolicy {
            unavailable_after: registration.unavailable_after,
            grace_period: registration.grace_period,
            exit_when_refused: registration.on_denied == OnDenied::Exit,
            stays_once_open: registration.stays_once_open,
            versions,
            stated_version: product.public_key_version,
            renewed_hourly: matches!(asking, Asking::ZeroReport(_)),
            close_lapsed_after: match registration.on_lapse {
                OnLapse::Keep => None,
                OnLapse::CloseAfter(after) => Some(after),
            },
            ask_after_denial: registration.after_denial == AfterDenial::AskAgain,
        },
        product_code: product.product_code?,
        asking,
        allow_emulated: product.allow_emulated,
        docs_url: product.docs_url,
    })
}

/// What every part is built with: the AWS client, the clock, the metrics, the pod's identity.
#[derive(Clone)]
struct AppContext {
    aws: Arc<Aws>,
    clock: WallClock,
    metrics: Arc<Metrics>,
    identity: Identity,
    /// Counts and logs usage that was not taken, for all parts together.
    notices: Notices,
    /// The published fact about the gate.
    gate: Watch,
    /// What this process counts by itself, once its ledger is open.
    heartbeats: Arc<OnceLock<Heartbeats>>,
}
