//! What is answered about a commit whose answer was lost, while the database cannot be asked and afterwards.

use tokio::time::timeout;

use super::bench::*;
use super::broken::both;
use super::proxy::{Loss, Lost, proxied};
use super::steps::{self, EIGHT, noted};
use crate::{LeaseTimes, PostgresLedger, PostgresSettings};
use tollgate_ledger::repair::{Note, Repair, Repaired};
use tollgate_ledger::store::View as _;
use tollgate_ledger::testing::settings;
use tollgate_metering::record::Answered;

/// How long a request waits here. More than any step takes that is expected to succeed.
const SHORT: Duration = Duration::from_secs(2);

/// Long enough for everything that is expected to happen.
const SOON: Duration = Duration::from_secs(20);

/// The result of a request, which is answered although the database is away.
async fn answered(replica: &Writer, events: Vec<Event>) -> Result<Vec<Taken>, LedgerError> {
    timeout(SOON, replica.take(events, Box::new(()))).await.expect("it is answered")
}

/// Repeats an event of 8 until it is acknowledged.
async fn back(replica: &Writer) {
    let again = async {
        while replica.take(vec![event(Some("later"), 8, START)], Box::new(())).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, again).await.expect("the database is back");
}

/// The database is away for longer than a request waits, from the commit on: the commit was done, or it was not.
#[tokio::test(flavor = "multi_thread")]
async fn usage_of_unknown_fate_is_answered_so_in_time_and_counts_once() {
    for (what, counted) in [(Lost::Answer, true), (Lost::Request, false)] {
        for with_ids in [true, false] {
            let bench = Bench::new().await;
            let (proxy, through) = proxied(&bench).await;
            let replica = bench.replica_with("behind", through).answering_within(SHORT);
            assert_eq!(one(&replica, event(Some("first"), 1, START)).await, Taken::Accepted);

            proxy.lose(Loss::Take { what, then_all: true });
            let id = with_ids.then_some("a");
            let lost = vec![event(id, 2, START), event(Some("b"), 4, START)];
            let error = answered(&replica, lost.clone()).await.unwrap_err();
            let LedgerError::Uncertain(text) = error else { panic!("{error:?}") };
            assert!(text.contains("the events may have been counted"), "{text}");
            let warns = text.contains("events without an id must not be sent again blindly");
            assert_eq!(warns, !with_ids, "{text}");
            // Others certainly do not count, and are told so.
            let other = answered(&replica, vec![event(Some("c"), 1 << 20, START)]).await;
            assert!(matches!(&other, Err(LedgerError::Io(_))), "{other:?}");

            proxy.lose(Loss::Nothing);
            back(&replica).await;
            let once = if counted { 1 + 2 + 4 + 8 } else { 1 + 8 };
            assert_eq!(bench.accepted().await, once.to_string(), "{what:?}, with ids: {with_ids}");
            // As the answer says: what has an id is sent again.
            let again: Vec<Event> = lost.into_iter().filter(|event| event.id.is_some()).collect();
            let expected = if counted { Taken::Duplicate } else { Taken::Accepted };
            assert_eq!(take(&bench.replica("other"), again.clone()).await, vec![expected; again.len()]);
            let all = if counted || with_ids { 1 + 2 + 4 + 8 } else { 1 + 4 + 8 };
            assert_eq!(bench.accepted().await, all.to_string(), "{what:?}, with ids: {with_ids}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_request_of_unknown_fate_is_answered_so_in_time_and_counts_once() {
    for (what, counted) in [(Lost::Answer, true), (Lost::Request, false)] {
        let bench = Bench::new().await;
        let (proxy, through) = proxied(&bench).await;
        let replica = bench.replica_with("behind", through).answering_within(SHORT);
        assert_eq!(one(&replica, event(Some("first"), 1, START)).await, Taken::Accepted);
        proxy.lose(Loss::Commit { what, then_all: true });
        let asked = replica.take_whole(both(), Box::new(()));
        let error = timeout(SOON, asked).await.expect("it is answered").unwrap_err();
        assert!(matches!(error, LedgerError::Uncertain(_)), "{error:?}");
        proxy.lose(Loss::Nothing);
        back(&replica).await;
        assert_eq!(bench.accepted().await, if counted { "15" } else { "9" }, "{what:?}");
    }
}

/// A request behind one that does not end. It is taken back, so that it certainly does not count later.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_not_begun_in_time_counts_nothing() {
    let bench = Bench::new().await;
    let replica = bench.replica("a").answering_within(SHORT);
    assert_eq!(one(&replica, event(None, 1, START)).await, Taken::Accepted);
    let blocker = connector(&bench.database).connect().await.unwrap();
    blocker.batch("BEGIN; LOCK TABLE tollgate.writers IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let first = replica.clone();
    let first = tokio::spawn(async move { answered(&first, vec![event(None, 2, START)]).await });
    let waits = format!("SELECT count(*) FROM {WAITING} AND relation = 'tollgate.writers'::regclass");
    while bench.run(&waits).await != [["1"]] {}
    let second = answered(&replica, vec![event(None, 4, START)]).await.unwrap_err();
    assert!(
        matches!(&second, LedgerError::Io(text) if text.contains("nothing of the request was counted")),
        "{second:?}"
    );
    assert!(matches!(first.await.unwrap(), Err(LedgerError::Uncertain(_))));
    blocker.batch("ROLLBACK").await.unwrap();
    back(&replica).await;
    assert_eq!(bench.accepted().await, "11", "the first one was begun");
}

/// PostgreSQL reports success if somebody cancels a commit that waits for its standby: a failover would lose it.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_did_not_wait_for_its_standby_is_not_acknowledged() {
    let bench = Bench::on(Server::own()).await;
    let server = bench.database.server.0;
    let standby = server.standby();
    server.set("synchronous_standby_names", "'*'");
    let replica = bench.replica("a").answering_within(SOON);
    assert_eq!(one(&replica, event(None, 1, START)).await, Taken::Accepted);
    standby.stop();
    let taking = replica.clone();
    let taking = tokio::spawn(async move { taking.take(both(), Box::new(())).await });
    let waiting = "SELECT string_agg(query, ' ') FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    while !server.sql("postgres", waiting).contains("tollgate.take") {}
    let cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    server.sql("postgres", cancel);
    // The transaction that asks what became of it waits for the standby in its turn.
    let asks = async {
        while !server.sql("postgres", waiting).contains("COMMIT") {
            assert!(!taking.is_finished(), "nothing is on the standby");
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, asks).await.expect("the replica asks");
    standby.start();
    let taken = timeout(SOON, taking).await.unwrap().unwrap().unwrap();
    assert_eq!(taken[..2], [Taken::Accepted, Taken::Accepted]);
    assert_eq!(bench.accepted().await, "7");
}

/// A ledger with some dead letters, and one for people behind a proxy.
async fn dead_letters(ledger: &steps::Ledger, count: usize) -> Vec<i64> {
    let leader = ledger.leader().await;
    let sealed = ledger.sealed(&leader, EIGHT, count).await;
    let dead = sealed.iter().map(|id| noted(*id, Answered::Dead("InvalidCustomer".to_owned()))).collect();
    leader.answered_all(dead, None, START).await.unwrap();
    sealed
}

fn orders() -> [Repair; 3] {
    let note = || Note::new("ticket 8").unwrap();
    [
        Repair::Confirm(note()),
        Repair::Discard(note()),
        Repair::Replay { accept_double_billing: false, to_dimension: None, note: None },
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_whose_commit_was_not_answered_is_found_out_and_done_once() {
    let ledger = steps::Ledger::make().await;
    let letters = dead_letters(&ledger, 6).await;
    let bench = Bench { database: ledger.database };
    let (proxy, through) = proxied(&bench).await;
    let people = people(&through);
    let lost = [Lost::Answer, Lost::Request];
    let all = orders().into_iter().flat_map(|order| lost.map(|what| (order.clone(), what)));
    for ((order, what), id) in all.zip(&letters) {
        proxy.lose(Loss::Commit { what, then_all: false });
        let repaired = people.repair(*id, order.clone(), START).await.unwrap();
        assert_eq!(repaired, Repaired::Done, "{order:?}, {what:?}");
        let lines = format!("SELECT count(*) FROM tollgate.audit WHERE record = {id}");
        assert_eq!(bench.run(&lines).await, [["1"]], "{order:?}, {what:?}");
        assert_eq!(people.repair(*id, order, START).await.unwrap(), Repaired::NotFound);
    }
    steps::Ledger { database: bench.database }.check_balance().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_of_unknown_fate_is_answered_so_and_may_be_asked_for_again() {
    let ledger = steps::Ledger::make().await;
    let letters = dead_letters(&ledger, 2).await;
    let bench = Bench { database: ledger.database };
    for ((what, again), id) in
        [(Lost::Answer, Repaired::NotFound), (Lost::Request, Repaired::Done)].into_iter().zip(&letters)
    {
        let (proxy, through) = proxied(&bench).await;
        let people = people(&through);
        let [confirm, ..] = orders();
        proxy.lose(Loss::Commit { what, then_all: true });
        let error = people.repair(*id, confirm.clone(), START).await.unwrap_err();
        let LedgerError::Uncertain(text) = error else { panic!("{error:?}") };
        assert!(text.contains(&format!("the confirm of record {id} may have been done")), "{text}");
        proxy.lose(Loss::Nothing);
        people.views.may_try().await;
        assert_eq!(people.repair(*id, confirm, START).await.unwrap(), again, "{what:?}");
        let lines = format!("SELECT count(*) FROM tollgate.audit WHERE record = {id}");
        assert_eq!(bench.run(&lines).await, [["1"]], "{what:?}");
    }
}

/// A ledger for people, at this connection.
fn people(through: &Connector) -> PostgresLedger {
    let Source::File(url_file) = through.dsn.clone() else { panic!("{through:?}") };
    let (name, lease) = ("people".to_owned(), LeaseTimes::default());
    PostgresLedger::new(PostgresSettings { url_file, name, ledger: settings(""), lease })
}
