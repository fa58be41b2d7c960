//! Decides whether AWS answers, and so how many records may be at risk. Pure: times are durations since the sender
//! began.
//!
//! A call without an answer leaves its records in doubt. So while it is unknown whether AWS answers, fresh records
//! are sent one at a time, each as different as possible from those that got no answer; records that are already in
//! doubt can be sent again without a risk. When several records in a row, of different dimensions and customers, get
//! no answer, the service is down: then one call at a time, with a record in doubt, is made on a schedule.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::suspects::Suspects;
use tollgate_marketplace::schedule::{self, Draw};

/// After this time without an answer it is unknown whether AWS still answers.
const IDLE_AFTER: Duration = Duration::from_secs(60);

/// After this many different records in a row without an answer the service counts as down.
const SILENT_MIN: usize = 3;

/// How many of them are remembered at most; more would not change any decision.
const SILENT_MAX: usize = 16;

/// How often a fresh record is tried during an outage: the records in doubt may all have a problem of their own.
const FRESH_EVERY: Duration = Duration::from_secs(1800);

/// The parts of a record that may be the cause of a fault.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    /// The customer, in its canonical form.
    pub customer: String,
    /// The dimension.
    pub dimension: String,
}

/// What is known about the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It answers: as many calls as the quota allows.
    Certain,
    /// Unknown: one fresh record at a time.
    Uncertain,
    /// It does not answer: one call at a time, on a schedule.
    Down,
}

/// What the latest calls have shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// When AWS last answered, if no call has failed since.
    answered_at: Option<Duration>,
    /// The records that got no answer since then.
    silent: BTreeSet<Subject>,
    silent_since: Option<Duration>,
    is_down: bool,
    /// The customers and dimensions whose records are sent alone.
    pub suspects: Suspects,
    /// During an outage: when the next call may start.
    ask_at: Duration,
    /// During an outage: when a fresh record was last tried.
    fresh_at: Duration,
}

impl Health {
    /// Whether AWS answers, as far as the latest calls show; `waiting` are the queued records. `hurried`: a shutdown,
    /// which does not start slowly.
    pub fn standing<'a>(
        &mut self,
        now: Duration,
        hurried: bool,
        waiting: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Standing {
        let standing = self.judge(now, hurried, waiting);
        self.is_down = standing == Standing::Down;
        standing
    }

    fn judge<'a>(
        &self,
        now: Duration,
        hurried: bool,
        waiting: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Standing {
        if self.silent_since.is_none() {
            let recent = self.answered_at.is_some_and(|at| now.saturating_sub(at) <= IDLE_AFTER);
            return if recent || hurried { Standing::Certain } else { Standing::Uncertain };
        }
        if self.silent.len() < SILENT_MIN {
            return Standing::Uncertain;
        }
        let enough =
            (self.distinct(|subject| &subject.customer), self.distinct(|subject| &subject.dimension));
        // One silent customer or dimension says nothing about the others, while others can be tried.
        let another = enough != (true, true)
            && waiting.into_iter().any(|(customer, dimension)| {
                (!enough.0 && self.is_new(customer, |subject| &subject.customer))
                    || (!enough.1 && self.is_new(dimension, |subject| &subject.dimension))
            });
        if another { Standing::Uncertain } else { Standing::Down }
    }

    fn distinct(&self, part: impl Fn(&Subject) -> &String) -> bool {
        self.silent.iter().map(part).collect::<BTreeSet<_>>().len() >= SILENT_MIN
    }

    fn is_new(&self, name: &str, part: impl Fn(&Subject) -> &String) -> bool {
        self.silent.iter().all(|subject| part(subject) != name)
    }

    /// How much a record has in common with those that got no answer; the one with the least is sent first.
    pub fn likeness(&self, customer: &str, dimension: &str) -> u8 {
        let same = |name: &str, part: fn(&Subject) -> &String| u8::from(!self.is_new(name, part));
        // All records of a pod's own usage have the same customer, so for them only the dimension matters.
        2 * same(customer, |subject| &subject.customer) + same(dimension, |subject| &subject.dimension)
    }

    /// During an outage: when the next call may start.
    pub const fn ask_at(&self) -> Duration {
        self.ask_at
    }

    /// During an outage: whether to try a fresh record now.
    pub fn wants_fresh(&self, now: Duration) -> bool {
        now.saturating_sub(self.fresh_at) >= FRESH_EVERY
    }

    /// A call with a record that is not in doubt starts.
    pub const fn fresh_started(&mut self, now: Duration) {
        self.fresh_at = now;
    }

