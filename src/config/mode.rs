//! How a product is priced, and what follows from it.
//!
//! A mode answers questions, so that no other code compares modes. Where other code chooses by the mode, it names every
//! mode, so that the compiler finds it when a mode is added.

use std::fmt;

use clap::ValueEnum;
use clap::builder::PossibleValue;
use serde::Serialize;

/// How the product is priced, which decides AWS's call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// `RegisterUsage`: AWS meters the hours itself.
    Hourly,
    /// `MeterUsage`: custom dimensions, from the buyer's account.
    Metered,
    /// License Manager: a contract, checked or taken seat by seat.
    Contract,
    /// `BatchMeterUsage`: custom dimensions, from the seller's account.
    Saas,
}

impl Mode {
    /// Every mode.
    pub const ALL: [Self; 4] = [Self::Hourly, Self::Metered, Self::Contract, Self::Saas];

    /// The value of the setting `mode`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hourly => "hourly",
            Self::Metered => "metered",
            Self::Contract => "contract",
            Self::Saas => "saas",
        }
    }

    /// It calls License Manager, by the product ID, instead of the metering service.
    #[must_use]
    pub const fn asks_license_manager(self) -> bool {
        match self {
            Self::Contract => true,
            Self::Hourly | Self::Metered | Self::Saas => false,
        }
    }

    /// It calls the metering service, by the product code.
    #[must_use]
    pub const fn asks_metering(self) -> bool {
        !self.asks_license_manager()
    }

    /// AWS requires the call in the region where the pod or task runs.
    #[must_use]
    pub const fn asks_where_it_runs(self) -> bool {
        match self {
            Self::Hourly | Self::Metered => true,
            Self::Contract | Self::Saas => false,
        }
    }

    /// AWS proves the entitlement by a signature, which needs the product's public key.
    #[must_use]
    pub const fn is_signed(self) -> bool {
        match self {
            Self::Hourly => true,
            Self::Metered | Self::Contract | Self::Saas => false,
        }
    }

    /// Nothing is left to do once the gate is open: `exec` becomes the application, and no more credentials are needed.
    #[must_use]
    pub const fn ends_when_open(self) -> bool {
        match self {
            Self::Hourly => true,
            Self::Metered | Self::Contract | Self::Saas => false,
        }
    }

    /// The application reports usage of named dimensions, which a ledger keeps until AWS accepts it.
    #[must_use]
    pub const fn has_ledger(self) -> bool {
        match self {
            Self::Hourly | Self::Contract => false,
            Self::Metered | Self::Saas => true,
        }
    }

    /// The usage is this pod's own. AWS distinguishes reports by pod, and its answers say whether the buyer is still
    /// entitled.
    #[must_use]
    pub const fn meters_own_pod(self) -> bool {
        match self {
            Self::Metered => true,
            Self::Hourly | Self::Contract | Self::Saas => false,
        }
    }

    /// It runs in the seller's account and reports the usage of the seller's customers, from wherever it runs.
    #[must_use]
    pub const fn is_run_by_seller(self) -> bool {
        match self {
            Self::Saas => true,
            Self::Hourly | Self::Metered | Self::Contract => false,
        }
    }

    /// The actions that the role must allow.
    #[must_use]
    pub const fn actions(self) -> &'static [&'static str] {
        match self {
            Self::Hourly => &["aws-marketplace:RegisterUsage"],
            Self::Metered => &["aws-marketplace:MeterUsage"],
            // AWS's managed AWSLicenseManagerConsumptionPolicy lacks the last two.
            Self::Contract => &[
                "license-manager:CheckoutLicense",
                "license-manager:CheckInLicense",
                "license-manager:ExtendLicenseConsumption",
                "license-manager:GetLicense",
                "license-manager:GetLicenseUsage",
                "license-manager:ListReceivedLicenses",
            ],
            Self::Saas => &[
                "aws-marketplace:BatchMeterUsage",
                "aws-marketplace:GetEntitlements",
                "aws-marketplace:ResolveCustomer",
            ],
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl ValueEnum for Mode {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.as_str()))
    }
}
