//! The one thread that owns the ledger. Requests that wait at the same time are committed together (`gather`): one
//! fsync acknowledges many.

use std::collections::BTreeMap;
use std::io;
#[cfg(any(test, feature = "testing"))]
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::gather::{Doorbell, GROUP_EVENTS_MAX, Group, LatestCommit, Reply, Told, tell_all};
use super::repair::{Entry, Repair, Repaired};
use super::store::{Guard, Lifecycle, Store, StoreFuture, View};
use super::view::{From, Looked, OpenSlot, Piece};
use super::{Flushed, Ledger, LedgerError, Links, Sealing, Summary, Taken, Totals};
use tollgate_clock::{self as clock, WallClock};
use tollgate_marketplace::lifecycle::{Effect, LicenseState, LifecycleEvent, NamedLicense};
use tollgate_marketplace::service::BoxFuture;
use tollgate_marketplace::{Hour, Region};
use tollgate_metering::event::Event;
use tollgate_metering::record::{Due, Noted, Record, Whole};
use tollgate_time::Timestamp;

/// Returns the error, if it failed, and a closure that sends the answer.
type Work = Box<dyn FnOnce(&mut Ledger) -> (Option<LedgerError>, Box<dyn FnOnce()>) + Send>;

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
    Work(Work),
}

/// A command that is no part of a group.
enum Alone {
    /// A request that must be counted as a whole.
    Whole(Group),
    Work(Work),
}

/// Is called after each commit, in the ledger's thread.
pub trait Observer: Send + 'static {
    /// How long a commit took.
    fn committed(&mut self, took: Duration);

    /// The ledger could not be written or read. A full ledger is not reported here: the applications get that error.
    fn failed(&mut self, error: &LedgerError);
}

/// A handle to the thread; the thread ends when the last one is dropped.
#[derive(Debug, Clone)]
pub struct Writer {
    commands: Sender<Command>,
    doorbell: Arc<Doorbell>,
    thread: thread::Thread,
    latest_failure: LatestFailure,
    uses: watch::Sender<()>,
    unnoticed: bool,
    written: Arc<AtomicU64>,
    /// The ledger and its clock, where it works in the caller's thread.
    #[cfg(any(test, feature = "testing"))]
    inline: Option<(Arc<Mutex<Ledger>>, WallClock)>,
    /// Calls of [`Writer::with`].
    #[cfg(any(test, feature = "testing"))]
    asked: Arc<AtomicUsize>,
}

/// When the ledger last could not be used, and why.
type LatestFailure = Arc<Mutex<Option<(Instant, LedgerError)>>>;

impl Writer {
    /// Starts the thread; call it inside the runtime. `clock` decides to which hours events count.
    pub fn start(ledger: Ledger, clock: WallClock, observer: impl Observer) -> io::Result<Self> {
        let (commands, received) = channel();
        let (tell, mut told) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(told) = told.recv().await {
                tell_all(told);
            }
        });
        let doorbell = Arc::new(Doorbell::default());
        let latest_failure = LatestFailure::default();
        let written = Arc::new(AtomicU64::new(ledger.written));
        let thread = Thread {
            ledger,
            clock,
            observer: Box::new(observer),
            commands: received,
            doorbell: Arc::clone(&doorbell),
            taken: 0,
            tell,
            pace: LatestCommit::default(),
            latest_failure: Arc::clone(&latest_failure),
            written: Arc::clone(&written),
        };
        let running = thread::Builder::new().name("ledger".to_owned()).spawn(move || thread.run())?;
        Ok(Self {
            commands,
            doorbell,
            thread: running.thread().clone(),
            latest_failure,
            uses: watch::Sender::default(),
            unnoticed: false,
            written,
            #[cfg(any(test, feature = "testing"))]
            inline: None,
            #[cfg(any(test, feature = "testing"))]
            asked: Arc::default(),
        })
    }

    /// A writer that works in the caller's thread. With paused time, the test would not wait for another thread's work.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn inline(ledger: Ledger, clock: WallClock) -> Self {
        Self {
            commands: channel().0,
            doorbell: Arc::default(),
            thread: thread::current(),
            latest_failure: LatestFailure::default(),
            uses: watch::Sender::default(),
            unnoticed: false,
            written: Arc::default(),
            inline: Some((Arc::new(Mutex::new(ledger)), clock)),
            asked: Arc::default(),
        }
    }

    /// How often any handle called [`Writer::with`].
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// A handle for tasks that look from time to time: its use does not wake the other tasks.
    #[must_use]
    pub fn unnoticed(self) -> Self {
        Self { unnoticed: true, ..self }
    }

    fn used(&self) {
        if !self.unnoticed {
            self.uses.send_replace(());
        }
    }

    async fn send(&self, command: impl FnOnce(Reply) -> Command) -> Result<Vec<Taken>, LedgerError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).map_err(|_| ended())?;
        if self.doorbell.press() {
            self.thread.unpark();
        }
        let taken = answer.await.map_err(|_| ended())?;
        self.used();
        taken
    }

    /// Runs `work` in the thread.
    pub async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Ledger) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        #[cfg(any(test, feature = "testing"))]
        self.asked.fetch_add(1, Ordering::SeqCst);
        #[cfg(any(test, feature = "testing"))]
        if let Some((ledger, _)) = &self.inline {
            self.used();
            return work(&mut ledger.lock().expect("one test, one thread"));
        }
        let (reply, answer) = oneshot::channel();
        let work: Work = Box::new(move |ledger| {
            let done = work(ledger);
            let error = done.as_ref().err().cloned();
            // The caller may have gone away.
            let answer = Box::new(move || drop(reply.send(done)));
            (error, answer as Box<dyn FnOnce()>)
        });
        self.commands.send(Command::Work(work)).map_err(|_| ended())?;
        self.thread.unpark();
        let done = answer.await.map_err(|_| ended())?;
        self.used();
        done
    }
}

