//! Decides what `tollgate await` prints, and when it ends. Pure.
//!
//! - A reason is printed when it changes: its code, its message (such as the host that fails), or its remedy.
//! - With `--refused-after` a refusal that reaches that age ends the wait. If the refusal is already older when the
//!   wait begins, this container was restarted because of it, and the wait continues: there is one restart, and no
//!   loop. Nothing else ends the wait here; `--timeout` is the caller's.

use std::time::Duration;

use crate::cli::probe::Shut;
use crate::exit::Exit;

/// A wait for the gate.
#[derive(Debug)]
pub(super) struct Waiting {
    patience: Patience,
    /// The latest answer, if there was one.
    pub(super) latest: Option<Shut>,
}

/// Whether a refusal ends the wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// No refusal ends it.
    Endless,
    /// No refusal was seen yet; one that is seen younger than this ends the wait at this age.
    Until(Duration),
    /// A younger refusal was seen: a refusal of this age ends the wait.
    Ending(Duration),
}

/// What to do about an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Ask again.
    Wait,
    /// Print the line, then ask again.
    Say,
    /// Give up.
    End(Exit),
}

/// The pause before the next question, in a wait that has lasted `waited`. At first it is short, since it delays the
/// application's start. It grows in a long wait, since each question costs the sidecar as much as a probe. It stays at
/// most half a second, because the kubelet needs most of a second to start the application: both together must not
/// take more than 1.2 s.
pub(super) fn pause(waited: Duration) -> Duration {
    (waited / 40).clamp(Duration::from_millis(250), Duration::from_millis(500))
}

impl Waiting {
    pub(super) fn new(refused_after: Option<Duration>) -> Self {
        let patience = refused_after.map_or(Patience::Endless, Patience::Until);
        Self { patience, latest: None }
    }

    /// Decides about an answer that does not count as open.
    pub(super) fn hear(&mut self, shut: Shut) -> Step {
        let changed = self.latest.as_ref().is_none_or(|latest| latest.reason != shut.reason);
        let refusal = shut.refusal;
        self.latest = Some(shut);
        if let Some(refusal) = refusal {
            self.patience = match self.patience {
                Patience::Until(after) if refusal.age >= after => Patience::Endless,
                Patience::Until(after) => Patience::Ending(after),
                Patience::Ending(after) if refusal.age >= after => return Step::End(refusal.exit),
                patience => patience,
            };
        }
        if changed { Step::Say } else { Step::Wait }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::probe::{Refusal, ShownReason};

    /// An answer; with an age in seconds it is a refusal.
    fn heard(code: &str, age: Option<u64>) -> Shut {
        let refusal = age.map(|age| Refusal { exit: Exit::NotEntitled, age: Duration::from_secs(age) });
        let reason = Some(ShownReason::new(code, "", ""));
        Shut { reason, line: format!("{code}: …"), refusal }
    }

    fn steps(refused_after: Option<u64>, story: &[(&str, Option<u64>)]) -> Vec<Step> {
        let mut waiting = Waiting::new(refused_after.map(Duration::from_secs));
        story.iter().map(|&(code, age)| waiting.hear(heard(code, age))).collect()
    }

    const ENDED: Step = Step::End(Exit::NotEntitled);

    #[test]
    fn a_reason_is_said_once_until_its_code_changes() {
        let story = [("A", None), ("A", None), ("B", Some(0)), ("B", Some(9)), ("A", None)];
        assert_eq!(steps(None, &story), [Step::Say, Step::Wait, Step::Say, Step::Wait, Step::Say]);
    }

    #[test]
    fn the_same_code_elsewhere_is_said_and_the_time_of_the_next_try_is_not() {
        let timeout = |host: &str, next: u32| Shut {
            reason: Some(ShownReason::new("Timeout", &format!("STS at {host} did not answer in time."), "")),
            line: format!("pending: Timeout: next try {next}"),
            refusal: None,
        };
        let mut waiting = Waiting::new(None);
        let said = [timeout("a", 1), timeout("a", 2), timeout("b", 3), timeout("b", 4)]
            .map(|shut| waiting.hear(shut));
        assert_eq!(said, [Step::Say, Step::Wait, Step::Say, Step::Wait]);
    }

    #[test]
    fn a_refusal_that_is_heard_young_ends_the_wait_at_its_age() {
        let story = [("Pending", None), ("Refused", Some(0)), ("Refused", Some(29)), ("Refused", Some(30))];
        assert_eq!(steps(Some(30), &story), [Step::Say, Step::Say, Step::Wait, ENDED]);
        // Also with another code, and although the sidecar did not answer for a while.
        let story = [("Refused", Some(29)), ("Unreachable", None), ("Another", Some(40))];
        assert_eq!(steps(Some(30), &story), [Step::Say, Step::Say, ENDED]);
    }

    #[test]
    fn a_refusal_that_is_older_already_never_ends_the_wait() {
        let story = [
            ("Refused", Some(30)),
            ("Refused", Some(31)),
            ("Pending", None),
            ("Refused", Some(0)),
            ("Refused", Some(60)),
        ];
        assert_eq!(steps(Some(30), &story), [Step::Say, Step::Wait, Step::Say, Step::Say, Step::Wait]);
    }

    #[test]
    fn a_change_to_another_refusal_begins_its_age_anew() {
        let story = [("A", Some(29)), ("B", Some(0)), ("B", Some(29)), ("B", Some(30))];
        assert_eq!(steps(Some(30), &story), [Step::Say, Step::Say, Step::Wait, ENDED]);
    }

    #[test]
    fn a_long_wait_asks_half_as_often_as_a_start() {
        for (waited, expected) in [(0, 250), (10_000, 250), (16_000, 400), (20_000, 500), (86_400_000, 500)] {
            let waited = Duration::from_millis(waited);
            assert_eq!(pause(waited), Duration::from_millis(expected), "{waited:?}");
        }
    }

    #[test]
    fn waiting_itself_ends_nothing_and_without_the_flag_no_refusal_does() {
        assert_eq!(steps(Some(30), &[("Pending", None), ("Pending", None)]), [Step::Say, Step::Wait]);
        let story = [("Refused", Some(0)), ("Refused", Some(86_400))];
        assert_eq!(steps(None, &story), [Step::Say, Step::Wait]);
    }
}
