//! AWS License Manager, for mode `contract`.
//!
//! - Credentials, connections, the signing clock and the classification of faults are the metering client's ([`Aws`]),
//!   and a call is one attempt here too: only endpoint, signing name and bodies differ.
//! - The region is the configured one, else the pod's. If an answer names the license's own region, the call is
//!   repeated there once, and later calls go there. Only a region is taken from an answer: no call goes to a host that
//!   an answer chose.
//! - Answers are checked: a license of another product or issuer is left out, and a listing that breaks AWS's model is
//!   a fault, never a shorter listing. The token of a checkout is always returned.
//! - Consumption tokens are never shown, and neither is any byte of an answer.

mod answer;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use aws_sdk_marketplacemetering as sdk;
use aws_smithy_runtime_api::client::endpoint::EndpointFuture;
use aws_smithy_types::Document;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

pub use super::license_token::{FALLBACK_REGION, TOKEN_BYTES_MAX, token_in};

use super::call::{Asked, Call, Raw, body, invalid_answer};
use super::connection::host_of;
use super::credentials::Ready;
use super::{Aws, Purpose, Reached, in_time};
use tollgate_marketplace::exceptions::{self, ExceptionKind};
use tollgate_marketplace::license::{
    CheckedIn, CheckedOut, CheckoutLicense, ConsumptionToken, Extended, LicenseUsage, ListReceivedLicenses,
    PROVISIONAL, ReceivedLicenses,
};
use tollgate_marketplace::service::ServiceFuture;
use tollgate_marketplace::{Fault, FaultClass, License, Place, Region, Regional, Signing};

/// Prefix of the operation's name in `X-Amz-Target` (service model, `targetPrefix`).
pub(super) const TARGET_PREFIX: &str = "AWSLicenseManager.";

/// The service name for signing, and the prefix of an action in a policy.
pub(super) const SERVICE: &str = "license-manager";

/// Most pages of one listing. A page may be empty: AWS may filter after it has divided the list into pages.
const PAGES_MAX: usize = 50;

/// Licenses of a page (service model, `MaxSize100`).
const PAGE_SIZE: usize = 100;

/// Most licenses of one product and issuer: an account has one, and one for each renewal or private offer.
const LICENSES_MAX: usize = 100;

/// Most entitlements of one listing: 25 licenses with the largest number that a product can have.
const LISTED_ENTITLEMENTS_MAX: usize = 5_000;

/// Longest `NextToken` that is sent back; the service model states no limit.
const NEXT_TOKEN_BYTES_MAX: usize = 8 * 1024;

/// A consumption token that does not exist at AWS.
const TOKEN_OF_NOBODY: &str = "tollgate-doctor";

/// License Manager's answers to it if the role allows the call.
const LOOKED_AT_THE_TOKEN: [&str; 3] =
    [exceptions::NOT_FOUND, exceptions::VALIDATION, exceptions::INVALID_PARAMETER];

/// Settings for License Manager beyond those of [`Aws`].
#[derive(Debug, Clone, Default)]
pub struct LicenseManagerSettings {
    /// The region of License Manager, if it is not the pod's.
    pub region: Option<Region>,
    /// The file of a license's refresh token, for pods outside AWS: used if no other source gives credentials.
    pub token_file: Option<PathBuf>,
}

/// License Manager of AWS, or of an endpoint that stands in for it.
#[derive(Debug)]
pub struct LicenseManager {
    aws: Arc<Aws>,
    region: Option<Region>,
    learnt: Mutex<Learnt>,
}

/// What earlier calls showed.
#[derive(Debug, Default)]
struct Learnt {
    /// The region that AWS has sent this client to.
    home: Option<Region>,
    /// The host of the latest call.
    host: Option<String>,
}

/// One call, which may be sent twice.
struct Operation<'a> {
    name: &'static str,
    body: Bytes,
    /// If set, the only region for this call.
    region: Option<&'a Region>,
    /// A text that an answer may repeat and a log must not contain.
    secret: &'a str,
}

impl<'a> Operation<'a> {
    fn new(name: &'static str, request: &Value) -> Self {
        Self { name, body: body(request), region: None, secret: "" }
    }

    /// A call about a consumption token.
    fn of_token(name: &'static str, token: &'a ConsumptionToken) -> Self {
        let request = json!({"LicenseConsumptionToken": token.secret()});
        Self { region: token.region(), secret: token.secret(), ..Self::new(name, &request) }
    }
}

