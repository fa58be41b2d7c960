//! Counts a group of events with one call of the database (`take.sql`). What surrounds the call is here: where each
//! event counts, which of a group's events have the same key, and what the answer means for each event. Pure.
//!
//! An event's place depends on facts that change rarely and are kept in memory: the closed hours, the identities, the
//! forms, the rules with which hours began. The call checks that they are still current, and counts nothing if they are
//! not.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use ring::digest;

use crate::memory::{Held, Memory, PlaceKey, short};
use crate::schema::{ALL_HOURS, tags_key};
use tollgate_ledger::{Form, HoursAt, TAG_BYTES_MAX, TAGGED_SETS_MAX, Taken};
use tollgate_marketplace::lifecycle::{LicenseState, license_id};
use tollgate_marketplace::{Customer, Hour, TagSet};
use tollgate_metering::aggregation::{Aggregation, Rule, Rules};
use tollgate_metering::event::Event;
use tollgate_time::Timestamp;

/// A key's hash, as SQLite's ledger makes it: a moved ledger keeps its keys.
pub(crate) type KeyHash = [u8; 16];

/// The hash of an event's content.
pub(crate) type Content = [u8; 8];

/// The database takes an amount as two numbers of 64 bits: the second one counts this.
const HIGH: i128 = 1 << 62;

/// Most accounts of identifiers, and most licenses, that are kept in memory beside those of a group.
const NAMES_MAX: usize = 50_000;

/// A key's hash.
pub(crate) fn key_hash(ledger_id: &str, id: &str) -> KeyHash {
    let mut context = digest::Context::new(&digest::SHA256);
    // The ledger's id has a fixed length, so no other pair of id and key gives the same text.
    context.update(ledger_id.as_bytes());
    context.update(id.as_bytes());
    let mut hash = KeyHash::default();
    hash.copy_from_slice(&context.finish().as_ref()[..size_of::<KeyHash>()]);
    hash
}

fn content(event: &Event) -> Content {
    let mut content = Content::default();
    content.copy_from_slice(&event.content[..size_of::<Content>()]);
    content
}

/// What decides where usage counts, as it was read from the database; current while the ledger's version is the same.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) version: i64,
    pub(crate) ledger_id: String,
    /// AWS takes no usage from before the software started.
    pub(crate) started_at: Timestamp,
    /// The latest hour that is closed for all usage.
    pub(crate) closed: Hour,
    /// A flush sealed these customers' hours before their end.
    pub(crate) closed_early: HashSet<(Hour, String)>,
    /// The accounts of legacy identifiers that were asked for; `None` if an account is unknown.
    pub(crate) identities: HashMap<String, Option<String>>,
    /// Whether any license has ended.
    pub(crate) any_ended: bool,
    /// What is known about the licenses that were asked for, if any license has ended.
    pub(crate) licenses: HashMap<String, Option<LicenseState>>,
}

impl Facts {
    /// Where an event counts: the hour, and its own hour if that is another one.
    fn place(&self, event: &Event, hours: HoursAt) -> (Hour, Option<Hour>) {
        let own = Hour::of(event.at.max(self.started_at));
        let mut hour = if own <= hours.closed { hours.current } else { own };
        if !self.closed_early.is_empty() {
            let mut asked = (hour, event.customer.canonical());
            while self.closed_early.contains(&asked) {
                asked.0 = asked.0.next();
            }
            hour = asked.0;
        }
        (hour, (hour != own).then_some(own))
    }

    fn form(&self, customer: &Customer) -> Option<(String, Form)> {
        let account = match customer {
            Customer::Identifier(identifier) => self.identities.get(identifier).and_then(Option::as_deref),
            Customer::Own | Customer::Account { .. } => None,
        };
        Form::named(customer, account)
    }

