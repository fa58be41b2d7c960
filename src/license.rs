//! Mode `contract`: checks the license with AWS License Manager, or holds seats of it. The loop performs what
//! [`machine`] decides.
//!
//! The loop makes the calls, publishes the entitlement and what it knows of the license, saves seats in the state
//! folder, and gives them back at the end. It does not know who reads what it publishes.

pub mod counted;
pub mod ending;
pub mod judge;
pub mod knowledge;
pub mod machine;
pub mod memory;
mod stop;
pub mod telling;

use std::sync::{Arc, Mutex};

use tokio::time::Instant;

use crate::entitlement::{Entitlement, Publisher, Reason, Standing, reason};
use crate::exit::Exit;
use crate::log::limited::{Limited, NextLine};
use crate::metrics::Metrics;
use crate::random;
use crate::registration::machine::Now;
use crate::state_file::Recalled;
pub use knowledge::{Held, Knowledge, KnowledgePublisher};
use machine::{Answer, Call, Event, Machine, Next, Note, Policy};
use memory::{Record, Store};
pub use stop::{Drain, Stop};
use tollgate_clock::{self as clock, WallClock};
use tollgate_marketplace::license::{CheckoutLicense, ListReceivedLicenses};
use tollgate_marketplace::schedule::{self, Draw};
use tollgate_marketplace::service::ServiceFuture;
use tollgate_marketplace::{Fault, FaultClass, License, Signing};
use tollgate_receipt::VerifyError;

/// The loop's configuration.
#[derive(Debug)]
pub struct Config {
    /// The seller's settings.
    pub policy: Policy,
    /// Accept the emulator's answers.
    pub allow_emulated: bool,
    /// Where the seller publishes the runbook, if it does.
    pub docs_url: Option<String>,
}

/// What the loop reads from and writes to.
pub struct Surroundings {
    /// License Manager.
    pub service: Arc<dyn License>,
    /// Wall time.
    pub clock: WallClock,
    /// Where the entitlement is published.
    pub publisher: Publisher,
    /// Where what is known of the license is published.
    pub knowledge: KnowledgePublisher,
    /// The state folder, if there is one.
    pub store: Option<Store>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Receives the order to give all seats back.
    pub stop: Stop,
}

/// The loop.
pub struct Licensing {
    config: Config,
    /// The pod or task; empty if the platform does not name it.
    pod: String,
    service: Arc<dyn License>,
    clock: WallClock,
    publisher: Publisher,
    knowledge: KnowledgePublisher,
    store: Option<Store>,
    metrics: Arc<Metrics>,
    stop: Stop,
    /// Limits the log lines about failed writes of the state folder.
    failures: Mutex<Limited>,
    started: Instant,
    emulated: bool,
}

impl Licensing {
    /// Joins the parts; no call is made yet.
    #[must_use]
    pub fn new(config: Config, pod: String, surroundings: Surroundings) -> Self {
        let Surroundings { service, clock, publisher, knowledge, store, metrics, stop } = surroundings;
        Self {
            config,
            pod,
            service,
            clock,
            publisher,
            knowledge,
            store,
            metrics,
            stop,
            failures: Mutex::default(),
            started: clock::monotonic(),
            emulated: false,
        }
    }

    /// Runs until the process should end, and returns how.
    pub async fn run(mut self) -> Exit {
        let record = self.recall().await.adopted_by(&self.pod);
        let seed = self.seed().await;
        let mut machine = Machine::new(self.config.policy.clone(), record, seed, self.clock.now());
        let (mut next, mut told) = (self.step(&mut machine, Event::Started), false);
        loop {
            if self.stop.is_ordered() && !told && !matches!(next, Next::Write(_)) {
                told = true;
                next = self.step(&mut machine, Event::Stopping);
            }
            self.keep_and_publish(&mut machine).await;
            let event = match next {
                Next::Call(call, signing) => match self.ask(&mut machine, call, signing).await {
                    Some(answer) => Event::Answered(answer),
                    None => Event::Woke,
                },
                Next::Write(record) => {
                    let holds = record.seat.is_some() || !record.give_back.is_empty();
                    let written = self.write(*record).await;
                    if holds {
                        fail_point("after-keep");
                    }
                    Event::Written(written)
                }
                Next::WakeIn(delay) => {
                    let mut jumps = self.clock.jumps();
                    let ordered = self.stop.ordered();
                    let woken = async {
                        tokio::select! {
                            () = tokio::time::sleep(delay) => {}
                            _ = jumps.changed() => {}
                            () = ordered, if !told => {}
                        }
                    };
                    self.keep_published(&mut machine, woken).await;
                    Event::Woke
                }
                Next::Stopped => {
                    self.stop.done();
                    self.keep_published(&mut machine, std::future::pending::<()>()).await;
                    Event::Woke
                }
                Next::Leave(exit) => return exit,
            };
            next = self.step(&mut machine, event);
        }
    }

