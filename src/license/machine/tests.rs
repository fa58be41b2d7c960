//! The machine against a small License Manager: tables, and a model test with kills, lost answers and restarts.

use proptest::prelude::*;

use super::*;
use crate::entitlement::State;
use tollgate_marketplace::KeyFingerprint;
use tollgate_marketplace::license::{LicenseStatus, Received};
use tollgate_marketplace::schedule::Draw;
use tollgate_marketplace::scripted::Act;
use tollgate_marketplace::scripted::seats::{PRODUCT_ID, Seats, fault, license};

const START: Timestamp = Timestamp::from_unix_seconds(1_795_507_200);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const LOST: Act = Act::Lose;
const DOWN: Act = Act::Fail(FaultClass::Transient, "ServerInternalException");
const FORBIDDEN: Act = Act::Fail(FaultClass::Access, "AccessDeniedException");

pub(in crate::license) fn policy(model: Model) -> Policy {
    Policy {
        terms: Terms {
            product_id: PRODUCT_ID.parse().unwrap(),
            key_fingerprint: KeyFingerprint::AWS_MARKETPLACE,
            model,
            wanted: Vec::new(),
            seats_per_pod: 1,
            end_grace: 72 * HOUR,
        },
        grace_period: 24 * HOUR,
        renew_every: 15 * MINUTE,
        unavailable_after: 30 * MINUTE,
        exit_when_refused: false,
        stays_once_open: false,
    }
}

/// License Manager and the time, shared by all pods.
struct World {
    seats: Seats,
    /// Since [`START`].
    time: Duration,
    /// How far the pods' clocks are ahead of AWS's.
    ahead: Duration,
    acts: Vec<(&'static str, Act)>,
    calls: Vec<&'static str>,
}

impl World {
    fn new(seats: u64) -> Self {
        Self::of(vec![license("arn", &[("users", seats)], &[])])
    }

    fn of(licenses: Vec<ReceivedLicense>) -> Self {
        let (time, ahead) = (Duration::ZERO, Duration::ZERO);
        Self { seats: Seats::new(licenses), time, ahead, acts: Vec::new(), calls: Vec::new() }
    }

    fn now(&self) -> Timestamp {
        START.plus(self.time)
    }

    fn out(&mut self) -> Vec<(String, String)> {
        let now = self.now();
        self.seats.out(now)
    }

    /// Lets the next call of this operation end like this.
    fn meets(&mut self, operation: &'static str, act: Act) -> &mut Self {
        self.acts.push((operation, act));
        self
    }

    fn count(&self, operation: &str) -> usize {
        self.calls.iter().filter(|called| **called == operation).count()
    }
}

const fn operation(call: &Call) -> &'static str {
    match call {
        Call::List => "List",
        Call::CheckOut { .. } => "CheckOut",
        Call::Extend(_) => "Extend",
        Call::CheckIn(_) => "CheckIn",
        Call::Look(_) => "Look",
    }
}

fn answer(world: &mut World, call: &Call) -> Answer {
    let operation = operation(call);
    let at = world.acts.iter().position(|(of, _)| *of == operation);
    let act = at.map_or(Act::Accept, |at| world.acts.remove(at).1);
    world.calls.push(operation);
    let now = world.now();
    let seats = &mut world.seats;
    fn by<T>(act: Act, process: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
        match act {
            Act::Fail(class, code) => Err(fault(class, code)),
            Act::Lose => {
                let _ = process();
                Err(fault(FaultClass::Transient, "Connection"))
            }
            _ => process(),
        }
    }
    match call {
        Call::List => {
            Answer::Listed(by(act, || Ok(seats.list(PRODUCT_ID, KeyFingerprint::AWS_MARKETPLACE.as_str()))))
        }
        Call::CheckOut { client_token, take } => {
            Answer::CheckedOut(by(act, || seats.check_out(client_token, take, now)))
        }
        Call::Extend(token) => Answer::Extended(by(act, || seats.extend(token, now))),
        Call::CheckIn(token) => Answer::CheckedIn(by(act, || seats.check_in(token, now))),
        Call::Look(arn) => Answer::Looked(by(act, || Ok(seats.usage(arn, now)))),
    }
}

/// One process of a pod, and its disk.
struct Pod {
    policy: Policy,
    name: String,
    disk: Record,
    writable: bool,
    machine: Machine,
    began: Duration,
    processes: u64,
    next: Next,
    /// When `next` wakes.
    wakes_at: Option<Duration>,
    lost: usize,
    notes: Vec<Note>,
}

impl Pod {
    fn start(world: &World, policy: Policy) -> Self {
        Self::start_on(world, policy, "pod", Record::default())
    }

    fn start_on(world: &World, policy: Policy, name: &str, disk: Record) -> Self {
        let record = disk.clone().adopted_by(name);
        let machine = Machine::new(policy.clone(), record, format!("{name}-0"), world.now());
        let mut pod = Self {
            policy,
            name: name.to_owned(),
            disk,
            writable: true,
            machine,
            began: world.time,
            processes: 0,
            next: Next::Stopped,
            wakes_at: None,
            lost: 0,
            notes: Vec::new(),
        };
        pod.tell(world, Event::Started);
        pod
    }

    /// Kills the process, and starts it again with the same disk.
    fn restart(&mut self, world: &World) {
        self.processes += 1;
        let record = self.disk.clone().adopted_by(&self.name);
        let seed = format!("{}-{}", self.name, self.processes);
        self.machine = Machine::new(self.policy.clone(), record, seed, world.now());
        self.began = world.time;
        self.tell(world, Event::Started);
    }

    fn at(&self, world: &World) -> Now {
        let wall = world.now().plus(world.ahead);
        Now { wall, running: world.time - self.began, draw: Draw::MIDDLE }
    }

