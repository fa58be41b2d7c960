//! The model: events, repetitions, late and early times, restarts in the middle of a call, other pods, faults of
//! every kind and wrong clocks, in any order, against a service that bills as AWS does and has its own clock. At the
//! end its bill equals what was acknowledged, to the millionth, and every record's state is true.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Mutex;

use proptest::prelude::*;
use tokio::sync::Notify;

use super::*;
use tollgate_ledger::{self as ledger, Taken};
use tollgate_marketplace::service::ServiceFuture;
use tollgate_marketplace::{
    Allocation, BatchMeterUsage, BatchMetered, HourUsage, MeterUsage, Metered, RecordStatus, Regional,
    UsageRecord,
};
use tollgate_metering::policy::{NOT_ENTITLED, NOT_SUBSCRIBED};

/// What happens to the next call.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Throttled,
    NotEntitled,
    AccessDenied,
    /// Answered with 500 and not processed.
    Failed,
    /// The connection breaks before the call arrives.
    Lost,
    /// Processed, and the answer is lost.
    Unheard,
    /// The process is killed before the call arrives.
    Dies,
    /// Processed, and the process is killed before the answer.
    DiesUnheard,
    /// Only a part of a batch is processed.
    Partly,
}

/// A row of the bill.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    micros: u64,
    allocations: Vec<Allocation>,
}

impl Row {
    fn of(usage: &HourUsage) -> Self {
        Self { micros: usage.quantity.micros(), allocations: usage.allocations.clone() }
    }
}

type Key = (String, String, String, Hour);

#[derive(Default)]
struct World {
    fates: VecDeque<Fate>,
    bill: BTreeMap<Key, Row>,
    /// The first request for each pod, dimension and hour, with its `ClientToken`.
    sent: BTreeMap<Key, String>,
    /// No call is processed.
    out: bool,
    /// What the sidecar must never do, and did.
    violations: Vec<String>,
    /// The pod that calls.
    pod: String,
    /// AWS's clock.
    now: Option<Timestamp>,
    strangers: BTreeSet<String>,
    /// AWS answers a record of a batch that it has already with `DuplicateRecord`.
    repeats_are_duplicates: bool,
}

/// The service. Not the scripted one, since here AWS's rules and AWS's clock decide about a record, whatever happens
/// to the call.
#[derive(Default)]
struct Aws {
    world: Mutex<World>,
    died: Notify,
}

/// What happens to a call that has arrived.
enum Arrived {
    Heard,
    Unheard,
    Dies,
    Partly,
}

const POISON: &str = "poison";

impl Aws {
    fn world(&self) -> std::sync::MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// Ends the process in the middle of a call.
    async fn die(&self) -> Fault {
        self.died.notify_one();
        std::future::pending().await
    }

    async fn arrive(&self) -> Result<Arrived, Fault> {
        let fate = {
            let mut world = self.world();
            world.fates.pop_front().or(world.out.then_some(Fate::Throttled))
        };
        let transient = |code| Err(Fault::local(FaultClass::Transient, code, ""));
        match fate {
            None => Ok(Arrived::Heard),
            Some(Fate::Throttled) => transient("ThrottlingException"),
            Some(Fate::Failed) => transient("InternalServiceErrorException"),
            Some(Fate::Lost) => transient("Connection"),
            Some(Fate::NotEntitled) => {
                Err(Fault::local(FaultClass::Denied, "CustomerNotEntitledException", ""))
            }
            Some(Fate::AccessDenied) => Err(Fault::local(FaultClass::Access, "AccessDeniedException", "")),
            Some(Fate::Dies) => Err(self.die().await),
            Some(Fate::Unheard) => Ok(Arrived::Unheard),
            Some(Fate::DiesUnheard) => Ok(Arrived::Dies),
            Some(Fate::Partly) => Ok(Arrived::Partly),
        }
    }

    async fn leave<T>(&self, arrived: Arrived, answer: Result<T, Fault>) -> Result<T, Fault> {
        match arrived {
            Arrived::Heard | Arrived::Partly => answer,
            Arrived::Unheard => Err(lost()),
            Arrived::Dies => Err(self.die().await),
        }
    }
}

