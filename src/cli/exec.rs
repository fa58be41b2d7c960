//! `tollgate exec -- CMD ARGS…`: the gate inside the product's own image.
//!
//! In mode `hourly` tollgate has nothing left to do once the gate is open, so it becomes CMD (`execve`): the process ID
//! stays, and nothing of tollgate stays in memory. In every other mode it starts CMD as its child and keeps running.
//! While the gate is shut tollgate serves the probes, so that an operator can read why. If the buyer is not entitled,
//! CMD never starts.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use clap::Args;

use crate::app::{App, Scope};
use crate::cli::{end, load};
use crate::config::{Environment as _, Flags, ProcessEnvironment, Role, setting};
use crate::exit::Exit;
use crate::supervisor;

/// Arguments of `exec`.
#[derive(Debug, Args)]
pub struct ExecArgs {
    #[command(flatten)]
    flags: Flags,
    /// The command to run once the gate is open: in mode hourly in place of this program, else as its child
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Waits for the gate, then becomes the command, or runs it.
pub fn run(args: &ExecArgs) -> Exit {
    let mut config = match load(&args.flags, Role::Exec) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    // In mode `hourly` AWS bills from its first answer on, so a command that cannot start is refused before the call.
    if let Err(exit) = look_for(&args.command) {
        return exit;
    }
    let Some(program) = program(&args.command) else { return Exit::Done };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return end(Exit::Internal, &format!("cannot start a runtime: {error}")),
    };
    if config.product.mode.ends_when_open() {
        let gate = runtime.block_on(async {
            match App::start(config, Scope::Gate) {
                Ok(app) => app.run_until_open().await,
                Err(error) => Err(end(error.exit(), &error.to_string())),
            }
        });
        runtime.shutdown_background();
        return match gate {
            Ok(()) => become_command(program),
            Err(exit) => exit,
        };
    }
    // The last usage is sent after the command and its process group have ended: no further report can come.
    config.usage.drain_quiet = Duration::ZERO;
    // The container ends with the command, so nothing needs `POST /v1/quit`.
    config.app.quit = false;
    let grace = config.usage.command_grace;
    let exit = runtime.block_on(async {
        match App::start(config, Scope::Sidecar) {
            Ok(app) => app.run_beside(program, grace).await,
            Err(error) => end(error.exit(), &error.to_string()),
        }
    });
    runtime.shutdown_background();
    exit
}

/// Fails, before the wait, if `command` cannot start.
pub(super) fn look_for(command: &[OsString]) -> Result<(), Exit> {
    let Some(program) = command.first() else { return Ok(()) };
    find(program).map_err(|(exit, problem)| cannot_start(exit, program, &problem))
}

/// Looks for `program` as `execve` and the shell's search do, without starting it.
fn find(program: &OsStr) -> Result<(), (Exit, String)> {
    let search = ProcessEnvironment.get("PATH").unwrap_or_else(|| PATH_DEFAULT.to_owned());
    let named = Path::new(program);
    let places = if program.as_bytes().contains(&b'/') {
        vec![named.to_owned()]
    } else {
        search.split(':').map(|folder| Path::new(folder).join(named)).collect()
    };
    let mut found = Err((Exit::CommandNotFound, "it does not exist".to_owned()));
    for place in places {
        let problem = match std::fs::metadata(&place) {
            Ok(seen) if seen.is_dir() => "is a folder",
            Ok(seen) if !seen.is_file() => "is a pipe, a socket or a device",
            Ok(_) if rustix::fs::access(&place, rustix::fs::Access::EXEC_OK).is_err() => {
                "may not be executed"
            }
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                "is in a folder that may not be read"
            }
            Err(_) => continue,
        };
        found = Err((Exit::CannotExecute, format!("{} {problem}", place.display())));
    }
    found
}

/// The search path if `PATH` is not set.
const PATH_DEFAULT: &str = "/bin:/usr/bin";

fn cannot_start(exit: Exit, program: &OsStr, problem: &str) -> Exit {
    end(exit, &supervisor::cannot_start(program, problem))
}

/// The command, with its environment less tollgate's own variables.
pub(super) fn program(command: &[OsString]) -> Option<Command> {
    let (program, arguments) = command.split_first()?;
    let mut process = Command::new(program);
    process.args(arguments);
    for name in ProcessEnvironment.names() {
        if name.starts_with(setting::ENV_PREFIX) {
            process.env_remove(name);
        }
    }
    Some(process)
}

/// Replaces this process by `program`. Returns only when that fails.
///
/// Sockets and files are close-on-exec, and the standard library resets the signals to their defaults.
pub(super) fn become_command(mut program: Command) -> Exit {
    let error = program.exec();
    cannot_start(supervisor::exit_of(&error), program.get_program(), &error.to_string())
}
