//! Tables for the judge: licenses in, refusal or checkout out.

use super::*;
use tollgate_marketplace::license::ConsumptionToken;
use tollgate_marketplace::scripted::seats::{PRODUCT_ID, license};

const NOW: Timestamp = Timestamp::from_unix_seconds(1_795_507_200);
const HOUR: Duration = Duration::from_secs(3600);

fn terms(model: Model, wanted: &[&str]) -> Terms {
    Terms {
        product_id: PRODUCT_ID.parse().unwrap(),
        key_fingerprint: KeyFingerprint::AWS_MARKETPLACE,
        model,
        wanted: wanted.iter().map(|wanted| wanted.parse().unwrap()).collect(),
        seats_per_pod: 2,
        end_grace: 72 * HOUR,
    }
}

fn choose(terms: &Terms, licenses: &[ReceivedLicense]) -> Result<Choice, Refused> {
    terms.choose(&Listing::Shown(licenses.to_vec()), NOW).map(|choice| choice.expect("it was shown"))
}

fn why(terms: &Terms, licenses: &[ReceivedLicense]) -> Refusal {
    choose(terms, licenses).unwrap_err().why
}

fn good() -> ReceivedLicense {
    license("good", &[("users", 10), ("nodes", 0)], &["premium", "basic"])
}

fn taken(choice: &Choice) -> Vec<(&str, &str, Option<u64>)> {
    choice.take.iter().map(|taken| (taken.name.as_str(), taken.unit.as_str(), taken.value)).collect()
}

#[test]
fn each_cause_of_awss_one_refusal_has_its_own_name() {
    use LicenseStatus::{Deactivated, Deleted, Expired, PendingAvailable};
    use Received::{Disabled, Gone, PendingAccept};
    let of = |change: &dyn Fn(&mut ReceivedLicense)| {
        let mut license = good();
        change(&mut license);
        license
    };
    let ended = |ago: Duration| of(&|license| license.end = Some(NOW.minus(ago)));
    let all: &[&str] = &[];
    for (wanted, license, refusal) in [
        (all, of(&|license| license.received = PendingAccept), Refusal::NotActivated),
        (all, of(&|license| license.received = Disabled), Refusal::NotActivated),
        (all, of(&|license| license.received = Gone), Refusal::NoLicense),
        (all, of(&|license| license.status = Deactivated), Refusal::Deactivated),
        (all, of(&|license| license.status = Deleted), Refusal::NoLicense),
        (all, of(&|license| license.status = PendingAvailable), Refusal::NotYetValid),
        (all, of(&|license| license.begin = Some(NOW.plus(HOUR))), Refusal::NotYetValid),
        (all, ended(72 * HOUR), Refusal::Ended),
        (all, of(&|license| license.status = Expired), Refusal::Ended),
        (all, of(&|license| license.entitlements.clear()), Refusal::NameMismatch),
        (&["users:None"], good(), Refusal::UnitMismatch),
        (&["premium:Count"], good(), Refusal::UnitMismatch),
        (&["users:Seconds"], good(), Refusal::UnitMismatch),
        (&["users", "gold"], good(), Refusal::NameMismatch),
        (&["users:Count:11"], good(), Refusal::QuantityTooSmall),
        (all, of(&|license| license.product_id = "prod-other".into()), Refusal::NoLicense),
    ] {
        let license = std::slice::from_ref(&license);
        assert_eq!(why(&terms(Model::Check, wanted), license), refusal, "{wanted:?} {license:?}");
    }
    assert_eq!(why(&terms(Model::Check, &[]), &[]), Refusal::NoLicense);
}

/// Anybody can issue a license for the product in an account of their own.
#[test]
fn a_license_of_another_issuer_counts_as_absent() {
    let forged =
        ReceivedLicense { key_fingerprint: "aws:111122223333:Mine:issuer-fingerprint".into(), ..good() };
    assert_eq!(why(&terms(Model::Check, &[]), &[forged]), Refusal::NoLicense);
}

#[test]
fn every_refusal_has_its_text_and_says_what_was_seen() {
    let missing = choose(&terms(Model::Check, &["gold"]), &[good()]).unwrap_err();
    assert_eq!((missing.why.blame(), missing.seen.as_str()), (Blame::Misconfigured, "it lacks gold"));
    let unit = choose(&terms(Model::Check, &["users:None"]), &[good()]).unwrap_err();
    assert_eq!(unit.seen, "users: the license has Count, not None");
    let small = choose(&terms(Model::Check, &["users:Count:11"]), &[good()]).unwrap_err();
    assert_eq!((small.why.blame(), small.seen.as_str()), (Blame::Denied, "users: 10, and 11 are needed"));
}

