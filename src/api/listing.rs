//! Listings of the ledger, page by page: hour records, repairs, open usage; as JSON, or as CSV if `Accept` asks for it.

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
use tollgate_ledger::view::{Looked, OpenUsage};
use tollgate_marketplace::{Customer, quantity};

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
            Self::Open => &["hour", "customer", "dimension", "tags", "quantity", "late_from"],
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
                let piece = ledger.open_usage(looked, query.after.clone().unwrap_or_default(), limit).await?;
                next.after = piece.next;
                (piece.rows.iter().map(open).collect(), next.after.is_some())
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
}

impl Pages {
    fn of(query: Query) -> Self {
        Self { rows: Vec::new(), limit: query.limit, next: Some(query) }
    }

    /// The query of the next piece, while the page is not full.
    fn wanted(&self) -> Option<Query> {
        let room = self.limit - self.rows.len();
        self.next.clone().filter(|_| room > 0).map(|query| Query { limit: room, ..query })
    }

    fn add(&mut self, (rows, next): (Vec<Value>, Option<Query>)) {
        self.rows.extend(rows);
        self.next = next.map(|query| Query { limit: self.limit, ..query });
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

fn open(open: &OpenUsage) -> Value {
    json!({
        "hour": open.hour.to_string(),
        "customer": Customer::shown(&open.customer),
        "dimension": open.dimension,
        "tags": open.tags,
        "quantity": quantity::show(open.micros),
        "late_from": open.late_from.map(|hour| hour.to_string()),
    })
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
