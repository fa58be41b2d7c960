//! What a buyer can do to keep usage from AWS: ledger, sender and watch with paused time, against a service with set
//! answers. Running time passes; the buyer moves the wall clock.

use tokio::sync::mpsc;

use super::*;
use crate::entitlement::refusal_update::{self, RefusalReceiver};
use crate::usage::sender::{Outlet, Sender, SenderSettings};
use tollgate_ledger::repair::{Repair, Repaired};
use tollgate_ledger::testing::{self, SETTLE, START};
use tollgate_marketplace::scripted::{Act, Scripted};
use tollgate_marketplace::{Customer, FaultClass, Meter, Quantity, TagSet};
use tollgate_metering::event::Event;
use tollgate_metering::policy::{SendingPolicy, Window};
use tollgate_metering::record::{Record, RecordState};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
/// Shorter than the configuration allows, because an hour takes thousands of checks.
const CLOSE_AFTER: Duration = Duration::from_secs(1800);

struct Bench {
    folder: tempfile::TempDir,
    service: Arc<Scripted>,
    metrics: Arc<Metrics>,
    clock: WallClock,
    close_after: Option<Duration>,
    bytes_max: u64,
    notices: Notices,
    process: Option<Process>,
}

/// The parts of one process.
struct Process {
    writer: Writer,
    refusal_receiver: RefusalReceiver,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    _flushes: mpsc::Sender<crate::usage::sender::FlushOrder>,
}

impl Bench {
    async fn new(close_after: Option<Duration>) -> Self {
        let metrics = Arc::new(Metrics::new());
        let mut bench = Self {
            folder: testing::folder(),
            service: Arc::new(Scripted::always(Act::Accept)),
            notices: Notices::new(Arc::clone(&metrics)),
            metrics,
            bytes_max: testing::settings("pod").bytes_max,
            clock: WallClock::fixed(START),
            close_after,
            process: None,
        };
        bench.restart().await;
        bench
    }

    async fn restart(&mut self) {
        if let Some(process) = self.process.take() {
            process.tasks.iter().for_each(tokio::task::JoinHandle::abort);
            for task in process.tasks {
                let _ = task.await;
            }
        }
        self.notices = Notices::new(Arc::clone(&self.metrics));
        let settings =
            tollgate_ledger::LedgerSettings { bytes_max: self.bytes_max, ..testing::settings("pod") };
        let ledger = Ledger::open(self.folder.path(), settings).unwrap();
        let writer = Writer::inline(ledger, self.clock.clone());
        let policy = SendingPolicy {
            pod: "pod".into(),
            window: Window::MeterUsage,
            carry_expired: true,
            settle: SETTLE,
            phase: Duration::ZERO,
        };
        let product_code = "demometered".parse().unwrap();
        let settings = SenderSettings { product_code, outlet: Outlet::MeterUsage, policy };
        let (refusal_sender, refusal_receiver) = refusal_update::channel();
        let (flushes, flushed) = mpsc::channel(1);
        let (clock, metrics) = (self.clock.clone(), Arc::clone(&self.metrics));
        let rule = Rule { close_after: self.close_after };
        let mut unsent = Unsent::new(
            rule,
            writer.clone(),
            clock.clone(),
            Arc::clone(&metrics),
            refusal_sender.clone(),
            self.notices.clone(),
        );
        unsent.look().await.unwrap();
        let aws: Arc<dyn Meter> = Arc::clone(&self.service) as Arc<dyn Meter>;
        let sender = Sender::new(settings, aws, &writer, clock, metrics, refusal_sender, flushed);
        let sending = tokio::spawn(async move {
            let _ = sender.run().await;
        });
        let watching = tokio::spawn(async move {
            let _ = unsent.run().await;
        });
        self.process =
            Some(Process { writer, refusal_receiver, tasks: vec![sending, watching], _flushes: flushes });
    }

    fn process(&self) -> &Process {
        self.process.as_ref().unwrap()
    }

    async fn report(&self) {
        let event = Event {
            id: None,
            dimension: "requests".into(),
            quantity: Quantity::from_micros(5_000_000).unwrap().into(),
            at: self.clock.now(),
            tags: TagSet::default(),
            customer: Customer::Own,
            content: [0; 32],
        };
        self.process().writer.take(vec![event], Box::new(())).await.unwrap();
    }

    /// Lets time pass in steps; `clock` moves the wall clock at each.
    async fn pass(&self, time: Duration, mut clock: impl FnMut(&WallClock)) {
        let mut passed = Duration::ZERO;
        while passed < time {
            clock(&self.clock);
            tokio::time::sleep(MINUTE).await;
            passed += MINUTE;
        }
    }

    fn unreported(&self) -> bool {
        self.process().refusal_receiver.borrow().unreported.is_some()
    }

    async fn records(&self) -> Vec<Record> {
        self.process().writer.with(|ledger| ledger.records(100)).await.unwrap()
    }

    fn metric(&self, name: &str) -> i64 {
        let (_publisher, watch) = crate::entitlement::channel(START);
        let text = self.metrics.encode(&watch.borrow(), crate::metrics::Format::Text);
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} "))).unwrap();
        line.parse().unwrap()
    }
}

