//! The ledger's promises under repeats, late events, closed hours, restarts, other processes and damage.

mod ageing;
mod bounds;
mod clock;
mod cost;
mod damage;
mod early;
mod files;
mod forms;
mod inspect;
mod keys;
mod lifecycle;
mod model;
mod moving;
mod open;
mod repair;
mod rules;
mod upgrade;
mod versions;
mod whole;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use rusqlite::Connection;

use super::testing::{SETTLE, START, folder, settings};
use super::*;
use tollgate_marketplace::{Customer, Hour, HourUsage, Quantity, Region, TagSet};
use tollgate_metering::record::{Answered, Oldest, Record, RecordState};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

struct Bench {
    folder: tempfile::TempDir,
    ledger: Option<Ledger>,
    pod: String,
}

impl Bench {
    fn new() -> Self {
        let folder = folder();
        let ledger = Some(Ledger::open(folder.path(), settings("pod-1")).unwrap());
        Self { folder, ledger, pod: "pod-1".to_owned() }
    }

    fn ledger(&mut self) -> &mut Ledger {
        self.ledger.as_mut().unwrap()
    }

    /// Stands for a process that is killed: the ledger is dropped without a shutdown.
    fn restart(&mut self, pod: &str) {
        self.ledger = None;
        pod.clone_into(&mut self.pod);
        self.ledger = Some(Ledger::open(self.folder.path(), settings(pod)).unwrap());
    }

    /// The same pod with these rules.
    fn restart_with(&mut self, rules: Rules) {
        self.ledger = None;
        let settings = LedgerSettings { rules, ..settings(&self.pod) };
        self.ledger = Some(Ledger::open(self.folder.path(), settings).unwrap());
    }

    fn take(&mut self, event: Event, now: Timestamp) -> Taken {
        self.ledger().take(&[event], now).unwrap()[0]
    }

    fn total(&mut self, dimension: &str) -> Totals {
        let totals = self.ledger().totals().unwrap();
        self.ledger().check_balance().unwrap();
        totals.get(dimension).copied().unwrap_or_default()
    }
}

fn event(id: Option<&str>, micros: u64, at: Timestamp) -> Event {
    let mut content = [0; 32];
    content[..8].copy_from_slice(&micros.to_be_bytes());
    Event {
        id: id.map(str::to_owned),
        dimension: "requests".to_owned(),
        quantity: Quantity::from_micros(micros).unwrap().into(),
        at,
        tags: TagSet::default(),
        customer: Customer::Own,
        content,
    }
}

fn rule(text: &str) -> Rule {
    text.parse().unwrap()
}

fn rules(rules: &[(&str, &str)]) -> Rules {
    rules.iter().map(|(name, text)| ((*name).to_owned(), rule(text))).collect()
}

#[test]
fn a_key_counts_once_and_another_content_under_it_is_a_conflict() {
    let mut bench = Bench::new();
    assert_eq!(bench.take(event(Some("a"), 5, START), START), Taken::Accepted);
    assert_eq!(bench.take(event(Some("a"), 5, START), START), Taken::Duplicate);
    assert_eq!(bench.take(event(Some("a"), 6, START), START), Taken::Conflict);
    bench.restart("pod-1");
    assert_eq!(bench.take(event(Some("a"), 5, START), START.plus(HOUR)), Taken::Duplicate);
    assert_eq!(bench.total("requests").accepted, 5);
}

#[tokio::test(start_paused = true)]
async fn a_key_is_forgotten_after_two_days() {
    let mut bench = Bench::new();
    bench.take(event(Some("a"), 5, START), START);
    let later = START.plus(48 * HOUR + MINUTE);
    for hour in 0..=48 {
        tokio::time::advance(HOUR).await;
        bench.ledger().seal_closed(START.plus(hour * HOUR + MINUTE)).unwrap();
    }
    bench.ledger().seal_closed(later).unwrap();
    assert_eq!(bench.take(event(Some("a"), 5, later), later), Taken::Accepted);
}

