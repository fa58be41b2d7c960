//! The rules of the house that no compiler checks, as tests: who may import whom, what every module says of itself,
//! and that the documents name what the sources use. The reasons stand in `docs/ARCHITECTURE.md` and `CONTRIBUTING.md`.
//!
//! Every check is itself tested, in `tidy/checks.rs`, on samples that must fail.

#[path = "tidy/checks.rs"]
mod checks;
#[path = "tidy/generated.rs"]
mod generated;
#[path = "tidy/imports.rs"]
mod imports;
#[path = "tidy/names.rs"]
mod names;
#[path = "tidy/source.rs"]
mod source;
#[path = "tidy/words.rs"]
mod words;

use std::fs;
use std::path::{Path, PathBuf};

use source::Source;

/// Built, fetched or someone else's words.
const NOT_OURS: [&str; 9] =
    ["target", ".git", "Cargo.lock", "LICENSE", "node_modules", "dist", "artifacts", "corpus", "seeds"];

/// Modules of the design that are still to be written: the rules about them stand already.
const MODULES_TO_COME: &[&str] = &[];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every text file of the project, with its path relative to the crate.
fn texts() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the checkout can be read") {
            let path = entry.expect("a folder of the checkout can be listed").path();
            if path.file_name().is_some_and(|name| NOT_OURS.iter().any(|not| *not == name))
                || path.is_symlink()
            {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(text) = fs::read_to_string(&path) {
                found.push((relative(&path), text));
            }
        }
    }
    found.sort();
    assert!(found.len() >= 30, "only {} files found: the walk is broken", found.len());
    found
}

fn relative(path: &Path) -> String {
    let below: PathBuf = path.strip_prefix(root()).expect("found below the root").to_owned();
    below.to_str().expect("file names of the project are UTF-8").replace('\\', "/")
}

/// The Rust files below one of these folders; `src` stands for that of each crate.
fn sources(folders: &[&str]) -> Vec<Source> {
    let texts = texts();
    let wanted = texts.iter().filter(|(path, _)| {
        let path =
            path.strip_prefix("crates/").and_then(|path| path.split_once('/')).map_or(path.as_str(), |p| p.1);
        path.ends_with(".rs") && folders.iter().any(|folder| path.starts_with(&format!("{folder}/")))
    });
    let sources: Vec<Source> = wanted.map(|(path, text)| Source::new(path, text)).collect();
    assert!(!sources.is_empty(), "no sources in {folders:?}");
    sources
}

/// A document, or nothing where there is none: then it documents nothing.
fn document(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_default()
}

#[track_caller]
fn assert_none(findings: impl IntoIterator<Item = String>) {
    let findings: Vec<String> = findings.into_iter().collect();
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}

/// The table of `docs/ARCHITECTURE.md`: what must never import what.
#[test]
fn nobody_imports_what_it_must_not_know() {
    let sources = sources(&["src"]);
    assert_none(imports::violations(&sources, imports::RULES));
}

/// A rule about a module that was renamed would hold for ever.
#[test]
fn every_rule_names_modules_that_exist() {
    let sources = sources(&["src"]);
    assert_none(imports::unknown_modules(&sources, imports::RULES, MODULES_TO_COME));
}

#[test]
fn every_module_says_what_it_is() {
    assert_none(sources(&["src", "tests", "benches", "fuzz", "examples"]).iter().flat_map(words::module_doc));
}

#[test]
fn nothing_is_left_unfinished() {
    assert_none(texts().iter().flat_map(|(path, text)| words::banned_words(path, text)));
}

#[test]
fn nothing_names_a_path_of_one_machine() {
    assert_none(texts().iter().flat_map(|(path, text)| words::machine_paths(path, text)));
}

#[test]
fn clocks_and_sql_stay_in_their_modules() {
    let sources = sources(&["src"]);
    assert_none(
        sources.iter().flat_map(words::hidden_clocks).chain(sources.iter().flat_map(words::stray_sql)),
    );
}

#[test]
fn lines_and_main_stay_short() {
    let sources = sources(&["src"]);
    assert_none(sources.iter().flat_map(words::long_lines).chain(sources.iter().flat_map(words::long_main)));
}

