//! A record: a sealed hour as it is kept and sent, and what is noted about it. The ledger keeps it; the sender sends
//! it, and says what AWS answered.

use std::time::Duration;

use tollgate_marketplace::{Allocation, Customer, Hour, HourUsage, Quantity, Region};
use tollgate_time::Timestamp;

/// Where a record stands, with what is uncertain about it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Sealed; AWS has not answered definitely.
    Sealed {
        /// It was attempted, and AWS has not answered since: it may be billed.
        in_doubt: bool,
    },
    /// AWS accepted it.
    Accepted {
        /// AWS answered `DuplicateRecord` while it was in doubt: billed, as far as anybody can tell from here.
        unconfirmed: bool,
    },
    /// Refused or never attempted, and counted to a later hour instead; or replayed.
    Carried {
        /// It was replayed although it may be billed.
        in_doubt: bool,
    },
    /// AWS will not bill it; it is kept for people.
    Dead {
        /// It may be billed all the same.
        in_doubt: bool,
    },
    /// An application's own report through the AWS door is under way.
    Claimed,
    /// A person decided that it is not to be billed.
    Discarded,
}

impl State {
    /// A record that no call has carried.
    pub const FRESH: Self = Self::Sealed { in_doubt: false };

    /// Its name.
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

    /// Reads [`State::as_str`] and the marks beside it; those that say nothing of a record in this state are left out.
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

    /// Whether it is not billed as far as anybody knows, and may be all the same.
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

/// A sealed hour as it stands in the ledger, without its split by tags, which may be large.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its number.
    pub id: i64,
    /// The pod that reports it.
    pub pod: String,
    /// Who used it.
    pub customer: Customer,
    /// What was used.
    pub dimension: String,
    /// When.
    pub hour: Hour,
    /// How much.
    pub quantity: Quantity,
    /// Quantities go as decimals.
    pub decimal: bool,
    /// How many parts the split has.
    pub allocation_count: usize,
    /// The time that is reported.
    pub timestamp: Timestamp,
    /// The same on every retry.
    pub client_token: String,
    /// The earliest hour that some of it came from, if that was closed already.
    pub late_from: Option<Hour>,
    /// Where it stands.
    pub state: State,
    /// Calls that carried it.
    pub attempts: i64,
    /// AWS's latest exception, or why it is dead.
    pub code: Option<String>,
    /// AWS's id of it.
    pub metering_record_id: Option<String>,
    /// When it was sealed.
    pub sealed_at: Timestamp,
    /// When it was attempted or answered last, or else sealed.
    pub updated_at: Timestamp,
    /// Where AWS knows it: AWS deduplicates by region, so every attempt goes to the region of the first.
    pub region: Option<Region>,
}

/// A record with its split by tags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whole {
    /// The record.
    pub record: Record,
    /// The parts of its quantity, none where nothing is tagged.
    pub allocations: Vec<Allocation>,
}

impl Whole {
    /// What is reported, and the record that is kept until AWS has answered.
    #[must_use]
    pub fn into_usage(self) -> (Record, HourUsage) {
        let Self { record, allocations } = self;
        let Record { timestamp, quantity, decimal, .. } = record;
        (record, HourUsage { timestamp, quantity, decimal, allocations })
    }
}

#[cfg(any(test, feature = "testing"))]
impl Record {
    /// A record of nothing, sealed at this moment of its hour: tests say what theirs is about.
    #[must_use]
    pub fn sample(at: Timestamp) -> Self {
        Self {
            id: 1,
            pod: "pod".to_owned(),
            customer: Customer::Own,
            dimension: "requests".to_owned(),
            hour: Hour::of(at),
            quantity: Quantity::ZERO,
            decimal: false,
            allocation_count: 0,
            timestamp: at,
            client_token: "token".to_owned(),
            late_from: None,
            state: State::FRESH,
            attempts: 0,
            code: None,
            metering_record_id: None,
            sealed_at: at,
            updated_at: at,
            region: None,
        }
    }
}

/// What AWS answered about a record, or what was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answered {
    /// AWS accepted it, under this id if it named one.
    Accepted(Option<String>),
    /// AWS has a record for this slot, and ours was in doubt: it counts as billed, and is marked `unconfirmed`.
    Unconfirmed(String),
    /// AWS refused it for now: certainly not billed, and asked again.
    Refused(String),
    /// Nothing definite: it stays in doubt.
    Unknown(String),
    /// Certainly not billed and past its window: its quantity counts to the current hour.
    Carry(String),
    /// AWS will not take it, or it stayed in doubt past its window.
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

/// What is noted about a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noted {
    /// Its number.
    pub id: i64,
    /// What AWS answered, or what was decided.
    pub answered: Answered,
    /// Where it stays unsent: when it may be sent again; `None` leaves that as it is.
    pub due_at: Option<Timestamp>,
}

/// The longest that usage has waited for AWS, in both measures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Oldest {
    /// The first hour whose record AWS did not accept.
    pub hour: Option<Hour>,
    /// Running time since the end of the first hour that AWS has not accepted.
    pub running: Duration,
}
