//! Decides how many seconds of open gate count to which hour: the usage of a dimension with a heartbeat. Pure: the gate
//! and both clocks are arguments.
//!
//! - How much time passed is known from the monotonic clock, so that a wall clock that is set changes no amount.
//! - To which hour it belongs is known from the wall clock. Between two steps of that clock time is followed without
//!   gaps, so that an hour in which the gate was open throughout has exactly 3,600 seconds.
//! - Time is handed out in whole seconds. What is less than a second counts to the next hour of this process.
//! - Time that could not be written stays owed, for each dimension, and is handed out again.

use std::collections::BTreeMap;
use std::time::Duration;

use super::event::Event;
use tollgate_marketplace::{Amount, Customer, Hour, Quantity, TagSet};
use tollgate_time::Timestamp;

/// How the wall clock of the process moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passing {
    /// With real time. When it is set, no time has passed.
    Real,
    /// As somebody moves it, in a rehearsal: when it is set forward, that time has passed.
    Simulated,
}

/// A difference between the two clocks from which on the wall clock was set. A smaller one is the time between reading
/// the one and the other.
const STEP_MILLIS: u64 = 1_000;

/// The longest time that a simulated clock passes at once: setting it by more is the correction of a wrong date.
const SIMULATED_MILLIS_MAX: u64 = 366 * 24 * HOUR_MILLIS;

const HOUR_MILLIS: u64 = 3_600_000;

/// By so much a clock that is set back makes no hour longer: the time counts to the next hour. Otherwise a correction
/// of a second would round a full hour up to two. No more than a kill may lose.
const HELD_MILLIS_MAX: u64 = 10_000;

/// For how many hours is known how much time they have; older ones take no more.
const HOURS_KNOWN_MAX: usize = 48;

/// A dimension that is counted by the time of the open gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    /// The dimension.
    pub dimension: String,
    /// The quantity for an hour. In a ledger the event's own unit is this dimension's unit for a second.
    pub quantity: Quantity,
}

/// Seconds that are handed out to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    dimension: usize,
    /// When the gate was open.
    pub hour: Hour,
    /// How long.
    pub seconds: u64,
}

/// The time of the open gate that is not in the ledger yet.
#[derive(Debug)]
pub struct OpenTime {
    heartbeats: Vec<Heartbeat>,
    passing: Passing,
    open: bool,
    /// Nothing counts any more.
    ended: bool,
    seen: Option<Seen>,
    /// What belongs to each hour and was not handed out, in milliseconds.
    by_hour: BTreeMap<Hour, u64>,
    /// All that belongs to each hour, in milliseconds.
    filled: BTreeMap<Hour, u64>,
    /// What the next hour gets, in milliseconds.
    held: u64,
    /// Seconds that are to be handed out, by dimension.
    owed: BTreeMap<(Hour, usize), u64>,
}

/// The latest observation, in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Seen {
    running: u64,
    /// The wall clock, as followed since its latest step.
    wall: i64,
}

impl OpenTime {
    /// No time yet; the gate is shut.
    #[must_use]
    pub const fn new(heartbeats: Vec<Heartbeat>, passing: Passing) -> Self {
        Self {
            heartbeats,
            passing,
            open: false,
            ended: false,
            seen: None,
            by_hour: BTreeMap::new(),
            filled: BTreeMap::new(),
            held: 0,
            owed: BTreeMap::new(),
        }
    }

    /// Sees the gate at a moment: `running` since the process began, and the wall clock. The gate was before as the
    /// observation before saw it.
    pub fn observe(&mut self, open: bool, running: Duration, wall: Timestamp) {
        let running = u64::try_from(running.as_millis()).unwrap_or(u64::MAX);
        let wall = wall.unix_millis();
        let Some(seen) = self.seen else {
            (self.seen, self.open) = (Some(Seen { running, wall }), open && !self.ended);
            return;
        };
        let passed = running.saturating_sub(seen.running);
        let followed = seen.wall.saturating_add_unsigned(passed);
        let step = wall.saturating_sub(followed);
        let stepped = step.unsigned_abs() >= STEP_MILLIS;
        let simulated = self.passing == Passing::Simulated
            && stepped
            && step > 0
            && step.unsigned_abs() <= SIMULATED_MILLIS_MAX;
        if self.open {
            self.count(seen.wall, if simulated { wall } else { followed });
        }
        let wall = if stepped { wall } else { followed };
        self.seen = Some(Seen { running: running.max(seen.running), wall });
        self.open = open && !self.ended;
    }

