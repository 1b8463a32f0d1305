//! Which type each tensor becomes: the mixtures of llama-quantize, as a function of names and shapes.
//!
//! The rules are those of llama.cpp's `llama-quant.cpp` (`tensor_allows_quantization`,
//! `llama_tensor_get_type`, `tensor_type_fallback`, `tensor_requires_imatrix`) of July 2026. They
//! count tensors as they come, so the order of the tensors is part of them: [`file_order`] is the
//! one in which llama-quantize goes through a file, and the order of its output.
//!
//! The first line that holds decides:
//!
//! ```text
//! kept: by name, one row only, --leave-output-tensor      its present type
//! --output-tensor-type, --token-embedding-type            that type, whatever the rows are
//! the base type is a plain float                          the base type
//! --tensor-type PATTERN=TYPE, the first that matches      that type  |
//! --pure                                                  the base   |  or what its rows allow ([`fallback`])
//! the mixture, by role, layer and counters ([`Mix`])      …          |
//! ```

use super::ftype::FileType;
use super::names::{Role, is_kept, role};
pub use super::names::{block_of, file_order};
use crate::{
    error::{Error, Result},
    model::{Array, Metadata},
    quant::{QuantType, encode::needs_importance},
    remedy::{Remedy, Setting},
};

/// A lower-case ggml type name: `q4_k`.
pub type TypeName = &'static str;

/// The type that a person names, in upper or lower case.
///
/// # Errors
/// What is wrong with the word.
pub fn type_name(word: &str) -> Result<TypeName, String> {
    let lower = word.to_ascii_lowercase();
    QuantType::today(&lower).map(QuantType::name).ok_or_else(|| format!("{word} is no tensor type"))
}

/// The same of a type that is made without imatrix data.
///
/// # Errors
/// What is wrong with the word, or with the type.
pub fn fallback_type(word: &str) -> Result<TypeName, String> {
    match type_name(word)? {
        needy if needs_importance(needy) => Err(format!("{word} needs imatrix data itself")),
        name => Ok(name),
    }
}

/// A pattern of tensor names. llama-quantize has those of ECMAScript, with look-ahead and
/// back-references.
pub type Pattern = fancy_regex::Regex;

/// Whether a pattern matches somewhere in `name`; one that gives up does not.
pub fn matches(pattern: &Pattern, name: &str) -> bool {
    pattern.is_match(name).unwrap_or(false)
}

/// What the rules look at in a model besides its tensors.
///
/// Numbers that differ from block to block are taken of the first, as llama-quantize takes them.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    /// `general.architecture`.
    pub architecture: String,
    /// Blocks, with those that predict further tokens.
    pub layers: u64,
    /// Blocks that only predict further tokens.
    pub extra_layers: u64,
    /// Query heads of the first block.
    pub heads: u64,
    /// Key and value heads of the first block.
    pub kv_heads: u64,
    /// Experts of a block; 0 where there is no routing.
    pub experts: u64,
}

impl Shape {
    /// What these metadata say of it.
    pub fn of(metadata: &Metadata) -> Shape {
        let word = |name: &str| {
            let value = metadata.own(name)?;
            value.as_array().map_or(Some(value.clone()), Array::first)?.as_u64()
        };
        let heads = word("attention.head_count").unwrap_or(0);
        Shape {
            architecture: metadata.architecture().to_owned(),
            layers: word("block_count").unwrap_or(0),
            extra_layers: word("nextn_predict_layers").unwrap_or(0),
            heads,
            kv_heads: word("attention.head_count_kv").unwrap_or(heads),
            experts: word("expert_count").unwrap_or(0),
        }
    }
}

/// A tensor as the rules see it.
#[derive(Clone, Copy, Debug)]
pub struct Weight<'a> {
    /// Its name in the output.
    pub name: &'a str,
    /// Its shape, outermost first.
    pub shape: &'a [u64],
    /// Its present type.
    pub present: TypeName,
}

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The mixture.
    pub file_type: FileType,
    /// Every tensor in the base type, no mixture.
    pub pure: bool,
    /// `output.weight` stays as it is.
    pub leave_output: bool,
    /// The type of `output.weight`.
    pub output: Option<TypeName>,
    /// The type of the token embedding.
    pub embedding: Option<TypeName>,
    /// Types by pattern of the tensor's name; the first that matches decides.
    pub overrides: Vec<(Pattern, TypeName)>,
    /// Whether an importance matrix is at hand.
    pub importance: bool,
}

