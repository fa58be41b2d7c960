//! Region and credentials: where they come from, and what each failure to get them means.
//!
//! - Failures of a source are transient: if STS, an agent or IMDS is present but unreachable, slow, throttled or
//!   answers nonsense, that proves nothing about the buyer. Refusals are not transient, and neither is a pod without
//!   any source of credentials.
//! - The SDK reads files (web identity token, profiles), and reading a file may block: a load runs on its own thread,
//!   never on the one that answers probes, and one load at a time.
//! - That thread also has its own runtime: the process may shut down its main runtime while a load is running, and a
//!   timer of a runtime that was shut down panics. For that reason a load shares no connections with the calls.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::imds::region::ImdsRegionProvider;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::Credentials;
use aws_credential_types::credential_feature::AwsCredentialFeature;
use aws_credential_types::provider::ProvideCredentials as _;
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_marketplacemetering as sdk;
use aws_sdk_sts::operation::assume_role_with_web_identity::AssumeRoleWithWebIdentityError;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::display::DisplayErrorContext;
use aws_smithy_types::retry::RetryConfig;
use aws_types::SdkConfig;
use aws_types::service_config::ServiceConfigKey;
use tokio::runtime;
use tokio::sync::oneshot;

use super::connection::{Exchange, Outcome, PROXY_AUTHENTICATION, Routes, Trail, Way, chain};
use super::connector::Trust;
use super::{AwsSettings, SigningClock, endpoint_of, licensing, timeouts};
use crate::region;
use tollgate_disk::{Links, describe, read_regular};
use tollgate_marketplace::exceptions::{self, StsError};
use tollgate_marketplace::fault::PROXY_AUTHENTICATION_REQUIRED;
use tollgate_marketplace::{CREDENTIAL_FILE_BYTES_MAX, Fault, FaultClass, FaultCode, Place, Region};

/// The source of the credentials, as far as AWS's rules for these calls depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialSource {
    /// EKS with IRSA: supported.
    WebIdentity,
    /// An HTTP endpoint in the container: the ECS task role (supported) or EKS Pod Identity (not supported).
    Container,
    /// The instance's role: AWS cannot see the pod.
    Imds,
    /// Access keys in the environment.
    Environment,
    /// A profile file.
    Profile,
    /// The token of a license, outside AWS: only for License Manager.
    LicenseToken,
    /// None of these.
    Other,
}

impl CredentialSource {
    /// The text for logs and `doctor`.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::WebIdentity => "web identity (IRSA)",
            Self::Container => "container endpoint (ECS task role or EKS Pod Identity)",
            Self::Imds => "instance role (IMDS)",
            Self::Environment => "access keys in the environment",
            Self::Profile => "profile file",
            Self::LicenseToken => "license token",
            Self::Other => "other",
        }
    }

    fn of(credentials: &Credentials) -> Self {
        let features = credentials.get_property::<Vec<AwsCredentialFeature>>();
        let mut source = Self::Other;
        for feature in features.into_iter().flatten() {
            source = match feature {
                AwsCredentialFeature::CredentialsEnvVarsStsWebIdToken
                | AwsCredentialFeature::CredentialsStsAssumeRoleWebId
                | AwsCredentialFeature::CredentialsProfileStsWebIdToken => Self::WebIdentity,
                AwsCredentialFeature::CredentialsHttp => Self::Container,
                AwsCredentialFeature::CredentialsImds => Self::Imds,
                AwsCredentialFeature::CredentialsEnvVars => Self::Environment,
                AwsCredentialFeature::CredentialsProfile if source == Self::Other => Self::Profile,
                _ => source,
            };
        }
        source
    }
}

/// The source of the credentials in use.
#[derive(Debug, Clone)]
pub struct Found {
    /// Where they came from.
    pub source: CredentialSource,
    /// The hosts that were asked for them.
    pub hosts: Vec<String>,
    /// The AWS account that they belong to, if their source named it.
    pub account: Option<String>,
}

