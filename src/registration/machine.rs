//! The deciding half of registration: takes state, event and time, and returns what to publish and what to do next.
//!
//! Invariants:
//! - Only three things open the gate: a proof, the kept receipt while AWS cannot be reached, or the seller's grace
//!   period.
//! - A refusal, a bad token or a misconfiguration ends grace, and only a proof undoes a refusal.
//! - Every attempt has its own nonce (the loop draws it) and comes no earlier than the schedule allows.
//! - After a proof AWS is not called again (AWS: `RegisterUsage` once per pod), unless the proof is a report for one
//!   hour. A refusal after a proof is a lapse, and a lapse shuts the gate only if the seller configured that.
//!
//! Pure: no clock, no socket, no file; [`Now`] is an argument, with the random draw that spreads the retries.

use std::sync::Arc;
use std::time::Duration;

use super::allowance::{Allowance, Known};
use crate::entitlement::reason::{self, Reason};
use crate::entitlement::refusal_update::Unreported;
use crate::entitlement::{Entitlement, Rejected, Shown, Standing};
use crate::exit::Exit;
use tollgate_marketplace::schedule::{self, Draw};
use tollgate_marketplace::{Fault, FaultClass, FaultCode, Hour, PublicKeyVersion, exceptions};
use tollgate_time::Timestamp;

/// The seller's settings.
#[derive(Debug, Clone)]
pub struct RegistrationPolicy {
    /// How long transient faults may last before the state is `unavailable`.
    pub unavailable_after: Duration,
    /// How long the gate stays open while AWS cannot be reached, counted from the first failed attempt; zero means
    /// not at all.
    pub grace_period: Duration,
    /// End the process after a refusal instead of trying again (`on_denied = "exit"`).
    pub exit_when_refused: bool,
    /// Do not end once the gate has been open: the command of `exec` runs, and a gate that shuts later does not end it.
    pub stays_once_open: bool,
    /// The versions of the seller's public keys, ascending; never empty.
    pub versions: Vec<PublicKeyVersion>,
    /// The configured version, if there is one; then no other is tried.
    pub stated_version: Option<PublicKeyVersion>,
    /// The proof is a report for one hour, and is renewed each hour.
    pub renewed_hourly: bool,
    /// How long after a lapse the gate shuts; `None`: never.
    pub close_lapsed_after: Option<Duration>,
    /// Whether a pod that AWS called not entitled tries again; otherwise only a new pod does.
    pub ask_after_denial: bool,
}

/// The current time, as the machine needs it.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Wall time, for the receipt's age, grace, and times that people read.
    pub wall: Timestamp,
    /// Monotonic time since the machine was created, for retries and `unavailable_after`.
    pub running: Duration,
    /// A random draw for this event.
    pub draw: Draw,
}

/// What the state folder remembers of earlier processes of this pod.
#[derive(Debug)]
pub struct Remembered<P> {
    /// A receipt of this pod that still verifies, and when AWS issued it.
    pub kept: Option<(Arc<P>, Timestamp)>,
    /// What is left of grace and of the kept receipt's age.
    pub known: Known,
    /// AWS refused, or a token failed verification, and no attempt has succeeded since: there is no grace period.
    pub refused: bool,
    /// AWS called this pod not entitled, and no attempt has succeeded since.
    pub denied: bool,
}

impl<P> Default for Remembered<P> {
    fn default() -> Self {
        Self { kept: None, known: Known::default(), refused: false, denied: false }
    }
}

/// The result of one attempt.
#[derive(Debug)]
pub enum AttemptResult<P> {
    /// A proof.
    Verified {
        /// The proof.
        proof: P,
        /// AWS's `PublicKeyRotationTimestamp`, if there is one.
        rotation: Option<Timestamp>,
    },
    /// A token that is not AWS's, or does not answer this attempt.
    Unverified(Reason),
    /// No proof.
    Fault(Fault),
}

/// What happened.
#[derive(Debug)]
pub enum Event<P> {
    /// The process started.
    Started,
    /// An attempt ended.
    Answered(AttemptResult<P>),
    /// The time of [`Next::AskIn`] has come.
    Woke,
}

