//! Any bytes sent to the application's server, with a ledger, attestations and the AWS door: each status is an expected
//! one, the runbook has a section for the code of each error, requests of web pages are refused, and the ledger
//! balances.

#![no_main]

use std::net::Ipv6Addr;
use std::sync::{Arc, LazyLock, Mutex, OnceLock};
use std::time::Duration;

use conversation::{Server, folder};
use libfuzzer_sys::fuzz_target;
use tollgate::api::attestation::{Attestation, Calls, registrations};
use tollgate::api::door::Door;
use tollgate::api::license::LicensePart;
use tollgate::api::usage::{OpenLedger, UsagePart};
use tollgate::api::{AppServer, BODIES_BYTES_MAX, LIMITS};
use tollgate::entitlement::{self, Documents, Subject, refusal_update};
use tollgate::metrics::Metrics;
use tollgate::usage::commits::Commits;
use tollgate::usage::intake::{Activity, Intake};
use tollgate::usage::notice::Notices;
use tollgate_clock::WallClock;
use tollgate_http::BodyBudget;
use tollgate_ledger::store::Store;
use tollgate_ledger::writer::Writer;
use tollgate_ledger::{Ledger, LedgerSettings};
use tollgate_marketplace::service::{BoxFuture, ServiceFuture};
use tollgate_marketplace::{
    Fault, FaultClass, Forward, Forwarded, Identified, Region, Regional, Register, RegisterUsage, Registered,
    Resolve, ResolvedCustomer, Signing,
};
use tollgate_metering::aggregation;
use tollgate_metering::event::Rules;
use tollgate_metering::policy::Window;
use tollgate_receipt::{KeyRing, PublicKey};
use tollgate_time::Timestamp;

/// An AWS that refuses everything except forwarded calls.
struct Refusing;

fn refused<T: Send + 'static>() -> ServiceFuture<'static, T> {
    Box::pin(async { Err(Fault::local(FaultClass::Denied, "CustomerNotEntitledException", "fuzz")) })
}

impl Regional for Refusing {
    fn region(&self) -> Option<Region> {
        None
    }
}

impl Register for Refusing {
    fn register_usage(&self, _: RegisterUsage, _: Signing) -> ServiceFuture<'_, Registered> {
        refused()
    }

    fn identify(&self, _: Signing) -> ServiceFuture<'_, Identified> {
        refused()
    }

    fn clock_skew(&self) -> Option<i64> {
        None
    }

    fn clock_skew_changed(&self, _: Option<i64>) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }
}

impl Resolve for Refusing {
    fn resolve_customer(&self, _: String) -> ServiceFuture<'_, ResolvedCustomer> {
        refused()
    }
}

impl Forward for Refusing {
    fn forward(&self, _: String, body: Vec<u8>, _: Option<Region>) -> ServiceFuture<'_, Forwarded> {
        // AWS's answer can have any body: here it is that of the request.
        let headers = vec![("x-amzn-requestid".to_owned(), "fuzz".to_owned())];
        Box::pin(async { Ok(Forwarded { status: 200, headers, body }) })
    }
}

struct Stand {
    server: Server,
    writer: Writer,
    runs: u64,
}

