//! Listings of the ledger, page by page: hour records, repairs, open usage with what would be billed of it; as JSON, or
//! as CSV if `Accept` asks for it.

use hyper::header::{HeaderValue, LINK};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use super::code::Code;
use super::query::{self, Query};
use super::usage::{UsagePart, shown, starting, unavailable};
use super::{csv, problem};
use tollgate_http::{self as http, Body};
use tollgate_ledger::LedgerError;
use tollgate_ledger::repair::Entry;
use tollgate_ledger::store::View;
use tollgate_ledger::view::{Looked, OpenSlot};
use tollgate_marketplace::{Customer, Quantity, TagSet, quantity};

/// What is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing {
    /// Hour records.
    Records,
    /// Repairs: the audit.
    Audit,
    /// Usage of hours that are not sealed.
    Open,
}

impl Listing {
    /// Its path.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::Records => "/v1/records",
            Self::Audit => "/v1/audit",
            Self::Open => "/v1/usage/open",
        }
    }

    /// The member of the answer that holds the rows.
    #[must_use]
    pub const fn member(self) -> &'static str {
        match self {
            Self::Records => "records",
            Self::Audit => "repairs",
            Self::Open => "usage",
        }
    }

    /// All members of a row, in the order of CSV.
    #[must_use]
    pub const fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Records => &[
                "id",
                "hour",
                "dimension",
                "customer",
                "quantity",
                "state",
                "in_doubt",
                "attempts",
                "code",
                "late_from",
                "timestamp",
                "allocations",
                "metering_record_id",
                "updated_at",
            ],
            Self::Audit => &["id", "at", "record", "action", "note"],
            Self::Open => &[
                "hour",
                "customer",
                "dimension",
                "tags",
                "quantity",
                "late_from",
                "unrounded",
                "would_bill",
                "rule",
                "hour_quantity",
                "hour_carried",
                "hour_taken_up",
                "hour_would_bill",
                "hour_rounded_up",
                "hour_left",
            ],
        }
    }

    pub(super) fn of(path: &str) -> Option<Self> {
        [Self::Records, Self::Audit, Self::Open].into_iter().find(|listing| listing.path() == path)
    }

    /// Whether this listing knows all filters of a query.
    fn takes(self, query: &Query) -> bool {
        let plain = Looked { before: query.looked.before, ..Looked::default() };
        match self {
            Self::Records => query.after.is_none(),
            Self::Audit => query.after.is_none() && query.looked == plain,
            Self::Open => query.looked.before.is_none() && query.looked.state.is_none(),
        }
    }

    /// A piece of a page, and the query of the next piece, if there may be one. Pieces are small, so that no
    /// acknowledgement of usage waits long.
    pub async fn read(
        self,
        ledger: &dyn View,
        query: &Query,
    ) -> Result<(Vec<Value>, Option<Query>), LedgerError> {
        let (looked, limit) = (query.looked.clone(), query.limit);
        let mut next = query.clone();
        let (rows, more) = match self {
            Self::Records => {
                let piece = ledger.page(looked, limit).await?;
                next.looked.before = piece.next;
                (piece.rows.iter().map(shown).collect(), piece.next.is_some())
            }
            Self::Audit => {
                let entries = ledger.audit(looked.before, limit).await?;
                next.looked.before = entries.last().map(|entry| entry.id);
                (entries.iter().map(repair).collect(), entries.len() == limit)
            }
            Self::Open => {
                let piece = ledger.open_slots(looked, query.after.clone().unwrap_or_default(), limit).await?;
                next.after = piece.next;
                (piece.rows.iter().flat_map(open).collect(), next.after.is_some())
            }
        };
        Ok((rows, Some(next).filter(|_| more)))
    }

    /// Changes rows from the order in which they were read to the order in which they are shown, or back.
    pub fn arrange<T>(self, rows: &mut [T]) {
        match self {
            // The newest page comes first; within a page the oldest row comes first.
            Self::Records | Self::Audit => rows.reverse(),
            Self::Open => {}
        }
    }
}

/// Collects the pieces of one page.
struct Pages {
    rows: Vec<Value>,
    next: Option<Query>,
    limit: usize,
    /// The next piece did not fit.
    is_full: bool,
}

impl Pages {
    fn of(query: Query) -> Self {
        Self { rows: Vec::new(), limit: query.limit, next: Some(query), is_full: false }
    }

