//! The double of License Manager: licenses and their seats, which are free again when they are given back or have
//! expired.
//!
//! [`Seats`] takes the time as an argument; [`ScriptedSeats`] is the same behind the service's trait, and treats each
//! call as its script says.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::{Act, TIMEOUT, lock};
use crate::license::{
    CheckedIn, CheckedOut, CheckoutLicense, ConsumptionToken, Entitlement, EntitlementData, EntitlementUsage,
    Extended, LicenseStatus, LicenseUsage, ListReceivedLicenses, Received, ReceivedLicense, ReceivedLicenses,
    Unit,
};
use crate::service::ServiceFuture;
use crate::{Fault, FaultClass, KeyFingerprint, License, Place, Region, Regional, Signing, exceptions};
use tollgate_clock::WallClock;
use tollgate_time::Timestamp;

/// The product of [`license`].
pub const PRODUCT_ID: &str = "prod-seats";

/// A license without an end, with these counted entitlements (0 means without a limit) and tiers.
#[must_use]
pub fn license(arn: &str, counted: &[(&str, u64)], tiers: &[&str]) -> ReceivedLicense {
    let counted = counted.iter().map(|(name, max)| entitlement(name, Unit::COUNT, Some(*max)));
    let tiers = tiers.iter().map(|name| entitlement(name, Unit::NONE, None));
    ReceivedLicense {
        arn: arn.to_owned(),
        product_id: PRODUCT_ID.to_owned(),
        key_fingerprint: KeyFingerprint::AWS_MARKETPLACE.as_str().to_owned(),
        status: LicenseStatus::Available,
        received: Received::Active,
        begin: None,
        end: None,
        entitlements: counted.chain(tiers).collect(),
        home_region: Some("us-east-1".to_owned()),
        time_to_live_max: Some(Duration::from_secs(3600)),
    }
}

fn entitlement(name: &str, unit: Unit, max_count: Option<u64>) -> Entitlement {
    Entitlement {
        name: name.to_owned(),
        unit: Some(unit),
        max_count,
        value: None,
        overage: false,
        allow_check_in: true,
    }
}

/// A checkout.
#[derive(Debug, Clone)]
struct Checkout {
    token: String,
    client_token: String,
    arn: String,
    taken: Vec<EntitlementData>,
    began: Timestamp,
    expires: Timestamp,
}

/// Licenses and their seats.
#[derive(Debug, Clone)]
pub struct Seats {
    /// The licenses that the account has received.
    pub licenses: Vec<ReceivedLicense>,
    /// How long a client token is recognised; after that the same one makes a new checkout.
    pub client_token_life: Duration,
    /// How long a checkout lasts unless it is extended.
    pub time_to_live: Duration,
    out: Vec<Checkout>,
    count: u64,
}

impl Seats {
    /// With these licenses and AWS's times.
    #[must_use]
    pub fn new(licenses: Vec<ReceivedLicense>) -> Self {
        Self {
            licenses,
            client_token_life: Duration::from_secs(600),
            time_to_live: Duration::from_secs(3600),
            out: Vec::new(),
            count: 0,
        }
    }

    fn pass(&mut self, now: Timestamp) {
        self.out.retain(|checkout| checkout.expires > now);
    }

    /// `ListReceivedLicenses`
    #[must_use]
    pub fn list(&self, product_id: &str, key_fingerprint: &str) -> ReceivedLicenses {
        let of = |license: &&ReceivedLicense| {
            license.product_id == product_id && license.key_fingerprint == key_fingerprint
        };
        ReceivedLicenses { licenses: self.licenses.iter().filter(of).cloned().collect(), emulated: false }
    }

    /// `CheckoutLicense`
    pub fn check_out(
        &mut self,
        client_token: &str,
        asked: &[EntitlementData],
        now: Timestamp,
    ) -> Result<CheckedOut, Fault> {
        self.pass(now);
        let known = self.out.iter().find(|checkout| {
            checkout.client_token == client_token && now.since(checkout.began) < self.client_token_life
        });
        if let Some(known) = known {
            return Ok(answer(known));
        }
        let license = self.licenses.iter().find(|license| self.grants(license, asked, now));
        let arn = license.map(|license| license.arn.clone()).ok_or_else(none_allowed)?;
        self.count += 1;
        let checkout = Checkout {
            token: format!("consumption-{}", self.count),
            client_token: client_token.to_owned(),
            arn,
            taken: asked.to_vec(),
            began: now,
            expires: now.plus(self.time_to_live),
        };
        let answer = answer(&checkout);
        self.out.push(checkout);
        Ok(answer)
    }

