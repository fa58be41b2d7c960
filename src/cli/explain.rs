//! `tollgate explain CODE`: the runbook's entry for a reason code, or all codes that have one.

use clap::Args;
use serde_json::{Value, json};

use crate::cli::complain;
use crate::cli::screen::{Screen, Style, print};
use crate::exit::Exit;
use crate::runbook::{self, Entry};

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// A code, state, exit code or log event, as a log line, `kubectl describe pod` or `tollgate probe ready` shows it,
    /// or a pod's status such as Init:1/2; without one, all codes
    code: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints what the runbook says.
pub fn run(args: &ExplainArgs) -> Exit {
    let Some(code) = &args.code else { return list(args.json) };
    let Some((entry, other)) = runbook::find(code) else { return row(code, args.json) };
    let entries = [Some(entry), other];
    let entries = entries.into_iter().flatten();
    if args.json {
        let all: Vec<Value> =
            entries.map(|Entry { code, text }| json!({"code": code, "text": text})).collect();
        return print(&format!("{:#}", Value::from(all)), Exit::Done);
    }
    let screen = Screen::of_stdout();
    let shown = entries.map(|entry| {
        let lines = runbook::plain(entry.text);
        let lines = lines
            .iter()
            .map(|line| if line.starts_with(['|', ' ']) { line.clone() } else { screen.wrapped(line, 0) });
        let lines: Vec<String> =
            std::iter::once(screen.styled(Style::Bold, entry.code)).chain(lines).collect();
        lines.join("\n")
    });
    print(&shown.collect::<Vec<_>>().join("\n\n"), Exit::Done)
}

/// Prints the table row of a state, an exit code or an event of the log.
fn row(name: &str, json: bool) -> Exit {
    let lines = runbook::row_of(name);
    if lines.is_empty() {
        return unknown(name);
    }
    if json {
        return print(&format!("{:#}", json!([{"code": name, "text": lines.join("\n")}])), Exit::Done);
    }
    let screen = Screen::of_stdout();
    let lines: Vec<String> = lines.iter().map(|line| screen.wrapped(line, 0)).collect();
    print(&lines.join("\n"), Exit::Done)
}

fn list(json: bool) -> Exit {
    let codes: Vec<&str> = runbook::entries().iter().map(|entry| entry.code).collect();
    let text = if json { format!("{:#}", Value::from(codes)) } else { codes.join("\n") };
    print(&text, Exit::Done)
}

/// A code that differs from the text in at most this many letters is suggested.
const LETTERS_MAX: usize = 2;

/// A code that begins with the text is suggested from this many letters on: fewer fit too many codes.
const PREFIX_MIN: usize = 3;

/// How much of an unknown code is shown: a pasted text may be of any length. No code is as long.
const CODE_SHOWN: usize = 64;

fn unknown(code: &str) -> Exit {
    complain(Exit::Usage, &no_entry(code))
}

fn no_entry(code: &str) -> String {
    let code: String = code.chars().take(CODE_SHOWN).flat_map(char::escape_debug).collect();
    let entries = runbook::entries();
    let typed = code.to_lowercase();
    let far = |entry: &&Entry<'_>| strsim::levenshtein(&entry.code.to_lowercase(), &typed);
    let near = entries.iter().min_by_key(far).filter(|entry| far(entry) <= LETTERS_MAX);
    let begun =
        |entry: &&Entry<'_>| typed.len() >= PREFIX_MIN && entry.code.to_lowercase().starts_with(&typed);
    let meant = near.or_else(|| entries.iter().find(begun));
    let meant = meant.map_or_else(String::new, |entry| format!(" (did you mean {}?)", entry.code));
    format!("the runbook has no entry {code}{meant}; `tollgate explain` lists all codes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_code_is_shown_short_and_escaped() {
        let line = no_entry(&format!("\u{1b}[31m\u{202e}\n{}", "x".repeat(5000)));
        assert!(line.starts_with("the runbook has no entry \\u{1b}[31m\\u{202e}\\nxxx"), "{line}");
        assert!(line.len() < 200, "{line}");
        assert!(no_entry("UsageUnreportd").contains("did you mean UsageUnreported?"));
    }
}
