//! Decides the findings of `tollgate doctor`: facts in, findings out. Pure; the command gathers the facts.
//!
//! It must not know how the facts were gathered. Texts are for operators; codes lead to the runbook.

pub mod credentials;
pub mod disk;
pub mod license;

use serde::Serialize;

use crate::config::Mode;
use crate::entitlement::Reason;
use crate::runbook;
use credentials::Container;
use tollgate_aws::{CredentialSource, Reached};
use tollgate_marketplace::{Fault, FaultClass, Place, Region, exceptions};

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing needs to be done.
    Ok,
    /// It may work, or it does not matter now.
    Warning,
    /// The gate will not open like this, or usage will not be taken.
    Fault,
}

/// One check with its outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was checked.
    pub check: &'static str,
    /// The result.
    pub verdict: Verdict,
    /// What was seen.
    pub seen: String,
    /// What to do; may be empty.
    pub remedy: String,
    /// Where the code is explained, if there is one.
    pub docs: Option<String>,
}

impl Finding {
    /// A check that passed.
    #[must_use]
    pub fn ok(check: &'static str, seen: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, seen: seen.into(), remedy: String::new(), docs: None }
    }

    /// A check that may not matter.
    #[must_use]
    pub fn warning(check: &'static str, seen: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Warning, seen: seen.into(), remedy: remedy.into(), docs: None }
    }

    /// A check that failed; `code` is the one that the sidecar would show.
    #[must_use]
    pub fn fault(
        check: &'static str,
        code: &str,
        seen: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let docs = Some(runbook::command(code));
        Self { check, verdict: Verdict::Fault, seen: seen.into(), remedy: remedy.into(), docs }
    }

    /// Whether the check failed.
    #[must_use]
    pub fn is_fault(&self) -> bool {
        self.verdict == Verdict::Fault
    }

    /// Adds `more` to what was seen.
    #[must_use]
    pub fn seeing(mut self, more: &str) -> Self {
        self.seen = format!("{} ({more})", self.seen);
        self
    }

    /// Names the seller's runbook instead of `tollgate explain`, if the seller publishes one.
    #[must_use]
    pub fn with_docs_url(mut self, url: Option<&str>) -> Self {
        if let (Some(url), Some(docs)) = (url, &mut self.docs) {
            *docs = docs.replacen(runbook::COMMAND, url, 1);
        }
        self
    }

    /// Turns a fault into a warning: a stand-in for AWS may accept what AWS would refuse.
    #[must_use]
    pub fn before_a_stand_in(mut self) -> Self {
        if self.verdict == Verdict::Fault {
            self.verdict = Verdict::Warning;
            self.seen.push_str(" (endpoint_url names a stand-in for AWS, which may be less strict)");
        }
        self
    }
}

/// Compares the region that is called with the one in which, by the platform, the pod runs.
///
/// AWS requires `RegisterUsage` and `MeterUsage` in the region of the pod or task (AWS Marketplace seller guide); the
/// seller's own reports of mode `saas` may come from anywhere, and License Manager is called where the license is.
#[must_use]
pub fn region(configured: Option<(&Region, &str)>, platform: Option<(&Region, &str)>, mode: Mode) -> Finding {
    let check = "region";
    match (configured, platform) {
        (None, None) => Finding::fault(
            check,
            "RegionUnknown",
            "unknown: no region is set, and neither the ECS task metadata nor IMDS answers",
            "Set AWS_REGION on the container (IRSA does so by itself); IMDS is often out of a pod's reach because the \
             node's hop limit is 1.",
        ),
        (None, Some((region, source))) => Finding::ok(check, format!("{}, from {source}", region.as_str())),
        (Some((region, origin)), None) => Finding::ok(
            check,
            format!(
                "{} ({origin}); not compared: the platform does not say where the pod runs",
                region.as_str()
            ),
        ),
        (Some((region, origin)), Some((found, source))) if region == found => {
            Finding::ok(check, format!("{} ({origin}), as {source} says", region.as_str()))
        }
        (Some((region, origin)), Some((found, source))) => {
            let seen = format!(
                "{} ({origin}), but {source} says that the pod runs in {}",
                region.as_str(),
                found.as_str()
            );
            if !mode.asks_where_it_runs() {
                return Finding::ok(check, seen);
            }
            let remedy = format!("Set it to {}, or remove it so that it is discovered.", found.as_str());
            Finding::fault(check, exceptions::INVALID_REGION, seen, remedy)
        }
    }
}

