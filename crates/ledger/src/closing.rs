//! Which hours are closed, and for whom.
//!
//! - The clock closes an hour for everybody, `settle` after its end: what comes later counts to the current hour.
//! - A shutdown seals the open hour before its end. AWS takes one value for a slot, so a slot with a record takes no
//!   usage any more; every other slot of that hour stays open until the clock closes the hour. The next process bills
//!   in it what was not reported yet.
//!
//! `meta`: `last_closed` is the latest hour that is closed for everybody, `sealed_early` the latest that was sealed
//! before its end. Only up to `sealed_early` is a slot of an open hour looked for among the records.

use std::time::Duration;

use rusqlite::{Connection, Transaction};

use super::rows::Slot;
use super::{Settings, claim, meta, set_meta};
use tollgate_marketplace::Hour;
use tollgate_time::Timestamp;

const LAST_CLOSED: &str = "last_closed";
const SEALED_EARLY: &str = "sealed_early";

/// The hours as they stand at a moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hours {
    /// The latest hour that takes no usage of anybody.
    pub(super) closed: Hour,
    /// The hour that counts what comes late.
    pub(super) current: Hour,
    /// The hour of the clock.
    present: Hour,
    /// `last_closed` as it is stored.
    stored: Option<Hour>,
    /// The latest hour that was sealed early.
    early: Option<Hour>,
    /// Records of any hour may come through the AWS door.
    has_door: bool,
}

impl Hours {
    pub(super) fn read(
        connection: &Connection,
        settings: &Settings,
        now: Timestamp,
    ) -> rusqlite::Result<Self> {
        Self::at(connection, settings.settle, settings.aws_door, now)
    }

    /// As a repair needs them, whoever makes it: what it moves counts to the current hour, before which no hour waits
    /// for its late events, and the application may have reported that hour itself.
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
        let present = Hour::of(now);
        // After a small step back of the clock an hour may be closed that is one ahead. Farther ahead, the clock was
        // wrong then or is now, and to wait for that hour would keep usage for as long.
        let counts = |hour: &Hour| *hour <= present.next();
        let by_clock = Hour::latest_closed(now, settle);
        let closed = stored.filter(counts).map_or(by_clock, |stored| stored.max(by_clock));
        Ok(Self {
            closed,
            current: present.max(closed.next()),
            present,
            stored,
            early: read(connection, SEALED_EARLY)?.filter(counts),
            has_door,
        })
    }

    /// The latest hour that was closed before this moment; the present one in a new ledger.
    pub(super) fn closed_before(&self) -> Hour {
        self.stored.unwrap_or(self.closed)
    }

    /// Notes what the clock has closed; whether that is an hour more than before.
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

    /// Usage beyond this hour was put there by a clock that was ahead: clocks differ by minutes, and what is late for a
    /// slot that was sealed early is in the hour after it.
    pub(super) fn farthest(&self) -> Hour {
        let next = self.current.max(self.present.next());
        self.early.map_or(next, |early| next.max(early.next()))
    }

    /// Whether a slot of this hour may have a record although the hour is open.
    pub(super) fn may_have_records(&self, hour: Hour) -> bool {
        self.has_door || self.early.is_some_and(|early| hour <= early)
    }

    /// The hour to which usage of this slot counts: its own, or the first one from the current on that takes it.
    pub(super) fn place(&self, transaction: &Transaction<'_>, slot: &Slot) -> rusqlite::Result<Hour> {
        let hour = if slot.hour <= self.closed { self.current } else { slot.hour };
        if !self.may_have_records(hour) {
            return Ok(hour);
        }
        claim::unclaimed(transaction, &Slot { hour, ..slot.clone() })
    }
}

/// Closes an hour for all customers, with or without a record in it.
pub(super) fn close_whole(transaction: &Transaction<'_>, hour: Hour) -> rusqlite::Result<()> {
    store(transaction, LAST_CLOSED, hour)
}

fn read(connection: &Connection, key: &str) -> rusqlite::Result<Option<Hour>> {
    Ok(meta(connection, key)?.and_then(|text| text.parse().ok()).map(Hour::from_number))
}

fn store(transaction: &Transaction<'_>, key: &str, hour: Hour) -> rusqlite::Result<()> {
    set_meta(transaction, key, &hour.number().to_string())
}
