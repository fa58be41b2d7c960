//! Wires usage: ledger, intake and sender, and their shutdown.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::AppContext;
use crate::api::entitlements::EntitlementCache;
use crate::api::repair::Repairs;
use crate::api::usage::{OpenLedger, UsagePart};
use crate::config::{self, ClockSource, Config, MeteredDimension, Mode, OnExpired, OnUnsent, OnZeroHour};
use crate::engine;
use crate::entitlement::refusal_update::RefusalSender;
use crate::exit::Exit;
use crate::shutdown::Parts;
use crate::usage::commits::Commits;
use crate::usage::heartbeat::Heartbeats;
use crate::usage::intake::{Activity, Intake};
use crate::usage::lifecycle;
use crate::usage::notice::Notices;
use crate::usage::sender::{self, Flush, FlushOrder, Outlet, Sender};
use crate::usage::unsent::Unsent;
use tollgate_clock::{self as clock, WallClock};
use tollgate_ledger::store::Store;
use tollgate_ledger::writer::Writer;
use tollgate_ledger::{self as ledger, Ledger, LedgerError, Totals};
use tollgate_marketplace::service::Entitle;
use tollgate_marketplace::{Meter, ProductCode, Resolve, quantity};
use tollgate_metering::event::{self, Rules};
use tollgate_metering::heartbeat::{Heartbeat, Passing};
use tollgate_metering::policy::{self, SendingPolicy, Window};
use tollgate_metering::unsent::Rule;
use tollgate_time::Timestamp;

/// The part of `shutdown_grace` that is reserved for the last log line.
const LAST_MOMENT: Duration = Duration::from_millis(100);

/// Timeout for reading a few rows about the usage that remains. A disk that hangs must not delay the last log line
/// until SIGKILL, which by the chart and the manifests comes 5 s after `shutdown_grace`.
const LAST_LOOK: Duration = Duration::from_secs(3);

/// A started usage part.
pub(super) struct Usage {
    pub(super) part: UsagePart,
    /// Turns true once the ledger is open.
    pub(super) open: watch::Receiver<bool>,
    pub(super) drain: Drain,
}