#[test]
fn an_hour_takes_its_own_events_until_it_settles_and_none_afterwards() {
    let mut bench = Bench::new();
    bench.take(event(None, 1, START.plus(10 * MINUTE)), START.plus(10 * MINUTE));
    let settling = START.plus(HOUR + MINUTE);
    bench.take(event(None, 2, START.plus(59 * MINUTE)), settling);
    assert_eq!(bench.ledger().seal_closed(settling).unwrap().made, 0, "not closed yet");
    let closed = START.plus(HOUR + SETTLE);
    assert_eq!(bench.ledger().seal_closed(closed).unwrap().made, 1);
    bench.take(event(None, 4, START.plus(59 * MINUTE)), closed);
    bench.ledger().seal_closed(START.plus(2 * HOUR + SETTLE)).unwrap();
    let records = bench.ledger().unsent(10).unwrap();
    let shown: Vec<_> =
        records.iter().map(|record| (record.hour, record.quantity.micros(), record.late_from)).collect();
    let first = Hour::of(START);
    assert_eq!(shown, [(first, 3, None), (first.next(), 4, Some(first))]);
    assert_eq!(records[0].timestamp, START.plus(10 * MINUTE), "the first event's time");
}

#[test]
fn an_hour_that_was_sealed_early_stays_closed_even_when_the_clock_goes_back() {
    let mut bench = Bench::new();
    bench.take(event(None, 1, START), START.plus(MINUTE));
    bench.ledger().seal_now(START.plus(2 * MINUTE)).unwrap();
    bench.restart("pod-1");
    for now in [START.plus(3 * MINUTE), START.minus(MINUTE), START.minus(HOUR)] {
        bench.take(event(None, 2, now), now);
    }
    bench.ledger().seal_closed(START.plus(5 * HOUR)).unwrap();
    let records = bench.ledger().unsent(10).unwrap();
    let hours: Vec<_> = records.iter().map(|record| (record.hour, record.quantity.micros())).collect();
    assert_eq!(hours, [(Hour::of(START), 1), (Hour::of(START).next(), 6)]);
}

#[test]
fn a_sealed_record_is_the_same_on_every_retry_and_after_a_restart() {
    let mut bench = Bench::new();
    bench.take(event(None, 1_500_000, START), START);
    bench.ledger().seal_now(START.plus(MINUTE)).unwrap();
    let first = bench.ledger().unsent(10).unwrap();
    bench.ledger().attempt(&[first[0].id], None, START.plus(2 * MINUTE)).unwrap();
    bench.restart("pod-1");
    let again = bench.ledger().unsent(10).unwrap();
    let fixed =
        |record: &Record| (record.quantity, record.decimal, record.timestamp, record.client_token.clone());
    assert_eq!(fixed(&first[0]), fixed(&again[0]));
    assert_eq!((again[0].state.in_doubt(), again[0].attempts), (true, 1), "attempted before the call");
    assert_eq!(first[0].client_token.len(), 32);
}

#[test]
fn answers_move_the_balance_and_doubt_is_never_carried() {
    let mut bench = Bench::new();
    for hour in 0..4_u32 {
        let at = START.plus(hour * HOUR);
        bench.take(event(None, 1 << hour, at), at);
    }
    let now = START.plus(5 * HOUR);
    bench.ledger().seal_closed(now).unwrap();
    let ids: Vec<i64> = bench.ledger().unsent(10).unwrap().iter().map(|record| record.id).collect();
    let ledger = bench.ledger();
    ledger.answered(ids[0], &Answered::Accepted(Some("r-1".into())), now).unwrap();
    ledger.answered(ids[1], &Answered::Dead("InvalidUsageDimensionException".into()), now).unwrap();
    ledger.answered(ids[2], &Answered::Carry("expired".into()), now).unwrap();
    ledger.attempt(&[ids[3]], None, now).unwrap();
    ledger.answered(ids[3], &Answered::Unknown("Timeout".into()), now).unwrap();
    // A throttled retry does not show whether the first call was billed.
    ledger.attempt(&[ids[3]], None, now).unwrap();
    ledger.answered(ids[3], &Answered::Refused("ThrottlingException".into()), now).unwrap();
    ledger.answered(ids[3], &Answered::Carry("expired".into()), now).unwrap();
    assert_eq!(
        bench.total("requests"),
        Totals { accepted: 15, billed: 1, pending: 12, dead: 2, ..Totals::default() }
    );
    let doubtful = bench.ledger().unsent(10).unwrap();
    assert_eq!((doubtful.len(), doubtful[0].id, doubtful[0].state.in_doubt()), (1, ids[3], true));
    // A second answer for a record changes nothing.
    bench.ledger().answered(ids[0], &Answered::Dead("late".into()), now).unwrap();
    assert_eq!(bench.total("requests").billed, 1);
}

