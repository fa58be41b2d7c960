//! Texts stored as numbers: a million records name the same few products, customers, dimensions and pods.

use std::collections::HashMap;
use std::sync::Arc;

/// A text by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Name(u32);

impl Name {
    /// No name is lower.
    pub(super) const FIRST: Self = Self(0);
    /// No name is higher.
    pub(super) const LAST: Self = Self(u32::MAX);
}

/// The texts. They are never removed; the bill limits how many there are.
#[derive(Debug, Default)]
pub(super) struct Names {
    numbers: HashMap<Arc<str>, Name>,
    texts: Vec<Arc<str>>,
}

impl Names {
    pub(super) fn find(&self, text: &str) -> Option<Name> {
        self.numbers.get(text).copied()
    }

    pub(super) fn intern(&mut self, text: &str) -> Name {
        if let Some(name) = self.find(text) {
            return name;
        }
        let name =
            Name(u32::try_from(self.texts.len()).expect("4 billion names do not fit the bill's bound"));
        let text: Arc<str> = text.into();
        self.texts.push(Arc::clone(&text));
        self.numbers.insert(text, name);
        name
    }

    pub(super) fn text(&self, name: Name) -> &str {
        self.texts.get(name.0 as usize).map(AsRef::as_ref).unwrap_or_default()
    }
}
