//! The state folder, tested to be writable.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::disk::describe;
use super::kind::{DURATION, LICENSE_MODEL, Parse};
use super::ledger_url::is_shared;
use super::reader::{Reader, given_path, read};
use super::setting::Setting;
use super::{LicenseModel, Mode, Role, StateDir};

/// Why a writable folder is needed, if it is.
fn need(reader: &Reader<'_>) -> Option<String> {
    let mode = reader.mode()?;
    // A grace period that nobody set does not require a folder.
    let grace = || {
        reader.is_given(Setting::GracePeriod)
            && reader.peek(Setting::GracePeriod, DURATION.parse).is_some_and(|grace| !grace.is_zero())
    };
    if mode.has_ledger() && !is_shared(reader) {
        Some(format!("mode {mode} keeps its usage ledger there"))
    } else if grace() {
        // If it were counted in memory, the grace period would start again with every restart of the container.
        Some("grace_period is counted there".to_owned())
    } else {
        None
    }
}

/// Reads the folder's path and tests that it can be written. If it cannot, that is a fault if the folder was named or
/// is needed, else a warning.
pub(super) fn state_dir(
    reader: &mut Reader<'_>,
    setting: Setting,
    parse: Parse<PathBuf>,
) -> Option<StateDir> {
    let (need, keep) = (need(reader), !matches!(reader.role, Role::Check | Role::Inspect));
    let path = read(reader, setting, parse)?;
    if path == Path::new("none") {
        let Some(need) = need else {
            if holds_seats(reader) {
                reader
                    .warnings
                    .push(format!("state_dir = \"none\": {LOST_SEATS}; name a folder on a volume"));
            }
            return Some(StateDir::None);
        };
        reader.fault(setting, format!("keeps nothing, but {need}; name a folder on a volume"));
        return None;
    }
    let explicit = reader.is_given(setting);
    if is_shared(reader) && !explicit && reader.role != Role::Ledger {
        return Some(StateDir::None);
    }
    let path = if explicit { given_path(reader, setting, parse)?.unwrap_or(path) } else { path };
    if matches!(reader.role, Role::Ledger | Role::SellersFile) {
        return Some(kept(path, explicit));
    }
    let Err(error) = reader.installed.disk.try_write(&path, keep) else {
        return Some(kept(path, explicit));
    };
    let problem = format!("cannot be written: {}", describe(&error));
    let full = error.kind() == ErrorKind::StorageFull;
    let holds_usage = reader.mode().is_some_and(Mode::has_ledger) && !is_shared(reader);
    let judged_later = full && holds_usage || !explicit && need.is_none();
    if reader.role == Role::Inspect && judged_later {
        return Some(kept(path, explicit));
    }
    if explicit || need.is_some() {
        let because = need.map(|need| format!(", and {need}")).unwrap_or_default();
        let remedy = match (full, holds_usage) {
            (true, true) => {
                "free room on the volume or enlarge it; usage that is there is sent after the next start"
            }
            (true, false) => "free room on the volume or enlarge it, or name another folder",
            _ => {
                "mount a volume that this user may write (in Kubernetes, see fsGroup), or name another folder"
            }
        };
        reader.fault(setting, format!("{problem}{because}; {remedy}"));
        return None;
    }
    let lost = if holds_seats(reader) { LOST_SEATS } else { "nothing is kept over a restart" };
    reader.warnings.push(format!(
        "state_dir {} {problem}; {lost} (mount a volume, or set state_dir = \"none\")",
        path.display()
    ));
    Some(StateDir::None)
}

/// What a pod without a folder loses in license model `floating`.
const LOST_SEATS: &str = "a container that restarts loses its seats until their checkout ends, an hour by default, and \
                          takes others";

fn holds_seats(reader: &Reader<'_>) -> bool {
    reader.mode().is_some_and(Mode::asks_license_manager)
        && reader.peek(Setting::LicenseModel, LICENSE_MODEL.parse) == Some(LicenseModel::Floating)
}

fn kept(path: PathBuf, explicit: bool) -> StateDir {
    if explicit { StateDir::Explicit(path) } else { StateDir::Default(path) }
}
