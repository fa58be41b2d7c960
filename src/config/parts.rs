//! The parts of the configuration, each read whole, and the rules that join two of them.
//!
//! Every part reads all its settings before it gives up, so that all faults are noted in one run.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::disk::{Installation, describe};
use super::env::{Environment, filled};
use super::fault::Fault;
use super::reader::Reader;
use super::resolve::{POD_UID_VARIABLE, Resolution};
use super::setting::Setting;
use super::{
    App, Aws, Config, ListenAddr, Log, Mode, OnDenied, PodIdentity, Probe, Product, Registration, Role,
    Secret, State, StateDir,
};
use super::{keys, parse, sdk, usage};
use crate::disk::Links;
use tollgate_receipt::KeyRing;

/// Reads everything: a configuration where nothing is missing, with the faults and warnings.
pub(super) fn read(
    resolution: &Resolution,
    env: &dyn Environment,
    installed: &Installation<'_>,
    role: Role,
) -> (Option<Config>, Vec<Fault>, Vec<String>) {
    let mut reader = Reader::new(resolution, env, installed);
    let config = read_config(&mut reader, role);
    (config, reader.faults, reader.warnings)
}

fn read_config(reader: &mut Reader<'_>, role: Role) -> Option<Config> {
    let mode = reader.read(Setting::Mode, parse::mode);
    let product = product(reader, mode, role);
    let aws = sdk::read(reader);
    let probe = probe(reader);
    let app = app(reader);
    let registration = registration(reader, mode, role);
    let grace = registration.as_ref().is_some_and(|part| !part.grace_period.is_zero());
    let state = state(reader, need_of_state(mode, grace), role);
    let usage = usage::read(reader, mode);
    let log = log(reader);
    let clock = reader.read(Setting::Clock, parse::clock);
    let identity = identity(reader, mode);
    let registration = registration
        .map(|part| receipt_of_a_named_pod(reader, part, mode, identity.as_ref(), state.as_ref()));
    check_addresses(reader, probe.as_ref(), app.as_ref(), aws.as_ref());
    Some(Config {
        product: product?,
        registration: registration?,
        aws: aws?,
        probe: probe?,
        app: app?,
        state: state?,
        usage: usage?,
        log: log?,
        clock: clock?,
        identity: identity?,
    })
}

fn product(reader: &mut Reader<'_>, mode: Option<Mode>, role: Role) -> Option<Product> {
    let product_code = reader.read(Setting::ProductCode, parse::typed);
    let public_key_version = reader.given(Setting::PublicKeyVersion, parse::typed);
    let keys = key_ring(reader, mode, public_key_version.flatten());
    let allow_emulated = reader.read(Setting::AllowEmulated, parse::switch);
    let dimensions = reader.given_list(Setting::Dimensions, parse::dimensions);
    let entitlement_dimension = reader.given(Setting::EntitlementDimension, parse::dimension);
    let docs_url = reader.given(Setting::DocsUrl, parse::docs_url);
    if role == Role::Exec && mode.is_some_and(|mode| mode != Mode::Hourly) {
        reader.fault(
            Setting::Mode,
            "cannot be used with exec, which only hourly products can; use run and await",
        );
    }
    match (mode, &dimensions) {
        (Some(Mode::Hourly), _) => {
            reader.warn_unused(Setting::Dimensions, "AWS meters hourly products by itself");
        }
        // Otherwise a typing error in an event would be accepted here and lost at AWS.
        (Some(mode), Some(None)) => {
            let need = format!("is required in mode {mode}: the usage dimensions of the product");
            reader.missing(Setting::Dimensions, &need);
        }
        _ => {}
    }
    if mode.is_some_and(|mode| mode != Mode::Metered) {
        reader.warn_unused(Setting::EntitlementDimension, "it is for mode metered");
    }
    Some(Product {
        mode: mode?,
        product_code: product_code?,
        keys: keys?,
        public_key_version: public_key_version?,
        allow_emulated: allow_emulated?,
        dimensions: dimensions?,
        entitlement_dimension: entitlement_dimension?.filter(|_| mode == Some(Mode::Metered)),
        docs_url: docs_url?,
        sealed: reader.resolution.sealed(),
    })
}

