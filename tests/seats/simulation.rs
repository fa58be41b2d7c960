//! Pods that live, die and start again, each with the sidecar's state machine. Calls take time, and some answers are
//! lost; a pod that ends during a call does not get its answer.

use std::collections::BTreeMap;
use std::time::Duration;

use tollgate::entitlement::State;
use tollgate::license::judge::{Model, Terms};
use tollgate::license::machine::{Answer, Call, Event, Machine, Next, Policy};
use tollgate::license::memory::Record;
use tollgate::registration::machine::Now;
use tollgate_marketplace::schedule::Draw;
use tollgate_marketplace::{Fault, FaultClass, KeyFingerprint, Place};

use crate::service::{DIMENSION, PRODUCT, Service, wall};

const HOUR_MILLIS: u64 = 3_600_000;
/// How long a pod lives on average.
const LIFE_MILLIS: f64 = 3.0 * 3_600_000.0;
/// The time that the platform gives a pod to stop.
const STOP_MILLIS: u64 = 30_000;
/// How long a caller waits for an answer.
const TIMEOUT_MILLIS: u64 = 10_000;
/// Of a thousand calls this number of requests is lost, and the same number of answers.
const LOST_PER_THOUSAND: u64 = 10;

/// How pods end, in percent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deaths {
    /// The container ends, and starts again in the same pod, with its folder.
    crashes: u64,
    /// The pod is stopped. All others lose their node, and their seat is not given back.
    stops: u64,
}

impl Deaths {
    pub(crate) const EVERY_KIND: Self = Self { crashes: 50, stops: 40 };
    pub(crate) const WITHOUT_EVICTIONS: Self = Self { crashes: 50, stops: 50 };
}

/// The results.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Most seats held at the service at once.
    pub(crate) held_most: usize,
    /// Most gates open at once.
    pub(crate) open_most: usize,
    /// The longest time for which no living pod used a seat while another pod waited.
    pub(crate) idle_most_millis: u64,
    /// The share of sold seats in use, over time.
    pub(crate) used: f64,
    pub(crate) deaths: u64,
    pub(crate) answers_lost: u64,
    pub(crate) calls: u64,
    /// Pods that gave up: none should.
    pub(crate) left: u64,
}

#[derive(Debug)]
enum What {
    Start,
    Serve(Call),
    Hear(Answer),
    Wake,
    Die,
    /// The time to stop is over.
    Cut,
}

struct Pod {
    name: String,
    /// The content of its folder.
    folder: Record,
    machine: Option<Machine>,
    started: u64,
    /// The number of its process; events for an earlier process are ignored.
    process: u64,
    calling: bool,
    stopping: bool,
    /// Its machine has been told to stop.
    told: bool,
    open: bool,
    waiting: bool,
}

pub(crate) struct Simulation {
    service: Service,
    pods: Vec<Pod>,
    deaths: Deaths,
    /// By time, then by order.
    agenda: BTreeMap<(u64, u64), (usize, u64, What)>,
    planned: u64,
    random: u64,
    now: u64,
    /// Pods whose gate is open, and pods that wait for a seat.
    open: usize,
    waiting: usize,
    waiting_since: Option<u64>,
    report: Report,
}

impl Simulation {
    pub(crate) fn new(pods: usize, seats: usize, deaths: Deaths, seed: u64) -> Self {
        let pod = |index: usize| Pod {
            name: format!("pod-{index}"),
            folder: Record::default(),
            machine: None,
            started: 0,
            process: 0,
            calling: false,
            stopping: false,
            told: false,
            open: false,
            waiting: false,
        };
        let mut simulation = Self {
            service: Service::new(seats),
            pods: (0..pods).map(pod).collect(),
            deaths,
            agenda: BTreeMap::new(),
            planned: 0,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            now: 0,
            open: 0,
            waiting: 0,
            waiting_since: None,
            report: Report::default(),
        };
        for index in 0..pods {
            let delay = simulation.below(60_000);
            simulation.plan(delay, index, What::Start);
        }
        simulation
    }

