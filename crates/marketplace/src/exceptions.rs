//! AWS's exception names and their meaning, for every part of the sidecar that needs it. The emulator has its own
//! list, so that one mistake does not cancel the other.
//!
//! - The name decides, not the HTTP status: AWS throttles with 400 (AWS Marketplace API reference, Errors).
//! - Each name is in one row. `tests/tidy.rs` checks that no other file decides by a name, except the AWS door and the
//!   emulator.
//! - A name that is not in the table is judged by its status alone ([`Kind::unnamed`]).
//! - The texts are ours, not AWS's, because AWS's messages name accounts and roles. Every name has a section in
//!   `docs/RUNBOOK.md`.
//!
//! Pure; it does not know its callers.

use super::{FaultClass, Place};

/// One exception of AWS.
#[derive(Debug, Clone, Copy)]
pub struct Exception {
    /// The name as AWS spells it, without a namespace.
    pub name: &'static str,
    /// Its meaning.
    pub kind: Kind,
    /// What happened, in one sentence; `{at}` stands for the service that answered.
    pub message: &'static str,
    /// What to do, in one or two sentences.
    pub remedy: &'static str,
}

/// The meaning of an exception: who must act, whether other records would be accepted, and whether AWS may have
/// processed the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The account is not entitled to the product.
    NotEntitled,
    /// The call itself is wrong: its product, key version, region, platform or account. Another record gets the same
    /// answer.
    Request,
    /// The content of this record is wrong; other records may be accepted.
    Record(Verdict),
    /// AWS does not accept the caller.
    Caller,
    /// The session token has expired.
    Session,
    /// Too many requests: AWS refused the call without processing it.
    Throttled,
    /// A fault of AWS: the call may have been processed.
    Service,
    /// License Manager grants nothing: the license is not bought, not activated or ended, all of it is taken, or the
    /// name or unit differs. The listing shows which.
    NoEntitlements,
    /// The license does not exist, or the checkout has ended.
    NotFound,
    /// The license is in another region, which the answer names.
    Redirect,
    /// Another call about the same checkout is being processed.
    Conflict,
}

/// The consequence of a refusal for the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// AWS will never accept this record as it is.
    Never,
    /// AWS has another value for this hour, or knows the token with other parameters.
    Taken,
    /// The record's time is outside AWS's window: the same usage may be accepted for another hour.
    OutOfWindow,
    /// The name is not documented: the record may be accepted later.
    Unknown,
}

impl Kind {
    /// The meaning of a name that is not in the table, by its HTTP status.
    #[must_use]
    pub const fn unnamed(status: u16) -> Option<Self> {
        match status {
            400..=499 => Some(Self::Record(Verdict::Unknown)),
            500.. => Some(Self::Service),
            _ => None,
        }
    }

    /// Who must act.
    #[must_use]
    pub const fn class(self) -> FaultClass {
        match self {
            Self::NotEntitled | Self::NoEntitlements | Self::NotFound => FaultClass::Denied,
            Self::Request | Self::Record(_) | Self::Redirect => FaultClass::Misconfigured,
            Self::Caller => FaultClass::Access,
            Self::Session => FaultClass::ExpiredSession,
            Self::Throttled | Self::Service | Self::Conflict => FaultClass::Transient,
        }
    }

    /// Whether AWS may have processed the call in spite of this answer.
    #[must_use]
    pub const fn may_be_processed(self) -> bool {
        matches!(self, Self::Service)
    }

    /// Whether the exception is about the content of the call, so that other records may be accepted.
    #[must_use]
    pub const fn concerns_the_record(self) -> bool {
        matches!(self, Self::Record(_))
    }
}

/// The table's entry for `name`.
#[must_use]
pub fn find(name: &str) -> Option<&'static Exception> {
    all().find(|exception| exception.name == name)
}

/// The meaning of `name`; `None` if the table does not contain it.
#[must_use]
pub fn kind(name: &str) -> Option<Kind> {
    find(name).map(|exception| exception.kind)
}

