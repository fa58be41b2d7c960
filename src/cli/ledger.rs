//! `tollgate ledger list|show|dead-letters|replay|reconcile`: hour records and their balance.
//!
//! A running sidecar holds its ledger alone, so it is asked over the app server; where none runs, the file is opened.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Subcommand};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use crate::api::usage::{balance, shown};
use crate::app::address;
use crate::cli::complain;
use crate::clock;
use crate::config::{self, Config, Flags, Installation, Mode, ProcessEnvironment, Role};
use crate::exit::Exit;
use crate::http::client::{Ask, ClientError, ask};
use crate::usage::ledger::{FILE_NAME, Ledger, LedgerError, Replayed};

/// Reading ten thousand records from a slow disk.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// Arguments of `ledger`.
#[derive(Debug, Args)]
pub struct LedgerArgs {
    #[command(subcommand)]
    order: Order,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Debug, Subcommand)]
enum Order {
    /// Hour records and where they stand, oldest first
    List,
    /// One record, whole
    Show {
        /// Its number
        id: i64,
    },
    /// Records that will not be billed unless they are replayed
    DeadLetters,
    /// Count a dead letter's quantity to the current hour
    Replay {
        /// Its number
        id: i64,
        /// Replay it although AWS may have billed it
        #[arg(long)]
        accept_double_billing: bool,
    },
    /// For each dimension: accepted = billed + pending + dead
    Reconcile,
}

/// What went wrong: the exit code and what is said.
type Complaint = (Exit, String);

/// Asks the sidecar, or else the file; prints.
pub fn run(args: &LedgerArgs) -> Exit {
    let installed = Installation::compiled_in();
    let config = match config::load(&args.flags, &ProcessEnvironment, &installed, Role::Inspect) {
        Ok(loaded) => loaded.config,
        Err(faults) => return complain(Exit::Config, &format!("{faults}\n{}", faults.summary())),
    };
    if config.product.mode == Mode::Hourly {
        let text = "mode: there is no ledger in mode hourly, where AWS meters by itself";
        return complain(Exit::Config, text);
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(Exit::Internal, &format!("cannot start a runtime: {error}")),
    };
    let answer = match runtime.block_on(ask_sidecar(&config, &args.order)) {
        Some(answer) => answer,
        None => ask_file(&config, &args.order),
    };
    match answer {
        Ok(answer) => print(&args.order, &answer, args.json),
        Err((exit, complaint)) => complain(exit, &complaint),
    }
}

/// `None` where no sidecar runs.
async fn ask_sidecar(config: &Config, order: &Order) -> Option<Result<Value, Complaint>> {
    let authorization = config.app.token.as_ref().map(|token| format!("Bearer {}", token.expose()));
    let path = match order {
        Order::Replay { id, .. } => format!("/v1/dead-letters/{id}/replay"),
        Order::Reconcile => "/v1/reconciliation".to_owned(),
        Order::List | Order::Show { .. } | Order::DeadLetters => "/v1/records".to_owned(),
    };
    let question = match order {
        Order::Replay { accept_double_billing, .. } => {
            Ask::post(&path, json!({"accept_double_billing": accept_double_billing}).to_string())
        }
        _ => Ask::get(&path),
    };
    let question = Ask { authorization: authorization.as_deref(), ..question };
    match ask(&address(&config.app.addr), question, ANSWER_TIMEOUT).await {
        Ok(answer) => Some(read(order, &answer)),
        Err(ClientError::Connect { .. }) => None,
        Err(error) => Some(Err((Exit::Unavailable, format!("app_addr: {error}")))),
    }
}

fn read(order: &Order, answer: &Response<Bytes>) -> Result<Value, Complaint> {
    let document: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
    if answer.status() != StatusCode::OK {
        let detail = document["detail"].as_str().unwrap_or("what answers there is no tollgate");
        return Err((Exit::LedgerIo, format!("{}: {detail}", answer.status())));
    }
    let records = document["records"].as_array().cloned().unwrap_or_default();
    match order {
        Order::Show { id } => records.into_iter().find(|record| record["id"] == *id).ok_or_else(|| none(*id)),
        Order::DeadLetters => Ok(records.into_iter().filter(|record| record["state"] == "dead").collect()),
        Order::List => Ok(records.into()),
        Order::Reconcile => Ok(document["dimensions"].clone()),
        Order::Replay { .. } => Ok(document),
    }
}