fn key_ring(
    reader: &mut Reader<'_>,
    mode: Option<Mode>,
    stated: Option<tollgate_marketplace::PublicKeyVersion>,
) -> Option<KeyRing> {
    let Some(path) = reader.given_path(Setting::PublicKeys)? else {
        if mode != Some(Mode::Hourly) {
            return Some(KeyRing::default());
        }
        reader.missing(Setting::PublicKeys, "is required in mode hourly: the product's public key");
        return None;
    };
    let ring = match keys::load(reader.installed.disk, &path, stated) {
        Ok(ring) => ring,
        Err(problems) => {
            for problem in problems {
                reader.fault(Setting::PublicKeys, problem);
            }
            return None;
        }
    };
    if let Some(version) = stated.filter(|version| ring.get(*version).is_none()) {
        let held: Vec<String> = ring.versions().map(|version| version.to_string()).collect();
        let problem = format!(
            "is not among the keys held ({}); add {version}.pem or state another version",
            held.join(", ")
        );
        reader.fault(Setting::PublicKeyVersion, problem);
        return None;
    }
    Some(ring)
}

fn registration(reader: &mut Reader<'_>, mode: Option<Mode>, role: Role) -> Option<Registration> {
    let unavailable_after = reader.read(Setting::UnavailableAfter, duration);
    let grace_period = reader.read(Setting::GracePeriod, duration);
    let on_denied = reader.given(Setting::OnDenied, parse::on_denied);
    let on_lapse = reader.read(Setting::OnLapse, parse::on_lapse);
    let after_denial = reader.read(Setting::AfterDenial, parse::after_denial);
    let kept_receipt = reader.read(Setting::KeptReceipt, parse::switch);
    if mode.is_some_and(|mode| mode != Mode::Metered) {
        reader.warn_unused(Setting::OnLapse, "it is for mode metered");
    }
    if mode == Some(Mode::Metered)
        && role == Role::Inspect
        && reader.resolution.sealed()
        && !reader.is_given(Setting::OnUnsent)
    {
        reader.warnings.push(
            "on_unsent is not stated in the seller's file: decide whether the gate may close when usage stays unbilled \
             (keep, or close-after:<duration>), and state it"
                .to_owned(),
        );
    }
    let on_denied_default = if role == Role::Exec { OnDenied::Exit } else { OnDenied::Hold };
    Some(Registration {
        unavailable_after: unavailable_after?,
        grace_period: grace_period?,
        on_denied: on_denied?.unwrap_or(on_denied_default),
        on_lapse: on_lapse?,
        after_denial: after_denial?,
        kept_receipt: kept_receipt?,
    })
}

/// The probe server's part; also all that `probe` and `await` read.
pub(super) fn probe(reader: &mut Reader<'_>) -> Option<Probe> {
    let addr = reader.read(Setting::ProbeAddr, parse::tcp_addr)?;
    let pod_uid = filled(reader.env, POD_UID_VARIABLE);
    Some(Probe { addr: ListenAddr::Tcp(addr), pod_uid })
}

fn app(reader: &mut Reader<'_>) -> Option<App> {
    let addr = reader.read(Setting::AppAddr, parse::listen_addr);
    let token = token(reader);
    let aws_door = reader.read(Setting::AwsDoor, parse::switch);
    let quit = reader.read(Setting::Quit, parse::switch);
    let exposed = addr.as_ref().and_then(ListenAddr::tcp).is_some_and(|tcp| !is_loopback(tcp));
    if exposed && !reader.is_given(Setting::AppTokenFile) {
        reader.fault(
            Setting::AppAddr,
            "is reachable from other machines; set app_token_file, or listen on 127.0.0.1 or unix:/path",
        );
    }
    if aws_door == Some(true) && reader.is_given(Setting::AppTokenFile) {
        reader.fault(
            Setting::AwsDoor,
            "cannot be used with app_token_file: an AWS SDK sends its own Authorization; listen on loopback or unix:/path",
        );
    }
    Some(App { addr: addr?, token: token?, aws_door: aws_door?, quit: quit? })
}

