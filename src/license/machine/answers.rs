//! What License Manager's answers change: seats, calls in doubt, and the course of the round.

use super::{
    Answer, Awaiting, CheckedIn, CheckedOut, ConsumptionToken, Duration, Extended, Fault, FaultClass, Kind,
    Listing, Machine, Note, Now, Place, ReceivedLicenses, Refusal, Seat, Step, Verdict, exceptions, local,
    schedule, within_limit,
};

impl Machine {
    pub(super) fn answered(&mut self, now: Now, answer: Answer) {
        match answer {
            Answer::Listed(answer) => self.listed(now, answer),
            Answer::CheckedOut(Ok(answer)) => self.checked_out(now, &answer),
            Answer::CheckedOut(Err(fault)) => self.not_checked_out(now, &fault),
            Answer::Extended(answer) => self.extended(now, answer),
            Answer::CheckedIn(answer) => self.checked_in(now, answer),
            // Only shown to people; it decides nothing.
            Answer::Looked(Ok(usage)) => self.known.usage = within_limit(usage.entitlements),
            Answer::Looked(Err(_)) => {}
            Answer::Emulated(reason) => {
                self.allowance = None;
                self.dirty = true;
                self.verdict = Verdict::Emulated(reason);
                let run = self.count(now, false);
                self.rest(now, schedule::unverified(now.running.saturating_sub(run.since), now.draw));
                self.leave_if_refused(now);
            }
        }
    }

    pub(super) fn listed(&mut self, now: Now, answer: Result<ReceivedLicenses, Fault>) {
        self.step = Step::Prove;
        match answer {
            Ok(answer) => {
                self.known.emulated |= answer.emulated;
                self.known.licenses.clone_from(&answer.licenses);
                self.known.known_at = Some(self.time(now));
                self.listing = Some((Listing::Shown(answer.licenses), now.running));
                self.look = true;
            }
            // The role may lack the permission for this call and have it for the others.
            Err(fault) if self.forbids_the_look(now, &fault) => {
                self.listing = Some((Listing::Hidden, now.running));
                self.hidden = Some(fault);
            }
            // Held seats must be renewed even if the listing fails.
            Err(fault) => self.missed = Some(fault),
        }
    }

    pub(super) fn forbids_the_look(&self, now: Now, fault: &Fault) -> bool {
        let forbidden = fault.class == FaultClass::Access && fault.place == Place::LicenseManager;
        let shown_before = matches!(&self.listing, Some((Listing::Shown(_), _)));
        // During grace a refusal may be temporary, so the earlier listing still counts.
        let granted = shown_before && self.grace(now).is_some();
        forbidden && !fault.never_sent && !fault.clock_is_off() && !granted
    }

    pub(super) fn checked_out(&mut self, now: Now, answer: &CheckedOut) {
        let Some(intent) = self.record.intent.clone() else { return };
        self.forget_intent(now);
        self.known.emulated |= answer.emulated;
        let time = self.service_time(now);
        let ends = time.plus(self.time_to_live(answer.license_arn.as_deref()));
        let expires = answer.expiration.unwrap_or(ends);
        let seat = Seat { token: answer.token.clone(), taken: intent.taken, expires, renewed: time };
        let choice = self.choose(now).ok().flatten().filter(|choice| choice.take == seat.taken);
        let Some(choice) = choice.filter(|_| !intent.foreign && !self.stopping) else {
            // The checkout was another pod's, or is no longer what is wanted: give it back, then start the round again.
            self.record.give_back.push(seat);
            self.step = if self.stopping { Step::Return } else { Step::ReturnFirst };
            return;
        };
        match choice.granted(answer) {
            Err(refused) => {
                self.record.give_back.push(seat);
                self.refuse(now, refused);
            }
            Ok(granted) if choice.holds => {
                let before = self.record.seat.replace(seat);
                self.record.give_back.extend(before);
                self.begin_grace(now);
                self.awaiting = Awaiting::Seat(granted);
            }
            Ok(granted) => {
                self.record.give_back.push(seat);
                self.grant(now, &granted);
            }
        }
    }

    pub(super) fn not_checked_out(&mut self, now: Now, fault: &Fault) {
        if !matches!(fault.class, FaultClass::Denied | FaultClass::Misconfigured) {
            let throttled = exceptions::kind(fault.code.as_str()) == Some(Kind::Throttled);
            self.in_doubt |= !fault.never_sent && !throttled && fault.class == FaultClass::Transient;
            return self.fault(now, fault);
        }
        let asked = self.record.intent.as_ref().map(|intent| (intent.taken.clone(), intent.foreign));
        self.forget_intent(now);
        if fault.class == FaultClass::Misconfigured {
            return self.reject(now, fault);
        }
        let choice = match self.choose(now) {
            Ok(Some(choice)) => choice,
            Ok(None) => return self.reject(now, fault),
            Err(refused) => return self.refuse(now, refused),
        };
        if asked.is_none_or(|(taken, foreign)| foreign || taken != choice.take) {
            // The checkout was another pod's, or an earlier process asked for something else.
            self.step = Step::Prove;
            return;
        }
        match choice.without_checkout() {
            Ok(granted) => self.grant(now, &granted),
            // More seats are wanted than are held, and all others are taken: renew the held ones.
            Err(refused) if refused.why == Refusal::Exhausted && self.record.seat.is_some() => {
                self.keep_smaller = true;
                self.step = Step::Prove;
            }
            // The missing seats may be those that this pod could not give back yet.
            Err(refused) if refused.why == Refusal::Exhausted && !self.record.give_back.is_empty() => {
                let fault = self.give_back_fault.clone();
                self.fault(now, &fault.unwrap_or_else(|| local(FaultClass::Transient, "Timeout")));
            }
            Err(refused) => self.refuse(now, refused),
        }
    }

