//! The sizes and choices of a model, checked against each other before anything is computed.
//!
//! Sizes come from GGUF's keys (`llama.embedding_length`), which a model of any older container has been given; what
//! the model has in common with its family comes from the `[arithmetic]` of `formats/family/*.toml`. A size that is
//! missing and cannot be measured from a tensor is an error, or assumed aloud, in [`Config::notes`].

use super::{layer::position::slopes, numbers::Numbers, rope::Rope};
use crate::{
    error::{Error, Result},
    format::{
        arithmetic::{
            self, Activation, Arithmetic, Embedding, Growth, Logits, MlpKind, Norm, Pairs, Qkv,
            Residual, Shares, Windows,
        },
        family::Family,
    },
    model::{Hyper, Model, Stated},
    remedy::{Call, Notes},
};

/// What the forward pass needs to know beside the weights.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// Numbers in the residual stream, `n_embd`.
    pub width: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads.
    /// `attention.head_count`.
    pub heads: usize,
    /// Key and value heads: `heads`, or fewer in grouped-query attention.
    /// `attention.head_count_kv`; where no file says it, the rows of the key matrix over `head`.
    pub kv_heads: usize,
    /// Numbers in a head.
    /// `attention.key_length`, or `width / heads`.
    pub head: usize,
    /// Tokens in the vocabulary.
    pub vocab: usize,
    /// Positions that the model was made for.
    /// `context_length`. A session may have more or fewer.
    pub context: usize,
    /// Which norm.
    pub norm: Norm,
    /// Added under the root of the norm.
    /// `attention.layer_norm_rms_epsilon` or `attention.layer_norm_epsilon`.
    pub epsilon: f32,
    /// What a token's vector is multiplied with.
    pub embedding_scale: f32,
    /// What scores of attention are multiplied with.
    /// `1 / sqrt(head)`, unless a key or the family says otherwise.
    pub attention_scale: f32,
    /// What both parts of a layer are multiplied with before they meet the stream.
    pub residual_scale: f32,
    /// What logits are multiplied with.
    pub logit_scale: f32,
    /// The bound that scores of attention come near and never reach; infinity for none.
    pub attention_cap: f32,
    /// The same of logits.
    pub logit_cap: f32,
    /// Of N layers the last does not turn queries and keys; 0 where all do.
    pub unturned: usize,
    /// What queries of those layers are multiplied with far from the beginning.
    pub growth: Option<Growth>,
    /// Whether queries and keys are brought to one size after they turned.
    pub even: bool,
    /// Which layers look back over `window` tokens only.
    pub windows: Windows,
    /// Tokens in a window, the looking one counted; at least one.
    pub window: usize,
    /// Whether both parts of a layer see the same stream.
    pub parallel: bool,
    /// Whether norms follow the parts of a layer instead of going before them.
    pub norm_after: bool,
    /// Whether each token sees those behind it too, so that what comes out is vectors and no next token.
    pub whole_text: bool,
    /// Whether queries, keys and values come from one matrix.
    pub joined: bool,
    /// The bound of queries, keys and values; infinity for none.
    pub clamp: f32,
    /// How attention learns of positions.
    pub position: Position,
    /// Whether the feed-forward part has a gate.
    pub mlp: MlpKind,
    /// The function in it.
    pub activation: Activation,
    /// By which shares the results of experts are added.
    pub shares: Shares,
    /// Experts that a token is sent to; 0 where there are none.
    pub experts_used: usize,
    /// How they are chosen, where keys say it.
    pub routing: Routing,
    /// Whether all heads make keys and values of one short vector.
    pub latent: bool,
    /// What was assumed or is left out, as sentences.
    pub notes: Notes,
}

/// How a token's experts are chosen, and what their shares become.
///
/// ```text
/// scores      softmax over all experts, or a sigmoid of each
/// choice      the groups with the best scores, if there are groups; then the best experts of those
/// shares      scores of the chosen, over their sum if `norm`, times `scale`
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Routing {
    /// Whether each score is `1 / (1 + e^-x)` by itself; else all are a softmax.
    pub sigmoid: bool,
    /// Groups of experts that are chosen first; 1 or fewer for none. A group's score is its largest, of sigmoids the sum
    /// of its two largest.
    pub groups: usize,
    /// How many groups.
    pub groups_used: usize,
    /// Whether the shares of the chosen are made to add up to one.
    pub norm: bool,
    /// What shares are multiplied with.
    pub scale: f32,
}

impl Routing {
    /// From `expert_gating_func`, `expert_group_count`, `expert_group_used_count`, `expert_weights_norm` and
    /// `expert_weights_scale`; what is not said is a softmax without groups.
    fn new(numbers: &Numbers) -> Result<Routing> {
        let count = |key: &str| numbers.u64(key).and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        let sigmoid = match numbers.u64("expert_gating_func") {
            None | Some(0 | 1) => false,
            Some(2) => true,
            Some(other) => {
                let what =
                    format!("{} {other} is not known here", numbers.key("expert_gating_func"));
                return Err(Error::unsupported(what, "known are 1, softmax, and 2, sigmoid"));
            }
        };
        Ok(Routing {
            sigmoid,
            groups: count("expert_group_count"),
            groups_used: count("expert_group_used_count"),
            norm: numbers.bool("expert_weights_norm").unwrap_or(false),
            scale: numbers.factor("expert_weights_scale").unwrap_or(1.0),
        })
    }
}

