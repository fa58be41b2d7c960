//! License Manager's decisions, by tables of requests.

use serde_json::{Value, json};

use crate::change::Change;
use crate::fault::Pages;
use crate::license_token::{LicenseToken, Purpose};
use crate::operation::{Operation, ServiceError};
use crate::service::tests::Bench;
use tollgate_time::Timestamp;

const MARKETPLACE: &str = "aws:294406891311:AWS/Marketplace:issuer-fingerprint";
const MINUTE: u64 = 60;

impl Bench {
    fn order(&mut self, order: &Value) -> String {
        let order = serde_json::from_value(order.clone()).unwrap();
        let (license_arn, contract) = self.service.world.ordered_contract(order).unwrap();
        self.service.apply(&Change::Contract { license_arn: license_arn.clone(), contract });
        license_arn
    }

    fn later(&mut self, minutes: u64) {
        self.now = self.now.plus(std::time::Duration::from_secs(minutes * MINUTE));
    }

    fn take(&mut self, token: &str, entitlements: &Value) -> Result<Value, ServiceError> {
        self.ask(Operation::CheckoutLicense, &checkout(token, entitlements))
    }

    fn users(&mut self, token: &str, count: u64) -> String {
        self.code(Operation::CheckoutLicense, &checkout(token, &users(count)))
    }

    fn extend(&mut self, token: &Value) -> String {
        self.code(Operation::ExtendLicenseConsumption, &json!({"LicenseConsumptionToken": token}))
    }

    fn check_in(&mut self, token: &Value) -> String {
        self.code(Operation::CheckInLicense, &json!({"LicenseConsumptionToken": token}))
    }

    fn list(&mut self, body: &Value) -> Vec<Value> {
        let answer = self.ask(Operation::ListReceivedLicenses, body).unwrap();
        answer["Licenses"].as_array().unwrap().clone()
    }

    fn shown(&self) -> Value {
        self.service.seats.json(&self.service.world, self.now, 100)
    }

    fn arn(&self) -> String {
        self.service.world.showpiece_contract().unwrap().0.to_owned()
    }

    /// How many users are held, and the most that were held at once.
    fn held(&self) -> (Value, Value) {
        let users = &self.shown()["licenses"][0]["entitlements"][0];
        (users["held"].clone(), users["held_max"].clone())
    }
}

fn users(count: u64) -> Value {
    json!([{"Name": "users", "Unit": "Count", "Value": count.to_string()}])
}

fn checkout(token: &str, entitlements: &Value) -> Value {
    json!({
        "ProductSKU": "prod-democontract",
        "CheckoutType": "PROVISIONAL",
        "KeyFingerprint": MARKETPLACE,
        "ClientToken": token,
        "Entitlements": entitlements,
    })
}

const NONE_ALLOWED: &str = "NoEntitlementsAllowedException";

#[test]
fn ten_seats_are_taken_and_no_more_and_come_back() {
    let mut bench = Bench::new();
    let first = bench.take("a", &users(4)).unwrap();
    assert_eq!(first["EntitlementsAllowed"], users(4));
    assert_eq!(first["IssuedAt"], "2026-11-24T08:30:00Z");
    assert_eq!(first["Expiration"], "2026-11-24T09:30:00Z");
    assert!(first["SignedToken"].as_str().unwrap().len() >= 4096);
    assert_eq!(bench.users("b", 7), NONE_ALLOWED);
    assert_eq!(bench.users("c", 6), "ok");
    assert_eq!(bench.users("d", 1), NONE_ALLOWED);
    let arn = first["LicenseArn"].clone();
    let usage = bench.ask(Operation::GetLicenseUsage, &json!({"LicenseArn": arn})).unwrap();
    assert_eq!(
        usage["LicenseUsage"]["EntitlementUsages"],
        json!([
            {"Name": "users", "ConsumedValue": "10", "MaxCount": "10", "Unit": "Count"},
            {"Name": "premium", "ConsumedValue": "0", "Unit": "None"},
        ])
    );
    assert_eq!(bench.check_in(&first["LicenseConsumptionToken"]), "ok");
    assert_eq!(bench.check_in(&first["LicenseConsumptionToken"]), "ResourceNotFoundException");
    assert_eq!(bench.users("d", 5), NONE_ALLOWED);
    assert_eq!(bench.users("d", 4), "ok");
    assert_eq!(bench.held(), (json!(10), json!(10)));
}