    /// Nothing counts from now on; what was held for the next hour counts to this one.
    pub fn end(&mut self) {
        (self.ended, self.open) = (true, false);
        let held = std::mem::take(&mut self.held);
        if let Some(seen) = self.seen.filter(|_| held > 0) {
            *self.by_hour.entry(hour_of(seen.wall)).or_default() += held;
        }
    }

    /// Attributes the time from one moment of the wall clock to another.
    fn count(&mut self, from: i64, to: i64) {
        let mut from = from;
        while from < to {
            let hour = hour_of(from);
            let end = to.min(hour.end().unix_millis());
            let wanted = end.abs_diff(from) + self.held;
            let filled = self.filled.entry(hour).or_default();
            let room = HOUR_MILLIS.saturating_sub(*filled);
            let taken = wanted.min(room).max(wanted.saturating_sub(HELD_MILLIS_MAX));
            *filled += taken;
            self.held = wanted - taken;
            if taken > 0 {
                *self.by_hour.entry(hour).or_default() += taken;
            }
            if end <= from {
                return; // The calendar's last hour.
            }
            from = end;
        }
        while self.filled.len() > HOURS_KNOWN_MAX {
            self.filled.pop_first();
        }
    }

    /// Hands out all whole seconds. Each beat is either written, or given back by [`OpenTime::failed`].
    pub fn take(&mut self) -> Vec<Beat> {
        let latest = self.by_hour.keys().next_back().copied();
        let mut rest = 0;
        for (hour, millis) in std::mem::take(&mut self.by_hour) {
            let millis = millis + rest;
            let seconds = millis / 1_000;
            rest = millis % 1_000;
            if seconds > 0 {
                for dimension in 0..self.heartbeats.len() {
                    *self.owed.entry((hour, dimension)).or_default() += seconds;
                }
            }
        }
        self.by_hour.extend(latest.filter(|_| rest > 0).map(|hour| (hour, rest)));
        let owed = std::mem::take(&mut self.owed).into_iter();
        owed.map(|((hour, dimension), seconds)| Beat { dimension, hour, seconds }).collect()
    }

    /// A beat was not written: it is handed out again.
    pub fn failed(&mut self, beat: Beat) {
        *self.owed.entry((beat.hour, beat.dimension)).or_default() += beat.seconds;
    }

    /// The hour of a beat takes none of its seconds: they are handed out again for the next hour.
    pub fn later(&mut self, beat: Beat) {
        self.failed(Beat { hour: beat.hour.next(), ..beat });
    }

    /// Seconds that were counted and are not written, by dimension.
    #[must_use]
    pub fn unwritten(&self) -> BTreeMap<&str, u64> {
        let mut seconds = BTreeMap::new();
        for (&(_, dimension), owed) in &self.owed {
            *seconds.entry(self.heartbeats[dimension].dimension.as_str()).or_default() += owed;
        }
        seconds
    }

    /// A beat as an event. It has no `id`: this process counts each second once.
    #[must_use]
    pub fn event(&self, beat: &Beat) -> Event {
        let Heartbeat { dimension, quantity } = &self.heartbeats[beat.dimension];
        // AWS's largest quantity for 300 years still is an amount.
        let micros = u128::from(quantity.micros()) * u128::from(beat.seconds);
        Event {
            id: None,
            dimension: dimension.clone(),
            quantity: Amount::from_micros(micros).unwrap_or(Amount::MAX),
            at: beat.hour.start(),
            tags: TagSet::default(),
            customer: Customer::Own,
            content: [0; 32],
        }
    }

    /// The dimension of a beat.
    #[must_use]
    pub fn dimension(&self, beat: &Beat) -> &str {
        &self.heartbeats[beat.dimension].dimension
    }
}

fn hour_of(millis: i64) -> Hour {
    Hour::of(Timestamp::from_unix_millis(millis))
}

#[cfg(test)]
mod tests;
