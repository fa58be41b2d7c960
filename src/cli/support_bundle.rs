//! `tollgate support-bundle`: what a seller's support asks for first, in one document without secrets.
//!
//! It is put together from documents that hold no secret; each secret that the process can reach is looked for once
//! more in the whole, and taken out.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use crate::cli::screen::print;
use crate::cli::{complain, doctor, ledger, probe};
use crate::config::{self, Environment, Flags, Installation, LedgerPlace};
use crate::exit::Exit;
use tollgate_clock as clock;

/// Arguments of `support-bundle`.
#[derive(Debug, Args)]
pub struct BundleArgs {
    /// The file to write, which must not exist yet [default: standard output]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    flags: Flags,
}

/// The sidecar adds up its ledger for one of these answers.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Writes the document; what cannot be found out stands in it as a sentence.
pub fn run(args: &BundleArgs, env: &dyn Environment, installed: &Installation<'_>) -> Exit {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(Exit::Internal, &format!("cannot start a runtime: {error}")),
    };
    let sidecar = match config::load_probe(&args.flags, env, installed) {
        Ok(probe) => runtime.block_on(sidecar(&probe::Gate::of(&probe))),
        Err(faults) => absent(faults.summary()),
    };
    let ledger = match config::load_ledger_place(&args.flags, env, installed) {
        Ok(place) => ledger_of(&place),
        Err(faults) => absent(faults.summary()),
    };
    let document = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "emulator_built_in": installed.emulator,
        "made_at": clock::system_now().to_string(),
        "doctor": runtime.block_on(doctor::examined(&args.flags, env, installed)),
        "sidecar": sidecar,
        "ledger": ledger,
    });
    runtime.shutdown_background();
    let text = without(&format!("{document:#}"), &config::secrets(&args.flags, env, installed));
    match &args.output {
        None => print(&text, Exit::Done),
        Some(path) => match write_new(path, &text) {
            Ok(()) => Exit::Done,
            Err(error) => complain(
                Exit::Config,
                &format!(
                    "cannot write {}: {error}; name a new file in a folder that may be written",
                    path.display()
                ),
            ),
        },
    }
}

fn absent(why: impl Into<String>) -> Value {
    json!({"absent": why.into()})
}

/// What the running sidecar says of itself: why its gate is as it is, and everything that it counts.
async fn sidecar(gate: &probe::Gate) -> Value {
    let mut found = serde_json::Map::new();
    for (name, path) in [("entitlement", "/entitlement"), ("metrics", "/metrics")] {
        let told = match gate.get(path, ANSWER_TIMEOUT).await {
            Ok(body) if name == "metrics" => {
                let text = String::from_utf8_lossy(&body).into_owned();
                text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
            }
            Ok(body) => {
                serde_json::from_slice(&body).unwrap_or_else(|_| absent("what answers is no tollgate"))
            }
            Err(line) => absent(line),
        };
        found.insert(name.to_owned(), told);
    }
    found.into()
}

/// The balance of each dimension and the backlog.
fn ledger_of(place: &LedgerPlace) -> Value {
    let read = ledger::source::Source::find(place).and_then(|source| source.reconciliation());
    read.unwrap_or_else(|(_, text)| absent(text))
}

fn without(text: &str, secrets: &[String]) -> String {
    let mut text = text.to_owned();
    for secret in secrets {
        // As it stands in JSON.
        let written = Value::from(secret.as_str()).to_string();
        text = text.replace(written.trim_matches('"'), "(removed)");
    }
    text
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{text}")?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_removed_as_json_writes_it() {
        let text = format!("{:#}", json!({"a": "x\"y\\z", "b": "plain"}));
        let cleaned = without(&text, &["x\"y\\z".to_owned()]);
        assert_eq!(serde_json::from_str::<Value>(&cleaned).unwrap(), json!({"a": "(removed)", "b": "plain"}));
    }
}
