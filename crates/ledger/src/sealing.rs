//! Sealing: closed hours become records, slot by slot, in transactions so short that no acknowledgement waits long for
//! one. The next call, or the next process, finds the slots that are left with the same query.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use tokio::time::Instant;

use super::ageing::{self, Overdue};
use super::closing::Hours;
use super::rows::{self, NewRecord, Slot};
use super::slots::{self, OpenSlot, Past};
use super::upkeep::{self, Budget};
use super::{Ledger, LedgerError, claim, forms, keys, links, quarantine, random_hex, remainders, rules};
use tollgate_clock as clock;
use tollgate_marketplace::{Hour, TagSet};
use tollgate_metering::aggregation::{Change, Rules};
use tollgate_metering::record::RecordState;
use tollgate_metering::seal;
use tollgate_time::Timestamp;

/// How many hours ahead an hour is looked for to which a slot is carried; no slot needs one farther away.
pub const AHEAD_HOURS_MAX: i64 = 48;

/// What one call sealed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sealing {
    /// Records that it made.
    pub made: usize,
    /// Slots that are due are left: call again.
    pub more: bool,
}

/// Which work a process has already done, so that it need not query for it every second.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The latest whole hour that was looked at for dimensions without usage.
    zeroed: Option<Hour>,
    /// All slots with a smaller number are this pod's; `None` if all slots are, since only this process makes new ones.
    foreign_from: Option<i64>,
    /// Slots that a clock ahead of its time made and that must wait for their hour.
    ahead: Ahead,
    /// Nothing is left to forget until the next hour closes.
    forgotten: bool,
    /// When this process last closed an hour, for the ring's time of the keys.
    keys_passed_at: Option<Instant>,
}

/// Up to which slot the slots beyond the farthest hour were examined.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Ahead {
    /// None was examined.
    #[default]
    Unseen,
    /// Up to this hour and slot number, in that order: those that are left there must wait.
    Seen(Hour, i64),
    /// All, during this current hour: none can move before the next hour.
    Waiting(Hour),
}

impl Progress {
    pub(super) const fn begin() -> Self {
        Self {
            zeroed: None,
            foreign_from: Some(i64::MIN),
            ahead: Ahead::Unseen,
            forgotten: false,
            keys_passed_at: None,
        }
    }
}

impl Ledger {
    /// Closes every hour whose time has come and seals some of its slots; call again while there is more.
    pub fn seal_closed(&mut self, now: Timestamp) -> Result<Sealing, LedgerError> {
        self.seal(None, now)
    }

    /// For a shutdown: seals slots of the open hour before its end, and all before it. The sealed slots are closed;
    /// usage of other slots still counts to this hour. Call again while there is more.
    pub fn seal_now(&mut self, now: Timestamp) -> Result<Sealing, LedgerError> {
        self.seal(Some(Hour::of(now)), now)
    }

    fn seal(&mut self, early: Option<Hour>, now: Timestamp) -> Result<Sealing, LedgerError> {
        if quarantine::is_suspect(&self.path) {
            self.check()?;
            quarantine::clear(&self.path);
        }
        self.observe(now);
        let whole = Hour::latest_closed(now, self.settings.settle);
        let (running, mut progress) = (clock::monotonic(), std::mem::take(&mut self.progress));
        let mut advanced = false;
        let done = self.write("seal", |transaction, settings| {
            let hours = Hours::read(transaction, settings, now)?;
            advanced = hours.close(transaction)?;
            if advanced {
                upkeep::advance(transaction, settings, now)?;
                let ran = progress.keys_passed_at.map(|at| running.duration_since(at));
                keys::pass(transaction, settings, &hours, ran)?;
                (progress.keys_passed_at, progress.forgotten) = (Some(running), false);
            }
            let mut budget = Budget::new();
            let due = DueSlots {
                up_to: early.map_or(hours.closed, |early| early.max(hours.closed)),
                farthest: hours.farthest(),
                pod: &settings.pod,
            };
            let sealer = Sealer { transaction, hours: &hours, rules: &settings.rules, now };
            let mut sealing = sealer.seal_due(&due, &mut progress, &mut budget)?;
            if due.up_to > hours.closed && sealing.made > 0 {
                hours.seal_early(transaction, due.up_to)?;
            }
            if progress.zeroed != Some(whole) {
                let zeroed = upkeep::zero_hours(transaction, settings, whole, now)?;
                sealing.made += zeroed.made;
                progress.zeroed = Some(whole).filter(|_| !zeroed.undecided);
            }
            // Forgetting is not urgent: one step each time that there is nothing to seal, so that no request waits for
            // it.
            if !sealing.more && sealing.made == 0 && !progress.forgotten {
                progress.forgotten = !upkeep::forget(transaction, settings, hours.closed, &mut budget)?;
            }
            Ok(sealing)
        });
        // A failed transaction's progress is not on disk. Only the time since the last closed hour is kept: the process
        // did run.
        self.progress = match &done {
            Ok(_) => progress,
            Err(_) => Progress { keys_passed_at: progress.keys_passed_at, ..Progress::begin() },
        };
        if advanced && done.is_ok() {
            self.check_totals()?;
            if self.rules_differ {
                self.rules_differ =
                    self.reading(|connection| rules::differ(connection, &self.settings.rules))?;
            }
        }
        done
    }
}

