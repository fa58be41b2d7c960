//! Scripted faults: rules that say which call fails, how, and how often. They are deterministic: by count, or by a
//! generator with a seed.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::action::Action;
use super::operation::{Api, Operation, ServiceError};
use super::token::Flaw;

/// The kind of a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FaultKind {
    /// An exception; nothing is processed.
    Exception(ServiceError),
    /// The service's exception for too many calls, with this text.
    Throttle(String),
    /// An HTML page with an error status, as a load balancer sends it; nothing is processed.
    Html(u16),
    /// The call is processed at once, and answered after this time.
    Delay(Duration),
    /// No answer; nothing is processed.
    Hang,
    /// The call is processed and never answered.
    HangAfter,
    /// The connection is reset; nothing is processed.
    ResetBefore,
    /// The call is processed, and the connection is reset before the answer: the record is billed, the answer lost.
    ResetAfter,
    /// The call is processed, and its answer ends in the middle of its body.
    Truncate,
    /// The call is processed, and its answer is sent in small pieces over this time.
    Trickle(Duration),
    /// The call is processed, and answered with 200 and a body that is not JSON.
    InvalidJson,
    /// RegisterUsage: 200 without `Signature`.
    NoSignature,
    /// RegisterUsage: a token that must be refused.
    Token(Flaw),
    /// BatchMeterUsage: this many records at the end of the batch are not processed.
    Unprocessed(usize),
    /// Credentials that expire after this time, whatever was requested.
    ShortLived(Duration),
    /// ListReceivedLicenses, GetEntitlements: misleading pages.
    Pages(Pages),
}

/// Misleading pages of a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pages {
    /// A page without items, and a token for the page that should have had them.
    Empty,
    /// A token on every page, also on the last.
    Endless,
}

impl FaultKind {
    /// Whether it can be applied to this action.
    const fn fits(&self, action: Action) -> bool {
        match self {
            Self::NoSignature | Self::Token(_) => {
                matches!(action, Action::Json(Operation::RegisterUsage))
            }
            Self::Unprocessed(_) => matches!(action, Action::Json(Operation::BatchMeterUsage)),
            Self::ShortLived(_) => action.gives_credentials(),
            Self::Pages(_) => {
                matches!(action, Action::Json(Operation::ListReceivedLicenses | Operation::GetEntitlements))
            }
            _ => true,
        }
    }

    /// The only action that it can be applied to, if there is only one.
    fn only(&self) -> Option<Action> {
        let mut fitting = Action::all().filter(|action| self.fits(*action));
        let first = fitting.next();
        first.filter(|_| fitting.next().is_none())
    }

    /// Whether a rule without an operation applies to this action. Faults that fit every action then apply only to
    /// metering, entitlement and License Manager.
    fn is_meant_for(&self, action: Action) -> bool {
        let meant = match (action, self) {
            (Action::Json(operation), Self::Exception(error)) => {
                // The other models do not have an exception that only metering has.
                let api = operation.api();
                api == Api::Metering || api.has(&error.code) || !Api::Metering.has(&error.code)
            }
            (Action::Json(_), _) | (_, Self::ShortLived(_)) => true,
            _ => false,
        };
        meant && self.fits(action)
    }
}

/// The faults' names and descriptions, for the page and the messages.
pub(super) const NAMES: [(&str, &str); 17] = [
    ("throttle", "the service's error for too many calls; nothing is processed"),
    ("exception", "any exception, named by \"exception\"; nothing is processed"),
    ("http", "a page of HTML with \"status\" (503 unless stated); nothing is processed"),
    ("delay", "processed at once; answered after \"delay\", such as 2s"),
    ("hang", "no answer; nothing is processed"),
    ("hang-after", "no answer; the call is processed"),
    ("reset-before", "the connection is reset; nothing is processed"),
    ("reset-after", "the connection is reset; the call is processed: billed, and the answer lost"),
    ("truncate", "processed; the answer ends in the middle"),
    ("trickle", "processed; the answer comes slowly, over \"delay\""),
    ("invalid-json", "processed; 200 with a body that is no JSON, and no XML either"),
    ("no-signature", "RegisterUsage: 200 without Signature"),
    ("token", "RegisterUsage: a bad token, named by \"token\""),
    ("unprocessed", "BatchMeterUsage: the last \"records\" (1 unless stated) are left unprocessed"),
    ("short-lived", "AssumeRoleWithWebIdentity, ContainerCredentials: credentials that end after \"delay\""),
    (
        "empty-page",
        "ListReceivedLicenses, GetEntitlements: a page without items, and a token that leads to them",
    ),
    ("endless-pages", "ListReceivedLicenses, GetEntitlements: every page has a token"),
];