/// The client for a call.
#[derive(Debug, Clone)]
pub(super) struct Ready {
    pub(super) client: sdk::Client,
    /// The region in which the credentials were requested.
    pub(super) region: Region,
    pub(super) expires_at: Option<SystemTime>,
    /// Identifies the load; compared by address.
    identity: Arc<()>,
}

impl Ready {
    /// Whether both are from the same load.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.identity, &other.identity)
    }
}

fn routes(settings: &AwsSettings, trust: &Arc<Trust>) -> Arc<Routes> {
    let stand_in = settings.endpoint_url.clone().filter(|_| settings.stands_for_all);
    Arc::new(Routes::new(Arc::clone(trust), stand_in))
}

/// The fault if the load itself could not run.
pub(super) fn not_loaded(error: &dyn std::error::Error) -> Fault {
    Fault::local(FaultClass::Transient, "CredentialsUnavailable", error.to_string())
}

/// Finds region and credentials.
#[derive(Debug)]
pub(super) struct Loader {
    pub(super) settings: AwsSettings,
    /// The certificates and the TLS sessions of all connections.
    trust: Arc<Trust>,
    /// The connections of the calls.
    routes: Arc<Routes>,
    offset: SigningClock,
    /// IMDS has answered: this is an instance, so from now on a silent IMDS is a fault.
    on_instance: AtomicBool,
    found: Mutex<Option<Found>>,
    region: OnceLock<Region>,
    endpoint: OnceLock<String>,
    /// With License Manager: further sources of the region and of credentials.
    pub(super) license: OnceLock<licensing::LicenseManagerSettings>,
    #[cfg(test)]
    pub(super) fixed_credentials: Option<Result<Credentials, Fault>>,
}

impl Loader {
    pub(super) fn new(settings: AwsSettings, offset: SigningClock) -> Self {
        let trust = Trust::new(settings.ca_bundle.clone());
        Self {
            routes: routes(&settings, &trust),
            trust,
            settings,
            offset,
            on_instance: AtomicBool::new(false),
            found: Mutex::new(None),
            region: OnceLock::new(),
            endpoint: OnceLock::new(),
            license: OnceLock::new(),
            #[cfg(test)]
            fixed_credentials: None,
        }
    }

    /// The source of the credentials in use, after a load.
    pub(super) fn found(&self) -> Found {
        let found = self.found.lock().expect("held for one copy only, which cannot panic").clone();
        found.unwrap_or(Found { source: CredentialSource::Other, hosts: Vec::new(), account: None })
    }

    fn provider_config(&self, region: Option<&Region>, trail: &Trail) -> ProviderConfig {
        ProviderConfig::default()
            .with_http_client(self.http_client(trail))
            .with_retry_config(RetryConfig::disabled())
            .with_timeout_config(timeouts())
            .with_use_fips(Some(self.settings.use_fips))
            .with_use_dual_stack(Some(self.settings.use_dual_stack))
            .with_region(region.map(|region| aws_config::Region::new(region.as_str().to_owned())))
    }

    /// The region, if it was found.
    pub(super) fn found_region(&self) -> Option<Region> {
        self.region.get().cloned()
    }

    /// The URL that calls go to, if it was found.
    pub(super) fn found_endpoint(&self) -> Option<String> {
        self.endpoint.get().cloned()
    }

    /// The region: the configured one, else the task's, else the instance's.
    pub(super) async fn region(&self, trail: &Trail) -> Result<Region, Fault> {
        if let Some(region) = self.region.get() {
            return Ok(region.clone());
        }
        let region = match &self.settings.region {
            Some(region) => region.clone(),
            None => self.find_region(trail).await?,
        };
        Ok(self.region.get_or_init(|| region).clone())
    }

