//! The place of a member in an order, as it is written (`products[1].dimensions[0]`), and its line in a file.

use std::fmt;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

#[derive(Debug, Clone, PartialEq, Eq)]
enum PathSegment {
    Member(String),
    Item(usize),
}

/// A path from the top of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place(Vec<PathSegment>);

impl Place {
    pub(super) const fn root() -> Self {
        Self(Vec::new())
    }

    pub(super) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn member(&self, name: &str) -> Self {
        self.with(PathSegment::Member(name.to_owned()))
    }

    pub(super) fn item(&self, index: usize) -> Self {
        self.with(PathSegment::Item(index))
    }

    fn with(&self, segment: PathSegment) -> Self {
        let mut segments = self.0.clone();
        segments.push(segment);
        Self(segments)
    }
}

/// The lines of a file's places; it is parsed once for all of them.
pub(super) struct Lines<'a> {
    text: &'a str,
    document: Option<Spanned<DeTable<'a>>>,
}

impl<'a> Lines<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        Self { text, document: DeTable::parse(text).ok() }
    }

    /// The line of the member, or, if it is absent, of the table that should contain it.
    pub(super) fn of_place(&self, place: &Place) -> usize {
        let Some(table) = &self.document else { return 1 };
        let mut start = 0;
        let mut value: Option<&DeValue<'_>> = None;
        for segment in &place.0 {
            let found = match (segment, value) {
                (PathSegment::Member(name), None) => entry(table.get_ref(), name),
                (PathSegment::Member(name), Some(DeValue::Table(table))) => entry(table, name),
                (PathSegment::Item(index), Some(DeValue::Array(items))) => {
                    items.get(*index).map(|item| (item.span().start, item.get_ref()))
                }
                _ => None,
            };
            let Some((at, next)) = found else { break };
            (start, value) = (at, Some(next));
        }
        Self::of_byte(self.text, start)
    }

    /// The line of a byte, from 1.
    pub(super) fn of_byte(text: &str, byte: usize) -> usize {
        text.bytes().take(byte).filter(|b| *b == b'\n').count() + 1
    }
}

/// The position of a member's name, and its value.
fn entry<'a, 'i>(table: &'a DeTable<'i>, name: &str) -> Option<(usize, &'a DeValue<'i>)> {
    let (key, value): (_, &Spanned<DeValue<'i>>) = table.iter().find(|(key, _)| key.get_ref() == name)?;
    Some((key.span().start, value.get_ref()))
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, segment) in self.0.iter().enumerate() {
            match segment {
                PathSegment::Member(name) if index == 0 => f.write_str(name)?,
                PathSegment::Member(name) => write!(f, ".{name}")?,
                PathSegment::Item(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}
