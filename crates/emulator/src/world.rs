//! What exists in the emulated marketplace: products, customers with their licenses, contracts, pods, regions.
//!
//! - The world changes only by order (a world file, `document`, or the admin interface) and by the role that a pod
//!   assumes. The effects of other calls are in the bill.
//! - Everything that a caller can name is bounded, so that no order can fill the memory.

pub(super) mod contract;
mod customers;
pub(super) mod document;
pub(super) mod switches;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use self::contract::{Contract, Contracts};
use self::customers::Customers;
use self::switches::{Switch, Switches};
use super::operation::{Api, Operation};
use tollgate_time::Timestamp;

/// How a product is priced; AWS prescribes the operation for each pricing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Pricing {
    /// By the hour of a pod or task: `RegisterUsage`.
    #[default]
    Hourly,
    /// By custom dimensions that the software in the buyer's account reports: `MeterUsage`.
    Metered,
    /// By dimensions that the seller's own service reports: `BatchMeterUsage` and `ResolveCustomer`.
    Saas,
}

impl Pricing {
    /// Whether the operation belongs to this pricing.
    pub(super) const fn allows(self, operation: Operation) -> bool {
        match operation {
            Operation::RegisterUsage => matches!(self, Self::Hourly),
            Operation::MeterUsage => matches!(self, Self::Metered),
            Operation::BatchMeterUsage | Operation::ResolveCustomer => matches!(self, Self::Saas),
            // License Manager uses product IDs, and a product without entitlements has an empty list of them.
            _ => !matches!(operation.api(), Api::Metering),
        }
    }
}

/// How the seller of a SaaS product names customers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Agreements {
    /// During a migration: both forms are accepted, and the same usage in both is billed twice, as AWS warns.
    #[default]
    Either,
    /// `ProductCode` with `CustomerIdentifier` or `CustomerAWSAccountId`.
    Legacy,
    /// Concurrent Agreements: `CustomerAWSAccountId` with `LicenseArn`, never `ProductCode` or `CustomerIdentifier`.
    Concurrent,
}

/// One version of a product's key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeyVersion {
    /// When it is rotated; from then on RegisterUsage returns `PublicKeyRotationTimestamp`.
    #[serde(with = "super::clock::millis_option")]
    pub(super) expires_at: Option<Timestamp>,
}

/// A product.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Product {
    pub(super) pricing: Pricing,
    pub(super) agreements: Agreements,
    /// Its seller, if that is not the world's seller: then its tokens and its code are foreign.
    pub(super) seller_account_id: Option<String>,
    pub(super) dimensions: BTreeSet<String>,
    pub(super) keys: BTreeMap<i32, KeyVersion>,
    /// Operations that answer `DisabledApiException`.
    pub(super) disabled: BTreeSet<Operation>,
}

/// One agreement of a customer about one product.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct License {
    pub(super) product_code: String,
    pub(super) arn: String,
    pub(super) agreement_id: String,
    pub(super) subscribed: bool,
    #[serde(with = "super::clock::millis_option")]
    pub(super) active_from: Option<Timestamp>,
    #[serde(with = "super::clock::millis_option")]
    pub(super) active_until: Option<Timestamp>,
    /// When an order ended the subscription; `None` after it began again.
    #[serde(default, with = "super::clock::millis_option")]
    pub(super) unsubscribed_at: Option<Timestamp>,
    /// What its contract includes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) entitlements: Vec<Entitlement>,
}

/// A contract dimension of a SaaS product that a customer bought, as `GetEntitlements` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entitlement {
    pub(super) dimension: String,
    pub(super) value: EntitlementValue,
    #[serde(default, with = "super::clock::millis_option")]
    pub(super) expires_at: Option<Timestamp>,
}

/// An entitlement's value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum EntitlementValue {
    Boolean(bool),
    /// An integer or, written with a fraction, a double.
    Number(serde_json::Number),
    Text(String),
}

