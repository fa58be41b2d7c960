//! The sender with paused time and a service that bills as AWS does: one value for each pod, dimension and hour,
//! whatever answers are lost.

mod model;
mod scenes;

use super::*;
use crate::entitlement::refusal_update::{self, RefusalReceiver};
use tollgate_ledger::Ledger;
use tollgate_ledger::testing::{self, SETTLE, START};
use tollgate_ledger::writer::Writer;
use tollgate_marketplace::scripted::{Act, Scripted};
use tollgate_marketplace::{Customer, Hour, Quantity, TagSet};
use tollgate_metering::batch;
use tollgate_metering::event::Event;
use tollgate_metering::policy::Window;
use tollgate_metering::record::RecordState;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

const ACCEPTED: RecordState = RecordState::Accepted { unconfirmed: false };
const CARRIED: RecordState = RecordState::Carried { in_doubt: false };

const UNKNOWN: Act = Act::Fail(FaultClass::Misconfigured, "InvalidUsageDimensionException");

struct Bench {
    _folder: tempfile::TempDir,
    service: Arc<Scripted>,
    writer: Writer,
    clock: WallClock,
    flushes: mpsc::Sender<FlushOrder>,
    refusal_receiver: RefusalReceiver,
}

impl Bench {
    fn start(service: Scripted, outlet: Outlet) -> Self {
        let (bench, sender) = Self::with_sender(service, outlet);
        tokio::spawn(sender.run());
        bench
    }

    /// With a new ledger and a sender that does not run yet.
    fn with_sender(service: Scripted, outlet: Outlet) -> (Self, Sender) {
        let folder = testing::folder();
        let clock = WallClock::fixed(START);
        let ledger = Ledger::open(folder.path(), testing::settings("pod")).unwrap();
        let metrics = Arc::new(Metrics::new());
        let writer = Writer::inline(ledger, clock.clone());
        let window = match outlet {
            Outlet::MeterUsage => Window::MeterUsage,
            Outlet::BatchMeterUsage => Window::BatchMeterUsage,
        };
        let policy = SendingPolicy {
            pod: "pod".into(),
            window,
            carry_expired: true,
            settle: SETTLE,
            phase: Duration::ZERO,
        };
        let settings = SenderSettings { product_code: "demometered".parse().unwrap(), outlet, policy };
        let (flushes, flushed) = mpsc::channel(1);
        let (refusal_sender, refusal_receiver) = refusal_update::channel();
        let service = Arc::new(service);
        let aws: Arc<dyn Meter> = Arc::clone(&service) as Arc<dyn Meter>;
        let sender = Sender::new(settings, aws, &writer, clock.clone(), metrics, refusal_sender, flushed);
        (Self { _folder: folder, service, writer, clock, flushes, refusal_receiver }, sender)
    }

    async fn take(&self, account: &str, dimension: &str, micros: u64) {
        let customer = match account {
            "" => Customer::Own,
            account => Customer::Account { account_id: account.into(), license_arn: None },
        };
        let event = Event {
            id: None,
            dimension: dimension.into(),
            quantity: Quantity::from_micros(micros).unwrap().into(),
            at: self.clock.now(),
            tags: TagSet::default(),
            customer,
            content: [0; 32],
        };
        self.writer.take(vec![event], Box::new(())).await.unwrap();
    }

    /// Advances the wall clock in steps, as the emulator's clock does, until `done` holds for all records.
    async fn pass_until(&self, step: Duration, done: impl Fn(&[Record]) -> bool) -> Vec<Record> {
        for _ in 0..200 {
            tokio::time::sleep(Duration::from_secs(30)).await;
            let records = self.writer.with(|ledger| ledger.records(1000)).await.unwrap();
            let totals = self.writer.with(|ledger| ledger.totals()).await.unwrap();
            assert!(totals.values().all(|totals| totals.balances()), "{totals:?}");
            if done(&records) {
                return records;
            }
            self.clock.advance(step);
        }
        panic!("it never came true: {:?}", self.writer.with(|ledger| ledger.records(1000)).await);
    }