/// Starts the parts of usage; `None` in modes without usage: AWS meters `hourly` itself, and `contract` is not metered.
pub(super) fn start(
    config: &Config,
    context: &AppContext,
    refusal_sender: RefusalSender,
    parts: &mut Parts,
) -> Option<Usage> {
    let outlet = match config.product.mode {
        Mode::Hourly | Mode::Contract => return None,
        Mode::Metered => Outlet::MeterUsage,
        Mode::Saas => Outlet::BatchMeterUsage,
    };
    // In modes with usage the configuration always has a product code.
    let product_code = config.product.product_code.clone()?;
    let (opened, open) = watch::channel(false);
    let (flushes, flushed) = mpsc::channel(1);
    let slot = Arc::new(OnceLock::new());
    let mut context = context.clone();
    if config.state.url_file.is_some() {
        // Replicas decide by the time of the ledger that they share.
        context.clock = WallClock::system();
    }
    let notices = context.notices.clone();
    let commits = Commits::new(Arc::clone(&context.metrics), config.usage.ledger_bytes_max);
    let part = UsagePart {
        ledger: Arc::clone(&slot),
        activity: Activity::new(),
        aws: (outlet == Outlet::BatchMeterUsage).then(|| Arc::clone(&context.aws) as Arc<dyn Resolve>),
        entitlements: (outlet == Outlet::BatchMeterUsage).then(|| {
            let aws = Arc::clone(&context.aws) as Arc<dyn Entitle>;
            EntitlementCache::new(aws, product_code.clone(), context.clock.clone())
        }),
        sold: (outlet == Outlet::BatchMeterUsage).then(|| product_code.clone()),
        refusal_sender: refusal_sender.clone(),
        clock: context.clock.clone(),
        window: window(outlet),
        notices: notices.clone(),
        metrics: Arc::clone(&context.metrics),
        repairs: repairs(config),
        lists: Arc::default(),
    };
    let drain = Drain {
        activity: part.activity.clone(),
        ledger: Arc::clone(&slot),
        notices: notices.clone(),
        commits: commits.clone(),
        flushes,
        heartbeats: Arc::clone(&context.heartbeats),
        grace: config.usage.shutdown_grace,
        quiet: config.usage.drain_quiet,
        seal_open_hour: config.usage.seal_on_shutdown,
    };
    let plan = Plan::of(config, outlet, product_code);
    let AppContext { aws, clock, metrics, identity, notices, gate, heartbeats: counting_slot } =
        context.clone();
    // The clock of a shared ledger has no other source.
    let follows = matches!(config.clock, ClockSource::Follow(_)) && config.state.url_file.is_none();
    parts.spawn_explaining("usage", async move {
        if follows {
            clock.first_reading().await;
        }
        let pod = identity.resolve().await;
        // MeterUsage distinguishes the pods of an account; BatchMeterUsage distinguishes customers only.
        let pod = if outlet == Outlet::MeterUsage { pod } else { String::new() };
        let (store, file) = match plan.open(&pod, &clock, commits).await {
            Ok(opened) => opened,
            Err(error) => return ended(&error),
        };
        // Before the gate may open: usage that was overdue before a restart is still overdue.
        let mut unsent = file.clone().filter(|_| outlet == Outlet::MeterUsage).map(|writer| {
            Unsent::new(
                plan.unsent(),
                writer,
                clock.clone(),
                Arc::clone(&metrics),
                refusal_sender.clone(),
                notices.clone(),
            )
        });
        if let Some(unsent) = &mut unsent
            && let Err(error) = unsent.look().await
        {
            return ended(&error);
        }
        let (settings, leads) = (plan.sender(&pod), Arc::clone(&store));
        let passing = if follows { Passing::Simulated } else { Passing::Real };
        let counted = heartbeats(&plan.usage.metered);
        if !counted.is_empty() {
            let (clock, metrics) = (clock.clone(), Arc::clone(&metrics));
            let counting = Heartbeats::new(counted, passing, gate, &*store, clock, metrics, notices.clone());
            let _ = counting_slot.set(counting);
        }
        let intake =
            Intake::new(plan.rules, Arc::clone(&store), clock.clone(), Arc::clone(&metrics), notices);
        let _ = slot.set(OpenLedger { intake, store: Arc::clone(&store), file });
        // Until then an answer to a report says why the ledger cannot be used.
        if let Err(error) = store.ready().await {
            return ended(&error);
        }
        opened.send_replace(true);
        let watching = async {
            match unsent {
                Some(unsent) => unsent.run().await,
                None => std::future::pending().await,
            }
        };
        let beating = async {
            if let Some(counting) = counting_slot.get() {
                counting.run().await;
            }
            std::future::pending().await
        };
        let (licenses, ending_clock) = (Arc::clone(&store), clock.clone());
        let ending = async {
            if outlet == Outlet::BatchMeterUsage {
                lifecycle::report_ended(&*licenses, &ending_clock).await;
            }
            std::future::pending().await
        };
        let new_sender = move |orders| {
            Sender::new(
                settings.clone(),
                Arc::clone(&aws) as Arc<dyn Meter>,
                &*store,
                clock.clone(),
                Arc::clone(&metrics),
                refusal_sender.clone(),
                orders,
            )
        };
        let error = tokio::select! {
            error = send(&*leads, new_sender, flushed) => error,
            error = watching => error,
            error = beating => error,
            error = ending => error,
        };
        ended(&error)
    });
    Some(Usage { part, open, drain })
}

/// Sends whenever this process is the one that does; ends only when the ledger fails.
async fn send(
    store: &dyn Store,
    new_sender: impl Fn(mpsc::Receiver<FlushOrder>) -> Sender,
    mut orders: mpsc::Receiver<FlushOrder>,
) -> LedgerError {
    loop {
        let led = tokio::select! {
            led = store.lead() => led,
            // Another process sends: there is nothing to flush here.
            Some(order) = orders.recv() => {
                let _ = order.done.send(());
                continue;
            }
        };
        if let Err(error) = led {
            return error;
        }
        if store.is_shared() {
            tracing::info!(event = "sender_leads", "this replica seals and sends now");
        }
        match new_sender(orders).run().await {
            (LedgerError::NotLeading, left) => {
                tracing::info!(event = "sender_replaced", "this replica does not send any more");
                orders = left;
            }
            (error, _) => return error,
        }
    }
}

const fn window(outlet: Outlet) -> Window {
    match outlet {
        Outlet::MeterUsage => Window::MeterUsage,
        Outlet::BatchMeterUsage => Window::BatchMeterUsage,
    }
}

/// Which events are accepted.
fn rules(config: &Config) -> Rules {
    Rules {
        dimensions: config.product.dimensions.clone(),
        aggregation: config.usage.metered.iter().map(|one| (one.name.clone(), one.rule)).collect(),
        customers: config.product.mode.is_run_by_seller(),
        entitlement_dimension: config.product.entitlement_dimension.clone(),
        strict: config.usage.strict_usage,
        age_max: event::age_max(config.usage.idempotency_window),
        heartbeats: heartbeats(&config.usage.metered).into_iter().map(|one| one.dimension).collect(),
    }
}

