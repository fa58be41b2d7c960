//! `tollgate ledger …`: hour records, their balance, open usage, and repairs of dead letters.
//!
//! A running sidecar has its ledger locked, so it is asked over the app server; if none runs, the file is opened.

mod evidence;
mod moving;
pub(in crate::cli) mod source;
pub(in crate::cli) mod table;

use std::fmt::Write as _;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::api::listing::Listing;
use crate::api::repair::{Action, OTHER_FORM, RepairRequest};
use crate::api::{csv, query};
use crate::cli::complain;
use crate::cli::screen::{Screen, print};
use crate::cli::sidecar::Complaint;
use crate::config::{self, Flags, Installation, ProcessEnvironment, Role};
use crate::exit::Exit;
use evidence::Witness;
use source::Source;
use table::{cell, cells, laid_out, sheet, table};
use tollgate_ledger::repair::Repaired;
use tollgate_ledger::view::{Looked, ShownState};
use tollgate_marketplace::Hour;

/// Arguments of `ledger`. Settings may be given before and after the subcommand.
#[derive(Debug, Args)]
#[command(mut_args(|arg| { let read = READ.contains(&arg.get_id().as_str()); arg.global(true).hide(!read) }))]
pub struct LedgerArgs {
    #[command(subcommand)]
    command: LedgerCommand,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Debug, Subcommand)]
enum LedgerCommand {
    /// List hour records and their states, oldest first
    List {
        #[command(flatten)]
        filter: Filter,
        /// Only records in this state, such as dead, in_doubt, unconfirmed or discarded
        #[arg(long, value_parser = state)]
        state: Option<ShownState>,
        #[command(flatten)]
        output: Output,
    },
    /// Show one record in full: its shares by tag, the record it was carried to, and those carried into it
    Show {
        /// The record's number
        id: i64,
    },
    /// List dead letters: records that are not billed unless somebody acts
    DeadLetters {
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        output: Output,
    },
    /// List usage of hours that are not sealed yet by customer, dimension and tags, and what would be billed of it if
    /// they closed now
    Open {
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        output: Output,
    },
    /// Add the quantity of dead letters to the current hour, which is sent when it has ended
    Replay(Replay),
    /// Mark a record as billed, when the seller's reports or CloudTrail show that it was (needs ledger_repair)
    Confirm(Close),
    /// Close a dead letter without billing it (needs ledger_repair)
    Discard(Close),
    /// List every repair with its note, oldest first
    Audit {
        #[command(flatten)]
        output: Output,
    },
    /// Check for each dimension that accepted + rounded up = billed + pending + dead + discarded + remainder; or, with
    /// AWS's log, which records in doubt were billed
    Reconcile {
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        witness: Witness,
    },
    /// Move the ledger of a stopped sidecar from state_dir into a PostgreSQL database, for good (tollgate-saas only)
    #[command(hide = crate::engine::installed().is_none())]
    Move {
        /// The database's URL; without it, the URL in the file of ledger_url_file
        #[arg(long, value_name = "URL")]
        to: Option<String>,
    },
}

impl LedgerCommand {
    /// Whether it changes the ledger; all others leave its file as it is.
    const fn writes(&self) -> bool {
        match self {
            Self::Replay(_) | Self::Confirm(_) | Self::Discard(_) => true,
            Self::Reconcile { witness, .. } => witness.applies(),
            _ => false,
        }
    }

    /// Whether it needs the product and its rules: the whole configuration.
    const fn needs_product(&self) -> bool {
        match self {
            Self::Reconcile { witness, .. } => witness.is_given(),
            _ => self.writes(),
        }
    }
}

/// The settings that `ledger` reads, and its own flag: its help lists these.
const READ: [&str; 6] = ["json", "config", "mode", "app_addr", "app_token_file", "state_dir"];

/// Which records.
#[derive(Debug, Args)]
struct Filter {
    /// Only of this customer: account, license ARN or identifier
    #[arg(long)]
    customer: Option<String>,
    /// Only of this dimension
    #[arg(long)]
    dimension: Option<String>,
    /// Only of this hour, such as 2026-11-24T08
    #[arg(long, value_parser = hour)]
    hour: Option<Hour>,
}

