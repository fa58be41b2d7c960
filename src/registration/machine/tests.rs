//! Tables for the machine: every row of the fault table, and properties that hold for every order of events.

use proptest::prelude::*;

use super::super::allowance::WRITTEN_AHEAD;
use super::*;
use crate::entitlement::State;
use tollgate_marketplace::FaultCode;

const WALL: Timestamp = Timestamp::from_unix_seconds(1_795_507_200);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// A machine with a clock that the test moves.
struct Bench {
    machine: Machine<&'static str>,
    running: Duration,
    next: Next,
    notes: Notes,
}

fn version(number: i64) -> PublicKeyVersion {
    PublicKeyVersion::try_new(number).unwrap()
}

fn policy() -> RegistrationPolicy {
    RegistrationPolicy {
        unavailable_after: 30 * MINUTE,
        grace_period: Duration::ZERO,
        exit_when_refused: false,
        stays_once_open: false,
        versions: vec![version(1)],
        stated_version: None,
        renewed_hourly: false,
        close_lapsed_after: None,
        ask_after_denial: true,
    }
}

fn fault(class: FaultClass, code: &'static str) -> Fault {
    Fault::local(class, code, "")
}

impl Bench {
    fn new(policy: RegistrationPolicy) -> Self {
        Self::remembering(policy, Remembered::default())
    }

    fn remembering(policy: RegistrationPolicy, remembered: Remembered<&'static str>) -> Self {
        let machine = Machine::new(policy, remembered, WALL);
        let mut bench = Self { machine, running: Duration::ZERO, next: Next::Rest, notes: Notes::default() };
        bench.step(Event::Started);
        bench
    }

    fn now(&self) -> Now {
        Now { wall: WALL.plus(self.running), running: self.running, draw: Draw::MIDDLE }
    }

    fn step(&mut self, event: Event<&'static str>) {
        (self.next, self.notes) = self.machine.step(self.now(), event);
    }

    fn fails(&mut self, class: FaultClass, code: &'static str) -> &mut Self {
        self.step(Event::Answered(AttemptResult::Fault(fault(class, code))));
        self
    }

    fn succeeds(&mut self) -> &mut Self {
        self.step(Event::Answered(AttemptResult::Verified { proof: "token", rotation: None }));
        self
    }

    fn later(&mut self, by: Duration) -> &mut Self {
        self.running += by;
        self
    }

    fn state(&self) -> State {
        self.machine.standing(self.now()).state()
    }

    fn open(&self) -> bool {
        self.machine.standing(self.now()).gate_open()
    }

    fn asks(&self) -> Attempt {
        match self.next {
            Next::Ask(attempt) => attempt,
            other => panic!("asks now, but {other:?}"),
        }
    }

    fn asks_in(&self) -> Duration {
        match self.next {
            Next::AskIn(delay) => delay,
            other => panic!("asks later, but {other:?}"),
        }
    }
}

#[test]
fn the_first_act_is_to_ask_for_the_highest_key_version() {
    let bench = Bench::new(RegistrationPolicy { versions: vec![version(1), version(3)], ..policy() });
    assert_eq!(bench.asks(), Attempt { version: version(3), reload_credentials: false });
    assert_eq!((bench.state(), bench.open()), (State::Pending, false));
}

#[test]
fn a_proof_opens_the_gate_and_nothing_is_asked_again() {
    let mut bench = Bench::new(policy());
    bench.succeeds().later(1000 * MINUTE);
    assert_eq!((bench.state(), bench.next), (State::Entitled, Next::Rest));
    assert_eq!(bench.notes.remember, Some(Remember::Succeeded));
    assert_eq!(bench.machine.changes_in(bench.now()), None);
}

/// Class, state, and whether the next attempt comes within half a minute or in about five minutes.
#[test]
fn each_row_of_the_fault_table_has_its_state_and_its_patience() {
    for (class, code, state, soon) in [
        (FaultClass::Denied, "CustomerNotEntitledException", State::Denied, false),
        (FaultClass::Misconfigured, "InvalidProductCodeException", State::Misconfigured, false),
        (FaultClass::Misconfigured, "InvalidRegionException", State::Misconfigured, false),
        (FaultClass::Misconfigured, "PlatformNotSupportedException", State::Misconfigured, false),
        (FaultClass::Access, "AccessDeniedException", State::Misconfigured, true),
        (FaultClass::Access, "CredentialsMissing", State::Misconfigured, true),
        (FaultClass::Access, "RegionUnknown", State::Misconfigured, true),
        (FaultClass::Transient, "ThrottlingException", State::Pending, true),
        (FaultClass::Transient, "Dns", State::Pending, true),
    ] {
        let mut bench = Bench::new(policy());
        bench.fails(class, code);
        assert_eq!((bench.state(), bench.open()), (state, false), "{code}");
        let delay = bench.asks_in();
        if soon {
            assert!(delay <= Duration::from_secs(30), "{code}: {delay:?}");
        } else {
            assert!(delay > 3 * MINUTE && delay < 7 * MINUTE, "{code}: {delay:?}");
        }
    }
}

