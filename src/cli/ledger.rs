//! `tollgate ledger list|show|dead-letters|replay|reconcile`: hour records and their balance.
//!
//! A running sidecar holds its ledger alone, so it is asked over the app server; where none runs, the file is opened.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Subcommand};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use crate::api::usage::{backlog, balances, shown, whole};
use crate::app::address;
use crate::cli::complain;
use crate::clock;
use crate::config::{self, Config, Flags, Installation, Mode, ProcessEnvironment, Role};
use crate::exit::Exit;
use crate::http::client::{Ask, ClientError, ask};
use crate::usage::ledger::view::{Looked, Standing};
use crate::usage::ledger::{FILE_NAME, Ledger, LedgerError, Replayed};
use crate::usage::policy::Window;

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

/// Records asked for at once, far below what an answer may hold.
const PAGE_RECORDS: usize = 500;

const IN_DOUBT: &str = "the record may have been billed: AWS never answered. Compare with the seller's reports; to count \
                        it all the same add --accept-double-billing (over HTTP accept_double_billing)";

const OTHER_FORM: &str = "in this hour usage of the account was counted in the other form, by license or without it; AWS \
                          would bill both, so replay it in an hour without such usage";

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
    let addr = address(&config.app.addr);
    let ask = async |question: Ask<'_>| {
        let question = Ask { authorization: authorization.as_deref(), ..question };
        match ask(&addr, question, ANSWER_TIMEOUT).await {
            Ok(answer) => Some(read(&answer)),
            Err(ClientError::Connect { .. }) => None,
            Err(error) => Some(Err((Exit::Unavailable, format!("app_addr: {error}")))),
        }
    };
    let records = async |state: &str| {
        let (mut pages, mut before) = (Vec::new(), String::new());
        loop {
            let path = format!("/v1/records?limit={PAGE_RECORDS}{state}{before}");
            let page = match ask(Ask::get(&path)).await? {
                Ok(page) => page,
                Err(complaint) => return Some(Err(complaint)),
            };
            pages.push(page["records"].as_array().cloned().unwrap_or_default());
            let Some(id) = page["before"].as_i64() else { break };
            before = format!("&before={id}");
        }
        // The newest page came first.
        Some(Ok(pages.into_iter().rev().flatten().collect::<Value>()))
    };
    match order {
        Order::List => records("").await,
        Order::DeadLetters => records("&state=dead").await,
        Order::Show { id } => ask(Ask::get(&format!("/v1/records/{id}"))).await,
        Order::Reconcile => ask(Ask::get("/v1/reconciliation")).await,
        Order::Replay { id, accept_double_billing } => {
            let order = json!({"accept_double_billing": accept_double_billing}).to_string();
            ask(Ask::post(&format!("/v1/dead-letters/{id}/replay"), order)).await
        }
    }
}