    fn tell(&mut self, world: &World, event: Event) {
        if matches!(event, Event::Stopping) {
            while matches!(self.next, Next::Write(_)) {
                self.write(world);
            }
        }
        if matches!(event, Event::Answered(_)) {
            let behind = i64::try_from(world.ahead.as_secs()).unwrap();
            self.machine.hear_clock(self.at(world), -behind);
        }
        let (next, notes) = self.machine.step(self.at(world), event);
        self.lost += notes.iter().filter(|note| matches!(note, Note::AnswerLost(_))).count();
        self.notes.extend(notes);
        self.wakes_at = if let Next::WakeIn(pause) = &next { Some(world.time + *pause) } else { None };
        self.next = next;
    }

    fn write(&mut self, world: &World) {
        if let Next::Write(record) = std::mem::replace(&mut self.next, Next::Stopped) {
            if self.writable {
                self.disk = *record;
            }
            self.tell(world, Event::Written(self.writable));
        }
    }

    /// Performs the latest [`Next`], unless it is a sleep; returns whether it did.
    fn perform(&mut self, world: &mut World) -> bool {
        let event = match std::mem::replace(&mut self.next, Next::Stopped) {
            Next::Call(call, _) => Event::Answered(answer(world, &call)),
            write @ Next::Write(_) => {
                self.next = write;
                self.write(world);
                return true;
            }
            Next::WakeIn(_) if self.wakes_at.is_some_and(|at| at <= world.time) => Event::Woke,
            other => {
                self.next = other;
                return false;
            }
        };
        self.tell(world, event);
        true
    }

    /// Performs steps until the machine sleeps.
    fn settle(&mut self, world: &mut World) -> State {
        for _ in 0..100 {
            if !self.perform(world) {
                return self.state(world);
            }
        }
        panic!("it never sleeps: {:?}", self.machine);
    }

    /// Lets time pass, and performs what comes due in it.
    fn pass(&mut self, world: &mut World, time: Duration) -> State {
        let until = world.time + time;
        self.settle(world);
        while let Some(at) = self.wakes_at.filter(|at| *at <= until) {
            world.time = at.max(world.time);
            self.settle(world);
        }
        world.time = until;
        if let Some(record) = self.machine.remember(self.at(world)) {
            if self.writable {
                self.disk = record;
            }
            self.machine.remembered(self.writable);
        }
        self.state(world)
    }

    fn state(&mut self, world: &World) -> State {
        self.machine.entitlement(self.at(world)).standing.state()
    }

    fn code(&self, world: &World) -> String {
        let standing = self.machine.standing(self.at(world));
        standing.reason().map_or_else(String::new, |reason| reason.code.to_string())
    }

    fn pause(&self, world: &World) -> Duration {
        self.wakes_at.expect("it sleeps") - world.time
    }

    /// Whether its disk has this seat, by consumption token or client token.
    fn knows(&self, (token, client_token): &(String, String)) -> bool {
        let mut seats = self.disk.seat.iter().chain(&self.disk.give_back);
        let intent = self.disk.intent.as_ref().is_some_and(|intent| intent.client_token == *client_token);
        intent || seats.any(|seat| seat.token.secret() == token)
    }
}

// === floating ===

#[test]
fn a_seat_is_taken_kept_renewed_and_given_back() {
    let mut world = World::new(1);
    let mut pod = Pod::start(&world, policy(Model::Floating));
    assert_eq!(pod.settle(&mut world), State::Entitled);
    assert_eq!(world.calls, ["List", "CheckOut", "Look"]);
    assert_eq!((world.out().len(), pod.disk.seat.is_some()), (1, true));
    assert_eq!(pod.pause(&world), Duration::from_secs(810));
    assert_eq!(pod.pass(&mut world, 5 * HOUR), State::Entitled);
    assert_eq!((world.count("CheckOut"), world.out().len()), (1, 1));
    let knowledge = pod.machine.knowledge();
    assert_eq!((knowledge.held[0].quantity, knowledge.seats().next().unwrap().held), (1, 1));
    assert_eq!(knowledge.usage[0].consumed, 1);
    pod.tell(&world, Event::Stopping);
    pod.settle(&mut world);
    assert_eq!((&pod.next, world.out().len(), pod.disk.seat.is_some()), (&Next::Stopped, 0, false));
}

/// Otherwise a crash between the checkout and saving its answer would lose a seat.
#[test]
fn nothing_is_asked_for_before_the_state_folder_knows_its_token_and_nothing_opens_before_it_knows_the_seat() {
    let mut world = World::new(1);
    let mut pod = Pod::start(&world, policy(Model::Floating));
    let mut seen = Vec::new();
    loop {
        match &pod.next {
            Next::Call(Call::CheckOut { client_token, .. }, _) => {
                assert_eq!(&pod.disk.intent.as_ref().unwrap().client_token, client_token);
                seen.push("asked");
            }
            Next::Write(record) if record.seat.is_some() && pod.disk.seat.is_none() => {
                assert!(!pod.machine.standing(pod.at(&world)).gate_open());
                seen.push("kept");
            }
            Next::WakeIn(_) => break,
            _ => {}
        }
        pod.perform(&mut world);
    }
    assert_eq!((seen, pod.state(&world)), (vec!["asked", "kept"], State::Entitled));
    assert_eq!(world.calls.len(), 3, "no call more than the listing, the checkout and a look");
}

/// Otherwise a restarted pod would be locked out by its own seat until that expires.
#[test]
fn a_restart_inside_the_hour_keeps_the_seat() {
    let mut world = World::new(1);
    let mut pod = Pod::start(&world, policy(Model::Floating));
    pod.settle(&mut world);
    for _ in 0..20 {
        world.time += 3 * MINUTE;
        pod.restart(&world);
        assert_eq!(pod.settle(&mut world), State::Entitled);
    }
    assert_eq!((world.count("CheckOut"), world.count("Extend"), world.out().len()), (1, 20, 1));
}

