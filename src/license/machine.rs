//! The deciding half of mode `contract`: (state, event, now) in, what to write, to ask and to publish out.
//!
//! A round lists the licenses, and then takes, renews or merely tries a checkout. Invariants:
//! - `CheckoutLicense` is never called with a client token that is not saved in the state folder, if there is a
//!   folder and seats are held. After a lost answer the same token is used again before a new one.
//! - Seats are in the state folder before the gate opens by them, and until they were given back.
//! - In [`Model::Check`] nothing is held: a checkout is given back at once, and none is made while one waits for that.
//! - The gate opens by a granted round, or by grace, which is counted from this pod's latest granted round and ends for
//!   good; a refusal ends it at once.
//! - A pod that was told to stop takes no seat.
//!
//! No clock, no socket, no file: [`Now`] is an argument.

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

/// What the seller chose.
#[derive(Debug, Clone)]
pub struct Policy {
    /// What a license must have.
    pub terms: Terms,
    /// How long the gate stays open after the latest granted round while License Manager cannot be asked; zero is
    /// never.
    pub grace_period: Duration,
    /// The longest time between two rounds.
    pub renew_every: Duration,
    /// How long transient faults may last before the state is `unavailable`.
    pub unavailable_after: Duration,
    /// Leave instead of asking again after a refusal (`on_denied = "exit"`).
    pub exit_when_refused: bool,
    /// Do not leave once the gate has been open: a command runs, and a gate that shuts later does not end it.
    pub stays_once_open: bool,
}

/// How long a checkout lasts if neither the answer nor the license says so: AWS's default.
pub const TIME_TO_LIVE: Duration = Duration::from_secs(3600);

/// The second try of a pod that finds all seats taken: a pod that was replaced gives its own back in that time.
pub const SECOND_TRY: Duration = Duration::from_millis(1500);

/// A call of License Manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// `ListReceivedLicenses`
    List,
    /// `CheckoutLicense`, with this client token
    CheckOut {
        /// The same on every try.
        client_token: String,
        /// What is taken.
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
    /// Of any: it came from the emulator, which is not accepted here.
    Emulated(Reason),
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// The process started.
    Started,
    /// A call ended.
    Answered(Answer),
    /// The record of [`Next::Write`] is in the state folder, or there is none; `false` where it could not be written.
    Written(bool),
    /// The time of [`Next::WakeIn`] has come.
    Woke,
    /// The process is to end: give everything back. The [`Next`] of the step before is dropped; a [`Next::Write`] is
    /// done first.
    Stopping,
}

/// What the shell does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Call License Manager.
    Call(Call, Signing),
    /// Write this to the state folder.
    Write(Box<Record>),
    /// Sleep, then say [`Event::Woke`].
    WakeIn(Duration),
    /// Everything is given back.
    Stopped,
    /// End the process.
    Leave(Exit),
}

/// For the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// A checkout's answer got lost, and is not asked for any more: its seats may stay taken until this time.
    AnswerLost(Timestamp),
    /// Seats could not be given back. They are tried again, unless AWS's answer is final; they end at this time.
    NotGivenBack(FaultCode, Timestamp),
}

/// The step that a round is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Give back what is not ours to hold, before anything is taken.
    ReturnFirst,
    List,
    Prove,
    /// Give back the checkout of a `check`.
    Return,
    Look,
    Sleep,
}

/// What depends on the outcome of a write.
#[derive(Debug)]
enum Awaiting {
    Nothing,
    /// Whether the checkout may be called.
    Intent,
    /// Whether the gate opens by the seats.
    Seat(Granted),
}

/// The pod's latest state, without what only time changes.
#[derive(Debug)]
enum Verdict {
    Unanswered,
    /// The reason is what is wrong nevertheless.
    Granted(Arc<Proof>, Option<Reason>),
    Refused(Refused),
    /// AWS rejects the request.
    Rejected(Reason),
    Emulated(Reason),
    /// No answer; `access`: AWS does not accept the caller.
    Failing {
        access: bool,
        reason: Reason,
    },
}

