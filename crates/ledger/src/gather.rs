//! How requests that wait at the same time become one commit, whatever the engine.
//!
//! Clients that were acknowledged together usually send their next requests together. So the next commit waits a little
//! for as many requests; otherwise the clients would form two halves, each waiting for the other's commit. A request
//! that comes alone never waits for another.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;

use super::store::Guard;
use super::{LedgerError, Taken};
use tollgate_metering::event::Event;

/// Most events of one transaction: with more, the first request would wait too long for the others.
pub const GROUP_EVENTS_MAX: usize = 4096;

/// Where the result of a request goes.
pub type Reply = oneshot::Sender<Result<Vec<Taken>, LedgerError>>;

/// One request's part of a commit, and where its result goes.
pub type Told = (Reply, Result<Vec<Taken>, LedgerError>);

/// Wakes the committing thread or task when a crowd is complete: one wake-up for each request would cost both sides
/// more than the requests themselves.
#[derive(Debug, Default)]
pub struct Doorbell {
    /// Requests sent so far.
    sent: AtomicUsize,
    /// The thread or task waits until this many were sent.
    wanted: AtomicUsize,
}

impl Doorbell {
    /// Counts a request that was sent; returns whether it completes the crowd.
    pub fn press(&self) -> bool {
        let sent = self.sent.fetch_add(1, Ordering::SeqCst).wrapping_add(1);
        sent == self.wanted.load(Ordering::SeqCst)
    }

    /// Wakes it when this many were sent in all. Requests sent before this call do not wake it, so check the
    /// channel once more after it.
    pub fn ring_at(&self, sent: usize) {
        self.wanted.store(sent, Ordering::SeqCst);
    }
}

/// The latest commit, from which follows how long to gather requests for the next one. Pure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LatestCommit {
    /// The requests that it covered and those that were waiting when it ended: about as many clients send requests.
    pub crowd: usize,
    /// How long it took.
    pub took: Duration,
}

impl LatestCommit {
    /// How long the next commit may wait for the crowd, `idle` after the latest one. A single client waits for no
    /// other. A crowd that sent nothing for as long as a commit takes has gone away.
    #[must_use]
    pub fn patience(self, idle: Duration) -> Duration {
        let patience = self.took.min(GATHER_MAX);
        if self.crowd < 2 || idle > patience { Duration::ZERO } else { patience }
    }
}

/// Clients in the same pod send their next requests within some milliseconds of an acknowledgement, or much later.
const GATHER_MAX: Duration = Duration::from_millis(10);

/// The requests of one commit.
#[derive(Default)]
pub struct Group {
    /// The events of all requests, in the order in which they came.
    pub events: Vec<Event>,
    replies: Vec<(usize, Reply)>,
    guards: Vec<Guard>,
}

impl Group {
    /// Adds a request.
    pub fn add(&mut self, events: Vec<Event>, guard: Guard, reply: Reply) {
        self.replies.push((events.len(), reply));
        self.guards.push(guard);
        if self.events.is_empty() {
            self.events = events;
        } else {
            self.events.extend(events);
        }
    }

    /// How many requests it has.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.replies.len()
    }

    /// Drops what is held for the events' memory although they are not committed yet.
    pub fn release(&mut self) {
        self.guards.clear();
    }

    /// Each request's part of the result; drops the events and what is held for them.
    #[must_use]
    pub fn told(self, mut taken: Result<Vec<Taken>, LedgerError>) -> Vec<Told> {
        let Self { events, replies, guards } = self;
        drop((events, guards));
        let tell = |(count, reply)| {
            let part = match &mut taken {
                Ok(taken) => Ok(taken.drain(..count).collect()),
                Err(error) => Err(error.clone()),
            };
            (reply, part)
        };
        replies.into_iter().map(tell).collect()
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Group({} requests, {} events)", self.replies.len(), self.events.len())
    }
}

/// Sends results; returns how many callers had gone away.
pub fn tell_all(told: Vec<Told>) -> usize {
    told.into_iter().map(|(reply, part)| usize::from(reply.send(part).is_err())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn whoever_comes_alone_never_waits() {
        assert_eq!(LatestCommit::default().patience(Duration::ZERO), Duration::ZERO);
        assert_eq!(LatestCommit { crowd: 1, took: 3 * MS }.patience(Duration::ZERO), Duration::ZERO);
        let crowd = LatestCommit { crowd: 64, took: 3 * MS };
        assert_eq!(crowd.patience(4 * MS), Duration::ZERO, "the crowd has gone away");
    }

    #[test]
    fn the_doorbell_rings_for_the_last_request_of_a_crowd_and_no_other() {
        let doorbell = Doorbell::default();
        doorbell.ring_at(3);
        assert_eq!([(); 4].map(|()| doorbell.press()), [false, false, true, false]);
    }

    #[test]
    fn a_crowd_is_waited_for_as_long_as_a_commit_takes() {
        let pace = LatestCommit { crowd: 64, took: 4 * MS };
        assert_eq!(pace.patience(MS), 4 * MS);
        let slow = LatestCommit { took: 1000 * MS, ..pace };
        assert_eq!(slow.patience(MS), GATHER_MAX, "a slow disk is no reason to wait for nobody");
    }
}
