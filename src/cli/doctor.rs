//! `tollgate doctor`: checks everything between this container and an open gate, step by step.
//!
//! It makes no call that bills usage or takes seats; a call of RegisterUsage would start the billing. It says what it
//! cannot check without such a call, for example whether the account is subscribed.

mod endpoint;
mod license;
mod state;

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use self::endpoint::Service;
use crate::app::{aws_settings, client_settings, terms};
use crate::cli::probe::Shut;
use crate::cli::screen::{Screen, Style, printed};
use crate::cli::{complain, probe};
use crate::config::{self, Config, Environment, Flags, Installation, Row};
use crate::doctor::credentials::{Container, license_token, rule, web_identity};
use crate::doctor::{self, Finding, Verdict};
use crate::entitlement::Reason;
use crate::exit::Exit;
use tollgate_aws::licensing::{FALLBACK_REGION, LicenseManager};
use tollgate_aws::{Aws, Found, region};
use tollgate_clock as clock;
use tollgate_disk::{Links, read_regular};
use tollgate_marketplace::{CREDENTIAL_FILE_BYTES_MAX, Fault, Place, Region};

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: Flags,
}

/// The findings, and what is printed with them.
#[derive(Serialize)]
pub(super) struct Report {
    healthy: bool,
    findings: Vec<Finding>,
    settings: Vec<Row>,
    least_policy: Option<Value>,
    #[serde(skip)]
    unchecked: &'static str,
}

/// Checks and prints everything; exit code 0 if nothing is at fault, else 78.
pub fn run(args: &DoctorArgs, env: &dyn Environment, installed: &Installation<'_>) -> Exit {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(Exit::Internal, &format!("cannot start a runtime: {error}")),
    };
    let report = runtime.block_on(examined(&args.flags, env, installed));
    runtime.shutdown_background();
    printed(print(&report, args.json), if report.healthy { Exit::Done } else { Exit::Config })
}

