//! Decides how usage becomes records, and records calls.
//!
//! Pure: time, randomness and facts are arguments, effects are results. No clock, no file, no socket, no thread, so the
//! tests are tables and properties. The ledger stores what is decided here, and the sender performs it.

pub mod aggregation;
pub mod batch;
pub mod event;
pub mod health;
pub mod heartbeat;
pub mod pace;
pub mod policy;
pub mod queue;
pub mod record;
pub mod seal;
pub mod suspects;
pub mod unsent;
