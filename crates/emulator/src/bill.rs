//! What AWS would bill: records, registrations, and the tokens that make calls idempotent.
//!
//! - One record for each product, customer, dimension, hour, form of report and region; a second value never replaces
//!   the first.
//! - Only [`Bill::apply`] changes it, so that replaying a journal gives the same bill.
//! - Its size is bounded: when it is full, [`Bill::room`] returns an error and nothing more is billed.

mod names;
mod show;

use std::collections::{BTreeMap, HashMap, VecDeque};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use names::{Name, Names};

pub(super) use show::{Filter, Part};

use super::change::{Allocation, Change, ClientToken, FormText, Recorded};
use super::decimal::Micros;
use super::hash::Digest;
use tollgate_time::Timestamp;

/// The identity of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    product: Name,
    account: Name,
    dimension: Name,
    form: Form,
    hour: i64,
    /// A report to another region is another record (AWS's metering skill).
    region: Name,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Form {
    Pod(Name),
    /// The second number makes each report a record of its own.
    Agent(Name, u64),
    Product,
    License(Name),
}

#[derive(Debug)]
struct BilledRecord {
    key: Key,
    timestamp: i64,
    quantity: Micros,
    allocations: Box<[Allocation]>,
    /// The first [`CALLS_KEPT`] calls that reported it.
    calls: Vec<u64>,
    call_count: u64,
}

/// A sum of records.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    quantity: Micros,
    records: u64,
}

impl Sum {
    fn add(&mut self, quantity: Micros) {
        self.quantity = self.quantity.saturating_add(quantity);
        self.records += 1;
    }
}

/// The parts of a record that decisions need.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) id: u64,
    pub(super) quantity: Micros,
    pub(super) allocations: &'a [Allocation],
}

/// A pod's registration of a product.
#[derive(Debug)]
struct Registration {
    account: Name,
    first_at: i64,
    first_call: u64,
    calls: u64,
    entitled: bool,
}

/// A registration token of a buyer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RegistrationToken {
    pub(super) account_id: String,
    pub(super) product_code: String,
    pub(super) issued_at: Timestamp,
    pub(super) resolved: bool,
}

/// What was billed.
#[derive(Debug, Default)]
pub(super) struct Bill {
    names: Names,
    records: Vec<BilledRecord>,
    by_key: HashMap<Key, u64>,
    /// By product, dimension and hour.
    hours: BTreeMap<(Name, Name, i64), Sum>,
    /// By product, customer and dimension.
    totals: BTreeMap<(Name, Name, Name), Sum>,
    bytes: usize,
    registrations: BTreeMap<(Name, Name), Registration>,
    seen: BTreeMap<Name, i64>,
    client_tokens: HashMap<Digest, (Digest, u64)>,
    /// The same, oldest first.
    client_tokens_by_age: VecDeque<Digest>,
    registration_tokens: BTreeMap<String, RegistrationToken>,
    /// The highest number of a call on the bill, so that numbering continues after a restart.
    last_call: u64,
}

/// Calls listed for each record: enough to see who reported it twice.
const CALLS_KEPT: usize = 8;

/// Bytes of all records: enough for a million plain ones, and some tens of megabytes for allocations.
const BYTES_MAX: usize = 256 << 20;

const HOUR_MILLIS: i64 = 3_600_000;

/// The size of a record without its allocations: the record, its key in the map, its list of calls.
const RECORD_BYTES: usize = 200;

/// Pods that are stored: more than any cluster has, in some tens of megabytes.
const PODS_MAX: usize = 100_000;

/// Client tokens that are stored; the oldest are forgotten, as at AWS after a time that AWS does not state.
const CLIENT_TOKENS_MAX: usize = 1 << 18;

/// Registration tokens that can be issued.
const REGISTRATION_TOKENS_MAX: usize = 100_000;