/// A buyer's account.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Customer {
    pub(super) identifier: String,
    /// Whether it is subscribed to all products, present and future, that no license below names.
    pub(super) subscribed: bool,
    /// When an order ended that subscription; `None` after it began again.
    #[serde(default, with = "super::clock::millis_option")]
    pub(super) unsubscribed_at: Option<Timestamp>,
    pub(super) licenses: Vec<License>,
}

impl Customer {
    /// The licenses for a product: the declared ones, else the standard one that every customer has for every product.
    fn licenses_for(&self, account_id: &str, product_code: &str) -> Vec<License> {
        let declared = self.licenses.iter().filter(|license| license.product_code == product_code);
        let declared: Vec<License> = declared.cloned().collect();
        if !declared.is_empty() {
            return declared;
        }
        vec![self.standard_license(account_id, product_code)]
    }

    /// The license for a product for which none is declared.
    fn standard_license(&self, account_id: &str, product_code: &str) -> License {
        License {
            product_code: product_code.to_owned(),
            arn: format!("{STANDARD_LICENSE}{account_id}{STANDARD_RESOURCE}{product_code}"),
            agreement_id: format!("agmt-{account_id}"),
            subscribed: self.subscribed,
            active_from: None,
            active_until: None,
            unsubscribed_at: self.unsubscribed_at,
            entitlements: Vec::new(),
        }
    }

    /// Notes the end of subscriptions that lasted until this order (`before` is the customer before it).
    fn note_ends(&mut self, before: Option<&Self>, now: Timestamp) {
        let ended = |subscribed: bool, before: Option<(bool, Option<Timestamp>)>| match before {
            _ if subscribed => None,
            Some((true, _)) => Some(now),
            Some((false, since)) => since,
            None => None,
        };
        self.unsubscribed_at =
            ended(self.subscribed, before.map(|before| (before.subscribed, before.unsubscribed_at)));
        for license in &mut self.licenses {
            let before = before.and_then(|before| {
                // It may have been the standard license.
                let known = before.licenses.iter().find(|known| known.arn == license.arn);
                known.map(|known| (known.subscribed, known.unsubscribed_at)).or_else(|| {
                    license
                        .arn
                        .starts_with(STANDARD_LICENSE)
                        .then_some((before.subscribed, before.unsubscribed_at))
                })
            });
            license.unsubscribed_at = ended(license.subscribed, before);
        }
    }
}

/// Prefix of the ARN of a standard license, before the account; and the part between account and product code.
const STANDARD_LICENSE: &str = "arn:aws:license-manager::";
const STANDARD_RESOURCE: &str = ":license:l-";

/// A secret access key; never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Secret(pub(super) String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Where a pod runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Platform {
    #[default]
    Eks,
    EksFargate,
    Ecs,
    EcsFargate,
    /// Bedrock AgentCore Runtime: reports are not rounded to the hour, and `ClientToken` alone deduplicates.
    Agentcore,
    Ec2,
    /// Credentials of the node, not of the pod.
    NodeRole,
    /// A laptop, a data centre, another cloud.
    Elsewhere,
}

impl Platform {
    pub(super) const NAMES: [(&'static str, Self); 8] = [
        ("eks", Self::Eks),
        ("eks-fargate", Self::EksFargate),
        ("ecs", Self::Ecs),
        ("ecs-fargate", Self::EcsFargate),
        ("agentcore", Self::Agentcore),
        ("ec2", Self::Ec2),
        ("node-role", Self::NodeRole),
        ("elsewhere", Self::Elsewhere),
    ];
}

/// A declared pod; an undeclared one has the world's defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pod {
    pub(super) account_id: Option<String>,
    pub(super) region: Option<String>,
    pub(super) platform: Option<Platform>,
    /// Operations that its role may not call.
    pub(super) denied: BTreeSet<Operation>,
    #[serde(with = "super::clock::millis_option")]
    pub(super) started_at: Option<Timestamp>,
    /// If set, the pod's signatures are verified.
    pub(super) secret_key: Option<Secret>,
}

/// What a pod's role says about it; an order takes precedence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Assumed {
    pub(super) role_arn: String,
    pub(super) account_id: String,
    pub(super) platform: Option<Platform>,
}

