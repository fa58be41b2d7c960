//! Signature Version 4 as the service checks it: always for form, service and clock, and for truth where the secret of
//! the access key is known (AWS, "Create a signed AWS API request").

use std::collections::HashMap;

use hyper::header::HeaderMap;
use ring::{digest, hmac};
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};

use super::wire::ServiceError;
use crate::clock::Timestamp;

/// The service's name in every credential scope.
const SERVICE: &str = "aws-marketplace";

/// How old a request may be.
const SKEW_SECONDS_MAX: i64 = 300;

/// Who signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Signer {
    pub(super) access_key: String,
    pub(super) region: String,
}

/// What a signature covers.
pub(super) struct Signed<'a> {
    pub(super) headers: &'a HeaderMap,
    pub(super) body: &'a [u8],
    /// The system's time: signatures are always about the real one.
    pub(super) now: Timestamp,
}

/// Checks the `Authorization` of a `POST /`.
pub(super) fn check(signed: &Signed<'_>, secrets: &HashMap<String, String>) -> Result<Signer, ServiceError> {
    let invalid = |message: &str| ServiceError::new("InvalidSignatureException", message);
    let Some(authorization) = header(signed.headers, "authorization") else {
        return Err(ServiceError::new("MissingAuthenticationTokenException", "Missing Authentication Token"));
    };
    let incomplete = || {
        ServiceError::new(
            "IncompleteSignatureException",
            "Authorization must be AWS4-HMAC-SHA256 with Credential, SignedHeaders and Signature",
        )
    };
    let parameters = authorization.strip_prefix("AWS4-HMAC-SHA256").ok_or_else(incomplete)?;
    let parameter = |name: &str| {
        let mut all = parameters.split(',').map(str::trim);
        all.find_map(|part| part.strip_prefix(name)?.strip_prefix('=')).ok_or_else(incomplete)
    };
    let (credential, signed_headers, signature) =
        (parameter("Credential")?, parameter("SignedHeaders")?, parameter("Signature")?);
    let scope: Vec<&str> = credential.split('/').collect();
    let [access_key, date, region, service, terminator] = scope[..] else { return Err(incomplete()) };
    if terminator != "aws4_request" || access_key.is_empty() || region.is_empty() {
        return Err(incomplete());
    }
    if service != SERVICE {
        return Err(invalid("Credential should be scoped to correct service: 'aws-marketplace'."));
    }
    let amz_date = header(signed.headers, "x-amz-date").ok_or_else(incomplete)?;
    check_date(amz_date, date, signed.now)?;
    let names: Vec<&str> = signed_headers.split(';').collect();
    if !names.contains(&"host") || !names.contains(&"x-amz-date") {
        return Err(invalid("'Host' and 'X-Amz-Date' must be signed headers."));
    }
    if !secrets.is_empty() {
        let Some(secret) = secrets.get(access_key) else {
            return Err(ServiceError::new(
                "UnrecognizedClientException",
                "The security token included in the request is invalid.",
            ));
        };
        let canonical = canonical_request(signed, &names, signed_headers).ok_or_else(incomplete)?;
        let scope = format!("{date}/{region}/{SERVICE}/aws4_request");
        let text = format!(
            "AWS4-HMAC-SHA256\n{amz_date}\n{scope}\n{}",
            hex(digest::digest(&digest::SHA256, canonical.as_bytes()))
        );
        let tag = sign(&signing_key(secret, date, region), text.as_bytes());
        // The secret is the test's own; there is nobody to time this.
        if hex(tag) != signature {
            return Err(invalid(
                "The request signature we calculated does not match the signature you provided. Check your AWS Secret \
                 Access Key and signing method.",
            ));
        }
    } else if signature.len() != 64 || !signature.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(incomplete());
    }
    Ok(Signer { access_key: access_key.to_owned(), region: region.to_owned() })
}

fn check_date(amz_date: &str, scope_date: &str, now: Timestamp) -> Result<(), ServiceError> {
    let format = format_description!("[year][month][day]T[hour][minute][second]Z");
    let parsed = PrimitiveDateTime::parse(amz_date, format).ok().map(PrimitiveDateTime::assume_utc);
    let Some(at) = parsed.map(OffsetDateTime::unix_timestamp) else {
        return Err(ServiceError::new(
            "IncompleteSignatureException",
            "X-Amz-Date must be in ISO 8601 basic format",
        ));
    };
    if !amz_date.starts_with(scope_date) {
        return Err(ServiceError::new(
            "InvalidSignatureException",
            "Date in Credential scope does not match X-Amz-Date.",
        ));
    }
    let age = now.unix_seconds() - at;
    if age > SKEW_SECONDS_MAX {
        return Err(ServiceError::new(
            "InvalidSignatureException",
            format!("Signature expired: {amz_date} is {age} s old"),
        ));
    }
    if age < -SKEW_SECONDS_MAX {
        let text = format!("Signature not yet current: {amz_date} is {} s in the future", -age);
        return Err(ServiceError::new("InvalidSignatureException", text));
    }
    Ok(())
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The canonical request of a `POST /` without a query.
fn canonical_request(signed: &Signed<'_>, names: &[&str], signed_headers: &str) -> Option<String> {
    let mut canonical = "POST\n/\n\n".to_owned();
    for name in names {
        let value = header(signed.headers, name)?;
        let squeezed: Vec<&str> = value.split_ascii_whitespace().collect();
        canonical.push_str(&format!("{name}:{}\n", squeezed.join(" ")));
    }
    let payload = hex(digest::digest(&digest::SHA256, signed.body));
    canonical.push_str(&format!("\n{signed_headers}\n{payload}"));
    Some(canonical)
}

fn sign(key: &[u8], message: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message)
}

fn signing_key(secret: &str, date: &str, region: &str) -> Vec<u8> {
    let mut key = format!("AWS4{secret}").into_bytes();
    for part in [date, region, SERVICE, "aws4_request"] {
        key = sign(&key, part.as_bytes()).as_ref().to_vec();
    }
    key
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
