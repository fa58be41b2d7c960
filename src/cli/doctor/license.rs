//! Checks the product's license in License Manager. Nothing here takes a seat, or gives one back.

use crate::doctor::Finding;
use crate::doctor::license::{licenses, seats};
use crate::license::judge::Terms;
use tollgate_aws::licensing::LicenseManager;
use tollgate_clock as clock;
use tollgate_marketplace::license::ListReceivedLicenses;
use tollgate_marketplace::{License as _, Signing};

/// Makes each call that takes no seat, so that the findings name each action that the role lacks.
pub(super) async fn examine(manager: &LicenseManager, terms: &Terms) -> Vec<Finding> {
    let request = ListReceivedLicenses {
        product_id: terms.product_id.clone(),
        key_fingerprint: terms.key_fingerprint.clone(),
    };
    let mut findings = Vec::new();
    let chosen = match manager.list_received_licenses(request, Signing::default()).await {
        Ok(answer) => {
            let count = answer.licenses.len();
            let seen = format!(
                "{count} of product {} by issuer {}",
                terms.product_id,
                terms.key_fingerprint.as_str()
            );
            findings.push(Finding::ok("license listing", seen));
            let (found, chosen) = licenses(terms, answer.licenses, clock::system_now());
            findings.extend(found);
            chosen
        }
        Err(fault) => {
            findings.push(super::at_fault("license listing", &fault));
            None
        }
    };
    if let Some(arn) = chosen {
        findings.push(match manager.get_license_usage(arn, Signing::default()).await {
            Ok(usage) => seats(terms, &usage),
            Err(fault) => super::at_fault("seats", &fault),
        });
    }
    for (check, tried) in [
        ("license extension", manager.try_extension().await),
        ("license check-in", manager.try_check_in().await),
    ] {
        findings.push(match tried {
            Ok(()) => Finding::ok(check, "the role allows it"),
            Err(fault) => super::at_fault(check, &fault),
        });
    }
    findings
}
