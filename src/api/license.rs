//! `GET /v1/license`: the license of a contract product, the seats that are taken, and those that this pod holds. The
//! document never contains a token.

use serde_json::{Value, json};

use crate::license::{Held, Knowledge};
use tollgate_marketplace::license::{ReceivedLicense, Unit};
use tollgate_time::Timestamp;

/// Shows the license.
#[derive(Debug, Clone)]
pub struct LicensePart {
    /// What is known of the license.
    pub held: Held,
    /// `check` or `floating`.
    pub model: &'static str,
}

impl LicensePart {
    /// The document at `now`, by the clock that dated the knowledge. What is not known yet is null or an empty list.
    #[must_use]
    pub fn document(&self, now: Timestamp) -> Value {
        document(&self.held.borrow(), self.model, now)
    }
}

fn document(knowledge: &Knowledge, model: &str, now: Timestamp) -> Value {
    let chosen = knowledge.license();
    let others =
        knowledge.licenses.iter().filter(|license| chosen.is_none_or(|chosen| chosen.arn != license.arn));
    let held = knowledge.held.iter().map(|held| {
        json!({
            "name": held.name, "unit": held.unit, "quantity": held.quantity,
            "expires": held.expires.to_string(), "renewed": held.renewed.to_string(),
        })
    });
    let entitlements = knowledge.seats().map(|seats| {
        json!({
            "name": seats.entitlement.name, "unit": seats.entitlement.unit.map(Unit::as_str), "max": seats.max,
            "used": seats.used, "held": seats.held, "value": seats.entitlement.value,
        })
    });
    json!({
        "model": model,
        "license": chosen.map(shown),
        "entitlements": entitlements.collect::<Vec<_>>(),
        "held": held.collect::<Vec<_>>(),
        "other_licenses": others.map(shown).collect::<Vec<_>>(),
        "known_at": time(knowledge.known_at),
        "age_seconds": knowledge.known_at.map(|at| now.since(at).as_secs()),
        "granted_at": time(knowledge.granted_at),
        "now": now.to_string(),
        "emulated": knowledge.emulated,
    })
}

fn shown(license: &ReceivedLicense) -> Value {
    json!({
        "arn": license.arn,
        "status": license.status.as_str(),
        "received": license.received.as_str(),
        "begin": time(license.begin),
        "end": time(license.end),
        "home_region": license.home_region,
    })
}

fn time(at: Option<Timestamp>) -> Option<String> {
    at.map(|at| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::license::knowledge::HeldSeats;
    use tollgate_marketplace::license::{Entitlement, EntitlementUsage, LicenseStatus, Received};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_seconds(1_780_000_000 + seconds)
    }

    fn license(arn: &str, received: Received) -> ReceivedLicense {
        let entitlement = |name: &str, unit: Option<Unit>, max_count, value: Option<&str>| Entitlement {
            name: name.to_owned(),
            unit,
            max_count,
            value: value.map(str::to_owned),
            overage: false,
            allow_check_in: true,
        };
        ReceivedLicense {
            arn: arn.to_owned(),
            product_id: "prod-demo".to_owned(),
            key_fingerprint: "aws:294406891311:AWS/Marketplace:issuer-fingerprint".to_owned(),
            status: LicenseStatus::Available,
            received,
            begin: Some(at(0)),
            end: Some(at(1_000_000)),
            entitlements: vec![
                entitlement("users", Some(Unit::COUNT), Some(10), None),
                entitlement("nodes", Some(Unit::COUNT), Some(0), None),
                entitlement("premium", Some(Unit::NONE), None, Some("gold")),
                entitlement("novel", None, Some(5), None),
            ],
            home_region: Some("us-east-1".to_owned()),
            time_to_live_max: None,
        }
    }

    /// A floating license with three of ten seats taken, one of them by this pod; and a license that is not activated.
    fn known() -> Knowledge {
        let (name, unit) = ("users".to_owned(), "Count".to_owned());
        Knowledge {
            licenses: vec![license("arn:1", Received::Disabled), license("arn:2", Received::Active)],
            chosen: Some("arn:2".to_owned()),
            usage: vec![EntitlementUsage {
                name: name.clone(),
                unit: unit.clone(),
                consumed: 3,
                max_count: Some(10),
            }],
            held: vec![HeldSeats { name, unit, quantity: 1, expires: at(3700), renewed: at(100) }],
            known_at: Some(at(100)),
            granted_at: Some(at(100)),
            emulated: true,
        }
    }

    #[test]
    fn the_document_says_what_is_sold_taken_and_held() {
        let document = document(&known(), "floating", at(130));
        assert_eq!(
            document,
            json!({
                "model": "floating",
                "license": {
                    "arn": "arn:2", "status": "available", "received": "active", "begin": "2026-05-28T20:26:40Z",
                    "end": "2026-06-09T10:13:20Z", "home_region": "us-east-1",
                },
                "entitlements": [
                    {"name": "users", "unit": "Count", "max": 10, "used": 3, "held": 1, "value": null},
                    {"name": "nodes", "unit": "Count", "max": null, "used": null, "held": 0, "value": null},
                    {"name": "premium", "unit": "None", "max": null, "used": null, "held": 0, "value": "gold"},
                    {"name": "novel", "unit": null, "max": 5, "used": null, "held": 0, "value": null},
                ],
                "held": [{
                    "name": "users", "unit": "Count", "quantity": 1, "expires": "2026-05-28T21:28:20Z",
                    "renewed": "2026-05-28T20:28:20Z",
                }],
                "other_licenses": [{
                    "arn": "arn:1", "status": "available", "received": "disabled", "begin": "2026-05-28T20:26:40Z",
                    "end": "2026-06-09T10:13:20Z", "home_region": "us-east-1",
                }],
                "known_at": "2026-05-28T20:28:20Z",
                "age_seconds": 30,
                "granted_at": "2026-05-28T20:28:20Z",
                "now": "2026-05-28T20:28:50Z",
                "emulated": true,
            })
        );
    }

    #[test]
    fn nothing_is_invented_while_nothing_is_known() {
        let document = document(&Knowledge::default(), "check", at(0));
        for member in ["license", "known_at", "age_seconds", "granted_at"] {
            assert_eq!(document[member], Value::Null, "{member}");
        }
        for member in ["entitlements", "held", "other_licenses"] {
            assert_eq!(document[member], json!([]), "{member}");
        }
    }

    /// If no license is chosen, all are listed, so that an operator sees why none counts.
    #[test]
    fn licenses_that_do_not_count_are_listed() {
        let knowledge = Knowledge { chosen: None, held: Vec::new(), ..known() };
        let document = document(&knowledge, "check", at(0));
        assert_eq!(document["license"], Value::Null);
        assert_eq!(document["other_licenses"].as_array().map(Vec::len), Some(2));
    }
}
