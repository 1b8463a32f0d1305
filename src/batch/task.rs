//! What a batch does to every model: the same library calls as the single commands.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::find::{Found, Kind};
use crate::change::choose::{
    ftype::FileType,
    mix::{self, TypeName},
};
use crate::change::{Plan, adapter, convert, quantize, upgrade};
use crate::check::pair::readings;
use crate::checkpoint;
use crate::container::{OpenOptions, imatrix::Importance};
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::model::{Model, Stated, loader::Content, lora};
use crate::remedy::{Call, Note, Remedy, Setting};

/// What is done to every model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "command", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Task {
    /// Bring old files to today's GGUF, same quant types.
    Upgrade,
    /// Quantize model files to one or more types.
    Quantize,
    /// Convert model files and checkpoints, as stored or to one or more types.
    Convert,
    /// Merge every adapter into the model that `--base` names, as stored or to one or more types.
    Merge,
    /// Check every model; write nothing.
    Verify,
    /// Put together what several machines made parts of.
    Join,
}

/// How it is done: everything that decides the outputs' bytes, and where they go.
///
/// All of it goes into a saved plan, and what changes bytes into receipts; how fast and how carefully a batch is worked
/// through is in [`super::run::Limits`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The quantization types, one output for each.
    pub types: Vec<String>,
    /// The container to write, as `gguf-v3`.
    pub to: Option<String>,
    /// The folder that mirrors the tree; beside the inputs otherwise.
    pub out: Option<PathBuf>,
    /// How outputs are named, without the ending: `{stem}` is the model's own name, `{name}` that of
    /// GGUF's convention (base, size, fine-tune, version), `{type}` the type of its weights.
    #[serde(default)]
    pub name: Option<String>,
    /// What is quantized already may be quantized again.
    pub allow_requantize: bool,
    /// Infinite and NaN weights are written as they are.
    #[serde(default)]
    pub keep_nan: bool,
    /// Imatrix data for quantizing: a file for every model, a folder with one for each, or a path with `{stem}`.
    #[serde(default)]
    pub imatrix: Option<PathBuf>,
    /// The type of tensors that there is no imatrix data for, where their own type needs it.
    #[serde(default)]
    pub fallback_type: Option<String>,
    /// Decode every row when verifying.
    pub deep: bool,
    /// What the person says of every model beside what its file says.
    #[serde(default)]
    pub stated: Stated,
    /// What files may ask for; a plan that is kept says nothing of it.
    #[serde(skip)]
    pub limits: Limits,
}

impl Settings {
    /// Whether the settings fit the task.
    ///
    /// # Errors
    /// What does not.
    ///
    /// Once for the whole batch: a thousand jobs that each fail with the same usage error help nobody.
    ///
    pub fn check(&self, task: Task) -> Result<()> {
        if !matches!(task, Task::Convert | Task::Merge) {
            self.file_types()?;
        }
        let fields = self.name.iter().flat_map(|name| name.split('{').skip(1));
        let known = ["stem}", "name}", "type}"];
        if fields.into_iter().any(|field| !known.iter().any(|known| field.starts_with(known))) {
            return Err(Error::usage("the fields of a name are {stem}, {name} and {type}"));
        }
        let wrong = match task {
            Task::Quantize if self.types.is_empty() => Note::new(
                "quantize has no types yet",
                Setting::Type.of("q4_0,q8_0").to("say one or more"),
            ),
            Task::Upgrade if !self.types.is_empty() => {
                "upgrade keeps the types: leave them unsaid".into()
            }
            Task::Quantize => return self.fallback_type().map(|_| ()),
            _ if self.imatrix.is_some() || self.fallback_type.is_some() => {
                "imatrix data, and types that stand in where it is missing, are for quantize".into()
            }
            Task::Merge if self.stated.base.is_none() => Note::new(
                "merge needs the model that the adapters belong to",
                Setting::Base.of("MODEL").to("name it"),
            ),
            Task::Join if !self.types.is_empty() || self.to.is_some() || self.out.is_some() => {
                "join does what the parts' receipts say: leave types, format and output unsaid"
                    .into()
            }
            Task::Verify if !self.types.is_empty() || self.out.is_some() => {
                "verify writes nothing: leave types and output unsaid".into()
            }
            _ => return Ok(()),
        };
        Err(Error::usage(wrong))
    }

