//! `tollgate license`: what the running sidecar knows of the contract's license, and which seats this pod holds.

use std::fmt::Write as _;

use clap::Args;
use serde_json::{Value, json};

use crate::cli::complain;
use crate::cli::ledger::table::{cell, laid_out};
use crate::cli::screen::{Screen, Style, print};
use crate::cli::sidecar::{Complaint, Sidecar, read, says, unanswered};
use crate::config::{self, Flags, Installation, ProcessEnvironment};
use crate::exit::Exit;
use tollgate_http::client::Ask;
use tollgate_time::Timestamp;

/// Arguments of `license`.
#[derive(Debug, Args)]
#[command(mut_args(|arg| { let read = READ.contains(&arg.get_id().as_str()); arg.hide(!read) }))]
pub struct LicenseArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: Flags,
}

/// The settings that `license` reads, and its own flag: its help lists these.
const READ: [&str; 4] = ["json", "config", "app_addr", "app_token_file"];

/// Asks the sidecar, and prints the answer.
pub fn run(args: &LicenseArgs) -> Exit {
    let app = match config::load_app(&args.flags, &ProcessEnvironment, &Installation::compiled_in()) {
        Ok(app) => app,
        Err(faults) => return complain(Exit::Config, &faults.told()),
    };
    match Sidecar::at(&app).and_then(|sidecar| asked(&sidecar)) {
        Ok(document) if args.json => print(&format!("{document:#}"), Exit::Done),
        Ok(document) => print(told(&document, Screen::of_stdout()).trim_end(), Exit::Done),
        Err((exit, complaint)) => complain(exit, &complaint),
    }
}

/// The running sidecar's document; no answer, or an answer of another program, is an error.
pub(in crate::cli) fn asked(sidecar: &Sidecar) -> Result<Value, Complaint> {
    if !sidecar.runs()? {
        let text = format!(
            "{}, and only a running sidecar knows its license: run this in its container (kubectl exec POD -c tollgate -- \
             /tollgate license), or give the address of its app server with --app-addr",
            sidecar.absence()
        );
        return Err((Exit::Unavailable, text));
    }
    let answer = sidecar.ask(Ask::get("/v1/license")).map_err(|error| unanswered(&error))?;
    // Versions before mode `contract` have no such path.
    if says(&answer, "NoContract") || says(&answer, "NotFound") {
        let text = "the running sidecar has no license to show: its mode is not contract";
        return Err((Exit::Config, text.to_owned()));
    }
    read(&answer)
}

/// Columns of the tables, each with the member that it shows.
const ENTITLEMENTS: [(&str, &str); 6] = [
    ("entitlement", "name"),
    ("unit", "unit"),
    ("sold", "max"),
    ("taken", "used"),
    ("this pod", "held"),
    ("value", "value"),
];
const HELD: [(&str, &str); 4] =
    [("held", "name"), ("quantity", "quantity"), ("until", "expires"), ("renewed", "renewed")];
const OTHERS: [(&str, &str); 5] = [
    ("other license", "arn"),
    ("status", "status"),
    ("received", "received"),
    ("from", "begin"),
    ("to", "end"),
];

/// The document for people: a line for each fact, then the tables that are not empty.
fn told(document: &Value, screen: Screen) -> String {
    let license = &document["license"];
    let now = moment(&document["now"]);
    let mut text = String::new();
    let mut fact = |name: &str, said: String| {
        let name = screen.styled(Style::Bold, &format!("{name:<FACT_WIDTH$}"));
        let _ = writeln!(text, "{name}{said}");
    };
    if license.is_null() {
        fact("license", "none valid for this product; tollgate probe ready says why".to_owned());
    } else {
        fact("license", cell(&license["arn"]));
        fact("status", format!("{}, {}", cell(&license["status"]), cell(&license["received"])));
        fact("valid", validity(license, now));
        fact("home region", cell(&license["home_region"]));
    }
    fact("model", cell(&document["model"]));
    for (name, member) in [("listed", "known_at"), ("granted", "granted_at")] {
        let at = &document[member];
        let ago = now.zip(moment(at)).map(|(now, at)| format!(" ({} ago)", short(now.since(at).as_secs())));
        let said = if at.is_null() { "not yet".to_owned() } else { cell(at) };
        fact(name, said + &ago.unwrap_or_default());
    }
    if document["emulated"] == json!(true) {
        fact("emulated", "yes: the emulator's answer, not AWS's".to_owned());
    }
    for (member, columns) in
        [("entitlements", &ENTITLEMENTS[..]), ("held", &HELD[..]), ("other_licenses", &OTHERS[..])]
    {
        let rows = document[member].as_array().map(Vec::as_slice).unwrap_or_default();
        if !rows.is_empty() {
            text.push('\n');
            text.push_str(&table(columns, rows, screen));
        }
    }
    text
}

/// The width of a fact's name with the gap after it.
const FACT_WIDTH: usize = 14;

fn table(columns: &[(&str, &str)], rows: &[Value], screen: Screen) -> String {
    let headings: Vec<&str> = columns.iter().map(|(heading, _)| *heading).collect();
    let line = |row: &Value| columns.iter().map(|(_, member)| shown(member, row)).collect();
    let lines: Vec<Vec<String>> = rows.iter().map(line).collect();
    laid_out(&headings, &lines, screen)
}

