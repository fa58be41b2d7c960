//! The loop with paused time and a metering service that signs as AWS does.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PSS_SHA256, RsaKeyPair};
use rustls_pki_types::pem::PemObject as _;

use super::*;
use crate::entitlement::refusal_update::Unreported;
use crate::entitlement::{self, State, Watch, refusal_update};
use tollgate_marketplace::scripted::{Act, Scripted};
use tollgate_marketplace::{FaultCode, PublicKeyVersion, Quantity};
use tollgate_receipt::PublicKey;
use tollgate_time::Timestamp;

const PUBLIC: &[u8] = include_bytes!("../../tests/fixtures/keys/rsa3072-test-only.pub.pem");
const PRIVATE: &[u8] = include_bytes!("../../tests/fixtures/keys/rsa3072-test-only.pem");
const START: Timestamp = Timestamp::from_unix_seconds(1_795_507_200);

/// A service that performs `acts` first and then signs every request.
fn scripted(acts: impl IntoIterator<Item = Act>) -> Arc<Scripted> {
    let der = rustls_pki_types::PrivatePkcs8KeyDer::from_pem_slice(PRIVATE).unwrap();
    let pair = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).unwrap();
    Arc::new(Scripted::in_turn(acts).signing(move |request| sign(&pair, request)))
}

fn sign(pair: &RsaKeyPair, request: &RegisterUsage) -> String {
    let claims = serde_json::json!({
        "productCode": request.product_code.as_str(),
        "nonce": request.nonce.as_str(),
        "publicKeyVersion": request.public_key_version.value(),
    });
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"PS256","typ":"JWT"}"#);
    let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let mut signature = vec![0; pair.public().modulus_len()];
    pair.sign(&RSA_PSS_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature).unwrap();
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// The dimensions of all reports, including dry runs.
fn reported(service: &Scripted) -> Vec<String> {
    service.reports().into_iter().map(|report| report.dimension).collect()
}

fn config(grace_period: Duration) -> Config {
    let mut keys = KeyRing::default();
    keys.insert(PublicKeyVersion::FIRST, PublicKey::from_pem(PUBLIC).unwrap());
    Config {
        product_code: "demohourly".parse().unwrap(),
        policy: RegistrationPolicy {
            unavailable_after: Duration::from_secs(1800),
            grace_period,
            exit_when_refused: false,
            stays_once_open: false,
            versions: keys.versions().collect(),
            stated_version: None,
            renewed_hourly: false,
            close_lapsed_after: None,
            ask_after_denial: true,
        },
        asking: Asking::Signature { keys, keep_receipt: true },
        allow_emulated: false,
        docs_url: None,
    }
}

fn start(service: &Arc<Scripted>, grace_period: Duration, store: Option<Store>) -> (Watch, WallClock) {
    let (_, refusal_receiver) = refusal_update::channel();
    start_with(service, config(grace_period), store, refusal_receiver)
}

fn start_with(
    service: &Arc<Scripted>,
    config: Config,
    store: Option<Store>,
    refusal_receiver: RefusalReceiver,
) -> (Watch, WallClock) {
    let clock = WallClock::fixed(START);
    let (publisher, watch) = entitlement::channel(START);
    let (register, meter) = (Arc::clone(service) as Arc<dyn Register>, Arc::clone(service) as Arc<dyn Meter>);
    let metrics = Arc::new(Metrics::new());
    let context = RegistrationContext {
        register,
        meter,
        clock: clock.clone(),
        publisher,
        store,
        metrics,
        refusal_receiver,
    };
    let registration = Registration::new(config, "pod-1".into(), context);
    tokio::spawn(registration.run());
    (watch, clock)
}

/// One process of `pod` on the volume, with its clock at `at`.
fn start_pod(
    service: &Arc<Scripted>,
    pod: &str,
    at: Timestamp,
    store: &Store,
) -> (Watch, tokio::task::JoinHandle<Exit>, Arc<Metrics>) {
    let (publisher, watch) = entitlement::channel(at);
    let (register, meter) = (Arc::clone(service) as Arc<dyn Register>, Arc::clone(service) as Arc<dyn Meter>);
    let (metrics, (_, refusal_receiver)) = (Arc::new(Metrics::new()), refusal_update::channel());
    let context = RegistrationContext {
        register,
        meter,
        clock: WallClock::fixed(at),
        publisher,
        store: Some(store.clone()),
        metrics: Arc::clone(&metrics),
        refusal_receiver,
    };
    let registration = Registration::new(config(Duration::ZERO), pod.into(), context);
    (watch, tokio::spawn(registration.run()), metrics)
}

