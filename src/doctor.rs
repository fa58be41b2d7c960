//! What `tollgate doctor` makes of what it saw: facts in, findings out. Pure; the command gathers the facts.
//!
//! It must not know how the facts were gathered. Texts are for operators; codes lead to `docs/RUNBOOK.md`.

use serde::Serialize;

use crate::config::Mode;
use crate::entitlement::reason::runbook;
use crate::marketplace::aws::CredentialSource;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It may work, or it does not matter now.
    Warning,
    /// The gate will not open like this.
    Fault,
}

/// One check with its outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was checked.
    pub check: &'static str,
    /// How it came out.
    pub verdict: Verdict,
    /// What was seen.
    pub seen: String,
    /// What to do; empty where nothing needs doing.
    pub remedy: String,
    /// The section of the runbook, where there is one.
    pub docs: Option<String>,
}

impl Finding {
    /// As it should be.
    #[must_use]
    pub fn ok(check: &'static str, seen: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, seen: seen.into(), remedy: String::new(), docs: None }
    }

    /// It may work.
    #[must_use]
    pub fn warning(check: &'static str, seen: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Warning, seen: seen.into(), remedy: remedy.into(), docs: None }
    }

    /// It will not work; `code` is the one that the sidecar would show.
    #[must_use]
    pub fn fault(
        check: &'static str,
        code: &str,
        seen: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let docs = Some(runbook(code));
        Self { check, verdict: Verdict::Fault, seen: seen.into(), remedy: remedy.into(), docs }
    }
}

/// The environment of the credentials, as far as AWS's rules depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    /// The endpoint of the ECS agent.
    Ecs,
    /// The endpoint of the EKS Pod Identity agent.
    PodIdentity,
    /// No container endpoint is named.
    None,
}

impl Container {
    /// From the variables that name the endpoint (AWS SDK reference, "Container credential provider"; EKS user guide,
    /// "How EKS Pod Identity works": the agent answers at 169.254.170.23 and fd00:ec2::23).
    #[must_use]
    pub fn of(relative_uri: Option<&str>, full_uri: Option<&str>) -> Self {
        match (relative_uri, full_uri) {
            (_, Some(uri)) if uri.contains("169.254.170.23") || uri.contains("fd00:ec2::23") => {
                Self::PodIdentity
            }
            (Some(_), _) | (_, Some(_)) => Self::Ecs,
            (None, None) => Self::None,
        }
    }
}

const IRSA: &str = "EKS: annotate the service account with eks.amazonaws.com/role-arn (IRSA) and recreate the pod. \
                    ECS: set taskRoleArn.";

/// AWS's rule for a source of credentials (AWS Marketplace seller guide, "Container products": IRSA on EKS, the task
/// role on ECS; Pod Identity, node roles and long-term keys are not supported by these calls).
#[must_use]
pub fn credentials(source: CredentialSource, container: Container, mode: Mode) -> Finding {
    let check = "credentials";
    let seen = source.describe();
    if mode == Mode::Saas {
        return Finding::ok(
            check,
            format!("{seen}; in mode saas any credentials of the seller's own account will do"),
        );
    }
    match (source, container) {
        (CredentialSource::WebIdentity, _) => Finding::ok(check, format!("{seen}: what AWS asks for on EKS")),
        (CredentialSource::Container, Container::PodIdentity) => Finding::fault(
            check,
            "PlatformNotSupportedException",
            "EKS Pod Identity: AWS does not support it for metering",
            format!("Use IRSA instead. {IRSA}"),
        ),
        (CredentialSource::Container, _) => Finding::ok(check, "ECS task role: what AWS asks for on ECS"),
        (CredentialSource::Imds, _) => Finding::fault(
            check,
            "PlatformNotSupportedException",
            "the node's role (IMDS): AWS cannot see the pod behind it",
            IRSA,
        ),
        (CredentialSource::Environment | CredentialSource::Profile, _) => Finding::fault(
            check,
            "PlatformNotSupportedException",
            format!("{seen}: AWS does not support long-term keys for metering"),
            IRSA,
        ),
        (CredentialSource::Other, _) => {
            Finding::warning(check, seen, format!("It may not be what AWS accepts for metering. {IRSA}"))
        }
    }
}

