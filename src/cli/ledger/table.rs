//! The ledger's rows for a terminal.

use std::fmt::Write as _;

use serde_json::Value;

use crate::cli::screen::{Screen, Style};

/// A value in a table: a dash for nothing, and no character that would move the terminal's cursor.
pub(in crate::cli) fn cell(value: &Value) -> String {
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

/// Columns as wide as their widest value; if they do not fit the terminal, each row is a block of lines instead.
pub(super) fn table(columns: &[&str], rows: &[Value], screen: Screen) -> String {
    let lines: Vec<Vec<String>> = rows.iter().map(|row| cells(columns, row)).collect();
    laid_out(columns, &lines, screen)
}

pub(super) fn cells(columns: &[&str], row: &Value) -> Vec<String> {
    columns.iter().map(|column| cell(&row[*column])).collect()
}

/// [`table`] for rows that are cells already.
pub(in crate::cli) fn laid_out(columns: &[&str], lines: &[Vec<String>], screen: Screen) -> String {
    let headings: Vec<String> = columns.iter().map(|column| column.to_uppercase()).collect();
    let width = |index: usize| {
        let all = std::iter::once(&headings).chain(lines);
        all.map(|line: &Vec<String>| line[index].chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let whole = widths.iter().sum::<usize>() + GAP.len() * columns.len().saturating_sub(1);
    if !lines.is_empty() && screen.columns.is_some_and(|columns| columns < whole) {
        return blocks(&headings, lines, screen);
    }
    let joined = |line: &[String]| {
        let cells: Vec<String> =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join(GAP).trim_end().to_owned()
    };
    let mut text = screen.styled(Style::Bold, &joined(&headings)) + "\n";
    for line in lines {
        let _ = writeln!(text, "{}", joined(line));
    }
    text
}

const GAP: &str = "  ";

fn blocks(headings: &[String], lines: &[Vec<String>], screen: Screen) -> String {
    let widest = headings.iter().map(String::len).max().unwrap_or(0);
    let block = |line: &Vec<String>| {
        let pairs = headings.iter().zip(line);
        pairs
            .map(|(heading, cell)| {
                let heading = format!("{heading:<widest$}");
                format!("{}{GAP}{cell}\n", screen.styled(Style::Bold, &heading))
            })
            .collect::<String>()
    };
    lines.iter().map(block).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_has_a_line_for_each_record_and_a_dash_for_nothing() {
        let rows = [json!({"dimension": "requests", "accepted": "12.5", "billed": "0", "balanced": true})];
        assert_eq!(
            table(&["dimension", "accepted", "billed", "dead", "balanced"], &rows, Screen::PLAIN),
            "DIMENSION  ACCEPTED  BILLED  DEAD  BALANCED\nrequests   12.5      0       -     true\n"
        );
    }

    #[test]
    fn a_table_that_does_not_fit_is_a_block_for_each_row() {
        let rows = [json!({"id": 1, "dimension": "requests"}), json!({"id": 2, "dimension": "gigabytes"})];
        let columns = ["id", "dimension"];
        assert_eq!(
            table(&columns, &rows, Screen::narrow(12)),
            "ID         1\nDIMENSION  requests\n\nID         2\nDIMENSION  gigabytes\n"
        );
        assert_eq!(table(&columns, &rows, Screen::narrow(13)), table(&columns, &rows, Screen::PLAIN));
        assert_eq!(table(&columns, &[], Screen::narrow(4)), "ID  DIMENSION\n");
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
