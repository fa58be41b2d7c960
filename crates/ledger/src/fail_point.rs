//! Named steps at which the kill campaign can end the process: only in builds with the feature `fail-points`, which no
//! image has. In this crate's own tests they only check that each transaction has a name in the list.
//!
//! `FAIL_POINT=attempt-after-commit:3` ends the process, without any clean-up, when it reaches that step for the fourth
//! time.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Every transaction, in the order in which usage passes them, then those of repairs and upgrades. Each has a step
/// before its commit and one after it.
const TRANSACTIONS: [&str; 18] = [
    "open",
    "upgrade",
    "take",
    "seal",
    "defer",
    "release",
    "attempt",
    "answer",
    "age",
    "claim",
    "settle",
    "replay",
    "confirm",
    "discard",
    "identify",
    "move",
    "lifecycle",
    "flush",
];

/// Steps of a contract's license; the sidecar's own loop reaches them.
const LICENSE: [&str; 4] = ["before-checkout", "after-checkout", "after-keep", "before-check-in"];

fn is_step(name: &str) -> bool {
    if LICENSE.contains(&name) {
        return true;
    }
    let ends = ["-before-commit", "-after-commit"];
    ends.iter().filter_map(|end| name.strip_suffix(end)).any(|name| TRANSACTIONS.contains(&name))
}

static CHOSEN: OnceLock<(String, AtomicU64)> = OnceLock::new();

/// Chooses a step by `name:passes`; `false` if there is no such step.
#[must_use]
pub fn choose(text: &str) -> bool {
    let (name, passes) = text.split_once(':').unwrap_or((text, "0"));
    let Ok(passes) = passes.parse() else { return false };
    is_step(name) && CHOSEN.set((name.to_owned(), AtomicU64::new(passes))).is_ok()
}

/// Aborts the process if this is the chosen step.
pub fn reach(name: &str) {
    debug_assert!(is_step(name), "{name}");
    let Some((chosen, passes)) = CHOSEN.get() else { return };
    if chosen == name
        && passes.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1)).is_err()
    {
        std::process::abort();
    }
}
