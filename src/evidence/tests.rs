//! What a log decides, and what not.

use serde_json::json;

use super::*;

const START: &str = "2026-11-24T08:00:00Z";
const ARN: &str = "arn:aws:license-manager::294406891311:license:l-1";

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}

fn buyer() -> Customer {
    Customer::Account { account_id: "111122223333".to_owned(), license_arn: Some(ARN.to_owned()) }
}

fn doubt(customer: Customer, quantity: &str) -> Doubt {
    Doubt {
        id: 7,
        region: Some("us-east-1".to_owned()),
        customer,
        dimension: "requests".to_owned(),
        timestamp: at("2026-11-24T08:10:00.123Z"),
        quantity: quantity.parse().unwrap(),
        client_token: "token-7".to_owned(),
        sent: (at("2026-11-24T09:02:00Z"), at("2026-11-24T09:05:00Z")),
    }
}

fn batch(time: &str, status: &str, quantity: impl Into<Value>) -> Value {
    let quantity: Value = quantity.into();
    let record = json!({
        "dimension": "requests", "timestamp": "Nov 24, 2026, 8:10:00\u{202f}AM", "quantity": quantity,
        "customerAWSAccountId": "111122223333", "licenseArn": ARN,
    });
    json!({
        "eventTime": time, "eventSource": "metering-marketplace.amazonaws.com", "eventName": "BatchMeterUsage",
        "eventID": "event-1", "awsRegion": "us-east-1", "requestParameters": {"usageRecords": [record]},
        "responseElements": {"results": [{"usageRecord": record, "status": status, "meteringRecordId": "m-1"}]},
    })
}

fn quiet(time: &str) -> Value {
    let name = "AssumeRole";
    json!({"eventTime": time, "eventSource": "sts.amazonaws.com", "eventName": name, "awsRegion": "us-east-1"})
}

fn judged(documents: &[Value], doubt: &Doubt) -> Verdict {
    let mut evidence = Evidence::about(std::slice::from_ref(doubt));
    // One after the other, as from a pipe.
    let file: String = documents.iter().map(|document| format!("{document}\n")).collect();
    cloudtrail::read(&mut evidence, file.as_bytes()).unwrap();
    evidence.judge(doubt, "demo")
}

fn verdict(documents: &[Value], doubt: &Doubt) -> &'static str {
    judged(documents, doubt).as_str()
}