/// The remedy of the reason `code`, for a `host` that does not answer.
#[must_use]
pub fn remedy(code: &'static str, place: Place, host: &str) -> String {
    let fault = Fault::local(FaultClass::Transient, code, "").at(place, Some(host.to_owned()));
    Reason::of_fault(&fault).remedy.into_owned()
}

/// Whether AWS, the emulator or something else answered at `host`.
#[must_use]
pub fn answer(place: Place, host: &str, reached: &Reached) -> Finding {
    let check = "answer";
    match reached {
        Reached { emulated: true, .. } => {
            Finding::ok(check, format!("{host} is the tollgate emulator, not AWS"))
        }
        Reached { by_aws: true, .. } => Finding::ok(check, format!("{host} answers as AWS does")),
        Reached { seen, .. } => Finding::fault(
            check,
            "InvalidAnswer",
            format!("{host} does not answer as AWS does: {seen}"),
            remedy("InvalidAnswer", place, host),
        ),
    }
}

/// Whose credentials the pod has: the account by their source, the role by the service account.
#[must_use]
pub fn caller(
    source: CredentialSource,
    container: Container,
    account: Option<&str>,
    role: Option<&str>,
) -> Finding {
    let account =
        account.map_or_else(|| "account not stated".to_owned(), |account| format!("account {account}"));
    let role = match (source, role) {
        (CredentialSource::WebIdentity, Some(role)) => format!("role {role}"),
        (CredentialSource::Container, _) => format!("role not stated, from the {}", container.describe()),
        _ => format!("role not stated, from {}", source.describe()),
    };
    Finding::ok("caller", format!("{account}, {role}"))
}

/// The account in an ARN: `arn:partition:service:region:account:…` (AWS general reference, ARNs).
#[must_use]
pub fn account_of(arn: &str) -> Option<&str> {
    arn.split(':').nth(4).filter(|account| !account.is_empty())
}

/// Requests are valid for five minutes; a clock that is a minute off is not synchronised.
const SKEW_SECONDS_ODD: i64 = 60;
const SKEW_SECONDS_MAX: i64 = 300;

/// Judges the clock by AWS's time minus ours.
#[must_use]
pub fn clock(offset_seconds: Option<i64>) -> Finding {
    let check = "clock";
    let remedy = "Synchronise the node's clock (NTP; on EC2 the Amazon Time Sync Service).";
    let Some(offset) = offset_seconds else {
        return Finding::warning(check, "the endpoint sent no Date to compare with", "");
    };
    let side = if offset > 0 { "behind" } else { "ahead of" };
    let seen = match offset {
        0 => "the same as the endpoint's".to_owned(),
        _ => format!("{} s {side} the endpoint's", offset.unsigned_abs()),
    };
    if offset.abs() > SKEW_SECONDS_MAX {
        Finding::fault(check, exceptions::REQUEST_TIME_TOO_SKEWED, seen, remedy)
    } else if offset.abs() > SKEW_SECONDS_ODD {
        Finding::warning(check, seen, remedy)
    } else {
        Finding::ok(check, seen)
    }
}

/// What `doctor` does not check, because it makes no call that bills usage or takes seats.
#[must_use]
pub const fn unchecked(mode: Option<Mode>) -> &'static str {
    match mode {
        Some(Mode::Contract) => {
            "not checked, because a checkout takes seats: whether AWS would grant one, and whether the role allows \
             CheckoutLicense"
        }
        Some(Mode::Metered | Mode::Saas) => {
            "not checked, because doctor reports no usage: subscription, product code, dimensions, and whether the role \
             allows the calls"
        }
        Some(Mode::Hourly) | None => {
            "not checked, because RegisterUsage starts the billing: subscription, product code, key version, and whether the \
             role allows the call"
        }
    }
}

