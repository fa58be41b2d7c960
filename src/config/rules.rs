//! Rules about several settings together, or about a setting and the mode, the command or a seller's file.
//!
//! A rule is checked even if other settings have faults, so that one run shows an operator all faults.

use std::net::SocketAddr;
use std::time::Duration;

use super::fault::quoted;
use super::kind::{
    ADDR, DIMENSION, DIMENSION_RULES, DIMENSIONS, ENDPOINT_URL, ENTITLEMENTS, KEY_FINGERPRINT, LICENSE_MODEL,
    LOG_FILTER, ON_LAPSE, ON_UNSENT, REGION, SWITCH, TCP_ADDR,
};
use super::reader::Reader;
use super::setting::{Setting, did_you_mean};
use super::table::{SETTLE, STOP};
use super::{LicenseModel, ListenAddr, MeteredDimension, Mode, OnLapse, OnUnsent, Role, resolve, sdk};
use tollgate_marketplace::KeyFingerprint;
use tollgate_marketplace::license::Unit;
use tollgate_metering::aggregation::Aggregation;

/// Reports settings that do not fit together.
pub(super) fn check(reader: &mut Reader<'_>) {
    effects(reader);
    modes(reader);
    contract(reader);
    app_server(reader);
    shutdown(reader);
    addresses(reader);
    dimension_names(reader);
    metered_dimensions(reader);
    log_filter(reader);
    region(reader);
    surroundings(reader);
}

/// Warns of settings that are set and have no effect.
fn effects(reader: &mut Reader<'_>) {
    for &setting in Setting::ALL {
        if let Some(reason) = reader.no_effect(setting).filter(|_| reader.is_given(setting)) {
            let line =
                format!("{} ({}) has no effect: {reason}", setting.spec().name, reader.origin(setting));
            reader.warnings.push(line);
        }
    }
}

fn modes(reader: &mut Reader<'_>) {
    let Some(mode) = reader.mode() else { return };
    if reader.role == Role::Exec && mode.is_run_by_seller() {
        reader.fault(
            Setting::Mode,
            "cannot be used with exec: one tollgate reports for all replicas of the application; use run",
        );
    }
    // Otherwise an event with a misspelled dimension would be accepted here and refused by AWS.
    if mode.has_ledger() && !reader.is_given(Setting::Dimensions) {
        let need = format!("is required in mode {mode}: the usage dimensions of the product");
        reader.missing(Setting::Dimensions, &need);
    }
    let asked =
        matches!(reader.role, Role::Check | Role::Inspect | Role::SellersFile) && reader.resolution.sealed();
    if asked && mode.meters_own_pod() && !reader.is_given(Setting::OnUnsent) {
        reader.warnings.push(
            "on_unsent is not stated in the seller's file: decide whether the gate may close when usage stays unbilled \
             (keep, or close-after:<duration>), and state it"
                .to_owned(),
        );
    }
    let closes = matches!(reader.peek(Setting::OnUnsent, ON_UNSENT.parse), Some(OnUnsent::CloseAfter(_)));
    let keeps = reader.peek(Setting::OnLapse, ON_LAPSE.parse) == Some(OnLapse::Keep);
    if asked && mode.meters_own_pod() && closes && keeps {
        reader.warnings.push(
            "on_unsent may close the gate, and on_lapse keeps it open: AWS refuses reports of an account that is \
             not subscribed, and for that answer only on_lapse counts; set on_lapse = \"close-after:<duration>\" too"
                .to_owned(),
        );
    }
}

/// Reports what mode `contract` does not allow, and what has no effect in it.
fn contract(reader: &mut Reader<'_>) {
    if !reader.mode().is_some_and(Mode::asks_license_manager) {
        return;
    }
    if reader.is_given(Setting::ProductCode) {
        reader.fault(
            Setting::ProductCode,
            "cannot be used in mode contract: contract products are named by product_id; remove it, and set product_id",
        );
    }
    let issuer = reader.peek(Setting::KeyFingerprint, KEY_FINGERPRINT.parse);
    let foreign = issuer.is_some_and(|issuer| issuer != KeyFingerprint::AWS_MARKETPLACE);
    if foreign && !reader.installed.emulator {
        reader.fault(
            Setting::KeyFingerprint,
            "is not AWS Marketplace's: anybody can issue a license for this product in an account of their own, so \
             only tollgate-dev accepts another issuer; remove it",
        );
    }
    let floating = reader.peek(Setting::LicenseModel, LICENSE_MODEL.parse) == Some(LicenseModel::Floating);
    if !floating && reader.is_given(Setting::SeatsPerPod) {
        let origin = reader.origin(Setting::SeatsPerPod);
        let line = format!("seats_per_pod ({origin}) has no effect: license_model check holds no seat");
        reader.warnings.push(line);
    }
    let wanted = reader.peek(Setting::Entitlements, ENTITLEMENTS.parse).unwrap_or_default();
    if floating && !wanted.is_empty() && wanted.iter().all(|one| one.unit.is_some_and(Unit::is_tier)) {
        reader.warnings.push(
            "license_model floating holds seats, but entitlements names only tiers, which have no seats; name a counted \
             entitlement, or use license_model check"
                .to_owned(),
        );
    }
}

