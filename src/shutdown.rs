//! Signals and supervision: the first SIGTERM, SIGINT or SIGHUP drains, a second one ends at once, and a part that ends
//! by itself ends the process, so that no part of the gate answers when another has failed.
//!
//! `timeout` and some init systems send one signal twice, to the process and to its group: the same signal within
//! [`ECHO`] of the first is the first.

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
    /// SIGHUP: the terminal that it was started from is gone.
    HangUp,
}

impl Ending {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
            Self::HangUp => "SIGHUP",
        }
    }

    /// The signal, as it is passed on.
    #[must_use]
    pub const fn signal(self) -> Signal {
        match self {
            Self::Terminate => Signal::TERM,
            Self::Interrupt => Signal::INT,
            Self::HangUp => Signal::HUP,
        }
    }

    /// How a process ends that it ended: 128 and its number.
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
    /// Its exit code.
    pub exit: Exit,
    /// The cause, where the gate's state does not tell it.
    pub cause: Option<String>,
}

impl Ended {
    /// The gate's state tells the cause, or there is none to tell.
    pub const fn by_policy(exit: Exit) -> Self {
        Self { exit, cause: None }
    }

    /// With its cause.
    pub fn because(exit: Exit, cause: impl Into<String>) -> Self {
        Self { exit, cause: Some(cause.into()) }
    }

    /// By the end of the command of `exec`, which had `grace` where it was killed.
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

/// The signal that asked for the end, and when it came.
#[derive(Debug, Clone, Copy)]
pub struct First {
    signal: Option<Ending>,
    at: Instant,
}

impl First {
    /// It has just come.
    #[must_use]
    pub fn now(signal: Ending) -> Self {
        Self { signal: Some(signal), at: clock::monotonic() }
    }

    /// Something else began the end, and the platform's signal may still come.
    #[must_use]
    pub fn to_come() -> Self {
        Self { signal: None, at: clock::monotonic() }
    }
}

/// The signals that end the process.
#[derive(Debug)]
pub struct Signals {
    /// Absent in unit tests, as the next one.
    terminate: Option<unix::Signal>,
    interrupt: Option<unix::Signal>,
    /// Absent also where the caller has it ignored, as `nohup` does.
    hang_up: Option<unix::Signal>,
}

impl Signals {
    /// Installs handlers for the signals, which matters most for PID 1.
    pub fn new() -> io::Result<Self> {
        let ignored = Ignored::read().has(Signal::HUP);
        let hang_up = if ignored { None } else { Some(signal(SignalKind::hangup())?) };
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Self { terminate: Some(terminate), interrupt: Some(interrupt), hang_up })
    }

    /// None that will come: a handler belongs to the whole process, and tests share one.
    #[cfg(test)]
    const fn none() -> Self {
        Self { terminate: None, interrupt: None, hang_up: None }
    }

    /// Waits for the next one.
    pub async fn next(&mut self) -> Ending {
        tokio::select! {
            () = received(self.terminate.as_mut()) => Ending::Terminate,
            () = received(self.interrupt.as_mut()) => Ending::Interrupt,
            () = received(self.hang_up.as_mut()) => Ending::HangUp,
        }
    }

    /// Waits for a signal that comes after the first one and is not its echo.
    async fn second(&mut self, first: &mut Option<First>) -> Ending {
        loop {
            let next = self.next().await;
            // A terminal that closes during a drain does not shorten the drain: closing it is not a second signal.
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

/// The name of a signal that ends processes, for people.
const fn known_as(signal: u8) -> &'static str {
    match signal {
        1 => " (SIGHUP)",
        2 => " (SIGINT)",
        3 => " (SIGQUIT)",
        4 => " (SIGILL)",
        6 => " (SIGABRT)",
        7 => " (SIGBUS)",
        8 => " (SIGFPE)",
        9 => " (SIGKILL; the kernel sends it where memory runs out)",
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

/// The signals that this process was started with ignored; Linux tells them by the bits of a mask (proc(5)).
#[derive(Debug, Clone, Copy)]
pub struct Ignored(u64);

impl Ignored {
    /// Where the mask cannot be read, none is.
    #[must_use]
    pub fn read() -> Self {
        let status = ProcessStatus::of("self");
        let mask = status.and_then(|status| u64::from_str_radix(status.value("SigIgn"), 16).ok());
        Self(mask.unwrap_or(0))
    }

    /// Whether it is one of them.
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
            (name, Exit::Internal, None)
        });
    }

    /// Starts a part that may end the process by itself, and that is dropped when it is time to drain.
    pub fn spawn_deciding(&mut self, name: &'static str, part: impl Future<Output = Exit> + Send + 'static) {
        self.spawn_explaining(name, async move { (part.await, None) });
    }

    /// The same for a part that knows the cause better than the gate's state tells it.
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

    /// Runs until a signal, `done`, or the end of a part, and says how the process ends; without a signal after `done`.
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
            // A part that fails while others drain is the cause of the end.
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

    /// Waits for a part that ends with anything but success.
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

/// Runs `part` until `stop` turns true.
pub async fn until(mut stop: watch::Receiver<bool>, part: impl Future<Output = ()>) {
    tokio::select! {
        () = part => {}
        () = stopped(&mut stop) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seats that are held are others' as soon as they are given back.
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
        // `cargo test` runs all unit tests in one process: a handler in it would outlive this test, and Ctrl-C would end none.
        let caught = ProcessStatus::of("self").map(|status| status.value("SigCgt").to_owned()).unwrap();
        let caught = u64::from_str_radix(&caught, 16).unwrap();
        for ending in [Ending::Terminate, Ending::Interrupt, Ending::HangUp] {
            assert_eq!(caught >> (ending.signal().as_raw() - 1) & 1, 0, "{}", ending.as_str());
        }
    }
}
