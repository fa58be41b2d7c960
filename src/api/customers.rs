//! One customer of the seller, in mode `saas`: what the ledger holds of its usage, its entitlements, reports before the
//! hour's end, and the events of AWS Marketplace that ask for them.

use std::collections::BTreeMap;

use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use super::code::Code;
use super::query::decode_part;
use super::usage::{OpenLedger, UsagePart, read, starting, unavailable};
use super::{problem, query};
use crate::usage::lifecycle;
use crate::usage::notice::RejectedRequest;
use tollgate_http::{self as http, Abandoned, Body, BodyBudget};
use tollgate_ledger::LedgerError;
use tollgate_ledger::store::{Store, View};
use tollgate_ledger::view::{From, Looked, ShownState};
use tollgate_marketplace::entitlements::EntitlementsOf;
use tollgate_marketplace::lifecycle::{Concerned, Effect, LifecycleEvent, News, RefusedEvent};
use tollgate_marketplace::{Customer, ProductCode, quantity};

/// The largest event of EventBridge, with room for what a queue adds.
const EVENT_BYTES_MAX: usize = 256 * 1024;

const KEY: &str = "the customer is an account of 12 digits, or a LicenseArn with its / and : percent-encoded";

pub(super) fn no_token() -> Response<Body> {
    let detail = "events of AWS Marketplace are read only with a token; set app_token_file";
    problem(StatusCode::UNAUTHORIZED, Code::TokenRefused, detail)
}

fn saas_only() -> Response<Body> {
    let detail = "customers of the seller, and events about them, are known in mode saas only";
    problem(StatusCode::NOT_FOUND, Code::NotFound, detail)
}

fn bad_key() -> Response<Body> {
    problem(StatusCode::BAD_REQUEST, Code::BadRequest, KEY)
}

impl UsagePart {
    /// The product and the open ledger; or the answer if there is none.
    fn seller(&self) -> Result<(&ProductCode, &OpenLedger), Box<Response<Body>>> {
        let product = self.sold.as_ref().ok_or_else(|| Box::new(saas_only()))?;
        Ok((product, self.ledger.get().ok_or_else(|| Box::new(starting()))?))
    }

    /// An event of AWS Marketplace.
    pub(super) async fn marketplace_event(
        &self,
        body: Incoming,
        room: &BodyBudget,
    ) -> Result<Response<Body>, Abandoned> {
        let Some(product) = &self.sold else { return Ok(saas_only()) };
        let (kind, outcome, response) = match read(room, body, EVENT_BYTES_MAX, "256 KiB").await? {
            Ok(bytes) => self.delivered(product, &bytes).await,
            Err((answer, RejectedRequest::Busy)) => (UNREAD, "failed", answer),
            Err((answer, _)) => (UNREAD, "refused", answer),
        };
        self.metrics.marketplace_event(kind, outcome);
        Ok(response)
    }

    /// Reads and processes an event: kind and outcome for the metric, and the answer.
    async fn delivered(
        &self,
        product: &ProductCode,
        bytes: &[u8],
    ) -> (&'static str, &'static str, Response<Body>) {
        let Some(open) = self.ledger.get() else { return (UNREAD, "failed", starting()) };
        // A wrong clock would move the end of a license.
        if let Err(error) = open.store.time_known().await {
            return (UNREAD, "failed", unavailable(&error));
        }
        match LifecycleEvent::read(bytes, product, self.clock.now()) {
            Ok(event) => {
                let (outcome, response) = self.event(open, &event).await;
                (event.news.kind(), outcome, response)
            }
            Err(refused) => (UNREAD, "refused", refused_event(&refused)),
        }
    }

