//! The entitlements of the seller's customers (`GetEntitlements`), over the metering client: only endpoint, region and
//! body differ, as with License Manager.
//!
//! The service is in one region of each partition. Its host's name differs from partition to partition (botocore
//! 1.44.8, endpoint rules of `marketplace-entitlement`). Answers are checked: a listing that breaks AWS's model is a
//! fault, never a shorter listing, and entries of another product or customer are left out.

use aws_sdk_marketplacemetering as sdk;
use serde::Deserialize;
use serde_json::{Map, Number, Value, json};

use super::call::{Asked, Call, Elements, Loose, Raw, body, invalid_answer};
use super::connection::host_of;
use super::licensing::Endpoint;
use super::{Aws, AwsSettings, Purpose};
use tollgate_marketplace::entitlements::{
    self, ENTITLEMENTS_MAX, Entitlement, EntitlementValue, Entitlements, EntitlementsOf, GetEntitlements,
};
use tollgate_marketplace::service::{Entitle, ServiceFuture};
use tollgate_marketplace::{Fault, FaultClass, Place, Region, Signing, exceptions};
use tollgate_time::Timestamp;

/// The operation's name in `X-Amz-Target` (service model, `targetPrefix`).
const TARGET: &str = "AWSMPEntitlementService.GetEntitlements";

/// The service name for signing, which it shares with the metering service.
const SERVICE: &str = "aws-marketplace";

/// Most pages of one answer. A page may be empty although more pages follow.
const PAGES_MAX: usize = 50;

/// Pages that are read to find out whether any customer has an entitlement.
const PAGES_OF_ANYBODY: usize = 5;

/// Entries of one page that are read: the service model allows 25 (`PageSizeInteger`).
const PAGE_SIZE: usize = 100;

/// Longest `NextToken` that is sent back; the service model states no limit.
const NEXT_TOKEN_BYTES_MAX: usize = 8 * 1024;

/// Most bytes of all texts of an answer: a page may have a mebibyte, and the caller keeps answers in memory.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Longest text of an entry that is kept.
const TEXT_BYTES_MAX: usize = 2048;

impl Aws {
    async fn get_entitlements_once(&self, request: GetEntitlements) -> Result<Entitlements, Fault> {
        let ready = self.ready(Signing::default(), Purpose::Credentials).await.map_err(Fault::unsent)?;
        let home = entitlements::home(&ready.region).ok_or_else(|| {
            let text = format!("AWS has no entitlement service for {}", ready.region);
            Fault::local(FaultClass::Misconfigured, exceptions::INVALID_REGION, text).unsent()
        })?;
        let url = endpoint_of(self.settings(), &home).await.map_err(Fault::unsent)?;
        let asked = Asked { place: Place::Metering, url: &url, secrets: &[] };
        let mut wanted = json!({"ProductCode": request.product_code.as_str()});
        match &request.of {
            EntitlementsOf::Account(account) => {
                wanted["Filter"] = json!({"CUSTOMER_AWS_ACCOUNT_ID": [account]});
            }
            EntitlementsOf::License(arn) => wanted["Filter"] = json!({"LICENSE_ARN": [arn]}),
            EntitlementsOf::Anybody => {}
        }
        let anybody = request.of == EntitlementsOf::Anybody;
        let (mut found, mut emulated) = (Vec::new(), false);
        for _ in 0..if anybody { PAGES_OF_ANYBODY } else { PAGES_MAX } {
            let settings = sdk::config::Builder::new()
                .region(sdk::config::Region::new(home.as_str().to_owned()))
                .endpoint_resolver(Endpoint { url: url.clone(), region: home.clone(), service: SERVICE });
            let call = Call {
                target: TARGET.to_owned(),
                body: body(&wanted),
                settings: Some(settings),
                capture: self.capture(),
            };
            let (raw, fault) = call.send(&ready.client, asked).await.map_err(|fault| at(fault, &url))?;
            let raw = raw.unless_refused(fault.map(|fault| at(fault, &url)))?;
            emulated |= raw.emulated;
            let page = page(&raw, &request)?;
            found.extend(page.entitlements);
            let bytes: usize = found.iter().map(Entitlement::bytes).sum();
            if found.len() > ENTITLEMENTS_MAX || bytes > ANSWER_BYTES_MAX {
                return Err(invalid_answer("with more entitlements than a customer has"));
            }
            let Some(next) = page.next.filter(|_| !anybody || found.is_empty()) else {
                return Ok(Entitlements { entitlements: found, emulated });
            };
            if next.len() > NEXT_TOKEN_BYTES_MAX || wanted["NextToken"] == next {
                return Err(invalid_answer("with a NextToken that leads nowhere"));
            }
            wanted["NextToken"] = next.into();
        }
        if anybody {
            return Ok(Entitlements { entitlements: found, emulated });
        }
        Err(invalid_answer("with pages that never end"))
    }
}

