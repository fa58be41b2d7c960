//! Faults by script: rules that say which call goes wrong, how, and how often. Deterministic: by count, or by
//! a generator with a seed.

use std::time::Duration;

use serde::Deserialize;

use super::token::Flaw;
use super::wire::{Operation, ServiceError};

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// An exception, `ThrottlingException` included, before anything is processed.
    Exception(ServiceError),
    /// A server error with a page of HTML, as a load balancer sends it.
    Html(u16),
    /// The call is processed as usual, but only after a while.
    Delay(Duration),
    /// No answer at all; nothing is processed.
    Hang,
    /// The connection is reset before the call is processed.
    ResetBefore,
    /// The call is processed, and the connection reset before its answer: the record is billed, the answer lost.
    ResetAfter,
    /// The answer ends in the middle of its body.
    Truncate,
    /// 200 with a body that is no JSON.
    InvalidJson,
    /// RegisterUsage: 200 without `Signature`.
    NoSignature,
    /// RegisterUsage: a token that must be refused.
    Token(Flaw),
}

/// A rule as it is kept.
#[derive(Debug, Clone)]
struct Rule {
    operation: Option<Operation>,
    pod: Option<String>,
    kind: Kind,
    probability: f64,
    /// Calls still to hit; `None` is without end.
    left: Option<u64>,
}

/// A rule as it is posted to `/_emulator/faults`.
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
    count: Option<u64>,
    probability: Option<f64>,
}

/// Most rules at once.
const RULES_MAX: usize = 1000;

/// Longest delay: longer than any client waits.
const DELAY_MAX: Duration = Duration::from_secs(3600);

/// The script.
#[derive(Debug)]
pub(super) struct Script {
    rules: Vec<Rule>,
    random: u64,
}

impl Script {
    pub(super) const fn new(seed: u64) -> Self {
        Self { rules: Vec::new(), random: seed }
    }

    pub(super) fn clear(&mut self) {
        self.rules.clear();
    }

    pub(super) fn seed(&mut self, seed: u64) {
        self.random = seed;
    }

    /// Adds a rule, or says what is wrong with it.
    pub(super) fn add(&mut self, document: RuleDocument) -> Result<(), String> {
        if self.rules.len() >= RULES_MAX {
            return Err(format!(
                "there are {RULES_MAX} rules already; DELETE /_emulator/faults removes them"
            ));
        }
        let operation = match &document.operation {
            None => None,
            Some(name) => Some(Operation::of_name(name).ok_or_else(|| {
                format!("operation {name:?} is none of RegisterUsage, MeterUsage, BatchMeterUsage, ResolveCustomer")
            })?),
        };
        let probability = document.probability.unwrap_or(1.0);
        if !(0.0..=1.0).contains(&probability) {
            return Err("probability must be between 0 and 1".to_owned());
        }
        let kind = kind(&document)?;
        let rule = Rule { operation, pod: document.pod, kind, probability, left: document.count };
        self.rules.push(rule);
        Ok(())
    }

    /// The fault that hits this call, if one does. The first rule that fits wins, and is used up by one.
    pub(super) fn hit(&mut self, operation: Operation, pod: &str) -> Option<Kind> {
        for index in 0..self.rules.len() {
            let rule = &self.rules[index];
            let fits = rule.operation.is_none_or(|wanted| wanted == operation)
                && rule.pod.as_deref().is_none_or(|wanted| wanted == pod)
                && rule.left != Some(0);
            if !fits {
                continue;
            }
            let probability = rule.probability;
            if probability < 1.0 && self.draw() >= probability {
                continue;
            }
            let rule = &mut self.rules[index];
            rule.left = rule.left.map(|left| left - 1);
            return Some(rule.kind.clone());
        }
        None
    }

