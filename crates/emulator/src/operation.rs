//! The operations of the services that speak AWS JSON 1.1 (metering, entitlement, License Manager), and their errors
//! with the names of AWS's framework.

use std::borrow::Cow;

use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The namespace of errors that AWS's framework itself returns for every service.
const FRAMEWORK: &str = "com.amazon.coral.service";

/// A service that speaks AWS JSON 1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Api {
    Metering,
    Entitlement,
    LicenseManager,
}

impl Api {
    /// The prefix of `X-Amz-Target`, without the dot.
    const fn target(self) -> &'static str {
        match self {
            Self::Metering => "AWSMPMeteringService",
            Self::Entitlement => "AWSMPEntitlementService",
            Self::LicenseManager => "AWSLicenseManager",
        }
    }

    /// The namespace of the service's shapes.
    const fn namespace(self) -> &'static str {
        match self {
            Self::Metering => "com.amazonaws.services.marketplacemetering",
            Self::Entitlement => "com.amazonaws.services.marketplaceentitlement",
            Self::LicenseManager => "com.amazonaws.licensemanager",
        }
    }

    /// The service's name in a credential scope and in IAM's actions.
    pub(super) const fn signing_name(self) -> &'static str {
        match self {
            Self::Metering | Self::Entitlement => "aws-marketplace",
            Self::LicenseManager => "license-manager",
        }
    }

    /// The error for a fault of the service itself.
    pub(super) const fn internal_error(self) -> &'static str {
        match self {
            Self::Metering | Self::Entitlement => "InternalServiceErrorException",
            Self::LicenseManager => "ServerInternalException",
        }
    }

    /// The error of a call above the quota.
    pub(super) const fn throttling(self) -> &'static str {
        match self {
            Self::Metering | Self::Entitlement => "ThrottlingException",
            Self::LicenseManager => "RateLimitExceededException",
        }
    }

    /// Whether the service's model has the error.
    pub(super) fn has(self, code: &str) -> bool {
        let mut operations = Operation::ALL.into_iter().filter(|operation| operation.api() == self);
        operations.any(|operation| operation.exceptions().contains(&code))
    }
}

/// An operation of one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Operation {
    RegisterUsage,
    MeterUsage,
    BatchMeterUsage,
    ResolveCustomer,
    CheckoutLicense,
    ExtendLicenseConsumption,
    CheckInLicense,
    ListReceivedLicenses,
    GetLicense,
    GetLicenseUsage,
    GetAccessToken,
    CreateLicense,
    GetEntitlements,
}

impl Operation {
    pub(super) const ALL: [Self; 13] = [
        Self::RegisterUsage,
        Self::MeterUsage,
        Self::BatchMeterUsage,
        Self::ResolveCustomer,
        Self::CheckoutLicense,
        Self::ExtendLicenseConsumption,
        Self::CheckInLicense,
        Self::ListReceivedLicenses,
        Self::GetLicense,
        Self::GetLicenseUsage,
        Self::GetAccessToken,
        Self::CreateLicense,
        Self::GetEntitlements,
    ];

    /// The service that it belongs to.
    pub(super) const fn api(self) -> Api {
        match self {
            Self::RegisterUsage | Self::MeterUsage | Self::BatchMeterUsage | Self::ResolveCustomer => {
                Api::Metering
            }
            Self::GetEntitlements => Api::Entitlement,
            Self::CheckoutLicense
            | Self::ExtendLicenseConsumption
            | Self::CheckInLicense
            | Self::ListReceivedLicenses
            | Self::GetLicense
            | Self::GetLicenseUsage
            | Self::GetAccessToken
            | Self::CreateLicense => Api::LicenseManager,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::RegisterUsage => "RegisterUsage",
            Self::MeterUsage => "MeterUsage",
            Self::BatchMeterUsage => "BatchMeterUsage",
            Self::ResolveCustomer => "ResolveCustomer",
            Self::CheckoutLicense => "CheckoutLicense",
            Self::ExtendLicenseConsumption => "ExtendLicenseConsumption",
            Self::CheckInLicense => "CheckInLicense",
            Self::ListReceivedLicenses => "ListReceivedLicenses",
            Self::GetLicense => "GetLicense",
            Self::GetLicenseUsage => "GetLicenseUsage",
            Self::GetAccessToken => "GetAccessToken",
            Self::CreateLicense => "CreateLicense",
            Self::GetEntitlements => "GetEntitlements",
        }
    }