#[test]
fn a_rejected_question_and_a_rejected_asker_are_told_apart() {
    let mut request = Bench::new(policy());
    request.fails(FaultClass::Misconfigured, "InvalidRegionException");
    let mut caller = Bench::new(policy());
    caller.fails(FaultClass::Access, "AccessDeniedException");
    let rejected = |bench: &Bench| match bench.machine.standing(bench.now()) {
        Standing::Misconfigured(rejected, _) => rejected,
        other => panic!("{other:?}"),
    };
    assert_eq!((rejected(&request), rejected(&caller)), (Rejected::Request, Rejected::Caller));
}

#[test]
fn transient_faults_become_unavailable_in_time_and_the_asking_goes_on() {
    let mut bench = Bench::new(policy());
    bench.fails(FaultClass::Transient, "Timeout");
    assert_eq!(bench.machine.changes_in(bench.now()), Some(30 * MINUTE));
    bench.later(30 * MINUTE - Duration::from_millis(1));
    assert_eq!(bench.state(), State::Pending);
    bench.later(Duration::from_millis(1));
    assert_eq!(bench.state(), State::Unavailable);
    bench.fails(FaultClass::Transient, "Timeout");
    assert!(bench.asks_in() <= MINUTE);
    bench.succeeds();
    assert_eq!(bench.state(), State::Entitled);
}

#[test]
fn a_refusal_stands_until_a_proof_undoes_it() {
    let mut bench = Bench::new(policy());
    bench.fails(FaultClass::Denied, "CustomerNotEntitledException").later(5 * MINUTE);
    bench.fails(FaultClass::Transient, "ThrottlingException").later(60 * MINUTE);
    assert_eq!(bench.state(), State::Denied);
    bench.succeeds();
    assert_eq!((bench.state(), bench.notes.entitled_after_refusal), (State::Entitled, true));
}

/// A refused role, a wrong product code, a missing token file and a bad token are not refusals that AWS might not
/// repeat.
#[test]
fn only_a_success_after_the_pod_was_called_not_entitled_is_one_after_a_refusal() {
    for (class, code, noted) in [
        (FaultClass::Transient, "ThrottlingException", false),
        (FaultClass::ExpiredSession, "ExpiredTokenException", false),
        (FaultClass::Access, "AccessDeniedException", false),
        (FaultClass::Access, "WebIdentityTokenMissing", false),
        (FaultClass::Misconfigured, "InvalidProductCodeException", false),
        (FaultClass::Denied, "CustomerNotEntitledException", true),
    ] {
        let mut bench = Bench::new(policy());
        bench.fails(class, code).succeeds();
        assert_eq!(bench.notes.entitled_after_refusal, noted, "{code}");
    }
    let mut bench = Bench::new(policy());
    bench.step(Event::Answered(AttemptResult::Unverified(reason::unverified("SignatureInvalid", None))));
    bench.succeeds();
    assert!(!bench.notes.entitled_after_refusal, "a bad token");
}

#[test]
fn an_expired_session_reloads_the_credentials_at_once_and_then_as_for_the_role() {
    let mut bench = Bench::new(policy());
    bench.fails(FaultClass::ExpiredSession, "ExpiredTokenException");
    assert!(bench.asks().reload_credentials);
    assert_eq!(bench.state(), State::Pending);
    bench.fails(FaultClass::ExpiredSession, "ExpiredTokenException");
    assert!(bench.asks_in() <= Duration::from_secs(10));
    bench.step(Event::Woke);
    assert!(bench.asks().reload_credentials);
}

#[test]
fn after_an_access_fault_the_credentials_are_loaded_anew() {
    let mut bench = Bench::new(policy());
    bench.fails(FaultClass::Access, "AccessDeniedException");
    bench.step(Event::Woke);
    assert!(bench.asks().reload_credentials);
}