/// A checked rule.
#[derive(Debug, Clone)]
struct Rule {
    /// Without it, the rule applies to every operation of metering, entitlement and License Manager that the
    /// fault fits.
    action: Option<Action>,
    pod: Option<String>,
    kind: FaultKind,
    /// The name that is shown.
    name: String,
    probability: f64,
    /// Matching calls that still pass.
    skip: u64,
    /// How many calls it still hits; `None` for no limit.
    left: Option<u64>,
    hits: u64,
}

/// A fault that hits a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hit {
    pub(super) kind: FaultKind,
    pub(super) name: String,
}

/// A rule as posted to `/_emulator/faults`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RuleDocument {
    operation: Option<String>,
    pod: Option<String>,
    fault: String,
    exception: Option<String>,
    message: Option<String>,
    status: Option<u16>,
    delay: Option<String>,
    token: Option<String>,
    records: Option<usize>,
    skip: Option<u64>,
    count: Option<u64>,
    probability: Option<f64>,
}

/// Most rules at once.
const RULES_MAX: usize = 1000;

/// Longest delay: longer than any client waits.
const DELAY_MAX: Duration = Duration::from_secs(3600);

/// All rules, and the random generator.
#[derive(Debug)]
pub(super) struct Script {
    rules: Vec<Rule>,
    seed: u64,
    random: u64,
}

impl Script {
    pub(super) const fn new(seed: u64) -> Self {
        Self { rules: Vec::new(), seed, random: seed }
    }

    pub(super) fn clear(&mut self) {
        self.rules.clear();
    }

    pub(super) const fn reseed(&mut self, seed: u64) {
        (self.seed, self.random) = (seed, seed);
    }

    /// Whether a rule needs the key that no product has.
    pub(super) fn needs_stranger(&self) -> bool {
        self.rules.iter().any(|rule| matches!(rule.kind, FaultKind::Token(flaw) if flaw.needs_stranger()))
    }

    /// Adds all of these rules, or none and returns the fault.
    pub(super) fn add(&mut self, documents: Vec<RuleDocument>) -> Result<(), String> {
        if self.rules.len() + documents.len() > RULES_MAX {
            return Err(format!(
                "at most {RULES_MAX} rules are possible, and there are {}; DELETE /_emulator/faults removes them",
                self.rules.len()
            ));
        }
        let rules = documents.into_iter().map(rule).collect::<Result<Vec<_>, _>>()?;
        self.rules.extend(rules);
        Ok(())
    }

