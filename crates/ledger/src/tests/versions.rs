//! Older ledgers: a ledger of each released schema is kept here as SQL, and this program opens it.

use super::*;

/// A ledger of each schema, from the first on. A new migration needs the ledger that it starts from here.
const RELEASED: [&str; 4] = [
    include_str!("../testdata/schema-1.sql"),
    include_str!("../testdata/schema-2.sql"),
    include_str!("../testdata/schema-3.sql"),
    include_str!("../testdata/schema-4.sql"),
];

pub(super) fn released(sql: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let connection = Connection::open(folder.path().join(FILE_NAME)).unwrap();
    amount::register(&connection).unwrap();
    connection.pragma_update(None, "journal_mode", "WAL").unwrap();
    connection.execute_batch(sql).unwrap();
    folder
}

/// The SQL of every table and index, with white space normalised.
fn tables(connection: &Connection) -> Vec<String> {
    let mut statement =
        connection.prepare("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name").unwrap();
    let texts = statement.query_map([], |row| row.get::<_, String>(0)).unwrap();
    texts.map(|text| text.unwrap().split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn every_schema_has_its_frozen_ledger_and_the_newest_is_what_this_program_makes() {
    assert_eq!(i64::try_from(RELEASED.len()).unwrap(), SCHEMA);
    let bench = Bench::new();
    let newest = released(RELEASED.last().unwrap());
    let made = tables(&bench.ledger.as_ref().unwrap().connection);
    let frozen = tables(&Connection::open(newest.path().join(FILE_NAME)).unwrap());
    assert_eq!(made, frozen, "a schema that was released never changes: add a migration");
}

/// 0.2.0 runs on a ledger of this program whose dimensions are metered by the default: nothing of schema 2 changed.
#[test]
fn later_schemas_only_add_to_schema_2() {
    let of = |sql: &str| {
        let folder = released(sql);
        let connection = Connection::open(folder.path().join(FILE_NAME)).unwrap();
        (tables(&connection), meta(&connection, "min_reader").unwrap())
    };
    let ((first, _), (second, min_reader), (third, _)) = (of(RELEASED[1]), of(RELEASED[2]), of(RELEASED[3]));
    assert!(
        first.iter().all(|table| second.contains(table)) && second.iter().all(|table| third.contains(table))
    );
    assert_eq!((second.len() - first.len(), third.len() - second.len()), (6, 1));
    assert_eq!(min_reader.as_deref(), Some("2"));
}

#[test]
fn the_version_before_is_refused_from_the_first_rule_on() {
    let min_reader = |bench: &Bench| {
        let connection = &bench.ledger.as_ref().unwrap().connection;
        meta(connection, "min_reader").unwrap()
    };
    let mut bench = Bench::new();
    assert_eq!(min_reader(&bench).as_deref(), Some("2"), "every dimension has the default");
    bench.restart_with(rules(&[("storage", "sum 1000 none")]));
    assert_eq!(
        min_reader(&bench).as_deref(),
        Some("4"),
        "a program of schema 3 would send bytes as gigabytes"
    );
    bench.restart_with(rules(&[]));
    assert_eq!(min_reader(&bench).as_deref(), Some("4"), "remainders may be left");
}

#[test]
fn a_ledger_of_schema_2_is_read_without_an_upgrade() {
    let folder = released(RELEASED[1]);
    assert_eq!(Database::inspect(folder.path()).unwrap().records(10).unwrap().len(), 5);
    assert_eq!(
        meta(&Connection::open(folder.path().join(FILE_NAME)).unwrap(), "schema").unwrap().as_deref(),
        Some("2")
    );
}

#[test]
fn every_older_schema_is_opened_with_all_that_is_in_it() {
    for (index, sql) in RELEASED.iter().enumerate() {
        let folder = released(sql);
        let mut ledger = Ledger::open(folder.path(), settings("pod-1")).unwrap();
        ledger.check().unwrap();
        let totals = ledger.totals().unwrap();
        let expected =
            Totals { accepted: 3_006_667, billed: 6_100, pending: 3_000_067, dead: 500, ..Totals::default() };
        assert_eq!(totals["requests"], expected, "schema {}", index + 1);
        let unsent = ledger.unsent(10).unwrap();
        let tokens: Vec<_> =
            unsent.iter().map(|record| (record.client_token.as_str(), record.state.in_doubt())).collect();
        assert_eq!(
            tokens,
            [("token-2", true), ("token-3", false)],
            "the process ended during the call of token-2"
        );
        let whole = ledger.record(2).unwrap().unwrap();
        assert_eq!((whole.allocations.len(), whole.record.timestamp.unix_millis()), (2, 1_795_500_000_123));
        assert_eq!(ledger.take(&[event(Some("order-1"), 7, START)], START).unwrap(), [Taken::Duplicate]);
        ledger.take(&[event(None, 3, START)], START).unwrap();
        ledger.seal_closed(START.plus(HOUR + SETTLE)).unwrap();
        let sealed = ledger.unsent(10).unwrap().pop().unwrap();
        assert_eq!((sealed.quantity.micros(), sealed.late_from), (30, Some(Hour::from_number(498_750))));
        drop(ledger);
        let stored =
            |key: &str| meta(&Connection::open(folder.path().join(FILE_NAME)).unwrap(), key).unwrap();
        assert_eq!(stored("schema"), Some(SCHEMA.to_string()));
        assert_eq!(stored("ledger_id").as_deref(), Some("0f0e0d0c0b0a09080706050403020100"));
    }
}

#[test]
fn a_newer_schema_that_lets_older_programs_write_keeps_its_number() {
    let folder = released(RELEASED.last().unwrap());
    {
        let connection = Connection::open(folder.path().join(FILE_NAME)).unwrap();
        set_meta(&connection, "schema", "7").unwrap();
    }
    drop(Ledger::open(folder.path(), settings("pod-1")).unwrap());
    let connection = Connection::open(folder.path().join(FILE_NAME)).unwrap();
    assert_eq!(meta(&connection, "schema").unwrap().as_deref(), Some("7"));
}

#[test]
fn usage_of_one_product_is_never_reported_as_anothers() {
    let folder = tempfile::tempdir().unwrap();
    let of = |product: &str| {
        Ledger::open(folder.path(), LedgerSettings { product: product.to_owned(), ..settings("pod-1") })
    };
    let mut ledger = of("first").unwrap();
    ledger.take(&[event(None, 3, START)], START).unwrap();
    drop(ledger);
    let error = of("second").unwrap_err();
    assert!(matches!(error, LedgerError::OtherProduct { .. }), "{error:?}");
    assert!(error.to_string().contains("product first"), "{error}");
    let mut ledger = of("first").unwrap();
    ledger.seal_closed(START.plus(HOUR + SETTLE)).unwrap();
    drop(ledger);
    assert!(of("second").is_err(), "sealed and not sent");
    let mut ledger = of("first").unwrap();
    let id = ledger.unsent(1).unwrap()[0].id;
    ledger.answered(id, &Answered::Accepted(None), START).unwrap();
    drop(ledger);
    drop(of("second").unwrap());
    assert!(of("first").is_ok(), "nothing of the second waits");
}

#[test]
fn no_seller_uses_a_ledger_up() {
    let mut bench = Bench::new();
    let most = Quantity::MAX.micros();
    for round in 0..3 {
        let events: Vec<Event> =
            (0..500).map(|index| event(Some(&format!("{round}-{index}")), most, START)).collect();
        let taken = bench.ledger().take(&events, START).unwrap();
        assert!(taken.iter().all(|taken| *taken == Taken::Accepted));
    }
    // More than 64 bits can hold: 15 million million units.
    let all = i128::from(most) * 1500;
    assert!(all > i128::from(i64::MAX));
    assert_eq!(bench.total("requests").accepted, all);
    assert_eq!(bench.take(event(Some("0-1"), most, START), START), Taken::Duplicate);
    bench.ledger().seal_closed(START.plus(HOUR + SETTLE)).unwrap();
    assert_eq!(bench.ledger().unsent(10).unwrap()[0].quantity, Quantity::MAX);
    bench.ledger().seal_closed(START.plus(2 * HOUR + SETTLE)).unwrap();
    assert_eq!(
        bench.ledger().unsent(10).unwrap()[1].quantity,
        Quantity::MAX,
        "the rest counts to the next hour"
    );
    assert_eq!(bench.total("requests").pending, all);
}
