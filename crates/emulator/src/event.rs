//! Lifecycle events, as AWS Marketplace sends them to EventBridge and EventBridge's API destinations post them: the
//! event is the body of the request.
//!
//! - The form of each event is that of the examples in AWS's guide for sellers ("Amazon EventBridge events"), without
//!   what events that a seller published lack. Events of agreements name neither product code nor license; the
//!   agreement's identifier connects them with events of licenses.
//! - Nothing here posts: `admin::event` does.

use std::collections::VecDeque;

use ring::rand::{SecureRandom as _, SystemRandom};
use serde::Deserialize;
use serde_json::{Value, json};

use super::hash::hex;
use super::world::document::LicenseEntitlementDocument;
use super::world::switches::Switch;
use super::world::{License, World};
use tollgate_time::Timestamp;

const SOURCE: &str = "aws.agreement-marketplace";

/// Events come from this region (AWS Marketplace guide for sellers).
const REGION: &str = "us-east-1";

/// The end of an agreement without an end, as seen in an event of a usage-based product.
const ENDLESS: &str = "9999-01-01T00:00:00Z";

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    AgreementCreated,
    AgreementAmended,
    AgreementEnded,
    LicenseUpdated,
    LicenseDeprovisioned,
}

impl Kind {
    const fn detail_type(self) -> &'static str {
        match self {
            Self::AgreementCreated => "Purchase Agreement Created",
            Self::AgreementAmended => "Purchase Agreement Amended",
            Self::AgreementEnded => "Purchase Agreement Ended",
            Self::LicenseUpdated => "License Updated",
            Self::LicenseDeprovisioned => "License Deprovisioned",
        }
    }

    /// Whether the license is usable after the event; `None` if the event does not change that.
    pub(super) const fn usable(self) -> Option<bool> {
        match self {
            Self::LicenseUpdated => Some(true),
            Self::LicenseDeprovisioned => Some(false),
            _ => None,
        }
    }
}

/// Whose event it is. A seller who is both gets the proposer's events of agreements; events of licenses are always the
/// manufacturer's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Role {
    #[default]
    Proposer,
    Manufacturer,
}

/// The body of `POST /_emulator/events`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventDocument {
    pub(super) event: Option<Kind>,
    /// The `id` of an earlier event, to post it again as it was.
    pub(super) resend: Option<String>,
    /// The license, or the account with one license of the product.
    pub(super) license_arn: Option<String>,
    pub(super) account_id: Option<String>,
    /// The first SaaS product unless stated.
    pub(super) product_code: Option<String>,
    role: Option<Role>,
    /// Of a created agreement: NEW, RENEW or REPLACE.
    intent: Option<String>,
    /// Of an ended agreement: CANCELLED unless stated.
    status: Option<String>,
    /// Of an updated license: what it includes from now on.
    pub(super) entitlements: Option<Vec<LicenseEntitlementDocument>>,
    /// The event's `id` in place of a new one.
    id: Option<String>,
    /// The event's `time` in place of the emulated time.
    time: Option<String>,
    /// Members to put in place of the event's own (a JSON merge patch). Such an event is false: the world does not
    /// follow.
    pub(super) forged: Option<Value>,
    /// Whether it is posted to the target: if there is one, unless stated.
    pub(super) deliver: Option<bool>,
    /// How often it is posted.
    pub(super) times: Option<u32>,
}

/// Most posts of one event by one order.
const TIMES_MAX: u32 = 100;

impl EventDocument {
    /// Refuses members that have no effect on what is ordered.
    pub(super) fn check(&self) -> Result<(), String> {
        let given = [
            ("role", self.role.is_some(), self.event.is_some_and(|event| event.usable().is_none())),
            ("intent", self.intent.is_some(), self.event == Some(Kind::AgreementCreated)),
            ("status", self.status.is_some(), self.event == Some(Kind::AgreementEnded)),
            (
                "entitlements",
                self.entitlements.is_some(),
                self.event == Some(Kind::LicenseUpdated) && self.forged.is_none(),
            ),
            ("license_arn", self.license_arn.is_some(), self.event.is_some()),
            ("account_id", self.account_id.is_some(), self.event.is_some()),
            ("product_code", self.product_code.is_some(), self.event.is_some()),
            ("id", self.id.is_some(), self.event.is_some()),
            ("time", self.time.is_some(), self.event.is_some()),
            ("forged", self.forged.is_some(), self.event.is_some()),
        ];
        if self.event.is_some() == self.resend.is_some() {
            return Err(
                "give either \"event\", what happened, or \"resend\", the id of an earlier event".to_owned()
            );
        }
        if let Some((name, ..)) = given.iter().find(|(_, given, used)| *given && !used) {
            return Err(format!("{name:?} has no effect on this event"));
        }
        if self.times.is_some_and(|times| !(1..=TIMES_MAX).contains(&times)) {
            return Err(format!("times is between 1 and {TIMES_MAX}"));
        }
        if self.intent.as_deref().is_some_and(|intent| !["NEW", "RENEW", "REPLACE"].contains(&intent)) {
            return Err("intent is NEW, RENEW or REPLACE".to_owned());
        }
        if self.time.as_deref().is_some_and(|time| Timestamp::parse(time).is_none()) {
            return Err("time is a time such as 2026-11-24T08:00:00Z".to_owned());
        }
        if self.forged.as_ref().is_some_and(|forged| !forged.is_object()) {
            return Err(
                "forged holds members of the event: {\"detail\": {\"product\": {\"code\": \"another\"}}}"
                    .to_owned(),
            );
        }
        Ok(())
    }

