//! What the sender's questions cost: the same, however many records wait. Counted in steps of SQLite's machine, so that
//! no test depends on time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// Records that a question may read.
const LIMIT: usize = 10;

/// A ledger in which so many records wait, each due at a moment of its own, some of them in doubt.
fn waiting(records: usize) -> Bench {
    let mut bench = Bench::new();
    let sql = format!(
        "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {records})
         INSERT INTO records (pod, customer, dimension, hour, micros, decimal, allocations, timestamp, client_token, state,
             sealed_at, updated_at, due_at, in_doubt, code)
         SELECT 'pod-1', 'customer ' || n, 'requests', 498752, 2, 1, '[]', 1795507200000 + n, '', 'sealed', 1, n,
             1795507200000 + n, n % 20 = 0, 'ThrottlingException' FROM numbers"
    );
    bench.ledger().connection.execute_batch(&sql).unwrap();
    bench
}

/// The steps that SQLite takes to do this.
fn steps(bench: &mut Bench, ask: impl Fn(&mut Ledger)) -> usize {
    let steps = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&steps);
    let count = move || {
        counter.fetch_add(1, Ordering::Relaxed);
        false
    };
    bench.ledger().connection.progress_handler(1, Some(count)).unwrap();
    ask(bench.ledger());
    bench.ledger().connection.progress_handler(0, None::<fn() -> bool>).unwrap();
    steps.load(Ordering::Relaxed)
}

#[test]
fn no_question_of_the_sender_costs_more_where_more_records_wait() {
    let (mut few, mut many) = (waiting(1000), waiting(10_000));
    let hour = Hour::of(START);
    let questions: [(&str, &dyn Fn(&mut Ledger)); 8] = [
        ("due", &|ledger| assert_eq!(ledger.due(START.plus(HOUR), LIMIT).unwrap().len(), LIMIT)),
        ("none due", &|ledger| assert!(ledger.due(START, LIMIT).unwrap().is_empty())),
        ("doubtful", &|ledger| assert_eq!(ledger.doubtful(LIMIT).unwrap().len(), LIMIT)),
        ("unsent_up_to", &|ledger| assert_eq!(ledger.unsent_up_to(hour, LIMIT).unwrap().len(), LIMIT)),
        ("next_due", &|ledger| assert!(ledger.next_due().unwrap().is_some())),
        ("latest_code", &|ledger| assert!(ledger.latest_code().unwrap().is_some())),
        ("summary", &|ledger| assert!(ledger.summary().unwrap().oldest_unsent.is_some())),
        ("release", &|ledger| assert_eq!(ledger.release(START, LIMIT).unwrap(), LIMIT)),
    ];
    for (name, ask) in questions {
        let (few, many) = (steps(&mut few, ask), steps(&mut many, ask));
        assert!(many <= few + few / 10 + 50, "{name}: {few} steps where 1,000 wait, {many} where 10,000 do");
    }
}

#[test]
fn records_are_made_due_in_pieces_until_none_is_left() {
    let mut bench = waiting(10_000);
    let mut pieces = Vec::new();
    loop {
        let left = 9000 - pieces.iter().sum::<usize>();
        match bench.ledger().release(START, left).unwrap() {
            0 => break,
            piece => pieces.push(piece),
        }
    }
    assert_eq!(pieces.iter().sum::<usize>(), 9000);
    assert!(pieces.iter().all(|piece| *piece <= 3000), "{pieces:?}");
}