impl World {
    fn check_time(&self, timestamp: Timestamp, window: Window) -> Result<(), Fault> {
        let now = self.now.unwrap();
        if timestamp > now.plus(5 * MINUTE) || now > window.closes(timestamp) {
            return Err(refused("TimestampOutOfBoundsException"));
        }
        Ok(())
    }

    fn check_form(&mut self, usage: &HourUsage) {
        let HourUsage { quantity, decimal, allocations, .. } = usage;
        let whole =
            quantity.integer().is_some() && allocations.iter().all(|a| a.quantity.integer().is_some());
        if *decimal == whole {
            self.violations.push(format!("{quantity} as a decimal: {decimal}"));
        }
        let sum: u64 = allocations.iter().map(|part| part.quantity.micros()).sum();
        if !allocations.is_empty() && sum != quantity.micros() {
            self.violations.push(format!("parts of {sum} in a record of {}", quantity.micros()));
        }
    }

    /// Whether AWS answers this record with `DuplicateRecord`.
    fn is_duplicate(&self, key: &Key) -> bool {
        self.repeats_are_duplicates && self.bill.contains_key(key)
    }

    /// Whether AWS bills this row, or has billed the same row before.
    fn record(&mut self, key: Key, row: &Row) -> bool {
        self.bill.entry(key).or_insert_with(|| row.clone()) == row
    }
}

impl Regional for Aws {
    fn region(&self) -> Option<Region> {
        None
    }
}

impl Meter for Aws {
    fn meter_usage(&self, request: MeterUsage, _: Signing) -> ServiceFuture<'_, Metered> {
        Box::pin(async move {
            let all = format!("{request:?}");
            {
                let mut world = self.world();
                let key = pod_key(&world.pod, &request);
                let first = world.sent.entry(key).or_insert_with(|| all.clone());
                if *first != all {
                    let text = format!("not the same again: {first} and {all}");
                    world.violations.push(text);
                }
            }
            let arrived = self.arrive().await?;
            let processed = {
                let mut world = self.world();
                world.check_form(&request.usage);
                let key = pod_key(&world.pod, &request);
                let row = Row::of(&request.usage);
                world.check_time(request.usage.timestamp, Window::MeterUsage).and_then(|()| {
                    let metered = Metered { metering_record_id: Some("id".into()), emulated: false };
                    if world.record(key, &row) {
                        Ok(metered)
                    } else {
                        Err(refused("DuplicateRequestException"))
                    }
                })
            };
            self.leave(arrived, processed).await
        })
    }

    fn batch_meter_usage(&self, request: BatchMeterUsage, _: Signing) -> ServiceFuture<'_, BatchMetered> {
        Box::pin(async move {
            let arrived = self.arrive().await?;
            let processed = {
                let mut world = self.world();
                let records = &request.records;
                let is_licensed =
                    |r: &UsageRecord| matches!(r.customer, Customer::Account { license_arn: Some(_), .. });
                let forms: BTreeSet<_> = records
                    .iter()
                    .map(|r| (is_licensed(r), matches!(r.customer, Customer::Identifier(_))))
                    .collect();
                let licensed = records.iter().any(is_licensed);
                if records.len() > batch::RECORDS_MAX
                    || forms.len() > 1
                    || licensed == request.product_code.is_some()
                {
                    world.violations.push(format!("a batch of {} records, forms {forms:?}", records.len()));
                }
                let timely: Result<Vec<()>, Fault> = records
                    .iter()
                    .map(|r| world.check_time(r.usage.timestamp, Window::BatchMeterUsage))
                    .collect();
                if records.iter().any(|record| record.dimension == POISON) {
                    Err(refused("InvalidUsageDimensionException"))
                } else {
                    timely.map(|_| {
                        let mut room =
                            if matches!(arrived, Arrived::Partly) { records.len() / 2 } else { usize::MAX };
                        let mut status = |record: &UsageRecord| {
                            let Some(left) = room.checked_sub(1) else { return RecordStatus::Unprocessed };
                            room = left;
                            world.check_form(&record.usage);
                            let customer = record.customer.canonical();
                            if world.strangers.contains(&customer) {
                                return RecordStatus::CustomerNotSubscribed;
                            }
                            let key = (
                                String::new(),
                                customer,
                                record.dimension.clone(),
                                Hour::of(record.usage.timestamp),
                            );
                            let row = Row::of(&record.usage);
                            if !world.is_duplicate(&key) && world.record(key, &row) {
                                RecordStatus::Success(Some("id".into()))
                            } else {
                                RecordStatus::DuplicateRecord
                            }
                        };
                        BatchMetered { statuses: records.iter().map(&mut status).collect(), emulated: false }
                    })
                }
            };
            self.leave(arrived, processed).await
        })
    }
}