fn right(clock: &WallClock) {
    clock.advance(MINUTE);
}

fn stopped(_: &WallClock) {}

#[tokio::test(start_paused = true)]
async fn usage_that_aws_accepts_never_shuts_the_gate() {
    let bench = Bench::new(Some(CLOSE_AFTER)).await;
    for _ in 0..3 {
        bench.report().await;
        bench.pass(HOUR, right).await;
        assert!(!bench.unreported());
        assert!(bench.metric("tollgate_usage_overdue_seconds") <= 180, "settling, and a minute of counting");
    }
}

#[tokio::test(start_paused = true)]
async fn a_network_that_is_cut_after_the_gate_opened_shuts_it_until_aws_has_accepted_the_usage() {
    for (class, code) in [(FaultClass::Transient, "Dns"), (FaultClass::Access, "CredentialsUnavailable")] {
        let mut bench = Bench::new(Some(CLOSE_AFTER)).await;
        assert_eq!(bench.metric("tollgate_usage_overdue_alarm_seconds"), 900, "half of it");
        bench.service.turns_to(Act::Fail(class, code));
        bench.report().await;
        bench.pass(HOUR + CLOSE_AFTER, right).await;
        assert!(!bench.unreported(), "not yet, {code}");
        bench.pass(5 * MINUTE, right).await;
        assert!(bench.unreported(), "{code}");
        assert!(bench.metric("tollgate_usage_overdue_seconds") > 1800);
        bench.restart().await;
        assert!(bench.unreported(), "a restart is no way around it, {code}");
        bench.service.turns_to(Act::Accept);
        bench.pass(10 * MINUTE, right).await;
        assert!(!bench.unreported(), "accepted, {code}");
        assert_eq!(bench.metric("tollgate_usage_overdue_seconds"), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn usage_that_missed_its_window_keeps_its_age() {
    let bench = Bench::new(Some(CLOSE_AFTER)).await;
    bench.service.turns_to(Act::Fail(FaultClass::Transient, "Dns"));
    bench.report().await;
    bench.pass(6 * HOUR + 10 * MINUTE, right).await;
    assert!(bench.unreported());
    let carried = RecordState::Carried { in_doubt: false };
    assert!(bench.records().await.iter().any(|record| record.state == carried));
    bench.service.turns_to(Act::Accept);
    bench.pass(HOUR + 10 * MINUTE, right).await;
    assert!(!bench.unreported(), "its later hour is billed: {:?}", bench.records().await);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_or_held_gains_nothing() {
    type Hold = fn(&WallClock);
    let holds: [(&str, Hold); 3] = [
        ("stopped", stopped),
        // Set back by an hour whenever the hour is nearly over, so that no hour ever closes.
        ("sawtooth", |clock| {
            if clock.now().since(START) > 50 * MINUTE { clock.follow(START) } else { clock.advance(MINUTE) }
        }),
        ("far behind", |clock| clock.follow(START.minus(6 * HOUR))),
    ];
    for (name, clock) in holds {
        let bench = Bench::new(Some(CLOSE_AFTER)).await;
        bench.report().await;
        bench.pass(HOUR + CLOSE_AFTER, clock).await;
        assert!(!bench.unreported(), "{name}: not yet");
        bench.pass(10 * MINUTE, clock).await;
        assert!(bench.unreported(), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_set_back_after_the_attempts_began_gains_nothing() {
    let bench = Bench::new(Some(CLOSE_AFTER)).await;
    bench.service.turns_to(Act::Fail(FaultClass::Transient, "Dns"));
    bench.report().await;
    bench.pass(HOUR + 15 * MINUTE, right).await;
    bench.clock.follow(START.minus(6 * HOUR));
    bench.pass(13 * MINUTE, right).await;
    assert!(!bench.unreported());
    bench.pass(15 * MINUTE, right).await;
    assert!(bench.unreported(), "half an hour of running time since its hour");
}

/// Each begun minute of a process counts, so one that is killed before it is looked at again avoids nothing.
#[tokio::test(start_paused = true)]
async fn processes_that_are_killed_early_count_every_minute() {
    for life in [MINUTE - Duration::from_secs(1), 5 * MINUTE - Duration::from_secs(1)] {
        let mut bench = Bench::new(Some(CLOSE_AFTER)).await;
        bench.report().await;
        let mut passed = Duration::ZERO;
        while passed < HOUR + CLOSE_AFTER + 10 * MINUTE {
            tokio::time::sleep(life).await;
            passed += life;
            bench.restart().await;
        }
        assert!(bench.unreported(), "{life:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_hour_that_somebody_else_reported_shuts_the_gate_until_its_replay_is_accepted() {
    let bench = Bench::new(Some(CLOSE_AFTER)).await;
    bench.service.turns_to(Act::Fail(FaultClass::Misconfigured, "DuplicateRequestException"));
    bench.report().await;
    bench.pass(HOUR + CLOSE_AFTER + 5 * MINUTE, right).await;
    assert!(bench.unreported());
    bench.service.turns_to(Act::Accept);
    bench.report().await;
    bench.pass(HOUR + 10 * MINUTE, right).await;
    assert!(bench.unreported(), "other usage does not pay for it");
    let now = bench.clock.now();
    let dead = bench.records().await[0].id;
    let replay = Repair::Replay { accept_double_billing: true, to_dimension: None, note: None };
    let replayed =
        bench.process().writer.with(move |ledger| ledger.repair(dead, &replay, now)).await.unwrap();
    assert_eq!(replayed, Repaired::Done);
    bench.pass(10 * MINUTE, right).await;
    assert!(bench.unreported(), "replayed is not accepted");
    bench.pass(HOUR, right).await;
    assert!(!bench.unreported());
}

#[tokio::test(start_paused = true)]
async fn a_buyer_who_is_not_entitled_is_a_matter_of_on_lapse_alone() {
    let bench = Bench::new(Some(CLOSE_AFTER)).await;
    bench.service.turns_to(Act::Fail(FaultClass::Denied, "CustomerNotEntitledException"));
    bench.report().await;
    for _ in 0..10 {
        bench.pass(20 * MINUTE, right).await;
        assert!(!bench.unreported(), "{:?}", bench.records().await);
    }
    assert!(bench.process().refusal_receiver.borrow().refusal.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_gate_that_the_seller_keeps_open_is_an_alarm_after_three_hours() {
    let bench = Bench::new(None).await;
    bench.service.turns_to(Act::Fail(FaultClass::Transient, "Dns"));
    bench.report().await;
    bench.pass(5 * HOUR, right).await;
    assert!(!bench.unreported());
    let (age, alarm) = (
        bench.metric("tollgate_usage_overdue_seconds"),
        bench.metric("tollgate_usage_overdue_alarm_seconds"),
    );
    assert_eq!(alarm, 3 * 3600);
    assert!(age > alarm, "{age}");
}

/// Otherwise filling the ledger or its disk would keep all later usage unbilled.
#[tokio::test(start_paused = true)]
async fn usage_that_the_ledger_refuses_shuts_the_gate_until_it_takes_some() {
    let bench = Bench::new(Some(CLOSE_AFTER)).await;
    for rejected in [
        RejectedRequest::Busy,
        RejectedRequest::BadRequest,
        RejectedRequest::Unanswered,
        RejectedRequest::LedgerStarting,
    ] {
        bench.notices.request_rejected(rejected, "");
    }
    bench.pass(2 * CLOSE_AFTER, right).await;
    assert!(!bench.unreported(), "no word of the ledger");
    bench.notices.request_rejected(RejectedRequest::LedgerUnavailable, "");
    bench.pass(CLOSE_AFTER - MINUTE, stopped).await;
    bench.notices.request_rejected(RejectedRequest::LedgerUnavailable, "");
    assert!(!bench.unreported(), "not yet");
    assert!(bench.metric("tollgate_usage_overdue_seconds") > 900);
    bench.pass(2 * MINUTE, stopped).await;
    assert_eq!(bench.process().refusal_receiver.borrow().unreported, Some(Unreported::NotTaken));
    bench.notices.taken();
    bench.pass(MINUTE, stopped).await;
    assert!(!bench.unreported(), "it took usage");
    assert_eq!(bench.metric("tollgate_usage_overdue_seconds"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_gate_does_not_open_onto_a_full_ledger_where_the_seller_says_so() {
    for (close_after, shut) in [(Some(CLOSE_AFTER), true), (None, false)] {
        let mut bench = Bench::new(close_after).await;
        let room = bench.bytes_max;
        bench.bytes_max = 4096;
        bench.restart().await;
        assert_eq!(bench.unreported(), shut, "{close_after:?}");
        bench.pass(CLOSE_AFTER, right).await;
        assert_eq!(bench.unreported(), shut, "{close_after:?}");
        bench.bytes_max = room;
        bench.restart().await;
        assert!(!bench.unreported());
        // The ledger was full and has space again; an application behind a shut gate reports nothing.
        bench.notices.request_rejected(RejectedRequest::LedgerFull, "");
        bench.pass(2 * CLOSE_AFTER, right).await;
        assert!(!bench.unreported() && bench.notices.untaken().is_none() == shut, "{close_after:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn while_nothing_waits_the_ledger_is_not_asked_and_no_age_begins() {
    let bench = Bench::new(Some(CLOSE_AFTER)).await;
    bench.pass(10 * MINUTE, stopped).await;
    let rested = bench.process().writer.asked();
    // The wall clock does not move, so only counted running time could make usage old.
    bench.pass(5 * HOUR, stopped).await;
    assert_eq!(bench.process().writer.asked(), rested);
    bench.service.turns_to(Act::Fail(FaultClass::Transient, "Dns"));
    bench.report().await;
    bench.pass(HOUR + CLOSE_AFTER - 5 * MINUTE, stopped).await;
    assert!(!bench.unreported(), "the time before it is not its age");
    bench.pass(10 * MINUTE, stopped).await;
    assert!(bench.unreported(), "and its own is");
}
