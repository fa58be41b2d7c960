//! Generated files. From the table of settings: tables in two documents and a part of the chart's schema. From the
//! table of metrics: the tables of METRICS.md. From the modes: the policies of `deploy/iam` and the actions in
//! SECURITY-REVIEW.md. From `cargo metadata`: the graph of the crates. From `docs/openapi.yaml`: the JSON that is
//! served. From the README's picture: its dark form. From the crates' own files: the notices in the image. From the
//! charts' values: the tables of their READMEs. From examples: the programs on CLIENTS.md. `just generate` writes them.
//! In most files only a piece is generated; the rest is written by hand.

#[path = "generated/metadata.rs"]
mod metadata;
#[path = "generated/notices.rs"]
mod notices;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use tollgate::config::Mode;
use tollgate::config::setting::{Schema, Setting, Spec};
use tollgate::metrics::SPECS;
use yaml_rust2::{Yaml, YamlLoader};

/// The start and end of a piece, and the text between them.
struct Piece {
    path: &'static str,
    begin: String,
    end: &'static str,
    text: String,
}

/// Values of the chart that take a setting's text unchanged. Others have a form of their own.
const PLAIN_CHART_VALUES: [&str; 5] = ["mode", "productCode", "productId", "licenseModel", "region"];

/// Programs that a document shows whole: people copy them from there, and tests run the files.
const SHOWN_PROGRAMS: [(&str, &str); 8] = [
    ("examples/usage/usage.py", "python"),
    ("examples/go/usage/usage.go", "go"),
    ("examples/usage/Usage.java", "java"),
    ("examples/usage/usage.mjs", "javascript"),
    ("examples/usage/usage.rs", "rust"),
    ("examples/pytest/test_usage.py", "python"),
    ("examples/go/usage/usage_test.go", "go"),
    ("examples/junit/UsageTest.java", "java"),
];

