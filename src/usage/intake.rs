//! From a request's body to acknowledged events: reads it, rejects wrong events, commits the others, and answers for
//! each.
//!
//! It knows the ledger, but not the sender.

use std::borrow::Cow;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use crate::metrics::Metrics;
use crate::usage::notice::Notices;
use tollgate_clock::{self as clock, WallClock};
use tollgate_ledger::store::Store;
use tollgate_ledger::{LedgerError, Taken};
use tollgate_marketplace::Amount;
use tollgate_metering::aggregation::Rule;
use tollgate_metering::event::{self, BadRequest, Event, RejectedEvent, Rules};

/// The result for one event; results are in the order of the request.
#[derive(Debug, Serialize, PartialEq, Eq)]
pub struct Outcome {
    /// The event's `id`, if it has one.
    pub id: Option<String>,
    /// `accepted`, `duplicate` or `rejected`; in a request that is rejected as a whole, `rejected` or `not_counted`.
    pub status: &'static str,
    /// Why it was rejected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Why a request was rejected as a whole.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// The body is invalid.
    #[error(transparent)]
    BadRequest(#[from] BadRequest),
    /// The ledger failed or is full: nothing was acknowledged, and the application must send the request again.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// `strict_usage` is set, and an event was rejected; with the result for each event.
    #[error("an event of the request is rejected and strict_usage is set; nothing of the request is counted")]
    Strict(Vec<Outcome>),
}

/// The intake.
#[derive(Debug, Clone)]
pub struct Intake {
    rules: Arc<Rules>,
    store: Arc<dyn Store>,
    clock: WallClock,
    metrics: Arc<Metrics>,
    notices: Notices,
    memory: Arc<Semaphore>,
}

/// The limit for all events that are read and not committed yet, as [`memory_of`] counts them; more events wait. With
/// the bodies, the ledger and the rest, the process stays within the container's 32 MiB.
const MEMORY_BYTES_MAX: usize = 6 << 20;

/// An upper bound of an event's memory without its texts: the event, what its answer needs, its tags, and the
/// allocator's overhead for each text.
const EVENT_BYTES: usize = 1024;

/// The memory of a request's events. The largest request, 1,000 events in 1 MiB, counts 2 MiB, so three of them fit.
const fn memory_of(events: usize, body_bytes: usize) -> usize {
    let bytes = events.saturating_mul(EVENT_BYTES).saturating_add(body_bytes);
    if bytes < MEMORY_BYTES_MAX { bytes } else { MEMORY_BYTES_MAX }
}

/// An event while its request is processed.
enum EventEntry {
    /// Passed to the ledger; with what the answer needs.
    Valid {
        id: Option<String>,
        dimension: String,
        /// The quantity is not 0.
        is_usage: bool,
    },
    Rejected {
        id: Option<String>,
        rejected: RejectedEvent,
    },
}

impl Intake {
    /// Joins the parts.
    #[must_use]
    pub fn new(
        rules: Rules,
        store: Arc<dyn Store>,
        clock: WallClock,
        metrics: Arc<Metrics>,
        notices: Notices,
    ) -> Self {
        let memory = Arc::new(Semaphore::new(MEMORY_BYTES_MAX));
        Self { rules: Arc::new(rules), store, clock, metrics, notices, memory }
    }

    /// Processes a request's body; on return every accepted event is on disk. The body is dropped after it has been
    /// read.
    ///
    /// If the caller drops the future, events that were passed to the ledger are still committed, and keep their part
    /// of the memory until then.
    pub async fn take(&self, body: impl Deref<Target = [u8]> + Send) -> Result<Vec<Outcome>, IntakeError> {
        let texts = event::split(&body)?;
        self.store.time_known().await?;
        let bytes = u32::try_from(memory_of(texts.len(), body.len())).expect("a few MiB");
        let memory = Arc::clone(&self.memory).acquire_many_owned(bytes).await.expect("it is never closed");
        let (valid, mut entries) = self.read(texts);
        drop(body);
        let strict = self.rules.strict;
        if strict && entries.iter().any(|entry| matches!(entry, EventEntry::Rejected { .. })) {
            return Err(self.reject(entries));
        }
        let taken = if valid.is_empty() { Vec::new() } else { self.commit(valid, memory).await? };
        reject(&mut entries, &taken);
        if strict && entries.iter().any(|entry| matches!(entry, EventEntry::Rejected { .. })) {
            return Err(self.reject(entries));
        }
        Ok(self.outcomes(entries, &taken))
    }

