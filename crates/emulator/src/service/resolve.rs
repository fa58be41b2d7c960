//! `ResolveCustomer` (AWS Marketplace API reference): a registration token in, the customer out.

use serde_json::{Value, json};

use super::{Answer, Change, Decided, Request, Service, ServiceError};
use crate::wire::ResolveCustomer;
use crate::world::Agreements;
use crate::world::switches::Switch;

/// How long a registration token is valid, in seconds: about 4 hours (AWS's metering skill; the service model has no
/// number).
const TOKEN_AGE_SECONDS_MAX: i64 = 4 * 3600;

pub(super) fn decide(service: &Service, request: &Request<'_>, changes: &mut Vec<Change>) -> Decided {
    let asked: ResolveCustomer<'_> = super::members(request)?;
    service.disabled(None, request)?;
    let invalid = || ServiceError::new("InvalidTokenException", "Registration token is invalid.");
    let token = service.bill.registration_token(&asked.registration_token).ok_or_else(invalid)?;
    let product = service.world.products.get(&token.product_code).ok_or_else(invalid)?;
    // A token for another seller's product is invalid.
    if service.world.foreign(product) {
        return Err(invalid());
    }
    service.disabled(Some(product), request)?;
    let resubmission =
        if token.resolved { service.world.switches.answer(Switch::TokenResubmission) } else { 0 };
    if resubmission == 1 {
        return Err(invalid());
    }
    let age_millis = request.now.millis_since(token.issued_at);
    if resubmission == 2 || age_millis > TOKEN_AGE_SECONDS_MAX * 1000 {
        return Err(ServiceError::new(
            "ExpiredTokenException",
            "The submitted registration token has expired. This can happen if the buyer's browser takes too long to \
             redirect to your page, the buyer has resubmitted the registration token, or your application has held \
             on to the registration token for too long. Your SaaS registration website should redeem this token as \
             soon as it is submitted by the buyer's browser.",
        ));
    }
    let customer = service.world.customers.get(&token.account_id).ok_or_else(invalid)?;
    let licenses = service.world.licenses(&token.account_id, &token.product_code);
    let license = licenses.iter().find(|license| license.subscribed).or_else(|| licenses.first());
    let license = license.ok_or_else(invalid)?;
    let mut answer = json!({
        "CustomerAWSAccountId": token.account_id,
        "ProductCode": token.product_code,
        "LicenseArn": license.arn,
        "Metadata": {"AgreementId": license.agreement_id},
    });
    // "For new SaaS product integrations, this field is not populated" (model).
    if product.agreements != Agreements::Concurrent
        && let Some(members) = answer.as_object_mut()
    {
        members.insert("CustomerIdentifier".to_owned(), Value::String(customer.identifier.clone()));
    }
    if !token.resolved {
        let token = asked.registration_token.into_owned();
        changes.push(Change::TokenResolved { token, at: request.now.unix_millis() });
    }
    Ok(Answer::Document(answer))
}