    async fn find_region(&self, trail: &Trail) -> Result<Region, Fault> {
        let silent = match region::from_ecs(self.settings.ecs_metadata_uri.as_deref()).await {
            Ok(Some(region)) => return Ok(region),
            Ok(None) => None,
            Err(silent) => Some(silent.fault(self.settings.ecs_metadata_uri.as_deref())),
        };
        if let Some(region) = self.region_from_imds(trail).await {
            return Ok(region);
        }
        let instance = trail
            .last()
            .filter(|exchange| self.is_silence(exchange))
            .map(|exchange| unavailable(&exchange, ""));
        Err(silent.or(instance).unwrap_or_else(|| {
            Fault::local(FaultClass::Access, "RegionUnknown", "no AWS_REGION, no ECS task metadata, no IMDS")
        }))
    }

    pub(super) async fn region_from_imds(&self, trail: &Trail) -> Option<Region> {
        if self.settings.imds_disabled {
            return None;
        }
        let provider = ImdsRegionProvider::builder().configure(&self.provider_config(None, trail)).build();
        let found = provider.region().await;
        self.note_instance(trail);
        found?.as_ref().parse().ok()
    }

    fn note_instance(&self, trail: &Trail) {
        if trail.has_answered(Place::Imds) {
            self.on_instance.store(true, Ordering::Release);
        }
    }

    /// Whether IMDS exists but fails: it accepted the connection (a hop limit of 1 drops the answer), or it answered
    /// before. If nothing accepts the connection, this is not an instance.
    fn is_silence(&self, exchange: &Exchange) -> bool {
        match exchange.outcome {
            Outcome::Answered(status) => !(400..500).contains(&status) || status == 429 || status == 408,
            Outcome::Unanswered => true,
            Outcome::Failed(_, connected) => connected || self.on_instance.load(Ordering::Acquire),
        }
    }

