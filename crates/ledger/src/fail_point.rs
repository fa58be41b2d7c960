//! Named steps at which the process can be made to die, for the kill campaign: only in builds with the feature
//! `fail-points`, which no image has.
//!
//! `FAIL_POINT=attempt-after-commit:3` ends the process, without any clean-up, when it reaches that step for the fourth
//! time.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Every step, in the order in which a unit of usage passes them.
pub const NAMES: [&str; 22] = [
    "open-before-commit",
    "open-after-commit",
    "take-before-commit",
    "take-after-commit",
    "seal-before-commit",
    "seal-after-commit",
    "defer-before-commit",
    "defer-after-commit",
    "release-before-commit",
    "release-after-commit",
    "attempt-before-commit",
    "attempt-after-commit",
    "answer-before-commit",
    "answer-after-commit",
    "age-before-commit",
    "age-after-commit",
    "claim-before-commit",
    "claim-after-commit",
    "settle-before-commit",
    "settle-after-commit",
    "replay-before-commit",
    "replay-after-commit",
];

static CHOSEN: OnceLock<(String, AtomicU64)> = OnceLock::new();

/// Chooses the step of `name:passes`; `false` where there is no such step.
#[must_use]
pub fn choose(text: &str) -> bool {
    let (name, passes) = text.split_once(':').unwrap_or((text, "0"));
    let known = NAMES.contains(&name);
    let Ok(passes) = passes.parse() else { return false };
    known && CHOSEN.set((name.to_owned(), AtomicU64::new(passes))).is_ok()
}

/// Dies here, if this is the step.
pub fn reach(name: &str) {
    debug_assert!(NAMES.contains(&name), "{name}");
    let Some((chosen, passes)) = CHOSEN.get() else { return };
    if chosen == name
        && passes.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1)).is_err()
    {
        std::process::abort();
    }
}