    async fn flush(&self, seal_open_hour: bool) {
        let (done, flushed) = oneshot::channel();
        let until = clock::monotonic() + Duration::from_secs(19);
        let flush = if seal_open_hour { Flush::Final } else { Flush::Immediate };
        self.flushes.send(FlushOrder { flush, until, done }).await.unwrap();
        tokio::select! {
            flushed = flushed => flushed.unwrap(),
            () = run(&self.clock) => {}
        }
    }
}

/// Lets the wall clock follow the paused time.
async fn run(clock: &WallClock) {
    const TICK: Duration = Duration::from_secs(1);
    loop {
        tokio::time::sleep(TICK).await;
        clock.advance(TICK);
    }
}

impl Sender {
    /// One check of the hours, and all calls that follow from it.
    async fn look_once(&mut self, flush: Flush) -> Result<(), LedgerError> {
        if flush == Flush::Scheduled {
            self.sweep_at = Duration::ZERO;
            self.look().await?;
        } else {
            let until = clock::monotonic() + HOUR;
            self.take_order(FlushOrder { flush, until, done: oneshot::channel().0 });
            self.look().await?;
        }
        loop {
            self.write_notes().await?;
            while self.to_release > 0 {
                self.release().await?;
            }
            let next = self.start_calls().await?;
            if let Some(landed) = self.calls.join_next().await {
                self.landed(landed)?;
                continue;
            }
            match next.filter(|at| *at <= self.uptime() + Duration::from_millis(150)) {
                Some(at) => tokio::time::sleep_until(self.began + at).await,
                None if self.notes.is_empty() => break,
                None => {}
            }
        }
        self.order = None;
        Ok(())
    }
}

fn all(state: RecordState) -> impl Fn(&[Record]) -> bool {
    move |records| !records.is_empty() && records.iter().all(|record| record.state == state)
}

