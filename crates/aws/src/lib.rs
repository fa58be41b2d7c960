//! The metering service and License Manager over the AWS SDK: the only crate that depends on it.
//!
//! - One call is one attempt: the SDK's retries are off, because this program has its own schedule.
//! - Region and credentials are looked for at the first call, not before the ports are bound; native CA roots are read
//!   at the first HTTPS connection, never for a plain-HTTP endpoint.
//! - Each fault is mapped once, here, to a [`Fault`]; no type of the SDK leaves this crate.
//! - Link-local and loopback addresses (IMDS, ECS, the emulator) are never reached through a proxy.
//! - License Manager ([`licensing`]) has no SDK of its own here: its six operations are calls of the metering client
//!   with another endpoint, signing name and body, like the operations that report usage. That costs 67 kB of the image
//!   instead of 491, and answers are read within limits: the SDK's types need 180 MB for an answer of 1 MiB.

pub mod ca_bundle;
mod call;
mod connection;
mod connector;
mod credentials;
mod entitlements;
mod license_token;
pub mod licensing;
pub mod region;
mod usage;

use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

#[cfg(test)]
use aws_credential_types::Credentials;
use aws_sdk_marketplacemetering as sdk;
use aws_smithy_async::time::TimeSource;
use aws_smithy_runtime_api::client::http::HttpConnectorSettings;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::BeforeDeserializationInterceptorContextRef;
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::config_bag::ConfigBag;
use aws_smithy_types::error::display::DisplayErrorContext;
use aws_smithy_types::timeout::TimeoutConfig;
use tokio::sync::{oneshot, watch};

use ca_bundle::CaBundle;
use call::{Asked, fault_of};
use connection::{Failure, Trail, host_of};
pub use credentials::{CredentialSource, Found, token_problem};
use credentials::{Loader, Ready, not_loaded};
use tollgate_clock as clock;
use tollgate_marketplace::exceptions;
use tollgate_marketplace::fault::{REGION_UNLISTED, REQUEST_NOT_BUILT};
use tollgate_marketplace::service::{BoxFuture, ServiceFuture};
use tollgate_marketplace::{
    BatchMeterUsage, BatchMetered, Fault, FaultClass, FaultCode, Forward, Forwarded, Identified, Meter,
    MeterUsage, Metered, Place, Region, Regional, Register, RegisterUsage, Registered, Resolve,
    ResolvedCustomer, Signing,
};
use tollgate_time::Timestamp;

/// Connect timeout: just over one SYN retransmission (1 s, then 2 s), so that one lost packet does not lose the
/// attempt.
pub const CONNECT_TIMEOUT: Duration = Duration::from_millis(3100);

/// The longest attempt, including finding region and credentials: much longer than AWS's answer times, and short enough
/// that the state is never older than this.
pub const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// How much of it region and credentials may take: one connection attempt and one answer, and there is time left for
/// the call.
const READY_TIMEOUT: Duration = Duration::from_secs(6);

/// How long to wait for the answer that shows whether the endpoint is the emulator: the emulator is on this machine or
/// near.
const STAND_IN_TIMEOUT: Duration = Duration::from_secs(1);

/// Credentials are renewed this long before they expire, independently of the calls, so that a shutdown meanwhile need
/// not wait for STS.
const RENEWED_BEFORE: Duration = Duration::from_secs(600);

/// A call is not signed with credentials that expire within this time: it may arrive after they expired.
const USABLE_FOR: Duration = Duration::from_secs(60);

/// How often, at least, the expiry of the credentials is compared with the clock, which may jump. Each look wakes an
/// idle process.
const RENEWAL_LOOK: Duration = Duration::from_secs(300);

/// The pause after a renewal that failed or brought the old ones, so that several attempts fit before the expiry.
const RENEWAL_PAUSE: Duration = Duration::from_secs(30);