#[test]
fn a_signature_fault_with_a_clock_that_is_off_is_tried_once_more_at_once() {
    let mut bench = Bench::new(policy());
    let skewed = || Fault {
        clock_offset_seconds: Some(-900),
        ..fault(FaultClass::Access, "InvalidSignatureException")
    };
    bench.step(Event::Answered(AttemptResult::Fault(skewed())));
    bench.asks();
    bench.step(Event::Answered(AttemptResult::Fault(skewed())));
    bench.asks_in();
    assert_eq!(bench.state(), State::Misconfigured);
}

#[test]
fn a_clock_within_what_aws_accepts_is_not_the_reason() {
    let mut bench = Bench::new(policy());
    let fault =
        Fault { clock_offset_seconds: Some(100), ..fault(FaultClass::Access, "InvalidSignatureException") };
    bench.step(Event::Answered(AttemptResult::Fault(fault)));
    bench.asks_in();
}

#[test]
fn an_unknown_key_version_is_followed_by_the_next_lower_one_once() {
    let mut bench =
        Bench::new(RegistrationPolicy { versions: vec![version(1), version(2), version(3)], ..policy() });
    bench.fails(FaultClass::Misconfigured, "InvalidPublicKeyVersionException");
    assert_eq!(bench.asks().version, version(2));
    bench.fails(FaultClass::Misconfigured, "InvalidPublicKeyVersionException");
    bench.asks_in();
    bench.step(Event::Woke);
    assert_eq!(bench.asks().version, version(3));
}

#[test]
fn a_stated_key_version_is_the_only_one() {
    let mut bench = Bench::new(RegistrationPolicy {
        versions: vec![version(1), version(2)],
        stated_version: Some(version(2)),
        ..policy()
    });
    bench.fails(FaultClass::Misconfigured, "InvalidPublicKeyVersionException");
    bench.asks_in();
}

#[test]
fn a_bad_token_is_asked_again_by_the_schedule_up_to_five_minutes() {
    let mut bench = Bench::new(policy());
    for _ in 0..100 {
        bench.step(Event::Answered(AttemptResult::Unverified(reason::unverified("SignatureInvalid", None))));
        assert_eq!((bench.state(), bench.open()), (State::Unverified, false));
        let delay = bench.asks_in();
        assert!(delay <= 5 * MINUTE, "{delay:?}");
        bench.later(delay);
    }
}

#[test]
fn who_exits_when_refused_says_why_by_its_code() {
    let policy = || RegistrationPolicy { exit_when_refused: true, ..policy() };
    for (class, code, exit) in [
        (FaultClass::Denied, "CustomerNotEntitledException", Exit::NotEntitled),
        (FaultClass::Misconfigured, "PlatformNotSupportedException", Exit::Config),
    ] {
        let mut bench = Bench::new(policy());
        bench.fails(class, code);
        assert_eq!(bench.next, Next::Leave(exit), "{code}");
    }
    let mut bench = Bench::new(policy());
    bench.step(Event::Answered(AttemptResult::Unverified(reason::unverified("NonceMismatch", None))));
    assert_eq!(bench.next, Next::Leave(Exit::Unverified));
    for (class, exit) in [(FaultClass::Transient, Exit::Unavailable), (FaultClass::Access, Exit::Config)] {
        let mut bench = Bench::new(policy());
        bench.fails(class, "AnyCode");
        bench.asks_in();
        bench.later(30 * MINUTE).fails(class, "AnyCode");
        assert_eq!(bench.next, Next::Leave(exit));
    }
}

/// The gate opens in grace, the command of `exec` starts, and then AWS says no.
#[test]
fn who_exits_when_refused_stays_beside_a_command_once_the_gate_was_open() {
    for (stays_once_open, grace_period, leaves) in
        [(true, HOUR, false), (true, Duration::ZERO, true), (false, HOUR, true)]
    {
        let policy =
            RegistrationPolicy { exit_when_refused: true, stays_once_open, grace_period, ..policy() };
        let mut bench = Bench::new(policy);
        bench.fails(FaultClass::Transient, "Timeout");
        assert_eq!(bench.open(), !grace_period.is_zero());
        // The loop publishes after each step.
        bench.machine.entitlement(bench.now());
        bench.later(2 * MINUTE).fails(FaultClass::Denied, "CustomerNotEntitledException");
        assert_eq!(bench.state(), State::Denied);
        assert_eq!(matches!(bench.next, Next::Leave(_)), leaves, "{stays_once_open} {grace_period:?}");
    }
}