/// Seals slots.
pub(super) struct Sealer<'a> {
    pub(super) transaction: &'a Transaction<'a>,
    pub(super) hours: &'a Hours,
    pub(super) rules: &'a Rules,
    pub(super) now: Timestamp,
}

impl Sealer<'_> {
    /// Seals the slots that are due; usage that must not be reported in its hour counts to the current hour.
    fn seal_due(
        &self,
        due: &DueSlots<'_>,
        progress: &mut Progress,
        budget: &mut Budget,
    ) -> rusqlite::Result<Sealing> {
        let (transaction, current) = (self.transaction, self.hours.current);
        let mut sealing = Sealing::default();
        while let Some(id) = due.next(transaction, current, progress)? {
            if budget.is_spent() {
                return Ok(Sealing { more: true, ..sealing });
            }
            let open = slots::read(transaction, id)?;
            // The work of a slot is a few statements, and two for each share.
            budget.spend(8 + 2 * open.sum.shares.len());
            // AWS bills by the pod that reports: this pod reports usage that an earlier pod left, as usage of now.
            let foreign = open.slot.pod != due.pod;
            // The clock was ahead: the slot would not be sealed before its hour comes.
            let ahead = open.slot.hour > due.farthest;
            // AWS takes one value for an hour and already has one: from the application, or from before the clock went
            // back.
            let taken = claim::unclaimed(transaction, &open.slot)? != open.slot.hour;
            if foreign || ahead || taken {
                let target = Slot { pod: due.pod.to_owned(), hour: current, ..open.slot.clone() };
                let target = free(transaction, target)?;
                if target.hour >= open.slot.hour && !foreign && !taken {
                    // Every earlier hour has another form: the slot waits for its hour, and the next slots do not wait
                    // for it.
                    progress.ahead = Ahead::Seen(open.slot.hour, open.id);
                    continue;
                }
                slots::carry(transaction, &open, &target, self.rules, self.now)?;
                continue;
            }
            sealing.made += usize::from(self.seal(&open)?.is_some());
        }
        Ok(sealing)
    }

    /// Makes a slot's record by the slot's rule; returns its number. There is none if all of its usage stays for the
    /// next hour, unless another record's quantity is in it, whose link needs one.
    pub(super) fn seal(&self, open: &OpenSlot) -> rusqlite::Result<Option<i64>> {
        let OpenSlot { slot, rule, .. } = open;
        let transaction = self.transaction;
        let kept = remainders::kept(transaction, slot, rule.scale)?;
        let sealed = seal::seal(slot.hour, &open.sum, rule, kept, self.now);
        // Until the clock closes the hour, its later usage counts to the next one.
        let early = slot.hour > self.hours.closed;
        remainders::keep(transaction, slot, rule.scale, kept, sealed.sent.kept(early))?;
        let change = Change::of(kept, &sealed.sent);
        remainders::count(transaction, &slot.dimension, change)?;
        slots::remove(transaction, open.id)?;
        if sealed.is_needless && !links::lead_to(transaction, open.id)? {
            return Ok(None);
        }
        let record = NewRecord {
            slot,
            past: &open.past,
            usage: &sealed.usage,
            raw: sealed.sent.raw,
            rounded: change.rounded_up,
            client_token: &random_hex()?,
            state: RecordState::FRESH,
        };
        let id = rows::insert_record(transaction, &record, self.now)?;
        links::sealed(transaction, open.id, id)?;
        self.keep_rest(open, &sealed.rest)?;
        Ok(Some(id))
    }

    /// Counts what exceeds AWS's maximum to the current hour.
    fn keep_rest(&self, open: &OpenSlot, rest: &BTreeMap<TagSet, i128>) -> rusqlite::Result<()> {
        if rest.is_empty() {
            return Ok(());
        }
        let transaction = self.transaction;
        let target = free(transaction, Slot { hour: self.hours.current, ..open.slot.clone() })?;
        let overdue = Overdue::begins(&target, self.now, ageing::running(transaction)?);
        let past = Past { first_at: self.now, late_from: Some(open.slot.hour), overdue };
        let parts = rest.iter().map(|(tags, amount)| (tags, *amount));
        slots::add_carried(transaction, &target, (&open.rule, self.rules), parts, past).map(|_| ())
    }
}