/// Runs all checks.
pub(super) async fn examined(flags: &Flags, env: &dyn Environment, installed: &Installation<'_>) -> Report {
    let (shown, config) = config::inspect(flags, env, installed);
    let mut report = Report {
        healthy: false,
        findings: Vec::new(),
        settings: shown.settings,
        least_policy: None,
        unchecked: doctor::unchecked(config.as_ref().ok().map(|config| config.product.mode)),
    };
    let odd = !shown.warnings.is_empty();
    for warning in shown.warnings {
        report.findings.push(Finding::warning("configuration", warning, ""));
    }
    match config {
        Ok(config) => {
            if !odd {
                report.findings.push(Finding::ok("configuration", "valid"));
            }
            report.least_policy = Some(doctor::least_policy(config.product.mode));
            let docs_url = config.product.docs_url.as_deref();
            let found = examine(&config, installed).await.into_iter();
            report.findings.extend(found.map(|finding| finding.with_docs_url(docs_url)));
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
    report.healthy = report.findings.iter().all(|finding| finding.verdict != Verdict::Fault);
    report
}

async fn examine(config: &Config, installed: &Installation<'_>) -> Vec<Finding> {
    let product = &config.product;
    let name = product.name();
    let named = format!("{name} (mode {})", product.mode);
    let mut findings = vec![Finding::ok("product", named), keys(config)];
    findings.extend(state::examine(config, installed.disk).await);
    let aws = Arc::new(Aws::new(aws_settings(&config.aws)));
    let terms = terms(config);
    let licenses =
        terms.as_ref().map(|_| LicenseManager::new(Arc::clone(&aws), client_settings(&config.license)));
    let service = licenses.as_ref().map_or(Service::Metering(&aws), Service::Licenses);
    let stand_in = config.aws.endpoint_url.is_some();
    let mode = config.product.mode;

    let origin = config.aws.region_origin.to_string();
    let configured = config.aws.region.as_ref().map(|region| (region, origin.as_str()));
    let of_licenses = config.license.region.as_ref().map(|region| (region, "license_region"));
    let configured = of_licenses.or(configured);
    let platform = aws.platform_region().await;
    let platform = platform.as_ref().map(|(region, source)| (region, *source));
    let fallback = config.license.token_file.as_ref().and_then(|_| FALLBACK_REGION.parse().ok());
    let fallback =
        fallback.as_ref().map(|region| (region, "where nothing else names one, for license_token_file"));
    let configured = configured.or(fallback.filter(|_| platform.is_none()));
    let region = doctor::region(configured, platform, mode);
    // That both regions must be the same is AWS's rule, which a stand-in need not have. Without any region no call is
    // possible, to a stand-in either.
    let known = configured.or(platform).is_some();
    findings.push(if stand_in && known { region.before_a_stand_in() } else { region });
    let region = configured.or(platform).map(|(region, _)| region.clone());

    findings.extend(credentials(&aws, config, region.as_ref()).await);
    match service.endpoint().await {
        Ok(url) => findings.extend(endpoint::examine(&service, config, &url).await),
        // Reported above: without a region there is no endpoint.
        Err(_) if region.is_none() => {}
        Err(fault) => findings.push(at_fault("endpoint", &fault)),
    }
    // Without credentials or a connection each call of License Manager would only fail again.
    let reached = findings.iter().all(|finding| !ON_THE_WAY.contains(&finding.check) || !finding.is_fault());
    if let (Some(licenses), Some(terms), true) = (&licenses, &terms, reached) {
        findings.extend(license::examine(licenses, terms).await);
    }
    findings.extend(sidecar(config).await);
    findings
}

/// Checks that must pass before License Manager is called.
const ON_THE_WAY: [&str; 8] =
    ["region", "credentials", "endpoint", "name", "connection", "TLS", "answer", "web identity token"];

fn keys(config: &Config) -> Finding {
    let product = &config.product;
    if !product.mode.is_signed() {
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

/// Faults of a token's file.
const TOKEN_FAULTS: [&str; 3] =
    ["WebIdentityTokenUnreadable", "WebIdentityTokenMissing", "CredentialsFileInvalid"];

async fn credentials(aws: &Aws, config: &Config, region: Option<&Region>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let token = config.aws.web_identity_token_file.as_ref();
    if let Some(path) = token {
        let bytes = read_regular(path, CREDENTIAL_FILE_BYTES_MAX, Links::Follow);
        findings.push(web_identity(&path.display().to_string(), bytes.as_deref(), clock::system_now()));
    }
    if let Some(path) = &config.license.token_file {
        let bytes = read_regular(path, CREDENTIAL_FILE_BYTES_MAX, Links::Follow);
        findings.push(license_token(&path.display().to_string(), bytes.as_deref(), clock::system_now()));
    }
    if region.is_none() {
        let remedy = "Set the region first: STS is called in that region.";
        findings.push(Finding::warning("credentials", "not checked: the region is unknown", remedy));
        return findings;
    }
    match aws.inspect_credentials().await {
        Ok(Found { source, hosts, account }) => {
            let [relative, full] = &config.aws.container_credentials;
            let container = Container::of(relative.as_deref(), full.as_deref());
            let mut finding = rule(source, container, config.product.mode, token.is_some());
            if !hosts.is_empty() {
                finding = finding.seeing(&format!("asked: {}", hosts.join(", ")));
            }
            let stand_in = config.aws.endpoint_url.is_some();
            findings.push(if stand_in { finding.before_a_stand_in() } else { finding });
            let account = match account {
                Some(account) => Some(account),
                None => account_of_task(config).await,
            };
            findings.push(doctor::caller(
                source,
                container,
                account.as_deref(),
                config.aws.role_arn.as_deref(),
            ));
        }
        // Reported by the token's own finding.
        Err(fault)
            if TOKEN_FAULTS.contains(&fault.code.as_str())
                && findings.iter().any(|finding| finding.verdict == Verdict::Fault) => {}
        Err(fault) => {
            let finding = at_fault("credentials", &fault);
            // The message does not name the role, because the probe port shows it to everybody.
            let role = config.aws.role_arn.as_deref().filter(|_| fault.place == Place::Sts);
            findings.push(match role {
                Some(role) => finding.seeing(&format!("role {role}")),
                None => finding,
            });
        }
    }
    findings
}

/// The account in the task's ARN, for credentials that do not name their account.
async fn account_of_task(config: &Config) -> Option<String> {
    let arn = region::task_arn(config.aws.ecs_metadata_uri.as_deref()).await.ok()??;
    doctor::account_of(&arn).map(str::to_owned)
}

fn at_fault(check: &'static str, fault: &Fault) -> Finding {
    let reason = Reason::of_fault(fault);
    Finding::fault(check, reason.code.as_str(), format!("{}: {}", reason.code, reason.message), reason.remedy)
}

/// Enough for the sidecar's metrics: a few kilobytes, made in memory.
const METRICS_TIMEOUT: Duration = Duration::from_secs(2);

/// Findings about the running sidecar, if there is one: only it decides about the gate.
async fn sidecar(config: &Config) -> Vec<Finding> {
    let gate = probe::Gate::of(&config.probe);
    let said = gate.ready().await;
    let mut findings = Vec::new();
    if config.product.mode.has_ledger()
        && let Ok(page) = gate.get("/metrics", METRICS_TIMEOUT).await
    {
        findings.push(doctor::disk::not_taken(&String::from_utf8_lossy(page.body())));
    }
    findings.push(match said {
        Ok(()) => Finding::ok("sidecar", "the gate is open"),
        Err(Shut { reason: Some(reason), line, refusal: Some(_) }) => {
            Finding::fault("sidecar", &reason.code, line, "The gate stays shut until this is fixed.")
        }
        Err(shut) => {
            Finding::warning("sidecar", shut.line, "Only the sidecar's own call shows what AWS answers.")
        }
    });
    findings
}

/// The width of a finding's mark, with the space after it.
const INDENT: usize = 8;

fn print(report: &Report, json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        let text = serde_json::to_string_pretty(report).expect("our own document has string keys");
        return writeln!(out, "{text}");
    }
    let screen = Screen::of_stdout();
    for finding in &report.findings {
        let mark = match finding.verdict {
            Verdict::Ok => screen.styled(Style::Good, "ok     "),
            Verdict::Warning => screen.styled(Style::Odd, "warning"),
            Verdict::Fault => screen.styled(Style::Bad, "FAULT  "),
        };
        let seen = screen.wrapped(&format!("{}: {}", finding.check, finding.seen), INDENT);
        writeln!(out, "{mark} {seen}")?;
        if !finding.remedy.is_empty() {
            let docs = finding.docs.as_deref().map_or_else(String::new, |docs| format!(" ({docs})"));
            let remedy = screen.wrapped(&format!("{}{docs}", finding.remedy), INDENT);
            writeln!(out, "{:INDENT$}{remedy}", "")?;
        }
    }
    let heading =
        "settings that differ from the defaults, and where each comes from (all: tollgate config print):";
    writeln!(out, "{}", screen.wrapped(heading, 0))?;
    for row in report.settings.iter().filter(|row| !row.origin.starts_with("default")) {
        let value = row.value.as_deref().unwrap_or("none");
        let shown = screen.wrapped(&format!("{} = {value} ({})", row.name, row.origin), INDENT);
        writeln!(out, "{:INDENT$}{shown}", "")?;
    }
    if let Some(policy) = &report.least_policy {
        writeln!(out, "the smallest policy for the role:\n{policy:#}")?;
    }
    writeln!(out, "{}", screen.wrapped(report.unchecked, 0))
}
