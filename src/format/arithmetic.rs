//! What a family computes with its tensors: a choice for each part of a decoder.
//!
//! Decoder families differ in a few independent choices. Each is a closed set here, and each value is one
//! function of the runner; a description picks. What a file itself shows is not said: a second norm, norms of queries and
//! keys, biases, learned positions and fewer key heads are there where their tensors or keys are.

use serde::Deserialize;

/// The choices of a family, `[arithmetic]` in `formats/family/*.toml`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Arithmetic {
    /// What is before each part of a layer and before the logits.
    pub norm: Norm,
    /// How the parts of a layer meet the stream.
    pub residual: Residual,
    /// Where queries, keys and values come from.
    pub attention: Attention,
    /// How attention learns of positions.
    pub position: Position,
    /// Where the one model with N layers has slopes in place of these positions.
    #[serde(default)]
    pub slopes: Option<Slopes>,
    /// What follows attention.
    pub mlp: Mlp,
    /// What becomes of a token's vector before the first layer.
    #[serde(default)]
    pub embedding: Embedding,
    /// What the key `logit_scale` does to the logits.
    #[serde(default)]
    pub logits: Logits,
    /// Of N layers the last does not turn queries and keys; 0 where all do.
    #[serde(default)]
    pub unturned: usize,
    /// What queries of layers that do not turn are multiplied with far from the beginning.
    #[serde(default)]
    pub growth: Option<Growth>,
    /// Which layers look back over a window only.
    #[serde(default)]
    pub windows: Windows,
    /// Whether the bounds between which `yarn` goes from leaving a pair to dividing it lie between pairs; they are
    /// whole pairs where not.
    #[serde(default)]
    pub yarn_between: bool,
}

/// By how much queries grow, a step after every N tokens: `1 + by * ln(1 + floor((position + 1) / every))`.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Growth {
    /// Tokens of a step.
    pub every: usize,
    /// What the logarithm is multiplied with.
    pub by: f32,
}

impl Growth {
    /// What the query at `position` is multiplied with.
    #[expect(clippy::cast_possible_truncation, reason = "rounded, as llama.cpp has it")]
    pub fn at(self, position: usize) -> f32 {
        let steps = (position + 1) / self.every.max(1);
        1.0 + self.by * libm::log1p(steps as f64) as f32
    }
}

/// Which layers look back over the last tokens only, as many as the key `attention.sliding_window` says, a
/// token's own counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Windows {
    /// None.
    #[default]
    None,
    /// All but the last of N. Where the key `rope.freq_base_swa` is, they turn by that base, and by
    /// no stretched angles.
    AllButLastOf(usize),
    /// The same layers see what is in one chunk of N tokens with a token, whatever keys say.
    Chunks {
        /// N.
        but_last_of: usize,
        /// Tokens of a chunk.
        tokens: usize,
    },
}

impl Windows {
    /// Whether layer `n` is one of them.
    pub fn covers(self, n: usize) -> bool {
        match self {
            Windows::None => false,
            Windows::AllButLastOf(layers) | Windows::Chunks { but_last_of: layers, .. } => {
                !(n + 1).is_multiple_of(layers)
            }
        }
    }
}

/// What the key `logit_scale` does to the logits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Logits {
    /// Nothing: there is no such key.
    #[default]
    Plain,
    /// They are multiplied with it.
    Multiplied,
    /// They are divided by it.
    Divided,
}

/// What becomes of a token's vector before the first layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Embedding {
    /// It is taken as it is.
    #[default]
    Plain,
    /// It is multiplied with the root of its length.
    Scaled,
}

/// How a vector is brought to one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Norm {
    /// `x / sqrt(mean(x²) + epsilon) * weight`.
    Rms,
    /// `(x - mean(x)) / sqrt(variance(x) + epsilon) * weight + bias`.
    Layer,
}

impl Norm {
    /// The GGUF key of its epsilon, behind the architecture.
    pub fn epsilon_key(self) -> &'static str {
        match self {
            Norm::Rms => "attention.layer_norm_rms_epsilon",
            Norm::Layer => "attention.layer_norm_epsilon",
        }
    }
}

