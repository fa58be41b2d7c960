//! World files: what is read, and the error for each mistake.

use super::*;
use tollgate_clock::monotonic;

fn faults(text: &str) -> Vec<String> {
    World::of_toml(text).unwrap_err().0
}

#[test]
fn the_default_world_is_the_one_of_the_contract() {
    let world = World::of_default();
    assert_eq!((world.region.as_str(), world.account_id.as_str()), ("us-east-1", "111122223333"));
    let pricings: Vec<(&str, Pricing)> =
        world.products.iter().map(|(code, product)| (code.as_str(), product.pricing)).collect();
    assert_eq!(
        pricings,
        [("demohourly", Pricing::Hourly), ("demometered", Pricing::Metered), ("demosaas", Pricing::Saas)]
    );
    for code in ["demometered", "demosaas"] {
        assert!(world.products[code].dimensions.iter().eq(["gigabytes", "requests"]));
        assert!(world.subscribed("111122223333", code));
        assert!(!world.subscribed("444455556666", code));
    }
    let (owner, license) = world.license("arn:aws:license-manager::111122223333:license:l-demo").unwrap();
    assert_eq!((owner, license.product_code.as_str()), ("111122223333", "demosaas"));
    assert_eq!(world.switches, super::super::switches::Switches::default());
}

#[test]
fn faults_of_a_file_are_told_all_at_once_with_their_lines() {
    let text = r#"
region = "moon"

[switches]
dry_run = "maybe"

[[products]]
product_code = "white space"
disabled = ["MeterUsage", "Dance"]

[[products]]
product_code = "p"
pricing = "saas"
keys = [{ version = 1, expires_at = "soon" }, { version = 0 }]

[[customers]]
account_id = "1"

[[customers]]
account_id = "111122223333"
[[customers.licenses]]
product_code = "q"

[[pods]]
region = "us-east-1"

[[pods]]
access_key = "a"
platform = "toaster"
"#;
    let told = faults(text);
    for (line, part) in [
        (2, "region: \"moon\" is no AWS region"),
        (5, "switches.dry_run: dry_run is \"answer\" or \"exception\""),
        (8, "products[0].product_code: \"white space\" is no ProductCode"),
        (9, "products[0].disabled[1]: \"Dance\" is no operation"),
        (14, "products[1].keys[0].expires_at: \"soon\" is no time"),
        (14, "products[1].keys[1].version: key versions begin with 1"),
        (17, "customers[0].account_id: \"1\" is no AWS account"),
        (22, "customers[1].licenses[0].product_code: there is no product \"q\"; there are p"),
        (24, "pods[0]: a pod is named by access_key or by session"),
        (29, "pods[1].platform: \"toaster\" is no platform"),
    ] {
        assert!(
            told.iter().any(|fault| fault.starts_with(&format!("line {line}: {part}"))),
            "{part}: {told:#?}"
        );
    }
    assert_eq!(told.len(), 10, "{told:#?}");
}

/// A world file whose customers have an identifier and a license of their own, and, with `fault`, one fault each.
fn crowd(customers: usize, fault: bool) -> String {
    let mut text = "[[products]]\nproduct_code = \"p\"\npricing = \"saas\"\n".to_owned();
    for number in 0..customers {
        let account = 100_000_000_000_u64 + number as u64;
        let product = if fault { "q" } else { "p" };
        text.push_str(&format!(
            "[[customers]]\naccount_id = \"{account}\"\nidentifier = \"buyer-{number}\"\n\
             licenses = [{{ product_code = \"{product}\", license_arn = \"arn:aws:license-manager::1:license:l-{number}\" }}]\n"
        ));
    }
    text
}

#[test]
fn the_time_for_a_world_grows_as_its_customers() {
    // The least of several measurements, so that a busy machine changes little. Twenty times the customers take twenty
    // times the time; when each was compared with all, they took two hundred times.
    let measured = |customers: usize| {
        let text = crowd(customers, false);
        let once = || {
            let began = monotonic();
            assert_eq!(World::of_toml(&text).unwrap().customers.len(), customers);
            monotonic() - began
        };
        (0..3).map(|_| once()).min().unwrap()
    };
    let (few, many) = (measured(500), measured(10_000));
    assert!(many < few * 80, "500 customers took {few:?}, 10,000 took {many:?}");
}

#[test]
fn one_mistake_in_every_line_is_told_a_hundred_times_and_counted() {
    let told = faults(&crowd(2_000, true));
    assert_eq!(told.len(), 101);
    assert!(
        told[0].starts_with("line 7: customers[0].licenses[0].product_code: there is no product"),
        "{}",
        told[0]
    );
    assert_eq!(told[100], "and 1900 more faults");
}

