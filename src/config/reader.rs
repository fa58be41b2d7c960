//! Reads the chosen texts one after the other, and collects what is wrong with them instead of stopping at the first.
//!
//! A method returns `None` when it noted a fault. The caller goes on to its next setting and gives up only at its end,
//! so that one run shows an operator everything.

use std::path::{Path, PathBuf};

use super::disk::Installation;
use super::document::Raw;
use super::env::Environment;
use super::fault::{Fault, Origin, shown};
use super::parse::{self, Problem};
use super::resolve::{Choice, Resolution};
use super::setting::{Owner, Setting};

/// One pass over the settings.
pub(super) struct Reader<'a> {
    pub(super) resolution: &'a Resolution,
    pub(super) env: &'a dyn Environment,
    pub(super) installed: &'a Installation<'a>,
    pub(super) faults: Vec<Fault>,
    pub(super) warnings: Vec<String>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        resolution: &'a Resolution,
        env: &'a dyn Environment,
        installed: &'a Installation<'a>,
    ) -> Self {
        Self { resolution, env, installed, faults: Vec::new(), warnings: Vec::new() }
    }

    /// A setting that has a default.
    pub(super) fn read<T>(
        &mut self,
        setting: Setting,
        parse: impl FnOnce(&str) -> Result<T, Problem>,
    ) -> Option<T> {
        let default = self.default_text(setting);
        let text = self.text(setting).or_else(|| default.map(str::to_owned));
        match text {
            Some(text) => self.parsed(setting, &text, parse),
            None => {
                self.missing(setting, "is required");
                None
            }
        }
    }

    /// A setting that may be left out: `Some(None)` then.
    pub(super) fn given<T>(
        &mut self,
        setting: Setting,
        parse: impl FnOnce(&str) -> Result<T, Problem>,
    ) -> Option<Option<T>> {
        match self.text(setting) {
            None => Some(None),
            Some(text) => self.parsed(setting, &text, parse).map(Some),
        }
    }

    /// A list that may be left out.
    pub(super) fn given_list<T>(
        &mut self,
        setting: Setting,
        parse: impl FnOnce(&[String]) -> Result<T, Problem>,
    ) -> Option<Option<T>> {
        let items = match self.resolution.choice(setting).map(|choice| &choice.raw) {
            None => return Some(None),
            Some(Raw::List(items)) => items.as_slice(),
            Some(Raw::Text(text)) => std::slice::from_ref(text),
        };
        let quoted = items.iter().any(|item| is_quoted(item));
        let parsed = if quoted { Err(QUOTED.into()) } else { parse(items) };
        parsed.map(Some).map_err(|problem| self.fault(setting, problem)).ok()
    }

    /// A path that may be left out; in a file it is relative to the file's folder.
    pub(super) fn given_path(&mut self, setting: Setting) -> Option<Option<PathBuf>> {
        let path = self.given(setting, parse::path)?;
        Some(path.map(|path| match self.origin(setting) {
            Origin::Seller { path: file, .. } | Origin::File { path: file, .. } => {
                file.parent().unwrap_or_else(|| Path::new("")).join(path)
            }
            Origin::Default | Origin::Environment(_) | Origin::Flag(_) => path,
        }))
    }

    /// Somebody set it.
    pub(super) fn is_given(&self, setting: Setting) -> bool {
        self.resolution.choice(setting).is_some()
    }

    pub(super) fn origin(&self, setting: Setting) -> Origin {
        self.resolution.choice(setting).map_or(Origin::Default, |choice| choice.origin.clone())
    }

    /// Notes what is wrong with the value that counts for `setting`.
    pub(super) fn fault(&mut self, setting: Setting, problem: impl Into<String>) {
        let spec = setting.spec();
        let choice = self.resolution.choice(setting);
        let value = choice.map(|choice| choice.raw.to_text());
        let value = value.or_else(|| self.default_text(setting).map(str::to_owned));
        self.faults.push(Fault {
            subject: spec.name.to_owned(),
            value: value.map(|value| shown(spec, &value)),
            origin: Some(self.origin(setting)),
            problem: problem.into(),
        });
    }

    /// Notes that a setting is needed and absent, with the places where it may be set.
    pub(super) fn missing(&mut self, setting: Setting, need: &str) {
        let spec = setting.spec();
        let remedy = if spec.owner != Owner::Operator && self.resolution.sealed() {
            format!("set it in the seller's file {}", self.installed.seller_file.display())
        } else {
            format!("set {} (or --{}, or the key in a file)", spec.env, spec.flag)
        };
        self.faults.push(Fault::of(spec.name, format!("{need}; {remedy}")));
    }

    /// Warns of a setting that somebody set and that does nothing here.
    pub(super) fn warn_unused(&mut self, setting: Setting, reason: &str) {
        if self.is_given(setting) {
            let line = format!("{} ({}) has no effect: {reason}", setting.spec().name, self.origin(setting));
            self.warnings.push(line);
        }
    }

    fn parsed<T>(
        &mut self,
        setting: Setting,
        text: &str,
        parse: impl FnOnce(&str) -> Result<T, Problem>,
    ) -> Option<T> {
        let parsed = if is_quoted(text) { Err(QUOTED.into()) } else { parse(text) };
        parsed.map_err(|problem| self.fault(setting, problem)).ok()
    }

    fn default_text(&self, setting: Setting) -> Option<&'static str> {
        default_text(setting, self.installed)
    }

    fn text(&self, setting: Setting) -> Option<String> {
        self.resolution.choice(setting).map(|Choice { raw, .. }| raw.to_text())
    }
}

/// Quotes that a shell or a template did not take off. No setting has a value that begins or ends with one.
pub(super) fn is_quoted(text: &str) -> bool {
    let quote = |c: char| c == '"' || c == '\'';
    text.starts_with(quote) || text.ends_with(quote)
}

pub(super) const QUOTED: &str = "holds quotes; write the value without them";

/// The default of a setting in this build.
pub(super) fn default_text(setting: Setting, installed: &Installation<'_>) -> Option<&'static str> {
    if setting == Setting::AllowEmulated && !installed.emulator {
        return Some("false");
    }
    setting.spec().default
}
