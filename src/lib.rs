//! tollgate: the entitlement and metering sidecar for container products on AWS Marketplace.
//!
//! Reading order: [`marketplace`] (the vocabulary), [`registration`] (the heart), [`receipt`] (what proves an
//! entitlement), [`entitlement`] (the published fact), [`probe`] (who reads it), [`app`] (how it is joined).

pub mod exit;
pub mod clock;
pub mod marketplace;
pub mod receipt;
pub mod registration;
pub mod entitlement;
pub mod probe;
pub mod api;
pub mod http;
pub mod usage;
pub mod metrics;
pub mod log;
pub mod shutdown;
pub mod config;
pub mod app;
pub mod cli;
#[cfg(feature = "emulator")]
pub mod emulator;
