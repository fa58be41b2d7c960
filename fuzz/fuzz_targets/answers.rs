//! Any bytes as the answer of AWS, or of a server in its place: each call succeeds or returns a fault with its class,
//! and never panics. No signature is accepted, the class is `Denied` only if the answer names an exception that means
//! it, and only licenses of the requested product and issuer are listed.
//!
//! The first byte chooses the operation; the rest is the answer, byte for byte. The credentials come from the
//! environment: `just fuzz` sets them.

#![no_main]

use std::sync::{Arc, LazyLock, Mutex};

use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tollgate_aws::licensing::{self, LicenseManager};
use tollgate_aws::{Aws, Settings};
use tollgate_marketplace::license::{
    CheckoutLicense, ConsumptionToken, ENTITLEMENTS_MAX, ListReceivedLicenses, QUANTITY_MAX,
};
use tollgate_marketplace::{
    BatchMeterUsage, Customer, FAULT_CODE_CHARS_MAX, Fault, FaultClass, Forward as _, HourUsage,
    KeyFingerprint, License as _, Meter as _, MeterUsage, Nonce, ProductId, PublicKeyVersion, Register as _,
    RegisterUsage, Resolve as _, Signing, UsageRecord, exceptions,
};
use tollgate_receipt::{Expected, PublicKey, verify};
use tollgate_time::Timestamp;

struct Stand {
    runtime: Runtime,
    listener: TcpListener,
    aws: Arc<Aws>,
    licenses: LicenseManager,
    key: PublicKey,
}

static STAND: LazyLock<Mutex<Stand>> = LazyLock::new(|| {
    assert!(
        std::env::var_os("AWS_ACCESS_KEY_ID").is_some(),
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
    let address = listener.local_addr().expect("it is bound");
    let aws = Arc::new(Aws::new(Settings {
        region: Some("us-east-1".parse().expect("a region")),
        endpoint_url: Some(format!("http://{address}")),
        imds_disabled: true,
        ..Settings::default()
    }));
    let licenses = LicenseManager::new(Arc::clone(&aws), licensing::Settings::default());
    let pem = include_bytes!("../../tests/fixtures/keys/rsa3072-test-only.pub.pem");
    let key = PublicKey::from_pem(pem).expect("the fixture is a key");
    Mutex::new(Stand { runtime, listener, aws, licenses, key })
});

fuzz_target!(|input: &[u8]| {
    let Some((operation, answer)) = input.split_first() else { return };
    let stand = STAND.lock().expect("one thread");
    let outcome = stand.runtime.block_on(async {
        tokio::select! {
            outcome = call(&stand, *operation) => outcome,
            () = serve(&stand.listener, answer) => unreachable!("it serves for ever"),
        }
    });
    if let Err(fault) = outcome {
        judge(&fault, answer);
    }
});

/// Answers every request with `answer`, one request a connection: a client that lists can ask for several pages.
async fn serve(listener: &TcpListener, answer: &[u8]) {
    'connections: loop {
        let (mut stream, _) = listener.accept().await.expect("the client connects");
        let mut request = Vec::new();
        let mut buffer = [0; 4096];
        while !whole(&request) {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => continue 'connections,
                Ok(n) => request.extend_from_slice(&buffer[..n]),
            }
        }
        let _ = stream.write_all(answer).await;
        let _ = stream.shutdown().await;
    }
}

fn whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head
        .lines()
        .find_map(|line| line.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    body.len() >= length.unwrap_or(0_usize)
}

