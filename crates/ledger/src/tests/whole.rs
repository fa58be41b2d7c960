//! Requests that are counted as a whole (`strict_usage`): whatever keeps one event from counting, nothing is left of
//! the others.

use super::*;
use tollgate_marketplace::lifecycle::{LifecycleEvent, NamedLicense, News};

const ACCOUNT: &str = "111122223333";

fn of(license: Option<&str>, event: Event) -> Event {
    let license_arn =
        license.map(|license| format!("arn:aws:license-manager::294406891311:license:{license}"));
    Event { customer: Customer::Account { account_id: ACCOUNT.to_owned(), license_arn }, ..event }
}

/// Every row of the tables that counting writes.
fn rows(ledger: &Ledger) -> Vec<String> {
    let tables = ["slots", "shares", "totals", "forms", "keys_0", "keys_1", "keys_2", "keys_3", "key_tables"];
    let read = |table: &str| {
        let mut found = ledger.connection.prepare(&format!("SELECT * FROM {table}")).unwrap();
        let columns = found.column_count();
        let row = |row: &rusqlite::Row<'_>| {
            (0..columns)
                .map(|column| Ok(format!("{:?} ", row.get_ref(column)?)))
                .collect::<rusqlite::Result<String>>()
        };
        let rows = found.query_map([], row).unwrap();
        rows.map(|row| format!("{table}: {}", row.unwrap())).collect::<Vec<_>>()
    };
    tables.into_iter().flat_map(read).collect()
}

#[test]
fn an_event_that_the_ledger_cannot_count_leaves_no_trace_of_its_request() {
    let mut bench = Bench::new();
    let later = START.plus(MINUTE);
    let seed =
        vec![of(None, event(Some("seed"), 1, START)), of(Some("l-9"), event(None, 2, later.plus(HOUR)))];
    assert_eq!(bench.ledger().take_whole(&seed, START).unwrap(), [Taken::Accepted; 2]);
    let news = News::LicenseDeprovisioned(NamedLicense {
        account: ACCOUNT.to_owned(),
        license: "l-1".to_owned(),
        agreement: None,
    });
    let ended = LifecycleEvent { id: "e-1".to_owned(), at: START, detail_type: String::new(), news };
    bench.ledger().note_event(&ended, START).unwrap();
    let tags = BTreeMap::from([("team".to_owned(), "a".to_owned())]);
    let good = [
        of(None, event(Some("new"), 4, START)),
        Event { tags: tags.try_into().unwrap(), ..of(None, event(None, 8, START)) },
        Event { customer: Customer::Identifier("id-7".to_owned()), ..event(None, 16, later.plus(HOUR)) },
        of(None, event(Some("seed"), 1, START)),
    ];
    let before = rows(bench.ledger());
    for (bad, taken) in [
        (of(None, event(Some("seed"), 9, START)), Taken::Conflict),
        // The first event of the request has its key.
        (of(None, event(Some("new"), 9, START)), Taken::Conflict),
        (of(Some("l-9"), event(Some("other"), 9, START)), Taken::OtherForm),
        (of(Some("l-1"), event(Some("ended"), 9, later)), Taken::Deprovisioned),
    ] {
        let events: Vec<Event> = good.iter().cloned().chain([bad]).collect();
        let found = bench.ledger().take_whole(&events, later).unwrap();
        assert_eq!(found[..3], [Taken::Accepted; 3], "each is judged as if the others counted");
        assert_eq!(found[3..], [Taken::Duplicate, taken]);
        assert_eq!(rows(bench.ledger()), before, "{taken:?}");
        bench.ledger().check_balance().unwrap();
    }
    let found = bench.ledger().take_whole(&good, later).unwrap();
    assert_eq!(
        found,
        [Taken::Accepted, Taken::Accepted, Taken::Accepted, Taken::Duplicate],
        "its keys are free"
    );
    assert_eq!(bench.total("requests").accepted, 1 + 2 + 4 + 8 + 16);
}
