//! The registration loop: performs what [`machine`] decides.
//!
//! The loop calls AWS, verifies the answer, publishes the result, saves it in the state folder, and sleeps until the
//! machine wants the next attempt. It does not know about usage or about the readers of the result.

pub mod allowance;
pub mod dimensions;
pub mod machine;
pub mod memory;
pub mod permission;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::entitlement::proof::{Permission, Seller, ZeroReport};
use crate::entitlement::refusal_update::RefusalReceiver;
use crate::entitlement::{Proof, Publisher, reason};
use crate::exit::Exit;
use crate::log::limited::{Limited, NextLine};
use crate::metrics::Metrics;
use crate::random;
use machine::{
    Attempt, AttemptResult, Event, Machine, Next, Notes, Now, RegistrationPolicy, Remember, Remembered,
};
use memory::{KeptReceipt, Recalled, RegistrationRecord, Store};
use permission::ANY_DIMENSION;
use tollgate_clock::{self as clock, WallClock};
use tollgate_marketplace::{
    Fault, FaultClass, Meter, Nonce, ProductCode, Register, RegisterUsage, Registered, Signing, exceptions,
};
use tollgate_receipt::{self as receipt, Expected, KeyRing, Receipt};
use tollgate_time::Timestamp;

/// The loop's configuration.
#[derive(Debug)]
pub struct Config {
    /// The product to register.
    pub product_code: ProductCode,
    /// Which proof opens the gate.
    pub asking: Asking,
    /// Accept the emulator's answers.
    pub allow_emulated: bool,
    /// The seller's settings.
    pub policy: RegistrationPolicy,
    /// Where the seller publishes the runbook, if it does.
    pub docs_url: Option<String>,
}

/// Which proof opens the gate, and what is needed for it.
#[derive(Debug)]
pub enum Asking {
    /// `hourly`: a signed answer of `RegisterUsage`.
    Signature {
        /// The seller's public keys.
        keys: KeyRing,
        /// Keep the receipt in the state folder.
        keep_receipt: bool,
    },
    /// `metered`: a dry run of `MeterUsage` in the first of these dimensions that AWS knows.
    Permission(Vec<String>),
    /// `metered`: a report of 0 in this dimension, each hour.
    ZeroReport(String),
    /// `saas`: region and credentials were found.
    Seller,
}

impl Asking {
    const fn keys(&self) -> Option<&KeyRing> {
        if let Self::Signature { keys, .. } = self { Some(keys) } else { None }
    }

    const fn keeps_receipt(&self) -> bool {
        matches!(self, Self::Signature { keep_receipt: true, .. })
    }
}

/// What the loop reads from and writes to.
pub struct RegistrationContext {
    /// The metering service, for `RegisterUsage`.
    pub register: Arc<dyn Register>,
    /// The metering service, for proofs that are reports.
    pub meter: Arc<dyn Meter>,
    /// Wall time.
    pub clock: WallClock,
    /// Where the entitlement is published.
    pub publisher: Publisher,
    /// The state folder, if there is one.
    pub store: Option<Store>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// What usage reports say about the entitlement.
    pub refusal_receiver: RefusalReceiver,
}

/// The loop.
pub struct Registration {
    config: Config,
    /// The pod or task; empty if the platform does not name it.
    pod: String,
    register: Arc<dyn Register>,
    meter: Arc<dyn Meter>,
    clock: WallClock,
    publisher: Publisher,
    store: Option<Store>,
    metrics: Arc<Metrics>,
    refusal_receiver: RefusalReceiver,
    record: Mutex<RegistrationRecord>,
    /// Receives the state folder's content if a slow disk delivers it late.
    late: Option<watch::Receiver<Option<RegistrationRecord>>>,
    /// The late content has arrived.
    arrived: AtomicBool,
    /// Limits the log lines about failed writes of the state folder.
    failures: Mutex<Limited>,
    started: Instant,
    emulated: bool,
}

impl Registration {
    /// Joins the parts; no call is made yet.
    #[must_use]
    pub fn new(config: Config, pod: String, context: RegistrationContext) -> Self {
        let RegistrationContext { register, meter, clock, publisher, store, metrics, refusal_receiver } =
            context;
        Self {
            config,
            pod,
            register,
            meter,
            clock,
            publisher,
            store,
            metrics,
            refusal_receiver,
            record: Mutex::default(),
            late: None,
            arrived: AtomicBool::new(false),
            failures: Mutex::default(),
            started: clock::monotonic(),
            emulated: false,
        }
    }

