//! The entitlements of the seller's customers, as AWS answers `GetEntitlements`, kept for a stated time.
//!
//! - An answer is fresh for [`FRESH`], or for the shorter time that the request's `Cache-Control: max-age` asks for.
//!   Then AWS is asked again: one call for all requests of a customer.
//! - While AWS does not answer, the kept answer is shown with its age and the reason. An answer older than [`KEPT`] is
//!   not shown.
//! - An empty list is a refusal only if the product has entitlements at all. Without contract dimensions, or from an
//!   account that is not the seller's, AWS answers an empty list for everybody, so AWS is asked whether any customer
//!   has one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::header::{AGE, CACHE_CONTROL, HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use super::{problem_of, usage};
use tollgate_clock::{self as clock, WallClock};
use tollgate_http::{self as http, Body};
use tollgate_marketplace::entitlements::{Entitlement, EntitlementValue, EntitlementsOf, GetEntitlements};
use tollgate_marketplace::lifecycle::{Concerned, license_id};
use tollgate_marketplace::service::Entitle;
use tollgate_marketplace::{Fault, FaultClass, ProductCode};
use tollgate_time::Timestamp;

/// How long an answer is shown without asking AWS again.
pub const FRESH: Duration = Duration::from_secs(300);

/// The shortest such time: AWS is not asked more often for one customer, whatever a request asks for.
pub const FRESH_MIN: Duration = Duration::from_secs(5);

/// How long an answer is shown while AWS does not answer.
pub const KEPT: Duration = Duration::from_secs(24 * 3600);

/// How long a request with a kept answer waits for a new one; the call continues.
const PATIENCE: Duration = Duration::from_secs(1);

/// After a fault, how long the kept answer is shown without asking AWS again.
const FAULT_PAUSE: Duration = Duration::from_secs(30);

/// How long it is believed that no customer has an entitlement.
const NOBODY_FOR: Duration = Duration::from_secs(3600);

/// Calls at once.
const CALLS_MAX: usize = 4;

/// Calls that are made or wait for their turn; beyond it a request without a kept answer is answered with 503. A call
/// outlives its requests, so their number does not limit it.
const CALLS_WAITING_MAX: usize = 256;

/// Customers whose answers are kept. With [`BYTES_MAX`], the process stays within the container's 32 MiB.
const ENTRIES_MAX: usize = 5_000;

/// Bytes of all kept answers.
const BYTES_MAX: usize = 3 << 20;

/// An upper bound of the memory of an entry without its entitlements.
const ENTRY_BYTES: usize = 1024;

/// What an answer means for the customer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// The customer has entitlements.
    Entitled,
    /// The customer has none, and other customers of the product have some.
    None,
    /// No customer of the product has any: it has no contract dimensions, or this is not the seller's account.
    Unknown,
}

impl Meaning {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Entitled => "entitled",
            Self::None => "none",
            Self::Unknown => "unknown",
        }
    }
}

/// AWS's answer about a customer.
#[derive(Debug)]
struct Answer {
    entitlements: Vec<Entitlement>,
    meaning: Meaning,
    at: Timestamp,
    fetched: Instant,
}

impl Answer {
    /// By the clock that says more: the monotonic one stops while the machine sleeps.
    fn age(&self, now: Timestamp) -> Duration {
        clock::monotonic().duration_since(self.fetched).max(now.since(self.at))
    }

    fn bytes(&self) -> usize {
        ENTRY_BYTES + self.entitlements.iter().map(Entitlement::bytes).sum::<usize>()
    }
}

#[derive(Debug)]
struct Entry {
    answer: Arc<Answer>,
    /// An event says that the answer has changed.
    outdated: bool,
    /// The latest fault after the answer.
    failed: Option<(Instant, Fault)>,
    /// The number of the request that used it last.
    used: u64,
}

/// What is shown: an answer, with the fault if a newer one was not to be had.
type Shown = Result<(Arc<Answer>, Option<Fault>), Fault>;

/// Receives the outcome of a call in progress, once there is one.
type OutcomeReceiver = watch::Receiver<Option<Result<Arc<Answer>, Fault>>>;