async fn until(watch: &mut Watch, state: State) {
    watch.wait_for(|fact| fact.standing.state() == state).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn throttles_are_waited_out_with_a_new_nonce_each() {
    let throttled = || Act::Fail(FaultClass::Transient, "ThrottlingException");
    let service = scripted([throttled(), throttled(), throttled()]);
    let (mut watch, _) = start(&service, Duration::ZERO, None);
    until(&mut watch, State::Entitled).await;
    let asked = service.registrations();
    let nonces: Vec<&str> = asked.iter().map(|request| request.nonce.as_str()).collect();
    let distinct: std::collections::BTreeSet<_> = nonces.iter().collect();
    assert_eq!((nonces.len(), distinct.len()), (4, 4));
    assert_eq!(watch.borrow().attempts, 4);
    assert_eq!(watch.borrow().region.as_ref().unwrap().as_str(), "us-east-1");
}

#[tokio::test(start_paused = true)]
async fn the_state_changes_in_time_while_a_call_hangs() {
    let service = scripted([Act::Fail(FaultClass::Transient, "Timeout"), Act::Hang]);
    let (mut watch, _) = start(&service, Duration::ZERO, None);
    until(&mut watch, State::Pending).await;
    let began = clock::monotonic();
    until(&mut watch, State::Unavailable).await;
    assert_eq!(clock::monotonic().duration_since(began).as_secs(), 1800);
}

#[tokio::test(start_paused = true)]
async fn a_refused_pod_is_asked_about_again_in_minutes_not_seconds() {
    let service = scripted([Act::Fail(FaultClass::Denied, "CustomerNotEntitledException")]);
    let (mut watch, _) = start(&service, Duration::ZERO, None);
    until(&mut watch, State::Denied).await;
    let began = clock::monotonic();
    until(&mut watch, State::Entitled).await;
    let waited = clock::monotonic().duration_since(began).as_secs();
    assert!((240..=360).contains(&waited), "{waited} s");
}

#[tokio::test(start_paused = true)]
async fn grace_ends_by_the_wall_clock_even_when_it_jumps() {
    let service = scripted([Act::Fail(FaultClass::Transient, "Dns"), Act::Hang]);
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path().to_owned());
    let (mut watch, clock) = start(&service, Duration::from_secs(3600), Some(store.clone()));
    until(&mut watch, State::Grace).await;
    assert_eq!(store.load().known().first_failed_at, Some(START), "a restart will count from here");
    clock.advance(Duration::from_secs(3601));
    until(&mut watch, State::Pending).await;
    assert!(watch.borrow().has_opened);
}

/// A folder with the file's name stands for every reason why nothing can be kept; each start would begin grace anew.
#[tokio::test(start_paused = true)]
async fn there_is_no_grace_where_it_cannot_be_counted() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path().to_owned());
    for name in [memory::FILE_NAME, ".registration.json.new"] {
        let path = folder.path().join(name);
        std::fs::create_dir(&path).unwrap();
        let service = scripted([(); 3].map(|()| Act::Fail(FaultClass::Transient, "Dns")));
        let (mut watch, _clock) = start(&service, Duration::from_secs(3600), Some(store.clone()));
        watch.wait_for(|fact| fact.standing.reason().is_some()).await.unwrap();
        assert_eq!(watch.borrow().standing.state(), State::Pending, "{name}");
        until(&mut watch, State::Entitled).await;
        std::fs::remove_dir_all(path).unwrap();
    }
    let (mut watch, _clock) = start(&away(), Duration::from_secs(3600), Some(store));
    watch.wait_for(|fact| fact.standing.reason().is_some()).await.unwrap();
    assert_eq!(watch.borrow().standing.state(), State::Grace);
}

