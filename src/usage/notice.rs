//! Usage that was not taken: each answer to the caller is also counted and, at most once a minute, logged.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use crate::log::limited::{Counts, Limited, NextLine};
use crate::metrics::Metrics;
use crate::runbook;
use tollgate_clock as clock;
use tollgate_metering::event::Rejected;

/// Why nothing of a request was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The body holds no events.
    BadRequest,
    /// Too much is being worked on at once.
    Busy,
    /// The ledger reached `ledger_bytes_max`.
    LedgerFull,
    /// The ledger cannot be written.
    LedgerUnavailable,
    /// The ledger is being opened.
    LedgerStarting,
    /// One of its events is rejected, and `strict_usage` is set.
    Strict,
    /// It was not answered: it took too long, or the client has gone. Its events may be counted all the same.
    Unanswered,
    /// AWS door: the call names another product.
    DoorProduct,
    /// AWS door: more calls than it passes on.
    DoorRate,
}

/// What can be wrong with an event, as [`Rejected::reason`] names it.
const REJECTED: [&str; 9] =
    ["form", "id", "dimension", "quantity", "timestamp", "tags", "customer", "conflict", "limit"];

impl Refused {
    const ALL: [Self; 8] = [
        Self::BadRequest,
        Self::Busy,
        Self::LedgerFull,
        Self::LedgerUnavailable,
        Self::Strict,
        Self::Unanswered,
        Self::DoorProduct,
        Self::DoorRate,
    ];

    /// The label of metrics and log lines.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::Busy => "busy",
            Self::LedgerFull => "ledger_full",
            Self::LedgerUnavailable | Self::LedgerStarting => "ledger_unavailable",
            Self::Strict => "strict",
            Self::Unanswered => "unanswered",
            Self::DoorProduct => "door_product",
            Self::DoorRate => "door_rate",
        }
    }
}

impl Refused {
    /// The entry of the runbook.
    const fn code(self) -> &'static str {
        match self {
            Self::LedgerFull | Self::LedgerUnavailable | Self::LedgerStarting => "LedgerUnavailable",
            Self::Strict => "UsageRejected",
            Self::BadRequest | Self::DoorProduct => "TollgateUsageRejected",
            _ => "TollgateUsageRefused",
        }
    }
}

/// Requests with usage that the ledger refused since it last took some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Untaken {
    since: Instant,
    /// How many.
    pub requests: u64,
    /// Why the latest was refused.
    pub latest: Refused,
}

impl Untaken {
    /// For how long this process has known of them.
    #[must_use]
    pub fn age(&self) -> Duration {
        clock::monotonic().duration_since(self.since)
    }
}

/// Counts and tells. A clone tells in the same lines.
#[derive(Debug, Clone)]
pub struct Notices {
    metrics: Arc<Metrics>,
    lines: Arc<[Mutex<Line>; 2]>,
    untaken: Arc<Mutex<Option<Untaken>>>,
}

/// What one line counts, and the answer to the latest caller.
#[derive(Debug, Default)]
struct Line {
    limited: Limited,
    code: &'static str,
    error: String,
}

/// The kinds of lines.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Rejected,
    Refused,
}

impl Kind {
    const ALL: [Self; 2] = [Self::Rejected, Self::Refused];
}

/// Characters of a caller's text in a line.
const NAME_SHOWN: usize = 64;
const TEXT_SHOWN: usize = 300;