/// Message and remedy of `name` if `place` answered with it.
#[must_use]
pub fn text(name: &str, place: Place) -> Option<(&'static str, &'static str)> {
    let special = SPECIAL.iter().find(|(special, _)| place == Place::LicenseManager && *special == name);
    match special {
        Some((_, text)) => Some(*text),
        None => find(name).map(|exception| (exception.message, remedy(exception.remedy, place))),
    }
}

/// The remedy for a refusal by `place`: it names the actions that are called there.
#[must_use]
pub fn remedy(remedy: &'static str, place: Place) -> &'static str {
    match (place, remedy) {
        (Place::LicenseManager, ROLE) => LICENSE_ROLE,
        (Place::LicenseManager, ALLOW) => LICENSE_ALLOW,
        _ => remedy,
    }
}

/// Every exception, in the table's order.
pub fn all() -> impl Iterator<Item = &'static Exception> {
    TABLE.iter().flat_map(|(_, exceptions)| *exceptions)
}

/// The account has no valid subscription.
pub const NOT_ENTITLED: &str = "CustomerNotEntitledException";
/// The key version is unknown to AWS: another one may be known.
pub const INVALID_PUBLIC_KEY_VERSION: &str = "InvalidPublicKeyVersionException";
/// One of the two forms in which AWS documents the success of a dry run.
pub const DRY_RUN: &str = "DryRunOperation";
/// The call must be made in the region of the pod.
pub const INVALID_REGION: &str = "InvalidRegionException";
/// The same for an endpoint in another region.
pub const INVALID_ENDPOINT_REGION: &str = "InvalidEndpointRegionException";
/// The product code is unknown to AWS.
pub const INVALID_PRODUCT_CODE: &str = "InvalidProductCodeException";
/// AWS does not recognise a pod or a task by the credentials.
pub const PLATFORM_NOT_SUPPORTED: &str = "PlatformNotSupportedException";
/// The code for an answer that throttles without a name.
pub const THROTTLING: &str = "ThrottlingException";
/// The code for a server error without a name.
pub const SERVICE_UNAVAILABLE: &str = "ServiceUnavailable";
/// The node's clock differs from AWS's by more than AWS accepts.
pub const REQUEST_TIME_TOO_SKEWED: &str = "RequestTimeTooSkewed";
/// The session token, or a registration token, has expired.
pub const EXPIRED_TOKEN: &str = "ExpiredToken";
/// AWS has another report for the dimension and hour.
pub const DUPLICATE_REQUEST: &str = "DuplicateRequestException";
/// The product has no such dimension.
pub const UNKNOWN_DIMENSION: &str = "InvalidUsageDimensionException";
/// STS is not enabled in the region for the account.
pub const REGION_DISABLED: &str = "RegionDisabledException";
/// The service does not have this operation.
pub const UNKNOWN_OPERATION: &str = "UnknownOperationException";
/// The request violates the service model.
pub const VALIDATION: &str = "ValidationException";
/// The request is valid by the service model, but a value makes no sense.
pub const INVALID_PARAMETER: &str = "InvalidParameterValueException";
/// License Manager grants nothing, for one of several reasons.
pub const NO_ENTITLEMENTS: &str = "NoEntitlementsAllowedException";
/// The license or the checkout does not exist.
pub const NOT_FOUND: &str = "ResourceNotFoundException";
/// The license is in another region.
pub const REDIRECT: &str = "RedirectException";

/// The meaning of an error of STS's `AssumeRoleWithWebIdentity` (AWS STS API reference, Errors).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StsError {
    /// STS refuses the role, because of its trust policy, the token or the policies.
    Refused,
    /// STS could not reach the cluster's OIDC provider; by AWS's documentation this is often temporary.
    Provider,
    /// The web identity token has expired; the kubelet renews it.
    TokenExpired,
    /// STS is not enabled in this region for the account.
    RegionDisabled,
    /// Throttled, or a fault of STS.
    Unavailable,
}