    /// splitmix64 (Steele, Lea, Flood 2014): small, and the same for the same seed everywhere.
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

fn kind(document: &RuleDocument) -> Result<Kind, String> {
    Ok(match document.fault.as_str() {
        "throttle" => Kind::Exception(ServiceError::new("ThrottlingException", "Rate exceeded (scripted)")),
        "exception" => {
            let code =
                document.exception.clone().ok_or("fault \"exception\" needs \"exception\", its name")?;
            let plain =
                !code.is_empty() && code.len() <= 64 && code.bytes().all(|b| b.is_ascii_alphanumeric());
            if !plain {
                return Err(format!("exception {code:?} is no exception's name"));
            }
            let message =
                document.message.clone().unwrap_or_else(|| "scripted by /_emulator/faults".to_owned());
            Kind::Exception(ServiceError::new(code, message))
        }
        "http" => {
            let status = document.status.unwrap_or(503);
            if !(400..=599).contains(&status) {
                return Err("status must be between 400 and 599".to_owned());
            }
            Kind::Html(status)
        }
        "delay" => {
            let text = document.delay.as_deref().ok_or("fault \"delay\" needs \"delay\", such as 2s")?;
            Kind::Delay(
                super::duration(text)
                    .filter(|delay| *delay <= DELAY_MAX)
                    .ok_or("delay must be like 2s, at most 1h")?,
            )
        }
        "hang" => Kind::Hang,
        "reset-before" => Kind::ResetBefore,
        "reset-after" => Kind::ResetAfter,
        "truncate" => Kind::Truncate,
        "invalid-json" => Kind::InvalidJson,
        "no-signature" => Kind::NoSignature,
        "token" => {
            let name = document.token.as_deref().ok_or("fault \"token\" needs \"token\", the flaw")?;
            let names: Vec<&str> = Flaw::ALL.iter().map(|(name, _)| *name).collect();
            Kind::Token(
                Flaw::of_name(name).ok_or_else(|| format!("token must be one of {}", names.join(", ")))?,
            )
        }
        other => {
            return Err(format!(
                "fault {other:?} is none of throttle, exception, http, delay, hang, reset-before, reset-after, truncate, \
                 invalid-json, no-signature, token"
            ));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(rules: &[&str]) -> Script {
        let mut script = Script::new(7);
        for rule in rules {
            script.add(serde_json::from_str(rule).unwrap()).unwrap();
        }
        script
    }

    #[test]
    fn rules_hit_what_they_name_as_often_as_they_say() {
        let mut script = script(&[
            r#"{"operation":"RegisterUsage","fault":"throttle","count":2}"#,
            r#"{"pod":"POD-B","fault":"hang"}"#,
        ]);
        assert_eq!(script.hit(Operation::MeterUsage, "POD-A"), None);
        for _ in 0..2 {
            let kind = script.hit(Operation::RegisterUsage, "POD-A");
            assert!(matches!(kind, Some(Kind::Exception(error)) if error.code == "ThrottlingException"));
        }
        assert_eq!(script.hit(Operation::RegisterUsage, "POD-A"), None);
        assert_eq!(script.hit(Operation::RegisterUsage, "POD-B"), Some(Kind::Hang));
    }

    #[test]
    fn chance_is_the_same_for_the_same_seed() {
        let run = || {
            let mut script = script(&[r#"{"fault":"hang","probability":0.5}"#]);
            (0..64).map(|_| script.hit(Operation::MeterUsage, "p").is_some()).collect::<Vec<_>>()
        };
        let first = run();
        assert_eq!(first, run());
        assert!((16..48).contains(&first.iter().filter(|hit| **hit).count()));
    }

    #[test]
    fn a_rule_that_makes_no_sense_is_refused() {
        for bad in [
            r#"{"fault":"nonsense"}"#,
            r#"{"fault":"exception"}"#,
            r#"{"fault":"delay","delay":"soon"}"#,
            r#"{"fault":"token","token":"rusty"}"#,
            r#"{"fault":"http","status":200}"#,
            r#"{"fault":"hang","operation":"Dance"}"#,
            r#"{"fault":"hang","probability":2}"#,
        ] {
            let document = serde_json::from_str(bad).unwrap();
            assert!(Script::new(0).add(document).is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<RuleDocument>(r#"{"fault":"hang","x":1}"#).is_err());
    }
}
