//! The operations of the metering service, and its errors as AWS's framework names them.

use std::borrow::Cow;

use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The namespace of the service's shapes.
const NAMESPACE: &str = "com.amazonaws.services.marketplacemetering";

/// The namespace of what every service of AWS's framework answers by itself.
const FRAMEWORK: &str = "com.amazon.coral.service";

/// An operation of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Operation {
    RegisterUsage,
    MeterUsage,
    BatchMeterUsage,
    ResolveCustomer,
}

impl Operation {
    pub(super) const ALL: [Self; 4] =
        [Self::RegisterUsage, Self::MeterUsage, Self::BatchMeterUsage, Self::ResolveCustomer];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::RegisterUsage => "RegisterUsage",
            Self::MeterUsage => "MeterUsage",
            Self::BatchMeterUsage => "BatchMeterUsage",
            Self::ResolveCustomer => "ResolveCustomer",
        }
    }

    pub(super) fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| operation.name() == name)
    }

    /// The exceptions that the model gives the operation, in the model's order.
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
        }
    }
}

/// An error as the service answers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServiceError {
    pub(super) code: Cow<'static, str>,
    pub(super) message: String,
}

impl ServiceError {
    pub(super) fn new(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into() }
    }

    /// A value that breaks the model.
    pub(super) fn validation(message: impl Into<String>) -> Self {
        Self::new("ValidationException", message)
    }

    /// 400 for every modelled error, `ThrottlingException` included, but 500 for the service's own (AWS Marketplace API
    /// reference, "Errors" of each operation); 403 where AWS's list of common errors says so.
    pub(super) fn status(&self) -> StatusCode {
        match self.code.as_ref() {
            "InternalServiceErrorException" => StatusCode::INTERNAL_SERVER_ERROR,
            "MissingAuthenticationTokenException"
            | "InvalidSignatureException"
            | "UnrecognizedClientException"
            | "IncompleteSignatureException" => StatusCode::FORBIDDEN,
            "RequestEntityTooLargeException" => StatusCode::PAYLOAD_TOO_LARGE,
            "RequestTimeoutException" => StatusCode::REQUEST_TIMEOUT,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    pub(super) fn body(&self) -> Value {
        let modelled =
            Operation::ALL.iter().any(|operation| operation.exceptions().contains(&self.code.as_ref()));
        let namespace = if modelled { NAMESPACE } else { FRAMEWORK };
        json!({"__type": format!("{namespace}#{}", self.code), "message": self.message})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modelled_errors_are_400_but_the_services_own_is_500() {
        for operation in Operation::ALL {
            for code in operation.exceptions() {
                let error = ServiceError::new(*code, "text");
                let expected = if *code == "InternalServiceErrorException" { 500 } else { 400 };
                assert_eq!(error.status().as_u16(), expected, "{code}");
                assert_eq!(error.body()["__type"], format!("{NAMESPACE}#{code}"));
            }
        }
        assert_eq!(
            ServiceError::validation("x").body()["__type"],
            format!("{FRAMEWORK}#ValidationException")
        );
    }
}
