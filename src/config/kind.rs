//! The kinds of values: for each, how its text is read, its name in the help, and what the chart's schema allows.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::dimension_rules::{MeteredDimension, dimension_rules};
use super::parse::{self, Problem};
use super::{
    AfterDenial, ClockSource, EndpointUrl, LicenseModel, ListenAddr, LogFormat, Mode, OnDenied, OnExpired,
    OnLapse, OnUnsent, OnZeroHour,
};
use tollgate_marketplace::license::Wanted;
use tollgate_marketplace::{Invalid, KeyFingerprint, ProductCode, ProductId, PublicKeyVersion, Region};

/// How a value is given on the command line and in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// One text.
    Text,
    /// `true` or `false` (also `on` and `off`); the flag may be given without a value.
    Switch,
    /// A list: separated by commas, or an array in a file.
    List,
    /// A table of tables: in a file one section for each, in the environment one TOML inline table. It has no flag.
    Table,
}

/// What the chart's schema allows as a value. Looser than the parser, which decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schema {
    /// Any text.
    Any,
    /// Texts, or one text with commas.
    List,
    /// A text that this regular expression matches.
    Pattern(&'static str),
    /// A duration.
    Duration,
    /// `keep`, or `close-after:` and a duration.
    CloseAfter,
    /// One of these words.
    Words(&'static [&'static str]),
    /// A boolean, or a word for one.
    Switch,
    /// A whole number above 0, or its text.
    Number,
    /// The tables of dimensions, or the text of one inline table.
    DimensionRules,
}

/// A kind of values that become a `T`.
pub(super) struct ValueKind<T> {
    pub(super) value_name: &'static str,
    pub(super) form: Form,
    pub(super) schema: Schema,
    pub(super) parse: Parse<T>,
}

/// How a text is read.
pub(super) enum Parse<T> {
    Text(fn(&str) -> Result<T, Problem>),
    List(fn(&[String]) -> Result<T, Problem>),
}

impl<T> Clone for Parse<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Parse<T> {}

impl<T> ValueKind<T> {
    const fn text(value_name: &'static str, schema: Schema, parse: fn(&str) -> Result<T, Problem>) -> Self {
        Self { value_name, form: Form::Text, schema, parse: Parse::Text(parse) }
    }

    /// The same kind with another parser, such as one with limits.
    pub(super) const fn parsed(&self, parse: fn(&str) -> Result<T, Problem>) -> Self {
        Self { value_name: self.value_name, form: self.form, schema: self.schema, parse: Parse::Text(parse) }
    }
}

/// A choice between two words.
macro_rules! either {
    ($name:ident: $type:ty, $value_name:literal, $a:literal => $x:expr, $b:literal => $y:expr) => {
        pub(super) const $name: ValueKind<$type> =
            ValueKind::text($value_name, Schema::Words(&[$a, $b]), |text| match text {
                $a => Ok($x),
                $b => Ok($y),
                _ => Err(concat!("is neither ", $a, " nor ", $b).into()),
            });
    };
}

either! { ON_DENIED: OnDenied, "POLICY", "hold" => OnDenied::Hold, "exit" => OnDenied::Exit }
either! { AFTER_DENIAL: AfterDenial, "POLICY", "ask-again" => AfterDenial::AskAgain, "new-pod" => AfterDenial::NewPod }
either! { ON_EXPIRED: OnExpired, "POLICY", "carry" => OnExpired::Carry, "dead-letter" => OnExpired::DeadLetter }
either! { ON_ZERO_HOUR: OnZeroHour, "POLICY", "skip" => OnZeroHour::Skip, "report" => OnZeroHour::Report }
either! { LICENSE_MODEL: LicenseModel, "MODEL", "check" => LicenseModel::Check, "floating" => LicenseModel::Floating }
either! { LOG_FORMAT: LogFormat, "FORMAT", "json" => LogFormat::Json, "text" => LogFormat::Text }

pub(super) const ADDR: ValueKind<ListenAddr> = ValueKind::text("ADDR", Schema::Any, parse::listen_addr);
pub(super) const TCP_ADDR: ValueKind<ListenAddr> =
    ValueKind::text("ADDR", Schema::Any, |text| parse::tcp_addr(text).map(ListenAddr::Tcp));
pub(super) const CLOCK: ValueKind<ClockSource> =
    ValueKind::text("URL", Schema::Pattern("^(system|https?://.+)$"), parse::clock);