    /// The license of a customer, if it may have ended.
    fn license<'a>(&self, customer: &'a Customer) -> Option<&'a str> {
        match customer {
            Customer::Account { license_arn: Some(arn), .. } if self.any_ended => Some(license_id(arn)),
            _ => None,
        }
    }

    /// Whether the event's license ended before it.
    fn has_ended(&self, event: &Event, now: Timestamp) -> bool {
        let known = self.license(&event.customer).and_then(|license| *self.licenses.get(license)?);
        known.is_some_and(|state| !state.takes(event.at, now))
    }

    /// Forgets names if there are too many; before a group asks for its own.
    pub(crate) fn trim(&mut self) {
        if self.identities.len() > NAMES_MAX {
            self.identities.clear();
        }
        if self.licenses.len() > NAMES_MAX {
            self.licenses.clear();
        }
    }

    /// Notes the states of licenses that were asked for.
    pub(crate) fn note_licenses(&mut self, asked: Vec<String>, found: Vec<(String, LicenseState)>) {
        self.licenses.extend(asked.into_iter().map(|license| (license, None)));
        self.licenses.extend(found.into_iter().map(|(license, state)| (license, Some(state))));
    }

    /// Notes the accounts of identifiers that were asked for.
    pub(crate) fn note_identities(&mut self, asked: Vec<String>, found: Vec<(String, String)>) {
        self.identities.extend(asked.into_iter().map(|identifier| (identifier, None)));
        self.identities.extend(found.into_iter().map(|(identifier, account)| (identifier, Some(account))));
    }
}

/// What has to be read before a group can be counted; empty for almost every group.
#[derive(Debug, Default)]
pub(crate) struct Unknown {
    pub(crate) identifiers: BTreeSet<String>,
    pub(crate) licenses: BTreeSet<String>,
    pub(crate) places: BTreeSet<PlaceKey>,
}

/// The aggregate of events without keys, of one slot.
#[derive(Debug)]
struct Lump {
    slot: u32,
    amount: i128,
    first_at: Timestamp,
    late_from: Option<Hour>,
}

/// An event with a key.
#[derive(Debug)]
struct Entry {
    hash: KeyHash,
    content: Content,
    /// Or why it cannot be counted, and is only looked up.
    slot: Result<u32, Taken>,
    amount: i128,
    first_at: Timestamp,
    late_from: Option<Hour>,
}

#[derive(Debug)]
struct Slot {
    hour: Hour,
    customer: String,
    dimension: String,
    key: Vec<u8>,
    /// The tags whose usage the slot has.
    tags: TagSet,
    /// Number of its form in `forms`, from 1.
    form: Option<i32>,
    is_max: bool,
}

/// What becomes of one event of the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is in a lump: it counts.
    Counted,
    /// It is this entry.
    Entry(u32),
    /// An earlier event has its key: this entry. The event's own content.
    Same(u32, Content),
    /// It has no key, and cannot be counted.
    Refused(Taken),
    /// It can only be judged when the group was counted.
    Later,
}

/// A group, ready for the call.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    /// The hour of the time at which it was prepared, and that of the time less `settle`: they decide what is open.
    present: i64,
    settling: i64,
    /// For each of the events, in their order: its number in the group, and its fate.
    fates: Vec<(u32, Fate)>,
    entries: Vec<Entry>,
    lumps: Vec<Lump>,
    slots: Vec<Slot>,
    /// Forms that are not known yet, in the order of their first event.
    forms: Vec<(Hour, String, Form)>,
    /// This replica's rules of hours and dimensions of which it is not known yet whether the hour began with them. In
    /// the order of their keys, so that replicas which note the same ones never wait for each other in a circle.
    rules: BTreeMap<(Hour, String), Rule>,
    /// An event without a key was refused for what may have changed since: the call finds out.
    has_to_ask: bool,
}

