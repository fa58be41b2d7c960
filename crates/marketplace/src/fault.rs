//! Classifies unsuccessful answers: the one place where such an answer gets its meaning.
//!
//! AWS's error *code* decides before the status: `ThrottlingException` has HTTP status 400, so by the status alone a
//! throttled pod would be refused (AWS Marketplace API reference, RegisterUsage, Errors). Pure.

use super::exceptions::{self, Kind};
use super::{FaultClass, FaultCode};

/// The parts of an unsuccessful answer that decide its class.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// The HTTP status.
    pub status: u16,
    /// `__type` or `x-amzn-errortype`, if the answer had one.
    pub code: Option<&'a str>,
}

/// The class of an unsuccessful answer, and the code to show.
#[must_use]
pub fn classify(answer: Answer<'_>) -> (FaultClass, FaultCode) {
    let Some(code) = answer.code.filter(|code| !code.is_empty()) else {
        return without_code(answer.status);
    };
    let code = FaultCode::from_wire(code);
    match exceptions::kind(code.as_str()).or(Kind::unnamed(answer.status)) {
        Some(kind) => (kind.class(), code),
        None => (FaultClass::Transient, FaultCode::known("InvalidAnswer")),
    }
}

/// An answer without a code is not from the service, but from a proxy, a load balancer or a captive portal.
fn without_code(status: u16) -> (FaultClass, FaultCode) {
    let code = match status {
        429 => exceptions::THROTTLING,
        500..=599 => exceptions::SERVICE_UNAVAILABLE,
        _ => "InvalidAnswer",
    };
    (FaultClass::Transient, FaultCode::known(code))
}

/// Our code for a request that could not be built from the configuration.
pub const REQUEST_NOT_BUILT: &str = "RequestNotBuilt";

/// Our code: the proxy requires a user and a password.
pub const PROXY_AUTHENTICATION_REQUIRED: &str = "ProxyAuthenticationRequired";

/// Our code: the proxy refuses the request.
pub const PROXY_REFUSED: &str = "ProxyRefused";

/// Our code: the two sides did not agree on TLS, before any certificate was checked.
pub const TLS_HANDSHAKE: &str = "TlsHandshake";

/// Our code: the certificate has expired.
pub const TLS_EXPIRED: &str = "TlsExpired";
/// Our code: the certificate is not valid yet.
pub const TLS_NOT_YET_VALID: &str = "TlsNotYetValid";
/// Our code: the certificate is for another name.
pub const TLS_NAME: &str = "TlsName";
/// Our code: no trusted authority has signed the certificate; also for any other fault of a certificate.
pub const TLS_UNTRUSTED: &str = "Tls";
/// All codes about certificates.
pub const CERTIFICATE: [&str; 4] = [TLS_EXPIRED, TLS_NOT_YET_VALID, TLS_NAME, TLS_UNTRUSTED];

/// Our code: the name of AWS's endpoint does not resolve, in a region that this version does not know.
pub const REGION_UNLISTED: &str = "RegionUnlisted";

/// Our codes for calls that certainly were not sent.
pub const NOT_SENT: [&str; 7] = [
    "Dns",
    REGION_UNLISTED,
    "ConnectTimeout",
    "CredentialsUnavailable",
    "RegionUnknown",
    PROXY_AUTHENTICATION_REQUIRED,
    PROXY_REFUSED,
];

#[cfg(test)]
mod tests {
    use super::super::Place;
    use super::*;

    fn class(status: u16, code: &str) -> FaultClass {
        classify(Answer { status, code: Some(code) }).0
    }

    /// Each row of the fault table that an HTTP answer can cause.
    #[test]
    fn the_fault_table() {
        use FaultClass::{Access, Denied, ExpiredSession, Misconfigured, Transient};
        for (status, code, expected) in [
            (400, "CustomerNotEntitledException", Denied),
            (400, "InvalidProductCodeException", Misconfigured),
            (400, "InvalidPublicKeyVersionException", Misconfigured),
            (400, "InvalidRegionException", Misconfigured),
            (400, "PlatformNotSupportedException", Misconfigured),
            (400, "DisabledApiException", Misconfigured),
            (400, "ValidationException", Misconfigured),
            (404, "UnknownOperationException", Misconfigured),
            (400, "AccessDeniedException", Access),
            (403, "UnrecognizedClientException", Access),
            (403, "InvalidSignatureException", Access),
            (400, "NoEntitlementsAllowedException", Denied),
            (400, "ResourceNotFoundException", Denied),
            (400, "RedirectException", Misconfigured),
            (400, "InvalidParameterValueException", Misconfigured),
            (400, "UnsupportedDigitalSignatureMethodException", Misconfigured),
            (403, "AuthorizationException", Access),
            (400, "RateLimitExceededException", Transient),
            (400, "ConflictException", Transient),
            (500, "ServerInternalException", Transient),
            (400, "ExpiredTokenException", ExpiredSession),
            (403, "ExpiredToken", ExpiredSession),
            (400, "ThrottlingException", Transient),
            (500, "InternalServiceErrorException", Transient),
            (503, "SomethingNew", Transient),
        ] {
            assert_eq!(class(status, code), expected, "{status} {code}");
        }
    }

    /// The exceptions of each operation, by the service model of botocore 1.44.8.
    #[test]
    fn every_exception_of_the_service_model_is_in_the_table() {
        for name in [
            "CustomerNotEntitledException",
            "DisabledApiException",
            "DuplicateRequestException",
            "ExpiredTokenException",
            "IdempotencyConflictException",
            "InternalServiceErrorException",
            "InvalidCustomerIdentifierException",
            "InvalidEndpointRegionException",
            "InvalidLicenseException",
            "InvalidProductCodeException",
            "InvalidPublicKeyVersionException",
            "InvalidRegionException",
            "InvalidTagException",
            "InvalidTokenException",
            "InvalidUsageAllocationsException",
            "InvalidUsageDimensionException",
            "PlatformNotSupportedException",
            "ThrottlingException",
            "TimestampOutOfBoundsException",
        ] {
            assert!(exceptions::find(name).is_some(), "{name}");
        }
    }

    /// The exceptions of the six License Manager operations that tollgate calls, and of `GetAccessToken`, by the same
    /// models.
    #[test]
    fn every_exception_of_license_managers_model_is_in_the_table() {
        for name in [
            "AccessDeniedException",
            "AuthorizationException",
            "ConflictException",
            "InvalidParameterValueException",
            "NoEntitlementsAllowedException",
            "RateLimitExceededException",
            "RedirectException",
            "ResourceLimitExceededException",
            "ResourceNotFoundException",
            "ServerInternalException",
            "UnsupportedDigitalSignatureMethodException",
            "ValidationException",
        ] {
            assert!(exceptions::find(name).is_some(), "{name}");
            assert!(exceptions::text(name, Place::LicenseManager).is_some(), "{name}");
        }
    }

    #[test]
    fn a_namespace_does_not_hide_the_code() {
        assert_eq!(
            class(400, "com.amazonaws.marketplace.metering#ThrottlingException"),
            FaultClass::Transient
        );
    }

    #[test]
    fn whatever_answers_without_a_code_is_not_a_refusal() {
        for status in [200, 301, 400, 403, 404, 407, 429, 500, 502, 503, 504] {
            let (class, _) = classify(Answer { status, code: None });
            assert_eq!(class, FaultClass::Transient, "{status}");
        }
        assert_eq!(classify(Answer { status: 503, code: None }).1.as_str(), "ServiceUnavailable");
    }
}
