//! What AWS Marketplace says about licenses, and the reports that it asks for before an hour's end.
//!
//! The latest event about a license decides (`tollgate_marketplace::lifecycle`). Usage of a license that has ended is
//! not counted. A flush seals one customer's slots before their hour has ended, as a shutdown does with all slots
//! (`closing`): a slot that has a record takes no more usage in its hour.

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension as _, Row, Transaction, params};

use super::closing::Hours;
use super::rows::signed;
use super::sealing::Sealer;
use super::upkeep::Budget;
use super::{Database, Ledger, LedgerError, claim, slots};
use tollgate_marketplace::lifecycle::{
    Effect, FINAL_WINDOW, LicenseState, LifecycleEvent, NamedLicense, News, license_id,
};
use tollgate_marketplace::{Customer, Hour};
use tollgate_time::Timestamp;

/// Processed events that are remembered: a seller has some a day for each customer, and EventBridge delivers one for at
/// most 24 hours.
pub const EVENTS_MAX: u64 = 20_000;

/// Licenses that are remembered; the one with the oldest event is forgotten first.
pub const LICENSES_MAX: u64 = 100_000;

/// Identifiers of one account that are looked at; AWS gives a customer one for each product.
pub const IDENTIFIERS_MAX: i64 = 100;

/// Rows that are forgotten with each new one, so that the tables shrink again after their limit was lowered.
pub const FORGOTTEN_AT_ONCE: u64 = 10;

/// The due time of a record that is sent before all others.
pub const FIRST: i64 = -1;

/// A piece of a flush.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flushed {
    /// The records that it made.
    pub records: Vec<i64>,
    /// Slots are left: call again.
    pub more: bool,
}

impl Database {
    /// Whether an event of this id was processed.
    pub fn knows_event(&self, id: &str) -> Result<bool, LedgerError> {
        self.reading(|connection| {
            connection.prepare_cached("SELECT 1 FROM marketplace_events WHERE id = ?1")?.exists([id])
        })
    }

    /// What is known about a license.
    pub fn license(&self, license: &str) -> Result<Option<LicenseState>, LedgerError> {
        self.reading(|connection| {
            connection
                .prepare_cached("SELECT event_at, deprovisioned_at FROM licenses WHERE license = ?1")?
                .query_row([license], state)
                .optional()
        })
    }

    /// The legacy identifiers of an account, as far as answers of `ResolveCustomer` named them.
    pub fn identifiers(&self, account: &str) -> Result<Vec<String>, LedgerError> {
        self.reading(|connection| {
            let mut find = connection.prepare_cached(
                "SELECT identifier FROM identities INDEXED BY identities_account WHERE account = ?1
                 ORDER BY id DESC LIMIT ?2",
            )?;
            let identifiers = find.query_map(params![account, IDENTIFIERS_MAX], |row| row.get(0))?;
            identifiers.collect()
        })
    }

    /// Licenses that ended less than AWS's final window ago: usage of them may still be reported.
    pub fn ending(&self, now: Timestamp) -> Result<Vec<NamedLicense>, LedgerError> {
        let since = now.minus(FINAL_WINDOW).unix_millis();
        self.reading(|connection| {
            let mut find = connection.prepare_cached(
                "SELECT license, account, agreement FROM licenses INDEXED BY licenses_deprovisioned_at
                 WHERE deprovisioned_at > ?1",
            )?;
            let licenses = find.query_map([since], |row| {
                Ok(NamedLicense { license: row.get(0)?, account: row.get(1)?, agreement: row.get(2)? })
            })?;
            licenses.collect()
        })
    }
}

impl Ledger {
    /// Notes an event and what it says about a license, in one transaction: an event is processed once.
    pub fn note_event(&mut self, event: &LifecycleEvent, now: Timestamp) -> Result<Effect, LedgerError> {
        self.write("lifecycle", |transaction, _| {
            let effect = match &event.news {
                News::Nothing => return Ok(Effect::Ignored),
                _ if !is_new(transaction, &event.id, now)? => return Ok(Effect::Repeated),
                News::AgreementEnded { .. } => return Ok(Effect::Ended),
                News::LicenseUpdated(license) => decide(transaction, license, event.at, false)?,
                News::LicenseDeprovisioned(license) => decide(transaction, license, event.at, true)?,
            };
            Ok(effect)
        })
    }

