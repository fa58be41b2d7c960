//! Decides which license counts, what to take of it, and what AWS's answer to a checkout means.
//!
//! AWS refuses a checkout with the same exception for every cause: not bought, not activated, ended, another unit,
//! another name, all seats taken. The listing of licenses shows which it is, since each cause has another remedy.
//!
//! - A license of another product or issuer counts as absent, also if the listing returns one: anybody can issue a
//!   license.
//! - One valid license is enough; of several, the one with the latest end is chosen.
//! - Exhausted seats are a refusal only with [`Model::Floating`], which must hold seats.
//!
//! Pure: no clock, no I/O.

use std::time::Duration;

use tollgate_marketplace::license::{
    CheckedOut, Entitlement, EntitlementData, LicenseStatus, Received, ReceivedLicense, Unit, Wanted,
};
use tollgate_marketplace::{AHEAD_MAX, KeyFingerprint, ProductId};
use tollgate_time::Timestamp;

/// How a license is used (`license_model`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    /// The license is checked, and no seat is held.
    Check,
    /// Seats are held while the pod lives.
    Floating,
}

/// What the product requires of a license.
#[derive(Debug, Clone)]
pub struct Terms {
    /// The product.
    pub product_id: ProductId,
    /// The issuer.
    pub key_fingerprint: KeyFingerprint,
    /// How the license is used.
    pub model: Model,
    /// The required entitlements; empty means all that the license has.
    pub wanted: Vec<Wanted>,
    /// How many seats of each counted entitlement a pod holds, in [`Model::Floating`].
    pub seats_per_pod: u32,
    /// How long after its end a license still counts.
    pub end_grace: Duration,
}

/// AWS's listing of the licenses that the account has received.
#[derive(Debug, Clone)]
pub enum Listing {
    /// All of them.
    Shown(Vec<ReceivedLicense>),
    /// The pod's role may not list them.
    Hidden,
}

/// What to check out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The license in the listing; `None` without a listing.
    arn: Option<String>,
    /// The license's end, if that has passed and the license counts only by `license_end_grace`.
    ended: Option<Timestamp>,
    /// What a checkout takes. If it is empty, the listing alone is the proof.
    pub take: Vec<EntitlementData>,
    /// The seats are held instead of being given back at once.
    pub holds: bool,
    /// The listing does not prove that the license is valid: AWS's answer to the checkout decides, and this is the
    /// refusal if AWS refuses.
    doubt: Option<Refused>,
}

/// AWS has granted the license. Only this module creates it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    arn: Option<String>,
    ended: Option<Timestamp>,
}

impl Granted {
    /// The license's ARN, if it is known.
    #[must_use]
    pub fn arn(&self) -> Option<&str> {
        self.arn.as_deref()
    }

    /// The reason to show although the license is granted: it has ended.
    #[must_use]
    pub fn note(&self) -> Option<Refused> {
        self.ended.map(|end| Refusal::Ended.because(since(end)))
    }
}

/// Why a license does not open the gate. Of several licenses the last of these causes is reported: it is the nearest to
/// a valid license.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// There is no license.
    NoLicense,
    /// The license has ended.
    Ended,
    /// Its issuer has deactivated it.
    Deactivated,
    /// It is not valid yet.
    NotYetValid,
    /// The account has not accepted or activated it.
    NotActivated,
    /// It lacks an entitlement.
    NameMismatch,
    /// An entitlement has another unit.
    UnitMismatch,
    /// The quantity of an entitlement is too small.
    QuantityTooSmall,
    /// AWS refuses the checkout, and the listing does not show why.
    CauseUnknown,
    /// All seats are taken.
    Exhausted,
}

/// Who must act on a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The buyer.
    Denied,
    /// The seller, whose settings do not fit the product.
    Misconfigured,
    /// Nobody, if another pod gives its seats back.
    Exhausted,
}

impl Refusal {
    /// The code of the reason.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::NoLicense => "NoLicense",
            Self::Ended => "LicenseEnded",
            Self::Deactivated => "LicenseDeactivated",
            Self::NotYetValid => "LicenseNotYetValid",
            Self::NotActivated => "LicenseNotActivated",
            Self::NameMismatch => "NameMismatch",
            Self::UnitMismatch => "UnitMismatch",
            Self::QuantityTooSmall => "QuantityTooSmall",
            Self::CauseUnknown => "LicenseCauseUnknown",
            Self::Exhausted => "SeatsExhausted",
        }
    }

    /// Who must act.
    #[must_use]
    pub const fn blame(self) -> Blame {
        match self {
            Self::NameMismatch | Self::UnitMismatch => Blame::Misconfigured,
            Self::Exhausted => Blame::Exhausted,
            _ => Blame::Denied,
        }
    }

    fn because(self, seen: impl Into<String>) -> Refused {
        Refused { why: self, seen: seen.into() }
    }
}

/// A refusal with its details.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The cause.
    pub why: Refusal,
    /// Details without anything confidential.
    pub seen: String,
}

