//! What a batch will do, model by model, before it does anything.
//!
//! A plan is data: it can be printed, saved, and run unchanged on another day or machine.
//!
//! ```text
//! find                models below the roots, in the order of their names
//! Task::plans         of each what the single command would do, its headers read, no weight
//! names               beside the model or at its place below --out; never an input's, never another output's
//! Job                 size, time, what is lost, or why it is passed over, or what is wrong with it
//! ```
//!
//! What is wrong with one model is no error of the plan: it is told with the job, and the job fails when its turn
//! comes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::find::{Found, Kind, Outputs, find};
use super::job::{Job, MOVED_PER_SECOND, Output};
use super::join;
use super::receipt::TOOL;
use super::task::{Settings, Task};
use crate::bytes::Input;
use crate::change::output::{named_for, stem_of_model};
use crate::change::{Act, Loss, Plan, convert};
use crate::checkpoint::card;
use crate::container;
use crate::error::{Error, Result};
use crate::remedy::Note;
use crate::size::counted;

/// Bytes of the output that are encoded in a second: a rough figure, for the estimate of a plan only.
const ENCODED_PER_SECOND: f64 = 40e6;

/// A whole batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BatchPlan {
    /// The version of this structure.
    pub schema_version: u32,
    /// The program that made it.
    pub tool: String,
    /// What is done to every model.
    pub task: Task,
    /// How.
    pub settings: Settings,
    /// The jobs, in the order of the models' names.
    pub jobs: Vec<Job>,
}

impl BatchPlan {
    /// Finds the models below `roots` and plans the task for each.
    ///
    /// # Errors
    /// Where a folder cannot be listed or the settings are wrong; what is wrong with one model is
    /// in its job.
    pub fn make(task: Task, settings: Settings, roots: &[PathBuf]) -> Result<Self> {
        settings.check(task)?;
        if task == Task::Join {
            let jobs = join::jobs(roots)?;
            return Ok(Self { schema_version: 1, tool: TOOL.to_owned(), task, settings, jobs });
        }
        let outputs = if task == Task::Verify { Outputs::Found } else { Outputs::PassedOver };
        let found = find(roots, outputs, &settings.limits)?
            .into_iter()
            .filter(|model| task.takes(model.kind));
        let mut found: Vec<Found> = found.collect();
        if task == Task::Merge {
            let base = settings.base()?;
            let files: Vec<PathBuf> =
                base.sources().into_iter().map(|file| file.path().to_owned()).collect();
            found.iter_mut().for_each(|adapter| adapter.with(&files));
        }
        for model in &mut found {
            if let Some(file) = settings.imatrix_of(model)? {
                model.with(&[file]);
            }
        }
        let inputs: BTreeSet<PathBuf> = found.iter().flat_map(|m| m.files.clone()).collect();
        let mut named = BTreeSet::new();
        let mut jobs = Vec::new();
        for model in found {
            let mut job = plan_job(task, &settings, model);
            for output in &mut job.outputs {
                let free = |path: &Path| !inputs.contains(path) && !named.contains(path);
                output.path = job.model.output_path(output, &settings, free);
                named.insert(output.path.clone());
            }
            jobs.push(job);
        }
        Ok(Self { schema_version: 1, tool: TOOL.to_owned(), task, settings, jobs })
    }
}

/// What a batch will do with one model, or why it cannot.
///
/// Its outputs have names without a folder and an ending yet: [`Found::output_path`] gives them places, when all inputs
/// are known.
fn plan_job(task: Task, settings: &Settings, model: Found) -> Job {
    let mut job = Job {
        model,
        from: String::new(),
        outputs: Vec::new(),
        seconds: 0.0,
        risk: String::new(),
        skip: None,
        problem: None,
    };
    match task.plans(settings, &job.model) {
        Err(error @ Error::Foreign { .. }) => job.skip = Some(Note::from(&error)),
        Err(error) => job.problem = Some(Note::from(&error)),
        Ok(None) => {
            job.seconds = job.model.bytes as f64 / MOVED_PER_SECOND;
            "reads only".clone_into(&mut job.risk);
        }
        Ok(Some((model, plans))) => {
            job.from.clone_from(&model.format);
            if matches!(task, Task::Upgrade | Task::Convert)
                && plans.iter().all(|plan| is_same(&model, plan))
            {
                job.skip = Some(format!("is {} already", model.format).into());
                return job;
            }
            job.seconds = plans.iter().map(seconds).sum();
            job.risk = risk(&plans, settings);
            if settings.imatrix.is_some()
                && settings.imatrix_of(&job.model).is_ok_and(|f| f.is_none())
            {
                job.risk += ", no imatrix file of its name";
            }
            let kinds = settings.types.iter().map(|kind| {
                // What is kept as stored has no type to be named after.
                Some(kind.to_uppercase()).filter(|kind| kind != "AUTO")
            });
            let kinds: Vec<Option<String>> = kinds.chain([None]).collect();
            job.outputs = plans
                .iter()
                .zip(&kinds)
                .map(|(plan, kind)| Output {
                    path: job.model.base(task, settings, plan, kind.as_deref()).into(),
                    kind: kind.clone(),
                    to: plan.target.id().to_owned(),
                    bytes: plan.layout.total,
                })
                .collect();
        }
    }
    job
}

