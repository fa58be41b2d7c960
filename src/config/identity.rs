//! Which pod this is, from the downward API and the host's name.

use std::path::Path;

use super::env::filled;
use super::fault::Fault;
use super::reader::{QUOTED, Reader, is_quoted};
use super::resolve::POD_UID_VARIABLE;
use super::{Config, Mode, PodIdentity};
use tollgate_disk::Links;

/// Longest pod UID: a UUID has 36 characters, and other orchestrators may have their own form.
const POD_UID_CHARS_MAX: usize = 255;

/// The kernel allows 64 characters (`__NEW_UTS_LEN`) and adds a line feed.
const HOSTNAME_BYTES_MAX: usize = 256;

/// Set by the kubelet in every container of a pod.
const KUBERNETES_VARIABLE: &str = "KUBERNETES_SERVICE_HOST";

/// The downward API, as it is added to the container's `env`.
const DOWNWARD_API: &str =
    "- { name: TOLLGATE_POD_UID, valueFrom: { fieldRef: { fieldPath: metadata.uid } } }";

/// Keeps no receipt if the pod's UID is unknown: in Kubernetes the host name is the pod's name, which a StatefulSet
/// gives to the next pod too.
pub(super) fn keep_receipt_of_a_named_pod(config: &mut Config, warnings: &mut Vec<String>) {
    let nameless = config.identity.kubernetes && config.identity.uid.is_none();
    let kept = config.registration.kept_receipt && config.state.dir.path().is_some();
    if config.product.mode.is_signed() && nameless && kept {
        config.registration.kept_receipt = false;
        warnings.push(format!(
            "{POD_UID_VARIABLE} is not set, so no receipt is kept for a restart while AWS is unreachable; add to the \
             container's env: {DOWNWARD_API}"
        ));
    }
}

/// Warns if the pod's UID is unknown: the state file of a contract product belongs to one pod, and only the UID
/// distinguishes it from the next pod of the same name.
pub(super) fn warn_of_a_nameless_pod(config: &Config, warnings: &mut Vec<String>) {
    let nameless = config.identity.kubernetes && config.identity.uid.is_none();
    if config.product.mode.asks_license_manager() && nameless && config.state.dir.path().is_some() {
        warnings.push(format!(
            "{POD_UID_VARIABLE} is not set, so the next pod of this name on this volume would count as this one; add to the \
             container's env: {DOWNWARD_API}"
        ));
    }
}

/// The pod's UID, as the probe server's part holds it.
pub(super) fn pod_uid(reader: &mut Reader<'_>) -> Option<Option<String>> {
    checked_uid(reader).map_err(|problem| reader.faults.push(Fault::of(POD_UID_VARIABLE, problem))).ok()
}

fn checked_uid(reader: &Reader<'_>) -> Result<Option<String>, &'static str> {
    let Some(uid) = filled(reader.env, POD_UID_VARIABLE) else { return Ok(None) };
    if is_quoted(&uid) {
        return Err(QUOTED);
    }
    if uid.len() > POD_UID_CHARS_MAX || !uid.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("is not a pod's UID; set it from the downward API (metadata.uid), or remove it");
    }
    Ok(Some(uid))
}

/// Which pod this is.
pub(super) fn read(reader: &mut Reader<'_>) -> Option<PodIdentity> {
    let kubernetes = filled(reader.env, KUBERNETES_VARIABLE).is_some();
    // Its faults were reported by the probe server's part.
    let uid = checked_uid(reader).ok()?;
    if kubernetes && uid.is_none() && reader.mode().is_some_and(Mode::meters_own_pod) {
        let problem = format!(
            "is required in mode metered: AWS tells reports apart by pod, and only the UID identifies a pod across \
             restarts; add to the container's env: {DOWNWARD_API}"
        );
        reader.faults.push(Fault::of(POD_UID_VARIABLE, problem));
        return None;
    }
    let hostname = Path::new("/proc/sys/kernel/hostname");
    let hostname = reader.installed.disk.read(hostname, HOSTNAME_BYTES_MAX, Links::Refuse);
    let hostname = hostname.ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let hostname = hostname.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
    Some(PodIdentity { uid, hostname, kubernetes })
}