fn app_server(reader: &mut Reader<'_>) {
    let addr = reader.peek(Setting::AppAddr, ADDR.parse);
    let exposed = addr.as_ref().and_then(ListenAddr::tcp).is_some_and(|tcp| !is_loopback(tcp));
    let token = reader.is_given(Setting::AppTokenFile);
    if exposed && !token {
        reader.fault(
            Setting::AppAddr,
            "is reachable from other machines; set app_token_file, or listen on 127.0.0.1 or unix:/path",
        );
    }
    if token && reader.peek(Setting::AwsDoor, SWITCH.parse) == Some(true) {
        reader.fault(
            Setting::AwsDoor,
            "cannot be used with app_token_file: an AWS SDK sends its own Authorization; listen on loopback or \
             unix:/path",
        );
    }
}

fn is_loopback(addr: SocketAddr) -> bool {
    addr.ip().to_canonical().is_loopback()
}

/// `drain_quiet` and `shutdown_grace` count from the same moment: together they must leave time to send.
fn shutdown(reader: &mut Reader<'_>) {
    let quiet = reader.peek(Setting::DrainQuiet, STOP.parse);
    let Some((quiet, grace)) = quiet.zip(reader.peek(Setting::ShutdownGrace, STOP.parse)) else { return };
    if quiet >= grace && reader.is_given(Setting::DrainQuiet) {
        let problem = format!("leaves nothing of shutdown_grace ({grace:?}) to send usage; choose less");
        reader.fault(Setting::DrainQuiet, problem);
    }
}

/// Two servers cannot share an address, and `endpoint_url` must not be one of them: tollgate would call itself.
fn addresses(reader: &mut Reader<'_>) {
    let probe = reader.peek(Setting::ProbeAddr, TCP_ADDR.parse).and_then(|addr| addr.tcp());
    let app = reader.peek(Setting::AppAddr, ADDR.parse).and_then(|addr| addr.tcp());
    if let (Some(probe), Some(app)) = (probe, app)
        && collide(probe, app)
    {
        reader.fault(Setting::AppAddr, format!("collides with probe_addr {probe}; choose another port"));
    }
    let Some(url) = reader.peek(Setting::EndpointUrl, ENDPOINT_URL.parse) else { return };
    if !url.is_https() && !url.is_loopback() {
        reader.warnings.push(format!(
            "endpoint_url {} sends requests over unencrypted HTTP to another machine",
            quoted(url.as_str())
        ));
    }
    for (name, addr) in [("app_addr", app), ("probe_addr", probe)] {
        if let Some(addr) = addr.filter(|addr| url.reaches(*addr)) {
            let problem =
                format!("is this sidecar's own {name} {addr}; name the service of AWS, or remove it");
            reader.fault(Setting::EndpointUrl, problem);
        }
    }
}

fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    // The kernel chooses another port for each port 0.
    let same_port = a.port() == b.port() && a.port() != 0;
    same_port && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}

/// AWS accepts any text as a dimension, so none is refused. These characters are a sign of a list that is written
/// wrongly.
fn dimension_names(reader: &mut Reader<'_>) {
    let odd = |c: char| c.is_whitespace() || matches!(c, ',' | ';' | '[' | ']');
    let lists = reader.peek(Setting::Dimensions, DIMENSIONS.parse).unwrap_or_default();
    let single = reader.peek(Setting::EntitlementDimension, DIMENSION.parse);
    let names = lists.into_iter().map(|name| (Setting::Dimensions, name));
    let names = names.chain(single.map(|name| (Setting::EntitlementDimension, name)));
    let lines: Vec<String> = names
        .filter(|(_, name)| name.contains(odd))
        .map(|(setting, name)| {
            format!(
                "{} ({}) holds the name {}, with white space, a comma, a semicolon or a bracket: usage of another name is \
                 rejected; write each dimension as the AWS Marketplace Management Portal shows its API name",
                setting.spec().name,
                reader.origin(setting),
                quoted(&name)
            )
        })
        .collect();
    reader.warnings.extend(lines);
}