impl Rules {
    /// Nothing but a mixture.
    pub fn of(file_type: FileType) -> Rules {
        Rules {
            file_type,
            pure: false,
            leave_output: false,
            output: None,
            embedding: None,
            overrides: Vec::new(),
            importance: false,
        }
    }
}

/// The decision for one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The type that it becomes; its present one where it is copied.
    pub becomes: TypeName,
    /// The type that the rules wanted where the row length did not allow it.
    pub instead_of: Option<TypeName>,
    /// Whether nothing useful can be made without its imatrix data.
    pub needs_importance: bool,
}

/// Weights of one block of a type; 1 for plain numbers.
pub fn block_len(name: &str) -> u64 {
    QuantType::today(name).map_or(1, |q| q.layout().elements as u64)
}

/// Whether ggml calls this type quantized.
pub fn is_quantized(name: &str) -> bool {
    block_len(name) > 1
}

/// Chooses a type for every tensor, in the order given.
///
/// # Errors
/// Where a row length fits neither the type nor anything that could stand in for it, and where a
/// model with experts has feed-forward tensors outside its blocks, as llama-quantize has it.
///
/// Two passes: what the whole model is like (how many tensors of values, whether there is an output) has to be known
/// before the first type is chosen.
pub fn choose(shape: &Shape, tensors: &[Weight], rules: &Rules) -> Result<Vec<Choice>> {
    let mut mix = Mix {
        shape,
        rules,
        file: rules.file_type.rule_name(),
        values: tensors.iter().filter(|t| role(t.name) == Role::Value).count() as u64,
        tied: !tensors.iter().any(|t| role(t.name) == Role::Output),
        value: 0,
        down: 0,
        gate: 0,
        up: 0,
    };
    tensors.iter().map(|t| mix.choose(t)).collect()
}

/// Whether a tensor is quantized at all: matrices are, but for the small and the delicate ones.
pub fn may_quantize(shape: &Shape, t: &Weight, rules: &Rules) -> bool {
    let rows: u64 = t.shape.iter().rev().skip(1).product();
    let kept =
        is_kept(t.name, &shape.architecture) || t.name == "output.weight" && rules.leave_output;
    rows > 1 && t.name.ends_with("weight") && !rules.file_type.copy && !kept
}

/// The mixture at work: what it has seen so far decides what comes next.
///
/// The original counts tensors with the same role, whatever layer they are in. Where some layers lack one the counters
/// lag behind the layers; such a file gets the types that llama-quantize gives it, not those that the layers suggest.
struct Mix<'a> {
    shape: &'a Shape,
    rules: &'a Rules,
    file: &'static str,
    /// Tensors with the role of values, and how many of each role have been seen.
    values: u64,
    value: u64,
    down: u64,
    gate: u64,
    up: u64,
    /// Whether the token embedding also serves as the output.
    tied: bool,
}

/// The layers that the `_M` mixtures give more bits: the first and the last eighth and every third.
///
/// ```text
/// layers 32    first eighth 0 1 2 3    between, every third: 6 9 12 15 18 21 24 27    last eighth 28 29 30 31
/// ```
fn use_more_bits(layer: u64, layers: u64) -> bool {
    layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2
}

