//! Moves of a ledger on disk: what people read in the database is what they read on disk, and a kill at any point loses
//! and repeats nothing.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::Mutex;
use std::task::Poll;

use super::*;
use crate::testing::Server;
use crate::{Destination, MoveError, Moved, PostgresLedger, PostgresSettings, move_ledger};
use tollgate_ledger::moving::{Moving, Stage};
use tollgate_ledger::repair::{Entry, Note, Repair, Repaired};
use tollgate_ledger::store::View;
use tollgate_ledger::testing::{START, folder, settings};
use tollgate_ledger::view::{From, Looked, OpenSlot, ShownState};
use tollgate_ledger::{Database as File, Ledger, LedgerError, Links, Summary, Totals};
use tollgate_marketplace::lifecycle::{LifecycleEvent, NamedLicense, News};
use tollgate_marketplace::{Customer, Hour, Quantity, TagSet};
use tollgate_metering::event::Event;
use tollgate_metering::record::{Answered, Noted, Record, Whole};
use tollgate_time::Timestamp;

pub(super) const HOUR: Duration = Duration::from_secs(3600);
const LICENSE: &str = "arn:aws:license-manager::444455556666:license:l-demo";

pub(super) fn customers() -> [Customer; 3] {
    let account = |account_id: &str, license: Option<&str>| Customer::Account {
        account_id: account_id.to_owned(),
        license_arn: license.map(str::to_owned),
    };
    [
        account("111122223333", None),
        account("444455556666", Some(LICENSE)),
        Customer::Identifier("id-7".to_owned()),
    ]
}

pub(super) fn event(id: &str, micros: u64, customer: &Customer, team: &str, at: Timestamp) -> Event {
    let mut content = [0; 32];
    content[..8].copy_from_slice(&micros.to_be_bytes());
    let tags = match team {
        "" => TagSet::default(),
        team => BTreeMap::from([("team".to_owned(), team.to_owned())]).try_into().unwrap(),
    };
    Event {
        id: Some(id.to_owned()),
        dimension: if micros.is_multiple_of(2) { "requests" } else { "gigabytes" }.to_owned(),
        quantity: Quantity::from_micros(micros).unwrap().into(),
        at,
        tags,
        customer: customer.clone(),
        content,
    }
}

/// Fills a ledger on disk with records in every state, links, repairs, open usage, keys and forms.
pub(super) fn fill(folder: &Path, hours: u32) {
    let mut ledger = Ledger::open(folder, settings("")).unwrap();
    let mut micros = 1_000_000;
    for hour in 0..hours {
        for customer in customers() {
            for team in ["", "a", "b"] {
                micros += 7;
                let at = START.plus(hour * HOUR);
                let events = [0, 1].map(|index| {
                    event(&format!("{hour}-{micros}-{index}"), micros + index, &customer, team, at)
                });
                ledger.take(&events, at).unwrap();
            }
        }
    }
    let now = START.plus(hours * HOUR);
    for (id, license, ends) in [("e-1", "l-7", true), ("e-2", "l-8", false), ("e-3", "l-9", true)] {
        let named = NamedLicense {
            account: "444455556666".to_owned(),
            license: license.to_owned(),
            agreement: ends.then(|| "agmt-1".to_owned()),
        };
        let news = if ends { News::LicenseDeprovisioned(named) } else { News::LicenseUpdated(named) };
        let event = LifecycleEvent { id: id.to_owned(), at: now, detail_type: String::new(), news };
        ledger.note_event(&event, now).unwrap();
    }
    while ledger.seal_closed(now).unwrap().more {}
    let unsent: Vec<i64> = ledger.unsent(1000).unwrap().iter().map(|record| record.id).collect();
    let noted = |id, answered| Noted { id, answered, due_at: Some(now.plus(HOUR)) };
    let mut letters = Vec::new();
    for (index, id) in unsent.iter().enumerate() {
        let answered = match index % 8 {
            0 => Answered::Accepted(Some(format!("record-{id}"))),
            1 => Answered::Unconfirmed("DuplicateRecord".into()),
            2 => Answered::Refused("ThrottlingException".into()),
            3 => Answered::Unknown("Timeout".into()),
            4 => Answered::Carry("expired".into()),
            5 | 6 => Answered::Dead("InvalidTagException".into()),
            _ => continue,
        };
        ledger.attempt(&[*id], Some(&"us-east-1".parse().unwrap()), now).unwrap();
        if matches!(answered, Answered::Dead(_)) {
            letters.push(*id);
        }
        if index % 8 == 6 {
            ledger.answered_all(&[noted(*id, Answered::Unknown("Timeout".into()))], None, now).unwrap();
        }
        ledger.answered_all(&[noted(*id, answered)], None, now).unwrap();
    }
    let note = || Note::new("ticket 7").unwrap();
    let replay = |to: Option<&str>| Repair::Replay {
        accept_double_billing: true,
        to_dimension: to.map(str::to_owned),
        note: Some(note()),
    };
    let orders = [replay(None), Repair::Confirm(note()), Repair::Discard(note()), replay(Some("seats"))];
    // Some dead letters are left.
    for (order, id) in orders.iter().cycle().zip(letters.iter().take(letters.len() * 3 / 4)) {
        assert_eq!(ledger.repair(*id, order, now).unwrap(), Repaired::Done);
    }
    // The process ends during a call.
    let last = *unsent.last().unwrap();
    ledger.attempt(&[last], None, now).unwrap();
    ledger.identify("id-7", "777788889999").unwrap();
}

