//! Which text is used for each setting: the seller's file, else a flag, else the environment, else the operator's file,
//! else a variable of the AWS SDK where the setting has one, else the default.
//!
//! - The seller's file takes precedence, and the same key anywhere else is a fault, even with the same value, so that a
//!   buyer is not overruled silently. For a setting that belongs to the operator it is only a warning: charts and
//!   manifests set some of them for every pod, and that must not keep a seller's image from starting.
//! - Where a seller's file exists, each setting comes from it or from its default, except those that belong to the
//!   operator ([`Owner`]) and those that the file hands on. For a setting that it hands on, the seller's file comes
//!   after the operator's. A seller's file that cannot be read seals all the same.
//!
//! This module must not know what a text means, except the mode's, which says which service an endpoint is for.

use std::io;
use std::path::{Path, PathBuf};

use super::disk::{Installation, describe};
use super::document::{self, Author, Document, Entry, FILE_BYTES_MAX, Raw};
use super::env::{Environment, filled};
use super::fault::{Fault, Origin, quoted, shown};
use super::flags::{CONFIG_FLAG, Flags};
use super::reader::{QUOTED, is_quoted};
use super::setting::{ENV_PREFIX, Owner, Setting, Spec, did_you_mean};
use super::{Mode, parse, sdk};
use tollgate_disk::Links;

/// The variable that names the operator's file.
pub const CONFIG_VARIABLE: &str = "TOLLGATE_CONFIG";

/// The variable that says which pod this is, from the downward API.
pub const POD_UID_VARIABLE: &str = "TOLLGATE_POD_UID";

/// A Service named `tollgate` makes Kubernetes inject variables that begin like this.
const SERVICE_VARIABLE_PREFIXES: [&str; 2] = ["TOLLGATE_PORT", "TOLLGATE_SERVICE_"];

/// A text and where it comes from.
#[derive(Debug, Clone)]
pub(super) struct Choice {
    pub(super) raw: Raw,
    pub(super) origin: Origin,
}

/// One text, or none, for each setting.
#[derive(Debug, Default)]
pub(super) struct Resolution {
    choices: Vec<Option<Choice>>,
    pub(super) seller: FileState,
    /// What the seller's file hands to the operator.
    handed_on: Vec<Setting>,
    pub(super) file: FileState,
    pub(super) file_origin: Option<Origin>,
    pub(super) faults: Vec<Fault>,
    pub(super) warnings: Vec<String>,
}

/// What is known of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum FileState {
    /// There is none.
    #[default]
    Absent,
    /// It was read.
    Read(PathBuf),
    /// It exists and cannot be used; a fault says why.
    Broken(PathBuf),
}

impl FileState {
    pub(super) fn exists(&self) -> bool {
        *self != Self::Absent
    }

    pub(super) fn is_broken(&self) -> bool {
        matches!(self, Self::Broken(_))
    }
}

impl Resolution {
    pub(super) fn choice(&self, setting: Setting) -> Option<&Choice> {
        self.choices.get(setting as usize).and_then(Option::as_ref)
    }

    /// A seller's file exists.
    pub(super) fn sealed(&self) -> bool {
        self.seller.exists()
    }

    /// The operator set it beside a seller's file that does not hand it on. Then its minimum holds, so that no value
    /// prevents the billing of usage.
    pub(super) fn is_operators_own(&self, setting: Setting) -> bool {
        let theirs = |choice: &Choice| !matches!(choice.origin, Origin::Seller { .. });
        self.sealed() && self.choice(setting).is_some_and(theirs) && !self.handed_on.contains(&setting)
    }
}

