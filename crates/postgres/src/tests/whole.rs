//! Requests that are counted as a whole (`strict_usage`): whatever keeps one event from counting, nothing is left of
//! the others, and it is no commit.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::bench::*;
use tollgate_ledger::writer::Observer;
use tollgate_metering::aggregation::Rule;

/// Commits and failures, counted.
#[derive(Clone, Default)]
struct Seen(Arc<[AtomicUsize; 2]>);

impl Seen {
    fn counts(&self) -> [usize; 2] {
        [0, 1].map(|which| self.0[which].load(Ordering::SeqCst))
    }
}

impl Observer for Seen {
    fn committed(&mut self, _: Duration) {
        self.0[0].fetch_add(1, Ordering::SeqCst);
    }

    fn failed(&mut self, _: &LedgerError) {
        self.0[1].fetch_add(1, Ordering::SeqCst);
    }
}

/// Every row that counting writes.
const ROWS: &str = "SELECT sums::text FROM tollgate.sums UNION ALL SELECT keys::text FROM tollgate.keys
    UNION ALL SELECT forms::text FROM tollgate.forms UNION ALL SELECT accepted::text FROM tollgate.accepted
    UNION ALL SELECT rules::text FROM tollgate.rules ORDER BY 1";

#[tokio::test]
async fn a_request_that_the_ledger_rejects_leaves_no_trace_and_is_no_commit() {
    use Taken::{Accepted, Conflict, Duplicate, OtherForm, OtherRule};
    let bench = Bench::new().await;
    let seats = |id: Option<&str>| Event { dimension: "seats".to_owned(), ..event(id, 1, START) };
    assert_eq!(one(&bench.replica("other"), seats(None)).await, Accepted);
    let rules = [("seats".to_owned(), "sum 1 up:0".parse().unwrap())].into_iter().collect();
    let seen = Seen::default();
    let settings = WriterSettings { rules, ..writer("a") };
    let clock = WallClock::fixed(START);
    let replica = Writer::start(connector(&bench.database), settings, clock, Box::new(seen.clone()));
    let whole = async |events: Vec<Event>| replica.take_whole(events, Box::new(())).await.unwrap();
    assert_eq!(whole(vec![event(Some("seed"), 2, START)]).await, [Accepted]);
    assert_eq!(seen.counts(), [1, 0]);
    let arn = "arn:aws:license-manager::294406891311:license:l-1".to_owned();
    let licensed = Customer::Account { account_id: "111122223333".to_owned(), license_arn: Some(arn) };
    let new = || event(Some("new"), 4, START);
    let unknown = || Event { dimension: "gigabytes".to_owned(), ..event(None, 8, START.plus(HOUR)) };
    let before = bench.run(ROWS).await;
    for (bad, taken) in [
        (event(Some("seed"), 9, START), Conflict),
        (event(Some("new"), 9, START), Conflict),
        (Event { customer: licensed, ..event(Some("form"), 9, START) }, OtherForm),
        (seats(Some("rule")), OtherRule(Rule::DEFAULT)),
    ] {
        assert_eq!(whole(vec![new(), unknown(), bad]).await, [Accepted, Accepted, taken]);
        assert_eq!(bench.run(ROWS).await, before, "{taken:?}");
    }
    assert_eq!(seen.counts(), [1, 0], "nothing was committed");
    let again = vec![new(), unknown(), event(Some("seed"), 2, START)];
    assert_eq!(whole(again).await, [Accepted, Accepted, Duplicate], "its keys are free");
    assert_eq!((seen.counts(), bench.accepted().await.as_str()), ([2, 0], "15"));
}