/// The meaning of STS's answer. `message` distinguishes two kinds of `InvalidIdentityToken`: a token that STS
/// rejects, and keys of the OIDC provider that STS could not fetch, which has been reported only during outages.
#[must_use]
pub fn sts(status: u16, code: Option<&str>, message: &str) -> StsError {
    // An answer without a code is not from STS, but from a proxy or a load balancer.
    let Some(code) = code.filter(|code| !code.is_empty()) else { return StsError::Unavailable };
    match code {
        "IDPCommunicationError" | "IDPCommunicationErrorException" => StsError::Provider,
        "InvalidIdentityToken" | "InvalidIdentityTokenException"
            if PROVIDER_KEYS.iter().any(|words| message.to_ascii_lowercase().contains(words)) =>
        {
            StsError::Provider
        }
        REGION_DISABLED => StsError::RegionDisabled,
        _ => match kind(code).or(Kind::unnamed(status)) {
            Some(Kind::Session) => StsError::TokenExpired,
            Some(Kind::Throttled | Kind::Service) | None => StsError::Unavailable,
            Some(_) => StsError::Refused,
        },
    }
}

/// Parts of STS's messages, in lower case, if it could not fetch the OIDC provider's keys.
const PROVIDER_KEYS: [&str; 3] =
    ["couldn't retrieve verification key", "could not retrieve verification key", "unable to retrieve"];

// === texts ===

/// The remedy if tollgate's retries are enough.
pub const WAIT: &str = "Nothing to do: retries continue until it answers.";

/// The remedy if the role is the cause.
pub const ROLE: &str = "Give the pod's service account (EKS: IRSA) or the task role (ECS) an IAM role that allows \
                        aws-marketplace:RegisterUsage (metered products: MeterUsage); node roles, long-term keys and \
                        EKS Pod \
                        Identity do not work.";

/// [`ROLE`] in mode `contract`.
const LICENSE_ROLE: &str = "Give the pod an IAM role that allows the six license-manager actions of the install guide: IRSA or EKS Pod \
                            Identity (EKS), a task role (ECS), or license_token_file elsewhere.";

const REGION: (&str, &str) = (
    "AWS requires that the call is made in the region where the pod runs.",
    "Set region, or AWS_REGION, to the region of this cluster, or remove it so that it is discovered.",
);
const NOT_ALLOWED: &str = "The IAM role of this pod does not allow the call.";
const ALLOW: &str = "Allow aws-marketplace:RegisterUsage (metered products: MeterUsage) in the policy of the pod's role. A VPC \
                     endpoint policy or an SCP can forbid it too.";
const LICENSE_ALLOW: &str = "Allow it in the policy of the pod's role. On EKS, check that the pod uses the service \
                             account's role, not the node's. A VPC endpoint policy or an SCP can forbid it too.";
const UNKNOWN_KEY: &str = "AWS does not know the access key that signed the request.";
const UNSIGNED: &str = "The request reached AWS without a signature.";
const SIGNATURE_UNREADABLE: (&str, &str) = (
    "AWS cannot read the request's signature.",
    "Check for a proxy that rewrites headers between the pod and AWS.",
);
const SIGNATURE_REJECTED: (&str, &str) = (
    "AWS rejects the request's signature.",
    "Check the credentials, the node's clock (NTP), and for a proxy that rewrites requests to AWS.",
);
const CLOCK: &str = "Synchronise the node's clock (NTP); requests are valid for 5 minutes.";
const SESSION: (&str, &str) = ("The session token has expired.", "Wait: it is being renewed.");
const BUSY: (&str, &str) = ("{at} throttles: it gets too many calls at once.", WAIT);
const INTERNAL: (&str, &str) = ("{at} reports an internal error.", WAIT);
const TOO_SLOW: (&str, &str) = ("{at} did not process the call in time.", WAIT);
const UNPROCESSABLE: (&str, &str) = (
    "AWS rejects the report as it is.",
    "See the dead letters: tollgate ledger dead-letters. The report must be corrected before it is sent again.",
);

