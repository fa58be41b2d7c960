//! Log lines for people: time, level, message, remedy, then the other members.
//!
//! Values from outside may contain control characters, which could move a terminal's cursor: they are replaced.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::EVENT;
use tollgate_clock as clock;

/// The text format.
#[derive(Debug, Clone, Copy)]
pub(super) struct Text {
    /// Whether to write colours.
    pub(super) colours: bool,
}

impl<S, N> FormatEvent<S, N> for Text
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut parts = Parts::default();
        event.record(&mut parts);
        let level = *event.metadata().level();
        let now = clock::system_now();
        let (dim, reset) = if self.colours { ("\u{1b}[2m", "\u{1b}[0m") } else { ("", "") };
        let (tint, plain) = if self.colours { (tint(level), "\u{1b}[0m") } else { ("", "") };
        write!(writer, "{dim}{now}{reset} {tint}{level:>5}{plain} {}{}", parts.message, parts.remedy)?;
        if !parts.others.is_empty() {
            write!(writer, "{dim}{}{reset}", parts.others)?;
        }
        writeln!(writer)
    }
}

const fn tint(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\u{1b}[31m",
        Level::WARN => "\u{1b}[33m",
        Level::INFO => "\u{1b}[32m",
        Level::DEBUG | Level::TRACE => "\u{1b}[34m",
    }
}

/// The parts of a line.
#[derive(Default)]
struct Parts {
    message: String,
    /// A sentence too, so it follows the message.
    remedy: String,
    others: String,
}

impl Parts {
    fn add(&mut self, field: &Field, value: &str) {
        let shown = printable(value);
        match field.name() {
            "message" => self.message = shown,
            "remedy" => self.remedy = format!(" {shown}"),
            // The event's name is for programs; the message says the same.
            EVENT => {}
            name => {
                let _ = if shown.contains(' ') {
                    write!(self.others, " {name}=\"{shown}\"")
                } else {
                    write!(self.others, " {name}={shown}")
                };
            }
        }
    }
}

fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

impl Visit for Parts {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _};
    use std::sync::Arc;

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    fn written(colours: bool, log: impl FnOnce()) -> String {
        let mut file = tempfile::tempfile().unwrap();
        let writer = Arc::new(file.try_clone().unwrap());
        let layer = tracing_subscriber::fmt::layer().event_format(Text { colours }).with_writer(writer);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        file.rewind().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_line_is_a_sentence_with_its_remedy_and_what_belongs_to_it() {
        let line = written(false, || {
            tracing::warn!(
                event = "state",
                code = "Dns",
                remedy = "Look at DNS.",
                gate = "shut",
                "It is shut."
            );
        });
        let (time, rest) = line.split_once(' ').unwrap();
        assert!(time.ends_with('Z') && time.len() == "2026-11-24T08:00:00Z".len(), "{line}");
        assert_eq!(rest, " WARN It is shut. Look at DNS. code=Dns gate=shut\n");
    }

    #[test]
    fn nothing_from_outside_moves_the_cursor() {
        let log = || tracing::error!(event = "exit", seen = "a\u{1b}[2J\nb", "x\u{7}y");
        let line = written(false, log);
        assert_eq!(line.lines().count(), 1, "{line}");
        assert!(!line.trim_end().contains(char::is_control), "{line:?}");
        assert!(written(true, log).contains("\u{1b}[31mERROR\u{1b}[0m"));
    }
}
