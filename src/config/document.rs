//! Reads a TOML file into settings, each with its line.
//!
//! - Every key is a setting. An unknown key is a fault: otherwise a typing error would silently select a default.
//! - Values stay texts here; what a number or a word means is decided once, for all origins, in `parse`.

use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::dimension_rules::inline;
use super::fault::Fault;
use super::setting::{Form, OPERATOR_SETTINGS, Setting, did_you_mean};

/// Largest file: a hundred times what all settings with comments need.
pub(super) const FILE_BYTES_MAX: usize = 64 * 1024;

/// A value as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Raw {
    /// One text.
    Text(String),
    /// The items of a list.
    List(Vec<String>),
}

impl Raw {
    /// The value of a flag, a variable or a string in a file, without white space at its ends, which Secrets and
    /// templates leave there.
    pub(super) fn from_text(setting: Setting, text: &str) -> Self {
        match setting.spec().form {
            Form::List => Self::List(text.split(',').map(|item| item.trim().to_owned()).collect()),
            Form::Text | Form::Switch | Form::Table => Self::Text(text.trim().to_owned()),
        }
    }

    /// One line for people.
    pub(super) fn to_text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::List(items) => items.join(","),
        }
    }
}

/// One setting of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) setting: Setting,
    pub(super) raw: Raw,
    pub(super) line: usize,
}

/// What a file says.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub(super) entries: Vec<Entry>,
    /// What the seller hands to the operator; empty in any other file.
    pub(super) operator_settings: Vec<Setting>,
}

/// Whose file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Author {
    Seller,
    Operator,
}

/// Reads a file's text, and adds its faults to `faults`. `Err` if nothing in the file can be used.
pub(super) fn parse(
    path: &Path,
    bytes: &[u8],
    author: Author,
    faults: &mut Vec<Fault>,
) -> Result<Document, ()> {
    let place = |line: usize| format!("{}:{line}", path.display());
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let line = line_of(bytes, error.valid_up_to());
            faults.push(Fault::of(place(line), "is not UTF-8 text; write the file as UTF-8"));
            return Err(());
        }
    };
    let table = match DeTable::parse(text) {
        Ok(table) => table,
        Err(error) => {
            let line = line_of(bytes, error.span().map_or(0, |span| span.start));
            let message = error.message().lines().collect::<Vec<_>>().join(", ");
            faults.push(Fault::of(place(line), format!("is not valid TOML ({message}); correct the line")));
            return Err(());
        }
    };
    let mut entries = Vec::new();
    let mut operator_settings = Vec::new();
    for (key, value) in table.get_ref() {
        let line = line_of(bytes, key.span().start);
        if key.get_ref() == OPERATOR_SETTINGS {
            let (settings, problems) = handed_on(author, value.get_ref());
            operator_settings = settings;
            let subject = format!("{OPERATOR_SETTINGS} in {}", place(line));
            faults.extend(problems.into_iter().map(|problem| Fault::of(subject.clone(), problem)));
            continue;
        }
        let Some(setting) = Setting::by_name(key.get_ref()) else {
            faults.push(unknown_key(place(line), key.get_ref()));
            continue;
        };
        match raw(setting, value.get_ref()) {
            Ok(raw) => entries.push(Entry { setting, raw, line }),
            Err(problem) => faults.push(Fault::of(format!("{} in {}", key.get_ref(), place(line)), problem)),
        }
    }
    // In reading order, so that faults come in the order of the lines.
    entries.sort_by_key(|entry| entry.line);
    Ok(Document { entries, operator_settings })
}

/// The settings that are handed on, and what is wrong with the other names.
fn handed_on(author: Author, value: &DeValue<'_>) -> (Vec<Setting>, Vec<String>) {
    let refused = |problem: &str| (Vec::new(), vec![problem.to_owned()]);
    if author != Author::Seller {
        return refused("is a key of the seller's file only; remove it here");
    }
    let names = value.as_array().map(|items| items.iter().map(|item| item.get_ref().as_str()));
    let names: Option<Vec<&str>> = names.and_then(Iterator::collect);
    let Some(names) = names else {
        return refused("is not an array of strings; write the names of settings, such as [\"settle\"]");
    };
    let (mut settings, mut problems) = (Vec::new(), Vec::new());
    for name in names {
        match handed_on_setting(name.trim()) {
            Ok(setting) => settings.push(setting),
            Err(problem) => problems.push(problem),
        }
    }
    (settings, problems)
}

