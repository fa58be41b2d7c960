//! What AWS would bill: one record for each source, product, customer, dimension and hour, and the tokens that make
//! calls idempotent.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use super::decimal::Micros;
use crate::clock::Timestamp;

/// Who reported: AWS deduplicates by it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Source {
    /// MeterUsage of one pod, by its access key.
    Pod(String),
    /// BatchMeterUsage of the seller, by the way in which the customer is named.
    Seller { licensed: bool },
}

/// What makes a record the same record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) product_code: String,
    pub(super) account_id: String,
    pub(super) dimension: String,
    pub(super) hour: Timestamp,
    pub(super) source: Source,
}

/// A billed value.
#[derive(Debug, Clone)]
pub(super) struct Record {
    quantity: Micros,
    /// Quantity and allocations by value; equal texts are identical repeats.
    content: String,
    id: String,
    /// Calls that reported it, repeats included.
    calls: u64,
}

impl Record {
    pub(super) fn new(quantity: Micros, content: String) -> Self {
        Self { quantity, content, id: String::new(), calls: 0 }
    }
}

/// Registration tokens and client tokens kept of each; when there are more, all are forgotten.
const TOKENS_MAX: usize = 1_000_000;

/// The memory of what was billed.
#[derive(Debug, Default)]
pub(super) struct Bill {
    records: BTreeMap<Key, Record>,
    next_id: u64,
    client_tokens: HashMap<String, (Key, String)>,
    registration_tokens: HashMap<String, (String, Timestamp)>,
}

impl Bill {
    /// Records a value: its id, or the id of the record with another value that is there already.
    pub(super) fn record(&mut self, key: Key, mut record: Record) -> Result<String, String> {
        if let Some(existing) = self.records.get_mut(&key) {
            if existing.content != record.content {
                return Err(existing.id.clone());
            }
            existing.calls += 1;
            return Ok(existing.id.clone());
        }
        self.next_id += 1;
        record.id = format!("00000000-0000-4000-8000-{:012x}", self.next_id);
        record.calls = 1;
        let id = record.id.clone();
        self.records.insert(key, record);
        Ok(id)
    }

    /// Whether the client token is new or came with the same request before.
    pub(super) fn claim_token(&mut self, token: &str, key: &Key, content: &str) -> bool {
        match self.client_tokens.get(token) {
            Some((known, known_content)) => known == key && known_content == content,
            None => {
                if self.client_tokens.len() >= TOKENS_MAX {
                    self.client_tokens.clear();
                }
                self.client_tokens.insert(token.to_owned(), (key.clone(), content.to_owned()));
                true
            }
        }
    }

    /// Issues a registration token for a customer.
    pub(super) fn issue_token(&mut self, account_id: &str, now: Timestamp) -> String {
        if self.registration_tokens.len() >= TOKENS_MAX {
            self.registration_tokens.clear();
        }
        self.next_id += 1;
        let token = format!("emulated-registration-token-{:012x}", self.next_id);
        self.registration_tokens.insert(token.clone(), (account_id.to_owned(), now));
        token
    }

    pub(super) fn registration_token(&self, token: &str) -> Option<(String, Timestamp)> {
        self.registration_tokens.get(token).cloned()
    }

    fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.records.iter().map(|(key, record)| {
            let (operation, pod) = match &key.source {
                Source::Pod(pod) => ("MeterUsage", Some(pod.as_str())),
                Source::Seller { .. } => ("BatchMeterUsage", None),
            };
            Row { operation, pod, key, record }
        })
    }

    /// Every billed record.
    pub(super) fn json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows()
            .map(|row| {
                json!({
                    "operation": row.operation,
                    "pod": row.pod,
                    "product_code": row.key.product_code,
                    "account_id": row.key.account_id,
                    "dimension": row.key.dimension,
                    "hour": row.key.hour.to_string(),
                    "quantity": row.record.quantity.to_string(),
                    "metering_record_id": row.record.id,
                    "calls": row.record.calls,
                })
            })
            .collect();
        json!({"records": rows})
    }

    /// The same as CSV (RFC 4180).
    pub(super) fn csv(&self) -> String {
        let mut csv =
            "operation,pod,product_code,account_id,dimension,hour,quantity,metering_record_id,calls\r\n"
                .to_owned();
        for row in self.rows() {
            let fields = [
                row.operation.to_owned(),
                row.pod.unwrap_or_default().to_owned(),
                row.key.product_code.clone(),
                row.key.account_id.clone(),
                row.key.dimension.clone(),
                row.key.hour.to_string(),
                row.record.quantity.to_string(),
                row.record.id.clone(),
                row.record.calls.to_string(),
            ];
            csv.push_str(&fields.map(|field| quoted(&field)).join(","));
            csv.push_str("\r\n");
        }
        csv
    }
}

struct Row<'a> {
    operation: &'static str,
    pod: Option<&'a str>,
    key: &'a Key,
    record: &'a Record,
}

fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\r', '\n']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}
