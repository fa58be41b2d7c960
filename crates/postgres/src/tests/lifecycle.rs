//! Events about licenses, and reports before the hour's end, by several replicas.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::bench::*;
use crate::{LeaseTimes, PostgresSettings, PostgresStore};
use tollgate_ledger::Flushed;
use tollgate_ledger::lifecycle::{EVENTS_MAX, LICENSES_MAX};
use tollgate_ledger::store::{Lifecycle, Store, View as _};
use tollgate_ledger::testing::licenses::{ACCOUNT, ended, licensed, named, news, updated};
use tollgate_ledger::testing::settings;
use tollgate_marketplace::lifecycle::{Effect, FINAL_WINDOW, News};

fn plain(number: usize) -> Customer {
    Customer::Account { account_id: format!("{number:012}"), license_arn: None }
}

fn of(customer: &Customer, id: Option<&str>, micros: u64, at: Timestamp) -> Event {
    Event { customer: customer.clone(), ..event(id, micros, at) }
}

fn store(bench: &Bench, name: &str) -> PostgresStore {
    let settings = PostgresSettings {
        url_file: bench.database.url_file(),
        name: name.to_owned(),
        ledger: settings(""),
        lease: LeaseTimes { look_every: Duration::from_millis(20), ..LeaseTimes::default() },
    };
    PostgresStore::start(&settings, WallClock::fixed(START), Box::new(Unobserved))
}

async fn take(store: &PostgresStore, events: Vec<Event>) -> Vec<Taken> {
    store.take(events, Box::new(())).await.unwrap()
}

async fn flush(store: &PostgresStore, customers: &[&Customer]) -> Flushed {
    let customers = customers.iter().map(|customer| customer.canonical()).collect();
    store.flush(customers, START).await.unwrap()
}

/// Looks for something to seal from time to time, as a sender does.
struct Looking(tokio::task::JoinHandle<()>);

