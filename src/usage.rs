//! Custom usage, from the application's report to AWS's bill.
//!
//! Intake acknowledges usage that is on disk; the ledger adds it up by hour and seals closed hours; the sender sends
//! sealed records until AWS has answered. Intake and sender do not know each other: the ledger is between them.

pub mod commits;
pub mod intake;
pub mod notice;
pub mod sender;
pub mod unsent;
