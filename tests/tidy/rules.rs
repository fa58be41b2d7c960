//! The rules. `samples.txt` has samples of each, kept and broken.

use std::collections::BTreeSet;
use std::path::Path;

use crate::metadata::needs;
use crate::source::module;
use crate::{METADATA, Project, root};

/// Texts that no file may contain. The bar is removed; it hides them in this file, which is checked, too. The
/// paths are folders of one machine.
const FORBIDDEN: [&str; 8] =
    ["TO|DO", "FIX|ME", "XX|X", "#[ign|ore", "should_|panic", "/wo|rk/", "/ro|ot/", "/fa|rm/"];

/// Names that say nothing about the content.
const EMPTY_NAMES: [&str; 8] = ["util", "common", "helper", "constant", "const", "type", "manager", "misc"];

/// The bare prefix builds names; the revision is read when the binary is built, not when it runs.
const NOT_SETTINGS: [&str; 2] = ["TOLLGATE_", "TOLLGATE_REVISION"];

macro_rules! by_name {
    ($($rule:ident),*) => { &[$((stringify!($rule), $rule)),*] };
}

/// One line for each finding.
type Rule = fn(&Project) -> Vec<String>;

/// Each rule with its name in the samples.
#[rustfmt::skip]
pub(crate) const RULES: &[(&str, Rule)] = by_name![
    forbidden_words, silent_files, forbidden_texts, empty_names, dead_links, unknown_variables, unnamed_events,
    alerts_of_one_side, absent_defences, unsaid_semantics, forgotten_targets, other_exceptions
];

/// The architecture's table of imports: for each file, words that its paths and imports may not contain; for each
/// `Cargo.toml`, crates that it may not need, except for tests and as an option. A cell `a` but `b` excludes `b`.
fn forbidden_words(project: &Project) -> Vec<String> {
    let mut words: Vec<(String, &str)> = Vec::new();
    for source in project.sources() {
        words.extend(
            source.words.iter().map(|(line, word)| (format!("{}:{line}", source.path), word.as_str())),
        );
    }
    let needs = needs(project.text(METADATA));
    words.extend(
        needs.iter().filter(|need| !need.optional).map(|need| (need.manifest.clone(), need.to.as_str())),
    );
    let mut found = Vec::new();
    for row in table(section(project.text("docs/ARCHITECTURE.md"), "## What must never import what")) {
        let [who, never, why] = row[..] else {
            return vec![format!("docs/ARCHITECTURE.md: three cells: {row:?}")];
        };
        let (who, never) = (named(who), named(never));
        let absent = [&who.0, &who.1]
            .into_iter()
            .flatten()
            .filter(|who| !project.texts.keys().any(|path| path.contains(*who)));
        found.extend(absent.map(|who| format!("docs/ARCHITECTURE.md: no file is {who}")));
        let matches = |(some, but): &(Vec<&str>, Vec<&str>), is: &dyn Fn(&str) -> bool| {
            (some.is_empty() || some.iter().any(|name| is(name))) && !but.iter().any(|name| is(name))
        };
        let broken = words.iter().filter(|(place, word)| {
            let is_word =
                |name: &str| name.strip_suffix('*').map_or(*word == name, |start| word.starts_with(start));
            matches(&who, &|part| place.contains(part)) && matches(&never, &is_word)
        });
        found.extend(broken.map(|(place, word)| format!("{place}: {word}: {why}")));
    }
    found
}

/// Every file begins with its purpose.
fn silent_files(project: &Project) -> Vec<String> {
    let says = |text: &str| {
        let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
        let doc = first.strip_prefix("//!").is_some_and(|doc| doc.trim().len() >= 10);
        doc || first == "#![doc = include_str!(\"../README.md\")]"
    };
    let silent = project.sources.iter().filter(|source| !says(&source.text));
    silent.map(|source| format!("{}: begin with `//!`: purpose and invariants", source.path)).collect()
}

