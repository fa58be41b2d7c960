//! The bill for people and tests: JSON and CSV (RFC 4180).
//!
//! A million records are serialized one by one; no second copy of the bill is made first.

use std::collections::BTreeMap;

use serde::ser::{Serialize, Serializer};
use serde_json::{Value, json};

use super::names::Name;
use super::{Bill, BilledRecord, Form, HOUR_MILLIS, Sum, record_bytes, record_id, request_id};
use crate::change::Allocation;
use tollgate_time::Timestamp;

/// Which records are wanted; an empty filter wants all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    pub(crate) product_code: Option<String>,
    pub(crate) account_id: Option<String>,
    pub(crate) dimension: Option<String>,
    pub(crate) pod: Option<String>,
}

/// Which part of the bill is wanted: its records in the order in which they were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    /// The number of the record that it begins with: `next` of the part before it.
    pub(crate) from: usize,
    /// Most records.
    pub(crate) limit: usize,
}

/// Bytes of the records of a part, by [`record_bytes`]; the first one is always in it. A record with AWS's maximum of
/// 2,500 allocations has about 4 MiB, and the client of `tollgate ledger reconcile --emulator` reads 8.
const PART_BYTES_MAX: usize = 1 << 20;

/// A part of the bill as JSON.
#[derive(serde::Serialize)]
pub(crate) struct LedgerPart<'a> {
    records: Vec<Row<'a>>,
    /// Where the next part begins; `None` if this is the last one for now.
    next: Option<usize>,
}

/// The bill as JSON: every record, the sums, and the registrations, which AWS itself meters.
#[derive(serde::Serialize)]
pub(crate) struct Ledger<'a> {
    records: Vec<Row<'a>>,
    totals: Vec<Value>,
    registrations: Vec<Value>,
}

/// A record, by reference.
#[derive(Clone, Copy)]
struct Row<'a> {
    bill: &'a Bill,
    /// Its number.
    id: usize,
    record: &'a BilledRecord,
}

/// A record as JSON.
#[derive(serde::Serialize)]
struct RecordDocument<'a> {
    operation: &'static str,
    pod: Option<&'a str>,
    product_code: &'a str,
    account_id: &'a str,
    license_arn: Option<&'a str>,
    region: &'a str,
    dimension: &'a str,
    hour: String,
    timestamp: String,
    quantity: String,
    allocations: Vec<Value>,
    metering_record_id: String,
    calls: u64,
    request_ids: Vec<String>,
}

const COLUMNS: &str = "operation,pod,product_code,account_id,license_arn,dimension,hour,timestamp,quantity,\
                       metering_record_id,calls,request_ids";

