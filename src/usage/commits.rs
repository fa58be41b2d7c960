//! Measures the ledger's commits: a histogram, a counter of failures and, at most once a minute, a log line.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::log::limited::{Counts, Limited, NextLine};
use crate::metrics::Metrics;
use tollgate_clock as clock;
use tollgate_ledger::LedgerError;
use tollgate_ledger::writer::Observer;

/// The ledger's observer. Clones share their counts and log lines.
#[derive(Debug, Clone)]
pub struct Commits {
    metrics: Arc<Metrics>,
    failures: Arc<Mutex<Limited>>,
}

impl Commits {
    /// For a ledger with the limit `bytes_max`.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, bytes_max: u64) -> Self {
        metrics.ledger_bytes_max(bytes_max);
        Self { metrics, failures: Arc::default() }
    }

    /// Logs the failures that no line has reported yet, at the end of the process.
    pub fn tell_the_rest(&self) {
        if let Some(errors) = self.failures.lock().expect("held for counting and a line only").rest() {
            write(&errors);
        }
    }
}

impl Observer for Commits {
    fn committed(&mut self, took: Duration) {
        self.metrics.committed(took.as_secs_f64());
    }

    fn failed(&mut self, error: &LedgerError) {
        self.metrics.commit_failed();
        let mut failures = self.failures.lock().expect("held for counting and a line only");
        failures.count(&error.to_string(), 1);
        // Failures in between are counted, and the next line reports them.
        if let NextLine::Line(errors) = failures.due(clock::monotonic()) {
            write(&errors);
        }
    }
}

fn write(errors: &Counts) {
    tracing::error!(event = "ledger_unusable", failures = errors.total(), %errors, "the ledger cannot be used");
}

#[cfg(test)]
mod tests {
    use std::io::Seek as _;

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    use crate::entitlement;
    use crate::metrics::Format;
    use tollgate_time::Timestamp;

    #[test]
    fn failures_that_wait_for_their_line_are_told_at_the_end() {
        let commits = Commits::new(Arc::default(), 1 << 30);
        let mut file = tempfile::tempfile().unwrap();
        let layer = tracing_subscriber::fmt::layer().with_writer(Arc::new(file.try_clone().unwrap()));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            for _ in 0..4 {
                commits.clone().failed(&LedgerError::Io("no space".to_owned()));
            }
            commits.tell_the_rest();
            commits.tell_the_rest();
        });
        file.rewind().unwrap();
        let text = std::io::read_to_string(file).unwrap();
        let told: Vec<&str> = text.lines().filter(|line| line.contains("ledger_unusable")).collect();
        assert_eq!(told.len(), 2, "{text}");
        assert!(told[0].contains("no space: 1") && told[1].contains("no space: 3"), "{text}");
    }

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