/// A call in progress.
#[derive(Debug)]
struct CallInProgress {
    outcome: OutcomeReceiver,
    /// An event came after the call began, so its answer may be the one from before.
    outdated: bool,
}

#[derive(Debug, Default)]
struct Kept {
    entries: BTreeMap<EntitlementsOf, Entry>,
    requests: u64,
    calls: BTreeMap<EntitlementsOf, CallInProgress>,
    /// Calls in progress, those without a place in `calls` included.
    waiting: usize,
    /// Whether any customer has an entitlement, and when that was asked.
    anybody: Option<(bool, Instant)>,
}

/// The kept answers, in mode `saas`.
pub struct EntitlementCache {
    aws: Arc<dyn Entitle>,
    product_code: ProductCode,
    clock: WallClock,
    kept: Mutex<Kept>,
    turns: Semaphore,
}

impl EntitlementCache {
    /// Without answers yet.
    #[must_use]
    pub fn new(aws: Arc<dyn Entitle>, product_code: ProductCode, clock: WallClock) -> Arc<Self> {
        let turns = Semaphore::new(CALLS_MAX);
        Arc::new(Self { aws, product_code, clock, kept: Mutex::default(), turns })
    }

    /// The answer about a customer, as a response.
    pub(super) async fn show(self: &Arc<Self>, of: EntitlementsOf, headers: &HeaderMap) -> Response<Body> {
        let max_age =
            headers.get(CACHE_CONTROL).and_then(|value| value.to_str().ok()).map_or(FRESH, fresh_for);
        match self.get(of, max_age).await {
            Ok((answer, fault)) => {
                let age = answer.age(self.clock.now());
                let mut response = http::json(StatusCode::OK, &document(&answer, fault.as_ref(), age));
                let headers = response.headers_mut();
                headers.insert(AGE, HeaderValue::from(age.as_secs()));
                let fresh = format!("max-age={}", FRESH.as_secs());
                headers.insert(CACHE_CONTROL, HeaderValue::try_from(fresh).expect("it is a number"));
                response
            }
            Err(fault) => refused(&fault),
        }
    }

    async fn get(self: &Arc<Self>, of: EntitlementsOf, max_age: Duration) -> Shown {
        let now = self.clock.now();
        let (known, mut call) = {
            let mut kept = self.kept.lock().expect("held for a map's operation only");
            kept.requests += 1;
            let request = kept.requests;
            let known = kept.entries.get_mut(&of).map(|entry| {
                entry.used = request;
                let age = entry.answer.age(now);
                let fresh = age <= max_age && !entry.outdated;
                let paused = entry
                    .failed
                    .as_ref()
                    .filter(|(at, _)| clock::monotonic().duration_since(*at) < FAULT_PAUSE);
                let settled = if fresh { Some(None) } else { paused.map(|(_, fault)| Some(fault.clone())) };
                (Arc::clone(&entry.answer), age <= KEPT, settled)
            });
            match known {
                Some((answer, true, Some(fault))) => return Ok((answer, fault)),
                known => {
                    let known = known.filter(|(_, usable, _)| *usable).map(|(answer, ..)| answer);
                    match (self.join(&mut kept, &of), known) {
                        (Some(call), known) => (known, call),
                        (None, Some(answer)) => return Ok((answer, Some(too_busy()))),
                        (None, None) => return Err(too_busy()),
                    }
                }
            }
        };
        let patience = known.as_ref().map_or(Duration::MAX, |_| PATIENCE);
        let outcome = tokio::time::timeout(patience, call.wait_for(Option::is_some)).await;
        // The call's task always answers, unless the process ends first.
        let outcome = outcome.ok().and_then(|outcome| outcome.ok().and_then(|outcome| outcome.clone()));
        let late = || Fault::local(FaultClass::Transient, "Timeout", "AWS has not answered in time");
        match (outcome.unwrap_or_else(|| Err(late())), known) {
            (Ok(answer), _) => Ok((answer, None)),
            (Err(fault), Some(answer)) => Ok((answer, Some(fault))),
            (Err(fault), None) => Err(fault),
        }
    }