/// The arrays of the call, in the order of its arguments.
#[derive(Debug, Default)]
pub(crate) struct Arrays<'a> {
    pub(crate) present: i64,
    pub(crate) settling: i64,
    pub(crate) locks: Vec<i32>,
    pub(crate) rule_hours: Vec<i64>,
    pub(crate) rule_dimensions: Vec<&'a str>,
    pub(crate) rule_rules: Vec<String>,
    pub(crate) form_hours: Vec<i64>,
    pub(crate) form_accounts: Vec<&'a str>,
    pub(crate) form_forms: Vec<i16>,
    pub(crate) hours: Vec<i64>,
    pub(crate) customers: Vec<&'a str>,
    pub(crate) dimensions: Vec<&'a str>,
    pub(crate) keys: Vec<&'a [u8]>,
    pub(crate) tags: Vec<String>,
    pub(crate) forms: Vec<Option<i32>>,
    pub(crate) is_max: Vec<bool>,
    pub(crate) hashes: Vec<Option<&'a [u8]>>,
    pub(crate) contents: Vec<Option<&'a [u8]>>,
    pub(crate) slots: Vec<Option<i32>>,
    pub(crate) amounts: Vec<i64>,
    /// Empty if no amount needs it.
    pub(crate) high: Vec<Option<i64>>,
    pub(crate) first: Vec<i64>,
    pub(crate) late: Vec<Option<i64>>,
}

impl Arrays<'_> {
    fn amount(&mut self, amount: i128, first_at: Timestamp, late_from: Option<Hour>) {
        let (low, high) = halves(amount);
        if high.is_some() && self.high.is_empty() {
            self.high.resize(self.amounts.len(), None);
        }
        if high.is_some() || !self.high.is_empty() {
            self.high.push(high);
        }
        self.amounts.push(low);
        self.first.push(first_at.unix_millis());
        self.late.push(late_from.map(Hour::number));
    }
}

/// An amount as two numbers: the first one, and how many times [`HIGH`] is added to it. The first one is 0 only if the
/// amount is.
fn halves(amount: i128) -> (i64, Option<i64>) {
    if amount <= HIGH {
        return (i64::try_from(amount).unwrap_or(i64::MIN), None);
    }
    // A group has some thousand events of at most 10^26: far below 2^62 times 2^62.
    let (high, low) = ((amount - 1) / HIGH, (amount - 1) % HIGH + 1);
    (i64::try_from(low).unwrap_or(i64::MAX), Some(i64::try_from(high).unwrap_or(i64::MAX)))
}

/// What the database says about the keys of a group that was counted.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    /// Keys that were not claimed.
    pub(crate) left: HashSet<KeyHash>,
    /// The content of those of them that were claimed before.
    pub(crate) known: HashMap<KeyHash, Content>,
}

/// What decides where the events of a group count.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Basis<'a> {
    pub(crate) facts: &'a Facts,
    pub(crate) memory: &'a Memory,
    /// This replica's rules.
    pub(crate) rules: &'a Rules,
    /// How long after its end an hour still takes its own late events.
    pub(crate) settle: Duration,
    pub(crate) now: Timestamp,
}

impl Basis<'_> {
    fn hours(&self) -> HoursAt {
        HoursAt::new(Some(self.facts.closed), self.settle, self.now)
    }
}

/// Finds out what is needed to prepare these events.
pub(crate) fn unknown(events: &[Event], open: &[u32], basis: Basis<'_>) -> Unknown {
    let Basis { facts, memory, .. } = basis;
    let hours = basis.hours();
    let mut unknown = Unknown::default();
    for event in open.iter().map(|number| &events[*number as usize]) {
        if let Customer::Identifier(identifier) = &event.customer
            && !facts.identities.contains_key(identifier)
        {
            unknown.identifiers.insert(identifier.clone());
        }
        if let Some(license) = facts.license(&event.customer)
            && !facts.licenses.contains_key(license)
        {
            unknown.licenses.insert(license.to_owned());
        }
        if memory.tags.incomplete && !event.tags.is_empty() {
            let place = (facts.place(event, hours).0, event.customer.canonical(), event.dimension.clone());
            if !memory.tags.places.contains_key(&place) {
                unknown.places.insert(place);
            }
        }
    }
    unknown
}

