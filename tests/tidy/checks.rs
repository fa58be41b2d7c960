//! The checks, checked: each must find its fault in a small bad sample and nothing in a good one.

use std::path::Path;

use crate::generated::{Piece, with_piece};
use crate::imports::{RULES, unknown_modules, violations};
use crate::names::{
    absent_defences, event_differences, forgotten_targets, metric_differences, undocumented_keys, unread_keys,
};
use crate::source::Source;
use crate::words;

/// Findings of the real rules for one file of that path, in a crate that has some of the real modules.
fn found(path: &str, text: &str) -> Vec<String> {
    let others = ["src/lib.rs", "src/main.rs", "src/registration.rs"];
    let mut sources = vec![Source::new(path, text)];
    sources.extend(others.iter().filter(|other| **other != path).map(|other| Source::new(other, "")));
    violations(&sources, RULES)
}

#[track_caller]
fn assert_found(path: &str, text: &str) {
    assert_eq!(found(path, text).len(), 1, "{path} with {text:?} gives {:?}", found(path, text));
}

#[track_caller]
fn assert_clean(path: &str, text: &str) {
    assert_eq!(found(path, text), Vec::<String>::new(), "{path} with {text:?}");
}

#[test]
fn a_log_line_without_its_event_is_found() {
    let differences =
        |text: &str, document: &str| event_differences(&[Source::new("src/a.rs", text)], document);
    let logged = "fn a() { tracing::warn!(event = \"odd\", \"it is odd\"); tracing::debug!(\"seen\"); }";
    assert!(differences(logged, "| `odd` | warn | it is odd |\n").is_empty());
    assert_eq!(differences(logged, "").len(), 1);
    assert_eq!(differences("fn a() {}", "| `odd` |\n").len(), 1);
    assert_eq!(differences("fn a() { tracing::error!(\"bad\"); }", "").len(), 1);
}

#[test]
fn each_rule_finds_what_it_forbids() {
    assert_found("crates/metering/src/seal.rs", "fn f() { std::time::SystemTime::now(); }");
    assert_found("src/http.rs", "use std::time::Instant;\nfn f() { let at = Instant::now(); }");
    assert_found("src/log.rs", "fn f() { time::OffsetDateTime::now_utc(); }");
    assert_found("src/cli/run.rs", "use std::env;");
    assert_found("src/probe.rs", "use crate::registration::machine::Step;");
    assert_found("src/probe/document.rs", "use crate::usage::Intake;");
    assert_found("src/probe.rs", "use tollgate_ledger::Ledger;");
    assert_found("src/registration/machine.rs", "use crate::usage;");
    assert_found("src/registration/machine.rs", "use tollgate_metering::event::Event;");
    assert_found("src/usage/intake.rs", "use super::sender::Sender;");
    assert_found("src/usage/sender.rs", "use crate::usage::intake;");
    assert_found("crates/marketplace/src/schedule.rs", "use tokio::time::sleep;");
    assert_found("crates/receipt/src/lib.rs", "fn f() { std::fs::read(\"key\"); }");
    assert_found("src/cli/demo.rs", "use tollgate_emulator::Emulator;");
    assert_found("crates/emulator/src/wire.rs", "use tollgate_marketplace::MeterUsage;");
    assert_found("src/registration.rs", "use crate::app::App;");
    assert_found("src/log.rs", "use crate::*;");
}

#[test]
fn each_rule_leaves_its_owner_alone() {
    assert_clean("crates/clock/src/lib.rs", "fn f() { std::time::SystemTime::now(); }");
    assert_clean("src/config/env.rs", "use std::env;");
    assert_clean("src/registration.rs", "use tokio::time::sleep;");
    assert_clean("src/cli/emulator.rs", "use tollgate_emulator::Emulator;");
    assert_clean(
        "crates/emulator/src/wire.rs",
        "use crate::operation::Operation;\nuse tollgate_time::Timestamp;",
    );
    assert_clean("src/probe.rs", "use crate::entitlement::Entitlement;\nuse crate::http;");
}

