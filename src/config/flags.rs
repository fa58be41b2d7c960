//! The settings as command-line flags: one optional text for each row of the settings table.
//!
//! The flags are built from the table and not derived from a struct, so that a setting is still defined once. Their
//! texts are added for the help only: a probe starts every few seconds, and reads none of them.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use super::setting::{Form, Setting};

/// The settings that the command line gives.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    pub(super) values: Vec<(Setting, String)>,
    pub(super) config: Option<PathBuf>,
}

impl Flags {
    /// With one more setting, as if its flag had been given.
    #[must_use]
    pub fn with(mut self, setting: Setting, value: impl Into<String>) -> Self {
        self.values.retain(|(known, _)| *known != setting);
        self.values.push((setting, value.into()));
        self
    }

    pub(super) fn value(&self, setting: Setting) -> Option<&str> {
        self.values.iter().find(|(known, _)| *known == setting).map(|(_, value)| value.as_str())
    }
}

/// The flag that names the operator's file.
pub(super) const CONFIG_FLAG: &str = "config";

impl Args for Flags {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new(CONFIG_FLAG)
            .long(CONFIG_FLAG)
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help_heading(HEADING)
            .help("The configuration file [default: /etc/tollgate/tollgate.toml, if it exists].");
        with_flag().fold(command.arg(file), |command, setting| command.arg(arg(setting)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// The settings that a flag can give. A table cannot: it is written in a file, or as TOML in the environment.
fn with_flag() -> impl Iterator<Item = Setting> {
    Setting::ALL.iter().copied().filter(|setting| setting.spec().form != Form::Table)
}

/// The heading of these flags in the help.
const HEADING: &str = "Settings (each also TOLLGATE_… in the environment and a key in the file)";

/// The heading of those that only products with custom dimensions need.
const USAGE_HEADING: &str = "Settings for usage (modes metered and saas)";

fn arg(setting: Setting) -> Arg {
    let spec = setting.spec();
    let arg = Arg::new(spec.name)
        .long(spec.flag)
        .value_name(spec.value_name)
        .action(ArgAction::Set)
        .hide(spec.emulator_only && !cfg!(feature = "emulator"));
    match spec.form {
        Form::Switch => arg.num_args(0..=1).default_missing_value("true"),
        Form::Text | Form::List | Form::Table => arg,
    }
}

/// The flag of a setting with its text in the help; any other argument unchanged.
pub(crate) fn described(arg: Arg) -> Arg {
    // A command may have an argument of its own with the name of a setting, which has its own text.
    let setting = Setting::by_name(arg.get_id().as_str()).filter(|_| arg.get_help().is_none());
    let Some(spec) = setting.map(Setting::spec) else { return arg };
    arg.help_heading(if spec.for_usage { USAGE_HEADING } else { HEADING }).help(format!(
        "{} [{}]",
        spec.meaning.replace('`', ""),
        default_shown(spec.default_shown())
    ))
}

/// The default in brackets; a text that begins with "required" is no default.
fn default_shown(text: &str) -> String {
    if text.starts_with("required") { text.to_owned() } else { format!("default: {text}") }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        if let Some(file) = matches.get_one::<PathBuf>(CONFIG_FLAG) {
            self.config = Some(file.clone());
        }
        for setting in with_flag() {
            if let Some(value) = matches.get_one::<String>(setting.spec().name) {
                *self = std::mem::take(self).with(setting, value.clone());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Flags, clap::Error> {
        let command = Flags::augment_args(Command::new("t"));
        Flags::from_arg_matches(&command.try_get_matches_from([&["t"], args].concat())?)
    }

    #[test]
    fn each_setting_but_a_table_has_a_flag() {
        assert!(parse(&["--dimension", "{}"]).is_err());
        for setting in with_flag() {
            let flags = parse(&[&format!("--{}", setting.spec().flag), "x"]).unwrap();
            assert_eq!(flags.value(setting), Some("x"));
            assert_eq!(flags.values.len(), 1);
        }
        Flags::augment_args(Command::new("t")).debug_assert();
    }

    #[test]
    fn switches_may_stand_alone() {
        assert_eq!(parse(&["--quit", "--region", "x"]).unwrap().value(Setting::Quit), Some("true"));
        assert_eq!(parse(&["--quit=false"]).unwrap().value(Setting::Quit), Some("false"));
        assert_eq!(parse(&["--region="]).unwrap().value(Setting::Region), Some(""));
        assert!(parse(&["--region"]).is_err());
    }

    #[test]
    fn a_misspelled_flag_gets_a_suggestion() {
        let error = parse(&["--product-cod", "x"]).unwrap_err().to_string();
        assert!(error.contains("--product-code"), "{error}");
    }
}