#[test]
fn usage_that_an_earlier_pod_left_open_is_reported_by_this_one_and_says_so() {
    let mut bench = Bench::new();
    bench.take(event(None, 7, START), START);
    bench.restart("pod-2");
    let now = START.plus(2 * HOUR);
    bench.ledger().seal_closed(now).unwrap();
    bench.ledger().seal_now(now).unwrap();
    let records = bench.ledger().unsent(10).unwrap();
    let shown: Vec<_> =
        records.iter().map(|r| (r.pod.as_str(), r.hour, r.late_from, r.quantity.micros())).collect();
    assert_eq!(shown, [("pod-2", Hour::of(now), Some(Hour::of(START)), 7)]);
    assert_eq!(bench.total("requests"), Totals { accepted: 7, pending: 7, ..Totals::default() });
}

#[test]
fn a_second_process_gets_a_clear_error() {
    let bench = Bench::new();
    let error = Ledger::open(bench.folder.path(), settings("pod-1")).unwrap_err();
    assert!(matches!(error, LedgerError::InUse(_)), "{error:?}");
    assert!(error.to_string().contains("only one sidecar"));
}

#[test]
fn a_full_ledger_refuses_before_the_disk_is_full() {
    let folder = folder();
    let mut ledger =
        Ledger::open(folder.path(), LedgerSettings { bytes_max: 400 * 1024, ..settings("pod-1") }).unwrap();
    let mut refused = None;
    for index in 0..100_000 {
        match ledger.take(&[event(Some(&format!("key-{index}")), 1, START)], START) {
            Ok(_) => {}
            Err(error) => {
                refused = Some((index, error));
                break;
            }
        }
    }
    let (index, error) = refused.unwrap();
    assert!(matches!(error, LedgerError::Full { bytes_max: 409_600, .. }), "{error:?}");
    assert_eq!(ledger.totals().unwrap()["requests"].accepted, index, "what was acknowledged is there");
    // Nobody could fill it to stop the time of the open gate.
    let mut event = event(None, 5, START);
    event.dimension = "node_hours".to_owned();
    assert!(matches!(ledger.take(&[event.clone()], START), Err(LedgerError::Full { .. })));
    assert_eq!(ledger.take_time(&[event], START).unwrap(), [Taken::Accepted]);
}

#[test]
fn a_ledger_that_replaces_a_damaged_one_reports_nothing_in_the_hour_that_may_have_been_reported() {
    let folder = folder();
    std::fs::write(folder.path().join(FILE_NAME), "this is no database, and longer than a header").unwrap();
    let mut ledger = Ledger::open(folder.path(), settings("pod-1")).unwrap();
    ledger.take(&[event(None, 1, START)], START).unwrap();
    ledger.seal_closed(START.plus(2 * HOUR + SETTLE)).unwrap();
    let hours: Vec<Hour> = ledger.unsent(10).unwrap().iter().map(|record| record.hour).collect();
    assert_eq!(hours, [Hour::of(START).next()]);
}

