//! Upgrades from schema 1: in steps, with a kill after any step; old keys; the copy of the old ledger.

use std::fmt::Write as _;
use std::fs;

use super::versions::released;
use super::*;

/// A ledger of schema 1 with more rows than a step takes.
fn large() -> tempfile::TempDir {
    let mut sql = include_str!("../testdata/schema-1.sql").to_owned();
    for number in 0..1300 {
        let _ = write!(
            sql,
            "INSERT INTO keys VALUES ('key-{number}', X'{:064x}', 1795507200000);
             INSERT INTO sums VALUES ('pod-1', '', 'gigabytes', 498752, '{{\"t\":\"{number}\"}}', 3, 1795507200000, NULL);
             INSERT INTO records (pod, customer, dimension, hour, micros, decimal, allocations, timestamp, client_token,
                 state, sealed_at, updated_at) VALUES ('pod-1', '', 'seats', {number}, 2, 1,
                 '[{{\"tags\":{{\"t\":\"a\"}},\"micros\":1}},{{\"tags\":{{}},\"micros\":1}}]', {number}, 'x', 'sealed', 1, 1);",
            5
        );
    }
    sql.push_str("INSERT INTO accepted VALUES ('gigabytes', 3900), ('seats', 2600);");
    released(&sql)
}

fn expected() -> BTreeMap<String, Totals> {
    let of = |accepted: i128, billed: i128, dead: i128| Totals {
        accepted,
        billed,
        dead,
        pending: accepted - billed - dead,
        ..Totals::default()
    };
    BTreeMap::from([
        ("gigabytes".to_owned(), of(3900, 0, 0)),
        ("requests".to_owned(), of(3_006_667, 6_100, 500)),
        ("seats".to_owned(), of(2600, 0, 0)),
    ])
}

#[test]
fn an_upgrade_that_is_killed_after_any_step_goes_on_and_is_in_balance_all_the_time() {
    let folder = large();
    let path = folder.path().join(FILE_NAME);
    let mut steps = 0;
    loop {
        // Each step runs in its own process, which is killed afterwards.
        let mut ledger = Database::connect(&path, CHECKPOINT_PAGES_MAX).unwrap();
        ledger.check_schema().unwrap();
        if !ledger.upgrade_step().unwrap() {
            break;
        }
        ledger.check_schema().unwrap();
        ledger.check_balance().unwrap();
        assert_eq!(ledger.totals().unwrap(), expected(), "step {steps}");
        steps += 1;
    }
    assert!(steps > 6, "{steps} steps");
    let mut ledger = Ledger::open(folder.path(), settings("pod-1")).unwrap();
    ledger.check().unwrap();
    assert_eq!(ledger.totals().unwrap(), expected());
    assert!(
        ledger
            .records(2000)
            .unwrap()
            .iter()
            .filter(|r| r.dimension == "seats")
            .all(|r| r.allocation_count == 2)
    );
    let contents = ledger.contents().unwrap();
    assert_eq!((contents.keys, contents.open, contents.unsent, contents.settled), (1301, 1303, 1302, 2));
    ledger.seal_closed(START.plus(HOUR + SETTLE)).unwrap();
    let sealed =
        ledger.unsent(2000).unwrap().into_iter().find(|record| record.dimension == "gigabytes").unwrap();
    assert_eq!((sealed.allocation_count, sealed.quantity.micros()), (1300, 3900));
}

#[tokio::test(start_paused = true)]
async fn keys_of_the_old_ledger_are_known_until_their_window_has_passed_and_then_their_table_goes() {
    let folder = large();
    let mut ledger = Ledger::open(folder.path(), settings("pod-1")).unwrap();
    assert_eq!(ledger.take(&[event(Some("order-1"), 7, START)], START).unwrap(), [Taken::Duplicate]);
    assert_eq!(ledger.take(&[event(Some("order-1"), 8, START)], START).unwrap(), [Taken::Conflict]);
    assert_eq!(ledger.take(&[event(Some("key-1299"), 9, START)], START).unwrap(), [Taken::Conflict]);
    assert_eq!(ledger.take(&[event(Some("new"), 9, START)], START).unwrap(), [Taken::Accepted]);
    drop(ledger);
    let mut ledger = Ledger::open(folder.path(), settings("pod-1")).unwrap();
    for hour in 0..55 {
        tokio::time::advance(HOUR).await;
        for _ in 0..3 {
            ledger.seal_closed(START.plus(hour * HOUR + SETTLE)).unwrap();
        }
        if hour == 46 {
            let now = START.plus(hour * HOUR + SETTLE);
            assert_eq!(ledger.take(&[event(Some("order-1"), 7, now)], now).unwrap(), [Taken::Duplicate]);
        }
    }
    assert_eq!(ledger.contents().unwrap().keys, 0);
    assert!(!ledger.reading(|connection| totals::exists(connection, "keys")).unwrap());
    let now = START.plus(55 * HOUR);
    assert_eq!(ledger.take(&[event(Some("order-1"), 7, now)], now).unwrap(), [Taken::Accepted]);
    ledger.check().unwrap();
}

