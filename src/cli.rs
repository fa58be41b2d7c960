//! The command line: clap definitions; one thin file for each subcommand below.

pub mod await_gate;
#[cfg(feature = "completions")]
pub mod completions;
pub mod config;
#[cfg(feature = "emulator")]
pub mod demo;
pub mod doctor;
#[cfg(feature = "emulator")]
pub mod emulator;
pub mod exec;
pub mod explain;
mod help;
pub mod install;
pub mod ledger;
pub mod license;
mod named;
pub mod probe;
pub mod run;
mod screen;
mod sidecar;
pub mod support_bundle;
pub mod verify;

use std::io::{self, Write as _};

use clap::error::ErrorKind;
use clap::{Args, FromArgMatches as _, Subcommand};

use crate::config::{
    self as settings, Config, Flags, Installation, LogFormat, Mode, ProcessEnvironment, Role,
};
use crate::exit::Exit;
use crate::{last_sentence, log, program, supervisor};
use named::Named;

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the sidecar: register, verify, open the gate, serve the probes
    Run(Named<run::RunArgs>),
    /// Wait until the gate opens, then run CMD: for a gate inside the product's own image (not in mode saas)
    Exec(Named<exec::ExecArgs>),
    /// Wait until a running sidecar's gate is open, then run CMD in place of this program, or exit 0
    Await(Named<await_gate::AwaitArgs>),
    /// Explain a reason code: what it means, who acts, what to do
    Explain(Named<explain::ExplainArgs>),
    /// Copy this program into a folder, for images that have no cp
    Install(Named<install::InstallArgs>),
    /// Ask the running sidecar whether its gate is open; as an exec probe it needs no shell
    Probe(Named<probe::ProbeArgs>),
    /// Verify one RegisterUsage token offline and print its claims
    Verify(Named<verify::VerifyArgs>),
    /// Run the emulator and the sidecar together, and show how the gate opens and usage is billed
    #[cfg(feature = "emulator")]
    Demo(Named<demo::DemoArgs>),
    /// Emulate AWS Marketplace's metering service and License Manager, for development and tests
    #[cfg(feature = "emulator")]
    Emulator(Named<emulator::EmulatorArgs>),
    /// Check step by step what the gate needs to open: settings, credentials, network, clock, disk
    Doctor(Named<doctor::DoctorArgs>),
    /// Write one document for the seller's support: settings, checks, states and counters, without secrets
    SupportBundle(Named<support_bundle::BundleArgs>),
    /// Show usage and repair dead letters: hour records, the balance, the audit (modes metered and saas)
    Ledger(Named<ledger::LedgerArgs>),
    /// Show the contract's license: its end, the seats that are sold and taken, and what this pod holds (mode contract)
    License(Named<license::LicenseArgs>),
    /// Check the configuration, print each value with its origin, or write a seller's first files
    Config(Named<config::ConfigArgs>),
    /// Print the script by which bash, zsh or fish completes commands and flags
    #[cfg(feature = "completions")]
    #[command(after_help = "Example:\n  source <(tollgate completions bash)")]
    Completions(Named<completions::CompletionsArgs>),
    /// Give the terminal of a command of `exec` that has ended to this process group: for tollgate itself
    #[command(hide = true)]
    TakeTerminal(Named<TakeTerminalArgs>),
}

/// Arguments of `take-terminal`.
#[derive(Debug, Args)]
struct TakeTerminalArgs {
    /// The process group
    group: i32,
}

/// The command line whose subcommands get their arguments when they are named; for parsing.
fn lazy() -> clap::Command {
    around(Command::augment_subcommands)
}

/// The command line with the arguments of every subcommand, for help and completions.
fn whole() -> clap::Command {
    around(Command::augment_subcommands_for_update)
}

fn around(subcommands: fn(clap::Command) -> clap::Command) -> clap::Command {
    let command = clap::Command::new(program::command())
        .version(program::version_shown())
        .about("The entitlement and metering sidecar for container products on AWS Marketplace")
        .max_term_width(110);
    subcommands(command).subcommand_required(true).arg_required_else_help(true)
}