#[test]
fn what_nobody_extends_ends_by_itself_on_the_emulated_clock() {
    let mut bench = Bench::new();
    let kept = bench.take("a", &users(5)).unwrap()["LicenseConsumptionToken"].clone();
    let left = bench.take("b", &users(5)).unwrap()["LicenseConsumptionToken"].clone();
    bench.later(59);
    assert_eq!(bench.extend(&kept), "ok");
    assert_eq!(bench.users("c", 1), NONE_ALLOWED);
    bench.later(1);
    assert_eq!(bench.extend(&left), "ResourceNotFoundException");
    assert_eq!(bench.check_in(&left), "ResourceNotFoundException");
    assert_eq!(bench.users("c", 5), "ok");
    let shown = bench.shown();
    assert_eq!(shown["totals"], json!({"takes": 3, "returns": 0, "lapses": 1, "extensions": 1}));
    let events: Vec<(Value, Value, Value)> = shown["log"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| (event["what"].clone(), event["at"].clone(), event["held"].clone()))
        .collect();
    let event =
        |what: &str, at: &str, held: u64| (json!(what), json!(format!("2026-11-24T{at}.000Z")), json!(held));
    assert_eq!(
        events,
        [
            event("take", "08:30:00", 5),
            event("take", "08:30:00", 10),
            event("lapse", "09:30:00", 5),
            event("take", "09:30:00", 10),
        ]
    );
    let rows = shown["checkouts"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0]["extensions"], 1);
    assert_eq!(rows[0]["expires"], "2026-11-24T10:29:00.000Z");
    assert_eq!((&rows[1]["pod"], &rows[1]["quantity"]), (&json!("pod-1"), &json!(5)));
}

#[test]
fn a_repeated_client_token_takes_nothing_more_while_it_is_known() {
    let token = |bench: &mut Bench| bench.take("a", &users(1)).unwrap()["LicenseConsumptionToken"].clone();
    let mut bench = Bench::new();
    let first = token(&mut bench);
    bench.later(9);
    assert_eq!(token(&mut bench), first);
    assert_eq!(bench.held().0, 1);
    assert_eq!(bench.users("a", 2), "InvalidParameterValueException");
    bench.pod = "pod-2";
    assert_eq!(token(&mut bench), first, "it is the account's");
    bench.later(1);
    assert_ne!(token(&mut bench), first);
    assert_eq!(bench.held().0, 2);

    let mut bench = Bench::with("client_token_life", "forever");
    let first = token(&mut bench);
    bench.later(50);
    assert_eq!(token(&mut bench), first);

    let mut bench = Bench::with("repeated_client_token", "new-seat");
    assert_ne!(token(&mut bench), token(&mut bench));
    assert_eq!(bench.held().0, 2);
}

#[test]
fn five_causes_have_one_error() {
    let one = users(1);
    for (order, entitlements) in [
        (json!({}), json!([{"Name": "users", "Unit": "None"}])),
        (json!({}), json!([{"Name": "premium", "Unit": "Count", "Value": "1"}])),
        (json!({}), json!([{"Name": "nodes", "Unit": "Count", "Value": "1"}])),
        (json!({}), json!([{"Name": "gold", "Unit": "None"}])),
        (json!({}), json!([{"Name": "premium", "Unit": "None", "Value": "Disabled"}])),
        (json!({"received": "disabled"}), one.clone()),
        (json!({"received": "pending"}), one.clone()),
        (json!({"status": "deactivated"}), one.clone()),
        (json!({"end": "2026-11-24T08:30:00Z"}), one.clone()),
        (json!({"begin": "2026-11-24T08:30:01Z"}), one.clone()),
        (json!({"key_fingerprint": "aws:111122223333:me:issuer-fingerprint"}), one.clone()),
        (json!({"account_id": "444455556666"}), one.clone()),
    ] {
        let mut bench = Bench::new();
        let (arn, _) = bench.service.world.showpiece_contract().unwrap();
        let mut named = json!({"license_arn": arn});
        named.as_object_mut().unwrap().extend(order.as_object().unwrap().clone());
        bench.order(&named);
        let code = bench.code(Operation::CheckoutLicense, &checkout("a", &entitlements));
        assert_eq!(code, NONE_ALLOWED, "{order} {entitlements}");
    }
    let mut bench = Bench::with("unit_mismatch", "validation");
    let unit = json!([{"Name": "users", "Unit": "None"}]);
    assert_eq!(bench.code(Operation::CheckoutLicense, &checkout("a", &unit)), "ValidationException");
}