impl Filter {
    fn looked(&self, state: Option<ShownState>) -> Looked {
        Looked {
            state,
            before: None,
            customer: self.customer.clone(),
            dimension: self.dimension.clone(),
            hour: self.hour,
        }
    }
}

#[derive(Debug, Clone, Copy, Args)]
struct Output {
    /// Print CSV
    #[arg(long, conflicts_with = "json")]
    csv: bool,
}

#[derive(Debug, Args)]
struct Replay {
    /// The records' numbers, or --all
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<i64>,
    /// Replay all dead letters that were certainly not billed
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    filter: Filter,
    /// Replay a record although it may have been billed
    #[arg(long, conflicts_with = "all")]
    accept_double_billing: bool,
    /// Add the quantity to this dimension instead (needs ledger_repair)
    #[arg(long, value_name = "DIMENSION")]
    to_dimension: Option<String>,
    /// The reason, kept in the audit
    #[arg(long)]
    note: Option<String>,
}

#[derive(Debug, Args)]
struct Close {
    /// The record's number
    id: i64,
    /// The reason, kept in the audit
    #[arg(long)]
    note: String,
}

fn hour(text: &str) -> Result<Hour, &'static str> {
    query::hour(text).ok_or("an hour looks like 2026-11-24T08 or 2026-11-24T08:00:00Z")
}

fn state(text: &str) -> Result<ShownState, String> {
    query::shown_state(text).ok_or_else(|| {
        let all: Vec<&str> = ShownState::ALL.into_iter().map(ShownState::as_str).collect();
        format!("a state is one of {}", all.join(", "))
    })
}

const IN_DOUBT: &str = "the record may have been billed: AWS never answered, or somebody else reported its hour. \
                        Compare with the seller's reports; to replay it anyway add --accept-double-billing";

/// Runs the subcommand on the sidecar, or on the file if none runs, and prints the result.
pub fn run(args: &LedgerArgs) -> Exit {
    let installed = Installation::compiled_in();
    if let LedgerCommand::Move { to } = &args.command {
        return moving::run(to.as_deref(), &args.flags, args.json, &installed);
    }
    let mut product = None;
    let source = if args.command.needs_product() {
        config::load(&args.flags, &ProcessEnvironment, &installed, Role::Ledger).map(|loaded| {
            let config = loaded.config;
            product = config.product.product_code.as_ref().map(ToString::to_string);
            if args.command.writes() { Source::to_repair(&config) } else { Source::to_read(&config) }
        })
    } else {
        config::load_ledger_place(&args.flags, &ProcessEnvironment, &installed)
            .map(|place| Source::find(&place))
    };
    let source = match source {
        Ok(source) => source,
        Err(faults) => return complain(Exit::Config, &faults.told()),
    };
    let product = product.unwrap_or_default();
    let done = source.and_then(|mut source| perform(&args.command, &mut source, &product, args.json));
    match done {
        Ok((exit, text)) => print(text.trim_end(), exit),
        Err((exit, complaint)) => complain(exit, &complaint),
    }
}

/// Runs a subcommand; returns the text to print.
fn perform(
    command: &LedgerCommand,
    source: &mut Source,
    product_code: &str,
    as_json: bool,
) -> Result<(Exit, String), Complaint> {
    let listing = |listing: Listing, looked, output: &Output, columns: &[&str]| {
        let text = match (as_json, output.csv) {
            (true, _) => json_array(source.list(listing, looked, |row| format!("{row:#}"))?),
            (_, true) => {
                let lines = source.list(listing, looked, |row| csv::line(listing.columns(), &row))?;
                lines.into_iter().fold(csv::heading(listing.columns()), |text, line| text + &line)
            }
            _ => {
                let lines = source.list(listing, looked, |row| cells(columns, &row))?;
                laid_out(columns, &lines, Screen::of_stdout())
            }
        };
        Ok((Exit::Done, text))
    };
    match command {
        LedgerCommand::List { filter, state, output } => {
            listing(Listing::Records, filter.looked(*state), output, RECORD_COLUMNS)
        }
        LedgerCommand::DeadLetters { filter, output } => {
            listing(Listing::Records, filter.looked(Some(ShownState::Dead)), output, RECORD_COLUMNS)
        }
        LedgerCommand::Open { filter, output } => {
            listing(Listing::Open, filter.looked(None), output, OPEN_COLUMNS)
        }
        LedgerCommand::Audit { output } => {
            listing(Listing::Audit, Looked::default(), output, Listing::Audit.columns())
        }
        LedgerCommand::Show { id } => {
            let record = source.show(*id)?;
            Ok((Exit::Done, if as_json { format!("{record:#}") } else { sheet(&record) }))
        }
        LedgerCommand::Reconcile { witness, .. } if witness.is_given() => {
            evidence::run(witness, product_code, source, as_json)
        }
        LedgerCommand::Reconcile { output, .. } => Ok(reconciled(&source.reconciliation()?, output, as_json)),
        LedgerCommand::Replay(replay) => replayed(replay, source, as_json),
        LedgerCommand::Confirm(close) => closed(close, Action::Confirm, source, as_json),
        LedgerCommand::Discard(close) => closed(close, Action::Discard, source, as_json),
        LedgerCommand::Move { .. } => Err((Exit::Internal, "a move reads no ledger here".to_owned())),
    }
}