#[tokio::test(start_paused = true)]
async fn a_success_is_remembered_and_forgets_the_failures_before() {
    let service = scripted([Act::Fail(FaultClass::Transient, "Dns")]);
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path().to_owned());
    let (mut watch, _) = start(&service, Duration::ZERO, Some(store.clone()));
    until(&mut watch, State::Entitled).await;
    // The fact is published after the write, so a reader of the fact may rely on the file.
    let record = store.load();
    assert!(record.receipt_of("pod-1").is_some() && record.known().first_failed_at.is_none());
}

fn asking(asking: Asking) -> Config {
    let mut config = config(Duration::ZERO);
    config.policy.renewed_hourly = matches!(asking, Asking::ZeroReport(_));
    config.policy.close_lapsed_after = Some(Duration::from_secs(3600));
    Config { asking, ..config }
}

#[tokio::test(start_paused = true)]
async fn permission_is_asked_for_by_a_dry_run_and_a_lapse_is_heard() {
    let service = scripted([Act::Fail(FaultClass::Access, "AccessDeniedException")]);
    let (refusal_sender, refusal_receiver) = refusal_update::channel();
    let (mut watch, _) =
        start_with(&service, asking(Asking::Permission(vec!["requests".into()])), None, refusal_receiver);
    until(&mut watch, State::Misconfigured).await;
    until(&mut watch, State::Entitled).await;
    let fact = Arc::clone(&watch.borrow());
    assert_eq!((fact.standing.proof().unwrap().name(), fact.public_key_version), ("permission", None));
    assert!(service.reports().iter().all(|report| report.dry_run && report.dimension == "requests"));
    let refusal = Some(FaultCode::known("CustomerNotEntitledException"));
    refusal_sender.send_modify(|update| update.refusal = refusal);
    until(&mut watch, State::Lapsed).await;
    until(&mut watch, State::Denied).await;
    refusal_sender.send_modify(|update| update.refusal = None);
    until(&mut watch, State::Entitled).await;
    assert_eq!(service.reports().len(), 2, "an open gate is not asked about again");
}

#[tokio::test(start_paused = true)]
async fn a_report_of_zero_is_made_once_an_hour() {
    let service = scripted([]);
    let (_, refusal_receiver) = refusal_update::channel();
    let (mut watch, clock) =
        start_with(&service, asking(Asking::ZeroReport("alive".into())), None, refusal_receiver);
    until(&mut watch, State::Entitled).await;
    assert_eq!(watch.borrow().standing.proof().unwrap().name(), "metering");
    for attempts in 2..5 {
        clock.advance(Duration::from_secs(3600 + 600));
        watch.wait_for(|fact| fact.attempts == attempts).await.unwrap();
        until(&mut watch, State::Entitled).await;
    }
    let reports = service.reports();
    assert!(reports.iter().all(|report| !report.dry_run && report.usage.quantity == Quantity::ZERO));
    let tokens: std::collections::BTreeSet<_> = reports.iter().map(|report| &report.client_token).collect();
    assert_eq!(tokens.len(), reports.len());
}

#[tokio::test(start_paused = true)]
async fn a_seller_needs_credentials_only() {
    let service = scripted([Act::Fail(FaultClass::Access, "CredentialsMissing")]);
    let (_, refusal_receiver) = refusal_update::channel();
    let (mut watch, _) = start_with(&service, asking(Asking::Seller), None, refusal_receiver);
    until(&mut watch, State::Misconfigured).await;
    until(&mut watch, State::Entitled).await;
    assert_eq!(watch.borrow().standing.proof().unwrap().name(), "seller");
}

fn away() -> Arc<Scripted> {
    scripted((0..1000).map(|_| Act::Fail(FaultClass::Transient, "Connection")))
}

/// Runs one process until AWS has entitled its pod, and ends it; the receipt is then on the volume.
async fn entitle(pod: &str, at: Timestamp, store: &Store) {
    let (mut watch, task, _) = start_pod(&scripted([]), pod, at, store);
    until(&mut watch, State::Entitled).await;
    task.abort();
}

/// Runs one process until its first answer has been judged, and ends it.
async fn first_state(pod: &str, at: Timestamp, store: &Store) -> State {
    let (mut watch, task, _) = start_pod(&away(), pod, at, store);
    let judged = |fact: &Arc<entitlement::Entitlement>| fact.standing.reason().is_some();
    let state = watch.wait_for(judged).await.unwrap().standing.state();
    task.abort();
    let _ = task.await;
    state
}