async fn call(stand: &Stand, operation: u8) -> Result<(), Fault> {
    let product_code: tollgate_marketplace::ProductCode = "demohourly".parse().expect("a product code");
    let timestamp = Timestamp::from_unix_seconds(1_795_507_200);
    let quantity = "2.5".parse().expect("a quantity");
    let usage = HourUsage { quantity, decimal: true, ..HourUsage::zero(timestamp) };
    match operation % 9 {
        0 => {
            let nonce: Nonce = "fuzz-nonce".parse().expect("a nonce");
            let public_key_version = PublicKeyVersion::FIRST;
            let request = RegisterUsage {
                product_code: product_code.clone(),
                public_key_version,
                nonce: nonce.clone(),
            };
            let registered = stand.aws.register_usage(request, Signing::default()).await?;
            let expected = Expected {
                product_code: &product_code,
                public_key_version,
                nonce: &nonce,
                now: timestamp.into(),
                allow_emulated: true,
            };
            assert!(verify(&registered.signature, &stand.key, &expected).is_err(), "no key signed it");
        }
        1 => {
            let request = MeterUsage {
                product_code,
                dimension: "requests".to_owned(),
                usage,
                client_token: "token".to_owned(),
                dry_run: false,
                region: None,
            };
            stand.aws.meter_usage(request, Signing::default()).await?;
        }
        2 => {
            let record = |account: &str| UsageRecord {
                customer: Customer::Account { account_id: account.to_owned(), license_arn: None },
                dimension: "requests".to_owned(),
                usage: usage.clone(),
            };
            let request =
                BatchMeterUsage { product_code: None, records: vec![record("1"), record("2")], region: None };
            let metered = stand.aws.batch_meter_usage(request, Signing::default()).await?;
            assert_eq!(metered.statuses.len(), 2, "a status for each record");
        }
        3 => {
            stand.aws.resolve_customer("token".to_owned()).await?;
        }
        5 => {
            let request = ListReceivedLicenses { product_id: product_id(), key_fingerprint: ISSUER };
            let listed = stand.licenses.list_received_licenses(request, Signing::default()).await?;
            for license in listed.licenses {
                assert_eq!(license.product_id, product_id().as_str());
                assert_eq!(license.key_fingerprint, ISSUER.as_str());
                assert!(license.entitlements.len() <= ENTITLEMENTS_MAX);
            }
        }
        6 => {
            let request = CheckoutLicense {
                product_id: product_id(),
                key_fingerprint: ISSUER,
                entitlements: Vec::new(),
                client_token: "token".to_owned(),
            };
            let taken = stand.licenses.checkout_license(request, Signing::default()).await?;
            assert!(!taken.token.secret().is_empty() && taken.allowed.len() <= ENTITLEMENTS_MAX);
        }
        7 => {
            let token = ConsumptionToken::new("token".to_owned()).expect("a token");
            let extended = stand.licenses.extend_license_consumption(token, Signing::default()).await?;
            assert!(!extended.token.secret().is_empty());
        }
        8 => {
            let arn = "arn:aws:license-manager::294406891311:license:l-1".to_owned();
            let usage = stand.licenses.get_license_usage(arn, Signing::default()).await?;
            assert!(usage.entitlements.len() <= ENTITLEMENTS_MAX);
            assert!(usage.entitlements.iter().all(|part| part.consumed <= QUANTITY_MAX));
        }
        _ => {
            let forwarded =
                stand.aws.forward("AWSMPMeteringService.MeterUsage".to_owned(), b"{}".to_vec(), None).await?;
            assert!((100..1000).contains(&forwarded.status));
        }
    }
    Ok(())
}

const ISSUER: KeyFingerprint = KeyFingerprint::AWS_MARKETPLACE;

fn product_id() -> ProductId {
    "2205b290-19e6-4c76-9eea-377d6bf7141a".parse().expect("a product ID")
}

fn judge(fault: &Fault, answer: &[u8]) {
    let code = fault.code.as_str();
    assert!((1..=FAULT_CODE_CHARS_MAX).contains(&code.len()));
    assert!(code.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.'), "{code}");
    if fault.class == FaultClass::Denied {
        let answer_text = String::from_utf8_lossy(answer);
        let refusals = [exceptions::NOT_ENTITLED, exceptions::NO_ENTITLEMENTS, exceptions::NOT_FOUND];
        let named = refusals.iter().any(|name| answer_text.contains(name));
        // JSON may write any letter of the name as an escape.
        let escaped = answer.contains(&b'\\');
        assert!(named || escaped, "the class is Denied, but the answer has no such exception");
    }
}
