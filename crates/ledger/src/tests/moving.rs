//! Moves to another store, on this side: what is read, and which programs may use the file.

use serde_json::{Value, json};

use super::versions::released;
use super::*;
use crate::moving::{Moving, Part, Stage};
use tollgate_marketplace::lifecycle::{LifecycleEvent, NamedLicense, News};

const TO: &str = "database.example:5432/usage";

fn customer() -> Customer {
    Customer::Account { account_id: "111122223333".to_owned(), license_arn: None }
}

fn of_customer(id: Option<&str>, micros: u64, team: &str, at: Timestamp) -> Event {
    let tags = match team {
        "" => TagSet::default(),
        team => BTreeMap::from([("team".to_owned(), team.to_owned())]).try_into().unwrap(),
    };
    Event { customer: customer(), tags, ..event(id, micros, at) }
}

/// Dimensions of which so little is used that all of it stays for a later hour.
const BY_THE_BILLION: [&str; 3] = ["bytes", "calls", "cycles"];

/// A ledger of mode `saas` with something in every part.
fn full() -> tempfile::TempDir {
    let folder = folder();
    let rules = rules(&BY_THE_BILLION.map(|dimension| (dimension, "sum 1000000000 none")));
    let mut ledger = Ledger::open(folder.path(), LedgerSettings { rules, ..settings("") }).unwrap();
    for dimension in BY_THE_BILLION {
        let little = Event { dimension: dimension.to_owned(), ..of_customer(None, 400, "", START) };
        ledger.take(&[little], START).unwrap();
    }
    for hour in 0..3_u32 {
        let at = START.plus(hour * HOUR);
        for (index, team) in ["", "a", "b"].into_iter().enumerate() {
            let id = format!("key-{hour}-{index}");
            ledger.take(&[of_customer(Some(&id), 1 << (hour * 3 + 1), team, at)], at).unwrap();
        }
    }
    let now = START.plus(2 * HOUR + SETTLE);
    while ledger.seal_closed(now).unwrap().more {}
    let ids: Vec<i64> = ledger.unsent(10).unwrap().iter().map(|record| record.id).collect();
    ledger.answered(ids[0], &Answered::Dead("InvalidTagException".into()), now).unwrap();
    ledger.repair(ids[0], &repair::replay(false), now).unwrap();
    ledger.attempt(&[ids[1]], None, now).unwrap();
    ledger.identify("id-1", "111122223333").unwrap();
    ledger.identify("id-2", "444455556666").unwrap();
    for (id, license) in [("e-1", "l-1"), ("e-2", "l-2"), ("e-3", "l-2")] {
        let license = license.to_owned();
        let named = NamedLicense { account: "111122223333".to_owned(), license, agreement: None };
        let news = News::LicenseDeprovisioned(named);
        let event = LifecycleEvent { id: id.to_owned(), at: now, detail_type: String::new(), news };
        ledger.note_event(&event, now).unwrap();
    }
    folder
}

/// All rows of a part, in chunks of this many.
fn all(moving: &Moving, part: Part, limit: usize) -> Vec<Value> {
    let (mut rows, mut from) = (Vec::new(), None);
    loop {
        let chunk = moving.chunk(part, from.as_deref(), limit, START.plus(3 * HOUR)).unwrap();
        rows.extend(chunk.rows);
        match chunk.next {
            Some(next) => from = Some(next),
            None => return rows,
        }
    }
}