/// All that people can read.
#[derive(Debug, PartialEq)]
pub(super) struct Shown {
    pub(super) totals: BTreeMap<String, Totals>,
    summary: Summary,
    records: Vec<(Whole, Links)>,
    found: Vec<(Looked, Vec<Record>)>,
    open: Vec<OpenSlot>,
    open_found: Vec<(Looked, usize)>,
    audit: Vec<Entry>,
}

fn filters() -> Vec<Looked> {
    let all = Looked::default();
    let customer = |text: &str| Looked { customer: Some(text.to_owned()), ..all.clone() };
    let hour = |hour| Looked { hour: Some(Hour::of(START.plus(hour * HOUR))), ..all.clone() };
    let mut filters: Vec<Looked> =
        ShownState::ALL.map(|state| Looked { state: Some(state), ..all.clone() }).into();
    filters.extend([
        all.clone(),
        customer("111122223333"),
        customer("account 111122223333"),
        customer(LICENSE),
        customer(&format!("account 444455556666 {LICENSE}")),
        customer("id-7"),
        customer("7"),
        customer("11112222333"),
        Looked { dimension: Some("requests".to_owned()), ..all.clone() },
        Looked { dimension: Some("seats".to_owned()), ..all.clone() },
        hour(0),
        hour(1),
        Looked { state: Some(ShownState::Dead), dimension: Some("gigabytes".to_owned()), ..hour(1) },
        Looked { state: Some(ShownState::Accepted), ..customer("444455556666") },
    ]);
    filters
}

async fn records(view: &dyn View, looked: &Looked, limit: usize) -> Vec<Record> {
    let (mut rows, mut before) = (Vec::new(), None);
    loop {
        let piece = view.page(Looked { before, ..looked.clone() }, limit).await.unwrap();
        assert!(piece.rows.len() <= limit);
        rows.extend(piece.rows);
        match piece.next {
            Some(next) => before = Some(next),
            None => return rows,
        }
    }
}

async fn open(view: &dyn View, looked: &Looked, limit: usize) -> Vec<OpenSlot> {
    let (mut rows, mut from) = (Vec::new(), Some(From::default()));
    while let Some(at) = from {
        // As a page's answer carries it.
        let at = From::parse(&at.to_string()).unwrap();
        let piece = view.open_slots(looked.clone(), at, limit).await.unwrap();
        rows.extend(piece.rows);
        from = piece.next;
    }
    rows.sort_by_key(|open| (open.hour, open.customer.clone(), open.dimension.clone()));
    rows
}

pub(super) async fn shown(view: &dyn View) -> Shown {
    let mut found = Vec::new();
    let mut open_found = Vec::new();
    for looked in filters() {
        let rows = records(view, &looked, 1000).await;
        assert_eq!(records(view, &looked, 3).await, rows, "{looked:?}");
        if looked.state.is_none() {
            open_found.push((looked.clone(), open(view, &looked, 1000).await.len()));
        }
        found.push((looked, rows));
    }
    let mut whole = Vec::new();
    for record in records(view, &Looked::default(), 1000).await {
        whole.push(view.record(record.id).await.unwrap().unwrap());
    }
    let usage = open(view, &Looked::default(), 1000).await;
    assert_eq!(open(view, &Looked::default(), 2).await, usage);
    assert!(view.record(1_000_000).await.unwrap().is_none());
    let mut audit = view.audit(None, 5).await.unwrap();
    while let Some(last) = audit.last().map(|entry| entry.id) {
        let more = view.audit(Some(last), 5).await.unwrap();
        if more.is_empty() {
            break;
        }
        audit.extend(more);
    }
    Shown {
        totals: view.totals().await.unwrap(),
        // The size is the engine's own.
        summary: Summary { bytes: 0, ..view.summary().await.unwrap() },
        records: whole,
        found,
        open: usage,
        open_found,
        audit,
    }
}

