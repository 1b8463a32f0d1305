//! What most callers need: open anything, plan what becomes of it, write it, check it.
//!
//! The rooms of the library stay open to whoever needs more: [`crate::container`] and
//! [`crate::checkpoint`] for what a file holds, [`crate::change`] for plans, [`crate::check`] for questions,
//! [`crate::infer`] for running a model.

use std::path::{Path, PathBuf};

use crate::{
    bytes::Progress,
    change::{self, Plan, convert, quantize, report::Report, upgrade},
    check::{files, pair::prove::proof},
    checkpoint::{self, adapter},
    container::{self, OpenOptions},
    error::Result,
    model::{Model, Stated},
};
pub use crate::{
    bytes::replace::{Commit, Durability, Existing},
    check::pair::prove::Proof,
};

/// What is known of a file before it is opened.
#[derive(Clone, Debug, Default)]
pub struct Hints {
    /// Of a model file: its format, how rows are stored, of how many parts it consists, and what it may ask for.
    pub file: OpenOptions,
    /// Of a model: what its file does not say.
    pub stated: Stated,
}

/// Opens a model: a file of any era, the first of a set, the folder of a checkpoint or an adapter. Only
/// headers are read; weights stay on the disk until [`Model::decode`] or a plan asks for them.
///
/// # Errors
/// Where the path leads to no model, or to one that is broken; [`crate::error::Error::kind`] says which.
pub fn open(path: impl AsRef<Path>) -> Result<Model> {
    open_with(path, &Hints::default())
}

/// As [`open`], with what is known beforehand.
///
/// # Errors
/// As [`open`].
pub fn open_with(path: impl AsRef<Path>, hints: &Hints) -> Result<Model> {
    let path = path.as_ref();
    if hints.file.format.is_none() && adapter::is_adapter(path, &hints.file.limits)? {
        return adapter::open(path, &hints.file.limits);
    }
    match checkpoint::is_checkpoint(path)? {
        true => {
            let limits = hints.file.limits;
            let options = checkpoint::Options { limits, ..checkpoint::Options::of(&hints.stated) };
            checkpoint::open(path, &options)
        }
        false => container::open(path, &hints.file),
    }
}

/// How a job is done.
#[derive(Clone, Copy, Default)]
pub struct Writing<'a> {
    /// How they take their places.
    pub commit: Commit,
    /// What is asked of new files.
    pub proof: Proof,
    /// Hears how far it is.
    pub progress: Option<&'a dyn Progress>,
}

/// A model, and the plans of what is made of it. The caller's [`Model`] is only borrowed to plan; what the job
/// keeps points at the same files.
#[derive(Clone, Debug)]
pub struct Job {
    model: Model,
    plans: Vec<Plan>,
}

impl Job {
    /// Brings `model` to today's container, or the one named in `options`, in the types that it has.
    ///
    /// # Errors
    /// Where it cannot be held there, or is no whole model.
    pub fn upgrade(model: &Model, options: &upgrade::Options) -> Result<Job> {
        let (model, plan) = upgrade::plan(model.clone(), options)?;
        Ok(Job { model, plans: vec![plan] })
    }

    /// Puts `model` into types of choice, one file each.
    ///
    /// # Errors
    /// As [`Job::upgrade`].
    pub fn convert(model: &Model, options: &convert::Options) -> Result<Job> {
        let (model, plans) = convert::plan(model.clone(), options)?;
        Ok(Job { model, plans })
    }

    /// Quantizes `model` as llama-quantize does.
    ///
    /// # Errors
    /// As [`Job::upgrade`], and where something asked for cannot be had.
    pub fn quantize(model: &Model, options: &quantize::Options) -> Result<Job> {
        let (model, plans) = quantize::plan(model.clone(), options)?;
        Ok(Job { model, plans })
    }

    /// The plans: where outputs go, what becomes of every tensor, what is assumed.
    pub fn plans(&self) -> &[Plan] {
        &self.plans
    }

    /// The plans in words and figures, before anything is written.
    pub fn reports(&self) -> Vec<Report> {
        self.plans.iter().map(|plan| Report::new(&self.model, plan, None)).collect()
    }

    /// Writes the outputs: whole or not at all.
    ///
    /// # Errors
    /// Where an input changes or cannot be read, an output exists or cannot be written, or a proof fails;
    /// then no output is there.
    pub fn write(&self, how: &Writing) -> Result<Vec<Report>> {
        let progress = how.progress.unwrap_or(&());
        let proof = proof(&self.model, how.proof, progress);
        let done = change::carry_proved(&self.model, &self.plans, how.commit, progress, &proof)?;
        let report = |(plan, done)| Report::new(&self.model, plan, Some(done));
        Ok(self.plans.iter().zip(&done).map(report).collect())
    }
}

/// Verifies files and folders: digests of lists beside them, public digests, and the structure of models.
pub fn verify(paths: &[PathBuf], options: &files::Options) -> files::Verification {
    files::verify(paths, options, &())
}
