//! Names that operators rely on: what the sources use and what the documents promise must be the same.

use std::collections::BTreeSet;

use crate::source::Source;
use crate::words::names;

/// The bare prefix is how names are put together; the revision is read when the binary is built, not when it runs.
const NOT_SETTINGS: [&str; 2] = ["TOLLGATE_", "TOLLGATE_REVISION"];

/// Environment variables that the sources name and the document does not.
///
/// A setting is named by its row. A name that ends in `_` stands for a family (`TOLLGATE_SERVICE_`), which the document
/// must name too.
pub(crate) fn undocumented_keys(sources: &[Source], document: &str) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        for (line, text) in source.strings.iter().filter(|(line, _)| !source.is_test(*line)) {
            for key in keys(text) {
                let row = format!("| `{}` |", key.trim_start_matches("TOLLGATE_").to_ascii_lowercase());
                let known = document.contains(&key) || document.contains(&row);
                if !NOT_SETTINGS.contains(&key.as_str()) && !known {
                    found.push(format!("{}:{line}: {key} is not in docs/CONFIGURATION.md", source.path));
                }
            }
        }
    }
    found
}

/// Environment variables that the document promises and nothing reads. A setting is read by its lower-case name.
pub(crate) fn unread_keys(sources: &[Source], document: &str) -> Vec<String> {
    let mut known = BTreeSet::new();
    for (_, text) in sources.iter().flat_map(|source| &source.strings) {
        known.insert(text.clone());
        known.extend(keys(text));
    }
    keys(document)
        .into_iter()
        .filter(|key| !known.contains(key))
        .filter(|key| !known.contains(&key.trim_start_matches("TOLLGATE_").to_ascii_lowercase()))
        .map(|key| format!("docs/CONFIGURATION.md: {key} is read nowhere in src"))
        .collect()
}

fn keys(text: &str) -> BTreeSet<String> {
    names(text, "TOLLGATE_", |c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

/// Metrics that only one side knows, and reserved ones that exist.
///
/// The document's tables name them in their first column. Under the heading `Reserved` stand names that are fixed but
/// not served yet.
pub(crate) fn metric_differences(sources: &[Source], document: &str) -> Vec<String> {
    let is_metrics =
        |source: &&Source| source.path == "src/metrics.rs" || source.path.starts_with("src/metrics/");
    let strings = sources.iter().filter(is_metrics).flat_map(|source| &source.strings);
    let registered: BTreeSet<String> = strings.filter_map(|(_, text)| metric(text)).collect();
    let (served, reserved) = document.split_once("\n## Reserved").unwrap_or((document, ""));
    let (served, reserved) = (documented(served), documented(reserved));

    let mut found = Vec::new();
    found.extend(
        registered
            .difference(&served)
            .filter(|name| !reserved.contains(*name))
            .map(|name| format!("src/metrics.rs: {name} is not in docs/METRICS.md")),
    );
    found.extend(
        served
            .difference(&registered)
            .map(|name| format!("docs/METRICS.md: {name} is not in src/metrics.rs")),
    );
    found.extend(
        reserved
            .intersection(&registered)
            .map(|name| format!("docs/METRICS.md: {name} is served; move it from Reserved into its table")),
    );
    found
}

/// Log lines without an event, and events that only one side knows. Debug lines are for developers and have none.
///
/// The document's table names them in its first column.
pub(crate) fn event_differences(sources: &[Source], document: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut logged = BTreeSet::new();
    for source in sources.iter().filter(|source| !source.path.starts_with("crates/emulator/")) {
        for level in ["info", "warn", "error"] {
            let call = format!("tracing::{level}!(");
            for (at, _) in source.code.match_indices(&call) {
                let line = source.code[..at].matches('\n').count() + 1;
                let first = source.code[at + call.len()..].trim_start();
                // `event,` is a name that was chosen before.
                if !first.starts_with("event =") && !first.starts_with("event,") && !source.is_test(line) {
                    found.push(format!("{}:{line}: begin a log line with its event", source.path));
                }
            }
        }
        let lines = source.text.lines().enumerate().filter(|(n, _)| !source.is_test(n + 1));
        let named = lines.filter_map(|(_, line)| line.split_once("event = \"")?.1.split('"').next());
        logged.extend(named.map(str::to_owned));
    }
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let documented: BTreeSet<String> = rows.map(str::to_owned).collect();
    found.extend(
        logged.difference(&documented).map(|name| format!("docs/LOG.md: the event {name} is missing")),
    );
    found.extend(documented.difference(&logged).map(|name| format!("docs/LOG.md: nothing logs {name}")));
    found
}

/// Alerts that the runbook or the table of METRICS.md does not know, and names there that no rule has.
pub(crate) fn alert_differences(rules: &str, runbook: &str, metrics: &str) -> Vec<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric();
    let shipped: BTreeSet<String> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).map(str::to_owned).collect();
    let entries: BTreeSet<String> = runbook
        .lines()
        .filter_map(|line| line.strip_prefix("### "))
        .filter(|heading| heading.starts_with("Tollgate"))
        .map(str::to_owned)
        .collect();
    let listed = names(metrics, "Tollgate", is_name);
    let mut found = Vec::new();
    for (known, document) in [(&entries, "docs/RUNBOOK.md"), (&listed, "docs/METRICS.md")] {
        found
            .extend(shipped.difference(known).map(|name| format!("{document}: the alert {name} is missing")));
        found.extend(known.difference(&shipped).map(|name| format!("{document}: no rule is named {name}")));
    }
    found
}

