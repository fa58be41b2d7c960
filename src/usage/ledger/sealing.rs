//! Sealing: closed hours become records, one slot after the other, in transactions so short that no acknowledgement
//! waits long for one. The first of them closes the hour; what is left is found again by the same question, by the next
//! call or by the next process.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::ageing::{self, Overdue};
use super::rows::{self, Slot, State};
use super::slots::{self, Open, Part, Past};
use super::upkeep::{self, Budget};
use super::{
    Ledger, LedgerError, Settings, claim, forms, last_closed, links, quarantine, random_hex, set_meta,
};
use crate::clock::Timestamp;
use crate::marketplace::{Hour, TagSet};
use crate::usage::seal;

/// Hours ahead in which a slot finds one that it may have: none is ever that far from the present.
const AHEAD_HOURS_MAX: i64 = 48;

/// What one call sealed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sealing {
    /// Records that it made.
    pub made: usize,
    /// Slots are left that are due: call again.
    pub more: bool,
}

/// What a process knows of the work that it has done, so as not to look for it every second.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The latest whole hour that was looked at for dimensions without usage.
    zeroed: Option<Hour>,
    /// Slots before this one are this pod's; `None` once all are: only this process makes new ones.
    foreign_from: Option<i64>,
    /// Nothing is left to forget until the next hour closes.
    forgotten: bool,
}

impl Progress {
    pub(super) const fn begin() -> Self {
        Self { zeroed: None, foreign_from: Some(i64::MIN), forgotten: false }
    }
}

impl Ledger {
    /// Closes every hour whose time has come and seals some of what is in it; call again while there is more.
    pub fn seal_closed(&mut self, now: Timestamp) -> Result<Sealing, LedgerError> {
        let latest = Hour::latest_closed(now, self.settings.settle);
        self.seal_up_to(latest, now, false)
    }

    /// Closes the open hour before its end, and all before it: for a shutdown. Later events count to the next one.
    /// While there is more, `seal_closed` goes on with it.
    pub fn seal_now(&mut self, now: Timestamp) -> Result<Sealing, LedgerError> {
        self.seal_up_to(Hour::of(now), now, false)
    }

    /// Closes the open hour, although nothing is open in it: somebody else may have reported it.
    pub(super) fn close_hour(&mut self, now: Timestamp) -> Result<Sealing, LedgerError> {
        self.seal_up_to(Hour::of(now), now, true)
    }

    fn seal_up_to(
        &mut self,
        latest: Hour,
        now: Timestamp,
        although_empty: bool,
    ) -> Result<Sealing, LedgerError> {
        if quarantine::is_suspect(&self.path) {
            self.check()?;
            quarantine::clear(&self.path);
        }
        self.observe(now);
        let whole = Hour::latest_closed(now, self.settings.settle);
        let mut progress = std::mem::take(&mut self.progress);
        let mut advanced = false;
        let done = self.write("seal", |transaction, settings| {
            let (last, counts) = last_closed(transaction, now)?;
            // An hour in which nothing is open need not end early: what the next process counts in it is billed in it.
            let early = latest > whole && !although_empty;
            let latest = if early && !any_open(transaction, latest)? { whole } else { latest };
            let closed = counts.map_or(latest, |last| last.max(latest)).max(whole);
            advanced = last.is_none_or(|last| last < closed);
            if advanced {
                upkeep::advance(transaction, settings, now)?;
                progress.forgotten = false;
            }
            if last != Some(closed) {
                set_meta(transaction, "last_closed", &closed.number().to_string())?;
            }
            if counts != last {
                tracing::warn!(%closed, "the clock went back: hours that it had closed are open again");
            }
            let mut budget = Budget::new();
            let mut sealing = seal_due(transaction, settings, closed, now, &mut progress, &mut budget)?;
            if progress.zeroed != Some(whole) {
                sealing.made += upkeep::zero_hours(transaction, settings, whole, now)?;
            }
            // To forget is not urgent: a step each time that there is nothing to seal, and nobody waits for it.
            if !sealing.more && sealing.made == 0 && !progress.forgotten {
                progress.forgotten = !upkeep::forget(transaction, settings, closed, &mut budget)?;
            }
            Ok(sealing)
        });
        match &done {
            Ok(_) => progress.zeroed = Some(whole),
            // What was found out in it is not on disk.
            Err(_) => progress = Progress::begin(),
        }
        self.progress = progress;
        if advanced && done.is_ok() {
            self.check_law()?;
        }
        done
    }
}

/// Whether there is usage of this hour, or of one before it.
fn any_open(connection: &Connection, hour: Hour) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM slots WHERE hour <= ?1)")?
        .query_row([hour.number()], |row| row.get(0))
}

