//! How usage becomes records, and records calls: everything that decides about them.
//!
//! Pure: time, randomness and facts are arguments, effects are answers. No clock, no file, no socket, no thread, so its
//! tests are tables and properties. The ledger keeps what is decided here, the sender performs it.

pub mod batch;
pub mod event;
pub mod health;
pub mod pace;
pub mod policy;
pub mod queue;
pub mod record;
pub mod seal;
pub mod suspects;
pub mod unsent;
