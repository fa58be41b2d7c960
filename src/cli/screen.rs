//! Standard output and standard error: the terminal's width and colours, and writing to a reader that may go away.
//!
//! When the reader goes away (`| head`, a closed terminal), the command does not panic, and its exit code does not
//! change.

use std::io::{self, IsTerminal as _, Write as _};

use crate::cli::complain;
use crate::config::{ProcessEnvironment, wants_colour};
use crate::exit::Exit;

/// How a text is highlighted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// A heading.
    Bold,
    /// A success.
    Good,
    /// A warning.
    Odd,
    /// A fault.
    Bad,
}

impl Style {
    /// The parameter of the escape sequence that terminals know (ECMA-48, SGR).
    const fn parameter(self) -> &'static str {
        match self {
            Self::Bold => "1",
            Self::Good => "32",
            Self::Odd => "33",
            Self::Bad => "31",
        }
    }
}

/// Standard output: its width, and whether it has colours.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Screen {
    /// The terminal's width; `None` elsewhere, where lines are not wrapped.
    pub(crate) columns: Option<usize>,
    colours: bool,
}

impl Screen {
    /// A file, or a pipe.
    pub(crate) const PLAIN: Self = Self { columns: None, colours: false };

    /// A terminal without colours.
    #[cfg(test)]
    pub(crate) const fn narrow(columns: usize) -> Self {
        Self { columns: Some(columns), colours: false }
    }

    /// Standard output now.
    pub(crate) fn of_stdout() -> Self {
        let out = io::stdout();
        if !out.is_terminal() {
            return Self::PLAIN;
        }
        // A terminal of unknown width (a serial line) reports 0.
        let size = rustix::termios::tcgetwinsize(&out).ok();
        let columns = size.map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0);
        Self { columns, colours: wants_colour(&ProcessEnvironment) }
    }

    /// `text`, highlighted if there are colours.
    pub(crate) fn styled(self, style: Style, text: &str) -> String {
        if self.colours { format!("\u{1b}[{}m{text}\u{1b}[0m", style.parameter()) } else { text.to_owned() }
    }

    /// `text` in lines that fit the width, each but the first indented by `indent` spaces; a word that does not fit has
    /// its own line.
    pub(crate) fn wrapped(self, text: &str, indent: usize) -> String {
        let Some(columns) = self.columns else { return text.to_owned() };
        let room = columns.saturating_sub(indent).max(1);
        let mut lines: Vec<String> = Vec::new();
        for word in text.split(' ') {
            match lines.last_mut() {
                Some(line) if line.chars().count() + 1 + word.chars().count() <= room => {
                    line.push(' ');
                    line.push_str(word);
                }
                _ => lines.push(word.to_owned()),
            }
        }
        lines.join(&format!("\n{}", " ".repeat(indent)))
    }
}

/// Whether lines on standard error may have colours.
pub(crate) fn stderr_has_colours() -> bool {
    io::stderr().is_terminal() && wants_colour(&ProcessEnvironment)
}

/// Writes `text` and a line end to standard output. Returns `exit` if that worked, and also if the reader has gone,
/// because then it has what it wanted.
pub(crate) fn print(text: &str, exit: Exit) -> Exit {
    let mut out = io::stdout().lock();
    printed(writeln!(out, "{text}").and_then(|()| out.flush()), exit)
}

/// How a command ends after writing to standard output: with `exit`, unless the write failed.
pub(crate) fn printed(written: io::Result<()>, exit: Exit) -> Exit {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => complain(
            Exit::LedgerIo,
            &format!(
                "failed: OutputUnwritable: standard output cannot be written: {error}; write it elsewhere"
            ),
        ),
        Ok(()) | Err(_) => exit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit_the_terminal_and_are_left_alone_elsewhere() {
        let narrow = Screen::narrow(20);
        assert_eq!(narrow.wrapped("one two three four five", 8), "one two\n        three four\n        five");
        assert_eq!(narrow.wrapped("a-word-that-does-not-fit it", 8), "a-word-that-does-not-fit\n        it");
        assert_eq!(Screen::PLAIN.wrapped("one two three four five", 8), "one two three four five");
        assert_eq!(Screen::narrow(1).wrapped("a b", 8), "a\n        b");
    }

    #[test]
    fn colours_stand_around_the_text() {
        let coloured = Screen { columns: None, colours: true };
        assert_eq!(coloured.styled(Style::Bad, "FAULT"), "\u{1b}[31mFAULT\u{1b}[0m");
        assert_eq!(Screen::PLAIN.styled(Style::Bad, "FAULT"), "FAULT");
    }
}