impl Writer {
    /// A step of a trait: [`Writer::with`], boxed.
    fn step<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Ledger) -> Result<T, LedgerError> + Send + 'static,
    ) -> StoreFuture<'_, T> {
        Box::pin(self.with(work))
    }
}

impl View for Writer {
    fn record(&self, id: i64) -> StoreFuture<'_, Option<(Whole, Links)>> {
        self.step(move |ledger| ledger.linked_record(id))
    }

    fn totals(&self) -> StoreFuture<'_, BTreeMap<String, Totals>> {
        self.step(|ledger| ledger.totals())
    }

    fn summary(&self) -> StoreFuture<'_, Summary> {
        self.step(|ledger| ledger.summary())
    }

    fn page(&self, looked: Looked, limit: usize) -> StoreFuture<'_, Piece<Record, i64>> {
        self.step(move |ledger| ledger.page(&looked, limit))
    }

    fn audit(&self, before: Option<i64>, limit: usize) -> StoreFuture<'_, Vec<Entry>> {
        self.step(move |ledger| ledger.audit(before, limit))
    }

    fn open_slots(&self, looked: Looked, from: From, limit: usize) -> StoreFuture<'_, Piece<OpenSlot, From>> {
        self.step(move |ledger| ledger.open_slots(&looked, &from, limit))
    }

    fn repair(&self, id: i64, repair: Repair, now: Timestamp) -> StoreFuture<'_, Repaired> {
        self.step(move |ledger| ledger.repair(id, &repair, now))
    }
}

impl Lifecycle for Writer {
    fn knows_event(&self, id: String) -> StoreFuture<'_, bool> {
        self.step(move |ledger| ledger.knows_event(&id))
    }

    fn note_event(&self, event: LifecycleEvent, now: Timestamp) -> StoreFuture<'_, Effect> {
        self.step(move |ledger| ledger.note_event(&event, now))
    }

    fn license(&self, license: String) -> StoreFuture<'_, Option<LicenseState>> {
        self.step(move |ledger| ledger.license(&license))
    }

    fn identifiers(&self, account: String) -> StoreFuture<'_, Vec<String>> {
        self.step(move |ledger| ledger.identifiers(&account))
    }

    fn ending(&self, now: Timestamp) -> StoreFuture<'_, Vec<NamedLicense>> {
        self.step(move |ledger| ledger.ending(now))
    }

    fn flush(&self, customers: Vec<String>, now: Timestamp) -> StoreFuture<'_, Flushed> {
        self.step(move |ledger| ledger.flush(&customers, now))
    }
}

