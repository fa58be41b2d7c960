//! The deciding half of the supervisor: takes state, event and time, and returns what to do to the command's processes.
//!
//! Invariants:
//! - A signal is passed to the command, which decides what to do. SIGTERM, SIGINT and a failure of tollgate ask the
//!   command to end, and start `command_grace`; a repeated signal does not extend it.
//! - When the command has ended, the rest of its process group is asked to end too, within the same grace. No process
//!   of the group is left when usage is sent, unless the kernel cannot end it.
//! - The command's end is reported with its exit code or its signal; a SIGKILL by tollgate is reported as such.
//!
//! Pure: `now` is the time since the command was started.

use std::time::Duration;

use rustix::process::Signal;

/// How long to wait for a process to end after SIGKILL. A process that waits for a dead disk must not prevent usage
/// from being sent.
const KILLED_WITHIN: Duration = Duration::from_secs(2);

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With this exit code.
    Code(u8),
    /// By this signal.
    Signal(u8),
}

impl End {
    /// The exit code, as a shell reports it.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128_u8.saturating_add(signal),
        }
    }
}

/// A change of the command, as the kernel reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The command ended.
    Ended(End),
    /// A signal stopped the command.
    Stopped(Stop),
    /// The command runs again.
    Continued,
}

/// What stopped the command, and who could continue it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The terminal, with a shell above that takes the terminal while tollgate is stopped too.
    BelowShell,
    /// Ctrl-Z, without a shell that could continue it.
    Alone,
    /// Another process, which can continue it.
    ByOther,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Send this signal to the command alone.
    Tell(Signal),
    /// Send this signal to the command's process group.
    TellGroup(Signal),
    /// Stop tollgate too.
    StopToo,
}

/// The machine.
#[derive(Debug)]
pub struct Machine {
    grace: Duration,
    end: Option<End>,
    group_is_told: bool,
    stopped: bool,
    deadline: Option<Duration>,
    killing: bool,
    killed_by_us: bool,
    over: bool,
}

impl Machine {
    /// The machine of a command that has just been started, with `grace` to end after it was asked to.
    #[must_use]
    pub const fn new(grace: Duration) -> Self {
        Self {
            grace,
            end: None,
            group_is_told: false,
            stopped: false,
            deadline: None,
            killing: false,
            killed_by_us: false,
            over: false,
        }
    }

    /// tollgate received `signal`.
    pub fn signal(&mut self, signal: Signal, now: Duration) -> Vec<Act> {
        if matches!(signal, Signal::TERM | Signal::INT) {
            return self.ask(signal, now);
        }
        // The terminal's signals are for a whole group.
        let to_group = self.end.is_some() || matches!(signal, Signal::TSTP | Signal::CONT);
        vec![if to_group { Act::TellGroup(signal) } else { Act::Tell(signal) }]
    }

    /// Asks the command to end: on request, or because tollgate cannot continue.
    pub fn ask(&mut self, signal: Signal, now: Duration) -> Vec<Act> {
        self.begin_grace(now);
        if self.end.is_some() {
            return vec![Act::TellGroup(signal)];
        }
        let mut acts = vec![Act::Tell(signal)];
        if self.stopped {
            // A stopped process handles no other signal.
            acts.push(Act::TellGroup(Signal::CONT));
        }
        acts
    }

    /// The command has changed.
    pub fn changed(&mut self, change: Change) -> Vec<Act> {
        match change {
            Change::Ended(end) => {
                self.killed_by_us = self.killing && end == End::Signal(KILL);
                self.end = Some(end);
                Vec::new()
            }
            Change::Continued => {
                self.stopped = false;
                Vec::new()
            }
            Change::Stopped(stop) => {
                self.stopped = true;
                match stop {
                    _ if self.deadline.is_some() => vec![Act::TellGroup(Signal::CONT)],
                    Stop::BelowShell => vec![Act::StopToo],
                    Stop::Alone => vec![Act::TellGroup(Signal::CONT)],
                    Stop::ByOther => Vec::new(),
                }
            }
        }
    }

