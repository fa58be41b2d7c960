//! Where events count: the promises of SQLite's ledger, and those across replicas.

use super::bench::*;
use crate::connect::Link;
use crate::identities::identify;
use tollgate_ledger::TAGGED_SETS_MAX;

const ARN: &str = "arn:aws:license-manager::294406891311:license:l-1";

#[tokio::test]
async fn a_key_counts_once_and_another_content_under_it_is_a_conflict() {
    let bench = Bench::new().await;
    let (first, second) = (bench.replica("a"), bench.replica("b"));
    assert_eq!(one(&first, event(Some("a"), 5, START)).await, Taken::Accepted);
    assert_eq!(one(&first, event(Some("a"), 5, START)).await, Taken::Duplicate);
    assert_eq!(one(&second, event(Some("a"), 5, START)).await, Taken::Duplicate, "in another replica");
    assert_eq!(one(&second, event(Some("a"), 6, START)).await, Taken::Conflict);
    bench.at(START.plus(HOUR)).await;
    assert_eq!(
        one(&second, event(Some("a"), 5, START.plus(HOUR))).await,
        Taken::Duplicate,
        "in another hour"
    );
    assert_eq!(bench.accepted().await, "5");
}

#[tokio::test]
async fn the_events_of_one_request_are_judged_against_each_other() {
    let bench = Bench::new().await;
    let replica = bench.replica("a");
    let events = vec![
        event(Some("z"), 0, START),
        event(Some("a"), 5, START),
        event(Some("a"), 5, START),
        event(Some("a"), 6, START),
        event(Some("z"), 0, START),
        event(Some("z"), 7, START),
        event(Some("z"), 0, START),
        event(None, 1, START),
        event(None, 1, START),
    ];
    use Taken::{Accepted, Conflict, Duplicate};
    let wanted = [Accepted, Accepted, Duplicate, Conflict, Accepted, Accepted, Conflict, Accepted, Accepted];
    assert_eq!(take(&replica, events.clone()).await, wanted);
    assert_eq!(bench.accepted().await, "14");
    let wanted =
        [Conflict, Duplicate, Duplicate, Conflict, Conflict, Duplicate, Conflict, Accepted, Accepted];
    assert_eq!(take(&replica, events).await, wanted, "now both keys are known");
    assert_eq!(bench.accepted().await, "16");
}

/// One id, at once, in two replicas, in requests of many; half of them name another hour.
#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_arrives_in_two_replicas_at_once_counts_once() {
    let bench = Bench::new().await;
    bench.at(START.plus(MINUTE)).await;
    let replicas = [bench.replica("a"), bench.replica("b")];
    let mut sums = [0; 3];
    for round in 0..20 {
        let events = |replica: usize| -> Vec<Event> {
            let at = if replica == 1 { START.minus(MINUTE) } else { START };
            // The replicas see them in opposite orders.
            let mut ids: Vec<u32> = (0..200).collect();
            if replica == 1 {
                ids.reverse();
            }
            ids.iter().map(|id| event(Some(&format!("{round}-{id}")), 1, at)).collect()
        };
        let [first, second] = [0, 1].map(|number| {
            let (replica, events) = (replicas[number].clone(), events(number));
            tokio::spawn(async move { take(&replica, events).await })
        });
        let (first, second) = (first.await.unwrap(), second.await.unwrap());
        for (one, other) in first.into_iter().zip(second.into_iter().rev()) {
            let counted = [one, other].iter().filter(|taken| **taken == Taken::Accepted).count();
            assert_eq!(counted, 1, "{one:?} {other:?}");
            assert!([one, other].contains(&Taken::Duplicate));
            sums[if one == Taken::Accepted { 0 } else { 1 }] += 1;
        }
    }
    assert_eq!(bench.accepted().await, "4000");
    // The hour before is still open: it takes what names it.
    assert_eq!(bench.open(Hour::of(START)).await, sums[0].to_string());
    assert_eq!(bench.open(Hour::of(START.minus(MINUTE))).await, sums[1].to_string());
}

