//! The double of the metering service for tests. It treats each call as its script says, records the calls, and bills
//! as AWS does: one value for each customer, dimension and hour, whatever answers are lost.

pub mod entitlements;
pub mod seats;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::service::{BoxFuture, ServiceFuture};
use super::{
    BatchMeterUsage, BatchMetered, Customer, Fault, FaultClass, Forward, Forwarded, Hour, HourUsage,
    Identified, Meter, MeterUsage, Metered, RecordStatus, Region, Regional, Register, RegisterUsage,
    Registered, Resolve, ResolvedCustomer, Signing, UsageRecord, exceptions,
};
use tollgate_clock as clock;

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Processed and answered.
    Accept,
    /// Processed, and the answer is lost.
    Lose,
    /// A batch is answered with all its records unprocessed.
    Unprocessed,
    /// Refused before it is processed.
    Fail(FaultClass, &'static str),
    /// Refused for the time of its signature; AWS's clock is this many seconds ahead.
    Skewed(i64),
    /// Not processed; the attempt times out.
    Timeout,
    /// It never ends.
    Hang,
}

/// How long an attempt lasts that times out.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// The request of a call.
#[derive(Debug, Clone)]
pub enum Asked {
    /// `RegisterUsage`
    Register(RegisterUsage),
    /// `Register::identify`
    Identify,
    /// `MeterUsage`
    Meter(MeterUsage),
    /// `BatchMeterUsage`
    Batch(BatchMeterUsage),
    /// `ResolveCustomer`
    Resolve(String),
    /// A call that was passed on: its target and body.
    Forward(String, Vec<u8>),
}

/// A call.
#[derive(Debug, Clone)]
pub struct Call {
    /// When it came, since the service was created.
    pub at: Duration,
    /// The request.
    pub asked: Asked,
    /// How it was signed.
    pub signing: Signing,
}

