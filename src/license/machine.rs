//! The deciding half of mode `contract`: takes state, event and time, and returns what to write, to call and to
//! publish.
//!
//! A round lists the licenses, and then takes seats, renews them, or makes a checkout that it gives back at once.
//! Invariants:
//! - With a state folder and [`Model::Floating`], a client token is saved before `CheckoutLicense` is called with it.
//!   After a lost answer the call is repeated with the same token before a new one is used.
//! - Seats are in the state folder before the gate opens because of them, and until they were given back.
//! - [`Model::Check`] holds nothing: a checkout is given back at once, and no new one is made before that has
//!   succeeded.
//! - Only a granted round or grace opens the gate. Grace is counted from this pod's latest granted round; once it has
//!   ended, only a granted round begins it again. A refusal ends it at once.
//! - A pod that is stopping takes no seat.
//!
//! Pure: no clock, no socket, no file; [`Now`] is an argument.

mod answers;
mod outcome;
mod standing;

use std::sync::Arc;
use std::time::Duration;

use super::judge::{Blame, Choice, Granted, Listing, Model, Refusal, Refused, Terms};
use super::knowledge::{HeldSeats, Knowledge};
use super::memory::{CLIENT_TOKEN_LIFE, GIVE_BACK_MAX, GrantedRound, Intent, Record, Seat};
use crate::entitlement::proof::Contract;
use crate::entitlement::{Entitlement, Proof, Reason, Rejected, Shown, Standing};
use crate::exit::Exit;
use crate::registration::allowance::{Allowance, Known};
use crate::registration::machine::Now;
use tollgate_marketplace::exceptions::{self, Kind};
use tollgate_marketplace::license::{
    CheckedIn, CheckedOut, ConsumptionToken, EntitlementData, EntitlementUsage, Extended, LicenseUsage,
    ReceivedLicense, ReceivedLicenses,
};
use tollgate_marketplace::{AHEAD_MAX, Fault, FaultClass, FaultCode, Place, Signing, schedule};
use tollgate_time::Timestamp;

/// The seller's settings.
#[derive(Debug, Clone)]
pub struct Policy {
    /// What the product requires of a license.
    pub terms: Terms,
    /// How long the gate stays open after the latest granted round while License Manager cannot be reached; zero
    /// means not at all.
    pub grace_period: Duration,
    /// The longest time between two rounds.
    pub renew_every: Duration,
    /// How long faults may last before the state is `unavailable`.
    pub unavailable_after: Duration,
    /// End the process after a refusal instead of trying again (`on_denied = "exit"`).
    pub exit_when_refused: bool,
    /// Do not end once the gate has been open: the command of `exec` runs, and a gate that shuts later does not end it.
    pub stays_once_open: bool,
}

/// How long a checkout lasts if neither the answer nor the license states it: AWS's default.
pub const TIME_TO_LIVE: Duration = Duration::from_secs(3600);

/// The pause before the second try of a pod that finds all seats taken: long enough for the pod that it replaces to
/// give its seats back.
pub const SECOND_TRY: Duration = Duration::from_millis(1500);

/// A call of License Manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// `ListReceivedLicenses`
    List,
    /// `CheckoutLicense`
    CheckOut {
        /// The same for every repetition of one checkout.
        client_token: String,
        /// What to take.
        take: Vec<EntitlementData>,
    },
    /// `ExtendLicenseConsumption`
    Extend(ConsumptionToken),
    /// `CheckInLicense`
    CheckIn(ConsumptionToken),
    /// `GetLicenseUsage` of this license
    Look(String),
}

/// The result of a call.
#[derive(Debug)]
pub enum Answer {
    /// Of [`Call::List`].
    Listed(Result<ReceivedLicenses, Fault>),
    /// Of [`Call::CheckOut`].
    CheckedOut(Result<CheckedOut, Fault>),
    /// Of [`Call::Extend`].
    Extended(Result<Extended, Fault>),
    /// Of [`Call::CheckIn`].
    CheckedIn(Result<CheckedIn, Fault>),
    /// Of [`Call::Look`].
    Looked(Result<LicenseUsage, Fault>),
    /// Of any call: the answer came from the emulator, which is not accepted here.
    Emulated(Reason),
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// The process started.
    Started,
    /// A call ended.
    Answered(Answer),
    /// The record of [`Next::Write`] was written, or there is no state folder; `false` if the write failed.
    Written(bool),
    /// The time of [`Next::WakeIn`] has come.
    Woke,
    /// The process will end: give all seats back. The shell drops the [`Next`] of the step before, but completes a
    /// [`Next::Write`] first.
    Stopping,
}

