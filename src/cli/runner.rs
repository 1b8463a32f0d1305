//! What the verbs that run models share: opening one, and the number of threads.

use std::path::Path;

use super::{Globals, remark};
use crate::{
    checkpoint,
    container::{self, OpenOptions},
    error::{Error, Result},
    infer::{Tokenizer, Weights},
};

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
    /// Opens the model at `path` and remarks what was assumed.
    pub fn open(path: &Path, globals: &Globals) -> Result<Loaded> {
        let model = match checkpoint::is_checkpoint(path)? {
            true => checkpoint::open(path, &checkpoint::Options::default())?,
            false => container::open(path, &OpenOptions::default())?,
        };
        let weights = Weights::new(&model)?;
        let tokenizer = Tokenizer::new(&model.vocab)?;
        for note in model.notes.iter().chain(&weights.config.notes).chain(tokenizer.notes()) {
            remark(globals, &format!("note: {note}"));
        }
        Ok(Loaded { weights, tokenizer, chat_template: model.vocab.chat_template.clone() })
    }
}

/// Does `work` on `threads` threads where the verb's own `-t` was given.
pub fn with_threads<T: Send>(
    threads: Option<u16>,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    let Some(threads) = threads else { return work() };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.into()).build();
    let pool = pool.map_err(|e| Error::Usage(format!("-t {threads}: {e}")))?;
    pool.install(work)
}
