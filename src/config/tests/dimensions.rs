//! `[dimension.NAME]` beside the other settings, from each origin.

use super::*;
use tollgate_marketplace::Quantity;

/// Three prices, with four lines of TOML each.
const PRICES: &str =
    "mode = 'metered'\nproduct_code = 'demo'\ndimensions = ['node_hours', 'seats', 'storage']
on_unsent = 'keep'
[dimension.node_hours]
heartbeat = 1
rounding = { mode = \"up\", digits = 0 }
[dimension.seats]
aggregation = \"max\"
per_pod = true
[dimension.storage]
scale = \"bytes:GB\"
";

fn seen(config: &Config) -> Vec<(String, String, Option<Quantity>)> {
    let metered = config.usage.metered.iter();
    metered.map(|one| (one.name.clone(), one.rule.to_string(), one.heartbeat)).collect()
}

#[test]
fn a_seller_prices_by_node_hour_by_peak_and_by_gigabyte() {
    let case = Case::empty().disk(SELLER, PRICES);
    let loaded = case.load().unwrap();
    assert_eq!(loaded.warnings, [""; 0]);
    let one = Quantity::from_micros(1_000_000);
    assert_eq!(
        seen(&loaded.config),
        [
            ("node_hours".to_owned(), "sum 3600 up:0".to_owned(), one),
            ("seats".to_owned(), "max 1 none".to_owned(), None),
            ("storage".to_owned(), "sum 1000000000 none".to_owned(), None),
        ]
    );
    // What `config print` shows of the file is what the variable may hold.
    let row = loaded.origins.iter().find(|row| row.name == "dimension").unwrap();
    assert!(row.origin.ends_with("seller.toml:5"), "{row:?}");
    let names = "node_hours,seats,storage";
    let text = row.value.clone().unwrap();
    let by_variable = Case::metered().env("TOLLGATE_DIMENSIONS", names).env("TOLLGATE_DIMENSION", &text);
    assert_eq!(by_variable.valid().usage.metered, loaded.config.usage.metered);
    let by_flag = Case::metered().env("TOLLGATE_DIMENSIONS", names).flag(Setting::Dimension, &text);
    assert_eq!(by_flag.valid().usage.metered, loaded.config.usage.metered);
}

#[test]
fn the_price_is_sealed_and_the_seller_may_hand_it_on() {
    let more = "mode = 'metered'\ndimensions = ['a']\non_unsent = 'keep'\n";
    let theirs = "{ a = { scale = 1000000 } }";
    let sealed = Case::sealed(more).env("TOLLGATE_DIMENSION", theirs);
    assert!(sealed.faults().contains("may be set by the seller's file only"), "{}", sealed.faults());
    let stated =
        Case::sealed(&format!("{more}[dimension.a]\nscale = 1000")).env("TOLLGATE_DIMENSION", theirs);
    assert!(stated.faults().contains("is set by the seller's file, which always wins"));
    let handed = Case::sealed(&format!("{more}operator_settings = ['dimension']\n"));
    assert_eq!(seen(&handed.env("TOLLGATE_DIMENSION", theirs).valid())[0].1, "sum 1000000 none");
}

#[test]
fn what_does_not_fit_to_the_product_is_one_fault_with_one_sentence() {
    let metered = Case::metered().env("TOLLGATE_ENTITLEMENT_DIMENSION", "entitled");
    let saas = Case::metered().env("TOLLGATE_MODE", "saas");
    for (case, text, expected) in [
        (
            &metered,
            "{ request = { scale = 2 } }",
            "has a table for \"request\", which is not one of dimensions; did you mean \"requests\"?",
        ),
        (
            &metered,
            "{ nodes = { heartbeat = 1 } }",
            "has a table for \"nodes\", which is not one of dimensions; name it there",
        ),
        (
            &metered,
            "{ requests = { aggregation = 'max' } }",
            "in \"requests\", aggregation is max, and AWS adds up",
        ),
        (
            &saas,
            "{ requests = { heartbeat = 1 } }",
            "in \"requests\", heartbeat counts the time of this pod's open gate",
        ),
        (
            &Case::hourly(),
            "{ requests = { heartbeat = 1 } }",
            "which is for mode metered, and the mode is hourly; remove it",
        ),
        (
            &Case::contract(),
            "{ requests = { heartbeat = 1 } }",
            "which is for mode metered, and the mode is contract",
        ),
        (&metered, "{ requests = { rounding = { mode = 'up', digits = 7 } } }", "rounding.digits 7 must be"),
    ] {
        let faults = case.clone().env("TOLLGATE_DIMENSION", text).faults();
        assert!(faults.starts_with("dimension = \"{ ") && faults.contains(expected), "{text}: {faults}");
        assert_eq!(faults.lines().count(), 1, "{faults}");
    }
    let entitled = metered.clone().env("TOLLGATE_DIMENSIONS", "requests,entitled");
    let faults = entitled.env("TOLLGATE_DIMENSION", "{ entitled = { heartbeat = 1 } }").faults();
    assert!(faults.contains("the entitlement_dimension, which takes no usage; remove it"), "{faults}");
    // Where all replicas share a ledger the maximum is the customer's, whatever the pods.
    let max = "{ requests = { aggregation = 'max' } }";
    assert_eq!(seen(&saas.env("TOLLGATE_DIMENSION", max).valid())[0].1, "max 1 none");
    let warnings = Case::hourly().env("TOLLGATE_DIMENSION", "{ requests = { scale = 2 } }").warnings();
    assert!(
        warnings.len() == 1 && warnings[0].contains("has no effect: no usage is reported"),
        "{warnings:?}"
    );
}

#[test]
fn a_heartbeat_needs_time_after_the_end_of_an_hour() {
    let case = |settle: &str| {
        let case = Case::metered().env("TOLLGATE_DIMENSION", "{ requests = { heartbeat = 1 } }");
        case.env("TOLLGATE_SETTLE", settle)
    };
    assert_eq!(seen(&case("30s").valid()).len(), 1);
    let faults = case("29s").faults();
    assert!(
        faults.starts_with("settle = \"29s\" (environment TOLLGATE_SETTLE): is too short for"),
        "{faults}"
    );
}

/// In TOML a key below a section belongs to the section.
#[test]
fn a_setting_below_a_section_is_named_as_one() {
    let case = Case::empty().disk(SELLER, &format!("{PRICES}settle = '5m'\n"));
    let faults = case.faults();
    assert!(
        faults.contains("in \"storage\", settle is no member, but a setting of its own: write it above"),
        "{faults}"
    );
}
