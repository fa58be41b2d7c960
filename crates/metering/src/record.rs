//! A record: a sealed hour, and what is noted about it. The ledger stores records; the sender sends them and reports
//! AWS's answers.

use std::time::Duration;

use tollgate_marketplace::{Allocation, Customer, Hour, HourUsage, Quantity, Region};
use tollgate_time::Timestamp;

/// The state of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordState {
    /// Sealed; AWS has not answered definitively.
    Sealed {
        /// It was attempted without an answer: it may be billed.
        in_doubt: bool,
    },
    /// AWS accepted it.
    Accepted {
        /// AWS answered `DuplicateRecord` while it was in doubt: it counts as billed, without AWS's confirmation.
        unconfirmed: bool,
    },
    /// Refused or never attempted, and carried to a later hour; or replayed.
    Carried {
        /// It was replayed although it may be billed.
        in_doubt: bool,
    },
    /// AWS will not bill it; it is kept for people.
    Dead {
        /// It may be billed nevertheless.
        in_doubt: bool,
    },
    /// The application's own report through the AWS door has no answer yet.
    Claimed,
    /// A person decided that it is not to be billed.
    Discarded,
}

impl RecordState {
    /// A sealed record that is not in doubt.
    pub const FRESH: Self = Self::Sealed { in_doubt: false };

    /// The state's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sealed { .. } => "sealed",
            Self::Accepted { .. } => "accepted",
            Self::Carried { .. } => "carried",
            Self::Dead { .. } => "dead",
            Self::Claimed => "claimed",
            Self::Discarded => "discarded",
        }
    }

    /// Reads [`RecordState::as_str`] and the flags stored beside it; flags that do not apply to the state are ignored.
    #[must_use]
    pub fn of(text: &str, in_doubt: bool, unconfirmed: bool) -> Option<Self> {
        Some(match text {
            "sealed" => Self::Sealed { in_doubt },
            "accepted" => Self::Accepted { unconfirmed },
            "carried" => Self::Carried { in_doubt },
            "dead" => Self::Dead { in_doubt },
            "claimed" => Self::Claimed,
            "discarded" => Self::Discarded,
            _ => return None,
        })
    }

    /// Whether it counts as not billed, but may be billed.
    #[must_use]
    pub const fn in_doubt(self) -> bool {
        matches!(
            self,
            Self::Sealed { in_doubt: true }
                | Self::Carried { in_doubt: true }
                | Self::Dead { in_doubt: true }
        )
    }
}

/// A sealed hour in the ledger, without its split by tags, which may be large.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its number.
    pub id: i64,
    /// The pod that reports it.
    pub pod: String,
    /// The customer.
    pub customer: Customer,
    /// The dimension.
    pub dimension: String,
    /// The hour.
    pub hour: Hour,
    /// The quantity.
    pub quantity: Quantity,
    /// The same in millionths of the event's own unit; without a scale, the same number.
    pub raw: i128,
    /// What rounding added to the hour, less the credit of earlier hours that it used; in millionths of the event's own
    /// unit. May be below 0.
    pub rounded: i128,
    /// Whether quantities are sent as decimals.
    pub decimal: bool,
    /// How many parts the split has.
    pub allocation_count: usize,
    /// The reported time.
    pub timestamp: Timestamp,
    /// The client token, the same for every attempt.
    pub client_token: String,
    /// The earliest closed hour from which late usage counts to this one, if there is any.
    pub late_from: Option<Hour>,
    /// The state.
    pub state: RecordState,
    /// How many calls were made with it.
    pub attempts: i64,
    /// AWS's latest exception, or why it is a dead letter.
    pub code: Option<String>,
    /// AWS's id of the record.
    pub metering_record_id: Option<String>,
    /// When it was sealed.
    pub sealed_at: Timestamp,
    /// When it was last attempted or answered; otherwise when it was sealed.
    pub updated_at: Timestamp,
    /// The region of the first attempt. AWS deduplicates by region, so every later attempt goes there.
    pub region: Option<Region>,
}

/// A record with its split by tags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whole {
    /// The record.
    pub record: Record,
    /// The split of its quantity; empty if nothing is tagged.
    pub allocations: Vec<Allocation>,
}

impl Whole {
    /// Splits it into the report, and the record that is kept until AWS has answered.
    #[must_use]
    pub fn into_usage(self) -> (Record, HourUsage) {
        let Self { record, allocations } = self;
        let Record { timestamp, quantity, decimal, .. } = record;
        (record, HourUsage { timestamp, quantity, decimal, allocations })
    }
}

#[cfg(any(test, feature = "testing"))]
impl Record {
    /// A record of 0, sealed at this time of its hour; tests set the fields that matter.
    #[must_use]
    pub fn sample(at: Timestamp) -> Self {
        Self {
            id: 1,
            pod: "pod".to_owned(),
            customer: Customer::Own,
            dimension: "requests".to_owned(),
            hour: Hour::of(at),
            quantity: Quantity::ZERO,
            raw: 0,
            rounded: 0,
            decimal: false,
            allocation_count: 0,
            timestamp: at,
            client_token: "token".to_owned(),
            late_from: None,
            state: RecordState::FRESH,
            attempts: 0,
            code: None,
            metering_record_id: None,
            sealed_at: at,
            updated_at: at,
            region: None,
        }
    }
}

/// AWS's answer about a record, or a decision about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answered {
    /// AWS accepted it, under this id if it named one.
    Accepted(Option<String>),
    /// AWS has a record for this dimension and hour, and ours was in doubt: it counts as billed, marked `unconfirmed`.
    Unconfirmed(String),
    /// AWS refused it for now: certainly not billed; it will be sent again.
    Refused(String),
    /// No definitive answer: it is in doubt.
    Unknown(String),
    /// Certainly not billed, and its window has closed: its quantity counts to the current hour.
    Carry(String),
    /// AWS will not accept it, or it was still in doubt when its window closed.
    Dead(String),
}

/// A record that is due, without its allocations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// The record.
    pub record: Record,
    /// The size of its allocations as they are stored, in bytes.
    pub stored_bytes: usize,
}

/// A note about a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noted {
    /// Its number.
    pub id: i64,
    /// The answer or decision.
    pub answered: Answered,
    /// If it stays unsent: when it may be sent again; `None` leaves that as it is.
    pub due_at: Option<Timestamp>,
}

/// How long the oldest unaccepted usage has waited, by both clocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Oldest {
    /// The first hour whose record AWS has not accepted.
    pub hour: Option<Hour>,
    /// Running time since the end of the first hour that AWS has not accepted.
    pub running: Duration,
}
