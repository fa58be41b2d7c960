//! Checks the connection to AWS step by step: proxy, name, connection, TLS, answer, clock. The checks end at the first
//! step that fails.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::config::Config;
use crate::doctor::{self, Finding};
use tollgate_aws::licensing::LicenseManager;
use tollgate_aws::{Aws, CONNECT_TIMEOUT, Reached};
use tollgate_clock as clock;
use tollgate_marketplace::fault::{CERTIFICATE, TLS_HANDSHAKE, TLS_UNTRUSTED};
use tollgate_marketplace::{Fault, Place};

/// A resolver that hangs must not hang the doctor.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Addresses that are tried and shown: a load balancer has one for each zone.
const ADDRESSES_MAX: usize = 4;

/// The service of the product's mode.
pub(super) enum Service<'a> {
    Metering(&'a Aws),
    Licenses(&'a LicenseManager),
}

impl Service<'_> {
    /// The URL of the service.
    pub(super) async fn endpoint(&self) -> Result<String, Fault> {
        match self {
            Self::Metering(aws) => aws.endpoint().await,
            Self::Licenses(manager) => manager.endpoint().await,
        }
    }

    async fn reach(&self, url: &str) -> Result<Reached, Fault> {
        match self {
            Self::Metering(aws) => aws.reach(url).await,
            Self::Licenses(manager) => manager.reach(url).await,
        }
    }

    const fn place(&self) -> Place {
        match self {
            Self::Metering(_) => Place::Metering,
            Self::Licenses(_) => Place::LicenseManager,
        }
    }
}

/// Checks each step of a call to `url`.
pub(super) async fn examine(service: &Service<'_>, config: &Config, url: &str) -> Vec<Finding> {
    let mut findings = vec![Finding::ok("endpoint", url)];
    let Ok(uri) = url.parse::<hyper::Uri>() else { return findings };
    let proxy = Aws::proxy(url);
    let first = proxy.as_ref().unwrap_or(&uri);
    let host = first.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = first.port_u16().unwrap_or(if first.scheme_str() == Some("https") { 443 } else { 80 });
    if proxy.is_some() {
        let seen = format!("{host}:{port}, which resolves the endpoint's name; NO_PROXY would spare it");
        findings.push(Finding::ok("proxy", seen));
    }
    let place = if proxy.is_some() { Place::Proxy } else { service.place() };
    let addresses = match resolve(&host, port, place).await {
        Ok((finding, addresses)) => {
            findings.push(finding);
            addresses
        }
        Err(finding) => {
            findings.push(finding);
            return findings;
        }
    };
    let connected = connect(&addresses, place, &host).await;
    let failed = connected.verdict != doctor::Verdict::Ok;
    findings.push(connected);
    if failed {
        return findings;
    }
    let tls = uri.scheme_str() == Some("https");
    let trusted = if config.aws.ca_bundle.is_some() {
        "the authorities of AWS_CA_BUNDLE"
    } else {
        "the system's authorities"
    };
    match service.reach(url).await {
        Ok(reached) => {
            if tls {
                findings.push(Finding::ok("TLS", format!("the certificate is trusted by {trusted}")));
            }
            findings.push(doctor::answer(service.place(), &host_of(&uri), &reached));
            findings.push(doctor::clock(reached.clock_offset_seconds));
        }
        Err(fault) if fault.code.as_str() == TLS_UNTRUSTED => {
            findings.push(super::at_fault("TLS", &fault).seeing(&format!("not trusted by {trusted}")));
        }
        // Over https an invalid answer is a fault of TLS: `reach` accepts any HTTP answer, so the peer spoke no TLS.
        Err(fault)
            if CERTIFICATE.contains(&fault.code.as_str())
                || tls && matches!(fault.code.as_str(), TLS_HANDSHAKE | "InvalidAnswer") =>
        {
            findings.push(super::at_fault("TLS", &fault));
        }
        Err(fault) => findings.push(super::at_fault("answer", &fault)),
    }
    findings
}

fn host_of(uri: &hyper::Uri) -> String {
    uri.authority().map(|authority| authority.as_str().to_owned()).unwrap_or_default()
}

async fn resolve(host: &str, port: u16, place: Place) -> Result<(Finding, Vec<SocketAddr>), Finding> {
    let check = "name";
    let remedy = doctor::remedy("Dns", place, host);
    let looked_up = tokio::time::timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((host, port)));
    match looked_up.await {
        Ok(Ok(addresses)) => {
            let addresses: Vec<SocketAddr> = addresses.take(ADDRESSES_MAX).collect();
            let shown: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
            Ok((Finding::ok(check, format!("{host} is {}", shown.join(", "))), addresses))
        }
        Ok(Err(error)) => {
            Err(Finding::fault(check, "Dns", format!("{host} does not resolve: {error}"), remedy))
        }
        Err(_) => {
            let seen = format!("no answer about {host} within {} s", RESOLVE_TIMEOUT.as_secs());
            Err(Finding::fault(check, "Dns", seen, remedy))
        }
    }
}

/// Connects to the first address that accepts, as the client does.
async fn connect(addresses: &[SocketAddr], place: Place, host: &str) -> Finding {
    let check = "connection";
    let mut last = None;
    for address in addresses {
        let began = clock::monotonic();
        match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(_)) => {
                let millis = clock::monotonic().duration_since(began).as_millis();
                return Finding::ok(check, format!("{address} takes connections ({millis} ms)"));
            }
            Ok(Err(error)) => {
                let remedy = doctor::remedy("Connection", place, host);
                last = Some(Finding::fault(check, "Connection", format!("{address}: {error}"), remedy));
            }
            Err(_) => {
                let seen = format!("{address}: no answer within {} ms", CONNECT_TIMEOUT.as_millis());
                let remedy = "Something drops the packets: a security group, a network policy, or no route (NAT, \
                              VPC endpoint).";
                last = Some(Finding::fault(check, "ConnectTimeout", seen, remedy));
            }
        }
    }
    last.unwrap_or_else(|| {
        Finding::fault(check, "Dns", "the name has no address", "Check the cluster's DNS.")
    })
}
