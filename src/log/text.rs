//! Log lines for people: time, level, sentence, then what belongs to it.
//!
//! What comes from outside may hold characters that move a terminal's cursor: they are shown, not sent.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::EVENT;
use tollgate_clock as clock;

/// The form of a line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Text {
    /// The reader is a terminal that has colours, and nobody refuses them.
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

/// A line's sentence, and its members.
#[derive(Default)]
struct Parts {
    message: String,
    /// What to do: a sentence too, so it stands with the first.
    remedy: String,
    others: String,
}

impl Parts {
    fn add(&mut self, field: &Field, value: &str) {
        let shown = printable(value);
        match field.name() {
            "message" => self.message = shown,
            "remedy" => self.remedy = format!(" {shown}"),
            // The name is for programs; the sentence says the same.
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