/// Nothing is unfinished, no test is switched off or passes on any panic, and no text names a path of one machine.
fn forbidden_texts(project: &Project) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in project.texts.iter().filter(|(path, _)| *path != METADATA) {
        let forbidden = |line: &str| FORBIDDEN.iter().any(|text| stands(line, &text.replace('|', "")));
        let lines = text.lines().zip(1..).filter(|(line, _)| forbidden(line));
        found.extend(lines.map(|(line, at)| format!("{path}:{at}: {line}")));
    }
    found
}

/// Every file is named after what it is about.
fn empty_names(project: &Project) -> Vec<String> {
    let empty = |name: &str| EMPTY_NAMES.contains(&name.strip_suffix('s').unwrap_or(name)) || name == "mod";
    let files =
        project.sources.iter().filter(|s| s.path.split('/').any(|part| empty(part.trim_end_matches(".rs"))));
    files.map(|source| format!("{}: name a file after the noun it is about", source.path)).collect()
}

/// Every link between documents leads somewhere, and the architecture sends changes to files that exist.
fn dead_links(project: &Project) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in project.texts.iter().filter(|(path, _)| path.ends_with(".md")) {
        let folder = root().join(path).parent().map(Path::to_owned).unwrap_or_default();
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split([')', ' ', '\n', '#']).next());
        let files = targets.filter(|to| !to.is_empty() && !to.contains("://") && !to.starts_with("mailto:"));
        let dead = files.filter(|to| !folder.join(to).exists());
        found.extend(dead.map(|to| format!("{path}: the link {to} leads nowhere")));
        if path == "docs/ARCHITECTURE.md" {
            let rows = table(section(text, "## Where does a change go?"));
            let absent = rows
                .iter()
                .filter(|row| !named(row[0]).0.first().is_some_and(|to| root().join(to).is_file()));
            found.extend(absent.map(|row| format!("{path} sends changes to what is no file: {row:?}")));
        }
    }
    found
}

/// Environment variables that only the sources or only the document name.
fn unknown_variables(project: &Project) -> Vec<String> {
    let document = project.text("docs/CONFIGURATION.md");
    let setting = |key: &str| key.trim_start_matches("TOLLGATE_").to_ascii_lowercase();
    let (mut found, mut read) = (Vec::new(), BTreeSet::new());
    for source in project.sources() {
        for (line, text) in &source.strings {
            read.insert(text.clone());
            for key in keys(text) {
                // A setting is named by its row. A name that ends in `_` stands for a family.
                let known = document.contains(&key) || document.contains(&format!("| `{}` |", setting(&key)));
                if !known && !source.is_test(*line) && !NOT_SETTINGS.contains(&key.as_str()) {
                    found.push(format!("{}:{line}: {key} is not in docs/CONFIGURATION.md", source.path));
                }
                read.insert(key);
            }
        }
    }
    let unread =
        keys(document).into_iter().filter(|key| !read.contains(key) && !read.contains(&setting(key)));
    found.extend(unread.map(|key| format!("docs/CONFIGURATION.md: {key} is read nowhere in src")));
    found
}

/// Every log line above debug begins with its event, and docs/LOG.md lists each event. The emulator has no log.
fn unnamed_events(project: &Project) -> Vec<String> {
    let (mut found, mut logged) = (Vec::new(), BTreeSet::new());
    for source in project.sources().filter(|source| !source.path.starts_with("crates/emulator/")) {
        for call in ["tracing::info!(", "tracing::warn!(", "tracing::error!("] {
            for (at, _) in source.text.match_indices(call) {
                let line = source.text[..at].matches('\n').count() + 1;
                let first = source.text[at + call.len()..].trim_start();
                // `event,` is a name that was chosen before.
                if !first.starts_with("event =") && !first.starts_with("event,") && !source.is_test(line) {
                    found.push(format!("{}:{line}: begin a log line with its event", source.path));
                }
            }
        }
        let lines = source.text.lines().zip(1..).filter(|(_, at)| !source.is_test(*at));
        let named = lines
            .flat_map(|(line, _)| line.split("event = \"").skip(1).filter_map(|rest| rest.split('"').next()));
        logged.extend(named.map(str::to_owned));
    }
    let rows =
        project.text("docs/LOG.md").lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let listed = rows.map(str::to_owned).collect();
    found.extend(differences(("src", &logged), ("docs/LOG.md", &listed)));
    found
}

