//! Metrics: each is defined once, in a row of the table below; `just generate` writes the rows into `docs/METRICS.md`.
//!
//! The parts of the sidecar set them through [`Metrics`]; no decision depends on them. Each label has a fixed set of
//! values or an upper limit of them.

mod format;
mod row;

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::entitlement::{Entitlement, State};
use crate::program;
pub use format::Format;
use format::plain;
pub use row::Spec;
use row::{metrics, registered};
use tollgate_marketplace::DIMENSIONS_MAX;
use tollgate_time::Timestamp;

/// How an attempt to register ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AttemptLabel {
    /// `registered`, `refused`, `unverified` or `failed`.
    pub outcome: &'static str,
    /// The fault's code, empty for a success.
    pub code: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UsageEvent {
    dimension: String,
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UsageRecord {
    dimension: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MarketplaceEvent {
    kind: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DimensionLabel {
    dimension: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LicenseCall {
    operation: &'static str,
    code: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, EncodeLabelSet)]
struct LicenseSeats {
    dimension: String,
    kind: &'static str,
}

/// How many different `code` values are kept. AWS has about thirty; an impostor could send any number.
const CODES_MAX: usize = 64;

/// The ledger's figures.
#[derive(Debug, Clone, Copy, Default)]
pub struct LedgerFigures {
    /// Sealed records without a definite answer.
    pub unsent: u64,
    /// The time of the oldest of these records, and when AWS's window for it closes.
    pub oldest_unsent: Option<(Timestamp, Timestamp)>,
    /// Dead letters.
    pub dead: u64,
    /// Bytes of data.
    pub bytes: u64,
}

/// What is known about the contract's license.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LicenseFigures {
    /// The seats of each counted entitlement.
    pub seats: Vec<SeatFigures>,
    /// When the contract ends, if it has an end and that is known.
    pub end: Option<Timestamp>,
    /// When License Manager last granted a round.
    pub granted: Option<Timestamp>,
    /// When to alert if no round is granted before.
    pub alarm: Option<Timestamp>,
}

/// Seats of one entitlement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeatFigures {
    /// The entitlement's name.
    pub dimension: String,
    /// How many seats there are; `None` without a limit.
    pub max: Option<u64>,
    /// How many are taken in total, if License Manager says so.
    pub used: Option<u64>,
    /// How many this pod holds.
    pub held: u64,
}

/// The process's metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    series: Series,
    codes: std::sync::Mutex<std::collections::BTreeSet<String>>,
    dimensions: std::sync::Mutex<std::collections::BTreeSet<String>>,
    /// The existing series of seats: those of an entitlement that the license no longer has are removed.
    seats: std::sync::Mutex<std::collections::BTreeSet<LicenseSeats>>,
}

/// In seconds. AWS answers in a fraction of a second; an attempt ends after 10.
const DURATION_BUCKETS: [f64; 8] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// In seconds. An fsync takes a fraction of a millisecond on a good disk, and hundreds of milliseconds on a network
/// volume.
const COMMIT_BUCKETS: [f64; 9] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5];