    fn grants(&self, license: &ReceivedLicense, asked: &[EntitlementData], now: Timestamp) -> bool {
        let usable = license.status == LicenseStatus::Available && license.received == Received::Active;
        let valid = license.begin.is_none_or(|begin| begin <= now) && license.end.is_none_or(|end| now < end);
        usable
            && valid
            && asked.iter().all(|asked| {
                let found = license.entitlements.iter().find(|found| found.name == asked.name);
                found.is_some_and(|found| {
                    let unit = found.unit.is_some_and(|unit| unit.as_str() == asked.unit);
                    let max = found.max_count.filter(|max| *max > 0 && !found.overage);
                    let taken =
                        self.taken(&license.arn, &asked.name).saturating_add(asked.value.unwrap_or(0));
                    unit && max.is_none_or(|max| taken <= max)
                })
            })
    }

    fn taken(&self, arn: &str, name: &str) -> u64 {
        let of = self.out.iter().filter(|checkout| checkout.arn == arn);
        let taken = of.flat_map(|checkout| &checkout.taken).filter(|taken| taken.name == name);
        taken.filter_map(|taken| taken.value).sum()
    }

    /// `ExtendLicenseConsumption`
    pub fn extend(&mut self, token: &ConsumptionToken, now: Timestamp) -> Result<Extended, Fault> {
        self.pass(now);
        let expires = now.plus(self.time_to_live);
        let checkout = self.out.iter_mut().find(|checkout| checkout.token == token.secret());
        let checkout = checkout.ok_or_else(not_found)?;
        checkout.expires = expires;
        Ok(Extended { token: token.clone(), expiration: Some(expires), emulated: false })
    }

    /// `CheckInLicense`
    pub fn check_in(&mut self, token: &ConsumptionToken, now: Timestamp) -> Result<CheckedIn, Fault> {
        self.pass(now);
        let before = self.out.len();
        self.out.retain(|checkout| checkout.token != token.secret());
        if self.out.len() < before { Ok(CheckedIn { emulated: false }) } else { Err(not_found()) }
    }

    /// `GetLicenseUsage`
    #[must_use]
    pub fn usage(&mut self, arn: &str, now: Timestamp) -> LicenseUsage {
        self.pass(now);
        let license = self.licenses.iter().find(|license| license.arn == arn);
        let usage = license.into_iter().flat_map(|license| &license.entitlements).map(|entitlement| {
            EntitlementUsage {
                name: entitlement.name.clone(),
                unit: entitlement.unit.map_or("", Unit::as_str).to_owned(),
                consumed: self.taken(arn, &entitlement.name),
                max_count: entitlement.max_count,
            }
        });
        LicenseUsage { entitlements: usage.collect(), emulated: false }
    }

    /// Every checkout that has not ended: its consumption token and its client token.
    pub fn out(&mut self, now: Timestamp) -> Vec<(String, String)> {
        self.pass(now);
        self.out.iter().map(|out| (out.token.clone(), out.client_token.clone())).collect()
    }
}

fn answer(checkout: &Checkout) -> CheckedOut {
    CheckedOut {
        token: ConsumptionToken::new(checkout.token.clone()).expect("it is short, and not empty"),
        allowed: checkout.taken.clone(),
        expiration: Some(checkout.expires),
        license_arn: Some(checkout.arn.clone()),
        emulated: false,
    }
}

fn none_allowed() -> Fault {
    fault(FaultClass::Denied, exceptions::NO_ENTITLEMENTS)
}

fn not_found() -> Fault {
    fault(FaultClass::Denied, exceptions::NOT_FOUND)
}

