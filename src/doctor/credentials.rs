//! AWS's rule for each source of credentials, and checks of a web identity token and of a license token.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::Value;

use super::Finding;
use crate::config::Mode;
use tollgate_aws::CredentialSource;
use tollgate_disk::describe;
use tollgate_marketplace::exceptions;
use tollgate_time::Timestamp;

/// The container endpoint of the credentials, as far as AWS's rules depend on it.
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
    /// Its name in texts.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Ecs => "ECS task role",
            Self::PodIdentity => "EKS Pod Identity agent",
            Self::None => "container endpoint",
        }
    }

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
/// role on ECS; Pod Identity, node roles and long-term keys are not supported by these calls). `irsa` says that a web
/// identity token is configured too.
#[must_use]
pub fn rule(source: CredentialSource, container: Container, mode: Mode, irsa: bool) -> Finding {
    let check = "credentials";
    let seen = source.describe();
    if mode.is_run_by_seller() {
        return Finding::ok(
            check,
            format!("{seen}; in mode saas any credentials of the seller's own account will do"),
        );
    }
    if mode.asks_license_manager() {
        return of_contract(source, container, irsa);
    }
    let unsupported = |seen: String, remedy: String| {
        Finding::fault(check, exceptions::PLATFORM_NOT_SUPPORTED, seen, remedy)
    };
    match (source, container) {
        (CredentialSource::WebIdentity, _) => Finding::ok(check, format!("{seen}: what AWS asks for on EKS")),
        (CredentialSource::Container, Container::PodIdentity) => unsupported(
            "EKS Pod Identity: AWS does not support it for metering".to_owned(),
            format!("Remove the Pod Identity association and use IRSA instead. {IRSA}"),
        ),
        (CredentialSource::Container, _) => Finding::ok(check, "ECS task role: what AWS asks for on ECS"),
        (CredentialSource::Imds, _) => unsupported(
            "the node's role (IMDS): AWS cannot see the pod behind it".to_owned(),
            IRSA.to_owned(),
        ),
        (CredentialSource::Environment, _) if irsa => unsupported(
            format!("{seen}, which take precedence over the web identity (IRSA) that is also configured"),
            "Remove AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN from the container."
                .to_owned(),
        ),
        (CredentialSource::Profile, _) if irsa => unsupported(
            format!("{seen}, which takes precedence over the web identity (IRSA) that is also configured"),
            "Remove AWS_PROFILE, AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE from the container."
                .to_owned(),
        ),
        (CredentialSource::Environment | CredentialSource::Profile, _) => {
            unsupported(format!("{seen}: AWS does not support long-term keys for metering"), IRSA.to_owned())
        }
        (CredentialSource::LicenseToken, _) => Finding::ok(check, format!("{seen}: for pods outside AWS")),
        (CredentialSource::Other, _) => {
            Finding::warning(check, seen, format!("It may not be what AWS accepts for metering. {IRSA}"))
        }
    }
}

/// [`rule`] for License Manager, which accepts any credentials of the buyer's account whose policy allows the calls:
/// AWS's pages show IRSA and the task role, and exclude nothing.
fn of_contract(source: CredentialSource, container: Container, irsa: bool) -> Finding {
    let check = "credentials";
    let seen = source.describe();
    match (source, container) {
        (CredentialSource::Container, Container::PodIdentity) => {
            Finding::ok(check, "EKS Pod Identity: AWS excludes it for metering, not for License Manager")
        }
        (CredentialSource::Imds, _) => Finding::warning(
            check,
            "the node's role (IMDS), which every pod of the node has; without the policy License Manager answers \
             AuthorizationException",
            format!("Give the pod a role of its own. {IRSA}"),
        ),
        (CredentialSource::Environment | CredentialSource::Profile, _) if irsa => Finding::warning(
            check,
            format!("{seen}, used instead of the web identity (IRSA) that is also configured"),
            "If the pod's own role is meant, remove the access keys or the profile from the container.",
        ),
        _ => Finding::ok(check, format!("{seen}; License Manager takes any of the buyer's account")),
    }
}

/// The claims of a token that are checked here; none of them is secret.
#[derive(Deserialize)]
struct Claims {
    iss: Option<String>,
    sub: Option<String>,
    #[serde(default)]
    aud: Value,
    exp: Option<i64>,
}

/// STS's name as an audience (EKS user guide, "IAM roles for service accounts").
const AUDIENCE: &str = "sts.amazonaws.com";

