//! Events about agreements and licenses that AWS Marketplace sends through EventBridge, and what each means for a
//! customer's usage. Pure.
//!
//! AWS's two documents differ about the final hour: the seller guide lets it begin with `Purchase Agreement Ended` and
//! end with `License Deprovisioned`, the metering skill lets it begin with the latter. So both report the open hour at
//! once, and only the latter ends the intake of new usage.
//!
//! Agreement events name neither license nor product, only agreement and buyer (seller guide, "Events for
//! agreements"). Events may arrive in any order and repeatedly: the latest event about a license decides, by AWS's
//! time in it.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::customer::{Customer, is_account_number};
use super::{AHEAD_MAX, ProductCode};
use tollgate_time::Timestamp;

/// The source of all these events.
pub const SOURCE: &str = "aws.agreement-marketplace";

/// How long AWS accepts reports after a license was deprovisioned (AWS's metering skill).
pub const FINAL_WINDOW: Duration = Duration::from_secs(3600);

/// Longest id of an event; EventBridge's are UUIDs.
const ID_BYTES_MAX: usize = 128;

/// Longest name that is kept of an agreement or a license.
const NAME_BYTES_MAX: usize = 1024;

/// An event about the metered product, or about an agreement that may be about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LifecycleEvent {
    /// EventBridge's id of the event: the same for each delivery.
    pub id: String,
    /// When AWS sent it.
    pub at: Timestamp,
    /// `detail-type`, for the log.
    pub detail_type: String,
    /// What it says.
    pub news: News,
}

/// What an event says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// The license is usable: it is new, or was changed.
    LicenseUpdated(NamedLicense),
    /// The license ended.
    LicenseDeprovisioned(NamedLicense),
    /// The buyer's agreement ended; which license it had is not said.
    AgreementEnded {
        /// The buyer's account.
        account: String,
    },
    /// Nothing that concerns usage.
    Nothing,
}

impl News {
    /// The type of event, as metrics name it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::LicenseUpdated(_) => "license_updated",
            Self::LicenseDeprovisioned(_) => "license_deprovisioned",
            Self::AgreementEnded { .. } => "agreement_ended",
            Self::Nothing => "other",
        }
    }
}

/// The license of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedLicense {
    /// The buyer's account.
    pub account: String,
    /// [`license_id`] of its ARN.
    pub license: String,
    /// The agreement.
    pub agreement: Option<String>,
}

/// Why an event is refused. A sender must not send it again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RefusedEvent {
    /// It is no event of EventBridge.
    #[error("the body is not an EventBridge event: {0}")]
    NoEvent(String),
    /// Another service, or a program, sent it.
    #[error("the event's source is {0:?}, and only events of {SOURCE} are read here")]
    ForeignSource(String),
    /// It is about another product.
    #[error("the event is about product {0:?}, and this tollgate meters another one")]
    OtherProduct(String),
    /// It names a product or license only in part.
    #[error("the event has no usable {0}; AWS sends it with each event of this type")]
    Incomplete(&'static str),
}

#[derive(Deserialize)]
struct Envelope {
    id: String,
    source: String,
    #[serde(rename = "detail-type")]
    detail_type: String,
    time: String,
    #[serde(default)]
    detail: Value,
}

