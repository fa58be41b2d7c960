//! Why the gate is shut and what to do, by fault code: AWS's exceptions from [`exceptions`], our own codes from the
//! catalogue below.
//!
//! The texts are ours, never AWS's: AWS's messages name accounts and roles, and everybody who can reach the probe port
//! can read these texts. Every code has a section in `docs/RUNBOOK.md` with the code as its heading.

use std::borrow::Cow;

use serde::Serialize;

use super::word::Unreported;
use crate::runbook;
use tollgate_marketplace::exceptions::{self, ROLE, WAIT};
use tollgate_marketplace::fault::{
    CERTIFICATE, PROXY_AUTHENTICATION_REQUIRED, PROXY_REFUSED, REGION_UNLISTED, TLS_EXPIRED, TLS_HANDSHAKE,
    TLS_NAME, TLS_NOT_YET_VALID, TLS_UNTRUSTED,
};
use tollgate_marketplace::{Fault, FaultClass, FaultCode, Place};

/// What is wrong and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// The name of AWS's exception, or a code of our own.
    pub code: FaultCode,
    /// What happened, one sentence.
    pub message: Cow<'static, str>,
    /// What to do, one or two sentences.
    pub remedy: Cow<'static, str>,
    /// Where the code is explained: a command, or the seller's web page.
    pub docs: String,
}

impl Reason {
    /// The text for `code`; if no table has the code, the text for its class.
    #[must_use]
    pub fn of(code: FaultCode, class: FaultClass) -> Self {
        let detail = "what is configured for it cannot be used";
        Self::new(&Fault { code, ..Fault::local(class, "", detail) })
    }

    /// The text for a fault, with what failed and where.
    #[must_use]
    pub fn of_fault(fault: &Fault) -> Self {
        if fault.clock_is_off()
            && let Some(offset) = fault.clock_offset_seconds
        {
            return Self::clock_skew(offset);
        }
        Self::new(fault)
    }

    /// The node's clock is wrong; `offset_seconds` is AWS's time minus ours.
    #[must_use]
    pub fn clock_skew(offset_seconds: i64) -> Self {
        let side = if offset_seconds > 0 { "behind" } else { "ahead of" };
        let minutes = (offset_seconds.unsigned_abs() + 30) / 60;
        Self {
            message: format!("The node's clock is {minutes} min {side} AWS's.").into(),
            ..Self::known(CLOCK_SKEW, FaultClass::Access)
        }
    }

    fn new(fault: &Fault) -> Self {
        let (code, class, place) = (&fault.code, fault.class, fault.place);
        let host = fault.host.as_deref();
        let (message, remedy) = text(code.as_str(), place).unwrap_or_else(|| fallback(class, place));
        let remedy = remedy_at(class, place, code.as_str()).unwrap_or(remedy);
        // The proxy may have accepted the connection and failed to reach the endpoint.
        let through_proxy = place == Place::Proxy && code.as_str() == "ConnectTimeout";
        let message = if through_proxy { "No connection through {at} in time." } else { message };
        Self {
            docs: runbook::command(code.as_str()),
            code: code.clone(),
            message: if message.contains(DETAIL) {
                message.replace(DETAIL, &fault.detail).into()
            } else {
                seeing(placed(message, place, host), &fault.seen)
            },
            remedy: placed(remedy, place, host),
        }
    }

    /// The remedy for a process that ends: it makes no further attempts, so the remedy announces none.
    #[must_use]
    pub fn last_remedy(&self) -> String {
        let mut remedy = self.remedy.to_string();
        for promise in PROMISES {
            remedy = remedy.replace(promise, "");
        }
        let remedy = remedy.trim();
        if remedy.is_empty() { START_AGAIN.to_owned() } else { remedy.to_owned() }
    }

    /// The text for a code of our own.
    #[must_use]
    pub fn known(code: &'static str, class: FaultClass) -> Self {
        Self::of(FaultCode::known(code), class)
    }
}

/// The remedy for a process that ended because AWS did not answer.
pub(super) const START_AGAIN: &str = "Start it again once it answers.";

/// The parts of remedies that announce tollgate's own retries.
const PROMISES: [&str; 4] = [WAIT, "; retries continue", "Retries continue.", "Wait: it is being renewed."];

/// The code for a wrong clock of the node.
pub const CLOCK_SKEW: &str = "ClockSkew";

/// Placeholder for the service that failed, with its host if that is known.
const AT: &str = "{at}";
/// Placeholder for the fault's `detail`; only in texts of codes whose `detail` tollgate writes itself.
const DETAIL: &str = "{detail}";
/// Placeholder for the host that must be reachable.
const HOST: &str = "{host}";

