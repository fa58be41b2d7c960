//! The customers by account, and the accounts by what else names a customer: a legacy identifier, a license's ARN.
//!
//! Each declared customer, and each call that names one, looks both up. A search through all customers would make a
//! world file of 100,000 of them take minutes, so the names have an index, which only `insert` changes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use serde::{Deserialize, Serialize};

use super::{Customer, License};

/// All customers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "BTreeMap<String, Customer>", into = "BTreeMap<String, Customer>")]
pub(crate) struct Customers {
    by_account: BTreeMap<String, Customer>,
    identifiers: Names,
    arns: Names,
}

/// Pairs of a name and an account. Two customers may have one name: a new customer's identifier is made from its
/// account, and another may have been given the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Names(BTreeSet<(String, String)>);

impl Names {
    fn insert(&mut self, name: &str, account_id: &str) {
        self.0.insert((name.to_owned(), account_id.to_owned()));
    }

    fn remove(&mut self, name: &str, account_id: &str) {
        self.0.remove(&(name.to_owned(), account_id.to_owned()));
    }

    /// The accounts with a name, in order.
    fn accounts<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        let first = Bound::Included((name.to_owned(), String::new()));
        let from = self.0.range((first, Bound::Unbounded));
        from.take_while(move |(other, _)| *other == name).map(|(_, account_id)| account_id.as_str())
    }
}

impl Customers {
    /// Declares a customer, and returns the one that was there.
    pub(crate) fn insert(&mut self, account_id: String, customer: Customer) -> Option<Customer> {
        let before = self.by_account.remove(&account_id);
        if let Some(before) = &before {
            self.identifiers.remove(&before.identifier, &account_id);
            for license in &before.licenses {
                self.arns.remove(&license.arn, &account_id);
            }
        }
        self.identifiers.insert(&customer.identifier, &account_id);
        for license in &customer.licenses {
            self.arns.insert(&license.arn, &account_id);
        }
        self.by_account.insert(account_id, customer);
        before
    }

    pub(crate) fn get(&self, account_id: &str) -> Option<&Customer> {
        self.by_account.get(account_id)
    }

    /// The customer with its account, which lives as long as the customers.
    pub(crate) fn get_key_value(&self, account_id: &str) -> Option<(&str, &Customer)> {
        self.by_account
            .get_key_value(account_id)
            .map(|(account_id, customer)| (account_id.as_str(), customer))
    }

    pub(crate) fn contains_key(&self, account_id: &str) -> bool {
        self.by_account.contains_key(account_id)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_account.len()
    }

    /// In the order of their accounts.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Customer)> {
        self.by_account.iter().map(|(account_id, customer)| (account_id.as_str(), customer))
    }

    /// The account of the customer with a legacy identifier: of several, the first.
    pub(crate) fn account_of_identifier(&self, identifier: &str) -> Option<&str> {
        self.identifiers.accounts(identifier).next()
    }

    /// The declared licenses with an ARN, each with its account.
    pub(crate) fn licenses<'a>(&'a self, arn: &str) -> impl Iterator<Item = (&'a str, &'a License)> {
        self.arns.accounts(arn).filter_map(move |account_id| {
            let customer = self.by_account.get(account_id)?;
            customer.licenses.iter().find(|license| license.arn == arn).map(|license| (account_id, license))
        })
    }
}

impl From<BTreeMap<String, Customer>> for Customers {
    fn from(customers: BTreeMap<String, Customer>) -> Self {
        let mut made = Self::default();
        for (account_id, customer) in customers {
            made.insert(account_id, customer);
        }
        made
    }
}

impl From<Customers> for BTreeMap<String, Customer> {
    fn from(customers: Customers) -> Self {
        customers.by_account
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn customer(identifier: &str, arns: &[&str]) -> Customer {
        let license = |arn: &&str| License {
            product_code: "p".to_owned(),
            arn: (*arn).to_owned(),
            agreement_id: "a".to_owned(),
            subscribed: true,
            active_from: None,
            active_until: None,
            unsubscribed_at: None,
            entitlements: Vec::new(),
        };
        Customer {
            identifier: identifier.to_owned(),
            licenses: arns.iter().map(license).collect(),
            ..Customer::default()
        }
    }

    #[test]
    fn the_names_follow_the_customers() {
        let mut customers = Customers::default();
        assert!(customers.insert("1".to_owned(), customer("one", &["arn-a", "arn-b"])).is_none());
        assert!(customers.insert("2".to_owned(), customer("two", &["arn-c"])).is_none());
        let owner = |customers: &Customers, arn: &str| {
            customers.licenses(arn).map(|(account, _)| account.to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(customers.account_of_identifier("two"), Some("2"));
        assert_eq!(owner(&customers, "arn-b"), ["1"]);
        // Another identifier and fewer licenses: the names before are free.
        assert!(customers.insert("1".to_owned(), customer("uno", &["arn-b"])).is_some());
        assert_eq!(
            (customers.account_of_identifier("one"), customers.account_of_identifier("uno")),
            (None, Some("1"))
        );
        assert_eq!((owner(&customers, "arn-a"), owner(&customers, "arn-b")), (vec![], vec!["1".to_owned()]));
        assert_eq!(customers.len(), 2);
    }

    #[test]
    fn one_name_of_several_customers_is_the_first_accounts_and_stays_the_others() {
        let mut customers = Customers::default();
        for account in ["3", "1", "2"] {
            customers.insert(account.to_owned(), customer("same", &["arn"]));
        }
        assert_eq!(customers.account_of_identifier("same"), Some("1"));
        customers.insert("1".to_owned(), customer("other", &[]));
        assert_eq!(customers.account_of_identifier("same"), Some("2"));
        assert_eq!(customers.licenses("arn").map(|(account, _)| account).collect::<Vec<_>>(), ["2", "3"]);
        // A name that begins like another is another.
        assert_eq!(customers.account_of_identifier("sam"), None);
    }

    #[test]
    fn a_stored_world_has_the_same_names() {
        let mut customers = Customers::default();
        customers.insert("1".to_owned(), customer("one", &["arn-a"]));
        let text = serde_json::to_string(&customers).unwrap();
        assert!(text.starts_with("{\"1\":{\"identifier\":\"one\""), "{text}");
        assert_eq!(serde_json::from_str::<Customers>(&text).unwrap(), customers);
    }
}