#[tokio::test]
async fn an_hour_takes_its_own_events_until_it_is_closed_and_none_afterwards() {
    let bench = Bench::new().await;
    let (first, second) = (bench.replica("a"), bench.replica("b"));
    let eight = Hour::of(START);
    take(&first, vec![event(None, 1, START), event(None, 2, START.plus(MINUTE))]).await;
    bench.at(START.plus(HOUR + MINUTE)).await;
    for replica in [&first, &second] {
        take(replica, vec![event(None, 4, START.plus(59 * MINUTE)), event(None, 8, START.plus(HOUR))]).await;
    }
    assert_eq!((bench.open(eight).await, bench.open(eight.next()).await), ("11".into(), "16".into()));
    // By the time, before the leader has closed it.
    bench.at(START.plus(HOUR + SETTLE)).await;
    take(&first, vec![event(None, 16, START.plus(59 * MINUTE))]).await;
    assert_eq!(bench.open(eight).await, "11");
    // The leader closes an hour that this replica believes to be open.
    take(&second, vec![event(Some("known"), 128, START.plus(HOUR))]).await;
    assert_eq!(bench.open(eight.next()).await, "160");
    bench.close(eight.next()).await;
    take(&second, vec![event(None, 32, START.plus(HOUR)), event(Some("a"), 64, START.plus(HOUR))]).await;
    assert_eq!(
        (bench.open(eight.next()).await, bench.open(eight.next().next()).await),
        ("160".into(), "96".into())
    );
    let late = bench
        .run("SELECT DISTINCT late_from FROM tollgate.sums WHERE late_from IS NOT NULL ORDER BY 1")
        .await;
    assert_eq!(late, [[eight.number().to_string()], [eight.next().number().to_string()]]);
    assert_eq!(bench.accepted().await, "267");
}

#[tokio::test]
async fn closing_an_hour_waits_for_the_groups_that_write_into_it() {
    let bench = Bench::new().await;
    let replica = bench.replica("a");
    one(&replica, event(None, 1, START)).await;
    let eight = Hour::of(START).number();
    let lock =
        |how: &str| format!("SELECT pg_try_advisory_xact_lock{how}({}, {eight})", crate::schema::LOCKS);
    // A replica in the middle of a group.
    let (client, connection) =
        tokio_postgres::connect(&bench.database.url().replace("?sslmode=disable", ""), tokio_postgres::NoTls)
            .await
            .unwrap();
    let connection = tokio::spawn(connection);
    client.batch_execute(&format!("BEGIN; {}", lock("_shared"))).await.unwrap();
    assert_eq!(bench.run(&lock("")).await, [["f"]], "the leader has to wait");
    assert_eq!(one(&replica, event(None, 2, START)).await, Taken::Accepted, "other replicas do not");
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(bench.run(&lock("")).await, [["t"]]);
    connection.abort();
}

#[tokio::test]
async fn usage_of_a_customer_whose_hour_was_flushed_counts_in_the_next_hour() {
    let bench = Bench::new().await;
    let replica = bench.replica("a");
    let eight = Hour::of(START);
    one(&replica, event(None, 1, START)).await;
    let customer = event(None, 1, START).customer.canonical();
    bench
        .run(&format!(
            "INSERT INTO tollgate.closed_early VALUES ('{customer}', {0}), ('{customer}', {0} + 1);
             UPDATE tollgate.ledger SET version = version + 1",
            eight.number()
        ))
        .await;
    let other = Customer::Account { account_id: "444455556666".into(), license_arn: None };
    take(&replica, vec![event(None, 2, START), Event { customer: other, ..event(None, 4, START) }]).await;
    assert_eq!((bench.open(eight).await, bench.open(eight.next().next()).await), ("5".into(), "2".into()));
}

fn of(customer: Customer, micros: u64, at: Timestamp) -> Event {
    Event { customer, ..event(None, micros, at) }
}

fn licensed() -> Customer {
    Customer::Account { account_id: "111122223333".into(), license_arn: Some(ARN.into()) }
}

fn legacy() -> Customer {
    Customer::Account { account_id: "111122223333".into(), license_arn: None }
}

fn identified() -> Customer {
    Customer::Identifier("id-of-111122223333".into())
}

#[tokio::test]
async fn an_hour_of_an_account_takes_the_form_that_came_first_in_any_replica() {
    let bench = Bench::new().await;
    let (first, second) = (bench.replica("a"), bench.replica("b"));
    assert_eq!(one(&first, of(licensed(), 1, START)).await, Taken::Accepted);
    let refused = Event { id: Some("a".into()), ..of(legacy(), 2, START) };
    for replica in [&first, &second] {
        assert_eq!(one(replica, refused.clone()).await, Taken::OtherForm);
        assert_eq!(one(replica, of(legacy(), 2, START)).await, Taken::OtherForm);
    }
    assert_eq!(one(&second, of(identified(), 2, START)).await, Taken::Accepted, "its account is not known");
    let next = START.plus(HOUR);
    bench.at(next).await;
    assert_eq!(
        one(&second, Event { at: next, ..refused.clone() }).await,
        Taken::Accepted,
        "the next hour is free"
    );
    assert_eq!(one(&first, Event { at: next, ..refused }).await, Taken::Duplicate);
    assert_eq!(one(&first, of(licensed(), 8, next)).await, Taken::OtherForm);
    assert_eq!(bench.accepted().await, "5");
}