impl LicenseManager {
    /// Makes the client; sends, reads and resolves nothing yet. Make only one for an [`Aws`]: the settings of the first
    /// one apply to it.
    #[must_use]
    pub fn new(aws: Arc<Aws>, settings: LicenseManagerSettings) -> Self {
        let region = settings.region.clone();
        aws.loader.license.get_or_init(|| settings);
        Self { aws, region, learnt: Mutex::default() }
    }

    /// The URL that calls go to; for `doctor`.
    pub async fn endpoint(&self) -> Result<String, Fault> {
        // Credentials from a license's token have their own region.
        let region = match self.region() {
            Some(region) => region,
            None => self.aws.loader.region(&crate::connection::Trail::default()).await?,
        };
        endpoint_of(self.aws.settings(), &region).await
    }

    /// Like [`Aws::reach`], for License Manager.
    pub async fn reach(&self, url: &str) -> Result<Reached, Fault> {
        self.aws.reach(url).await.map_err(|fault| match fault.place {
            Place::Metering => Fault { place: Place::LicenseManager, ..fault },
            _ => fault,
        })
    }

    /// Tests whether the role may extend a checkout: a dry run with a token that does not exist. For `doctor`.
    pub async fn try_extension(&self) -> Result<(), Fault> {
        let request = json!({"LicenseConsumptionToken": TOKEN_OF_NOBODY, "DryRun": true});
        self.try_of_nobody("ExtendLicenseConsumption", &request).await
    }

    /// Tests whether the role may give seats back, with a token that does not exist. For `doctor`.
    pub async fn try_check_in(&self) -> Result<(), Fault> {
        self.try_of_nobody("CheckInLicense", &json!({"LicenseConsumptionToken": TOKEN_OF_NOBODY})).await
    }

    /// A call with [`TOKEN_OF_NOBODY`]: if the role has the permission, AWS answers that there is no such token.
    async fn try_of_nobody(&self, name: &'static str, request: &Value) -> Result<(), Fault> {
        let operation = Operation::new(name, request);
        match self.attempt(name, self.call(operation, Signing::default())).await {
            Err(fault) if LOOKED_AT_THE_TOKEN.contains(&fault.code.as_str()) => Ok(()),
            answer => answer.map(|_| ()),
        }
    }

    fn known_region(&self) -> Option<Region> {
        let home = self.learnt.lock().expect("held for one copy only, which cannot panic").home.clone();
        home.or_else(|| self.region.clone())
    }

    async fn attempt<T>(
        &self,
        operation: &'static str,
        attempt: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        let answer = in_time(attempt).await;
        let answer = answer.map_err(|fault| {
            let region = self.region();
            self.aws.at_a_known_region(self.located(fault, operation), region.as_ref())
        });
        if let Err(fault) = &answer {
            self.aws.learn(fault);
        }
        answer
    }

    /// Adds the host to a fault of License Manager, and the action that a policy lacks.
    fn located(&self, fault: Fault, operation: &'static str) -> Fault {
        let fault = if fault.place == Place::Metering {
            let host = self.learnt.lock().expect("held for one copy only, which cannot panic").host.clone();
            fault.at(Place::LicenseManager, host)
        } else {
            fault
        };
        let refused = exceptions::kind(fault.code.as_str()) == Some(ExceptionKind::Caller);
        if refused && fault.place == Place::LicenseManager {
            return fault.seeing(format!("{SERVICE}:{operation}"));
        }
        fault
    }

    /// The bytes of a success, and the region that sent it.
    async fn call(&self, operation: Operation<'_>, signing: Signing) -> Result<(Raw, Region), Fault> {
        // Without credentials nothing was sent, whichever service refused them.
        let ready = self.aws.ready(signing, Purpose::Call).await.map_err(Fault::unsent)?;
        let region = operation.region.cloned().or_else(|| self.known_region());
        let region = region.unwrap_or_else(|| ready.region.clone());
        let (raw, fault) = self.send(&ready, &region, &operation).await?;
        let home = fault.as_ref().filter(|fault| is_elsewhere(fault)).and_then(|_| named_region(&raw));
        let Some(home) = home.filter(|home| *home != region) else {
            return raw.unless_refused(fault).map(|raw| (raw, region));
        };
        tracing::debug!(from = %region, to = %home, "License Manager names another region");
        let (raw, fault) = self.send(&ready, &home, &operation).await?;
        if !fault.as_ref().is_some_and(is_elsewhere) {
            self.learnt.lock().expect("held for one move only, which cannot panic").home = Some(home.clone());
        }
        raw.unless_refused(fault).map(|raw| (raw, home))
    }

