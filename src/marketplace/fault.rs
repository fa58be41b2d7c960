//! From what came over the wire to a fault class: the one place where an answer that is not a success gets its meaning.
//!
//! By AWS's error *code* first: `ThrottlingException` is HTTP 400 here, so a status alone would make a throttled pod a
//! refused one (AWS Marketplace API reference, RegisterUsage, Errors). Pure.

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
    let class = match code.as_str() {
        "CustomerNotEntitledException" => FaultClass::Denied,
        name if THROTTLED.contains(&name) || OURS_TO_WAIT.contains(&name) => FaultClass::Transient,
        name if EXPIRED.contains(&name) => FaultClass::ExpiredSession,
        name if ACCESS.contains(&name) => FaultClass::Access,
        _ if answer.status >= 500 => FaultClass::Transient,
        _ if (400..500).contains(&answer.status) => FaultClass::Misconfigured,
        _ => return (FaultClass::Transient, FaultCode::known("InvalidAnswer")),
    };
    (class, code)
}

/// Whatever answers without a code is not the service: a proxy, a load balancer, a captive portal.
fn without_code(status: u16) -> (FaultClass, FaultCode) {
    let code = match status {
        429 => "ThrottlingException",
        500..=599 => "ServiceUnavailable",
        _ => "InvalidAnswer",
    };
    (FaultClass::Transient, FaultCode::known(code))
}

/// AWS's names for "too many requests" (the list of the AWS SDKs' standard retry mode).
const THROTTLED: &[&str] = &[
    "ThrottlingException",
    "Throttling",
    "ThrottledException",
    "RequestThrottledException",
    "RequestThrottled",
    "TooManyRequestsException",
    "RequestLimitExceeded",
    "LimitExceededException",
    "BandwidthLimitExceeded",
    "SlowDown",
    "PriorRequestNotComplete",
    "EC2ThrottledException",
    "TransactionInProgressException",
    "ProvisionedThroughputExceededException",
];

/// AWS's names for its own faults, whatever their status.
const OURS_TO_WAIT: &[&str] = &[
    "InternalServiceErrorException",
    "InternalServiceError",
    "InternalServerError",
    "InternalFailure",
    "InternalError",
    "ServiceUnavailable",
    "ServiceUnavailableException",
    "RequestTimeout",
    "RequestTimeoutException",
];

const EXPIRED: &[&str] = &["ExpiredToken", "ExpiredTokenException"];

/// Names about who asks, not about what is asked (AWS, Common Errors).
const ACCESS: &[&str] = &[
    "AccessDenied",
    "AccessDeniedException",
    "AuthFailure",
    "IncompleteSignature",
    "IncompleteSignatureException",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "NotAuthorized",
    "OptInRequired",
    "RequestExpired",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "UnauthorizedException",
    "UnauthorizedOperation",
    "UnrecognizedClientException",
];

#[cfg(test)]
mod tests {
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
            (400, "ExpiredTokenException", ExpiredSession),
            (403, "ExpiredToken", ExpiredSession),
            (400, "ThrottlingException", Transient),
            (500, "InternalServiceErrorException", Transient),
            (503, "SomethingNew", Transient),
        ] {
            assert_eq!(class(status, code), expected, "{status} {code}");
        }
    }

    /// What each operation may answer, as the service model of botocore 1.44.5 lists it.
    const MODELLED: &[&str] = &[
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
    ];

    /// An operator who meets a name finds a section for it; and what leads nowhere in the runbook itself is found too.
    #[test]
    fn every_exception_has_its_section_in_the_runbook() {
        let runbook = include_str!("../../docs/RUNBOOK.md");
        let lists = [MODELLED, THROTTLED, OURS_TO_WAIT, EXPIRED, ACCESS];
        let missing: Vec<_> = lists
            .into_iter()
            .flatten()
            .filter(|name| !runbook.contains(&format!("\n### {name}\n")))
            .collect();
        assert!(missing.is_empty(), "{missing:?}");
        for link in runbook.split("](#").skip(1) {
            let anchor = link.split(')').next().unwrap();
            let found = runbook.lines().any(|line| {
                line.strip_prefix("### ").is_some_and(|name| name.to_ascii_lowercase() == anchor)
            });
            assert!(found, "#{anchor}");
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
