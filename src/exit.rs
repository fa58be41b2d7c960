//! All exit codes (BSD sysexits where one fits, see sysexits(3)).
//!
//! An ECS console or `kubectl describe pod` may show nothing but the exit code, so each code stands for one kind of
//! remedy. This module does not know when each is used.

use std::process::ExitCode;

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The work is done, or the sidecar stopped on request and drained.
    Done,
    /// `probe` only: the gate is not open.
    NotOpen,
    /// The command line is wrong, or names something that does not exist, such as a record.
    Usage,
    /// AWS cannot be reached, or answers with server errors.
    Unavailable,
    /// A fault of tollgate itself.
    Internal,
    /// The ledger cannot be read or written.
    LedgerIo,
    /// The token failed verification.
    Unverified,
    /// AWS says that the buyer is not entitled.
    NotEntitled,
    /// The configuration is wrong, by tollgate's own check or by AWS's answer.
    Config,
    /// `await --timeout` expired.
    TimedOut,
    /// A signal ended `exec` or `await` before the gate opened, or came a second time during a drain (128 + SIGTERM,
    /// the convention of shells). With 0 a Kubernetes Job would count as complete.
    Terminated,
    /// SIGINT came during a drain (128 + SIGINT).
    Interrupted,
    /// The command of `exec` or `await` exists but cannot be started.
    CannotExecute,
    /// The command of `exec` or `await` does not exist.
    CommandNotFound,
    /// The exit code of the command of `exec`; it says nothing about tollgate.
    Command(u8),
    /// The command of `exec` did not end within `command_grace` and was killed (128 + SIGKILL).
    Killed,
}

impl Exit {
    /// The number the parent process sees.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::NotOpen => 1,
            Self::Usage => 64,
            Self::Unavailable => 69,
            Self::Internal => 70,
            Self::LedgerIo => 74,
            Self::Unverified => 76,
            Self::NotEntitled => 77,
            Self::Config => 78,
            Self::TimedOut => 124,
            Self::CannotExecute => 126,
            Self::CommandNotFound => 127,
            Self::Interrupted => 130,
            Self::Terminated => 143,
            Self::Killed => 137,
            Self::Command(code) => code,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
