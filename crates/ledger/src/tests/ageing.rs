//! The age of usage that AWS does not accept, and what ends it.

use super::*;
use crate::claim::Settled;
use crate::repair::{Note, Repair, Repaired};

/// Advances running time, but not the wall clock.
async fn run(bench: &mut Bench, time: Duration) {
    let mut left = time.as_secs();
    while left > 0 {
        let step = left.min(20);
        tokio::time::advance(Duration::from_secs(step)).await;
        bench.oldest();
        left -= step;
    }
}

impl Bench {
    fn oldest(&mut self) -> Oldest {
        self.ledger().oldest_unaccepted().unwrap().unwrap_or_default()
    }

    /// Seals the first hour's usage and answers its record after one attempt.
    fn answered(&mut self, answered: &Answered) -> i64 {
        let now = START.plus(HOUR + SETTLE);
        self.take(event(None, 5_000_000, START), START);
        self.ledger().seal_closed(now).unwrap();
        let id = self.ledger().unsent(10).unwrap().last().unwrap().id;
        self.ledger().attempt(&[id], None, now).unwrap();
        self.ledger().answered(id, answered, now).unwrap();
        id
    }

    fn transactions(&mut self) -> Option<String> {
        meta(&self.ledger().connection, "sequence").unwrap()
    }
}

fn refused(code: &str) -> Answered {
    Answered::Refused(code.to_owned())
}

#[tokio::test(start_paused = true)]
async fn usage_that_waits_grows_old_by_running_time_whatever_the_clock_says() {
    let mut bench = Bench::new();
    assert_eq!(bench.oldest(), Oldest::default());
    bench.take(event(None, 5, START), START.plus(50 * MINUTE));
    // Its hour has ten minutes left and never closes, because the clock stands still.
    run(&mut bench, 10 * MINUTE).await;
    assert!(bench.oldest().running <= MINUTE, "{:?}", bench.oldest());
    run(&mut bench, 3 * HOUR).await;
    let oldest = bench.oldest();
    assert!((3 * HOUR..=3 * HOUR + MINUTE).contains(&oldest.running), "{oldest:?}");
    assert_eq!(oldest.hour, None, "AWS was not asked");
}

