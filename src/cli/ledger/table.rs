//! The ledger's rows for a terminal.

use std::fmt::Write as _;

use serde_json::Value;

/// A value in a table: a dash for nothing, and no character that would move the terminal's cursor.
pub(super) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect(),
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| format!("{}={}", cell(&name.as_str().into()), cell(value)))
            .collect::<Vec<_>>()
            .join(" "),
        other => other.to_string(),
    }
}

/// One record: a line for each member, and one for each share.
pub(super) fn sheet(record: &Value) -> String {
    let mut text = String::new();
    for (name, value) in record.as_object().into_iter().flatten() {
        match value.as_array() {
            None => {
                let _ = writeln!(text, "{name:<19}{}", cell(value));
            }
            Some(numbers) if name == "includes" => {
                let numbers: Vec<String> = numbers.iter().map(cell).collect();
                let _ = writeln!(text, "{name:<19}{}", cell(&numbers.join(" ").into()));
            }
            Some(shares) => {
                for share in shares {
                    let tags = Some(cell(&share["tags"])).filter(|tags| !tags.is_empty());
                    let tags = tags.unwrap_or_else(|| "untagged".to_owned());
                    let _ = writeln!(text, "{:<19}{} {tags}", "share", cell(&share["quantity"]));
                }
            }
        }
    }
    text
}

/// Columns as wide as their widest value.
pub(super) fn table(columns: &[&str], rows: &[Value]) -> String {
    let mut lines: Vec<Vec<String>> = vec![columns.iter().map(|column| column.to_uppercase()).collect()];
    lines.extend(rows.iter().map(|row| columns.iter().map(|column| cell(&row[*column])).collect()));
    let width = |index: usize| lines.iter().map(|line| line[index].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let cells: Vec<String> =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_has_a_line_for_each_record_and_a_dash_for_nothing() {
        let rows = [json!({"dimension": "requests", "accepted": "12.5", "billed": "0", "balanced": true})];
        assert_eq!(
            table(&["dimension", "accepted", "billed", "dead", "balanced"], &rows),
            "DIMENSION  ACCEPTED  BILLED  DEAD  BALANCED\nrequests   12.5      0       -     true\n"
        );
    }

    #[test]
    fn one_record_is_a_sheet_with_its_shares() {
        let record = json!({
            "code": null, "dimension": "a\u{1b}[2J",
            "includes": [3, 5],
            "shares": [{"tags": {"team": "a"}, "quantity": "1.5"}, {"tags": {}, "quantity": "2"}],
        });
        assert_eq!(
            sheet(&record),
            "code               -\ndimension          a\u{fffd}[2J\nincludes           3 5\nshare              1.5 team=a\nshare              2 untagged\n"
        );
    }
}
