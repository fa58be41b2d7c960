//! Mode `contract`: proves the license, or holds seats of it, by AWS License Manager.

pub mod knowledge;

pub use knowledge::{Held, Knowledge};