    pub(crate) fn run_for_hours(mut self, hours: u64) -> Report {
        let end = hours * HOUR_MILLIS;
        let mut used = 0.0;
        while let Some(((at, _), (index, process, what))) = self.agenda.pop_first() {
            if at >= end {
                break;
            }
            used += self.in_use() as f64 * (at - self.now) as f64;
            self.now = at;
            self.service.pass(at);
            if self.pods[index].process == process {
                self.happen(index, what);
                self.observe(index);
            }
        }
        self.report.used = used / (end * self.service.slots.len() as u64) as f64;
        self.report
    }

    fn happen(&mut self, index: usize, what: What) {
        match what {
            What::Start => self.start(index),
            What::Serve(call) => self.serve(index, &call),
            What::Hear(answer) => {
                self.pods[index].calling = false;
                self.drive(index, Event::Answered(answer));
            }
            What::Wake => self.drive(index, Event::Woke),
            What::Die => self.die(index),
            What::Cut => self.replace(index),
        }
    }

    fn start(&mut self, index: usize) {
        let policy = Policy {
            terms: Terms {
                product_id: PRODUCT.parse().expect("a product ID"),
                key_fingerprint: KeyFingerprint::AWS_MARKETPLACE,
                model: Model::Floating,
                wanted: vec![DIMENSION.parse().expect("a wanted entitlement")],
                seats_per_pod: 1,
                end_grace: Duration::ZERO,
            },
            grace_period: Duration::from_secs(24 * 3600),
            renew_every: Duration::from_secs(15 * 60),
            unavailable_after: Duration::from_secs(300),
            exit_when_refused: false,
            stays_once_open: false,
        };
        let (now, pod) = (self.now, &mut self.pods[index]);
        let record = pod.folder.clone().adopted_by(&pod.name);
        let seed = format!("{}-{}", pod.name, pod.process);
        pod.machine = Some(Machine::new(policy, record, seed, wall(now)));
        pod.started = now;
        // Between 0 and 1, never 0.
        let part = (self.below(1_000_000) + 1) as f64 / 1_000_000.0;
        let life = (-part.ln() * LIFE_MILLIS) as u64;
        self.plan(life, index, What::Die);
        self.drive(index, Event::Started);
    }