/// How to reach AWS.
#[derive(Debug, Clone, Default)]
pub struct AwsSettings {
    /// The region, if the configuration or `AWS_REGION` names one.
    pub region: Option<Region>,
    /// Used instead of AWS's own endpoint.
    pub endpoint_url: Option<String>,
    /// `endpoint_url` is used instead of STS and of the ECS agent too, unless another address is set for them.
    pub stands_for_all: bool,
    /// Use AWS's own endpoint over IPv6 too.
    pub use_dual_stack: bool,
    /// Use AWS's own endpoint with validated cryptography.
    pub use_fips: bool,
    /// A seller's file exists: no profile file may set the endpoint, whenever the profile file is written.
    pub sealed: bool,
    /// `ECS_CONTAINER_METADATA_URI_V4`.
    pub ecs_metadata_uri: Option<String>,
    /// `AWS_WEB_IDENTITY_TOKEN_FILE`, for a better error than the SDK's if it cannot be read.
    pub web_identity_token_file: Option<PathBuf>,
    /// `AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE`, if an agent's URL is set; for the same reason.
    pub container_token_file: Option<PathBuf>,
    /// Settings for credentials that are incomplete: the reason to show if there are no other credentials.
    pub credential_gaps: Vec<String>,
    /// `AWS_EC2_METADATA_DISABLED`.
    pub imds_disabled: bool,
    /// The certificates of `AWS_CA_BUNDLE`, used instead of the system's.
    pub ca_bundle: Option<CaBundle>,
    /// `AWS_ROLE_ARN`, for the token of a license; otherwise the SDK itself reads it.
    pub role_arn: Option<String>,
}

/// What credentials are loaded for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// A call of the service follows, so its connection is opened while STS answers.
    Call,
    /// No call of the service follows at once.
    Credentials,
}

/// The metering service of AWS, or of an endpoint that stands in for it.
#[derive(Debug)]
pub struct Aws {
    loader: Arc<Loader>,
    offset: SigningClock,
    /// The client that signs the calls; replaced as a whole.
    ready: Arc<Mutex<Option<Ready>>>,
    /// Locked while credentials are loaded: one load at a time for all callers. A file that blocks its reader for ever
    /// blocks only one thread.
    loading: Arc<tokio::sync::Mutex<()>>,
    /// AWS's clock minus ours, in seconds, from the latest answer.
    skew: watch::Sender<Option<i64>>,
}

/// What the answer to [`Aws::reach`] showed.
#[derive(Debug, Clone)]
pub struct Reached {
    /// The endpoint's clock minus ours, in seconds, from its `Date`.
    pub clock_offset_seconds: Option<i64>,
    /// The answer has the emulator's header.
    pub emulated: bool,
    /// The answer has AWS's request ID.
    pub by_aws: bool,
    /// Status, server and content type.
    pub seen: String,
}

impl Aws {
    /// Makes the client; sends, reads and resolves nothing yet.
    #[must_use]
    pub fn new(settings: AwsSettings) -> Self {
        let offset = SigningClock::default();
        Self {
            loader: Arc::new(Loader::new(settings, offset.clone())),
            offset,
            ready: Arc::default(),
            loading: Arc::default(),
            skew: watch::Sender::new(None),
        }
    }

    #[cfg(test)]
    fn for_tests(settings: AwsSettings, credentials: Result<Credentials, Fault>) -> Self {
        let aws = Self::new(settings);
        let mut loader = Loader::new(aws.loader.settings.clone(), aws.offset.clone());
        loader.fixed_credentials = Some(credentials);
        Self { loader: Arc::new(loader), ..aws }
    }

    fn settings(&self) -> &AwsSettings {
        &self.loader.settings
    }

    /// The client, with credentials that are valid. If finding it takes too long, the fault says that the call was not
    /// sent.
    async fn ready(&self, signing: Signing, purpose: Purpose) -> Result<Ready, Fault> {
        tokio::time::timeout(READY_TIMEOUT, self.prepare(signing, purpose)).await.unwrap_or_else(|_| {
            let text = "finding region and credentials took too long";
            Err(Fault::local(FaultClass::Transient, "CredentialsUnavailable", text).unsent())
        })
    }

    fn loaded(&self) -> Option<Ready> {
        self.ready.lock().expect("held for one copy only, which cannot panic").clone()
    }

