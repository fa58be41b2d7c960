//! The cost of the sender's queries, which does not depend on how many records wait, and the size of a commit of usage.

use super::*;
use crate::testing::OpenUsage;
use crate::testing::bare::{self, Bare};

/// Records that one query may read.
const LIMIT: usize = 10;

/// A ledger with this many waiting records, each due at another moment, some of them in doubt.
fn waiting(records: usize) -> Bench {
    let mut bench = Bench::new();
    let sql = format!(
        "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {records})
         INSERT INTO records (pod, customer, dimension, hour, micros, decimal, allocations, timestamp, client_token, state,
             sealed_at, updated_at, due_at, in_doubt, code)
         SELECT 'pod-1', 'identifier ' || n, 'requests', 498752, 2, 1, '[]', 1795507200000 + n, '', 'sealed', 1, n,
             1795507200000 + n, n % 20 = 0, 'ThrottlingException' FROM numbers"
    );
    bench.ledger().connection.execute_batch(&sql).unwrap();
    bench
}

/// The index that SQLite uses does not show in the result, and without statistics it uses the wrong one. If the
/// statement names an index, SQLite uses that one or refuses the statement.
#[test]
fn every_question_of_the_sender_names_its_index_and_is_answered_by_it() {
    let source = include_str!("../sending.rs");
    let questions: Vec<&str> = source.split("FROM records").skip(1).collect();
    assert!(questions.len() >= 4, "the search found too few");
    for question in questions {
        let text: String = question.chars().take(60).collect();
        assert!(question.starts_with(" INDEXED BY "), "FROM records{text}");
    }
    let mut bench = waiting(1000);
    let ledger = bench.ledger();
    let hour = Hour::of(START);
    assert_eq!(ledger.due(START.plus(HOUR), LIMIT).unwrap().len(), LIMIT);
    assert!(ledger.due(START, LIMIT).unwrap().is_empty());
    assert_eq!(ledger.doubtful(LIMIT).unwrap().len(), LIMIT);
    assert_eq!(ledger.unsent_up_to(hour, LIMIT).unwrap().len(), LIMIT);
    assert_eq!(ledger.count_unsent_up_to(hour).unwrap(), 1000);
    assert_eq!(ledger.next_due().unwrap(), Some(Timestamp::from_unix_millis(1_795_507_200_001)));
    assert_eq!(ledger.release(START, LIMIT).unwrap(), LIMIT);
}

