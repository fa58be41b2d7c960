//! Whether one of the licenses that AWS lists is valid for this product, and how much of it is taken.

use super::{Finding, remedy};
use crate::license::judge::{Listing, Model, Refusal, Terms};
use crate::license::machine::reason_of;
use tollgate_marketplace::Place;
use tollgate_marketplace::license::{Entitlement, LicenseUsage, ReceivedLicense};
use tollgate_time::Timestamp;

/// Most licenses that are shown; an account rarely has as many of one product, even with private offers and renewals.
const SHOWN_MAX: usize = 5;

/// Findings about the listed licenses and the verdict on them, and the ARN of the license that counts.
#[must_use]
pub fn licenses(
    terms: &Terms,
    listed: Vec<ReceivedLicense>,
    now: Timestamp,
) -> (Vec<Finding>, Option<String>) {
    let mut findings: Vec<Finding> = listed
        .iter()
        .take(SHOWN_MAX)
        .map(|license| Finding::ok("received license", described(license)))
        .collect();
    if let Some(more) = listed.len().checked_sub(SHOWN_MAX).filter(|more| *more > 0) {
        findings.push(Finding::ok("received license", format!("and {more} more")));
    }
    let check = "license";
    let chosen = terms.choose(&Listing::Shown(listed), now);
    let (verdict, arn) = match chosen.and_then(|choice| choice.map(|choice| choice.listed()).transpose()) {
        Err(refused) => {
            let reason = reason_of(&refused);
            let seen = format!("{}: {}", reason.code, reason.message);
            (Finding::fault(check, reason.code.as_str(), seen, reason.remedy), None)
        }
        Ok(None) => (
            Finding::warning(check, "the license and the settings name no entitlement to check out", ""),
            None,
        ),
        Ok(Some(granted)) => {
            let arn = granted.arn().map(str::to_owned);
            let counts = plain(granted.arn().unwrap_or_default());
            let verdict = match granted.note().as_ref().map(reason_of) {
                Some(reason) => {
                    Finding::warning(check, format!("{counts}: {}", reason.message), reason.remedy)
                }
                None => Finding::ok(check, format!("{counts} has what the product asks for")),
            };
            (verdict, arn)
        }
    };
    findings.push(verdict);
    (findings, arn)
}

/// How much of the license all pods have taken. In model `floating` a new pod waits if too few seats are left.
#[must_use]
pub fn seats(terms: &Terms, usage: &LicenseUsage) -> Finding {
    let check = "seats";
    let counts =
        |name: &str| terms.wanted.is_empty() || terms.wanted.iter().any(|wanted| wanted.name == name);
    let counted = usage.entitlements.iter().filter(|one| counts(&one.name) && one.unit != "None");
    let (mut shown, mut short) = (Vec::new(), false);
    for one in counted {
        let max = one.max_count.filter(|max| *max > 0);
        let of = max.map_or_else(|| "no limit".to_owned(), |max| max.to_string());
        shown.push(format!("{}: {} of {of} {} taken", plain(&one.name), one.consumed, plain(&one.unit)));
        short |= max.is_some_and(|max| max.saturating_sub(one.consumed) < u64::from(terms.seats_per_pod));
    }
    let seen = if shown.is_empty() { "no counted entitlement".to_owned() } else { shown.join(", ") };
    if short && terms.model == Model::Floating {
        let remedy = remedy(Refusal::Exhausted.code(), Place::LicenseManager, "");
        return Finding::warning(check, format!("{seen}: the next pod gets none"), remedy);
    }
    Finding::ok(check, seen)
}

fn described(license: &ReceivedLicense) -> String {
    let begin = license.begin.map_or_else(String::new, |begin| format!("from {begin} "));
    let end = license.end.map_or_else(|| "without an end".to_owned(), |end| format!("until {end}"));
    let home =
        license.home_region.as_deref().map_or_else(String::new, |home| format!(", of {}", plain(home)));
    let entitlements: Vec<String> = license.entitlements.iter().map(entitlement).collect();
    format!(
        "{} ({:?}, here {:?}) {begin}{end}{home}: {}",
        plain(&license.arn),
        license.status,
        license.received,
        entitlements.join(", ")
    )
}

fn entitlement(entitlement: &Entitlement) -> String {
    let name = plain(&entitlement.name);
    let Some(unit) = entitlement.unit else { return format!("{name} (in a unit that is not known)") };
    if unit.is_tier() {
        return format!("{name} (a tier)");
    }
    match entitlement.max_count.filter(|max| *max > 0) {
        Some(max) => format!("{name} {max} {unit}"),
        None => format!("{name} without limit ({unit})"),
    }
}

