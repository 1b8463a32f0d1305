//! A conversation: turn by turn by the file's chat template, or free text up to a reverse prompt.
//!
//! ```text
//! by template          [begin] [system] turn 1 -> answer -> turn 2 -> …          what was said stays in the cache
//! by reverse prompt    text …User: <the person>\n -> text …User: <the person>    as `main -r "User:"`
//! ```

use std::{
    io::{self, BufRead, IsTerminal, Read, StdinLock, Take, Write},
    iter,
};

use super::{Globals, print_said, remark, writer::Writer};
use crate::{
    bytes::input::TEXT,
    error::{Error, Result},
    infer::{Special, Template, tokenizer::StreamDecoder},
};

/// What can be typed in place of a turn.
const HELP: &str = "\
/help     this
/reset    forget what was said; the system message stays
/history  what was said
/exit     leave; so does the end of input (Ctrl-D)
A line that is to begin with / is typed with two: //";

/// What a line of a person is.
#[derive(Debug, PartialEq)]
enum Line<'a> {
    Said(&'a str),
    Help,
    Reset,
    History,
    Exit,
    Unknown(&'a str),
}

impl Line<'_> {
    fn read(line: &str) -> Line<'_> {
        match line.trim() {
            "/help" | "/?" => Line::Help,
            "/reset" | "/clear" => Line::Reset,
            "/history" => Line::History,
            "/exit" | "/quit" | "/bye" => Line::Exit,
            word if word.starts_with("//") => Line::Said(line.trim_start().get(1..).unwrap_or("")),
            word if word.starts_with('/') => Line::Unknown(word),
            _ => Line::Said(line),
        }
    }
}

/// The lines that a person types.
struct Lines(io::Lines<Take<StdinLock<'static>>>);

impl Lines {
    // A bounded number of bytes in all: what is piped in may have no end.
    fn new() -> Lines {
        Lines(io::stdin().lock().take(TEXT).lines())
    }

    /// The next line that is not blank, after `sign` on a terminal.
    fn next(&mut self, sign: &str) -> Result<Option<String>> {
        loop {
            if io::stdin().is_terminal() && !sign.is_empty() {
                print_said(sign)?;
                let _ = io::stdout().flush();
            }
            match self.0.next().transpose().map_err(|e| Error::io("<stdin>", "read", e))? {
                Some(line) if line.trim().is_empty() => {}
                line => return Ok(line),
            }
        }
    }
}

/// Talks by the template of the file; `system` goes before the first turn.
///
/// Only what is new is read each time: the turn, and the token that ended the answer before it.
pub fn by_template(writer: &mut Writer, system: &str, globals: &Globals) -> Result<()> {
    let stored = writer.loaded.chat_template.as_deref();
    let template = Template::of(stored);
    if template == Template::Plain {
        let what = match stored {
            None => "the file has no chat template",
            Some(_) => "the file's chat template is none that regguf knows",
        };
        let note = "turns are written as `User: …` and `Assistant:`; a model that was not trained \
                    to talk goes on with the text";
        remark(globals, &format!("note: {what}: {note}"));
    }
    if io::stdin().is_terminal() {
        remark(globals, "/help lists what else can be typed");
    }
    let tokenizer = &writer.loaded.tokenizer;
    let first = || Some(system).filter(|text| !text.is_empty());
    let start = || tokenizer.leading_bos().into_iter().collect::<Vec<u32>>();
    // What goes before the first turn goes once: `take` leaves nothing for the second.
    let (mut system, mut before, mut said) = (first(), start(), Vec::new());
    let stops: Vec<String> = template.stop().map(str::to_owned).into_iter().collect();
    let mut lines = Lines::new();
    while let Some(line) = lines.next("\n> ")? {
        let line = match Line::read(&line) {
            Line::Said(line) => line,
            Line::Exit => break,
            Line::Reset => {
                writer.forget();
                (system, before) = (first(), start());
                said.clear();
                remark(globals, "forgotten");
                continue;
            }
            Line::Help => {
                remark(globals, HELP);
                continue;
            }
            Line::History => {
                said.iter().for_each(|turn: &String| remark(globals, turn));
                continue;
            }
            Line::Unknown(word) => {
                remark(globals, &format!("{word}: no such command; /help lists them"));
                continue;
            }
        };
        before.extend(tokenizer.encode(&template.turn(system.take(), line), Special::Token));
        let (last, answer) = writer.answer(&before, StreamDecoder::continuing(), &stops)?;
        said.extend([format!("> {line}"), answer.trim().to_owned()]);
        // The last token of the answer was written and not yet read: it begins the next turn.
        before = vec![last];
        print_said("\n")?;
    }
    Ok(())
}

/// Goes on with `prompt` and lets the person write wherever one of `reverse` was written, as llama.cpp's
/// `main` does with `-r`.
pub fn by_reverse_prompt(writer: &mut Writer, prompt: &str, reverse: &[String]) -> Result<()> {
    let tokenizer = &writer.loaded.tokenizer;
    let mut tokens = tokenizer.read(prompt)?;
    print_said(prompt)?;
    let _ = io::stdout().flush();
    let ends = |text: &str| reverse.iter().any(|end| text.trim_end().ends_with(end.trim_end()));
    let (mut waits, mut lines) = (ends(prompt), Lines::new());
    loop {
        if waits {
            // What the person says goes on in the line of the reverse prompt.
            let Some(line) = lines.next("")? else { return Ok(()) };
            tokens.extend(tokenizer.encode(&format!("{line}\n"), Special::Text));
        } else if tokens.is_empty() {
            tokens.extend(tokenizer.bos().or(tokenizer.eos()));
        }
        let (last, _) = writer.answer(&tokens, StreamDecoder::continuing(), reverse)?;
        tokens = iter::once(last).collect();
        waits = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_from_what_is_said() {
        assert_eq!(Line::read(" /reset "), Line::Reset);
        assert_eq!(Line::read("//etc is a folder"), Line::Said("/etc is a folder"));
        assert_eq!(Line::read("/etc"), Line::Unknown("/etc"));
        assert_eq!(Line::read("what is 1/2?"), Line::Said("what is 1/2?"));
    }
}
