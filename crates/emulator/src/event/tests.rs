//! The form of each event, and which license it is about.

use super::*;

/// 2026-11-24T08:30:00.250Z
const NOW: Timestamp = Timestamp::from_unix_millis(1_795_509_000_250);
const ACCOUNT: &str = "111122223333";
const LICENSE: &str = "arn:aws:license-manager::111122223333:license:l-demo";

fn order(document: Value) -> EventDocument {
    let order: EventDocument = serde_json::from_value(document).unwrap();
    order.check().unwrap();
    order
}

fn event_in(world: &World, document: Value) -> Value {
    let order = order(document);
    let (account_id, license) = order.license(world).unwrap();
    order.event(world, order.event.unwrap(), (&account_id, &license), NOW)
}

fn event(document: Value) -> Value {
    event_in(&World::of_default(), document)
}

pub(crate) fn license_arn(world: &World) -> String {
    event_in(world, json!({"event": "license-updated", "account_id": ACCOUNT}))["detail"]["license"]
        .to_string()
}

/// The event without what is random, which has to be UUIDs.
fn fixed(mut event: Value) -> Value {
    for id in [event["id"].take(), event["detail"]["requestId"].take()] {
        let id = id.as_str().unwrap();
        assert_eq!((id.len(), id.as_bytes()[14], id.matches('-').count()), (36, b'4', 4), "{id}");
    }
    event
}

