//! Takes events: gathers requests that wait at the same time into one group, and has the database count it.
//!
//! A task of its own does it, with a connection of its own. A group that may have been committed, because the answer
//! was lost, is put aside until the database says what became of it, and others fail at once meanwhile.
//!
//! No request waits longer than `answer_within`. One that was not begun by then is taken back, so that it certainly
//! does not count. One that was begun is answered that its events may have been counted. What became of it is found out
//! all the same, before anything else is counted, and logged: so nothing counts twice, and nobody has to wait for it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use tollgate_clock::{self as clock, WallClock};
use tollgate_ledger::gather::{Doorbell, GROUP_EVENTS_MAX, Group, LatestCommit, Reply, tell_all};
use tollgate_ledger::store::Guard;
use tollgate_ledger::writer::Observer;
use tollgate_ledger::{LedgerError, Taken};
use tollgate_metering::event::Event;

use crate::connect::{Connector, Link};
use crate::counter::{Counter, Work, WriterSettings};

/// How often a group whose fate is unknown is looked up, at least.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How long a request with usage waits for its answer. A commit that waits for a slow standby, or is tried again
/// because of a lock, needs seconds. Proxies and clients give up after 15 s or later, and then nobody tells the
/// application what may have become of its usage.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// The events of a request until the task begins to count them, and what is held for their memory. Until then the
/// caller may take them back.
type Parts = Arc<Mutex<Option<(Vec<Event>, Guard)>>>;

struct Request {
    parts: Parts,
    /// All of the events count, or none.
    whole: bool,
    reply: Reply,
}

/// A handle to the writer's task, which ends when the last one is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    requests: mpsc::UnboundedSender<Request>,
    bell: Arc<Bell>,
    latest_failure: LatestFailure,
    some_gave_up: Arc<AtomicBool>,
    answer_within: Duration,
}

#[derive(Debug, Default)]
struct Bell {
    doorbell: Doorbell,
    rings: Notify,
}

/// When the ledger last could not be used, and why.
type LatestFailure = Arc<Mutex<Option<(Instant, LedgerError)>>>;

impl Writer {
    /// Starts the task; call it inside the runtime. `clock` follows the database's time.
    pub(crate) fn start(
        connector: Arc<Connector>,
        settings: WriterSettings,
        clock: WallClock,
        observer: Box<dyn Observer>,
    ) -> Self {
        let (requests, received) = mpsc::unbounded_channel();
        let writer = Self {
            requests,
            bell: Arc::default(),
            latest_failure: Arc::default(),
            some_gave_up: Arc::default(),
            answer_within: ANSWER_WITHIN,
        };
        let task = Task {
            counter: Counter::new(Link::new(connector), settings, clock),
            requests: received,
            bell: Arc::clone(&writer.bell),
            received: 0,
            some_gave_up: Arc::clone(&writer.some_gave_up),
            pace: LatestCommit::default(),
            aside: None,
            observer,
            latest_failure: Arc::clone(&writer.latest_failure),
        };
        tokio::spawn(task.run());
        writer
    }

    /// A handle whose requests wait for another time.
    #[cfg(test)]
    pub(crate) fn answering_within(&self, answer_within: Duration) -> Self {
        Self { answer_within, ..self.clone() }
    }

    /// Counts events; on return they are committed.
    pub(crate) async fn take(&self, events: Vec<Event>, guard: Guard) -> Result<Vec<Taken>, LedgerError> {
        self.send(events, guard, false).await
    }

    /// Counts all of these events, or none if one of them cannot be counted.
    pub(crate) async fn take_whole(
        &self,
        events: Vec<Event>,
        guard: Guard,
    ) -> Result<Vec<Taken>, LedgerError> {
        self.send(events, guard, true).await
    }

