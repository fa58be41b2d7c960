//! Usage that was not accepted: each such answer is also counted and, at most once a minute, logged.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use crate::log::limited::{Counts, Limited, NextLine};
use crate::metrics::Metrics;
use crate::runbook;
use tollgate_clock as clock;
use tollgate_metering::event::RejectedEvent;

/// Why a request was rejected as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectedRequest {
    /// The body contains no events.
    BadRequest,
    /// Too many requests are being processed at once.
    Busy,
    /// The ledger reached `ledger_bytes_max`.
    LedgerFull,
    /// The ledger cannot be written.
    LedgerUnavailable,
    /// The ledger is being opened.
    LedgerStarting,
    /// An event was rejected, and `strict_usage` is set.
    Strict,
    /// It was not answered, or that its events may be counted: it took too long, the answer to a commit was lost, or
    /// the client has disconnected.
    Unanswered,
    /// AWS door: the call names another product.
    DoorProduct,
    /// AWS door: the limit of calls is exceeded.
    DoorRate,
}

/// All values of [`RejectedEvent::reason`].
const REJECTED: [&str; 8] =
    ["form", "id", "dimension", "quantity", "timestamp", "tags", "customer", "conflict"];

impl RejectedRequest {
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

impl RejectedRequest {
    /// The code of the runbook's entry.
    const fn code(self) -> &'static str {
        match self {
            Self::LedgerFull | Self::LedgerUnavailable | Self::LedgerStarting => "LedgerUnavailable",
            Self::Strict => "UsageRejected",
            Self::BadRequest | Self::DoorProduct => "TollgateUsageRejected",
            _ => "TollgateUsageRefused",
        }
    }
}

/// The usage requests that the ledger has refused since it last accepted usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Untaken {
    since: Instant,
    /// Their number.
    pub requests: u64,
    /// Why the latest one was rejected.
    pub latest: RejectedRequest,
}

impl Untaken {
    /// The time since this process refused the first of them.
    #[must_use]
    pub fn age(&self) -> Duration {
        clock::monotonic().duration_since(self.since)
    }
}

/// Counts and logs. Clones share their counts and log lines.
#[derive(Debug, Clone)]
pub struct Notices {
    metrics: Arc<Metrics>,
    lines: Arc<[Mutex<Line>; 2]>,
    untaken: Arc<Mutex<Option<Untaken>>>,
}

/// The counts of one kind of line, and the latest answer.
#[derive(Debug, Default)]
struct Line {
    limited: Limited,
    code: &'static str,
    error: String,
}

/// The kinds of lines.
#[derive(Debug, Clone, Copy)]
enum LineKind {
    Events,
    Requests,
}

impl LineKind {
    const ALL: [Self; 2] = [Self::Events, Self::Requests];
}

/// How many characters of a caller's text a line shows.
const NAME_SHOWN: usize = 64;
const TEXT_SHOWN: usize = 300;