    pub(super) fn extended(&mut self, now: Now, answer: Result<Extended, Fault>) {
        let missed = self.missed.take();
        match answer {
            Ok(answer) => {
                self.known.emulated |= answer.emulated;
                let time = self.service_time(now);
                let ends = time.plus(self.time_to_live(None));
                if let Some(seat) = &mut self.record.seat {
                    seat.token = answer.token;
                    seat.expires = answer.expiration.unwrap_or(ends);
                    seat.renewed = time;
                    self.dirty = true;
                }
                match (missed, self.choose(now)) {
                    (Some(missed), _) => self.fault(now, &missed),
                    (None, Ok(Some(choice))) => self.grant(now, &choice.kept()),
                    // The license no longer fits, for example because it has ended meanwhile.
                    (None, _) => self.step = Step::Prove,
                }
            }
            Err(fault) if exceptions::kind(fault.code.as_str()) == Some(Kind::NotFound) => {
                self.record.seat = None;
                self.dirty = true;
                self.step = Step::Prove;
                self.missed = missed;
            }
            Err(fault) => self.fault(now, &missed.unwrap_or(fault)),
        }
    }

    // === giving seats back ===

    /// Marks the held seats to be given back.
    pub(super) fn give_back(&mut self, now: Now) {
        if let Some(seat) = self.record.seat.take() {
            self.record.give_back.push(seat);
            self.dirty = true;
            self.give_back_at = now.running;
        }
    }

    pub(super) fn next_to_give_back(&mut self, now: Now) -> Option<ConsumptionToken> {
        // Until an answer has shown AWS's time, only the pod's clock says that a seat has expired; so AWS is asked.
        if self.heard.is_some() {
            let time = self.service_time(now);
            let before = self.record.give_back.len();
            self.record.give_back.retain(|seat| seat.may_be_held(time));
            self.dirty |= before != self.record.give_back.len();
        }
        if self.record.give_back.is_empty() {
            self.give_back_since = None;
            self.give_back_at = now.running;
        }
        let due = self.give_back_at <= now.running;
        self.record.give_back.first().filter(|_| due && !self.dirty).map(|seat| seat.token.clone())
    }

    pub(super) fn checked_in(&mut self, now: Now, answer: Result<CheckedIn, Fault>) {
        let Some(seat) = self.record.give_back.first() else { return };
        let expires = seat.expires;
        let fault = match answer {
            Ok(answer) => {
                self.known.emulated |= answer.emulated;
                return self.returned(now);
            }
            Err(fault) => fault,
        };
        match (exceptions::kind(fault.code.as_str()), fault.class) {
            (Some(Kind::NotFound), _) => self.returned(now),
            (Some(Kind::Conflict), _) => {
                self.returned(now);
                self.look = true;
            }
            (_, FaultClass::Denied | FaultClass::Misconfigured) => {
                self.notes.push(Note::NotGivenBack(fault.code, expires));
                self.returned(now);
            }
            _ => {
                let since = *self.give_back_since.get_or_insert(now.running);
                if since == now.running {
                    self.notes.push(Note::NotGivenBack(fault.code.clone(), expires));
                }
                self.reload_credentials |= fault.class != FaultClass::Transient;
                self.give_back_fault = Some(fault);
                let waited = now.running.saturating_sub(since);
                self.give_back_at = now.running.saturating_add(schedule::transient(waited, now.draw));
            }
        }
    }

    pub(super) fn returned(&mut self, now: Now) {
        self.record.give_back.remove(0);
        self.dirty = true;
        self.give_back_since = None;
        self.give_back_at = now.running;
    }

    /// The seats that are not given back.
    pub fn left(&self) -> impl Iterator<Item = &Seat> {
        self.record.seat.iter().chain(&self.record.give_back)
    }

    /// Why the latest try to give seats back failed, if they are still not given back.
    pub fn not_given_back(&self) -> Option<&Fault> {
        self.give_back_fault.as_ref().filter(|_| self.give_back_since.is_some())
    }

    /// Whether AWS may have processed a checkout whose answer is unknown.
    #[must_use]
    pub const fn in_doubt(&self) -> bool {
        self.in_doubt
    }

    pub(super) fn stop(&mut self) {
        if !std::mem::replace(&mut self.stopping, true) {
            self.leaving = None;
            // The state folder may still have it as held: if this process is killed, the next one asks AWS about it.
            self.record.give_back.extend(self.record.seat.take());
            self.give_back_at = Duration::ZERO;
            // There is little time, so begin again with the shortest pause.
            self.give_back_since = None;
            self.step = Step::Prove;
        }
    }
}