#[test]
fn every_form_of_cloudtrails_events_is_read() {
    let event = batch("2026-11-24T09:03:00Z", "Success", 5);
    let as_text = json!({"EventId": "event-1", "CloudTrailEvent": event.to_string()});
    for document in [
        event.clone(),
        json!([event]),
        json!({"Records": [event]}),
        json!({"Events": [as_text]}),
        as_text.clone(),
    ] {
        let Verdict::Billed(report) = judged(std::slice::from_ref(&document), &doubt(buyer(), "5")) else {
            panic!("{document}")
        };
        assert_eq!((report.source.as_str(), report.metering_record_id.as_deref()), ("event-1", Some("m-1")));
    }
    for (text, error) in [
        ("3", "has no events of CloudTrail"),
        ("{}", "has no events of CloudTrail"),
        (r#"{"Records": 3}"#, "has no events of CloudTrail"),
        (r#"[{"eventTime": "yesterday"}]"#, "has no events of CloudTrail"),
        (r#"[{"eventTime": "2026-11-24T08:00:00Z"}]"#, "has no events of CloudTrail"),
        (r#"[{"CloudTrailEvent": "{"}]"#, "has no events of CloudTrail"),
        (r#"{"Records": ["#, "is not JSON"),
        ("eventTime,awsRegion", "is not JSON"),
    ] {
        let refused = cloudtrail::read(&mut Evidence::default(), text.as_bytes()).unwrap_err().to_string();
        assert!(refused.contains(error), "{text}: {refused}");
    }
    assert!(cloudtrail::read(&mut Evidence::default(), &b""[..]).is_ok(), "an empty pipe covers nothing");
}

#[test]
fn only_what_the_log_shows_is_concluded() {
    let (five, six) = (doubt(buyer(), "5"), doubt(buyer(), "6"));
    let sent = "2026-11-24T09:03:00Z";
    let (before, after) = (quiet("2026-11-24T09:00:00Z"), quiet("2026-11-24T09:40:00Z"));
    let success = batch(sent, "Success", 5);
    assert_eq!(verdict(std::slice::from_ref(&success), &five), "billed");
    assert_eq!(verdict(&[batch(sent, "Success", "5.0")], &five), "billed");
    assert_eq!(verdict(std::slice::from_ref(&success), &six), "other_value");
    let refused = batch(sent, "CustomerNotSubscribed", 5);
    assert_eq!(verdict(&[before.clone(), refused, after.clone()], &five), "not_there");
    assert_eq!(verdict(&[before.clone(), after.clone()], &five), "not_there");
    assert_eq!(
        verdict(&[before.clone(), quiet("2026-11-24T09:10:00Z")], &five),
        "not_covered",
        "still under way"
    );
    assert_eq!(verdict(std::slice::from_ref(&after), &five), "not_covered");
    assert_eq!(verdict(&[], &five), "not_covered");
    // Another customer's, another hour's, another product's.
    let other = doubt(Customer::Identifier("111122223333".to_owned()), "5");
    assert_eq!(verdict(&[before.clone(), success.clone(), after.clone()], &other), "not_there");
    let mut late = five.clone();
    late.timestamp = at("2026-11-24T09:00:00Z");
    assert_eq!(verdict(std::slice::from_ref(&success), &late), "not_covered");
    let mut foreign = success;
    foreign["requestParameters"]["productCode"] = "other".into();
    assert_eq!(verdict(&[before, foreign, after], &five), "not_there");
}

#[test]
fn a_failed_call_bills_nothing() {
    let mut failed = batch("2026-11-24T09:03:00Z", "Success", 5);
    failed["errorCode"] = "ThrottlingException".into();
    assert_eq!(verdict(&[failed], &doubt(buyer(), "5")), "not_covered");
}

#[test]
fn a_pods_report_is_known_by_its_client_token_alone() {
    let report = |token: Option<&str>| {
        json!({
            "eventTime": "2026-11-24T09:03:00Z", "eventSource": "metering-marketplace.amazonaws.com", "eventName": "MeterUsage",
            "awsRegion": "us-east-1",
            "requestParameters": {"timestamp": "Nov 24, 2026 8:10:00 AM", "usageQuantity": 5, "usageDimension": "requests",
                "productCode": "demo", "clientToken": token},
            "responseElements": {"meteringRecordId": "m-2"},
        })
    };
    let own = doubt(Customer::Own, "5");
    assert_eq!(verdict(&[report(Some("token-7"))], &own), "billed");
    assert_eq!(verdict(&[report(None)], &own), "indistinct");
    assert_eq!(verdict(&[report(Some("token-8"))], &own), "not_covered");
}

/// CloudTrail leaves out members of more than 100 KB, and a call with many allocations has more.
#[test]
fn a_call_that_does_not_show_its_reports_hides_the_records_of_its_time() {
    let five = doubt(buyer(), "5");
    let (before, after) = (quiet("2026-11-24T09:00:00Z"), quiet("2026-11-24T09:40:00Z"));
    let log = |hidden: Value| verdict(&[before.clone(), hidden, after.clone()], &five);
    let hidden = |time: &str| {
        let mut hidden = batch(time, "Success", 5);
        hidden["responseElements"] = json!({"omitted": true, "originalSize": 204_800});
        hidden
    };
    assert_eq!(log(hidden("2026-11-24T09:03:00Z")), "not_covered");
    assert_eq!(log(hidden("2026-11-24T09:09:00Z")), "not_covered", "clocks differ");
    assert_eq!(log(hidden("2026-11-24T09:12:00Z")), "not_there");
    let mut elsewhere = hidden("2026-11-24T09:03:00Z");
    elsewhere["awsRegion"] = "eu-west-1".into();
    assert_eq!(log(elsewhere), "not_there");
    let mut strange = batch("2026-11-24T09:03:00Z", "Success", 5);
    strange["responseElements"]["results"][0]["usageRecord"]["timestamp"] = "soon".into();
    assert_eq!(log(strange), "not_covered");
}

#[test]
fn other_hours_and_dimensions_take_no_memory() {
    let mut other = batch("2026-11-24T09:03:00Z", "Success", 5);
    other["responseElements"]["results"][0]["usageRecord"]["dimension"] = "gigabytes".into();
    let mut evidence = Evidence::about(&[doubt(buyer(), "5")]);
    cloudtrail::read(&mut evidence, other.to_string().as_bytes()).unwrap();
    assert_eq!(evidence.reports, []);
}

#[test]
fn each_region_has_a_log_of_its_own() {
    let five = doubt(buyer(), "5");
    let elsewhere = |mut event: Value| {
        event["awsRegion"] = "eu-west-1".into();
        event
    };
    let (before, after) = (quiet("2026-11-24T09:00:00Z"), quiet("2026-11-24T09:40:00Z"));
    let success = batch("2026-11-24T09:03:00Z", "Success", 5);
    assert_eq!(verdict(&[elsewhere(success.clone())], &five), "not_covered", "another record of AWS");
    let all = [elsewhere(success.clone()), before.clone(), after.clone()];
    assert_eq!(verdict(&all, &five), "not_there");
    assert_eq!(verdict(&[elsewhere(before.clone()), elsewhere(after.clone())], &five), "not_covered");
    assert_eq!(verdict(&[before.clone(), elsewhere(after.clone())], &five), "not_covered");
    // Where the ledger has not noted the region, a report is evidence, and its absence is none.
    let unknown = Doubt { region: None, ..five };
    assert_eq!(verdict(&[elsewhere(success)], &unknown), "billed");
    assert_eq!(verdict(&[before, after], &unknown), "not_covered");
}

/// A wrong `not_there` leads to a replay, which would bill the usage twice.
#[test]
fn a_report_of_the_account_in_another_form_decides_nothing() {
    let plain = Customer::Account { account_id: "111122223333".to_owned(), license_arn: None };
    let (before, after) = (quiet("2026-11-24T09:00:00Z"), quiet("2026-11-24T09:40:00Z"));
    let licensed = batch("2026-11-24T09:03:00Z", "Success", 5);
    let log = [before.clone(), licensed.clone(), after.clone()];
    assert_eq!(verdict(&log, &doubt(plain, "5")), "indistinct");
    let other =
        Customer::Account { account_id: "111122223333".to_owned(), license_arn: Some(format!("{ARN}2")) };
    assert_eq!(verdict(&log, &doubt(other, "5")), "not_there", "another license is another customer");
    // AWS may add the account to a report by the identifier.
    let mut legacy = licensed;
    legacy["responseElements"]["results"][0]["usageRecord"]["customerIdentifier"] = "id-1".into();
    let identified = doubt(Customer::Identifier("id-1".to_owned()), "5");
    assert_eq!(verdict(&[before, legacy, after], &identified), "billed");
    let bill = json!({"records": [{"operation": "BatchMeterUsage", "account_id": "111122223333", "dimension": "requests",
        "timestamp": "2026-11-24T08:10:00Z", "quantity": "5"}]});
    let mut emulated = Evidence::of_emulator(std::slice::from_ref(&identified));
    emulated.add_bill(&bill).unwrap();
    assert_eq!(emulated.judge(&identified, "demo"), Verdict::NotCovered, "the bill names accounts only");
}

#[test]
fn the_emulators_bill_is_complete() {
    let bill = json!({"records": [{
        "operation": "BatchMeterUsage", "product_code": "demo", "account_id": "111122223333", "license_arn": ARN,
        "dimension": "requests", "timestamp": "2026-11-24T08:10:00Z", "quantity": "5", "metering_record_id": "m-3",
    }]});
    let of = |parts: &[Value]| {
        let doubts = [doubt(buyer(), "5")];
        let mut evidence = Evidence::of_emulator(&doubts);
        parts.iter().for_each(|part| evidence.add_bill(part).unwrap());
        evidence.judge(&doubts[0], "demo").as_str()
    };
    let nothing = json!({"records": []});
    assert_eq!(of(&[nothing.clone(), bill.clone()]), "billed");
    assert_eq!(of(&[nothing]), "not_there");
    let mut elsewhere = bill;
    elsewhere["records"][0]["region"] = "eu-west-1".into();
    assert_eq!(of(&[elsewhere]), "not_there");
    assert_eq!(Evidence::of_emulator(&[]).add_bill(&json!({})), None);
}

#[test]
fn times_are_read_as_cloudtrail_writes_them() {
    for (text, expected) in [
        (json!("Apr 19, 2018 4:32:50 PM"), Some("2018-04-19T16:32:50Z")),
        (json!("Jul 3, 2020, 12:05:44 AM"), Some("2020-07-03T00:05:44Z")),
        (json!("Jul 3, 2020, 12:05:44\u{202f}PM"), Some("2020-07-03T12:05:44Z")),
        (json!(START), Some(START)),
        (json!(1_795_507_200), Some(START)),
        (json!("Foo 3, 2020, 12:05:44 PM"), None),
        (json!("Jul 33, 2020, 12:05:44 PM"), None),
        (json!("Jul 3, 2020, 13:05:44 PM"), None),
        (json!(null), None),
    ] {
        assert_eq!(cloudtrail::time(&text).map(|at| at.to_string()).as_deref(), expected, "{text}");
    }
}