/// A cell: "no limit" for a quantity without one, "unknown" if AWS has not said how much of it is taken.
fn shown(member: &str, row: &Value) -> String {
    let tier = row["unit"] == "None";
    match (member, &row[member]) {
        ("max", Value::Null) if !tier => "no limit".to_owned(),
        ("used", Value::Null) if !tier => "unknown".to_owned(),
        ("held", _) if tier => "-".to_owned(),
        (_, value) => cell(value),
    }
}

fn validity(license: &Value, now: Option<Timestamp>) -> String {
    let begin = &license["begin"];
    let from = if begin.is_null() { String::new() } else { format!("from {} ", cell(begin)) };
    if license["end"].is_null() {
        return format!("{from}without an end");
    }
    let left = now.zip(moment(&license["end"])).map(|(now, end)| {
        if now < end {
            format!(" (ends in {})", short(end.since(now).as_secs()))
        } else {
            format!(" (ended {} ago)", short(now.since(end).as_secs()))
        }
    });
    format!("{from}to {}{}", cell(&license["end"]), left.unwrap_or_default())
}

fn moment(value: &Value) -> Option<Timestamp> {
    Timestamp::parse(value.as_str()?)
}

/// `seconds` in the largest unit of which there are at least two.
fn short(seconds: u64) -> String {
    for (unit, length) in [("days", 86_400), ("h", 3600), ("min", 60)] {
        if seconds >= 2 * length {
            return format!("{} {unit}", seconds / length);
        }
    }
    format!("{seconds} s")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> Value {
        json!({
            "model": "floating",
            "license": {
                "arn": "arn:aws:license-manager::294406891311:license:l-1", "status": "available",
                "received": "active", "begin": "2026-01-01T00:00:00Z", "end": "2027-01-01T00:00:00Z",
                "home_region": "us-east-1",
            },
            "entitlements": [
                {"name": "users", "unit": "Count", "max": 10, "used": 3, "held": 1, "value": null},
                {"name": "nodes", "unit": "Count", "max": null, "used": null, "held": 0, "value": null},
                {"name": "premium\u{1b}[2J", "unit": "None", "max": null, "used": null, "held": 0, "value": "gold"},
            ],
            "held": [{
                "name": "users", "unit": "Count", "quantity": 1, "expires": "2026-11-27T04:00:00Z",
                "renewed": "2026-11-27T03:00:00Z",
            }],
            "other_licenses": [],
            "known_at": "2026-11-27T03:00:00Z", "age_seconds": 90, "granted_at": "2026-11-27T03:00:00Z",
            "now": "2026-11-27T03:01:30Z", "emulated": false,
        })
    }

    #[test]
    fn people_read_facts_and_aligned_tables() {
        assert_eq!(
            told(&document(), Screen::PLAIN),
            "license       arn:aws:license-manager::294406891311:license:l-1\n\
             status        available, active\n\
             valid         from 2026-01-01T00:00:00Z to 2027-01-01T00:00:00Z (ends in 34 days)\n\
             home region   us-east-1\n\
             model         floating\n\
             listed        2026-11-27T03:00:00Z (90 s ago)\n\
             granted       2026-11-27T03:00:00Z (90 s ago)\n\
             \n\
             ENTITLEMENT  UNIT   SOLD      TAKEN    THIS POD  VALUE\n\
             users        Count  10        3        1         -\n\
             nodes        Count  no limit  unknown  0         -\n\
             premium\u{fffd}[2J  None   -         -        -         gold\n\
             \n\
             HELD   QUANTITY  UNTIL                 RENEWED\n\
             users  1         2026-11-27T04:00:00Z  2026-11-27T03:00:00Z\n"
        );
    }

    #[test]
    fn a_narrow_terminal_has_blocks() {
        let text = told(&document(), Screen::narrow(40));
        assert!(text.contains("\nENTITLEMENT  users\nUNIT         Count\nSOLD         10\n"), "{text}");
        assert!(text.contains("\nHELD      users\nQUANTITY  1\n"), "{text}");
    }

    #[test]
    fn a_license_that_does_not_count_is_listed_with_its_state() {
        let mut document = document();
        let mut other = document["license"].take();
        other["received"] = "disabled".into();
        document["other_licenses"] = json!([other]);
        document["entitlements"] = json!([]);
        document["held"] = json!([]);
        document["granted_at"] = Value::Null;
        let text = told(&document, Screen::PLAIN);
        assert!(
            text.starts_with("license       none valid for this product; tollgate probe ready says why\n"),
            "{text}"
        );
        assert!(text.contains("granted       not yet\n"), "{text}");
        assert!(text.contains("\nOTHER LICENSE "), "{text}");
        assert!(
            text.contains("  available  disabled  2026-01-01T00:00:00Z  2027-01-01T00:00:00Z\n"),
            "{text}"
        );
    }

    #[test]
    fn an_end_is_told_from_both_sides_and_none_is_too() {
        let license = |end: Value| json!({"begin": null, "end": end});
        let now = Timestamp::parse("2026-11-27T03:00:00Z");
        for (end, says) in [
            (json!("2026-11-27T05:30:00Z"), "to 2026-11-27T05:30:00Z (ends in 2 h)"),
            (json!("2026-11-25T03:00:00Z"), "to 2026-11-25T03:00:00Z (ended 2 days ago)"),
            (Value::Null, "without an end"),
        ] {
            assert_eq!(validity(&license(end), now), says);
        }
    }
}