/// A heartbeat is written some seconds after the hour's end; in a closed hour it would count to the next one.
const SETTLE_OF_HEARTBEATS: Duration = Duration::from_secs(30);

/// Reports tables of `[dimension.NAME]` that do not fit to the product.
fn metered_dimensions(reader: &mut Reader<'_>) {
    let metered = reader.peek(Setting::Dimension, DIMENSION_RULES.parse).unwrap_or_default();
    // Another rule reports a mode that is wrong, and dimensions that are missing or wrong.
    let Some(mode) = reader.mode() else { return };
    let names = reader.peek(Setting::Dimensions, DIMENSIONS.parse);
    let entitlement = reader.peek(Setting::EntitlementDimension, DIMENSION.parse);
    for one in &metered {
        let problems = [
            names.as_ref().filter(|_| mode.has_ledger()).and_then(|names| is_unknown(one, names)),
            is_misplaced(one, mode, entitlement.as_deref()),
        ];
        problems.into_iter().flatten().for_each(|problem| reader.fault(Setting::Dimension, problem));
    }
    let beats = metered.iter().any(|one| one.heartbeat.is_some());
    let settle = reader.peek(Setting::Settle, SETTLE.parse);
    if beats && mode.meters_own_pod() && settle.is_some_and(|settle| settle < SETTLE_OF_HEARTBEATS) {
        let problem = "is too short for a heartbeat, whose last seconds are written after the hour's end; choose 30s or \
                       more";
        reader.fault(Setting::Settle, problem);
    }
}

fn is_unknown(one: &MeteredDimension, names: &[String]) -> Option<String> {
    if names.contains(&one.name) {
        return None;
    }
    let near = did_you_mean(&one.name, names.iter().map(String::as_str));
    let remedy = match near {
        Some(near) => format!("did you mean {}?", quoted(near)),
        None => "name it there, or remove the table".to_owned(),
    };
    Some(format!("has a table for {}, which is not one of dimensions; {remedy}", quoted(&one.name)))
}

fn is_misplaced(one: &MeteredDimension, mode: Mode, entitlement: Option<&str>) -> Option<String> {
    let name = quoted(&one.name);
    if one.heartbeat.is_some() && !mode.meters_own_pod() {
        return Some(format!(
            "in {name}, heartbeat counts the time of this pod's open gate, which is for mode metered, and the mode is \
             {mode}; remove it"
        ));
    }
    if mode.meters_own_pod() && entitlement == Some(one.name.as_str()) {
        return Some(format!(
            "has a table for {name}, the entitlement_dimension, which takes no usage; remove it"
        ));
    }
    if mode.meters_own_pod() && one.rule.aggregation == Aggregation::Max && !one.per_pod {
        return Some(format!(
            "in {name}, aggregation is max, and AWS adds up the maxima of a buyer's pods; if the price is for each pod, \
             write per_pod = true"
        ));
    }
    None
}

fn log_filter(reader: &mut Reader<'_>) {
    let of_library = |directive: &str| {
        directive.split_once('=').is_some_and(|(target, level)| {
            !target.starts_with("tollgate") && level.eq_ignore_ascii_case("trace")
        })
    };
    let filter = reader.peek(Setting::LogFilter, LOG_FILTER.parse);
    if filter.is_some_and(|filter| filter.split(',').any(of_library)) {
        reader
            .warnings
            .push("log_filter: lines of libraries are written up to debug; trace may hold tokens".into());
    }
}

/// Warns of a region that this version does not know. It is no fault: a new region must work without a new version.
fn region(reader: &mut Reader<'_>) {
    for setting in [Setting::Region, Setting::LicenseRegion] {
        if let Some(region) = reader.peek(setting, REGION.parse).filter(|region| !region.is_listed()) {
            let (name, origin) = (setting.spec().name, reader.origin(setting));
            reader.warnings.push(format!(
                "{name} {region} ({origin}) is not an AWS region that this version knows; correct it, unless AWS \
                 has opened the region since"
            ));
        }
    }
}

/// Checks variables that are in no part of the configuration.
fn surroundings(reader: &mut Reader<'_>) {
    // `resolve` reads it, and takes a value that is neither true nor false silently for false.
    sdk::switch(reader, resolve::IGNORE_ENDPOINTS_VARIABLE);
}