impl Entitle for Aws {
    fn get_entitlements(&self, request: GetEntitlements) -> ServiceFuture<'_, Entitlements> {
        Box::pin(self.attempt(self.get_entitlements_once(request)))
    }
}

/// Adds the host, which is not that of the metering service.
fn at(fault: Fault, url: &str) -> Fault {
    if fault.place == Place::Metering && fault.host.is_none() {
        fault.at(Place::Metering, host_of(url))
    } else {
        fault
    }
}

/// The service's URL in its region, or `endpoint_url`. The SDK's resolver knows the domains of AWS's partitions.
async fn endpoint_of(settings: &AwsSettings, home: &Region) -> Result<String, Fault> {
    let metering = super::endpoint_of(settings, home).await?;
    if settings.endpoint_url.is_some() {
        return Ok(metering);
    }
    let Some((_, domain)) = metering.split_once(&format!(".{home}.")) else {
        let text = format!("no domain of AWS is known for {home}");
        return Err(Fault::local(FaultClass::Misconfigured, exceptions::INVALID_REGION, text));
    };
    let host = match () {
        () if settings.use_fips => "entitlement.marketplace-fips",
        // Outside the first partition, and for both versions of IP, the name has a hyphen.
        () if settings.use_dual_stack || home.as_str() != "us-east-1" => "entitlement-marketplace",
        () => "entitlement.marketplace",
    };
    Ok(format!("https://{host}.{home}.{domain}"))
}

// === the answer ===