    /// The events for the ledger, and what the answer needs of each event.
    fn read(&self, texts: Vec<&RawValue>) -> (Vec<Event>, Vec<EventEntry>) {
        let now = self.clock.now();
        let mut valid = Vec::with_capacity(texts.len());
        let entries = texts
            .into_iter()
            .map(|text| match event::read_one(text, &self.rules, now) {
                Ok(event) => {
                    let (id, dimension) = (event.id.clone(), event.dimension.clone());
                    let entry = EventEntry::Valid { id, dimension, is_usage: event.quantity != Amount::ZERO };
                    valid.push(event);
                    entry
                }
                Err((id, rejected)) => EventEntry::Rejected { id, rejected },
            })
            .collect();
        (valid, entries)
    }

    /// Commits events; they hold `memory` until they are on disk, even if the client has disconnected.
    async fn commit(
        &self,
        events: Vec<Event>,
        memory: OwnedSemaphorePermit,
    ) -> Result<Vec<Taken>, LedgerError> {
        let guard = Box::new(memory);
        if self.rules.strict {
            self.store.take_whole(events, guard).await
        } else {
            self.store.take(events, guard).await
        }
    }

    fn outcomes(&self, entries: Vec<EventEntry>, taken: &[Taken]) -> Vec<Outcome> {
        self.notify_rejected(&entries);
        let mut taken = taken.iter().filter(|taken| taken.is_counted());
        let mut tally = Tally { metrics: &self.metrics, run: None };
        let mut took_usage = false;
        let outcome = |entry| match entry {
            EventEntry::Valid { id, dimension, is_usage } => {
                let duplicate = taken.next() == Some(&Taken::Duplicate);
                took_usage |= is_usage && !duplicate;
                let status = if duplicate { "duplicate" } else { "accepted" };
                tally.add(dimension, status);
                Outcome { id, status, error: None }
            }
            EventEntry::Rejected { id, rejected } => {
                tally.add(String::new(), "rejected");
                Outcome { id, status: "rejected", error: Some(rejected.text) }
            }
        };
        let outcomes = entries.into_iter().map(outcome).collect();
        if took_usage {
            self.notices.taken();
        }
        outcomes
    }

    /// The answer to a request that is rejected as a whole.
    fn reject(&self, entries: Vec<EventEntry>) -> IntakeError {
        self.notify_rejected(&entries);
        let mut tally = Tally { metrics: &self.metrics, run: None };
        let outcome = |entry| match entry {
            EventEntry::Valid { id, .. } => Outcome { id, status: "not_counted", error: None },
            EventEntry::Rejected { id, rejected } => {
                tally.add(String::new(), "rejected");
                Outcome { id, status: "rejected", error: Some(rejected.text) }
            }
        };
        IntakeError::Strict(entries.into_iter().map(outcome).collect())
    }

    fn notify_rejected(&self, entries: &[EventEntry]) {
        self.notices.events_rejected(entries.iter().filter_map(|entry| match entry {
            EventEntry::Rejected { rejected, .. } => Some(rejected),
            EventEntry::Valid { .. } => None,
        }));
    }
}

/// Turns events that the ledger did not count into rejections.
fn reject(entries: &mut [EventEntry], taken: &[Taken]) {
    let valid = entries.iter_mut().filter(|entry| matches!(entry, EventEntry::Valid { .. }));
    let mut taken = taken.iter();
    for entry in valid {
        let (reason, text): (_, Cow<'_, str>) = match taken.next() {
            Some(Taken::Accepted | Taken::Duplicate) => continue,
            Some(Taken::Conflict) | None => {
                ("conflict", "id was used for other content within idempotency_window".into())
            }
            Some(Taken::Deprovisioned) => (
                "customer",
                "the license has ended: AWS Marketplace deprovisioned it, and AWS accepts no more usage of it".into(),
            ),
            Some(Taken::OtherForm) => (
                "customer",
                "in this hour usage of this account was counted in another form (account_id, license_arn or identifier); \
                 AWS would bill both or refuse the second, so name the customer in one way"
                    .into(),
            ),
            Some(Taken::OtherRule(rule)) => ("dimension", other_rule(rule).into()),
        };
        if let EventEntry::Valid { id, dimension, .. } = entry {
            let rejected =
                RejectedEvent { reason, dimension: Some(std::mem::take(dimension)), text: text.into_owned() };
            *entry = EventEntry::Rejected { id: id.take(), rejected };
        }
    }
}

/// The open hour is billed by the rule that it began with.
fn other_rule(rule: &Rule) -> String {
    let Rule { aggregation, scale, rounding } = rule;
    format!(
        "this hour began with aggregation {}, scale {scale} and rounding {rounding} for this dimension, and is billed by \
         them: usage by the new [dimension.NAME] counts from the next hour on",
        aggregation.name()
    )
}

/// Counts consecutive events of one kind in one call: usually all events of a request are of one kind.
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

/// Whether and when usage requests were running, for a shutdown that waits for the application's last report.
#[derive(Debug, Clone)]
pub struct Activity(Arc<watch::Sender<(usize, Instant)>>);

impl Activity {
    /// No request yet.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new((0, clock::monotonic()))))
    }