#[test]
fn a_seat_that_has_ended_is_taken_anew_at_once() {
    let mut world = World::new(1);
    let mut pod = Pod::start(&world, policy(Model::Floating));
    pod.settle(&mut world);
    world.time += 2 * HOUR;
    pod.restart(&world);
    assert_eq!(pod.settle(&mut world), State::Entitled);
    assert_eq!((world.count("Extend"), world.count("CheckOut"), world.out().len()), (1, 2, 1));
}

/// A new client token for each try would take one more seat for each lost answer.
#[test]
fn an_answer_that_got_lost_is_asked_for_with_the_same_token() {
    let mut world = World::new(1);
    world.meets("CheckOut", LOST).meets("CheckOut", LOST);
    let mut pod = Pod::start(&world, policy(Model::Floating));
    assert_eq!(pod.settle(&mut world), State::Pending);
    assert_eq!(world.out().len(), 1, "it was processed");
    // A kill in between changes nothing: the state folder has the token.
    pod.restart(&world);
    pod.settle(&mut world);
    assert_eq!(pod.pass(&mut world, MINUTE), State::Entitled);
    assert_eq!((world.out().len(), world.count("CheckOut"), pod.lost), (1, 3, 0));
}

#[test]
fn after_ten_minutes_a_lost_answer_is_given_up_and_said() {
    let mut world = World::new(2);
    world.meets("CheckOut", LOST);
    let mut pod = Pod::start(&world, policy(Model::Floating));
    pod.settle(&mut world);
    world.time += 11 * MINUTE;
    assert_eq!(pod.settle(&mut world), State::Entitled);
    assert_eq!((world.out().len(), pod.lost), (2, 1), "one seat more, until it ends");
    assert!(pod.notes.iter().any(
        |note| matches!(note, Note::AnswerLost(until) if *until >= world.now().plus(HOUR - 11 * MINUTE))
    ));
    assert_eq!(world.count("List"), 2, "the listing is read before a new one is asked for");
}

/// A call that AWS has throttled was not processed.
#[test]
fn a_checkout_that_was_throttled_leaves_no_doubt() {
    let mut world = World::new(1);
    world.meets("CheckOut", Act::Fail(FaultClass::Transient, "RateLimitExceededException"));
    let mut pod = Pod::start(&world, policy(Model::Floating));
    pod.settle(&mut world);
    assert!(!pod.machine.in_doubt());
    world.time += 11 * MINUTE;
    assert_eq!((pod.settle(&mut world), pod.lost), (State::Entitled, 0));
}

/// A stop gives back every seat, including one whose checkout's answer was lost.
#[test]
fn a_stop_gives_back_what_a_lost_answer_took() {
    let mut world = World::new(1);
    world.meets("CheckOut", LOST);
    let mut pod = Pod::start(&world, policy(Model::Floating));
    pod.settle(&mut world);
    assert_eq!(world.out().len(), 1);
    world.meets("CheckIn", DOWN);
    pod.tell(&world, Event::Stopping);
    pod.pass(&mut world, 10 * Duration::from_secs(1));
    assert_eq!((&pod.next, world.out().len()), (&Next::Stopped, 0));
    assert_eq!(pod.machine.left().count(), 0);
}

#[test]
fn a_stop_before_anything_was_asked_takes_nothing() {
    let world = &mut World::new(1);
    for performed in 0..6 {
        let mut pod = Pod::start(world, policy(Model::Floating));
        for _ in 0..performed {
            pod.perform(world);
        }
        pod.tell(world, Event::Stopping);
        pod.settle(world);
        assert_eq!((&pod.next, world.out().len()), (&Next::Stopped, 0), "after {performed} steps");
    }
}

/// Otherwise the replacement of a StatefulSet's pod, on the same volume, would be locked out by its predecessor's seat.
#[test]
fn another_pods_seat_is_given_back_first_and_never_held() {
    let mut world = World::new(1);
    let mut old = Pod::start(&world, policy(Model::Floating));
    old.settle(&mut world);
    let mut new = Pod::start_on(&world, policy(Model::Floating), "new", old.disk.clone());
    assert_eq!(new.settle(&mut world), State::Entitled);
    assert_eq!(world.calls[3..], ["CheckIn", "List", "CheckOut", "Look"]);
    assert_eq!(world.out().len(), 1);
    // If the other pod is still alive, its renewal fails and it waits for a seat.
    assert_eq!(old.pass(&mut world, 15 * MINUTE), State::Exhausted);
}

#[test]
fn another_pods_lost_answer_is_asked_for_and_given_back() {
    let mut world = World::new(1);
    world.meets("CheckOut", LOST);
    let mut old = Pod::start(&world, policy(Model::Floating));
    old.settle(&mut world);
    let mut new = Pod::start_on(&world, policy(Model::Floating), "new", old.disk.clone());
    assert_eq!(new.settle(&mut world), State::Entitled);
    let held: Vec<_> = world.out();
    assert!(held.len() == 1 && held[0].1.starts_with("new-"), "{held:?}");
}

/// Found by the kill campaign: while a seat is not given back yet, the next process must not take it for another pod's,
/// which would end its grace.
#[test]
fn no_pod_is_refused_for_want_of_the_seat_that_it_could_not_give_back() {
    let mut world = World::new(1);
    let mut pod = Pod::start(&world, policy(Model::Floating));
    pod.settle(&mut world);
    let seat = pod.disk.seat.take();
    pod.disk.give_back.extend(seat);
    world.meets("CheckIn", DOWN);
    pod.restart(&world);
    assert_eq!(pod.settle(&mut world), State::Grace);
    assert_eq!(pod.pass(&mut world, MINUTE), State::Entitled);
    assert_eq!(world.out().len(), 1);
}

/// The state folder still has the seat, so the next process uses it.
#[test]
fn a_stop_that_is_cut_short_costs_the_next_process_nothing() {
    for act in [DOWN, LOST] {
        let mut world = World::new(1);
        let mut pod = Pod::start(&world, policy(Model::Floating));
        pod.settle(&mut world);
        world.meets("CheckIn", act);
        pod.tell(&world, Event::Stopping);
        pod.settle(&mut world);
        pod.restart(&world);
        assert_eq!((pod.settle(&mut world), world.out().len()), (State::Entitled, 1));
    }
}

