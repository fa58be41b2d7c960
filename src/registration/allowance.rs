//! How long the gate may be open without AWS's answer: the seller's grace period, and the kept receipt's age.
//!
//! Invariants:
//! - Time never goes back: it is the wall clock or, if that was set back, the latest known time plus the time for which
//!   the process has run since.
//! - What has ended stays ended until AWS answers, in this process and in the next, whatever the clock does.
//! - A restart extends neither: while one of them keeps the gate open, a time a little ahead is written to the state
//!   folder. If that cannot be written, there is no grace period, and a kept receipt opens the gate for its first day
//!   only.
//!
//! Pure: no clock, no file.

use std::time::Duration;

use super::machine::Now;
use super::memory::KEPT_RECEIPT_AGE_MAX;
use tollgate_time::Timestamp;

/// How long a kept receipt that is older than [`KEPT_RECEIPT_AGE_MAX`] opens the gate, once between two answers of
/// AWS. So a product that has run for months survives its node's reboot during an outage.
pub const OLD_RECEIPT_OPENS_FOR: Duration = Duration::from_secs(2 * 3600);

/// How far ahead time is written while the gate is open by grace or by a kept receipt. A restart may cost this much of
/// them, and the state folder is written this often.
pub const WRITTEN_AHEAD: Duration = Duration::from_secs(15);

/// What the state folder remembers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Known {
    /// When the first attempt failed, if none has succeeded since.
    pub first_failed_at: Option<Timestamp>,
    /// The grace period is over until AWS answers.
    pub grace_ended: bool,
    /// The kept receipt opens nothing more until AWS answers.
    pub receipt_ended: bool,
    /// The latest known time.
    pub latest: Option<Timestamp>,
}

impl Known {
    /// The fields whose change must be written at once; [`Known::latest`] is written when it is due.
    fn facts(self) -> (Option<Timestamp>, bool, bool) {
        (self.first_failed_at, self.grace_ended, self.receipt_ended)
    }
}

/// The grace period and the kept receipt's age, as one process counts them.
#[derive(Debug)]
pub struct Allowance {
    grace_period: Duration,
    /// When AWS issued the kept receipt.
    issued_at: Option<Timestamp>,
    known: Known,
    /// What the state folder has.
    written: Known,
    /// The latest write to the state folder succeeded.
    counted: bool,
    /// The latest known time, and [`Now::running`] then.
    anchor: (Timestamp, Duration),
}

impl Allowance {
    /// Continues from what the state folder has.
    #[must_use]
    pub fn new(grace_period: Duration, issued_at: Option<Timestamp>, known: Known, wall: Timestamp) -> Self {
        let written = known;
        let mut known = known;
        // Both are written together, and tollgate never writes this order: somebody has edited the beginning.
        let moved =
            matches!((known.first_failed_at, known.latest), (Some(first), Some(latest)) if first > latest);
        known.grace_ended |= moved;
        known.receipt_ended |= moved;
        let anchor = (known.latest.map_or(wall, |latest| latest.max(wall)), Duration::ZERO);
        Self { grace_period, issued_at, known, written, counted: true, anchor }
    }

    /// Sets the [`Now::running`] at which this begins; without it, the process's start.
    #[must_use]
    pub const fn as_of(mut self, running: Duration) -> Self {
        self.anchor.1 = running;
        self
    }

    /// The current time, which never goes back.
    #[must_use]
    pub fn time(&self, now: Now) -> Timestamp {
        let (latest, at) = self.anchor;
        now.wall.max(latest.plus(now.running.saturating_sub(at)))
    }

    /// What the state folder should have.
    #[must_use]
    pub const fn known(&self) -> Known {
        self.known
    }

    /// Takes note of the time: what has ended by now stays ended.
    pub fn pass(&mut self, now: Now) {
        let time = self.time(now);
        self.anchor = (time, now.running);
        self.known.grace_ended |= self.grace_until().is_some_and(|until| until <= time);
        self.known.receipt_ended |= self.receipt_until().is_some_and(|until| until <= time);
    }

    /// An attempt has failed.
    pub fn failed(&mut self, now: Now) {
        let time = self.time(now);
        self.known.first_failed_at.get_or_insert(time);
        self.pass(now);
    }

    /// Reports whether the latest result of [`to_write`](Self::to_write) was written.
    pub fn wrote(&mut self, done: bool) {
        self.counted = done;
        if !done {
            // Different from `known`, so that the next attempt writes again.
            self.written = Known { first_failed_at: None, ..self.known };
        }
    }

    /// The end of the grace period, if it keeps the gate open now.
    #[must_use]
    pub fn grace(&self, now: Now) -> Option<Timestamp> {
        if !self.counted {
            return None;
        }
        let time = self.time(now);
        let begun = self.known.first_failed_at.is_some_and(|first| first <= time);
        self.grace_until().filter(|until| begun && !self.known.grace_ended && time < *until)
    }

    /// Whether the kept receipt opens the gate.
    #[must_use]
    pub fn receipt(&self, now: Now) -> bool {
        let time = self.time(now);
        let issued = self.issued_at.is_some_and(|issued| issued <= time);
        issued && !self.known.receipt_ended && self.receipt_opens_until().is_some_and(|until| time < until)
    }

