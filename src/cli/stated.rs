//! Flags that say of a model what its file does not.

use std::path::PathBuf;

use crate::model::{Stated, rows::Standing};

/// What is known of a model beside what its file says.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "What the file does not say")]
pub struct StatedArgs {
    /// The epsilon of the norms [default: as stored, else LLaMA 1's 1e-6]
    #[arg(long, value_name = "X", value_parser = epsilon)]
    eps: Option<f32>,
    /// The context length in tokens [default: as stored, else LLaMA 1's 2048]
    #[arg(id = "stated-context", long = "context", alias = "ctx", value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..))]
    context: Option<u32>,
    /// The base of the rotary embeddings [default: as stored, else 10000]
    #[arg(long, value_name = "X", value_parser = positive)]
    rope_base: Option<f32>,
    /// The factor by which positions are scaled down (SuperHOT, LongChat) [default: as stored, else none]
    #[arg(long, value_name = "N", value_parser = positive)]
    rope_scale: Option<f32>,
    /// Take the vocabulary from this tokenizer.model or tokenizer.json, or from the one in this folder
    #[arg(long, alias = "vocab-dir", value_name = "FILE|DIR")]
    vocab: Option<PathBuf>,
    /// Fit a vocabulary to the rows of the embedding: add unused tokens, leave out those without a row
    #[arg(long)]
    pad_vocab: bool,
    /// Of an adapter: the model that it belongs to, which says how many heads there are and, run with it, how rows are ordered
    #[arg(long, value_name = "MODEL")]
    base: Option<PathBuf>,
    /// Of an old adapter: whether rows of queries and keys are as in Hugging Face's models or in ggml's
    /// [default: hf; ggml where norms are trained too, as llama.cpp's finetune does]
    #[arg(long, value_name = "ORDER")]
    rows: Option<Standing>,
}

impl StatedArgs {
    /// What they say.
    pub fn stated(&self) -> Stated {
        Stated {
            eps: self.eps,
            context: self.context,
            rope_base: self.rope_base,
            rope_scale: self.rope_scale,
            vocab: self.vocab.clone(),
            pad_vocab: self.pad_vocab,
            base: self.base.clone(),
            rows: self.rows,
        }
    }
}

/// A number above 0.
fn positive(text: &str) -> Result<f32, String> {
    let number = text.parse::<f32>().ok().filter(|n| *n > 0.0 && n.is_finite());
    number.ok_or_else(|| "a number above 0 is wanted, as 10000".to_owned())
}

/// A small number: what is added under a root lest it be 0.
fn epsilon(text: &str) -> Result<f32, String> {
    let small = positive(text).ok().filter(|n| *n < 1.0);
    small.ok_or_else(|| "a number between 0 and 1 is wanted, as 1e-5".to_owned())
}