    /// Runs until the process should end, and returns how. When no attempt is left to make, it only keeps the fact
    /// published.
    pub async fn run(mut self) -> Exit {
        let remembered = self.recall().await;
        let mut machine = Machine::new(self.config.policy.clone(), remembered, self.clock.now());
        let mut event = Event::Started;
        loop {
            let (next, notes) = machine.step(self.now(), event);
            self.note(&mut machine, notes).await;
            self.publish(&mut machine);
            event = match next {
                Next::Ask(attempt) => {
                    let answer = self.ask(&mut machine, attempt).await;
                    Event::Answered(answer)
                }
                Next::AskIn(delay) => {
                    self.keep_published(&mut machine, tokio::time::sleep(delay)).await;
                    Event::Woke
                }
                Next::AskAt(at) => {
                    let clock = self.clock.clone();
                    self.keep_published(&mut machine, async move { clock.wait_until(at).await }).await;
                    Event::Woke
                }
                Next::Rest => {
                    self.keep_published(&mut machine, std::future::pending::<()>()).await;
                    Event::Woke
                }
                Next::Leave(exit) => return exit,
            };
        }
    }

    fn now(&self) -> Now {
        let running = clock::monotonic().duration_since(self.started);
        Now { wall: self.clock.now(), running, draw: random::draw() }
    }

    fn publish(&self, machine: &mut Machine<Proof>) {
        // Read each time, so that the gate never opens on an outdated value.
        let emulated = {
            let update = self.refusal_receiver.borrow();
            machine.on_unreported(update.unreported);
            update.emulated
        };
        if emulated && !self.config.allow_emulated {
            machine.on_emulated(receipt::VerifyError::EmulatedToken.code());
        }
        let mut fact = machine.entitlement(self.now());
        fact.region = self.register.region();
        fact.emulated =
            self.emulated || emulated || fact.standing.proof().is_some_and(|proof| proof.emulated());
        if self.config.asking.keys().is_none() {
            fact.public_key_version = None;
        }
        let skew = self.register.clock_skew();
        if let Some(offset) = skew {
            self.metrics.clock_skew(offset);
        }
        self.publisher.send_replace(Arc::new(fact.completed(skew, self.config.docs_url.as_deref())));
    }

    /// Waits for `until`; meanwhile saves and publishes what changes with time alone.
    async fn keep_published<T>(&self, machine: &mut Machine<Proof>, until: impl Future<Output = T>) -> T {
        tokio::pin!(until);
        let mut jumps = self.clock.jumps();
        let mut refusal_receiver = self.refusal_receiver.clone();
        let mut late = self.late.clone().filter(|_| self.is_late());
        // False once the sender was dropped: no message will come.
        let mut connected = true;
        let mut skew = self.register.clock_skew();
        let mut hours = tokio::time::interval_at(clock::monotonic() + LATEST_EVERY, LATEST_EVERY);
        loop {
            let changes_in = machine.changes_in(self.now());
            tokio::select! {
                done = &mut until => return done,
                () = clock::passed(changes_in) => {}
                _ = jumps.changed() => {}
                () = self.register.clock_skew_changed(skew) => skew = self.register.clock_skew(),
                _ = hours.tick(), if self.store.is_some() && self.config.asking.keeps_receipt() => {
                    let latest = machine.time(self.now());
                    self.write(|record| record.passed(latest)).await;
                }
                record = arrival(&mut late), if late.is_some() => {
                    late = None;
                    self.arrived(machine, record).await;
                }
                changed = refusal_receiver.changed(), if connected => {
                    connected = changed.is_ok();
                    let refusal = refusal_receiver.borrow_and_update().refusal.clone();
                    machine.on_refusal(self.now(), refusal.as_ref());
                }
            }
            // Written before it is published, so a reader of the fact may rely on the file.
            if let Some(remember) = machine.remember(self.now()) {
                self.remember(machine, remember).await;
            }
            self.publish(machine);
        }
    }