    async fn prepare(&self, signing: Signing, purpose: Purpose) -> Result<Ready, Fault> {
        let before = self.loaded();
        let usable = self.offset.now() + USABLE_FOR;
        match &before {
            Some(ready) if !signing.reload_credentials && ready.expires_at.is_none_or(|at| at > usable) => {
                return Ok(ready.clone());
            }
            _ => {}
        }
        let turn = Arc::clone(&self.loading).lock_owned().await;
        // A caller that waited for another caller's load uses its result.
        if let Some(ready) = self.loaded().filter(|now| before.as_ref().is_none_or(|old| !now.is(old))) {
            return Ok(ready);
        }
        let (loader, kept) = (Arc::clone(&self.loader), Arc::clone(&self.ready));
        let foreseen = match purpose {
            Purpose::Call => Some(self.connect_when_foreseen()),
            Purpose::Credentials => None,
        };
        let loading = tokio::task::spawn_blocking(move || {
            let ready = loader.load_on_its_own_runtime(foreseen)?;
            *kept.lock().expect("held for one move only, which cannot panic") = Some(ready.clone());
            drop(turn);
            Ok(ready)
        });
        loading.await.unwrap_or_else(|error| Err(not_loaded(&error).unsent()))
    }

    /// Opens a connection to the URL that is sent, while the load that sends it goes on.
    fn connect_when_foreseen(&self) -> oneshot::Sender<String> {
        let (foreseen, url) = oneshot::channel::<String>();
        let loader = Arc::clone(&self.loader);
        // On this runtime, which the calls use: the load's own runtime ends with the load.
        tokio::spawn(async move {
            if let Ok(url) = url.await {
                loader.connect(&url).await;
            }
        });
        foreseen
    }

    /// Renews the credentials before they expire, as long as this future is polled.
    pub async fn keep_credentials(&self) {
        loop {
            let until_renewal = self.until_renewal();
            tokio::time::sleep(until_renewal.clamp(RENEWAL_PAUSE, RENEWAL_LOOK)).await;
            if self.until_renewal().is_zero()
                && let Err(fault) = self.renew().await
            {
                tracing::debug!(code = %fault.code, detail = fault.detail, "the credentials are not renewed yet");
            }
        }
    }

    /// For how long the credentials need no renewal. Until they are loaded, they may be loaded at any time.
    fn until_renewal(&self) -> Duration {
        let Some(ready) = self.loaded() else { return RENEWAL_PAUSE };
        let Some(expires_at) = ready.expires_at else { return RENEWAL_LOOK };
        let soon = self.offset.now() + RENEWED_BEFORE;
        expires_at.duration_since(soon).unwrap_or_default()
    }

    async fn renew(&self) -> Result<Ready, Fault> {
        self.ready(Signing { reload_credentials: true }, Purpose::Credentials).await
    }

    /// The region in which this pod or task runs, and the source that named it; for `doctor`.
    pub async fn platform_region(&self) -> Option<(Region, &'static str)> {
        let found = async {
            match region::from_ecs(self.settings().ecs_metadata_uri.as_deref()).await {
                Ok(Some(region)) => Some((region, "the ECS task metadata")),
                Ok(None) | Err(_) => {
                    self.loader.region_from_imds(&Trail::default()).await.map(|region| (region, "IMDS"))
                }
            }
        };
        tokio::time::timeout(ATTEMPT_TIMEOUT, found).await.ok().flatten()
    }

    /// Where the credentials come from, found as for a call; for `doctor`. The credentials are loaded for this, with a
    /// call of STS if their source needs one.
    pub async fn inspect_credentials(&self) -> Result<Found, Fault> {
        self.ready(Signing::default(), Purpose::Credentials).await?;
        Ok(self.loader.found())
    }

    /// The URL that calls go to, as the SDK resolves it (region, dual-stack, FIPS); also for `doctor`.
    pub async fn endpoint(&self) -> Result<String, Fault> {
        if let Some(url) = &self.settings().endpoint_url {
            return Ok(url.clone());
        }
        endpoint_of(self.settings(), &self.loader.region(&Trail::default()).await?).await
    }

    /// The settings of a call to another region than this sidecar's; `None` if they are the same.
    async fn elsewhere(&self, region: Option<&Region>) -> Result<Option<sdk::config::Builder>, Fault> {
        let Some(region) = region.filter(|region| self.region().as_ref() != Some(*region)) else {
            return Ok(None);
        };
        let name = aws_config::Region::new(region.as_str().to_owned());
        let mut config = sdk::config::Builder::new().region(name);
        // A sealed client's endpoint is fixed, so that no profile can set another one.
        if self.settings().endpoint_url.is_none() && self.settings().sealed {
            config = config.endpoint_url(endpoint_of(self.settings(), region).await?);
        }
        Ok(Some(config))
    }