/// The first hour from this one on that has no record of the slot and no other form of the customer.
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
struct DueSlots<'a> {
    /// Slots of this hour and of all earlier hours.
    up_to: Hour,
    /// Slots of later hours than this.
    farthest: Hour,
    /// Slots of any other pod.
    pod: &'a str,
}

impl DueSlots<'_> {
    /// The next due slot.
    fn next(
        &self,
        connection: &Connection,
        current: Hour,
        progress: &mut Progress,
    ) -> rusqlite::Result<Option<i64>> {
        let one = |sql: &str, hour: Hour| -> rusqlite::Result<Option<i64>> {
            connection.prepare_cached(sql)?.query_row([hour.number()], |row| row.get(0)).optional()
        };
        // While a report of the application's own is under way, it is unknown whether its hour is free.
        let closed = one(
            "SELECT id FROM slots WHERE hour <= ?1 AND NOT EXISTS (SELECT 1 FROM records
                 WHERE records.pod = slots.pod AND records.customer = slots.customer
                     AND records.dimension = slots.dimension AND records.hour = slots.hour AND state = 'claimed')
             ORDER BY hour LIMIT 1",
            self.up_to,
        )?;
        if closed.is_some() {
            return Ok(closed);
        }
        if let Some(ahead) = self.ahead(connection, current, &mut progress.ahead)? {
            return Ok(Some(ahead));
        }
        if let Some(from) = progress.foreign_from {
            progress.foreign_from = connection
                .prepare_cached("SELECT id FROM slots WHERE id >= ?1 AND pod <> ?2 ORDER BY id LIMIT 1")?
                .query_row(params![from, self.pod], |row| row.get(0))
                .optional()?;
        }
        Ok(progress.foreign_from)
    }

    /// The next slot beyond the farthest hour that is not known to have to wait.
    fn ahead(
        &self,
        connection: &Connection,
        current: Hour,
        seen: &mut Ahead,
    ) -> rusqlite::Result<Option<i64>> {
        let (hour, id) = match *seen {
            Ahead::Waiting(then) if then == current => return Ok(None),
            // The farthest hour may have passed those that were examined.
            Ahead::Seen(hour, id) if hour > self.farthest => (hour, id),
            Ahead::Waiting(_) | Ahead::Unseen | Ahead::Seen(..) => (self.farthest, i64::MAX),
        };
        let next = connection
            .prepare_cached("SELECT id FROM slots WHERE (hour, id) > (?1, ?2) ORDER BY hour, id LIMIT 1")?
            .query_row([hour.number(), id], |row| row.get(0))
            .optional()?;
        if next.is_none() && matches!(seen, Ahead::Seen(..)) {
            *seen = Ahead::Waiting(current);
        }
        Ok(next)
    }
}
