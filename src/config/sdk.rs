//! The surroundings that the AWS SDK's conventions describe: region, endpoint, certificate authorities, proxies.
//!
//! - An empty variable counts as unset, as in the SDKs.
//! - With a seller's file no endpoint may come from elsewhere, and that includes the AWS profile files.

use std::path::{Path, PathBuf};

use super::EndpointUrl;
use super::disk::{Disk, describe};
use super::env::filled;
use super::fault::{Fault, Origin, quoted};
use super::reader::Reader;
use super::setting::Setting;
use crate::disk::Links;
use tollgate_aws::ca_bundle::CaBundle;

/// Where the ECS agent describes the task (AWS: task metadata endpoint version 4).
const ECS_METADATA_VARIABLE: &str = "ECS_CONTAINER_METADATA_URI_V4";

/// The PEM file of the certificate authorities that are trusted instead of the built-in ones.
const CA_BUNDLE_VARIABLE: &str = "AWS_CA_BUNDLE";

/// Where the ECS agent or the EKS Pod Identity agent hands out credentials; the SDK asks there, `doctor` tells them
/// apart.
const CONTAINER_VARIABLES: [&str; 2] =
    ["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"];

/// The projected token of IRSA; the SDK reads it, we only look whether it can be read.
const WEB_IDENTITY_VARIABLE: &str = "AWS_WEB_IDENTITY_TOKEN_FILE";

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

/// The variables of an agent that hands out credentials, where they are set.
pub(super) fn container_credentials(reader: &mut Reader<'_>) -> Option<[Option<String>; 2]> {
    Some(CONTAINER_VARIABLES.map(|variable| filled(reader.env, variable)))
}

/// The file of the web identity token, where there is one.
pub(super) fn web_identity_token_file(reader: &mut Reader<'_>) -> Option<Option<PathBuf>> {
    Some(filled(reader.env, WEB_IDENTITY_VARIABLE).map(PathBuf::from))
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

fn variable_fault(variable: &'static str, value: &str, problem: String) -> Fault {
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
    if value.parse::<EndpointUrl>().is_ok() {
        return Some(Some(value));
    }
    // The agent injects it; the operator can do nothing about it, and the region may be known otherwise.
    reader.warnings.push(format!("{ECS_METADATA_VARIABLE} is not a URL and is ignored"));
    Some(None)
}

/// Largest bundle: the whole list of public authorities has a quarter of this.
const CA_BUNDLE_BYTES_MAX: usize = 1024 * 1024;

/// The certificate authorities to trust, where they are named.
pub(super) fn ca_bundle(reader: &mut Reader<'_>) -> Option<Option<CaBundle>> {
    let Some(value) = filled(reader.env, CA_BUNDLE_VARIABLE) else { return Some(None) };
    let read = reader.installed.disk.read(Path::new(&value), CA_BUNDLE_BYTES_MAX, Links::Follow);
    let problem = match read.map(|pem| CaBundle::from_pem(&pem)) {
        Ok(Ok(bundle)) => return Some(Some(bundle)),
        Ok(Err(error)) => format!("{error}; give a PEM file of CA certificates"),
        Err(error) => format!("cannot be read: {}; correct the path or its permissions", describe(&error)),
    };
    reader.faults.push(variable_fault(CA_BUNDLE_VARIABLE, &value, problem));
    None
}

/// Largest profile file that is searched; a larger one cannot be trusted to hold no endpoint.
const PROFILE_BYTES_MAX: usize = 1024 * 1024;

/// The AWS profile files may set endpoints, for all services or in a `services` section. Any such line is refused,
/// whichever profile it belongs to: which one is active can change without us. This tells the operator; what holds
/// when a file changes afterwards is that the client of a sealed image is given its endpoint.
pub(super) fn refuse_profile_endpoints(reader: &mut Reader<'_>) {
    let home = reader.env.get("HOME");
    for (variable, default) in
        [("AWS_CONFIG_FILE", "~/.aws/config"), ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")]
    {
        let path = reader.env.get(variable).unwrap_or_else(|| default.to_owned());
        let path = expand_home(Path::new(&path), home.as_deref());
        if let Some(fault) = profile_fault(reader.installed.disk, &path) {
            reader.faults.push(fault);
        }
    }
}

/// The SDK expands a leading `~` in these two variables itself, so we must look where it looks: below an empty `HOME`
/// as much as below none, where both are relative to whatever folder the process was started in.
fn expand_home(path: &Path, home: Option<&str>) -> PathBuf {
    let mut components = path.components();
    match components.next() {
        Some(first) if first.as_os_str() == "~" => Path::new(home.unwrap_or("~")).join(components.as_path()),
        _ => path.to_owned(),
    }
}

fn profile_fault(disk: &dyn Disk, path: &Path) -> Option<Fault> {
    let refusal = |place: String, problem: &str| {
        Some(Fault::of(place, format!("{problem}, which a seller's file forbids; remove it")))
    };
    let bytes = match disk.read(path, PROFILE_BYTES_MAX, Links::Follow) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::FileTooLarge => {
            return refusal(path.display().to_string(), "is too large to be searched for endpoints");
        }
        // What cannot be read cannot lead the SDK anywhere either.
        Err(_) => return None,
    };
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().position(|line| {
        let key = line.split(['=', ':']).next().unwrap_or_default().trim();
        ["endpoint_url", "ec2_metadata_service_endpoint"].iter().any(|name| key.eq_ignore_ascii_case(name))
    })?;
    refusal(format!("{}:{}", path.display(), line + 1), "sets an endpoint for AWS requests")
}