#[test]
fn a_world_has_at_most_a_hundred_thousand_customers() {
    let text = crowd(CUSTOMERS_MAX, false);
    assert_eq!(World::of_toml(&text).unwrap().customers.len(), CUSTOMERS_MAX);
    let more = format!("{text}[[customers]]\naccount_id = \"999999999999\"\n");
    let told = faults(&more);
    assert_eq!(told.len(), 1);
    assert!(told[0].contains("there are 100001 customers, at most 100000 are possible"), "{told:?}");
}

#[test]
fn syntax_and_unknown_members_have_lines_too() {
    assert_eq!(faults("region = \"us-east-1\"\nregion = \"us-east-2\"\n").len(), 1);
    assert!(faults("a = 1\n[[products\n")[0].starts_with("line 2: "), "{:?}", faults("a = 1\n[[products\n"));
    let unknown =
        faults("region = \"us-east-1\"\n\n[[products]]\nproduct_code = \"p\"\ndimension = [\"d\"]\n");
    assert!(unknown[0].starts_with("line 5: unknown field `dimension`, expected one of"), "{unknown:?}");
    let pricing = faults("[[products]]\nproduct_code = \"p\"\npricing = \"free\"\n");
    assert!(
        pricing[0].starts_with("line 3: unknown variant `free`, expected one of `hourly`"),
        "{pricing:?}"
    );
}

#[test]
fn names_are_given_once() {
    let twice = faults("[[products]]\nproduct_code = \"p\"\n[[products]]\nproduct_code = \"p\"\n");
    assert_eq!(twice, ["line 4: products[1].product_code: the product is declared twice"]);
    let license = r#"
[[products]]
product_code = "p"
[[customers]]
account_id = "111122223333"
licenses = [
  { product_code = "p", license_arn = "arn:aws:lm::1:x" },
  { product_code = "p", license_arn = "arn:aws:lm::1:x" }]
"#;
    assert!(faults(license)[0].contains("is another license's"), "{:?}", faults(license));
}

fn order<T: serde::de::DeserializeOwned>(json: &str) -> T {
    serde_json::from_str(json).unwrap()
}

const NOW: Timestamp = Timestamp::from_unix_seconds(1_795_507_200);