/// The process is killed after it has renamed the damaged file: before there is a new one, or right after.
#[test]
fn a_kill_while_a_damaged_ledger_is_replaced_opens_no_hour_that_may_have_been_reported() {
    for made in [false, true] {
        let folder = folder();
        let path = folder.path().join(FILE_NAME);
        std::fs::write(&path, "this is no database, and longer than a header").unwrap();
        quarantine::set_aside(&path, START, "damage").unwrap();
        if made {
            Ledger::open_file(&path, settings("pod-1")).unwrap();
        }
        let mut ledger = Ledger::open(folder.path(), settings("pod-1")).unwrap();
        ledger.take(&[event(None, 1, START)], START).unwrap();
        ledger.seal_closed(START.plus(2 * HOUR + SETTLE)).unwrap();
        let hours: Vec<Hour> = ledger.unsent(10).unwrap().iter().map(|record| record.hour).collect();
        assert_eq!(hours, [Hour::of(START).next()], "{made}");
    }
}

#[test]
fn a_restart_in_the_same_pod_keeps_the_pods_start_and_another_pod_has_its_own() {
    let mut bench = Bench::new();
    bench.ledger = None;
    let open = |bench: &Bench, pod: &str, started_at: Timestamp| {
        Ledger::open(bench.folder.path(), LedgerSettings { started_at, ..settings(pod) })
            .unwrap()
            .settings
            .started_at
    };
    assert_eq!(open(&bench, "pod-1", START.plus(HOUR)), START);
    assert_eq!(open(&bench, "pod-2", START.plus(HOUR)), START.plus(HOUR));
    assert_eq!(open(&bench, "pod-2", START), START, "the clock went back");
}

#[test]
fn hours_without_usage_are_reported_where_the_seller_says_so_and_never_before_they_end() {
    let folder = folder();
    let zero_dimensions = vec!["requests".to_owned(), "gigabytes".to_owned()];
    let started_at = START.plus(10 * MINUTE);
    let mut ledger =
        Ledger::open(folder.path(), LedgerSettings { zero_dimensions, started_at, ..settings("pod-1") })
            .unwrap();
    ledger.take(&[event(None, 1, started_at)], started_at).unwrap();
    assert_eq!(ledger.seal_closed(START.plus(HOUR)).unwrap().made, 0);
    assert_eq!(ledger.seal_closed(START.plus(HOUR + SETTLE)).unwrap().made, 2);
    let shown = |ledger: &Ledger| -> Vec<(String, i64, u64)> {
        let hour = |record: &Record| record.hour.number() - Hour::of(START).number();
        let all = ledger.records(100).unwrap();
        all.iter().map(|record| (record.dimension.clone(), hour(record), record.quantity.micros())).collect()
    };
    assert_eq!(shown(&ledger), [("requests".into(), 0, 1), ("gigabytes".into(), 0, 0)]);
    let records = ledger.records(10).unwrap();
    assert!(
        records.iter().all(|record| record.timestamp >= started_at),
        "AWS takes none from before the start"
    );
    assert_eq!(
        ledger.seal_now(START.plus(HOUR + 30 * MINUTE)).unwrap().made,
        0,
        "a zero in the middle would block the hour"
    );
    let days_later = START.plus(100 * HOUR);
    assert!(ledger.seal_closed(days_later).unwrap().made <= 12, "hours out of AWS's window are left alone");
}

#[test]
fn settled_records_are_forgotten_in_time_and_stay_in_the_balance() {
    let mut bench = Bench::new();
    bench.take(event(None, 7, START), START);
    bench.ledger().seal_closed(START.plus(HOUR + SETTLE)).unwrap();
    let id = bench.ledger().unsent(10).unwrap()[0].id;
    bench.ledger().answered(id, &Answered::Accepted(None), START.plus(2 * HOUR)).unwrap();
    bench.ledger().seal_closed(START.plus(30 * 24 * HOUR)).unwrap();
    assert_eq!(bench.ledger().records(10).unwrap().len(), 1);
    for hour in (30 * 24..36 * 24).step_by(6) {
        bench.ledger().seal_closed(START.plus(hour * HOUR)).unwrap();
    }
    assert_eq!(bench.ledger().records(10).unwrap().len(), 1, "the past is forgotten step by step");
    for hour in (36 * 24..72 * 24).step_by(6) {
        bench.ledger().seal_closed(START.plus(hour * HOUR)).unwrap();
    }
    assert_eq!(bench.ledger().records(10).unwrap().len(), 0);
    assert_eq!((bench.total("requests").billed, bench.total("requests").accepted), (7, 7));
}