    fn step(&self, machine: &mut Machine, event: Event) -> Next {
        let (next, notes) = machine.step(self.now(), event);
        for note in notes {
            match note {
                Note::AnswerLost(until) => tracing::warn!(
                    event = "checkout_answer_lost",
                    %until,
                    "the answer to a checkout was lost, and AWS no longer repeats it: if it took seats, they stay \
                     taken until then at the latest"
                ),
                Note::NotGivenBack(code, expires) => tracing::warn!(
                    event = "seats_not_given_back",
                    %code, %expires,
                    "seats could not be given back: unless a later try succeeds, they stay taken until their \
                     checkout ends"
                ),
            }
        }
        next
    }

    fn now(&self) -> Now {
        let running = clock::monotonic().duration_since(self.started);
        Now { wall: self.clock.now(), running, draw: random::draw() }
    }

    /// A random prefix for this process's client tokens, so that no other process uses the same ones.
    async fn seed(&self) -> String {
        let began = clock::monotonic();
        loop {
            if let Some(bytes) = random::bytes() {
                return format!("{:032x}", u128::from_ne_bytes(bytes));
            }
            self.publish_waiting(Reason::known("NoEntropy", FaultClass::Transient));
            let waited = clock::monotonic().duration_since(began);
            tokio::time::sleep(schedule::transient(waited, Draw::MIDDLE)).await;
        }
    }

    // === publishing ===

    /// Publishes `pending` with a reason before the machine runs.
    fn publish_waiting(&self, reason: Reason) {
        let initial = Entitlement::initial(self.clock.now());
        self.send(Entitlement { standing: Standing::Pending(Some(reason)), ..initial });
    }

    fn publish(&self, machine: &mut Machine) {
        let mut fact = machine.entitlement(self.now());
        fact.region = self.service.region();
        fact.emulated |= self.emulated;
        let knowledge = Knowledge { emulated: fact.emulated, ..machine.knowledge() };
        // Readers wake only if something has changed.
        self.knowledge.send_if_modified(|known| {
            let new = **known != knowledge;
            if new {
                *known = Arc::new(knowledge);
            }
            new
        });
        self.stop.leaves(machine);
        self.send(fact);
    }

    fn send(&self, fact: Entitlement) {
        let fact = fact.completed(self.service.clock_skew(), self.config.docs_url.as_deref());
        self.publisher.send_replace(Arc::new(fact));
    }

    /// Waits for `until`; meanwhile saves and publishes what changes with time alone.
    async fn keep_published<T>(&self, machine: &mut Machine, until: impl Future<Output = T>) -> T {
        tokio::pin!(until);
        let mut jumps = self.clock.jumps();
        loop {
            let changes_in = machine.changes_in(self.now());
            tokio::select! {
                done = &mut until => return done,
                () = clock::passed(changes_in) => {}
                _ = jumps.changed() => {}
            }
            self.keep_and_publish(machine).await;
        }
    }

    /// Saves what time has changed before publishing it: grace that opens the gate and is not on disk would begin
    /// anew after a restart.
    async fn keep_and_publish(&self, machine: &mut Machine) {
        if let Some(record) = machine.remember(self.now()) {
            let written = self.write(record).await;
            machine.remembered(written);
        }
        self.publish(machine);
    }

    // === calls ===

