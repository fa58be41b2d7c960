//! The model test of a ledger: steps in any order on any engine, compared with a model of a few lines that holds
//! everything in memory.
//!
//! After each step:
//! - Each dimension's balance is the model's, to the millionth, and so is each customer's. Where a dimension is metered
//!   by another rule than the default, what was rounded up and what stays for the next hour is the ledger's own affair,
//!   as long as the balance holds; and of a maximum, by how much each event changed its hour.
//! - A record is the same quantity in both units, and its allocations add up to it.
//! - A sealed record never changes, and AWS gets one value for a customer, dimension and hour.
//! - After a flush of a customer, its usage is sealed, and usage of a license that has ended is not counted.
//! - Each record that a closed hour leaves has the quantity and the split that were foreseen while the hour was open.
//! - A carried quantity is linked to the record or the hour that contains it.
//!
//! At the end all usage is sent: what is billed then is all that was acknowledged and neither dead nor discarded, but
//! for remainders that are too small to be sent.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use crate::repair::{Note, Repair, Repaired};
use crate::store::Store;
use crate::view::{From, Looked, ShownState};
use crate::{LedgerError, Taken, Totals};
use tollgate_marketplace::lifecycle::{Effect, LicenseState, LifecycleEvent, NamedLicense, News, license_id};
use tollgate_marketplace::service::BoxFuture;
use tollgate_marketplace::{Customer, Hour, Quantity, TagSet};
use tollgate_metering::aggregation::{Aggregation, Rounding, Rules};
use tollgate_metering::event::Event;
use tollgate_metering::record::{Answered, Due, Noted, Record, RecordState};
use tollgate_time::Timestamp;

use super::{SETTLE, START, foreseen};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// Most time of one test: less than the window in which keys are remembered.
const LASTS_MAX: Duration = Duration::from_secs(40 * 3600);

/// More than any test has.
const ALL: usize = 1000;

const DIMENSIONS: [&str; 4] = ["requests", "gigabytes", "hours", "seats"];

/// Rules of all kinds, for the engines' settings: [`Engine::rules`].
#[must_use]
pub fn rules() -> Rules {
    let rules = [("gigabytes", "sum 1000 none"), ("hours", "sum 3 up:0"), ("seats", "max 1 up:0")];
    rules.into_iter().map(|(name, rule)| (name.to_owned(), rule.parse().expect("it is one"))).collect()
}

/// A ledger under test, and the processes that use it.
pub trait Engine {
    /// The ledger as each process sees it.
    fn stores(&self) -> Vec<Arc<dyn Store>>;

    /// Whose usage it takes.
    fn customers(&self) -> Vec<Customer>;

    /// How it meters the dimensions: [`rules`], or the default for all.
    fn rules(&self) -> Rules {
        Rules::default()
    }

    /// A process is killed and started again. If it was leading, another one may lead at once.
    fn restart(&mut self, process: usize) -> BoxFuture<'_, ()>;

    /// Sets the time.
    fn set_time(&mut self, now: Timestamp) -> BoxFuture<'_, ()>;

    /// What the engine itself can check.
    fn check(&mut self) -> BoxFuture<'_, Result<(), LedgerError>>;
}

/// An event, by small numbers.
#[derive(Debug, Clone)]
struct Used {
    key: Option<u8>,
    micros: u64,
    age_minutes: u16,
    customer: u8,
    dimension: u8,
    tag: u8,
}

/// AWS's answer about a record, or that there is none.
#[derive(Debug, Clone, Copy)]
enum Reply {
    Accepted,
    Unconfirmed,
    Refused,
    Unknown,
    /// The leading process is killed before the answer.
    Killed,
    /// The leading process stops before the answer.
    Stopped,
    Carry,
    Dead,
}

const REPLIES: [Reply; 8] = [
    Reply::Accepted,
    Reply::Unconfirmed,
    Reply::Refused,
    Reply::Unknown,
    Reply::Killed,
    Reply::Stopped,
    Reply::Carry,
    Reply::Dead,
];