/// Whether a plan would write what is there already.
/// One file, of the same format, with nothing mended, no key changed and every tensor copied.
fn is_same(model: &crate::model::Model, plan: &Plan) -> bool {
    model.format == plan.target.id()
        && model.files.iter().flat_map(Input::sources).count() == 1
        && !container::upgrade_mends(model)
        && plan.metadata == model.metadata
        && plan.steps.iter().all(|step| matches!(step.act, Act::Copy))
}

/// How long a plan takes at the speeds above, one step after the other.
fn seconds(plan: &Plan) -> f64 {
    let per_second = |act: &Act| match act {
        Act::Recode { .. } => ENCODED_PER_SECOND,
        _ => MOVED_PER_SECOND,
    };
    plan.steps.iter().map(|step| step.bytes() as f64 / per_second(&step.act)).sum()
}

/// What the plans lose and assume, in some words for a column: `16 tensors rounded, 4 values assumed`.
fn risk(plans: &[Plan], settings: &Settings) -> String {
    let count = |loss: Loss| {
        plans.iter().flat_map(|plan| &plan.steps).filter(|step| step.loss() == loss).count()
    };
    let mut parts = Vec::new();
    match (count(Loss::Rounded), count(Loss::Recoded)) {
        (0, 0) => parts.push("exact".to_owned()),
        (rounded, recoded) => {
            let told = [(rounded, "rounded"), (recoded, "encoded")];
            let said =
                |(n, what): &(usize, &str)| format!("{} {what}", counted(*n, "tensor", "tensors"));
            parts.extend(told.iter().filter(|(n, _)| *n > 0).map(said));
        }
    }
    let assumed = plans.iter().map(|plan| plan.assumed.len()).max().unwrap_or(0);
    if assumed > 0 {
        parts.push(format!("{} assumed", counted(assumed, "value", "values")));
    }
    let stand_ins: usize = plans.iter().map(|plan| plan.stand_ins).sum();
    if let Some(kind) = settings.fallback_type.as_ref().filter(|_| stand_ins > 0) {
        parts.push(format!("{stand_ins} of them {kind} for want of imatrix data"));
    }
    parts.join(", ")
}

impl Found {
    /// Where an output goes: beside the model, or at the same place below `--out`; named after it.
    ///
    /// ```text
    /// models/a/7b.bin, --out new    new/a/7b.gguf
    ///                               new/a/7b.gguf-v3.gguf        where the name before is that of an input
    ///                               new/a/7b.bin.gguf-v3.gguf    or of another output
    ///                               new/a/7b-2.gguf, -3, …
    /// ```
    ///
    /// Where a type was asked for its name stands there in place of the format's: `7b-Q4_0`, `7b.bin-Q4_0`.
    fn output_path(
        &self,
        output: &Output,
        settings: &Settings,
        free: impl Fn(&Path) -> bool,
    ) -> PathBuf {
        let folder = match self.kind {
            Kind::Checkpoint => self.path.clone(),
            _ => self.path.parent().unwrap_or(Path::new("")).to_path_buf(),
        };
        let folder = match &settings.out {
            Some(out) => out.join(folder.strip_prefix(&self.root).unwrap_or(&folder)),
            None => folder,
        };
        let ending = if output.to.starts_with("gguf") { "gguf" } else { "bin" };
        let base = output.path.display().to_string();
        let whole = self.path.file_name().unwrap_or_default().to_string_lossy();
        // Several models of a folder may be one but for how they are stored.
        let (stem, told) = match &output.kind {
            Some(kind) => (self.stem(), format!("-{kind}")),
            None => (base.clone(), format!(".{}", output.to)),
        };
        let (longer, longest) = (format!("{stem}{told}"), format!("{whole}{told}"));
        let numbered = (2..).map(|n| format!("{base}-{n}"));
        let names = [base.clone(), longer, longest].into_iter().chain(numbered);
        let mut paths = names.map(|name| folder.join(format!("{name}.{ending}")));
        paths.find(|path| free(path)).unwrap_or_default()
    }

    /// The name of an output without the ending: by the template that a person gave, or as the task names by itself. A
    /// template makes no folders.
    fn base(&self, task: Task, settings: &Settings, plan: &Plan, kind: Option<&str>) -> String {
        let stem = match (task, self.kind, self.path.parent()) {
            // Every adapter of PEFT has the same name in a folder of its own.
            (Task::Merge, Kind::Adapter, Some(folder)) => stem_of(folder),
            _ => self.stem(),
        };
        let encoding = kind.unwrap_or_else(|| convert::encoding(plan));
        let template = match (&settings.name, self.kind) {
            (Some(template), _) => template,
            (None, _) if task == Task::Merge => "{stem}-{type}",
            (None, Kind::Checkpoint) => "{name}-{type}",
            (None, _) => return kind.map_or(stem.clone(), |kind| named_for(&stem, kind)),
        };
        let name = card::file_name(&plan.metadata, "");
        let base = template.replace("{stem}", &stem).replace("{name}", name.trim_end_matches('-'));
        base.replace("{type}", encoding).trim_end_matches('-').replace(['/', '\\'], "-")
    }

    /// Its name without what says how it is stored.
    pub(super) fn stem(&self) -> String {
        match self.kind {
            Kind::Checkpoint => stem_of(&self.path),
            _ => stem_of_model(&self.path),
        }
    }
}

/// The last part of a path, also where it is given as `.`.
fn stem_of(path: &Path) -> String {
    let place = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    place.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