#[test]
fn every_row_moves_once_whatever_the_size_of_a_chunk() {
    let folder = full();
    let moving = Moving::open(folder.path()).unwrap();
    for (part, expected) in Part::ALL.into_iter().zip([9, 3, 3, 2, 1, 3, 2, 1, 2, 3]) {
        let whole = all(&moving, part, 1000);
        assert_eq!(whole.len(), expected, "{part:?}: {whole:?}");
        for limit in 1..4 {
            assert_eq!(all(&moving, part, limit), whole, "{part:?} in chunks of {limit}");
        }
    }
    let open: i128 = all(&moving, Part::Open, 2)
        .iter()
        .flat_map(|row| [&row["amount"], &row["additive"]])
        .map(|amount| amount.as_str().unwrap().parse::<i128>().unwrap())
        .sum();
    let sealed: i128 = all(&moving, Part::Records, 2)
        .iter()
        .filter(|row| row["state"] == "sealed")
        .map(|row| i128::from(row["micros"].as_i64().unwrap()))
        .sum();
    let facts = moving.facts().unwrap();
    assert_eq!(open + sealed, facts.totals["requests"].pending);
    for (row, dimension) in all(&moving, Part::Remainders, 2).iter().zip(BY_THE_BILLION) {
        assert_eq!((&row["dimension"], &row["amount"]), (&json!(dimension), &json!("400")));
        assert_eq!(facts.totals[dimension].remainder, 400);
    }
    assert_eq!((facts.ledger_id.len(), facts.product.as_deref()), (32, Some("demometered")));
    assert_eq!(facts.closed, Some(Hour::of(START).next()));
    let records = all(&moving, Part::Records, 10);
    assert_eq!(records[1]["in_doubt"], true, "its process ended during the call");
    assert_eq!(records[0]["state"], "carried");
    assert!(!moving.has_usage_of_pods().unwrap());
}

#[test]
fn a_key_is_as_old_after_the_move_and_keys_of_an_older_schema_move_too() {
    let folder = released(include_str!("../testdata/schema-1.sql"));
    let moving = Moving::open(folder.path()).unwrap();
    assert!(moving.has_usage_of_pods().unwrap());
    let keys = all(&moving, Part::Keys, 1);
    let ledger_id = moving.facts().unwrap().ledger_id;
    let hash = hex(&crate::keys::hash(&ledger_id, "order-1"));
    assert!(keys.iter().any(|key| key["hash"] == *hash), "{keys:?}");
}

#[test]
fn a_ledger_that_moves_is_used_by_no_program_but_the_one_that_moves_it() {
    let folder = full();
    for stage in [Stage::Copying, Stage::Ready] {
        let mut moving = Moving::open(folder.path()).unwrap();
        moving.note(stage, TO).unwrap();
        assert_eq!(moving.stage().unwrap(), Some((stage, TO.to_owned())));
        assert!(matches!(Moving::open(folder.path()), Err(LedgerError::InUse(_))), "one at a time");
        drop(moving);
        for error in [
            Ledger::open(folder.path(), settings("")).map(|_| ()).unwrap_err(),
            Database::open_existing(folder.path()).map(|_| ()).unwrap_err(),
            Database::inspect(folder.path()).map(|_| ()).unwrap_err(),
        ] {
            assert!(matches!(error, LedgerError::Moving { .. }), "{error:?}");
            assert!(error.to_string().contains(TO) && error.to_string().contains("ledger move"), "{error}");
        }
    }
    let mut moving = Moving::open(folder.path()).unwrap();
    moving.note(Stage::Moved, TO).unwrap();
    drop(moving);
    for error in [
        Ledger::open(folder.path(), settings("")).map(|_| ()).unwrap_err(),
        Moving::open(folder.path()).map(|_| ()).unwrap_err(),
    ] {
        assert!(matches!(error, LedgerError::Moved { .. }), "{error:?}");
        assert!(error.to_string().contains(TO), "{error}");
    }
    // A program that does not know moves reads this first.
    let connection = Connection::open(folder.path().join(FILE_NAME)).unwrap();
    let min_reader = meta(&connection, "min_reader").unwrap().unwrap();
    assert!(min_reader.parse::<i64>().unwrap() > SCHEMA, "{min_reader}");
    assert!(quarantine::latest(&folder.path().join(FILE_NAME)).unwrap().is_none(), "nothing was set aside");
}

#[test]
fn where_there_is_nothing_to_move_nothing_is_made() {
    let folder = folder();
    assert!(matches!(Moving::open(folder.path()), Err(LedgerError::Io(_))));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
