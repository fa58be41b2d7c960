//! Who must never import whom: the table of `docs/ARCHITECTURE.md`, as data.

use std::collections::BTreeSet;

use crate::source::{Mention, Source, mentions};

/// Modules are named without `crate`; a name means the module and all below it, and `*` at a name's end, any ending.
/// Paths are prefixes; `*::a::b` is a path's end instead.
pub(crate) struct Rule {
    /// The modules that the rule binds; empty for all.
    pub(crate) within: &'static [&'static str],
    /// The modules that it leaves free.
    pub(crate) except: &'static [&'static str],
    pub(crate) never: &'static [&'static str],
    /// What `never` covers but is allowed.
    pub(crate) allow: &'static [&'static str],
    pub(crate) why: &'static str,
}

pub(crate) const RULES: &[Rule] = &[
    Rule {
        within: &[],
        except: &["clock"],
        never: &[
            "*::SystemTime::now",
            "*::Instant::now",
            "*::OffsetDateTime::now_utc",
            "*::OffsetDateTime::now_local",
            "*::UtcDateTime::now",
        ],
        allow: &[],
        why: "time comes from clock: wall time can be followed, monotonic time paused",
    },
    Rule {
        within: &[],
        except: &["config"],
        never: &["std::env"],
        allow: &[],
        why: "the environment is read in config, so that every setting has one table",
    },
    Rule {
        within: &["probe"],
        except: &[],
        never: &[
            "crate::registration",
            "crate::usage",
            "crate::ledger",
            "crate::metering",
            "crate::aws",
            "crate::api",
            "crate::receipt",
        ],
        allow: &[],
        why: "the probe server reads the published entitlement, so that nothing that hangs can hang a probe",
    },
    Rule {
        within: &["registration"],
        except: &[],
        never: &["crate::usage", "crate::ledger", "crate::metering", "crate::probe", "crate::api"],
        allow: &[],
        why: "the gate opens without knowing what is metered behind it, or who reads it",
    },
    Rule {
        within: &["usage::intake"],
        except: &[],
        never: &["crate::usage::sender"],
        allow: &[],
        why: "intake and sender meet in the ledger only",
    },
    Rule {
        within: &["usage::sender"],
        except: &[],
        never: &["crate::usage::intake"],
        allow: &[],
        why: "intake and sender meet in the ledger only",
    },
    Rule {
        within: &[],
        except: &["emulator", "cli::emulator"],
        never: &["crate::emulator"],
        allow: &[],
        why: "the sidecar reaches the emulator over HTTP, as it reaches AWS",
    },
    Rule {
        within: &["emulator"],
        except: &[],
        never: &["crate"],
        allow: &["crate::emulator", "crate::http", "crate::clock", "crate::time"],
        why: "a wire format shared with the client would let one mistake cancel the other",
    },
    Rule {
        within: &[
            "receipt",
            "registration::machine",
            "registration::allowance",
            "marketplace",
            "metering",
            "time",
            "doctor",
        ],
        // The double of the service, which takes as long as a test says.
        except: &["marketplace::scripted"],
        never: &["tokio", "hyper*", "std::fs", "std::net", "std::thread", "std::process"],
        allow: &[],
        why: "these decide; time and facts are arguments, effects are answers",
    },
    Rule {
        within: &[],
        except: &["app", "cli", "main"],
        never: &["crate::app"],
        allow: &[],
        why: "the wiring file knows every part, so no part may know it",
    },
    Rule {
        within: &[],
        except: &[],
        never: &["crate::*"],
        allow: &[],
        why: "a glob of the root hides what is imported",
    },
];

/// What breaks the rules, one line each.
pub(crate) fn violations(sources: &[Source], rules: &[Rule]) -> Vec<String> {
    let modules: BTreeSet<Vec<String>> = sources.iter().map(Source::module).collect();
    let mut found = Vec::new();
    for source in sources {
        let module = source.module().join("::");
        let bound: Vec<&Rule> = rules.iter().filter(|rule| binds(rule, &module)).collect();
        for mention in mentions(source, &modules) {
            for rule in bound.iter().filter(|rule| forbids(rule, &mention)) {
                let path = mention.path.join("::");
                found.push(format!("{}:{}: {path}: {}", source.path, mention.line, rule.why));
            }
        }
    }
    found
}

/// Module names in the rules that name no file, less those still to come: a rule that binds nothing would always hold.
/// One that has come is a finding too, so that the list of exceptions empties itself.
pub(crate) fn unknown_modules(sources: &[Source], rules: &[Rule], to_come: &[&str]) -> Vec<String> {
    let modules: Vec<String> = sources.iter().map(|source| source.module().join("::")).collect();
    let named: BTreeSet<&str> =
        rules.iter().flat_map(|rule| rule.within.iter().chain(rule.except)).copied().collect();
    let exists = |name: &str| modules.iter().any(|module| is_below(module, name));
    let missing = named.iter().filter(|name| !to_come.contains(name) && !exists(name));
    let arrived = to_come.iter().filter(|name| exists(name));
    missing
        .map(|name| format!("the rules name {name}, but there is no such module"))
        .chain(arrived.map(|name| format!("{name} has come: take it off MODULES_TO_COME")))
        .collect()
}

fn binds(rule: &Rule, module: &str) -> bool {
    let any = |names: &[&str]| names.iter().any(|name| is_below(module, name));
    (rule.within.is_empty() || any(rule.within)) && !any(rule.except)
}

fn is_below(module: &str, name: &str) -> bool {
    starts_with(&module.split("::").collect::<Vec<_>>(), name)
}

fn forbids(rule: &Rule, mention: &Mention) -> bool {
    let path: Vec<&str> = mention.path.iter().map(String::as_str).collect();
    let covered = |pattern: &&str| match pattern.strip_prefix("*::") {
        Some(end) => path.ends_with(&end.split("::").collect::<Vec<_>>()),
        None => starts_with(&path, pattern),
    };
    rule.never.iter().any(covered) && !rule.allow.iter().any(covered)
}

fn starts_with(path: &[&str], pattern: &str) -> bool {
    let pattern: Vec<&str> = pattern.split("::").collect();
    path.len() >= pattern.len()
        && pattern.iter().zip(path).all(|(pattern, segment)| match pattern.strip_suffix('*') {
            // A glob itself, not any name.
            Some("") => *segment == "*",
            Some(beginning) => segment.starts_with(beginning),
            None => pattern == segment,
        })
}