const LICENSE_REQUEST: (&str, &str) = (
    "AWS License Manager rejects a value of the request.",
    "Tell the seller of this product; the seller checks product_id, key_fingerprint and entitlements.",
);

/// Texts for License Manager, for names that mean something else there than in other services.
const SPECIAL: &[(&str, (&str, &str))] = &[
    (VALIDATION, LICENSE_REQUEST),
    ("SerializationException", LICENSE_REQUEST),
    (
        UNKNOWN_OPERATION,
        ("The endpoint does not know this call.", "Check the endpoint: it must be AWS License Manager's."),
    ),
];

const fn row(name: &'static str, kind: Kind, (message, remedy): (&'static str, &'static str)) -> Exception {
    Exception { name, kind, message, remedy }
}

/// All exceptions, by the source of their names.
const TABLE: &[(&str, &[Exception])] = &[
    ("the service model of metering", METERING),
    ("the service model of License Manager", LICENSE_MANAGER),
    ("STS", STS),
    ("who asks (AWS, Common Errors)", CALLER),
    ("the AWS SDKs' list of throttling names", THROTTLED),
    ("faults of AWS's own", SERVICE),
    ("requests that cannot be read", UNREADABLE),
];

const METERING: &[Exception] = &[
    row(
        NOT_ENTITLED,
        Kind::NotEntitled,
        (
            "AWS says that this account has no valid subscription to the product.",
            "Subscribe to the product in AWS Marketplace with the account that runs this pod.",
        ),
    ),
    row(
        INVALID_PRODUCT_CODE,
        Kind::Request,
        (
            "AWS does not know the product code, or it is not for container products.",
            "Tell the seller of this product; the seller checks product_code.",
        ),
    ),
    row(
        INVALID_PUBLIC_KEY_VERSION,
        Kind::Request,
        (
            "AWS does not know this version of the product's public key.",
            "Tell the seller of this product; the seller checks public_key_version.",
        ),
    ),
    row(INVALID_REGION, Kind::Request, REGION),
    row(INVALID_ENDPOINT_REGION, Kind::Request, REGION),
    row(
        PLATFORM_NOT_SUPPORTED,
        Kind::Request,
        (
            "AWS does not recognise this as a pod on EKS or a task on ECS or Fargate.",
            "Run it on EKS, ECS or Fargate, with IRSA or a task role: with the node's role AWS cannot see the pod.",
        ),
    ),
    row(
        "DisabledApiException",
        Kind::Request,
        (
            "AWS has disabled this call for the account.",
            "Open a case with AWS Support and name the exception.",
        ),
    ),
    row(
        UNKNOWN_DIMENSION,
        Kind::Record(Verdict::Never),
        (
            "AWS does not know the usage dimension for this product.",
            "Tell the seller of this product; the seller checks dimensions and entitlement_dimension.",
        ),
    ),
    row(
        "InvalidTagException",
        Kind::Record(Verdict::Never),
        ("AWS rejects a tag of the report.", UNPROCESSABLE.1),
    ),
    row(
        "InvalidUsageAllocationsException",
        Kind::Record(Verdict::Never),
        ("AWS rejects the allocations of the report.", UNPROCESSABLE.1),
    ),
    row(
        "InvalidCustomerIdentifierException",
        Kind::Record(Verdict::Never),
        (
            "AWS does not know the customer for this product.",
            "Compare the customer with AWS's answer to ResolveCustomer. The usage is a dead letter.",
        ),
    ),
    row(
        "InvalidLicenseException",
        Kind::Record(Verdict::Never),
        (
            "AWS does not know the license for this product.",
            "Compare the LicenseArn with AWS's answer to ResolveCustomer. The usage is a dead letter.",
        ),
    ),
    row(
        DUPLICATE_REQUEST,
        Kind::Record(Verdict::Taken),
        (
            "AWS holds another report of this dimension and hour.",
            "Find what else reports with the credentials of this pod. The usage is a dead letter.",
        ),
    ),
    row(
        "IdempotencyConflictException",
        Kind::Record(Verdict::Taken),
        (
            "AWS knows the report's token with other parameters.",
            "Find what else reports with the credentials of this pod. The usage is a dead letter.",
        ),
    ),
    row(
        "TimestampOutOfBoundsException",
        Kind::Record(Verdict::OutOfWindow),
        (
            "The report's time is outside the window that AWS accepts.",
            "Check the node's clock (NTP), and how long AWS was unreachable.",
        ),
    ),
    row(
        "InvalidTokenException",
        Kind::Request,
        ("AWS does not know the registration token.", "The buyer starts again from AWS Marketplace."),
    ),
    row(THROTTLING, Kind::Throttled, BUSY),
    row("InternalServiceErrorException", Kind::Service, INTERNAL),
];