/// Pods whose roles are stored; the bill stores as many pods.
const ASSUMED_MAX: usize = 100_000;

/// A pod with the world's defaults filled in.
#[derive(Debug, Clone, Copy)]
pub(super) struct PodView<'a> {
    pub(super) name: &'a str,
    pub(super) account_id: &'a str,
    /// The ARN of the role that it assumed.
    pub(super) role_arn: Option<&'a str>,
    pub(super) region: &'a str,
    pub(super) platform: Platform,
    pub(super) started_at: Option<Timestamp>,
    pub(super) denied: Option<&'a BTreeSet<Operation>>,
}

/// The emulated marketplace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct World {
    /// The region of pods that have none of their own.
    pub(super) region: String,
    /// The regions in which the service exists.
    pub(super) regions: BTreeSet<String>,
    /// The account of pods that have none of their own: the buyer's.
    pub(super) account_id: String,
    /// The platform of pods that have none of their own.
    pub(super) platform: Platform,
    pub(super) seller_account_id: String,
    pub(super) products: BTreeMap<String, Product>,
    pub(super) customers: Customers,
    pub(super) pods: BTreeMap<String, Pod>,
    /// The licenses in License Manager.
    #[serde(default)]
    pub(super) contracts: Contracts,
    /// By pod.
    #[serde(default)]
    pub(super) assumed: BTreeMap<String, Assumed>,
    /// Operations that are disabled in a region.
    pub(super) disabled_regions: BTreeMap<Operation, BTreeSet<String>>,
    pub(super) switches: Switches,
}

/// The regions with endpoints of the service (`endpoints.json` of botocore, partitions aws and aws-us-gov, and the
/// commercial China and sovereign regions of its endpoint rules).
const REGIONS: &str = "af-south-1 ap-east-1 ap-northeast-1 ap-northeast-2 ap-northeast-3 ap-south-1 ap-south-2 \
                       ap-southeast-1 ap-southeast-2 ap-southeast-3 ap-southeast-4 ca-central-1 cn-northwest-1 \
                       eu-central-1 eu-central-2 eu-north-1 eu-south-1 eu-south-2 eu-west-1 eu-west-2 eu-west-3 \
                       eusc-de-east-1 il-central-1 me-central-1 me-south-1 sa-east-1 us-east-1 us-east-2 us-gov-east-1 \
                       us-gov-west-1 us-west-1 us-west-2";

impl World {
    /// A marketplace without products and customers.
    pub(super) fn empty() -> Self {
        Self {
            region: "us-east-1".to_owned(),
            regions: REGIONS.split_whitespace().map(str::to_owned).collect(),
            account_id: "111122223333".to_owned(),
            platform: Platform::Eks,
            seller_account_id: "777788889999".to_owned(),
            products: BTreeMap::new(),
            customers: Customers::default(),
            pods: BTreeMap::new(),
            contracts: BTreeMap::new(),
            assumed: BTreeMap::new(),
            disabled_regions: BTreeMap::new(),
            switches: Switches::default(),
        }
    }

    /// The pod of this name.
    pub(super) fn pod<'a>(&'a self, name: &'a str) -> PodView<'a> {
        let (pod, assumed) = (self.pods.get(name), self.assumed.get(name));
        let account_id = pod.and_then(|pod| pod.account_id.as_deref());
        let platform = pod.and_then(|pod| pod.platform);
        PodView {
            name,
            account_id: account_id
                .or(assumed.map(|assumed| assumed.account_id.as_str()))
                .unwrap_or(&self.account_id),
            role_arn: assumed.map(|assumed| assumed.role_arn.as_str()),
            region: pod.and_then(|pod| pod.region.as_deref()).unwrap_or(&self.region),
            platform: platform.or(assumed.and_then(|assumed| assumed.platform)).unwrap_or(self.platform),
            started_at: pod.and_then(|pod| pod.started_at),
            denied: pod.map(|pod| &pod.denied),
        }
    }