fn pieces(root: &Path) -> Vec<Piece> {
    let specs = || Setting::ALL.iter().map(|setting| setting.spec());
    let risks = Setting::ALL.iter().map(|setting| {
        let spec = setting.spec();
        format!("| `{}` | {} | {} |\n", spec.name, spec.owner.as_str(), setting.risk())
    });
    let of_chart = Setting::ALL.iter().filter(|setting| setting.spec().chart_value.is_none());
    let properties = of_chart.map(|setting| format!("        {:?}: {}", setting.spec().name, json(*setting)));
    // The chart of `tollgate-saas` has values of its own for these, too.
    let own = [Setting::AppTokenFile, Setting::LedgerUrlFile];
    let of_saas = Setting::ALL.iter().filter(|setting| {
        let spec = setting.spec();
        spec.chart_value.is_none() && spec.counts_in(Mode::Saas) && !own.contains(setting)
    });
    let of_saas = of_saas.map(|setting| format!("        {:?}: {}", setting.spec().name, json(*setting)));
    let schema = |path: &'static str, properties: Vec<String>| {
        Piece {
        path,
        begin: "    \"settings\": {\n      \"type\": [\"object\", \"null\"],\n      \"additionalProperties\": false,\n      \
                \"properties\": {\n"
            .to_owned(),
        end: "      }\n",
        text: properties.join(",\n") + "\n",
    }
    };
    let table = |heading: &str, rows: String| {
        let rule = "| --- ".repeat(heading.matches(" | ").count() + 1);
        format!("{heading}\n{rule}|\n{rows}")
    };
    let described = fs::read_to_string(root.join("docs/openapi.yaml")).expect("the API is described");
    let described = YamlLoader::load_from_str(&described).expect("docs/openapi.yaml is YAML");
    let drawing = fs::read_to_string(root.join("docs/images/overview.svg")).expect("the picture is drawn");
    let drawn = |(_, rest): (&str, &str)| rest.split_once("</svg>").map(|(drawn, _)| drawn.to_owned());
    let mut pieces = vec![
        // The dark picture differs only in its colours.
        Piece {
            path: "docs/images/overview-dark.svg",
            begin: "</style>\n".to_owned(),
            end: "</svg>",
            text: drawing.split_once("</style>\n").and_then(drawn).expect("style and drawing"),
        },
        Piece {
            path: "docs/ARCHITECTURE.md",
            begin: "<!-- crates -->\n".to_owned(),
            end: "<!-- end of crates -->",
            text: picture(root),
        },
        Piece {
            path: "THIRD-PARTY-NOTICES.txt",
            begin: String::new(),
            end: notices::END,
            text: notices::notices(root, "tollgate", "release-binary"),
        },
        Piece {
            path: "crates/saas/THIRD-PARTY-NOTICES.txt",
            begin: String::new(),
            end: notices::END,
            text: notices::notices(root, "tollgate-saas", "release-binary-saas"),
        },
        Piece { path: "src/api/openapi.json", begin: String::new(), end: "\n", text: json_of(&described[0]) },
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
        schema("helm/tollgate/values.schema.json", properties.collect()),
        schema("helm/tollgate-saas/values.schema.json", of_saas.collect()),
    ];
    for (values, path) in [
        ("helm/tollgate/values.yaml", "helm/tollgate/README.md"),
        ("helm/example/values.yaml", "helm/example/README.md"),
        ("helm/tollgate-saas/values.yaml", "helm/tollgate-saas/README.md"),
    ] {
        let values = fs::read_to_string(root.join(values)).expect("a chart has values");
        pieces.push(Piece {
            path,
            begin: "<!-- values -->\n".to_owned(),
            end: "<!-- end of values -->",
            text: table("| value | default | meaning |", values_of_chart(&values)),
        });
    }
    for (program, language) in SHOWN_PROGRAMS {
        let code = fs::read_to_string(root.join(program)).expect("a program that a document shows exists");
        pieces.push(Piece {
            path: "docs/CLIENTS.md",
            begin: format!("<!-- {program} -->\n"),
            end: "<!-- end of program -->",
            text: format!("```{language}\n{code}```\n"),
        });
    }
    for group in SPECS.iter().map(|spec| spec.group).collect::<BTreeSet<_>>() {
        pieces.push(Piece {
            path: "docs/METRICS.md",
            begin: format!("<!-- metrics: {group} -->\n"),
            end: "<!-- end of metrics -->",
            text: table("| name | type, unit | labels | stability | what it says |", metrics(group)),
        });
    }
    for mode in Mode::ALL {
        let actions = |line: fn(&&str) -> String| mode.actions().iter().map(line).collect::<Vec<_>>();
        let json = actions(|action| format!("        {action:?}")).join(",\n") + "\n";
        let text = actions(|action| format!("`{action}`")).join(", ") + "\n";
        let (begin, end) = ("      \"Action\": [\n".to_owned(), "      ],\n");
        pieces.push(Piece { path: policy_of(mode), begin, end, text: json });
        pieces.push(Piece {
            path: "docs/SECURITY-REVIEW.md",
            begin: format!("<!-- actions: {mode} -->\n"),
            end: "<!-- end of actions -->",
            text,
        });
    }
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

/// The policy that a role of this mode needs.
fn policy_of(mode: Mode) -> &'static str {
    match mode {
        Mode::Hourly => "deploy/iam/hourly.json",
        Mode::Metered => "deploy/iam/metered.json",
        Mode::Contract => "deploy/iam/contract.json",
        Mode::Saas => "deploy/iam/saas.json",
    }
}

/// Rows of METRICS.md, each metric under the name of its samples.
fn metrics(group: &str) -> String {
    let rows = SPECS.iter().filter(|spec| spec.group == group).map(|spec| {
        let total = if spec.kind.starts_with("counter") { "_total" } else { "" };
        let name = format!("`{}{total}`", spec.name);
        format!("| {name} | {} | {} | {} | {} |\n", spec.kind, spec.labels, spec.stability, spec.says)
    });
    let build = "| `tollgate_build_info` | info | `version`, `revision`, `build` | stable | always 1; which build this is: `tollgate` or `tollgate-saas`, or with `-dev` a development build, which is not for production |\n";
    (if group == "The gate" { build } else { "" }).to_owned() + &rows.collect::<String>()
}

/// A row for each value of a chart: its default, and the comment above it that begins with `# --`.
fn values_of_chart(text: &str) -> String {
    let values = YamlLoader::load_from_str(text).expect("values.yaml is YAML");
    let meanings = meanings(text);
    let mut rows = String::new();
    leaves(&values[0], "", &mut |path, value| {
        let meaning = meanings.get(path).map_or("", String::as_str);
        rows += &format!("| `{path}` | `{}` | {meaning} |\n", json_of(value)).replace("|  |", "| |");
    });
    rows
}