const LICENSE_MANAGER: &[Exception] = &[
    row(
        NO_ENTITLEMENTS,
        Kind::NoEntitlements,
        (
            "AWS License Manager grants no entitlement of the product's license.",
            "Buy the product in AWS Marketplace with the account that runs this pod, then accept and activate its license in \
             AWS License Manager.",
        ),
    ),
    row(
        NOT_FOUND,
        Kind::NotFound,
        (
            "AWS License Manager does not find the license of the product, or the checkout has ended.",
            "Check in AWS License Manager, Granted licenses, that the account of this pod has received the license. \
             Retries continue.",
        ),
    ),
    row(
        REDIRECT,
        Kind::Redirect,
        (
            "AWS License Manager keeps the license in another region.",
            "Set license_region to the home region that AWS License Manager shows for the license.",
        ),
    ),
    row(INVALID_PARAMETER, Kind::Request, LICENSE_REQUEST),
    row(
        "UnsupportedDigitalSignatureMethodException",
        Kind::Request,
        (
            "AWS License Manager cannot sign the answer for this license.",
            "Tell the seller of this product; the seller checks the license in AWS License Manager.",
        ),
    ),
    row("AuthorizationException", Kind::Caller, (NOT_ALLOWED, LICENSE_ALLOW)),
    row("RateLimitExceededException", Kind::Throttled, BUSY),
    row("ServerInternalException", Kind::Service, INTERNAL),
    row(
        "ConflictException",
        Kind::Conflict,
        ("{at} is processing another call about the same license.", WAIT),
    ),
    row(
        "ResourceLimitExceededException",
        Kind::Service,
        (
            "{at} says that a limit of the account is exceeded.",
            "Look at the quotas of AWS License Manager in Service Quotas; retries continue.",
        ),
    ),
];

const STS: &[Exception] = &[row(
    REGION_DISABLED,
    Kind::Request,
    (
        "{at} says that STS is not enabled in this region for the AWS account.",
        "Enable STS for the region in IAM, Account settings, or run the pod in another region.",
    ),
)];

