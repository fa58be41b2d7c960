//! The metering service over the AWS SDK: the only file that imports it.
//!
//! - One call is one attempt: the SDK's retries are off, the schedule is ours.
//! - Region, credentials and TLS are found on the first call, not before the ports are bound; native CA roots are read
//!   on the first HTTPS connection, never for a plain-HTTP endpoint.
//! - Every fault is mapped here, once, to a [`Fault`]; nothing of the SDK leaves this file.
//! - Link-local and loopback addresses (IMDS, ECS, the emulator) are never asked through a proxy.

mod usage;

use std::error::Error as StdError;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::imds::region::ImdsRegionProvider;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::Credentials;
use aws_credential_types::credential_feature::AwsCredentialFeature;
use aws_credential_types::provider::ProvideCredentials as _;
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_marketplacemetering as sdk;
use aws_sdk_sts::operation::assume_role_with_web_identity::AssumeRoleWithWebIdentityError;
use aws_smithy_async::time::TimeSource;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::{Builder as HttpBuilder, Connector, ConnectorBuilder, tls};
use aws_smithy_runtime_api::client::http::{
    HttpClient as _, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::BeforeDeserializationInterceptorContextRef;
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;
use aws_smithy_types::error::display::DisplayErrorContext;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;

use super::ca_bundle::CaBundle;
use super::fault::{Answer, classify};
use super::{
    BatchMeterUsage, BatchMetered, BoxFuture, Fault, FaultClass, FaultCode, Forwarded, Identified,
    MeterUsage, Metered, Metering, Region, RegisterUsage, Registered, ResolvedCustomer, Signing, region,
};
use crate::clock::{self, Timestamp};

/// Connect timeout: just over one SYN retransmission (1 s, then 2 s), so that one lost packet does not lose the
/// attempt.
pub const CONNECT_TIMEOUT: Duration = Duration::from_millis(3100);

/// One whole attempt, finding region and credentials included: far above AWS's answer times, and short enough that the
/// state is never more than this behind.
pub const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// Of which region and credentials may take so much: a connection attempt and an answer, and the call has time left.
const READY_TIMEOUT: Duration = Duration::from_secs(6);

/// Credentials are loaded anew when they run out within this time, as the SDKs do.
const CREDENTIALS_MARGIN: Duration = Duration::from_secs(300);

/// Where and how to ask.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The region, where the configuration or `AWS_REGION` names one.
    pub region: Option<Region>,
    /// Asked instead of AWS's own endpoint.
    pub endpoint_url: Option<String>,
    /// AWS's own endpoint over IPv6 too.
    pub use_dual_stack: bool,
    /// AWS's own endpoint with validated cryptography.
    pub use_fips: bool,
    /// A seller's file exists: no profile file may name the endpoint, whenever it is written.
    pub sealed: bool,
    /// `ECS_CONTAINER_METADATA_URI_V4`.
    pub ecs_metadata_uri: Option<String>,
    /// `AWS_WEB_IDENTITY_TOKEN_FILE`, to say more than the SDK does when it cannot be read.
    pub web_identity_token_file: Option<PathBuf>,
    /// `AWS_EC2_METADATA_DISABLED`.
    pub imds_disabled: bool,
    /// The certificates of `AWS_CA_BUNDLE`, which replace the system's.
    pub ca_bundle: Option<CaBundle>,
}

/// Where the credentials came from, as far as AWS's rules for these calls differ.
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
    /// None of these.
    Other,
}

