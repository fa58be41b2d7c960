//! The checkouts of License Manager: which pod holds what of the contracts.
//!
//! - A checkout expires by the emulated clock; the next decision notes that.
//! - Only [`Seats::apply`] changes them, so that replaying a journal gives the same seats.
//! - The most that was held at once, and the latest events, are kept for tests.

mod show;

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::change::{Change, Checkout};
use super::hash::{Digest, hex};
use tollgate_time::Timestamp;

/// All checkouts.
#[derive(Debug, Default)]
pub(super) struct Seats {
    /// How many there were in all.
    count: u64,
    live: BTreeMap<u64, Live>,
    /// By license and entitlement.
    held: BTreeMap<(String, String), Held>,
    /// The answered checkouts, by the digest of their client token.
    client_tokens: HashMap<Digest, Checkout>,
    /// The same, oldest first.
    client_tokens_by_age: VecDeque<Digest>,
    log: VecDeque<Event>,
    totals: Totals,
}

/// A checkout that has not ended.
#[derive(Debug)]
struct Live {
    checkout: Checkout,
    extensions: u64,
}

/// How much of an entitlement is held, and the most that was held at once.
#[derive(Debug, Clone, Copy, Default)]
struct Held {
    now: u64,
    most: u64,
}

/// A checkout began or ended.
#[derive(Debug)]
struct Event {
    at: i64,
    what: &'static str,
    checkout: u64,
    pod: String,
    license_arn: String,
    name: String,
    quantity: Option<u64>,
    /// How much of this entitlement is held afterwards.
    held: u64,
}

/// Checkouts that began and ended since the start.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
struct Totals {
    takes: u64,
    returns: u64,
    lapses: u64,
    extensions: u64,
}

/// Most checkouts at once: more than all stored pods need.
const LIVE_MAX: usize = 100_000;

/// Client tokens that are stored; the oldest are forgotten first.
const CLIENT_TOKENS_MAX: usize = 1 << 16;

/// Events that are stored: those of two hundred pods that extend every quarter of an hour for two days, in some tens of
/// megabytes.
const LOG_MAX: usize = 100_000;

impl Seats {
    /// The number of the next checkout; `None` if no more can be stored.
    pub(super) fn next_number(&self) -> Option<u64> {
        (self.live.len() < LIVE_MAX).then_some(self.count)
    }

    /// The checkout of a token, until it expires.
    pub(super) fn find(&self, token: &str, now: Timestamp) -> Option<&Checkout> {
        let number = token.strip_prefix(TOKEN_PREFIX)?.split('-').next()?.parse().ok()?;
        let checkout = &self.live.get(&number)?.checkout;
        (token == consumption_token(number) && !has_lapsed(checkout, now)).then_some(checkout)
    }

    /// The checkout of a client token, as it was answered, if it is not older than `life_millis`.
    pub(super) fn remembered(
        &self,
        token: &Digest,
        now: Timestamp,
        life_millis: Option<i64>,
    ) -> Option<&Checkout> {
        let checkout = self.client_tokens.get(token)?;
        let age_millis = now.unix_millis().saturating_sub(checkout.since);
        life_millis.is_none_or(|life| age_millis < life).then_some(checkout)
    }

    /// How much of an entitlement is held.
    pub(super) fn held(&self, license_arn: &str, name: &str, now: Timestamp) -> u64 {
        let live = self.live.values().map(|live| &live.checkout);
        let taken = live
            .filter(|checkout| checkout.license_arn == license_arn && !has_lapsed(checkout, now))
            .flat_map(|checkout| &checkout.taken)
            .filter(|taken| taken.name == name);
        taken.map(|taken| taken.quantity.unwrap_or(0)).fold(0, u64::saturating_add)
    }

    /// The changes that note which checkouts have expired.
    pub(super) fn lapses(&self, now: Timestamp) -> Vec<Change> {
        let lapsed = self.live.values().map(|live| &live.checkout).filter(|it| has_lapsed(it, now));
        let mut ends: Vec<(i64, u64)> =
            lapsed.filter_map(|checkout| Some((checkout.expires?, checkout.number))).collect();
        ends.sort_unstable();
        ends.into_iter().map(|(at, checkout)| Change::Lapsed { checkout, at }).collect()
    }

    /// Applies a change; changes of other parts are ignored.
    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::CheckedOut { checkout } => self.take(checkout),
            Change::Extended { checkout, expires } => {
                if let Some(live) = self.live.get_mut(checkout) {
                    live.checkout.expires = Some(*expires);
                    live.extensions += 1;
                    self.totals.extensions += 1;
                }
            }
            Change::CheckedIn { checkout, at } => self.end(*checkout, *at, "return"),
            Change::Lapsed { checkout, at } => self.end(*checkout, *at, "lapse"),
            _ => {}
        }
    }

    fn take(&mut self, checkout: &Checkout) {
        self.count = checkout.number + 1;
        self.totals.takes += 1;
        let token = checkout.client_token.token;
        if self.client_tokens.insert(token, checkout.clone()).is_none() {
            self.client_tokens_by_age.push_back(token);
        }
        while self.client_tokens_by_age.len() > CLIENT_TOKENS_MAX {
            if let Some(oldest) = self.client_tokens_by_age.pop_front() {
                self.client_tokens.remove(&oldest);
            }
        }
        self.live.insert(checkout.number, Live { checkout: checkout.clone(), extensions: 0 });
        self.note(checkout, checkout.since, "take", u64::saturating_add);
    }

    fn end(&mut self, number: u64, at: i64, what: &'static str) {
        let Some(Live { checkout, .. }) = self.live.remove(&number) else { return };
        if what == "lapse" {
            self.totals.lapses += 1;
        } else {
            self.totals.returns += 1;
        }
        self.note(&checkout, at, what, u64::saturating_sub);
    }

    fn note(&mut self, checkout: &Checkout, at: i64, what: &'static str, change: fn(u64, u64) -> u64) {
        for taken in &checkout.taken {
            let held = self.held.entry((checkout.license_arn.clone(), taken.name.clone())).or_default();
            held.now = change(held.now, taken.quantity.unwrap_or(0));
            held.most = held.most.max(held.now);
            self.log.push_back(Event {
                at,
                what,
                checkout: checkout.number,
                pod: checkout.pod.clone(),
                license_arn: checkout.license_arn.clone(),
                name: taken.name.clone(),
                quantity: taken.quantity,
                held: held.now,
            });
        }
        while self.log.len() > LOG_MAX {
            self.log.pop_front();
        }
    }
}

fn has_lapsed(checkout: &Checkout, now: Timestamp) -> bool {
    checkout.expires.is_some_and(|expires| expires <= now.unix_millis())
}

const TOKEN_PREFIX: &str = "emulated-consumption-";

/// The token of a checkout, the same in every run; it need not be secret.
pub(super) fn consumption_token(number: u64) -> String {
    let digest =
        ring::digest::digest(&ring::digest::SHA256, format!("license consumption {number}").as_bytes());
    format!("{TOKEN_PREFIX}{number}-{}", hex(digest))
}
