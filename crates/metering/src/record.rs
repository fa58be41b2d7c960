//! A record: a sealed hour as it is kept and sent, and what is noted about it. The ledger keeps it; the sender sends
//! it, and says what AWS answered.

use std::time::Duration;

use serde::Serialize;

use crate::event::Customer;
use tollgate_marketplace::{Allocation, Hour, Quantity, Region};
use tollgate_time::Timestamp;

/// Where a record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Sealed; AWS has not answered definitely.
    Sealed,
    /// AWS accepted it.
    Accepted,
    /// Refused or never attempted, and counted to a later hour instead.
    Carried,
    /// AWS will not bill it; it is kept for people.
    Dead,
    /// An application's own report through the AWS door is under way.
    Claimed,
    /// A person decided that it is not to be billed.
    Discarded,
}

impl State {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sealed => "sealed",
            Self::Accepted => "accepted",
            Self::Carried => "carried",
            Self::Dead => "dead",
            Self::Claimed => "claimed",
            Self::Discarded => "discarded",
        }
    }

    /// The state of a word.
    #[must_use]
    pub fn of(text: &str) -> Option<Self> {
        let all = [Self::Sealed, Self::Accepted, Self::Carried, Self::Dead, Self::Claimed, Self::Discarded];
        all.into_iter().find(|state| state.as_str() == text)
    }
}

/// A sealed hour as it stands in the ledger.
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
    /// The split by tags; empty in lists, where it may be large.
    pub allocations: Vec<Allocation>,
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
    /// It was attempted and AWS has not answered definitely since.
    pub in_doubt: bool,
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
    /// Not sent before this time; 0 until somebody decided.
    pub due_at: Timestamp,
    /// AWS answered `DuplicateRecord` while it was in doubt: billed, as far as anybody can tell from here.
    pub unconfirmed: bool,
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
            allocations: Vec::new(),
            allocation_count: 0,
            timestamp: at,
            client_token: "token".to_owned(),
            late_from: None,
            state: State::Sealed,
            in_doubt: false,
            attempts: 0,
            code: None,
            metering_record_id: None,
            sealed_at: at,
            updated_at: at,
            region: None,
            due_at: Timestamp::from_unix_millis(0),
            unconfirmed: false,
        }
    }
}

/// What is noted about a record.
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
