//! The proof of mode `metered`: AWS lets this pod report usage.
//!
//! A dry run of `MeterUsage` checks the permission and nothing more: whether the account is subscribed shows with the
//! first real report (AWS Marketplace API reference, MeterUsage, DryRun).

use crate::marketplace::Metered;

/// AWS accepted a dry run. Made from the service's answer only.
#[derive(Debug)]
pub struct Permission {
    emulated: bool,
}

impl Permission {
    /// From the answer of a dry run.
    #[must_use]
    pub const fn of(answer: &Metered) -> Self {
        Self { emulated: answer.emulated }
    }

    /// The emulator granted it.
    #[must_use]
    pub const fn emulated(&self) -> bool {
        self.emulated
    }
}
