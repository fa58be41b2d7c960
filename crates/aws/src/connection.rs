//! Connections: which requests go through a proxy, which certificates TLS trusts, how much of an answer is read, and
//! what is noted of each request so that a fault can name what failed and where.
//!
//! - Link-local and loopback addresses (IMDS, the agents, the emulator) are never reached through a proxy.
//! - Every answer is cut at its limit here, below the SDK: this covers all operations.

use std::error::Error as StdError;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock};

use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
    http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;
use http_body_util::{BodyExt as _, Limited};

use crate::ca_bundle::CaBundleError;
use crate::connector::{Pool, Trust, trusting_nobody};
use crate::licensing;
use tollgate_marketplace::Place;
use tollgate_marketplace::fault::{
    CERTIFICATE, PROXY_AUTHENTICATION_REQUIRED, PROXY_REFUSED, TLS_EXPIRED, TLS_HANDSHAKE, TLS_NAME,
    TLS_NOT_YET_VALID, TLS_UNTRUSTED,
};

/// Largest answer of the metering service: the answer of a batch repeats its records, which are below 1 MB.
pub(super) const METERING_ANSWER_BYTES_MAX: usize = 4 << 20;

/// Largest answer of anything else (License Manager, STS, the agents, IMDS): a few kilobytes are expected.
pub(super) const OTHER_ANSWER_BYTES_MAX: usize = 1 << 20;

/// Three pools of connections, each made when first needed.
#[derive(Debug)]
pub(super) struct Routes {
    /// Plain HTTP without a proxy, for local addresses.
    direct: OnceLock<Pool>,
    /// Plain HTTP, through the proxy if one is set.
    plain: OnceLock<Pool>,
    /// HTTPS, through the proxy if one is set. To make it reads the CA roots.
    tls: OnceLock<Pool>,
    trust: Arc<Trust>,
    /// The URL that is used instead of AWS's other services.
    stand_in: Option<String>,
}

impl Routes {
    pub(super) fn new(trust: Arc<Trust>, stand_in: Option<String>) -> Self {
        let [direct, plain, tls] = [const { OnceLock::new() }; 3];
        Self { direct, plain, tls, trust, stand_in }
    }

    /// The pool for requests to `uri`. May block while certificates are read.
    pub(super) fn to(&self, uri: &str) -> Result<&Pool, CaBundleError> {
        Ok(match Way::to(uri) {
            Way::Direct => self.direct.get_or_init(Pool::direct),
            Way::Plain => self.plain.get_or_init(|| Pool::new(&trusting_nobody())),
            Way::Tls => {
                let config = self.trust.config()?;
                self.tls.get_or_init(|| Pool::new(&config))
            }
        })
    }

    /// A client whose requests are noted in `trail`.
    pub(super) fn client(self: &Arc<Self>, trail: Trail) -> SharedHttpClient {
        let routes = Arc::clone(self);
        http_client_fn(move |limits, _| {
            let (routes, trail, limits) = (Arc::clone(&routes), trail.clone(), limits.clone());
            SharedHttpConnector::new(Route { routes, trail, limits })
        })
    }
}

pub(super) enum Way {
    Direct,
    Plain,
    Tls,
}

impl Way {
    pub(super) fn to(uri: &str) -> Self {
        let parsed: Option<hyper::Uri> = uri.parse().ok();
        let host = parsed.as_ref().and_then(hyper::Uri::host).unwrap_or_default();
        match parsed.as_ref().and_then(hyper::Uri::scheme_str) {
            Some("http") if is_local(host) => Self::Direct,
            Some("http") => Self::Plain,
            _ => Self::Tls,
        }
    }
}

/// The proxy for a request to `url`, as a pool chooses it.
pub(super) fn proxy(url: &str) -> Option<hyper::Uri> {
    if matches!(Way::to(url), Way::Direct) {
        return None;
    }
    let intercept = hyper_util::client::proxy::matcher::Matcher::from_env().intercept(&url.parse().ok()?)?;
    Some(intercept.uri().clone())
}

/// Host and port of a URL; never its user or password.
pub(super) fn host_of(url: &str) -> Option<String> {
    let uri: hyper::Uri = url.parse().ok()?;
    host_of_uri(&uri)
}