    /// The query of the next piece, while the page is not full.
    fn wanted(&self) -> Option<Query> {
        let room = self.limit.saturating_sub(self.rows.len());
        self.next.clone().filter(|_| room > 0 && !self.is_full).map(|query| Query { limit: room, ..query })
    }

    /// Adds a piece. A slot of open usage is never split: if it has more rows than there is room for, it begins the
    /// next page, and one with more rows than a page has is a page of its own.
    fn add(&mut self, (rows, next): (Vec<Value>, Option<Query>)) {
        self.is_full = !self.rows.is_empty() && self.rows.len() + rows.len() > self.limit;
        if !self.is_full {
            self.rows.extend(rows);
            self.next = next.map(|query| Query { limit: self.limit, ..query });
        }
    }

    /// The page, and the query of the next page, if there may be one.
    fn end(mut self, listing: Listing) -> (Vec<Value>, Option<Query>) {
        listing.arrange(&mut self.rows);
        (self.rows, self.next)
    }
}

fn repair(entry: &Entry) -> Value {
    json!({"id": entry.id, "at": entry.at, "record": entry.record, "action": entry.action, "note": entry.note})
}

/// A row for each set of tags of a slot. What is about the whole slot is in each of its rows, in members that begin
/// with `hour_`. `would_bill` and `unrounded` are in the dimension's unit, all other amounts in the event's own.
fn open(slot: &OpenSlot) -> Vec<Value> {
    let sealed = slot.sealed.as_ref();
    let row = |(tags, (micros, billed)): (&TagSet, (i128, Quantity))| {
        json!({
            "hour": slot.hour.to_string(),
            "customer": Customer::shown(&slot.customer),
            "dimension": slot.dimension,
            "tags": tags,
            "quantity": quantity::show(micros),
            "late_from": slot.late_from.map(|hour| hour.to_string()),
            "unrounded": quantity::show(slot.rule.scaled(micros)),
            "would_bill": sealed.map(|_| billed.to_string()),
            "rule": slot.rule.to_string(),
            "hour_quantity": quantity::show(slot.quantity()),
            "hour_carried": quantity::show(slot.carried),
            "hour_taken_up": quantity::show(slot.kept),
            "hour_would_bill": sealed.map(|sealed| sealed.usage.quantity.to_string()),
            "hour_rounded_up": quantity::show(slot.rounded_up()),
            "hour_left": quantity::show(slot.left()),
        })
    };
    slot.by_tags().into_iter().map(row).collect()
}

