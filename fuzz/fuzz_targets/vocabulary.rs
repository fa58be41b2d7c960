//! The newtypes of `tollgate-marketplace`, and timestamps: no text makes their parsers panic, and each value that they
//! return is as its type documents.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tollgate_marketplace::{
    FAULT_CODE_CHARS_MAX, FaultCode, NONCE_CHARS_MAX, Nonce, PRODUCT_CODE_CHARS_MAX, ProductCode,
    PublicKeyVersion, Region,
};
use tollgate_time::Timestamp;

fuzz_target!(|text: &str| {
    if let Ok(code) = text.parse::<ProductCode>() {
        assert_eq!(code.to_string(), text);
        assert!((1..=PRODUCT_CODE_CHARS_MAX).contains(&text.len()));
    }
    if let Ok(version) = text.parse::<PublicKeyVersion>() {
        assert_eq!(version.to_string(), text, "one version has two spellings");
        assert!(version.value() >= 1);
    }
    if let Ok(nonce) = text.parse::<Nonce>() {
        assert_eq!(nonce.as_str(), text);
        assert!((1..=NONCE_CHARS_MAX).contains(&text.chars().count()));
        assert!(!format!("{nonce:?}").contains(text) || "Nonce(…)".contains(text), "the nonce is not hidden");
    }
    if let Ok(region) = text.parse::<Region>() {
        // A region becomes a label of a host name, so no character in it may end the label.
        assert!(region.as_str().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
        // RFC 1035, section 2.3.4.
        assert!(text.len() <= 63);
    }
    let fault = FaultCode::from_wire(text);
    assert!((1..=FAULT_CODE_CHARS_MAX).contains(&fault.as_str().len()));
    assert_eq!(FaultCode::from_wire(fault.as_str()), fault, "reading a code twice changes it");
    if let Some(at) = Timestamp::parse(text) {
        let seconds = Timestamp::from_unix_seconds(at.unix_seconds());
        assert_eq!(Timestamp::parse(&seconds.to_string()), Some(seconds));
    }
});
