//! How the rows of queries and keys are in an old adapter, which its file cannot say: both orders are run.
//!
//! In the order in which it was trained an adapter changes its model as it was meant to; in the other it turns rows
//! of one position's frequency by another's, which spoils whatever is read.

use super::prove::{TEXT, TOKENS};
use crate::{
    error::Result,
    infer::{Precision, Tokenizer, outputs},
    model::{Adapter, Model, lora, rows::Standing, sum},
    remedy::{Note, Remedy, Setting},
};

/// What a text costs with an adapter in either order.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Orders {
    /// Perplexity with rows as in Hugging Face's models.
    pub hf: f64,
    /// Perplexity with rows as in ggml's models.
    pub ggml: f64,
}

impl Orders {
    /// Runs `base` with the adapter in either order; none where both are the same.
    ///
    /// # Errors
    /// Where the adapter does not fit, or the base cannot be run.
    pub fn of(adapter: &Model, base: &Model) -> Result<Option<Orders>> {
        let read = |rows| Ok(lora::in_gguf_terms(adapter.clone(), Some(base), Some(rows))?.0);
        let (hf, ggml): (Model, Model) = (read(Standing::Hf)?, read(Standing::Ggml)?);
        if hf.tensors == ggml.tensors {
            return Ok(None);
        }
        let with = |adapter: &Model| {
            let mut model = base.clone();
            sum::merge(&mut model, &Adapter::of(adapter)?, 1.0)?;
            Ok(model)
        };
        let (hf, ggml): (Model, Model) = (with(&hf)?, with(&ggml)?);
        let text = Tokenizer::of(base)?.sample(TEXT);
        let found = outputs::compare(&hf, &ggml, &text, TOKENS, Precision::Exact, &())?;
        Ok(Some(Orders { hf: found.first.value, ggml: found.second.value }))
    }

    /// The order in which the text costs less.
    pub fn better(&self) -> Standing {
        if self.ggml < self.hf { Standing::Ggml } else { Standing::Hf }
    }

    /// What was found, and what follows for an adapter that a person says is `taken` to be so.
    pub fn told(&self, taken: Option<Standing>) -> Note {
        let Orders { hf, ggml } = self;
        let name = |rows| if rows == Standing::Hf { "hf" } else { "ggml" };
        let better = name(self.better());
        let (verdict, next) = match taken.map(name) {
            Some(taken) if taken == better => {
                (format!("they are taken as {taken}"), Remedy::default())
            }
            Some(taken) => {
                let stated =
                    format!("they are ordered as {better}, and are taken as {taken}, as stated");
                (stated, Remedy::default())
            }
            None => {
                let means = [Setting::Rows.of(better), Setting::Prove.into()];
                (format!("they are ordered as {better}"), Remedy::any("take them so", means))
            }
        };
        let what = format!(
            "evidence: with the rows of queries and keys as hf the base has a perplexity of {hf:.3}, as ggml \
             {ggml:.3}: {verdict}"
        );
        Note::new(what, next)
    }
}