    pub(super) fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| operation.name() == name)
    }

    /// The operation that a value of `X-Amz-Target` names.
    pub(super) fn of_target(target: &str) -> Option<Self> {
        let (service, name) = target.split_once('.')?;
        Self::of_name(name).filter(|operation| operation.api().target() == service)
    }

    /// The operation's exceptions, in the model's order.
    pub(super) const fn exceptions(self) -> &'static [&'static str] {
        match self {
            Self::RegisterUsage => &[
                "InvalidProductCodeException",
                "InvalidRegionException",
                "InvalidPublicKeyVersionException",
                "PlatformNotSupportedException",
                "CustomerNotEntitledException",
                "ThrottlingException",
                "InternalServiceErrorException",
                "DisabledApiException",
            ],
            Self::MeterUsage => &[
                "InternalServiceErrorException",
                "InvalidProductCodeException",
                "InvalidUsageDimensionException",
                "InvalidTagException",
                "InvalidUsageAllocationsException",
                "InvalidEndpointRegionException",
                "TimestampOutOfBoundsException",
                "DuplicateRequestException",
                "IdempotencyConflictException",
                "ThrottlingException",
                "CustomerNotEntitledException",
            ],
            Self::BatchMeterUsage => &[
                "InternalServiceErrorException",
                "InvalidProductCodeException",
                "InvalidUsageDimensionException",
                "InvalidTagException",
                "InvalidUsageAllocationsException",
                "InvalidCustomerIdentifierException",
                "TimestampOutOfBoundsException",
                "ThrottlingException",
                "DisabledApiException",
                "InvalidLicenseException",
            ],
            Self::ResolveCustomer => &[
                "InvalidTokenException",
                "ExpiredTokenException",
                "ThrottlingException",
                "InternalServiceErrorException",
                "DisabledApiException",
            ],
            Self::CheckoutLicense => &[
                "ValidationException",
                "InvalidParameterValueException",
                "ResourceNotFoundException",
                "NoEntitlementsAllowedException",
                "UnsupportedDigitalSignatureMethodException",
                "RedirectException",
                "AuthorizationException",
                "AccessDeniedException",
                "RateLimitExceededException",
                "ServerInternalException",
            ],
            Self::ExtendLicenseConsumption => &[
                "ValidationException",
                "InvalidParameterValueException",
                "AuthorizationException",
                "AccessDeniedException",
                "RateLimitExceededException",
                "ServerInternalException",
                "ResourceNotFoundException",
            ],
            Self::CheckInLicense => &[
                "ValidationException",
                "InvalidParameterValueException",
                "ResourceNotFoundException",
                "ConflictException",
                "AuthorizationException",
                "AccessDeniedException",
                "RateLimitExceededException",
                "ServerInternalException",
            ],
            Self::ListReceivedLicenses => &[
                "ValidationException",
                "InvalidParameterValueException",
                "ResourceLimitExceededException",
                "ServerInternalException",
                "AuthorizationException",
                "AccessDeniedException",
                "RateLimitExceededException",
            ],
            Self::GetLicense | Self::GetLicenseUsage => &[
                "ValidationException",
                "InvalidParameterValueException",
                "AuthorizationException",
                "AccessDeniedException",
                "RateLimitExceededException",
                "ServerInternalException",
            ],
            Self::GetAccessToken => &[
                "ValidationException",
                "AuthorizationException",
                "AccessDeniedException",
                "RateLimitExceededException",
                "ServerInternalException",
            ],
            Self::GetEntitlements => {
                &["InvalidParameterException", "ThrottlingException", "InternalServiceErrorException"]
            }
            Self::CreateLicense => &[
                "ValidationException",
                "InvalidParameterValueException",
                "RedirectException",
                "AuthorizationException",
                "AccessDeniedException",
                "RateLimitExceededException",
                "ServerInternalException",
            ],
        }
    }
}

