//! What is wrong with a configuration: all faults at once, each in one line with its place and its remedy.
//!
//! - A fault never contains a secret: values pass through [`shown`] first.
//! - Values come from outside: they are escaped and cut, so that a fault stays one line.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

use super::setting::Spec;
use crate::entitlement::LINE_BYTES_MAX;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// It is not set.
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
    /// A fault of something other than a setting.
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
        // Names and paths come from outside too, and a fault must stay one line.
        f.write_str(&line.replace(char::is_control, "\u{fffd}"))
    }
}

/// Everything that is wrong, one line each. The process ends with [`crate::exit::Exit::Config`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Faults(pub(super) Vec<Fault>);

/// A broken file may have thousands of faults; more than this many are not useful.
const FAULTS_SHOWN_MAX: usize = 50;

impl Faults {
    /// All faults.
    #[must_use]
    pub fn as_slice(&self) -> &[Fault] {
        &self.0
    }

    /// All that a command prints before it ends: each fault in a line, and the summary last. A single fault is its own
    /// summary.
    #[must_use]
    pub fn told(&self) -> String {
        let summary = self.summary();
        match self.0.as_slice() {
            [only] if summary.ends_with(&only.to_string()) => summary,
            _ => format!("{self}\n{summary}"),
        }
    }

    /// The line that a command ends with: the first fault, and how many more there are.
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

/// A setting's value as it may be shown: quoted, escaped, cut, and without anything that looks like a secret.
pub(super) fn shown(spec: &Spec, value: &str) -> String {
    match hidden_reason(spec, value) {
        Some(reason) => format!("({reason}, not shown)"),
        None => quoted(value),
    }
}

/// Any text as it may be shown.
pub(super) fn quoted(value: &str) -> String {
    format!("{:?}", cut(&without_secrets(value), VALUE_BYTES_MAX))
}

/// A setting's value without quotes, for tables.
pub(super) fn plain(spec: &Spec, value: &str) -> String {
    match hidden_reason(spec, value) {
        Some(reason) => format!("({reason}, not shown)"),
        None => without_secrets(value).chars().map(printable).collect(),
    }
}

/// A character as it may stand in a table: quotes as they are, so that a TOML text can be copied from there.
fn printable(c: char) -> String {
    if matches!(c, '"' | '\'') { c.to_string() } else { c.escape_debug().to_string() }
}

fn hidden_reason(spec: &Spec, value: &str) -> Option<&'static str> {
    if value.contains("-----BEGIN") {
        return Some("a PEM text");
    }
    (spec.secret_path && !value.is_empty() && !is_path(value)).then_some("a secret")
}

/// Whether a value is certainly a path, and not the secret itself: base64 has slashes too.
pub(super) fn is_path(value: &str) -> bool {
    const NAME_CHARS_MAX: usize = 32;
    let rooted = value.starts_with('/') || value.starts_with("./") || value.starts_with("../");
    rooted && !value.contains(['+', '=']) && value.split('/').all(|name| name.len() <= NAME_CHARS_MAX)
}

/// The path of a secret's file as it may be shown.
pub(super) fn path_shown(value: &str) -> &str {
    if is_path(value) { value } else { "something that is no path" }
}

/// The one way to show a text that may be a URL, or was meant to be one, with or without its scheme: no user name, no
/// password, no query, no fragment. `https://user:password@host/path?token=1` becomes `https://…@host/path?…`.
pub(super) fn without_secrets(text: &str) -> Cow<'_, str> {
    let mut shown = Cow::Borrowed(text);
    let address_at = text.find("://").map_or(0, |at| at + "://".len());
    if let Some(userinfo) = userinfo(text) {
        let host = &text[address_at + userinfo.len()..];
        shown = Cow::Owned(format!("{}…{host}", &text[..address_at]));
    }
    if let Some(at) = shown.find(['?', '#']) {
        // A `?` or `#` at the end has nothing to hide after it, and URLs of documents may end with one.
        if shown.len() > at + 1 {
            shown = Cow::Owned(format!("{}…", &shown[..=at]));
        }
    }
    shown
}

/// User name and password in a URL, or in a text that was meant to be one. A password may hold any character, so they
/// reach to the last `@` if there is a colon before it.
pub(super) fn userinfo(text: &str) -> Option<&str> {
    let address = text.split_once("://").map_or(text, |(_, address)| address);
    let authority = &address[..address.find(['/', '?', '#']).unwrap_or(address.len())];
    let last = address.rfind('@').filter(|at| address[..*at].contains(':'));
    last.or_else(|| authority.rfind('@')).map(|at| &address[..at])
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
        for (token, hidden) in [
            ("abc/def/ghi", true),
            ("/q+3Zk/9", true),
            ("/q3Zk/9==", true),
            ("/aGVsbG8gd29ybGQgaGVsbG8gd29ybGQgaGVsbG8/x", true),
            ("./token", false),
            ("/var/run/secrets/kubernetes.io/serviceaccount/token", false),
        ] {
            assert_eq!(is_path(token), !hidden, "{token}");
        }
        let url = Setting::EndpointUrl.spec();
        for (text, expected) in [
            ("http://u:p@h:1/x", "http://…@h:1/x"),
            ("http://u:p/q?r#s@h/x", "http://…@h/x"),
            ("user:hunter22@evil", "…@evil"),
            ("token@evil", "…@evil"),
            ("http://h/x@y", "http://h/x@y"),
            ("https://h/x?token=hunter22", "https://h/x?…"),
            ("https://u:p@h/x?token=hunter22", "https://…@h/x?…"),
            ("https://h/x#hunter22", "https://h/x#…"),
            ("https://h/x#", "https://h/x#"),
        ] {
            assert_eq!(shown(url, text), format!("\"{expected}\""));
            assert_eq!(plain(url, text), expected);
        }
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
