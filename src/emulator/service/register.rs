//! `RegisterUsage` (AWS Marketplace API reference): product, key version and nonce in, a signed statement out.

use serde_json::json;

use super::{Outcome, Pod, Request, Service, ServiceError, Structure};
use crate::clock::Timestamp;
use crate::emulator::check::{PRODUCT_CODE, UP_TO_255};
use crate::emulator::token::{self, Claims};

pub(super) fn decide(
    service: &mut Service,
    pod: &Pod,
    request: &Request<'_>,
    body: &Structure<'_>,
) -> Outcome {
    let product_code = body.required_text("ProductCode", PRODUCT_CODE)?;
    let version = body.required_integer("PublicKeyVersion", 1, i32::MAX.into())?;
    let nonce = body.text("Nonce", UP_TO_255)?;
    if !pod.platform_supported {
        return Err(ServiceError::new(
            "PlatformNotSupportedException",
            "AWS Marketplace does not support metering usage from the underlying platform. Currently, Amazon ECS, Amazon \
             EKS, and AWS Fargate are supported.",
        ));
    }
    if request.signer.region != pod.region {
        return Err(ServiceError::new(
            "InvalidRegionException",
            "RegisterUsage must be called in the same AWS Region the ECS task was launched in.",
        ));
    }
    service.disabled(product_code, request.operation)?;
    let Some(product) = service.world.products.get(product_code) else {
        return Err(Service::product_error());
    };
    let key_version = i32::try_from(version).ok().filter(|version| product.keys.contains_key(version));
    let Some(rotation) = key_version.and_then(|version| product.keys.get(&version).copied()) else {
        return Err(ServiceError::new("InvalidPublicKeyVersionException", "Public Key version is invalid."));
    };
    // Entitlement is checked on a pod's first call only; whether a refused one counts as the first is not documented.
    let switches = service.world.switches;
    let refused = !pod.registered && !service.subscribed(pod);
    if let Some(pod) = service.world.pods.get_mut(&request.signer.access_key) {
        pod.registered |= !(refused && switches.refuse_again);
    }
    if refused {
        return Err(ServiceError::new(
            "CustomerNotEntitledException",
            "Exception thrown when the customer does not have a valid subscription for the product.",
        ));
    }
    let key = service.keys.get(&(product_code.to_owned(), key_version.unwrap_or_default()));
    let Some(key) = key else {
        return Err(ServiceError::new(
            "InternalServiceErrorException",
            "the emulator has no key of this version",
        ));
    };
    let claims = Claims {
        product_code,
        public_key_version: version,
        nonce,
        issued_at: request.now,
        pascal_case: switches.pascal_case_claims,
    };
    let signature = token::token(&claims, &key.pair, request.flaw);
    let rotation = rotation.map(Timestamp::unix_seconds);
    Ok(json!({"PublicKeyRotationTimestamp": rotation, "Signature": signature}))
}