impl Bill {
    /// Whether another record with these allocations, or a new pod, can be stored; the error says why not.
    pub(super) fn room(&self, pod: &str, allocations: &[Allocation]) -> Result<(), &'static str> {
        if self.bytes.saturating_add(record_bytes(allocations)) > BYTES_MAX {
            return Err("the emulator's bill is full (256 MiB): POST /_emulator/reset empties it");
        }
        let new = self.names.find(pod).is_none_or(|name| !self.seen.contains_key(&name));
        if new && self.seen.len() >= PODS_MAX {
            return Err(
                "the emulator remembers 100,000 pods and no more: POST /_emulator/reset forgets them",
            );
        }
        Ok(())
    }

    /// Whether another registration token can be issued.
    pub(super) fn token_room(&self) -> bool {
        self.registration_tokens.len() < REGISTRATION_TOKENS_MAX
    }

    /// How many registration tokens were issued.
    pub(super) fn token_count(&self) -> usize {
        self.registration_tokens.len()
    }

    /// The record that this report repeats or contradicts.
    pub(super) fn find(&self, record: &Recorded) -> Option<Known<'_>> {
        let form = match &record.form {
            FormText::Pod(pod) => Form::Pod(self.names.find(pod)?),
            FormText::Agent(_) => return None,
            FormText::Product => Form::Product,
            FormText::License(arn) => Form::License(self.names.find(arn)?),
        };
        let key = Key {
            product: self.names.find(&record.product_code)?,
            account: self.names.find(&record.account_id)?,
            dimension: self.names.find(&record.dimension)?,
            form,
            hour: record.hour,
            region: self.names.find(&record.region)?,
        };
        self.by_key.get(&key).and_then(|id| self.known(*id))
    }

    /// The record with this number.
    pub(super) fn known(&self, id: u64) -> Option<Known<'_>> {
        let record = self.records.get(usize::try_from(id).ok()?)?;
        Some(Known { id, quantity: record.quantity, allocations: &record.allocations })
    }

    /// The number that the next record gets.
    pub(super) fn next_id(&self) -> u64 {
        self.records.len() as u64
    }

    /// The request of a client token, and its record.
    pub(super) fn client_token(&self, token: &Digest) -> Option<(Digest, u64)> {
        self.client_tokens.get(token).copied()
    }

    /// Whether a pod registered for a product: `true` if it was entitled once, `false` if it was refused.
    pub(super) fn registration(&self, pod: &str, product_code: &str) -> Option<bool> {
        let key = (self.names.find(pod)?, self.names.find(product_code)?);
        self.registrations.get(&key).map(|registration| registration.entitled)
    }

    /// The time of a pod's first call.
    pub(super) fn first_call(&self, pod: &str) -> Option<Timestamp> {
        let at = self.seen.get(&self.names.find(pod)?)?;
        Some(Timestamp::from_unix_millis(*at))
    }

    /// The registration token with this text.
    pub(super) fn registration_token(&self, token: &str) -> Option<&RegistrationToken> {
        self.registration_tokens.get(token)
    }

    /// The highest number of a call on the bill.
    pub(super) const fn last_call(&self) -> u64 {
        self.last_call
    }

    /// Applies a change; changes of other parts are ignored.
    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::Seen { pod, at } => {
                let name = self.names.intern(pod);
                self.seen.entry(name).or_insert(*at);
            }
            Change::Registered { pod, product_code, account_id, at, call, entitled } => {
                let key = (self.names.intern(pod), self.names.intern(product_code));
                let account = self.names.intern(account_id);
                let fresh =
                    Registration { account, first_at: *at, first_call: *call, calls: 0, entitled: *entitled };
                let registration = self.registrations.entry(key).or_insert(fresh);
                if *entitled && !registration.entitled {
                    // Billing begins with the first call that was accepted.
                    (registration.first_at, registration.first_call) = (*at, *call);
                }
                registration.calls += 1;
                registration.entitled |= entitled;
                self.last_call = self.last_call.max(*call);
            }
            Change::Recorded { record } => self.record(record),
            Change::Repeated { record, call, client_token } => {
                if let Some(known) = usize::try_from(*record).ok().and_then(|id| self.records.get_mut(id)) {
                    known.call_count += 1;
                    if known.calls.len() < CALLS_KEPT {
                        known.calls.push(*call);
                    }
                }
                self.remember(*client_token, *record);
                self.last_call = self.last_call.max(*call);
            }
            Change::TokenIssued { token, account_id, product_code, at } => {
                let issued = RegistrationToken {
                    account_id: account_id.clone(),
                    product_code: product_code.clone(),
                    issued_at: Timestamp::from_unix_millis(*at),
                    resolved: false,
                };
                self.registration_tokens.insert(token.clone(), issued);
            }
            Change::TokenResolved { token, .. } => {
                if let Some(token) = self.registration_tokens.get_mut(token) {
                    token.resolved = true;
                }
            }
            Change::Clock { .. }
            | Change::World { .. }
            | Change::Product { .. }
            | Change::Customer { .. }
            | Change::Pod { .. }
            | Change::Switches { .. }
            | Change::Assumed { .. }
            | Change::Contract { .. }
            | Change::CheckedOut { .. }
            | Change::Extended { .. }
            | Change::CheckedIn { .. }
            | Change::Lapsed { .. } => {}
        }
    }

    fn record(&mut self, recorded: &Recorded) {
        let id = self.next_id();
        let form = match &recorded.form {
            FormText::Pod(pod) => Form::Pod(self.names.intern(pod)),
            FormText::Agent(pod) => Form::Agent(self.names.intern(pod), id),
            FormText::Product => Form::Product,
            FormText::License(arn) => Form::License(self.names.intern(arn)),
        };
        let key = Key {
            product: self.names.intern(&recorded.product_code),
            account: self.names.intern(&recorded.account_id),
            dimension: self.names.intern(&recorded.dimension),
            form,
            hour: recorded.hour,
            region: self.names.intern(&recorded.region),
        };
        let hour = recorded.hour.div_euclid(HOUR_MILLIS) * HOUR_MILLIS;
        self.hours.entry((key.product, key.dimension, hour)).or_default().add(recorded.quantity);
        self.totals.entry((key.product, key.account, key.dimension)).or_default().add(recorded.quantity);
        self.bytes += record_bytes(&recorded.allocations);
        self.by_key.insert(key, id);
        self.records.push(BilledRecord {
            key,
            timestamp: recorded.timestamp,
            quantity: recorded.quantity,
            allocations: recorded.allocations.clone().into_boxed_slice(),
            calls: vec![recorded.call],
            call_count: 1,
        });
        self.remember(recorded.client_token, id);
        self.last_call = self.last_call.max(recorded.call);
    }

    fn remember(&mut self, token: Option<ClientToken>, record: u64) {
        let Some(ClientToken { token, request }) = token else { return };
        if self.client_tokens.insert(token, (request, record)).is_none() {
            self.client_tokens_by_age.push_back(token);
        }
        while self.client_tokens_by_age.len() > CLIENT_TOKENS_MAX {
            if let Some(oldest) = self.client_tokens_by_age.pop_front() {
                self.client_tokens.remove(&oldest);
            }
        }
    }
}