/// The next process reads one row for it, once.
#[test]
fn awss_latest_word_about_the_entitlement_outlives_the_process() {
    const NOT_ENTITLED: &str = "CustomerNotEntitledException";
    let mut bench = waiting(2);
    let mut say = |answered: Answered| {
        bench.ledger().answered(1, &answered, START).unwrap();
        bench.restart("pod-1");
        bench.ledger().is_denied().unwrap()
    };
    assert!(!say(Answered::Refused("ThrottlingException".into())));
    assert!(say(Answered::Refused(NOT_ENTITLED.into())));
    assert!(say(Answered::Unknown("Timeout".into())), "a timeout does not change the entitlement");
    assert!(!say(Answered::Accepted(None)));
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

/// `benches/usage.py` compares the sidecar with the bare loop, so that loop must do the same writes as the ledger.
#[test]
fn the_bare_loop_of_the_benchmark_writes_as_much_as_the_ledger() {
    let mut bench = Bench::new();
    let other = folder();
    let mut alone = Bare::open(other.path()).unwrap();
    bench.take(bare::event("first".to_owned()), START);
    for commit in 0..3_u128 {
        let ids: Vec<u128> = (0..64).map(|number| commit << 64 | number).collect();
        let events: Vec<Event> = ids.iter().map(|id| bare::event(format!("{id:032x}"))).collect();
        let hashes: Vec<[u8; 16]> = ids.iter().map(|id| id.to_be_bytes()).collect();
        let before = (bench.ledger().written().unwrap(), alone.written().unwrap());
        bench.ledger().take(&events, START).unwrap();
        alone.commit(&hashes).unwrap();
        let after = (bench.ledger().written().unwrap(), alone.written().unwrap());
        let grown = |after: (i64, i64), before: (i64, i64)| (after.0 - before.0, after.1 - before.1);
        let (of_ledger, of_bare) = (grown(after.0, before.0), grown(after.1, before.1));
        assert_eq!(of_ledger, of_bare, "pages and rows of commit {commit}");
        if commit == 0 {
            // Pages of: the keys, their number, the slot, the totals, and the count for the mark. No index changes.
            assert_eq!(of_ledger, (5, 69), "pages and rows");
        }
    }
}

/// The time since when a slot waits is stored, and is written only when it changes.
#[test]
fn usage_that_was_late_before_makes_its_slot_as_late() {
    let mut bench = Bench::new();
    let from = |bench: &mut Bench| -> i64 {
        let find = |connection: &Connection| {
            connection.query_row("SELECT overdue_from FROM slots", [], |row| row.get(0))
        };
        bench.ledger().reading(find).unwrap()
    };
    bench.take(bare::event("a".to_owned()), START);
    assert_eq!(from(&mut bench), 3600);
    bench.take(bare::event("b".to_owned()), START.plus(MINUTE));
    assert_eq!(from(&mut bench), 3540, "nearer to the end of its hour, at the same running time");
    bench.take(bare::event("c".to_owned()), START);
    assert_eq!(from(&mut bench), 3540, "the earliest stays");
}

/// Reads a whole listing; returns its rows, and how many each piece had.
fn all<T, N>(
    mut piece: impl FnMut(N) -> Result<view::Piece<T, N>, LedgerError>,
    first: N,
) -> (Vec<T>, Vec<usize>) {
    let (mut rows, mut pieces, mut next) = (Vec::new(), Vec::new(), Some(first));
    while let Some(from) = next {
        let found = piece(from).unwrap();
        pieces.push(found.rows.len());
        rows.extend(found.rows);
        next = found.next;
    }
    (rows, pieces)
}

/// Each call reads a bounded part of the ledger, whatever it looks for.
#[test]
fn listings_are_read_in_pieces_whether_or_not_they_find_anything() {
    const SLOTS: usize = 50_000;
    let mut bench = waiting(30_000);
    let sql = format!(
        "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {SLOTS})
         INSERT INTO slots (pod, customer, dimension, hour, amount, additive, total, first_at)
         SELECT 'pod-1', 'identifier ' || n, 'requests', 498752, zeroblob(16), zeroblob(16), zeroblob(16), 0 FROM numbers"
    );
    bench.ledger().connection.execute_batch(&sql).unwrap();
    let ledger = bench.ledger();
    for (customer, found) in [(Some("nobody"), 0), (Some("49999"), 1), (None, SLOTS)] {
        let looked = view::Looked { customer: customer.map(str::to_owned), ..view::Looked::default() };
        let (rows, pieces) = all(|from| ledger.open_slots(&looked, &from, usize::MAX), view::From::default());
        assert_eq!(rows.len(), found, "{customer:?}");
        assert!(pieces.len() >= SLOTS / 8000, "{customer:?}: {} pieces", pieces.len());
    }
    let dead = view::Looked { state: Some(view::ShownState::Dead), ..view::Looked::default() };
    let page = |before| {
        let looked = view::Looked { before: Some(before), ..dead.clone() };
        ledger.page(&looked, usize::MAX)
    };
    let (rows, pieces) = all(page, i64::MAX);
    assert!(rows.is_empty() && pieces.len() >= 30_000 / 8000, "{} pieces", pieces.len());
}

#[test]
fn open_usage_is_listed_once_whatever_the_pages() {
    let mut bench = Bench::new();
    for number in 0..30_u64 {
        let customer = Customer::Identifier(format!("{number}"));
        bench.take(Event { customer: customer.clone(), ..event(None, 5, START) }, START);
        for tag in 0..number % 7 {
            let tags = BTreeMap::from([("team".to_owned(), tag.to_string())]);
            let tags = TagSet::try_from(tags).unwrap();
            bench.take(Event { customer: customer.clone(), tags, ..event(None, 1, START) }, START);
        }
    }
    let ledger = bench.ledger();
    let whole = ledger.all_open().unwrap();
    assert_eq!(
        whole.iter().map(|open| open.micros).sum::<i128>(),
        ledger.totals().unwrap()["requests"].pending
    );
    let most = 7;
    for limit in 1..12 {
        let looked = view::Looked::default();
        let (mut usage, mut next) = (Vec::new(), Some(view::From::default()));
        while let Some(from) = next {
            let piece = ledger.open_slots(&looked, &from, limit).unwrap();
            let rows: Vec<OpenUsage> = piece.rows.iter().flat_map(OpenUsage::of).collect();
            assert!(rows.len() <= limit || piece.rows.len() == 1 && rows.len() <= most, "{limit}: {rows:?}");
            usage.extend(rows);
            next = piece.next;
        }
        assert_eq!(usage, whole, "{limit}");
    }
}
