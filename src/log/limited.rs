//! Log lines that many requests would repeat: at most one a minute, with counts. Pure: time is an argument.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// The shortest time between two lines of one kind. After a quiet minute the next line is written at once.
pub const EVERY: Duration = Duration::from_secs(60);

/// How many labels one line counts separately; callers may send any number of labels. The rest is counted as `other`.
const LABELS_MAX: usize = 16;

/// What to do now.
#[derive(Debug, PartialEq, Eq)]
pub enum NextLine {
    /// Write a line with these counts.
    Line(Counts),
    /// Call [`Limited::due`] again at this time, or the counts are not written.
    At(Instant),
    /// Do nothing: another caller has been told to call again, or there is nothing to write.
    Nothing,
}

/// How often each label was counted since the previous line.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<String, u64>);

impl Counts {
    /// The sum of all counts.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, (label, count)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{label}: {count}")?;
        }
        Ok(())
    }
}

/// The state of one kind of line.
#[derive(Debug, Default)]
pub struct Limited {
    counts: Counts,
    written_at: Option<Instant>,
    /// A caller has been told to call again.
    promised: bool,
}

impl Limited {
    /// Counts an occurrence; call [`Limited::due`] afterwards.
    pub fn count(&mut self, label: &str, count: u64) {
        let counts = &mut self.counts.0;
        let label = if counts.len() < LABELS_MAX || counts.contains_key(label) { label } else { "other" };
        *counts.entry(label.to_owned()).or_default() += count;
    }

    /// What was counted since the previous line, for the end of the process.
    pub fn rest(&mut self) -> Option<Counts> {
        let rest = std::mem::take(&mut self.counts);
        (!rest.0.is_empty()).then_some(rest)
    }

    /// Whether to write a line now or later.
    pub fn due(&mut self, now: Instant) -> NextLine {
        if self.counts.0.is_empty() {
            return NextLine::Nothing;
        }
        match self.written_at.map(|at| at + EVERY).filter(|next| now < *next) {
            Some(_) if self.promised => NextLine::Nothing,
            Some(next) => {
                self.promised = true;
                NextLine::At(next)
            }
            None => {
                self.written_at = Some(now);
                self.promised = false;
                NextLine::Line(std::mem::take(&mut self.counts))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(due: NextLine) -> String {
        match due {
            NextLine::Line(counts) => counts.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_first_is_written_at_once_and_the_others_once_a_minute() {
        let (mut limited, start) = (Limited::default(), tollgate_clock::monotonic());
        assert_eq!(limited.due(start), NextLine::Nothing);
        limited.count("a", 2);
        limited.count("b", 1);
        assert_eq!(line(limited.due(start)), "a: 2, b: 1");
        let soon = start + EVERY / 2;
        limited.count("a", 1);
        assert_eq!(limited.due(soon), NextLine::At(start + EVERY));
        limited.count("a", 4);
        assert_eq!(limited.due(soon), NextLine::Nothing, "one asks already");
        assert_eq!(line(limited.due(start + EVERY)), "a: 5");
        assert_eq!(limited.due(start + 2 * EVERY), NextLine::Nothing, "nothing happened since");
        limited.count("c", 1);
        assert_eq!(line(limited.due(start + 3 * EVERY)), "c: 1");
    }

    #[test]
    fn what_waits_for_its_line_is_told_at_the_end() {
        let (mut limited, start) = (Limited::default(), tollgate_clock::monotonic());
        limited.count("a", 1);
        assert_eq!(line(limited.due(start)), "a: 1");
        assert_eq!(limited.rest(), None, "all is told");
        limited.count("a", 2);
        assert_eq!(limited.due(start), NextLine::At(start + EVERY));
        assert_eq!(limited.rest().map(|counts| counts.to_string()).as_deref(), Some("a: 2"));
        assert_eq!(limited.due(start + EVERY), NextLine::Nothing);
    }

    #[test]
    fn a_caller_that_names_many_things_does_not_make_the_line_longer() {
        let mut limited = Limited::default();
        for index in 0..10 * LABELS_MAX {
            limited.count(&index.to_string(), 1);
        }
        let NextLine::Line(counts) = limited.due(tollgate_clock::monotonic()) else {
            panic!("nothing is due")
        };
        assert_eq!((counts.total(), counts.0.len()), (10 * LABELS_MAX as u64, LABELS_MAX + 1));
    }
}
