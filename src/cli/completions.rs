//! `tollgate completions SHELL`: the script by which a shell completes commands, flags and their values.
//!
//! It is made from the same definitions as the help, so it belongs to the build that printed it. Released builds do not
//! have this command: `just completions` makes their scripts from a build that differs in nothing else.

use clap::builder::PossibleValuesParser;
use clap::{Arg, Args, Command, ValueEnum};
use clap_complete::Generator;
use clap_complete::shells::{Bash, Fish, Zsh};

use crate::cli::screen::print;
use crate::cli::{complain, help, whole};
use crate::config::Mode;
use crate::config::setting::{Schema, Setting};
use crate::exit::Exit;
use crate::program;

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell that reads the script
    shell: Shell,
}

/// Shells whose completions are tested.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Prints the script.
pub fn run(args: &CompletionsArgs) -> Exit {
    let written = match args.shell {
        Shell::Bash => script(&Bash),
        Shell::Zsh => script(&Zsh),
        Shell::Fish => script(&Fish),
    };
    match written {
        Ok(script) => print(script.trim_end(), Exit::Done),
        Err(message) => complain(Exit::Internal, &format!("cannot make the script: {message}")),
    }
}

/// The script for all commands with all their settings: a shell does not know the mode, which decides the settings that
/// count.
fn script(shell: &impl Generator) -> Result<String, String> {
    let mut command = visible(&with_words(help::shaped(whole(), Mode::Hourly, true)));
    command.set_bin_name(env!("CARGO_PKG_NAME"));
    command.build();
    let mut script = Vec::new();
    shell.try_generate(&command, &mut script).map_err(|error| error.to_string())?;
    String::from_utf8(script).map_err(|error| error.to_string())
}

/// `command` without what is hidden, and without this command where a released build does not have it.
fn visible(command: &Command) -> Command {
    let args = command.get_arguments().filter(|arg| !arg.is_hide_set()).cloned();
    let commands = command.get_subcommands().filter(|command| {
        !command.is_hide_set() && (program::DEVELOPMENT || command.get_name() != "completions")
    });
    let mut shown = Command::new(command.get_name().to_owned()).args(args).subcommands(commands.map(visible));
    if let Some(about) = command.get_about() {
        shown = shown.about(about.clone());
    }
    if command.get_name() == program::command() { shown.version(program::version_shown()) } else { shown }
}

/// `command` with the words that its settings accept, for completion only: clap accepts any text, because the
/// configuration's parser checks the values and reports all faults at once.
fn with_words(command: Command) -> Command {
    let word = |arg: Arg| match Setting::by_name(arg.get_id().as_str()).map(Setting::schema) {
        Some(Schema::Words(words)) => arg.value_parser(PossibleValuesParser::new(words)),
        Some(Schema::Switch) if arg.get_action().takes_values() => {
            arg.value_parser(PossibleValuesParser::new(["true", "false"]))
        }
        _ => arg,
    };
    command.mut_args(word).mut_subcommands(with_words)
}