#[test]
fn tiers_are_named_together_and_those_that_are_there_come_back() {
    let mut bench = Bench::new();
    let asked = json!([{"Name": "premium", "Unit": "None"}, {"Name": "gold", "Unit": "None"}]);
    let answer = bench.take("a", &asked).unwrap();
    let allowed = json!([{"Name": "premium", "Unit": "None", "Value": "Enabled"}]);
    assert_eq!(answer["EntitlementsAllowed"], allowed);
    let both =
        json!([{"Name": "premium", "Unit": "None"}, {"Name": "users", "Unit": "Count", "Value": "11"}]);
    assert_eq!(bench.code(Operation::CheckoutLicense, &checkout("b", &both)), NONE_ALLOWED);
    assert_eq!(bench.held().0, 0);
}

#[test]
fn what_makes_no_sense_takes_nothing() {
    let mut bench = Bench::new();
    for entitlements in [
        json!([]),
        json!([{"Name": "users", "Unit": "Count"}]),
        json!([{"Name": "users", "Unit": "Count", "Value": "0"}]),
        json!([{"Name": "users", "Unit": "Count", "Value": "-1"}]),
        json!([{"Name": "users", "Unit": "Count", "Value": "+1"}]),
        json!([{"Name": "users", "Unit": "Count", "Value": "1.5"}]),
        json!([{"Name": "users", "Unit": "Count", "Value": "9223372036854775808"}]),
        json!([
            {"Name": "users", "Unit": "Count", "Value": "1"},
            {"Name": "users", "Unit": "Count", "Value": "1"},
        ]),
    ] {
        let code = bench.code(Operation::CheckoutLicense, &checkout("a", &entitlements));
        assert_eq!(code, "InvalidParameterValueException", "{entitlements}");
    }
    assert_eq!(bench.users("a", i64::MAX as u64), NONE_ALLOWED);
    assert_eq!(bench.shown()["totals"]["takes"], 0);
}

#[test]
fn overage_and_no_number_are_without_limit() {
    for entitlement in [
        json!({"name": "users", "max_count": 10, "overage": true}),
        json!({"name": "users", "max_count": 0}),
        json!({"name": "users"}),
    ] {
        let mut bench = Bench::new();
        bench.order(&json!({"product_id": "prod-democontract", "entitlements": [entitlement]}));
        assert_eq!(bench.users("a", 1000), "ok");
    }
}

#[test]
fn extending_notices_no_smaller_contract() {
    let mut bench = Bench::new();
    let token = bench.take("a", &users(10)).unwrap()["LicenseConsumptionToken"].clone();
    let fewer = json!([{"name": "users", "max_count": 2}]);
    bench.order(&json!({"product_id": "prod-democontract", "entitlements": fewer}));
    assert_eq!(bench.extend(&token), "ok");
    assert_eq!(bench.users("b", 1), NONE_ALLOWED);
    let dry = json!({"LicenseConsumptionToken": token, "DryRun": true});
    bench.later(30);
    let answer = bench.ask(Operation::ExtendLicenseConsumption, &dry).unwrap();
    assert_eq!(answer["Expiration"], "2026-11-24T09:30:00Z");
}

