//! What one record, customer or outage costs the others, against a service that takes time to answer.

use std::collections::BTreeSet;

use super::*;
use tollgate_marketplace::scripted::{Call, TIMEOUT};

/// A bench that can wait for its sender.
struct Stage {
    bench: Bench,
    sender: tokio::task::JoinHandle<LedgerError>,
}

impl std::ops::Deref for Stage {
    type Target = Bench;

    fn deref(&self) -> &Bench {
        &self.bench
    }
}

impl Stage {
    /// Starts a sender.
    fn start(outlet: Outlet, service: Scripted) -> Self {
        let (bench, sender) = Bench::with_sender(service, outlet);
        Self { bench, sender: tokio::spawn(async move { sender.run().await.0 }) }
    }

    async fn take(&self, slots: impl IntoIterator<Item = (String, String)>) {
        let at = self.clock.now();
        let event = |(account, dimension): (String, String)| Event {
            id: None,
            dimension,
            quantity: Quantity::from_micros(1_000_000).unwrap().into(),
            at,
            tags: TagSet::default(),
            customer: match account.as_str() {
                "" => Customer::Own,
                _ => Customer::Account { account_id: account, license_arn: None },
            },
            content: [0; 32],
        };
        self.writer.take(slots.into_iter().map(event).collect(), Box::new(())).await.unwrap();
    }

    /// Closes the hour, and returns when that was.
    fn close(&self) -> Duration {
        self.clock.advance(HOUR + SETTLE);
        self.service.age()
    }

    /// The same in longer steps, for hours.
    async fn pass_hours(&self, time: Duration) {
        const STEP: Duration = Duration::from_secs(60);
        for _ in 0..time.as_secs() / STEP.as_secs() {
            tokio::time::sleep(STEP).await;
            self.clock.advance(STEP);
        }
    }

    /// Lets time pass by both clocks.
    async fn pass(&self, time: Duration) {
        let _ = tokio::time::timeout(time, run(&self.clock)).await;
    }

    /// Ends the sender as a shutdown with this grace does, and returns how long it took.
    async fn end(&self, grace: Duration) -> Duration {
        let (done, flushed) = oneshot::channel();
        let began = clock::monotonic();
        let order = FlushOrder { flush: Flush::Final, until: began + grace, done };
        self.flushes.send(order).await.unwrap();
        tokio::select! {
            flushed = flushed => flushed.unwrap(),
            () = run(&self.clock) => {}
            () = tokio::time::sleep(grace + Duration::from_secs(1)) => {}
        }
        clock::monotonic().duration_since(began)
    }

    async fn records(&self) -> Vec<Record> {
        self.writer.with(|ledger| ledger.records(100_000)).await.unwrap()
    }

    async fn in_doubt(&self) -> usize {
        self.records().await.iter().filter(|record| record.state.in_doubt()).count()
    }
}

const CALL: Duration = Duration::from_millis(300);

fn dimensions(count: usize) -> Vec<(String, String)> {
    (0..count).map(|index| (String::new(), format!("d{index:03}"))).collect()
}

fn customers(count: usize) -> Vec<(String, String)> {
    (0..count).map(|index| (format!("{index:05}"), "requests".to_owned())).collect()
}

const FAULTS: [Act; 3] = [
    Act::Timeout,
    Act::Fail(FaultClass::Transient, "InternalServiceErrorException"),
    // The error page of a proxy.
    Act::Fail(FaultClass::Transient, "InvalidAnswer"),
];