#[tokio::test(start_paused = true)]
async fn a_closed_hour_is_billed_once_whatever_is_lost_or_throttled() {
    let throttled = Act::Fail(FaultClass::Transient, "ThrottlingException");
    let acts = [throttled, Act::Lose, Act::Fail(FaultClass::Transient, "Dns"), Act::Lose, Act::Lose];
    let service = Scripted::in_turn(acts);
    let bench = Bench::start(service, Outlet::MeterUsage);
    bench.take("", "requests", 5_000_000).await;
    let records = bench.pass_until(20 * MINUTE, all(ACCEPTED)).await;
    assert_eq!((records.len(), bench.service.billed()), (1, 5_000_000));
    assert_eq!(records[0].attempts, 6);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_before_the_hour_has_settled() {
    let bench = Bench::start(Scripted::always(Act::Accept), Outlet::MeterUsage);
    bench.take("", "requests", 1).await;
    bench.clock.advance(HOUR + SETTLE - MINUTE);
    tokio::time::sleep(10 * MINUTE).await;
    assert!(bench.service.calls().is_empty());
    bench.clock.advance(MINUTE);
    bench.pass_until(Duration::ZERO, all(ACCEPTED)).await;
}

#[tokio::test(start_paused = true)]
async fn a_record_in_doubt_past_its_window_is_a_dead_letter_and_never_carried() {
    let unreachable = std::iter::repeat(Act::Fail(FaultClass::Transient, "Dns"));
    let acts = std::iter::once(Act::Lose).chain(unreachable.take(10_000));
    let bench = Bench::start(Scripted::in_turn(acts), Outlet::MeterUsage);
    bench.take("", "requests", 7).await;
    let records = bench.pass_until(20 * MINUTE, all(RecordState::Dead { in_doubt: true })).await;
    assert_eq!(records[0].code.as_deref(), Some("in_doubt"));
    assert_eq!(bench.service.billed(), 7, "it was billed, and carried it would be billed twice");
}

#[tokio::test(start_paused = true)]
async fn usage_that_was_never_taken_in_its_window_counts_to_a_later_hour() {
    let acts = std::iter::repeat_n(Act::Fail(FaultClass::Transient, "Dns"), 60);
    let bench = Bench::start(Scripted::in_turn(acts), Outlet::MeterUsage);
    bench.take("", "requests", 7).await;
    let some_accepted = |records: &[Record]| records.iter().any(|record| record.state == ACCEPTED);
    let records = bench.pass_until(20 * MINUTE, some_accepted).await;
    let carried = records.iter().find(|record| record.state == CARRIED).expect("the first hour was carried");
    assert_eq!(carried.hour, Hour::of(START));
    let accepted = records.iter().find(|record| record.state == ACCEPTED).unwrap();
    assert_eq!(accepted.late_from, Some(Hour::of(START)));
    assert_eq!(bench.service.billed(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_to_the_gate_and_its_records_are_kept() {
    let denied = Act::Fail(FaultClass::Denied, "CustomerNotEntitledException");
    let service = Scripted::in_turn([denied, denied]);
    let mut bench = Bench::start(service, Outlet::MeterUsage);
    bench.take("", "requests", 3).await;
    bench.clock.advance(HOUR + SETTLE);
    bench.refusal_receiver.wait_for(|update| update.refusal.is_some()).await.unwrap();
    bench.refusal_receiver.wait_for(|update| update.refusal.is_none()).await.unwrap();
    bench.pass_until(Duration::ZERO, all(ACCEPTED)).await;
    assert_eq!(bench.service.billed(), 3);
}

/// The replica that sends shows them. Alerts add the replicas up.
#[tokio::test(start_paused = true)]
async fn the_figures_of_a_sender_that_is_replaced_fall_to_0() {
    let (bench, sender) = Bench::with_sender(
        Scripted::always(Act::Fail(FaultClass::Transient, "Dns")),
        Outlet::BatchMeterUsage,
    );
    let metrics = Arc::clone(&sender.metrics);
    let sending = tokio::spawn(sender.run());
    let (_publisher, entitlement) = crate::entitlement::channel(START);
    let gauge = |name: &str| -> i64 {
        let text = metrics.encode(&entitlement.borrow(), crate::metrics::Format::Text);
        let value = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        value.unwrap_or_else(|| panic!("{name}: {text}")).parse().unwrap()
    };
    let gauges = [
        "tollgate_usage_unsent_records",
        "tollgate_usage_oldest_unsent_timestamp_seconds",
        "tollgate_usage_oldest_unsent_deadline_timestamp_seconds",
        "tollgate_ledger_bytes",
    ];
    bench.take("111122223333", "requests", 7).await;
    bench.clock.advance(HOUR + SETTLE);
    while gauge(gauges[0]) == 0 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(gauges.into_iter().all(|name| gauge(name) > 0));
    let (done, handed_over) = oneshot::channel();
    let until = clock::monotonic() + MINUTE;
    bench.flushes.send(FlushOrder { flush: Flush::HandOver, until, done }).await.unwrap();
    handed_over.await.unwrap();
    assert!(matches!(sending.await.unwrap().0, LedgerError::NotLeading));
    for name in gauges.into_iter().chain(["tollgate_usage_dead_letters"]) {
        assert_eq!(gauge(name), 0, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_seals_the_open_hour_and_sends_it() {
    let throttled = Act::Fail(FaultClass::Transient, "ThrottlingException");
    let service = Scripted::in_turn([throttled, Act::Lose]);
    let bench = Bench::start(service, Outlet::MeterUsage);
    bench.take("", "requests", 3).await;
    bench.take("", "gigabytes", 4).await;
    bench.flush(true).await;
    assert_eq!(bench.service.billed(), 7);
    let records = bench.writer.with(|ledger| ledger.records(10)).await.unwrap();
    assert!(all(ACCEPTED)(&records), "{records:?}");
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_that_must_not_seal_leaves_the_open_hour_on_disk() {
    let bench = Bench::start(Scripted::always(Act::Accept), Outlet::MeterUsage);
    bench.take("", "requests", 3).await;
    bench.flush(false).await;
    assert_eq!(bench.service.billed(), 0);
    assert_eq!(bench.writer.with(|ledger| ledger.totals()).await.unwrap()["requests"].pending, 3);
}

#[tokio::test(start_paused = true)]
async fn a_batch_has_25_records_at_most_and_one_poisoned_record_spoils_no_other() {
    let service = Scripted::new(|call| if call.names_dimension("unknown") { UNKNOWN } else { Act::Accept });
    let bench = Bench::start(service, Outlet::BatchMeterUsage);
    for account in 0..30 {
        bench.take(&account.to_string(), "requests", 1).await;
    }
    bench.take("7", "unknown", 1).await;
    bench.clock.advance(HOUR + SETTLE);
    let settled =
        |records: &[Record]| !records.is_empty() && records.iter().all(|r| r.state != RecordState::FRESH);
    let records = bench.pass_until(Duration::ZERO, settled).await;
    let dead: Vec<&str> = records
        .iter()
        .filter(|record| record.state == RecordState::Dead { in_doubt: false })
        .map(|record| record.dimension.as_str())
        .collect();
    assert_eq!(dead, ["unknown"]);
    assert_eq!(bench.service.billed(), 30);
    assert!(bench.service.calls().iter().all(|call| call.records().len() <= batch::RECORDS_MAX));
}

#[tokio::test(start_paused = true)]
async fn a_customer_without_subscription_is_asked_about_again_and_holds_up_nobody() {
    let service = Scripted::always(Act::Accept).without_subscription(["1".into()]);
    let bench = Bench::start(service, Outlet::BatchMeterUsage);
    bench.take("1", "requests", 5).await;
    bench.take("2", "requests", 6).await;
    bench.clock.advance(HOUR + SETTLE);
    let one = |records: &[Record]| records.iter().any(|record| record.state == ACCEPTED);
    bench.pass_until(Duration::ZERO, one).await;
    let calls = bench.service.calls().len();
    bench.clock.advance(3 * MINUTE);
    tokio::time::sleep(3 * MINUTE).await;
    assert_eq!(bench.service.calls().len(), calls, "not again at once");
    let asked = |_: &[Record]| bench.service.calls().len() > calls;
    bench.pass_until(2 * MINUTE, asked).await;
    assert_eq!(bench.service.billed(), 6);
}

#[tokio::test(start_paused = true)]
async fn usage_that_aws_calls_out_of_bounds_is_carried_and_billed() {
    let out = Act::Fail(FaultClass::Misconfigured, "TimestampOutOfBoundsException");
    let service = Scripted::in_turn([out]);
    let bench = Bench::start(service, Outlet::MeterUsage);
    bench.take("", "requests", 7).await;
    let some_accepted = |records: &[Record]| records.iter().any(|record| record.state == ACCEPTED);
    let records = bench.pass_until(20 * MINUTE, some_accepted).await;
    let states: Vec<RecordState> = records.iter().map(|record| record.state).collect();
    assert_eq!((states, bench.service.billed()), (vec![CARRIED, ACCEPTED], 7));
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_duplicate_is_a_dead_letter_that_keeps_its_doubt_and_has_none_of_its_own() {
    let duplicate = Act::Fail(FaultClass::Misconfigured, "DuplicateRequestException");
    let lost = Act::Fail(FaultClass::Transient, "Connection");
    for (acts, in_doubt) in [(vec![duplicate], false), (vec![lost, duplicate], true)] {
        let service = Scripted::in_turn(acts);
        let bench = Bench::start(service, Outlet::MeterUsage);
        bench.take("", "requests", 7).await;
        let records = bench.pass_until(20 * MINUTE, all(RecordState::Dead { in_doubt })).await;
        assert_eq!(records[0].code.as_deref(), Some("DuplicateRequestException"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_signature_of_another_time_is_made_again_at_once() {
    let service = Scripted::in_turn([Act::Skewed(-900)]);
    let bench = Bench::start(service, Outlet::MeterUsage);
    bench.take("", "requests", 7).await;
    bench.pass_until(20 * MINUTE, all(ACCEPTED)).await;
    let signings: Vec<Signing> = bench.service.calls().iter().map(|call| call.signing).collect();
    let expected = Signing { reload_credentials: true };
    assert_eq!(signings, [Signing::default(), expected]);
}

#[tokio::test(start_paused = true)]
async fn credentials_are_loaded_anew_after_a_fault_of_access_and_not_for_a_throttle() {
    let acts = [
        Act::Fail(FaultClass::Transient, "ThrottlingException"),
        Act::Fail(FaultClass::ExpiredSession, "ExpiredTokenException"),
        Act::Fail(FaultClass::Transient, "ThrottlingException"),
    ];
    let bench = Bench::start(Scripted::in_turn(acts), Outlet::MeterUsage);
    bench.take("", "requests", 7).await;
    bench.pass_until(20 * MINUTE, all(ACCEPTED)).await;
    let reloads: Vec<bool> =
        bench.service.calls().iter().map(|call| call.signing.reload_credentials).collect();
    assert_eq!(reloads, [false, false, true, false]);
}

#[tokio::test(start_paused = true)]
async fn more_records_that_wait_than_are_looked_at_at_once_hide_no_other() {
    let strangers: Vec<String> = (0..1100).map(|account| account.to_string()).collect();
    let service = Scripted::always(Act::Accept).without_subscription(strangers.clone());
    let bench = Bench::start(service, Outlet::BatchMeterUsage);
    let event = |account: &str, at| Event {
        id: None,
        dimension: "requests".into(),
        quantity: Quantity::from_micros(1).unwrap().into(),
        at,
        tags: TagSet::default(),
        customer: Customer::Account { account_id: account.into(), license_arn: None },
        content: [0; 32],
    };
    let events = strangers.iter().map(|account| event(account, START)).collect();
    bench.writer.take(events, Box::new(())).await.unwrap();
    bench.clock.advance(HOUR + SETTLE);
    let asked = |records: &[Record]| !records.is_empty() && records.iter().all(|record| record.attempts > 0);
    bench.pass_until(Duration::ZERO, asked).await;
    bench.take("9999", "requests", 5).await;
    bench.clock.advance(HOUR);
    let billed = |_: &[Record]| bench.service.billed() == 5;
    bench.pass_until(Duration::ZERO, billed).await;
}

#[tokio::test(start_paused = true)]
async fn an_exception_that_no_document_names_stops_no_other_customer() {
    // The first record goes alone, to show whether AWS answers; then the batch is refused once as a whole and once as a
    // half.
    let strange = Act::Fail(FaultClass::Misconfigured, "SomethingNewException");
    let service = Scripted::in_turn([strange, strange, strange]);
    let bench = Bench::start(service, Outlet::BatchMeterUsage);
    for account in ["1", "2", "3", "4", "5"] {
        bench.take(account, "requests", 1).await;
    }
    bench.clock.advance(HOUR + SETTLE);
    bench.pass_until(Duration::ZERO, |_| bench.service.billed() == 4).await;
    let calls: Vec<usize> = bench.service.calls().iter().map(|call| call.records().len()).collect();
    assert_eq!(calls, [1, 4, 2, 2, 1, 1]);
    bench.pass_until(6 * MINUTE, all(ACCEPTED)).await;
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_does_not_wait_for_a_long_backlog_and_begins_nothing_after_its_time() {
    let bench = Bench::start(Scripted::always(Act::Accept), Outlet::MeterUsage);
    for dimension in 0..300 {
        bench.take("", &format!("d{dimension:03}"), 1).await;
    }
    bench.clock.advance(HOUR + SETTLE);
    // The backlog takes 33 s at less than ten calls a second.
    tokio::time::sleep(Duration::from_secs(3)).await;
    bench.take("", "last", 5).await;
    let began = clock::monotonic();
    bench.flush(true).await;
    assert!(clock::monotonic().duration_since(began) <= Duration::from_secs(20));
    let sealed = bench.writer.with(|ledger| ledger.records(1000)).await.unwrap();
    assert!(sealed.iter().any(|record| record.dimension == "last"), "the open hour is sealed");
    let calls = bench.service.calls().len();
    assert!((150..260).contains(&calls), "{calls} calls in 22 s");
}
