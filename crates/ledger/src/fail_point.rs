//! Named steps at which the kill campaign can end the process: only in builds with the feature `fail-points`, which no
//! image has. In this crate's own tests they only check that each transaction has a name in the list.
//!
//! `FAIL_POINT=attempt-after-commit:3` ends the process, without any clean-up, when it reaches that step for the fourth
//! time. `FAIL_POINT=@/path` reads such a text from that file at each step, so that the replica that leads now can be
//! chosen while it runs.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Every transaction, in the order in which usage passes them, then those of repairs and upgrades, then those that only
/// a ledger of several replicas has. Each has a step before its commit and one after it.
const TRANSACTIONS: [&str; 21] = [
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
    "close",
    "lease",
    "resolve",
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

/// A step, and how often it is passed before the process ends there.
fn parse(text: &str) -> Option<(&str, u64)> {
    let (name, passes) = text.trim().split_once(':').unwrap_or((text.trim(), "0"));
    Some((name, passes.parse().ok()?)).filter(|(name, _)| is_step(name))
}

/// Where the step is chosen.
#[derive(Debug)]
enum Chosen {
    /// At the start.
    Step { name: String, passes: u64 },
    /// By the content of a file, while the process runs. Without the file, no step is.
    File(PathBuf),
}

static CHOSEN: OnceLock<Chosen> = OnceLock::new();

/// How often the chosen step was passed.
static PASSED: AtomicU64 = AtomicU64::new(0);

/// Chooses a step by `name:passes`, or the file that will choose one by `@path`; `false` if there is no such step.
#[must_use]
pub fn choose(text: &str) -> bool {
    let chosen = match text.strip_prefix('@') {
        Some(path) => Some(Chosen::File(PathBuf::from(path))),
        None => parse(text).map(|(name, passes)| Chosen::Step { name: name.to_owned(), passes }),
    };
    chosen.is_some_and(|chosen| CHOSEN.set(chosen).is_ok())
}

/// Aborts the process if this is the chosen step.
pub fn reach(name: &str) {
    debug_assert!(is_step(name), "{name}");
    let is_chosen = match CHOSEN.get() {
        None => false,
        Some(Chosen::Step { name: chosen, passes }) => is_over(name, chosen, *passes),
        Some(Chosen::File(path)) => match std::fs::read_to_string(path) {
            Ok(text) => parse(&text).is_some_and(|(chosen, passes)| is_over(name, chosen, passes)),
            Err(_) => {
                PASSED.store(0, Ordering::Release);
                false
            }
        },
    };
    if is_chosen {
        std::process::abort();
    }
}

/// Whether this step is the chosen one, and was passed often enough; counts it.
fn is_over(name: &str, chosen: &str, passes: u64) -> bool {
    name == chosen && PASSED.fetch_add(1, Ordering::AcqRel) >= passes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_has_a_name_of_the_list_and_a_number_of_passes() {
        assert_eq!(parse("seal-after-commit:3\n"), Some(("seal-after-commit", 3)));
        assert_eq!(parse("lease-before-commit"), Some(("lease-before-commit", 0)));
        for none in ["", "seal", "seal-after-commit:", "seal-after-commit:-1", "sael-after-commit:3"] {
            assert_eq!(parse(none), None, "{none}");
        }
    }
}