/// Collects all sources and decides between them.
pub(super) fn resolve(flags: &Flags, env: &dyn Environment, installed: &Installation<'_>) -> Resolution {
    let mut resolution = Resolution::default();
    let seller = read_seller(installed, &mut resolution);
    resolution.handed_on = seller.operator_settings;
    let file = read_file(flags, env, installed, &mut resolution);
    let ignore_endpoints =
        filled(env, IGNORE_ENDPOINTS_VARIABLE).is_some_and(|value| value.eq_ignore_ascii_case("true"));

    for &setting in Setting::ALL {
        let spec = setting.spec();
        let from_seller = entry(&seller.entries, setting).map(|entry| Choice {
            raw: entry.raw.clone(),
            origin: Origin::Seller { path: installed.seller_file.clone(), line: entry.line },
        });
        let others = [
            flags.value(setting).map(|text| (Raw::from_text(setting, text), Origin::Flag(spec.flag))),
            env.get(spec.env)
                .map(|text| (Raw::from_text(setting, &text), Origin::Environment(spec.env.into()))),
            file_choice(&file, setting, &resolution.file),
        ];
        let others = others.into_iter().flatten().map(|(raw, origin)| Choice { raw, origin });
        let others: Vec<Choice> = others.collect();
        let allowed = resolution.check(setting, from_seller.as_ref(), &others, installed.emulator);
        let sdk = || {
            let honoured = !(setting == Setting::EndpointUrl && (ignore_endpoints || resolution.sealed()));
            let other = other_service(resolution.choice(Setting::Mode));
            honoured.then(|| sdk_choice(setting, spec, env, other)).flatten()
        };
        let chosen =
            if allowed { others.into_iter().next().or(from_seller).or_else(sdk) } else { from_seller };
        resolution.choices.push(chosen);
    }
    check_variables(env, &mut resolution);
    resolution
}

/// The SDK's switch that makes it ignore endpoints from the environment and from profiles.
pub(super) const IGNORE_ENDPOINTS_VARIABLE: &str = "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS";

impl Resolution {
    /// Reports a setting that may not be set where it is set. `false` if only the seller's file counts.
    fn check(
        &mut self,
        setting: Setting,
        seller: Option<&Choice>,
        others: &[Choice],
        emulator: bool,
    ) -> bool {
        let spec = setting.spec();
        let rehearsal = spec.owner == Owner::Rehearsal && emulator;
        let problem = if spec.emulator_only && !emulator {
            if let Some(choice) = seller {
                self.faults.push(refusal(spec, choice, NO_EMULATOR));
            }
            NO_EMULATOR
        } else if !self.sealed() || self.handed_on.contains(&setting) {
            return true;
        } else if rehearsal {
            self.warnings.extend(others.first().map(|choice| rehearsed(spec, choice)));
            return true;
        } else if let Some(seller) = seller.filter(|_| spec.owner == Owner::Operator) {
            self.warnings.extend(others.iter().map(|choice| overruled(spec, choice, seller)));
            return false;
        } else if seller.is_some() {
            "is set by the seller's file, which always wins; remove it here"
        } else if spec.owner != Owner::Operator {
            "may be set by the seller's file only, which this image has; remove it here"
        } else {
            return true;
        };
        self.faults.extend(others.iter().map(|choice| refusal(spec, choice, problem)));
        false
    }
}

fn rehearsed(spec: &'static Spec, choice: &Choice) -> String {
    format!(
        "{} ({}) overrides the seller's file: this build contains the emulator, and is for rehearsals only",
        spec.name, choice.origin
    )
}

fn overruled(spec: &'static Spec, choice: &Choice, seller: &Choice) -> String {
    format!(
        "{} ({}) is ignored: the {} sets it too, and takes precedence",
        spec.name, choice.origin, seller.origin
    )
}

const NO_EMULATOR: &str = "cannot be set: this build does not contain the emulator; remove it";

fn refusal(spec: &'static Spec, choice: &Choice, problem: &str) -> Fault {
    Fault {
        subject: spec.name.to_owned(),
        value: Some(shown(spec, &choice.raw.to_text())),
        origin: Some(choice.origin.clone()),
        problem: problem.to_owned(),
    }
}

fn entry(entries: &[Entry], setting: Setting) -> Option<&Entry> {
    entries.iter().find(|entry| entry.setting == setting)
}

fn file_choice(entries: &[Entry], setting: Setting, file: &FileState) -> Option<(Raw, Origin)> {
    let FileState::Read(path) = file else { return None };
    let entry = entry(entries, setting)?;
    Some((entry.raw.clone(), Origin::File { path: path.clone(), line: entry.line }))
}

/// The endpoint variable of the service that this product's mode does not call.
fn other_service(mode: Option<&Choice>) -> &'static str {
    let mode = mode.and_then(|choice| parse::mode(&choice.raw.to_text()).ok());
    if mode.is_some_and(Mode::asks_license_manager) {
        sdk::METERING_ENDPOINT
    } else {
        sdk::LICENSE_MANAGER_ENDPOINT
    }
}

fn sdk_choice(setting: Setting, spec: &'static Spec, env: &dyn Environment, other: &str) -> Option<Choice> {
    spec.sdk_variables.iter().filter(|variable| **variable != other).find_map(|variable| {
        let raw = Raw::from_text(setting, &filled(env, variable)?);
        Some(Choice { raw, origin: Origin::Environment((*variable).into()) })
    })
}