    /// A request begins; it ends when the result is dropped.
    #[must_use]
    pub fn begin(&self) -> Busy {
        self.0.send_modify(|(busy, at)| (*busy, *at) = (*busy + 1, clock::monotonic()));
        Busy(self.clone())
    }

    /// Waits until no request has been running for `quiet`.
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

/// A running request.
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
    use crate::usage::commits::Commits;
    use crate::usage::notice::RejectedRequest;
    use tollgate_ledger::writer::Writer;
    use tollgate_ledger::{self as ledger, Ledger};

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

    fn intake(strict: bool) -> (tempfile::TempDir, Writer, Intake) {
        intake_by(Rules { strict, ..Rules::default() })
    }

    fn intake_by(rules: Rules) -> (tempfile::TempDir, Writer, Intake) {
        let folder = tempfile::tempdir().unwrap();
        let clock = WallClock::system();
        let settings = ledger::LedgerSettings { started_at: clock.now(), ..ledger::testing::settings("pod") };
        let metrics = Arc::new(Metrics::new());
        let ledger = Ledger::open(folder.path(), settings).unwrap();
        let writer =
            Writer::start(ledger, clock.clone(), Commits::new(Arc::clone(&metrics), 1 << 30)).unwrap();
        let notices = Notices::new(Arc::clone(&metrics));
        let intake = Intake::new(rules, Arc::new(writer.clone()), clock, metrics, notices);
        (folder, writer, intake)
    }