/// Faults in a row of one kind, which the schedule counts.
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
    /// Since this pod's latest granted round, if none was refused since.
    allowance: Option<Allowance>,
    verdict: Verdict,
    listing: Option<(Listing, Duration)>,
    /// Why the role may not list licenses.
    hidden: Option<Fault>,
    known: Knowledge,
    step: Step,
    awaiting: Awaiting,
    /// The intent is in the state folder, so the call may be made.
    ready: bool,
    /// The intent may have been processed.
    in_doubt: bool,
    /// A larger checkout was refused in this round: what is held already is renewed instead.
    keep_smaller: bool,
    /// The listing failed in this round.
    missed: Option<Fault>,
    /// The listing came in this round: then look at the seats that are taken.
    look: bool,
    seed: String,
    client_tokens: u64,
    /// The service's time at its latest answer, and [`Now::running`] then.
    heard: Option<(Timestamp, Duration)>,
    run: Run,
    /// When, in this process, faults began to follow each other.
    failing_since: Option<Duration>,
    reload_credentials: bool,
    tried_clock_offset: bool,
    /// Checkouts in a row that found all seats taken.
    exhausted: u32,
    /// When giving back began to fail.
    give_back_since: Option<Duration>,
    /// The latest fault of giving back.
    give_back_fault: Option<Fault>,
    give_back_at: Duration,
    /// When the next round is due, by running time or by the wall clock, whichever comes first: seats end by the clock.
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
    /// A machine before its first call. `record` is this pod's ([`Record::adopted_by`]); `seed` is drawn for each
    /// process, so that its client tokens are never used by another.
    #[must_use]
    pub fn new(policy: Policy, record: Record, seed: String, now: Timestamp) -> Self {
        // A round that is still to come was written by a clock that was wrong, or by hand.
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

    /// Handles an event and returns what to do.
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

    /// The present, which never goes back.
    fn time(&self, now: Now) -> Timestamp {
        self.allowance.as_ref().map_or(now.wall, |allowance| allowance.time(now))
    }

    /// Whether a pod that waits for a seat may use the listing that it has.
    fn listing_will_do(&self, now: Now) -> bool {
        let read_at = self.listing.as_ref().map(|(_, at)| at.saturating_add(self.policy.renew_every));
        self.exhausted > 0 && read_at.is_some_and(|until| now.running < until)
    }

    fn choose(&self, now: Now) -> Result<Option<Choice>, Refused> {
        let listing = self.listing.as_ref().map_or(&Listing::Hidden, |(listing, _)| listing);
        self.policy.terms.choose(listing, self.service_time(now))
    }

    /// An answer has shown the service's clock minus the pod's, in seconds.
    pub fn hear_clock(&mut self, now: Now, skew: i64) {
        let apart = Duration::from_secs(skew.unsigned_abs());
        let time = if skew < 0 { now.wall.minus(apart) } else { now.wall.plus(apart) };
        self.heard = Some((time, now.running));
    }

    /// The service's time, once it has answered: contracts and seats end by it, so that setting the pod's clock, also
    /// between two answers, does not change when they end.
    fn service_time(&self, now: Now) -> Timestamp {
        let since = |(time, at): (Timestamp, Duration)| time.plus(now.running.saturating_sub(at));
        self.heard.map_or_else(|| self.time(now), since)
    }

    // === calls ===

    /// What proves the license in this round; `None` where the round continues without a call.
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
            // The listing is the proof: nothing can be taken that would come back, or a checkout is still out.
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

    /// The checkout whose answer is not known, while AWS still tells it from a new one.
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

    /// It was answered, or is not asked for any more. An answer that comes too late belongs to a checkout of its own.
    fn forget_intent(&mut self, now: Now) {
        let intent = self.record.intent.take().filter(|_| self.in_doubt);
        if intent.is_some_and(|intent| self.time(now).since(intent.asked_at) >= CLIENT_TOKEN_LIFE) {
            self.notes.push(Note::AnswerLost(self.time(now).plus(self.time_to_live(None))));
        }
        self.dirty = true;
        (self.ready, self.in_doubt) = (false, false);
    }

    /// How long a checkout lasts where its answer does not say.
    fn time_to_live(&self, arn: Option<&str>) -> Duration {
        let arn = arn.or(self.known.chosen.as_deref());
        let of = |license: &&ReceivedLicense| arn.is_none_or(|arn| license.arn == arn);
        let said = self.known.licenses.iter().find(of).and_then(|license| license.time_to_live_max);
        said.unwrap_or(TIME_TO_LIVE)
    }
}

/// The code of a record that cannot be written while seats are held by it.
const NOT_KEPT: &str = "LicenseStateNotKept";

fn local(class: FaultClass, code: &'static str) -> Fault {
    Fault::local(class, code, "").at(Place::LicenseManager, None)
}

/// What a refusal tells the operator.
#[must_use]
pub fn reason_of(refused: &Refused) -> Reason {
    Reason::of_fault(&local(FaultClass::Denied, refused.why.code()).seeing(refused.seen.clone()))
}

/// A usage has at most as many dimensions as a product.
fn within_limit(mut usage: Vec<EntitlementUsage>) -> Vec<EntitlementUsage> {
    usage.truncate(tollgate_marketplace::license::ENTITLEMENTS_MAX);
    usage
}

#[cfg(test)]
pub(super) mod tests;
