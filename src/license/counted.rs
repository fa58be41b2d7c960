//! License Manager with each call counted in the metrics, so that no caller can forget to.

use std::sync::Arc;

use crate::metrics::Metrics;
use tollgate_marketplace::license::{
    CheckedIn, CheckedOut, CheckoutLicense, ConsumptionToken, Extended, LicenseUsage, ListReceivedLicenses,
    ReceivedLicenses,
};
use tollgate_marketplace::service::ServiceFuture;
use tollgate_marketplace::{License, Region, Regional, Signing};

/// A service whose calls are counted.
pub struct Counted {
    service: Arc<dyn License>,
    metrics: Arc<Metrics>,
}

impl Counted {
    /// Counts the calls of `service`.
    #[must_use]
    pub fn new(service: Arc<dyn License>, metrics: Arc<Metrics>) -> Self {
        Self { service, metrics }
    }

    fn count<'a, T: 'a>(
        &'a self,
        operation: &'static str,
        call: ServiceFuture<'a, T>,
    ) -> ServiceFuture<'a, T> {
        Box::pin(async move {
            let outcome = call.await;
            let code = outcome.as_ref().err().map_or("", |fault| fault.code.as_str());
            self.metrics.license_called(operation, code);
            outcome
        })
    }
}

impl Regional for Counted {
    fn region(&self) -> Option<Region> {
        self.service.region()
    }
}

impl License for Counted {
    fn list_received_licenses(
        &self,
        request: ListReceivedLicenses,
        signing: Signing,
    ) -> ServiceFuture<'_, ReceivedLicenses> {
        self.count("ListReceivedLicenses", self.service.list_received_licenses(request, signing))
    }

    fn get_license_usage(&self, license_arn: String, signing: Signing) -> ServiceFuture<'_, LicenseUsage> {
        self.count("GetLicenseUsage", self.service.get_license_usage(license_arn, signing))
    }

    fn checkout_license(&self, request: CheckoutLicense, signing: Signing) -> ServiceFuture<'_, CheckedOut> {
        self.count("CheckoutLicense", self.service.checkout_license(request, signing))
    }

    fn extend_license_consumption(
        &self,
        token: ConsumptionToken,
        signing: Signing,
    ) -> ServiceFuture<'_, Extended> {
        self.count("ExtendLicenseConsumption", self.service.extend_license_consumption(token, signing))
    }

    fn check_in_license(&self, token: ConsumptionToken, signing: Signing) -> ServiceFuture<'_, CheckedIn> {
        self.count("CheckInLicense", self.service.check_in_license(token, signing))
    }

    fn clock_skew(&self) -> Option<i64> {
        self.service.clock_skew()
    }
}