fn read(answer: &Response<Bytes>) -> Result<Value, Complaint> {
    let document: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
    match (answer.status(), document["code"].as_str()) {
        (StatusCode::OK, _) => Ok(document),
        (_, Some("InDoubt")) => Err((Exit::LedgerIo, IN_DOUBT.to_owned())),
        (status, _) => {
            let detail = document["detail"].as_str().unwrap_or("what answers there is no tollgate");
            Err((Exit::LedgerIo, format!("{status}: {detail}")))
        }
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
    let records = |standing: Option<Standing>| {
        let looked = Looked { standing, before: None };
        let newest_first = ledger.page(looked, usize::MAX, |record| shown(&record)).map_err(failed)?;
        Ok(newest_first.into_iter().rev().collect())
    };
    match order {
        Order::List => records(None),
        Order::DeadLetters => records(Some(Standing::Dead)),
        Order::Show { id } => {
            ledger.record(*id).map_err(failed)?.map(|record| whole(&record)).ok_or_else(|| none(*id))
        }
        Order::Reconcile => {
            let (totals, summary) = (ledger.totals().map_err(failed)?, ledger.summary().map_err(failed)?);
            let window = match config.product.mode {
                Mode::Saas => Window::BatchMeterUsage,
                _ => Window::MeterUsage,
            };
            let now = clock::system_now();
            Ok(json!({"dimensions": balances(totals), "backlog": backlog(&summary, window, now)}))
        }
        Order::Replay { id, accept_double_billing } => {
            let now = clock::system_now();
            match ledger.replay(*id, *accept_double_billing, now).map_err(failed)? {
                Replayed::Counted => Ok(json!({"id": id, "replayed": true})),
                Replayed::NotFound => Err((Exit::LedgerIo, format!("there is no dead letter {id}"))),
                Replayed::InDoubt => Err((Exit::LedgerIo, IN_DOUBT.to_owned())),
                Replayed::OtherForm => Err((Exit::LedgerIo, OTHER_FORM.to_owned())),
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
        (Order::Reconcile, true) => format!("{:#}", answer["dimensions"]),
        (_, true) => format!("{answer:#}"),
        (Order::Show { .. }, false) => sheet(answer),
        (Order::Replay { id, .. }, false) => format!("record {id} counts to the current hour"),
        (Order::Reconcile, false) => {
            format!("{}\n{}", table(BALANCE_COLUMNS, &answer["dimensions"]), left_to_do(&answer["backlog"]))
        }
        (Order::List | Order::DeadLetters, false) => table(RECORD_COLUMNS, answer),
    };
    println!("{}", text.trim_end());
    let rows = answer["dimensions"].as_array().into_iter().flatten();
    let unbalanced =
        matches!(order, Order::Reconcile) && rows.into_iter().any(|row| row["balanced"] == false);
    if unbalanced { Exit::Internal } else { Exit::Done }
}

/// The backlog in a sentence.
fn left_to_do(backlog: &Value) -> String {
    let number = |name: &str| backlog[name].as_u64().unwrap_or_default();
    let mut text = match number("unsent_records") {
        0 => "nothing sealed is unsent".to_owned(),
        unsent => {
            let minutes = number("window_closes_in_seconds") / 60;
            format!(
                "{unsent} sealed and unsent; the oldest is of {}, its window at AWS closes at {} (in {} h {} min)",
                cell(&backlog["oldest_unsent"]),
                cell(&backlog["window_closes"]),
                minutes / 60,
                minutes % 60,
            )
        }
    };
    if number("dead_letters") > 0 {
        let _ =
            write!(text, "; dead letters: {}, see `tollgate ledger dead-letters`", number("dead_letters"));
    }
    text
}

/// A value in a table: a dash for nothing, and no character that would move the terminal's cursor.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect(),
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| format!("{}={}", cell(&name.as_str().into()), cell(value)))
            .collect::<Vec<_>>()
            .join(" "),
        other => other.to_string(),
    }
}

/// One record: a line for each member, and one for each share.
fn sheet(record: &Value) -> String {
    let mut text = String::new();
    for (name, value) in record.as_object().into_iter().flatten() {
        match value.as_array() {
            None => {
                let _ = writeln!(text, "{name:<19}{}", cell(value));
            }
            Some(shares) => {
                for share in shares {
                    let tags = Some(cell(&share["tags"])).filter(|tags| !tags.is_empty());
                    let tags = tags.unwrap_or_else(|| "untagged".to_owned());
                    let _ = writeln!(text, "{:<19}{} {tags}", "share", cell(&share["quantity"]));
                }
            }
        }
    }
    text
}

/// Columns as wide as their widest value.
fn table(columns: &[&str], rows: &Value) -> String {
    let rows = rows.as_array().map(Vec::as_slice).unwrap_or_default();
    let mut lines: Vec<Vec<String>> = vec![columns.iter().map(|column| column.to_uppercase()).collect()];
    lines.extend(rows.iter().map(|row| columns.iter().map(|column| cell(&row[*column])).collect()));
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

    #[test]
    fn one_record_is_a_sheet_with_its_shares() {
        let record = json!({
            "code": null, "dimension": "a\u{1b}[2J",
            "shares": [{"tags": {"team": "a"}, "quantity": "1.5"}, {"tags": {}, "quantity": "2"}],
        });
        assert_eq!(
            sheet(&record),
            "code               -\ndimension          a\u{fffd}[2J\nshare              1.5 team=a\nshare              2 untagged\n"
        );
    }
}
