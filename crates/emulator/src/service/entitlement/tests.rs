//! What `GetEntitlements` answers to whom.

#![expect(clippy::needless_pass_by_value, reason = "bodies read better without ampersands")]

use serde_json::{Value, json};

use crate::fault::Pages;
use crate::operation::Operation;
use crate::service::tests::Bench;

const SELLER: &str = "777788889999";
const FIRST: &str = "arn:aws:license-manager::294406891311:license:l-first";
const SECOND: &str = "arn:aws:license-manager::294406891311:license:l-second";

/// Two customers with contracts of one product; the caller is its seller.
const CONTRACTS: &str = r#"
account_id = "777788889999"

[[products]]
product_code = "contracted"
pricing = "saas"

[[products]]
product_code = "usage-only"
pricing = "saas"

[[products]]
product_code = "foreign"
pricing = "saas"
seller_account_id = "999999999999"

[[customers]]
account_id = "111122223333"
identifier = "first"
[[customers.licenses]]
product_code = "contracted"
license_arn = "arn:aws:license-manager::294406891311:license:l-first"
active_until = "2027-01-01T00:00:00Z"
entitlements = [
    { dimension = "users", value = 10 },
    { dimension = "storage", value = 1.5, expires_at = "2026-12-01T00:00:00Z" },
    { dimension = "premium", value = true },
]
[[customers.licenses]]
product_code = "foreign"
entitlements = [{ dimension = "users", value = 1 }]

[[customers]]
account_id = "444455556666"
identifier = "second"
[[customers.licenses]]
product_code = "contracted"
license_arn = "arn:aws:license-manager::294406891311:license:l-second"
entitlements = [{ dimension = "users", value = 20 }, { dimension = "plan", value = "gold" }]
[[customers.licenses]]
product_code = "contracted"
license_arn = "arn:aws:license-manager::294406891311:license:l-ended"
subscribed = false
entitlements = [{ dimension = "users", value = 30 }]
[[customers.licenses]]
product_code = "contracted"
license_arn = "arn:aws:license-manager::294406891311:license:l-later"
active_from = "2099-01-01T00:00:00Z"
entitlements = [{ dimension = "users", value = 40 }]
"#;

fn contracts() -> Bench {
    Bench::of_world(CONTRACTS)
}

impl Bench {
    fn entitlements(&mut self, change: Value) -> Value {
        let mut body = json!({"ProductCode": "contracted"});
        for (name, value) in change.as_object().unwrap() {
            body[name.as_str()] = value.clone();
        }
        match self.ask(Operation::GetEntitlements, &body) {
            Ok(document) => document,
            Err(error) => json!(error.code),
        }
    }

    /// Account and dimension of each entitlement of an answer.
    fn found(&mut self, change: Value) -> Vec<String> {
        let answer = self.entitlements(change);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let name =
            |one: &Value| format!("{} {}", &text(&one["CustomerAWSAccountId"])[..4], text(&one["Dimension"]));
        answer["Entitlements"].as_array().unwrap_or_else(|| panic!("{answer}")).iter().map(name).collect()
    }
}

#[test]
fn an_entitlement_has_the_members_of_the_model() {
    let answer = contracts().entitlements(json!({"Filter": {"LICENSE_ARN": [FIRST]}}));
    let entitlement = |dimension: &str, value: Value, expires: i64| {
        json!({
            "ProductCode": "contracted",
            "Dimension": dimension,
            "CustomerIdentifier": "first",
            "CustomerAWSAccountId": "111122223333",
            "LicenseArn": FIRST,
            "Value": value,
            "ExpirationDate": expires,
        })
    };
    let (december, january) = (1_796_083_200, 1_798_761_600);
    let expected = json!({"Entitlements": [
        entitlement("users", json!({"IntegerValue": 10}), january),
        entitlement("storage", json!({"DoubleValue": 1.5}), december),
        entitlement("premium", json!({"BooleanValue": true}), january),
    ]});
    assert_eq!(answer, expected);
    let plan = contracts().entitlements(json!({"Filter": {"DIMENSION": ["plan"]}}));
    assert_eq!(plan["Entitlements"][0]["Value"], json!({"StringValue": "gold"}));
    assert_eq!(plan["Entitlements"][0]["ExpirationDate"], Value::Null);
}