impl Terms {
    /// What to check out, by AWS's listing. Without a listing only entitlements with a configured unit can be checked
    /// out; otherwise the result is `Ok(None)`. `now` is AWS's time if it is known, since the buyer controls the
    /// pod's clock.
    pub fn choose(&self, listing: &Listing, now: Timestamp) -> Result<Option<Choice>, Refused> {
        match listing {
            Listing::Hidden => {
                let unseen = Refusal::CauseUnknown.because("it lacks license-manager:ListReceivedLicenses");
                Ok(self.choose_unseen(unseen))
            }
            Listing::Shown(licenses) => self.choose_of(licenses, now).map(Some),
        }
    }

    fn choose_of(&self, licenses: &[ReceivedLicense], now: Timestamp) -> Result<Choice, Refused> {
        let ours = licenses.iter().filter(|license| {
            license.product_id == self.product_id.as_str()
                && license.key_fingerprint == self.key_fingerprint.as_str()
        });
        let mut best: Option<(bool, Timestamp, Choice)> = None;
        let mut nearest = Refusal::NoLicense.because("");
        for license in ours {
            match self.fit(license, now) {
                Ok(choice) => {
                    let lasts = license.end.unwrap_or(Timestamp::from_unix_millis(i64::MAX));
                    let valid = choice.ended.is_none();
                    if best.as_ref().is_none_or(|(was, until, _)| (*was, *until) < (valid, lasts)) {
                        best = Some((valid, lasts, choice));
                    }
                }
                Err(refused) if refused.why > nearest.why => nearest = refused,
                Err(_) => {}
            }
        }
        match best {
            Some((.., choice)) => Ok(choice),
            // The license may be in another region: License Manager redirects a checkout there, but not a listing.
            None if nearest.why == Refusal::NoLicense => self.choose_unseen(nearest.clone()).ok_or(nearest),
            None => Err(nearest),
        }
    }

    /// Whether a license is valid, and what to check out of it.
    fn fit(&self, license: &ReceivedLicense, now: Timestamp) -> Result<Choice, Refused> {
        let end = license.end.filter(|end| *end <= now);
        match license.received {
            Received::PendingAccept | Received::Disabled => return Err(Refusal::NotActivated.because("")),
            Received::Gone => return Err(Refusal::NoLicense.because("")),
            // With an unknown value the answer to the checkout decides.
            Received::Active | Received::InWork | Received::Unknown => {}
        }
        match license.status {
            LicenseStatus::Deactivated => return Err(Refusal::Deactivated.because("")),
            LicenseStatus::Deleted => return Err(Refusal::NoLicense.because("")),
            LicenseStatus::PendingAvailable => return Err(Refusal::NotYetValid.because("")),
            LicenseStatus::Expired if end.is_none() => return Err(Refusal::Ended.because("")),
            LicenseStatus::Available | LicenseStatus::Expired | LicenseStatus::Unknown => {}
        }
        if let Some(begin) = license.begin.filter(|begin| *begin > now.plus(AHEAD_MAX)) {
            return Err(Refusal::NotYetValid.because(format!("it begins at {begin}")));
        }
        if let Some(end) = end.filter(|end| end.plus(self.end_grace) <= now) {
            return Err(Refusal::Ended.because(since(end)));
        }
        let entitlements = self.wanted_of(license)?;
        let of_unit = |tier: bool| entitlements.iter().filter(move |(_, unit)| unit.is_tier() == tier);
        let holds = self.model == Model::Floating && of_unit(false).next().is_some();
        // `check` holds nothing, so it takes only seats that can be given back at once.
        let counted = of_unit(false).filter(|(entitlement, _)| holds || entitlement.allow_check_in);
        let count = if holds { u64::from(self.seats_per_pod) } else { 1 };
        let mut take: Vec<_> =
            counted.map(|(entitlement, unit)| data(&entitlement.name, *unit, count)).collect();
        if take.is_empty() {
            take = of_unit(true).map(|(entitlement, unit)| data(&entitlement.name, *unit, count)).collect();
        }
        let doubt = match (license.received, license.status) {
            (Received::InWork, _) => Some(Refusal::NotActivated.because("")),
            (Received::Unknown, _) | (_, LicenseStatus::Unknown) => {
                Some(Refusal::CauseUnknown.because("the license's status or end cannot be read"))
            }
            _ => None,
        };
        Ok(Choice { arn: Some(license.arn.clone()), ended: end, take, holds, doubt })
    }