fn claim(micros: u64, timestamp: Timestamp) -> Claim {
    Claim {
        dimension: "requests".into(),
        usage: HourUsage { quantity: Quantity::from_micros(micros).unwrap(), ..HourUsage::zero(timestamp) },
        client_token: format!("token-{micros}"),
    }
}

#[test]
fn a_claimed_hour_takes_no_other_value_and_open_usage_gives_way() {
    let folder = folder();
    let mut ledger =
        Ledger::open(folder.path(), LedgerSettings { aws_door: true, ..settings("pod-1") }).unwrap();
    ledger.take(&[event(None, 5, START)], START).unwrap();
    let now = START.plus(MINUTE);
    let Claimed::Granted(id) = ledger.claim(&claim(7, now), None, now).unwrap() else {
        panic!("not granted")
    };
    assert!(matches!(ledger.claim(&claim(7, now), None, now).unwrap(), Claimed::Repeated { .. }));
    assert_eq!(ledger.claim(&claim(8, now), None, now).unwrap(), Claimed::Taken);
    ledger.settle_claim(id, Settled::Accepted, Some("id"), None, now).unwrap();
    ledger.take(&[event(None, 6, now)], now).unwrap();
    let totals = ledger.totals().unwrap()["requests"];
    assert_eq!((totals.accepted, totals.billed, totals.pending), (18, 7, 11));
    ledger.seal_closed(START.plus(2 * HOUR + SETTLE)).unwrap();
    let records = ledger.records(10).unwrap();
    let shown: Vec<_> = records.iter().map(|record| (record.hour, record.quantity.micros())).collect();
    assert_eq!(shown, [(Hour::of(START), 7), (Hour::of(START).next(), 11)]);
}

#[test]
fn what_may_be_billed_already_is_in_doubt_before_it_leaves_again() {
    let folder = folder();
    let mut ledger =
        Ledger::open(folder.path(), LedgerSettings { aws_door: true, ..settings("pod-1") }).unwrap();
    ledger.take(&[event(None, 7, START)], START).unwrap();
    let now = START.plus(HOUR + SETTLE);
    ledger.seal_closed(now).unwrap();
    // The application itself reports the hour that the ledger has sealed.
    let Claimed::Repeated { id, .. } = ledger.claim(&claim(7, START), None, now).unwrap() else {
        panic!("not known")
    };
    assert!(ledger.unsent(1).unwrap()[0].state.in_doubt(), "on disk before the call leaves");
    ledger.settle_claim(id, Settled::Unknown, None, None, now).unwrap();
    ledger.answered(id, &Answered::Carry("expired".into()), now).unwrap();
    assert_eq!(
        ledger.record(id).unwrap().unwrap().record.state,
        RecordState::Sealed { in_doubt: true },
        "what is in doubt is never carried"
    );
    ledger.answered(id, &Answered::Dead("in_doubt".into()), now).unwrap();
    // AWS's acceptance counts, even for a dead letter.
    assert!(matches!(ledger.claim(&claim(7, START), None, now).unwrap(), Claimed::Repeated { .. }));
    ledger.settle_claim(id, Settled::Accepted, Some("id"), None, now).unwrap();
    let totals = ledger.totals().unwrap()["requests"];
    assert_eq!((totals.accepted, totals.billed, totals.dead), (7, 7, 0));
    let discard = repair::discard();
    assert_eq!(ledger.repair(id, &discard, now).unwrap(), super::repair::Repaired::NotFound);
}