#[test]
fn exhaustion_is_tried_again_once_at_once_and_then_each_minute() {
    let mut world = World::new(1);
    let mut first = Pod::start(&world, policy(Model::Floating));
    first.settle(&mut world);
    let mut second = Pod::start_on(&world, policy(Model::Floating), "second", Record::default());
    assert_eq!(second.settle(&mut world), State::Exhausted);
    assert_eq!((second.code(&world), second.pause(&world)), ("SeatsExhausted".into(), SECOND_TRY));
    assert_eq!(second.pass(&mut world, SECOND_TRY), State::Exhausted);
    assert_eq!(second.pause(&world), MINUTE);
    let calls = world.calls.len();
    assert_eq!(second.pass(&mut world, MINUTE), State::Exhausted);
    assert_eq!(world.calls[calls..], ["CheckOut"], "the listing is known");
    first.tell(&world, Event::Stopping);
    first.settle(&mut world);
    assert_eq!(second.pass(&mut world, MINUTE), State::Entitled);
}

#[test]
fn with_on_denied_exit_a_pod_leaves_after_its_second_try() {
    let mut world = World::new(1);
    let mut first = Pod::start(&world, policy(Model::Floating));
    first.settle(&mut world);
    let exit = Policy { exit_when_refused: true, ..policy(Model::Floating) };
    let mut second = Pod::start_on(&world, exit, "second", Record::default());
    second.settle(&mut world);
    assert!(matches!(second.next, Next::WakeIn(_)));
    second.pass(&mut world, SECOND_TRY);
    assert_eq!(second.next, Next::Leave(Exit::NotEntitled));
}

#[test]
fn a_seat_that_is_gone_at_the_renewal_shuts_the_gate_if_none_is_left() {
    let mut world = World::new(1);
    let mut pod = Pod::start(&world, policy(Model::Floating));
    pod.settle(&mut world);
    world.seats = World::new(1).seats;
    let take = pod.disk.seat.as_ref().unwrap().taken.clone();
    // The only seat belongs to another checkout now.
    let first = world.seats.check_out("first", &take, world.now()).unwrap();
    world.seats.check_in(&first.token, world.now()).unwrap();
    world.seats.check_out("somebody", &take, world.now()).unwrap();
    assert_eq!(pod.pass(&mut world, 15 * MINUTE), State::Exhausted);
    assert_eq!(pod.disk.granted, None, "and there is no grace");
}

#[test]
fn renewals_come_before_half_of_what_is_left() {
    let mut world = World::new(1);
    world.seats.time_to_live = 10 * MINUTE;
    let mut pod = Pod::start(&world, policy(Model::Floating));
    pod.settle(&mut world);
    assert_eq!(pod.pause(&world), 5 * MINUTE);
    assert_eq!(pod.pass(&mut world, HOUR), State::Entitled);
    assert_eq!(world.count("CheckOut"), 1);
    // Failed renewals are repeated while time is left, after ever shorter pauses.
    for _ in 0..40 {
        world.meets("Extend", DOWN);
    }
    let before = world.count("Extend");
    assert_eq!(pod.pass(&mut world, 10 * MINUTE), State::Grace);
    assert!((4..40).contains(&(world.count("Extend") - before)), "{}", world.count("Extend") - before);
}

#[test]
fn an_expiration_that_cannot_be_read_is_the_licenses_longest_or_an_hour() {
    let seat = |mut world: World, life: Option<Duration>| {
        world.seats.licenses[0].time_to_live_max = life;
        let mut pod = Pod::start(&world, policy(Model::Floating));
        while !matches!(pod.next, Next::Call(Call::CheckOut { .. }, _)) {
            pod.perform(&mut world);
        }
        let Next::Call(call, _) = &pod.next else { panic!() };
        let Answer::CheckedOut(Ok(told)) = answer(&mut world, call) else { panic!() };
        pod.tell(&world, Event::Answered(Answer::CheckedOut(Ok(CheckedOut { expiration: None, ..told }))));
        pod.settle(&mut world);
        pod.disk.seat.unwrap().expires
    };
    assert_eq!(seat(World::new(1), None), START.plus(HOUR));
    assert_eq!(seat(World::new(1), Some(3 * HOUR)), START.plus(3 * HOUR));
}

#[test]
fn where_the_state_folder_cannot_be_written_no_seat_is_taken() {
    let mut world = World::new(1);
    let mut pod = Pod::start(&world, policy(Model::Floating));
    pod.writable = false;
    assert_eq!(pod.settle(&mut world), State::Pending);
    assert_eq!((pod.code(&world), world.count("CheckOut")), ("LicenseStateNotKept".into(), 0));
    assert_eq!(pod.pass(&mut world, HOUR), State::Unavailable);
    assert_eq!(world.count("CheckOut"), 0);
    pod.writable = true;
    assert_eq!(pod.pass(&mut world, MINUTE), State::Entitled);
}

#[test]
fn a_seat_that_cannot_be_kept_is_given_back() {
    let mut world = World::new(1);
    let mut pod = Pod::start(&world, policy(Model::Floating));
    while !matches!(pod.next, Next::Call(Call::CheckOut { .. }, _)) {
        pod.perform(&mut world);
    }
    pod.writable = false;
    assert_eq!(pod.settle(&mut world), State::Pending);
    assert_eq!((pod.code(&world), world.out().len()), ("LicenseStateNotKept".into(), 0));
}

