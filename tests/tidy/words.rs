//! Checks of text: words that must not stand, lengths, names of files, links.

use std::collections::BTreeSet;
use std::path::Path;

use crate::source::{Source, is_word};

/// Longest line. rustfmt holds code to 110 (rustfmt.toml) but leaves comments alone: they get a word more.
pub(crate) const COLUMNS_MAX: usize = 120;
/// `main.rs` parses, dispatches and returns an exit code.
pub(crate) const MAIN_LINES_MAX: usize = 60;

/// Put together here, as this file is checked too.
fn banned() -> Vec<(String, &'static str)> {
    let banned = [
        (["TO", "DO"], "finish it, or file an issue"),
        (["FIX", "ME"], "fix it, or file an issue"),
        (["XX", "X"], "say what is meant"),
        (["dbg", "!"], "use tracing"),
        (["todo", "!"], "unfinished code does not land"),
        (["unimplemented", "!"], "unfinished code does not land"),
        (["#[ign", "ore"], "a test that does not run protects nothing"),
        (["should_", "panic"], "assert the error: any panic would satisfy this"),
    ];
    banned.into_iter().map(|(parts, why)| (parts.concat(), why)).collect()
}

/// Words that must not stand in any file.
pub(crate) fn banned_words(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (word, why) in banned() {
        for line in lines_with(text, &word) {
            found.push(format!("{path}:{line}: {word}: {why}"));
        }
    }
    found
}

/// Paths that exist on one machine only.
pub(crate) fn machine_paths(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for name in ["work", "root", "farm"] {
        let needle = format!("/{name}/");
        for (number, line) in text.lines().enumerate() {
            let absolute = line.match_indices(&needle).any(|(at, _)| {
                let before = line[..at].chars().next_back();
                before.is_none_or(|c| !is_word(c) && c != '.')
            });
            if absolute {
                found.push(format!("{path}:{}: {needle}: a path of one machine", number + 1));
            }
        }
    }
    found
}

/// Reading a clock by asking an instant how old it is: no path shows it.
pub(crate) fn hidden_clocks(source: &Source) -> Vec<String> {
    if source.path == "crates/clock/src/lib.rs" {
        return Vec::new();
    }
    let lines = source.code.lines().enumerate().filter(|(_, line)| line.contains(".elapsed()"));
    lines
        .map(|(n, _)| {
            format!("{}:{}: .elapsed() reads a clock; subtract clock::monotonic()", source.path, n + 1)
        })
        .collect()
}

/// SQL outside the ledger.
pub(crate) fn stray_sql(source: &Source) -> Vec<String> {
    if source.path.starts_with("crates/ledger/") {
        return Vec::new();
    }
    let verbs = ["SELECT ", "INSERT INTO ", "INSERT OR ", "DELETE FROM ", "CREATE TABLE ", "PRAGMA "];
    let is_sql = |text: &str| verbs.iter().any(|verb| text.trim_start().starts_with(verb));
    let found = source.strings.iter().filter(|(_, text)| is_sql(text));
    found.map(|(line, _)| format!("{}:{line}: SQL belongs into crates/ledger", source.path)).collect()
}

/// A module says first what it is.
pub(crate) fn module_doc(source: &Source) -> Vec<String> {
    let first = source.text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let says = first.strip_prefix("//!").is_some_and(|text| text.trim().len() >= 10)
        || first == "#![doc = include_str!(\"../README.md\")]";
    if says {
        Vec::new()
    } else {
        vec![format!("{}:1: begin with `//!`: purpose and invariants", source.path)]
    }
}

/// Lines that do not fit. A literal is easier to find whole, and tables of test data may be as wide as their data.
pub(crate) fn long_lines(source: &Source) -> Vec<String> {
    let literal = |number: usize| {
        let mut spans = source.strings.iter().map(|(line, text)| *line..=line + text.matches('\n').count());
        spans.any(|span| span.contains(&number))
    };
    let long = |(n, line): &(usize, &str)| {
        line.chars().count() > COLUMNS_MAX && !source.is_test(n + 1) && !literal(n + 1)
    };
    let lines = source.text.lines().enumerate().filter(long);
    lines.map(|(n, _)| format!("{}:{}: longer than {COLUMNS_MAX} columns", source.path, n + 1)).collect()
}

/// A main file that has begun to think.
pub(crate) fn long_main(source: &Source) -> Vec<String> {
    let lines = source.text.lines().count();
    if source.path == "src/main.rs" && lines > MAIN_LINES_MAX {
        vec![format!("{}: {lines} lines, at most {MAIN_LINES_MAX}: move it into the library", source.path)]
    } else {
        Vec::new()
    }
}

/// File names that say nothing of what is inside.
pub(crate) fn empty_names(path: &str) -> Vec<String> {
    let banned = ["util", "common", "helper", "constant", "const", "type", "manager", "misc", "mod"];
    let empty = |part: &&str| {
        let name = part.strip_suffix(".rs").unwrap_or(part);
        banned.contains(&name.strip_suffix('s').unwrap_or(name))
    };
    let found = path.split('/').filter(empty);
    found.map(|name| format!("{path}: {name}: name a file after the noun it is about")).collect()
}

/// Links of a Markdown text to files that are not there.
pub(crate) fn dead_links(path: &str, text: &str, exists: impl Fn(&Path) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("](") {
        let target = text[at + 2..].split([')', ' ', '\n']).next().unwrap_or_default();
        let file = target.split('#').next().unwrap_or_default();
        if file.is_empty() || file.contains("://") || file.starts_with("mailto:") {
            continue;
        }
        let folder = Path::new(path).parent().unwrap_or_else(|| Path::new(""));
        if !exists(&folder.join(file)) {
            found.push(format!("{path}: the link {target} leads nowhere"));
        }
    }
    found
}

/// Whole words of a text that start so and go on in the given characters.
pub(crate) fn names(text: &str, prefix: &str, goes_on: fn(char) -> bool) -> BTreeSet<String> {
    text.match_indices(prefix)
        .filter(|(at, _)| !text[..*at].chars().next_back().is_some_and(is_word))
        .map(|(at, _)| {
            let name = &text[at..];
            let end = name.find(|c| !goes_on(c)).unwrap_or(name.len());
            name[..end].to_owned()
        })
        .collect()
}

/// Lines on which a word stands by itself.
fn lines_with(text: &str, word: &str) -> Vec<usize> {
    let alone = |line: &str| {
        line.match_indices(word).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            let after = line[at + word.len()..].chars().next();
            let ends_in_word = word.chars().next_back().is_some_and(is_word);
            !(before.is_some_and(is_word) || ends_in_word && after.is_some_and(is_word))
        })
    };
    text.lines().enumerate().filter(|(_, line)| alone(line)).map(|(n, _)| n + 1).collect()
}