impl Store for Writer {
    fn ready(&self) -> StoreFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn lead(&self) -> StoreFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn leave(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    fn is_shared(&self) -> bool {
        false
    }

    fn lifecycle(&self) -> &dyn Lifecycle {
        self
    }

    fn take_time(&self, events: Vec<Event>, now: Timestamp) -> StoreFuture<'_, Vec<Taken>> {
        self.step(move |ledger| ledger.take_time(&events, now))
    }

    fn unnoticed(&self) -> Arc<dyn Store> {
        Arc::new(self.clone().unnoticed())
    }

    fn uses(&self) -> watch::Receiver<()> {
        self.uses.subscribe()
    }

    fn written(&self) -> u64 {
        #[cfg(any(test, feature = "testing"))]
        if let Some((ledger, _)) = &self.inline {
            return ledger.lock().expect("one test, one thread").written;
        }
        self.written.load(Ordering::Acquire)
    }

    fn failed_since(&self, since: Instant) -> Option<LedgerError> {
        let latest = self.latest_failure.lock().expect("held for one move only, which cannot panic");
        latest.as_ref().filter(|(at, _)| *at >= since).map(|(_, error)| error.clone())
    }

    fn take(&self, events: Vec<Event>, guard: Guard) -> StoreFuture<'_, Vec<Taken>> {
        Box::pin(async move {
            #[cfg(any(test, feature = "testing"))]
            if let Some((ledger, clock)) = &self.inline {
                self.used();
                return ledger.lock().expect("one test, one thread").take(&events, clock.now());
            }
            self.send(|reply| Command::Take { events, guard, reply }).await
        })
    }

    fn take_whole(&self, events: Vec<Event>, guard: Guard) -> StoreFuture<'_, Vec<Taken>> {
        Box::pin(async move {
            #[cfg(any(test, feature = "testing"))]
            if let Some((ledger, clock)) = &self.inline {
                self.used();
                return ledger.lock().expect("one test, one thread").take_whole(&events, clock.now());
            }
            self.send(|reply| Command::Whole { events, guard, reply }).await
        })
    }

    fn identify(&self, identifier: String, account: String) -> StoreFuture<'_, ()> {
        self.step(move |ledger| ledger.identify(&identifier, &account))
    }

    fn seal(&self, early: bool, now: Timestamp) -> StoreFuture<'_, Sealing> {
        self.step(move |ledger| if early { ledger.seal_now(now) } else { ledger.seal_closed(now) })
    }

    fn due(&self, now: Timestamp, limit: usize) -> StoreFuture<'_, Vec<Due>> {
        self.step(move |ledger| ledger.due(now, limit))
    }

    fn doubtful(&self, limit: usize) -> StoreFuture<'_, Vec<Due>> {
        self.step(move |ledger| ledger.doubtful(limit))
    }

    fn unsent_up_to(&self, hour: Hour, limit: usize) -> StoreFuture<'_, Vec<Due>> {
        self.step(move |ledger| ledger.unsent_up_to(hour, limit))
    }

    fn count_unsent_up_to(&self, hour: Hour) -> StoreFuture<'_, u64> {
        self.step(move |ledger| ledger.count_unsent_up_to(hour))
    }

    fn next_due(&self) -> StoreFuture<'_, Option<Timestamp>> {
        self.step(|ledger| ledger.next_due())
    }

    fn is_denied(&self) -> StoreFuture<'_, bool> {
        self.step(|ledger| ledger.is_denied())
    }

    fn release(&self, now: Timestamp, limit: usize) -> StoreFuture<'_, usize> {
        self.step(move |ledger| ledger.release(now, limit))
    }

    fn defer(&self, until: Vec<(i64, Timestamp)>) -> StoreFuture<'_, ()> {
        self.step(move |ledger| ledger.defer(&until))
    }

    fn begin(&self, ids: Vec<i64>, region: Option<Region>, now: Timestamp) -> StoreFuture<'_, Vec<Whole>> {
        self.step(move |ledger| ledger.begin(&ids, region.as_ref(), now))
    }

    fn answered_all(&self, notes: Vec<Noted>, region: Option<Region>, now: Timestamp) -> StoreFuture<'_, ()> {
        self.step(move |ledger| ledger.answered_all(&notes, region.as_ref(), now))
    }
}

fn ended() -> LedgerError {
    LedgerError::Io("the ledger's thread has ended".to_owned())
}