#[test]
fn check_takes_one_of_each_counted_entitlement_or_else_the_tiers() {
    for (wanted, expected) in [
        (&[][..], &[("users", "Count", Some(1)), ("nodes", "Count", Some(1))][..]),
        (&["users:Count:10"], &[("users", "Count", Some(1))]),
        (&["users", "premium"], &[("users", "Count", Some(1))]),
        (&["premium:None", "basic"], &[("premium", "None", None), ("basic", "None", None)]),
    ] {
        let choice = choose(&terms(Model::Check, wanted), &[good()]).unwrap();
        assert_eq!((taken(&choice), choice.holds), (expected.to_vec(), false), "{wanted:?}");
    }
}

#[test]
fn floating_holds_the_pods_seats_of_each_counted_entitlement_and_proves_tiers() {
    for (wanted, expected, holds) in [
        (&[][..], &[("users", "Count", Some(2)), ("nodes", "Count", Some(2))][..], true),
        (&["users", "premium"], &[("users", "Count", Some(2))], true),
        (&["premium"], &[("premium", "None", None)], false),
    ] {
        let choice = choose(&terms(Model::Floating, wanted), &[good()]).unwrap();
        assert_eq!((taken(&choice), choice.holds), (expected.to_vec(), holds), "{wanted:?}");
    }
    let single = license("single", &[("users", 1)], &[]);
    assert_eq!(why(&terms(Model::Floating, &[]), std::slice::from_ref(&single)), Refusal::QuantityTooSmall);
    let mut overage = single;
    overage.entitlements[0].overage = true;
    assert!(choose(&terms(Model::Floating, &[]), &[overage]).is_ok());
}

/// Otherwise each round would leave a seat taken until the license is used up.
#[test]
fn check_takes_nothing_that_cannot_be_given_back() {
    let mut stuck = license("stuck", &[("users", 10)], &[]);
    stuck.entitlements[0].allow_check_in = false;
    let choice = choose(&terms(Model::Check, &[]), std::slice::from_ref(&stuck)).unwrap();
    assert!(choice.take.is_empty() && choice.without_checkout().is_ok());
    assert_eq!(
        taken(&choose(&terms(Model::Floating, &[]), &[stuck]).unwrap()),
        [("users", "Count", Some(2))]
    );
}

#[test]
fn of_two_licenses_any_good_one_will_do_and_the_longest_is_named() {
    let until = |arn: &str, end: Option<Timestamp>| ReceivedLicense { arn: arn.into(), end, ..good() };
    let (soon, late) = (NOW.plus(HOUR), NOW.plus(100 * HOUR));
    let disabled = ReceivedLicense { received: Received::Disabled, ..until("disabled", None) };
    let ended = until("ended", Some(NOW.minus(HOUR)));
    for (licenses, best) in [
        (vec![until("a", Some(soon)), until("b", Some(late))], "b"),
        (vec![until("b", Some(late)), until("a", Some(soon))], "b"),
        (vec![until("a", Some(late)), until("b", None)], "b"),
        (vec![disabled.clone(), until("a", Some(soon))], "a"),
        (vec![ended.clone(), until("a", Some(soon))], "a"),
        (vec![license("small", &[("nodes", 1)], &[]), until("a", Some(soon))], "a"),
    ] {
        let choice = choose(&terms(Model::Check, &["users"]), &licenses).unwrap();
        assert_eq!(choice.arn(), Some(best), "{licenses:?}");
    }
    let small = license("small", &[("users", 3)], &[]);
    for (licenses, nearest) in [
        (vec![disabled.clone(), small.clone()], Refusal::QuantityTooSmall),
        (vec![small, disabled], Refusal::QuantityTooSmall),
    ] {
        assert_eq!(why(&terms(Model::Check, &["users:Count:5"]), &licenses), nearest);
    }
}

#[test]
fn quantity_zero_is_without_limit() {
    let free = license("free", &[("users", 0)], &[]);
    assert!(choose(&terms(Model::Check, &["users:Count:1000000"]), &[free]).is_ok());
}

#[test]
fn an_ended_license_counts_for_its_grace_and_says_so() {
    let ended = ReceivedLicense { end: Some(NOW.minus(71 * HOUR)), ..good() };
    for model in [Model::Check, Model::Floating] {
        let expired = ReceivedLicense { status: LicenseStatus::Expired, ..ended.clone() };
        for license in [ended.clone(), expired] {
            let choice = choose(&terms(model, &["users"]), &[license]).unwrap();
            // AWS grants no checkout of a license that has ended.
            let granted = choice.without_checkout().unwrap();
            assert_eq!(granted.note().unwrap().why, Refusal::Ended);
        }
    }
}

#[test]
fn exhaustion_refuses_only_who_must_hold_seats() {
    let choice = |model| choose(&terms(model, &["users"]), &[good()]).unwrap();
    assert_eq!(choice(Model::Check).without_checkout().unwrap().note(), None);
    assert_eq!(choice(Model::Floating).without_checkout().unwrap_err().why, Refusal::Exhausted);
}

