//! What a row of the table in `table` says about a setting, and the macro that makes everything else from it.
//!
//! - A row's name is spelled once; the flag (`--product-code`) and the variable (`TOLLGATE_PRODUCT_CODE`) follow from
//!   it at compile time. Flags, environment, files, `config print`, the parts of [`super::Config`], the tables of the
//!   documents and the schema of the chart's values all come from the rows.
//! - A default is text, read by the same parser as the text of an operator, so that both mean the same.
//!
//! This module must not know where values come from.

use super::kind::Kind;
pub use super::kind::{Form, Schema};
use super::mode::Mode;
use super::reader::Reader;
pub use super::table::Setting;

/// Who may set a setting where a seller's file exists.
///
/// A new setting belongs to the seller unless its row says otherwise: what was forgotten is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Only the seller's file, which may hand it to the operator with [`OPERATOR_SETTINGS`].
    Seller,
    /// The operator, unless the seller's file sets it.
    Operator,
    /// Only the seller's file, which cannot hand it on. In a build with the emulator the operator's value takes
    /// precedence over the seller's file, so that a sealed product can be rehearsed.
    Rehearsal,
}

impl Owner {
    /// The name in documents; [`Owner::Rehearsal`] is the seller's.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Seller | Self::Rehearsal => "seller",
            Self::Operator => "operator",
        }
    }
}

/// The key of a seller's file that lists settings of [`Owner::Seller`] which the operator may set nevertheless.
pub const OPERATOR_SETTINGS: &str = "operator_settings";