    /// [`Loader::load`] for a thread that may block. It runs to its end even if the caller's runtime is shut down.
    ///
    /// `foreseen` gets the URL of the call that follows, while STS is asked for credentials: if it is known which
    /// service will be called, and that only STS is waited for.
    pub(super) fn load_on_its_own_runtime(
        &self,
        foreseen: Option<oneshot::Sender<String>>,
    ) -> Result<Ready, Fault> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| not_loaded(&error))?;
        let ready = runtime.block_on(self.load(foreseen));
        // A DNS lookup may still hang in its own thread.
        runtime.shutdown_background();
        ready
    }

    /// Loads region and credentials, and makes a client that signs with them. Blocks while a file that it reads blocks.
    async fn load(&self, foreseen: Option<oneshot::Sender<String>>) -> Result<Ready, Fault> {
        let trail = Trail::default();
        let loading = async {
            let license = self.license.get();
            let elsewhere = license.and_then(|license| license.region.clone());
            let region = self.region(&trail).await.or_else(|fault| elsewhere.ok_or(fault));
            let (region, credentials) = match license.and_then(|license| license.token_file.as_deref()) {
                Some(file) => self.credentials_or_token(region, file, &trail).await?,
                None => {
                    let region = region?;
                    if let Some(foreseen) = foreseen
                        && let Some(url) = self.foresee(&region).await
                    {
                        // Without a receiver nobody waits for the call any more.
                        let _ = foreseen.send(url);
                    }
                    let credentials = self.credentials(&region, &trail).await?;
                    (region, credentials)
                }
            };
            let expires_at = credentials.expiry();
            let client = self.client(&region, credentials).await?;
            Ok(Ready { client, region, expires_at, identity: Arc::new(()) })
        };
        // Shorter than the caller's limit, so that the reason can name the source that did not answer.
        tokio::time::timeout(LOAD_TIMEOUT, loading).await.unwrap_or_else(|_| Err(took_too_long(&trail)))
    }

    /// The URL of the calls, if STS has to be asked before them and the configuration says that they will go to AWS.
    async fn foresee(&self, region: &Region) -> Option<String> {
        let asks_sts = self.settings.web_identity_token_file.is_some() && from_environment().await.is_none();
        if !asks_sts || self.settings.endpoint_url.is_some() {
            return None;
        }
        if !self.settings.sealed && names_endpoint(&self.sdk_config(region).await) {
            return None;
        }
        let endpoint = match self.license.get() {
            Some(_) => licensing::endpoint_of(&self.settings, region).await,
            None => endpoint_of(&self.settings, region).await,
        };
        // Read here, on the thread that may block. A list that cannot be used is the fault of the call.
        self.trust.config().ok()?;
        endpoint.ok()
    }

    /// Opens a connection for the next call to `url`.
    pub(super) async fn connect(&self, url: &str) {
        if let (Ok(pool), Ok(uri)) = (self.routes.to(url), url.parse()) {
            pool.connect(uri).await;
        }
    }

    pub(super) async fn credentials(&self, region: &Region, trail: &Trail) -> Result<Credentials, Fault> {
        #[cfg(test)]
        if let Some(credentials) = &self.fixed_credentials {
            return credentials.clone();
        }
        // Access keys in the environment take precedence, as in the SDK's chain: making its other sources would take
        // longer than all else at the start.
        if let Some(credentials) = from_environment().await {
            self.note(CredentialSource::of(&credentials), &credentials, trail);
            return Ok(credentials);
        }
        for (variable, file) in self.token_files() {
            held_up(variable, file)?;
        }
        let region_name = aws_config::Region::new(region.as_str().to_owned());
        let chain = DefaultCredentialsChain::builder()
            .configure(self.provider_config(Some(region), trail))
            .region(region_name)
            .build()
            .await;
        let loaded = chain.provide_credentials().await;
        self.note_instance(trail);
        let credentials = loaded.map_err(|error| self.judge(&error, trail))?;
        self.note(CredentialSource::of(&credentials), &credentials, trail);
        Ok(credentials)
    }

    /// Notes and logs the source of loaded credentials.
    pub(super) fn note(&self, source: CredentialSource, credentials: &Credentials, trail: &Trail) {
        tracing::info!(event = "credentials_loaded", source = source.describe(), "credentials loaded");
        let account = credentials.account_id().map(|account| account.as_str().to_owned());
        *self.found.lock().expect("held for one copy only, which cannot panic") =
            Some(Found { source, hosts: trail.hosts(), account });
    }

    /// An HTTP client with the loading thread's own connections, for an unsigned request.
    pub(super) fn http_client(&self, trail: &Trail) -> SharedHttpClient {
        self.own_routes().client(trail.clone())
    }

    /// Routes that share no connection with the calls.
    pub(super) fn own_routes(&self) -> Arc<Routes> {
        routes(&self.settings, &self.trust)
    }

    /// What the SDK itself reads, and the settings of every call; without credentials.
    async fn sdk_config(&self, region: &Region) -> SdkConfig {
        aws_config::defaults(aws_config::BehaviorVersion::v2026_01_12())
            .region(aws_config::Region::new(region.as_str().to_owned()))
            .no_credentials()
            .http_client(self.routes.client(Trail::default()))
            .time_source(self.offset.clone())
            // The SDK's own correction would shift the time a second time.
            .disable_clock_skew_correction(true)
            .identity_cache(aws_config::identity::IdentityCache::no_cache())
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts())
            .load()
            .await
    }

    async fn client(&self, region: &Region, credentials: Credentials) -> Result<sdk::Client, Fault> {
        let config = sdk::config::Builder::from(&self.sdk_config(region).await);
        let mut config = config.credentials_provider(credentials);
        // These settings override all that the SDK itself reads, now and at the next renewal of the credentials.
        let endpoint = endpoint_of(&self.settings, region).await?;
        let _ = self.endpoint.set(endpoint.clone());
        if matches!(Way::to(&endpoint), Way::Tls) {
            // Read once, here: this thread may block. A list that cannot be used is the fault of the call.
            let _ = self.trust.config();
        }
        if self.settings.endpoint_url.is_some() || self.settings.sealed {
            config = config.endpoint_url(endpoint);
        }
        Ok(sdk::Client::from_conf(config.build()))
    }

    /// The files from which the SDK reads tokens, with the variables that name them.
    fn token_files(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let (web_identity, agent) =
            (&self.settings.web_identity_token_file, &self.settings.container_token_file);
        [(WEB_IDENTITY_TOKEN_FILE, web_identity), (CONTAINER_TOKEN_FILE, agent)]
            .into_iter()
            .filter_map(|(variable, file)| Some((variable, file.as_deref()?)))
    }

    /// What is wrong with the token file for the service in `asked`, or with any token file if nothing was asked.
    fn token_fault(&self, asked: Option<Place>) -> Option<Fault> {
        let sent = |variable| match asked {
            Some(Place::Sts) => variable == WEB_IDENTITY_TOKEN_FILE,
            Some(Place::Container) => variable == CONTAINER_TOKEN_FILE,
            Some(_) => false,
            None => true,
        };
        let mut files = self.token_files().filter(|(variable, _)| sent(*variable));
        files.find_map(|(variable, file)| look_at_token(variable, file).err())
    }

    /// The fault if the pod has no credentials; names the settings that are incomplete.
    fn missing(&self, detail: String) -> Fault {
        let gaps = &self.settings.credential_gaps;
        let Some(first) = gaps.first() else {
            return Fault::local(FaultClass::Access, CREDENTIALS_MISSING, detail);
        };
        let more = if gaps.len() > 1 { format!(" (and {} more)", gaps.len() - 1) } else { String::new() };
        Fault::local(FaultClass::Access, CREDENTIALS_INCOMPLETE, format!("{first}{more}"))
    }

    /// The fault if there are no credentials.
    fn judge(&self, error: &CredentialsError, trail: &Trail) -> Fault {
        let detail = DisplayErrorContext(error).to_string();
        let last = trail.last();
        // If the SDK skipped a source, `credential_gaps` says why.
        let passed_by = last.is_none() && matches!(error, CredentialsError::CredentialsNotLoaded(_));
        let asked = last.as_ref().map(|exchange| exchange.place);
        if let Some(fault) = self.token_fault(asked).filter(|_| !passed_by) {
            return fault;
        }
        if let Some(SdkError::ServiceError(refusal)) = find_cause::<StsFault>(error) {
            let status = refusal.raw().status().as_u16();
            let metadata = refusal.err().meta();
            return sts_fault(status, metadata.code(), metadata.message(), detail, last);
        }
        match (&last, error) {
            (Some(exchange), _) if exchange.place == Place::Imds && !self.is_silence(exchange) => {
                self.missing(detail)
            }
            // The agent passes on AWS's answer about the pod's role: its refusal is AWS's.
            (
                Some(Exchange {
                    place: Place::Container,
                    host,
                    outcome: Outcome::Answered(status @ (401 | 403)),
                    ..
                }),
                _,
            ) => Fault::local(FaultClass::Access, "CredentialsRefused", detail)
                .at(Place::Container, Some(host.clone()))
                .seeing(format!("HTTP {status}")),
            (Some(exchange), _) => unavailable(exchange, &detail),
            (None, CredentialsError::CredentialsNotLoaded(_)) => self.missing(detail),
            (None, _) => Fault::local(FaultClass::Access, "CredentialsInvalid", detail),
        }
    }
}