/// Parses the process's arguments and runs the subcommand.
#[must_use]
pub fn main() -> Exit {
    settings::restart_if_untidy();
    let (all, arguments) = help::wants_all(settings::arguments());
    let parse = |command: clap::Command| {
        let matches = command.try_get_matches_from(&arguments)?;
        Command::from_arg_matches(&matches)
    };
    // Only the help depends on the mode, which may be set in a file. So the mode is read only for help: a probe, which
    // starts often, then reads the files only once.
    let parsed = parse(lazy()).or_else(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let mode = help::stated_mode(&arguments)
                .or_else(|| settings::stated_mode(&ProcessEnvironment, &Installation::compiled_in()));
            parse(help::shaped(whole(), mode.unwrap_or(Mode::Hourly), all))
        }
        _ => Err(error),
    });
    match parsed {
        Ok(command) => dispatch(&command),
        Err(error) => {
            match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                    // A closed pipe is no error.
                    let _ = error.print();
                    Exit::Done
                }
                _ => complain(Exit::Usage, &cause_last(&error.render().to_string())),
            }
        }
    }
}

/// clap's text about a wrong command line, with its first paragraph, the cause, moved to the last line.
fn cause_last(text: &str) -> String {
    match text.trim_end().split_once("\n\n") {
        Some((cause, advice)) => {
            let cause: Vec<&str> = cause.lines().map(str::trim).collect();
            format!("{}\n\n{}", advice.trim_end(), cause.join(" "))
        }
        None => text.trim_end().to_owned(),
    }
}

fn dispatch(command: &Command) -> Exit {
    match command {
        Command::Run(args) => run::run(args),
        Command::Exec(args) => exec::run(args),
        Command::Await(args) => await_gate::run(args),
        Command::Explain(args) => explain::run(args),
        Command::Install(args) => install::run(args),
        Command::Probe(args) => probe::run(args),
        Command::Verify(args) => verify::run(args),
        #[cfg(feature = "emulator")]
        Command::Demo(args) => demo::run(args),
        #[cfg(feature = "emulator")]
        Command::Emulator(args) => emulator::run(args),
        Command::Doctor(args) => doctor::run(args, &ProcessEnvironment, &Installation::compiled_in()),
        Command::SupportBundle(args) => {
            support_bundle::run(args, &ProcessEnvironment, &Installation::compiled_in())
        }
        Command::Ledger(args) => ledger::run(args),
        Command::License(args) => license::run(args),
        Command::Config(args) => {
            let (mut out, mut err) = (io::stdout(), io::stderr());
            config::run(args, &ProcessEnvironment, &Installation::compiled_in(), &mut out, &mut err)
        }
        #[cfg(feature = "completions")]
        Command::Completions(args) => completions::run(args),
        Command::TakeTerminal(args) => {
            if supervisor::take_terminal(args.group) {
                Exit::Done
            } else {
                Exit::Internal
            }
        }
    }
}

/// Loads the configuration and starts the log, or prints every fault.
fn load(flags: &Flags, role: Role) -> Result<Config, Exit> {
    let loaded = settings::load(flags, &ProcessEnvironment, &Installation::compiled_in(), role)
        .map_err(|faults| end(Exit::Config, &faults.told()))?;
    let filter = log::parse_filter(&loaded.config.log.filter)
        .map_err(|error| end(Exit::Config, &format!("log_filter: {error}")))?;
    let format = match loaded.config.log.format {
        Some(LogFormat::Json) => log::Format::Json,
        Some(LogFormat::Text) => log::Format::Text,
        None => log::Format::default_for_stderr(),
    };
    log::start(format, screen::stderr_has_colours(), filter);
    for warning in &loaded.warnings {
        tracing::warn!(event = "configuration_warning", "{warning}");
    }
    Ok(loaded.config)
}

/// Prints `message` to standard error, and returns `exit`.
fn complain(exit: Exit, message: &str) -> Exit {
    // A failed write is ignored: the exit code is still right.
    let _ = writeln!(io::stderr(), "{message}");
    exit
}

/// [`complain`] for a command that may be a container's entry point: the last line is also the termination message.
fn end(exit: Exit, message: &str) -> Exit {
    last_sentence::leave(message.lines().last().unwrap_or_default());
    complain(exit, message)
}
