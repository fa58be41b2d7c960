//! The variables of the AWS SDKs that are no settings: roles and token files, ECS metadata, certificate authorities,
//! switches.
//!
//! - An empty variable counts as unset, as in the SDKs.
//! - With a seller's file no endpoint may come from elsewhere, and that includes the AWS profile files.

use std::io;
use std::path::{Path, PathBuf};

use super::disk::describe;
use super::env::filled;
use super::fault::{Fault, Faults, Origin, quoted};
use super::reader::{QUOTED, Reader, is_quoted};
use super::setting::Setting;
use super::{EndpointUrl, Role, credentials};
use tollgate_aws::ca_bundle::{CaBundle, CaBundleError};
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

/// Largest bundle: the whole list of public authorities is a quarter of this size.
const CA_BUNDLE_BYTES_MAX: usize = 1024 * 1024;

/// What is wrong with a bundle, and what to do.
fn ca_bundle_problem(error: CaBundleError) -> String {
    format!("{error}; give a PEM file of CA certificates")
}

/// The last line of a process whose bundle was found to be invalid after the configuration was loaded.
pub(crate) fn ca_bundle_fault(error: CaBundleError) -> String {
    Faults(vec![Fault::of(CA_BUNDLE_VARIABLE, ca_bundle_problem(error))]).summary()
}

/// The certificate authorities to trust, where they are named.
pub(super) fn ca_bundle(reader: &mut Reader<'_>) -> Option<Option<CaBundle>> {
    let Some(value) = filled(reader.env, CA_BUNDLE_VARIABLE) else { return Some(None) };
    if credentials::is_refused(reader, CA_BUNDLE_VARIABLE) {
        return None;
    }
    let file = reader.installed.disk.open(Path::new(&value), CA_BUNDLE_BYTES_MAX, Links::Follow);
    // The sidecar reads the certificates when its ports are open: that takes as long as half of its start. After
    // `exec` has become its command, nobody could.
    let later = reader.role == Role::Run;
    let checked = |bundle: CaBundle| if later { Ok(bundle) } else { bundle.check().map(|()| bundle) };
    let problem = match file.map(|file| checked(CaBundle::new(file))) {
        Ok(Ok(bundle)) => return Some(Some(bundle)),
        Ok(Err(error)) => ca_bundle_problem(error),
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            "is larger than the 1 MiB of a bundle; give a PEM file of CA certificates".to_owned()
        }
        Err(error) => format!("cannot be read: {}; correct the path or its permissions", describe(&error)),
    };
    reader.faults.push(variable_fault(CA_BUNDLE_VARIABLE, &value, problem));
    None
}