    async fn send(
        &self,
        ready: &Ready,
        region: &Region,
        operation: &Operation<'_>,
    ) -> Result<(Raw, Option<Fault>), Fault> {
        let url = endpoint_of(self.aws.settings(), region).await.map_err(Fault::unsent)?;
        self.learnt.lock().expect("held for one move only, which cannot panic").host = host_of(&url);
        let settings = sdk::config::Builder::new()
            .region(sdk::config::Region::new(region.as_str().to_owned()))
            .endpoint_resolver(Endpoint { url: url.clone(), region: region.clone(), service: SERVICE });
        let call = Call {
            target: format!("{TARGET_PREFIX}{}", operation.name),
            body: operation.body.clone(),
            settings: Some(settings),
            capture: self.aws.capture(),
        };
        let asked = Asked { place: Place::LicenseManager, url: &url, secrets: &[operation.secret] };
        call.send(&ready.client, asked).await
    }

    async fn list(&self, request: ListReceivedLicenses, signing: Signing) -> Result<ReceivedLicenses, Fault> {
        let mut body = json!({
            "Filters": [
                {"Name": "ProductSKU", "Values": [request.product_id.as_str()]},
                {"Name": "Fingerprint", "Values": [request.key_fingerprint.as_str()]},
            ],
            "MaxResults": PAGE_SIZE,
        });
        let (mut licenses, mut emulated, mut entitlements) = (Vec::new(), false, 0);
        let mut signing = signing;
        for _ in 0..PAGES_MAX {
            let (raw, _) = self.call(Operation::new("ListReceivedLicenses", &body), signing).await?;
            signing = Signing::default();
            emulated |= raw.emulated;
            let page = answer::page(&raw, &request)?;
            entitlements += page.licenses.iter().map(|license| license.entitlements.len()).sum::<usize>();
            licenses.extend(page.licenses);
            if licenses.len() > LICENSES_MAX || entitlements > LISTED_ENTITLEMENTS_MAX {
                return Err(invalid_answer("with more licenses than one product has"));
            }
            let Some(next) = page.next else { return Ok(ReceivedLicenses { licenses, emulated }) };
            if next.len() > NEXT_TOKEN_BYTES_MAX || body["NextToken"] == next {
                return Err(invalid_answer("with a NextToken that leads nowhere"));
            }
            body["NextToken"] = next.into();
        }
        Err(invalid_answer("with pages that never end"))
    }

    async fn check_out(&self, request: CheckoutLicense, signing: Signing) -> Result<CheckedOut, Fault> {
        let entitlements = request.entitlements.iter().map(|wanted| {
            let mut entitlement = json!({"Name": wanted.name, "Unit": wanted.unit});
            if let Some(value) = wanted.value {
                entitlement["Value"] = value.to_string().into();
            }
            entitlement
        });
        let body = json!({
            "ProductSKU": request.product_id.as_str(),
            "CheckoutType": PROVISIONAL,
            "KeyFingerprint": request.key_fingerprint.as_str(),
            "Entitlements": entitlements.collect::<Vec<Value>>(),
            "ClientToken": request.client_token,
        });
        let operation =
            Operation { secret: &request.client_token, ..Operation::new("CheckoutLicense", &body) };
        let (raw, region) = self.call(operation, signing).await?;
        answer::checked_out(&raw, region)
    }

    async fn extend(&self, token: ConsumptionToken, signing: Signing) -> Result<Extended, Fault> {
        let operation = Operation::of_token("ExtendLicenseConsumption", &token);
        let (raw, region) = self.call(operation, signing).await?;
        answer::extended(&raw, region)
    }

    async fn check_in(&self, token: ConsumptionToken, signing: Signing) -> Result<CheckedIn, Fault> {
        let operation = Operation::of_token("CheckInLicense", &token);
        let (raw, _) = self.call(operation, signing).await?;
        // Another server's page would leave the seat taken.
        raw.json()?;
        Ok(CheckedIn { emulated: raw.emulated })
    }

