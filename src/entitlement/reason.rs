//! Why the gate is shut and what to do, by fault code: AWS's names from their table, ours from the catalogue below.
//!
//! The texts are ours, never AWS's: AWS's messages name accounts and roles, and these are shown to whoever can reach
//! the probe port. Every code has its section in `docs/RUNBOOK.md`, named by the code in lower case.

use std::borrow::Cow;

use serde::Serialize;

use crate::marketplace::exceptions::{self, ROLE, WAIT};
use crate::marketplace::{FaultClass, FaultCode};

/// What is wrong and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// AWS's exception name, or ours.
    pub code: FaultCode,
    /// What happened, one sentence.
    pub message: Cow<'static, str>,
    /// What to do, one or two sentences.
    pub remedy: Cow<'static, str>,
    /// The section of the runbook.
    pub docs: String,
}

impl Reason {
    /// The catalogue's entry for `code`, or for its class where AWS used a name that the catalogue does not hold.
    #[must_use]
    pub fn of(code: FaultCode, class: FaultClass) -> Self {
        let (message, remedy) = text(code.as_str()).unwrap_or_else(|| fallback(class));
        Self { docs: runbook(code.as_str()), code, message: message.into(), remedy: remedy.into() }
    }

    /// The entry for a code of our own source.
    #[must_use]
    pub fn known(code: &'static str, class: FaultClass) -> Self {
        Self::of(FaultCode::known(code), class)
    }
}

/// Message and remedy of a code: AWS's names from their table, ours from the catalogue.
fn text(code: &str) -> Option<(&'static str, &'static str)> {
    let ours =
        || CATALOGUE.iter().find(|(known, ..)| *known == code).map(|&(_, message, remedy)| (message, remedy));
    exceptions::find(code).map(|exception| (exception.message, exception.remedy)).or_else(ours)
}

/// Where a code is explained.
#[must_use]
pub fn runbook(code: &str) -> String {
    format!("docs/RUNBOOK.md#{}", code.to_ascii_lowercase())
}

const fn fallback(class: FaultClass) -> (&'static str, &'static str) {
    match class {
        FaultClass::Denied => {
            ("AWS refuses the use of this product.", "Check the subscription in AWS Marketplace.")
        }
        FaultClass::Misconfigured => (
            "AWS rejects the request.",
            "Check product code, public key version and region; the runbook explains the exception.",
        ),
        FaultClass::Access => ("AWS does not accept the credentials of this pod.", ROLE),
        FaultClass::ExpiredSession => ("The session token has expired.", "Wait: it is being renewed."),
        FaultClass::Transient => ("AWS could not answer.", WAIT),
    }
}

const NETWORK: &str = "Allow HTTPS to metering.marketplace.<region>.amazonaws.com, by NAT, proxy or VPC endpoint; it is asked again.";

