//! The admin interface under `/_emulator/…`: the clock, faults, the world, and what happened.
//!
//! Orders are JSON; a wrong one is answered with `{"error"}` and 400, and changes nothing. A page of another origin
//! cannot give orders, nor read by DNS rebinding: the browser's `Origin` and `Host` headers show where a request comes
//! from.

mod event;
mod license;

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use hyper::header::{HOST, ORIGIN};
use hyper::http::request::Parts;
use hyper::{Response, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::action::Action;
use super::bill::{Bill, Filter, Part, registration_token};
use super::calls::{Calls, Wanted};
use super::change::Change;
use super::engine::Engine;
use super::fault::{NAMES, RuleDocument};
use super::host;
use super::operation::Operation;
use super::sts::decoded;
use super::token::Flaw;
use super::world::World;
use super::world::document::{CustomerDocument, OrderError, PodDocument, ProductDocument};
use super::world::switches::TABLE;
use tollgate_http::{self as http, Body};
use tollgate_time::Timestamp;

/// The paths, as `/_emulator` lists them.
const PATHS: [(&str, &str); 26] = [
    ("GET /_emulator/clock", "the emulated time"),
    ("POST /_emulator/clock", "{\"advance\": \"1h\"} or {\"now\": \"2026-11-24T08:00:00Z\"}"),
    (
        "GET /_emulator/ledger",
        "what AWS would bill; ?format=csv, ?product_code= ?account_id= ?dimension= ?pod=; ?limit= ?from= for a part",
    ),
    ("GET /_emulator/ledger/hours", "its sums by product, dimension and hour; ?last=24 of them"),
    ("GET /_emulator/calls", "requests and answers; ?limit= ?after= ?operation= ?pod= ?outcome="),
    ("GET /_emulator/faults", "the rules, and how often each applied"),
    ("POST /_emulator/faults", "a rule, a list of rules, or {\"seed\": 7}"),
    ("DELETE /_emulator/faults", "removes all rules"),
    ("GET /_emulator/world", "products, customers, pods, switches"),
    ("POST /_emulator/world", "a world file (TOML) in place of the world"),
    ("POST /_emulator/products", "makes or changes a product; \"rotate\": true adds a key version"),
    (
        "GET /_emulator/public-keys/CODE/1.pem",
        "a product's public key of a version, as the seller would hold it",
    ),
    ("POST /_emulator/customers", "makes or changes a customer"),
    ("POST /_emulator/pods", "declares or changes a pod"),
    ("GET /_emulator/licenses", "contracts, checkouts and the latest events; ?last=100 of these"),
    (
        "POST /_emulator/licenses",
        "makes or changes a contract: {\"product_id\": \"prod-democontract\", \"received\": \"disabled\"}",
    ),
    (
        "POST /_emulator/refresh-tokens",
        "{\"license_arn\": …, \"life\": \"365d\"}: a token for GetAccessToken",
    ),
    ("GET /_emulator/switches", "the questions that AWS's documents leave open, and the answers in force"),
    ("POST /_emulator/switches", "{\"dry_run\": \"exception\"}"),
    (
        "GET /_emulator/events",
        "where events are posted, and the latest with their deliveries; ?last=100 of these",
    ),
    (
        "POST /_emulator/events",
        "{\"event\": \"license-deprovisioned\", \"account_id\": \"111122223333\"} or {\"resend\": \"ID\"}: it happens, and is posted",
    ),
    (
        "POST /_emulator/event-target",
        "{\"url\": \"http://127.0.0.1:8080/v1/events/marketplace\", \"header\": \"authorization\", \"value\": …}",
    ),
    ("DELETE /_emulator/event-target", "events are not posted any more"),
    ("POST /_emulator/tokens", "{\"account_id\": \"111122223333\"}: a registration token"),
    (
        "GET /_emulator/credentials/NAME",
        "the same as /v2/credentials/NAME: credentials of the task of this name, as the ECS agent gives them",
    ),
    ("POST /_emulator/reset", "everything as it was at the start; the keys stay"),
];

/// The body of `POST /_emulator/clock`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClockDocument {
    advance: Option<String>,
    now: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenDocument {
    account_id: String,
    product_code: Option<String>,
}

/// Why an admin request is refused.
enum Refusal {
    /// The order is wrong.
    Order(String),
    /// The emulator could not carry out the order.
    State(io::Error),
    NotFound,
    Method(&'static str),
}

impl From<OrderError> for Refusal {
    fn from(error: OrderError) -> Self {
        Self::Order(error.to_string())
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::State(error)
    }
}

impl From<String> for Refusal {
    fn from(error: String) -> Self {
        Self::Order(error)
    }
}

type Answered = Result<Value, Refusal>;

/// Answers one admin request.
pub(super) async fn answer(engine: &Arc<Engine>, parts: &Parts, body: &[u8]) -> Response<Body> {
    let path = parts.uri.path().trim_start_matches("/_emulator").trim_start_matches('/');
    let query = Query(parts.uri.query().unwrap_or_default());
    let reads = http::reads(&parts.method);
    if !host::is_ours(&parts.headers) {
        let error = "the Host must be an address, localhost, or a name of a private network, as a protection \
                     against DNS rebinding";
        return http::json(StatusCode::MISDIRECTED_REQUEST, &json!({"error": error}));
    }
    if !reads && foreign(parts) {
        let error = json!({"error": "orders from a page of another origin are refused"});
        return http::json(StatusCode::FORBIDDEN, &error);
    }
    if reads && path == "ledger" {
        return match query.text("format").as_deref() {
            Some("csv") => {
                let csv = engine.state().service.bill.csv(&query.filter());
                http::answer(StatusCode::OK, "text/csv; charset=utf-8", csv)
            }
            None | Some("json") => match query.part() {
                Ok(None) => http::json(StatusCode::OK, &engine.state().service.bill.ledger(&query.filter())),
                Ok(Some(part)) => {
                    http::json(StatusCode::OK, &engine.state().service.bill.part(&query.filter(), part))
                }
                Err(error) => http::json(StatusCode::BAD_REQUEST, &json!({"error": error})),
            },
            Some(other) => {
                let error = format!("format is json or csv, not {other:?}");
                http::json(StatusCode::BAD_REQUEST, &json!({"error": error}))
            }
        };
    }
    if let Some(pem) =
        path.strip_prefix("public-keys/").filter(|_| reads).and_then(|key| public_key(engine, key))
    {
        return http::answer(StatusCode::OK, "application/x-pem-file", pem);
    }
    let answered = if reads {
        read(engine, path, &query)
    } else {
        order(engine, parts.method.as_str(), path, body).await
    };
    let (status, message) = match answered {
        Ok(value) => return http::json(StatusCode::OK, &value),
        Err(Refusal::Method(allow)) => return http::method_not_allowed(allow),
        Err(Refusal::Order(message)) => (StatusCode::BAD_REQUEST, message),
        Err(Refusal::State(error)) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        Err(Refusal::NotFound) => {
            (StatusCode::NOT_FOUND, "there is no such path; GET /_emulator lists all paths".to_owned())
        }
    };
    http::json(status, &json!({"error": message}))
}

/// The public key at `CODE/VERSION.pem`, as in the folder of keys; a product code may contain slashes.
fn public_key(engine: &Engine, path: &str) -> Option<String> {
    let (product_code, file) = path.rsplit_once('/')?;
    let (product_code, version) = (decoded(product_code), file.strip_suffix(".pem")?.parse().ok()?);
    let known = engine.state().service.world.products.get(&product_code)?.keys.contains_key(&version);
    engine.keys.public_pem(&product_code, version).filter(|_| known)
}

/// Whether the `Origin` header shows that the request comes from another site's page.
fn foreign(parts: &Parts) -> bool {
    let Some(origin) = parts.headers.get(ORIGIN) else { return false };
    let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    origin.to_str().ok().and_then(|origin| origin.split_once("://")).is_none_or(|(_, of)| of != host)
}

/// The part of a URL after the question mark.
struct Query<'a>(&'a str);

impl Query<'_> {
    fn text(&self, name: &str) -> Option<String> {
        let mut pairs = self.0.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| decoded(value)).filter(|value| !value.is_empty())
    }

    fn number(&self, name: &str) -> Result<Option<u64>, String> {
        let Some(text) = self.text(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| format!("{name} must be a whole number, not {text:?}"))
    }

    /// The wanted part of the bill; `None` for the whole.
    fn part(&self) -> Result<Option<Part>, String> {
        let size = |number: Option<u64>| number.map(|number| usize::try_from(number).unwrap_or(usize::MAX));
        let from = size(self.number("from")?);
        Ok(size(self.number("limit")?).map(|limit| Part { from: from.unwrap_or(0), limit }))
    }

    fn filter(&self) -> Filter {
        Filter {
            product_code: self.text("product_code"),
            account_id: self.text("account_id"),
            dimension: self.text("dimension"),
            pod: self.text("pod"),
        }
    }
}