/// The dimensions that are counted by the time of the open gate.
fn heartbeats(metered: &[MeteredDimension]) -> Vec<Heartbeat> {
    let counted = |one: &MeteredDimension| {
        one.heartbeat.map(|quantity| Heartbeat { dimension: one.name.clone(), quantity })
    };
    metered.iter().filter_map(counted).collect()
}

/// Which repairs of records are allowed, for the running sidecar and for `tollgate ledger` on its folder.
pub(crate) fn repairs(config: &Config) -> Repairs {
    Repairs { allowed: config.usage.ledger_repair, rules: rules(config) }
}

fn ended(error: &LedgerError) -> (Exit, Option<String>) {
    (Exit::Io, Some(cannot_be_used(error)))
}

fn cannot_be_used(error: &LedgerError) -> String {
    format!("the usage ledger cannot be used: {error}")
}

/// The settings of a shared ledger for a command that is no replica; `None` if the configuration has no usage.
pub(crate) fn shared_ledger(config: &Config, now: Timestamp) -> Option<ledger::LedgerSettings> {
    let product_code = config.product.product_code.clone()?;
    Some(Plan::of(config, Outlet::BatchMeterUsage, product_code).ledger("", now))
}

/// The configuration of usage. The settings of ledger and sender are made from it once the pod is known.
struct Plan {
    outlet: Outlet,
    product_code: ProductCode,
    zero_dimensions: Vec<String>,
    aws_door: bool,
    /// The state folder.
    folder: PathBuf,
    /// The file with the URL of a shared ledger, which takes the folder's place.
    url_file: Option<PathBuf>,
    usage: config::Usage,
    rules: Rules,
}

impl Plan {
    fn of(config: &Config, outlet: Outlet, product_code: ProductCode) -> Self {
        let (product, usage) = (&config.product, &config.usage);
        let zero = usage.on_zero_hour == OnZeroHour::Report && outlet == Outlet::MeterUsage;
        Self {
            outlet,
            product_code,
            zero_dimensions: product.dimensions.clone().filter(|_| zero).unwrap_or_default(),
            aws_door: config.app.aws_door && outlet == Outlet::MeterUsage,
            // The configuration's check has shown that the folder exists and is writable.
            folder: config.state.dir.path().map(ToOwned::to_owned).unwrap_or_default(),
            url_file: config.state.url_file.clone(),
            usage: usage.clone(),
            rules: rules(config),
        }
    }

    /// Opens the ledger: a shared one, or the file, whose writer is returned too.
    async fn open(
        &self,
        pod: &str,
        clock: &WallClock,
        commits: Commits,
    ) -> Result<(Arc<dyn Store>, Option<Writer>), LedgerError> {
        let settings = self.ledger(pod, clock.now());
        if let Some((url_file, engine)) = self.url_file.clone().zip(engine::installed()) {
            return Ok((engine.open(url_file, settings, clock.clone(), Box::new(commits)), None));
        }
        let folder = self.folder.clone();
        let ledger = tokio::task::spawn_blocking(move || Ledger::open(&folder, settings))
            .await
            .map_err(|error| LedgerError::Io(error.to_string()))??;
        let writer = Writer::start(ledger, clock.clone(), commits)
            .map_err(|error| LedgerError::Io(format!("no thread for the ledger: {error}")))?;
        Ok((Arc::new(writer.clone()), Some(writer)))
    }

    fn ledger(&self, pod: &str, started_at: Timestamp) -> ledger::LedgerSettings {
        ledger::LedgerSettings {
            product: self.product_code.as_str().to_owned(),
            pod: pod.to_owned(),
            settle: self.usage.settle,
            bytes_max: self.usage.ledger_bytes_max,
            started_at,
            idempotency_window: self.usage.idempotency_window,
            aws_door: self.aws_door,
            zero_dimensions: self.zero_dimensions.clone(),
            rules: self.rules.aggregation.clone(),
        }
    }

    fn sender(&self, pod: &str) -> sender::SenderSettings {
        let one_of_many = self.outlet == Outlet::MeterUsage;
        sender::SenderSettings {
            product_code: self.product_code.clone(),
            outlet: self.outlet,
            policy: SendingPolicy {
                pod: pod.to_owned(),
                window: window(self.outlet),
                carry_expired: self.usage.on_expired == OnExpired::Carry,
                settle: self.usage.settle,
                phase: if one_of_many { policy::phase_of(pod) } else { Duration::ZERO },
            },
        }
    }