fn refused(code: &'static str) -> Fault {
    Fault::local(FaultClass::Misconfigured, code, "")
}

fn lost() -> Fault {
    Fault::local(FaultClass::Transient, "Connection", "")
}

fn pod_key(pod: &str, request: &MeterUsage) -> Key {
    (pod.to_owned(), String::new(), request.dimension.clone(), Hour::of(request.usage.timestamp))
}

/// The model's customers, each named in another form.
fn customers() -> [Customer; 4] {
    let account = |id: &str, license: Option<&str>| Customer::Account {
        account_id: id.into(),
        license_arn: license.map(str::to_owned),
    };
    [
        account("1", None),
        account("2", Some("arn:2")),
        account("2", Some("arn:3")),
        Customer::Identifier("old".into()),
    ]
}

#[derive(Debug, Clone)]
enum Step {
    Take {
        key: Option<u8>,
        dimension: u8,
        customer: u8,
        micros: u64,
        age_minutes: i32,
        tag: u8,
    },
    Pass {
        minutes: u16,
    },
    /// The sidecar's clock is wrong by this many minutes, for a while.
    Jump {
        minutes: i32,
    },
    /// The sidecar's clock is right again.
    Right,
    Happens(Vec<Fate>),
    /// After the next call no call is processed for longer than AWS's window.
    Outage {
        first: Fate,
    },
    Subscribe {
        customer: u8,
        is: bool,
    },
    /// Which of its two possible answers AWS gives to a repeated record of a batch.
    Repeats {
        are_duplicates: bool,
    },
    /// A shutdown, with or without sealing the open hour, and the next process.
    Shutdown {
        seal: bool,
    },
    /// Another pod takes over the volume; a pod's name may come back.
    Pod {
        pod: u8,
    },
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        Just(Fate::Throttled),
        Just(Fate::NotEntitled),
        Just(Fate::AccessDenied),
        Just(Fate::Failed),
        Just(Fate::Lost),
        Just(Fate::Unheard),
        Just(Fate::Dies),
        Just(Fate::DiesUnheard),
        Just(Fate::Partly),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let year = 366 * 24 * 60;
    let micros = prop_oneof![1..5_000_000_u64, (1..9_u64).prop_map(|whole| whole * 1_000_000)];
    let age = prop_oneof![4 => -5..90_i32, 1 => 0..1440_i32];
    let event = (prop::option::of(0..12_u8), 0..3_u8, 0..4_u8, micros, age, 0..3_u8);
    prop_oneof![
        9 => event.prop_map(|(key, dimension, customer, micros, age_minutes, tag)| {
            Step::Take { key, dimension, customer, micros, age_minutes, tag }
        }),
        6 => (1..90_u16).prop_map(|minutes| Step::Pass { minutes }),
        1 => (90..600_u16).prop_map(|minutes| Step::Pass { minutes }),
        1 => prop_oneof![-year..year, -300..300_i32].prop_map(|minutes| Step::Jump { minutes }),
        2 => Just(Step::Right),
        4 => prop::collection::vec(fate(), 1..6).prop_map(Step::Happens),
        1 => fate().prop_map(|first| Step::Outage { first }),
        1 => (0..4_u8, any::<bool>()).prop_map(|(customer, is)| Step::Subscribe { customer, is }),
        1 => any::<bool>().prop_map(|are_duplicates| Step::Repeats { are_duplicates }),
        1 => any::<bool>().prop_map(|seal| Step::Shutdown { seal }),
        1 => (0..3_u8).prop_map(|pod| Step::Pod { pod }),
    ]
}

/// One process of the sidecar.
struct Process {
    sender: Sender,
    writer: Writer,
    _flushes: mpsc::Sender<FlushOrder>,
    _refusal_receiver: RefusalReceiver,
}

