//! The bucket, the nonces, and what becomes of a call whose asker has gone.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

use super::*;
use crate::entitlement;
use tollgate_marketplace::{
    BatchMeterUsage, BatchMetered, BoxFuture, Forwarded, Identified, MeterUsage, Metered, Region, Registered,
    ResolvedCustomer,
};
use tollgate_receipt::PublicKey;
use tollgate_time::Timestamp;

/// Counts its calls and answers each as told, once it may.
struct Service {
    calls: AtomicUsize,
    reloads: AtomicUsize,
    may_answer: Notify,
    class: FaultClass,
}

impl Metering for Service {
    fn register_usage(&self, _: RegisterUsage, signing: Signing) -> BoxFuture<'_, Result<Registered, Fault>> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.reloads.fetch_add(usize::from(signing.reload_credentials), Ordering::Relaxed);
        Box::pin(async {
            self.may_answer.notified().await;
            Err(Fault::local(self.class, "TestException", ""))
        })
    }

    fn meter_usage(&self, _: MeterUsage, _: Signing) -> BoxFuture<'_, Result<Metered, Fault>> {
        unreachable!("an attestation meters nothing")
    }

    fn batch_meter_usage(
        &self,
        _: BatchMeterUsage,
        _: Signing,
    ) -> BoxFuture<'_, Result<BatchMetered, Fault>> {
        unreachable!("an attestation meters nothing")
    }

    fn resolve_customer(&self, _: String) -> BoxFuture<'_, Result<ResolvedCustomer, Fault>> {
        unreachable!("an attestation resolves nobody")
    }

    fn identify(&self, _: Signing) -> BoxFuture<'_, Result<Identified, Fault>> {
        unreachable!("an attestation asks RegisterUsage alone")
    }

    fn forward(&self, _: String, _: Vec<u8>, _: Option<Region>) -> BoxFuture<'_, Result<Forwarded, Fault>> {
        unreachable!("an attestation forwards nothing")
    }

    fn region(&self) -> Option<Region> {
        None
    }
}

fn attestation(class: FaultClass) -> (Arc<Attestation>, Arc<Service>) {
    let service = Arc::new(Service {
        calls: AtomicUsize::new(0),
        reloads: AtomicUsize::new(0),
        may_answer: Notify::new(),
        class,
    });
    let mut keys = KeyRing::default();
    let pem = include_bytes!("../../../tests/fixtures/keys/rsa3072-test-only.pub.pem");
    keys.insert(PublicKeyVersion::FIRST, PublicKey::from_pem(pem).unwrap());
    let now = Timestamp::from_unix_seconds(1_795_507_200);
    let attestation = Attestation {
        aws: Arc::clone(&service) as Arc<dyn Metering>,
        product_code: "demohourly".parse().unwrap(),
        keys,
        allow_emulated: false,
        entitlement: entitlement::channel(now).1,
        clock: WallClock::fixed(now),
        metrics: Arc::new(Metrics::new()),
        calls: Calls::default(),
    };
    (Arc::new(attestation), service)
}

const QUESTION: &[u8] = br#"{"nonce":"asked-and-hung-up"}"#;

/// Lets every task run until it waits.
async fn settle() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn hanging_up_and_asking_again_is_still_one_call_and_leaves_nothing_behind() {
    let (attestation, service) = attestation(FaultClass::Denied);
    for _ in 0..20 {
        let asked = tokio::spawn({
            let attestation = Arc::clone(&attestation);
            async move { attestation.attest(QUESTION).await }
        });
        settle().await;
        asked.abort();
        assert!(asked.await.is_err());
    }
    assert_eq!(service.calls.load(Ordering::Relaxed), 1);
    service.may_answer.notify_one();
    settle().await;
    assert!(
        attestation.calls.in_flight.lock().unwrap().is_empty(),
        "a call that nobody waits for is forgotten"
    );
}

#[tokio::test(start_paused = true)]
async fn the_answer_goes_to_everybody_who_asked_with_the_nonce() {
    let (attestation, service) = attestation(FaultClass::Denied);
    let ask = || {
        let attestation = Arc::clone(&attestation);
        tokio::spawn(async move { attestation.attest(QUESTION).await.status() })
    };
    let askers: Vec<_> = (0..4).map(|_| ask()).collect();
    settle().await;
    service.may_answer.notify_one();
    for asker in askers {
        assert_eq!(asker.await.unwrap(), StatusCode::FORBIDDEN);
    }
    assert_eq!(service.calls.load(Ordering::Relaxed), 1);
}

/// An open gate asks no more: an expired session would stay expired.
#[tokio::test(start_paused = true)]
async fn an_expired_session_is_renewed_and_asked_with_once_more() {
    let (attestation, service) = attestation(FaultClass::ExpiredSession);
    let asked = tokio::spawn({
        let attestation = Arc::clone(&attestation);
        async move { attestation.attest(QUESTION).await.status() }
    });
    for _ in 0..2 {
        settle().await;
        service.may_answer.notify_one();
    }
    assert_eq!(asked.await.unwrap(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!((service.calls.load(Ordering::Relaxed), service.reloads.load(Ordering::Relaxed)), (2, 1));
}

#[test]
fn nonces_are_long_enough_and_printable() {
    assert!(is_nonce(&"n".repeat(16)) && is_nonce(&"~ !".repeat(85)));
    for bad in ["short", &"n".repeat(256), "sixteen or more\n", "sechzehn oder mehr ü"] {
        assert!(!is_nonce(bad), "{bad}");
    }
}