impl Bill {
    fn rows<'a>(&'a self, filter: &Filter) -> Vec<Row<'a>> {
        let mut rows: Vec<Row<'a>> = self.rows_from(filter, 0).collect();
        rows.sort_by(|a, b| a.order().cmp(&b.order()));
        rows
    }

    /// The wanted records from this number on, in the order of their numbers.
    fn rows_from<'a, 'b>(
        &'a self,
        filter: &'b Filter,
        from: usize,
    ) -> impl Iterator<Item = Row<'a>> + use<'a, 'b> {
        let fits = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| found == Some(wanted))
        };
        let rows = self.records.iter().enumerate().skip(from);
        rows.map(|(id, record)| Row { bill: self, id, record }).filter(move |row| {
            fits(&filter.product_code, Some(row.text(row.record.key.product)))
                && fits(&filter.account_id, Some(row.text(row.record.key.account)))
                && fits(&filter.dimension, Some(row.text(row.record.key.dimension)))
                && fits(&filter.pod, row.pod())
        })
    }

    /// A part of the bill. Records are only added, so parts that follow each other have each record once.
    pub(crate) fn part(&self, filter: &Filter, part: Part) -> LedgerPart<'_> {
        let (mut records, mut bytes) = (Vec::new(), 0);
        for row in self.rows_from(filter, part.from) {
            let more = record_bytes(&row.record.allocations);
            if !records.is_empty() && (records.len() >= part.limit || bytes + more > PART_BYTES_MAX) {
                return LedgerPart { records, next: Some(row.id) };
            }
            bytes += more;
            records.push(row);
        }
        LedgerPart { records, next: None }
    }

    /// The bill as JSON.
    pub(crate) fn ledger(&self, filter: &Filter) -> Ledger<'_> {
        let records = self.rows(filter);
        let mut totals: BTreeMap<(&str, &str, &str), Sum> = BTreeMap::new();
        for row in &records {
            let key = row.record.key;
            let names = (row.text(key.product), row.text(key.account), row.text(key.dimension));
            totals.entry(names).or_default().add(row.record.quantity);
        }
        let totals = totals.into_iter().map(total_json).collect();
        Ledger { records, totals, registrations: self.registrations_json(filter) }
    }

    #[cfg(test)]
    pub(crate) fn ledger_json(&self, filter: &Filter) -> Value {
        serde_json::to_value(self.ledger(filter)).unwrap()
    }

    /// Only its sums: by product, dimension and hour for the latest hours that have any, and by product, customer and
    /// dimension for the first [`TOTALS_SHOWN`].
    pub(crate) fn sums_json(&self, hours: u64) -> Value {
        let latest = self.hours.keys().map(|(_, _, hour)| *hour).max().unwrap_or(0);
        let span = i64::try_from(hours.saturating_sub(1)).unwrap_or(i64::MAX).saturating_mul(HOUR_MILLIS);
        let first = latest.saturating_sub(span);
        let mut rows: Vec<(&str, &str, i64, Sum)> = self
            .hours
            .iter()
            .filter(|((_, _, hour), _)| *hour >= first)
            .map(|((product, dimension, hour), sum)| {
                (self.names.text(*product), self.names.text(*dimension), *hour, *sum)
            })
            .collect();
        rows.sort_by_key(|(product_code, dimension, hour, _)| (*product_code, *dimension, *hour));
        let rows: Vec<Value> = rows
            .into_iter()
            .map(|(product_code, dimension, hour, sum)| {
                json!({
                    "product_code": product_code,
                    "dimension": dimension,
                    "hour": Timestamp::from_unix_millis(hour).to_string(),
                    "quantity": sum.quantity.to_string(),
                    "records": sum.records,
                })
            })
            .collect();
        let mut totals: Vec<((&str, &str, &str), Sum)> = self
            .totals
            .iter()
            .map(|((product, account, dimension), sum)| {
                let text = |name: &Name| self.names.text(*name);
                ((text(product), text(account), text(dimension)), *sum)
            })
            .collect();
        let count = totals.len();
        totals.sort_by_key(|(names, _)| *names);
        totals.truncate(TOTALS_SHOWN);
        json!({
            "hours": rows,
            "totals": totals.into_iter().map(total_json).collect::<Vec<_>>(),
            "totals_count": count,
            "records": self.records.len(),
        })
    }

    fn registrations_json(&self, filter: &Filter) -> Vec<Value> {
        let fits =
            |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| found == wanted);
        let registrations = self.registrations.iter().map(|((pod, product), registration)| {
            let names =
                (self.names.text(*pod), self.names.text(*product), self.names.text(registration.account));
            (names, registration)
        });
        registrations
            .filter(|((pod, product_code, account_id), registration)| {
                registration.entitled
                    && fits(&filter.pod, pod)
                    && fits(&filter.product_code, product_code)
                    && fits(&filter.account_id, account_id)
            })
            .map(|((pod, product_code, account_id), registration)| {
                json!({
                    "pod": pod,
                    "product_code": product_code,
                    "account_id": account_id,
                    "since": Timestamp::from_unix_millis(registration.first_at).to_string(),
                    "calls": registration.calls,
                    "request_id": request_id(registration.first_call),
                })
            })
            .collect()
    }

    /// The products that a pod is registered for, and how many calls it made.
    pub(crate) fn registered(&self, pod: &str) -> Vec<(&str, u64)> {
        let Some(pod) = self.names.find(pod) else { return Vec::new() };
        let of_pod = self.registrations.range((pod, Name::FIRST)..=(pod, Name::LAST));
        let entitled = of_pod.filter(|(_, registration)| registration.entitled);
        entitled.map(|((_, product), registration)| (self.names.text(*product), registration.calls)).collect()
    }

    /// The records as CSV.
    pub(crate) fn csv(&self, filter: &Filter) -> String {
        let mut csv = format!("{COLUMNS}\r\n");
        for row in self.rows(filter) {
            let document = row.document();
            let fields = [
                document.operation.to_owned(),
                document.pod.unwrap_or_default().to_owned(),
                document.product_code.to_owned(),
                document.account_id.to_owned(),
                document.license_arn.unwrap_or_default().to_owned(),
                document.dimension.to_owned(),
                document.hour,
                document.timestamp,
                document.quantity,
                document.metering_record_id,
                document.calls.to_string(),
                document.request_ids.join(" "),
            ];
            csv.push_str(&fields.map(quoted).join(","));
            csv.push_str("\r\n");
        }
        csv
    }

    /// The pods that called, with the time of the first call.
    pub(crate) fn pods(&self) -> impl Iterator<Item = (&str, Timestamp)> {
        self.seen.iter().map(|(name, at)| (self.names.text(*name), Timestamp::from_unix_millis(*at)))
    }
}

