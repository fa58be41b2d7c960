//! Reads the chosen texts one after the other, and collects what is wrong with them instead of stopping at the first.
//!
//! The functions of this module return `None` when they reported a fault. Reading continues with the next setting and
//! fails only at the end, so that one run shows an operator all faults.

use std::path::{Path, PathBuf};

use super::disk::Installation;
use super::document::Raw;
use super::env::Environment;
use super::fault::{Fault, Origin, shown};
use super::kind::{MODE, Parse};
use super::parse::Problem;
use super::resolve::{FileState, Resolution};
use super::setting::{DefaultText, Owner, Setting};
use super::{Mode, Role};

/// One pass over the settings.
pub(super) struct Reader<'a> {
    pub(super) resolution: &'a Resolution,
    pub(super) env: &'a dyn Environment,
    pub(super) installed: &'a Installation<'a>,
    pub(super) role: Role,
    pub(super) faults: Vec<Fault>,
    pub(super) warnings: Vec<String>,
}

/// Reads a setting that has a default, or must be set.
pub(super) fn read<T>(reader: &mut Reader<'_>, setting: Setting, parse: Parse<T>) -> Option<T> {
    match reader.raw(setting) {
        Some(raw) => reader.parsed(setting, &raw, parse),
        None => {
            reader.missing(setting, "is required");
            None
        }
    }
}

/// Reads a setting that may be left out: `Some(None)` if it is not set, or has no effect in the mode.
pub(super) fn given<T>(reader: &mut Reader<'_>, setting: Setting, parse: Parse<T>) -> Option<Option<T>> {
    let Some(choice) = reader.resolution.choice(setting) else { return Some(None) };
    let value = reader.parsed(setting, &choice.raw, parse)?;
    Some(Some(value).filter(|_| reader.no_effect(setting).is_none()))
}

/// Reads a setting that must be set in the modes where it has an effect: `Some(None)` in other modes.
pub(super) fn needed<T>(reader: &mut Reader<'_>, setting: Setting, parse: Parse<T>) -> Option<Option<T>> {
    let value = given(reader, setting, parse)?;
    // If the mode is invalid, it is not known whether the setting is needed.
    if value.is_none() && reader.mode().is_some_and(|mode| setting.spec().counts_in(mode)) {
        reader.missing(setting, "is required");
        return None;
    }
    Some(value)
}

/// Reads a list that may be left out: empty if it is not set.
pub(super) fn listed<T>(reader: &mut Reader<'_>, setting: Setting, parse: Parse<Vec<T>>) -> Option<Vec<T>> {
    Some(given(reader, setting, parse)?.unwrap_or_default())
}

/// Reads a path that may be left out; in a file it is relative to the file's folder.
pub(super) fn given_path(
    reader: &mut Reader<'_>,
    setting: Setting,
    parse: Parse<PathBuf>,
) -> Option<Option<PathBuf>> {
    let path = given(reader, setting, parse)?;
    Some(path.map(|path| match reader.origin(setting) {
        Origin::Seller { path: file, .. } | Origin::File { path: file, .. } => {
            file.parent().unwrap_or_else(|| Path::new("")).join(path)
        }
        Origin::Default | Origin::Environment(_) | Origin::Flag(_) => path,
    }))
}