fn handed_on_setting(name: &str) -> Result<Setting, String> {
    let shown = super::fault::quoted(name);
    match Setting::by_name(name) {
        Some(setting) if setting.may_be_handed_on() => Ok(setting),
        Some(_) => Err(format!("names {shown}, which decides what is paid for; only the seller may set it")),
        None => {
            let known = Setting::ALL.iter().map(|setting| setting.spec().name);
            let near = did_you_mean(name, known).map(|near| format!("; did you mean {near}?"));
            Err(format!(
                "names {shown}, which is no setting{}",
                near.unwrap_or_else(|| "; remove it".to_owned())
            ))
        }
    }
}

fn raw(setting: Setting, value: &DeValue<'_>) -> Result<Raw, String> {
    let form = setting.spec().form;
    match value {
        DeValue::String(text) => Ok(Raw::from_text(setting, text)),
        DeValue::Boolean(flag) if form == Form::Switch => Ok(Raw::Text(flag.to_string())),
        DeValue::Integer(number) if form == Form::Text && number.radix() == 10 => {
            Ok(Raw::Text(number.as_str().to_owned()))
        }
        DeValue::Table(_) if form == Form::Table => Ok(Raw::Text(inline(value))),
        DeValue::Array(items) if form == Form::List => {
            let texts = items.iter().map(|item| item.get_ref().as_str().map(|text| text.trim().to_owned()));
            let texts: Option<Vec<String>> = texts.collect();
            texts
                .map(Raw::List)
                .ok_or_else(|| "holds something that is not a string; quote each item".to_owned())
        }
        DeValue::Table(_) if setting == Setting::Dimensions => Err(
            "is a TOML table; write [dimension.NAME] for the rules of one dimension, and an array of strings here"
                .to_owned(),
        ),
        other => Err(format!(
            "is a TOML {}; write {}",
            other.type_str(),
            match form {
                Form::Text => "a string in quotes",
                Form::Switch => "true or false",
                Form::List => "an array of strings",
                Form::Table => "a section [dimension.NAME] for each dimension",
            }
        )),
    }
}

fn unknown_key(place: String, key: &str) -> Fault {
    let shown = super::fault::quoted(key);
    let names = Setting::ALL.iter().map(|setting| setting.spec().name);
    let problem = match did_you_mean(key, names) {
        Some(name) => format!("the key {shown} is unknown; did you mean {name}?"),
        None => format!("the key {shown} is unknown; docs/CONFIGURATION.md lists the settings"),
    };
    Fault::of(place, problem)
}