impl Notices {
    /// Begins every series at 0, because an alert by `increase` misses a series that begins at 1.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        REJECTED.into_iter().for_each(|reason| metrics.usage_event_rejected(reason, 0));
        RejectedRequest::ALL
            .into_iter()
            .for_each(|rejected| metrics.usage_request_refused(rejected.as_str(), 0));
        Self { metrics, lines: Arc::default(), untaken: Arc::default() }
    }

    /// A request was rejected with this answer.
    pub fn request_rejected(&self, rejected: RejectedRequest, error: &str) {
        self.not_taken(rejected);
        self.count(LineKind::Requests, [(rejected.as_str().to_owned(), rejected.code(), error)]);
    }

    /// The ledger did not take a heartbeat, which logs that itself: no application has to send it again.
    pub fn heartbeat_rejected(&self, rejected: RejectedRequest) {
        self.not_taken(rejected);
    }

    fn not_taken(&self, rejected: RejectedRequest) {
        if matches!(rejected, RejectedRequest::LedgerFull | RejectedRequest::LedgerUnavailable) {
            let mut untaken = self.untaken.lock().expect("held for counting only");
            let (since, before) = untaken.map_or((clock::monotonic(), 0), |it| (it.since, it.requests));
            *untaken = Some(Untaken { since, requests: before.saturating_add(1), latest: rejected });
        }
        self.metrics.usage_request_refused(rejected.as_str(), 1);
    }

    /// The ledger accepted new usage above 0. Usage of 0 or a duplicate must not count, or an application could end
    /// the age of refused usage at no cost.
    pub fn taken(&self) {
        *self.untaken.lock().expect("held for counting only") = None;
    }

    /// The ledger accepted a report through the AWS door. A full ledger accepts those too, so this says nothing about
    /// the usage that a full ledger refuses.
    pub fn reported(&self) {
        let mut untaken = self.untaken.lock().expect("held for counting only");
        untaken.take_if(|untaken| untaken.latest != RejectedRequest::LedgerFull);
    }

    /// What the ledger has refused since it last accepted usage.
    #[must_use]
    pub fn untaken(&self) -> Option<Untaken> {
        *self.untaken.lock().expect("held for counting only")
    }

    /// Events were rejected.
    pub(crate) fn events_rejected<'a>(&self, events: impl IntoIterator<Item = &'a RejectedEvent>) {
        let said = events.into_iter().map(|event| {
            self.metrics.usage_event_rejected(event.reason, 1);
            (label(event), "TollgateUsageRejected", event.text.as_str())
        });
        self.count(LineKind::Events, said);
    }

    /// Logs the counts that no line has reported yet, at the end of the process.
    pub fn tell_the_rest(&self) {
        for kind in LineKind::ALL {
            let mut line = self.lines[kind as usize].lock().expect("held for counting only");
            if let Some(counts) = line.limited.rest() {
                write(kind, &counts, line.code, &line.error);
            }
        }
    }

    fn count<'a>(&self, kind: LineKind, said: impl IntoIterator<Item = (String, &'static str, &'a str)>) {
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

/// The label under which an event is counted. The error text of `form` and `tags` may repeat values of the event, so
/// it is left out.
fn label(event: &RejectedEvent) -> String {
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

fn write(kind: LineKind, counts: &Counts, code: &'static str, error: &str) {
    let docs = runbook::command(code);
    match kind {
        LineKind::Events => tracing::warn!(
            event = "usage_rejected",
            events = counts.total(), reasons = %counts, code, docs,
            "usage events rejected: they are not counted and not billed; correct what the application sends"
        ),
        LineKind::Requests => tracing::warn!(
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
        let rejected = |reason, text: &str| RejectedEvent {
            reason,
            dimension: Some("reqests".to_owned()),
            text: text.to_owned(),
        };
        let unknown = "dimension \"reqests\" is not one of those that the seller configured";
        assert_eq!(label(&rejected("dimension", unknown)), unknown);
        let form = rejected("form", "invalid type: string \"secret\"");
        assert_eq!(label(&form), "form of dimension \"reqests\"");
    }

    /// A full ledger still accepts reports through the AWS door.
    #[tokio::test]
    async fn a_report_through_the_aws_door_ends_nothing_that_a_full_ledger_refuses() {
        for (rejected, ended) in
            [(RejectedRequest::LedgerFull, false), (RejectedRequest::LedgerUnavailable, true)]
        {
            let notices = Notices::new(Arc::default());
            notices.request_rejected(rejected, "");
            notices.reported();
            assert_eq!(notices.untaken().is_none(), ended, "{rejected:?}");
            notices.taken();
            assert_eq!(notices.untaken(), None);
        }
    }

    #[test]
    fn a_full_ledger_leads_to_its_entry_in_the_runbook() {
        for rejected in RejectedRequest::ALL {
            assert!(runbook::find(rejected.code()).is_some(), "{rejected:?}");
        }
        assert_eq!(RejectedRequest::LedgerFull.code(), "LedgerUnavailable");
    }
}