#[test]
fn a_forbidden_path_is_found_in_every_spelling() {
    let probe = "src/probe.rs";
    assert_found(
        probe,
        "use crate::{entitlement, registration::{machine, schedule as when}};"
            .replace("machine, ", "")
            .as_str(),
    );
    assert_found(probe, "use crate::{self, usage};");
    assert_found(probe, "use super::usage::*;");
    assert_found(probe, "mod inner { use super::super::usage::Intake; }");
    assert_found(probe, "fn f(x: Vec<crate::usage::Event>) {}");
    assert_found(probe, "const N: u64 = 1 as crate::usage::Count;");
    assert_found(probe, "fn f(n: usize) { g(..crate::usage::MAX); }");
    assert_found("src/cli.rs", "fn f() { ::std::env::args(); }");
    assert_found("src/log.rs", "use std::{env, fs};");
    assert_found("src/log.rs", "pub use std::env as environment;");
}

#[test]
fn words_that_are_no_paths_are_not_found() {
    let probe = "src/probe.rs";
    assert_clean(probe, "// use crate::usage;\n/* crate::usage::a /* nested */ crate::usage::b */");
    assert_clean(probe, "const A: &str = \"crate::usage::a\"; const B: &str = r#\"a \" crate::usage::b\"#;");
    assert_clean(probe, "fn f<'a>(c: char) -> bool { c == '\"' || c == '\\'' } // \" crate::usage::x");
    assert_clean(probe, "mod tests { use super::registration_of; use super::*; }");
    assert_clean(probe, "fn f() -> impl Sized + use<> { self.usage.registration() }");
}

#[test]
fn a_finding_names_file_and_line() {
    let findings = found("src/probe.rs", "//! Text.\n\nuse crate::{\n    entitlement,\n    usage,\n};\n");
    assert!(findings[0].starts_with("src/probe.rs:5: crate::usage: "), "{findings:?}");
}

#[test]
fn a_rule_about_no_module_is_found() {
    let sources = [Source::new("src/lib.rs", ""), Source::new("src/probe.rs", "")];
    let missing = unknown_modules(&sources, RULES, &[]);
    assert!(missing.iter().any(|finding| finding.contains("usage::intake")), "{missing:?}");
    assert!(!missing.iter().any(|finding| finding.contains("probe")), "{missing:?}");
    let fewer = unknown_modules(&sources, RULES, &["usage::intake"]);
    assert_eq!(fewer.len() + 1, missing.len());
    let arrived = unknown_modules(&sources, RULES, &["probe"]);
    assert_eq!(arrived.len(), missing.len() + 1);
}

#[test]
fn unfinished_words_are_found_alone_only() {
    let todo = ["TO", "DO"].concat();
    for bad in [format!("// {todo}: later"), ["db", "g!(x)"].concat(), ["#[ign", "ore = \"slow\"]"].concat()]
    {
        assert_eq!(words::banned_words("a.rs", &bad).len(), 1, "{bad}");
    }
    for bad in [["#[should_", "panic]"].concat(), ["XX", "X"].concat(), ["unimplemented", "!()"].concat()] {
        assert_eq!(words::banned_words("a.rs", &bad).len(), 1, "{bad}");
    }
    for good in [format!("MAS{todo}N"), format!("{todo}S"), ["mktemp -t XX", "XXXX"].concat()] {
        assert_eq!(words::banned_words("a.rs", &good), Vec::<String>::new(), "{good}");
    }
}

#[test]
fn paths_of_one_machine_are_found() {
    for name in ["work", "root", "farm"] {
        assert_eq!(words::machine_paths("a.md", &format!("see /{name}/x")).len(), 1);
        assert_eq!(
            words::machine_paths("a.md", &format!("see ./{name}/x and a/{name}/x")),
            Vec::<String>::new()
        );
    }
}

#[test]
fn hidden_clocks_are_found() {
    let bad = "fn f(i: Instant) { i.elapsed(); }";
    assert_eq!(words::hidden_clocks(&Source::new("src/log.rs", bad)).len(), 1);
    assert_eq!(words::hidden_clocks(&Source::new("crates/clock/src/lib.rs", bad)), Vec::<String>::new());
    assert_eq!(words::hidden_clocks(&Source::new("src/log.rs", "// i.elapsed()")), Vec::<String>::new());
}