impl LifecycleEvent {
    /// Reads an event as EventBridge sends it. Unknown members are ignored, and so are types of events that are not
    /// about usage ([`News::Nothing`]). A time in the future counts as `now`, so that a wrong clock does not overrule
    /// later events.
    pub fn read(body: &[u8], product: &ProductCode, now: Timestamp) -> Result<Self, RefusedEvent> {
        let envelope: Envelope = serde_json::from_slice(body)
            .map_err(|error| RefusedEvent::NoEvent(shortened(&error.to_string())))?;
        if envelope.source != SOURCE {
            return Err(RefusedEvent::ForeignSource(shortened(&envelope.source)));
        }
        if !is_name(&envelope.id, ID_BYTES_MAX) {
            return Err(RefusedEvent::Incomplete("id"));
        }
        let at = Timestamp::parse(&envelope.time).ok_or(RefusedEvent::Incomplete("time"))?;
        let detail = &envelope.detail;
        // Where an event names the product, it must be ours, whatever its type.
        let named = text(detail, "product", "code");
        if let Some(other) = named.filter(|code| *code != product.as_str()) {
            return Err(RefusedEvent::OtherProduct(shortened(other)));
        }
        // The second part is the seller's role: Manufacturer or Proposer.
        let kind = envelope.detail_type.split(" - ").next().unwrap_or_default();
        let news = match kind {
            "License Updated" => News::LicenseUpdated(license(detail, named)?),
            "License Deprovisioned" => News::LicenseDeprovisioned(license(detail, named)?),
            "Purchase Agreement Ended" => News::AgreementEnded { account: account(detail)? },
            _ => News::Nothing,
        };
        let at = if at > now.plus(AHEAD_MAX) { now } else { at };
        Ok(Self { id: envelope.id, at, detail_type: shortened(&envelope.detail_type), news })
    }
}

fn license(detail: &Value, product: Option<&str>) -> Result<NamedLicense, RefusedEvent> {
    if product.is_none() {
        return Err(RefusedEvent::Incomplete("detail.product.code"));
    }
    let license = text(detail, "license", "arn").map(license_id).filter(|id| is_name(id, NAME_BYTES_MAX));
    Ok(NamedLicense {
        account: account(detail)?,
        license: license.ok_or(RefusedEvent::Incomplete("detail.license.arn"))?.to_owned(),
        agreement: text(detail, "agreement", "id")
            .filter(|id| is_name(id, NAME_BYTES_MAX))
            .map(str::to_owned),
    })
}

fn account(detail: &Value) -> Result<String, RefusedEvent> {
    let account = text(detail, "acceptor", "accountId").filter(|account| is_account_number(account));
    account.map(str::to_owned).ok_or(RefusedEvent::Incomplete("detail.acceptor.accountId"))
}

fn text<'a>(detail: &'a Value, of: &str, name: &str) -> Option<&'a str> {
    detail.get(of)?.get(name)?.as_str()
}

/// Whether a text is a name that is kept: AWS's are printable ASCII, and PostgreSQL stores no NUL.
fn is_name(text: &str, bytes_max: usize) -> bool {
    (1..=bytes_max).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A text of the event, short enough for an answer and the log.
fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 128;
    text.chars().take(CHARS_MAX).collect()
}

/// The part of a `LicenseArn` that names the license: AWS's examples of these events leave out the first part of the
/// ARN and write the account differently.
#[must_use]
pub fn license_id(arn: &str) -> &str {
    arn.rsplit([':', '/']).next().unwrap_or(arn)
}

/// Which customers of the ledger an event or a request concerns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Concerned {
    /// The account's usage that names this license.
    License {
        /// The account, if it is known: its usage that names no license is concerned, too, since that may be of this
        /// one.
        account: Option<String>,
        /// [`license_id`].
        license: String,
    },
    /// All usage that names the account, with any license or none.
    Account(String),
}

impl Concerned {
    /// The key of a path: a `LicenseArn`, or an account.
    #[must_use]
    pub fn parse(key: &str) -> Option<Self> {
        if super::customer::is_license_arn(key) {
            return Some(Self::License { account: None, license: license_id(key).to_owned() });
        }
        is_account_number(key).then(|| Self::Account(key.to_owned()))
    }

    /// The account, if it is known. Its legacy identifiers, which the ledger knows, are concerned, too.
    #[must_use]
    pub fn account(&self) -> Option<&str> {
        match self {
            Self::Account(account) => Some(account),
            Self::License { account, .. } => account.as_deref(),
        }
    }

    /// Whether a customer, in the ledger's form, is concerned. A legacy identifier does not say so: see
    /// [`Concerned::account`].
    #[must_use]
    pub fn includes(&self, customer: &Customer) -> bool {
        let Customer::Account { account_id, license_arn } = customer else { return false };
        let of_license = |license: &str| license_arn.as_deref().map(|arn| license_id(arn) == license);
        match self {
            Self::Account(account) => account == account_id,
            Self::License { account: Some(account), license } => {
                account == account_id && of_license(license).unwrap_or(true)
            }
            Self::License { account: None, license } => of_license(license).unwrap_or(false),
        }
    }
}

