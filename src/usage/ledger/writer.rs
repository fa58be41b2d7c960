//! The one thread that owns the ledger. What waits together is committed together: one fsync acknowledges many.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use tokio::sync::oneshot;

use super::{Ledger, LedgerError, Taken};
use crate::clock::WallClock;
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
}

impl Writer {
    /// Starts the thread. Hours go by `clock`.
    pub fn start(ledger: Ledger, clock: WallClock) -> io::Result<Self> {
        let (commands, received) = channel();
        thread::Builder::new().name("ledger".to_owned()).spawn(move || run(ledger, &clock, &received))?;
        Ok(Self { commands })
    }

    /// Counts events; on return they are on disk.
    pub async fn take(&self, events: Vec<Event>) -> Result<Vec<Taken>, LedgerError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Take { events, reply }).map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }

    /// Runs `work` in the thread.
    pub async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Ledger) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
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

fn run(mut ledger: Ledger, clock: &WallClock, commands: &Receiver<Command>) {
    while let Ok(first) = commands.recv() {
        let mut next = Some(first);
        while let Some(command) = next.take() {
            match command {
                Command::Work(work) => work(&mut ledger),
                Command::Take { events, reply } => {
                    next = take_group(&mut ledger, clock, commands, events, reply);
                }
            }
        }
    }
}

/// Takes these events and all that wait behind them; returns the first command that is something else.
fn take_group(
    ledger: &mut Ledger,
    clock: &WallClock,
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
    let mut taken = ledger.take(&events, clock.now());
    for (count, reply) in replies {
        let part = match &mut taken {
            Ok(taken) => Ok(taken.drain(..count).collect()),
            Err(error) => Err(error.clone()),
        };
        let _ = reply.send(part);
    }
    other
}