/// One attempt: a call to AWS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// The public key version to request.
    pub version: PublicKeyVersion,
    /// Reload the credentials first.
    pub reload_credentials: bool,
}

/// What the shell does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Call AWS now.
    Ask(Attempt),
    /// Sleep, then send [`Event::Woke`].
    AskIn(Duration),
    /// Sleep until this wall time, then send [`Event::Woke`].
    AskAt(Timestamp),
    /// No further attempt.
    Rest,
    /// End the process.
    Leave(Exit),
}

/// What to write to the state folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remember {
    /// Attempts fail.
    Failing {
        /// See [`Remembered::known`].
        known: Known,
        /// See [`Remembered::refused`].
        refused: bool,
        /// See [`Remembered::denied`].
        denied: bool,
    },
    /// The latest attempt succeeded.
    Succeeded,
}

/// The machine. `P` is the proof; tests use a substitute.
#[derive(Debug)]
pub struct Machine<P> {
    policy: RegistrationPolicy,
    memory: Remembered<P>,
    allowance: Allowance,
    outcome: RegistrationOutcome<P>,
    attempt: Attempt,
    /// Consecutive faults of one kind; the schedule depends on their number and duration.
    run: Run,
    /// [`Now::running`] at the first of the consecutive faults.
    failing_since: Option<Duration>,
    /// [`Now::running`] when the fact was last made.
    made_at: Duration,
    tried_lower_version: bool,
    tried_clock_offset: bool,
    attempts: u64,
    next_attempt_at: Option<Timestamp>,
    shown: Shown,
    rotation: Option<Timestamp>,
    /// Why usage has not been billed for longer than the seller allows, if so.
    unreported: Option<Unreported>,
}

/// The outcome of the latest attempts. The published state follows from it and from the time.
#[derive(Debug)]
enum RegistrationOutcome<P> {
    Unanswered(Option<Reason>),
    /// With what has been wrong since, if anything, except for a refusal.
    Proven(Arc<P>, Option<Reason>),
    /// AWS refused after a proof, at this [`Now::running`].
    Lapsed(Arc<P>, Reason, Duration),
    Denied(Reason),
    Rejected(Reason),
    BadToken(Reason),
    /// There are no credentials, or AWS does not accept the caller.
    NotAsked(Reason),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RunKind {
    Transient,
    Access,
    Unverified,
}

#[derive(Debug, Clone, Copy)]
struct Run {
    kind: RunKind,
    /// The number of these faults, including the latest one.
    faults: u32,
    /// [`Now::running`] at the first of them.
    since: Duration,
}

/// What a step changed besides the standing: for the state folder, the log and the metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Notes {
    /// What to write to the state folder.
    pub remember: Option<Remember>,
    /// A success after AWS had called this pod not entitled, which needs investigation: AWS may not repeat a refusal.
    /// After any other fault a success needs none.
    pub entitled_after_refusal: bool,
}

impl<P> Machine<P> {
    /// A machine before its first call.
    #[must_use]
    pub fn new(policy: RegistrationPolicy, remembered: Remembered<P>, now: Timestamp) -> Self {
        let version = policy.stated_version.or_else(|| policy.versions.last().copied());
        Self {
            attempt: Attempt {
                version: version.unwrap_or(PublicKeyVersion::FIRST),
                reload_credentials: false,
            },
            allowance: Allowance::new(
                policy.grace_period,
                remembered.kept.as_ref().map(|(_, issued_at)| *issued_at),
                remembered.known,
                now,
            ),
            policy,
            memory: remembered,
            outcome: RegistrationOutcome::Unanswered(None),
            run: Run { kind: RunKind::Transient, faults: 0, since: Duration::ZERO },
            failing_since: None,
            made_at: Duration::ZERO,
            tried_lower_version: false,
            tried_clock_offset: false,
            attempts: 0,
            next_attempt_at: None,
            shown: Shown::at(now),
            rotation: None,
            unreported: None,
        }
    }