#[test]
fn a_grown_contract_is_taken_and_what_was_held_is_given_back_only_then() {
    let mut world = World::new(1);
    let mut pod = Pod::start(&world, policy(Model::Floating));
    pod.settle(&mut world);
    world.seats.licenses[0] = license("arn", &[("users", 1), ("nodes", 1)], &[]);
    assert_eq!(
        pod.pass(&mut world, 15 * MINUTE),
        State::Entitled,
        "the larger one finds no room, and the seat is kept"
    );
    assert_eq!((world.count("Extend"), world.out().len()), (1, 1));
    world.seats.licenses[0] = license("arn", &[("users", 2), ("nodes", 1)], &[]);
    assert_eq!(pod.pass(&mut world, 15 * MINUTE), State::Entitled);
    let held: Vec<_> = pod.machine.knowledge().held.into_iter().map(|held| held.name).collect();
    assert_eq!((held, world.out().len()), (vec!["users".to_owned(), "nodes".to_owned()], 1));
}

#[test]
fn a_license_that_is_gone_shuts_the_gate_and_its_seat_is_given_back() {
    for change in [
        (|license: &mut ReceivedLicense| license.status = LicenseStatus::Deactivated)
            as fn(&mut ReceivedLicense),
        |license| license.received = Received::Disabled,
        |license| license.end = Some(START.minus(73 * HOUR)),
    ] {
        let mut world = World::new(1);
        let mut pod = Pod::start(&world, policy(Model::Floating));
        pod.settle(&mut world);
        change(&mut world.seats.licenses[0]);
        assert_eq!(pod.pass(&mut world, 15 * MINUTE), State::Denied);
        assert_eq!((world.out().len(), pod.disk.seat.is_some()), (0, false));
        assert_eq!(pod.pause(&world).as_secs() / 60, 3, "of five minutes, some have passed");
    }
}

// === check ===

#[test]
fn check_gives_its_checkout_back_at_once_and_holds_nothing() {
    let mut world = World::new(1);
    let mut pod = Pod::start(&world, policy(Model::Check));
    assert_eq!(pod.settle(&mut world), State::Entitled);
    assert_eq!(world.calls, ["List", "CheckOut", "CheckIn", "Look"]);
    assert_eq!((world.out().len(), pod.machine.left().count()), (0, 0));
    assert_eq!(pod.pass(&mut world, 2 * HOUR), State::Entitled);
    assert_eq!((world.out().len(), world.count("CheckOut"), world.count("CheckIn")), (0, 9, 9));
    assert!(pod.machine.knowledge().held.is_empty());
}

#[test]
fn check_is_never_shut_by_exhaustion_and_sees_an_upgrade_at_its_next_round() {
    let mut world = World::new(1);
    let take = [EntitlementData { name: "users".into(), unit: "Count".into(), value: Some(1) }];
    world.seats.time_to_live = 100 * HOUR;
    world.seats.check_out("somebody", &take, world.now()).unwrap();
    let mut pod = Pod::start(&world, policy(Model::Check));
    assert_eq!(pod.settle(&mut world), State::Entitled);
    let wanted = vec!["users:Count:5".parse().unwrap()];
    let mut strict = policy(Model::Check);
    strict.terms.wanted = wanted;
    let mut pod = Pod::start_on(&world, strict, "strict", Record::default());
    assert_eq!(pod.settle(&mut world), State::Denied);
    assert_eq!(pod.code(&world), "QuantityTooSmall");
    world.seats.licenses[0] = license("arn", &[("users", 5)], &[]);
    assert_eq!(pod.pass(&mut world, 5 * MINUTE), State::Entitled);
}

/// A failed check-in is repeated soon, and no second checkout is made before it succeeds.
#[test]
fn check_has_at_most_one_seat_out_whatever_fails() {
    let mut world = World::new(1);
    for _ in 0..1000 {
        world.meets("CheckIn", FORBIDDEN);
    }
    let mut pod = Pod::start(&world, policy(Model::Check));
    assert_eq!(pod.settle(&mut world), State::Entitled);
    for _ in 0..8 {
        assert_eq!(pod.pass(&mut world, 15 * MINUTE), State::Entitled);
        assert!(world.out().len() <= 1);
        pod.restart(&world);
        assert_eq!(pod.settle(&mut world), State::Entitled, "no restarted pod is locked out");
    }
    world.acts.clear();
    pod.pass(&mut world, MINUTE);
    assert_eq!((world.out().len(), world.count("CheckOut") <= 3), (0, true));
    assert!(pod.notes.iter().any(|note| matches!(note, Note::NotGivenBack(..))));
}

#[test]
fn a_crash_between_checkout_and_check_in_is_mended_by_the_next_start() {
    for performed in 0..8 {
        let mut world = World::new(1);
        let mut pod = Pod::start(&world, policy(Model::Check));
        for _ in 0..performed {
            pod.perform(&mut world);
        }
        pod.restart(&world);
        assert_eq!(pod.settle(&mut world), State::Entitled, "after {performed} steps");
        assert_eq!(world.out().len(), 0, "after {performed} steps");
    }
}

#[test]
fn check_works_where_nothing_can_be_written_but_without_grace() {
    let mut world = World::new(1);
    let mut pod = Pod::start(&world, policy(Model::Check));
    pod.writable = false;
    assert_eq!(pod.settle(&mut world), State::Entitled);
    assert_eq!(world.out().len(), 0);
    away(&mut world);
    assert_eq!(pod.pass(&mut world, 14 * MINUTE), State::Pending);
}

/// A checkout with the unit `None` of a counted dimension would refuse every buyer who paid.
#[test]
fn the_unit_is_the_licenses_unless_it_is_written() {
    for (wanted, state, code) in [
        (&["users"][..], State::Entitled, ""),
        (&["users:Count"], State::Entitled, ""),
        (&["users:None"], State::Misconfigured, "UnitMismatch"),
        (&["seats"], State::Misconfigured, "NameMismatch"),
        (&["premium"], State::Entitled, ""),
    ] {
        let mut world = World::of(vec![license("arn", &[("users", 1)], &["premium"])]);
        let mut policy = policy(Model::Check);
        policy.terms.wanted = wanted.iter().map(|wanted| wanted.parse().unwrap()).collect();
        let mut pod = Pod::start(&world, policy);
        assert_eq!(pod.settle(&mut world), state, "{wanted:?}");
        assert_eq!(pod.code(&world), code, "{wanted:?}");
    }
}

