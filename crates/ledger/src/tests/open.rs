//! What is foreseen of open usage, and what becomes of it.

use super::*;
use crate::store::Store as _;
use crate::testing::foreseen;
use crate::view::{From, Looked, OpenSlot};
use crate::writer::Writer;
use tollgate_clock::WallClock;

fn only(bench: &mut Bench) -> OpenSlot {
    let mut piece = bench.ledger().open_slots(&Looked::default(), &From::default(), 100).unwrap();
    assert_eq!((piece.rows.len(), piece.next), (1, None));
    piece.rows.remove(0)
}

#[test]
fn usage_of_an_earlier_pod_is_foreseen_to_count_to_a_later_hour() {
    let mut bench = Bench::new();
    bench.take(event(None, 5, START), START);
    let sealed = only(&mut bench).sealed.unwrap();
    assert_eq!(sealed.usage.quantity.micros(), 5);
    bench.restart("pod-2");
    let slot = only(&mut bench);
    assert_eq!((slot.quantity(), slot.left(), slot.sealed), (5, 5, None));
    // Whoever reads the file alone does not know which pod comes next.
    let alone = bench.ledger().read_open(None, &Looked::default(), &From::default(), 100).unwrap().rows;
    assert_eq!(alone[0].sealed.as_ref(), Some(&sealed));
    let now = START.plus(HOUR + SETTLE);
    bench.ledger().seal_closed(now).unwrap();
    let slot = only(&mut bench);
    assert_eq!((slot.hour, slot.carried, slot.late_from), (Hour::of(now), 5, Some(Hour::of(START))));
    assert_eq!(slot.sealed.unwrap().usage.quantity.micros(), 5);
}

/// For some minutes after an hour's end, it takes its own late events while the next one is open too.
#[tokio::test]
async fn what_an_open_hour_leaves_is_foreseen_in_the_next_one() {
    let folder = folder();
    for (rule, expected) in [
        // What is too little to be sent stays.
        ("sum 1000 none", [(0, 1), (500, 1)]),
        ("sum 1000 up:6", [(0, 2), (0, 1)]),
    ] {
        let rules = [("requests".to_owned(), rule.parse().unwrap())].into_iter().collect();
        let folder = folder.path().join(rule);
        std::fs::create_dir(&folder).unwrap();
        let ledger = Ledger::open(&folder, LedgerSettings { rules, ..settings("pod-1") }).unwrap();
        let clock = WallClock::fixed(START);
        let writer = Writer::inline(ledger, clock.clone());
        let now = START.plus(HOUR + MINUTE);
        clock.follow(now);
        let events = vec![event(None, 700, now), event(None, 1500, START.plus(59 * MINUTE))];
        assert_eq!(writer.take(events, Box::new(())).await.unwrap(), [Taken::Accepted; 2]);
        let mut slots = foreseen::open_slots(&writer, 10).await.unwrap();
        slots.sort_by_key(|slot| slot.hour);
        let found = slots.iter().map(|slot| (slot.kept, slot.sealed.as_ref().unwrap().sent.micros));
        assert_eq!(found.collect::<Vec<_>>(), expected, "{rule}");
        let later = START.plus(2 * HOUR + SETTLE);
        clock.follow(later);
        foreseen::seal(&writer, false, later).await.unwrap();
        assert!(foreseen::open_slots(&writer, 10).await.unwrap().is_empty());
    }
}

/// A stop rounds up what the rest of the hour would have filled; the next hour takes that up.
#[tokio::test]
async fn what_a_stop_rounded_too_much_is_foreseen_in_the_next_hours() {
    let folder = folder();
    let rules = [("requests".to_owned(), "sum 1 up:0".parse().unwrap())].into_iter().collect();
    let ledger = Ledger::open(folder.path(), LedgerSettings { rules, ..settings("pod-1") }).unwrap();
    let clock = WallClock::fixed(START);
    let writer = Writer::inline(ledger, clock.clone());
    writer.take(vec![event(None, 250_000, START)], Box::new(())).await.unwrap();
    foreseen::seal(&writer, true, START).await.unwrap();
    // Its hour has a record, so that later usage counts to the next one.
    writer.take(vec![event(None, 500_000, START)], Box::new(())).await.unwrap();
    let slot = foreseen::open_slots(&writer, 10).await.unwrap().remove(0);
    assert_eq!((slot.kept, slot.left(), slot.sealed), (-750_000, -250_000, None), "it is billed already");
    writer.take(vec![event(None, 400_000, START)], Box::new(())).await.unwrap();
    let slot = foreseen::open_slots(&writer, 10).await.unwrap().remove(0);
    assert_eq!((slot.kept, slot.rounded_up(), slot.left()), (-750_000, 850_000, 0));
    let later = START.plus(2 * HOUR + SETTLE);
    clock.follow(later);
    foreseen::seal(&writer, false, later).await.unwrap();
    assert!(foreseen::open_slots(&writer, 10).await.unwrap().is_empty());
}
