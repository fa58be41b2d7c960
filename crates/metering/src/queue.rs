//! The queue of due records, and the choice of those for the next call. Pure.
//!
//! - A record in doubt, or of a customer whose last call got no answer, is sent alone: if its call fails, it must not
//!   put others in doubt.
//! - A batch that AWS rejects for its content is halved. The records of a half share a call only with each other, and
//!   queue behind the records that waited before. This is not on disk: a new process finds out again.
//! - AWS deduplicates by region, so a call has records of one region.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::batch;
use crate::health::Health;
use crate::record::{Due, Record};
use tollgate_marketplace::Region;

/// The memory for all calls in flight; the sidecar has 32 MiB.
pub const IN_FLIGHT_BYTES_MAX: usize = 6 << 20;

/// Most calls in flight with a risky record, each of another customer (or of another dimension of the pod's own
/// usage), so that there is always a call left for other records.
const RISKY_CALLS_MAX: usize = 6;

/// Most risky records in the queue: thousands that are never answered must not delay those behind them.
const RISKY_MAX: usize = 300;

/// A risky record that does not fit is read again after this time; at ten calls a second the queue is empty by then.
pub const RISKY_PAUSE: Duration = Duration::from_secs(30);

/// The memory of a record without allocations, with its part of the request and of the answer.
const RECORD_BYTES: usize = 2048;

/// Each stored byte of a tag set takes at most three bytes of a request, because of AWS's member names.
const REQUEST_PER_STORED: usize = 3;

/// The request is in memory once. AWS's answer repeats it, and is in memory twice: as it arrives, and as a whole.
const COPIES: usize = 3;

/// A record's memory while it is in flight. The record as read from disk is not counted: it is dropped when the
/// request is built, which happens for one call at a time.
const fn weight(due: &Due) -> usize {
    let request = REQUEST_PER_STORED * due.stored_bytes;
    let request = if request < batch::BYTES_MAX { request } else { batch::BYTES_MAX };
    RECORD_BYTES + COPIES * request
}

/// A queued record.
#[derive(Debug)]
struct Waiting {
    record: Record,
    customer: String,
    weight: usize,
}

/// Whether a record is risky: it may get no answer again, so it is sent alone.
#[must_use]
pub fn is_risky(record: &Record, health: &Health) -> bool {
    goes_alone(record, &record.customer.canonical(), health)
}

fn goes_alone(record: &Record, customer: &str, health: &Health) -> bool {
    record.state.in_doubt() || health.suspects.include(customer, &record.dimension)
}

fn risky(record: &Record, health: &Health) -> Risky {
    let (customer, dimension) = (record.customer.canonical(), record.dimension.clone());
    Risky { name: health.suspects.name(&customer, &dimension).to_owned(), dimension }
}

impl Waiting {
    /// As [`is_risky`].
    fn is_risky(&self, health: &Health) -> bool {
        goes_alone(&self.record, &self.customer, health)
    }
}

/// Which records are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// As many as fit into a call.
    Batch,
    /// One record.
    One,
    /// One record that is in doubt already.
    OneInDoubt,
    /// One record that is not in doubt.
    OneFresh,
}

/// The records of one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// Their numbers.
    pub ids: Vec<i64>,
    /// Their memory.
    pub weight: usize,
    /// Whether the first record is in doubt already; a call with such a record has no other.
    pub in_doubt: bool,
    /// The call's risky record, if it has one.
    pub risky: Option<Risky>,
}

/// A risky record in flight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Risky {
    /// The name of what may be the cause (`Suspects::name`); one record of each name is in flight.
    pub name: String,
    /// Its dimension.
    pub dimension: String,
}

/// The queue.
#[derive(Debug, Default)]
pub struct Queue {
    line: VecDeque<Waiting>,
    known: BTreeSet<i64>,
    /// Records that share a call only with others of their group.
    groups: BTreeMap<i64, u64>,
    groups_made: u64,
}

