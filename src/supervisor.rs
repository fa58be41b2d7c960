//! The command of `tollgate exec` as a child of this process: starts it, passes signals on, and reaps it. [`machine`]
//! decides.
//!
//! - The command leads a process group of its own. So the processes that it leaves behind can be ended, and a terminal
//!   sends Ctrl-C to the command only; otherwise tollgate would pass it on a second time.
//! - This process reaps every child, including orphans: it is PID 1 of a container, or becomes a subreaper by prctl(2).
//!   No other code here may wait for children. `tokio::process` does, so it is not used beside a command.
//! - Real-time signals are not passed on, since that needs unsafe code; neither are SIGTTIN and SIGTTOU, which a
//!   terminal sends to tollgate itself.

pub mod machine;
mod terminal;

use std::ffi::OsStr;
use std::io;
use std::process::Command;
use std::task::Poll;
use std::time::Duration;

use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpid, kill_current_process_group, kill_process,
    kill_process_group, set_child_subreaper, test_kill_process_group, wait,
};
use tokio::signal::unix::{self, SignalKind, signal};
use tokio::time::Instant;

use self::machine::{Act, Change, End, Machine, Stop};
use self::terminal::Terminal;
pub use self::terminal::take as take_terminal;
use crate::exit::Exit;
use crate::shutdown::Ignored;
use tollgate_clock as clock;

/// The signals that are passed on besides those of [`crate::shutdown::Signals`]: those that other processes send.
/// Signals that the kernel sends for a process's own faults (SIGSEGV, SIGPIPE, SIGXFSZ …) concern tollgate.
const PASSED: [Signal; 12] = [
    Signal::QUIT,
    Signal::USR1,
    Signal::USR2,
    Signal::ALARM,
    Signal::TSTP,
    // After SIGTSTP, so that if both have come, the command ends up running.
    Signal::CONT,
    Signal::URG,
    Signal::VTALARM,
    Signal::PROF,
    Signal::WINCH,
    Signal::IO,
    Signal::POWER,
];

/// A running command.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    began: Instant,
    machine: Machine,
    terminal: Option<Terminal>,
    ended: unix::Signal,
    passed: Vec<(Signal, unix::Signal)>,
}

enum What {
    Children,
    Signal(Signal),
    Late,
}

impl Child {
    /// Starts `command`, which has `grace` to end after it was asked to. Must be called inside the runtime.
    pub fn start(command: &mut Command, grace: Duration) -> io::Result<Self> {
        use std::os::unix::process::CommandExt as _;
        if let Err(error) = set_child_subreaper(Some(getpid())) {
            // PID 1 reaps orphans anyway; otherwise they go to the nearest subreaper above.
            tracing::debug!(%error, "orphans of the command are not reaped here");
        }
        let ended = signal(SignalKind::child())?;
        let (ignored, mut passed) = (Ignored::read(), Vec::new());
        for number in PASSED {
            // The command inherits ignored signals, so they are not passed on.
            if !ignored.has(number) {
                passed.push((number, signal(SignalKind::from_raw(number.as_raw()))?));
            }
        }
        let terminal = Terminal::controlling();
        let child = command.process_group(0).spawn()?;
        let (pid, began) = (Pid::from_child(&child), clock::monotonic());
        tracing::info!(event = "command_started", pid = pid.as_raw_pid(), "command started");
        let child = Self { pid, began, machine: Machine::new(grace), terminal, ended, passed };
        if child.terminal.is_some() {
            // The command may have used the terminal before it owned it, and was stopped for that.
            child.perform(vec![Act::TellGroup(Signal::CONT)]);
        }
        Ok(child)
    }

    /// How the command ended, once it and its process group are gone.
    #[must_use]
    pub fn over(&self) -> Option<End> {
        self.machine.over()
    }

    /// Whether tollgate killed the command because it did not end within its grace.
    #[must_use]
    pub const fn killed_by_us(&self) -> bool {
        self.machine.killed_by_us()
    }

    /// Passes on a signal that tollgate received.
    pub fn signal(&mut self, signal: Signal) {
        let acts = self.machine.signal(signal, self.running());
        self.perform(acts);
    }