/// The steps of a test.
#[derive(Debug, Clone)]
pub struct Steps(Vec<Step>);

#[derive(Debug, Clone)]
enum Step {
    /// Events of one request.
    Take { process: u8, events: Vec<Used>, whole: bool },
    /// The same event arrives at every process at once.
    Race { event: Used },
    /// Time passes, and closed hours are sealed.
    Wait { minutes: u16 },
    /// A process that is the only one stops, and seals the open hour.
    SealNow,
    /// A record is sent and answered.
    Answer { index: u8, reply: u8 },
    /// A person repairs a record.
    Repair { process: u8, index: u8, kind: u8 },
    /// A process is killed.
    Restart { process: u8 },
    /// A customer's open hour is reported.
    Flush { process: u8, customer: u8 },
    /// AWS Marketplace says that the customer's license has ended, or is usable; some minutes late.
    License { process: u8, customer: u8, ends: bool, late: u8 },
    /// The leading process stops, and is started again when another one leads.
    Lead { process: u8 },
}

fn used() -> impl Strategy<Value = Used> {
    (prop::option::weighted(0.8, 0..40u8), 1..5_000_000u64, 0..180u16, 0..3u8, 0..4u8, 0..3u8).prop_map(
        |(key, micros, age_minutes, customer, dimension, tag)| Used {
            key,
            micros,
            age_minutes,
            customer,
            dimension,
            tag,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0..4u8, prop::collection::vec(used(), 1..4), any::<bool>())
            .prop_map(|(process, events, whole)| Step::Take { process, events, whole }),
        1 => used().prop_map(|event| Step::Race { event }),
        3 => (1..100u16).prop_map(|minutes| Step::Wait { minutes }),
        1 => Just(Step::SealNow),
        5 => (0..8u8, 0..8u8).prop_map(|(index, reply)| Step::Answer { index, reply }),
        3 => (0..4u8, 0..4u8, 0..4u8).prop_map(|(process, index, kind)| Step::Repair { process, index, kind }),
        1 => (0..4u8).prop_map(|process| Step::Restart { process }),
        1 => (0..4u8).prop_map(|process| Step::Lead { process }),
        2 => (0..4u8, 0..3u8).prop_map(|(process, customer)| Step::Flush { process, customer }),
        2 => (0..4u8, 0..3u8, any::<bool>(), 0..30u8)
            .prop_map(|(process, customer, ends, late)| Step::License { process, customer, ends, late }),
    ]
}

/// Steps of one test.
pub fn steps() -> impl Strategy<Value = Steps> {
    prop::collection::vec(step(), 10..60).prop_map(Steps)
}

type Place = (Customer, String);

/// What the ledger should hold.
#[derive(Debug, Default)]
struct Model {
    keys: HashMap<u8, [u8; 32]>,
    totals: BTreeMap<Place, Totals>,
    sealed: HashMap<i64, (Quantity, Timestamp, String, Hour)>,
    licenses: HashMap<String, LicenseState>,
    rules: Rules,
    /// Events of AWS Marketplace so far.
    news: usize,
}

impl Model {
    fn of(&mut self, record: &Record) -> &mut Totals {
        self.totals.entry((record.customer.clone(), record.dimension.clone())).or_default()
    }

    /// What happens to an event.
    fn take(&mut self, event: &Event, now: Timestamp) -> Taken {
        let known = event.id.as_ref().and_then(|id| id.parse().ok()).and_then(|key: u8| self.keys.get(&key));
        match known {
            Some(content) if *content == event.content => Taken::Duplicate,
            Some(_) => Taken::Conflict,
            None if self.has_ended(event, now) => Taken::Deprovisioned,
            None => Taken::Accepted,
        }
    }

    fn has_ended(&self, event: &Event, now: Timestamp) -> bool {
        let Customer::Account { license_arn: Some(arn), .. } = &event.customer else { return false };
        self.licenses.get(license_id(arn)).is_some_and(|state| !state.takes(event.at, now))
    }

