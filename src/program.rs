//! Which program this is: `tollgate`, as released, or `tollgate-dev`, the development build with the emulator; with an
//! engine for shared ledgers `tollgate-saas` and `tollgate-saas-dev`.
//!
//! A development build accepts the emulator's answers, so every output that shows a state also shows the build's name:
//! documents, log lines, the line of `probe` and `await`, metrics, `--version`.

use crate::engine;

/// Whether this build has the emulator.
pub const DEVELOPMENT: bool = cfg!(feature = "emulator");

/// The name of the build, and of its image.
#[must_use]
pub fn build() -> &'static str {
    match (command(), DEVELOPMENT) {
        (SAAS, false) => SAAS,
        (SAAS, true) => "tollgate-saas-dev",
        (_, false) => SIDECAR,
        (_, true) => "tollgate-dev",
    }
}

/// The name of the command.
#[must_use]
pub fn command() -> &'static str {
    if engine::installed().is_some() { SAAS } else { SIDECAR }
}

const SIDECAR: &str = "tollgate";
const SAAS: &str = "tollgate-saas";

/// The version of both builds.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Texts of a build: what follows every sentence about a state, and what `--version` prints after the command's name.
macro_rules! marked {
    ($build:literal) => {
        (
            concat!(" [", $build, ": not for production]"),
            concat!(env!("CARGO_PKG_VERSION"), " [", $build, ": not for production]"),
        )
    };
}

fn texts() -> (&'static str, &'static str) {
    match (command(), DEVELOPMENT) {
        (_, false) => ("", VERSION),
        (SAAS, true) => marked!("tollgate-saas-dev"),
        (_, true) => marked!("tollgate-dev"),
    }
}

/// The text after every sentence about a state: the name of a development build, or nothing.
#[must_use]
pub fn mark() -> &'static str {
    texts().0
}

/// What `--version` prints after the command's name.
pub(crate) fn version_shown() -> &'static str {
    texts().1
}

/// The source revision, if it was set at compile time (`TOLLGATE_REVISION`).
#[must_use]
pub fn revision() -> &'static str {
    option_env!("TOLLGATE_REVISION").unwrap_or("unknown")
}
