//! The emulator: a strict stand-in for AWS Marketplace's metering service, for laptops and tests.
//!
//! - It speaks AWS JSON 1.1 over plain HTTP, so that an unmodified AWS SDK needs one environment variable.
//! - Its wire structs are its own: were they shared with the client side, a misspelt field would cancel out.
//! - Every answer carries `x-tollgate-emulator: 1` and every token `emulated: true`, so that nobody takes it for AWS.
//! - Decisions are pure (`service`): (state, request, now) in, answer out; this file is the shell.
//!
//! The sidecar never imports it; they meet over HTTP only.

mod admin;
mod bill;
mod calls;
mod check;
mod clock;
mod decimal;
mod fault;
mod keys;
mod quota;
mod service;
mod sigv4;
mod token;
mod wire;
mod world;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming};
use hyper::header::HeaderValue;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::clock::{monotonic, system_now};
use crate::http::{self, Abandoned, Address, Body, Handler, Limits, Listener, ReadBodyError};
use calls::{Call, Calls};
use clock::EmulatedClock;
use fault::{Kind, Script};
use keys::KeyFolder;
use quota::Quotas;
use service::Service;
use sigv4::Signer;
use wire::{Operation, Outcome, ServiceError};
use world::World;

/// On every answer.
pub const HEADER: &str = "x-tollgate-emulator";

/// The product of the demo.
pub const DEMO_PRODUCT: &str = "demohourly";

/// Largest request read; AWS's largest is below 1 MB.
const REQUEST_BYTES_MAX: usize = 2 << 20;

const LIMITS: Limits = Limits {
    // Load tests bring many clients; each connection costs some kilobytes.
    connections_max: 4096,
    header_timeout: Duration::from_secs(60),
    header_bytes_max: 64 * 1024,
    // A scripted hang or delay must be able to outlast every client.
    request_timeout: Duration::from_secs(2 * 3600),
    drain_timeout: Duration::from_millis(200),
    reset_when_abandoned: true,
};

/// How to start.
#[derive(Debug)]
pub struct Options {
    /// Where to listen.
    pub address: Address,
    /// Where keys are kept.
    pub state: PathBuf,
    /// Throttle as AWS does.
    pub quotas: bool,
    /// Secrets by access key; with any, signatures are verified and unknown keys refused.
    pub secrets: HashMap<String, String>,
    /// For faults by chance.
    pub seed: u64,
}

/// Why the emulator cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is taken or not ours.
    #[error("cannot listen on {address}: {source}; choose another with --addr")]
    Bind {
        /// The address.
        address: Address,
        /// What the system said.
        source: io::Error,
    },
    /// The state folder cannot be used.
    #[error("cannot use the state folder: {0}; choose another with --state")]
    State(#[from] io::Error),
}

/// A running emulator's surroundings; the server runs with [`Emulator::serve`].
#[derive(Debug)]
pub struct Emulator {
    listener: Listener,
    shared: Arc<Shared>,
    address: Address,
}

/// What a script needs to know.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Facts {
    /// The URL to give to an SDK.
    pub endpoint: String,
    /// The product of the demo.
    pub product_code: String,
    /// Its newest key version.
    pub public_key_version: i32,
    /// The folder of its public keys.
    pub public_keys: PathBuf,
    /// The URL of the clock.
    pub clock: String,
}

impl Emulator {
    /// Makes or reads the keys and binds the address.
    pub fn open(options: Options) -> Result<Self, StartError> {
        let bind_error = |source| StartError::Bind { address: options.address.clone(), source };
        let listener = Listener::bind(&options.address).map_err(bind_error)?;
        let address = listener.local_address()?;
        let shared = Shared {
            clock: EmulatedClock::default(),
            folder: KeyFolder::new(options.state),
            quotas: options.quotas,
            secrets: options.secrets,
            seed: options.seed,
            state: Mutex::new(State::new(World::default_world(), options.seed)),
        };
        shared.make_keys(DEMO_PRODUCT)?;
        Ok(Self { listener, shared: Arc::new(shared), address })
    }

