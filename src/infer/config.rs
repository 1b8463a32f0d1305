//! The sizes and constants of a model, checked against each other before anything is computed.

use super::rope::Rope;
use crate::{
    error::{Error, Result},
    model::{Model, role::Symbols},
};

/// What the forward pass needs to know beside the weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Numbers in the residual stream, `n_embd`.
    pub width: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads: `heads`, or fewer in grouped-query attention.
    pub kv_heads: usize,
    /// Numbers in a head.
    pub head: usize,
    /// Tokens in the vocabulary.
    pub vocab: usize,
    /// Added under the root of RMS norm.
    pub epsilon: f32,
    /// Positions that the model was made for.
    pub context: usize,
    /// Experts that a token is sent to; 0 where there are none.
    pub experts_used: usize,
    /// Rotary position embedding.
    pub rope: Rope,
    /// What was assumed or is left out, as sentences.
    pub notes: Vec<String>,
}

/// Values that no file before GGUF stores; every loader of the time had them in its code.
const EPSILON: f32 = 1e-6;
const CONTEXT: usize = 2048;

impl Config {
    /// The sizes of `model`.
    ///
    /// # Errors
    /// Where the model is not of the LLaMA architecture, or a size is missing or does not fit others.
    pub fn new(model: &Model) -> Result<Config> {
        let architecture = model.metadata.str("general.architecture").unwrap_or("llama");
        if architecture != "llama" || model.family != "llama" {
            let what = if architecture == "llama" { model.family.as_str() } else { architecture };
            return Err(Error::unsupported(
                format!("the runner computes the LLaMA architecture; this model is {what:?}"),
                "inspect and upgrade work without running",
            ));
        }
        let mut notes = Vec::new();
        let symbols = Symbols::of(model);
        let size = |name: &str, most: u64| -> Result<usize> {
            let found = symbols.get(name);
            found.filter(|v| (1..=most).contains(v)).and_then(|v| v.try_into().ok()).ok_or_else(
                || {
                    let found = found.map_or("not said".to_owned(), |v| v.to_string());
                    let what = format!("{name} is {found}; the runner takes 1 to {most}");
                    Error::unsupported(what, "check the file with regguf verify")
                },
            )
        };
        let number = |key: &str| model.metadata.u64(&format!("llama.{key}"));
        let (width, heads) = (size("n_embd", 1 << 20)?, size("n_head", 1 << 16)?);
        let (layers, kv_heads) = (size("n_layer", 1 << 12)?, size("n_head_kv", 1 << 16)?);
        let stated = number("attention.key_length").and_then(|v| v.try_into().ok());
        let head = stated.unwrap_or(width / heads);
        if head == 0 || head % 2 != 0 || !heads.is_multiple_of(kv_heads) {
            let what = format!("{heads} heads of {head} over {kv_heads} key heads do not fit");
            return Err(Error::unsupported(what, "check the file with regguf verify"));
        }
        let epsilon = model.metadata.f32("llama.attention.layer_norm_rms_epsilon");
        if epsilon.is_none() {
            notes.push(format!(
                "the file does not say the epsilon of its norm; {EPSILON:e} is taken"
            ));
        }
        if let Some(window) = number("attention.sliding_window") {
            notes.push(format!(
                "attention reaches over the whole context; the model was made for the last {window} \
                 tokens"
            ));
        }
        let experts_used = match number("expert_count").unwrap_or(0) {
            0 => 0,
            count => number("expert_used_count").unwrap_or(2).min(count),
        };
        Ok(Config {
            width,
            layers,
            heads,
            kv_heads,
            head,
            vocab: size("n_vocab", 1 << 24)?,
            epsilon: epsilon.unwrap_or(EPSILON),
            context: number("context_length").and_then(|v| v.try_into().ok()).unwrap_or(CONTEXT),
            experts_used: usize::try_from(experts_used).unwrap_or(0),
            rope: Rope::new(&model.metadata, head)?,
            notes,
        })
    }
}
