//! Files that hold a token: that of the application's server, and the license token of AWS Marketplace.

use std::io::ErrorKind;
use std::path::PathBuf;

use super::Secret;
use super::disk::describe;
use super::kind::Parse;
use super::reader::{Reader, given_path};
use super::setting::Setting;
use tollgate_aws::licensing::{self, token_in};
use tollgate_disk::Links;

/// Largest token file: a bearer token travels in a request header.
const TOKEN_BYTES_MAX: usize = 4096;

/// A shorter token can be guessed over a local network in reasonable time.
const TOKEN_CHARS_ADVISED: usize = 16;

/// Reads the token from the file that `setting` names.
pub(super) fn bearer_token(
    reader: &mut Reader<'_>,
    setting: Setting,
    parse: Parse<PathBuf>,
) -> Option<Option<Secret>> {
    let Some(path) = given_path(reader, setting, parse)? else { return Some(None) };
    let bytes = match reader.installed.disk.read(&path, TOKEN_BYTES_MAX, Links::Follow) {
        Ok(bytes) => bytes,
        Err(error) => {
            let problem = format!("cannot be read: {}; name a file that holds the token", describe(&error));
            reader.fault(setting, problem);
            return None;
        }
    };
    let token = String::from_utf8(bytes).unwrap_or_default();
    // Editors and `echo` end a file with a line feed, and Secrets arrive with spaces around their value.
    let token = token.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        reader
            .fault(setting, "holds no token; write one line of printable ASCII without spaces into the file");
        return None;
    }
    if token.len() < TOKEN_CHARS_ADVISED {
        reader
            .warnings
            .push("the token in app_token_file has fewer than 16 characters and can be guessed".into());
    }
    Some(Some(Secret::new(token.to_owned())))
}

/// The file of the license token, after a check that it holds one. The client reads the file again each time, because
/// it may be replaced.
pub(super) fn license_token(
    reader: &mut Reader<'_>,
    setting: Setting,
    parse: Parse<PathBuf>,
) -> Option<Option<PathBuf>> {
    let Some(path) = given_path(reader, setting, parse)? else { return Some(None) };
    // Kubernetes mounts the files of a Secret as links.
    let problem = match reader.installed.disk.read(&path, licensing::TOKEN_BYTES_MAX, Links::Follow) {
        Ok(content) if token_in(&content).is_some() => return Some(Some(path)),
        Ok(_) => "holds no license token; write the token of AWS Marketplace into it, in one line".to_owned(),
        // A Secret is mounted as a folder.
        Err(error) if error.kind() == ErrorKind::IsADirectory => {
            "is a folder; name the file in it, which AWS Marketplace calls license_token".to_owned()
        }
        Err(error) => format!(
            "cannot be read: {}; name the file of the license token that AWS Marketplace gave the buyer",
            describe(&error)
        ),
    };
    reader.fault(setting, problem);
    None
}