    fn grace_until(&self) -> Option<Timestamp> {
        let first = self.known.first_failed_at.filter(|_| !self.grace_period.is_zero());
        first.map(|first| first.plus(self.grace_period))
    }

    /// Until two hours after the receipt became a day old or after the first failed attempt, whichever is later.
    fn receipt_until(&self) -> Option<Timestamp> {
        Some(self.known.first_failed_at?.max(self.old_from()?).plus(OLD_RECEIPT_OPENS_FOR))
    }

    /// The same; but only until the receipt is a day old while the state folder cannot be written. That limit is not
    /// final.
    fn receipt_opens_until(&self) -> Option<Timestamp> {
        if self.counted { self.receipt_until() } else { self.old_from() }
    }

    fn old_from(&self) -> Option<Timestamp> {
        Some(self.issued_at?.plus(KEPT_RECEIPT_AGE_MAX))
    }

    /// What must be written to the state folder now, if anything; `open`: one of the two keeps the gate open.
    pub fn to_write(&mut self, now: Now, open: bool) -> Option<Known> {
        self.pass(now);
        let time = self.anchor.0;
        if self.known.facts() == self.written.facts() && !self.uncovered(time, open) {
            return None;
        }
        self.known.latest = Some(if open { time.plus(WRITTEN_AHEAD) } else { time });
        self.written = self.known;
        Some(self.known)
    }

    /// Whether the gate is open later than the state folder knows, so that a restart would gain time.
    fn uncovered(&self, time: Timestamp, open: bool) -> bool {
        open && self.written.latest.is_none_or(|latest| latest <= time)
    }

