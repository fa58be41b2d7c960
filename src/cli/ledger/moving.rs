//! `ledger move`: a ledger leaves its file for a database that several replicas share.

use serde_json::json;

use crate::api::usage::balances;
use crate::cli::complain;
use crate::cli::screen::print;
use crate::config::{self, Flags, Installation, ProcessEnvironment};
use crate::exit::Exit;
use crate::program;
use tollgate_disk::{Links, read_regular};

/// Largest file with a URL.
const URL_BYTES_MAX: usize = 8192;

/// Moves the ledger, or goes on with a move that was interrupted.
pub(super) fn run(to: Option<&str>, flags: &Flags, as_json: bool, installed: &Installation<'_>) -> Exit {
    let Some(engine) = installed.engine else {
        let text = "this program has no PostgreSQL: run `tollgate-saas ledger move`";
        return complain(Exit::Usage, text);
    };
    let place = match config::load_ledger_place(flags, &ProcessEnvironment, installed) {
        Ok(place) => place,
        Err(faults) => return complain(Exit::Config, &faults.told()),
    };
    let Some(folder) = place.state.dir.path().map(ToOwned::to_owned) else {
        let text = "state_dir keeps nothing; name the folder of the ledger that is to be moved";
        return complain(Exit::Config, text);
    };
    let url = match (to, &place.state.url_file) {
        (Some(url), _) => url.to_owned(),
        (None, Some(file)) => match read_regular(file, URL_BYTES_MAX, Links::Follow) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).trim().to_owned(),
            Err(error) => {
                return complain(Exit::Config, &format!("ledger_url_file: {}: {error}", file.display()));
            }
        },
        (None, None) => {
            let text = "where to? give --to postgres://user:password@host/database, or set ledger_url_file";
            return complain(Exit::Usage, text);
        }
    };
    if let Err(problem) = engine.check_url(&url) {
        return complain(Exit::Usage, &format!("--to: {problem}"));
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(Exit::Internal, &format!("cannot start a runtime: {error}")),
    };
    let mut said = |line: String| {
        complain(Exit::Done, &line);
    };
    match runtime.block_on(engine.take_over(folder, url, &mut said)) {
        Ok(moved) => {
            let dimensions = balances(moved.totals.into_iter().collect());
            let text = if as_json {
                format!(
                    "{:#}",
                    json!({"keys": moved.keys, "records": moved.records, "dimensions": dimensions})
                )
            } else {
                format!(
                    "moved: {} records, {} idempotency keys, and every dimension has the balance that it had; start \
                     {} with ledger_url_file, and never on the old folder again",
                    moved.records,
                    moved.keys,
                    program::command()
                )
            };
            print(&text, Exit::Done)
        }
        Err(error) => complain(Exit::Io, &error.to_string()),
    }
}
