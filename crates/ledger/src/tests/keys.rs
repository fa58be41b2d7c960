//! Idempotency keys: remembered for a window, forgotten after it in steps, and small.

use super::*;

const WINDOW: Duration = Duration::from_secs(48 * 3600);

/// Advances both clocks by an hour.
async fn hour(bench: &mut Bench, hour: u32) -> Timestamp {
    tokio::time::advance(HOUR).await;
    let now = START.plus(hour * HOUR + MINUTE);
    for _ in 0..4 {
        bench.ledger().seal_closed(now).unwrap();
    }
    now
}

/// A key is known for a window and gone after two, wherever the ring is.
#[tokio::test(start_paused = true)]
async fn every_key_is_known_for_a_window_and_none_for_more_than_two() {
    let mut bench = Bench::new();
    for now_hour in 0..240_u32 {
        let now = hour(&mut bench, now_hour).await;
        assert_eq!(bench.take(event(Some(&format!("key-{now_hour}")), 1, now), now), Taken::Accepted);
        let known = |bench: &mut Bench, age: u32| {
            let Some(of) = now_hour.checked_sub(age) else { return true };
            let same = event(Some(&format!("key-{of}")), 1, now);
            let keys = |transaction: &Transaction<'_>, settings: &LedgerSettings| {
                let keys = super::super::keys::Keys::open(transaction, settings)?;
                keys.same(same.id.as_deref().unwrap(), &same)
            };
            bench.ledger().write("seal", keys).unwrap().is_some()
        };
        for age in [1, 24, 47] {
            assert!(known(&mut bench, age), "hour {now_hour}: a key of {age} h ago");
        }
        if now_hour > 97 {
            assert!(!known(&mut bench, 97), "hour {now_hour}");
        }
    }
    let keys = bench.ledger().contents().unwrap().keys;
    assert!((48..=96).contains(&keys), "{keys}");
}

#[tokio::test(start_paused = true)]
async fn a_shorter_window_forgets_sooner() {
    let folder = folder();
    let short = LedgerSettings { idempotency_window: 2 * HOUR, ..settings("pod-1") };
    let mut ledger = Ledger::open(folder.path(), short).unwrap();
    ledger.take(&[event(Some("a"), 1, START)], START).unwrap();
    let now = START.plus(HOUR);
    tokio::time::advance(HOUR).await;
    ledger.seal_closed(now).unwrap();
    assert_eq!(ledger.take(&[event(Some("a"), 1, now)], now).unwrap(), [Taken::Duplicate]);
    for minutes in (60..300).step_by(30) {
        tokio::time::advance(30 * MINUTE).await;
        ledger.seal_closed(START.plus(minutes * MINUTE)).unwrap();
    }
    assert_eq!(ledger.contents().unwrap().keys, 0);
}

/// The clock shows next year for a moment, twice, and usage arrives meanwhile: no key stays for a year, and none is
/// forgotten.
#[tokio::test(start_paused = true)]
async fn a_clock_that_was_ahead_neither_keeps_keys_nor_forgets_them() {
    let mut bench = Bench::new();
    let ahead = START.plus(366 * 24 * HOUR);
    bench.take(event(Some("before"), 1, START), START);
    bench.take(event(Some("during-1"), 1, ahead), ahead);
    bench.take(event(Some("during-2"), 1, ahead.plus(30 * HOUR)), ahead.plus(30 * HOUR));
    let now = START.plus(MINUTE);
    bench.take(event(Some("after"), 1, now), now);
    for of in ["before", "during-1", "during-2", "after"] {
        assert_eq!(bench.take(event(Some(of), 1, now), now), Taken::Duplicate, "{of}");
    }
    for now_hour in 1..200 {
        let now = hour(&mut bench, now_hour).await;
        if now_hour % 6 == 0 {
            bench.take(event(Some(&format!("key-{now_hour}")), 1, now), now);
        }
    }
    let keys = bench.ledger().contents().unwrap().keys;
    assert!(keys <= 17, "{keys} keys: a table was kept for a year");
}

/// The clock is days behind or ahead for hours, and then right: from then on an hour of the ring's time is never
/// shorter than a real hour.
#[tokio::test(start_paused = true)]
async fn a_clock_that_was_wrong_for_long_makes_no_key_old() {
    for behind in [true, false] {
        let off = 41 * HOUR;
        let shown = |now: Timestamp| if behind { now.minus(off) } else { now.plus(off) };
        let mut bench = Bench::new();
        for wrong_hour in 0..16 {
            tokio::time::advance(HOUR).await;
            bench.ledger().seal_closed(shown(START.plus(wrong_hour * HOUR + MINUTE))).unwrap();
        }
        let now = shown(START.plus(16 * HOUR));
        assert_eq!(bench.take(event(Some("a"), 1, now), now), Taken::Accepted, "{behind}");
        for right_hour in 16..(16 + 47) {
            let now = hour(&mut bench, right_hour).await;
            assert_eq!(bench.take(event(Some("a"), 1, now), now), Taken::Duplicate, "{behind} {right_hour}");
        }
    }
}

/// A job of some minutes a day does not remember the keys of a month.
#[tokio::test(start_paused = true)]
async fn hours_in_which_no_process_ran_pass_six_at_a_time() {
    let mut bench = Bench::new();
    for day in 0..40 {
        let now = hour(&mut bench, 24 * day).await;
        assert_eq!(bench.take(event(Some(&format!("key-{day}")), 1, now), now), Taken::Accepted);
        bench.restart("pod-1");
    }
    let keys = bench.ledger().contents().unwrap().keys;
    assert!((8..=16).contains(&keys), "{keys}");
}

