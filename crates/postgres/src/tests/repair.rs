//! Repairs in the database do what they do on disk: two copies of one ledger get the same orders.

use std::sync::Mutex;

use super::moving::{HOUR, copied, event, fill, ledger, shown, to};
use super::*;
use crate::move_ledger;
use crate::testing::Server;
use tollgate_ledger::repair::{Note, Repair, Repaired};
use tollgate_ledger::store::View;
use tollgate_ledger::testing::{START, folder, settings};
use tollgate_ledger::view::{Looked, ShownState};
use tollgate_ledger::{Database as File, Ledger, Taken};
use tollgate_marketplace::Customer;

const HOURS: u32 = 12;

fn orders() -> Vec<Repair> {
    let note = || Note::new("ticket 8").unwrap();
    let replay = |accept_double_billing, to: Option<&str>| Repair::Replay {
        accept_double_billing,
        to_dimension: to.map(str::to_owned),
        note: None,
    };
    vec![
        replay(false, None),
        Repair::Discard(note()),
        replay(true, Some("seats")),
        Repair::Confirm(note()),
        replay(true, None),
        replay(true, Some("requests")),
    ]
}

#[tokio::test]
async fn a_repair_does_in_the_database_what_it_does_on_disk() {
    let now = START.plus((HOURS + 1) * HOUR);
    let original = folder();
    fill(original.path(), HOURS);
    // In this hour two accounts are reported in another form: one with a license, the other without its license.
    let mut file = Ledger::open(original.path(), settings("")).unwrap();
    let license = "arn:aws:license-manager::1:license:l-1";
    for (account_id, license) in [("111122223333", Some(license)), ("444455556666", None)] {
        let license_arn = license.map(str::to_owned);
        let other = Customer::Account { account_id: account_id.to_owned(), license_arn };
        assert_eq!(file.take(&[event(account_id, 8, &other, "", now)], now).unwrap(), [Taken::Accepted]);
    }
    drop(file);
    let copy = copied(original.path());
    let on_disk = Mutex::new(File::open_existing(copy.path()).unwrap());
    let database = Server::shared().database().await;
    connector(&database).connect().await.unwrap();
    let stands = format!(
        "CREATE OR REPLACE FUNCTION tollgate.ledger_now() RETURNS bigint LANGUAGE sql VOLATILE AS 'SELECT {}::bigint'",
        now.unix_millis()
    );
    database.run(&stands).await;
    move_ledger(original.path(), to(&database), |_, _| {}).await.unwrap();
    let in_database = ledger(&database);
    let mut letters = Vec::new();
    for state in [ShownState::Dead, ShownState::Unconfirmed, ShownState::Sealed, ShownState::Accepted] {
        let looked = Looked { state: Some(state), ..Looked::default() };
        letters.extend(on_disk.page(looked, 8).await.unwrap().rows.iter().map(|record| record.id));
    }
    letters.push(1_000_000);
    let orders = orders();
    let mut verdicts = Vec::new();
    for (first, id) in letters.iter().enumerate() {
        // Each record gets every order, beginning with another one.
        for order in orders.iter().cycle().skip(first % orders.len()).take(orders.len()) {
            let expected = on_disk.repair(*id, order.clone(), now).await.unwrap();
            let repaired = in_database.repair(*id, order.clone(), now).await.unwrap();
            assert_eq!(repaired, expected, "record {id}: {order:?}");
            verdicts.push(repaired);
        }
    }
    for verdict in [Repaired::Done, Repaired::NotFound, Repaired::InDoubt, Repaired::OtherForm] {
        assert!(verdicts.contains(&verdict), "{verdict:?} never happened");
    }
    let (expected, found) = (shown(&on_disk).await, shown(&in_database).await);
    assert_eq!(found, expected);
    assert!(found.totals.values().all(|totals| totals.balances()), "{:?}", found.totals);
    let odd = "SELECT customer, dimension FROM (
            SELECT customer, dimension, billed, discarded FROM tollgate.outcome
            UNION ALL SELECT customer, dimension, -billed, -discarded FROM tollgate.daily) AS part
        GROUP BY customer, dimension HAVING sum(billed) <> 0 OR sum(discarded) <> 0";
    assert!(database.run(odd).await.is_empty(), "the sums of the days are the sums of all time");
}