    /// What a script needs to know.
    #[must_use]
    pub fn facts(&self) -> Facts {
        let endpoint = format!("http://{}", self.address);
        Facts {
            product_code: DEMO_PRODUCT.to_owned(),
            public_key_version: self.shared.newest_version(DEMO_PRODUCT),
            public_keys: self.shared.folder.public_keys(DEMO_PRODUCT),
            clock: format!("{endpoint}/_emulator/clock"),
            endpoint,
        }
    }

    /// Serves until `stop` turns true.
    pub async fn serve(self, stop: watch::Receiver<bool>) {
        http::serve(self.listener, LIMITS, Server(self.shared), stop).await;
    }
}

#[derive(Debug)]
struct State {
    service: Service,
    script: Script,
    quotas: Quotas,
    calls: Calls,
    next_request: u64,
}

impl State {
    fn new(world: World, seed: u64) -> Self {
        let service = Service { world, keys: HashMap::new(), bill: bill::Bill::default() };
        Self {
            service,
            script: Script::new(seed),
            quotas: Quotas::default(),
            calls: Calls::default(),
            next_request: 0,
        }
    }
}

#[derive(Debug)]
struct Shared {
    clock: EmulatedClock,
    folder: KeyFolder,
    quotas: bool,
    secrets: HashMap<String, String>,
    seed: u64,
    state: Mutex<State>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while it was held would be a bug; the state it left is still the best there is.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn newest_version(&self, product_code: &str) -> i32 {
        let state = self.state();
        let keys = state.service.world.products.get(product_code).map(|product| &product.keys);
        keys.and_then(|keys| keys.last_key_value()).map_or(1, |(version, _)| *version)
    }

    /// Loads or makes the keys of a product that are not in memory yet. Only products that are registered sign
    /// anything: the others' keys would cost seconds for nothing.
    fn make_keys(&self, product_code: &str) -> io::Result<()> {
        let missing: Vec<i32> = {
            let state = self.state();
            let product = state.service.world.products.get(product_code);
            let versions = product.into_iter().flat_map(|product| product.keys.keys().copied());
            versions
                .filter(|version| !state.service.keys.contains_key(&(product_code.to_owned(), *version)))
                .collect()
        };
        for version in missing {
            let key = self.folder.load_or_make(product_code, version)?;
            self.state().service.keys.insert((product_code.to_owned(), version), key);
        }
        Ok(())
    }

    fn reset(&self) -> Result<(), String> {
        *self.state() = State::new(World::default_world(), self.seed);
        self.clock.set(system_now());
        self.make_keys(DEMO_PRODUCT).map_err(|error| error.to_string())
    }

    fn product_json(&self, product_code: &str) -> Value {
        let state = self.state();
        let product = state.service.world.products.get(product_code);
        let versions: Vec<i32> =
            product.into_iter().flat_map(|product| product.keys.keys().copied()).collect();
        let dimensions: Vec<&String> = product.into_iter().flat_map(|product| &product.dimensions).collect();
        json!({
            "product_code": product_code,
            "public_key_versions": versions,
            "public_keys": self.folder.public_keys(product_code),
            "dimensions": dimensions,
        })
    }

    fn world_json(&self) -> Value {
        let (codes, customers, pods, region): (Vec<String>, Vec<Value>, Vec<Value>, String) = {
            let state = self.state();
            let world = &state.service.world;
            let customers = world.customers.iter().map(|(account_id, customer)| {
                json!({
                    "account_id": account_id, "identifier": customer.identifier,
                    "license_arn": customer.license_arn, "subscribed": customer.subscribed,
                })
            });
            let pods = world.pods.iter().map(
                |(key, pod)| json!({"access_key": key, "account_id": pod.account_id, "region": pod.region}),
            );
            (
                world.products.keys().cloned().collect(),
                customers.collect(),
                pods.collect(),
                world.region.clone(),
            )
        };
        let products: Vec<Value> = codes.iter().map(|code| self.product_json(code)).collect();
        json!({"region": region, "products": products, "customers": customers, "pods": pods})
    }
}