    /// The entitlements of a license that count, with their units.
    fn wanted_of<'a>(&self, license: &'a ReceivedLicense) -> Result<Vec<(&'a Entitlement, Unit)>, Refused> {
        if self.wanted.is_empty() {
            let known: Vec<_> = license
                .entitlements
                .iter()
                .filter_map(|entitlement| Some((entitlement, entitlement.unit?)))
                .collect();
            if known.is_empty() {
                return Err(Refusal::NameMismatch.because("it has no entitlement"));
            }
            for (entitlement, unit) in &known {
                self.suffices(entitlement, *unit, None)?;
            }
            return Ok(known);
        }
        let find = |wanted: &Wanted| {
            let mut named = license.entitlements.iter().filter(|found| found.name == wanted.name).peekable();
            if named.peek().is_none() {
                return Err(Refusal::NameMismatch.because(format!("it lacks {}", wanted.name)));
            }
            let fits = |unit: Unit| wanted.unit.is_none_or(|wanted| wanted == unit);
            let found = named.find_map(|found| Some((found, found.unit.filter(|unit| fits(*unit))?)));
            let (entitlement, unit) = found.ok_or_else(|| self.other_unit(license, wanted))?;
            self.suffices(entitlement, unit, wanted.least)?;
            Ok((entitlement, unit))
        };
        self.wanted.iter().map(find).collect()
    }

    fn other_unit(&self, license: &ReceivedLicense, wanted: &Wanted) -> Refused {
        let found = license.entitlements.iter().find(|found| found.name == wanted.name);
        let unit = found.and_then(|found| found.unit).map_or("a unit that is not known", Unit::as_str);
        let wants = wanted.unit.map_or("", Unit::as_str);
        Refusal::UnitMismatch.because(format!("{}: the license has {unit}, not {wants}", wanted.name))
    }

    fn suffices(&self, entitlement: &Entitlement, unit: Unit, least: Option<u64>) -> Result<(), Refused> {
        let Some(max) = entitlement.max_count.filter(|max| *max > 0 && !unit.is_tier()) else {
            return Ok(());
        };
        let held = u64::from(self.seats_per_pod);
        let held = (self.model == Model::Floating && !entitlement.overage).then_some(held);
        match least.max(held).filter(|least| *least > max) {
            Some(least) => {
                let seen = format!("{}: {max}, and {least} are needed", entitlement.name);
                Err(Refusal::QuantityTooSmall.because(seen))
            }
            None => Ok(()),
        }
    }

    fn choose_unseen(&self, doubt: Refused) -> Option<Choice> {
        let units: Option<Vec<(&Wanted, Unit)>> =
            self.wanted.iter().map(|wanted| Some((wanted, wanted.unit?))).collect();
        let units = units.filter(|units| !units.is_empty())?;
        let counted = units.iter().any(|(_, unit)| !unit.is_tier());
        let holds = self.model == Model::Floating && counted;
        let count = if holds { u64::from(self.seats_per_pod) } else { 1 };
        // A checkout proves only what it takes. The rest could only be proven by the listing, which the buyer hides.
        let proven = |wanted: &Wanted, unit: Unit| unit.is_tier() != counted && wanted.least <= Some(count);
        if !units.iter().all(|(wanted, unit)| proven(wanted, *unit)) {
            return None;
        }
        let take = units.iter().map(|(wanted, unit)| data(&wanted.name, *unit, count)).collect();
        Some(Choice { arn: None, ended: None, take, holds, doubt: Some(doubt) })
    }
}

impl Choice {
    /// Judges the answer to the checkout.
    pub fn granted(&self, answer: &CheckedOut) -> Result<Granted, Refused> {
        let allowed = |name: &str| answer.allowed.iter().any(|allowed| allowed.name == name);
        if let Some(lacking) = self.take.iter().find(|taken| !allowed(&taken.name)) {
            return Err(Refusal::NameMismatch.because(format!("AWS does not allow {}", lacking.name)));
        }
        let arn = answer.license_arn.clone().or_else(|| self.arn.clone());
        Ok(Granted { arn, ended: self.ended })
    }

    /// Judges a refusal of the checkout.
    pub fn without_checkout(&self) -> Result<Granted, Refused> {
        let granted = self.listed()?;
        if self.ended.is_some() {
            // AWS grants no checkout of a license that has ended.
            return Ok(granted);
        }
        if let Some(tier) = self.take.iter().find(|taken| taken.value.is_none()) {
            // A tier has no seats that other pods could have taken.
            let seen = format!("AWS refuses {}, which the license shows", tier.name);
            return Err(Refusal::CauseUnknown.because(seen));
        }
        if self.holds { Err(Refusal::Exhausted.because("")) } else { Ok(granted) }
    }

    /// Judges by the listing alone.
    pub fn listed(&self) -> Result<Granted, Refused> {
        self.doubt.clone().map_or_else(|| Ok(self.kept()), Err)
    }

    /// The grant when seats that this pod holds were renewed.
    #[must_use]
    pub fn kept(&self) -> Granted {
        Granted { arn: self.arn.clone(), ended: self.ended }
    }

    /// The chosen license's ARN.
    #[must_use]
    pub fn arn(&self) -> Option<&str> {
        self.arn.as_deref()
    }
}

fn data(name: &str, unit: Unit, count: u64) -> EntitlementData {
    let value = (!unit.is_tier()).then_some(count);
    EntitlementData { name: name.to_owned(), unit: unit.as_str().to_owned(), value }
}

fn since(end: Timestamp) -> String {
    format!("it ended at {end}")
}

#[cfg(test)]
mod tests;