    /// After every change: `left` says whether processes are left in the command's group.
    pub fn group(&mut self, left: bool, now: Duration) -> Vec<Act> {
        if self.end.is_none() {
            return Vec::new();
        }
        if !left {
            self.over = true;
            return Vec::new();
        }
        if std::mem::replace(&mut self.group_is_told, true) {
            return Vec::new();
        }
        self.begin_grace(now);
        vec![Act::TellGroup(Signal::TERM), Act::TellGroup(Signal::CONT)]
    }

    /// When [`Machine::late`] is due.
    #[must_use]
    pub const fn deadline(&self) -> Option<Duration> {
        self.deadline
    }

    /// The deadline has passed.
    pub fn late(&mut self, now: Duration) -> Vec<Act> {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return Vec::new();
        }
        if std::mem::replace(&mut self.killing, true) {
            self.killed_by_us |= self.end.is_none();
            self.over = true;
            return Vec::new();
        }
        self.deadline = Some(now + KILLED_WITHIN);
        // The command may have moved to another group.
        let command = self.end.is_none().then_some(Act::Tell(Signal::KILL));
        command.into_iter().chain([Act::TellGroup(Signal::KILL)]).collect()
    }

    /// How the command ended, once there is nothing left to wait for.
    #[must_use]
    pub fn over(&self) -> Option<End> {
        self.over.then(|| self.end.unwrap_or(End::Signal(KILL)))
    }

    /// Whether tollgate killed the command because it did not end within its grace.
    #[must_use]
    pub const fn killed_by_us(&self) -> bool {
        self.killed_by_us
    }

    fn begin_grace(&mut self, now: Duration) {
        self.deadline.get_or_insert(now + self.grace);
    }
}