const CALLER: &[Exception] = &[
    row("AccessDenied", Kind::Caller, (NOT_ALLOWED, ALLOW)),
    row("AccessDeniedException", Kind::Caller, (NOT_ALLOWED, ALLOW)),
    row("AuthFailure", Kind::Caller, (NOT_ALLOWED, ALLOW)),
    row("IncompleteSignature", Kind::Caller, SIGNATURE_UNREADABLE),
    row("IncompleteSignatureException", Kind::Caller, SIGNATURE_UNREADABLE),
    row("InvalidAccessKeyId", Kind::Caller, (UNKNOWN_KEY, ROLE)),
    row("InvalidClientTokenId", Kind::Caller, (UNKNOWN_KEY, ROLE)),
    row("InvalidSignatureException", Kind::Caller, SIGNATURE_REJECTED),
    row("MissingAuthenticationToken", Kind::Caller, (UNSIGNED, ROLE)),
    row("MissingAuthenticationTokenException", Kind::Caller, (UNSIGNED, ROLE)),
    row("NotAuthorized", Kind::Caller, (NOT_ALLOWED, ALLOW)),
    row(
        "OptInRequired",
        Kind::Caller,
        (
            "The AWS account is not signed up for the service.",
            "The owner of the account completes its sign-up in the AWS console.",
        ),
    ),
    row(
        "RequestExpired",
        Kind::Caller,
        ("AWS says that the request is too old: the node's clock is off.", CLOCK),
    ),
    row(REQUEST_TIME_TOO_SKEWED, Kind::Caller, ("AWS says that the node's clock is off.", CLOCK)),
    row("SignatureDoesNotMatch", Kind::Caller, SIGNATURE_REJECTED),
    row("UnauthorizedException", Kind::Caller, (NOT_ALLOWED, ALLOW)),
    row("UnauthorizedOperation", Kind::Caller, (NOT_ALLOWED, ALLOW)),
    row("UnrecognizedClientException", Kind::Caller, (UNKNOWN_KEY, ROLE)),
    row(EXPIRED_TOKEN, Kind::Session, SESSION),
    row("ExpiredTokenException", Kind::Session, SESSION),
];

const THROTTLED: &[Exception] = &[
    row("BandwidthLimitExceeded", Kind::Throttled, BUSY),
    row("EC2ThrottledException", Kind::Throttled, BUSY),
    row("LimitExceededException", Kind::Throttled, BUSY),
    row("PriorRequestNotComplete", Kind::Throttled, BUSY),
    row("ProvisionedThroughputExceededException", Kind::Throttled, BUSY),
    row("RequestLimitExceeded", Kind::Throttled, BUSY),
    row("RequestThrottled", Kind::Throttled, BUSY),
    row("RequestThrottledException", Kind::Throttled, BUSY),
    row("SlowDown", Kind::Throttled, BUSY),
    row("ThrottledException", Kind::Throttled, BUSY),
    row("Throttling", Kind::Throttled, BUSY),
    row("TooManyRequestsException", Kind::Throttled, BUSY),
    row("TransactionInProgressException", Kind::Throttled, BUSY),
];

const SERVICE: &[Exception] = &[
    row("InternalError", Kind::Service, INTERNAL),
    row("InternalFailure", Kind::Service, INTERNAL),
    row("InternalServerError", Kind::Service, INTERNAL),
    row("InternalServiceError", Kind::Service, INTERNAL),
    row("RequestTimeout", Kind::Service, TOO_SLOW),
    row("RequestTimeoutException", Kind::Service, TOO_SLOW),
    row(SERVICE_UNAVAILABLE, Kind::Service, ("{at} answers with a server error.", WAIT)),
    row("ServiceUnavailableException", Kind::Service, ("{at} answers with a server error.", WAIT)),
];