impl CredentialSource {
    /// A few words for logs and `doctor`.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::WebIdentity => "web identity (IRSA)",
            Self::Container => "container endpoint (ECS task role or EKS Pod Identity)",
            Self::Imds => "instance role (IMDS)",
            Self::Environment => "access keys in the environment",
            Self::Profile => "profile file",
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

/// The metering service at AWS, or at an endpoint that stands in for it.
#[derive(Debug)]
pub struct Aws {
    settings: Settings,
    http: SharedHttpClient,
    offset: SigningClock,
    region: OnceLock<Region>,
    ready: tokio::sync::Mutex<Option<Ready>>,
    source: Mutex<Option<CredentialSource>>,
    #[cfg(test)]
    fixed_credentials: Option<Credentials>,
}

/// What an answer to [`Aws::reach`] showed.
#[derive(Debug, Clone, Copy)]
pub struct Reached {
    /// The endpoint's clock less ours in seconds, from its `Date`.
    pub clock_offset_seconds: Option<i64>,
}

#[derive(Debug, Clone)]
struct Ready {
    client: sdk::Client,
    expires_at: Option<SystemTime>,
}

impl Aws {
    /// Nothing is asked, read or resolved yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            http: http_client(settings.ca_bundle.clone()),
            settings,
            offset: SigningClock::default(),
            region: OnceLock::new(),
            ready: tokio::sync::Mutex::new(None),
            source: Mutex::new(None),
            #[cfg(test)]
            fixed_credentials: None,
        }
    }

    /// Where the credentials in use came from, once some were loaded.
    #[must_use]
    pub fn credential_source(&self) -> Option<CredentialSource> {
        *self.source.lock().expect("held for one copy only, which cannot panic")
    }

    async fn region(&self) -> Result<Region, Fault> {
        if let Some(region) = self.region.get() {
            return Ok(region.clone());
        }
        let found = match &self.settings.region {
            Some(region) => Some(region.clone()),
            None => match region::from_ecs(self.settings.ecs_metadata_uri.as_deref()).await {
                Some(region) => Some(region),
                None => self.region_from_imds().await,
            },
        };
        let region = found.ok_or_else(|| {
            Fault::local(FaultClass::Access, "RegionUnknown", "no AWS_REGION, no ECS task metadata, no IMDS")
        })?;
        Ok(self.region.get_or_init(|| region).clone())
    }

    async fn region_from_imds(&self) -> Option<Region> {
        if self.settings.imds_disabled {
            return None;
        }
        let provider = ImdsRegionProvider::builder().configure(&self.provider_config(None)).build();
        provider.region().await?.as_ref().parse().ok()
    }

    fn provider_config(&self, region: Option<&Region>) -> ProviderConfig {
        ProviderConfig::default()
            .with_http_client(self.http.clone())
            .with_retry_config(RetryConfig::disabled())
            .with_timeout_config(timeouts())
            .with_region(region.map(|region| aws_config::Region::new(region.as_str().to_owned())))
    }

    /// What a call needs before it can be made. When this takes too long, the call was not made, and that is told.
    async fn ready(&self, signing: Signing) -> Result<sdk::Client, Fault> {
        tokio::time::timeout(READY_TIMEOUT, self.prepare(signing)).await.unwrap_or_else(|_| {
            let text = "finding region and credentials took too long";
            Err(Fault::local(FaultClass::Transient, "CredentialsUnavailable", text))
        })
    }

    async fn prepare(&self, signing: Signing) -> Result<sdk::Client, Fault> {
        let region = self.region().await?;
        let mut ready = self.ready.lock().await;
        let soon = self.offset.now() + CREDENTIALS_MARGIN;
        let fresh =
            ready.as_ref().filter(|r| !signing.reload_credentials && r.expires_at.is_none_or(|at| at > soon));
        if let Some(ready) = fresh {
            return Ok(ready.client.clone());
        }
        let credentials = self.credentials(&region).await?;
        let expires_at = credentials.expiry();
        let client = self.client(&region, credentials).await?;
        *ready = Some(Ready { client: client.clone(), expires_at });
        Ok(client)
    }

    async fn credentials(&self, region: &Region) -> Result<Credentials, Fault> {
        #[cfg(test)]
        if let Some(credentials) = &self.fixed_credentials {
            return Ok(credentials.clone());
        }
        if let Some(file) = &self.settings.web_identity_token_file
            && let Err(error) = std::fs::File::open(file)
        {
            return Err(Fault::local(FaultClass::Access, "WebIdentityTokenUnreadable", error.to_string()));
        }
        let region_name = aws_config::Region::new(region.as_str().to_owned());
        let chain = DefaultCredentialsChain::builder()
            .configure(self.provider_config(Some(region)))
            .region(region_name)
            .build()
            .await;
        let credentials = chain.provide_credentials().await.map_err(|error| credentials_fault(&error))?;
        let source = CredentialSource::of(&credentials);
        tracing::info!(source = source.describe(), "credentials loaded");
        *self.source.lock().expect("held for one copy only, which cannot panic") = Some(source);
        Ok(credentials)
    }

    async fn client(&self, region: &Region, credentials: Credentials) -> Result<sdk::Client, Fault> {
        let loader = aws_config::defaults(aws_config::BehaviorVersion::v2026_01_12())
            .region(aws_config::Region::new(region.as_str().to_owned()))
            .credentials_provider(credentials)
            .http_client(self.http.clone())
            .time_source(self.offset.clone())
            // The SDK's own correction would move the time a second time.
            .disable_clock_skew_correction(true)
            .identity_cache(aws_config::identity::IdentityCache::no_cache())
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts());
        let mut config = sdk::config::Builder::from(&loader.load().await);
        // What is set here wins over all that the SDK reads by itself, now and at the next renewal of the credentials.
        if self.settings.endpoint_url.is_some() || self.settings.sealed {
            config = config.endpoint_url(self.endpoint().await?);
        }
        Ok(sdk::Client::from_conf(config.build()))
    }

    /// The region where the platform says that this pod or task runs, and which part of it said so; for `doctor`.
    pub async fn platform_region(&self) -> Option<(Region, &'static str)> {
        let found = async {
            match region::from_ecs(self.settings.ecs_metadata_uri.as_deref()).await {
                Some(region) => Some((region, "the ECS task metadata")),
                None => self.region_from_imds().await.map(|region| (region, "IMDS")),
            }
        };
        tokio::time::timeout(ATTEMPT_TIMEOUT, found).await.ok().flatten()
    }

    /// Where the credentials come from, found as for a call; for `doctor`. STS is asked where the region needs be known
    /// for it.
    pub async fn inspect_credentials(&self) -> Result<CredentialSource, Fault> {
        let found = async {
            self.ready(Signing::default()).await?;
            Ok(self.credential_source().unwrap_or(CredentialSource::Other))
        };
        tokio::time::timeout(ATTEMPT_TIMEOUT, found).await.unwrap_or_else(|_| {
            let detail = "finding the credentials took too long";
            Err(Fault::local(FaultClass::Transient, "CredentialsUnavailable", detail))
        })
    }

    /// The URL that is asked, as the SDK resolves it (region, dual-stack, FIPS); also for `doctor`.
    pub async fn endpoint(&self) -> Result<String, Fault> {
        if let Some(url) = &self.settings.endpoint_url {
            return Ok(url.clone());
        }
        let region = self.region().await?;
        self.endpoint_in(&region).await
    }

    async fn endpoint_in(&self, region: &Region) -> Result<String, Fault> {
        use sdk::config::endpoint::{DefaultResolver, Params, ResolveEndpoint as _};
        let unresolved =
            |error: String| Fault::local(FaultClass::Misconfigured, "InvalidRegionException", error);
        let params = Params::builder()
            .region(region.as_str())
            .use_dual_stack(self.settings.use_dual_stack)
            .use_fips(self.settings.use_fips)
            .build()
            .map_err(|error| unresolved(error.to_string()))?;
        let endpoint = DefaultResolver::new().resolve_endpoint(&params).await;
        endpoint.map(|endpoint| endpoint.url().to_owned()).map_err(|error| unresolved(error.to_string()))
    }

    /// What a call to another region than this sidecar's changes; `None` where it changes nothing.
    async fn elsewhere(&self, region: Option<&Region>) -> Result<Option<sdk::config::Builder>, Fault> {
        let Some(region) = region.filter(|region| self.region.get() != Some(*region)) else {
            return Ok(None);
        };
        let name = aws_config::Region::new(region.as_str().to_owned());
        let mut config = sdk::config::Builder::new().region(name);
        // A sealed client has its endpoint fixed, so that no profile names another.
        if self.settings.endpoint_url.is_none() && self.settings.sealed {
            config = config.endpoint_url(self.endpoint_in(region).await?);
        }
        Ok(Some(config))
    }

    /// The proxy that a call to `url` goes through, as the SDK chooses it; for `doctor`.
    #[must_use]
    pub fn proxy(url: &str) -> Option<hyper::Uri> {
        if matches!(Way::to(url), Way::Direct) {
            return None;
        }
        let intercept =
            hyper_util::client::proxy::matcher::Matcher::from_env().intercept(&url.parse().ok()?)?;
        Some(intercept.uri().clone())
    }

    /// Asks `url` anything, unsigned, by the way that a call would take; for `doctor`. Any answer proves name,
    /// connection, proxy and TLS; its status says nothing.
    pub async fn reach(&self, url: &str) -> Result<Reached, Fault> {
        let settings = HttpConnectorSettings::builder().connect_timeout(CONNECT_TIMEOUT).build();
        let connector = match Way::to(url) {
            Way::Direct => direct(Some(&settings), None),
            Way::Plain => plain(Some(&settings), None),
            Way::Tls => trusting(self.settings.ca_bundle.as_ref(), Some(&settings), None),
        };
        let mut request = HttpRequest::empty();
        request
            .set_uri(url)
            .map_err(|error| Fault::local(FaultClass::Misconfigured, "RequestNotBuilt", error.to_string()))?;
        let called = tokio::time::timeout(ATTEMPT_TIMEOUT, connector.call(request)).await;
        match called {
            Ok(Ok(response)) => {
                Ok(Reached { clock_offset_seconds: clock_offset(response.headers().get("date")) })
            }
            Ok(Err(error)) => {
                let code = if error.is_timeout() { timeout_code(&error) } else { dispatch_code(&error) };
                Err(Fault::local(FaultClass::Transient, code, DisplayErrorContext(&error).to_string()))
            }
            Err(_) => Err(Fault::local(FaultClass::Transient, "Timeout", "no answer in time")),
        }
    }

    async fn register_usage_once(
        &self,
        request: RegisterUsage,
        signing: Signing,
    ) -> Result<Registered, Fault> {
        let client = self.ready(signing).await?;
        let seen = Seen::default();
        let answer = client
            .register_usage()
            .product_code(request.product_code.as_str())
            .public_key_version(request.public_key_version.value())
            .nonce(request.nonce.as_str())
            .customize()
            .interceptor(seen.clone())
            .send()
            .await;
        let seen = seen.take();
        match answer {
            Ok(output) => match output.signature {
                Some(signature) => Ok(Registered {
                    signature,
                    public_key_rotation_timestamp: output
                        .public_key_rotation_timestamp
                        .and_then(|at| at.to_millis().ok())
                        .map(Timestamp::from_unix_millis),
                    emulated: seen.emulated,
                }),
                None => Err(Fault {
                    emulated: seen.emulated,
                    ..Fault::local(FaultClass::Transient, "MissingSignature", "a 200 without Signature")
                }),
            },
            Err(error) => Err(sdk_fault(&error, seen)),
        }
    }
}

