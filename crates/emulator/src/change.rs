//! What can happen to the emulated service, as data: every decision is a list of changes, and the journal is a file of
//! them.
//!
//! A change states the new state, never how it was decided; replaying the same changes gives the same state.

use serde::{Deserialize, Serialize};

use super::decimal::Micros;
use super::hash::Digest;
use super::world::contract::Contract;
use super::world::switches::Switches;
use super::world::{Assumed, Customer, Pod, Product, World};

/// One change. The journal's format: variants and members are only ever added, the latter with `serde(default)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Change {
    /// How far the emulated clock is ahead of the system's, in milliseconds.
    Clock {
        ahead_millis: i64,
    },
    /// The world was replaced.
    World {
        world: Box<World>,
    },
    Product {
        product_code: String,
        product: Product,
    },
    Customer {
        account_id: String,
        customer: Customer,
    },
    Pod {
        name: String,
        pod: Pod,
    },
    Switches {
        switches: Switches,
    },
    /// A pod took credentials of a role.
    Assumed {
        pod: String,
        assumed: Assumed,
    },
    /// A pod called for the first time.
    Seen {
        pod: String,
        at: i64,
    },
    /// A pod registered, or was refused as not entitled.
    Registered {
        pod: String,
        product_code: String,
        account_id: String,
        at: i64,
        call: u64,
        entitled: bool,
    },
    /// A record is billed.
    Recorded {
        record: Box<Recorded>,
    },
    /// A record was reported again with the same content.
    Repeated {
        record: u64,
        call: u64,
        client_token: Option<ClientToken>,
    },
    /// A registration token was issued for a customer.
    TokenIssued {
        token: String,
        account_id: String,
        product_code: String,
        at: i64,
    },
    /// The token was resolved for the first time.
    TokenResolved {
        token: String,
        at: i64,
    },
    Contract {
        license_arn: String,
        contract: Contract,
    },
    /// Seats of a contract were taken.
    CheckedOut {
        checkout: Box<Checkout>,
    },
    /// A checkout was extended.
    Extended {
        checkout: u64,
        expires: i64,
    },
    /// A checkout was given back.
    CheckedIn {
        checkout: u64,
        at: i64,
    },
    /// A checkout expired.
    Lapsed {
        checkout: u64,
        at: i64,
    },
}

/// The seats that one call of a pod took of a contract.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Checkout {
    /// Checkouts are numbered from 0.
    pub(super) number: u64,
    pub(super) license_arn: String,
    pub(super) account_id: String,
    pub(super) pod: String,
    pub(super) node_id: Option<String>,
    pub(super) taken: Vec<Taken>,
    pub(super) since: i64,
    /// In milliseconds; `None` for a perpetual checkout.
    pub(super) expires: Option<i64>,
    pub(super) client_token: ClientToken,
}

/// What was taken of one entitlement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Taken {
    pub(super) name: String,
    pub(super) unit: String,
    /// `None` for a tier.
    pub(super) quantity: Option<u64>,
    /// The value of a tier.
    pub(super) value: Option<String>,
}

/// A billed record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Recorded {
    pub(super) product_code: String,
    pub(super) account_id: String,
    pub(super) dimension: String,
    pub(super) form: FormText,
    /// The hour, or the exact time where nothing is rounded, in milliseconds.
    pub(super) hour: i64,
    /// The reported time, in milliseconds.
    pub(super) timestamp: i64,
    pub(super) quantity: Micros,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) allocations: Vec<Allocation>,
    pub(super) call: u64,
    pub(super) client_token: Option<ClientToken>,
    /// The region that it was submitted to: each has its own records.
    #[serde(default)]
    pub(super) region: String,
}

/// The form of a report: records of different forms are different records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FormText {
    /// MeterUsage of one pod.
    Pod(String),
    /// MeterUsage of AgentCore: every accepted call is a record.
    Agent(String),
    /// BatchMeterUsage with ProductCode.
    Product,
    /// BatchMeterUsage with LicenseArn.
    License(String),
}

/// A share of a record's quantity with its tags, sorted by key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) struct Allocation {
    pub(super) tags: Vec<(String, String)>,
    pub(super) quantity: Micros,
}

/// A ClientToken and its request, both as digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ClientToken {
    pub(super) token: Digest,
    pub(super) request: Digest,
}
