//! The outcome of a round: whether the gate opens or shuts, and when the next round is due.

use super::{
    Allowance, Arc, Awaiting, Contract, Duration, Fault, FaultClass, Granted, GrantedRound, Known, Machine,
    Model, NOT_KEPT, Next, Now, Proof, Reason, Record, Refusal, Refused, Run, SECOND_TRY, Step, Verdict,
    local, reason_of, schedule,
};

impl Machine {
    /// Counts this pod's grace from now.
    pub(super) fn begin_grace(&mut self, now: Now) {
        let begun = Known { first_failed_at: Some(now.wall), latest: Some(now.wall), ..Known::default() };
        let allowance = Allowance::new(self.policy.grace_period, None, begun, now.wall);
        self.allowance = Some(allowance.as_of(now.running));
        self.dirty = true;
    }

    pub(super) fn grant(&mut self, now: Now, granted: &Granted) {
        self.begin_grace(now);
        self.open(now, granted);
    }

    pub(super) fn open(&mut self, now: Now, granted: &Granted) {
        let proof = Proof::License(Contract::of(granted.arn(), self.known.emulated));
        self.verdict = Verdict::Granted(Arc::new(proof), granted.note().as_ref().map(reason_of));
        self.known.chosen = granted.arn().map(ToOwned::to_owned);
        self.known.granted_at = Some(now.wall);
        self.calm(now);
        self.exhausted = 0;
        self.tried_clock_offset = false;
        let left = self.record.seat.as_ref().map(|seat| seat.expires.since(self.service_time(now)));
        self.rest(now, schedule::renewal(self.policy.renew_every, left, now.draw));
    }

    pub(super) fn refuse(&mut self, now: Now, refused: Refused) {
        self.give_back(now);
        self.allowance = None;
        self.dirty = true;
        self.calm(now);
        let pause = match refused.why {
            Refusal::Exhausted => {
                self.exhausted = self.exhausted.saturating_add(1);
                if self.exhausted == 1 { SECOND_TRY } else { schedule::exhausted(now.draw) }
            }
            _ => schedule::refused(now.draw),
        };
        if refused.why != Refusal::Exhausted {
            self.exhausted = 0;
        }
        self.verdict = Verdict::Refused(refused);
        self.rest(now, pause);
        // At the first refusal another pod may be about to give its seats back.
        if self.exhausted != 1 {
            self.leave_if_refused(now);
        }
    }

    /// AWS rejects the request itself.
    pub(super) fn reject(&mut self, now: Now, fault: &Fault) {
        self.allowance = None;
        self.dirty = true;
        self.calm(now);
        self.exhausted = 0;
        self.verdict = Verdict::Rejected(Reason::of_fault(fault));
        self.rest(now, schedule::refused(now.draw));
        self.leave_if_refused(now);
    }

    /// AWS did not answer, or does not accept the caller.
    pub(super) fn fault(&mut self, now: Now, fault: &Fault) {
        self.missed = None;
        if matches!(fault.class, FaultClass::Denied | FaultClass::Misconfigured) {
            return self.reject(now, fault);
        }
        let access = fault.class == FaultClass::Access;
        self.failing_since.get_or_insert(now.running);
        self.reload_credentials = fault.class != FaultClass::Transient;
        let run = self.count(now, self.reload_credentials);
        let stands =
            matches!(self.verdict, Verdict::Refused(_) | Verdict::Rejected(_) | Verdict::Emulated(_));
        if access || !stands {
            self.verdict = Verdict::Failing { access, reason: Reason::of_fault(fault) };
        }
        let waited = now.running.saturating_sub(run.since);
        let skewed = fault.clock_is_off() && !std::mem::replace(&mut self.tried_clock_offset, true);
        let pause = if skewed || (fault.class == FaultClass::ExpiredSession && run.faults == 1) {
            Duration::ZERO
        } else if self.grace(now).is_some() {
            let left = self.record.seat.as_ref().map(|seat| seat.expires.since(self.service_time(now)) / 2);
            let soon = schedule::transient(waited, now.draw);
            let calm = schedule::while_open(waited, now.draw);
            left.map_or(calm, |left| calm.min(left.max(soon)))
        } else if self.reload_credentials {
            schedule::access(run.faults, now.draw)
        } else {
            schedule::transient(waited, now.draw)
        };
        self.rest(now, pause);
        if self.overdue(now) && self.grace(now).is_none() {
            self.leave_if_refused(now);
        }
    }

