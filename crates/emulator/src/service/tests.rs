//! The services' decisions, by tables of requests: AWS's documents, rule by rule.

#![expect(clippy::needless_pass_by_value, reason = "tables of bodies read better without ampersands")]

use serde_json::json;

use super::*;
use crate::change::FormText;
use crate::world::{Agreements, Pod};

/// 2026-11-24T08:30:00Z
const NOW: Timestamp = Timestamp::from_unix_seconds(1_795_509_000);
const HOUR: i64 = 3600;

/// The services, their clock, the number of the last call, the caller, and the journal.
pub(super) struct Bench {
    pub(super) service: Service,
    pub(super) now: Timestamp,
    call: u64,
    pub(super) pod: &'static str,
    pub(super) region: &'static str,
    unprocessed: usize,
    pub(super) pages: Option<Pages>,
    journal: Vec<String>,
}

impl Bench {
    pub(super) fn new() -> Self {
        let service =
            Service { world: World::of_default(), bill: Bill::default(), seats: Checkouts::default() };
        let (pod, region) = ("pod-1", "us-east-1");
        Self { service, now: NOW, call: 0, pod, region, unprocessed: 0, pages: None, journal: Vec::new() }
    }

    pub(super) fn with(switch: &str, answer: &str) -> Self {
        let mut bench = Self::new();
        bench.service.world.switches.set(switch, answer).unwrap();
        bench
    }

    pub(super) fn of_world(toml: &str) -> Self {
        let mut bench = Self::new();
        bench.service.world = World::of_toml(toml).unwrap_or_else(|error| panic!("{error}"));
        bench
    }

    fn decide(&mut self, operation: Operation, body: &Value) -> Result<ServiceAnswer, ServiceError> {
        self.call += 1;
        let text = body.to_string();
        let body = wire::parse(operation, text.as_bytes())?;
        let request = Request {
            operation,
            pod: self.pod,
            region: self.region,
            body: &body,
            body_bytes: text.len(),
            now: self.now,
            call: self.call,
            unprocessed: self.unprocessed,
            pages: self.pages,
        };
        let decision = self.service.decide(&request);
        for change in &decision.changes {
            // The change is applied as the journal stores it.
            let line = serde_json::to_string(change).unwrap();
            self.service.apply(&serde_json::from_str(&line).unwrap());
            self.journal.push(line);
        }
        decision.outcome
    }

    pub(super) fn ask(&mut self, operation: Operation, body: &Value) -> Result<Value, ServiceError> {
        self.decide(operation, body).map(|answer| match answer {
            ServiceAnswer::Document(document) | ServiceAnswer::Sign { document, .. } => document,
        })
    }

    fn answer(&mut self, operation: Operation, body: &Value) -> Value {
        self.ask(operation, body).unwrap()
    }

    pub(super) fn code(&mut self, operation: Operation, body: &Value) -> String {
        self.ask(operation, body).map_or_else(|error| error.code.into_owned(), |_| "ok".to_owned())
    }

    /// The services as replayed from the journal.
    pub(super) fn replayed(&self) -> Self {
        let mut again = Self { now: self.now, ..Self::new() };
        self.journal.iter().for_each(|line| again.service.apply(&serde_json::from_str(line).unwrap()));
        again
    }

    fn register(&mut self, change: Value) -> String {
        let body = merged(json!({"ProductCode": "demohourly", "PublicKeyVersion": 1, "Nonce": "n"}), change);
        self.code(Operation::RegisterUsage, &body)
    }

    fn meter(&mut self, change: Value) -> String {
        let body = metered(self.now, change);
        self.code(Operation::MeterUsage, &body)
    }

    fn record_id(&mut self, change: Value) -> Value {
        let body = metered(self.now, change);
        self.answer(Operation::MeterUsage, &body)["MeteringRecordId"].clone()
    }

    fn batch(&mut self, body: Value) -> Value {
        self.answer(Operation::BatchMeterUsage, &body)
    }

    fn batch_code(&mut self, body: Value) -> String {
        self.code(Operation::BatchMeterUsage, &body)
    }

    fn statuses(&mut self, records: &[Value]) -> Vec<String> {
        let answer = self.batch(json!({"ProductCode": "demosaas", "UsageRecords": records}));
        let status = |result: &Value| result["Status"].as_str().unwrap().to_owned();
        answer["Results"].as_array().unwrap().iter().map(status).collect()
    }

    fn resolve(&mut self, token: &str) -> Result<Value, String> {
        let answer = self.ask(Operation::ResolveCustomer, &json!({"RegistrationToken": token}));
        answer.map_err(|error| error.code.into_owned())
    }

    fn issue(&mut self, product_code: &str) -> String {
        let token = format!("token-{}", self.service.bill.token_count());
        let at = self.now.unix_millis();
        self.service.apply(&Change::TokenIssued {
            token: token.clone(),
            account_id: "111122223333".to_owned(),
            product_code: product_code.to_owned(),
            at,
        });
        token
    }

    /// As ordered through the admin interface.
    fn order_subscribed(&mut self, account_id: &str, subscribed: bool) {
        let order = json!({"account_id": account_id, "subscribed": subscribed});
        let order = serde_json::from_value(order).unwrap();
        let (account_id, customer) = self.service.world.ordered_customer(self.now, order).unwrap();
        self.service.apply(&Change::Customer { account_id, customer });
    }

    fn subscribe(&mut self, account_id: &str, subscribed: bool) {
        let mut customer = self.service.world.customers.get(account_id).unwrap().clone();
        customer.subscribed = subscribed;
        customer.licenses.iter_mut().for_each(|license| license.subscribed = subscribed);
        self.service.world.customers.insert(account_id.to_owned(), customer);
    }