#[tokio::test(start_paused = true)]
async fn many_keys_go_in_steps_and_the_wal_stays_small() {
    const KEYS: usize = 60_000;
    let mut bench = Bench::new();
    for group in 0..KEYS / 1000 {
        let events: Vec<Event> =
            (0..1000).map(|index| event(Some(&format!("{group}-{index}")), 1, START)).collect();
        bench.ledger().take(&events, START).unwrap();
    }
    for now_hour in 0..48 {
        tokio::time::advance(HOUR).await;
        bench.ledger().seal_closed(START.plus(now_hour * HOUR + MINUTE)).unwrap();
    }
    let mut later = START.plus(WINDOW);
    let mut steps = 0;
    let mut held = bench.ledger().contents().unwrap().keys;
    assert_eq!(held, u64::try_from(KEYS).unwrap());
    while held > 0 {
        later = later.plus(HOUR);
        tokio::time::advance(HOUR).await;
        bench.ledger().seal_closed(later).unwrap();
        let left = bench.ledger().contents().unwrap().keys;
        assert!(held - left <= 8500, "a step is small: {}", held - left);
        steps += usize::from(left < held);
        held = left;
        assert!(bench.ledger().wal_bytes() <= 10 << 20);
    }
    assert!(steps >= 7, "{steps}");
    assert_eq!(bench.take(event(Some("1-1"), 1, later), later), Taken::Accepted);
}

#[test]
fn a_key_takes_no_more_than_forty_bytes() {
    let mut bench = Bench::new();
    let before = bench.ledger().bytes().unwrap() - bench.ledger().wal_bytes();
    for group in 0..60_u64 {
        let id = |index: u64| format!("{:032x}", (group * 1000 + index).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let events: Vec<Event> = (0..1000).map(|index| event(Some(&id(index)), 1, START)).collect();
        bench.ledger().take(&events, START).unwrap();
    }
    let after = bench.ledger().bytes().unwrap() - bench.ledger().wal_bytes();
    assert!((after - before) / 60_000 <= 40, "{} bytes a key", (after - before) / 60_000);
}

/// How many hours the clock is wrong, and for how many minutes.
fn flap() -> impl Strategy<Value = (i64, u32)> {
    let off = prop_oneof![Just(0), -5..=5_i64, Just(-30), Just(30), Just(8784)];
    (off, 1..40_u32)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The clock goes ahead and back every few minutes. No key is forgotten before its window has really passed, also
    /// with restarts: an event would be counted twice.
    #[test]
    fn a_clock_that_goes_ahead_and_back_makes_no_key_old(
        flaps in prop::collection::vec(flap(), 60..240),
        restart_at in prop::option::of(0..240_usize),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut bench = Bench::new();
            let mut truth = START;
            // A restart may shorten the window by at most this much.
            let known_for = WINDOW.saturating_sub(if restart_at.is_some() { 6 * HOUR } else { Duration::ZERO });
            let mut keys: Vec<(Timestamp, String)> = Vec::new();
            for (index, (off, minutes)) in flaps.into_iter().enumerate() {
                tokio::time::advance(minutes * MINUTE).await;
                truth = truth.plus(minutes * MINUTE);
                let shown = Timestamp::from_unix_millis(truth.unix_millis() + off * 3_600_000);
                for _ in 0..3 {
                    bench.ledger().seal_closed(shown).unwrap();
                }
                if restart_at == Some(index) {
                    bench.restart("pod-1");
                }
                for (at, key) in &keys {
                    let again = bench.take(event(Some(key), 1, shown), shown);
                    prop_assert!(again == Taken::Duplicate || truth.since(*at) > known_for, "{key} of {at} at {truth}");
                }
                if index % 8 == 0 {
                    let key = format!("key-{index}");
                    bench.take(event(Some(&key), 1, shown), shown);
                    keys.push((truth, key));
                }
            }
            Ok(())
        })?;
    }
}

/// A node that starts with a clock of long ago and is right a moment later, at every start.
#[test]
fn restarts_with_a_clock_that_goes_ahead_make_no_key_old() {
    let mut bench = Bench::new();
    bench.ledger().seal_closed(START).unwrap();
    assert_eq!(bench.take(event(Some("a"), 1, START), START), Taken::Accepted);
    for start in 1..30 {
        let now = START.plus(start * MINUTE);
        for shown in [now.minus(400 * 24 * HOUR), now] {
            bench.ledger().seal_closed(shown).unwrap();
        }
        assert_eq!(bench.take(event(Some("a"), 1, now), now), Taken::Duplicate, "start {start}");
        bench.restart("pod-1");
    }
}

/// An event of 0 costs nothing: its keys would fill the ledger for free.
#[test]
fn an_event_of_zero_keeps_no_key() {
    let mut bench = Bench::new();
    for key in 0..100 {
        assert_eq!(bench.take(event(Some(&format!("key-{key}")), 0, START), START), Taken::Accepted);
    }
    assert_eq!(bench.ledger().contents().unwrap().keys, 0);
    // A key whose event changed an amount is kept, whatever event repeats it.
    assert_eq!(bench.take(event(Some("key-1"), 7, START), START), Taken::Accepted);
    assert_eq!(bench.take(event(Some("key-1"), 7, START), START), Taken::Duplicate);
    assert_eq!(bench.ledger().contents().unwrap().keys, 1);
}