    /// Performs the machine's actions until it waits.
    fn drive(&mut self, index: usize, event: Event) {
        let mut event = event;
        loop {
            let now = self.moment(index);
            let pod = &mut self.pods[index];
            let Some(machine) = &mut pod.machine else { return };
            let (next, _) = machine.step(now, event);
            if pod.stopping && !pod.told && !matches!(next, Next::Write(_)) {
                pod.told = true;
                event = Event::Stopping;
                continue;
            }
            match next {
                Next::Write(record) => {
                    pod.folder = *record;
                    event = Event::Written(true);
                }
                Next::Call(call, _) => {
                    let delay = 20 + self.below(100);
                    self.pods[index].calling = true;
                    return self.plan(delay, index, What::Serve(call));
                }
                Next::WakeIn(delay) => {
                    let delay = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX / 2);
                    return self.plan(delay.max(1), index, What::Wake);
                }
                Next::Stopped => return self.replace(index),
                Next::Leave(_) => {
                    self.report.left += 1;
                    return;
                }
            }
        }
    }

    fn serve(&mut self, index: usize, call: &Call) {
        self.report.calls += 1;
        let fate = self.below(1000);
        if fate < LOST_PER_THOUSAND {
            return self.lose(index, call);
        }
        let now = self.now;
        let answer = match call {
            Call::List => Answer::Listed(Ok(self.service.list())),
            Call::Look(_) => Answer::Looked(Ok(self.service.look())),
            Call::CheckOut { client_token, take } => {
                Answer::CheckedOut(self.service.check_out(client_token, take, now))
            }
            Call::Extend(token) => Answer::Extended(self.service.extend(token, now)),
            Call::CheckIn(token) => Answer::CheckedIn(self.service.check_in(token, now)),
        };
        if fate < 2 * LOST_PER_THOUSAND {
            return self.lose(index, call);
        }
        let delay = 20 + self.below(100);
        self.plan(delay, index, What::Hear(answer));
    }

    /// The call's result is lost.
    fn lose(&mut self, index: usize, call: &Call) {
        self.report.answers_lost += 1;
        let fault = || Fault::local(FaultClass::Transient, "Timeout", "").at(Place::LicenseManager, None);
        let answer = match call {
            Call::List => Answer::Listed(Err(fault())),
            Call::Look(_) => Answer::Looked(Err(fault())),
            Call::CheckOut { .. } => Answer::CheckedOut(Err(fault())),
            Call::Extend(_) => Answer::Extended(Err(fault())),
            Call::CheckIn(_) => Answer::CheckedIn(Err(fault())),
        };
        self.plan(TIMEOUT_MILLIS, index, What::Hear(answer));
    }

    fn die(&mut self, index: usize) {
        self.report.deaths += 1;
        let kind = self.below(100);
        if kind < self.deaths.crashes {
            self.end(index);
            let delay = 1000 + self.below(59_000);
            return self.plan(delay, index, What::Start);
        }
        if kind >= self.deaths.crashes + self.deaths.stops {
            return self.replace(index);
        }
        let pod = &mut self.pods[index];
        pod.stopping = true;
        let asleep = !pod.calling;
        // Its timers end; a call continues.
        pod.process += u64::from(asleep);
        self.plan(STOP_MILLIS, index, What::Cut);
        if asleep {
            self.pods[index].told = true;
            self.drive(index, Event::Stopping);
        }
    }

    /// The process has ended.
    fn end(&mut self, index: usize) {
        let now = self.now;
        let pod = &mut self.pods[index];
        pod.machine = None;
        pod.process += 1;
        (pod.calling, pod.stopping, pod.told) = (false, false, false);
        if let Some(seat) = &pod.folder.seat
            && let Some(slot) = self.service.slot(seat.token.secret())
        {
            slot.idle_since.get_or_insert(now);
        }
    }

    /// Another pod takes its place, with an empty folder.
    fn replace(&mut self, index: usize) {
        self.end(index);
        let delay = 2000 + self.below(58_000);
        let pod = &mut self.pods[index];
        pod.name = format!(
            "{}-{}",
            pod.name.split_once('/').map_or(pod.name.as_str(), |(name, _)| name),
            pod.process
        );
        pod.folder = Record::default();
        self.plan(delay, index, What::Start);
    }

    fn observe(&mut self, index: usize) {
        let now = self.moment(index);
        let pod = &mut self.pods[index];
        let state = pod.machine.as_ref().map(|machine| machine.standing(now).state());
        let (open, waiting) = (pod.open, pod.waiting);
        pod.open = state.is_some_and(State::gate_open) && !pod.stopping;
        pod.waiting = state == Some(State::Exhausted);
        self.open = self.open + usize::from(pod.open) - usize::from(open);
        self.waiting = self.waiting + usize::from(pod.waiting) - usize::from(waiting);
        let token = pod.folder.seat.as_ref().filter(|_| pod.open).map(|seat| seat.token.secret().to_owned());
        if let Some(slot) = token.and_then(|token| self.service.slot(&token))
            && let Some(since) = slot.idle_since.take()
            && let Some(waiting) = self.waiting_since
        {
            let idle = self.now - since.max(waiting);
            self.report.idle_most_millis = self.report.idle_most_millis.max(idle);
        }
        self.waiting_since = if self.waiting > 0 { self.waiting_since.or(Some(self.now)) } else { None };
        self.report.held_most = self.report.held_most.max(self.service.held());
        self.report.open_most = self.report.open_most.max(self.open);
    }

    fn in_use(&self) -> usize {
        self.service.slots.iter().filter(|slot| slot.idle_since.is_none()).count()
    }

    fn moment(&mut self, index: usize) -> Now {
        let running = Duration::from_millis(self.now - self.pods[index].started);
        let draw = Draw::from_bits(self.random());
        Now { wall: wall(self.now), running, draw }
    }

    fn plan(&mut self, delay: u64, index: usize, what: What) {
        self.planned += 1;
        let process = self.pods[index].process;
        self.agenda.insert((self.now.saturating_add(delay), self.planned), (index, process, what));
    }

    /// xorshift64*
    fn random(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u64) -> u64 {
        (self.random() >> 16) % bound
    }
}
