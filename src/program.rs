//! Which program this is: `tollgate`, as released, or `tollgate-dev`, the development build with the emulator.
//!
//! A development build accepts the emulator's answers, so whatever shows a state also shows the name: documents, log
//! lines, the line of `probe` and `await`, metrics, `--version`.

/// Whether this build has the emulator.
pub const DEVELOPMENT: bool = cfg!(feature = "emulator");

/// The name of the build, and of its image.
pub const NAME: &str = if DEVELOPMENT { "tollgate-dev" } else { "tollgate" };

/// The version of both builds.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

macro_rules! mark {
    () => {
        " [tollgate-dev: not for production]"
    };
}

/// What follows every sentence about a state.
pub const MARK: &str = if DEVELOPMENT { mark!() } else { "" };

/// What `--version` prints behind the name of the command.
pub(crate) const VERSION_SHOWN: &str =
    if DEVELOPMENT { concat!(env!("CARGO_PKG_VERSION"), mark!()) } else { VERSION };

/// The source revision, where the build names one (`TOLLGATE_REVISION` at compile time).
#[must_use]
pub fn revision() -> &'static str {
    option_env!("TOLLGATE_REVISION").unwrap_or("unknown")
}