#[test]
fn orders_change_what_they_name_and_nothing_else() {
    let world = World::of_default();
    let rotated = world
        .ordered_product(NOW, order(r#"{"product_code":"demohourly","rotate":true,"rotate_after":"1h"}"#))
        .unwrap()
        .1;
    assert_eq!(rotated.keys[&1].expires_at, Some(NOW.plus(Duration::from_secs(3600))));
    assert_eq!(rotated.keys[&2].expires_at, None);
    assert_eq!(rotated.pricing, Pricing::Hourly);

    let (_, gone) =
        world.ordered_customer(NOW, order(r#"{"account_id":"111122223333","subscribed":false}"#)).unwrap();
    assert!(!gone.subscribed && gone.licenses.iter().all(|license| !license.subscribed));
    let (_, partly) = world
        .ordered_customer(
            NOW,
            order(r#"{"account_id":"111122223333","subscribed":false,"product_code":"demometered"}"#),
        )
        .unwrap();
    let mut after = world.clone();
    after.customers.insert("111122223333".to_owned(), partly);
    assert!(!after.subscribed("111122223333", "demometered"));
    assert!(after.subscribed("111122223333", "demosaas"));
    assert_eq!(
        after.license("arn:aws:license-manager::111122223333:license:l-demo").unwrap().0,
        "111122223333"
    );

    let (name, pod) = world.ordered_pod(order(r#"{"session":"pod-7","denied":["MeterUsage"]}"#)).unwrap();
    assert_eq!((name.as_str(), pod.denied.len(), pod.region), ("pod-7", 1, None));
}

#[test]
fn a_new_customer_bought_everything_unless_it_says_what() {
    let mut world = World::of_default();
    let (account_id, customer) =
        world.ordered_customer(NOW, order(r#"{"account_id":"999900001111"}"#)).unwrap();
    world.customers.insert(account_id, customer);
    assert!(world.subscribed("999900001111", "demohourly"));
    let arn = "arn:aws:license-manager::999900001111:license:l-demosaas";
    assert_eq!(world.license(arn).unwrap().1.agreement_id, "agmt-999900001111");

    let some = r#"{"account_id":"999900002222","licenses":[{"product_code":"demosaas"}]}"#;
    let (account_id, customer) = world.ordered_customer(NOW, order(some)).unwrap();
    world.customers.insert(account_id, customer);
    assert!(world.subscribed("999900002222", "demosaas"));
    assert!(!world.subscribed("999900002222", "demohourly"));
}

#[test]
fn a_declared_license_takes_the_place_of_the_standard_one() {
    let world = World::of_default();
    let standard = |account: &str, code: &str| format!("arn:aws:license-manager::{account}:license:l-{code}");
    for (account, code, found) in [
        ("111122223333", "demosaas", false),
        ("111122223333", "demometered", true),
        ("444455556666", "demosaas", true),
        ("444455556666", "unknown", false),
        ("999999999999", "demosaas", false),
    ] {
        let license = world.license(&standard(account, code));
        assert_eq!(license.as_ref().map(|(owner, _)| *owner), found.then_some(account), "{account} {code}");
        assert!(license.is_none_or(|(_, license)| license.subscribed == (account == "111122223333")));
    }
}

#[test]
fn secrets_are_not_shown() {
    let (_, pod) =
        World::of_default().ordered_pod(order(r#"{"access_key":"a","secret_key":"hush"}"#)).unwrap();
    assert!(!format!("{pod:?}").contains("hush"));
}

#[test]
fn each_fault_is_one_line_whatever_it_quotes() {
    for text in [
        "[[products]]\nproduct_code = \"p\"\npricing = \"a\\n\\nb\"\n",
        "[[licenses]]\nproduct_id = \"a\\n\\nb\"\nreceived = \"a\\n\\nb\"\n",
        "[[licenses]]\nproduct_id = \"a\\n\\nb\"\nkey_fingerprint = \"a\\n\\nb\"\nend = \"a\\n\\nb\"\n",
    ] {
        for fault in faults(text) {
            assert!(fault.starts_with("line ") && fault.lines().count() == 1, "{fault:?}");
        }
    }
}

#[test]
fn a_license_is_named_by_its_product_or_by_its_arn() {
    let world = World::of_default();
    let order = |text: &str| serde_json::from_str::<ContractDocument>(text).unwrap();
    let (arn, first) = world.showpiece_contract().unwrap();
    let (named, changed) = world
        .ordered_contract(order(
            r#"{"product_id": "prod-democontract", "received": "disabled", "end": "never"}"#,
        ))
        .unwrap();
    assert_eq!(named, arn);
    assert_eq!(changed, Contract { received: crate::world::contract::Received::Disabled, ..first.clone() });
    let (other, new) = world
        .ordered_contract(order(
            r#"{"product_id": "prod-x", "entitlements": [{"name": "users", "max_count": 1}]}"#,
        ))
        .unwrap();
    assert_ne!(other, arn);
    assert_eq!(new.number, first.number + 1);
    for (text, told) in [
        (r#"{}"#, "product_id: a license is of a product"),
        (r#"{"product_id": "prod-x"}"#, "entitlements: a license has at least one"),
        (r#"{"product_id": "prod-democontract", "end": "soon"}"#, "end: \"soon\" is no time"),
        (
            r#"{"product_id": "prod-democontract", "end": "2024-01-01T00:00:00Z"}"#,
            "end: the license ends before",
        ),
        (r#"{"product_id": "prod-democontract", "time_to_live": "90s"}"#, "time_to_live: \"90s\""),
        (r#"{"product_id": "prod-democontract", "key_fingerprint": "me"}"#, "key_fingerprint: \"me\""),
        (r#"{"product_id": "prod-democontract", "home_region": "moon"}"#, "home_region: \"moon\""),
        (
            r#"{"product_id": "prod-democontract", "entitlements": [{"name": "a", "unit": "Seats"}]}"#,
            "entitlements[0].unit: \"Seats\" is none of Count",
        ),
        (
            r#"{"product_id": "prod-democontract", "entitlements": [{"name": "a"}, {"name": "a"}]}"#,
            "entitlements[1].name: the entitlement is declared twice",
        ),
        (
            r#"{"product_id": "prod-democontract", "entitlements": [{"name": "a", "unit": "None", "max_count": 1}]}"#,
            "entitlements[0].max_count: a tier is not counted",
        ),
        (
            r#"{"product_id": "prod-democontract", "entitlements": [{"name": "a", "value": "x"}]}"#,
            "entitlements[0].value: only a tier",
        ),
    ] {
        let faults = world.ordered_contract(order(text)).unwrap_err().0;
        assert!(faults.iter().any(|fault| fault.starts_with(told)), "{text}: {faults:?}");
    }
    assert!(serde_json::from_str::<ContractDocument>(r#"{"received": "maybe"}"#).is_err());
    let twice = format!("{}\n[[licenses]]\nproduct_id = \"prod-democontract\"\n", DEFAULT);
    assert!(
        faults(&twice).iter().any(|fault| fault.contains("the license is declared twice")),
        "{:?}",
        faults(&twice)
    );
}
