//! What the command says: results to stdout, remarks and errors to stderr.

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use super::{advice, common::Globals, text};
use crate::error::{Error, Result};

/// Says what went wrong; returns the exit code.
pub fn failed(error: &Error) -> ExitCode {
    let said = text::folded_for(&io::stderr(), &format!("error: {}", advice::error(error)));
    let (label, rest) = said.split_at("error:".len());
    let _ = writeln!(io::stderr(), "{}{rest}", text::red(&io::stderr(), label));
    ExitCode::from(error.exit_code())
}

/// Writes out what stdout holds back; returns the exit code as it is.
pub fn flush(code: ExitCode) -> Result<ExitCode> {
    io::stdout().flush().map_err(stdout_failed)?;
    Ok(code)
}

/// Writes `text` to stdout; a closed pipe is an error that the command takes for the reader's wish.
/// Control characters in it, as a file's names and values may hold, are written as escapes.
pub fn print(text: &str) -> Result<()> {
    print_raw(&escaped(text))
}

/// The same of text whose lines fit the terminal.
pub fn print_folded(text: &str) -> Result<()> {
    print(&text::folded(text))
}

/// `text` with its control characters as escapes, but for line breaks and tabs.
pub fn escaped(text: &str) -> String {
    let odd = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match odd(c) {
            true => plain.extend(c.escape_default()),
            false => plain.push(c),
        }
    }
    plain
}

/// Writes what a model says to stdout: as it is, but a terminal is not to obey it.
pub fn print_said(text: &str) -> Result<()> {
    if io::stdout().is_terminal() { print(text) } else { print_raw(text) }
}

/// Writes `text` to stdout as it is: what goes to other programs.
pub fn print_raw(text: &str) -> Result<()> {
    io::stdout().write_all(text.as_bytes()).map_err(stdout_failed)
}

/// Writes a remark to stderr, unless the person wants quiet.
pub fn remark(globals: &Globals, said: &str) {
    if !globals.quiet {
        let _ = writeln!(io::stderr(), "{}", text::folded_for(&io::stderr(), &escaped(said)));
    }
}

/// Whether progress may be drawn: stderr is a terminal and nobody asked for quiet.
pub fn may_draw(globals: &Globals) -> bool {
    !globals.quiet && io::stderr().is_terminal()
}

/// A failure to write to stdout.
pub fn stdout_failed(source: io::Error) -> Error {
    Error::io("<stdout>", "write", source)
}