/// Access keys in the environment.
async fn from_environment() -> Option<Credentials> {
    EnvironmentVariableCredentialsProvider::new().provide_credentials().await.ok()
}

/// Whether a profile or a variable of the SDK names an endpoint for the metering service.
fn names_endpoint(config: &SdkConfig) -> bool {
    let key = ServiceConfigKey::builder()
        .service_id("Marketplace Metering")
        .env("AWS_ENDPOINT_URL")
        .profile("endpoint_url")
        .build();
    let of_service = || config.service_config()?.load_config(key.ok()?);
    config.endpoint_url().is_some() || of_service().is_some()
}

/// Less than [`super::READY_TIMEOUT`].
const LOAD_TIMEOUT: Duration = Duration::from_millis(5_500);

/// The pod has no source of credentials.
pub(super) const CREDENTIALS_MISSING: &str = "CredentialsMissing";

/// The pod has no source of credentials, although variables or files for one are set.
pub(super) const CREDENTIALS_INCOMPLETE: &str = "CredentialsIncomplete";

/// STS refuses the role, by any of its exceptions.
pub(super) const ASSUME_ROLE_REFUSED: &str = "AssumeRoleRefused";

const WEB_IDENTITY_TOKEN_FILE: &str = "AWS_WEB_IDENTITY_TOKEN_FILE";
const CONTAINER_TOKEN_FILE: &str = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE";

