//! `ResolveCustomer` (AWS Marketplace API reference): a registration token in, the customer out.

use std::time::Duration;

use serde_json::json;

use super::{Outcome, Request, Service, ServiceError, Structure};
use crate::emulator::check::NON_EMPTY;

/// A registration token is good for so long.
const TOKEN_AGE_MAX: Duration = Duration::from_secs(3600);

pub(super) fn decide(service: &mut Service, request: &Request<'_>, body: &Structure<'_>) -> Outcome {
    let token = body.required_text("RegistrationToken", NON_EMPTY)?;
    let Some((account_id, issued_at)) = service.bill.registration_token(token) else {
        return Err(ServiceError::new("InvalidTokenException", "Registration token is invalid."));
    };
    if request.now.since(issued_at) > TOKEN_AGE_MAX {
        return Err(ServiceError::new(
            "ExpiredTokenException",
            "The submitted registration token has expired. This can happen if the buyer's browser takes too long to \
             redirect to your page, the buyer has resubmitted the registration token, or your application has held on to \
             the registration token for too long.",
        ));
    }
    let product_code = service.world.saas_product.clone();
    service.disabled(&product_code, request.operation)?;
    let Some(customer) = service.customer(&account_id) else {
        return Err(ServiceError::new("InvalidTokenException", "Registration token is invalid."));
    };
    Ok(json!({
        "CustomerIdentifier": customer.identifier,
        "CustomerAWSAccountId": account_id,
        "ProductCode": product_code,
        "LicenseArn": customer.license_arn,
        "Metadata": {"AgreementId": customer.agreement_id},
    }))
}
