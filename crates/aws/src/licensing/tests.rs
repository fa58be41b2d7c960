//! Tests of the client for License Manager with small servers on real sockets.

use serde_json::Value;

use super::*;
use crate::tests::{Act, answer, client, keys, serve, serve_endless, serve_once};
use crate::{SigningClock, clock, connection};
use aws_credential_types::Credentials;
use std::time::Duration;
use tollgate_marketplace::license::{EntitlementData, LicenseStatus, Received, Unit};
use tollgate_time::Timestamp;

const SKU: &str = "2205b290-19e6-4c76-9eea-377d6bf7141a";
const ISSUER: &str = "aws:294406891311:AWS/Marketplace:issuer-fingerprint";
const ARN: &str = "arn:aws:license-manager::294406891311:license:l-1";

fn manager(url: String) -> LicenseManager {
    LicenseManager::new(Arc::new(client(url, None)), LicenseManagerSettings::default())
}

fn ok(body: &str) -> Vec<u8> {
    answer("200 OK", "", body)
}

fn refusal(body: &str) -> Vec<u8> {
    answer("400 Bad Request", "", body)
}

fn asked() -> ListReceivedLicenses {
    ListReceivedLicenses { product_id: SKU.parse().unwrap(), key_fingerprint: ISSUER.parse().unwrap() }
}

fn checkout() -> CheckoutLicense {
    CheckoutLicense {
        product_id: SKU.parse().unwrap(),
        key_fingerprint: ISSUER.parse().unwrap(),
        entitlements: vec![
            EntitlementData { name: "users".to_owned(), unit: "Count".to_owned(), value: Some(2) },
            EntitlementData { name: "premium".to_owned(), unit: "None".to_owned(), value: None },
        ],
        client_token: "client-token-1".to_owned(),
    }
}

fn token(text: &str) -> ConsumptionToken {
    ConsumptionToken::new(text.to_owned()).unwrap()
}

async fn take(manager: &LicenseManager) -> Result<CheckedOut, Fault> {
    manager.checkout_license(checkout(), Signing::default()).await
}

async fn list(manager: &LicenseManager) -> Result<ReceivedLicenses, Fault> {
    manager.list_received_licenses(asked(), Signing::default()).await
}

fn body_of(request: &str) -> Value {
    serde_json::from_str(request.split_once("\r\n\r\n").unwrap().1).unwrap()
}

/// The region that a request is signed for, and the service.
fn scope_of(request: &str) -> (&str, &str) {
    let (_, scope) = request.split_once("Credential=").unwrap();
    let mut parts = scope.split('/').skip(2);
    (parts.next().unwrap(), parts.next().unwrap())
}

/// A license as AWS lists it.
fn listed(sku: &str, issuer: &str, end: &str) -> Value {
    json!({
        "LicenseArn": ARN,
        "LicenseName": "AWS Marketplace license",
        "ProductSKU": sku,
        "Issuer": {"Name": "AWS/Marketplace", "SignKey": "key", "KeyFingerprint": issuer},
        "HomeRegion": "us-east-1",
        "Status": "AVAILABLE",
        "Validity": {"Begin": "2026-01-01T00:00:00.000Z", "End": end},
        "Entitlements": [
            {"Name": "users", "MaxCount": 10, "Overage": false, "Unit": "Count", "AllowCheckIn": true},
            {"Name": "premium", "Value": "Enabled", "Unit": "None"},
            {"Name": "later", "MaxCount": 1, "Unit": "Qubits"},
        ],
        "ConsumptionConfiguration": {"ProvisionalConfiguration": {"MaxTimeToLiveInMinutes": 60}},
        "ReceivedMetadata": {"ReceivedStatus": "ACTIVE", "AllowedOperations": ["CheckoutLicense"]},
    })
}