#[test]
fn what_was_taken_for_good_and_what_allows_no_check_in_stay_taken() {
    let mut bench = Bench::new();
    let mut body = checkout("a", &users(3));
    body["CheckoutType"] = json!("PERPETUAL");
    body["NodeId"] = json!("node-1");
    let answer = bench.ask(Operation::CheckoutLicense, &body).unwrap();
    assert_eq!((&answer["Expiration"], &answer["NodeId"]), (&Value::Null, &json!("node-1")));
    let token = &answer["LicenseConsumptionToken"];
    assert_eq!(bench.check_in(token), "InvalidParameterValueException");
    assert_eq!(bench.extend(token), "InvalidParameterValueException");
    bench.later(24 * 60);
    assert_eq!(bench.users("b", 8), NONE_ALLOWED);

    let mut bench = Bench::new();
    let kept = json!([{"name": "users", "max_count": 10, "allow_check_in": false}]);
    bench.order(&json!({"product_id": "prod-democontract", "entitlements": kept}));
    let token = bench.take("a", &users(10)).unwrap()["LicenseConsumptionToken"].clone();
    assert_eq!(bench.check_in(&token), "ConflictException");
    assert_eq!(bench.users("b", 1), NONE_ALLOWED);
}

#[test]
fn seats_are_their_accounts() {
    let mut bench = Bench::new();
    let answer = bench.take("a", &users(1)).unwrap();
    let other =
        serde_json::from_value(json!({"access_key": "stranger", "account_id": "444455556666"})).unwrap();
    let (name, pod) = bench.service.world.ordered_pod(other).unwrap();
    bench.service.apply(&Change::Pod { name, pod });
    bench.pod = "stranger";
    let token = &answer["LicenseConsumptionToken"];
    assert_eq!(bench.extend(token), "ResourceNotFoundException");
    assert_eq!(bench.check_in(token), "ResourceNotFoundException");
    assert_eq!(bench.users("a", 1), NONE_ALLOWED);
    assert!(bench.list(&json!({})).is_empty());
    for operation in [Operation::GetLicense, Operation::GetLicenseUsage] {
        let body = json!({"LicenseArn": answer["LicenseArn"]});
        assert_eq!(bench.code(operation, &body), "InvalidParameterValueException");
    }
}

#[test]
fn of_two_licenses_one_serves_every_checkout() {
    let second = json!({
        "license_arn": "arn:aws:license-manager::294406891311:license:l-second",
        "product_id": "prod-democontract",
        "entitlements": [{"name": "users", "max_count": 2}],
    });
    let mut bench = Bench::new();
    bench.order(&second);
    assert_eq!(bench.list(&json!({})).len(), 2);
    assert_eq!(bench.users("a", 3), NONE_ALLOWED);
    assert_eq!(bench.users("a", 2), "ok");
    bench.order(&json!({"license_arn": second["license_arn"], "received": "disabled"}));
    assert_eq!(bench.users("b", 3), "ok");

    let mut bench = Bench::with("newest_license", "oldest");
    bench.order(&second);
    assert_eq!(bench.users("a", 3), "ok");
}

#[test]
fn another_region_is_served_or_redirected() {
    for (answer, location) in [
        ("served", None),
        ("redirect", Some("us-east-1")),
        ("redirect-url", Some("https://license-manager.us-east-1.amazonaws.com")),
    ] {
        let mut bench = Bench::with("other_region", answer);
        assert_eq!(bench.users("a", 1), "ok");
        bench.region = "eu-central-1";
        let told = bench.take("b", &users(1)).map_or_else(
            |error| {
                assert_eq!(error.code, "RedirectException");
                error.location
            },
            |_| None,
        );
        assert_eq!(told.as_deref(), location, "{answer}");
    }
}

#[test]
fn a_role_without_permission_is_told_so_in_either_way() {
    for (answer, code) in
        [("Authorization", "AuthorizationException"), ("AccessDenied", "AccessDeniedException")]
    {
        let mut bench = Bench::with("authorization_code", answer);
        let order = json!({"access_key": "pod-1", "denied": ["ListReceivedLicenses"]});
        let (name, pod) = bench.service.world.ordered_pod(serde_json::from_value(order).unwrap()).unwrap();
        bench.service.apply(&Change::Pod { name, pod });
        let error = bench.ask(Operation::ListReceivedLicenses, &json!({})).unwrap_err();
        assert_eq!(error.code, code);
        assert!(error.message.contains("license-manager:ListReceivedLicenses"), "{}", error.message);
        assert_eq!(bench.users("a", 1), "ok");
    }
}

