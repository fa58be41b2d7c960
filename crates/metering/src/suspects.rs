//! Remembers the customers and dimensions whose records get no answer from AWS. Pure.
//!
//! - When a batch gets no answer, it is unknown which record is the cause. Until a call with a customer's record is
//!   answered, each of that customer's records is sent alone, so a record that never gets an answer costs the others at
//!   most one time-out. A pod's own usage has no other customer; for it the same applies to each dimension.
//! - A record that was sent alone and got no answer shows more: the cause is this customer's use of this dimension.
//!   Such records are sent alone until one of them is answered, whatever other answers about the customer come
//!   meanwhile.
//! - If that happened to several customers, and no record of the dimension was answered since, the dimension is the
//!   cause: all its records are sent alone, one after the other, also those of other customers.

use std::collections::{BTreeMap, BTreeSet};

use crate::record::Record;

/// How many names, and how many pairs, are remembered, in some 100 KiB each; calls in flight have 200 records together.
const SUSPECTS_MAX: usize = 1000;

/// If records of this many customers in one dimension get no answer, the dimension is the cause.
const CUSTOMERS_MIN: usize = 2;

/// The suspects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Suspects {
    names: BTreeSet<String>,
    pairs: BTreeMap<String, Pairs>,
}

/// The customers whose records of one dimension got no answer although they were sent alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Pairs {
    customers: BTreeSet<String>,
    /// Whether a record of the dimension was answered since the first of them.
    mixed: bool,
}

impl Suspects {
    /// Whether a record of this customer and dimension must be sent alone.
    pub fn include(&self, customer: &str, dimension: &str) -> bool {
        self.names.contains(name(customer, dimension))
            || self.is_dimension(dimension)
            || self.was_silent(customer, dimension)
    }

    /// Whether a record of this customer and dimension got no answer although it was sent alone.
    pub fn was_silent(&self, customer: &str, dimension: &str) -> bool {
        self.pairs.get(dimension).is_some_and(|pairs| pairs.customers.contains(customer))
    }

    /// The name of what may be the cause: the customer or the dimension. One record of each name is in flight.
    pub fn name<'a>(&self, customer: &'a str, dimension: &'a str) -> &'a str {
        if self.is_dimension(dimension) { dimension } else { name(customer, dimension) }
    }

    fn is_dimension(&self, dimension: &str) -> bool {
        let pairs = self.pairs.get(dimension);
        pairs.is_some_and(|pairs| !pairs.mixed && pairs.customers.len() >= CUSTOMERS_MIN)
    }

    /// A call with these records got no answer.
    pub fn add(&mut self, records: &[Record]) {
        if let [alone] = records {
            let (customer, dimension) = (alone.customer.canonical(), alone.dimension.as_str());
            let known = self.include(&customer, dimension) && !self.names.contains(&customer);
            if !customer.is_empty()
                && self.pairs.values().map(|pairs| pairs.customers.len()).sum::<usize>() < SUSPECTS_MAX
            {
                self.pairs.entry(dimension.to_owned()).or_default().customers.insert(customer);
            }
            // This says nothing new about the customer's other records.
            if known {
                return;
            }
        }
        for record in records {
            if self.names.len() < SUSPECTS_MAX {
                self.names.insert(name(&record.customer.canonical(), &record.dimension).to_owned());
            }
        }
    }

    /// A call with these records got an answer.
    pub fn remove(&mut self, records: &[Record]) {
        for record in records {
            if self.names.is_empty() && self.pairs.is_empty() {
                return;
            }
            let customer = record.customer.canonical();
            self.names.remove(name(&customer, &record.dimension));
            if let Some(pairs) = self.pairs.get_mut(&record.dimension) {
                pairs.mixed = true;
                pairs.customers.remove(&customer);
                if pairs.customers.is_empty() {
                    self.pairs.remove(&record.dimension);
                }
            }
        }
    }
}

