//! Usage, from the application's report to AWS's bill.
//!
//! Intake acknowledges usage once it is on disk. The ledger adds it up by hour and seals closed hours. The sender sends
//! sealed records until AWS has answered. Intake and sender do not know each other: they meet in the ledger.

pub mod commits;
pub mod heartbeat;
pub mod intake;
pub mod lifecycle;
pub mod notice;
pub mod sender;
pub mod unsent;
