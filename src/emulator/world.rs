//! Who exists in the emulated marketplace: products, customers, pods, regions, and which answer AWS gives where its
//! documents leave it open.

use std::collections::{BTreeMap, BTreeSet};

use super::wire::Operation;
use crate::clock::Timestamp;

/// A product.
#[derive(Debug, Clone, Default)]
pub(super) struct Product {
    pub(super) dimensions: BTreeSet<String>,
    /// Key versions; the time is when the version expires, once it was rotated.
    pub(super) keys: BTreeMap<i32, Option<Timestamp>>,
    pub(super) disabled: BTreeSet<Operation>,
    /// Concurrent Agreements: records name account and licence, never customer identifier and product code.
    pub(super) concurrent_agreements: bool,
}

/// A buyer's account.
#[derive(Debug, Clone)]
pub(super) struct Customer {
    pub(super) identifier: String,
    pub(super) license_arn: String,
    pub(super) agreement_id: String,
    pub(super) subscribed: bool,
}

/// Who signs a request: one access key is one pod.
#[derive(Debug, Clone)]
pub(super) struct Pod {
    pub(super) account_id: String,
    pub(super) platform_supported: bool,
    pub(super) region: String,
    pub(super) allowed: bool,
    pub(super) started_at: Option<Timestamp>,
    /// The first RegisterUsage of the pod was answered; AWS gives entitlement errors on the first call only.
    pub(super) registered: bool,
}

/// Where AWS's documents leave two answers open.
#[derive(Debug, Clone, Copy)]
pub(super) struct Switches {
    /// A pod that was refused is refused again, rather than accepted on its second call.
    pub(super) refuse_again: bool,
    /// DryRun answers with the exception `DryRunOperation`, rather than with 200.
    pub(super) dry_run_exception: bool,
    /// BatchMeterUsage rounds timestamps to the hour for deduplication.
    pub(super) batch_rounds_to_hour: bool,
    /// An hour that began before the pod did is out of bounds.
    pub(super) hour_before_start_out_of_bounds: bool,
    /// Claims in PascalCase, as AWS's documents show them, rather than in camelCase, as AWS's verifiers read them.
    pub(super) pascal_case_claims: bool,
}

/// Everything that exists.
#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) region: String,
    pub(super) products: BTreeMap<String, Product>,
    pub(super) customers: BTreeMap<String, Customer>,
    pub(super) default_account: String,
    /// The product that licences and registration tokens belong to.
    pub(super) saas_product: String,
    pub(super) pods: BTreeMap<String, Pod>,
    pub(super) switches: Switches,
}

/// Most pods remembered; an access key costs a few hundred bytes.
pub(super) const PODS_MAX: usize = 100_000;

impl World {
    /// The world that needs no file.
    pub(super) fn default_world() -> Self {
        let first_key = || BTreeMap::from([(1, None)]);
        let dimensions = || ["requests", "gigabytes"].map(str::to_owned).into();
        let metered = || Product { dimensions: dimensions(), keys: first_key(), ..Product::default() };
        let customer = |account: &str, license: &str, agreement: &str, subscribed| {
            let customer = Customer {
                identifier: format!("customer-{account}"),
                license_arn: format!("arn:aws:license-manager::{account}:license:{license}"),
                agreement_id: agreement.to_owned(),
                subscribed,
            };
            (account.to_owned(), customer)
        };
        Self {
            region: "us-east-1".to_owned(),
            products: BTreeMap::from([
                ("demohourly".to_owned(), Product { keys: first_key(), ..Product::default() }),
                ("demometered".to_owned(), metered()),
                ("demosaas".to_owned(), metered()),
            ]),
            customers: BTreeMap::from([
                customer("111122223333", "l-demo", "agmt-demo", true),
                customer("444455556666", "l-none", "agmt-none", false),
            ]),
            default_account: "111122223333".to_owned(),
            saas_product: "demosaas".to_owned(),
            pods: BTreeMap::new(),
            switches: Switches {
                refuse_again: true,
                dry_run_exception: false,
                batch_rounds_to_hour: true,
                hour_before_start_out_of_bounds: false,
                pascal_case_claims: false,
            },
        }
    }

    /// The customer with this account, made if it is new.
    pub(super) fn customer_entry(&mut self, account_id: &str) -> &mut Customer {
        self.customers.entry(account_id.to_owned()).or_insert_with(|| Customer {
            identifier: format!("customer-{account_id}"),
            license_arn: format!("arn:aws:license-manager::{account_id}:license:l-{account_id}"),
            agreement_id: format!("agmt-{account_id}"),
            subscribed: true,
        })
    }

    /// The pod that signs with `access_key`, made on its first call.
    pub(super) fn pod(&mut self, access_key: &str, now: Timestamp) -> Option<&mut Pod> {
        if !self.pods.contains_key(access_key) {
            if self.pods.len() >= PODS_MAX {
                return None;
            }
            let pod = Pod {
                account_id: self.default_account.clone(),
                platform_supported: true,
                region: self.region.clone(),
                allowed: true,
                started_at: Some(now),
                registered: false,
            };
            self.pods.insert(access_key.to_owned(), pod);
        }
        self.pods.get_mut(access_key)
    }
}
