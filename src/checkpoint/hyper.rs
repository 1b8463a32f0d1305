//! The hyperparameters of a LLaMA-like model, from wherever a checkpoint states them, and the GGUF
//! keys that hold them, in the order of llama.cpp's converter.
//!
//! Compare: llama.cpp, conversion/base.py: set_gguf_parameters, conversion/llama.py.

use crate::model::{Metadata, Symbols, Value};

/// What decides a model's shapes and arithmetic.
#[derive(Clone, Debug, PartialEq)]
pub struct Hyper {
    /// Number of layers.
    pub layers: u32,
    /// Tokens that it was trained to attend over.
    pub context: Option<u32>,
    /// Width of the residual stream.
    pub width: u32,
    /// Width of the feed-forward layers.
    pub feed_forward: u32,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads.
    pub kv_heads: u32,
    /// Rows of one head.
    pub head_dim: u32,
    /// Whether `head_dim` is stated and not the quotient of width and heads.
    pub states_head_dim: bool,
    /// Experts of a layer and how many of them a token takes, in Mixtral.
    pub experts: Option<(u32, u32)>,
    /// Rows of the token embedding.
    pub vocab: u32,
    /// Epsilon of the RMS norm.
    pub eps: f32,
    /// Base of the rotary frequencies, where stated.
    pub rope_base: Option<f32>,
    /// How rotary frequencies are stretched.
    pub scaling: Scaling,
}

/// Ways to stretch rotary frequencies over longer texts.
#[derive(Clone, Debug, PartialEq)]
pub enum Scaling {
    /// Not at all.
    None,
    /// All by one factor.
    Linear(f32),
    /// By frequency, with optional fine tuning under GGUF's names after `rope.scaling.`.
    Yarn {
        /// The factor of the lowest frequencies.
        factor: f32,
        /// Context before stretching.
        original: u32,
        /// Further parameters.
        more: Vec<(&'static str, f32)>,
    },
    /// LLaMA 3.1's rule, stored as a tensor of divisors.
    Llama3 {
        /// The divisor of the lowest frequencies.
        factor: f64,
        /// Wavelengths above `original / low` are divided by `factor`.
        low: f64,
        /// Wavelengths below `original / high` are left alone.
        high: f64,
        /// Context before stretching.
        original: f64,
    },
}

impl Hyper {
    /// The symbols in which the family gives the shapes of tensors.
    pub fn symbols(&self) -> Symbols {
        Symbols {
            n_vocab: Some(self.vocab.into()),
            n_embd: Some(self.width.into()),
            n_head: Some(self.heads.into()),
            n_head_kv: Some(self.kv_heads.into()),
            n_layer: Some(self.layers.into()),
            n_ff: Some(self.feed_forward.into()),
            n_expert: self.experts.map(|(n, _)| n.into()),
            n_rot: Some(self.head_dim.into()),
        }
    }

    /// Writes the keys.
    pub fn write(&self, metadata: &mut Metadata, file_type: u32) {
        let mut set = |key: &str, value: Value| metadata.set(format!("llama.{key}"), value);
        set("block_count", self.layers.into());
        if let Some(context) = self.context {
            set("context_length", context.into());
        }
        set("embedding_length", self.width.into());
        set("feed_forward_length", self.feed_forward.into());
        set("attention.head_count", self.heads.into());
        set("attention.head_count_kv", self.kv_heads.into());
        match &self.scaling {
            Scaling::None | Scaling::Llama3 { .. } => {}
            Scaling::Linear(factor) => {
                set("rope.scaling.type", "linear".into());
                set("rope.scaling.factor", (*factor).into());
            }
            Scaling::Yarn { factor, original, more } => {
                set("rope.scaling.type", "yarn".into());
                set("rope.scaling.factor", (*factor).into());
                set("rope.scaling.original_context_length", (*original).into());
                for (key, value) in more {
                    set(&format!("rope.scaling.{key}"), (*value).into());
                }
            }
        }
        if let Some(base) = self.rope_base {
            set("rope.freq_base", base.into());
        }
        set("attention.layer_norm_rms_epsilon", self.eps.into());
        if let Some((count, used)) = self.experts {
            set("expert_count", count.into());
            set("expert_used_count", used.into());
        }
        if self.states_head_dim {
            set("attention.key_length", self.head_dim.into());
            set("attention.value_length", self.head_dim.into());
        }
        metadata.set("general.file_type", file_type);
        metadata.set("llama.vocab_size", self.vocab);
        metadata.set("llama.rope.dimension_count", self.head_dim);
    }

    /// The divisors of the rotary frequencies, one for each pair of rows of a head, where the scaling
    /// is stored as a tensor.
    ///
    /// ```text
    /// f = 1 / base^(2i / head_dim)      w = 2π / f
    /// w < original / high               1
    /// w > original / low                factor
    /// else                              1 / ((1 - s) / factor + s),  s = (original / w - low) / (high - low)
    /// ```
    #[expect(clippy::cast_possible_truncation, reason = "the converter rounds to f32 here")]
    pub fn rope_divisors(&self) -> Option<Vec<f32>> {
        let Scaling::Llama3 { factor, low, high, original } = self.scaling else { return None };
        let base = f64::from(self.rope_base.unwrap_or(10_000.0));
        let dim = f64::from(self.head_dim);
        let divisor = |i: u32| {
            // The converter computes in f32 from here on, and divides by multiplying with reciprocals.
            let frequency = (base.powf(f64::from((f64::from(2 * i) / dim) as f32)) as f32).recip();
            let wavelength = frequency.recip() * std::f32::consts::TAU;
            if f64::from(wavelength) < original / high {
                1.0
            } else if f64::from(wavelength) > original / low {
                factor as f32
            } else {
                let s = (wavelength.recip() * original as f32 - low as f32) / (high - low) as f32;
                ((1.0 - s) / factor as f32 + s).recip()
            }
        };
        Some((0..self.head_dim / 2).map(divisor).collect())
    }
}