struct Bench {
    folder: tempfile::TempDir,
    aws: Arc<Aws>,
    clock: WallClock,
    outlet: Outlet,
    pod: String,
    process: Option<Process>,
    /// By customer and dimension.
    acknowledged: BTreeMap<(String, String), u64>,
    keys: BTreeMap<String, [u8; 32]>,
    /// How many checks of hours used a wrong clock; each may have closed some hours. Keys are remembered for a day of
    /// right time, and for a few of these.
    wrong: u32,
    /// The latest time that the sidecar's clock has shown.
    farthest: Timestamp,
}

impl Bench {
    fn new(outlet: Outlet) -> Self {
        let aws = Arc::new(Aws::default());
        aws.world().now = Some(START);
        let mut bench = Self {
            folder: testing::folder(),
            aws,
            clock: WallClock::fixed(START),
            outlet,
            pod: if outlet == Outlet::MeterUsage { "pod-0".into() } else { String::new() },
            process: None,
            acknowledged: BTreeMap::new(),
            keys: BTreeMap::new(),
            wrong: 0,
            farthest: START,
        };
        bench.start();
        bench
    }

    /// Starts a process; the one before is killed.
    fn start(&mut self) {
        self.process = None;
        self.aws.world().pod.clone_from(&self.pod);
        let settings =
            ledger::LedgerSettings { started_at: self.clock.now(), ..testing::settings(&self.pod) };
        let ledger = Ledger::open(self.folder.path(), settings).unwrap();
        let writer = Writer::inline(ledger, self.clock.clone());
        let window = match self.outlet {
            Outlet::MeterUsage => Window::MeterUsage,
            Outlet::BatchMeterUsage => Window::BatchMeterUsage,
        };
        let policy = SendingPolicy {
            pod: self.pod.clone(),
            window,
            carry_expired: true,
            settle: SETTLE,
            phase: MINUTE,
        };
        let settings =
            SenderSettings { product_code: "demometered".parse().unwrap(), outlet: self.outlet, policy };
        let (flushes, flushed) = mpsc::channel(1);
        let (refusal_sender, refusal_receiver) = refusal_update::channel();
        let aws: Arc<dyn Meter> = Arc::clone(&self.aws) as Arc<dyn Meter>;
        let (clock, metrics) = (self.clock.clone(), Arc::new(Metrics::new()));
        let sender = Sender::new(settings, aws, &writer, clock, metrics, refusal_sender, flushed);
        self.process =
            Some(Process { sender, writer, _flushes: flushes, _refusal_receiver: refusal_receiver });
    }

    fn writer(&self) -> &Writer {
        &self.process.as_ref().unwrap().writer
    }

    async fn records(&self) -> Vec<Record> {
        self.writer().with(|ledger| ledger.records(100_000)).await.unwrap()
    }

    /// The customers and dimensions with open usage and no record for the current hour.
    async fn unreported(&self) -> BTreeSet<(String, String)> {
        let hour = Hour::of(self.clock.now());
        let open = self.writer().with(|ledger| ledger.all_open()).await.unwrap();
        let mut unreported: BTreeSet<_> = open
            .into_iter()
            .filter(|open| open.hour <= hour)
            .map(|open| (open.customer, open.dimension))
            .collect();
        for record in self.records().await {
            if record.hour == hour && record.pod == self.pod {
                unreported
                    .remove(&(Customer::shown(&record.customer.canonical()).to_owned(), record.dimension));
            }
        }
        unreported
    }

    async fn look(&mut self, flush: Flush) {
        self.farthest = self.farthest.max(self.clock.now());
        let process = self.process.as_mut().unwrap();
        let died = tokio::select! {
            looked = process.sender.look_once(flush) => {
                looked.unwrap();
                false
            }
            () = self.aws.died.notified() => true,
        };
        if died {
            self.start();
        }
    }

    async fn pass(&mut self, minutes: u16) {
        let mut left = u32::from(minutes);
        while left > 0 {
            let some = left.min(25);
            left -= some;
            let now = self.aws.world().now.unwrap().plus(some * MINUTE);
            self.aws.world().now = Some(now);
            self.clock.advance(some * MINUTE);
            tokio::time::advance(some * MINUTE).await;
            self.wrong += u32::from(now.millis_since(self.clock.now()) != 0);
            self.look(Flush::Scheduled).await;
        }
    }

    fn right(&self) {
        let now = self.aws.world().now.unwrap();
        self.clock.follow(now);
    }