#[test]
fn the_listing_shows_what_was_received_in_the_form_of_the_model() {
    let mut bench = Bench::new();
    bench.order(
        &json!({"product_id": "prod-democontract", "end": "2027-01-01T00:00:00Z", "received": "pending"}),
    );
    let license = bench.list(&json!({})).remove(0);
    assert_eq!(license["ProductSKU"], "prod-democontract");
    assert_eq!(license["Issuer"], json!({"Name": "AWS/Marketplace", "KeyFingerprint": MARKETPLACE}));
    let validity = json!({"Begin": "2024-01-01T00:00:00Z", "End": "2027-01-01T00:00:00Z"});
    assert_eq!(license["Validity"], validity);
    assert_eq!(license["ReceivedMetadata"]["ReceivedStatus"], "PENDING_ACCEPT");
    assert_eq!(license["Status"], "AVAILABLE");
    let ttl = &license["ConsumptionConfiguration"]["ProvisionalConfiguration"]["MaxTimeToLiveInMinutes"];
    assert_eq!(ttl, 60);
    assert_eq!(
        license["Entitlements"],
        json!([
            {"Name": "users", "Unit": "Count", "MaxCount": 10, "Overage": false, "AllowCheckIn": true},
            {"Name": "premium", "Unit": "None", "Value": "Enabled", "Overage": false, "AllowCheckIn": true},
        ])
    );
    bench.now = Timestamp::parse("2027-01-01T00:00:00Z").unwrap();
    assert_eq!(bench.list(&json!({}))[0]["Status"], "EXPIRED");
    bench.service.world.switches.set("expiration_format", "none").unwrap();
    assert_eq!(bench.list(&json!({}))[0]["Validity"]["End"], "2027-01-01T00:00:00");
}

#[test]
fn the_listing_is_filtered_and_paged() {
    let mut bench = Bench::new();
    for number in 1..=4 {
        bench.order(&json!({
            "license_arn": format!("arn:aws:license-manager::294406891311:license:l-{number}"),
            "product_id": format!("prod-{number}"),
            "entitlements": [{"name": "users", "max_count": 2}],
        }));
    }
    let filter = |name: &str, value: &str| json!({"Filters": [{"Name": name, "Values": [value]}]});
    for (body, count) in [
        (filter("ProductSKU", "prod-2"), 1),
        (filter("Fingerprint", MARKETPLACE), 5),
        (filter("Fingerprint", "aws:111122223333:me:issuer-fingerprint"), 0),
        (filter("Status", "AVAILABLE"), 5),
        (filter("Status", "EXPIRED"), 0),
        (filter("IssuerName", "AWS/Marketplace"), 5),
        (filter("Beneficiary", "111122223333"), 5),
        (json!({"LicenseArns": ["arn:aws:license-manager::294406891311:license:l-3"]}), 1),
        (json!({"LicenseArns": []}), 0),
    ] {
        assert_eq!(bench.list(&body).len(), count, "{body}");
    }
    for bad in [
        filter("Name", "x"),
        json!({"Filters": [{"Name": "Status"}]}),
        json!({"Filters": [{"Name": "Status", "Values": []}]}),
        json!({"NextToken": "made up"}),
    ] {
        let code = bench.code(Operation::ListReceivedLicenses, &bad);
        assert_eq!(code, "InvalidParameterValueException", "{bad}");
    }
    let walk = |bench: &mut Bench| {
        let (mut seen, mut token) = (Vec::new(), Value::Null);
        for page in 1..=10 {
            let body = json!({"MaxResults": 2, "NextToken": token});
            let answer = bench.ask(Operation::ListReceivedLicenses, &body).unwrap();
            let licenses = answer["Licenses"].as_array().unwrap();
            seen.push(licenses.len());
            token = answer["NextToken"].clone();
            if token.is_null() {
                break;
            }
            assert!(page < 10 || bench.pages == Some(Pages::Endless));
        }
        seen
    };
    assert_eq!(walk(&mut bench), [2, 2, 1]);
    bench.pages = Some(Pages::Endless);
    assert_eq!(walk(&mut bench), [5; 10]);
    bench.pages = Some(Pages::Empty);
    let empty = bench.ask(Operation::ListReceivedLicenses, &json!({})).unwrap();
    assert_eq!(empty["Licenses"], json!([]));
    bench.pages = None;
    assert_eq!(bench.list(&json!({"NextToken": empty["NextToken"]})).len(), 5);
}