#[test]
fn every_file_is_named_after_what_it_is_about() {
    assert_none(
        sources(&["src", "tests", "benches", "fuzz"]).iter().flat_map(|s| words::empty_names(&s.path)),
    );
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let texts = texts();
    let documents = texts.iter().filter(|(path, _)| path.ends_with(".md"));
    let exists = |path: &Path| root().join(path).exists();
    assert_none(documents.flat_map(|(path, text)| words::dead_links(path, text, exists)));
}

/// The table of `docs/ARCHITECTURE.md` that answers where a change goes.
#[test]
fn a_change_is_sent_to_files_that_exist() {
    let document = document("docs/ARCHITECTURE.md");
    let (_, rest) = document.split_once("## Where does a change go?").expect("the section is there");
    let section = rest.split_once("\n## ").map_or(rest, |(section, _)| section);
    let paths: Vec<&str> =
        section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    assert!(paths.len() >= 20, "{} rows", paths.len());
    let absent = paths.into_iter().filter(|path| !root().join(path).is_file());
    assert_none(
        absent.map(|path| format!("docs/ARCHITECTURE.md sends changes to {path}, which does not exist")),
    );
}

#[test]
fn every_environment_variable_is_documented_and_read() {
    let sources = sources(&["src"]);
    let document = document("docs/CONFIGURATION.md");
    assert_none(
        names::undocumented_keys(&sources, &document)
            .into_iter()
            .chain(names::unread_keys(&sources, &document)),
    );
}

/// `just generate` sets the variable: then what is stale is written anew.
#[test]
#[expect(clippy::disallowed_methods, reason = "no setting of the program: it asks the test to write")]
fn what_is_generated_is_what_the_table_of_settings_says() {
    assert_none(generated::stale(root(), std::env::var_os("GENERATE").is_some()));
}

#[test]
fn every_metric_is_documented_and_served() {
    assert_none(names::metric_differences(&sources(&["src"]), &document("docs/METRICS.md")));
}

#[test]
fn every_log_line_has_an_event_that_is_documented() {
    assert_none(names::event_differences(&sources(&["src"]), &document("docs/LOG.md")));
}

#[test]
fn every_alert_has_its_entry_in_the_runbook() {
    let rules = document("deploy/observability/rules.yaml");
    assert_none(names::alert_differences(&rules, &document("docs/RUNBOOK.md"), &document("docs/METRICS.md")));
}

#[test]
fn what_holds_each_threat_exists() {
    assert_none(names::absent_defences(&document("docs/THREATS.md"), &texts()));
}

#[test]
fn the_semantics_are_what_the_tests_say() {
    let tests = document("tests/metering/semantics.rs");
    let told = unwrapped(&document("docs/SEMANTICS.md"));
    let comments =
        tests.split("#[test]").filter_map(|part| part.rsplit_once("\n\n///").map(|(_, comment)| comment));
    let paragraphs: Vec<String> = comments.map(|comment| unwrapped(&comment.replace("///", ""))).collect();
    assert!(paragraphs.len() >= 12, "{paragraphs:?}");
    let missing = paragraphs.into_iter().filter(|paragraph| !told.contains(paragraph.as_str()));
    assert_none(missing.map(|paragraph| format!("docs/SEMANTICS.md lacks what a test says: {paragraph}")));
}

/// The words, however they are wrapped.
fn unwrapped(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn every_fuzz_target_is_built() {
    let files: Vec<String> = sources(&["fuzz"]).into_iter().map(|source| source.path).collect();
    assert_none(names::forgotten_targets(&files, &document("fuzz/Cargo.toml")));
}

/// Two lists of one thing differ sooner or later; these names decide about money. The door answers its callers in
/// AWS's own form, and the emulator's list is separate on purpose.
#[test]
fn exception_names_of_aws_stand_in_one_table() {
    let others = ["crates/marketplace/src/exceptions.rs", "crates/emulator", "src/cli/emulator", "src/api"];
    let sources = sources(&["src"]);
    let asking = sources.iter().filter(|source| !others.iter().any(|path| source.path.starts_with(path)));
    assert_none(asking.flat_map(|source| {
        let named = source.strings.iter().filter(|(line, text)| {
            tollgate_marketplace::exceptions::find(text).is_some() && !source.is_test(*line)
        });
        named.map(|(line, text)| format!("{}:{line}: {text}: ask marketplace::exceptions", source.path))
    }));
}