/// The ring's time begins with the clock's, which includes the hours before the upgrade.
#[test]
fn hours_in_which_an_old_ledger_waited_for_its_upgrade_make_its_keys_old_once() {
    let folder = large();
    let waited = 6 * HOUR;
    let settings = LedgerSettings { started_at: START.plus(waited), ..settings("pod-1") };
    let mut ledger = Ledger::open(folder.path(), settings).unwrap();
    for hour in 6..48 {
        let now = START.plus(hour * HOUR + SETTLE);
        for _ in 0..3 {
            ledger.seal_closed(now).unwrap();
        }
        assert_eq!(
            ledger.take(&[event(Some("order-1"), 7, now)], now).unwrap(),
            [Taken::Duplicate],
            "{hour}"
        );
    }
}

#[test]
fn the_old_ledger_stays_beside_it_without_its_keys_until_the_next_start() {
    let folder = large();
    let copy = folder.path().join(format!("{FILE_NAME}.schema-1"));
    let part = folder.path().join(format!("{FILE_NAME}.schema-1.part"));
    // The rest of an interrupted copy.
    fs::write(&part, "half").unwrap();
    drop(Ledger::open(folder.path(), settings("pod-1")).unwrap());
    assert!(!part.exists());
    let old = Connection::open(&copy).unwrap();
    let number = |sql: &str| old.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(meta(&old, "schema").unwrap().as_deref(), Some("1"));
    assert_eq!(meta(&old, "min_reader").unwrap().as_deref(), Some("1"));
    assert_eq!(number("SELECT count(*) FROM keys"), 0);
    assert_eq!(number("SELECT count(*) FROM sums"), 1302);
    assert_eq!(number("SELECT count(*) FROM records WHERE attempting = 1"), 1, "as it was");
    assert_eq!(number("SELECT sum(micros) FROM accepted"), 3_006_667 + 3900 + 2600);
    drop(old);
    drop(Ledger::open(folder.path(), settings("pod-1")).unwrap());
    assert!(!copy.exists(), "a start that found nothing to upgrade");
}

#[test]
fn a_copy_that_cannot_be_made_says_so_and_leaves_the_old_ledger() {
    let folder = large();
    let part = folder.path().join(format!("{FILE_NAME}.schema-1.part"));
    fs::create_dir(&part).unwrap();
    let error = Ledger::open(folder.path(), settings("pod-1")).unwrap_err().to_string();
    let says = format!("the ledger cannot be copied before its upgrade, to {}: ", part.display());
    assert!(
        error.contains(&says) && error.contains("free space") && error.ends_with("is unchanged"),
        "{error}"
    );
    let old = Connection::open(folder.path().join(FILE_NAME)).unwrap();
    assert_eq!(meta(&old, "schema").unwrap().as_deref(), Some("1"));
    drop(old);
    fs::remove_dir(&part).unwrap();
    drop(Ledger::open(folder.path(), settings("pod-1")).unwrap());
    assert!(folder.path().join(format!("{FILE_NAME}.schema-1")).exists());
}

#[test]
fn a_visitor_upgrades_an_old_ledger_too_and_keeps_the_copy() {
    let folder = large();
    let ledger = Database::open_existing(folder.path()).unwrap();
    assert_eq!(ledger.totals().unwrap(), expected());
    assert_eq!(ledger.unsent(3000).unwrap().len(), 1302);
    drop(ledger);
    drop(Database::open_existing(folder.path()).unwrap());
    assert!(folder.path().join(format!("{FILE_NAME}.schema-1")).exists());
}