impl Metering for Aws {
    fn register_usage(
        &self,
        request: RegisterUsage,
        signing: Signing,
    ) -> BoxFuture<'_, Result<Registered, Fault>> {
        Box::pin(self.attempt(self.register_usage_once(request, signing)))
    }

    fn meter_usage(&self, request: MeterUsage, signing: Signing) -> BoxFuture<'_, Result<Metered, Fault>> {
        Box::pin(self.attempt(self.meter_usage_once(request, signing)))
    }

    fn batch_meter_usage(
        &self,
        request: BatchMeterUsage,
        signing: Signing,
    ) -> BoxFuture<'_, Result<BatchMetered, Fault>> {
        Box::pin(self.attempt(self.batch_meter_usage_once(request, signing)))
    }

    fn resolve_customer(&self, token: String) -> BoxFuture<'_, Result<ResolvedCustomer, Fault>> {
        Box::pin(self.attempt(self.resolve_customer_once(token)))
    }

    fn identify(&self, signing: Signing) -> BoxFuture<'_, Result<Identified, Fault>> {
        Box::pin(self.attempt(async move { self.ready(signing).await.map(|_| Identified) }))
    }

    fn forward(&self, target: String, body: Vec<u8>) -> BoxFuture<'_, Result<Forwarded, Fault>> {
        Box::pin(self.attempt(self.forward_once(target, body)))
    }

    fn region(&self) -> Option<Region> {
        self.region.get().cloned()
    }
}

