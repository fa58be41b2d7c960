//! The runbook in the binary: `docs/RUNBOOK.md` has an entry for each code, with the code as its heading.
//!
//! Pure. Everybody who can run tollgate can read it, without the repository.

/// The runbook.
const TEXT: &str = include_str!("../docs/RUNBOOK.md");

/// The list of the log's events.
const LOG: &str = include_str!("../docs/LOG.md");

/// The command that explains a code, up to the code.
pub const COMMAND: &str = "tollgate explain ";

/// The `type` of a problem document (RFC 9457), up to the code.
pub const URN: &str = "urn:tollgate:";

/// The command that explains a code.
#[must_use]
pub fn command(code: &str) -> String {
    format!("{COMMAND}{code}")
}

/// An entry of the runbook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The code, as in the heading.
    pub code: &'a str,
    /// The entry's paragraphs, as Markdown.
    pub text: &'a str,
}

impl Entry<'_> {
    /// The code of the entry that this one refers to instead of repeating it, as in "As [Code](#code).".
    fn refers_to(&self) -> Option<&str> {
        let words = ["As [", "as [", "See [", "see [", " says ["];
        let (_, named) = words.iter().find_map(|words| self.text.split_once(words))?;
        named.split(']').next().filter(|named| *named != self.code)
    }
}

/// Every entry, in the runbook's order.
#[must_use]
pub fn entries() -> Vec<Entry<'static>> {
    let parts = TEXT.split("\n### ").skip(1).filter_map(|part| part.split_once('\n'));
    parts
        .filter(|(heading, _)| heading.chars().all(|c| c.is_ascii_alphanumeric()))
        .map(|(code, text)| {
            let text = text.split_once("\n## ").map_or(text, |(text, _)| text);
            Entry { code, text: text.trim() }
        })
        .collect()
}

/// The entry of a code, in any case, or of a problem's `type`; and the entry that it refers to, if any.
#[must_use]
pub fn find(code: &str) -> Option<(Entry<'static>, Option<Entry<'static>>)> {
    let all = entries();
    let named = |code: &str| all.iter().copied().find(|entry| entry.code.eq_ignore_ascii_case(code));
    let code = code.strip_prefix(URN).unwrap_or(code);
    match named(code) {
        Some(found) => Some((found, found.refers_to().and_then(named))),
        None => symptom(code).map(|found| (found, None)),
    }
}

/// The runbook's section for what `kubectl get pods` shows of a pod, such as `Init:1/2`: the section whose heading
/// contains it.
fn symptom(shown: &str) -> Option<Entry<'static>> {
    // A word without a colon is a state or a code.
    let shown = Some(shown).filter(|shown| shown.contains(':'))?;
    let (_, sections) = TEXT.split_once("\n## By symptom\n")?;
    let (sections, _) = sections.split_once("\n## ")?;
    let mut sections = sections.split("\n### ").skip(1).filter_map(|section| section.split_once('\n'));
    let is_shown = |word: &str| word.trim_matches(',').eq_ignore_ascii_case(shown);
    let (heading, text) = sections.find(|(heading, _)| heading.split_whitespace().any(is_shown))?;
    Some(Entry { code: heading, text: text.trim() })
}

/// The rows of the tables in the runbook and in the list of events that are about a state, an exit code or an event:
/// one line per column, with the column's name.
#[must_use]
pub fn row_of(name: &str) -> Vec<String> {
    let mut said = Vec::new();
    for text in [TEXT, LOG] {
        let mut columns: Vec<&str> = Vec::new();
        for line in text.lines() {
            let Some(inner) = line.strip_prefix('|').and_then(|line| line.strip_suffix('|')) else {
                columns.clear();
                continue;
            };
            let cells: Vec<&str> = inner.split(" | ").map(str::trim).collect();
            let [first, rest @ ..] = &cells[..] else { continue };
            if columns.is_empty() {
                columns = cells;
            } else if ["state", "code", "event"].contains(&columns[0])
                && first.split(", ").any(|named| named.trim_matches('`').eq_ignore_ascii_case(name))
            {
                said.push(format!("{} {}", columns[0], first.replace('`', "")));
                said.extend(
                    columns[1..]
                        .iter()
                        .zip(rest)
                        .map(|(column, cell)| format!("{column}: {}", without_links(cell))),
                );
            }
        }
    }
    said
}

