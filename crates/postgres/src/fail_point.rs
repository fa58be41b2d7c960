//! The steps of `tollgate_ledger::fail_point` in this engine: before and after each commit that intake, sender or
//! people cause. Only in builds with the feature `fail-points`.

/// Ends the process if this side of the step's commit was chosen.
#[cfg(any(test, feature = "fail-points"))]
pub(crate) fn reach(step: &str, side: &str) {
    tollgate_ledger::fail_point::reach(&format!("{step}-{side}-commit"));
}

#[cfg(not(any(test, feature = "fail-points")))]
pub(crate) const fn reach(_: &str, _: &str) {}