    /// The call for this customer that is in progress, or a new one; `None` if too many are in progress.
    fn join(self: &Arc<Self>, kept: &mut Kept, of: &EntitlementsOf) -> Option<OutcomeReceiver> {
        if let Some(call) = kept.calls.get(of).filter(|call| !call.outdated) {
            return Some(call.outcome.clone());
        }
        if kept.waiting >= CALLS_WAITING_MAX {
            return None;
        }
        let (publish, outcome) = watch::channel(None);
        let call = CallInProgress { outcome: outcome.clone(), outdated: false };
        // In place of one that an event has outdated, which ends without being kept.
        kept.calls.insert(of.clone(), call);
        kept.waiting += 1;
        let (cache, of, own) = (Arc::clone(self), of.clone(), outcome.clone());
        tokio::spawn(async move {
            let outcome = cache.ask(&of).await;
            let mut kept = cache.kept.lock().expect("held for a map's operation only");
            kept.waiting -= 1;
            if kept.calls.get(&of).is_some_and(|call| call.outcome.same_channel(&own)) {
                let outdated = kept.calls.remove(&of).is_some_and(|call| call.outdated);
                kept.note(of, &outcome, outdated);
            }
            drop(kept);
            publish.send_replace(Some(outcome));
        });
        Some(outcome)
    }

    async fn ask(&self, of: &EntitlementsOf) -> Result<Arc<Answer>, Fault> {
        let _turn = self.turns.acquire().await.expect("it is never closed");
        let entitlements = self.call(of.clone()).await?;
        let meaning = if !entitlements.is_empty() {
            self.note_anybody(true);
            Meaning::Entitled
        } else if self.has_anybody().await? {
            Meaning::None
        } else {
            Meaning::Unknown
        };
        Ok(Arc::new(Answer { entitlements, meaning, at: self.clock.now(), fetched: clock::monotonic() }))
    }

    async fn call(&self, of: EntitlementsOf) -> Result<Vec<Entitlement>, Fault> {
        let request = GetEntitlements { product_code: self.product_code.clone(), of };
        self.aws.get_entitlements(request).await.map(|answer| answer.entitlements)
    }

    /// Whether any customer of the product has an entitlement.
    async fn has_anybody(&self) -> Result<bool, Fault> {
        let known = self.kept.lock().expect("held for one copy only").anybody;
        match known {
            Some((true, _)) => Ok(true),
            Some((false, at)) if clock::monotonic().duration_since(at) < NOBODY_FOR => Ok(false),
            _ => {
                let anybody = !self.call(EntitlementsOf::Anybody).await?.is_empty();
                self.note_anybody(anybody);
                Ok(anybody)
            }
        }
    }

    fn note_anybody(&self, anybody: bool) {
        let mut kept = self.kept.lock().expect("held for one move only");
        kept.anybody = Some((anybody, clock::monotonic()));
    }

    /// An event says that entitlements have changed: AWS is asked again at the next request.
    pub(super) fn outdate(&self, concerned: &Concerned) {
        let mut kept = self.kept.lock().expect("held for a map's operation only");
        for (of, entry) in &mut kept.entries {
            let named = |account: &str| {
                let mut entitlements = entry.answer.entitlements.iter();
                entitlements.any(|one| one.account.as_deref() == Some(account))
            };
            entry.outdated |= is_about(concerned, of, named);
        }
        for (of, call) in &mut kept.calls {
            // The license may be the account's.
            call.outdated |= is_about(concerned, of, |_| true);
        }
    }
}

/// Whether an event is about these entitlements. `named`: whether those of a license are of this account.
fn is_about(concerned: &Concerned, of: &EntitlementsOf, named: impl Fn(&str) -> bool) -> bool {
    match (concerned, of) {
        (Concerned::License { license, .. }, EntitlementsOf::License(arn)) => license_id(arn) == license,
        (Concerned::License { account, .. }, EntitlementsOf::Account(of)) => account.as_ref() == Some(of),
        (Concerned::Account(account), EntitlementsOf::Account(of)) => account == of,
        (Concerned::Account(account), EntitlementsOf::License(_)) => named(account),
        (_, EntitlementsOf::Anybody) => false,
    }
}

fn too_busy() -> Fault {
    let detail = format!("{CALLS_WAITING_MAX} questions wait for AWS's answers");
    Fault::local(FaultClass::Transient, "TooBusy", detail)
}