/// What may be the cause of a fault: the customer, or for a pod's own records, which have no other, the dimension.
fn name<'a>(customer: &'a str, dimension: &'a str) -> &'a str {
    if customer.is_empty() { dimension } else { customer }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_marketplace::Customer;
    use tollgate_time::Timestamp;

    fn record(customer: Customer, dimension: &str) -> Record {
        let sample = Record::sample(Timestamp::from_unix_seconds(1_795_507_200));
        Record { customer, dimension: dimension.into(), ..sample }
    }

    fn of(customer: &str) -> Record {
        used(customer, "a")
    }

    fn used(customer: &str, dimension: &str) -> Record {
        record(Customer::Identifier(customer.into()), dimension)
    }

    fn is_suspect(suspects: &Suspects, record: &Record) -> bool {
        suspects.include(&record.customer.canonical(), &record.dimension)
    }

    #[test]
    fn a_customer_is_suspect_until_a_call_with_it_is_answered_and_of_its_own_a_pod_has_dimensions() {
        let mut suspects = Suspects::default();
        suspects.add(&[of("1"), of("2")]);
        assert!(is_suspect(&suspects, &of("1")) && !is_suspect(&suspects, &of("3")));
        suspects.remove(&[of("2")]);
        assert!(is_suspect(&suspects, &of("1")) && !is_suspect(&suspects, &of("2")));
        suspects.add(&[record(Customer::Own, "a")]);
        assert!(is_suspect(&suspects, &record(Customer::Own, "a")));
        assert!(!is_suspect(&suspects, &record(Customer::Own, "b")));
        suspects.remove(&[record(Customer::Own, "a")]);
        assert!(!is_suspect(&suspects, &record(Customer::Own, "a")));
    }

    #[test]
    fn a_record_that_was_silent_alone_stays_suspect_whatever_is_heard_of_its_customer() {
        let mut suspects = Suspects::default();
        suspects.add(&[used("1", "silent")]);
        assert!(is_suspect(&suspects, &used("1", "a")), "nobody knows yet which of both it is");
        suspects.remove(&[used("1", "a")]);
        assert!(is_suspect(&suspects, &used("1", "silent")) && !is_suspect(&suspects, &used("1", "b")));
        suspects.add(&[used("1", "silent")]);
        assert!(!is_suspect(&suspects, &used("1", "b")), "it was silent before");
        suspects.remove(&[used("1", "silent")]);
        assert_eq!(suspects, Suspects::default());
    }

    #[test]
    fn a_dimension_is_suspect_once_two_customers_got_no_answer_until_one_gets_one() {
        let mut suspects = Suspects::default();
        suspects.add(&[used("1", "silent")]);
        assert!(!is_suspect(&suspects, &used("3", "silent")));
        suspects.add(&[used("2", "silent")]);
        assert!(is_suspect(&suspects, &used("3", "silent")) && !is_suspect(&suspects, &used("3", "a")));
        let (one, three) = (of("1").customer.canonical(), of("3").customer.canonical());
        assert_eq!(suspects.name(&three, "silent"), "silent", "its records go one after the other");
        assert_eq!(suspects.name(&three, "a"), three);
        suspects.add(&[used("3", "silent")]);
        assert!(!is_suspect(&suspects, &used("3", "a")), "it says nothing of the customer");
        suspects.remove(&[used("4", "silent")]);
        assert!(is_suspect(&suspects, &used("3", "silent")) && !is_suspect(&suspects, &used("5", "silent")));
        assert_eq!(suspects.name(&one, "silent"), one);
    }

    #[test]
    fn there_is_a_limit() {
        let mut suspects = Suspects::default();
        suspects.add(&(0..2 * SUSPECTS_MAX).map(|index| of(&index.to_string())).collect::<Vec<_>>());
        assert_eq!(suspects.names.len(), SUSPECTS_MAX);
        for index in 0..2 * SUSPECTS_MAX {
            suspects.add(&[used(&index.to_string(), &index.to_string())]);
        }
        assert_eq!(suspects.pairs.len(), SUSPECTS_MAX);
    }
}
