//! Web identity tokens for STS: an OIDC provider's JWT (OpenID Connect Core 1.0, section 2), such as the projected
//! service account token of a pod.
//!
//! - With the provider's keys (a JWKS, RFC 7517), issuer, audience, expiry and signature are verified; RS256 and ES256
//!   are the algorithms that STS documents and clusters use.
//! - Without keys every well-formed token is accepted; the start, `/_emulator/world` and the page say so.
//! - Tokens come from outside: their times are compared with the system's clock, never with the emulated one.

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde_json::Value;

use super::operation::ServiceError;
use tollgate_disk::{Links, describe, read_regular};
use tollgate_http::client;
use tollgate_time::Timestamp;

/// Which tokens STS accepts.
#[derive(Debug, Clone)]
pub struct WebIdentity {
    /// The provider's public keys.
    pub keys: Jwks,
    /// The required `iss`; without it any.
    pub issuer: Option<String>,
    /// The required `aud`.
    pub audience: String,
}

/// A JSON Web Key Set, read again for each token, because clusters rotate their keys.
#[derive(Debug, Clone)]
pub enum Jwks {
    /// A file.
    File(PathBuf),
    /// A plain `http://` URL.
    Url(String),
}

impl Jwks {
    /// Parses a file's path or a URL.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with("https://") {
            let hint = "fetch it into a file (kubectl get --raw /openid/v1/jwks) and name that";
            return Err(format!("the emulator speaks plain HTTP only; {hint}"));
        }
        if text.is_empty() {
            return Err("name a file or an http:// URL".to_owned());
        }
        Ok(if text.starts_with("http://") { Self::Url(text.to_owned()) } else { Self::File(text.into()) })
    }

    async fn read(&self) -> Result<Vec<Key>, String> {
        let bytes = match self {
            // Kubernetes mounts files as links.
            Self::File(path) => read_regular(path, KEYS_BYTES_MAX, Links::Follow)
                .map_err(|error| format!("{}: {}", path.display(), describe(&error)))?,
            Self::Url(url) => {
                let answer = client::get_url(url, KEYS_TIMEOUT).await.map_err(|error| error.to_string())?;
                if !answer.status().is_success() {
                    return Err(format!("{url} answers {}", answer.status()));
                }
                answer.into_body().to_vec()
            }
        };
        parse_keys(&bytes)
    }
}

/// The provider's keys are on the same machine or in the same cluster.
const KEYS_TIMEOUT: Duration = Duration::from_secs(2);

/// Largest key set: one key takes half a kilobyte.
const KEYS_BYTES_MAX: usize = 1 << 20;

/// A public key of the provider.
#[derive(Debug)]
struct Key {
    id: Option<String>,
    kind: KeyKind,
}

#[derive(Debug)]
enum KeyKind {
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
    /// The point, uncompressed.
    P256(Vec<u8>),
}

/// Keys of other kinds are ignored, as RFC 7517, section 5, requires.
fn parse_keys(bytes: &[u8]) -> Result<Vec<Key>, String> {
    let set: Value = serde_json::from_slice(bytes).map_err(|error| format!("no JSON: {error}"))?;
    let keys = set["keys"].as_array().ok_or("no JSON Web Key Set: it has no \"keys\"")?;
    Ok(keys.iter().filter_map(key).collect())
}

fn key(jwk: &Value) -> Option<Key> {
    let bytes = |name: &str| URL_SAFE_NO_PAD.decode(jwk[name].as_str()?).ok();
    let kind = match (jwk["kty"].as_str()?, jwk["crv"].as_str()) {
        ("RSA", _) => KeyKind::Rsa { modulus: bytes("n")?, exponent: bytes("e")? },
        ("EC", Some("P-256")) => KeyKind::P256([vec![4], bytes("x")?, bytes("y")?].concat()),
        _ => return None,
    };
    Some(Key { id: jwk["kid"].as_str().map(str::to_owned), kind })
}

impl Key {
    fn verifies(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> bool {
        match (&self.kind, algorithm) {
            (KeyKind::Rsa { modulus, exponent }, "RS256") => {
                let key = RsaPublicKeyComponents { n: modulus, e: exponent };
                key.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature).is_ok()
            }
            (KeyKind::P256(point), "ES256") => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature).is_ok()
            }
            _ => false,
        }
    }
}

/// A parsed token that is not verified.
#[derive(Debug)]
pub(super) struct Token<'a> {
    header: Value,
    claims: Value,
    /// The signed part.
    message: &'a str,
    signature: Vec<u8>,
}