#[test]
fn an_accounts_own_license_is_told_by_its_fingerprint() {
    let mut bench = Bench::new();
    let body = json!({
        "LicenseName": "rehearsal",
        "ProductName": "demo",
        "ProductSKU": "prod-democontract",
        "Issuer": {"Name": "me"},
        "HomeRegion": "us-east-1",
        "Validity": {"Begin": "2026-01-01T00:00:00Z", "End": "2027-01-01T00:00:00Z"},
        "Entitlements": [{"Name": "users", "Unit": "Count", "MaxCount": 100, "AllowCheckIn": true}],
        "Beneficiary": "111122223333",
        "ConsumptionConfiguration": {"ProvisionalConfiguration": {"MaxTimeToLiveInMinutes": 180}},
        "ClientToken": "c",
    });
    let answer = bench.ask(Operation::CreateLicense, &body).unwrap();
    assert_eq!(answer["Status"], "AVAILABLE");
    assert_eq!(bench.ask(Operation::CreateLicense, &body).unwrap(), answer);
    let mut other = body.clone();
    other["ProductName"] = json!("another");
    assert_eq!(bench.code(Operation::CreateLicense, &other), "InvalidParameterValueException");

    let mut checkout = checkout("a", &users(50));
    assert_eq!(bench.code(Operation::CheckoutLicense, &checkout), NONE_ALLOWED);
    checkout["KeyFingerprint"] = json!("aws:111122223333:me:issuer-fingerprint");
    assert_eq!(bench.code(Operation::CheckoutLicense, &checkout), "InvalidParameterValueException");
    checkout["Beneficiary"] = json!("111122223333");
    let taken = bench.ask(Operation::CheckoutLicense, &checkout).unwrap();
    assert_eq!(
        (&taken["LicenseArn"], &taken["Expiration"]),
        (&answer["LicenseArn"], &json!("2026-11-24T11:30:00Z"))
    );
    let license = bench.ask(Operation::GetLicense, &json!({"LicenseArn": answer["LicenseArn"]})).unwrap();
    assert_eq!(license["License"]["Issuer"]["KeyFingerprint"], checkout["KeyFingerprint"]);

    for (member, value) in [
        ("Beneficiary", json!("me")),
        ("Validity", json!({"Begin": "2026-02-31T00:00:00Z"})),
        ("Validity", json!({"Begin": "2026-02-01T00:00:00Z", "End": "2026-02-01T00:00:00Z"})),
        ("Entitlements", json!([])),
        ("Entitlements", json!([{"Name": "users", "Unit": "Count", "MaxCount": -1}])),
        ("Entitlements", json!([{"Name": "users", "Unit": "Count", "Value": "x"}])),
        ("Entitlements", json!([{"Name": "premium", "Unit": "None", "MaxCount": 1}])),
        ("ConsumptionConfiguration", json!({})),
        ("Issuer", json!({"Name": "a:b"})),
        ("ProductSKU", json!("")),
    ] {
        let mut bad = body.clone();
        bad["ClientToken"] = json!("bad");
        bad[member] = value;
        assert_eq!(bench.code(Operation::CreateLicense, &bad), "InvalidParameterValueException", "{bad}");
    }
}

#[test]
fn an_access_token_is_made_of_a_refresh_token() {
    let mut bench = Bench::new();
    bench.pod = "";
    let (arn, _) = bench.service.world.showpiece_contract().unwrap();
    let token = LicenseToken {
        license_arn: arn.to_owned(),
        account_id: "111122223333".to_owned(),
        properties: vec!["a".to_owned()],
    };
    let year = Purpose::Refresh.lifetime();
    let refresh = token.issue(Purpose::Refresh, bench.now, year);
    let answer = bench.ask(Operation::GetAccessToken, &json!({"Token": refresh})).unwrap();
    let access = answer["AccessToken"].as_str().unwrap();
    assert_eq!(LicenseToken::read(access, Purpose::Access, bench.now), Ok(token.clone()));
    let unknown = LicenseToken { license_arn: "arn:aws:x::y:l".to_owned(), ..token.clone() };
    for (bad, properties) in [
        (access.to_owned(), json!([])),
        ("x".to_owned(), json!([])),
        (refresh.clone(), json!(["b"])),
        (unknown.issue(Purpose::Refresh, bench.now, year), json!([])),
        (token.issue(Purpose::Refresh, bench.now, std::time::Duration::ZERO), json!([])),
    ] {
        let body = json!({"Token": bad, "TokenProperties": properties});
        assert_eq!(bench.code(Operation::GetAccessToken, &body), "AuthorizationException", "{bad}");
    }
    bench.later(366 * 24 * 60);
    assert_eq!(bench.code(Operation::GetAccessToken, &json!({"Token": refresh})), "AuthorizationException");
    assert_eq!(bench.service.bill.pods().count(), 0, "whoever brings a token is no pod yet");
}

