//! Customers and dimensions of calls that got no answer. Pure.
//!
//! Nobody knows which record of a silent batch it was. Until one of them is answered, whatever bears its names goes
//! alone, so that a customer, or a dimension, that is never answered costs others one time-out at most.

use std::collections::BTreeSet;

use crate::usage::ledger::Record;

/// No more names of either kind are remembered, some 100 KiB; calls in flight together have 200 records.
const NAMES_MAX: usize = 1000;

/// The names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Suspects {
    customers: BTreeSet<String>,
    dimensions: BTreeSet<String>,
}

impl Suspects {
    /// Names of no record.
    pub(super) const fn new() -> Self {
        Self { customers: BTreeSet::new(), dimensions: BTreeSet::new() }
    }

    /// Whether a record bears one of the names.
    pub(super) fn include(&self, customer: &str, dimension: &str) -> bool {
        self.customers.contains(customer) || self.dimensions.contains(dimension)
    }

    /// A call with these records got no answer.
    pub(super) fn add(&mut self, records: &[Record]) {
        for record in records {
            if self.customers.len().max(self.dimensions.len()) < NAMES_MAX {
                self.customers.insert(record.customer.canonical());
                self.dimensions.insert(record.dimension.clone());
            }
        }
    }

    /// A call with these records got one.
    pub(super) fn remove(&mut self, records: &[Record]) {
        for record in records {
            self.dimensions.remove(&record.dimension);
            if !self.customers.is_empty() {
                self.customers.remove(&record.customer.canonical());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::usage::event::Customer;

    fn record(customer: &str, dimension: &str) -> Record {
        Record {
            customer: Customer::Identifier(customer.into()),
            dimension: dimension.into(),
            ..Record::sample(Timestamp::from_unix_seconds(1_795_507_200))
        }
    }

    #[test]
    fn a_name_is_suspect_until_a_record_that_bears_it_is_answered() {
        let mut suspects = Suspects::new();
        let (a, b) = (record("1", "a"), record("2", "a"));
        let name = |record: &Record| record.customer.canonical();
        suspects.add(&[a.clone(), b.clone()]);
        assert!(suspects.include(&name(&a), "new") && suspects.include("new", "a"));
        assert!(!suspects.include("new", "b"));
        suspects.remove(std::slice::from_ref(&b));
        assert!(suspects.include(&name(&a), "b"), "the one of which nothing was answered");
        assert!(!suspects.include(&name(&b), "a"));
    }

    #[test]
    fn there_is_a_limit() {
        let mut suspects = Suspects::new();
        let many: Vec<Record> = (0..2 * NAMES_MAX).map(|index| record(&index.to_string(), "a")).collect();
        suspects.add(&many);
        assert_eq!(suspects.customers.len(), NAMES_MAX);
    }
}