metrics! {
    "The gate" {
        state: Family<StateLabel, Gauge> = Default::default() => "tollgate_entitlement_state" {
            help: "1 for the current entitlement state, 0 for the others",
            kind: "gauge, 0 or 1",
            labels: "`state`: `pending`, `entitled`, `grace`, `lapsed`, `denied`, `exhausted`, \
                     `unreported`, `misconfigured`, `unverified`, `unavailable`",
            stability: "stable",
            says: "1 for the current state, 0 for the nine others",
        }

        gate_open: Gauge = Default::default() => "tollgate_gate_open" {
            help: "1 while the gate is open",
            kind: "gauge, 0 or 1",
            labels: "–",
            stability: "stable",
            says: "1 while `/readyz` answers 200: `entitled`, `grace`, `lapsed`",
        }

        emulated: Gauge = Default::default() => "tollgate_emulated" {
            help: "1 once an answer came from the emulator",
            kind: "gauge, 0 or 1",
            labels: "–",
            stability: "stable",
            says: "1 once an answer came from the emulator",
        }
    }

    "Registration" {
        attempts: Family<AttemptLabel, Counter> = Default::default() => "tollgate_registration_attempts" {
            help: "Calls of RegisterUsage by outcome and code",
            kind: "counter, attempts",
            labels: "`outcome`: `registered`, `refused`, `unverified`, `failed`; `code`: the fault's \
                     code as in the [fault table](ARCHITECTURE.md#faults), empty for `registered`; at \
                     most 64 codes",
            stability: "stable",
            says: "calls of `RegisterUsage` that ended",
        }

        duration: Histogram = Histogram::new(DURATION_BUCKETS) => "tollgate_registration_duration_seconds" {
            help: "Duration of one attempt to register, including the search for region and credentials",
            kind: "histogram, seconds; buckets 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10",
            labels: "–",
            stability: "stable",
            says: "how long one attempt took, including the search for region and credentials",
        }

        entitled_after_refusal: Counter = Default::default() => "tollgate_entitled_after_refusal" {
            help: "Successes after a refusal in the same pod",
            kind: "counter, successes",
            labels: "–",
            stability: "stable",
            says: "times that AWS accepted a pod that it had refused before; AWS may not repeat a refusal, so \
                   investigate",
        }

        verification_failures: Family<ReasonLabel, Counter> = Default::default() => "tollgate_token_verification_failures" {
            help: "Tokens that failed verification, by reason",
            kind: "counter, tokens",
            labels: "`reason`: the verifier's code",
            stability: "stable",
            says: "tokens that failed verification; investigate each",
        }

        key_rotation: Gauge = Default::default() => "tollgate_public_key_rotation_timestamp_seconds" {
            help: "When the public key version in use was rotated, as AWS said; 0 while it is current",
            kind: "gauge, seconds since the epoch",
            labels: "–",
            stability: "stable",
            says: "when the key version in use was rotated, as AWS said; 0 while it is current",
        }

        state_write_failures: Counter = Default::default() => "tollgate_state_write_failures" {
            help: "Failed writes of the registration, or of the license and its seats, to the state folder; a restart \
                   loses what they held",
            kind: "counter, writes",
            labels: "–",
            stability: "experimental",
            says: "failed writes of the registration, or in mode `contract` of the license and its seats, to `state_dir`; a \
                   restart loses what they held",
        }

        clock_skew: Gauge<f64, AtomicU64> = Default::default() => "tollgate_clock_skew_seconds" {
            help: "AWS's clock minus the node's, from the Date of AWS's latest answer",
            kind: "gauge, seconds",
            labels: "–",
            stability: "experimental",
            says: "AWS's clock minus the node's, from the `Date` of AWS's latest answer; 0 before the first one, \
                   and when the clock is right",
        }
    }

    "License" {
        license_seats: Family<LicenseSeats, Gauge> = Default::default() => "tollgate_license_seats" {
            help: "Seats of the contract's license by dimension: sold, taken in total, held by this pod",
            kind: "gauge, seats",
            labels: "`dimension`; `kind`: `max` (sold; absent without a limit), `used` (taken in total; absent \
                     while it is unknown), `held` (by this pod; 0 in model `check`)",
            stability: "stable",
            says: "seats of each counted entitlement",
        }

        license_end: Gauge = Default::default() => "tollgate_license_end_timestamp_seconds" {
            help: "When the contract ends; 0 while that is unknown, or if it has no end",
            kind: "gauge, seconds since the epoch",
            labels: "–",
            stability: "stable",
            says: "when the contract ends; 0 while that is unknown, or if it has no end",
        }

        license_granted: Gauge = Default::default() => "tollgate_license_granted_timestamp_seconds" {
            help: "When License Manager last granted a round; 0 until then",
            kind: "gauge, seconds since the epoch",
            labels: "–",
            stability: "experimental",
            says: "when License Manager last granted a round; 0 until then",
        }

        license_alarm: Gauge = Default::default() => "tollgate_license_alarm_timestamp_seconds" {
            help: "When to alert if License Manager grants no round before: half of the time that the latest grant \
                   lasts; 0 until there is one",
            kind: "gauge, seconds since the epoch",
            labels: "–",
            stability: "experimental",
            says: "when to alert if License Manager grants no round before: after half of the time that the \
                   seats (`floating`) or `grace_period` (`check`) last, and never before a round is overdue; \
                   0 until one was granted",
        }

        license_calls: Family<LicenseCall, Counter> = Default::default() => "tollgate_license_calls" {
            help: "Calls of License Manager by operation and code",
            kind: "counter, calls",
            labels: "`operation`: `ListReceivedLicenses`, `GetLicenseUsage`, `CheckoutLicense`, \
                     `ExtendLicenseConsumption`, `CheckInLicense`; `code`: the fault's code, empty for a \
                     success; at most 64 codes, those of `tollgate_registration_attempts_total` among them",
            stability: "stable",
            says: "calls of License Manager that ended",
        }
    }

    "Usage" {
        usage_events: Family<UsageEvent, Counter> = Default::default() => "tollgate_usage_events" {
            help: "Events of the application by status",
            kind: "counter, events",
            labels: "`dimension`, empty where the content of an event is wrong; `status`: \
                     `accepted`, `duplicate`, `rejected`",
            stability: "stable",
            says: "events that the application reported",
        }

        usage_rejected: Family<ReasonLabel, Counter> = Default::default() => "tollgate_usage_events_rejected" {
            help: "Events that were rejected, by the member that is wrong",
            kind: "counter, events",
            labels: "`reason`: `form` (the event cannot be read), `id`, `dimension`, `quantity`, \
                     `timestamp`, `tags`, `customer` (also where this hour counts its account in another \
                     form), `conflict` (its `id` was used for other content)",
            stability: "stable",
            says: "events that are not counted and not billed, by the member that is wrong",
        }

        usage_refused: Family<ReasonLabel, Counter> = Default::default() => "tollgate_usage_requests_refused" {
            help: "Usage requests that were not acknowledged, by reason",
            kind: "counter, requests",
            labels: "`reason`: `bad_request`, `busy`, `ledger_full`, `ledger_unavailable`, `strict`, \
                     `unanswered` (took too long, or the client disconnected; its events may be counted), \
                     `door_product`, `door_rate`",
            stability: "stable",
            says: "usage requests that were not acknowledged; the answer told the application to send them again, \
                   or what is wrong",
        }

        usage_records: Family<UsageRecord, Counter> = Default::default() => "tollgate_usage_records" {
            help: "Outcomes of hour records",
            kind: "counter, hour records",
            labels: "`dimension`; `outcome`: `accepted`, `refused`, `unknown`, `carried`, `dead`",
            stability: "stable",
            says: "outcomes of records; a record counts again for each answer",
        }

        marketplace_events: Family<MarketplaceEvent, Counter> = Default::default() => "tollgate_marketplace_events" {
            help: "Events of AWS Marketplace about licenses and agreements, by kind and outcome",
            kind: "counter, deliveries",
            labels: "`kind`: `license_updated`, `license_deprovisioned`, `agreement_ended`, `other` (another type, \
                     and what was refused); `outcome`: `processed`, `repeated` (its `id` is known), `outdated` (a \
                     later event about the license came first), `ignored` (does not concern usage), `refused` \
                     (of another product or source, or no event), `failed` (the ledger could not be used; the \
                     sender was told to send it again)",
            stability: "experimental",
            says: "`saas`: events that reached `POST /v1/events/marketplace` with the token, once for each delivery",
        }

        unsent: Gauge = Default::default() => "tollgate_usage_unsent_records" {
            help: "Sealed hour records without a definite answer from AWS",
            kind: "gauge, hour records",
            labels: "–",
            stability: "stable",
            says: "sealed hour records without a definite answer from AWS",
        }

        oldest_unsent: Gauge = Default::default() => "tollgate_usage_oldest_unsent_timestamp_seconds" {
            help: "Time of the oldest unsent record; 0 while there is none",
            kind: "gauge, seconds since the epoch",
            labels: "–",
            stability: "stable",
            says: "time of the oldest of them, 0 while there is none; AWS takes a record for 6 h \
                   (`metered`) or 24 h (`saas`) from its time",
        }

        oldest_unsent_deadline: Gauge = Default::default() => "tollgate_usage_oldest_unsent_deadline_timestamp_seconds" {
            help: "When AWS's window for the oldest unsent record closes; 0 while there is none",
            kind: "gauge, seconds since the epoch",
            labels: "–",
            stability: "experimental",
            says: "when AWS's window for that record closes, which may be earlier at the end of a month; 0 while \
                   there is none",
        }

        dead_letters: Gauge = Default::default() => "tollgate_usage_dead_letters" {
            help: "Hour records that will not be billed unless somebody acts",
            kind: "gauge, hour records",
            labels: "–",
            stability: "stable",
            says: "hour records that are not billed unless somebody acts; without those that were replayed, \
                   confirmed or discarded",
        }

        usage_overdue: Gauge = Default::default() => "tollgate_usage_overdue_seconds" {
            help: "How long the oldest usage that AWS has not accepted has waited since the end of \
                   its hour; 0 while there is none",
            kind: "gauge, seconds",
            labels: "–",
            stability: "stable",
            says: "`metered`: the age of the oldest usage that AWS has not accepted, from the end of its hour, by the \
                   clock or by running time, whichever is longer; or how long the ledger has refused all \
                   usage, if that is longer; 0 while there is none. It is above 0 for some minutes each hour, \
                   until AWS accepts the hour's report",
        }

        usage_overdue_alarm: Gauge = Default::default() => "tollgate_usage_overdue_alarm_seconds" {
            help: "The value of tollgate_usage_overdue_seconds above which to alert: half of on_unsent, or three hours",
            kind: "gauge, seconds",
            labels: "–",
            stability: "stable",
            says: "`metered`: the value above which to alert: half of `on_unsent`, or three hours with `keep`",
        }

        unknown_dimensions: Family<DimensionLabel, Gauge> = Default::default() => "tollgate_usage_dimension_unknown" {
            help: "1 for each configured dimension that AWS does not know for this product",
            kind: "gauge, 1",
            labels: "`dimension`",
            stability: "stable",
            says: "`metered`: a configured dimension that AWS does not know for the product; its \
                   usage cannot be billed",
        }

        ledger_bytes: Gauge = Default::default() => "tollgate_ledger_bytes" {
            help: "Size of the ledger's data",
            kind: "gauge, bytes",
            labels: "–",
            stability: "stable",
            says: "data in the ledger; usage is refused at `ledger_bytes_max`",
        }

        ledger_bytes_max: Gauge = Default::default() => "tollgate_ledger_bytes_max" {
            help: "Size above which usage is refused; 0 until the ledger is open",
            kind: "gauge, bytes",
            labels: "–",
            stability: "experimental",
            says: "the limit, `ledger_bytes_max`; 0 until the ledger is open",
        }

        commit_failures: Counter = Default::default() => "tollgate_ledger_commit_failures" {
            help: "Failed reads and writes of the ledger, without writes that were refused because it is full",
            kind: "counter, writes",
            labels: "–",
            stability: "experimental",
            says: "failed reads and writes of the ledger, without writes that were refused because it is full",
        }

        commit_duration: Histogram = Histogram::new(COMMIT_BUCKETS) => "tollgate_ledger_commit_duration_seconds" {
            help: "Duration of one durable commit of usage, including its fsync",
            kind: "histogram, seconds; buckets 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5",
            labels: "–",
            stability: "experimental",
            says: "one durable commit, including its fsync; failed commits are not counted",
        }
    }
}