impl Kept {
    fn note(&mut self, of: EntitlementsOf, outcome: &Result<Arc<Answer>, Fault>, outdated: bool) {
        match outcome {
            Ok(answer) => {
                let used = self.requests;
                let entry = Entry { answer: Arc::clone(answer), outdated, failed: None, used };
                self.entries.insert(of, entry);
                self.shrink();
            }
            Err(fault) => {
                if let Some(entry) = self.entries.get_mut(&of) {
                    entry.failed = Some((clock::monotonic(), fault.clone()));
                }
            }
        }
    }

    /// Forgets answers that were not used for longest, until both limits are kept.
    fn shrink(&mut self) {
        let mut bytes: usize = self.entries.values().map(|entry| entry.answer.bytes()).sum();
        if self.entries.len() <= ENTRIES_MAX && bytes <= BYTES_MAX {
            return;
        }
        let mut by_use: Vec<_> = self.entries.iter().map(|(of, entry)| (entry.used, of.clone())).collect();
        by_use.sort_unstable();
        for (_, of) in by_use {
            if self.entries.len() <= ENTRIES_MAX && bytes <= BYTES_MAX {
                return;
            }
            bytes -= self.entries.remove(&of).map_or(0, |gone| gone.answer.bytes());
        }
    }
}

/// How long an answer may be old, from a request's `Cache-Control` (RFC 9111, section 5.2.1). Pure.
fn fresh_for(cache_control: &str) -> Duration {
    let directives = cache_control.split(',').map(|directive| directive.trim().to_ascii_lowercase());
    let asked = directives.filter_map(|directive| match directive.split_once('=') {
        Some(("max-age", seconds)) => seconds.trim_matches('"').parse().ok().map(Duration::from_secs),
        None if directive == "no-cache" => Some(Duration::ZERO),
        _ => None,
    });
    asked.min().map_or(FRESH, |asked| asked.clamp(FRESH_MIN, FRESH))
}

fn document(answer: &Answer, fault: Option<&Fault>, age: Duration) -> Value {
    let shown = answer.entitlements.iter().map(|one| {
        let value = match &one.value {
            Some(EntitlementValue::Number(number)) => json!(number),
            Some(EntitlementValue::Boolean(boolean)) => json!(boolean),
            Some(EntitlementValue::Text(text)) => json!(text),
            None => Value::Null,
        };
        json!({
            "dimension": one.dimension,
            "value": value,
            "expires_at": one.expires_at,
            "account_id": one.account,
            "license_arn": one.license_arn,
            "identifier": one.identifier,
        })
    });
    json!({
        "entitlements": shown.collect::<Vec<_>>(),
        "meaning": answer.meaning.as_str(),
        "at": answer.at,
        "age_seconds": age.as_secs(),
        "not_renewed": fault.map(|fault| fault.code.as_str()),
    })
}