/// A pod that starts twice on another pod's volume must not get that pod's receipt.
#[tokio::test(start_paused = true)]
async fn a_kept_receipt_opens_for_its_own_pod_however_often_another_starts() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path().to_owned());
    entitle("pod-a", START, &store).await;
    for pod in ["pod-b", "pod-b", "pod-b", ""] {
        assert_eq!(first_state(pod, START, &store).await, State::Pending, "{pod}");
    }
    assert_eq!(first_state("pod-a", START, &store).await, State::Entitled);
    assert_eq!(first_state("pod-b", START, &store).await, State::Pending);
}

/// Neither a restart nor a clock that is set back begins the two hours anew.
#[tokio::test(start_paused = true)]
async fn an_old_receipt_opens_for_two_hours_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path().to_owned());
    entitle("pod-a", START, &store).await;
    let months_later = START.plus(Duration::from_secs(100 * 24 * 3600));
    let minutes = |minutes: u64| months_later.plus(Duration::from_secs(60 * minutes));
    for (at, state) in [
        (minutes(0), State::Entitled),
        (minutes(60), State::Entitled),
        (minutes(0), State::Entitled),
        (minutes(119), State::Entitled),
        (minutes(121), State::Pending),
        (minutes(30), State::Pending),
        (START, State::Pending),
    ] {
        assert_eq!(first_state("pod-a", at, &store).await, state, "{at}");
    }
    entitle("pod-a", minutes(200), &store).await;
    assert_eq!(first_state("pod-a", minutes(201), &store).await, State::Entitled, "AWS has answered");
}

/// The age of a kept receipt includes the time for which the process has run.
#[tokio::test(start_paused = true)]
async fn a_clock_set_back_before_a_restart_does_not_make_a_receipt_young() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path().to_owned());
    let (mut watch, task, _) = start_pod(&scripted([]), "pod-a", START, &store);
    until(&mut watch, State::Entitled).await;
    // The wall clock of this test does not move; only running time passes.
    while store.load().known().latest.is_none_or(|latest| latest < START.plus(Duration::from_secs(27 * 3600)))
    {
        tokio::time::sleep(Duration::from_secs(1800)).await;
    }
    task.abort();
    assert_eq!(first_state("pod-a", START, &store).await, State::Entitled, "for two hours");
    let known = store.load().known();
    assert!(known.first_failed_at.unwrap() >= START.plus(Duration::from_secs(27 * 3600)), "{known:?}");
}

/// The metric must return to 0 with the clock.
#[tokio::test(start_paused = true)]
async fn a_clock_that_is_off_is_a_reason_until_it_is_right() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path().to_owned());
    let service = scripted([]);
    let (mut watch, _task, metrics) = start_pod(&service, "pod-a", START, &store);
    until(&mut watch, State::Entitled).await;
    for (offset, told) in [(600, true), (0, false), (-7200, true), (599, false)] {
        service.shows_skew(offset);
        let code = |fact: &Arc<entitlement::Entitlement>| {
            fact.standing.reason().map(|reason| reason.code.as_str().to_owned())
        };
        let fits =
            |fact: &Arc<entitlement::Entitlement>| (code(fact).as_deref() == Some("ClockSkew")) == told;
        watch.wait_for(fits).await.unwrap();
        assert_eq!(watch.borrow().standing.state(), State::Entitled, "{offset}");
        let shown = metrics.encode(&watch.borrow(), crate::metrics::Format::Text);
        assert!(shown.contains(&format!("\ntollgate_clock_skew_seconds {offset}")), "{shown}");
    }
}

#[tokio::test(start_paused = true)]
async fn usage_that_is_unreported_from_before_the_start_never_lets_the_gate_open() {
    let service = scripted([]);
    let (refusal_sender, refusal_receiver) = refusal_update::channel();
    refusal_sender.send_modify(|update| update.unreported = Some(Unreported::NotTaken));
    let permission = Asking::Permission(vec!["requests".into()]);
    let (mut watch, _) = start_with(&service, asking(permission), None, refusal_receiver);
    until(&mut watch, State::Unreported).await;
    let fact = Arc::clone(&watch.borrow());
    assert!(!fact.has_opened, "AWS has accepted the dry run: {fact:?}");
    refusal_sender.send_modify(|update| update.unreported = None);
    until(&mut watch, State::Entitled).await;
    refusal_sender.send_modify(|update| update.unreported = Some(Unreported::NotTaken));
    until(&mut watch, State::Unreported).await;
}

