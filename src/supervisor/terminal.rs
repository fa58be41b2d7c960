//! The terminal that tollgate was started on, where there is one: the command gets it, and gives it back.
//!
//! A terminal's keys (Ctrl-C, Ctrl-Z) go to one process group, and only that group may read. Linux stops a process of
//! another group that asks for the terminal, unless it ignores the signal, which this program cannot do without unsafe
//! code. So the terminal is taken back by a process in the command's group.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use rustix::process::{Pid, WaitId, WaitIdOptions, getpgid, getpgrp, getppid, getsid, waitid};
use rustix::termios::{tcgetpgrp, tcsetpgrp};

use crate::config::OWN_PROGRAM;

/// The subcommand that gives the terminal to a process group. It is nobody's to call but [`Terminal::take_back`].
pub(crate) const TAKE: &str = "take-terminal";

/// Linux's name for the terminal of a process's session.
const CONTROLLING: &str = "/dev/tty";

/// More processes than stand between any shell and a command.
const ANCESTORS_MAX: usize = 64;

/// The controlling terminal.
#[derive(Debug)]
pub(super) struct Terminal(File);

impl Terminal {
    /// `None` in a container without one.
    pub(super) fn controlling() -> Option<Self> {
        File::open(CONTROLLING).ok().map(Self)
    }

    /// Gives it to the command's group, where tollgate has it.
    pub(super) fn give(&self, group: Pid) {
        if self.belongs_to(getpgrp())
            && let Err(error) = tcsetpgrp(&self.0, group)
        {
            tracing::debug!(%error, "the command does not get the terminal");
        }
    }

    /// Takes it back from a command that has ended and is not reaped yet.
    pub(super) fn take_back(&self, command: Pid) {
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let ended = matches!(waitid(WaitId::Pid(command), look), Ok(Some(_)));
        if !ended || !self.belongs_to(command) {
            return;
        }
        let mut taker = Command::new(OWN_PROGRAM);
        taker.args([TAKE, &getpgrp().as_raw_pid().to_string()]).process_group(command.as_raw_pid());
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

/// Whether a shell of this session can continue tollgate's process group once it has stopped. The kernel calls a group
/// without one orphaned.
pub(super) fn is_below_a_shell() -> bool {
    let (group, session) = (getpgrp(), getsid(None));
    let mut ancestor = getppid();
    for _ in 0..ANCESTORS_MAX {
        let Some(pid) = ancestor else { return false };
        if getpgid(Some(pid)) != Ok(group) {
            return session.is_ok() && getsid(Some(pid)) == session;
        }
        ancestor = parent_of(pid);
    }
    false
}

fn parent_of(pid: Pid) -> Option<Pid> {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_pid())).ok()?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    Pid::from_raw(parent.trim().parse().ok()?)
}