#[test]
fn what_counts_to_a_later_hour_is_not_reported_again() {
    let folder = folder();
    let mut ledger =
        Ledger::open(folder.path(), LedgerSettings { aws_door: true, ..settings("pod-1") }).unwrap();
    ledger.take(&[event(None, 7, START)], START).unwrap();
    let now = START.plus(HOUR + SETTLE);
    ledger.seal_closed(now).unwrap();
    let id = ledger.unsent(1).unwrap()[0].id;
    ledger.answered(id, &Answered::Carry("expired".into()), now).unwrap();
    assert_eq!(
        ledger.claim(&claim(7, START), None, now).unwrap(),
        Claimed::Taken,
        "it would be billed twice"
    );
    assert_eq!(ledger.totals().unwrap()["requests"].pending, 7);
}

#[test]
fn a_claim_that_never_left_is_not_in_doubt_and_one_that_was_lost_before_stays() {
    let folder = folder();
    let mut ledger =
        Ledger::open(folder.path(), LedgerSettings { aws_door: true, ..settings("pod-1") }).unwrap();
    let Claimed::Granted(id) = ledger.claim(&claim(7, START), None, START).unwrap() else {
        panic!("not granted")
    };
    ledger.settle_claim(id, Settled::Unsent, None, None, START).unwrap();
    let record = ledger.record(id).unwrap().unwrap().record;
    assert_eq!(record.state, RecordState::Sealed { in_doubt: false });
    let later = START.plus(HOUR);
    let Claimed::Granted(id) = ledger.claim(&claim(8, later), None, later).unwrap() else {
        panic!("not granted")
    };
    // The first call was never settled; the second is refused, which proves nothing about the first.
    assert!(matches!(ledger.claim(&claim(8, later), None, later).unwrap(), Claimed::Repeated { .. }));
    ledger.settle_claim(id, Settled::Refused, None, None, later).unwrap();
    let record = ledger.record(id).unwrap().unwrap().record;
    assert_eq!(record.state, RecordState::Sealed { in_doubt: true });
    let totals = ledger.totals().unwrap()["requests"];
    assert_eq!((totals.accepted, totals.pending), (15, 15));
}

#[test]
fn a_refused_claim_frees_its_hour_and_an_unanswered_one_is_asked_about_by_the_ledger() {
    let folder = folder();
    let open =
        || Ledger::open(folder.path(), LedgerSettings { aws_door: true, ..settings("pod-1") }).unwrap();
    let mut ledger = open();
    let Claimed::Granted(id) = ledger.claim(&claim(7, START), None, START).unwrap() else {
        panic!("not granted")
    };
    ledger.settle_claim(id, Settled::Refused, None, None, START).unwrap();
    assert!(ledger.totals().unwrap().is_empty());
    let Claimed::Granted(id) = ledger.claim(&claim(8, START), None, START).unwrap() else {
        panic!("not granted")
    };
    ledger.settle_claim(id, Settled::Unknown, None, None, START).unwrap();
    let record = ledger.unsent(10).unwrap().remove(0);
    assert_eq!(
        (record.state.in_doubt(), record.client_token.as_str(), record.quantity.micros()),
        (true, "token-8", 8)
    );
    let later = START.plus(HOUR);
    assert!(matches!(ledger.claim(&claim(9, later), None, later).unwrap(), Claimed::Granted(_)));
    drop(ledger);
    let unsent = open().unsent(10).unwrap();
    assert_eq!(unsent.len(), 2, "a process that ended during the call leaves it in doubt");
    assert!(unsent.iter().all(|record| record.state.in_doubt()));
    assert_eq!(open().totals().unwrap()["requests"].pending, 17);
}

