//! Reports a customer's open hour before its end: when AWS Marketplace says that the license or agreement has ended, or
//! when the seller's backend asks for it.

use std::collections::BTreeSet;
use std::time::Duration;

use tollgate_clock::WallClock;
use tollgate_ledger::LedgerError;
use tollgate_ledger::store::{Store, View};
use tollgate_ledger::view::{From, Looked, ShownState};
use tollgate_marketplace::lifecycle::{
    Concerned, Effect, FINAL_WINDOW, LicenseState, LifecycleEvent, NamedLicense, News,
};
use tollgate_marketplace::{Customer, Hour};
use tollgate_time::Timestamp;

/// Rows of a listing that are read at once.
const ROWS_AT_ONCE: usize = 1000;

/// How long before AWS's final window closes usage of an ended license is reported for the last time: AWS may need some
/// attempts.
const LAST_LOOK: Duration = Duration::from_secs(300);

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

/// Seals the open hour of these customers, and lets their records be sent first. Returns the new records. `key`: the
/// text by which the ledger lists them.
pub async fn flush(
    store: &dyn Store,
    concerned: &Concerned,
    key: &str,
    now: Timestamp,
) -> Result<Vec<i64>, LedgerError> {
    let mut customers = customers(store, concerned, key).await?;
    customers.extend(legacy(store, concerned).await?.iter().map(Customer::canonical));
    let customers: Vec<String> = customers.into_iter().collect();
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

/// The legacy identifiers of the account that is concerned, as far as they are known.
pub async fn legacy(store: &dyn Store, concerned: &Concerned) -> Result<Vec<Customer>, LedgerError> {
    let Some(account) = concerned.account() else { return Ok(Vec::new()) };
    let identifiers = store.lifecycle().identifiers(account.to_owned()).await?;
    Ok(identifiers.into_iter().map(Customer::Identifier).collect())
}

/// The customers that are named by their accounts, with usage that is not sealed or not sent, in the ledger's form.
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
        let piece = View::open_slots(store, looked.clone(), from, ROWS_AT_ONCE).await?;
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

/// Reports usage of ended licenses as soon as AWS takes it, as long as this future is polled: after a restart, when an
/// hour begins into which usage from before the end was counted, and before AWS's final window closes.
pub async fn report_ended(store: &dyn Store, clock: &WallClock) {
    loop {
        let now = clock.now();
        let hour = Hour::of(now).next().start();
        let next = match report_all(store, now).await {
            Ok(last_look) => last_look.map_or(hour, |last_look| hour.min(last_look)),
            Err(error) => {
                tracing::debug!(%error, "usage of ended licenses is not reported yet; will retry");
                hour.min(now.plus(RETRY_AFTER))
            }
        };
        clock.wait_until(next).await;
    }
}

/// Reports usage of every license that is ending; returns the next of their last looks.
async fn report_all(store: &dyn Store, now: Timestamp) -> Result<Option<Timestamp>, LedgerError> {
    let mut next = None;
    for license in store.lifecycle().ending(now).await? {
        let state = store.lifecycle().license(license.license.clone()).await?;
        let last_look = state.and_then(|state| last_look(state, now));
        next = next.into_iter().chain(last_look).min();
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
    Ok(next)
}

/// When usage of an ended license is reported for the last time; `None` if that time has passed.
fn last_look(state: LicenseState, now: Timestamp) -> Option<Timestamp> {
    let at = state.deprovisioned_at?.plus(FINAL_WINDOW.saturating_sub(LAST_LOOK));
    (at > now).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_ledger::testing::{START, folder, settings};
    use tollgate_ledger::writer::Writer;
    use tollgate_ledger::{Ledger, Taken};
    use tollgate_marketplace::TagSet;
    use tollgate_metering::event::Event;

    const ACCOUNT: &str = "111122223333";

    fn minute(minutes: u64) -> Timestamp {
        START.plus(Duration::from_secs(60 * minutes))
    }

    fn of_account(license: Option<&str>) -> Customer {
        let arn = |license| format!("arn:aws:license-manager::294406891311:license:{license}");
        Customer::Account { account_id: ACCOUNT.to_owned(), license_arn: license.map(arn) }
    }

    fn identified(identifier: &str) -> Customer {
        Customer::Identifier(identifier.to_owned())
    }

    fn event(id: &str, at: Timestamp, news: News) -> LifecycleEvent {
        LifecycleEvent { id: id.to_owned(), at, detail_type: String::new(), news }
    }

    fn ended(at: Timestamp) -> LifecycleEvent {
        let license =
            NamedLicense { account: ACCOUNT.to_owned(), license: "l-1".to_owned(), agreement: None };
        event("e-1", at, News::LicenseDeprovisioned(license))
    }

    /// A ledger whose time is the clock's; the folder has to live as long.
    fn ledger(clock: &WallClock) -> (tempfile::TempDir, Writer) {
        let folder = folder();
        let ledger = Ledger::open(folder.path(), settings("")).unwrap();
        (folder, Writer::inline(ledger, clock.clone()))
    }

    async fn count(store: &Writer, customer: &Customer, at: Timestamp) {
        let event = Event {
            id: None,
            dimension: "requests".to_owned(),
            quantity: "1".parse().unwrap(),
            at,
            tags: TagSet::default(),
            customer: customer.clone(),
            content: [0; 32],
        };
        assert_eq!(store.take(vec![event], Box::new(())).await.unwrap(), [Taken::Accepted]);
    }

    #[tokio::test]
    async fn an_event_reports_the_usage_that_may_be_of_its_license_in_whatever_form_it_names_the_customer() {
        let now = minute(10);
        let other_account = Customer::Account { account_id: "999900001111".to_owned(), license_arn: None };
        for (customer, by_license, by_agreement) in [
            (of_account(Some("l-1")), 1, 1),
            (of_account(None), 1, 1),
            (identified("id-1"), 1, 1),
            (of_account(Some("l-2")), 0, 1),
            (identified("id-2"), 0, 0),
            (identified(ACCOUNT), 0, 0),
            (other_account, 0, 0),
        ] {
            let over = event("e-2", now, News::AgreementEnded { account: ACCOUNT.to_owned() });
            for (event, records) in [(ended(now), by_license), (over, by_agreement)] {
                let (_folder, store) = ledger(&WallClock::fixed(now));
                store.identify("id-1".to_owned(), ACCOUNT.to_owned()).await.unwrap();
                store.identify("id-2".to_owned(), "999900001111".to_owned()).await.unwrap();
                count(&store, &customer, now).await;
                let first = process(&store, &event, now).await.unwrap();
                assert_eq!(first.records.len(), records, "{customer:?} {event:?}");
                let again = process(&store, &event, now).await.unwrap();
                assert_eq!(again, Processed { effect: Effect::Repeated, records: Vec::new() });
            }
        }
    }

    /// AWS would not take it after the end of its hour.
    #[tokio::test]
    async fn usage_that_comes_after_the_hour_has_begun_is_reported_before_the_final_window_closes() {
        let clock = WallClock::fixed(minute(50));
        let (_folder, store) = ledger(&clock);
        let processed = process(&store, &ended(minute(50)), minute(50)).await.unwrap();
        assert_eq!(processed.effect, Effect::Deprovisioned);
        assert_eq!(report_all(&store, minute(60)).await.unwrap(), Some(minute(105)));
        clock.advance(Duration::from_secs(30 * 60));
        count(&store, &of_account(Some("l-1")), minute(40)).await;
        assert_eq!(report_all(&store, minute(105)).await.unwrap(), None, "that was the last look");
        let sealed = Looked { state: Some(ShownState::Sealed), ..Looked::default() };
        assert_eq!(View::page(&store, sealed, 10).await.unwrap().rows.len(), 1);
    }
}