/// Every alert has its entry in the runbook and in the list of METRICS.md.
fn alerts_of_one_side(project: &Project) -> Vec<String> {
    let after = |path, start: &str| -> BTreeSet<String> {
        let alerts = project.text(path).split(start).skip(1).filter(|part| part.starts_with("Tollgate"));
        alerts.filter_map(|part| part.lines().next()).map(str::to_owned).collect()
    };
    let (shipped, entries) =
        (after("deploy/observability/rules.yaml", "- alert: "), after("docs/RUNBOOK.md", "### "));
    let listed = names(project.text("docs/METRICS.md"), "Tollgate", |c| c.is_ascii_alphanumeric());
    let rules = ("deploy/observability/rules.yaml", &shipped);
    [differences(rules, ("docs/RUNBOOK.md", &entries)), differences(rules, ("docs/METRICS.md", &listed))]
        .concat()
}

/// Each attack, and each rule for listings, has a mark and a row of tests at the end of its document; the tests exist.
fn absent_defences(project: &Project) -> Vec<String> {
    let marks = |text: &str| -> BTreeSet<String> {
        let first = text.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
        let marks = first.filter(|cell| {
            cell.strip_prefix(|c: char| c.is_ascii_uppercase())
                .is_some_and(|number| !number.is_empty() && number.chars().all(|c| c.is_ascii_digit()))
        });
        marks.map(str::to_owned).collect()
    };
    let mut found = Vec::new();
    for path in ["docs/THREATS.md", "docs/LISTING.md"] {
        let (told, tests) = project.text(path).split_once("\n## The tests\n").unwrap_or_default();
        found.extend(differences((path, &marks(told)), (&format!("{path}, the tests"), &marks(tests))));
        let named = tests
            .lines()
            .filter(|line| line.starts_with("| "))
            .flat_map(|line| line.split('`').skip(1).step_by(2));
        let absent = named.filter(|name| !defines(project, name));
        found.extend(absent.map(|name| format!("{path} names {name}, which does not exist")));
    }
    found
}

/// `docs/SEMANTICS.md` contains the comments of its tests; line breaks do not count.
fn unsaid_semantics(project: &Project) -> Vec<String> {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let told = words(project.text("docs/SEMANTICS.md"));
    let tests = project.text("tests/metering/semantics.rs").split("#[test]");
    let comments = tests.filter_map(|part| {
        part.rsplit_once("\n\n///").map(|(_, comment)| words(&comment.replace("///", "")))
    });
    let comments: Vec<String> = comments.collect();
    assert!(!comments.is_empty(), "the tests of the semantics have no comments");
    let missing = comments.into_iter().filter(|comment| !told.contains(comment));
    missing.map(|comment| format!("docs/SEMANTICS.md lacks what a test says: {comment}")).collect()
}

/// Every fuzz target is built.
fn forgotten_targets(project: &Project) -> Vec<String> {
    let targets = project.texts.keys().filter_map(|path| path.strip_prefix("fuzz/"));
    let built = |file: &str| project.text("fuzz/Cargo.toml").contains(&format!("path = \"{file}\""));
    let forgotten = targets.filter(|file| file.starts_with("fuzz_targets/") && !built(file));
    forgotten.map(|file| format!("fuzz/{file} has no [[bin]] in fuzz/Cargo.toml")).collect()
}