fn host_of_uri(uri: &hyper::Uri) -> Option<String> {
    let host = uri.host()?;
    Some(uri.port_u16().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}

/// Whether a host is this machine or link-local: never through a proxy, whatever the environment variables are.
pub(super) fn is_local(host: &str) -> bool {
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

// === what is noted ===

/// One request and its outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Exchange {
    /// The service that it was sent to.
    pub(super) place: Place,
    /// Host and port.
    pub(super) host: String,
    /// How it ended.
    pub(super) outcome: Outcome,
    /// What to show operators of it.
    pub(super) seen: String,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Cancelled before there was an answer.
    Unanswered,
    /// An answer with this status began.
    Answered(u16),
    /// No answer: our code, and whether a connection was established.
    Failed(&'static str, bool),
}

/// The requests of one client, in order.
#[derive(Debug, Clone, Default)]
pub(super) struct Trail(Arc<Mutex<Vec<Exchange>>>);

/// Most requests that are noted: a source of credentials gets only a few.
const TRAIL_MAX: usize = 32;

impl Trail {
    fn begin(&self, uri: &str, target: Option<&str>) -> Option<usize> {
        let mut trail = self.0.lock().expect("held for a push only, which cannot panic");
        if trail.len() >= TRAIL_MAX {
            return None;
        }
        let (place, host) = (place_of(uri, target), host_of(uri).unwrap_or_default());
        trail.push(Exchange { place, host, outcome: Outcome::Unanswered, seen: String::new() });
        Some(trail.len() - 1)
    }

    fn end(&self, at: Option<usize>, uri: &str, (outcome, seen): (Outcome, String), by_proxy: bool) {
        let Some(at) = at else { return };
        let mut trail = self.0.lock().expect("held for a push only, which cannot panic");
        let Some(exchange) = trail.get_mut(at) else { return };
        (exchange.outcome, exchange.seen) = (outcome, seen);
        if by_proxy && let Some(host) = proxy(uri).as_ref().and_then(host_of_uri) {
            (exchange.place, exchange.host) = (Place::Proxy, host);
        }
    }

    /// The latest request. An error is about it, because sources are tried one after the other.
    pub(super) fn last(&self) -> Option<Exchange> {
        self.0.lock().expect("held for a push only, which cannot panic").last().cloned()
    }

    /// The hosts of the requests, each once, in order.
    pub(super) fn hosts(&self) -> Vec<String> {
        let trail = self.0.lock().expect("held for a push only, which cannot panic");
        let mut hosts: Vec<String> = Vec::new();
        for exchange in trail.iter() {
            if !hosts.contains(&exchange.host) {
                hosts.push(exchange.host.clone());
            }
        }
        hosts
    }

    /// Whether `place` has answered anything.
    pub(super) fn has_answered(&self, place: Place) -> bool {
        let trail = self.0.lock().expect("held for a push only, which cannot panic");
        trail
            .iter()
            .any(|exchange| exchange.place == place && matches!(exchange.outcome, Outcome::Answered(_)))
    }
}

/// The service that a request is for, by the paths and hosts in AWS's documents: only IMDS serves `/latest/…`; only
/// License Manager has an operation's name in a header; STS is the other service that gets a POST to `/`; any other
/// path belongs to a source of container credentials.
fn place_of(uri: &str, target: Option<&str>) -> Place {
    if target.is_some_and(is_license_manager) {
        return Place::LicenseManager;
    }
    let Ok(parsed) = uri.parse::<hyper::Uri>() else { return Place::Metering };
    let host = parsed.host().unwrap_or_default();
    let path = parsed.path();
    if host == "169.254.169.254" || host.trim_matches(['[', ']']) == "fd00:ec2::254" {
        return Place::Imds;
    }
    if path.starts_with("/latest/") {
        return Place::Imds;
    }
    if matches!(path, "" | "/") { Place::Sts } else { Place::Container }
}

/// Whether `X-Amz-Target` names an operation of License Manager.
fn is_license_manager(target: &str) -> bool {
    target.starts_with(licensing::TARGET_PREFIX)
}

/// The URL for a request when `stand_in` replaces AWS: for STS's own name and the ECS agent's fixed address. An address
/// that the user set is not changed.
fn redirected(uri: &str, stand_in: &str) -> Option<String> {
    let parsed: hyper::Uri = uri.parse().ok()?;
    let host = parsed.host()?.to_ascii_lowercase();
    let sts = ["sts.", "sts-fips."].iter().any(|name| host.starts_with(name))
        && [".amazonaws.", ".api.aws", ".api.amazonwebservices."].iter().any(|domain| host.contains(domain));
    let path = parsed.path_and_query().map_or("/", hyper::http::uri::PathAndQuery::as_str);
    (sts || host == ECS_AGENT).then(|| format!("{}{path}", stand_in.trim_end_matches('/')))
}

/// The host for `AWS_CONTAINER_CREDENTIALS_RELATIVE_URI` (ECS developer guide, "Task IAM role").
const ECS_AGENT: &str = "169.254.170.2";

#[derive(Debug)]
struct Route {
    routes: Arc<Routes>,
    trail: Trail,
    /// How long the SDK's client waits for a connection, and then for an answer.
    limits: HttpConnectorSettings,
}

impl HttpConnector for Route {
    fn call(&self, mut request: HttpRequest) -> HttpConnectorFuture {
        if let Some(elsewhere) =
            self.routes.stand_in.as_deref().and_then(|url| redirected(request.uri(), url))
            && let Err(error) = request.set_uri(elsewhere)
        {
            return HttpConnectorFuture::ready(Err(ConnectorError::user(error.into())));
        }
        let uri = request.uri().to_owned();
        let target = request.headers().get("x-amz-target");
        let metering = target.is_some_and(|target| !is_license_manager(target));
        let limit = if metering { METERING_ANSWER_BYTES_MAX } else { OTHER_ANSWER_BYTES_MAX };
        let at = self.trail.begin(&uri, target);
        let trail = self.trail.clone();
        let call = match self.routes.to(&uri) {
            Ok(pool) => pool.call(request, &self.limits),
            Err(error) => HttpConnectorFuture::ready(Err(ConnectorError::user(error.into()))),
        };
        HttpConnectorFuture::new(async move {
            match call.await {
                Ok(response) => {
                    let status = response.status().as_u16();
                    let by_proxy = status == PROXY_AUTHENTICATION;
                    let seen = if by_proxy { asked_for(&uri) } else { answered(&response) };
                    trail.end(at, &uri, (Outcome::Answered(status), seen), by_proxy);
                    Ok(limited(response, limit))
                }
                Err(error) => {
                    let failure = Failure::of(&error, &uri);
                    let outcome = Outcome::Failed(failure.code, failure.connected);
                    trail.end(at, &uri, (outcome, failure.seen), failure.at_proxy);
                    Err(error)
                }
            }
        })
    }
}

/// RFC 9110, section 15.5.8: only a proxy sends this status.
pub(super) const PROXY_AUTHENTICATION: u16 = 407;

/// The host that a proxy was asked to reach.
pub(super) fn asked_for(uri: &str) -> String {
    host_of(uri).map_or_else(String::new, |host| format!("asked for {host}"))
}

/// Longest part of another server's header that is shown.
const HEADER_SHOWN: usize = 40;

/// A short description of an answer that is not AWS's.
pub(super) fn answered(response: &HttpResponse) -> String {
    let status = response.status().as_u16();
    let kind = response.headers().get("content-type").unwrap_or_default();
    let kind: String = kind.chars().filter(char::is_ascii_graphic).take(HEADER_SHOWN).collect();
    if kind.is_empty() { format!("HTTP {status}") } else { format!("HTTP {status}, {kind}") }
}

/// Limits the answer to `limit` bytes; a longer one is a fault like a broken connection.
fn limited(response: HttpResponse, limit: usize) -> HttpResponse {
    response.map(|body| SdkBody::from_body_1_x(Limited::new(body, limit).map_err(|error| error)))
}

// === what the HTTP stack says of a failure ===

/// Why there was no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// Our code.
    pub(super) code: &'static str,
    /// A connection was established: the request may have been read.
    pub(super) connected: bool,
    /// The proxy failed, not the server behind it.
    pub(super) at_proxy: bool,
    /// What to show operators.
    pub(super) seen: String,
}

impl Failure {
    /// Why a request to `uri` has no answer. The HTTP stack has no public types for these causes, so its error texts
    /// are matched; tests with real sockets check the texts.
    pub(super) fn of(error: &ConnectorError, uri: &str) -> Self {
        // Nothing was opened: the file of AWS_CA_BUNDLE cannot be used.
        if let Some(bundle) = chain(error).find_map(<dyn StdError>::downcast_ref::<CaBundleError>) {
            let seen = format!("AWS_CA_BUNDLE: {bundle}");
            return Self { code: TLS_UNTRUSTED, connected: false, at_proxy: false, seen };
        }
        let proxied = proxy(uri).is_some();
        let connected = !says(error, &CONNECTING);
        // The proxy accepted the tunnel, but what came through it was not TLS.
        let tunnelled = proxied && !connected && matches!(Way::to(uri), Way::Tls) && !says(error, &[TUNNEL]);
        let code = if error.is_timeout() { timeout_code(error) } else { dispatch_code(error, tunnelled) };
        let at_proxy = match code {
            PROXY_AUTHENTICATION_REQUIRED | PROXY_REFUSED | "Dns" | "ConnectTimeout" => true,
            CONNECTION => !connected,
            // The proxy itself is reached over TLS and its certificate is not trusted.
            _ => says(error, &[TUNNEL]),
        };
        let at_proxy = proxied && at_proxy;
        let seen = match proxy(uri).as_ref().and_then(host_of_uri) {
            Some(_) if at_proxy && code != CONNECTION => asked_for(uri),
            Some(proxy) if CERTIFICATE.contains(&code) => format!("by way of the proxy at {proxy}"),
            _ if code == SPEAKS_NO_TLS => "it does not speak TLS".to_owned(),
            _ if code == CONNECTION => system_says(error),
            _ => String::new(),
        };
        Self { code, connected, at_proxy, seen }
    }
}

/// The operating system's error for a connection: refused, reset, no route.
fn system_says(error: &(dyn StdError + 'static)) -> String {
    let said = chain(error).filter_map(|cause| Some(cause.downcast_ref::<std::io::Error>()?.kind()));
    said.filter(|kind| *kind != std::io::ErrorKind::Other)
        .last()
        .map_or_else(String::new, |kind| kind.to_string())
}

/// Texts of the HTTP stack if no connection was established.
const CONNECTING: [&str; 3] = ["(connect)", "connect timeout", "dns error"];

fn timeout_code(error: &(dyn StdError + 'static)) -> &'static str {
    if says(error, &["connect"]) { "ConnectTimeout" } else { "Timeout" }
}

/// Texts of the HTTP stack, and our code for each; the first row that matches counts.
const SAID: [(&[&str], &str); 9] = [
    (&["tunnel error: proxy authorization required"], PROXY_AUTHENTICATION_REQUIRED),
    (&["tunnel error: unsuccessful", "tunnel error: proxy response headers too long"], PROXY_REFUSED),
    (&["dns error", "failed to lookup address"], "Dns"),
    (&["certificate expired", "certificate: expired"], TLS_EXPIRED),
    (&["certificate not valid yet", "certificate: notvalidyet"], TLS_NOT_YET_VALID),
    (&["certificate not valid for name", "certificate: notvalidforname"], TLS_NAME),
    (&["certificate"], TLS_UNTRUSTED),
    (&["received corrupt message"], SPEAKS_NO_TLS),
    (&["tls handshake eof"], CONNECTION),
];

/// The answer was not TLS: another server, or a web page.
const SPEAKS_NO_TLS: &str = "InvalidAnswer";

/// No connection, or one that ended before the TLS handshake was done.
const CONNECTION: &str = "Connection";

/// Prefix of errors on the way to a proxy and through it, up to the proxy's answer to `CONNECT`.
const TUNNEL: &str = "tunnel error";

fn dispatch_code(error: &(dyn StdError + 'static), tunnelled: bool) -> &'static str {
    let said = SAID.iter().find(|(words, _)| says(error, words)).map(|(_, code)| *code);
    let code = said.unwrap_or_else(|| if says(error, &["tls"]) { TLS_HANDSHAKE } else { CONNECTION });
    match code {
        // A proxy that accepts the tunnel and then sends its own page or closes the connection has refused it.
        SPEAKS_NO_TLS | CONNECTION if tunnelled => PROXY_REFUSED,
        code => code,
    }
}

/// Whether the text of an error or of one of its causes contains one of these words.
fn says(error: &(dyn StdError + 'static), words: &[&str]) -> bool {
    chain(error).any(|cause| {
        let cause = cause.to_string().to_lowercase();
        words.iter().any(|word| cause.contains(word))
    })
}

pub(super) fn chain<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    let next =
        |error: &&'a (dyn StdError + 'static)| -> Option<&'a (dyn StdError + 'static)> { (**error).source() };
    std::iter::successors(Some(error), next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_hosts_are_never_asked_through_a_proxy() {
        for local in [
            "localhost",
            "127.0.0.1",
            "[::1]",
            "169.254.169.254",
            "169.254.170.2",
            "[fd00:ec2::254]",
            "fe80::1",
        ] {
            assert!(is_local(local), "{local}");
        }
        for remote in ["metering.marketplace.us-east-1.amazonaws.com", "10.0.0.1", "[2600::1]", ""] {
            assert!(!is_local(remote), "{remote}");
        }
    }

    #[test]
    fn what_a_credential_request_asks_is_told_by_its_address() {
        for (uri, place) in [
            ("https://sts.us-east-1.amazonaws.com/", Place::Sts),
            ("http://127.0.0.1:4566/", Place::Sts),
            ("http://169.254.170.2/v2/credentials/1", Place::Container),
            ("http://169.254.170.23/v1/credentials", Place::Container),
            ("http://169.254.169.254/latest/api/token", Place::Imds),
            ("http://[fd00:ec2::254]/latest/api/token", Place::Imds),
        ] {
            assert_eq!(place_of(uri, None), place, "{uri}");
        }
        let target = Some("AWSLicenseManager.GetAccessToken");
        assert_eq!(place_of("http://127.0.0.1:4566/", target), Place::LicenseManager);
    }

    #[test]
    fn a_stand_in_is_asked_instead_of_awss_own_names_alone() {
        for (uri, elsewhere) in [
            ("https://sts.us-east-1.amazonaws.com/", Some("http://127.0.0.1:8090/")),
            ("https://sts.amazonaws.com/", Some("http://127.0.0.1:8090/")),
            ("https://sts-fips.us-west-2.amazonaws.com/", Some("http://127.0.0.1:8090/")),
            ("https://sts.eu-central-1.api.aws/", Some("http://127.0.0.1:8090/")),
            ("https://sts.cn-north-1.amazonaws.com.cn/", Some("http://127.0.0.1:8090/")),
            ("http://169.254.170.2/v2/credentials/a?b", Some("http://127.0.0.1:8090/v2/credentials/a?b")),
            ("http://169.254.170.23/v1/credentials", None),
            ("http://127.0.0.1:4566/", None),
            ("https://sts.invalid/", None),
            ("https://metering.marketplace.us-east-1.amazonaws.com/", None),
            ("http://169.254.169.254/latest/api/token", None),
        ] {
            for stand_in in ["http://127.0.0.1:8090", "http://127.0.0.1:8090/"] {
                assert_eq!(redirected(uri, stand_in).as_deref(), elsewhere, "{uri}");
            }
        }
    }

    #[test]
    fn a_host_is_named_without_user_and_password() {
        assert_eq!(host_of("http://user:secret@proxy:3128/x").as_deref(), Some("proxy:3128"));
        assert_eq!(
            host_of("https://sts.us-east-1.amazonaws.com").as_deref(),
            Some("sts.us-east-1.amazonaws.com")
        );
        assert_eq!(host_of("/path"), None);
    }

    /// The words are rustls's: if a version changes them, this test fails.
    #[test]
    fn what_is_wrong_with_a_certificate_is_told_by_rustlss_words() {
        use rustls::CertificateError::{
            BadSignature, Expired, ExpiredContext, NotValidForName, NotValidForNameContext, NotValidYet,
            NotValidYetContext, UnknownIssuer,
        };
        let at =
            |seconds| rustls_pki_types::UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        let name = rustls_pki_types::ServerName::try_from("sts.invalid").unwrap();
        for (error, code) in [
            (Expired, TLS_EXPIRED),
            (ExpiredContext { time: at(2), not_after: at(1) }, TLS_EXPIRED),
            (NotValidYet, TLS_NOT_YET_VALID),
            (NotValidYetContext { time: at(1), not_before: at(2) }, TLS_NOT_YET_VALID),
            (NotValidForName, TLS_NAME),
            (NotValidForNameContext { expected: name, presented: Vec::new() }, TLS_NAME),
            (UnknownIssuer, TLS_UNTRUSTED),
            (BadSignature, TLS_UNTRUSTED),
        ] {
            let error = std::io::Error::other(rustls::Error::InvalidCertificate(error));
            assert_eq!(dispatch_code(&error, false), code, "{error}");
        }
    }

    /// Else its record would be in doubt, although no socket was opened.
    #[test]
    fn a_bundle_that_cannot_be_used_sent_nothing_and_is_named() {
        let error = ConnectorError::user(CaBundleError::Certificate(2).into());
        let failure = Failure::of(&error, "https://metering.marketplace.us-east-1.amazonaws.com/");
        assert!(!failure.connected && failure.seen.contains("AWS_CA_BUNDLE"), "{failure:?}");
        assert!(failure.seen.contains("number 2"), "{failure:?}");
    }

    #[test]
    fn the_systems_own_word_for_a_connection_that_fails_is_kept() {
        for (kind, word) in [
            (std::io::ErrorKind::ConnectionRefused, "connection refused"),
            (std::io::ErrorKind::ConnectionReset, "connection reset"),
            (std::io::ErrorKind::NetworkUnreachable, "network unreachable"),
            (std::io::ErrorKind::Other, ""),
        ] {
            assert_eq!(system_says(&std::io::Error::from(kind)), word);
        }
    }
}
