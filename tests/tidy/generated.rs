//! What is made from the table of settings: the tables of two documents and a part of the chart's schema.
//!
//! Each file holds words of people around what is generated, so that only a piece of it is replaced.

use std::fs;
use std::path::Path;

use tollgate::config::setting::{Schema, Setting, Spec};

/// Where a piece begins and ends, and what stands between.
pub(crate) struct Piece {
    pub(crate) path: &'static str,
    pub(crate) begin: String,
    pub(crate) end: &'static str,
    pub(crate) text: String,
}

/// Values of the chart that take a setting's text as it is. Others have a form of their own.
const PLAIN_CHART_VALUES: [&str; 3] = ["mode", "productCode", "region"];

fn pieces() -> Vec<Piece> {
    let specs = || Setting::ALL.iter().map(|setting| setting.spec());
    let risks = Setting::ALL.iter().map(|setting| {
        let spec = setting.spec();
        format!("| `{}` | {} | {} |\n", spec.name, spec.owner.as_str(), setting.risk())
    });
    let of_chart = Setting::ALL.iter().filter(|setting| setting.spec().chart_value.is_none());
    let properties = of_chart.map(|setting| format!("        {:?}: {}", setting.spec().name, json(*setting)));
    let table = |heading: &str, rows: String| {
        let rule = "| --- ".repeat(heading.matches(" | ").count() + 1);
        format!("{heading}\n{rule}|\n{rows}")
    };
    let mut pieces = vec![
        Piece {
            path: "docs/CONFIGURATION.md",
            begin: "<!-- settings -->\n".to_owned(),
            end: "<!-- end of settings -->",
            text: table("| setting | default | owner | meaning |", specs().map(row).collect()),
        },
        Piece {
            path: "docs/THREATS.md",
            begin: "<!-- settings -->\n".to_owned(),
            end: "<!-- end of settings -->",
            text: table("| setting | owner | what a wrong value does |", risks.collect()),
        },
        Piece {
            path: "helm/tollgate/values.schema.json",
            begin: "    \"settings\": {\n      \"type\": \"object\",\n      \"additionalProperties\": false,\n      \
                    \"properties\": {\n"
                .to_owned(),
            end: "      }\n",
            text: properties.collect::<Vec<_>>().join(",\n") + "\n",
        },
    ];
    for &setting in Setting::ALL {
        if let Some(value) = setting.spec().chart_value.filter(|value| PLAIN_CHART_VALUES.contains(value)) {
            pieces.push(Piece {
                path: "helm/tollgate/values.schema.json",
                begin: format!("\n    {value:?}: "),
                end: ",\n",
                text: json(setting),
            });
        }
    }
    pieces
}

fn row(spec: &Spec) -> String {
    let shown = spec.default_shown();
    let default = if spec.has_fixed_default() { format!("`{shown}`") } else { shown.to_owned() };
    format!("| `{}` | {default} | {} | {} |\n", spec.name, spec.owner.as_str(), spec.meaning)
}

/// The schema of a setting's value in the chart.
fn json(setting: Setting) -> String {
    const DURATION: &str = "([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?";
    let text = r#""type": "string""#;
    match setting.schema() {
        Schema::Any => format!("{{{text}}}"),
        Schema::Pattern(pattern) => format!(r#"{{{text}, "pattern": "{pattern}"}}"#),
        Schema::Duration => format!(r#"{{{text}, "minLength": 2, "pattern": "^{DURATION}$"}}"#),
        Schema::CloseAfter => format!(r#"{{{text}, "pattern": "^(keep|close-after:{DURATION})$"}}"#),
        Schema::Words(words) => format!(r#"{{{text}, "enum": {words:?}}}"#),
        Schema::Switch => r#"{"enum": [true, false, "true", "false", "on", "off"]}"#.to_owned(),
        Schema::Number => {
            r#"{"type": ["integer", "string"], "pattern": "^[1-9][0-9]*$", "minimum": 1}"#.to_owned()
        }
    }
}

/// A file with its piece replaced; `None` where the places are not found.
pub(crate) fn with_piece(file: &str, piece: &Piece) -> Option<String> {
    let (before, rest) = file.split_once(&piece.begin)?;
    let at = rest.find(piece.end)?;
    Some([before, &piece.begin, &piece.text, &rest[at..]].concat())
}

/// What is not as the table says. With `write` it is written so.
pub(crate) fn stale(root: &Path, write: bool) -> Vec<String> {
    let mut found = Vec::new();
    for piece in pieces() {
        let path = root.join(piece.path);
        let file = fs::read_to_string(&path).unwrap_or_default();
        match with_piece(&file, &piece) {
            Some(made) if made == file => {}
            Some(made) if write => fs::write(&path, made).expect("a file of the checkout can be written"),
            Some(_) => {
                found.push(format!(
                    "{}: is not what the table of settings says; run just generate",
                    piece.path
                ));
            }
            None => found.push(format!("{}: has no place that begins with {:?}", piece.path, piece.begin)),
        }
    }
    found
}