    /// Handles an event, and returns what to do next and what has changed.
    pub fn step(&mut self, now: Now, event: Event<P>) -> (Next, Notes) {
        let mut notes = Notes::default();
        let next = match event {
            _ if self.memory.denied && !self.policy.ask_after_denial => self.denied(now, None),
            Event::Started | Event::Woke => self.ask(),
            Event::Answered(AttemptResult::Verified { proof, rotation }) => {
                notes.entitled_after_refusal = self.memory.denied;
                notes.remember = Some(Remember::Succeeded);
                self.memory = Remembered::default();
                self.allowance = Allowance::new(self.policy.grace_period, None, Known::default(), now.wall)
                    .as_of(now.running);
                self.rotation = rotation;
                self.failing_since = None;
                self.outcome = RegistrationOutcome::Proven(Arc::new(proof), None);
                if self.policy.renewed_hourly { Next::AskAt(renewal(now)) } else { Next::Rest }
            }
            Event::Answered(AttemptResult::Unverified(reason)) => {
                let next = self.on_unverified(now, reason);
                notes.remember = self.remember_failure(now, true, false);
                next
            }
            Event::Answered(AttemptResult::Fault(fault)) => {
                // The request is signed once more with AWS's clock first, and that answer decides.
                let signed_again = fault.clock_is_off() && !self.tried_clock_offset;
                let definite = !matches!(fault.class, FaultClass::Transient | FaultClass::ExpiredSession);
                let definite = definite && !signed_again;
                let next = self.on_fault(now, &fault);
                notes.remember = self.remember_failure(now, definite, fault.class == FaultClass::Denied);
                next
            }
        };
        self.next_attempt_at = match next {
            Next::AskIn(delay) => Some(now.wall.plus(delay)),
            Next::AskAt(at) => Some(at),
            Next::Ask(_) => Some(now.wall),
            Next::Rest | Next::Leave(_) => None,
        };
        (next, notes)
    }

    fn ask(&mut self) -> Next {
        self.attempts += 1;
        let attempt = self.attempt;
        self.attempt.reload_credentials = false;
        Next::Ask(attempt)
    }

    fn remember_failure(&mut self, now: Now, refused: bool, denied: bool) -> Option<Remember> {
        let before = (self.memory.refused, self.memory.denied);
        self.memory.refused |= refused;
        self.memory.denied |= denied;
        self.allowance.failed(now);
        let changed = before != (self.memory.refused, self.memory.denied);
        let written = self.remember(now);
        written.or_else(|| changed.then(|| self.failing(self.allowance.known())))
    }

    /// Reports whether the latest [`Remember`] was written.
    pub fn remembered(&mut self, done: bool) {
        self.allowance.wrote(done);
    }

    const fn failing(&self, known: Known) -> Remember {
        Remember::Failing { known, refused: self.memory.refused, denied: self.memory.denied }
    }

    /// What to write because time alone has changed it; call this whenever [`Machine::changes_in`] has passed.
    pub fn remember(&mut self, now: Now) -> Option<Remember> {
        let open = self.open_without_answer(now);
        self.allowance.to_write(now, open).map(|known| self.failing(known))
    }

    /// The current time, which never goes back.
    #[must_use]
    pub fn time(&self, now: Now) -> Timestamp {
        self.allowance.time(now)
    }

    /// Whether grace or the kept receipt keeps the gate open.
    fn open_without_answer(&self, now: Now) -> bool {
        matches!(self.outcome, RegistrationOutcome::Unanswered(Some(_)))
            && self.answered_standing(now).gate_open()
    }

    fn on_unverified(&mut self, now: Now, reason: Reason) -> Next {
        self.outcome = RegistrationOutcome::BadToken(reason);
        self.failing_since = None;
        let run = self.count(now, RunKind::Unverified);
        if self.leaves() {
            return Next::Leave(Exit::Unverified);
        }
        Next::AskIn(schedule::unverified(now.running.saturating_sub(run.since), now.draw))
    }