/// The first event of the group may prove to be a repetition: then it decides nothing.
#[tokio::test]
async fn two_forms_of_an_account_in_one_request_are_judged_in_their_order() {
    let bench = Bench::new().await;
    let replica = bench.replica("a");
    let known = Event { id: Some("known".into()), ..of(legacy(), 1, START) };
    one(&replica, known.clone()).await;
    let next = START.plus(HOUR + SETTLE);
    bench.at(next).await;
    bench.close(Hour::of(START)).await;
    let events = vec![known, of(licensed(), 2, next), of(legacy(), 4, next)];
    assert_eq!(take(&replica, events).await, [Taken::Duplicate, Taken::Accepted, Taken::OtherForm]);
    let events = vec![of(legacy(), 8, next.plus(HOUR)), of(licensed(), 16, next.plus(HOUR))];
    bench.at(next.plus(HOUR)).await;
    assert_eq!(take(&replica, events).await, [Taken::Accepted, Taken::OtherForm]);
    assert_eq!(bench.accepted().await, "11");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_that_take_two_forms_at_once_count_only_one() {
    let bench = Bench::new().await;
    let replicas = [bench.replica("a"), bench.replica("b")];
    for round in 0..20 {
        let account = format!("{:012}", 100_000_000_000_u64 + round);
        let customers = [None, Some(ARN.to_owned())]
            .map(|license_arn| Customer::Account { account_id: account.clone(), license_arn });
        let taking: Vec<_> = replicas
            .iter()
            .zip(customers)
            .map(|(replica, customer)| {
                let replica = replica.clone();
                tokio::spawn(async move { one(&replica, of(customer, 1, START)).await })
            })
            .collect();
        let mut taken = Vec::new();
        for one in taking {
            taken.push(one.await.unwrap());
        }
        assert!(taken.contains(&Taken::Accepted) && taken.contains(&Taken::OtherForm), "{taken:?}");
    }
    assert_eq!(bench.accepted().await, "20");
}

#[tokio::test]
async fn an_identifier_counts_as_its_account_as_soon_as_any_replica_knows_it() {
    let bench = Bench::new().await;
    let (first, second) = (bench.replica("a"), bench.replica("b"));
    assert_eq!(one(&first, of(identified(), 1, START)).await, Taken::Accepted);
    identify(&Link::new(connector(&bench.database)), "id-of-111122223333", "111122223333").await.unwrap();
    assert_eq!(
        one(&second, of(licensed(), 2, START)).await,
        Taken::OtherForm,
        "what came before it was known"
    );
    assert_eq!(one(&first, of(legacy(), 2, START)).await, Taken::OtherForm);
    let next = START.plus(HOUR);
    bench.at(next).await;
    assert_eq!(one(&second, of(licensed(), 4, next)).await, Taken::Accepted);
    assert_eq!(one(&first, of(identified(), 8, next)).await, Taken::OtherForm);
    assert_eq!(bench.accepted().await, "5");
}

/// Beside a group of events that is slow, such as one that waits for its standby.
#[tokio::test(flavor = "multi_thread")]
async fn noting_an_identifier_holds_up_no_acknowledgement_for_long() {
    let bench = Bench::new().await;
    let replica = bench.replica("a");
    assert_eq!(one(&replica, event(None, 1, START)).await, Taken::Accepted);
    let slow = connector(&bench.database).connect().await.unwrap();
    let locks = crate::schema::LOCKS;
    slow.batch(&format!("BEGIN; SELECT pg_advisory_xact_lock_shared({locks}, 0)")).await.unwrap();
    let link = Link::new(connector(&bench.database));
    let noting = tokio::spawn(async move { identify(&link, "id-of-111122223333", "111122223333").await });
    let waits = format!("SELECT count(*) FROM {WAITING} AND classid = {locks}");
    while bench.run(&waits).await == [["0"]] && !noting.is_finished() {}
    let taken = tokio::time::timeout(Duration::from_secs(2), one(&replica, event(None, 2, START))).await;
    assert_eq!(taken.expect("it does not wait for the slow group"), Taken::Accepted);
    slow.batch("COMMIT").await.unwrap();
    noting.await.unwrap().unwrap();
    assert_eq!(bench.run("SELECT count(*) FROM tollgate.identities").await, [["1"]]);
}

#[tokio::test]
async fn a_replica_that_asked_for_an_identifier_too_early_asks_again() {
    let bench = Bench::new().await;
    let (first, second) = (bench.replica("a"), bench.replica("b"));
    let known = event(Some("known"), 1, START);
    one(&first, known.clone()).await;
    let repeated = Event { customer: identified(), ..known };
    assert_eq!(one(&first, repeated).await, Taken::Duplicate, "which notes no form");
    identify(&Link::new(connector(&bench.database)), "id-of-111122223333", "444455556666").await.unwrap();
    let account = Customer::Account { account_id: "444455556666".into(), license_arn: None };
    assert_eq!(one(&second, of(account, 2, START)).await, Taken::Accepted);
    assert_eq!(one(&first, of(identified(), 4, START)).await, Taken::OtherForm);
    assert_eq!(bench.accepted().await, "3");
}

fn tags(name: &str) -> TagSet {
    std::collections::BTreeMap::from([("team".to_owned(), name.to_owned())]).try_into().unwrap()
}

#[tokio::test]
async fn a_slot_keeps_its_tag_sets_up_to_awss_number_and_counts_the_rest_untagged() {
    let bench = Bench::new().await;
    let replica = bench.replica("a");
    let tagged = |name: &str| Event { tags: tags(name), ..event(None, 1, START) };
    for from in (0..3000).step_by(1000) {
        take(&replica, (from..from + 1000).map(|number| tagged(&number.to_string())).collect()).await;
    }
    let count = "SELECT count(*) FILTER (WHERE tags <> '{}'), sum(amount) FILTER (WHERE tags = '{}') FROM tollgate.sums";
    let wanted = [[TAGGED_SETS_MAX.to_string(), (3000 - TAGGED_SETS_MAX).to_string()]];
    assert_eq!(bench.run(count).await, wanted);
    take(&replica, vec![tagged("7"), tagged("new")]).await;
    let seven = "SELECT amount FROM tollgate.sums WHERE tags = '{\"team\":\"7\"}'";
    assert_eq!(bench.run(seven).await, [["2"]], "a set that has a place keeps it");
    assert_eq!(bench.accepted().await, "3002");
}

/// More tag sets than the replica keeps in memory.
#[tokio::test]
async fn what_a_replica_no_longer_knows_of_its_tag_sets_it_reads_again() {
    let bench = Bench::new().await;
    let replica = bench.replica("a");
    let customers = ["111122223333", "444455556666"]
        .map(|account| Customer::Account { account_id: account.to_owned(), license_arn: None });
    let tagged = |customer: &Customer, number: usize| Event {
        customer: customer.clone(),
        tags: tags(&number.to_string()),
        ..event(None, 1, START)
    };
    for from in (0..3000).step_by(500) {
        for customer in &customers {
            take(&replica, (from..from + 500).map(|number| tagged(customer, number)).collect()).await;
        }
    }
    let sets = TAGGED_SETS_MAX.to_string();
    let counts =
        "SELECT count(*) FILTER (WHERE tags <> '{}'), sum(amount) FROM tollgate.sums GROUP BY customer";
    assert_eq!(bench.run(counts).await, [[&*sets, "3000"], [&*sets, "3000"]]);
}

#[tokio::test]
async fn a_request_that_must_be_counted_as_a_whole_is_counted_or_leaves_no_trace() {
    let bench = Bench::new().await;
    let replica = bench.replica("a");
    let whole = async |events: Vec<Event>| replica.take_whole(events, Box::new(())).await.unwrap();
    use Taken::{Accepted, Conflict, Duplicate, OtherForm};
    assert_eq!(whole(vec![event(Some("a"), 1, START), event(None, 2, START)]).await, [Accepted, Accepted]);
    let keyed = event(Some("b"), 4, START);
    assert_eq!(whole(vec![keyed.clone(), event(Some("a"), 9, START)]).await, [Accepted, Conflict]);
    assert_eq!(bench.accepted().await, "3");
    assert_eq!(whole(vec![keyed.clone(), of(licensed(), 1, START)]).await, [Accepted, OtherForm]);
    assert_eq!(
        whole(vec![event(Some("c"), 8, START.plus(HOUR)), of(licensed(), 1, START.plus(HOUR))]).await,
        [Accepted, OtherForm]
    );
    bench.at(START.plus(HOUR)).await;
    assert_eq!(whole(vec![of(licensed(), 16, START.plus(HOUR))]).await, [Accepted], "the form was not kept");
    assert_eq!(whole(vec![keyed.clone(), event(Some("a"), 1, START)]).await, [Accepted, Duplicate]);
    assert_eq!(take(&replica, vec![keyed]).await, [Duplicate]);
    assert_eq!(bench.accepted().await, "23");
}

#[tokio::test]
async fn quantities_beyond_sixty_four_bits_are_added_up_exactly() {
    let bench = Bench::new().await;
    let replica = bench.replica("a");
    let most = Quantity::MAX.micros();
    take(&replica, (0..2000).map(|_| event(None, most, START)).collect()).await;
    take(&replica, (0..2000).map(|id| event(Some(&id.to_string()), most, START)).collect()).await;
    assert_eq!(bench.accepted().await, (u128::from(most) * 4000).to_string());
}
