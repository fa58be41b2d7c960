//! A model of License Manager's seats: a number of seats, each held until a time, and client tokens that are known for
//! ten minutes.

use std::collections::BTreeMap;

use tollgate_marketplace::exceptions::{NO_ENTITLEMENTS, NOT_FOUND};
use tollgate_marketplace::license::{
    CheckedIn, CheckedOut, ConsumptionToken, Entitlement, EntitlementData, EntitlementUsage, Extended,
    LicenseStatus, LicenseUsage, Received, ReceivedLicense, ReceivedLicenses, Unit,
};
use tollgate_marketplace::{Fault, FaultClass, KeyFingerprint, Place};
use tollgate_time::Timestamp;

pub(crate) const PRODUCT: &str = "2205b290-19e6-4c76-9eea-377d6bf7141a";
pub(crate) const DIMENSION: &str = "users";
const ARN: &str = "arn:aws:license-manager::294406891311:license:l-1";
const TIME_TO_LIVE_MILLIS: u64 = 3_600_000;
const CLIENT_TOKEN_MILLIS: u64 = 600_000;
/// The wall time at the simulation's start.
const EPOCH_SECONDS: i64 = 1_790_000_000;

/// The wall time at a moment of the simulation.
pub(crate) fn wall(millis: u64) -> Timestamp {
    Timestamp::from_unix_seconds(EPOCH_SECONDS).plus(std::time::Duration::from_millis(millis))
}

/// A seat that is sold. It is idle while no living pod uses it, even if it is held.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    pub(crate) token: Option<String>,
    expires: u64,
    pub(crate) idle_since: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) slots: Vec<Slot>,
    client_tokens: BTreeMap<String, (String, u64)>,
    serial: u64,
    /// The time of the next search for expired seats: once a second is exact enough, and much
    /// faster.
    looks_at: u64,
}

impl Service {
    pub(crate) fn new(seats: usize) -> Self {
        let slot = || Slot { idle_since: Some(0), ..Slot::default() };
        Self {
            slots: std::iter::repeat_with(slot).take(seats).collect(),
            client_tokens: BTreeMap::new(),
            serial: 0,
            looks_at: 0,
        }
    }

    /// Expired seats are free.
    pub(crate) fn pass(&mut self, now: u64) {
        if now < self.looks_at {
            return;
        }
        self.looks_at = now + 1000;
        for slot in self.slots.iter_mut().filter(|slot| slot.token.is_some() && slot.expires <= now) {
            slot.token = None;
            slot.idle_since.get_or_insert(now);
        }
        self.client_tokens.retain(|_, (_, at)| now < *at + CLIENT_TOKEN_MILLIS);
    }

    pub(crate) fn held(&self) -> usize {
        self.slots.iter().filter(|slot| slot.token.is_some()).count()
    }

    pub(crate) fn slot(&mut self, token: &str) -> Option<&mut Slot> {
        self.slots.iter_mut().find(|slot| slot.token.as_deref() == Some(token))
    }

    pub(crate) fn check_out(
        &mut self,
        client_token: &str,
        take: &[EntitlementData],
        now: u64,
    ) -> Result<CheckedOut, Fault> {
        let known = self.client_tokens.get(client_token).map(|(token, _)| token.clone());
        let token = match known {
            Some(token) => token,
            None => {
                assert!(matches!(take, [one] if one.value == Some(1)), "one seat: {take:?}");
                // The seat that has been free for longest.
                let free = self.slots.iter_mut().filter(|slot| slot.token.is_none());
                let slot = free.min_by_key(|slot| slot.idle_since).ok_or_else(|| refused(NO_ENTITLEMENTS))?;
                self.serial += 1;
                let token = format!("consumption-{}", self.serial);
                slot.token = Some(token.clone());
                slot.expires = now + TIME_TO_LIVE_MILLIS;
                self.client_tokens.insert(client_token.to_owned(), (token.clone(), now));
                token
            }
        };
        Ok(CheckedOut {
            allowed: take.to_vec(),
            expiration: self.slot(&token).map(|slot| wall(slot.expires)),
            license_arn: Some(ARN.to_owned()),
            emulated: false,
            token: ConsumptionToken::new(token).expect("it is short"),
        })
    }

    pub(crate) fn extend(&mut self, token: &ConsumptionToken, now: u64) -> Result<Extended, Fault> {
        let slot = self.slot(token.secret()).ok_or_else(|| refused(NOT_FOUND))?;
        slot.expires = now + TIME_TO_LIVE_MILLIS;
        Ok(Extended { token: token.clone(), expiration: Some(wall(slot.expires)), emulated: false })
    }

    pub(crate) fn check_in(&mut self, token: &ConsumptionToken, now: u64) -> Result<CheckedIn, Fault> {
        let slot = self.slot(token.secret()).ok_or_else(|| refused(NOT_FOUND))?;
        slot.token = None;
        slot.idle_since.get_or_insert(now);
        Ok(CheckedIn { emulated: false })
    }

    pub(crate) fn list(&self) -> ReceivedLicenses {
        let entitlement = Entitlement {
            name: DIMENSION.to_owned(),
            unit: Some(Unit::COUNT),
            max_count: Some(self.slots.len() as u64),
            value: None,
            overage: false,
            allow_check_in: true,
        };
        let license = ReceivedLicense {
            arn: ARN.to_owned(),
            product_id: PRODUCT.to_owned(),
            key_fingerprint: KeyFingerprint::AWS_MARKETPLACE.as_str().to_owned(),
            status: LicenseStatus::Available,
            received: Received::Active,
            begin: None,
            end: None,
            entitlements: vec![entitlement],
            home_region: None,
            time_to_live_max: None,
        };
        ReceivedLicenses { licenses: vec![license], emulated: false }
    }

    pub(crate) fn look(&self) -> LicenseUsage {
        let usage = EntitlementUsage {
            name: DIMENSION.to_owned(),
            unit: Unit::COUNT.as_str().to_owned(),
            consumed: self.held() as u64,
            max_count: Some(self.slots.len() as u64),
        };
        LicenseUsage { entitlements: vec![usage], emulated: false }
    }
}

fn refused(code: &'static str) -> Fault {
    Fault::local(FaultClass::Denied, code, "").at(Place::LicenseManager, None)
}
