//! `tollgate doctor`: everything between this container and an open gate, checked step by step.
//!
//! It registers nothing: on AWS a call of RegisterUsage starts the billing. What it cannot know without one (is the
//! account subscribed, is the product code right) it says.

use std::io::{self, Write};
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use crate::app::aws_settings;
use crate::cli::{complain, probe};
use crate::config::{self, Config, Environment, Flags, Installation, Mode, Role, Row};
use crate::doctor::{self, Container, Finding, Verdict};
use crate::entitlement::Reason;
use crate::exit::Exit;
use crate::marketplace::Fault;
use crate::marketplace::aws::Aws;

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Serialize)]
struct Report {
    healthy: bool,
    findings: Vec<Finding>,
    settings: Vec<Row>,
    least_policy: Option<Value>,
}

/// A resolver that hangs must not hang the doctor.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Checks all, prints all; 0 when nothing is at fault, else 78.
pub fn run(args: &DoctorArgs, env: &dyn Environment, installed: &Installation<'_>) -> Exit {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(Exit::Internal, &format!("cannot start a runtime: {error}")),
    };
    let shown = config::report(&args.flags, env, installed);
    let mut report =
        Report { healthy: false, findings: Vec::new(), settings: shown.settings, least_policy: None };
    for warning in shown.warnings {
        report.findings.push(Finding::warning("configuration", warning, ""));
    }
    match config::load(&args.flags, env, installed, Role::Inspect) {
        Ok(loaded) => {
            report.findings.push(Finding::ok("configuration", "valid"));
            report.least_policy = Some(doctor::least_policy(loaded.config.product.mode));
            report.findings.extend(runtime.block_on(examine(&loaded.config)));
        }
        Err(faults) => {
            let finding = |fault: &config::Fault| {
                Finding::fault(
                    "configuration",
                    "InvalidConfiguration",
                    fault.to_string(),
                    "Correct the setting.",
                )
            };
            report.findings.extend(faults.as_slice().iter().map(finding));
        }
    }
    runtime.shutdown_background();
    report.healthy = report.findings.iter().all(|finding| finding.verdict != Verdict::Fault);
    match print(&report, args.json) {
        // A reader that went away has what it wanted.
        Ok(()) | Err(_) if report.healthy => Exit::Done,
        _ => Exit::Config,
    }
}

async fn examine(config: &Config) -> Vec<Finding> {
    let mut findings = vec![keys(config), state(config)];
    let aws = Aws::new(aws_settings(&config.aws));
    match aws.inspect().await {
        Ok((region, source)) => {
            let [relative, full] = &config.aws.container_credentials;
            let container = Container::of(relative.as_deref(), full.as_deref());
            findings.push(Finding::ok("region", region.as_str()));
            let mut finding = doctor::credentials(source, container, config.product.mode);
            if config.aws.endpoint_url.is_some() && finding.verdict == Verdict::Fault {
                // Whatever stands in for AWS has rules of its own; AWS's are still worth reading.
                finding.verdict = Verdict::Warning;
            }
            findings.push(finding);
        }
        Err(fault) => findings.push(at_fault("region and credentials", &fault)),
    }
    match aws.endpoint(config.aws.use_dual_stack, config.aws.use_fips).await {
        Ok(url) => findings.extend(endpoint(&aws, config, &url).await),
        Err(fault) => findings.push(at_fault("endpoint", &fault)),
    }
    findings.push(sidecar(config).await);
    findings
}

fn keys(config: &Config) -> Finding {
    let product = &config.product;
    if product.mode != Mode::Hourly {
        return Finding::ok("public keys", format!("not needed in mode {}", product.mode));
    }
    let shown: Vec<String> = product
        .keys
        .versions()
        .filter_map(|version| {
            Some(format!("version {version}: RSA {} bits", product.keys.get(version)?.modulus_bits()))
        })
        .collect();
    Finding::ok("public keys", shown.join(", "))
}

fn state(config: &Config) -> Finding {
    match config.state.dir.path() {
        Some(path) => Finding::ok("state folder", format!("{} can be written", path.display())),
        None => Finding::warning(
            "state folder",
            "nothing is kept",
            "After a restart while AWS cannot be reached the gate stays shut; mount a volume at state_dir to change that.",
        ),
    }
}

fn at_fault(check: &'static str, fault: &Fault) -> Finding {
    let reason = Reason::of(fault.code.clone(), fault.class);
    Finding::fault(check, fault.code.as_str(), format!("{}: {}", fault.code, reason.message), reason.remedy)
}

/// Name, connection, proxy and TLS, each in its turn, then the clock.
async fn endpoint(aws: &Aws, config: &Config, url: &str) -> Vec<Finding> {
    let mut findings = vec![Finding::ok("endpoint", url)];
    let uri: Option<hyper::Uri> = url.parse().ok();
    let host = uri.as_ref().and_then(hyper::Uri::host).unwrap_or_default().to_owned();
    let proxies = &config.aws.proxies;
    if proxies.https.is_some() || proxies.http.is_some() || proxies.all.is_some() {
        findings
            .push(Finding::ok("proxy", "set; the endpoint's name is resolved by the proxy where it applies"));
    } else {
        findings.push(resolve(&host).await);
    }
    match aws.reach(url).await {
        Ok(reached) => {
            findings.push(Finding::ok("connection", "an answer came back: connection, proxy and TLS work"));
            findings.push(doctor::clock(reached.clock_offset_seconds));
        }
        Err(fault) => findings.push(at_fault("connection", &fault)),
    }
    findings
}

async fn resolve(host: &str) -> Finding {
    let looked_up =
        tokio::time::timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((host.trim_matches(['[', ']']), 443)));
    match looked_up.await {
        Ok(Ok(addresses)) => {
            let shown: Vec<String> = addresses.take(4).map(|address| address.ip().to_string()).collect();
            Finding::ok("name", format!("{host} is {}", shown.join(", ")))
        }
        Ok(Err(error)) => Finding::fault(
            "name",
            "Dns",
            format!("{host} does not resolve: {error}"),
            "Check the cluster's DNS, and for a VPC endpoint that private DNS is on.",
        ),
        Err(_) => {
            Finding::fault("name", "Dns", format!("no answer about {host}"), "Check the cluster's DNS.")
        }
    }
}

/// The running sidecar, if there is one: the last word on the gate is its own.
async fn sidecar(config: &Config) -> Finding {
    match probe::ready(&crate::app::address(&config.probe.addr)).await {
        Ok(()) => Finding::ok("sidecar", "the gate is open"),
        Err(line) => {
            Finding::warning("sidecar", line, "Only the sidecar's own registration shows what AWS says.")
        }
    }
}

fn print(report: &Report, json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        let text = serde_json::to_string_pretty(report).expect("our own document has string keys");
        return writeln!(out, "{text}");
    }
    for finding in &report.findings {
        let mark = match finding.verdict {
            Verdict::Ok => "ok     ",
            Verdict::Warning => "warning",
            Verdict::Fault => "FAULT  ",
        };
        writeln!(out, "{mark} {}: {}", finding.check, finding.seen)?;
        if !finding.remedy.is_empty() {
            let docs = finding.docs.as_deref().map_or_else(String::new, |docs| format!(" ({docs})"));
            writeln!(out, "        {}{docs}", finding.remedy)?;
        }
    }
    if let Some(policy) = &report.least_policy {
        writeln!(out, "the least that the role must allow:\n{policy:#}")?;
    }
    writeln!(
        out,
        "not checked: subscription, product code and key version, since RegisterUsage starts the billing"
    )
}