fn is_loopback(addr: SocketAddr) -> bool {
    addr.ip().to_canonical().is_loopback()
}

/// Largest token file: a bearer token travels in a request header.
const TOKEN_BYTES_MAX: usize = 4096;

/// A shorter token can be guessed over a local network in reasonable time.
const TOKEN_CHARS_ADVISED: usize = 16;

fn token(reader: &mut Reader<'_>) -> Option<Option<Secret>> {
    let Some(path) = reader.given_path(Setting::AppTokenFile)? else { return Some(None) };
    let bytes = match reader.installed.disk.read(&path, TOKEN_BYTES_MAX, Links::Follow) {
        Ok(bytes) => bytes,
        Err(error) => {
            let problem = format!("cannot be read: {}; name a file that holds the token", describe(&error));
            reader.fault(Setting::AppTokenFile, problem);
            return None;
        }
    };
    let token = String::from_utf8(bytes).unwrap_or_default();
    // Editors and `echo` end a file with a line feed, and Secrets arrive with spaces around their value.
    let token = token.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        reader.fault(
            Setting::AppTokenFile,
            "holds no token; write one line of printable ASCII without spaces into the file",
        );
        return None;
    }
    if token.len() < TOKEN_CHARS_ADVISED {
        reader
            .warnings
            .push("the token in app_token_file has fewer than 16 characters and can be guessed".into());
    }
    Some(Some(Secret::new(token.to_owned())))
}

/// Why a writable folder is needed, if it is.
fn need_of_state(mode: Option<Mode>, grace: bool) -> Option<&'static str> {
    match mode {
        Some(Mode::Metered) => Some("mode metered keeps its usage ledger there"),
        Some(Mode::Saas) => Some("mode saas keeps its usage ledger there"),
        // Counted in memory, the grace period would begin anew with every restart of the container.
        Some(Mode::Hourly) if grace => Some("grace_period is counted there"),
        Some(Mode::Hourly) | None => None,
    }
}

fn state(reader: &mut Reader<'_>, need: Option<&'static str>, role: Role) -> Option<State> {
    let path = reader.read(Setting::StateDir, parse::path)?;
    if path == Path::new("none") {
        let Some(need) = need else { return Some(State { dir: StateDir::None }) };
        reader.fault(Setting::StateDir, format!("keeps nothing, but {need}; name a folder on a volume"));
        return None;
    }
    let explicit = reader.is_given(Setting::StateDir);
    let path = if explicit { reader.given_path(Setting::StateDir)?.unwrap_or(path) } else { path };
    if role == Role::Ledger {
        return Some(State { dir: kept(path, explicit) });
    }
    let Err(error) = reader.installed.disk.try_write(&path, role != Role::Inspect) else {
        return Some(State { dir: kept(path, explicit) });
    };
    let problem = format!("cannot be written: {}", describe(&error));
    let full = error.kind() == ErrorKind::StorageFull;
    if full && role == Role::Inspect {
        // What the folder holds can be looked at all the same.
        reader.warnings.push(format!("state_dir {} {problem}", path.display()));
        return Some(State { dir: kept(path, explicit) });
    }
    if explicit || need.is_some() {
        let because = need.map(|need| format!(", and {need}")).unwrap_or_default();
        let remedy = if full {
            "free room on the volume or enlarge it; usage that is there is sent after the next start"
        } else {
            "mount a volume that this user may write (in Kubernetes, see fsGroup), or name another folder"
        };
        reader.fault(Setting::StateDir, format!("{problem}{because}; {remedy}"));
        return None;
    }
    reader.warnings.push(format!(
        "state_dir {} {problem}; nothing is kept over a restart (mount a volume, or set state_dir = \"none\")",
        path.display()
    ));
    Some(State { dir: StateDir::None })
}

fn kept(path: PathBuf, explicit: bool) -> StateDir {
    if explicit { StateDir::Explicit(path) } else { StateDir::Default(path) }
}

fn duration(text: &str) -> Result<Duration, parse::Problem> {
    parse::duration_at_most(text, parse::DURATION_MAX, "366d")
}