    /// Seals some slots of these customers in the open hour and before it, and lets their records be sent first. Call
    /// again while there is more. A slot that has a record already is left for the end of its hour.
    pub fn flush(&mut self, customers: &[String], now: Timestamp) -> Result<Flushed, LedgerError> {
        self.observe(now);
        self.write("flush", |transaction, settings| {
            let hours = Hours::read(transaction, settings, now)?;
            let sealer = Sealer { transaction, hours: &hours, rules: &settings.rules, now };
            let mut flush = Flush { sealer, early: None, budget: Budget::new() };
            let mut flushed = Flushed::default();
            for customer in customers {
                flush.customer(&settings.pod, customer, &mut flushed)?;
            }
            match flush.early {
                Some(hour) => hours.seal_early(transaction, hour).map(|()| flushed),
                None => Ok(flushed),
            }
        })
    }
}

/// The state of one piece of a flush.
struct Flush<'a> {
    sealer: Sealer<'a>,
    /// The latest open hour of which a slot was sealed.
    early: Option<Hour>,
    budget: Budget,
}

impl Flush<'_> {
    fn customer(&mut self, pod: &str, customer: &str, flushed: &mut Flushed) -> rusqlite::Result<()> {
        let Sealer { transaction, hours, now, .. } = self.sealer;
        for id in open_slots(transaction, pod, customer, Hour::of(now))? {
            if self.budget.is_spent() {
                flushed.more = true;
                return Ok(());
            }
            let open = slots::read(transaction, id)?;
            self.budget.spend(8 + 2 * open.sum.shares.len());
            if claim::unclaimed(transaction, &open.slot)? != open.slot.hour {
                continue;
            }
            if open.slot.hour > hours.closed {
                self.early = self.early.max(Some(open.slot.hour));
            }
            flushed.records.extend(self.sealer.seal(&open)?);
        }
        // Records of the customer that wait for a later try keep their pause.
        transaction
            .prepare_cached(
                "UPDATE records SET due_at = ?3
                 WHERE pod = ?1 AND customer = ?2 AND state = 'sealed' AND due_at BETWEEN 0 AND ?4",
            )?
            .execute(params![pod, customer, FIRST, now.unix_millis()])
            .map(|_| ())
    }
}

/// The slots of a customer up to this hour. Earlier hours are few: a closed hour is sealed at once.
fn open_slots(
    transaction: &Transaction<'_>,
    pod: &str,
    customer: &str,
    present: Hour,
) -> rusqlite::Result<Vec<i64>> {
    let oldest: Option<i64> = transaction
        .prepare_cached("SELECT min(hour) FROM slots WHERE hour <= ?1")?
        .query_row([present.number()], |row| row.get(0))?;
    let Some(oldest) = oldest else { return Ok(Vec::new()) };
    let mut find = transaction
        .prepare_cached("SELECT id FROM slots WHERE hour = ?1 AND pod = ?2 AND customer = ?3 ORDER BY id")?;
    let mut found = Vec::new();
    for hour in oldest.max(present.number() - HOURS_MAX)..=present.number() {
        let ids = find.query_map(params![hour, pod, customer], |row| row.get(0))?;
        for id in ids {
            found.push(id?);
        }
    }
    Ok(found)
}

/// How many hours a flush looks back for slots; older ones are sealed by the next look of the sender anyway.
pub const HOURS_MAX: i64 = 48;

/// Notes the id of an event; `false` if it was noted before.
fn is_new(transaction: &Transaction<'_>, id: &str, now: Timestamp) -> rusqlite::Result<bool> {
    let noted = transaction
        .prepare_cached("INSERT OR IGNORE INTO marketplace_events (id, seen_at) VALUES (?1, ?2)")?
        .execute(params![id, now.unix_millis()])?;
    forget(transaction, "marketplace_events", "id", "seen_at", EVENTS_MAX)?;
    Ok(noted > 0)
}