/// The state while a group is prepared.
struct Preparing<'a> {
    basis: Basis<'a>,
    hours: HoursAt,
    made: Prepared,
    /// This replica's rule of an hour's dimension, or the other one with which the hour began.
    rule_of: HashMap<(Hour, &'a str), Result<&'a Rule, &'a Rule>>,
    slot_of: HashMap<(Hour, &'a Customer, &'a str, &'a TagSet), u32>,
    lump_of: HashMap<u32, usize>,
    claimant_of: HashMap<KeyHash, u32>,
    /// The number of a form that is not known yet, and the form; `None` after an event of another form.
    form_of: HashMap<(Hour, String), (i32, Option<Form>)>,
    /// The tag sets that this group adds to a slot, and the bytes of all.
    added: BTreeMap<PlaceKey, Held>,
    untagged: &'a TagSet,
}

/// Decides where the events of these numbers count.
pub(crate) fn prepare<'a>(
    events: &'a [Event],
    open: &[u32],
    basis: Basis<'a>,
    untagged: &'a TagSet,
) -> Prepared {
    let hours = basis.hours();
    let mut preparing = Preparing {
        basis,
        hours,
        made: Prepared {
            present: hours.present.number(),
            settling: Hour::of(basis.now.minus(basis.settle)).number(),
            ..Prepared::default()
        },
        rule_of: HashMap::new(),
        slot_of: HashMap::new(),
        lump_of: HashMap::new(),
        claimant_of: HashMap::with_capacity(open.len()),
        form_of: HashMap::new(),
        added: BTreeMap::new(),
        untagged,
    };
    preparing.made.fates.reserve(open.len());
    for number in open {
        let fate = preparing.event(&events[*number as usize]);
        preparing.made.fates.push((*number, fate));
    }
    preparing.made
}

impl<'a> Preparing<'a> {
    fn event(&mut self, event: &'a Event) -> Fate {
        let facts = self.basis.facts;
        let (hour, late_from) = facts.place(event, self.hours);
        let place = match self.place(event, hour) {
            Fits::Yes(place) => Ok(place),
            Fits::No(refused) => Err(refused),
            Fits::Undecided => return Fate::Later,
        };
        let amount = event.quantity.signed();
        let first_at = if late_from.is_some() { self.basis.now } else { event.at.max(facts.started_at) };
        let Some(id) = &event.id else {
            let place = match place {
                Ok(place) => place,
                Err(refused) => {
                    self.made.has_to_ask |= refused == Taken::Deprovisioned;
                    return Fate::Refused(refused);
                }
            };
            let slot = self.slot(event, hour, place);
            self.lump(slot, place.rule, Lump { slot, amount, first_at, late_from });
            return Fate::Counted;
        };
        let (hash, content) = (key_hash(&facts.ledger_id, id), content(event));
        if let Some(entry) = self.claimant_of.get(&hash) {
            return Fate::Same(*entry, content);
        }
        let number = index(self.made.entries.len());
        let slot = place.map(|place| self.slot(event, hour, place));
        // A key of an event of 0 is not kept, so that events that cost nothing cannot fill the ledger.
        if slot.is_ok() && amount > 0 {
            self.claimant_of.insert(hash, number);
        }
        let amount = if slot.is_ok() { amount } else { 0 };
        self.made.entries.push(Entry { hash, content, slot, amount, first_at, late_from });
        Fate::Entry(number)
    }

