//! From what came over the wire to a fault class: the one place where an answer that is not a success gets its meaning.
//!
//! By AWS's error *code* first: `ThrottlingException` is HTTP 400 here, so a status alone would make a throttled pod a
//! refused one (AWS Marketplace API reference, RegisterUsage, Errors). Pure.

use super::exceptions::{self, Kind};
use super::{FaultClass, FaultCode};

/// An unsuccessful answer, as far as its class depends on it.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// The HTTP status.
    pub status: u16,
    /// `__type` or `x-amzn-errortype`, if the answer had one.
    pub code: Option<&'a str>,
}

/// The class of an unsuccessful answer and the code it is shown under.
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

/// Whatever answers without a code is not the service: a proxy, a load balancer, a captive portal.
fn without_code(status: u16) -> (FaultClass, FaultCode) {
    let code = match status {
        429 => exceptions::THROTTLING,
        500..=599 => exceptions::SERVICE_UNAVAILABLE,
        _ => "InvalidAnswer",
    };
    (FaultClass::Transient, FaultCode::known(code))
}

/// Our own code for a request that could not be made from the configuration.
pub const REQUEST_NOT_BUILT: &str = "RequestNotBuilt";

/// Our own code: the proxy wants a user and a password.
pub const PROXY_AUTHENTICATION_REQUIRED: &str = "ProxyAuthenticationRequired";

/// Our own code: the proxy does not let the request through.
pub const PROXY_REFUSED: &str = "ProxyRefused";

/// Our own code: no certificate was looked at, since the two sides did not agree on TLS.
pub const TLS_HANDSHAKE: &str = "TlsHandshake";

/// Our own codes: what is wrong with the certificate; the last for whatever is none of the others.
pub const TLS_EXPIRED: &str = "TlsExpired";
/// It becomes valid later than now.
pub const TLS_NOT_YET_VALID: &str = "TlsNotYetValid";
/// It is for another name.
pub const TLS_NAME: &str = "TlsName";
/// No authority that is trusted has signed it.
pub const TLS_UNTRUSTED: &str = "Tls";
/// All of them.
pub const CERTIFICATE: [&str; 4] = [TLS_EXPIRED, TLS_NOT_YET_VALID, TLS_NAME, TLS_UNTRUSTED];

/// Our own code: the name of AWS's endpoint does not resolve, in a region that this version does not know.
pub const REGION_UNLISTED: &str = "RegionUnlisted";

/// Our own codes for calls that certainly never left.
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

    /// Each row of the design's fault table that an HTTP answer can bring.
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

    /// What each operation may answer, as the service model of botocore 1.44.8 lists it.
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

    /// What the six operations of License Manager that are called may answer, and `GetAccessToken`, by the same models.
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
