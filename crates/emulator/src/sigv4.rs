//! Signature Version 4: form, service, region and clock are always checked, the signature itself if the access key's
//! secret is known (AWS, "Create a signed AWS API request").

use hyper::header::HeaderMap;
use ring::{digest, hmac};
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};

use super::credentials::{Now, PREFIX, Session, Sessions};
use super::hash::hex;
use super::operation::ServiceError;
use super::world::{Secret, World};
use tollgate_time::Timestamp;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// How old a request may be, or how far ahead.
const SKEW_SECONDS_MAX: i64 = 300;

/// The signer of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Signer {
    /// The pod that the session was issued to, else the access key.
    pub(super) pod: String,
    pub(super) region: String,
    /// ARN and unique identifier of a role's session.
    pub(super) session: Option<[String; 2]>,
}

/// What a signature covers.
#[derive(Clone, Copy)]
pub(super) struct Signed<'a> {
    /// The service's name in the credential scope.
    pub(super) service: &'static str,
    pub(super) method: &'a str,
    /// Without characters that have to be encoded.
    pub(super) path: &'a str,
    pub(super) query: &'a str,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: &'a [u8],
    /// Signatures use the system's time.
    pub(super) now: Now,
}

/// The known secrets.
#[derive(Clone, Copy)]
pub(super) struct Keyring<'a> {
    pub(super) world: &'a World,
    pub(super) sessions: &'a Sessions,
    /// If set, every other access key is refused, except those of sessions and of pods with a secret.
    pub(super) only: Option<&'a (String, Secret)>,
}

/// The parsed `Authorization` header.
struct Authorization<'a> {
    access_key: &'a str,
    date: &'a str,
    region: &'a str,
    signed_headers: &'a str,
    signature: &'a str,
}

fn invalid(message: impl Into<String>) -> ServiceError {
    ServiceError::new("InvalidSignatureException", message)
}

fn incomplete(message: &str) -> ServiceError {
    ServiceError::new("IncompleteSignatureException", message)
}

fn unknown_key() -> ServiceError {
    ServiceError::new("UnrecognizedClientException", "The security token included in the request is invalid.")
}

/// The name of STS in a credential scope.
pub(super) const STS: &str = "sts";

/// Checks the `Authorization` of a request.
pub(super) fn check(signed: Signed<'_>, keyring: Keyring<'_>) -> Result<Signer, ServiceError> {
    let Some(text) = header(signed.headers, "authorization") else {
        return Err(ServiceError::new("MissingAuthenticationTokenException", "Missing Authentication Token"));
    };
    let authorization = Authorization::parse(text, signed.service)?;
    if !keyring.world.regions.contains(authorization.region) {
        let text = format!("Credential should be scoped to a valid region, not '{}'.", authorization.region);
        return Err(invalid(text));
    }
    let amz_date = header(signed.headers, "x-amz-date").ok_or_else(|| incomplete("X-Amz-Date is missing"))?;
    check_date(amz_date, authorization.date, signed.now.system)?;
    let names: Vec<&str> = authorization.signed_headers.split(';').collect();
    if !names.contains(&"host") || !names.contains(&"x-amz-date") {
        return Err(invalid("'Host' and 'X-Amz-Date' must be signed headers."));
    }
    if !names.is_sorted() {
        return Err(incomplete("SignedHeaders must be in the order of the alphabet"));
    }
    let session = session(signed, keyring, authorization.access_key)?;
    let secret = match session {
        Some(session) => Some(&session.secret),
        None => keyring.secret(authorization.access_key)?,
    };
    if let Some(secret) = secret {
        verify(signed, &authorization, &names, amz_date, secret)?;
    }
    let pod = session.map_or(authorization.access_key, |session| session.pod.as_str());
    Ok(Signer {
        pod: pod.to_owned(),
        region: authorization.region.to_owned(),
        session: session.map(|session| {
            let Session { name, role, .. } = session;
            [role.assumed(name), role.user_id(name)]
        }),
    })
}

impl<'a> Authorization<'a> {
    fn parse(text: &'a str, service: &str) -> Result<Self, ServiceError> {
        let form = || {
            incomplete(&format!(
                "Authorization must be AWS4-HMAC-SHA256 Credential=KEY/DATE/REGION/{service}/aws4_request, \
                 SignedHeaders=…, Signature=… with 64 hexadecimal digits"
            ))
        };
        let parameters = text.strip_prefix(ALGORITHM).ok_or_else(form)?;
        let parameter = |name: &str| {
            let mut all = parameters.split(',').map(str::trim);
            all.find_map(|part| part.strip_prefix(name)?.strip_prefix('=')).ok_or_else(form)
        };
        let (signed_headers, signature) = (parameter("SignedHeaders")?, parameter("Signature")?);
        // From the right: an access key may contain slashes, the other parts may not.
        let mut parts = parameter("Credential")?.rsplitn(5, '/');
        let (Some(end), Some(scope), Some(region), Some(date), Some(access_key)) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(form());
        };
        if end != "aws4_request" || access_key.is_empty() || access_key.len() > ACCESS_KEY_BYTES_MAX {
            return Err(form());
        }
        if scope != service {
            return Err(invalid(format!("Credential should be scoped to correct service: '{service}'.")));
        }
        if signature.len() != 64 || !signature.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(form());
        }
        Ok(Self { access_key, date, region, signed_headers, signature })
    }
}