    /// Handles AWS's answers to usage reports: a refusal after a proof, or its end.
    pub fn on_refusal(&mut self, now: Now, refusal: Option<&FaultCode>) {
        self.outcome =
            match (std::mem::replace(&mut self.outcome, RegistrationOutcome::Unanswered(None)), refusal) {
                (RegistrationOutcome::Proven(proof, _), Some(code)) => RegistrationOutcome::Lapsed(
                    proof,
                    Reason::of(code.clone(), FaultClass::Denied),
                    now.running,
                ),
                (RegistrationOutcome::Lapsed(proof, ..), None) => RegistrationOutcome::Proven(proof, None),
                (outcome, _) => outcome,
            };
    }

    /// Handles an answer from the emulator, which is not accepted here.
    pub fn on_emulated(&mut self, code: &'static str) {
        if matches!(self.outcome, RegistrationOutcome::Proven(..) | RegistrationOutcome::Lapsed(..)) {
            self.outcome = RegistrationOutcome::BadToken(reason::unverified(code, None));
        }
    }

    /// Takes over the state folder's content when it arrives late. Returns whether it counts: a definite answer of
    /// AWS is newer.
    pub fn recall(&mut self, remembered: Remembered<P>, now: Now) -> bool {
        if self.memory.refused || !matches!(self.outcome, RegistrationOutcome::Unanswered(_)) {
            return false;
        }
        let issued_at = remembered.kept.as_ref().map(|(_, issued_at)| *issued_at);
        self.allowance = Allowance::new(self.policy.grace_period, issued_at, remembered.known, now.wall)
            .as_of(now.running);
        self.memory = remembered;
        if matches!(self.outcome, RegistrationOutcome::Unanswered(Some(_))) {
            self.allowance.failed(now);
        }
        if self.memory.denied && !self.policy.ask_after_denial {
            self.denied(now, None);
        }
        true
    }

    /// Takes note of whether usage has not been billed for longer than the seller allows.
    pub const fn on_unreported(&mut self, unreported: Option<Unreported>) {
        self.unreported = unreported;
    }

    /// AWS says that the buyer is not entitled, or said so to an earlier process of this pod.
    fn denied(&mut self, now: Now, reason: Option<Reason>) -> Next {
        let reason =
            reason.filter(|_| self.policy.ask_after_denial).unwrap_or_else(reason::denied_until_a_new_pod);
        self.outcome = RegistrationOutcome::Denied(reason);
        match self.refused(now, Exit::NotEntitled) {
            Next::AskIn(_) if !self.policy.ask_after_denial => Next::Rest,
            next => next,
        }
    }

    /// Handles the failure of a renewal. Only a refusal says anything about the entitlement.
    fn on_renewal_fault(&mut self, now: Now, fault: &Fault, proof: Arc<P>) -> Next {
        let reason = Reason::of_fault(fault);
        if fault.class == FaultClass::Denied {
            self.outcome = RegistrationOutcome::Proven(proof, None);
            self.on_refusal(now, Some(&fault.code));
            if !self.policy.ask_after_denial {
                return Next::Rest;
            }
            return Next::AskIn(schedule::refused(now.draw));
        }
        self.outcome = RegistrationOutcome::Proven(proof, Some(reason));
        let kind = match fault.class {
            FaultClass::Transient => RunKind::Transient,
            _ => RunKind::Access,
        };
        self.attempt.reload_credentials = kind == RunKind::Access;
        let run = self.count(now, kind);
        Next::AskIn(match kind {
            RunKind::Transient => schedule::transient(now.running.saturating_sub(run.since), now.draw),
            _ => schedule::access(run.faults, now.draw),
        })
    }

