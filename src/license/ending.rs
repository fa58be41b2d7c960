//! Decides when to log that the contract ends: 14 and 3 days before, at its end, and once a day after that until
//! `license_end_grace` has passed. From then on the gate's reason says so.
//!
//! Pure: time is an argument. Each process logs each stage once.

use std::time::Duration;

use tollgate_time::Timestamp;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Long enough to have a renewal signed; the alert `TollgateLicenseEnding` uses the same time.
const FIRST: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// The last warning before the end.
const SECOND: Duration = Duration::from_secs(3 * 24 * 60 * 60);

/// What to log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// How much time is left.
    Ends(Duration),
    /// How long ago it ended; the gate is open only for `license_end_grace`.
    Ended(Duration),
}

/// How near the contract's end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// More than [`FIRST`] before the end.
    Early,
    /// Less than [`FIRST`] before the end.
    First,
    /// Less than [`SECOND`] before the end.
    Second,
    /// This number of whole days after the end.
    After(u64),
    /// `license_end_grace` has passed.
    Over,
}

/// The latest stage that was reported, and of which end.
#[derive(Debug)]
pub struct Ending {
    grace: Duration,
    told: Option<(Timestamp, Stage)>,
}

impl Ending {
    /// `grace`: how long after its end a license still opens the gate.
    #[must_use]
    pub const fn new(grace: Duration) -> Self {
        Self { grace, told: None }
    }

    /// What to log now about a contract that ends at `end`, and when to check again if nothing else happens.
    pub fn due(&mut self, end: Option<Timestamp>, now: Timestamp) -> (Option<Notice>, Option<Timestamp>) {
        let Some(end) = end else { return (None, None) };
        let (stage, next) = self.stage(end, now);
        let known = self.told.replace((end, stage)) == Some((end, stage));
        let notice = match stage {
            _ if known => None,
            Stage::Early | Stage::Over => None,
            Stage::First | Stage::Second => Some(Notice::Ends(end.since(now))),
            Stage::After(_) => Some(Notice::Ended(now.since(end))),
        };
        (notice, next)
    }

    fn stage(&self, end: Timestamp, now: Timestamp) -> (Stage, Option<Timestamp>) {
        if now < end {
            let (first, second) = (end.minus(FIRST), end.minus(SECOND));
            return if now < first {
                (Stage::Early, Some(first))
            } else if now < second {
                (Stage::First, Some(second))
            } else {
                (Stage::Second, Some(end))
            };
        }
        let over = end.plus(self.grace);
        if now >= over {
            return (Stage::Over, None);
        }
        let days = now.since(end).as_secs() / DAY.as_secs();
        let next = end.plus(Duration::from_secs(days.saturating_add(1).saturating_mul(DAY.as_secs())));
        (Stage::After(days), Some(next.min(over)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3600;

    fn at(hours_from_end: i64) -> Timestamp {
        Timestamp::from_unix_seconds(1_800_000_000 + hours_from_end * HOUR)
    }

    fn hours(hours: u64) -> Duration {
        Duration::from_secs(hours * 3600)
    }

    #[test]
    fn each_stage_is_told_once_and_the_next_look_is_at_the_next_one() {
        let mut ending = Ending::new(hours(72));
        for (now, notice, next) in [
            (-1000, None, Some(-336)),
            (-337, None, Some(-336)),
            (-336, Some(Notice::Ends(hours(336))), Some(-72)),
            (-335, None, Some(-72)),
            (-72, Some(Notice::Ends(hours(72))), Some(0)),
            (-1, None, Some(0)),
            (0, Some(Notice::Ended(hours(0))), Some(24)),
            (23, None, Some(24)),
            (24, Some(Notice::Ended(hours(24))), Some(48)),
            (49, Some(Notice::Ended(hours(49))), Some(72)),
            (72, None, None),
            (500, None, None),
        ] {
            assert_eq!(ending.due(Some(at(0)), at(now)), (notice, next.map(at)), "{now}");
        }
    }

    #[test]
    fn a_process_that_starts_late_tells_the_present_stage_alone() {
        assert_eq!(Ending::new(hours(72)).due(Some(at(0)), at(-10)).0, Some(Notice::Ends(hours(10))));
        assert_eq!(Ending::new(hours(72)).due(Some(at(0)), at(30)).0, Some(Notice::Ended(hours(30))));
        assert_eq!(Ending::new(hours(72)).due(Some(at(0)), at(73)).0, None);
        assert_eq!(Ending::new(hours(0)).due(Some(at(0)), at(0)), (None, None));
        assert_eq!(Ending::new(hours(72)).due(None, at(0)), (None, None));
    }

    #[test]
    fn a_renewed_contract_is_told_anew_when_its_own_end_comes_near() {
        let mut ending = Ending::new(hours(72));
        assert!(ending.due(Some(at(0)), at(-10)).0.is_some());
        assert_eq!(ending.due(Some(at(9000)), at(-9)), (None, Some(at(9000 - 336))));
        assert_eq!(ending.due(Some(at(9000)), at(8990)).0, Some(Notice::Ends(hours(10))));
    }
}
