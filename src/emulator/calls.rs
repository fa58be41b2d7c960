//! Every request and its answer, the latest in full: what a test compares with what an application thinks it did.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Value, json};

use crate::clock::Timestamp;

/// Calls kept; with texts cut at [`TEXT_CHARS_MAX`] that is at most some 40 MB. Counts go on for ever.
const CALLS_MAX: usize = 10_000;

/// Of a request's or an answer's text.
const TEXT_CHARS_MAX: usize = 2048;

/// One call.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) at: Timestamp,
    pub(super) operation: &'static str,
    pub(super) pod: String,
    pub(super) region: String,
    /// `ok`, or the exception, or the fault that hit.
    pub(super) outcome: String,
    pub(super) request: String,
    pub(super) answer: String,
}

/// The latest calls, and how many there were of each kind.
#[derive(Debug, Default)]
pub(super) struct Calls {
    total: u64,
    counts: BTreeMap<(&'static str, String), u64>,
    latest: VecDeque<Call>,
}

impl Calls {
    pub(super) fn add(&mut self, mut call: Call) {
        cut(&mut call.request);
        cut(&mut call.answer);
        self.total += 1;
        *self.counts.entry((call.operation, call.outcome.clone())).or_default() += 1;
        if self.latest.len() >= CALLS_MAX {
            self.latest.pop_front();
        }
        self.latest.push_back(call);
    }

    /// The counts, and the latest `limit` calls, newest last.
    pub(super) fn json(&self, limit: usize) -> Value {
        let counts: Vec<Value> = self
            .counts
            .iter()
            .map(|((operation, outcome), count)| json!({"operation": operation, "outcome": outcome, "count": count}))
            .collect();
        let skip = self.latest.len().saturating_sub(limit);
        let calls: Vec<Value> = self
            .latest
            .iter()
            .skip(skip)
            .map(|call| {
                json!({
                    "at": call.at.to_string(),
                    "operation": call.operation,
                    "pod": call.pod,
                    "region": call.region,
                    "outcome": call.outcome,
                    "request": text(&call.request),
                    "answer": text(&call.answer),
                })
            })
            .collect();
        json!({"total": self.total, "counts": counts, "calls": calls})
    }
}

fn cut(text: &mut String) {
    if let Some((end, _)) = text.char_indices().nth(TEXT_CHARS_MAX) {
        text.truncate(end);
        text.push('…');
        text.shrink_to_fit();
    }
}

/// JSON as JSON, the rest as text.
fn text(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| json!(text))
}
