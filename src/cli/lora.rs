//! `--lora` and `--delta`: what is added to the weights of a model.

use std::path::{Path, PathBuf};

use crate::{
    change::adapter,
    checkpoint::{self, easylm},
    container::OpenOptions,
    error::{Error, Result},
    model::{
        Model, Stated,
        difference::{self, NewRows},
    },
};

/// Which adapters.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct LoraArgs {
    /// Add a LoRA adapter of this model, SCALE times over [default: 1]; once more for each further one
    #[arg(long = "lora", value_name = "FILE[=SCALE]")]
    adapters: Vec<PathBuf>,
}

impl LoraArgs {
    /// Whether there are any.
    pub fn is_any(&self) -> bool {
        !self.adapters.is_empty()
    }

    /// Adds them to `model`, of which a person says what is `stated`.
    pub fn add_to(&self, model: &mut Model, stated: &Stated) -> Result<()> {
        for word in &self.adapters {
            let (path, times) = parts(word)?;
            let read = adapter::open(path, &OpenOptions::default())?;
            adapter::add(model, read, times, stated.rows)?;
        }
        Ok(())
    }
}

/// Which difference.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct DeltaArgs {
    /// Add a model's difference to IN, as Vicuna's, Alpaca's (folders) and Koala's (a file) were published; tokens and
    /// settings are those of the folder
    #[arg(long, value_name = "DIR|FILE")]
    pub delta: Option<PathBuf>,
    /// What was taken from the difference's rows of new tokens [default: zero for f16, the mean for f32]
    #[arg(long, value_name = "WHAT", requires = "delta")]
    new_rows: Option<NewRows>,
}

impl DeltaArgs {
    /// Whether the tokens and settings are those of the difference.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn has_tokens(&self) -> Result<bool> {
        self.delta.as_ref().map_or(Ok(false), |path| Ok(!easylm::is_streamed(path)?))
    }

    /// The sum, where a difference is given.
    pub fn added_to(&self, model: Model, stated: &Stated, dry_run: bool) -> Result<Model> {
        let Some(folder) = &self.delta else { return Ok(model) };
        if easylm::is_streamed(folder)? {
            return difference::added(model, easylm::open(folder)?);
        }
        let delta = checkpoint::open(folder, &checkpoint::Options::of(stated))?;
        let mut sum = difference::restore(delta, &model, self.new_rows)?;
        if !dry_run {
            sum.notes.extend(difference::published(&sum)?);
        }
        Ok(sum)
    }
}

/// The file and how many times over: what has no number after its last `=`, or exists so, is a name.
fn parts(word: &Path) -> Result<(&Path, f32)> {
    let Some((path, number)) = word.to_str().and_then(|word| word.rsplit_once('=')) else {
        return Ok((word, 1.0));
    };
    if word.exists() {
        return Ok((word, 1.0));
    }
    let times = number.parse::<f32>().ok().filter(|times| times.is_finite());
    let wrong = || Error::usage(format!("--lora {}: {number:?} is no scale", word.display()));
    Ok((Path::new(path), times.ok_or_else(wrong)?))
}