    /// The proxy for a call to `url`, as the SDK chooses it; for `doctor`.
    #[must_use]
    pub fn proxy(url: &str) -> Option<hyper::Uri> {
        connection::proxy(url)
    }

    /// Whether `endpoint_url` is the emulator; AWS itself is not asked. No answer is a fault, because it may be the
    /// emulator.
    async fn is_emulated(&self) -> Result<bool, Fault> {
        let Some(url) = &self.settings().endpoint_url else { return Ok(false) };
        let silent = || Fault::local(FaultClass::Transient, "Timeout", "no answer of endpoint_url in time");
        match tokio::time::timeout(STAND_IN_TIMEOUT, self.reach_by(url, None)).await {
            Ok(reached) => reached.map(|reached| reached.emulated),
            Err(_) => Err(silent().at(Place::Metering, host_of(url))),
        }
    }

    /// Sends an unsigned request to `url`, on the route that a call would take; for `doctor`. Any answer proves that
    /// name, connection, proxy and TLS work; its status does not matter.
    ///
    /// If the answer does not look like AWS's, a second request follows: an unsigned operation of AWS's protocol. AWS
    /// refuses it in its own form, and another server does not.
    pub async fn reach(&self, url: &str) -> Result<Reached, Fault> {
        let reached = self.reach_by(url, None).await?;
        if reached.by_aws || reached.emulated {
            Ok(reached)
        } else {
            self.reach_by(url, Some(UNSIGNED)).await
        }
    }

    async fn reach_by(&self, url: &str, operation: Option<&'static str>) -> Result<Reached, Fault> {
        // Connections of its own: what works now is asked, not what worked before.
        let routes = self.loader.own_routes();
        let mut request = HttpRequest::empty();
        request
            .set_uri(url)
            .map_err(|error| Fault::local(FaultClass::Misconfigured, REQUEST_NOT_BUILT, error.to_string()))?;
        if let Some(operation) = operation {
            request.set_method("POST").map_err(|error| {
                Fault::local(FaultClass::Misconfigured, REQUEST_NOT_BUILT, error.to_string())
            })?;
            let headers = request.headers_mut();
            headers.insert("x-amz-target", operation);
            headers.insert("content-type", "application/x-amz-json-1.1");
            headers.insert("content-length", "2");
            *request.body_mut() = SdkBody::from("{}");
        }
        let calling = async {
            let pool = routes.to(url).map_err(|error| ConnectorError::user(error.into()))?;
            pool.call(request, &HttpConnectorSettings::builder().build()).await
        };
        let called = tokio::time::timeout(ATTEMPT_TIMEOUT, calling).await;
        match called {
            Ok(Ok(response)) => {
                let headers = response.headers();
                let text = |name| headers.get(name).unwrap_or("none").escape_debug().to_string();
                Ok(Reached {
                    clock_offset_seconds: clock_offset(headers.get("date")),
                    emulated: headers.get(EMULATOR_HEADER).is_some(),
                    by_aws: headers.get("x-amzn-requestid").is_some(),
                    seen: format!(
                        "HTTP {}, Server {}, Content-Type {}",
                        response.status().as_u16(),
                        text("server"),
                        text("content-type")
                    ),
                })
            }
            Ok(Err(error)) => {
                let failure = Failure::of(&error, url);
                let detail = DisplayErrorContext(&error).to_string();
                let fault = Fault::local(FaultClass::Transient, failure.code, detail);
                Err(placed(fault, &failure, Asked { place: Place::Metering, url, secrets: &[] }))
            }
            Err(_) => {
                let fault = Fault::local(FaultClass::Transient, "Timeout", "no answer in time");
                Err(fault.at(Place::Metering, host_of(url)))
            }
        }
    }