    fn on_fault(&mut self, now: Now, fault: &Fault) -> Next {
        let reason = Reason::of_fault(fault);
        match &self.outcome {
            // A lapse lasts until AWS accepts again.
            RegistrationOutcome::Lapsed(..) => {
                self.count(now, RunKind::Access);
                return Next::AskIn(schedule::refused(now.draw));
            }
            RegistrationOutcome::Proven(proof, _) => {
                let proof = Arc::clone(proof);
                return self.on_renewal_fault(now, fault, proof);
            }
            _ => {}
        }
        match fault.class {
            FaultClass::Denied => self.denied(now, Some(reason)),
            FaultClass::Misconfigured => self.on_rejected(now, reason),
            FaultClass::Access => self.on_access(now, fault, reason),
            FaultClass::ExpiredSession => {
                self.unanswered(now, reason);
                self.attempt.reload_credentials = true;
                let run = self.count(now, RunKind::Access);
                if run.faults == 1 {
                    self.ask()
                } else {
                    Next::AskIn(schedule::access(run.faults - 1, now.draw))
                }
            }
            FaultClass::Transient => {
                self.unanswered(now, reason);
                let run = self.count(now, RunKind::Transient);
                if self.leaves() && self.overdue(now) {
                    return Next::Leave(self.standing(now).exit());
                }
                Next::AskIn(schedule::transient(now.running.saturating_sub(run.since), now.draw))
            }
        }
    }

    fn on_rejected(&mut self, now: Now, reason: Reason) -> Next {
        let key_version = reason.code.as_str() == exceptions::INVALID_PUBLIC_KEY_VERSION;
        self.outcome = RegistrationOutcome::Rejected(reason);
        if key_version && self.policy.stated_version.is_none() {
            let highest = self.policy.versions.last().copied();
            let lower = self.policy.versions.iter().rev().find(|version| **version < self.attempt.version);
            match lower {
                Some(&lower) if !self.tried_lower_version => {
                    self.tried_lower_version = true;
                    self.attempt.version = lower;
                    return self.ask();
                }
                _ => self.attempt.version = highest.unwrap_or(self.attempt.version),
            }
        }
        self.refused(now, Exit::Config)
    }

    fn on_access(&mut self, now: Now, fault: &Fault, reason: Reason) -> Next {
        self.outcome = RegistrationOutcome::NotAsked(reason);
        self.failing_since.get_or_insert(now.running);
        self.attempt.reload_credentials = true;
        let run = self.count(now, RunKind::Access);
        // The client signs with AWS's clock from now on, so try once more at once.
        if fault.clock_is_off() && !self.tried_clock_offset {
            self.tried_clock_offset = true;
            return self.ask();
        }
        if self.leaves() && self.overdue(now) {
            return Next::Leave(Exit::Config);
        }
        Next::AskIn(schedule::access(run.faults, now.draw))
    }

    fn refused(&mut self, now: Now, exit: Exit) -> Next {
        self.failing_since = None;
        self.run = Run { kind: RunKind::Transient, faults: 0, since: now.running };
        if self.leaves() {
            return Next::Leave(exit);
        }
        Next::AskIn(schedule::refused(now.draw))
    }

    /// Handles a fault that says nothing about the entitlement: an earlier refusal still counts.
    fn unanswered(&mut self, now: Now, reason: Reason) {
        self.failing_since.get_or_insert(now.running);
        let refusal_stands = matches!(
            self.outcome,
            RegistrationOutcome::Denied(_)
                | RegistrationOutcome::Rejected(_)
                | RegistrationOutcome::BadToken(_)
        );
        if !refusal_stands {
            self.outcome = RegistrationOutcome::Unanswered(Some(reason));
        }
    }

    const fn leaves(&self) -> bool {
        self.policy.exit_when_refused && !(self.policy.stays_once_open && self.shown.has_opened)
    }

    fn count(&mut self, now: Now, kind: RunKind) -> Run {
        if self.run.kind != kind || self.run.faults == 0 {
            self.run = Run { kind, faults: 0, since: now.running };
        }
        self.run.faults = self.run.faults.saturating_add(1);
        self.run
    }

    fn overdue(&self, now: Now) -> bool {
        self.failing_since
            .is_some_and(|since| now.running.saturating_sub(since) >= self.policy.unavailable_after)
    }

    fn lapse_is_over(&self, now: Now, since: Duration) -> bool {
        let after = self.policy.close_lapsed_after;
        after.is_some_and(|after| now.running.saturating_sub(since) >= after)
    }

