//! What a listing of open usage foresees, compared with the records that this usage becomes, on any engine.

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::SETTLE;
use crate::LedgerError;
use crate::store::Store;
use crate::view::{From, Looked, OpenSlot};
use tollgate_marketplace::{Hour, Quantity};
use tollgate_metering::record::Record;
use tollgate_time::Timestamp;

/// More than any test has.
const ALL: usize = 1000;

/// All open usage, in pieces of at most `limit` sets of tags.
pub async fn open_slots(store: &dyn Store, limit: usize) -> Result<Vec<OpenSlot>, LedgerError> {
    let (mut slots, mut from) = (Vec::new(), Some(From::default()));
    while let Some(at) = from {
        let piece = store.open_slots(Looked::default(), at, limit).await?;
        slots.extend(piece.rows);
        from = piece.next;
    }
    Ok(slots)
}

fn failed(error: &LedgerError) -> TestCaseError {
    TestCaseError::fail(format!("the ledger failed: {error}"))
}

/// Seals what is due, or the open hour too, and compares each new record with what was foreseen.
pub async fn seal(leader: &dyn Store, early: bool, now: Timestamp) -> Result<(), TestCaseError> {
    // What must move to another hour moves first, as it does within a second of a start.
    seal_and_compare(leader, false, now).await?;
    if early { seal_and_compare(leader, true, now).await } else { Ok(()) }
}

async fn seal_and_compare(leader: &dyn Store, early: bool, now: Timestamp) -> Result<(), TestCaseError> {
    let foreseen = open_slots(leader, ALL).await.map_err(|error| failed(&error))?;
    for limit in [1, 4] {
        let again = open_slots(leader, limit).await.map_err(|error| failed(&error))?;
        prop_assert_eq!(&again, &foreseen, "whatever the pages");
    }
    foreseen.iter().try_for_each(adds_up)?;
    let known: Vec<i64> = records(leader).await?.iter().map(|record| record.id).collect();
    while leader.seal(early, now).await.map_err(|error| failed(&error))?.more {}
    let mut made = records(leader).await?;
    made.retain(|record| !known.contains(&record.id));
    let up_to = if early { Hour::of(now) } else { Hour::latest_closed(now, SETTLE) };
    for slot in foreseen.iter().filter(|slot| slot.hour <= up_to) {
        let is_of = |record: &Record| {
            (record.hour, record.customer.canonical(), &record.dimension)
                == (slot.hour, slot.customer.clone(), &slot.dimension)
        };
        let is_other =
            |other: &OpenSlot| (&other.customer, &other.dimension) == (&slot.customer, &slot.dimension);
        let Some(sealed) = &slot.sealed else {
            // Unless another pod has a slot of that hour.
            let leaves_one =
                |other: &OpenSlot| is_other(other) && other.hour == slot.hour && other.sealed.is_some();
            let is_made = made.iter().any(is_of);
            prop_assert!(!is_made || foreseen.iter().any(leaves_one), "no record was foreseen: {slot:?}");
            continue;
        };
        // What an hour leaves that is sealed before its end is another credit than if it closes. It may cover this
        // hour.
        let is_credited = early && foreseen.iter().any(|other| is_other(other) && other.hour < slot.hour);
        let Some(place) = made.iter().position(is_of) else {
            prop_assert!(is_credited, "a record was foreseen: {slot:?}");
            continue;
        };
        let record = made.swap_remove(place);
        if is_credited {
            continue;
        }
        let whole = leader.record(record.id).await.map_err(|error| failed(&error))?;
        let allocations = whole.map(|(whole, _)| whole.allocations).unwrap_or_default();
        let (usage, sent) = (&sealed.usage, &sealed.sent);
        let found = (record.quantity, record.raw, record.decimal, allocations);
        let expected = (usage.quantity, sent.raw, usage.decimal, usage.allocations.clone());
        prop_assert_eq!(found, expected, "{:?}", slot);
    }
    prop_assert!(made.is_empty(), "records that were not foreseen: {made:?}");
    Ok(())
}

async fn records(store: &dyn Store) -> Result<Vec<Record>, TestCaseError> {
    let (mut records, mut before) = (Vec::new(), None);
    loop {
        let looked = Looked { before, ..Looked::default() };
        let piece = store.page(looked, ALL).await.map_err(|error| failed(&error))?;
        records.extend(piece.rows);
        match piece.next {
            Some(next) => before = Some(next),
            None => return Ok(records),
        }
    }
}

/// What people can add up in a listing does add up.
fn adds_up(slot: &OpenSlot) -> Result<(), TestCaseError> {
    let sets = slot.by_tags();
    prop_assert_eq!(sets.values().map(|(amount, _)| amount).sum::<i128>(), slot.quantity());
    let parts: u64 = sets.values().map(|(_, part)| part.micros()).sum();
    let quantity = slot.sealed.as_ref().map_or(Quantity::ZERO, |sealed| sealed.usage.quantity);
    prop_assert_eq!(parts, quantity.micros(), "{:?}", slot);
    let raw = slot.rule.raw(quantity.micros().into());
    prop_assert_eq!(slot.quantity() + slot.kept + slot.rounded_up(), raw + slot.left(), "{:?}", slot);
    Ok(())
}