async fn shown_on_disk(folder: &Path) -> Shown {
    shown(&Mutex::new(File::inspect(folder).unwrap())).await
}

pub(super) fn ledger(database: &Database) -> PostgresLedger {
    PostgresLedger::new(PostgresSettings {
        url_file: database.url_file(),
        name: "test".to_owned(),
        ledger: settings(""),
        lease: crate::LeaseTimes::default(),
    })
}

pub(super) fn to(database: &Database) -> Destination {
    Destination::file(database.url_file())
}

/// Polls a future at most this many times, then drops it: as a kill does, it leaves nothing undone that was sent.
async fn killed_after<T>(polls: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut left = polls;
    std::future::poll_fn(move |context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(context).map(Some)
    })
    .await
}

fn is_moved(folder: &Path) -> bool {
    matches!(File::inspect(folder), Err(LedgerError::Moved { .. }))
}

#[tokio::test]
async fn what_people_read_after_the_move_is_what_they_read_before() {
    let folder = folder();
    fill(folder.path(), 5);
    let before = shown_on_disk(folder.path()).await;
    assert!(
        before.totals["requests"].discarded > 0 && before.totals["seats"].pending > 0,
        "{:?}",
        before.totals
    );
    let database = Server::shared().database().await;
    let mut seen = Vec::new();
    let moved =
        move_ledger(folder.path(), to(&database), |part, rows| seen.push((part, rows))).await.unwrap();
    assert!(!moved.resumed && moved.place.ends_with(&database.name), "{moved:?}");
    assert_eq!(
        (moved.rows["keys"], moved.rows["records"]),
        (90, u64::try_from(before.records.len()).unwrap())
    );
    assert!(seen.contains(&("keys", 90)), "{seen:?}");
    let after = shown(&ledger(&database)).await;
    for (before, after) in before.found.iter().zip(&after.found) {
        assert_eq!(before, after);
    }
    for (before, after) in before.records.iter().zip(&after.records) {
        assert_eq!(before, after);
    }
    assert_eq!(before, after);
    assert_eq!(moved.totals, after.totals);
    assert!(is_moved(folder.path()));
    let again = move_ledger(folder.path(), to(&database), |_, _| {}).await.unwrap_err();
    assert!(again.to_string().contains(&moved.place), "{again}");
    let licenses = "SELECT license, account, agreement, event_at, coalesce(deprovisioned_at, 0) FROM tollgate.licenses ORDER BY license";
    let at = START.plus(5 * HOUR).unix_millis().to_string();
    let row = |license: &str, agreement: &str, ended: &str| {
        [license, "444455556666", agreement, &at, ended].map(str::to_owned).to_vec()
    };
    let expected = [row("l-7", "agmt-1", &at), row("l-8", "NULL", "0"), row("l-9", "agmt-1", &at)];
    assert_eq!(database.run(licenses).await, expected);
    let events = "SELECT id, seen_at FROM tollgate.marketplace_events ORDER BY id";
    assert_eq!(database.run(events).await, ["e-1", "e-2", "e-3"].map(|id| [id.to_owned(), at.clone()]));
    // A new record has a number of its own.
    let next = "SELECT nextval(pg_get_serial_sequence('tollgate.records', 'id')) >
        (SELECT greatest((SELECT max(id) FROM tollgate.records), (SELECT max(id) FROM tollgate.settled)))";
    assert_eq!(database.run(next).await, [["t"]]);
}

#[tokio::test]
async fn a_move_that_is_killed_at_any_point_goes_on() {
    let folder = folder();
    fill(folder.path(), 3);
    let before = shown_on_disk(folder.path()).await;
    let database = Server::shared().database().await;
    let mut kills = 0;
    let moved: Moved = loop {
        // Long enough at last; before that, every run ends elsewhere.
        match killed_after(1 + kills, move_ledger(folder.path(), to(&database), |_, _| {})).await {
            Some(moved) => break moved.unwrap(),
            None => kills += 1,
        }
    };
    assert!(kills > 20, "{kills} kills");
    assert!(moved.resumed);
    assert_eq!(shown(&ledger(&database)).await, before);
    assert_eq!(database.run("SELECT to_regclass('tollgate.moving') IS NULL").await, [["t"]]);
}

