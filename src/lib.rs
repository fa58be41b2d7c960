//! tollgate: the entitlement and metering sidecar for container products on AWS Marketplace.
//!
//! Reading order: [`tollgate_marketplace`] (the vocabulary), [`registration`] (asks AWS), [`tollgate_receipt`]
//! (verifies AWS's signed answer), [`entitlement`] (the published fact), [`probe`] (serves it), [`app`] (wires the
//! parts).

pub mod api;
pub mod app;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod engine;
pub mod entitlement;
pub mod evidence;
pub mod exit;
pub mod last_sentence;
pub mod license;
pub mod log;
pub mod metrics;
pub mod probe;
pub mod process_status;
pub mod program;
pub mod random;
pub mod registration;
pub mod runbook;
pub mod shutdown;
pub mod state_file;
pub mod supervisor;
pub mod usage;
