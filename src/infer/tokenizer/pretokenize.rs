//! Runs a pre-tokenizer: cuts a text into the pieces inside which byte pairs may merge.
//!
//! The published expressions end in `\s+(?!\S)|\s+`: a run of white space leaves its last character
//! to the word that follows. The `regex` crate has no look-ahead, so the alternative is taken out and
//! the rule applied to the match by code.
//!
//! ```text
//! "a   b"    the match of \s+ is three spaces; \s+(?!\S) takes two, and " b" is the next piece
//! "a 1"      one space: \s+(?!\S) fails, and plain \s+ takes it (before a letter a word has taken it already)
//! "a   "     nothing follows: all three
//! ```

use regex::Regex;

use crate::{
    error::{Error, Result},
    model::pretokenizer::PreTokenizer,
};

/// A pre-tokenizer ready to run.
#[derive(Debug)]
pub struct Splitter {
    stages: Vec<Stage>,
}

/// One expression; some pre-tokenizers cut by several, each what the one before left.
#[derive(Debug)]
struct Stage {
    regex: Regex,
    /// Whether a run of white space leaves its last character to what follows.
    leaves_last: bool,
    /// Whether white space that ends in a line break has an alternative of its own.
    lines: bool,
}

/// The alternative that needs looking ahead.
const AHEAD: &str = r"|\s+(?!\S)";

impl Splitter {
    /// Compiles the stages of `pre`.
    ///
    /// # Errors
    /// Where an expression cannot be compiled.
    pub fn new(pre: &PreTokenizer) -> Result<Splitter> {
        let stage = |pattern: &&str| {
            let regex = Regex::new(&pattern.replace(AHEAD, "")).map_err(|error| {
                Error::unsupported(format!("pre-tokenizer {:?}: {error}", pre.name()), "")
            })?;
            let lines = pattern.contains(r"\s*[\r\n]");
            Ok(Stage { regex, leaves_last: pattern.contains(AHEAD), lines })
        };
        Ok(Splitter { stages: pre.stages.iter().map(stage).collect::<Result<_>>()? })
    }

    /// The pieces of `text`, in order; together they are `text`.
    pub fn split<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let mut pieces = vec![text];
        for stage in &self.stages {
            let mut next = Vec::with_capacity(pieces.len() * 2);
            for piece in pieces {
                stage.split(piece, &mut next);
            }
            pieces = next;
        }
        pieces
    }
}

impl Stage {
    /// Appends the pieces of `text`, matches and what is between them.
    fn split<'t>(&self, text: &'t str, out: &mut Vec<&'t str>) {
        let mut done = 0;
        while let Some(found) = self.regex.find_at(text, done) {
            let end = self.end(text, found.as_str(), found.end());
            out.extend(
                [&text[done..found.start()], &text[found.start()..end]]
                    .iter()
                    .filter(|p| !p.is_empty()),
            );
            if end == done {
                break;
            }
            done = end;
        }
        if done < text.len() {
            out.push(&text[done..]);
        }
    }

    /// Where a match that reaches to `end` ends in truth: `\s+(?!\S)` gives back one character where
    /// a word follows, and fails (so that plain `\s+` takes it) where there is only one.
    fn end(&self, text: &str, found: &str, end: usize) -> usize {
        let space = self.leaves_last
            && end < text.len()
            && found.chars().all(char::is_whitespace)
            && !(self.lines && found.ends_with(['\r', '\n']));
        match found.char_indices().next_back() {
            Some((last, _)) if space && last > 0 => end - found.len() + last,
            _ => end,
        }
    }
}