/// Checks the projected token of IRSA: it reports what STS will check. The signature is left to STS.
#[must_use]
pub fn web_identity(path: &str, read: Result<&[u8], &io::Error>, now: Timestamp) -> Finding {
    let check = "web identity token";
    let invalid = |seen: &str, remedy: &str| {
        Finding::fault(check, "CredentialsFileInvalid", format!("{path} {seen}"), remedy)
    };
    let bytes = match read.map_err(|error| (error.kind(), error)) {
        Ok(bytes) => bytes,
        Err((io::ErrorKind::PermissionDenied, _)) => {
            return Finding::fault(
                check,
                "WebIdentityTokenUnreadable",
                format!("{path} may not be read by this container's user"),
                "Set securityContext.fsGroup on the pod, for example 65532.",
            );
        }
        Err((io::ErrorKind::NotFound, _)) => {
            return Finding::fault(
                check,
                "WebIdentityTokenMissing",
                format!("{path} does not exist, though AWS_WEB_IDENTITY_TOKEN_FILE names it"),
                "Recreate the pod, so that EKS's webhook mounts the token into this container too.",
            );
        }
        Err((_, error)) => {
            let seen = format!("cannot be read: {}", describe(error));
            return invalid(&seen, "Look at the volume aws-iam-token.");
        }
    };
    let Some(Claims { iss, sub, aud, exp }) = claims(bytes) else {
        return invalid(
            "is no token (JWT)",
            "Let EKS's webhook mount it: remove what else is mounted there.",
        );
    };
    let (issuer, subject) = (iss.as_deref().unwrap_or("none"), sub.as_deref().unwrap_or("none"));
    let seen = format!("subject {subject}, issuer {issuer}");
    let meant_for_sts = match &aud {
        Value::String(aud) => aud == AUDIENCE,
        Value::Array(all) => all.iter().any(|aud| aud == AUDIENCE),
        _ => false,
    };
    if !meant_for_sts {
        let remedy = "Let EKS's webhook mount the token, or set its audience to sts.amazonaws.com.";
        return Finding::fault(check, "AssumeRoleRefused", format!("{seen}: its audience is {aud}"), remedy);
    }
    if exp.is_some_and(|exp| Timestamp::from_unix_seconds(exp) <= now) {
        let remedy = "The kubelet renews it; look at the kubelet, and at the node's clock.";
        return Finding::fault(check, exceptions::EXPIRED_TOKEN, format!("{seen}: it has expired"), remedy);
    }
    Finding::ok(check, format!("{seen}: what the role's trust policy must name, with audience {AUDIENCE}"))
}

fn claims(token: &[u8]) -> Option<Claims> {
    let payload = token.split(|byte| *byte == b'.').nth(1)?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
}