/// Hours shown by default (`last`).
const HOURS_SHOWN: u64 = 24;

/// Events shown by default (`last`).
const EVENTS_SHOWN: u64 = 100;

/// Calls shown by default (`limit`).
const CALLS_SHOWN: u64 = 100;

fn read(engine: &Engine, path: &str, query: &Query<'_>) -> Answered {
    let state = engine.state();
    Ok(match path {
        "" => Value::Object(PATHS.iter().map(|(path, what)| ((*path).to_owned(), json!(what))).collect()),
        "clock" => json!({"now": state.clock.now().to_rfc3339_millis()}),
        "ledger/hours" => state.service.bill.sums_json(query.number("last")?.unwrap_or(HOURS_SHOWN)),
        "calls" => {
            let limit = query.number("limit")?.unwrap_or(CALLS_SHOWN);
            state.calls.json(&Wanted {
                limit: usize::try_from(limit).unwrap_or(usize::MAX),
                after: query.number("after")?.unwrap_or(0),
                operation: query.text("operation"),
                pod: query.text("pod"),
                outcome: query.text("outcome"),
            })
        }
        "licenses" => {
            let last = query.number("last")?.unwrap_or(EVENTS_SHOWN);
            drop(state);
            license::shown(engine, usize::try_from(last).unwrap_or(usize::MAX))?
        }
        "events" => {
            let last = query.number("last")?.unwrap_or(EVENTS_SHOWN);
            state.events.json(usize::try_from(last).unwrap_or(usize::MAX))
        }
        "faults" => {
            let mut faults = state.script.json();
            let table = |names: &mut dyn Iterator<Item = (&str, &str)>| {
                Value::Object(names.map(|(name, what)| (name.to_owned(), json!(what))).collect())
            };
            faults["faults"] = table(&mut NAMES.into_iter());
            faults["tokens"] = table(&mut Flaw::ALL.into_iter().map(|(_, name, what)| (name, what)));
            faults["exceptions"] =
                Action::all().map(|action| (action.name(), json!(action.exceptions()))).collect();
            faults
        }
        "switches" => switches_json(&state.service.world),
        "world" => {
            drop(state);
            world_json(engine)
        }
        "event-target" => return Err(Refusal::Method("POST, DELETE")),
        _ if PATHS.iter().any(|(known, _)| known.strip_prefix("POST /_emulator/") == Some(path)) => {
            return Err(Refusal::Method("POST"));
        }
        _ => return Err(Refusal::NotFound),
    })
}

