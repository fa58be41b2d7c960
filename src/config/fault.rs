//! What is wrong with a configuration: every fault at once, each in one line with its place and its remedy.
//!
//! - A secret never reaches a fault: values pass through [`shown`] first.
//! - Values come from outside: they are escaped and cut, so that a line stays a line.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

use super::setting::Spec;
use crate::entitlement::LINE_BYTES_MAX;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// The seller's file.
    Seller {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// The operator's file.
    File {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// An environment variable.
    Environment(Cow<'static, str>),
    /// A flag, without its two hyphens.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Seller { path, line } => write!(f, "seller's file {}:{line}", path.display()),
            Self::File { path, line } => write!(f, "file {}:{line}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag --{name}"),
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The setting, variable or file.
    pub subject: String,
    /// The value, safe to show; `None` where there is none or it is the subject itself.
    pub value: Option<String>,
    /// Where the value comes from.
    pub origin: Option<Origin>,
    /// What is wrong, and after a semicolon what to do.
    pub problem: String,
}

impl Fault {
    /// A fault of something that is no setting.
    pub(super) fn of(subject: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { subject: subject.into(), value: None, origin: None, problem: problem.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = self.subject.clone();
        if let Some(value) = &self.value {
            line.push_str(" = ");
            line.push_str(value);
        }
        if let Some(origin) = &self.origin {
            line.push_str(&format!(" ({origin})"));
        }
        line.push_str(": ");
        line.push_str(&self.problem);
        // Names and paths come from outside too, and a line must stay a line.
        f.write_str(&line.replace(char::is_control, "\u{fffd}"))
    }
}

/// Everything that is wrong, one line each. The process ends with [`crate::exit::Exit::Config`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Faults(pub(super) Vec<Fault>);

/// A file of nonsense has thousands of faults; nobody reads past these.
const FAULTS_SHOWN_MAX: usize = 50;

impl Faults {
    /// Each of them.
    #[must_use]
    pub fn as_slice(&self) -> &[Fault] {
        &self.0
    }

    /// All that a command says before it ends: each fault in a line, and the summary last. A single one is its own
    /// summary.
    #[must_use]
    pub fn told(&self) -> String {
        let summary = self.summary();
        match self.0.as_slice() {
            [only] if summary.ends_with(&only.to_string()) => summary,
            _ => format!("{self}\n{summary}"),
        }
    }

    /// All of them in the one line that a command ends with.
    #[must_use]
    pub fn summary(&self) -> String {
        let first = self.0.first().map(ToString::to_string).unwrap_or_default();
        let more = match self.0.len() {
            0 | 1 => String::new(),
            n => format!(" (and {} more)", n - 1),
        };
        let prefix = "misconfigured: InvalidConfiguration: ";
        let room = LINE_BYTES_MAX - prefix.len() - more.len();
        format!("{prefix}{}{more}", cut(&first, room))
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().take(FAULTS_SHOWN_MAX).enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            fault.fmt(f)?;
        }
        match self.0.len().saturating_sub(FAULTS_SHOWN_MAX) {
            0 => Ok(()),
            hidden => write!(f, "\nand {hidden} more"),
        }
    }
}

/// Longest piece of a value that is shown.
const VALUE_BYTES_MAX: usize = 200;

/// A value as it may be shown: quoted, escaped, cut, and without anything that looks like a secret.
pub(super) fn shown(spec: &Spec, value: &str) -> String {
    match hidden_reason(spec, value) {
        Some(reason) => format!("({reason}, not shown)"),
        None => quoted(value),
    }
}

/// Any text as it may be shown, without the user name and password of a URL.
pub(super) fn quoted(value: &str) -> String {
    format!("{:?}", cut(&without_userinfo(value), VALUE_BYTES_MAX))
}

/// The same without quotes, for tables.
pub(super) fn plain(spec: &Spec, value: &str) -> String {
    match hidden_reason(spec, value) {
        Some(reason) => format!("({reason}, not shown)"),
        None => without_userinfo(value).escape_debug().to_string(),
    }
}

fn hidden_reason(spec: &Spec, value: &str) -> Option<&'static str> {
    if value.contains("-----BEGIN") {
        return Some("a PEM text");
    }
    (spec.secret_path && !value.is_empty() && !value.contains('/')).then_some("a secret")
}

/// `https://user:password@host` becomes `https://…@host`.
pub(super) fn without_userinfo(text: &str) -> Cow<'_, str> {
    let Some((scheme, rest)) = text.split_once("://") else { return Cow::Borrowed(text) };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => Cow::Owned(format!("{scheme}://…{}", &rest[at..])),
        None => Cow::Borrowed(text),
    }
}

/// At most `bytes_max` bytes, cut at a character, with an ellipsis where something is missing.
fn cut(text: &str, bytes_max: usize) -> Cow<'_, str> {
    const ELLIPSIS: &str = "…";
    if text.len() <= bytes_max {
        return Cow::Borrowed(text);
    }
    let end = text.floor_char_boundary(bytes_max.saturating_sub(ELLIPSIS.len()));
    Cow::Owned(format!("{}{ELLIPSIS}", &text[..end]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::setting::Setting;

    fn fault(value: &str) -> Fault {
        Fault {
            subject: "region".into(),
            value: Some(shown(Setting::Region.spec(), value)),
            origin: Some(Origin::Flag("region")),
            problem: "is not the name of an AWS region, such as us-east-1".into(),
        }
    }

    #[test]
    fn a_fault_is_one_line_whatever_the_value() {
        assert_eq!(
            fault("mars\n").to_string(),
            r#"region = "mars\n" (flag --region): is not the name of an AWS region, such as us-east-1"#
        );
        let long = fault(&"ü".repeat(5000)).to_string();
        assert!(long.len() < 400 && long.lines().count() == 1, "{long}");
    }

    #[test]
    fn secrets_are_not_shown() {
        let token = Setting::AppTokenFile.spec();
        assert_eq!(shown(token, "s3cret"), "(a secret, not shown)");
        assert_eq!(shown(token, "/run/secrets/token"), r#""/run/secrets/token""#);
        let keys = Setting::PublicKeys.spec();
        assert_eq!(plain(keys, "-----BEGIN PRIVATE KEY-----\nabc"), "(a PEM text, not shown)");
        let url = Setting::EndpointUrl.spec();
        assert_eq!(shown(url, "http://u:p@h:1/x"), r#""http://…@h:1/x""#);
        assert_eq!(shown(url, "http://h/x@y"), r#""http://h/x@y""#);
    }

    #[test]
    fn the_summary_is_one_short_line_and_the_list_ends() {
        let faults = Faults(vec![fault(&"x".repeat(900)); 70]);
        assert!(faults.summary().len() <= 512);
        assert!(faults.summary().ends_with("(and 69 more)"), "{}", faults.summary());
        assert_eq!(Faults(vec![fault("mars")]).told().lines().count(), 1, "once");
        assert_eq!(Faults(vec![fault("mars"); 2]).told().lines().count(), 3);
        let text = faults.to_string();
        assert_eq!(text.lines().count(), 51);
        assert!(text.ends_with("and 20 more"));
    }
}