/// Seals what is in closed hours; what must not be reported in its hour counts to the current one.
fn seal_due(
    transaction: &Transaction<'_>,
    settings: &Settings,
    closed: Hour,
    now: Timestamp,
    progress: &mut Progress,
    budget: &mut Budget,
) -> rusqlite::Result<Sealing> {
    let current = Hour::of(now).max(closed.next());
    // Clocks differ by minutes: usage may be in the hour that comes next, or in the one after an early end.
    let farthest = current.max(Hour::of(now).next());
    let mut sealing = Sealing::default();
    let due = Due { closed, farthest, pod: &settings.pod };
    while let Some(id) = due.next(transaction, &mut progress.foreign_from)? {
        if budget.is_spent() {
            return Ok(Sealing { more: true, ..sealing });
        }
        let open = slots::read(transaction, id)?;
        // A slot costs some statements, a share two.
        budget.spend(8 + 2 * open.sum.shares.len());
        // AWS bills by the pod that reports: usage that an earlier pod left is reported by this one, now.
        let foreign = open.slot.pod != settings.pod;
        // The clock was ahead, and nobody would look at that hour before it comes.
        let ahead = open.slot.hour > farthest;
        // AWS takes one value for an hour, and it has one: from the application, or from before the clock went back.
        let taken = claim::unclaimed(transaction, &open.slot)? != open.slot.hour;
        if foreign || ahead || taken {
            let target = Slot { pod: settings.pod.clone(), hour: current, ..open.slot.clone() };
            let target = free(transaction, target)?;
            if target.hour >= open.slot.hour && !foreign && !taken {
                // Every hour before it is the other form's: it waits for its own.
                break;
            }
            slots::carry(transaction, &open, &target, now)?;
            continue;
        }
        seal_one(transaction, &open, current, now)?;
        sealing.made += 1;
    }
    Ok(sealing)
}

fn seal_one(
    transaction: &Transaction<'_>,
    open: &Open,
    current: Hour,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let sealed = seal::seal(open.slot.hour, &open.sum, now);
    slots::remove(transaction, open.id)?;
    let token = random_hex()?;
    let id =
        rows::insert_record(transaction, &open.slot, &open.past, &sealed.usage, &token, State::FRESH, now)?;
    links::sealed(transaction, open.id, id)?;
    keep_rest(transaction, open, current, &sealed.rest, now)
}

/// What AWS's maximum left over counts to the current hour.
fn keep_rest(
    transaction: &Transaction<'_>,
    open: &Open,
    current: Hour,
    rest: &BTreeMap<TagSet, i128>,
    now: Timestamp,
) -> rusqlite::Result<()> {
    if rest.is_empty() {
        return Ok(());
    }
    let target = free(transaction, Slot { hour: current, ..open.slot.clone() })?;
    let overdue = Overdue::begins(&target, now, ageing::running(transaction)?);
    let past = Past { first_at: now, late_from: Some(open.slot.hour), overdue };
    let parts = rest.iter().map(|(tags, amount)| (tags, *amount));
    slots::add(transaction, &target, parts, Part::Carried, past).map(|_| ())
}

/// The first hour from this one on that neither a record nor the customer's other form has.
fn free(transaction: &Transaction<'_>, mut target: Slot) -> rusqlite::Result<Slot> {
    let first = target.hour;
    loop {
        target.hour = claim::unclaimed(transaction, &target)?;
        let is_far = target.hour.number() - first.number() >= AHEAD_HOURS_MAX;
        if is_far || forms::take_hour(transaction, &target.customer, target.hour)? {
            return Ok(target);
        }
        target.hour = target.hour.next();
    }
}

/// Which slots are due.
struct Due<'a> {
    closed: Hour,
    farthest: Hour,
    pod: &'a str,
}

impl Due<'_> {
    /// The next slot of an hour that is closed, or too far ahead, or of another pod.
    fn next(&self, connection: &Connection, foreign_from: &mut Option<i64>) -> rusqlite::Result<Option<i64>> {
        let one = |sql: &str, hour: Hour| -> rusqlite::Result<Option<i64>> {
            connection.prepare_cached(sql)?.query_row([hour.number()], |row| row.get(0)).optional()
        };
        // Until AWS's answer to a report of the application's own, nobody knows whether its hour is free.
        let closed = one(
            "SELECT id FROM slots WHERE hour <= ?1 AND NOT EXISTS (SELECT 1 FROM records
                 WHERE records.pod = slots.pod AND records.customer = slots.customer
                     AND records.dimension = slots.dimension AND records.hour = slots.hour AND state = 'claimed')
             ORDER BY hour LIMIT 1",
            self.closed,
        )?;
        if closed.is_some() {
            return Ok(closed);
        }
        let ahead = one("SELECT id FROM slots WHERE hour > ?1 ORDER BY hour LIMIT 1", self.farthest)?;
        if ahead.is_some() {
            return Ok(ahead);
        }
        if let Some(from) = *foreign_from {
            *foreign_from = connection
                .prepare_cached("SELECT id FROM slots WHERE id >= ?1 AND pod <> ?2 ORDER BY id LIMIT 1")?
                .query_row(params![from, self.pod], |row| row.get(0))
                .optional()?;
        }
        Ok(*foreign_from)
    }
}