    /// Processes an event: the outcome for the metric, and the answer.
    async fn event(&self, open: &OpenLedger, event: &LifecycleEvent) -> (&'static str, Response<Body>) {
        if let Some(entitlements) = &self.entitlements {
            match &event.news {
                News::LicenseUpdated(named) | News::LicenseDeprovisioned(named) => {
                    entitlements.outdate(&Concerned::License {
                        account: Some(named.account.clone()),
                        license: named.license.clone(),
                    });
                }
                News::AgreementEnded { account } => {
                    entitlements.outdate(&Concerned::Account(account.clone()));
                }
                News::Nothing => {}
            }
        }
        // One at a time, as listings: several would delay the ledger's other work.
        let _turn = self.lists.lock().await;
        let done = async {
            let processed = lifecycle::process(&*open.store, event, self.clock.now()).await?;
            let sealed = sealed(&*open.store, &processed.records).await?;
            Ok((processed.effect, sealed))
        };
        match done.await {
            Ok((effect, sealed)) => {
                let document = json!({"id": event.id, "effect": effect.as_str(), "sealed": sealed});
                (outcome(effect), http::json(StatusCode::OK, &document))
            }
            Err(error) => ("failed", unavailable(&error)),
        }
    }

    /// Seals and sends a customer's open hour now.
    pub(super) async fn flush(&self, key: &str) -> Response<Body> {
        self.flushed(key).await.unwrap_or_else(|refused| refused)
    }

    async fn flushed(&self, key: &str) -> Result<Response<Body>, Response<Body>> {
        let (_, open) = self.seller().map_err(|refused| *refused)?;
        let key = decode_part(key).ok_or_else(bad_key)?;
        let concerned = Concerned::parse(&key).ok_or_else(bad_key)?;
        open.store.time_known().await.map_err(|error| unavailable(&error))?;
        let now = self.clock.now();
        let _turn = self.lists.lock().await;
        let flushed = async {
            let records = lifecycle::flush(&*open.store, &concerned, &key, now).await?;
            sealed(&*open.store, &records).await
        };
        let sealed = flushed.await.map_err(|error| unavailable(&error))?;
        tracing::info!(
            event = "customer_flushed",
            records = sealed.len(),
            "a customer's open hour is reported"
        );
        Ok(http::json(StatusCode::OK, &json!({"customer": key, "at": now, "sealed": sealed})))
    }

    /// A customer's entitlements at AWS.
    pub(super) async fn entitlements(&self, key: &str, headers: &HeaderMap) -> Response<Body> {
        let Some(cache) = &self.entitlements else { return saas_only() };
        match decode_part(key).as_deref().and_then(EntitlementsOf::parse) {
            Some(of) => cache.show(of, headers).await,
            None => bad_key(),
        }
    }

    /// What the ledger holds of a customer's usage, by dimension.
    pub(super) async fn of_customer(&self, key: &str) -> Response<Body> {
        self.balance(key).await.unwrap_or_else(|refused| refused)
    }

    async fn balance(&self, key: &str) -> Result<Response<Body>, Response<Body>> {
        let (_, open) = self.seller().map_err(|refused| *refused)?;
        let key = decode_part(key).ok_or_else(bad_key)?;
        let concerned = Concerned::parse(&key).ok_or_else(bad_key)?;
        let _turn = self.lists.lock().await;
        let held = held(&*open.store, &concerned, &key).await.map_err(|error| unavailable(&error))?;
        let license = match &concerned {
            Concerned::License { license, .. } => {
                let asked = open.store.lifecycle().license(license.clone());
                asked.await.map_err(|error| unavailable(&error))?
            }
            Concerned::Account(_) => None,
        };
        let ended = license.and_then(|license| license.deprovisioned_at);
        let rows: Vec<Value> = held.into_iter().map(|(dimension, held)| held.shown(&dimension)).collect();
        let document = json!({
            "customer": key,
            "at": self.clock.now(),
            "deprovisioned_at": ended,
            "dimensions": rows,
        });
        Ok(http::json(StatusCode::OK, &document))
    }
}

/// The kind, in the metric, of an event whose type was not read.
const UNREAD: &str = "other";

/// An event's outcome, in the metric.
const fn outcome(effect: Effect) -> &'static str {
    match effect {
        Effect::Active | Effect::Deprovisioned | Effect::Ended => "processed",
        Effect::Repeated => "repeated",
        Effect::Outdated => "outdated",
        Effect::Ignored => "ignored",
    }
}

