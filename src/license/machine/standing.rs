//! The published state, and what is known about the license.

use super::{
    Arc, Blame, Duration, Entitlement, HeldSeats, Knowledge, Machine, Now, Rejected, Standing, Timestamp,
    Verdict, reason_of,
};

impl Machine {
    pub(super) fn grace(&self, now: Now) -> Option<Timestamp> {
        self.allowance.as_ref().and_then(|allowance| allowance.grace(now))
    }

    pub(super) fn open_by_grace(&self, now: Now) -> bool {
        matches!(self.verdict, Verdict::Failing { .. }) && self.grace(now).is_some()
    }

    pub(super) fn overdue(&self, now: Now) -> bool {
        let waited = self.failing_since.map(|since| now.running.saturating_sub(since));
        waited.is_some_and(|waited| waited >= self.policy.unavailable_after)
    }

    /// The standing at `now`.
    #[must_use]
    pub fn standing(&self, now: Now) -> Standing {
        match &self.verdict {
            Verdict::Unanswered => Standing::Pending(None),
            Verdict::Granted(proof, reason) => Standing::Entitled(Arc::clone(proof), reason.clone()),
            Verdict::Refused(refused) => match refused.why.blame() {
                Blame::Denied => Standing::Denied(reason_of(refused)),
                Blame::Misconfigured => Standing::Misconfigured(Rejected::Question, reason_of(refused)),
                Blame::Exhausted => Standing::Exhausted(reason_of(refused)),
            },
            Verdict::Rejected(reason) => Standing::Misconfigured(Rejected::Question, reason.clone()),
            Verdict::Emulated(reason) => Standing::Unverified(reason.clone()),
            Verdict::Failing { access, reason } => match self.grace(now) {
                Some(until) => Standing::Grace(reason.clone(), until),
                None if *access => Standing::Misconfigured(Rejected::Asker, reason.clone()),
                None if self.overdue(now) => Standing::Unavailable(reason.clone()),
                None => Standing::Pending(Some(reason.clone())),
            },
        }
    }

    /// The fact to publish at `now`, without the region, which only the shell knows. Call this after each step and
    /// whenever [`Machine::changes_in`] has passed.
    pub fn entitlement(&mut self, now: Now) -> Entitlement {
        if let Some(allowance) = &mut self.allowance {
            allowance.pass(now);
        }
        let standing = self.standing(now);
        Entitlement {
            attempts: self.attempts,
            next_attempt_at: self.next_attempt_at,
            emulated: self.known.emulated,
            ..self.shown.show(standing, now.wall)
        }
    }

    /// How long until time alone may change the standing; a jump of the wall clock may change it earlier.
    #[must_use]
    pub fn changes_in(&self, now: Now) -> Option<Duration> {
        if !matches!(self.verdict, Verdict::Failing { .. }) {
            return None;
        }
        let open = self.open_by_grace(now);
        let by_time = self.allowance.as_ref().and_then(|allowance| allowance.changes_in(now, open));
        let overdue = self.failing_since.map(|since| since.saturating_add(self.policy.unavailable_after));
        let by_running = overdue.and_then(|at| at.checked_sub(now.running)).filter(|left| !left.is_zero());
        by_time.into_iter().chain(by_running).min()
    }

    /// What is known of the license, for display.
    #[must_use]
    pub fn knowledge(&self) -> Knowledge {
        let held = self.record.seat.iter().flat_map(|seat| {
            seat.taken.iter().map(|taken| HeldSeats {
                name: taken.name.clone(),
                unit: taken.unit.clone(),
                quantity: taken.value.unwrap_or(1),
                expires: seat.expires,
                renewed: seat.renewed,
            })
        });
        Knowledge { held: held.collect(), ..self.known.clone() }
    }
}
