//! The help of a command: the settings that it reads in the product's mode, and an example. `--help-all` lists all
//! settings.

use std::ffi::OsString;

use clap::{Arg, Command};

use crate::config::setting::Setting;
use crate::config::{Mode, described};

/// Given in place of `--help`: lists every setting.
const ALL: &str = "--help-all";

/// Commands whose help lists the settings of the mode; the others list a fixed set of settings, or none.
const BY_MODE: [&[&str]; 6] =
    [&["run"], &["exec"], &["doctor"], &["support-bundle"], &["config", "check"], &["config", "print"]];

/// Settings of the application's server, which an `exec` that becomes its command does not start.
const OF_APP_SERVER: [Setting; 3] = [Setting::AppAddr, Setting::AppTokenFile, Setting::AwsDoor];

/// Settings that `exec` does not read: the container ends with its command, and nothing reports usage after that.
const NOT_OF_EXEC: [Setting; 2] = [Setting::Quit, Setting::DrainQuiet];

/// The example at the end of a command's help.
const EXAMPLES: [(&[&str], &str); 15] = [
    (&["run"], "tollgate run --mode metered --product-code CODE --dimensions requests"),
    (&["exec"], "tollgate exec -- /app/server --port 8080"),
    (&["await"], "tollgate await --timeout 10m -- /app/server"),
    (&["explain"], "tollgate explain CustomerNotEntitledException"),
    (&["install"], "tollgate install /shared"),
    (&["probe"], "kubectl exec POD -c tollgate -- /tollgate probe ready"),
    (
        &["verify"],
        "tollgate verify --product-code CODE --public-key 1.pem --public-key-version 1 --nonce NONCE TOKEN",
    ),
    (&["doctor"], "kubectl exec POD -c tollgate -- /tollgate doctor"),
    (&["support-bundle"], "kubectl exec POD -c tollgate -- /tollgate support-bundle > bundle.json"),
    (&["ledger"], "tollgate ledger list --state dead --csv"),
    (&["ledger", "replay"], "tollgate ledger replay 17 --note 'the role was fixed'"),
    (&["license"], "kubectl exec POD -c tollgate -- /tollgate license"),
    (&["config", "check"], "tollgate config check --json"),
    (&["config", "print"], "tollgate config print --config /etc/tollgate/tollgate.toml"),
    (&["config", "init"], "tollgate config init --mode metered --product-code CODE gate"),
];

/// The line below a list of settings that is not complete.
const MORE: &str = "Settings of other modes and commands: --help-all";

/// Whether `--help-all` is given, and the arguments with `--help` in its place.
pub(super) fn wants_all(arguments: Vec<OsString>) -> (bool, Vec<OsString>) {
    // Arguments after `--` belong to another program.
    let ours = arguments.iter().position(|argument| argument == "--").unwrap_or(arguments.len());
    let mut all = false;
    let shape = |(at, argument): (usize, OsString)| {
        if at < ours && argument == ALL {
            all = true;
            return "--help".into();
        }
        argument
    };
    let arguments = arguments.into_iter().enumerate().map(shape).collect();
    (all, arguments)
}

/// The mode that the arguments state, if any.
pub(super) fn stated_mode(arguments: &[OsString]) -> Option<Mode> {
    let texts: Vec<&str> = arguments.iter().filter_map(|argument| argument.to_str()).collect();
    let at = texts.iter().position(|text| *text == "--mode");
    let value = at.and_then(|at| texts.get(at + 1).copied());
    let value = value.or_else(|| texts.iter().find_map(|text| text.strip_prefix("--mode=")))?;
    Mode::ALL.into_iter().find(|mode| mode.as_str() == value)
}

/// `command` with a help that lists the settings of `mode`, or all settings.
pub(super) fn shaped(command: Command, mode: Mode, all: bool) -> Command {
    let command = EXAMPLES.into_iter().fold(with_texts(command), |command, (path, example)| {
        at(command, path, &|command| command.after_help(format!("Example:\n  {example}")))
    });
    if all {
        return unhidden(command);
    }
    BY_MODE.into_iter().fold(command, |command, path| {
        let unread = |setting: Setting| match path {
            ["exec"] => {
                NOT_OF_EXEC.contains(&setting)
                    || mode.ends_when_open()
                        && (OF_APP_SERVER.contains(&setting) || setting == Setting::CommandGrace)
            }
            ["run"] => setting == Setting::CommandGrace,
            _ => false,
        };
        at(command, path, &|command: Command| {
            let listed = |arg: Arg| match Setting::by_name(arg.get_id().as_str()) {
                Some(setting) => {
                    let read = setting.spec().counts_in(mode) && !unread(setting);
                    let hidden = arg.is_hide_set() || !read;
                    arg.hide(hidden)
                }
                None => arg,
            };
            let more = match command.get_after_help() {
                Some(help) => format!("{help}\n\n{MORE}"),
                None => MORE.to_owned(),
            };
            command.mut_args(listed).after_help(more)
        })
    })
}