// === grace and the kept receipt ===

fn graceful() -> RegistrationPolicy {
    RegistrationPolicy { grace_period: 60 * MINUTE, ..policy() }
}

#[test]
fn grace_opens_at_the_first_failure_and_ends_on_time() {
    let mut bench = Bench::new(graceful());
    assert!(!bench.open(), "nothing has failed yet");
    bench.fails(FaultClass::Transient, "Dns");
    assert_eq!((bench.state(), bench.open()), (State::Grace, true));
    assert!(matches!(bench.notes.remember, Some(Remember::Failing { refused: false, .. })));
    bench.later(60 * MINUTE - Duration::from_millis(1));
    assert_eq!(bench.state(), State::Grace);
    bench.later(Duration::from_millis(1));
    assert_eq!((bench.state(), bench.open()), (State::Unavailable, false));
}

#[test]
fn a_restart_does_not_begin_a_new_grace() {
    let known = Known { first_failed_at: Some(WALL.minus(59 * MINUTE)), ..Known::default() };
    let remembered = Remembered { known, ..Remembered::default() };
    let mut bench = Bench::remembering(graceful(), remembered);
    bench.fails(FaultClass::Transient, "Dns");
    assert_eq!(bench.state(), State::Grace);
    bench.later(2 * MINUTE);
    assert!(!bench.open());
}

#[test]
fn a_clock_set_back_does_not_lengthen_the_grace() {
    let known = Known { first_failed_at: Some(WALL.plus(MINUTE)), ..Known::default() };
    let remembered = Remembered { known, ..Remembered::default() };
    let mut bench = Bench::remembering(graceful(), remembered);
    bench.fails(FaultClass::Transient, "Dns");
    assert!(!bench.open());
}

#[test]
fn a_refusal_a_bad_token_or_a_misconfiguration_ends_grace_for_good() {
    for event in [
        || Event::Answered(AttemptResult::Fault(fault(FaultClass::Denied, "CustomerNotEntitledException"))),
        || Event::Answered(AttemptResult::Fault(fault(FaultClass::Misconfigured, "InvalidRegionException"))),
        || Event::Answered(AttemptResult::Fault(fault(FaultClass::Access, "AccessDeniedException"))),
        || Event::Answered(AttemptResult::Unverified(reason::unverified("SignatureInvalid", None))),
    ] {
        let mut bench = Bench::new(graceful());
        bench.fails(FaultClass::Transient, "Dns");
        assert!(bench.open());
        bench.step(event());
        assert!(!bench.open());
        bench.fails(FaultClass::Transient, "Dns");
        assert!(!bench.open(), "{:?}", bench.state());
    }
}

#[test]
fn a_refusal_of_an_earlier_pod_on_the_same_volume_ends_grace_too() {
    let remembered = Remembered { refused: true, ..Remembered::default() };
    let mut bench = Bench::remembering(graceful(), remembered);
    bench.fails(FaultClass::Transient, "Dns");
    assert!(!bench.open());
    bench.succeeds();
    assert!(!bench.notes.entitled_after_refusal, "it was not this pod that was refused");
}

fn with_kept_receipt() -> Bench {
    // Issued 23 h ago: a day and two hours of failed attempts leave three.
    let kept = Some((Arc::new("kept"), WALL.minus(23 * 60 * MINUTE)));
    Bench::remembering(policy(), Remembered { kept, ..Remembered::default() })
}

#[test]
fn the_kept_receipt_opens_only_while_aws_cannot_be_reached_and_only_while_young() {
    let mut bench = with_kept_receipt();
    assert!(!bench.open(), "AWS is asked first");
    bench.fails(FaultClass::Transient, "ConnectTimeout");
    let standing = bench.machine.standing(bench.now());
    assert_eq!(standing.state(), State::Entitled);
    assert!(standing.reason().is_some_and(|reason| reason.code == FaultCode::known("ConnectTimeout")));
    assert_eq!(bench.machine.changes_in(bench.now()), Some(WRITTEN_AHEAD), "time is written ahead");
    bench.later(180 * MINUTE - Duration::from_secs(1));
    assert!(bench.open());
    bench.later(Duration::from_secs(1));
    assert!(!bench.open());
}