#[test]
fn an_event_of_a_license_names_product_and_license() {
    for (name, detail_type) in [
        ("license-updated", "License Updated - Manufacturer"),
        ("license-deprovisioned", "License Deprovisioned - Manufacturer"),
    ] {
        let expected = json!({
            "version": "0",
            "id": null,
            "detail-type": detail_type,
            "source": "aws.agreement-marketplace",
            "account": "777788889999",
            "time": "2026-11-24T08:30:00Z",
            "region": "us-east-1",
            "resources": ["arn:aws:aws-marketplace::aws:agreement:agmt-demo"],
            "detail": {
                "requestId": null,
                "catalog": "AWSMarketplace",
                "agreement": {"id": "agmt-demo"},
                "product": {"code": "demosaas", "id": "prod-demosaas"},
                "license": {"arn": LICENSE},
                "acceptor": {"accountId": ACCOUNT},
                "proposer": {"accountId": "777788889999"},
                "offer": {"id": "offer-emulated"},
            },
        });
        assert_eq!(fixed(event(json!({"event": name, "license_arn": LICENSE}))), expected);
        let again = event(json!({"event": name, "account_id": ACCOUNT, "product_code": "demosaas"}));
        assert_eq!(fixed(again), expected);
    }
    let mut world = World::of_default();
    world.switches.set("event_license_arn", "documented").unwrap();
    assert_eq!(license_arn(&world), r#"{"arn":"aws:license-manager:us-east-1:111122223333:l-demo"}"#);
}

#[test]
fn an_event_of_an_agreement_names_neither() {
    let parties = json!({
        "requestId": null,
        "catalog": "AWSMarketplace",
        "resaleAuthorization": {"id": null},
        "acceptor": {"accountId": ACCOUNT},
        "proposer": {"accountId": "777788889999"},
    });
    let running = |intent: &str| {
        json!({
            "id": "agmt-demo",
            "intent": intent,
            "status": "ACTIVE",
            "acceptanceTime": "2026-11-24T08:30:00Z",
            "startTime": "2026-11-24T08:30:00Z",
            "endTime": "9999-01-01T00:00:00Z",
        })
    };
    let offer = json!({"id": "offer-emulated"});
    let mut amended = running("AMEND");
    amended["autoRenewalEnabled"] = json!(false);
    for (document, detail_type, more) in [
        (
            json!({"event": "agreement-created"}),
            "Purchase Agreement Created - Proposer",
            json!({"agreement": running("NEW"), "offer": offer}),
        ),
        (
            json!({"event": "agreement-created", "intent": "RENEW", "role": "manufacturer"}),
            "Purchase Agreement Created - Manufacturer",
            json!({
                "agreement": running("RENEW"),
                "offer": offer,
                "resaleAuthorization": {"id": "resaleauthz-emulated"},
            }),
        ),
        (
            json!({"event": "agreement-amended"}),
            "Purchase Agreement Amended - Proposer",
            json!({
                "agreement": amended,
                "offer": offer,
                "product": {"id": "prod-demosaas", "title": "demosaas"},
                "renewalSummary": {"lockoutStartTime": null, "disabledBy": null},
            }),
        ),
        (
            json!({"event": "agreement-ended"}),
            "Purchase Agreement Ended - Proposer",
            json!({"agreement": {"id": "agmt-demo", "status": "CANCELLED"}}),
        ),
        (
            json!({"event": "agreement-ended", "status": "EXPIRED"}),
            "Purchase Agreement Ended - Proposer",
            json!({"agreement": {"id": "agmt-demo", "status": "EXPIRED"}}),
        ),
    ] {
        let mut detail = parties.clone();
        detail.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let mut document = document;
        document["account_id"] = json!(ACCOUNT);
        let event = fixed(event(document));
        assert_eq!(event["detail-type"], detail_type);
        assert_eq!(event["detail"], detail, "{detail_type}");
    }
}

#[test]
fn an_event_can_be_forged_in_every_member() {
    let forged = json!({
        "source": "someone.else",
        "time": null,
        "detail": {"product": {"code": "another"}, "license": null, "agreement": 7},
    });
    let event = event(json!({
        "event": "license-updated", "account_id": ACCOUNT, "id": "known", "time": "2020-01-01T00:00:00Z", "forged": forged,
    }));
    assert_eq!(event["id"], "known");
    assert_eq!(event["source"], "someone.else");
    assert_eq!(event["detail"]["product"], json!({"code": "another", "id": "prod-demosaas"}));
    assert_eq!(event["detail"]["agreement"], 7);
    let members = |value: &Value, name: &str| value.as_object().unwrap().contains_key(name);
    assert!(!members(&event, "time") && !members(&event["detail"], "license"), "{event}");
}

#[test]
fn an_order_is_about_one_license_and_has_no_idle_members() {
    for (document, part) in [
        (json!({}), "give either"),
        (json!({"event": "license-updated", "resend": "x"}), "give either"),
        (json!({"resend": "x", "account_id": ACCOUNT}), "\"account_id\" has no effect"),
        (json!({"event": "agreement-ended", "intent": "NEW"}), "\"intent\" has no effect"),
        (json!({"event": "license-updated", "status": "EXPIRED"}), "\"status\" has no effect"),
        (json!({"event": "license-updated", "role": "proposer"}), "\"role\" has no effect"),
        (json!({"event": "license-deprovisioned", "entitlements": []}), "\"entitlements\" has no effect"),
        (json!({"event": "agreement-created", "intent": "OLD"}), "intent is NEW"),
        (json!({"event": "license-updated", "times": 0}), "times is between 1 and 100"),
        (json!({"event": "license-updated", "time": "soon"}), "time is a time"),
        (json!({"event": "license-updated", "forged": []}), "forged holds members"),
    ] {
        let order: EventDocument = serde_json::from_value(document.clone()).unwrap();
        assert!(order.check().unwrap_err().contains(part), "{document}");
    }
    for unknown in [json!({"event": "license-lost"}), json!({"event": "license-updated", "x": 1})] {
        assert!(serde_json::from_value::<EventDocument>(unknown).is_err());
    }
    let text = crate::world::document::DEFAULT.replace(
        "[[customers]]\naccount_id = \"444455556666\"",
        "[[customers.licenses]]\nproduct_code = \"demosaas\"\n\
         license_arn = \"arn:aws:license-manager::111122223333:license:l-2\"\n\n\
         [[customers]]\naccount_id = \"444455556666\"",
    );
    let world = World::of_toml(&text).unwrap();
    for (document, part) in [
        (json!({}), "name the license"),
        (json!({"account_id": ACCOUNT}), "several licenses of demosaas"),
        (json!({"account_id": "999999999999"}), "there is no customer"),
        (json!({"account_id": ACCOUNT, "product_code": "p"}), "there is no product"),
        (json!({"license_arn": LICENSE, "product_code": "p"}), "is demosaas"),
        (json!({"license_arn": LICENSE, "account_id": "444455556666"}), "is 111122223333"),
        (json!({"license_arn": "arn:aws:license-manager::1:license:l"}), "there is no license"),
    ] {
        let mut document = document;
        document["event"] = json!("license-updated");
        assert!(order(document.clone()).license(&world).unwrap_err().contains(part), "{document}");
    }
    // Every customer has a standard license of every other product.
    let (_, license) =
        order(json!({"event": "license-updated", "account_id": "444455556666"})).license(&world).unwrap();
    assert_eq!(license.arn, "arn:aws:license-manager::444455556666:license:l-demosaas");
}

#[test]
fn the_latest_events_are_kept_with_their_deliveries() {
    let mut events = Events::default();
    let secret = Target {
        url: "http://127.0.0.1:8080/x".to_owned(),
        header: Some(("authorization".to_owned(), "Bearer secret".to_owned())),
    };
    assert!(!format!("{secret:?}").contains("secret"));
    events.target = Some(secret);
    for number in 0..KEPT_MAX + 2 {
        events.note(&json!({"id": number.to_string()}), &[]);
    }
    events.note(&json!({"id": "7"}), &[json!({"status": 200})]);
    assert_eq!((events.find("1"), events.find("7")), (None, Some(&json!({"id": "7"}))));
    let shown = events.json(KEPT_MAX);
    assert_eq!(shown["target"], json!({"url": "http://127.0.0.1:8080/x", "header": "authorization"}));
    assert_eq!(shown["events"].as_array().unwrap().len(), KEPT_MAX);
    assert_eq!(shown["events"][5], json!({"event": {"id": "7"}, "deliveries": [{"status": 200}]}));
    assert_eq!(events.json(1)["events"][0]["event"]["id"], (KEPT_MAX + 1).to_string());
}