impl Looking {
    fn start(store: &PostgresStore) -> Self {
        let store = store.clone();
        Self(tokio::spawn(async move {
            loop {
                match store.seal(false, START).await {
                    Ok(sealing) if sealing.more => {}
                    done => {
                        done.unwrap();
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            }
        }))
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        self.0.abort();
    }
}

const RECORDS: &str = "SELECT id, customer, hour, micros, due_at FROM tollgate.records ORDER BY id";

/// Usage that was counted to an hour after that was closed early would be carried: `additive`.
const CARRIED: &str = "SELECT count(*) FROM tollgate.sums WHERE additive <> 0";

#[tokio::test]
async fn any_replica_has_a_customers_open_hour_sealed_and_later_usage_counts_to_the_next() {
    let bench = Bench::new().await;
    bench.at(START.plus(10 * MINUTE)).await;
    let (first, second) = (store(&bench, "a"), store(&bench, "b"));
    first.lead().await.unwrap();
    let looking = Looking::start(&first);
    let (one, two, eight) = (plain(1), plain(2), Hour::of(START));
    for replica in [&first, &second] {
        let earlier = of(&one, None, 1, START.plus(MINUTE));
        take(replica, vec![earlier, of(&two, None, 2, START.plus(MINUTE))]).await;
    }
    let nothing = flush(&second, &[&plain(3)]).await;
    assert_eq!(nothing, Flushed::default());

    let flushed = flush(&second, &[&one]).await;
    let records = bench.run(RECORDS).await;
    let ids: Vec<String> = flushed.records.iter().map(i64::to_string).collect();
    let expected =
        vec![ids[0].clone(), one.canonical(), eight.number().to_string(), "2".to_owned(), "-1".to_owned()];
    assert_eq!(records, [expected], "both replicas' usage, to be sent first");
    for replica in [&first, &second] {
        assert_eq!(take(replica, vec![of(&one, None, 4, START.plus(MINUTE))]).await, [Taken::Accepted]);
        assert_eq!(take(replica, vec![of(&two, None, 8, START.plus(MINUTE))]).await, [Taken::Accepted]);
    }
    assert_eq!((bench.open(eight).await, bench.open(eight.next()).await), ("20".into(), "8".into()));
    assert_eq!(flush(&second, &[&one]).await, Flushed::default(), "usage of the next hour stays open");
    drop(looking);

    // The replica that leads needs nobody else.
    assert_eq!(flush(&first, &[&two, &one]).await.records.len(), 1);
    assert_eq!((bench.open(eight).await, bench.open(eight.next()).await), ("0".into(), "8".into()));
    bench.at(START.plus(HOUR + MINUTE)).await;
    assert_eq!(flush(&first, &[&one]).await.records.len(), 1);
    assert_eq!(bench.run(CARRIED).await, [["0"]]);
    assert_eq!(second.totals().await.unwrap()["requests"].pending, 2 + 4 + 16 + 8);
}

/// The flush fails after some seconds, and what it has begun is done when a replica leads.
#[tokio::test]
async fn a_flush_while_no_replica_leads_says_so_and_is_done_later() {
    let bench = Bench::new().await;
    let (first, second) = (store(&bench, "a"), store(&bench, "b"));
    take(&first, vec![of(&plain(1), None, 1, START)]).await;
    let error = second.flush(vec![plain(1).canonical()], START).await.unwrap_err();
    assert!(error.to_string().contains("has not sealed the usage within"), "{error}");
    assert_eq!(bench.run(RECORDS).await, Vec::<Vec<String>>::new());
    take(&first, vec![of(&plain(1), None, 2, START)]).await;
    first.lead().await.unwrap();
    while first.seal(false, START).await.unwrap().more {}
    let records = bench.run(RECORDS).await;
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!(flush(&second, &[&plain(1)]).await, Flushed::default(), "it is sealed already");
    assert_eq!(records[0][3], "1", "what came after the first order counts to the next hour");
}

/// A replica in the middle of a group holds the hour's lock.
#[tokio::test]
async fn a_flush_waits_for_the_groups_that_count_to_the_hour() {
    let bench = Bench::new().await;
    let first = store(&bench, "a");
    first.lead().await.unwrap();
    take(&first, vec![of(&plain(1), None, 1, START)]).await;
    let group = connector(&bench.database).connect().await.unwrap();
    group.batch(&group.begin_sql()).await.unwrap();
    let eight = Hour::of(START).number();
    group
        .batch(&format!("SELECT pg_advisory_xact_lock_shared({}, {eight})", crate::schema::LOCKS))
        .await
        .unwrap();
    let flushing = first.clone();
    let mut flushing = tokio::spawn(async move { flush(&flushing, &[&plain(1)]).await });
    let waits = tokio::time::timeout(Duration::from_secs(1), &mut flushing).await;
    assert!(waits.is_err(), "{waits:?}");
    let count = "UPDATE tollgate.sums SET amount = amount + 6; UPDATE tollgate.accepted SET amount = amount + 6; COMMIT";
    group.batch(count).await.unwrap();
    assert_eq!(flushing.await.unwrap().records.len(), 1);
    assert_eq!(bench.run(RECORDS).await[0][3], "7");
}

#[tokio::test]
async fn usage_of_a_license_that_has_ended_is_counted_by_no_replica() {
    let bench = Bench::new().await;
    let now = START.plus(10 * MINUTE);
    bench.at(now).await;
    let (first, second) = (store(&bench, "a"), store(&bench, "b"));
    let (of_one, of_two) = (licensed("l-1"), licensed("l-2"));
    for replica in [&first, &second] {
        take(replica, vec![of(&of_one, None, 1, now)]).await;
    }
    take(&first, vec![of(&of_one, Some("a"), 1, now)]).await;
    assert_eq!(first.note_event(ended("e-1", "l-1", now), now).await.unwrap(), Effect::Deprovisioned);
    let later = now.plus(MINUTE);
    bench.at(later).await;
    use Taken::{Accepted, Conflict, Deprovisioned, Duplicate};
    for replica in [&second, &first] {
        let events = vec![
            of(&of_one, Some("b"), 2, later),
            of(&of_one, Some("a"), 1, now),
            of(&of_one, Some("a"), 9, now),
            of(&of_one, None, 2, later),
            of(&of_two, None, 4, later),
            // Within AWS's final window, usage from before the end counts.
            of(&of_one, None, 16, now),
        ];
        let expected = [Deprovisioned, Duplicate, Conflict, Deprovisioned, Accepted, Accepted];
        assert_eq!(take(replica, events).await, expected);
        let whole = vec![of(&of_two, None, 32, later), of(&of_one, Some("b"), 2, later)];
        let whole = replica.take_whole(whole, Box::new(())).await.unwrap();
        assert_eq!(whole, [Accepted, Deprovisioned], "none of them counts");
    }
    assert_eq!(bench.accepted().await, "43");
    // Such usage alone also asks the database whether the license is usable again.
    assert_eq!(second.note_event(updated("e-2", "l-1", later), later).await.unwrap(), Effect::Active);
    assert_eq!(take(&first, vec![of(&of_one, None, 2, later)]).await, [Accepted]);
    assert_eq!(take(&second, vec![of(&of_one, Some("b"), 2, later)]).await, [Accepted], "no key was kept");
    let too_late = later.plus(MINUTE).plus(FINAL_WINDOW);
    first.note_event(ended("e-3", "l-1", later.plus(MINUTE)), later).await.unwrap();
    bench.at(too_late).await;
    // The clock follows the database with each answer.
    take(&second, vec![of(&of_two, None, 1, later)]).await;
    assert_eq!(take(&second, vec![of(&of_one, None, 2, later)]).await, [Deprovisioned]);
}

#[tokio::test]
async fn the_latest_event_about_a_license_decides_whichever_replica_gets_it_and_how_often() {
    let bench = Bench::new().await;
    let replicas = [store(&bench, "a"), store(&bench, "b")];
    let at = |seconds: u64| START.plus(Duration::from_secs(seconds));
    let version = "SELECT version FROM tollgate.ledger";
    let before = bench.run(version).await;
    let updated_first = updated("e-0", "l-1", at(0));
    assert_eq!(replicas[0].note_event(updated_first, START).await.unwrap(), Effect::Active);
    assert_eq!(bench.run(version).await, before, "usage counts as before");
    let agreement = news("e-5", at(1), News::AgreementEnded { account: ACCOUNT.to_owned() });
    let cases = [
        (ended("e-1", "l-1", at(20)), Effect::Deprovisioned),
        (updated("e-2", "l-1", at(10)), Effect::Outdated),
        (ended("e-3", "l-1", at(20)), Effect::Outdated),
        (news("e-4", at(30), News::Nothing), Effect::Ignored),
        (agreement, Effect::Ended),
    ];
    for (number, (event, effect)) in cases.into_iter().enumerate() {
        let replica = &replicas[number % 2];
        assert_eq!(replica.note_event(event.clone(), START).await.unwrap(), effect, "{event:?}");
        let again = if effect == Effect::Ignored { effect } else { Effect::Repeated };
        for replica in &replicas {
            assert_eq!(replica.note_event(event.clone(), START).await.unwrap(), again);
            assert_eq!(replica.knows_event(event.id.clone()).await.unwrap(), effect != Effect::Ignored);
        }
    }
    let known = replicas[0].license("l-1".to_owned()).await.unwrap().unwrap();
    assert_eq!((known.event_at, known.deprovisioned_at), (at(20), Some(at(20))));
    assert_eq!(replicas[1].license("l-9".to_owned()).await.unwrap(), None);
    assert_eq!(replicas[1].ending(at(3000)).await.unwrap(), [named("l-1")]);
    assert_eq!(replicas[1].ending(at(20).plus(FINAL_WINDOW)).await.unwrap(), []);

    // One event at both at once.
    for round in 0..10 {
        let event = updated(&format!("r-{round}"), "l-1", at(40 + round));
        let noted = tokio::join!(
            replicas[0].note_event(event.clone(), START),
            replicas[1].note_event(event.clone(), START)
        );
        let noted = BTreeSet::from([noted.0.unwrap().as_str(), noted.1.unwrap().as_str()]);
        assert_eq!(noted, BTreeSet::from(["active", "repeated"]));
    }
}

#[tokio::test]
async fn the_oldest_events_and_licenses_are_forgotten() {
    let bench = Bench::new().await;
    let replica = store(&bench, "a");
    bench
        .run(&format!(
            "INSERT INTO tollgate.marketplace_events SELECT 'old-' || i, i FROM generate_series(1, {EVENTS_MAX} + 6) i;
             INSERT INTO tollgate.licenses SELECT 'l-old-' || i, '', NULL, i, NULL FROM generate_series(1, {LICENSES_MAX}) i"
        ))
        .await;
    replica.note_event(ended("e-1", "l-1", START), START).await.unwrap();
    for (event, known) in [("old-7", false), ("old-8", true), ("e-1", true)] {
        assert_eq!(replica.knows_event(event.to_owned()).await.unwrap(), known, "{event}");
    }
    for (license, known) in [("l-old-1", false), ("l-old-2", true), ("l-1", true)] {
        assert_eq!(replica.license(license.to_owned()).await.unwrap().is_some(), known, "{license}");
    }
}

#[tokio::test]
async fn every_replica_knows_the_identifiers_of_an_account_and_reports_them() {
    let bench = Bench::new().await;
    let (first, second) = (store(&bench, "a"), store(&bench, "b"));
    first.lead().await.unwrap();
    let looking = Looking::start(&first);
    for (identifier, account) in
        [("id-1", ACCOUNT), ("id-2", ACCOUNT), ("id-3", "444455556666"), ("id-1", "444455556666")]
    {
        second.identify(identifier.to_owned(), account.to_owned()).await.unwrap();
    }
    for (account, identifiers) in
        [(ACCOUNT, vec!["id-2"]), ("444455556666", vec!["id-3", "id-1"]), ("id-1", vec![])]
    {
        let mut known = first.identifiers(account.to_owned()).await.unwrap();
        known.sort_by(|a, b| b.cmp(a));
        assert_eq!(known, identifiers, "{account}");
    }
    let identified = Customer::Identifier("id-2".to_owned());
    take(&second, vec![of(&identified, None, 5, START)]).await;
    assert_eq!(flush(&second, &[&identified]).await.records.len(), 1);
    drop(looking);
}

/// Two replicas count, flush and get events at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_flushes_and_events_each_acknowledged_event_is_billed_once() {
    const ROUNDS: usize = 12;
    const CUSTOMERS: usize = 3;
    let bench = Bench::new().await;
    bench.at(START.plus(50 * MINUTE)).await;
    let replicas = [store(&bench, "a"), store(&bench, "b")];
    replicas[0].lead().await.unwrap();
    let looking = Looking::start(&replicas[0]);
    let (ends, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut tasks = tokio::task::JoinSet::new();
    for client in 0..6 {
        let (store, ends, acknowledged) =
            (replicas[client % 2].clone(), Arc::clone(&ends), Arc::clone(&acknowledged));
        let whose = if client < 2 { licensed("l-1") } else { plain(1 + client % CUSTOMERS) };
        tasks.spawn(async move {
            while !ends.load(Ordering::Relaxed) {
                let taken = take(&store, vec![of(&whose, None, 1, START.plus(49 * MINUTE))]).await;
                assert!(matches!(taken[0], Taken::Accepted | Taken::Deprovisioned), "{taken:?}");
                acknowledged.fetch_add(u64::from(taken == [Taken::Accepted]), Ordering::Relaxed);
            }
        });
    }
    let mut sealed = 0;
    for round in 0..ROUNDS {
        let at = START.plus(Duration::from_secs(round as u64));
        let event = if round % 2 == 0 { ended } else { updated }(&format!("e-{round}"), "l-1", at);
        let (other, one) = (licensed("l-1"), plain(1 + round % CUSTOMERS));
        let whose = [&one, &other];
        let (flushed, noted) =
            tokio::join!(flush(&replicas[1], &whose), replicas[round % 2].note_event(event, at));
        noted.unwrap();
        sealed += flushed.records.len();
        // An hour is closed while its usage arrives.
        if round == ROUNDS / 2 {
            bench.at(START.plus(HOUR + SETTLE)).await;
        }
    }
    ends.store(true, Ordering::Relaxed);
    tasks.join_all().await;
    assert!(sealed > CUSTOMERS, "{sealed}");
    assert_eq!(bench.run(CARRIED).await, [["0"]], "nothing was counted to an hour that was sealed");
    drop(looking);
    bench.at(START.plus(4 * HOUR)).await;
    while replicas[0].seal(false, START).await.unwrap().more {}
    let billed = bench.run("SELECT sum(micros) FROM tollgate.records").await;
    assert_eq!(billed, [[acknowledged.load(Ordering::Relaxed).to_string()]]);
    assert_eq!(bench.run("SELECT count(*) FROM tollgate.sums").await, [["0"]]);
}