impl Aws {
    async fn attempt<T>(&self, attempt: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
        let answer = tokio::time::timeout(ATTEMPT_TIMEOUT, attempt).await.unwrap_or_else(|_| {
            Err(Fault::local(FaultClass::Transient, "Timeout", "the attempt's time ran out"))
        });
        if let Err(fault) = &answer {
            self.learn(fault);
        }
        answer
    }

    /// Where AWS does not accept who asks, the next call of whatever kind is signed by AWS's own clock, if ours is off,
    /// and by ours again once it is right.
    fn learn(&self, fault: &Fault) {
        if let (FaultClass::Access, Some(offset)) = (fault.class, fault.clock_offset_seconds) {
            self.offset.0.store(if fault.clock_is_off() { offset } else { 0 }, Ordering::Release);
        }
    }
}

fn timeouts() -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(ATTEMPT_TIMEOUT)
        .build()
}

// === faults ===

fn sdk_fault<E>(error: &SdkError<E, HttpResponse>, seen: Marks) -> Fault
where
    E: ProvideErrorMetadata + StdError + 'static,
{
    let mut never_sent = false;
    let (class, code) = match error {
        SdkError::ServiceError(service) => {
            classify(Answer { status: service.raw().status().as_u16(), code: service.err().code() })
        }
        SdkError::ResponseError(response) => {
            classify(Answer { status: response.raw().status().as_u16(), code: None })
        }
        SdkError::TimeoutError(_) => (FaultClass::Transient, FaultCode::known("Timeout")),
        SdkError::DispatchFailure(failure) => {
            let code = failure.as_connector_error().map_or("Connection", |error| {
                never_sent = causes(error).any(|cause| CONNECTING.iter().any(|word| cause.contains(word)));
                if failure.is_timeout() { timeout_code(error) } else { dispatch_code(error) }
            });
            (FaultClass::Transient, FaultCode::known(code))
        }
        _ => (FaultClass::Misconfigured, FaultCode::known("RequestNotBuilt")),
    };
    Fault {
        class,
        code,
        clock_offset_seconds: seen.clock_offset_seconds,
        emulated: seen.emulated,
        never_sent,
        detail: DisplayErrorContext(error).to_string(),
    }
}