    /// Whether the role of one more pod can be stored.
    pub(super) fn role_room(&self, pod: &str) -> bool {
        self.assumed.len() < ASSUMED_MAX || self.assumed.contains_key(pod)
    }

    /// The licenses of an account for a product.
    pub(super) fn licenses(&self, account_id: &str, product_code: &str) -> Vec<License> {
        let customer = self.customers.get(account_id);
        customer.map(|customer| customer.licenses_for(account_id, product_code)).unwrap_or_default()
    }

    /// Whether the account has a subscription to the product, by any agreement.
    pub(super) fn subscribed(&self, account_id: &str, product_code: &str) -> bool {
        self.licenses(account_id, product_code).iter().any(|license| license.subscribed)
    }

    /// The license with this ARN, and its account.
    pub(super) fn license(&self, arn: &str) -> Option<(&str, License)> {
        let declared = self
            .customers
            .licenses(arn)
            .find(|(_, license)| self.products.contains_key(&license.product_code));
        let declared = declared.map(|(account_id, license)| (account_id, license.clone()));
        declared.or_else(|| {
            let named = arn.strip_prefix(STANDARD_LICENSE)?;
            let (account_id, product_code) = named.split_once(STANDARD_RESOURCE)?;
            let (account_id, customer) = self.customers.get_key_value(account_id)?;
            let replaced = customer.licenses.iter().any(|license| license.product_code == product_code);
            let there = self.products.contains_key(product_code) && !replaced;
            there.then(|| (account_id, customer.standard_license(account_id, product_code)))
        })
    }

    /// Whether another seller published the product.
    pub(super) fn foreign(&self, product: &Product) -> bool {
        product.seller_account_id.as_ref().is_some_and(|seller| *seller != self.seller_account_id)
    }

    /// The first SaaS product of this seller: the one that registration tokens are for.
    pub(super) fn saas_product(&self) -> Option<&str> {
        let mut products = self.products.iter();
        let found = products.find(|(_, product)| product.pricing == Pricing::Saas && !self.foreign(product));
        found.map(|(code, _)| code.as_str())
    }

    /// The contract for checkouts of an account: of several, the newest or (by switch) the oldest.
    pub(super) fn contract(&self, wanted: &Wanted<'_>, now: Timestamp) -> Option<(&str, &Contract)> {
        let all = self.contracts.iter().filter(|(_, contract)| {
            contract.account_id == wanted.account_id
                && contract.product_id == wanted.product_id
                && contract.key_fingerprint == wanted.key_fingerprint
                && contract.usable(now)
        });
        let number = |(_, contract): &(&String, &Contract)| contract.number;
        let found = if self.switches.second(Switch::NewestLicense) {
            all.min_by_key(number)
        } else {
            all.max_by_key(number)
        };
        found.map(|(arn, contract)| (arn.as_str(), contract))
    }

    /// The contract that a demonstration uses: the first.
    pub(super) fn showpiece_contract(&self) -> Option<(&str, &Contract)> {
        let first = self.contracts.iter().min_by_key(|(_, contract)| contract.number);
        first.map(|(arn, contract)| (arn.as_str(), contract))
    }

    /// The product that a demonstration uses: the first that is sold by the hour, else the first.
    pub(super) fn showpiece(&self) -> Option<(&str, &Product)> {
        let hourly = self.products.iter().find(|(_, product)| product.pricing == Pricing::Hourly);
        hourly.or_else(|| self.products.iter().next()).map(|(code, product)| (code.as_str(), product))
    }
}

/// The contract that a checkout names.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) account_id: &'a str,
    pub(super) product_id: &'a str,
    pub(super) key_fingerprint: &'a str,
}

impl Entitlement {
    /// The end of the entitlement, which may be that of its license.
    pub(super) fn end(&self, license: &License) -> Option<Timestamp> {
        self.expires_at.or(license.active_until)
    }
}

impl License {
    /// Whether a time is within the license's activation period.
    pub(super) fn active_at(&self, at: Timestamp) -> bool {
        self.active_from.is_none_or(|from| from <= at) && self.active_until.is_none_or(|until| at < until)
    }
}