#[test]
fn values_of_a_filter_are_united_and_filters_intersected() {
    let mut bench = contracts();
    let everything = ["1111 users", "1111 storage", "1111 premium", "4444 users", "4444 plan"];
    assert_eq!(bench.found(json!({})), everything);
    for (filter, found) in [
        (json!({"CUSTOMER_AWS_ACCOUNT_ID": ["444455556666"]}), &everything[3..]),
        (json!({"CUSTOMER_IDENTIFIER": ["first", "nobody"]}), &everything[..3]),
        (json!({"LICENSE_ARN": [FIRST, SECOND]}), &everything[..]),
        (json!({"DIMENSION": ["users"], "LICENSE_ARN": [SECOND]}), &everything[3..4]),
        (json!({"DIMENSION": ["plan"], "LICENSE_ARN": [FIRST]}), &everything[..0]),
    ] {
        assert_eq!(bench.found(json!({"Filter": filter.clone()})), found, "{filter}");
    }
    let both = json!({"CUSTOMER_IDENTIFIER": ["first"], "CUSTOMER_AWS_ACCOUNT_ID": ["111122223333"]});
    assert_eq!(bench.entitlements(json!({"Filter": both})), "InvalidParameterException");
    for filter in [json!({"COLOUR": ["red"]}), json!({"DIMENSION": []})] {
        assert_eq!(bench.entitlements(json!({"Filter": filter})), "ValidationException");
    }
    assert_eq!(bench.entitlements(json!({"Filter": []})), "SerializationException");
    let product = bench.service.world.products.get_mut("contracted").unwrap();
    product.agreements = crate::world::Agreements::Concurrent;
    assert_eq!(bench.found(json!({"Filter": {"CUSTOMER_IDENTIFIER": ["first"]}})), everything[..0]);
    assert_eq!(bench.entitlements(json!({}))["Entitlements"][0]["CustomerIdentifier"], Value::Null);
}

#[test]
fn pages_may_be_empty_although_others_follow() {
    let mut bench = contracts();
    let pages = |bench: &mut Bench, filter: Value| {
        let (mut sizes, mut token) = (Vec::new(), Value::Null);
        loop {
            let body = json!({"MaxResults": 2, "Filter": filter, "NextToken": token});
            let answer = bench.entitlements(body);
            sizes.push(answer["Entitlements"].as_array().unwrap().len());
            token = answer["NextToken"].clone();
            if token.is_null() || sizes.len() == 9 {
                return sizes;
            }
        }
    };
    assert_eq!(pages(&mut bench, json!({})), [2, 2, 1]);
    assert_eq!(pages(&mut bench, json!({"LICENSE_ARN": [SECOND]})), [0, 1, 1]);
    bench.service.world.switches.set("entitlement_pages", "full").unwrap();
    assert_eq!(pages(&mut bench, json!({"LICENSE_ARN": [SECOND]})), [2]);
    bench.pages = Some(Pages::Endless);
    assert_eq!(pages(&mut bench, json!({})), [2; 9]);
    bench.pages = Some(Pages::Empty);
    let answer = bench.entitlements(json!({}));
    assert_eq!(answer["Entitlements"], json!([]));
    bench.pages = None;
    assert_eq!(bench.found(json!({"NextToken": answer["NextToken"]})).len(), 5);
    for token in ["made-up", "emulated-page-x"] {
        assert_eq!(bench.entitlements(json!({"NextToken": token})), "InvalidParameterException");
    }
}

#[test]
fn only_the_seller_sees_them_and_the_others_see_an_empty_list() {
    let mut bench = contracts();
    for product in ["usage-only", "foreign", "unknown"] {
        assert_eq!(
            bench.entitlements(json!({"ProductCode": product})),
            json!({"Entitlements": []}),
            "{product}"
        );
    }
    for (account, seen) in [(SELLER, 5), ("111122223333", 0), ("999999999999", 0)] {
        bench.service.world.account_id = account.to_owned();
        assert_eq!(bench.found(json!({})).len(), seen, "{account}");
    }
    assert_eq!(bench.found(json!({"ProductCode": "foreign"})), ["1111 users"], "its own seller");
    bench.service.world.account_id = SELLER.to_owned();
    for (region, answers) in [
        ("us-east-1", true),
        ("cn-northwest-1", true),
        ("eusc-de-east-1", true),
        ("eu-central-1", false),
        ("us-west-2", false),
    ] {
        bench.region = region;
        assert_eq!(bench.entitlements(json!({})) != "InvalidSignatureException", answers, "{region}");
    }
}

pub(crate) fn story(switch: &str, answer: &str) -> String {
    let mut bench = contracts();
    bench.service.world.switches.set(switch, answer).unwrap();
    match switch {
        "entitlement_pages" => {
            bench.entitlements(json!({"MaxResults": 1, "Filter": {"DIMENSION": ["plan"]}})).to_string()
        }
        "expired_entitlement" => {
            bench.now = bench.now.plus(std::time::Duration::from_secs(30 * 24 * 3600));
            bench.found(json!({})).join(" ")
        }
        "two_customer_filters" => {
            let both = json!({"CUSTOMER_IDENTIFIER": ["first"], "CUSTOMER_AWS_ACCOUNT_ID": ["111122223333"]});
            bench.entitlements(json!({"Filter": both})).to_string()
        }
        "unknown_entitlement_product" => bench.entitlements(json!({"ProductCode": "unknown"})).to_string(),
        other => crate::service::license::tests::story(other, answer),
    }
}
