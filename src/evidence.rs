//! Decides by AWS's own log of calls whether records in doubt, or unconfirmed ones, were billed: CloudTrail's events of
//! the metering service, or the emulator's bill. Pure.
//!
//! A record is billed if a successful report in its region has its customer, dimension, hour and quantity. It is
//! certainly not there only if the log covers the whole time in which it was sent, in that region, and has no report
//! that may be it. Nothing else is concluded.

pub mod cloudtrail;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use tollgate_marketplace::{Customer, Hour, Quantity};
use tollgate_time::Timestamp;

/// How late CloudTrail delivers an event: about 15 minutes (CloudTrail user guide), and as much again.
const DELIVERY: Duration = Duration::from_secs(1800);

/// How far AWS's clock and the ledger's may be apart: AWS refuses a signature that is further off.
const CLOCKS_APART: Duration = Duration::from_secs(300);

/// What a log says about some records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Dimension and hour of each of the records. Other reports are not kept: a log has millions.
    wanted: BTreeSet<(String, Hour)>,
    /// Successful reports.
    reports: Vec<Report>,
    /// The time of the first and of the last event of each region: CloudTrail has a log for each.
    pub covered: BTreeMap<String, (Timestamp, Timestamp)>,
    /// Region and time of successful calls that do not show what they reported: CloudTrail leaves out large members.
    unreadable: Vec<(String, Timestamp)>,
    /// The log is complete at any time, in any region.
    pub complete: bool,
}

/// A successful report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Where it was sent to; `None` if the log does not say.
    pub region: Option<String>,
    /// Whose usage.
    pub customer: Customer,
    /// The legacy identifier, also where `customer` is an account.
    pub identifier: Option<String>,
    /// The product, unless the license names it.
    pub product_code: Option<String>,
    /// The dimension.
    pub dimension: String,
    /// The time in the report.
    pub timestamp: Timestamp,
    /// How much.
    pub quantity: Quantity,
    /// The client token, for a report of a pod.
    pub client_token: Option<String>,
    /// AWS's id of the record.
    pub metering_record_id: Option<String>,
    /// Where it was found: CloudTrail's id of the event.
    pub source: String,
}

/// What the ledger knows about a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubt {
    /// Its number.
    pub id: i64,
    /// Where it was sent to; `None` if that was not noted.
    pub region: Option<String>,
    /// Whose usage.
    pub customer: Customer,
    /// The dimension.
    pub dimension: String,
    /// The time in the report.
    pub timestamp: Timestamp,
    /// How much.
    pub quantity: Quantity,
    /// Its client token.
    pub client_token: String,
    /// When it may have been sent first and last.
    pub sent: (Timestamp, Timestamp),
}

/// What follows for a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// AWS accepted it.
    Billed(Report),
    /// AWS holds another value for its hour.
    OtherValue(Report),
    /// The log covers the time of its attempts, and has no report of it.
    NotThere,
    /// The log does not cover the time of its attempts.
    NotCovered,
    /// The log has a report that may be this record: of a pod, without a client token; or of the same account, named in
    /// another form.
    Indistinct(Report),
}

impl Verdict {
    /// Its name in the table.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Billed(_) => "billed",
            Self::OtherValue(_) => "other_value",
            Self::NotThere => "not_there",
            Self::NotCovered => "not_covered",
            Self::Indistinct(_) => "indistinct",
        }
    }

    /// The report that it is about.
    #[must_use]
    pub const fn report(&self) -> Option<&Report> {
        match self {
            Self::Billed(report) | Self::OtherValue(report) | Self::Indistinct(report) => Some(report),
            Self::NotThere | Self::NotCovered => None,
        }
    }
}

impl Evidence {
    /// Nothing yet about these records: add CloudTrail's documents ([`cloudtrail::read`]).
    #[must_use]
    pub fn about(doubts: &[Doubt]) -> Self {
        let wanted = doubts.iter().map(|doubt| (doubt.dimension.clone(), Hour::of(doubt.timestamp)));
        Self { wanted: wanted.collect(), ..Self::default() }
    }

    /// The emulator's bill, which has every report that it accepted: add each part of it.
    #[must_use]
    pub fn of_emulator(doubts: &[Doubt]) -> Self {
        Self { complete: true, ..Self::about(doubts) }
    }

    /// Keeps a report if it may be one of the records.
    fn keep(&mut self, report: Report) {
        if self.wanted.contains(&(report.dimension.clone(), Hour::of(report.timestamp))) {
            self.reports.push(report);
        }
    }

