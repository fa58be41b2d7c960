//! Mode `contract`: proves the license, or holds seats of it, by AWS License Manager.

pub mod counted;
pub mod ending;
pub mod knowledge;
pub mod telling;

pub use knowledge::{Held, Knowledge};