/// What the shell does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Call License Manager.
    Call(Call, Signing),
    /// Write this record to the state folder.
    Write(Box<Record>),
    /// Sleep, then send [`Event::Woke`].
    WakeIn(Duration),
    /// All seats are given back.
    Stopped,
    /// End the process.
    Leave(Exit),
}

/// For the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// The answer to a checkout was lost, and the call is not repeated any more: its seats may stay taken until this
    /// time.
    AnswerLost(Timestamp),
    /// Seats could not be given back. This is tried again, unless AWS's answer is final; they expire at this time.
    NotGivenBack(FaultCode, Timestamp),
}

/// The current step of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Give back what this pod must not hold, before anything is taken.
    ReturnFirst,
    List,
    Prove,
    /// Give back the checkout of a `check`.
    Return,
    Look,
    Sleep,
}

/// What to do with the outcome of a write.
#[derive(Debug)]
enum Awaiting {
    Nothing,
    /// Whether the checkout may be called.
    Intent,
    /// Whether the seats open the gate.
    Seat(Granted),
}

/// The outcome of the latest round. The published state follows from it and from the time.
#[derive(Debug)]
enum Verdict {
    Unanswered,
    /// With the reason to show although the license is granted, if any.
    Granted(Arc<Proof>, Option<Reason>),
    Refused(Refused),
    /// AWS rejects the request.
    Rejected(Reason),
    Emulated(Reason),
    /// No answer, or with `access`: AWS does not accept the caller.
    Failing {
        access: bool,
        reason: Reason,
    },
}

/// Consecutive faults of one kind; the schedule depends on their number and duration.
#[derive(Debug, Clone, Copy, Default)]
struct Run {
    access: bool,
    faults: u32,
    /// [`Now::running`] at the first of them.
    since: Duration,
}

/// The machine.
#[derive(Debug)]
pub struct Machine {
    policy: Policy,
    record: Record,
    /// The record differs from the state folder.
    dirty: bool,
    /// The latest write failed.
    unsaved: bool,
    /// Grace since this pod's latest granted round, if no round was refused since.
    allowance: Option<Allowance>,
    verdict: Verdict,
    listing: Option<(Listing, Duration)>,
    /// The fault that says that the role may not list licenses.
    hidden: Option<Fault>,
    known: Knowledge,
    step: Step,
    awaiting: Awaiting,
    /// The intent is saved, so its call may be made.
    ready: bool,
    /// AWS may have processed the intent.
    in_doubt: bool,
    /// A larger checkout was refused in this round: renew the seats that are held instead.
    keep_smaller: bool,
    /// The listing failed in this round.
    missed: Option<Fault>,
    /// The listing succeeded in this round, so ask how many seats are taken.
    look: bool,
    seed: String,
    client_tokens: u64,
    /// AWS's time at its latest answer, and [`Now::running`] then.
    heard: Option<(Timestamp, Duration)>,
    run: Run,
    /// [`Now::running`] at the first of the consecutive faults.
    failing_since: Option<Duration>,
    reload_credentials: bool,
    tried_clock_offset: bool,
    /// Consecutive checkouts that found all seats taken.
    exhausted: u32,
    /// Since when giving back has failed.
    give_back_since: Option<Duration>,
    /// The latest fault of giving seats back.
    give_back_fault: Option<Fault>,
    give_back_at: Duration,
    /// The next round is due at whichever of these comes first; the wall clock counts too because seats expire by it.
    round_at: Duration,
    round_wall: Timestamp,
    leaving: Option<Exit>,
    stopping: bool,
    attempts: u64,
    next_attempt_at: Option<Timestamp>,
    shown: Shown,
    notes: Vec<Note>,
}

impl Machine {
    /// A machine before its first call. `record` must be this pod's ([`Record::adopted_by`]); `seed` must be random
    /// for each process, so that no other process uses its client tokens.
    #[must_use]
    pub fn new(policy: Policy, record: Record, seed: String, now: Timestamp) -> Self {
        // A round in the future was written by a wrong clock, or by hand.
        let granted = record.granted.filter(|round| !round.is_after(now.plus(AHEAD_MAX)));
        let known = granted.map(GrantedRound::known);
        Self {
            allowance: known.map(|known| Allowance::new(policy.grace_period, None, known, now)),
            in_doubt: record.intent.is_some(),
            policy,
            record,
            dirty: false,
            unsaved: false,
            verdict: Verdict::Unanswered,
            listing: None,
            hidden: None,
            known: Knowledge::default(),
            step: Step::ReturnFirst,
            awaiting: Awaiting::Nothing,
            ready: false,
            keep_smaller: false,
            missed: None,
            look: false,
            seed,
            client_tokens: 0,
            heard: None,
            run: Run::default(),
            failing_since: None,
            reload_credentials: false,
            tried_clock_offset: false,
            exhausted: 0,
            give_back_since: None,
            give_back_fault: None,
            give_back_at: Duration::ZERO,
            round_at: Duration::ZERO,
            round_wall: now,
            leaving: None,
            stopping: false,
            attempts: 0,
            next_attempt_at: None,
            shown: Shown::at(now),
            notes: Vec::new(),
        }
    }