const UNREADABLE: &[Exception] = &[
    row("RequestEntityTooLargeException", Kind::Record(Verdict::Never), UNPROCESSABLE),
    row("RequestTooLargeException", Kind::Record(Verdict::Never), UNPROCESSABLE),
    row("SerializationException", Kind::Record(Verdict::Never), UNPROCESSABLE),
    row(VALIDATION, Kind::Record(Verdict::Never), UNPROCESSABLE),
    row(
        UNKNOWN_OPERATION,
        Kind::Request,
        ("The endpoint does not know this call.", "Check the endpoint: it must be AWS's metering service."),
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_plain() {
        let mut names = std::collections::BTreeSet::new();
        for Exception { name, .. } in all() {
            assert!(names.insert(name), "{name} is in the table twice");
            assert_eq!(super::super::FaultCode::from_wire(name).as_str(), *name);
        }
    }

    #[test]
    fn every_name_has_its_section_in_the_runbook_and_no_link_there_leads_nowhere() {
        let runbook = include_str!("../../../docs/RUNBOOK.md");
        let missing: Vec<_> = all()
            .map(|exception| exception.name)
            .filter(|name| !runbook.contains(&format!("\n### {name}\n")))
            .collect();
        assert!(missing.is_empty(), "{missing:?}");
        for link in runbook.split("](#").skip(1) {
            let anchor = link.split(')').next().unwrap();
            assert!(runbook.lines().any(|line| anchor_of(line).as_deref() == Some(anchor)), "#{anchor}");
        }
    }

    /// The anchor of a heading: lower case, a dash for each space, no punctuation.
    fn anchor_of(line: &str) -> Option<String> {
        let name = line.strip_prefix('#')?.trim_start_matches('#').trim();
        let kept = name.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
        Some(kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect())
    }

    /// There must be one list of throttling names: with two that differ, a record throttled by one would be in doubt
    /// by the other.
    #[test]
    fn whatever_throttles_leaves_no_doubt() {
        let throttled: Vec<_> = all().filter(|exception| exception.kind == Kind::Throttled).collect();
        assert_eq!(
            throttled.len(),
            15,
            "as many as the AWS SDKs' standard retry mode lists, and License Manager's"
        );
        for exception in throttled {
            assert_eq!(exception.kind.class(), FaultClass::Transient);
            assert!(!exception.kind.may_be_processed() && !exception.kind.concerns_the_record());
        }
    }

    /// In mode `contract` the actions of another service are of no use.
    #[test]
    fn license_managers_texts_speak_of_its_own_actions() {
        for name in
            ["AccessDeniedException", "AuthorizationException", "UnrecognizedClientException", "AuthFailure"]
        {
            let (message, remedy) = text(name, Place::LicenseManager).unwrap();
            assert!(!remedy.contains("aws-marketplace"), "{name}: {message} {remedy}");
        }
        let (_, remedy) = text("AccessDeniedException", Place::Metering).unwrap();
        assert!(remedy.contains("aws-marketplace:RegisterUsage"), "{remedy}");
        for (name, ..) in SPECIAL {
            let general = find(name).unwrap();
            assert_ne!(text(name, Place::LicenseManager), Some((general.message, general.remedy)), "{name}");
            assert_eq!(text(name, Place::Metering), Some((general.message, general.remedy)), "{name}");
        }
    }

    /// Every error of the model of `AssumeRoleWithWebIdentity` (botocore 1.44.8), the errors of every AWS service,
    /// and answers that are not from STS.
    #[test]
    fn every_error_of_sts_has_its_meaning() {
        use StsError::{Provider, Refused, RegionDisabled, TokenExpired, Unavailable};
        for (status, code, message, expected) in [
            (400, Some("MalformedPolicyDocument"), "", Refused),
            (400, Some("PackedPolicyTooLarge"), "", Refused),
            (403, Some("IDPRejectedClaim"), "", Refused),
            (400, Some("IDPCommunicationError"), "", Provider),
            (400, Some("InvalidIdentityToken"), "No OpenIDConnect provider found in your account", Refused),
            (400, Some("InvalidIdentityToken"), "Incorrect token audience", Refused),
            (
                400,
                Some("InvalidIdentityToken"),
                "Couldn't retrieve verification key from your identity provider",
                Provider,
            ),
            (400, Some("ExpiredTokenException"), "Token expired: current date/time", TokenExpired),
            (403, Some("RegionDisabledException"), "", RegionDisabled),
            (403, Some("AccessDenied"), "Not authorized to perform sts:AssumeRoleWithWebIdentity", Refused),
            (403, Some("AccessDeniedException"), "", Refused),
            (400, Some("ValidationError"), "", Refused),
            (400, Some("SomethingNew"), "", Refused),
            (400, Some("Throttling"), "Rate exceeded", Unavailable),
            (503, Some("ServiceUnavailable"), "", Unavailable),
            (500, Some("InternalFailure"), "", Unavailable),
            (500, Some("SomethingNew"), "", Unavailable),
            (403, None, "", Unavailable),
            (200, Some("Odd"), "", Unavailable),
        ] {
            assert_eq!(sts(status, code, message), expected, "{status} {code:?} {message}");
        }
    }
}