#[tokio::test(start_paused = true)]
async fn one_failing_dimension_of_24_delays_no_other_by_more_than_its_first_time_out() {
    for fault in FAULTS {
        for failing in ["d000", "d012", "d023"] {
            let rule = move |call: &Call| {
                if call.names_dimension(failing) { fault } else { Act::Accept }
            };
            let stage = Stage::start(Outlet::MeterUsage, Scripted::new(rule).taking(CALL));
            stage.pass(Duration::from_secs(1)).await;
            for hour in 0..3 {
                stage.take(dimensions(24)).await;
                let closed = stage.close();
                stage.pass(Duration::from_secs(60)).await;
                let billed = stage.service.billed_at(|_, dimension| dimension != failing);
                assert_eq!(billed.len(), 23 * (hour + 1), "{fault:?} {failing}, hour {hour}");
                let last = *billed.iter().max().unwrap() - closed;
                assert!(last < TIMEOUT + Duration::from_secs(5), "{fault:?} {failing}: {last:?}");
            }
            assert!(stage.in_doubt().await <= 3, "its own records only");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_failing_customer_of_60_delays_no_other_by_more_than_its_first_time_out() {
    for fault in FAULTS {
        for failing in ["00000", "00030", "00059"] {
            let rule = move |call: &Call| {
                if call.names_customer(failing) { fault } else { Act::Accept }
            };
            let stage = Stage::start(Outlet::BatchMeterUsage, Scripted::new(rule).taking(CALL));
            for hour in 0..2 {
                let of_all = customers(60).into_iter().flat_map(|(customer, _)| {
                    ["a", "b", "c", "d"].map(|dimension| (customer.clone(), dimension.to_owned()))
                });
                stage.take(of_all).await;
                let closed = stage.close();
                stage.pass(Duration::from_secs(90)).await;
                let billed = stage.service.billed_at(|customer, _| customer != failing);
                assert_eq!(billed.len(), 59 * 4 * (hour + 1), "{fault:?} {failing}, hour {hour}");
                let last = *billed.iter().max().unwrap() - closed;
                // The calls that contained it, two at most, are sent one record at a time, at ten a second.
                assert!(
                    last < TIMEOUT + Duration::from_secs(7),
                    "{fault:?} {failing}, hour {hour}: {last:?}"
                );
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn hours_of_outage_put_no_more_records_in_doubt_than_one_in_30_minutes_and_the_backlog_leaves_at_the_quota()
 {
    let began = HOUR;
    const HOURS: u32 = 4;
    let end = began + HOURS * HOUR;
    let rule = move |call: &Call| if call.at < end { Act::Timeout } else { Act::Accept };
    let stage = Stage::start(Outlet::BatchMeterUsage, Scripted::new(rule).taking(CALL));
    stage.pass_hours(began).await;
    for _ in 0..HOURS {
        stage.take(customers(200)).await;
        stage.pass_hours(HOUR).await;
    }
    let in_doubt = stage.in_doubt().await;
    // Three until it is detected, then one every half hour.
    assert!(in_doubt <= 2 * HOURS as usize + 3, "{in_doubt}");
    let asked = stage.service.calls().len();
    assert!(asked < HOURS as usize * 300, "{asked} calls into an outage");
    stage.pass(Duration::from_secs(90)).await;
    let waiting = stage
        .records()
        .await
        .iter()
        .filter(|record| matches!(record.state, RecordState::Sealed { .. }))
        .count();
    assert_eq!(waiting, 0);
}

#[tokio::test(start_paused = true)]
async fn an_outage_that_reaches_nobody_puts_nothing_in_doubt_and_is_asked_about_on_a_schedule() {
    let rule = |call: &Call| {
        if call.at < 2 * HOUR { Act::Fail(FaultClass::Transient, "Dns") } else { Act::Accept }
    };
    let stage = Stage::start(Outlet::MeterUsage, Scripted::new(rule).taking(Duration::from_millis(5)));
    stage.take(dimensions(24)).await;
    stage.close();
    stage.pass(HOUR).await;
    assert_eq!(stage.in_doubt().await, 0);
    let calls = stage.service.calls().len();
    assert!((100..300).contains(&calls), "{calls} calls in an hour");
    stage.pass(HOUR + MINUTE).await;
    assert_eq!(stage.service.billed_at(|_, _| true).len(), 24);
}

#[tokio::test(start_paused = true)]
async fn a_throttle_slows_every_record_and_puts_none_in_doubt() {
    let rule = |call: &Call| {
        if call.at < Duration::from_secs(12) {
            Act::Fail(FaultClass::Transient, "ThrottlingException")
        } else {
            Act::Accept
        }
    };
    let stage = Stage::start(Outlet::MeterUsage, Scripted::new(rule).taking(CALL));
    stage.take(dimensions(50)).await;
    stage.close();
    stage.pass(Duration::from_secs(10)).await;
    // A call in flight has no answer yet; a few moments later it has.
    let mut moments = 0;
    while stage.in_doubt().await > 0 {
        moments += 1;
        assert!(moments < 15, "a throttled call leaves its records in doubt");
        stage.pass(CALL / 3).await;
    }
    let calls = stage.service.calls().len();
    assert!(calls <= 12, "{calls} calls into a throttle");
    stage.pass(MINUTE).await;
    assert_eq!(stage.service.billed_at(|_, _| true).len(), 50);
}

#[tokio::test(start_paused = true)]
async fn unprocessed_records_wait_for_their_own_pause() {
    let rule = |call: &Call| {
        if call.names_customer("00000") { Act::Unprocessed } else { Act::Accept }
    };
    let stage = Stage::start(Outlet::BatchMeterUsage, Scripted::new(rule).taking(CALL));
    stage.take(customers(1)).await;
    stage.close();
    stage.pass(Duration::from_secs(30)).await;
    let calls = stage.service.calls().len();
    assert!((3..=6).contains(&calls), "{calls} calls in 30 s");
}

#[tokio::test(start_paused = true)]
async fn a_poisoned_batch_is_halved_on_later_turns_while_others_go_on() {
    let rule = |call: &Call| {
        if call.names_customer("00005") {
            Act::Fail(FaultClass::Misconfigured, "InvalidLicenseException")
        } else {
            Act::Accept
        }
    };
    let stage = Stage::start(Outlet::BatchMeterUsage, Scripted::new(rule).taking(CALL));
    stage.take(customers(400)).await;
    stage.close();
    stage.pass(Duration::from_secs(8)).await;
    assert_eq!(stage.service.billed_at(|_, _| true).len(), 399);
    let poisoned: Vec<usize> = stage
        .service
        .calls()
        .iter()
        .filter(|call| call.names_customer("00005"))
        .map(|call| call.records().len())
        .collect();
    assert_eq!(*poisoned.last().unwrap(), 1);
    assert!(poisoned.len() <= 6 && poisoned.windows(2).all(|pair| pair[1] < pair[0]), "{poisoned:?}");
    assert!(stage.in_doubt().await == 0);
}

#[tokio::test(start_paused = true)]
async fn saas_sends_at_the_quota_whatever_a_call_takes() {
    let stage = Stage::start(Outlet::BatchMeterUsage, Scripted::always(Act::Accept).taking(CALL));
    stage.take(customers(5000)).await;
    stage.close();
    stage.pass(Duration::from_secs(30)).await;
    let calls = stage.service.calls();
    assert_eq!(stage.service.billed_at(|_, _| true).len(), 5000);
    // Without the first call, which has one record, to show that AWS answers.
    let (first, last) = (calls[1].at, calls[calls.len() - 1].at);
    let rate = (calls.len() - 2) as f64 / (last - first).as_secs_f64();
    assert!(rate >= 9.7, "{rate} calls a second");
    for window in calls.windows(11) {
        assert!(window[10].at - window[0].at > Duration::from_secs(1), "never more than ten in a second");
    }
    assert!(stage.service.in_flight_max() <= CALLS_MAX);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_sends_5000_customers_within_60_seconds() {
    let stage = Stage::start(Outlet::BatchMeterUsage, Scripted::always(Act::Accept).taking(CALL));
    stage.take(customers(5000)).await;
    let took = stage.end(Duration::from_secs(59)).await;
    assert_eq!(stage.service.billed_at(|_, _| true).len(), 5000);
    assert!(took < Duration::from_secs(25), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_sends_200_dimensions_within_25_seconds_beside_one_that_fails() {
    for fault in FAULTS {
        let rule = move |call: &Call| {
            if call.names_dimension("d000") { fault } else { Act::Accept }
        };
        let stage = Stage::start(Outlet::MeterUsage, Scripted::new(rule).taking(CALL));
        stage.take(dimensions(200)).await;
        stage.end(Duration::from_secs(25)).await;
        let billed = stage.service.billed_at(|_, _| true).len();
        assert_eq!(billed, 199, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn two_seconds_between_sigterm_and_sigkill_bill_ten_records() {
    let stage = Stage::start(Outlet::MeterUsage, Scripted::always(Act::Accept).taking(CALL));
    stage.take(dimensions(10)).await;
    // The process is killed after two of its twenty seconds.
    let (done, _flushed) = oneshot::channel();
    let until = clock::monotonic() + Duration::from_secs(20);
    stage.flushes.send(FlushOrder { flush: Flush::Final, until, done }).await.unwrap();
    stage.pass(Duration::from_millis(1900)).await;
    stage.sender.abort();
    assert_eq!(stage.service.billed_at(|_, _| true).len(), 10);
    assert_eq!(stage.in_doubt().await, 0);
}

/// Another replica continues with the rest, so only the calls that are in flight are waited for.
#[tokio::test(start_paused = true)]
async fn a_sender_that_hands_over_answers_its_calls_starts_none_and_ends() {
    let mut stage = Stage::start(Outlet::MeterUsage, Scripted::always(Act::Accept).taking(CALL));
    stage.take(dimensions(100)).await;
    stage.close();
    while stage.service.calls().len() < 3 {
        stage.pass(Duration::from_millis(10)).await;
    }
    stage.take(dimensions(1)).await;
    let (done, handed_over) = oneshot::channel();
    let until = clock::monotonic() + Duration::from_secs(20);
    stage.flushes.send(FlushOrder { flush: Flush::HandOver, until, done }).await.unwrap();
    handed_over.await.unwrap();
    assert!(matches!((&mut stage.sender).await.unwrap(), LedgerError::NotLeading));
    let called = stage.service.calls().len();
    assert!(called < 20, "{called} of 100");
    stage.pass(MINUTE).await;
    assert_eq!(stage.service.calls().len(), called);
    let records = stage.records().await;
    let accepted = records.iter().filter(|record| record.state == ACCEPTED).count();
    assert_eq!((accepted, stage.in_doubt().await), (called, 0), "each answer is noted");
    assert_eq!(records.len(), 100, "the open hour is not sealed");
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_failed_before_sigterm_and_recovers_costs_none_of_the_two_seconds() {
    use tollgate_ledger::testing::refuse_writes;
    let stage = Stage::start(Outlet::MeterUsage, Scripted::always(Act::Accept).taking(CALL));
    stage.take(dimensions(10)).await;
    stage.writer.with(|ledger| refuse_writes(ledger, true)).await.unwrap();
    stage.close();
    stage.pass(MINUTE).await;
    assert_eq!(stage.records().await.len(), 0, "the hour cannot be sealed");
    let recovers = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        stage.writer.with(|ledger| refuse_writes(ledger, false)).await.unwrap();
    };
    let (took, ()) = tokio::join!(stage.end(Duration::from_secs(20)), recovers);
    assert_eq!(stage.service.billed_at(|_, _| true).len(), 10);
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_record_goes_to_the_region_of_its_first_attempt_for_ever() {
    let east: Region = "us-east-1".parse().unwrap();
    let rule = |call: &Call| {
        if call.at < Duration::from_secs(20) { Act::Timeout } else { Act::Accept }
    };
    let stage = Stage::start(Outlet::MeterUsage, Scripted::new(rule).taking(CALL));
    stage.service.moves_to(east.clone());
    stage.take(dimensions(1)).await;
    stage.close();
    stage.pass(Duration::from_secs(5)).await;
    stage.service.moves_to("eu-west-1".parse().unwrap());
    stage.pass(2 * MINUTE).await;
    let regions: BTreeSet<String> =
        stage.service.calls().iter().map(|call| call.region().unwrap().as_str().to_owned()).collect();
    assert_eq!(regions, BTreeSet::from(["us-east-1".to_owned()]));
    assert_eq!(stage.records().await[0].region, Some(east));
    assert_eq!(stage.service.billed_at(|_, _| true).len(), 1);
    stage.sender.abort();
}

#[tokio::test(start_paused = true)]
async fn a_customer_of_30_dimensions_that_is_never_answered_leaves_calls_to_the_others() {
    let rule = |call: &Call| {
        if call.names_customer("00000") { Act::Timeout } else { Act::Accept }
    };
    let stage = Stage::start(Outlet::BatchMeterUsage, Scripted::new(rule).taking(CALL));
    let (first, others) = ("00000".to_owned(), customers(200).into_iter().skip(1));
    stage.take((0..30).map(|index| (first.clone(), format!("d{index:03}")))).await;
    stage.close();
    // By then each of them is in doubt, and is sent alone every minute, for ten seconds.
    stage.pass(5 * MINUTE).await;
    stage.take(others).await;
    let closed = stage.close();
    stage.pass(MINUTE).await;
    let billed = stage.service.billed_at(|customer, _| customer != "00000");
    assert_eq!(billed.len(), 199);
    let last = *billed.iter().max().unwrap() - closed;
    assert!(last < TIMEOUT, "{last:?}");
}

/// A service that answers until `end` that the caller is not entitled.
fn refusing(end: Duration) -> Scripted {
    let denied = Act::Fail(FaultClass::Denied, "CustomerNotEntitledException");
    Scripted::new(move |call| if call.at < end { denied } else { Act::Accept }).taking(CALL)
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_the_whole_sender_does_not_cost_the_window() {
    const MARGIN: Duration = Duration::from_secs(60);
    // The usage is of 08:00, so its window closes at 14:00. AWS accepts calls again two minutes before that, during a
    // pause of four to six minutes.
    let end = 5 * HOUR - SETTLE - 2 * MINUTE - Duration::from_secs(5);
    let stage = Stage::start(Outlet::MeterUsage, refusing(end));
    stage.take(dimensions(3)).await;
    stage.close();
    stage.pass_hours(5 * HOUR - SETTLE - 12 * MINUTE).await;
    stage.pass(12 * MINUTE - MARGIN).await;
    let records = stage.records().await;
    assert!(records.iter().all(|record| record.state == ACCEPTED), "{records:?}");
    assert!(stage.service.calls().len() < 90, "and it is not asked more often before");
}

#[tokio::test(start_paused = true)]
async fn a_pause_is_over_when_the_machine_slept_over_it() {
    let end = 10 * MINUTE;
    let stage = Stage::start(Outlet::MeterUsage, refusing(end));
    stage.take(dimensions(3)).await;
    stage.close();
    stage.pass(end).await;
    let calls = stage.service.calls().len();
    // The machine slept during a pause of at least 4 minutes.
    stage.clock.advance(10 * MINUTE);
    stage.pass(Duration::from_secs(3)).await;
    assert!(stage.service.calls().len() > calls);
    assert_eq!(stage.service.billed_at(|_, _| true).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_slow_disk_costs_the_pace_nothing() {
    // Work on the ledger takes no paused time, so the test checks the order: the next attempt is on disk before its
    // turn.
    let stage = Stage::start(Outlet::BatchMeterUsage, Scripted::always(Act::Accept).taking(CALL));
    stage.take(customers(1000)).await;
    stage.close();
    stage.pass(Duration::from_secs(2)).await;
    let calls = stage.service.calls();
    let last = calls.last().unwrap().at;
    let turn = last + Duration::from_millis(101);
    let before = turn - Duration::from_millis(50);
    tokio::time::sleep(before.saturating_sub(stage.service.age())).await;
    let attempted = stage.records().await.iter().filter(|record| record.attempts > 0).count();
    let sent: usize = stage.service.calls().iter().map(|call| call.records().len()).sum();
    assert_eq!(attempted, sent + batch::RECORDS_MAX);
}

/// One dimension never gets an answer, for any customer. It costs the others one time-out in all, not one each hour.
#[tokio::test(start_paused = true)]
async fn a_silent_dimension_of_60_customers_costs_the_others_its_first_time_out_only() {
    for fault in FAULTS {
        let rule = move |call: &Call| {
            if call.names_dimension("silent") { fault } else { Act::Accept }
        };
        let stage = Stage::start(Outlet::BatchMeterUsage, Scripted::new(rule).taking(CALL));
        stage.pass(Duration::from_secs(1)).await;
        for hour in 0..7_usize {
            let of_all = customers(60).into_iter().flat_map(|(customer, _)| {
                ["a", "b", "silent", "z"].map(|dimension| (customer.clone(), dimension.to_owned()))
            });
            stage.take(of_all).await;
            let closed = stage.close();
            stage.pass(Duration::from_secs(90)).await;
            let billed = stage.service.billed_at(|_, dimension| dimension != "silent");
            assert_eq!(billed.len(), 180 * (hour + 1), "{fault:?}, hour {hour}");
            let last = *billed.iter().max().unwrap() - closed;
            // The first hour's records are sent one at a time, at ten a second.
            let most = if hour == 0 { TIMEOUT + Duration::from_secs(25) } else { Duration::from_secs(15) };
            assert!(last < most, "{fault:?}, hour {hour}: {last:?}");
            let others = |record: &&Record| record.state.in_doubt() && record.dimension != "silent";
            assert_eq!(stage.records().await.iter().filter(others).count(), 0, "{fault:?}, hour {hour}");
        }
    }
}

/// Two silent customers of a product with one dimension must not make the whole dimension suspect for long.
#[tokio::test(start_paused = true)]
async fn two_silent_customers_of_60_delay_no_other_by_more_than_their_time_outs() {
    let rule = |call: &Call| {
        let silent = call.names_customer("00000") || call.names_customer("00001");
        if silent { Act::Timeout } else { Act::Accept }
    };
    let stage = Stage::start(Outlet::BatchMeterUsage, Scripted::new(rule).taking(CALL));
    stage.pass(Duration::from_secs(1)).await;
    for hour in 0..4_usize {
        stage.take(customers(60)).await;
        let closed = stage.close();
        stage.pass(Duration::from_secs(90)).await;
        let billed = stage.service.billed_at(|customer, _| customer != "00000" && customer != "00001");
        assert_eq!(billed.len(), 58 * (hour + 1), "hour {hour}");
        let last = *billed.iter().max().unwrap() - closed;
        // At first it is unknown whether AWS answers, and both are sent before the others.
        let most = if hour == 0 { 2 * TIMEOUT } else { TIMEOUT };
        assert!(last < most + Duration::from_secs(7), "hour {hour}: {last:?}");
    }
}

/// More of them than fit into the queue.
#[tokio::test(start_paused = true)]
async fn hundreds_of_customers_that_never_get_an_answer_leave_the_line_to_the_others() {
    let rule = |call: &Call| {
        if call.names_dimension("silent") { Act::Timeout } else { Act::Accept }
    };
    let stage = Stage::start(Outlet::BatchMeterUsage, Scripted::new(rule).taking(CALL));
    stage.pass(Duration::from_secs(1)).await;
    let silent = (0..900).map(|index| (format!("1{index:04}"), "silent".to_owned()));
    stage.take(silent).await;
    stage.close();
    stage.pass(3 * MINUTE).await;
    stage.take(customers(400)).await;
    let closed = stage.close();
    stage.pass(2 * MINUTE).await;
    let billed = stage.service.billed_at(|_, dimension| dimension != "silent");
    assert_eq!(billed.len(), 400);
    let last = *billed.iter().max().unwrap() - closed;
    assert!(last < TIMEOUT + Duration::from_secs(10), "{last:?}");
}

/// Records that waited through an outage become due in pieces, and calls start between them.
#[tokio::test(start_paused = true)]
async fn calls_begin_before_all_that_waits_is_due() {
    let stage = Stage::start(Outlet::BatchMeterUsage, Scripted::always(Act::Accept).taking(CALL));
    stage.take(customers(15_000)).await;
    stage.sender.abort();
    let later = stage.clock.now().plus(HOUR + SETTLE + Duration::from_secs(800));
    let now = stage.clock.now();
    stage.clock.advance(HOUR + SETTLE);
    let wait = move |ledger: &mut Ledger| {
        while ledger.seal_now(now)?.more {}
        let all: Vec<(i64, Timestamp)> = (1..=15_000).map(|id| (id, later)).collect();
        ledger.defer(&all)
    };
    stage.writer.with(wait).await.unwrap();
    let (_orders, ordered) = mpsc::channel(1);
    let policy = SendingPolicy {
        pod: "pod".into(),
        window: Window::BatchMeterUsage,
        carry_expired: true,
        settle: SETTLE,
        phase: Duration::ZERO,
    };
    let settings = SenderSettings {
        product_code: "demometered".parse().unwrap(),
        outlet: Outlet::BatchMeterUsage,
        policy,
    };
    let aws: Arc<dyn Meter> = Arc::clone(&stage.service) as Arc<dyn Meter>;
    let (refusal_sender, _) = refusal_update::channel();
    let metrics = Arc::new(Metrics::new());
    let mut sender =
        Sender::new(settings, aws, &stage.writer, stage.clock.clone(), metrics, refusal_sender, ordered);
    sender.to_release = RELEASED_MAX;
    sender.turn().await.unwrap();
    assert!(!sender.flights.is_empty(), "a call has begun");
    assert!(sender.to_release > 0, "and there is more to release");
    let next = stage
        .writer
        .with(move |ledger| ledger.due(later.minus(Duration::from_secs(1)), 20_000))
        .await
        .unwrap();
    assert!(next.len() < 6000, "{} were released at once", next.len());
}

/// Otherwise an idle pod would cost 23 CPU-seconds a day.
#[tokio::test(start_paused = true)]
async fn a_sender_at_rest_looks_once_a_minute_until_somebody_uses_the_ledger() {
    let stage = Stage::start(Outlet::MeterUsage, Scripted::new(|_| Act::Accept));
    stage.take(dimensions(1)).await;
    // The wall clock does not move, since its jumps would wake the sender.
    tokio::time::sleep(Duration::from_secs(630)).await;
    let now = stage.clock.now();
    stage.writer.clone().unnoticed().with(move |ledger| ledger.seal_now(now)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(stage.service.calls().len(), 0, "it rests");
    stage.writer.with(|ledger| ledger.totals()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(stage.service.calls().len(), 1, "a repair, or a report, wakes it");

    // Another dimension, because the first one's hour is closed.
    stage.take(dimensions(2).into_iter().skip(1)).await;
    tokio::time::sleep(Duration::from_secs(630)).await;
    stage.writer.clone().unnoticed().with(move |ledger| ledger.seal_now(now)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(stage.service.calls().len(), 2, "nobody needs to wake it");
}

/// Otherwise each idle pod would spend a tenth of a millisecond of CPU time 1,440 times a day.
#[tokio::test(start_paused = true)]
async fn a_sender_at_rest_leaves_the_ledger_alone_until_it_is_written_or_an_hour_closes() {
    let stage = Stage::start(Outlet::MeterUsage, Scripted::new(|_| Act::Accept));
    tokio::time::sleep(Duration::from_secs(300)).await;
    let rested = stage.writer.asked();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(stage.writer.asked(), rested, "nothing is new");

    stage.clock.advance(Duration::from_secs(7200));
    tokio::time::sleep(Duration::from_secs(120)).await;
    let closed = stage.writer.asked();
    assert!(closed > rested, "hours have closed");
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(stage.writer.asked(), closed, "once");

    stage.take(dimensions(1)).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(stage.writer.asked() > closed, "it was written");
    stage.clock.advance(Duration::from_secs(7200));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(stage.service.calls().len(), 1, "and its usage is sent when its hour is over");
}
