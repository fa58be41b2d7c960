//! The command of `tollgate exec` as a child of this process: starts it, passes signals on, reaps it. `machine`
//! decides.
//!
//! - The command is the leader of a process group of its own, so that what it leaves behind can be ended, and so that a
//!   terminal sends Ctrl-C to it and not to tollgate, which would pass it on a second time.
//! - This process reaps every child, orphans included: it is PID 1 of a container, or takes that part by prctl(2).
//!   Nothing else here may wait for children of its own. `tokio::process` does, and is not used beside a command.
//! - Real-time signals cannot be passed on without unsafe code; SIGTTIN and SIGTTOU are the terminal's to tollgate.

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

/// Passed on besides those that [`crate::shutdown::Signals`] receives: what others send to a process. What the kernel
/// sends a process about itself (SIGSEGV, SIGPIPE, SIGXFSZ …) is about tollgate.
const PASSED: [Signal; 12] = [
    Signal::QUIT,
    Signal::USR1,
    Signal::USR2,
    Signal::ALARM,
    Signal::TSTP,
    // After SIGTSTP: of the two, the one that undoes the other is passed on last.
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
    /// Starts `command`, which has `grace` to end once it is asked to. Must be called inside the runtime.
    pub fn start(command: &mut Command, grace: Duration) -> io::Result<Self> {
        use std::os::unix::process::CommandExt as _;
        if let Err(error) = set_child_subreaper(Some(getpid())) {
            // PID 1 needs no permission for this; otherwise orphans go to the process that is the subreaper.
            tracing::debug!(%error, "orphans of the command are not reaped here");
        }
        let ended = signal(SignalKind::child())?;
        let (ignored, mut passed) = (Ignored::read(), Vec::new());
        for number in PASSED {
            // What the caller has it ignore, the command ignores too.
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
            // It may have asked for the terminal before it had it, and was stopped for that.
            child.perform(vec![Act::TellGroup(Signal::CONT)]);
        }
        Ok(child)
    }

    /// How it ended, once it and its process group are gone.
    #[must_use]
    pub fn over(&self) -> Option<End> {
        self.machine.over()
    }

    /// It did not end in its grace, and was killed for it.
    #[must_use]
    pub const fn killed_by_us(&self) -> bool {
        self.machine.killed_by_us()
    }

    /// Passes a signal on that tollgate was given.
    pub fn signal(&mut self, signal: Signal) {
        let acts = self.machine.signal(signal, self.running());
        self.perform(acts);
    }

    /// Asks it to end, since tollgate cannot continue.
    pub fn ask_to_end(&mut self) {
        let acts = self.machine.ask(Signal::TERM, self.running());
        self.perform(acts);
    }

    /// Waits for what happens next, and acts on it. Dropped while it waits, it loses nothing.
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
        // Several children may share one SIGCHLD. An error is ECHILD: there are none.
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
            // A process that has just ended gets no signal; the kernel reports its end.
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

/// The next of these signals.
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

/// Why a command cannot be started.
#[must_use]
pub fn cannot_start(program: &OsStr, problem: &str) -> String {
    format!("cannot start {program:?}: {problem}; check the command after `--` and its permissions")
}

/// How the process ends for it.
#[must_use]
pub fn exit_of(error: &io::Error) -> Exit {
    match error.kind() {
        io::ErrorKind::NotFound => Exit::CommandNotFound,
        _ => Exit::CannotExecute,
    }
}
