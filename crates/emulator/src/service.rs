//! The decisions of metering, entitlement and License Manager: (world, bill, seats, request, now) in, answer and
//! changes out. No sockets, files, clock or keys: a token to be signed is part of the answer.
//!
//! The checks are in AWS's order as far as it is known: the caller and its permissions, the shape of the request, its
//! origin, its content.

mod batch;
mod entitlement;
mod license;
mod meter;
mod register;
mod resolve;
mod usage;

use serde_json::Value;

use super::bill::Bill;
use super::change::Change;
use super::credentials::Role;
use super::fault::Pages;
use super::operation::{Api, Operation, ServiceError};
use super::seats::Checkouts;
use super::token::Claims;
use super::wire;
use super::world::switches::Switch;
use super::world::{Platform, PodView, Product, World};
use tollgate_time::Timestamp;

/// The state of the services.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) world: World,
    pub(super) bill: Bill,
    pub(super) seats: Checkouts,
}

/// One authenticated request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) operation: Operation,
    /// The pod that signed it.
    pub(super) pod: &'a str,
    /// The region that it signed for.
    pub(super) region: &'a str,
    /// The body, checked against the model.
    pub(super) body: &'a Value,
    pub(super) body_bytes: usize,
    pub(super) now: Timestamp,
    /// The number of the call.
    pub(super) call: u64,
    /// How many records at the end of a batch are left unprocessed, because of a fault.
    pub(super) unprocessed: usize,
    /// The pages of a listing, because of a fault.
    pub(super) pages: Option<Pages>,
}

/// What the service answers.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum ServiceAnswer {
    /// The complete answer.
    Document(Value),
    /// The answer without its token, which is made from the claims.
    Sign { claims: Claims, document: Value },
}

/// The answer and the changes of a decision.
#[derive(Debug)]
pub(super) struct Decision {
    pub(super) outcome: Result<ServiceAnswer, ServiceError>,
    pub(super) changes: Vec<Change>,
}

type Decided = Result<ServiceAnswer, ServiceError>;

impl Service {
    /// Decides one request.
    pub(super) fn decide(&self, request: &Request<'_>) -> Decision {
        let mut changes = Vec::new();
        let outcome = self.judge(request, &mut changes);
        // A caller with a token instead of a signature is not a pod yet.
        if !request.pod.is_empty()
            && self.bill.first_call(request.pod).is_none()
            && self.bill.room(request.pod, &[]).is_ok()
        {
            let seen = Change::Seen { pod: request.pod.to_owned(), at: request.now.unix_millis() };
            changes.insert(0, seen);
        }
        Decision { outcome, changes }
    }