/// SIGKILL's number.
const KILL: u8 = 9;

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(20);

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn started() -> Machine {
        Machine::new(GRACE)
    }

    #[test]
    fn signals_go_to_the_command_and_only_two_ask_for_its_end() {
        for (signal, act, asks) in [
            (Signal::TERM, Act::Tell(Signal::TERM), true),
            (Signal::INT, Act::Tell(Signal::INT), true),
            // A reload, a thread dump of a Java program, the rotation of a log, a window's size.
            (Signal::HUP, Act::Tell(Signal::HUP), false),
            (Signal::QUIT, Act::Tell(Signal::QUIT), false),
            (Signal::USR1, Act::Tell(Signal::USR1), false),
            (Signal::WINCH, Act::Tell(Signal::WINCH), false),
            (Signal::TSTP, Act::TellGroup(Signal::TSTP), false),
            (Signal::CONT, Act::TellGroup(Signal::CONT), false),
        ] {
            let mut machine = started();
            assert_eq!(machine.signal(signal, at(5)), [act], "{signal:?}");
            assert_eq!(machine.deadline(), asks.then_some(at(25)), "{signal:?}");
            assert_eq!(machine.over(), None);
        }
    }

    #[test]
    fn a_repeated_signal_is_passed_on_and_prolongs_nothing() {
        let mut machine = started();
        machine.signal(Signal::TERM, at(5));
        assert_eq!(machine.signal(Signal::TERM, at(9)), [Act::Tell(Signal::TERM)]);
        assert_eq!(machine.signal(Signal::INT, at(10)), [Act::Tell(Signal::INT)]);
        assert_eq!(machine.deadline(), Some(at(25)));
    }

    #[test]
    fn an_end_is_told_by_code_or_signal() {
        for (end, code) in [
            (End::Code(0), 0),
            (End::Code(3), 3),
            (End::Signal(15), 143),
            (End::Signal(9), 137),
            (End::Signal(64), 192),
        ] {
            let mut machine = started();
            assert_eq!(machine.changed(Change::Ended(end)), []);
            assert_eq!(machine.over(), None, "not before the group was looked at");
            assert_eq!(machine.group(false, at(7)), []);
            assert_eq!((machine.over(), end.code()), (Some(end), code));
            assert!(!machine.killed_by_us());
        }
    }

    #[test]
    fn what_ignores_sigterm_is_killed_when_the_grace_is_over() {
        let mut machine = started();
        machine.signal(Signal::TERM, at(5));
        assert_eq!(machine.late(at(24)), []);
        assert_eq!(machine.late(at(25)), [Act::Tell(Signal::KILL), Act::TellGroup(Signal::KILL)]);
        assert_eq!(machine.over(), None, "the kernel has not told its end yet");
        machine.changed(Change::Ended(End::Signal(9)));
        machine.group(false, at(25));
        assert_eq!((machine.over(), machine.killed_by_us()), (Some(End::Signal(9)), true));
    }

    #[test]
    fn what_the_kernel_cannot_end_is_not_waited_for() {
        let mut machine = started();
        machine.signal(Signal::TERM, at(0));
        machine.late(at(20));
        assert_eq!(machine.deadline(), Some(at(22)));
        assert_eq!(machine.late(at(22)), []);
        assert_eq!((machine.over(), machine.killed_by_us()), (Some(End::Signal(9)), true));
    }

    #[test]
    fn somebody_elses_sigkill_is_not_told_as_ours() {
        let mut machine = started();
        machine.changed(Change::Ended(End::Signal(9)));
        machine.group(false, at(7));
        assert_eq!((machine.over(), machine.killed_by_us()), (Some(End::Signal(9)), false));
    }

    #[test]
    fn what_outlives_the_command_is_asked_to_end_and_then_killed() {
        let mut machine = started();
        machine.changed(Change::Ended(End::Code(3)));
        assert_eq!(machine.group(true, at(7)), [Act::TellGroup(Signal::TERM), Act::TellGroup(Signal::CONT)]);
        assert_eq!(machine.group(true, at(8)), [], "it is told once");
        assert_eq!(machine.signal(Signal::USR1, at(9)), [Act::TellGroup(Signal::USR1)]);
        assert_eq!(machine.signal(Signal::TERM, at(9)), [Act::TellGroup(Signal::TERM)]);
        assert_eq!(machine.deadline(), Some(at(27)));
        assert_eq!(machine.late(at(27)), [Act::TellGroup(Signal::KILL)]);
        machine.group(false, at(27));
        assert_eq!((machine.over(), machine.killed_by_us()), (Some(End::Code(3)), false));
    }

    #[test]
    fn the_command_and_what_outlives_it_share_one_grace() {
        let mut machine = started();
        machine.signal(Signal::TERM, at(5));
        machine.changed(Change::Ended(End::Code(0)));
        machine.group(true, at(20));
        assert_eq!(machine.deadline(), Some(at(25)));
    }

    #[test]
    fn a_stopped_command_is_left_alone_unless_it_must_end_or_nobody_could_continue_it() {
        let stopped = |stop| {
            let mut machine = started();
            let acts = machine.changed(Change::Stopped(stop));
            (machine, acts)
        };
        let (mut machine, acts) = stopped(Stop::ByOther);
        assert_eq!(acts, []);
        assert_eq!(
            machine.signal(Signal::TERM, at(1)),
            [Act::Tell(Signal::TERM), Act::TellGroup(Signal::CONT)],
            "it hears nothing while it is stopped"
        );
        assert_eq!(machine.changed(Change::Continued), []);
        assert_eq!(machine.signal(Signal::TERM, at(2)), [Act::Tell(Signal::TERM)]);
        assert_eq!(machine.changed(Change::Stopped(Stop::BelowShell)), [Act::TellGroup(Signal::CONT)]);

        let (mut machine, acts) = stopped(Stop::BelowShell);
        assert_eq!(acts, [Act::StopToo]);
        assert_eq!(machine.signal(Signal::CONT, at(9)), [Act::TellGroup(Signal::CONT)]);
        assert_eq!(stopped(Stop::Alone).1, [Act::TellGroup(Signal::CONT)]);
    }

    #[test]
    fn no_grace_kills_at_once() {
        let mut machine = Machine::new(Duration::ZERO);
        machine.signal(Signal::TERM, at(5));
        assert_eq!(machine.late(at(5)), [Act::Tell(Signal::KILL), Act::TellGroup(Signal::KILL)]);
    }
}