#[tokio::test(start_paused = true)]
async fn a_denied_pod_remembers_it_and_asks_no_second_time_where_only_a_new_pod_does() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path().to_owned());
    let service = scripted([Act::Fail(FaultClass::Denied, "CustomerNotEntitledException")]);
    let run = |pod: &str| {
        let mut config = config(Duration::ZERO);
        config.policy.ask_after_denial = false;
        let (publisher, watch) = entitlement::channel(START);
        let context = RegistrationContext {
            register: Arc::clone(&service) as Arc<dyn Register>,
            meter: Arc::clone(&service) as Arc<dyn Meter>,
            clock: WallClock::fixed(START),
            publisher,
            store: Some(store.clone()),
            metrics: Arc::new(Metrics::new()),
            refusal_receiver: refusal_update::channel().1,
        };
        let task = tokio::spawn(Registration::new(config, pod.into(), context).run());
        (task, watch)
    };
    let asked = || service.registrations().len();
    for _ in 0..3 {
        let (task, mut watch) = run("pod-1");
        until(&mut watch, State::Denied).await;
        tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
        assert_eq!((watch.borrow().standing.state(), asked()), (State::Denied, 1));
        assert_eq!(watch.borrow().next_attempt_at, None);
        task.abort();
    }
    let (task, mut watch) = run("pod-2");
    until(&mut watch, State::Entitled).await;
    assert_eq!(asked(), 2, "AWS accepts a new pod");
    task.abort();
    let (_task, mut watch) = run("pod-1");
    until(&mut watch, State::Entitled).await;
    assert_eq!(asked(), 3, "a success forgets the denial");
}

#[tokio::test(start_paused = true)]
async fn permission_is_of_the_first_dimension_that_aws_knows() {
    let unknown = || Act::Fail(FaultClass::Misconfigured, "InvalidUsageDimensionException");
    let dimensions = || Asking::Permission(vec!["reqests".into(), "requests".into(), "gigabytes".into()]);
    let service = scripted([unknown()]);
    let (mut watch, _) = start_with(&service, asking(dimensions()), None, refusal_update::channel().1);
    until(&mut watch, State::Entitled).await;
    assert_eq!(reported(&service), ["reqests", "requests"]);
    let fact = Arc::clone(&watch.borrow());
    let Proof::Permission(permission) = fact.standing.proof().unwrap().as_ref() else { panic!("{fact:?}") };
    assert_eq!(permission.dimension(), "requests");

    let service = scripted([unknown(), unknown(), unknown()]);
    let (mut watch, _) = start_with(&service, asking(dimensions()), None, refusal_update::channel().1);
    until(&mut watch, State::Misconfigured).await;
    let fact = Arc::clone(&watch.borrow());
    assert_eq!(fact.standing.reason().unwrap().code.as_str(), "InvalidUsageDimensionException");
    assert_eq!(
        reported(&service).len(),
        3,
        "AWS knows none of them: nothing can be billed, and nothing is proven"
    );
}

#[tokio::test(start_paused = true)]
async fn dimensions_are_tried_behind_the_gate_and_within_the_quota() {
    let service = scripted([
        Act::Fail(FaultClass::Transient, "ThrottlingException"),
        Act::Fail(FaultClass::Misconfigured, "InvalidUsageDimensionException"),
    ]);
    let metrics = Arc::new(Metrics::new());
    let trial = dimensions::Trial {
        aws: Arc::clone(&service) as Arc<dyn Meter>,
        product_code: "demometered".parse().unwrap(),
        clock: WallClock::fixed(START),
        metrics: Arc::clone(&metrics),
    };
    let (publisher, watch) = entitlement::channel(START);
    let names: Vec<String> = (0..24).map(|index| format!("dimension-{index}")).collect();
    let tried = tokio::spawn(trial.run(names, watch.clone()));
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(service.reports().is_empty(), "the gate's own attempt goes first");
    publisher.send_modify(|fact| {
        let mut opened = fact.as_ref().clone();
        opened.has_opened = true;
        *fact = Arc::new(opened);
    });
    let began = clock::monotonic();
    tried.await.unwrap();
    let took = clock::monotonic().duration_since(began);
    let asked = reported(&service);
    assert_eq!(asked.len(), 25, "the throttled one twice, every other once: {asked:?}");
    assert!(took >= 25 * dimensions::TRY_EVERY && took < Duration::from_secs(60), "{took:?}");
    let text = metrics.encode(&watch.borrow(), crate::metrics::Format::Text);
    assert!(text.contains("tollgate_usage_dimension_unknown{dimension=\"dimension-0\"} 1"), "{text}");
    assert_eq!(text.matches("tollgate_usage_dimension_unknown{").count(), 1, "{text}");
}