fn record_bytes(allocations: &[Allocation]) -> usize {
    let texts: usize = allocations
        .iter()
        .map(|allocation| {
            let tags =
                allocation.tags.iter().map(|(key, value)| key.len() + value.len() + 2 * size_of::<String>());
            size_of::<Allocation>() + tags.sum::<usize>()
        })
        .sum();
    RECORD_BYTES + texts
}

/// A record's number in the form of AWS's IDs, the same in every run.
pub(super) fn record_id(id: u64) -> String {
    format!("00000000-0000-4000-8000-{:012x}", id + 1)
}

/// A call's number in the form of AWS's request IDs.
pub(super) fn request_id(call: u64) -> String {
    format!("00000000-0000-4000-9000-{call:012x}")
}

/// A registration token in the alphabet of AWS's: blanks and plus signs get lost in careless redirects. It is the same
/// in every run, because no money depends on it.
pub(super) fn registration_token(number: usize, account_id: &str, product_code: &str) -> String {
    let text = format!("registration token {number} of {account_id} for {product_code}");
    let halves = [format!("{text}/1"), format!("{text}/2"), format!("{text}/3")];
    let digests = halves.map(|half| ring::digest::digest(&ring::digest::SHA256, half.as_bytes()));
    let bytes: Vec<u8> = digests.iter().flat_map(|digest| digest.as_ref().iter().copied()).collect();
    STANDARD.encode(bytes.get(..91).unwrap_or(&bytes))
}

#[cfg(test)]
mod tests;