fn read_seller(installed: &Installation<'_>, resolution: &mut Resolution) -> Document {
    let path = &installed.seller_file;
    let (state, document) = read(installed, path, Author::Seller, false, &mut resolution.faults);
    resolution.seller = state;
    document
}

fn read_file(
    flags: &Flags,
    env: &dyn Environment,
    installed: &Installation<'_>,
    resolution: &mut Resolution,
) -> Vec<Entry> {
    let by_flag = flags.config.clone().map(|path| (path, Origin::Flag(CONFIG_FLAG)));
    let by_variable = || {
        let path = filled(env, CONFIG_VARIABLE)?;
        Some((PathBuf::from(path), Origin::Environment(CONFIG_VARIABLE.into())))
    };
    let named = by_flag.or_else(by_variable);
    let (path, origin) = named.unwrap_or_else(|| (installed.default_file.clone(), Origin::Default));
    // Only the default file may be absent: a named file that does not exist is a typing error.
    let must_exist = origin != Origin::Default;
    let (state, document) = if path.to_str().is_some_and(is_quoted) {
        resolution.faults.push(Fault::of(path.display().to_string(), QUOTED));
        (FileState::Broken(path), Document::default())
    } else {
        read(installed, &path, Author::Operator, must_exist, &mut resolution.faults)
    };
    resolution.file = state;
    resolution.file_origin = Some(origin);
    document.entries
}

fn read(
    installed: &Installation<'_>,
    path: &Path,
    author: Author,
    must_exist: bool,
    faults: &mut Vec<Fault>,
) -> (FileState, Document) {
    let links = match author {
        // The seller's file is a regular file of the image; the operator's may be a link, as ConfigMaps are mounted.
        Author::Seller => Links::Refuse,
        Author::Operator => Links::Follow,
    };
    let bytes = match installed.disk.read(path, FILE_BYTES_MAX, links) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !must_exist => {
            return (FileState::Absent, Document::default());
        }
        Err(error) => {
            let problem = match error.kind() {
                io::ErrorKind::FileTooLarge => "is larger than the 64 KiB of a configuration file".to_owned(),
                _ => format!("cannot be read: {}; correct the path or its permissions", describe(&error)),
            };
            faults.push(Fault::of(path.display().to_string(), problem));
            return (FileState::Broken(path.to_owned()), Document::default());
        }
    };
    match document::parse(path, &bytes, author, faults) {
        Ok(document) => (FileState::Read(path.to_owned()), document),
        Err(()) => (FileState::Broken(path.to_owned()), Document::default()),
    }
}

/// Checks the names of all variables: unknown ones of tollgate are warnings; beside a seller's file, endpoints are
/// faults.
fn check_variables(env: &dyn Environment, resolution: &mut Resolution) {
    // A hostile or broken environment must not flood the log.
    const WARNINGS_MAX: usize = 20;
    let mut names = env.names();
    names.sort_unstable();
    for name in names {
        if leads_away(&name) && resolution.sealed() && filled(env, &name).is_some() {
            resolution.faults.push(Fault {
                value: filled(env, &name).map(|value| quoted(&value)),
                ..Fault::of(
                    name,
                    "may not be set together with a seller's file: it redirects requests away from AWS; remove it",
                )
            });
        } else if name.starts_with(ENV_PREFIX)
            && !known_variable(&name)
            && resolution.warnings.len() < WARNINGS_MAX
        {
            resolution.warnings.push(unknown_variable(&name));
        }
    }
}

/// The variables that send the AWS SDK elsewhere than to AWS, for one service or for credentials.
fn leads_away(name: &str) -> bool {
    name.starts_with("AWS_ENDPOINT_URL") || name == "AWS_EC2_METADATA_SERVICE_ENDPOINT"
}

fn known_variable(name: &str) -> bool {
    name == CONFIG_VARIABLE
        || name == POD_UID_VARIABLE
        || SERVICE_VARIABLE_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || Setting::by_env(name).is_some()
}

fn unknown_variable(name: &str) -> String {
    let known =
        Setting::ALL.iter().map(|setting| setting.spec().env).chain([CONFIG_VARIABLE, POD_UID_VARIABLE]);
    let shown = name.escape_debug();
    match did_you_mean(name, known) {
        Some(near) => {
            format!("the environment variable {shown} is unknown and ignored; did you mean {near}?")
        }
        None => format!("the environment variable {shown} is unknown and ignored"),
    }
}
