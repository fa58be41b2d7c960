//! `RegisterUsage` (AWS Marketplace API reference): product, key version and nonce in, a signed statement out.

use serde_json::{Value, json};

use super::{Answer, Change, Claims, Decided, Request, Service, ServiceError, not_entitled};
use crate::wire::RegisterUsage;
use crate::world::switches::Switch;
use crate::world::{Platform, PodView};
use tollgate_time::Timestamp;

pub(super) fn decide(
    service: &Service,
    pod: &PodView<'_>,
    request: &Request<'_>,
    changes: &mut Vec<Change>,
) -> Decided {
    let asked: RegisterUsage<'_> = super::members(request)?;
    check_platform(service, pod)?;
    if request.region != pod.region {
        return Err(ServiceError::new(
            "InvalidRegionException",
            format!(
                "RegisterUsage must be called in the same AWS Region the ECS task was launched in. (emulator: the \
                 pod runs in {}, the request is signed for {})",
                pod.region, request.region
            ),
        ));
    }
    service.disabled(None, request)?;
    let product = service.product(&asked.product_code, request.operation)?;
    service.disabled(Some(product), request)?;
    let rotation = rotation(service, product.keys.get(&asked.public_key_version).copied(), request.now)?;
    service.room(pod.name, &[])?;
    admit(service, pod, request, &asked, changes)?;

    let switches = service.world.switches;
    let claims = Claims {
        product_code: asked.product_code.into_owned(),
        public_key_version: asked.public_key_version,
        nonce: asked.nonce.map(std::borrow::Cow::into_owned),
        issued_at: request.now,
        pascal_case: switches.second(Switch::ClaimCase),
        null_nonce: switches.second(Switch::AbsentNonce),
        with_issued_at: !switches.second(Switch::IssuedAt),
        rotation: switches
            .second(Switch::RotationClaim)
            .then(|| json!(rotation.map(Timestamp::unix_seconds))),
        longest_salt: switches.second(Switch::SaltLength),
    };
    let document = match rotation {
        Some(at) => json!({"PublicKeyRotationTimestamp": at.unix_seconds()}),
        None if switches.second(Switch::AbsentRotation) => json!({}),
        None => json!({"PublicKeyRotationTimestamp": Value::Null}),
    };
    Ok(Answer::Sign { claims, document })
}

fn check_platform(service: &Service, pod: &PodView<'_>) -> Result<(), ServiceError> {
    let message = match pod.platform {
        Platform::Eks | Platform::Ecs | Platform::EcsFargate => return Ok(()),
        Platform::EksFargate if !service.refused_fargate(pod.platform) => return Ok(()),
        Platform::NodeRole => "This operation can only be called from within an ECS task or an EKS pod",
        Platform::EksFargate | Platform::Agentcore | Platform::Ec2 | Platform::Elsewhere => {
            "AWS Marketplace does not support metering usage from the underlying platform. Currently, Amazon ECS, \
             Amazon EKS, and AWS Fargate are supported."
        }
    };
    Err(ServiceError::new("PlatformNotSupportedException", message))
}

/// When the key was rotated, if it was.
fn rotation(
    service: &Service,
    key: Option<crate::world::KeyVersion>,
    now: Timestamp,
) -> Result<Option<Timestamp>, ServiceError> {
    let invalid = || ServiceError::new("InvalidPublicKeyVersionException", "Public Key version is invalid.");
    let rotated = key.ok_or_else(invalid)?.expires_at.filter(|at| *at <= now);
    if rotated.is_some() && service.world.switches.second(Switch::ExpiredKey) {
        return Err(invalid());
    }
    Ok(rotated)
}

/// AWS judges entitlement on a pod's first call only: an admitted pod stays admitted.
fn admit(
    service: &Service,
    pod: &PodView<'_>,
    request: &Request<'_>,
    asked: &RegisterUsage<'_>,
    changes: &mut Vec<Change>,
) -> Result<(), ServiceError> {
    let before = service.bill.registration(pod.name, &asked.product_code);
    let entitled = match before {
        Some(true) => true,
        Some(false) if service.world.switches.second(Switch::RefusedPod) => true,
        _ => service.world.subscribed(pod.account_id, &asked.product_code),
    };
    // A refusal is stored once, so that repeated calls do not fill the memory.
    if entitled || before.is_none() {
        changes.push(Change::Registered {
            pod: pod.name.to_owned(),
            product_code: asked.product_code.clone().into_owned(),
            account_id: pod.account_id.to_owned(),
            at: request.now.unix_millis(),
            call: request.call,
            entitled,
        });
    }
    if entitled { Ok(()) } else { Err(not_entitled()) }
}