    async fn ask(&mut self, machine: &mut Machine<Proof>, attempt: Attempt) -> AttemptResult<Proof> {
        // Each attempt has a nonce of its own.
        let Some(nonce) = random::bytes().map(Nonce::from_random) else {
            let fault = Fault::local(FaultClass::Transient, "NoEntropy", "the system's random source failed");
            return AttemptResult::Fault(fault);
        };
        let signing = Signing { reload_credentials: attempt.reload_credentials };
        let asked_at = clock::monotonic();
        let (register, meter) = (Arc::clone(&self.register), Arc::clone(&self.meter));
        let (product_code, now) = (&self.config.product_code, self.clock.now());
        let proof = match &self.config.asking {
            Asking::Signature { .. } => {
                let request = RegisterUsage {
                    product_code: product_code.clone(),
                    public_key_version: attempt.version,
                    nonce: nonce.clone(),
                };
                let call = register.register_usage(request, signing);
                let outcome = self.keep_published(machine, call).await;
                return self.judge(attempt, &nonce, outcome, seconds_since(asked_at));
            }
            Asking::Permission(dimensions) => {
                let asking = self.ask_for_permission(dimensions, nonce.as_str(), signing);
                self.keep_published(machine, asking).await.map(Proof::Permission)
            }
            Asking::ZeroReport(dimension) => {
                let request = permission::zero_report(product_code, dimension, now, nonce.as_str());
                let call = meter.meter_usage(request, signing);
                self.keep_published(machine, call).await.map(|answer| Proof::Metered(ZeroReport::of(&answer)))
            }
            Asking::Seller => {
                let call = register.identify(signing);
                self.keep_published(machine, call).await.map(|found| Proof::Seller(Seller::of(found)))
            }
        };
        self.judge_unsigned(proof, seconds_since(asked_at))
    }

    /// A dimension that AWS does not know is the seller's mistake and no reason to refuse the buyer, so the next
    /// dimension is tried. The answer to the last one decides.
    async fn ask_for_permission(
        &self,
        dimensions: &[String],
        token: &str,
        signing: Signing,
    ) -> Result<Permission, Fault> {
        let mut left = dimensions.iter();
        loop {
            let dimension = left.next().map_or(ANY_DIMENSION, String::as_str);
            let now = self.clock.now();
            let request = permission::dry_run(&self.config.product_code, dimension, now, token);
            match self.meter.meter_usage(request, signing).await {
                Ok(answer) => return Ok(Permission::of(&answer, dimension)),
                Err(fault) if fault.code.as_str() == dimensions::UNKNOWN && left.len() > 0 => {
                    dimensions::name_unknown(&self.metrics, dimension);
                    tokio::time::sleep(dimensions::TRY_EVERY).await;
                }
                Err(fault) => return Err(fault),
            }
        }
    }

    /// An unsigned answer is accepted as it is, except the emulator's.
    fn judge_unsigned(&mut self, outcome: Result<Proof, Fault>, seconds: f64) -> AttemptResult<Proof> {
        match outcome {
            Ok(proof) if proof.emulated() && !self.config.allow_emulated => {
                let code = receipt::VerifyError::EmulatedToken.code();
                self.metrics.attempted("unverified", code, seconds);
                self.metrics.verification_failed(code);
                AttemptResult::Unverified(reason::unverified(code, None))
            }
            Ok(proof) => {
                self.emulated |= proof.emulated();
                self.metrics.attempted("registered", "", seconds);
                AttemptResult::Verified { proof, rotation: None }
            }
            Err(fault) => self.failed(fault, seconds),
        }
    }

    fn failed(&mut self, mut fault: Fault, seconds: f64) -> AttemptResult<Proof> {
        if fault.code.as_str() == exceptions::INVALID_PRODUCT_CODE {
            fault.seen = format!("asked for {}", self.config.product_code);
        }
        self.emulated |= fault.emulated;
        if let Some(offset) = fault.clock_offset_seconds {
            self.metrics.clock_skew(offset);
        }
        let refused = matches!(fault.class, FaultClass::Denied | FaultClass::Misconfigured);
        let outcome = if refused { "refused" } else { "failed" };
        self.metrics.attempted(outcome, fault.code.as_str(), seconds);
        tracing::debug!(code = %fault.code, detail = fault.detail, "attempt failed");
        AttemptResult::Fault(fault)
    }

