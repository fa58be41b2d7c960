//! Events into sums: each key claimed, each quantity added to its hour, all in the transaction that is given.
//!
//! A group's events are added up in memory first: a thousand events of one dimension are a thousand keys, but one
//! row of sums.

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension as _, Transaction, params};

use super::rows::{self, Slot};
use super::{Settings, Taken, claim, current_hour, last_closed};
use crate::clock::Timestamp;
use crate::marketplace::{Hour, TagSet};
use crate::usage::event::Event;

/// What a group adds to one row of sums.
struct Added {
    micros: u64,
    first_at: Timestamp,
    late_from: Option<Hour>,
}

/// Where and when the group is counted.
struct Counter<'a> {
    transaction: &'a Transaction<'a>,
    settings: &'a Settings,
    current: Hour,
    closed: Option<Hour>,
    now: Timestamp,
    sums: BTreeMap<(Slot, &'a TagSet), Added>,
    accepted: BTreeMap<&'a str, u64>,
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
        current: current_hour(transaction, now, settings.settle)?,
        closed: last_closed(transaction)?.max(Some(Hour::latest_closed(now, settings.settle))),
        now,
        sums: BTreeMap::new(),
        accepted: BTreeMap::new(),
    };
    let taken = events.iter().map(|event| counter.take(event)).collect::<rusqlite::Result<_>>()?;
    counter.write()?;
    Ok(taken)
}

impl<'a> Counter<'a> {
    fn take(&mut self, event: &'a Event) -> rusqlite::Result<Taken> {
        if let Some(id) = &event.id
            && let Some(known) = self.claim_key(id, event)?
        {
            return Ok(known);
        }
        let at = event.at.max(self.settings.started_at);
        let own = Hour::of(at);
        let is_closed = self.closed.is_some_and(|closed| own <= closed);
        let (hour, mut late_from) = if is_closed { (self.current, Some(own)) } else { (own, None) };
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
        let micros = event.quantity.micros();
        let added = Added { micros: 0, first_at, late_from };
        let added = self.sums.entry((slot, &event.tags)).or_insert(added);
        added.micros = added.micros.saturating_add(micros);
        added.first_at = added.first_at.min(first_at);
        added.late_from = [added.late_from, late_from].into_iter().flatten().min();
        *self.accepted.entry(&event.dimension).or_default() += micros;
        Ok(Taken::Accepted)
    }

    /// Claims an event's key; `Some` when it was claimed before.
    fn claim_key(&self, id: &str, event: &Event) -> rusqlite::Result<Option<Taken>> {
        let claimed = self
            .transaction
            .prepare_cached("INSERT OR IGNORE INTO keys (id, content, seen_at) VALUES (?1, ?2, ?3)")?
            .execute(params![id, event.content, self.now.unix_millis()])?;
        if claimed == 1 {
            return Ok(None);
        }
        let mut find = self.transaction.prepare_cached("SELECT content FROM keys WHERE id = ?1")?;
        let content: Option<Vec<u8>> = find.query_row([id], |row| row.get(0)).optional()?;
        let same = content.is_some_and(|content| content == event.content);
        Ok(Some(if same { Taken::Duplicate } else { Taken::Conflict }))
    }

    fn write(self) -> rusqlite::Result<()> {
        for ((slot, tags), added) in self.sums {
            rows::add(self.transaction, &slot, tags, added.micros, added.first_at, added.late_from)?;
        }
        let mut add = self.transaction.prepare_cached(
            "INSERT INTO accepted (dimension, micros) VALUES (?1, ?2)
             ON CONFLICT (dimension) DO UPDATE SET micros = micros + excluded.micros",
        )?;
        for (dimension, micros) in self.accepted {
            add.execute(params![dimension, rows::signed(micros)])?;
        }
        Ok(())
    }
}
