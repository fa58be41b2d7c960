//! The admin interface under `/_emulator/…`: the clock, faults, the world, and what happened.

use std::time::Duration;

use hyper::{Method, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Shared;
use super::fault::RuleDocument;
use super::wire::Operation;
use crate::clock::Timestamp;
use crate::http::{self, Body};

/// What is posted to `/_emulator/clock`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClockDocument {
    advance: Option<String>,
    now: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CustomerDocument {
    account_id: String,
    subscribed: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PodDocument {
    access_key: String,
    account_id: Option<String>,
    platform_supported: Option<bool>,
    allowed: Option<bool>,
    region: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProductDocument {
    product_code: String,
    dimensions: Option<Vec<String>>,
    /// Adds the next key version and lets the newest so far expire at this time, or in an hour.
    rotate: Option<bool>,
    /// Operations that answer DisabledApiException.
    disabled: Option<Vec<String>>,
    concurrent_agreements: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenDocument {
    account_id: String,
}

/// Which of two answers the service gives where AWS's documents leave it open.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SwitchesDocument {
    refuse_again: Option<bool>,
    dry_run_exception: Option<bool>,
    batch_rounds_to_hour: Option<bool>,
    hour_before_start_out_of_bounds: Option<bool>,
    pascal_case_claims: Option<bool>,
}

/// An answer, or a text that says what is wrong with the request.
type Answered = Result<Value, String>;

/// Answers one admin request.
pub(super) fn answer(
    shared: &Shared,
    method: &Method,
    path: &str,
    query: &str,
    body: &[u8],
) -> Response<Body> {
    let answered = match (method.as_str(), path) {
        ("GET", "/_emulator/clock") => Ok(clock(shared)),
        ("POST", "/_emulator/clock") => set_clock(shared, body),
        ("GET", "/_emulator/ledger") if query.contains("format=csv") => {
            return http::answer(
                StatusCode::OK,
                "text/csv; charset=utf-8",
                shared.state().service.bill.csv(),
            );
        }
        ("GET", "/_emulator/ledger") => Ok(shared.state().service.bill.json()),
        ("GET", "/_emulator/calls") => Ok(shared.state().calls.json(limit(query))),
        ("POST", "/_emulator/faults") => faults(shared, body),
        ("DELETE", "/_emulator/faults") => {
            shared.state().script.clear();
            Ok(json!({}))
        }
        ("POST", "/_emulator/reset") => shared.reset().map(|()| json!({})),
        ("POST", "/_emulator/customers") => customer(shared, body),
        ("POST", "/_emulator/pods") => pod(shared, body),
        ("POST", "/_emulator/products") => product(shared, body),
        ("POST", "/_emulator/switches") => switches(shared, body),
        ("POST", "/_emulator/tokens") => token(shared, body),
        ("GET", "/_emulator/world") => Ok(shared.world_json()),
        _ => {
            return http::json(
                StatusCode::NOT_FOUND,
                &json!({"error": "there is no such admin path or method"}),
            );
        }
    };
    match answered {
        Ok(value) => http::json(StatusCode::OK, &value),
        Err(error) => http::json(StatusCode::BAD_REQUEST, &json!({"error": error})),
    }
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| error.to_string())
}

/// Calls shown unless `limit` says otherwise.
const CALLS_SHOWN: usize = 100;

fn limit(query: &str) -> usize {
    let given = query.split('&').find_map(|part| part.strip_prefix("limit="));
    given.and_then(|text| text.parse().ok()).unwrap_or(CALLS_SHOWN)
}

fn clock(shared: &Shared) -> Value {
    json!({"now": shared.clock.now().to_rfc3339_millis()})
}

fn set_clock(shared: &Shared, body: &[u8]) -> Answered {
    let document: ClockDocument = parse(body)?;
    match (document.advance, document.now) {
        (Some(advance), None) => {
            let by = super::duration(&advance).ok_or("advance must be a duration such as 1h30m")?;
            shared.clock.advance(by);
        }
        (None, Some(now)) => {
            shared
                .clock
                .set(Timestamp::parse(&now).ok_or("now must be a time such as 2026-11-24T08:00:00Z")?);
        }
        _ => return Err("give either \"advance\" or \"now\"".to_owned()),
    }
    Ok(clock(shared))
}

fn faults(shared: &Shared, body: &[u8]) -> Answered {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Posted {
        Seed { seed: u64 },
        One(Box<RuleDocument>),
        Many(Vec<RuleDocument>),
    }
    let rules = match parse::<Posted>(body) {
        Ok(Posted::Seed { seed }) => {
            shared.state().script.seed(seed);
            return Ok(json!({}));
        }
        Ok(Posted::One(rule)) => vec![*rule],
        Ok(Posted::Many(rules)) => rules,
        // The untagged reading hides what was wrong; this one tells it.
        Err(_) => vec![parse::<RuleDocument>(body)?],
    };
    let mut state = shared.state();
    for rule in rules {
        state.script.add(rule)?;
    }
    Ok(json!({}))
}

fn customer(shared: &Shared, body: &[u8]) -> Answered {
    let document: CustomerDocument = parse(body)?;
    let account_id = document.account_id;
    if account_id.is_empty() || !account_id.bytes().all(|b| b.is_ascii_digit()) {
        return Err("account_id must be digits".to_owned());
    }
    let mut state = shared.state();
    let world = &mut state.service.world;
    let customer = world.customer_entry(&account_id);
    if let Some(subscribed) = document.subscribed {
        customer.subscribed = subscribed;
    }
    Ok(
        json!({"account_id": account_id, "license_arn": customer.license_arn, "subscribed": customer.subscribed}),
    )
}

fn pod(shared: &Shared, body: &[u8]) -> Answered {
    let document: PodDocument = parse(body)?;
    let now = shared.clock.now();
    let mut state = shared.state();
    let Some(pod) = state.service.world.pod(&document.access_key, now) else {
        return Err("the emulator holds no more pods; POST /_emulator/reset".to_owned());
    };
    if let Some(account_id) = document.account_id {
        pod.account_id = account_id;
    }
    if let Some(supported) = document.platform_supported {
        pod.platform_supported = supported;
    }
    if let Some(allowed) = document.allowed {
        pod.allowed = allowed;
    }
    if let Some(region) = document.region {
        pod.region = region;
    }
    Ok(json!({"access_key": document.access_key, "account_id": pod.account_id, "region": pod.region}))
}

/// How long a rotated key version stays good.
const ROTATION_NOTICE: Duration = Duration::from_secs(3600);

fn product(shared: &Shared, body: &[u8]) -> Answered {
    let document: ProductDocument = parse(body)?;
    let mut disabled = None;
    for name in document.disabled.iter().flatten() {
        let operation = Operation::of_name(name).ok_or_else(|| format!("{name:?} is no operation"))?;
        disabled.get_or_insert_with(std::collections::BTreeSet::new).insert(operation);
    }
    if document.disabled.as_ref().is_some_and(Vec::is_empty) {
        disabled = Some(std::collections::BTreeSet::new());
    }
    let now = shared.clock.now();
    let mut state = shared.state();
    let product = state.service.world.products.entry(document.product_code.clone()).or_default();
    if product.keys.is_empty() {
        product.keys.insert(1, None);
    }
    if document.rotate == Some(true)
        && let Some(mut newest) = product.keys.last_entry()
    {
        newest.get_mut().get_or_insert_with(|| now.plus(ROTATION_NOTICE));
        let next = newest.key() + 1;
        product.keys.insert(next, None);
    }
    if let Some(dimensions) = document.dimensions {
        product.dimensions = dimensions.into_iter().collect();
    }
    if let Some(disabled) = disabled {
        product.disabled = disabled;
    }
    if let Some(concurrent) = document.concurrent_agreements {
        product.concurrent_agreements = concurrent;
    }
    drop(state);
    shared.make_keys(&document.product_code).map_err(|error| error.to_string())?;
    Ok(shared.product_json(&document.product_code))
}

fn switches(shared: &Shared, body: &[u8]) -> Answered {
    let document: SwitchesDocument = parse(body)?;
    let mut state = shared.state();
    let switches = &mut state.service.world.switches;
    for (switch, wanted) in [
        (&mut switches.refuse_again, document.refuse_again),
        (&mut switches.dry_run_exception, document.dry_run_exception),
        (&mut switches.batch_rounds_to_hour, document.batch_rounds_to_hour),
        (&mut switches.hour_before_start_out_of_bounds, document.hour_before_start_out_of_bounds),
        (&mut switches.pascal_case_claims, document.pascal_case_claims),
    ] {
        *switch = wanted.unwrap_or(*switch);
    }
    Ok(json!({}))
}

fn token(shared: &Shared, body: &[u8]) -> Answered {
    let document: TokenDocument = parse(body)?;
    let now = shared.clock.now();
    let mut state = shared.state();
    if !state.service.world.customers.contains_key(&document.account_id) {
        return Err(format!(
            "there is no customer {:?}; POST /_emulator/customers makes one",
            document.account_id
        ));
    }
    Ok(json!({"token": state.service.bill.issue_token(&document.account_id, now)}))
}
