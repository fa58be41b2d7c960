//! House rules that neither compiler nor clippy can check: documents and sources must agree. The reasons are in
//! `docs/ARCHITECTURE.md` and `CONTRIBUTING.md`.

#[path = "generated/metadata.rs"]
mod metadata;
#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/source.rs"]
mod source;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use source::Source;

/// Built, fetched, written by others, or wrong on purpose.
const NOT_OURS: [&str; 11] = [
    "target",
    ".git",
    "Cargo.lock",
    "LICENSE",
    "THIRD-PARTY-NOTICES.txt",
    "node_modules",
    "dist",
    "artifacts",
    "corpus",
    "seeds",
    "samples.txt",
];

/// The text files of a checkout, or of a sample, by path; the Rust files among them are read.
pub(crate) struct Project {
    texts: BTreeMap<String, String>,
    sources: Vec<Source>,
    whole: bool,
}

impl Project {
    fn new(texts: BTreeMap<String, String>) -> Self {
        let rust = texts.iter().filter(|(path, _)| path.ends_with(".rs"));
        Self { sources: rust.map(|(path, text)| Source::new(path, text)).collect(), texts, whole: false }
    }

    fn of_checkout() -> Self {
        let (mut texts, mut folders) = (BTreeMap::new(), vec![root().to_owned()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).expect("a folder of the checkout can be read") {
                let path = entry.expect("a folder of the checkout can be listed").path();
                let ours = path.file_name().is_some_and(|name| !NOT_OURS.iter().any(|not| *not == name));
                if ours && path.is_dir() && !path.is_symlink() {
                    folders.push(path);
                } else if let Some(text) =
                    fs::read_to_string(&path).ok().filter(|_| ours && !path.is_symlink())
                {
                    let below = path.strip_prefix(root()).expect("found below the root");
                    texts.insert(below.to_string_lossy().into_owned(), text);
                }
            }
        }
        texts.insert(METADATA.to_owned(), metadata::metadata(root()));
        Self { whole: true, ..Self::new(texts) }
    }

    /// A file's text. A sample has only the files of its rule; in the project no file may be missing.
    fn text(&self, path: &str) -> &str {
        assert!(!self.whole || self.texts.contains_key(path), "{path} does not exist");
        self.texts.get(path).map_or("", String::as_str)
    }

    /// The Rust files of the sidecar and of every crate.
    fn sources(&self) -> impl Iterator<Item = &Source> {
        self.sources.iter().filter(|s| s.path.starts_with("src/") || s.path.starts_with("crates/"))
    }
}

/// The name under which a project keeps the output of `cargo metadata`.
const METADATA: &str = "cargo metadata";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// README's command is `cargo run` without a name. Among several programs of a workspace cargo takes the one that a
/// package names, and refuses to choose itself.
#[test]
fn cargo_run_starts_the_sidecar() {
    let metadata: serde_json::Value = serde_json::from_str(&metadata::metadata(root())).expect("it is JSON");
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let chosen: Vec<_> = packages.filter_map(|package| package["default_run"].as_str()).collect();
    assert_eq!(chosen, ["tollgate"]);
}

#[test]
fn the_project_keeps_every_rule() {
    let project = Project::of_checkout();
    let findings: Vec<String> = rules::RULES.iter().flat_map(|(_, find)| find(&project)).collect();
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}

/// A rule that finds nothing in a sample that breaks it could never fail.
#[test]
fn every_rule_finds_what_it_forbids_and_nothing_else() {
    let samples = include_str!("tidy/samples.txt");
    for (name, find) in rules::RULES {
        let (_, sample) = samples.split_once(&format!("\n\n{name}\n")).expect("every rule has its samples");
        let sample = sample.split_once("\n\n").map_or(sample, |(sample, _)| sample);
        let files = |kind: &str| -> Vec<(String, String)> {
            let lines = sample.lines().filter_map(|line| line.strip_prefix(kind)?.split_once(':'));
            let read = |text: &str| text.trim().replace("\\n", "\n").replace("\\0", "");
            lines.map(|(path, text)| (path.trim().to_owned(), read(text))).collect()
        };
        let kept: BTreeMap<String, String> = files("kept").into_iter().collect();
        let found = find(&Project::new(kept.clone()));
        assert!(found.is_empty(), "{name}: the sample that keeps it: {found:?}");
        assert!(!files("broken").is_empty(), "{name}: nothing breaks it");
        for (path, text) in files("broken") {
            let mut broken = kept.clone();
            broken.insert(path, text.clone());
            let found = find(&Project::new(broken));
            assert_eq!(found.len(), 1, "{name}: {text:?}: {found:?}");
        }
    }
}