    /// Whether an event may count to an hour, and how.
    fn place(&mut self, event: &'a Event, hour: Hour) -> Fits<Place<'a>> {
        if self.basis.facts.has_ended(event, self.basis.now) {
            return Fits::No(Taken::Deprovisioned);
        }
        let rule = match self.rule(&event.dimension, hour) {
            Ok(rule) => rule,
            Err(began_with) => return Fits::No(Taken::OtherRule(*began_with)),
        };
        match self.form(&event.customer, hour) {
            Fits::Yes(form) => Fits::Yes(Place { rule, form }),
            Fits::No(refused) => Fits::No(refused),
            Fits::Undecided => Fits::Undecided,
        }
    }

    /// This replica's rule, or the other one with which the hour began.
    fn rule(&mut self, dimension: &'a str, hour: Hour) -> Result<&'a Rule, &'a Rule> {
        if let Some(known) = self.rule_of.get(&(hour, dimension)) {
            return *known;
        }
        let (ours, began_with) =
            (self.basis.rules.of(dimension), self.basis.memory.rules.get(hour, dimension));
        let rule = match began_with {
            Some(other) if other != ours => Err(other),
            Some(_) => Ok(ours),
            None => {
                self.made.rules.insert((hour, dimension.to_owned()), *ours);
                Ok(ours)
            }
        };
        self.rule_of.insert((hour, dimension), rule);
        rule
    }

    /// Whether usage of this customer may count to this hour; with the number of the form, if the database does not
    /// know it yet.
    fn form(&mut self, customer: &Customer, hour: Hour) -> Fits<Option<i32>> {
        let Some((account, form)) = self.basis.facts.form(customer) else { return Fits::Yes(None) };
        let key = (hour, account);
        if let Some(known) = self.basis.memory.forms.get(&key) {
            return if *known == form { Fits::Yes(None) } else { Fits::No(Taken::OtherForm) };
        }
        if let Some((number, first)) = self.form_of.get_mut(&key) {
            // The first event of the group may prove to be counted already; then it decides nothing.
            *first = first.filter(|first| *first == form);
            return if first.is_some() { Fits::Yes(Some(*number)) } else { Fits::Undecided };
        }
        self.made.forms.push((key.0, key.1.clone(), form));
        let number = i32::try_from(self.made.forms.len()).unwrap_or(i32::MAX);
        self.form_of.insert(key, (number, Some(form)));
        Fits::Yes(Some(number))
    }

    fn slot(&mut self, event: &'a Event, hour: Hour, place: Place<'_>) -> u32 {
        let key = (hour, &event.customer, event.dimension.as_str(), &event.tags);
        if let Some(slot) = self.slot_of.get(&key) {
            return *slot;
        }
        let customer = event.customer.canonical();
        let (mut tags, mut tags_hash) = (&event.tags, Vec::new());
        if !tags.is_empty() {
            tags_hash = tags_key(&tags.canonical());
            if !self.has_place(&(hour, customer.clone(), event.dimension.clone()), tags, &tags_hash) {
                (tags, tags_hash) = (self.untagged, Vec::new());
            }
        }
        let real = (hour, &event.customer, event.dimension.as_str(), tags);
        let slot = self.slot_of.get(&real).copied().unwrap_or_else(|| {
            let dimension = event.dimension.clone();
            self.made.slots.push(Slot {
                hour,
                customer,
                dimension,
                key: tags_hash,
                tags: tags.clone(),
                form: place.form,
                is_max: place.rule.aggregation == Aggregation::Max,
            });
            index(self.made.slots.len() - 1)
        });
        self.slot_of.insert(real, slot);
        self.slot_of.insert(key, slot);
        slot
    }

    /// Whether a slot has room for one more set of tags.
    fn has_place(&mut self, place: &PlaceKey, tags: &TagSet, key: &[u8]) -> bool {
        let held = self.basis.memory.tags.places.get(place);
        let key = short(key);
        if held.is_some_and(|held| held.sets.contains(&key)) {
            return true;
        }
        let (sets, bytes) = held.map_or((0, 0), |held| (held.sets.len(), held.bytes));
        let added = self.added.entry(place.clone()).or_default();
        if added.sets.contains(&key) {
            return true;
        }
        let bytes_added = added.bytes + tags.request_bytes();
        if sets + added.sets.len() + 1 > TAGGED_SETS_MAX || bytes + bytes_added > TAG_BYTES_MAX {
            return false;
        }
        added.sets.insert(key);
        added.bytes = bytes_added;
        true
    }

    fn lump(&mut self, slot: u32, rule: &Rule, added: Lump) {
        let Some(lump) = self.lump_of.get(&slot).map(|number| &mut self.made.lumps[*number]) else {
            self.lump_of.insert(slot, self.made.lumps.len());
            self.made.lumps.push(added);
            return;
        };
        lump.amount = rule.aggregate(Some(lump.amount), added.amount);
        lump.first_at = lump.first_at.min(added.first_at);
        lump.late_from = [lump.late_from, added.late_from].into_iter().flatten().min();
    }
}

/// Whether an event may count, and how.
enum Fits<T> {
    Yes(T),
    No(Taken),
    /// Another event of the group decides.
    Undecided,
}

/// How an event counts.
#[derive(Debug, Clone, Copy)]
struct Place<'a> {
    rule: &'a Rule,
    /// The number of the form, if the database does not know it yet.
    form: Option<i32>,
}