/// The SDK opens the file without a check: a pipe would block it for ever.
fn held_up(variable: &str, file: &Path) -> Result<(), Fault> {
    match std::fs::metadata(file) {
        Ok(seen) if !seen.is_file() => look_at_token(variable, file),
        _ => Ok(()),
    }
}

/// The SDK reads the whole file, and its errors do not say why that failed.
fn look_at_token(variable: &str, file: &Path) -> Result<(), Fault> {
    let token = read_regular(file, CREDENTIAL_FILE_BYTES_MAX, Links::Follow);
    let irsa = variable == WEB_IDENTITY_TOKEN_FILE;
    let (code, seen) = match token {
        Ok(token) => match token_problem(&token, !irsa) {
            Some(problem) => (CREDENTIALS_FILE_INVALID, problem.to_owned()),
            None => return Ok(()),
        },
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound if irsa => ("WebIdentityTokenMissing", describe(&error)),
            io::ErrorKind::PermissionDenied if irsa => ("WebIdentityTokenUnreadable", describe(&error)),
            _ => (CREDENTIALS_FILE_INVALID, describe(&error)),
        },
    };
    let detail = format!("{variable} names {}, which gives no token ({seen})", file.display());
    Err(Fault::local(FaultClass::Access, code, detail).unsent())
}

/// Why a file's content is not a token; an agent's token is sent unchanged in a header.
#[must_use]
pub fn token_problem(token: &[u8], in_header: bool) -> Option<&'static str> {
    if token.trim_ascii().is_empty() {
        Some("is empty")
    } else if in_header && token.iter().any(|byte| !(b' '..=b'~').contains(byte)) {
        Some("holds a line end, or a character that is not printable ASCII")
    } else {
        None
    }
}

/// A file that a variable names for credentials contains none.
pub(super) const CREDENTIALS_FILE_INVALID: &str = "CredentialsFileInvalid";

/// The fault if loading took too long; names the source that was asked last.
pub(super) fn took_too_long(trail: &Trail) -> Fault {
    let text = "finding region and credentials took too long";
    match trail.last() {
        Some(exchange) => {
            unavailable(&Exchange { outcome: Outcome::Unanswered, seen: String::new(), ..exchange }, text)
        }
        None => Fault::local(FaultClass::Transient, "CredentialsUnavailable", text).unsent(),
    }
}

/// The fault if a source of credentials exists but fails.
pub(super) fn unavailable(exchange: &Exchange, detail: &str) -> Fault {
    let code = match exchange.outcome {
        Outcome::Unanswered => "Timeout",
        Outcome::Failed(code, _) => code,
        Outcome::Answered(PROXY_AUTHENTICATION) => PROXY_AUTHENTICATION_REQUIRED,
        Outcome::Answered(429) => exceptions::THROTTLING,
        Outcome::Answered(500..) => exceptions::SERVICE_UNAVAILABLE,
        Outcome::Answered(_) => "InvalidAnswer",
    };
    // For these the code says enough.
    let said = matches!(code, exceptions::THROTTLING | exceptions::SERVICE_UNAVAILABLE);
    let seen = if said { String::new() } else { exchange.seen.clone() };
    let fault = Fault::local(FaultClass::Transient, code, detail).seeing(seen);
    fault.at(exchange.place, Some(exchange.host.clone())).unsent()
}

