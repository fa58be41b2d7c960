//! Each setting with its value and where it comes from, for `config print` and `doctor`.
//!
//! Values appear as they were written, not as they were understood, so that a wrong one can be shown too. Secrets do
//! not appear.

use serde::Serialize;

use super::disk::Installation;
use super::env::{Environment, filled};
use super::fault::{Origin, plain, without_secrets};
use super::flags::Flags;
use super::reader::default_text;
use super::resolve::{self, FileState, POD_UID_VARIABLE, Resolution};
use super::setting::Setting;
use super::{Config, Faults, Role, proxy, sdk};

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The setting or variable.
    pub name: String,
    /// Its value, safe to show; `None` where it is left out.
    pub value: Option<String>,
    /// Where the value comes from.
    pub origin: String,
}

/// The configuration as it was read, valid or not.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The configuration can be used.
    pub valid: bool,
    /// Files, settings, and the variables beside them that count.
    pub settings: Vec<Row>,
    /// What is odd but not wrong.
    pub warnings: Vec<String>,
    /// What is wrong, one line each.
    pub faults: Vec<String>,
    /// The line that a command ends with; empty when nothing is wrong.
    #[serde(skip)]
    pub summary: String,
}

/// Reads the configuration as `run` would and reports all that was seen.
#[must_use]
pub fn report(flags: &Flags, env: &dyn Environment, installed: &Installation<'_>) -> Report {
    read(flags, env, installed, Role::Check).0
}

/// [`report`] for `doctor`, with the configuration itself, or its faults.
pub fn inspect(
    flags: &Flags,
    env: &dyn Environment,
    installed: &Installation<'_>,
) -> (Report, Result<Config, Faults>) {
    read(flags, env, installed, Role::Inspect)
}

fn read(
    flags: &Flags,
    env: &dyn Environment,
    installed: &Installation<'_>,
    role: Role,
) -> (Report, Result<Config, Faults>) {
    let resolution = resolve::resolve(flags, env, installed);
    match super::load_resolved(&resolution, env, installed, role) {
        Ok(loaded) => {
            let report = Report {
                valid: true,
                settings: loaded.origins,
                warnings: loaded.warnings,
                faults: Vec::new(),
                summary: String::new(),
            };
            (report, Ok(loaded.config))
        }
        Err(faults) => {
            let report = Report {
                valid: false,
                settings: rows(&resolution, env, installed),
                warnings: resolution.warnings,
                faults: faults.as_slice().iter().map(ToString::to_string).collect(),
                summary: faults.summary(),
            };
            (report, Err(faults))
        }
    }
}

/// All rows, in the order of the table.
pub(super) fn rows(resolution: &Resolution, env: &dyn Environment, installed: &Installation<'_>) -> Vec<Row> {
    let seller = file_row("seller_file", &resolution.seller, "compiled in".to_owned());
    let file_origin = resolution.file_origin.as_ref().unwrap_or(&Origin::Default).to_string();
    let files = [seller, file_row("config_file", &resolution.file, file_origin)].into_iter();
    let settings = Setting::ALL.iter().map(|setting| setting_row(*setting, resolution, installed));
    let variables = [POD_UID_VARIABLE].into_iter().chain(sdk::SHOWN_VARIABLES.iter().copied());
    let variables = variables.chain(proxy::VARIABLES);
    let variables = variables.filter_map(|name| variable_row(name, env));
    files.chain(settings).chain(variables).collect()
}

fn file_row(name: &str, state: &FileState, origin: String) -> Row {
    let (value, origin) = match state {
        FileState::Absent => (None, format!("{origin}, absent")),
        FileState::Read(path) => (Some(path), origin),
        FileState::Broken(path) => (Some(path), format!("{origin}, unusable")),
    };
    let value = value.map(|path| path.display().to_string().escape_debug().to_string());
    Row { name: name.to_owned(), value, origin }
}

fn setting_row(setting: Setting, resolution: &Resolution, installed: &Installation<'_>) -> Row {
    let spec = setting.spec();
    let (value, origin) = match resolution.choice(setting) {
        Some(choice) => (Some(plain(spec, &choice.raw.to_text())), choice.origin.to_string()),
        None => {
            let default = default_text(setting, installed).map(str::to_owned);
            let origin = match default {
                Some(_) => Origin::Default.to_string(),
                None => format!("default: {}", spec.default_shown()),
            };
            (default, origin)
        }
    };
    Row { name: spec.name.to_owned(), value, origin }
}

fn variable_row(name: &'static str, env: &dyn Environment) -> Option<Row> {
    let value = filled(env, name)?;
    Some(Row {
        name: name.to_owned(),
        value: Some(without_secrets(&value).escape_debug().to_string()),
        origin: Origin::Environment(name.into()).to_string(),
    })
}
