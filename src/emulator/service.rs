//! What the metering service decides: (world, bill, request, now) in, answer out. No sockets and no files.
//!
//! The order of checks is AWS's as far as it is known: who asks, then the shape of the request, then what it means.

mod batch;
mod meter;
mod register;
mod resolve;
mod usage;

use std::collections::HashMap;

use serde_json::Value;

use super::bill::Bill;
use super::check::Structure;
use super::keys::SigningKey;
use super::sigv4::Signer;
use super::token::Flaw;
use super::wire::{Operation, Outcome, ServiceError};
use super::world::{Customer, Pod, World};
use crate::clock::Timestamp;

/// The private keys by product and version.
pub(super) type Keys = HashMap<(String, i32), SigningKey>;

/// Everything that the service remembers.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) world: World,
    pub(super) keys: Keys,
    pub(super) bill: Bill,
}

/// One authenticated request.
pub(super) struct Request<'a> {
    pub(super) operation: Operation,
    pub(super) signer: &'a Signer,
    pub(super) body: &'a Value,
    pub(super) body_bytes: usize,
    pub(super) now: Timestamp,
    /// Make this bad token instead of a good one.
    pub(super) flaw: Option<Flaw>,
}

impl Service {
    /// Decides one request.
    pub(super) fn decide(&mut self, request: &Request<'_>) -> Outcome {
        let body = Structure::root(request.body)?;
        let Some(pod) = self.world.pod(&request.signer.access_key, request.now) else {
            return Err(ServiceError::new(
                "InternalServiceErrorException",
                "the emulator holds no more pods",
            ));
        };
        if !pod.allowed {
            return Err(ServiceError::new(
                "AccessDeniedException",
                format!(
                    "User: arn:aws:sts::{}:assumed-role/demo/pod is not authorized to perform: aws-marketplace:{}",
                    pod.account_id,
                    request.operation.name()
                ),
            ));
        }
        let pod = pod.clone();
        match request.operation {
            Operation::RegisterUsage => register::decide(self, &pod, request, &body),
            Operation::MeterUsage => meter::decide(self, &pod, request, &body),
            Operation::BatchMeterUsage => batch::decide(self, request, &body),
            Operation::ResolveCustomer => resolve::decide(self, request, &body),
        }
    }

    fn customer(&self, account_id: &str) -> Option<&Customer> {
        self.world.customers.get(account_id)
    }

    fn subscribed(&self, pod: &Pod) -> bool {
        self.customer(&pod.account_id).is_some_and(|customer| customer.subscribed)
    }

    fn product_error() -> ServiceError {
        ServiceError::new(
            "InvalidProductCodeException",
            "The product code passed does not match the product code used for publishing the product.",
        )
    }

    fn disabled(&self, product_code: &str, operation: Operation) -> Result<(), ServiceError> {
        let product = self.world.products.get(product_code);
        if product.is_some_and(|product| product.disabled.contains(&operation)) {
            return Err(ServiceError::new("DisabledApiException", "The API is disabled in the Region."));
        }
        Ok(())
    }
}