fn none(id: i64) -> Complaint {
    (Exit::LedgerIo, format!("there is no record {id}; `tollgate ledger list` shows all"))
}

fn ask_file(config: &Config, order: &Order) -> Result<Value, Complaint> {
    let failed = |error: LedgerError| (Exit::LedgerIo, error.to_string());
    let folder = config.state.dir.path().map(ToOwned::to_owned).unwrap_or_default();
    if !folder.join(FILE_NAME).exists() {
        let text = format!("no sidecar answers, and there is no ledger in {}", folder.display());
        return Err((Exit::LedgerIo, text));
    }
    let mut ledger = Ledger::open_existing(&folder).map_err(failed)?;
    match order {
        Order::List => ledger.records(usize::MAX).map(|all| all.iter().map(shown).collect()).map_err(failed),
        Order::DeadLetters => {
            ledger.dead_letters(usize::MAX).map(|all| all.iter().map(shown).collect()).map_err(failed)
        }
        Order::Show { id } => {
            ledger.record(*id).map_err(failed)?.map(|record| shown(&record)).ok_or_else(|| none(*id))
        }
        Order::Reconcile => {
            let totals = ledger.totals().map_err(failed)?;
            Ok(totals.into_iter().map(|(dimension, totals)| balance(&dimension, totals)).collect())
        }
        Order::Replay { id, accept_double_billing } => {
            let now = clock::system_now();
            match ledger.replay(*id, *accept_double_billing, now).map_err(failed)? {
                Replayed::Counted => Ok(json!({"id": id, "replayed": true})),
                Replayed::NotFound => Err((Exit::LedgerIo, format!("there is no dead letter {id}"))),
                Replayed::InDoubt => Err((
                    Exit::LedgerIo,
                    format!(
                        "record {id} may have been billed: AWS never answered. Compare with the seller's reports; to \
                         count it all the same add --accept-double-billing"
                    ),
                )),
            }
        }
    }
}

/// Columns of a table: title and member.
const RECORD_COLUMNS: &[&str] =
    &["id", "hour", "dimension", "customer", "quantity", "state", "attempts", "code", "late_from"];
const BALANCE_COLUMNS: &[&str] = &["dimension", "accepted", "billed", "pending", "dead", "balanced"];

#[expect(clippy::print_stdout, reason = "what was asked for")]
fn print(order: &Order, answer: &Value, as_json: bool) -> Exit {
    let text = match (order, as_json) {
        (_, true) | (Order::Show { .. }, false) => format!("{answer:#}"),
        (Order::Replay { id, .. }, false) => format!("record {id} counts to the current hour"),
        (Order::Reconcile, false) => table(BALANCE_COLUMNS, answer),
        (Order::List | Order::DeadLetters, false) => table(RECORD_COLUMNS, answer),
    };
    println!("{}", text.trim_end());
    let unbalanced = matches!(order, Order::Reconcile)
        && answer.as_array().into_iter().flatten().any(|row| row["balanced"] == false);
    if unbalanced { Exit::Internal } else { Exit::Done }
}

/// Columns as wide as their widest value.
fn table(columns: &[&str], rows: &Value) -> String {
    let cell = |row: &Value, column: &str| match &row[column] {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let rows = rows.as_array().map(Vec::as_slice).unwrap_or_default();
    let mut lines: Vec<Vec<String>> = vec![columns.iter().map(|column| column.to_uppercase()).collect()];
    lines.extend(rows.iter().map(|row| columns.iter().map(|column| cell(row, column)).collect()));
    let width = |index: usize| lines.iter().map(|line| line[index].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let cells: Vec<String> =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_line_for_each_record_and_a_dash_for_nothing() {
        let rows = json!([{"dimension": "requests", "accepted": "12.5", "billed": "0", "balanced": true}]);
        assert_eq!(
            table(BALANCE_COLUMNS, &rows),
            "DIMENSION  ACCEPTED  BILLED  PENDING  DEAD  BALANCED\nrequests   12.5      0       -        -     true\n"
        );
    }
}
