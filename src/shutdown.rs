//! Signals and supervision: the first SIGTERM, SIGINT or SIGHUP starts a drain, and a second one ends the process at
//! once. When a part of the process ends by itself, the process ends too, so that no part keeps answering while
//! another has failed.
//!
//! `timeout` and some init systems send one signal twice, to the process and to its group, so a repetition within
//! [`ECHO`] of the first signal is ignored.

use std::io;
use std::time::Duration;

use rustix::process::Signal;
use tokio::signal::unix::{self, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::exit::Exit;
use crate::process_status::ProcessStatus;
use crate::supervisor::machine::End;
use tollgate_clock as clock;
use tollgate_http::stopped;

/// The same signal again within this time does not count as a second one.
pub const ECHO: Duration = Duration::from_secs(1);

/// A signal that ends the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// SIGTERM.
    Terminate,
    /// SIGINT.
    Interrupt,
    /// SIGHUP: the terminal that the process was started from is gone.
    HangUp,
}

impl Ending {
    /// The signal's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
            Self::HangUp => "SIGHUP",
        }
    }

    /// The signal, to pass it on.
    #[must_use]
    pub const fn signal(self) -> Signal {
        match self {
            Self::Terminate => Signal::TERM,
            Self::Interrupt => Signal::INT,
            Self::HangUp => Signal::HUP,
        }
    }

    /// The exit code of a process that the signal ended, as shells report it: 128 plus the signal's number, with
    /// SIGHUP as SIGTERM.
    const fn exit(self) -> Exit {
        match self {
            Self::Terminate | Self::HangUp => Exit::Terminated,
            Self::Interrupt => Exit::Interrupted,
        }
    }
}

/// How the process ends, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The exit code.
    pub exit: Exit,
    /// The cause, unless the gate's state shows it.
    pub cause: Option<String>,
}

impl Ended {
    /// An end whose cause the gate's state shows, or that needs none.
    pub const fn by_policy(exit: Exit) -> Self {
        Self { exit, cause: None }
    }

    /// An end with its cause.
    pub fn because(exit: Exit, cause: impl Into<String>) -> Self {
        Self { exit, cause: Some(cause.into()) }
    }

    /// An end because the command of `exec` ended; `killed_after`: the grace after which tollgate killed it.
    #[must_use]
    pub fn of_command(end: End, killed_after: Option<Duration>) -> Self {
        match (end, killed_after) {
            (End::Code(0), _) => Self::by_policy(Exit::Done),
            (_, Some(grace)) => Self::because(
                Exit::Killed,
                format!(
                    "the command did not end within command_grace ({grace:?}) and was killed: make it end sooner \
                     after SIGTERM, or raise command_grace"
                ),
            ),
            (End::Code(code), None) => {
                Self::because(Exit::Command(code), format!("the command ended with exit code {code}"))
            }
            (End::Signal(signal), None) => Self::because(
                Exit::Command(end.code()),
                format!("the command was ended by signal {signal}{}", known_as(signal)),
            ),
        }
    }

    fn again(signal: Ending) -> Self {
        Self::because(signal.exit(), format!("a second signal ({}) ended tollgate at once", signal.as_str()))
    }
}

/// The first signal and when it came; or when the end began for another reason.
#[derive(Debug, Clone, Copy)]
pub struct First {
    signal: Option<Ending>,
    at: Instant,
}

impl First {
    /// The signal has just come.
    #[must_use]
    pub fn now(signal: Ending) -> Self {
        Self { signal: Some(signal), at: clock::monotonic() }
    }

    /// The end began for another reason, and the platform's signal may still come.
    #[must_use]
    pub fn to_come() -> Self {
        Self { signal: None, at: clock::monotonic() }
    }
}

/// The signals that end the process.
#[derive(Debug)]
pub struct Signals {
    /// `None` in unit tests.
    terminate: Option<unix::Signal>,
    interrupt: Option<unix::Signal>,
    /// `None` in unit tests, and if the parent process set SIGHUP to be ignored, as `nohup` does.
    hang_up: Option<unix::Signal>,
}