    /// Makes a call. `None` if the stop order came first and the answer could not change which seats are held.
    async fn ask(&mut self, machine: &mut Machine, call: Call, signing: Signing) -> Option<Answer> {
        let service = Arc::clone(&self.service);
        let terms = &self.config.policy.terms;
        let (product_id, key_fingerprint) = (terms.product_id.clone(), terms.key_fingerprint.clone());
        let ordered = self.stop.ordered();
        let (answer, emulated) = match call {
            Call::List => {
                let request = ListReceivedLicenses { product_id, key_fingerprint };
                let call = service.list_received_licenses(request, signing);
                let answer = tokio::select! {
                    answer = self.timed(machine, "ListReceivedLicenses", call) => answer,
                    () = ordered => return None,
                };
                let emulated = mark(&answer, |answer| answer.emulated);
                (Answer::Listed(answer), emulated)
            }
            Call::Look(license_arn) => {
                let call = service.get_license_usage(license_arn, signing);
                let answer = tokio::select! {
                    answer = self.timed(machine, "GetLicenseUsage", call) => answer,
                    () = ordered => return None,
                };
                let emulated = mark(&answer, |answer| answer.emulated);
                (Answer::Looked(answer), emulated)
            }
            Call::CheckOut { client_token, take } => {
                fail_point("before-checkout");
                let request =
                    CheckoutLicense { product_id, key_fingerprint, entitlements: take, client_token };
                let call = service.checkout_license(request, signing);
                let answer = self.timed(machine, "CheckoutLicense", call).await;
                fail_point("after-checkout");
                let emulated = mark(&answer, |answer| answer.emulated);
                (Answer::CheckedOut(answer), emulated)
            }
            Call::Extend(token) => {
                let call = service.extend_license_consumption(token, signing);
                let answer = self.timed(machine, "ExtendLicenseConsumption", call).await;
                let emulated = mark(&answer, |answer| answer.emulated);
                (Answer::Extended(answer), emulated)
            }
            Call::CheckIn(token) => {
                fail_point("before-check-in");
                let call = service.check_in_license(token, signing);
                let answer = self.timed(machine, "CheckInLicense", call).await;
                let emulated = mark(&answer, |answer| answer.emulated);
                (Answer::CheckedIn(answer), emulated)
            }
        };
        self.emulated |= emulated.0 || emulated.1;
        if emulated.0 && !self.config.allow_emulated {
            let code = VerifyError::EmulatedToken.code();
            self.metrics.verification_failed(code);
            return Some(Answer::Emulated(reason::unverified(code, None)));
        }
        Some(answer)
    }

    async fn timed<T>(
        &self,
        machine: &mut Machine,
        operation: &'static str,
        call: ServiceFuture<'_, T>,
    ) -> Result<T, Fault> {
        let answer = self.keep_published(machine, call).await;
        let skew = match &answer {
            Ok(_) => self.service.clock_skew(),
            Err(fault) => {
                tracing::debug!(operation, code = %fault.code, detail = fault.detail, "call failed");
                fault.clock_offset_seconds
            }
        };
        if let Some(skew) = skew {
            self.metrics.clock_skew(skew);
            machine.hear_clock(self.now(), skew);
        }
        answer
    }

    // === the state folder ===

    async fn recall(&mut self) -> Record {
        let Some(store) = &self.store else { return Record::default() };
        let path = store.path();
        match store.recall().await {
            Recalled::Read(record) => record.unwrap_or_default(),
            Recalled::Late(mut late) => {
                tracing::warn!(
                    event = "kept_license_late",
                    path = %path.display(),
                    "the kept license was not read within 5 s: with license_model floating no seat is taken until \
                     it is read, with check this process keeps nothing"
                );
                if self.config.policy.terms.model == judge::Model::Check {
                    // The file's content is unknown, so it must not be replaced.
                    self.store = None;
                    return Record::default();
                }
                self.publish_waiting(Reason::known("LicenseStateNotKept", FaultClass::Transient));
                late.wait_for(Option::is_some)
                    .await
                    .ok()
                    .and_then(|record| record.clone())
                    .unwrap_or_default()
            }
        }
    }

    /// Writes the record and returns whether a restart would find it; without a state folder `true`.
    async fn write(&self, record: Record) -> bool {
        let Some(store) = &self.store else { return true };
        let written = store.keep(record).await;
        if let Err(error) = &written {
            self.metrics.state_write_failed();
            let mut failures = self.failures.lock().expect("held for one change only, which cannot panic");
            failures.count("write", 1);
            // Failures in between are counted, and the next line reports them.
            if let NextLine::Line(counts) = failures.due(clock::monotonic()) {
                tracing::warn!(
                    event = "license_unwritable",
                    %error, failures = counts.total(),
                    "the license cannot be written to the state folder: no seat is taken, and there is no grace period"
                );
            }
        }
        written.is_ok()
    }
}

/// Whether an answer has the emulator's mark, and whether a fault has it.
fn mark<T>(answer: &Result<T, Fault>, emulated: impl Fn(&T) -> bool) -> (bool, bool) {
    match answer {
        Ok(answer) => (emulated(answer), false),
        Err(fault) => (false, fault.emulated),
    }
}

/// A step at which the kill campaign ends the process.
#[cfg(feature = "fail-points")]
fn fail_point(name: &str) {
    tollgate_ledger::fail_point::reach(name);
}

#[cfg(not(feature = "fail-points"))]
const fn fail_point(_: &str) {}

#[cfg(test)]
mod tests;
