//! Arguments of a subcommand, which clap is given when the command line names the subcommand.
//!
//! Most subcommands take every setting as a flag. To define the flags of all subcommands took longer than anything else
//! that `probe` does, and an exec probe starts the program every few seconds.

use std::ops::Deref;

use clap::{ArgMatches, Args, Command, Error, FromArgMatches};

/// The arguments `T` of a subcommand.
#[derive(Debug)]
pub(super) struct Named<T>(T);

impl<T> Deref for Named<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Args> Args for Named<T> {
    fn augment_args(command: Command) -> Command {
        // The text on `T` replaces that of the subcommand. No error shows either, and help is made of the other form.
        command.defer(T::augment_args)
    }

    /// All arguments at once. clap has two forms of a command line, the second for arguments that update earlier ones.
    /// This program has no such arguments, so its second form is the one that [`super::whole`] needs.
    fn augment_args_for_update(command: Command) -> Command {
        T::augment_args(command)
    }
}

impl<T: FromArgMatches> FromArgMatches for Named<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        T::from_arg_matches(matches).map(Self)
    }

    fn from_arg_matches_mut(matches: &mut ArgMatches) -> Result<Self, Error> {
        T::from_arg_matches_mut(matches).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        self.0.update_from_arg_matches(matches)
    }

    fn update_from_arg_matches_mut(&mut self, matches: &mut ArgMatches) -> Result<(), Error> {
        self.0.update_from_arg_matches_mut(matches)
    }
}

#[cfg(test)]
mod tests {
    use clap::Command;

    use crate::cli::{lazy, whole};

    fn names() -> Vec<String> {
        let names: Vec<String> = whole().get_subcommands().map(|one| one.get_name().to_owned()).collect();
        assert!(names.contains(&"run".to_owned()));
        names
    }

    #[test]
    fn a_subcommand_gets_its_arguments_when_it_is_named_and_not_before() {
        let defined = |command: &Command| command.get_arguments().next().is_some();
        for name in names() {
            let (lazy, whole) = (lazy(), whole());
            assert!(!defined(lazy.find_subcommand(&name).unwrap()), "{name}");
            let known = whole.find_subcommand(&name).unwrap();
            assert!(defined(known) || known.has_subcommands(), "{name}");
        }
    }

    /// A mistake is answered as if all arguments were there from the beginning.
    #[test]
    fn what_is_said_about_a_mistake_does_not_depend_on_when_arguments_are_defined() {
        let said = |command: Command, arguments: &[&str]| {
            command.try_get_matches_from([&["tollgate"], arguments].concat()).unwrap_err().to_string()
        };
        for name in names() {
            for mistake in [&["--product-cod", "x"][..], &["--no-such"], &["a", "b", "c"], &["--config"]] {
                let arguments = [&[name.as_str()], mistake].concat();
                assert_eq!(said(lazy(), &arguments), said(whole(), &arguments), "{arguments:?}");
            }
        }
        for arguments in [&["--product-code", "x", "run"][..], &["rum"], &["ledger", "lits"], &[]] {
            assert_eq!(said(lazy(), arguments), said(whole(), arguments), "{arguments:?}");
        }
        assert!(said(lazy(), &["run", "--product-cod", "x"]).contains("--product-code"));
    }
}