    /// The standing at `now`.
    #[must_use]
    pub fn standing(&self, now: Now) -> Standing<P> {
        let standing = self.answered_standing(now);
        // If the gate is shut anyway, that reason is closer to the cause.
        match self.unreported {
            Some(why) if standing.gate_open() => Standing::Unreported(reason::unreported(why)),
            _ => standing,
        }
    }

    /// The standing without regard to unreported usage.
    fn answered_standing(&self, now: Now) -> Standing<P> {
        let reason = match &self.outcome {
            RegistrationOutcome::Proven(proof, reason) => {
                return Standing::Entitled(Arc::clone(proof), reason.clone());
            }
            RegistrationOutcome::Lapsed(_, reason, since) if self.lapse_is_over(now, *since) => {
                return Standing::Denied(reason.clone());
            }
            RegistrationOutcome::Lapsed(proof, reason, _) => {
                return Standing::Lapsed(Arc::clone(proof), reason.clone());
            }
            RegistrationOutcome::Denied(reason) => return Standing::Denied(reason.clone()),
            RegistrationOutcome::Rejected(reason) => {
                return Standing::Misconfigured(Rejected::Request, reason.clone());
            }
            RegistrationOutcome::NotAsked(reason) => {
                return Standing::Misconfigured(Rejected::Caller, reason.clone());
            }
            RegistrationOutcome::BadToken(reason) => return Standing::Unverified(reason.clone()),
            RegistrationOutcome::Unanswered(None) => return Standing::Pending(None),
            RegistrationOutcome::Unanswered(Some(reason)) => reason.clone(),
        };
        let without_answer = !self.memory.refused;
        if let Some((proof, _)) =
            self.memory.kept.as_ref().filter(|_| without_answer && self.allowance.receipt(now))
        {
            return Standing::Entitled(Arc::clone(proof), Some(reason));
        }
        let grace = self.allowance.grace(now).filter(|_| without_answer);
        match grace {
            Some(until) => Standing::Grace(reason, until),
            None if self.overdue(now) => Standing::Unavailable(reason),
            None => Standing::Pending(Some(reason)),
        }
    }

    /// The fact to publish at `now`, without what only the shell knows (region, emulated). Call this after each step
    /// and whenever [`Machine::changes_in`] has passed.
    pub fn entitlement(&mut self, now: Now) -> Entitlement<P> {
        self.allowance.pass(now);
        self.made_at = now.running;
        let standing = self.standing(now);
        Entitlement {
            attempts: self.attempts,
            next_attempt_at: self.next_attempt_at,
            public_key_version: Some(self.attempt.version),
            public_key_rotation_timestamp: self.rotation,
            ..self.shown.show(standing, now.wall)
        }
    }

    /// How long until time alone may change the standing; a jump of the wall clock may change it earlier.
    #[must_use]
    pub fn changes_in(&self, now: Now) -> Option<Duration> {
        if let (RegistrationOutcome::Lapsed(_, _, since), Some(after)) =
            (&self.outcome, self.policy.close_lapsed_after)
        {
            return self.until(since.saturating_add(after), now);
        }
        if !matches!(self.outcome, RegistrationOutcome::Unanswered(Some(_))) {
            return None;
        }
        let by_time = self.allowance.changes_in(now, self.open_without_answer(now));
        let overdue = self.failing_since.map(|since| since.saturating_add(self.policy.unavailable_after));
        let by_running = overdue.and_then(|at| self.until(at, now));
        by_time.into_iter().chain(by_running).min()
    }

    /// How long until this running time; nothing is left of it if it has passed since the fact was made.
    fn until(&self, at: Duration, now: Now) -> Option<Duration> {
        (self.made_at < at).then(|| at.saturating_sub(now.running))
    }
}

/// When to renew an hourly proof: in the next hour, spread at random over its first ten minutes.
fn renewal(now: Now) -> Timestamp {
    let spread = Duration::from_secs_f64(now.draw.fraction() * RENEWAL_SPREAD.as_secs_f64());
    Hour::of(now.wall).end().plus(spread)
}

/// AWS accepts ten reports a second for each account and region, which is six thousand pods in this time.
const RENEWAL_SPREAD: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests;
