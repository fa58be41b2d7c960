//! Reports a customer's open hour before its end: when AWS Marketplace says that the license or agreement has ended, or
//! when the seller's backend asks for it.

use std::collections::BTreeSet;
use std::time::Duration;

use tollgate_clock::WallClock;
use tollgate_ledger::LedgerError;
use tollgate_ledger::store::{Store, View};
use tollgate_ledger::view::{From, Looked, ShownState};
use tollgate_marketplace::lifecycle::{Concerned, Effect, LifecycleEvent, NamedLicense, News};
use tollgate_marketplace::{Customer, Hour};
use tollgate_time::Timestamp;

/// Rows of a listing that are read at once.
const ROWS_AT_ONCE: usize = 1000;

/// When usage of ended licenses is looked at again after a fault of the ledger.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// What an event led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Processed {
    /// What the event did.
    pub effect: Effect,
    /// The records that were sealed for it.
    pub records: Vec<i64>,
}

/// Seals the open hour of these customers, and lets their records be sent first. Returns the new records.
pub async fn flush(
    store: &dyn Store,
    concerned: &Concerned,
    key: &str,
    now: Timestamp,
) -> Result<Vec<i64>, LedgerError> {
    let customers: Vec<String> = customers(store, concerned, key).await?.into_iter().collect();
    let mut records = Vec::new();
    while !customers.is_empty() {
        let flushed = store.lifecycle().flush(customers.clone(), now).await?;
        records.extend(flushed.records);
        if !flushed.more {
            break;
        }
    }
    Ok(records)
}

/// The customers with usage that is not sealed or not sent, in the ledger's form. `key`: the text by which the ledger
/// lists them.
async fn customers(
    store: &dyn Store,
    concerned: &Concerned,
    key: &str,
) -> Result<BTreeSet<String>, LedgerError> {
    let looked = Looked { customer: Some(key.to_owned()), ..Looked::default() };
    let mut found = BTreeSet::new();
    let mut add = |customer: Option<Customer>| {
        if let Some(customer) = customer.filter(|customer| concerned.includes(customer)) {
            found.insert(customer.canonical());
        }
    };
    let mut next = Some(From::default());
    while let Some(from) = next {
        let piece = View::open_usage(store, looked.clone(), from, ROWS_AT_ONCE).await?;
        piece.rows.iter().for_each(|open| add(Customer::from_canonical(&open.customer)));
        next = piece.next;
    }
    let mut looked = Some(Looked { state: Some(ShownState::Sealed), ..looked });
    while let Some(wanted) = looked {
        let piece = View::page(store, wanted.clone(), ROWS_AT_ONCE).await?;
        piece.rows.into_iter().for_each(|record| add(Some(record.customer)));
        looked = piece.next.map(|before| Looked { before: Some(before), ..wanted });
    }
    Ok(found)
}

/// Notes an event, and reports what it asks for. An event that was interrupted is completed when it comes again.
pub async fn process(
    store: &dyn Store,
    event: &LifecycleEvent,
    now: Timestamp,
) -> Result<Processed, LedgerError> {
    let lifecycle = store.lifecycle();
    let (effect, records) = match &event.news {
        News::AgreementEnded { account } => {
            // Reported before it is noted: after a fault the next delivery reports it.
            let records = if lifecycle.knows_event(event.id.clone()).await? {
                Vec::new()
            } else {
                flush(store, &Concerned::Account(account.clone()), account, now).await?
            };
            (lifecycle.note_event(event.clone(), now).await?, records)
        }
        News::LicenseDeprovisioned(license) => {
            // Noted before it is reported, so that no usage is counted in between.
            let effect = lifecycle.note_event(event.clone(), now).await?;
            let state = lifecycle.license(license.license.clone()).await?;
            let ended = state.is_some_and(|state| state.deprovisioned_at.is_some());
            let records = if ended { flush_license(store, license, now).await? } else { Vec::new() };
            (effect, records)
        }
        News::LicenseUpdated(_) | News::Nothing => {
            (lifecycle.note_event(event.clone(), now).await?, Vec::new())
        }
    };
    tracing::info!(
        event = "marketplace_event",
        id = event.id,
        detail_type = event.detail_type,
        effect = effect.as_str(),
        records = records.len(),
        "an event of AWS Marketplace was processed"
    );
    Ok(Processed { effect, records })
}

async fn flush_license(
    store: &dyn Store,
    named: &NamedLicense,
    now: Timestamp,
) -> Result<Vec<i64>, LedgerError> {
    let NamedLicense { account, license, .. } = named;
    let concerned = Concerned::License { account: Some(account.clone()), license: license.clone() };
    flush(store, &concerned, account, now).await
}

/// Reports usage of ended licenses as soon as AWS takes it, as long as this future is polled: after a restart, and when
/// an hour begins into which usage from before the end was counted.
pub async fn report_ended(store: &dyn Store, clock: &WallClock) {
    loop {
        let now = clock.now();
        let hour = Hour::of(now).next().start();
        let next = match report_all(store, now).await {
            Ok(()) => hour,
            Err(error) => {
                tracing::debug!(%error, "usage of ended licenses is not reported yet; will retry");
                hour.min(now.plus(RETRY_AFTER))
            }
        };
        clock.wait_until(next).await;
    }
}

async fn report_all(store: &dyn Store, now: Timestamp) -> Result<(), LedgerError> {
    for license in store.lifecycle().ending(now).await? {
        let records = flush_license(store, &license, now).await?;
        if !records.is_empty() {
            tracing::info!(
                event = "license_reported",
                license = license.license,
                records = records.len(),
                "usage from before the license's end is sealed and sent"
            );
        }
    }
    Ok(())
}
