//! The one thread that owns the ledger. What waits together is committed together: one fsync acknowledges many.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use tokio::sync::oneshot;

use super::{Ledger, LedgerError, Taken};
use crate::clock::{self, WallClock};
use crate::metrics::Metrics;
use crate::usage::event::Event;

/// Most events of one transaction: beyond it the first in line would wait for strangers.
const GROUP_EVENTS_MAX: usize = 4096;

type Work = Box<dyn FnOnce(&mut Ledger) + Send>;

enum Command {
    Take { events: Vec<Event>, reply: oneshot::Sender<Result<Vec<Taken>, LedgerError>> },
    Work(Work),
}

/// A handle to the thread; the thread ends when the last one is dropped.
#[derive(Debug, Clone)]
pub struct Writer {
    commands: Sender<Command>,
    #[cfg(test)]
    inline: Option<(Arc<std::sync::Mutex<Ledger>>, WallClock)>,
}

impl Writer {
    /// Starts the thread. Hours go by `clock`.
    pub fn start(ledger: Ledger, clock: WallClock, metrics: Arc<Metrics>) -> io::Result<Self> {
        let (commands, received) = channel();
        let thread = thread::Builder::new().name("ledger".to_owned());
        thread.spawn(move || run(ledger, &clock, &metrics, &received))?;
        Ok(Self {
            commands,
            #[cfg(test)]
            inline: None,
        })
    }

    /// Works in the caller's thread: paused time would run ahead of another thread's work.
    #[cfg(test)]
    pub(crate) fn inline(ledger: Ledger, clock: WallClock) -> Self {
        Self { commands: channel().0, inline: Some((Arc::new(std::sync::Mutex::new(ledger)), clock)) }
    }

    /// Counts events; on return they are on disk.
    pub async fn take(&self, events: Vec<Event>) -> Result<Vec<Taken>, LedgerError> {
        #[cfg(test)]
        if let Some((ledger, clock)) = &self.inline {
            return ledger.lock().expect("one test, one thread").take(&events, clock.now());
        }
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Take { events, reply }).map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }

    /// Runs `work` in the thread.
    pub async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Ledger) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        #[cfg(test)]
        if let Some((ledger, _)) = &self.inline {
            return work(&mut ledger.lock().expect("one test, one thread"));
        }
        let (reply, answer) = oneshot::channel();
        let work: Work = Box::new(move |ledger| {
            // Whoever asked may have gone away.
            let _ = reply.send(work(ledger));
        });
        self.commands.send(Command::Work(work)).map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }
}

fn ended() -> LedgerError {
    LedgerError::Io("the ledger's thread has ended".to_owned())
}

fn run(mut ledger: Ledger, clock: &WallClock, metrics: &Metrics, commands: &Receiver<Command>) {
    while let Ok(first) = commands.recv() {
        let mut next = Some(first);
        while let Some(command) = next.take() {
            match command {
                Command::Work(work) => work(&mut ledger),
                Command::Take { events, reply } => {
                    next = take_group(&mut ledger, clock, metrics, commands, events, reply);
                }
            }
        }
    }
}

/// Takes these events and all that wait behind them; returns the first command that is something else.
fn take_group(
    ledger: &mut Ledger,
    clock: &WallClock,
    metrics: &Metrics,
    commands: &Receiver<Command>,
    mut events: Vec<Event>,
    reply: oneshot::Sender<Result<Vec<Taken>, LedgerError>>,
) -> Option<Command> {
    let mut replies = vec![(events.len(), reply)];
    let mut other = None;
    while events.len() < GROUP_EVENTS_MAX {
        match commands.try_recv() {
            Ok(Command::Take { events: more, reply }) => {
                replies.push((more.len(), reply));
                events.extend(more);
            }
            Ok(command) => {
                other = Some(command);
                break;
            }
            Err(_) => break,
        }
    }
    let began = clock::monotonic();
    let mut taken = ledger.take(&events, clock.now());
    metrics.committed(clock::monotonic().duration_since(began).as_secs_f64());
    for (count, reply) in replies {
        let part = match &mut taken {
            Ok(taken) => Ok(taken.drain(..count).collect()),
            Err(error) => Err(error.clone()),
        };
        let _ = reply.send(part);
    }
    other
}
