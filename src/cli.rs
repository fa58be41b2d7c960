//! The command line: clap definitions; one thin file for each subcommand below.

pub mod await_gate;
pub mod config;
#[cfg(feature = "emulator")]
pub mod demo;
pub mod doctor;
#[cfg(feature = "emulator")]
pub mod emulator;
pub mod exec;
pub mod install;
pub mod ledger;
pub mod probe;
pub mod run;
pub mod verify;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use crate::config::{Config, Flags, Installation, LogFormat, ProcessEnvironment, Role};
use crate::exit::Exit;
use crate::{last_sentence, log};

/// The entitlement and metering sidecar for container products on AWS Marketplace.
#[derive(Debug, Parser)]
#[command(name = "tollgate", version, about, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the sidecar: register, verify, open the gate, serve the probes
    Run(run::RunArgs),
    /// Register and verify, then run CMD in place of this program: the gate inside the paid image (mode hourly)
    Exec(exec::ExecArgs),
    /// Wait until a running sidecar's gate is open, then run CMD in place of this program, or exit 0
    Await(await_gate::AwaitArgs),
    /// Copy this program into a folder, for images that have no cp
    Install(install::InstallArgs),
    /// Ask the running sidecar about its gate, as an exec probe that needs no shell
    Probe(probe::ProbeArgs),
    /// Verify one RegisterUsage token offline and print its claims
    Verify(verify::VerifyArgs),
    /// Run emulator and sidecar together, and show how the gate opens and usage is billed
    #[cfg(feature = "emulator")]
    Demo(demo::DemoArgs),
    /// Serve a stand-in for AWS Marketplace's metering service, for laptops and tests
    #[cfg(feature = "emulator")]
    Emulator(emulator::EmulatorArgs),
    /// Check step by step what the gate needs to open: settings, credentials, network, clock, disk
    Doctor(doctor::DoctorArgs),
    /// Show usage and repair dead letters: hour records, the balance, the audit (modes metered and saas)
    Ledger(ledger::LedgerArgs),
    /// Check the configuration, print it with its origins, or write a seller's first files
    Config(config::ConfigArgs),
}

/// Parses the process's arguments and runs the subcommand.
#[must_use]
pub fn main() -> Exit {
    crate::config::restart_if_untidy();
    match Cli::try_parse() {
        Ok(cli) => dispatch(&cli.command),
        Err(error) => {
            // Standard output for --help and --version, standard error for the rest; a closed pipe is nobody's fault.
            let _ = error.print();
            match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Done,
                _ => Exit::Usage,
            }
        }
    }
}

fn dispatch(command: &Command) -> Exit {
    match command {
        Command::Run(args) => run::run(args),
        Command::Exec(args) => exec::run(args),
        Command::Await(args) => await_gate::run(args),
        Command::Install(args) => install::run(args),
        Command::Probe(args) => probe::run(args),
        Command::Verify(args) => verify::run(args),
        #[cfg(feature = "emulator")]
        Command::Demo(args) => demo::run(args),
        #[cfg(feature = "emulator")]
        Command::Emulator(args) => emulator::run(args),
        Command::Doctor(args) => doctor::run(args, &ProcessEnvironment, &Installation::compiled_in()),
        Command::Ledger(args) => ledger::run(args),
        Command::Config(args) => {
            let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
            config::run(args, &ProcessEnvironment, &Installation::compiled_in(), &mut out, &mut err)
        }
    }
}

/// Loads the configuration and starts the log, or prints every fault.
fn load(flags: &Flags, role: Role) -> Result<Config, Exit> {
    let loaded = crate::config::load(flags, &ProcessEnvironment, &Installation::compiled_in(), role)
        .map_err(|faults| end(Exit::Config, &format!("{faults}\n{}", faults.summary())))?;
    let filter = log::parse_filter(&loaded.config.log.filter)
        .map_err(|error| end(Exit::Config, &format!("log_filter: {error}")))?;
    let format = match loaded.config.log.format {
        Some(LogFormat::Json) => log::Format::Json,
        Some(LogFormat::Text) => log::Format::Text,
        None => log::Format::default_for_stderr(),
    };
    log::start(format, filter);
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    Ok(loaded.config)
}

/// Says on standard error why the process ends, and returns how.
#[expect(clippy::print_stderr, reason = "before the log is up, or for a command that has none")]
fn complain(exit: Exit, message: &str) -> Exit {
    eprintln!("{message}");
    exit
}

/// The same for a command that may be a container's own: the last line is its last sentence.
fn end(exit: Exit, message: &str) -> Exit {
    last_sentence::leave(message.lines().last().unwrap_or_default());
    complain(exit, message)
}