/// Reads a setting with a minimum for the operator beside a seller's file, so that no value prevents the billing of
/// usage.
pub(super) fn floored<T: PartialOrd>(
    reader: &mut Reader<'_>,
    setting: Setting,
    parse: Parse<T>,
) -> Option<T> {
    let value = read(reader, setting, parse)?;
    let floor = setting.spec().floor.filter(|_| reader.resolution.is_operators_own(setting));
    match floor.map(|floor| (floor, parsed(&Raw::from_text(setting, floor), parse))) {
        Some((floor, Ok(least))) if value < least => {
            let problem = format!("is below {floor}, the minimum with a seller's file; choose more");
            reader.fault(setting, problem);
            None
        }
        _ => Some(value),
    }
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        resolution: &'a Resolution,
        env: &'a dyn Environment,
        installed: &'a Installation<'a>,
        role: Role,
    ) -> Self {
        Self { resolution, env, installed, role, faults: Vec::new(), warnings: Vec::new() }
    }

    /// The value of a setting for a rule about another one. Its own faults are reported where it is read.
    pub(super) fn peek<T>(&self, setting: Setting, parse: Parse<T>) -> Option<T> {
        parsed(&self.raw(setting)?, parse).ok()
    }

    /// The mode, if it is valid.
    pub(super) fn mode(&self) -> Option<Mode> {
        self.peek(Setting::Mode, MODE.parse)
    }

    /// Why the setting has no effect in this mode or for this command; `None` if it has one.
    pub(super) fn no_effect(&self, setting: Setting) -> Option<&'static str> {
        if self.role == Role::Exec && matches!(setting, Setting::Quit | Setting::DrainQuiet) {
            return Some("exec ends with its command, and nothing reports usage after that");
        }
        let only = setting.spec().only?;
        (!(only.used)(self.mode()?)).then_some(only.otherwise)
    }

    /// Whether it is set anywhere.
    pub(super) fn is_given(&self, setting: Setting) -> bool {
        self.resolution.choice(setting).is_some()
    }

    pub(super) fn origin(&self, setting: Setting) -> Origin {
        self.resolution.choice(setting).map_or(Origin::Default, |choice| choice.origin.clone())
    }

    /// Reports a fault of the value of `setting`.
    pub(super) fn fault(&mut self, setting: Setting, problem: impl Into<String>) {
        let spec = setting.spec();
        let choice = self.resolution.choice(setting);
        let value = choice.map(|choice| choice.raw.to_text());
        let value = value.or_else(|| default_text(setting, self.installed).map(str::to_owned));
        self.faults.push(Fault {
            subject: spec.name.to_owned(),
            value: value.map(|value| shown(spec, &value)),
            origin: Some(self.origin(setting)),
            problem: problem.into(),
        });
    }

    /// Reports that a setting is needed and absent, with the places where it may be set. A file that cannot be used may
    /// have it: then the file's fault is the only one.
    pub(super) fn missing(&mut self, setting: Setting, need: &str) {
        let files = [&self.resolution.seller, &self.resolution.file];
        if files.iter().any(|file| matches!(file, FileState::Broken(_))) {
            return;
        }
        let spec = setting.spec();
        let remedy = if spec.owner != Owner::Operator && self.resolution.sealed() {
            format!("set it in the seller's file {}", self.installed.seller_file.display())
        } else {
            format!("set {} (or --{}, or the key in a file)", spec.env, spec.flag)
        };
        self.faults.push(Fault::of(spec.name, format!("{need}; {remedy}")));
    }

    fn parsed<T>(&mut self, setting: Setting, raw: &Raw, parse: Parse<T>) -> Option<T> {
        parsed(raw, parse).map_err(|problem| self.fault(setting, problem)).ok()
    }

    /// The text that was set, else the default.
    fn raw(&self, setting: Setting) -> Option<Raw> {
        if let Some(choice) = self.resolution.choice(setting) {
            return Some(choice.raw.clone());
        }
        let default = match setting.spec().default {
            DefaultText::Depends(_, decide) => Some(decide(self)),
            _ => default_text(setting, self.installed),
        };
        default.map(|text| Raw::from_text(setting, text))
    }
}

fn parsed<T>(raw: &Raw, parse: Parse<T>) -> Result<T, Problem> {
    let items = match raw {
        Raw::List(items) => items.as_slice(),
        Raw::Text(text) => std::slice::from_ref(text),
    };
    if items.iter().any(|item| is_quoted(item)) {
        return Err(QUOTED.into());
    }
    match parse {
        Parse::List(parse) => parse(items),
        Parse::Text(parse) => parse(&raw.to_text()),
    }
}

/// Whether a shell or a template left quotes. No setting has a value that begins or ends with one.
pub(super) fn is_quoted(text: &str) -> bool {
    let quote = |c: char| c == '"' || c == '\'';
    text.starts_with(quote) || text.ends_with(quote)
}

pub(super) const QUOTED: &str = "holds quotes; write the value without them";

/// The default of a setting in this build, unless the rest of the configuration decides it.
pub(super) fn default_text(setting: Setting, installed: &Installation<'_>) -> Option<&'static str> {
    match setting.spec().default {
        DefaultText::Is(text) => Some(text),
        DefaultText::ByBuild { with_emulator, released, .. } => {
            Some(if installed.emulator { with_emulator } else { released })
        }
        DefaultText::Depends(..) | DefaultText::Absent(_) => None,
    }
}
