//! Signals and supervision: the first SIGTERM or SIGINT drains, a second one ends at once, and a part that ends by
//! itself ends the process, so that a half-dead gate cannot go on answering.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::exit::Exit;

/// The signals that end the process.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes the signals over from the system's default, which matters most to a PID 1.
    pub fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// The running parts of the process.
#[derive(Debug)]
pub struct Parts {
    tasks: JoinSet<(&'static str, Exit)>,
    stop: watch::Sender<bool>,
}

impl Parts {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self { tasks: JoinSet::new(), stop: watch::Sender::new(false) }
    }

    /// Turns true when it is time to drain.
    #[must_use]
    pub fn stop(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// Starts a part that runs until [`Parts::stop`]; should it end before, the process ends with 70.
    pub fn spawn(&mut self, name: &'static str, part: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(async move {
            part.await;
            (name, Exit::Internal)
        });
    }

    /// Starts a part that may end the process by itself, and that is dropped when it is time to drain.
    pub fn spawn_deciding(&mut self, name: &'static str, part: impl Future<Output = Exit> + Send + 'static) {
        let mut stop = self.stop();
        self.tasks.spawn(async move {
            let exit = tokio::select! {
                exit = part => exit,
                () = crate::http::stopped(&mut stop) => Exit::Done,
            };
            (name, exit)
        });
    }

    /// Runs until a signal, `done`, or the end of a part; drains; and says how the process ends. `drain` runs before
    /// the parts are told to stop, where nothing has failed.
    pub async fn supervise(
        &mut self,
        signals: &mut Signals,
        done: impl Future<Output = Exit>,
        drain: impl Future<Output = ()>,
    ) -> Exit {
        let exit = tokio::select! {
            name = signals.next() => {
                tracing::info!(signal = name, "draining");
                Exit::Done
            }
            exit = done => exit,
            Some(ended) = self.tasks.join_next() => match ended {
                Ok((name, Exit::Internal)) => {
                    tracing::error!(part = name, "a part of tollgate ended unexpectedly; this is a bug");
                    Exit::Internal
                }
                Ok((_, exit)) => exit,
                Err(error) => {
                    tracing::error!(%error, "a part of tollgate failed; this is a bug");
                    Exit::Internal
                }
            },
        };
        if exit == Exit::Done {
            tokio::select! {
                () = drain => {}
                name = signals.next() => {
                    tracing::warn!(signal = name, "second signal: ending at once");
                    return Exit::Internal;
                }
            }
        }
        self.stop.send_replace(true);
        tokio::select! {
            () = async { while self.tasks.join_next().await.is_some() {} } => exit,
            name = signals.next() => {
                tracing::warn!(signal = name, "second signal: ending at once");
                Exit::Internal
            }
        }
    }
}

impl Default for Parts {
    fn default() -> Self {
        Self::new()
    }
}

/// Runs `part` until `stop` turns true.
pub async fn until(mut stop: watch::Receiver<bool>, part: impl Future<Output = ()>) {
    tokio::select! {
        () = part => {}
        () = crate::http::stopped(&mut stop) => {}
    }
}
