//! What a person may say of a checkpoint beforehand.

use crate::{limits::Limits, model::Stated};

/// What the person asked for.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What becomes of a vocabulary that does not fit the rows of the embedding.
    pub misfit: Misfit,
    /// Tensors whose names it finds are left out.
    pub drop: Option<regex::Regex>,
    /// The epsilon of the norms, where no file states one.
    pub eps: Option<f32>,
    /// The context length in tokens, where no file states one.
    pub context: Option<u32>,
    /// Whether matrices of NVFP4 become GGUF's blocks of that, each with its factor beside it, and not floats.
    pub blocks: bool,
    /// What the files may ask for.
    pub limits: Limits,
}

impl Options {
    /// How a checkpoint is read of which a person says this.
    pub fn of(stated: &Stated) -> Options {
        let misfit = match (&stated.vocab, stated.pad_vocab) {
            (Some(_), _) => Misfit::Leave,
            (None, true) => Misfit::Mend,
            (None, false) => Misfit::Refuse,
        };
        let (eps, context) = (stated.eps, stated.context);
        Options { misfit, eps, context, ..Options::default() }
    }
}

/// What becomes of a vocabulary that does not fit the rows of the embedding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Misfit {
    /// It is an error.
    #[default]
    Refuse,
    /// Unused tokens are added, tokens without a row left out.
    Mend,
    /// Nothing: whoever asked looks at it.
    Leave,
}