    /// Asks the command to end, since tollgate cannot continue.
    pub fn ask_to_end(&mut self) {
        let acts = self.machine.ask(Signal::TERM, self.running());
        self.perform(acts);
    }

    /// Waits for the next event, and acts on it. Cancel-safe.
    pub async fn next(&mut self) {
        let deadline = self.machine.deadline().map(|at| self.began + at);
        let late = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let (ended, passed) = (&mut self.ended, &mut self.passed);
        let what = tokio::select! {
            _ = ended.recv() => What::Children,
            signal = next_of(passed) => What::Signal(signal),
            () = late => What::Late,
        };
        match what {
            What::Children => self.reap(),
            What::Signal(signal) => self.signal(signal),
            What::Late => {
                let acts = self.machine.late(self.running());
                if acts.contains(&Act::TellGroup(Signal::KILL)) {
                    tracing::warn!(
                        event = "command_killed",
                        "the command, or a process that it started, did not end within command_grace: killed"
                    );
                }
                self.perform(acts);
            }
        }
    }

    fn reap(&mut self) {
        if let Some(terminal) = &self.terminal {
            terminal.take_back(self.pid);
        }
        // One SIGCHLD may stand for several children. An error is ECHILD: there are no children.
        while let Ok(Some((pid, status))) =
            wait(WaitOptions::NOHANG | WaitOptions::UNTRACED | WaitOptions::CONTINUED)
        {
            if pid == self.pid
                && let Some(change) = self.change(status)
            {
                let acts = self.machine.changed(change);
                self.perform(acts);
            }
        }
        let left = test_kill_process_group(self.pid).is_ok();
        let acts = self.machine.group(left, self.running());
        self.perform(acts);
    }

    fn change(&self, status: WaitStatus) -> Option<Change> {
        let byte = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
        if let Some(signal) = status.stopping_signal() {
            return Some(Change::Stopped(self.stop(signal)));
        }
        if status.continued() {
            return Some(Change::Continued);
        }
        let by_signal = || status.terminating_signal().map(|signal| End::Signal(byte(signal)));
        let end = status.exit_status().map(|code| End::Code(byte(code))).or_else(by_signal);
        end.map(Change::Ended)
    }

    fn stop(&self, signal: i32) -> Stop {
        let by_terminal = [Signal::TSTP, Signal::TTIN, Signal::TTOU].map(Signal::as_raw).contains(&signal);
        if self.terminal.is_none() || !by_terminal {
            Stop::ByOther
        } else if terminal::is_below_a_shell() {
            Stop::BelowShell
        } else if signal == Signal::TSTP.as_raw() {
            Stop::Alone
        } else {
            Stop::ByOther
        }
    }

    fn perform(&self, acts: Vec<Act>) {
        for act in acts {
            tracing::debug!(?act, "command");
            // A process that has just ended receives no signal; the kernel reports its end.
            let _ = match act {
                Act::Tell(signal) => kill_process(self.pid, signal),
                Act::TellGroup(signal) => {
                    if let Some(terminal) = self.terminal.as_ref().filter(|_| signal == Signal::CONT) {
                        terminal.give(self.pid);
                    }
                    kill_process_group(self.pid, signal)
                }
                Act::StopToo => kill_current_process_group(Signal::STOP),
            };
        }
    }

    fn running(&self) -> Duration {
        clock::monotonic().duration_since(self.began)
    }
}

/// Waits for the next of these signals.
async fn next_of(signals: &mut [(Signal, unix::Signal)]) -> Signal {
    std::future::poll_fn(|context| {
        let came = signals.iter_mut().find_map(|(number, signal)| match signal.poll_recv(context) {
            Poll::Ready(Some(())) => Some(*number),
            Poll::Ready(None) | Poll::Pending => None,
        });
        came.map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

/// The message for a command that cannot be started.
#[must_use]
pub fn cannot_start(program: &OsStr, problem: &str) -> String {
    format!("cannot start {program:?}: {problem}; check the command after `--` and its permissions")
}

/// The exit code for a command that cannot be started.
#[must_use]
pub fn exit_of(error: &io::Error) -> Exit {
    match error.kind() {
        io::ErrorKind::NotFound => Exit::CommandNotFound,
        _ => Exit::CannotExecute,
    }
}
