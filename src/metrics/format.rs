//! The two formats in which metrics are scraped.

/// The format of the scraped text: the samples are the same, the `# HELP` and `# TYPE` lines differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0, which Prometheus requests.
    OpenMetrics,
    /// Prometheus' older text format, the default; `promtool check metrics` reads only this one.
    Text,
}

impl Format {
    /// The format that an `Accept` header requests.
    #[must_use]
    pub fn accepted(accept: &str) -> Self {
        // Media types are case-insensitive (RFC 9110, section 8.3.1).
        if accept.to_ascii_lowercase().contains("application/openmetrics-text") {
            Self::OpenMetrics
        } else {
            Self::Text
        }
    }

    /// The format's content type.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Converts OpenMetrics to the older text format: `# HELP` and `# TYPE` name counters and infos as their samples are
/// named, and an info is a gauge.
pub(super) fn plain(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len());
    // HELP comes before TYPE, but the name in it depends on the type.
    let mut help = None;
    for line in openmetrics.lines() {
        if let Some(heading) = line.strip_prefix("# HELP ") {
            help = heading.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                _ => ("", kind),
            };
            if let Some((_, words)) = help.take() {
                text.push_str(&format!("# HELP {name}{suffix} {words}\n"));
            }
            text.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::metrics::tests::entitlement;

    #[test]
    fn the_two_formats_hold_the_same_samples_and_each_its_own_headings() {
        let metrics = Metrics::new();
        metrics.usage_event("requests", "accepted", 1);
        metrics.committed(0.001);
        let (open, text) = (
            metrics.encode(&entitlement(), Format::OpenMetrics),
            metrics.encode(&entitlement(), Format::Text),
        );
        let samples = |text: &str| -> Vec<String> {
            let mut samples: Vec<String> =
                text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
            samples.sort();
            samples
        };
        assert_eq!(samples(&open), samples(&text));
        assert!(open.ends_with("# EOF\n") && !text.contains("EOF"));
        for heading in [
            "# TYPE tollgate_build_info gauge",
            "# TYPE tollgate_usage_events_total counter",
            "# TYPE tollgate_ledger_commit_duration_seconds histogram",
            "# TYPE tollgate_gate_open gauge",
        ] {
            assert!(text.lines().any(|line| line == heading), "{heading}:\n{text}");
            let name = heading.split(' ').nth(2).unwrap_or_default();
            assert!(text.contains(&format!("# HELP {name} ")), "{name} says what it is");
        }
    }
}
