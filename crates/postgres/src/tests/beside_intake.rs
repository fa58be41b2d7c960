//! Sealing and sending beside intake: no acknowledgement waits long for them, and they keep up with AWS's quota.

use std::sync::atomic::{AtomicBool, Ordering};

use super::bench::{Unobserved, Writer, event, one, writer};
use super::steps::*;
use super::*;
use tollgate_clock as clock;

/// Customers of the hour, with three dimensions each. `TOLLGATE_CUSTOMERS=50000` measures the design's size.
#[expect(clippy::disallowed_methods, reason = "the size of a measurement, not a setting")]
fn customers() -> usize {
    std::env::var("TOLLGATE_CUSTOMERS").ok().map_or(2000, |number| number.parse().unwrap())
}

/// AWS's quota in a region: ten calls a second, of 25 records each.
const QUOTA: f64 = 250.0;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_hour_is_sealed_and_sent_beside_intake() {
    let ledger = Ledger::make().await;
    let customers = customers();
    ledger
        .run(&format!(
            "INSERT INTO tollgate.sums (hour, customer, dimension, writer, tags_key, tags, amount, first_at)
             SELECT {}, 'account ' || lpad(c::text, 12, '0') || ' ', 'd' || d, w, '', '{{}}', 1000000, {}
             FROM generate_series(1, {customers}) c, generate_series(1, 3) d, generate_series(101, 102) w;
             INSERT INTO tollgate.accepted SELECT customer, dimension, writer, amount FROM tollgate.sums",
            EIGHT.number(),
            START.unix_millis()
        ))
        .await;
    let now = at(EIGHT.next(), 3);
    ledger.set_clock(now).await;
    let leader = ledger.leader().await;
    let settings = writer("replica");
    let writer = Writer::start(connector(&ledger), settings, WallClock::fixed(now), Box::new(Unobserved));
    let writer = Arc::new(writer);
    one(&writer, event(None, 1, now)).await;
    let alone = Clients::start(&writer, now);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let alone = alone.end().await;
    let beside = Clients::start(&writer, now);
    let began = clock::monotonic();
    let made = seal_all(&leader).await;
    let sealing = clock::monotonic().duration_since(began);
    assert_eq!(made, 3 * customers);
    let began = clock::monotonic();
    let mut sent = 0;
    loop {
        let due = leader.due(now, 500).await.unwrap();
        if due.is_empty() || sent >= 15_000 {
            break;
        }
        for call in due.chunks(25) {
            let ids: Vec<i64> = call.iter().map(|due| due.record.id).collect();
            leader.begin(&ids, None, now).await.unwrap();
            leader.answered_all(ids.iter().map(|id| accepted(*id)).collect(), None, now).await.unwrap();
            sent += ids.len();
        }
    }
    let sending = clock::monotonic().duration_since(began);
    let beside = beside.end().await;
    let rate = f64::from(u32::try_from(sent).unwrap()) / sending.as_secs_f64();
    println!(
        "{made} slots sealed in {sealing:?}, {sent} records marked and answered in {sending:?} ({rate:.0}/s); \
         {} acknowledgements beside it, the longest after {:?}, alone after {:?}",
        beside.taken, beside.longest, alone.longest
    );
    ledger.check_balance().await;
    assert!(rate > 2.0 * QUOTA, "{rate} records a second");
    // Ten times what the design allows: the machine of this test may be busy.
    assert!(beside.longest < Duration::from_secs(1), "{:?}", beside.longest);
}

/// Clients that have usage counted.
struct Clients {
    ends: Arc<AtomicBool>,
    tasks: tokio::task::JoinSet<Waited>,
}

/// How long acknowledgements took.
#[derive(Default)]
struct Waited {
    taken: usize,
    longest: Duration,
}

impl Clients {
    fn start(writer: &Arc<Writer>, now: Timestamp) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let (writer, ends) = (Arc::clone(writer), Arc::clone(&ends));
            tasks.spawn(async move {
                let mut waited = Waited::default();
                while !ends.load(Ordering::Relaxed) {
                    let asked = clock::monotonic();
                    one(&writer, event(None, 1, now)).await;
                    waited.longest = waited.longest.max(clock::monotonic().duration_since(asked));
                    waited.taken += 1;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                waited
            });
        }
        Self { ends, tasks }
    }

    async fn end(mut self) -> Waited {
        self.ends.store(true, Ordering::Relaxed);
        let mut all = Waited::default();
        while let Some(waited) = self.tasks.join_next().await {
            let waited = waited.unwrap();
            all = Waited { taken: all.taken + waited.taken, longest: all.longest.max(waited.longest) };
        }
        all
    }
}