impl Mix<'_> {
    /// The type of the next tensor; counters go up where the mixture is asked.
    fn choose(&mut self, t: &Weight) -> Result<Choice> {
        if !may_quantize(self.shape, t, self.rules) {
            return Ok(self.choice(t, t.present, None));
        }
        let (rules, role) = (self.rules, role(t.name));
        // A pattern goes before the mixture: a tensor that a person gives a type is not counted.
        let named = rules.overrides.iter().find(|(p, _)| matches(p, t.name)).map(|(_, q)| *q);
        match role {
            Role::Embedding if t.name == "token_embd.weight" || named.is_none() => {
                if let Some(asked) = rules.embedding {
                    return Ok(self.choice(t, asked, None));
                }
            }
            Role::Output => {
                if let Some(asked) = rules.output {
                    return Ok(self.choice(t, asked, None));
                }
            }
            _ => {}
        }
        let base = rules.file_type.base;
        if !is_quantized(base) {
            return Ok(self.choice(t, base, None));
        }
        let wanted = match named {
            Some(named) => named,
            None if rules.pure => base,
            None => self.mixed(t, role, base)?,
        };
        let becomes = fallback(t, wanted)?;
        Ok(self.choice(t, becomes, (becomes != wanted).then_some(wanted)))
    }

    /// A type as a decision. The embedding and the output are made without imatrix data too: llama-imatrix gathers none
    /// of either by default.
    fn choice(&self, t: &Weight, becomes: TypeName, instead_of: Option<TypeName>) -> Choice {
        let spared = matches!(role(t.name), Role::Embedding | Role::Output);
        let needs = needs_importance(becomes) || becomes == "q2_k" && self.file == "Q2_K_S";
        Choice { becomes, instead_of, needs_importance: needs && !spared }
    }

    /// Query heads that share one head of keys and values.
    /// Their matrices are smaller by that factor, so bits are cheap there and an error goes into all of these heads.
    fn sharing(&self) -> u64 {
        self.shape.heads.checked_div(self.shape.kv_heads).unwrap_or(0)
    }

    /// Whether llama.cpp calls the model "70B", which favours its values.
    /// By the number of layers: 80 in LLaMA 2 70B, Qwen 2 72B and their like.
    fn is_70b(&self) -> bool {
        let Shape { architecture, heads, kv_heads, experts, .. } = self.shape;
        let layers = self.shape.layers.saturating_sub(self.shape.extra_layers);
        match architecture.as_str() {
            "llama" | "llama-embed" => layers == 80 && heads != kv_heads && *experts != 8,
            "qwen2" | "deci" | "olmo" => layers == 80,
            "jais2" => layers == 68,
            _ => false,
        }
    }

    /// The layer that the counters say, or with experts the one that the name says.
    ///
    /// Files of experts one by one have several such tensors a layer, and not always in order, so a counter says
    /// nothing.
    fn layer(&self, counted: u64, name: &str) -> Result<u64> {
        if self.shape.experts <= 1 {
            return Ok(counted);
        }
        match block_of(name) {
            Some(layer) if layer < self.shape.layers => Ok(layer),
            _ => Err(Error::unsupported(
                format!("{name}: belongs to none of the model's {} blocks", self.shape.layers),
                Setting::Pure
                    .to("give every tensor the same type")
                    .or(Setting::TensorType.to("give its type")),
            )),
        }
    }

    /// What the mixture gives a tensor, by what it does.
    ///
    /// ```text
    /// Q4_K_M, 32 layers     output q6_k    values and down: q6_k in 16 layers, q4_k in 16    the rest q4_k
    /// IQ2_XXS, 32 layers    output q5_k    embedding q2_k    values q2_k    down: q2_k in layers 0 to 3
    /// ```
    fn mixed(&mut self, t: &Weight, role: Role, base: TypeName) -> Result<TypeName> {
        let glm5_kept = ["attn_q_a", "attn_q_b", "nextn.eh_proj"];
        if self.shape.architecture == "glm5-next" && glm5_kept.iter().any(|p| t.name.contains(p)) {
            return Ok("q8_0");
        }
        let few_bits =
            matches!(self.file, "IQ1_S" | "IQ1_M" | "IQ2_XXS" | "IQ2_XS" | "IQ2_S" | "IQ2_M");
        match role {
            Role::Output => Ok(self.output(t, base)),
            // An embedding that is the output too decides on every logit, and gets the output's bits.
            Role::Embedding if self.tied => Ok(self.output(t, base)),
            _ if self.file == "MXFP4_MOE" => Ok(self.mxfp4(t, role)),
            Role::Embedding => Ok(self.embedding(base)),
            _ if few_bits => Ok(self.few_bits(role, base)),
            Role::Value => Ok(self.value(base)),
            Role::Key | Role::Query => Ok(match self.file {
                _ if role == Role::Key && self.shape.experts == 8 => "q8_0",
                "IQ3_XS" => "iq3_xxs",
                "IQ3_XXS" => "iq2_s",
                _ => base,
            }),
            Role::Down => self.down(t.name, base),
            Role::AttentionOut => Ok(self.attention_out(base)),
            Role::Gate | Role::Up => {
                let seen = if role == Role::Gate { &mut self.gate } else { &mut self.up };
                let counted = *seen;
                *seen += 1;
                let (layer, layers) = (self.layer(counted, t.name)?, self.shape.layers);
                let middle = layer >= layers / 8 && layer < 7 * layers / 8;
                Ok(if self.file == "IQ3_XS" && middle { "iq3_xxs" } else { base })
            }
            Role::Other => Ok(base),
        }
    }

    /// The output matrix, or the embedding that serves as one. Q8_0's blocks of 32 fit rows that those of 256 do not.
    fn output(&self, t: &Weight, base: TypeName) -> TypeName {
        // Asked of the base type, not of the one that is given: llama-quantize asks so.
        let fits = t.shape.last().is_some_and(|n| n.is_multiple_of(block_len(base)));
        match self.file {
            _ if self.rules.output.is_some() => self.rules.output.unwrap_or(base),
            "MXFP4_MOE" => "q8_0",
            _ if self.shape.architecture == "falcon" || !fits => "q8_0",
            "IQ1_S" | "IQ1_M" | "IQ2_XXS" | "IQ2_XS" | "IQ2_S" | "IQ2_M" | "IQ3_XXS" => "q5_k",
            _ if base == "q8_0" => "q8_0",
            _ => "q6_k",
        }
    }

    /// Stacks of experts become MXFP4, everything else Q8_0.
    fn mxfp4(&self, t: &Weight, role: Role) -> TypeName {
        let stacked = t.shape.iter().rev().nth(2).is_some_and(|n| *n > 1);
        let feed_forward = matches!(role, Role::Up | Role::Gate | Role::Down);
        let expert = self.shape.architecture != "bailingmoe3" || feed_forward;
        if stacked && expert { "mxfp4" } else { "q8_0" }
    }

    /// The token embedding where the output is a matrix of its own: never less than two bits.
    fn embedding(&self, base: TypeName) -> TypeName {
        match self.file {
            "IQ2_XXS" | "IQ2_XS" | "IQ1_S" | "IQ1_M" => "q2_k",
            "IQ2_S" | "IQ2_M" | "IQ3_XXS" => "iq3_s",
            "TQ1_0" | "TQ2_0" | "Q2_0" => "q4_k",
            _ => base,
        }
    }

    /// The mixtures of less than three bits.
    fn few_bits(&mut self, role: Role, base: TypeName) -> TypeName {
        let better = if matches!(self.file, "IQ2_S" | "IQ2_M") { "iq3_s" } else { "q2_k" };
        let experts = self.shape.experts;
        match role {
            Role::Value if self.sharing() >= 4 || experts >= 4 => "q4_k",
            Role::Value => better,
            Role::Key if experts == 8 => "q4_k",
            Role::Down => {
                self.down += 1;
                if self.down - 1 < self.shape.layers / 8 { better } else { base }
            }
            Role::AttentionOut if experts == 8 => "q5_k",
            Role::AttentionOut => match self.file {
                "IQ1_S" | "IQ1_M" => "iq2_xxs",
                "IQ2_S" | "IQ2_M" => "iq3_s",
                _ => base,
            },
            _ => base,
        }
    }

    /// Values, counted as they come: by the original's counter, not by their layer.
    fn value(&mut self, base: TypeName) -> TypeName {
        let (i, shared) = (self.value, self.sharing() >= 4);
        self.value += 1;
        let wanted = match self.file {
            "Q2_K" => {
                if shared {
                    "q4_k"
                } else {
                    "q3_k"
                }
            }
            "Q2_K_S" | "IQ3_XXS" | "IQ3_XS" | "IQ3_S" if shared => "q4_k",
            "IQ3_XXS" => {
                if self.rules.importance {
                    "iq3_xxs"
                } else {
                    "iq3_s"
                }
            }
            "IQ3_M" => "q4_k",
            "Q3_K_M" => {
                if i < 2 {
                    "q5_k"
                } else {
                    "q4_k"
                }
            }
            "Q3_K_L" => "q5_k",
            "IQ4_NL" | "IQ4_XS" if shared => "q5_k",
            "Q4_K_M" | "Q5_K_M" if use_more_bits(i, self.values) => "q6_k",
            "Q4_K_S" if i < 4 => "q5_k",
            _ => base,
        };
        match wanted {
            _ if self.shape.experts == 8 => "q8_0",
            // Eight query heads share these small matrices, so more bits cost next to nothing.
            "q3_k" | "q4_k" if self.is_70b() => "q5_k",
            _ => wanted,
        }
    }

    /// The way out of the feed-forward part: in most mixtures the first layers get more bits.
    fn down(&mut self, name: &str, base: TypeName) -> Result<TypeName> {
        let (i, n) = (self.layer(self.down, name)?, self.shape.layers);
        self.down += 1;
        let falcon = self.shape.architecture == "falcon";
        let blind = !self.rules.importance;
        let first_eighth = i < n / 8;
        Ok(match self.file {
            "Q2_K" => "q3_k",
            "Q2_K_S" if first_eighth => "q4_k",
            "IQ3_XXS" if blind => {
                if first_eighth {
                    "q4_k"
                } else {
                    "q3_k"
                }
            }
            "Q3_K_M" if i < n / 16 => "q5_k",
            "Q3_K_M" => {
                if !falcon || use_more_bits(i, n) {
                    "q4_k"
                } else {
                    "q3_k"
                }
            }
            "IQ3_M" if first_eighth || self.shape.experts == 8 && use_more_bits(i, n) => "q4_k",
            "Q3_K_L" => {
                if falcon {
                    "q4_k"
                } else {
                    "q5_k"
                }
            }
            "Q4_K_M" if falcon && i < n / 16 => "q6_k",
            "Q4_K_M" if use_more_bits(i, n) => {
                if falcon {
                    "q5_k"
                } else {
                    "q6_k"
                }
            }
            "IQ4_NL" | "IQ4_XS" if first_eighth && blind => "q5_k",
            "Q5_K_M" if use_more_bits(i, n) => "q6_k",
            "Q4_K_S" if first_eighth && !falcon => "q5_k",
            // With imatrix data these two can go astray in the first layers; a minimum helps.
            "Q4_0" if first_eighth && !blind => "q4_1",
            "Q5_0" if first_eighth && !blind => "q5_1",
            _ => base,
        })
    }

    /// The way out of attention.
    fn attention_out(&self, base: TypeName) -> TypeName {
        match self.file {
            "Q3_K_L" if self.shape.architecture == "falcon" => "q4_k",
            _ if self.shape.architecture == "falcon" => base,
            "Q2_K" | "IQ3_XS" | "IQ3_XXS" | "Q3_K_S" | "Q3_K_M" | "IQ4_NL" | "Q4_K_S"
            | "Q4_K_M" | "IQ3_S" | "IQ3_M" | "IQ4_XS"
                if self.shape.experts == 8 =>
            {
                "q5_k"
            }
            _ if self.shape.experts == 8 => base,
            "Q2_K" => "q3_k",
            "IQ3_XXS" => "iq3_s",
            "Q3_K_M" | "IQ3_M" => "q4_k",
            "Q3_K_L" => "q5_k",
            _ => base,
        }
    }
}

