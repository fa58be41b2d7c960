//! Credentials for License Manager outside AWS, for a pod without a role (AWS Marketplace seller guide, Container
//! Anywhere products): the buyer's refresh token of the license is exchanged for an access token, and that for the
//! buyer's role.
//!
//! Both calls are unsigned. They come after all other sources, and only for License Manager. The token's file may be
//! replaced, so every load reads it again. The token is never shown, and neither are the tokens that it is exchanged
//! for.

use std::io;
use std::path::Path;
use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sdk_marketplacemetering as sdk;
use aws_sdk_sts as sts;
use aws_smithy_types::error::metadata::ProvideErrorMetadata as _;
use aws_smithy_types::retry::RetryConfig;
use serde::Deserialize;
use serde_json::json;

use super::call::{Asked, Call, body, causes, invalid_answer};
use super::connection::{Trail, host_of};
use super::credentials::{
    ASSUME_ROLE_REFUSED, CREDENTIALS_FILE_INVALID, CREDENTIALS_INCOMPLETE, CREDENTIALS_MISSING,
    CredentialSource, Loader, sts_fault, unavailable,
};
use super::licensing::{self, TARGET_PREFIX};
use super::{HeaderCapture, timeouts};
use tollgate_disk::{Links, describe, read_regular};
use tollgate_marketplace::{Fault, FaultClass, FaultCode, Place, Region};

/// Longest refresh token or access token (service model, `TokenString`).
pub const TOKEN_BYTES_MAX: usize = 4096;

/// Where license tokens are exchanged if no region is set: AWS's own provider for these credentials uses it too.
pub const FALLBACK_REGION: &str = "us-east-1";

/// The session name that CloudTrail shows with the role.
const SESSION_NAME: &str = "tollgate";

/// License Manager does not accept the refresh token.
const TOKEN_REFUSED: &str = "LicenseTokenRefused";

/// STS does not give the role for an access token.
const ROLE_REFUSED: &str = "LicenseRoleRefused";

impl Loader {
    /// The pod's own credentials, or else those from the token in `file`; and the region in which they were requested.
    /// The pod's own credentials need a region in `known`.
    pub(super) async fn credentials_or_token(
        &self,
        known: Result<Region, Fault>,
        file: &Path,
        trail: &Trail,
    ) -> Result<(Region, Credentials), Fault> {
        let region = known.as_ref().cloned();
        let region = region.unwrap_or_else(|_| FALLBACK_REGION.parse().expect("is the name of a region"));
        let own = match self.credentials(&region, trail).await {
            Ok(credentials) => return known.map(|region| (region, credentials)),
            Err(fault) => fault,
        };
        let given = self.by_token(file, &region, trail).await;
        // If another source of credentials is configured, its fault has to be fixed.
        let unset = [CREDENTIALS_MISSING, CREDENTIALS_INCOMPLETE].contains(&own.code.as_str());
        let fault = |fault| if unset || own.place == Place::Imds { fault } else { own };
        given.map(|credentials| (region, credentials)).map_err(fault)
    }

    async fn by_token(&self, file: &Path, region: &Region, trail: &Trail) -> Result<Credentials, Fault> {
        let role = self.settings.role_arn.as_deref().ok_or_else(|| {
            let text =
                "license_token_file is set without AWS_ROLE_ARN, which is iam_role in the license's secret";
            Fault::local(FaultClass::Access, CREDENTIALS_INCOMPLETE, text).unsent()
        })?;
        let refresh_token = read_token(file)?;
        let access_token = self.access_token(&refresh_token, region, trail).await?;
        let credentials = self.assume(role, &access_token, region, trail).await?;
        self.note(CredentialSource::LicenseToken, &credentials, trail);
        Ok(credentials)
    }