    async fn usage(&self, license_arn: String, signing: Signing) -> Result<LicenseUsage, Fault> {
        let body = json!({"LicenseArn": license_arn});
        let (raw, _) = self.call(Operation::new("GetLicenseUsage", &body), signing).await?;
        answer::usage(&raw)
    }
}

impl Regional for LicenseManager {
    fn region(&self) -> Option<Region> {
        self.known_region()
            .or_else(|| self.aws.loaded().map(|ready| ready.region))
            .or_else(|| self.aws.region())
    }
}

impl License for LicenseManager {
    fn list_received_licenses(
        &self,
        request: ListReceivedLicenses,
        signing: Signing,
    ) -> ServiceFuture<'_, ReceivedLicenses> {
        Box::pin(self.attempt("ListReceivedLicenses", self.list(request, signing)))
    }

    fn get_license_usage(&self, license_arn: String, signing: Signing) -> ServiceFuture<'_, LicenseUsage> {
        Box::pin(self.attempt("GetLicenseUsage", self.usage(license_arn, signing)))
    }

    fn checkout_license(&self, request: CheckoutLicense, signing: Signing) -> ServiceFuture<'_, CheckedOut> {
        Box::pin(self.attempt("CheckoutLicense", self.check_out(request, signing)))
    }

    fn extend_license_consumption(
        &self,
        token: ConsumptionToken,
        signing: Signing,
    ) -> ServiceFuture<'_, Extended> {
        Box::pin(self.attempt("ExtendLicenseConsumption", self.extend(token, signing)))
    }

    fn check_in_license(&self, token: ConsumptionToken, signing: Signing) -> ServiceFuture<'_, CheckedIn> {
        Box::pin(self.attempt("CheckInLicense", self.check_in(token, signing)))
    }

    fn clock_skew(&self) -> Option<i64> {
        *self.aws.skew.borrow()
    }
}

// === regions and endpoints ===

fn is_elsewhere(fault: &Fault) -> bool {
    exceptions::kind(fault.code.as_str()) == Some(ExceptionKind::Redirect)
}

/// The region in a `RedirectException`, from its body or header: as a name, or in a URL of License Manager.
fn named_region(raw: &Raw) -> Option<Region> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Redirect {
        location: String,
    }
    let header = raw.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("location"));
    let location = raw.parse::<Redirect>().ok().map(|redirect| redirect.location);
    region_in(&location.or_else(|| header.map(|(_, value)| value.clone()))?)
}

fn region_in(location: &str) -> Option<Region> {
    let host = host_of(location);
    let host = host.as_deref().unwrap_or(location);
    let mut labels = host.split('.');
    let region = match labels.next()? {
        service if service.starts_with(SERVICE) => labels.next()?,
        region => region,
    };
    region.parse().ok()
}

/// License Manager's own URL in `region` (service model, endpoint rules), or `endpoint_url`. The SDK's resolver knows
/// the domains of AWS's partitions.
pub(super) async fn endpoint_of(settings: &super::AwsSettings, region: &Region) -> Result<String, Fault> {
    let metering = super::endpoint_of(settings, region).await?;
    if settings.endpoint_url.is_some() {
        return Ok(metering);
    }
    let Some((_, domain)) = metering.split_once(&format!(".{region}.")) else {
        let text = format!("no domain of AWS is known for {region}");
        return Err(Fault::local(FaultClass::Misconfigured, exceptions::INVALID_REGION, text));
    };
    let fips = if settings.use_fips { "-fips" } else { "" };
    Ok(format!("https://{SERVICE}{fips}.{region}.{domain}"))
}

/// One URL, and the region that its requests are signed for.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) url: String,
    pub(super) region: Region,
    /// The service name for signing.
    pub(super) service: &'static str,
}

impl sdk::config::endpoint::ResolveEndpoint for Endpoint {
    fn resolve_endpoint<'a>(&'a self, _: &'a sdk::config::endpoint::Params) -> EndpointFuture<'a> {
        let scheme =
            [("name", "sigv4"), ("signingName", self.service), ("signingRegion", self.region.as_str())];
        let scheme = scheme.map(|(name, value)| (name.to_owned(), Document::from(value.to_owned())));
        let endpoint = aws_smithy_types::endpoint::Endpoint::builder()
            .url(self.url.clone())
            .property("authSchemes", vec![Document::Object(scheme.into_iter().collect())]);
        EndpointFuture::ready(Ok(endpoint.build()))
    }
}

#[cfg(test)]
mod tests;