#[derive(Debug, Clone)]
struct Server(Arc<Shared>);

impl Handler for Server {
    async fn handle(&self, request: Request<Incoming>) -> Result<Response<Body>, Abandoned> {
        let mut response = self.route(request).await?;
        response.headers_mut().insert(HEADER, HeaderValue::from_static("1"));
        Ok(response)
    }
}

impl Server {
    async fn route(&self, request: Request<Incoming>) -> Result<Response<Body>, Abandoned> {
        let (parts, body) = request.into_parts();
        let bytes = match http::read_body(body, REQUEST_BYTES_MAX).await {
            Ok(bytes) => bytes,
            Err(ReadBodyError::TooLarge) => {
                return Ok(http::text(StatusCode::PAYLOAD_TOO_LARGE, "the request is larger than 2 MiB\n"));
            }
            Err(ReadBodyError::Broken) => return Err(Abandoned),
        };
        let path = parts.uri.path();
        if path.starts_with("/_emulator/") {
            let query = parts.uri.query().unwrap_or_default();
            return Ok(admin::answer(&self.0, &parts.method, path, query, &bytes));
        }
        match (&parts.method, path) {
            (&Method::POST, "/") => self.call(&parts.headers, &bytes).await,
            (method, "/") if http::reads(method) => {
                let text = "tollgate emulator: POST / speaks AWS JSON 1.1; the admin interface is under /_emulator/\n";
                Ok(http::text(StatusCode::OK, text))
            }
            (_, "/") => Ok(http::method_not_allowed("GET, HEAD, POST")),
            _ => Ok(http::text(StatusCode::NOT_FOUND, "not found\n")),
        }
    }

    async fn call(&self, headers: &hyper::HeaderMap, bytes: &Bytes) -> Result<Response<Body>, Abandoned> {
        let shared = &*self.0;
        let signed = sigv4::Signed { headers, body: bytes, now: system_now() };
        let authenticated = wire::operation(headers)
            .and_then(|operation| Ok((operation, sigv4::check(&signed, &shared.secrets)?)));
        let request_id = shared.request_id();
        let (operation, signer) = match authenticated {
            Ok(known) => known,
            Err(error) => return Ok(wire::response(&Err(error), &request_id)),
        };
        let fault = shared.state().script.hit(operation, &signer.access_key);
        match &fault {
            Some(Kind::Delay(delay)) => tokio::time::sleep(*delay).await,
            Some(Kind::Hang) => {
                shared.note(operation, &signer, bytes, "fault: hang", &Value::Null);
                std::future::pending::<()>().await;
            }
            Some(Kind::ResetBefore) => {
                shared.note(operation, &signer, bytes, "fault: reset-before", &Value::Null);
                return Err(Abandoned);
            }
            Some(Kind::Html(status)) => {
                shared.note(operation, &signer, bytes, "fault: http", &Value::Null);
                let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
                let page = format!(
                    "<html><head><title>{status}</title></head><body><h1>{status}</h1></body></html>\n"
                );
                return Ok(http::answer(status, "text/html", page));
            }
            _ => {}
        }
        let outcome = shared.decide(operation, &signer, bytes, fault.as_ref());
        shared.note_outcome(operation, &signer, bytes, &outcome);
        finish(fault.as_ref(), outcome, &request_id)
    }
}

impl Shared {
    fn request_id(&self) -> String {
        let mut state = self.state();
        state.next_request += 1;
        format!("00000000-0000-4000-9000-{:012x}", state.next_request)
    }