/// The state of the thread.
struct Thread {
    ledger: Ledger,
    clock: WallClock,
    observer: Box<dyn Observer>,
    commands: Receiver<Command>,
    doorbell: Arc<Doorbell>,
    /// Requests received so far.
    taken: usize,
    /// Sends results to a task inside the runtime, which wakes the requests: waking each from this thread would be a
    /// system call.
    tell: mpsc::UnboundedSender<Vec<Told>>,
    pace: LatestCommit,
    latest_failure: LatestFailure,
    /// `Ledger::written`, for other threads.
    written: Arc<AtomicU64>,
}

impl Thread {
    fn run(mut self) {
        let mut group = Group::default();
        let mut ended = clock::monotonic();
        while self.has_any(&mut group) {
            let patience = self.pace.patience(clock::monotonic().duration_since(ended));
            let mut alone = self.gather(&mut group, self.pace.crowd, patience);
            let (told, took) = self.commit(group, false);
            ended = clock::monotonic();
            group = Group::default();
            if alone.is_none() {
                // Before the results are sent: the requests that wait now are from other clients, and both groups are
                // the crowd.
                alone = self.gather(&mut group, 0, Duration::ZERO);
            }
            self.pace = LatestCommit { crowd: told.len() + group.requests(), took };
            self.tell(told);
            if let Some(alone) = alone {
                self.perform(alone);
            } else {
                self.checkpoint();
            }
        }
    }

    fn tell(&self, told: Vec<Told>) {
        if let Err(mpsc::error::SendError(told)) = self.tell.send(told) {
            tell_all(told);
        }
    }

    fn perform(&mut self, alone: Alone) {
        match alone {
            Alone::Work(work) => self.work(work),
            Alone::Whole(request) => {
                let (told, _) = self.commit(request, true);
                self.tell(told);
                self.checkpoint();
            }
        }
    }

    /// Handles commands until there are events to commit; `false` if no sender is left.
    fn has_any(&mut self, group: &mut Group) -> bool {
        while group.requests() == 0 {
            let Ok(command) = self.commands.recv() else { return false };
            if let Some(alone) = self.sort(command, group) {
                self.perform(alone);
            }
        }
        true
    }

    /// Adds the requests that wait, and those that come within `patience` until there are `crowd`; returns the first
    /// command that is no part of a group.
    fn gather(&mut self, group: &mut Group, crowd: usize, patience: Duration) -> Option<Alone> {
        let until = clock::monotonic() + patience;
        self.doorbell.ring_at(self.taken.wrapping_add(crowd.saturating_sub(group.requests())));
        loop {
            while group.events.len() < GROUP_EVENTS_MAX
                && let Ok(command) = self.commands.try_recv()
            {
                if let Some(alone) = self.sort(command, group) {
                    return Some(alone);
                }
            }
            let left = until.saturating_duration_since(clock::monotonic());
            if group.requests() >= crowd || group.events.len() >= GROUP_EVENTS_MAX || left.is_zero() {
                return None;
            }
            thread::park_timeout(left);
        }
    }

    /// Adds a request to the group; returns any other command.
    fn sort(&mut self, command: Command, group: &mut Group) -> Option<Alone> {
        match command {
            Command::Take { events, guard, reply } => {
                self.taken = self.taken.wrapping_add(1);
                group.add(events, guard, reply);
                None
            }
            Command::Whole { events, guard, reply } => {
                self.taken = self.taken.wrapping_add(1);
                let mut whole = Group::default();
                whole.add(events, guard, reply);
                Some(Alone::Whole(whole))
            }
            Command::Work(work) => Some(Alone::Work(work)),
        }
    }

    fn work(&mut self, work: Work) {
        let written = self.ledger.written;
        let (error, answer) = work(&mut self.ledger);
        // Stored before the result is sent.
        self.written.store(self.ledger.written, Ordering::Release);
        if let Some(error) = error {
            self.failed(&error);
        } else if self.ledger.written > written {
            self.recovered();
        }
        answer();
        self.checkpoint();
    }

    /// The results of the commit were sent, so only later requests can wait for a checkpoint.
    fn checkpoint(&mut self) {
        if let Err(error) = self.ledger.checkpoint(self.pace.took) {
            self.failed(&error);
        }
    }