    fn statuses(outcomes: &[Outcome]) -> Vec<&'static str> {
        outcomes.iter().map(|outcome| outcome.status).collect()
    }

    #[tokio::test]
    async fn events_keep_their_memory_until_they_are_on_disk_although_the_client_has_gone() {
        let (_folder, writer, intake) = intake(false);
        let (release, held) = std::sync::mpsc::channel::<()>();
        // The ledger's thread is busy.
        let busy = tokio::spawn(async move {
            writer
                .with(move |_| {
                    let _ = held.recv();
                    Ok(())
                })
                .await
        });
        let client = tokio::spawn({
            let intake = intake.clone();
            async move { intake.take(br#"{"dimension":"requests","quantity":1}"#.to_vec()).await }
        });
        let free = || intake.memory.available_permits();
        while free() == MEMORY_BYTES_MAX {
            tokio::task::yield_now().await;
        }
        let taken = free();
        client.abort();
        assert!(client.await.unwrap_err().is_cancelled());
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(free(), taken, "the event is in memory still");
        release.send(()).unwrap();
        busy.await.unwrap().unwrap();
        while free() != MEMORY_BYTES_MAX {
            tokio::task::yield_now().await;
        }
        let totals = intake.store.totals().await.unwrap();
        assert_eq!(totals["requests"].accepted, 1_000_000);
    }

    #[test]
    fn three_of_the_largest_requests_fit_at_once() {
        assert!(3 * memory_of(event::EVENTS_MAX, 1 << 20) <= MEMORY_BYTES_MAX);
        assert!(size_of::<Event>() + size_of::<EventEntry>() + size_of::<Outcome>() < EVENT_BYTES / 2);
        assert_eq!(memory_of(usize::MAX, 1), MEMORY_BYTES_MAX);
    }

    #[tokio::test]
    async fn a_strict_request_is_counted_whole_or_not_at_all() {
        let (_folder, _, intake) = intake(true);
        let take = |body: &'static str| intake.take(body.as_bytes());
        let first =
            take(r#"[{"id":"a","dimension":"d","quantity":1},{"id":"b","dimension":"d","quantity":2}]"#);
        assert_eq!(statuses(&first.await.unwrap()), ["accepted", "accepted"]);
        for (body, expected) in [
            (
                r#"[{"id":"c","dimension":"d","quantity":4},{"id":"d","dimension":"d","quantity":-1}]"#,
                ["not_counted", "rejected"],
            ),
            // Only the ledger knows that the `id` was used for other content.
            (
                r#"[{"id":"c","dimension":"d","quantity":4},{"id":"a","dimension":"d","quantity":9}]"#,
                ["not_counted", "rejected"],
            ),
        ] {
            let Err(IntakeError::Strict(outcomes)) = take(body).await else { panic!("{body} was taken") };
            assert_eq!(statuses(&outcomes), expected, "{body}");
        }
        let accepted = async || intake.store.totals().await.unwrap()["d"].accepted;
        assert_eq!(accepted().await, 3_000_000);
        // The id of the event that was not counted is free.
        let again =
            take(r#"[{"id":"a","dimension":"d","quantity":1},{"id":"c","dimension":"d","quantity":5}]"#);
        assert_eq!(statuses(&again.await.unwrap()), ["duplicate", "accepted"]);
        assert_eq!(accepted().await, 8_000_000);
    }

    /// Otherwise an application could end the age of usage that the ledger refuses, at no cost.
    #[tokio::test]
    async fn only_new_usage_says_that_the_ledger_takes_usage() {
        for strict in [false, true] {
            let (_folder, _, intake) = intake(strict);
            for (body, says_so) in [
                (r#"{"dimension":"d","quantity":0}"#, false),
                (r#"{"id":"a","dimension":"d","quantity":1}"#, true),
                (r#"[{"id":"a","dimension":"d","quantity":1},{"dimension":"d","quantity":0}]"#, false),
                (r#"[{"dimension":"d","quantity":0},{"dimension":"d","quantity":"0.000001"}]"#, true),
            ] {
                intake.notices.request_rejected(RejectedRequest::LedgerUnavailable, "");
                intake.take(body.as_bytes()).await.unwrap();
                assert_eq!(intake.notices.untaken().is_none(), says_so, "{body}");
            }
        }
    }

    #[tokio::test]
    async fn an_event_that_is_rejected_spoils_no_other_and_is_counted_by_its_reason() {
        let (_folder, _, intake) = intake(false);
        let body = r#"[{"dimension":"d","quantity":-1},7,{"id":"a","dimension":"d","quantity":1},
            {"id":"a","dimension":"d","quantity":2}]"#;
        let outcomes = intake.take(body.as_bytes()).await.unwrap();
        assert_eq!(statuses(&outcomes), ["rejected", "rejected", "accepted", "rejected"]);
        let (_publisher, entitlement) = crate::entitlement::channel(intake.clock.now());
        let text = intake.metrics.encode(&entitlement.borrow(), crate::metrics::Format::OpenMetrics);
        for line in [
            r#"tollgate_usage_events_rejected_total{reason="quantity"} 1"#,
            r#"tollgate_usage_events_rejected_total{reason="form"} 1"#,
            r#"tollgate_usage_events_rejected_total{reason="conflict"} 1"#,
            r#"tollgate_usage_events_rejected_total{reason="tags"} 0"#,
            r#"tollgate_usage_events_total{dimension="d",status="accepted"} 1"#,
            r#"tollgate_usage_requests_refused_total{reason="ledger_full"} 0"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
    }

    /// The event can be read; what is wrong is its member `customer`.
    #[tokio::test]
    async fn a_customer_that_is_named_in_another_form_is_counted_as_a_wrong_customer() {
        for strict in [false, true] {
            let (_folder, _, intake) = intake_by(Rules { strict, customers: true, ..Rules::default() });
            let body = r#"[{"dimension":"d","quantity":1,"customer":{"account_id":"111122223333"}},
                {"dimension":"d","quantity":1,"customer":{"account_id":"111122223333","license_arn":"arn:aws:lm::1:l"}}]"#;
            let outcomes = match intake.take(body.as_bytes()).await {
                Ok(outcomes) | Err(IntakeError::Strict(outcomes)) => outcomes,
                Err(error) => panic!("{error}"),
            };
            assert_eq!(statuses(&outcomes), [if strict { "not_counted" } else { "accepted" }, "rejected"]);
            let (_publisher, entitlement) = crate::entitlement::channel(intake.clock.now());
            let text = intake.metrics.encode(&entitlement.borrow(), crate::metrics::Format::OpenMetrics);
            for line in [
                r#"tollgate_usage_events_rejected_total{reason="customer"} 1"#,
                r#"tollgate_usage_events_rejected_total{reason="form"} 0"#,
            ] {
                assert!(text.lines().any(|found| found == line), "{line}: {text}");
            }
        }
    }
}
