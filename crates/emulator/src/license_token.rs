//! The tokens with which a container outside of AWS gets a role (AWS Marketplace seller guide, "Integrating AWS License
//! Manager with AWS Marketplace for Container Anywhere products"): a refresh token that it is given, and the access
//! tokens that `GetAccessToken` returns for it, for `AssumeRoleWithWebIdentity`.
//!
//! They are JWTs that only the emulator accepts: signed with HS256 and a key that is in this source. No other machine
//! checks their times, so those are in the emulated time.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde_json::{Value, json};

use tollgate_time::Timestamp;

/// The provider that the role has to trust.
pub(super) const ISSUER: &str = "https://openid-license-manager.amazonaws.com";

/// Not secret: the emulator issues a token to everybody who asks.
const KEY: &[u8] = b"the key of the tollgate emulator's license tokens";

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Refresh,
    Access,
}

impl Purpose {
    const fn name(self) -> &'static str {
        match self {
            Self::Refresh => "refresh",
            Self::Access => "access",
        }
    }

    /// Access tokens are valid for an hour, refresh tokens for a year unless the order says otherwise.
    pub(super) const fn lifetime(self) -> Duration {
        match self {
            Self::Refresh => Duration::from_secs(365 * 24 * 3600),
            Self::Access => Duration::from_secs(3600),
        }
    }
}

/// The claims of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LicenseToken {
    pub(super) license_arn: String,
    /// The account that created the token.
    pub(super) account_id: String,
    pub(super) properties: Vec<String>,
}

/// Why a token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bad {
    Unknown,
    Expired,
}

impl LicenseToken {
    pub(super) fn issue(&self, purpose: Purpose, now: Timestamp, lifetime: Duration) -> String {
        let header = json!({"alg": "HS256", "typ": "JWT"});
        let claims = json!({
            "iss": ISSUER,
            "aud": self.license_arn,
            "sub": self.license_arn,
            "amr": [format!("{AMR}{}", self.account_id)],
            "iat": now.unix_seconds(),
            "exp": now.plus(lifetime).unix_seconds(),
            "token_use": purpose.name(),
            "token_properties": self.properties,
            "emulated": true,
        });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(&header), part(&claims));
        let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&key(), message.as_bytes()));
        format!("{message}.{signature}")
    }

    pub(super) fn read(text: &str, purpose: Purpose, now: Timestamp) -> Result<Self, Bad> {
        let (message, signature) = text.rsplit_once('.').ok_or(Bad::Unknown)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Bad::Unknown)?;
        hmac::verify(&key(), message.as_bytes(), &signature).map_err(|_| Bad::Unknown)?;
        let claims = message.split('.').nth(1).and_then(|claims| URL_SAFE_NO_PAD.decode(claims).ok());
        let claims: Value =
            claims.and_then(|claims| serde_json::from_slice(&claims).ok()).ok_or(Bad::Unknown)?;
        if claims["token_use"] != purpose.name() {
            return Err(Bad::Unknown);
        }
        if claims["exp"].as_i64().is_none_or(|expires| expires <= now.unix_seconds()) {
            return Err(Bad::Expired);
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let properties = claims["token_properties"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(Self {
            license_arn: text(&claims["aud"]),
            account_id: text(&claims["amr"][0]).trim_start_matches(AMR).to_owned(),
            properties: properties.iter().map(text).collect(),
        })
    }
}

/// Prefix of the account in the claim that a role's trust policy can check.
const AMR: &str = "aws:license-manager:token-issuer-account-id:";

fn key() -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, KEY)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_795_509_000);

    #[test]
    fn only_the_emulators_own_tokens_are_read_for_their_purpose_and_their_time() {
        let token = LicenseToken {
            license_arn: "arn:aws:license-manager::294406891311:license:l-demo".to_owned(),
            account_id: "111122223333".to_owned(),
            properties: vec!["a".to_owned()],
        };
        let hour = Duration::from_secs(3600);
        let text = token.issue(Purpose::Refresh, NOW, hour);
        assert_eq!(LicenseToken::read(&text, Purpose::Refresh, NOW), Ok(token));
        assert_eq!(LicenseToken::read(&text, Purpose::Access, NOW), Err(Bad::Unknown));
        assert_eq!(LicenseToken::read(&text, Purpose::Refresh, NOW.plus(hour)), Err(Bad::Expired));
        let (message, _) = text.rsplit_once('.').unwrap();
        for bad in ["", "a.b.c", message, &format!("{message}."), &format!("{message}.c2ln")] {
            assert_eq!(LicenseToken::read(bad, Purpose::Refresh, NOW), Err(Bad::Unknown), "{bad}");
        }
    }
}
