//! `tollgate run`: the sidecar.

use clap::Args;

use crate::app::{App, Scope};
use crate::cli::{end, load};
use crate::config::{Flags, Role};
use crate::exit::Exit;

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    flags: Flags,
}

/// Runs until a signal, `POST /v1/quit` or the gate's policy ends the sidecar.
pub fn run(args: &RunArgs) -> Exit {
    let config = match load(&args.flags, Role::Run) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    #[cfg(feature = "fail-points")]
    if let Some(text) = crate::config::Environment::get(&crate::config::ProcessEnvironment, "FAIL_POINT")
        && !tollgate_ledger::fail_point::choose(&text)
    {
        return end(Exit::Usage, &format!("FAIL_POINT: there is no step {text}"));
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return end(Exit::Internal, &format!("cannot start a runtime: {error}")),
    };
    let exit = runtime.block_on(async {
        match App::start(config, Scope::Sidecar) {
            Ok(app) => app.run().await,
            Err(error) => end(error.exit(), &error.to_string()),
        }
    });
    // A DNS look-up may still hang in a thread of its own; it must not delay the exit.
    runtime.shutdown_background();
    exit
}
