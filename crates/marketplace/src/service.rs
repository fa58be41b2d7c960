//! The services as their users see them: one trait for each user, so that none can make another's calls.
//!
//! Each call is one attempt: the caller decides about retries, because it knows how many pods share AWS's quota.

use std::future::Future;
use std::pin::Pin;

use super::entitlements::{Entitlements, GetEntitlements};
use super::license::{
    CheckedIn, CheckedOut, CheckoutLicense, ConsumptionToken, Extended, LicenseUsage, ListReceivedLicenses,
    ReceivedLicenses,
};
use super::{
    BatchMeterUsage, BatchMetered, Fault, Forwarded, Identified, MeterUsage, Metered, Region, RegisterUsage,
    Registered, ResolvedCustomer, Signing,
};

/// A boxed future, because the traits are used as `dyn`.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The future of a call.
pub type ServiceFuture<'a, T> = BoxFuture<'a, Result<T, Fault>>;

/// A service that is called in one region.
pub trait Regional: Send + Sync {
    /// The region, once it is known.
    fn region(&self) -> Option<Region>;
}

/// For registration and attestations.
pub trait Register: Regional {
    /// Registers this pod or task and returns AWS's signed answer, unverified.
    fn register_usage(&self, request: RegisterUsage, signing: Signing) -> ServiceFuture<'_, Registered>;

    /// Finds region and credentials; no call is made with them.
    fn identify(&self, signing: Signing) -> ServiceFuture<'_, Identified>;

    /// The service's clock minus ours in seconds, by its latest answer with a `Date`.
    fn clock_skew(&self) -> Option<i64>;

    /// Waits until [`Register::clock_skew`] differs from `known`.
    fn clock_skew_changed(&self, known: Option<i64>) -> BoxFuture<'_, ()>;
}

/// For the sender, and for registration if a report is the proof.
pub trait Meter: Regional {
    /// Reports usage of this pod's own account, or checks the permission to do so.
    fn meter_usage(&self, request: MeterUsage, signing: Signing) -> ServiceFuture<'_, Metered>;

    /// Reports usage of the seller's customers.
    fn batch_meter_usage(
        &self,
        request: BatchMeterUsage,
        signing: Signing,
    ) -> ServiceFuture<'_, BatchMetered>;
}

/// For the application's server.
pub trait Resolve: Send + Sync {
    /// Turns a buyer's registration token into the customer.
    fn resolve_customer(&self, token: String) -> ServiceFuture<'_, ResolvedCustomer>;
}

/// For the application's server: the entitlement service.
pub trait Entitle: Send + Sync {
    /// The entitlements of a customer of the product, from all pages.
    fn get_entitlements(&self, request: GetEntitlements) -> ServiceFuture<'_, Entitlements>;
}

/// For mode `contract`: License Manager.
pub trait License: Regional {
    /// All licenses of the product and issuer that this account has received, from all pages.
    fn list_received_licenses(
        &self,
        request: ListReceivedLicenses,
        signing: Signing,
    ) -> ServiceFuture<'_, ReceivedLicenses>;

    /// How much of a license is taken.
    fn get_license_usage(&self, license_arn: String, signing: Signing) -> ServiceFuture<'_, LicenseUsage>;

    /// Takes seats or tiers of a license.
    fn checkout_license(&self, request: CheckoutLicense, signing: Signing) -> ServiceFuture<'_, CheckedOut>;

    /// Renews a checkout.
    fn extend_license_consumption(
        &self,
        token: ConsumptionToken,
        signing: Signing,
    ) -> ServiceFuture<'_, Extended>;

    /// Gives a checkout back.
    fn check_in_license(&self, token: ConsumptionToken, signing: Signing) -> ServiceFuture<'_, CheckedIn>;

    /// The service's clock minus ours in seconds, as [`Register::clock_skew`].
    fn clock_skew(&self) -> Option<i64>;
}

/// For the AWS door.
pub trait Forward: Regional {
    /// Sends an application's call, signed anew, to `region` if it is given, and returns AWS's answer unchanged.
    fn forward(&self, target: String, body: Vec<u8>, region: Option<Region>) -> ServiceFuture<'_, Forwarded>;
}