    fn quantities(&self) -> Vec<String> {
        let bill = self.service.bill.ledger_json(&crate::bill::Filter::default());
        bill["records"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["quantity"].as_str().unwrap().to_owned())
            .collect()
    }
}

fn merged(mut body: Value, change: Value) -> Value {
    for (name, value) in change.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

fn seconds(at: Timestamp, offset: i64) -> i64 {
    at.unix_seconds() + offset
}

fn metered(now: Timestamp, change: Value) -> Value {
    let body = json!({
        "ProductCode": "demometered",
        "Timestamp": seconds(now, 0),
        "UsageDimension": "requests",
        "UsageQuantity": 17,
    });
    merged(body, change)
}

fn record(change: Value) -> Value {
    let body = json!({
        "Timestamp": seconds(NOW, 0),
        "Dimension": "requests",
        "Quantity": 17,
        "CustomerAWSAccountId": "111122223333",
    });
    merged(body, change)
}

fn licensed(change: Value) -> Value {
    merged(record(json!({"LicenseArn": LICENSE})), change)
}

const LICENSE: &str = "arn:aws:license-manager::111122223333:license:l-demo";

// === RegisterUsage ===

#[test]
fn registration_is_signed_with_what_was_asked() {
    let mut bench = Bench::new();
    let body = json!({"ProductCode": "demohourly", "PublicKeyVersion": 1, "Nonce": "n"});
    let ServiceAnswer::Sign { claims, document } = bench.decide(Operation::RegisterUsage, &body).unwrap()
    else {
        panic!("not signed");
    };
    assert_eq!((claims.product_code.as_str(), claims.public_key_version), ("demohourly", 1));
    assert_eq!((claims.nonce.as_deref(), claims.issued_at), (Some("n"), NOW));
    assert_eq!(document, json!({"PublicKeyRotationTimestamp": null}));
}

#[test]
fn every_refusal_of_registration_has_its_exception() {
    let world = r#"
[disabled_regions]
RegisterUsage = ["us-west-1"]
[[products]]
product_code = "demohourly"
[[products]]
product_code = "off"
disabled = ["RegisterUsage"]
[[products]]
product_code = "metered"
pricing = "metered"
[[customers]]
account_id = "111122223333"
[[pods]]
access_key = "laptop"
platform = "elsewhere"
[[pods]]
access_key = "node"
platform = "node-role"
[[pods]]
access_key = "fargate"
platform = "eks-fargate"
[[pods]]
access_key = "west"
region = "us-west-1"
[[pods]]
access_key = "stranger"
account_id = "444455556666"
[[pods]]
access_key = "forbidden"
denied = ["RegisterUsage"]
"#;
    let mut bench = Bench::of_world(world);
    for (pod, region, change, code) in [
        ("pod-1", "us-east-1", json!({}), "ok"),
        ("fargate", "us-east-1", json!({}), "ok"),
        ("pod-1", "us-east-1", json!({"ProductCode": "unknown"}), "InvalidProductCodeException"),
        ("pod-1", "us-east-1", json!({"ProductCode": "metered"}), "InvalidProductCodeException"),
        ("pod-1", "us-east-1", json!({"ProductCode": "off"}), "DisabledApiException"),
        ("west", "us-west-1", json!({}), "DisabledApiException"),
        ("pod-1", "us-east-1", json!({"PublicKeyVersion": 2}), "InvalidPublicKeyVersionException"),
        ("pod-1", "us-east-2", json!({}), "InvalidRegionException"),
        ("laptop", "us-east-1", json!({}), "PlatformNotSupportedException"),
        ("node", "us-east-1", json!({}), "PlatformNotSupportedException"),
        ("stranger", "us-east-1", json!({}), "CustomerNotEntitledException"),
        ("forbidden", "us-east-1", json!({}), "AccessDeniedException"),
        ("pod-1", "us-east-1", json!({"PublicKeyVersion": 0}), "ValidationException"),
    ] {
        (bench.pod, bench.region) = (pod, region);
        assert_eq!(bench.register(change.clone()), code, "{pod} {region} {change}");
    }
    bench.service.world.switches.set("eks_fargate", "refused").unwrap();
    (bench.pod, bench.region) = ("fargate", "us-east-1");
    assert_eq!(bench.register(json!({})), "PlatformNotSupportedException");
    bench.service.world.switches.set("pricing_mismatch", "accepted").unwrap();
    bench.pod = "pod-1";
    assert_eq!(bench.register(json!({"ProductCode": "metered"})), "ok");
}

#[test]
fn entitlement_is_judged_on_the_first_call_only() {
    let mut bench = Bench::new();
    assert_eq!(bench.register(json!({})), "ok");
    bench.subscribe("111122223333", false);
    assert_eq!(bench.register(json!({})), "ok", "the same pod again");
    bench.pod = "pod-2";
    assert_eq!(bench.register(json!({})), "CustomerNotEntitledException", "a new pod");
}

#[test]
fn a_refused_pod_is_judged_again_or_not() {
    for (answer, code) in [("refused-again", "CustomerNotEntitledException"), ("accepted", "ok")] {
        let mut bench = Bench::with("refused_pod", answer);
        bench.subscribe("111122223333", false);
        assert_eq!(bench.register(json!({})), "CustomerNotEntitledException");
        assert_eq!(bench.register(json!({})), code, "{answer}");
        bench.subscribe("111122223333", true);
        assert_eq!(bench.register(json!({})), "ok", "after the subscription came through");
        // The same for a pod that reports usage.
        let mut bench = Bench::with("refused_pod", answer);
        bench.subscribe("111122223333", false);
        assert_eq!(bench.meter(json!({})), "CustomerNotEntitledException");
        assert_eq!(bench.meter(json!({})), code, "{answer}");
        bench.pod = "pod-2";
        assert_eq!(bench.meter(json!({})), "CustomerNotEntitledException", "another pod");
    }
}

#[test]
fn a_rotated_key_is_told() {
    let mut bench = Bench::new();
    let product = bench.service.world.products.get_mut("demohourly").unwrap();
    product.keys.get_mut(&1).unwrap().expires_at = Some(NOW.plus(std::time::Duration::from_secs(60)));
    product.keys.insert(2, super::super::world::KeyVersion::default());
    let mut rotation = |now: Timestamp, version: i32| {
        bench.now = now;
        let body = json!({"ProductCode": "demohourly", "PublicKeyVersion": version});
        bench.answer(Operation::RegisterUsage, &body)["PublicKeyRotationTimestamp"].clone()
    };
    let later = NOW.plus(std::time::Duration::from_secs(60));
    assert_eq!(rotation(NOW, 1), Value::Null, "not yet");
    assert_eq!(rotation(later, 1), json!(later.unix_seconds()));
    assert_eq!(rotation(later, 2), Value::Null);
    bench.service.world.switches.set("expired_key", "refused").unwrap();
    assert_eq!(bench.register(json!({})), "InvalidPublicKeyVersionException");
    bench.service.world.switches.set("absent_rotation", "omitted").unwrap();
    let body = json!({"ProductCode": "demohourly", "PublicKeyVersion": 2});
    assert_eq!(bench.answer(Operation::RegisterUsage, &body), json!({}));
}

#[test]
fn switches_shape_the_claims() {
    let mut bench = Bench::new();
    for (switch, answer) in [("claim_case", "pascal"), ("absent_nonce", "null"), ("issued_at", "omitted")] {
        bench.service.world.switches.set(switch, answer).unwrap();
    }
    let body = json!({"ProductCode": "demohourly", "PublicKeyVersion": 1});
    let ServiceAnswer::Sign { claims, .. } = bench.decide(Operation::RegisterUsage, &body).unwrap() else {
        panic!("not signed");
    };
    assert!(claims.pascal_case && claims.null_nonce && !claims.with_issued_at && claims.nonce.is_none());
}

// === MeterUsage ===

#[test]
fn an_hour_is_billed_once() {
    let mut bench = Bench::new();
    let first = bench.record_id(json!({}));
    for same in [
        json!({"Timestamp": seconds(NOW, -1700)}),
        json!({"UsageQuantity": null, "UsageQuantityAsDecimal": "17.00"}),
    ] {
        assert_eq!(bench.record_id(same.clone()), first, "{same}");
    }
    assert_eq!(bench.meter(json!({"UsageQuantity": 18})), "DuplicateRequestException");
    for other in [
        json!({"Timestamp": seconds(NOW, -HOUR), "UsageQuantity": 18}),
        json!({"UsageDimension": "gigabytes", "UsageQuantity": 18}),
    ] {
        assert_ne!(bench.record_id(other.clone()), first, "{other}");
    }
    bench.pod = "pod-2";
    assert_ne!(bench.record_id(json!({"UsageQuantity": 18})), first, "another pod");
    assert_eq!(bench.quantities(), ["18", "18", "17", "18"]);
}

#[test]
fn nothing_reported_is_a_report_of_zero() {
    let mut bench = Bench::new();
    assert_eq!(bench.meter(json!({"UsageQuantity": null})), "ok");
    assert_eq!(bench.quantities(), ["0"]);
    assert_eq!(bench.meter(json!({"UsageQuantity": 1})), "DuplicateRequestException");
}

#[test]
fn usage_is_accepted_for_six_hours_and_not_from_the_future() {
    let mut bench = Bench::new();
    for (offset, code) in [
        (-6 * HOUR, "ok"),
        (-6 * HOUR - 1, "TimestampOutOfBoundsException"),
        (300, "ok"),
        (301, "TimestampOutOfBoundsException"),
    ] {
        assert_eq!(bench.meter(json!({"Timestamp": seconds(NOW, offset)})), code, "{offset}");
    }
}

#[test]
fn usage_from_before_the_software_began_is_refused() {
    let pod = "[[products]]\nproduct_code = \"demometered\"\npricing = \"metered\"\ndimensions = [\"requests\"]\n\
               [[customers]]\naccount_id = \"111122223333\"\n\
               [[pods]]\naccess_key = \"pod-1\"\nstarted_at = \"2026-11-24T08:10:00Z\"\n";
    for (answer, late) in [("accepted", "ok"), ("refused", "TimestampOutOfBoundsException")] {
        let mut bench = Bench::of_world(pod);
        bench.service.world.switches.set("hour_before_start", answer).unwrap();
        assert_eq!(bench.meter(json!({"Timestamp": seconds(NOW, -1201)})), "TimestampOutOfBoundsException");
        assert_eq!(bench.meter(json!({"Timestamp": seconds(NOW, -1199)})), late, "{answer}");
        bench.now = NOW.plus(std::time::Duration::from_secs(3600));
        assert_eq!(bench.meter(json!({})), "ok", "an hour that began after the start");
    }
    let mut bench = Bench::with("pod_start", "first-call");
    bench.now = NOW.plus(std::time::Duration::from_millis(900));
    assert_eq!(bench.meter(json!({"Timestamp": seconds(NOW, -1)})), "TimestampOutOfBoundsException");
    assert_eq!(bench.meter(json!({})), "ok");
}

#[test]
fn every_refusal_of_metering_has_its_exception() {
    let mut bench = Bench::new();
    for (change, code) in [
        (json!({"ProductCode": "unknown"}), "InvalidProductCodeException"),
        (json!({"ProductCode": "demohourly"}), "InvalidProductCodeException"),
        (json!({"UsageDimension": "unknown"}), "InvalidUsageDimensionException"),
        (json!({"UsageQuantityAsDecimal": "17"}), "ValidationException"),
        (json!({"UsageQuantity": -1}), "ValidationException"),
        (json!({"UsageQuantity": 2_147_483_648_i64}), "SerializationException"),
    ] {
        assert_eq!(bench.meter(change.clone()), code, "{change}");
    }
    bench.region = "eu-west-1";
    assert_eq!(bench.meter(json!({})), "InvalidEndpointRegionException");
    bench.region = "us-east-1";
    bench.subscribe("111122223333", false);
    assert_eq!(bench.meter(json!({})), "CustomerNotEntitledException");
    bench.subscribe("111122223333", true);
    bench.service.world.platform = Platform::Elsewhere;
    assert_eq!(bench.meter(json!({})), "CustomerNotEntitledException");
    assert!(bench.quantities().is_empty());
}

#[test]
fn allocations_add_up_in_the_form_of_the_total_with_their_own_tags() {
    let tagged = |quantity: u32, tags: &[(&str, &str)]| {
        let tags: Vec<Value> = tags.iter().map(|(key, value)| json!({"Key": key, "Value": value})).collect();
        if tags.is_empty() {
            json!({"AllocatedUsageQuantity": quantity})
        } else {
            json!({"AllocatedUsageQuantity": quantity, "Tags": tags})
        }
    };
    let decimal = json!({"AllocatedUsageQuantityAsDecimal": "17"});
    let six: Vec<(&str, &str)> = ["a", "b", "c", "d", "e", "f"].map(|key| (key, "v")).to_vec();
    for (allocations, code) in [
        (json!([tagged(10, &[("team", "a")]), tagged(7, &[])]), "ok"),
        (json!([tagged(10, &[("team", "a")]), tagged(6, &[])]), "InvalidUsageAllocationsException"),
        (json!([decimal]), "InvalidUsageAllocationsException"),
        (json!([{"Tags": [{"Key": "team", "Value": "a"}]}]), "InvalidUsageAllocationsException"),
        (
            json!([tagged(10, &[("a", "1"), ("b", "2")]), tagged(7, &[("b", "2"), ("a", "1")])]),
            "InvalidUsageAllocationsException",
        ),
        (json!([tagged(17, &[("a", "1"), ("a", "2")])]), "InvalidTagException"),
        (json!([tagged(17, &six)]), "ValidationException"),
        (json!([]), "ValidationException"),
    ] {
        let mut bench = Bench::new();
        assert_eq!(bench.meter(json!({"UsageAllocations": allocations})), code, "{allocations}");
    }
    let mut bench = Bench::new();
    let tags = json!([{"Key": "k", "Value": "v"}]);
    let parts = json!([
        {"AllocatedUsageQuantityAsDecimal": "0.5"},
        {"AllocatedUsageQuantityAsDecimal": "0.75", "Tags": tags},
    ]);
    let body = json!({"UsageQuantity": null, "UsageQuantityAsDecimal": "1.25", "UsageAllocations": parts});
    assert_eq!(bench.meter(body), "ok");
    assert_eq!(bench.quantities(), ["1.25"]);
}

#[test]
fn a_repeat_with_other_allocations_is_a_conflict_or_the_same() {
    let split =
        json!({"UsageAllocations": [{"AllocatedUsageQuantity": 17, "Tags": [{"Key": "k", "Value": "v"}]}]});
    for (answer, code) in [("duplicate", "DuplicateRequestException"), ("same", "ok")] {
        let mut bench = Bench::with("allocations_differ", answer);
        assert_eq!(bench.meter(json!({})), "ok");
        assert_eq!(bench.meter(split.clone()), code, "{answer}");
    }
}

#[test]
fn a_client_token_stands_for_one_request() {
    let mut bench = Bench::new();
    let first = bench.record_id(json!({"ClientToken": "t"}));
    assert_eq!(bench.record_id(json!({"ClientToken": "t"})), first);
    for other in [
        json!({"ClientToken": "t", "UsageQuantity": 18}),
        json!({"ClientToken": "t", "Timestamp": seconds(NOW, -1)}),
        json!({"ClientToken": "t", "UsageDimension": "gigabytes"}),
    ] {
        assert_eq!(bench.meter(other.clone()), "IdempotencyConflictException", "{other}");
    }
    assert_eq!(bench.record_id(json!({"ClientToken": "u"})), first, "another token, the same report");
    assert_eq!(bench.meter(json!({"ClientToken": "u", "UsageQuantity": 18})), "IdempotencyConflictException");
    bench.pod = "pod-2";
    assert_eq!(
        bench.meter(json!({"ClientToken": "t", "UsageQuantity": 18})),
        "ok",
        "tokens belong to their pod"
    );

    let mut account = Bench::with("client_token_scope", "account");
    assert_eq!(account.meter(json!({"ClientToken": "t"})), "ok");
    account.pod = "pod-2";
    assert_eq!(
        account.meter(json!({"ClientToken": "t", "UsageQuantity": 18})),
        "IdempotencyConflictException"
    );
}

#[test]
fn a_refused_report_leaves_its_token_free() {
    let mut bench = Bench::new();
    assert_eq!(
        bench.meter(json!({"ClientToken": "t", "UsageDimension": "typo"})),
        "InvalidUsageDimensionException"
    );
    assert_eq!(bench.meter(json!({"ClientToken": "t"})), "ok");
}

#[test]
fn a_dry_run_bills_nothing_and_has_two_forms() {
    let mut bench = Bench::new();
    let dry = |change: Value| merged(json!({"DryRun": true}), change);
    assert_eq!(bench.meter(dry(json!({"UsageDimension": "unknown"}))), "ok", "it checks permission only");
    assert_eq!(bench.meter(json!({"DryRun": false, "UsageQuantity": 3})), "ok");
    bench.service.world.switches.set("dry_run", "exception").unwrap();
    assert_eq!(bench.meter(dry(json!({}))), "DryRunOperation");
    bench.service.world.switches.set("dry_run_checks", "everything").unwrap();
    assert_eq!(bench.meter(dry(json!({"UsageDimension": "unknown"}))), "InvalidUsageDimensionException");
    assert_eq!(bench.meter(dry(json!({}))), "DuplicateRequestException");
    assert_eq!(bench.meter(dry(json!({"UsageQuantity": 3}))), "DryRunOperation");
    assert_eq!(bench.quantities(), ["3"]);
    let denied = Pod { denied: [Operation::MeterUsage].into(), ..Pod::default() };
    bench.service.world.pods.insert("pod-1".to_owned(), denied);
    assert_eq!(bench.meter(dry(json!({}))), "UnauthorizedException");
    assert_eq!(bench.meter(json!({})), "AccessDeniedException");
}

#[test]
fn agentcore_adds_up_what_its_tokens_tell_apart() {
    let mut bench = Bench::new();
    bench.service.world.platform = Platform::Agentcore;
    assert_eq!(bench.meter(json!({})), "ValidationException", "no ClientToken");
    let first = bench.record_id(json!({"ClientToken": "a"}));
    assert_ne!(bench.record_id(json!({"ClientToken": "b"})), first);
    assert_eq!(bench.record_id(json!({"ClientToken": "a"})), first);
    assert_eq!(bench.quantities(), ["17", "17"]);
}

// === BatchMeterUsage ===

#[test]
fn records_of_a_batch_are_judged_one_by_one() {
    let mut bench = Bench::new();
    let stranger = record(json!({"CustomerAWSAccountId": "444455556666"}));
    let records = [
        record(json!({})),
        record(json!({"Timestamp": seconds(NOW, -1000)})),
        record(json!({"Quantity": 18})),
        stranger,
        record(json!({"Quantity": null, "QuantityAsDecimal": "17.0"})),
        record(json!({"Dimension": "gigabytes", "Quantity": null, "QuantityAsDecimal": "0.5"})),
    ];
    let expected = ["Success", "Success", "DuplicateRecord", "CustomerNotSubscribed", "Success", "Success"];
    assert_eq!(bench.statuses(&records), expected);
    assert_eq!(bench.statuses(&records), expected, "the same batch again changes nothing");
    assert_eq!(bench.quantities(), ["0.5", "17"]);
    let sent = record(json!({"Tomorrow": [1], "LicenseArn": null}));
    let answer = bench.batch(json!({"ProductCode": "demosaas", "UsageRecords": [sent]}));
    assert_eq!(
        answer["Results"][0]["UsageRecord"],
        record(json!({})),
        "the record comes back as it was sent, without what the model does not know"
    );
    assert_eq!(answer["UnprocessedRecords"], json!([]));
}

#[test]
fn hours_of_a_batch_are_rounded_or_not() {
    for (answer, second) in [("rounded", "DuplicateRecord"), ("exact", "Success")] {
        let mut bench = Bench::with("batch_hours", answer);
        let later = record(json!({"Timestamp": seconds(NOW, -1), "Quantity": 1}));
        assert_eq!(bench.statuses(&[record(json!({})), later]), ["Success", second], "{answer}");
    }
}

#[test]
fn one_bad_record_fails_the_whole_batch() {
    let both = json!({"QuantityAsDecimal": "17"});
    let mixed = json!({"UsageAllocations": [{"AllocatedUsageQuantityAsDecimal": "17"}]});
    for (change, code) in [
        (json!({"Timestamp": seconds(NOW, -24 * HOUR)}), "TimestampOutOfBoundsException"),
        (json!({"Timestamp": seconds(NOW, 301)}), "TimestampOutOfBoundsException"),
        (json!({"Dimension": "unknown"}), "InvalidUsageDimensionException"),
        (both, "ValidationException"),
        (mixed, "InvalidUsageAllocationsException"),
        (json!({"CustomerIdentifier": "customer-111122223333"}), "InvalidCustomerIdentifierException"),
        (json!({"CustomerAWSAccountId": null}), "InvalidCustomerIdentifierException"),
        (json!({"CustomerAWSAccountId": "999999999999"}), "InvalidCustomerIdentifierException"),
    ] {
        let mut bench = Bench::new();
        let records = json!([record(json!({})), record(change.clone())]);
        assert_eq!(
            bench.batch_code(json!({"ProductCode": "demosaas", "UsageRecords": records})),
            code,
            "{change}"
        );
        assert!(bench.quantities().is_empty(), "{change}");
    }
}

#[test]
fn a_batch_has_bounds() {
    let mut bench = Bench::new();
    let records: Vec<Value> = (0..26).map(|_| record(json!({}))).collect();
    assert_eq!(bench.statuses(&records[..25]).len(), 25);
    assert_eq!(
        bench.batch_code(json!({"ProductCode": "demosaas", "UsageRecords": records})),
        "ValidationException"
    );
    let filling = "x".repeat(1_000_000);
    let large = json!({"ProductCode": "demosaas", "UsageRecords": [], "Filling": filling});
    assert_eq!(bench.batch_code(large), "RequestEntityTooLargeException");
    assert_eq!(bench.batch_code(json!({"ProductCode": "demosaas", "UsageRecords": []})), "ok");
}

#[test]
fn customers_are_named_in_one_of_the_two_ways() {
    let mut bench = Bench::new();
    let by_identifier =
        record(json!({"CustomerAWSAccountId": null, "CustomerIdentifier": "customer-111122223333"}));
    assert_eq!(bench.statuses(std::slice::from_ref(&by_identifier)), ["Success"]);
    assert_eq!(bench.statuses(&[record(json!({"Quantity": 18}))]), ["DuplicateRecord"], "the same customer");

    let answer = bench.batch(json!({"UsageRecords": [licensed(json!({}))]}));
    assert_eq!(answer["Results"][0]["Status"], "Success");
    assert_eq!(bench.quantities(), ["17", "17"], "both forms: billed twice, as AWS warns");

    for (body, code) in [
        (json!({"ProductCode": "demosaas", "UsageRecords": [licensed(json!({}))]}), "ValidationException"),
        (json!({"UsageRecords": [record(json!({}))]}), "InvalidProductCodeException"),
        (json!({"UsageRecords": [licensed(json!({})), record(json!({}))]}), "InvalidLicenseException"),
        (
            json!({"UsageRecords": [licensed(json!({"LicenseArn": format!("{LICENSE}-x")}))]}),
            "InvalidLicenseException",
        ),
        (
            json!({"UsageRecords": [licensed(json!({"CustomerAWSAccountId": "444455556666"}))]}),
            "InvalidLicenseException",
        ),
        (
            json!({"UsageRecords": [merged(by_identifier, json!({"LicenseArn": LICENSE}))]}),
            "InvalidCustomerIdentifierException",
        ),
        (json!({"ProductCode": "demometered", "UsageRecords": []}), "InvalidProductCodeException"),
    ] {
        assert_eq!(bench.batch_code(body.clone()), code, "{body}");
    }
    bench.service.world.switches.set("license_with_product_code", "accepted").unwrap();
    let both = json!({"ProductCode": "demosaas", "UsageRecords": [licensed(json!({}))]});
    assert_eq!(bench.batch_code(both), "ok");
}

#[test]
fn a_product_of_one_integration_refuses_the_other() {
    for (agreements, legacy, concurrent) in [
        (Agreements::Either, "ok", "ok"),
        (Agreements::Legacy, "ok", "InvalidLicenseException"),
        (Agreements::Concurrent, "InvalidLicenseException", "ok"),
    ] {
        let mut bench = Bench::new();
        bench.service.world.products.get_mut("demosaas").unwrap().agreements = agreements;
        let by_code = json!({"ProductCode": "demosaas", "UsageRecords": [record(json!({}))]});
        assert_eq!(bench.batch_code(by_code), legacy, "{agreements:?}");
        assert_eq!(
            bench.batch_code(json!({"UsageRecords": [licensed(json!({}))]})),
            concurrent,
            "{agreements:?}"
        );
    }
}

#[test]
fn a_license_has_its_time_and_its_product() {
    let world = r#"
[[products]]
product_code = "demosaas"
pricing = "saas"
dimensions = ["requests"]
[[products]]
product_code = "other"
pricing = "saas"
dimensions = ["requests"]
[[customers]]
account_id = "111122223333"
[[customers.licenses]]
product_code = "demosaas"
license_arn = "arn:aws:license-manager::111122223333:license:l-demo"
active_from = "2026-11-24T08:00:00Z"
active_until = "2026-11-24T08:20:00Z"
[[customers.licenses]]
product_code = "other"
license_arn = "arn:aws:license-manager::111122223333:license:l-other"
"#;
    for (offset, code) in
        [(-1801, "InvalidLicenseException"), (-1800, "ok"), (-601, "ok"), (-600, "InvalidLicenseException")]
    {
        let mut bench = Bench::of_world(world);
        let record = licensed(json!({"Timestamp": seconds(NOW, offset)}));
        assert_eq!(bench.batch_code(json!({"UsageRecords": [record]})), code, "{offset}");
    }
    let mut bench = Bench::of_world(world);
    let other = licensed(json!({"LicenseArn": "arn:aws:license-manager::111122223333:license:l-other"}));
    let mixed = json!({"UsageRecords": [licensed(json!({"Timestamp": seconds(NOW, -900)})), other]});
    assert_eq!(bench.batch_code(mixed), "InvalidLicenseException", "a request is for one product");
}

#[test]
fn a_month_is_closed_six_hours_after_its_end() {
    let at = |text: &str| Timestamp::parse(text).unwrap();
    for (now, timestamp, code) in [
        ("2026-12-01T05:59:59Z", "2026-11-30T23:30:00Z", "ok"),
        ("2026-12-01T06:00:00Z", "2026-11-30T23:30:00Z", "TimestampOutOfBoundsException"),
        ("2026-12-01T06:00:00Z", "2026-12-01T00:00:00Z", "ok"),
        ("2027-01-01T05:00:00Z", "2026-12-31T23:30:00Z", "ok"),
        ("2027-01-01T07:00:00Z", "2026-12-31T23:30:00Z", "TimestampOutOfBoundsException"),
        ("2026-11-24T08:00:00Z", "2026-11-23T08:00:01Z", "ok"),
    ] {
        let mut bench = Bench::new();
        bench.now = at(now);
        let record = record(json!({"Timestamp": at(timestamp).unix_seconds()}));
        let body = json!({"ProductCode": "demosaas", "UsageRecords": [record]});
        assert_eq!(bench.batch_code(body), code, "{timestamp} at {now}");
    }
}

#[test]
fn an_unknown_customer_is_an_exception_or_a_status() {
    let mut bench = Bench::with("unknown_customer", "not-subscribed");
    let unknown = record(json!({"CustomerAWSAccountId": "999999999999"}));
    assert_eq!(bench.statuses(&[unknown, record(json!({}))]), ["CustomerNotSubscribed", "Success"]);
}

#[test]
fn records_can_be_left_unprocessed() {
    let mut bench = Bench::new();
    bench.unprocessed = 1;
    let records = [record(json!({})), record(json!({"Dimension": "gigabytes"}))];
    let answer = bench.batch(json!({"ProductCode": "demosaas", "UsageRecords": records}));
    assert_eq!(answer["Results"].as_array().unwrap().len(), 1);
    assert_eq!(answer["UnprocessedRecords"], json!([records[1]]));
    assert_eq!(bench.quantities(), ["17"]);
}

#[test]
fn a_disabled_batch_says_so() {
    let mut bench = Bench::new();
    bench.service.world.products.get_mut("demosaas").unwrap().disabled = [Operation::BatchMeterUsage].into();
    assert_eq!(
        bench.batch_code(json!({"ProductCode": "demosaas", "UsageRecords": []})),
        "DisabledApiException"
    );
}

#[test]
fn an_identical_record_is_a_success_or_a_duplicate_and_is_billed_once() {
    for (answer, status) in [("success", "Success"), ("duplicate-record", "DuplicateRecord")] {
        let mut bench = Bench::with("identical_batch_record", answer);
        assert_eq!(bench.statuses(&[record(json!({}))]), ["Success"]);
        let again = bench.batch(json!({"ProductCode": "demosaas", "UsageRecords": [record(json!({}))]}));
        assert_eq!(again["Results"][0]["Status"], status);
        assert!(again["Results"][0]["MeteringRecordId"].is_string(), "{again}");
        assert_eq!(bench.quantities(), ["17"]);
        assert_eq!(
            bench.statuses(&[record(json!({"Quantity": 4}))]),
            ["DuplicateRecord"],
            "another quantity"
        );
    }
}

#[test]
fn another_region_takes_the_record_again() {
    let mut bench = Bench::new();
    assert_eq!(bench.statuses(&[record(json!({}))]), ["Success"]);
    bench.region = "eu-west-1";
    assert_eq!(bench.statuses(&[record(json!({})), record(json!({}))]), ["Success", "Success"]);
    assert_eq!(bench.quantities(), ["17", "17"], "billed twice, as AWS bills it");
    assert_eq!(bench.statuses(&[record(json!({"Quantity": 4}))]), ["DuplicateRecord"]);
}

#[test]
fn the_last_hour_of_a_deprovisioned_license_can_be_reported_or_not() {
    for (answer, during) in [("1h", "Success"), ("none", "CustomerNotSubscribed")] {
        let mut bench = Bench::with("deprovisioned_flush", answer);
        bench.order_subscribed("111122223333", false);
        bench.now = bench.now.plus(std::time::Duration::from_secs(3600));
        assert_eq!(bench.statuses(&[record(json!({}))]), [during], "{answer}");
        // An order that changes nothing does not restart the hour.
        bench.order_subscribed("111122223333", false);
        bench.now = bench.now.plus(std::time::Duration::from_secs(1));
        let gigabytes = || record(json!({"Dimension": "gigabytes"}));
        assert_eq!(bench.statuses(&[gigabytes()]), ["CustomerNotSubscribed"]);
        bench.order_subscribed("111122223333", true);
        assert_eq!(bench.statuses(&[gigabytes()]), ["Success"]);
    }
}

// === ResolveCustomer ===

#[test]
fn a_token_names_its_customer_for_four_hours() {
    let mut bench = Bench::new();
    let token = bench.issue("demosaas");
    let answer = bench.resolve(&token).unwrap();
    assert_eq!(
        answer,
        json!({
            "CustomerIdentifier": "customer-111122223333",
            "CustomerAWSAccountId": "111122223333",
            "ProductCode": "demosaas",
            "LicenseArn": LICENSE,
            "Metadata": {"AgreementId": "agmt-demo"},
        })
    );
    for age in [4 * 3600, 4 * 3600 + 1] {
        let token = bench.issue("demosaas");
        bench.now = bench.now.plus(std::time::Duration::from_secs(age));
        let code = if age > 4 * 3600 { Err("ExpiredTokenException".to_owned()) } else { Ok(answer.clone()) };
        assert_eq!(bench.resolve(&token), code, "{age} s");
    }
    assert_eq!(bench.resolve("never-issued"), Err("InvalidTokenException".to_owned()));
    assert_eq!(bench.resolve(""), Err("ValidationException".to_owned()));
}

#[test]
fn a_token_is_good_for_one_use_or_for_more() {
    for (switch, code) in [
        ("accepted", None),
        ("invalid", Some("InvalidTokenException")),
        ("expired", Some("ExpiredTokenException")),
    ] {
        let mut bench = Bench::with("token_resubmission", switch);
        let token = bench.issue("demosaas");
        let answer = bench.resolve(&token);
        assert!(answer.is_ok());
        let again = code.map_or(answer, |code| Err(code.to_owned()));
        assert_eq!(bench.resolve(&token), again, "{switch}");
    }
}

#[test]
fn foreign_and_disabled_products_resolve_nothing() {
    let mut bench = Bench::new();
    let token = bench.issue("demosaas");
    let product = bench.service.world.products.get_mut("demosaas").unwrap();
    product.disabled = [Operation::ResolveCustomer].into();
    assert_eq!(bench.resolve(&token), Err("DisabledApiException".to_owned()));
    let product = bench.service.world.products.get_mut("demosaas").unwrap();
    product.seller_account_id = Some("123456789012".to_owned());
    assert_eq!(bench.resolve(&token), Err("InvalidTokenException".to_owned()));
    assert_eq!(
        bench.batch_code(json!({"ProductCode": "demosaas", "UsageRecords": []})),
        "InvalidProductCodeException"
    );
}

#[test]
fn new_integrations_get_no_customer_identifier() {
    let mut bench = Bench::new();
    bench.service.world.products.get_mut("demosaas").unwrap().agreements = Agreements::Concurrent;
    let token = bench.issue("demosaas");
    assert_eq!(bench.resolve(&token).unwrap().get("CustomerIdentifier"), None);
}

// === The whole ===

#[test]
fn replaying_the_changes_gives_the_same_bill() {
    let mut bench = Bench::new();
    for change in [json!({}), json!({"UsageDimension": "gigabytes", "ClientToken": "t"})] {
        assert_eq!(bench.meter(change), "ok");
    }
    let mut again = bench.replayed();
    let all = crate::bill::Filter::default();
    assert_eq!(again.service.bill.ledger_json(&all), bench.service.bill.ledger_json(&all));
    assert_eq!(again.service.bill.first_call("pod-1"), Some(NOW));
    let conflict =
        metered(NOW, json!({"UsageDimension": "gigabytes", "ClientToken": "t", "UsageQuantity": 1}));
    assert_eq!(again.code(Operation::MeterUsage, &conflict), "IdempotencyConflictException");
}

#[test]
fn a_record_on_the_bill_names_who_reported_it() {
    let mut bench = Bench::new();
    bench.meter(json!({}));
    let found = bench.service.bill.find(&crate::change::Recorded {
        product_code: "demometered".to_owned(),
        account_id: "111122223333".to_owned(),
        dimension: "requests".to_owned(),
        form: FormText::Pod("pod-1".to_owned()),
        hour: seconds(NOW, -1800) * 1000,
        timestamp: 0,
        quantity: crate::decimal::Micros::ZERO,
        allocations: Vec::new(),
        call: 0,
        client_token: None,
        region: "us-east-1".to_owned(),
    });
    assert!(found.is_some());
}

// === What AWS's documents leave open ===

/// The same sequence of calls, with the answer that is in force; returns what differs.
fn story(switch: &str, answer: &str) -> String {
    let mut bench = Bench::with(switch, answer);
    let register = json!({"ProductCode": "demohourly", "PublicKeyVersion": 1});
    let at = |offset: i64| json!({"Timestamp": seconds(NOW, offset)});
    match switch {
        "absent_nonce" | "absent_rotation" | "claim_case" | "issued_at" | "rotation_claim"
        | "salt_length" => {
            format!("{:?}", bench.decide(Operation::RegisterUsage, &register))
        }
        "allocations_differ" => {
            let split = json!({"UsageAllocations": [{"AllocatedUsageQuantity": 17}]});
            format!("{} {}", bench.meter(json!({})), bench.meter(split))
        }
        "batch_hours" => {
            let earlier = record(json!({"Timestamp": seconds(NOW, -1), "Quantity": 1}));
            bench.statuses(&[record(json!({})), earlier]).join(" ")
        }
        "deprovisioned_flush" => {
            bench.order_subscribed("111122223333", false);
            bench.statuses(&[record(json!({}))]).join(" ")
        }
        "identical_batch_record" => {
            bench.statuses(&[record(json!({}))]);
            bench.statuses(&[record(json!({}))]).join(" ")
        }
        "client_token_scope" => {
            let first = bench.meter(json!({"ClientToken": "t"}));
            bench.pod = "pod-2";
            format!("{first} {}", bench.meter(json!({"ClientToken": "t", "UsageQuantity": 18})))
        }
        "dry_run" => bench.meter(json!({"DryRun": true})),
        "dry_run_checks" => bench.meter(json!({"DryRun": true, "UsageDimension": "unknown"})),
        "eks_fargate" => {
            bench.service.world.platform = Platform::EksFargate;
            bench.register(json!({}))
        }
        "expired_key" => {
            let product = bench.service.world.products.get_mut("demohourly").unwrap();
            product.keys.get_mut(&1).unwrap().expires_at = Some(NOW);
            bench.register(json!({}))
        }
        "hour_before_start" => {
            let started_at = Some(NOW.minus(std::time::Duration::from_secs(60)));
            bench.service.world.pods.insert("pod-1".to_owned(), Pod { started_at, ..Pod::default() });
            bench.meter(at(-30))
        }
        "license_with_product_code" => {
            bench.batch_code(json!({"ProductCode": "demosaas", "UsageRecords": [licensed(json!({}))]}))
        }
        "pod_start" => bench.meter(at(-30)),
        "pricing_mismatch" => bench.meter(json!({"ProductCode": "demosaas"})),
        "quota_burst" | "resolve_quota" => {
            let mut quotas = crate::quota::Quotas::default();
            let now = tollgate_clock::monotonic();
            let mut admit =
                || quotas.admit(now, &bench.service.world, "p", "us-east-1", Operation::ResolveCustomer);
            (0..20).filter(|_| admit()).count().to_string()
        }
        "refused_pod" => {
            bench.subscribe("111122223333", false);
            format!("{} {}", bench.register(json!({})), bench.register(json!({})))
        }
        "token_resubmission" => {
            let token = bench.issue("demosaas");
            format!("{:?} {:?}", bench.resolve(&token), bench.resolve(&token))
        }
        "unknown_customer" => {
            let unknown = record(json!({"CustomerAWSAccountId": "999999999999"}));
            bench.batch_code(json!({"ProductCode": "demosaas", "UsageRecords": [unknown]}))
        }
        "event_license_arn" => crate::event::tests::license_arn(&bench.service.world),
        other => entitlement::tests::story(other, answer),
    }
}

#[test]
fn every_switch_makes_a_difference_and_its_first_answer_is_the_default() {
    for entry in &super::super::world::switches::TABLE {
        let told: std::collections::BTreeSet<String> =
            entry.answers.iter().map(|answer| story(entry.name, answer)).collect();
        assert_eq!(told.len(), entry.answers.len(), "{}: {told:?}", entry.name);
    }
    assert_eq!(World::empty().switches, super::super::world::switches::Switches::default());
}
