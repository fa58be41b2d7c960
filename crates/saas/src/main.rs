//! `tollgate-saas`: the sidecar's program with a ledger in PostgreSQL, which replicas share.
//!
//! Nothing else is here: a crate of its own keeps PostgreSQL out of the sidecar.

use std::process::ExitCode;

use tollgate_postgres::PostgresEngine;

fn main() -> ExitCode {
    tollgate::engine::install(&PostgresEngine);
    tollgate::cli::main().into()
}
