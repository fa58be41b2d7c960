//! Events into slots: each key claimed, each quantity added to its hour, all in the transaction that is given.
//!
//! A group's events are added up in memory first: a thousand events of one dimension are a thousand keys, but one
//! slot.

use std::collections::BTreeMap;

use rusqlite::Transaction;

use super::ageing::{self, Overdue};
use super::forms::Forms;
use super::keys::Keys;
use super::rows::Slot;
use super::slots::{self, Part, Past};
use super::{Settings, Taken, claim, closed_hour, totals};
use crate::marketplace::{Hour, TagSet};
use crate::usage::event::Event;
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
    current: Hour,
    closed: Hour,
    now: Timestamp,
    /// The count of running time, see `ageing`.
    running: i64,
    keys: Keys<'a>,
    forms: Forms<'a>,
    slots: BTreeMap<Slot, Added<'a>>,
    accepted: BTreeMap<&'a str, i128>,
}

pub(super) fn count<'a>(
    transaction: &'a Transaction<'a>,
    settings: &'a Settings,
    events: &'a [Event],
    now: Timestamp,
) -> rusqlite::Result<Vec<Taken>> {
    let closed = closed_hour(transaction, now, settings.settle)?;
    let mut counter = Counter {
        transaction,
        settings,
        current: Hour::of(now).max(closed.next()),
        closed,
        now,
        running: ageing::running(transaction)?,
        keys: Keys::open(transaction, settings, now)?,
        forms: Forms::new(transaction),
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
        let (hour, mut late_from) = if own <= self.closed { (self.current, Some(own)) } else { (own, None) };
        let fits = self.forms.fits(&event.customer, hour)?;
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
        self.forms.set(&event.customer, hour)?;
        let mut slot = Slot {
            pod: self.settings.pod.clone(),
            customer: event.customer.canonical(),
            dimension: event.dimension.clone(),
            hour,
        };
        if self.settings.aws_door {
            slot.hour = claim::unclaimed(self.transaction, &slot)?;
            late_from = late_from.or_else(|| (slot.hour != hour).then_some(own));
        }
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
