//! What each operation of the metering service is asked, and its definitive answers (AWS Marketplace API reference).

use std::fmt;

use super::{Allocation, Customer, Nonce, ProductCode, PublicKeyVersion, Quantity, Region};
use tollgate_time::Timestamp;

/// What `RegisterUsage` is asked (AWS API reference, RegisterUsage).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisterUsage {
    /// The product whose use begins.
    pub product_code: ProductCode,
    /// The key that AWS is to sign with.
    pub public_key_version: PublicKeyVersion,
    /// Fresh for this call.
    pub nonce: Nonce,
}

/// What is reported of a dimension's hour: fixed when the hour is sealed, and the same on every attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HourUsage {
    /// When; AWS counts it to the hour.
    pub timestamp: Timestamp,
    /// How much.
    pub quantity: Quantity,
    /// Quantities go as decimals (`…AsDecimal`) rather than as integers.
    pub decimal: bool,
    /// The split by tags, empty for none.
    pub allocations: Vec<Allocation>,
}

impl HourUsage {
    /// A report that nothing was used.
    #[must_use]
    pub const fn zero(timestamp: Timestamp) -> Self {
        Self { timestamp, quantity: Quantity::ZERO, decimal: false, allocations: Vec::new() }
    }
}

/// What `MeterUsage` is asked (AWS Marketplace API reference, MeterUsage).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeterUsage {
    /// The product that was used.
    pub product_code: ProductCode,
    /// What of it.
    pub dimension: String,
    /// How much.
    pub usage: HourUsage,
    /// The same on every retry of the same record.
    pub client_token: String,
    /// Check the permission only.
    pub dry_run: bool,
    /// The region that is asked; `None`: the one that the sidecar runs in.
    pub region: Option<Region>,
}

/// A definitive answer of `MeterUsage`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metered {
    /// AWS's id of the record, if it named one.
    pub metering_record_id: Option<String>,
    /// The answer carried the emulator's mark.
    pub emulated: bool,
}

/// How to sign the next call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Signing {
    /// Reload the credentials first.
    pub reload_credentials: bool,
}

/// A definitive answer of `RegisterUsage`; nothing in it is verified yet.
#[derive(Clone)]
pub struct Registered {
    /// The compact JWS that AWS sent as `Signature`.
    pub signature: String,
    /// Sent once the key version is on its way out.
    pub public_key_rotation_timestamp: Option<Timestamp>,
    /// The answer carried the emulator's mark.
    pub emulated: bool,
    /// Host and port of what answered, where it is known.
    pub host: Option<String>,
}

/// The token is not shown.
impl fmt::Debug for Registered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registered")
            .field("public_key_rotation_timestamp", &self.public_key_rotation_timestamp)
            .field("emulated", &self.emulated)
            .finish_non_exhaustive()
    }
}

/// One customer's record in `BatchMeterUsage` (AWS Marketplace API reference, UsageRecord).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageRecord {
    /// Who used it.
    pub customer: Customer,
    /// What was used.
    pub dimension: String,
    /// How much.
    pub usage: HourUsage,
}

/// What `BatchMeterUsage` is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchMeterUsage {
    /// Not sent where the records name licenses: then the license names the product.
    pub product_code: Option<ProductCode>,
    /// At most 25.
    pub records: Vec<UsageRecord>,
    /// The region that is asked; `None`: the one that the sidecar runs in.
    pub region: Option<Region>,
}

/// What AWS said of one record of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordStatus {
    /// Accepted under this id, or accepted before.
    Success(Option<String>),
    /// The customer has no subscription.
    CustomerNotSubscribed,
    /// AWS holds another quantity for this customer, dimension and hour.
    DuplicateRecord,
    /// AWS says that it was not looked at: certainly not billed, send it again.
    Unprocessed,
    /// AWS does not say, or a status that no document names: it may be billed.
    Unanswered,
}

/// A definitive answer of `BatchMeterUsage`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchMetered {
    /// One for each record, in the order of the question.
    pub statuses: Vec<RecordStatus>,
    /// The answer carried the emulator's mark.
    pub emulated: bool,
}

/// A definitive answer of `ResolveCustomer`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedCustomer {
    /// The members of AWS's answer, under AWS's names.
    pub answer: serde_json::Map<String, serde_json::Value>,
}

/// Region and credentials were found.
#[derive(Debug, Clone, Copy)]
pub struct Identified {
    /// What stands in for AWS is the emulator.
    pub emulated: bool,
}

/// AWS's answer to a call that was passed on.
#[derive(Debug, Clone)]
pub struct Forwarded {
    /// The HTTP status.
    pub status: u16,
    /// The headers that belong to the answer rather than to the connection.
    pub headers: Vec<(String, String)>,
    /// The body, byte for byte.
    pub body: Vec<u8>,
}

/// Around a record's texts in the body of a call: names of members, time, quantity.
pub const RECORD_BYTES: usize = 400;

/// The most that a character of a text takes in JSON for each of its bytes: a control character is `\u0001`.
pub const ESCAPED: usize = 6;