/// How attention learns of positions.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Position {
    /// Queries and keys turn.
    Rotary {
        /// By which angles.
        rope: Rope,
        /// By which in layers with a window, where those differ.
        near: Option<Rope>,
        /// By which in contexts of more tokens than these, where those differ.
        far: Option<(usize, Rope)>,
        /// Which numbers together.
        pairs: Pairs,
    },
    /// Scores fall with the distance, by a slope for each head.
    Alibi(Vec<f32>),
    /// By what the stream holds.
    Stream,
    /// There is no attention, but a state.
    Recurrent,
}

impl Position {
    /// The same with the angle of each pair divided by its factor; what does not turn stays.
    ///
    /// # Errors
    /// Where there is not one factor for each pair.
    pub fn divided(&self, factors: &[f32]) -> Result<Position> {
        Ok(match self.clone() {
            Position::Rotary { rope, near, far, pairs } => {
                Position::Rotary { rope: rope.divided(factors)?, near, far, pairs }
            }
            other => other,
        })
    }

    /// The same with two lists of factors: for contexts of at most `trained` tokens, and for longer ones.
    ///
    /// # Errors
    /// Where there is not one factor for each pair.
    pub fn reaching(&self, short: &[f32], long: &[f32], trained: usize) -> Result<Position> {
        Ok(match self.clone() {
            Position::Rotary { rope, near, pairs, .. } => {
                let far = Some((trained, rope.clone().divided(long)?));
                Position::Rotary { rope: rope.divided(short)?, near, far, pairs }
            }
            other => other,
        })
    }
}

