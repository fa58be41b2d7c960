//! The surroundings that the AWS SDK's conventions describe: region, endpoint, certificate authorities, proxies.
//!
//! - An empty variable counts as unset, as in the SDKs.
//! - With a seller's file no endpoint may come from elsewhere, and that includes the AWS profile files.

use std::path::{Path, PathBuf};

use super::disk::describe;
use super::env::filled;
use super::fault::{Fault, Origin, quoted};
use super::parse;
use super::reader::{QUOTED, Reader, is_quoted};
use super::setting::Setting;
use super::{Aws, EndpointUrl, credentials, proxy};
use crate::disk::Links;
use crate::marketplace::Region;
use crate::marketplace::ca_bundle::CaBundle;

/// Where the ECS agent describes the task (AWS: task metadata endpoint version 4).
const ECS_METADATA_VARIABLE: &str = "ECS_CONTAINER_METADATA_URI_V4";

/// The PEM file of the certificate authorities that are trusted instead of the built-in ones.
const CA_BUNDLE_VARIABLE: &str = "AWS_CA_BUNDLE";

/// Variables that are shown beside the settings, because they change where requests go.
pub(super) const SHOWN_VARIABLES: &[&str] = &[
    CA_BUNDLE_VARIABLE,
    "AWS_USE_DUALSTACK_ENDPOINT",
    "AWS_USE_FIPS_ENDPOINT",
    super::resolve::IGNORE_ENDPOINTS_VARIABLE,
    "AWS_EC2_METADATA_DISABLED",
    ECS_METADATA_VARIABLE,
];

/// Reads all of it.
pub(super) fn read(reader: &mut Reader<'_>) -> Option<Aws> {
    let region = reader.given(Setting::Region, parse::typed);
    let region_origin = reader.origin(Setting::Region);
    if let Some(Some(region)) = &region {
        warn_of_unlisted(reader, region, &region_origin);
    }
    let endpoint_url = reader.given(Setting::EndpointUrl, parse::endpoint_url);
    let ca_bundle = ca_bundle(reader);
    let use_dual_stack = sdk_switch(reader, "AWS_USE_DUALSTACK_ENDPOINT");
    let use_fips = sdk_switch(reader, "AWS_USE_FIPS_ENDPOINT");
    let imds_disabled = sdk_switch(reader, "AWS_EC2_METADATA_DISABLED");
    // Read where endpoints are chosen; a value that is neither would leave them in force without a word.
    sdk_switch(reader, super::resolve::IGNORE_ENDPOINTS_VARIABLE);
    let ecs_metadata_uri = ecs_metadata_uri(reader);
    let proxies = proxy::read(reader);
    let credential_gaps = credentials::check(reader);
    let sealed = reader.resolution.sealed();
    let endpoint_url = endpoint_url?;
    if let Some(url) = endpoint_url.as_ref().filter(|url| !url.is_https() && !url.is_loopback()) {
        reader.warnings.push(format!(
            "endpoint_url {} sends requests over unencrypted HTTP to another machine",
            quoted(url.as_str())
        ));
    }
    Some(Aws {
        region: region?,
        region_origin,
        endpoint_url,
        ecs_metadata_uri,
        container_credentials: credentials::CONTAINER_URIS.map(|variable| filled(reader.env, variable)),
        web_identity_token_file: filled(reader.env, credentials::WEB_IDENTITY_TOKEN_FILE).map(PathBuf::from),
        container_token_file: filled(reader.env, credentials::CONTAINER_TOKEN_FILE).map(PathBuf::from),
        credential_gaps,
        ca_bundle: ca_bundle?,
        use_dual_stack: use_dual_stack?,
        use_fips: use_fips?,
        imds_disabled: imds_disabled?,
        proxies: proxies?,
        sealed,
    })
}

/// A new region must work without a new version; a wrong number is a name that never resolves.
fn warn_of_unlisted(reader: &mut Reader<'_>, region: &Region, origin: &Origin) {
    if !region.is_listed() {
        reader.warnings.push(format!(
            "region {region} ({origin}) is none of the AWS regions that this version knows; correct it, unless AWS has \
             opened it since"
        ));
    }
}

fn sdk_switch(reader: &mut Reader<'_>, variable: &'static str) -> Option<bool> {
    let Some(value) = filled(reader.env, variable) else { return Some(false) };
    if value.eq_ignore_ascii_case("true") {
        return Some(true);
    }
    if value.eq_ignore_ascii_case("false") {
        return Some(false);
    }
    reader.faults.push(variable_fault(variable, &value, "is neither true nor false".to_owned()));
    None
}

pub(super) fn variable_fault(variable: &'static str, value: &str, problem: String) -> Fault {
    Fault {
        subject: variable.to_owned(),
        value: Some(quoted(value)),
        origin: Some(Origin::Environment(variable.into())),
        problem,
    }
}

fn ecs_metadata_uri(reader: &mut Reader<'_>) -> Option<String> {
    let value = filled(reader.env, ECS_METADATA_VARIABLE)?;
    if is_quoted(&value) {
        reader.faults.push(variable_fault(ECS_METADATA_VARIABLE, &value, QUOTED.to_owned()));
        return None;
    }
    if value.parse::<EndpointUrl>().is_ok() {
        return Some(value);
    }
    // The agent injects it; the operator can do nothing about it, and the region may be known otherwise.
    reader.warnings.push(format!("{ECS_METADATA_VARIABLE} is not a URL and is ignored"));
    None
}

/// Largest bundle: the whole list of public authorities has a quarter of this.
const CA_BUNDLE_BYTES_MAX: usize = 1024 * 1024;

fn ca_bundle(reader: &mut Reader<'_>) -> Option<Option<CaBundle>> {
    let Some(value) = filled(reader.env, CA_BUNDLE_VARIABLE) else { return Some(None) };
    if credentials::is_refused(reader, CA_BUNDLE_VARIABLE) {
        return None;
    }
    let read = reader.installed.disk.read(Path::new(&value), CA_BUNDLE_BYTES_MAX, Links::Follow);
    let problem = match read.map(|pem| CaBundle::from_pem(&pem)) {
        Ok(Ok(bundle)) => return Some(Some(bundle)),
        Ok(Err(error)) => format!("{error}; give a PEM file of CA certificates"),
        Err(error) => format!("cannot be read: {}; correct the path or its permissions", describe(&error)),
    };
    reader.faults.push(variable_fault(CA_BUNDLE_VARIABLE, &value, problem));
    None
}