impl UsagePart {
    /// The page that the query asks for. JSON names the next page; for CSV a `Link` header does (RFC 8288).
    pub(super) async fn list(&self, listing: Listing, text: &str, accept: &str) -> Response<Body> {
        let Some(query) = Query::parse(text).filter(|query| listing.takes(query)) else {
            return problem(StatusCode::BAD_REQUEST, Code::BadRequest, query::ALLOWED);
        };
        let Some(open) = self.ledger.get() else { return starting() };
        // One at a time: several would delay the ledger's other work.
        let _turn = self.lists.lock().await;
        let mut pages = Pages::of(query);
        while let Some(query) = pages.wanted() {
            match listing.read(&*open.store, &query).await {
                Ok(piece) => pages.add(piece),
                Err(error) => return unavailable(&error),
            }
        }
        let (rows, next) = pages.end(listing);
        if !csv::accepted(accept) {
            let mut document = json!({});
            match listing {
                Listing::Open => {
                    document["after"] =
                        json!(next.and_then(|next| next.after).map(|after| after.to_string()));
                }
                Listing::Records | Listing::Audit => {
                    document["before"] = json!(next.and_then(|next| next.looked.before));
                }
            }
            document[listing.member()] = rows.into();
            return http::json(StatusCode::OK, &document);
        }
        let text = csv::document(listing.columns(), &rows);
        let mut response = http::answer(StatusCode::OK, "text/csv; charset=utf-8; header=present", text);
        let link = next.map(|next| format!("<{}?{}>; rel=\"next\"", listing.path(), next.write()));
        if let Some(link) = link.and_then(|link| HeaderValue::try_from(link).ok()) {
            response.headers_mut().insert(LINK, link);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use tollgate_marketplace::Hour;
    use tollgate_metering::seal::{Sum, seal};

    const HOUR: Hour = Hour::from_number(498_752);

    fn tags(name: &str) -> TagSet {
        let tags = BTreeMap::from([("team".to_owned(), name.to_owned())]);
        if name.is_empty() { TagSet::default() } else { tags.try_into().unwrap() }
    }

    /// A slot as the ledger reads it.
    fn slot(rule: &str, shares: &[(&str, i128)], kept: i128) -> OpenSlot {
        let rule = rule.parse().unwrap();
        let shares: BTreeMap<TagSet, i128> =
            shares.iter().map(|(name, micros)| (tags(name), *micros)).collect();
        let sum = Sum { shares, first_at: HOUR.start() };
        let sealed = seal(HOUR, &sum, &rule, kept, HOUR.start());
        OpenSlot {
            hour: HOUR,
            customer: String::new(),
            dimension: "storage".to_owned(),
            late_from: None,
            rule,
            carried: 0,
            kept,
            sealed: Some(sealed).filter(|sealed| !sealed.is_needless),
            shares: sum.shares,
        }
    }

    fn columns(slot: &OpenSlot, names: &[&str]) -> Vec<String> {
        let cell = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let line = |row: Value| names.iter().map(|name| cell(&row[*name])).collect::<Vec<_>>().join(" ");
        open(slot).into_iter().map(line).collect()
    }

    #[test]
    fn an_open_hour_is_shown_before_and_after_rounding() {
        let of_tags = ["tags", "quantity", "unrounded", "would_bill"];
        let of_hour =
            ["hour_quantity", "hour_taken_up", "hour_rounded_up", "hour_would_bill", "hour_left", "rule"];
        let storage =
            slot("sum 1000 up:0", &[("", 250_000_000), ("a", 3_500_000_000), ("b", 2_000_000_000)], 0);
        assert_eq!(
            columns(&storage, &of_tags),
            [r#"{} 250 0.25 0.25"#, r#"{"team":"a"} 3500 3.5 3.75"#, r#"{"team":"b"} 2000 2 2"#]
        );
        assert_eq!(columns(&storage, &of_hour), ["5750 0 250 6 0 sum 1000 up:0"; 3]);
        // A restart had billed half a unit too much.
        let hours = slot("sum 3600 up:0", &[("", 3_600_000_000)], -1_800_000_000);
        assert_eq!(columns(&hours, &of_tags), ["{} 3600 1 1"]);
        assert_eq!(columns(&hours, &of_hour), ["3600 -1800 1800 1 0 sum 3600 up:0"]);
        let plain = slot("sum", &[("", 1_500_000)], 0);
        assert_eq!(columns(&plain, &of_tags), ["{} 1.5 1.5 1.5"]);
        assert_eq!(columns(&plain, &of_hour), ["1.5 0 0 1.5 0 sum"]);
    }

    #[test]
    fn what_makes_no_record_is_left_for_a_later_hour() {
        let names = ["quantity", "would_bill", "hour_would_bill", "hour_left"];
        assert_eq!(
            columns(&slot("sum 1000000000 none", &[("", 999_999_999)], 1), &names),
            ["999.999999 0.000001 0.000001 0"]
        );
        assert_eq!(
            columns(&slot("sum 1000000000 none", &[("", 999_999_999)], 0), &names),
            ["999.999999 null null 999.999999"]
        );
        assert_eq!(columns(&slot("sum", &[("", 0)], 0), &names), ["0 0 0 0"], "a report of 0 is sent");
    }

    #[test]
    fn a_page_holds_whole_slots() {
        let query = || Query { looked: Looked::default(), limit: 10, after: None };
        let rows = |count: usize| vec![Value::Null; count];
        let mut pages = Pages::of(query());
        pages.add((rows(4), Some(query())));
        assert_eq!(pages.wanted().map(|query| query.limit), Some(6));
        pages.add((rows(7), None));
        assert!(pages.wanted().is_none(), "the next slot begins the next page");
        let (page, next) = pages.end(Listing::Open);
        assert_eq!((page.len(), next), (4, Some(query())));
        let mut pages = Pages::of(query());
        pages.add((rows(2500), Some(query())));
        assert!(pages.wanted().is_none(), "a slot that is larger than a page is a page");
        assert_eq!(pages.end(Listing::Open).0.len(), 2500);
    }
}
