//! The environment: the only place of the program that reads it.
//!
//! Tests pass a map instead, so that they do not change the environment of other tests.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use super::proxy;
use super::setting::ENV_PREFIX;

/// Environment variables, as the configuration sees them.
pub trait Environment {
    /// The value of a variable. Bytes that are not UTF-8 appear as U+FFFD, which no setting accepts.
    fn get(&self, key: &str) -> Option<String>;

    /// The names of all variables.
    fn names(&self) -> Vec<String>;
}

/// The environment of this process.
#[derive(Debug, Clone, Copy)]
pub struct ProcessEnvironment;

#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
impl Environment for ProcessEnvironment {
    fn get(&self, key: &str) -> Option<String> {
        std::env::var_os(key).map(|value| value.to_string_lossy().into_owned())
    }

    fn names(&self) -> Vec<String> {
        std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned()).collect()
    }
}

/// The arguments of this process, its name first.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one place that reads the arguments")]
pub fn arguments() -> Vec<OsString> {
    std::env::args_os().collect()
}

/// An environment in memory.
#[derive(Debug, Clone, Default)]
pub struct MapEnvironment(BTreeMap<String, String>);

impl<const N: usize> From<[(&str, &str); N]> for MapEnvironment {
    fn from(pairs: [(&str, &str); N]) -> Self {
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }
}

impl FromIterator<(String, String)> for MapEnvironment {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        Self(pairs.into_iter().collect())
    }
}

impl Environment for MapEnvironment {
    fn get(&self, key: &str) -> Option<String> {
        self.0.get(key).cloned()
    }

    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }
}

/// The value of a variable for which empty means unset, as for those of the AWS SDK and of proxies. White space at its
/// ends, which Secrets often add, is removed.
pub(super) fn filled(env: &dyn Environment, key: &str) -> Option<String> {
    env.get(key).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

/// Linux's name for the running program's file.
pub const OWN_PROGRAM: &str = "/proc/self/exe";

/// Starts this program again, in the same process, if one of the variables below has white space at its ends, or is
/// empty where that means unset.
///
/// The AWS SDK and the HTTP client read the environment themselves, and a process cannot change its own without risk.
/// Returns when there is nothing to trim, and when the program cannot be started again: then the configuration
/// rejects the value.
#[expect(clippy::disallowed_methods, reason = "the arguments are handed on as they are")]
pub fn restart_if_untidy() {
    let changes = untidy(&ProcessEnvironment);
    if changes.is_empty() {
        return;
    }
    let mut arguments = std::env::args_os();
    let mut program = Command::new(OWN_PROGRAM);
    if let Some(name) = arguments.next() {
        program.arg0(name);
    }
    program.args(arguments);
    for (name, value) in changes {
        match value {
            Some(value) => program.env(name, value),
            None => program.env_remove(name),
        };
    }
    let _error = program.exec();
}

/// The variables to change, with their new values; `None` for an empty one, which is to be removed.
fn untidy(env: &dyn Environment) -> Vec<(String, Option<String>)> {
    let change = |name: String| {
        let value = env.get(&name)?;
        let proxy = proxy::VARIABLES.contains(&name.as_str());
        let ours = proxy || PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        // What is not UTF-8 is not rewritten: it is refused where it is read.
        if !ours || value.contains('\u{fffd}') {
            return None;
        }
        match value.trim() {
            // The SDK takes an empty variable for a name or an address, and does not look further.
            "" if proxy || name.starts_with(AWS_PREFIX) => Some((name, None)),
            trimmed if trimmed != value => Some((name, Some(trimmed.to_owned()))),
            _ => None,
        }
    };
    env.names().into_iter().filter_map(change).collect()
}

const AWS_PREFIX: &str = "AWS_";

/// Prefixes of the variables that are read here or by the AWS SDK, besides those of proxies.
const PREFIXES: [&str; 3] = [AWS_PREFIX, "ECS_CONTAINER_METADATA_", ENV_PREFIX];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_at_the_ends_is_taken_off_what_counts_here() {
        let env = MapEnvironment::from([
            ("AWS_SECRET_ACCESS_KEY", "key\n"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", ""),
            ("TOLLGATE_MODE", " hourly"),
            ("HTTPS_PROXY", " "),
            ("https_proxy", "http://proxy:3128\r\n"),
            ("HOME", "/home/app "),
            ("AWS_PROFILE", "\u{fffd} "),
        ]);
        let changes = untidy(&env);
        let changes: Vec<_> = changes.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
        assert_eq!(
            changes,
            [
                ("AWS_CONTAINER_CREDENTIALS_FULL_URI", None),
                ("AWS_SECRET_ACCESS_KEY", Some("key")),
                ("HTTPS_PROXY", None),
                ("TOLLGATE_MODE", Some("hourly")),
                ("https_proxy", Some("http://proxy:3128")),
            ]
        );
        assert_eq!(filled(&env, "https_proxy").as_deref(), Some("http://proxy:3128"));
        assert_eq!(filled(&env, "HTTPS_PROXY"), None);
    }

    #[test]
    fn the_process_has_the_variable_that_cargo_sets_for_tests() {
        assert!(ProcessEnvironment.names().iter().any(|name| name == "CARGO_MANIFEST_DIR"));
        assert_eq!(ProcessEnvironment.get("CARGO_MANIFEST_DIR").as_deref(), Some(env!("CARGO_MANIFEST_DIR")));
        assert_eq!(ProcessEnvironment.get("A_VARIABLE_THAT_NOBODY_SETS"), None);
    }
}