pub(super) const DIMENSION: ValueKind<String> = ValueKind::text("NAME", Schema::Any, parse::dimension);
pub(super) const DIMENSION_RULES: ValueKind<Vec<MeteredDimension>> = ValueKind {
    value_name: "TABLE",
    form: Form::Table,
    schema: Schema::DimensionRules,
    parse: Parse::Text(dimension_rules),
};
pub(super) const DIMENSIONS: ValueKind<Vec<String>> = ValueKind {
    value_name: "NAME,…",
    form: Form::List,
    schema: Schema::List,
    parse: Parse::List(parse::dimensions),
};
pub(super) const DIR: ValueKind<PathBuf> = ValueKind::text("DIR", Schema::Any, parse::path);
pub(super) const DURATION: ValueKind<Duration> =
    ValueKind::text("DURATION", Schema::Duration, |text| parse::duration_within(text, "0s", "366d"));
pub(super) const ENDPOINT_URL: ValueKind<EndpointUrl> =
    ValueKind::text("URL", Schema::Pattern("^https?://"), parse::endpoint_url);
pub(super) const ENTITLEMENTS: ValueKind<Vec<Wanted>> = ValueKind {
    value_name: "NAME:UNIT:QUANTITY,…",
    form: Form::List,
    schema: Schema::List,
    parse: Parse::List(parse::entitlements),
};
/// In the chart an absolute path: a relative one would depend on the working directory.
pub(super) const FILE: ValueKind<PathBuf> = ValueKind::text("FILE", Schema::Pattern("^/"), parse::path);
pub(super) const KEY_FINGERPRINT: ValueKind<KeyFingerprint> =
    ValueKind::text("FINGERPRINT", Schema::Pattern("^aws.*:issuer-fingerprint$"), typed);
pub(super) const LOG_FILTER: ValueKind<String> = ValueKind::text("FILTER", Schema::Any, parse::log_filter);
pub(super) const MODE: ValueKind<Mode> = ValueKind::text("MODE", Schema::Words(&MODE_WORDS), parse::mode);
pub(super) const ON_LAPSE: ValueKind<OnLapse> =
    ValueKind::text("POLICY", Schema::CloseAfter, parse::on_lapse);
pub(super) const ON_UNSENT: ValueKind<OnUnsent> =
    ValueKind::text("POLICY", Schema::CloseAfter, parse::on_unsent);
pub(super) const PATH: ValueKind<PathBuf> = ValueKind::text("PATH", Schema::Any, parse::path);
pub(super) const PRODUCT_CODE: ValueKind<ProductCode> =
    ValueKind::text("CODE", Schema::Pattern("^[-a-zA-Z0-9/=:_.@]{0,255}$"), typed);
pub(super) const PRODUCT_ID: ValueKind<ProductId> =
    ValueKind::text("ID", Schema::Pattern("^[-a-zA-Z0-9._]{0,255}$"), typed);
pub(super) const REGION: ValueKind<Region> =
    ValueKind::text("REGION", Schema::Pattern("^([a-z]+(-[a-z]+)+-[0-9]{1,2})?$"), typed);
pub(super) const SEATS: ValueKind<u32> = ValueKind::text("N", Schema::Number, parse::seats);
pub(super) const SIZE: ValueKind<u64> =
    ValueKind::text("SIZE", Schema::Pattern("^[0-9]+(B|KiB|MiB|GiB|TiB)$"), parse::size);
pub(super) const SWITCH: ValueKind<bool> = ValueKind {
    value_name: "TRUE|FALSE",
    form: Form::Switch,
    schema: Schema::Switch,
    parse: Parse::Text(parse::switch),
};
pub(super) const VERSION: ValueKind<PublicKeyVersion> = ValueKind::text("N", Schema::Number, typed);
/// A web page, unlike [`ENDPOINT_URL`] with a query or a fragment.
pub(super) const WEB_PAGE: ValueKind<String> =
    ValueKind::text("URL", Schema::Pattern("^https?://."), parse::docs_url);

const MODE_WORDS: [&str; Mode::ALL.len()] = {
    let mut words = [""; Mode::ALL.len()];
    let mut i = 0;
    while i < words.len() {
        words[i] = Mode::ALL[i].as_str();
        i += 1;
    }
    words
};

/// A value that its own type parses.
fn typed<T: FromStr<Err = Invalid>>(text: &str) -> Result<T, Problem> {
    text.parse().map_err(|invalid: Invalid| invalid.0.into())
}