#[test]
fn without_a_listing_only_what_a_checkout_proves_can_be_asked_for() {
    let unseen = |model, wanted: &[&str]| terms(model, wanted).choose(&Listing::Hidden, NOW).unwrap();
    for wanted in [
        &[][..],
        &["users"],
        &["users:Count", "premium"],
        &["users:Count", "premium:None"],
        &["users:Count:10"],
    ] {
        assert_eq!(unseen(Model::Check, wanted), None, "{wanted:?}");
    }
    let choice = unseen(Model::Check, &["users:Count:1", "nodes:Count"]).unwrap();
    assert_eq!(taken(&choice), [("users", "Count", Some(1)), ("nodes", "Count", Some(1))]);
    let refused = choice.without_checkout().unwrap_err();
    assert_eq!((refused.why, refused.why.blame()), (Refusal::CauseUnknown, Blame::Denied));
    assert_eq!(taken(&unseen(Model::Check, &["premium:None"]).unwrap()), [("premium", "None", None)]);
    // A pod that takes two seats proves that the license has two.
    assert!(unseen(Model::Floating, &["users:Count:2"]).is_some());
}

#[test]
fn a_tier_that_aws_refuses_is_no_exhaustion() {
    for model in [Model::Check, Model::Floating] {
        let choice = choose(&terms(model, &["premium"]), &[good()]).unwrap();
        assert_eq!(choice.without_checkout().unwrap_err().why, Refusal::CauseUnknown, "{model:?}");
    }
}

#[test]
fn a_license_that_is_not_active_yet_opens_by_nothing_but_a_checkout() {
    let in_work = ReceivedLicense { received: Received::InWork, ..good() };
    let choice = choose(&terms(Model::Check, &["users"]), &[in_work]).unwrap();
    assert_eq!(choice.without_checkout().unwrap_err().why, Refusal::NotActivated);
}

#[test]
fn a_license_that_another_region_may_hold_is_asked_for_all_the_same() {
    let terms = terms(Model::Floating, &["users:Count"]);
    let choice = choose(&terms, &[]).unwrap();
    assert_eq!((taken(&choice), choice.arn()), (vec![("users", "Count", Some(2))], None));
    assert_eq!(choice.listed().unwrap_err().why, Refusal::NoLicense);
    assert_eq!(choice.without_checkout().unwrap_err().why, Refusal::NoLicense);
}

#[test]
fn a_license_whose_status_cannot_be_read_needs_a_checkout_that_is_granted() {
    let unreadable = ReceivedLicense { status: LicenseStatus::Unknown, ..good() };
    for model in [Model::Check, Model::Floating] {
        let choice = choose(&terms(model, &["users"]), std::slice::from_ref(&unreadable)).unwrap();
        assert_eq!(choice.listed().unwrap_err().why, Refusal::CauseUnknown);
        assert_eq!(choice.without_checkout().unwrap_err().why, Refusal::CauseUnknown);
    }
}

#[test]
fn a_tier_that_aws_leaves_out_of_its_answer_is_not_granted() {
    let choice = choose(&terms(Model::Check, &["premium", "basic"]), &[good()]).unwrap();
    let answer = |names: &[&str]| CheckedOut {
        token: ConsumptionToken::new("t".into()).unwrap(),
        allowed: names.iter().map(|name| data(name, Unit::NONE, 1)).collect(),
        expiration: None,
        license_arn: Some("other".into()),
        emulated: false,
    };
    assert_eq!(choice.granted(&answer(&["basic", "premium"])).unwrap().arn(), Some("other"));
    assert_eq!(choice.granted(&answer(&["basic"])).unwrap_err().why, Refusal::NameMismatch);
}

#[test]
fn a_hostile_listing_is_judged_like_any_other() {
    let mut hostile = license("hostile", &[("users", u64::MAX)], &[]);
    hostile.end = Some(Timestamp::from_unix_millis(i64::MIN));
    hostile.begin = Some(Timestamp::from_unix_millis(i64::MAX));
    assert_eq!(why(&terms(Model::Floating, &[]), std::slice::from_ref(&hostile)), Refusal::NotYetValid);
    hostile.begin = None;
    assert_eq!(why(&terms(Model::Floating, &[]), std::slice::from_ref(&hostile)), Refusal::Ended);
    hostile.end = Some(Timestamp::from_unix_millis(i64::MAX));
    assert!(choose(&terms(Model::Floating, &[]), std::slice::from_ref(&hostile)).is_ok());
    let twice = hostile.entitlements[0].clone();
    hostile.entitlements.push(Entitlement { unit: Some(Unit::NONE), ..twice });
    let choice = choose(&terms(Model::Check, &["users:None"]), &[hostile]).unwrap();
    assert_eq!(taken(&choice), [("users", "None", None)]);
}