impl Call {
    /// Customer and dimension of each record that it reports.
    #[must_use]
    pub fn records(&self) -> Vec<(&str, &str)> {
        match &self.asked {
            Asked::Meter(request) => vec![("", &request.dimension)],
            Asked::Batch(request) => {
                request.records.iter().map(|record| (account(record), record.dimension.as_str())).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Whether it has a record of `customer`.
    #[must_use]
    pub fn names_customer(&self, customer: &str) -> bool {
        self.records().iter().any(|(name, _)| *name == customer)
    }

    /// Whether it has a record in `dimension`.
    #[must_use]
    pub fn names_dimension(&self, dimension: &str) -> bool {
        self.records().iter().any(|(_, name)| *name == dimension)
    }

    /// The region of a report.
    #[must_use]
    pub fn region(&self) -> Option<&Region> {
        match &self.asked {
            Asked::Meter(request) => request.region.as_ref(),
            Asked::Batch(request) => request.region.as_ref(),
            _ => None,
        }
    }
}

fn account(record: &UsageRecord) -> &str {
    if let Customer::Account { account_id, .. } = &record.customer { account_id } else { "" }
}

type Script = Box<dyn FnMut(&Call) -> Act + Send>;

type Sign = Box<dyn Fn(&RegisterUsage) -> String + Send + Sync>;

/// For each customer, dimension and hour: the millionths, and when they were billed.
type Bill = BTreeMap<(String, String, Hour), (u64, Duration)>;

/// The service.
pub struct Scripted {
    began: Instant,
    takes: Duration,
    sign: Sign,
    strangers: BTreeSet<String>,
    script: Mutex<Script>,
    calls: Mutex<Vec<Call>>,
    in_flight: Mutex<(usize, usize)>,
    bill: Mutex<Bill>,
    region: Mutex<Option<Region>>,
    skew: watch::Sender<Option<i64>>,
}

impl Scripted {
    /// A service that treats each call as `script` says.
    pub fn new(script: impl FnMut(&Call) -> Act + Send + 'static) -> Self {
        Self {
            began: clock::monotonic(),
            takes: Duration::ZERO,
            sign: Box::new(|_| String::new()),
            strangers: BTreeSet::new(),
            script: Mutex::new(Box::new(script)),
            calls: Mutex::default(),
            in_flight: Mutex::default(),
            bill: Mutex::default(),
            region: Mutex::new("us-east-1".parse().ok()),
            skew: watch::Sender::new(None),
        }
    }

    /// A service that uses `acts` for the first calls and accepts the rest.
    pub fn in_turn(acts: impl IntoIterator<Item = Act>) -> Self {
        let mut acts: VecDeque<Act> = acts.into_iter().collect();
        Self::new(move |_| acts.pop_front().unwrap_or(Act::Accept))
    }

    /// A service that treats each call in the same way.
    pub fn always(act: Act) -> Self {
        Self::new(move |_| act)
    }

    /// Sets how long each call takes.
    #[must_use]
    pub fn taking(self, takes: Duration) -> Self {
        Self { takes, ..self }
    }

    /// Sets the function that signs the answers to `RegisterUsage`.
    #[must_use]
    pub fn signing(self, sign: impl Fn(&RegisterUsage) -> String + Send + Sync + 'static) -> Self {
        Self { sign: Box::new(sign), ..self }
    }

    /// Sets customers that have no subscription.
    #[must_use]
    pub fn without_subscription(self, customers: impl IntoIterator<Item = String>) -> Self {
        Self { strangers: customers.into_iter().collect(), ..self }
    }

    /// Treats each call like this from now on.
    pub fn turns_to(&self, act: Act) {
        *lock(&self.script) = Box::new(move |_| act);
    }

    /// Changes the region.
    pub fn moves_to(&self, region: Region) {
        *lock(&self.region) = Some(region);
    }

    /// Changes the skew: the service's clock is this many seconds ahead.
    pub fn shows_skew(&self, seconds: i64) {
        self.skew.send_replace(Some(seconds));
    }

    /// Time since it was created.
    pub fn age(&self) -> Duration {
        clock::monotonic().duration_since(self.began)
    }

    /// Every call so far.
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.calls).clone()
    }

    /// Every registration so far.
    pub fn registrations(&self) -> Vec<RegisterUsage> {
        let calls = self.calls().into_iter();
        calls
            .filter_map(|call| if let Asked::Register(request) = call.asked { Some(request) } else { None })
            .collect()
    }

    /// Every `MeterUsage` so far, including dry runs.
    pub fn reports(&self) -> Vec<MeterUsage> {
        let calls = self.calls().into_iter();
        calls
            .filter_map(|call| if let Asked::Meter(request) = call.asked { Some(request) } else { None })
            .collect()
    }

    /// The most calls that were in flight at once.
    pub fn in_flight_max(&self) -> usize {
        lock(&self.in_flight).1
    }

    /// Millionths on the bill.
    pub fn billed(&self) -> u64 {
        lock(&self.bill).values().map(|(micros, _)| micros).sum()
    }

    /// When each hour was billed whose customer and dimension `of` selects.
    pub fn billed_at(&self, of: impl Fn(&str, &str) -> bool) -> Vec<Duration> {
        lock(&self.bill).iter().filter(|((c, d, _), _)| of(c, d)).map(|(_, (_, at))| *at).collect()
    }

    /// Decides about a call, and takes its time; `Ok` if it is processed or answered.
    async fn arrive(&self, asked: Asked, signing: Signing) -> Result<Act, Fault> {
        let call = Call { at: self.age(), asked, signing };
        let act = (lock(&self.script))(&call);
        lock(&self.calls).push(call);
        let _under_way = UnderWay::new(&self.in_flight);
        let takes = if act == Act::Timeout { TIMEOUT } else { self.takes };
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
        match act {
            Act::Hang => std::future::pending().await,
            Act::Timeout => Err(Fault::local(FaultClass::Transient, "Timeout", "")),
            Act::Fail(class, code) => Err(Fault::local(class, code, "")),
            Act::Skewed(seconds) => {
                let fault = Fault::local(FaultClass::Access, exceptions::REQUEST_TIME_TOO_SKEWED, "");
                Err(Fault { clock_offset_seconds: Some(seconds), ..fault })
            }
            Act::Accept | Act::Lose | Act::Unprocessed => Ok(act),
        }
    }

    /// Bills the value unless the hour has one; returns whether the hour now has this value.
    fn bills(&self, customer: &str, dimension: &str, usage: &HourUsage) -> bool {
        let (now, micros) = (self.age(), usage.quantity.micros());
        let key = (customer.to_owned(), dimension.to_owned(), Hour::of(usage.timestamp));
        lock(&self.bill).entry(key).or_insert((micros, now)).0 == micros
    }

    fn status(&self, record: &UsageRecord) -> RecordStatus {
        let customer = account(record);
        if self.strangers.contains(customer) {
            return RecordStatus::CustomerNotSubscribed;
        }
        match self.bills(customer, &record.dimension, &record.usage) {
            true => RecordStatus::Success(Some("id".into())),
            false => RecordStatus::DuplicateRecord,
        }
    }
}

fn answered<T>(act: Act, answer: T) -> Result<T, Fault> {
    match act {
        Act::Lose => Err(Fault::local(FaultClass::Transient, "Connection", "")),
        _ => Ok(answer),
    }
}

/// Locks the mutex, also after a panic: that test has failed already.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Counts a call for as long as it lasts.
struct UnderWay<'a>(&'a Mutex<(usize, usize)>);