#[test]
fn a_definite_answer_beats_the_kept_receipt() {
    let mut bench = with_kept_receipt();
    bench.fails(FaultClass::Transient, "ConnectTimeout");
    assert!(bench.open());
    bench.fails(FaultClass::Denied, "CustomerNotEntitledException");
    assert!(!bench.open());
    bench.fails(FaultClass::Transient, "ConnectTimeout");
    assert!(!bench.open());
}

// === laws ===

fn any_event() -> impl Strategy<Value = (u32, u8)> {
    (0..7200u32, 0..8u8)
}

fn event_of(kind: u8) -> Event<&'static str> {
    Event::Answered(match kind {
        0 => AttemptResult::Fault(fault(FaultClass::Denied, "CustomerNotEntitledException")),
        1 => AttemptResult::Fault(fault(FaultClass::Misconfigured, "InvalidPublicKeyVersionException")),
        2 => AttemptResult::Fault(fault(FaultClass::Access, "AccessDeniedException")),
        3 => AttemptResult::Fault(fault(FaultClass::ExpiredSession, "ExpiredTokenException")),
        4 => AttemptResult::Unverified(reason::unverified("NonceMismatch", None)),
        5 | 6 => AttemptResult::Fault(fault(FaultClass::Transient, "ThrottlingException")),
        _ => AttemptResult::Verified { proof: "token", rotation: None },
    })
}