/// The message with `seen` in parentheses before its full stop.
fn seeing(message: Cow<'static, str>, seen: &str) -> Cow<'static, str> {
    if seen.is_empty() {
        return message;
    }
    format!("{} ({seen}).", message.trim_end_matches('.')).into()
}

fn placed(text: &'static str, place: Place, host: Option<&str>) -> Cow<'static, str> {
    if !text.contains('{') {
        return text.into();
    }
    let what = match place {
        Place::Metering => "AWS's metering service",
        Place::LicenseManager => "AWS License Manager",
        Place::Sts => "STS",
        Place::Container => "the agent that hands out the task's credentials",
        Place::Imds => "the instance metadata service (IMDS)",
        Place::TaskMetadata => "the ECS task metadata endpoint",
        Place::Proxy => "the proxy",
    };
    let at = host.map_or_else(|| what.to_owned(), |host| format!("{what} at {host}"));
    let placed = text.replace(AT, &at).replace(HOST, host.unwrap_or(what));
    let mut letters = placed.chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    (first + letters.as_str()).into()
}

/// The remedy for a fault at a place other than the metering service, if it differs.
fn remedy_at(class: FaultClass, place: Place, code: &str) -> Option<&'static str> {
    match (class, place) {
        // Their own remedies are more specific.
        _ if CERTIFICATE.contains(&code) || matches!(code, PROXY_AUTHENTICATION_REQUIRED | PROXY_REFUSED) => {
            None
        }
        (_, Place::Container) if code == "InvalidAnswer" => Some(
            "Check AWS_CONTAINER_CREDENTIALS_RELATIVE_URI or AWS_CONTAINER_CREDENTIALS_FULL_URI: ECS sets a new one for each \
             task, and the agent does not know one that was copied. Retries continue.",
        ),
        (FaultClass::Transient, Place::Container) => Some(
            "Look at the agent on the node (ECS agent, EKS Pod Identity agent); retries continue. EKS: use IRSA, since \
             Pod Identity does not work for metering.",
        ),
        (FaultClass::Transient, Place::Imds) => Some(
            "Give the pod IRSA (EKS) or a task role (ECS): IMDS often drops answers to pods (hop limit 1), and AWS refuses \
             the node's role. Retries continue.",
        ),
        (FaultClass::Transient, Place::TaskMetadata) => {
            Some("Set AWS_REGION on the container, and look at the ECS agent; retries continue.")
        }
        (FaultClass::Transient, Place::Proxy) => Some(
            "Check HTTPS_PROXY, HTTP_PROXY and NO_PROXY of the container, and the proxy itself; retries continue.",
        ),
        _ => None,
    }
}

/// Message and remedy of a code at a place.
fn text(code: &str, place: Place) -> Option<(&'static str, &'static str)> {
    let ours = || {
        let entry = CATALOGUE.iter().find(|(known, ..)| *known == code);
        entry.map(|&(_, message, remedy)| (message, exceptions::remedy(remedy, place)))
    };
    exceptions::text(code, place).or_else(ours)
}

fn fallback(class: FaultClass, place: Place) -> (&'static str, &'static str) {
    match class {
        FaultClass::Denied => {
            ("AWS refuses the use of this product.", "Check the subscription in AWS Marketplace.")
        }
        FaultClass::Misconfigured if place == Place::LicenseManager => (
            "AWS License Manager rejects the request.",
            "Check product_id, key_fingerprint, entitlements and the region; the runbook explains the exception.",
        ),
        FaultClass::Misconfigured => (
            "AWS rejects the request.",
            "Check product code, public key version and region; the runbook explains the exception.",
        ),
        FaultClass::Access => {
            ("AWS does not accept the credentials of this pod.", exceptions::remedy(ROLE, place))
        }
        FaultClass::ExpiredSession => ("The session token has expired.", "Wait: it is being renewed."),
        FaultClass::Transient => ("AWS could not answer.", WAIT),
    }
}

const NETWORK: &str = "Allow HTTPS to {host}, by NAT, proxy (HTTPS_PROXY) or VPC endpoint; retries continue.";

/// Code, message and remedy of faults that are not exceptions of AWS.
const CATALOGUE: &[(&str, &str, &str)] = &[
    ("CredentialsMissing", "There are no AWS credentials in this pod.", ROLE),
    (
        "CredentialsIncomplete",
        "Nothing gives AWS credentials: {detail}.",
        "Correct the variable or the file, or recreate the pod so that EKS or ECS sets it. tollgate config check \
         names all.",
    ),
    (
        "CredentialsFileInvalid",
        "{detail}.",
        "Correct the file, or remove the variable where the platform sets another source of credentials.",
    ),
    (
        "WebIdentityTokenUnreadable",
        "The pod's web identity token cannot be read: {detail}.",
        "Set securityContext.fsGroup (for example 65532) so that the container's user may read \
         AWS_WEB_IDENTITY_TOKEN_FILE.",
    ),
    (
        "AssumeRoleRefused",
        "{at} refuses this pod the IAM role that AWS_ROLE_ARN names.",
        "Check that the role exists, and its trust policy: the cluster's OIDC provider, the audience sts.amazonaws.com, and \
         this pod's service account as subject. tollgate doctor prints role and subject.",
    ),
    (
        "LicenseTokenRefused",
        "{at} does not accept the token in license_token_file.",
        "The token ends a year after it was made, or with its license: make a new one in AWS Marketplace, Manage \
         subscriptions, and replace the Kubernetes secret that the file comes from. Retries continue.",
    ),
    (
        "LicenseRoleRefused",
        "{at} refuses the role in AWS_ROLE_ARN to the license token.",
        "Check that the role exists, and its trust policy: openid-license-manager.amazonaws.com, and the account that made \
         the token (condition amr).",
    ),
    (
        "CredentialsUnavailable",
        "The source of the pod's credentials does not answer.",
        "Run tollgate doctor in the pod: it names the source that is asked. Retries continue.",
    ),
    (
        "CredentialsInvalid",
        "The configured source of AWS credentials cannot be used.",
        "Correct the AWS profile files, or the variables AWS_PROFILE and AWS_CONTAINER_CREDENTIALS_FULL_URI.",
    ),
    (
        "CredentialsRefused",
        "{at} gives this task no credentials.",
        "Check the task role (taskRoleArn), and AWS_CONTAINER_AUTHORIZATION_TOKEN where it is set.",
    ),
    (
        "WebIdentityTokenMissing",
        "{detail}.",
        "Recreate the pod, so that EKS's webhook mounts the token into this container too.",
    ),
    (
        "WebIdentityTokenExpired",
        "{at} says that the pod's web identity token has expired.",
        "The kubelet renews it: look at the kubelet, the API server and the node's clock. Retries continue.",
    ),
    (
        "IDPCommunicationError",
        "{at} could not reach the cluster's OIDC provider, or fetch its keys.",
        "This often passes by itself. If not, check that the cluster's OIDC issuer URL is public. Retries continue.",
    ),
    (
        PROXY_AUTHENTICATION_REQUIRED,
        "{at} answers 407: it requires a user and a password.",
        "Put them into HTTPS_PROXY (http://user:password@host:port), or exempt this pod. Retries continue.",
    ),
    (
        PROXY_REFUSED,
        "{at} rejects the request.",
        "Allow CONNECT to AWS's endpoint at the proxy, without a login page, and check that the proxy itself \
         reaches the endpoint; or list the endpoint in NO_PROXY. Retries continue.",
    ),
    (
        CLOCK_SKEW,
        "The node's clock is more than 10 min off AWS's.",
        "Synchronise the node's clock (NTP; on EC2 the Amazon Time Sync Service). Hours, grace and receipts depend \
         on it.",
    ),
    (
        "RegionUnknown",
        "The AWS region of this pod is unknown.",
        "Set AWS_REGION on the container (IRSA does so by itself), or let it reach the ECS task metadata or IMDS.",
    ),
    ("Timeout", "{at} did not answer in time.", NETWORK),
    ("ConnectTimeout", "No connection to {at} in time.", NETWORK),
    (
        "Dns",
        "The name of {at} does not resolve.",
        "Check the pod's DNS: CoreDNS, dnsPolicy, and egress to port 53; for a VPC endpoint, that private DNS is on. Retries \
         continue.",
    ),
    (
        REGION_UNLISTED,
        "The name of {at} does not resolve, and this version knows no such AWS region.",
        "Correct the region (TOLLGATE_REGION, AWS_REGION). If AWS has opened it since, check the cluster's DNS; retries \
         continue.",
    ),
    ("Connection", "The connection to {at} failed.", NETWORK),
    (
        TLS_UNTRUSTED,
        "The certificate of {at} is not signed by a trusted authority.",
        "If a proxy inspects TLS, set AWS_CA_BUNDLE to its CA certificate (PEM), or exempt {host} from inspection.",
    ),
    (
        TLS_EXPIRED,
        "The certificate of {at} has expired.",
        "Check the node's clock (NTP). If it is right, something other than AWS answers there: renew its certificate.",
    ),
    (
        TLS_NOT_YET_VALID,
        "The certificate of {at} is not valid yet.",
        "Check the node's clock (NTP): it may be behind. If it is right, something other than AWS answers there.",
    ),
    (
        TLS_NAME,
        "The certificate of {at} is for another name.",
        "Check what answers there: the endpoint's URL, its addresses in DNS, a VPC endpoint of another service, a \
         proxy.",
    ),
    (
        TLS_HANDSHAKE,
        "{at} did not agree on a TLS connection.",
        "Allow HTTPS to {host} with TLS 1.2 or later and without inspection: a firewall or proxy may block it. \
         Retries continue.",
    ),
    ("MissingSignature", "AWS accepted the call but sent no signature.", WAIT),
    (
        "InvalidAnswer",
        "The answer from {at} cannot be understood.",
        "Something other than AWS may answer: a proxy, a login page, a wrong endpoint (tollgate config print). \
         Allow HTTPS to {host}. Retries continue.",
    ),
    (
        "EmulatedToken",
        "The token comes from the tollgate emulator, which this build or configuration does not accept.",
        "Remove the endpoint override, so that AWS itself is called.",
    ),
    (
        "NoLicense",
        "This account has received no license of the product from its issuer.",
        "Buy the product in AWS Marketplace with the account that runs this pod, or have the account that bought it grant this \
         one its license (AWS License Manager, Granted licenses). If the license is in another region, set license_region. If it is in this one, the seller checks product_id.",
    ),
    (
        "LicenseNotActivated",
        "This account has received the product's license and has not activated it.",
        "Accept and activate the license in AWS License Manager, Granted licenses.",
    ),
    (
        "LicenseDeactivated",
        "The issuer has deactivated the product's license.",
        "Ask the seller of this product: an invoice may be unpaid, or the agreement cancelled.",
    ),
    (
        "LicenseEnded",
        "The contract for this product has ended.",
        "Renew the contract in AWS Marketplace, Manage subscriptions.",
    ),
    (
        "LicenseNotYetValid",
        "The contract for this product has not begun yet.",
        "Nothing to do until it begins. If it should have begun, check the node's clock (NTP).",
    ),
    (
        "UnitMismatch",
        "The license counts an entitlement in another unit than the product expects.",
        "Tell the seller of this product; the seller corrects the unit in entitlements, or leaves it out.",
    ),
    (
        "NameMismatch",
        "The license lacks an entitlement that the product expects.",
        "Tell the seller of this product; the seller compares entitlements with the API names of the dimensions. A contract \
         that is older than the dimension needs an amendment.",
    ),
    (
        "QuantityTooSmall",
        "The license has less of an entitlement than the product needs.",
        "Upgrade the contract in AWS Marketplace, or ask the seller of this product.",
    ),
    (
        "SeatsExhausted",
        "All seats of the license are taken.",
        "Stop a pod that holds one, or buy more seats in AWS Marketplace. The seat of a pod that was killed without its volume \
         is free again when its checkout ends, usually within an hour.",
    ),
    (
        "LicenseCauseUnknown",
        "AWS License Manager refuses the checkout, and this pod cannot see why.",
        "Allow license-manager:ListReceivedLicenses in the policy of the pod's role, so that tollgate can name the \
         cause. If it is allowed, look at the license in AWS License Manager, Granted licenses.",
    ),
    (
        "LicenseStateNotKept",
        "The license cannot be saved in state_dir, so no seat is taken: a restart would lose it.",
        "Free space on the volume of state_dir, or let this process's user write there. Retries continue.",
    ),
    (
        "UsageUnreported",
        "AWS has not accepted this pod's usage for longer than the seller allows.",
        "Run `tollgate ledger list`: it shows AWS's answer to each record. Restore the connection to AWS, or replay \
         the dead letters; the gate opens when AWS has accepted them.",
    ),
    (
        "UsageNotTaken",
        "The usage ledger is full, or has not been written for longer than the seller allows.",
        "If the log says that the ledger is full, raise ledger_bytes_max; otherwise free space on the volume of \
         state_dir. Then restart tollgate.",
    ),
    (
        "NoEntropy",
        "The node provides no random numbers, so no nonce can be created.",
        "Check the node: getrandom must work. Retries continue.",
    ),
    (
        "UnknownKeyVersion",
        "The seller's public key of this version is not in the image.",
        "Tell the seller of this product; the seller checks public_keys.",
    ),
];

/// The reason for a token that failed verification; `code` is the verifier's code.
#[must_use]
pub fn unverified(code: &'static str, host: Option<&str>) -> Reason {
    if let Some(&(_, message, remedy)) = CATALOGUE.iter().find(|(known, ..)| *known == code) {
        return Reason {
            code: FaultCode::known(code),
            message: message.into(),
            remedy: remedy.into(),
            docs: runbook::command(code),
        };
    }
    Reason {
        code: FaultCode::known(code),
        message: seeing(
            "The answer to RegisterUsage failed verification against the seller's public key.".into(),
            &host.map_or_else(String::new, |host| format!("from {host}")),
        ),
        remedy: "Check what answers in AWS's place (endpoint, proxy). Tell the seller of this product; the seller checks the \
                 public key of this version."
            .into(),
        docs: runbook::command(code),
    }
}

/// AWS said that the buyer is not entitled, and this pod must not ask again (`after_denial = "new-pod"`).
#[must_use]
pub fn denied_until_a_new_pod() -> Reason {
    let denied = Reason::of(FaultCode::known(exceptions::NOT_ENTITLED), FaultClass::Denied);
    Reason { remedy: NEW_POD.into(), ..denied }
}

/// The reason for usage that has not been billed for longer than `on_unsent` allows.
#[must_use]
pub fn unreported(why: Unreported) -> Reason {
    let code = match why {
        Unreported::NotAccepted => "UsageUnreported",
        Unreported::NotTaken => "UsageNotTaken",
    };
    Reason::of(FaultCode::known(code), FaultClass::Denied)
}

const NEW_POD: &str = "Subscribe to the product in AWS Marketplace with the account that runs this pod, then replace the pod: \
                       this one does not ask again.";

/// All codes of the two tables, for the test that each has its section in the runbook.
pub fn codes() -> impl Iterator<Item = &'static str> {
    exceptions::all().map(|exception| exception.name).chain(CATALOGUE.iter().map(|(code, ..)| *code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_fits_the_line_of_probe() {
        let places = [Place::Metering, Place::LicenseManager];
        for (code, place) in codes().flat_map(|code| places.map(|place| (code, place))) {
            let (message, remedy) = text(code, place).unwrap();
            let line = crate::entitlement::line(
                "misconfigured",
                Some((code, message, remedy)),
                Some("2026-11-24T08:00:00Z"),
            );
            assert!(!line.contains('…'), "{code}: {} bytes", line.len());
            assert!(!message.contains('\n') && !remedy.contains("  "), "{code}");
        }
    }

    /// The last line of a process that ends must not say that it will try again.
    #[test]
    fn the_last_remedy_promises_no_further_attempt() {
        let classes =
            [FaultClass::Denied, FaultClass::Misconfigured, FaultClass::Access, FaultClass::Transient];
        let places = [
            Place::Metering,
            Place::LicenseManager,
            Place::Sts,
            Place::Container,
            Place::Imds,
            Place::TaskMetadata,
            Place::Proxy,
        ];
        for code in codes() {
            for (class, place) in classes.into_iter().flat_map(|class| places.map(|place| (class, place))) {
                let fault = Fault::local(class, "", "detail").at(place, Some("host".to_owned()));
                let reason = Reason::new(&Fault { code: FaultCode::known(code), ..fault }.seeing("seen"));
                assert!(
                    !reason.message.contains(['{', '<']) && !reason.remedy.contains(['{', '<']),
                    "{reason:?}"
                );
                let last = reason.last_remedy();
                for promise in ["retries", "continue", "asked again", "is seen", "Wait", "  "] {
                    assert!(!last.contains(promise) && last.ends_with('.'), "{code}: {last}");
                }
            }
        }
    }

    #[test]
    fn every_code_has_its_section_in_the_runbook() {
        let runbook = include_str!("../../docs/RUNBOOK.md");
        let verifier = tollgate_receipt::VerifyError::ALL.iter().map(|error| error.code());
        let lines = [
            "NoAnswerYet",
            "ProbeUnreachable",
            "NotTollgate",
            "AnotherPod",
            "InvalidConfiguration",
            "CannotListen",
            "GateOpen",
            "OutputUnwritable",
        ];
        for code in codes().chain(verifier).chain(lines) {
            assert!(runbook.contains(&format!("\n### {code}\n")), "{code}");
        }
    }

    #[test]
    fn codes_are_unique_and_plain() {
        let all: Vec<_> = codes().collect();
        let unique: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(all.len(), unique.len());
        for code in all {
            assert_eq!(FaultCode::from_wire(code).as_str(), code);
        }
    }

    #[test]
    fn a_name_that_aws_invents_tomorrow_still_has_a_text() {
        let reason = Reason::of(FaultCode::from_wire("BrandNewException"), FaultClass::Misconfigured);
        assert_eq!(reason.code.as_str(), "BrandNewException");
        assert!(!reason.remedy.is_empty());
    }
}
