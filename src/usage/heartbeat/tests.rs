//! The loop with paused time, against a ledger with set answers; and once with a real one.

use std::collections::VecDeque;
use std::sync::Mutex as Lock;

use super::*;
use crate::entitlement::{self, Entitlement, Publisher, Reason, Shown, Standing};
use tollgate_ledger::testing::{self, START};
use tollgate_ledger::writer::Writer;
use tollgate_ledger::{Contents, Ledger, LedgerSettings};
use tollgate_marketplace::{FaultClass, FaultCode, Quantity};
use tollgate_metering::aggregation::Rule;

const SECOND: Duration = Duration::from_secs(1);

/// What the ledger does with one request, other than taking it.
enum Refusal {
    Fails,
    Full,
    OtherRule,
}

#[derive(Clone, Default)]
struct Script {
    /// Seconds × quantity of each event that was taken, in millionths.
    taken: Arc<Lock<Vec<u128>>>,
    refusals: Arc<Lock<VecDeque<Refusal>>>,
    requests: Arc<Lock<u32>>,
}

impl Script {
    fn take(&self, events: &[Event]) -> Result<Vec<Taken>, LedgerError> {
        *self.requests.lock().unwrap() += 1;
        let other: Rule = "sum 60 none".parse().unwrap();
        match self.refusals.lock().unwrap().pop_front() {
            Some(Refusal::Fails) => return Err(LedgerError::Io("no space left".to_owned())),
            Some(Refusal::Full) => {
                return Err(LedgerError::Full { bytes: 1, bytes_max: 1, contents: Contents::default() });
            }
            Some(Refusal::OtherRule) => return Ok(vec![Taken::OtherRule(other); events.len()]),
            None => {}
        }
        assert!(events.iter().all(|event| event.id.is_none()));
        self.taken.lock().unwrap().extend(events.iter().map(|event| event.quantity.micros()));
        Ok(vec![Taken::Accepted; events.len()])
    }

    fn refuse(&self, refusals: impl IntoIterator<Item = Refusal>) {
        self.refusals.lock().unwrap().extend(refusals);
    }

    /// The whole seconds that are in the ledger.
    fn seconds(&self) -> u128 {
        self.taken.lock().unwrap().iter().sum::<u128>() / 1_000_000
    }

    fn requests(&self) -> u32 {
        *self.requests.lock().unwrap()
    }
}

fn nodes() -> Vec<Heartbeat> {
    vec![Heartbeat {
        dimension: "node_hours".to_owned(),
        quantity: Quantity::from_micros(1_000_000).unwrap(),
    }]
}

/// A gate, its heartbeat, and the ledger.
struct Bench {
    gate: Publisher,
    heartbeats: Heartbeats,
    script: Script,
    clock: WallClock,
    notices: Notices,
    task: tokio::task::JoinHandle<()>,
}

impl Bench {
    /// The gate is shut.
    async fn new() -> Self {
        let (gate, watch) = entitlement::channel(START);
        let (clock, metrics, script) = (WallClock::fixed(START), Arc::new(Metrics::new()), Script::default());
        let notices = Notices::new(Arc::clone(&metrics));
        let take = {
            let script = script.clone();
            move |events: Vec<Event>, _| -> StoreFuture<'static, Vec<Taken>> {
                let script = script.clone();
                Box::pin(async move { script.take(&events) })
            }
        };
        let time = OpenTime::new(nodes(), Passing::Real);
        let heartbeats = Heartbeats::of(time, watch, Box::new(take), clock.clone(), metrics, notices.clone());
        let task = tokio::spawn({
            let heartbeats = heartbeats.clone();
            async move { heartbeats.run().await }
        });
        let bench = Self { gate, heartbeats, script, clock, notices, task };
        bench.passes(Duration::ZERO).await;
        bench
    }

    async fn open() -> Self {
        let bench = Self::new().await;
        bench.publish(true).await;
        bench
    }

    async fn publish(&self, open: bool) {
        self.gate.send_replace(fact(open));
        self.passes(Duration::ZERO).await;
    }

    /// Time passes, and every task that is due runs.
    async fn passes(&self, time: Duration) {
        tokio::time::sleep(time).await;
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }
}