fn index(number: usize) -> u32 {
    u32::try_from(number).expect("a group has some thousand events")
}

impl Prepared {
    /// Whether there is nothing to ask the database.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.lumps.is_empty() && !self.has_to_ask
    }

    /// The arguments of the call.
    pub(crate) fn arrays(&self) -> Arrays<'_> {
        let mut order: Vec<&Entry> = self.entries.iter().collect();
        // Two replicas that claim the same keys in the same order never wait for each other in a circle.
        order.sort_unstable_by_key(|entry| entry.hash);
        let mut arrays = Arrays { present: self.present, settling: self.settling, ..Arrays::default() };
        let lock = |hour: Hour| i32::try_from(hour.number()).unwrap_or(i32::MAX);
        let locks: BTreeSet<i32> = self.slots.iter().map(|slot| lock(slot.hour)).collect();
        arrays.locks = [ALL_HOURS].into_iter().chain(locks).collect();
        for ((hour, dimension), rule) in &self.rules {
            arrays.rule_hours.push(hour.number());
            arrays.rule_dimensions.push(dimension);
            arrays.rule_rules.push(rule.to_string());
        }
        for (hour, account, form) in &self.forms {
            arrays.form_hours.push(hour.number());
            arrays.form_accounts.push(account);
            arrays.form_forms.push(*form as i16);
        }
        for slot in &self.slots {
            arrays.hours.push(slot.hour.number());
            arrays.customers.push(&slot.customer);
            arrays.dimensions.push(&slot.dimension);
            arrays.keys.push(&slot.key);
            arrays.tags.push(slot.tags.canonical());
            arrays.forms.push(slot.form);
            arrays.is_max.push(slot.is_max);
        }
        let count = order.len() + self.lumps.len();
        arrays.hashes.reserve(count);
        arrays.contents.reserve(count);
        arrays.slots.reserve(count);
        arrays.amounts.reserve(count);
        arrays.first.reserve(count);
        arrays.late.reserve(count);
        // The database counts from 1.
        let number = |slot: u32| i32::try_from(slot + 1).unwrap_or(i32::MAX);
        for entry in order {
            arrays.hashes.push(Some(&entry.hash));
            arrays.contents.push(Some(&entry.content));
            arrays.slots.push(entry.slot.ok().map(number));
            arrays.amount(entry.amount, entry.first_at, entry.late_from);
        }
        for lump in &self.lumps {
            arrays.hashes.push(None);
            arrays.contents.push(None);
            arrays.slots.push(Some(number(lump.slot)));
            arrays.amount(lump.amount, lump.first_at, lump.late_from);
        }
        arrays
    }

    /// All keys of the group.
    pub(crate) fn hashes(&self) -> Vec<&[u8]> {
        self.entries.iter().map(|entry| &entry.hash[..]).collect()
    }

    /// What is known of the keys if the group was counted but the answer was lost. A key that has another content was
    /// claimed before. One that has the same is taken as claimed by the group: it counts once, whoever claimed it.
    pub(crate) fn keys_found(&self, known: HashMap<KeyHash, Content>) -> Keys {
        let own = |entry: &&Entry| {
            entry.amount > 0 && known.get(&entry.hash).is_none_or(|content| *content == entry.content)
        };
        let claimed: HashSet<KeyHash> = self.entries.iter().filter(own).map(|entry| entry.hash).collect();
        let left =
            self.entries.iter().map(|entry| entry.hash).filter(|hash| !claimed.contains(hash)).collect();
        Keys { left, known }
    }

    /// What became of each event after the group was counted; events without a result have to be counted again.
    pub(crate) fn judge(&self, keys: &Keys) -> impl Iterator<Item = (u32, Option<Taken>)> {
        self.fates.iter().map(|(number, fate)| (*number, self.taken(*fate, keys)))
    }

    fn taken(&self, fate: Fate, keys: &Keys) -> Option<Taken> {
        let judged = |same: bool| Some(if same { Taken::Duplicate } else { Taken::Conflict });
        match fate {
            Fate::Counted => Some(Taken::Accepted),
            Fate::Refused(refused) => Some(refused),
            Fate::Later => None,
            Fate::Entry(number) => {
                let entry = &self.entries[number as usize];
                if self.is_counted(entry, keys) {
                    return Some(Taken::Accepted);
                }
                match keys.known.get(&entry.hash) {
                    Some(known) => judged(*known == entry.content),
                    // If it was not refused, it was claimed before, and forgotten since.
                    None => entry.slot.err(),
                }
            }
            Fate::Same(number, content) => {
                let first = &self.entries[number as usize];
                if self.is_counted(first, keys) {
                    return judged(first.content == content);
                }
                keys.known.get(&first.hash).and_then(|known| judged(*known == content))
            }
        }
    }

    fn is_counted(&self, entry: &Entry, keys: &Keys) -> bool {
        if entry.slot.is_err() {
            return false;
        }
        // The key of an event of 0 is never claimed for it: it counts if nobody has claimed it before.
        let taken = if entry.amount > 0 {
            keys.left.contains(&entry.hash)
        } else {
            keys.known.contains_key(&entry.hash)
        };
        !taken
    }

    /// Notes what the database knows now.
    pub(crate) fn learn(&self, keys: &Keys, memory: &mut Memory) {
        for ((hour, dimension), rule) in &self.rules {
            memory.rules.note(*hour, dimension.clone(), *rule);
        }
        let mut counted = vec![false; self.slots.len()];
        for lump in &self.lumps {
            counted[lump.slot as usize] = true;
        }
        for entry in &self.entries {
            if let Ok(slot) = entry.slot
                && self.is_counted(entry, keys)
            {
                counted[slot as usize] = true;
            }
        }
        for (slot, _) in self.slots.iter().zip(counted).filter(|(_, counted)| *counted) {
            if let Some((hour, account, form)) =
                slot.form.and_then(|number| self.forms.get(usize::try_from(number - 1).ok()?))
                && !memory.forms.contains_key(&(*hour, account.clone()))
            {
                memory.note_form(*hour, account.clone(), *form);
            }
            if !slot.tags.is_empty() {
                let place = (slot.hour, slot.customer.clone(), slot.dimension.clone());
                memory.tags.add(place, &slot.tags, &slot.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_of_any_size_is_two_numbers_and_the_first_is_zero_only_for_zero() {
        let largest = 4096 * 10i128.pow(26);
        for amount in [0, 1, HIGH - 1, HIGH, HIGH + 1, 2 * HIGH, 2 * HIGH + 1, 10i128.pow(26), largest] {
            let (low, high) = halves(amount);
            assert_eq!(i128::from(low) + HIGH * i128::from(high.unwrap_or_default()), amount);
            assert_eq!((low == 0, high.is_some()), (amount == 0, amount > HIGH), "{amount}");
        }
    }

    #[test]
    fn large_amounts_stand_beside_small_ones() {
        let mut arrays = Arrays::default();
        let add =
            |arrays: &mut Arrays<'_>, amount| arrays.amount(amount, Timestamp::from_unix_millis(0), None);
        add(&mut arrays, 5);
        assert!(arrays.high.is_empty(), "nothing needs it");
        add(&mut arrays, HIGH + 7);
        add(&mut arrays, 9);
        assert_eq!((arrays.amounts, arrays.high), (vec![5, 7, 9], vec![None, Some(1), None]));
    }
}
