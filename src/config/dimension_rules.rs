//! Reads `[dimension.NAME]`: how the usage of a dimension becomes the quantity that AWS bills.
//!
//! In a file it is a table for each dimension; on the command line and in the environment the same as one inline table:
//! `{ node_hours = { heartbeat = 1 } }`. A file's tables become that text too, so there is one parser, and
//! `config print` shows what a variable would hold. Pure.

use toml::de::{DeTable, DeValue};

use super::parse::{self, Problem};
use super::setting::{Setting, did_you_mean};
use tollgate_marketplace::{DIMENSIONS_MAX, Invalid, Quantity};
use tollgate_metering::aggregation::{Aggregation, DIGITS_MAX, Rounding, Rule, Scale};

/// How one dimension is metered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeteredDimension {
    /// The API name of the dimension.
    pub name: String,
    /// How its events become the quantity. With a heartbeat, the event's own unit is the dimension's unit for a second.
    pub rule: Rule,
    /// The quantity for each hour in which the gate is open.
    pub heartbeat: Option<Quantity>,
    /// Whether the price is for each pod.
    pub per_pod: bool,
}

/// Seconds in an hour: the scale from heartbeats, which count seconds, to quantities for an hour.
const SECONDS_IN_AN_HOUR: u32 = 3600;

/// The members of `[dimension.NAME]`.
const MEMBERS: [&str; 5] = ["aggregation", "scale", "rounding", "heartbeat", "per_pod"];

/// Reads the inline table.
pub(super) fn dimension_rules(text: &str) -> Result<Vec<MeteredDimension>, Problem> {
    let no_table = |why: &str| -> Problem {
        format!(
            "is not a TOML table{why}; write [dimension.NAME] in a file, or {{ NAME = {{ heartbeat = 1 }} }} in the environment"
        )
        .into()
    };
    let value = DeValue::parse(text).map_err(|error| {
        let message = error.message().lines().collect::<Vec<_>>().join(", ");
        no_table(&format!(" ({message})"))
    })?;
    let tables = value.get_ref().as_table().ok_or_else(|| no_table(""))?;
    if tables.len() > DIMENSIONS_MAX {
        return Err("has more than 200 tables: a product has no more dimensions".into());
    }
    tables.iter().map(|(name, table)| one(name.get_ref(), table.get_ref())).collect()
}

fn one(name: &str, table: &DeValue<'_>) -> Result<MeteredDimension, Problem> {
    let name = parse::dimension(name)?;
    let Some(table) = table.as_table() else {
        return Err(format!("holds {name:?}, which is no table; write [dimension.{name:?}]").into());
    };
    let told = |problem: String| -> Problem { format!("in {name:?}, {problem}").into() };
    members(table).map_err(told).map(|members| MeteredDimension { name: name.clone(), ..members })
}

/// Everything but the name; a problem begins with the member.
fn members(table: &DeTable<'_>) -> Result<MeteredDimension, String> {
    if let Some((unknown, _)) = table.iter().find(|(key, _)| !MEMBERS.contains(&key.get_ref().as_ref())) {
        return Err(unknown_member(unknown.get_ref()));
    }
    let member = |name: &str| table.get(name).map(toml::Spanned::get_ref);
    let aggregation = match member("aggregation") {
        None => Aggregation::default(),
        Some(value) => {
            word("aggregation", value)?.parse::<Aggregation>().map_err(of("aggregation", value))?
        }
    };
    let scale = match member("scale") {
        None => Scale::ONE,
        Some(value) => number("scale", value)?.parse::<Scale>().map_err(of("scale", value))?,
    };
    let rounding = member("rounding").map_or(Ok(Rounding::None), rounding)?;
    let heartbeat = member("heartbeat").map(heartbeat).transpose()?;
    let per_pod = match member("per_pod") {
        None => false,
        Some(DeValue::Boolean(stated)) => *stated,
        Some(other) => return Err(format!("per_pod {} must be true or false", inline(other))),
    };
    let scale = match heartbeat {
        None => scale,
        Some(_) if aggregation == Aggregation::Max => {
            return Err(
                "heartbeat counts seconds, which are added: leave aggregation = \"max\" out".to_owned()
            );
        }
        Some(_) => scale
            .times(SECONDS_IN_AN_HOUR)
            .ok_or_else(|| format!("scale {scale} is too large for a heartbeat; choose less"))?,
    };
    let rule = Rule { aggregation, scale, rounding };
    Ok(MeteredDimension { name: String::new(), rule, heartbeat, per_pod })
}

