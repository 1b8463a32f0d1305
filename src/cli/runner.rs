//! What the verbs that run models share: opening one, reading a text by windows, the number of threads.

use std::path::{Path, PathBuf};

use super::{
    Globals,
    lora::LoraArgs,
    open::{ModelArg, OpenArgs},
    remark,
    stated::StatedArgs,
};
use crate::{
    bytes::{read_stdin, read_text},
    checkpoint::tokenizer::given,
    cli::advice,
    error::{Error, Result},
    infer::{Precision, Tokenizer, Weights},
    limits::Limits,
    model::{Hyper, loader::Content},
};

/// What a model is computed with.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct PrecisionArg {
    /// What weights are multiplied with: float32, or numbers rounded to 8 bits as llama.cpp rounds them
    #[arg(long, value_name = "exact|q8", value_enum, default_value_t, hide_possible_values = true)]
    pub activations: Precision,
}

/// What helps to read a model that is run.
#[derive(Clone, Debug, clap::Args)]
pub struct HintArgs {
    #[command(flatten)]
    open: OpenArgs,
    #[command(flatten)]
    stated: StatedArgs,
}

/// A model that is ready to run.
pub struct Loaded {
    /// Its weights.
    pub weights: Weights,
    /// Its vocabulary.
    pub tokenizer: Tokenizer,
    /// Its chat template.
    pub chat_template: Option<String>,
}

impl Loaded {
    /// Opens the model at `path`, read as the `hints` of a person say, with adapters over it, and remarks what was
    /// assumed.
    pub fn open(
        path: &Path,
        hints: &HintArgs,
        lora: &LoraArgs,
        precision: Precision,
        globals: &Globals,
    ) -> Result<Loaded> {
        let stated = &hints.stated.stated();
        let mut model = hints.open.open_any(path, stated)?;
        if let Some((what, taken)) = Content::of(&model).other() {
            let what = format!("{}: holds {what}, no model to run", path.display());
            return Err(Error::unsupported(what, taken));
        }
        if stated.has_numbers() {
            Hyper::of(&model, stated)?.amend(&mut model.metadata);
        }
        if let Some(path) = &stated.vocab {
            model.vocab = given::read(path, &Limits::DEFAULT)?;
        }
        lora.add_to(&mut model, stated)?;
        let weights = Weights::computed(&model, precision)?;
        let tokenizer = Tokenizer::of(&model)?;
        for note in model.notes.iter().chain(&weights.config.notes).chain(tokenizer.notes()) {
            remark(globals, &format!("note: {}", advice::note(note)));
        }
        Ok(Loaded { weights, tokenizer, chat_template: model.vocab.chat_template.clone() })
    }
}

/// A model and a text that it reads window by window.
#[derive(Debug, clap::Args)]
pub struct WindowArgs {
    #[command(flatten)]
    model: ModelArg,
    /// The text; `-` is standard input
    #[arg(short, long, value_name = "TEXT", required = true)]
    file: Option<PathBuf>,
    /// Tokens in a window [default: 512]
    #[arg(short, long = "ctx-size", value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub context: Option<u32>,
    /// Read only the first N windows
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    chunks: Option<u32>,
    #[command(flatten)]
    lora: LoraArgs,
    #[command(flatten)]
    pub precision: PrecisionArg,
}

impl WindowArgs {
    /// The model, and the tokens of the text.
    pub fn open(&self, hints: &HintArgs, globals: &Globals) -> Result<(Loaded, Vec<u32>)> {
        let path = self.model.path(globals)?;
        let loaded = Loaded::open(&path, hints, &self.lora, self.precision.activations, globals)?;
        let file = self.text()?;
        let text = if file.as_os_str() == "-" { read_stdin()? } else { read_text(file)? };
        let tokens = loaded.tokenizer.read(&text)?;
        Ok((loaded, tokens))
    }

    /// Where the text is.
    pub fn text(&self) -> Result<&Path> {
        self.file.as_deref().ok_or_else(|| Error::usage("which text?".to_owned()))
    }

    /// The tokens of one window.
    pub fn context(&self) -> u32 {
        self.context.unwrap_or(512)
    }

    /// The same, as a length.
    pub fn window(&self) -> usize {
        usize::try_from(self.context()).unwrap_or(usize::MAX)
    }

    /// The most windows to read.
    pub fn most(&self) -> usize {
        self.chunks.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX)
    }
}

/// Does `work` on `threads` threads where the verb's own `-t` was given.
pub fn with_threads<T: Send>(
    threads: Option<u16>,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    let Some(threads) = threads else { return work() };
    let threads = super::within_processors(Some(threads.into()));
    match rayon::ThreadPoolBuilder::new().num_threads(threads).build() {
        Ok(pool) => pool.install(work),
        // The system gives no more threads: those that are there do it.
        Err(_) => work(),
    }
}