/// Code, message, remedy of what AWS did not name.
const CATALOGUE: &[(&str, &str, &str)] = &[
    ("CredentialsMissing", "There are no AWS credentials in this pod.", ROLE),
    (
        "WebIdentityTokenUnreadable",
        "The pod's web identity token cannot be read.",
        "Set securityContext.fsGroup (for example 65532) so that the container's user may read \
         AWS_WEB_IDENTITY_TOKEN_FILE.",
    ),
    (
        "AssumeRoleRefused",
        "STS refuses to let this service account assume its IAM role.",
        "Check the role's trust policy: the cluster's OIDC provider, the audience sts.amazonaws.com and the subject \
         system:serviceaccount:<namespace>:<name>.",
    ),
    (
        "CredentialsUnavailable",
        "The source of the pod's credentials does not answer.",
        "Allow HTTPS to STS in this region, by NAT, proxy or VPC endpoint; it is asked again.",
    ),
    (
        "RegionUnknown",
        "The AWS region of this pod cannot be found out.",
        "Set AWS_REGION on the container (IRSA does so by itself), or let it reach the ECS task metadata or IMDS.",
    ),
    ("Timeout", "AWS did not answer in time.", NETWORK),
    ("ConnectTimeout", "No connection to AWS in time.", NETWORK),
    ("Dns", "The name of AWS's endpoint does not resolve.", NETWORK),
    ("Connection", "The connection to AWS failed.", NETWORK),
    (
        "Tls",
        "The TLS connection to AWS could not be trusted.",
        "Behind a proxy that opens TLS, set AWS_CA_BUNDLE to its CA certificate (PEM).",
    ),
    ("MissingSignature", "AWS accepted the call but sent no signature.", WAIT),
    ("InvalidAnswer", "What answered in AWS's place makes no sense.", NETWORK),
    (
        "EmulatedToken",
        "The token comes from the tollgate emulator, which this build or configuration does not accept.",
        "Remove the endpoint override, so that AWS itself is asked.",
    ),
    (
        "UsageUnreported",
        "AWS has not accepted this pod's usage for longer than the seller allows.",
        "Run `tollgate ledger list`: it names AWS's answer to each record. Restore the way to AWS, or replay the dead \
         letters; the gate opens when AWS has accepted them.",
    ),
    (
        "NoEntropy",
        "The node gives no random numbers, so no fresh nonce can be made.",
        "Check the node: getrandom must work. It is asked again.",
    ),
    (
        "UnknownKeyVersion",
        "The seller's public key of this version is not in the image.",
        "Tell the seller of this product; the seller checks public_keys.",
    ),
];

/// A token that failed verification; `code` is the verifier's own word for what is wrong.
#[must_use]
pub fn unverified(code: &'static str) -> Reason {
    if let Some(&(_, message, remedy)) = CATALOGUE.iter().find(|(known, ..)| *known == code) {
        return Reason {
            code: FaultCode::known(code),
            message: message.into(),
            remedy: remedy.into(),
            docs: runbook(code),
        };
    }
    Reason {
        code: FaultCode::known(code),
        message: "The answer to RegisterUsage failed verification against the seller's public key.".into(),
        remedy: "Check what answers in AWS's place (endpoint, proxy). Tell the seller of this product; the seller \
        checks \
                 the public key of this version."
            .into(),
        docs: runbook(code),
    }
}

/// AWS called the pod not entitled, and the seller wants no second question of it (`after_denial = "new-pod"`).
#[must_use]
pub fn denied_until_a_new_pod() -> Reason {
    let denied = Reason::of(FaultCode::known("CustomerNotEntitledException"), FaultClass::Denied);
    Reason { remedy: NEW_POD.into(), ..denied }
}

/// AWS has not accepted the pod's usage for longer than `on_unsent` allows.
#[must_use]
pub fn unreported() -> Reason {
    Reason::of(FaultCode::known("UsageUnreported"), FaultClass::Denied)
}

const NEW_POD: &str = "Subscribe to the product in AWS Marketplace with the account that runs this pod, then replace the pod: \
                       this one does not ask again.";

/// The codes of table and catalogue, for the test that each has its section in the runbook.
pub fn codes() -> impl Iterator<Item = &'static str> {
    exceptions::all().map(|exception| exception.name).chain(CATALOGUE.iter().map(|(code, ..)| *code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_fits_the_line_of_probe() {
        for code in codes() {
            let (message, remedy) = text(code).unwrap();
            let line = crate::entitlement::line(
                "misconfigured",
                Some((code, message, remedy)),
                Some("2026-11-24T08:00:00Z"),
            );
            assert!(!line.contains('…'), "{code}: {} bytes", line.len());
            assert!(!message.contains('\n') && !remedy.contains("  "), "{code}");
        }
    }

    #[test]
    fn every_code_has_its_section_in_the_runbook() {
        let runbook = include_str!("../../docs/RUNBOOK.md");
        let verifier = crate::receipt::VerifyError::ALL.iter().map(|error| error.code());
        let lines = [
            "NoAnswerYet",
            "ProbeUnreachable",
            "NotTollgate",
            "AnotherPod",
            "InvalidConfiguration",
            "CannotListen",
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
