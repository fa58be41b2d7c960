//! Checks the AWS profile files, which the SDK reads itself: whether they can be read without waiting, whether the
//! profile that is named exists, and, beside a seller's file, that they set no endpoint.
//!
//! The SDK silently treats a file that it cannot read as an empty one.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::credentials::is_refused;
use super::disk::describe;
use super::env::filled;
use super::fault::{Fault, path_shown};
use super::reader::Reader;
use super::sdk::variable_fault;
use tollgate_disk::Links;

pub(super) const CONFIG_FILE: &str = "AWS_CONFIG_FILE";
pub(super) const CREDENTIALS_FILE: &str = "AWS_SHARED_CREDENTIALS_FILE";
pub(super) const PROFILE: &str = "AWS_PROFILE";

/// Largest profile file: a larger one cannot be trusted to hold no endpoint.
const BYTES_MAX: usize = 1024 * 1024;

/// The usual way to switch a profile file off.
const NO_FILE: &str = "/dev/null";

/// Reports faults of the files, and returns what gives no credentials.
pub(super) fn check(reader: &mut Reader<'_>) -> Vec<String> {
    let mut gaps = Vec::new();
    let mut files = Vec::new();
    for (variable, default) in [(CONFIG_FILE, "~/.aws/config"), (CREDENTIALS_FILE, "~/.aws/credentials")] {
        if is_refused(reader, variable) {
            continue;
        }
        let named = filled(reader.env, variable);
        let home = reader.env.get("HOME");
        let path = expand_home(Path::new(named.as_deref().unwrap_or(default)), home.as_deref());
        let text = match (read(reader, &path), &named) {
            (Ok(text), _) => text,
            (Err(Unread::Ignored(seen)), Some(_)) => {
                gaps.push(format!("{variable} names {}, which is ignored ({seen})", path.display()));
                String::new()
            }
            (Err(Unread::Ignored(_)), None) => String::new(),
            (Err(Unread::Refused(problem)), Some(value)) => {
                reader.faults.push(variable_fault(variable, value, problem));
                continue;
            }
            (Err(Unread::Refused(problem)), None) => {
                reader.faults.push(Fault::of(path.display().to_string(), problem));
                continue;
            }
        };
        if reader.resolution.sealed() {
            reader.faults.extend(endpoint_fault(&path, &text));
        }
        reader.faults.extend(token_file_fault(reader, &path, &text));
        files.push((variable == CONFIG_FILE, path, text));
    }
    gaps.extend(missing_profile(reader, &files));
    gaps
}

/// Why a file gives nothing.
enum Unread {
    /// The SDK continues without it.
    Ignored(String),
    /// The SDK could wait for it for ever, or it could set an endpoint unchecked.
    Refused(String),
}

fn read(reader: &Reader<'_>, path: &Path) -> Result<String, Unread> {
    if path == Path::new(NO_FILE) {
        return Ok(String::new());
    }
    let error = match reader.installed.disk.read(path, BYTES_MAX, Links::Follow) {
        Ok(bytes) => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) => error,
    };
    match error.kind() {
        // The SDK cannot read it either, so it sets no endpoint.
        ErrorKind::NotFound
        | ErrorKind::PermissionDenied
        | ErrorKind::IsADirectory
        | ErrorKind::NotADirectory => Err(Unread::Ignored(describe(&error))),
        ErrorKind::FileTooLarge if reader.resolution.sealed() => Err(Unread::Refused(
            "is too large to be searched for endpoints, which a seller's file forbids; remove it".to_owned(),
        )),
        _ => {
            let seen = describe(&error);
            Err(Unread::Refused(format!(
                "cannot be read as an AWS profile file: {seen}; name a regular file of at most 1 MiB, or remove it"
            )))
        }
    }
}

/// Expands a leading `~` as the SDK does for these two variables. If `HOME` is empty or not set, the path is relative
/// to the working directory.
fn expand_home(path: &Path, home: Option<&str>) -> PathBuf {
    let mut components = path.components();
    match components.next() {
        Some(first) if first.as_os_str() == "~" => Path::new(home.unwrap_or("~")).join(components.as_path()),
        _ => path.to_owned(),
    }
}

/// The files may set endpoints, for all services or in a `services` section. Such a line is refused in any profile,
/// because another profile may become active later. This check is for the operator; a file that changes later has no
/// effect, because the client of a sealed image is given its endpoint.
fn endpoint_fault(path: &Path, text: &str) -> Option<Fault> {
    let line = text.lines().position(|line| {
        let key = line.split(['=', ':']).next().unwrap_or_default().trim();
        ["endpoint_url", "ec2_metadata_service_endpoint"].iter().any(|name| key.eq_ignore_ascii_case(name))
    })?;
    Some(Fault::of(
        format!("{}:{}", path.display(), line + 1),
        "sets an endpoint for AWS requests, which a seller's file forbids; remove it",
    ))
}

/// A profile names something that is not a regular file for its web identity token. The SDK would open it: with a pipe
/// it would wait for ever, and nothing would say so. A missing file is accepted, because it may be created later.
fn token_file_fault(reader: &Reader<'_>, path: &Path, text: &str) -> Option<Fault> {
    text.lines().enumerate().find_map(|(at, line)| {
        let (key, file) = line.split_once('=')?;
        let file = file.trim();
        if !key.trim().eq_ignore_ascii_case("web_identity_token_file") || file.is_empty() {
            return None;
        }
        let error = reader.installed.disk.read(Path::new(file), BYTES_MAX, Links::Follow).err()?;
        let may_come = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied);
        let seen = describe(&error);
        let problem = format!(
            "names {} for a web identity token, which {seen}; name the file of the token",
            path_shown(file)
        );
        (!may_come).then(|| Fault::of(format!("{}:{}", path.display(), at + 1), problem))
    })
}

/// The gap if `AWS_PROFILE` names a profile that no file has. Whether an existing one gives credentials is not checked
/// here.
fn missing_profile(reader: &Reader<'_>, files: &[(bool, PathBuf, String)]) -> Option<String> {
    let profile = filled(reader.env, PROFILE).filter(|_| !is_refused(reader, PROFILE))?;
    let mut misplaced = "";
    for (is_config, _, text) in files {
        for header in text.lines().filter_map(header) {
            let (prefixed, name) = match header.split_once(char::is_whitespace) {
                Some(("profile", name)) => (true, name.trim()),
                _ => (false, header),
            };
            // As the SDK reads them: with the prefix in the configuration file (except `default`), else without it.
            if name == profile && (prefixed == *is_config || name == "default") {
                return None;
            }
            if name == profile {
                misplaced = "; there it is written [profile NAME] in the first, [NAME] in the second";
            }
        }
    }
    let paths: Vec<_> = files.iter().map(|(_, path, _)| path.display().to_string()).collect();
    Some(format!(
        "{PROFILE} names {profile:?}, a profile that is not in {}{misplaced}",
        paths.join(" or in ")
    ))
}

/// The text between the brackets of a section's first line.
fn header(line: &str) -> Option<&str> {
    let line = line.split(['#', ';']).next()?.trim_end();
    Some(line.strip_prefix('[')?.strip_suffix(']')?.trim())
}