/// `{ mode = "up", digits = 0 }`, or `{ mode = "none" }`.
fn rounding(value: &DeValue<'_>) -> Result<Rounding, String> {
    const FORM: &str = "write { mode = \"up\", digits = 0 } or { mode = \"none\" }";
    let Some(table) = value.as_table() else {
        return Err(format!("rounding {} is no table; {FORM}", inline(value)));
    };
    let known = ["mode", "digits"];
    if let Some((unknown, _)) = table.iter().find(|(key, _)| !known.contains(&key.get_ref().as_ref())) {
        return Err(format!("rounding has the unknown member {:?}; {FORM}", unknown.get_ref()));
    }
    let Some(mode) = table.get("mode").map(toml::Spanned::get_ref) else {
        return Err(format!("rounding has no mode; {FORM}"));
    };
    let digits = table.get("digits").map(toml::Spanned::get_ref);
    match (mode.as_str(), digits) {
        (Some("none"), None) => Ok(Rounding::None),
        (Some("none"), Some(_)) => {
            Err("rounding.digits means nothing with mode none; leave it out".to_owned())
        }
        (Some("up"), None) => Err("rounding needs digits with mode up: 0 to 6 decimal places".to_owned()),
        (Some("up"), Some(digits)) => {
            let whole = digits.as_integer().filter(|number| number.radix() == 10);
            let whole =
                whole.and_then(|number| number.as_str().parse::<u8>().ok()).filter(|n| *n <= DIGITS_MAX);
            let wrong = || format!("rounding.digits {} must be a whole number from 0 to 6", inline(digits));
            whole.map(|digits| Rounding::Up { digits }).ok_or_else(wrong)
        }
        _ => Err(format!("rounding.mode {} must be up or none", inline(mode))),
    }
}

fn heartbeat(value: &DeValue<'_>) -> Result<Quantity, String> {
    let quantity: Quantity = number("heartbeat", value)?.parse().map_err(of("heartbeat", value))?;
    if quantity == Quantity::ZERO {
        return Err("heartbeat 0 would count nothing; write the quantity for an hour of open gate".to_owned());
    }
    Ok(quantity)
}

/// A problem of a member's own type, with the value before it.
fn of(member: &'static str, value: &DeValue<'_>) -> impl Fn(Invalid) -> String {
    let value = inline(value);
    move |invalid| format!("{member} {value} {invalid}")
}

fn word<'a>(member: &str, value: &'a DeValue<'_>) -> Result<&'a str, String> {
    value.as_str().ok_or_else(|| format!("{member} {} must be a string in quotes", inline(value)))
}

/// The text of a number, which may be in quotes: exact, never a floating-point number.
fn number<'a>(member: &str, value: &'a DeValue<'_>) -> Result<&'a str, String> {
    match value {
        DeValue::String(text) => Ok(text),
        DeValue::Integer(number) if number.radix() == 10 => Ok(number.as_str()),
        DeValue::Float(number) => Ok(number.as_str()),
        other => Err(format!("{member} {} must be a number", inline(other))),
    }
}

/// In TOML all keys below `[dimension.NAME]` belong to it, also those that were meant for the file.
fn unknown_member(key: &str) -> String {
    if Setting::by_name(key).is_some() {
        return format!(
            "{key} is no member, but a setting of its own: write it above the first [dimension.NAME]"
        );
    }
    match did_you_mean(key, MEMBERS.into_iter()) {
        Some(near) => format!("the member {key:?} is unknown; did you mean {near}?"),
        None => format!("the member {key:?} is unknown; the members are {}", MEMBERS.join(", ")),
    }
}