// === faults ===

#[test]
fn the_fault_table_before_a_granted_round() {
    use FaultClass::{Access, Denied, ExpiredSession, Misconfigured, Transient};
    for (operation, class, code, state, exit, pause) in [
        ("List", Transient, "RateLimitExceededException", State::Pending, Exit::Unavailable, 2),
        ("CheckOut", Transient, "ServerInternalException", State::Pending, Exit::Unavailable, 2),
        ("CheckOut", Access, "AuthorizationException", State::Misconfigured, Exit::Config, 5),
        ("CheckOut", Misconfigured, "ValidationException", State::Misconfigured, Exit::Config, 300),
        ("List", Misconfigured, "InvalidParameterValueException", State::Misconfigured, Exit::Config, 300),
        ("CheckOut", Denied, "NoEntitlementsAllowedException", State::Exhausted, Exit::NotEntitled, 1),
    ] {
        let mut world = World::new(1);
        world.meets(operation, Act::Fail(class, code));
        let mut pod = Pod::start(&world, policy(Model::Floating));
        assert_eq!(pod.settle(&mut world), state, "{code}");
        assert_eq!((pod.state(&world).exit(), pod.pause(&world).as_secs()), (exit, pause), "{code}");
    }
    let mut world = World::new(1);
    world.meets("List", Act::Fail(ExpiredSession, "ExpiredTokenException"));
    let mut pod = Pod::start(&world, policy(Model::Floating));
    assert_eq!(pod.settle(&mut world), State::Entitled, "at once, with new credentials");
}

#[test]
fn a_caller_who_is_refused_is_asked_for_after_5_10_and_30_seconds() {
    let mut world = World::new(1);
    let mut pod = Pod::start(&world, policy(Model::Check));
    for pause in [5, 10, 30, 30] {
        world.meets("List", Act::Fail(FaultClass::Access, "CredentialsMissing"));
        world.acts.retain(|(_, act)| *act != FORBIDDEN);
        let unsent = || fault(FaultClass::Access, "CredentialsMissing").unsent();
        while !matches!(pod.next, Next::Call(Call::List, _)) {
            pod.perform(&mut world);
        }
        pod.tell(&world, Event::Answered(Answer::Listed(Err(unsent()))));
        assert_eq!(pod.settle(&mut world), State::Misconfigured);
        assert_eq!(pod.pause(&world), Duration::from_secs(pause));
        world.acts.clear();
        world.time += Duration::from_secs(pause);
    }
}

/// The role's policy lacks `ListReceivedLicenses`.
#[test]
fn a_policy_without_the_listing_still_opens_where_units_are_written() {
    let mut written = policy(Model::Check);
    written.terms.wanted = vec!["users:Count".parse().unwrap()];
    let mut world = World::new(1);
    world.meets("List", FORBIDDEN);
    let mut pod = Pod::start(&world, written.clone());
    assert_eq!(pod.settle(&mut world), State::Entitled);
    let mut world = World::of(Vec::new());
    world.meets("List", FORBIDDEN);
    let mut pod = Pod::start(&world, written);
    assert_eq!(pod.settle(&mut world), State::Denied);
    assert_eq!(pod.code(&world), "LicenseCauseUnknown");
    let reason = pod.machine.standing(pod.at(&world)).reason().unwrap().clone();
    assert!(reason.message.contains("license-manager:ListReceivedLicenses"), "{reason:?}");
    // Without a configured unit nothing can be checked out.
    let mut world = World::new(1);
    world.meets("List", FORBIDDEN);
    let mut pod = Pod::start(&world, policy(Model::Check));
    assert_eq!(pod.settle(&mut world), State::Misconfigured);
    let reason = pod.machine.standing(pod.at(&world)).reason().unwrap().clone();
    assert_eq!(reason.code.as_str(), "AccessDeniedException");
    assert!(reason.message.contains("license-manager:ListReceivedLicenses"), "{reason:?}");
    assert_eq!(pod.pause(&world), Duration::from_secs(5));
}

fn away(world: &mut World) {
    world.acts.clear();
    for _ in 0..1000 {
        world.meets("List", DOWN).meets("Extend", DOWN).meets("CheckOut", DOWN);
    }
}

/// An outage of License Manager must not end the application.
#[test]
fn an_outage_after_a_granted_round_is_grace_counted_from_that_round() {
    for model in [Model::Check, Model::Floating] {
        let mut world = World::new(1);
        let mut pod = Pod::start(&world, policy(model));
        pod.settle(&mut world);
        away(&mut world);
        assert_eq!(pod.pass(&mut world, 23 * HOUR), State::Grace, "{model:?}");
        assert!(pod.pause(&world) <= 30 * MINUTE);
        pod.restart(&world);
        pod.settle(&mut world);
        assert_eq!(pod.state(&world), State::Grace, "a restart of the same pod");
        assert_eq!(pod.pass(&mut world, HOUR), State::Unavailable, "{model:?}");
        pod.restart(&world);
        pod.settle(&mut world);
        assert_eq!(pod.state(&world), State::Pending, "ended is ended");
        assert_eq!(pod.pass(&mut world, HOUR), State::Unavailable);
        world.acts.clear();
        assert_eq!(pod.pass(&mut world, MINUTE), State::Entitled);
    }
}

/// Otherwise blocking the service would open every new pod's gate for the whole grace period.
#[test]
fn there_is_no_grace_for_a_pod_without_a_granted_round() {
    let mut world = World::new(1);
    let mut granted = Pod::start(&world, policy(Model::Check));
    granted.settle(&mut world);
    away(&mut world);
    let mut other = Pod::start_on(&world, policy(Model::Check), "other", granted.disk.clone());
    assert_eq!(other.settle(&mut world), State::Pending);
    let mut fresh = Pod::start_on(&world, policy(Model::Check), "pod", Record::default());
    assert_eq!(fresh.settle(&mut world), State::Pending);
}