#[test]
fn a_claim_that_is_refused_moves_nothing() {
    let folder = folder();
    let mut ledger =
        Ledger::open(folder.path(), LedgerSettings { aws_door: true, ..settings("pod-1") }).unwrap();
    let mut now = START;
    // A broken or hostile client makes a call that AWS refuses in every hour, also over the end of the hour.
    for _ in 0..10 {
        let Claimed::Granted(id) = ledger.claim(&claim(7, now), None, now).unwrap() else {
            panic!("not granted")
        };
        ledger.take(&[event(None, 5, now)], now).unwrap();
        let closed = now.plus(HOUR + SETTLE);
        assert_eq!(ledger.seal_closed(closed).unwrap().made, 0, "whether the hour is free is not known yet");
        ledger.settle_claim(id, Settled::Refused, None, None, closed).unwrap();
        assert_eq!(ledger.seal_closed(closed).unwrap().made, 1);
        now = now.plus(HOUR);
    }
    let records = ledger.records(20).unwrap();
    let hours: Vec<_> =
        records.iter().map(|record| (record.hour, record.quantity.micros(), record.late_from)).collect();
    let own: Vec<_> = (0..10).map(|hour| (Hour::of(START.plus(hour * HOUR)), 5, None)).collect();
    assert_eq!(hours, own, "each hour has its own usage");
}

#[test]
fn a_claim_that_may_be_billed_moves_open_usage_once_and_loses_none() {
    for settled in [Settled::Accepted, Settled::Unknown, Settled::Unsent] {
        let folder = folder();
        let mut ledger =
            Ledger::open(folder.path(), LedgerSettings { aws_door: true, ..settings("pod-1") }).unwrap();
        ledger.take(&[event(None, 5, START)], START).unwrap();
        let Claimed::Granted(id) = ledger.claim(&claim(7, START), None, START).unwrap() else {
            panic!("not granted")
        };
        ledger.take(&[event(None, 6, START)], START).unwrap();
        ledger.settle_claim(id, settled, None, None, START).unwrap();
        ledger.take(&[event(None, 8, START)], START).unwrap();
        ledger.seal_closed(START.plus(2 * HOUR + SETTLE)).unwrap();
        let records = ledger.records(10).unwrap();
        let shown: Vec<_> = records.iter().map(|record| (record.hour, record.quantity.micros())).collect();
        assert_eq!(shown, [(Hour::of(START), 7), (Hour::of(START).next(), 19)], "{settled:?}");
        assert_eq!(ledger.totals().unwrap()["requests"].accepted, 26);
    }
}

/// A ledger that reports 0 for hours without usage, with a claim of its first hour under way.
fn claimed_ledger(folder: &tempfile::TempDir) -> (Ledger, i64) {
    let zero_dimensions = vec!["requests".to_owned()];
    let settings = LedgerSettings { aws_door: true, zero_dimensions, ..settings("pod-1") };
    let mut ledger = Ledger::open(folder.path(), settings).unwrap();
    let Claimed::Granted(id) = ledger.claim(&claim(7, START), None, START).unwrap() else {
        panic!("not granted")
    };
    (ledger, id)
}

#[test]
fn a_claim_under_way_is_no_hour_without_usage_and_stops_no_sealing() {
    let folder = folder();
    let (mut ledger, id) = claimed_ledger(&folder);
    let closed = START.plus(HOUR + SETTLE);
    assert_eq!(ledger.seal_closed(closed).unwrap().made, 0);
    ledger.settle_claim(id, Settled::Refused, None, None, closed).unwrap();
    assert_eq!(ledger.seal_closed(closed.plus(HOUR)).unwrap().made, 2, "both hours had no usage");
}

/// The report of 0 does not wait until the next hour closes: by then this process may have ended.
#[test]
fn an_hour_without_usage_is_reported_as_soon_as_a_claim_of_it_is_refused() {
    let folder = folder();
    let (mut ledger, id) = claimed_ledger(&folder);
    let closed = START.plus(HOUR + SETTLE);
    assert_eq!(ledger.seal_closed(closed).unwrap().made, 0, "it is under way");
    ledger.settle_claim(id, Settled::Refused, None, None, closed).unwrap();
    assert_eq!(ledger.seal_closed(closed.plus(Duration::from_secs(1))).unwrap().made, 1);
    let record = ledger.unsent(1).unwrap().remove(0);
    assert_eq!((record.hour, record.quantity.micros()), (Hour::of(START), 0));
}