async fn order(engine: &Arc<Engine>, method: &str, path: &str, body: &[u8]) -> Answered {
    match (method, path) {
        ("POST", "clock") => set_clock(engine, body),
        ("POST", "faults") => faults(engine, body).await,
        ("DELETE", "faults") => {
            engine.state().script.clear();
            Ok(json!({}))
        }
        ("POST", "reset") => {
            engine.reset()?;
            Ok(json!({}))
        }
        ("POST", "world") => world(engine, body).await,
        ("POST", "products") => product(engine, body).await,
        ("POST", "customers") => customer(engine, body),
        ("POST", "pods") => pod(engine, body),
        ("POST", "licenses") => license::order(engine, body),
        ("POST", "refresh-tokens") => license::refresh_token(engine, body),
        ("POST", "events") => event::order(engine, body).await,
        ("POST", "event-target") => event::target(engine, body),
        ("DELETE", "event-target") => {
            engine.state().events.target = None;
            Ok(json!({}))
        }
        ("POST", "switches") => switches(engine, body).await,
        ("POST", "tokens") => token(engine, body),
        (_, "faults") => Err(Refusal::Method("GET, HEAD, POST, DELETE")),
        (_, "clock" | "events" | "world" | "switches" | "licenses") => {
            Err(Refusal::Method("GET, HEAD, POST"))
        }
        (_, "event-target") => Err(Refusal::Method("POST, DELETE")),
        (_, "" | "ledger" | "ledger/hours" | "calls") => Err(Refusal::Method("GET, HEAD")),
        (_, "reset" | "products" | "customers" | "pods" | "tokens" | "refresh-tokens") => {
            Err(Refusal::Method("POST"))
        }
        (_, path) if path.starts_with("public-keys/") => Err(Refusal::Method("GET, HEAD")),
        _ => Err(Refusal::NotFound),
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| format!("the body does not fit this path: {error}"))
}

