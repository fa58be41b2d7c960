//! The place of a member in an order, as it is written (`products[1].dimensions[0]`), and its line in a file.

use std::fmt;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Member(String),
    Item(usize),
}

/// A path from the top of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place(Vec<Step>);

impl Place {
    pub(super) const fn root() -> Self {
        Self(Vec::new())
    }

    pub(super) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn member(&self, name: &str) -> Self {
        self.with(Step::Member(name.to_owned()))
    }

    pub(super) fn item(&self, index: usize) -> Self {
        self.with(Step::Item(index))
    }

    fn with(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }

    /// The line of the member, or, if it is absent, of the table that should contain it.
    pub(super) fn line(&self, text: &str) -> usize {
        let Ok(table) = DeTable::parse(text) else { return 1 };
        let mut start = 0;
        let mut value: Option<&DeValue<'_>> = None;
        for step in &self.0 {
            let found = match (step, value) {
                (Step::Member(name), None) => entry(table.get_ref(), name),
                (Step::Member(name), Some(DeValue::Table(table))) => entry(table, name),
                (Step::Item(index), Some(DeValue::Array(items))) => {
                    items.get(*index).map(|item| (item.span().start, item.get_ref()))
                }
                _ => None,
            };
            let Some((at, next)) = found else { break };
            (start, value) = (at, Some(next));
        }
        line(text, start)
    }
}

/// The position of a member's name, and its value.
fn entry<'a, 'i>(table: &'a DeTable<'i>, name: &str) -> Option<(usize, &'a DeValue<'i>)> {
    let (key, value): (_, &Spanned<DeValue<'i>>) = table.iter().find(|(key, _)| key.get_ref() == name)?;
    Some((key.span().start, value.get_ref()))
}

/// The line of a byte, from 1.
pub(super) fn line(text: &str, byte: usize) -> usize {
    text.bytes().take(byte).filter(|b| *b == b'\n').count() + 1
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            match step {
                Step::Member(name) if index == 0 => f.write_str(name)?,
                Step::Member(name) => write!(f, ".{name}")?,
                Step::Item(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}
