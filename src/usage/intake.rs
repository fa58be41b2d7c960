//! From a request's body to acknowledged events: read, refuse what is wrong, commit the rest, answer for each.
//!
//! It knows the ledger and nothing of what sends from it.

use std::sync::Arc;

use serde::Serialize;

use crate::clock::WallClock;
use crate::metrics::Metrics;
use crate::usage::event::{self, BadRequest, Event, Rules};
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
        let valid: Vec<Event> = read.iter().filter_map(|read| read.as_ref().ok()).cloned().collect();
        let mut taken =
            if valid.is_empty() { Vec::new() } else { self.writer.take(valid).await? }.into_iter();
        let outcome = |read: event::Read| match read {
            Ok(event) => self.outcome(event, taken.next()),
            Err((id, rejected)) => {
                self.metrics.usage_event("", "rejected", 1);
                Outcome { id, status: "rejected", error: Some(rejected.0) }
            }
        };
        Ok(read.into_iter().map(outcome).collect())
    }

    fn outcome(&self, event: Event, taken: Option<Taken>) -> Outcome {
        let (status, error) = match taken {
            Some(Taken::Accepted) => ("accepted", None),
            Some(Taken::Duplicate) => ("duplicate", None),
            Some(Taken::Conflict) | None => {
                ("rejected", Some("id was used for other content within 48 hours".to_owned()))
            }
        };
        self.metrics.usage_event(&event.dimension, status, 1);
        Outcome { id: event.id, status, error }
    }
}
