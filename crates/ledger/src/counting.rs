//! Counts events into slots: claims each key and adds each quantity to its hour, all in the given transaction.
//!
//! A group's events are added up in memory first: a thousand events of one dimension are a thousand keys but only one
//! slot.

use std::collections::BTreeMap;

use rusqlite::Transaction;

use super::ageing::{self, Overdue};
use super::closing::Hours;
use super::forms::Forms;
use super::keys::Keys;
use super::lifecycle::Licenses;
use super::rows::Slot;
use super::slots::{self, Past};
use super::{LedgerSettings, Taken, totals};
use tollgate_marketplace::{Customer, Hour, TagSet};
use tollgate_metering::aggregation::Rule;
use tollgate_metering::event::Event;
use tollgate_time::Timestamp;

/// Where an event counts, without copying its texts: most events of a group count to one slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place<'a> {
    customer: &'a Customer,
    dimension: &'a str,
    hour: Hour,
}

/// What a group of events counts to one slot.
struct Added<'a> {
    rule: &'a Rule,
    parts: BTreeMap<&'a TagSet, i128>,
    past: Past,
}

/// The state while one group is counted.
struct Counter<'a> {
    transaction: &'a Transaction<'a>,
    settings: &'a LedgerSettings,
    hours: Hours,
    now: Timestamp,
    /// The count of running time, see `ageing`.
    running: i64,
    keys: Keys<'a>,
    forms: Forms<'a>,
    licenses: Licenses<'a>,
    /// The hour to which usage of a place counts; each is looked up once.
    hour_of: BTreeMap<Place<'a>, Hour>,
    /// Whether a slot may have begun with another rule than its dimension has now; if so, the slots' rules, each looked
    /// up once.
    rules_differ: bool,
    rule_of: BTreeMap<Place<'a>, Option<Rule>>,
    added: BTreeMap<Place<'a>, Added<'a>>,
}

pub(super) fn count<'a>(
    transaction: &'a Transaction<'a>,
    settings: &'a LedgerSettings,
    rules_differ: bool,
    events: &'a [Event],
    now: Timestamp,
) -> rusqlite::Result<Vec<Taken>> {
    let mut counter = Counter {
        transaction,
        settings,
        hours: Hours::read(transaction, settings, now)?,
        now,
        running: ageing::running(transaction)?,
        keys: Keys::open(transaction, settings)?,
        forms: Forms::new(transaction),
        licenses: Licenses::new(transaction, now),
        hour_of: BTreeMap::new(),
        rules_differ,
        rule_of: BTreeMap::new(),
        added: BTreeMap::new(),
    };
    let taken = events.iter().map(|event| counter.take(event)).collect::<rusqlite::Result<_>>()?;
    counter.write()?;
    Ok(taken)
}

impl<'a> Counter<'a> {
    fn take(&mut self, event: &'a Event) -> rusqlite::Result<Taken> {
        let at = event.at.max(self.settings.started_at);
        let own = Hour::of(at);
        let mut place = Place { customer: &event.customer, dimension: &event.dimension, hour: own };
        place.hour = self.hour(place)?;
        let late_from = (place.hour != own).then_some(own);
        let ended = self.licenses.have_ended(&event.customer, event.at)?;
        let other_rule = self.other_rule(place)?;
        let fits = !ended && other_rule.is_none() && self.forms.fits(&event.customer, place.hour)?;
        let amount = event.quantity.signed();
        // Most events are new and fit, so the key's insertion serves as its lookup. An event of 0 changes no amount,
        // however often it is counted: its key is not kept, so that events that cost nothing cannot fill the ledger.
        if let Some(id) = &event.id
            && (!fits || amount == 0 || !self.keys.claim(id, event)?)
            && let Some(same) = self.keys.same(id, event)?
        {
            return Ok(if same { Taken::Duplicate } else { Taken::Conflict });
        }
        if ended {
            return Ok(Taken::Deprovisioned);
        }
        if let Some(rule) = other_rule {
            return Ok(Taken::OtherRule(rule));
        }
        if !fits {
            return Ok(Taken::OtherForm);
        }
        self.forms.set(&event.customer, place.hour)?;
        let first_at = if late_from.is_some() { self.now } else { at };
        let settings = self.settings;
        let added = self.added.entry(place).or_insert_with(|| Added {
            rule: settings.rules.of(place.dimension),
            parts: BTreeMap::new(),
            past: Past {
                first_at,
                late_from,
                overdue: Overdue::begins(&slot(settings, place), self.now, self.running),
            },
        });
        let part = added.parts.entry(&event.tags).or_default();
        *part = added.rule.aggregate(Some(*part), amount);
        added.past.first_at = added.past.first_at.min(first_at);
        added.past.late_from = [added.past.late_from, late_from].into_iter().flatten().min();
        Ok(Taken::Accepted)
    }

    /// The rule of an open slot, if it began with another one than its dimension has now.
    fn other_rule(&mut self, place: Place<'a>) -> rusqlite::Result<Option<Rule>> {
        if !self.rules_differ {
            return Ok(None);
        }
        let began_with = match self.rule_of.get(&place) {
            Some(rule) => *rule,
            None => {
                let rule = slots::rule(self.transaction, &slot(self.settings, place))?;
                self.rule_of.insert(place, rule);
                rule
            }
        };
        Ok(began_with.filter(|rule| rule != self.settings.rules.of(place.dimension)))
    }

    /// The hour to which usage of this place counts.
    fn hour(&mut self, place: Place<'a>) -> rusqlite::Result<Hour> {
        if let Some(hour) = self.hour_of.get(&place) {
            return Ok(*hour);
        }
        let hour = self.hours.place(self.transaction, &slot(self.settings, place))?;
        self.hour_of.insert(place, hour);
        Ok(hour)
    }

    fn write(self) -> rusqlite::Result<()> {
        self.keys.close()?;
        let mut accepted: BTreeMap<&str, i128> = BTreeMap::new();
        for (place, added) in self.added {
            let slot = slot(self.settings, place);
            let grown = slots::count(self.transaction, &slot, added.rule, &added.parts, added.past)?;
            *accepted.entry(place.dimension).or_default() += grown;
        }
        for (dimension, amount) in accepted {
            totals::accept(self.transaction, dimension, amount)?;
        }
        Ok(())
    }
}

fn slot(settings: &LedgerSettings, place: Place<'_>) -> Slot {
    Slot {
        pod: settings.pod.clone(),
        customer: place.customer.canonical(),
        dimension: place.dimension.to_owned(),
        hour: place.hour,
    }
}
