//! The loop with paused time and a double of License Manager that counts seats.

use std::time::Duration;

use super::judge::Model;
use super::machine::tests::policy;
use super::*;
use crate::entitlement::{self, State, Watch};
use tollgate_marketplace::scripted::Act;
use tollgate_marketplace::scripted::seats::{ScriptedSeats, Seats, license};
use tollgate_time::Timestamp;

const START: Timestamp = Timestamp::from_unix_seconds(1_795_507_200);
const HOUR: Duration = Duration::from_secs(3600);
const GRACE: Duration = Duration::from_secs(5);

fn config(model: Model) -> Config {
    Config {
        policy: policy(model),
        allow_emulated: false,
        docs_url: Some("https://docs.example/".to_owned()),
    }
}

struct Running {
    watch: Watch,
    held: Held,
    drain: Drain,
    metrics: Arc<Metrics>,
    task: tokio::task::JoinHandle<Exit>,
}

fn service(seats: u64, clock: &WallClock) -> ScriptedSeats {
    ScriptedSeats::new(Seats::new(vec![license("arn", &[("users", seats)], &[])]), clock.clone(), |_| {
        Act::Accept
    })
}

fn start(service: &ScriptedSeats, config: Config, clock: &WallClock, store: Option<Store>) -> Running {
    let (publisher, watch) = entitlement::channel(clock.now());
    let (knowledge, held) = knowledge::channel();
    let (stop, drain) = Stop::within(GRACE);
    let metrics = Arc::new(Metrics::new());
    let surroundings = Surroundings {
        service: Arc::new(counted::Counted::new(Arc::new(service.clone()), Arc::clone(&metrics))),
        clock: clock.clone(),
        publisher,
        knowledge,
        store,
        metrics: Arc::clone(&metrics),
        stop,
    };
    let task = tokio::spawn(Licensing::new(config, "pod".to_owned(), surroundings).run());
    Running { watch, held, drain, metrics, task }
}

async fn until(watch: &mut Watch, state: State) {
    watch.wait_for(|fact| fact.standing.state() == state).await.unwrap();
}

fn folder() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path().to_owned());
    (folder, store)
}