#[test]
fn an_access_fault_after_a_granted_round_is_grace_and_then_its_own_row() {
    let mut world = World::new(1);
    let mut pod = Pod::start(&world, policy(Model::Check));
    pod.settle(&mut world);
    for _ in 0..1000 {
        world.meets("List", FORBIDDEN);
    }
    assert_eq!(pod.pass(&mut world, 15 * MINUTE), State::Grace);
    assert_eq!(pod.pass(&mut world, 24 * HOUR), State::Misconfigured);
    assert_eq!(pod.code(&world), "AccessDeniedException");
}

#[test]
fn a_refusal_ends_grace_and_a_fault_does_not_bring_it_back() {
    let mut world = World::new(1);
    let mut pod = Pod::start(&world, policy(Model::Check));
    pod.settle(&mut world);
    let licenses = std::mem::take(&mut world.seats.licenses);
    assert_eq!(pod.pass(&mut world, 15 * MINUTE), State::Denied);
    assert_eq!(pod.code(&world), "NoLicense");
    away(&mut world);
    assert_eq!(pod.pass(&mut world, 6 * MINUTE), State::Denied, "the refusal stands");
    pod.restart(&world);
    assert_eq!(pod.settle(&mut world), State::Pending);
    world.acts.clear();
    world.seats.licenses = licenses;
    assert_eq!(pod.pass(&mut world, 6 * MINUTE), State::Entitled);
}

/// The contract ends when the license does, not when a checkout expires.
#[test]
fn a_contract_that_ended_opens_for_its_grace_for_new_pods_too() {
    for model in [Model::Check, Model::Floating] {
        let mut world = World::new(1);
        world.seats.licenses[0].end = Some(START.minus(HOUR));
        let mut pod = Pod::start(&world, policy(model));
        assert_eq!(pod.settle(&mut world), State::Entitled, "{model:?}");
        assert_eq!(pod.code(&world), "LicenseEnded");
        assert_eq!(pod.pass(&mut world, 70 * HOUR), State::Entitled);
        assert_eq!(pod.pass(&mut world, 2 * HOUR), State::Denied);
    }
}

/// Otherwise a clock set ahead of the contract's end would open any number of pods without a seat.
#[test]
fn whether_a_contract_has_ended_is_read_from_awss_clock() {
    let mut world = World::new(1);
    let end = START.plus(2 * HOUR);
    world.seats.licenses[0].end = Some(end);
    let mut holder = Pod::start_on(&world, policy(Model::Floating), "holder", Record::default());
    holder.settle(&mut world);
    world.ahead = 3 * HOUR;
    let mut pod = Pod::start(&world, policy(Model::Floating));
    assert_eq!(pod.settle(&mut world), State::Exhausted);
    // Set past the grace between two answers, the clock changes nothing: the next answer shows AWS's time.
    world.ahead = 1000 * HOUR;
    assert_eq!(pod.pass(&mut world, 5 * MINUTE), State::Exhausted);
    assert_eq!(pod.pass(&mut world, 75 * HOUR), State::Denied);
}

/// Otherwise the pod would wait for the only seat until that expires.
#[test]
fn a_pod_that_starts_with_its_clock_ahead_gives_back_what_its_forerunner_held() {
    let mut world = World::new(1);
    let mut forerunner = Pod::start_on(&world, policy(Model::Floating), "forerunner", Record::default());
    assert_eq!(forerunner.settle(&mut world), State::Entitled);
    let mut record = forerunner.disk.clone();
    record.give_back.extend(record.seat.take());
    world.ahead = 5 * HOUR;
    let mut pod = Pod::start_on(&world, policy(Model::Floating), "pod", record);
    assert_eq!(pod.settle(&mut world), State::Entitled);
    assert_eq!(world.out().len(), 1);
}

/// Otherwise each round would leave one more seat taken until it expires.
#[test]
fn a_pod_whose_clock_is_ahead_gives_its_seats_back_too() {
    for (model, held) in [(Model::Check, 0), (Model::Floating, 1)] {
        let mut world = World::new(3);
        world.ahead = 5 * HOUR;
        let mut pod = Pod::start(&world, policy(model));
        assert_eq!(pod.settle(&mut world), State::Entitled);
        assert_eq!(pod.pass(&mut world, HOUR), State::Entitled);
        assert_eq!(world.out().len(), held, "{model:?}");
        pod.tell(&world, Event::Stopping);
        pod.settle(&mut world);
        assert_eq!((&pod.next, world.out().len()), (&Next::Stopped, 0), "{model:?}");
    }
}

#[test]
fn a_round_that_is_still_to_come_gives_no_grace() {
    for (ahead, state) in [(Duration::ZERO, State::Grace), (24 * HOUR, State::Pending)] {
        let mut world = World::new(1);
        let mut pod = Pod::start(&world, policy(Model::Check));
        pod.settle(&mut world);
        let begun = START.plus(ahead);
        let known = Known { first_failed_at: Some(begun), latest: Some(begun), ..Known::default() };
        let mut record = Record::default();
        record.granted = GrantedRound::of(known);
        pod.machine = Machine::new(policy(Model::Check), record, "seed".to_owned(), START);
        away(&mut world);
        let now = Now { wall: START, running: Duration::ZERO, draw: Draw::MIDDLE };
        let failed = Event::Answered(Answer::Listed(Err(fault(FaultClass::Transient, "Timeout"))));
        pod.machine.step(now, Event::Started);
        pod.machine.step(now, failed);
        assert_eq!(pod.machine.standing(now).state(), state, "{ahead:?}");
    }
}

#[test]
fn a_clock_that_jumps_ahead_brings_the_round_forward() {
    let mut world = World::new(1);
    let mut pod = Pod::start(&world, policy(Model::Floating));
    pod.settle(&mut world);
    let now = Now { wall: START.plus(20 * MINUTE), running: MINUTE, draw: Draw::MIDDLE };
    let (next, _) = pod.machine.step(now, Event::Woke);
    assert!(matches!(next, Next::Call(Call::List, _)), "{next:?}");
}

