//! The double of the entitlement service: entitlements that a test sets, and what happens to calls.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Act, TIMEOUT, lock};
use crate::entitlements::{Entitlement, Entitlements, EntitlementsOf, GetEntitlements};
use crate::service::{Entitle, ServiceFuture};
use crate::{Fault, FaultClass};

/// The service.
#[derive(Debug, Clone)]
pub struct ScriptedEntitlements {
    held: Arc<Mutex<Vec<Entitlement>>>,
    act: Arc<Mutex<Act>>,
    late: Arc<Mutex<Duration>>,
    calls: Arc<Mutex<Vec<EntitlementsOf>>>,
}

/// An entitlement of an account's license.
#[must_use]
pub fn entitlement(account: &str, license_arn: &str, dimension: &str, units: u64) -> Entitlement {
    Entitlement {
        dimension: dimension.to_owned(),
        value: Some(crate::entitlements::EntitlementValue::Number(units.into())),
        expires_at: None,
        account: Some(account.to_owned()),
        license_arn: Some(license_arn.to_owned()),
        identifier: None,
    }
}

impl ScriptedEntitlements {
    /// With these entitlements; every call is answered.
    #[must_use]
    pub fn new(held: Vec<Entitlement>) -> Self {
        Self {
            held: Arc::new(Mutex::new(held)),
            act: Arc::new(Mutex::new(Act::Accept)),
            late: Arc::default(),
            calls: Arc::default(),
        }
    }

    /// Changes the entitlements.
    pub fn hold(&self, held: Vec<Entitlement>) {
        *lock(&self.held) = held;
    }

    /// Treats each call like this from now on.
    pub fn turns_to(&self, act: Act) {
        *lock(&self.act) = act;
    }

    /// From now on an answer is on its way for this time: it has the entitlements of the moment of the call.
    pub fn answers_after(&self, late: Duration) {
        *lock(&self.late) = late;
    }

    /// Every call so far.
    #[must_use]
    pub fn calls(&self) -> Vec<EntitlementsOf> {
        lock(&self.calls).clone()
    }

    async fn answer(&self, request: GetEntitlements) -> Result<Entitlements, Fault> {
        lock(&self.calls).push(request.of.clone());
        let act = *lock(&self.act);
        match act {
            Act::Hang => std::future::pending().await,
            Act::Timeout | Act::Lose => {
                tokio::time::sleep(TIMEOUT).await;
                return Err(Fault::local(FaultClass::Transient, "Timeout", ""));
            }
            Act::Fail(class, code) => return Err(Fault::local(class, code, "")),
            Act::Accept | Act::Unprocessed | Act::Skewed(_) => {}
        }
        let is_asked_for = |held: &&Entitlement| match &request.of {
            EntitlementsOf::Account(account) => held.account.as_ref() == Some(account),
            EntitlementsOf::License(arn) => held.license_arn.as_ref() == Some(arn),
            EntitlementsOf::Anybody => true,
        };
        let entitlements = lock(&self.held).iter().filter(is_asked_for).cloned().collect();
        let late = *lock(&self.late);
        if !late.is_zero() {
            tokio::time::sleep(late).await;
        }
        Ok(Entitlements { entitlements, emulated: false })
    }
}

impl Entitle for ScriptedEntitlements {
    fn get_entitlements(&self, request: GetEntitlements) -> ServiceFuture<'_, Entitlements> {
        Box::pin(self.answer(request))
    }
}