fn fact(open: bool) -> Arc<Entitlement> {
    let reason = Reason::of(FaultCode::known("Timeout"), FaultClass::Transient);
    let standing = if open { Standing::Grace(reason, START) } else { Standing::Pending(None) };
    Arc::new(Entitlement::of(standing, Shown::at(START)))
}

#[tokio::test(start_paused = true)]
async fn the_time_of_the_open_gate_is_written_every_ten_seconds() {
    let bench = Bench::new().await;
    bench.passes(60 * SECOND).await;
    assert_eq!(bench.script.requests(), 0, "the gate is shut");
    bench.publish(true).await;
    for beat in 1..=6 {
        bench.passes(BEAT_EVERY - Duration::from_millis(1)).await;
        // The first second at once: then an hour that is rounded up is billed.
        let before = if beat == 1 { 1 } else { 10 * (beat - 1) };
        assert_eq!(bench.script.seconds(), before, "a kill loses less than ten seconds");
        bench.passes(Duration::from_millis(1)).await;
        assert_eq!(bench.script.seconds(), 10 * beat);
    }
    assert_eq!(bench.script.requests(), 7);
    bench.task.abort();
}

#[tokio::test(start_paused = true)]
async fn a_gate_that_shuts_is_written_at_once_and_counts_no_more() {
    let bench = Bench::open().await;
    bench.passes(13 * SECOND).await;
    bench.publish(false).await;
    assert_eq!(bench.script.seconds(), 13);
    bench.passes(60 * SECOND).await;
    assert_eq!(bench.script.seconds(), 13);
    bench.publish(true).await;
    bench.passes(4 * SECOND).await;
    // Another fact about an open gate is no change of it.
    bench.publish(true).await;
    assert_eq!(bench.script.seconds(), 14, "the first second");
    bench.publish(false).await;
    assert_eq!(bench.script.seconds(), 17);
}

#[tokio::test(start_paused = true)]
async fn a_jump_of_the_clock_is_written_at_once_and_changes_no_amount() {
    let bench = Bench::open().await;
    bench.passes(7 * SECOND).await;
    bench.clock.advance(Duration::from_secs(5 * 3600));
    bench.passes(Duration::ZERO).await;
    assert_eq!(bench.script.seconds(), 7);
    bench.clock.follow(START);
    bench.passes(3 * SECOND).await;
    bench.heartbeats.write().await;
    assert_eq!(bench.script.seconds(), 10);
}

#[tokio::test(start_paused = true)]
async fn what_the_ledger_refuses_is_kept_and_told() {
    let bench = Bench::open().await;
    bench.script.refuse([Refusal::Fails, Refusal::Fails, Refusal::Full, Refusal::Fails]);
    bench.passes(30 * SECOND).await;
    assert_eq!((bench.script.requests(), bench.script.seconds()), (4, 0));
    let untaken = bench.notices.untaken().unwrap();
    assert_eq!((untaken.requests, untaken.latest), (4, RejectedRequest::LedgerUnavailable));
    let told = bench.heartbeats.unwritten().unwrap();
    assert!(told.contains("30 s of node_hours"), "{told}");
    bench.passes(10 * SECOND).await;
    assert_eq!((bench.script.seconds(), bench.notices.untaken()), (40, None));
    bench.passes(10 * SECOND).await;
    assert_eq!(bench.script.seconds(), 50, "once");
}

#[tokio::test(start_paused = true)]
async fn time_that_a_full_ledger_takes_says_nothing_about_the_usage_that_it_refuses() {
    let bench = Bench::open().await;
    bench.notices.request_rejected(RejectedRequest::LedgerFull, "full");
    bench.passes(20 * SECOND).await;
    assert_eq!(bench.script.seconds(), 20);
    assert_eq!(bench.notices.untaken().unwrap().requests, 1);
}