    /// Handles an event, and returns what to do next and what to log.
    pub fn step(&mut self, now: Now, event: Event) -> (Next, Vec<Note>) {
        if let Some(allowance) = &mut self.allowance {
            allowance.pass(now);
        }
        match event {
            Event::Started => self.begin_round(),
            Event::Woke => {
                self.dirty |= self.unsaved;
                if self.stopping {
                    self.step = Step::Prove;
                } else if self.round_at <= now.running || self.round_wall <= now.wall {
                    self.begin_round();
                } else {
                    self.step = Step::Return;
                }
            }
            Event::Written(done) => self.written(now, done),
            Event::Answered(answer) => self.answered(now, answer),
            Event::Stopping => self.stop(),
        }
        let next = self.proceed(now);
        self.next_attempt_at = match &next {
            Next::WakeIn(_) => Some(now.wall.plus(self.round_at.saturating_sub(now.running))),
            Next::Call(..) | Next::Write(_) => Some(now.wall),
            Next::Stopped | Next::Leave(_) => None,
        };
        (next, std::mem::take(&mut self.notes))
    }

    fn begin_round(&mut self) {
        self.attempts += 1;
        self.keep_smaller = false;
        self.step = Step::ReturnFirst;
    }

    fn proceed(&mut self, now: Now) -> Next {
        loop {
            if std::mem::take(&mut self.dirty) {
                return Next::Write(Box::new(self.image(now)));
            }
            match self.step {
                Step::ReturnFirst | Step::Return => match self.next_to_give_back(now) {
                    Some(token) => return self.call(Call::CheckIn(token)),
                    None if self.dirty => {}
                    None if self.step == Step::ReturnFirst => self.step = Step::List,
                    None => self.step = Step::Look,
                },
                Step::List if self.listing_will_do(now) => self.step = Step::Prove,
                Step::List => return self.call(Call::List),
                Step::Prove => {
                    if let Some(next) = self.prove(now) {
                        return next;
                    }
                }
                Step::Look => {
                    self.step = Step::Sleep;
                    let look = std::mem::take(&mut self.look) && !self.stopping;
                    if let Some(arn) = self.known.chosen.clone().filter(|_| look) {
                        return self.call(Call::Look(arn));
                    }
                }
                Step::Sleep => match self.sleep(now) {
                    Some(next) => return next,
                    None => self.begin_round(),
                },
            }
        }
    }

    fn call(&mut self, call: Call) -> Next {
        let reload_credentials = std::mem::take(&mut self.reload_credentials);
        Next::Call(call, Signing { reload_credentials })
    }

    /// The pod's time, which never goes back.
    fn time(&self, now: Now) -> Timestamp {
        self.allowance.as_ref().map_or(now.wall, |allowance| allowance.time(now))
    }

    /// Whether a pod that waits for a seat may still use its latest listing.
    fn listing_will_do(&self, now: Now) -> bool {
        let read_at = self.listing.as_ref().map(|(_, at)| at.saturating_add(self.policy.renew_every));
        self.exhausted > 0 && read_at.is_some_and(|until| now.running < until)
    }

    fn choose(&self, now: Now) -> Result<Option<Choice>, Refused> {
        let listing = self.listing.as_ref().map_or(&Listing::Hidden, |(listing, _)| listing);
        self.policy.terms.choose(listing, self.service_time(now))
    }

    /// Takes note of AWS's clock minus the pod's, in seconds, as an answer has shown it.
    pub fn hear_clock(&mut self, now: Now, skew: i64) {
        let apart = Duration::from_secs(skew.unsigned_abs());
        let time = if skew < 0 { now.wall.minus(apart) } else { now.wall.plus(apart) };
        self.heard = Some((time, now.running));
    }

    /// AWS's time, once an answer has shown it. Contracts and seats end by this clock, so setting the pod's clock, also
    /// between two answers, does not change when they end.
    fn service_time(&self, now: Now) -> Timestamp {
        let since = |(time, at): (Timestamp, Duration)| time.plus(now.running.saturating_sub(at));
        self.heard.map_or_else(|| self.time(now), since)
    }

    // === calls ===