    fn judge(
        &mut self,
        attempt: Attempt,
        nonce: &Nonce,
        outcome: Result<Registered, Fault>,
        seconds: f64,
    ) -> AttemptResult<Proof> {
        match outcome {
            Ok(registered) => {
                self.emulated |= registered.emulated;
                match self.verify(attempt, nonce, &registered) {
                    Ok(receipt) => {
                        self.emulated |= receipt.emulated();
                        self.metrics.attempted("registered", "", seconds);
                        let rotation = registered.public_key_rotation_timestamp;
                        self.warn_of(attempt, &receipt, rotation);
                        AttemptResult::Verified { proof: Proof::Receipt(receipt), rotation }
                    }
                    Err(code) => {
                        self.metrics.attempted("unverified", code, seconds);
                        self.metrics.verification_failed(code);
                        AttemptResult::Unverified(reason::unverified(code, registered.host.as_deref()))
                    }
                }
            }
            Err(fault) => self.failed(fault, seconds),
        }
    }

    /// Logs warnings about a verified answer.
    fn warn_of(&self, attempt: Attempt, receipt: &Receipt, rotation: Option<Timestamp>) {
        if let Some(at) = rotation {
            let version = attempt.version;
            let higher =
                self.config.asking.keys().is_some_and(|keys| keys.versions().any(|held| held > version));
            let remedy = if higher {
                "a higher version is in the image: remove public_key_version so that it is used"
            } else {
                "ship an image with the product's new public key beside this one"
            };
            tracing::warn!(event = "key_expiring", %version, expires_at = %at, remedy, "AWS has rotated the public key version in use");
        }
        if let Some(seconds) = receipt.clock_warning() {
            tracing::warn!(
                event = "token_clock_differs",
                seconds,
                "the token was issued at another time than the node's clock shows: check NTP"
            );
        }
    }