/// Every value that is no map of values, with its path.
fn leaves(values: &Yaml, path: &str, found: &mut impl FnMut(&str, &Yaml)) {
    for (name, value) in values.as_hash().into_iter().flatten() {
        let name = name.as_str().expect("a value of a chart has a name");
        let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        match value.as_hash() {
            Some(below) if !below.is_empty() => leaves(value, &path, found),
            _ => found(&path, value),
        }
    }
}

/// The comments that begin with `# --`, each by the path of the value in the line below it.
fn meanings(text: &str) -> BTreeMap<String, String> {
    let (mut found, mut above, mut meaning) = (BTreeMap::new(), Vec::<(usize, &str)>::new(), None);
    for line in text.lines() {
        let words = line.trim_start();
        if let Some(begun) = words.strip_prefix("# -- ") {
            meaning = Some(begun.to_owned());
        } else if let (Some(more), Some(meaning)) = (words.strip_prefix("# "), &mut meaning) {
            *meaning += &format!(" {more}");
        } else if let Some((name, _)) = words.split_once(':').filter(|_| !words.starts_with(['#', '-'])) {
            let indent = line.len() - words.len();
            above.retain(|(outer, _)| *outer < indent);
            above.push((indent, name));
            let path = above.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(".");
            found.extend(meaning.take().map(|meaning| (path, meaning)));
        } else {
            meaning = None;
        }
    }
    found
}