/// The ledger's row of a license: the latest event about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LicenseState {
    /// AWS's time of the event that decided.
    pub event_at: Timestamp,
    /// Since when it is deprovisioned; `None` if it is usable.
    pub deprovisioned_at: Option<Timestamp>,
}

impl LicenseState {
    /// The state after an event of `at` that says `deprovisioned`; `None` if a later event has decided already. Of two
    /// events of one second the one that allows usage counts: AWS itself refuses usage that it does not take.
    #[must_use]
    pub fn after(known: Option<Self>, at: Timestamp, deprovisioned: bool) -> Option<Self> {
        let decided = known.is_some_and(|known| {
            known.event_at > at
                || (known.event_at == at && (deprovisioned || known.deprovisioned_at.is_none()))
        });
        (!decided).then_some(Self { event_at: at, deprovisioned_at: deprovisioned.then_some(at) })
    }

    /// Whether usage of `used_at` that arrives at `now` still counts: usage from before the end does within AWS's
    /// final window.
    #[must_use]
    pub fn takes(&self, used_at: Timestamp, now: Timestamp) -> bool {
        self.deprovisioned_at.is_none_or(|end| used_at <= end && now < end.plus(FINAL_WINDOW))
    }
}

/// What was done with an event, for the answer and the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The license is usable.
    Active,
    /// The license ended; its open hour is reported now.
    Deprovisioned,
    /// The agreement ended; the buyer's open hour is reported now.
    Ended,
    /// The same event was processed before.
    Repeated,
    /// A later event about the license was processed before.
    Outdated,
    /// The event is of a type that does not concern usage.
    Ignored,
}

