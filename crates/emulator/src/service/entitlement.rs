//! `GetEntitlements` (AWS Marketplace API reference, entitlement service): what the customers of a seller's product
//! have in their contracts.

use serde_json::{Value, json};

use super::{Decided, Request, Service, ServiceAnswer, ServiceError, members, page_start, page_token};
use crate::fault::Pages;
use crate::wire::GetEntitlements;
use crate::world::switches::Switch;
use crate::world::{Agreements, Customer, Entitlement, EntitlementValue, License, PodView};
use tollgate_time::Timestamp;

/// Entitlements of a page, unless the caller wants fewer: the most that the model allows.
const PAGE: usize = 25;

/// The service exists in one region of each partition.
const REGIONS: [&str; 3] = ["us-east-1", "cn-northwest-1", "eusc-de-east-1"];

/// One entitlement with its owner.
struct Owned<'a> {
    account_id: &'a str,
    /// `None` under Concurrent Agreements, which have no such identifier.
    identifier: Option<&'a str>,
    license: &'a License,
    entitlement: &'a Entitlement,
}

pub(super) fn decide(service: &Service, pod: &PodView<'_>, request: &Request<'_>) -> Decided {
    if !REGIONS.contains(&request.region) {
        // At AWS the endpoint's name does not exist there.
        let message = format!("Credential should be scoped to a valid region, not '{}'.", request.region);
        let hint = format!(" (emulator: GetEntitlements is in {} only)", REGIONS.join(", "));
        return Err(ServiceError::new("InvalidSignatureException", message + &hint));
    }
    let asked: GetEntitlements = members(request)?;
    let filters = asked.filter.unwrap_or_default();
    let both =
        ["CUSTOMER_IDENTIFIER", "CUSTOMER_AWS_ACCOUNT_ID"].iter().all(|name| filters.contains_key(*name));
    if both && !service.world.switches.second(Switch::TwoCustomerFilters) {
        return Err(invalid("CUSTOMER_IDENTIFIER and CUSTOMER_AWS_ACCOUNT_ID exclude each other."));
    }
    let start = match asked.next_token.as_deref() {
        Some(token) => page_start(token).ok_or_else(|| invalid("NextToken is not valid."))?,
        None => 0,
    };
    let all = owned(service, pod, &asked.product_code, request.now)?;
    let fits = |owned: &Owned<'_>| {
        filters.iter().all(|(name, values)| {
            owned.value_of(name).is_some_and(|found| values.iter().any(|wanted| wanted == found))
        })
    };
    let size = asked.max_results.unwrap_or(PAGE);
    let (page, next): (Vec<&Owned<'_>>, Option<usize>) = match request.pages {
        Some(Pages::Empty) => (Vec::new(), Some(start)),
        Some(Pages::Endless) => {
            (all.iter().filter(|owned| fits(owned)).take(size).collect(), Some(start + 1))
        }
        None if service.world.switches.second(Switch::EntitlementPages) => {
            let fitting: Vec<&Owned<'_>> = all.iter().filter(|owned| fits(owned)).collect();
            let next = (start + size < fitting.len()).then_some(start + size);
            (fitting.into_iter().skip(start).take(size).collect(), next)
        }
        // The page is cut before the filters are applied.
        None => {
            let next = (start + size < all.len()).then_some(start + size);
            (all.iter().skip(start).take(size).filter(|owned| fits(owned)).collect(), next)
        }
    };
    let entitlements: Vec<Value> = page.into_iter().map(|owned| owned.json(&asked.product_code)).collect();
    let mut document = json!({"Entitlements": entitlements});
    if let Some(next) = next {
        document["NextToken"] = json!(page_token(next));
    }
    Ok(ServiceAnswer::Document(document))
}

fn invalid(message: &str) -> ServiceError {
    ServiceError::new("InvalidParameterException", message)
}

/// What the licenses for the product include. Only its seller sees them; every other account sees none.
fn owned<'a>(
    service: &'a Service,
    pod: &PodView<'_>,
    product_code: &str,
    now: Timestamp,
) -> Result<Vec<Owned<'a>>, ServiceError> {
    let world = &service.world;
    let Some(product) = world.products.get(product_code) else {
        if world.switches.second(Switch::UnknownEntitlementProduct) {
            return Err(invalid("There is no such product."));
        }
        return Ok(Vec::new());
    };
    if product.seller_account_id.as_ref().unwrap_or(&world.seller_account_id) != pod.account_id {
        return Ok(Vec::new());
    }
    let named = product.agreements != Agreements::Concurrent;
    let omits_expired = world.switches.second(Switch::ExpiredEntitlement);
    let of_license = move |account_id: &'a str, customer: &'a Customer, license: &'a License| {
        let identifier = named.then_some(customer.identifier.as_str());
        license.entitlements.iter().map(move |entitlement| Owned {
            account_id,
            identifier,
            license,
            entitlement,
        })
    };
    let licensed = world.customers.iter().flat_map(|(account_id, customer)| {
        let usable = customer.licenses.iter().filter(|license| {
            license.product_code == product_code
                && license.subscribed
                && license.active_from.is_none_or(|from| from <= now)
        });
        usable.flat_map(move |license| of_license(account_id, customer, license))
    });
    let ended = |owned: &Owned<'_>| owned.entitlement.end(owned.license).is_some_and(|end| end <= now);
    Ok(licensed.filter(|owned| !(omits_expired && ended(owned))).collect())
}

impl Owned<'_> {
    /// What a filter compares.
    fn value_of(&self, filter: &str) -> Option<&str> {
        match filter {
            "CUSTOMER_IDENTIFIER" => self.identifier,
            "CUSTOMER_AWS_ACCOUNT_ID" => Some(self.account_id),
            "LICENSE_ARN" => Some(&self.license.arn),
            _ => Some(&self.entitlement.dimension),
        }
    }

    fn json(&self, product_code: &str) -> Value {
        let value = match &self.entitlement.value {
            EntitlementValue::Boolean(value) => json!({"BooleanValue": value}),
            EntitlementValue::Number(value) if value.is_f64() => json!({"DoubleValue": value}),
            EntitlementValue::Number(value) => json!({"IntegerValue": value}),
            EntitlementValue::Text(value) => json!({"StringValue": value}),
        };
        let mut document = json!({
            "ProductCode": product_code,
            "Dimension": self.entitlement.dimension,
            "CustomerAWSAccountId": self.account_id,
            "LicenseArn": self.license.arn,
            "Value": value,
        });
        if let Some(identifier) = self.identifier {
            document["CustomerIdentifier"] = json!(identifier);
        }
        if let Some(end) = self.entitlement.end(self.license) {
            document["ExpirationDate"] = json!(end.unix_seconds());
        }
        document
    }
}

#[cfg(test)]
pub(super) mod tests;