    /// What is asked of an upgrade; where outputs go is the batch's to say.
    fn upgrade(&self) -> upgrade::Options {
        let (to, stated) = (self.to.clone(), self.stated.clone());
        upgrade::Options { to, stated, keep_nan: self.keep_nan, ..Default::default() }
    }

    /// Plans a conversion as `regguf convert` does.
    fn convert(&self, found: &Found) -> Result<(Model, Vec<Plan>)> {
        let model = match found.kind {
            Kind::Checkpoint => {
                let blocks = convert::keeps_blocks(&self.types, self.to.as_deref());
                self.checkpoint(&found.path, blocks)?
            }
            _ => self.model(Task::Convert, found)?,
        };
        self.converted(model, found)
    }

    /// Plans the merging of an adapter into the base as `regguf convert --lora` does.
    fn merge(&self, found: &Found) -> Result<(Model, Vec<Plan>)> {
        let adapter = self.model(Task::Merge, found)?;
        let mut model = self.base()?;
        adapter::add(&mut model, adapter, 1.0, self.stated.rows)?;
        self.converted(model, found)
    }

    /// The model that adapters are merged into. Only its headers are read.
    ///
    /// # Errors
    /// Where none is named, or it cannot be opened.
    pub fn base(&self) -> Result<Model> {
        let path = self.stated.base.as_deref().unwrap_or(Path::new(""));
        match checkpoint::is_checkpoint(path)? {
            true => self.checkpoint(path, false),
            false => adapter::base(path, &self.limits),
        }
    }

    /// A checkpoint, whose `blocks` of NVFP4 stay such or become floats.
    fn checkpoint(&self, path: &Path, blocks: bool) -> Result<Model> {
        let limits = self.limits;
        let options =
            checkpoint::Options { limits, blocks, ..checkpoint::Options::of(&self.stated) };
        checkpoint::open(path, &options)
    }

    /// Plans what a conversion makes of a model that is open; weights as stored where no type is named.
    fn converted(&self, model: Model, found: &Found) -> Result<(Model, Vec<Plan>)> {
        let auto = || vec!["auto".to_owned()];
        let options = convert::Options {
            types: if self.types.is_empty() { auto() } else { self.types.clone() },
            upgrade: self.upgrade(),
            folder: convert::folder_of(&found.path),
            allow_requantize: self.allow_requantize,
            importance: self.importance(found)?,
            fallback_type: self.fallback_type()?,
            ..Default::default()
        };
        convert::plan(model, &options)
    }

    /// The imatrix data of a model; none where no file is of its name.
    fn importance(&self, found: &Found) -> Result<Importance> {
        let file = self.imatrix_of(found)?;
        Ok(file.map(|file| Importance::read(&file, &self.limits)).transpose()?.unwrap_or_default())
    }

    /// The type that stands in for want of imatrix data, where one is named.
    fn fallback_type(&self) -> Result<Option<TypeName>> {
        let Some(word) = &self.fallback_type else { return Ok(None) };
        mix::fallback_type(word).map(Some).map_err(Error::usage)
    }

    fn model(&self, task: Task, found: &Found) -> Result<Model> {
        open_model(task, found, self.limits)
    }

    /// The types as llama-quantize knows them.
    fn file_types(&self) -> Result<Vec<FileType>> {
        self.types.iter().map(|word| FileType::parse(word)).collect()
    }
}

