//! `tollgate await [--timeout D] [--refused-after D] [-- CMD…]`: waits for a running sidecar's gate, then becomes CMD
//! or exits 0. As an init container it keeps the pod's application from starting before that. `waiting` decides.

mod waiting;

use std::ffi::OsString;
use std::time::Duration;

use clap::Args;

use self::waiting::{WaitAction, Waiting, pause};
use crate::cli::probe::gate_is_open;
use crate::cli::{complain, end, exec, probe};
use crate::config::setting::Setting;
use crate::config::{self, Environment as _, Flags, Installation, ProcessEnvironment};
use crate::exit::Exit;
use crate::shutdown::Signals;
use tollgate_clock as clock;

/// Arguments of `await`.
#[derive(Debug, Args)]
#[command(mut_args(|arg| { let read = probe::READ.contains(&arg.get_id().as_str()); arg.hide(!read) }))]
pub struct AwaitArgs {
    /// Stop waiting after this time, such as 90s or 1h30m, with exit code 124 [default: no limit]
    #[arg(long, value_name = "DURATION", value_parser = |text: &str| config::duration(text))]
    timeout: Option<Duration>,
    /// Exit with 76, 77 or 78 when a refusal (denied, exhausted, misconfigured, unverified, unreported) reaches this
    /// age; if the refusal is older when await starts, keep waiting. At least 5s [default: keep waiting]
    #[arg(long, value_name = "DURATION", value_parser = refusal_age)]
    refused_after: Option<Duration>,
    #[command(flatten)]
    flags: Flags,
    /// The command to run in place of this program once the gate is open
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// The shortest `--refused-after`: the sidecar may be refused before this container has started, and a refusal that is
/// older then does not end the wait.
const REFUSED_AFTER_MIN: Duration = Duration::from_secs(5);

fn refusal_age(text: &str) -> Result<Duration, String> {
    let age = config::duration(text).map_err(|problem| problem.to_string())?;
    if age < REFUSED_AFTER_MIN {
        return Err("must be at least 5s: the sidecar may be refused before this container starts".to_owned());
    }
    Ok(age)
}

/// Waits for the gate; then becomes the command, if there is one.
pub fn run(args: &AwaitArgs) -> Exit {
    let gate = match config::load_probe(&args.flags, &ProcessEnvironment, &Installation::compiled_in()) {
        Ok(probe) => probe::Gate::of(&probe),
        Err(faults) => return end(Exit::Config, &faults.told()),
    };
    // The wait may take hours: a mistyped command is reported now, while the operator is watching.
    if let Err(exit) = exec::look_for(&args.command) {
        return exit;
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return end(Exit::Internal, &format!("cannot start a runtime: {error}")),
    };
    let exit = runtime.block_on(wait(&gate, args));
    runtime.shutdown_background();
    match exec::program(&args.command) {
        Some(mut program) if exit == Exit::Done => {
            // Among tollgate's own variables the application needs this one: where it reports its usage.
            let address = Setting::AppAddr.spec().env;
            if let Some(value) = ProcessEnvironment.get(address) {
                program.env(address, value);
            }
            exec::become_command(program)
        }
        _ => exit,
    }
}

async fn wait(gate: &probe::Gate, args: &AwaitArgs) -> Exit {
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => return end(Exit::Internal, &format!("cannot install signal handlers: {error}")),
    };
    let (mut waiting, began) = (Waiting::new(args.refused_after), clock::monotonic());
    let answers = async {
        while let Err(shut) = gate.ready().await {
            let line = shut.line.clone();
            match waiting.on_answer(shut) {
                WaitAction::Wait => {}
                WaitAction::Say => _ = complain(Exit::NotOpen, &line),
                WaitAction::End(exit) => return (exit, String::new()),
            }
            tokio::time::sleep(pause(clock::monotonic().duration_since(began))).await;
        }
        (Exit::Done, String::new())
    };
    let (exit, why) = tokio::select! {
        ended = answers => ended,
        why = out_of_time(args.timeout) => (Exit::TimedOut, why),
        signal = signals.next() => (Exit::Terminated, format!("{} ended the wait: ", signal.as_str())),
    };
    match waiting.latest {
        _ if exit == Exit::Done => complain(exit, &gate_is_open()),
        // It was printed before, perhaps long ago; the last line must be the cause of the exit.
        Some(shut) => end(exit, &format!("{why}{}", shut.line)),
        None => end(exit, &format!("{why}the sidecar has not answered yet")),
    }
}

async fn out_of_time(timeout: Option<Duration>) -> String {
    let Some(timeout) = timeout else { return std::future::pending().await };
    tokio::time::sleep(timeout).await;
    format!("gave up after --timeout {timeout:?}: ")
}