    const fn unsent(&self) -> Rule {
        let close_after = match self.usage.on_unsent {
            OnUnsent::Keep => None,
            OnUnsent::CloseAfter(after) => Some(after),
        };
        Rule { close_after }
    }
}

/// Shuts usage down: after the application's last reports, and with as much sent as `shutdown_grace` allows.
#[derive(Clone)]
pub(super) struct Drain {
    activity: Activity,
    ledger: Arc<OnceLock<OpenLedger>>,
    notices: Notices,
    commits: Commits,
    flushes: mpsc::Sender<FlushOrder>,
    heartbeats: Arc<OnceLock<Heartbeats>>,
    grace: Duration,
    /// How long no report may arrive before the hour is sealed; with 0 it is sealed at once.
    quiet: Duration,
    seal_open_hour: bool,
}

impl Drain {
    /// Waits for the application's last reports, seals, sends.
    pub(super) async fn run(&self) {
        let began = clock::monotonic();
        // The kubelet stops all containers of a pod at the same time: the application may still report usage.
        if !self.quiet.is_zero() {
            let _ = tokio::time::timeout(self.grace / 2, self.activity.quiet_for(self.quiet)).await;
        }
        let Some(open) = self.ledger.get() else { return };
        let until = began + self.grace.saturating_sub(LAST_MOMENT);
        // Before the open hour is sealed.
        let _ = tokio::time::timeout_at(until, self.count_the_rest()).await;
        let (done, flushed) = oneshot::channel();
        let flush = match open.store.is_shared() {
            true => Flush::HandOver,
            false if self.seal_open_hour => Flush::Final,
            false => Flush::Immediate,
        };
        let sent = async {
            if self.flushes.send(FlushOrder { flush, until, done }).await.is_ok() {
                let _ = flushed.await;
            }
        };
        let _ = tokio::time::timeout_at(until, sent).await;
        let _ = tokio::time::timeout_at(until, open.store.leave()).await;
    }

    /// Writes the time of the open gate up to now, and counts no more.
    pub(super) async fn count_the_rest(&self) {
        if let Some(heartbeats) = self.heartbeats.get() {
            let _ = tokio::time::timeout(LAST_LOOK, heartbeats.finish()).await;
        }
    }

