//! Forms: how a report names a customer: by its account, by a license of the account, or by a legacy identifier. AWS
//! bills an account and its license separately for the same hour, and takes an account and its identifier for one
//! customer, of whose reports it keeps one. So an account has one form in each hour: the one that came first.
//!
//! A legacy `CustomerIdentifier` counts as its account if an answer of `ResolveCustomer` passed through the sidecar and
//! named both. An identifier whose account is unknown counts as an account of its own.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::upkeep::Budget;
use super::{Ledger, LedgerError};
use tollgate_marketplace::customer::{is_account, is_identifier};
use tollgate_marketplace::{Customer, Hour};

/// Most identifiers whose accounts are remembered; beyond it the oldest is forgotten. A ledger is not made for sellers
/// with more customers.
pub const IDENTITIES_MAX: i64 = 100_000;

/// For how many hours after an hour closed its forms are remembered: a clock may go back a little.
const HOURS_KEPT: i64 = 2;

/// Forms that are deleted between two looks at the clock.
const STEP_FORMS: i64 = 200;

/// The forms during one group of events; those that were looked up are kept in memory.
pub(super) struct Forms<'a> {
    connection: &'a Connection,
    known: BTreeMap<(String, Hour), Option<Form>>,
}

impl<'a> Forms<'a> {
    pub(super) const fn new(connection: &'a Connection) -> Self {
        Self { connection, known: BTreeMap::new() }
    }

    /// Whether usage of this customer may count to this hour.
    pub(super) fn fits(&mut self, customer: &Customer, hour: Hour) -> rusqlite::Result<bool> {
        let Some((account, form)) = form_of(self.connection, customer)? else { return Ok(true) };
        Ok(self.known(account, hour)?.is_none_or(|known| known == form))
    }

    /// Notes that usage of this customer counts to this hour.
    pub(super) fn set(&mut self, customer: &Customer, hour: Hour) -> rusqlite::Result<()> {
        let Some((account, form)) = form_of(self.connection, customer)? else { return Ok(()) };
        if self.known(account.clone(), hour)?.is_some() {
            return Ok(());
        }
        self.connection
            .prepare_cached("INSERT INTO forms (hour, account, licensed) VALUES (?1, ?2, ?3)")?
            .execute(params![hour.number(), account, form as i64])?;
        self.known.insert((account, hour), Some(form));
        Ok(())
    }

    fn known(&mut self, account: String, hour: Hour) -> rusqlite::Result<Option<Form>> {
        let key = (account, hour);
        if let Some(known) = self.known.get(&key) {
            return Ok(*known);
        }
        let known = self
            .connection
            .prepare_cached("SELECT licensed FROM forms WHERE hour = ?1 AND account = ?2")?
            .query_row(params![hour.number(), key.0], |row| row.get(0).map(Form::of))
            .optional()?;
        self.known.insert(key, known);
        Ok(known)
    }
}

/// How an account is named; the numbers are those of column `licensed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `CustomerAWSAccountId` alone.
    Account = 0,
    /// With a `LicenseArn`.
    License = 1,
    /// `CustomerIdentifier`.
    Identifier = 2,
}

impl Form {
    /// From its number, as it is stored.
    #[must_use]
    pub const fn of(number: i64) -> Self {
        match number {
            1 => Self::License,
            2 => Self::Identifier,
            _ => Self::Account,
        }
    }

    /// The name under which an engine notes the customer's account, and the customer's form; `None` in mode `metered`,
    /// where there is one customer. `account`: the account of a legacy identifier, if it is known.
    #[must_use]
    pub fn named(customer: &Customer, account: Option<&str>) -> Option<(String, Self)> {
        match customer {
            Customer::Own => None,
            Customer::Account { account_id, license_arn } => {
                let form = if license_arn.is_some() { Self::License } else { Self::Account };
                Some((format!("account {account_id}"), form))
            }
            Customer::Identifier(identifier) => {
                let unknown = || format!("identifier {identifier}");
                Some((account.map_or_else(unknown, |account| format!("account {account}")), Self::Identifier))
            }
        }
    }
}

/// The customer's account and its form; `None` in mode `metered`, where there is one customer.
fn form_of(connection: &Connection, customer: &Customer) -> rusqlite::Result<Option<(String, Form)>> {
    let account: Option<String> = match customer {
        Customer::Identifier(identifier) => connection
            .prepare_cached("SELECT account FROM identities WHERE identifier = ?1")?
            .query_row([identifier], |row| row.get(0))
            .optional()?,
        Customer::Own | Customer::Account { .. } => None,
    };
    Ok(Form::named(customer, account.as_deref()))
}

/// Claims the customer's form for an hour; `false` if the hour has another form.
pub(super) fn take_hour(transaction: &Transaction<'_>, customer: &str, hour: Hour) -> rusqlite::Result<bool> {
    let Some(customer) = Customer::from_canonical(customer) else { return Ok(true) };
    let mut forms = Forms::new(transaction);
    let fits = forms.fits(&customer, hour)?;
    if fits {
        forms.set(&customer, hour)?;
    }
    Ok(fits)
}

/// Forgets the forms of hours that take no more usage; `true` if the budget ended before all were forgotten.
pub(super) fn forget(
    transaction: &Transaction<'_>,
    closed: Hour,
    budget: &mut Budget,
) -> rusqlite::Result<bool> {
    let mut step = transaction.prepare_cached(
        "DELETE FROM forms WHERE (hour, account) IN (SELECT hour, account FROM forms WHERE hour < ?1 LIMIT ?2)",
    )?;
    loop {
        if budget.is_spent() {
            return Ok(true);
        }
        let gone = step.execute([closed.number().saturating_sub(HOURS_KEPT), STEP_FORMS])?;
        budget.spend(gone);
        if gone == 0 {
            return Ok(false);
        }
    }
}

impl Ledger {
    /// Notes the account of a legacy identifier, as `ResolveCustomer` answered. Text that AWS would not accept as an
    /// identifier or an account is ignored.
    pub fn identify(&mut self, identifier: &str, account: &str) -> Result<(), LedgerError> {
        if !is_identifier(identifier) || !is_account(account) {
            return Ok(());
        }
        self.write("identify", |transaction, _| {
            let known: Option<String> = transaction
                .query_row("SELECT account FROM identities WHERE identifier = ?1", [identifier], |row| {
                    row.get(0)
                })
                .optional()?;
            if known.as_deref() == Some(account) {
                return Ok(());
            }
            transaction.execute(
                "INSERT INTO identities (identifier, account) VALUES (?1, ?2)
                 ON CONFLICT (identifier) DO UPDATE SET account = excluded.account",
                [identifier, account],
            )?;
            // Usage that was counted before the account was known.
            transaction.execute(
                "INSERT OR IGNORE INTO forms (hour, account, licensed)
                 SELECT hour, ?1, licensed FROM forms WHERE account = ?2",
                [format!("account {account}"), format!("identifier {identifier}")],
            )?;
            let newest = "(SELECT max(id) FROM identities)";
            transaction
                .execute(&format!("DELETE FROM identities WHERE id <= {newest} - ?1"), [IDENTITIES_MAX])
                .map(|_| ())
        })
    }
}