    /// The call that proves the license in this round; `None` if the round continues without a call.
    fn prove(&mut self, now: Now) -> Option<Next> {
        if let Some(missed) = self.missed.clone().filter(|_| !self.stopping) {
            if let Some(seat) = self.record.seat.clone() {
                return Some(self.call(Call::Extend(seat.token)));
            }
            self.fault(now, &missed);
            return None;
        }
        if let Some(next) = self.ask_again(now) {
            return Some(next);
        }
        if self.stopping {
            self.step = Step::Return;
            return None;
        }
        let choice = match self.choose(now) {
            Ok(Some(choice)) => choice,
            Ok(None) => {
                let unseen = local(FaultClass::Access, Refusal::CauseUnknown.code());
                let hidden = self.hidden.clone().unwrap_or(unseen);
                self.fault(now, &hidden.seeing("license-manager:ListReceivedLicenses"));
                return None;
            }
            Err(refused) => {
                self.known.chosen = None;
                self.refuse(now, refused);
                return None;
            }
        };
        self.known.chosen = choice.arn().map(ToOwned::to_owned);
        if let Some(seat) = self.record.seat.clone() {
            if choice.holds && (self.keep_smaller || seat.covers(&choice.take)) {
                return Some(self.call(Call::Extend(seat.token)));
            }
            if !choice.holds {
                self.give_back(now);
            }
        }
        let listed = choice.listed();
        let tried = !choice.holds && listed.is_ok() && !self.record.give_back.is_empty();
        if choice.take.is_empty() || tried {
            // The listing is the proof: nothing can be taken and given back, or an earlier checkout is not given back
            // yet.
            match listed {
                Ok(granted) => self.grant(now, &granted),
                Err(refused) => self.refuse(now, refused),
            }
            return None;
        }
        if self.record.give_back.len() >= GIVE_BACK_MAX {
            let fault = self.give_back_fault.clone();
            self.fault(now, &fault.unwrap_or_else(|| local(FaultClass::Transient, "Timeout")));
            return None;
        }
        self.client_tokens += 1;
        self.record.intent = Some(Intent {
            client_token: format!("{}-{}", self.seed, self.client_tokens),
            taken: choice.take,
            asked_at: self.time(now),
            foreign: false,
        });
        self.ready = false;
        self.dirty = false;
        self.awaiting = Awaiting::Intent;
        Some(Next::Write(Box::new(self.image(now))))
    }

    /// Repeats the checkout whose answer is unknown, while AWS still recognises its client token.
    fn ask_again(&mut self, now: Now) -> Option<Next> {
        let intent = self.record.intent.as_ref()?;
        let young = self.time(now).since(intent.asked_at) < CLIENT_TOKEN_LIFE;
        if young && (self.in_doubt || (self.ready && !self.stopping)) {
            let (client_token, take) = (intent.client_token.clone(), intent.taken.clone());
            return Some(self.call(Call::CheckOut { client_token, take }));
        }
        self.forget_intent(now);
        None
    }

    /// Ends an intent that was answered, or is too old to repeat. After that time AWS would treat a repetition as a new
    /// checkout, so an answer that was lost stays lost.
    fn forget_intent(&mut self, now: Now) {
        let intent = self.record.intent.take().filter(|_| self.in_doubt);
        if intent.is_some_and(|intent| self.time(now).since(intent.asked_at) >= CLIENT_TOKEN_LIFE) {
            self.notes.push(Note::AnswerLost(self.time(now).plus(self.time_to_live(None))));
        }
        self.dirty = true;
        (self.ready, self.in_doubt) = (false, false);
    }

    /// How long a checkout lasts if its answer does not state it.
    fn time_to_live(&self, arn: Option<&str>) -> Duration {
        let arn = arn.or(self.known.chosen.as_deref());
        let of = |license: &&ReceivedLicense| arn.is_none_or(|arn| license.arn == arn);
        let said = self.known.licenses.iter().find(of).and_then(|license| license.time_to_live_max);
        said.unwrap_or(TIME_TO_LIVE)
    }
}

/// The code for a record that must be written before seats are taken, and cannot be.
const NOT_KEPT: &str = "LicenseStateNotKept";

fn local(class: FaultClass, code: &'static str) -> Fault {
    Fault::local(class, code, "").at(Place::LicenseManager, None)
}

/// The reason for a refusal.
#[must_use]
pub fn reason_of(refused: &Refused) -> Reason {
    Reason::of_fault(&local(FaultClass::Denied, refused.why.code()).seeing(refused.seen.clone()))
}

/// Cuts a listing of usage at the number of dimensions that a product can have.
fn within_limit(mut usage: Vec<EntitlementUsage>) -> Vec<EntitlementUsage> {
    usage.truncate(tollgate_marketplace::license::ENTITLEMENTS_MAX);
    usage
}

#[cfg(test)]
pub(super) mod tests;