    async fn send(&self, events: Vec<Event>, guard: Guard, whole: bool) -> Result<Vec<Taken>, LedgerError> {
        let sent = clock::monotonic();
        let some_without_id = events.iter().any(|event| event.id.is_none());
        let parts: Parts = Arc::new(Mutex::new(Some((events, guard))));
        let (reply, mut answer) = oneshot::channel();
        // If the task has ended, the reply ends with the request.
        let _ = self.requests.send(Request { parts: Arc::clone(&parts), whole, reply });
        if self.bell.doorbell.press() {
            self.bell.rings.notify_one();
        }
        let answered = tokio::time::timeout(self.answer_within, &mut answer).await;
        if let Ok(Ok(answer)) = answered {
            return answer;
        }
        let why = match (answered, self.failed_since(sent)) {
            (Ok(_), _) => "the ledger's task has ended".to_owned(),
            (Err(_), Some(error)) => error.to_string(),
            (Err(_), None) => format!("the database did not answer within {:?}", self.answer_within),
        };
        if locked(&parts).take().is_some() {
            return Err(not_begun(&why));
        }
        // Before the task can find that nobody waits.
        self.some_gave_up.store(true, Ordering::Release);
        Err(uncertain(&why, some_without_id))
    }

    /// The latest error, if it happened after `since` and nothing was written after it.
    pub(crate) fn failed_since(&self, since: Instant) -> Option<LedgerError> {
        let latest = locked(&self.latest_failure);
        latest.as_ref().filter(|(at, _)| *at >= since).map(|(_, error)| error.clone())
    }
}

/// The state of the task.
struct Task {
    counter: Counter,
    requests: mpsc::UnboundedReceiver<Request>,
    bell: Arc<Bell>,
    /// Requests received so far.
    received: usize,
    /// A request was answered that its events may have been counted, and what became of them is not logged yet.
    some_gave_up: Arc<AtomicBool>,
    pace: LatestCommit,
    /// A group that may have been committed, or was in part.
    aside: Option<(Group, Work)>,
    observer: Box<dyn Observer>,
    latest_failure: LatestFailure,
}

impl Task {
    async fn run(mut self) {
        let mut ended = clock::monotonic();
        loop {
            let request = tokio::select! {
                request = self.requests.recv() => request,
                () = clock::passed(Some(LOOK_EVERY)), if self.aside.is_some() => {
                    self.look().await;
                    continue;
                }
            };
            let Some(request) = request else { return };
            // Before the request is begun: what fails here certainly counts nothing.
            if let Err(error) = self.ready().await {
                self.refuse(request, &error);
                continue;
            }
            let mut group = Group::default();
            let mut whole = self.sort(request, &mut group);
            if whole.is_none() {
                let patience = self.pace.patience(clock::monotonic().duration_since(ended));
                whole = self.gather(&mut group, self.pace.crowd, patience).await;
            }
            if group.requests() > 0 {
                let crowd = group.requests();
                let took = self.commit(group, false).await;
                ended = clock::monotonic();
                self.pace = LatestCommit { crowd: crowd + self.requests.len(), took };
            }
            if let Some(whole) = whole {
                self.commit(whole, true).await;
            }
        }
    }

    /// The group before has its answer, and there is a connection.
    async fn ready(&mut self) -> Result<(), LedgerError> {
        self.look().await;
        if self.aside.is_some() {
            return Err(self.latest_error());
        }
        self.counter.connect().await
    }

    /// Fails a request that was not begun, and all others that wait.
    fn refuse(&mut self, request: Request, error: &LedgerError) {
        self.failed(error);
        let mut next = Some(request);
        while let Some(request) = next {
            self.received = self.received.wrapping_add(1);
            if let Some(parts) = locked(&request.parts).take() {
                drop(parts);
                // The caller may have gone away.
                let _ = request.reply.send(Err(error.clone()));
            }
            next = self.requests.try_recv().ok();
        }
    }

    /// Adds a request to the group, unless its caller has taken it back; returns a request that must be counted as a
    /// whole.
    fn sort(&mut self, request: Request, group: &mut Group) -> Option<Group> {
        self.received = self.received.wrapping_add(1);
        let (events, guard) = locked(&request.parts).take()?;
        if !request.whole {
            group.add(events, guard, request.reply);
            return None;
        }
        let mut whole = Group::default();
        whole.add(events, guard, request.reply);
        Some(whole)
    }

