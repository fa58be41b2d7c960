//! The file with the URL of a shared ledger.

use std::path::PathBuf;

use super::Mode;
use super::disk::describe;
use super::kind::Parse;
use super::reader::{Reader, given_path};
use super::setting::Setting;
use tollgate_disk::Links;

/// Largest file: a URL with several hosts and paths of certificates.
const URL_BYTES_MAX: usize = 8192;

/// The file's path, after a check that it holds a URL. The file is read again for each connection, because the password
/// in it may be replaced.
pub(super) fn ledger_url(
    reader: &mut Reader<'_>,
    setting: Setting,
    parse: Parse<PathBuf>,
) -> Option<Option<PathBuf>> {
    let Some(path) = given_path(reader, setting, parse)? else { return Some(None) };
    if reader.mode().is_some_and(|mode| !mode.is_run_by_seller()) {
        // A rule warns that it has no effect.
        return Some(None);
    }
    let problem = match reader.installed.engine {
        None => "needs tollgate-saas: this program keeps its ledger in state_dir only; run tollgate-saas, or remove the \
                 setting"
            .to_owned(),
        // Kubernetes mounts the files of a Secret as links.
        Some(engine) => match reader.installed.disk.read(&path, URL_BYTES_MAX, Links::Follow) {
            Ok(bytes) => match engine.check_url(String::from_utf8_lossy(&bytes).trim()) {
                Ok(()) => {
                    warn_of_a_files_settings(reader);
                    return Some(Some(path));
                }
                Err(problem) => problem,
            },
            Err(error) => format!(
                "cannot be read: {}; name a file with one line, postgres://user:password@host/database",
                describe(&error)
            ),
        },
    };
    reader.fault(setting, problem);
    None
}

/// Warns of settings that only a ledger in a file has.
fn warn_of_a_files_settings(reader: &mut Reader<'_>) {
    for (setting, why) in [
        (Setting::Clock, "usage follows the time of the database"),
        (Setting::SealOnShutdown, "a replica that stops leaves the open hour to the others"),
        (Setting::LedgerBytesMax, "the database has no limit here"),
    ] {
        if reader.is_given(setting) {
            let (name, origin) = (setting.spec().name, reader.origin(setting));
            reader.warnings.push(format!("{name} ({origin}) has no effect with ledger_url_file: {why}"));
        }
    }
}

/// Whether a shared ledger takes the place of the file in the state folder.
pub(super) fn is_shared(reader: &Reader<'_>) -> bool {
    reader.is_given(Setting::LedgerUrlFile) && reader.mode().is_some_and(Mode::is_run_by_seller)
}
