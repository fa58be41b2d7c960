//! Takes events: gathers requests that wait at the same time into one group, and has the database count it.
//!
//! A task of its own does it, with a connection of its own. A group that may have been committed, because the answer
//! was lost, is put aside: its requests wait until the database says what became of it, and others fail at once
//! meanwhile.

use std::sync::{Arc, Mutex};
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

enum Command {
    Take {
        events: Vec<Event>,
        guard: Guard,
        reply: Reply,
    },
    /// All of the events or none.
    Whole {
        events: Vec<Event>,
        guard: Guard,
        reply: Reply,
    },
}

/// A handle to the writer's task, which ends when the last one is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    commands: mpsc::UnboundedSender<Command>,
    bell: Arc<Bell>,
    latest_failure: LatestFailure,
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
        let (commands, received) = mpsc::unbounded_channel();
        let writer = Self { commands, bell: Arc::default(), latest_failure: Arc::default() };
        let task = Task {
            counter: Counter::new(Link::new(connector), settings, clock),
            commands: received,
            bell: Arc::clone(&writer.bell),
            requests: 0,
            pace: LatestCommit::default(),
            aside: None,
            observer,
            latest_failure: Arc::clone(&writer.latest_failure),
        };
        tokio::spawn(task.run());
        writer
    }

    /// Counts events; on return they are committed.
    pub(crate) async fn take(&self, events: Vec<Event>, guard: Guard) -> Result<Vec<Taken>, LedgerError> {
        self.send(|reply| Command::Take { events, guard, reply }).await
    }

    /// Counts all of these events, or none if one of them cannot be counted.
    pub(crate) async fn take_whole(
        &self,
        events: Vec<Event>,
        guard: Guard,
    ) -> Result<Vec<Taken>, LedgerError> {
        self.send(|reply| Command::Whole { events, guard, reply }).await
    }

    async fn send(&self, command: impl FnOnce(Reply) -> Command) -> Result<Vec<Taken>, LedgerError> {
        let ended = || LedgerError::Io("the ledger's task has ended".to_owned());
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).map_err(|_| ended())?;
        if self.bell.doorbell.press() {
            self.bell.rings.notify_one();
        }
        answer.await.map_err(|_| ended())?
    }

    /// The latest error, if it happened after `since` and nothing was written after it.
    pub(crate) fn failed_since(&self, since: Instant) -> Option<LedgerError> {
        let latest = self.latest_failure.lock().expect("held for one move only, which cannot panic");
        latest.as_ref().filter(|(at, _)| *at >= since).map(|(_, error)| error.clone())
    }
}

/// The state of the task.
struct Task {
    counter: Counter,
    commands: mpsc::UnboundedReceiver<Command>,
    bell: Arc<Bell>,
    /// Requests received so far.
    requests: usize,
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
            let command = tokio::select! {
                command = self.commands.recv() => command,
                () = clock::passed(Some(LOOK_EVERY)), if self.aside.is_some() => {
                    self.look().await;
                    continue;
                }
            };
            let Some(command) = command else { return };
            let mut group = Group::default();
            let mut whole = self.sort(command, &mut group);
            if whole.is_none() {
                let patience = self.pace.patience(clock::monotonic().duration_since(ended));
                whole = self.gather(&mut group, self.pace.crowd, patience).await;
            }
            if group.requests() > 0 {
                let crowd = group.requests();
                let took = self.commit(group, false).await;
                ended = clock::monotonic();
                self.pace = LatestCommit { crowd: crowd + self.commands.len(), took };
            }
            if let Some(whole) = whole {
                self.commit(whole, true).await;
            }
        }
    }

    /// Adds a request to the group; returns a request that must be counted as a whole.
    fn sort(&mut self, command: Command, group: &mut Group) -> Option<Group> {
        self.requests = self.requests.wrapping_add(1);
        match command {
            Command::Take { events, guard, reply } => {
                group.add(events, guard, reply);
                None
            }
            Command::Whole { events, guard, reply } => {
                let mut whole = Group::default();
                whole.add(events, guard, reply);
                Some(whole)
            }
        }
    }

    /// Adds the requests that wait, and those that come within `patience` until there are `crowd`; ends with the first
    /// that must be counted as a whole.
    async fn gather(&mut self, group: &mut Group, crowd: usize, patience: Duration) -> Option<Group> {
        let until = clock::monotonic() + patience;
        self.bell.doorbell.ring_at(self.requests.wrapping_add(crowd.saturating_sub(group.requests())));
        loop {
            while group.events.len() < GROUP_EVENTS_MAX
                && let Ok(command) = self.commands.try_recv()
            {
                if let Some(whole) = self.sort(command, group) {
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
        self.look().await;
        if self.aside.is_some() {
            // The group before has no answer, so this one cannot have one.
            let error = self.latest_error();
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
                self.committed(took);
                tell_all(group.told(Ok(work.results())));
            }
            Err(error) => {
                self.failed(&error);
                if work.is_begun() {
                    // Other requests must not wait for the memory of this group.
                    group.release();
                    self.aside = Some((group, work));
                } else {
                    tell_all(group.told(Err(error)));
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
                self.committed(clock::monotonic().duration_since(began));
                tell_all(group.told(Ok(work.results())));
            }
            Err(error) => {
                self.still_failing(&error);
                if work.is_begun() {
                    self.aside = Some((group, work));
                } else {
                    tell_all(group.told(Err(error)));
                }
            }
        }
    }

    fn committed(&mut self, took: Duration) {
        *self.latest_failure.lock().expect("held for one move only, which cannot panic") = None;
        self.observer.committed(took);
    }

    fn failed(&mut self, error: &LedgerError) {
        self.still_failing(error);
        self.observer.failed(error);
    }

    fn still_failing(&self, error: &LedgerError) {
        let failure = Some((clock::monotonic(), error.clone()));
        *self.latest_failure.lock().expect("held for one move only, which cannot panic") = failure;
    }

    fn latest_error(&self) -> LedgerError {
        let latest = self.latest_failure.lock().expect("held for one move only, which cannot panic");
        latest.as_ref().map_or_else(lost, |(_, error)| error.clone())
    }
}

fn lost() -> LedgerError {
    LedgerError::Io("the connection to the database broke before the usage was counted".to_owned())
}
