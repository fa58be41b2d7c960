//! Custom usage, from the application's report to AWS's bill.
//!
//! Intake acknowledges what is on disk; the ledger sums it by hour and seals closed hours; the sender sends sealed
//! records until AWS has answered. Intake and sender never meet: the ledger is between them.

pub mod commits;
pub mod intake;
pub mod notice;
pub mod sender;
pub mod unsent;