#[tokio::test]
async fn each_call_is_license_managers_own_and_its_answer_is_read() {
    let taken = r#"{"CheckoutType":"PROVISIONAL","LicenseConsumptionToken":"held","EntitlementsAllowed":[
        {"Name":"users","Unit":"Count","Value":"2"},{"Name":"premium","Unit":"None","Value":"Enabled"}],
        "SignedToken":"x","IssuedAt":"2026-11-24T08:00:00Z","Expiration":"2026-11-24T09:00:00",
        "LicenseArn":"arn:aws:license-manager::1:license:l-1"}"#;
    let usage = r#"{"LicenseUsage":{"EntitlementUsages":[
        {"Name":"users","ConsumedValue":"3","MaxCount":"10","Unit":"Count"},
        {"Name":"premium","ConsumedValue":"Enabled","Unit":"None"},7]}}"#;
    let emulated = |body: &str| answer("200 OK", "x-tollgate-emulator: 1\r\n", body);
    let answers = vec![
        emulated(taken),
        ok(r#"{"LicenseConsumptionToken":"held-2","Expiration":"2026-11-24T10:00:00Z"}"#),
        ok("{}"),
        ok(usage),
    ];
    let (addr, requests) = serve(answers).await;
    let manager = manager(format!("http://{addr}"));

    let checked_out = take(&manager).await.unwrap();
    assert_eq!(checked_out.token.secret(), "held");
    assert_eq!(checked_out.token.region().unwrap().as_str(), "us-east-1");
    assert_eq!(checked_out.expiration.unwrap().to_string(), "2026-11-24T09:00:00Z");
    let allowed: Vec<_> = checked_out.allowed.iter().map(|part| (part.name.as_str(), part.value)).collect();
    assert_eq!(allowed, [("users", Some(2)), ("premium", None)]);
    assert_eq!(checked_out.license_arn.as_deref(), Some("arn:aws:license-manager::1:license:l-1"));
    assert!(checked_out.emulated);
    let extended = manager.extend_license_consumption(checked_out.token, Signing::default()).await.unwrap();
    assert_eq!((extended.token.secret(), extended.emulated), ("held-2", false));
    manager.check_in_license(extended.token, Signing::default()).await.unwrap();
    let usage = manager.get_license_usage(ARN.to_owned(), Signing::default()).await.unwrap();
    let [users] = usage.entitlements.as_slice() else { panic!("{usage:?}") };
    assert_eq!((users.name.as_str(), users.consumed, users.max_count), ("users", 3, Some(10)));

    let requests = requests.await.unwrap();
    let targets = ["CheckoutLicense", "ExtendLicenseConsumption", "CheckInLicense", "GetLicenseUsage"];
    for (request, target) in requests.iter().zip(targets) {
        assert!(request.contains(&format!("x-amz-target: AWSLicenseManager.{target}\r\n")), "{request}");
        assert!(request.contains("content-type: application/x-amz-json-1.1\r\n"), "{request}");
        assert_eq!(scope_of(request), ("us-east-1", "license-manager"));
    }
    let bodies: Vec<Value> = requests.iter().map(|request| body_of(request)).collect();
    assert_eq!(
        bodies,
        [
            json!({
                "ProductSKU": SKU, "CheckoutType": "PROVISIONAL", "KeyFingerprint": ISSUER,
                "Entitlements": [
                    {"Name": "users", "Unit": "Count", "Value": "2"}, {"Name": "premium", "Unit": "None"},
                ],
                "ClientToken": "client-token-1",
            }),
            json!({"LicenseConsumptionToken": "held"}),
            json!({"LicenseConsumptionToken": "held-2"}),
            json!({"LicenseArn": ARN}),
        ]
    );
}

// === listings ===

#[tokio::test]
async fn a_listing_is_read_to_its_last_page_and_only_what_was_asked_for_is_in_it() {
    let own = listed(SKU, ISSUER, "2027-01-01T00:00:00");
    let forged = listed(SKU, "aws:111122223333:AWS/Marketplace:issuer-fingerprint", "2030-01-01T00:00:00Z");
    let other = listed("another-product", ISSUER, "2030-01-01T00:00:00Z");
    let pages = vec![
        ok(&json!({"Licenses": [forged, other, {"ProductSKU": SKU}], "NextToken": "1"}).to_string()),
        ok(&json!({"Licenses": [], "NextToken": "2"}).to_string()),
        ok(&json!({"NextToken": "3"}).to_string()),
        ok(&json!({"Licenses": [own], "NextToken": null}).to_string()),
    ];
    let (addr, requests) = serve(pages).await;
    let found = list(&manager(format!("http://{addr}"))).await.unwrap();
    let [license] = found.licenses.as_slice() else { panic!("{found:?}") };
    assert_eq!((license.arn.as_str(), license.product_id.as_str()), (ARN, SKU));
    assert_eq!(license.key_fingerprint, ISSUER);
    assert_eq!((license.status, license.received), (LicenseStatus::Available, Received::Active));
    assert_eq!(license.begin.unwrap().to_string(), "2026-01-01T00:00:00Z");
    assert_eq!(license.end.unwrap().to_string(), "2027-01-01T00:00:00Z");
    assert_eq!(license.home_region.as_deref(), Some("us-east-1"));
    assert_eq!(license.time_to_live_max, Some(Duration::from_secs(3600)));
    let units: Vec<_> = license.entitlements.iter().map(|part| (part.unit, part.max_count)).collect();
    assert_eq!(units, [(Some(Unit::COUNT), Some(10)), (Some(Unit::NONE), None), (None, Some(1))]);
    assert!(license.entitlements[0].allow_check_in && !license.entitlements[0].overage);
    assert_eq!(license.entitlements[1].value.as_deref(), Some("Enabled"));
    let bodies: Vec<Value> = requests.await.unwrap().iter().map(|request| body_of(request)).collect();
    assert_eq!(
        bodies[0],
        json!({
            "Filters": [
                {"Name": "ProductSKU", "Values": [SKU]}, {"Name": "Fingerprint", "Values": [ISSUER]},
            ],
            "MaxResults": 100,
        })
    );
    let tokens: Vec<_> = bodies.iter().map(|body| body["NextToken"].as_str()).collect();
    assert_eq!(tokens, [None, Some("1"), Some("2"), Some("3")]);
}