/// An error of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServiceError {
    pub(super) code: Cow<'static, str>,
    pub(super) message: String,
    /// The location in a `RedirectException`.
    pub(super) location: Option<String>,
}

impl ServiceError {
    pub(super) fn new(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), location: None }
    }

    /// A value that breaks the model.
    pub(super) fn validation(message: impl Into<String>) -> Self {
        Self::new("ValidationException", message)
    }

    /// 400 for every modelled error, also for throttling, but 500 for the service's own (AWS Marketplace API reference,
    /// "Errors" of each operation; License Manager's model); 403 where AWS's list of common errors has it.
    pub(super) fn status(&self) -> StatusCode {
        match self.code.as_ref() {
            "InternalServiceErrorException" | "ServerInternalException" => StatusCode::INTERNAL_SERVER_ERROR,
            "MissingAuthenticationTokenException"
            | "InvalidSignatureException"
            | "UnrecognizedClientException"
            | "IncompleteSignatureException" => StatusCode::FORBIDDEN,
            "RequestEntityTooLargeException" => StatusCode::PAYLOAD_TOO_LARGE,
            "RequestTimeoutException" => StatusCode::REQUEST_TIMEOUT,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// The body in the service's format. License Manager's model spells the message's member with a capital.
    pub(super) fn body(&self, api: Api) -> Value {
        let (namespace, member) = match (api.has(&self.code), api) {
            (true, Api::LicenseManager) => (api.namespace(), "Message"),
            (true, Api::Metering | Api::Entitlement) => (api.namespace(), "message"),
            (false, _) => (FRAMEWORK, "message"),
        };
        let mut body = json!({"__type": format!("{namespace}#{}", self.code), member: self.message});
        if let Some(location) = &self.location {
            body["Location"] = json!(location);
        }
        body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modelled_errors_are_400_but_the_services_own_is_500() {
        for operation in Operation::ALL {
            let api = operation.api();
            assert!(operation.exceptions().contains(&api.internal_error()), "{operation:?}");
            assert!(operation.exceptions().contains(&api.throttling()), "{operation:?}");
            for code in operation.exceptions() {
                let error = ServiceError::new(*code, "text");
                let expected = if *code == api.internal_error() { 500 } else { 400 };
                assert_eq!(error.status().as_u16(), expected, "{code}");
                assert_eq!(error.body(api)["__type"], format!("{}#{code}", api.namespace()));
            }
        }
        let validation = ServiceError::validation("x");
        assert_eq!(validation.body(Api::Metering)["__type"], format!("{FRAMEWORK}#ValidationException"));
        assert_eq!(validation.body(Api::LicenseManager)["Message"], "x");
    }

    #[test]
    fn a_target_names_the_operation_of_its_own_service() {
        for (target, found) in [
            ("AWSMPMeteringService.MeterUsage", Some(Operation::MeterUsage)),
            ("AWSLicenseManager.CheckoutLicense", Some(Operation::CheckoutLicense)),
            ("AWSMPEntitlementService.GetEntitlements", Some(Operation::GetEntitlements)),
            ("AWSMPMeteringService.GetEntitlements", None),
            ("AWSLicenseManager.MeterUsage", None),
            ("AWSMPMeteringService.CheckoutLicense", None),
            ("AWSMPMeteringService.meterusage", None),
            ("CheckoutLicense", None),
            ("", None),
        ] {
            assert_eq!(Operation::of_target(target), found, "{target}");
        }
    }
}