impl Config {
    /// The sizes and choices of `model`, which is of `family`; `rows` counts the rows of a role's tensor.
    ///
    /// # Errors
    /// Where the family has no arithmetic, or a size is missing or does not fit others.
    pub fn new(
        model: &Model,
        family: &'static Family,
        rows: impl Fn(&str) -> Option<u64>,
    ) -> Result<Config> {
        let Some(choices) = &family.arithmetic else { return Err(not_run(&family.family.title)) };
        // What no file says is measured or assumed first, so that all below asks one kind of source: GGUF's keys.
        let hyper = Hyper::within(family, model, &Stated::default());
        let mut notes: Notes = hyper.assumed().iter().collect();
        let mut metadata = model.metadata.clone();
        hyper.amend(&mut metadata);
        let numbers = Numbers::of(family, &metadata);
        let width = numbers.size("embedding_length", 1 << 20)?;
        let attends = choices.position != arithmetic::Position::Recurrent;
        let heads = match attends {
            true => numbers.size("attention.head_count", 1 << 16)?,
            false => 1,
        };
        let head = match numbers.u64("attention.key_length") {
            Some(_) => numbers.size("attention.key_length", 1 << 16)?,
            None => width / heads,
        };
        // Files before grouped heads have no key for them; their key matrix has `kv_heads * head` rows all the same.
        let measured =
            rows("key").filter(|_| attends).and_then(|rows| rows.checked_div(head as u64));
        let kv_heads = numbers.u64("attention.head_count_kv").or(measured).unwrap_or(heads as u64);
        let kv_heads = usize::try_from(kv_heads).unwrap_or(0);
        if head == 0 || kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            let what = format!("{heads} heads of {head} over {kv_heads} key heads do not fit");
            return Err(Error::unsupported(what, Call::Verify.to("check the file")));
        }
        let vocab = rows("token_embedding").and_then(|rows| rows.try_into().ok()).unwrap_or(0);
        // Chunks have their length in the family, windows in the file; a window of 0 is none.
        let window = match choices.windows {
            Windows::Chunks { tokens, .. } => Some(tokens as u64),
            _ => numbers.u64("attention.sliding_window").filter(|window| *window > 0),
        };
        if let (Windows::None, Some(window)) = (choices.windows, window) {
            notes.push(format!(
                "attention reaches over the whole context; the model was made for the last {window} \
                 tokens"
            ));
        }
        let layers = numbers.size("block_count", 1 << 12)?;
        let experts_used = match numbers.u64("expert_count").unwrap_or(0) {
            0 => 0,
            count => numbers.u64("expert_used_count").unwrap_or(2).min(count),
        };
        Ok(Config {
            width,
            layers,
            heads,
            kv_heads,
            head,
            vocab,
            context: numbers.size("context_length", 1 << 32)?,
            norm: choices.norm,
            epsilon: epsilon(&numbers, choices.norm)?,
            embedding_scale: match choices.embedding {
                Embedding::Plain => numbers.factor("embedding_scale").unwrap_or(1.0),
                // Gemma: vectors are stored as they were trained, and grow to the size of the stream here.
                Embedding::Scaled => (width as f32).sqrt(),
            },
            attention_scale: match numbers.factor("attention.scale") {
                Some(scale) => scale,
                // Gemma's models of 27 billion weights, told by their layers: 1 / sqrt(width / heads), though heads are
                // of another length.
                None if choices.attention.scale_of_width == Some(layers) => {
                    1.0 / ((width / heads) as f32).sqrt()
                }
                // Of a whole key, its still and its turning part; yarn stretches queries and keys, so it counts twice.
                None if choices.attention.latent => {
                    if numbers.u64("attention.key_length_mla").is_none() {
                        let what =
                            "keys and values are one matrix, as files had them until 15 April 2025";
                        return Err(Error::unsupported(what, Call::Upgrade.to("take them apart")));
                    }
                    let whole = numbers.size("attention.key_length_mla", 1 << 16)?;
                    let stretch = numbers.stretch_of_scores();
                    (stretch * stretch / (whole as f64).sqrt()) as f32
                }
                None => 1.0 / (head as f32).sqrt(),
            },
            residual_scale: numbers.factor("residual_scale").unwrap_or(1.0),
            logit_scale: match (choices.logits, numbers.factor("logit_scale")) {
                (Logits::Multiplied, Some(scale)) => scale,
                (Logits::Divided, Some(scale)) => 1.0 / scale,
                _ => 1.0,
            },
            attention_cap: numbers.factor("attn_logit_softcapping").unwrap_or(f32::INFINITY),
            logit_cap: numbers.factor("final_logit_softcapping").unwrap_or(f32::INFINITY),
            unturned: choices.unturned,
            growth: choices.growth,
            even: choices
                .attention
                .even_unless_experts
                .is_some_and(|experts| numbers.u64("expert_count") != Some(experts)),
            windows: if window.is_some() { choices.windows } else { Windows::None },
            window: window.and_then(|window| window.try_into().ok()).unwrap_or(usize::MAX),
            parallel: match &choices.residual {
                Residual::Sequential | Residual::AfterNorm => false,
                Residual::Parallel => true,
                Residual::ParallelIf(key) => {
                    numbers.bool(key).ok_or_else(|| numbers.missing(key))?
                }
                // StableLM: a layer without a second norm has both parts read what the first made.
                Residual::ParallelIfOneNorm => rows("ffn_norm").is_none(),
            },
            norm_after: choices.residual == Residual::AfterNorm,
            whole_text: choices.attention.whole_text,
            joined: match choices.attention.qkv {
                Qkv::Separate => false,
                Qkv::Joined => true,
                Qkv::Either => rows("query_key_value").is_some(),
            },
            clamp: clamp(&numbers, choices),
            // Baichuan: the 13 billion, of 40 layers, have slopes where the others turn.
            position: match choices.slopes.filter(|slopes| slopes.layers == layers) {
                Some(slopes) => Position::Alibi(self::slopes(heads, slopes.most)),
                None => position(&numbers, choices, heads, head)?,
            },
            mlp: choices.mlp.kind,
            activation: choices.mlp.activation,
            shares: choices.mlp.shares,
            experts_used: usize::try_from(experts_used).unwrap_or(0),
            routing: Routing::new(&numbers)?,
            latent: choices.attention.latent,
            notes,
        })
    }
}

/// The error for a model whose arithmetic is not described.
pub fn not_run(name: &str) -> Error {
    Error::unsupported(
        format!("the runner does not compute {name}"),
        "inspect, verify and compare work without running",
    )
}

/// The number under the root of norms: no default, for models with a wrong one run, and say something else.
fn epsilon(numbers: &Numbers, norm: Norm) -> Result<f32> {
    let key = norm.epsilon_key();
    numbers.f64(key).map(|epsilon| epsilon as f32).ok_or_else(|| numbers.missing(key))
}

/// The bound of queries, keys and values, by the key that the family names: MPT's `attention.clamp_kqv`.
fn clamp(numbers: &Numbers, choices: &Arithmetic) -> f32 {
    let clamp = choices.attention.clamp.as_ref().and_then(|key| numbers.f64(key));
    clamp.filter(|clamp| *clamp > 0.0).map_or(f32::INFINITY, |clamp| clamp as f32)
}

/// How attention learns of positions, as the family says; an ALiBi of strength 0 is none.
fn position(
    numbers: &Numbers,
    choices: &Arithmetic,
    heads: usize,
    head: usize,
) -> Result<Position> {
    let between = choices.yarn_between;
    Ok(match choices.position {
        arithmetic::Position::Rotary(pairs) => Position::Rotary {
            rope: Rope::new(numbers, head, between)?,
            near: Rope::near(numbers, head)?,
            far: None,
            pairs,
        },
        arithmetic::Position::Learned => Position::Stream,
        arithmetic::Position::Recurrent => Position::Recurrent,
        arithmetic::Position::Alibi { most } => {
            match numbers.f64("attention.max_alibi_bias").unwrap_or(f64::from(most)) {
                most if most > 0.0 => Position::Alibi(slopes(heads, most as f32)),
                _ => Position::Stream,
            }
        }
    })
}
