//! The bucket, the nonces, and what becomes of a call whose client disconnected.

use super::*;
use crate::entitlement;
use tollgate_marketplace::scripted::{Act, Scripted};
use tollgate_receipt::PublicKey;
use tollgate_time::Timestamp;

/// How long AWS takes to answer.
const CALL: Duration = Duration::from_secs(1);

fn attestation(class: FaultClass) -> (Arc<Attestation>, Arc<Scripted>) {
    let service = Arc::new(Scripted::always(Act::Fail(class, "TestException")).taking(CALL));
    let mut keys = KeyRing::default();
    let pem = include_bytes!("../../../tests/fixtures/keys/rsa3072-test-only.pub.pem");
    keys.insert(PublicKeyVersion::FIRST, PublicKey::from_pem(pem).unwrap());
    let now = Timestamp::from_unix_seconds(1_795_507_200);
    let attestation = Attestation {
        aws: Arc::clone(&service) as Arc<dyn Register>,
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
    assert_eq!(service.calls().len(), 1);
    tokio::time::sleep(CALL).await;
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
    for asker in askers {
        assert_eq!(asker.await.unwrap(), StatusCode::FORBIDDEN);
    }
    assert_eq!(service.calls().len(), 1);
}

/// No other part calls AWS while the gate is open, so no other part would renew an expired session.
#[tokio::test(start_paused = true)]
async fn an_expired_session_is_renewed_and_asked_with_once_more() {
    let (attestation, service) = attestation(FaultClass::ExpiredSession);
    assert_eq!(attestation.attest(QUESTION).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    let reloads: Vec<bool> = service.calls().iter().map(|call| call.signing.reload_credentials).collect();
    assert_eq!(reloads, [false, true]);
}

#[test]
fn nonces_are_long_enough_and_printable() {
    assert!(is_nonce(&"n".repeat(16)) && is_nonce(&"~ !".repeat(85)));
    for bad in ["short", &"n".repeat(256), "sixteen or more\n", "sechzehn oder mehr ü"] {
        assert!(!is_nonce(bad), "{bad}");
    }
}
