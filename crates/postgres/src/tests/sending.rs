//! Attempts and answers.

use super::steps::*;
use super::*;
use tollgate_ledger::OTHER_FORM;
use tollgate_marketplace::Region;
use tollgate_metering::record::{Answered, Noted, RecordState};

/// Each open record's state, whether it is in doubt, its attempts and its code.
const OPEN: &str =
    "SELECT state, in_doubt, attempting, attempts, code FROM tollgate.records ORDER BY customer";

fn region(name: &str) -> Region {
    name.parse().unwrap()
}

fn unknown(id: i64) -> Noted {
    noted(id, Answered::Unknown("Timeout".to_owned()))
}

fn carry(id: i64) -> Noted {
    noted(id, Answered::Carry("expired".to_owned()))
}

#[tokio::test]
async fn an_accepted_record_is_settled_and_added_up() {
    let ledger = Ledger::make().await;
    let leader = ledger.leader().await;
    let sealed = ledger.sealed(&leader, EIGHT, 3).await;
    let due: Vec<i64> = leader.due(START, 2).await.unwrap().iter().map(|due| due.record.id).collect();
    assert_eq!(due.len(), 2, "the limit holds");
    assert_eq!(leader.count_unsent_up_to(EIGHT).await.unwrap(), 3);
    assert_eq!(leader.unsent_up_to(EIGHT, 1).await.unwrap()[0].stored_bytes, 2);
    let begun =
        leader.begin(&[sealed[2], 12345, sealed[0]], Some(&region("eu-west-1")), START).await.unwrap();
    assert_eq!(ids(&begun), [sealed[2], sealed[0]], "in the order that was asked for");
    assert_eq!(begun[0].record.region, Some(region("eu-west-1")));
    assert_eq!(begun[0].record.state, RecordState::FRESH);
    assert_eq!(
        ledger.run(OPEN).await,
        [
            ["sealed", "f", "t", "1", "NULL"],
            ["sealed", "f", "f", "0", "NULL"],
            ["sealed", "f", "t", "1", "NULL"]
        ]
    );
    leader
        .answered_all(vec![accepted(sealed[0]), accepted(sealed[2]), accepted(sealed[2])], None, START)
        .await
        .unwrap();
    let settled = "SELECT id, state, metering_record_id, region, day, code FROM tollgate.settled ORDER BY id";
    let (first, last) = (sealed[0].min(sealed[2]).to_string(), sealed[0].max(sealed[2]).to_string());
    let day = (EIGHT.number() / 24).to_string();
    let aws = [format!("aws-{first}"), format!("aws-{last}")];
    assert_eq!(
        ledger.run(settled).await,
        [
            [&first, "accepted", &aws[0], "eu-west-1", &day, "NULL"],
            [&last, "accepted", &aws[1], "eu-west-1", &day, "NULL"]
        ]
    );
    assert_eq!(ledger.run("SELECT sum(billed), sum(records) FROM tollgate.daily").await, [["2000000", "2"]]);
    ledger.check_balance().await;
    assert!(leader.begin(&[sealed[0]], None, START).await.unwrap().is_empty(), "it is not sent again");
    assert_eq!(leader.next_due().await.unwrap(), Some(Timestamp::from_unix_millis(0)));
}

#[tokio::test]
async fn answers_change_a_record_as_in_the_ledger_on_disk() {
    let ledger = Ledger::make().await;
    let leader = ledger.leader().await;
    let sealed = ledger.sealed(&leader, EIGHT, 5).await;
    leader.begin(&sealed, None, START).await.unwrap();
    let later = START.plus(Duration::from_secs(60));
    let refused = |id| Noted { due_at: Some(later), ..noted(id, Answered::Refused("Throttling".to_owned())) };
    let notes = vec![
        refused(sealed[0]),
        unknown(sealed[1]),
        noted(sealed[2], Answered::Dead("InvalidTagException".to_owned())),
        noted(sealed[3], Answered::Unconfirmed("DuplicateRecord".to_owned())),
    ];
    leader.answered_all(notes, Some(&region("eu-west-1")), START).await.unwrap();
    assert_eq!(
        ledger.run(OPEN).await,
        [
            ["sealed", "f", "f", "1", "Throttling"],
            ["sealed", "t", "f", "1", "Timeout"],
            ["dead", "f", "f", "1", "InvalidTagException"],
            ["accepted", "f", "f", "1", "DuplicateRecord"],
            ["sealed", "f", "t", "1", "NULL"]
        ]
    );
    assert_eq!(ledger.one("SELECT count(*) FROM tollgate.records WHERE unconfirmed").await, "1");
    ledger.check_balance().await;
    let doubtful: Vec<i64> = leader.doubtful(9).await.unwrap().iter().map(|due| due.record.id).collect();
    assert_eq!(doubtful, [sealed[1]]);
    // Not due: the refused one. The one whose answer could not be noted is in doubt, and stays so after a refusal.
    let due: Vec<i64> = leader.due(START, 9).await.unwrap().iter().map(|due| due.record.id).collect();
    assert_eq!(due.len(), 2);
    assert!(!due.contains(&sealed[0]));
    let begun = leader.begin(&[sealed[4], sealed[1]], Some(&region("eu-north-1")), START).await.unwrap();
    assert!(begun.iter().all(|whole| whole.record.state.in_doubt()));
    assert!(
        begun
            .iter()
            .all(|whole| whole.record.region == Some(region("eu-west-1")) || whole.record.id == sealed[4])
    );
    leader.answered_all(vec![refused(sealed[4])], None, START).await.unwrap();
    let again = format!("SELECT in_doubt, attempts, region FROM tollgate.records WHERE id = {}", sealed[4]);
    assert_eq!(ledger.run(&again).await, [["t", "2", "eu-north-1"]]);
    // A clock that has jumped back: what waits too long counts as due.
    ledger
        .run(&format!(
            "UPDATE tollgate.records SET due_at = {} WHERE id = {}",
            at(EIGHT, 30).unix_millis(),
            sealed[0]
        ))
        .await;
    assert!(leader.due(START, 9).await.unwrap().iter().any(|due| due.record.id == sealed[0]));
    leader.defer(&[(sealed[0], later), (sealed[1], later), (sealed[4], later)]).await.unwrap();
    assert_eq!(
        (leader.due(START, 9).await.unwrap().len(), leader.next_due().await.unwrap()),
        (0, Some(later))
    );
    assert_eq!(leader.release(START, 2).await.unwrap(), 2);
    assert_eq!(leader.release(START, 9).await.unwrap(), 1);
    assert_eq!(leader.release(START, 9).await.unwrap(), 0);
    assert_eq!(leader.due(START, 9).await.unwrap().len(), 3);
}