/// An array of documents, as `{:#}` writes it. It is indented line by line: a string in JSON has no line end in it.
fn json_array(documents: Vec<String>) -> String {
    if documents.is_empty() {
        return "[]".to_owned();
    }
    let mut text = String::new();
    for document in documents {
        text.push_str(if text.is_empty() { "[\n  " } else { ",\n  " });
        text.push_str(&document.replace('\n', "\n  "));
    }
    text + "\n]"
}

/// Columns of a table.
const RECORD_COLUMNS: &[&str] =
    &["id", "hour", "dimension", "customer", "quantity", "state", "attempts", "code", "late_from"];
const OPEN_COLUMNS: &[&str] = &[
    "hour",
    "dimension",
    "customer",
    "tags",
    "quantity",
    "unrounded",
    "would_bill",
    "hour_taken_up",
    "hour_would_bill",
    "rule",
    "late_from",
];
const BALANCE_COLUMNS: &[&str] = &[
    "dimension",
    "accepted",
    "rounded_up",
    "billed",
    "pending",
    "dead",
    "discarded",
    "remainder",
    "balanced",
];

fn reconciled(answer: &Value, output: &Output, as_json: bool) -> (Exit, String) {
    let rows = answer["dimensions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = match (as_json, output.csv) {
        (true, _) => format!("{:#}", answer["dimensions"]),
        (_, true) => csv::document(BALANCE_COLUMNS, rows),
        _ => format!(
            "{}\n{}",
            table(BALANCE_COLUMNS, rows, Screen::of_stdout()),
            left_to_do(&answer["backlog"])
        ),
    };
    let unbalanced: Vec<String> =
        rows.iter().filter(|row| row["balanced"] == false).map(|row| cell(&row["dimension"])).collect();
    if unbalanced.is_empty() {
        return (Exit::Done, text);
    }
    // Not on standard output, which may be CSV.
    let names = unbalanced.join(", ");
    let why = format!(
        "the ledger does not balance in {names}: a fault of tollgate; send a `tollgate support-bundle`"
    );
    (complain(Exit::Internal, &why), text)
}

fn closed(
    close: &Close,
    action: Action,
    source: &mut Source,
    as_json: bool,
) -> Result<(Exit, String), Complaint> {
    let request = RepairRequest { note: Some(close.note.clone()), ..RepairRequest::default() };
    match source.repair(close.id, action, &request)? {
        Repaired::Done => Ok((Exit::Done, one_done(close.id, action, as_json))),
        Repaired::NotFound | Repaired::InDoubt | Repaired::OtherForm => Err(none(close.id, action)),
    }
}

fn one_done(id: i64, action: Action, as_json: bool) -> String {
    match action {
        _ if as_json => format!("{:#}", json!({"id": id, action.done(): true})),
        Action::Replay => format!("record {id} counts to the current hour"),
        Action::Confirm | Action::Discard => format!("record {id} is {}", action.done()),
    }
}