    /// Adds a part of the emulator's bill (`GET /_emulator/ledger`). `None` if it is none.
    #[must_use]
    pub fn add_bill(&mut self, bill: &Value) -> Option<()> {
        let rows = bill["records"].as_array()?;
        let reports = rows.iter().filter_map(|row| {
            let own = row["operation"] == "MeterUsage";
            let license_arn = text(row, "license_arn");
            let account_id = text(row, "account_id")?;
            let customer = if own { Customer::Own } else { Customer::Account { account_id, license_arn } };
            let report = cloudtrail::report(row, "dimension", "quantity", Some(customer))?;
            let metering_record_id = text(row, "metering_record_id");
            let source = metering_record_id.clone().unwrap_or_default();
            let region = text(row, "region").filter(|region| !region.is_empty());
            let product_code = text(row, "product_code");
            Some(Report { region, product_code, metering_record_id, source, ..report })
        });
        reports.for_each(|report| self.keep(report));
        Some(())
    }

    /// What follows for a record of this product.
    #[must_use]
    pub fn judge(&self, doubt: &Doubt, product_code: &str) -> Verdict {
        let hour = Hour::of(doubt.timestamp);
        // A report to another region is another record of AWS.
        let region = |report: &Report| {
            let both = report.region.as_ref().zip(doubt.region.as_ref());
            both.is_none_or(|(reported, sent)| reported == sent)
        };
        let of_hour = |report: &&Report| {
            region(report)
                && report.product_code.as_deref().is_none_or(|code| code == product_code)
                && report.dimension == doubt.dimension
                && Hour::of(report.timestamp) == hour
        };
        let is_own = |report: &Report| report.client_token.as_ref() == Some(&doubt.client_token);
        let pods = doubt.customer == Customer::Own;
        let of_hour: Vec<&Report> = self.reports.iter().filter(of_hour).collect();
        let found: Vec<&Report> =
            of_hour.iter().copied().filter(|report| is_of(report, &doubt.customer)).collect();
        let same = |report: &&&Report| report.quantity == doubt.quantity && (!pods || is_own(report));
        if let Some(report) = found.iter().find(same) {
            return Verdict::Billed((*report).clone());
        }
        // AWS takes one value for each pod: without a token it may be another pod's.
        let indistinct = |report: &&&Report| pods && report.client_token.is_none();
        if let Some(report) = found.iter().find(indistinct) {
            return Verdict::Indistinct((*report).clone());
        }
        if let Some(report) = found.first().filter(|_| !pods) {
            return Verdict::OtherValue((*report).clone());
        }
        if let Some(report) = of_hour.iter().find(|report| may_be_of(report, &doubt.customer)) {
            return Verdict::Indistinct((*report).clone());
        }
        if self.covers(doubt) { Verdict::NotThere } else { Verdict::NotCovered }
    }

    /// Whether the log of the record's region has events from before its attempts and from after them, with the time
    /// that delivery takes.
    fn covers(&self, doubt: &Doubt) -> bool {
        if self.complete {
            // The emulator's bill names customers by their accounts only.
            return !matches!(doubt.customer, Customer::Identifier(_));
        }
        let (from, to) = doubt.sent;
        let delivered = to.plus(DELIVERY);
        let Some(region) = &doubt.region else { return false };
        let sent = from.minus(CLOCKS_APART)..=to.plus(CLOCKS_APART);
        let hidden = self.unreadable.iter().any(|(of, at)| of == region && sent.contains(at));
        let covered = self.covered.get(region);
        !hidden && covered.is_some_and(|(first, last)| *first <= from && delivered <= *last)
    }
}

/// Whether a report names this customer.
fn is_of(report: &Report, customer: &Customer) -> bool {
    match customer {
        Customer::Identifier(identifier) => report.identifier.as_ref() == Some(identifier),
        Customer::Own | Customer::Account { .. } => report.customer == *customer,
    }
}

/// Whether a report names the customer's account, with a license where the record has none, or the other way around.
/// AWS's documents do not say whether its answer has the customer exactly as it was sent.
fn may_be_of(report: &Report, customer: &Customer) -> bool {
    match (&report.customer, customer) {
        (
            Customer::Account { account_id: reported, license_arn: with },
            Customer::Account { account_id, license_arn },
        ) => reported == account_id && with.is_some() != license_arn.is_some(),
        _ => false,
    }
}

fn text(of: &Value, name: &str) -> Option<String> {
    of[name].as_str().map(str::to_owned)
}