    fn decide(&self, operation: Operation, signer: &Signer, bytes: &Bytes, fault: Option<&Kind>) -> Outcome {
        if let Some(Kind::Exception(error)) = fault {
            return Err(error.clone());
        }
        let body: Value = serde_json::from_slice(bytes).map_err(|error| {
            ServiceError::new("SerializationException", format!("the body is no JSON: {error}"))
        })?;
        if operation == Operation::RegisterUsage
            && let Some(product_code) = body.get("ProductCode").and_then(Value::as_str)
        {
            let failed =
                |error: io::Error| ServiceError::new("InternalServiceErrorException", error.to_string());
            self.make_keys(product_code).map_err(failed)?;
        }
        let now = self.clock.now();
        let mut state = self.state();
        if self.quotas {
            let account_id =
                state.service.world.pod(&signer.access_key, now).map(|pod| pod.account_id.clone());
            if !state.quotas.take(&account_id.unwrap_or_default(), operation, monotonic()) {
                return Err(ServiceError::new("ThrottlingException", "Rate exceeded"));
            }
        }
        let flaw = match fault {
            Some(Kind::Token(flaw)) => Some(*flaw),
            _ => None,
        };
        let request = service::Request { operation, signer, body: &body, body_bytes: bytes.len(), now, flaw };
        let mut value = state.service.decide(&request)?;
        if fault == Some(&Kind::NoSignature)
            && let Some(members) = value.as_object_mut()
        {
            members.remove("Signature");
        }
        Ok(value)
    }

    fn note_outcome(&self, operation: Operation, signer: &Signer, bytes: &Bytes, outcome: &Outcome) {
        match outcome {
            Ok(value) => self.note(operation, signer, bytes, "ok", value),
            Err(error) => self.note(operation, signer, bytes, &error.code, &error.body()),
        }
    }

    fn note(&self, operation: Operation, signer: &Signer, bytes: &Bytes, outcome: &str, answer: &Value) {
        let call = Call {
            at: self.clock.now(),
            operation: operation.name(),
            pod: signer.access_key.clone(),
            region: signer.region.clone(),
            outcome: outcome.to_owned(),
            request: String::from_utf8_lossy(bytes).into_owned(),
            answer: answer.to_string(),
        };
        self.state().calls.add(call);
    }
}

/// The answer as it goes out, spoilt where the script says so.
fn finish(fault: Option<&Kind>, outcome: Outcome, request_id: &str) -> Result<Response<Body>, Abandoned> {
    match fault {
        Some(Kind::ResetAfter) => Err(Abandoned),
        Some(Kind::InvalidJson) => {
            Ok(http::answer(StatusCode::OK, wire::CONTENT_TYPE, "{\"Signature\": nul"))
        }
        Some(Kind::Truncate) => {
            let text = outcome.unwrap_or_else(|error| error.body()).to_string();
            let mut bytes = Bytes::from(text);
            let half = bytes.split_to(HALF_BYTES.min(bytes.len()));
            let mut response = Response::new(Cut(Some(half)).boxed());
            let content_type = HeaderValue::from_static(wire::CONTENT_TYPE);
            response.headers_mut().insert(hyper::header::CONTENT_TYPE, content_type);
            Ok(response)
        }
        _ => Ok(wire::response(&outcome, request_id)),
    }
}

/// Of a truncated answer: every answer, the shortest error included, is longer.
const HALF_BYTES: usize = 16;

/// A body that breaks off.
struct Cut(Option<Bytes>);

impl hyper::body::Body for Cut {
    type Data = Bytes;
    type Error = http::BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, http::BodyError>>> {
        Poll::Ready(Some(self.0.take().map(Frame::data).ok_or_else(|| "cut on purpose".into())))
    }
}

/// Reads a duration such as `1h30m`: whole numbers of h, m, s and ms, largest first.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    for (unit, millis) in [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)] {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        let Some(after) = after.strip_prefix(unit).filter(|after| unit != "m" || !after.starts_with('s'))
        else {
            continue;
        };
        let number: u64 = number.parse().ok()?;
        total = total.checked_add(Duration::from_millis(number.checked_mul(millis)?))?;
        rest = after;
    }
    (rest.is_empty() && !text.is_empty()).then_some(total)
}