impl Effect {
    /// Its name in answers and in the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Deprovisioned => "deprovisioned",
            Self::Ended => "ended",
            Self::Repeated => "repeated",
            Self::Outdated => "outdated",
            Self::Ignored => "ignored",
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_795_507_200);
    const ACCOUNT: &str = "111122223333";
    const ARN: &str = "arn:aws:license-manager::294406891311:license:l-demo";

    fn event(detail_type: &str, detail: Value) -> Value {
        let mut event = json!({
            "version": "0", "id": "event-1", "detail-type": detail_type, "source": SOURCE,
            "account": "444455556666", "time": "2026-11-24T07:59:30Z", "region": "us-east-1",
            "resources": ["arn:aws:aws-marketplace::aws:agreement:agmt-1"],
        });
        event["detail"] = detail;
        event
    }

    fn of_license() -> Value {
        json!({
            "requestId": "r", "catalog": "AWSMarketplace", "agreement": {"id": "agmt-1"}, "offer": {"id": "offer-1"},
            "product": {"id": "prod-1", "code": "demo"}, "license": {"arn": ARN},
            "acceptor": {"accountId": ACCOUNT}, "proposer": {"accountId": "444455556666"},
        })
    }

    fn read(event: &Value) -> Result<LifecycleEvent, RefusedEvent> {
        LifecycleEvent::read(event.to_string().as_bytes(), &"demo".parse().unwrap(), NOW)
    }

    fn named() -> NamedLicense {
        NamedLicense {
            account: ACCOUNT.to_owned(),
            license: "l-demo".to_owned(),
            agreement: Some("agmt-1".to_owned()),
        }
    }

    #[test]
    fn each_type_says_what_it_means_for_usage() {
        // As AWS sends them: agreement events have no product and no license.
        let of_agreement = json!({
            "catalog": "AWSMarketplace", "agreement": {"id": "agmt-1", "status": "CANCELLED"},
            "acceptor": {"accountId": ACCOUNT}, "resaleAuthorization": {"id": null},
        });
        let ended = News::AgreementEnded { account: ACCOUNT.to_owned() };
        for (detail_type, detail, news) in [
            ("License Updated - Manufacturer", of_license(), News::LicenseUpdated(named())),
            ("License Deprovisioned - Manufacturer", of_license(), News::LicenseDeprovisioned(named())),
            ("License Deprovisioned", of_license(), News::LicenseDeprovisioned(named())),
            ("Purchase Agreement Ended - Proposer", of_agreement.clone(), ended.clone()),
            ("Purchase Agreement Ended - Manufacturer", of_agreement.clone(), ended),
            ("Purchase Agreement Created - Proposer", of_agreement.clone(), News::Nothing),
            ("Purchase Agreement Amended - Proposer", of_agreement.clone(), News::Nothing),
            ("Purchase Agreement Ending - Proposer", of_agreement, News::Nothing),
            ("License Suspected - Manufacturer", json!({"license": 3}), News::Nothing),
            ("", Value::Null, News::Nothing),
        ] {
            let read = read(&event(detail_type, detail)).unwrap();
            assert_eq!(read.news, news, "{detail_type}");
            assert_eq!((read.id.as_str(), read.at.to_string().as_str()), ("event-1", "2026-11-24T07:59:30Z"));
        }
    }

    #[test]
    fn an_arn_as_in_awss_own_example_names_the_same_license() {
        let mut detail = of_license();
        detail["license"]["arn"] = "aws:license-manager:us-east-1:111122223333:l-demo".into();
        let read = read(&event("License Updated - Manufacturer", detail)).unwrap();
        assert_eq!(read.news, News::LicenseUpdated(named()));
        assert_eq!(license_id("arn:aws:license-manager::1:license/l-demo"), "l-demo");
    }

    #[test]
    fn an_event_that_is_not_about_this_product_is_refused() {
        let updated = "License Updated - Manufacturer";
        let without = |of: &str| {
            let mut detail = of_license();
            detail.as_object_mut().unwrap().remove(of);
            event(updated, detail)
        };
        let with = |name: &str, value: Value| {
            let mut event = event(updated, of_license());
            event[name] = value;
            event
        };
        let mut other = of_license();
        other["product"]["code"] = "other".into();
        let arn = |arn: &str| {
            let mut detail = of_license();
            detail["license"]["arn"] = arn.into();
            detail
        };
        let mut short = of_license();
        short["acceptor"]["accountId"] = "11112222333".into();
        for (event, text) in [
            (json!([]), "is not an EventBridge event"),
            (json!({"id": "event-1"}), "is not an EventBridge event"),
            (with("source", "aws.license-manager".into()), "the event's source is \"aws.license-manager\""),
            (with("source", "my.program".into()), "only events of aws.agreement-marketplace"),
            (with("id", "".into()), "no usable id"),
            (with("id", "x".repeat(129).into()), "no usable id"),
            (with("id", "event\0".into()), "no usable id"),
            (with("id", "event 1".into()), "no usable id"),
            (with("time", "yesterday".into()), "no usable time"),
            (event(updated, other.clone()), "about product \"other\""),
            (event("Purchase Agreement Ended - Proposer", other), "about product \"other\""),
            (event(updated, short), "no usable detail.acceptor.accountId"),
            (without("product"), "no usable detail.product.code"),
            (without("license"), "no usable detail.license.arn"),
            (event(updated, arn("arn:aws:license-manager::1:license:l-\0")), "no usable detail.license.arn"),
            (event(updated, arn("arn:aws:license-manager::1:license:")), "no usable detail.license.arn"),
            (event(updated, arn(&"l".repeat(1025))), "no usable detail.license.arn"),
            (without("acceptor"), "no usable detail.acceptor.accountId"),
            (event("Purchase Agreement Ended - Proposer", json!({})), "no usable detail.acceptor"),
        ] {
            let refused = read(&event).unwrap_err().to_string();
            assert!(refused.contains(text), "{refused} for {event}");
        }
    }

    #[test]
    fn a_refusal_repeats_little_of_what_was_sent() {
        let long = json!("x".repeat(200_000)).to_string();
        let refused = LifecycleEvent::read(long.as_bytes(), &"demo".parse().unwrap(), NOW).unwrap_err();
        assert!(refused.to_string().len() < 256, "{}", refused.to_string().len());
        let mut named = of_license();
        named["agreement"]["id"] = "agmt-\0".into();
        let News::LicenseUpdated(license) =
            read(&event("License Updated - Manufacturer", named)).unwrap().news
        else {
            panic!("it is about a license")
        };
        assert_eq!(license.agreement, None, "only for people");
    }

    #[test]
    fn a_time_far_ahead_is_none_that_overrules_later_events() {
        let mut ahead = event("License Updated - Manufacturer", of_license());
        ahead["time"] = "2027-11-24T08:00:00Z".into();
        assert_eq!(read(&ahead).unwrap().at, NOW);
        ahead["time"] = "2026-11-24T08:04:00Z".into();
        assert!(read(&ahead).unwrap().at > NOW, "clocks differ by minutes");
    }

    #[test]
    fn whatever_the_order_the_latest_event_decides() {
        let at = |seconds: u64| NOW.plus(Duration::from_secs(seconds));
        // (when, whether it ends the license): each order of the same events leads to one state.
        let events = [(0, false), (10, true), (20, false), (20, true), (30, true), (30, true)];
        let orders = [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [3, 0, 5, 1, 4, 2], [2, 3, 4, 5, 0, 1]];
        for order in orders {
            let mut state = None;
            for index in order {
                let (seconds, ends): (u64, bool) = events[index];
                state = LicenseState::after(state, at(seconds), ends).or(state);
            }
            let expected = LicenseState { event_at: at(30), deprovisioned_at: Some(at(30)) };
            assert_eq!(state, Some(expected), "{order:?}");
        }
        let ended = LicenseState::after(None, at(20), true);
        let usable = Some(LicenseState { event_at: at(20), deprovisioned_at: None });
        assert_eq!(LicenseState::after(ended, at(20), false), usable, "usage is allowed");
        assert_eq!(LicenseState::after(usable, at(20), true), None);
        assert_eq!(LicenseState::after(usable, at(19), true), None);
    }

    #[test]
    fn usage_from_before_the_end_counts_within_the_final_window() {
        let state = LicenseState { event_at: NOW, deprovisioned_at: Some(NOW) };
        let second = Duration::from_secs(1);
        for (used_at, arrives, takes) in [
            (NOW, NOW.plus(second), true),
            (NOW.minus(second), NOW.plus(FINAL_WINDOW - second), true),
            (NOW.minus(second), NOW.plus(FINAL_WINDOW), false),
            (NOW.plus(second), NOW.plus(second), false),
        ] {
            assert_eq!(state.takes(used_at, arrives), takes, "{used_at} {arrives}");
        }
        let usable = LicenseState { event_at: NOW, deprovisioned_at: None };
        assert!(usable.takes(NOW.plus(FINAL_WINDOW), NOW.plus(FINAL_WINDOW)));
    }

    #[test]
    fn a_key_concerns_an_account_or_one_of_its_licenses() {
        let customer = |account: &str, arn: Option<&str>| Customer::Account {
            account_id: account.to_owned(),
            license_arn: arn.map(str::to_owned),
        };
        let (plain, licensed) = (customer(ACCOUNT, None), customer(ACCOUNT, Some(ARN)));
        let other = customer(ACCOUNT, Some("arn:aws:license-manager::294406891311:license:l-other"));
        let account = Concerned::parse(ACCOUNT).unwrap();
        let license = Concerned::parse(ARN).unwrap();
        for (customer, by_account, by_license) in [
            (&plain, true, false),
            (&licensed, true, true),
            (&other, true, false),
            (&customer("999900001111", Some(ARN)), false, true),
            (&Customer::Identifier(ACCOUNT.to_owned()), false, false),
            (&Customer::Own, false, false),
        ] {
            assert_eq!((account.includes(customer), license.includes(customer)), (by_account, by_license));
        }
        let of = |account: &str| Concerned::License {
            account: Some(account.to_owned()),
            license: "l-demo".to_owned(),
        };
        assert!(of(ACCOUNT).includes(&licensed) && !of("999900001111").includes(&licensed));
        assert!(of(ACCOUNT).includes(&plain), "it may be usage of this license");
        assert!(!of(ACCOUNT).includes(&other) && !of("999900001111").includes(&plain));
        for bad in ["", "11112222333", "l-demo", "arn:x"] {
            assert_eq!(Concerned::parse(bad), None, "{bad}");
        }
    }
}
