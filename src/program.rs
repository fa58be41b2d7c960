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

macro_rules! mark {
    () => {
        " [tollgate-dev: not for production]"
    };
}

/// The text after every sentence about a state.
pub const MARK: &str = if DEVELOPMENT { mark!() } else { "" };

/// What `--version` prints after the command's name.
pub(crate) const VERSION_SHOWN: &str =
    if DEVELOPMENT { concat!(env!("CARGO_PKG_VERSION"), mark!()) } else { VERSION };

/// The source revision, if it was set at compile time (`TOLLGATE_REVISION`).
#[must_use]
pub fn revision() -> &'static str {
    option_env!("TOLLGATE_REVISION").unwrap_or("unknown")
}