    fn failed(&mut self, error: &LedgerError) {
        if matches!(error, LedgerError::Full { .. }) {
            return;
        }
        let failure = Some((clock::monotonic(), error.clone()));
        *self.latest_failure.lock().expect("held for one move only, which cannot panic") = failure;
        self.observer.failed(error);
    }

    /// A successful write ends the failure.
    fn recovered(&self) {
        *self.latest_failure.lock().expect("held for one move only, which cannot panic") = None;
    }

    /// Commits a group, or one request as a whole; returns the results to send, and how long the commit took.
    fn commit(&mut self, group: Group, whole: bool) -> (Vec<Told>, Duration) {
        let (began, written) = (clock::monotonic(), self.ledger.written);
        let now = self.clock.now();
        let taken = if whole {
            self.ledger.take_whole(&group.events, now)
        } else {
            self.ledger.take(&group.events, now)
        };
        let took = clock::monotonic().duration_since(began);
        self.written.store(self.ledger.written, Ordering::Release);
        match &taken {
            Ok(taken) => {
                // A request that must be whole and is not was not committed.
                if !whole || taken.iter().all(|taken| taken.is_counted()) {
                    self.observer.committed(took);
                }
                if self.ledger.written > written {
                    self.recovered();
                }
            }
            Err(error) => self.failed(error),
        }
        (group.told(taken), took)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::LedgerSettings;
    use crate::testing::{START, settings};
    use tollgate_marketplace::{Customer, Quantity, TagSet};
    use tollgate_time::Timestamp;

    const MS: Duration = Duration::from_millis(1);

    /// Reports when it is dropped.
    struct Guarded(Sender<&'static str>, &'static str);

    impl Drop for Guarded {
        fn drop(&mut self) {
            let _ = self.0.send(self.1);
        }
    }

    /// Commits and failures, counted.
    #[derive(Clone, Default)]
    struct Seen(Arc<[AtomicUsize; 2]>);

    impl Seen {
        fn counts(&self) -> [usize; 2] {
            [0, 1].map(|which| self.0[which].load(Ordering::SeqCst))
        }
    }

    impl Observer for Seen {
        fn committed(&mut self, _: Duration) {
            self.0[0].fetch_add(1, Ordering::SeqCst);
        }

        fn failed(&mut self, _: &LedgerError) {
            self.0[1].fetch_add(1, Ordering::SeqCst);
        }
    }

    fn start(bytes_max: u64) -> (tempfile::TempDir, Writer, Seen) {
        let settings = LedgerSettings { bytes_max, ..settings("pod") };
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(folder.path(), settings).unwrap();
        let seen = Seen::default();
        let writer = Writer::start(ledger, WallClock::fixed(START), seen.clone()).unwrap();
        (folder, writer, seen)
    }

    fn events() -> Vec<Event> {
        vec![Event {
            id: None,
            dimension: "requests".into(),
            quantity: Quantity::from_micros(1).unwrap().into(),
            at: Timestamp::from_unix_seconds(1_795_507_200),
            tags: TagSet::default(),
            customer: Customer::Own,
            content: [0; 32],
        }]
    }

    #[tokio::test]
    async fn a_client_that_gives_up_frees_its_budget_only_when_its_events_are_on_disk() {
        let (_folder, writer, _) = start(1 << 30);
        let (tell, told) = channel();
        let (free, held) = channel::<()>();
        // The thread is busy: a request that comes now waits.
        let (begun, at_work) = oneshot::channel();
        let busy = writer.clone();
        let work = tokio::spawn(async move {
            let work = move |ledger: &mut Ledger| {
                let _ = begun.send(());
                let _ = held.recv();
                ledger.totals()
            };
            busy.with(work).await
        });
        at_work.await.unwrap();
        let gives_up =
            tokio::time::timeout(MS, writer.take(events(), Box::new(Guarded(tell.clone(), "freed"))));
        assert!(gives_up.await.is_err(), "it waits");
        assert!(told.try_recv().is_err(), "its events still take memory");
        free.send(()).unwrap();
        work.await.unwrap().unwrap();
        let totals = writer.with(|ledger| ledger.totals()).await.unwrap();
        assert_eq!(told.recv().unwrap(), "freed");
        assert_eq!(totals["requests"].accepted, 1, "and it was counted");
        writer.take(events(), Box::new(Guarded(tell, "answered"))).await.unwrap();
        assert_eq!(told.recv().unwrap(), "answered");
    }

    #[tokio::test]
    async fn a_commit_that_failed_counts_as_a_failure_and_not_as_a_commit() {
        let (_folder, writer, seen) = start(1 << 30);
        writer.take(events(), Box::new(())).await.unwrap();
        assert_eq!(seen.counts(), [1, 0]);

        writer.with(|ledger| crate::testing::refuse_writes(ledger, true)).await.unwrap();
        assert!(matches!(writer.take(events(), Box::new(())).await, Err(LedgerError::Io(_))));
        let now = Timestamp::from_unix_seconds(1_795_507_200);
        writer.with(move |ledger| ledger.attempt(&[1], None, now)).await.unwrap_err();
        assert_eq!(seen.counts(), [1, 2]);
    }

    #[tokio::test]
    async fn a_request_that_must_be_whole_is_a_commit_only_if_it_is_counted() {
        let (_folder, writer, seen) = start(1 << 30);
        let keyed =
            |content: u8| vec![Event { id: Some("a".into()), content: [content; 32], ..events().remove(0) }];
        let whole = async |events: Vec<Event>| writer.take_whole(events, Box::new(())).await.unwrap();
        assert_eq!(whole(keyed(1)).await, [Taken::Accepted]);
        assert_eq!(seen.counts(), [1, 0]);
        let conflicting = [events(), keyed(2)].concat();
        assert_eq!(whole(conflicting).await, [Taken::Accepted, Taken::Conflict]);
        assert_eq!(seen.counts(), [1, 0], "nothing was committed");
        assert_eq!(whole(keyed(1)).await, [Taken::Duplicate]);
        let totals = writer.with(|ledger| ledger.totals()).await.unwrap();
        assert_eq!(totals["requests"].accepted, 1);
        writer.with(|ledger| crate::testing::refuse_writes(ledger, true)).await.unwrap();
        writer.take_whole(events(), Box::new(())).await.unwrap_err();
        assert_eq!(seen.counts(), [2, 1]);
    }

    #[tokio::test]
    async fn a_disk_that_takes_writes_again_is_no_reason_any_more() {
        let (_folder, writer, _) = start(1 << 30);
        let began = clock::monotonic();
        let now = Timestamp::from_unix_seconds(1_795_507_200);
        for recovers_by in ["events", "work"] {
            writer.with(|ledger| crate::testing::refuse_writes(ledger, true)).await.unwrap();
            writer.take(events(), Box::new(())).await.unwrap_err();
            writer.with(|ledger| ledger.totals()).await.unwrap();
            assert!(writer.failed_since(began).is_some(), "it can be read, which says nothing");
            writer.with(|ledger| crate::testing::refuse_writes(ledger, false)).await.unwrap();
            if recovers_by == "events" {
                writer.take(events(), Box::new(())).await.unwrap();
            } else {
                writer.with(move |ledger| ledger.seal_now(now)).await.unwrap();
            }
            assert_eq!(writer.failed_since(began).map(|error| error.to_string()), None, "{recovers_by}");
        }
    }

    #[tokio::test]
    async fn whoever_was_told_of_a_change_sees_that_the_ledger_was_written() {
        let (_folder, writer, _) = start(u64::MAX);
        let other = writer.clone().unnoticed();
        let mut before = other.written();
        writer.take(events(), Box::new(())).await.unwrap();
        assert_eq!(other.written(), before + 1, "events");
        other.with(|ledger| ledger.totals()).await.unwrap();
        assert_eq!(other.written(), before + 1, "a look");
        before = other.written();
        let now = START.plus(Duration::from_secs(7200));
        other.with(move |ledger| ledger.seal_closed(now)).await.unwrap();
        assert_eq!(writer.written(), before + 1, "a closed hour");
        other.with(move |ledger| ledger.seal_closed(now)).await.unwrap();
        assert_eq!(writer.written(), before + 1, "it is closed already");
    }

    #[tokio::test]
    async fn a_full_ledger_is_no_fault_of_the_disk() {
        let (_folder, writer, seen) = start(1);
        assert!(matches!(writer.take(events(), Box::new(())).await, Err(LedgerError::Full { .. })));
        assert_eq!(seen.counts(), [0, 0]);
    }
}
