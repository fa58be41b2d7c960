//! The bill for people and tests: JSON and CSV (RFC 4180).

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Bill, Form, Record, record_id, request_id};
use crate::clock::Timestamp;
use crate::emulator::decimal::Micros;

/// What of the bill is wanted; an empty filter wants all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::emulator) struct Filter {
    pub(in crate::emulator) product_code: Option<String>,
    pub(in crate::emulator) account_id: Option<String>,
    pub(in crate::emulator) dimension: Option<String>,
    pub(in crate::emulator) pod: Option<String>,
}

struct Row<'a> {
    operation: &'static str,
    pod: Option<&'a str>,
    license_arn: Option<&'a str>,
    product_code: &'a str,
    account_id: &'a str,
    dimension: &'a str,
    id: u64,
    record: &'a Record,
}

const COLUMNS: &str = "operation,pod,product_code,account_id,license_arn,dimension,hour,timestamp,quantity,\
                       metering_record_id,calls,request_ids";

impl Bill {
    fn rows<'a>(&'a self, filter: &'a Filter) -> Vec<Row<'a>> {
        let text = |name| self.names.text(name);
        let fits = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| found == Some(wanted))
        };
        let rows = self.records.iter().enumerate().map(|(index, record)| {
            let (operation, pod, license_arn) = match record.key.form {
                Form::Pod(pod) | Form::Agent(pod, _) => ("MeterUsage", Some(text(pod)), None),
                Form::Product => ("BatchMeterUsage", None, None),
                Form::License(arn) => ("BatchMeterUsage", None, Some(text(arn))),
            };
            Row {
                operation,
                pod,
                license_arn,
                product_code: text(record.key.product),
                account_id: text(record.key.account),
                dimension: text(record.key.dimension),
                id: index as u64,
                record,
            }
        });
        let mut rows: Vec<Row<'a>> = rows
            .filter(|row| {
                fits(&filter.product_code, Some(row.product_code))
                    && fits(&filter.account_id, Some(row.account_id))
                    && fits(&filter.dimension, Some(row.dimension))
                    && fits(&filter.pod, row.pod)
            })
            .collect();
        rows.sort_by(|a, b| {
            let order = |row: &Row<'a>| {
                (
                    row.product_code,
                    row.account_id,
                    row.dimension,
                    row.record.key.hour,
                    row.pod,
                    row.license_arn,
                    row.id,
                )
            };
            order(a).cmp(&order(b))
        });
        rows
    }

    /// Every record, its sums, and the registrations that AWS meters by itself.
    pub(in crate::emulator) fn json(&self, filter: &Filter) -> Value {
        let rows = self.rows(filter);
        let mut totals: BTreeMap<(&str, &str, &str), (Micros, u64)> = BTreeMap::new();
        for row in &rows {
            let total = totals.entry((row.product_code, row.account_id, row.dimension)).or_default();
            total.0 = total.0.saturating_add(row.record.quantity);
            total.1 += 1;
        }
        let totals: Vec<Value> = totals
            .into_iter()
            .map(|((product_code, account_id, dimension), (quantity, records))| {
                json!({
                    "product_code": product_code,
                    "account_id": account_id,
                    "dimension": dimension,
                    "quantity": quantity.to_string(),
                    "records": records,
                })
            })
            .collect();
        let records: Vec<Value> = rows.iter().map(Row::json).collect();
        json!({"records": records, "totals": totals, "registrations": self.registrations_json(filter)})
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

    /// The records as CSV.
    pub(in crate::emulator) fn csv(&self, filter: &Filter) -> String {
        let mut csv = format!("{COLUMNS}\r\n");
        for row in self.rows(filter) {
            let record = row.record;
            let ids: Vec<String> = record.calls.iter().map(|call| request_id(*call)).collect();
            let fields = [
                row.operation.to_owned(),
                row.pod.unwrap_or_default().to_owned(),
                row.product_code.to_owned(),
                row.account_id.to_owned(),
                row.license_arn.unwrap_or_default().to_owned(),
                row.dimension.to_owned(),
                Timestamp::from_unix_millis(record.key.hour).to_string(),
                Timestamp::from_unix_millis(record.timestamp).to_string(),
                record.quantity.to_string(),
                record_id(row.id),
                record.call_count.to_string(),
                ids.join(" "),
            ];
            csv.push_str(&fields.map(quoted).join(","));
            csv.push_str("\r\n");
        }
        csv
    }

    /// The pods that called, and when first.
    pub(in crate::emulator) fn pods(&self) -> impl Iterator<Item = (&str, Timestamp)> {
        self.seen.iter().map(|(name, at)| (self.names.text(*name), Timestamp::from_unix_millis(*at)))
    }
}

impl Row<'_> {
    fn json(&self) -> Value {
        let record = self.record;
        let allocations: Vec<Value> = record
            .allocations
            .iter()
            .map(|allocation| {
                let tags = allocation.tags.iter().map(|(key, value)| (key.clone(), json!(value)));
                json!({
                    "quantity": allocation.quantity.to_string(),
                    "tags": tags.collect::<serde_json::Map<_, _>>(),
                })
            })
            .collect();
        json!({
            "operation": self.operation,
            "pod": self.pod,
            "product_code": self.product_code,
            "account_id": self.account_id,
            "license_arn": self.license_arn,
            "dimension": self.dimension,
            "hour": Timestamp::from_unix_millis(record.key.hour).to_string(),
            "timestamp": Timestamp::from_unix_millis(record.timestamp).to_string(),
            "quantity": record.quantity.to_string(),
            "allocations": allocations,
            "metering_record_id": record_id(self.id),
            "calls": record.call_count,
            "request_ids": record.calls.iter().map(|call| request_id(*call)).collect::<Vec<_>>(),
        })
    }
}

fn quoted(field: String) -> String {
    if field.contains([',', '"', '\r', '\n']) { format!("\"{}\"", field.replace('"', "\"\"")) } else { field }
}