#[test]
fn a_conflict_at_the_check_in_is_done_after_a_look() {
    let mut world = World::new(1);
    world.meets("CheckIn", Act::Fail(FaultClass::Transient, "ConflictException"));
    let mut pod = Pod::start(&world, policy(Model::Check));
    pod.settle(&mut world);
    assert_eq!(world.calls, ["List", "CheckOut", "CheckIn", "Look"]);
    assert_eq!(pod.machine.left().count(), 0);
}

#[test]
fn an_answer_of_the_emulator_that_is_not_accepted_takes_no_seat() {
    let mut world = World::new(1);
    let mut pod = Pod::start(&world, policy(Model::Floating));
    while !matches!(pod.next, Next::Call(Call::List, _)) {
        pod.perform(&mut world);
    }
    let reason = Reason::known("EmulatedToken", FaultClass::Access);
    pod.tell(&world, Event::Answered(Answer::Emulated(reason)));
    assert_eq!(pod.settle(&mut world), State::Unverified);
    assert_eq!((world.count("CheckOut"), pod.state(&world).exit()), (0, Exit::Unverified));
}

// === the model ===

#[derive(Debug, Clone)]
enum Op {
    /// One pod performs one step.
    Step(usize),
    /// The next call of this operation ends like this.
    Meet(&'static str, Act),
    Pass(u64),
    Die(usize),
    /// SIGTERM, and a start afterwards.
    Stop(usize),
    /// A new pod on the same volume.
    Replace(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let pod = 0..3usize;
    let operations = prop::sample::select(vec!["List", "CheckOut", "Extend", "CheckIn", "Look"]);
    let acts = prop::sample::select(vec![LOST, LOST, DOWN, FORBIDDEN]);
    prop_oneof![
        12 => pod.clone().prop_map(Op::Step),
        3 => (operations, acts).prop_map(|(operation, act)| Op::Meet(operation, act)),
        3 => (1..900u64).prop_map(Op::Pass),
        2 => pod.clone().prop_map(Op::Die),
        1 => pod.clone().prop_map(Op::Stop),
        1 => pod.prop_map(Op::Replace),
    ]
}

/// The invariants, checked after each operation.
fn hold(world: &mut World, pods: &mut [Pod]) {
    let out = world.out();
    // Each lost answer may have cost one seat, also when its checkout was repeated too late.
    let unknown = out.iter().filter(|seat| !pods.iter().any(|pod| pod.knows(seat)));
    let unknown =
        unknown.map(|(_, client_token)| client_token).collect::<std::collections::BTreeSet<_>>().len();
    let lost: usize = pods.iter().map(|pod| pod.lost).sum();
    assert!(unknown <= lost, "{unknown} checkouts that no disk knows, and {lost} answers lost: {out:?}");
    for pod in pods {
        let model = pod.policy.terms.model;
        if model == Model::Check {
            assert!(pod.disk.seat.is_none() && pod.disk.give_back.len() <= 2, "{:?}", pod.disk);
        } else if pod.state(world) == State::Entitled && matches!(pod.next, Next::WakeIn(_)) {
            assert!(pod.disk.seat.is_some() || pod.machine.stopping, "at rest, and open without a seat");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// With kills at any step, lost answers, outages, restarts, stops and replaced pods: no disk lacks a seat that is
    /// held, except for lost answers that were given up; a stopped pod holds nothing; and no pod is locked out by
    /// itself.
    #[test]
    fn no_seat_is_lost_and_no_pod_locks_itself_out(
        ops in prop::collection::vec(op(), 1..150),
        floating in any::<bool>(),
        max in 1..4u64,
    ) {
        let model = if floating { Model::Floating } else { Model::Check };
        let mut world = World::new(max);
        let names = ["a", "b", "c"];
        let mut pods: Vec<Pod> =
            names.iter().map(|name| Pod::start_on(&world, policy(model), name, Record::default())).collect();
        for op in ops {
            match op {
                Op::Step(pod) => drop(pods[pod].perform(&mut world)),
                Op::Meet(operation, act) => drop(world.meets(operation, act)),
                Op::Pass(seconds) => world.time += Duration::from_secs(seconds),
                Op::Die(pod) => pods[pod].restart(&world),
                Op::Stop(pod) => {
                    world.acts.clear();
                    pods[pod].tell(&world, Event::Stopping);
                    for _ in 0..60 {
                        pods[pod].settle(&mut world);
                        if pods[pod].next == Next::Stopped { break }
                        world.time = pods[pod].wakes_at.unwrap().max(world.time);
                    }
                    prop_assert_eq!(&pods[pod].next, &Next::Stopped);
                    prop_assert!(pods[pod].disk.seat.is_none() && pods[pod].disk.give_back.is_empty());
                    pods[pod].restart(&world);
                }
                Op::Replace(pod) => {
                    let disk = pods[pod].disk.clone();
                    let lost = pods[pod].lost;
                    let name = format!("{}'", pods[pod].name);
                    pods[pod] = Pod::start_on(&world, policy(model), &name, disk);
                    pods[pod].lost += lost;
                }
            }
            hold(&mut world, &mut pods);
        }
        // Without further faults: each pod alone gets a seat, once the others' seats and the lost ones have gone.
        world.acts.clear();
        let mut given_up = false;
        for mut pod in pods.drain(1..) {
            pod.tell(&world, Event::Stopping);
            for _ in 0..60 {
                pod.settle(&mut world);
                if pod.next == Next::Stopped { break }
                world.time = pod.wakes_at.unwrap().max(world.time);
            }
            given_up |= pod.lost > 0;
        }
        pods[0].restart(&world);
        pods[0].settle(&mut world);
        given_up |= pods[0].lost > 0;
        let within = if given_up || world.out().len() > 1 { 2 * HOUR } else { 2 * MINUTE };
        let state = pods[0].pass(&mut world, within);
        prop_assert_eq!(state, State::Entitled, "{:?}", pods[0].machine);
    }
}
