//! `tollgate exec -- CMD ARGS…`: the gate inside the product's own image.
//!
//! Registers, verifies, and then becomes CMD (`execve`): the process ID stays, nothing of tollgate stays resident.
//! While it waits it serves the probes, so that an operator can read why. When it is not entitled, CMD never starts.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use clap::Args;

use crate::app::{App, Scope};
use crate::cli::{complain, load};
use crate::config::{Environment as _, Flags, ProcessEnvironment, Role, USAGE_HEADING, setting};
use crate::exit::Exit;

/// Arguments of `exec`, which has no use for the settings of usage.
#[derive(Debug, Args)]
#[command(mut_args(|arg| if arg.get_help_heading() == Some(USAGE_HEADING) { arg.hide(true) } else { arg }))]
pub struct ExecArgs {
    #[command(flatten)]
    flags: Flags,
    /// The command to run in place of this program once the gate is open
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Waits for the gate, then does not return.
pub fn run(args: &ExecArgs) -> Exit {
    let config = match load(&args.flags, Role::Exec) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(Exit::Internal, &format!("cannot start a runtime: {error}")),
    };
    let gate = runtime.block_on(async {
        match App::start(config, Scope::Gate) {
            Ok(app) => app.run_until_open().await,
            Err(error) => Err(complain(error.exit(), &error.to_string())),
        }
    });
    runtime.shutdown_background();
    match gate {
        Ok(()) => become_command(&args.command),
        Err(exit) => exit,
    }
}

/// Replaces this process by `command`, with its environment less tollgate's own variables. Returns only when that
/// fails.
///
/// Sockets and files are close-on-exec, and the standard library puts the signals back to their defaults.
pub(super) fn become_command(command: &[OsString]) -> Exit {
    let Some((program, arguments)) = command.split_first() else { return Exit::Done };
    let mut process = Command::new(program);
    process.args(arguments);
    for name in ProcessEnvironment.names() {
        if name.starts_with(setting::ENV_PREFIX) {
            process.env_remove(name);
        }
    }
    let error = process.exec();
    let exit = match error.kind() {
        io::ErrorKind::NotFound => Exit::CommandNotFound,
        _ => Exit::CannotExecute,
    };
    complain(
        exit,
        &format!("cannot start {program:?}: {error}; check the command after `--` and its permissions"),
    )
}