    /// Logs what is not billed. Returns the cause if the ledger has failed since `began`, or cannot be read now.
    pub(super) async fn tell_what_remains(&self, began: Instant) -> Option<String> {
        let open = self.ledger.get()?;
        let failed = open.store.failed_since(began);
        let late = |_| Err(LedgerError::Io("the disk does not answer".to_owned()));
        let read = async { Ok((open.store.totals().await?, open.store.summary().await?)) };
        let look = tokio::time::timeout(LAST_LOOK, read);
        let looked = look.await.unwrap_or_else(late);
        self.commits.tell_the_rest();
        let (totals, summary) = match looked {
            Ok(read) => read,
            Err(error) => return Some(cannot_be_used(failed.as_ref().unwrap_or(&error))),
        };
        let show = |of: fn(&Totals) -> i128| -> String {
            let some = totals.iter().map(|(dimension, totals)| (dimension, of(totals)));
            let shown: Vec<String> = some
                .filter(|(_, micros)| *micros > 0)
                .map(|(dimension, micros)| format!("{dimension}={}", quantity::show(micros)))
                .collect();
            shown.join(" ")
        };
        let (pending, dead) = (show(|totals| totals.pending), show(|totals| totals.dead));
        let remainder = show(|totals| totals.remainder);
        let shown = Some(remainder.as_str()).filter(|some| !some.is_empty());
        // Of several replicas the others send it with the next hour's usage.
        let left = match remainder.is_empty() || open.store.is_shared() {
            true => String::new(),
            false => format!(
                "; a remainder that is too small to be sent stays in the ledger ({remainder}, in the unit of the events): \
                 the next hour on this volume sends it too, and it is lost if the volume is deleted"
            ),
        };
        if summary.dead > 0 {
            tracing::warn!(
                event = "dead_letters_remain",
                records = summary.dead,
                dead,
                "dead letters are not billed until somebody acts; see `tollgate ledger dead-letters`"
            );
        }
        let untaken = self.notices.untaken();
        let not_taken = untaken.map(|untaken| {
            let (requests, why) = (untaken.requests, untaken.latest.as_str());
            format!("{requests} requests with usage were not taken ({why}): that usage is not in the ledger")
        });
        let unwritten = self.heartbeats.get().and_then(Heartbeats::unwritten);
        let lost: Vec<String> = [not_taken, unwritten].into_iter().flatten().collect();
        let not_taken = (!lost.is_empty()).then(|| lost.join("; "));
        if !pending.is_empty() {
            let (records, shared) = (summary.unsent, open.store.is_shared());
            if shared {
                tracing::info!(
                    event = "usage_handed_over",
                    records,
                    pending,
                    "usage stays in the ledger: the other replicas send it"
                );
            } else {
                tracing::warn!(
                    event = "usage_remains",
                    records,
                    pending,
                    remainder = shown,
                    "usage stays in the ledger: the next start on this volume sends it; it is lost if the volume is deleted{left}"
                );
            }
        }
        if let Some(line) = &not_taken {
            tracing::warn!(event = "usage_lost", "{line}");
        }
        if let Some(error) = failed {
            let kept = (!pending.is_empty()).then(|| format!("usage stays in the ledger ({pending})"));
            let parts = [Some(cannot_be_used(&error)), kept, not_taken];
            let what: Vec<String> = parts.into_iter().flatten().collect();
            let remedy = if open.store.is_shared() {
                "make the database answer again; the applications send again what was not acknowledged"
            } else {
                "free space on the volume of state_dir, or repair it, and start tollgate on it again"
            };
            return Some(format!("{}; {remedy}", what.join("; ")));
        }
        if pending.is_empty() && not_taken.is_none() {
            tracing::info!(
                event = "usage_sent",
                remainder = shown,
                "all usage is sent{}{left}",
                if summary.dead > 0 { ", but for dead letters" } else { "" }
            );
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::usage::notice::RejectedRequest;

    fn drain() -> (tempfile::TempDir, Writer, Drain) {
        let folder = ledger::testing::folder();
        let (clock, metrics) = (WallClock::system(), Arc::new(Metrics::new()));
        let opened = Ledger::open(folder.path(), ledger::testing::settings("pod")).unwrap();
        let commits = Commits::new(Arc::clone(&metrics), 1 << 30);
        let writer = Writer::start(opened, clock.clone(), commits.clone()).unwrap();
        let notices = Notices::new(Arc::clone(&metrics));
        let store: Arc<dyn Store> = Arc::new(writer.clone());
        let intake = Intake::new(Rules::default(), Arc::clone(&store), clock, metrics, notices.clone());
        let slot = OnceLock::from(OpenLedger { intake, store, file: None });
        let drain = Drain {
            activity: Activity::new(),
            ledger: Arc::new(slot),
            notices,
            commits,
            flushes: mpsc::channel(1).0,
            heartbeats: Arc::default(),
            grace: Duration::ZERO,
            quiet: Duration::ZERO,
            seal_open_hour: false,
        };
        (folder, writer, drain)
    }

    /// What is not in the ledger is not pending either.
    #[tokio::test]
    async fn a_ledger_that_could_not_be_written_is_the_cause_although_nothing_is_pending() {
        let (_folder, writer, drain) = drain();
        let began = clock::monotonic();
        drain.notices.request_rejected(RejectedRequest::LedgerFull, "");
        assert_eq!(drain.tell_what_remains(began).await, None, "a full ledger is no failure");
        drain.notices.request_rejected(RejectedRequest::LedgerUnavailable, "");
        let failing = writer.with(|_| Err::<(), _>(LedgerError::Io("no space left".to_owned())));
        assert!(failing.await.is_err());
        let why = drain.tell_what_remains(began).await.unwrap();
        assert!(
            why.contains("no space left; 2 requests with usage were not taken (ledger_unavailable)"),
            "{why}"
        );
    }

    /// Signals are not handled any more at this point: without a timeout only SIGKILL would end the process.
    #[tokio::test]
    async fn a_disk_that_hangs_keeps_the_last_line_back_for_seconds_only() {
        let (_folder, writer, drain) = drain();
        assert_eq!(drain.tell_what_remains(clock::monotonic()).await, None);

        let (end, hung) = std::sync::mpsc::channel::<()>();
        let hanging = async move { writer.with(move |_| Ok(hung.recv())).await };
        tokio::spawn(async move { drop(hanging.await) });
        tokio::task::yield_now().await;
        tokio::time::pause();
        let began = clock::monotonic();
        let why = drain.tell_what_remains(began).await;
        assert!(why.is_some_and(|why| why.ends_with("the disk does not answer")));
        assert!(clock::monotonic().duration_since(began) < 2 * LAST_LOOK);
        drop(end);
    }
}