    /// The fault for this call, if any. The first matching rule applies, and only that one counts the call.
    pub(super) fn hit(&mut self, action: Action, pod: &str) -> Option<Hit> {
        for index in 0..self.rules.len() {
            let rule = self.rules.get_mut(index)?;
            let fits = rule.action.map_or(rule.kind.is_meant_for(action), |wanted| wanted == action)
                && rule.pod.as_deref().is_none_or(|wanted| wanted == pod)
                && rule.left != Some(0);
            if !fits {
                continue;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            let probability = rule.probability;
            if probability < 1.0 && self.draw() >= probability {
                continue;
            }
            let rule = self.rules.get_mut(index)?;
            rule.left = rule.left.map(|left| left - 1);
            rule.hits += 1;
            let kind = match &rule.kind {
                FaultKind::Throttle(message) => {
                    FaultKind::Exception(ServiceError::new(action.throttling(), message.clone()))
                }
                kind => kind.clone(),
            };
            return Some(Hit { kind, name: rule.name.clone() });
        }
        None
    }

    /// Seed and rules, with the number of their hits.
    pub(super) fn json(&self) -> Value {
        let rules = self.rules.iter().map(|rule| {
            json!({
                "operation": rule.action.map(Action::name),
                "pod": rule.pod,
                "fault": rule.name,
                "probability": rule.probability,
                "skip": rule.skip,
                "left": rule.left,
                "hits": rule.hits,
            })
        });
        json!({"seed": self.seed, "rules": rules.collect::<Vec<_>>()})
    }

    /// splitmix64 (Steele, Lea, Flood 2014): small, and the same on every machine.
    fn draw(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.random;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit a double exactly")]
        let unit = (bits >> 11) as f64 / (1u64 << 53) as f64;
        unit
    }
}

fn rule(document: RuleDocument) -> Result<Rule, String> {
    let action = match &document.operation {
        None => None,
        Some(name) => Some(Action::of_name(name).ok_or_else(|| {
            let names = Action::all().map(Action::name).collect::<Vec<_>>().join(", ");
            format!("operation {name:?} is none of {names}")
        })?),
    };
    let probability = document.probability.unwrap_or(1.0);
    if !(0.0..=1.0).contains(&probability) {
        return Err("probability must be between 0 and 1".to_owned());
    }
    let kind = kind(&document)?;
    if let Some(name) = unused(&document) {
        return Err(format!("fault {:?} does not use {name:?}", document.fault));
    }
    if document.count == Some(0) {
        return Err("count is at least 1; without it a rule holds until it is removed".to_owned());
    }
    if let Some(action) = action.filter(|action| !kind.fits(*action)) {
        return Err(format!("fault {:?} is not for {}", document.fault, action.name()));
    }
    let name = match &kind {
        FaultKind::Exception(error) if document.fault == "exception" => error.code.clone().into_owned(),
        FaultKind::Token(flaw) => format!("token {}", flaw.name()),
        FaultKind::Html(status) => format!("http {status}"),
        _ => document.fault.clone(),
    };
    Ok(Rule {
        action: action.or_else(|| kind.only()),
        pod: document.pod,
        kind,
        name,
        probability,
        skip: document.skip.unwrap_or(0),
        left: document.count,
        hits: 0,
    })
}

fn kind(document: &RuleDocument) -> Result<FaultKind, String> {
    let delay = || {
        let text = document.delay.as_deref();
        let text = text.ok_or_else(|| format!("fault {:?} needs \"delay\", such as 2s", document.fault))?;
        let delay = super::duration(text).filter(|delay| *delay <= DELAY_MAX);
        delay.ok_or_else(|| format!("delay must be a duration such as 2s, at most 1h, not {text:?}"))
    };
    Ok(match document.fault.as_str() {
        "throttle" => {
            let message = document.message.as_deref().unwrap_or("Rate exceeded");
            FaultKind::Throttle(message.to_owned())
        }
        "exception" => FaultKind::Exception(exception(document)?),
        "http" => {
            let status = document.status.unwrap_or(503);
            if !(400..=599).contains(&status) {
                return Err(format!("status must be between 400 and 599, not {status}"));
            }
            FaultKind::Html(status)
        }
        "delay" => FaultKind::Delay(delay()?),
        "trickle" => FaultKind::Trickle(delay()?),
        "short-lived" => FaultKind::ShortLived(delay()?),
        "hang" => FaultKind::Hang,
        "hang-after" => FaultKind::HangAfter,
        "reset-before" => FaultKind::ResetBefore,
        "reset-after" => FaultKind::ResetAfter,
        "truncate" => FaultKind::Truncate,
        "invalid-json" => FaultKind::InvalidJson,
        "no-signature" => FaultKind::NoSignature,
        "empty-page" => FaultKind::Pages(Pages::Empty),
        "endless-pages" => FaultKind::Pages(Pages::Endless),
        "unprocessed" => FaultKind::Unprocessed(document.records.unwrap_or(1)),
        "token" => {
            let name = document.token.as_deref().ok_or("fault \"token\" needs \"token\", the flaw")?;
            FaultKind::Token(Flaw::of_name(name).ok_or_else(|| {
                let names: Vec<&str> = Flaw::ALL.iter().map(|(_, name, _)| *name).collect();
                format!("token must be one of {}, not {name:?}", names.join(", "))
            })?)
        }
        other => {
            let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
            return Err(format!("fault {other:?} is none of {}", names.join(", ")));
        }
    })
}

/// A member that the fault does not use: the author probably expects an effect of it.
fn unused(document: &RuleDocument) -> Option<&'static str> {
    let needed = |faults: &[&str]| faults.contains(&document.fault.as_str());
    [
        ("exception", document.exception.is_some() && !needed(&["exception"])),
        ("message", document.message.is_some() && !needed(&["exception", "throttle"])),
        ("status", document.status.is_some() && !needed(&["http"])),
        ("delay", document.delay.is_some() && !needed(&["delay", "trickle", "short-lived"])),
        ("token", document.token.is_some() && !needed(&["token"])),
        ("records", document.records.is_some() && !needed(&["unprocessed"])),
    ]
    .into_iter()
    .find_map(|(name, unused)| unused.then_some(name))
}

/// Longest name of an exception: AWS's longest is 34.
const EXCEPTION_CHARS_MAX: usize = 64;