/// AWS's exceptions are distinguished in one table.
fn other_exceptions(project: &Project) -> Vec<String> {
    let owners = ["crates/marketplace/src/exceptions.rs", "crates/emulator", "src/cli/emulator", "src/api"];
    let mut found = Vec::new();
    for source in project.sources().filter(|s| !owners.iter().any(|owner| s.path.starts_with(owner))) {
        let named = source.strings.iter().filter(|(line, text)| {
            tollgate_marketplace::exceptions::find(text).is_some() && !source.is_test(*line)
        });
        found.extend(
            named.map(|(line, text)| format!("{}:{line}: {text}: ask marketplace::exceptions", source.path)),
        );
    }
    found
}

/// Names that only one of two files has.
fn differences(a: (&str, &BTreeSet<String>), b: (&str, &BTreeSet<String>)) -> Vec<String> {
    let only = |a: (&str, &BTreeSet<String>), b: (&str, &BTreeSet<String>)| -> Vec<String> {
        a.1.difference(b.1).map(|name| format!("{}: {name} is not in {}", a.0, b.0)).collect()
    };
    [only(a, b), only(b, a)].concat()
}

/// The cells of a table's rows, without its head.
fn table(text: &str) -> Vec<Vec<&str>> {
    let rows = text.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |")).skip(2);
    let rows: Vec<Vec<&str>> = rows.map(|row| row.split(" | ").collect()).collect();
    assert!(!rows.is_empty(), "no table in {text:?}");
    rows
}

/// The names in a cell, before and after "but".
fn named(cell: &str) -> (Vec<&str>, Vec<&str>) {
    let (some, but) = cell.split_once(" but ").unwrap_or((cell, ""));
    (some.split('`').skip(1).step_by(2).collect(), but.split('`').skip(1).step_by(2).collect())
}

/// From the heading that begins with this text to the next of its rank.
fn section<'a>(document: &'a str, heading: &str) -> &'a str {
    let (_, rest) = document.split_once(heading).expect(heading);
    rest.split_once("\n## ").map_or(rest, |(section, _)| section)
}

fn keys(text: &str) -> BTreeSet<String> {
    names(text, "TOLLGATE_", |c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

/// Whole words of a text that begin with the prefix and continue with the given characters.
fn names(text: &str, prefix: &str, goes_on: fn(char) -> bool) -> BTreeSet<String> {
    let starts =
        text.match_indices(prefix).filter(|(at, _)| !text[..*at].chars().next_back().is_some_and(is_word));
    starts.map(|(at, _)| text[at..].chars().take_while(|c| goes_on(*c)).collect()).collect()
}

/// Whether a line contains a word by itself, or the start of a path.
fn stands(line: &str, text: &str) -> bool {
    line.match_indices(text).any(|(at, _)| {
        let (before, after) = (line[..at].chars().next_back(), line[at + text.len()..].chars().next());
        let goes_on = !text.ends_with('/') && after.is_some_and(is_word);
        !before.is_some_and(|c| is_word(c) || c == '.') && !goes_on
    })
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Whether the name is that of a file, or of a test, a module of tests or a row of the chaos tests in a file.
fn defines(project: &Project, name: &str) -> bool {
    let parts: Vec<&str> = name.split("::").filter(|part| !["…", "tests"].contains(part)).collect();
    let last = parts.last().copied().unwrap_or(name);
    let defined = [format!("fn {last}("), format!("mod {last}"), format!("def {last}(")];
    project.texts.iter().any(|(path, text)| {
        let is_file = path == name || path.strip_suffix(".rs").is_some_and(|path| path.ends_with(last));
        // A whole path names its module, too; a single name may be in any module.
        let of_module = parts.len() < 2 || module(path) == parts[..parts.len() - 1];
        is_file
            || path != "docs/THREATS.md" && of_module && defined.iter().any(|defined| text.contains(defined))
    })
}