/// Fuzz targets that are written but never built: each needs its `[[bin]]`.
pub(crate) fn forgotten_targets(files: &[String], manifest: &str) -> Vec<String> {
    let targets = files.iter().filter_map(|path| path.strip_prefix("fuzz/fuzz_targets/"));
    let forgotten = targets.filter(|file| !manifest.contains(&format!("path = \"fuzz_targets/{file}\"")));
    forgotten.map(|file| format!("fuzz/fuzz_targets/{file} has no [[bin]] in fuzz/Cargo.toml")).collect()
}

/// What the last column of the attacks in THREATS.md names and nothing in `texts` defines: a test, a module of tests, a
/// row of the chaos tests, a fuzz target, or a file.
pub(crate) fn absent_defences(document: &str, texts: &[(String, String)]) -> Vec<String> {
    let attacks = document.split_once("\n## Attacks").map_or("", |(_, rest)| rest);
    let attacks = attacks.split_once("\n## ").map_or(attacks, |(attacks, _)| attacks);
    let held_by = attacks.lines().filter_map(|line| line.strip_suffix(" |")?.rsplit_once(" | "));
    let named = held_by.flat_map(|(_, cell)| cell.split('`').skip(1).step_by(2));
    let mut found = Vec::new();
    for name in named {
        let parts: Vec<&str> = name.split("::").filter(|part| !["…", "tests"].contains(part)).collect();
        let last = *parts.last().unwrap_or(&name);
        let defined = [format!("fn {last}("), format!("mod {last}"), format!("def {last}(")];
        let exists = texts.iter().any(|(path, text)| {
            let is_file = path == name || path.strip_suffix(".rs").is_some_and(|path| path.ends_with(last));
            // A whole path names its module, too; a lone name may stand in any.
            let of_module = || parts.len() < 2 || module(path) == parts[..parts.len() - 1];
            is_file
                || path != "docs/THREATS.md"
                    && of_module()
                    && defined.iter().any(|defined| text.contains(defined))
        });
        if !exists {
            found.push(format!("docs/THREATS.md names {name}, which does not exist"));
        }
    }
    found
}

/// The module that a file is, whichever crate it is in and wherever its tests stand.
fn module(path: &str) -> Vec<&str> {
    let parts = path.strip_suffix(".rs").unwrap_or(path).split('/');
    parts.filter(|part| !["crates", "src", "lib", "tests"].contains(part)).collect()
}

fn documented(text: &str) -> BTreeSet<String> {
    let cells = text.lines().filter_map(|line| line.strip_prefix("| `"));
    cells.filter_map(|cell| metric(cell.split(['`', '{']).next()?)).collect()
}

/// A metric's name without the ending that the encoder adds to counters and information.
fn metric(text: &str) -> Option<String> {
    let plain = text.strip_prefix("tollgate_")?;
    let named = !plain.is_empty() && plain.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    let bare = text.strip_suffix("_total").or_else(|| text.strip_suffix("_info")).unwrap_or(text);
    named.then(|| bare.to_owned())
}
