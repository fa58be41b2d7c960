//! Requests to the metering service, and its definitive answers (AWS Marketplace API reference).

use std::fmt;

use super::{Allocation, Customer, Nonce, ProductCode, PublicKeyVersion, Quantity, Region};
use tollgate_time::Timestamp;

/// The request of `RegisterUsage` (AWS Marketplace API reference, RegisterUsage).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisterUsage {
    /// The product.
    pub product_code: ProductCode,
    /// The version of the key that AWS must sign with.
    pub public_key_version: PublicKeyVersion,
    /// Random for each call.
    pub nonce: Nonce,
}

/// The report for a dimension and hour: fixed when the hour is sealed, and the same on every attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HourUsage {
    /// The time; AWS counts the report to its hour.
    pub timestamp: Timestamp,
    /// The quantity.
    pub quantity: Quantity,
    /// Whether quantities are sent as decimals (`…AsDecimal`) instead of integers.
    pub decimal: bool,
    /// The split by tags, empty for none.
    pub allocations: Vec<Allocation>,
}

impl HourUsage {
    /// A report of 0.
    #[must_use]
    pub const fn zero(timestamp: Timestamp) -> Self {
        Self { timestamp, quantity: Quantity::ZERO, decimal: false, allocations: Vec::new() }
    }
}

/// The request of `MeterUsage` (AWS Marketplace API reference, MeterUsage).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeterUsage {
    /// The product.
    pub product_code: ProductCode,
    /// The dimension.
    pub dimension: String,
    /// The report.
    pub usage: HourUsage,
    /// The same for every attempt with one record.
    pub client_token: String,
    /// Whether AWS only checks the permission.
    pub dry_run: bool,
    /// The region to call; `None` for the one that the sidecar runs in.
    pub region: Option<Region>,
}

/// A definitive answer of `MeterUsage`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metered {
    /// AWS's id of the record, if it named one.
    pub metering_record_id: Option<String>,
    /// Whether the answer had the emulator's mark.
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
    /// AWS's `PublicKeyRotationTimestamp`, which AWS sends for a key version that it has rotated.
    pub public_key_rotation_timestamp: Option<Timestamp>,
    /// Whether the answer had the emulator's mark.
    pub emulated: bool,
    /// Host and port of what answered, if known.
    pub host: Option<String>,
}

/// Without the token.
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
    /// The customer.
    pub customer: Customer,
    /// The dimension.
    pub dimension: String,
    /// The report.
    pub usage: HourUsage,
}

/// The request of `BatchMeterUsage`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchMeterUsage {
    /// `None` if the records have license ARNs, which identify the product.
    pub product_code: Option<ProductCode>,
    /// At most 25.
    pub records: Vec<UsageRecord>,
    /// The region to call; `None` for the one that the sidecar runs in.
    pub region: Option<Region>,
}

/// AWS's answer about one record of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordStatus {
    /// Accepted under this id, or accepted before.
    Success(Option<String>),
    /// The customer has no subscription.
    CustomerNotSubscribed,
    /// AWS has another quantity for this customer, dimension and hour.
    DuplicateRecord,
    /// AWS says that it did not process the record: certainly not billed, send it again.
    Unprocessed,
    /// No status for the record, or one that is not documented: it may be billed.
    Unanswered,
}

/// A definitive answer of `BatchMeterUsage`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchMetered {
    /// One for each record, in the order of the request.
    pub statuses: Vec<RecordStatus>,
    /// Whether the answer had the emulator's mark.
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
    /// Whether the endpoint is the emulator.
    pub emulated: bool,
}

/// AWS's answer to a call that the AWS door passed on.
#[derive(Debug, Clone)]
pub struct Forwarded {
    /// The HTTP status.
    pub status: u16,
    /// The headers of the answer, without those of the connection.
    pub headers: Vec<(String, String)>,
    /// The body, byte for byte.
    pub body: Vec<u8>,
}

/// An upper bound of the bytes around a record's texts in a request: member names, time, quantity.
pub const RECORD_BYTES: usize = 400;

/// The most bytes in JSON for each byte of a text: a control character is written as `\u0001`.
pub const ESCAPED: usize = 6;