fn refused_event(refused: &RefusedEvent) -> Response<Body> {
    tracing::warn!(event = "marketplace_event_refused", error = %refused, "an event was refused");
    let (status, code) = match refused {
        RefusedEvent::NoEvent(_) => (StatusCode::BAD_REQUEST, Code::BadRequest),
        _ => (StatusCode::UNPROCESSABLE_ENTITY, Code::EventRefused),
    };
    problem(status, code, &refused.to_string())
}

/// The records that a flush made.
async fn sealed(ledger: &dyn View, records: &[i64]) -> Result<Vec<Value>, LedgerError> {
    let mut sealed = Vec::with_capacity(records.len());
    for id in records {
        if let Some((whole, _)) = ledger.record(*id).await? {
            let record = whole.record;
            sealed.push(json!({
                "id": record.id,
                "customer": Customer::shown(&record.customer.canonical()),
                "dimension": record.dimension,
                "hour": record.hour.to_string(),
                "quantity": record.quantity.to_string(),
            }));
        }
    }
    Ok(sealed)
}

/// Amounts of one dimension, in millionths.
#[derive(Debug, Default, PartialEq, Eq)]
struct Held {
    open: i128,
    unsent: i128,
    in_doubt: i128,
    billed: i128,
    unconfirmed: i128,
    dead: i128,
    discarded: i128,
}

impl Held {
    /// The amount of a state; `None` if its usage is counted elsewhere.
    const fn of(&mut self, state: ShownState) -> Option<&mut i128> {
        Some(match state {
            ShownState::Sealed | ShownState::Claimed => &mut self.unsent,
            ShownState::InDoubt => &mut self.in_doubt,
            ShownState::Accepted => &mut self.billed,
            ShownState::Unconfirmed => &mut self.unconfirmed,
            ShownState::Dead => &mut self.dead,
            ShownState::Discarded => &mut self.discarded,
            // It counts in another record, or is open.
            ShownState::Carried => return None,
        })
    }

    fn shown(&self, dimension: &str) -> Value {
        json!({
            "dimension": dimension,
            "open": quantity::show(self.open),
            "unsent": quantity::show(self.unsent),
            "in_doubt": quantity::show(self.in_doubt),
            "billed": quantity::show(self.billed),
            "unconfirmed": quantity::show(self.unconfirmed),
            "dead": quantity::show(self.dead),
            "discarded": quantity::show(self.discarded),
        })
    }
}

/// Adds up the customer's open usage and kept records. `key`: the text by which the ledger lists them.
async fn held(
    ledger: &dyn Store,
    concerned: &Concerned,
    key: &str,
) -> Result<BTreeMap<String, Held>, LedgerError> {
    let mut held = BTreeMap::new();
    add(&mut held, ledger, key, &|customer| concerned.includes(customer)).await?;
    for legacy in lifecycle::legacy(ledger, concerned).await? {
        let listed = legacy.canonical();
        add(&mut held, ledger, &listed, &|customer| *customer == legacy).await?;
    }
    Ok(held)
}

/// Adds usage of some of the customers that the ledger lists by this text, in pieces.
async fn add(
    held: &mut BTreeMap<String, Held>,
    ledger: &dyn Store,
    listed: &str,
    includes: &(dyn Fn(&Customer) -> bool + Sync),
) -> Result<(), LedgerError> {
    let looked = Looked { customer: Some(listed.to_owned()), ..Looked::default() };
    let mut next = Some(From::default());
    while let Some(from) = next {
        let piece = ledger.open_slots(looked.clone(), from, query::SHOWN_MAX).await?;
        for open in piece.rows {
            if Customer::from_canonical(&open.customer).is_some_and(|customer| includes(&customer)) {
                let amount = open.quantity();
                held.entry(open.dimension).or_default().open += amount;
            }
        }
        next = piece.next;
    }
    let mut wanted = Some(looked);
    while let Some(looked) = wanted {
        let piece = ledger.page(looked.clone(), query::SHOWN_MAX).await?;
        for record in piece.rows.iter().filter(|record| includes(&record.customer)) {
            let of = held.entry(record.dimension.clone()).or_default();
            if let Some(amount) = of.of(ShownState::of(record)) {
                *amount += record.raw;
            }
        }
        wanted = piece.next.map(|before| Looked { before: Some(before), ..looked });
    }
    Ok(())
}