/// Opens a model, or an adapter for a task that takes adapters. Files that are read like models and are none are
/// passed over, with the reason.
///
/// # Errors
/// [`Error::Foreign`] for what is no model of this task: the job is then skipped, not failed.
fn open_model(task: Task, found: &Found, limits: Limits) -> Result<Model> {
    let takes_adapters = matches!(task, Task::Upgrade | Task::Merge);
    let adapter = || {
        ("is a LoRA adapter, not a model", Call::Batch.on("upgrade").to("bring an old one forward"))
    };
    let passed_over = |(what, next): (&str, Remedy)| {
        Err(Error::foreign(format!("{}: {what}", found.path.display()), next))
    };
    if found.kind == Kind::Adapter && !takes_adapters {
        return passed_over(adapter());
    }
    let options = OpenOptions { limits, ..OpenOptions::default() };
    let told = |error| readings::told(&found.path, &options, error);
    let model = adapter::open(&found.path, &options).map_err(told)?;
    passed_over(match Content::of(&model) {
        _ if lora::is_foreign(&model) && takes_adapters => return Ok(model),
        Content::Adapter if task == Task::Merge => return Ok(model),
        _ if task == Task::Merge => {
            ("is no LoRA adapter", Setting::Base.to("name the model that adapters are merged into"))
        }
        _ if lora::is_foreign(&model) => adapter(),
        Content::Adapter => ("is a LoRA adapter, not a model", "it is used as it is".into()),
        Content::ControlVector => {
            ("is a control vector, not a model", "it is used as it is".into())
        }
        Content::Imatrix => {
            ("is an importance matrix", Call::Quantize.on("").with(Setting::Imatrix).to("use it"))
        }
        _ if model.tensors.is_empty() => {
            ("holds a vocabulary only", Call::Upgrade.to("bring it forward by itself"))
        }
        _ => return Ok(model),
    })
}

impl Task {
    /// Its name, as typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Upgrade => "upgrade",
            Self::Quantize => "quantize",
            Self::Convert => "convert",
            Self::Merge => "merge",
            Self::Verify => "verify",
            Self::Join => "join",
        }
    }

    /// Whether it is done to models of this kind.
    ///
    /// | kind | upgrade | quantize, convert | merge | verify |
    /// |---|---|---|---|---|
    /// | a file, an adapter | yes | yes | yes | yes |
    /// | parts, shards | yes | yes | no | yes |
    /// | a checkpoint | no | yes | no | yes |
    /// | raw weights alone | no | no | no | yes |
    pub fn takes(self, kind: Kind) -> bool {
        match kind {
            Kind::Weights => self == Self::Verify,
            Kind::Adapter | Kind::File => true,
            _ if self == Self::Merge => false,
            Kind::Checkpoint => self != Self::Upgrade,
            _ => true,
        }
    }

    /// Opens a model and plans its outputs, one a type; `None` for a task that writes nothing.
    ///
    /// # Errors
    /// Where the model cannot be read or the outputs cannot be had.
    pub fn plans(self, settings: &Settings, found: &Found) -> Result<Option<(Model, Vec<Plan>)>> {
        if matches!(self, Self::Verify | Self::Join) {
            return Ok(None);
        }
        if self == Self::Merge {
            return settings.merge(found).map(Some);
        }
        if self == Self::Convert || found.kind == Kind::Checkpoint {
            return settings.convert(found).map(Some);
        }
        let model = settings.model(self, found)?;
        if settings.types.is_empty() {
            let (model, mut plan) = upgrade::plan(model, &settings.upgrade())?;
            // Nobody reads what is told of each of a thousand models.
            plan.tells_nan = false;
            return Ok(Some((model, vec![plan])));
        }
        let options = quantize::Options {
            types: settings.file_types()?,
            to: settings.to.clone(),
            stated: settings.stated.clone(),
            allow_requantize: settings.allow_requantize,
            keep_nan: settings.keep_nan,
            importance: settings.importance(found)?,
            fallback_type: settings.fallback_type()?,
            ..Default::default()
        };
        quantize::plan(model, &options).map(Some)
    }
}