/// Most sums by customer that are shown with the hours: as many as a page can hold. The ledger itself has all.
const TOTALS_SHOWN: usize = 200;

fn total_json(((product_code, account_id, dimension), sum): ((&str, &str, &str), Sum)) -> Value {
    json!({
        "product_code": product_code,
        "account_id": account_id,
        "dimension": dimension,
        "quantity": sum.quantity.to_string(),
        "records": sum.records,
    })
}

impl<'a> Row<'a> {
    fn text(&self, name: Name) -> &'a str {
        self.bill.names.text(name)
    }

    fn pod(&self) -> Option<&'a str> {
        match self.record.key.form {
            Form::Pod(pod) | Form::Agent(pod, _) => Some(self.text(pod)),
            Form::Product | Form::License(_) => None,
        }
    }

    fn license_arn(&self) -> Option<&'a str> {
        match self.record.key.form {
            Form::License(arn) => Some(self.text(arn)),
            _ => None,
        }
    }

    fn order(&self) -> impl Ord + use<'a> {
        let key = self.record.key;
        let names = (self.text(key.product), self.text(key.account), self.text(key.dimension));
        (names, key.hour, self.pod(), self.license_arn(), self.id)
    }

    fn document(&self) -> RecordDocument<'a> {
        let BilledRecord { key, timestamp, quantity, allocations, calls, call_count } = self.record;
        RecordDocument {
            operation: if self.pod().is_some() { "MeterUsage" } else { "BatchMeterUsage" },
            pod: self.pod(),
            product_code: self.text(key.product),
            account_id: self.text(key.account),
            license_arn: self.license_arn(),
            region: self.text(key.region),
            dimension: self.text(key.dimension),
            hour: Timestamp::from_unix_millis(key.hour).to_string(),
            timestamp: Timestamp::from_unix_millis(*timestamp).to_string(),
            quantity: quantity.to_string(),
            allocations: allocations.iter().map(allocation_json).collect(),
            metering_record_id: record_id(self.id as u64),
            calls: *call_count,
            request_ids: calls.iter().map(|call| request_id(*call)).collect(),
        }
    }
}

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.document().serialize(serializer)
    }
}

fn allocation_json(allocation: &Allocation) -> Value {
    let tags = allocation.tags.iter().map(|(key, value)| (key.clone(), json!(value)));
    json!({"quantity": allocation.quantity.to_string(), "tags": tags.collect::<serde_json::Map<_, _>>()})
}

fn quoted(field: String) -> String {
    if field.contains([',', '"', '\r', '\n']) { format!("\"{}\"", field.replace('"', "\"\"")) } else { field }
}