    async fn take(&mut self, event: Event) {
        let slot = (event.customer.canonical(), event.dimension.clone());
        let micros = u64::try_from(event.quantity.micros()).unwrap();
        let expected = match event.id.as_ref().map(|id| (id, self.keys.get(id))) {
            Some((_, Some(known))) if *known == event.content => Taken::Duplicate,
            Some((_, Some(_))) => Taken::Conflict,
            Some((id, None)) => {
                self.keys.insert(id.clone(), event.content);
                Taken::Accepted
            }
            None => Taken::Accepted,
        };
        let taken = self.writer().take(vec![event], Box::new(())).await.unwrap();
        assert_eq!(taken, [expected]);
        if expected == Taken::Accepted {
            *self.acknowledged.entry(slot).or_default() += micros;
        }
    }

    fn event(&self, step: &Step) -> Option<Event> {
        let Step::Take { key, dimension, customer, micros, age_minutes, tag } = step else { return None };
        let saas = self.outlet == Outlet::BatchMeterUsage;
        let dimension = match dimension {
            2 if saas => POISON.to_owned(),
            dimension => format!("d{dimension}"),
        };
        // A key is repeated only on the same day: after two days it may be forgotten.
        let day = self.aws.world().now.unwrap().unix_seconds() / 86_400;
        let mut content = [0; 32];
        content[..8].copy_from_slice(&micros.to_be_bytes());
        let age = i64::from(*age_minutes) * 60_000;
        let tags = match tag {
            0 => BTreeMap::new(),
            tag => BTreeMap::from([("team".to_owned(), tag.to_string())]),
        };
        Some(Event {
            id: key.map(|key| format!("{day}-{}-{key}", self.wrong / 3)),
            dimension,
            quantity: Quantity::from_micros(*micros).unwrap().into(),
            at: Timestamp::from_unix_millis(self.clock.now().unix_millis() - age),
            tags: TagSet::try_from(tags).unwrap(),
            customer: if saas { customers()[usize::from(*customer)].clone() } else { Customer::Own },
            content,
        })
    }

    async fn go(&mut self, step: Step) {
        if let Some(event) = self.event(&step) {
            self.take(event).await;
        }
        match step {
            Step::Take { .. } => {}
            Step::Pass { minutes } => self.pass(minutes).await,
            Step::Jump { minutes } => {
                let millis = self.aws.world().now.unwrap().unix_millis() + i64::from(minutes) * 60_000;
                self.clock.follow(Timestamp::from_unix_millis(millis));
                self.wrong += 1;
                self.look(Flush::Scheduled).await;
            }
            Step::Right => {
                self.right();
                self.wrong += 1;
                self.look(Flush::Scheduled).await;
            }
            Step::Happens(fates) => self.aws.world().fates.extend(fates),
            Step::Outage { first } => {
                {
                    let mut world = self.aws.world();
                    world.fates.push_back(first);
                    world.out = true;
                }
                self.pass(if self.outlet == Outlet::MeterUsage { 8 * 60 } else { 27 * 60 }).await;
                self.aws.world().out = false;
            }
            Step::Subscribe { customer, is } => {
                let name = customers()[usize::from(customer)].canonical();
                let strangers = &mut self.aws.world().strangers;
                if is {
                    strangers.remove(&name)
                } else {
                    strangers.insert(name)
                };
            }
            Step::Repeats { are_duplicates } => self.aws.world().repeats_are_duplicates = are_duplicates,
            Step::Shutdown { seal } => {
                let unreported = self.unreported().await;
                self.look(if seal { Flush::Final } else { Flush::Immediate }).await;
                // A clock that was ahead may have closed the hour.
                if seal && self.wrong == 0 {
                    let left = self.unreported().await;
                    let left: Vec<_> = unreported.intersection(&left).collect();
                    assert!(left.is_empty(), "a stop left it, and its hour has no record: {left:?}");
                }
                self.look(Flush::Immediate).await;
                self.start();
            }
            Step::Pod { pod } => {
                if self.outlet == Outlet::MeterUsage {
                    self.pod = format!("pod-{pod}");
                }
                self.start();
            }
        }
        let totals = self.writer().with(|ledger| ledger.totals()).await.unwrap();
        assert!(totals.values().all(|totals| totals.balances()), "{totals:?}");
    }