static STAND: LazyLock<Mutex<Stand>> = LazyLock::new(|| {
    let now = Timestamp::from_unix_seconds(1_795_507_200);
    let (clock, metrics) = (WallClock::fixed(now), Arc::new(Metrics::new()));
    let state = folder().join(format!("tollgate-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&state).expect("a folder");
    let settings = LedgerSettings {
        product: "demometered".to_owned(),
        pod: "fuzz".to_owned(),
        settle: Duration::from_secs(120),
        bytes_max: 64 << 20,
        started_at: now,
        zero_dimensions: Vec::new(),
        aws_door: true,
        idempotency_window: Duration::from_secs(48 * 3600),
        rules: aggregation::Rules::default(),
    };
    let ledger = Ledger::open(&state, settings).expect("a new ledger");
    // The writer starts inside the server's runtime, since it wakes tasks of that runtime.
    let kept = Arc::new(OnceLock::new());
    let keep = Arc::clone(&kept);
    let server = Server::start("app", LIMITS, move || {
        let writer = Writer::start(ledger, clock.clone(), Commits::new(Arc::clone(&metrics), 1 << 30))
            .expect("a thread");
        let _ = keep.set(writer.clone());
        handler(&writer, clock, metrics, now)
    });
    let writer = kept.get().cloned().expect("the server has started");
    Mutex::new(Stand { server, writer, runs: 0 })
});

fn handler(writer: &Writer, clock: WallClock, metrics: Arc<Metrics>, now: Timestamp) -> AppServer {
    let aws = Arc::new(Refusing);
    let (publisher, entitlement) = entitlement::channel(now);
    // Not dropped: the entitlement stays as it is while the process runs.
    std::mem::forget(publisher);
    let open = Arc::new(OnceLock::new());
    let notices = Notices::new(Arc::clone(&metrics));
    let store: Arc<dyn Store> = Arc::new(writer.clone());
    let intake = Intake::new(
        Rules::default(),
        Arc::clone(&store),
        clock.clone(),
        Arc::clone(&metrics),
        notices.clone(),
    );
    let _ = open.set(OpenLedger { intake, store, file: Some(writer.clone()) });
    let (refusal_sender, _) = refusal_update::channel();
    let usage = UsagePart {
        ledger: open,
        activity: Activity::new(),
        aws: Some(Arc::clone(&aws) as Arc<dyn Resolve>),
        entitlements: None,
        sold: Some("demohourly".parse().expect("a product code")),
        refusal_sender,
        clock: clock.clone(),
        window: Window::MeterUsage,
        repairs: tollgate::api::repair::Repairs { allowed: true, ..Default::default() },
        notices: notices.clone(),
        metrics: Arc::clone(&metrics),
        lists: Arc::default(),
    };
    let mut keys = KeyRing::default();
    let pem = include_bytes!("../../tests/fixtures/keys/rsa3072-test-only.pub.pem");
    keys.insert("1".parse().expect("a version"), PublicKey::from_pem(pem).expect("the fixture is a key"));
    let product_code: tollgate_marketplace::ProductCode = "demohourly".parse().expect("a product code");
    let subject =
        Subject { mode: "metered", product_code: Some(product_code.clone()), product_id: None, pod: None };
    AppServer {
        room: BodyBudget::new(BODIES_BYTES_MAX),
        documents: Documents::new(Arc::new(subject), entitlement.clone(), clock.clone()),
        token: None,
        usage: Some(usage.clone()),
        attestation: Some(Arc::new(Attestation {
            aws: Arc::clone(&aws) as Arc<dyn Register>,
            product_code,
            keys,
            allow_emulated: false,
            entitlement,
            clock: clock.clone(),
            metrics: Arc::clone(&metrics),
            calls: Calls::default(),
        })),
        door: Some(Door::new(
            aws,
            Some(usage),
            "demometered".parse().expect("a product code"),
            registrations(),
            clock,
            notices,
        )),
        license: Some(LicensePart { knowledge: tollgate::license::knowledge::channel().1, model: "check" }),
        quit: None,
    }
}

/// Runs between two checks of the whole ledger.
const LOOK_EVERY: u64 = 256;

fuzz_target!(|input: &[u8]| {
    let mut stand = STAND.lock().expect("one thread");
    stand.runs += 1;
    if let Some((sent, answer)) = stand.server.ask(input) {
        judge(&sent, &answer);
    }
    if stand.runs.is_multiple_of(LOOK_EVERY) {
        let writer = stand.writer.clone();
        let totals = stand.server.run(async move { writer.with(|ledger| ledger.totals()).await });
        assert!(totals.expect("the ledger is read").values().all(|totals| totals.balances()));
    }
});

fn judge(sent: &conversation::Sent, answer: &conversation::Answer) {
    assert!(
        matches!(
            answer.status,
            200 | 202 | 400 | 403 | 404 | 405 | 408 | 409 | 413 | 414 | 415 | 429 | 431 | 503
        ),
        "{} for {}",
        answer.status,
        sent.method
    );
    let of = |name: &'static str| {
        sent.headers.iter().filter(move |(n, _)| n == name).map(|(_, value)| value.as_str())
    };
    let foreign = of("host").any(|host| {
        // An IPv6 address has many texts: `[::01]` is `[::1]`.
        let bracketed = host.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        let loopback =
            bracketed.is_some_and(|(ip, _)| ip.parse::<Ipv6Addr>().is_ok_and(|ip| ip.is_loopback()));
        !host.starts_with("localhost")
            && !host.starts_with("127.")
            && !loopback
            && !host.eq_ignore_ascii_case("localhost")
            && !host.to_ascii_lowercase().starts_with("localhost:")
            && !host.starts_with("::1")
    });
    if foreign || of("origin").next().is_some() {
        assert!(
            matches!(answer.status, 400 | 403 | 414 | 431),
            "{} for a request of a web page: {:?}",
            answer.status,
            sent.headers
        );
    }
    if answer.head.contains("application/problem+json") && sent.method != "HEAD" {
        let problem = String::from_utf8_lossy(&answer.body);
        let code = problem.split_once("\"code\":\"").and_then(|(_, rest)| rest.split_once('"'));
        let code = code.map(|(code, _)| code).expect("a problem has a code");
        let runbook = include_str!("../../docs/RUNBOOK.md");
        assert!(runbook.contains(&format!("\n### {code}\n")), "{code}");
    }
}
