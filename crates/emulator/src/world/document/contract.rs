//! Orders about contracts.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::{DECLARED_MAX, DIMENSIONS_MAX, Faults, Place};
use crate::model::UNITS;
use crate::world::World;
use crate::world::contract::{
    AWS_MARKETPLACE, Contract, Entitlement, Received, Status, TIER, arn, issuer, next_number,
};
use tollgate_time::Timestamp;

/// An order about a contract.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ContractDocument {
    /// Required if the account has two contracts of one product.
    license_arn: Option<String>,
    product_id: Option<String>,
    product_name: Option<String>,
    account_id: Option<String>,
    key_fingerprint: Option<String>,
    received: Option<Received>,
    status: Option<Status>,
    begin: Option<String>,
    /// A time, or `never`.
    end: Option<String>,
    time_to_live: Option<String>,
    home_region: Option<String>,
    entitlements: Option<Vec<EntitlementDocument>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EntitlementDocument {
    name: String,
    unit: Option<String>,
    max_count: Option<u64>,
    value: Option<String>,
    overage: Option<bool>,
    allow_check_in: Option<bool>,
}

/// 2024-01-01T00:00:00Z: before every test and rehearsal.
const BEGIN: Timestamp = Timestamp::from_unix_seconds(1_704_067_200);

/// The time in AWS's guides for checkouts of container products.
const TIME_TO_LIVE_MINUTES: u32 = 60;

/// A year: longer than any rehearsal.
const TIME_TO_LIVE_MINUTES_MAX: u32 = 366 * 24 * 60;

/// Most units of one entitlement: the model's integer has 64 bits with a sign.
const COUNT_MAX: u64 = i64::MAX as u64;

/// The value of `end` for a contract without end.
const NEVER: &str = "never";

impl ContractDocument {
    pub(super) fn contract(self, world: &World, at: &Place, faults: &mut Faults) -> (String, Contract) {
        if let Some(account_id) = &self.account_id {
            faults.account(at.member("account_id"), account_id);
        }
        if let Some(product_id) = &self.product_id {
            faults.name(at.member("product_id"), product_id);
        }
        if let Some(key_fingerprint) = &self.key_fingerprint
            && issuer(key_fingerprint).is_none()
        {
            let text = format!("{key_fingerprint:?} is no fingerprint, such as {AWS_MARKETPLACE}");
            faults.add(at.member("key_fingerprint"), text);
        }
        let arn = self.arn(world, at, faults);
        let known = world.contracts.get(&arn);
        let count = world.contracts.len() + usize::from(known.is_none());
        faults.full(at, count, DECLARED_MAX, "licenses");
        let mut contract = known.cloned().unwrap_or_else(|| Contract {
            product_id: String::new(),
            product_name: String::new(),
            key_fingerprint: AWS_MARKETPLACE.to_owned(),
            account_id: world.account_id.clone(),
            received: Received::default(),
            status: Status::default(),
            begin: Some(BEGIN),
            end: None,
            time_to_live_minutes: TIME_TO_LIVE_MINUTES,
            home_region: world.region.clone(),
            entitlements: Vec::new(),
            number: next_number(&world.contracts),
        });
        self.change(&mut contract, at, faults);
        if contract.product_id.is_empty() {
            faults.add(at.member("product_id"), "a license is of a product");
        }
        if contract.product_name.is_empty() {
            contract.product_name.clone_from(&contract.product_id);
        }
        if contract.entitlements.is_empty() {
            faults.add(at.member("entitlements"), "a license has at least one entitlement");
        }
        (arn, contract)
    }

    /// The ARN of the contract: the given one, else that of the only contract of the account and product, else a new
    /// one.
    fn arn(&self, world: &World, at: &Place, faults: &mut Faults) -> String {
        if let Some(arn) = &self.license_arn {
            faults.modelled(at.member("license_arn"), "LicenseArn", arn);
            return arn.clone();
        }
        let account_id = self.account_id.as_ref().unwrap_or(&world.account_id);
        let product_id = self.product_id.as_deref().unwrap_or_default();
        let mut meant = world.contracts.iter().filter(|(_, contract)| {
            contract.account_id == *account_id
                && contract.product_id == product_id
                && self.key_fingerprint.as_ref().is_none_or(|wanted| *wanted == contract.key_fingerprint)
        });
        match (meant.next(), meant.next()) {
            (Some((arn, _)), None) => arn.clone(),
            (Some(_), Some(_)) => {
                let text =
                    format!("account {account_id:?} has two licenses of {product_id:?}; name one of them");
                faults.add(at.member("license_arn"), text);
                String::new()
            }
            (None, _) => {
                let key_fingerprint = self.key_fingerprint.as_deref().unwrap_or(AWS_MARKETPLACE);
                let (issuer, _) = issuer(key_fingerprint).unwrap_or_default();
                arn(issuer, [account_id, product_id])
            }
        }
    }