#[tokio::test(start_paused = true)]
async fn what_an_hour_with_another_rule_does_not_take_is_in_the_next_one_at_once() {
    let bench = Bench::open().await;
    bench.script.refuse([Refusal::OtherRule]);
    bench.passes(20 * SECOND).await;
    assert_eq!(
        (bench.script.seconds(), bench.notices.untaken()),
        (20, None),
        "written to the next hour at once"
    );
    bench.script.refuse([Refusal::OtherRule, Refusal::OtherRule]);
    bench.passes(10 * SECOND).await;
    assert_eq!(bench.script.seconds(), 20, "no hour takes it");
    bench.heartbeats.finish().await;
    assert_eq!((bench.script.seconds(), bench.heartbeats.unwritten()), (30, None));
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_writes_what_is_left_and_counts_no_more() {
    let bench = Bench::open().await;
    bench.passes(13 * SECOND).await;
    bench.heartbeats.finish().await;
    assert_eq!(bench.script.seconds(), 13);
    bench.passes(60 * SECOND).await;
    bench.publish(false).await;
    bench.publish(true).await;
    bench.passes(60 * SECOND).await;
    bench.heartbeats.finish().await;
    assert_eq!(bench.script.seconds(), 13);
}

#[tokio::test(start_paused = true)]
async fn a_registration_that_ended_leaves_the_gate_as_it_was() {
    let bench = Bench::open().await;
    drop(bench.gate);
    tokio::time::sleep(20 * SECOND).await;
    bench.heartbeats.write().await;
    assert_eq!(bench.script.seconds(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_ledger_bills_an_hour_of_open_gate_as_its_quantity() {
    let folder = testing::folder();
    let rules = [("node_hours".to_owned(), "sum 3600 up:0".parse().unwrap())].into_iter().collect();
    let settings = LedgerSettings { rules, ..testing::settings("pod") };
    let clock = WallClock::fixed(START);
    let writer = Writer::inline(Ledger::open(folder.path(), settings).unwrap(), clock.clone());
    let (gate, watch) = entitlement::channel(START);
    let metrics = Arc::new(Metrics::new());
    let notices = Notices::new(Arc::clone(&metrics));
    let heartbeats =
        Heartbeats::new(nodes(), Passing::Simulated, watch, &writer, clock.clone(), metrics, notices);
    heartbeats.write().await;
    gate.send_replace(fact(true));
    heartbeats.write().await;
    clock.advance(Duration::from_secs(3540));
    heartbeats.finish().await;
    let now = clock.now();
    let sealed = writer.with(move |ledger| ledger.seal_now(now)).await.unwrap();
    assert_eq!(sealed.made, 1);
    let records = writer.with(|ledger| ledger.unsent(10)).await.unwrap();
    assert_eq!(records[0].quantity.micros(), 1_000_000, "59 minutes are one node-hour");
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_fails_loses_no_second() {
    let folder = testing::folder();
    let clock = WallClock::fixed(START);
    let ledger = Ledger::open(folder.path(), testing::settings("pod")).unwrap();
    let writer = Writer::inline(ledger, clock.clone());
    let (gate, watch) = entitlement::channel(START);
    let metrics = Arc::new(Metrics::new());
    let notices = Notices::new(Arc::clone(&metrics));
    let heartbeats = Heartbeats::new(nodes(), Passing::Real, watch, &writer, clock, metrics, notices.clone());
    gate.send_replace(fact(true));
    heartbeats.write().await;
    let accepted =
        async || writer.with(|ledger| ledger.totals()).await.unwrap().get("node_hours").map(|t| t.accepted);
    for (refuses, expected) in
        [(true, None), (false, Some(20_000_000)), (true, Some(20_000_000)), (false, Some(40_000_000))]
    {
        writer.with(move |ledger| testing::refuse_writes(ledger, refuses)).await.unwrap();
        tokio::time::sleep(10 * SECOND).await;
        heartbeats.write().await;
        assert_eq!(accepted().await, expected);
        assert_eq!(notices.untaken().is_some(), refuses);
    }
}