    /// The license that the event is about, and its account.
    pub(super) fn license(&self, world: &World) -> Result<(String, License), String> {
        if let Some(arn) = &self.license_arn {
            let (account_id, license) =
                world.license(arn).ok_or_else(|| format!("there is no license {arn}"))?;
            let named = [
                (&self.account_id, account_id, "account_id"),
                (&self.product_code, license.product_code.as_str(), "product_code"),
            ];
            for (given, found, name) in named {
                if given.as_deref().is_some_and(|given| given != found) {
                    return Err(format!("{name} of {arn} is {found}"));
                }
            }
            return Ok((account_id.to_owned(), license));
        }
        let account_id = self.account_id.clone().ok_or("name the license: license_arn, or account_id")?;
        let product_code = self.product_code.as_deref().or_else(|| world.saas_product());
        let product_code = product_code.ok_or("there is no product with pricing \"saas\"")?;
        if !world.products.contains_key(product_code) {
            return Err(format!("there is no product {product_code:?}"));
        }
        let mut licenses = world.licenses(&account_id, product_code);
        match (licenses.pop(), licenses.len()) {
            (Some(license), 0) => Ok((account_id, license)),
            (Some(_), _) => Err(format!(
                "account {account_id} has several licenses of {product_code}; name the license_arn"
            )),
            (None, _) => {
                Err(format!("there is no customer {account_id}; POST /_emulator/customers makes one"))
            }
        }
    }

    /// The event as EventBridge has it.
    pub(super) fn event(
        &self,
        world: &World,
        kind: Kind,
        (account_id, license): (&str, &License),
        now: Timestamp,
    ) -> Value {
        let manufacturer = kind.usable().is_some() || self.role == Some(Role::Manufacturer);
        let role = if manufacturer { "Manufacturer" } else { "Proposer" };
        let product = world.products.get(&license.product_code);
        let seller = product
            .and_then(|product| product.seller_account_id.as_ref())
            .unwrap_or(&world.seller_account_id);
        let mut event = json!({
            "version": "0",
            "id": self.id.clone().unwrap_or_else(uuid),
            "detail-type": format!("{} - {role}", kind.detail_type()),
            "source": SOURCE,
            "account": seller,
            "time": self.time.clone().unwrap_or_else(|| whole_seconds(now)),
            "region": REGION,
            "resources": [format!("arn:aws:aws-marketplace::aws:agreement:{}", license.agreement_id)],
            "detail": {
                "requestId": uuid(),
                "catalog": "AWSMarketplace",
                "agreement": self.agreement(kind, license, now),
                "acceptor": {"accountId": account_id},
                "proposer": {"accountId": seller},
            },
        });
        let detail = &mut event["detail"];
        if kind != Kind::AgreementEnded {
            detail["offer"] = json!({"id": "offer-emulated"});
        }
        if kind.usable().is_some() {
            detail["product"] = json!({
                "code": license.product_code,
                "id": product_id(license),
            });
            detail["license"] = json!({"arn": license_arn(world, &license.arn)});
        } else {
            // A seller who is not the proposer sells through a reseller.
            let id = manufacturer.then_some("resaleauthz-emulated");
            detail["resaleAuthorization"] = json!({"id": id});
        }
        if kind == Kind::AgreementAmended && !manufacturer {
            detail["agreement"]["autoRenewalEnabled"] = json!(false);
            detail["renewalSummary"] = json!({"lockoutStartTime": null, "disabledBy": null});
            detail["product"] = json!({"id": product_id(license), "title": license.product_code});
        }
        if let Some(forged) = &self.forged {
            merge(&mut event, forged);
        }
        event
    }

