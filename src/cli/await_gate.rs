//! `tollgate await [--timeout D] [-- CMD…]`: waits for a running sidecar's gate, then becomes CMD or exits 0.

use std::ffi::OsString;
use std::time::Duration;

use clap::Args;

use crate::cli::{complain, exec, probe};
use crate::config::{self, Flags, Installation, ProcessEnvironment};
use crate::exit::Exit;
use crate::shutdown::Signals;

/// Arguments of `await`.
#[derive(Debug, Args)]
#[command(mut_args(|arg| { let read = probe::READ.contains(&arg.get_id().as_str()); arg.hide(!read) }))]
pub struct AwaitArgs {
    /// Give up after this long, such as 90s or 1h30m, with exit code 124 [default: wait for ever]
    #[arg(long, value_name = "DURATION", value_parser = |text: &str| config::duration(text))]
    timeout: Option<Duration>,
    #[command(flatten)]
    flags: Flags,
    /// The command to run in place of this program once the gate is open
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Between two questions: a start waits no longer than this for nothing, and a sidecar hardly notices them.
const ASK_EVERY: Duration = Duration::from_millis(250);

/// Waits, then does not return if there is a command.
pub fn run(args: &AwaitArgs) -> Exit {
    let gate = match config::load_probe(&args.flags, &ProcessEnvironment, &Installation::compiled_in()) {
        Ok(probe) => probe::Gate::of(&probe),
        Err(faults) => return complain(Exit::Config, &faults.to_string()),
    };
    // The wait may take hours, and whoever mistyped the command is there now.
    if let Err(exit) = exec::look_for(&args.command) {
        return exit;
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(Exit::Internal, &format!("cannot start a runtime: {error}")),
    };
    let exit = runtime.block_on(wait(&gate, args.timeout));
    runtime.shutdown_background();
    if exit == Exit::Done { exec::become_command(&args.command) } else { exit }
}

async fn wait(gate: &probe::Gate, timeout: Option<Duration>) -> Exit {
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => return complain(Exit::Internal, &format!("cannot take signals over: {error}")),
    };
    let mut latest = String::new();
    let opened = async {
        loop {
            match gate.ready().await {
                Ok(()) => return,
                // Said when it changes, so that the log of a waiting container tells its story once.
                Err(line) if line != latest => {
                    complain(Exit::Unavailable, &line);
                    latest = line;
                }
                Err(_) => {}
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    };
    let limit = async {
        match timeout {
            Some(timeout) => tokio::time::sleep(timeout).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = opened => Exit::Done,
        () = limit => Exit::TimedOut,
        _ = signals.next() => Exit::Terminated,
    }
}