    /// AWS has answered. Returns whether it counted as down before.
    pub fn answered(&mut self, now: Duration) -> bool {
        self.answered_at = Some(now);
        self.silent.clear();
        self.silent_since = None;
        std::mem::take(&mut self.is_down)
    }

    /// A call got no usable answer. `subject` is its record's, if it had only one; otherwise the cause is unknown.
    pub fn silent(&mut self, subject: Option<Subject>, now: Duration, draw: Draw) {
        self.answered_at = None;
        let waited = now - *self.silent_since.get_or_insert(now);
        self.ask_at = now + schedule::transient(waited, draw);
        if let Some(subject) = subject.filter(|_| self.silent.len() < SILENT_MAX) {
            self.silent.insert(subject);
        }
    }

    /// AWS does not accept the caller: the next call must show whether it does again.
    pub const fn unsure(&mut self) {
        self.answered_at = None;
    }

    /// Lets the next call start now, whatever the schedule says.
    pub const fn ask_now(&mut self) {
        self.ask_at = Duration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Duration = Duration::from_secs(1000);

    fn subject(customer: &str, dimension: &str) -> Option<Subject> {
        Some(Subject { customer: customer.to_owned(), dimension: dimension.to_owned() })
    }

    fn after(silent: &[(&str, &str)]) -> Health {
        let mut health = Health::default();
        health.answered(AT);
        for (customer, dimension) in silent {
            health.silent(subject(customer, dimension), AT, Draw::MIDDLE);
        }
        health
    }

    #[test]
    fn what_the_latest_calls_say_of_the_service() {
        use Standing::{Certain, Down, Uncertain};
        let none: &[(&str, &str)] = &[];
        for (silent, waiting, expected) in [
            (none, none, Certain),
            (&[("", "a")], none, Uncertain),
            (&[("", "a"), ("", "b")], &[("", "c")], Uncertain),
            (&[("", "a"), ("", "b"), ("", "c")], &[("", "d")], Down),
            // The same record again adds no evidence.
            (&[("", "a"), ("", "a"), ("", "a"), ("", "a")], none, Uncertain),
            // One silent customer of many, one silent dimension of many.
            (&[("1", "a"), ("1", "b"), ("1", "c")], &[("2", "a")], Uncertain),
            (&[("1", "a"), ("2", "a"), ("3", "a")], &[("4", "b")], Uncertain),
            (&[("1", "a"), ("2", "a"), ("3", "a")], &[("4", "a")], Down),
            (&[("1", "a"), ("1", "b"), ("1", "c")], &[("1", "d")], Down),
            (&[("1", "a"), ("2", "b"), ("3", "c")], &[("4", "d")], Down),
        ] {
            let standing = after(silent).standing(AT, false, waiting.iter().copied());
            assert_eq!(standing, expected, "{silent:?} {waiting:?}");
        }
    }

    #[test]
    fn an_idle_sender_starts_slowly_and_a_shutdown_does_not() {
        let mut health = after(&[]);
        let later = AT + IDLE_AFTER + Duration::from_millis(1);
        assert_eq!(health.standing(later, false, std::iter::empty()), Standing::Uncertain);
        assert_eq!(health.standing(later, true, std::iter::empty()), Standing::Certain);
        assert_eq!(Health::default().standing(AT, true, std::iter::empty()), Standing::Certain);
        assert_eq!(after(&[("", "a")]).standing(AT, true, std::iter::empty()), Standing::Uncertain);
    }

    #[test]
    fn the_record_that_differs_most_is_asked_about_first() {
        let health = after(&[("1", "a")]);
        let likeness = |customer, dimension| health.likeness(customer, dimension);
        assert!(likeness("2", "b") < likeness("2", "a"));
        assert!(likeness("2", "a") < likeness("1", "b"));
        assert!(likeness("1", "b") < likeness("1", "a"));
    }

    #[test]
    fn any_answer_ends_an_outage() {
        let mut health = after(&[("", "a"), ("", "b"), ("", "c")]);
        assert_eq!(health.standing(AT, false, std::iter::empty()), Standing::Down);
        assert!(health.answered(AT));
        assert_eq!(health.standing(AT, false, std::iter::empty()), Standing::Certain);
    }

    #[test]
    fn a_fresh_record_has_its_turn_every_half_hour() {
        let mut health = after(&[("", "a"), ("", "b"), ("", "c")]);
        health.fresh_started(AT);
        assert!(!health.wants_fresh(AT + FRESH_EVERY - Duration::from_secs(1)));
        assert!(health.wants_fresh(AT + FRESH_EVERY));
    }
}