fn exception(document: &RuleDocument) -> Result<ServiceError, String> {
    let code = document.exception.clone().ok_or("fault \"exception\" needs \"exception\", its name")?;
    let plain = !code.is_empty()
        && code.len() <= EXCEPTION_CHARS_MAX
        && code.bytes().all(|b| b.is_ascii_alphanumeric());
    if !plain {
        return Err(format!("exception {code:?} is no exception's name"));
    }
    let message = document.message.clone();
    Ok(ServiceError::new(code, message.unwrap_or_else(|| "scripted by /_emulator/faults".to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents(rules: &[&str]) -> Vec<RuleDocument> {
        rules.iter().map(|rule| serde_json::from_str(rule).unwrap()).collect()
    }

    fn script(rules: &[&str]) -> Script {
        let mut script = Script::new(7);
        script.add(documents(rules)).unwrap();
        script
    }

    #[test]
    fn rules_hit_what_they_name_as_often_as_they_say() {
        let mut script = script(&[
            r#"{"operation":"RegisterUsage","fault":"throttle","count":2,"skip":1}"#,
            r#"{"pod":"POD-B","fault":"hang"}"#,
        ]);
        assert_eq!(script.hit(Action::Json(Operation::MeterUsage), "POD-A"), None);
        assert_eq!(script.hit(Action::Json(Operation::RegisterUsage), "POD-A"), None);
        for _ in 0..2 {
            let hit = script.hit(Action::Json(Operation::RegisterUsage), "POD-A").unwrap();
            assert!(matches!(hit.kind, FaultKind::Exception(error) if error.code == "ThrottlingException"));
        }
        assert_eq!(script.hit(Action::Json(Operation::RegisterUsage), "POD-A"), None);
        assert_eq!(
            script.hit(Action::Json(Operation::RegisterUsage), "POD-B").unwrap().kind,
            FaultKind::Hang
        );
        assert_eq!(script.json()["rules"][0]["hits"], 2);
        assert_eq!(script.json()["rules"][0]["left"], 0);
    }

    #[test]
    fn a_rule_without_operation_is_about_both_services_in_their_own_words() {
        let hits =
            |rule: &str, operation| script(&[rule]).hit(Action::Json(operation), "p").map(|hit| hit.kind);
        let throttle = r#"{"fault":"throttle"}"#;
        for (operation, code) in [
            (Operation::MeterUsage, "ThrottlingException"),
            (Operation::CheckoutLicense, "RateLimitExceededException"),
        ] {
            let hit = hits(throttle, operation);
            assert!(matches!(hit, Some(FaultKind::Exception(error)) if error.code == code), "{operation:?}");
        }
        for (code, metering, licenses) in [
            ("CustomerNotEntitledException", true, false),
            ("AccessDeniedException", true, true),
            ("MadeUpException", true, true),
        ] {
            let rule = format!(r#"{{"fault":"exception","exception":"{code}"}}"#);
            assert_eq!(hits(&rule, Operation::MeterUsage).is_some(), metering, "{code}");
            assert_eq!(hits(&rule, Operation::CheckoutLicense).is_some(), licenses, "{code}");
        }
        let pages = r#"{"fault":"empty-page"}"#;
        for (operation, meant) in [
            (Operation::ListReceivedLicenses, true),
            (Operation::GetEntitlements, true),
            (Operation::GetLicense, false),
        ] {
            assert_eq!(hits(pages, operation).is_some(), meant, "{operation:?}");
        }
    }

    #[test]
    fn chance_is_the_same_for_the_same_seed() {
        let run = || {
            let mut script = script(&[r#"{"fault":"hang","probability":0.5}"#]);
            (0..64)
                .map(|_| script.hit(Action::Json(Operation::MeterUsage), "p").is_some())
                .collect::<Vec<_>>()
        };
        let first = run();
        assert_eq!(first, run());
        assert!((16..48).contains(&first.iter().filter(|hit| **hit).count()));
    }

    #[test]
    fn every_named_fault_can_be_had_and_every_other_is_refused() {
        for (name, _) in NAMES {
            let mut rule = json!({"fault": name});
            match name {
                "exception" => rule["exception"] = json!("DisabledApiException"),
                "delay" | "trickle" | "short-lived" => rule["delay"] = json!("2s"),
                "token" => rule["token"] = json!("alg-none"),
                _ => {}
            }
            let rule = rule.to_string();
            assert_eq!(script(&[&rule]).json()["rules"].as_array().unwrap().len(), 1, "{rule}");
        }
        for bad in [
            r#"{"fault":"nonsense"}"#,
            r#"{"fault":"exception"}"#,
            r#"{"fault":"exception","exception":"a b"}"#,
            r#"{"fault":"delay","delay":"soon"}"#,
            r#"{"fault":"delay"}"#,
            r#"{"fault":"token","token":"rusty"}"#,
            r#"{"fault":"token","token":"alg-none","operation":"MeterUsage"}"#,
            r#"{"fault":"http","status":200}"#,
            r#"{"fault":"hang","operation":"Dance"}"#,
            r#"{"fault":"hang","probability":2}"#,
            r#"{"fault":"hang","count":0}"#,
            r#"{"fault":"throttle","delay":"2s"}"#,
            r#"{"fault":"http","exception":"ThrottlingException"}"#,
        ] {
            let mut script = Script::new(0);
            assert!(script.add(documents(&[r#"{"fault":"hang"}"#, bad])).is_err(), "{bad}");
            assert_eq!(script.json()["rules"], json!([]), "a refused order leaves nothing behind");
        }
        assert!(serde_json::from_str::<RuleDocument>(r#"{"fault":"hang","x":1}"#).is_err());
    }
}