impl Metrics {
    /// All metrics, at their first values.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let labels =
            [("version", program::VERSION), ("revision", program::revision()), ("build", program::build())];
        let build = Info::new(labels.to_vec());
        registry.register("tollgate_build", "Version and source revision of this binary", build);
        let series = Series::register(&mut registry);
        let (codes, dimensions, seats) = Default::default();
        Self { registry, series, codes, dimensions, seats }
    }

    fn known_code(&self, code: &str) -> String {
        let mut codes = self.codes.lock().expect("held for a set insertion only, which cannot panic");
        let known = codes.contains(code) || (codes.len() < CODES_MAX && codes.insert(code.to_owned()));
        if known { code.to_owned() } else { "other".to_owned() }
    }

    /// A call of License Manager ended; `code` is the fault's, empty for a success.
    pub fn license_called(&self, operation: &'static str, code: &str) {
        let code = self.known_code(code);
        self.series.license_calls.get_or_create(&LicenseCall { operation, code }).inc();
    }

    /// Sets the license's figures.
    pub fn license(&self, figures: &LicenseFigures) {
        let seconds = |at: Option<Timestamp>| at.map_or(0, Timestamp::unix_seconds);
        self.series.license_end.set(seconds(figures.end));
        self.series.license_granted.set(seconds(figures.granted));
        self.series.license_alarm.set(seconds(figures.alarm));
        let mut shown = self.seats.lock().expect("held for set operations only, which cannot panic");
        let mut vanished = std::mem::take(&mut *shown);
        for seats in figures.seats.iter().take(DIMENSIONS_MAX) {
            for (kind, count) in [("max", seats.max), ("used", seats.used), ("held", Some(seats.held))] {
                let Some(count) = count else { continue };
                let label = LicenseSeats { dimension: seats.dimension.clone(), kind };
                let count = i64::try_from(count).unwrap_or(i64::MAX);
                self.series.license_seats.get_or_create(&label).set(count);
                vanished.remove(&label);
                shown.insert(label);
            }
        }
        for label in vanished {
            self.series.license_seats.remove(&label);
        }
    }

    /// An attempt to register ended after `seconds`.
    pub fn attempted(&self, outcome: &'static str, code: &str, seconds: f64) {
        let code = self.known_code(code);
        self.series.attempts.get_or_create(&AttemptLabel { outcome, code }).inc();
        self.series.duration.observe(seconds);
    }

    /// An event was `accepted`, `duplicate` or `rejected`.
    pub fn usage_event(&self, dimension: &str, status: &'static str, count: u64) {
        let dimension = self.known_dimension(dimension);
        self.series.usage_events.get_or_create(&UsageEvent { dimension, status }).inc_by(count);
    }

    /// An event was rejected; `reason` is the member that is wrong, or `conflict`.
    pub fn usage_event_rejected(&self, reason: &'static str, count: u64) {
        self.series.usage_rejected.get_or_create(&ReasonLabel { reason }).inc_by(count);
    }

    /// A request with usage was not acknowledged.
    pub fn usage_request_refused(&self, reason: &'static str, count: u64) {
        self.series.usage_refused.get_or_create(&ReasonLabel { reason }).inc_by(count);
    }

    /// An event of AWS Marketplace was delivered.
    pub fn marketplace_event(&self, kind: &'static str, outcome: &'static str) {
        self.series.marketplace_events.get_or_create(&MarketplaceEvent { kind, outcome }).inc();
    }

    /// An hour record was `accepted`, `refused`, `unknown`, `carried` or `dead`.
    pub fn usage_record(&self, dimension: &str, outcome: &'static str) {
        let dimension = self.known_dimension(dimension);
        self.series.usage_records.get_or_create(&UsageRecord { dimension, outcome }).inc();
    }

    /// Sets the ledger's figures.
    pub fn ledger(&self, figures: LedgerFigures) {
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let (oldest, deadline) = figures.oldest_unsent.unzip();
        self.series.unsent.set(gauge(figures.unsent));
        self.series.oldest_unsent.set(oldest.map_or(0, Timestamp::unix_seconds));
        self.series.oldest_unsent_deadline.set(deadline.map_or(0, Timestamp::unix_seconds));
        self.series.dead_letters.set(gauge(figures.dead));
        self.series.ledger_bytes.set(gauge(figures.bytes));
    }

    /// The age of the oldest usage that AWS has not accepted.
    pub fn usage_overdue(&self, age: Duration) {
        self.series.usage_overdue.set(i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
    }

    /// The age of usage above which to alert.
    pub fn usage_overdue_alarm(&self, age: Duration) {
        self.series.usage_overdue_alarm.set(i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
    }

    /// AWS does not know a dimension that is configured.
    pub fn dimension_unknown(&self, dimension: &str) {
        let dimension = self.known_dimension(dimension);
        self.series.unknown_dimensions.get_or_create(&DimensionLabel { dimension }).set(1);
    }

    /// A commit took `seconds`.
    pub fn committed(&self, seconds: f64) {
        self.series.commit_duration.observe(seconds);
    }

    /// The registration, or the license, could not be written to the state folder.
    pub fn state_write_failed(&self) {
        self.series.state_write_failures.inc();
    }

    /// The ledger could not be written, or read.
    pub fn commit_failed(&self) {
        self.series.commit_failures.inc();
    }

    /// Sets the size above which usage is refused.
    pub fn ledger_bytes_max(&self, bytes: u64) {
        self.series.ledger_bytes_max.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    fn known_dimension(&self, dimension: &str) -> String {
        // Of an event that could not be read; it does not count towards the limit.
        if dimension.is_empty() {
            return String::new();
        }
        let mut known = self.dimensions.lock().expect("held for a set insertion only, which cannot panic");
        let kept =
            known.contains(dimension) || (known.len() < DIMENSIONS_MAX && known.insert(dimension.to_owned()));
        if kept { dimension.to_owned() } else { "other".to_owned() }
    }

    /// A token failed verification; `reason` is the verifier's code.
    pub fn verification_failed(&self, reason: &'static str) {
        self.series.verification_failures.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// AWS accepted this pod after it had refused it.
    pub fn entitled_after_refusal(&self) {
        self.series.entitled_after_refusal.inc();
    }

    /// Sets AWS's clock minus the node's, in seconds.
    #[expect(clippy::cast_precision_loss, reason = "seconds of skew are far below 2^52")]
    pub fn clock_skew(&self, seconds: i64) {
        self.series.clock_skew.set(seconds as f64);
    }

    /// The scraped text, with `entitlement` as the current fact.
    #[must_use]
    pub fn encode(&self, entitlement: &Entitlement, format: Format) -> String {
        for state in State::ALL {
            let label = StateLabel { state: state.as_str() };
            self.series.state.get_or_create(&label).set(i64::from(entitlement.standing.state() == state));
        }
        let rotated = entitlement.public_key_rotation_timestamp;
        self.series.key_rotation.set(rotated.map_or(0, Timestamp::unix_seconds));
        self.series.gate_open.set(i64::from(entitlement.standing.gate_open()));
        self.series.emulated.set(i64::from(entitlement.emulated));
        let mut text = String::new();
        text::encode(&mut text, &self.registry).expect("writing to a string cannot fail");
        match format {
            Format::OpenMetrics => text,
            Format::Text => plain(&text),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn entitlement() -> std::sync::Arc<Entitlement> {
        let (_publisher, watch) = crate::entitlement::channel(Timestamp::from_unix_seconds(0));
        std::sync::Arc::clone(&watch.borrow())
    }

    #[test]
    fn after_two_hundred_dimensions_the_rest_is_other_and_nothing_is_lost() {
        let metrics = Metrics::new();
        for index in 0..1000 {
            metrics.usage_event(&format!("dimension-{index}"), "accepted", 1);
        }
        metrics.usage_event("", "rejected", 3);
        metrics.usage_record("dimension-199", "accepted");
        metrics.usage_record("dimension-200", "accepted");
        let text = metrics.encode(&entitlement(), Format::Text);
        let events: Vec<&str> =
            text.lines().filter(|line| line.starts_with("tollgate_usage_events_total{")).collect();
        assert_eq!(events.len(), 202, "200 of them, other, and the empty one of the rejected");
        for line in [
            "tollgate_usage_events_total{dimension=\"other\",status=\"accepted\"} 800",
            "tollgate_usage_events_total{dimension=\"\",status=\"rejected\"} 3",
            "tollgate_usage_records_total{dimension=\"dimension-199\",outcome=\"accepted\"} 1",
            "tollgate_usage_records_total{dimension=\"other\",outcome=\"accepted\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}");
        }
    }

    #[test]
    fn seats_of_an_entitlement_that_the_license_no_longer_has_are_not_shown() {
        let metrics = Metrics::new();
        let seats = |dimension: &str, max, used, held| SeatFigures {
            dimension: dimension.to_owned(),
            max,
            used,
            held,
        };
        let shown = |figures: &LicenseFigures| -> Vec<String> {
            metrics.license(figures);
            let text = metrics.encode(&entitlement(), Format::Text);
            let mut lines: Vec<String> = text
                .lines()
                .filter(|line| line.starts_with("tollgate_license_"))
                .map(str::to_owned)
                .collect();
            lines.sort();
            lines
        };
        let end = Some(Timestamp::from_unix_seconds(9000));
        let both = vec![seats("users", Some(10), Some(4), 1), seats("nodes", None, None, 2)];
        let [granted, alarm] = [60, 90].map(|at| Some(Timestamp::from_unix_seconds(at)));
        assert_eq!(
            shown(&LicenseFigures { seats: both, end, granted, alarm }),
            [
                "tollgate_license_alarm_timestamp_seconds 90",
                "tollgate_license_end_timestamp_seconds 9000",
                "tollgate_license_granted_timestamp_seconds 60",
                "tollgate_license_seats{dimension=\"nodes\",kind=\"held\"} 2",
                "tollgate_license_seats{dimension=\"users\",kind=\"held\"} 1",
                "tollgate_license_seats{dimension=\"users\",kind=\"max\"} 10",
                "tollgate_license_seats{dimension=\"users\",kind=\"used\"} 4",
            ]
        );
        let one = vec![seats("users", Some(12), None, 0)];
        let left = shown(&LicenseFigures { seats: one, ..LicenseFigures::default() });
        assert_eq!(left.len(), 5, "{left:?}");
        assert!(left.contains(&"tollgate_license_seats{dimension=\"users\",kind=\"max\"} 12".to_owned()));
        assert!(left.contains(&"tollgate_license_end_timestamp_seconds 0".to_owned()));
    }

    #[test]
    fn seats_have_as_many_series_as_a_product_has_dimensions() {
        let metrics = Metrics::new();
        let seats = (0..1000).map(|index| SeatFigures {
            dimension: format!("d{index}"),
            max: Some(1),
            used: Some(1),
            held: 1,
        });
        metrics.license(&LicenseFigures { seats: seats.collect(), ..LicenseFigures::default() });
        metrics.license_called("CheckoutLicense", "");
        for index in 0..1000 {
            metrics.license_called("CheckoutLicense", &format!("Code{index}"));
        }
        let text = metrics.encode(&entitlement(), Format::Text);
        let series = |name: &str| text.lines().filter(|line| line.starts_with(name)).count();
        assert_eq!(series("tollgate_license_seats{"), 3 * DIMENSIONS_MAX);
        assert_eq!(series("tollgate_license_calls_total{"), CODES_MAX + 1);
    }

    /// The application chooses the names of dimensions; no name may create a sample of its own.
    #[test]
    fn no_name_breaks_out_of_its_label() {
        let metrics = Metrics::new();
        metrics.usage_event("x\"} 1\ntollgate_gate_open 1\n\\", "accepted", 1);
        metrics.attempted("failed", "A\nB\"", 0.1);
        let text = metrics.encode(&entitlement(), Format::Text);
        assert!(text.contains(r#"dimension="x\"} 1\ntollgate_gate_open 1\n\\",status="accepted""#), "{text}");
        let opened: Vec<&str> = text.lines().filter(|line| line.starts_with("tollgate_gate_open")).collect();
        assert_eq!(opened, ["tollgate_gate_open 0"]);
    }
}
