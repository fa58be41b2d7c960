//! The variables of the AWS SDKs that are no settings: roles and token files, ECS metadata, certificate authorities,
//! switches.
//!
//! - An empty variable counts as unset, as in the SDKs.
//! - With a seller's file no endpoint may come from elsewhere, and that includes the AWS profile files.

use std::path::{Path, PathBuf};

use super::env::filled;
use super::fault::{Fault, Faults, Origin, quoted};
use super::reader::{QUOTED, Reader, is_quoted};
use super::setting::Setting;
use super::{EndpointUrl, Role, credentials};
use tollgate_aws::ca_bundle::{self, CaBundle, CaBundleError};
use tollgate_disk::Links;

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

/// Where the region comes from.
pub(super) fn region_origin(reader: &mut Reader<'_>) -> Option<Origin> {
    Some(reader.origin(Setting::Region))
}

/// The role of the web identity, if there is one.
pub(super) fn role_arn(reader: &mut Reader<'_>) -> Option<Option<String>> {
    Some(filled(reader.env, credentials::ROLE))
}

/// Whether `endpoint_url` also stands for STS and the ECS agent. It does in a build with the emulator, for rehearsals,
/// unless it comes from an SDK's variable for one service.
pub(super) fn stands_for_all(reader: &mut Reader<'_>) -> Option<bool> {
    let origin = reader.origin(Setting::EndpointUrl);
    let of_one = [METERING_ENDPOINT, LICENSE_MANAGER_ENDPOINT]
        .into_iter()
        .any(|variable| origin == Origin::Environment(variable.into()));
    Some(reader.installed.emulator && !of_one)
}

/// The SDKs' variable for the endpoint of the metering service.
pub(super) const METERING_ENDPOINT: &str = "AWS_ENDPOINT_URL_MARKETPLACE_METERING";

/// The SDKs' variable for the endpoint of License Manager.
pub(super) const LICENSE_MANAGER_ENDPOINT: &str = "AWS_ENDPOINT_URL_LICENSE_MANAGER";

/// The addresses of an agent that hands out credentials, where they are set.
pub(super) fn container_credentials(reader: &mut Reader<'_>) -> Option<[Option<String>; 2]> {
    Some(credentials::CONTAINER_URIS.map(|variable| filled(reader.env, variable)))
}

/// The file of the web identity token, where there is one.
pub(super) fn web_identity_token_file(reader: &mut Reader<'_>) -> Option<Option<PathBuf>> {
    Some(filled(reader.env, credentials::WEB_IDENTITY_TOKEN_FILE).map(PathBuf::from))
}

/// The file of the agent's token, where there is one and the SDK will read it.
pub(super) fn container_token_file(reader: &mut Reader<'_>) -> Option<Option<PathBuf>> {
    let file =
        filled(reader.env, credentials::CONTAINER_TOKEN_FILE).filter(|_| credentials::asks_agent(reader));
    Some(file.map(PathBuf::from))
}

/// A switch of the SDK.
pub(super) fn switch(reader: &mut Reader<'_>, variable: &'static str) -> Option<bool> {
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

/// The ECS agent's address, where there is one.
pub(super) fn ecs_metadata_uri(reader: &mut Reader<'_>) -> Option<Option<String>> {
    let Some(value) = filled(reader.env, ECS_METADATA_VARIABLE) else { return Some(None) };
    if is_quoted(&value) {
        reader.faults.push(variable_fault(ECS_METADATA_VARIABLE, &value, QUOTED.to_owned()));
        return None;
    }
    if value.parse::<EndpointUrl>().is_ok() {
        return Some(Some(value));
    }
    // The agent sets it, so the operator cannot correct it, and the region may come from elsewhere.
    reader.warnings.push(format!("{ECS_METADATA_VARIABLE} is not a URL and is ignored"));
    Some(None)
}

/// A bundle that cannot be used, and what to do.
fn ca_bundle_fault(path: &str, error: &CaBundleError) -> Fault {
    let remedy = match error {
        CaBundleError::Unread(_) => "correct the path or its permissions",
        _ => "give a PEM file of CA certificates",
    };
    variable_fault(CA_BUNDLE_VARIABLE, path, format!("{error}; {remedy}"))
}

/// The last line of a process whose bundle was found to be invalid after the configuration was loaded.
pub(crate) fn late_ca_bundle_fault(bundle: &CaBundle, error: &CaBundleError) -> String {
    Faults(vec![ca_bundle_fault(&bundle.path().to_string_lossy(), error)]).summary()
}

/// The certificate authorities to trust, where they are named.
pub(super) fn ca_bundle(reader: &mut Reader<'_>) -> Option<Option<CaBundle>> {
    let Some(value) = filled(reader.env, CA_BUNDLE_VARIABLE) else { return Some(None) };
    if credentials::is_refused(reader, CA_BUNDLE_VARIABLE) {
        return None;
    }
    // The sidecar parses the certificates when its ports are open: that takes as long as half of its start. After
    // `exec` has become its command, nobody could.
    let later = reader.role == Role::Run;
    let opened = reader.installed.disk.open(Path::new(&value), ca_bundle::BYTES_MAX, Links::Follow);
    let bundle = opened.map_err(CaBundleError::from).and_then(|file| {
        let bundle = CaBundle::new(value.clone().into(), file)?;
        if later { Ok(bundle) } else { bundle.check().map(|()| bundle) }
    });
    match bundle {
        Ok(bundle) => Some(Some(bundle)),
        Err(error) => {
            reader.faults.push(ca_bundle_fault(&value, &error));
            None
        }
    }
}