impl Signals {
    /// Installs handlers for the signals; without them PID 1 would ignore the signals.
    pub fn new() -> io::Result<Self> {
        let ignored = Ignored::read().has(Signal::HUP);
        let hang_up = if ignored { None } else { Some(signal(SignalKind::hangup())?) };
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Self { terminate: Some(terminate), interrupt: Some(interrupt), hang_up })
    }

    /// Receives no signal. A handler belongs to the whole process, and unit tests share one process.
    #[cfg(test)]
    const fn none() -> Self {
        Self { terminate: None, interrupt: None, hang_up: None }
    }

    /// Waits for the next signal.
    pub async fn next(&mut self) -> Ending {
        tokio::select! {
            () = received(self.terminate.as_mut()) => Ending::Terminate,
            () = received(self.interrupt.as_mut()) => Ending::Interrupt,
            () = received(self.hang_up.as_mut()) => Ending::HangUp,
        }
    }

    /// Waits for a second signal: one that comes after the first and is not its repetition.
    async fn second(&mut self, first: &mut Option<First>) -> Ending {
        loop {
            let next = self.next().await;
            // A terminal that closes during a drain is no second signal.
            if next != Ending::HangUp {
                match first {
                    Some(First { signal: None, .. }) => *first = Some(First::now(next)),
                    Some(First { signal: Some(signal), at })
                        if *signal == next && clock::monotonic().saturating_duration_since(*at) < ECHO => {}
                    _ => return next,
                }
            }
            tracing::debug!(signal = next.as_str(), "this signal does not end the drain");
        }
    }
}

/// The name of a signal by which processes end, for people.
const fn known_as(signal: u8) -> &'static str {
    match signal {
        1 => " (SIGHUP)",
        2 => " (SIGINT)",
        3 => " (SIGQUIT)",
        4 => " (SIGILL)",
        6 => " (SIGABRT)",
        7 => " (SIGBUS)",
        8 => " (SIGFPE)",
        9 => " (SIGKILL; the kernel sends it when memory runs out)",
        11 => " (SIGSEGV)",
        13 => " (SIGPIPE)",
        15 => " (SIGTERM)",
        _ => "",
    }
}