fn line_of(bytes: &[u8], offset: usize) -> usize {
    1 + bytes.iter().take(offset).filter(|byte| **byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Vec<Entry>, String) {
        let mut faults = Vec::new();
        let document = parse(Path::new("t.toml"), text.as_bytes(), Author::Operator, &mut faults);
        (
            document.unwrap_or_default().entries,
            faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
        )
    }

    #[test]
    fn values_keep_their_text_and_their_line() {
        let (entries, faults) = read(
            "# seller\nproduct_code = \"demo\"\n\npublic_key_version = 2\nkept_receipt = false\ndimensions = [\"a\", \"b,c\"]\n",
        );
        assert_eq!(faults, "");
        let seen: Vec<_> = entries.into_iter().map(|e| (e.setting, e.raw, e.line)).collect();
        assert_eq!(
            seen,
            [
                (Setting::ProductCode, Raw::Text("demo".into()), 2),
                (Setting::PublicKeyVersion, Raw::Text("2".into()), 4),
                (Setting::KeptReceipt, Raw::Text("false".into()), 5),
                (Setting::Dimensions, Raw::List(vec!["a".into(), "b,c".into()]), 6),
            ]
        );
        let (entries, faults) =
            read("quit = true\n[dimension.b]\nscale = 0.50\n[dimension.\"a.c\"]\nheartbeat = 1\n");
        assert_eq!((faults.as_str(), entries[1].line), ("", 2));
        let tables = Raw::Text("{ \"a.c\" = { heartbeat = 1 }, b = { scale = 0.50 } }".into());
        assert_eq!((entries[1].setting, &entries[1].raw), (Setting::Dimension, &tables));
    }

    #[test]
    fn white_space_around_an_item_is_no_part_of_it() {
        let (entries, faults) = read("dimensions = [\" requests\", \"gigabytes\\t\", \" \"]");
        assert_eq!(faults, "");
        let items = ["requests", "gigabytes", ""].map(str::to_owned).to_vec();
        assert_eq!(entries[0].raw, Raw::List(items));
    }

    #[test]
    fn every_fault_names_its_line() {
        let cases = [
            ("product_cod = 'x'", "t.toml:1: the key \"product_cod\" is unknown; did you mean product_code?"),
            ("\nzzz = 1", "t.toml:2: the key \"zzz\" is unknown; docs/CONFIGURATION.md lists the settings"),
            ("mode = true", "mode in t.toml:1: is a TOML boolean; write a string in quotes"),
            ("quit = 'x'\n[mode]", "mode in t.toml:2: is a TOML table; write a string in quotes"),
            (
                "dimensions = [1]",
                "dimensions in t.toml:1: holds something that is not a string; quote each item",
            ),
            (
                "dimension = [1]",
                "dimension in t.toml:1: is a TOML array; write a section [dimension.NAME] for each dimension",
            ),
            (
                "dimension = 1",
                "dimension in t.toml:1: is a TOML integer; write a section [dimension.NAME] for each dimension",
            ),
            (
                "[dimensions.a]",
                "dimensions in t.toml:1: is a TOML table; write [dimension.NAME] for the rules of one dimension, and an array of strings here",
            ),
            ("settle = 0x10", "settle in t.toml:1: is a TOML integer; write a string in quotes"),
        ];
        for (text, fault) in cases {
            assert_eq!(read(text).1, fault, "{text}");
        }
        assert!(read("mode = 'a'\nmode = 'b'").1.starts_with("t.toml:2: is not valid TOML ("));
        assert!(read("a\nb").1.starts_with("t.toml:1: is not valid TOML ("));
        let mut faults = Vec::new();
        assert!(parse(Path::new("t.toml"), b"\n\n\xff", Author::Operator, &mut faults).is_err());
        assert_eq!(faults[0].subject, "t.toml:3");
    }

    #[test]
    fn the_seller_hands_on_what_exists_and_decides_no_price() {
        let read = |author: Author, text: &str| {
            let mut faults = Vec::new();
            let document = parse(Path::new("t.toml"), text.as_bytes(), author, &mut faults).unwrap();
            (
                document.operator_settings,
                faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
            )
        };
        let (settings, faults) = read(Author::Seller, "operator_settings = ['settle', 'on_expired']");
        assert_eq!((settings, faults.as_str()), (vec![Setting::Settle, Setting::OnExpired], ""));
        let cases = [
            ("['setle']", "names \"setle\", which is no setting; did you mean settle?"),
            ("['zzz']", "names \"zzz\", which is no setting; remove it"),
            ("['mode']", "names \"mode\", which decides what is paid for; only the seller may set it"),
            ("['endpoint_url']", "names \"endpoint_url\", which decides"),
            ("'settle'", "is not an array of strings; write"),
            ("[1]", "is not an array of strings; write"),
        ];
        for (value, expected) in cases {
            let (settings, faults) = read(Author::Seller, &format!("operator_settings = {value}"));
            assert!(faults.starts_with(&format!("operator_settings in t.toml:1: {expected}")), "{faults}");
            assert!(settings.is_empty());
        }
        // One run shows all faults, and the valid name is still handed on.
        let (settings, faults) =
            read(Author::Seller, "operator_settings = ['setle', ' settle ', 'mode', 'zzz']");
        assert_eq!((settings, faults.lines().count()), (vec![Setting::Settle], 3), "{faults}");
        let (settings, faults) = read(Author::Operator, "operator_settings = ['settle']");
        assert!(settings.is_empty() && faults.contains("is a key of the seller's file only"), "{faults}");
    }
}