    fn change(self, contract: &mut Contract, at: &Place, faults: &mut Faults) {
        for (given, member) in [
            (self.product_id, &mut contract.product_id),
            (self.account_id, &mut contract.account_id),
            (self.key_fingerprint, &mut contract.key_fingerprint),
        ] {
            if let Some(given) = given {
                *member = given;
            }
        }
        if let Some(name) = self.product_name {
            faults.name(at.member("product_name"), &name);
            contract.product_name = name;
        }
        if let Some(region) = self.home_region {
            faults.region(at.member("home_region"), &region);
            contract.home_region = region;
        }
        contract.received = self.received.unwrap_or(contract.received);
        contract.status = self.status.unwrap_or(contract.status);
        if self.begin.is_some() {
            contract.begin = faults.time(at.member("begin"), self.begin.as_ref());
        }
        if let Some(end) = self.end {
            let time = Some(&end).filter(|end| *end != NEVER);
            contract.end = faults.time(at.member("end"), time);
        }
        if contract.begin.zip(contract.end).is_some_and(|(begin, end)| end <= begin) {
            faults.add(at.member("end"), "the license ends before it begins");
        }
        if let Some(text) = self.time_to_live {
            contract.time_to_live_minutes = minutes(&text).unwrap_or_else(|| {
                let text = format!("{text:?} is no duration of whole minutes, such as 60m, at most a year");
                faults.add(at.member("time_to_live"), text);
                TIME_TO_LIVE_MINUTES
            });
        }
        if let Some(entitlements) = self.entitlements {
            contract.entitlements = entitlements_of(entitlements, &at.member("entitlements"), faults);
        }
    }
}

fn minutes(text: &str) -> Option<u32> {
    let duration = crate::duration(text)?;
    let minutes = u32::try_from(duration.as_secs() / 60).ok()?;
    let whole = duration.as_millis() == u128::from(minutes) * 60_000;
    (whole && (1..=TIME_TO_LIVE_MINUTES_MAX).contains(&minutes)).then_some(minutes)
}

fn entitlements_of(orders: Vec<EntitlementDocument>, at: &Place, faults: &mut Faults) -> Vec<Entitlement> {
    faults.full(at, orders.len(), DIMENSIONS_MAX, "entitlements");
    let mut names = BTreeSet::new();
    let mut entitlements = Vec::with_capacity(orders.len());
    for (index, order) in orders.into_iter().enumerate() {
        let place = at.item(index);
        faults.name(place.member("name"), &order.name);
        if !names.insert(order.name.clone()) {
            faults.add(place.member("name"), "the entitlement is declared twice");
        }
        let unit = order.unit.unwrap_or_else(|| "Count".to_owned());
        if !UNITS.contains(&unit.as_str()) {
            faults.add(place.member("unit"), format!("{unit:?} is none of {}", UNITS.join(", ")));
        }
        if unit == TIER && order.max_count.is_some() {
            faults.add(place.member("max_count"), "a tier is not counted: it has a value");
        }
        if unit != TIER && order.value.is_some() {
            faults.add(place.member("value"), "only a tier (unit None) has a value");
        }
        if order.max_count.is_some_and(|count| count > COUNT_MAX) {
            faults.add(place.member("max_count"), format!("it is at most {COUNT_MAX}"));
        }
        entitlements.push(Entitlement {
            value: order.value.or_else(|| (unit == TIER).then(|| "Enabled".to_owned())),
            name: order.name,
            unit,
            max_count: order.max_count,
            overage: order.overage.unwrap_or(false),
            allow_check_in: order.allow_check_in.unwrap_or(true),
        });
    }
    entitlements
}