/// AWS IAM API reference, AccessKeyId: 16 to 128 characters; shorter ones are accepted, as names of pods.
const ACCESS_KEY_BYTES_MAX: usize = 128;

/// The session of the access key, if the emulator issued it.
fn session<'a>(
    signed: Signed<'_>,
    keyring: Keyring<'a>,
    access_key: &str,
) -> Result<Option<&'a Session>, ServiceError> {
    let Some(session) = keyring.sessions.find(access_key) else {
        return if access_key.starts_with(PREFIX) { Err(unknown_key()) } else { Ok(None) };
    };
    if header(signed.headers, "x-amz-security-token") != Some(session.token.0.as_str()) {
        return Err(unknown_key());
    }
    if session.has_ended(signed.now) {
        let message = "The security token included in the request is expired";
        return Err(ServiceError::new("ExpiredTokenException", message));
    }
    Ok(Some(session))
}

impl<'a> Keyring<'a> {
    fn secret(self, access_key: &str) -> Result<Option<&'a Secret>, ServiceError> {
        if let Some((key, secret)) = self.only
            && key == access_key
        {
            return Ok(Some(secret));
        }
        let declared = self.world.pods.get(access_key).and_then(|pod| pod.secret_key.as_ref());
        if self.only.is_some() && declared.is_none() {
            return Err(unknown_key());
        }
        Ok(declared)
    }
}

fn check_date(amz_date: &str, scope_date: &str, now: Timestamp) -> Result<(), ServiceError> {
    let format = format_description!("[year][month][day]T[hour][minute][second]Z");
    let parsed = PrimitiveDateTime::parse(amz_date, format).ok().map(PrimitiveDateTime::assume_utc);
    let Some(at) = parsed.map(OffsetDateTime::unix_timestamp) else {
        return Err(incomplete("X-Amz-Date must be in ISO 8601 basic format, such as 20261124T080000Z"));
    };
    if amz_date.split('T').next() != Some(scope_date) {
        return Err(invalid("Date in Credential scope does not match X-Amz-Date."));
    }
    let age = now.unix_seconds() - at;
    if age > SKEW_SECONDS_MAX {
        return Err(invalid(format!("Signature expired: {amz_date} is {age} s old")));
    }
    if age < -SKEW_SECONDS_MAX {
        return Err(invalid(format!("Signature not yet current: {amz_date} is {} s in the future", -age)));
    }
    Ok(())
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn verify(
    signed: Signed<'_>,
    authorization: &Authorization<'_>,
    names: &[&str],
    amz_date: &str,
    secret: &Secret,
) -> Result<(), ServiceError> {
    let canonical = canonical_request(signed, names, authorization.signed_headers)
        .ok_or_else(|| invalid("A header that SignedHeaders names is missing or not text."))?;
    let Authorization { date, region, .. } = authorization;
    let text = format!(
        "{ALGORITHM}\n{amz_date}\n{date}/{region}/{}/aws4_request\n{}",
        signed.service,
        hex(digest::digest(&digest::SHA256, canonical.as_bytes()))
    );
    let key = hmac::Key::new(hmac::HMAC_SHA256, &signing_key(&secret.0, [*date, *region, signed.service]));
    let same = hmac::verify(&key, text.as_bytes(), &unhex(authorization.signature));
    same.map_err(|_| {
        invalid(
            "The request signature we calculated does not match the signature you provided. Check your AWS Secret \
             Access Key and signing method.",
        )
    })
}

/// The canonical request.
fn canonical_request(signed: Signed<'_>, names: &[&str], signed_headers: &str) -> Option<String> {
    let mut query: Vec<&str> = signed.query.split('&').filter(|pair| !pair.is_empty()).collect();
    query.sort_unstable();
    let mut canonical = format!("{}\n{}\n{}\n", signed.method, signed.path, query.join("&"));
    for name in names {
        let values = signed.headers.get_all(*name);
        let values: Option<Vec<String>> =
            values.iter().map(|value| Some(squeezed(value.to_str().ok()?))).collect();
        let values = values.filter(|values| !values.is_empty())?;
        canonical.push_str(&format!("{name}:{}\n", values.join(",")));
    }
    let payload = hex(digest::digest(&digest::SHA256, signed.body));
    canonical.push_str(&format!("\n{signed_headers}\n{payload}"));
    Some(canonical)
}

/// Removes blanks at the ends and repeated blanks.
fn squeezed(value: &str) -> String {
    value.split(' ').filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

fn sign(key: &[u8], message: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message)
}

fn signing_key(secret: &str, scope: [&str; 3]) -> Vec<u8> {
    let mut key = format!("AWS4{secret}").into_bytes();
    for part in scope.into_iter().chain(["aws4_request"]) {
        key = sign(&key, part.as_bytes()).as_ref().to_vec();
    }
    key
}

/// The bytes of an even number of hexadecimal digits.
fn unhex(text: &str) -> Vec<u8> {
    let digit =
        |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok()).unwrap_or(0);
    text.as_bytes()
        .chunks(2)
        .map(|pair| pair.iter().fold(0, |byte, digits| byte << 4 | digit(*digits)))
        .collect()
}

#[cfg(test)]
mod tests;