/// What the HTTP stack says of a connection that never came about.
const CONNECTING: [&str; 3] = ["(connect)", "connect timeout", "dns error"];

/// The HTTP stack has no public types for these causes; its words are matched, and tests over real sockets hold them.
fn timeout_code(error: &(dyn StdError + 'static)) -> &'static str {
    if causes(error).any(|cause| cause.contains("connect")) { "ConnectTimeout" } else { "Timeout" }
}

fn dispatch_code(error: &(dyn StdError + 'static)) -> &'static str {
    for cause in causes(error) {
        if cause.contains("dns error") || cause.contains("failed to lookup address") {
            return "Dns";
        }
        if cause.contains("certificate")
            || cause.contains("tls")
            || cause.contains("received corrupt message")
        {
            return "Tls";
        }
    }
    "Connection"
}

fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    let next =
        |error: &&'a (dyn StdError + 'static)| -> Option<&'a (dyn StdError + 'static)> { (**error).source() };
    std::iter::successors(Some(error), next)
}

fn causes(error: &(dyn StdError + 'static)) -> impl Iterator<Item = String> {
    chain(error).map(|error| error.to_string().to_lowercase())
}

type StsError = SdkError<AssumeRoleWithWebIdentityError, HttpResponse>;

fn credentials_fault(error: &CredentialsError) -> Fault {
    let detail = DisplayErrorContext(error).to_string();
    if let Some(sts) = find_cause::<StsError>(error) {
        return match sts {
            SdkError::ServiceError(service) => {
                let status = service.raw().status().as_u16();
                match classify(Answer { status, code: service.err().code() }).0 {
                    // The token file is stale: the kubelet renews it, so it is read again soon.
                    FaultClass::ExpiredSession => Fault::local(FaultClass::Access, "ExpiredToken", detail),
                    FaultClass::Transient => {
                        Fault::local(FaultClass::Transient, "CredentialsUnavailable", detail)
                    }
                    _ => Fault::local(FaultClass::Access, "AssumeRoleRefused", detail),
                }
            }
            _ => Fault::local(FaultClass::Transient, "CredentialsUnavailable", detail),
        };
    }
    match error {
        CredentialsError::CredentialsNotLoaded(_) => {
            Fault::local(FaultClass::Access, "CredentialsMissing", detail)
        }
        CredentialsError::ProviderTimedOut(_) => {
            Fault::local(FaultClass::Transient, "CredentialsUnavailable", detail)
        }
        _ => Fault::local(FaultClass::Access, "CredentialsUnavailable", detail),
    }
}

fn find_cause<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    chain(error).find_map(|error| error.downcast_ref())
}

// === what the answer's headers say ===

/// Set on every answer of the emulator; see its documentation.
const EMULATOR_HEADER: &str = "x-tollgate-emulator";

#[derive(Debug, Clone, Copy, Default)]
struct Marks {
    emulated: bool,
    clock_offset_seconds: Option<i64>,
}

/// The clock of whoever sent this `Date`, less ours.
fn clock_offset(date: Option<&str>) -> Option<i64> {
    let date = clock::parse_http_date(date?)?;
    Some(date.unix_seconds().saturating_sub(clock::system_now().unix_seconds()))
}

/// An interceptor that notes the answer's headers, which the SDK drops from a success.
#[derive(Debug, Clone, Default)]
struct Seen(Arc<Mutex<Marks>>);

impl Seen {
    fn take(&self) -> Marks {
        *self.0.lock().expect("held for one copy only, which cannot panic")
    }
}

#[aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint]
impl Intercept for Seen {
    fn name(&self) -> &'static str {
        "answer headers"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), aws_smithy_runtime_api::box_error::BoxError> {
        let headers = context.response().headers();
        let marks = Marks {
            emulated: headers.get(EMULATOR_HEADER).is_some(),
            clock_offset_seconds: clock_offset(headers.get("date")),
        };
        *self.0.lock().expect("held for one copy only, which cannot panic") = marks;
        Ok(())
    }
}