/// The value of a setting that is not set.
#[derive(Debug, Clone, Copy)]
pub(super) enum DefaultText {
    /// This text.
    Is(&'static str),
    /// One of two texts, by whether this build contains the emulator; and the text for documents.
    ByBuild { with_emulator: &'static str, released: &'static str, shown: &'static str },
    /// The text for documents, and a function that chooses the default by the rest of the configuration.
    Depends(&'static str, fn(&Reader<'_>) -> &'static str),
    /// No default; the text for documents.
    Absent(&'static str),
}

/// The modes in which a setting has an effect.
#[derive(Debug, Clone, Copy)]
pub(super) struct Only {
    /// It has an effect in this mode.
    pub(super) used: fn(Mode) -> bool,
    /// Why it has none in other modes.
    pub(super) otherwise: &'static str,
}

/// What the table says about a setting.
#[derive(Debug)]
pub struct Spec {
    /// The key in a file.
    pub name: &'static str,
    /// The long flag, without its two hyphens.
    pub flag: &'static str,
    /// The environment variable.
    pub env: &'static str,
    /// The name of the flag's value in the help.
    pub value_name: &'static str,
    /// One sentence for help and documentation.
    pub meaning: &'static str,
    /// The text that is used if it is not set.
    pub(super) default: DefaultText,
    /// How it is written.
    pub form: Form,
    /// Variables of the AWS SDK that count if none of tollgate's sources sets it, in this order.
    pub sdk_variables: &'static [&'static str],
    /// Who may set it where a seller's file exists.
    pub owner: Owner,
    /// The modes in which it has an effect, unless it has one in each.
    pub(super) only: Option<Only>,
    /// The minimum for the operator beside a seller's file.
    pub(super) floor: Option<&'static str>,
    /// Help lists it apart, for products with custom dimensions.
    pub for_usage: bool,
    /// Settable only in builds that contain the emulator.
    pub emulator_only: bool,
    /// The value is the path of a secret. It is shown only if it looks like a path, because people put the secret
    /// itself there by mistake.
    pub secret_path: bool,
    /// The value of the chart that sets it; else it is a key of the chart's `settings`.
    pub chart_value: Option<&'static str>,
}

impl Spec {
    /// The values of what a row does not state.
    pub(super) const fn of<T>(kind: &Kind<T>) -> Self {
        Self {
            name: "",
            flag: "",
            env: "",
            value_name: kind.value_name,
            meaning: "",
            default: DefaultText::Absent("none"),
            form: kind.form,
            sdk_variables: &[],
            owner: Owner::Seller,
            only: None,
            floor: None,
            for_usage: false,
            emulator_only: false,
            secret_path: false,
            chart_value: None,
        }
    }

    /// What documents show as the default.
    #[must_use]
    pub const fn default_shown(&self) -> &'static str {
        match self.default {
            DefaultText::Is(text)
            | DefaultText::ByBuild { shown: text, .. }
            | DefaultText::Depends(text, _)
            | DefaultText::Absent(text) => text,
        }
    }

    /// Whether it has an effect in this mode.
    #[must_use]
    pub fn counts_in(&self, mode: Mode) -> bool {
        (!self.for_usage || mode.has_ledger()) && self.only.is_none_or(|only| (only.used)(mode))
    }

    /// The default that documents show is the text that is used.
    #[must_use]
    pub const fn has_fixed_default(&self) -> bool {
        matches!(self.default, DefaultText::Is(_))
    }
}

/// Makes [`Setting`], its [`Spec`]s and the parts of the configuration from the rows of the table.
///
/// - Above a row: its meaning. Then the variant of [`Setting`], the key in a file, the field of the part with its type,
///   how it is read, the kind of its text, and what a wrong value does to the seller. Then come fields of [`Spec`] that
///   differ from [`Spec::of`].
/// - `also`: fields of a part that no setting decides alone, each with the function that finds it.
macro_rules! settings {
    ($(
        $(#[$part_attribute:meta])+
        $part:ident {
            $(
                $(#[doc = $meaning:literal])+
                $variant:ident = $name:literal => $field:ident: $type:ty = $read:ident($kind:expr) {
                    risk: $risk:literal $(, $key:ident: $value:expr)* $(,)?
                }
            )+
            $(also {
                $(
                    $(#[doc = $extra_doc:literal])+
                    $extra:ident: $extra_type:ty = $($make:ident)::+ ( $($argument:expr),* ),
                )+
            })?
        }
    )+) => {
        /// The settings, in the order in which they are documented.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Setting {
            $($( $(#[doc = $meaning])+ $variant, )+)+
        }

        impl Setting {
            /// Every setting.
            pub const ALL: &'static [Self] = &[$($( Self::$variant, )+)+];

            /// What the table says about it.
            #[must_use]
            pub fn spec(self) -> &'static Spec {
                static SPECS: &[Spec] = &[$($(
                    Spec {
                        name: $name,
                        flag: {
                            const BYTES: [u8; $name.len()] = setting::hyphenated($name);
                            setting::ascii(&BYTES)
                        },
                        env: {
                            const BYTES: [u8; setting::ENV_PREFIX.len() + $name.len()] = setting::shouted($name);
                            setting::ascii(&BYTES)
                        },
                        meaning: concat!($($meaning),+).trim_ascii(),
                        $( $key: $value, )*
                        ..Spec::of(&$kind)
                    },
                )+)+];
                &SPECS[self as usize]
            }

            /// What a wrong value does to the seller. Only documents use these texts, so no binary needs them.
            #[must_use]
            pub fn risk(self) -> &'static str {
                const RISKS: &[&str] = &[$($( $risk, )+)+];
                RISKS[self as usize]
            }

            /// What the chart's schema allows as its value.
            #[must_use]
            pub fn schema(self) -> Schema {
                const SCHEMAS: &[Schema] = &[$($( $kind.schema, )+)+];
                SCHEMAS[self as usize]
            }
        }

        $(
            $(#[$part_attribute])+
            pub struct $part {
                $( $(#[doc = $meaning])+ pub $field: $type, )+
                $($( $(#[doc = $extra_doc])+ pub $extra: $extra_type, )+)?
            }

            impl $part {
                /// Reads all fields before it fails, so that one run reports all faults.
                pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
                    $( let $field = $read(reader, Setting::$variant, $kind.parse); )+
                    $($( let $extra = $($make)::+(reader $(, $argument)*); )+)?
                    Some(Self { $( $field: $field?, )+ $($( $extra: $extra?, )+)? })
                }
            }
        )+
    };
}
pub(super) use settings;

impl Setting {
    /// The setting of this file key.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|setting| setting.spec().name == name)
    }

    /// Whether [`OPERATOR_SETTINGS`] may name it: not if it decides which product is paid for and how.
    #[must_use]
    pub fn may_be_handed_on(self) -> bool {
        self != Self::Mode && self.spec().owner != Owner::Rehearsal
    }

    /// The setting of this environment variable.
    #[must_use]
    pub fn by_env(variable: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|setting| setting.spec().env == variable)
    }
}

/// The prefix of all variables of tollgate.
pub const ENV_PREFIX: &str = "TOLLGATE_";

/// The known name nearest to a misspelled one, if one is near.
pub(super) fn did_you_mean<'a>(typed: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Below this likeness a suggestion confuses more than it helps; clap uses a similar limit for flags.
    const LIKENESS_MIN: f64 = 0.8;
    // The comparison is quadratic, and nothing longer can be near.
    const TYPED_BYTES_MAX: usize = 64;
    if typed.len() > TYPED_BYTES_MAX {
        return None;
    }
    known
        .map(|name| (strsim::jaro_winkler(typed, name), name))
        .filter(|(likeness, _)| *likeness > LIKENESS_MIN)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

pub(super) const fn hyphenated<const N: usize>(name: &str) -> [u8; N] {
    let mut bytes = [0; N];
    let mut i = 0;
    while i < N {
        let byte = name.as_bytes()[i];
        bytes[i] = if byte == b'_' { b'-' } else { byte };
        i += 1;
    }
    bytes
}

pub(super) const fn shouted<const N: usize>(name: &str) -> [u8; N] {
    let mut bytes = [0; N];
    let mut i = 0;
    while i < N {
        bytes[i] = if i < ENV_PREFIX.len() {
            ENV_PREFIX.as_bytes()[i]
        } else {
            name.as_bytes()[i - ENV_PREFIX.len()].to_ascii_uppercase()
        };
        i += 1;
    }
    bytes
}

pub(super) const fn ascii(bytes: &'static [u8]) -> &'static str {
    match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(_) => unreachable!(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flag_and_variable_follow_from_the_name() {
        let spec = Setting::ProductCode.spec();
        assert_eq!(
            (spec.name, spec.flag, spec.env),
            ("product_code", "product-code", "TOLLGATE_PRODUCT_CODE")
        );
        for &setting in Setting::ALL {
            let spec = setting.spec();
            assert_eq!(spec.flag, spec.name.replace('_', "-"));
            assert_eq!(spec.env, format!("TOLLGATE_{}", spec.name.to_uppercase()));
            assert_eq!(Setting::by_name(spec.name), Some(setting));
            assert_eq!(Setting::by_env(spec.env), Some(setting));
            assert!(spec.meaning.ends_with('.'), "{}", spec.name);
        }
    }

    #[test]
    fn what_decides_the_price_cannot_be_handed_on() {
        for name in [
            "mode",
            "product_code",
            "product_id",
            "key_fingerprint",
            "public_keys",
            "endpoint_url",
            "clock",
            "allow_emulated",
        ] {
            assert!(!Setting::by_name(name).unwrap().may_be_handed_on(), "{name}");
        }
        assert!(Setting::Settle.may_be_handed_on() && Setting::Quit.may_be_handed_on());
    }

    #[test]
    fn near_misses_are_suggested_and_far_ones_are_not() {
        let names = || Setting::ALL.iter().map(|s| s.spec().name);
        assert_eq!(did_you_mean("product_cod", names()), Some("product_code"));
        assert_eq!(did_you_mean("product-code", names()), Some("product_code"));
        assert_eq!(did_you_mean("probe_address", names()), Some("probe_addr"));
        assert_eq!(did_you_mean("zzz", names()), None);
        assert_eq!(did_you_mean(&"product_code".repeat(100), names()), None);
    }
}