    /// Without further faults and with the right clock, hours pass until everything is sent.
    async fn settle(&mut self) {
        self.aws.world().fates.clear();
        self.aws.world().strangers.clear();
        self.right();
        for _ in 0..80 {
            self.pass(20).await;
            let totals = self.writer().with(|ledger| ledger.totals()).await.unwrap();
            if totals.values().all(|totals| totals.pending == 0) {
                return;
            }
        }
        panic!("it is never sent: {:?}", self.records().await);
    }

    async fn compare(&self) {
        let records = self.records().await;
        let world = self.aws.world();
        assert!(world.violations.is_empty(), "{:?}", world.violations);
        let mut unbilled: BTreeMap<(String, String), u64> = BTreeMap::new();
        let mut known = BTreeSet::new();
        for record in records {
            let key: Key =
                (record.pod.clone(), record.customer.canonical(), record.dimension.clone(), record.hour);
            let billed = world.bill.get(&key).map(|row| row.micros);
            match record.state {
                // Confirmed or not.
                RecordState::Accepted { .. } => {
                    assert_eq!(billed, Some(record.quantity.micros()), "{record:?}");
                }
                RecordState::Carried { .. } | RecordState::Dead { in_doubt: false } => {
                    assert_eq!(billed, None, "{record:?}");
                }
                RecordState::Dead { in_doubt: true } => {
                    assert!(billed.is_none_or(|micros| micros == record.quantity.micros()), "{record:?}");
                    assert!(record.attempts > 0, "{record:?}");
                }
                RecordState::Sealed { .. } | RecordState::Claimed | RecordState::Discarded => {
                    panic!("pending: {record:?}")
                }
            }
            if matches!(record.state, RecordState::Dead { .. }) {
                // Usage that AWS did not accept is carried. Dead are only records in doubt, records that AWS never
                // accepts, and usage of a customer who is not subscribed.
                let code = record.code.as_deref().unwrap_or_default();
                let never = record.dimension == POISON && code == "InvalidUsageDimensionException";
                let unsubscribed = [NOT_ENTITLED, NOT_SUBSCRIBED].contains(&code);
                assert!(code == "in_doubt" || never || unsubscribed, "{record:?}");
                if billed.is_none() {
                    *unbilled.entry((record.customer.canonical(), record.dimension.clone())).or_default() +=
                        record.quantity.micros();
                }
            }
            known.insert(key);
        }
        // Settled records are deleted after 35 days by the latest time of the sidecar's clock.
        let forgotten = |key: &Key| self.farthest.since(key.3.start()) >= 34 * 24 * HOUR;
        let all_known = world.bill.keys().all(|key| known.contains(key) || forgotten(key));
        assert!(all_known, "billed and not known: {:?}", world.bill);
        let mut billed: BTreeMap<String, u64> = BTreeMap::new();
        for ((_, _, dimension, _), row) in &world.bill {
            *billed.entry(dimension.clone()).or_default() += row.micros;
        }
        for ((customer, dimension), micros) in &self.acknowledged {
            let missing = unbilled.get(&(customer.clone(), dimension.clone())).copied().unwrap_or_default();
            let of_customer: u64 = world
                .bill
                .iter()
                .filter(|((_, name, of, _), _)| of == dimension && name == customer)
                .map(|(_, row)| row.micros)
                .sum();
            assert_eq!(of_customer + missing, *micros, "{customer} {dimension}");
        }
        let acknowledged: u64 = self.acknowledged.values().sum();
        let total: u64 = billed.values().chain(unbilled.values()).sum();
        assert_eq!(total, acknowledged);
    }
}

fn run(outlet: Outlet, steps: Vec<Step>) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut bench = Bench::new(outlet);
        for step in steps {
            bench.go(step).await;
        }
        bench.settle().await;
        bench.compare().await;
    });
}

/// A quarter of the usual number of cases (`PROPTEST_CASES`): each case covers a day or more.
fn config() -> ProptestConfig {
    let all = ProptestConfig::default();
    ProptestConfig { cases: all.cases / 4, max_shrink_iters: 400, ..all }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_bill_of_a_pod_is_what_was_acknowledged(steps in prop::collection::vec(step(), 1..80)) {
        run(Outlet::MeterUsage, steps);
    }

    #[test]
    fn the_bills_of_customers_are_what_was_acknowledged(steps in prop::collection::vec(step(), 1..80)) {
        run(Outlet::BatchMeterUsage, steps);
    }
}