/// If it counted as no end, the license would open the gate for ever; if it counted as a past end, a new format of
/// AWS's would refuse a buyer who has paid.
#[tokio::test]
async fn a_license_whose_end_cannot_be_read_is_of_unknown_status() {
    let end = |end: Value| {
        let mut license = listed(SKU, ISSUER, "");
        license["Validity"]["End"] = end;
        license
    };
    let mut without_form = end(Value::Null);
    without_form["Validity"] = json!(["2026-01-01", "2027-01-01", "2028-01-01"]);
    let licenses = [end(Value::Null), end("soon".into()), end("".into()), end(7.into()), without_form];
    let (addr, _) = serve(vec![ok(&json!({"Licenses": licenses}).to_string())]).await;
    let found = list(&manager(format!("http://{addr}"))).await.unwrap();
    let status: Vec<_> = found.licenses.iter().map(|license| (license.status, license.end)).collect();
    let unknown = (LicenseStatus::Unknown, None);
    assert_eq!(status, [(LicenseStatus::Available, None), unknown, unknown, unknown, unknown]);
}

#[tokio::test]
async fn a_listing_that_breaks_the_model_is_a_fault_and_never_a_shorter_listing() {
    let with = |entitlement: Value| {
        let mut license = listed(SKU, ISSUER, "2027-01-01T00:00:00Z");
        license["Entitlements"] = json!([entitlement]);
        json!({"Licenses": [license]}).to_string()
    };
    let license = listed(SKU, ISSUER, "2027-01-01T00:00:00Z");
    let without_arn = {
        let mut license = license.clone();
        license.as_object_mut().unwrap().remove("LicenseArn");
        json!({"Licenses": [license]}).to_string()
    };
    let many = |count: usize| json!({"Licenses": vec![license.clone(); count]}).to_string();
    let rich = {
        let mut license = license.clone();
        license["Entitlements"] = vec![json!({"Name": "a", "Unit": "None"}); 201].into();
        json!({"Licenses": [license]}).to_string()
    };
    for (name, body) in [
        ("negative", with(json!({"Name": "users", "MaxCount": -1, "Unit": "Count"}))),
        ("huge", with(json!({"Name": "users", "MaxCount": 1e300, "Unit": "Count"}))),
        ("above the model's", with(json!({"Name": "users", "MaxCount": u64::MAX, "Unit": "Count"}))),
        ("text", with(json!({"Name": "users", "MaxCount": "10", "Unit": "Count"}))),
        ("nameless", with(json!({"MaxCount": 1, "Unit": "Count"}))),
        ("no entitlement", with(json!(7))),
        ("without ARN", without_arn),
        ("no list", json!({"Licenses": {"LicenseArn": ARN}}).to_string()),
        ("no license", json!({"Licenses": [license.clone(), 7]}).to_string()),
        ("too many", many(101)),
        ("too rich", rich),
        ("broken", r#"{"Licenses":["#.to_owned()),
        ("no object", "[]".to_owned()),
        ("a page of somebody's", "<html>welcome</html>".to_owned()),
        ("deep", format!(r#"{{"Licenses":{}"#, "[".repeat(1 << 19))),
    ] {
        let (addr, _) = serve(vec![ok(&body)]).await;
        let fault = list(&manager(format!("http://{addr}"))).await.unwrap_err();
        assert_eq!((fault.class, fault.code.as_str()), (FaultClass::Transient, "InvalidAnswer"), "{name}");
        assert_eq!((fault.place, fault.host), (Place::LicenseManager, Some(addr.to_string())), "{name}");
    }
    let (addr, _) = serve(vec![ok(&many(100))]).await;
    assert_eq!(list(&manager(format!("http://{addr}"))).await.unwrap().licenses.len(), 100);
}

#[tokio::test]
async fn pages_that_lead_nowhere_end_the_listing_with_a_fault() {
    let page = |next: &str| ok(&json!({"Licenses": [], "NextToken": next}).to_string());
    for (name, pages, asked_for) in [
        ("the same again", vec![page("a"), page("a"), page("b")], 2),
        ("too long", vec![page(&"x".repeat(NEXT_TOKEN_BYTES_MAX + 1)), page("b")], 1),
        ("in a circle", (0..=PAGES_MAX).map(|n| page(["a", "b"][n % 2])).collect(), PAGES_MAX),
    ] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let served = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = Arc::clone(&served);
        let server = tokio::spawn(async move {
            for page in pages {
                crate::tests::serve_on(&listener, &page).await;
                count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        });
        let fault = list(&manager(format!("http://{addr}"))).await.unwrap_err();
        assert_eq!((fault.class, fault.code.as_str()), (FaultClass::Transient, "InvalidAnswer"), "{name}");
        server.abort();
        let _ = server.await;
        assert_eq!(served.load(std::sync::atomic::Ordering::Relaxed), asked_for, "{name}");
    }
}

#[tokio::test]
async fn an_answer_that_never_ends_is_cut() {
    const PIECE: &[u8] = &[b'{'; 1 << 16];
    let (addr, taken) = serve_endless("HTTP/1.1 200 OK\r\n\r\n{\"Licenses\":[", PIECE).await;
    let fault = list(&manager(format!("http://{addr}"))).await.unwrap_err();
    assert_eq!((fault.class, fault.place), (FaultClass::Transient, Place::LicenseManager));
    let taken = taken.await.unwrap();
    assert!(taken < connection::OTHER_ANSWER_BYTES_MAX + (16 << 20), "{taken}");
}

// === what is taken ===

/// Even if other members cannot be read: with the token the seats can be given back.
#[tokio::test]
async fn the_token_of_a_checkout_comes_back_whatever_else_the_answer_says() {
    for rest in [
        r#""EntitlementsAllowed":7"#,
        r#""EntitlementsAllowed":[7,{"Name":""},{"Name":"users"}],"Expiration":"never","LicenseArn":{}"#,
    ] {
        let (addr, _) = serve(vec![ok(&format!(r#"{{"LicenseConsumptionToken":"held",{rest}}}"#))]).await;
        let checked_out = take(&manager(format!("http://{addr}"))).await.unwrap();
        assert_eq!(checked_out.token.secret(), "held");
        assert_eq!(
            (checked_out.allowed.len(), checked_out.expiration, checked_out.license_arn),
            (0, None, None)
        );
    }
    for body in ["{}", r#"{"LicenseConsumptionToken":""}"#, r#"{"LicenseConsumptionToken":7}"#, ""] {
        let (addr, _) = serve(vec![ok(body)]).await;
        let fault = take(&manager(format!("http://{addr}"))).await.unwrap_err();
        assert_eq!((fault.class, fault.code.as_str()), (FaultClass::Transient, "InvalidAnswer"), "{body}");
        assert!(!fault.never_sent, "something may be taken");
    }
}

#[tokio::test]
async fn what_was_taken_is_kept_and_given_back_in_the_region_that_gave_it() {
    let (addr, requests) = serve(vec![ok(r#"{"LicenseConsumptionToken":"b"}"#), ok("{}")]).await;
    let manager = manager(format!("http://{addr}"));
    let token = token("a").given_in("us-west-2".parse().unwrap());
    let extended = manager.extend_license_consumption(token, Signing::default()).await.unwrap();
    manager.check_in_license(extended.token, Signing::default()).await.unwrap();
    for request in requests.await.unwrap() {
        assert_eq!(scope_of(&request).0, "us-west-2");
    }
    assert_eq!(manager.region().unwrap().as_str(), "us-east-1", "one call is no reason to ask elsewhere");
}

// === redirects ===

#[tokio::test]
async fn a_redirect_is_followed_once_at_once_and_kept() {
    let located = |location: &str| json!({"__type": "RedirectException", "Location": location}).to_string();
    for first in [
        refusal(&located("us-west-2")),
        refusal(&located("https://license-manager.us-west-2.amazonaws.com")),
        refusal(&located("https://license-manager-fips.us-west-2.api.aws/")),
        answer("400 Bad Request", "location: us-west-2\r\n", r#"{"__type":"RedirectException"}"#),
    ] {
        let taken = || ok(r#"{"LicenseConsumptionToken":"held"}"#);
        let (addr, requests) = serve(vec![first, taken(), taken()]).await;
        let manager = manager(format!("http://{addr}"));
        let checked_out = take(&manager).await.unwrap();
        assert_eq!(checked_out.token.region().unwrap().as_str(), "us-west-2");
        take(&manager).await.unwrap();
        assert_eq!(manager.region().unwrap().as_str(), "us-west-2");
        let requests = requests.await.unwrap();
        let regions: Vec<_> = requests.iter().map(|request| scope_of(request).0).collect();
        assert_eq!(regions, ["us-east-1", "us-west-2", "us-west-2"]);
        assert_eq!(body_of(&requests[0]), body_of(&requests[1]), "with the same client token");
    }
}

#[tokio::test]
async fn a_redirect_that_names_no_other_region_or_leads_on_is_a_fault() {
    let located =
        |location: Value| refusal(&json!({"__type": "RedirectException", "Location": location}).to_string());
    for answers in [
        vec![located("us-east-1".into())],
        vec![located("https://license-manager.evil.example/us-west-2".into())],
        vec![located("https://evil.us-west-2.amazonaws.com".into())],
        vec![located("".into())],
        vec![located(7.into())],
        vec![located("us-west-2".into()), located("eu-west-1".into())],
    ] {
        let sent = answers.len();
        let (addr, requests) = serve(answers).await;
        let manager = manager(format!("http://{addr}"));
        let fault = take(&manager).await.unwrap_err();
        assert_eq!((fault.class, fault.code.as_str()), (FaultClass::Misconfigured, exceptions::REDIRECT));
        assert_eq!(requests.await.unwrap().len(), sent);
        assert_eq!(manager.region().unwrap().as_str(), "us-east-1");
    }
}

#[test]
fn a_region_is_all_that_is_taken_of_a_location() {
    for (location, region) in [
        ("us-west-2", Some("us-west-2")),
        ("license-manager.us-west-2.amazonaws.com", Some("us-west-2")),
        ("https://license-manager.us-west-2.amazonaws.com:443/x", Some("us-west-2")),
        ("https://license-manager.us-west-2.evil.example", Some("us-west-2")),
        ("http://127.0.0.1:1", None),
        ("us-west-2.evil.example", Some("us-west-2")),
        ("evil", None),
        ("", None),
    ] {
        assert_eq!(region_in(location).as_ref().map(Region::as_str), region, "{location}");
    }
}

// === faults ===

#[tokio::test]
async fn refusals_are_told_by_code_with_the_action_that_is_missing() {
    use FaultClass::{Access, Denied, ExpiredSession, Misconfigured, Transient};
    let named = |code: &str| json!({"__type": code, "Message": "role x"}).to_string();
    let page = |text: &str| format!("<html>{text}</html>");
    let action = "license-manager:CheckoutLicense";
    let signature = "UnsupportedDigitalSignatureMethodException";
    let authorization = "com.amazonaws.licensemanager#AuthorizationException";
    for (status, body, class, code, seen) in [
        ("400 X", named("NoEntitlementsAllowedException"), Denied, "NoEntitlementsAllowedException", ""),
        ("400 X", named("ResourceNotFoundException"), Denied, "ResourceNotFoundException", ""),
        ("400 X", named("ValidationException"), Misconfigured, "ValidationException", ""),
        (
            "400 X",
            named("InvalidParameterValueException"),
            Misconfigured,
            "InvalidParameterValueException",
            "",
        ),
        ("400 X", named(signature), Misconfigured, signature, ""),
        ("400 X", named("AccessDeniedException"), Access, "AccessDeniedException", action),
        ("403 X", named(authorization), Access, "AuthorizationException", action),
        ("400 X", named("RateLimitExceededException"), Transient, "RateLimitExceededException", ""),
        ("500 X", named("ServerInternalException"), Transient, "ServerInternalException", ""),
        ("400 X", named("ExpiredTokenException"), ExpiredSession, "ExpiredTokenException", ""),
        ("503 X", page("busy"), Transient, "ServiceUnavailable", ""),
        ("403 X", page("no"), Transient, "InvalidAnswer", "HTTP 403"),
    ] {
        let (addr, _) = serve(vec![answer(status, "", &body)]).await;
        let fault = take(&manager(format!("http://{addr}"))).await.unwrap_err();
        assert_eq!((fault.class, fault.code.as_str(), fault.seen.as_str()), (class, code, seen));
        assert_eq!((fault.place, fault.host), (Place::LicenseManager, Some(addr.to_string())), "{code}");
        assert!(!fault.never_sent, "{code}");
    }
}

#[tokio::test]
async fn an_answer_that_is_lost_leaves_open_whether_something_was_taken() {
    for act in
        [Act::Reset, Act::Close, Act::Answer(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{\"Lic".to_vec())]
    {
        let (addr, _) = serve_once(act).await;
        let fault = take(&manager(format!("http://{addr}"))).await.unwrap_err();
        assert_eq!((fault.class, fault.never_sent), (FaultClass::Transient, false), "{fault:?}");
        assert_eq!(fault.place, Place::LicenseManager);
    }
    let bound = tokio::net::TcpSocket::new_v4().unwrap();
    bound.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = bound.local_addr().unwrap();
    let fault = take(&manager(format!("http://{addr}"))).await.unwrap_err();
    assert_eq!(
        (fault.code.as_str(), fault.never_sent, fault.place),
        ("Connection", true, Place::LicenseManager)
    );
}

#[tokio::test(start_paused = true)]
async fn a_service_that_hangs_is_left_in_time_also_in_the_middle_of_a_listing() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let manager = manager(format!("http://{}", listener.local_addr().unwrap()));
    let before = clock::monotonic();
    let fault = list(&manager).await.unwrap_err();
    assert_eq!((fault.class, fault.code.as_str()), (FaultClass::Transient, "Timeout"));
    assert_eq!(fault.place, Place::LicenseManager);
    let taken = clock::monotonic().duration_since(before);
    assert!(taken <= crate::ATTEMPT_TIMEOUT + Duration::from_millis(100), "{taken:?}");
}

/// A log that is sent to support must not contain a consumption token.
#[tokio::test]
async fn no_token_is_in_a_fault_or_in_what_is_shown_of_an_answer() {
    let broken = ok(r#"{"LicenseConsumptionToken":"held-secret","#);
    let told =
        refusal(r#"{"__type":"ValidationException","Message":"no such token client-token-1, held-secret"}"#);
    for answer in [broken, told.clone()] {
        let (addr, _) = serve(vec![answer]).await;
        let fault = take(&manager(format!("http://{addr}"))).await.unwrap_err();
        let shown = format!("{fault:?}");
        assert!(!shown.contains("client-token-1"), "{shown}");
    }
    let (addr, _) = serve(vec![ok(r#"{"LicenseConsumptionToken":"held-secret","#)]).await;
    let shown = format!("{:?}", take(&manager(format!("http://{addr}"))).await);
    assert!(!shown.contains("held-secret"), "{shown}");
    let (addr, _) = serve(vec![told, ok(r#"{"LicenseConsumptionToken":"held-secret"}"#)]).await;
    let manager = manager(format!("http://{addr}"));
    for _ in 0..2 {
        let shown = format!(
            "{:?}",
            manager.extend_license_consumption(token("held-secret"), Signing::default()).await
        );
        assert!(!shown.contains("held-secret"), "{shown}");
    }
    assert!(!format!("{:?} {manager:?}", checkout()).contains("client-token-1"));
}

#[tokio::test]
async fn a_refused_signature_teaches_the_clock_to_license_manager_too() {
    let refused = answer(
        "403 Forbidden",
        "date: Tue, 24 Nov 2026 08:00:00 GMT\r\n",
        r#"{"__type":"InvalidSignatureException"}"#,
    );
    let (addr, requests) = serve(vec![refused.clone(), refused]).await;
    let manager = manager(format!("http://{addr}"));
    for _ in 0..2 {
        take(&manager).await.unwrap_err();
    }
    let requests = requests.await.unwrap();
    let (_, date) = requests[1].split_once("x-amz-date: ").unwrap();
    assert_eq!(&date[..8], "20261124");
    let skew = manager.clock_skew().unwrap();
    let expected = 1_795_507_200 - clock::system_now().unix_seconds();
    assert!((skew - expected).abs() <= 5, "{skew}");
}

// === regions and endpoints ===

fn own(region: &str) -> crate::AwsSettings {
    crate::AwsSettings {
        region: Some(region.parse().unwrap()),
        imds_disabled: true,
        ..crate::AwsSettings::default()
    }
}

#[tokio::test]
async fn endpoints_are_those_of_awss_rules() {
    for (region, use_fips, use_dual_stack, url) in [
        ("us-east-1", false, false, "https://license-manager.us-east-1.amazonaws.com"),
        ("us-east-1", true, false, "https://license-manager-fips.us-east-1.amazonaws.com"),
        ("us-east-1", false, true, "https://license-manager.us-east-1.api.aws"),
        ("us-east-1", true, true, "https://license-manager-fips.us-east-1.api.aws"),
        ("us-gov-west-1", true, false, "https://license-manager-fips.us-gov-west-1.amazonaws.com"),
        ("cn-north-1", false, false, "https://license-manager.cn-north-1.amazonaws.com.cn"),
        ("cn-north-1", false, true, "https://license-manager.cn-north-1.api.amazonwebservices.com.cn"),
        ("us-iso-east-1", false, false, "https://license-manager.us-iso-east-1.c2s.ic.gov"),
        ("us-isob-east-1", true, false, "https://license-manager-fips.us-isob-east-1.sc2s.sgov.gov"),
        ("eusc-de-east-1", false, false, "https://license-manager.eusc-de-east-1.amazonaws.eu"),
        ("ap-southeast-12", false, false, "https://license-manager.ap-southeast-12.amazonaws.com"),
    ] {
        let settings = crate::AwsSettings { use_fips, use_dual_stack, ..own(region) };
        let aws = Arc::new(Aws::for_tests(settings, Ok(keys())));
        let manager = LicenseManager::new(aws, LicenseManagerSettings::default());
        assert_eq!(manager.endpoint().await.unwrap(), url);
    }
}

#[tokio::test]
async fn the_configured_region_comes_before_the_pods_and_stands_in_for_one_that_is_not_known() {
    for (pods, configured, asked) in [
        (Some("eu-west-1"), None, "eu-west-1"),
        (Some("eu-west-1"), Some("us-west-2"), "us-west-2"),
        (None, Some("us-west-2"), "us-west-2"),
    ] {
        let (addr, requests) = serve(vec![ok(r#"{"Licenses":[]}"#)]).await;
        let settings = crate::AwsSettings {
            region: pods.map(|region| region.parse().unwrap()),
            endpoint_url: Some(format!("http://{addr}")),
            imds_disabled: true,
            ..crate::AwsSettings::default()
        };
        let aws = Arc::new(Aws::for_tests(settings, Ok(keys())));
        let region = configured.map(|region: &str| region.parse().unwrap());
        let manager = LicenseManager::new(aws, LicenseManagerSettings { region, token_file: None });
        list(&manager).await.unwrap();
        assert_eq!(scope_of(&requests.await.unwrap()[0]).0, asked);
        assert_eq!(manager.region().unwrap().as_str(), asked);
    }
    let settings = crate::AwsSettings { imds_disabled: true, ..crate::AwsSettings::default() };
    let manager = LicenseManager::new(
        Arc::new(Aws::for_tests(settings, Ok(keys()))),
        LicenseManagerSettings::default(),
    );
    let fault = list(&manager).await.unwrap_err();
    assert_eq!((fault.class, fault.code.as_str()), (FaultClass::Access, "RegionUnknown"));
    assert!(fault.never_sent && fault.seen.is_empty(), "no policy of License Manager's refused: {fault:?}");
}

// === outside AWS ===

const ROLE: &str = "arn:aws:iam::111122223333:role/license";

/// A pod without its own credentials but with a license's token.
fn anywhere(
    url: String,
    region: Option<&str>,
    role: Option<&str>,
    token: &std::path::Path,
) -> LicenseManager {
    let settings = crate::AwsSettings {
        region: region.map(|region| region.parse().unwrap()),
        endpoint_url: Some(url),
        stands_for_all: true,
        imds_disabled: true,
        role_arn: role.map(str::to_owned),
        ..crate::AwsSettings::default()
    };
    let none = Fault::local(FaultClass::Access, "CredentialsMissing", "");
    let aws = Arc::new(Aws::for_tests(settings, Err(none)));
    LicenseManager::new(aws, LicenseManagerSettings { region: None, token_file: Some(token.to_owned()) })
}

fn given(expiration: &str) -> Vec<u8> {
    let result = format!(
        "<Credentials><AccessKeyId>ASIAEXAMPLE</AccessKeyId><SecretAccessKey>secret-key</SecretAccessKey>\
         <SessionToken>session</SessionToken><Expiration>{expiration}</Expiration></Credentials>"
    );
    let body = format!(
        "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
         <AssumeRoleWithWebIdentityResult>{result}</AssumeRoleWithWebIdentityResult>\
         </AssumeRoleWithWebIdentityResponse>"
    );
    answer("200 OK", "content-type: text/xml\r\n", &body)
}

fn in_an_hour() -> String {
    Timestamp::from_unix_seconds(clock::system_now().unix_seconds() + 3600).to_string()
}

fn token_file() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "refresh-1\n").unwrap();
    file
}

#[tokio::test]
async fn a_license_token_becomes_credentials_by_two_unsigned_calls() {
    for region in [None, Some("eu-west-1")] {
        let file = token_file();
        let answers =
            vec![ok(r#"{"AccessToken":"access-1"}"#), given(&in_an_hour()), ok(r#"{"Licenses":[]}"#)];
        let (addr, requests) = serve(answers).await;
        let manager = anywhere(format!("http://{addr}"), region, Some(ROLE), file.path());
        list(&manager).await.unwrap();
        let requests = requests.await.unwrap();
        assert!(requests[0].contains("x-amz-target: AWSLicenseManager.GetAccessToken"), "{}", requests[0]);
        assert_eq!(body_of(&requests[0]), json!({"Token": "refresh-1"}));
        assert!(requests[1].contains("Action=AssumeRoleWithWebIdentity"), "{}", requests[1]);
        assert!(requests[1].contains("WebIdentityToken=access-1"), "{}", requests[1]);
        assert!(requests[1].contains("role%2Flicense"), "{}", requests[1]);
        for unsigned in &requests[..2] {
            assert!(!unsigned.to_lowercase().contains("\r\nauthorization:"), "{unsigned}");
        }
        assert_eq!(scope_of(&requests[2]), (region.unwrap_or("us-east-1"), "license-manager"));
        assert!(requests[2].contains("Credential=ASIAEXAMPLE/"), "{}", requests[2]);
        let found = manager.aws.inspect_credentials().await.unwrap();
        assert_eq!(found.source, crate::CredentialSource::LicenseToken);
        assert_eq!(found.hosts, [addr.to_string()]);
    }
}

/// They are valid for an hour; a call in their last minute could fail.
#[tokio::test]
async fn credentials_of_a_license_token_are_renewed_with_the_file_as_it_is_then() {
    let file = token_file();
    let soon = Timestamp::from_unix_seconds(clock::system_now().unix_seconds() + 599).to_string();
    let renewal = [ok(r#"{"AccessToken":"access-2"}"#), given(&in_an_hour())];
    let answers = [ok(r#"{"AccessToken":"access-1"}"#), given(&soon), ok("{}")].into_iter().chain(renewal);
    let (addr, requests) = serve(answers.collect()).await;
    let manager = anywhere(format!("http://{addr}"), None, Some(ROLE), file.path());
    list(&manager).await.unwrap();
    std::fs::write(file.path(), "refresh-2").unwrap();
    let first = manager.aws.loaded().unwrap();
    assert!(first.expires_at.unwrap() < SigningClock::default().now() + crate::RENEWED_BEFORE);
    manager.aws.renew().await.unwrap();
    assert!(!manager.aws.loaded().unwrap().is(&first));
    let requests = requests.await.unwrap();
    assert_eq!(body_of(&requests[3]), json!({"Token": "refresh-2"}));
}

#[tokio::test]
async fn what_is_wrong_outside_aws_is_told_by_what_refuses() {
    use FaultClass::{Access, Transient};
    let sts = |code: &str| {
        let body = format!(
            "<ErrorResponse><Error><Code>{code}</Code><Message>access-1</Message></Error></ErrorResponse>"
        );
        answer("400 X", "content-type: text/xml\r\n", &body)
    };
    let access = || ok(r#"{"AccessToken":"access-1"}"#);
    let file = token_file();
    let refused = |code: &str| vec![refusal(&json!({"__type": code, "Message": "refresh-1"}).to_string())];
    let (role, license_manager, throttled) =
        (Some(ROLE), Place::LicenseManager, "RateLimitExceededException");
    for (answers, role, class, code, place) in [
        (refused("AccessDeniedException"), role, Access, "LicenseTokenRefused", license_manager),
        (refused("ValidationException"), role, Access, "LicenseTokenRefused", license_manager),
        (refused(throttled), role, Transient, throttled, license_manager),
        (vec![ok("{}")], role, Transient, "InvalidAnswer", license_manager),
        (vec![ok(r#"{"AccessToken":""}"#)], role, Transient, "InvalidAnswer", license_manager),
        (vec![access(), sts("AccessDenied")], role, Access, "LicenseRoleRefused", Place::Sts),
        (vec![access(), sts("Throttling")], role, Transient, "Throttling", Place::Sts),
        (vec![access(), ok("<html>")], role, Transient, "InvalidAnswer", Place::Sts),
        (Vec::new(), None, Access, "CredentialsIncomplete", license_manager),
    ] {
        let (addr, _) = serve(answers).await;
        let fault = list(&anywhere(format!("http://{addr}"), None, role, file.path())).await.unwrap_err();
        assert_eq!((fault.class, fault.code.as_str(), fault.place), (class, code, place), "{fault:?}");
        assert!(fault.never_sent, "{fault:?}");
        let shown = format!("{fault:?}");
        assert!(!shown.contains("refresh-1") && !shown.contains("access-1"), "{shown}");
    }
    let folder = tempfile::tempdir().unwrap();
    let fault =
        list(&anywhere("http://127.0.0.1:9".to_owned(), None, Some(ROLE), folder.path())).await.unwrap_err();
    assert_eq!((fault.class, fault.code.as_str()), (Access, "CredentialsFileInvalid"));
    assert!(fault.detail.contains("name the file license_token in it"), "{}", fault.detail);
}

/// The pod's own credentials come first, in AWS's order of sources.
#[tokio::test]
async fn a_license_token_is_not_used_where_the_pod_has_credentials() {
    let file = token_file();
    let (addr, requests) = serve(vec![ok("{}")]).await;
    let settings = crate::AwsSettings { endpoint_url: Some(format!("http://{addr}")), ..own("us-east-1") };
    let aws = Arc::new(Aws::for_tests(settings, Ok(keys())));
    let manager = LicenseManager::new(
        aws,
        LicenseManagerSettings { region: None, token_file: Some(file.path().to_owned()) },
    );
    list(&manager).await.unwrap();
    assert!(requests.await.unwrap()[0].contains("Credential=AKIDEXAMPLE/"));
    // The pod has its own credentials, but no region to sign for.
    let settings = crate::AwsSettings { imds_disabled: true, ..crate::AwsSettings::default() };
    let aws = Arc::new(Aws::for_tests(settings, Ok(Credentials::new("a", "b", None, None, "test"))));
    let manager = LicenseManager::new(
        aws,
        LicenseManagerSettings { region: None, token_file: Some(file.path().to_owned()) },
    );
    assert_eq!(list(&manager).await.unwrap_err().code.as_str(), "RegionUnknown");
}

#[tokio::test]
async fn whether_the_role_may_extend_and_give_back_is_tried_without_a_seat() {
    let refused = |code: &str| refusal(&json!({"__type": code, "message": "no"}).to_string());
    let codes = ["ResourceNotFoundException", "ValidationException", "InvalidParameterValueException"];
    for (check_in, name) in [(false, "ExtendLicenseConsumption"), (true, "CheckInLicense")] {
        let mut answers: Vec<_> = codes.iter().map(|code| refused(code)).collect();
        answers.extend(["AccessDeniedException", "AuthorizationException"].map(refused));
        let others = ["UnknownOperationException", "RedirectException", "MadeUpException"];
        answers.extend(others.map(refused));
        let (addr, requests) = serve(answers).await;
        let manager = manager(format!("http://{addr}"));
        let tried = async || {
            if check_in { manager.try_check_in().await } else { manager.try_extension().await }
        };
        for code in codes {
            assert_eq!(tried().await, Ok(()), "{name}: it looked for the token: {code}");
        }
        for code in ["AccessDeniedException", "AuthorizationException"] {
            let fault = tried().await.unwrap_err();
            assert_eq!((fault.code.as_str(), fault.class), (code, FaultClass::Access));
            assert_eq!(fault.seen, format!("license-manager:{name}"));
        }
        for code in others {
            assert_eq!(
                tried().await.unwrap_err().code.as_str(),
                code,
                "{name}: nothing is known of the role"
            );
        }
        for request in requests.await.unwrap() {
            assert!(request.contains(&format!("AWSLicenseManager.{name}\r")), "{request}");
            let body = body_of(&request);
            assert_eq!(
                (body["DryRun"] == true, body["LicenseConsumptionToken"].is_string()),
                (!check_in, true)
            );
        }
    }
}