    /// Ends the run of consecutive faults.
    pub(super) const fn calm(&mut self, now: Now) {
        self.failing_since = None;
        self.run = Run { access: false, faults: 0, since: now.running };
    }

    pub(super) fn count(&mut self, now: Now, access: bool) -> Run {
        if self.run.access != access || self.run.faults == 0 {
            self.run = Run { access, faults: 0, since: now.running };
        }
        self.run.faults = self.run.faults.saturating_add(1);
        self.run
    }

    /// Ends the round, except for giving seats back; the next round comes after `pause`.
    pub(super) fn rest(&mut self, now: Now, pause: Duration) {
        self.round_at = now.running.saturating_add(pause);
        self.round_wall = now.wall.plus(pause);
        self.step = Step::Return;
    }

    pub(super) fn leave_if_refused(&mut self, now: Now) {
        if self.policy.exit_when_refused && !(self.policy.stays_once_open && self.shown.has_opened) {
            self.leaving = Some(self.standing(now).exit());
        }
    }

    /// How to wait; `None` if the next round is due now.
    pub(super) fn sleep(&mut self, now: Now) -> Option<Next> {
        let left = !self.record.give_back.is_empty();
        if self.stopping && !left && !self.in_doubt {
            return Some(Next::Stopped);
        }
        if let Some(exit) = self.leaving.take().filter(|_| !self.stopping) {
            return Some(Next::Leave(exit));
        }
        let round = (!self.stopping || self.in_doubt).then_some(self.round_at);
        let at = round.into_iter().chain(left.then_some(self.give_back_at)).min().unwrap_or(now.running);
        let pause = at.saturating_sub(now.running);
        (self.stopping || !pause.is_zero()).then_some(Next::WakeIn(pause))
    }

    // === the state folder ===

    /// The record to write to the state folder.
    pub(super) fn image(&mut self, now: Now) -> Record {
        let open = self.open_by_grace(now);
        self.record.granted = self.allowance.as_mut().and_then(|allowance| {
            let due = allowance.to_write(now, open);
            GrantedRound::of(due.unwrap_or(allowance.known()))
        });
        self.record.clone()
    }

    /// The record to write because time alone has changed it, which happens during grace. Call this whenever
    /// [`Machine::changes_in`] has passed, and then report whether it was [written](Machine::remembered).
    pub fn remember(&mut self, now: Now) -> Option<Record> {
        if !matches!(self.verdict, Verdict::Failing { .. }) {
            return None;
        }
        let open = self.open_by_grace(now);
        let allowance = self.allowance.as_mut()?;
        let known = allowance.to_write(now, open)?;
        self.record.granted = GrantedRound::of(known);
        Some(self.record.clone())
    }

    /// Reports whether the latest record was written.
    pub fn remembered(&mut self, done: bool) {
        self.unsaved = !done;
        if let Some(allowance) = &mut self.allowance {
            allowance.wrote(done);
        }
    }

    pub(super) fn written(&mut self, now: Now, done: bool) {
        self.remembered(done);
        match std::mem::replace(&mut self.awaiting, Awaiting::Nothing) {
            Awaiting::Nothing => {}
            Awaiting::Intent if done || self.policy.terms.model == Model::Check => self.ready = true,
            Awaiting::Seat(granted) if done => self.open(now, &granted),
            Awaiting::Intent => {
                self.record.intent = None;
                self.fault(now, &local(FaultClass::Transient, NOT_KEPT));
            }
            Awaiting::Seat(_) => {
                self.allowance = None;
                self.give_back(now);
                self.fault(now, &local(FaultClass::Transient, NOT_KEPT));
            }
        }
    }
}