/// Checks the license token of AWS Marketplace (AWS Marketplace seller guide, "AWS License Manager for container
/// products, Anywhere"): its audience is the license, and it is valid for a year. The signature is left to AWS.
#[must_use]
pub fn license_token(path: &str, read: Result<&[u8], &io::Error>, now: Timestamp) -> Finding {
    let check = "license token";
    let remedy = "Create a new token for the license in AWS License Manager, and replace the file.";
    let bytes = match read {
        Ok(bytes) => bytes,
        Err(error) => {
            let seen = format!("{path} cannot be read: {}", describe(error));
            return Finding::fault(check, "CredentialsFileInvalid", seen, remedy);
        }
    };
    let Some(Claims { aud, exp, .. }) = claims(bytes) else {
        return Finding::warning(
            check,
            format!("{path} is no token (JWT), as AWS Marketplace's are"),
            remedy,
        );
    };
    let audience = aud.as_str().map_or_else(|| aud.to_string(), str::to_owned);
    match exp.map(Timestamp::from_unix_seconds) {
        Some(end) if end <= now => {
            let seen = format!("{path} is for {audience} and has expired at {end}");
            Finding::fault(check, exceptions::EXPIRED_TOKEN, seen, remedy)
        }
        Some(end) => Finding::ok(check, format!("{path} is for {audience}, until {end}")),
        None => Finding::ok(check, format!("{path} is for {audience}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
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
            for irsa in [false, true] {
                let finding = rule(source, container, mode, irsa);
                assert_eq!(finding.verdict, verdict, "{source:?} {container:?} {mode}");
                assert_eq!(finding.remedy.is_empty(), verdict == Verdict::Ok);
            }
        }
        for (source, container, irsa, verdict) in [
            (Source::WebIdentity, Container::None, true, Verdict::Ok),
            (Source::Container, Container::Ecs, false, Verdict::Ok),
            (Source::Container, Container::PodIdentity, false, Verdict::Ok),
            (Source::Imds, Container::None, false, Verdict::Warning),
            (Source::Environment, Container::None, false, Verdict::Ok),
            (Source::Environment, Container::None, true, Verdict::Warning),
            (Source::Profile, Container::None, true, Verdict::Warning),
            (Source::Other, Container::None, false, Verdict::Ok),
        ] {
            let finding = rule(source, container, Mode::Contract, irsa);
            assert_eq!(finding.verdict, verdict, "{source:?} {container:?} {irsa}");
            assert_eq!(finding.remedy.is_empty(), verdict == Verdict::Ok);
        }
        let shadowed = rule(Source::Environment, Container::None, Mode::Hourly, true);
        assert!(shadowed.remedy.starts_with("Remove AWS_ACCESS_KEY_ID"), "{shadowed:?}");
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
    fn a_web_identity_token_is_judged_by_what_sts_will_look_at() {
        let now = Timestamp::from_unix_seconds(1_795_507_200);
        let token = |claims: &str| format!("e30.{}.x", URL_SAFE_NO_PAD.encode(claims)).into_bytes();
        let judged = |bytes: &[u8]| web_identity("/token", Ok(bytes), now);
        let good = judged(&token(
            r#"{"iss":"https://oidc.eks.us-east-1.amazonaws.com/id/1","sub":"system:serviceaccount:ns:app","aud":["sts.amazonaws.com"],"exp":1795510800}"#,
        ));
        assert_eq!(good.verdict, Verdict::Ok, "{good:?}");
        assert!(
            good.seen.contains("subject system:serviceaccount:ns:app, issuer https://oidc.eks"),
            "{good:?}"
        );
        for (bytes, code) in [
            (token(r#"{"aud":"pods.eks.amazonaws.com","exp":1795510800}"#), "AssumeRoleRefused"),
            (token(r#"{"exp":1795510800}"#), "AssumeRoleRefused"),
            (token(r#"{"aud":"sts.amazonaws.com","exp":1795507200}"#), "ExpiredToken"),
            (b"no token".to_vec(), "CredentialsFileInvalid"),
            (token("[]"), "CredentialsFileInvalid"),
        ] {
            let finding = judged(&bytes);
            assert_eq!(finding.docs, Some(format!("tollgate explain {code}")), "{finding:?}");
            assert!(finding.verdict == Verdict::Fault && !finding.remedy.is_empty());
        }
        for kind in [io::ErrorKind::PermissionDenied, io::ErrorKind::NotFound, io::ErrorKind::IsADirectory] {
            let finding = web_identity("/token", Err(&kind.into()), now);
            assert_eq!(finding.verdict, Verdict::Fault);
            assert_eq!(finding.remedy.contains("fsGroup"), kind == io::ErrorKind::PermissionDenied);
        }
    }

    #[test]
    fn a_license_token_says_for_which_license_it_is() {
        let now = Timestamp::from_unix_seconds(1_795_507_200);
        let token = |claims: &str| format!("e30.{}.x\n", URL_SAFE_NO_PAD.encode(claims)).into_bytes();
        let judged = |bytes: &[u8]| license_token("/token", Ok(bytes), now);
        let license = "arn:aws:license-manager::294406891311:license:l-1";
        let good = judged(&token(&format!(r#"{{"aud":"{license}","exp":1795507201}}"#)));
        assert_eq!(good.verdict, Verdict::Ok);
        assert_eq!(good.seen, format!("/token is for {license}, until 2026-11-24T08:00:01Z"));
        let ended = judged(&token(&format!(r#"{{"aud":["{license}"],"exp":1795507200}}"#)));
        assert_eq!(ended.docs.as_deref(), Some("tollgate explain ExpiredToken"), "{ended:?}");
        assert_eq!(judged(b"no token").verdict, Verdict::Warning);
        let gone = license_token("/token", Err(&io::ErrorKind::NotFound.into()), now);
        assert!(gone.verdict == Verdict::Fault && !gone.remedy.is_empty(), "{gone:?}");
    }
}