fn log(reader: &mut Reader<'_>) -> Option<Log> {
    let format = reader.given(Setting::LogFormat, parse::log_format);
    let filter = reader.read(Setting::LogFilter, parse::log_filter);
    let of_library = |directive: &str| {
        directive.split_once('=').is_some_and(|(target, level)| {
            !target.starts_with("tollgate") && level.eq_ignore_ascii_case("trace")
        })
    };
    if filter.as_ref().is_some_and(|filter| filter.split(',').any(of_library)) {
        reader
            .warnings
            .push("log_filter: lines of libraries are written up to debug; trace may hold tokens".into());
    }
    Some(Log { format: format?, filter: filter? })
}

/// Longest pod UID: a UUID has 36 characters, and other orchestrators may have their own form.
const POD_UID_CHARS_MAX: usize = 255;

/// The kernel allows 64 characters (`__NEW_UTS_LEN`) and adds a line feed.
const HOSTNAME_BYTES_MAX: usize = 256;

/// Set by the kubelet in every container of a pod.
const KUBERNETES_VARIABLE: &str = "KUBERNETES_SERVICE_HOST";

/// The downward API, as it is added to the container's `env`.
const DOWNWARD_API: &str =
    "- { name: TOLLGATE_POD_UID, valueFrom: { fieldRef: { fieldPath: metadata.uid } } }";

/// In Kubernetes the host name is the pod's name, which a StatefulSet gives to the next pod too.
fn receipt_of_a_named_pod(
    reader: &mut Reader<'_>,
    registration: Registration,
    mode: Option<Mode>,
    identity: Option<&PodIdentity>,
    state: Option<&State>,
) -> Registration {
    let nameless = identity.is_some_and(|pod| pod.kubernetes && pod.uid.is_none());
    let keeps = registration.kept_receipt && state.is_some_and(|state| state.dir.path().is_some());
    if mode != Some(Mode::Hourly) || !nameless || !keeps {
        return registration;
    }
    reader.warnings.push(format!(
        "{POD_UID_VARIABLE} is not set, so no receipt is kept for a restart while AWS is out of reach; add to the \
         container's env: {DOWNWARD_API}"
    ));
    Registration { kept_receipt: false, ..registration }
}

fn identity(reader: &mut Reader<'_>, mode: Option<Mode>) -> Option<PodIdentity> {
    let kubernetes = filled(reader.env, KUBERNETES_VARIABLE).is_some();
    let uid = filled(reader.env, POD_UID_VARIABLE);
    if let Some(uid) = &uid
        && (uid.len() > POD_UID_CHARS_MAX || !uid.bytes().all(|byte| byte.is_ascii_graphic()))
    {
        let problem = "is not a pod's UID; set it from the downward API (metadata.uid), or remove it";
        reader.faults.push(Fault::of(POD_UID_VARIABLE, problem));
        return None;
    }
    if kubernetes && uid.is_none() && mode == Some(Mode::Metered) {
        let problem = format!(
            "is required in mode metered: AWS tells reports apart by the pod, and only its UID does so over a restart; \
             add to the container's env: {DOWNWARD_API}"
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

/// Two servers cannot share an address, and an endpoint that is one of them would be asked in a circle.
fn check_addresses(reader: &mut Reader<'_>, probe: Option<&Probe>, app: Option<&App>, aws: Option<&Aws>) {
    let probe = probe.and_then(|part| part.addr.tcp());
    let app = app.and_then(|part| part.addr.tcp());
    if let (Some(probe), Some(app)) = (probe, app)
        && collide(probe, app)
    {
        reader.fault(Setting::AppAddr, format!("collides with probe_addr {probe}; choose another port"));
    }
    let Some(url) = aws.and_then(|part| part.endpoint_url.as_ref()) else { return };
    for (name, addr) in [("app_addr", app), ("probe_addr", probe)] {
        if let Some(addr) = addr.filter(|addr| url.reaches(*addr)) {
            let problem =
                format!("is this sidecar's own {name} {addr}; name the metering service, or remove it");
            reader.fault(Setting::EndpointUrl, problem);
        }
    }
}

fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    // Port 0 is a new one each time.
    let same_port = a.port() == b.port() && a.port() != 0;
    same_port && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}