    /// `GetAccessToken`.
    async fn access_token(
        &self,
        refresh_token: &str,
        region: &Region,
        trail: &Trail,
    ) -> Result<String, Fault> {
        let url = licensing::endpoint_of(&self.settings, region).await?;
        let config = sdk::Config::builder()
            .behavior_version(sdk::config::BehaviorVersion::v2026_01_12())
            .region(sdk::config::Region::new(region.as_str().to_owned()))
            .endpoint_resolver(licensing::Endpoint {
                url: url.clone(),
                region: region.clone(),
                service: licensing::SERVICE,
            })
            .allow_no_auth()
            .http_client(self.http_client(trail))
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts());
        let call = Call {
            target: format!("{TARGET_PREFIX}GetAccessToken"),
            body: body(&json!({"Token": refresh_token})),
            settings: None,
            capture: HeaderCapture::alone(),
        };
        let asked = Asked { place: Place::LicenseManager, url: &url, secrets: &[refresh_token] };
        let answer = call.send(&sdk::Client::from_conf(config.build()), asked).await;
        let raw = answer.and_then(|(raw, fault)| raw.unless_refused(fault)).map_err(|fault| {
            let class = fault.class;
            let fault = fault.unsent();
            if class == FaultClass::Transient { fault } else { refused(fault, TOKEN_REFUSED) }
        })?;
        let answer = raw.parse::<AccessToken>().ok().map(|answer| answer.access_token);
        answer.filter(|token| !token.is_empty() && token.len() <= TOKEN_BYTES_MAX).ok_or_else(|| {
            let fault = invalid_answer("without a usable AccessToken");
            fault.at(Place::LicenseManager, host_of(&url)).unsent()
        })
    }

    /// `AssumeRoleWithWebIdentity`.
    async fn assume(
        &self,
        role: &str,
        access_token: &str,
        region: &Region,
        trail: &Trail,
    ) -> Result<Credentials, Fault> {
        // Reads no profile and no variable: those name an endpoint for the pod's own credentials.
        let config = sts::Config::builder()
            .behavior_version(sts::config::BehaviorVersion::v2026_01_12())
            .region(sts::config::Region::new(region.as_str().to_owned()))
            .use_fips(self.settings.use_fips)
            .use_dual_stack(self.settings.use_dual_stack)
            .http_client(self.http_client(trail))
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts());
        let answer = sts::Client::from_conf(config.build())
            .assume_role_with_web_identity()
            .role_arn(role)
            .role_session_name(SESSION_NAME)
            .web_identity_token(access_token)
            .send()
            .await;
        let error = match answer {
            Ok(answer) => return answer.credentials.and_then(signing).ok_or_else(|| nothing(trail)),
            Err(error) => error,
        };
        let detail = causes(&error, &[access_token]);
        let last = trail.last();
        if let Some(refusal) = error.as_service_error() {
            let status = error.raw_response().map_or(0, |response| response.status().as_u16());
            let fault = sts_fault(status, refusal.code(), refusal.message(), detail, last);
            return Err(match fault.code.as_str() {
                ASSUME_ROLE_REFUSED => Fault { code: FaultCode::known(ROLE_REFUSED), ..fault },
                _ => fault,
            });
        }
        Err(last.map_or_else(|| nothing(trail), |exchange| unavailable(&exchange, &detail)))
    }
}

/// The credentials in an answer of STS.
fn signing(given: sts::types::Credentials) -> Option<Credentials> {
    let expiry = SystemTime::try_from(given.expiration).ok()?;
    let (key, secret, session) = (given.access_key_id, given.secret_access_key, given.session_token);
    Some(Credentials::new(key, secret, Some(session), Some(expiry), "LicenseToken"))
}

/// The fault if STS answered without credentials.
fn nothing(trail: &Trail) -> Fault {
    let host = trail.last().map(|exchange| exchange.host);
    invalid_answer("without credentials").at(Place::Sts, host).unsent()
}

/// A refusal under our own code, with AWS's code beside it.
fn refused(fault: Fault, code: &'static str) -> Fault {
    let named = fault.code.to_string();
    Fault { class: FaultClass::Access, code: FaultCode::known(code), ..fault }.seeing(named)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AccessToken {
    access_token: String,
}

/// The refresh token in a file's content; `config check` uses this too.
#[must_use]
pub fn token_in(content: &[u8]) -> Option<&str> {
    let token = content.trim_ascii();
    let whole = !token.is_empty() && token.iter().all(u8::is_ascii_graphic);
    std::str::from_utf8(token).ok().filter(|_| whole)
}

/// The refresh token in `file`, or what is wrong with the file.
fn read_token(file: &Path) -> Result<String, Fault> {
    let problem = match read_regular(file, TOKEN_BYTES_MAX, Links::Follow) {
        Ok(content) => match token_in(&content) {
            Some(token) => return Ok(token.to_owned()),
            None if content.trim_ascii().is_empty() => "is empty".to_owned(),
            None => "does not hold a token".to_owned(),
        },
        // Then the whole secret is mounted as a folder.
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
            "is a folder; name the file license_token in it".to_owned()
        }
        Err(error) => describe(&error),
    };
    let detail = format!("license_token_file names {}, which gives no token ({problem})", file.display());
    Err(Fault::local(FaultClass::Access, CREDENTIALS_FILE_INVALID, detail).unsent())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_file_that_gives_none_is_named_with_what_is_wrong_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        std::fs::create_dir(file("folder")).unwrap();
        std::fs::write(file("good"), "a.b.c\n").unwrap();
        std::os::unix::fs::symlink(file("good"), file("link")).unwrap();
        for (name, content) in [
            ("empty", vec![b'\n']),
            ("two", b"a b".to_vec()),
            ("binary", vec![0xff]),
            ("huge", vec![b'x'; TOKEN_BYTES_MAX + 1]),
        ] {
            std::fs::write(file(name), content).unwrap();
        }
        for good in ["good", "link"] {
            assert_eq!(read_token(&file(good)).unwrap(), "a.b.c");
        }
        for (name, says) in [
            ("absent", "does not exist"),
            ("folder", "name the file license_token in it"),
            ("empty", "is empty"),
            ("two", "does not hold a token"),
            ("binary", "does not hold a token"),
            ("huge", "is too large"),
        ] {
            let fault = read_token(&file(name)).unwrap_err();
            assert_eq!((fault.class, fault.code.as_str()), (FaultClass::Access, CREDENTIALS_FILE_INVALID));
            assert!(fault.detail.contains(says), "{}", fault.detail);
        }
    }
}