/// Requests are valid for five minutes; a minute is a clock that nobody looks after.
const SKEW_SECONDS_ODD: i64 = 60;
const SKEW_SECONDS_MAX: i64 = 300;

/// AWS's clock less ours.
#[must_use]
pub fn clock(offset_seconds: Option<i64>) -> Finding {
    let check = "clock";
    let remedy = "Synchronise the node's clock (NTP; on EC2 the Amazon Time Sync Service).";
    match offset_seconds {
        None => Finding::warning(check, "the endpoint sent no Date to compare with", ""),
        Some(offset) if offset.abs() > SKEW_SECONDS_MAX => {
            Finding::fault(check, "RequestTimeTooSkewed", format!("{offset} s from the endpoint's"), remedy)
        }
        Some(offset) if offset.abs() > SKEW_SECONDS_ODD => {
            Finding::warning(check, format!("{offset} s from the endpoint's"), remedy)
        }
        Some(offset) => Finding::ok(check, format!("{offset} s from the endpoint's")),
    }
}

/// The least that the role must allow for a mode.
#[must_use]
pub fn least_policy(mode: Mode) -> serde_json::Value {
    let actions: &[&str] = match mode {
        Mode::Hourly => &["aws-marketplace:RegisterUsage"],
        Mode::Metered => &["aws-marketplace:MeterUsage"],
        Mode::Saas => &["aws-marketplace:BatchMeterUsage", "aws-marketplace:ResolveCustomer"],
    };
    serde_json::json!({
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn awss_rule_for_each_source() {
        use CredentialSource as Source;
        for (source, container, mode, verdict) in [
            (Source::WebIdentity, Container::None, Mode::Hourly, Verdict::Ok),
            (Source::Container, Container::Ecs, Mode::Hourly, Verdict::Ok),
            (Source::Container, Container::PodIdentity, Mode::Hourly, Verdict::Fault),
            (Source::Container, Container::PodIdentity, Mode::Saas, Verdict::Ok),
            (Source::Imds, Container::None, Mode::Metered, Verdict::Fault),
            (Source::Environment, Container::None, Mode::Hourly, Verdict::Fault),
            (Source::Profile, Container::None, Mode::Hourly, Verdict::Fault),
            (Source::Other, Container::None, Mode::Hourly, Verdict::Warning),
        ] {
            let finding = credentials(source, container, mode);
            assert_eq!(finding.verdict, verdict, "{source:?} {container:?} {mode}");
            assert_eq!(finding.remedy.is_empty(), verdict == Verdict::Ok);
        }
    }

    #[test]
    fn the_container_endpoint_tells_ecs_from_pod_identity() {
        assert_eq!(Container::of(None, None), Container::None);
        assert_eq!(Container::of(Some("/v2/credentials/id"), None), Container::Ecs);
        let full = |uri| Container::of(None, Some(uri));
        assert_eq!(full("http://169.254.170.2/v2/credentials"), Container::Ecs);
        assert_eq!(full("http://169.254.170.23/v1/credentials"), Container::PodIdentity);
        assert_eq!(full("http://[fd00:ec2::23]/v1/credentials"), Container::PodIdentity);
    }

    #[test]
    fn clocks() {
        for (offset, verdict) in [
            (Some(0), Verdict::Ok),
            (Some(-60), Verdict::Ok),
            (Some(61), Verdict::Warning),
            (Some(-301), Verdict::Fault),
            (None, Verdict::Warning),
        ] {
            assert_eq!(clock(offset).verdict, verdict, "{offset:?}");
        }
    }
}