fn set_clock(engine: &Engine, body: &[u8]) -> Answered {
    let document: ClockDocument = parse(body)?;
    let mut state = engine.state();
    let moved = match (document.advance, document.now) {
        (Some(advance), None) => {
            let by = super::duration(&advance)
                .ok_or_else(|| format!("{advance:?} is no duration such as 1h30m"))?;
            state.clock.advanced(by)
        }
        (None, Some(now)) => {
            let at = Timestamp::parse(&now)
                .ok_or_else(|| format!("{now:?} is no time such as 2026-11-24T08:00:00Z"))?;
            state.clock.at(at)
        }
        _ => return Err(Refusal::Order("give either \"advance\" or \"now\"".to_owned())),
    };
    let clock = moved.ok_or_else(|| "the calendar ends with the year 9999".to_owned())?;
    state.make(&[Change::Clock { ahead_millis: clock.ahead_millis }])?;
    Ok(json!({"now": state.clock.now().to_rfc3339_millis()}))
}

/// The body of `POST /_emulator/faults`.
enum Posted {
    Seed(u64),
    Rules(Vec<RuleDocument>),
}

fn posted(body: &[u8]) -> Result<Posted, String> {
    let value: Value = parse(body)?;
    if let Some(seed) = value.get("seed") {
        let only = value.as_object().is_some_and(|members| members.len() == 1);
        let seed = seed.as_u64().filter(|_| only);
        return seed.map(Posted::Seed).ok_or_else(|| "a seed is a whole number, sent alone".to_owned());
    }
    let rules = if value.is_array() { value } else { json!([value]) };
    serde_json::from_value(rules).map(Posted::Rules).map_err(|error| error.to_string())
}

async fn faults(engine: &Arc<Engine>, body: &[u8]) -> Answered {
    match posted(body)? {
        Posted::Seed(seed) => engine.state().script.reseed(seed),
        Posted::Rules(rules) => {
            engine.state().script.add(rules)?;
            blocking(engine, Engine::make_stranger).await?;
        }
    }
    Ok(engine.state().script.json())
}

/// Making a key takes seconds; other requests are served meanwhile.
async fn blocking(engine: &Arc<Engine>, work: fn(&Engine) -> io::Result<()>) -> io::Result<()> {
    let engine = Arc::clone(engine);
    tokio::task::spawn_blocking(move || work(&engine))
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
}

