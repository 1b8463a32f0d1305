//! Pieces of a file that were cut by bytes, put together again: the file's own bytes, opened before they
//! get its name.

use std::path::{Path, PathBuf};

use super::output::place;
use crate::{
    bytes::{
        Input, Progress, Replace,
        replace::{Commit, check_interrupt},
    },
    container::{self, OpenOptions},
    error::{Error, Result},
    limits::Limits,
};

/// Bytes that are copied at a time.
const STEP: u64 = 4 << 20;

/// A file in pieces, and where it goes.
#[derive(Clone, Debug)]
pub struct Pieces {
    /// The pieces in their order.
    pub inputs: Vec<Input>,
    /// Where they go.
    pub output: PathBuf,
    /// All of them, one behind the other.
    whole: Input,
    /// How what they make is opened.
    options: OpenOptions,
}

impl Pieces {
    /// The file that `path` is a piece of, with all its pieces; none where its name says nothing of the kind
    /// or it is a model by itself.
    ///
    /// # Errors
    /// Where a piece is missing or cannot be opened.
    pub fn of(path: &Path, output: Option<&Path>, limits: Limits) -> Result<Option<Pieces>> {
        let Some((name, paths)) = container::pieces::all(path)? else { return Ok(None) };
        let inputs = paths.iter().map(Input::open).collect::<Result<Vec<Input>>>()?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let output = place(output, 1, folder, &name);
        let whole = Input::joined(folder.join(&name), &inputs);
        let options = OpenOptions { limits, ..OpenOptions::default() };
        Ok(Some(Pieces { inputs, output, whole, options }))
    }

    /// How many bytes they have together.
    pub fn len(&self) -> u64 {
        self.whole.len()
    }

    /// What they are together: a model, whole to its last byte.
    ///
    /// # Errors
    /// Where they are none, as where one is cut short or they are of two files.
    pub fn check(&self) -> Result<()> {
        container::open_alone(&self.whole, &self.options).map(drop).map_err(|error| {
            let what = format!("the pieces together are no whole model: {error}");
            // How many there should be, no name says.
            let last = self.inputs.last().map(Input::name).unwrap_or_default();
            let next = format!(
                "get the pieces behind {last}, if it is not the last, or the wrong one again"
            );
            Error::refused(what, next)
        })
    }

    /// Writes them into one file.
    ///
    /// # Errors
    /// Where they are no model, or reading or writing fails.
    pub fn join(&self, commit: impl Into<Commit>, progress: &dyn Progress) -> Result<()> {
        self.check()?;
        let inputs: Vec<&Input> = self.inputs.iter().collect();
        let out = Replace::begin(&self.output, self.len(), commit, &inputs)?;
        let mut buffer = Vec::new();
        for at in (0..self.len()).step_by(usize::try_from(STEP).unwrap_or(usize::MAX)) {
            check_interrupt()?;
            let step = STEP.min(self.len() - at);
            buffer.resize(usize::try_from(step).unwrap_or(0), 0);
            self.whole.read_at(at, &mut buffer)?;
            out.write_at(at, &buffer)?;
            progress.advance(step);
        }
        self.inputs.iter().try_for_each(Input::check_unchanged)?;
        container::open_alone(&Input::look(out.temp_path())?, &self.options)?;
        out.commit().map(drop)
    }
}