#[tokio::test]
async fn a_refused_record_is_carried_with_its_tags_unless_it_is_in_doubt() {
    let ledger = Ledger::make().await;
    let leader = ledger.leader().await;
    ledger.count(EIGHT, 1, 1, r#"{"team":"a"}"#, 7).await;
    let sealed = ledger.sealed(&leader, EIGHT, 3).await;
    leader.begin(&sealed, None, START).await.unwrap();
    // Of customer 0 the current hour has a record already, and the next one was closed early.
    let (nine, ten, eleven) = (EIGHT.next(), EIGHT.next().next(), EIGHT.next().next().next());
    ledger
        .run(&format!(
            "INSERT INTO tollgate.records (customer, dimension, hour, micros, decimal, allocations, allocation_count,
                 timestamp, client_token, state, sealed_at, updated_at)
             VALUES ('{0}', '{DIMENSION}', {1}, 0, false, '[]', 0, 0, '', 'dead', 0, 0);
             INSERT INTO tollgate.closed_early VALUES ('{0}', {2})",
            customer(0),
            nine.number(),
            ten.number()
        ))
        .await;
    leader.answered_all(vec![unknown(sealed[2])], None, START).await.unwrap();
    leader
        .answered_all(vec![carry(sealed[0]), carry(sealed[1]), carry(sealed[2])], None, START)
        .await
        .unwrap();
    let open = ledger
        .run("SELECT customer, hour, writer, tags, amount, additive, late_from FROM tollgate.sums ORDER BY customer, tags")
        .await;
    let [nine, eleven, from] = [nine, eleven, EIGHT].map(|hour| hour.number().to_string());
    let row = |number, hour: &str, tags: &str, amount: &str| {
        [&customer(number), hour, "0", tags, "0", amount, &from].map(str::to_owned)
    };
    assert_eq!(
        open,
        [
            row(0, &eleven, "{}", "1000000"),
            row(1, &nine, r#"{"team":"a"}"#, "7"),
            row(1, &nine, "{}", "1000000")
        ]
    );
    let settled = ledger.run("SELECT state, code FROM tollgate.settled").await;
    assert_eq!(settled, [["carried", "expired"], ["carried", "expired"]]);
    assert_eq!(
        ledger.one("SELECT state || attempting FROM tollgate.records WHERE in_doubt").await,
        "sealedfalse"
    );
    let links = ledger.run("SELECT source, hour, target FROM tollgate.links ORDER BY hour DESC").await;
    let source = [sealed[0].to_string(), sealed[1].to_string()];
    assert_eq!(links, [[&source[0], eleven.as_str(), "NULL"], [&source[1], &nine, "NULL"]]);
    assert_eq!(ledger.run("SELECT count(*) FROM tollgate.outcome").await, [["0"]]);
    ledger.check_balance().await;
}

/// AWS bills an account and its license separately for the same hour.
#[tokio::test]
async fn carried_usage_keeps_the_form_of_its_customer() {
    let ledger = Ledger::make().await;
    let leader = ledger.leader().await;
    let sealed = ledger.sealed(&leader, EIGHT, 2).await;
    let nine = EIGHT.next().number();
    ledger.run(&format!("INSERT INTO tollgate.forms VALUES ({nine}, 'account {:012}', 1)", 0)).await;
    leader.answered_all(vec![carry(sealed[0]), carry(sealed[1])], None, START).await.unwrap();
    let dead = ledger.run("SELECT id, state, code FROM tollgate.records").await;
    assert_eq!(dead, [[sealed[0].to_string().as_str(), "dead", OTHER_FORM]]);
    let forms = ledger.run("SELECT hour, account, form FROM tollgate.forms ORDER BY account").await;
    let nine = nine.to_string();
    assert_eq!(forms, [[&nine, "account 000000000000", "1"], [&nine, "account 000000000001", "0"]]);
    ledger.check_balance().await;
}

/// Also of customers that are named by a legacy identifier, in one answer.
#[tokio::test]
async fn of_two_forms_that_are_carried_together_one_is_counted() {
    let ledger = Ledger::make().await;
    let leader = ledger.leader().await;
    ledger.count(EIGHT, 1, 1, "{}", 5).await;
    ledger.count(EIGHT, 2, 1, "{}", 5).await;
    let rename = format!("customer = 'identifier old' WHERE customer = '{}'", customer(2));
    ledger.run(&format!("UPDATE tollgate.sums SET {rename}; UPDATE tollgate.accepted SET {rename}")).await;
    ledger.run("INSERT INTO tollgate.identities (identifier, account) VALUES ('old', '000000000001')").await;
    ledger.set_clock(at(EIGHT.next(), 3)).await;
    assert_eq!(seal_all(&leader).await, 2);
    let rows = ledger.run("SELECT id FROM tollgate.records ORDER BY customer").await;
    let ids: Vec<i64> = rows.iter().map(|row| row[0].parse().unwrap()).collect();
    leader.answered_all(vec![carry(ids[0]), carry(ids[1])], None, START).await.unwrap();
    assert_eq!(ledger.one("SELECT state || code FROM tollgate.records").await, format!("dead{OTHER_FORM}"));
    assert_eq!(ledger.one("SELECT count(*) FROM tollgate.sums").await, "1");
    ledger.check_balance().await;
}

#[tokio::test]
async fn hundreds_of_records_are_carried_at_once() {
    let ledger = Ledger::make().await;
    let leader = ledger.leader().await;
    let usage: Vec<_> = (0..450).map(|number| (EIGHT, number, 1, "{}", 3)).collect();
    ledger.count_all(&usage).await;
    ledger.set_clock(at(EIGHT.next(), 3)).await;
    assert_eq!(seal_all(&leader).await, 450);
    let due = leader.due(START, 500).await.unwrap();
    leader.answered_all(due.iter().map(|due| carry(due.record.id)).collect(), None, START).await.unwrap();
    assert_eq!(ledger.one("SELECT sum(additive) FROM tollgate.sums").await, "1350");
    assert_eq!(ledger.one("SELECT count(*) FROM tollgate.links").await, "450");
    ledger.check_balance().await;
    ledger.set_clock(at(EIGHT.next().next(), 3)).await;
    assert_eq!(seal_all(&leader).await, 450);
    assert_eq!(
        ledger.one("SELECT count(*) FROM tollgate.links JOIN tollgate.records ON records.id = target").await,
        "450"
    );
    ledger.check_balance().await;
}

#[tokio::test]
async fn a_denial_is_kept_until_aws_accepts_usage() {
    let ledger = Ledger::make().await;
    let leader = ledger.leader().await;
    let sealed = ledger.sealed(&leader, EIGHT, 2).await;
    assert!(!leader.is_denied().await.unwrap());
    let denied = noted(sealed[0], Answered::Refused("CustomerNotEntitledException".to_owned()));
    leader.answered_all(vec![denied, unknown(sealed[1])], None, START).await.unwrap();
    assert!(leader.is_denied().await.unwrap());
    leader.answered_all(vec![accepted(sealed[0])], None, START).await.unwrap();
    assert!(!leader.is_denied().await.unwrap());
}

#[tokio::test]
async fn a_call_holds_only_records_that_fit_into_it() {
    let ledger = Ledger::make().await;
    let leader = ledger.leader().await;
    for number in 0..3 {
        let tags: Vec<String> = (0..400)
            .map(|tag| format!(r#"{{"a":"{}{tag}","b":"{}"}}"#, "a".repeat(200), "b".repeat(200)))
            .collect();
        let usage: Vec<_> = tags.iter().map(|tags| (EIGHT, number, 1, tags.as_str(), 1)).collect();
        ledger.count_all(&usage).await;
    }
    let sealed = ledger.sealed(&leader, EIGHT, 3).await;
    let begun = leader.begin(&sealed, None, START).await.unwrap();
    assert_eq!(ids(&begun), sealed[..2]);
    assert_eq!(ledger.one("SELECT count(*) FROM tollgate.records WHERE attempting").await, "2");
}

#[test]
fn hours_have_days() {
    use crate::carrying::day;
    assert_eq!((day(Hour::from_number(47)), day(Hour::from_number(48))), (1, 2));
}