/// Three pods take, extend, return and repeat in random order while time passes.
#[test]
fn whatever_happens_no_more_is_held_than_was_sold_and_the_journal_tells_the_same() {
    let mut bench = Bench::new();
    let (mut random, mut tokens, mut refused) = (7_u64, Vec::<Value>::new(), 0);
    let mut draw = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    for step in 0..3000 {
        bench.pod = ["pod-1", "pod-2", "pod-3"][usize::try_from(draw(3)).unwrap()];
        let some = |tokens: &[Value], at: u64| {
            let index = usize::try_from(at).unwrap().checked_rem(tokens.len())?;
            Some(tokens[index].clone())
        };
        match draw(6) {
            0 | 1 => {
                // Sometimes a client token that was used before.
                let name = format!("token-{}", step + 3 - draw(3));
                match bench.take(&name, &users(1 + draw(4))) {
                    Ok(answer) => tokens.push(answer["LicenseConsumptionToken"].clone()),
                    Err(error) => {
                        assert!(
                            [NONE_ALLOWED, "InvalidParameterValueException"].contains(&error.code.as_ref())
                        );
                        refused += 1;
                    }
                }
            }
            2 => bench.later(draw(20)),
            3 => {
                if let Some(token) = some(&tokens, draw(1000)) {
                    bench.check_in(&token);
                }
            }
            _ => {
                if let Some(token) = some(&tokens, draw(1000)) {
                    bench.extend(&token);
                }
            }
        }
        let held = bench.service.seats.held(bench.arn().as_str(), "users", bench.now);
        assert!(held <= 10, "{held} in step {step}");
    }
    assert!(refused > 100, "{refused}");
    let totals = &bench.shown()["totals"];
    for what in ["takes", "returns", "lapses", "extensions"] {
        assert!(totals[what].as_u64().unwrap() > 20, "{totals}");
    }
    assert_eq!(bench.held().1, 10);
    assert_eq!(bench.replayed().shown(), bench.shown());
}

/// The same sequence of calls of License Manager, with the answer that is in force; returns what differs.
pub(crate) fn story(switch: &str, answer: &str) -> String {
    let mut bench = Bench::with(switch, answer);
    match switch {
        "authorization_code" => {
            let denied = [Operation::CheckoutLicense].into();
            let pod = crate::world::Pod { denied, ..crate::world::Pod::default() };
            bench.service.world.pods.insert("pod-1".to_owned(), pod);
            bench.users("a", 1)
        }
        "client_token_life" | "repeated_client_token" => {
            bench.users("a", 1);
            bench.later(if switch == "client_token_life" { 10 } else { 1 });
            bench.users("a", 1);
            bench.held().0.to_string()
        }
        "expiration_format" => bench.take("a", &users(1)).unwrap()["Expiration"].to_string(),
        "newest_license" => {
            bench.order(&json!({
                "license_arn": "arn:aws:license-manager::294406891311:license:l-second",
                "product_id": "prod-democontract",
                "entitlements": [{"name": "users", "max_count": 2}],
            }));
            bench.users("a", 3)
        }
        "other_region" => {
            bench.region = "eu-central-1";
            format!("{:?}", bench.take("a", &users(1)).map(|_| "ok"))
        }
        "unit_mismatch" => {
            let unit = json!([{"Name": "users", "Unit": "None"}]);
            bench.code(Operation::CheckoutLicense, &checkout("a", &unit))
        }
        other => panic!("no story tells the answers of {other:?} apart"),
    }
}
