//! `tollgate support-bundle`: what a seller's support needs first, in one document without secrets.
//!
//! It is made from documents that hold no secret. In addition, each secret that the process can reach is searched for
//! in all texts and removed.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use crate::cli::screen::print;
use crate::cli::sidecar::Sidecar;
use crate::cli::{complain, doctor, ledger, license, probe};
use crate::config::{self, App, Environment, Flags, Installation, LedgerPlace};
use crate::exit::Exit;
use crate::program;
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

/// Enough for the running sidecar to sum up its ledger.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Writes the document; a part that cannot be read is replaced by a sentence that says why.
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
    let license = match config::load_app(&args.flags, env, installed) {
        Ok(app) => license_of(&app),
        Err(faults) => absent(faults.summary()),
    };
    let mut document = json!({
        "version": program::VERSION,
        "build": program::build(),
        "emulator_built_in": installed.emulator,
        "made_at": clock::system_now().to_string(),
        "doctor": runtime.block_on(doctor::examined(&args.flags, env, installed)),
        "sidecar": sidecar,
        "ledger": ledger,
        "license": license,
    });
    runtime.shutdown_background();
    redact(&mut document, &config::secrets(&args.flags, env, installed));
    let text = format!("{document:#}");
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

/// What the running sidecar reports: the state of its gate and its reason, and all its metrics. An answer that
/// is not tollgate's is left out.
async fn sidecar(gate: &probe::Gate) -> Value {
    let (entitlement, metrics) = match gate.entitlement(ANSWER_TIMEOUT).await {
        Ok(document) => (document, gate.get("/metrics", ANSWER_TIMEOUT).await),
        Err(line) => (absent(line.as_str()), Err(line)),
    };
    let metrics = match metrics {
        Ok(answer) => own_samples(&String::from_utf8_lossy(answer.body())),
        Err(line) => absent(line),
    };
    json!({"entitlement": entitlement, "metrics": metrics})
}

/// The samples of tollgate's own metrics.
fn own_samples(text: &str) -> Value {
    text.lines()
        .filter(|line| ["tollgate_", "process_"].iter().any(|prefix| line.starts_with(prefix)))
        .map(str::to_owned)
        .collect()
}

/// The balance of each dimension and the backlog.
fn ledger_of(place: &LedgerPlace) -> Value {
    let read = ledger::source::Source::find(place).and_then(|source| source.reconciliation());
    read.unwrap_or_else(|(_, text)| absent(text))
}

/// What the running sidecar knows of the contract's license.
fn license_of(app: &App) -> Value {
    let read = Sidecar::at(app).and_then(|sidecar| license::asked(&sidecar));
    read.unwrap_or_else(|(_, text)| absent(text))
}

/// Removes the secrets from each string. The document stays valid JSON, whatever the secrets are.
fn redact(value: &mut Value, secrets: &[String]) {
    match value {
        Value::String(text) => {
            for secret in secrets {
                if text.contains(secret.as_str()) {
                    *text = text.replace(secret.as_str(), "(removed)");
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| redact(item, secrets)),
        Value::Object(members) => members.values_mut().for_each(|member| redact(member, secrets)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
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
    fn a_secret_is_removed_and_the_document_stays_one() {
        let mut document = json!({"a": ["x\"y\\z and more"], "b": "plain", "n": true, "o": {"p": "x\"y\\z"}});
        redact(&mut document, &["x\"y\\z".to_owned(), "true".to_owned()]);
        let expected = json!({"a": ["(removed) and more"], "b": "plain", "n": true, "o": {"p": "(removed)"}});
        assert_eq!(document, expected);
    }

    #[test]
    fn only_tollgates_own_samples_are_taken() {
        let text = "# HELP tollgate_x y\ntollgate_x 1\nprocess_y 2\nother_app{key=\"secret\"} 1\n<html>";
        assert_eq!(own_samples(text), json!(["tollgate_x 1", "process_y 2"]));
    }
}
