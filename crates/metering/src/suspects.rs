//! Customers, and dimensions of the pod's own, whose calls got no answer. Pure.
//!
//! Nobody knows which record of a silent batch it was. Until a call with a customer's record is answered, each of that
//! customer's records goes alone: one that is never answered costs others one time-out at most.

use std::collections::BTreeSet;

use crate::record::Record;

/// No more are remembered, some 100 KiB; calls in flight together have 200 records.
const SUSPECTS_MAX: usize = 1000;

/// Their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Suspects(BTreeSet<String>);

impl Suspects {
    /// Whether a record is of one of them.
    pub fn include(&self, customer: &str, dimension: &str) -> bool {
        self.0.contains(name(customer, dimension))
    }

    /// A call with these records got no answer.
    pub fn add(&mut self, records: &[Record]) {
        for record in records {
            if self.0.len() < SUSPECTS_MAX {
                self.0.insert(name_of(record));
            }
        }
    }

    /// A call with these records got one.
    pub fn remove(&mut self, records: &[Record]) {
        for record in records {
            if self.0.is_empty() {
                return;
            }
            self.0.remove(&name_of(record));
        }
    }
}

/// Whom a fault may be about: the customer; of a pod's own records, which have no other, the dimension.
pub fn name<'a>(customer: &'a str, dimension: &'a str) -> &'a str {
    if customer.is_empty() { dimension } else { customer }
}

/// The same of a record.
pub fn name_of(record: &Record) -> String {
    name(&record.customer.canonical(), &record.dimension).to_owned()
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
        record(Customer::Identifier(customer.into()), "a")
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
    }

    #[test]
    fn there_is_a_limit() {
        let mut suspects = Suspects::default();
        suspects.add(&(0..2 * SUSPECTS_MAX).map(|index| of(&index.to_string())).collect::<Vec<_>>());
        assert_eq!(suspects.0.len(), SUSPECTS_MAX);
    }
}