// === the clock that signs ===

/// The system's time plus the offset that AWS's `Date` showed.
#[derive(Debug, Clone, Default)]
struct SigningClock(Arc<AtomicI64>);

impl SigningClock {
    fn now(&self) -> SystemTime {
        let offset_millis = self.0.load(Ordering::Acquire).saturating_mul(1000);
        let millis = clock::system_now().unix_millis().saturating_add(offset_millis);
        SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(0))
    }
}

impl TimeSource for SigningClock {
    fn now(&self) -> SystemTime {
        Self::now(self)
    }
}

// === connections ===

/// Three ways out, each built when first needed.
#[derive(Debug)]
struct Routes {
    /// Plain HTTP without a proxy: what is local.
    direct: SharedHttpClient,
    /// Plain HTTP, through the proxy where one is set.
    plain: SharedHttpClient,
    /// HTTPS, through the proxy where one is set. Building its connector reads the CA roots.
    tls: SharedHttpClient,
}

impl Routes {
    fn new(ca_bundle: Option<CaBundle>) -> Self {
        Self {
            direct: HttpBuilder::new().build_with_connector_fn(direct),
            plain: HttpBuilder::new().build_with_connector_fn(plain),
            tls: HttpBuilder::new().build_with_connector_fn(move |settings, components| {
                trusting(ca_bundle.as_ref(), settings, components)
            }),
        }
    }

