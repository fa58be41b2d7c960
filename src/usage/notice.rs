//! Usage that was not taken: what the caller was told is also a counter and, once a minute, a log line.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use crate::log::limited::{Limited, NextLine};
use crate::metrics::Metrics;
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
    lines: Arc<[Mutex<Limited>; 2]>,
    untaken: Arc<Mutex<Option<Untaken>>>,
}

/// The kinds of lines.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Rejected,
    Refused,
}

/// Characters of a dimension's name in a line; it is the caller's text.
const DIMENSION_SHOWN: usize = 64;

impl Notices {
    /// Nothing to tell yet. Every series begins at 0: an alert by `increase` misses one that begins at 1.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        REJECTED.into_iter().for_each(|reason| metrics.usage_event_rejected(reason, 0));
        Refused::ALL.into_iter().for_each(|refused| metrics.usage_request_refused(refused.as_str(), 0));
        Self { metrics, lines: Arc::default(), untaken: Arc::default() }
    }

    /// A request of which nothing was taken.
    pub fn refused(&self, refused: Refused) {
        if matches!(refused, Refused::LedgerFull | Refused::LedgerUnavailable) {
            let mut untaken = self.untaken.lock().expect("held for counting only");
            let (since, before) = untaken.map_or((clock::monotonic(), 0), |it| (it.since, it.requests));
            *untaken = Some(Untaken { since, requests: before.saturating_add(1), latest: refused });
        }
        self.metrics.usage_request_refused(refused.as_str(), 1);
        self.count(Kind::Refused, [(refused.as_str().to_owned(), 1)]);
    }

    /// The ledger took usage.
    pub fn taken(&self) {
        *self.untaken.lock().expect("held for counting only") = None;
    }

    /// What the ledger has refused since it last took usage.
    #[must_use]
    pub fn untaken(&self) -> Option<Untaken> {
        *self.untaken.lock().expect("held for counting only")
    }

    /// Events of a request that were rejected, each with its reason.
    pub(crate) fn rejected<'a>(&self, events: impl IntoIterator<Item = &'a Rejected>) {
        let labels = events.into_iter().map(|event| {
            self.metrics.usage_event_rejected(event.reason, 1);
            let dimension = event.dimension.as_deref().unwrap_or_default();
            let shown: String = dimension.chars().take(DIMENSION_SHOWN).collect();
            (format!("{} of dimension {shown:?}", event.reason), 1)
        });
        self.count(Kind::Rejected, labels);
    }

    fn count(&self, kind: Kind, labels: impl IntoIterator<Item = (String, u64)>) {
        let due = {
            let mut line = self.lines[kind as usize].lock().expect("held for counting only");
            for (label, count) in labels {
                line.count(&label, count);
            }
            line.due(clock::monotonic())
        };
        self.tell(kind, due);
    }

    fn tell(&self, kind: Kind, due: NextLine) {
        match due {
            NextLine::Nothing => {}
            NextLine::At(at) => {
                let notices = self.clone();
                tokio::spawn(async move {
                    tokio::time::sleep_until(at).await;
                    notices.count(kind, []);
                });
            }
            NextLine::Line(counts) => match kind {
                Kind::Rejected => tracing::warn!(
                    event = "usage_rejected",
                    events = counts.total(), reasons = %counts,
                    "usage events rejected: they are not counted and not billed"
                ),
                Kind::Refused => tracing::warn!(
                    event = "usage_not_taken",
                    requests = counts.total(), reasons = %counts,
                    "usage requests not taken: the application was told so and has to send them again"
                ),
            },
        }
    }
}