/// Markdown as plain text: a link becomes its words, and a paragraph one line. Tables and code stay as they are.
#[must_use]
pub fn plain(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut code = false;
    let mut joins = false;
    for line in text.lines() {
        if line.starts_with("```") {
            code = !code;
            joins = false;
            continue;
        }
        let verbatim = code || line.starts_with('|');
        let begins = line.is_empty()
            || verbatim
            || line.starts_with("- ")
            || line.starts_with(|c: char| c.is_ascii_digit());
        let line = if code { format!("    {line}") } else { without_links(line) };
        match lines.last_mut() {
            Some(last) if joins && !begins => {
                last.push(' ');
                last.push_str(line.trim_start());
            }
            _ => lines.push(line.clone()),
        }
        joins = !verbatim && !line.is_empty();
    }
    lines
}

/// Removes stars outside code, which are emphasis.
fn without_emphasis(line: &str) -> String {
    let parts = line.split('`').enumerate();
    let parts: Vec<String> =
        parts.map(|(n, part)| if n % 2 == 0 { part.replace('*', "") } else { part.to_owned() }).collect();
    parts.join("`")
}

fn without_links(line: &str) -> String {
    let line = without_emphasis(line);
    let mut rest = line.as_str();
    let mut text = String::new();
    while let Some((before, after)) = rest.split_once('[') {
        let Some((words, target)) = after.split_once("](") else { break };
        let Some((_, behind)) = target.split_once(')') else { break };
        text.push_str(before);
        text.push_str(words);
        rest = behind;
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entitlement::reason::codes;

    #[test]
    fn every_code_is_explained_by_more_than_a_reference() {
        for code in codes() {
            assert_eq!(find(&format!("{URN}{code}")), find(code));
            let found = find(&code.to_ascii_lowercase());
            assert!(found.is_some_and(|(entry, _)| entry.code == code), "{code}");
            let said = found.map(|(entry, other)| other.unwrap_or(entry).text).unwrap_or_default();
            assert!(!said.is_empty() && !said.starts_with("As ["), "{code}: {said}");
        }
        assert_eq!(find("NoSuchCode"), None);
    }

    #[test]
    fn whatever_tollgate_prints_is_explained() {
        for (name, says) in [
            ("misconfigured", "who acts: the operator"),
            ("Entitled", "gate: open"),
            ("78", "meaning: wrong configuration"),
            ("127", "cannot be started"),
            ("143", "a second signal"),
            ("record_dead", "when: a record is a dead letter"),
        ] {
            assert!(row_of(name).join("\n").contains(says), "{name}: {:?}", row_of(name));
        }
        assert!(row_of("Deployment").is_empty() && row_of("").is_empty() && row_of("nonsense").is_empty());
        let (entry, other) = find("TollgateLedgerFull").unwrap();
        assert_eq!((entry.code, other.unwrap().code), ("TollgateLedgerFull", "LedgerUnavailable"));
        for code in ["GateOpen", "NoAnswerYet", "OutputUnwritable"] {
            assert!(find(code).is_some(), "{code}");
        }
    }

    #[test]
    fn what_kubectl_shows_of_a_pod_is_explained() {
        for shown in ["Init:0/2", "Init:1/2", "init:crashloopbackoff", "Init:Error", "Init:ErrImagePull"] {
            let (entry, other) = find(shown).expect(shown);
            assert!(entry.code.to_lowercase().contains(&shown.to_lowercase()), "{shown}: {entry:?}");
            assert!(entry.text.len() > 100 && other.is_none(), "{shown}: {entry:?}");
        }
        assert!(find("Init:7/9").is_none() && find(":").is_none());
    }

    #[test]
    fn nothing_is_said_twice_and_nothing_is_left_to_fill_in() {
        let mut seen = std::collections::BTreeSet::new();
        for entry in entries() {
            let reference = entry.refers_to().is_some() && entry.text.lines().count() == 1;
            assert!(reference || seen.insert(entry.text), "{} has another's text", entry.code);
            assert!(!entry.text.contains('<'), "{}: {}", entry.code, entry.text);
        }
    }

    #[test]
    fn headings_are_unique() {
        let all = entries();
        let unique: std::collections::BTreeSet<&str> = all.iter().map(|entry| entry.code).collect();
        assert_eq!(all.len(), unique.len());
    }

    #[test]
    fn paragraphs_become_lines_and_links_words() {
        let text = "One [two](#two)\nthree.\n\n- a\n  b\n- c\n\n```sh\nrun it\n```\n| x | y |\n| - | - |";
        let lines = ["One two three.", "", "- a b", "- c", "", "    run it", "| x | y |", "| - | - |"];
        assert_eq!(plain(text), lines);
        assert_eq!(plain("a [b] c"), ["a [b] c"]);
        assert_eq!(plain("*one* and **two** on `*`"), ["one and two on `*`"]);
    }
}
