//! Who reads standard output and standard error, how wide it is, and whether it has colours.
//!
//! The reader may go away at any time (`| head`, a closed terminal): the command does not panic, and its exit code
//! does not change.

use std::io::{self, IsTerminal as _, Write as _};

use crate::cli::complain;
use crate::config::{ProcessEnvironment, wants_colour};
use crate::exit::Exit;

/// How a text stands out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// A heading.
    Bold,
    /// As it should be.
    Good,
    /// Worth a look.
    Odd,
    /// At fault.
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
    /// Of a terminal; elsewhere lines are as long as they are.
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
        // A terminal that does not say how wide it is (a serial line) says 0.
        let size = rustix::termios::tcgetwinsize(&out).ok();
        let columns = size.map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0);
        Self { columns, colours: wants_colour(&ProcessEnvironment) }
    }

    /// `text`, standing out where that is possible.
    pub(crate) fn styled(self, style: Style, text: &str) -> String {
        if self.colours { format!("\u{1b}[{}m{text}\u{1b}[0m", style.parameter()) } else { text.to_owned() }
    }

    /// `text` in lines that fit, each after the first behind `indent` spaces; a word that does not fit stands alone.
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

/// Writes what was asked for to standard output, with a line end; `exit` is how the command ends when that worked, and
/// when the reader has gone, since then it has what it wanted.
pub(crate) fn print(text: &str, exit: Exit) -> Exit {
    let mut out = io::stdout().lock();
    printed(writeln!(out, "{text}").and_then(|()| out.flush()), exit)
}

/// How a command ends that wrote to standard output and would end with `exit`.
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
