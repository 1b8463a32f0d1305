//! A small model of a family that is described here: its description, its weights and its bytes.

use regguf::format::family::{self, Family};

use super::gguf::{self, Tensor, Value};
use super::golden::numbers;

/// What the family computes.
#[derive(Clone, Copy, Debug)]
pub struct Choices {
    pub norm: &'static str,
    pub residual: &'static str,
    pub joined: bool,
    pub position: &'static str,
    pub gated: bool,
    pub activation: &'static str,
    pub bias: bool,
    pub grouped: bool,
    pub tied: bool,
}

impl Default for Choices {
    fn default() -> Choices {
        Choices {
            norm: "rms",
            residual: "sequential",
            joined: false,
            position: "neighbours",
            gated: true,
            activation: "silu",
            bias: false,
            grouped: false,
            tied: false,
        }
    }
}

impl Choices {
    pub fn kv_heads(&self) -> usize {
        if self.grouped { 2 } else { HEADS }
    }

    /// Whether both parts of a layer see the same stream.
    pub fn parallel(&self) -> bool {
        !["sequential", "if_false"].contains(&self.residual)
    }
}

pub const WIDTH: usize = 24;
/// Not a power of two: the slopes of ALiBi are those of eight heads in part.
pub const HEADS: usize = 6;
pub const HEAD: usize = WIDTH / HEADS;
/// Rotated numbers of a head: not all.
pub const DIMS: usize = 2;
pub const BETWEEN: usize = 20;
pub const VOCAB: usize = 19;
pub const LAYERS: usize = 2;
pub const CONTEXT: usize = 16;
pub const EPSILON: f32 = 1e-3;
pub const BASE: f32 = 50.0;
pub const ALIBI: f32 = 4.0;
pub const CLAMP: f32 = 0.9;

/// A model.
pub struct Made {
    pub choices: Choices,
    pub tensors: Vec<Tensor>,
}

impl Made {
    pub fn new(choices: Choices) -> Made {
        let mut made = Made { choices, tensors: Vec::new() };
        let (q, kv) = (HEADS * HEAD, choices.kv_heads() * HEAD);
        made.add("embed", &[VOCAB, WIDTH]);
        if choices.position == "learned" {
            made.add("places", &[CONTEXT, WIDTH]);
        }
        made.add("embed_norm", &[WIDTH]);
        made.add("last_norm", &[WIDTH]);
        if !choices.tied {
            made.add("head", &[VOCAB, WIDTH]);
        }
        for n in 0..LAYERS {
            let mut add = |name: &str, shape: &[usize]| made.add(&format!("l{n}.{name}"), shape);
            add("norm", &[WIDTH]);
            if choices.residual != "parallel" {
                add("other_norm", &[WIDTH]);
            }
            if choices.joined {
                add("qkv", &[q + 2 * kv, WIDTH]);
            } else {
                add("q", &[q, WIDTH]);
                add("k", &[kv, WIDTH]);
                add("v", &[kv, WIDTH]);
            }
            add("back", &[WIDTH, q]);
            if choices.gated {
                add("gate", &[BETWEEN, WIDTH]);
            }
            add("up", &[BETWEEN, WIDTH]);
            add("down", &[WIDTH, BETWEEN]);
        }
        made
    }

    /// A tensor of numbers that its name decides, and its bias.
    fn add(&mut self, name: &str, shape: &[usize]) {
        let around = if shape.len() == 1 { 1.0 } else { 0.0 };
        let count = shape.iter().product();
        let weight = numbers(&format!("{name}.weight"), count, around);
        self.tensors.push((format!("{name}.weight"), shape.to_vec(), weight));
        if self.choices.bias && !["embed", "places"].contains(&name) {
            let bias = numbers(&format!("{name}.bias"), shape[0], 0.0);
            self.tensors.push((format!("{name}.bias"), vec![shape[0]], bias));
        }
    }

    /// The numbers of a tensor; none where the model lacks it.
    pub fn get(&self, name: &str) -> Option<&[f32]> {
        self.tensors.iter().find(|(found, ..)| found == name).map(|(_, _, numbers)| &numbers[..])
    }

    /// The description: all that the project is told of the family.
    pub fn description(&self) -> String {
        let Choices { norm, residual, joined, position, gated, activation, .. } = self.choices;
        let residual = match residual {
            "sequential" => "\"sequential\"",
            "if_true" | "if_false" => "{ parallel_if = \"side_by_side\" }",
            _ => "\"parallel\"",
        };
        let position = match position {
            "learned" => "\"learned\"".to_owned(),
            "alibi" => format!("{{ alibi = {{ most = {ALIBI:.1} }} }}"),
            pairs => format!("{{ rotary = \"{pairs}\" }}"),
        };
        let qkv = if joined { "joined" } else { "separate" };
        let kind = if gated { "gated" } else { "plain" };
        let mut text = format!(
            "[family]\nname = \"new\"\ntitle = \"New\"\ngguf = \"new\"\n\n[sizes]\n\
             n_embd = {{ key = \"embedding_length\" }}\n\n[arithmetic]\nnorm = \"{norm}\"\n\
             residual = {residual}\nattention = {{ qkv = \"{qkv}\", clamp = \"bound\" }}\n\
             position = {position}\nmlp = {{ kind = \"{kind}\", activation = \"{activation}\" }}\n\n[roles]\n"
        );
        let roles = [
            ("token_embedding", "embed"),
            ("position_embedding", "places"),
            ("embedding_norm", "embed_norm"),
            ("final_norm", "last_norm"),
            ("output", "head"),
            ("attention_norm", "l{n}.norm"),
            ("ffn_norm", "l{n}.other_norm"),
            ("query_key_value", "l{n}.qkv"),
            ("query", "l{n}.q"),
            ("key", "l{n}.k"),
            ("value", "l{n}.v"),
            ("attention_out", "l{n}.back"),
            ("gate", "l{n}.gate"),
            ("up", "l{n}.up"),
            ("down", "l{n}.down"),
        ];
        for (role, name) in roles {
            let there = self.get(&format!("{}.weight", name.replace("{n}", "0"))).is_some();
            if there {
                text += &format!(
                    "{role} = {{ old = \"{name}.weight\", gguf = \"{name}.weight\", hf = \"{name}.weight\", \
                     shape = [], bias = \"optional\" }}\n"
                );
            }
        }
        text
    }

    pub fn family(&self) -> &'static Family {
        Box::leak(Box::new(family::parse("new", &self.description()).unwrap()))
    }

    /// The bytes of its file.
    pub fn gguf(&self) -> Vec<u8> {
        let key = |key: &str, value: Value| (format!("new.{key}"), value);
        let size = |name: &str, size: usize| key(name, Value::Size(size as u32));
        let keys = [
            ("general.architecture".to_owned(), Value::Text("new".to_owned())),
            size("embedding_length", WIDTH),
            size("attention.head_count", HEADS),
            size("attention.head_count_kv", self.choices.kv_heads()),
            size("block_count", LAYERS),
            size("context_length", CONTEXT),
            size("rope.dimension_count", DIMS),
            key("attention.layer_norm_epsilon", Value::Number(EPSILON)),
            key("attention.layer_norm_rms_epsilon", Value::Number(EPSILON)),
            key("rope.freq_base", Value::Number(BASE)),
            key("bound", Value::Number(CLAMP)),
            key("side_by_side", Value::Flag(self.choices.residual == "if_true")),
        ];
        gguf::bytes(&keys, &self.tensors)
    }
}
