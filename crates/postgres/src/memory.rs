//! What a writer keeps in memory between its groups: what never changes once it was written, and what only this writer
//! changes. All of it is bounded: beyond its limit a part is forgotten, and read again.

use std::collections::{BTreeMap, HashMap, HashSet};

use tollgate_ledger::Form;
use tollgate_marketplace::{Hour, TagSet};
use tollgate_metering::aggregation::Rule;

use crate::schema::tags_key;

/// Most forms that are kept in memory, about 10 MB. Beyond it all are forgotten, and asked for again.
const FORMS_MAX: usize = 100_000;

/// Most rules of hours that are kept in memory. Beyond it all are forgotten, and asked for again: a product has some
/// hundred dimensions at most, and few hours are open.
const RULES_MAX: usize = if cfg!(test) { 3 } else { 20_000 };

/// Most tag sets that are kept in memory, at most 15 MB. Beyond it all are forgotten, and read again where they are
/// needed.
const TAG_SETS_MAX: usize = if cfg!(test) { 3000 } else { 50_000 };

/// What a writer knows, beside [`Facts`](crate::counting::Facts), which it outlives.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// The forms of accounts in open hours.
    pub(crate) forms: HashMap<(Hour, String), Form>,
    /// The rules with which open hours began.
    pub(crate) rules: HeldRules,
    pub(crate) tags: HeldTags,
}

/// For hours and their dimensions, the rule with which the hour's usage began.
#[derive(Debug, Default)]
pub(crate) struct HeldRules {
    hours: BTreeMap<Hour, HashMap<String, Rule>>,
    held: usize,
}

impl HeldRules {
    pub(crate) fn get(&self, hour: Hour, dimension: &str) -> Option<&Rule> {
        self.hours.get(&hour)?.get(dimension)
    }

    /// Notes the rule with which an hour began. It never changes.
    pub(crate) fn note(&mut self, hour: Hour, dimension: String, rule: Rule) {
        if self.held >= RULES_MAX {
            self.forget();
        }
        if self.hours.entry(hour).or_default().insert(dimension, rule).is_none() {
            self.held += 1;
        }
    }

    /// Forgets all: each is asked for again.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }

    fn close(&mut self, closed: Hour) {
        self.hours.retain(|hour, _| *hour > closed);
        self.held = self.hours.values().map(HashMap::len).sum();
    }
}

/// Which tag sets this writer has in its open slots, so that no slot gets more than AWS takes.
#[derive(Debug, Default)]
pub(crate) struct HeldTags {
    pub(crate) places: HashMap<PlaceKey, Held>,
    sets: usize,
    /// Some of this writer's slots are not in memory: a slot that is not has to be read.
    pub(crate) incomplete: bool,
}

/// An hour, a customer and a dimension.
pub(crate) type PlaceKey = (Hour, String, String);

#[derive(Debug, Clone, Default)]
pub(crate) struct Held {
    /// The first bytes of [`tags_key`].
    pub(crate) sets: HashSet<[u8; 8]>,
    pub(crate) bytes: usize,
}

impl HeldTags {
    /// Forgets all: each slot is read again.
    pub(crate) fn forget(&mut self) {
        *self = Self { incomplete: true, ..Self::default() };
    }

    /// Forgets all if it is too much.
    pub(crate) fn make_room(&mut self) {
        if self.sets.max(self.places.len()) >= TAG_SETS_MAX {
            self.forget();
        }
    }

    /// Notes a slot's tags as they were read. A slot without tags is noted too.
    pub(crate) fn note<'a>(&mut self, place: PlaceKey, tags: impl IntoIterator<Item = &'a TagSet>) {
        let held = self.places.entry(place).or_default();
        for tags in tags {
            if held.sets.insert(short(&tags_key(&tags.canonical()))) {
                held.bytes += tags.request_bytes();
                self.sets += 1;
            }
        }
    }

    pub(crate) fn add(&mut self, place: PlaceKey, tags: &TagSet, key: &[u8]) {
        self.make_room();
        // Of a slot that is not in memory, all sets or none.
        if self.incomplete && !self.places.contains_key(&place) {
            return;
        }
        let held = self.places.entry(place).or_default();
        if held.sets.insert(short(key)) {
            held.bytes += tags.request_bytes();
            self.sets += 1;
        }
    }

    /// Drops slots of closed hours, which take no more usage.
    pub(crate) fn close(&mut self, closed: Hour) {
        self.places.retain(|(hour, _, _), _| *hour > closed);
        self.sets = self.places.values().map(|held| held.sets.len()).sum();
    }
}

pub(crate) fn short(key: &[u8]) -> [u8; 8] {
    let mut short = [0; 8];
    short.copy_from_slice(&key[..8]);
    short
}

impl Memory {
    /// Notes the form of an account in an hour.
    pub(crate) fn note_form(&mut self, hour: Hour, account: String, form: Form) {
        if self.forms.len() >= FORMS_MAX {
            self.forms.clear();
        }
        self.forms.insert((hour, account), form);
    }

    /// Drops what is about closed hours.
    pub(crate) fn close(&mut self, closed: Hour) {
        self.forms.retain(|(hour, _), _| *hour > closed);
        self.rules.close(closed);
        self.tags.close(closed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_that_are_too_many_are_forgotten_and_those_of_closed_hours_too() {
        let (mut rules, hour) = (HeldRules::default(), Hour::from_number(7));
        let peak: Rule = "max 1 up:0".parse().unwrap();
        for (hour, dimension, rule) in
            [(hour, "a", Rule::DEFAULT), (hour, "b", peak), (hour.next(), "a", peak)]
        {
            rules.note(hour, dimension.to_owned(), rule);
        }
        let found = ["a", "b", "c"].map(|dimension| rules.get(hour, dimension).copied());
        assert_eq!(found, [Some(Rule::DEFAULT), Some(peak), None]);
        rules.close(hour);
        assert_eq!((rules.get(hour, "a"), rules.held), (None, 1));
        for dimension in ["b", "c", "d"] {
            rules.note(hour.next(), dimension.to_owned(), peak);
        }
        assert_eq!(
            (rules.get(hour.next(), "a"), rules.held),
            (None, 1),
            "all were forgotten before the last one"
        );
    }
}