    fn verify(
        &self,
        attempt: Attempt,
        nonce: &Nonce,
        registered: &Registered,
    ) -> Result<Receipt, &'static str> {
        let Some(key) = self.config.asking.keys().and_then(|keys| keys.get(attempt.version)) else {
            return Err("UnknownKeyVersion");
        };
        let expected = Expected {
            product_code: &self.config.product_code,
            public_key_version: attempt.version,
            nonce,
            now: self.clock.now().into(),
            allow_emulated: self.config.allow_emulated,
        };
        receipt::verify(&registered.signature, key, &expected).map_err(|error| {
            tracing::debug!(%error, "the token failed verification");
            error.code()
        })
    }

    async fn note(&self, machine: &mut Machine<Proof>, notes: Notes) {
        if notes.entitled_after_refusal {
            self.metrics.entitled_after_refusal();
            tracing::warn!(
                event = "entitled_after_refusal",
                "AWS accepted this pod after it had refused it: AWS may not repeat a refusal"
            );
        }
        if let Some(remember) = notes.remember {
            self.remember(machine, remember).await;
        }
    }

    async fn remember(&self, machine: &mut Machine<Proof>, remember: Remember) {
        let now = self.now();
        let written = match remember {
            Remember::Failing { known, refused, denied } => {
                self.write(|record| record.failing(&self.pod, known, refused, denied)).await
            }
            Remember::Succeeded => {
                let standing = machine.standing(now);
                let receipt = standing.proof().and_then(|proof| match proof.as_ref() {
                    Proof::Receipt(receipt) => Some(receipt),
                    Proof::Metered(_) | Proof::Permission(_) | Proof::License(_) | Proof::Seller(_) => None,
                });
                let kept = receipt.filter(|_| self.config.asking.keeps_receipt());
                self.write(|record| record.succeeded(&self.pod, kept, now.wall)).await
            }
        };
        machine.remembered(written);
    }

    /// Changes the record, writes it, and returns whether a restart would find it; without a state folder `true`.
    async fn write(&self, change: impl FnOnce(&mut RegistrationRecord)) -> bool {
        let record = {
            let mut record = self.record.lock().expect("held for one change only, which cannot panic");
            change(&mut record);
            record.clone()
        };
        let Some(store) = &self.store else { return true };
        // The file's content is still unknown, so it must not be replaced.
        if self.is_late() {
            return false;
        }
        let written = store.keep(record).await;
        if let Err(error) = &written {
            self.metrics.state_write_failed();
            let mut failures = self.failures.lock().expect("held for one change only, which cannot panic");
            failures.count("write", 1);
            // Failures in between are counted, and the next line reports them.
            if let NextLine::Line(counts) = failures.due(clock::monotonic()) {
                tracing::warn!(
                    event = "registration_unwritable",
                    %error, failures = counts.total(),
                    "the registration cannot be written to the state folder and would be lost in a restart, so \
                     neither the grace period nor a receipt older than a day opens the gate"
                );
            }
        }
        written.is_ok()
    }

    fn is_late(&self) -> bool {
        self.late.is_some() && !self.arrived.load(Ordering::Acquire)
    }

    /// The state folder's content has arrived late. It counts unless AWS has answered meanwhile; then the answer is
    /// written.
    async fn arrived(&self, machine: &mut Machine<Proof>, record: Option<RegistrationRecord>) {
        let record = record.unwrap_or_else(RegistrationRecord::unknown);
        self.arrived.store(true, Ordering::Release);
        if machine.recall(self.remembered(&record), self.now()) {
            tracing::info!(
                event = "kept_registration_read_late",
                "the kept registration was read after all, and is used"
            );
            *self.record.lock().expect("held for one change only, which cannot panic") = record;
        } else {
            let written = self.write(|_| {}).await;
            machine.remembered(written);
        }
    }

    /// Reads the state folder, and verifies the kept receipt as if it were new.
    async fn recall(&mut self) -> Remembered<Proof> {
        let Some(store) = &self.store else { return Remembered::default() };
        let record = match store.recall().await {
            Recalled::Read(record) => record.unwrap_or_else(RegistrationRecord::unknown),
            Recalled::Late(read) => {
                self.late = Some(read);
                RegistrationRecord::unknown()
            }
        };
        let remembered = self.remembered(&record);
        *self.record.get_mut().expect("held for one change only, which cannot panic") = record;
        remembered
    }

    fn remembered(&self, record: &RegistrationRecord) -> Remembered<Proof> {
        let same_pod = record.pod == self.pod;
        let receipt = record.receipt_of(&self.pod).filter(|_| self.config.asking.keeps_receipt());
        let kept = receipt.and_then(|receipt| self.verify_kept(receipt));
        Remembered {
            kept,
            known: record.known(),
            refused: record.refused,
            // A pod without a name cannot be distinguished from the next one.
            denied: record.denied && same_pod && !self.pod.is_empty(),
        }
    }

    fn verify_kept(&self, kept: &KeptReceipt) -> Option<(Arc<Proof>, Timestamp)> {
        let (token, nonce, product_code, public_key_version, stored_at) = kept.parts()?;
        let key = self.config.asking.keys()?.get(public_key_version)?;
        let expected = Expected {
            product_code: &self.config.product_code,
            public_key_version,
            nonce: &nonce,
            now: self.clock.now().into(),
            allow_emulated: self.config.allow_emulated,
        };
        if product_code != self.config.product_code {
            return None;
        }
        match receipt::verify(token, key, &expected) {
            Ok(receipt) => {
                let issued_at = receipt.issued_at().map_or(stored_at, Timestamp::from);
                Some((Arc::new(Proof::Receipt(receipt)), issued_at))
            }
            Err(error) => {
                tracing::warn!(event = "kept_receipt_ignored", %error, "the kept receipt does not verify and is ignored");
                None
            }
        }
    }
}

/// Waits for the late content; `None` if reading failed.
async fn arrival(
    late: &mut Option<watch::Receiver<Option<RegistrationRecord>>>,
) -> Option<RegistrationRecord> {
    match late {
        Some(read) => read.wait_for(Option::is_some).await.ok().and_then(|record| record.clone()),
        None => std::future::pending().await,
    }
}

/// How often the time is written while the gate is open by AWS's answer: the age of the kept receipt then stays right
/// even if the clock is set back later.
const LATEST_EVERY: Duration = Duration::from_secs(3600);
fn seconds_since(asked_at: Instant) -> f64 {
    clock::monotonic().duration_since(asked_at).as_secs_f64()
}

#[cfg(test)]
mod tests;
