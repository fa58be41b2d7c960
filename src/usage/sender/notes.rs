//! The outcome of records, for the ledger, the log and the metrics.

use crate::metrics::Metrics;
use tollgate_metering::record::{Answered, Noted, Record};
use tollgate_time::Timestamp;

/// An answer about a record, or a decision.
pub(super) struct Outcome {
    pub(super) record: Record,
    pub(super) answered: Answered,
    pub(super) due_at: Option<Timestamp>,
}

impl Outcome {
    pub(super) fn row(&self) -> Noted {
        Noted { id: self.record.id, answered: self.answered.clone(), due_at: self.due_at }
    }

    /// Whether the record will not be sent again.
    pub(super) const fn is_settled(&self) -> bool {
        !matches!(self.answered, Answered::Refused(_) | Answered::Unknown(_))
    }
}

/// Logs and counts outcomes that are on disk.
pub(super) fn tell(notes: &[Outcome], metrics: &Metrics) {
    for Outcome { record, answered, .. } in notes {
        let (id, dimension, hour) = (record.id, record.dimension.as_str(), record.hour);
        let outcome = match answered {
            Answered::Accepted(_) => {
                tracing::info!(event = "record_billed", record = id, dimension, %hour, quantity = %record.quantity, "usage billed");
                "accepted"
            }
            Answered::Unconfirmed(code) => {
                tracing::warn!(
                    event = "record_unconfirmed",
                    record = id, dimension, %hour, quantity = %record.quantity, code,
                    "AWS holds a record for this hour, and ours was in doubt: it counts as billed, unconfirmed"
                );
                "accepted"
            }
            Answered::Dead(code) => {
                tracing::error!(
                    event = "record_dead",
                    record = id, dimension, %hour, code,
                    "a record is a dead letter and is not billed unless somebody acts; see `tollgate ledger \
                     dead-letters`"
                );
                "dead"
            }
            Answered::Carry(code) => {
                tracing::warn!(
                    event = "record_carried",
                    record = id, dimension, %hour, code,
                    "a record missed AWS's window; its usage counts to the current hour"
                );
                "carried"
            }
            Answered::Refused(code) | Answered::Unknown(code) => {
                let unknown = matches!(answered, Answered::Unknown(_));
                // A record stays in doubt if a later attempt did not reach AWS.
                let in_doubt = unknown || record.state.in_doubt();
                tracing::warn!(event = "record_waiting", record = id, dimension, %hour, code, in_doubt, "record not accepted yet; will retry");
                if unknown { "unknown" } else { "refused" }
            }
        };
        metrics.usage_record(dimension, outcome);
    }
}