/// A fault of License Manager's.
#[must_use]
pub fn fault(class: FaultClass, code: &'static str) -> Fault {
    Fault::local(class, code, "").at(Place::LicenseManager, None)
}

type Script = Box<dyn FnMut(&'static str) -> Act + Send>;

/// [`Seats`] behind the service's trait.
#[derive(Clone)]
pub struct ScriptedSeats {
    clock: WallClock,
    seats: Arc<Mutex<Seats>>,
    script: Arc<Mutex<Script>>,
    calls: Arc<Mutex<Vec<&'static str>>>,
}

impl ScriptedSeats {
    /// A service that treats each operation as `script` says; seats expire by `clock`.
    pub fn new(
        seats: Seats,
        clock: WallClock,
        script: impl FnMut(&'static str) -> Act + Send + 'static,
    ) -> Self {
        Self {
            clock,
            seats: Arc::new(Mutex::new(seats)),
            script: Arc::new(Mutex::new(Box::new(script))),
            calls: Arc::default(),
        }
    }

    /// Its licenses and seats.
    pub fn seats(&self) -> MutexGuard<'_, Seats> {
        lock(&self.seats)
    }

    /// Treats each call like this from now on.
    pub fn turns_to(&self, act: Act) {
        *lock(&self.script) = Box::new(move |_| act);
    }

    /// Every call so far, by operation.
    #[must_use]
    pub fn calls(&self) -> Vec<&'static str> {
        lock(&self.calls).clone()
    }

    async fn arrive<T>(
        &self,
        operation: &'static str,
        process: impl FnOnce(&mut Seats, Timestamp) -> Result<T, Fault> + Send,
    ) -> Result<T, Fault> {
        let act = (lock(&self.script))(operation);
        lock(&self.calls).push(operation);
        match act {
            Act::Hang => std::future::pending().await,
            Act::Timeout => {
                tokio::time::sleep(TIMEOUT).await;
                Err(fault(FaultClass::Transient, "Timeout"))
            }
            Act::Fail(class, code) => Err(fault(class, code)),
            Act::Skewed(seconds) => {
                let skewed = fault(FaultClass::Access, exceptions::REQUEST_TIME_TOO_SKEWED);
                Err(Fault { clock_offset_seconds: Some(seconds), ..skewed })
            }
            Act::Lose => {
                let _ = process(&mut lock(&self.seats), self.clock.now());
                Err(fault(FaultClass::Transient, "Connection"))
            }
            Act::Accept | Act::Unprocessed => process(&mut lock(&self.seats), self.clock.now()),
        }
    }
}

impl Regional for ScriptedSeats {
    fn region(&self) -> Option<Region> {
        "us-east-1".parse().ok()
    }
}

impl License for ScriptedSeats {
    fn list_received_licenses(
        &self,
        request: ListReceivedLicenses,
        _: Signing,
    ) -> ServiceFuture<'_, ReceivedLicenses> {
        Box::pin(self.arrive("ListReceivedLicenses", move |seats, _| {
            Ok(seats.list(request.product_id.as_str(), request.key_fingerprint.as_str()))
        }))
    }

    fn get_license_usage(&self, license_arn: String, _: Signing) -> ServiceFuture<'_, LicenseUsage> {
        Box::pin(self.arrive("GetLicenseUsage", move |seats, now| Ok(seats.usage(&license_arn, now))))
    }

    fn checkout_license(&self, request: CheckoutLicense, _: Signing) -> ServiceFuture<'_, CheckedOut> {
        Box::pin(self.arrive("CheckoutLicense", move |seats, now| {
            seats.check_out(&request.client_token, &request.entitlements, now)
        }))
    }

    fn extend_license_consumption(&self, token: ConsumptionToken, _: Signing) -> ServiceFuture<'_, Extended> {
        Box::pin(self.arrive("ExtendLicenseConsumption", move |seats, now| seats.extend(&token, now)))
    }

    fn check_in_license(&self, token: ConsumptionToken, _: Signing) -> ServiceFuture<'_, CheckedIn> {
        Box::pin(self.arrive("CheckInLicense", move |seats, now| seats.check_in(&token, now)))
    }

    fn clock_skew(&self) -> Option<i64> {
        None
    }
}
