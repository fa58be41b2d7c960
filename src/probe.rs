//! The probe server: liveness, startup, readiness, entitlement and metrics, read-only, for the kubelet and operators.
//!
//! - It answers as soon as the process runs: its port is bound before the first call to AWS.
//! - It reads the published fact, and knows neither registration nor ledger nor AWS.
//! - Its texts are ours, never AWS's, so the port shows no account and no role.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{ACCEPT, CACHE_CONTROL, HeaderValue, RETRY_AFTER};
use hyper::{Request, Response, StatusCode};

use crate::entitlement::document::Rendered;
use crate::entitlement::{Documents, Rejected, Standing};
use crate::metrics::{Format, Metrics};
use tollgate_http::{self as http, Abandoned, Body, Handler, Limits};
use tollgate_time::Timestamp;

/// A pod has a handful of clients here; the limits keep a scanner or a broken client from using up memory.
pub const LIMITS: Limits = Limits {
    connections_max: 256,
    // The kubelet sends its headers at once.
    header_timeout: Duration::from_secs(10),
    header_bytes_max: 8192,
    // No page waits for anything.
    request_timeout: Duration::from_secs(5),
    drain_timeout: Duration::from_secs(2),
    reset_when_abandoned: false,
};

/// The pages.
#[derive(Debug, Clone, Copy)]
enum Page {
    Live,
    Started,
    Ready,
    Entitlement,
    Metrics,
}

/// Their paths.
const PAGES: [(&str, Page); 5] = [
    ("/livez", Page::Live),
    ("/startupz", Page::Started),
    ("/readyz", Page::Ready),
    ("/entitlement", Page::Entitlement),
    ("/metrics", Page::Metrics),
];

/// The probe server's answers.
#[derive(Debug, Clone)]
pub struct ProbeServer {
    documents: Documents,
    metrics: Arc<Metrics>,
}

impl ProbeServer {
    /// A server that answers from the published fact.
    #[must_use]
    pub const fn new(documents: Documents, metrics: Arc<Metrics>) -> Self {
        Self { documents, metrics }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        let mut response = self.page(request);
        // Proxies must not cache an answer about the present.
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }

    fn page(&self, request: &Request<Incoming>) -> Response<Body> {
        let path = request.uri().path();
        let Some((_, page)) = PAGES.into_iter().find(|(known, _)| *known == path) else {
            let known = PAGES.map(|(known, _)| known).join(" ");
            return http::text(StatusCode::NOT_FOUND, format!("not found; the pages are {known}\n"));
        };
        if !http::reads(request.method()) {
            return http::method_not_allowed("GET, HEAD");
        }
        let document = self.documents.latest();
        let fact = document.fact();
        match page {
            Page::Live => http::text(StatusCode::OK, "ok\n"),
            Page::Started => self.document(&document, open_or_503(fact.has_opened)),
            Page::Ready => self.document(&document, open_or_503(fact.standing.gate_open())),
            Page::Entitlement => self.document(&document, entitlement_status(&fact.standing)),
            Page::Metrics => {
                let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
                let format = Format::accepted(accept.unwrap_or_default());
                http::answer(StatusCode::OK, format.content_type(), self.metrics.encode(fact, format))
            }
        }
    }

    fn document(&self, document: &Rendered, status: StatusCode) -> Response<Body> {
        let now = self.documents.now();
        let mut response = http::answer(status, "application/json", document.at(now));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            let seconds = retry_after(document.fact().next_attempt_at, now);
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl Handler for ProbeServer {
    fn at_once(&self, request: &Request<Incoming>) -> Option<Response<Body>> {
        Some(self.answer(request))
    }

    async fn handle(&self, request: Request<Incoming>) -> Result<Response<Body>, Abandoned> {
        Ok(self.answer(&request))
    }
}

const fn open_or_503(open: bool) -> StatusCode {
    if open { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// 200 while the gate is open; 403 after a refusal by AWS, by the token's verification, by exhausted seats or by the
/// seller's rule for unreported usage; 503 while there is no answer.
const fn entitlement_status(standing: &Standing) -> StatusCode {
    match standing {
        Standing::Entitled(..) | Standing::Grace(..) | Standing::Lapsed(..) => StatusCode::OK,
        Standing::Denied(_)
        | Standing::Exhausted(_)
        | Standing::Unreported(_)
        | Standing::Unverified(_)
        | Standing::Misconfigured(Rejected::Request, _) => StatusCode::FORBIDDEN,
        Standing::Pending(_) | Standing::Unavailable(_) | Standing::Misconfigured(Rejected::Caller, _) => {
            StatusCode::SERVICE_UNAVAILABLE
        }
    }
}

/// Whole seconds until the next attempt, at least 1, also while an attempt is running.
fn retry_after(next_attempt_at: Option<Timestamp>, now: Timestamp) -> u64 {
    next_attempt_at
        .map_or(1, |at| at.since(now).as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX))
        .max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entitlement::{self, Entitlement, Subject};
    use tollgate_clock::WallClock;

    #[test]
    fn retry_after_is_counted_from_the_answer_and_not_from_when_the_text_was_made() {
        let start = Timestamp::from_unix_seconds(1_795_507_200);
        let (publisher, watch) = entitlement::channel(start);
        let next_attempt_at = Some(start.plus(Duration::from_secs(90)));
        publisher.send_replace(Arc::new(Entitlement { next_attempt_at, ..Entitlement::initial(start) }));
        let subject = Subject { mode: "saas", product_code: None, product_id: None, pod: None };
        let clock = WallClock::fixed(start);
        let documents = Documents::new(Arc::new(subject), watch, clock.clone());
        let server = ProbeServer::new(documents.clone(), Arc::new(Metrics::new()));
        let answered = || {
            let answer = server.document(&documents.latest(), StatusCode::SERVICE_UNAVAILABLE);
            answer.headers()[RETRY_AFTER].clone()
        };
        assert_eq!(answered(), "90");
        clock.advance(Duration::from_secs(60));
        assert_eq!(answered(), "30");
        clock.advance(Duration::from_secs(60));
        assert_eq!(answered(), "1", "the attempt is running");
    }
}