    /// Whether the model knows by how much events change their hour.
    fn knows(&self, dimension: &str) -> bool {
        self.rules.of(dimension).aggregation == Aggregation::Sum
    }

    /// An amount that a dimension was acknowledged, or that was moved from it, is pending.
    fn acknowledge(&mut self, customer: &Customer, dimension: &str, amount: i128) {
        let totals = self.totals.entry((customer.clone(), dimension.to_owned())).or_default();
        totals.accepted += amount;
        totals.pending += amount;
    }

    /// An event counts.
    fn count(&mut self, event: &Event) {
        if let Some(key) = event.id.as_ref().and_then(|id| id.parse().ok()) {
            self.keys.insert(key, event.content);
        }
        self.acknowledge(&event.customer, &event.dimension, event.quantity.signed());
    }
}

/// One test while it runs.
struct Run<'a> {
    engine: &'a mut dyn Engine,
    model: Model,
    now: Timestamp,
    leading: usize,
}

/// Does the steps on the engine.
pub async fn drive(engine: &mut dyn Engine, steps: Steps) -> Result<(), TestCaseError> {
    let now = START.plus(4 * HOUR);
    engine.set_time(now).await;
    let model = Model { rules: engine.rules(), ..Model::default() };
    let mut run = Run { engine, model, now, leading: 0 };
    run.lead(0).await?;
    for step in steps.0 {
        run.step(step).await?;
        run.compare().await?;
    }
    run.send_all().await
}

fn failed(error: &LedgerError) -> TestCaseError {
    TestCaseError::fail(format!("the ledger failed: {error}"))
}