/// The caller pauses while nothing waits, until the ledger is written: usage that one call misses would be missed for
/// ever.
#[tokio::test(start_paused = true)]
async fn usage_that_comes_soon_after_a_look_is_seen_by_the_next_one() {
    let mut bench = Bench::new();
    assert_eq!(bench.ledger().oldest_unaccepted().unwrap(), None);
    tokio::time::advance(Duration::from_secs(20)).await;
    bench.take(event(None, 5, START), START);
    tokio::time::advance(Duration::from_secs(10)).await;
    assert!(bench.ledger().oldest_unaccepted().unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_new_process_goes_on_counting_and_a_minute_counts_when_it_begins() {
    let mut bench = Bench::new();
    bench.answered(&refused("ThrottlingException"));
    for _ in 0..130 {
        bench.restart("pod-1");
        bench.oldest();
        tokio::time::advance(Duration::from_secs(59)).await;
    }
    let oldest = bench.oldest();
    assert!(oldest.running >= HOUR, "killed every 59 seconds: {oldest:?}");
    bench.restart("pod-2");
    assert!(bench.oldest().running >= oldest.running, "another pod on the volume");
}

#[tokio::test(start_paused = true)]
async fn a_ledger_without_such_usage_is_not_written_and_one_with_it_once_a_minute() {
    let mut bench = Bench::new();
    let accepted = bench.answered(&Answered::Accepted(None));
    assert!(accepted > 0);
    let before = bench.transactions();
    run(&mut bench, HOUR).await;
    assert_eq!(bench.transactions(), before, "nothing waits");
    bench.take(event(None, 5, START.plus(2 * HOUR)), START.plus(2 * HOUR));
    let before: i64 = bench.transactions().unwrap().parse().unwrap();
    run(&mut bench, HOUR).await;
    let written = bench.transactions().unwrap().parse::<i64>().unwrap() - before;
    assert!((55..=61).contains(&written), "{written}");
}

#[tokio::test(start_paused = true)]
async fn the_hour_counts_by_the_clock_once_aws_did_not_accept_its_record() {
    for (answer, late) in [
        (Answered::Accepted(None), false),
        (refused("ThrottlingException"), true),
        (refused("AccessDeniedException"), true),
        (Answered::Unknown("Timeout".to_owned()), true),
        (Answered::Dead("DuplicateRequestException".to_owned()), true),
        (Answered::Dead("InvalidUsageDimensionException".to_owned()), true),
        (Answered::Carry("TimestampOutOfBoundsException".to_owned()), true),
        (refused("CustomerNotEntitledException"), false),
        (Answered::Dead("CustomerNotEntitledException".to_owned()), false),
        (Answered::Carry("CustomerNotEntitledException".to_owned()), false),
    ] {
        let mut bench = Bench::new();
        bench.answered(&answer);
        assert_eq!(bench.oldest().hour, late.then_some(Hour::of(START)), "{answer:?}");
        let ages = matches!(answer, Answered::Carry(_)) || late;
        run(&mut bench, 3 * HOUR).await;
        assert_eq!(bench.oldest().running > HOUR, ages, "{answer:?} {:?}", bench.oldest());
    }
}

#[tokio::test(start_paused = true)]
async fn age_follows_usage_that_is_carried_or_replayed_until_aws_accepts_it() {
    let now = START.plus(2 * HOUR);
    for dead in [false, true] {
        let mut bench = Bench::new();
        let id = if dead {
            let id = bench.answered(&Answered::Dead("DuplicateRequestException".to_owned()));
            let replay = Repair::Replay { accept_double_billing: true, to_dimension: None, note: None };
            assert_eq!(bench.ledger().repair(id, &replay, now).unwrap(), Repaired::Done);
            id
        } else {
            bench.answered(&Answered::Carry("TimestampOutOfBoundsException".to_owned()))
        };
        assert_eq!(bench.oldest().hour, Some(Hour::of(START)), "in the open hour");
        run(&mut bench, 2 * HOUR).await;
        let waited = bench.oldest().running;
        bench.ledger().seal_closed(now.plus(HOUR + SETTLE)).unwrap();
        let later = bench.ledger().unsent(10).unwrap().pop().unwrap();
        assert_ne!(later.id, id);
        assert_eq!(bench.oldest(), Oldest { hour: Some(Hour::of(START)), running: waited }, "sealed again");
        bench.restart("pod-2");
        bench.ledger().seal_closed(now.plus(HOUR + SETTLE)).unwrap();
        assert_eq!(bench.oldest().hour, Some(Hour::of(START)));
        bench.ledger().answered(later.id, &Answered::Accepted(None), now).unwrap();
        assert_eq!(bench.oldest(), Oldest::default(), "AWS has accepted it");
    }
}

#[tokio::test(start_paused = true)]
async fn what_people_do_to_a_record_does_not_end_its_age() {
    let note = || Note::new("it is in the report").unwrap();
    for repair in [Repair::Confirm(note()), Repair::Discard(note())] {
        let mut bench = Bench::new();
        let id = bench.answered(&Answered::Dead("in_doubt".to_owned()));
        assert_eq!(bench.ledger().repair(id, &repair, START).unwrap(), Repaired::Done);
        assert_eq!(bench.oldest().hour, Some(Hour::of(START)), "{repair:?}");
        // Time does not end it either: a record that AWS has not accepted is not forgotten.
        for day in 1..=40 {
            bench.ledger().seal_closed(START.plus(24 * HOUR * day)).unwrap();
        }
        assert_eq!(bench.oldest().hour, Some(Hour::of(START)), "{repair:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_the_process_did_not_survive_is_one_without_an_answer() {
    let mut bench = Bench::new();
    bench.take(event(None, 5, START), START);
    bench.ledger().seal_closed(START.plus(HOUR + SETTLE)).unwrap();
    let id = bench.ledger().unsent(1).unwrap()[0].id;
    bench.ledger().attempt(&[id], None, START).unwrap();
    assert_eq!(bench.oldest().hour, None);
    bench.restart("pod-1");
    assert_eq!(bench.oldest().hour, Some(Hour::of(START)));
}

#[tokio::test(start_paused = true)]
async fn zero_and_what_the_maximum_left_over_and_a_sellers_customers_do_not_count() {
    let folder = folder();
    let zero = Settings { zero_dimensions: vec!["gigabytes".into()], ..settings("pod-1") };
    let mut bench = Bench { ledger: Some(Ledger::open(folder.path(), zero).unwrap()), ..Bench::new() };
    bench.ledger().seal_closed(START.plus(HOUR + SETTLE)).unwrap();
    let id = bench.ledger().unsent(1).unwrap()[0].id;
    bench.ledger().attempt(&[id], None, START).unwrap();
    bench.ledger().answered(id, &refused("ThrottlingException"), START).unwrap();
    run(&mut bench, 3 * HOUR).await;
    assert_eq!(bench.oldest(), Oldest::default(), "a report of zero");

    let mut bench = Bench::new();
    let most = Quantity::MAX.micros();
    bench.ledger().take(&[event(None, most, START), event(None, 1, START)], START).unwrap();
    run(&mut bench, 2 * HOUR).await;
    bench.ledger().seal_closed(START.plus(HOUR + SETTLE)).unwrap();
    assert!(bench.oldest().running >= HOUR);
    let id = bench.ledger().unsent(1).unwrap()[0].id;
    bench.ledger().answered(id, &Answered::Accepted(None), START).unwrap();
    assert_eq!(bench.oldest(), Oldest::default(), "what the maximum left over is usage of the next hour");

    let mut bench = Bench::new();
    let customer = Customer::Account { account_id: "111122223333".into(), license_arn: None };
    bench.take(Event { customer, ..event(None, 1, START) }, START);
    run(&mut bench, 3 * HOUR).await;
    bench.ledger().seal_closed(START.plus(HOUR + SETTLE)).unwrap();
    let id = bench.ledger().unsent(1).unwrap()[0].id;
    bench.ledger().attempt(&[id], None, START).unwrap();
    bench.ledger().answered(id, &refused("CustomerNotSubscribed"), START).unwrap();
    assert_eq!(bench.oldest(), Oldest::default(), "mode saas");
}

#[tokio::test(start_paused = true)]
async fn a_report_of_the_application_itself_ends_with_awss_answer() {
    let folder = folder();
    let door = Settings { aws_door: true, ..settings("pod-1") };
    let mut bench = Bench { ledger: Some(Ledger::open(folder.path(), door).unwrap()), ..Bench::new() };
    let claim = Claim {
        dimension: "requests".into(),
        usage: HourUsage {
            quantity: Quantity::from_micros(7).unwrap(),
            decimal: true,
            ..HourUsage::zero(START)
        },
        client_token: "token".into(),
    };
    let Claimed::Granted(id) = bench.ledger().claim(&claim, None, START).unwrap() else {
        panic!("not granted")
    };
    bench.ledger().settle_claim(id, Settled::Unknown, None, None, START).unwrap();
    run(&mut bench, 3 * HOUR).await;
    assert!(bench.oldest().running > HOUR, "{:?}", bench.oldest());
    bench.ledger().settle_claim(id, Settled::Accepted, Some("id"), None, START).unwrap();
    assert_eq!(bench.oldest(), Oldest::default());
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_takes_no_writes_stops_no_time() {
    let mut bench = Bench::new();
    bench.answered(&refused("ThrottlingException"));
    bench.oldest();
    bench.ledger().connection.pragma_update(None, "query_only", true).unwrap();
    run(&mut bench, 3 * HOUR).await;
    assert!(bench.oldest().running >= 2 * HOUR, "{:?}", bench.oldest());
    bench.ledger().connection.pragma_update(None, "query_only", false).unwrap();
    run(&mut bench, MINUTE).await;
    let before = bench.oldest().running;
    bench.restart("pod-1");
    assert!(bench.oldest().running >= before, "and it is counted once the disk takes writes again");
}

#[tokio::test(start_paused = true)]
async fn a_denial_begins_no_age_and_ends_none_that_another_answer_began() {
    for (first, ages) in [(None, false), (Some("InternalServiceErrorException"), true)] {
        let mut bench = Bench::new();
        let id = match first {
            Some(code) => bench.answered(&Answered::Refused(code.to_owned())),
            None => bench.answered(&Answered::Refused("CustomerNotEntitledException".to_owned())),
        };
        let denied = Answered::Refused("CustomerNotEntitledException".to_owned());
        bench.ledger().answered(id, &denied, START.plus(HOUR)).unwrap();
        assert_eq!(bench.oldest().hour.is_some(), ages, "{first:?}");
        bench.ledger().answered(id, &Answered::Accepted(None), START.plus(HOUR)).unwrap();
        assert_eq!(bench.oldest().hour, None);
    }
}

/// Calls with credentials of an account that never subscribed are denied, correctly.
#[tokio::test(start_paused = true)]
async fn a_denial_ends_no_age_that_began_before_aws_was_asked() {
    for (waits, ends) in [(HOUR / 2, true), (3 * HOUR, false)] {
        let mut bench = Bench::new();
        bench.take(event(None, 5_000_000, START), START.plus(HOUR - MINUTE));
        // The clock is held back: the hour does not close.
        run(&mut bench, waits).await;
        let now = START.plus(HOUR + SETTLE);
        bench.ledger().seal_closed(now).unwrap();
        let id = bench.ledger().unsent(1).unwrap()[0].id;
        bench.ledger().attempt(&[id], None, now).unwrap();
        bench.ledger().answered(id, &refused("CustomerNotEntitledException"), now).unwrap();
        run(&mut bench, MINUTE).await;
        assert_eq!(bench.oldest().running < HOUR / 4, ends, "{waits:?}: {:?}", bench.oldest());
        bench.ledger().answered(id, &Answered::Accepted(None), now).unwrap();
        assert_eq!(bench.oldest(), Oldest::default());
    }
}

#[tokio::test(start_paused = true)]
async fn time_in_which_nothing_waited_and_nobody_looked_ages_nothing() {
    let mut bench = Bench::new();
    assert_eq!(bench.ledger().oldest_unaccepted().unwrap(), None);
    tokio::time::advance(5 * HOUR).await;
    bench.take(event(None, 5, START), START.plus(50 * MINUTE));
    tokio::time::advance(MINUTE / 2).await;
    assert_eq!(bench.ledger().oldest_unaccepted().unwrap(), Some(Oldest::default()), "its hour is open");
    run(&mut bench, 9 * MINUTE).await;
    assert!(bench.oldest().running <= MINUTE, "{:?}", bench.oldest());
    run(&mut bench, 3 * HOUR).await;
    let oldest = bench.oldest();
    assert!((3 * HOUR - MINUTE..=3 * HOUR + MINUTE).contains(&oldest.running), "{oldest:?}");
}