    /// Adds the requests that wait, and those that come within `patience` until there are `crowd`; ends with the first
    /// that must be counted as a whole.
    async fn gather(&mut self, group: &mut Group, crowd: usize, patience: Duration) -> Option<Group> {
        let until = clock::monotonic() + patience;
        self.bell.doorbell.ring_at(self.received.wrapping_add(crowd.saturating_sub(group.requests())));
        loop {
            while group.events.len() < GROUP_EVENTS_MAX
                && let Ok(request) = self.requests.try_recv()
            {
                if let Some(whole) = self.sort(request, group) {
                    return Some(whole);
                }
            }
            let left = until.saturating_duration_since(clock::monotonic());
            if group.requests() >= crowd || group.events.len() >= GROUP_EVENTS_MAX || left.is_zero() {
                return None;
            }
            tokio::select! {
                () = self.bell.rings.notified() => {}
                () = clock::passed(Some(left)) => {}
            }
        }
    }

    /// Counts a group and sends the results; returns how long it took.
    async fn commit(&mut self, mut group: Group, whole: bool) -> Duration {
        if let Err(error) = self.ready().await {
            // The group before has no answer, so this one cannot have one.
            self.failed(&error);
            tell_all(group.told(Err(error)));
            return Duration::ZERO;
        }
        let began = clock::monotonic();
        let mut work = Work::new(group.events.len(), whole);
        let counted = self.counter.advance(&group.events, &mut work).await;
        let took = clock::monotonic().duration_since(began);
        match counted {
            Ok(()) => {
                if work.is_committed() {
                    self.committed(took);
                }
                self.tell(group, Ok(work.results()));
            }
            Err(error) => {
                self.failed(&error);
                if work.is_begun() {
                    // Other requests must not wait for the memory of this group.
                    group.release();
                    self.aside = Some((group, work));
                } else {
                    self.tell(group, Err(error));
                }
            }
        }
        took
    }

    /// Asks what became of the group that was put aside, and ends it.
    async fn look(&mut self) {
        let Some((group, mut work)) = self.aside.take() else { return };
        let began = clock::monotonic();
        // Its clients may have gone away. What the database did not count is theirs to send again.
        let counted = match self.counter.resolve(&mut work).await {
            Ok(()) if !work.is_begun() => Err(lost()),
            Ok(()) => self.counter.advance(&group.events, &mut work).await,
            Err(error) => Err(error),
        };
        match counted {
            Ok(()) => {
                if work.is_committed() {
                    self.committed(clock::monotonic().duration_since(began));
                }
                self.tell(group, Ok(work.results()));
            }
            Err(error) => {
                self.still_failing(&error);
                if work.is_begun() {
                    self.aside = Some((group, work));
                } else {
                    self.tell(group, Err(error));
                }
            }
        }
    }

    /// Sends the results of a group, and logs those that come too late for their requests.
    fn tell(&self, group: Group, taken: Result<Vec<Taken>, LedgerError>) {
        let fate = match &taken {
            Ok(_) => "counted",
            Err(LedgerError::Uncertain(_)) => "unknown",
            Err(_) => "not counted",
        };
        let untold = tell_all(group.told(taken));
        if untold > 0 && self.some_gave_up.swap(false, Ordering::AcqRel) {
            tracing::warn!(
                event = "usage_fate",
                requests = untold,
                fate,
                "what became of usage whose requests were answered that it may have been counted"
            );
        }
    }

    fn committed(&mut self, took: Duration) {
        *locked(&self.latest_failure) = None;
        self.observer.committed(took);
    }

    fn failed(&mut self, error: &LedgerError) {
        self.still_failing(error);
        self.observer.failed(error);
    }

    fn still_failing(&self, error: &LedgerError) {
        *locked(&self.latest_failure) = Some((clock::monotonic(), error.clone()));
    }

    fn latest_error(&self) -> LedgerError {
        let latest = locked(&self.latest_failure);
        latest.as_ref().map_or_else(lost, |(_, error)| error.clone())
    }
}

fn lost() -> LedgerError {
    LedgerError::Io("the connection to the database broke before the usage was counted".to_owned())
}

/// The request was taken back.
fn not_begun(why: &str) -> LedgerError {
    LedgerError::Io(format!("{why}; nothing of the request was counted, send it again"))
}

/// The request was begun, and its fate is not known yet.
fn uncertain(why: &str, some_without_id: bool) -> LedgerError {
    let without = if some_without_id {
        "; events without an id must not be sent again blindly: each time they are counted they count anew"
    } else {
        ""
    };
    LedgerError::Uncertain(format!(
        "{why}; the events may have been counted: send those with an id again under the same id, which counts once{without}"
    ))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("held for one move only, which cannot panic")
}