async fn world(engine: &Arc<Engine>, body: &[u8]) -> Answered {
    let text = std::str::from_utf8(body).map_err(|_| "a world file is text".to_owned())?;
    let world = Box::new(World::of_toml(text)?);
    engine.state().make(&[Change::World { world }])?;
    blocking(engine, Engine::make_keys).await?;
    Ok(world_json(engine))
}

async fn product(engine: &Arc<Engine>, body: &[u8]) -> Answered {
    let order: ProductDocument = parse(body)?;
    let product_code = {
        let mut state = engine.state();
        let (product_code, product) = state.service.world.ordered_product(state.clock.now(), order)?;
        state.make(&[Change::Product { product_code: product_code.clone(), product }])?;
        product_code
    };
    blocking(engine, Engine::make_keys).await?;
    Ok(product_json(engine, &engine.state().service.world, &product_code))
}

fn customer(engine: &Engine, body: &[u8]) -> Answered {
    let order: CustomerDocument = parse(body)?;
    let mut state = engine.state();
    let (account_id, customer) = state.service.world.ordered_customer(state.clock.now(), order)?;
    state.make(&[Change::Customer { account_id: account_id.clone(), customer }])?;
    Ok(customer_json(&state.service.world, &account_id))
}

fn pod(engine: &Engine, body: &[u8]) -> Answered {
    let order: PodDocument = parse(body)?;
    let mut state = engine.state();
    let (name, pod) = state.service.world.ordered_pod(order)?;
    state.make(&[Change::Pod { name: name.clone(), pod }])?;
    Ok(pod_json(&state.service.world, &state.service.bill, &state.calls, &name))
}

async fn switches(engine: &Arc<Engine>, body: &[u8]) -> Answered {
    let answers: std::collections::BTreeMap<String, String> = parse(body)?;
    {
        let mut state = engine.state();
        let mut switches = state.service.world.switches;
        for (name, answer) in &answers {
            switches.set(name, answer)?;
        }
        state.make(&[Change::Switches { switches }])?;
    }
    blocking(engine, Engine::make_keys).await?;
    Ok(engine.state().service.world.switches.json())
}

fn token(engine: &Engine, body: &[u8]) -> Answered {
    let TokenDocument { account_id, product_code } = parse(body)?;
    let mut state = engine.state();
    let world = &state.service.world;
    if !world.customers.contains_key(&account_id) {
        let text = format!("there is no customer {account_id:?}; POST /_emulator/customers makes one");
        return Err(Refusal::Order(text));
    }
    let product_code = product_code.or_else(|| world.saas_product().map(str::to_owned));
    let saas = |code: &String| {
        let product = world.products.get(code);
        product.is_some_and(|product| product.pricing.allows(Operation::ResolveCustomer))
    };
    let Some(product_code) = product_code.filter(saas) else {
        return Err(Refusal::Order("there is no such product with pricing \"saas\"".to_owned()));
    };
    if !state.service.bill.token_room() {
        return Err(Refusal::Order(
            "no more tokens can be issued; POST /_emulator/reset forgets them".to_owned(),
        ));
    }
    let token = registration_token(state.service.bill.token_count(), &account_id, &product_code);
    let at = state.clock.now().unix_millis();
    state.make(&[Change::TokenIssued {
        token: token.clone(),
        account_id,
        product_code: product_code.clone(),
        at,
    }])?;
    Ok(json!({"token": token, "product_code": product_code}))
}

