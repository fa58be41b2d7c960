//! What is foreseen of open usage, by any replica, and what becomes of it.

use std::collections::BTreeMap;

use super::bench::*;
use crate::{LeaseTimes, PostgresSettings, PostgresStore};
use tollgate_ledger::TAGGED_SETS_MAX;
use tollgate_ledger::store::{Store, View as _};
use tollgate_ledger::testing::foreseen::open_slots;
use tollgate_ledger::testing::settings;
use tollgate_ledger::view::{From, Looked};

fn store(bench: &Bench, name: &str) -> PostgresStore {
    let settings = PostgresSettings {
        url_file: bench.database.url_file(),
        name: name.to_owned(),
        ledger: settings(""),
        lease: LeaseTimes { look_every: Duration::from_millis(20), ..LeaseTimes::default() },
    };
    PostgresStore::start(&settings, WallClock::fixed(START), Box::new(Unobserved))
}

fn tags(name: &str) -> TagSet {
    BTreeMap::from([("team".to_owned(), name.to_owned())]).try_into().unwrap()
}

/// Each replica keeps as many sets of tags in a slot as AWS takes, so that together they may have more.
#[tokio::test]
async fn a_slot_with_more_sets_of_tags_than_aws_takes_is_foreseen_as_it_is_sealed() {
    let bench = Bench::new().await;
    let replicas = [store(&bench, "a"), store(&bench, "b")];
    replicas[0].lead().await.unwrap();
    let used = |team: String, micros: usize| Event {
        tags: tags(&team),
        ..event(None, u64::try_from(micros).unwrap(), START)
    };
    for (number, replica) in replicas.iter().enumerate() {
        for from in (0..1500).step_by(500) {
            let events = (from..from + 500).map(|team| used(format!("{number}-{team}"), team + 1)).collect();
            replica.take(events, Box::new(())).await.unwrap();
        }
        let other = Event { dimension: "seats".to_owned(), ..event(None, 7, START) };
        replica.take(vec![other], Box::new(())).await.unwrap();
    }
    let foreseen = open_slots(&replicas[1], 10).await.unwrap();
    assert_eq!(foreseen, open_slots(&replicas[1], 1_000_000).await.unwrap(), "whatever the pages");
    assert_eq!(foreseen.len(), 2);
    assert_eq!(foreseen[0].by_tags().len(), TAGGED_SETS_MAX + 1, "the others are untagged");
    assert_eq!(foreseen[0].quantity(), 2 * 1500 * 1501 / 2);
    let first = replicas[1].open_slots(Looked::default(), From::default(), 10).await.unwrap();
    assert_eq!(first.rows, foreseen[..1], "a slot is never split");
    let now = START.plus(HOUR + SETTLE);
    bench.at(now).await;
    while replicas[0].seal(false, now).await.unwrap().more {}
    let records = replicas[1].page(Looked::default(), 10).await.unwrap().rows;
    assert_eq!(records.len(), 2);
    for slot in &foreseen {
        let record = records.iter().find(|record| record.dimension == slot.dimension).unwrap();
        let (whole, _) = replicas[1].record(record.id).await.unwrap().unwrap();
        let usage = &slot.sealed.as_ref().unwrap().usage;
        assert_eq!((record.quantity, &whole.allocations), (usage.quantity, &usage.allocations));
    }
    assert!(open_slots(&replicas[0], 10).await.unwrap().is_empty());
}