/// Reports of nothing or little that AWS accepts in every hour do not keep usage from being billed.
#[test]
fn accepted_reports_through_the_door_move_usage_on_once_and_reports_of_0_never() {
    for micros in [0, 1] {
        let folder = folder();
        let mut ledger =
            Ledger::open(folder.path(), LedgerSettings { aws_door: true, ..settings("pod-1") }).unwrap();
        for hour in 0..8 {
            let now = START.plus(hour * HOUR + 10 * MINUTE);
            let before = now.minus(9 * MINUTE);
            let report = |ledger: &mut Ledger, at| match ledger.claim(&claim(micros, at), None, at).unwrap() {
                Claimed::Granted(id) => ledger.settle_claim(id, Settled::Accepted, None, None, at).unwrap(),
                Claimed::Taken | Claimed::Repeated { .. } => {}
            };
            // Some reports come before there is usage in the hour, others after.
            if hour % 3 == 0 {
                report(&mut ledger, before);
            }
            ledger.take(&[event(None, 1000, now)], now).unwrap();
            report(&mut ledger, now);
            ledger.seal_closed(START.plus((hour + 1) * HOUR + SETTLE)).unwrap();
        }
        let sealed: Vec<Record> = ledger
            .records(100)
            .unwrap()
            .into_iter()
            .filter(|record| record.state == RecordState::FRESH)
            .collect();
        let billed: u64 = sealed.iter().map(|record| record.quantity.micros()).sum();
        assert!(billed >= 6000, "{micros}: {billed} of 8000 left; the rest waits for the next hour");
        let late = |record: &Record| record.late_from.map_or(0, |from| record.hour.number() - from.number());
        assert!(sealed.iter().all(|record| late(record) <= 2), "{micros}: {sealed:?}");
    }
}

#[test]
fn a_repeat_through_the_door_that_aws_refuses_puts_nothing_in_doubt() {
    let mut bench = Bench::new();
    bench.take(event(None, 7, START), START);
    let now = START.plus(HOUR + SETTLE);
    bench.ledger().seal_closed(now).unwrap();
    let id = bench.ledger().unsent(1).unwrap()[0].id;
    let mut report = claim(7, START);
    report.usage.allocations = Vec::new();
    for settled in [Settled::Refused, Settled::Unsent] {
        let Claimed::Repeated { id: repeated, .. } = bench.ledger().claim(&report, None, now).unwrap() else {
            panic!("it is the same report")
        };
        assert_eq!(repeated, id);
        assert!(
            bench.ledger().record(id).unwrap().unwrap().record.state.in_doubt(),
            "while the call is under way"
        );
        bench.ledger().settle_claim(id, settled, None, None, now).unwrap();
        assert!(!bench.ledger().record(id).unwrap().unwrap().record.state.in_doubt(), "{settled:?}");
    }
    bench.ledger().claim(&report, None, now).unwrap();
    bench.restart("pod-1");
    assert!(
        bench.ledger().record(id).unwrap().unwrap().record.state.in_doubt(),
        "the process ended during the call"
    );
}

#[test]
fn a_report_through_the_door_stays_in_the_region_of_its_first_call() {
    let mut bench = Bench::new();
    let regions = ["us-east-1", "eu-central-1"].map(|name| name.parse::<Region>().unwrap());
    let Claimed::Granted(id) = bench.ledger().claim(&claim(7, START), Some(&regions[0]), START).unwrap()
    else {
        panic!("not granted")
    };
    bench.ledger().settle_claim(id, Settled::Unknown, None, Some(&regions[1]), START).unwrap();
    let Claimed::Repeated { region, .. } =
        bench.ledger().claim(&claim(7, START), Some(&regions[1]), START).unwrap()
    else {
        panic!("it is the same report")
    };
    assert_eq!(region.as_ref(), Some(&regions[0]), "another region would bill it again");
    assert_eq!(bench.ledger().record(id).unwrap().unwrap().record.region.as_ref(), Some(&regions[0]));
}