    fn agreement(&self, kind: Kind, license: &License, now: Timestamp) -> Value {
        let mut agreement = json!({"id": license.agreement_id});
        match kind {
            Kind::AgreementCreated | Kind::AgreementAmended => {
                let intent = if kind == Kind::AgreementAmended { "AMEND" } else { "NEW" };
                let start = whole_seconds(license.active_from.unwrap_or(now));
                agreement["intent"] = json!(self.intent.as_deref().unwrap_or(intent));
                agreement["status"] = json!("ACTIVE");
                agreement["acceptanceTime"] = json!(start);
                agreement["startTime"] = json!(start);
                agreement["endTime"] =
                    json!(license.active_until.map_or_else(|| ENDLESS.to_owned(), whole_seconds));
            }
            Kind::AgreementEnded => {
                agreement["status"] = json!(self.status.as_deref().unwrap_or("CANCELLED"));
            }
            Kind::LicenseUpdated | Kind::LicenseDeprovisioned => {}
        }
        agreement
    }
}

/// The emulated marketplace knows product codes only.
fn product_id(license: &License) -> String {
    format!("prod-{}", license.product_code)
}

/// A license's ARN, in the form that the switch says.
fn license_arn(world: &World, arn: &str) -> String {
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    match parts[..] {
        [_, partition, service, _, account, resource] if world.switches.second(Switch::EventLicenseArn) => {
            let resource = resource.strip_prefix("license:").unwrap_or(resource);
            format!("{partition}:{service}:{REGION}:{account}:{resource}")
        }
        _ => arn.to_owned(),
    }
}

fn whole_seconds(at: Timestamp) -> String {
    Timestamp::from_unix_seconds(at.unix_seconds()).to_string()
}

/// A JSON merge patch (RFC 7396).
fn merge(value: &mut Value, patch: &Value) {
    let Value::Object(members) = patch else {
        *value = patch.clone();
        return;
    };
    if !value.is_object() {
        *value = json!({});
    }
    for (name, member) in members {
        if member.is_null() {
            value.as_object_mut().map(|object| object.remove(name));
        } else {
            merge(&mut value[name.as_str()], member);
        }
    }
}

/// A random UUID: a receiver may know the events of an earlier emulator.
fn uuid() -> String {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).expect("the system has random numbers");
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let digits = hex(bytes);
    let part = |range: std::ops::Range<usize>| digits.get(range).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0..8), part(8..12), part(12..16), part(16..20), part(20..32))
}

/// Where events are posted.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) url: String,
    /// A header that authorises the post, such as `authorization`, and its value.
    pub(super) header: Option<(String, String)>,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("url", &self.url).finish_non_exhaustive()
    }
}

/// Most events that are kept.
const KEPT_MAX: usize = 1000;

/// The target, and the latest events with their deliveries. They end with the process, as faults do.
#[derive(Debug, Default)]
pub(super) struct Events {
    pub(super) target: Option<Target>,
    sent: VecDeque<(Value, Vec<Value>)>,
}

impl Events {
    /// Keeps an event, or the deliveries of one that was kept before.
    pub(super) fn note(&mut self, event: &Value, deliveries: &[Value]) {
        if let Some((_, known)) = self.sent.iter_mut().rev().find(|(sent, _)| sent == event) {
            known.extend_from_slice(deliveries);
            let excess = known.len().saturating_sub(KEPT_MAX);
            known.drain(..excess);
            return;
        }
        if self.sent.len() == KEPT_MAX {
            self.sent.pop_front();
        }
        self.sent.push_back((event.clone(), deliveries.to_vec()));
    }

    /// The latest event with this `id`.
    pub(super) fn find(&self, id: &str) -> Option<&Value> {
        self.sent.iter().rev().map(|(event, _)| event).find(|event| event["id"] == id)
    }

    /// The target without its header's value, and the latest events, newest last.
    pub(super) fn json(&self, last: usize) -> Value {
        let target = self
            .target
            .as_ref()
            .map(|target| json!({"url": target.url, "header": target.header.as_ref().map(|(name, _)| name)}));
        let skipped = self.sent.len().saturating_sub(last);
        let events = self.sent.iter().skip(skipped);
        let events = events.map(|(event, deliveries)| json!({"event": event, "deliveries": deliveries}));
        json!({"target": target, "events": events.collect::<Vec<_>>()})
    }
}

#[cfg(test)]
pub(super) mod tests;
