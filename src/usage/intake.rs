//! From a request's body to acknowledged events: read, refuse what is wrong, commit the rest, answer for each.
//!
//! It knows the ledger and nothing of what sends from it.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock::{self, WallClock};
use crate::metrics::Metrics;
use crate::usage::event::{self, BadRequest, Event, Rejected, Rules};
use crate::usage::ledger::writer::Writer;
use crate::usage::ledger::{LedgerError, Taken};

/// What became of one event, in the order of the request.
#[derive(Debug, Serialize, PartialEq, Eq)]
pub struct Outcome {
    /// The application's key, where it gave one.
    pub id: Option<String>,
    /// `accepted`, `duplicate` or `rejected`.
    pub status: &'static str,
    /// Why it was rejected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Why nothing of a request was taken.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// The body.
    #[error(transparent)]
    BadRequest(#[from] BadRequest),
    /// The disk, or its limit: nothing was acknowledged, the application sends it again.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// The way in.
#[derive(Debug, Clone)]
pub struct Intake {
    rules: Arc<Rules>,
    writer: Writer,
    clock: WallClock,
    metrics: Arc<Metrics>,
}

impl Intake {
    /// Joins the parts.
    #[must_use]
    pub fn new(rules: Rules, writer: Writer, clock: WallClock, metrics: Arc<Metrics>) -> Self {
        Self { rules: Arc::new(rules), writer, clock, metrics }
    }

    /// Takes a request's body; on return every accepted event is on disk.
    pub async fn take(&self, body: &[u8]) -> Result<Vec<Outcome>, IntakeError> {
        let read = event::read(body, &self.rules, self.clock.now())?;
        // What the answer needs of an event stays here; the rest goes to the ledger.
        let mut valid = Vec::with_capacity(read.len());
        let mut keep = |event: Event| {
            let kept = (event.id.clone(), event.dimension.clone());
            valid.push(event);
            kept
        };
        let read: Vec<Result<(Option<String>, String), _>> =
            read.into_iter().map(|read| read.map(&mut keep)).collect();
        let mut taken =
            if valid.is_empty() { Vec::new() } else { self.writer.take(valid, ()).await? }.into_iter();
        let mut tally = Tally { metrics: &self.metrics, run: None };
        let outcome = |read| match read {
            Ok((id, dimension)) => outcome(id, dimension, taken.next(), &mut tally),
            Err((id, Rejected(reason))) => {
                tally.add(String::new(), "rejected");
                Outcome { id, status: "rejected", error: Some(reason) }
            }
        };
        Ok(read.into_iter().map(outcome).collect())
    }
}

fn outcome(id: Option<String>, dimension: String, taken: Option<Taken>, tally: &mut Tally<'_>) -> Outcome {
    let (status, error) = match taken {
        Some(Taken::Accepted) => ("accepted", None),
        Some(Taken::Duplicate) => ("duplicate", None),
        Some(Taken::Conflict) | None => {
            ("rejected", Some("id was used for other content within idempotency_window".to_owned()))
        }
        Some(Taken::OtherForm) => {
            let text = "in this hour usage of this account was counted in the other form, by license_arn or without it; \
                        AWS would bill both, so send it in one form";
            ("rejected", Some(text.to_owned()))
        }
    };
    tally.add(dimension, status);
    Outcome { id, status, error }
}

/// Counts events of one kind that follow each other at once: a thousand of a kind are the usual request.
struct Tally<'a> {
    metrics: &'a Metrics,
    run: Option<(String, &'static str, u64)>,
}

impl Tally<'_> {
    fn add(&mut self, dimension: String, status: &'static str) {
        match &mut self.run {
            Some((of, as_what, count)) if *of == dimension && *as_what == status => *count += 1,
            _ => {
                self.tell();
                self.run = Some((dimension, status, 1));
            }
        }
    }

    fn tell(&mut self) {
        if let Some((dimension, status, count)) = self.run.take() {
            self.metrics.usage_event(&dimension, status, count);
        }
    }
}

impl Drop for Tally<'_> {
    fn drop(&mut self) {
        self.tell();
    }
}

/// When usage was last under way, for a shutdown that must not come between an application and its last report.
#[derive(Debug, Clone)]
pub struct Activity(Arc<watch::Sender<(usize, Instant)>>);

impl Activity {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new((0, clock::monotonic()))))
    }

    /// A request begins; it ends when the answer is dropped.
    #[must_use]
    pub fn begin(&self) -> Busy {
        self.0.send_modify(|(busy, at)| (*busy, *at) = (*busy + 1, clock::monotonic()));
        Busy(self.clone())
    }

    /// Waits until no request has been under way for `quiet`.
    pub async fn quiet_for(&self, quiet: Duration) {
        let mut changes = self.0.subscribe();
        let mut from = clock::monotonic();
        loop {
            let (busy, at) = *changes.borrow_and_update();
            from = from.max(at);
            tokio::select! {
                () = tokio::time::sleep_until(from + quiet), if busy == 0 => return,
                _ = changes.changed() => {}
            }
        }
    }
}

impl Default for Activity {
    fn default() -> Self {
        Self::new()
    }
}

/// A request under way.
#[derive(Debug)]
pub struct Busy(Activity);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.0.send_modify(|(busy, at)| (*busy, *at) = (*busy - 1, clock::monotonic()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn quiet_begins_with_the_end_of_the_last_request() {
        let (activity, began) = (Activity::new(), clock::monotonic());
        let busy = activity.begin();
        let quiet = tokio::spawn({
            let activity = activity.clone();
            async move { activity.quiet_for(2 * SECOND).await }
        });
        tokio::time::sleep(5 * SECOND).await;
        assert!(!quiet.is_finished(), "a request is under way");
        drop(busy);
        tokio::time::sleep(SECOND).await;
        drop(activity.begin());
        quiet.await.unwrap();
        assert_eq!(clock::monotonic().duration_since(began), 8 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn an_application_that_never_reports_costs_the_quiet_time_only() {
        let (activity, began) = (Activity::new(), clock::monotonic());
        tokio::time::sleep(10 * SECOND).await;
        activity.quiet_for(2 * SECOND).await;
        assert_eq!(clock::monotonic().duration_since(began), 12 * SECOND);
    }
}
