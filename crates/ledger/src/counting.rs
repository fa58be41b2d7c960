//! Events into slots: each key claimed, each quantity added to its hour, all in the transaction that is given.
//!
//! A group's events are added up in memory first: a thousand events of one dimension are a thousand keys, but one
//! slot.

use std::collections::BTreeMap;

use rusqlite::Transaction;

use super::ageing::{self, Overdue};
use super::closing::Hours;
use super::forms::Forms;
use super::keys::Keys;
use super::rows::Slot;
use super::slots::{self, Part, Past};
use super::{Settings, Taken, totals};
use tollgate_marketplace::{Hour, TagSet};
use tollgate_metering::event::Event;
use tollgate_time::Timestamp;

/// What a group adds to one slot.
struct Added<'a> {
    parts: BTreeMap<&'a TagSet, i128>,
    past: Past,
}

/// Where and when the group is counted.
struct Counter<'a> {
    transaction: &'a Transaction<'a>,
    settings: &'a Settings,
    hours: Hours,
    now: Timestamp,
    /// The count of running time, see `ageing`.
    running: i64,
    keys: Keys<'a>,
    forms: Forms<'a>,
    /// Where slots count that may have a record, each looked for once.
    placed: BTreeMap<Slot, Hour>,
    slots: BTreeMap<Slot, Added<'a>>,
    accepted: BTreeMap<&'a str, i128>,
}

pub(super) fn count<'a>(
    transaction: &'a Transaction<'a>,
    settings: &'a Settings,
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
        placed: BTreeMap::new(),
        slots: BTreeMap::new(),
        accepted: BTreeMap::new(),
    };
    let taken = events.iter().map(|event| counter.take(event)).collect::<rusqlite::Result<_>>()?;
    counter.write()?;
    Ok(taken)
}

impl<'a> Counter<'a> {
    fn take(&mut self, event: &'a Event) -> rusqlite::Result<Taken> {
        let at = event.at.max(self.settings.started_at);
        let own = Hour::of(at);
        let mut slot = Slot {
            pod: self.settings.pod.clone(),
            customer: event.customer.canonical(),
            dimension: event.dimension.clone(),
            hour: own,
        };
        slot.hour = self.place(&slot)?;
        let late_from = (slot.hour != own).then_some(own);
        let fits = self.forms.fits(&event.customer, slot.hour)?;
        // Most events are new, and fit: the key's insertion is its lookup too.
        if let Some(id) = &event.id
            && (!fits || !self.keys.claim(id, event)?)
            && let Some(same) = self.keys.same(id, event)?
        {
            return Ok(if same { Taken::Duplicate } else { Taken::Conflict });
        }
        if !fits {
            return Ok(Taken::OtherForm);
        }
        self.forms.set(&event.customer, slot.hour)?;
        let first_at = if late_from.is_some() { self.now } else { at };
        let amount = i128::from(event.quantity.micros());
        let overdue = Overdue::begins(&slot, self.now, self.running);
        let new = Added { parts: BTreeMap::new(), past: Past { first_at, late_from, overdue } };
        let added = self.slots.entry(slot).or_insert(new);
        *added.parts.entry(&event.tags).or_default() += amount;
        added.past.first_at = added.past.first_at.min(first_at);
        added.past.late_from = [added.past.late_from, late_from].into_iter().flatten().min();
        *self.accepted.entry(&event.dimension).or_default() += amount;
        Ok(Taken::Accepted)
    }

    /// The hour to which usage of this slot counts.
    fn place(&mut self, slot: &Slot) -> rusqlite::Result<Hour> {
        if !self.hours.may_have_records(slot.hour) {
            return self.hours.place(self.transaction, slot);
        }
        if let Some(hour) = self.placed.get(slot) {
            return Ok(*hour);
        }
        let hour = self.hours.place(self.transaction, slot)?;
        self.placed.insert(slot.clone(), hour);
        Ok(hour)
    }

    fn write(self) -> rusqlite::Result<()> {
        self.keys.close()?;
        for (slot, added) in self.slots {
            slots::add(self.transaction, &slot, added.parts, Part::Counted, added.past)?;
        }
        for (dimension, amount) in self.accepted {
            totals::accept(self.transaction, dimension, amount)?;
        }
        Ok(())
    }
}