struct Page {
    entitlements: Vec<Entitlement>,
    next: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PageAnswer {
    entitlements: Elements<Listed, PAGE_SIZE>,
    next_token: Loose<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    product_code: Loose<String>,
    dimension: Loose<String>,
    #[serde(rename = "CustomerAWSAccountId")]
    account: Loose<String>,
    customer_identifier: Loose<String>,
    license_arn: Loose<String>,
    value: Loose<Map<String, Value>>,
    expiration_date: Loose<Number>,
}

fn page(raw: &Raw, asked: &GetEntitlements) -> Result<Page, Fault> {
    let PageAnswer { entitlements, next_token } = raw.parse()?;
    if entitlements.left_out {
        return Err(invalid_answer("with more than a page of entitlements, or with what is none"));
    }
    let of_product = |listed: &Listed| listed.product_code.0.as_deref() == Some(asked.product_code.as_str());
    let found = entitlements.read.into_iter().filter(of_product).map(entitlement);
    let found: Vec<Entitlement> = found.collect::<Result<_, _>>()?;
    let is_asked_for = |entitlement: &Entitlement| match &asked.of {
        EntitlementsOf::Account(account) => entitlement.account.as_ref().is_none_or(|other| other == account),
        EntitlementsOf::License(arn) => entitlement.license_arn.as_ref().is_none_or(|other| other == arn),
        EntitlementsOf::Anybody => true,
    };
    Ok(Page {
        entitlements: found.into_iter().filter(is_asked_for).collect(),
        next: next_token.0.filter(|next| !next.is_empty()),
    })
}

fn entitlement(listed: Listed) -> Result<Entitlement, Fault> {
    let short = |text: Loose<String>| text.0.filter(|text| (1..=TEXT_BYTES_MAX).contains(&text.len()));
    let dimension = short(listed.dimension);
    Ok(Entitlement {
        dimension: dimension
            .ok_or_else(|| invalid_answer("with an entitlement without a usable dimension"))?,
        value: listed.value.0.and_then(value),
        expires_at: listed.expiration_date.0.and_then(|seconds| seconds.as_f64()).and_then(time),
        account: short(listed.account),
        license_arn: short(listed.license_arn),
        identifier: short(listed.customer_identifier),
    })
}

/// The one member that is set.
fn value(members: Map<String, Value>) -> Option<EntitlementValue> {
    members.into_iter().find_map(|(name, value)| match (name.as_str(), value) {
        ("IntegerValue" | "DoubleValue", Value::Number(number)) => Some(EntitlementValue::Number(number)),
        ("BooleanValue", Value::Bool(boolean)) => Some(EntitlementValue::Boolean(boolean)),
        ("StringValue", Value::String(text)) if text.len() <= TEXT_BYTES_MAX => {
            Some(EntitlementValue::Text(text))
        }
        _ => None,
    })
}

/// A time in seconds, with a fraction, as AWS's JSON writes it.
fn time(seconds: f64) -> Option<Timestamp> {
    /// The year 9999, which AWS names for agreements without an end.
    const SECONDS_MAX: f64 = 253_402_300_799.0;
    let seconds = Some(seconds).filter(|seconds| (0.0..=SECONDS_MAX).contains(seconds))?;
    #[expect(clippy::cast_possible_truncation, reason = "the range is checked")]
    Some(Timestamp::from_unix_millis((seconds * 1000.0) as i64))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::tests::{answer, client, serve};

    const ARN: &str = "arn:aws:license-manager::294406891311:license:l-1";
    const ACCOUNT: &str = "111122223333";

    fn ok(body: &Value) -> Vec<u8> {
        answer("200 OK", "", &body.to_string())
    }

    fn listed(dimension: &str, value: &Value) -> Value {
        let mut listed = json!({
            "ProductCode": "demo", "Dimension": dimension, "CustomerAWSAccountId": ACCOUNT, "LicenseArn": ARN,
            "CustomerIdentifier": "customer-1", "ExpirationDate": 1_795_507_200.25,
        });
        listed["Value"] = value.clone();
        listed
    }

    async fn get(addr: SocketAddr, of: EntitlementsOf) -> Result<Entitlements, Fault> {
        let request = GetEntitlements { product_code: "demo".parse().unwrap(), of };
        client(format!("http://{addr}"), None).get_entitlements(request).await
    }

    fn account() -> EntitlementsOf {
        EntitlementsOf::Account(ACCOUNT.to_owned())
    }

    #[tokio::test]
    async fn pages_are_read_to_their_end_although_one_is_empty() {
        let first = json!({"Entitlements": [], "NextToken": "second"});
        let second =
            json!({"Entitlements": [listed("users", &json!({"IntegerValue": 25}))], "NextToken": "third"});
        let third = json!({"Entitlements": [listed("premium", &json!({"BooleanValue": true}))]});
        let (addr, requests) = serve([first, second, third].iter().map(ok).collect()).await;
        let found = get(addr, EntitlementsOf::License(ARN.to_owned())).await.unwrap().entitlements;
        assert_eq!(found.iter().map(|one| one.dimension.as_str()).collect::<Vec<_>>(), ["users", "premium"]);
        assert_eq!(found[0].value, Some(EntitlementValue::Number(25.into())));
        assert_eq!(found[1].value, Some(EntitlementValue::Boolean(true)));
        assert_eq!(found[0].expires_at, Some(Timestamp::from_unix_millis(1_795_507_200_250)));
        let requests = requests.await.unwrap();
        let bodies: Vec<Value> = requests
            .iter()
            .map(|request| serde_json::from_str(request.split_once("\r\n\r\n").unwrap().1).unwrap())
            .collect();
        assert_eq!(bodies[0], json!({"ProductCode": "demo", "Filter": {"LICENSE_ARN": [ARN]}}));
        assert_eq!(bodies[2]["NextToken"], "third");
        let head = requests[0].to_lowercase();
        assert!(head.contains("x-amz-target: awsmpentitlementservice.getentitlements"), "{head}");
        assert!(head.contains("/us-east-1/aws-marketplace/aws4_request"), "{head}");
    }

    #[tokio::test]
    async fn what_is_of_another_product_or_customer_is_left_out() {
        let mut other = listed("users", &json!({"IntegerValue": 1}));
        other["ProductCode"] = "other".into();
        let mut stranger = listed("users", &json!({"IntegerValue": 2}));
        stranger["CustomerAWSAccountId"] = "999900001111".into();
        let mine = listed("users", &json!({"DoubleValue": 2.5}));
        let (addr, _) = serve(vec![ok(&json!({"Entitlements": [other, stranger, mine]}))]).await;
        let found = get(addr, account()).await.unwrap().entitlements;
        let number = Number::from_f64(2.5).unwrap();
        assert_eq!(
            found.iter().map(|one| one.value.clone()).collect::<Vec<_>>(),
            [Some(EntitlementValue::Number(number))]
        );
    }

    #[tokio::test]
    async fn whether_anybody_has_one_needs_one_page_that_is_not_empty() {
        let empty = json!({"Entitlements": [], "NextToken": "second"});
        let full =
            json!({"Entitlements": [listed("users", &json!({"StringValue": "x"}))], "NextToken": "third"});
        let (addr, requests) = serve(vec![ok(&empty), ok(&full)]).await;
        assert_eq!(get(addr, EntitlementsOf::Anybody).await.unwrap().entitlements.len(), 1);
        assert_eq!(requests.await.unwrap().len(), 2);
    }

    #[tokio::test]
    async fn an_answer_that_breaks_the_model_is_a_fault_and_never_a_shorter_list() {
        let nameless = listed("", &json!({}));
        for body in [
            json!({"Entitlements": [3]}),
            json!({"Entitlements": {}}),
            json!({"Entitlements": [nameless]}),
            json!([]),
        ] {
            let (addr, _) = serve(vec![ok(&body)]).await;
            let fault = get(addr, account()).await.unwrap_err();
            assert_eq!(fault.code.as_str(), "InvalidAnswer", "{body}");
        }
        let same = ok(&json!({"Entitlements": [], "NextToken": "again"}));
        let (addr, _) = serve(vec![same.clone(), same]).await;
        assert_eq!(get(addr, account()).await.unwrap_err().code.as_str(), "InvalidAnswer");
        let refusal = answer("400 Bad Request", "", r#"{"__type":"ThrottlingException","message":"slow"}"#);
        let (addr, _) = serve(vec![refusal]).await;
        let fault = get(addr, account()).await.unwrap_err();
        assert_eq!((fault.code.as_str(), fault.class), ("ThrottlingException", FaultClass::Transient));
    }

    #[tokio::test]
    async fn each_partition_has_its_own_host() {
        for (home, dual_stack, fips, host) in [
            ("us-east-1", false, false, "entitlement.marketplace.us-east-1.amazonaws.com"),
            ("us-east-1", true, false, "entitlement-marketplace.us-east-1.api.aws"),
            ("us-east-1", false, true, "entitlement.marketplace-fips.us-east-1.amazonaws.com"),
            ("cn-northwest-1", false, false, "entitlement-marketplace.cn-northwest-1.amazonaws.com.cn"),
            ("eusc-de-east-1", false, false, "entitlement-marketplace.eusc-de-east-1.amazonaws.eu"),
        ] {
            let settings =
                AwsSettings { use_dual_stack: dual_stack, use_fips: fips, ..AwsSettings::default() };
            let url = endpoint_of(&settings, &home.parse().unwrap()).await.unwrap();
            assert_eq!(url, format!("https://{host}"));
        }
        let settings =
            AwsSettings { endpoint_url: Some("http://stand-in".to_owned()), ..AwsSettings::default() };
        assert_eq!(endpoint_of(&settings, &"us-east-1".parse().unwrap()).await.unwrap(), "http://stand-in");
    }
}