fn none(id: i64, action: Action) -> Complaint {
    let what = match action {
        Action::Replay | Action::Confirm => "dead letter, nor an unconfirmed record,",
        Action::Discard => "dead letter",
    };
    (Exit::Usage, format!("there is no {what} {id}; `tollgate ledger show {id}` shows its state"))
}

fn replayed(replay: &Replay, source: &mut Source, as_json: bool) -> Result<(Exit, String), Complaint> {
    let request = RepairRequest {
        accept_double_billing: replay.accept_double_billing,
        to_dimension: replay.to_dimension.clone(),
        note: replay.note.clone(),
    };
    if !replay.all && replay.filter.looked(None) != Looked::default() {
        let text =
            "--customer, --dimension and --hour choose among --all dead letters; with numbers leave them out";
        return Err((Exit::Usage, text.to_owned()));
    }
    if let [id] = replay.ids[..] {
        return match source.repair(id, Action::Replay, &request)? {
            Repaired::Done => Ok((Exit::Done, one_done(id, Action::Replay, as_json))),
            Repaired::InDoubt => Err((Exit::Usage, IN_DOUBT.to_owned())),
            Repaired::OtherForm => Err((Exit::Usage, OTHER_FORM.to_owned())),
            Repaired::NotFound => Err(none(id, Action::Replay)),
        };
    }
    let ids = if replay.all {
        let dead = replay.filter.looked(Some(ShownState::Dead));
        source.list(Listing::Records, dead, |row| row["id"].as_i64())?.into_iter().flatten().collect()
    } else {
        replay.ids.clone()
    };
    let (mut done, mut in_doubt, mut missing, mut other_form) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for id in ids {
        match source.repair(id, Action::Replay, &request)? {
            Repaired::Done => done.push(id),
            Repaired::InDoubt => in_doubt.push(id),
            Repaired::NotFound => missing.push(id),
            Repaired::OtherForm => other_form.push(id),
        }
    }
    // `--all` skips records that may have been billed, by intent; a number that was given must be replayed.
    let complete = other_form.is_empty() && (replay.all || in_doubt.is_empty() && missing.is_empty());
    let exit = if complete { Exit::Done } else { Exit::Usage };
    if as_json {
        let document = json!({
            "replayed": done, "may_have_been_billed": in_doubt, "not_found": missing, "other_form": other_form,
        });
        return Ok((exit, format!("{document:#}")));
    }
    let mut text = format!("records that count to the current hour now: {}\n", done.len());
    if !in_doubt.is_empty() {
        let _ = writeln!(text, "not replayed, because they may have been billed: {}", numbers(&in_doubt));
        let _ = writeln!(
            text,
            "compare them with the seller's reports; then confirm, or replay with --accept-double-billing"
        );
    }
    if !other_form.is_empty() {
        let _ = writeln!(text, "not replayed: {}; {OTHER_FORM}", numbers(&other_form));
    }
    if !missing.is_empty() {
        let _ = writeln!(text, "no dead letters: {}", numbers(&missing));
    }
    Ok((exit, text))
}

/// Most record numbers in a sentence.
const NUMBERS_SHOWN: usize = 20;

fn numbers(ids: &[i64]) -> String {
    let shown: Vec<String> = ids.iter().take(NUMBERS_SHOWN).map(ToString::to_string).collect();
    let more = ids.len() - shown.len();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", shown.join(" "))
}

/// The backlog in a sentence.
fn left_to_do(backlog: &Value) -> String {
    let number = |name: &str| backlog[name].as_u64().unwrap_or_default();
    let mut text = match number("unsent_records") {
        0 => "no sealed record is unsent".to_owned(),
        unsent => {
            let (oldest, closes) = (cell(&backlog["oldest_unsent"]), cell(&backlog["window_closes"]));
            let seconds = number("window_closes_in_seconds");
            let left = seconds / 60;
            let closing = if seconds == 0 {
                format!("closed at {closes}")
            } else {
                format!("closes at {closes} (in {} h {} min)", left / 60, left % 60)
            };
            format!("{unsent} sealed and unsent; the oldest is of {oldest}, its window at AWS {closing}")
        }
    };
    if number("dead_letters") > 0 {
        let _ =
            write!(text, "; dead letters: {}, see `tollgate ledger dead-letters`", number("dead_letters"));
    }
    text
}
