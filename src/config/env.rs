//! The environment: the only place of the program that reads it.
//!
//! Tests give a map instead, so that they need no environment of their own and disturb nobody's.

use std::collections::BTreeMap;

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

impl Environment for ProcessEnvironment {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    fn get(&self, key: &str) -> Option<String> {
        std::env::var_os(key).map(|value| value.to_string_lossy().into_owned())
    }

    fn names(&self) -> Vec<String> {
        std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned()).collect()
    }
}

/// An environment that is given.
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

/// A variable of somebody else's convention (the AWS SDK, proxies), where empty means unset.
pub(super) fn filled(env: &dyn Environment, key: &str) -> Option<String> {
    env.get(key).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_has_the_variable_that_cargo_sets_for_tests() {
        assert!(ProcessEnvironment.names().iter().any(|name| name == "CARGO_MANIFEST_DIR"));
        assert_eq!(ProcessEnvironment.get("CARGO_MANIFEST_DIR").as_deref(), Some(env!("CARGO_MANIFEST_DIR")));
        assert_eq!(ProcessEnvironment.get("A_VARIABLE_THAT_NOBODY_SETS"), None);
    }
}