/// A text of AWS's without control characters, for a line of ours.
fn plain(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::doctor::Verdict;
    use tollgate_marketplace::KeyFingerprint;
    use tollgate_marketplace::license::{EntitlementUsage, LicenseStatus, Received, Unit};

    fn terms(model: Model, wanted: &str) -> Terms {
        Terms {
            product_id: "prod-demo".parse().unwrap(),
            key_fingerprint: KeyFingerprint::AWS_MARKETPLACE,
            model,
            wanted: wanted.split_whitespace().map(|wanted| wanted.parse().unwrap()).collect(),
            seats_per_pod: 1,
            end_grace: Duration::from_secs(3600),
        }
    }

    fn license(end: Option<i64>) -> ReceivedLicense {
        let entitlement = |name: &str, unit, max_count| Entitlement {
            name: name.to_owned(),
            unit: Some(unit),
            max_count,
            value: None,
            overage: false,
            allow_check_in: true,
        };
        ReceivedLicense {
            arn: "arn:aws:license-manager::294406891311:license:l-1\n".to_owned(),
            product_id: "prod-demo".to_owned(),
            key_fingerprint: KeyFingerprint::AWS_MARKETPLACE.as_str().to_owned(),
            status: LicenseStatus::Available,
            received: Received::Active,
            begin: Some(Timestamp::from_unix_seconds(0)),
            end: end.map(Timestamp::from_unix_seconds),
            entitlements: vec![
                entitlement("users", Unit::COUNT, Some(10)),
                entitlement("nodes", Unit::COUNT, Some(0)),
                entitlement("premium", Unit::NONE, None),
            ],
            home_region: Some("us-east-1".to_owned()),
            time_to_live_max: None,
        }
    }

    #[test]
    fn the_listing_is_shown_and_judged_as_the_sidecar_judges_it() {
        let now = Timestamp::from_unix_seconds(10_000);
        let judged = |wanted: &str, listed: Vec<ReceivedLicense>| {
            let (mut findings, arn) = licenses(&terms(Model::Check, wanted), listed, now);
            (findings.pop().unwrap(), arn, findings)
        };
        let (verdict, arn, shown) = judged("users:Count:10 premium", vec![license(None)]);
        assert_eq!(verdict.verdict, Verdict::Ok, "{verdict:?}");
        assert_eq!(arn.as_deref(), Some("arn:aws:license-manager::294406891311:license:l-1\n"));
        assert_eq!(
            shown[0].seen,
            "arn:aws:license-manager::294406891311:license:l-1\u{fffd} (Available, here Active) from \
             1970-01-01T00:00:00Z without an end, of us-east-1: users 10 Count, nodes without limit (Count), premium (a \
             tier)"
        );
        let (verdict, ..) = judged("", vec![license(Some(9_000))]);
        assert_eq!(verdict.verdict, Verdict::Warning, "within license_end_grace: {verdict:?}");
        for (wanted, listed, code) in [
            ("", vec![], "NoLicense"),
            ("", vec![license(Some(1))], "LicenseEnded"),
            ("users:None", vec![license(None)], "UnitMismatch"),
            ("seats", vec![license(None)], "NameMismatch"),
            ("users:Count:11", vec![license(None)], "QuantityTooSmall"),
        ] {
            let (verdict, arn, _) = judged(wanted, listed);
            assert_eq!(verdict.docs, Some(format!("tollgate explain {code}")), "{verdict:?}");
            assert!(verdict.verdict == Verdict::Fault && !verdict.remedy.is_empty() && arn.is_none());
        }
        let (_, _, shown) = judged("", vec![license(None); 8]);
        assert_eq!((shown.len(), shown[5].seen.as_str()), (6, "and 3 more"));
    }

    #[test]
    fn seats_that_are_all_taken_are_a_warning_where_pods_hold_them() {
        let usage = |consumed| LicenseUsage {
            entitlements: [("users", "Count"), ("premium", "None")]
                .map(|(name, unit)| EntitlementUsage {
                    name: name.to_owned(),
                    unit: unit.to_owned(),
                    consumed,
                    max_count: Some(10),
                })
                .into(),
            emulated: false,
        };
        for (model, consumed, verdict) in [
            (Model::Floating, 9, Verdict::Ok),
            (Model::Floating, 10, Verdict::Warning),
            (Model::Floating, 11, Verdict::Warning),
            (Model::Check, 10, Verdict::Ok),
        ] {
            let finding = seats(&terms(model, ""), &usage(consumed));
            assert_eq!(finding.verdict, verdict, "{finding:?}");
            assert!(finding.seen.starts_with(&format!("users: {consumed} of 10 Count taken")), "{finding:?}");
            assert!(!finding.seen.contains("premium"));
        }
        assert_eq!(seats(&terms(Model::Floating, "nodes"), &usage(10)).seen, "no counted entitlement");
    }
}