impl Run<'_> {
    fn store(&self, process: u8) -> Arc<dyn Store> {
        let stores = self.engine.stores();
        Arc::clone(&stores[usize::from(process) % stores.len()])
    }

    fn leader(&self) -> Arc<dyn Store> {
        Arc::clone(&self.engine.stores()[self.leading])
    }

    async fn lead(&mut self, process: usize) -> Result<(), TestCaseError> {
        self.leading = process % self.engine.stores().len();
        self.leader().lead().await.map_err(|error| failed(&error))
    }

    async fn hand_over(&mut self, to: usize) -> Result<(), TestCaseError> {
        let stopped = self.leading;
        self.leader().leave().await;
        self.lead(if to % self.engine.stores().len() == stopped { stopped + 1 } else { to }).await?;
        self.engine.restart(stopped).await;
        Ok(())
    }

    async fn restart(&mut self, process: u8) -> Result<(), TestCaseError> {
        let process = usize::from(process) % self.engine.stores().len();
        self.engine.restart(process).await;
        if process == self.leading { self.lead(process + 1).await } else { Ok(()) }
    }

    fn event(&self, used: &Used) -> Event {
        let customers = self.engine.customers();
        let customer = usize::from(used.customer) % customers.len();
        let dimension = usize::from(used.dimension) % DIMENSIONS.len();
        // The engines compare the first eight bytes.
        let content =
            used.micros | u64::from(used.tag) << 40 | (dimension as u64) << 48 | (customer as u64) << 56;
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&content.to_be_bytes());
        let tags = BTreeMap::from([("team".to_owned(), format!("team-{}", used.tag))]);
        let untagged = used.tag == 0 || !self.model.knows(DIMENSIONS[dimension]);
        Event {
            id: used.key.map(|key| key.to_string()),
            dimension: DIMENSIONS[dimension].to_owned(),
            quantity: Quantity::from_micros(used.micros).expect("below AWS's maximum").into(),
            at: self.now.minus(MINUTE * u32::from(used.age_minutes)),
            tags: if untagged { TagSet::default() } else { tags.try_into().expect("a valid tag") },
            customer: customers[customer].clone(),
            content: hash,
        }
    }

    async fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Take { process, events, whole } => self.take(process, &events, whole).await,
            Step::Race { event } => self.race(&event).await,
            Step::Wait { minutes } => {
                let later = self.now.plus(MINUTE * u32::from(minutes));
                if later.since(START) < LASTS_MAX { self.wait_until(later).await } else { Ok(()) }
            }
            // A process of several leaves the open hour to the others.
            Step::SealNow if self.leader().is_shared() => Ok(()),
            Step::SealNow => self.seal(true).await,
            Step::Answer { index, reply } => {
                let unsent = self.unsent().await?;
                match usize::from(index).checked_rem(unsent.len()) {
                    Some(index) => self.answer(&unsent[index].record, REPLIES[usize::from(reply)]).await,
                    None => Ok(()),
                }
            }
            Step::Repair { process, index, kind } => self.repair(process, index, kind).await,
            Step::Restart { process } => self.restart(process).await,
            Step::Lead { process } => self.hand_over(usize::from(process)).await,
            Step::Flush { process, customer } => self.flush(process, customer).await,
            Step::License { process, customer, ends, late } => self.news(process, customer, ends, late).await,
        }
    }

    async fn take(&mut self, process: u8, events: &[Used], whole: bool) -> Result<(), TestCaseError> {
        let events: Vec<Event> = events.iter().map(|used| self.event(used)).collect();
        let store = self.store(process);
        let guard = Box::new(());
        let taken =
            if whole { store.take_whole(events.clone(), guard) } else { store.take(events.clone(), guard) };
        let taken = taken.await.map_err(|error| failed(&error))?;
        // Events of one request are judged one after the other.
        let mut keys = self.model.keys.clone();
        let mut expected = Vec::new();
        for event in &events {
            std::mem::swap(&mut keys, &mut self.model.keys);
            let taken = self.model.take(event, self.now);
            expected.push(taken);
            std::mem::swap(&mut keys, &mut self.model.keys);
            if taken == Taken::Accepted
                && let Some(key) = event.id.as_ref().and_then(|id| id.parse().ok())
            {
                keys.entry(key).or_insert(event.content);
            }
        }
        prop_assert_eq!(&taken, &expected);
        if whole && expected.iter().any(|taken| !matches!(taken, Taken::Accepted | Taken::Duplicate)) {
            return Ok(());
        }
        for (event, _) in events.iter().zip(taken).filter(|(_, taken)| *taken == Taken::Accepted) {
            self.model.count(event);
        }
        Ok(())
    }

    async fn race(&mut self, used: &Used) -> Result<(), TestCaseError> {
        let event = self.event(used);
        let expected = self.model.take(&event, self.now);
        let stores = self.engine.stores();
        let mut taking = tokio::task::JoinSet::new();
        for store in stores {
            let event = event.clone();
            taking.spawn(async move { store.take(vec![event], Box::new(())).await });
        }
        let mut accepted = 0;
        for taken in taking.join_all().await {
            let taken = taken.map_err(|error| failed(&error))?;
            if taken == [Taken::Accepted] {
                accepted += 1;
                self.model.count(&event);
            } else {
                prop_assert_ne!(Some(Taken::Accepted), taken.first().copied());
                let refused = event.id.is_some() || expected == Taken::Deprovisioned;
                prop_assert!(refused, "only a key can be known: {:?}", taken);
            }
        }
        if event.id.is_some() {
            prop_assert_eq!(accepted, usize::from(expected == Taken::Accepted));
        }
        Ok(())
    }

    fn customer(&self, number: u8) -> Customer {
        let mut customers = self.engine.customers();
        customers.swap_remove(usize::from(number) % customers.len())
    }

    async fn flush(&mut self, process: u8, customer: u8) -> Result<(), TestCaseError> {
        let (customer, leader, store) = (self.customer(customer), self.leader(), self.store(process));
        let done = Cell::new(false);
        let flushing = async {
            let flushed = store.lifecycle().flush(vec![customer.canonical()], self.now).await;
            done.set(true);
            flushed
        };
        // The leading process looks for something to seal.
        let looking = async {
            while !done.get() {
                leader.seal(false, self.now).await?;
                tokio::task::yield_now().await;
            }
            Ok(())
        };
        let (flushed, looked) = tokio::join!(flushing, looking);
        looked.map_err(|error| failed(&error))?;
        for id in flushed.map_err(|error| failed(&error))?.records {
            let record = self.whole(id).await?;
            prop_assert_eq!(&record.customer, &customer);
            prop_assert!(record.hour <= Hour::of(self.now), "{:?}", record);
        }
        // With one process, usage beside a record of its hour stays until the hour's end.
        if store.is_shared() {
            let looked = Looked { customer: Some(customer.canonical()), ..Looked::default() };
            let open = store.open_slots(looked, From::default(), ALL).await;
            for open in open.map_err(|error| failed(&error))?.rows {
                prop_assert!(open.hour > Hour::of(self.now), "it was flushed: {:?}", open);
            }
        }
        Ok(())
    }

    async fn news(&mut self, process: u8, customer: u8, ends: bool, late: u8) -> Result<(), TestCaseError> {
        let Customer::Account { account_id: account, license_arn: Some(arn) } = self.customer(customer)
        else {
            return Ok(());
        };
        let license = license_id(&arn).to_owned();
        let at = self.now.minus(MINUTE * u32::from(late));
        let state = LicenseState::after(self.model.licenses.get(&license).copied(), at, ends);
        let expected = match state {
            None => Effect::Outdated,
            Some(_) if ends => Effect::Deprovisioned,
            Some(_) => Effect::Active,
        };
        let named = NamedLicense { account, license: license.clone(), agreement: None };
        let news = if ends { News::LicenseDeprovisioned(named) } else { News::LicenseUpdated(named) };
        let id = format!("event-{}", self.model.news);
        self.model.news += 1;
        let event = LifecycleEvent { id, at, detail_type: String::new(), news };
        // Any process may get it again.
        for (process, expected) in [(process, expected), (process.wrapping_add(1), Effect::Repeated)] {
            let noted = self.store(process).lifecycle().note_event(event.clone(), self.now).await;
            prop_assert_eq!(noted.map_err(|error| failed(&error))?, expected);
        }
        self.model.licenses.extend(state.map(|state| (license, state)));
        Ok(())
    }

    async fn wait_until(&mut self, later: Timestamp) -> Result<(), TestCaseError> {
        self.now = later;
        self.engine.set_time(later).await;
        self.seal(false).await
    }

    async fn seal(&mut self, early: bool) -> Result<(), TestCaseError> {
        foreseen::seal(&*self.leader(), early, self.now).await
    }

    async fn unsent(&self) -> Result<Vec<Due>, TestCaseError> {
        let far = Hour::of(self.now.plus(100 * HOUR));
        self.leader().unsent_up_to(far, ALL).await.map_err(|error| failed(&error))
    }

    /// Sends a record and takes the answer.
    async fn answer(&mut self, record: &Record, reply: Reply) -> Result<(), TestCaseError> {
        let leader = self.leader();
        let amount = record.raw;
        // A decision is made without a call.
        let sent = !matches!(reply, Reply::Carry | Reply::Dead);
        if sent {
            let begun =
                leader.begin(vec![record.id], None, self.now).await.map_err(|error| failed(&error))?;
            prop_assert_eq!(begun.len(), 1);
            let noted = self.whole(record.id).await?;
            prop_assert_eq!(noted.attempts, record.attempts + 1);
            prop_assert!(noted.state.in_doubt(), "until AWS has answered: {:?}", noted);
        }
        let in_doubt = record.state.in_doubt();
        let totals = self.model.of(record);
        let answered = match reply {
            Reply::Accepted => {
                totals.pending -= amount;
                totals.billed += amount;
                Answered::Accepted(Some("id".to_owned()))
            }
            Reply::Unconfirmed => {
                totals.pending -= amount;
                totals.billed += amount;
                Answered::Unconfirmed("held".to_owned())
            }
            Reply::Refused => Answered::Refused("throttled".to_owned()),
            Reply::Unknown => Answered::Unknown("Timeout".to_owned()),
            Reply::Killed => {
                drop(leader);
                self.restart(u8::try_from(self.leading).unwrap_or_default()).await?;
                return self.is_in_doubt(record.id).await;
            }
            Reply::Stopped if leader.is_shared() => {
                drop(leader);
                self.hand_over(self.leading + 1).await?;
                return self.is_in_doubt(record.id).await;
            }
            // The only process stops when its calls are answered.
            Reply::Stopped => Answered::Unknown("Timeout".to_owned()),
            Reply::Carry => Answered::Carry("expired".to_owned()),
            Reply::Dead => {
                totals.pending -= amount;
                totals.dead += amount;
                Answered::Dead("refused".to_owned())
            }
        };
        let noted = Noted { id: record.id, answered, due_at: None };
        leader.answered_all(vec![noted], None, self.now).await.map_err(|error| failed(&error))?;
        if matches!(reply, Reply::Carry) {
            let state = self.whole(record.id).await?.state;
            // What may be billed already is never carried.
            let expected =
                if in_doubt { RecordState::Sealed { in_doubt } } else { RecordState::Carried { in_doubt } };
            prop_assert_eq!(state, expected);
        }
        Ok(())
    }

    async fn whole(&self, id: i64) -> Result<Record, TestCaseError> {
        let found = self.leader().record(id).await.map_err(|error| failed(&error))?;
        found.map(|(whole, _)| whole.record).ok_or_else(|| TestCaseError::fail(format!("no record {id}")))
    }

    /// After a call without an answer.
    async fn is_in_doubt(&self, id: i64) -> Result<(), TestCaseError> {
        prop_assert_eq!(self.whole(id).await?.state, RecordState::Sealed { in_doubt: true });
        Ok(())
    }

    async fn repair(&mut self, process: u8, index: u8, kind: u8) -> Result<(), TestCaseError> {
        let mut letters = self.page(Some(ShownState::Dead)).await?;
        letters.extend(self.page(Some(ShownState::Unconfirmed)).await?);
        letters.sort_by_key(|record| record.id);
        let Some(index) = usize::from(index).checked_rem(letters.len()) else { return Ok(()) };
        let record = letters.swap_remove(index);
        let note = || Note::new("ticket 7").expect("it is valid");
        let own = DIMENSIONS.iter().position(|name| *name == record.dimension).unwrap_or_default();
        let to = DIMENSIONS[(own + 1) % DIMENSIONS.len()];
        let replay = |to_dimension| Repair::Replay { accept_double_billing: true, to_dimension, note: None };
        let order = match kind {
            0 => replay(None),
            1 => Repair::Confirm(note()),
            2 => Repair::Discard(note()),
            _ => replay(Some(to.to_owned())),
        };
        let repaired = self.store(process).repair(record.id, order, self.now).await;
        let repaired = repaired.map_err(|error| failed(&error))?;
        let amount = record.raw;
        let unconfirmed = ShownState::of(&record) == ShownState::Unconfirmed;
        if unconfirmed && kind == 2 {
            prop_assert_eq!(repaired, Repaired::NotFound);
            return Ok(());
        }
        prop_assert_eq!(repaired, Repaired::Done);
        let totals = self.model.of(&record);
        *if unconfirmed { &mut totals.billed } else { &mut totals.dead } -= amount;
        match kind {
            0 => totals.pending += amount,
            1 => totals.billed += amount,
            2 => totals.discarded += amount,
            _ => {
                totals.accepted -= amount;
                // The quantity stays; its amount in the event's own unit is the other dimension's.
                let amount = self.model.rules.of(to).raw(record.quantity.micros().into());
                self.model.acknowledge(&record.customer, to, amount);
            }
        }
        Ok(())
    }

    /// All records in a state, or all.
    async fn page(&self, state: Option<ShownState>) -> Result<Vec<Record>, TestCaseError> {
        let store = self.leader();
        let (mut records, mut before) = (Vec::new(), None);
        loop {
            let looked = Looked { state, before, ..Looked::default() };
            let piece = store.page(looked, 7).await.map_err(|error| failed(&error))?;
            records.extend(piece.rows);
            match piece.next {
                Some(next) => before = Some(next),
                None => return Ok(records),
            }
        }
    }

    /// Compares the ledger with the model.
    async fn compare(&mut self) -> Result<(), TestCaseError> {
        self.engine.check().await.map_err(|error| failed(&error))?;
        // Any process sees the same.
        let stores = self.engine.stores();
        let store = Arc::clone(&stores[(self.leading + 1) % stores.len()]);
        let mut expected: BTreeMap<String, Totals> = BTreeMap::new();
        for ((_, dimension), totals) in &self.model.totals {
            add(expected.entry(dimension.clone()).or_default(), totals);
        }
        let totals = store.totals().await.map_err(|error| failed(&error))?;
        for dimension in DIMENSIONS {
            let (held, expected) = (total(&totals, dimension), total(&expected, dimension));
            prop_assert!(held.balances(), "{}: {:?}", dimension, held);
            prop_assert!(held.remainder >= 0 && held.rounded_up >= 0, "{}: {:?}", dimension, held);
            if self.model.rules.of(dimension).is_default() {
                prop_assert_eq!(held, expected);
            }
            if self.model.knows(dimension) {
                prop_assert_eq!(held.accepted, expected.accepted, "{}", dimension);
            }
            let settled = |totals: Totals| (totals.billed, totals.dead, totals.discarded);
            prop_assert_eq!(settled(held), settled(expected), "{}", dimension);
        }
        let records = self.page(None).await?;
        let ids: Vec<i64> = records.iter().map(|record| record.id).collect();
        prop_assert!(ids.windows(2).all(|pair| pair[0] > pair[1]), "newest first, each once: {:?}", ids);
        let mut held: BTreeMap<Place, Totals> = BTreeMap::new();
        let mut places = HashSet::new();
        for record in &records {
            let fixed = (record.quantity, record.timestamp, record.client_token.clone(), record.hour);
            if !self.model.sealed.contains_key(&record.id) {
                self.is_exact(record).await?;
            }
            let known = self.model.sealed.entry(record.id).or_insert_with(|| fixed.clone());
            prop_assert_eq!(&*known, &fixed);
            prop_assert_eq!(Hour::of(record.timestamp), record.hour);
            let place = (&record.pod, &record.customer, &record.dimension, record.hour);
            prop_assert!(places.insert(place), "AWS takes one value for an hour: {:?}", record);
            let amount = record.raw;
            let totals = held.entry((record.customer.clone(), record.dimension.clone())).or_default();
            match record.state {
                RecordState::Sealed { .. } => totals.pending += amount,
                RecordState::Accepted { .. } => totals.billed += amount,
                RecordState::Dead { .. } => totals.dead += amount,
                RecordState::Discarded => totals.discarded += amount,
                RecordState::Carried { .. } | RecordState::Claimed => {}
            }
        }
        // A record of 0 counts nowhere.
        let carried = |record: &&Record| {
            matches!(record.state, RecordState::Carried { .. }) && record.quantity != Quantity::ZERO
        };
        for record in records.iter().filter(carried) {
            let found = store.record(record.id).await.map_err(|error| failed(&error))?;
            let linked = found.is_some_and(|(_, links)| links.counts_in.is_some());
            prop_assert!(linked, "where does it count? {:?}", record);
        }
        self.add_open(&mut held).await?;
        for dimension in DIMENSIONS {
            let places = held.iter().filter(|((_, name), _)| name == dimension);
            let pending: i128 = places.map(|(_, totals)| totals.pending).sum();
            prop_assert_eq!(pending, total(&totals, dimension).pending, "{}", dimension);
        }
        for (place, totals) in &self.model.totals {
            let held = held.remove(place).unwrap_or_default();
            let mut expected = *totals;
            if !self.model.rules.of(&place.1).is_default() {
                expected.pending = held.pending;
            }
            prop_assert_eq!(Totals { accepted: totals.accepted, ..held }, expected, "{:?}", place);
        }
        held.retain(|_, totals| *totals != Totals::default());
        prop_assert!(held.is_empty(), "usage of nobody: {:?}", held);
        let summary = store.summary().await.map_err(|error| failed(&error))?;
        let count = |wanted: fn(&RecordState) -> bool| {
            records.iter().filter(|record| wanted(&record.state)).count() as u64
        };
        prop_assert_eq!(summary.unsent, count(|state| matches!(state, RecordState::Sealed { .. })));
        prop_assert_eq!(summary.dead, count(|state| matches!(state, RecordState::Dead { .. })));
        Ok(())
    }

    /// Whether a record is the same quantity in both units, and the sum of its allocations.
    async fn is_exact(&self, record: &Record) -> Result<(), TestCaseError> {
        let rule = self.model.rules.of(&record.dimension);
        prop_assert_eq!(record.raw, rule.raw(record.quantity.micros().into()), "{:?}", record);
        if let Rounding::Up { digits: 0 } = rule.rounding {
            prop_assert!(record.quantity.is_whole(), "{:?}", record);
        }
        let found = self.leader().record(record.id).await.map_err(|error| failed(&error))?;
        let (whole, _) = found.ok_or_else(|| TestCaseError::fail(format!("no record {}", record.id)))?;
        let split: u64 = whole.allocations.iter().map(|part| part.quantity.micros()).sum();
        prop_assert!(whole.allocations.is_empty() || split == record.quantity.micros(), "{:?}", whole);
        Ok(())
    }

    /// Adds the usage of open hours.
    async fn add_open(&self, held: &mut BTreeMap<Place, Totals>) -> Result<(), TestCaseError> {
        let store = self.leader();
        let mut from = Some(From::default());
        while let Some(at) = from {
            let piece = store.open_slots(Looked::default(), at, 5).await.map_err(|error| failed(&error))?;
            for open in piece.rows {
                let customer = Customer::from_canonical(&open.customer);
                let customer = customer.ok_or_else(|| TestCaseError::fail(format!("whose? {open:?}")))?;
                let amount = open.quantity();
                held.entry((customer, open.dimension)).or_default().pending += amount;
            }
            from = piece.next;
        }
        Ok(())
    }

    /// Sends all that can be sent, whatever was carried.
    async fn send_all(&mut self) -> Result<(), TestCaseError> {
        // Carried usage may have to wait for an hour without a record of its own.
        for _ in 0..48 {
            let later = Hour::of(self.now).end().plus(SETTLE + MINUTE);
            self.wait_until(later).await?;
            for due in self.unsent().await? {
                self.answer(&due.record, Reply::Accepted).await?;
            }
            if self.pending().await? == 0 {
                break;
            }
        }
        prop_assert_eq!(self.pending().await?, 0);
        self.compare().await?;
        let totals = self.leader().totals().await.map_err(|error| failed(&error))?;
        for dimension in DIMENSIONS {
            let (rule, held) = (self.model.rules.of(dimension), total(&totals, dimension));
            // What cannot be sent in six digits, of each customer.
            let most = match rule.rounding {
                Rounding::None => (rule.raw(1) - 1) * self.engine.customers().len() as i128,
                Rounding::Up { .. } => 0,
            };
            prop_assert!(held.remainder <= most, "{}: {:?}", dimension, held);
        }
        Ok(())
    }

    async fn pending(&self) -> Result<i128, TestCaseError> {
        let totals = self.leader().totals().await.map_err(|error| failed(&error))?;
        Ok(totals.values().map(|totals| totals.pending).sum())
    }
}

fn total(totals: &BTreeMap<String, Totals>, dimension: &str) -> Totals {
    totals.get(dimension).copied().unwrap_or_default()
}

const fn add(sum: &mut Totals, part: &Totals) {
    sum.accepted += part.accepted;
    sum.billed += part.billed;
    sum.pending += part.pending;
    sum.dead += part.dead;
    sum.discarded += part.discarded;
}