proptest! {
    /// Without grace and without a kept receipt, the gate is open exactly when a proof has come.
    #[test]
    fn only_a_proof_opens(events in prop::collection::vec(any_event(), 0..40)) {
        let mut bench = Bench::new(RegistrationPolicy { versions: vec![version(1), version(2)], ..policy() });
        for (seconds, kind) in events {
            bench.later(Duration::from_secs(seconds.into()));
            bench.step(event_of(kind));
            prop_assert_eq!(bench.open(), kind == 7);
            if kind == 7 {
                prop_assert_eq!(bench.next, Next::Rest);
                break;
            }
        }
    }

    /// After a definite refusal grace never opens the gate, whatever came before and since.
    #[test]
    fn no_grace_after_a_no(events in prop::collection::vec(any_event(), 0..40)) {
        let mut bench = Bench::new(graceful());
        let mut refused = false;
        for (seconds, kind) in events {
            bench.later(Duration::from_secs(seconds.into()));
            bench.step(event_of(kind));
            refused |= matches!(kind, 0..=2 | 4);
            if kind == 7 {
                break;
            }
            prop_assert!(!(refused && bench.open()), "{:?}", bench.state());
        }
    }

    /// The time of the next attempt is published, and never more than five and a half minutes away.
    #[test]
    fn asking_never_stops(events in prop::collection::vec((0..600u32, 0..7u8), 1..40)) {
        let mut bench = Bench::new(policy());
        for (seconds, kind) in events {
            bench.later(Duration::from_secs(seconds.into()));
            bench.step(event_of(kind));
            let now = bench.now();
            let fact = bench.machine.entitlement(now);
            match bench.next {
                Next::Ask(_) => {}
                Next::AskIn(delay) => {
                    prop_assert!(delay <= Duration::from_secs(400), "{delay:?}");
                    prop_assert_eq!(fact.next_attempt_at, Some(now.wall.plus(delay)));
                }
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }
}

fn refusal() -> FaultCode {
    FaultCode::known("CustomerNotEntitledException")
}

#[test]
fn a_refusal_after_the_gate_opened_is_a_lapse_and_ends_with_awss_next_word() {
    let mut bench = Bench::new(policy());
    bench.step(Event::Answered(AttemptResult::Verified { proof: "proof", rotation: None }));
    bench.machine.on_refusal(bench.now(), Some(&refusal()));
    let standing = bench.machine.standing(bench.now());
    assert_eq!((standing.state(), standing.gate_open()), (State::Lapsed, true));
    assert_eq!(bench.machine.changes_in(bench.now()), None, "the seller keeps it open");
    bench.machine.on_refusal(bench.now(), None);
    assert_eq!(bench.machine.standing(bench.now()).state(), State::Entitled);
}

#[test]
fn a_lapse_shuts_the_gate_only_after_the_time_that_the_seller_chose() {
    let mut bench = Bench::new(RegistrationPolicy { close_lapsed_after: Some(60 * MINUTE), ..policy() });
    bench.step(Event::Answered(AttemptResult::Verified { proof: "proof", rotation: None }));
    bench.running = 10 * MINUTE;
    bench.machine.on_refusal(bench.now(), Some(&refusal()));
    assert_eq!(bench.machine.changes_in(bench.now()), Some(60 * MINUTE));
    bench.running = 69 * MINUTE;
    bench.machine.on_refusal(bench.now(), Some(&refusal()));
    assert!(bench.machine.standing(bench.now()).gate_open(), "a second refusal does not begin the time anew");
    let now = bench.now();
    assert!(bench.machine.entitlement(now).standing.gate_open());
    bench.running = 70 * MINUTE;
    let now = bench.now();
    assert_eq!(bench.machine.changes_in(now), Some(Duration::ZERO), "the fact that was made before is over");
    let standing = bench.machine.entitlement(now).standing;
    assert_eq!((standing.state(), standing.gate_open()), (State::Denied, false));
    assert_eq!(bench.machine.changes_in(now), None);
    bench.machine.on_refusal(bench.now(), None);
    assert!(bench.machine.standing(bench.now()).gate_open(), "subscribed again");
}

#[test]
fn a_word_about_a_gate_that_never_opened_changes_nothing() {
    let mut bench = Bench::new(policy());
    bench.fails(FaultClass::Transient, "Dns");
    bench.machine.on_refusal(bench.now(), Some(&refusal()));
    bench.machine.on_refusal(bench.now(), None);
    assert_eq!(bench.machine.standing(bench.now()).state(), State::Pending);
}

#[test]
fn a_proof_of_one_hour_is_asked_for_again_in_the_next() {
    let mut bench = Bench::new(RegistrationPolicy { renewed_hourly: true, ..policy() });
    bench.step(Event::Answered(AttemptResult::Verified { proof: "proof", rotation: None }));
    let Next::AskAt(at) = bench.next else { panic!("{:?}", bench.next) };
    let after = at.since(Hour::of(WALL).end());
    assert!(at > Hour::of(WALL).end() && after < RENEWAL_SPREAD, "{at}");
    bench.running = at.since(WALL);
    bench.step(Event::Woke);
    assert!(matches!(bench.next, Next::Ask(_)));
    for (class, code) in [(FaultClass::Transient, "Dns"), (FaultClass::Access, "AccessDeniedException")] {
        bench.fails(class, code);
        let standing = bench.machine.standing(bench.now());
        assert_eq!(standing.state(), State::Entitled, "{code} says nothing about the entitlement");
        assert_eq!(standing.reason().unwrap().code.as_str(), code);
        assert!(matches!(bench.next, Next::AskIn(_)));
    }
    bench.fails(FaultClass::Denied, "CustomerNotEntitledException");
    assert_eq!(bench.machine.standing(bench.now()).state(), State::Lapsed);
    assert!(matches!(bench.next, Next::AskIn(_)), "it is asked about again");
    bench.fails(FaultClass::Transient, "Dns");
    assert_eq!(bench.machine.standing(bench.now()).state(), State::Lapsed, "AWS's last word stands");
    bench.step(Event::Answered(AttemptResult::Verified { proof: "proof", rotation: None }));
    assert_eq!(bench.machine.standing(bench.now()).state(), State::Entitled);
}

#[test]
fn a_signature_that_aws_refuses_for_the_clock_counts_when_it_is_refused_again() {
    let mut bench = Bench::new(graceful());
    let skewed = || Fault {
        clock_offset_seconds: Some(-7200),
        ..fault(FaultClass::Access, "InvalidSignatureException")
    };
    bench.step(Event::Answered(AttemptResult::Fault(skewed())));
    assert!(!matches!(bench.notes.remember, Some(Remember::Failing { refused: true, .. })));
    let reason = bench.machine.standing(bench.now()).reason().cloned().unwrap();
    assert_eq!(
        (reason.code.as_str(), reason.message.as_ref()),
        ("ClockSkew", "The node's clock is 120 min ahead of AWS's.")
    );
    bench.fails(FaultClass::Transient, "Dns");
    assert!(bench.open(), "nobody has refused the pod");
    bench.step(Event::Answered(AttemptResult::Fault(skewed())));
    assert!(matches!(bench.notes.remember, Some(Remember::Failing { refused: true, .. })));
    bench.fails(FaultClass::Transient, "Dns");
    assert!(!bench.open());
}

#[test]
fn unreported_usage_shuts_an_open_gate_and_nothing_else() {
    let close = RegistrationPolicy { close_lapsed_after: Some(60 * MINUTE), ..graceful() };
    type Prepare = fn(&mut Bench);
    let table: [(Prepare, State, State); 6] = [
        (|_| {}, State::Pending, State::Pending),
        (
            |bench| {
                bench.succeeds();
            },
            State::Entitled,
            State::Unreported,
        ),
        (
            |bench| {
                bench.fails(FaultClass::Transient, "Dns");
            },
            State::Grace,
            State::Unreported,
        ),
        (
            |bench| {
                bench.succeeds();
                bench.machine.on_refusal(bench.now(), Some(&refusal()));
            },
            State::Lapsed,
            State::Unreported,
        ),
        (
            |bench| {
                bench.fails(FaultClass::Denied, "CustomerNotEntitledException");
            },
            State::Denied,
            State::Denied,
        ),
        (
            |bench| {
                bench.step(Event::Answered(AttemptResult::Unverified(reason::unverified(
                    "NonceMismatch",
                    None,
                ))));
            },
            State::Unverified,
            State::Unverified,
        ),
    ];
    for (prepare, before, during) in table {
        let mut bench = Bench::new(close.clone());
        prepare(&mut bench);
        assert_eq!(bench.state(), before);
        bench.machine.on_unreported(Some(Unreported::NotAccepted));
        assert_eq!(bench.state(), during, "{before:?}");
        let standing = bench.machine.standing(bench.now());
        if during == State::Unreported {
            assert_eq!((standing.gate_open(), standing.exit()), (false, Exit::NotEntitled));
            assert_eq!(standing.reason().unwrap().code.as_str(), "UsageUnreported");
            bench.machine.on_unreported(Some(Unreported::NotTaken));
            let standing = bench.machine.standing(bench.now());
            assert!(!standing.gate_open());
            assert_eq!(standing.reason().unwrap().code.as_str(), "UsageNotTaken");
        }
        bench.machine.on_unreported(None);
        assert_eq!(bench.state(), before, "it ended");
    }
}

fn new_pod() -> RegistrationPolicy {
    RegistrationPolicy { ask_after_denial: false, ..policy() }
}

#[test]
fn after_a_denial_only_a_new_pod_asks_where_the_seller_says_so() {
    let mut bench = Bench::new(new_pod());
    bench.fails(FaultClass::Denied, "CustomerNotEntitledException");
    assert_eq!((bench.state(), bench.next), (State::Denied, Next::Rest));
    assert!(matches!(bench.notes.remember, Some(Remember::Failing { denied: true, .. })));
    let remedy = bench.machine.standing(bench.now()).reason().unwrap().remedy.clone();
    assert!(remedy.contains("replace the pod"), "{remedy}");

    let denied = || Remembered { denied: true, refused: true, ..Remembered::default() };
    let again = Bench::remembering(new_pod(), denied());
    assert_eq!((again.state(), again.next), (State::Denied, Next::Rest), "a restart of its container");
    let exits = Bench::remembering(RegistrationPolicy { exit_when_refused: true, ..new_pod() }, denied());
    assert_eq!(exits.next, Next::Leave(Exit::NotEntitled));
    let asks = Bench::remembering(policy(), denied());
    assert!(matches!(asks.next, Next::Ask(_)), "ask-again");
    let new = Bench::remembering(new_pod(), Remembered::default());
    assert!(matches!(new.next, Next::Ask(_)), "a new pod");
}

#[test]
fn other_refusals_are_asked_about_again_under_either_policy() {
    for (class, code) in [
        (FaultClass::Misconfigured, "InvalidRegionException"),
        (FaultClass::Access, "AccessDeniedException"),
        (FaultClass::Transient, "Dns"),
    ] {
        let mut bench = Bench::new(new_pod());
        bench.fails(class, code);
        assert!(matches!(bench.next, Next::AskIn(_)), "{code}");
        assert!(matches!(bench.notes.remember, Some(Remember::Failing { denied: false, .. })), "{code}");
    }
}

#[test]
fn a_denied_renewal_is_the_last_question_where_only_a_new_pod_asks() {
    let mut bench = Bench::new(RegistrationPolicy { renewed_hourly: true, ..new_pod() });
    bench.succeeds();
    bench.fails(FaultClass::Denied, "CustomerNotEntitledException");
    assert_eq!((bench.state(), bench.next), (State::Lapsed, Next::Rest));
}