#[tokio::test(start_paused = true)]
async fn a_seat_opens_the_gate_is_published_and_is_given_back_at_the_end() {
    let clock = WallClock::fixed(START);
    let (service, (_folder, store)) = (service(1, &clock), folder());
    let mut running = start(&service, config(Model::Floating), &clock, Some(store.clone()));
    until(&mut running.watch, State::Entitled).await;
    // The fact is published after the write, so a reader of the fact may rely on the file.
    assert!(store.load().seat.is_some());
    let fact = Arc::clone(&running.watch.borrow());
    assert_eq!(fact.standing.proof().unwrap().name(), "license");
    assert_eq!(fact.region.as_ref().unwrap().as_str(), "us-east-1");
    running.held.wait_for(|known| !known.usage.is_empty()).await.unwrap();
    let known = Arc::clone(&running.held.borrow());
    assert_eq!((known.held[0].quantity, known.usage[0].consumed, known.emulated), (1, 1, false));
    running.drain.run().await;
    assert_eq!(running.drain.what_remains(), None);
    assert!(store.load().seat.is_none() && service.seats().out(START).is_empty());
    let text = running.metrics.encode(&running.watch.borrow(), crate::metrics::Format::Text);
    assert!(
        text.contains("tollgate_license_calls_total{operation=\"CheckInLicense\",code=\"\"} 1"),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_given_back_in_time_is_told_with_its_end() {
    let clock = WallClock::fixed(START);
    let (service, (_folder, store)) = (service(1, &clock), folder());
    let mut running = start(&service, config(Model::Floating), &clock, Some(store));
    until(&mut running.watch, State::Entitled).await;
    service.turns_to(Act::Fail(FaultClass::Transient, "ServerInternalException"));
    let began = clock::monotonic();
    running.drain.run().await;
    assert!(clock::monotonic().duration_since(began) < GRACE);
    let remains = running.drain.what_remains().unwrap();
    assert!(remains.contains("(users=1 until 2026-11-24T09:00:00Z)"), "{remains}");
}

/// The stop does not wait for a call that hangs and cannot change which seats are held.
#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_a_listing() {
    let clock = WallClock::fixed(START);
    let service = service(1, &clock);
    service.turns_to(Act::Hang);
    let running = start(&service, config(Model::Floating), &clock, None);
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(service.calls(), ["ListReceivedLicenses"]);
    let began = clock::monotonic();
    running.drain.run().await;
    assert!(clock::monotonic().duration_since(began) < Duration::from_millis(10));
}

/// Only the answer says what was taken.
#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_a_checkout_and_gives_it_back() {
    let clock = WallClock::fixed(START);
    let seats = Seats::new(vec![license("arn", &[("users", 1)], &[])]);
    let mut lost = 2;
    let service = ScriptedSeats::new(seats, clock.clone(), move |operation| {
        lost -= i32::from(operation == "CheckoutLicense");
        if operation == "CheckoutLicense" && lost == 1 { Act::Lose } else { Act::Accept }
    });
    let running = start(&service, config(Model::Floating), &clock, None);
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(service.seats().out(START).len(), 1);
    running.drain.run().await;
    assert!(service.seats().out(START).is_empty() && running.drain.what_remains().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_has_not_begun_is_not_waited_for() {
    let (_stop, drain) = Stop::within(GRACE);
    let began = clock::monotonic();
    drain.run().await;
    assert_eq!((clock::monotonic(), drain.what_remains()), (began, None));
}

#[tokio::test(start_paused = true)]
async fn exhaustion_is_a_refusal_and_the_next_free_seat_is_taken() {
    let clock = WallClock::fixed(START);
    let service = service(1, &clock);
    let mut first = start(&service, config(Model::Floating), &clock, None);
    until(&mut first.watch, State::Entitled).await;
    let mut second = start(&service, config(Model::Floating), &clock, None);
    until(&mut second.watch, State::Exhausted).await;
    let fact = Arc::clone(&second.watch.borrow());
    let reason = fact.standing.reason().unwrap();
    assert_eq!(reason.docs, "https://docs.example/SeatsExhausted");
    assert!(fact.standing.state().is_refusal() && fact.standing.exit() == Exit::NotEntitled);
    first.drain.run().await;
    let began = clock::monotonic();
    until(&mut second.watch, State::Entitled).await;
    assert!(clock::monotonic().duration_since(began) <= Duration::from_secs(73));
}

#[tokio::test(start_paused = true)]
async fn a_killed_loop_is_followed_by_one_that_holds_the_same_seat() {
    let clock = WallClock::fixed(START);
    let (service, (_folder, store)) = (service(1, &clock), folder());
    for _ in 0..3 {
        let mut running = start(&service, config(Model::Floating), &clock, Some(store.clone()));
        until(&mut running.watch, State::Entitled).await;
        running.task.abort();
        let _ = running.task.await;
    }
    assert_eq!(service.seats().out(START).len(), 1);
    assert_eq!(service.calls().iter().filter(|call| **call == "CheckoutLicense").count(), 1);
}

#[tokio::test(start_paused = true)]
async fn grace_ends_by_the_wall_clock_even_when_it_jumps() {
    let clock = WallClock::fixed(START);
    let (service, (_folder, store)) = (service(1, &clock), folder());
    let mut running = start(&service, config(Model::Check), &clock, Some(store));
    until(&mut running.watch, State::Entitled).await;
    service.turns_to(Act::Fail(FaultClass::Transient, "Dns"));
    until(&mut running.watch, State::Grace).await;
    clock.advance(25 * HOUR);
    running.watch.wait_for(|fact| !fact.standing.gate_open()).await.unwrap();
}

/// A restart would begin such grace anew, and a command of `exec` would start at once.
#[tokio::test(start_paused = true)]
async fn grace_that_cannot_be_written_opens_for_no_moment() {
    let clock = WallClock::fixed(START);
    let (service, (folder, store)) = (service(1, &clock), folder());
    let mut running = start(&service, config(Model::Floating), &clock, Some(store.clone()));
    until(&mut running.watch, State::Entitled).await;
    running.task.abort();
    let _ = running.task.await;
    std::fs::create_dir(folder.path().join(".license.json.new")).unwrap();
    service.turns_to(Act::Fail(FaultClass::Transient, "Dns"));
    let mut running = start(&service, config(Model::Floating), &clock, Some(store));
    let seen = running.watch.wait_for(|fact| fact.standing.gate_open() || fact.attempts > 2).await.unwrap();
    assert!(!seen.standing.gate_open(), "{:?}", seen.standing);
}

/// Until a slow disk has answered, the seats that this pod already holds are unknown.
#[tokio::test(start_paused = true)]
async fn floating_waits_for_a_slow_disk_and_check_does_not() {
    for (model, waits) in [(Model::Floating, true), (Model::Check, false)] {
        let clock = WallClock::fixed(START);
        let (service, (_folder, store)) = (service(1, &clock), folder());
        let busy = store.hold().await;
        let mut running = start(&service, config(model), &clock, Some(store));
        running
            .watch
            .wait_for(|fact| fact.standing.gate_open() || fact.standing.reason().is_some())
            .await
            .unwrap();
        assert_eq!(service.calls().is_empty(), waits, "{model:?}");
        drop(busy);
        until(&mut running.watch, State::Entitled).await;
    }
}

/// A round waits for the disk at most twice, and giving back does not wait.
#[tokio::test(start_paused = true)]
async fn a_disk_that_hangs_holds_up_neither_renewals_nor_the_end() {
    let clock = WallClock::fixed(START);
    let (service, (_folder, store)) = (service(1, &clock), folder());
    let mut running = start(&service, config(Model::Floating), &clock, Some(store.clone()));
    until(&mut running.watch, State::Entitled).await;
    running.held.wait_for(|known| !known.usage.is_empty()).await.unwrap();
    let hung = store.hold().await;
    tokio::time::sleep(2 * HOUR).await;
    let renewals = service.calls().iter().filter(|call| **call == "ExtendLicenseConsumption").count();
    let text = running.metrics.encode(&running.watch.borrow(), crate::metrics::Format::Text);
    let failed = text.lines().find_map(|line| line.strip_prefix("tollgate_state_write_failures_total "));
    let failed: usize = failed.unwrap().parse().unwrap();
    assert_eq!(running.watch.borrow().standing.state(), State::Entitled);
    assert!(renewals >= 8 && failed <= 2 * renewals, "{renewals} {failed}");
    drop(hung);
    tokio::time::sleep(HOUR).await;
    let _hung = store.hold().await;
    running.drain.run().await;
    assert_eq!((running.drain.what_remains(), service.seats().out(START).len()), (None, 0));
}