/// A value on one line, as TOML.
pub(super) fn inline(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => quoted(text),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(at) => at.to_string(),
        DeValue::Array(items) => {
            let items: Vec<String> = items.iter().map(|item| inline(item.get_ref())).collect();
            format!("[{}]", items.join(", "))
        }
        DeValue::Table(table) if table.is_empty() => "{}".to_owned(),
        DeValue::Table(table) => {
            let member = |key: &str, value: &DeValue<'_>| format!("{} = {}", key_text(key), inline(value));
            let members: Vec<String> =
                table.iter().map(|(key, value)| member(key.get_ref(), value.get_ref())).collect();
            format!("{{ {} }}", members.join(", "))
        }
    }
}

fn key_text(key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !key.is_empty() && key.chars().all(bare) { key.to_owned() } else { quoted(key) }
}

/// A basic string. JSON escapes all that TOML requires, except DEL.
fn quoted(text: &str) -> String {
    let json = serde_json::to_string(text).expect("a text is JSON");
    json.replace('\u{7f}', "\\u007f")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<MeteredDimension>, String> {
        dimension_rules(text).map_err(std::borrow::Cow::into_owned)
    }

    #[track_caller]
    fn rule(members: &str) -> String {
        read(&format!("{{ d = {{ {members} }} }}")).unwrap().remove(0).rule.to_string()
    }

    #[test]
    fn each_member_is_read_and_may_be_left_out() {
        for (members, expected) in [
            ("", "sum"),
            ("aggregation = \"sum\"", "sum"),
            ("aggregation = 'max'", "max 1 none"),
            ("scale = \"bytes:GB\"", "sum 1000000000 none"),
            ("scale = 'bytes:GiB'", "sum 1073741824 none"),
            ("scale = 1000000", "sum 1000000 none"),
            ("scale = 1_000", "sum 1000 none"),
            ("scale = 0.5", "sum 0.5 none"),
            ("scale = \"0.000001\"", "sum 0.000001 none"),
            ("rounding = { mode = \"none\" }", "sum"),
            ("rounding = { mode = \"up\", digits = 6 }", "sum 1 up:6"),
            ("rounding = { digits = 0, mode = 'up' }, aggregation = 'max', scale = 60", "max 60 up:0"),
            ("heartbeat = 1", "sum 3600 none"),
            ("heartbeat = 0.25, rounding = { mode = \"up\", digits = 0 }", "sum 3600 up:0"),
            ("heartbeat = 1, scale = 24", "sum 86400 none"),
        ] {
            assert_eq!(rule(members), expected, "{members}");
        }
        let all = read("{ b = { heartbeat = '0.5', per_pod = true }, \"a.c\" = {}, }").unwrap();
        let seen: Vec<_> = all.iter().map(|one| (one.name.as_str(), one.heartbeat, one.per_pod)).collect();
        assert_eq!(seen, [("a.c", None, false), ("b", Quantity::from_micros(500_000), true)]);
        assert_eq!(read("{}").unwrap(), []);
    }

    #[test]
    fn each_mistake_has_one_sentence() {
        for (members, expected) in [
            ("aggregation = 'avg'", "aggregation \"avg\" must be sum or max"),
            ("aggregation = 1", "aggregation 1 must be a string in quotes"),
            ("scale = 'bytes:GX'", "scale \"bytes:GX\" must be bytes:KB, bytes:MB"),
            ("scale = 'bits'", "scale \"bits\" must be bytes:KB"),
            ("scale = 0", "scale 0 must be bytes:KB"),
            ("scale = -1", "scale -1 must be bytes:KB"),
            ("scale = 0.0000001", "scale 0.0000001 must be bytes:KB"),
            ("scale = 1e3", "scale 1e3 must be bytes:KB"),
            ("scale = inf", "scale inf must be bytes:KB"),
            ("scale = 0x10", "scale 0x10 must be a number"),
            ("scale = true", "scale true must be a number"),
            ("scale = 100000000000000000001", "scale 100000000000000000001 must be"),
            ("rounding = 'up'", "rounding \"up\" is no table; write { mode = \"up\", digits = 0 }"),
            ("rounding = {}", "rounding has no mode; write"),
            ("rounding = { mode = 'down' }", "rounding.mode \"down\" must be up or none"),
            ("rounding = { mode = 1 }", "rounding.mode 1 must be up or none"),
            ("rounding = { mode = 'up' }", "rounding needs digits with mode up"),
            (
                "rounding = { mode = 'up', digits = 7 }",
                "rounding.digits 7 must be a whole number from 0 to 6",
            ),
            ("rounding = { mode = 'up', digits = -1 }", "rounding.digits -1 must be"),
            ("rounding = { mode = 'up', digits = '0' }", "rounding.digits \"0\" must be"),
            ("rounding = { mode = 'up', digits = 0.5 }", "rounding.digits 0.5 must be"),
            ("rounding = { mode = 'none', digits = 0 }", "rounding.digits means nothing with mode none"),
            ("rounding = { mode = 'up', digit = 0 }", "rounding has the unknown member \"digit\"; write"),
            ("heartbeat = 0", "heartbeat 0 would count nothing"),
            ("heartbeat = -1", "heartbeat -1 must be a number of at least 0"),
            ("heartbeat = 0.0000001", "heartbeat 0.0000001 has more than 6 decimal places"),
            ("heartbeat = 10000000000", "heartbeat 10000000000 is above 9999999999.999999"),
            ("heartbeat = true", "heartbeat true must be a number"),
            ("heartbeat = 1, aggregation = 'max'", "heartbeat counts seconds, which are added"),
            (
                "heartbeat = 1, scale = 100000000000000000000",
                "scale 100000000000000000000 is too large for a",
            ),
            ("per_pod = 'yes'", "per_pod \"yes\" must be true or false"),
            ("agregation = 'max'", "the member \"agregation\" is unknown; did you mean aggregation?"),
            ("price = 1", "the member \"price\" is unknown; the members are aggregation, scale"),
            ("on_unsent = 'keep'", "on_unsent is no member, but a setting of its own: write it above"),
        ] {
            let problem = read(&format!("{{ d = {{ {members} }} }}")).unwrap_err();
            assert!(problem.starts_with(&format!("in \"d\", {expected}")), "{members}: {problem}");
            assert_eq!(problem.lines().count(), 1, "{problem}");
        }
        for (text, expected) in [
            ("", "is not a TOML table ("),
            ("x", "is not a TOML table ("),
            ("{ d = {} } mode = 1", "is not a TOML table ("),
            ("{ d = {}, d = {} }", "is not a TOML table ("),
            ("{\"d\": {\"heartbeat\": 1}}", "is not a TOML table ("),
            (
                "\"d\"",
                "is not a TOML table; write [dimension.NAME] in a file, or { NAME = { heartbeat = 1 } }",
            ),
            (
                "{ aggregation = 'max' }",
                "holds \"aggregation\", which is no table; write [dimension.\"aggregation\"]",
            ),
            ("{ \"\" = {} }", "holds a dimension name that is empty"),
        ] {
            let problem = read(text).unwrap_err();
            assert!(problem.starts_with(expected), "{text}: {problem}");
        }
        let many: Vec<String> = (0..=DIMENSIONS_MAX).map(|n| format!("d{n} = {{}}")).collect();
        assert!(
            read(&format!("{{ {} }}", many.join(", "))).unwrap_err().starts_with("has more than 200 tables")
        );
    }

    #[test]
    fn a_files_tables_and_their_inline_text_mean_the_same() {
        let file = "[node_hours]\nheartbeat = 1\nrounding = { mode = 'up', digits = 0 }\n\
                    [\"a \\\"b\\\" \\u007f ü\"]\nscale = 0.5\nper_pod = true\n[empty]\n[odd]\nat = [1979-05-27, 0x10]\n";
        let table = DeTable::parse(file).unwrap();
        let text = inline(&DeValue::Table(table.get_ref().clone()));
        assert_eq!(
            text,
            "{ \"a \\\"b\\\" \\u007f ü\" = { per_pod = true, scale = 0.5 }, empty = {}, \
             node_hours = { heartbeat = 1, rounding = { digits = 0, mode = \"up\" } }, odd = { at = [1979-05-27, 0x10] } }"
        );
        let again = DeValue::parse(&text).unwrap();
        assert_eq!(inline(again.get_ref()), text);
    }
}