/// The schema of a setting's value in the chart; `null` there is the default.
fn json(setting: Setting) -> String {
    const DURATION: &str = "([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?";
    let text = r#""type": ["string", "null"]"#;
    match setting.schema() {
        Schema::List => r#"{"type": ["string", "array", "null"], "items": {"type": "string"}}"#.to_owned(),
        Schema::Any => format!("{{{text}}}"),
        Schema::Pattern(pattern) => format!(r#"{{{text}, "pattern": "{pattern}"}}"#),
        Schema::Duration => format!(r#"{{{text}, "minLength": 2, "pattern": "^{DURATION}$"}}"#),
        Schema::CloseAfter => format!(r#"{{{text}, "pattern": "^(keep|close-after:{DURATION})$"}}"#),
        Schema::Words(words) => {
            format!(r#"{{{text}, "enum": {}}}"#, format!("{words:?}").replace(']', ", null]"))
        }
        Schema::Switch => r#"{"enum": [true, false, "true", "false", "on", "off", null]}"#.to_owned(),
        Schema::DimensionRules => dimension_rules(),
        Schema::Number => {
            r#"{"type": ["integer", "string", "null"], "pattern": "^[1-9][0-9]*$", "minimum": 1}"#.to_owned()
        }
    }
}

/// The tables of dimensions, or the text of one inline table.
fn dimension_rules() -> String {
    let number = r#""type": ["number", "string", "null"], "exclusiveMinimum": 0"#;
    let decimal = "[0-9]+([.][0-9]{1,6})?";
    let members = [
        r#""aggregation": {"enum": ["sum", "max", null]}"#.to_owned(),
        format!(r#""scale": {{{number}, "pattern": "^(bytes:[KMGT]i?B|{decimal})$"}}"#),
        r#""rounding": {"type": ["object", "null"], "additionalProperties": false, "required": ["mode"], "properties": {"mode": {"enum": ["up", "none"]}, "digits": {"type": "integer", "minimum": 0, "maximum": 6}}}"#
            .to_owned(),
        format!(r#""heartbeat": {{{number}, "pattern": "^{decimal}$"}}"#),
        r#""per_pod": {"type": ["boolean", "null"]}"#.to_owned(),
    ];
    format!(
        r#"{{"type": ["object", "string", "null"], "pattern": "^[{{].*[}}]$", "additionalProperties": {{"type": "object", "additionalProperties": false, "properties": {{{}}}}}}}"#,
        members.join(", ")
    )
}

/// A file with its piece replaced; `None` if the start or the end is not found.
fn with_piece(file: &str, piece: &Piece) -> Option<String> {
    let (before, rest) = file.split_once(&piece.begin)?;
    let at = rest.find(piece.end)?;
    Some([before, &piece.begin, &piece.text, &rest[at..]].concat())
}

/// The crates and their dependencies, without arrows that others imply; a dashed arrow is a feature.
fn picture(root: &Path) -> String {
    let ours = |name: &str| name.strip_prefix("tollgate_").map(str::to_owned);
    let folder = |manifest: &str| manifest.split('/').nth(1).unwrap_or("tollgate").to_owned();
    let needs = metadata::needs(&metadata::metadata(root)).into_iter();
    let needs: Vec<_> =
        needs.filter_map(|need| Some((folder(&need.manifest), ours(&need.to)?, need.optional))).collect();
    let mut direct: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (from, to, _) in needs.iter().filter(|need| !need.2) {
        direct.entry(from).or_default().insert(to);
    }
    let mut text = "```mermaid\ngraph TD\n".to_owned();
    for (from, to, optional) in &needs {
        let implied =
            direct.get(from.as_str()).into_iter().flatten().any(|by| by != to && reaches(&direct, by, to));
        if !implied {
            text += &format!("    {from} {} {to}\n", if *optional { "-.->" } else { "-->" });
        }
    }
    text + "```\n"
}

fn reaches(direct: &BTreeMap<&str, BTreeSet<&str>>, from: &str, to: &str) -> bool {
    direct
        .get(from)
        .is_some_and(|next| next.contains(to) || next.iter().any(|next| reaches(direct, next, to)))
}

/// YAML as JSON, in its order and without white space.
fn json_of(yaml: &Yaml) -> String {
    let joined = |parts: Vec<String>| parts.join(",");
    let quoted = |text: &str| serde_json::to_string(text).expect("text is JSON");
    match yaml {
        Yaml::String(text) => quoted(text),
        Yaml::Array(items) => format!("[{}]", joined(items.iter().map(json_of).collect())),
        Yaml::Hash(members) => {
            let member = |(name, value): (&Yaml, &Yaml)| format!("{}:{}", json_of(name), json_of(value));
            format!("{{{}}}", joined(members.iter().map(member).collect()))
        }
        Yaml::Integer(number) => number.to_string(),
        Yaml::Real(number) => number.clone(),
        Yaml::Boolean(value) => value.to_string(),
        Yaml::Null => "null".to_owned(),
        other => unreachable!("JSON has no {other:?}, and docs/openapi.yaml is JSON written as YAML"),
    }
}

/// `just generate` sets the variable; then stale pieces are written.
#[test]
#[expect(clippy::disallowed_methods, reason = "no setting of the program: it asks the test to write")]
fn what_is_generated_is_current() {
    let write = std::env::var_os("GENERATE").is_some();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut stale = Vec::new();
    for piece in pieces(root) {
        let path = root.join(piece.path);
        let file = fs::read_to_string(&path).unwrap_or_default();
        match with_piece(&file, &piece) {
            Some(made) if made == file => {}
            Some(made) if write => fs::write(&path, made).expect("a file of the checkout can be written"),
            Some(_) => {
                stale.push(format!("{}: is not what it is made from; run `just generate`", piece.path));
            }
            None => stale.push(format!("{}: has no place that begins with {:?}", piece.path, piece.begin)),
        }
    }
    assert!(stale.is_empty(), "{}", stale.join("\n"));
}

#[test]
fn a_generated_piece_replaces_what_stands_in_its_place() {
    let piece = Piece { path: "a.md", begin: "<begin>\n".to_owned(), end: "<end>", text: "new\n".to_owned() };
    let made = with_piece("above\n<begin>\nold\nold\n<end>\nbelow <end>", &piece);
    assert_eq!(made.as_deref(), Some("above\n<begin>\nnew\n<end>\nbelow <end>"));
    assert_eq!(with_piece("above\n<begin>\nold", &piece), None);
    assert_eq!(with_piece("<end>", &piece), None);
}

#[test]
fn the_table_of_a_charts_values_has_each_default_and_what_stands_above_it() {
    let text = "# no meaning\na:\n  # -- first\n  # line\n  b: 1\n  c: {}\n# -- lost\n\nd: [\"/x\"]\n# -- last\ne: \"\"\n";
    let rows =
        "| `a.b` | `1` | first line |\n| `a.c` | `{}` | |\n| `d` | `[\"/x\"]` | |\n| `e` | `\"\"` | last |\n";
    assert_eq!(values_of_chart(text), rows);
}

#[test]
fn the_description_of_the_api_keeps_its_order_and_its_texts() {
    let yaml =
        YamlLoader::load_from_str("b: { \"200\": [1, 1.5, true, null] }\na: \"a \\\"b\\\" ünd\"\n").unwrap();
    assert_eq!(json_of(&yaml[0]), r#"{"b":{"200":[1,1.5,true,null]},"a":"a \"b\" ünd"}"#);
}