/// The type that stands in where rows of `t` are no whole number of blocks of `wanted`.
///
/// Blocks of 256 give way to those of 32 with at least as many bits, these to F16: every row is whole numbers.
fn fallback(t: &Weight, wanted: TypeName) -> Result<TypeName> {
    let row = t.shape.last().copied().unwrap_or(1);
    let fits = |name| row.is_multiple_of(block_len(name));
    if fits(wanted) {
        return Ok(wanted);
    }
    let instead = match wanted {
        "iq1_s" | "iq1_m" | "iq2_xxs" | "iq2_xs" | "iq2_s" | "iq3_xxs" | "iq3_s" | "iq4_xs" => {
            "iq4_nl"
        }
        "q2_0" | "q2_k" | "q3_k" | "tq1_0" | "tq2_0" => "q4_0",
        "q4_k" => "q5_0",
        "q5_k" => "q5_1",
        "q6_k" => "q8_0",
        _ if block_len(wanted) <= 32 => "f16",
        _ => {
            return Err(Error::unsupported(
                format!(
                    "{}: rows of {row} weights are no whole number of {wanted} blocks of {}, and \
                     no type stands in for {wanted}",
                    t.name,
                    block_len(wanted)
                ),
                Remedy::from("choose another type")
                    .or(Setting::TensorType.to("choose one for this tensor")),
            ));
        }
    };
    Ok(if fits(instead) { instead } else { "f16" })
}
