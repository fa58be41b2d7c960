//! How the ledger's commits go: a histogram, a counter of those that failed and, once a minute, a log line.

use std::sync::Arc;
use std::time::Duration;

use crate::log::limited::{Limited, NextLine};
use crate::metrics::Metrics;
use tollgate_clock as clock;
use tollgate_ledger::LedgerError;
use tollgate_ledger::writer::Observer;

/// Counts and tells.
pub struct Commits {
    metrics: Arc<Metrics>,
    failures: Limited,
}

impl Commits {
    /// Of a ledger that takes so many bytes; none yet.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, bytes_max: u64) -> Self {
        metrics.ledger_bytes_max(bytes_max);
        Self { metrics, failures: Limited::default() }
    }
}

impl Observer for Commits {
    fn committed(&mut self, took: Duration) {
        self.metrics.committed(took.as_secs_f64());
    }

    fn failed(&mut self, error: &LedgerError) {
        self.metrics.commit_failed();
        self.failures.count(&error.to_string(), 1);
        // Failures that come before the next line are in the line of the first one after it.
        if let NextLine::Line(errors) = self.failures.due(clock::monotonic()) {
            tracing::error!(event = "ledger_unusable", failures = errors.total(), %errors, "the ledger cannot be used");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::entitlement;
    use crate::metrics::Format;
    use tollgate_time::Timestamp;

    #[test]
    fn a_failure_is_no_commit() {
        let metrics = Arc::new(Metrics::new());
        let mut commits = Commits::new(Arc::clone(&metrics), 1 << 30);
        commits.committed(Duration::from_millis(3));
        commits.failed(&LedgerError::Io("no space".to_owned()));
        commits.failed(&LedgerError::Io("no space".to_owned()));
        let (_publisher, watch) = entitlement::channel(Timestamp::from_unix_seconds(0));
        let text = metrics.encode(&watch.borrow(), Format::Text);
        for sample in [
            "tollgate_ledger_commit_duration_seconds_count 1\n",
            "tollgate_ledger_commit_failures_total 2\n",
            "tollgate_ledger_bytes_max 1073741824\n",
        ] {
            assert!(text.contains(sample), "{sample}: {text}");
        }
    }
}
