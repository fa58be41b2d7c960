//! Contracts and checkouts for people and tests.

use serde_json::{Value, json};

use super::{Event, Held, Live, Seats};
use crate::change::Taken;
use crate::world::World;
use crate::world::contract::{Contract, Entitlement};
use tollgate_time::Timestamp;

impl Seats {
    /// Every contract with the number of held seats, every checkout, and the latest events.
    pub(crate) fn json(&self, world: &World, now: Timestamp, last: usize) -> Value {
        let mut contracts: Vec<(&String, &Contract)> = world.contracts.iter().collect();
        contracts.sort_by_key(|(_, contract)| contract.number);
        let licenses = contracts.into_iter().map(|(arn, contract)| self.license_json(arn, contract, now));
        let licenses: Vec<Value> = licenses.collect();
        let live = || self.live.values();
        let rows = live().flat_map(|live| live.checkout.taken.iter().map(move |taken| (live, taken)));
        let rows = rows.map(|(live, taken)| checkout_json(world, live, taken));
        let skipped = self.log.len().saturating_sub(last);
        json!({
            "licenses": licenses,
            "checkouts": rows.take(CHECKOUTS_SHOWN).collect::<Vec<_>>(),
            "checkouts_count": live().map(|live| live.checkout.taken.len()).sum::<usize>(),
            "totals": self.totals,
            "log": self.log.iter().skip(skipped).map(event_json).collect::<Vec<_>>(),
        })
    }

    /// A contract with the number of held seats.
    pub(crate) fn license_json(&self, arn: &str, contract: &Contract, now: Timestamp) -> Value {
        let entitlements: Vec<Value> =
            contract.entitlements.iter().map(|entitlement| self.entitlement_json(arn, entitlement)).collect();
        json!({
            "license_arn": arn,
            "product_id": contract.product_id,
            "product_name": contract.product_name,
            "account_id": contract.account_id,
            "key_fingerprint": contract.key_fingerprint,
            "received": contract.received,
            "status": contract.status_at(now),
            "begin": contract.begin.map(|at| at.to_string()),
            "end": contract.end.map(|at| at.to_string()),
            "time_to_live": format!("{}m", contract.time_to_live_minutes),
            "home_region": contract.home_region,
            "entitlements": entitlements,
        })
    }

    fn entitlement_json(&self, arn: &str, entitlement: &Entitlement) -> Value {
        let held = self.held.get(&(arn.to_owned(), entitlement.name.clone()));
        let Held { now, most } = held.copied().unwrap_or_default();
        json!({
            "name": entitlement.name,
            "unit": entitlement.unit,
            "max_count": entitlement.max_count,
            "value": entitlement.value,
            "overage": entitlement.overage,
            "allow_check_in": entitlement.allow_check_in,
            "held": now,
            "held_max": most,
        })
    }
}

/// Most lines of checkouts, one for each entitlement; `checkouts_count` has their number.
const CHECKOUTS_SHOWN: usize = 2000;

fn checkout_json(world: &World, live: &Live, taken: &Taken) -> Value {
    let Live { checkout, extensions } = live;
    let product_id = world.contracts.get(&checkout.license_arn).map(|contract| &contract.product_id);
    json!({
        "checkout": checkout.number,
        "pod": checkout.pod,
        "node_id": checkout.node_id,
        "account_id": checkout.account_id,
        "license_arn": checkout.license_arn,
        "product_id": product_id,
        "name": taken.name,
        "unit": taken.unit,
        "quantity": taken.quantity,
        "since": Timestamp::from_unix_millis(checkout.since).to_rfc3339_millis(),
        "expires": checkout.expires.map(|at| Timestamp::from_unix_millis(at).to_rfc3339_millis()),
        "extensions": extensions,
    })
}

fn event_json(event: &Event) -> Value {
    json!({
        "at": Timestamp::from_unix_millis(event.at).to_rfc3339_millis(),
        "what": event.what,
        "checkout": event.checkout,
        "pod": event.pod,
        "license_arn": event.license_arn,
        "name": event.name,
        "quantity": event.quantity,
        "held": event.held,
    })
}
