//! The engine for shared ledgers, if this program has one: `tollgate-saas` has PostgreSQL, the sidecar has none.

use std::sync::OnceLock;

use tollgate_ledger::engine::Engine;

static ENGINE: OnceLock<&'static dyn Engine> = OnceLock::new();

/// Gives this program an engine, before it reads its arguments.
pub fn install(engine: &'static dyn Engine) {
    // A second one is a mistake of the program, and the first one stays.
    let _ = ENGINE.set(engine);
}

/// This program's engine.
#[must_use]
pub fn installed() -> Option<&'static dyn Engine> {
    ENGINE.get().copied()
}
