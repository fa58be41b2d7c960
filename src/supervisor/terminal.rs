//! The terminal that tollgate was started on, if there is one: the command gets it, and tollgate takes it back.
//!
//! A terminal's keys (Ctrl-C, Ctrl-Z) go to one process group, and only that group may read from it. Linux stops a
//! process of another group that tries to take the terminal, unless the process ignores the signal, which needs
//! unsafe code here. So a helper process in the command's group gives the terminal back.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use rustix::termios::{tcgetpgrp, tcsetpgrp};

use crate::config::OWN_PROGRAM;
use crate::process_status::ProcessStatus;

/// The hidden subcommand that gives the terminal to a process group. Only [`Terminal::take_back`] calls it.
pub(crate) const TAKE: &str = "take-terminal";

/// The controlling terminal of the calling process.
const CONTROLLING: &str = "/dev/tty";

/// More processes than there ever are between a shell and a command.
const ANCESTORS_MAX: usize = 64;

/// The controlling terminal.
#[derive(Debug)]
pub(super) struct Terminal(File);

impl Terminal {
    /// Opens it; `None` if there is none, as in most containers.
    pub(super) fn controlling() -> Option<Self> {
        File::open(CONTROLLING).ok().map(Self)
    }

    /// Gives it to the command's group if tollgate owns it.
    pub(super) fn give(&self, group: Pid) {
        if own_group().is_some_and(|own| self.belongs_to(own))
            && let Err(error) = tcsetpgrp(&self.0, group)
        {
            tracing::debug!(%error, "the command does not get the terminal");
        }
    }

    /// Takes it back from a command that has ended and is not reaped yet. As long as it is not, its process group
    /// exists.
    pub(super) fn take_back(&self, command: Pid) {
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let ended = matches!(waitid(WaitId::Pid(command), look), Ok(Some(_)));
        let Some(own) = own_group().filter(|_| ended && self.belongs_to(command)) else { return };
        let mut taker = Command::new(OWN_PROGRAM);
        taker.args([TAKE, &own.as_raw_pid().to_string()]).process_group(command.as_raw_pid());
        taker.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Err(error) = taker.status() {
            tracing::debug!(%error, "the terminal is not taken back");
        }
    }

    fn belongs_to(&self, group: Pid) -> bool {
        tcgetpgrp(&self.0) == Ok(group)
    }
}

/// Gives the controlling terminal to `group`.
#[must_use]
pub fn take(group: i32) -> bool {
    let taken = Pid::from_raw(group).zip(Terminal::controlling());
    taken.is_some_and(|(group, terminal)| tcsetpgrp(&terminal.0, group).is_ok())
}

/// Whether a shell of this session can continue tollgate's process group after it was stopped. The kernel calls a group
/// without such a parent orphaned.
pub(super) fn is_below_a_shell() -> bool {
    let Some(own) = ProcessStatus::of("self") else { return false };
    let (group, session) = (first(&own, GROUP), first(&own, SESSION));
    let mut below = own;
    for _ in 0..ANCESTORS_MAX {
        // 0 stands for a parent outside the PID namespace.
        let parent = first(&below, PARENT).filter(|pid| *pid > 0);
        let Some(ancestor) = parent.and_then(|pid| ProcessStatus::of(&pid.to_string())) else { return false };
        if first(&ancestor, GROUP) != group {
            return first(&ancestor, SESSION) == session;
        }
        below = ancestor;
    }
    false
}

/// Tollgate's process group; `None` if it was created outside the PID namespace and so has no number inside.
fn own_group() -> Option<Pid> {
    Pid::from_raw(numbers(&ProcessStatus::of("self")?, GROUP).next_back()?)
}

const PARENT: &str = "PPid";
const GROUP: &str = "NSpgid";
const SESSION: &str = "NSsid";

/// The numbers in a line of `/proc/PID/status`: one for each PID namespace, from that of `/proc` to the process's
/// own. `rustix` reads the same by system calls, but does not allow 0, which stands for a group or session from
/// outside the PID namespace.
fn numbers(status: &ProcessStatus, name: &str) -> impl DoubleEndedIterator<Item = i32> {
    status.value(name).split_whitespace().filter_map(|number| number.parse().ok())
}

fn first(status: &ProcessStatus, name: &str) -> Option<i32> {
    numbers(status, name).next()
}