fn world_json(engine: &Engine) -> Value {
    let state = engine.state();
    let world = &state.service.world;
    let products: Vec<Value> = world.products.keys().map(|code| product_json(engine, world, code)).collect();
    let accounts = world.customers.iter().map(|(account_id, _)| account_id).take(CUSTOMERS_SHOWN);
    let customers: Vec<Value> = accounts.map(|account_id| customer_json(world, account_id)).collect();
    let bill = &state.service.bill;
    let called = bill.pods().map(|(name, _)| name);
    let mut names: BTreeSet<&str> = called.chain(world.assumed.keys().map(String::as_str)).collect();
    names.extend(state.calls.pods());
    let pods_seen = names.len();
    names.extend(world.pods.keys().map(String::as_str));
    let pods: Vec<Value> =
        names.into_iter().take(PODS_SHOWN).map(|name| pod_json(world, bill, &state.calls, name)).collect();
    json!({
        "region": world.region,
        "regions": world.regions,
        "account_id": world.account_id,
        "platform": world.platform,
        "seller_account_id": world.seller_account_id,
        "disabled_regions": world.disabled_regions,
        "web_identity_verified": engine.verifies_tokens(),
        "products": products,
        "customers": customers,
        "customers_declared": world.customers.len(),
        "pods": pods,
        "pods_seen": pods_seen,
        "switches": world.switches.json(),
    })
}

/// Most customers listed with the world, which the page asks for again and again; `customers_declared` has their
/// number.
const CUSTOMERS_SHOWN: usize = 10_000;
/// Most pods listed with the world; `pods_seen` has their number.
const PODS_SHOWN: usize = 1000;

fn product_json(engine: &Engine, world: &World, product_code: &str) -> Value {
    let Some(product) = world.products.get(product_code) else { return Value::Null };
    let keys = product.keys.iter().map(
        |(version, key)| json!({"version": version, "expires_at": key.expires_at.map(|at| at.to_string())}),
    );
    json!({
        "product_code": product_code,
        "pricing": product.pricing,
        "agreements": product.agreements,
        "seller_account_id": product.seller_account_id.as_ref().unwrap_or(&world.seller_account_id),
        "dimensions": product.dimensions,
        "disabled": product.disabled,
        "keys": keys.collect::<Vec<_>>(),
        "public_key_versions": product.keys.keys().collect::<Vec<_>>(),
        "public_keys": engine.keys.public_keys(product_code),
    })
}

fn customer_json(world: &World, account_id: &str) -> Value {
    let Some(customer) = world.customers.get(account_id) else { return Value::Null };
    let licenses = world.products.keys().flat_map(|code| world.licenses(account_id, code));
    let licenses: Vec<Value> = licenses
        .map(|license| {
            let mut shown = json!({
                "product_code": license.product_code,
                "license_arn": license.arn,
                "agreement_id": license.agreement_id,
                "subscribed": license.subscribed,
                "active_from": license.active_from.map(|at| at.to_string()),
                "active_until": license.active_until.map(|at| at.to_string()),
            });
            if !license.entitlements.is_empty() {
                let entitlements = license.entitlements.iter().map(|entitlement| {
                    json!({
                        "dimension": entitlement.dimension,
                        "value": entitlement.value,
                        "expires_at": entitlement.end(&license).map(|at| at.to_string()),
                    })
                });
                shown["entitlements"] = entitlements.collect();
            }
            shown
        })
        .collect();
    json!({
        "account_id": account_id,
        "identifier": customer.identifier,
        "subscribed": customer.subscribed,
        "licenses": licenses,
    })
}

fn pod_json(world: &World, bill: &Bill, calls: &Calls, name: &str) -> Value {
    let registered = bill.registered(name);
    let registered =
        registered.into_iter().map(|(code, calls)| json!({"product_code": code, "calls": calls}));
    let pod = world.pod(name);
    json!({
        "name": name,
        "declared": world.pods.contains_key(name),
        "account_id": pod.account_id,
        "role": pod.role_arn,
        "region": pod.region,
        "platform": pod.platform,
        "denied": pod.denied,
        "started_at": pod.started_at.map(|at| at.to_string()),
        "first_call": bill.first_call(name).map(|at| at.to_string()),
        "registered": registered.collect::<Vec<_>>(),
        "latest": calls.latest_of(name),
    })
}

fn switches_json(world: &World) -> Value {
    let answers = world.switches.json();
    let switches = TABLE.iter().map(|entry| {
        let about =
            json!({"answer": answers[entry.name], "answers": entry.answers, "question": entry.question});
        (entry.name.to_owned(), about)
    });
    Value::Object(switches.collect())
}