    /// How long until time alone changes the answers or what must be written.
    #[must_use]
    pub fn changes_in(&self, now: Now, open: bool) -> Option<Duration> {
        let time = self.time(now);
        if self.uncovered(time, open) {
            return Some(Duration::ZERO);
        }
        let write_at = self.written.latest.filter(|_| open);
        let ends = [self.grace_until(), self.receipt_opens_until(), write_at];
        ends.into_iter().flatten().filter(|at| *at > time).map(|at| at.since(time)).min()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use tollgate_marketplace::schedule::Draw;

    const WALL: Timestamp = Timestamp::from_unix_seconds(1_795_507_200);
    const HOUR: Duration = Duration::from_secs(3600);
    const SECOND: Duration = Duration::from_secs(1);

    fn at(wall: Timestamp, running: Duration) -> Now {
        Now { wall, running, draw: Draw::MIDDLE }
    }

    fn after(running: Duration) -> Now {
        at(WALL.plus(running), running)
    }

    fn fresh(issued_before: Option<Duration>) -> Allowance {
        Allowance::new(HOUR, issued_before.map(|age| WALL.minus(age)), Known::default(), WALL)
    }

    #[test]
    fn a_receipt_opens_for_its_day_and_two_hours_of_failed_attempts_more() {
        for (age, opens_for) in [
            (Duration::ZERO, 26 * HOUR),
            (23 * HOUR, 3 * HOUR),
            (24 * HOUR, 2 * HOUR),
            (5000 * HOUR, 2 * HOUR),
        ] {
            let mut allowance = fresh(Some(age));
            allowance.failed(after(Duration::ZERO));
            assert!(allowance.receipt(after(opens_for - SECOND)), "{age:?}");
            assert!(!allowance.receipt(after(opens_for)), "{age:?}");
        }
        let mut tomorrow = Allowance::new(HOUR, Some(WALL.plus(HOUR)), Known::default(), WALL);
        tomorrow.failed(after(Duration::ZERO));
        assert!(!tomorrow.receipt(after(Duration::ZERO)), "issued in the future");
    }

    /// Otherwise each restart would begin both anew, and filling the disk would keep the gate open.
    #[test]
    fn what_the_state_folder_cannot_be_told_opens_nothing_that_it_limits() {
        let mut allowance = fresh(Some(23 * HOUR));
        allowance.failed(after(Duration::ZERO));
        assert!(allowance.grace(after(SECOND)).is_some());
        assert!(allowance.to_write(after(SECOND), true).is_some());
        allowance.wrote(false);
        assert!(allowance.grace(after(SECOND)).is_none());
        assert!(allowance.receipt(after(HOUR - SECOND)) && !allowance.receipt(after(HOUR)), "its day only");
        assert!(allowance.to_write(after(2 * SECOND), false).is_some(), "written again at the next attempt");
        allowance.wrote(true);
        assert!(allowance.grace(after(3 * SECOND)).is_some() && allowance.receipt(after(HOUR)));
        assert!(allowance.to_write(after(4 * SECOND), false).is_none());
        assert_eq!(
            allowance.changes_in(after(4 * SECOND), true),
            Some(Duration::ZERO),
            "open, and not ahead"
        );
        assert!(allowance.to_write(after(4 * SECOND), true).is_some());
        assert_eq!(allowance.changes_in(after(4 * SECOND), true), Some(WRITTEN_AHEAD));
    }

    /// A node's disks are slow while it starts; one late write must not end the two hours for good.
    #[test]
    fn an_old_receipt_opens_again_once_it_can_be_counted() {
        let mut allowance = fresh(Some(100 * HOUR));
        allowance.failed(after(Duration::ZERO));
        assert!(
            allowance.receipt(after(Duration::ZERO)) && allowance.to_write(after(SECOND), true).is_some()
        );
        allowance.wrote(false);
        allowance.pass(after(SECOND));
        assert!(!allowance.receipt(after(SECOND)));
        let known = allowance.to_write(after(2 * SECOND), false).unwrap();
        assert!(!known.receipt_ended, "shut for as long as it is not counted, and not ended");
        allowance.wrote(true);
        assert!(allowance.receipt(after(2 * HOUR - SECOND)) && !allowance.receipt(after(2 * HOUR)));
    }

    #[test]
    fn a_clock_set_back_lengthens_neither_and_one_set_forward_ends_both_for_good() {
        let mut allowance = fresh(Some(24 * HOUR));
        allowance.failed(after(Duration::ZERO));
        let back = |running| at(WALL.minus(100 * HOUR), running);
        assert!(allowance.grace(back(HOUR - SECOND)).is_some());
        assert!(allowance.grace(back(HOUR)).is_none());
        assert!(allowance.receipt(back(2 * HOUR - SECOND)) && !allowance.receipt(back(2 * HOUR)));
        allowance.pass(at(WALL.plus(3 * HOUR), SECOND));
        let right = after(2 * SECOND);
        assert!(allowance.grace(right).is_none() && !allowance.receipt(right), "ended is ended");
    }

    #[test]
    fn what_ended_stays_ended_in_the_next_process_whatever_its_clock_says() {
        let mut allowance = fresh(Some(24 * HOUR));
        allowance.failed(after(Duration::ZERO));
        let known = allowance.to_write(after(3 * HOUR), false).unwrap();
        assert!(known.grace_ended && known.receipt_ended);
        for known in [known, Known { latest: None, ..known }, Known { first_failed_at: Some(WALL), ..known }]
        {
            let mut next = Allowance::new(HOUR, Some(WALL.minus(24 * HOUR)), known, WALL);
            next.failed(after(Duration::ZERO));
            assert!(next.grace(after(SECOND)).is_none() && !next.receipt(after(SECOND)), "{known:?}");
        }
    }

    /// Moving `first_failed_at` by hand must not reopen grace.
    #[test]
    fn a_beginning_that_was_moved_ends_both() {
        let known =
            Known { first_failed_at: Some(WALL), latest: Some(WALL.minus(SECOND)), ..Known::default() };
        let mut allowance = Allowance::new(HOUR, Some(WALL.minus(HOUR)), known, WALL);
        allowance.failed(after(Duration::ZERO));
        assert!(allowance.grace(after(SECOND)).is_none() && !allowance.receipt(after(SECOND)));
    }

    /// With a stopped clock and a process that is killed again and again, each run uses up at least the time that it
    /// was open.
    #[test]
    fn restarts_under_a_clock_that_stands_still_use_the_allowance_up() {
        let mut known = Known::default();
        let mut opened = Duration::ZERO;
        for _ in 0..10_000 {
            let mut allowance = Allowance::new(HOUR, None, known, WALL);
            allowance.failed(at(WALL, Duration::ZERO));
            if allowance.grace(at(WALL, Duration::ZERO)).is_none() {
                assert!(opened <= HOUR, "{opened:?}");
                return;
            }
            known = allowance.to_write(at(WALL, Duration::ZERO), true).unwrap();
            assert_eq!(allowance.changes_in(at(WALL, Duration::ZERO), true), Some(WRITTEN_AHEAD));
            opened += WRITTEN_AHEAD - SECOND;
        }
        panic!("open for ever");
    }

    #[test]
    fn time_is_written_when_it_is_used_up_and_not_before() {
        let mut allowance = fresh(None);
        allowance.failed(after(Duration::ZERO));
        assert!(allowance.to_write(after(Duration::ZERO), true).is_some());
        assert_eq!(allowance.to_write(after(WRITTEN_AHEAD - SECOND), true), None);
        let known = allowance.to_write(after(WRITTEN_AHEAD), true).unwrap();
        assert_eq!(known.latest, Some(WALL.plus(2 * WRITTEN_AHEAD)));
    }

    proptest! {
        /// However the wall clock jumps, grace lasts at most its period of running time.
        #[test]
        fn grace_never_lasts_longer_than_its_period(jumps in prop::collection::vec((0..600u64, -9_000_000i64..9_000_000), 0..60)) {
            let mut allowance = fresh(None);
            allowance.failed(after(Duration::ZERO));
            let mut running = Duration::ZERO;
            let mut closed = false;
            for (seconds, offset) in jumps {
                running += Duration::from_secs(seconds);
                let wall = Timestamp::from_unix_seconds(WALL.unix_seconds() + offset);
                let now = at(wall, running);
                allowance.pass(now);
                let open = allowance.grace(now).is_some();
                prop_assert!(!open || (!closed && running < HOUR));
                closed |= !open;
            }
        }
    }
}