impl<'a> Token<'a> {
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let (message, signature) = text.rsplit_once('.')?;
        let (header, claims) = message.split_once('.')?;
        let json = |part: &str| -> Option<Value> {
            let value: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()?;
            value.is_object().then_some(value)
        };
        Some(Self {
            header: json(header)?,
            claims: json(claims)?,
            message,
            signature: URL_SAFE_NO_PAD.decode(signature).ok()?,
        })
    }

    /// The token without its signature, which may be shown.
    pub(super) const fn shown(&self) -> &'a str {
        self.message
    }

    fn text(&self, name: &str) -> &str {
        self.claims[name].as_str().unwrap_or_default()
    }

    pub(super) fn subject(&self) -> &str {
        self.text("sub")
    }

    pub(super) fn issuer(&self) -> &str {
        self.text("iss")
    }

    /// `aud` is one text or a list of them (RFC 7519, section 4.1.3).
    pub(super) fn audiences(&self) -> Vec<&str> {
        match &self.claims["aud"] {
            Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
            one => one.as_str().into_iter().collect(),
        }
    }

    /// The pod that a cluster's token is bound to (Kubernetes, "Managing Service Accounts", bound tokens): its name,
    /// and the beginning of its UID, because a recreated pod of a StatefulSet has the same name but is another pod.
    pub(super) fn pod(&self) -> Option<String> {
        let pod = &self.claims["kubernetes.io"]["pod"];
        let (name, uid) = (pod["name"].as_str()?, pod["uid"].as_str()?);
        let uid: String = uid.chars().take(UID_CHARS).collect();
        let plain = |text: &str| {
            !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || ".-".contains(c))
        };
        (plain(name) && plain(&uid) && name.len() <= POD_NAME_CHARS_MAX).then(|| format!("{name}.{uid}"))
    }
}

/// Characters of a UID: enough to distinguish two pods with the same name.
const UID_CHARS: usize = 8;

/// Longest name of a pod (Kubernetes, "Object Names and IDs": a DNS subdomain name).
const POD_NAME_CHARS_MAX: usize = 253;

fn invalid(message: impl Into<String>) -> ServiceError {
    ServiceError::new("InvalidIdentityToken", message)
}

/// STS's error for a text that is not a JWT.
pub(super) fn malformed() -> ServiceError {
    invalid("The ID Token provided is not a valid JWT. (You may see this error if you sent an Access Token)")
}

impl WebIdentity {
    /// Verifies a token.
    pub(super) async fn verify(&self, token: &Token<'_>, now: Timestamp) -> Result<(), ServiceError> {
        self.check_claims(token, now)?;
        let keys = self.keys.read().await.map_err(|error| {
            // STS's own text, with the cause.
            invalid(format!("Couldn't retrieve verification key from your identity provider ({error})"))
        })?;
        check_signature(token, &keys)
    }

    fn check_claims(&self, token: &Token<'_>, now: Timestamp) -> Result<(), ServiceError> {
        let issuer = token.issuer();
        if issuer.is_empty() || self.issuer.as_deref().is_some_and(|wanted| wanted != issuer) {
            return Err(invalid(format!("No OpenIDConnect provider found in your account for {issuer}")));
        }
        if !token.audiences().contains(&self.audience.as_str()) {
            return Err(invalid("Incorrect token audience"));
        }
        let (now, time) = (now.unix_seconds(), |name: &str| seconds(&token.claims[name]));
        let Some(expires) = time("exp") else {
            return Err(invalid("Missing a required claim: exp"));
        };
        if now >= expires {
            let text = format!("current date/time {now} must be before the expiration date/time {expires}");
            return Err(ServiceError::new("ExpiredTokenException", format!("Token expired: {text}")));
        }
        if time("nbf").is_some_and(|from| from > now + AHEAD_SECONDS_MAX) {
            return Err(invalid("The token is not valid yet"));
        }
        Ok(())
    }
}

/// How far another machine's clock may be ahead.
const AHEAD_SECONDS_MAX: i64 = 300;

/// A NumericDate may have a fraction (RFC 7519, section 2).
fn seconds(value: &Value) -> Option<i64> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a float that is too large becomes the largest integer"
    )]
    value.as_i64().or_else(|| value.as_f64().map(|seconds| seconds as i64))
}

fn check_signature(token: &Token<'_>, keys: &[Key]) -> Result<(), ServiceError> {
    let algorithm = token.header["alg"].as_str().unwrap_or_default();
    if !["RS256", "ES256"].contains(&algorithm) {
        return Err(invalid(format!(
            "The token is signed with {algorithm:?}; RS256 and ES256 are supported"
        )));
    }
    let id = token.header["kid"].as_str();
    let mut named =
        keys.iter().filter(|key| id.is_none() || key.id.is_none() || key.id.as_deref() == id).peekable();
    if named.peek().is_none() {
        let text =
            "Couldn't retrieve verification key from your identity provider (no key has the token's kid)";
        return Err(invalid(text));
    }
    if named.any(|key| key.verifies(algorithm, token.message.as_bytes(), &token.signature)) {
        Ok(())
    } else {
        Err(invalid("The token's signature does not verify with the identity provider's keys"))
    }
}

#[cfg(test)]
mod tests;