fn decide(
    transaction: &Transaction<'_>,
    named: &NamedLicense,
    at: Timestamp,
    deprovisioned: bool,
) -> rusqlite::Result<Effect> {
    let known = transaction
        .prepare_cached("SELECT event_at, deprovisioned_at FROM licenses WHERE license = ?1")?
        .query_row([&named.license], state)
        .optional()?;
    let Some(state) = LicenseState::after(known, at, deprovisioned) else { return Ok(Effect::Outdated) };
    transaction
        .prepare_cached(
            "INSERT INTO licenses (license, account, agreement, event_at, deprovisioned_at) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (license) DO UPDATE SET account = excluded.account, agreement = excluded.agreement,
                 event_at = excluded.event_at, deprovisioned_at = excluded.deprovisioned_at",
        )?
        .execute(params![
            named.license,
            named.account,
            named.agreement,
            state.event_at.unix_millis(),
            state.deprovisioned_at.map(Timestamp::unix_millis),
        ])?;
    forget(transaction, "licenses", "license", "event_at", LICENSES_MAX)?;
    Ok(if deprovisioned { Effect::Deprovisioned } else { Effect::Active })
}

/// Deletes the oldest rows of a table that has more than `most`.
fn forget(
    transaction: &Transaction<'_>,
    table: &str,
    key: &str,
    time: &str,
    most: u64,
) -> rusqlite::Result<()> {
    let count: i64 = transaction
        .prepare_cached(&format!("SELECT count(*) FROM {table}"))?
        .query_row([], |row| row.get(0))?;
    let surplus = u64::try_from(count).unwrap_or_default().saturating_sub(most).min(FORGOTTEN_AT_ONCE);
    if surplus > 0 {
        transaction
            .prepare_cached(&format!(
                "DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM {table} ORDER BY {time} LIMIT ?1)"
            ))?
            .execute([signed(surplus)])?;
    }
    Ok(())
}

fn state(row: &Row<'_>) -> rusqlite::Result<LicenseState> {
    let ended: Option<i64> = row.get(1)?;
    Ok(LicenseState {
        event_at: Timestamp::from_unix_millis(row.get(0)?),
        deprovisioned_at: ended.map(Timestamp::from_unix_millis),
    })
}

/// The licenses that a group of events names; each is looked up once.
pub(super) struct Licenses<'a> {
    transaction: &'a Transaction<'a>,
    now: Timestamp,
    /// Whether any license has ended; `None` until an event names a license.
    any: Option<bool>,
    known: BTreeMap<&'a str, Option<LicenseState>>,
}

impl<'a> Licenses<'a> {
    pub(super) const fn new(transaction: &'a Transaction<'a>, now: Timestamp) -> Self {
        Self { transaction, now, any: None, known: BTreeMap::new() }
    }

    /// Whether the customer's license has ended for usage of `used_at`.
    pub(super) fn have_ended(
        &mut self,
        customer: &'a Customer,
        used_at: Timestamp,
    ) -> rusqlite::Result<bool> {
        let Customer::Account { license_arn: Some(arn), .. } = customer else { return Ok(false) };
        let any = match self.any {
            Some(any) => any,
            None => self
                .transaction
                .prepare_cached(
                    "SELECT 1 FROM licenses INDEXED BY licenses_deprovisioned_at
                     WHERE deprovisioned_at IS NOT NULL LIMIT 1",
                )?
                .exists([])?,
        };
        self.any = Some(any);
        if !any {
            return Ok(false);
        }
        let license = license_id(arn);
        let known = match self.known.get(license) {
            Some(known) => *known,
            None => {
                let found = self
                    .transaction
                    .prepare_cached("SELECT event_at, deprovisioned_at FROM licenses WHERE license = ?1")?
                    .query_row([license], state)
                    .optional()?;
                self.known.insert(license, found);
                found
            }
        };
        Ok(known.is_some_and(|state| !state.takes(used_at, self.now)))
    }
}