/// A slow volume holds the receipt while AWS cannot be reached.
#[tokio::test(start_paused = true)]
async fn what_a_slow_disk_holds_counts_when_it_arrives() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path().to_owned());
    entitle("pod-a", START, &store).await;
    let slow = store.hold().await;
    let (mut watch, task, _) = start_pod(&away(), "pod-a", START, &store);
    watch.wait_for(|fact| fact.attempts > 2).await.unwrap();
    assert_eq!(watch.borrow().standing.state(), State::Pending, "nobody knows yet");
    drop(slow);
    until(&mut watch, State::Entitled).await;
    task.abort();
    // The failures meanwhile were added to the record, and replaced nothing in it.
    let record = store.load();
    assert!(record.receipt_of("pod-a").is_some() && record.known().first_failed_at.is_some());
}

#[tokio::test(start_paused = true)]
async fn what_a_slow_disk_holds_is_older_than_awss_answer() {
    for (act, state) in [
        (Act::Accept, State::Entitled),
        (Act::Fail(FaultClass::Denied, "CustomerNotEntitledException"), State::Denied),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().to_owned());
        entitle("pod-a", START, &store).await;
        let slow = store.hold().await;
        let (mut watch, task, _) = start_pod(&scripted([act, Act::Hang]), "pod-a", START, &store);
        until(&mut watch, state).await;
        drop(slow);
        // The answer is written once the disk responds, and the old content changes nothing.
        while store.load().refused != (state == State::Denied) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(watch.borrow_and_update().standing.state(), state);
        task.abort();
    }
}

/// The emulator may show itself only after the gate has opened.
#[tokio::test(start_paused = true)]
async fn an_emulated_answer_shuts_a_gate_that_opened_before_it() {
    for proof in [Asking::Seller, Asking::Permission(vec!["requests".into()])] {
        let (refusal_sender, refusal_receiver) = refusal_update::channel();
        let (mut watch, _) = start_with(&scripted([]), asking(proof), None, refusal_receiver);
        until(&mut watch, State::Entitled).await;
        refusal_sender.send_modify(|update| update.emulated = true);
        until(&mut watch, State::Unverified).await;
        assert!(watch.borrow().emulated);
    }
    let (refusal_sender, refusal_receiver) = refusal_update::channel();
    let accepting = Config { allow_emulated: true, ..asking(Asking::Seller) };
    let (mut watch, _) = start_with(&scripted([]), accepting, None, refusal_receiver);
    until(&mut watch, State::Entitled).await;
    refusal_sender.send_modify(|update| update.emulated = true);
    watch.wait_for(|fact| fact.emulated).await.unwrap();
    assert_eq!(watch.borrow().standing.state(), State::Entitled);
}

/// Each failed write is counted; the log has one line a minute.
#[tokio::test(start_paused = true)]
async fn a_state_folder_that_takes_no_writes_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path().to_owned());
    std::fs::create_dir_all(folder.path().join(".registration.json.new/full")).unwrap();
    let (mut watch, task, metrics) = start_pod(&away(), "pod-a", START, &store);
    watch.wait_for(|fact| fact.attempts > 5).await.unwrap();
    let text = metrics.encode(&watch.borrow(), crate::metrics::Format::Text);
    task.abort();
    let failures = text.lines().find_map(|line| line.strip_prefix("tollgate_state_write_failures_total "));
    assert!(failures.is_some_and(|count| count.parse::<u64>().unwrap() >= 4), "{failures:?}");
}