/// The fault if STS answered without credentials.
pub(super) fn sts_fault(
    status: u16,
    code: Option<&str>,
    message: Option<&str>,
    detail: String,
    asked: Option<Exchange>,
) -> Fault {
    let (class, shown) = match exceptions::sts(status, code, message.unwrap_or_default()) {
        StsError::Refused => (FaultClass::Access, FaultCode::known(ASSUME_ROLE_REFUSED)),
        StsError::RegionDisabled => {
            (FaultClass::Misconfigured, FaultCode::known(exceptions::REGION_DISABLED))
        }
        StsError::Provider => (FaultClass::Transient, FaultCode::known("IDPCommunicationError")),
        StsError::TokenExpired => (FaultClass::Transient, FaultCode::known("WebIdentityTokenExpired")),
        StsError::Unavailable => {
            let asked = asked.unwrap_or_else(|| Exchange {
                place: Place::Sts,
                host: String::new(),
                outcome: Outcome::Answered(status),
                seen: String::new(),
            });
            let fault = unavailable(&asked, &detail);
            let named = code.and_then(exceptions::find);
            return match named {
                Some(exception) => Fault { code: FaultCode::known(exception.name), ..fault },
                None => fault,
            };
        }
    };
    let host = asked.map(|exchange| exchange.host);
    // Also show STS's own name, since ours covers several.
    let named = code
        .map(FaultCode::from_wire)
        .filter(|named| shown.as_str() == ASSUME_ROLE_REFUSED && *named != shown);
    let seen = named.map_or_else(String::new, |named| named.to_string());
    Fault { code: shown, ..Fault::local(class, "", detail) }.at(Place::Sts, host).seeing(seen).unsent()
}

type StsFault = SdkError<AssumeRoleWithWebIdentityError, HttpResponse>;

fn find_cause<'a, T: std::error::Error + 'static>(
    error: &'a (dyn std::error::Error + 'static),
) -> Option<&'a T> {
    chain(error).find_map(|error| error.downcast_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_file_is_named_with_what_is_wrong_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        std::fs::create_dir(file("folder")).unwrap();
        std::fs::write(file("huge"), vec![b'x'; CREDENTIAL_FILE_BYTES_MAX + 1]).unwrap();
        std::fs::write(file("empty"), "\n").unwrap();
        std::fs::write(file("two lines"), "a\nb").unwrap();
        std::fs::write(file("good"), "a.b.c").unwrap();
        let pipe = std::process::Command::new("mkfifo").arg(file("pipe")).status().unwrap();
        assert!(pipe.success());
        for (name, irsa, agent, says) in [
            ("absent", "WebIdentityTokenMissing", CREDENTIALS_FILE_INVALID, "does not exist"),
            ("folder", CREDENTIALS_FILE_INVALID, CREDENTIALS_FILE_INVALID, "is a folder"),
            ("huge", CREDENTIALS_FILE_INVALID, CREDENTIALS_FILE_INVALID, "is too large"),
            ("empty", CREDENTIALS_FILE_INVALID, CREDENTIALS_FILE_INVALID, "is empty"),
            ("pipe", CREDENTIALS_FILE_INVALID, CREDENTIALS_FILE_INVALID, "a pipe"),
            ("two lines", "", CREDENTIALS_FILE_INVALID, "a line end"),
            ("good", "", "", ""),
        ] {
            for (variable, code) in [(WEB_IDENTITY_TOKEN_FILE, irsa), (CONTAINER_TOKEN_FILE, agent)] {
                match look_at_token(variable, &file(name)) {
                    Ok(()) => assert_eq!(code, "", "{name}"),
                    Err(fault) => {
                        assert_eq!((fault.class, fault.code.as_str()), (FaultClass::Access, code), "{name}");
                        let named = fault.detail.contains(variable) && fault.detail.contains(says);
                        assert!(named || code.starts_with("Web"), "{}", fault.detail);
                    }
                }
                let held = held_up(variable, &file(name)).is_err();
                assert_eq!(held, ["folder", "pipe"].contains(&name), "{name}");
            }
        }
    }
}
