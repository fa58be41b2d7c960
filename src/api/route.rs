//! The paths of the application's server: the route and the methods of each.

use hyper::Method;
use hyper::header::HeaderMap;

use super::door;
use super::listing::Listing;
use super::repair::Action;
use tollgate_http as http;

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route<'a> {
    Entitlement,
    License,
    OpenApi,
    Quit,
    Attest,
    /// A call in AWS's wire protocol.
    Door,
    /// A report of usage, in the modes with usage.
    Take,
    /// Everything else that only the modes with usage have.
    Usage(OfUsage<'a>),
}

/// What a request asks for that only the modes with usage have, except reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OfUsage<'a> {
    Resolve,
    Reconciliation,
    List(Listing),
    /// The number of the record.
    Record(&'a str),
    /// The number of the record.
    Repair(&'a str, Action),
    /// An event of AWS Marketplace.
    Event,
    /// The customer's key, percent-encoded.
    Customer(&'a str, OfCustomer),
}

/// What a request asks for about one customer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OfCustomer {
    /// What the ledger holds of its usage.
    Usage,
    /// Its entitlements at AWS.
    Entitlements,
    /// Report its open hour now.
    Flush,
}

impl OfCustomer {
    const ALL: [(Self, &'static str); 3] =
        [(Self::Usage, "usage"), (Self::Entitlements, "entitlements"), (Self::Flush, "flush")];

    /// The key and the rest, from `/v1/customers/111122223333/flush`.
    fn of(path: &str) -> Option<(&str, Self)> {
        let (key, last) = path.strip_prefix("/v1/customers/")?.split_once('/')?;
        Self::ALL.into_iter().find(|(_, name)| *name == last).map(|(of_customer, _)| (key, of_customer))
    }
}

impl<'a> Route<'a> {
    /// The route of `path`; `None` if there is no such path.
    pub(super) fn of(path: &'a str, headers: &HeaderMap) -> Option<Self> {
        let of_usage = match path {
            "/v1/entitlement" => return Some(Self::Entitlement),
            "/v1/license" => return Some(Self::License),
            "/openapi.json" => return Some(Self::OpenApi),
            "/v1/quit" => return Some(Self::Quit),
            "/v1/attestations" => return Some(Self::Attest),
            // Only calls to the AWS door, which name an operation, have this path.
            "/" => return headers.contains_key(door::TARGET).then_some(Self::Door),
            "/v1/usage" => return Some(Self::Take),
            "/v1/customers/resolve" => OfUsage::Resolve,
            "/v1/reconciliation" => OfUsage::Reconciliation,
            "/v1/events/marketplace" => OfUsage::Event,
            path => Listing::of(path)
                .map(OfUsage::List)
                .or_else(|| Action::of(path).map(|(id, action)| OfUsage::Repair(id, action)))
                .or_else(|| OfCustomer::of(path).map(|(key, of)| OfUsage::Customer(key, of)))
                .or_else(|| path.strip_prefix("/v1/records/").map(OfUsage::Record))?,
        };
        Some(Self::Usage(of_usage))
    }

    /// The methods that it takes, for the `Allow` header.
    pub(super) const fn allow(self) -> &'static str {
        match self {
            Self::Entitlement
            | Self::License
            | Self::OpenApi
            | Self::Usage(
                OfUsage::Reconciliation
                | OfUsage::List(_)
                | OfUsage::Record(_)
                | OfUsage::Customer(_, OfCustomer::Usage | OfCustomer::Entitlements),
            ) => "GET, HEAD",
            Self::Quit
            | Self::Attest
            | Self::Door
            | Self::Take
            | Self::Usage(
                OfUsage::Resolve
                | OfUsage::Repair(..)
                | OfUsage::Event
                | OfUsage::Customer(_, OfCustomer::Flush),
            ) => "POST",
        }
    }

    /// Whether it takes this method.
    pub(super) fn takes(self, method: &Method) -> bool {
        if self.allow() == "POST" { method == Method::POST } else { http::reads(method) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The document also lists the paths of the probe server.
    #[test]
    fn every_documented_path_leads_somewhere_and_takes_its_methods() {
        let document: serde_json::Value = serde_json::from_str(crate::api::OPENAPI).unwrap();
        let headers = HeaderMap::new();
        let mut found = 0;
        for (path, methods) in document["paths"].as_object().unwrap() {
            let concrete = path.replace("{id}", "7").replace("{key}", "111122223333");
            let Some(route) = Route::of(&concrete, &headers) else {
                assert!(methods["servers"].is_array(), "{path} is the probe server's");
                continue;
            };
            found += 1;
            for method in [Method::GET, Method::POST, Method::DELETE] {
                let documented = methods.get(method.as_str().to_ascii_lowercase()).is_some();
                assert_eq!(route.takes(&method), documented, "{method} {path}");
            }
        }
        assert_eq!(found, 19, "all of this server's but the AWS door");
    }

    #[test]
    fn what_is_no_path_leads_nowhere() {
        let headers = HeaderMap::new();
        for path in ["/", "/v1", "/v1/usage/", "/v1/dead-letters/7", "/v1/dead-letters/7/forget", "/metrics"]
        {
            assert_eq!(Route::of(path, &headers), None, "{path}");
        }
        let call = HeaderMap::from_iter([(door::TARGET.parse().unwrap(), "x.MeterUsage".parse().unwrap())]);
        assert_eq!(Route::of("/", &call), Some(Route::Door));
    }
}