    /// Applies a change, from a decision or from the journal.
    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::World { world } => {
                // The pods keep their credentials.
                let assumed = std::mem::take(&mut self.world.assumed);
                self.world = World { assumed, ..World::clone(world) };
            }
            Change::Assumed { pod, assumed } => {
                self.world.assumed.insert(pod.clone(), assumed.clone());
            }
            Change::Product { product_code, product } => {
                self.world.products.insert(product_code.clone(), product.clone());
            }
            Change::Customer { account_id, customer } => {
                self.world.customers.insert(account_id.clone(), customer.clone());
            }
            Change::Pod { name, pod } => {
                self.world.pods.insert(name.clone(), pod.clone());
            }
            Change::Switches { switches } => self.world.switches = *switches,
            Change::Contract { license_arn, contract } => {
                self.world.contracts.insert(license_arn.clone(), contract.clone());
            }
            Change::CheckedOut { .. }
            | Change::Extended { .. }
            | Change::CheckedIn { .. }
            | Change::Lapsed { .. } => self.seats.apply(change),
            Change::Clock { .. }
            | Change::Seen { .. }
            | Change::Registered { .. }
            | Change::Recorded { .. }
            | Change::Repeated { .. }
            | Change::TokenIssued { .. }
            | Change::TokenResolved { .. } => self.bill.apply(change),
        }
    }

    fn judge(&self, request: &Request<'_>, changes: &mut Vec<Change>) -> Decided {
        let pod = self.pod(request);
        if pod.denied.is_some_and(|denied| denied.contains(&request.operation)) {
            return Err(self.denied(&pod, request));
        }
        match request.operation {
            Operation::RegisterUsage => register::decide(self, &pod, request, changes),
            Operation::MeterUsage => meter::decide(self, &pod, request, changes),
            Operation::BatchMeterUsage => batch::decide(self, request, changes),
            Operation::ResolveCustomer => resolve::decide(self, request, changes),
            Operation::GetEntitlements => entitlement::decide(self, &pod, request),
            _ => license::decide(self, &pod, request, changes),
        }
    }

    fn pod<'a>(&'a self, request: &Request<'a>) -> PodView<'a> {
        let mut pod = self.world.pod(request.pod);
        if pod.started_at.is_none() && self.world.switches.second(Switch::PodStart) {
            // Whole seconds, because clients report in whole seconds.
            let first_call = self.bill.first_call(request.pod).unwrap_or(request.now);
            pod.started_at = Some(Timestamp::from_unix_seconds(first_call.unix_seconds()));
        }
        pod
    }

    fn denied(&self, pod: &PodView<'_>, request: &Request<'_>) -> ServiceError {
        let dry_run = request.body.get("DryRun") == Some(&Value::Bool(true));
        let api = request.operation.api();
        let action = format!("{}:{}", api.signing_name(), request.operation.name());
        let message = format!(
            "User: {} is not authorized to perform: {action} because no identity-based policy allows the {action} action",
            match pod.role_arn.and_then(Role::parse) {
                Some(role) => role.assumed(pod.name),
                None => format!("arn:aws:sts::{}:assumed-role/emulated/{}", pod.account_id, pod.name),
            }
        );
        match api {
            Api::LicenseManager => self.unauthorized(message),
            Api::Metering if dry_run && self.world.switches.second(Switch::DryRun) => {
                ServiceError::new("UnauthorizedException", message)
            }
            Api::Metering | Api::Entitlement => ServiceError::new("AccessDeniedException", message),
        }
    }

    /// The product, if the operation belongs to its pricing.
    fn product(&self, code: &str, operation: Operation) -> Result<&Product, ServiceError> {
        let wrong = |hint: &str| {
            let message =
                "The product code passed does not match the product code used for publishing the product.";
            ServiceError::new("InvalidProductCodeException", format!("{message}{hint}"))
        };
        let Some(product) = self.world.products.get(code) else {
            return Err(wrong(" (emulator: GET /_emulator/world lists those that exist)"));
        };
        let seller_side = matches!(operation, Operation::BatchMeterUsage | Operation::ResolveCustomer);
        if seller_side && self.world.foreign(product) {
            return Err(wrong(" (emulator: it is another seller's)"));
        }
        if !product.pricing.allows(operation) && !self.world.switches.second(Switch::PricingMismatch) {
            return Err(wrong(match operation {
                Operation::RegisterUsage => {
                    " (emulator: RegisterUsage is for products with pricing = \"hourly\")"
                }
                Operation::MeterUsage => " (emulator: MeterUsage is for products with pricing = \"metered\")",
                _ => " (emulator: the operation is for products with pricing = \"saas\")",
            }));
        }
        Ok(product)
    }

    /// Refuses an operation that is disabled for the product or in the region.
    fn disabled(&self, product: Option<&Product>, request: &Request<'_>) -> Result<(), ServiceError> {
        let in_region = self.world.disabled_regions.get(&request.operation);
        let disabled = product.is_some_and(|product| product.disabled.contains(&request.operation))
            || in_region.is_some_and(|regions| regions.contains(request.region));
        if disabled {
            return Err(ServiceError::new("DisabledApiException", "The API is disabled in the Region."));
        }
        Ok(())
    }

    fn refused_fargate(&self, platform: Platform) -> bool {
        platform == Platform::EksFargate && self.world.switches.second(Switch::EksFargate)
    }

    /// The emulator's own limits are internal errors, not the caller's.
    fn room(&self, pod: &str, allocations: &[super::change::Allocation]) -> Result<(), ServiceError> {
        self.bill
            .room(pod, allocations)
            .map_err(|message| ServiceError::new("InternalServiceErrorException", message))
    }
}

fn dimension_error(dimension: &str, product: &Product) -> ServiceError {
    let known: Vec<&str> = product.dimensions.iter().map(String::as_str).collect();
    ServiceError::new(
        "InvalidUsageDimensionException",
        format!(
            "The usage dimension does not match one of the UsageDimensions associated with products. (emulator: \
             {dimension:?} is none of {known:?})"
        ),
    )
}

fn not_entitled() -> ServiceError {
    ServiceError::new(
        "CustomerNotEntitledException",
        "Exception thrown when the customer does not have a valid subscription for the product.",
    )
}

fn out_of_bounds(why: &str) -> ServiceError {
    ServiceError::new(
        "TimestampOutOfBoundsException",
        format!("The timestamp value passed in the UsageRecord is out of allowed range. (emulator: {why})"),
    )
}

const PAGE_TOKEN_PREFIX: &str = "emulated-page-";

/// The token for the page of a listing that begins with this item.
fn page_token(start: usize) -> String {
    format!("{PAGE_TOKEN_PREFIX}{start}")
}

/// The item with which a token's page begins.
fn page_start(token: &str) -> Option<usize> {
    let start = token.strip_prefix(PAGE_TOKEN_PREFIX)?.parse().ok();
    start.filter(|start| *start < usize::MAX / 2)
}

fn members<'a, T: serde::Deserialize<'a>>(request: &Request<'a>) -> Result<T, ServiceError> {
    wire::members(request.body)
}

#[cfg(test)]
mod tests;