impl Notices {
    /// Nothing to tell yet. Every series begins at 0: an alert by `increase` misses one that begins at 1.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        REJECTED.into_iter().for_each(|reason| metrics.usage_event_rejected(reason, 0));
        Refused::ALL.into_iter().for_each(|refused| metrics.usage_request_refused(refused.as_str(), 0));
        Self { metrics, lines: Arc::default(), untaken: Arc::default() }
    }

    /// A request that was not taken, and the answer to its caller.
    pub fn refused(&self, refused: Refused, error: &str) {
        if matches!(refused, Refused::LedgerFull | Refused::LedgerUnavailable) {
            let mut untaken = self.untaken.lock().expect("held for counting only");
            let (since, before) = untaken.map_or((clock::monotonic(), 0), |it| (it.since, it.requests));
            *untaken = Some(Untaken { since, requests: before.saturating_add(1), latest: refused });
        }
        self.metrics.usage_request_refused(refused.as_str(), 1);
        self.count(Kind::Refused, [(refused.as_str().to_owned(), refused.code(), error)]);
    }

    /// The ledger took usage: more than 0, and more than it held before. Who may report could else end at no cost the
    /// age of what it refuses.
    pub fn taken(&self) {
        *self.untaken.lock().expect("held for counting only") = None;
    }

    /// The same for usage that the application reported through the AWS door. That is taken by a full ledger too, and
    /// says nothing of what such a ledger refuses.
    pub fn reported(&self) {
        let mut untaken = self.untaken.lock().expect("held for counting only");
        untaken.take_if(|untaken| untaken.latest != Refused::LedgerFull);
    }

    /// What the ledger has refused since it last took usage.
    #[must_use]
    pub fn untaken(&self) -> Option<Untaken> {
        *self.untaken.lock().expect("held for counting only")
    }

    /// Events of a request that were rejected, each with its reason.
    pub(crate) fn rejected<'a>(&self, events: impl IntoIterator<Item = &'a Rejected>) {
        let said = events.into_iter().map(|event| {
            self.metrics.usage_event_rejected(event.reason, 1);
            (label(event), "TollgateUsageRejected", event.text.as_str())
        });
        self.count(Kind::Rejected, said);
    }

    /// Tells what waits for its line: the process ends.
    pub fn tell_the_rest(&self) {
        for kind in Kind::ALL {
            let mut line = self.lines[kind as usize].lock().expect("held for counting only");
            if let Some(counts) = line.limited.rest() {
                write(kind, &counts, line.code, &line.error);
            }
        }
    }

    fn count<'a>(&self, kind: Kind, said: impl IntoIterator<Item = (String, &'static str, &'a str)>) {
        let mut line = self.lines[kind as usize].lock().expect("held for counting and a line only");
        for (label, code, error) in said {
            line.limited.count(&label, 1);
            line.code = code;
            line.error = shortened(error, TEXT_SHOWN);
        }
        match line.limited.due(clock::monotonic()) {
            NextLine::Nothing => {}
            NextLine::At(at) => {
                let notices = self.clone();
                tokio::spawn(async move {
                    tokio::time::sleep_until(at).await;
                    notices.count(kind, []);
                });
            }
            NextLine::Line(counts) => write(kind, &counts, line.code, &line.error),
        }
    }
}

/// What is counted together. The text of an event that cannot be read may repeat what it holds; its name is enough.
fn label(event: &Rejected) -> String {
    let dimension = shortened(event.dimension.as_deref().unwrap_or_default(), NAME_SHOWN);
    match event.reason {
        reason @ ("form" | "tags") => format!("{reason} of dimension {dimension:?}"),
        "dimension" => shortened(&event.text, TEXT_SHOWN),
        _ => format!("{} (dimension {dimension:?})", shortened(&event.text, TEXT_SHOWN)),
    }
}

fn shortened(text: &str, chars: usize) -> String {
    text.chars().take(chars).collect()
}

fn write(kind: Kind, counts: &Counts, code: &'static str, error: &str) {
    let docs = runbook::command(code);
    match kind {
        Kind::Rejected => tracing::warn!(
            event = "usage_rejected",
            events = counts.total(), reasons = %counts, code, docs,
            "usage events rejected: they are not counted and not billed; correct what the application sends"
        ),
        Kind::Refused => tracing::warn!(
            event = "usage_not_taken",
            requests = counts.total(), reasons = %counts, code, error, docs,
            "usage requests not taken: the application was told so and has to send them again"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dimension_is_named_beside_the_configured_ones_and_no_text_of_an_event_is_repeated() {
        let rejected = |reason, text: &str| Rejected {
            reason,
            dimension: Some("reqests".to_owned()),
            text: text.to_owned(),
        };
        let unknown = "dimension \"reqests\" is not one of those that the seller configured";
        assert_eq!(label(&rejected("dimension", unknown)), unknown);
        let form = rejected("form", "invalid type: string \"secret\"");
        assert_eq!(label(&form), "form of dimension \"reqests\"");
    }

    /// It takes claims beyond its limit.
    #[tokio::test]
    async fn a_report_through_the_aws_door_ends_nothing_that_a_full_ledger_refuses() {
        for (refused, ended) in [(Refused::LedgerFull, false), (Refused::LedgerUnavailable, true)] {
            let notices = Notices::new(Arc::default());
            notices.refused(refused, "");
            notices.reported();
            assert_eq!(notices.untaken().is_none(), ended, "{refused:?}");
            notices.taken();
            assert_eq!(notices.untaken(), None);
        }
    }

    #[test]
    fn a_full_ledger_leads_to_its_entry_in_the_runbook() {
        for refused in Refused::ALL {
            assert!(runbook::find(refused.code()).is_some(), "{refused:?}");
        }
        assert_eq!(Refused::LedgerFull.code(), "LedgerUnavailable");
    }
}