impl Queue {
    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    /// How many records wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.line.len()
    }

    /// How many of them are not risky.
    pub fn ready(&self, health: &Health) -> usize {
        self.line.iter().filter(|waiting| !waiting.is_risky(health)).count()
    }

    /// Whether a record is queued.
    pub fn holds(&self, id: i64) -> bool {
        self.known.contains(&id)
    }

    /// How many more risky records fit; the others are read again later ([`RISKY_PAUSE`]).
    pub fn room(&self, health: &Health) -> usize {
        RISKY_MAX.saturating_sub(self.len() - self.ready(health))
    }

    /// Adds a record at the end, unless it is queued already.
    pub fn push(&mut self, due: Due) {
        if self.known.insert(due.record.id) {
            let (customer, weight) = (due.record.customer.canonical(), weight(&due));
            self.line.push_back(Waiting { record: due.record, customer, weight });
        }
    }

    /// Takes a record for a call at once, whether it is queued or not.
    pub fn take_aside(&mut self, due: &Due, health: &Health) -> Load {
        if self.known.remove(&due.record.id) {
            self.line.retain(|waiting| waiting.record.id != due.record.id);
        }
        let in_doubt = due.record.state.in_doubt();
        Load {
            ids: vec![due.record.id],
            weight: weight(due),
            in_doubt,
            risky: Some(risky(&due.record, health)),
        }
    }

    /// Empties the queue: the records are read from disk again.
    pub fn clear(&mut self) {
        self.line.clear();
        self.known.clear();
    }

    /// Customer and dimension of each queued record.
    pub fn subjects(&self) -> impl Iterator<Item = (&str, &str)> {
        self.line.iter().map(|waiting| (waiting.customer.as_str(), waiting.record.dimension.as_str()))
    }

    /// Takes the records of the next call out of the queue. `None` if there is no such record, or `room` is too small
    /// for the first; a record that needs more than all the memory is sent when no other call is in flight.
    /// `in_flight`: the risky records in flight.
    pub fn take(
        &mut self,
        wanted: Wanted,
        room: usize,
        in_flight: &[&Risky],
        health: &Health,
        here: Option<&Region>,
    ) -> Option<Load> {
        let is_risky = |waiting: &Waiting| waiting.is_risky(health);
        let has_turn = |waiting: &Waiting| {
            let name = health.suspects.name(&waiting.customer, &waiting.record.dimension);
            in_flight.len() < RISKY_CALLS_MAX && in_flight.iter().all(|risky| risky.name != name)
        };
        // Records that never get an answer come last, so that calls are left for the others.
        let like_it = |waiting: &Waiting| {
            let same = |risky: &&&Risky| risky.dimension == waiting.record.dimension;
            let in_flight = if is_risky(waiting) { in_flight.iter().filter(same).count() } else { 0 };
            (health.suspects.was_silent(&waiting.customer, &waiting.record.dimension), in_flight)
        };
        let fits = |waiting: &Waiting| match wanted {
            Wanted::Batch | Wanted::One => !is_risky(waiting) || has_turn(waiting),
            Wanted::OneInDoubt => waiting.record.state.in_doubt() && has_turn(waiting),
            Wanted::OneFresh => !waiting.record.state.in_doubt(),
        };
        let candidates = self.line.iter().enumerate().filter(|(_, waiting)| fits(waiting));
        let likeness = |waiting: &Waiting| match wanted {
            Wanted::Batch => 0,
            _ => health.likeness(&waiting.customer, &waiting.record.dimension),
        };
        let (first, _) = candidates.min_by_key(|(at, waiting)| (likeness(waiting), like_it(waiting), *at))?;
        let head = &self.line[first];
        if head.weight > room && room < IN_FLIGHT_BYTES_MAX {
            return None;
        }
        let (in_doubt, is_alone) = (head.record.state.in_doubt(), is_risky(head));
        let mut chosen = vec![first];
        if wanted == Wanted::Batch && !is_alone {
            self.join(&mut chosen, room, here, is_risky);
        }
        let risky = is_alone.then(|| risky(&self.line[first].record, health));
        let weight = chosen.iter().map(|at| self.line[*at].weight).sum();
        let ids: Vec<i64> = chosen.iter().map(|at| self.line[*at].record.id).collect();
        for at in chosen.into_iter().rev() {
            self.line.remove(at);
        }
        for id in &ids {
            self.known.remove(id);
        }
        Some(Load { ids, weight, in_doubt, risky })
    }

    /// Adds to a call with one record the later ones that may share it.
    fn join(
        &self,
        chosen: &mut Vec<usize>,
        room: usize,
        here: Option<&Region>,
        is_risky: impl Fn(&Waiting) -> bool,
    ) {
        let first = &self.line[chosen[0]];
        let kind = |waiting: &Waiting| {
            let record = &waiting.record;
            let region = record.region.as_ref().or(here).map(Region::as_str).map(str::to_owned);
            (batch::form(&record.customer), record.decimal, region, self.groups.get(&record.id))
        };
        let wanted = kind(first);
        let mut weight = first.weight;
        let mut seen = BTreeSet::from([(first.customer.as_str(), first.record.dimension.as_str())]);
        for (at, waiting) in self.line.iter().enumerate().skip(chosen[0] + 1) {
            if chosen.len() == batch::RECORDS_MAX {
                break;
            }
            if !is_risky(waiting)
                && weight + waiting.weight <= room
                && kind(waiting) == wanted
                && seen.insert((waiting.customer.as_str(), waiting.record.dimension.as_str()))
            {
                weight += waiting.weight;
                chosen.push(at);
            }
        }
    }

    /// AWS rejected a call with these records for its content: from now on they are sent in halves.
    pub fn halve(&mut self, ids: &[i64]) {
        let (first, second) = ids.split_at(ids.len() / 2);
        for half in [first, second] {
            self.groups_made += 1;
            for id in half {
                self.groups.insert(*id, self.groups_made);
            }
        }
    }

    /// A record is settled, so its group is of no use any more.
    pub fn forget(&mut self, id: i64) {
        self.groups.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::health::Subject;
    use super::*;
    use crate::record::State;
    use tollgate_marketplace::Customer;
    use tollgate_marketplace::schedule::Draw;
    use tollgate_time::Timestamp;

    fn due(id: i64, customer: &str, dimension: &str) -> Due {
        let record = Record {
            id,
            customer: Customer::Account { account_id: customer.to_owned(), license_arn: None },
            dimension: dimension.to_owned(),
            ..Record::sample(Timestamp::from_unix_seconds(1_795_507_200))
        };
        Due { record, stored_bytes: 2 }
    }

    fn queue(dues: impl IntoIterator<Item = Due>) -> Queue {
        let mut queue = Queue::default();
        dues.into_iter().for_each(|due| queue.push(due));
        queue
    }

    fn take(queue: &mut Queue, wanted: Wanted) -> Vec<i64> {
        queue
            .take(wanted, IN_FLIGHT_BYTES_MAX, &[], &Health::default(), None)
            .map_or_else(Vec::new, |load| load.ids)
    }

    fn doubtful(due: Due) -> Due {
        Due { record: Record { state: State::Sealed { in_doubt: true }, ..due.record }, ..due }
    }

    #[test]
    fn a_record_in_doubt_goes_alone() {
        let mut queue = queue([due(1, "1", "a"), doubtful(due(2, "2", "a")), due(3, "3", "a")]);
        assert_eq!(take(&mut queue, Wanted::Batch), [1, 3]);
        assert_eq!(take(&mut queue, Wanted::Batch), [2]);
        assert!(queue.is_empty());
    }

    #[test]
    fn kinds_and_regions_are_never_mixed() {
        let mut licensed = due(2, "2", "a");
        licensed.record.customer =
            Customer::Account { account_id: "2".into(), license_arn: Some("arn:l".into()) };
        let mut decimal = due(3, "3", "a");
        decimal.record.decimal = true;
        let mut elsewhere = due(4, "4", "a");
        elsewhere.record.region = Some("eu-west-1".parse().unwrap());
        let mut here = due(5, "5", "a");
        here.record.region = Some("us-east-1".parse().unwrap());
        let mut queue = queue([due(1, "1", "a"), licensed, decimal, elsewhere, here]);
        let region: Region = "us-east-1".parse().unwrap();
        let load =
            queue.take(Wanted::Batch, IN_FLIGHT_BYTES_MAX, &[], &Health::default(), Some(&region)).unwrap();
        assert_eq!(load.ids, [1, 5]);
    }

    #[test]
    fn a_customers_dimension_is_in_a_call_once_and_25_is_the_most() {
        let mut twice = queue([due(1, "1", "a"), due(2, "1", "a")]);
        assert_eq!(take(&mut twice, Wanted::Batch), [1]);
        let mut many = queue((0..60).map(|id| due(id, &id.to_string(), "a")));
        assert_eq!(take(&mut many, Wanted::Batch).len(), batch::RECORDS_MAX);
    }

    #[test]
    fn halves_share_a_call_with_nobody_and_wait_behind_the_others() {
        let mut queue = queue((1..=6).map(|id| due(id, &id.to_string(), "a")));
        queue.halve(&[1, 2, 3, 4]);
        assert_eq!(take(&mut queue, Wanted::Batch), [1, 2]);
        assert_eq!(take(&mut queue, Wanted::Batch), [3, 4]);
        assert_eq!(take(&mut queue, Wanted::Batch), [5, 6]);
    }

    #[test]
    fn calls_in_flight_share_their_memory() {
        let large = |id: i64| Due { stored_bytes: 800_000, ..due(id, &id.to_string(), "a") };
        let mut queue = queue([large(1), large(2), large(3), due(4, "4", "a")]);
        let load = queue.take(Wanted::Batch, IN_FLIGHT_BYTES_MAX, &[], &Health::default(), None).unwrap();
        assert_eq!(load.ids, [1, 2, 4], "and what still fits beside them");
        let room = IN_FLIGHT_BYTES_MAX - load.weight;
        assert_eq!(queue.take(Wanted::Batch, room, &[], &Health::default(), None), None);
        assert_eq!(take(&mut queue, Wanted::Batch), [3]);
    }

    #[test]
    fn whose_records_got_no_answer_goes_alone_and_leaves_calls_to_the_others() {
        let mut health = Health::default();
        health.suspects.add(&[due(1, "1", "a").record, due(9, "1", "x").record]);
        let all = [due(2, "1", "b"), due(3, "1", "c"), due(4, "2", "b"), due(5, "3", "b")];
        let mut queue = queue(all);
        let one = due(1, "1", "a").record.customer.canonical();
        let mut take = |risky: &[&Risky]| {
            let load = queue.take(Wanted::Batch, IN_FLIGHT_BYTES_MAX, risky, &health, None);
            load.map(|load| (load.ids, load.risky.is_some()))
        };
        assert_eq!(take(&[]), Some((vec![2], true)));
        assert_eq!(take(&[&flight(&one, "b")]), Some((vec![4, 5], false)));
        assert_eq!(take(&[&flight(&one, "b")]), None, "one at a time");
        let other = flight("other", "x");
        assert_eq!(take(&[&other; RISKY_CALLS_MAX]), None, "nor too many");
        assert_eq!(take(&[&other]), Some((vec![3], true)));
    }

    fn flight(name: &str, dimension: &str) -> Risky {
        Risky { name: name.to_owned(), dimension: dimension.to_owned() }
    }

    #[test]
    fn of_records_that_go_alone_the_dimension_that_is_least_in_flight_is_next() {
        let all = [due(1, "1", "a"), due(2, "2", "a"), due(3, "3", "b")].map(doubtful);
        let mut queue = queue(all);
        let mut take = |risky: &[&Risky]| {
            let load = queue.take(Wanted::Batch, IN_FLIGHT_BYTES_MAX, risky, &Health::default(), None);
            load.map(|load| load.ids[0])
        };
        let (silent, other) = (flight("9", "a"), flight("8", "b"));
        assert_eq!(take(&[&silent]), Some(3));
        assert_eq!(take(&[&silent, &other]), Some(1));
        assert_eq!(take(&[&silent, &silent, &other]), Some(2), "nobody else waits");
    }

    #[test]
    fn records_that_may_never_be_answered_leave_room_in_line() {
        let mut queue = queue((0..=290).map(|id| doubtful(due(id, &id.to_string(), "a"))));
        queue.push(due(1000, "1000", "a"));
        assert_eq!((queue.ready(&Health::default()), queue.room(&Health::default())), (1, RISKY_MAX - 291));
        let mut health = Health::default();
        health.suspects.add(&[due(1000, "1000", "a").record]);
        assert_eq!((queue.ready(&health), queue.room(&health)), (0, RISKY_MAX - 292));
    }

    #[test]
    fn one_record_is_chosen_as_unlike_as_possible() {
        let mut health = Health::default();
        let subject =
            Subject { customer: due(1, "1", "a").record.customer.canonical(), dimension: "a".into() };
        health.silent(Some(subject), Duration::ZERO, Draw::MIDDLE);
        let mut queue =
            queue([due(2, "1", "b"), due(3, "2", "a"), due(4, "2", "b"), doubtful(due(5, "9", "z"))]);
        let one = queue.take(Wanted::OneFresh, IN_FLIGHT_BYTES_MAX, &[], &health, None).unwrap();
        assert_eq!(one.ids, [4]);
        let one = queue.take(Wanted::OneInDoubt, IN_FLIGHT_BYTES_MAX, &[], &health, None).unwrap();
        assert_eq!((one.ids, one.in_doubt), (vec![5], true));
    }
}