impl<'a> UnderWay<'a> {
    fn new(counts: &'a Mutex<(usize, usize)>) -> Self {
        let mut now = lock(counts);
        now.0 += 1;
        now.1 = now.1.max(now.0);
        Self(counts)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        lock(self.0).0 -= 1;
    }
}

impl Regional for Scripted {
    fn region(&self) -> Option<Region> {
        lock(&self.region).clone()
    }
}

impl Register for Scripted {
    fn register_usage(&self, request: RegisterUsage, signing: Signing) -> ServiceFuture<'_, Registered> {
        Box::pin(async move {
            let act = self.arrive(Asked::Register(request.clone()), signing).await?;
            let signature = (self.sign)(&request);
            answered(
                act,
                Registered { signature, public_key_rotation_timestamp: None, emulated: false, host: None },
            )
        })
    }

    fn identify(&self, signing: Signing) -> ServiceFuture<'_, Identified> {
        Box::pin(async move {
            answered(self.arrive(Asked::Identify, signing).await?, Identified { emulated: false })
        })
    }

    fn clock_skew(&self) -> Option<i64> {
        *self.skew.borrow()
    }

    fn clock_skew_changed(&self, known: Option<i64>) -> BoxFuture<'_, ()> {
        let mut skew = self.skew.subscribe();
        Box::pin(async move { drop(skew.wait_for(|skew| *skew != known).await) })
    }
}

impl Meter for Scripted {
    fn meter_usage(&self, request: MeterUsage, signing: Signing) -> ServiceFuture<'_, Metered> {
        Box::pin(async move {
            let act = self.arrive(Asked::Meter(request.clone()), signing).await?;
            if !request.dry_run && !self.bills("", &request.dimension, &request.usage) {
                return Err(Fault::local(FaultClass::Misconfigured, exceptions::DUPLICATE_REQUEST, ""));
            }
            answered(act, Metered { metering_record_id: Some("id".into()), emulated: false })
        })
    }

    fn batch_meter_usage(
        &self,
        request: BatchMeterUsage,
        signing: Signing,
    ) -> ServiceFuture<'_, BatchMetered> {
        Box::pin(async move {
            let act = self.arrive(Asked::Batch(request.clone()), signing).await?;
            let status = |record: &UsageRecord| match act {
                Act::Unprocessed => RecordStatus::Unprocessed,
                _ => self.status(record),
            };
            let statuses = request.records.iter().map(status).collect();
            answered(act, BatchMetered { statuses, emulated: false })
        })
    }
}

impl Resolve for Scripted {
    fn resolve_customer(&self, token: String) -> ServiceFuture<'_, ResolvedCustomer> {
        Box::pin(async move {
            let act = self.arrive(Asked::Resolve(token), Signing::default()).await?;
            answered(act, ResolvedCustomer { answer: serde_json::Map::new() })
        })
    }
}

impl Forward for Scripted {
    /// Answers with the call's own body.
    fn forward(&self, target: String, body: Vec<u8>, _: Option<Region>) -> ServiceFuture<'_, Forwarded> {
        Box::pin(async move {
            let act = self.arrive(Asked::Forward(target, body.clone()), Signing::default()).await?;
            answered(act, Forwarded { status: 200, headers: Vec::new(), body })
        })
    }
}