/// The answer if there is neither AWS's nor a kept one: AWS's own code, and where to look.
fn refused(fault: &Fault) -> Response<Body> {
    tracing::debug!(code = %fault.code, detail = fault.detail, "entitlements not known");
    let detail =
        "AWS did not say which entitlements the customer has; the code is AWS's, or why it did not answer";
    let mut response = problem_of(StatusCode::SERVICE_UNAVAILABLE, fault.code.as_str(), detail);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(usage::RETRY_AFTER_SECONDS));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_marketplace::scripted::Act;
    use tollgate_marketplace::scripted::entitlements::{ScriptedEntitlements, entitlement};

    const ACCOUNT: &str = "111122223333";
    const ARN: &str = "arn:aws:license-manager::294406891311:license:l-1";
    const START: Timestamp = Timestamp::from_unix_seconds(1_795_507_200);

    fn cache(held: Vec<Entitlement>) -> (ScriptedEntitlements, Arc<EntitlementCache>) {
        let aws = ScriptedEntitlements::new(held);
        let clock = WallClock::fixed(START);
        (aws.clone(), EntitlementCache::new(Arc::new(aws), "demo".parse().unwrap(), clock))
    }

    fn users(units: u64) -> Vec<Entitlement> {
        vec![entitlement(ACCOUNT, ARN, "users", units)]
    }

    fn account() -> EntitlementsOf {
        EntitlementsOf::Account(ACCOUNT.to_owned())
    }

    async fn get(cache: &Arc<EntitlementCache>, max_age: Duration) -> (usize, Meaning, Option<String>) {
        let (answer, fault) = cache.get(account(), max_age).await.unwrap();
        (answer.entitlements.len(), answer.meaning, fault.map(|fault| fault.code.as_str().to_owned()))
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_kept_for_its_time_and_asked_for_once() {
        let (aws, cache) = cache(users(5));
        let both = tokio::join!(get(&cache, FRESH), get(&cache, FRESH));
        assert_eq!(both, ((1, Meaning::Entitled, None), (1, Meaning::Entitled, None)));
        assert_eq!(aws.calls().len(), 1, "one call for both");
        tokio::time::advance(Duration::from_secs(200)).await;
        get(&cache, FRESH).await;
        assert_eq!(aws.calls().len(), 1);
        get(&cache, Duration::from_secs(100)).await;
        assert_eq!(aws.calls().len(), 2, "the request asks for a younger one");
        tokio::time::advance(FRESH + Duration::from_secs(1)).await;
        get(&cache, FRESH).await;
        assert_eq!(aws.calls().len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn while_aws_is_silent_the_kept_answer_is_shown_and_then_none() {
        let (aws, cache) = cache(users(5));
        get(&cache, FRESH).await;
        aws.turns_to(Act::Fail(FaultClass::Transient, "InternalServiceErrorException"));
        tokio::time::advance(FRESH + Duration::from_secs(1)).await;
        for _ in 0..3 {
            let failed = Some("InternalServiceErrorException".to_owned());
            assert_eq!(get(&cache, FRESH).await, (1, Meaning::Entitled, failed));
        }
        assert_eq!(aws.calls().len(), 2, "AWS is not asked with every request");
        aws.turns_to(Act::Hang);
        tokio::time::advance(FAULT_PAUSE).await;
        let began = clock::monotonic();
        assert_eq!(get(&cache, FRESH).await.2.as_deref(), Some("Timeout"));
        assert_eq!(clock::monotonic().duration_since(began), PATIENCE);
        tokio::time::advance(KEPT).await;
        let waiting = tokio::time::timeout(Duration::from_secs(60), cache.get(account(), FRESH));
        assert!(waiting.await.is_err(), "the call that hangs is the only one, and no old answer is shown");
        let headers = HeaderMap::new();
        aws.turns_to(Act::Fail(FaultClass::Access, "AccessDeniedException"));
        let other = EntitlementsOf::Account("999900001111".to_owned());
        let response = cache.show(other, &headers).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(response.headers().contains_key(RETRY_AFTER));
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_list_refuses_only_where_somebody_has_an_entitlement() {
        let (aws, cache) = cache(Vec::new());
        assert_eq!(get(&cache, FRESH).await, (0, Meaning::Unknown, None));
        assert_eq!(aws.calls(), [account(), EntitlementsOf::Anybody]);
        tokio::time::advance(FRESH + Duration::from_secs(1)).await;
        assert_eq!(get(&cache, FRESH).await.1, Meaning::Unknown);
        assert_eq!(aws.calls().len(), 3, "that nobody has one is believed for an hour");
        aws.hold(vec![entitlement("999900001111", "arn:other", "users", 1)]);
        tokio::time::advance(NOBODY_FOR).await;
        assert_eq!(get(&cache, FRESH).await, (0, Meaning::None, None));
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_lets_aws_be_asked_again_and_keeps_the_answer_until_then() {
        let (aws, cache) = cache(users(5));
        let license = EntitlementsOf::License(ARN.to_owned());
        get(&cache, FRESH).await;
        cache.get(license.clone(), FRESH).await.unwrap();
        cache.outdate(&Concerned::License { account: Some(ACCOUNT.to_owned()), license: "l-1".to_owned() });
        aws.turns_to(Act::Fail(FaultClass::Transient, "ThrottlingException"));
        assert_eq!(get(&cache, FRESH).await.2.as_deref(), Some("ThrottlingException"));
        aws.turns_to(Act::Accept);
        aws.hold(Vec::new());
        let (answer, _) = cache.get(license, FRESH).await.unwrap();
        assert_eq!((answer.entitlements.len(), answer.meaning), (0, Meaning::None));
        tokio::time::advance(FAULT_PAUSE).await;
        assert_eq!(get(&cache, FRESH).await, (0, Meaning::None, None));
    }

    /// AWS may have read the license before it ended.
    #[tokio::test(start_paused = true)]
    async fn an_answer_that_was_under_way_when_an_event_came_is_not_kept_as_a_fresh_one() {
        for asked_meanwhile in [false, true] {
            let (aws, cache) = cache(users(5));
            aws.answers_after(Duration::from_secs(2));
            let first = tokio::spawn({
                let cache = Arc::clone(&cache);
                async move { get(&cache, FRESH).await }
            });
            tokio::task::yield_now().await;
            assert_eq!(aws.calls().len(), 1);
            aws.hold(Vec::new());
            cache.outdate(&Concerned::License {
                account: Some(ACCOUNT.to_owned()),
                license: "l-1".to_owned(),
            });
            aws.answers_after(Duration::ZERO);
            if asked_meanwhile {
                assert_eq!(get(&cache, FRESH).await.0, 0, "it does not wait for the answer from before");
            }
            assert_eq!(first.await.unwrap().0, 1, "its request came before the event");
            assert_eq!(get(&cache, FRESH).await.0, 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_wait_are_bounded_and_kept_answers_are_shown_meanwhile() {
        let (aws, cache) = cache(users(5));
        get(&cache, FRESH).await;
        aws.turns_to(Act::Hang);
        let ask = |of| {
            let cache = Arc::clone(&cache);
            // The request ends, and its call goes on.
            async move { tokio::time::timeout(Duration::from_millis(1), cache.get(of, FRESH)).await }
        };
        for number in 0..CALLS_WAITING_MAX {
            let of = EntitlementsOf::Account(format!("{number:012}"));
            assert!(ask(of).await.is_err(), "it waits");
        }
        let one_more = ask(EntitlementsOf::Account("999900001111".to_owned())).await.unwrap();
        assert_eq!(one_more.unwrap_err().code.as_str(), "TooBusy");
        tokio::time::advance(FRESH).await;
        assert_eq!(get(&cache, FRESH_MIN).await, (1, Meaning::Entitled, Some("TooBusy".to_owned())));
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded_and_the_latest_customers_stay() {
        let (aws, cache) = cache(Vec::new());
        for number in 0..ENTRIES_MAX + 10 {
            cache.get(EntitlementsOf::Account(format!("{number:012}")), FRESH).await.unwrap();
        }
        let count = || {
            let kept = cache.kept.lock().unwrap();
            (kept.entries.len(), kept.entries.values().map(|entry| entry.answer.bytes()).sum::<usize>())
        };
        let (entries, bytes) = count();
        assert!(entries <= ENTRIES_MAX && bytes <= BYTES_MAX, "{entries} {bytes}");
        let calls = aws.calls().len();
        cache.get(EntitlementsOf::Account(format!("{:012}", ENTRIES_MAX + 9)), FRESH).await.unwrap();
        assert_eq!(aws.calls().len(), calls);
        let large = Entitlement { dimension: "x".repeat(1 << 20), ..users(1)[0].clone() };
        aws.hold(vec![Entitlement { account: None, ..large.clone() }, large]);
        for number in 0..4 {
            let of = EntitlementsOf::License(ARN.to_owned());
            cache.outdate(&Concerned::parse(ARN).unwrap());
            cache.get(if number == 0 { account() } else { of }, FRESH).await.unwrap();
        }
        assert!(count().1 <= BYTES_MAX);
    }

    #[test]
    fn a_request_may_ask_for_a_younger_answer_and_for_no_older_one() {
        for (header, seconds) in [
            ("max-age=60", 60),
            ("Max-Age=60, no-transform", 60),
            ("max-age=0", 5),
            ("no-cache", 5),
            ("max-age=100000", 300),
            ("max-age=x", 300),
            ("", 300),
        ] {
            assert_eq!(fresh_for(header), Duration::from_secs(seconds), "{header}");
        }
    }
}