#[test]
fn stray_sql_is_found() {
    let bad = "const Q: &str = \"SELECT a FROM b\";";
    assert_eq!(words::stray_sql(&Source::new("crates/metering/src/carry.rs", bad)).len(), 1);
    assert_eq!(words::stray_sql(&Source::new("crates/ledger/src/read.rs", bad)), Vec::<String>::new());
    assert_eq!(words::stray_sql(&Source::new("src/log.rs", "// SELECT a FROM b")), Vec::<String>::new());
}

#[test]
fn a_module_without_words_of_its_own_is_found() {
    for bad in ["", "use std::fmt;", "//!", "// A comment.\n//! Text of the module."] {
        assert_eq!(words::module_doc(&Source::new("src/a.rs", bad)).len(), 1, "{bad:?}");
    }
    assert_eq!(
        words::module_doc(&Source::new("src/a.rs", "\n//! What it is about.\n")),
        Vec::<String>::new()
    );
}

#[test]
fn long_lines_and_a_long_main_are_found() {
    // Characters count, not bytes.
    let fits = "é".repeat(words::COLUMNS_MAX);
    assert_eq!(words::long_lines(&Source::new("src/a.rs", &fits)), Vec::<String>::new());
    assert_eq!(words::long_lines(&Source::new("src/a.rs", &format!("{fits}é"))).len(), 1);
    assert_eq!(
        words::long_lines(&Source::new("src/a.rs", &format!("const A: &str = \"{fits}\";"))),
        Vec::<String>::new()
    );
    assert_eq!(words::long_lines(&Source::new("src/a/tests.rs", &format!("{fits}é"))), Vec::<String>::new());
    let fits = "x\n".repeat(words::MAIN_LINES_MAX);
    assert_eq!(words::long_main(&Source::new("src/main.rs", &fits)), Vec::<String>::new());
    assert_eq!(words::long_main(&Source::new("src/main.rs", &format!("{fits}x\n"))).len(), 1);
    assert_eq!(words::long_main(&Source::new("src/app.rs", &format!("{fits}x\n"))), Vec::<String>::new());
}

#[test]
fn names_that_say_nothing_are_found() {
    for bad in
        ["src/utils.rs", "src/usage/common.rs", "tests/common/mod.rs", "src/types/a.rs", "src/manager.rs"]
    {
        assert!(!words::empty_names(bad).is_empty(), "{bad}");
    }
    for good in ["crates/ledger/src/lib.rs", "src/cli/emulator.rs", "tests/tidy/words.rs"] {
        assert_eq!(words::empty_names(good), Vec::<String>::new(), "{good}");
    }
}

#[test]
fn dead_links_are_found() {
    let exists = |path: &Path| path == Path::new("docs/A.md");
    assert_eq!(
        words::dead_links("docs/B.md", "[a](A.md#part) [w](https://example.com) [h](#here)", exists),
        Vec::<String>::new()
    );
    assert_eq!(words::dead_links("README.md", "[a](docs/A.md)", exists), Vec::<String>::new());
    assert_eq!(words::dead_links("README.md", "[a](A.md)", exists).len(), 1);
}

#[test]
fn environment_variables_of_one_side_are_found() {
    let source =
        "const A: &str = \"TOLLGATE_CONFIG\"; const P: &str = \"TOLLGATE_\"; const S: &str = \"region\";";
    let sources = [Source::new("src/config.rs", source)];
    let document = "`TOLLGATE_CONFIG` and `TOLLGATE_REGION`";
    assert_eq!(undocumented_keys(&sources, document), Vec::<String>::new());
    assert_eq!(unread_keys(&sources, document), Vec::<String>::new());
    assert_eq!(undocumented_keys(&sources, "nothing").len(), 1);
    assert_eq!(unread_keys(&sources, "`TOLLGATE_REGIONS`").len(), 1);
    let test = format!("fn f() {{}}\n#[cfg(test)]\nmod tests {{ {source} }}");
    assert_eq!(undocumented_keys(&[Source::new("src/config.rs", &test)], "nothing"), Vec::<String>::new());
    assert_eq!(
        undocumented_keys(&[Source::new("src/config/tests.rs", source)], "nothing"),
        Vec::<String>::new()
    );
}

