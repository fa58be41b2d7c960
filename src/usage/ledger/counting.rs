//! Events into sums: each key claimed, each quantity added to its hour, all in the transaction that is given.
//!
//! A group's events are added up in memory first: a thousand events of one dimension are a thousand keys, but one
//! row of sums.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use rusqlite::{OptionalExtension as _, Transaction, params};

use super::ageing::{self, Overdue};
use super::rows::{self, Slot};
use super::upkeep::{self, KEYS_KEPT};
use super::{Settings, Taken, claim, closed_hour};
use crate::clock::Timestamp;
use crate::marketplace::{Hour, TagSet};
use crate::usage::event::Event;

/// The most that a ledger counts of one dimension, in millionths: nine million million units. SQLite's integers end
/// a little above it.
const ACCEPTED_MAX: u64 = 9_000_000_000_000_000_000;

/// What a group adds to one row of sums.
struct Added {
    micros: u64,
    first_at: Timestamp,
    late_from: Option<Hour>,
    overdue: Overdue,
}

/// Where and when the group is counted.
struct Counter<'a> {
    transaction: &'a Transaction<'a>,
    settings: &'a Settings,
    current: Hour,
    closed: Hour,
    now: Timestamp,
    /// Keys are forgotten by it. A clock that is behind must not make a key old at once.
    seen_at: Timestamp,
    /// The count of running time, see `ageing`.
    running: i64,
    sums: BTreeMap<(Slot, &'a TagSet), Added>,
    totals: BTreeMap<&'a str, Total>,
}

/// A dimension's total.
struct Total {
    /// What the group adds; nothing where all its events were known before.
    added: Option<u64>,
    /// What still fits: no sum of its parts can be larger.
    room: u64,
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
        seen_at: now.max(upkeep::forgotten_before(transaction)?.plus(KEYS_KEPT)),
        running: ageing::running(transaction)?,
        sums: BTreeMap::new(),
        totals: BTreeMap::new(),
    };
    let taken = events.iter().map(|event| counter.take(event)).collect::<rusqlite::Result<_>>()?;
    counter.write()?;
    Ok(taken)
}

impl<'a> Counter<'a> {
    fn take(&mut self, event: &'a Event) -> rusqlite::Result<Taken> {
        let micros = event.quantity.micros();
        let fits = micros <= self.total(&event.dimension)?.room;
        // Most events are new, and there is room: the key's insertion is its lookup too.
        if let Some(id) = &event.id
            && (!fits || !self.claim(id, event)?)
            && let Some(known) = self.known(id, event)?
        {
            return Ok(known);
        }
        if !fits {
            return Ok(Taken::TooMuch);
        }
        let total = self.total(&event.dimension)?;
        total.room -= micros;
        total.added = Some(total.added.unwrap_or_default() + micros);
        let at = event.at.max(self.settings.started_at);
        let own = Hour::of(at);
        let (hour, mut late_from) = if own <= self.closed { (self.current, Some(own)) } else { (own, None) };
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
        let overdue = Overdue::begins(&slot, self.now, self.running);
        let added = Added { micros: 0, first_at, late_from, overdue };
        let added = self.sums.entry((slot, &event.tags)).or_insert(added);
        added.micros += micros;
        added.first_at = added.first_at.min(first_at);
        added.late_from = [added.late_from, late_from].into_iter().flatten().min();
        Ok(Taken::Accepted)
    }

    /// Claims an event's key; `false` where it was claimed before.
    fn claim(&self, id: &str, event: &Event) -> rusqlite::Result<bool> {
        let mut claim = self.transaction.prepare_cached(
            "INSERT INTO keys (id, content, seen_at) VALUES (?1, ?2, ?3) ON CONFLICT (id) DO NOTHING",
        )?;
        claim.execute(params![id, event.content, self.seen_at.unix_millis()]).map(|rows| rows > 0)
    }

    /// What became of an event whose key was claimed before.
    fn known(&self, id: &str, event: &Event) -> rusqlite::Result<Option<Taken>> {
        let mut find = self.transaction.prepare_cached("SELECT content FROM keys WHERE id = ?1")?;
        let content: Option<Vec<u8>> = find.query_row([id], |row| row.get(0)).optional()?;
        let same = |content| if content == event.content { Taken::Duplicate } else { Taken::Conflict };
        Ok(content.map(same))
    }

    fn total(&mut self, dimension: &'a str) -> rusqlite::Result<&mut Total> {
        match self.totals.entry(dimension) {
            Entry::Occupied(total) => Ok(total.into_mut()),
            Entry::Vacant(vacant) => {
                let mut find =
                    self.transaction.prepare_cached("SELECT micros FROM accepted WHERE dimension = ?1")?;
                let before: Option<i64> = find.query_row([dimension], |row| row.get(0)).optional()?;
                let before = u64::try_from(before.unwrap_or_default()).unwrap_or_default();
                Ok(vacant.insert(Total { added: None, room: ACCEPTED_MAX.saturating_sub(before) }))
            }
        }
    }

    fn write(self) -> rusqlite::Result<()> {
        for ((slot, tags), added) in self.sums {
            rows::add(
                self.transaction,
                &slot,
                tags,
                added.micros,
                added.first_at,
                added.late_from,
                added.overdue,
            )?;
        }
        let mut add = self.transaction.prepare_cached(
            "INSERT INTO accepted (dimension, micros) VALUES (?1, ?2)
             ON CONFLICT (dimension) DO UPDATE SET micros = micros + excluded.micros",
        )?;
        for (dimension, total) in self.totals {
            if let Some(micros) = total.added {
                add.execute(params![dimension, rows::signed(micros)])?;
            }
        }
        Ok(())
    }
}
