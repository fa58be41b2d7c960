//! Rows as CSV (RFC 4180), for comparison with AWS's monthly report in a spreadsheet.

use serde_json::Value;

/// The media type of CSV.
pub const MEDIA_TYPE: &str = "text/csv";

/// A heading and a line for each row, with the members that `columns` names.
#[must_use]
pub fn document(columns: &[&str], rows: &[Value]) -> String {
    rows.iter().fold(heading(columns), |text, row| text + &line(columns, row))
}

/// The heading, with its line end.
#[must_use]
pub fn heading(columns: &[&str]) -> String {
    columns.join(",") + "\r\n"
}

/// The line of a row, with its line end.
#[must_use]
pub fn line(columns: &[&str], row: &Value) -> String {
    let fields: Vec<String> = columns.iter().map(|column| field(&row[*column])).collect();
    fields.join(",") + "\r\n"
}

/// One value. The application chooses the names of customers, dimensions and tags: an apostrophe marks a name as text
/// that a spreadsheet would run as a formula.
fn field(value: &Value) -> String {
    let text = match value {
        Value::Null => return String::new(),
        Value::String(text) => text.clone(),
        other => return quoted(&other.to_string()),
    };
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        quoted(&format!("'{text}"))
    } else {
        quoted(&text)
    }
}

fn quoted(text: &str) -> String {
    if text.contains(['"', ',', '\r', '\n']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

/// Whether an `Accept` header asks for CSV. Media types are case-insensitive.
pub(super) fn accepted(accept: &str) -> bool {
    let named =
        |range: &str| range.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(MEDIA_TYPE);
    accept.split(',').any(named)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_quoted_where_they_must_and_no_name_is_a_formula() {
        let rows = [
            json!({"id": 7, "dimension": "a,b", "customer": "=HYPERLINK(\"x\")", "code": null, "tags": {"team": "a"}}),
            json!({"id": 8, "dimension": "two\nlines", "in_doubt": true, "customer": "-1"}),
        ];
        assert_eq!(
            document(&["id", "dimension", "customer", "code", "in_doubt", "tags"], &rows),
            "id,dimension,customer,code,in_doubt,tags\r\n\
             7,\"a,b\",\"'=HYPERLINK(\"\"x\"\")\",,,\"{\"\"team\"\":\"\"a\"\"}\"\r\n\
             8,\"two\nlines\",'-1,,true,\r\n"
        );
    }

    #[test]
    fn csv_is_asked_for_by_its_media_type() {
        for good in ["text/csv", "Text/CSV; charset=utf-8", "application/json;q=0.5, text/csv"] {
            assert!(accepted(good), "{good}");
        }
        for bad in ["", "*/*", "application/json", "text/*", "text/csvx"] {
            assert!(!accepted(bad), "{bad}");
        }
    }
}