    fn to(&self, uri: &str) -> &SharedHttpClient {
        match Way::to(uri) {
            Way::Direct => &self.direct,
            Way::Plain => &self.plain,
            Way::Tls => &self.tls,
        }
    }
}

enum Way {
    Direct,
    Plain,
    Tls,
}

impl Way {
    fn to(uri: &str) -> Self {
        let parsed: Option<hyper::Uri> = uri.parse().ok();
        let host = parsed.as_ref().and_then(hyper::Uri::host).unwrap_or_default();
        match parsed.as_ref().and_then(hyper::Uri::scheme_str) {
            Some("http") if is_local(host) => Self::Direct,
            Some("http") => Self::Plain,
            _ => Self::Tls,
        }
    }
}

fn direct(settings: Option<&HttpConnectorSettings>, components: Option<&RuntimeComponents>) -> Connector {
    connector(settings, components).build_http()
}

fn plain(settings: Option<&HttpConnectorSettings>, components: Option<&RuntimeComponents>) -> Connector {
    connector(settings, components).proxy_config(ProxyConfig::from_env()).build_http()
}

fn trusting(
    ca_bundle: Option<&CaBundle>,
    settings: Option<&HttpConnectorSettings>,
    components: Option<&RuntimeComponents>,
) -> Connector {
    let mut context = tls::TlsContext::builder();
    if let Some(bundle) = ca_bundle {
        context =
            context.with_trust_store(tls::TrustStore::empty().with_pem_certificate(bundle.pem().to_vec()));
    }
    connector(settings, components)
        .proxy_config(ProxyConfig::from_env())
        .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
        .tls_context(context.build().expect("every certificate of the bundle was parsed"))
        .build()
}

fn connector(
    settings: Option<&HttpConnectorSettings>,
    components: Option<&RuntimeComponents>,
) -> ConnectorBuilder {
    let mut builder = Connector::builder();
    builder.set_connector_settings(settings.cloned());
    builder.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
    builder
}

/// Whether a host is this machine's or link-local: never behind a proxy, whatever the variables say.
fn is_local(host: &str) -> bool {
    if host.eq_ignore_ascii_case("localhost") {
        return true;
    }
    match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_link_local(),
        // fd00:ec2::/32 is where IMDS and the EKS agent answer over IPv6.
        Ok(IpAddr::V6(ip)) => {
            ip.is_loopback() || ip.is_unicast_link_local() || ip.segments()[..2] == [0xfd00, 0x0ec2]
        }
        Err(_) => false,
    }
}

#[derive(Debug)]
struct Route {
    routes: Arc<Routes>,
    settings: HttpConnectorSettings,
    components: RuntimeComponents,
}

impl HttpConnector for Route {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let client = self.routes.to(request.uri());
        client.http_connector(&self.settings, &self.components).call(request)
    }
}

fn http_client(ca_bundle: Option<CaBundle>) -> SharedHttpClient {
    let routes = Arc::new(Routes::new(ca_bundle));
    http_client_fn(move |settings, components| {
        SharedHttpConnector::new(Route {
            routes: Arc::clone(&routes),
            settings: settings.clone(),
            components: components.clone(),
        })
    })
}

#[cfg(test)]
mod tests;