    async fn register_usage_once(
        &self,
        request: RegisterUsage,
        signing: Signing,
    ) -> Result<Registered, Fault> {
        let client = self.ready(signing, Purpose::Call).await?.client;
        let capture = self.capture();
        let answer = client
            .register_usage()
            .product_code(request.product_code.as_str())
            .public_key_version(request.public_key_version.value())
            .nonce(request.nonce.as_str())
            .customize()
            .interceptor(capture.clone())
            .send()
            .await;
        let marks = capture.take();
        match answer {
            Ok(output) => match output.signature {
                Some(signature) => Ok(Registered {
                    signature,
                    public_key_rotation_timestamp: output
                        .public_key_rotation_timestamp
                        .and_then(|at| at.to_millis().ok())
                        .map(Timestamp::from_unix_millis),
                    emulated: marks.emulated,
                    host: self.loader.found_endpoint().as_deref().and_then(host_of),
                }),
                None => Err(Fault {
                    emulated: marks.emulated,
                    ..Fault::local(FaultClass::Transient, "MissingSignature", "a 200 without Signature")
                }),
            },
            Err(error) => {
                let url = self.loader.found_endpoint().unwrap_or_default();
                Err(fault_of(&error, marks, Asked { place: Place::Metering, url: &url, secrets: &[] }))
            }
        }
    }
}

impl Regional for Aws {
    fn region(&self) -> Option<Region> {
        self.loader.found_region()
    }
}

impl Register for Aws {
    fn register_usage(&self, request: RegisterUsage, signing: Signing) -> ServiceFuture<'_, Registered> {
        Box::pin(self.attempt(self.register_usage_once(request, signing)))
    }

    fn identify(&self, signing: Signing) -> ServiceFuture<'_, Identified> {
        Box::pin(self.attempt(async move {
            self.ready(signing, Purpose::Credentials).await?;
            Ok(Identified { emulated: self.is_emulated().await? })
        }))
    }

    fn clock_skew(&self) -> Option<i64> {
        *self.skew.borrow()
    }

    fn clock_skew_changed(&self, known: Option<i64>) -> BoxFuture<'_, ()> {
        let mut skew = self.skew.subscribe();
        Box::pin(async move {
            let changed = skew.wait_for(|skew| *skew != known).await;
            changed.expect("the sender is this client's own, which is borrowed");
        })
    }
}

impl Meter for Aws {
    fn meter_usage(&self, request: MeterUsage, signing: Signing) -> ServiceFuture<'_, Metered> {
        Box::pin(self.attempt(self.meter_usage_once(request, signing)))
    }

    fn batch_meter_usage(
        &self,
        request: BatchMeterUsage,
        signing: Signing,
    ) -> ServiceFuture<'_, BatchMetered> {
        Box::pin(self.attempt(self.batch_meter_usage_once(request, signing)))
    }
}

impl Resolve for Aws {
    fn resolve_customer(&self, token: String) -> ServiceFuture<'_, ResolvedCustomer> {
        Box::pin(self.attempt(self.resolve_customer_once(token)))
    }
}

impl Forward for Aws {
    fn forward(&self, target: String, body: Vec<u8>, region: Option<Region>) -> ServiceFuture<'_, Forwarded> {
        Box::pin(self.attempt(self.forward_once(target, body, region)))
    }
}

/// The attempt, limited to [`ATTEMPT_TIMEOUT`].
async fn in_time<T>(attempt: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    tokio::time::timeout(ATTEMPT_TIMEOUT, attempt)
        .await
        .unwrap_or_else(|_| Err(Fault::local(FaultClass::Transient, "Timeout", "the attempt's time ran out")))
}

impl Aws {
    async fn attempt<T>(&self, attempt: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
        let answer = in_time(attempt).await;
        let answer = answer.map_err(|fault| {
            let region = self.loader.found_region();
            self.at_a_known_region(self.located(fault), region.as_ref())
        });
        if let Err(fault) = &answer {
            self.learn(fault);
        }
        answer
    }

    /// Adds the host to a fault of the metering service, and the region if AWS says that it is the wrong one.
    fn located(&self, mut fault: Fault) -> Fault {
        if fault.place == Place::Metering && fault.host.is_none() {
            fault.host = self.loader.found_endpoint().as_deref().and_then(host_of);
        }
        let misplaced = [exceptions::INVALID_REGION, exceptions::INVALID_ENDPOINT_REGION];
        match self.loader.found_region() {
            Some(region) if misplaced.contains(&fault.code.as_str()) => {
                fault.seeing(format!("asked in {}", region.as_str()))
            }
            _ => fault,
        }
    }