/// `command` with the texts of the settings.
fn with_texts(command: Command) -> Command {
    command.mut_args(described).mut_subcommands(with_texts)
}

/// Applies `change` to the subcommand at `path`.
fn at(command: Command, path: &[&str], change: &dyn Fn(Command) -> Command) -> Command {
    match path.split_first() {
        None => change(command),
        Some((first, rest)) => {
            let (first, rest) = ((*first).to_owned(), rest.to_vec());
            command.mut_subcommand(first, |command| at(command, &rest, change))
        }
    }
}

fn unhidden(command: Command) -> Command {
    let listed = |arg: Arg| match Setting::by_name(arg.get_id().as_str()) {
        Some(setting) => arg.hide(setting.spec().emulator_only && !cfg!(feature = "emulator")),
        None => arg,
    };
    command.mut_args(listed).mut_subcommands(unhidden)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn help(path: &[&str], mode: Mode, all: bool) -> String {
        let mut command = shaped(crate::cli::whole(), mode, all);
        command.build();
        let command =
            path.iter().fold(&mut command, |command, name| command.find_subcommand_mut(name).unwrap());
        command.render_long_help().to_string()
    }

    #[test]
    fn a_command_lists_the_settings_that_it_reads_in_its_mode() {
        let lists =
            |path: &[&str], mode, all, flag: &str| help(path, mode, all).contains(&format!("--{flag}"));
        for (path, mode, flag, listed) in [
            (&["run"][..], Mode::Hourly, "settle", false),
            (&["run"], Mode::Hourly, "public-keys", true),
            (&["run"], Mode::Metered, "settle", true),
            (&["run"], Mode::Metered, "on-unsent", true),
            (&["run"], Mode::Saas, "on-unsent", false),
            (&["run"], Mode::Hourly, "renew-every", false),
            (&["run"], Mode::Contract, "renew-every", true),
            (&["run"], Mode::Contract, "product-id", true),
            (&["run"], Mode::Contract, "after-denial", false),
            (&["run"], Mode::Contract, "public-keys", false),
            (&["run"], Mode::Contract, "settle", false),
            (&["exec"], Mode::Hourly, "quit", false),
            (&["exec"], Mode::Hourly, "app-addr", false),
            (&["exec"], Mode::Hourly, "command-grace", false),
            (&["exec"], Mode::Hourly, "settle", false),
            (&["exec"], Mode::Hourly, "probe-addr", true),
            (&["exec"], Mode::Metered, "app-addr", true),
            (&["exec"], Mode::Metered, "command-grace", true),
            (&["exec"], Mode::Metered, "settle", true),
            (&["exec"], Mode::Metered, "quit", false),
            (&["exec"], Mode::Metered, "drain-quiet", false),
            (&["run"], Mode::Metered, "command-grace", false),
            (&["config", "check"], Mode::Hourly, "dimensions", false),
            (&["config", "print"], Mode::Saas, "dimensions", true),
            (&["support-bundle"], Mode::Hourly, "settle", false),
            (&["probe"], Mode::Metered, "settle", false),
        ] {
            assert_eq!(lists(path, mode, false, flag), listed, "{path:?} {mode} {flag}");
            assert!(lists(path, mode, true, flag), "{path:?} {flag} with --help-all");
        }
        for (path, example) in EXAMPLES {
            assert!(help(path, Mode::Hourly, false).contains(example), "{path:?}");
        }
        let short = help(&["probe"], Mode::Hourly, false);
        assert!(short.lines().count() <= 32, "{short}");
    }

    #[test]
    fn the_mode_and_the_wish_for_all_are_read_from_the_arguments() {
        let arguments = |texts: &[&str]| texts.iter().map(OsString::from).collect::<Vec<_>>();
        assert_eq!(stated_mode(&arguments(&["t", "run", "--mode", "saas"])), Some(Mode::Saas));
        assert_eq!(stated_mode(&arguments(&["t", "run", "--mode=metered"])), Some(Mode::Metered));
        assert_eq!(stated_mode(&arguments(&["t", "run", "--mode"])), None);
        let (all, shaped) = wants_all(arguments(&["t", "run", "--help-all"]));
        assert_eq!((all, shaped), (true, arguments(&["t", "run", "--help"])));
        let other = arguments(&["t", "exec", "--", "--help-all"]);
        assert_eq!(wants_all(other.clone()), (false, other));
    }
}
