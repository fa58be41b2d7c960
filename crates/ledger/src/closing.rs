//! Which hours are closed, and for which slots.
//!
//! - The clock closes an hour for all slots, `settle` after its end: later usage counts to the current hour.
//! - A shutdown seals slots of the open hour before its end. AWS takes one value for a slot, so a slot with a record
//!   takes no more usage. Every other slot of that hour stays open until the clock closes the hour; the next process
//!   can still bill usage in it.
//!
//! In `meta`, `last_closed` is the latest hour that is closed for all slots, and `sealed_early` the latest hour with
//! slots that were sealed before its end. Without the AWS door, a slot of an open hour can have a record only up to
//! `sealed_early`.

use std::time::Duration;

use rusqlite::{Connection, Transaction};

use super::rows::Slot;
use super::{LedgerSettings, claim, meta, set_meta};
use tollgate_marketplace::Hour;
use tollgate_time::Timestamp;

pub(super) const LAST_CLOSED: &str = "last_closed";
const SEALED_EARLY: &str = "sealed_early";

/// Which hours are closed for all slots at one moment. Pure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoursAt {
    /// The latest hour that is closed for all slots.
    pub closed: Hour,
    /// The hour to which late usage counts.
    pub current: Hour,
    /// The hour of the clock.
    pub present: Hour,
}

impl HoursAt {
    /// At `now`, in a ledger whose latest closed hour is stored as `stored`.
    #[must_use]
    pub fn new(stored: Option<Hour>, settle: Duration, now: Timestamp) -> Self {
        let present = Hour::of(now);
        let by_clock = Hour::latest_closed(now, settle);
        let closed =
            stored.filter(|hour| is_credible(*hour, present)).map_or(by_clock, |stored| stored.max(by_clock));
        Self { closed, current: present.max(closed.next()), present }
    }

    /// Usage in a later hour than this was put there by a clock that was ahead. `early` is the latest hour of which
    /// slots were sealed before its end: clocks differ by minutes, and late usage of such a slot is in the hour after
    /// it.
    #[must_use]
    pub fn farthest(self, early: Option<Hour>) -> Hour {
        let next = self.current.max(self.present.next());
        early.map_or(next, |early| next.max(early.next()))
    }
}

/// After a small step back of the clock, the latest closed hour may be one ahead of the present. If it is farther
/// ahead, the clock was wrong then or is wrong now; waiting for that hour would delay usage as long.
fn is_credible(hour: Hour, present: Hour) -> bool {
    hour <= present.next()
}

/// Which hours are closed at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hours {
    /// The latest hour that is closed for all slots.
    pub(super) closed: Hour,
    /// The hour to which late usage counts.
    pub(super) current: Hour,
    /// The hour of the clock.
    present: Hour,
    /// `last_closed` as it is stored.
    stored: Option<Hour>,
    /// The latest hour that was sealed early.
    early: Option<Hour>,
    /// Whether the AWS door may make records of any hour.
    has_door: bool,
}

impl Hours {
    pub(super) fn read(
        connection: &Connection,
        settings: &LedgerSettings,
        now: Timestamp,
    ) -> rusqlite::Result<Self> {
        Self::at(connection, settings.settle, settings.aws_door, now)
    }

    /// For a repair, with or without a sidecar: its usage counts to the current hour. No settle time is applied, and
    /// the application may have reported that hour itself.
    pub(super) fn for_repair(connection: &Connection, now: Timestamp) -> rusqlite::Result<Self> {
        Self::at(connection, Duration::ZERO, true, now)
    }

    fn at(
        connection: &Connection,
        settle: Duration,
        has_door: bool,
        now: Timestamp,
    ) -> rusqlite::Result<Self> {
        let stored = read(connection, LAST_CLOSED)?;
        let HoursAt { closed, current, present } = HoursAt::new(stored, settle, now);
        let early = read(connection, SEALED_EARLY)?.filter(|hour| is_credible(*hour, present));
        Ok(Self { closed, current, present, stored, early, has_door })
    }

    /// The latest hour that was closed before this moment; in a new ledger, the latest that is closed now.
    pub(super) fn closed_before(&self) -> Hour {
        self.stored.unwrap_or(self.closed)
    }

    /// Notes the latest closed hour; returns whether it is later than before.
    pub(super) fn close(&self, transaction: &Transaction<'_>) -> rusqlite::Result<bool> {
        if self.stored != Some(self.closed) {
            store(transaction, LAST_CLOSED, self.closed)?;
        }
        if self.stored.is_some_and(|stored| stored > self.closed) {
            tracing::warn!(event = "clock_went_back", closed = %self.closed, "the clock went back: hours that it had closed are open again");
        }
        Ok(self.stored.is_none_or(|stored| stored < self.closed))
    }

    /// Notes that slots of this hour were sealed before its end.
    pub(super) fn seal_early(&self, transaction: &Transaction<'_>, hour: Hour) -> rusqlite::Result<()> {
        if self.early.is_none_or(|early| early < hour) {
            store(transaction, SEALED_EARLY, hour)?;
        }
        Ok(())
    }

    /// Usage in a later hour than this was put there by a clock that was ahead.
    pub(super) fn farthest(&self) -> Hour {
        let Self { closed, current, present, early, .. } = *self;
        HoursAt { closed, current, present }.farthest(early)
    }

    /// Whether a slot of this hour may have a record although the hour is open.
    pub(super) fn may_have_records(&self, hour: Hour) -> bool {
        self.has_door || self.early.is_some_and(|early| hour <= early)
    }

    /// The hour to which usage of this slot counts: its own, or the first free one from the current hour on.
    pub(super) fn place(&self, transaction: &Transaction<'_>, slot: &Slot) -> rusqlite::Result<Hour> {
        let hour = if slot.hour <= self.closed { self.current } else { slot.hour };
        if !self.may_have_records(hour) {
            return Ok(hour);
        }
        claim::unclaimed(transaction, &Slot { hour, ..slot.clone() })
    }
}

/// Closes an hour for all slots, with or without records in it.
pub(super) fn close_whole(transaction: &Transaction<'_>, hour: Hour) -> rusqlite::Result<()> {
    store(transaction, LAST_CLOSED, hour)
}

fn read(connection: &Connection, key: &str) -> rusqlite::Result<Option<Hour>> {
    Ok(meta(connection, key)?.and_then(|text| text.parse().ok()).map(Hour::from_number))
}

fn store(transaction: &Transaction<'_>, key: &str, hour: Hour) -> rusqlite::Result<()> {
    set_meta(transaction, key, &hour.number().to_string())
}