    /// The endpoint's name does not exist if the region does not: names that as the cause.
    fn at_a_known_region(&self, fault: Fault, region: Option<&Region>) -> Fault {
        let unlisted =
            region.is_some_and(|region| !region.is_listed()) && self.settings().endpoint_url.is_none();
        let of_aws = matches!(fault.place, Place::Metering | Place::LicenseManager | Place::Sts);
        if unlisted && of_aws && fault.code.as_str() == "Dns" {
            return Fault { code: FaultCode::known(REGION_UNLISTED), ..fault };
        }
        fault
    }

    /// After AWS refused the caller: if our clock is off, later calls are signed by AWS's clock; if it is right, by
    /// ours again.
    fn learn(&self, fault: &Fault) {
        if let (FaultClass::Access, Some(offset)) = (fault.class, fault.clock_offset_seconds) {
            self.offset.0.store(if fault.clock_is_off() { offset } else { 0 }, Ordering::Release);
        }
    }
}

/// The metering service's own URL in `region`, or `endpoint_url`.
async fn endpoint_of(settings: &AwsSettings, region: &Region) -> Result<String, Fault> {
    use sdk::config::endpoint::{DefaultResolver, Params, ResolveEndpoint as _};
    if let Some(url) = &settings.endpoint_url {
        return Ok(url.clone());
    }
    let unresolved =
        |error: String| Fault::local(FaultClass::Misconfigured, exceptions::INVALID_REGION, error);
    let params = Params::builder()
        .region(region.as_str())
        .use_dual_stack(settings.use_dual_stack)
        .use_fips(settings.use_fips)
        .build()
        .map_err(|error| unresolved(error.to_string()))?;
    let endpoint = DefaultResolver::new().resolve_endpoint(&params).await;
    endpoint.map(|endpoint| endpoint.url().to_owned()).map_err(|error| unresolved(error.to_string()))
}

fn timeouts() -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(ATTEMPT_TIMEOUT)
        .build()
}

// === faults ===

/// Adds to a fault what failed, and where: at the proxy or at the host of the call.
fn placed(fault: Fault, failure: &Failure, asked: Asked<'_>) -> Fault {
    let fault = fault.seeing(failure.seen.clone());
    if failure.at_proxy {
        fault.at(Place::Proxy, proxy_host(asked.url))
    } else {
        fault.at(asked.place, host_of(asked.url))
    }
}

fn proxy_host(url: &str) -> Option<String> {
    connection::proxy(url).and_then(|proxy| host_of(&proxy.to_string()))
}

// === what the answer's headers say ===

/// The emulator sets it on every answer; see its documentation.
const EMULATOR_HEADER: &str = "x-tollgate-emulator";

/// An operation that changes nothing even if a server accepts it unsigned.
const UNSIGNED: &str = "AWSMPMeteringService.ResolveCustomer";

#[derive(Debug, Clone, Copy, Default)]
struct Marks {
    emulated: bool,
    clock_offset_seconds: Option<i64>,
}

/// The clock of the server that sent this `Date`, minus ours, in seconds.
fn clock_offset(date: Option<&str>) -> Option<i64> {
    let date = tollgate_time::parse_http_date(date?)?;
    Some(date.unix_seconds().saturating_sub(clock::system_now().unix_seconds()))
}

/// An interceptor that notes headers of the answer, which the SDK drops from a success.
#[derive(Debug, Clone)]
struct HeaderCapture {
    marks: Arc<Mutex<Marks>>,
    skew: watch::Sender<Option<i64>>,
}

impl Aws {
    fn capture(&self) -> HeaderCapture {
        HeaderCapture { marks: Arc::default(), skew: self.skew.clone() }
    }
}

impl HeaderCapture {
    /// For a call whose `Date` is not used.
    fn alone() -> Self {
        Self { marks: Arc::default(), skew: watch::Sender::new(None) }
    }

    fn take(&self) -> Marks {
        *self.marks.lock().expect("held for one copy only, which cannot panic")
    }
}

#[aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint]
impl Intercept for HeaderCapture {
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
        *self.marks.lock().expect("held for one copy only, which cannot panic") = marks;
        if let Some(offset) = marks.clock_offset_seconds {
            self.skew.send_if_modified(|skew| skew.replace(offset) != Some(offset));
        }
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

#[cfg(test)]
mod tests;
