//! Any bytes sent to the probe server: each status is an expected one, never a panic, and the gate stays shut.

#![no_main]

use std::sync::{Arc, LazyLock, Mutex};

use conversation::Server;
use libfuzzer_sys::fuzz_target;
use tollgate::entitlement::{self, Documents, Subject};
use tollgate::metrics::Metrics;
use tollgate::probe::{LIMITS, ProbeServer};
use tollgate_clock::WallClock;
use tollgate_time::Timestamp;

static SERVER: LazyLock<Mutex<Server>> = LazyLock::new(|| {
    Mutex::new(Server::start("probe", LIMITS, || {
        let now = Timestamp::from_unix_seconds(1_795_507_200);
        let (publisher, entitlement) = entitlement::channel(now);
        // Not dropped: the entitlement stays as it is while the process runs.
        std::mem::forget(publisher);
        let product_code = Some("demohourly".parse().expect("a product code"));
        let subject = Subject { mode: "hourly", product_code, product_id: None, pod: Some("pod".to_owned()) };
        let documents = Documents::new(Arc::new(subject), entitlement, WallClock::fixed(now));
        ProbeServer::new(documents, Arc::new(Metrics::new()))
    }))
});

fuzz_target!(|input: &[u8]| {
    let server = SERVER.lock().expect("one thread");
    let Some((sent, answer)) = server.ask(input) else { return };
    assert!(
        matches!(answer.status, 200 | 400 | 404 | 405 | 413 | 414 | 431 | 503),
        "{} for {}",
        answer.status,
        sent.method
    );
    if matches!(answer.status, 200 | 404 | 405 | 503) {
        assert!(answer.head.contains("cache-control: no-store"), "{}", answer.head);
    }
    // No request opens the gate.
    assert!(!String::from_utf8_lossy(&answer.body).contains("\"gate\":\"open\""));
});