async fn received(signal: Option<&mut unix::Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// The signals that were ignored when this process started, as the bit mask in `/proc/self/status` (proc(5)).
#[derive(Debug, Clone, Copy)]
pub struct Ignored(u64);

impl Ignored {
    /// Reads the mask; if that fails, no signal counts as ignored.
    #[must_use]
    pub fn read() -> Self {
        let status = ProcessStatus::of("self");
        let mask = status.and_then(|status| u64::from_str_radix(status.value("SigIgn"), 16).ok());
        Self(mask.unwrap_or(0))
    }

    /// Whether `signal` is one of them.
    #[must_use]
    pub const fn has(self, signal: Signal) -> bool {
        self.0 >> (signal.as_raw() - 1) & 1 == 1
    }
}

/// The running parts of the process.
#[derive(Debug)]
pub struct Parts {
    tasks: JoinSet<(&'static str, Exit, Option<String>)>,
    stop: watch::Sender<bool>,
}

impl Parts {
    /// A process without parts.
    #[must_use]
    pub fn new() -> Self {
        Self { tasks: JoinSet::new(), stop: watch::Sender::new(false) }
    }

    /// Becomes true when the parts must stop.
    #[must_use]
    pub fn stop(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// Starts a part that runs until [`Parts::stop`]; if it ends before, the process ends with 70.
    pub fn spawn(&mut self, name: &'static str, part: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(async move {
            part.await;
            (name, Exit::Internal, None)
        });
    }

    /// Starts a part that may end the process, and that is dropped at [`Parts::stop`].
    pub fn spawn_deciding(&mut self, name: &'static str, part: impl Future<Output = Exit> + Send + 'static) {
        self.spawn_explaining(name, async move { (part.await, None) });
    }

    /// The same for a part that knows a cause which the gate's state does not show.
    pub fn spawn_explaining(
        &mut self,
        name: &'static str,
        part: impl Future<Output = (Exit, Option<String>)> + Send + 'static,
    ) {
        let mut stop = self.stop();
        self.tasks.spawn(async move {
            let (exit, cause) = tokio::select! {
                ended = part => ended,
                () = stopped(&mut stop) => (Exit::Done, None),
            };
            (name, exit, cause)
        });
    }

    /// Waits for a signal, for `done`, or for the end of a part. Returns how the process ends, and the first signal;
    /// `None` after `done`.
    pub async fn watch(
        &mut self,
        signals: &mut Signals,
        done: impl Future<Output = Exit>,
    ) -> (Ended, Option<First>) {
        tokio::select! {
            signal = signals.next() => {
                tracing::info!(event = "draining", signal = signal.as_str(), "draining");
                (Ended::by_policy(Exit::Done), Some(First::now(signal)))
            }
            exit = done => (Ended::by_policy(exit), None),
            Some(ended) = self.tasks.join_next() => (part_ended(ended), Some(First::to_come())),
        }
    }

    /// Drains after [`Parts::watch`], and returns how the process ends. `drain` runs before the parts are stopped.
    pub async fn finish(
        &mut self,
        signals: &mut Signals,
        (ended, mut first): (Ended, Option<First>),
        drain: impl Future<Output = ()>,
    ) -> Ended {
        let failed = tokio::select! {
            () = drain => None,
            // A part that fails during the drain is the cause of the end.
            failed = self.failure(), if ended.exit == Exit::Done => Some(failed),
            signal = signals.second(&mut first) => return Ended::again(signal),
        };
        self.stop.send_replace(true);
        if let Some(failed) = failed {
            return failed;
        }
        tokio::select! {
            () = async { while self.tasks.join_next().await.is_some() {} } => ended,
            signal = signals.second(&mut first) => Ended::again(signal),
        }
    }

    /// Waits for a part that ends with an exit code other than 0.
    pub async fn failure(&mut self) -> Ended {
        loop {
            match self.tasks.join_next().await.map(part_ended) {
                Some(ended) if ended.exit != Exit::Done => return ended,
                Some(_) => {}
                None => std::future::pending().await,
            }
        }
    }
}

fn part_ended(ended: Result<(&'static str, Exit, Option<String>), tokio::task::JoinError>) -> Ended {
    match ended {
        Ok((name, Exit::Internal, _)) => Ended::because(
            Exit::Internal,
            format!("a part of tollgate ended unexpectedly: {name}; this is a bug"),
        ),
        Ok((_, exit, cause)) => Ended { exit, cause },
        Err(error) => {
            Ended::because(Exit::Internal, format!("a part of tollgate failed: {error}; this is a bug"))
        }
    }
}

impl Default for Parts {
    fn default() -> Self {
        Self::new()
    }
}

/// Runs `part` until it ends or `stop` becomes true.
pub async fn until(mut stop: watch::Receiver<bool>, part: impl Future<Output = ()>) {
    tokio::select! {
        () = part => {}
        () = stopped(&mut stop) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For example, seats must be given back so that other pods can take them.
    #[tokio::test]
    async fn what_is_held_is_given_back_although_a_part_has_failed() {
        let (mut parts, mut signals) = (Parts::new(), Signals::none());
        let mut stop = parts.stop();
        parts.spawn("sound", async move { stopped(&mut stop).await });
        parts.spawn("broken", async {});
        let ended = parts.watch(&mut signals, std::future::pending()).await;
        let running = parts.stop();
        let mut drained = false;
        let drain = async {
            drained = !*running.borrow();
        };
        let ended = parts.finish(&mut signals, ended, drain).await;
        assert!(drained, "before the parts are told to stop");
        assert_eq!(ended.exit, Exit::Internal);
        assert!(ended.cause.is_some_and(|cause| cause.contains("broken")));
        // `cargo test` runs all unit tests in one process: a handler would outlive this test, and Ctrl-C would not end
        // the others.
        let caught = ProcessStatus::of("self").map(|status| status.value("SigCgt").to_owned()).unwrap();
        let caught = u64::from_str_radix(&caught, 16).unwrap();
        for ending in [Ending::Terminate, Ending::Interrupt, Ending::HangUp] {
            assert_eq!(caught >> (ending.signal().as_raw() - 1) & 1, 0, "{}", ending.as_str());
        }
    }
}