#[test]
fn metrics_of_one_side_are_found() {
    let source = "fn f() { g(\"tollgate_build\"); g(\"tollgate_calls\"); g(\"tollgate: text\"); }";
    let sources = [Source::new("src/metrics.rs", source)];
    let table = "| `tollgate_build_info{version}` | x |\n| `tollgate_calls_total` | x |\n";
    assert_eq!(metric_differences(&sources, table), Vec::<String>::new());
    assert_eq!(
        metric_differences(&sources, "| `tollgate_build_info` |"),
        ["src/metrics.rs: tollgate_calls is not in docs/METRICS.md"]
    );
    let more = format!("{table}| `tollgate_more` | x |\n");
    assert_eq!(
        metric_differences(&sources, &more),
        ["docs/METRICS.md: tollgate_more is not in src/metrics.rs"]
    );
    let reserved = format!("{table}\n## Reserved\n\n| `tollgate_more` | x |\n");
    assert_eq!(metric_differences(&sources, &reserved), Vec::<String>::new());
    let reserved = "| `tollgate_build_info` |\n\n## Reserved\n\n| `tollgate_calls_total` | x |\n";
    assert_eq!(metric_differences(&sources, reserved).len(), 1);
    // The same literal elsewhere registers nothing.
    assert_eq!(metric_differences(&[Source::new("src/log.rs", source)], "").len(), 0);
}

#[test]
fn a_fuzz_target_that_is_never_built_is_found() {
    let files = ["fuzz/fuzz_targets/token.rs".to_owned()];
    assert_eq!(forgotten_targets(&files, "path = \"fuzz_targets/config.rs\"").len(), 1);
    assert_eq!(forgotten_targets(&files, "path = \"fuzz_targets/token.rs\""), Vec::<String>::new());
}

#[test]
fn a_threat_that_names_no_test_is_found() {
    let document = "\n## Attacks, and what stops them\n\n| attack | what stops it | held by |\n| --- | --- | --- |\n\
                    | `x` | `y` | `a::tests::it_holds`, chaos row `slow`, `tests/a.py`, gate `part::…` |\n\n## More\n\n| `z` |\n";
    let text = |path: &str, text: &str| (path.to_owned(), text.to_owned());
    let mut texts = vec![
        text("src/a.rs", "fn it_holds() {}"),
        text("tests/chaos/chaos.py", "def slow(stand):"),
        text("tests/a.py", ""),
        text("tests/gate/part.rs", ""),
    ];
    assert_eq!(absent_defences(document, &texts), Vec::<String>::new());
    texts[0].0 = "src/b.rs".to_owned();
    assert_eq!(absent_defences(document, &texts).len(), 1, "a test that has moved");
    texts[0] = text("crates/a/src/tests.rs", "fn it_holds() {}");
    assert_eq!(absent_defences(document, &texts), Vec::<String>::new());
    texts[0].1 = "fn it_held() {}".to_owned();
    assert_eq!(
        absent_defences(document, &texts),
        ["docs/THREATS.md names a::tests::it_holds, which does not exist"]
    );
}

#[test]
fn a_generated_piece_replaces_what_stands_in_its_place() {
    let piece = Piece { path: "a.md", begin: "<begin>\n".to_owned(), end: "<end>", text: "new\n".to_owned() };
    let made = with_piece("above\n<begin>\nold\nold\n<end>\nbelow <end>", &piece);
    assert_eq!(made.as_deref(), Some("above\n<begin>\nnew\n<end>\nbelow <end>"));
    assert_eq!(with_piece("above\n<begin>\nold", &piece), None);
    assert_eq!(with_piece("<end>", &piece), None);
}