/// A copy of a ledger's files, as a snapshot of the volume.
pub(super) fn copied(from: &Path) -> tempfile::TempDir {
    let copy = folder();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    copy
}

#[tokio::test]
async fn a_database_that_took_over_is_not_copied_into_again() {
    let folder = folder();
    fill(folder.path(), 2);
    let (before, old) = (copied(folder.path()), copied(folder.path()));
    let database = Server::shared().database().await;
    let Moved { place, totals, .. } = move_ledger(folder.path(), to(&database), |_, _| {}).await.unwrap();
    // The process was killed after the database took over, before the file noted it.
    Moving::open(before.path()).unwrap().note(Stage::Ready, &place).unwrap();
    let other = Server::shared().database().await;
    let elsewhere = move_ledger(before.path(), to(&other), |_, _| {}).await.unwrap_err();
    assert!(elsewhere.to_string().contains("finish the move there"), "{elsewhere}");
    let moved = move_ledger(before.path(), to(&database), |_, _| {}).await.unwrap();
    assert!(moved.resumed && moved.rows.is_empty());
    assert!(is_moved(before.path()));
    assert_eq!(ledger(&database).totals().await.unwrap(), totals);
    // Somebody restored a snapshot from before the move.
    let restored = move_ledger(old.path(), to(&database), |_, _| {}).await.unwrap_err();
    assert!(restored.to_string().contains("old copy"), "{restored}");
    assert_eq!(ledger(&database).totals().await.unwrap(), totals);
}

#[tokio::test]
async fn a_move_that_did_not_finish_may_begin_anew_in_another_database() {
    let folder = folder();
    fill(folder.path(), 2);
    let (first, second) = (Server::shared().database().await, Server::shared().database().await);
    let mut polls = 0;
    while File::inspect(folder.path()).is_ok() {
        polls += 1;
        assert!(killed_after(polls, move_ledger(folder.path(), to(&first), |_, _| {})).await.is_none());
    }
    let error = File::inspect(folder.path()).unwrap_err();
    assert!(matches!(error, LedgerError::Moving { .. }), "{error:?}");
    let moved = move_ledger(folder.path(), to(&second), |_, _| {}).await.unwrap();
    assert_eq!(ledger(&second).totals().await.unwrap(), moved.totals);
    assert_eq!(first.run("SELECT state FROM tollgate.ledger").await, [["moving"]], "it takes no usage");
}

#[tokio::test]
async fn what_must_not_move_stays_as_it_is_and_says_why() {
    let database = Server::shared().database().await;
    let text = async |folder: &Path, database: &Database| {
        move_ledger(folder, to(database), |_, _| {}).await.unwrap_err().to_string()
    };
    // A ledger of pods.
    let pods = folder();
    let mut ledger = Ledger::open(pods.path(), settings("pod-1")).unwrap();
    ledger.take(&[event("a", 1, &Customer::Own, "", START)], START).unwrap();
    drop(ledger);
    let error = text(pods.path(), &database).await;
    assert!(error.contains("only a ledger of mode saas"), "{error}");
    assert!(Ledger::open(pods.path(), settings("pod-1")).is_ok());
    // A sidecar runs on it.
    let seller = folder();
    fill(seller.path(), 2);
    let running = Ledger::open(seller.path(), settings("")).unwrap();
    let error = move_ledger(seller.path(), to(&database), |_, _| {}).await.unwrap_err();
    assert!(matches!(error, MoveError::Ledger(LedgerError::InUse(_))), "{error:?}");
    drop(running);
    // The database is not there.
    database.name_it("postgres://postgres@127.0.0.1:1/nowhere?sslmode=disable");
    let error = text(seller.path(), &database).await;
    assert!(error.contains("127.0.0.1:1/nowhere"), "{error}");
    // It holds other usage, or replicas know its id.
    database.name_it(&database.server.url(&database.name));
    let other = folder();
    fill(other.path(), 2);
    move_ledger(other.path(), to(&database), |_, _| {}).await.unwrap();
    let error = text(seller.path(), &database).await;
    assert!(error.contains("two ledgers cannot become one"), "{error}");
    let used = Server::shared().database().await;
    connector(&used).connect().await.unwrap();
    used.run("INSERT INTO tollgate.writers (name) VALUES ('replica')").await;
    let error = text(seller.path(), &used).await;
    assert!(error.contains("DROP SCHEMA"), "{error}");
    assert!(Ledger::open(seller.path(), settings("")).is_ok(), "nothing was noted");
    let text = format!("{:?}", Destination::url("postgres://user:secret@host/database".to_owned()));
    assert!(!text.contains("secret"), "{text}");
}
