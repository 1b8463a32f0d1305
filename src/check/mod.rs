//! Questions about files and models: is it whole, is it what it says, are its numbers sane?
//!
//! Every check returns [`Finding`]s as data; nothing is printed while it runs, and text and JSON are
//! two views of the same value.
//!
//! | severity | what it does |
//! |---|---|
//! | note | nothing: a reader should know it |
//! | warning | nothing, but it is shown as one |
//! | failure | the file, and so the command, fails |
//!
//! `files` compares bytes with what lists and records claim of them, `models` looks at what the bytes mean, `pair` at
//! two models side by side.

pub mod files;
pub mod models;
pub(crate) mod page;
pub mod pair;

use std::fmt;

use crate::remedy::Note;
use serde::Serialize;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// Suspicious, though the file can be used.
    Warning,
    /// The file is not what it should be.
    Failure,
}

/// One thing that a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// What kind of thing it is, in kebab-case and stable: `truncated`, `html-page`.
    pub code: &'static str,
    /// What it is about, a tensor or field; empty for the whole file.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub about: String,
    /// The finding in words, with what to do where something can be done.
    pub message: Note,
}

impl Finding {
    /// A finding about a whole file.
    pub fn new(severity: Severity, code: &'static str, message: impl Into<Note>) -> Self {
        Self { severity, code, about: String::new(), message: message.into() }
    }

    /// A failure of a whole file.
    pub fn failure(code: &'static str, message: impl Into<Note>) -> Self {
        Self::new(Severity::Failure, code, message)
    }

    /// A warning about a whole file.
    pub fn warning(code: &'static str, message: impl Into<Note>) -> Self {
        Self::new(Severity::Warning, code, message)
    }

    /// A note about a whole file.
    pub fn note(code: &'static str, message: impl Into<Note>) -> Self {
        Self::new(Severity::Note, code, message)
    }

    /// The same finding about one tensor or field.
    pub fn about(mut self, about: impl Into<String>) -> Self {
        self.about = about.into();
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        Note::from(self).fmt(f)
    }
}

/// The same on one line.
impl From<&Finding> for Note {
    fn from(finding: &Finding) -> Note {
        let grave = if finding.severity == Severity::Warning { "warning: " } else { "" };
        let about = &finding.about;
        let colon = if about.is_empty() { "" } else { ": " };
        let text = format!("{grave}{about}{colon}{}", finding.message.text);
        Note::new(text, finding.message.remedy.clone())
    }
}

/// The gravest severity among findings.
pub fn worst(findings: &[Finding]) -> Option<Severity> {
    findings.iter().map(|finding| finding.severity).max()
}