/// The smallest policy of the role for a mode.
#[must_use]
pub fn least_policy(mode: Mode) -> serde_json::Value {
    serde_json::json!({
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": mode.actions(), "Resource": "*"}],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_region_is_compared_with_the_pods_own() {
        let (frankfurt, virginia): (Region, Region) =
            ("eu-central-1".parse().unwrap(), "us-east-1".parse().unwrap());
        let set = Some((&frankfurt, "environment AWS_REGION"));
        let verdict = |configured, platform, mode| region(configured, platform, mode).verdict;
        assert_eq!(verdict(set, Some((&frankfurt, "IMDS")), Mode::Hourly), Verdict::Ok);
        assert_eq!(verdict(set, None, Mode::Hourly), Verdict::Ok);
        assert_eq!(verdict(None, Some((&virginia, "IMDS")), Mode::Metered), Verdict::Ok);
        assert_eq!(verdict(set, Some((&virginia, "IMDS")), Mode::Saas), Verdict::Ok);
        assert_eq!(verdict(set, Some((&virginia, "IMDS")), Mode::Contract), Verdict::Ok);
        assert_eq!(verdict(None, None, Mode::Contract), Verdict::Fault);
        let unknown = region(None, None, Mode::Hourly);
        assert_eq!(unknown.docs.as_deref(), Some("tollgate explain RegionUnknown"));
        let other = region(set, Some((&virginia, "IMDS")), Mode::Hourly);
        assert_eq!(other.verdict, Verdict::Fault);
        assert_eq!(
            other.seen,
            "eu-central-1 (environment AWS_REGION), but IMDS says that the pod runs in us-east-1"
        );
        assert!(other.remedy.starts_with("Set it to us-east-1"), "{}", other.remedy);
    }

    #[test]
    fn only_what_speaks_as_aws_is_taken_for_it() {
        let reached = |by_aws, emulated| Reached {
            clock_offset_seconds: None,
            emulated,
            by_aws,
            seen: "HTTP 200, Server nginx, Content-Type text/html".to_owned(),
        };
        for (by_aws, emulated, verdict) in
            [(true, false, Verdict::Ok), (false, true, Verdict::Ok), (false, false, Verdict::Fault)]
        {
            let finding = answer(Place::Metering, "metering.example", &reached(by_aws, emulated));
            assert_eq!(finding.verdict, verdict, "{finding:?}");
            assert!(finding.seen.contains("metering.example"), "{finding:?}");
        }
    }

    #[test]
    fn the_caller_is_named_as_far_as_it_is_known() {
        let role = "arn:aws:iam::111122223333:role/app";
        let seen = |source, account| caller(source, Container::Ecs, account, Some(role)).seen;
        assert_eq!(
            seen(CredentialSource::WebIdentity, Some("111122223333")),
            "account 111122223333, role arn:aws:iam::111122223333:role/app"
        );
        // The access keys take precedence over the role, and need not belong to it.
        assert_eq!(
            seen(CredentialSource::Environment, None),
            "account not stated, role not stated, from access keys in the environment"
        );
        let task = seen(CredentialSource::Container, Some("1"));
        assert_eq!(task, "account 1, role not stated, from the ECS task role");
        assert_eq!(account_of("arn:aws:ecs:us-east-1:111122223333:task/demo/1"), Some("111122223333"));
        assert_eq!((account_of("nonsense"), account_of("arn:aws:s3:::bucket")), (None, None));
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
        assert_eq!(clock(Some(301)).seen, "301 s behind the endpoint's");
        assert_eq!(clock(Some(-301)).seen, "301 s ahead of the endpoint's");
    }

    #[test]
    fn what_is_not_checked_is_said_of_the_mode_that_is_asked_about() {
        for (mode, says, never) in [
            (Mode::Hourly, "RegisterUsage", "CheckoutLicense"),
            (Mode::Metered, "dimensions", "RegisterUsage"),
            (Mode::Saas, "dimensions", "RegisterUsage"),
            // doctor does call CheckInLicense, with a token that does not exist.
            (Mode::Contract, "CheckoutLicense", "CheckInLicense"),
        ] {
            let said = unchecked(Some(mode));
            assert!(said.contains(says) && !said.contains(never), "{mode}: {said}");
        }
    }

    #[test]
    fn before_a_stand_in_a_fault_is_worth_a_warning() {
        let softened = Finding::fault("x", "Dns", "seen", "remedy").before_a_stand_in();
        assert_eq!((softened.verdict, softened.docs.is_some()), (Verdict::Warning, true));
        assert_eq!(Finding::ok("x", "seen").before_a_stand_in(), Finding::ok("x", "seen"));
    }
}