/// How the two parts of a layer meet the stream.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Residual {
    /// `x += attention(norm(x))`, then `x += mlp(norm(x))`.
    Sequential,
    /// `x += attention(norm(x)) + mlp(norm(x))`: both see the same `x`, through one norm or two.
    Parallel,
    /// Parallel where the key of this name, behind the architecture, is true.
    ParallelIf(String),
    /// Parallel where layers have one norm, sequential where they have two.
    ParallelIfOneNorm,
    /// `x = norm(x + attention(x))`, then `x = norm(x + mlp(x))`; no norm follows the last layer.
    AfterNorm,
}

/// Where queries, keys and values come from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Attention {
    /// From three matrices or from one.
    pub qkv: Qkv,
    /// The key, behind the architecture, of a bound for queries, keys and values.
    #[serde(default)]
    pub clamp: Option<String>,
    /// The number of layers of the one model whose scores are scaled by the width over the heads, not by
    /// the length of a head.
    #[serde(default)]
    pub scale_of_width: Option<usize>,
    /// Whether queries and keys are brought to one size by themselves after they turned, in models of another number of
    /// experts than this.
    #[serde(default)]
    pub even_unless_experts: Option<u64>,
    /// Whether keys and values of all heads are made of one short vector of each token, which is what is kept.
    #[serde(default)]
    pub latent: bool,
    /// Whether each token sees those behind it too: the model makes a vector of a text and no next token.
    #[serde(default)]
    pub whole_text: bool,
}

/// The matrices of queries, keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Qkv {
    /// One each.
    Separate,
    /// One: all rows of queries, then of keys, then of values.
    Joined,
    /// One where the file has it, else three.
    Either,
}

/// How attention learns of positions.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Position {
    /// Pairs of a query's and a key's numbers turn by angles that grow with the position. Which two
    /// numbers are a pair is said here; how many turn, the key `rope.dimension_count` says.
    Rotary(Pairs),
    /// A vector for each position is added to the token's.
    Learned,
    /// There is no attention: each layer keeps a state into which the past fades, as RWKV v4's do, and its two
    /// parts mix each vector with the one before it.
    Recurrent,
    /// Scores fall with the distance, in each head by its own slope.
    Alibi {
        /// The largest exponent of a slope where no key `attention.max_alibi_bias` says it.
        most: f32,
    },
}

/// Slopes of one model of a family whose others turn.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Slopes {
    /// Its layers.
    pub layers: usize,
    /// The largest exponent of a slope.
    pub most: f32,
}

/// Which two numbers of a head turn together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Pairs {
    /// `2i` and `2i + 1`.
    Neighbours,
    /// `i` and `i + dims / 2`.
    Halves,
}

/// What follows attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Mlp {
    /// With a gate or without.
    pub kind: MlpKind,
    /// The function between its matrices.
    pub activation: Activation,
    /// By which shares the results of a token's experts are added.
    #[serde(default)]
    pub shares: Shares,
}

/// By which shares the results of a token's experts are added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Shares {
    /// The softmax over the scores of the chosen experts.
    #[default]
    OfChosen,
    /// The softmax over the scores of all experts.
    OfAll,
    /// Of each `1 / (1 + e^-score)`, with which not the results are multiplied but what the expert sees.
    Before,
}

/// With a gate or without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MlpKind {
    /// `down(activation(gate(x)) * up(x))`.
    Gated,
    /// The same with one matrix for both: all rows of the gate, then of `up`, under the name of `up`.
    GatedJoined,
    /// `down(activation(up(x)))`.
    Plain,
}

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Activation {
    /// `x / (1 + e^-x)`.
    Silu,
    /// `x / 2 * (1 + tanh(sqrt(2/π) * (x + 0.044715 x³)))`.
    GeluTanh,
    /// `x / 2 * (1 + erf(x / sqrt(2)))`, of which the other is an approximation.
    GeluErf,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)²`.
    Relu2,
    /// `x / (1 + e^(-1.702 x))` of `min(x, 7)`; what it is multiplied with is kept within 7 of zero, and one is added
    /// to it.
    SiluBounded,
}
